/* Tests of [sdc:instancer] and of what [sdc:call] does for it, in virtual time. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/rig.h"
#include "support/world_agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INSTANCER_ONE   "10.1.0.1:80"
#define INSTANCER_LIMIT "Your IP is issuing too many concurrent connections, please rate limit " \
                        "your calls\n"

/* ---- common beginnings ----------------------------------------------------------------------- */

/* num instances web-N at 10.1.0.N:80. */
static const char *instancer_body(rig *r, int from, int num)
{
    script_instance list[8];
    char names[8][2][16];
    memset(list, 0, sizeof list);
    for (int i = 0; i < num && i < 8; i++) {
        snprintf(names[i][0], sizeof names[i][0], "web-%d", from + i);
        snprintf(names[i][1], sizeof names[i][1], "10.1.0.%d", from + i);
        list[i].id = names[i][0];
        list[i].address = names[i][1];
        list[i].port = 80;
    }
    return script_list(r->script, list, (size_t)num);
}

/* A watch that has read one instance at index 100, with its next query held for as long as it
   likes. The bucket is full again. */
static bool instancer_begin_with(rig *r, const world_desc *desc, const sdc_instancer_desc *watch)
{
    if (!rig_init(r, desc)) {
        return false;
    }
    script_health(r->script, 100, instancer_body(r, 1, 1));
    script_hold(r->script);
    bool ok = rig_watch(r, watch);
    rig_run(r, 30000);
    return ok && CHECK_STR(rig_addrs(r), INSTANCER_ONE);
}

static bool instancer_begin(rig *r)
{
    return instancer_begin_with(r, NULL, NULL);
}

/* The steps of the script from now on; the query that is held goes on being held until it is let
   go by script_change. */
static void instancer_next(rig *r)
{
    script_clear(r->script);
}

static sdc_stats instancer_stats(rig *r)
{
    sdc_stats stats;
    sdc_task_stats(r->task, &stats);
    return stats;
}

static sdc_error instancer_error(rig *r)
{
    sdc_error error;
    sdc_task_error(r->task, &error);
    return error;
}

static const char *instancer_index(rig *r, size_t nth)
{
    const script_request *q = script_nth(r->script, nth);
    if (!CHECK(q != NULL)) {
        return "no such request";
    }
    const char *index = script_query(q, "index");
    return index != NULL && strcmp(index, "0") != 0 ? index : "";
}

static const sdc_event *instancer_peek(rig *r)
{
    const sdc_event *event = sdc_instancer_state(r->instancer);
    sdc_event_release(event);
    return event;
}

static uint64_t instancer_asked_ms(rig *r, size_t nth)
{
    const script_request *q = script_nth(r->script, nth);
    return CHECK(q != NULL) ? q->at_ms : 0;
}

/* ---- indexes --------------------------------------------------------------------------------- */

static void test_01_no_index_on_the_first_request(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    CHECK_STR(instancer_index(&r, 0), "");
    CHECK_STR(instancer_index(&r, 1), "100");
    CHECK_STR(script_nth(r.script, 0)->path, "/v1/health/service/web");
    CHECK_STR(script_nth(r.script, 0)->method, "GET");
    rig_deinit(&r);
}

static void test_02_index_goes_back_verbatim(void)
{
    static const uint64_t indexes[] = { 1, 9007199254740993u, 9223372036854775808u, UINT64_MAX };
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        rig r;
        char text[24];
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, indexes[i], instancer_body(&r, 1, 1));
        script_hold(r.script);
        rig_watch(&r, NULL);
        rig_run(&r, 1000);
        snprintf(text, sizeof text, "%llu", (unsigned long long)indexes[i]);
        CHECK_STR(instancer_index(&r, 1), text);
        CHECK_U64(instancer_stats(&r).index, indexes[i]);
        CHECK_U64(instancer_peek(&r)->index, indexes[i]);
        CHECK_INT(script_num_requests(r.script), 2);
        rig_deinit(&r);
    }
}

static void test_03_index_0_counts_as_1(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 0, instancer_body(&r, 1, 1));
    rig_watch(&r, NULL);
    rig_run(&r, 5000);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK_STR(instancer_index(&r, 1), "1");
    CHECK_BETWEEN(script_num_requests(r.script), 3, 13);
    rig_deinit(&r);
}

/* An answer without an index that can be read: published, polled at a bounded rate. */
static void instancer_polls(const char *headers)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_times(r.script, 3);
    script_reply(r.script, 200, headers, instancer_body(&r, 1, 1));
    script_reply(r.script, 200, headers, instancer_body(&r, 2, 1));
    rig_watch(&r, NULL);
    rig_run(&r, 60000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_INT(rig_num_events(&r), 3);
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_U64(instancer_peek(&r)->index, 0);
    size_t num = script_num_requests(r.script);
    CHECK_BETWEEN(num, 5, 60);
    for (size_t i = 0; i < num; i++) {
        CHECK_STR(instancer_index(&r, i), "");
        CHECK(script_wait_ms(script_nth(r.script, i)) > 0);
    }
    CHECK_INT(world_log_count(r.world, "WARN", "Index"), 1);
    rig_deinit(&r);
}

static void test_04_missing_index_is_polled(void)
{
    instancer_polls(NULL);
    instancer_polls("X-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\n");
}

static void test_05_unreadable_index_counts_as_none(void)
{
    static const char *const bad[] = { "abc", "-1", "1, 1", "18446744073709551616", "", "+1", "1 1",
                                       "0x10", "1.0", "1e3", "99999999999999999999999999" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char headers[64];
        test_note("index \"%s\"", bad[i]);
        snprintf(headers, sizeof headers, "X-Consul-Index: %s\r\n", bad[i]);
        instancer_polls(headers);
    }
}

static void test_05_a_warning_for_each_spell_of_bad_indexes(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    for (int i = 0; i < 2; i++) {
        script_times(r.script, 3);
        script_reply(r.script, 200, "X-Consul-Index: abc\r\n", instancer_body(&r, 1, 1));
        script_health(r.script, 10, instancer_body(&r, 1, 1));
    }
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 120000);
    CHECK_INT(world_log_count(r.world, "WARN", "Index"), 2);
    rig_deinit(&r);
}

static void test_06_lower_index_starts_over_and_is_not_published(void)
{
    for (int num = 0; num < 3; num++) {
        rig r;
        REQUIRE(instancer_begin(&r));
        instancer_next(&r);
        script_health(r.script, 51, instancer_body(&r, 2, 1));
        script_hold(r.script);
        script_change(r.script, 50, instancer_body(&r, 5, num));
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK_INT(rig_num_events(&r), 2);
        rig_run(&r, 1000);
        CHECK_STR(instancer_index(&r, 2), "");
        CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
        CHECK_INT(rig_num_events(&r), 3);
        CHECK_STR(instancer_index(&r, 3), "51");
        rig_deinit(&r);
    }
}

/* Two agents behind one address whose histories differ, or one that has lost its mind. */
static void test_06_index_that_jumps_up_and_down_is_no_busy_loop(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    for (size_t i = 0; i < 500; i++) {
        script_health(r.script, i % 2 == 0 ? 100 : 50, instancer_body(&r, 1, 1));
    }
    rig_watch(&r, NULL);
    rig_run(&r, 300000);
    CHECK_BETWEEN(script_num_requests(r.script), 10, 100);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK_INT(rig_num_events(&r), 2);
    rig_deinit(&r);
}

static void test_07_false_empty_with_index_1_is_not_published(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 500, instancer_body(&r, 1, 2));
    script_delay(r.script, 5000);
    script_streamed(r.script, 1, "[]");
    script_health(r.script, 500, instancer_body(&r, 1, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    const sdc_event *before = NULL;
    rig_run(&r, 4000);
    before = instancer_peek(&r);
    rig_run(&r, 10000);
    CHECK_INT(before->num_instances, 2);
    CHECK(instancer_peek(&r) == before);
    CHECK_INT(rig_num_events(&r), 2);
    CHECK_STR(instancer_index(&r, 2), "");
    rig_deinit(&r);
}

static void test_08_same_index_same_body_is_no_event(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    const sdc_event *before = sdc_instancer_state(r.instancer);
    size_t num = script_num_requests(r.script);
    uint64_t good_at_ms = instancer_stats(&r).last_good_at_ms;
    rig_run(&r, 300000);
    CHECK(script_num_requests(r.script) >= num + 4);
    CHECK(instancer_peek(&r) == before);
    CHECK_INT(rig_num_events(&r), 2);
    CHECK_U64(instancer_stats(&r).changes, 1);
    CHECK(instancer_stats(&r).last_good_at_ms > good_at_ms);
    sdc_event_release(before);
    rig_deinit(&r);
}

static void test_09_same_index_other_body_is_an_event(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    script_change(r.script, 100, instancer_body(&r, 1, 2));
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80");
    CHECK_INT(rig_num_events(&r), 3);
    CHECK_INT(rig_last(&r)->num_added, 1);
    CHECK_U64(instancer_stats(&r).changes, 2);
    rig_deinit(&r);
}

static void test_10_higher_index_same_body_is_no_event(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    const sdc_event *before = sdc_instancer_state(r.instancer);
    script_change(r.script, 101, instancer_body(&r, 1, 1));
    rig_run(&r, 1000);
    CHECK(instancer_peek(&r) == before);
    CHECK_INT(rig_num_events(&r), 2);
    CHECK_U64(instancer_stats(&r).index, 101);
    CHECK_STR(instancer_index(&r, 2), "101");
    sdc_event_release(before);
    rig_deinit(&r);
}

static void test_11_other_order_is_no_event(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script,
        { .id = "a", .address = "10.1.0.1", .port = 80, .tags = "x,y,z",
          .meta = "\"k\":\"1\",\"l\":\"2\"" },
        { .id = "b", .address = "10.1.0.2", .port = 80 }));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 1000);
    script_change(r.script, 101, SCRIPT_LIST(r.script,
        { .id = "b", .address = "10.1.0.2", .port = 80 },
        { .id = "a", .address = "10.1.0.1", .port = 80, .tags = "z,x,y",
          .meta = "\"l\":\"2\",\"k\":\"1\"" }));
    rig_run(&r, 1000);
    CHECK_INT(rig_num_events(&r), 2);
    CHECK_U64(instancer_stats(&r).index, 101);
    rig_deinit(&r);
}

static void test_20_bad_body_does_not_move_the_index(void)
{
    static const char *const bad[] = { "[{\"Node\":{", "[", "", "[1,]", "nul", "[]]", "null x",
                                       "[\"\\ud800\"]", "{}" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        rig r;
        test_note("body %s", bad[i]);
        REQUIRE(instancer_begin(&r));
        instancer_next(&r);
        script_health(r.script, 201, instancer_body(&r, 2, 1));
        script_hold(r.script);
        script_change(r.script, 200, bad[i]);
        sdc_err err = rig_run_exchange(&r);
        CHECK(err == SDC_ERR_JSON || err == SDC_ERR_SHAPE);
        CHECK_ERR(rig_err(&r), err);
        CHECK_ERR(instancer_error(&r).code, err);
        CHECK_INT(instancer_error(&r).http_status, 200);
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK_U64(instancer_peek(&r)->index, 100);
        rig_run(&r, 1000);
        CHECK_STR(instancer_index(&r, 2), "");
        CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
        CHECK_ERR(rig_err(&r), SDC_OK);
        rig_deinit(&r);
    }
}

static void test_20_truncated_answer_is_an_error_and_never_data(void)
{
    static const char *const cut[] = {
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 200\r\nContent-Length: 99\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n",
        "HTTP/1.1 200 OK\r\nX-Consul-Ind"
    };
    for (size_t i = 0; i < sizeof cut / sizeof cut[0]; i++) {
        rig r;
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, instancer_body(&r, 1, 1));
        script_then_close(r.script);
        script_raw(r.script, cut[i]);
        script_health(r.script, 201, instancer_body(&r, 1, 1));
        script_hold(r.script);
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_IO);
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK_ERR(rig_err(&r), SDC_ERR_IO);
        rig_run(&r, 1000);
        CHECK_STR(instancer_index(&r, 2), "");
        CHECK_ERR(rig_err(&r), SDC_OK);
        rig_deinit(&r);
    }
}

static void test_22_index_beyond_the_servers(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));           /* the server restarts: it knows index 7 alone, and */
    instancer_next(&r);                     /* holds a query for 100 until its wait is over     */
    script_health(r.script, 7, instancer_body(&r, 3, 1));
    script_hold(r.script);
    uint64_t wait_ms = script_wait_ms(script_nth(r.script, 1));
    rig_run(&r, wait_ms - 30000 - 1);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    script_change(r.script, 7, instancer_body(&r, 3, 1));
    rig_run(&r, 1000);
    CHECK_STR(instancer_index(&r, 2), "");
    CHECK_STR(instancer_index(&r, 3), "7");
    CHECK_STR(rig_addrs(&r), "10.1.0.3:80");
    CHECK_INT(rig_num_events(&r), 3);
    rig_deinit(&r);
}

