/* The core of the embedded agent where no contract case reaches: faults, time, any split. */
#include "../agent.h"
#include "../../support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char master[] = "11111111-2222-3333-4444-555555555555";

typedef struct rig {
    agent      *a;
    agent_conn *conn;
    uint64_t    now;
    char        text[65536];
} rig;

static rig rig_with(agent_profile profile, const char *token)
{
    agent_desc desc;
    rig r;

    memset(&desc, 0, sizeof desc);
    desc.profile = profile;
    desc.management_token = token;
    r.now = 1000;
    r.text[0] = '\0';
    r.a = agent_create(&desc, r.now);
    r.conn = agent_accept(r.a);
    return r;
}

static rig rig_of(agent_profile profile)
{
    return rig_with(profile, NULL);
}

/* All that came on the connection since the last look. */
static const char *took(rig *r, agent_conn *conn)
{
    const char *bytes = NULL;
    size_t len = agent_conn_peek(conn, &bytes);

    snprintf(r->text, sizeof r->text, "%.*s", (int)len, bytes);
    agent_conn_ack(conn, len);
    return r->text;
}

static void feed(rig *r, agent_conn *conn, const char *text)
{
    agent_conn_feed(conn, text, strlen(text), r->now);
}

static const char *ask(rig *r, const char *method, const char *target, const char *token,
                       const char *body)
{
    char text[4096];

    snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: a\r\nX-Consul-Token: %s\r\n"
             "Content-Length: %zu\r\n\r\n%s", method, target, token, strlen(body), body);
    feed(r, r->conn, text);
    return took(r, r->conn);
}

static const char *get(rig *r, const char *target)
{
    return ask(r, "GET", target, "", "");
}

static const char *put(rig *r, const char *target, const char *body)
{
    return ask(r, "PUT", target, "", body);
}

static void enroll(rig *r, const char *body)
{
    CHECK_HAS(put(r, "/v1/agent/service/register", body), "200 OK");
}

static uint64_t index_in(const char *text)
{
    const char *at = strstr(text, "X-Consul-Index: ");

    return at == NULL ? 0 : strtoull(at + 16, NULL, 10);
}

static void pass_time(rig *r, uint64_t ms)
{
    r->now += ms;
    agent_advance(r->a, r->now);
}

/* A blocking query from the index the list has now; nothing is answered at first. */
static uint64_t block(rig *r, const char *name, const char *more, const char *token)
{
    char target[256];

    snprintf(target, sizeof target, "/v1/health/service/%s", name);
    uint64_t index = index_in(ask(r, "GET", target, token, ""));
    snprintf(target, sizeof target, "/v1/health/service/%s?index=%llu%s", name,
             (unsigned long long)index, more);
    CHECK_STR(ask(r, "GET", target, token, ""), "");
    return index;
}

static void done(rig *r)
{
    agent_destroy(r->a);
}

/* ---- time ------------------------------------------------------------------------------- */
static void test_agent_ttl_expires_to_the_millisecond(void)
{
    rig r = rig_of(AGENT_1_8);

    enroll(&r, "{\"Name\":\"web\",\"Check\":{\"TTL\":\"10s\"}}");
    CHECK_HAS(put(&r, "/v1/agent/check/pass/service:web?note=fine", ""), "200 OK");
    CHECK_U64(agent_next_ms(r.a), r.now + 10000);
    pass_time(&r, 9999);
    CHECK_STR(agent_check_status(r.a, "service:web"), "passing");
    pass_time(&r, 1);
    CHECK_STR(agent_check_status(r.a, "service:web"), "critical");
    CHECK_HAS(get(&r, "/v1/health/service/web"),
              "TTL expired (last output before timeout follows): fine");
    done(&r);
}

static void test_agent_waits_end_in_time(void)
{
    for (int is_new = 0; is_new <= 1; is_new++) {
        rig r = rig_of(is_new ? AGENT_1_22 : AGENT_1_8);

        enroll(&r, "{\"Name\":\"web\"}");
        uint64_t index = block(&r, "web", "&wait=32s", "");
        pass_time(&r, 31999);
        CHECK_STR(took(&r, r.conn), "");
        pass_time(&r, is_new ? 1 : 2001);
        CHECK_U64(index_in(took(&r, r.conn)), index);
        done(&r);
    }
}

