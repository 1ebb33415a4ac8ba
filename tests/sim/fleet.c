/* Prints what the restart of all agents costs a fleet, with three rules for failures side by side.

       fleet                          the scenarios of the README; exit 1 if a goal is missed
       fleet down_ms=2000 ...         one of your own: the fields of fleet_desc, and the defaults

   Goals of sdconsul.h: the agents get no more than three times as many requests in a second as
   they can answer; and from the return of the last agent on it takes half as long as with the
   better of the other two until all watches have converged. No rule can be faster than the agents
   answer: half as long again as they need to answer each watch once is soon enough, too. */
#include "fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FLEET_PEAK_TIMES = 3, FLEET_LONG_REST_MS = 300000 };

typedef struct fleet_scenario {
    const char *title;
    fleet_desc  desc;
} fleet_scenario;

static void fleet_print_head(void)
{
    printf("%-13s%8s%7s%7s%7s%10s%10s%9s%8s%8s%9s%8s\n", "rule", "peak/s", "times", "0.1 s",
           "agent", "requests", "refused", "429", "50 %", "99 %", "100 %", "after");
}

static void fleet_print_s(int width, uint64_t ms)
{
    if (ms == UINT64_MAX) {
        printf("%*s", width, "-");
    } else {
        printf("%*.2f", width, (double)ms / 1000);
    }
}

/* From the last agent's return to the last watch. */
static uint64_t fleet_after_ms(const fleet_result *r)
{
    return r->converged_ms[100] != UINT64_MAX ? r->converged_ms[100] - r->back_ms : UINT64_MAX;
}

static void fleet_print_row(fleet_rule rule, const fleet_result *r, uint32_t num_agents)
{
    double capacity = (double)r->capacity;

    printf("%-13s%8llu%7.2f%7.2f%7.2f%10llu%10llu%9llu", fleet_rule_str(rule),
           (unsigned long long)r->peak_s, (double)r->peak_s / capacity,
           (double)r->peak_100ms * 10 / capacity, (double)r->agent_peak_s * num_agents / capacity,
           (unsigned long long)r->num_requests,
           (unsigned long long)(r->num_attempts - r->num_requests),
           (unsigned long long)r->num_limited);
    fleet_print_s(8, r->converged_ms[50]);
    fleet_print_s(8, r->converged_ms[99]);
    fleet_print_s(9, r->converged_ms[100]);
    fleet_print_s(8, fleet_after_ms(r));
    printf("\n");
    (void)fflush(stdout);
}

static bool fleet_judge(const fleet_result results[FLEET_NUM_RULES])
{
    const fleet_result *ours = &results[FLEET_OURS];
    uint64_t gokit_ms = fleet_after_ms(&results[FLEET_GOKIT]);
    uint64_t official_ms = fleet_after_ms(&results[FLEET_OFFICIAL]);
    uint64_t better_ms = gokit_ms < official_ms ? gokit_ms : official_ms;
    uint64_t least_ms = (uint64_t)ours->num_watches * 1000 / ours->capacity;
    uint64_t limit_ms = better_ms / 2 > least_ms * 3 / 2 ? better_ms / 2 : least_ms * 3 / 2;
    bool is_low = ours->peak_s <= FLEET_PEAK_TIMES * (uint64_t)ours->capacity;
    bool is_soon = fleet_after_ms(ours) <= limit_ms;

    printf("peak %s; converged %s: ", is_low ? "ok" : "MISSED", is_soon ? "ok" : "MISSED");
    if (better_ms == UINT64_MAX) {
        printf("the others did not\n\n");
    } else {
        printf("%.2f of the better, %.2f of the least possible\n\n",
               (double)fleet_after_ms(ours) / (double)better_ms,
               (double)fleet_after_ms(ours) / (double)least_ms);
    }
    return is_low && is_soon;
}

static void fleet_print_rest(const fleet_desc *desc, const fleet_result *r)
{
    double minutes = (double)(desc->rest_ms != 0 ? desc->rest_ms : 60000) / 60000;

    printf("at rest: %.2f requests a minute for each watch, %zu bytes for each with its share of a "
           "client\n", (double)r->num_at_rest / minutes / r->num_watches,
           r->bytes_at_rest / r->num_watches);
}