static void test_31_resync_reads_without_an_index(void)
{
    static const uint32_t every_ms[] = { 0, 120000, SDC_NEVER };
    for (size_t i = 0; i < 3; i++) {
        rig r;
        sdc_instancer_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.resync_ms = every_ms[i];
        uint64_t period_ms = desc.resync_ms == 0 ? 600000 : desc.resync_ms;
        REQUIRE(instancer_begin_with(&r, NULL, &desc));
        uint64_t full_ms = instancer_asked_ms(&r, 0);
        rig_run(&r, 3600000);
        size_t num_full = 0;
        for (size_t k = 1; k < script_num_requests(r.script); k++) {
            if (instancer_index(&r, k)[0] == '\0') {
                num_full++;
                CHECK_BETWEEN(instancer_asked_ms(&r, k) - full_ms, period_ms, period_ms + 60000);
                full_ms = instancer_asked_ms(&r, k);
            }
        }
        CHECK_BETWEEN(num_full, i == 2 ? 0 : i == 1 ? 20 : 5, i == 2 ? 0 : i == 1 ? 30 : 6);
        CHECK_INT(rig_num_events(&r), 2);
        rig_deinit(&r);
    }
}

static void test_25_streamed_answers_know_no_leader(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_streamed(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK(instancer_stats(&r).is_streaming);
    CHECK(!instancer_stats(&r).known_leader);
    script_change(r.script, 101, instancer_body(&r, 2, 1));     /* by the other backend now */
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK(!instancer_stats(&r).is_streaming);
    CHECK(instancer_stats(&r).known_leader);
    rig_deinit(&r);
}

/* ---- wait and deadlines ---------------------------------------------------------------------- */

static void test_14_wait_is_always_there(void)
{
    static const uint32_t waits[] = { 0, 1, 9, 1000, 600000, SDC_NEVER };
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        rig r;
        sdc_instancer_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.query.wait_ms = waits[i];
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, instancer_body(&r, 1, 1));
        script_times(r.script, 2);
        script_hold(r.script);
        script_health(r.script, 100, "[]");
        script_error(r.script, 500, "x");
        script_hold(r.script);
        rig_watch(&r, &desc);
        uint64_t most = waits[i] == 0 ? 60000 : waits[i] == SDC_NEVER ? 600000 : waits[i];
        rig_run(&r, 60000 + 6 * most);
        for (size_t k = 0; k < script_num_requests(r.script); k++) {
            const char *wait = script_query(script_nth(r.script, k), "wait");
            REQUIRE(wait != NULL);
            size_t digits = strspn(wait, "0123456789");
            CHECK(digits > 0 && wait[0] != '0');
            CHECK(strcmp(wait + digits, "ms") == 0 || strcmp(wait + digits, "s") == 0);
            CHECK(script_query_nth(script_nth(r.script, k), "wait", 1) == NULL);
            CHECK_BETWEEN(script_wait_ms(script_nth(r.script, k)), most - most / 10, most);
        }
        CHECK(script_num_requests(r.script) > 5);
        rig_deinit(&r);
    }
}

static void test_15_wait_is_jittered(void)
{
    rig r;
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;
    REQUIRE(instancer_begin(&r));
    rig_run(&r, 3600000);
    size_t num = script_num_requests(r.script);
    CHECK(num >= 50);
    for (size_t i = 0; i < num; i++) {
        uint64_t wait_ms = script_wait_ms(script_nth(r.script, i));
        CHECK_BETWEEN(wait_ms, 54000, 60000);
        least = wait_ms < least ? wait_ms : least;
        most = wait_ms > most ? wait_ms : most;
    }
    CHECK(least < 55500);
    CHECK(most > 58500);
    rig_deinit(&r);
}

static void test_16_hung_server_is_left(void)
{
    static const uint32_t waits[] = { 0, 1000, 600000 };
    for (size_t i = 0; i < 3; i++) {
        rig r;
        sdc_instancer_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.query.wait_ms = waits[i];
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, instancer_body(&r, 1, 1));
        script_hang(r.script);
        script_health(r.script, 101, instancer_body(&r, 1, 1));
        script_hold(r.script);
        rig_watch(&r, &desc);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_TIMEOUT);
        const script_request *q = script_nth(r.script, 1);
        uint64_t wait_ms = script_wait_ms(q);
        CHECK_U64(world_now(r.world) - q->at_ms, wait_ms + wait_ms / 16 + 10000);
        CHECK(!world_conn_is_open(q->conn));
        CHECK_INT(world_seen(r.world)->open_now, 0);
        CHECK_ERR(rig_err(&r), SDC_ERR_TIMEOUT);
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        rig_run(&r, 1000);
        CHECK_ERR(rig_err(&r), SDC_OK);
        CHECK(script_nth(r.script, 2)->conn != q->conn);
        rig_deinit(&r);
    }
}

/* Answers after the query's wait, a sixteenth more, and what `user` points to. */
static void instancer_answer_late(void *user, script_request *q)
{
    uint64_t wait_ms = script_wait_ms(q);
    script_answer_later(q, (uint32_t)(wait_ms + wait_ms / 16 + *(const uint32_t *)user), 200,
                        script_health_headers(q->script, 100), "[]");
}

static void test_17_answer_after_the_servers_own_jitter_counts(void)
{
    static const uint32_t extra[] = { 0, 9999, 10000 };
    for (size_t i = 0; i < 3; i++) {
        rig r;
        uint32_t extra_ms = extra[i];
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, "[]");
        script_call(r.script, instancer_answer_late, &extra_ms);
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_err(&r), SDC_OK);
        CHECK_INT(rig_num_events(&r), 2);
        CHECK_U64(instancer_stats(&r).failures, 0);
        rig_deinit(&r);
    }
}

static void test_34_slow_500_is_not_a_timeout(void)
{
    static const uint32_t delays[] = { 7000, 8000, 10000, 14999 };
    for (size_t i = 0; i < sizeof delays / sizeof delays[0]; i++) {
        rig r;
        REQUIRE(rig_init(&r, NULL));
        script_delay(r.script, delays[i]);
        script_error(r.script, 500, "No cluster leader");
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
        CHECK_U64(world_now(r.world) - WORLD_START_MS, delays[i]);
        CHECK_INT(instancer_error(&r).http_status, 500);
        CHECK_HAS(instancer_error(&r).message, "No cluster leader");
        rig_deinit(&r);
    }
}

static void test_34_first_read_ends_after_15_s(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    for (uint32_t timeout_ms = 0; timeout_ms <= 2000; timeout_ms += 2000) {
        desc.request_timeout_ms = timeout_ms;
        REQUIRE(rig_init_client(&r, NULL, &desc));
        script_hang(r.script);
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_TIMEOUT);
        CHECK_U64(world_now(r.world) - WORLD_START_MS, timeout_ms == 0 ? 15000 : timeout_ms);
        CHECK(!rig_is_known(&r));
        rig_deinit(&r);
    }
}

/* ---- how often an agent is asked ------------------------------------------------------------- */

typedef struct instancer_busy {
    rig     *r;
    uint64_t index;
    unsigned answers;
    bool     changes;               /* each answer differs from the one before                */
} instancer_busy;

/* Answers at once, with the index one higher. */
static void instancer_answer_busy(void *user, script_request *q)
{
    instancer_busy *busy = (instancer_busy *)user;
    busy->answers++;
    script_answer(q, 200, script_health_headers(q->script, ++busy->index),
                  instancer_body(busy->r, busy->changes ? 2 + (int)(busy->answers % 2) : 1, 1));
}

static bool instancer_begin_busy(rig *r, instancer_busy *busy, bool changes)
{
    if (!rig_init(r, NULL)) {
        return false;
    }
    memset(busy, 0, sizeof *busy);
    busy->r = r;
    busy->index = 100;
    busy->changes = changes;
    script_call(r->script, instancer_answer_busy, busy);
    return rig_watch(r, NULL);
}

static void test_12_busy_server_is_read_two_times_a_second(void)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin_busy(&r, &busy, true));
    rig_run(&r, 10000);
    size_t num = script_num_requests(r.script);
    CHECK_BETWEEN(num, 20, 23);
    for (size_t i = 0; i < num; i++) {              /* two beyond the first are free */
        CHECK_U64(instancer_asked_ms(&r, i) - WORLD_START_MS, i < 3 ? 0 : (i - 2) * 500);
    }
    CHECK_INT(rig_num_events(&r), num + 1);
    rig_deinit(&r);
}

static void test_12_answers_at_once_with_no_news_slow_it_down(void)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin_busy(&r, &busy, false));
    rig_run(&r, 600000);
    size_t num = script_num_requests(r.script);
    CHECK_BETWEEN(num, 40, 50);
    uint64_t before = 500;
    for (size_t i = 3; i < num; i++) {
        uint64_t gap = instancer_asked_ms(&r, i) - instancer_asked_ms(&r, i - 1);
        CHECK_BETWEEN(gap, before, i == 3 ? 2000 : before * 2);
        CHECK(gap <= 15000);
        before = gap;
    }
    CHECK_U64(before, 15000);
    CHECK_INT(rig_num_events(&r), 2);
    rig_deinit(&r);
}

static void test_12_a_change_ends_the_slow_reading(void)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin_busy(&r, &busy, false));
    rig_run(&r, 600000);
    size_t num = script_num_requests(r.script);
    busy.changes = true;
    rig_run(&r, 15000 + 2000);
    CHECK(script_num_requests(r.script) >= num + 4);
    CHECK(instancer_asked_ms(&r, num + 3) - instancer_asked_ms(&r, num + 2) <= 500);
    rig_deinit(&r);
}

static void test_12_a_query_that_blocked_ends_the_slow_reading(void)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin_busy(&r, &busy, false));
    rig_run(&r, 600000);
    instancer_next(&r);
    script_delay(r.script, 600);
    script_health(r.script, 1000, instancer_body(&r, 1, 1));
    script_call(r.script, instancer_answer_busy, &busy);
    size_t num = script_num_requests(r.script);
    busy.index = 2000;
    rig_run(&r, 15000 + 2000);
    CHECK(instancer_asked_ms(&r, num + 1) - instancer_asked_ms(&r, num) <= 600 + 500);
    rig_deinit(&r);
}

static void test_12_the_bucket_fills_up_to_three(void)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin(&r));
    rig_run(&r, 600000);
    instancer_next(&r);
    memset(&busy, 0, sizeof busy);
    busy.r = &r;
    busy.index = 200;
    busy.changes = true;
    size_t num = script_num_requests(r.script);
    script_call(r.script, instancer_answer_busy, &busy);
    script_change(r.script, 200, instancer_body(&r, 4, 1));
    uint64_t changed_ms = world_now(r.world);
    rig_run(&r, 3000);
    CHECK_U64(instancer_asked_ms(&r, num), changed_ms);
    CHECK_U64(instancer_asked_ms(&r, num + 2), changed_ms);
    CHECK_U64(instancer_asked_ms(&r, num + 3), changed_ms + 500);
    CHECK_U64(instancer_asked_ms(&r, num + 4), changed_ms + 1000);
    rig_deinit(&r);
}

static void test_13_two_quick_changes_are_not_delayed(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    uint64_t start_ms = world_now(r.world);
    script_change(r.script, 101, instancer_body(&r, 2, 1));
    rig_run(&r, 10);
    script_change(r.script, 102, instancer_body(&r, 3, 1));
    rig_run(&r, 10);
    REQUIRE(rig_num_events(&r) == 4);
    CHECK_U64(rig_event_nth(&r, 2)->at_ms, start_ms);
    CHECK_U64(rig_event_nth(&r, 3)->at_ms, start_ms + 10);
    CHECK_STR(rig_addrs(&r), "10.1.0.3:80");
    rig_deinit(&r);
}

static void test_13_the_first_change_after_the_start_is_not_delayed(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 1);
    for (int i = 2; i <= 3; i++) {
        uint64_t at_ms = world_now(r.world);
        script_change(r.script, 100 + (uint64_t)i, instancer_body(&r, i, 1));
        rig_run(&r, 1);
        CHECK_U64(rig_last(&r)->at_ms, at_ms);
    }
    CHECK_INT(rig_num_events(&r), 4);
    rig_deinit(&r);
}

/* ---- empty lists ----------------------------------------------------------------------------- */

