/* One registrar of a story: its options, what is wanted of it, and what must hold. */
#include "story_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUEST = 1000 };            /* of credit                                                */

/* ---- options --------------------------------------------------------------------------------- */

static void add_check(keeper *k, bool is_ttl)
{
    static const uint32_t ttls[] = { 10000, 15000, 30000, 30000, 60000, 60000, 90000, 3000 };
    sim_random *r = &k->s->random;
    sdc_check *c = &k->checks[k->desc.registration.num_checks++];
    if (is_ttl) {
        uint32_t nth = k->num_ttl++;
        c->ttl_ms = ttls[sim_below(r, sim_chance(r, 20) ? 8 : 7)];
        c->status = sim_chance(r, 30) ? SDC_STATUS_WARNING : SDC_STATUS_UNSET;
        c->deregister_critical_after_ms = sim_chance(r, 20) ? 60000 : sim_chance(r, 10) ? SDC_NEVER
                                                                                      : 0;
        k->status[nth] = c->status != SDC_STATUS_UNSET ? c->status : SDC_STATUS_PASSING;
    } else {
        c->http = "http://127.0.0.1:8000/health";
        c->status = SDC_STATUS_PASSING;
    }
    if (sim_chance(r, 30)) {
        uint32_t nth = (uint32_t)k->desc.registration.num_checks;
        (void)snprintf(k->check_ids[nth - 1], sizeof k->check_ids[0], "check %u/%u",
                       (unsigned)k->nth, (unsigned)nth);
        c->id = k->check_ids[nth - 1];
    }
}

static void choose_tags(keeper *k)
{
    sdc_registration *reg = &k->desc.registration;
    k->tags = (uint32_t)sim_next(&k->s->random) & ((1u << CATALOG_TAGS) - 1);
    reg->num_tags = 0;
    for (uint32_t t = 0; t < CATALOG_TAGS; t++) {
        if ((k->tags >> t & 1) != 0) {
            k->tag_list[reg->num_tags++] = catalog_tags[t];
        }
    }
    reg->tags = k->tag_list;
}

static void choose_text(keeper *k)
{
    sim_random *r = &k->s->random;
    sdc_registration *reg = &k->desc.registration;
    choose_tags(k);
    reg->num_meta = 0;
    if (sim_chance(r, 50)) {
        (void)snprintf(k->version, sizeof k->version, "%u", 1 + (unsigned)sim_below(r, 9));
        k->meta[0].key = "version";
        k->meta[0].value = k->version;
        k->meta[1].key = "odd";
        k->meta[1].value = "<a&b>";
        reg->meta = k->meta;
        reg->num_meta = 2;
    }
    reg->weight_passing = 0;
    reg->weight_warning = 0;
    if (sim_chance(r, 40)) {
        reg->weight_passing = 1 + sim_below(r, 9);
        reg->weight_warning = 1 + sim_below(r, 9);
    }
}

static void choose_id(keeper *k)
{
    if (sim_chance(&k->s->random, 50)) {
        (void)snprintf(k->id, sizeof k->id, "me %u", (unsigned)k->nth);
        k->desc.registration.id = k->id;
    }
}

static void sum_up(keeper *k)
{
    k->least_every_ms = 60000;
    for (size_t i = 0; i < k->desc.registration.num_checks; i++) {
        uint32_t ttl_ms = k->checks[i].ttl_ms;
        uint32_t every_ms = k->desc.heartbeat_ms != 0 ? k->desc.heartbeat_ms : ttl_ms / 3;
        if (ttl_ms != 0) {
            k->least_every_ms = every_ms < k->least_every_ms ? every_ms : k->least_every_ms;
            k->most_every_ms = every_ms > k->most_every_ms ? every_ms : k->most_every_ms;
        }
    }
    if (k->num_ttl == 0) {
        k->most_every_ms = k->desc.verify_ms != 0 ? k->desc.verify_ms : 30000;
        k->least_every_ms = k->most_every_ms;
    }
}

