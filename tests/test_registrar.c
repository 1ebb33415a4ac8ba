/* The registrar: registered until it succeeds, kept alive, registered again, deregistered; against
   a scripted server and the embedded agents, in virtual time. One test has a real socket and a
   second thread. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "agent/server.h"
#include "support/rig.h"
#include "support/script.h"
#include "support/test.h"
#include "support/world.h"
#include "support/world_agent.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define REGISTRAR_NUM(array) (sizeof(array) / sizeof((array)[0]))

#define REGISTRAR_REGISTER   "PUT /v1/agent/service/register"
#define REGISTRAR_UPDATE     "PUT /v1/agent/check/update/"
#define REGISTRAR_DEREGISTER "PUT /v1/agent/service/deregister/"
#define REGISTRAR_MAINTAIN   "PUT /v1/agent/service/maintenance/"
#define REGISTRAR_VERIFY     "GET /v1/agent/service/"

/* A server that says yes to everything. */
static bool registrar_begin(rig *r, const world_desc *desc)
{
    if (!rig_init(r, desc)) {
        return false;
    }
    script_on(r->script, "GET ");
    script_reply(r->script, 200, NULL, "{}");
    script_on(r->script, "PUT ");
    script_ok(r->script);
    return true;
}

/* The service web-1 with one TTL check; the check is the caller's memory. */
static sdc_registrar_desc registrar_desc_with(sdc_check *check, uint32_t ttl_ms)
{
    sdc_registrar_desc desc;
    memset(&desc, 0, sizeof desc);
    memset(check, 0, sizeof *check);
    check->ttl_ms = ttl_ms;
    desc.registration.id = "web-1";
    desc.registration.name = "web";
    desc.registration.checks = check;
    desc.registration.num_checks = 1;
    return desc;
}

/* The same without a check. */
static sdc_registrar_desc registrar_desc_plain(void)
{
    sdc_registrar_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.registration.id = "web-1";
    desc.registration.name = "web";
    return desc;
}

static size_t registrar_count(const rig *r, const char *start)
{
    return script_count(r->script, start);
}

/* The newest request of a kind; a failed check and the newest of all when there is none. */
static const script_request *registrar_last(const rig *r, const char *start)
{
    size_t num = script_count(r->script, start);
    CHECK(num > 0);
    return num > 0 ? script_nth_of(r->script, start, num - 1) : script_last(r->script);
}

/* A blocking step, and the two kinds of event loop, which step when the wants say so. */
static const world_drive registrar_drives[] = {
    WORLD_DRIVE_BLOCK, WORLD_DRIVE_LEVEL, WORLD_DRIVE_EDGE
};
static const char *const registrar_drive_names[] = { "blocking", "level", "edge" };

/* registrar_begin for the nth of these drives. */
static bool registrar_begin_driven(rig *r, size_t nth)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.drive = registrar_drives[nth];
    test_note("%s", registrar_drive_names[nth]);
    return registrar_begin(r, &desc);
}

/* Further steps of the list that begins so. */
static void registrar_on(rig *r, const char *start)
{
    script_on(r->script, start);
}

/* ---- registering ----------------------------------------------------------------------------- */

static void test_registers_and_says_so(void)
{
    static const char *const tags[] = { "v1", "blue" };
    rig r;
    sdc_check check;
    sdc_stats stats;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
    desc.registration.tags = tags;
    desc.registration.num_tags = 2;
    desc.registration.address = "10.9.0.1";
    REQUIRE(rig_register(&r, &desc));
    CHECK_INT(script_num_requests(r.script), 0);
    CHECK(!sdc_registrar_is_registered(r.registrar));
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK(sdc_registrar_is_registered(r.registrar));
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    CHECK_STR(world_log(r.world), "INFO registrar service=web tags=[v1 blue] address=10.9.0.1 "
              "action=register\n");
    /* the check is passing at once, by the body and by a beat behind it */
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    const script_request *beat = script_last(r.script);
    CHECK_STR(beat->raw_path, "/v1/agent/check/update/service%3Aweb-1");
    CHECK_STR(beat->body, "{\"Status\":\"passing\"}");
    CHECK_U64(beat->at_ms, WORLD_START_MS);
    sdc_task_stats(r.task, &stats);
    CHECK_U64(stats.registrations, 1);
    CHECK_U64(stats.heartbeats, 1);
    CHECK_U64(stats.requests, 2);
    CHECK_U64(stats.answers, 2);
    CHECK_U64(stats.failures, 0);
    CHECK_U64(stats.connects, 1);
    CHECK_ERR(sdc_step(r.task, 100), SDC_AGAIN);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 100);
    rig_deinit(&r);
}

/* What was passed is copied, all of it. */
static void test_registration_is_copied(void)
{
    char name[] = "web", tag[] = "tag", key[] = "key", value[] = "value", id[] = "check";
    const char *tags[] = { tag };
    sdc_kv meta = { key, value };
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
    desc.registration.id = NULL;
    desc.registration.name = name;
    desc.registration.tags = tags;
    desc.registration.num_tags = 1;
    desc.registration.meta = &meta;
    desc.registration.num_meta = 1;
    check.id = id;
    REQUIRE(rig_register(&r, &desc));
    memset(name, 'x', 3);
    memset(tag, 'x', 3);
    memset(key, 'x', 3);
    memset(value, 'x', 5);
    memset(id, 'x', 5);
    memset(&check, 0x55, sizeof check);
    memset(&desc, 0x55, sizeof desc);
    rig_run(&r, 4000);
    CHECK_STR(script_nth(r.script, 0)->body, "{\"ID\":\"web\",\"Name\":\"web\",\"Tags\":[\"tag\"],"
              "\"Meta\":{\"key\":\"value\"},\"Checks\":[{\"CheckID\":\"check\","
              "\"Status\":\"passing\",\"TTL\":\"10s\","
              "\"DeregisterCriticalServiceAfter\":\"3600s\"}]}");
    CHECK_STR(script_last(r.script)->raw_path, "/v1/agent/check/update/check");
    CHECK_HASNT(world_log(r.world), "xxx");
    rig_deinit(&r);
}

/* Dead, then broken, then well: each failure is said once, and the service is there in the end. */
static void test_registers_until_it_succeeds(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_REGISTER);
    script_times(r.script, 2);
    script_error(r.script, 500, "No cluster leader");
    script_then_close(r.script);
    script_raw(r.script, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
    script_ok(r.script);
    script_set_down(r.script, true);
    REQUIRE(rig_register(&r, NULL));
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_CONNECT);
    sdc_task_error(r.task, &error);
    CHECK_INT(error.code, SDC_ERR_CONNECT);
    CHECK_HAS(error.message, "10.0.0.1:8500");
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_CONNECT);
    script_set_down(r.script, false);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
    sdc_task_error(r.task, &error);
    CHECK_INT(error.http_status, 500);
    CHECK_HAS(error.message, "No cluster leader");
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_IO);
    CHECK(!sdc_registrar_is_registered(r.registrar));
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK(sdc_registrar_is_registered(r.registrar));
    sdc_task_error(r.task, &error);
    CHECK_INT(error.code, SDC_OK);
    CHECK_INT(world_log_count(r.world, "WARN", "err="), 5);
    CHECK_INT(world_log_count(r.world, "WARN", "service=web tags=[] address=10.9.0.1 err="), 5);
    CHECK_INT(world_log_count(r.world, "INFO", "action=register"), 1);
    CHECK_BETWEEN(world_now(r.world) - WORLD_START_MS, 1, 20000);
    rig_deinit(&r);
}

/* Down for an hour: back within a backoff of at most half a minute, and no storm meanwhile. */
static void test_registers_after_a_long_outage(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    script_set_down(r.script, true);
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 3600000);
    CHECK_BETWEEN(world_num_connects(r.world, "10.0.0.1", 8500), 100, 400);
    script_set_down(r.script, false);
    rig_run(&r, 60000);
    CHECK(sdc_registrar_is_registered(r.registrar));
    rig_deinit(&r);
}

/* Down for ten seconds or for a minute, whatever the seed: back within half as long. */
static void test_registers_soon_after_a_short_outage(void)
{
    static const uint32_t outages[] = { 10000, 60000 };
    for (uint64_t seed = 1; seed <= 40; seed++) {
        rig r;
        world_desc desc;
        uint32_t outage_ms = outages[seed % 2];
        test_note("seed %u, %u ms", (unsigned)seed, (unsigned)outage_ms);
        memset(&desc, 0, sizeof desc);
        desc.seed = seed;
        REQUIRE(registrar_begin(&r, &desc));
        script_set_down(r.script, true);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, outage_ms);
        CHECK_BETWEEN(world_num_connects(r.world, "10.0.0.1", 8500), 8, 60);
        script_set_down(r.script, false);
        rig_run(&r, outage_ms / 2);
        CHECK(sdc_registrar_is_registered(r.registrar));
        rig_deinit(&r);
    }
}

/* ---- heartbeats ------------------------------------------------------------------------------ */

/* No two beats of one check are further apart than `most_ms`, nor closer than half of it. */
static void registrar_check_beats(rig *r, const char *start, uint64_t most_ms)
{
    size_t num = script_count(r->script, start);
    CHECK(num > 20);
    for (size_t i = 1; i < num && test_num_failures() < 5; i++) {
        uint64_t before = script_nth_of(r->script, start, i - 1)->at_ms;
        CHECK_BETWEEN(script_nth_of(r->script, start, i)->at_ms - before, most_ms / 2, most_ms);
    }
}

static void test_81_beats_a_third_of_the_ttl_apart(void)
{
    static const uint32_t ttls[] = { 500, 1000, 10000, 15001, 60000 };
    for (size_t i = 0; i < REGISTRAR_NUM(ttls); i++) {
        rig r;
        sdc_check check;
        test_note("TTL %u ms", (unsigned)ttls[i]);
        REQUIRE(registrar_begin(&r, NULL));
        sdc_registrar_desc desc = registrar_desc_with(&check, ttls[i]);
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, (uint64_t)ttls[i] * 20);
        registrar_check_beats(&r, REGISTRAR_UPDATE, ttls[i] / 3);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        CHECK_U64(world_seen(r.world)->opened, 1);
        rig_deinit(&r);
    }
}

/* The time an answer takes is not added to the pause. */
static void test_81_beats_a_third_apart_on_a_slow_network(void)
{
    rig r;
    sdc_check check;
    world_desc slow;
    memset(&slow, 0, sizeof slow);
    slow.latency_ms = 200;
    REQUIRE(registrar_begin(&r, &slow));
    registrar_on(&r, REGISTRAR_UPDATE);
    script_delay(r.script, 500);
    script_ok(r.script);
    sdc_registrar_desc desc = registrar_desc_with(&check, 15000);
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 300000);
    registrar_check_beats(&r, REGISTRAR_UPDATE, 5000);
    rig_deinit(&r);
}

static void test_beats_as_told(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 30000);
    desc.heartbeat_ms = 1000;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 60000);
    registrar_check_beats(&r, REGISTRAR_UPDATE, 1000);
    rig_deinit(&r);
}

/* Processes that started together do not beat together. */
static void test_beats_spread(void)
{
    uint64_t first_ms = 0;
    bool     differs = false;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        rig r;
        world_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.seed = seed;
        REQUIRE(registrar_begin(&r, &desc));
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 10000);
        const script_request *second = script_nth_of(r.script, REGISTRAR_UPDATE, 1);
        if (CHECK(second != NULL)) {
            differs = differs || (first_ms != 0 && second->at_ms != first_ms);
            first_ms = second->at_ms;
        }
        rig_deinit(&r);
    }
    CHECK(differs);
}

static void test_each_ttl_check_beats(void)
{
    rig r;
    sdc_check checks[3];
    REQUIRE(registrar_begin(&r, NULL));
    memset(checks, 0, sizeof checks);
    checks[0].ttl_ms = 3000;
    checks[1].tcp = "127.0.0.1:1";
    checks[2].ttl_ms = 30000;
    checks[2].id = "slow";
    sdc_registrar_desc desc = registrar_desc_plain();
    desc.registration.checks = checks;
    desc.registration.num_checks = 3;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 250000);
    registrar_check_beats(&r, "PUT /v1/agent/check/update/service:web-1:1", 1000);
    registrar_check_beats(&r, "PUT /v1/agent/check/update/slow", 10000);
    CHECK_INT(registrar_count(&r, "PUT /v1/agent/check/update/service:web-1:2"), 0);
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 0);
    rig_deinit(&r);
}

/* What is no sign of a lost registration does not lead to a new one. */
static void test_failed_beats_do_not_register_again(void)
{
    static const struct {
        int         status;
        const char *text;
    } cases[] = {
        { 500, "No cluster leader" }, { 403, "Permission denied" }, { 429, "slow down" },
        { 503, "rate limit exceeded" }, { 404, "Invalid URL path: not a recognized HTTP API "
                                               "endpoint" }, { 502, "bad gateway" },
    };
    for (size_t i = 0; i < REGISTRAR_NUM(cases); i++) {
        rig r;
        test_note("%d %s", cases[i].status, cases[i].text);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_ok(r.script);
        script_times(r.script, 3);
        script_error(r.script, cases[i].status, cases[i].text);
        script_ok(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 60000);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        CHECK(sdc_registrar_is_registered(r.registrar));
        CHECK(registrar_count(&r, REGISTRAR_UPDATE) > 10);
        rig_deinit(&r);
    }
}

/* ---- registering again ----------------------------------------------------------------------- */

static char registrar_long_id[220];

/* The agent has forgotten: the service is registered again and its check updated, both at once and
   with what the program had set. */
static void registrar_forgotten(int status, const char *text, const char *check_id)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_UPDATE);
    script_times(r.script, 3);
    script_ok(r.script);
    script_error(r.script, status, text);
    script_ok(r.script);
    sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
    check.id = check_id;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 100);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, "disk"), SDC_OK);
    sdc_err err = SDC_OK;
    while (err == SDC_OK) {
        err = rig_run_exchange(&r);
    }
    CHECK_ERR(err, SDC_ERR_STATUS);
    CHECK(!sdc_registrar_is_registered(r.registrar));
    uint64_t lost_ms = world_now(r.world);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK(sdc_registrar_is_registered(r.registrar));
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    CHECK_U64(registrar_last(&r, REGISTRAR_REGISTER)->at_ms, lost_ms);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_U64(script_last(r.script)->at_ms, lost_ms);
    CHECK_STR(script_last(r.script)->body, "{\"Status\":\"warning\",\"Output\":\"disk\"}");
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    CHECK(registrar_count(&r, REGISTRAR_UPDATE) > 15);
    rig_deinit(&r);
}

static void test_82_unknown_check_registers_again(void)
{
    char text[400];
    registrar_forgotten(404, "Unknown check ID \"service:web-1\". Ensure that the check ID is "
                             "passed, not the check name.", NULL);
    registrar_forgotten(404, "Unknown check \"service:web-1\"", NULL);
    registrar_forgotten(500, "Unknown check \"service:web-1\"", NULL);
    registrar_forgotten(500, "CheckID \"service:web-1\" does not have associated TTL", NULL);
    /* the words stand behind the ID, however long that is */
    memset(registrar_long_id, 'c', sizeof registrar_long_id - 1);
    snprintf(text, sizeof text, "CheckID \"%s\" does not have associated TTL", registrar_long_id);
    test_note("long ID");
    registrar_forgotten(500, text, registrar_long_id);
}

typedef struct registrar_stage {
    world         *w;
    agent         *a;
    sdc_client    *client;
    sdc_registrar *registrar;
    sdc_task      *task;
} registrar_stage;

static bool registrar_stage_begin(registrar_stage *s, agent_profile profile, const char *token,
                                  const sdc_registrar_desc *desc)
{
    agent_desc is;
    memset(&is, 0, sizeof is);
    memset(s, 0, sizeof *s);
    is.profile = profile;
    is.management_token = token;
    s->w = world_create(NULL);
    s->a = agent_create(&is, world_now(s->w));
    world_listen_agent(s->w, "10.0.0.1", 8500, s->a);
    s->client = world_client(s->w, "10.0.0.1:8500");
    bool ok = s->client != NULL &&
              CHECK_ERR(sdc_client_set_token(s->client, token), SDC_OK) &&
              CHECK_ERR(sdc_registrar_create(s->client, desc, &s->registrar, NULL), SDC_OK);
    s->task = ok ? sdc_registrar_task(s->registrar) : NULL;
    return ok;
}

static void registrar_stage_end(registrar_stage *s)
{
    sdc_registrar_destroy(s->registrar);
    sdc_client_destroy(s->client);
    world_destroy(s->w);
    agent_destroy(s->a);
}

/* A whole life at each version of the embedded agent: there, ill, in maintenance, the agent
   restarts without memory, the service is killed behind our back, stopped. */
static void test_82_life_at_agents_of_both_versions(void)
{
    for (int i = 0; i < 4; i++) {
        registrar_stage s;
        sdc_check check;
        sdc_stats stats;
        test_note("agent %d", i);
        sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
        REQUIRE(registrar_stage_begin(&s, (i & 1) != 0 ? AGENT_1_22 : AGENT_1_8,
                                      (i & 2) != 0 ? "m" : NULL, &desc));
        world_run(s.w, s.task, 60000);
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "passing");
        CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_WARNING, "x"), SDC_OK);
        CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, true, "new disk"), SDC_OK);
        world_run(s.w, s.task, 10);
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "warning");
        CHECK_STR(agent_check_status(s.a, "_service_maintenance:web-1"), "critical");
        agent_restart(s.a, 0, false, world_now(s.w));
        CHECK(!agent_has_service(s.a, "web-1"));
        world_run(s.w, s.task, 4000);
        CHECK(agent_has_service(s.a, "web-1"));
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "warning");
        CHECK_STR(agent_check_status(s.a, "_service_maintenance:web-1"), "critical");
        CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, false, NULL), SDC_OK);
        world_run(s.w, s.task, 10);
        CHECK_STR(agent_check_status(s.a, "_service_maintenance:web-1"), "");
        CHECK(agent_kill_service(s.a, "web-1", world_now(s.w)));
        world_run(s.w, s.task, 4000);
        CHECK(agent_has_service(s.a, "web-1"));
        CHECK_STR(agent_check_status(s.a, "_service_maintenance:web-1"), "");
        sdc_task_stats(s.task, &stats);
        CHECK_U64(stats.registrations, 3);
        sdc_stop(s.task);
        CHECK_ERR(world_run(s.w, s.task, 10000), SDC_STOPPED);
        CHECK(!agent_has_service(s.a, "web-1"));
        registrar_stage_end(&s);
    }
}

