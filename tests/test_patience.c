/* How an instancer treats an agent and its subscribers gently: pauses that the agent asks for, its
   limit of connections, waits that something cuts short, and bursts of changes. */

#include "support/rig.h"

/* ---- Retry-After ------------------------------------------------------------ */

static void test_38_dates(void)
{
    static const struct { const char *text; uint64_t seconds; } rows[] = {
        { "Sun, 06 Nov 1994 08:49:37 GMT", 784111777 }, { "Thu, 01 Jan 1970 00:00:00 GMT", 0 },
        { "Thu, 29 Feb 2024 23:59:59 GMT", 1709251199 },
        { "Fri, 01 Mar 2024 00:00:00 GMT", 1709251200 },
        { "Thu, 31 Dec 2026 12:00:00 GMT", 1798718400 },
        { "Mon, 01 Mar 2100 00:00:00 GMT", 4107542400 },
        { "Sun, 06 Nov 1994 08:49:37 UTC", 0 }, { "Sunday, 06-Nov-94 08:49:37 GMT", 0 },
        { "Sun, 00 Nov 1994 08:49:37 GMT", 0 }, { "Sun, 06 Nob 1994 08:49:37 GMT", 0 },
        { "Sun, 06 Nov 1969 08:49:37 GMT", 0 }, { "Sun, x6 Nov 1994 08:49:37 GMT", 0 }, { "", 0 }
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        test_note("%s", rows[i].text);
        CHECK_INT(sdci_parse_date(sdci_str_of(rows[i].text)), rows[i].seconds);
    }
}

/* The pause behind a 429 with these fields. */
static uint64_t patience_pause_ms(const char *fields)
{
    uint64_t pause_ms = 0;
    rig r;

    test_note("%s", fields);
    CHECK(rig_init(&r, NULL));
    script_reply(r.script, 429, fields, "slow down");
    script_health(r.script, 10, "[]");
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 200000);
        pause_ms = script_nth(r.script, 1)->at_ms - script_nth(r.script, 0)->at_ms;
    }
    rig_deinit(&r);
    return pause_ms;
}

static void test_38_retry_after(void)
{
    static const struct { const char *fields; uint64_t least_ms, most_ms; } rows[] = {
        { "Retry-After: 7\r\n", 7000, 7875 },
        { "Retry-After: 7000\r\n", 60000, 67500 },
        { "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:47 GMT\r\n",
          10000, 11250 },
        { "Retry-After: Sun, 06 Nov 1994 08:49:47 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
          10000, 11250 },
        { "Retry-After: Sun, 06 Nov 1994 08:49:47 GMT\r\n", 1000, 2000 },
        { "Retry-After: soon\r\n", 1000, 2000 }, { "Retry-After: -5\r\n", 1000, 2000 },
        { "Retry-After: 99999999999999999999\r\n", 1000, 2000 }
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t pause_ms = patience_pause_ms(rows[i].fields);
        CHECK_BETWEEN(pause_ms, rows[i].least_ms, rows[i].most_ms);
    }
}

/* ---- the agent's limit of connections ------------------------------------------------------ */

static void test_36_limit_is_named(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_error(r.script, 429, "Your IP is issuing too many concurrent connections, please rate "
                 "limit your calls\n");
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 100);
        CHECK_ERR(rig_err(&r), SDC_ERR_BUSY);
        CHECK_HAS(rig_last(&r)->message, "http_max_conns_per_client");
    }
    rig_deinit(&r);
}