void keeper_init(keeper *k, story *s, uint32_t nth)
{
    sim_random *r = &s->random;
    memset(k, 0, sizeof *k);
    k->s = s;
    k->nth = nth;
    k->service = 4 + nth;
    sdc_registration *reg = &k->desc.registration;
    reg->name = catalog_service_name(k->service);
    reg->address = nth == 0 ? "10.2.0.1" : "2001:db8::7";
    reg->port = (uint16_t)(7000 + nth);
    reg->checks = k->checks;
    choose_text(k);
    choose_id(k);
    uint32_t kind = sim_below(r, 10);
    for (uint32_t i = kind < 6 ? 1 : kind < 8 ? 2 : 0; i > 0; i--) {
        add_check(k, true);
    }
    if (sim_chance(r, 30)) {
        add_check(k, false);
    }
    k->desc.verify_ms = sim_chance(r, 50) ? sim_between(r, 2000, 40000) : 0;
    k->desc.stop_timeout_ms = sim_chance(r, 30) ? sim_between(r, 200, 3000) : 0;
    k->desc.keep_on_stop = sim_chance(r, 15);
    if (k->num_ttl > 0 && sim_chance(r, 15)) {
        k->desc.status_expires_ms = sim_span(r, 20000, 600000);
        for (uint32_t i = 0; i < KEEPER_CHECKS; i++) {
            k->checks[i].deregister_critical_after_ms = 0;
        }
    }
    reg->enable_tag_override = sim_chance(r, 10);
    sum_up(k);
}

/* An exchange that nobody answers, the longest pause of the failure behind it (and of one more job
   that had to be done before), then the next beat or look. */
uint64_t keeper_bound_ms(const keeper *k)
{
    const sdc_client_desc *c = &k->s->client_desc;
    uint64_t exchange = c->request_timeout_ms + (uint64_t)c->connect_timeout_ms;
    return k->most_every_ms + 2 * (30000 + exchange) * k->s->num_agents + 10000;
}

/* ---- what is wanted -------------------------------------------------------------------------- */

static bool may_have_lapsed(const keeper *k)
{
    uint32_t ms = k->desc.status_expires_ms;
    return ms != 0 && story_now(k->s) >= k->set_at_ms + ms;
}

/* A registration that the agent takes anew begins with a TTL of its own, so all must have been well
   for so long too. */
static bool has_lapsed(const keeper *k, uint32_t ttl_ms)
{
    uint64_t now_ms = story_now(k->s);
    return may_have_lapsed(k) &&
           now_ms >= k->set_at_ms + k->desc.status_expires_ms + ttl_ms + 1000 &&
           now_ms >= k->s->calm_at_ms + keeper_bound_ms(k) + ttl_ms + 1000;
}

/* The checks of a registration in the order of the agent's; only those with a TTL are ours. */
static const char *wrong_checks(const keeper *k, const model_local *l)
{
    uint32_t nth_ttl = 0;
    if (l->num_checks != k->desc.registration.num_checks) {
        return "other checks";
    }
    for (uint32_t i = 0; i < l->num_checks; i++) {
        if (k->checks[i].ttl_ms == 0) {
            continue;
        }
        if (l->checks[i].ttl_ms != k->checks[i].ttl_ms) {
            return "another TTL";
        }
        if (has_lapsed(k, k->checks[i].ttl_ms)) {
            nth_ttl++;
            if (l->checks[i].status != SDC_STATUS_CRITICAL) {
                return "a status that has expired still counts";
            }
            continue;
        }
        if (may_have_lapsed(k)) {
            nth_ttl++;
            continue;
        }
        if (l->checks[i].status != k->status[nth_ttl]) {
            return "another status than was set last";
        }
        if (strcmp(l->checks[i].output, k->output[nth_ttl]) != 0) {
            return "another output than was set last";
        }
        nth_ttl++;
    }
    return NULL;
}

