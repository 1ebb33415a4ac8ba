/* What a seed decides: who takes part, what happens when, and what must be true at the end. */
#include "story_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STORY_EFFORT = 2300, STORY_HOURS = 9, HOUR_MS = 3600000, STORY_ACTS = 3,
    MEMORY_BASE = 170000, MEMORY_EACH = 15000,
    MEMORY_SLACK = 20000, BLOCKS_SLACK = 10,
    RETURN_MS = 375000, TWIN_MS = 600000, STOP_MS = 500, BYTEWISE_MS = 2000, LONG_WELL_MS = 70000
};

static const char token_file[] = "/run/token";

/* ---- who takes part -------------------------------------------------------------------------- */

static void on_log(void *user, sdc_log_level level, const sdc_kv *fields, size_t num)
{
    char line[600];
    size_t len = 0;
    line[0] = '\0';
    for (size_t i = 0; i < num && len < sizeof line; i++) {
        len += (size_t)snprintf(line + len, sizeof line - len, " %s=%s", fields[i].key,
                                fields[i].value);
    }
    (void)level;
    sim_trace(story_now((const story *)user), "log:%s", line);
}

static void write_address(story *s)
{
    size_t len = 0;
    bool has_names = sim_chance(&s->random, 30);
    for (uint32_t i = 0; i < s->num_agents; i++) {
        len += (size_t)snprintf(s->address + len, sizeof s->address - len, "%s%s:%u",
                                i > 0 ? "," : "", has_names ? model_name(i) : model_ip(i),
                                (unsigned)MODEL_PORT);
    }
    world_resolver kind = (world_resolver)sim_below(&s->random, 3);
    s->resolver_blocks = has_names && kind == WORLD_RESOLVER_BLOCKS;
    s->resolver_wakes = has_names && kind == WORLD_RESOLVER_WAKE;
    world_resolver_is(s->w, kind);
}

static void make_model(story *s)
{
    model_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.kind = (model_kind)sim_below(&s->random, 3);
    desc.num_agents = desc.kind == MODEL_CLIENT ? sim_between(&s->random, 1, MODEL_AGENTS) : 1;
    desc.streams = sim_chance(&s->random, 60);
    desc.keeps_locals = desc.kind != MODEL_DEV && sim_chance(&s->random, 60);
    desc.chunk_bytes = sim_chance(&s->random, 30) ? sim_between(&s->random, 20, 400) : 0;
    desc.think_ms = sim_chance(&s->random, 50) ? sim_below(&s->random, 30) : 0;
    desc.is_plain = sim_chance(&s->random, 20);
    s->num_agents = desc.num_agents;
    s->m = model_create(s->w, &s->random, &desc);
    for (uint32_t i = 0; i < 25; i++) {
        model_change(s->m, -1);
    }
    model_snapshot(s->m);
}

static void make_client(story *s)
{
    sdc_error error;
    fault_alloc_init(&s->memory);
    s->allocator = fault_alloc_hook(&s->memory);
    s->io = drive_io(s);
    write_address(s);
    s->client_desc = world_client_desc(s->w, s->address);
    s->client_desc.io = &s->io;
    s->client_desc.allocator = &s->allocator;
    s->client_desc.connect_timeout_ms = sim_between(&s->random, 500, 5000);
    s->client_desc.request_timeout_ms = sim_between(&s->random, 3000, 15000);
    s->has_token_file = sim_chance(&s->random, 25);
    if (s->has_token_file) {
        s->is_file_there = true;
        s->file_token = "good-file";
        world_file_set(s->w, token_file, s->file_token);
        s->client_desc.token_file = token_file;
    } else {
        s->client_desc.token = sim_chance(&s->random, 50) ? "good-token" : NULL;
    }
    if (sim_now.is_traced) {
        s->logger.user = s;
        s->logger.log = on_log;
        s->client_desc.logger = &s->logger;
    }
    if (sdc_client_create(&s->client_desc, &s->client, &error) != SDC_OK) {
        sim_fail(story_now(s), "no client: %s", error.message);
    }
}

