/* Access control, default deny: the trial's own token may everything; these cases also ask with
   others. Reads without rights are filtered, not refused. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

#define BAD "X-Consul-Token: 00000000-0000-0000-0000-00000000bad0\r\n"

/* Runs the rest of the case with this field in place of the trial's token. */
static reply *ask_as(trial *t, const char *fields, const char *method, const char *target)
{
    const char *own = t->token;
    t->token = NULL;
    reply *r = ask(t, method, fields, "%s", target);
    t->token = own;
    return r;
}

static reply *ask_as_nobody(trial *t, const char *method, const char *target)
{
    return ask_as(t, "", method, target);
}

static reply *settled(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'60s'}}", t->name);
    return health_when(t, "0/Checks", "[2]");
}

static const char *anonymous_lacks(trial *t, const char *right, const char *on)
{
    return text(t, "Permission denied: anonymous token lacks permission '%s' on \"%s\". "
                   "The anonymous token is used implicitly when a request does not specify a "
                   "token.", right, on);
}

/* What an agent says to somebody without a token who would write to the service. */
static const char *may_not_write(trial *t)
{
    return PER(t, text(t, "Permission denied: Missing service:write on %s", t->name),
               anonymous_lacks(t, "service:write", t->name));
}

static void acl_reads_are_filtered(trial *t)
{
    reply *full = settled(t);
    reply *r = ask_as_nobody(t, "GET", text(t, "/v1/health/service/%s", t->name));
    STATUS(r, 200);
    AT(r, "", "[]");
    EXPECT(t, index_of(r) == index_of(full));
    FIELD(r, "X-Consul-Results-Filtered-By-ACLs", NULL);
    FIELD(r, "X-Consul-Default-ACL-Policy", PER(t, NULL, "deny"));
    r = ask_as_nobody(t, "GET", text(t, "/v1/health/service/%s?index=%llu&wait=200ms", t->name,
                                     (unsigned long long)index_of(full)));
    STATUS(r, 200);
    AT(r, "", "[]");
    TOOK(r, 198, 2000);
}

static void acl_unknown_token(trial *t)
{
    settled(t);
    reply *r = ask_as(t, BAD, "GET", text(t, "/v1/health/service/%s", t->name));
    STATUS(r, 403);
    BODY(r, "ACL not found");
    FIELD(r, "Content-Type", "text/plain; charset=utf-8");
    FIELD(r, "X-Consul-Index", PER(t, "1", NULL));
    FIELD(r, "X-Consul-KnownLeader", PER(t, "false", NULL));
    STATUS(ask_as(t, BAD, "GET", text(t, "/v1/agent/service/%s", t->name)), 403);
}

/* On 1.22 the answer to a blocking read hides that the token is unknown. */
static void acl_unknown_token_blocking(trial *t)
{
    settled(t);
    reply *r = ask_as(t, BAD, "GET", text(t, "/v1/health/service/%s?index=1&wait=300ms", t->name));
    STATUS(r, PER(t, 403, 200));
    FIELD(r, "X-Consul-Index", "1");
    if (t->is_new) {
        TOOK(r, 298, 2000);
        AT(r, "", "[]");
        FIELD(r, "X-Consul-Query-Backend", "streaming");
    } else {
        TOOK(r, 0, 290);
        BODY(r, "ACL not found");
    }
}

static void acl_ways_to_carry_a_token(trial *t)
{
    settled(t);
    const char *target = text(t, "/v1/health/service/%s", t->name);
    const char *in_query = text(t, "%s?token=%s", target, t->token);
    const char *bearer = text(t, "Authorization: Bearer %s\r\n", t->token);
    AT(ask_as(t, text(t, "x-consul-token:  %s \r\n", t->token), "GET", target), "", "[1]");
    AT(ask_as(t, bearer, "GET", target), "", "[1]");
    AT(ask_as(t, text(t, "Authorization: bEARER %s\r\n", t->token), "GET", target), "", "[1]");
    AT(ask_as_nobody(t, "GET", in_query), "", "[1]");
    AT(ask_as(t, text(t, "Authorization: Basic %s\r\n", t->token), "GET", target), "", "[]");
    AT(ask_as(t, "X-Consul-Token:\r\n", "GET", target), "", "[]");
    /* Of two the query counts before the field, and the field before Authorization. */
    AT(ask_as(t, BAD, "GET", in_query), "", "[1]");
    STATUS(ask_as(t, text(t, BAD "%s", bearer), "GET", target), 403);
    AT(ask_as(t, text(t, "X-Consul-Token: %s\r\nAuthorization: Bearer bad\r\n", t->token), "GET",
              target), "", "[1]");
}