/* ---- without a TTL check --------------------------------------------------------------------- */

static void test_verifies_without_a_ttl_check(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 301000);
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 11);
    CHECK_STR(registrar_last(&r, REGISTRAR_VERIFY)->raw_path, "/v1/agent/service/web-1");
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 0);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    rig_deinit(&r);
    REQUIRE(registrar_begin(&r, NULL));
    desc.verify_ms = 1000;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 10500);
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 11);
    rig_deinit(&r);
    REQUIRE(registrar_begin(&r, NULL));
    desc.verify_ms = SDC_NEVER;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 3600000);
    CHECK_INT(script_num_requests(r.script), 1);
    rig_deinit(&r);
}

static void test_verify_registers_again_what_is_gone(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_VERIFY);
    script_reply(r.script, 200, NULL, "{}");
    script_error(r.script, 500, "No cluster leader");
    script_reply(r.script, 200, NULL, "{}");
    script_error(r.script, 404, "unknown service ID: web-1");
    script_reply(r.script, 200, NULL, "{}");
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&r, &desc));
    for (int i = 0; i < 5; i++) {
        rig_run_exchange(&r);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    }
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 4);
    uint64_t lost_ms = world_now(r.world);
    CHECK(!sdc_registrar_is_registered(r.registrar));
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    CHECK_U64(world_now(r.world), lost_ms);
    CHECK(sdc_registrar_is_registered(r.registrar));
    rig_deinit(&r);
}

static void test_verify_at_agents_of_both_versions(void)
{
    for (int i = 0; i < 2; i++) {
        registrar_stage s;
        test_note("agent %d", i);
        sdc_registrar_desc desc = registrar_desc_plain();
        REQUIRE(registrar_stage_begin(&s, i != 0 ? AGENT_1_22 : AGENT_1_8, NULL, &desc));
        world_run(s.w, s.task, 100000);
        CHECK(agent_kill_service(s.a, "web-1", world_now(s.w)));
        world_run(s.w, s.task, 30100);
        CHECK(agent_has_service(s.a, "web-1"));
        agent_restart(s.a, 0, false, world_now(s.w));
        world_run(s.w, s.task, 30100);
        CHECK(agent_has_service(s.a, "web-1"));
        CHECK_INT(world_log_count(s.w, "INFO", "action=register"), 3);
        registrar_stage_end(&s);
    }
}

/* ---- what the program says ------------------------------------------------------------------- */

static void test_set_status_is_sent_at_once(void)
{
    static const struct {
        sdc_status  status;
        const char *output, *body;
    } cases[] = {
        { SDC_STATUS_CRITICAL, "disk \"full\"\n",
          "{\"Status\":\"critical\",\"Output\":\"disk \\\"full\\\"\\u000a\"}" },
        { SDC_STATUS_WARNING, NULL, "{\"Status\":\"warning\"}" },
        { SDC_STATUS_PASSING, "", "{\"Status\":\"passing\"}" },
    };
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    for (size_t i = 0; i < REGISTRAR_NUM(cases); i++) {
        test_note("case %zu", i);
        rig_run(&r, 1234);
        CHECK_ERR(sdc_registrar_set_status(r.registrar, "service:web-1", cases[i].status,
                                           cases[i].output), SDC_OK);
        sdc_wants wants = sdc_task_wants(r.task);
        CHECK_INT(wants.timeout_ms, 0);
        uint64_t now_ms = world_now(r.world);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_U64(script_last(r.script)->at_ms, now_ms);
        CHECK_STR(script_last(r.script)->body, cases[i].body);
        /* and by each beat that follows */
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK(script_last(r.script)->at_ms > now_ms);
        CHECK_STR(script_last(r.script)->body, cases[i].body);
    }
    rig_deinit(&r);
}

static void test_set_arguments(void)
{
    static const sdc_status bad[] = { SDC_STATUS_UNSET, SDC_STATUS_MAINTENANCE, (sdc_status)77 };
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 100);
    size_t before = script_num_requests(r.script);
    for (size_t i = 0; i < REGISTRAR_NUM(bad); i++) {
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, bad[i], "x"), SDC_ERR_ARG);
    }
    CHECK_ERR(sdc_registrar_set_status(r.registrar, "service:web-2", SDC_STATUS_PASSING, "x"),
              SDC_ERR_ARG);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, "", SDC_STATUS_PASSING, "x"), SDC_ERR_ARG);
    rig_run(&r, 100);
    CHECK_INT(script_num_requests(r.script), before);
    rig_deinit(&r);
    /* without a TTL check there is nothing to set */
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_ERR_ARG);
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, NULL), SDC_OK);
    rig_run(&r, 100);
    CHECK_STR(registrar_last(&r, REGISTRAR_MAINTAIN)->raw_query, "enable=true");
    rig_deinit(&r);
}

static void test_set_status_of_one_check_and_of_all(void)
{
    rig r;
    sdc_check checks[2];
    REQUIRE(registrar_begin(&r, NULL));
    memset(checks, 0, sizeof checks);
    checks[0].ttl_ms = 30000;
    checks[0].id = "a";
    checks[1].ttl_ms = 30000;
    checks[1].id = "b";
    checks[1].status = SDC_STATUS_CRITICAL;
    sdc_registrar_desc desc = registrar_desc_plain();
    desc.registration.checks = checks;
    desc.registration.num_checks = 2;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 100);
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE "a")->body, "{\"Status\":\"passing\"}");
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE "b")->body, "{\"Status\":\"critical\"}");
    CHECK_ERR(sdc_registrar_set_status(r.registrar, "b", SDC_STATUS_WARNING, "b"), SDC_OK);
    rig_run(&r, 100);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE "a"), 1);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE "b"), 2);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, "both"), SDC_OK);
    rig_run(&r, 100);
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE "a")->body,
              "{\"Status\":\"passing\",\"Output\":\"both\"}");
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE "b")->body,
              "{\"Status\":\"passing\",\"Output\":\"both\"}");
    rig_deinit(&r);
}

/* Is it one JSON text? */
static sdc_err registrar_ignore(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    size_t *longest = (size_t *)user;
    (void)text;
    if (kind == SDC_JSON_STRING && len > *longest) {
        *longest = len;
    }
    return SDC_OK;
}

/* Cut at 4 KiB, never inside a character; bytes that are not UTF-8 never reach the agent. */
static void test_set_status_with_much_output(void)
{
    static char output[9000];
    static const char *const units[] = { "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x90\x88",
                                         "\"", "\xff" };
    for (size_t i = 0; i < REGISTRAR_NUM(units) * 2; i++) {
        rig r;
        sdc_json *json = NULL;
        size_t longest = 0;
        const char *unit = units[i / 2];
        test_note("unit %zu, shifted by %zu", i / 2, i % 2);
        memset(output, 0, sizeof output);
        strcpy(output, i % 2 != 0 ? "x" : "");
        size_t at = strlen(output);
        while (at + 4 < sizeof output) {
            strcpy(output + at, unit);
            at += strlen(unit);
        }
        REQUIRE(registrar_begin(&r, NULL));
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 100);
        size_t before = script_num_requests(r.script);
        sdc_err err = sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, output);
        rig_run(&r, 100);
        if (unit[0] == '\xff' && err == SDC_ERR_ARG) {
            CHECK_INT(script_num_requests(r.script), before);
        } else if (CHECK_ERR(err, SDC_OK)) {
            CHECK_INT(script_num_requests(r.script), before + 1);
            const script_request *request = script_last(r.script);
            REQUIRE(sdc_json_create(NULL, registrar_ignore, &longest, &json) == SDC_OK);
            CHECK_ERR(sdc_json_feed(json, request->body, request->body_len), SDC_OK);
            CHECK_ERR(sdc_json_finish(json), SDC_OK);
            CHECK_BETWEEN(longest, unit[0] == '\xff' ? 1 : 4093, 4096);
            sdc_json_destroy(json);
        }
        rig_deinit(&r);
    }
}

/* The agent is away: the newest of what was said is what it hears when it is back. */
static void test_set_while_the_agent_is_away(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 10000);
    script_set_down(r.script, true);
    rig_run(&r, 10000);
    size_t before = script_num_requests(r.script);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, "1"), SDC_OK);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_CRITICAL, "2"), SDC_OK);
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "a&b"), SDC_OK);
    rig_run(&r, 10000);
    script_set_down(r.script, false);
    rig_run(&r, 3000);
    CHECK_INT(registrar_count(&r, REGISTRAR_MAINTAIN), 1);
    const script_request *request = registrar_last(&r, REGISTRAR_MAINTAIN);
    CHECK_STR(request->raw_path, "/v1/agent/service/maintenance/web-1");
    CHECK_STR(request->raw_query, "enable=true&reason=a%26b");
    CHECK_STR(request->body, "");
    for (size_t i = before; i < script_num_requests(r.script); i++) {
        CHECK_HASNT(script_nth(r.script, i)->body, "warning");
    }
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE)->body,
              "{\"Status\":\"critical\",\"Output\":\"2\"}");
    rig_deinit(&r);
}

/* Before there is anything to set it on. */
static void test_set_before_the_registration(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        REQUIRE(rig_register(&r, NULL));
        CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, ""), SDC_OK);
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_CRITICAL, "c"), SDC_OK);
        rig_run(&r, 10);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        CHECK_STR(script_nth(r.script, 0)->raw_path, "/v1/agent/service/register");
        CHECK_STR(registrar_last(&r, REGISTRAR_MAINTAIN)->raw_query, "enable=true");
        CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE)->body,
                  "{\"Status\":\"critical\",\"Output\":\"c\"}");
        rig_deinit(&r);
    }
}

/* While a beat with the old status is under way: another one follows at once. */
static void test_set_during_a_beat(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_delay(r.script, 1000);
        script_ok(r.script);
        script_ok(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 500);
        CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 1);
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_CRITICAL, "now"), SDC_OK);
        rig_run(&r, 600);
        CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 2);
        CHECK_STR(script_last(r.script)->body, "{\"Status\":\"critical\",\"Output\":\"now\"}");
        CHECK_U64(script_last(r.script)->at_ms, WORLD_START_MS + 1000);
        rig_deinit(&r);
    }
}

/* Maintenance that failed is tried again, unless it was taken back meanwhile. */
static void test_maintenance_is_tried_again(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_MAINTAIN);
    script_error(r.script, 500, "no");
    script_error(r.script, 500, "no");
    script_ok(r.script);
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 100);
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "r"), SDC_OK);
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_MAINTAIN), 3);
    CHECK_STR(registrar_last(&r, REGISTRAR_MAINTAIN)->raw_query, "enable=true&reason=r");
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, false, NULL), SDC_OK);
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_MAINTAIN), 4);
    CHECK_STR(registrar_last(&r, REGISTRAR_MAINTAIN)->raw_query, "enable=false");
    rig_deinit(&r);
}

static void registrar_fall_ill(void *user)
{
    CHECK_ERR(sdc_registrar_set_status((sdc_registrar *)user, NULL, SDC_STATUS_CRITICAL, "x"),
              SDC_OK);
}

static void test_set_status_wakes_a_blocked_step(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 3600000);
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    world_after(r.world, 777, registrar_fall_ill, r.registrar);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 777);
    CHECK_STR(script_last(r.script)->body, "{\"Status\":\"critical\",\"Output\":\"x\"}");
    rig_deinit(&r);
}

/* ---- from another thread, on real sockets ---------------------------------------------------- */

typedef struct registrar_room {
    sdc_registrar *registrar;
    uint32_t       num_waits;       /* atomic: how often a step has begun to wait             */
    uint32_t       is_over;         /* atomic: gives up                                       */
} registrar_room;

static sdc_err registrar_count_wait(void *user, void *waker, const sdc_wants *wants,
                                    sdc_error *error)
{
    registrar_room *room = (registrar_room *)user;
    (void)__atomic_add_fetch(&room->num_waits, 1, __ATOMIC_SEQ_CST);
    return sdc_io_posix()->wait(sdc_io_posix()->user, waker, wants, error);
}

/* The registration of the test below with a tag of its own for each call. */
static void registrar_update_from_thread(sdc_registrar *registrar, int nth)
{
    sdc_check check;
    char tag[8];
    const char *tags[] = { tag };
    snprintf(tag, sizeof tag, "v%d", nth);
    sdc_registrar_desc desc = registrar_desc_with(&check, 3600000);
    desc.registration.tags = tags;
    desc.registration.num_tags = 1;
    (void)sdc_registrar_update(registrar, &desc.registration, NULL);
}

/* Says something as soon as the other thread blocks, and at last stops the task. */
static void *registrar_other_thread(void *user)
{
    enum { NUM_SAID = 12 };
    static const sdc_status statuses[] = { SDC_STATUS_WARNING, SDC_STATUS_CRITICAL,
                                           SDC_STATUS_PASSING };
    registrar_room *room = (registrar_room *)user;
    for (int i = 0; i <= NUM_SAID; i++) {
        uint32_t before = __atomic_load_n(&room->num_waits, __ATOMIC_SEQ_CST);
        if (i == NUM_SAID) {
            sdc_stop(sdc_registrar_task(room->registrar));
        } else if (i % 3 == 0) {
            (void)sdc_registrar_set_status(room->registrar, NULL, statuses[i / 3 % 3], "thread");
        } else if (i % 3 == 1) {
            (void)sdc_registrar_set_maintenance(room->registrar, i % 2 != 0, "thread");
        } else {
            registrar_update_from_thread(room->registrar, i);
        }
        (void)sdc_registrar_is_registered(room->registrar);
        (void)strlen(sdc_registrar_id(room->registrar));
        while (__atomic_load_n(&room->num_waits, __ATOMIC_SEQ_CST) == before &&
               __atomic_load_n(&room->is_over, __ATOMIC_SEQ_CST) == 0) {
            sched_yield();
        }
    }
    return NULL;
}

static void test_setters_from_another_thread(void)
{
    agent_desc is;
    uint16_t port = 0;
    char address[40];
    pthread_t thread;
    registrar_room room;
    sdc_client *client = NULL;
    sdc_client_desc at;
    sdc_check check;
    memset(&is, 0, sizeof is);
    memset(&room, 0, sizeof room);
    memset(&at, 0, sizeof at);
    agent *a = agent_create(&is, agent_server_now());
    agent_server *server = agent_server_start(a, NULL, &port);
    REQUIRE(server != NULL);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    sdc_io io = *sdc_io_posix();
    io.user = &room;
    io.wait = registrar_count_wait;
    at.address = address;
    at.ignore_environment = true;
    at.io = &io;
    REQUIRE(sdc_client_create(&at, &client, NULL) == SDC_OK);
    sdc_registrar_desc desc = registrar_desc_with(&check, 3600000);
    REQUIRE(sdc_registrar_create(client, &desc, &room.registrar, NULL) == SDC_OK);
    sdc_task *task = sdc_registrar_task(room.registrar);
    CHECK_ERR(sdc_step(task, 10000), SDC_OK);
    CHECK_ERR(sdc_step(task, 10000), SDC_OK);
    REQUIRE(pthread_create(&thread, NULL, registrar_other_thread, &room) == 0);
    uint64_t begin_ms = agent_server_now();
    sdc_err err = SDC_OK;
    size_t num_updates = 0;
    while ((err == SDC_OK || err == SDC_AGAIN) && agent_server_now() < begin_ms + 10000) {
        err = sdc_step(task, 10000);
        num_updates += err == SDC_OK ? 1 : 0;
    }
    __atomic_store_n(&room.is_over, 1, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    CHECK_ERR(err, SDC_STOPPED);
    CHECK_BETWEEN(num_updates, 1, 24);      /* several may have become one; the last is the end */
    agent_server_lock(server);
    CHECK(!agent_has_service(a, "web-1"));
    agent_server_unlock(server);
    sdc_registrar_destroy(room.registrar);
    sdc_client_destroy(client);
    agent_server_stop(server);
    agent_destroy(a);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static void test_stop_deregisters(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 10000);
    world_log_clear(r.world);
    sdc_stop(r.task);
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_STR(script_last(r.script)->raw_path, "/v1/agent/service/deregister/web-1");
    CHECK(!sdc_registrar_is_registered(r.registrar));
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    CHECK_STR(world_log(r.world), "INFO registrar service=web tags=[] address=10.9.0.1 "
              "action=deregister\n");
    /* and that for ever */
    size_t num = script_num_requests(r.script);
    sdc_wants wants = sdc_task_wants(r.task);
    CHECK_INT(wants.fd, -1);
    CHECK_INT(wants.timeout_ms, -1);
    CHECK_U64(wants.deadline_ms, UINT64_MAX);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_CRITICAL, "late"), SDC_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(sdc_step(r.task, i - 1), SDC_STOPPED);
    }
    CHECK_INT(script_num_requests(r.script), num);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 10000);
    rig_deinit(&r);
}

static void test_stop_keeps_the_service_if_told(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
    desc.keep_on_stop = true;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 10000);
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 0);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 10000);
    rig_deinit(&r);
}

static void test_stop_is_done_at_once_in_every_loop(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 10000);
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 1);
        CHECK_U64(world_now(r.world), WORLD_START_MS + 10000);
        rig_deinit(&r);
    }
}

static void test_stop_before_the_first_step(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_U64(world_seen(r.world)->opened, 0);
    rig_deinit(&r);
}

/* A registration without an answer may have been heard: it is taken back. */
static void test_stop_takes_back_an_unanswered_registration(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        registrar_on(&r, REGISTRAR_REGISTER);
        script_hang(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 1000);
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 1);
        CHECK_U64(world_now(r.world), WORLD_START_MS + 1000);
        rig_deinit(&r);
    }
}

