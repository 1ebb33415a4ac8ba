/* Steps the tasks of a story in the three ways that a program may, and looks at what must hold at
   every step. */
#include "story_in.h"

#include <limits.h>
#include <string.h>

/* A world has one `user`, and a process one story at a time. */
static story *driven;

/* ---- at every step --------------------------------------------------------------------------- */

static uint32_t num_tasks(const story *s)
{
    uint32_t num = 0;
    for (uint32_t i = 0; i < s->num_watches; i++) {
        num += s->watches[i].task != NULL ? 1 : 0;
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        num += s->keepers[i].task != NULL ? 1 : 0;
    }
    return num;
}

static void look_at_resources(const story *s)
{
    const world_stats *seen = world_seen(s->w);
    uint64_t now_ms = story_now(s);
    /* a watch that a callback destroys lives until its step ends */
    size_t most = num_tasks(s) + 1 + (s->is_calling ? 1 : 0);
    if (seen->open_now + seen->resolves_now > most) {
        sim_fail(now_ms, "%zu descriptors for %u tasks", seen->open_now + seen->resolves_now,
                 (unsigned)num_tasks(s));
    }
    if (s->memory.live_bytes > s->memory_bound) {
        sim_fail(now_ms, "%zu bytes are in use", s->memory.live_bytes);
    }
    if (seen->breaches > 0) {
        sim_fail(now_ms, "the contract of sdc_io was broken");
    }
    if (s->memory.num_errors > 0) {
        sim_fail(now_ms, "the contract of the allocator was broken");
    }
}

void story_look(story *s)
{
    bool is_there = model_is_up(s->m, 0);
    s->away_since_ms = is_there ? 0 : s->away_since_ms != 0 ? s->away_since_ms : story_now(s);
    for (uint32_t i = 0; i < s->num_watches; i++) {
        watch_look(&s->watches[i]);
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        keeper_look(&s->keepers[i]);
    }
    look_at_resources(s);
    if (sim_has_failed()) {
        world_loop_stop(s->w);
    }
}

void story_on_result(story *s, const sdc_task *task, sdc_err result)
{
    for (uint32_t i = 0; i < s->num_watches; i++) {
        if (s->watches[i].task == task) {
            watch_on_result(&s->watches[i], result);
        }
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        if (s->keepers[i].task == task) {
            keeper_on_result(&s->keepers[i], result);
        }
    }
    story_look(s);
}

static sdc_err look_and_wait(void *user, void *waker, const sdc_wants *wants, sdc_error *error)
{
    story_look(driven);
    return world_io(driven->w)->wait(user, waker, wants, error);
}

sdc_io drive_io(story *s)
{
    sdc_io io = *world_io(s->w);
    driven = s;
    io.wait = look_and_wait;
    return io;
}

/* ---- an event loop --------------------------------------------------------------------------- */

static uint32_t list_tasks(const story *s, sdc_task **tasks)
{
    uint32_t num = 0;
    for (uint32_t i = 0; i < s->num_watches; i++) {
        if (s->watches[i].task != NULL) {
            tasks[num++] = s->watches[i].task;
        }
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        if (s->keepers[i].task != NULL) {
            tasks[num++] = s->keepers[i].task;
        }
    }
    return num;
}

static void on_result(void *user, sdc_task *task, sdc_err result)
{
    story_on_result((story *)user, task, result);
}

static void drive_loop(story *s, uint64_t until_ms, bool is_edge)
{
    sdc_task *tasks[STORY_WATCHES + STORY_KEEPERS];
    world_loop_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.is_edge = is_edge;
    desc.on_result = on_result;
    desc.user = s;
    uint32_t num = list_tasks(s, tasks);
    world_loop_with(s->w, tasks, num, until_ms, &desc);
    if (story_now(s) < until_ms) {
        world_advance_to(s->w, until_ms);
    }
}

/* ---- blocking steps -------------------------------------------------------------------------- */

static bool is_done(const story *s, const sdc_task *task)
{
    for (uint32_t i = 0; i < s->num_watches; i++) {
        if (s->watches[i].task == task) {
            return s->watches[i].is_stopped;
        }
    }
    for (uint32_t i = 0; i < s->num_keepers; i++) {
        if (s->keepers[i].task == task) {
            return s->keepers[i].is_stopped;
        }
    }
    return true;
}

/* The first task after `from` that has something to do now; else the one at `from`, and *left is
   how long nothing can happen that is another's business. */
static sdc_task *choose_task(story *s, sdc_task **tasks, uint32_t num, uint32_t from,
                             uint64_t *until_ms)
{
    sdc_task *chosen = NULL;
    for (uint32_t i = 0; i < num; i++) {
        sdc_task *task = tasks[(from + i) % num];
        if (is_done(s, task)) {
            continue;
        }
        sdc_wants wants = sdc_task_wants(task);
        if (world_poll(s->w, &wants)) {
            *until_ms = story_now(s);
            return task;
        }
        if (chosen == NULL) {
            chosen = task;
        } else if (wants.deadline_ms < *until_ms) {
            *until_ms = wants.deadline_ms;
        }
    }
    uint64_t next_ms = world_next_ms(s->w);
    bool is_shared = num > 1 && next_ms < *until_ms;
    *until_ms = is_shared ? next_ms : *until_ms;
    return chosen;
}

/* As if each task had a thread of its own, without anything happening at once. */
static void drive_block(story *s, uint64_t end_ms)
{
    sdc_task *tasks[STORY_WATCHES + STORY_KEEPERS];
    uint32_t from = 0;
    while (story_now(s) < end_ms && !sim_has_failed()) {
        uint64_t until_ms = end_ms;
        uint32_t num = list_tasks(s, tasks);
        sdc_task *task = num > 0 ? choose_task(s, tasks, num, from++ % num, &until_ms) : NULL;
        if (task == NULL) {
            world_advance_to(s->w, end_ms);
            return;
        }
        uint64_t left_ms = until_ms > story_now(s) ? until_ms - story_now(s) : 0;
        sdc_err result = sdc_step(task, left_ms > INT_MAX ? INT_MAX : (int)left_ms);
        story_on_result(s, task, result);
    }
}

void drive(story *s, uint64_t ms)
{
    uint64_t until_ms = story_now(s) + ms;
    switch ((drive_kind)sim_below(&s->random, NUM_DRIVES)) {
    case DRIVE_LEVEL:
        drive_loop(s, until_ms, false);
        break;
    case DRIVE_EDGE:
        drive_loop(s, until_ms, true);
        break;
    case DRIVE_BLOCK:
    case NUM_DRIVES:
        drive_block(s, until_ms);
        break;
    }
    story_look(s);
}
