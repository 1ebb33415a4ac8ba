/* The embedded agent on the simulated world, with the real library: a service is registered and
   found, falls ill, the agent restarts, and all goes in virtual time. Shows too how the pieces
   of tests/support are used together. */
#include "../../sdconsul.h"

#include "test.h"
#include "world.h"
#include "world_agent.h"

#include <string.h>

typedef struct stage {
    world         *w;
    agent         *a;
    sdc_client    *client;
    sdc_registrar *registrar;
    sdc_instancer *instancer;
    sdc_task      *tasks[2];
} stage;

static bool stage_init(stage *s, world_drive drive)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    memset(s, 0, sizeof *s);
    desc.drive = drive;
    desc.latency_ms = 1;
    agent_desc agent_is;
    memset(&agent_is, 0, sizeof agent_is);
    agent_is.profile = AGENT_1_22;
    s->w = world_create(&desc);
    s->a = agent_create(&agent_is, world_now(s->w));
    world_listen_agent(s->w, "10.0.0.1", 8500, s->a);
    s->client = world_client(s->w, "10.0.0.1:8500");
    sdc_check check;
    memset(&check, 0, sizeof check);
    check.ttl_ms = 10000;
    sdc_registrar_desc registrar;
    memset(&registrar, 0, sizeof registrar);
    registrar.registration.id = "web-1";
    registrar.registration.name = "web";
    registrar.registration.address = "10.9.0.1";
    registrar.registration.port = 8000;
    registrar.registration.checks = &check;
    registrar.registration.num_checks = 1;
    sdc_instancer_desc instancer;
    memset(&instancer, 0, sizeof instancer);
    instancer.query.service = "web";
    instancer.query.passing_only = true;
    bool ok = s->client != NULL &&
              CHECK_ERR(sdc_registrar_create(s->client, &registrar, &s->registrar, NULL), SDC_OK) &&
              CHECK_ERR(sdc_instancer_create(s->client, &instancer, &s->instancer, NULL), SDC_OK);
    if (ok) {
        s->tasks[0] = sdc_registrar_task(s->registrar);
        s->tasks[1] = sdc_instancer_task(s->instancer);
    }
    return ok;
}

static void stage_run(stage *s, uint64_t ms)
{
    world_loop(s->w, s->tasks, 2, world_now(s->w) + ms);
}

static size_t stage_num_instances(stage *s)
{
    const sdc_event *event = sdc_instancer_state(s->instancer);
    size_t num = event->num_instances;
    if (num > 0) {
        CHECK_STR(event->instances[0].addr, "10.9.0.1:8000");
    }
    sdc_event_release(event);
    return num;
}

static void stage_deinit(stage *s)
{
    sdc_instancer_destroy(s->instancer);
    sdc_registrar_destroy(s->registrar);
    sdc_client_destroy(s->client);
    world_destroy(s->w);
    agent_destroy(s->a);
}

static void live_a_while(world_drive drive)
{
    stage s;
    if (stage_init(&s, drive)) {
        stage_run(&s, 5000);
        CHECK(agent_has_service(s.a, "web-1"));
        CHECK_STR(agent_check_status(s.a, "service:web-1"), "passing");
        CHECK_INT(stage_num_instances(&s), 1);
        sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_CRITICAL, "disk full");
        stage_run(&s, 5000);
        CHECK_INT(stage_num_instances(&s), 0);
        sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_PASSING, "");
        stage_run(&s, 60000);
        CHECK_INT(stage_num_instances(&s), 1);
        agent_restart(s.a, 0, false, world_now(s.w));
        CHECK(!agent_has_service(s.a, "web-1"));
        stage_run(&s, 120000);
        CHECK(agent_has_service(s.a, "web-1"));
        CHECK_INT(stage_num_instances(&s), 1);
        sdc_stop(s.tasks[0]);
        sdc_stop(s.tasks[1]);
        stage_run(&s, 5000);
        CHECK(!agent_has_service(s.a, "web-1"));
        CHECK_INT(world_seen(s.w)->open_now, 0);
    }
    stage_deinit(&s);
}

static void test_agent_world_watched_by_level(void)
{
    live_a_while(WORLD_DRIVE_LEVEL);
}

static void test_agent_world_watched_by_edge(void)
{
    live_a_while(WORLD_DRIVE_EDGE);
}

static const test_case cases_agent_world[] = {
    TEST(test_agent_world_watched_by_level),
    TEST(test_agent_world_watched_by_edge)
};

TEST_MAIN(GROUP(cases_agent_world))
