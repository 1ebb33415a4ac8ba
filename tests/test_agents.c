/* Several agents in one address: which one is asked, and when it is left and returned
   to. */

#include "support/rig.h"

enum { AGENTS_NUM = 3 };

typedef struct agents_stage {
    rig     r;
    script *of[AGENTS_NUM];         /* at 10.0.0.1, .2 and .3 */
} agents_stage;

/* Each answers with one instance whose address tells the agents apart, and holds queries. */
static void agents_answers(agents_stage *stage, size_t nth, uint64_t index)
{
    static const char *const addresses[AGENTS_NUM] = { "10.1.0.1", "10.1.0.2", "10.1.0.3" };
    script *s = stage->of[nth];

    script_health(s, index, SCRIPT_LIST(s, { .address = addresses[nth], .port = 80 }));
    script_hold(s);
}

static void agents_init_on(agents_stage *stage, const world_desc *net)
{
    sdc_client_desc desc;

    memset(&desc, 0, sizeof desc);
    desc.address = "10.0.0.1:8500, 10.0.0.2:8500,http://10.0.0.3:8500/prefix";
    CHECK(rig_init_client(&stage->r, net, &desc));
    stage->of[0] = stage->r.script;
    stage->of[1] = script_create(stage->r.world, "10.0.0.2", 8500);
    stage->of[2] = script_create(stage->r.world, "10.0.0.3", 8500);
    for (size_t i = 0; i < AGENTS_NUM; i++) {
        agents_answers(stage, i, 100 + i);
    }
}

static void agents_init(agents_stage *stage)
{
    agents_init_on(stage, NULL);
}

static bool agents_watch(agents_stage *stage)
{
    agents_init(stage);
    return rig_watch(&stage->r, NULL);
}

/* Away for a second: the watch has gone on to the next one. */
static void agents_first_goes_and_comes(agents_stage *stage)
{
    script_set_down(stage->of[0], true);
    rig_run(&stage->r, 1000);
    script_set_down(stage->of[0], false);
}

static void test_87_first_agent_is_asked(void)
{
    agents_stage stage;
    if (agents_watch(&stage)) {
        rig_run(&stage.r, 3600000);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.1:80");
        CHECK_INT(script_num_requests(stage.of[1]), 0);
        CHECK_INT(script_num_requests(stage.of[2]), 0);
    }
    rig_deinit(&stage.r);
}

static void test_87_next_agent_is_asked_at_once(void)
{
    agents_stage stage;
    if (agents_watch(&stage)) {
        script_set_down(stage.of[0], true);
        script_set_down(stage.of[1], true);
        rig_run(&stage.r, 500);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.3:80");
        const script_request *request = script_nth(stage.of[2], 0);
        CHECK_STR(request->path, "/prefix/v1/health/service/web");
        CHECK_STR(script_header(request, "Host"), "10.0.0.3:8500");
        sdc_stats stats;
        sdc_task_stats(stage.r.task, &stats);
        CHECK_INT(stats.agent, 2);
    }
    rig_deinit(&stage.r);
}

static void test_87_index_starts_over_at_the_next_agent(void)
{
    agents_stage stage;
    if (agents_watch(&stage)) {
        rig_run(&stage.r, 1000);
        script_set_down(stage.of[0], true);
        rig_run(&stage.r, 1000);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.2:80");
        CHECK(script_query(script_nth(stage.of[1], 0), "index") == NULL);
        CHECK_STR(script_query(script_nth(stage.of[1], 1), "index"), "101");
    }
    rig_deinit(&stage.r);
}

static void test_87_what_makes_an_agent_be_left(void)
{
    static const struct { int status; const char *text; bool leaves; } rows[] = {
        { 500, "No cluster leader", true }, { 500, "No known Consul servers", true },
        { 500, "rpc error making call: EOF", true }, { 429, "rate limit exceeded", true },
        { 502, "Bad Gateway", true }, { 503, "Service Unavailable", true }, { 504, "", true },
        { 500, "Failed to create boolean expression evaluator", false },
        { 403, "Permission denied", false }, { 404, "Invalid URL path", false },
        { 400, "Invalid index", false }
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        agents_stage stage;
        test_note("%d %s", rows[i].status, rows[i].text);
        agents_init(&stage);
        script_clear(stage.of[0]);
        script_error(stage.of[0], rows[i].status, rows[i].text);
        if (rig_watch(&stage.r, NULL)) {
            rig_run(&stage.r, 5000);
            CHECK_INT(script_num_requests(stage.of[1]) > 0, rows[i].leaves);
            CHECK_STR(rig_addrs(&stage.r), rows[i].leaves ? "10.1.0.2:80" : "");
        }
        rig_deinit(&stage.r);
    }
}