static void story_init(story *s, uint64_t seed)
{
    world_desc desc;
    memset(s, 0, sizeof *s);
    memset(&desc, 0, sizeof desc);
    s->seed = seed;
    s->random.state = seed * 0x9E3779B97F4A7C15u + 1;
    desc.seed = sim_next(&s->random) | 1;
    desc.keep_sent_bytes = 1;
    s->w = world_create(&desc);
    make_model(s);
    make_client(s);
    s->num_watches = sim_between(&s->random, 1, STORY_WATCHES);
    s->num_keepers = sim_below(&s->random, STORY_KEEPERS + 1);
    s->change_gap_ms = sim_span(&s->random, 2000, 240000);
    s->fault_gap_ms = sim_span(&s->random, 6000, 400000);
    s->memory_bound = MEMORY_BASE + (size_t)MEMORY_EACH * (s->num_watches + s->num_keepers);
    for (uint32_t i = 0; i < s->num_watches; i++) {
        watch_init(&s->watches[i], s, i);
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        keeper_init(&s->keepers[i], s, i);
    }
    calls_init(s);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* Not even one allocation fails from now on. */
static bool is_memory_well(const story *s)
{
    const fault_alloc *a = &s->memory;
    return a->fail_at == 0 || (!a->is_for_good && a->num_calls >= a->fail_at);
}

static bool may_write(const char *token)
{
    return token == NULL || token[0] == '\0' || strncmp(token, "good", 4) == 0 ||
           strcmp(token, "half") == 0;
}

/* Of a file that is gone or empty it is not known what was read last. */
bool story_is_able(const story *s)
{
    bool is_files = !s->is_token_set && s->has_token_file;
    const char *token = s->is_token_set ? s->token
                      : is_files ? s->file_token : s->client_desc.token;
    bool is_known = !is_files || (s->is_file_there && token[0] != '\0');
    return is_memory_well(s) && is_known && may_write(token);
}

static void touch(story *s)
{
    s->touched_at_ms = story_now(s);
}

/* What the requests should carry from now on, as far as it is known: a file that went away, is
   empty or cannot be read for want of memory leaves the token that was read last. */
static void expect_token(story *s)
{
    const char *token = s->client_desc.token != NULL ? s->client_desc.token : "";
    if (s->is_token_set) {
        token = s->token;
    } else if (s->has_token_file) {
        bool is_read = s->is_file_there && s->file_token[0] != '\0' && is_memory_well(s);
        token = is_read ? s->file_token : NULL;
    }
    model_expect_token(s->m, token);
}

static void set_token(story *s, const char *token)
{
    sim_trace(story_now(s), "token: %s", token != NULL ? token : "(configured)");
    touch(s);
    if (sdc_client_set_token(s->client, token) == SDC_OK) {
        s->is_token_set = token != NULL;
        s->token = token;
        expect_token(s);
    }
}

static void set_token_file(story *s, const char *token)
{
    char text[40];
    sim_trace(story_now(s), "token file: %s", token != NULL ? token : "(removed)");
    touch(s);
    s->is_file_there = token != NULL;
    s->file_token = token;
    if (token != NULL) {
        (void)snprintf(text, sizeof text, " %s\n", token);
        world_file_set(s->w, token_file, text);
    } else {
        world_file_remove(s->w, token_file);
    }
    expect_token(s);
}

/* ---- what agents hear ------------------------------------------------------------------------ */

static void on_news(void *user, model_news what, uint32_t agent, const char *id, const char *body,
                    size_t len)
{
    story *s = (story *)user;
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        upkeep_on_news(&s->keepers[i], what, agent, id, body, len);
    }
}

/* ---- changes and faults ---------------------------------------------------------------------- */

/* Mostly of what somebody watches. */
static void change_something(story *s)
{
    const watch *w = &s->watches[sim_below(&s->random, s->num_watches)];
    bool is_watched = sim_chance(&s->random, 80);
    model_change(s->m, is_watched ? (int)model_view(s->m, w->view)->service : -1);
}

static void on_change(void *user)
{
    story *s = (story *)user;
    if (s->is_calm) {
        return;
    }
    if (sim_chance(&s->random, 10)) {
        model_flip_check(s->m);
    } else if (sim_chance(&s->random, 3)) {
        model_snapshot(s->m);
    }
    for (uint32_t n = sim_chance(&s->random, 10) ? sim_below(&s->random, 8) : 0; n > 0; n--) {
        change_something(s);
    }
    change_something(s);
    world_after(s->w, 1 + sim_below(&s->random, 2 * s->change_gap_ms), on_change, s);
}

