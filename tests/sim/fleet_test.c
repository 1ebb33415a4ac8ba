/* The goals for fleets on a small one, and that the model is what it says. */
#include "../support/test.h"
#include "fleet.h"

#include <string.h>

enum { FLEET_TEST_WATCHES = 2000, FLEET_TEST_AGENTS = 5, FLEET_TEST_CAPACITY = 1000 };

/* 500 clients with 4 watches each; the agents can answer half of the watches in a second. */
static fleet_desc fleet_small(fleet_rule rule, uint32_t down_ms)
{
    fleet_desc desc;

    memset(&desc, 0, sizeof desc);
    desc.rule = rule;
    desc.num_agents = FLEET_TEST_AGENTS;
    desc.clients_per_agent = 100;
    desc.watches_per_client = 4;
    desc.answers_per_s = FLEET_TEST_CAPACITY / FLEET_TEST_AGENTS;
    desc.down_ms = down_ms;
    desc.rest_ms = 10000;
    return desc;
}

static uint64_t fleet_test_after_ms(const fleet_desc *desc, fleet_result *result)
{
    if (!CHECK(fleet_run(desc, result)) || !CHECK(result->converged_ms[100] != UINT64_MAX)) {
        return UINT64_MAX;
    }
    return result->converged_ms[100] - result->back_ms;
}

/* The two goals; where the others are nearly as fast as the agents can be, that is the measure. */
static void fleet_test_goals(fleet_desc desc)
{
    fleet_result result;
    uint64_t better_ms = UINT64_MAX;
    uint64_t least_ms = (uint64_t)FLEET_TEST_WATCHES * 1000 / FLEET_TEST_CAPACITY;

    for (int rule = FLEET_GOKIT; rule < FLEET_NUM_RULES; rule++) {
        desc.rule = (fleet_rule)rule;
        uint64_t after_ms = fleet_test_after_ms(&desc, &result);
        better_ms = after_ms < better_ms ? after_ms : better_ms;
    }
    desc.rule = FLEET_OURS;
    uint64_t ours_ms = fleet_test_after_ms(&desc, &result);
    uint64_t limit_ms = better_ms / 2 > least_ms * 3 / 2 ? better_ms / 2 : least_ms * 3 / 2;
    CHECK_BETWEEN(ours_ms, 1, limit_ms);
    CHECK_BETWEEN(result.peak_s, 1, 3 * FLEET_TEST_CAPACITY);
    CHECK_BETWEEN(result.agent_peak_s, 1, 3 * FLEET_TEST_CAPACITY / FLEET_TEST_AGENTS);
    CHECK_BETWEEN(result.num_requests, FLEET_TEST_WATCHES, 4 * FLEET_TEST_WATCHES);
}

static void test_fleet_meets_its_goals(void)
{
    fleet_test_goals(fleet_small(FLEET_OURS, 5000));
}

/* As behind agents whose servers stay up. It makes go-kit fast, and no difference to us. */
static void test_fleet_meets_its_goals_when_indexes_go_on(void)
{
    static const uint32_t outages[] = { 300, 5000, 30000 };

    for (size_t i = 0; i < sizeof outages / sizeof outages[0]; i++) {
        fleet_desc desc = fleet_small(FLEET_OURS, outages[i]);
        desc.keeps_index = true;
        test_note("down for %u ms", outages[i]);
        fleet_test_goals(desc);
    }
}

static void test_fleet_meets_its_goals_on_agents_that_are_not_ready(void)
{
    fleet_desc desc = fleet_small(FLEET_OURS, 5000);
    desc.warm_ms = 2000;
    fleet_test_goals(desc);
}

/* About 57 s a query; memory is what it was before. */
static void test_fleet_at_rest(void)
{
    fleet_desc desc = fleet_small(FLEET_OURS, 5000);
    fleet_result result;
    desc.num_agents = 1;
    desc.rest_ms = 300000;
    REQUIRE(fleet_run(&desc, &result));
    CHECK_BETWEEN(result.num_at_rest, 5 * result.num_watches, 6 * result.num_watches);
    CHECK(result.bytes_at_end < result.bytes_at_rest + 150 * (size_t)result.num_watches);
}

static void test_fleet_follows_from_its_seed(void)
{
    fleet_desc desc = fleet_small(FLEET_OURS, 300);
    fleet_result first;
    fleet_result second;
    desc.num_agents = 1;
    REQUIRE(fleet_run(&desc, &first) && fleet_run(&desc, &second));
    CHECK_MEM(&first, sizeof first, &second, sizeof second);
    desc.seed = 2;
    REQUIRE(fleet_run(&desc, &second));
    CHECK(memcmp(&first, &second, sizeof first) != 0);
}

/* All official watches ask 5 s after their agent's end, at once, and wait for what it can do. */
static void test_fleet_agents_answer_no_faster_than_they_can(void)
{
    fleet_desc desc = fleet_small(FLEET_OFFICIAL, 2000);
    fleet_result result;
    desc.no_limit = true;
    desc.spread_ms = 1;
    REQUIRE(fleet_run(&desc, &result));
    CHECK_BETWEEN(result.converged_ms[50], 5990, 6010);
    CHECK_BETWEEN(result.converged_ms[100], 6990, 7010);
    CHECK_U64(result.num_requests, 2 * FLEET_TEST_WATCHES);
    CHECK_U64(result.num_attempts, result.num_requests + FLEET_TEST_WATCHES);
    CHECK_BETWEEN(result.peak_100ms, FLEET_TEST_WATCHES + FLEET_TEST_CAPACITY / 10 - 10,
                  FLEET_TEST_WATCHES + FLEET_TEST_CAPACITY / 10);
}

/* Beyond the queue it is 429; the official watch then sleeps for 20 s more. */
static void test_fleet_agents_limit(void)
{
    fleet_desc desc = fleet_small(FLEET_OFFICIAL, 2000);
    fleet_result result;
    desc.queue_max = 300;
    REQUIRE(fleet_run(&desc, &result));
    CHECK_U64(result.num_limited, FLEET_TEST_AGENTS * 100);
    CHECK_BETWEEN(result.converged_ms[75], 6000, 7600);
    CHECK_BETWEEN(result.converged_ms[76], 25000, 26100);
}

/* go-kit keeps an index of before and is not answered until its five minutes are over. */
static void test_fleet_gokit_is_blind_after_a_restart(void)
{
    fleet_desc desc = fleet_small(FLEET_GOKIT, 300);
    fleet_result result;
    REQUIRE(fleet_run(&desc, &result));
    CHECK_BETWEEN(result.converged_ms[1], 300000, 310000);
    desc.keeps_index = true;
    REQUIRE(fleet_run(&desc, &result));
    CHECK_BETWEEN(result.converged_ms[100], 2000, 10000);
}

static const test_case cases_fleet[] = {
    TEST(test_fleet_meets_its_goals),
    TEST(test_fleet_meets_its_goals_when_indexes_go_on),
    TEST(test_fleet_meets_its_goals_on_agents_that_are_not_ready),
    TEST(test_fleet_at_rest),
    TEST(test_fleet_follows_from_its_seed),
    TEST(test_fleet_agents_answer_no_faster_than_they_can),
    TEST(test_fleet_agents_limit),
    TEST(test_fleet_gokit_is_blind_after_a_restart)
};

TEST_MAIN(GROUP(cases_fleet))