static void test_36_silent_limit_is_noticed(void)
{
    for (int is_reset = 0; is_reset <= 1; is_reset++) {
        rig r;
        CHECK(rig_init(&r, NULL));
        script_greet(r.script, 1000, "", is_reset ? SCRIPT_RESETS : SCRIPT_CLOSES);
        script_health(r.script, 10, "[]");
        if (rig_watch(&r, NULL)) {
            rig_run_exchange(&r);
            CHECK_ERR(rig_err(&r), SDC_ERR_IO);
            rig_run_exchange(&r);
            CHECK_ERR(rig_err(&r), SDC_ERR_BUSY);
            CHECK_HAS(rig_last(&r)->message, "http_max_conns_per_client");
            uint64_t before_ms = world_now(r.world);
            rig_run_exchange(&r);
            CHECK(world_now(r.world) - before_ms >= 1000);
        }
        rig_deinit(&r);
    }
}

/* An agent that dies with a query in hand, again and again, is not full. */
static void test_36_death_of_a_held_query_is_no_limit(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    for (int i = 0; i < 8; i++) {
        script_delay(r.script, 600);
        script_close(r.script);
    }
    script_health(r.script, 10, "[]");
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        for (int i = 0; i < 8; i++) {
            rig_run_exchange(&r);
            CHECK_ERR(rig_err(&r), SDC_ERR_IO);
        }
        rig_run_exchange(&r);
        CHECK_ERR(rig_err(&r), SDC_OK);
    }
    rig_deinit(&r);
}

/* ---- waits that are cut ------------------------------------------------------------ */

/* Something that ends each query which is held for longer than cut_ms. */
typedef struct patience_cutter {
    script  *s;
    uint32_t cut_ms;
    int      status;                    /* 0: by closing */
} patience_cutter;

static void patience_cut(void *user, script_request *request)
{
    const patience_cutter *cutter = (const patience_cutter *)user;
    uint32_t wait_ms = (uint32_t)script_wait_ms(request);
    const char *fields = script_health_headers(cutter->s, 10);

    if (script_query(request, "index") == NULL) {
        script_answer(request, 200, fields, "[]");
    } else if (wait_ms <= cutter->cut_ms) {
        script_answer_later(request, wait_ms, 200, fields, "[]");
    } else if (cutter->status != 0) {
        script_answer_later(request, cutter->cut_ms, cutter->status, NULL, "");
    } else {
        script_answer_later(request, cutter->cut_ms, 0, NULL, "");
    }
}

/* A watch behind it; `desc` may be NULL. */
static bool patience_watch_cut(rig *r, patience_cutter *cutter, const sdc_instancer_desc *desc)
{
    CHECK(rig_init(r, NULL));
    cutter->s = r->script;
    script_call(r->script, patience_cut, cutter);
    return rig_watch(r, desc);
}

static uint64_t patience_last_wait_ms(const rig *r)
{
    return script_wait_ms(script_last(r->script));
}

static void test_18_wait_shrinks_when_it_is_cut_and_grows_back(void)
{
    static const int statuses[] = { 502, 504, 500 };
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        patience_cutter cutter = { NULL, 32000, statuses[i] };
        rig r;
        if (patience_watch_cut(&r, &cutter, NULL)) {
            rig_run(&r, 180000);
            CHECK_BETWEEN(patience_last_wait_ms(&r), 27000, 30000);
            CHECK_ERR(rig_err(&r), SDC_OK);
            cutter.cut_ms = UINT32_MAX;
            rig_run(&r, 1200000);
            CHECK_BETWEEN(patience_last_wait_ms(&r), 54000, 60000);
        }
        rig_deinit(&r);
    }
}

static void test_18_wait_has_a_least(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 10, "[]");
    for (int i = 0; i < 20; i++) {
        script_delay(r.script, 10500);
        script_close(r.script);
        script_health(r.script, 10, "[]");
    }
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 200000);
        CHECK_BETWEEN(patience_last_wait_ms(&r), 9000, 10000);
    }
    rig_deinit(&r);
}

/* Waits that a program wants to be short stay as they are. */
static void test_18_short_waits_stay(void)
{
    sdc_instancer_desc desc;
    patience_cutter cutter = { NULL, 2700, 502 };
    rig r;

    memset(&desc, 0, sizeof desc);
    desc.query.wait_ms = 3000;
    if (patience_watch_cut(&r, &cutter, &desc)) {
        rig_run(&r, 100000);
        CHECK_BETWEEN(patience_last_wait_ms(&r), 2700, 3000);
    }
    rig_deinit(&r);
}