static void test_27_unknown_service_is_known_to_be_empty(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, "[]");
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK(!rig_is_known(&r));
    rig_run(&r, 300000);
    CHECK(rig_is_known(&r));
    CHECK_INT(rig_num_events(&r), 2);
    CHECK_U64(rig_last(&r)->at_ms, WORLD_START_MS);         /* nothing to confirm */
    CHECK_STR(rig_addrs(&r), "");
    CHECK_STR(instancer_index(&r, 1), "100");
    CHECK_BETWEEN(script_num_requests(r.script), 5, 8);
    script_change(r.script, 101, instancer_body(&r, 1, 1));
    rig_run(&r, 10);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    rig_deinit(&r);
}

static void test_29_empty_list_is_read_again_before_it_is_told(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    instancer_next(&r);
    script_health(r.script, 101, instancer_body(&r, 1, 1));
    script_hold(r.script);
    script_change(r.script, 101, "[]");
    rig_run(&r, 10000);
    CHECK_INT(rig_num_events(&r), 2);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK_STR(instancer_index(&r, 2), "");
    rig_deinit(&r);
}

static void test_30_list_that_stays_empty_is_told(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    uint64_t at_ms = world_now(r.world);
    script_change(r.script, 101, "[]");
    rig_run(&r, 10000);
    CHECK_INT(rig_num_events(&r), 3);
    CHECK_STR(rig_addrs(&r), "");
    CHECK(rig_is_known(&r));
    CHECK_INT(rig_last(&r)->num_removed, 1);
    CHECK(rig_last(&r)->at_ms - at_ms < 1000);
    CHECK_INT(script_num_requests(r.script), 4);
    CHECK_STR(instancer_index(&r, 2), "");
    CHECK_STR(instancer_index(&r, 3), "101");
    rig_deinit(&r);
}

static void test_30_empty_list_is_confirmed_within_a_second(void)
{
    for (size_t way = 0; way < 2; way++) {      /* the bucket is empty, or very slow */
        rig r;
        instancer_busy busy;
        REQUIRE(instancer_begin_busy(&r, &busy, way == 0));
        rig_run(&r, way == 0 ? 3000 : 600000);
        instancer_next(&r);
        size_t num = script_num_requests(r.script);
        script_health(r.script, 5000, "[]");
        rig_run(&r, 16000);
        CHECK(instancer_asked_ms(&r, num + 1) - instancer_asked_ms(&r, num) < 1000);
        CHECK_STR(instancer_index(&r, num + 1), "");
        CHECK_STR(rig_addrs(&r), "");
        CHECK_U64(rig_last(&r)->at_ms, instancer_asked_ms(&r, num + 1));
        rig_deinit(&r);
    }
}

static void test_30_empty_after_an_error_is_confirmed_too(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    instancer_next(&r);
    script_health(r.script, 3, "[]");
    script_health(r.script, 4, instancer_body(&r, 1, 1));
    script_hold(r.script);
    world_close_all(r.world, "10.0.0.1", 8500);
    rig_run(&r, 10000);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    for (size_t i = 0; i < rig_num_events(&r); i++) {
        CHECK(i == 0 || rig_event_nth(&r, i)->num_instances == 1);
    }
    rig_deinit(&r);
}

static void instancer_kill_on_agent(agent_profile profile)
{
    rig r;
    agent_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.profile = profile;
    sdc_client_desc client;
    memset(&client, 0, sizeof client);
    client.address = "10.0.0.2:8500";
    REQUIRE(rig_init_client(&r, NULL, &client));
    agent *a = agent_create(&desc, world_now(r.world));
    world_listen_agent(r.world, "10.0.0.2", 8500, a);
    CHECK(rig_register(&r, NULL));
    rig_run(&r, 10);
    CHECK(rig_watch(&r, NULL));
    rig_run(&r, 5000);
    CHECK_STR(rig_addrs(&r), "10.9.0.1:8000");
    uint64_t at_ms = world_now(r.world);
    CHECK(agent_kill_service(a, "web-1", at_ms));
    rig_run(&r, 3000);
    CHECK_STR(rig_addrs(&r), "");
    CHECK(rig_is_known(&r));
    CHECK_INT(rig_last(&r)->num_removed, 1);
    CHECK(rig_last(&r)->at_ms - at_ms <= 1000);
    rig_deinit(&r);
    agent_destroy(a);
}

static void test_28_service_that_is_gone_is_told(void)
{
    instancer_kill_on_agent(AGENT_1_8);
    instancer_kill_on_agent(AGENT_1_22);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void test_19_error_starts_over(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    instancer_next(&r);
    script_error(r.script, 500, "x");
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    script_change(r.script, 101, instancer_body(&r, 1, 1));
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
    rig_run(&r, 1000);
    CHECK_STR(instancer_index(&r, 2), "101");
    CHECK_STR(instancer_index(&r, 3), "");
    CHECK_STR(instancer_index(&r, 4), "100");
    rig_deinit(&r);
}

static void test_32_error_is_told_at_once_and_keeps_the_instances(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    const sdc_event *good = sdc_instancer_state(r.instancer);
    instancer_next(&r);
    script_error(r.script, 500, "No cluster leader");
    script_change(r.script, 101, instancer_body(&r, 1, 1));
    uint64_t at_ms = world_now(r.world);
    rig_run(&r, 600000);
    REQUIRE(rig_num_events(&r) == 3);               /* one for all of the outage */
    CHECK_U64(rig_last(&r)->at_ms, at_ms);
    CHECK_ERR(rig_last(&r)->err, SDC_ERR_STATUS);
    CHECK_STR(rig_last(&r)->addrs, INSTANCER_ONE);
    CHECK_HAS(rig_last(&r)->message, "500");
    CHECK_HAS(rig_last(&r)->message, "No cluster leader");
    CHECK_U64(instancer_peek(&r)->failing_since_ms, at_ms);
    CHECK(instancer_peek(&r)->is_known);
    CHECK_INT(rig_last(&r)->num_added + rig_last(&r)->num_removed + rig_last(&r)->num_updated, 0);
    CHECK_STR(good->instances[0].addr, INSTANCER_ONE);
    CHECK(instancer_stats(&r).consecutive_failures > 5);
    sdc_event_release(good);
    rig_deinit(&r);
}

/* Starts a watch that fails from its first request on. */
static bool instancer_begin_failing(rig *r, uint64_t seed, const sdc_instancer_desc *watch)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = seed;
    if (!rig_init(r, &desc)) {
        return false;
    }
    script_error(r->script, 500, "No cluster leader");
    return rig_watch(r, watch);
}

/* The longest pause of a watch that has failed for so long. */
static uint64_t instancer_span(uint64_t failing_ms)
{
    uint64_t span = failing_ms / 2 > 1000 ? failing_ms / 2 : 1000;
    return span < 60000 ? span : 60000;
}

static void test_32_backoff_grows_to_its_cap(void)
{
    uint64_t sum[40] = { 0 };
    for (uint64_t seed = 1; seed <= 30; seed++) {
        rig r;
        REQUIRE(instancer_begin_failing(&r, seed, NULL));
        rig_run(&r, 1800000);
        size_t num = script_num_requests(r.script);
        REQUIRE(num > 40);
        CHECK_U64(instancer_asked_ms(&r, 1) - instancer_asked_ms(&r, 0), 10);
        for (size_t i = 2; i < num; i++) {
            uint64_t before = instancer_asked_ms(&r, i - 1);
            uint64_t gap = instancer_asked_ms(&r, i) - before;
            CHECK_BETWEEN(gap, 10, instancer_span(before - instancer_asked_ms(&r, 0)));
            CHECK_STR(instancer_index(&r, i), "");
            if (i < 40) {
                sum[i] += gap;
            }
        }
        rig_deinit(&r);
    }
    CHECK_BETWEEN(sum[2] / 30, 250, 750);           /* the middle of 10 ms and a second */
    for (size_t i = 15; i < 25; i += 5) {
        test_note("after failure %zu", i);
        CHECK(sum[i] > 2 * sum[i - 5]);
    }
    CHECK_BETWEEN(sum[39] / 30, 20000, 40000);      /* of 10 ms and the cap */
}

static void instancer_good_again(rig *r)
{
    instancer_next(r);
    script_health(r->script, 100000, instancer_body(r, 5, 1));
    script_hold(r->script);
}

/* Queries that are held and broken together are not asked again together: that is what the watches
   of an agent do when it restarts. */
static void test_33_broken_queries_come_back_spread(void)
{
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;
    uint64_t sum = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        rig r;
        world_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.seed = seed;
        REQUIRE(rig_init(&r, &desc));
        script_health(r.script, 10, instancer_body(&r, 1, 1));
        script_hold(r.script);
        REQUIRE(rig_watch(&r, NULL));
        rig_run(&r, 20000);
        script_set_down(r.script, true);
        script_set_down(r.script, false);
        instancer_good_again(&r);
        uint64_t down_ms = world_now(r.world);
        size_t num = script_num_requests(r.script);
        rig_run(&r, 2000);
        REQUIRE(script_num_requests(r.script) > num);
        uint64_t gap = instancer_asked_ms(&r, num) - down_ms;
        least = gap < least ? gap : least;
        most = gap > most ? gap : most;
        sum += gap;
        rig_deinit(&r);
    }
    CHECK_BETWEEN(least, 10, 150);
    CHECK_BETWEEN(most, 850, 1000);
    CHECK_BETWEEN(sum / 40, 350, 650);
}

static void test_33_backoff_has_jitter_at_its_cap(void)
{
    rig r;
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;
    REQUIRE(instancer_begin_failing(&r, 7, NULL));
    rig_run(&r, 7200000);
    size_t num = script_num_requests(r.script);
    for (size_t i = 20; i < num; i++) {
        uint64_t gap = instancer_asked_ms(&r, i) - instancer_asked_ms(&r, i - 1);
        least = gap < least ? gap : least;
        most = gap > most ? gap : most;
    }
    CHECK(num > 150);
    CHECK(least < 15000);
    CHECK_BETWEEN(most, 45000, 60000);
    rig_deinit(&r);
}

static void test_33_backoff_of_the_desc(void)
{
    rig r;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.backoff_min_ms = 3000;
    desc.backoff_max_ms = 5000;
    REQUIRE(instancer_begin_failing(&r, 7, &desc));
    rig_run(&r, 300000);
    for (size_t i = 1; i < script_num_requests(r.script); i++) {
        CHECK_BETWEEN(instancer_asked_ms(&r, i) - instancer_asked_ms(&r, i - 1), 3000, 5000);
    }
    CHECK(script_num_requests(r.script) > 50);
    rig_deinit(&r);
}

static void test_33_two_watches_do_not_retry_in_step(void)
{
    rig r;
    sdc_instancer *other = NULL;
    sdc_instancer_desc desc;
    size_t same = 0;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "api";
    REQUIRE(instancer_begin_failing(&r, 3, NULL));
    CHECK_ERR(sdc_instancer_create(r.client, &desc, &other, NULL), SDC_OK);
    sdc_task *tasks[] = { r.task, sdc_instancer_task(other) };
    world_loop(r.world, tasks, 2, world_now(r.world) + 1800000);
    for (size_t i = 0; i < 20; i++) {
        const script_request *a = script_nth_of(r.script, "GET /v1/health/service/web", 12 + i);
        const script_request *b = script_nth_of(r.script, "GET /v1/health/service/api", 12 + i);
        REQUIRE(a != NULL && b != NULL);
        same += a->at_ms == b->at_ms ? 1 : 0;
    }
    CHECK(same < 3);
    sdc_instancer_destroy(other);
    rig_deinit(&r);
}

static void test_33_success_forgets_the_failures(void)
{
    rig r;
    REQUIRE(instancer_begin_failing(&r, 5, NULL));
    rig_run(&r, 1800000);
    instancer_next(&r);
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_times(r.script, 3);
    script_hold(r.script);
    script_error(r.script, 500, "once");
    script_health(r.script, 101, instancer_body(&r, 1, 1));
    script_hold(r.script);
    size_t num = script_num_requests(r.script);
    rig_run(&r, 600000);
    CHECK_U64(instancer_stats(&r).consecutive_failures, 0);
    CHECK_BETWEEN(instancer_asked_ms(&r, num + 5) - instancer_asked_ms(&r, num + 4), 10, 1000);
    CHECK_ERR(rig_err(&r), SDC_OK);
    rig_deinit(&r);
}

/* How a watch feels before its agent goes away. */
typedef enum instancer_mood { INSTANCER_IDLE, INSTANCER_BUSY, INSTANCER_SLOWED } instancer_mood;

static bool instancer_begin_in(rig *r, instancer_busy *busy, instancer_mood mood)
{
    if (mood == INSTANCER_IDLE) {
        return instancer_begin(r);
    }
    if (!instancer_begin_busy(r, busy, mood == INSTANCER_BUSY)) {
        return false;
    }
    rig_run(r, mood == INSTANCER_BUSY ? 3300 : 600000);
    return true;
}