static void acl_registering_needs_a_right(trial *t)
{
    const char *own = t->token;
    t->token = NULL;
    reply *r = put(t, text(t, "{'Name':'%s'}", t->name), "/v1/agent/service/register");
    t->token = own;
    STATUS(r, 403);
    BODY(r, "%s", may_not_write(t));
}

static void acl_bad_body_counts_first(trial *t)
{
    const char *own = t->token;
    t->token = "nonsense";
    STATUS(put(t, "{}", "/v1/agent/service/register"), 400);
    reply *r = put(t, text(t, "{'Name':'%s'}", t->name), "/v1/agent/service/register");
    t->token = own;
    STATUS(r, 403);
    BODY(r, "ACL not found");
}

static void acl_writing_needs_a_right(trial *t)
{
    static const char *const paths[] = { "service/deregister/%s", "check/pass/service:%s",
                                         "service/maintenance/%s?enable=true" };
    settled(t);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        const char *percent = strchr(paths[i], '%');
        const char *target = text(t, "/v1/agent/%.*s%s%s", (int)(percent - paths[i]), paths[i],
                                  t->name, percent + 2);
        reply *r = ask_as_nobody(t, "PUT", target);
        STATUS(r, 403);
        BODY(r, "%s", may_not_write(t));
        r = ask_as(t, BAD, "PUT", target);
        STATUS(r, 403);
        BODY(r, "ACL not found");
    }
    health_of(t, 1);
}

/* With access control 1.8 has other words for what is unknown than without. */
static void acl_unknown_ids(trial *t)
{
    reply *r = deregister(t, t->name);
    STATUS(r, PER(t, 500, 404));
    BODY(r, "%s", PER(t, text(t, "Unknown service {\"%s\" {}}", t->name),
                      no_such_service(t, t->name)));
    r = put(t, NULL, "/v1/agent/check/pass/%s", t->name);
    STATUS(r, PER(t, 500, 404));
    BODY(r, "%s", PER(t, text(t, "Unknown check \"%s\"", t->name),
                      no_such_check(t, t->name)));
    r = ask_as_nobody(t, "PUT", text(t, "/v1/agent/service/deregister/%s", t->name));
    STATUS(r, PER(t, 500, 404));
}

static void acl_agent_reads(trial *t)
{
    settled(t);
    reply *r = ask_as_nobody(t, "GET", text(t, "/v1/agent/service/%s", t->name));
    STATUS(r, 403);
    BODY(r, "%s", PER(t, "Permission denied", anonymous_lacks(t, "service:read", t->name)));
    r = ask_as_nobody(t, "GET", "/v1/agent/self");
    STATUS(r, 403);
    BODY_STARTS(r, "Permission denied");
    STATUS(ask_as(t, BAD, "GET", "/v1/agent/self"), 403);
    STATUS(get(t, "/v1/agent/self"), 200);
}

static void acl_leader_needs_no_right(trial *t)
{
    STATUS(ask_as_nobody(t, "GET", "/v1/status/leader"), 200);
    STATUS(ask_as(t, BAD, "GET", "/v1/status/leader"), 200);
}

static void acl_wakes(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = begin(t, "/v1/health/service/%s?index=%llu&wait=6s", t->name,
                     (unsigned long long)index);
    EXPECT(t, is_blocked(r, 50));
    STATUS(beat(t, "pass"), 200);
    finish(r);
    STATUS(r, 200);
    AT(r, "0/Checks/1/Status", "passing");
}