static void test_agent_waits_of_five_and_ten_minutes(void)
{
    rig r = rig_of(AGENT_1_22);

    enroll(&r, "{\"Name\":\"web\"}");
    block(&r, "web", "", "");
    CHECK_U64(agent_next_ms(r.a), r.now + 300000);
    pass_time(&r, 300000);
    CHECK_HAS(took(&r, r.conn), "200 OK");
    block(&r, "web", "&wait=2h", "");
    CHECK_U64(agent_next_ms(r.a), r.now + 600000);
    pass_time(&r, 600000);
    CHECK_HAS(took(&r, r.conn), "200 OK");
    block(&r, "web", "&wait=-1s", "");
    CHECK_U64(agent_next_ms(r.a), UINT64_MAX);
    done(&r);
}

static void test_agent_output_alone_waits_for_minutes(void)
{
    rig r = rig_of(AGENT_1_8);

    enroll(&r, "{\"Name\":\"web\",\"Check\":{\"TTL\":\"1h\",\"Status\":\"passing\"}}");
    put(&r, "/v1/agent/check/pass/service:web?note=one", "");
    CHECK_HAS(get(&r, "/v1/agent/checks"), "\"Output\":\"one\"");
    uint64_t index = index_in(get(&r, "/v1/health/service/web"));
    CHECK_HASNT(r.text, "\"Output\":\"one\"");
    pass_time(&r, 149000);
    CHECK_U64(index_in(get(&r, "/v1/health/service/web")), index);
    pass_time(&r, 301000);
    CHECK_U64(index_in(get(&r, "/v1/health/service/web")), index + 1);
    CHECK_HAS(r.text, "\"Output\":\"one\"");
    done(&r);
}

static void test_agent_reaps_a_critical_service(void)
{
    rig r = rig_of(AGENT_1_8);

    enroll(&r, "{\"Name\":\"web\",\"Check\":{\"TTL\":\"10s\","
               "\"DeregisterCriticalServiceAfter\":\"1s\"}}");
    pass_time(&r, 69000);
    CHECK(agent_has_service(r.a, "web"));
    pass_time(&r, 31001);
    CHECK(!agent_has_service(r.a, "web"));
    CHECK_HAS(get(&r, "/v1/health/service/web"), "\r\n\r\n[]");
    done(&r);
}

static void test_agent_times_out_idle_connections(void)
{
    rig r = rig_of(AGENT_1_22);
    agent_conn *half = agent_accept(r.a);

    feed(&r, half, "GET / HT");
    get(&r, "/v1/status/leader");
    pass_time(&r, 10000);
    CHECK_HAS(took(&r, half), "400 Bad Request");
    CHECK(agent_conn_wants_close(half));
    pass_time(&r, 109999);
    CHECK(!agent_conn_wants_close(r.conn));
    pass_time(&r, 1);
    CHECK(agent_conn_wants_close(r.conn));
    done(&r);
}

/* ---- faults ------------------------------------------------------------------------------ */
static void test_agent_without_leader(void)
{
    for (int is_new = 0; is_new <= 1; is_new++) {
        rig r = rig_of(is_new ? AGENT_1_22 : AGENT_1_8);

        enroll(&r, "{\"Name\":\"web\"}");
        agent_set_leader(r.a, false, r.now);
        CHECK_HAS(get(&r, "/v1/health/service/web"), "500 Internal");
        CHECK_HAS(r.text, "No cluster leader");
        CHECK_HAS(get(&r, "/v1/status/leader"), "\"\"");
        CHECK_HAS(get(&r, "/v1/health/service/web?stale"), "\"ID\":\"web\"");
        enroll(&r, "{\"Name\":\"late\"}");
        CHECK_HAS(get(&r, "/v1/health/service/late?stale"), "[]");
        agent_set_leader(r.a, true, r.now);
        CHECK_HAS(get(&r, "/v1/health/service/late"), "\"ID\":\"late\"");
        done(&r);
    }
}