/* The agent is away for outage_ms; then it is good again within `limit_ms`. */
static void instancer_outage(instancer_mood mood, uint64_t outage_ms, bool is_error)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin_in(&r, &busy, mood));
    test_note("mood %d, away for %llu ms, %s", (int)mood, (unsigned long long)outage_ms,
              is_error ? "500" : "refused");
    if (is_error) {
        instancer_next(&r);
        script_error(r.script, 500, "No cluster leader");
        script_change(r.script, 90000, instancer_body(&r, 1, 1));
    } else {
        script_set_down(r.script, true);
    }
    if (mood != INSTANCER_IDLE) {
        for (int i = 0; rig_err(&r) == SDC_OK && i < 20; i++) {
            rig_run(&r, 1000);                      /* until it has noticed */
        }
        CHECK(rig_err(&r) != SDC_OK);
        outage_ms = 0;
    }
    rig_run(&r, outage_ms);
    CHECK(mood != INSTANCER_IDLE || rig_err(&r) != SDC_OK);
    uint64_t step_ms = instancer_span(outage_ms);
    if (!is_error) {
        script_set_down(r.script, false);
    }
    instancer_good_again(&r);
    uint64_t back_ms = world_now(r.world);
    rig_run(&r, 61000);
    CHECK_ERR(rig_last(&r)->err, SDC_OK);
    CHECK_STR(rig_addrs(&r), "10.1.0.5:80");
    uint64_t limit_ms = outage_ms < 1000 || step_ms < 1000 ? 1000 : step_ms;
    CHECK_BETWEEN(rig_last(&r)->at_ms - back_ms, 0, limit_ms);
    test_note(NULL);
    rig_deinit(&r);
}

static void test_33_short_outage_is_over_within_a_second(void)
{
    static const uint64_t outages[] = { 1, 9, 11, 50, 100, 333, 500, 700, 999 };
    for (size_t i = 0; i < sizeof outages / sizeof outages[0]; i++) {
        instancer_outage(INSTANCER_IDLE, outages[i], false);
        instancer_outage(INSTANCER_IDLE, outages[i], true);
    }
}

static void test_33_long_outage_is_over_within_a_step(void)
{
    static const uint64_t outages[] = { 2000, 10000, 60000, 600000, 7200000 };
    for (size_t i = 0; i < sizeof outages / sizeof outages[0]; i++) {
        instancer_outage(INSTANCER_IDLE, outages[i], false);
        instancer_outage(INSTANCER_IDLE, outages[i], true);
    }
}

/* One failure, or half a second of them, while the watch is not idle. */
static void instancer_fails_for(instancer_mood mood, uint64_t outage_ms)
{
    rig r;
    instancer_busy busy;
    REQUIRE(instancer_begin_in(&r, &busy, mood));
    test_note("mood %d, %llu ms", (int)mood, (unsigned long long)outage_ms);
    instancer_next(&r);
    script_error(r.script, 500, "No cluster leader");
    for (int i = 0; rig_err(&r) == SDC_OK && i < 20000; i++) {
        rig_run_exchange(&r);
    }
    rig_run(&r, outage_ms);
    instancer_good_again(&r);
    uint64_t back_ms = world_now(r.world);
    rig_run(&r, 61000);
    CHECK_ERR(rig_last(&r)->err, SDC_OK);
    CHECK_BETWEEN(rig_last(&r)->at_ms - back_ms, 0, 1000);
    rig_deinit(&r);
}

static void test_33_single_failure_is_over_within_a_second(void)
{
    instancer_fails_for(INSTANCER_BUSY, 0);
    instancer_fails_for(INSTANCER_SLOWED, 0);
}

static void test_33_short_outage_of_a_busy_watch(void)
{
    instancer_fails_for(INSTANCER_BUSY, 500);
    instancer_fails_for(INSTANCER_BUSY, 900);
}

static void test_33_short_outage_of_a_slowed_watch(void)
{
    instancer_fails_for(INSTANCER_SLOWED, 500);
    instancer_fails_for(INSTANCER_SLOWED, 900);
}

static void test_35_denied_is_retried_slowly(void)
{
    static const char *const bodies[] = {
        "ACL not found", "rpc error making call: ACL not found", "Permission denied",
        "Permission denied: token with AccessorID '1234' lacks permission 'service:read' on \"web\""
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        rig r;
        REQUIRE(instancer_begin(&r));
        instancer_next(&r);
        script_error(r.script, 403, bodies[i]);
        script_change(r.script, 101, instancer_body(&r, 1, 1));
        size_t num = script_num_requests(r.script);
        rig_run(&r, 20000);
        CHECK_ERR(rig_err(&r), SDC_ERR_DENIED);
        CHECK_HAS(rig_last(&r)->message, bodies[i]);
        CHECK_INT(instancer_error(&r).http_status, 403);
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK_BETWEEN(script_num_requests(r.script) - num, 3, 21);
        for (size_t k = num + 1; k < script_num_requests(r.script); k++) {
            CHECK(instancer_asked_ms(&r, k) - instancer_asked_ms(&r, k - 1) >= 1000);
        }
        instancer_good_again(&r);                   /* never given up */
        rig_run(&r, 60000);
        CHECK_ERR(rig_err(&r), SDC_OK);
        rig_deinit(&r);
    }
}

static void test_36_full_connection_table(void)
{
    for (size_t discards = 0; discards < 2; discards++) {
        rig r;
        world_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.reset_discards = discards == 1;
        REQUIRE(rig_init(&r, &desc));
        script_greet(r.script, 3, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\n"
                     "Content-Length: 81\r\nConnection: close\r\n\r\n" INSTANCER_LIMIT,
                     SCRIPT_RESETS);
        script_health(r.script, 100, instancer_body(&r, 1, 1));
        script_hold(r.script);
        CHECK_INT(strlen(INSTANCER_LIMIT), 81);
        rig_watch(&r, NULL);
        sdc_err err = rig_run_exchange(&r);
        if (discards == 0) {
            CHECK_ERR(err, SDC_ERR_BUSY);
            CHECK_HAS(rig_last(&r)->message, "too many concurrent connections");
            CHECK_INT(instancer_error(&r).http_status, 429);
        } else {
            CHECK_ERR(err, SDC_ERR_IO);
        }
        rig_run(&r, 30000);
        CHECK_ERR(rig_err(&r), SDC_OK);
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK_INT(world_num_conns(r.world), 4);
        rig_deinit(&r);
    }
}

static void test_36_answer_before_the_request_is_written(void)
{
    rig r;
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.write_max = 10;
    desc.window_bytes = 20;
    desc.latency_ms = 5;
    REQUIRE(rig_init(&r, &desc));
    script_greet(r.script, 1, "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n\r\n"
                 INSTANCER_LIMIT, SCRIPT_CLOSES);
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_BUSY);
    rig_run(&r, 10000);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    rig_deinit(&r);
}

static void test_37_rate_limits(void)
{
    static const struct { int status; const char *body; sdc_err err; } cases[] = {
        { 429, "rate limit exceeded, try again later or against a different server",
          SDC_ERR_BUSY },
        { 503, "rate limit exceeded for operation that can only be performed by the leader, try "
               "again later", SDC_ERR_BUSY },
        { 429, "RPC rate limit exceeded", SDC_ERR_BUSY },
        { 429, "", SDC_ERR_BUSY },
        { 503, "upstream connect error", SDC_ERR_STATUS },
        { 503, "", SDC_ERR_STATUS }
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig r;
        REQUIRE(instancer_begin(&r));
        instancer_next(&r);
        script_error(r.script, cases[i].status, cases[i].body);
        script_health(r.script, 101, instancer_body(&r, 1, 1));
        script_hold(r.script);
        size_t num = script_num_requests(r.script);
        script_change(r.script, 101, instancer_body(&r, 1, 1));
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_run_exchange(&r), cases[i].err);
        CHECK_INT(instancer_error(&r).http_status, cases[i].status);
        rig_run(&r, 10000);
        CHECK_ERR(rig_err(&r), SDC_OK);
        uint64_t gap = instancer_asked_ms(&r, num + 1) - instancer_asked_ms(&r, num);
        CHECK_BETWEEN(gap, cases[i].err == SDC_ERR_BUSY ? 1000 : 10, 2000);
        rig_deinit(&r);
    }
}

/* The error of a watch whose next answer has this status and body, after a good one. */
static void instancer_bad_answer(int status, const char *headers, const void *body, size_t len,
                                 sdc_err err, const char *part)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_reply_bytes(r.script, status, headers, body, len);
    script_health(r.script, 101, instancer_body(&r, 1, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_ERR(rig_run_exchange(&r), err);
    sdc_error error = instancer_error(&r);
    CHECK_ERR(error.code, err);
    CHECK_INT(error.http_status, status);
    CHECK_HAS(error.message, part);
    CHECK_HAS(error.message, "/v1/health/service/web");
    for (size_t i = 0; error.message[i] != '\0'; i++) {
        CHECK((unsigned char)error.message[i] >= 0x20 && error.message[i] != 0x7f);
    }
    CHECK_STR(rig_last(&r)->message, error.message);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK(r.memory.peak_bytes < 400000);
    rig_run(&r, 5000);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80");
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_ERR(instancer_error(&r).code, SDC_OK);
    rig_deinit(&r);
}

static void test_40_bodies_of_errors(void)
{
    static const char text[] = "Content-Type: text/plain\r\n";
    char binary[256];
    size_t len = 1000000;
    char *large = (char *)malloc(len);
    REQUIRE(large != NULL);
    memset(large, 'e', len);
    for (size_t i = 0; i < sizeof binary; i++) {
        binary[i] = (char)i;
    }
    instancer_bad_answer(500, text, "", 0, SDC_ERR_STATUS, "500");
    instancer_bad_answer(500, text, "why", 3, SDC_ERR_STATUS, "why");
    instancer_bad_answer(500, text, "why\r\n", 5, SDC_ERR_STATUS, "why");
    instancer_bad_answer(500, NULL, "no type", 7, SDC_ERR_STATUS, "no type");
    instancer_bad_answer(500, text, large, len, SDC_ERR_STATUS, "eeeeeeee");
    instancer_bad_answer(500, text, binary, sizeof binary, SDC_ERR_STATUS, "500");
    instancer_bad_answer(500, text, "a\0b", 3, SDC_ERR_STATUS, "a b");
    free(large);
}

static void test_41_redirects_are_not_followed(void)
{
    static const int statuses[] = { 301, 302, 303, 307, 308 };
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        instancer_bad_answer(statuses[i], "Location: http://10.0.0.9:8500/v1/x\r\n",
                             "<a href=\"/ui/\">Moved</a>", 24, SDC_ERR_STATUS, "redirect");
    }
    instancer_bad_answer(304, NULL, "", 0, SDC_ERR_STATUS, "304");
}

static void test_42_html_is_not_an_answer(void)
{
    static const char html[] = "<!DOCTYPE html><html><body>Log in</body></html>";
    instancer_bad_answer(200, "Content-Type: text/html\r\nX-Consul-Index: 200\r\n", html,
                         sizeof html - 1, SDC_ERR_JSON, "byte 0");
}

static void test_43_which_404(void)
{
    static const char route[] = "Invalid URL path: not a recognized HTTP API endpoint\n";
    rig r;
    sdc_error error;
    instancer_bad_answer(404, NULL, route, sizeof route - 1, SDC_ERR_STATUS, "Invalid URL path");
    REQUIRE(rig_init(&r, NULL));
    script_error(r.script, 404, route);
    script_error(r.script, 404, "Unknown service ID \"web-1\". Ensure that the service ID is "
                 "passed, not the service name.");
    script_error(r.script, 404, "");
    CHECK_ERR(sdc_client_deregister(r.client, "web-1", &error), SDC_ERR_STATUS);
    CHECK_HAS(error.message, "Invalid URL path");
    CHECK_ERR(sdc_client_deregister(r.client, "web-1", &error), SDC_OK);
    CHECK_ERR(sdc_client_deregister(r.client, "web-1", &error), SDC_ERR_STATUS);
    rig_deinit(&r);
}

static void test_44_statuses_of_proxies(void)
{
    static const int statuses[] = { 201, 204, 400, 405, 413, 431, 500, 501, 502, 504 };
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        char status[16];
        test_note("%d", statuses[i]);
        snprintf(status, sizeof status, "%d", statuses[i]);
        instancer_bad_answer(statuses[i], NULL, "text", statuses[i] == 204 ? 0 : 4, SDC_ERR_STATUS,
                             status);
    }
    instancer_bad_answer(401, NULL, "text", 4, SDC_ERR_DENIED, "401");
}