static const char *wrong_local(const keeper *k, const model_local *l)
{
    const sdc_registration *reg = &k->desc.registration;
    if (l->service != k->service || strcmp(l->address, reg->address) != 0 ||
        l->port != reg->port) {
        return "another address";
    }
    uint32_t version = reg->num_meta > 0 ? (uint32_t)strtoul(k->version, NULL, 10) : 0;
    if (l->tags != k->tags || l->weight_passing != reg->weight_passing ||
        l->weight_warning != reg->weight_warning || l->version != version) {
        return "other tags, weights or meta";
    }
    if (l->is_in_maintenance != k->in_maintenance) {
        return "another maintenance mode than was set last";
    }
    return wrong_checks(k, l);
}

const char *keeper_wrong_at(const keeper *k, uint32_t agent)
{
    const model_local *l = model_find(k->s->m, agent, sdc_registrar_id(k->registrar));
    return l != NULL ? wrong_local(k, l) : "it is not there";
}

/* As the library makes them where the program gives none. */
void keeper_check_id(const keeper *k, size_t nth, char *out, size_t max)
{
    const char *id = sdc_registrar_id(k->registrar);
    if (k->checks[nth].id != NULL) {
        (void)snprintf(out, max, "%s", k->checks[nth].id);
    } else if (k->desc.registration.num_checks == 1) {
        (void)snprintf(out, max, "service:%s", id);
    } else {
        (void)snprintf(out, max, "service:%s:%u", id, (unsigned)nth + 1);
    }
}

const char *keeper_wrong(const keeper *k)
{
    const char *worst = "it is nowhere";
    for (uint32_t i = 0; i < k->s->num_agents; i++) {
        const model_local *l = model_is_up(k->s->m, i)
                                   ? model_find(k->s->m, i, sdc_registrar_id(k->registrar)) : NULL;
        const char *wrong = l != NULL ? wrong_local(k, l) : worst;
        if (wrong == NULL) {
            return NULL;
        }
        worst = l != NULL ? wrong : worst;
    }
    return worst;
}

bool keeper_is_anywhere(const keeper *k)
{
    for (uint32_t i = 0; i < k->s->num_agents; i++) {
        bool is_orphan = (k->orphans >> i & 1) != 0 && !k->desc.keep_on_stop;
        if (!is_orphan &&
            model_find(k->s->m, i, sdc_registrar_id(k->registrar)) != NULL) {
            return true;
        }
    }
    return false;
}

bool keeper_is_home(const keeper *k)
{
    for (uint32_t i = 0; i < k->s->num_agents; i++) {
        bool is_here = model_find(k->s->m, i, sdc_registrar_id(k->registrar)) != NULL;
        if (i == 0 ? !is_here : is_here && (k->orphans >> i & 1) == 0) {
            return false;
        }
    }
    return true;
}

static void grant(keeper *k, uint64_t num)
{
    k->credit += num * REQUEST;
}

static void say(const keeper *k, const char *check_id, sdc_status status, const char *output)
{
    sdc_err err = sdc_registrar_set_status(k->registrar, check_id, status, output);
    if (err == SDC_ERR_NOMEM) {
        /* which of them got it is not known: set again, and so on until it works */
        fault_alloc_fail(&k->s->memory, 0, false);
        err = sdc_registrar_set_status(k->registrar, check_id, status, output);
    }
    if (err != SDC_OK) {
        sim_fail(story_now(k->s), "set_status: %s", test_err_name(err));
    }
}

static void note_status(keeper *k, sdc_status status, const char *output)
{
    uint64_t now_ms = story_now(k->s);
    for (uint32_t i = 0; i < k->num_ttl; i++) {
        if (k->status[i] != status || strcmp(k->output[i], output) != 0 || may_have_lapsed(k)) {
            k->told[i].changed_ms = now_ms;
            k->wanted_at_ms = now_ms;
        }
        k->status[i] = status;
        (void)snprintf(k->output[i], sizeof k->output[i], "%s", output);
    }
    k->set_at_ms = now_ms;
}