static void test_agent_restart_cuts_and_lowers(void)
{
    rig r = rig_of(AGENT_1_22);

    enroll(&r, "{\"Name\":\"web\",\"Check\":{\"TTL\":\"10s\",\"Status\":\"passing\"}}");
    enroll(&r, "{\"Name\":\"web\",\"Port\":2,\"Check\":{\"TTL\":\"10s\"}}");
    uint64_t index = block(&r, "web", "", "");
    agent_restart(r.a, 5, true, r.now);
    CHECK(agent_conn_wants_close(r.conn));
    CHECK_STR(took(&r, r.conn), "");
    agent_conn_close(r.conn);
    r.conn = agent_accept(r.a);
    CHECK(index_in(get(&r, "/v1/health/service/web")) < index);
    CHECK_HAS(r.text, "\"Status\":\"passing\",\"Notes\":\"\",\"Output\":\"\","
              "\"ServiceID\":\"web\"");
    agent_restart(r.a, 0, false, r.now);
    r.conn = agent_accept(r.a);
    CHECK_HAS(get(&r, "/v1/health/service/web"), "\r\n\r\n[]");
    CHECK_INT(agent_num_services(r.a), 0);
    done(&r);
}

static void test_agent_revoked_token_of_a_stream(void)
{
    rig r = rig_with(AGENT_1_22, master);

    agent_add_token(r.a, "reader", AGENT_SERVICE_READ | AGENT_NODE_READ, r.now);
    ask(&r, "PUT", "/v1/agent/service/register", master, "{\"Name\":\"web\"}");
    uint64_t index = block(&r, "web", "&wait=5s", "reader");
    agent_revoke_token(r.a, "reader", r.now);
    CHECK_HAS(took(&r, r.conn), "403 Forbidden");
    ask(&r, "PUT", "/v1/agent/service/register", master, "{\"Name\":\"web\",\"ID\":\"web2\"}");
    CHECK_HAS(ask(&r, "GET", "/v1/health/service/web", "reader", ""), "403 Forbidden");
    char target[128];
    snprintf(target, sizeof target, "/v1/health/service/web?wait=5s&index=%llu",
             (unsigned long long)index);
    CHECK_STR(ask(&r, "GET", target, "reader", ""), "");
    pass_time(&r, 5000);
    CHECK_U64(index_in(took(&r, r.conn)), index);
    CHECK_HASNT(r.text, "web2");
    CHECK_HAS(r.text, "\"ID\":\"web\"");
    ask(&r, "GET", target, "reader", "");
    pass_time(&r, 5000);
    took(&r, r.conn);
    ask(&r, "GET", target, "reader", "");
    pass_time(&r, 2000);
    CHECK_HAS(took(&r, r.conn), "403 Forbidden");
    done(&r);
}

static void test_agent_bad_token_of_a_stream(void)
{
    rig r = rig_with(AGENT_1_22, master);

    CHECK_STR(ask(&r, "GET", "/v1/health/service/web?index=1&wait=3s", "bad", ""), "");
    pass_time(&r, 3000);
    CHECK_U64(index_in(took(&r, r.conn)), 1);
    CHECK_HAS(r.text, "\r\n\r\n[]");
    done(&r);
}

static void test_agent_limit_of_connections(void)
{
    agent_desc desc;
    rig r = rig_of(AGENT_1_22);

    done(&r);
    memset(&desc, 0, sizeof desc);
    desc.max_conns = 2;
    for (int is_new = 0; is_new <= 1; is_new++) {
        desc.profile = is_new ? AGENT_1_22 : AGENT_1_8;
        r.a = agent_create(&desc, r.now);
        agent_conn *first = agent_accept(r.a);
        agent_accept(r.a);
        agent_conn *third = agent_accept(r.a);
        CHECK(agent_conn_wants_close(third));
        CHECK_HAS(took(&r, third), is_new ? "HTTP/1.1 429" : "");
        agent_conn_close(first);
        agent_conn_close(third);
        CHECK(!agent_conn_wants_close(agent_accept(r.a)));
        done(&r);
    }
}

static void test_agent_fails_and_hangs_when_told(void)
{
    rig r = rig_of(AGENT_1_8);
    agent_stats stats;

    agent_fail_next(r.a, 1, 503, "no");
    CHECK_HAS(get(&r, "/v1/status/leader"), "503 Service Unavailable");
    CHECK_HAS(get(&r, "/v1/status/leader"), "200 OK");
    CHECK_HAS(agent_last_request(r.a), "GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n");
    agent_hang_next(r.a, 1);
    CHECK_STR(get(&r, "/v1/status/leader"), "");
    pass_time(&r, 3600000);
    CHECK_STR(took(&r, r.conn), "");
    agent_get_stats(r.a, &stats);
    CHECK_INT(stats.requests, 3);
    CHECK_INT(stats.answers, 2);
    CHECK_INT(stats.conns_waiting, 1);
    done(&r);
}