static void test_18_one_cut_changes_nothing(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 10, "[]");
    script_delay(r.script, 31000);
    script_close(r.script);
    script_health(r.script, 10, "[]");
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 200000);
        CHECK_BETWEEN(patience_last_wait_ms(&r), 54000, 60000);
    }
    rig_deinit(&r);
}

/* Growing back is tried ever more rarely. */
static void test_18_failures_of_growing_back_become_rare(void)
{
    patience_cutter cutter = { NULL, 32000, 502 };
    sdc_stats stats;
    rig r;
    if (patience_watch_cut(&r, &cutter, NULL)) {
        rig_run(&r, 24 * 3600000);
        sdc_task_stats(r.task, &stats);
        CHECK_BETWEEN(stats.failures, 2, 40);
    }
    rig_deinit(&r);
}

/* A service that changes every 20 s; one answer in two hundred is cut. */
static void patience_busy_service(void *user, script_request *request)
{
    static unsigned n;
    script *s = (script *)user;
    const char *body = n % 2 == 0 ? SCRIPT_LIST(s, { .address = "10.1.0.1", .port = 80 })
                             : SCRIPT_LIST(s, { .address = "10.1.0.2", .port = 80 });
    n++;
    if (script_query(request, "index") == NULL) {
        script_answer(request, 200, script_health_headers(s, 100 + n), body);
    } else if (n % 200 == 0) {
        script_answer_later(request, 20000, 502, NULL, "");
    } else {
        script_answer_later(request, 20000, 200, script_health_headers(s, 100 + n), body);
    }
}

static void test_18_cuts_that_are_far_apart(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_call(r.script, patience_busy_service, r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 450 * 20000);
        CHECK(script_wait_ms(script_last(r.script)) >= 54000);
        CHECK_INT(world_log_count(r.world, "WARN", "held queries are cut"), 0);
    }
    rig_deinit(&r);
}

/* Something that cuts what is held for 12 s, and an agent that is woken by others now and then. */
static void patience_cut_or_wake(void *user, script_request *request)
{
    static unsigned n;
    script *s = (script *)user;
    const char *fields = script_health_headers(s, 10);
    uint32_t wait_ms = (uint32_t)script_wait_ms(request);
    if (script_query(request, "index") == NULL) {
        script_answer(request, 200, fields, "[]");
    } else if (wait_ms < 12000) {
        script_answer_later(request, wait_ms, 200, fields, "[]");
    } else if (n++ % 2 == 0) {
        script_answer_later(request, 2000, 200, fields, "[]");       /* woken by others */
    } else {
        script_answer_later(request, 12000, 502, NULL, "");       /* cut by the proxy */
    }
}

static void test_18_short_waits_prove_nothing(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_call(r.script, patience_cut_or_wake, r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 3600000);
        sdc_stats stats;
        sdc_task_stats(r.task, &stats);
        CHECK(stats.failures < 40);
    }
    rig_deinit(&r);
}

/* A server that has just started answers while it replays its log: the list is empty at one index,
   empty at the next, and there at the third. */
static void test_29_replayed_log_empties_nothing(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 5000);
    script_close(r.script);
    script_health(r.script, 281, "[]");
    script_health(r.script, 389, "[]");
    script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 60000);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
        for (size_t i = 1; i < rig_num_events(&r); i++) {
            CHECK_INT(rig_event_nth(&r, i)->num_instances, 1);
        }
    }
    rig_deinit(&r);
}

