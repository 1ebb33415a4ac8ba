/* The calls that block: made now and then, in the middle of everything else, on the one thread of a
   story; so no other task is stepped meanwhile. */
#include "story_in.h"

#include <stdio.h>
#include <string.h>

enum { LATE_MS = 50, RESOLVE_MS = 4100, SETTLED_MS = 60000 };

typedef struct calling {
    uint64_t began_ms, forgotten, touched_ms;
    bool     must_succeed;          /* as things stand                                          */
} calling;

/* At least one agent has long been well, and the others are well or do not exist for us: then a
   call succeeds, whichever it asks first. */
static bool must_succeed(const story *s, uint64_t touched_ms)
{
    uint64_t now_ms = story_now(s);
    uint32_t num_well = 0;
    for (uint32_t i = 0; i < s->num_agents; i++) {
        bool is_well = model_well_since(s->m, i) + SETTLED_MS <= now_ms;
        if (!is_well && (model_is_up(s->m, i) || !model_is_only_away(s->m, i))) {
            return false;
        }
        num_well += is_well ? 1 : 0;
    }
    return num_well > 0 && story_is_able(s) && touched_ms + SETTLED_MS <= now_ms;
}

static calling begin_call(story *s)
{
    calling c;
    c.must_succeed = must_succeed(s, s->touched_at_ms);
    c.touched_ms = s->touched_at_ms;
    c.began_ms = story_fall_asleep(s);
    c.forgotten = model_num_forgotten(s->m);
    s->is_calling = true;
    return c;
}

/* A resolver that blocks is bounded by nobody. */
static void end_call(story *s, const calling *c, const char *what, uint64_t most_ms)
{
    uint64_t took_ms = story_now(s) - c->began_ms;
    s->is_calling = false;
    story_wake_up(s, c->began_ms);
    if (took_ms > most_ms + LATE_MS && !s->resolver_blocks) {
        sim_fail(story_now(s), "%s took %llu ms, not %llu", what, (unsigned long long)took_ms,
                 (unsigned long long)most_ms);
    }
}

static void check_error(const story *s, const char *what, sdc_err err, const sdc_error *error)
{
    if (err != SDC_OK && (error->code != err || error->message[0] == '\0')) {
        sim_fail(story_now(s), "%s: %s, and the error says %s, \"%s\"", what, test_err_name(err),
                 test_err_name(error->code), error->message);
    }
}

/* Nothing that was sent before is still on its way. */
static bool is_settled(const story *s)
{
    uint64_t now_ms = story_now(s);
    for (uint32_t i = 0; i < s->num_agents; i++) {
        if (model_well_since(s->m, i) + SETTLED_MS > now_ms) {
            return false;
        }
    }
    return true;
}

static uint32_t num_holders(const story *s, const char *id, uint32_t but)
{
    uint32_t num = 0;
    for (uint32_t i = 0; i < s->num_agents; i++) {
        num += (but >> i & 1) == 0 && model_find(s->m, i, id) != NULL ? 1 : 0;
    }
    return num;
}

/* Both before the call and behind it. */
static void check_success(const story *s, const calling *c, const char *what, sdc_err err)
{
    if (c->must_succeed && err != SDC_OK && err != SDC_STOPPED && must_succeed(s, c->touched_ms)) {
        sim_fail(story_now(s), "%s: %s, though an agent is well", what, test_err_name(err));
    }
}

/* ---- a registrar's --------------------------------------------------------------------------- */

static void end_of_registrar_call(keeper *k, sdc_err err)
{
    upkeep_called(k);
    if (err == SDC_STOPPED) {
        keeper_on_result(k, err);
    }
    story_look(k->s);
}

/* One that fell silent before and was not used since takes all the time of a call. */
static bool knows_its_connection(const keeper *k)
{
    return k->base_at_ms != 0 && (k->kept_at_ms > model_well_since(k->s->m, k->base) ||
                                  !model_is_up(k->s->m, k->base));
}