static void test_87_stays_where_it_works(void)
{
    agents_stage stage;
    if (agents_watch(&stage)) {
        agents_first_goes_and_comes(&stage);
        rig_run(&stage.r, 200000);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.2:80");
        CHECK_INT(script_num_requests(stage.of[0]), 0);
    }
    rig_deinit(&stage.r);
}

static void test_87_returns_to_the_first_slowly(void)
{
    agents_stage stage;
    if (agents_watch(&stage)) {
        agents_first_goes_and_comes(&stage);
        rig_run(&stage.r, 500000);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.1:80");
        CHECK(script_query(script_nth(stage.of[0], 0), "index") == NULL);
    }
    rig_deinit(&stage.r);
}

/* The subscriber hears of one outage, however often the first agent is looked for in vain. */
static void test_87_looking_for_the_first_is_no_outage(void)
{
    agents_stage stage;
    if (agents_watch(&stage)) {
        script_set_down(stage.of[0], true);
        rig_run(&stage.r, 1000);
        size_t before = rig_num_events(&stage.r);
        size_t connects = world_num_connects(stage.r.world, "10.0.0.1", 8500);
        rig_run(&stage.r, 2000000);
        CHECK_INT(rig_num_events(&stage.r), before);
        CHECK(world_num_connects(stage.r.world, "10.0.0.1", 8500) >= connects + 4);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.2:80");
        CHECK_INT(script_num_requests(stage.of[2]), 0);
    }
    rig_deinit(&stage.r);
}

/* The pauses grow with rounds of the list, not with each agent. */
static void test_87_all_down_backs_off_by_rounds(void)
{
    agents_stage stage;
    agents_init(&stage);
    for (size_t i = 0; i < AGENTS_NUM; i++) {
        script_set_down(stage.of[i], true);
    }
    if (rig_watch(&stage.r, NULL)) {
        rig_run(&stage.r, 3600000);
        size_t connects = world_num_connects(stage.r.world, "10.0.0.2", 8500);
        CHECK(connects > 30 && connects < 200);
        CHECK_ERR(rig_err(&stage.r), SDC_ERR_CONNECT);
        script_set_down(stage.of[1], false);
        rig_run(&stage.r, 200000);
        CHECK_STR(rig_addrs(&stage.r), "10.1.0.2:80");
    }
    rig_deinit(&stage.r);
}

/* One of three comes back after a long outage: it is found by the next round, not by the third pause
   from now. */
static void test_87_pauses_are_between_rounds(void)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        agents_stage stage;
        world_desc net = { .seed = seed };
        agents_init_on(&stage, &net);
        for (size_t i = 0; i < AGENTS_NUM; i++) {
            script_set_down(stage.of[i], true);
        }
        if (rig_watch(&stage.r, NULL)) {
            rig_run(&stage.r, 600000);
            script_set_down(stage.of[2], false);
            rig_run(&stage.r, 62000);
            CHECK_STR(rig_addrs(&stage.r), "10.1.0.3:80");
        }
        rig_deinit(&stage.r);
    }
}

static void test_87_one_shot_calls_try_each_agent(void)
{
    agents_stage stage;
    sdc_registration reg;
    sdc_query query;
    sdc_error error;
    const sdc_event *event;

    memset(&reg, 0, sizeof reg);
    memset(&query, 0, sizeof query);
    reg.name = "web";
    query.service = "web";
    agents_init(&stage);
    script_set_down(stage.of[0], true);
    script_on(stage.of[1], "PUT ");
    script_error(stage.of[1], 500, "No cluster leader");
    script_on(stage.of[2], "PUT ");
    script_ok(stage.of[2]);
    CHECK_ERR(sdc_client_service(stage.r.client, &query, &event, &error), SDC_OK);
    CHECK_STR(event->instances[0].addr, "10.1.0.2:80");
    sdc_event_release(event);
    CHECK_ERR(sdc_client_register(stage.r.client, &reg, &error), SDC_OK);
    CHECK_STR(script_last(stage.of[2])->path, "/prefix/v1/agent/service/register");
    CHECK_ERR(sdc_client_deregister(stage.r.client, "web", &error), SDC_ERR_CONNECT);
    CHECK_STR(script_last(stage.of[2])->path, "/prefix/v1/agent/service/deregister/web");
    rig_deinit(&stage.r);
}

/* ---- what each of three says ------------------------------------------------------------ */