static bool fleet_show(const fleet_scenario *scenario)
{
    fleet_desc desc = scenario->desc;
    fleet_result results[FLEET_NUM_RULES];
    uint32_t num_agents = desc.num_agents != 0 ? desc.num_agents : 100;

    printf("%s\n", scenario->title);
    fleet_print_head();
    for (int i = 0; i < FLEET_NUM_RULES; i++) {
        desc.rule = (fleet_rule)i;
        if (!fleet_run(&desc, &results[i])) {
            printf("no memory, or nonsense\n");
            return false;
        }
        fleet_print_row(desc.rule, &results[i], num_agents);
    }
    if (desc.rest_ms >= FLEET_LONG_REST_MS) {
        fleet_print_rest(&desc, &results[FLEET_OURS]);
    }
    return fleet_judge(results);
}

static bool fleet_show_all(void)
{
    static const fleet_scenario scenarios[] = {
        { "down for 5 s", { .rest_ms = FLEET_LONG_REST_MS } },
        { "down for 0.3 s", { .down_ms = 300 } },
        { "down for 2 s", { .down_ms = 2000 } },
        { "down for 30 s", { .down_ms = 30000 } },
        { "down for 5 s, the indexes go on", { .keeps_index = true } },
        { "down for 0.3 s, the indexes go on", { .down_ms = 300, .keeps_index = true } },
        { "down for 5 s, all requests wait instead of 429", { .no_limit = true } },
        { "down for 5 s, then 500 for 2 s", { .warm_ms = 2000 } },
        { "down for 5 s, no list has changed: converged is who was answered",
          { .no_change = true } }
    };
    size_t num = sizeof scenarios / sizeof scenarios[0];
    size_t num_good = 0;

    printf("10,000 clients with 10 watches each on 100 agents that answer 500 requests a second "
           "each;\nall agents go down within a second, and their indexes start over.\n"
           "peak/s        requests of the busiest second, all agents together\n"
           "times         that, as many times as they can answer; then the same of a tenth of a "
           "second,\n              and of one agent\n"
           "refused       connections that a down agent refused, not among the requests\n"
           "50 %% .. 100 %% seconds from the first agent's end until so many have converged\n"
           "after         seconds from the last agent's return until all have\n\n");
    for (size_t i = 0; i < num; i++) {
        num_good += fleet_show(&scenarios[i]) ? 1 : 0;
    }
    printf("%u of %u scenarios meet the goals, %.0f s of CPU\n", (unsigned)num_good,
           (unsigned)num, (double)clock() / CLOCKS_PER_SEC);
    return num_good == num;
}

/* "name=number" into the desc. */
static bool fleet_set(fleet_desc *d, const char *text)
{
    struct { const char *name; uint32_t *to; } numbers[] = {
        { "num_agents", &d->num_agents }, { "clients_per_agent", &d->clients_per_agent },
        { "watches_per_client", &d->watches_per_client },
        { "answers_per_s", &d->answers_per_s }, { "queue_max", &d->queue_max },
        { "start_ms", &d->start_ms }, { "rest_ms", &d->rest_ms }, { "spread_ms", &d->spread_ms },
        { "down_ms", &d->down_ms }, { "warm_ms", &d->warm_ms }, { "give_up_ms", &d->give_up_ms }
    };
    struct { const char *name; bool *to; } flags[] = {
        { "no_limit", &d->no_limit }, { "keeps_index", &d->keeps_index },
        { "no_change", &d->no_change }
    };
    size_t len = strcspn(text, "=");
    unsigned long value = text[len] == '=' ? strtoul(text + len + 1, NULL, 10) : 1;

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strlen(numbers[i].name) == len && strncmp(numbers[i].name, text, len) == 0) {
            *numbers[i].to = (uint32_t)value;
            return true;
        }
    }
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (strlen(flags[i].name) == len && strncmp(flags[i].name, text, len) == 0) {
            *flags[i].to = value != 0;
            return true;
        }
    }
    if (len == 4 && strncmp(text, "seed", len) == 0) {
        d->seed = value;
        return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    fleet_scenario own;

    if (argc == 1) {
        return fleet_show_all() ? 0 : 1;
    }
    memset(&own, 0, sizeof own);
    own.title = "as given";
    for (int i = 1; i < argc; i++) {
        if (!fleet_set(&own.desc, argv[i])) {
            (void)fprintf(stderr, "fleet: what is %s?\n", argv[i]);
            return 2;
        }
    }
    return fleet_show(&own) ? 0 : 1;
}