static void test_53_gzip_is_not_asked_for(void)
{
    static const char zipped[] = "\x1f\x8b\x08\x00garbage";
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_reply(r.script, 200, "X-Consul-Index: 100\r\nContent-Encoding: identity\r\n",
                 instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK(script_header(script_nth(r.script, 0), "Accept-Encoding") == NULL);
    rig_deinit(&r);
    instancer_bad_answer(200, "X-Consul-Index: 200\r\nContent-Encoding: gzip\r\n", zipped,
                         sizeof zipped - 1, SDC_ERR_HTTP, "encoding");
    instancer_bad_answer(500, "Content-Encoding: gzip\r\n", zipped, sizeof zipped - 1, SDC_ERR_HTTP,
                         "encoding");
}

static void test_60_body_beyond_its_limit(void)
{
    for (size_t way = 0; way < 3; way++) {
        rig r;
        sdc_client_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.max_body_bytes = 100000;
        REQUIRE(rig_init_client(&r, NULL, &desc));
        script_health(r.script, 100, instancer_body(&r, 1, 1));
        const char *much = script_many(r.script, 1, 2000);
        if (way == 0) {
            script_raw(r.script, "HTTP/1.1 200 OK\r\nX-Consul-Index: 101\r\n"
                                 "Content-Length: 104857600\r\n\r\n[");
        } else {
            script_chunked(r.script, way == 1 ? 4096 : 100000000);
            script_health(r.script, 101, much);
        }
        script_health(r.script, 102, instancer_body(&r, 1, 1));
        script_hold(r.script);
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_LIMIT);
        CHECK_HAS(instancer_error(&r).message, "body");
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK(instancer_stats(&r).bytes_in < 200000);
        CHECK(r.memory.peak_bytes < 1000000);
        rig_run(&r, 5000);
        CHECK_ERR(rig_err(&r), SDC_OK);
        rig_deinit(&r);
    }
}

static void test_60_more_instances_than_allowed(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.max_instances = 5;
    REQUIRE(rig_init_client(&r, NULL, &desc));
    script_health(r.script, 100, instancer_body(&r, 1, 5));
    script_health(r.script, 101, instancer_body(&r, 1, 6));
    script_health(r.script, 102, instancer_body(&r, 2, 5));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_INT(rig_last(&r)->num_instances, 5);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_LIMIT);
    CHECK_HAS(instancer_error(&r).message, "max_instances");
    CHECK_INT(rig_last(&r)->num_instances, 5);
    rig_run(&r, 5000);
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_HAS(rig_addrs(&r), "10.1.0.6:80");
    rig_deinit(&r);
}

/* ---- connections ----------------------------------------------------------------------------- */

static void test_51_connection_is_used_again(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    rig_run(&r, 600000);
    CHECK(script_num_requests(r.script) > 8);
    CHECK_INT(world_num_conns(r.world), 1);
    CHECK_U64(instancer_stats(&r).connects, 1);
    rig_deinit(&r);
}

/* The second request on a kept connection finds it dead. */
static void instancer_dies_on_reuse(bool is_reset, world_drive drive)
{
    rig r;
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.drive = drive;
    desc.latency_ms = 2;
    REQUIRE(rig_init(&r, &desc));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    if (is_reset) {
        script_reset(r.script);
    } else {
        script_close(r.script);
    }
    script_health(r.script, 101, instancer_body(&r, 1, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80");
    CHECK_U64(instancer_stats(&r).failures, 0);
    CHECK_INT(rig_num_events(&r), 3);
    CHECK_INT(world_num_conns(r.world), 2);
    CHECK_STR(instancer_index(&r, 2), "100");           /* the same request once more */
    CHECK_STR(script_nth(r.script, 2)->target, script_nth(r.script, 1)->target);
    rig_deinit(&r);
}

static void test_51_dead_kept_connection_is_retried(void)
{
    instancer_dies_on_reuse(false, WORLD_DRIVE_BLOCK);
    instancer_dies_on_reuse(true, WORLD_DRIVE_BLOCK);
    instancer_dies_on_reuse(false, WORLD_DRIVE_EDGE);
    instancer_dies_on_reuse(true, WORLD_DRIVE_EDGE);
}

static void test_51_retried_once_alone(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_times(r.script, 2);
    script_close(r.script);
    script_health(r.script, 101, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_IO);
    CHECK_INT(script_num_requests(r.script), 3);
    CHECK_ERR(rig_err(&r), SDC_ERR_IO);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    rig_deinit(&r);
}

static void test_51_new_connection_is_not_retried(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_close(r.script);
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_IO);
    CHECK_INT(script_num_requests(r.script), 1);
    rig_deinit(&r);
}

static void test_51_not_retried_after_the_first_byte(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_then_close(r.script);
    script_raw(r.script, "H");
    script_health(r.script, 101, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK(rig_run_exchange(&r) >= SDC_ERR_ARG);
    CHECK_INT(script_num_requests(r.script), 2);
    rig_deinit(&r);
}

/* Between two reads, while the bucket is empty, the agent closes the kept connection. */
static void instancer_closed_while_idle(world_drive drive)
{
    rig r;
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.drive = drive;
    REQUIRE(rig_init(&r, &desc));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_health(r.script, 101, instancer_body(&r, 2, 1));
    script_health(r.script, 102, instancer_body(&r, 3, 1));
    script_health(r.script, 103, instancer_body(&r, 4, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 100);
    CHECK_INT(script_num_requests(r.script), 3);
    CHECK_INT(world_seen(r.world)->open_now, 1);
    world_close_all(r.world, "10.0.0.1", 8500);
    rig_run(&r, 100);
    CHECK_INT(world_seen(r.world)->open_now, 0);        /* seen before it is needed */
    CHECK_INT(script_num_requests(r.script), 3);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.4:80");
    CHECK_U64(instancer_stats(&r).failures, 0);
    CHECK_INT(world_num_conns(r.world), 2);
    rig_deinit(&r);
}

static void test_51_kept_connection_is_watched(void)
{
    instancer_closed_while_idle(WORLD_DRIVE_BLOCK);
    instancer_closed_while_idle(WORLD_DRIVE_LEVEL);
    instancer_closed_while_idle(WORLD_DRIVE_EDGE);
}

/* However they are read: what nobody asked for is never the answer to a later request. */
static void test_51_bytes_behind_an_answer_end_the_connection(void)
{
    for (size_t read_max = 0; read_max < 2; read_max++) {
        rig r;
        world_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.read_max = read_max;
        REQUIRE(rig_init(&r, &desc));
        script_raw(r.script, "HTTP/1.1 200 OK\r\nX-Consul-Index: 100\r\nContent-Length: 2\r\n\r\n[]"
                   "HTTP/1.1 200 OK\r\nX-Consul-Index: 900\r\nContent-Length: 2\r\n\r\n[]");
        script_health(r.script, 101, instancer_body(&r, 1, 1));
        script_hold(r.script);
        rig_watch(&r, NULL);
        rig_run(&r, 1000);
        CHECK_INT(world_num_conns(r.world), 2);
        CHECK_STR(instancer_index(&r, 1), "100");
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        rig_deinit(&r);
    }
}

static void test_52_connection_close_is_honoured(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_reply(r.script, 200, "X-Consul-Index: 100\r\nConnection: close\r\n",
                 instancer_body(&r, 1, 1));
    script_until_close(r.script);
    script_reply(r.script, 200, "X-Consul-Index: 101\r\nconnection: Close\r\n",
                 instancer_body(&r, 2, 1));
    script_health(r.script, 102, instancer_body(&r, 3, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 2000);
    CHECK_STR(rig_addrs(&r), "10.1.0.3:80");
    CHECK_INT(world_num_conns(r.world), 3);
    CHECK_INT(world_seen(r.world)->open_now, 1);
    CHECK_U64(instancer_stats(&r).failures, 0);
    rig_deinit(&r);
}

/* A watch on another form of address. */
static void instancer_at(const char *address, const char *ip, uint16_t port, const char *host)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = address;
    test_note("%s", address);
    REQUIRE(rig_init_client(&r, NULL, &desc));
    script *there = script_create(r.world, ip, port);
    script_health(there, 100, instancer_body(&r, 1, 1));
    script_hold(there);
    rig_watch(&r, NULL);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK_STR(script_header(script_nth(there, 0), "Host"), host);
    CHECK_U64(world_seen(r.world)->resolves, 0);
    rig_deinit(&r);
}

static void test_55_unix_socket(void)
{
    instancer_at("unix:///run/consul.sock", "/run/consul.sock", 0, "localhost");
}

static void test_56_ipv6_literal(void)
{
    instancer_at("[::1]:8500", "::1", 8500, "[::1]:8500");
    instancer_at("http://[2001:db8::7]:8501", "2001:db8::7", 8501, "[2001:db8::7]:8501");
}

static void test_57_first_address_of_a_name_is_dead(void)
{
    static const world_mode modes[] = { WORLD_REFUSES, WORLD_BLACKHOLE, WORLD_UNREACHABLE };
    for (size_t i = 0; i < 3; i++) {
        rig r;
        sdc_client_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.address = "consul.example:8500";
        desc.connect_timeout_ms = 700;
        REQUIRE(rig_init_client(&r, NULL, &desc));
        world_resolve_to(r.world, "consul.example", "10.0.0.7,10.0.0.1", 5);
        world_listen_mode(r.world, "10.0.0.7", 8500, modes[i]);
        script_health(r.script, 100, instancer_body(&r, 1, 1));
        script_hold(r.script);
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_BETWEEN(world_now(r.world) - WORLD_START_MS, 5, 5 + (i == 1 ? 700 : 0));
        CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
        CHECK_U64(instancer_stats(&r).failures, 0);
        CHECK_STR(script_header(script_nth(r.script, 0), "Host"), "consul.example:8500");
        rig_deinit(&r);
    }
}

static void test_57_localhost_needs_no_resolver(void)
{
    instancer_at("localhost:8500", "127.0.0.1", 8500, "localhost:8500");
    instancer_at("LocalHost:8500", "::1", 8500, "LocalHost:8500");
}

static void test_24_many_watches_pile_up_nothing(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    for (size_t i = 0; i < 200; i++) {
        sdc_instancer *one = NULL;
        sdc_instancer_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.query.service = "web";
        REQUIRE(sdc_instancer_create(r.client, &desc, &one, NULL) == SDC_OK);
        sdc_task *task = sdc_instancer_task(one);
        world_run(r.world, task, 5);
        CHECK_INT(world_seen(r.world)->open_now, 1);
        if (i % 2 == 0) {
            sdc_stop(task);
            CHECK_ERR(sdc_step(task, 0), SDC_STOPPED);
        }
        sdc_instancer_destroy(one);
        CHECK_INT(world_seen(r.world)->open_now, 0);
    }
    CHECK_INT(world_num_conns(r.world), 200);
    CHECK_INT(world_seen(r.world)->open_max, 1);
    rig_deinit(&r);
}

static void test_23_stop_and_destroy_in_the_middle_of_a_query(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    uint64_t at_ms = world_now(r.world);
    CHECK_INT(script_num_held(r.script), 1);
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_U64(world_now(r.world), at_ms);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    CHECK_INT(rig_num_events(&r), 2);
    world_advance(r.world, 0);
    CHECK_INT(script_num_held(r.script), 0);
    rig_deinit(&r);
    REQUIRE(instancer_begin(&r));
    world_stats before = *world_seen(r.world);
    sdc_instancer_destroy(r.instancer);
    r.instancer = NULL;
    CHECK_INT(world_seen(r.world)->open_now, 0);
    CHECK_U64(world_seen(r.world)->waits, before.waits);
    CHECK_U64(world_seen(r.world)->reads, before.reads);
    CHECK_U64(world_seen(r.world)->writes, before.writes);
    rig_deinit(&r);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static const char *instancer_token(rig *r, size_t nth)
{
    const script_request *q = script_nth(r->script, nth);
    CHECK(q != NULL);
    return script_header(q, "X-Consul-Token");
}

/* Lets the held query go, so that the next request is written now. */
static void instancer_ask_again(rig *r, uint64_t index)
{
    script_change(r->script, index, instancer_body(r, 1, 1));
    rig_run(r, 2000);
}

static void test_76_token_rotates_with_the_next_request(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.token = "first-secret";
    REQUIRE(rig_init_client(&r, NULL, &desc));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 2000);
    CHECK_STR(instancer_token(&r, 0), "first-secret");
    CHECK_ERR(sdc_client_set_token(r.client, "second-secret"), SDC_OK);
    instancer_ask_again(&r, 101);
    CHECK_STR(instancer_token(&r, 2), "second-secret");
    CHECK(script_query(script_nth(r.script, 2), "index") == NULL);
    CHECK_STR(instancer_token(&r, 3), "second-secret");
    CHECK(script_query(script_nth(r.script, 3), "index") != NULL);
    CHECK_ERR(sdc_client_set_token(r.client, ""), SDC_OK);
    instancer_ask_again(&r, 102);
    CHECK(instancer_token(&r, 4) == NULL);
    CHECK_ERR(sdc_client_set_token(r.client, "bad\r\nX-Evil: 1"), SDC_ERR_ARG);
    instancer_ask_again(&r, 103);
    CHECK(instancer_token(&r, 6) == NULL);
    CHECK_ERR(sdc_client_set_token(r.client, NULL), SDC_OK);
    instancer_ask_again(&r, 104);
    CHECK_STR(instancer_token(&r, 7), "first-secret");
    CHECK_INT(world_num_conns(r.world), 1);
    CHECK_HASNT(world_log(r.world), "secret");
    rig_deinit(&r);
}

static void test_76_token_file_is_read_for_each_request(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.token_file = "/run/token";
    desc.token = "not-this-secret";
    world *w = world_create(NULL);
    desc.io = world_io(w);                  /* the rig's own world has no part in this */
    REQUIRE(rig_init_client(&r, NULL, &desc));
    script *s = script_create(w, "10.0.0.1", 8500);
    script_health(s, 100, instancer_body(&r, 1, 1));
    script_hold(s);
    world_file_set(w, "/run/token", "  one-secret\n");
    rig_watch(&r, NULL);
    world_run(w, r.task, 2000);
    CHECK_STR(script_header(script_nth(s, 1), "X-Consul-Token"), "one-secret");
    world_file_set(w, "/run/token", "two-secret");
    script_change(s, 101, instancer_body(&r, 1, 1));
    world_run(w, r.task, 2000);
    CHECK_STR(script_header(script_nth(s, 2), "X-Consul-Token"), "two-secret");
    CHECK_INT(world_log_count(r.world, "WARN", "token_file"), 0);
    world_file_remove(w, "/run/token");     /* unreadable: the last one, with a warning */
    script_change(s, 102, instancer_body(&r, 1, 1));
    world_run(w, r.task, 2000);
    CHECK_STR(script_header(script_nth(s, 3), "X-Consul-Token"), "two-secret");
    CHECK(world_log_count(r.world, "WARN", "/run/token") >= 1);
    world_file_set(w, "/run/token", "th\nree");
    script_change(s, 103, instancer_body(&r, 1, 1));
    world_run(w, r.task, 2000);
    CHECK_STR(script_header(script_nth(s, 4), "X-Consul-Token"), "two-secret");
    CHECK_HASNT(world_log(r.world), "secret");
    CHECK_HASNT(world_log(r.world), "ree");
    sdc_instancer_destroy(r.instancer);
    r.instancer = NULL;
    rig_deinit(&r);
    world_destroy(w);
}

/* Answers with the whole head of the request as its body. */
static void instancer_answer_echo(void *user, script_request *q)
{
    script_text t;
    memset(&t, 0, sizeof t);
    for (int i = 0; i < *(const int *)user; i++) {
        script_add(&t, ".", 1);
    }
    script_printf(&t, "%s", q->head);
    script_answer(q, 403, "Content-Type: text/plain\r\n", t.text);
    script_text_deinit(&t);
}

static void test_76_token_is_nowhere_but_in_its_header(void)
{
    for (int dots = 0; dots < 128 && test_num_failures() == 0; dots++) {
        rig r;
        sdc_client_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.token = "0f6b1d2a-5ecr-e77e-c4fe-2b9d5e6f7a8b";
        REQUIRE(rig_init_client(&r, NULL, &desc));
        script_call(r.script, instancer_answer_echo, &dots);
        rig_watch(&r, NULL);
        rig_run(&r, 3000);
        CHECK_ERR(rig_err(&r), SDC_ERR_DENIED);
        CHECK_HASNT(rig_last(&r)->message, "0f6b1d2");
        CHECK_HASNT(instancer_error(&r).message, "0f6b1d2");
        CHECK_HASNT(world_log(r.world), "0f6b1d2");
        CHECK_HASNT(script_nth(r.script, 0)->target, "0f6b1d2");
        CHECK_STR(instancer_token(&r, 0), desc.token);
        rig_deinit(&r);
    }
}

static void test_76_echoed_token_in_a_good_answer_is_not_told(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.token = "very-secret";
    REQUIRE(rig_init_client(&r, NULL, &desc));
    script_health(r.script, 100, "very-secret");
    rig_watch(&r, NULL);
    rig_run(&r, 1000);
    CHECK_ERR(rig_err(&r), SDC_ERR_JSON);
    CHECK_HASNT(rig_last(&r)->message, "very-secret");
    CHECK_HASNT(world_log(r.world), "very-secret");
    rig_deinit(&r);
}

/* ---- queries --------------------------------------------------------------------------------- */

static void test_instancer_tags_are_sent_and_checked_here(void)
{
    static const char *const tags[] = { "Blue", "v1" };
    rig r;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.tags = tags;
    desc.query.num_tags = 2;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script,
        { .id = "a", .address = "10.1.0.1", .port = 80, .tags = "v1,Blue" },
        { .id = "b", .address = "10.1.0.2", .port = 80, .tags = "BLUE,x,V1" },
        { .id = "c", .address = "10.1.0.3", .port = 80, .tags = "blue" },
        { .id = "d", .address = "10.1.0.4", .port = 80 },
        { .id = "e", .address = "10.1.0.5", .port = 80, .tags = "bluev1,v1" }));
    script_hold(r.script);
    rig_watch(&r, &desc);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80");
    const script_request *q = script_nth(r.script, 0);
    CHECK_STR(script_query_nth(q, "tag", 0), "Blue");
    CHECK_STR(script_query_nth(q, "tag", 1), "v1");
    CHECK(script_query_nth(q, "tag", 2) == NULL);
    rig_deinit(&r);
}

static void test_instancer_tags_of_other_letters_differ(void)
{
    static const char *const tags[] = { "\xc3\x84" };       /* only ASCII has one case */
    rig r;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.tags = tags;
    desc.query.num_tags = 1;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script,
        { .id = "a", .address = "10.1.0.1", .port = 80, .tags = "\xc3\xa4" },
        { .id = "b", .address = "10.1.0.2", .port = 80, .tags = "\xc3\x84" }));
    script_hold(r.script);
    rig_watch(&r, &desc);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    rig_deinit(&r);
}

