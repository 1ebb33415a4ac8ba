/* What must hold of a registrar all the while, whatever goes on elsewhere: how often it tells the
   status of a check, that a TTL does not lapse at an agent that is well, that a service is
   somewhere as long as an agent takes it, and that what a well agent has of it is right. */
#include "story_in.h"

#include <stdio.h>
#include <string.h>

enum { CHANGE_MS = 100, REFUSED_MS = 1000, PAUSE_MAX_MS = 34000, SLACK_MS = 5000,
       HOME_MS = 375000 };

static uint64_t exchange_ms(const keeper *k)
{
    const sdc_client_desc *c = &k->s->client_desc;
    return c->request_timeout_ms + (uint64_t)c->connect_timeout_ms;
}

/* A beat or a look that finds out, the longest pause, and two rounds of agents that do not answer:
   one that was begun before and one behind the pause. */
uint64_t upkeep_bound_ms(const keeper *k)
{
    return k->most_every_ms + PAUSE_MAX_MS + 2 * exchange_ms(k) * k->s->num_agents + SLACK_MS;
}

/* Beats and looks come to the base. */
static bool is_upkept(const keeper *k)
{
    return k->base_at_ms != 0 &&
           k->kept_at_ms + 2 * (uint64_t)k->most_every_ms + SLACK_MS >= story_now(k->s);
}

/* One that refuses the heartbeats of what it may have reaped long ago is held on to until the next
   look at the first agent. */
static uint64_t absence_bound_ms(const keeper *k)
{
    bool is_held_on_to = k->base != 0 && is_upkept(k);
    return upkeep_bound_ms(k) + (is_held_on_to ? HOME_MS : 0);
}

/* True: all of this has been so for `ms`. */
static bool is_since(const keeper *k, uint64_t since_ms, uint64_t ms)
{
    return since_ms + ms <= story_now(k->s);
}

static bool is_undisturbed(const keeper *k, uint64_t ms)
{
    return k->registrar != NULL && !k->is_stopping && k->is_wanted && story_is_able(k->s) &&
           is_since(k, k->s->touched_at_ms, ms) && is_since(k, k->called_at_ms, ms);
}

static bool is_well(const keeper *k, uint32_t agent, uint64_t ms)
{
    return is_since(k, model_well_since(k->s->m, agent), ms);
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* The TTL checks have numbers of their own. -1: it is not one of them. */
static int check_nth(const keeper *k, const char *id)
{
    char own[80];
    int nth = 0;
    for (size_t i = 0; i < k->desc.registration.num_checks; i++) {
        keeper_check_id(k, i, own, sizeof own);
        if (k->checks[i].ttl_ms != 0) {
            if (strcmp(own, id) == 0) {
                return nth;
            }
            nth++;
        }
    }
    return -1;
}

static uint32_t ttl_of(const keeper *k, int nth)
{
    for (size_t i = 0; i < k->desc.registration.num_checks; i++) {
        if (k->checks[i].ttl_ms != 0 && nth-- == 0) {
            return k->checks[i].ttl_ms;
        }
    }
    return 0;
}

static uint32_t every_of(const keeper *k, int nth)
{
    return k->desc.heartbeat_ms != 0 ? k->desc.heartbeat_ms : ttl_of(k, nth) / 3;
}

static uint64_t hash_of(const char *bytes, size_t len)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ (unsigned char)bytes[i]) * 1099511628211u;
    }
    return hash;
}

/* After a registration, a call and a silence the next beat may come at once. Otherwise it comes at
   its time, or because the program has said something else, and then 100 ms after the one before;
   and never in the pause that a refusal is worth. */
static void check_beat(const keeper *k, int nth, const keeper_told *t, uint64_t hash)
{
    uint64_t now_ms = k->asked_at_ms;
    uint64_t gap_ms = now_ms - t->asked_ms;
    if (!t->is_known || t->is_free || k->s->resolver_blocks) {
        return;
    }
    if (now_ms < t->not_before_ms) {
        sim_fail(now_ms, "registrar %u: a beat %llu ms too early after a refusal",
                 (unsigned)k->nth, (unsigned long long)(t->not_before_ms - now_ms));
    } else if (t->not_before_ms > t->asked_ms) {
        return;                     /* a retry, at its own pace                                 */
    } else if (gap_ms < CHANGE_MS) {
        sim_fail(now_ms, "registrar %u: two beats of a check within %llu ms", (unsigned)k->nth,
                 (unsigned long long)gap_ms);
    } else if (hash == t->hash && t->changed_ms < t->asked_ms &&
               gap_ms < every_of(k, nth) - every_of(k, nth) / 10) {
        sim_fail(now_ms, "registrar %u: the same status again after %llu ms", (unsigned)k->nth,
                 (unsigned long long)gap_ms);
    }
}

static void on_beat(keeper *k, uint32_t agent, int nth, uint64_t hash)
{
    keeper_told *t = &k->told[nth];
    bool is_again = t->is_known && t->request == k->seen.requests;
    if (!is_again) {                /* the same request on another connection is no other beat  */
        check_beat(k, nth, t, hash);
    }
    t->is_known = true;
    t->is_free = false;
    t->hash = hash;
    t->asked_ms = k->asked_at_ms;
    t->not_before_ms = 0;
    t->request = k->seen.requests;
    t->agent = agent;
    k->beating = nth;
}