void calls_register(keeper *k)
{
    story *s = k->s;
    sdc_error error;
    if (k->registrar == NULL || k->is_stopping) {
        return;
    }
    bool knows_connection = knows_its_connection(k);
    bool was_registered = sdc_registrar_is_registered(k->registrar);
    keeper_before_call(k);
    calling c = begin_call(s);
    k->is_wanted = true;
    sdc_err err = sdc_registrar_register(k->registrar, &error);
    end_call(s, &c, "sdc_registrar_register", s->client_desc.request_timeout_ms);
    sim_trace(story_now(s), "registrar %u: register: %s", (unsigned)k->nth, test_err_name(err));
    check_error(s, "sdc_registrar_register", err, &error);
    if (err == SDC_OK && num_holders(s, sdc_registrar_id(k->registrar), 0) == 0 &&
        model_num_forgotten(s->m) == c.forgotten) {
        sim_fail(story_now(s), "registrar %u: a good call, and it is nowhere", (unsigned)k->nth);
    }
    bool is_refused = error.http_status == 400 || error.http_status == 403;
    if (was_registered && is_refused && s->num_agents == 1 &&
        !sdc_registrar_is_registered(k->registrar) && !k->is_stopping) {
        sim_fail(story_now(s), "registrar %u: a refused call takes what was there",
                 (unsigned)k->nth);
    }
    if (knows_connection) {
        check_success(s, &c, "sdc_registrar_register", err);
    }
    end_of_registrar_call(k, err);
}

void calls_deregister(keeper *k)
{
    story *s = k->s;
    sdc_error error;
    if (k->registrar == NULL || k->is_stopping) {
        return;
    }
    bool was_settled = is_settled(s);
    keeper_before_call(k);
    calling c = begin_call(s);
    k->is_wanted = false;
    sdc_err err = sdc_registrar_deregister(k->registrar, &error);
    end_call(s, &c, "sdc_registrar_deregister", s->client_desc.request_timeout_ms);
    sim_trace(story_now(s), "registrar %u: deregister: %s", (unsigned)k->nth, test_err_name(err));
    check_error(s, "sdc_registrar_deregister", err, &error);
    if (err == SDC_OK && was_settled && is_settled(s) &&
        num_holders(s, sdc_registrar_id(k->registrar), k->orphans) > 0) {
        sim_fail(story_now(s), "registrar %u: a good call, and it is still there",
                 (unsigned)k->nth);
    }
    end_of_registrar_call(k, err);
}

/* ---- a watch's ------------------------------------------------------------------------------- */

void calls_wait(watch *w)
{
    story *s = w->s;
    sdc_error error;
    size_t least = sim_below(&s->random, 4);
    uint32_t ms = sim_span(&s->random, 1, 8000);
    if (w->instancer == NULL || w->is_stopping) {
        return;
    }
    calling c = begin_call(s);
    sdc_err err = sdc_instancer_wait(w->instancer, least, ms, &error);
    end_call(s, &c, "sdc_instancer_wait", ms);
    sim_trace(story_now(s), "watch %u: wait: %s", (unsigned)w->nth, test_err_name(err));
    check_error(s, "sdc_instancer_wait", err, &error);
    bool is_true = err == SDC_OK ? w->err == SDC_OK && w->num >= least
                 : err == SDC_ERR_TIMEOUT ? story_now(s) >= c.began_ms + ms &&
                                            (w->err != SDC_OK || w->num < least)
                 : err == SDC_STOPPED ? w->is_stopping
                 : err == SDC_GONE && w->instancer == NULL;
    if (!is_true) {
        sim_fail(story_now(s), "watch %u: sdc_instancer_wait for %zu: %s; it has %zu and %s",
                 (unsigned)w->nth, least, test_err_name(err), w->num, test_err_name(w->err));
    }
    if (err == SDC_STOPPED) {
        watch_on_result(w, err);
    }
    story_look(s);
}