static void on_fault_end(void *user)
{
    active_fault *f = (active_fault *)user;
    if (f->is_used && !f->s->is_calm) {
        f->is_used = false;
        model_fault_off(f->s->m, f->agent, f->fault);
    }
}

static uint32_t strength_of(sim_random *r, sim_fault fault)
{
    switch (fault) {
    case FAULT_SLOW:
        return sim_span(r, 1, 3000);
    case FAULT_RATE:
        return sim_between(r, 10, 100);
    case FAULT_NOISE:
        return sim_between(r, 5, 60);
    case FAULT_WRITE_TIMEOUT:
    case FAULT_PROXY_TIMEOUT:
        return sim_span(r, 500, 60000);
    default:
        return 1 + sim_below(r, 1000);
    }
}

static void have_memory(void *user)
{
    story *s = (story *)user;
    touch(s);
    fault_alloc_fail(&s->memory, 0, false);
}

/* One allocation fails, or all for a while. */
static void fail_memory(story *s)
{
    bool is_for_good = sim_chance(&s->random, 20);
    sim_hit(FAULT_NO_MEMORY);
    touch(s);
    fault_alloc_fail(&s->memory, 1 + sim_below(&s->random, 40), is_for_good);
    expect_token(s);
    if (is_for_good) {
        world_after(s->w, sim_span(&s->random, 10, 20000), have_memory, s);
    }
}

static void begin_fault(story *s, uint32_t agent, sim_fault fault, uint32_t ms)
{
    /* the network's faults are everybody's, and kept with the first agent */
    bool is_networks = fault == FAULT_SLOW || fault == FAULT_DRIP || fault == FAULT_SPLIT;
    agent = is_networks ? 0 : agent;
    for (uint32_t i = 0; i < STORY_FAULTS; i++) {
        active_fault *f = &s->faults[i];
        if (f->is_used && f->agent == agent && f->fault == fault) {
            return;
        }
        if (!f->is_used) {
            f->s = s;
            f->is_used = true;
            f->agent = agent;
            f->fault = fault;
            uint32_t strength = strength_of(&s->random, fault);
            bool is_bytewise = (fault == FAULT_DRIP || fault == FAULT_SPLIT) &&
                               strength % MODEL_BYTEWISE == 0;
            model_fault_on(s->m, agent, fault, strength);
            world_after(s->w, is_bytewise && ms > BYTEWISE_MS ? BYTEWISE_MS : ms, on_fault_end, f);
            return;
        }
    }
}

/* The first agent goes for a moment, and others refuse what comes to them. */
static void send_away(story *s)
{
    begin_fault(s, 0, FAULT_KILL, sim_span(&s->random, 1000, 60000));
    for (uint32_t i = 1; i < s->num_agents; i++) {
        if (sim_chance(&s->random, 70)) {
            begin_fault(s, i, FAULT_UNWELCOME, sim_span(&s->random, 60000, 500000));
        }
    }
}

/* Noise is the richest of them, and comes more often than its share. */
static void on_fault(void *user)
{
    story *s = (story *)user;
    if (s->is_calm) {
        return;
    }
    sim_fault fault = sim_chance(&s->random, 15) ? FAULT_NOISE
                                                : (sim_fault)sim_below(&s->random, FAULT_NOISE);
    bool is_slow = fault == FAULT_DRIP || fault == FAULT_SPLIT;
    uint32_t ms = sim_span(&s->random, 50, is_slow ? 60000 : 400000);
    uint32_t agent = sim_below(&s->random, s->num_agents);
    if (s->num_agents > 1 && sim_chance(&s->random, 5)) {
        send_away(s);
    } else if (fault == FAULT_NO_MEMORY) {
        fail_memory(s);
    } else if (fault == FAULT_SLOW || fault == FAULT_DRIP || fault == FAULT_SPLIT) {
        sim_hit(fault);
        begin_fault(s, agent, fault, ms);
    } else if (fault != FAULT_ASLEEP && fault != FAULT_MEDDLE) {
        if (fault == FAULT_RESOLVER || fault == FAULT_REFUSE) {
            sim_hit(fault);
        }
        begin_fault(s, agent, fault, ms);
    }
    world_after(s->w, 1 + sim_below(&s->random, 2 * s->fault_gap_ms), on_fault, s);
}