/* The running exchange is dropped, and its connection with it. */
static void test_stop_drops_the_running_exchange(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_hang(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 2000);
        CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 1);
        const script_request *beat = script_last(r.script);
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        CHECK(!world_conn_is_open(beat->conn));
        const script_request *last = registrar_last(&r, REGISTRAR_DEREGISTER);
        CHECK(last->conn != beat->conn);
        CHECK_U64(last->at_ms, WORLD_START_MS + 2000);
        CHECK_U64(world_now(r.world), WORLD_START_MS + 2000);
        rig_deinit(&r);
    }
}

static void registrar_stop_now(void *user)
{
    sdc_stop((sdc_task *)user);
}

static void test_stop_wakes_a_blocked_step(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    world_after(r.world, 1234, registrar_stop_now, r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 1234);
    rig_deinit(&r);
}

typedef enum registrar_fault {
    REGISTRAR_HANGS, REGISTRAR_REFUSES, REGISTRAR_BLACKHOLE, REGISTRAR_ERRORS, REGISTRAR_RESETS,
    REGISTRAR_FORBIDS, REGISTRAR_NUM_FAULTS
} registrar_fault;

static const char *const registrar_fault_names[REGISTRAR_NUM_FAULTS] = {
    "hangs", "refuses", "blackhole", "500", "resets", "403"
};

static void registrar_break(rig *r, registrar_fault fault)
{
    switch (fault) {
    case REGISTRAR_HANGS:
        registrar_on(r, REGISTRAR_DEREGISTER);
        script_hang(r->script);
        break;
    case REGISTRAR_REFUSES:
        script_set_down(r->script, true);
        break;
    case REGISTRAR_BLACKHOLE:
        script_set_down(r->script, true);
        world_listen_mode(r->world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
        break;
    case REGISTRAR_ERRORS:
        registrar_on(r, REGISTRAR_DEREGISTER);
        script_error(r->script, 500, "No cluster leader");
        break;
    case REGISTRAR_RESETS:
        registrar_on(r, REGISTRAR_DEREGISTER);
        script_reset(r->script);
        break;
    case REGISTRAR_FORBIDS:
        registrar_on(r, REGISTRAR_DEREGISTER);
        script_error(r->script, 403, "Permission denied");
        break;
    case REGISTRAR_NUM_FAULTS:
        break;
    }
}

static void test_84_stop_is_bounded(void)
{
    static const uint32_t timeouts[] = { 0, 1, 500, 30000 };
    for (size_t i = 0; i < REGISTRAR_NUM_FAULTS * REGISTRAR_NUM(timeouts); i++) {
        rig r;
        sdc_check check;
        uint32_t timeout_ms = timeouts[i / REGISTRAR_NUM_FAULTS];
        registrar_fault fault = (registrar_fault)(i % REGISTRAR_NUM_FAULTS);
        test_note("%s, stop_timeout_ms %u", registrar_fault_names[fault], (unsigned)timeout_ms);
        REQUIRE(registrar_begin(&r, NULL));
        sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
        desc.stop_timeout_ms = timeout_ms;
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, 10000);
        registrar_break(&r, fault);
        uint64_t at_ms = world_now(r.world);
        size_t before = script_num_requests(r.script);
        sdc_stop(r.task);
        CHECK_ERR(world_run(r.world, r.task, 100000), SDC_STOPPED);
        uint64_t took_ms = world_now(r.world) - at_ms;
        CHECK_BETWEEN(took_ms, 0, timeout_ms != 0 ? timeout_ms : 2000);
        CHECK(script_num_requests(r.script) - before <= 100);
        CHECK_INT(world_seen(r.world)->open_now, 0);
        CHECK(world_log_count(r.world, "WARN", "err=") >= 1);
        CHECK_INT(world_log_count(r.world, "INFO", "action=deregister"), 0);
        rig_deinit(&r);
    }
}

/* A short failure does not use up the stop: the service is gone in the end. */
static void test_84_stop_tries_again(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        registrar_on(&r, REGISTRAR_DEREGISTER);
        script_reset(r.script);
        script_error(r.script, 500, "No cluster leader");
        script_ok(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 10000);
        uint64_t at_ms = world_now(r.world);
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 3);
        CHECK(!sdc_registrar_is_registered(r.registrar));
        CHECK_BETWEEN(world_now(r.world) - at_ms, 0, 2000);
        rig_deinit(&r);
    }
}

static void test_83_stop_takes_unknown_for_success(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_DEREGISTER);
    script_error(r.script, 404, "Unknown service ID \"web-1\". Ensure that the service ID is "
                                "passed, not the service name.");
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 10000);
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_INT(world_log_count(r.world, "WARN", ""), 0);
    rig_deinit(&r);
}

/* ---- destroying ------------------------------------------------------------------------------ */

static void test_destroy_sends_nothing(void)
{
    sdc_registrar_destroy(NULL);
    for (int i = 0; i < 3; i++) {
        rig r;
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_ok(r.script);
        script_hang(r.script);
        REQUIRE(rig_register(&r, NULL));
        if (i > 0) {
            rig_run(&r, i == 1 ? 1000 : 5000);
        }
        size_t num = script_num_requests(r.script);
        uint64_t written = world_seen(r.world)->bytes_written;
        sdc_registrar_destroy(r.registrar);
        r.registrar = NULL;
        CHECK_INT(world_seen(r.world)->open_now, 0);
        world_advance(r.world, 10000);
        CHECK_INT(script_num_requests(r.script), num);
        CHECK_U64(world_seen(r.world)->bytes_written, written);
        rig_deinit(&r);
    }
}

/* ---- once ------------------------------------------------------------------------------------ */

static void test_register_once(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_OK);
    CHECK_INT(error.code, SDC_OK);
    CHECK(sdc_registrar_is_registered(r.registrar));
    CHECK_INT(script_num_requests(r.script), 1);
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    CHECK_ERR(sdc_registrar_deregister(r.registrar, &error), SDC_OK);
    CHECK_INT(error.code, SDC_OK);
    CHECK(!sdc_registrar_is_registered(r.registrar));
    CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 1);
    CHECK_U64(world_now(r.world), WORLD_START_MS);
    /* gone is gone: stepping does not bring it back, registering does */
    world_advance(r.world, 100000);
    CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    CHECK_INT(script_num_requests(r.script), 3);
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    CHECK(sdc_registrar_is_registered(r.registrar));
    rig_deinit(&r);
}

static void test_once_tells_failures(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_REGISTER);
    script_error(r.script, 400, "Invalid Weights: Passing must be greater than 0");
    script_error(r.script, 403, "Permission denied");
    script_ok(r.script);
    registrar_on(&r, REGISTRAR_DEREGISTER);
    script_error(r.script, 500, "No cluster leader");
    script_error(r.script, 404, "Unknown service ID \"web-1\".");
    REQUIRE(rig_register(&r, NULL));
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_ERR_STATUS);
    CHECK_INT(error.code, SDC_ERR_STATUS);
    CHECK_INT(error.http_status, 400);
    CHECK_HAS(error.message, "Invalid Weights");
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_ERR_DENIED);
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_OK);
    CHECK_ERR(sdc_registrar_deregister(r.registrar, &error), SDC_ERR_STATUS);
    CHECK_INT(error.http_status, 500);
    CHECK_ERR(sdc_registrar_deregister(r.registrar, &error), SDC_OK);
    CHECK_INT(error.code, SDC_OK);
    script_set_down(r.script, true);
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_ERR_CONNECT);
    CHECK_HAS(error.message, "10.0.0.1:8500");
    CHECK_U64(world_now(r.world), WORLD_START_MS);
    rig_deinit(&r);
}

static void test_once_is_bounded(void)
{
    for (int i = 0; i < 4; i++) {
        rig r;
        sdc_error error;
        sdc_client_desc client;
        test_note("%s, %s", i % 2 != 0 ? "blackhole" : "hangs", i < 2 ? "register" : "deregister");
        memset(&client, 0, sizeof client);
        client.request_timeout_ms = 3000;
        client.connect_timeout_ms = 60000;
        REQUIRE(rig_init_client(&r, NULL, &client));
        script_hang(r.script);
        if (i % 2 != 0) {
            world_listen_mode(r.world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
        }
        REQUIRE(rig_register(&r, NULL));
        CHECK_ERR(i < 2 ? sdc_registrar_register(r.registrar, &error)
                        : sdc_registrar_deregister(r.registrar, &error), SDC_ERR_TIMEOUT);
        CHECK_INT(error.code, SDC_ERR_TIMEOUT);
        CHECK(error.message[0] != '\0');
        CHECK_BETWEEN(world_now(r.world) - WORLD_START_MS, 2999, 3000);
        rig_deinit(&r);
    }
}

/* As a step of the task: the two can be mixed, and after a stop nothing goes any more. */
static void test_once_among_steps(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_UPDATE);
    script_times(r.script, 2);
    script_ok(r.script);
    script_hang(r.script);
    REQUIRE(rig_register(&r, NULL));
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    rig_run(&r, 5000);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 2);
    rig_run(&r, 3000);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 3);
    /* the third beat hangs: it is dropped */
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_OK);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 8000);
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_STOPPED);
    CHECK_ERR(sdc_registrar_deregister(r.registrar, &error), SDC_STOPPED);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    rig_deinit(&r);
}

typedef struct registrar_inside {
    sdc_registrar *registrar;
    size_t         num_calls;
} registrar_inside;

static void registrar_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    registrar_inside *inside = (registrar_inside *)user;
    sdc_error error;
    (void)wants;
    if (inside->registrar == NULL) {
        return;                     /* told at once, outside of a step */
    }
    inside->num_calls++;
    CHECK_ERR(sdc_step(task, 0), SDC_ERR_ARG);
    CHECK_ERR(sdc_registrar_register(inside->registrar, &error), SDC_ERR_ARG);
    CHECK_INT(error.code, SDC_ERR_ARG);
    CHECK_ERR(sdc_registrar_deregister(inside->registrar, &error), SDC_ERR_ARG);
}

static void test_no_step_inside_a_step(void)
{
    rig r;
    registrar_inside inside;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    memset(&inside, 0, sizeof inside);
    sdc_task_on_wants(r.task, registrar_on_wants, &inside);
    inside.registrar = r.registrar;
    CHECK_ERR(sdc_step(r.task, 1000), SDC_OK);
    CHECK(inside.num_calls > 0);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    sdc_task_on_wants(r.task, NULL, NULL);
    rig_deinit(&r);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void test_registrar_refusals(void)
{
    rig r;
    sdc_error error;
    sdc_check check;
    sdc_registrar *out = (sdc_registrar *)(void *)&r;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 1000);
    desc.heartbeat_ms = SDC_NEVER;
    CHECK_ERR(sdc_registrar_create(r.client, &desc, &out, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "heartbeat_ms");
    CHECK(out == NULL);
    desc = registrar_desc_with(&check, 1000);
    desc.stop_timeout_ms = SDC_NEVER;
    CHECK_ERR(sdc_registrar_create(r.client, &desc, &out, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "stop_timeout_ms");
    desc = registrar_desc_plain();
    desc.registration.name = NULL;
    CHECK_ERR(sdc_registrar_create(r.client, &desc, &out, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "name");
    desc = registrar_desc_with(&check, 0);
    CHECK_ERR(sdc_registrar_create(r.client, &desc, &out, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "checks[0]");
    rig_deinit(&r);
}

/* ---- no storms ------------------------------------------------------------------------------- */

/* An agent that says the same for ever, for ten minutes. `per_minute` is what it may be asked. */
static void registrar_storm(const char *start, int status, const char *text, uint32_t ttl_ms,
                            size_t per_minute)
{
    rig r;
    sdc_check check;
    test_note("%s: %d %s, TTL %u", start, status, text, (unsigned)ttl_ms);
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, start);
    if (status != 0) {
        script_error(r.script, status, text);
    } else {
        script_reset(r.script);
    }
    sdc_registrar_desc desc = registrar_desc_with(&check, ttl_ms);
    if (ttl_ms == 0) {
        desc = registrar_desc_plain();
    }
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 600000);
    size_t num = script_num_requests(r.script);
    CHECK_BETWEEN(num, 10, per_minute * 10);
    /* the last minute is no worse than the average, and nothing was given up */
    size_t late = 0;
    for (size_t i = 0; i < num; i++) {
        late += script_nth(r.script, i)->at_ms >= WORLD_START_MS + 540000 ? 1 : 0;
    }
    CHECK_BETWEEN(late, 1, per_minute);
    /* and it is well again soon after the agent is */
    script_clear(r.script);
    script_on(r.script, "GET ");
    script_reply(r.script, 200, NULL, "{}");
    script_on(r.script, "PUT ");
    script_ok(r.script);
    script_on(r.script, start);
    script_ok(r.script);
    rig_run(&r, 31000);
    CHECK(sdc_registrar_is_registered(r.registrar));
    sdc_stats stats;
    sdc_task_stats(r.task, &stats);
    CHECK_INT(stats.consecutive_failures, 0);
    rig_deinit(&r);
}

/* With a TTL of 10 s a beat is due each 3.3 s: that is the measure of what a retry may cost. */
static void test_no_tight_loop_of_beats(void)
{
    registrar_storm(REGISTRAR_UPDATE, 404, "Unknown check ID \"service:web-1\".", 10000, 130);
    registrar_storm(REGISTRAR_UPDATE, 500, "CheckID \"service:web-1\" does not have associated "
                                           "TTL", 10000, 130);
    registrar_storm(REGISTRAR_UPDATE, 500, "No cluster leader", 10000, 130);
    registrar_storm(REGISTRAR_UPDATE, 403, "Permission denied", 10000, 130);
    registrar_storm(REGISTRAR_UPDATE, 429, "slow", 10000, 130);
    registrar_storm(REGISTRAR_UPDATE, 0, "reset", 10000, 130);
}

static void test_39_no_tight_loop_of_registrations(void)
{
    registrar_storm(REGISTRAR_REGISTER, 400, "Request decode failed", 10000, 61);
    registrar_storm(REGISTRAR_REGISTER, 403, "Permission denied", 10000, 61);
    registrar_storm(REGISTRAR_REGISTER, 429, "slow", 10000, 61);
    registrar_storm(REGISTRAR_REGISTER, 400, "Request decode failed", 0, 10);
    registrar_storm(REGISTRAR_REGISTER, 500, "No cluster leader", 0, 10);
    registrar_storm(REGISTRAR_REGISTER, 0, "reset", 0, 10);
}

/* What was refused is no better after a tenth of a second, however short the TTL is: there is no
   check yet that could expire. */
static void test_39_no_tight_loop_with_a_short_ttl(void)
{
    registrar_storm(REGISTRAR_REGISTER, 400, "Request decode failed", 1000, 70);
}

static void test_39_the_body_is_told(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_REGISTER);
    script_error(r.script, 400, "Invalid check: TTL must be > 0");
    REQUIRE(rig_register(&r, NULL));
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
    sdc_task_error(r.task, &error);
    CHECK_INT(error.http_status, 400);
    CHECK_HAS(error.message, "Invalid check: TTL must be > 0");
    CHECK_INT(world_log_count(r.world, "WARN", "Invalid check: TTL must be > 0"), 1);
    rig_deinit(&r);
}

/* ---- the same in an event loop --------------------------------------------------------------- */

static void test_life_in_an_event_loop(void)
{
    for (int is_edge = 0; is_edge <= 1; is_edge++) {
        rig r;
        world_desc desc;
        test_note("%s", is_edge ? "edge" : "level");
        memset(&desc, 0, sizeof desc);
        desc.latency_ms = 3;
        desc.read_max = 7;
        desc.write_max = 11;
        desc.again_every = 3;
        desc.drive = is_edge ? WORLD_DRIVE_EDGE : WORLD_DRIVE_LEVEL;
        REQUIRE(registrar_begin(&r, &desc));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_times(r.script, 5);
        script_ok(r.script);
        script_error(r.script, 404, "Unknown check ID \"service:web-1\".");
        script_ok(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 60000);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        CHECK(registrar_count(&r, REGISTRAR_UPDATE) >= 18);
        world_after(r.world, 100, registrar_fall_ill, r.registrar);
        rig_run(&r, 200);
        CHECK_HAS(registrar_last(&r, REGISTRAR_UPDATE)->body, "critical");
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 1);
        rig_deinit(&r);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* One life with the nth allocation failing. True: it was reached. */
static bool registrar_life_without_memory(uint64_t nth, bool for_good)
{
    rig r;
    sdc_error error;
    sdc_check check;
    sdc_kv meta = { "key", "value" };
    if (!registrar_begin(&r, NULL)) {
        return false;
    }
    registrar_on(&r, REGISTRAR_UPDATE);
    script_times(r.script, 2);
    script_ok(r.script);
    script_error(r.script, 404, "Unknown check ID \"service:web-1\".");
    script_ok(r.script);
    fault_alloc_fail(&r.memory, nth, for_good);
    sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
    sdc_err err = sdc_registrar_create(r.client, &desc, &r.registrar, &error);
    CHECK_INT(error.code, err);
    if (err != SDC_OK) {
        CHECK_ERR(err, SDC_ERR_NOMEM);
        CHECK(r.registrar == NULL);
        bool was_hit = r.memory.num_failed > 0;
        CHECK(was_hit);
        rig_deinit(&r);
        return was_hit;
    }
    r.task = sdc_registrar_task(r.registrar);
    rig_run(&r, 5000);
    err = sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, "w");
    CHECK(err == SDC_OK || (err == SDC_ERR_NOMEM && r.memory.num_failed > 0));
    err = sdc_registrar_set_maintenance(r.registrar, true, "m");
    CHECK(err == SDC_OK || (err == SDC_ERR_NOMEM && r.memory.num_failed > 0));
    rig_run(&r, 10000);
    desc.registration.meta = &meta;
    desc.registration.num_meta = 1;
    sdc_err of_update = sdc_registrar_update(r.registrar, &desc.registration, &error);
    CHECK_INT(error.code, of_update);
    CHECK(of_update == SDC_OK || (of_update == SDC_ERR_NOMEM && r.memory.num_failed > 0));
    rig_run(&r, 10000);
    bool was_hit = r.memory.num_failed > 0;
    CHECK(sdc_registrar_is_registered(r.registrar) || was_hit);
    if (!for_good) {
        CHECK(sdc_registrar_is_registered(r.registrar));
        CHECK_BETWEEN(registrar_count(&r, REGISTRAR_REGISTER), was_hit ? 1 : 3, 4);
        const char *meta_text = "\"Meta\":{\"key\":\"value\"}";
        bool has_meta = strstr(registrar_last(&r, REGISTRAR_REGISTER)->body, meta_text) != NULL;
        CHECK_INT(has_meta, of_update == SDC_OK);
    }
    uint64_t at_ms = world_now(r.world);
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_BETWEEN(world_now(r.world) - at_ms, 0, 2000);
    was_hit = r.memory.num_failed > 0;
    rig_deinit(&r);
    return was_hit;
}

static void test_registrar_without_memory(void)
{
    for (int for_good = 0; for_good <= 1; for_good++) {
        for (uint64_t nth = 1; nth < 500 && test_num_failures() < 5; nth++) {
            test_note("allocation %u fails, %s", (unsigned)nth, for_good ? "for good" : "once");
            if (!registrar_life_without_memory(nth, for_good != 0)) {
                CHECK(nth > 20);
                break;
            }
        }
    }
}

/* ---- jobs beside each other ------------------------------------------------------------------ */

static void registrar_two_checks(sdc_check checks[2], sdc_registrar_desc *desc)
{
    memset(checks, 0, 2 * sizeof checks[0]);
    checks[0].id = "one";
    checks[0].ttl_ms = 10000;
    checks[1].id = "two";
    checks[1].ttl_ms = 10000;
    *desc = registrar_desc_plain();
    desc->registration.checks = checks;
    desc->registration.num_checks = 2;
}

/* Steps until the time is over or `most` requests were made: a storm stands still in time. */
static void registrar_run_few(rig *r, uint64_t ms, size_t most)
{
    uint64_t end_ms = world_now(r->world) + ms;
    for (size_t i = 0; i < 20 * most && world_now(r->world) < end_ms; i++) {
        (void)sdc_step(r->task, 100);
        if (script_num_requests(r->script) > most) {
            break;
        }
    }
    CHECK(script_num_requests(r->script) <= most);
}

/* The good beats of one check are no reason to take the agent for one that remembers. */
static void test_no_storm_when_one_of_two_checks_is_unknown(void)
{
    static const char *const unknown[] = { "one", "two" };
    for (size_t i = 0; i < REGISTRAR_NUM(unknown); i++) {
        rig r;
        sdc_check checks[2];
        sdc_registrar_desc desc;
        char start[64];
        test_note("unknown: %s", unknown[i]);
        snprintf(start, sizeof start, REGISTRAR_UPDATE "%s", unknown[i]);
        registrar_two_checks(checks, &desc);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, start);
        script_error(r.script, 404, "Unknown check ID");
        REQUIRE(rig_register(&r, &desc));
        registrar_run_few(&r, 60000, 200);
        CHECK(registrar_count(&r, start) >= 10);
        snprintf(start, sizeof start, REGISTRAR_UPDATE "%s", unknown[1 - i]);
        CHECK(registrar_count(&r, start) >= 10);
        rig_deinit(&r);
    }
}