/* Forgets what agents_init has told them to answer. */
static void agents_clear(agents_stage *stage)
{
    for (size_t i = 0; i < AGENTS_NUM; i++) {
        script_clear(stage->of[i]);
    }
}

/* All say 429 with Retry-After: 30; none is asked again before. */
static void test_38_retry_after_of_each_agent(void)
{
    agents_stage stage;
    agents_init(&stage);
    agents_clear(&stage);
    for (int i = 0; i < 3; i++) {
        script_reply(stage.of[i], 429, "Retry-After: 30\r\n", "slow down");
    }
    if (rig_watch(&stage.r, NULL)) {
        rig_run(&stage.r, 29000);
        for (int i = 0; i < 3; i++) {
            CHECK_INT(script_num_requests(stage.of[i]), 1);
        }
    }
    rig_deinit(&stage.r);
}

/* The second agent refuses the token for ever; the first one is long back. */
static void test_87_first_is_looked_for_while_failing(void)
{
    agents_stage stage;
    agents_init(&stage);
    agents_clear(&stage);
    agents_answers(&stage, 0, 100);
    script_error(stage.of[1], 403, "ACL not found");
    script_health(stage.of[2], 1, "[]");
    if (rig_watch(&stage.r, NULL)) {
        rig_run(&stage.r, 1000);
        script_set_down(stage.of[0], true);
        rig_run(&stage.r, 5000);
        script_set_down(stage.of[0], false);
        rig_run(&stage.r, 7200000);
        CHECK_ERR(rig_err(&stage.r), SDC_OK);
    }
    rig_deinit(&stage.r);
}

/* One silent close of the second agent is no limit. */
static void test_36_silence_counts_for_each_agent(void)
{
    agents_stage stage;
    agents_init(&stage);
    agents_clear(&stage);
    script_greet(stage.of[0], 1000, "", SCRIPT_CLOSES);
    script_greet(stage.of[1], 1, "", SCRIPT_CLOSES);
    for (int i = 0; i < 3; i++) {
        script_health(stage.of[i], 1, "[]");
        script_hold(stage.of[i]);
    }
    if (rig_watch(&stage.r, NULL)) {
        rig_run_exchange(&stage.r);
        rig_run_exchange(&stage.r);
        CHECK_ERR(rig_err(&stage.r), SDC_ERR_BUSY);
        rig_run_exchange(&stage.r);
        sdc_error error;
        sdc_task_error(stage.r.task, &error);
        CHECK_ERR(error.code, SDC_ERR_IO);
    }
    rig_deinit(&stage.r);
}

/* Messages and log lines say which agent. */
static void test_87_log_names_the_agents(void)
{
    agents_stage stage;
    agents_init(&stage);
    agents_clear(&stage);
    script_error(stage.of[0], 500, "No cluster leader");
    script_error(stage.of[1], 403, "Permission denied");
    if (rig_watch(&stage.r, NULL)) {
        rig_run(&stage.r, 3000);
        CHECK_HAS(world_log(stage.r.world), "10.0.0.1");
        CHECK_HAS(world_log(stage.r.world), "10.0.0.2");
    }
    rig_deinit(&stage.r);
}

/* An agent that is not left is not asked at once, either. */
static void test_32_failures_of_one_agent_of_three(void)
{
    agents_stage stage;
    agents_init(&stage);
    agents_clear(&stage);
    script_error(stage.of[0], 500, "filter is bad");
    if (rig_watch(&stage.r, NULL)) {
        rig_run(&stage.r, 100);
        CHECK(script_num_requests(stage.of[0]) < 3 ||
              script_nth(stage.of[0], 2)->at_ms - script_nth(stage.of[0], 1)->at_ms > 10);
    }
    rig_deinit(&stage.r);
}

/* Any server may say something old; there is no leader. */
static void agents_outdated(void *user, script_request *request)
{
    (void)user;
    if (script_query(request, "stale") != NULL) {
        script_answer(request, 200, "X-Consul-Index: 50\r\nX-Consul-LastContact: 900000\r\n", "[]");
    } else {
        script_answer(request, 500, NULL, "No cluster leader");
    }
}

static void test_26_max_stale_without_leader_backs_off(void)
{
    sdc_instancer_desc desc;
    rig r;
    memset(&desc, 0, sizeof desc);
    desc.query.consistency = SDC_CONSISTENCY_STALE;
    desc.query.max_stale_ms = 500;
    CHECK(rig_init(&r, NULL));
    script_call(r.script, agents_outdated, NULL);
    if (rig_watch(&r, &desc)) {
        rig_run(&r, 600000);
        CHECK(script_num_requests(r.script) < 150);
        CHECK_INT(world_log_count(r.world, "INFO", "recovered"), 0);
    }
    rig_deinit(&r);
}