static void instancer_refuses(rig *r, const sdc_instancer_desc *desc, const char *field)
{
    sdc_instancer *made = NULL;
    sdc_error error;
    CHECK_ERR(sdc_instancer_create(r->client, desc, &made, &error), SDC_ERR_ARG);
    CHECK(made == NULL);
    CHECK_HAS(error.message, field);
}

static void test_instancer_refuses_what_cannot_be(void)
{
    static const char *const empty[] = { "a", "" };
    static const char *const control[] = { "a\nb" };
    sdc_kv no_key = { "", "v" };
    sdc_instancer_desc desc;
    sdc_instancer_desc plain;
    rig r;
    REQUIRE(rig_init(&r, NULL));
    memset(&plain, 0, sizeof plain);
    instancer_refuses(&r, &plain, "service");
    plain.query.service = "web";
    desc = plain;
    desc.query.tags = empty;
    desc.query.num_tags = 2;
    instancer_refuses(&r, &desc, "tags[1]");
    desc.query.tags = control;
    desc.query.num_tags = 1;
    instancer_refuses(&r, &desc, "tags");
    desc = plain;
    desc.query.index = 1;
    instancer_refuses(&r, &desc, "index");
    desc = plain;
    desc.query.node_meta = &no_key;
    desc.query.num_node_meta = 1;
    instancer_refuses(&r, &desc, "node_meta");
    desc = plain;
    desc.query.params = &no_key;
    desc.query.num_params = 1;
    instancer_refuses(&r, &desc, "params");
    desc = plain;
    desc.backoff_min_ms = 100;
    desc.backoff_max_ms = 99;
    instancer_refuses(&r, &desc, "backoff_max_ms");
    desc = plain;
    desc.backoff_min_ms = SDC_NEVER;
    instancer_refuses(&r, &desc, "backoff_min_ms");
    desc = plain;
    desc.query.cached = true;
    desc.query.consistency = SDC_CONSISTENCY_STRONG;
    instancer_refuses(&r, &desc, "cached");
    CHECK_INT(world_num_conns(r.world), 0);
    rig_deinit(&r);
}

static void test_instancer_worst_status(void)
{
    static const struct { sdc_status worst; const char *addrs; } cases[] = {
        { SDC_STATUS_UNSET, "10.1.0.1:80,10.1.0.2:80,10.1.0.3:80,10.1.0.4:80" },
        { SDC_STATUS_PASSING, "10.1.0.1:80,10.1.0.4:80" },
        { SDC_STATUS_WARNING, "10.1.0.1:80,10.1.0.2:80,10.1.0.4:80" },
        { SDC_STATUS_CRITICAL, "10.1.0.1:80,10.1.0.2:80,10.1.0.3:80,10.1.0.4:80" }
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig r;
        sdc_instancer_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.query.worst_status = cases[i].worst;
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, SCRIPT_LIST(r.script,
            { .id = "a", .address = "10.1.0.1", .port = 80 },
            { .id = "b", .address = "10.1.0.2", .port = 80, .status = "warning" },
            { .id = "c", .address = "10.1.0.3", .port = 80, .status = "critical" },
            { .id = "d", .address = "10.1.0.4", .port = 80, .status = "none" }));
        script_hold(r.script);
        rig_watch(&r, &desc);
        rig_run(&r, 1000);
        CHECK_STR(rig_addrs(&r), cases[i].addrs);
        CHECK(script_query(script_nth(r.script, 0), "passing") == NULL);
        rig_deinit(&r);
    }
}

static void test_instancer_bad_entries_are_left_out_and_counted(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script,
        { .id = "a", .address = "10.1.0.1", .port = 80 },
        { .id = "b", .address = "10.1.0.2" },
        { .id = "c", .address = "10.1.0.3", .port = 80, .service_members = "\"Tags\":7" }));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    CHECK_U64(instancer_stats(&r).skipped_instances, 2);
    CHECK_INT(world_log_count(r.world, "WARN", "2 entries"), 1);
    rig_deinit(&r);
}

static void test_instancer_logs_as_go_kit_does(void)
{
    static const char *const tags[] = { "a", "b" };
    rig r;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.tags = tags;
    desc.query.num_tags = 2;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script,
        { .id = "a", .address = "10.1.0.1", .port = 80, .tags = "a,b" }));
    script_error(r.script, 500, "No cluster leader");
    rig_watch(&r, &desc);
    rig_run(&r, 100);
    CHECK_INT(world_log_count(r.world, "INFO", "instancer service=web tags="), 1);
    CHECK_INT(world_log_count(r.world, "INFO", "instances=1"), 1);
    CHECK(world_log_count(r.world, "WARN", "err=") >= 1);
    CHECK_HAS(world_log(r.world), "No cluster leader");
    rig_deinit(&r);
}

/* ---- waiting for instances ------------------------------------------------------------------- */

static void instancer_comes_up(void *user)
{
    rig *r = (rig *)user;
    script_change(r->script, 200, instancer_body(r, 1, 3));
}

static void test_instancer_wait(void)
{
    rig r;
    sdc_error error;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(sdc_instancer_wait(r.instancer, 0, 5000, &error), SDC_OK);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_U64(world_now(r.world), WORLD_START_MS);
    size_t num = script_num_requests(r.script);
    CHECK_ERR(sdc_instancer_wait(r.instancer, 1, 5000, &error), SDC_OK);
    CHECK_INT(script_num_requests(r.script), num);
    CHECK_ERR(sdc_instancer_wait(r.instancer, 2, 5000, &error), SDC_ERR_TIMEOUT);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 5000);
    CHECK(error.message[0] != '\0');
    world_after(r.world, 700, instancer_comes_up, &r);
    CHECK_ERR(sdc_instancer_wait(r.instancer, 2, SDC_NEVER, NULL), SDC_OK);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 5700);
    rig_deinit(&r);
}

static void instancer_stops(void *user)
{
    sdc_stop(((rig *)user)->task);
}

static void test_instancer_wait_tells_why_not(void)
{
    rig r;
    sdc_error error;
    REQUIRE(instancer_begin_failing(&r, 3, NULL));
    CHECK_ERR(sdc_instancer_wait(r.instancer, 0, 3000, &error), SDC_ERR_TIMEOUT);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 3000);
    CHECK_HAS(error.message, "No cluster leader");
    world_after(r.world, 100, instancer_stops, &r);
    CHECK_ERR(sdc_instancer_wait(r.instancer, 0, 3000, &error), SDC_STOPPED);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 3100);
    CHECK_ERR(error.code, SDC_STOPPED);
    rig_deinit(&r);
}