/* Refused connections are no sign of an agent that forgets: what is lost after them is registered
   again at once. */
static void test_lost_soon_after_an_outage(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_VERIFY);
    script_reply(r.script, 200, NULL, "{}");
    script_error(r.script, 404, "unknown service ID: web-1");
    script_reply(r.script, 200, NULL, "{}");
    script_set_down(r.script, true);
    sdc_registrar_desc desc = registrar_desc_plain();
    desc.verify_ms = 1000;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 60000);
    script_set_down(r.script, false);
    rig_run(&r, 31000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    const script_request *lost = script_nth_of(r.script, REGISTRAR_VERIFY, 1);
    CHECK_U64(registrar_last(&r, REGISTRAR_REGISTER)->at_ms, lost->at_ms);
    rig_deinit(&r);
}

/* Nor is one that loses it again and again, but each time only after a while. */
static void test_lost_now_and_then(void)
{
    enum { NUM_LOST = 10 };
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_VERIFY);
    for (int i = 0; i < NUM_LOST; i++) {
        script_times(r.script, 2);
        script_reply(r.script, 200, NULL, "{}");
        script_error(r.script, 404, "unknown service ID: web-1");
    }
    script_reply(r.script, 200, NULL, "{}");
    sdc_registrar_desc desc = registrar_desc_plain();
    desc.verify_ms = 15000;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 600000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), NUM_LOST + 1);
    for (size_t i = 1; i <= NUM_LOST && test_num_failures() < 5; i++) {
        const script_request *lost = script_nth_of(r.script, REGISTRAR_VERIFY, 3 * i - 1);
        CHECK_U64(script_nth_of(r.script, REGISTRAR_REGISTER, i)->at_ms, lost->at_ms);
    }
    rig_deinit(&r);
}

/* Neither is a good registration, where the maintenance that follows is unknown. */
static void test_no_storm_when_maintenance_is_unknown(void)
{
    static const uint32_t ttls[] = { 0, 10000 };
    for (size_t i = 0; i < REGISTRAR_NUM(ttls); i++) {
        rig r;
        sdc_check check;
        sdc_registrar_desc desc = registrar_desc_with(&check, ttls[i]);
        test_note("TTL %u", (unsigned)ttls[i]);
        if (ttls[i] == 0) {
            desc = registrar_desc_plain();
        }
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_MAINTAIN);
        script_error(r.script, 404, "Unknown service \"web-1\"");
        REQUIRE(rig_register(&r, &desc));
        CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "x"), SDC_OK);
        registrar_run_few(&r, 60000, 200);
        rig_deinit(&r);
    }
}

/* A maintenance that the agent does not take, for whatever reason, delays no beat for longer than
   the TTL allows. */
static void test_beats_go_on_beside_a_refused_maintenance(void)
{
    static const struct {
        int         status;
        const char *text;
    } cases[] = {
        { 414, "URI too long" }, { 403, "Permission denied" }, { 500, "No cluster leader" },
        { 404, "Unknown service \"web-1\"" },
    };
    for (size_t i = 0; i < REGISTRAR_NUM(cases); i++) {
        rig r;
        test_note("%d %s", cases[i].status, cases[i].text);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_MAINTAIN);
        script_error(r.script, cases[i].status, cases[i].text);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 1000);
        size_t first = registrar_count(&r, REGISTRAR_UPDATE);
        CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "x"), SDC_OK);
        rig_run(&r, 120000);
        size_t num = registrar_count(&r, REGISTRAR_UPDATE);
        CHECK(num - first >= 30);
        CHECK(registrar_count(&r, REGISTRAR_MAINTAIN) > 1);
        for (size_t n = 1; n < num && test_num_failures() < 5; n++) {
            uint64_t before_ms = script_nth_of(r.script, REGISTRAR_UPDATE, n - 1)->at_ms;
            CHECK(script_nth_of(r.script, REGISTRAR_UPDATE, n)->at_ms - before_ms < 10000);
        }
        rig_deinit(&r);
    }
}

static void test_beats_go_on_beside_a_refused_one(void)
{
    rig r;
    sdc_check checks[2];
    sdc_registrar_desc desc;
    registrar_two_checks(checks, &desc);
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_UPDATE "one");
    script_error(r.script, 403, "Permission denied");
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 120000);
    registrar_check_beats(&r, REGISTRAR_UPDATE "two", 10000 / 3);
    CHECK(registrar_count(&r, REGISTRAR_UPDATE "one") >= 10);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    rig_deinit(&r);
}

/* A kept connection that leads nowhere any more: the beat is there again before its TTL is over. */
static void test_81_beat_into_a_black_hole_is_repeated_in_time(void)
{
    static const uint32_t ttls[] = { 6000, 10000, 30000 };
    for (size_t i = 0; i < REGISTRAR_NUM(ttls); i++) {
        rig r;
        sdc_check check;
        sdc_registrar_desc desc = registrar_desc_with(&check, ttls[i]);
        test_note("TTL %u", (unsigned)ttls[i]);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_times(r.script, 2);
        script_ok(r.script);
        script_hang(r.script);
        script_ok(r.script);
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, ttls[i] * 3);
        const script_request *good = script_nth_of(r.script, REGISTRAR_UPDATE, 1);
        const script_request *next = script_nth_of(r.script, REGISTRAR_UPDATE, 3);
        if (CHECK(next != NULL)) {
            CHECK(next->at_ms - good->at_ms < ttls[i]);
        }
        rig_deinit(&r);
    }
}

/* How often to beat says nothing of how long the network takes. */
static void test_short_heartbeat_on_a_slow_network(void)
{
    rig r;
    sdc_check check;
    sdc_stats stats;
    world_desc slow;
    memset(&slow, 0, sizeof slow);
    slow.latency_ms = 60;
    REQUIRE(registrar_begin(&r, &slow));
    sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
    desc.heartbeat_ms = 100;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 60000);
    sdc_task_stats(r.task, &stats);
    CHECK(stats.heartbeats > 100);
    CHECK_U64(stats.failures, 0);
    rig_deinit(&r);
}

/* "Off" is under way when a call drops it; an agent may have kept the service's maintenance. */
static void test_dropped_maintenance_is_sent_again(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_MAINTAIN);
    script_ok(r.script);
    script_hang(r.script);
    script_ok(r.script);
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 1000);
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "a"), SDC_OK);
    rig_run(&r, 500);
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, false, NULL), SDC_OK);
    rig_run(&r, 500);
    CHECK_INT(registrar_count(&r, REGISTRAR_MAINTAIN), 2);
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    rig_run(&r, 10000);
    CHECK_INT(registrar_count(&r, REGISTRAR_MAINTAIN), 3);
    CHECK_STR(script_query(registrar_last(&r, REGISTRAR_MAINTAIN), "enable"), "false");
    rig_deinit(&r);
}

/* Destroys the registrar when its descriptor goes away. */
typedef struct registrar_quitter {
    sdc_registrar *registrar;
} registrar_quitter;

static void registrar_quit_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    registrar_quitter *q = (registrar_quitter *)user;
    sdc_registrar *registrar = q->registrar;
    (void)task;
    if (wants.fd < 0 && registrar != NULL) {
        q->registrar = NULL;
        sdc_registrar_destroy(registrar);
    }
}

static void test_destroyed_while_a_call_drops_an_exchange(void)
{
    for (int which = 0; which < 3; which++) {
        rig r;
        sdc_error error;
        registrar_quitter q = { NULL };
        test_note("call %d", which);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_ok(r.script);
        script_hang(r.script);
        registrar_on(&r, REGISTRAR_DEREGISTER);
        script_hang(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, which < 2 ? 3400 : 1000);
        CHECK(sdc_task_wants(r.task).fd >= 0);
        sdc_task_on_wants(r.task, registrar_quit_on_wants, &q);
        q.registrar = r.registrar;
        /* the last one drops its own exchange, when its time is over */
        sdc_err err = which == 0 ? sdc_registrar_register(r.registrar, &error)
                                 : sdc_registrar_deregister(r.registrar, &error);
        CHECK_ERR(err, SDC_GONE);
        CHECK(q.registrar == NULL);
        CHECK_INT(world_seen(r.world)->open_now, 0);
        r.registrar = q.registrar;
        rig_deinit(&r);
    }
}

/* A beat that comes less often than the TTL ends is a mistake that shows only much later. */
static void test_heartbeat_beyond_the_ttl_is_refused(void)
{
    rig r;
    sdc_check checks[2];
    sdc_registrar_desc desc;
    sdc_error error;
    sdc_registrar *registrar = NULL;
    registrar_two_checks(checks, &desc);
    checks[0].ttl_ms = 60000;
    REQUIRE(registrar_begin(&r, NULL));
    desc.heartbeat_ms = 10000;
    CHECK_ERR(sdc_registrar_create(r.client, &desc, &registrar, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "heartbeat_ms");
    CHECK(registrar == NULL);
    desc.heartbeat_ms = 9999;
    CHECK_ERR(sdc_registrar_create(r.client, &desc, &registrar, &error), SDC_OK);
    sdc_registrar_destroy(registrar);
    rig_deinit(&r);
}

/* The log of a failure is followed by the log of its end, once. */
static void test_registrar_says_that_it_is_well_again(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_UPDATE);
    script_times(r.script, 2);
    script_ok(r.script);
    script_times(r.script, 2);
    script_error(r.script, 500, "No cluster leader");
    script_ok(r.script);
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 3000);
    CHECK_INT(world_log_count(r.world, "", "action=recovered"), 0);
    rig_run(&r, 30000);
    CHECK_INT(world_log_count(r.world, "WARN", "err="), 2);
    CHECK_INT(world_log_count(r.world, "INFO", "action=recovered"), 1);
    rig_deinit(&r);
}

/* ---- a status that expires ------------------------------------------------------------------- */

static sdc_registrar_desc registrar_desc_expiring(sdc_check *check, uint32_t expires_ms)
{
    sdc_registrar_desc desc = registrar_desc_with(check, 10000);
    desc.status_expires_ms = expires_ms;
    return desc;
}

/* When the newest beat came, since the start. */
static uint64_t registrar_last_beat_ms(const rig *r)
{
    return registrar_last(r, REGISTRAR_UPDATE)->at_ms - WORLD_START_MS;
}

/* The program hangs from the start, speaks once after five minutes, and hangs again. */
static void test_beats_end_when_the_status_expires(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        sdc_check check;
        REQUIRE(registrar_begin_driven(&r, i));
        sdc_registrar_desc desc = registrar_desc_expiring(&check, 30000);
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, 300000);
        CHECK_BETWEEN(registrar_last_beat_ms(&r), 26000, 29999);
        CHECK_INT(world_log_count(r.world, "WARN", "check=service:web-1 action=expire"), 1);
        CHECK_INT(world_log_count(r.world, NULL, "action=revive"), 0);
        CHECK(sdc_registrar_is_registered(r.registrar));
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, "w"), SDC_OK);
        rig_run(&r, 10);
        CHECK_INT(registrar_last_beat_ms(&r), 300000);
        CHECK_STR(script_last(r.script)->body, "{\"Status\":\"warning\",\"Output\":\"w\"}");
        CHECK_INT(world_log_count(r.world, "INFO", "check=service:web-1 action=revive"), 1);
        rig_run(&r, 300000);
        CHECK_BETWEEN(registrar_last_beat_ms(&r), 326000, 329999);
        CHECK_INT(world_log_count(r.world, "WARN", "action=expire"), 2);
        CHECK_INT(world_log_count(r.world, NULL, "action=revive"), 1);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        rig_deinit(&r);
    }
}

static void test_status_that_is_told_in_time_does_not_expire(void)
{
    static const uint32_t expires[] = { 0, SDC_NEVER, 5000 };
    for (size_t i = 0; i < REGISTRAR_NUM(expires); i++) {
        rig r;
        sdc_check check;
        test_note("%u ms", (unsigned)expires[i]);
        REQUIRE(registrar_begin(&r, NULL));
        sdc_registrar_desc desc = registrar_desc_expiring(&check, expires[i]);
        REQUIRE(rig_register(&r, &desc));
        for (int n = 0; n < 100; n++) {
            rig_run(&r, 4999);
            if (expires[i] == 5000) {
                CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, ""),
                          SDC_OK);
            }
        }
        CHECK(registrar_count(&r, REGISTRAR_UPDATE) >= 150);
        CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 0);
        CHECK_INT(world_log_count(r.world, NULL, "action=expire"), 0);
        rig_deinit(&r);
    }
}

/* Also where no beat is due for long. */
static void test_status_expires_on_time(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        sdc_check check;
        REQUIRE(registrar_begin_driven(&r, i));
        sdc_registrar_desc desc = registrar_desc_with(&check, 3600000);
        desc.status_expires_ms = 30000;
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, 29999);
        CHECK_INT(world_log_count(r.world, NULL, "action=expire"), 0);
        rig_run(&r, 2);
        CHECK_INT(world_log_count(r.world, NULL, "action=expire"), 1);
        CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 1);
        rig_deinit(&r);
    }
}

/* Each check has a status of its own. One that beats shows that the service is there; without one
   the agent is asked. */
static void test_each_check_expires_by_itself(void)
{
    rig r;
    sdc_check checks[2];
    sdc_registrar_desc desc;
    registrar_two_checks(checks, &desc);
    desc.status_expires_ms = 30000;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, &desc));
    for (int i = 0; i < 4; i++) {
        rig_run(&r, 25000);
        CHECK_ERR(sdc_registrar_set_status(r.registrar, "two", SDC_STATUS_PASSING, ""), SDC_OK);
    }
    CHECK_BETWEEN(registrar_count(&r, REGISTRAR_UPDATE "one"), 9, 12);
    CHECK(registrar_count(&r, REGISTRAR_UPDATE "two") >= 30);
    CHECK_INT(world_log_count(r.world, NULL, "check=one action=expire"), 1);
    CHECK_INT(world_log_count(r.world, NULL, "check=two action=expire"), 0);
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 0);
    rig_run(&r, 29000);
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 0);
    rig_run(&r, 62000);
    CHECK_INT(world_log_count(r.world, NULL, "check=two action=expire"), 1);
    CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 3);
    rig_deinit(&r);
}

/* The age counts from the call, not from when a step came to look. */
static void test_status_is_as_old_as_its_call(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_expiring(&check, 30000);
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 20000);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, ""), SDC_OK);
    world_advance(r.world, 25000);
    rig_run(&r, 4000);
    CHECK_HAS(registrar_last(&r, REGISTRAR_UPDATE)->body, "warning");
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
    size_t before = registrar_count(&r, REGISTRAR_UPDATE);
    world_advance(r.world, 31000);
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), before);
    CHECK_INT(world_log_count(r.world, NULL, "action=expire"), 1);
    rig_deinit(&r);
}