static void end_faults(story *s)
{
    s->is_calm = true;
    s->calm_at_ms = story_now(s);
    for (uint32_t i = 0; i < STORY_FAULTS; i++) {
        s->faults[i].is_used = false;
    }
    for (uint32_t agent = 0; agent < s->num_agents; agent++) {
        for (int fault = 0; fault < NUM_FAULTS; fault++) {
            model_fault_off(s->m, agent, (sim_fault)fault);
        }
    }
    fault_alloc_fail(&s->memory, 0, false);
    set_token(s, NULL);
    if (s->has_token_file) {
        set_token_file(s, "good-again");
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        keeper_heal(&s->keepers[i]);
    }
    sim_trace(story_now(s), "all faults are over");
}

/* ---- what the program does ------------------------------------------------------------------- */

static void set_some_token(story *s)
{
    static const char *const tokens[] = { NULL, NULL, "", "good-2", "bad", "blind", "half" };
    const char *token = tokens[sim_below(&s->random, 7)];
    if (s->has_token_file && sim_chance(&s->random, 60)) {
        set_token_file(s, token);
    } else {
        set_token(s, token);
    }
}

/* Stopped tasks are destroyed, gone ones made anew. */
static void renew(story *s)
{
    for (uint32_t i = 0; i < s->num_watches; i++) {
        watch *w = &s->watches[i];
        if (w->is_stopped) {
            watch_destroy(w);
            w->is_stopped = false;
        }
        if (w->instancer == NULL) {
            watch_start(w);
        }
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        keeper *k = &s->keepers[i];
        if (k->is_stopped) {
            keeper_destroy(k);
            k->is_stopped = false;
        }
        if (k->registrar == NULL) {
            keeper_start(k);
        }
    }
}

uint64_t story_fall_asleep(story *s)
{
    s->touched_at_ms = UINT32_MAX;      /* far ahead                                            */
    return story_now(s);
}

/* What is to stop could not do so before. */
void story_wake_up(story *s, uint64_t slept_at_ms)
{
    uint64_t slept_ms = story_now(s) - slept_at_ms;
    touch(s);
    expect_token(s);            /* a request that was begun before may go out now */
    for (uint32_t i = 0; i < s->num_watches; i++) {
        s->watches[i].stopped_ms += slept_ms;
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        s->keepers[i].stopped_ms += slept_ms;
    }
}

static void sleep_over(story *s)
{
    uint64_t before_ms = story_fall_asleep(s);
    sim_hit(FAULT_ASLEEP);
    world_advance(s->w, sim_span(&s->random, 100, 100000));
    story_wake_up(s, before_ms);
}

/* A call that blocks. What was deregistered is registered again before long. */
static void call(story *s, watch *w, keeper *k)
{
    uint32_t what = sim_below(&s->random, 10);
    if (k != NULL && !k->is_wanted) {
        calls_register(k);
    } else if (what < 3) {
        calls_wait(w);
    } else if (what < 6 || k == NULL) {
        calls_once(s);
    } else if (what < 8) {
        calls_register(k);
    } else {
        calls_deregister(k);
    }
}

static void act(story *s)
{
    uint32_t what = sim_below(&s->random, 100);
    watch *w = &s->watches[sim_below(&s->random, s->num_watches)];
    keeper *k = s->num_keepers > 0 ? &s->keepers[sim_below(&s->random, s->num_keepers)] : NULL;
    if (what < 4) {
        watch_stop(w);
    } else if (what < 7) {
        watch_destroy(w);
    } else if (what < 10 && k != NULL) {
        keeper_stop(k);
    } else if (what < 50 && k != NULL) {
        keeper_act(k);
    } else if (what < 55) {
        set_some_token(s);
    } else if (what < 60) {
        sleep_over(s);
    } else if (what < 70) {
        watch_check_state(w);
    } else if (what < 76) {
        call(s, w, k);
    }
}

static void stop_from_elsewhere(void *user)
{
    watch *w = (watch *)user;
    if (!w->s->is_calm) {
        watch_stop(w);
    }
}