/* Rights to services alone show nothing: an instance stands on a node. */
static void acl_needs_the_node_too(trial *t)
{
    settled(t);
    const char *field = text(t, "X-Consul-Token: %s\r\n", make_token(t, false, false));
    reply *r = ask_as(t, field, "GET", text(t, "/v1/health/service/%s", t->name));
    STATUS(r, 200);
    AT(r, "", "[]");
    FIELD(r, "X-Consul-Results-Filtered-By-ACLs", PER(t, NULL, "true"));
    r = ask_as(t, field, "GET", text(t, "/v1/health/service/%s?index=1&wait=300ms", t->name));
    STATUS(r, 200);
    AT(r, "", "[]");
    FIELD(r, "X-Consul-Results-Filtered-By-ACLs", NULL);
}

static void acl_limited_tokens(trial *t)
{
    const char *own = t->token;
    const char *writer = make_token(t, true, true), *reader = make_token(t, true, false);
    t->token = writer;
    uint64_t index = index_of(settled(t));
    STATUS(beat(t, "pass"), 200);
    reply *r = get(t, "/v1/health/service/%s?index=%llu&wait=5s", t->name,
                   (unsigned long long)index);
    AT(r, "0/Checks/1/Status", "passing");
    FIELD(r, "X-Consul-Results-Filtered-By-ACLs", NULL);
    STATUS(get(t, "/v1/agent/service/%s", t->name), 200);
    STATUS(get(t, "/v1/agent/self"), 403);
    t->token = reader;
    AT(get(t, "/v1/health/service/%s", t->name), "", "[1]");
    STATUS(beat(t, "pass"), 403);
    STATUS(deregister(t, t->name), 403);
    t->token = own;
}

/* 1.8 finds out with the next request; 1.22 at once, and then goes on serving the view it has. */
static void acl_token_is_revoked(trial *t)
{
    uint64_t index = index_of(settled(t));
    const char *secret = make_token(t, true, false);
    const char *own = t->token;
    t->token = secret;
    const char *query = text(t, "/v1/health/service/%s?index=%llu&wait=400ms", t->name,
                             (unsigned long long)index);
    reply *r = begin(t, "%s", query);
    EXPECT(t, is_blocked(r, 100));
    t->token = own;
    revoke_token(t, secret);
    t->token = secret;
    finish(r);
    STATUS(r, PER(t, 200, 403));
    TOOK(r, PER(t, 398, 100), PER(t, 2000, 390));
    reply *plain = get(t, "/v1/health/service/%s", t->name);
    STATUS(plain, 403);
    BODY(plain, "ACL not found");
    r = get(t, "%s", query);
    STATUS(r, PER(t, 403, 200));
    if (t->is_new) {
        AT(r, "", "[1]");
        EXPECT(t, index_of(r) == index);
    }
    t->token = own;
}

static const contract_case table[] = {
    { "acl: reads without a token are filtered", acl_reads_are_filtered, CASE_ACL },
    { "acl: unknown token", acl_unknown_token, CASE_ACL },
    { "acl: unknown token, blocking", acl_unknown_token_blocking, CASE_ACL },
    { "acl: ways to carry a token", acl_ways_to_carry_a_token, CASE_ACL },
    { "acl: registering needs a right", acl_registering_needs_a_right, CASE_ACL },
    { "acl: a bad body counts before a bad token", acl_bad_body_counts_first, CASE_ACL },
    { "acl: writing needs a right", acl_writing_needs_a_right, CASE_ACL },
    { "acl: unknown ids", acl_unknown_ids, CASE_ACL },
    { "acl: reading the agent", acl_agent_reads, CASE_ACL },
    { "acl: the leader needs no right", acl_leader_needs_no_right, CASE_ACL },
    { "acl: a blocked read wakes", acl_wakes, CASE_ACL },
    { "acl: a service is seen only with its node", acl_needs_the_node_too, CASE_ACL | CASE_TOKENS },
    { "acl: limited tokens", acl_limited_tokens, CASE_ACL | CASE_TOKENS },
    { "acl: a token is revoked", acl_token_is_revoked, CASE_ACL | CASE_TOKENS }
};

CASES(cases_acl, table);
