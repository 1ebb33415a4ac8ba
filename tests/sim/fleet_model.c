/* The clock, the wires and the agents of the fleet.

   An agent works off its requests one after another, each in 1/answers_per_s: what stands for it
   is the share of CPU and of its servers' limits (limits.rpc_rate with limits.rpc_max_burst, or
   limits.request_limits) that one agent has. A blocking query costs nothing while it is held, as
   the streaming backend's do, and one answer when its wait ends. Requests beyond queue_max get
   what Consul sends for a limit that is reached: 429 at once, without Retry-After and for
   nothing. A request that was given up costs its answer all the same, since handlers do not look
   whether anybody is still there.

   While an agent is down its connections have ended and new ones are refused. */
#include "fleet_model.h"

#include <stdlib.h>
#include <string.h>

enum {
    FLEET_BIN_MS = 100, FLEET_LATENCY_US = 1000, FLEET_OLD_INDEX = 5000, FLEET_NEW_INDEX = 40
};

static void *fleet_zeros(size_t num, size_t size)
{
    return calloc(num > 0 ? num : 1, size);
}

/* ---- random ---------------------------------------------------------------------------------- */

/* splitmix64 */
uint64_t fleet_random(fleet *f)
{
    f->random_state += 0x9E3779B97F4A7C15u;
    uint64_t z = f->random_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- events ---------------------------------------------------------------------------------- */

static uint32_t fleet_id_wire(const fleet *f, uint32_t watch)
{
    return f->num_watches + watch;
}

static uint32_t fleet_id_agent(const fleet *f, uint32_t agent)
{
    return 2 * f->num_watches + agent;
}

static uint32_t fleet_id_restart(const fleet *f, uint32_t agent)
{
    return 2 * f->num_watches + f->desc.num_agents + agent;
}

static bool fleet_is_before(const fleet *f, uint32_t a, uint32_t b)
{
    return f->at_us[a] != f->at_us[b] ? f->at_us[a] < f->at_us[b] : a < b;
}

static void fleet_put(fleet *f, uint32_t place, uint32_t id)
{
    f->heap[place] = id;
    f->place[id] = place;
}

static void fleet_up(fleet *f, uint32_t place, uint32_t id)
{
    while (place > 0 && fleet_is_before(f, id, f->heap[(place - 1) / 2])) {
        fleet_put(f, place, f->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    fleet_put(f, place, id);
}

static void fleet_down(fleet *f, uint32_t place, uint32_t id)
{
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child + 1 < f->num_events && fleet_is_before(f, f->heap[child + 1], f->heap[child])) {
            child++;
        }
        if (child >= f->num_events || !fleet_is_before(f, f->heap[child], id)) {
            break;
        }
        fleet_put(f, place, f->heap[child]);
        place = child;
    }
    fleet_put(f, place, id);
}

/* The event `id` happens at that time and at no other. */
static void fleet_at(fleet *f, uint32_t id, uint64_t at_us)
{
    uint64_t before_us = f->at_us[id];

    if (at_us == before_us) {
        return;
    }
    f->at_us[id] = at_us;
    if (before_us == FLEET_NEVER) {
        fleet_up(f, f->num_events++, id);
    } else if (at_us != FLEET_NEVER) {
        uint32_t place = f->place[id];
        if (at_us < before_us) {
            fleet_up(f, place, id);
        } else {
            fleet_down(f, place, id);
        }
    } else {
        uint32_t place = f->place[id];
        uint32_t last = f->heap[--f->num_events];
        if (last != id) {
            fleet_down(f, place, last);
            fleet_up(f, f->place[last], last);
        }
    }
}

void fleet_timer(fleet *f, uint32_t watch, uint64_t at_us)
{
    fleet_at(f, watch, at_us < f->now_us ? f->now_us : at_us);
}

/* ---- counting -------------------------------------------------------------------------------- */

/* The bin of this moment, or NULL: before the restart, or too late. */
static uint32_t *fleet_bin(const fleet *f, uint32_t *bins)
{
    if (f->began_us == FLEET_NEVER) {
        return NULL;
    }
    uint64_t nth = (f->now_us - f->began_us) / (FLEET_BIN_MS * 1000);
    return nth < f->num_bins ? &bins[nth] : NULL;
}

static void fleet_count_attempt(fleet *f)
{
    uint32_t *bin = fleet_bin(f, f->attempts);

    if (bin != NULL) {
        (*bin)++;
        f->result->num_attempts++;
    }
}

static void fleet_count_request(fleet *f, fleet_agent *agent)
{
    uint32_t *bin = fleet_bin(f, f->requests);

    fleet_count_attempt(f);
    if (bin != NULL) {
        (*bin)++;
        (*fleet_bin(f, agent->requests))++;
        f->result->num_requests++;
    } else {
        f->result->num_at_rest++;
    }
}

/* The most in `width` bins side by side. */
static uint64_t fleet_peak(const fleet *f, const uint32_t *bins, uint32_t width)
{
    uint64_t sum = 0;
    uint64_t peak = 0;

    for (uint32_t i = 0; i < f->num_bins; i++) {
        sum += bins[i];
        sum -= i >= width ? bins[i - width] : 0;
        peak = sum > peak ? sum : peak;
    }
    return peak;
}

void fleet_published(fleet *f, uint32_t watch, uint32_t epoch)
{
    fleet_watch *w = &f->watches[watch];

    if (w->is_done || epoch == 0) {
        return;
    }
    w->is_done = true;
    f->num_done++;
    uint64_t hundredth = (uint64_t)f->num_done * 100 / f->num_watches;
    uint64_t before = (uint64_t)(f->num_done - 1) * 100 / f->num_watches;
    for (uint64_t i = before + 1; i <= hundredth; i++) {
        f->result->converged_ms[i] = (f->now_us - f->began_us) / 1000;
    }
}

/* ---- agents ---------------------------------------------------------------------------------- */

static uint64_t fleet_index(const fleet *f, const fleet_agent *agent)
{
    if (agent->epoch == 0) {
        return FLEET_OLD_INDEX;
    }
    if (!f->desc.keeps_index) {
        return FLEET_NEW_INDEX;
    }
    return f->desc.no_change ? FLEET_OLD_INDEX : FLEET_OLD_INDEX + 1;
}

static void fleet_answer_now(fleet *f, uint32_t watch, int status)
{
    fleet_watch *w = &f->watches[watch];
    const fleet_agent *agent = &f->agents[fleet_agent_of(f, watch)];

    w->wire = FLEET_WIRE_ANSWERED;
    w->answer.status = status;
    w->answer.index = fleet_index(f, agent);
    w->answer.epoch = agent->epoch;
    fleet_at(f, fleet_id_wire(f, watch), f->now_us + FLEET_LATENCY_US);
}

/* Takes the next request in hand. */
static void fleet_agent_work(fleet *f, uint32_t nth)
{
    fleet_agent *agent = &f->agents[nth];
    uint64_t at_us = FLEET_NEVER;

    if (agent->num > 0) {
        at_us = f->now_us + 1000000 / f->desc.answers_per_s;
    }
    fleet_at(f, fleet_id_agent(f, nth), at_us);
}

static void fleet_agent_done(fleet *f, uint32_t nth)
{
    fleet_agent *agent = &f->agents[nth];
    fleet_queued done = agent->queue[agent->head];

    agent->head = (agent->head + 1) % agent->size;
    agent->num--;
    if (f->watches[done.watch].serial == done.serial) {
        fleet_answer_now(f, done.watch, 200);
    }
    fleet_agent_work(f, nth);
}

/* The ring has room for requests that were given up besides; a full one is a limit, too. */
static void fleet_enqueue(fleet *f, uint32_t watch, bool was_held)
{
    uint32_t nth = fleet_agent_of(f, watch);
    fleet_agent *agent = &f->agents[nth];
    fleet_watch *w = &f->watches[watch];

    if (f->now_us < agent->warm_until_us) {
        fleet_answer_now(f, watch, 500);
        return;
    }
    if ((!was_held && !f->desc.no_limit && agent->num >= f->desc.queue_max) ||
        agent->num == agent->size) {
        f->result->num_limited += f->began_us != FLEET_NEVER ? 1 : 0;
        fleet_answer_now(f, watch, 429);
        return;
    }
    w->wire = FLEET_WIRE_QUEUED;
    fleet_at(f, fleet_id_wire(f, watch), FLEET_NEVER);
    fleet_queued *last = &agent->queue[(agent->head + agent->num) % agent->size];
    last->watch = watch;
    last->serial = w->serial;
    if (agent->num++ == 0) {
        fleet_agent_work(f, nth);
    }
}

/* ---- wires ----------------------------------------------------------------------------------- */

bool fleet_connect(fleet *f, uint32_t watch)
{
    fleet_watch *w = &f->watches[watch];

    if (w->wire != FLEET_WIRE_NONE) {
        return true;
    }
    if (f->agents[fleet_agent_of(f, watch)].is_down) {
        fleet_count_attempt(f);
        return false;
    }
    w->serial++;
    w->wire = FLEET_WIRE_OPEN;
    return true;
}

void fleet_request(fleet *f, uint32_t watch, uint64_t index, uint64_t wait_us)
{
    fleet_agent *agent = &f->agents[fleet_agent_of(f, watch)];
    fleet_watch *w = &f->watches[watch];

    fleet_count_request(f, agent);
    if (index >= fleet_index(f, agent) && f->now_us >= agent->warm_until_us) {
        w->wire = FLEET_WIRE_HELD;
        fleet_at(f, fleet_id_wire(f, watch), f->now_us + wait_us);
    } else {
        fleet_enqueue(f, watch, false);
    }
}

void fleet_close(fleet *f, uint32_t watch)
{
    fleet_watch *w = &f->watches[watch];

    w->serial++;
    w->wire = FLEET_WIRE_NONE;
    fleet_at(f, fleet_id_wire(f, watch), FLEET_NEVER);
}

static void fleet_wire_event(fleet *f, uint32_t watch)
{
    fleet_watch *w = &f->watches[watch];

    if (w->wire == FLEET_WIRE_HELD) {
        fleet_enqueue(f, watch, true);
    } else if (w->wire == FLEET_WIRE_ANSWERED) {
        fleet_answer answer = w->answer;
        w->wire = FLEET_WIRE_OPEN;
        f->ops->on_answer(f, watch, &answer);
    }
}

/* ---- the restart ----------------------------------------------------------------------------- */

static void fleet_agent_ends(fleet *f, uint32_t nth)
{
    fleet_agent *agent = &f->agents[nth];
    uint32_t first = nth * f->watches_per_agent;

    if (f->began_us == FLEET_NEVER) {
        f->began_us = f->now_us;
        f->result->bytes_at_rest = f->ops->bytes(f);
    }
    agent->is_down = true;
    agent->num = 0;
    fleet_at(f, fleet_id_agent(f, nth), FLEET_NEVER);
    fleet_at(f, fleet_id_restart(f, nth), f->now_us + (uint64_t)f->desc.down_ms * 1000);
    for (uint32_t i = first; i < first + f->watches_per_agent; i++) {
        fleet_wire wire = f->watches[i].wire;
        if (wire != FLEET_WIRE_NONE) {
            fleet_close(f, i);
            f->ops->on_closed(f, i, wire != FLEET_WIRE_OPEN);
        }
    }
}

static void fleet_agent_returns(fleet *f, uint32_t nth)
{
    fleet_agent *agent = &f->agents[nth];

    agent->is_down = false;
    agent->epoch++;
    agent->warm_until_us = f->now_us + (uint64_t)f->desc.warm_ms * 1000;
    f->result->back_ms = (agent->warm_until_us - f->began_us) / 1000;
}

/* ---- a run ----------------------------------------------------------------------------------- */

static void fleet_event(fleet *f)
{
    uint32_t id = f->heap[0];
    uint32_t nth = id;

    f->now_us = f->at_us[id];
    fleet_at(f, id, FLEET_NEVER);
    if (nth < f->num_watches) {
        f->ops->on_timer(f, nth);
        return;
    }
    nth -= f->num_watches;
    if (nth < f->num_watches) {
        fleet_wire_event(f, nth);
        return;
    }
    nth -= f->num_watches;
    if (nth < f->desc.num_agents) {
        fleet_agent_done(f, nth);
        return;
    }
    nth -= f->desc.num_agents;
    if (f->agents[nth].is_down) {
        fleet_agent_returns(f, nth);
    } else {
        fleet_agent_ends(f, nth);
    }
}

static uint32_t fleet_or(uint32_t value, uint32_t zero_means)
{
    return value != 0 ? value : zero_means;
}

static bool fleet_defaults(fleet *f, const fleet_desc *desc)
{
    fleet_desc *d = &f->desc;

    *d = *desc;
    d->seed = d->seed != 0 ? d->seed : 1;
    d->num_agents = fleet_or(d->num_agents, 100);
    d->clients_per_agent = fleet_or(d->clients_per_agent, 100);
    d->watches_per_client = fleet_or(d->watches_per_client, 10);
    d->answers_per_s = fleet_or(d->answers_per_s, 500);
    d->queue_max = fleet_or(d->queue_max, d->answers_per_s / 2);
    d->start_ms = fleet_or(d->start_ms, 60000);
    d->rest_ms = fleet_or(d->rest_ms, 60000);
    d->spread_ms = fleet_or(d->spread_ms, 1000);
    d->down_ms = fleet_or(d->down_ms, 5000);
    d->give_up_ms = fleet_or(d->give_up_ms, 600000);
    uint64_t num = (uint64_t)d->num_agents * d->clients_per_agent * d->watches_per_client;
    return num <= 10000000 && d->rule < FLEET_NUM_RULES && d->answers_per_s <= 1000000;
}

static bool fleet_make_agents(fleet *f)
{
    bool is_made = true;

    for (uint32_t i = 0; i < f->desc.num_agents; i++) {
        fleet_agent *agent = &f->agents[i];
        agent->size = 8 * (size_t)f->watches_per_agent;
        agent->queue = (fleet_queued *)fleet_zeros(agent->size, sizeof *agent->queue);
        agent->requests = (uint32_t *)fleet_zeros(f->num_bins, sizeof *agent->requests);
        is_made = is_made && agent->queue != NULL && agent->requests != NULL;
    }
    return is_made;
}

static bool fleet_make(fleet *f)
{
    const fleet_desc *d = &f->desc;

    f->watches_per_agent = d->clients_per_agent * d->watches_per_client;
    f->num_watches = d->num_agents * f->watches_per_agent;
    f->num_ids = 2 * f->num_watches + 2 * d->num_agents;
    f->num_bins = d->give_up_ms / FLEET_BIN_MS + 1;
    f->random_state = d->seed;
    f->began_us = FLEET_NEVER;
    f->watches = (fleet_watch *)fleet_zeros(f->num_watches, sizeof *f->watches);
    f->agents = (fleet_agent *)fleet_zeros(d->num_agents, sizeof *f->agents);
    f->heap = (uint32_t *)fleet_zeros(f->num_ids, sizeof *f->heap);
    f->place = (uint32_t *)fleet_zeros(f->num_ids, sizeof *f->place);
    f->at_us = (uint64_t *)fleet_zeros(f->num_ids, sizeof *f->at_us);
    f->attempts = (uint32_t *)fleet_zeros(f->num_bins, sizeof *f->attempts);
    f->requests = (uint32_t *)fleet_zeros(f->num_bins, sizeof *f->requests);
    if (f->watches == NULL || f->agents == NULL || f->heap == NULL || f->place == NULL ||
        f->at_us == NULL || f->attempts == NULL || f->requests == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < f->num_ids; i++) {
        f->at_us[i] = FLEET_NEVER;
    }
    return fleet_make_agents(f);
}

static void fleet_free(fleet *f)
{
    for (uint32_t i = 0; f->agents != NULL && i < f->desc.num_agents; i++) {
        free(f->agents[i].queue);
        free(f->agents[i].requests);
    }
    free(f->watches);
    free(f->agents);
    free(f->heap);
    free(f->place);
    free(f->at_us);
    free(f->attempts);
    free(f->requests);
}

/* The watches begin one by one, rest, and then the agents restart. */
static void fleet_schedule(fleet *f)
{
    const fleet_desc *d = &f->desc;
    uint64_t start_us = (uint64_t)d->start_ms * 1000;
    uint64_t end_us = start_us + (uint64_t)d->rest_ms * 1000;

    for (uint32_t i = 0; i < f->num_watches; i++) {
        fleet_timer(f, i, fleet_random(f) % start_us);
    }
    for (uint32_t i = 0; i < d->num_agents; i++) {
        uint64_t later_us = i == 0 ? 0 : fleet_random(f) % ((uint64_t)d->spread_ms * 1000);
        fleet_at(f, fleet_id_restart(f, i), end_us + later_us);
    }
}

static void fleet_play(fleet *f)
{
    uint64_t rest_us = (uint64_t)f->desc.start_ms * 1000;
    uint64_t end_us = rest_us + ((uint64_t)f->desc.rest_ms + f->desc.give_up_ms) * 1000;
    bool is_at_rest = false;

    while (f->num_events > 0 && f->num_done < f->num_watches && f->at_us[f->heap[0]] < end_us) {
        if (!is_at_rest && f->at_us[f->heap[0]] >= rest_us) {
            is_at_rest = true;
            f->result->num_at_rest = 0;
        }
        fleet_event(f);
    }
    f->result->bytes_at_end = f->ops->bytes(f);
}

static void fleet_conclude(fleet *f)
{
    fleet_result *r = f->result;

    r->peak_s = fleet_peak(f, f->requests, 1000 / FLEET_BIN_MS);
    r->peak_100ms = fleet_peak(f, f->requests, 1);
    r->attempts_peak_s = fleet_peak(f, f->attempts, 1000 / FLEET_BIN_MS);
    for (uint32_t i = 0; i < f->desc.num_agents; i++) {
        uint64_t peak = fleet_peak(f, f->agents[i].requests, 1000 / FLEET_BIN_MS);
        r->agent_peak_s = peak > r->agent_peak_s ? peak : r->agent_peak_s;
    }
}

const char *fleet_rule_str(fleet_rule rule)
{
    static const char *const names[] = { "sdconsul.h", "go-kit", "official" };

    return rule < FLEET_NUM_RULES ? names[rule] : "?";
}

bool fleet_run(const fleet_desc *desc, fleet_result *out)
{
    static const fleet_ops *const rules[] = { &fleet_ops_ours, &fleet_ops_gokit,
                                              &fleet_ops_official };
    fleet f;

    memset(&f, 0, sizeof f);
    memset(out, 0, sizeof *out);
    memset(out->converged_ms, 0xff, sizeof out->converged_ms);
    f.result = out;
    bool is_good = fleet_defaults(&f, desc) && fleet_make(&f);
    if (is_good) {
        out->num_watches = f.num_watches;
        out->capacity = f.desc.num_agents * f.desc.answers_per_s;
        f.ops = rules[f.desc.rule];
        is_good = f.ops->begin(&f);
        if (is_good) {
            fleet_schedule(&f);
            fleet_play(&f);
            fleet_conclude(&f);
        }
        f.ops->end(&f);
    }
    fleet_free(&f);
    return is_good;
}