static void act_from_elsewhere(void *user)
{
    keeper *k = (keeper *)user;
    if (!k->s->is_calm) {
        keeper_act(k);
    }
}

/* One stretch of time, with what other threads do meanwhile. */
static void pass_time(story *s, uint32_t most_ms)
{
    uint32_t ms = sim_span(&s->random, 200, most_ms);
    if (sim_chance(&s->random, 4)) {
        watch *w = &s->watches[sim_below(&s->random, s->num_watches)];
        world_after(s->w, sim_below(&s->random, ms), stop_from_elsewhere, w);
    }
    if (s->num_keepers > 0 && sim_chance(&s->random, 30)) {
        keeper *k = &s->keepers[sim_below(&s->random, s->num_keepers)];
        world_after(s->w, sim_below(&s->random, ms), act_from_elsewhere, k);
    }
    drive(s, ms);
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        upkeep_check_content(&s->keepers[i]);
    }
}

/* ---- acts ------------------------------------------------------------------------------------ */

/* Of this machine, in exchanges: a connect costs as much as one, and so do eight reads. */
static uint64_t effort(const story *s)
{
    const world_stats *seen = world_seen(s->w);
    return sim_now.exchanges + seen->opened + seen->reads / 8;
}

static void storm(story *s, uint32_t nth)
{
    uint64_t end_ms = story_now(s) + (uint64_t)STORY_HOURS * HOUR_MS / STORY_ACTS;
    uint64_t most = (uint64_t)STORY_EFFORT * (nth + 1) / STORY_ACTS;
    s->is_calm = false;
    on_change(s);
    on_fault(s);
    while (!sim_has_failed() && story_now(s) < end_ms && effort(s) < most) {
        renew(s);
        act(s);
        pass_time(s, 400000);
    }
}

static void check_truth(const story *s, const char *when)
{
    for (uint32_t i = 0; i < s->num_watches; i++) {
        const watch *w = &s->watches[i];
        if (!watch_is_true(w)) {
            sim_fail(story_now(s), "watch %u is not what the model has, %s: %zu instances and %s, "
                     "not %u", (unsigned)i, when, w->num, test_err_name(w->err),
                     (unsigned)model_view(s->m, w->view)->num);
        }
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        const char *wrong = keeper_wrong(&s->keepers[i]);
        if (wrong != NULL) {
            sim_fail(story_now(s), "registrar %u, %s: %s", (unsigned)i, when, wrong);
        }
    }
}

static uint64_t bound_ms(const story *s)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < s->num_watches; i++) {
        uint64_t ms = watch_bound_ms(&s->watches[i]);
        most = ms > most ? ms : most;
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        uint64_t ms = keeper_bound_ms(&s->keepers[i]);
        most = ms > most ? ms : most;
    }
    return most;
}

/* Drives for so long, in stretches of several kinds. */
static void drive_for(story *s, uint64_t ms)
{
    uint64_t end_ms = story_now(s) + ms;
    while (story_now(s) < end_ms && !sim_has_failed()) {
        uint64_t left_ms = end_ms - story_now(s);
        uint32_t part_ms = 1000 + sim_below(&s->random, 60000);
        drive(s, part_ms < left_ms ? part_ms : left_ms);
    }
}

/* Once all is well a change is seen at once. */
static void change_and_see(story *s)
{
    uint32_t most_ms = 1000;
    for (uint32_t i = 0; i < s->num_watches; i++) {
        uint32_t ms = watch_react_ms(&s->watches[i]);
        most_ms = ms > most_ms ? ms : most_ms;
    }
    change_something(s);
    drive(s, most_ms);
    check_truth(s, "a moment after a change");
}

/* What is in use at rest does not grow from act to act; lists differ, and some events are held. */
static void check_memory(story *s)
{
    if (s->rest_blocks == 0) {
        s->rest_blocks = s->memory.num_live + BLOCKS_SLACK;
        s->rest_bytes = s->memory.live_bytes + MEMORY_SLACK;
    }
    if (s->memory.num_live > s->rest_blocks || s->memory.live_bytes > s->rest_bytes) {
        sim_fail(story_now(s), "%zu blocks and %zu bytes are in use, not %zu and %zu as before",
                 s->memory.num_live, s->memory.live_bytes, s->rest_blocks - BLOCKS_SLACK,
                 s->rest_bytes - MEMORY_SLACK);
    }
}