/* A beat that is under way when its status expires is not repeated. */
static void test_beat_that_fails_when_it_expires_is_not_repeated(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_UPDATE);
    script_ok(r.script);
    script_hang(r.script);
    sdc_registrar_desc desc = registrar_desc_expiring(&check, 4000);
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), 2);
    CHECK_INT(world_log_count(r.world, "WARN", "err="), 1);
    rig_deinit(&r);
}

/* What is registered again while the program is silent must not look well. */
static void test_silent_service_comes_back_as_critical(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_VERIFY);
    script_reply(r.script, 200, NULL, "{}");
    script_error(r.script, 404, "unknown service ID: web-1");
    script_reply(r.script, 200, NULL, "{}");
    sdc_registrar_desc desc = registrar_desc_expiring(&check, 30000);
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 59000);
    size_t before = registrar_count(&r, REGISTRAR_UPDATE);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    rig_run(&r, 200000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    CHECK_INT(registrar_count(&r, REGISTRAR_UPDATE), before + 1);
    const script_request *beat = registrar_last(&r, REGISTRAR_UPDATE);
    CHECK_U64(beat->at_ms, registrar_last(&r, REGISTRAR_REGISTER)->at_ms);
    CHECK_STR(beat->body, "{\"Status\":\"critical\","
              "\"Output\":\"the program's status has expired\"}");
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
    rig_run(&r, 10);
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE)->body, "{\"Status\":\"passing\"}");
    rig_deinit(&r);
}

static void test_expired_status_at_agents_of_both_versions(void)
{
    for (int i = 0; i < 2; i++) {
        registrar_stage s;
        sdc_check check;
        test_note("agent %d", i);
        sdc_registrar_desc desc = registrar_desc_expiring(&check, 30000);
        REQUIRE(registrar_stage_begin(&s, i != 0 ? AGENT_1_22 : AGENT_1_8, NULL, &desc));
        world_run(s.w, s.task, 29000);
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "passing");
        world_run(s.w, s.task, 12000);
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "critical");
        CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
        world_run(s.w, s.task, 10);
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "passing");
        world_run(s.w, s.task, 50000);
        agent_restart(s.a, 0, false, world_now(s.w));
        world_run(s.w, s.task, 30100);
        CHECK(agent_has_service(s.a, "web-1"));
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "critical");
        registrar_stage_end(&s);
    }
}

/* Two beats in a row that get no answer do not cost the TTL. */
static void test_81_two_lost_beats_do_not_cost_the_ttl(void)
{
    static const uint32_t ttls[] = { 8000, 10000, 60000 };
    for (size_t i = 0; i < REGISTRAR_NUM(ttls) * 2; i++) {
        rig r;
        sdc_check check;
        uint32_t ttl_ms = ttls[i / 2];
        test_note("TTL %u, %s", (unsigned)ttl_ms, i % 2 != 0 ? "500" : "no answer");
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_UPDATE);
        script_times(r.script, 2);
        script_ok(r.script);
        script_times(r.script, 2);
        if (i % 2 != 0) {
            script_error(r.script, 500, "no");
        } else {
            script_hang(r.script);
        }
        script_ok(r.script);
        sdc_registrar_desc desc = registrar_desc_with(&check, ttl_ms);
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, (uint64_t)ttl_ms * 3);
        const script_request *good = script_nth_of(r.script, REGISTRAR_UPDATE, 1);
        const script_request *next = script_nth_of(r.script, REGISTRAR_UPDATE, 4);
        if (CHECK(next != NULL)) {
            CHECK_BETWEEN(next->at_ms - good->at_ms, ttl_ms / 3, ttl_ms - ttl_ms / 20);
        }
        rig_deinit(&r);
    }
}

/* ---- what is registered was changed by somebody ---------------------------------------------- */

static void registrar_hash(rig *r, const char *hash)
{
    char field[80];
    snprintf(field, sizeof field, "X-Consul-ContentHash: %s\r\n", hash);
    script_reply(r->script, 200, field, "{}");
}

static void test_verify_registers_again_what_is_different(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        registrar_on(&r, REGISTRAR_VERIFY);
        script_times(r.script, 3);
        registrar_hash(&r, "a");
        registrar_hash(&r, "b");
        registrar_hash(&r, "a");
        sdc_registrar_desc desc = registrar_desc_plain();
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, 10);
        CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 1);
        rig_run(&r, 85000);
        CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), 3);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        rig_run(&r, 5000);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        CHECK_U64(registrar_last(&r, REGISTRAR_REGISTER)->at_ms, WORLD_START_MS + 90000);
        CHECK_STR(script_query(registrar_last(&r, REGISTRAR_REGISTER), "replace-existing-checks"),
                  "true");
        CHECK_INT(world_log_count(r.world, "WARN", "err=what is registered"), 1);
        CHECK(sdc_registrar_is_registered(r.registrar));
        rig_run(&r, 600000);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        rig_deinit(&r);
    }
}

/* A hash that is another one each time costs a registration each verify_ms and no more. */
static void test_hash_that_always_differs_makes_no_storm(void)
{
    rig r;
    char hash[16];
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_VERIFY);
    for (int i = 0; i < 100; i++) {
        snprintf(hash, sizeof hash, "%x", i);
        registrar_hash(&r, hash);
    }
    sdc_registrar_desc desc = registrar_desc_plain();
    desc.verify_ms = 20000;
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 600000);
    CHECK_BETWEEN(registrar_count(&r, REGISTRAR_REGISTER), 25, 31);
    CHECK_BETWEEN(registrar_count(&r, REGISTRAR_VERIFY), 50, 61);
    rig_deinit(&r);
}

/* Tags that others may change, and agents that tell no hash: only what is gone counts. */
static void test_verify_by_presence_alone(void)
{
    for (int i = 0; i < 3; i++) {
        rig r;
        test_note("case %d", i);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_VERIFY);
        if (i == 0) {
            registrar_hash(&r, "a");
            registrar_hash(&r, "b");
        } else if (i == 1) {
            script_reply(r.script, 200, NULL, "{}");
        } else {
            registrar_hash(&r, "a");
            script_reply(r.script, 200, NULL, "{}");
            registrar_hash(&r, "a");
            script_reply(r.script, 200, NULL, "{}");
        }
        sdc_registrar_desc desc = registrar_desc_plain();
        desc.registration.enable_tag_override = i == 0;
        REQUIRE(rig_register(&r, &desc));
        rig_run(&r, 301000);
        CHECK_INT(registrar_count(&r, REGISTRAR_VERIFY), i == 0 ? 10 : 11);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        script_error(r.script, 404, "unknown service ID: web-1");
        script_reply(r.script, 200, NULL, "{}");
        rig_run(&r, 61000);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        rig_deinit(&r);
    }
}

/* The tags of the service web as the agent tells them, by comma. */
static const char *registrar_tags(registrar_stage *s, char text[100])
{
    sdc_query query;
    const sdc_event *event = NULL;
    memset(&query, 0, sizeof query);
    query.service = "web";
    text[0] = '\0';
    if (!CHECK_ERR(sdc_client_service(s->client, &query, &event, NULL), SDC_OK)) {
        return text;
    }
    for (size_t i = 0; i < event->num_instances; i++) {
        for (size_t k = 0; k < event->instances[i].num_tags; k++) {
            size_t len = strlen(text);
            snprintf(text + len, 100 - len, "%s%s", len > 0 ? "," : "",
                     event->instances[i].tags[k]);
        }
    }
    sdc_event_release(event);
    return text;
}

static void test_different_at_agents_of_both_versions(void)
{
    static const char *const mine[] = { "mine" };
    static const char *const other[] = { "other" };
    for (int i = 0; i < 2; i++) {
        registrar_stage s;
        char tags[100];
        test_note("agent %d", i);
        sdc_registrar_desc desc = registrar_desc_plain();
        desc.registration.address = "10.9.0.1";
        desc.registration.port = 8000;
        desc.registration.tags = mine;
        desc.registration.num_tags = 1;
        REQUIRE(registrar_stage_begin(&s, i != 0 ? AGENT_1_22 : AGENT_1_8, NULL, &desc));
        CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, true, "x"), SDC_OK);
        world_run(s.w, s.task, 100000);
        CHECK_STR(registrar_tags(&s, tags), "mine");
        CHECK_INT(world_log_count(s.w, NULL, "action=register"), 1);
        sdc_registration thief = desc.registration;
        thief.tags = other;
        CHECK_ERR(sdc_client_register(s.client, &thief, NULL), SDC_OK);
        CHECK_STR(registrar_tags(&s, tags), "other");
        world_run(s.w, s.task, 30100);
        CHECK_STR(registrar_tags(&s, tags), "mine");
        world_run(s.w, s.task, 100000);
        CHECK_INT(world_log_count(s.w, NULL, "action=register"), 2);
        registrar_stage_end(&s);
    }
}

/* ---- updates --------------------------------------------------------------------------------- */

/* The registration of rig_register with one tag. The check and the tag are the caller's memory. */
static sdc_registration registrar_tagged(sdc_check *check, const char *const *tag)
{
    sdc_registration registration;
    memset(&registration, 0, sizeof registration);
    memset(check, 0, sizeof *check);
    check->ttl_ms = 10000;
    registration.id = "web-1";
    registration.name = "web";
    registration.address = "10.9.0.1";
    registration.port = 8000;
    registration.checks = check;
    registration.num_checks = 1;
    registration.tags = tag;
    registration.num_tags = 1;
    return registration;
}

static sdc_err registrar_update(sdc_registrar *registrar, const char *tag)
{
    sdc_check check;
    sdc_error error;
    sdc_registration registration = registrar_tagged(&check, &tag);
    sdc_err err = sdc_registrar_update(registrar, &registration, &error);
    CHECK_INT(error.code, err);
    return err;
}

static void test_update_registers_in_place(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        sdc_stats stats;
        REQUIRE(registrar_begin_driven(&r, i));
        REQUIRE(rig_register(&r, NULL));
        const char *id = sdc_registrar_id(r.registrar);
        rig_run(&r, 10000);
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, "w"), SDC_OK);
        rig_run(&r, 1000);
        char tag[] = "v2";
        CHECK_ERR(registrar_update(r.registrar, tag), SDC_OK);
        memset(tag, 'x', 2);
        CHECK_INT(sdc_task_wants(r.task).timeout_ms, 0);
        CHECK(sdc_registrar_is_registered(r.registrar));
        rig_run(&r, 10);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        const script_request *request = registrar_last(&r, REGISTRAR_REGISTER);
        CHECK_U64(request->at_ms, WORLD_START_MS + 11000);
        CHECK_HAS(request->body, "\"Tags\":[\"v2\"]");
        CHECK(script_query(request, "replace-existing-checks") == NULL);
        CHECK_STR(script_last(r.script)->body, "{\"Status\":\"warning\",\"Output\":\"w\"}");
        CHECK_STR(sdc_registrar_id(r.registrar), "web-1");
        CHECK(sdc_registrar_id(r.registrar) == id);
        rig_run(&r, 60000);
        CHECK_BETWEEN(registrar_count(&r, REGISTRAR_UPDATE), 20, 28);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), 0);
        CHECK_INT(world_log_count(r.world, "INFO", "tags=[v2] address=10.9.0.1 action=register"),
                  1);
        sdc_task_stats(r.task, &stats);
        CHECK_U64(stats.registrations, 2);
        rig_deinit(&r);
    }
}

/* The newest one is what the agent hears when it is back, or the first time. */
static void test_update_while_the_agent_is_away(void)
{
    for (int is_first = 0; is_first <= 1; is_first++) {
        rig r;
        test_note("%s", is_first ? "before the first registration" : "after it");
        REQUIRE(registrar_begin(&r, NULL));
        script_set_down(r.script, is_first != 0);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 10000);
        script_set_down(r.script, true);
        CHECK_ERR(registrar_update(r.registrar, "lost"), SDC_OK);
        CHECK_ERR(registrar_update(r.registrar, "v2"), SDC_OK);
        rig_run(&r, 60000);
        CHECK_ERR(registrar_update(r.registrar, "lost"), SDC_OK);
        CHECK_ERR(registrar_update(r.registrar, "v3"), SDC_OK);
        rig_run(&r, 60000);
        script_set_down(r.script, false);
        rig_run(&r, 31000);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), is_first ? 1 : 2);
        CHECK_HAS(registrar_last(&r, REGISTRAR_REGISTER)->body, "\"Tags\":[\"v3\"]");
        CHECK(sdc_registrar_is_registered(r.registrar));
        rig_deinit(&r);
    }
}

/* The pauses of an outage long ago do not count any more. */
static void test_update_after_an_old_outage(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    script_set_down(r.script, true);
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 600000);
    script_set_down(r.script, false);
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
    registrar_on(&r, REGISTRAR_REGISTER);
    script_times(r.script, 2);
    script_error(r.script, 500, "No cluster leader");
    script_ok(r.script);
    CHECK_ERR(registrar_update(r.registrar, "v2"), SDC_OK);
    rig_run(&r, 3100);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 4);
    rig_deinit(&r);
}

/* While a registration is under way: another one follows at once. */
static void test_update_during_a_registration(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        rig r;
        REQUIRE(registrar_begin_driven(&r, i));
        registrar_on(&r, REGISTRAR_REGISTER);
        script_delay(r.script, 1000);
        script_ok(r.script);
        script_ok(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 500);
        CHECK_ERR(registrar_update(r.registrar, "v2"), SDC_OK);
        rig_run(&r, 499);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 1);
        CHECK(!sdc_registrar_is_registered(r.registrar));
        rig_run(&r, 100);
        CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
        const script_request *request = registrar_last(&r, REGISTRAR_REGISTER);
        CHECK_U64(request->at_ms, WORLD_START_MS + 1000);
        CHECK_HAS(request->body, "v2");
        rig_deinit(&r);
    }
}

/* What the agent refuses is tried again slowly, and what was there before is kept alive. */
static void test_refused_update_keeps_what_is_there(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    registrar_on(&r, REGISTRAR_REGISTER);
    script_ok(r.script);
    script_error(r.script, 400, "Invalid Service Meta: too long");
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 20000);
    CHECK_ERR(registrar_update(r.registrar, "v2"), SDC_OK);
    rig_run(&r, 1);
    sdc_task_error(r.task, &error);
    CHECK_INT(error.http_status, 400);
    CHECK_HAS(error.message, "Invalid Service Meta: too long");
    rig_run(&r, 100000);
    CHECK(sdc_registrar_is_registered(r.registrar));
    CHECK_BETWEEN(registrar_count(&r, REGISTRAR_REGISTER), 5, 20);
    registrar_check_beats(&r, REGISTRAR_UPDATE, 10000 / 3);
    script_clear(r.script);
    script_on(r.script, "PUT ");
    script_ok(r.script);
    registrar_on(&r, REGISTRAR_REGISTER);
    script_ok(r.script);
    size_t before = registrar_count(&r, REGISTRAR_REGISTER);
    CHECK_ERR(registrar_update(r.registrar, "v3"), SDC_OK);
    rig_run(&r, 34000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), before + 1);
    CHECK_HAS(registrar_last(&r, REGISTRAR_REGISTER)->body, "v3");
    rig_run(&r, 60000);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), before + 1);
    rig_deinit(&r);
}

static void registrar_refused(sdc_registrar *registrar, const sdc_registration *registration,
                              const char *field)
{
    sdc_error error;
    test_note("%s", field);
    CHECK_ERR(sdc_registrar_update(registrar, registration, &error), SDC_ERR_ARG);
    CHECK_INT(error.code, SDC_ERR_ARG);
    CHECK_HAS(error.message, field);
    CHECK_ERR(sdc_registrar_update(registrar, registration, NULL), SDC_ERR_ARG);
}

static void test_update_refusals(void)
{
    rig r;
    sdc_check checks[2];
    const char *tag = "no";
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 100);
    size_t before = script_num_requests(r.script);
    sdc_registration with = registrar_tagged(&checks[0], &tag);
    with.id = "web-2";
    registrar_refused(r.registrar, &with, "id: is web-1 and cannot become web-2");
    with.id = NULL;
    registrar_refused(r.registrar, &with, "id: is web-1 and cannot become web-10.9.0.1-8000");
    with = registrar_tagged(&checks[0], &tag);
    with.name = "";
    registrar_refused(r.registrar, &with, "name");
    with = registrar_tagged(&checks[0], &tag);
    with.num_checks = 0;
    registrar_refused(r.registrar, &with, "checks: the TTL checks cannot be left out");
    with = registrar_tagged(&checks[0], &tag);
    checks[0].ttl_ms = 10001;
    registrar_refused(r.registrar, &with, "checks[0]");
    with = registrar_tagged(&checks[0], &tag);
    checks[0].id = "other";
    registrar_refused(r.registrar, &with, "checks[0]");
    with = registrar_tagged(&checks[0], &tag);
    checks[1] = checks[0];
    checks[1].id = "second";
    checks[0].id = "service:web-1";
    with.num_checks = 2;
    registrar_refused(r.registrar, &with, "checks[1]");
    rig_run(&r, 100);
    CHECK_INT(script_num_requests(r.script), before);
    rig_deinit(&r);
}

/* Checks of other kinds may come and go. */
static void test_update_of_other_checks(void)
{
    rig r;
    sdc_check checks[2];
    const char *tag = "v2";
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 100);
    sdc_registration with = registrar_tagged(&checks[1], &tag);
    checks[1].id = "service:web-1";
    memset(&checks[0], 0, sizeof checks[0]);
    checks[0].id = "port";
    checks[0].tcp = "10.9.0.1:8000";
    with.checks = checks;
    with.num_checks = 2;
    CHECK_ERR(sdc_registrar_update(r.registrar, &with, NULL), SDC_OK);
    rig_run(&r, 100);
    CHECK_HAS(registrar_last(&r, REGISTRAR_REGISTER)->body, "\"CheckID\":\"port\"");
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE)->raw_path,
              "/v1/agent/check/update/service%3Aweb-1");
    CHECK_ERR(registrar_update(r.registrar, "v3"), SDC_OK);
    rig_run(&r, 100);
    CHECK_HASNT(registrar_last(&r, REGISTRAR_REGISTER)->body, "port\"");
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 3);
    rig_deinit(&r);
}