static void set_status(keeper *k, sdc_status status)
{
    char output[24];
    (void)snprintf(output, sizeof output, "note \"%u\"", (unsigned)sim_below(&k->s->random, 1000));
    say(k, NULL, status, output);
    note_status(k, status, output);
    sim_trace(story_now(k->s), "registrar %u: %s, %s", (unsigned)k->nth, sdc_status_str(status),
              output);
}

/* The same as before, of each check. */
static void say_again(keeper *k)
{
    char id[80];
    uint32_t nth_ttl = 0;
    bool was_late = may_have_lapsed(k);
    for (size_t i = 0; i < k->desc.registration.num_checks; i++) {
        if (k->checks[i].ttl_ms != 0) {
            keeper_check_id(k, i, id, sizeof id);
            say(k, id, k->status[nth_ttl], k->output[nth_ttl]);
            k->told[nth_ttl].changed_ms = was_late ? story_now(k->s)
                                                   : k->told[nth_ttl].changed_ms;
            nth_ttl++;
        }
    }
    k->wanted_at_ms = was_late ? story_now(k->s) : k->wanted_at_ms;
    k->set_at_ms = story_now(k->s);
}

/* What changes all the time is worth a request each 100 ms, and what stays the same none. */
static void talk(void *user)
{
    keeper *k = (keeper *)user;
    uint64_t now_ms = story_now(k->s);
    k->is_talking = false;
    if (k->registrar == NULL || k->is_stopping || k->s->is_calm || now_ms >= k->talks_until_ms) {
        return;
    }
    if (k->talk_changes) {
        uint64_t before = k->credit;
        set_status(k, (sdc_status)(1 + sim_below(&k->s->random, 3)));
        uint64_t worth_ms = k->talks_every_ms < 100 ? k->talks_every_ms : 100;
        bool is_heard = k->seen.consecutive_failures == 0;
        k->credit = before + (is_heard ? worth_ms * k->num_ttl * REQUEST / 100 : 0);
    } else {
        say_again(k);
    }
    k->is_talking = true;
    world_after(k->s->w, k->talks_every_ms, talk, k);
}

static void begin_to_talk(keeper *k)
{
    sim_random *r = &k->s->random;
    if (k->is_talking) {
        return;
    }
    k->talk_changes = sim_chance(r, 50);
    k->talks_every_ms = sim_between(r, 20, 200);
    k->talks_until_ms = story_now(k->s) + sim_span(r, 500, k->talk_changes ? 3000 : 8000);
    sim_trace(story_now(k->s), "registrar %u talks every %u ms, %s", (unsigned)k->nth,
              (unsigned)k->talks_every_ms, k->talk_changes ? "always something else" : "the same");
    talk(k);
}

/* Other tags, meta and weights. */
static void update(keeper *k)
{
    sdc_error error;
    keeper before = *k;
    choose_text(k);
    sdc_err err = sdc_registrar_update(k->registrar, &k->desc.registration, &error);
    if (err == SDC_OK) {
        grant(k, 2 + k->num_ttl);
        k->wanted_at_ms = story_now(k->s);
        sim_trace(story_now(k->s), "registrar %u: update", (unsigned)k->nth);
        return;
    }
    if (err != SDC_ERR_NOMEM) {
        sim_fail(story_now(k->s), "update: %s", error.message);
    }
    k->desc = before.desc;
    k->tags = before.tags;
    memcpy(k->tag_list, before.tag_list, sizeof k->tag_list);
    memcpy(k->version, before.version, sizeof k->version);
}

/* While a registrar is at rest: what happens in the moment between a registration and the first
   look at it nobody can tell from the registration. A change shows where the service is looked at,
   which is where no heartbeats are. */
void keeper_meddle(keeper *k)
{
    bool has_changes = k->num_ttl == 0 && !k->desc.registration.enable_tag_override;
    bool is_at_rest = k->seen.consecutive_failures == 0 &&
                      sdc_registrar_is_registered(k->registrar) && keeper_wrong(k) == NULL;
    if (is_at_rest) {
        grant(k, 3 + k->num_ttl);
        k->wanted_at_ms = story_now(k->s);
        model_meddle(k->s->m, sdc_registrar_id(k->registrar),
                     !has_changes || sim_chance(&k->s->random, 50));
    }
}