/* At rest a read comes once in a wait. */
static void check_rest(story *s)
{
    uint64_t before[STORY_WATCHES];
    uint64_t opened = world_seen(s->w)->opened;
    for (uint32_t i = 0; i < s->num_watches; i++) {
        before[i] = s->watches[i].seen.requests;
    }
    for (uint32_t part = 0; part < 6; part++) {
        drive_for(s, 10000);
        check_truth(s, "at rest");
    }
    /* of several agents the first one is looked for now and then */
    if (s->num_agents == 1 && world_seen(s->w)->opened != opened) {
        sim_fail(story_now(s), "%u new connections at rest",
                 (unsigned)(world_seen(s->w)->opened - opened));
    }
    for (uint32_t i = 0; i < s->num_watches; i++) {
        const watch *w = &s->watches[i];
        uint32_t wait_ms = w->desc.query.wait_ms != 0 ? w->desc.query.wait_ms : 60000;
        uint64_t most = 60000 * 10 / (9 * (wait_ms < 10000 ? wait_ms : 10000)) + 3;
        if (w->seen.requests - before[i] > 2 * most) {
            sim_fail(story_now(s), "watch %u: %llu reads in a minute at rest", (unsigned)i,
                     (unsigned long long)(w->seen.requests - before[i]));
        }
    }
}

static void finish_stopping(story *s)
{
    renew(s);
    for (uint32_t i = 0; i < s->num_watches; i++) {
        s->watches[i].dies_at_event = 0;
    }
    drive(s, 4000);
    renew(s);
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        if (!s->keepers[i].is_wanted) {
            calls_register(&s->keepers[i]);
        }
    }
}

/* Where there are several agents one that works is enough; for a call, too. */
static void leave_one_agent(story *s)
{
    uint32_t left = sim_below(&s->random, s->num_agents);
    bool makes_call = s->num_keepers > 0 && sim_chance(&s->random, 50);
    if (makes_call) {
        drive_for(s, LONG_WELL_MS);
    }
    sim_fault fault = sim_chance(&s->random, 50) ? FAULT_KILL : FAULT_BLACKHOLE;
    for (uint32_t i = 0; i < s->num_agents; i++) {
        if (i != left) {
            model_fault_on(s->m, i, fault, 1);
        }
    }
    if (makes_call && sim_chance(&s->random, 60)) {
        calls_register(&s->keepers[0]);
    } else if (makes_call) {
        calls_once(s);
    }
    drive_for(s, bound_ms(s));
    check_truth(s, "with one agent left");
    end_faults(s);
}

/* The first agent is away for a moment, and comes back to others that refuse: one that takes the
   service is enough, and each step looks whether it has it. */
static void leave_refusals(story *s)
{
    model_fault_on(s->m, 0, FAULT_KILL, 1);
    for (uint32_t i = 1; i < s->num_agents; i++) {
        if (sim_chance(&s->random, 80)) {
            model_fault_on(s->m, i, FAULT_UNWELCOME, 1 + sim_below(&s->random, 1000));
        }
    }
    drive_for(s, sim_span(&s->random, 1000, 60000));
    model_fault_off(s->m, 0, FAULT_KILL);
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        drive_for(s, i == 0 ? upkeep_bound_ms(&s->keepers[i]) + 5000 : 1000);
    }
    end_faults(s);
}

/* The first agent was away for a moment, and then takes connections and says nothing: looking for
   it costs nobody a heartbeat. */
static void leave_mute(story *s)
{
    model_fault_on(s->m, 0, FAULT_KILL, 1);
    drive_for(s, sim_span(&s->random, 1000, 20000));
    model_fault_off(s->m, 0, FAULT_KILL);
    model_fault_on(s->m, 0, FAULT_PAUSE, 1);
    drive_for(s, RETURN_MS + 60000);
    end_faults(s);
}