/* The replay shows an older list first, at an index of that time, and then the emptiness between. */
static void test_29_replayed_log_with_an_older_list_empties_nothing(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 5000);
    script_close(r.script);
    script_health(r.script, 18, SCRIPT_LIST(r.script, { .address = "10.1.0.2", .port = 80 }));
    script_health(r.script, 281, "[]");
    script_health(r.script, 389, "[]");
    script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 60000);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
        for (size_t i = 1; i < rig_num_events(&r); i++) {
            CHECK_INT(rig_event_nth(&r, i)->num_instances, 1);
        }
    }
    rig_deinit(&r);
}

/* Indexes that have stayed low are those of another history: emptied lists are not doubted longer
   there than elsewhere. */
static void test_30_a_lower_history_is_trusted_after_a_while(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 5000);
    script_close(r.script);
    script_health(r.script, 18, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    for (uint64_t index = 19; index < 22; index++) {
        script_delay(r.script, 8000);
        script_health(r.script, index, SCRIPT_LIST(r.script, { .address = "10.1.0.1",
                                                               .port = 80 }));
    }
    script_delay(r.script, 8000);
    script_health(r.script, 22, "[]");
    script_health(r.script, 23, "[]");
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 38500);
        CHECK_STR(rig_addrs(&r), "");
    }
    rig_deinit(&r);
}

/* The same where nothing was heard in between: the query was held. */
static void test_30_a_lower_history_of_a_quiet_service(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 5000);
    script_close(r.script);
    script_health(r.script, 18, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 30000);
    script_health(r.script, 19, "[]");
    script_health(r.script, 20, "[]");
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 36500);
        CHECK_STR(rig_addrs(&r), "");
    }
    rig_deinit(&r);
}

/* Another store, which does not have the service, is believed: soon when it is still, within
   seconds when it moves. */
static void test_30_another_store_is_believed(void)
{
    for (int moves = 0; moves <= 1; moves++) {
        rig r;
        CHECK(rig_init(&r, NULL));
        script_health(r.script, 427, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
        script_delay(r.script, 5000);
        script_close(r.script);
        for (uint64_t i = 0; i < 20; i++) {
            script_health(r.script, 20 + (moves != 0 ? i : 0), "[]");
        }
        script_hold(r.script);
        if (rig_watch(&r, NULL)) {
            rig_run(&r, 8500);
            CHECK_STR(rig_addrs(&r), moves != 0 ? "10.1.0.1:80" : "");
            rig_run(&r, 3500);
            CHECK_STR(rig_addrs(&r), "");
            CHECK(rig_is_known(&r));
        }
        rig_deinit(&r);
    }
}

/* ---- a query that ends early with nothing new ----------------------------------------------- */

/* A restored snapshot: the held query ends at once with the old list and the index it was asked
   with, and the new store's index is lower. */
static void test_22_restored_snapshot_is_read_at_once(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 20000);
    script_health(r.script, 100, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_health(r.script, 50, SCRIPT_LIST(r.script, { .address = "10.1.0.2", .port = 80 }));
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 21000);
        CHECK(script_query(script_nth(r.script, 2), "index") == NULL);
        CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    }
    rig_deinit(&r);
}

/* A watch that has read in full a moment ago does so again when that is ten seconds old. */
static void test_22_restored_snapshot_of_a_young_watch(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_delay(r.script, 3000);
    script_health(r.script, 100, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 9900);
        CHECK_BETWEEN(patience_last_wait_ms(&r), 6900, 7000);
        rig_run(&r, 200);
        CHECK(script_query(script_nth(r.script, 3), "index") == NULL);
        rig_run(&r, 100);
        CHECK_BETWEEN(patience_last_wait_ms(&r), 54000, 60000);
    }
    rig_deinit(&r);
}

/* An agent that wakes for others all the time is read in full one time in ten seconds. */
static void test_22_full_reads_for_want_of_trust_are_few(void)
{
    size_t num_full = 0;
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 100, "[]");
    for (int i = 0; i < 300; i++) {
        script_delay(r.script, 1000);
        script_health(r.script, 100, "[]");
    }
    if (rig_watch(&r, NULL)) {
        rig_run(&r, 120000);
        for (size_t i = 0; i < script_num_requests(r.script); i++) {
            num_full += script_query(script_nth(r.script, i), "index") == NULL ? 1 : 0;
        }
        CHECK_BETWEEN(num_full, 10, 13);
    }
    rig_deinit(&r);
}