void keeper_act(keeper *k)
{
    if (k->registrar == NULL || k->is_stopping) {
        return;
    }
    uint32_t what = sim_below(&k->s->random, 100);
    if (what < 15) {
        update(k);
        return;
    }
    if (what < 25 && model_is_clear(k->s->m)) {
        keeper_meddle(k);
        return;
    }
    if (k->num_ttl > 0 && what < 35) {
        begin_to_talk(k);
        return;
    }
    if (k->num_ttl > 0 && what < 85) {
        set_status(k, (sdc_status)(1 + sim_below(&k->s->random, 3)));
        return;
    }
    bool on = !k->in_maintenance;
    sdc_err err = sdc_registrar_set_maintenance(k->registrar, on, "deploy & test");
    if (err == SDC_OK) {
        k->in_maintenance = on;
        k->wanted_at_ms = story_now(k->s);
        grant(k, 1);
        sim_trace(story_now(k->s), "registrar %u: maintenance %d", (unsigned)k->nth, on);
    } else if (err != SDC_ERR_NOMEM) {
        sim_fail(story_now(k->s), "set_maintenance: %s", test_err_name(err));
    }
}

void keeper_heal(keeper *k)
{
    for (uint32_t i = 0; i < k->num_ttl; i++) {
        if (k->status[i] == SDC_STATUS_CRITICAL && k->registrar != NULL && !k->is_stopping) {
            set_status(k, SDC_STATUS_PASSING);
            return;
        }
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static uint32_t num_jobs(const keeper *k)
{
    return k->num_ttl + 3;
}

void keeper_start(keeper *k)
{
    sdc_error error;
    uint64_t now_ms = story_now(k->s);
    uint32_t nth_ttl = 0;
    k->is_stopping = false;
    k->is_stopped = false;
    k->in_maintenance = false;
    k->credit = 0;
    k->credit_at_ms = now_ms;
    k->failing_since_ms = 0;
    memset(&k->seen, 0, sizeof k->seen);
    for (size_t i = 0; i < k->desc.registration.num_checks; i++) {
        const sdc_check *c = &k->checks[i];
        if (c->ttl_ms != 0) {
            k->status[nth_ttl] = c->status != SDC_STATUS_UNSET ? c->status : SDC_STATUS_PASSING;
            k->output[nth_ttl++][0] = '\0';
        }
    }
    k->set_at_ms = now_ms;
    memset(k->told, 0, sizeof k->told);
    k->beating = -1;
    k->base_at_ms = 0;
    k->wanted_at_ms = now_ms;
    k->called_at_ms = now_ms;
    k->absent_since_ms = 0;
    k->is_wanted = true;
    k->forgotten = model_num_forgotten(k->s->m);
    sdc_err err = sdc_registrar_create(k->s->client, &k->desc, &k->registrar, &error);
    if (err == SDC_OK) {
        k->task = sdc_registrar_task(k->registrar);
    } else if (err != SDC_ERR_NOMEM) {
        sim_fail(now_ms, "no registrar: %s", error.message);
    }
}

/* What was under way is dropped, and asked again at each agent. */
void keeper_before_call(keeper *k)
{
    grant(k, 1 + 2 * (k->s->num_agents + k->num_ttl));
    k->wanted_at_ms = story_now(k->s);
    upkeep_called(k);
}

void keeper_stop(keeper *k)
{
    if (k->registrar == NULL || k->is_stopping) {
        return;
    }
    sim_trace(story_now(k->s), "registrar %u is stopped", (unsigned)k->nth);
    k->is_stopping = true;
    k->stopped_ms = story_now(k->s);
    sdc_stop(k->task);
}

void keeper_destroy(keeper *k)
{
    for (uint32_t i = 0; k->registrar != NULL && i < k->s->num_agents; i++) {
        if (model_find(k->s->m, i, sdc_registrar_id(k->registrar)) != NULL) {
            k->orphans |= 1u << i;
        }
    }
    sdc_registrar_destroy(k->registrar);
    k->registrar = NULL;
    k->task = NULL;
}

void keeper_on_result(keeper *k, sdc_err result)
{
    uint64_t now_ms = story_now(k->s);
    uint64_t most_ms = k->desc.stop_timeout_ms != 0 ? k->desc.stop_timeout_ms : 2000;
    if (result == SDC_STOPPED) {
        if (!k->is_stopping || (!k->is_stopped && now_ms > k->stopped_ms + most_ms)) {
            sim_fail(now_ms, "registrar %u: stopped %llu ms after it was asked to",
                     (unsigned)k->nth, (unsigned long long)(now_ms - k->stopped_ms));
        }
        k->took_ms = k->is_stopped ? k->took_ms : now_ms - k->stopped_ms;
        k->is_stopped = true;
    } else if (k->is_stopped) {
        sim_fail(now_ms, "registrar %u: %s after SDC_STOPPED", (unsigned)k->nth,
                 test_err_name(result));
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

/* The longest pause of the job that is retried fastest. */
static uint64_t cap_ms(const keeper *k)
{
    uint64_t half = k->least_every_ms / 2 > 100 ? k->least_every_ms / 2 : 100;
    return half < 30000 ? half : 30000;
}

/* Beats and looks at their own rate; eight retries of each job in its longest pause, as the backoff
   would need uncommon luck for; more where the agent has forgotten something. */
static void refill(keeper *k, uint64_t now_ms)
{
    uint64_t most = (40 + 12 * (uint64_t)num_jobs(k)) * REQUEST * k->s->num_agents;
    uint64_t span_ms = now_ms - k->credit_at_ms;
    uint64_t forgotten = model_num_forgotten(k->s->m);
    k->credit += span_ms * REQUEST * num_jobs(k) * 10 / (9 * (uint64_t)k->least_every_ms);
    k->credit += span_ms * REQUEST * num_jobs(k) * 8 / cap_ms(k) * k->s->num_agents;
    k->credit_at_ms = now_ms;
    k->credit = k->credit < most ? k->credit : most;
    grant(k, (forgotten - k->forgotten) * (1 + k->num_ttl + 1));
    k->forgotten = forgotten;
}

static void check_backoff(keeper *k, const sdc_stats *now, uint64_t now_ms)
{
    if (now->consecutive_failures == 0) {
        k->failing_since_ms = 0;
        return;
    }
    k->failing_since_ms = k->failing_since_ms != 0 ? k->failing_since_ms : now_ms;
    uint64_t most = 40 + 8 * (now_ms - k->failing_since_ms) / cap_ms(k);
    if (now->consecutive_failures > most * num_jobs(k) * k->s->num_agents) {
        sim_fail(now_ms, "registrar %u: %u failures in a row within %llu ms", (unsigned)k->nth,
                 (unsigned)now->consecutive_failures,
                 (unsigned long long)(now_ms - k->failing_since_ms));
    }
}

void keeper_look(keeper *k)
{
    sdc_stats now;
    if (k->registrar == NULL || k->is_stopped) {
        return;
    }
    uint64_t now_ms = story_now(k->s);
    sdc_task_stats(k->task, &now);
    if (k->seen.requests == 0 && now.requests > 0) {
        grant(k, 20 + 4 * num_jobs(k));
    }
    if (now.requests > k->seen.requests) {
        refill(k, now_ms);
    }
    for (uint64_t n = k->seen.requests; n < now.requests; n++) {
        if (k->credit < REQUEST) {
            sim_fail(now_ms, "registrar %u asks too often", (unsigned)k->nth);
        }
        k->credit -= k->credit < REQUEST ? k->credit : REQUEST;
    }
    check_backoff(k, &now, now_ms);
    upkeep_look(k, &now);
    k->seen = now;
    upkeep_check(k);
}