/* After some minutes everybody is back at the first agent, and nothing is left at the others. */
static void check_home(story *s)
{
    uint32_t twins_ms = s->num_keepers > 0 ? TWIN_MS : 0;
    drive_for(s, RETURN_MS + twins_ms + bound_ms(s));
    for (uint32_t i = 0; i < s->num_watches; i++) {
        if (model_view(s->m, s->watches[i].view)->told_by != 0) {
            sim_fail(story_now(s), "watch %u does not go back to the first agent", (unsigned)i);
        }
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        if (!keeper_is_home(&s->keepers[i])) {
            sim_fail(story_now(s), "registrar %u does not go back to the first agent, or leaves "
                     "its service elsewhere", (unsigned)i);
        }
    }
}

static void calm(story *s)
{
    end_faults(s);
    finish_stopping(s);
    uint32_t how = s->num_agents > 1 ? sim_below(&s->random, 100) : 100;
    if (how < 40) {
        leave_one_agent(s);
    } else if (how < 70) {
        leave_refusals(s);
    } else if (how < 90) {
        leave_mute(s);
    }
    drive_for(s, bound_ms(s));
    check_truth(s, "long after all faults are over");
    if (!sim_has_failed()) {
        check_rest(s);
        check_memory(s);
        change_and_see(s);
        change_and_see(s);
    }
}

static void stop_all(story *s)
{
    if (s->num_agents > 1) {
        check_home(s);
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        if (sim_chance(&s->random, 30)) {
            model_meddle(s->m, sdc_registrar_id(s->keepers[i].registrar), true);
        }
    }
    for (uint32_t i = 0; i < s->num_watches; i++) {
        watch_stop(&s->watches[i]);
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        keeper_stop(&s->keepers[i]);
    }
    drive(s, 4000);
    for (uint32_t i = 0; i < s->num_watches && !sim_has_failed(); i++) {
        if (!s->watches[i].is_stopped) {
            sim_fail(story_now(s), "watch %u does not stop", (unsigned)i);
        }
    }
    for (uint32_t i = 0; i < s->num_keepers && !sim_has_failed(); i++) {
        const keeper *k = &s->keepers[i];
        if (!k->is_stopped || k->took_ms > STOP_MS) {
            sim_fail(story_now(s), "registrar %u does not stop though all is well",
                     (unsigned)i);
        } else if (keeper_is_anywhere(k) && !k->desc.keep_on_stop) {
            sim_fail(story_now(s), "registrar %u has stopped, and its service is still there",
                     (unsigned)i);
        }
    }
}

/* Destroys everything, held events last; nothing may be left. */
static void story_deinit(story *s)
{
    s->is_ending = true;
    for (uint32_t i = 0; i < s->num_watches; i++) {
        watch_destroy(&s->watches[i]);
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        keeper_destroy(&s->keepers[i]);
    }
    sdc_client_destroy(s->client);
    for (uint32_t i = 0; i < STORY_HELD; i++) {
        if (s->held[i] != NULL && sim_hash_event(s->held[i]) != s->held_hash[i]) {
            sim_fail(story_now(s), "an event that was held has changed");
        }
        sdc_event_release(s->held[i]);
    }
    if (s->memory.num_live != 0) {
        sim_fail(story_now(s), "%zu blocks were never freed", s->memory.num_live);
    }
    if (world_seen(s->w)->open_now + world_seen(s->w)->wakers_now +
        world_seen(s->w)->resolves_now != 0) {
        sim_fail(story_now(s), "streams, wakers or resolves are left over");
    }
    fault_alloc_deinit(&s->memory);
    sim_now.virtual_ms = story_now(s) - WORLD_START_MS;
    world_destroy(s->w);
}

void story_run(uint64_t seed, bool is_traced)
{
    static story s;
    memset(&sim_now, 0, sizeof sim_now);
    sim_now.is_traced = is_traced;
    if (!is_traced) {
        test_expect_failures();         /* the world's reports: they are counted, and looked at */
    }
    story_init(&s, seed);
    model_on_news(s.m, on_news, &s);
    for (uint32_t nth = 0; nth < STORY_ACTS && !sim_has_failed(); nth++) {
        storm(&s, nth);
        calm(&s);
    }
    if (!sim_has_failed()) {
        stop_all(&s);
    }
    story_deinit(&s);
    if (!is_traced) {
        (void)test_expected_failures();
    }
}