/* The first agent answers again, but its servers have no leader: that is no news. */
static void test_87_outdated_first_agent_is_no_outage(void)
{
    sdc_instancer_desc desc;
    agents_stage stage;
    memset(&desc, 0, sizeof desc);
    desc.query.consistency = SDC_CONSISTENCY_STALE;
    desc.query.max_stale_ms = 500;
    agents_init(&stage);
    agents_clear(&stage);
    script_call(stage.of[0], agents_outdated, NULL);
    for (int i = 1; i < 3; i++) {
        agents_answers(&stage, (size_t)i, 100);
    }
    script_set_down(stage.of[0], true);
    if (rig_watch(&stage.r, &desc)) {
        rig_run(&stage.r, 1000);
        script_set_down(stage.of[0], false);
        size_t before = rig_num_events(&stage.r);
        rig_run(&stage.r, 2000000);
        CHECK_INT(rig_num_events(&stage.r), before);
    }
    rig_deinit(&stage.r);
}

static void test_26_outdated_answers_are_asked_again_of_the_leader(void)
{
    static const char *const old = "X-Consul-Index: 50\r\nX-Consul-LastContact: 900\r\n";
    static const char *const streamed = "X-Consul-Index: 50\r\nX-Consul-LastContact: 900\r\n"
                                        "X-Consul-Query-Backend: streaming\r\n";
    for (int is_streamed = 0; is_streamed <= 1; is_streamed++) {
        sdc_instancer_desc desc;
        rig r;
        memset(&desc, 0, sizeof desc);
        desc.query.consistency = SDC_CONSISTENCY_STALE;
        desc.query.max_stale_ms = 500;
        CHECK(rig_init(&r, NULL));
        script_reply(r.script, 200, is_streamed ? streamed : old, "[]");
        script_health(r.script, 60, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
        script_hold(r.script);
        if (rig_watch(&r, &desc)) {
            rig_run(&r, 1000);
            CHECK(script_query(script_nth(r.script, 0), "stale") != NULL);
            CHECK_INT(script_query(script_nth(r.script, 1), "stale") == NULL, !is_streamed);
            CHECK_INT(script_query(script_nth(r.script, 1), "index") == NULL, !is_streamed);
            CHECK(script_query(script_nth(r.script, 2), "stale") != NULL);
            CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
            CHECK_INT(rig_num_events(&r), is_streamed ? 3 : 2);
        }
        rig_deinit(&r);
    }
}

static void test_26_one_shot(void)
{
    sdc_query query;
    sdc_error error;
    const sdc_event *event;
    rig r;

    memset(&query, 0, sizeof query);
    query.service = "web";
    query.consistency = SDC_CONSISTENCY_STALE;
    query.max_stale_ms = 500;
    CHECK(rig_init(&r, NULL));
    script_reply(r.script, 200, "X-Consul-Index: 50\r\nX-Consul-LastContact: 501\r\n", "[]");
    script_health(r.script, 60, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    if (CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_OK)) {
        CHECK_INT(event->num_instances, 1);
        sdc_event_release(event);
    }
    CHECK_INT(script_num_requests(r.script), 2);
    rig_deinit(&r);
}

static const test_case cases_agents[] = {
    TEST(test_87_first_agent_is_asked),
    TEST(test_87_next_agent_is_asked_at_once),
    TEST(test_87_index_starts_over_at_the_next_agent),
    TEST(test_87_what_makes_an_agent_be_left),
    TEST(test_87_stays_where_it_works),
    TEST(test_87_returns_to_the_first_slowly),
    TEST(test_87_looking_for_the_first_is_no_outage),
    TEST(test_87_all_down_backs_off_by_rounds),
    TEST(test_87_pauses_are_between_rounds),
    TEST(test_87_one_shot_calls_try_each_agent),
    TEST(test_38_retry_after_of_each_agent),
    TEST(test_87_first_is_looked_for_while_failing),
    TEST(test_36_silence_counts_for_each_agent),
    TEST(test_87_log_names_the_agents),
    TEST(test_32_failures_of_one_agent_of_three),
    TEST(test_26_max_stale_without_leader_backs_off),
    TEST(test_87_outdated_first_agent_is_no_outage),
    TEST(test_26_outdated_answers_are_asked_again_of_the_leader),
    TEST(test_26_one_shot),
};