/* ---- bursts ------------------------------------------------------------ */

/* A list of so many instances. */
static const char *patience_list(rig *r, size_t num)
{
    static const char *const addresses[] = { "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4" };
    script_instance list[4];

    memset(list, 0, sizeof list);
    for (size_t i = 0; i < num; i++) {
        list[i].address = addresses[i];
        list[i].port = 80;
    }
    return script_list(r->script, list, num);
}

/* Older agents answer for a service that is not there whenever any other one changes. */
static void test_12_first_instance_is_awaited(void)
{
    rig r;
    CHECK(rig_init(&r, NULL));
    script_health(r.script, 100, "[]");
    script_hold(r.script);
    if (rig_watch(&r, NULL)) {
        for (uint64_t i = 0; i < 300; i++) {        /* others come and go, three times a second */
            script_change(r.script, 101 + i, "[]");
            rig_run(&r, 333);
        }
        size_t before = script_num_requests(r.script);
        CHECK_BETWEEN(before, 50, 70);
        script_change(r.script, 999, patience_list(&r, 1));
        rig_run(&r, 2000);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
    }
    rig_deinit(&r);
}

static bool patience_quiet(rig *r, uint32_t min_ms, uint32_t max_ms)
{
    sdc_instancer_desc desc;

    memset(&desc, 0, sizeof desc);
    desc.quiet_min_ms = min_ms;
    desc.quiet_max_ms = max_ms;
    CHECK(rig_init(r, NULL));
    script_health(r->script, 10, patience_list(r, 1));
    script_hold(r->script);
    if (!rig_watch(r, &desc)) {
        return false;
    }
    rig_run(r, 60000);
    CHECK_INT(rig_num_events(r), 2);
    return true;
}

static void test_91_burst_is_one_event(void)
{
    rig r;
    if (patience_quiet(&r, 2000, 0)) {
        uint64_t began_ms = world_now(r.world);
        for (uint64_t i = 0; i < 20; i++) {
            script_change(r.script, 11 + i, patience_list(&r, 1 + (i + 1) % 3));
            rig_run(&r, 250);
        }
        CHECK_INT(rig_num_events(&r), 2);
        rig_run(&r, 60000);
        CHECK_INT(rig_num_events(&r), 3);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80,10.1.0.3:80");
        CHECK_BETWEEN(rig_last(&r)->at_ms - began_ms, 6000, 8000);
        CHECK_INT(rig_last(&r)->num_added, 2);
    }
    rig_deinit(&r);
}

static void test_91_unrest_is_shown_after_the_longest_time(void)
{
    rig r;
    if (patience_quiet(&r, 2000, 3000)) {
        uint64_t began_ms = world_now(r.world);
        for (uint64_t i = 0; i < 12; i++) {
            script_change(r.script, 11 + i, patience_list(&r, 2 + i % 2));
            rig_run(&r, 1000);
        }
        CHECK_BETWEEN(rig_num_events(&r), 5, 7);
        CHECK_BETWEEN(rig_event_nth(&r, 2)->at_ms - began_ms, 3000, 3001);
    }
    rig_deinit(&r);
}

static void test_91_change_and_back_is_no_event(void)
{
    rig r;
    if (patience_quiet(&r, 2000, 0)) {
        script_change(r.script, 11, patience_list(&r, 2));
        rig_run(&r, 1000);
        script_change(r.script, 12, patience_list(&r, 1));
        rig_run(&r, 60000);
        CHECK_INT(rig_num_events(&r), 2);
    }
    rig_deinit(&r);
}