/* As long as its beats go to an agent and nothing is wrong there or here, none of them is late. */
static void on_lapse(const keeper *k, uint32_t agent, int nth)
{
    const keeper_told *t = &k->told[nth];
    uint64_t ms = ttl_of(k, nth) + exchange_ms(k) + SLACK_MS;
    bool is_held = t->is_known && t->agent == agent && k->desc.status_expires_ms == 0;
    if (is_held && is_undisturbed(k, ms) && is_well(k, agent, ms)) {
        sim_fail(story_now(k->s), "registrar %u: a TTL has lapsed at agent %u, which is well",
                 (unsigned)k->nth, (unsigned)agent);
    }
}

static void free_beats(keeper *k)
{
    for (uint32_t i = 0; i < KEEPER_CHECKS; i++) {
        k->told[i].is_free = true;
    }
}

void upkeep_on_news(keeper *k, model_news what, uint32_t agent, const char *id, const char *body,
                    size_t len)
{
    if (k->registrar == NULL) {
        return;
    }
    bool is_own = strcmp(id, sdc_registrar_id(k->registrar)) == 0;
    int nth = what == NEWS_BEAT || what == NEWS_LAPSE ? check_nth(k, id) : -1;
    if (what == NEWS_LAPSE && nth >= 0) {
        on_lapse(k, agent, nth);
    } else if (what == NEWS_DEREGISTER && is_own) {
        free_beats(k);
    } else if (nth >= 0 || (what == NEWS_LOOK && is_own)) {
        k->base_at_ms = k->base == agent && k->base_at_ms != 0 ? k->base_at_ms : story_now(k->s);
        k->base = agent;
        k->kept_at_ms = story_now(k->s);
    }
    if (what == NEWS_BEAT && nth >= 0) {
        on_beat(k, agent, nth, hash_of(body, len));
    }
}

void upkeep_called(keeper *k)
{
    k->called_at_ms = story_now(k->s);
    free_beats(k);
}

/* What a step has ended and begun. */
void upkeep_look(keeper *k, const sdc_stats *now)
{
    sdc_error error;
    if (now->failures > k->seen.failures && k->beating >= 0) {
        keeper_told *t = &k->told[k->beating];
        uint32_t half_ms = k->least_every_ms / 2;
        uint32_t least_ms = half_ms > CHANGE_MS ? half_ms : CHANGE_MS;
        sdc_task_error(k->task, &error);
        t->not_before_ms = story_now(k->s) + (least_ms < REFUSED_MS ? least_ms : REFUSED_MS);
        t->is_free = error.code != SDC_ERR_STATUS && error.code != SDC_ERR_DENIED &&
                     error.code != SDC_ERR_BUSY;
    }
    if (now->registrations > k->seen.registrations) {
        free_beats(k);
    }
    if (now->requests > k->seen.requests) {
        k->asked_at_ms = story_now(k->s);
        k->beating = -1;
    }
}

/* ---- presence and content -------------------------------------------------------------------- */

static bool is_present(const keeper *k)
{
    for (uint32_t i = 0; i < k->s->num_agents; i++) {
        if (model_is_up(k->s->m, i) &&
            model_find(k->s->m, i, sdc_registrar_id(k->registrar)) != NULL) {
            return true;
        }
    }
    return false;
}

/* What the first agent refuses is tried again there, so that one must be well; or away, and then
   any other one is good enough. */
static bool may_be_present(const keeper *k, uint64_t ms)
{
    if (is_well(k, 0, ms)) {
        return true;
    }
    bool is_away = k->s->away_since_ms != 0 && is_since(k, k->s->away_since_ms, ms);
    for (uint32_t i = 1; i < k->s->num_agents && is_away; i++) {
        if (is_well(k, i, ms)) {
            return true;
        }
    }
    return false;
}

void upkeep_check(keeper *k)
{
    uint64_t now_ms = story_now(k->s);
    uint64_t ms = absence_bound_ms(k);
    if (k->registrar == NULL || k->is_stopping || !k->is_wanted || is_present(k)) {
        k->absent_since_ms = 0;
        return;
    }
    k->absent_since_ms = k->absent_since_ms != 0 ? k->absent_since_ms : now_ms;
    if (is_since(k, k->absent_since_ms, ms) && is_undisturbed(k, ms) && may_be_present(k, ms)) {
        sim_fail(now_ms, "registrar %u: nowhere for %llu ms, though an agent would take it",
                 (unsigned)k->nth, (unsigned long long)(now_ms - k->absent_since_ms));
    }
}

/* What the program says is critical may be reaped at any time, and is then on its way back. */
static bool may_be_reaped(const keeper *k)
{
    for (uint32_t i = 0; i < k->num_ttl; i++) {
        if (k->status[i] == SDC_STATUS_CRITICAL) {
            return true;
        }
    }
    return false;
}

void upkeep_check_content(const keeper *k)
{
    uint64_t ms = upkeep_bound_ms(k);
    bool is_kept = is_upkept(k) && is_since(k, k->base_at_ms, ms) &&
                   is_since(k, k->wanted_at_ms, ms) && k->desc.status_expires_ms == 0;
    if (!is_kept || may_be_reaped(k) || !is_undisturbed(k, ms) || !is_well(k, k->base, ms)) {
        return;
    }
    const char *wrong = keeper_wrong_at(k, k->base);
    if (wrong != NULL) {
        sim_fail(story_now(k->s), "registrar %u at agent %u, which is well: %s", (unsigned)k->nth,
                 (unsigned)k->base, wrong);
    }
}
