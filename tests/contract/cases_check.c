/* The state of checks: TTL updates, what expires, maintenance. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

static void enroll_ttl(trial *t, const char *ttl)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'%s'}}", t->name, ttl);
    health_when(t, "0/Checks/1/Status", "critical");
}

static reply *update(trial *t, const char *body)
{
    return put(t, body, "/v1/agent/check/update/service:%s", t->name);
}

static void check_update(trial *t)
{
    enroll_ttl(t, "60s");
    reply *r = update(t, "{'Status':'passing','Output':'all is well'}");
    STATUS(r, 200);
    BODY(r, "%s", "");
    AT(health_when(t, "0/Checks/1/Status", "passing"), "0/Checks/1/Output", "all is well");
    STATUS(update(t, "{'Status':'warning','Output':'hm'}"), 200);
    AT(health_when(t, "0/Checks/1/Status", "warning"), "0/Checks/1/Output", "hm");
    STATUS(update(t, "{'Status':'critical'}"), 200);
    AT(health_when(t, "0/Checks/1/Status", "critical"), "0/Checks/1/Output", "");
    STATUS(update(t, "{'status':'passing'}"), 200);
    health_when(t, "0/Checks/1/Status", "passing");
}

static void check_update_refused(trial *t)
{
    static const char *const bodies[][2] = {
        { "{'Status':'bogus'}", "Invalid check status: 'bogus'" },
        { "{'Status':''}", "Invalid check status: ''" },
        { "{}", "Invalid check status: ''" },
        { "{'Status':'passing','X':1}", "Request decode failed: json: unknown field \"X\"" },
        { "{", "Request decode failed: unexpected EOF" },
        { "", "Request decode failed: EOF" }
    };
    enroll_ttl(t, "60s");
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        reply *r = update(t, bodies[i][0]);
        STATUS(r, 400);
        BODY(r, "%s", bodies[i][1]);
    }
}

/* A body is looked at before the check it is for. */
static void check_unknown(trial *t)
{
    static const char *const verbs[] = { "update", "pass", "warn", "fail" };
    for (size_t i = 0; i < 4; i++) {
        reply *r = put(t, i == 0 ? "{'Status':'passing'}" : NULL, "/v1/agent/check/%s/%s", verbs[i],
                       t->name);
        STATUS(r, PER(t, 500, 404));
        if (t->is_new) {
            BODY(r, "%s", no_such_check(t, t->name));
        } else {
            BODY(r, "CheckID \"%s\" does not have associated TTL", t->name);
        }
    }
    reply *r = put(t, "{'Status':'bogus'}", "/v1/agent/check/update/%s", t->name);
    STATUS(r, 400);
    r = put(t, "{'Status':'passing'}", "/v1/agent/check/update/");
    STATUS(r, PER(t, 500, 404));
}

static void check_not_ttl(trial *t)
{
    static const char *const verbs[] = { "update", "pass", "warn", "fail" };
    enroll(t, "{'Name':'%s','Check':{'TCP':'127.0.0.1:1','Interval':'60s'}}", t->name);
    for (size_t i = 0; i < 4; i++) {
        reply *r = put(t, i == 0 ? "{'Status':'passing'}" : NULL, "/v1/agent/check/%s/service:%s",
                       verbs[i], t->name);
        STATUS(r, 500);
        BODY(r, "CheckID \"service:%s\" does not have associated TTL", t->name);
    }
}

static void check_verbs(trial *t)
{
    static const char *const verbs[][2] = {
        { "pass", "passing" }, { "warn", "warning" }, { "fail", "critical" }
    };
    enroll_ttl(t, "60s");
    for (size_t i = 0; i < 3; i++) {
        reply *r = put(t, NULL, "/v1/agent/check/%s/service:%s?note=a%%20%%26+b", verbs[i][0],
                       t->name);
        STATUS(r, 200);
        BODY(r, "%s", "");
        AT(health_when(t, "0/Checks/1/Status", verbs[i][1]), "0/Checks/1/Output", "a & b");
        r = get(t, "/v1/agent/check/%s/service:%s", verbs[i][0], t->name);
        STATUS(r, 405);
        FIELD(r, "Allow", "OPTIONS,PUT");
    }
    STATUS(beat(t, "pass"), 200);
    AT(health_when(t, "0/Checks/1/Status", "passing"), "0/Checks/1/Output", "");
}

static void check_output_is_cut(trial *t)
{
    char body[6000];
    size_t len = (size_t)snprintf(body, sizeof body, "{'Status':'passing','Output':'");
    memset(body + len, 'x', 5000);
    snprintf(body + len + 5000, sizeof body - len - 5000, "'}");
    enroll_ttl(t, "60s");
    STATUS(update(t, body), 200);
    reply *r = health_when(t, "0/Checks/1/Status", "passing");
    const value *output = value_at(r->json, "0/Checks/1/Output");
    EXPECT(t, output->kind == VALUE_STRING && strlen(value_text(output)) < 4400);
    EXPECT(t, output->kind == VALUE_STRING && strspn(value_text(output), "x") == 4096);
}

static void check_ttl_expires(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'400ms'}}", t->name);
    uint64_t passed_ms = wire_now_ms();
    STATUS(put(t, NULL, "/v1/agent/check/pass/service:%s?note=was%%20fine", t->name), 200);
    reply *r = health_when(t, "0/Checks/1/Status", "passing");
    r = begin(t, "/v1/health/service/%s?index=%llu&wait=5s", t->name,
              (unsigned long long)index_of(r));
    finish(r);
    AT(r, "0/Checks/1/Status", "critical");
    AT(r, "0/Checks/1/Output", "TTL expired (last output before timeout follows): was fine");
    EXPECT(t, r->answer.at_ms - passed_ms >= 390 && r->answer.at_ms - passed_ms < 4500);
}