static void instancer_destroys(void *user, const sdc_event *event, const sdc_change *change)
{
    rig *r = (rig *)user;
    (void)change;
    if (event->is_known) {
        sdc_instancer_destroy(r->instancer);
        r->instancer = NULL;
    }
}

static void test_instancer_wait_ends_when_it_is_gone(void)
{
    rig r;
    sdc_error error;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(sdc_instancer_subscribe(r.instancer, instancer_destroys, &r), SDC_OK);
    CHECK_ERR(sdc_instancer_wait(r.instancer, 1, 5000, &error), SDC_GONE);
    CHECK_ERR(error.code, SDC_GONE);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    rig_deinit(&r);
}

/* ---- memory and faults ----------------------------------------------------------------------- */

static void test_instancer_events_outlive_everything(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    const sdc_event *event = sdc_instancer_state(r.instancer);
    script_change(r.script, 101, "[]");
    rig_run(&r, 2000);
    sdc_instancer_destroy(r.instancer);
    r.instancer = NULL;
    sdc_client_destroy(r.client);
    r.client = NULL;
    CHECK_STR(event->instances[0].addr, INSTANCER_ONE);
    CHECK_STR(event->instances[0].node, "node-1");
    CHECK_STR(event->instances[0].tagged_addresses[0].key, "lan_ipv4");
    CHECK_INT(r.memory.num_live, 1);
    sdc_event_release(event);
    CHECK_INT(r.memory.num_live, 0);
    rig_deinit(&r);
}

static void test_instancer_outlives_its_client(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    sdc_client_destroy(r.client);
    r.client = NULL;
    script_change(r.script, 101, instancer_body(&r, 2, 1));
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    rig_deinit(&r);
}

/* The decoder of a body belongs to whoever reads one, and what is learned to whoever steps. */
static void test_instancer_at_rest_is_small(void)
{
    CHECK(sizeof(sdc_instancer) < 2048);
    CHECK(sizeof(sdci_kit) < (size_t)126 << 10);
}

static void test_instancer_unchanged_answers_need_little_memory(void)
{
    rig r;
    REQUIRE(instancer_begin(&r));
    rig_run(&r, 120000);
    size_t live = r.memory.live_bytes;
    size_t blocks = r.memory.num_live;
    for (int i = 0; i < 20; i++) {
        rig_run(&r, 120000);
        CHECK_BETWEEN(r.memory.live_bytes, live - 200, live + 200);
        CHECK_INT(r.memory.num_live, blocks);
    }
    rig_deinit(&r);
}

/* An answer that changes nothing, its request and the event beside which it is read included. */
static void test_instancer_unchanged_answer_needs_no_memory(void)
{
    for (int order = 0; order < 2; order++) {
        rig r;
        script_instance list[3];
        memset(list, 0, sizeof list);
        list[0].id = "web-1";
        list[0].address = order == 0 ? "10.1.0.1" : "10.1.0.3";
        list[1].id = "web-2";
        list[1].address = "10.1.0.2";
        list[2].id = "web-3";
        list[2].address = order == 0 ? "10.1.0.3" : "10.1.0.1";
        list[0].port = list[1].port = list[2].port = 80;
        REQUIRE(rig_init(&r, NULL));
        const char *body = script_list(r.script, list, 3);
        for (uint64_t index = 100; index < 106; index++) {
            script_health(r.script, index, body);
        }
        script_hold(r.script);
        REQUIRE(rig_watch(&r, NULL));
        for (int i = 0; i < 3; i++) {
            CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        }
        uint64_t calls = r.memory.num_calls;
        for (int i = 0; i < 3; i++) {
            CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        }
        CHECK_INT(r.memory.num_calls, calls);
        CHECK_INT(rig_num_events(&r), 2);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80,10.1.0.3:80");
        rig_deinit(&r);
    }
}

/* At a change there are the old event and the new one, and little else; a moment later the memory of
   the old one is given back. */
static void test_instancer_change_of_a_long_list_needs_two_events_at_most(void)
{
    const size_t slack = (size_t)128 << 10;
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, script_many(r.script, 0, 2000));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 5000);
    CHECK_INT(rig_last(&r)->num_instances, 2000);
    sdc_cache *cache = sdc_instancer_cache(r.instancer);
    for (int i = 0; i < 5; i++) {
        size_t from = i < 2 ? (size_t)i + 1 : (size_t)i * 10000;    /* one other, then all */
        size_t num = i < 4 ? 2000 : 3000;
        size_t before = r.memory.live_bytes;
        r.memory.peak_bytes = before;
        script_change(r.script, 101 + (uint64_t)i, script_many(r.script, from, num));
        rig_run(&r, 150);
        CHECK_INT(rig_num_events(&r), 3 + (size_t)i);
        CHECK(cache->spare.ptr != NULL);
        size_t one = sdci_event_of(cache->current)->size;
        CHECK_BETWEEN(r.memory.peak_bytes - before, 1, one + slack);
        rig_run(&r, 1000);
        CHECK(cache->spare.ptr == NULL);
        CHECK_BETWEEN(r.memory.live_bytes, before - one / 2, before + one / 2);
        CHECK_INT(rig_last(&r)->num_instances, num);
        rig_run(&r, 60000);
    }
    rig_deinit(&r);
}

/* The instances are others from now on, for a query that is held and for those that follow. */
static void instancer_moves_on(rig *r)
{
    instancer_next(r);
    script_health(r->script, 101, instancer_body(r, 2, 2));
    script_hold(r->script);
    script_change(r->script, 101, instancer_body(r, 2, 2));
}

/* "Watch an update, then stop" with the nth allocation failing. Answers whether it came to that. */
static bool instancer_story_without_memory(uint64_t nth, bool for_good)
{
    rig r;
    if (!rig_init(&r, NULL)) {
        return false;
    }
    script_health(r.script, 100, instancer_body(&r, 1, 2));
    script_hold(r.script);
    fault_alloc_fail(&r.memory, nth, for_good);
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "web";
    sdc_error error;
    sdc_err err = sdc_instancer_create(r.client, &desc, &r.instancer, &error);
    CHECK(err == SDC_OK || err == SDC_ERR_NOMEM);
    CHECK((r.instancer != NULL) == (err == SDC_OK));
    CHECK_ERR(error.code, err);
    bool happened = r.memory.num_failed > 0;
    if (r.instancer != NULL) {
        r.task = sdc_instancer_task(r.instancer);
        rig_run(&r, 5000);
        instancer_moves_on(&r);
        rig_run(&r, 5000);
        err = rig_err(&r);
        happened = r.memory.num_failed > 0;
        CHECK(err == SDC_OK || (for_good && (err == SDC_ERR_NOMEM || err == SDC_AGAIN)));
        CHECK(for_good || happened == (instancer_stats(&r).failures > 0) ||
              instancer_stats(&r).failures == 0);
        fault_alloc_fail(&r.memory, 0, false);
        rig_run(&r, 60000);                 /* it recovers with the memory */
        CHECK_STR(rig_addrs(&r), "10.1.0.2:80,10.1.0.3:80");
        CHECK_ERR(rig_err(&r), SDC_OK);
        CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    }
    rig_deinit(&r);
    return happened;
}

static void test_instancer_each_allocation_fails(void)
{
    for (int for_good = 0; for_good < 2; for_good++) {
        bool happened = true;
        for (uint64_t nth = 1; happened && test_num_failures() == 0; nth++) {
            test_note("allocation %llu%s", (unsigned long long)nth, for_good ? " for good" : "");
            happened = instancer_story_without_memory(nth, for_good != 0);
            CHECK(nth < 500);
        }
    }
}

/* The nth call of any member of sdc_io fails: the story ends as if it had not. */
static bool instancer_story_with_fault(world_op op, uint64_t nth, bool for_a_while)
{
    rig r;
    world_desc desc;
    sdc_client_desc client;
    memset(&desc, 0, sizeof desc);
    memset(&client, 0, sizeof client);
    client.address = "consul.example:8500";
    desc.read_max = 300;
    desc.write_max = 100;
    if (!rig_init_client(&r, &desc, &client)) {
        return false;
    }
    world_resolve_to(r.world, "consul.example", "10.0.0.1", 3);
    script_health(r.script, 100, instancer_body(&r, 1, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    world_fail(r.world, op, nth, for_a_while, SDC_OK, EMFILE);
    rig_run(&r, 5000);
    instancer_moves_on(&r);
    rig_run(&r, 5000);
    bool happened = world_fail_happened(r.world, op);
    world_fail(r.world, op, 0, false, SDC_OK, 0);
    rig_run(&r, 70000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80,10.1.0.3:80");
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_INT(world_seen(r.world)->wakers_now, 0);
    rig_deinit(&r);
    return happened;
}

static void test_59_each_call_of_the_io_table_fails(void)
{
    static const world_op ops[] = { WORLD_OPEN, WORLD_READ, WORLD_WRITE, WORLD_RESOLVE,
                                    WORLD_WAKER, WORLD_WAIT };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        bool happened = true;
        for (uint64_t nth = 1; happened && nth < 60 && test_num_failures() == 0; nth++) {
            test_note("member %d, call %llu", (int)ops[i], (unsigned long long)nth);
            happened = instancer_story_with_fault(ops[i], nth, false);
            if (ops[i] != WORLD_WAIT) {     /* without any wait nothing can be right */
                instancer_story_with_fault(ops[i], nth, true);
            }
        }
    }
}

static void test_59_no_descriptor_left(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, instancer_body(&r, 1, 1));
    script_hold(r.script);
    world_fail(r.world, WORLD_OPEN, 1, false, SDC_ERR_CONNECT, EMFILE);
    rig_watch(&r, NULL);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_CONNECT);
    CHECK_INT(instancer_error(&r).os_errno, EMFILE);
    CHECK_ERR(rig_err(&r), SDC_ERR_CONNECT);
    rig_run(&r, 1000);
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_STR(rig_addrs(&r), INSTANCER_ONE);
    rig_deinit(&r);
}

/* ---- stories --------------------------------------------------------------------------------- */

static unsigned instancer_below(rig *r, unsigned limit)
{
    return (unsigned)(world_random(r->world) % limit);
}

static uint32_t instancer_maybe(uint64_t *seed, uint32_t odds, uint32_t most)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    uint32_t drawn = (uint32_t)(*seed >> 33);
    return drawn % odds == 0 ? 1 + drawn / odds % most : 0;
}

static void instancer_draw_world(world_desc *desc, uint64_t seed)
{
    memset(desc, 0, sizeof *desc);
    desc->seed = seed;
    desc->drive = (world_drive)(WORLD_DRIVE_BLOCK + seed % 3);
    desc->latency_ms = instancer_maybe(&seed, 2, 20);
    desc->connect_ms = instancer_maybe(&seed, 3, 50);
    desc->run_bytes = instancer_maybe(&seed, 3, 2000);
    desc->run_ms = instancer_maybe(&seed, 2, 3);
    desc->read_max = instancer_maybe(&seed, 3, 300);
    desc->write_max = instancer_maybe(&seed, 3, 50);
    desc->early_wait_every = instancer_maybe(&seed, 4, 5) != 0 ? 3 : 0;
    desc->again_every = instancer_maybe(&seed, 4, 4) != 0 ? 5 : 0;
    desc->reset_discards = instancer_maybe(&seed, 3, 1) != 0;
}