/* A call that says "not now" keeps what is wanted for later; a stop ends it. */
static void test_update_of_what_is_not_registered(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 1000);
    CHECK_ERR(sdc_registrar_deregister(r.registrar, NULL), SDC_OK);
    CHECK_ERR(registrar_update(r.registrar, "v2"), SDC_OK);
    size_t before = script_num_requests(r.script);
    rig_run(&r, 60000);
    CHECK_INT(script_num_requests(r.script), before);
    CHECK(!sdc_registrar_is_registered(r.registrar));
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    CHECK_INT(script_num_requests(r.script), before + 1);
    CHECK_HAS(registrar_last(&r, REGISTRAR_REGISTER)->body, "v2");
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    before = script_num_requests(r.script);
    CHECK_ERR(registrar_update(r.registrar, "v3"), SDC_OK);
    CHECK_ERR(sdc_step(r.task, 1000), SDC_STOPPED);
    CHECK_INT(script_num_requests(r.script), before);
    rig_deinit(&r);
}

static void registrar_begin_maintenance(void *user)
{
    CHECK_ERR(sdc_registrar_set_maintenance((sdc_registrar *)user, true, "m"), SDC_OK);
}

static void registrar_begin_update(void *user)
{
    sdc_check check;
    const char *tag = "v2";
    sdc_registration with = registrar_tagged(&check, &tag);
    check.ttl_ms = 3600000;
    CHECK_ERR(sdc_registrar_update((sdc_registrar *)user, &with, NULL), SDC_OK);
}

static void test_update_and_maintenance_wake_a_blocked_step(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_with(&check, 3600000);
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    world_after(r.world, 777, registrar_begin_maintenance, r.registrar);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 777);
    CHECK_INT(registrar_count(&r, REGISTRAR_MAINTAIN), 1);
    world_after(r.world, 111, registrar_begin_update, r.registrar);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 888);
    CHECK_INT(registrar_count(&r, REGISTRAR_REGISTER), 2);
    rig_deinit(&r);
}

static void test_update_at_agents_of_both_versions(void)
{
    for (int i = 0; i < 2; i++) {
        registrar_stage s;
        sdc_check checks[2];
        const char *tag = "v1";
        char tags[100];
        test_note("agent %d", i);
        sdc_registrar_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.registration = registrar_tagged(&checks[0], &tag);
        checks[0].id = "alive";
        memset(&checks[1], 0, sizeof checks[1]);
        checks[1].id = "port";
        checks[1].tcp = "10.9.0.1:8000";
        desc.registration.checks = checks;
        desc.registration.num_checks = 2;
        REQUIRE(registrar_stage_begin(&s, i != 0 ? AGENT_1_22 : AGENT_1_8, NULL, &desc));
        CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_WARNING, "w"), SDC_OK);
        world_run(s.w, s.task, 10000);
        CHECK_STR(registrar_tags(&s, tags), "v1");
        CHECK_STR(agent_check_status(s.a, "port"), "critical");
        tag = "v2";
        desc.registration.num_checks = 1;
        CHECK_ERR(sdc_registrar_update(s.registrar, &desc.registration, NULL), SDC_OK);
        world_run(s.w, s.task, 10);
        CHECK_STR(registrar_tags(&s, tags), "v2");
        CHECK_STR(agent_check_status(s.a, "alive"), "warning");
        CHECK_STR(agent_check_status(s.a, "port"), "");
        agent_restart(s.a, 0, false, world_now(s.w));
        world_run(s.w, s.task, 4000);
        CHECK_STR(registrar_tags(&s, tags), "v2");
        registrar_stage_end(&s);
    }
}

/* ---- several agents -------------------------------------------------------------------------- */

enum { REGISTRAR_AGENTS = 3 };

typedef struct registrar_trio {
    rig     r;
    script *of[REGISTRAR_AGENTS];   /* at 10.0.0.1, .2 and .3 */
} registrar_trio;

static void registrar_says_yes(script *s)
{
    script_clear(s);
    script_on(s, "GET ");
    script_reply(s, 200, NULL, "{}");
    script_on(s, "PUT ");
    script_ok(s);
}

/* drive: the nth of registrar_drives. */
static bool registrar_trio_begin(registrar_trio *t, size_t drive)
{
    sdc_client_desc client;
    world_desc desc;
    memset(&client, 0, sizeof client);
    memset(&desc, 0, sizeof desc);
    desc.drive = registrar_drives[drive];
    client.address = "10.0.0.1:8500,10.0.0.2:8500,10.0.0.3:8500";
    if (!rig_init_client(&t->r, &desc, &client)) {
        return false;
    }
    t->of[0] = t->r.script;
    t->of[1] = script_create(t->r.world, "10.0.0.2", 8500);
    t->of[2] = script_create(t->r.world, "10.0.0.3", 8500);
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        registrar_says_yes(t->of[i]);
    }
    return true;
}

static size_t registrar_count_at(const registrar_trio *t, size_t nth, const char *start)
{
    return script_count(t->of[nth], start);
}

/* No two good beats at an agent, from a time on, are a TTL of 10 s apart, and the newest is young. */
static void registrar_check_alive(const registrar_trio *t, size_t nth, uint64_t from_ms)
{
    size_t num = registrar_count_at(t, nth, REGISTRAR_UPDATE);
    uint64_t last_ms = from_ms;
    for (size_t i = 0; i < num && test_num_failures() < 5; i++) {
        uint64_t at_ms = script_nth_of(t->of[nth], REGISTRAR_UPDATE, i)->at_ms;
        if (at_ms >= from_ms) {
            CHECK_BETWEEN(at_ms - last_ms, 0, 9999);
            last_ms = at_ms;
        }
    }
    CHECK_BETWEEN(world_now(t->r.world) - last_ms, 0, 9999);
}

static void test_87_registers_at_the_first_agent_alone(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 3600000);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 1);
    CHECK_U64(world_seen(t.r.world)->opened, 1);
    rig_deinit(&t.r);
}

static void test_87_registers_at_the_next_agent_at_once(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        registrar_trio t;
        test_note("%s", registrar_drive_names[i]);
        REQUIRE(registrar_trio_begin(&t, i));
        script_set_down(t.of[0], true);
        script_set_down(t.of[1], true);
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 50);
        CHECK(sdc_registrar_is_registered(t.r.registrar));
        CHECK_INT(registrar_count_at(&t, 2, REGISTRAR_REGISTER), 1);
        CHECK_INT(registrar_count_at(&t, 2, REGISTRAR_UPDATE), 1);
        rig_deinit(&t.r);
    }
}

/* What is refused here is refused everywhere; what an agent cannot do, another one may. */
static void test_87_what_makes_a_registrar_leave_an_agent(void)
{
    static const struct { int status; const char *text; bool leaves; } rows[] = {
        { 500, "No cluster leader", true }, { 429, "slow down", true }, { 502, "bad", true },
        { 503, "rate limit exceeded", true }, { 400, "Request decode failed", false },
        { 403, "Permission denied", false }, { 500, "Scripts are disabled", false },
    };
    static const char *const jobs[] = { REGISTRAR_REGISTER, REGISTRAR_UPDATE };
    for (size_t i = 0; i < 2 * REGISTRAR_NUM(rows); i++) {
        registrar_trio t;
        const char *job = jobs[i % 2];
        test_note("%s: %d %s", job, rows[i / 2].status, rows[i / 2].text);
        REQUIRE(registrar_trio_begin(&t, 0));
        script_on(t.of[0], job);
        script_error(t.of[0], rows[i / 2].status, rows[i / 2].text);
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 10);
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), rows[i / 2].leaves ? 1 : 0);
        rig_run(&t.r, 20000);
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), rows[i / 2].leaves ? 1 : 0);
        CHECK_INT(registrar_count_at(&t, 2, REGISTRAR_REGISTER), 0);
        rig_deinit(&t.r);
    }
}

/* The first agent dies and comes back: the service, its status and its maintenance go to the second
   one, its twin is taken away as soon as that is possible, and after minutes all goes home. */
static void test_87_registration_moves_and_comes_home(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives); i++) {
        registrar_trio t;
        test_note("%s", registrar_drive_names[i]);
        REQUIRE(registrar_trio_begin(&t, i));
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 20000);
        CHECK_ERR(sdc_registrar_set_status(t.r.registrar, NULL, SDC_STATUS_WARNING, "w"), SDC_OK);
        CHECK_ERR(sdc_registrar_set_maintenance(t.r.registrar, true, "m"), SDC_OK);
        rig_run(&t.r, 100);
        script_set_down(t.of[0], true);
        rig_run(&t.r, 3400);
        CHECK(sdc_registrar_is_registered(t.r.registrar));
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
        CHECK_STR(script_nth_of(t.of[1], REGISTRAR_UPDATE, 0)->body,
                  "{\"Status\":\"warning\",\"Output\":\"w\"}");
        CHECK_STR(script_nth_of(t.of[1], REGISTRAR_MAINTAIN, 0)->raw_query,
                  "enable=true&reason=m");
        rig_run(&t.r, 26000);
        CHECK_INT(world_num_connects(t.r.world, "10.0.0.1", 8500), 2);
        rig_run(&t.r, 74000);
        CHECK_BETWEEN(world_num_connects(t.r.world, "10.0.0.1", 8500), 3, 6);
        script_set_down(t.of[0], false);
        rig_run(&t.r, 190000);
        CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_DEREGISTER), 1);
        CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 1);
        registrar_check_alive(&t, 1, WORLD_START_MS + 24000);
        rig_run(&t.r, 90000);
        CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 2);
        const script_request *home = script_nth_of(t.of[0], REGISTRAR_REGISTER, 1);
        const script_request *twin = script_nth_of(t.of[1], REGISTRAR_DEREGISTER, 0);
        if (CHECK(home != NULL && twin != NULL)) {
            CHECK_BETWEEN(home->at_ms - WORLD_START_MS - 20000, 300000, 380000);
            CHECK_BETWEEN(twin->at_ms - home->at_ms, 0, 10);
        }
        CHECK(sdc_registrar_is_registered(t.r.registrar));
        rig_run(&t.r, 3600000);
        CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 2);
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_DEREGISTER), 1);
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
        CHECK_INT(script_num_requests(t.of[2]), 0);
        rig_deinit(&t.r);
    }
}

/* The first agent never comes back, in three ways: what is tried there costs the second one no TTL
   and no registration, and is tried rarely. */
static void test_87_excursions_cost_no_ttl(void)
{
    static const char *const ways[] = { "refuses", "blackhole", "hangs" };
    for (size_t i = 0; i < REGISTRAR_NUM(ways); i++) {
        registrar_trio t;
        test_note("%s", ways[i]);
        REQUIRE(registrar_trio_begin(&t, 0));
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 1000);
        if (i == 2) {
            script_clear(t.of[0]);
            script_on(t.of[0], "PUT ");
            script_hang(t.of[0]);
        } else {
            script_set_down(t.of[0], true);
            world_listen_mode(t.r.world, "10.0.0.1", 8500,
                              i == 0 ? WORLD_REFUSES : WORLD_BLACKHOLE);
        }
        size_t before = world_num_connects(t.r.world, "10.0.0.1", 8500);
        rig_run(&t.r, 15000);
        for (int n = 0; n < 7200; n++) {
            sdc_stats stats;
            rig_run(&t.r, 1000);
            sdc_task_stats(t.r.task, &stats);
            CHECK(sdc_registrar_is_registered(t.r.registrar));
            CHECK_INT(stats.consecutive_failures, 0);
        }
        registrar_check_alive(&t, 1, WORLD_START_MS + 16000);
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
        CHECK_BETWEEN(world_num_connects(t.r.world, "10.0.0.1", 8500) - before, 25, 60);
        CHECK_INT(script_num_requests(t.of[2]), 0);
        rig_deinit(&t.r);
    }
}

/* All are away for an hour: rounds of the list with growing pauses, and back soon afterwards. */
static void test_87_no_storm_when_all_agents_are_away(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        script_set_down(t.of[i], true);
    }
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 3600000);
    CHECK_BETWEEN(world_num_connects(t.r.world, "10.0.0.1", 8500), 30, 140);
    CHECK_BETWEEN(world_num_connects(t.r.world, "10.0.0.3", 8500), 30, 140);
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        script_set_down(t.of[i], false);
    }
    rig_run(&t.r, 31000);
    CHECK(sdc_registrar_is_registered(t.r.registrar));
    rig_deinit(&t.r);
}

/* Each takes the registration and none the beats: that is no reason to run round in circles. */
static void test_87_no_storm_when_no_agent_takes_beats(void)
{
    registrar_trio t;
    size_t num = 0;
    REQUIRE(registrar_trio_begin(&t, 0));
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        script_on(t.of[i], REGISTRAR_UPDATE);
        script_error(t.of[i], 503, "rate limit exceeded");
    }
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 600000);
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        num += script_num_requests(t.of[i]);
    }
    CHECK_BETWEEN(num, 30, 600);
    rig_deinit(&t.r);
}

/* A bad second agent is no place to stay at: home is looked for from there, too. */
static void test_87_comes_home_from_where_it_is_refused(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    script_set_down(t.of[0], true);
    script_on(t.of[1], REGISTRAR_REGISTER);
    script_error(t.of[1], 403, "Permission denied");
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 1000);
    script_set_down(t.of[0], false);
    rig_run(&t.r, 376000);
    CHECK(sdc_registrar_is_registered(t.r.registrar));
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 1);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_UPDATE) > 0, true);
    rig_deinit(&t.r);
}

/* What was updated while the first agent was away is what it gets. */
static void test_87_newest_registration_comes_home(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 1000);
    script_set_down(t.of[0], true);
    rig_run(&t.r, 10000);
    CHECK_ERR(registrar_update(t.r.registrar, "v2"), SDC_OK);
    rig_run(&t.r, 1000);
    CHECK_HAS(script_nth_of(t.of[1], REGISTRAR_REGISTER, 1)->body, "v2");
    rig_run(&t.r, 280000);
    t.r.registrar->to_take_back.due_ms = world_now(t.r.world) + 600000;     /* as after long */
    script_set_down(t.of[0], false);
    rig_run(&t.r, 100000);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 2);
    const script_request *home = script_nth_of(t.of[0], REGISTRAR_REGISTER, 1);
    CHECK_HAS(home->body, "v2");
    CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_DEREGISTER), 1);
    CHECK_U64(script_nth_of(t.of[1], REGISTRAR_DEREGISTER, 0)->at_ms, home->at_ms);
    rig_deinit(&t.r);
}

/* Without a TTL check it is the verification that notices; a registration that got no answer may
   have been heard all the same, and is taken back. */
static void test_87_service_without_ttl_moves(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    script_on(t.of[0], REGISTRAR_REGISTER);
    script_hang(t.of[0]);
    sdc_registrar_desc desc = registrar_desc_plain();
    REQUIRE(rig_register(&t.r, &desc));
    rig_run(&t.r, 15100);
    CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
    rig_run(&t.r, 60000);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_DEREGISTER), 1);
    CHECK_INT(world_log_count(t.r.world, "INFO", "action=deregister_twin"), 1);
    script_set_down(t.of[1], true);
    rig_run(&t.r, 31000);
    CHECK_INT(registrar_count_at(&t, 2, REGISTRAR_REGISTER), 1);
    rig_deinit(&t.r);
}

/* Moved from the first to the second, with the first one back: stop asks both, the base first. */
static void test_87_stop_takes_back_everywhere(void)
{
    for (size_t i = 0; i < REGISTRAR_NUM(registrar_drives) * 2; i++) {
        registrar_trio t;
        bool is_dead = i % 2 != 0;
        test_note("%s, base %s", registrar_drive_names[i / 2], is_dead ? "is dead" : "is well");
        REQUIRE(registrar_trio_begin(&t, i / 2));
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 10000);
        script_set_down(t.of[0], true);
        rig_run(&t.r, 50000);
        script_set_down(t.of[0], false);
        if (is_dead) {
            script_clear(t.of[1]);
            script_on(t.of[1], "PUT ");
            script_hang(t.of[1]);
        }
        uint64_t at_ms = world_now(t.r.world);
        CHECK_ERR(rig_stop(&t.r), SDC_STOPPED);
        CHECK_BETWEEN(world_now(t.r.world) - at_ms, is_dead ? 1000 : 0, is_dead ? 2000 : 10);
        CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_DEREGISTER), 1);
        CHECK_BETWEEN(registrar_count_at(&t, 1, REGISTRAR_DEREGISTER), 1, is_dead ? 3 : 1);
        const script_request *first = script_nth_of(t.of[1], REGISTRAR_DEREGISTER, 0);
        const script_request *second = script_nth_of(t.of[0], REGISTRAR_DEREGISTER, 0);
        if (CHECK(first != NULL && second != NULL)) {
            CHECK_U64(first->at_ms, at_ms);
            CHECK_U64(second->at_ms, at_ms + (is_dead ? 1000 : 0));
        }
        CHECK_INT(sdc_registrar_is_registered(t.r.registrar), is_dead);
        CHECK_INT(world_seen(t.r.world)->open_now, 0);
        CHECK_INT(script_num_requests(t.of[2]), 0);
        rig_deinit(&t.r);
    }
}

/* A stop in the middle of an excursion goes to the base first all the same. */
static void test_87_stop_during_an_excursion(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 10000);
    script_set_down(t.of[0], true);
    rig_run(&t.r, 10000);
    script_set_down(t.of[0], false);
    script_clear(t.of[0]);
    script_on(t.of[0], REGISTRAR_DEREGISTER);
    script_hang(t.of[0]);
    script_ok(t.of[0]);
    while (registrar_count_at(&t, 0, REGISTRAR_DEREGISTER) == 0) {
        rig_run(&t.r, 1000);
        REQUIRE(world_now(t.r.world) < WORLD_START_MS + 100000);
    }
    CHECK_ERR(rig_stop(&t.r), SDC_STOPPED);
    const script_request *of_base = script_nth_of(t.of[1], REGISTRAR_DEREGISTER, 0);
    const script_request *of_twin = script_nth_of(t.of[0], REGISTRAR_DEREGISTER, 1);
    if (CHECK(of_base != NULL && of_twin != NULL)) {
        CHECK(of_base->conn != of_twin->conn);
        CHECK(world_conn_id(of_base->conn) < world_conn_id(of_twin->conn));
    }
    CHECK(!sdc_registrar_is_registered(t.r.registrar));
    rig_deinit(&t.r);
}