static void check_beats_keep_alive(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'600ms'}}", t->name);
    STATUS(beat(t, "pass"), 200);
    reply *r = health_when(t, "0/Checks/1/Status", "passing");
    r = begin(t, "/v1/health/service/%s?index=%llu&wait=5s", t->name,
              (unsigned long long)index_of(r));
    for (int i = 0; i < 4; i++) {
        EXPECT(t, is_blocked(r, 200));
        STATUS(beat(t, "pass"), 200);
    }
    EXPECT(t, is_blocked(r, 50));
}

static void check_deregisters_no_earlier_than_a_minute(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'100ms',"
              "'DeregisterCriticalServiceAfter':'1ms'}}", t->name);
    reply *r = health_when(t, "0/Checks/1/Status", "critical");
    r = begin(t, "/v1/health/service/%s?index=%llu&wait=300ms", t->name,
              (unsigned long long)index_of(r));
    finish(r);
    AT(r, "0/Checks/1/Status", "critical");
}

/* ---- maintenance --------------------------------------------------------------- */

static void maintenance_refused(trial *t)
{
    reply *r = put(t, NULL, "/v1/agent/service/maintenance/%s", t->name);
    STATUS(r, 400);
    BODY(r, "Missing value for enable");
    r = put(t, NULL, "/v1/agent/service/maintenance/%s?enable=xx", t->name);
    STATUS(r, 400);
    BODY(r, "Invalid value for enable: \"xx\"");
    r = put(t, NULL, "/v1/agent/service/maintenance/%s?enable=true", t->name);
    STATUS(r, 404);
    if (t->is_new) {
        BODY(r, "%s", no_such_service(t, t->name));
    } else {
        BODY(r, "No service registered with ID \"%s\"", t->name);
    }
    r = put(t, NULL, "/v1/agent/service/maintenance/?enable=true");
    STATUS(r, 400);
    BODY(r, "Missing service ID");
    STATUS(get(t, "/v1/agent/service/maintenance/%s?enable=true", t->name), 405);
}

static void maintenance_on_and_off(trial *t)
{
    const char *id = text(t, "_service_maintenance:%s", t->name);
    enroll(t, "{'Name':'%s','Port':1}", t->name);
    health_of(t, 1);
    reply *r = put(t, NULL, "/v1/agent/service/maintenance/%s?enable=true&reason=a+b", t->name);
    STATUS(r, 200);
    BODY(r, "%s", "");
    r = health_when(t, "0/Checks", "[2]");
    bool is_first = strcmp(value_text(value_at(r->json, "0/Checks/0/CheckID")), id) == 0;
    AT(r, is_first ? "0/Checks/0/CheckID" : "0/Checks/1/CheckID", id);
    AT(r, is_first ? "0/Checks/0/Status" : "0/Checks/1/Status", "critical");
    AT(r, is_first ? "0/Checks/0/Notes" : "0/Checks/1/Notes", "a b");
    AT(r, is_first ? "0/Checks/0/Name" : "0/Checks/1/Name", "Service Maintenance Mode");
    BODY_STARTS(get(t, "/v1/health/service/%s?passing", t->name), "[]");
    STATUS(put(t, NULL, "/v1/agent/service/maintenance/%s?enable=true", t->name), 200);
    STATUS(put(t, NULL, "/v1/agent/service/maintenance/%s?enable=false", t->name), 200);
    health_when(t, "0/Checks", "[1]");
    STATUS(put(t, NULL, "/v1/agent/service/maintenance/%s?enable=false", t->name), 200);
}

static void maintenance_default_reason(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1}", t->name);
    health_of(t, 1);
    put(t, NULL, "/v1/agent/service/maintenance/%s?enable=1", t->name);
    reply *r = health_when(t, "0/Checks", "[2]");
    bool is_first = strcmp(value_text(value_at(r->json, "0/Checks/0/CheckID")), "serfHealth") != 0;
    AT(r, is_first ? "0/Checks/0/Notes" : "0/Checks/1/Notes",
       "Maintenance mode is enabled for this service, but no reason was provided. "
       "This is a default message.");
}

static void maintenance_goes_with_service(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1}", t->name);
    put(t, NULL, "/v1/agent/service/maintenance/%s?enable=true", t->name);
    health_when(t, "0/Checks", "[2]");
    STATUS(deregister(t, t->name), 200);
    health_of(t, 0);
    enroll(t, "{'Name':'%s','Port':1}", t->name);
    AT(health_of(t, 1), "0/Checks", "[1]");
}

static const contract_case table[] = {
    { "check: update", check_update, 0 },
    { "check: updates that are refused", check_update_refused, 0 },
    { "check: unknown", check_unknown, 0 },
    { "check: not a TTL check", check_not_ttl, 0 },
    { "check: pass, warn, fail", check_verbs, 0 },
    { "check: output is cut at 4 KiB", check_output_is_cut, 0 },
    { "check: a TTL expires and wakes", check_ttl_expires, 0 },
    { "check: heartbeats keep it alive and wake nobody", check_beats_keep_alive, 0 },
    { "check: a critical service stays for a minute at least",
      check_deregisters_no_earlier_than_a_minute, 0 },
    { "maintenance: refused", maintenance_refused, 0 },
    { "maintenance: on and off", maintenance_on_and_off, 0 },
    { "maintenance: the default reason", maintenance_default_reason, 0 },
    { "maintenance: goes with the service", maintenance_goes_with_service, 0 }
};

CASES(cases_check, table);