/* One more answer, of any kind that agents and what stands before them were seen to give. */
static void instancer_draw_answer(rig *r)
{
    script *s = r->script;
    uint64_t index = 1 + instancer_below(r, 60);
    const char *body = instancer_body(r, 1 + (int)instancer_below(r, 4),
                                      (int)instancer_below(r, 4));
    if (instancer_below(r, 4) == 0) {
        script_delay(s, instancer_below(r, 3000));
    }
    if (instancer_below(r, 6) == 0) {
        script_then_close(s);
    }
    if (instancer_below(r, 6) == 0) {
        script_chunked(s, 1 + instancer_below(r, 500));
    }
    switch (instancer_below(r, 11)) {
    case 0:  script_error(s, 500, "No cluster leader"); break;
    case 1:  script_error(s, 429, "RPC rate limit exceeded"); break;
    case 2:  script_close(s); break;
    case 3:  script_reset(s); break;
    case 4:  script_raw(s, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[{"); break;
    case 5:  script_raw(s, "garbage\r\n\r\n"); break;
    case 6:  script_reply(s, 200, NULL, body); break;
    case 7:  script_hold(s); break;
    case 8:  script_streamed(s, index, "[]"); break;
    default: script_health(s, index, body); break;
    }
}

static void instancer_draw_trouble(rig *r)
{
    rig_run(r, instancer_below(r, 5000));
    switch (instancer_below(r, 5)) {
    case 0:
        world_close_all(r->world, "10.0.0.1", 8500);
        break;
    case 1:
        world_reset_all(r->world, "10.0.0.1", 8500);
        break;
    case 2:
        script_set_down(r->script, true);
        rig_run(r, instancer_below(r, 20000));
        script_set_down(r->script, false);
        break;
    case 3:
        fault_alloc_fail(&r->memory, 1 + instancer_below(r, 60), false);
        break;
    default:
        world_fail(r->world, (world_op)instancer_below(r, WORLD_WAIT),
                   1 + instancer_below(r, 40), false, SDC_OK, EIO);
        break;
    }
}

static void instancer_story(uint64_t seed)
{
    rig r;
    world_desc desc;
    instancer_draw_world(&desc, seed);
    REQUIRE(rig_init(&r, &desc));
    for (unsigned i = instancer_below(&r, 30); i > 0; i--) {
        instancer_draw_answer(&r);
    }
    script_health(r.script, 1000, instancer_body(&r, 6, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    for (unsigned i = instancer_below(&r, 6); i > 0; i--) {
        instancer_draw_trouble(&r);
    }
    if (seed % 4 != 0) {
        rig_run(&r, 1500000);
        CHECK_STR(rig_addrs(&r), "10.1.0.6:80,10.1.0.7:80");
        CHECK_ERR(rig_err(&r), SDC_OK);
    }
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    rig_deinit(&r);
}

/* Whatever happens, the end is the agent's own state: nothing stays wrong, and nothing leaks. */
static void test_95_ends_well_after_any_trouble(void)
{
    for (uint64_t seed = 1; seed <= 150 && test_num_failures() == 0; seed++) {
        test_note("seed %llu", (unsigned long long)seed);
        instancer_story(seed);
    }
}

/* ---- ends and failures that come late -------------------------------------------------------- */

/* A kept connection that was dead is tried again with the same query; one that dies after the
   query was held for long is an agent that has gone, and the index may mean nothing to the next. */
static void test_instancer_held_query_that_ends_is_a_failure(void)
{
    for (int way = 0; way < 2; way++) {
        rig r;
        test_note(way == 0 ? "closed" : "reset");
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 1000, instancer_body(&r, 1, 1));
        script_health(r.script, 1001, instancer_body(&r, 1, 2));
        script_delay(r.script, 40000);
        if (way == 0) {
            script_close(r.script);
        } else {
            script_reset(r.script);
        }
        script_health(r.script, 7, instancer_body(&r, 3, 1));
        script_hold(r.script);
        REQUIRE(rig_watch(&r, NULL));
        rig_run(&r, 39000);
        CHECK_U64(instancer_stats(&r).failures, 0);
        CHECK_STR(script_query(script_nth(r.script, 2), "index"), "1001");
        rig_run(&r, 3000);
        CHECK_U64(instancer_stats(&r).failures, 1);
        const script_request *next = script_nth(r.script, 3);
        if (CHECK(next != NULL)) {
            CHECK(script_query(next, "index") == NULL);
            CHECK(next->conn != script_nth(r.script, 2)->conn);
        }
        CHECK_STR(rig_addrs(&r), "10.1.0.3:80");
        rig_deinit(&r);
    }
}

/* No large block any more, whoever asks. */
static fault_alloc *instancer_memory;
static bool         instancer_is_short;

static void *instancer_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    if (instancer_is_short && new_size > 300000 && new_size > old_size) {
        return NULL;
    }
    return fault_alloc_resize(instancer_memory, ptr, old_size, new_size);
}

/* A list that was read but finds no room is a failure as any other: it is read again ever less
   often. */
static void test_instancer_backs_off_when_it_cannot_publish(void)
{
    rig r;
    fault_alloc memory;
    sdc_client_desc client;
    sdc_allocator allocator = { NULL, instancer_resize };
    memset(&client, 0, sizeof client);
    fault_alloc_init(&memory);
    instancer_memory = &memory;
    instancer_is_short = false;
    client.allocator = &allocator;
    REQUIRE(rig_init_client(&r, NULL, &client));
    script_health(r.script, 10, script_many(r.script, 0, 3000));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    instancer_is_short = true;
    script_clear(r.script);
    script_health(r.script, 10, script_many(r.script, 0, 3000));
    rig_run(&r, 120000);
    CHECK_BETWEEN(script_num_requests(r.script), 3, 40);
    CHECK(instancer_stats(&r).consecutive_failures > 2);
    instancer_is_short = false;
    script_clear(r.script);
    script_health(r.script, 11, script_many(r.script, 0, 3000));
    script_hold(r.script);
    rig_run(&r, 60000);
    CHECK_INT(rig_last(&r)->num_instances, 3000);
    CHECK_U64(instancer_stats(&r).consecutive_failures, 0);
    rig_deinit(&r);
    fault_alloc_deinit(&memory);
}

static void test_instancer_says_that_it_is_well_again(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 10, instancer_body(&r, 1, 1));
    script_times(r.script, 2);
    script_error(r.script, 500, "No cluster leader");
    script_health(r.script, 10, instancer_body(&r, 1, 1));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_INT(world_log_count(r.world, "", "recovered"), 0);
    rig_run(&r, 30000);
    CHECK_INT(world_log_count(r.world, "WARN", "err="), 2);
    CHECK_INT(world_log_count(r.world, "INFO", "action=recovered"), 1);
    rig_deinit(&r);
}

/* What a subscriber sees of the task when it is told of the recovery. */
typedef struct instancer_witness {
    sdc_task *task;
    unsigned  num_good;
} instancer_witness;

static void instancer_on_recovery(void *user, const sdc_event *event, const sdc_change *change)
{
    instancer_witness *witness = (instancer_witness *)user;
    sdc_error error;
    sdc_stats stats;
    (void)change;
    if (event->err == SDC_OK && event->num_instances == 2) {
        sdc_task_error(witness->task, &error);
        sdc_task_stats(witness->task, &stats);
        CHECK_ERR(error.code, SDC_OK);
        CHECK_U64(stats.consecutive_failures, 0);
        witness->num_good++;
    }
}

static void test_instancer_callback_of_a_recovery_sees_no_failure(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 10, instancer_body(&r, 1, 1));
    script_error(r.script, 500, "No cluster leader");
    script_health(r.script, 11, instancer_body(&r, 1, 2));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    instancer_witness witness = { r.task, 0 };
    CHECK_ERR(sdc_instancer_subscribe(r.instancer, instancer_on_recovery, &witness), SDC_OK);
    rig_run(&r, 30000);
    CHECK_INT(witness.num_good, 1);
    rig_deinit(&r);
}

static const test_case cases_instancer[] = {
    TEST(test_01_no_index_on_the_first_request),
    TEST(test_02_index_goes_back_verbatim),
    TEST(test_03_index_0_counts_as_1),
    TEST(test_04_missing_index_is_polled),
    TEST(test_05_unreadable_index_counts_as_none),
    TEST(test_05_a_warning_for_each_spell_of_bad_indexes),
    TEST(test_06_lower_index_starts_over_and_is_not_published),
    TEST(test_06_index_that_jumps_up_and_down_is_no_busy_loop),
    TEST(test_07_false_empty_with_index_1_is_not_published),
    TEST(test_08_same_index_same_body_is_no_event),
    TEST(test_09_same_index_other_body_is_an_event),
    TEST(test_10_higher_index_same_body_is_no_event),
    TEST(test_11_other_order_is_no_event),
    TEST(test_20_bad_body_does_not_move_the_index),
    TEST(test_20_truncated_answer_is_an_error_and_never_data),
    TEST(test_22_index_beyond_the_servers),
    TEST(test_31_resync_reads_without_an_index),
    TEST(test_25_streamed_answers_know_no_leader),
    TEST(test_14_wait_is_always_there),
    TEST(test_15_wait_is_jittered),
    TEST(test_16_hung_server_is_left),
    TEST(test_17_answer_after_the_servers_own_jitter_counts),
    TEST(test_34_slow_500_is_not_a_timeout),
    TEST(test_34_first_read_ends_after_15_s),
    TEST(test_12_busy_server_is_read_two_times_a_second),
    TEST(test_12_answers_at_once_with_no_news_slow_it_down),
    TEST(test_12_a_change_ends_the_slow_reading),
    TEST(test_12_a_query_that_blocked_ends_the_slow_reading),
    TEST(test_12_the_bucket_fills_up_to_three),
    TEST(test_13_two_quick_changes_are_not_delayed),
    TEST(test_13_the_first_change_after_the_start_is_not_delayed),
    TEST(test_27_unknown_service_is_known_to_be_empty),
    TEST(test_29_empty_list_is_read_again_before_it_is_told),
    TEST(test_30_list_that_stays_empty_is_told),
    TEST(test_30_empty_list_is_confirmed_within_a_second),
    TEST(test_30_empty_after_an_error_is_confirmed_too),
    TEST(test_28_service_that_is_gone_is_told),
    TEST(test_19_error_starts_over),
    TEST(test_32_error_is_told_at_once_and_keeps_the_instances),
    TEST(test_32_backoff_grows_to_its_cap),
    TEST(test_33_broken_queries_come_back_spread),
    TEST(test_33_backoff_has_jitter_at_its_cap),
    TEST(test_33_backoff_of_the_desc),
    TEST(test_33_two_watches_do_not_retry_in_step),
    TEST(test_33_success_forgets_the_failures),
    TEST(test_33_short_outage_is_over_within_a_second),
    TEST(test_33_long_outage_is_over_within_a_step),
    TEST(test_33_single_failure_is_over_within_a_second),
    TEST(test_33_short_outage_of_a_busy_watch),
    TEST(test_33_short_outage_of_a_slowed_watch),
    TEST(test_35_denied_is_retried_slowly),
    TEST(test_36_full_connection_table),
    TEST(test_36_answer_before_the_request_is_written),
    TEST(test_37_rate_limits),
    TEST(test_40_bodies_of_errors),
    TEST(test_41_redirects_are_not_followed),
    TEST(test_42_html_is_not_an_answer),
    TEST(test_43_which_404),
    TEST(test_44_statuses_of_proxies),
    TEST(test_53_gzip_is_not_asked_for),
    TEST(test_60_body_beyond_its_limit),
    TEST(test_60_more_instances_than_allowed),
    TEST(test_51_connection_is_used_again),
    TEST(test_51_dead_kept_connection_is_retried),
    TEST(test_51_retried_once_alone),
    TEST(test_51_new_connection_is_not_retried),
    TEST(test_51_not_retried_after_the_first_byte),
    TEST(test_51_kept_connection_is_watched),
    TEST(test_51_bytes_behind_an_answer_end_the_connection),
    TEST(test_52_connection_close_is_honoured),
    TEST(test_55_unix_socket),
    TEST(test_56_ipv6_literal),
    TEST(test_57_first_address_of_a_name_is_dead),
    TEST(test_57_localhost_needs_no_resolver),
    TEST(test_24_many_watches_pile_up_nothing),
    TEST(test_23_stop_and_destroy_in_the_middle_of_a_query),
    TEST(test_76_token_rotates_with_the_next_request),
    TEST(test_76_token_file_is_read_for_each_request),
    TEST(test_76_token_is_nowhere_but_in_its_header),
    TEST(test_76_echoed_token_in_a_good_answer_is_not_told),
    TEST(test_instancer_tags_are_sent_and_checked_here),
    TEST(test_instancer_tags_of_other_letters_differ),
    TEST(test_instancer_refuses_what_cannot_be),
    TEST(test_instancer_worst_status),
    TEST(test_instancer_bad_entries_are_left_out_and_counted),
    TEST(test_instancer_logs_as_go_kit_does),
    TEST(test_instancer_wait),
    TEST(test_instancer_wait_tells_why_not),
    TEST(test_instancer_wait_ends_when_it_is_gone),
    TEST(test_instancer_events_outlive_everything),
    TEST(test_instancer_outlives_its_client),
    TEST(test_instancer_at_rest_is_small),
    TEST(test_instancer_unchanged_answers_need_little_memory),
    TEST(test_instancer_unchanged_answer_needs_no_memory),
    TEST(test_instancer_change_of_a_long_list_needs_two_events_at_most),
    TEST(test_instancer_each_allocation_fails),
    TEST(test_59_each_call_of_the_io_table_fails),
    TEST(test_59_no_descriptor_left),
    TEST(test_95_ends_well_after_any_trouble),
    TEST(test_instancer_held_query_that_ends_is_a_failure),
    TEST(test_instancer_backs_off_when_it_cannot_publish),
    TEST(test_instancer_says_that_it_is_well_again),
    TEST(test_instancer_callback_of_a_recovery_sees_no_failure),
};