/* ---- bytes --------------------------------------------------------------------------------- */
static void test_agent_requests_in_any_split(void)
{
    static const char stream[] =
        "PUT /v1/agent/service/register HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\n{\"Nam\r\n8;x=y\r\ne\":\"web\"\r\n1\r\n}\r\n0\r\nT: x\r\n\r\n"
        "GET /v1/agent/services HTTP/1.1\r\nHost: a\r\n\r\n"
        "PUT /v1/agent/service/deregister/web HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx"
        "GET /v1/status/leader HTTP/1.0\r\n\r\n";
    char whole[sizeof((rig *)0)->text];

    for (size_t cut = 0; cut < sizeof stream; cut++) {
        rig r = rig_of(AGENT_1_8);

        agent_conn_feed(r.conn, stream, cut, r.now);
        agent_conn_feed(r.conn, stream + cut, sizeof stream - 1 - cut, r.now);
        took(&r, r.conn);
        CHECK(agent_conn_wants_close(r.conn));
        if (cut == 0) {
            memcpy(whole, r.text, sizeof whole);
            CHECK_HAS(whole, "{\"web\":{\"ID\":\"web\"");
        }
        if (!CHECK_STR(r.text, whole)) {
            cut = sizeof stream;
        }
        done(&r);
    }
}

static void test_agent_pipelined_behind_a_wait(void)
{
    rig r = rig_of(AGENT_1_8);
    agent_conn *other = agent_accept(r.a);

    enroll(&r, "{\"Name\":\"web\"}");
    uint64_t index = block(&r, "web", "", "");
    CHECK_STR(get(&r, "/v1/status/leader"), "");
    feed(&r, other, "PUT /v1/agent/service/deregister/web HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK_HAS(took(&r, other), "200 OK");
    CHECK(index_in(took(&r, r.conn)) > index);
    CHECK_HAS(r.text, "\"127.0.0.1:8300\"");
    done(&r);
}

static void test_agent_hands_in_a_check_from_outside(void)
{
    rig r = rig_of(AGENT_1_22);

    enroll(&r, "{\"Name\":\"web\",\"Check\":{\"HTTP\":\"http://x\",\"Interval\":\"10s\"}}");
    uint64_t index = block(&r, "web", "", "");
    CHECK(!agent_set_check(r.a, "nope", "passing", "", r.now));
    CHECK(agent_set_check(r.a, "service:web", "passing", "up", r.now));
    CHECK_U64(index_in(took(&r, r.conn)), index + 1);
    CHECK_HAS(r.text, "\"Status\":\"passing\",\"Notes\":\"\",\"Output\":\"up\"");
    block(&r, "web", "&passing", "");
    agent_set_node_health(r.a, "critical", "Agent not live or unreachable", r.now);
    CHECK_HAS(took(&r, r.conn), "\r\n\r\n[]");
    CHECK(agent_kill_service(r.a, "web", r.now));
    CHECK(!agent_kill_service(r.a, "web", r.now));
    done(&r);
}

static const test_case cases_agent_core[] = {
    TEST(test_agent_ttl_expires_to_the_millisecond),
    TEST(test_agent_waits_end_in_time),
    TEST(test_agent_waits_of_five_and_ten_minutes),
    TEST(test_agent_output_alone_waits_for_minutes),
    TEST(test_agent_reaps_a_critical_service),
    TEST(test_agent_times_out_idle_connections),
    TEST(test_agent_without_leader),
    TEST(test_agent_restart_cuts_and_lowers),
    TEST(test_agent_revoked_token_of_a_stream),
    TEST(test_agent_bad_token_of_a_stream),
    TEST(test_agent_limit_of_connections),
    TEST(test_agent_fails_and_hangs_when_told),
    TEST(test_agent_requests_in_any_split),
    TEST(test_agent_pipelined_behind_a_wait),
    TEST(test_agent_hands_in_a_check_from_outside)
};

TEST_MAIN(GROUP(cases_agent_core))