static void test_87_stop_is_bounded_when_all_are_away(void)
{
    for (int i = 0; i < 2; i++) {
        registrar_trio t;
        test_note("%s", i == 0 ? "refuse" : "blackhole");
        REQUIRE(registrar_trio_begin(&t, 0));
        REQUIRE(rig_register(&t.r, NULL));
        for (size_t n = 0; n < REGISTRAR_AGENTS; n++) {
            rig_run(&t.r, 5000);
            script_set_down(t.of[n], true);
        }
        for (size_t n = 0; n < REGISTRAR_AGENTS && i == 1; n++) {
            static const char *const ips[] = { "10.0.0.1", "10.0.0.2", "10.0.0.3" };
            world_listen_mode(t.r.world, ips[n], 8500, WORLD_BLACKHOLE);
        }
        uint64_t at_ms = world_now(t.r.world);
        CHECK_ERR(rig_stop(&t.r), SDC_STOPPED);
        CHECK_BETWEEN(world_now(t.r.world) - at_ms, 1000, 2000);
        CHECK(world_seen(t.r.world)->opened < 200);
        rig_deinit(&t.r);
    }
}

/* By call: registered at the first agent that can, deregistered at each that may have it; what
   fails is told, and tried again by later steps. */
static void test_87_once_with_several_agents(void)
{
    registrar_trio t;
    sdc_error error;
    REQUIRE(registrar_trio_begin(&t, 0));
    REQUIRE(rig_register(&t.r, NULL));
    CHECK_ERR(sdc_registrar_register(t.r.registrar, &error), SDC_OK);
    script_set_down(t.of[0], true);
    CHECK_ERR(sdc_registrar_register(t.r.registrar, &error), SDC_OK);
    CHECK_INT(error.code, SDC_OK);
    CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
    CHECK_ERR(sdc_registrar_deregister(t.r.registrar, &error), SDC_ERR_CONNECT);
    CHECK_HAS(error.message, "10.0.0.1:8500");
    CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_DEREGISTER), 1);
    CHECK(!sdc_registrar_is_registered(t.r.registrar));
    size_t before = world_num_connects(t.r.world, "10.0.0.1", 8500);
    rig_run(&t.r, 600000);
    CHECK_BETWEEN(world_num_connects(t.r.world, "10.0.0.1", 8500) - before, 2, 12);
    script_set_down(t.of[0], false);
    rig_run(&t.r, 601000);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_DEREGISTER), 1);
    rig_run(&t.r, 3600000);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_DEREGISTER), 1);
    CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_DEREGISTER), 1);
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        script_set_down(t.of[i], true);
    }
    uint64_t at_ms = world_now(t.r.world);
    CHECK_ERR(sdc_registrar_register(t.r.registrar, &error), SDC_ERR_CONNECT);
    CHECK_U64(world_now(t.r.world), at_ms);
    rig_deinit(&t.r);
}

/* Both excursions are due, and a beat: it comes between them. */
static void test_87_beat_comes_between_two_excursions(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    script_set_down(t.of[0], true);
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 1000);
    sdc_registrar *r = t.r.registrar;
    r->held = 3;
    r->task.home_at_ms = r->task.now_ms - 5;
    r->to_take_back.due_ms = r->task.now_ms - 5;
    r->beats[0].timer.due_ms = r->task.now_ms;
    static const sdci_job away[] = { SDCI_JOB_HOME, SDCI_JOB_TWIN };
    for (size_t i = 0; i < REGISTRAR_NUM(away); i++) {
        r->job = away[i];
        CHECK_INT(sdci_registrar_next(r).job, SDCI_JOB_BEAT);
    }
    r->job = SDCI_JOB_BEAT;
    CHECK_INT(sdci_registrar_next(r).job, SDCI_JOB_HOME);
    rig_deinit(&t.r);
}

/* Two names in the list lead to one agent: taking back what was taken for a twin takes the service
   away, and it is there again at once. */
static void test_87_two_names_of_one_agent(void)
{
    static const uint32_t ttls[] = { 0, 10000 };
    for (size_t i = 0; i < REGISTRAR_NUM(ttls); i++) {
        agent_desc is;
        sdc_check check;
        sdc_client *client;
        sdc_registrar *registrar = NULL;
        test_note("TTL %u", (unsigned)ttls[i]);
        memset(&is, 0, sizeof is);
        is.profile = AGENT_1_22;
        world *w = world_create(NULL);
        agent *a = agent_create(&is, world_now(w));
        world_listen_agent(w, "10.0.0.1", 8500, a);
        world_listen_agent(w, "10.0.0.2", 8500, a);
        client = world_client(w, "10.0.0.1:8500,10.0.0.2:8500");
        REQUIRE(client != NULL);
        sdc_registrar_desc desc = registrar_desc_with(&check, 10000);
        if (ttls[i] == 0) {
            desc = registrar_desc_plain();
        }
        REQUIRE(sdc_registrar_create(client, &desc, &registrar, NULL) == SDC_OK);
        sdc_task *task = sdc_registrar_task(registrar);
        world_run(w, task, 1000);
        world_listen_mode(w, "10.0.0.1", 8500, WORLD_REFUSES);
        world_reset_all(w, "10.0.0.1", 8500);
        world_run(w, task, 60000);
        CHECK(agent_has_service(a, "web-1"));
        world_listen_mode(w, "10.0.0.1", 8500, WORLD_ACCEPTS);
        for (int n = 0; n < 1000; n++) {
            world_run(w, task, 1000);
            CHECK(agent_has_service(a, "web-1"));
        }
        CHECK_BETWEEN(world_log_count(w, "INFO", "action=deregister_twin"), 1, 4);
        CHECK_BETWEEN(world_log_count(w, "INFO", "action=register"), 3, 8);
        sdc_registrar_destroy(registrar);
        sdc_client_destroy(client);
        world_destroy(w);
        agent_destroy(a);
    }
}

/* An agent that asks to be left alone is, within what a registration can wait and a TTL allows. */
static void test_38_registrar_heeds_retry_after(void)
{
    static const struct { const char *start, *after; uint32_t least_ms, most_ms; } cases[] = {
        { REGISTRAR_REGISTER, "7", 7000, 7875 }, { REGISTRAR_REGISTER, "3600", 30000, 33750 },
        { REGISTRAR_UPDATE, "1", 1000, 1125 }, { REGISTRAR_UPDATE, "60", 1666, 1875 },
    };
    for (size_t i = 0; i < REGISTRAR_NUM(cases); i++) {
        rig r;
        char header[40];
        test_note("%s, Retry-After: %s", cases[i].start, cases[i].after);
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, cases[i].start);
        snprintf(header, sizeof header, "Retry-After: %s\r\n", cases[i].after);
        script_reply(r.script, 429, header, "slow down");
        script_ok(r.script);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 60000);
        const script_request *refused = script_nth_of(r.script, cases[i].start, 0);
        const script_request *next = script_nth_of(r.script, cases[i].start, 1);
        if (CHECK(next != NULL)) {
            CHECK_BETWEEN(next->at_ms - refused->at_ms, cases[i].least_ms, cases[i].most_ms);
        }
        rig_deinit(&r);
    }
}

/* ---- what is bounded ------------------------------------------------------------------------- */

/* Told a hundred times a second, as from a loop that must not hang: the beats say it, nothing else
   does, and neither an agent that is away nor one that asks for patience gets more than it would. */
static void test_same_status_costs_no_requests(void)
{
    static const char *const ways[] = { "well", "away", "429" };
    for (size_t i = 0; i < REGISTRAR_NUM(ways); i++) {
        rig r;
        test_note("%s", ways[i]);
        REQUIRE(registrar_begin(&r, NULL));
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 1000);
        script_set_down(r.script, i == 1);
        if (i == 2) {
            registrar_on(&r, REGISTRAR_UPDATE);
            script_reply(r.script, 429, "Retry-After: 5\r\n", "slow down");
        }
        size_t before = registrar_count(&r, REGISTRAR_UPDATE);
        size_t connects = world_num_connects(r.world, "10.0.0.1", 8500);
        for (int n = 0; n < 1000; n++) {
            CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
            rig_run(&r, 10);
        }
        CHECK_BETWEEN(registrar_count(&r, REGISTRAR_UPDATE) - before, i == 1 ? 0 : 3, 9);
        CHECK_BETWEEN(world_num_connects(r.world, "10.0.0.1", 8500) - connects, 0, 20);
        rig_deinit(&r);
    }
}

/* One that changes all the time is sent ten times a second, and the newest one in the end. */
static void test_changing_status_is_sent_now_and_then(void)
{
    rig r;
    char output[20];
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 1000);
    size_t before = registrar_count(&r, REGISTRAR_UPDATE);
    for (int n = 0; n < 1000; n++) {
        snprintf(output, sizeof output, "%d", n);
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, output), SDC_OK);
        rig_run(&r, 10);
    }
    CHECK_BETWEEN(registrar_count(&r, REGISTRAR_UPDATE) - before, 90, 105);
    rig_run(&r, 100);
    CHECK_STR(registrar_last(&r, REGISTRAR_UPDATE)->body,
              "{\"Status\":\"warning\",\"Output\":\"999\"}");
    /* it has been quiet since: at once again */
    rig_run(&r, 100);
    uint64_t now_ms = world_now(r.world);
    CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_CRITICAL, ""), SDC_OK);
    rig_run(&r, 1);
    CHECK_U64(registrar_last(&r, REGISTRAR_UPDATE)->at_ms, now_ms);
    rig_deinit(&r);
}

/* Whatever the program says all the time, an agent that has refused it is left alone for as long as
   without that; the newest is what it hears in the end. */
static void test_changes_do_not_cut_a_pause_short(void)
{
    static const char *const jobs[] = { REGISTRAR_UPDATE, REGISTRAR_MAINTAIN, REGISTRAR_REGISTER };
    for (size_t i = 0; i < REGISTRAR_NUM(jobs); i++) {
        rig r;
        char text[20];
        test_note("%s", jobs[i]);
        REQUIRE(registrar_begin(&r, NULL));
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 1000);
        registrar_on(&r, jobs[i]);
        script_error(r.script, 403, "Permission denied");
        size_t before = registrar_count(&r, jobs[i]);
        for (int n = 0; n < 1000; n++) {
            snprintf(text, sizeof text, "new %d", n);
            CHECK_ERR(i == 0 ? sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_WARNING, text)
                      : i == 1 ? sdc_registrar_set_maintenance(r.registrar, true, text)
                               : registrar_update(r.registrar, text), SDC_OK);
            rig_run(&r, 20);
        }
        CHECK_BETWEEN(registrar_count(&r, jobs[i]) - before, 3, 20);
        registrar_says_yes(r.script);
        registrar_on(&r, jobs[i]);
        script_ok(r.script);
        rig_run(&r, 34000);
        const script_request *last = registrar_last(&r, jobs[i]);
        CHECK_HAS(i == 1 ? last->raw_query : last->body, i == 1 ? "new%20999" : "new 999");
        rig_deinit(&r);
    }
}

/* A status that is forgotten and told again, all the time: no more than its changes are. */
static void test_status_that_revives_is_bounded(void)
{
    rig r;
    sdc_check check;
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_expiring(&check, 5);
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 1000);
    size_t before = registrar_count(&r, REGISTRAR_UPDATE);
    for (int n = 0; n < 500; n++) {
        CHECK_ERR(sdc_registrar_set_status(r.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
        rig_run(&r, 20);
    }
    CHECK_BETWEEN(registrar_count(&r, REGISTRAR_UPDATE) - before, 1, 105);
    rig_deinit(&r);
}

/* The call registers at the second agent although the first one takes what it is sent and hangs. */
static void test_87_once_gets_past_an_agent_that_hangs(void)
{
    registrar_trio t;
    sdc_error error;
    REQUIRE(registrar_trio_begin(&t, 0));
    script_clear(t.of[0]);
    script_on(t.of[0], "PUT ");
    script_hang(t.of[0]);
    REQUIRE(rig_register(&t.r, NULL));
    uint64_t at_ms = world_now(t.r.world);
    CHECK_ERR(sdc_registrar_register(t.r.registrar, &error), SDC_OK);
    CHECK_BETWEEN(world_now(t.r.world) - at_ms, 1000, 5000);
    CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
    CHECK(sdc_registrar_is_registered(t.r.registrar));
    /* all hang: each has had its share, and the call ends in time */
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        script_clear(t.of[i]);
        script_on(t.of[i], "PUT ");
        script_hang(t.of[i]);
    }
    at_ms = world_now(t.r.world);
    CHECK_ERR(sdc_registrar_register(t.r.registrar, &error), SDC_ERR_TIMEOUT);
    CHECK_BETWEEN(world_now(t.r.world) - at_ms, 10000, 15000);
    for (size_t i = 0; i < REGISTRAR_AGENTS; i++) {
        CHECK_BETWEEN(registrar_count_at(&t, i, REGISTRAR_REGISTER), 1, 2);
    }
    /* nothing of the call is left in the steps that follow */
    registrar_says_yes(t.of[1]);
    rig_run(&t.r, 31000);
    CHECK(sdc_registrar_is_registered(t.r.registrar));
    rig_deinit(&t.r);
}

/* What the agent has is kept alive when it refuses to have it anew. */
static void test_refused_call_keeps_what_is_there(void)
{
    rig r;
    sdc_error error;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 1000);
    registrar_on(&r, REGISTRAR_REGISTER);
    script_error(r.script, 403, "Permission denied");
    CHECK_ERR(sdc_registrar_register(r.registrar, &error), SDC_ERR_DENIED);
    CHECK(sdc_registrar_is_registered(r.registrar));
    rig_run(&r, 100000);
    CHECK(sdc_registrar_is_registered(r.registrar));
    registrar_check_beats(&r, REGISTRAR_UPDATE, 10000 / 3);
    rig_deinit(&r);
}

static const char *const registrar_dead_ips[] = {
    "", "10.7.0.1", "10.7.0.1,10.7.0.2", "10.7.0.1,10.7.0.2,10.7.0.3",
    "10.7.0.1,10.7.0.2,10.7.0.3,10.7.0.4"
};

/* The first agent of two is home.example, the script of the rig is at 10.0.0.1. Answers the second
   one's script, or NULL. */
static script *registrar_named_begin(rig *r)
{
    sdc_client_desc client;
    world_desc desc;
    memset(&client, 0, sizeof client);
    memset(&desc, 0, sizeof desc);
    client.address = "home.example:8500,10.0.0.2:8500";
    if (!rig_init_client(r, &desc, &client)) {
        return NULL;
    }
    for (int i = 1; i <= 4; i++) {
        char ip[20];
        snprintf(ip, sizeof ip, "10.7.0.%d", i);
        world_listen_mode(r->world, ip, 8500, WORLD_BLACKHOLE);
    }
    script *second = script_create(r->world, "10.0.0.2", 8500);
    registrar_says_yes(r->script);
    registrar_says_yes(second);
    return second;
}

/* A name that leads to many addresses, none of which answers, costs the second agent no TTL. */
static void test_87_excursions_to_many_addresses_cost_no_ttl(void)
{
    for (size_t num = 1; num < REGISTRAR_NUM(registrar_dead_ips); num++) {
        registrar_trio t;
        test_note("%zu addresses", num);
        t.of[1] = registrar_named_begin(&t.r);
        REQUIRE(t.of[1] != NULL);
        world_resolve_to(t.r.world, "home.example", registrar_dead_ips[num], 0);
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 30000);
        CHECK(sdc_registrar_is_registered(t.r.registrar));
        rig_run(&t.r, 3600000);
        registrar_check_alive(&t, 1, WORLD_START_MS + 30000);
        CHECK_INT(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1);
        rig_deinit(&t.r);
    }
}

/* The same at a stop, and by call: each agent has its part of the time. */
static void test_87_many_addresses_leave_time_for_the_others(void)
{
    for (int by_call = 0; by_call <= 1; by_call++) {
        rig r;
        sdc_error error;
        test_note("%s", by_call ? "by call" : "stop");
        script *second = registrar_named_begin(&r);
        REQUIRE(second != NULL);
        world_resolve_to(r.world, "home.example", "10.0.0.1", 0);
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 1000);
        CHECK(sdc_registrar_is_registered(r.registrar));
        world_resolve_to(r.world, "home.example", registrar_dead_ips[4], 0);
        script_set_down(r.script, true);
        rig_run(&r, 10);
        r.registrar->held = 3;      /* as after it was at the other one, too */
        uint64_t at_ms = world_now(r.world);
        if (by_call) {
            CHECK_ERR(sdc_registrar_deregister(r.registrar, &error), SDC_ERR_TIMEOUT);
            CHECK_HAS(error.message, "home.example:8500");
        } else {
            CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        }
        CHECK_BETWEEN(world_now(r.world) - at_ms, 1000, by_call ? 10000 : 2000);
        CHECK_INT(script_count(second, REGISTRAR_DEREGISTER), 1);
        rig_deinit(&r);
    }
}

/* An agent takes two checks of one ID for one, so nobody can mean them. */
static void test_check_ids_differ(void)
{
    static const struct { const char *ids[2]; bool is_refused; } rows[] = {
        { { "a", "a" }, true }, { { "a", "b" }, false }, { { NULL, NULL }, false },
        { { "service:web-1:2", NULL }, true }, { { NULL, "service:web-1:1" }, true },
        { { NULL, "service:web-1:2" }, false }, { { "service:web-1", NULL }, false },
    };
    for (size_t i = 0; i < REGISTRAR_NUM(rows); i++) {
        rig r;
        sdc_check checks[2];
        sdc_error error;
        test_note("row %zu", i);
        memset(checks, 0, sizeof checks);
        sdc_registrar_desc desc = registrar_desc_plain();
        desc.registration.checks = checks;
        desc.registration.num_checks = 2;
        for (size_t k = 0; k < 2; k++) {
            checks[k].id = rows[i].ids[k];
            checks[k].ttl_ms = 10000;
        }
        REQUIRE(registrar_begin(&r, NULL));
        sdc_err want = rows[i].is_refused ? SDC_ERR_ARG : SDC_OK;
        CHECK_ERR(sdc_registrar_create(r.client, &desc, &r.registrar, &error), want);
        if (rows[i].is_refused) {
            CHECK_HAS(error.message, rows[i].ids[1] != NULL ? "checks[1]: id" : "checks[0]: id");
        }
        rig_deinit(&r);
    }
}