/* A failure shows what was known before it. */
static void test_91_error_is_not_held(void)
{
    rig r;
    if (patience_quiet(&r, 20000, 0)) {
        script_change(r.script, 11, patience_list(&r, 2));
        rig_run(&r, 1000);
        script_set_down(r.script, true);
        rig_run(&r, 1000);
        CHECK_ERR(rig_event_nth(&r, 2)->err, SDC_OK);
        CHECK_INT(rig_event_nth(&r, 2)->num_instances, 2);
        CHECK_ERR(rig_event_nth(&r, 3)->err, SDC_ERR_IO);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80");
        CHECK_ERR(rig_err(&r), SDC_ERR_CONNECT);
    }
    rig_deinit(&r);
}

static void test_91_stop_shows_nothing_more(void)
{
    rig r;
    if (patience_quiet(&r, 20000, 0)) {
        script_change(r.script, 11, patience_list(&r, 2));
        rig_run(&r, 1000);
        rig_stop(&r);
        CHECK_INT(rig_num_events(&r), 2);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
    }
    rig_deinit(&r);
}

static void test_91_memory_fails_while_a_burst_waits(void)
{
    for (unsigned n = 1; n < 60; n++) {
        rig r;
        if (patience_quiet(&r, 2000, 0)) {
            script_change(r.script, 11, patience_list(&r, 2));
            rig_run(&r, 500);
            fault_alloc_fail(&r.memory, n, false);
            script_change(r.script, 12, patience_list(&r, 3));
            rig_run(&r, 60000);
            fault_alloc_fail(&r.memory, 0, false);
            rig_run(&r, 60000);
            CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80,10.1.0.3:80");
        }
        rig_deinit(&r);
    }
}

static void test_91_refused(void)
{
    static const uint32_t rows[][2] = { { SDC_NEVER, 0 }, { 2000, 1999 } };
    for (size_t i = 0; i < 2; i++) {
        sdc_instancer_desc desc;
        sdc_instancer *instancer;
        sdc_error error;
        rig r;
        memset(&desc, 0, sizeof desc);
        desc.query.service = "web";
        desc.quiet_min_ms = rows[i][0];
        desc.quiet_max_ms = rows[i][1];
        CHECK(rig_init(&r, NULL));
        CHECK_ERR(sdc_instancer_create(r.client, &desc, &instancer, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "quiet_m");
        rig_deinit(&r);
    }
}

static const test_case cases_patience[] = {
    TEST(test_38_dates),
    TEST(test_38_retry_after),
    TEST(test_36_limit_is_named),
    TEST(test_36_silent_limit_is_noticed),
    TEST(test_36_death_of_a_held_query_is_no_limit),
    TEST(test_18_wait_shrinks_when_it_is_cut_and_grows_back),
    TEST(test_18_wait_has_a_least),
    TEST(test_18_short_waits_stay),
    TEST(test_18_one_cut_changes_nothing),
    TEST(test_18_failures_of_growing_back_become_rare),
    TEST(test_18_cuts_that_are_far_apart),
    TEST(test_18_short_waits_prove_nothing),
    TEST(test_29_replayed_log_empties_nothing),
    TEST(test_29_replayed_log_with_an_older_list_empties_nothing),
    TEST(test_30_a_lower_history_is_trusted_after_a_while),
    TEST(test_30_a_lower_history_of_a_quiet_service),
    TEST(test_30_another_store_is_believed),
    TEST(test_22_restored_snapshot_is_read_at_once),
    TEST(test_22_restored_snapshot_of_a_young_watch),
    TEST(test_22_full_reads_for_want_of_trust_are_few),
    TEST(test_12_first_instance_is_awaited),
    TEST(test_91_burst_is_one_event),
    TEST(test_91_unrest_is_shown_after_the_longest_time),
    TEST(test_91_change_and_back_is_no_event),
    TEST(test_91_error_is_not_held),
    TEST(test_91_stop_shows_nothing_more),
    TEST(test_91_memory_fails_while_a_burst_waits),
    TEST(test_91_refused),
};