/* ---- one-shots ------------------------------------------------------------------------------- */

static const char aside_id[] = "aside";

void calls_init(story *s)
{
    catalog_view v;
    memset(&v, 0, sizeof v);
    v.service = sim_below(&s->random, 4);
    v.wait_ms = 60000;
    s->aside_view = model_add_view(s->m, &v);
    (void)snprintf(s->aside_number, sizeof s->aside_number, "%u", (unsigned)s->aside_view);
}

static void look_up(story *s)
{
    sdc_error error;
    sdc_query q;
    sdc_kv param;
    const sdc_event *e = NULL;
    const catalog_view *v = model_view(s->m, s->aside_view);
    memset(&q, 0, sizeof q);
    param.key = "sim";
    param.value = s->aside_number;
    q.service = catalog_service_name(v->service);
    q.params = &param;
    q.num_params = 1;
    q.consistency = (sdc_consistency)sim_below(&s->random, 3);
    calling c = begin_call(s);
    sdc_err err = sdc_client_service(s->client, &q, &e, &error);
    end_call(s, &c, "sdc_client_service",
             (uint64_t)s->client_desc.request_timeout_ms * s->num_agents);
    sim_trace(story_now(s), "one-shot look: %s", test_err_name(err));
    check_error(s, "sdc_client_service", err, &error);
    check_success(s, &c, "sdc_client_service", err);
    if ((err == SDC_OK) != (e != NULL)) {
        sim_fail(story_now(s), "sdc_client_service: %s, and an event %d", test_err_name(err),
                 e != NULL);
    } else if (e != NULL && e->num_instances > 0 && !catalog_view_held(v, sim_hash_event(e))) {
        sim_fail(story_now(s), "sdc_client_service: %zu instances that were never true",
                 e->num_instances);
    }
    sdc_event_release(e);
}

static void register_aside(story *s)
{
    sdc_error error;
    sdc_registration reg;
    memset(&reg, 0, sizeof reg);
    reg.id = aside_id;
    reg.name = catalog_service_name(3);
    reg.address = "10.3.0.1";
    reg.port = 7100;
    calling c = begin_call(s);
    sdc_err err = sdc_client_register(s->client, &reg, &error);
    end_call(s, &c, "sdc_client_register",
             (uint64_t)s->client_desc.request_timeout_ms * s->num_agents);
    sim_trace(story_now(s), "one-shot register: %s", test_err_name(err));
    check_error(s, "sdc_client_register", err, &error);
    if (err == SDC_OK && num_holders(s, aside_id, 0) == 0 &&
        model_num_forgotten(s->m) == c.forgotten) {
        sim_fail(story_now(s), "sdc_client_register was good, and it is nowhere");
    }
    check_success(s, &c, "sdc_client_register", err);
}

static void deregister_aside(story *s)
{
    sdc_error error;
    calling c = begin_call(s);
    sdc_err err = sdc_client_deregister(s->client, aside_id, &error);
    end_call(s, &c, "sdc_client_deregister",
             (uint64_t)s->client_desc.request_timeout_ms * s->num_agents);
    sim_trace(story_now(s), "one-shot deregister: %s", test_err_name(err));
    check_error(s, "sdc_client_deregister", err, &error);
    if (err == SDC_OK && is_settled(s) && num_holders(s, aside_id, 0) > 0) {
        sim_fail(story_now(s), "sdc_client_deregister was good, and it is still there");
    }
}

/* A resolver that wakes the task which asked has none to wake here. */
void calls_once(story *s)
{
    if (s->resolver_wakes) {
        return;
    }
    switch (sim_below(&s->random, 4)) {
    case 0:
        register_aside(s);
        break;
    case 1:
        deregister_aside(s);
        break;
    default:
        look_up(s);
        break;
    }
    story_look(s);
}