/* An update does not put one of two checks in the place of the other. */
static void test_update_with_a_check_twice_is_refused(void)
{
    rig r;
    sdc_check checks[2];
    REQUIRE(registrar_begin(&r, NULL));
    sdc_registrar_desc desc = registrar_desc_plain();
    memset(checks, 0, sizeof checks);
    checks[0].id = "a";
    checks[1].id = "b";
    checks[0].ttl_ms = checks[1].ttl_ms = 10000;
    desc.registration.checks = checks;
    desc.registration.num_checks = 2;
    REQUIRE(rig_register(&r, &desc));
    checks[1].id = "a";
    registrar_refused(r.registrar, &desc.registration, "checks[1]: id is that of checks[0]");
    rig_deinit(&r);
}

/* With several agents each line about one says which; with one there is nothing to say. */
static void test_87_log_names_the_agent(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    script_on(t.of[1], REGISTRAR_UPDATE);
    script_error(t.of[1], 403, "Permission denied");
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 1000);
    script_set_down(t.of[0], true);
    rig_run(&t.r, 20000);
    script_set_down(t.of[0], false);
    rig_run(&t.r, 400000);
    CHECK_INT(world_log_count(t.r.world, "INFO", "agent=10.0.0.1:8500 action=register"), 2);
    CHECK_INT(world_log_count(t.r.world, "INFO", "agent=10.0.0.2:8500 action=register"), 1);
    CHECK_INT(world_log_count(t.r.world, "WARN", "agent=10.0.0.1:8500 err="), 1);
    CHECK(world_log_count(t.r.world, "WARN", "agent=10.0.0.2:8500 err=") > 3);
    CHECK_INT(world_log_count(t.r.world, "INFO", "agent=10.0.0.1:8500 action=deregister_twin"), 1);
    CHECK_INT(world_log_count(t.r.world, "INFO", "agent=10.0.0.2:8500 action=deregister_twin"), 1);
    CHECK_INT(world_log_count(t.r.world, NULL, "service=web"),
              world_log_count(t.r.world, NULL, "agent=10.0.0."));
    rig_deinit(&t.r);
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 1000);
    CHECK_HASNT(world_log(r.world), "agent=");
    rig_deinit(&r);
}

/* Excursions that fail name the agent they went to, not the base. */
static void test_87_log_of_an_excursion_names_its_agent(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    script_set_down(t.of[0], true);
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 400000);
    CHECK(world_log_count(t.r.world, "WARN", "agent=10.0.0.1:8500 err=") >= 2);
    CHECK_INT(world_log_count(t.r.world, "WARN", "agent=10.0.0.2:8500 err="), 0);
    rig_deinit(&t.r);
}

/* The first agent is away for ten seconds and the second refuses: the third has it at once, and with
   two agents the first has it again soon after it is back. */
static void test_87_refused_at_the_second_agent(void)
{
    static const int codes[] = { 403, 400, 500 };
    for (size_t i = 0; i < 2 * REGISTRAR_NUM(codes); i++) {
        registrar_trio t;
        bool is_third_dead = i % 2 != 0;
        test_note("%d, third %s", codes[i / 2], is_third_dead ? "is dead" : "is well");
        REQUIRE(registrar_trio_begin(&t, 0));
        script_on(t.of[1], REGISTRAR_REGISTER);
        script_error(t.of[1], codes[i / 2], "no");
        script_set_down(t.of[2], is_third_dead);
        REQUIRE(rig_register(&t.r, NULL));
        rig_run(&t.r, 20000);
        script_set_down(t.of[0], true);
        rig_run(&t.r, 10000);
        CHECK_INT(registrar_count_at(&t, 2, REGISTRAR_REGISTER), is_third_dead ? 0 : 1);
        script_set_down(t.of[0], false);
        rig_run(&t.r, 31000);
        CHECK(sdc_registrar_is_registered(t.r.registrar));
        CHECK_BETWEEN(registrar_count_at(&t, 1, REGISTRAR_REGISTER), 1, 15);
        rig_run(&t.r, 400000);
        CHECK(sdc_registrar_is_registered(t.r.registrar));
        CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_REGISTER), 2);
        rig_deinit(&t.r);
    }
}

/* What was answered by a refusal is nowhere, so stopping has nothing to take back; what had no
   answer before may be there all the same. */
static void test_stop_after_refusals(void)
{
    for (int i = 0; i < 2; i++) {
        rig r;
        test_note("%s", i == 0 ? "always refused" : "unanswered, then refused");
        REQUIRE(registrar_begin(&r, NULL));
        registrar_on(&r, REGISTRAR_REGISTER);
        if (i == 1) {
            script_then_close(r.script);
            script_raw(r.script, "");
        }
        script_error(r.script, 403, "Permission denied");
        REQUIRE(rig_register(&r, NULL));
        rig_run(&r, 20000);
        CHECK(registrar_count(&r, REGISTRAR_REGISTER) > 1);
        uint64_t at_ms = world_now(r.world);
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
        CHECK_U64(world_now(r.world), at_ms);
        CHECK_INT(registrar_count(&r, REGISTRAR_DEREGISTER), i);
        rig_deinit(&r);
    }
}

/* Until it is in maintenance again a new registration is in use: nothing comes before that. */
static void test_maintenance_comes_before_beats(void)
{
    rig r;
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "m"), SDC_OK);
    rig_run(&r, 12000);
    CHECK_HAS(script_nth(r.script, 1)->path, "maintenance");
    size_t before = script_num_requests(r.script);
    CHECK_ERR(registrar_update(r.registrar, "v2"), SDC_OK);
    rig_run(&r, 10);
    CHECK_HAS(script_nth(r.script, before)->path, "register");
    CHECK_HAS(script_nth(r.script, before + 1)->path, "maintenance");
    CHECK_HAS(script_nth(r.script, before + 2)->path, "check/update");
    rig_deinit(&r);
}

/* A maintenance that ended while the service was elsewhere does not wait for it at home. */
static void test_87_ended_maintenance_does_not_come_back(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    REQUIRE(rig_register(&t.r, NULL));
    CHECK_ERR(sdc_registrar_set_maintenance(t.r.registrar, true, "m"), SDC_OK);
    rig_run(&t.r, 1000);
    CHECK_INT(registrar_count_at(&t, 0, REGISTRAR_MAINTAIN), 1);
    script_set_down(t.of[0], true);
    rig_run(&t.r, 20000);
    CHECK_ERR(sdc_registrar_set_maintenance(t.r.registrar, false, NULL), SDC_OK);
    rig_run(&t.r, 1000);
    t.r.registrar->to_take_back.due_ms = world_now(t.r.world) + 600000;     /* as after long */
    script_set_down(t.of[0], false);
    rig_run(&t.r, 400000);
    const script_request *home = script_nth_of(t.of[0], REGISTRAR_REGISTER, 1);
    if (CHECK(home != NULL)) {
        CHECK(script_query(home, "replace-existing-checks") != NULL);
    }
    rig_deinit(&t.r);
}

static bool registrar_replaces(rig *r)
{
    return script_query(registrar_last(r, REGISTRAR_REGISTER), "replace-existing-checks") != NULL;
}

/* Only where the agent may have checks that the registration has not. */
static void test_checks_are_replaced_where_they_may_differ(void)
{
    rig r;
    sdc_check checks[2];
    const char *tag = "v2";
    REQUIRE(registrar_begin(&r, NULL));
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 1000);
    CHECK(registrar_replaces(&r));
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    CHECK(!registrar_replaces(&r));
    CHECK_ERR(registrar_update(r.registrar, "v1"), SDC_OK);
    rig_run(&r, 1000);
    CHECK(!registrar_replaces(&r));
    sdc_registration with = registrar_tagged(&checks[0], &tag);
    memset(&checks[1], 0, sizeof checks[1]);
    checks[0].id = "service:web-1";
    checks[1].id = "port";
    checks[1].tcp = "10.9.0.1:8000";
    with.checks = checks;
    with.num_checks = 2;
    CHECK_ERR(sdc_registrar_update(r.registrar, &with, NULL), SDC_OK);
    rig_run(&r, 1000);
    CHECK(registrar_replaces(&r));
    tag = "v3";
    CHECK_ERR(sdc_registrar_update(r.registrar, &with, NULL), SDC_OK);
    rig_run(&r, 1000);
    CHECK(!registrar_replaces(&r));
    with.raw_members = "\"Check\":{\"CheckID\":\"raw\",\"TTL\":\"10s\"}";
    CHECK_ERR(sdc_registrar_update(r.registrar, &with, NULL), SDC_OK);
    rig_run(&r, 1000);
    CHECK(registrar_replaces(&r));
    CHECK_ERR(sdc_registrar_deregister(r.registrar, NULL), SDC_OK);
    CHECK_ERR(sdc_registrar_register(r.registrar, NULL), SDC_OK);
    CHECK(registrar_replaces(&r));
    rig_deinit(&r);
}

/* Each agent for itself: an update's checks are new to both. */
static void test_87_checks_are_replaced_at_each_agent(void)
{
    registrar_trio t;
    REQUIRE(registrar_trio_begin(&t, 0));
    REQUIRE(rig_register(&t.r, NULL));
    rig_run(&t.r, 1000);
    script_set_down(t.of[0], true);
    rig_run(&t.r, 10000);
    const script_request *second = script_nth_of(t.of[1], REGISTRAR_REGISTER, 0);
    CHECK(second != NULL && script_query(second, "replace-existing-checks") != NULL);
    rig_deinit(&t.r);
}

/* As by `consul maint -enable -service=web-1`. */
static sdc_err registrar_operator_begins_maintenance(sdc_client *client)
{
    sdci_call call;
    sdci_answer answer;
    sdci_str nothing = sdci_slice("", 0);
    sdc_error error;
    sdci_client_init_call(client, &call);
    sdci_request request = sdci_request_begin(client, &call, "PUT",
                                              "/v1/agent/service/maintenance/web-1");
    sdci_request_param(&request, "enable", "true");
    sdci_request_end(&request, &nothing);
    sdci_answer_init(&answer, &request, "PUT");
    sdc_err err = sdci_client_perform(client, &call, &answer, 1000, NULL, &error);
    sdci_call_deinit(&call);
    return err;
}

/* An operator's maintenance outlives what a registrar does by itself and an update of tags. */
static void test_maintenance_of_an_operator_stays(void)
{
    for (int i = 0; i < 2; i++) {
        registrar_stage s;
        sdc_check check;
        const char *tag = "v1";
        test_note("agent %d", i);
        sdc_registrar_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.registration = registrar_tagged(&check, &tag);
        REQUIRE(registrar_stage_begin(&s, i != 0 ? AGENT_1_22 : AGENT_1_8, NULL, &desc));
        world_run(s.w, s.task, 1000);
        CHECK_ERR(registrar_operator_begins_maintenance(s.client), SDC_OK);
        tag = "v2";
        CHECK_ERR(sdc_registrar_update(s.registrar, &desc.registration, NULL), SDC_OK);
        world_run(s.w, s.task, 20000);
        CHECK_STR(agent_check_status(s.a, "_service_maintenance:web-1"), "critical");
        registrar_stage_end(&s);
    }
}

static const test_case cases_registrar[] = {
    TEST(test_registers_and_says_so),
    TEST(test_registration_is_copied),
    TEST(test_registers_until_it_succeeds),
    TEST(test_registers_after_a_long_outage),
    TEST(test_registers_soon_after_a_short_outage),
    TEST(test_81_beats_a_third_of_the_ttl_apart),
    TEST(test_81_beats_a_third_apart_on_a_slow_network),
    TEST(test_beats_as_told),
    TEST(test_beats_spread),
    TEST(test_each_ttl_check_beats),
    TEST(test_failed_beats_do_not_register_again),
    TEST(test_82_unknown_check_registers_again),
    TEST(test_82_life_at_agents_of_both_versions),
    TEST(test_verifies_without_a_ttl_check),
    TEST(test_verify_registers_again_what_is_gone),
    TEST(test_verify_at_agents_of_both_versions),
    TEST(test_set_status_is_sent_at_once),
    TEST(test_set_arguments),
    TEST(test_set_status_of_one_check_and_of_all),
    TEST(test_set_status_with_much_output),
    TEST(test_set_while_the_agent_is_away),
    TEST(test_set_before_the_registration),
    TEST(test_set_during_a_beat),
    TEST(test_maintenance_is_tried_again),
    TEST(test_set_status_wakes_a_blocked_step),
    TEST(test_setters_from_another_thread),
    TEST(test_stop_deregisters),
    TEST(test_stop_keeps_the_service_if_told),
    TEST(test_stop_is_done_at_once_in_every_loop),
    TEST(test_stop_before_the_first_step),
    TEST(test_stop_takes_back_an_unanswered_registration),
    TEST(test_stop_drops_the_running_exchange),
    TEST(test_stop_wakes_a_blocked_step),
    TEST(test_84_stop_is_bounded),
    TEST(test_84_stop_tries_again),
    TEST(test_83_stop_takes_unknown_for_success),
    TEST(test_destroy_sends_nothing),
    TEST(test_register_once),
    TEST(test_once_tells_failures),
    TEST(test_once_is_bounded),
    TEST(test_once_among_steps),
    TEST(test_no_step_inside_a_step),
    TEST(test_registrar_refusals),
    TEST(test_no_tight_loop_of_beats),
    TEST(test_39_no_tight_loop_of_registrations),
    TEST(test_39_no_tight_loop_with_a_short_ttl),
    TEST(test_39_the_body_is_told),
    TEST(test_life_in_an_event_loop),
    TEST(test_registrar_without_memory),
    TEST(test_no_storm_when_one_of_two_checks_is_unknown),
    TEST(test_lost_soon_after_an_outage),
    TEST(test_lost_now_and_then),
    TEST(test_no_storm_when_maintenance_is_unknown),
    TEST(test_beats_go_on_beside_a_refused_maintenance),
    TEST(test_beats_go_on_beside_a_refused_one),
    TEST(test_81_beat_into_a_black_hole_is_repeated_in_time),
    TEST(test_short_heartbeat_on_a_slow_network),
    TEST(test_dropped_maintenance_is_sent_again),
    TEST(test_destroyed_while_a_call_drops_an_exchange),
    TEST(test_heartbeat_beyond_the_ttl_is_refused),
    TEST(test_registrar_says_that_it_is_well_again),
    TEST(test_beats_end_when_the_status_expires),
    TEST(test_status_that_is_told_in_time_does_not_expire),
    TEST(test_status_expires_on_time),
    TEST(test_each_check_expires_by_itself),
    TEST(test_status_is_as_old_as_its_call),
    TEST(test_beat_that_fails_when_it_expires_is_not_repeated),
    TEST(test_silent_service_comes_back_as_critical),
    TEST(test_expired_status_at_agents_of_both_versions),
    TEST(test_81_two_lost_beats_do_not_cost_the_ttl),
    TEST(test_verify_registers_again_what_is_different),
    TEST(test_hash_that_always_differs_makes_no_storm),
    TEST(test_verify_by_presence_alone),
    TEST(test_different_at_agents_of_both_versions),
    TEST(test_update_registers_in_place),
    TEST(test_update_while_the_agent_is_away),
    TEST(test_update_after_an_old_outage),
    TEST(test_update_during_a_registration),
    TEST(test_refused_update_keeps_what_is_there),
    TEST(test_update_refusals),
    TEST(test_update_of_other_checks),
    TEST(test_update_of_what_is_not_registered),
    TEST(test_update_and_maintenance_wake_a_blocked_step),
    TEST(test_update_at_agents_of_both_versions),
    TEST(test_87_registers_at_the_first_agent_alone),
    TEST(test_87_registers_at_the_next_agent_at_once),
    TEST(test_87_what_makes_a_registrar_leave_an_agent),
    TEST(test_87_registration_moves_and_comes_home),
    TEST(test_87_excursions_cost_no_ttl),
    TEST(test_87_no_storm_when_all_agents_are_away),
    TEST(test_87_no_storm_when_no_agent_takes_beats),
    TEST(test_87_comes_home_from_where_it_is_refused),
    TEST(test_87_newest_registration_comes_home),
    TEST(test_87_service_without_ttl_moves),
    TEST(test_87_stop_takes_back_everywhere),
    TEST(test_87_stop_during_an_excursion),
    TEST(test_87_stop_is_bounded_when_all_are_away),
    TEST(test_87_once_with_several_agents),
    TEST(test_87_beat_comes_between_two_excursions),
    TEST(test_87_two_names_of_one_agent),
    TEST(test_38_registrar_heeds_retry_after),
    TEST(test_same_status_costs_no_requests),
    TEST(test_changing_status_is_sent_now_and_then),
    TEST(test_changes_do_not_cut_a_pause_short),
    TEST(test_status_that_revives_is_bounded),
    TEST(test_87_once_gets_past_an_agent_that_hangs),
    TEST(test_refused_call_keeps_what_is_there),
    TEST(test_87_excursions_to_many_addresses_cost_no_ttl),
    TEST(test_87_many_addresses_leave_time_for_the_others),
    TEST(test_check_ids_differ),
    TEST(test_update_with_a_check_twice_is_refused),
    TEST(test_87_log_names_the_agent),
    TEST(test_87_log_of_an_excursion_names_its_agent),
    TEST(test_87_refused_at_the_second_agent),
    TEST(test_stop_after_refusals),
    TEST(test_maintenance_comes_before_beats),
    TEST(test_87_ended_maintenance_does_not_come_back),
    TEST(test_checks_are_replaced_where_they_may_differ),
    TEST(test_87_checks_are_replaced_at_each_agent),
    TEST(test_maintenance_of_an_operator_stays),
};
