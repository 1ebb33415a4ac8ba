/* One watch of a story: its options, and what must hold for its events and requests. */
#include "story_in.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { READS_FREE = 3, READ_EVERY_MS = 500 };

/* ---- options --------------------------------------------------------------------------------- */

static uint32_t one_of(sim_random *r, const uint32_t *values, uint32_t num)
{
    return values[sim_below(r, num)];
}

static void add_tag(watch *w, uint32_t tag, bool is_upper)
{
    size_t n = w->desc.query.num_tags++;
    (void)snprintf(w->tags[n], sizeof w->tags[n], "%s", catalog_tags[tag]);
    for (char *c = w->tags[n]; is_upper && *c != '\0'; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
    w->tag_list[n] = w->tags[n];
}

static void choose_question(watch *w, catalog_view *v)
{
    sim_random *r = &w->s->random;
    sdc_query *q = &w->desc.query;
    memset(v, 0, sizeof *v);
    v->service = sim_below(r, 100) < 70 ? sim_below(r, 4) : 4 + sim_below(r, 2);
    for (uint32_t left = sim_chance(r, 40) ? sim_between(r, 1, 2) : 0; left > 0; left--) {
        uint32_t tag = sim_below(r, CATALOG_TAGS);
        if ((v->tags >> tag & 1) == 0) {
            v->tags |= 1u << tag;
            /* one letter that is not ASCII stays as it is */
            add_tag(w, tag, tag != CATALOG_TAGS - 1 && sim_chance(r, 20));
        }
    }
    v->passing_only = sim_chance(r, 40);
    v->worst = sim_chance(r, 25) ? (sdc_status)(1 + sim_below(r, 3)) : SDC_STATUS_UNSET;
    q->service = catalog_service_name(v->service);
    q->tags = w->tag_list;
    q->passing_only = v->passing_only;
    q->worst_status = v->worst;
}

static uint32_t cap_ms(const watch *w)
{
    return w->desc.backoff_max_ms != 0 ? w->desc.backoff_max_ms : 60000;
}

static uint32_t wait_ms(const watch *w)
{
    return w->desc.query.wait_ms != 0 ? w->desc.query.wait_ms : 60000;
}

void watch_init(watch *w, story *s, uint32_t nth)
{
    static const uint32_t waits[] = { 0, 0, 10000, 30000, 2000, 300000 };
    static const uint32_t caps[] = { 0, 0, 1000, 5000, 20000 };
    static const uint32_t resyncs[] = { 0, 0, 60000, SDC_NEVER };
    static const uint32_t quiets[] = { 0, 0, 0, 100, 1000, 3000 };
    sim_random *r = &s->random;
    catalog_view v;
    memset(w, 0, sizeof *w);
    w->s = s;
    w->nth = nth;
    choose_question(w, &v);
    w->desc.query.wait_ms = one_of(r, waits, 6);
    v.wait_ms = wait_ms(w);
    w->view = model_add_view(s->m, &v);
    (void)snprintf(w->number, sizeof w->number, "%u", (unsigned)w->view % 100);
    w->param.key = "sim";
    w->param.value = w->number;
    w->desc.query.params = &w->param;
    w->desc.query.num_params = 1;
    w->desc.query.consistency = (sdc_consistency)sim_below(r, 3);
    w->desc.query.max_stale_ms = sim_chance(r, 20) ? 2 + sim_below(r, 4) : 0;
    w->desc.backoff_max_ms = one_of(r, caps, 5);
    w->desc.backoff_min_ms = sim_chance(r, 20) ? 200 : 0;
    w->desc.resync_ms = one_of(r, resyncs, 4);
    w->desc.quiet_min_ms = one_of(r, quiets, 6);
}

/* A read that is held by nobody any more ends by its deadline; then one pause, of up to the cap of
   the backoff (and an eighth more after Retry-After), and one good read, which a slowed bucket and
   connects to dead addresses may delay; then changes are shown. */
uint64_t watch_bound_ms(const watch *w)
{
    uint64_t wait = wait_ms(w);
    uint64_t request = w->s->client_desc.request_timeout_ms;
    uint64_t connects = (uint64_t)w->s->client_desc.connect_timeout_ms * w->s->num_agents;
    return wait + wait / 16 + 10000 + cap_ms(w) + cap_ms(w) / 8 + 2 * request + connects + 15000 +
           4 * (uint64_t)w->desc.quiet_min_ms + 2000;
}

/* ---- events ---------------------------------------------------------------------------------- */

/* True it must have been, or hidden by an ACL: twice in a row where instances were known. */
static bool is_empty_allowed(const watch *w)
{
    const catalog_view *v = model_view(w->s->m, w->view);
    uint64_t hidden_at_ms = w->good_num > 0 ? v->hidden_at_ms : v->hidden_once_at_ms;
    return v->num == 0 || v->empty_at_ms >= w->began_ms || hidden_at_ms >= w->began_ms;
}

static void check_list(const watch *w, const sdc_event *e, uint64_t hash)
{
    uint64_t now_ms = story_now(w->s);
    if (e->num_instances == 0 ? !is_empty_allowed(w)
                              : !catalog_view_held(model_view(w->s->m, w->view), hash)) {
        sim_fail(now_ms, "watch %u published %s of %zu instances that was never true",
                 (unsigned)w->nth, e->num_instances == 0 ? "an empty list" : "a list",
                 e->num_instances);
    }
    for (size_t i = 1; i < e->num_instances; i++) {
        if (strcmp(e->instances[i - 1].addr, e->instances[i].addr) > 0) {
            sim_fail(now_ms, "watch %u published an unsorted list", (unsigned)w->nth);
        }
    }
    if (!e->is_known || e->failing_since_ms != 0 || e->message[0] != '\0') {
        sim_fail(now_ms, "watch %u: a good event says known %d, failing since %llu, \"%s\"",
                 (unsigned)w->nth, e->is_known, (unsigned long long)e->failing_since_ms,
                 e->message);
    }
    if (model_view(w->s->m, w->view)->is_backwards && w->desc.quiet_min_ms == 0) {
        sim_fail(now_ms, "watch %u published an answer whose index went backwards",
                 (unsigned)w->nth);
    }
    if (w->has_event && w->err == SDC_OK && w->hash == hash && w->num == e->num_instances) {
        sim_fail(now_ms, "watch %u published what it had published before", (unsigned)w->nth);
    }
}

/* Failures keep the last good list. */
static void check_failure(const watch *w, const sdc_event *e, uint64_t hash)
{
    uint64_t now_ms = story_now(w->s);
    if (hash != w->good_hash || e->num_instances != w->good_num || e->is_known != w->is_known) {
        sim_fail(now_ms, "watch %u: an event with %s has another list than the last good one",
                 (unsigned)w->nth, test_err_name(e->err));
    }
    if (e->err == SDC_AGAIN ? w->has_event : e->failing_since_ms == 0 || e->message[0] == '\0') {
        sim_fail(now_ms, "watch %u: an event with %s, failing since %llu, \"%s\"",
                 (unsigned)w->nth, test_err_name(e->err), (unsigned long long)e->failing_since_ms,
                 e->message);
    }
}

static void check_change(const watch *w, const sdc_event *e, const sdc_change *c)
{
    size_t before = c->before != NULL ? c->before->num_instances : 0;
    bool is_sum = before + c->num_added - c->num_removed == e->num_instances;
    bool is_chained = c->before == NULL ? !w->has_event
                                        : w->has_event && sim_hash_event(c->before) == w->hash;
    if (!is_sum || !is_chained) {
        sim_fail(story_now(w->s), "watch %u: a change that does not lead from %zu to %zu",
                 (unsigned)w->nth, before, e->num_instances);
    }
}

/* Some events are kept beyond their watch: they must stay what they were. */
static void maybe_hold(story *s, const sdc_event *e, uint64_t hash)
{
    uint32_t slot = sim_below(&s->random, 40);
    if (slot < STORY_HELD && !s->is_ending) {
        sdc_event_release(s->held[slot]);
        s->held[slot] = sdc_event_retain(e);
        s->held_hash[slot] = hash;
    }
}

static void die_in_callback(watch *w)
{
    if (w->dies_at_event > 0 && --w->dies_at_event == 0 && !w->s->is_calm) {
        if (sim_chance(&w->s->random, 50)) {
            watch_stop(w);
        } else {
            watch_destroy(w);
        }
    }
}

static void on_event(void *user, const sdc_event *e, const sdc_change *change)
{
    watch *w = (watch *)user;
    uint64_t hash = sim_hash_event(e);
    uint64_t now_ms = story_now(w->s);
    sim_now.events++;
    sim_trace(now_ms, "watch %u: %s, %zu instances, +%zu -%zu ~%zu %s", (unsigned)w->nth,
              test_err_name(e->err), e->num_instances, change->num_added, change->num_removed,
              change->num_updated, e->message);
    if (!w->may_call) {
        sim_fail(now_ms, "watch %u: a callback after stop or destroy", (unsigned)w->nth);
        return;
    }
    check_change(w, e, change);
    if (e->err == SDC_OK) {
        check_list(w, e, hash);
        w->good_hash = hash;
        w->good_num = e->num_instances;
    } else {
        check_failure(w, e, hash);
    }
    w->has_event = true;
    w->err = e->err;
    w->hash = hash;
    w->num = e->num_instances;
    w->is_known = e->is_known;
    model_tell_filled(w->s->m, w->view, e->num_instances > 0);
    maybe_hold(w->s, e, hash);
    die_in_callback(w);
}

/* The second subscriber: not called any more when the first one has stopped the watch. */
static void on_event_too(void *user, const sdc_event *e, const sdc_change *change)
{
    const watch *w = (const watch *)user;
    if (!w->may_call) {
        sim_fail(story_now(w->s), "watch %u: a second callback after stop or destroy",
                 (unsigned)w->nth);
    } else if (e->num_instances != w->num || e->err != w->err ||
               (change->before == NULL && change->num_added != e->num_instances)) {
        sim_fail(story_now(w->s), "watch %u: the second subscriber hears of something else",
                 (unsigned)w->nth);
    }
}

/* All that stands between are the pause of a read that the bucket delays (of two where an answer
   may be too old, and then a slower bucket's), the agent's own delay, and the quiet that was asked
   for. */
uint32_t watch_react_ms(const watch *w)
{
    return w->desc.quiet_min_ms * 4 + (w->desc.query.max_stale_ms != 0 ? 3500 : 1000);
}

enum { BURST_MS = 4000 };

bool watch_is_true(const watch *w)
{
    const catalog_view *v = model_view(w->s->m, w->view);
    /* a burst of answers that tell nothing new slows the next read down a little */
    if (v->changed_at_ms + watch_react_ms(w) + BURST_MS > story_now(w->s)) {
        return true;
    }
    return w->has_event && w->err == SDC_OK && w->num == v->num && w->hash == v->hash;
}

void watch_check_state(watch *w)
{
    if (w->instancer == NULL || !w->has_event || w->is_stopping) {
        return;
    }
    const sdc_event *e = sdc_instancer_state(w->instancer);
    if (sim_hash_event(e) != w->hash || e->err != w->err) {
        sim_fail(story_now(w->s), "watch %u: the state is not the newest event",
                 (unsigned)w->nth);
    }
    sdc_event_release(e);
}

/* ---- life ------------------------------------------------------------------------------------ */

void watch_start(watch *w)
{
    sdc_error error;
    uint64_t now_ms = story_now(w->s);
    w->has_event = false;
    w->is_known = false;
    w->good_hash = sim_hash_empty();
    w->good_num = 0;
    w->is_stopping = false;
    w->is_stopped = false;
    w->began_ms = now_ms;
    w->credit_ms = READS_FREE * READ_EVERY_MS;
    w->credit_at_ms = now_ms;
    w->not_before_ms = 0;
    w->failing_since_ms = 0;
    w->dies_at_event = sim_chance(&w->s->random, 10) ? 1 + sim_below(&w->s->random, 30) : 0;
    memset(&w->seen, 0, sizeof w->seen);
    model_tell_filled(w->s->m, w->view, false);
    sdc_err err = sdc_instancer_create(w->s->client, &w->desc, &w->instancer, &error);
    if (err != SDC_OK) {
        if (err != SDC_ERR_NOMEM) {
            sim_fail(now_ms, "no watch: %s", error.message);
        }
        return;
    }
    w->task = sdc_instancer_task(w->instancer);
    w->may_call = true;
    model_forget_reads(w->s->m, w->view);
    if (sdc_instancer_subscribe(w->instancer, on_event, w) != SDC_OK ||
        sdc_instancer_subscribe(w->instancer, on_event_too, w) != SDC_OK) {
        watch_destroy(w);
    }
}

void watch_stop(watch *w)
{
    if (w->instancer == NULL || w->is_stopping) {
        return;
    }
    sim_trace(story_now(w->s), "watch %u is stopped", (unsigned)w->nth);
    w->is_stopping = true;
    w->may_call = false;
    w->stopped_ms = story_now(w->s);
    sdc_stop(w->task);
}

void watch_destroy(watch *w)
{
    if (w->instancer == NULL) {
        return;
    }
    sdc_instancer *gone = w->instancer;
    sim_trace(story_now(w->s), "watch %u is destroyed", (unsigned)w->nth);
    w->may_call = false;
    w->instancer = NULL;
    w->task = NULL;
    sdc_instancer_destroy(gone);
}

void watch_on_result(watch *w, sdc_err result)
{
    uint64_t now_ms = story_now(w->s);
    if (result == SDC_STOPPED) {
        if (!w->is_stopping || (!w->is_stopped && now_ms > w->stopped_ms)) {
            sim_fail(now_ms, "watch %u: stopped %llu ms after it was asked to",
                     (unsigned)w->nth, (unsigned long long)(now_ms - w->stopped_ms));
        }
        w->is_stopped = true;
    } else if (w->is_stopped) {
        sim_fail(now_ms, "watch %u: %s after SDC_STOPPED", (unsigned)w->nth,
                 test_err_name(result));
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void spend(watch *w, uint64_t now_ms)
{
    uint64_t most = READS_FREE * READ_EVERY_MS;
    w->credit_ms += now_ms - w->credit_at_ms;
    w->credit_ms = w->credit_ms < most ? w->credit_ms : most;
    w->credit_at_ms = now_ms;
    if (w->credit_ms < READ_EVERY_MS) {
        sim_fail(now_ms, "watch %u asks too often: 3 reads are free, then one comes each 500 ms",
                 (unsigned)w->nth);
    }
    w->credit_ms -= w->credit_ms < READ_EVERY_MS ? w->credit_ms : READ_EVERY_MS;
    if (now_ms < w->not_before_ms) {
        sim_fail(now_ms, "watch %u asks again %llu ms too early after a refusal",
                 (unsigned)w->nth, (unsigned long long)(w->not_before_ms - now_ms));
    }
}

/* A failure of a certain kind forbids the next read for a while; where there are several agents
   another one is asked. */
static void note_failure(watch *w, uint64_t now_ms)
{
    sdc_error error;
    sdc_task_error(w->task, &error);
    model_expect_no_index(w->s->m, w->view);
    bool is_slow = error.code == SDC_ERR_DENIED || error.code == SDC_ERR_BUSY;
    uint32_t told_ms = model_take_retry_after(w->s->m, w->view);
    uint32_t asked_ms = error.http_status == 429 ? told_ms : 0;
    uint32_t pause_ms = asked_ms > SLOW_RETRY_MS ? asked_ms : SLOW_RETRY_MS;
    if (is_slow && w->s->num_agents == 1) {
        w->not_before_ms = now_ms + (cap_ms(w) < pause_ms ? cap_ms(w) : pause_ms);
    }
}

/* The pauses are drawn evenly up to a span that doubles to the cap: that so many failures take so
   little time has a chance of less than one in a million million. */
static void check_backoff(watch *w, const sdc_stats *now, uint64_t now_ms)
{
    if (now->consecutive_failures == 0) {
        w->failing_since_ms = 0;
        return;
    }
    w->failing_since_ms = w->failing_since_ms != 0 ? w->failing_since_ms : now_ms;
    uint64_t most = 40 + 8 * (now_ms - w->failing_since_ms) / cap_ms(w);
    if (now->consecutive_failures > most * w->s->num_agents) {
        sim_fail(now_ms, "watch %u: %u failures in a row within %llu ms", (unsigned)w->nth,
                 (unsigned)now->consecutive_failures,
                 (unsigned long long)(now_ms - w->failing_since_ms));
    }
}

void watch_look(watch *w)
{
    sdc_stats now;
    if (w->instancer == NULL || w->is_stopped) {
        return;
    }
    uint64_t now_ms = story_now(w->s);
    sdc_task_stats(w->task, &now);
    for (uint64_t n = w->seen.requests; n < now.requests; n++) {
        spend(w, now_ms);
    }
    if (now.failures > w->seen.failures) {
        note_failure(w, now_ms);
    }
    check_backoff(w, &now, now_ms);
    w->seen = now;
}
