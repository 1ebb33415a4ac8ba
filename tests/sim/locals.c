/* What agents keep: services that were registered with them, with their checks. */
#include "model_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READER_DEPTH = 4, REAPER_MS = 30000, DEREGISTER_LEAST_MS = 60000 };

/* ---- bodies ---------------------------------------------------------------------------------- */

/* Fills a registration, or the status and output of a check, from the pieces of a body. */
typedef struct put_reader {
    char        keys[READER_DEPTH + 1][40];
    int         depth;
    model_local local;
    char        name[48], status[16], output[64];
    bool        is_odd;             /* something that we do not expect                          */
} put_reader;

static void take_text(char *out, size_t max, const char *text, size_t len)
{
    size_t n = len < max - 1 ? len : max - 1;
    memcpy(out, text, n);
    out[n] = '\0';
}

static uint32_t duration_ms(const char *text)
{
    char *unit = NULL;
    uint32_t n = (uint32_t)strtoul(text, &unit, 10);
    return strcmp(unit, "ms") == 0 ? n : n * 1000;
}

static sdc_status status_from(const char *text)
{
    return strcmp(text, "passing") == 0 ? SDC_STATUS_PASSING
         : strcmp(text, "warning") == 0 ? SDC_STATUS_WARNING : SDC_STATUS_CRITICAL;
}

static void read_check(put_reader *r, const char *key, const char *text)
{
    model_check *c = &r->local.checks[r->local.num_checks - 1];
    if (strcmp(key, "CheckID") == 0) {
        take_text(c->id, sizeof c->id, text, strlen(text));
    } else if (strcmp(key, "TTL") == 0) {
        c->ttl_ms = duration_ms(text);
    } else if (strcmp(key, "Status") == 0) {
        c->status = status_from(text);
    } else if (strcmp(key, "DeregisterCriticalServiceAfter") == 0) {
        c->deregister_ms = duration_ms(text);
    }
}

static void read_tag(put_reader *r, const char *text)
{
    for (uint32_t t = 0; t < CATALOG_TAGS; t++) {
        if (strcmp(catalog_tags[t], text) == 0) {
            r->local.tags |= 1u << t;
            return;
        }
    }
    r->is_odd = true;
}

static void read_top(put_reader *r, const char *key, const char *text)
{
    model_local *l = &r->local;
    if (strcmp(key, "ID") == 0) {
        take_text(l->id, sizeof l->id, text, strlen(text));
    } else if (strcmp(key, "Name") == 0) {
        take_text(r->name, sizeof r->name, text, strlen(text));
    } else if (strcmp(key, "Address") == 0) {
        take_text(l->address, sizeof l->address, text, strlen(text));
    } else if (strcmp(key, "Port") == 0) {
        l->port = (uint16_t)strtoul(text, NULL, 10);
    } else if (strcmp(key, "Status") == 0) {
        take_text(r->status, sizeof r->status, text, strlen(text));
    } else if (strcmp(key, "Output") == 0) {
        take_text(r->output, sizeof r->output, text, strlen(text));
    }
}

static void read_value(put_reader *r, const char *text)
{
    const char *top = r->keys[1];
    const char *key = r->depth <= READER_DEPTH ? r->keys[r->depth] : "";
    if (r->depth == 1) {
        read_top(r, key, text);
    } else if (r->depth == 2 && strcmp(top, "Tags") == 0) {
        read_tag(r, text);
    } else if (r->depth == 2 && strcmp(top, "Meta") == 0 && strcmp(key, "version") == 0) {
        r->local.version = (uint32_t)strtoul(text, NULL, 10);
    } else if (r->depth == 2 && strcmp(top, "Weights") == 0) {
        uint32_t *to = strcmp(key, "Passing") == 0 ? &r->local.weight_passing
                                                   : &r->local.weight_warning;
        *to = (uint32_t)strtoul(text, NULL, 10);
    } else if (r->depth == 3 && strcmp(top, "Checks") == 0) {
        read_check(r, key, text);
    }
}

static sdc_err on_json(void *user, sdc_json_kind kind, const char *bytes, size_t len)
{
    put_reader *r = (put_reader *)user;
    char value[128];
    switch (kind) {
    case SDC_JSON_OBJECT:
    case SDC_JSON_ARRAY:
        r->depth++;
        if (r->depth == 3 && strcmp(r->keys[1], "Checks") == 0 &&
            r->local.num_checks < CATALOG_CHECKS) {
            r->local.checks[r->local.num_checks++].status = SDC_STATUS_CRITICAL;
        }
        break;
    case SDC_JSON_OBJECT_END:
    case SDC_JSON_ARRAY_END:
        r->depth--;
        break;
    case SDC_JSON_KEY:
        if (r->depth <= READER_DEPTH) {
            take_text(r->keys[r->depth], sizeof r->keys[0], bytes, len);
        }
        break;
    case SDC_JSON_STRING:
    case SDC_JSON_NUMBER:
        take_text(value, sizeof value, bytes, len);
        read_value(r, value);
        break;
    case SDC_JSON_NULL:
    case SDC_JSON_FALSE:
    case SDC_JSON_TRUE:
        break;
    }
    return SDC_OK;
}

static bool read_body(peer *p)
{
    model *m = p->agent->m;
    memset(m->reader, 0, sizeof *m->reader);
    sdc_json_reset(m->json);
    bool is_ok = sdc_json_feed(m->json, p->body, p->body_len) == SDC_OK &&
                 sdc_json_finish(m->json) == SDC_OK && !m->reader->is_odd;
    if (!is_ok) {
        sim_fail(world_now(m->w), "a body that no agent understands: %.*s", (int)p->body_len,
                 p->body);
    }
    return is_ok;
}

void locals_init(model *m)
{
    m->reader = (put_reader *)calloc(1, sizeof *m->reader);
    if (m->reader == NULL || sdc_json_create(NULL, on_json, m->reader, &m->json) != SDC_OK) {
        abort();
    }
}

void locals_deinit(model *m)
{
    sdc_json_destroy(m->json);
    free(m->reader);
}

/* ---- the catalog ----------------------------------------------------------------------------- */

static void describe(const model_agent *a, const model_local *l, catalog_instance *i)
{
    memset(i, 0, sizeof *i);
    model_node(a->nth, i->node, i->node_address);
    memcpy(i->id, l->id, sizeof i->id);
    memcpy(i->address, l->address, sizeof i->address);
    i->port = l->port;
    i->tags = l->tags;
    i->version = l->version;
    i->weight_passing = l->weight_passing;
    i->weight_warning = l->weight_warning;
    i->node_status = SDC_STATUS_PASSING;
    i->num_checks = l->num_checks;
    for (uint32_t k = 0; k < l->num_checks; k++) {
        memcpy(i->checks[k].id, l->checks[k].id, sizeof i->checks[k].id);
        i->checks[k].status = l->checks[k].status;
    }
    i->is_in_maintenance = l->is_in_maintenance;
    i->is_registered = true;
    catalog_settle(i, l->service);
}

static bool is_local(const model_agent *a, uint32_t service, const catalog_instance *i)
{
    for (uint32_t k = 0; k < MODEL_LOCALS; k++) {
        const model_local *l = &a->locals[k];
        if (l->is_used && l->service == service && strcmp(l->id, i->id) == 0) {
            return true;
        }
    }
    return false;
}

static bool remove_lost(model_agent *a, uint32_t service, const char *node)
{
    catalog_service *s = &a->m->now.services[service];
    bool is_changed = false;
    for (uint32_t i = s->num; i-- > 0;) {
        catalog_instance *at = &s->instances[i];
        if (at->is_registered && strcmp(at->node, node) == 0 && !is_local(a, service, at)) {
            s->instances[i] = s->instances[--s->num];
            is_changed = true;
        }
    }
    return is_changed;
}

static bool put_local(model_agent *a, const model_local *l)
{
    catalog_instance fresh;
    describe(a, l, &fresh);
    catalog_instance *old = catalog_find(&a->m->now, l->service, fresh.node, fresh.id);
    if (old != NULL && old->json_len == fresh.json_len &&
        memcmp(old->json, fresh.json, fresh.json_len) == 0) {
        return false;
    }
    return catalog_put(&a->m->now, l->service, &fresh);
}

/* Anti-entropy. Without a leader it has to wait, and is done when there is one again. */
void locals_sync(model_agent *a)
{
    char node[12], address[16];
    if (!a->is_up || !model_has_leader(a)) {
        return;
    }
    model_node(a->nth, node, address);
    for (uint32_t service = 0; service < CATALOG_SERVICES; service++) {
        bool is_changed = remove_lost(a, service, node);
        for (uint32_t k = 0; k < MODEL_LOCALS; k++) {
            const model_local *l = &a->locals[k];
            if (l->is_used && l->service == service && put_local(a, l)) {
                is_changed = true;
            }
        }
        if (is_changed) {
            model_commit(a->m, service);
        }
    }
}

/* ---- checks ---------------------------------------------------------------------------------- */

static void tell(const model_agent *a, model_news what, const char *id, const char *body,
                 size_t len)
{
    if (a->m->on_news != NULL) {
        a->m->on_news(a->m->news_user, what, a->nth, id, body, len);
    }
}

/* Looks at all TTL checks: which are over, and which services have been critical for too long. */
static void look_at_checks(model_agent *a)
{
    uint64_t now_ms = world_now(a->m->w);
    for (uint32_t k = 0; a->is_up && k < MODEL_LOCALS; k++) {
        model_local *l = &a->locals[k];
        for (uint32_t i = 0; l->is_used && i < l->num_checks; i++) {
            model_check *c = &l->checks[i];
            if (c->ttl_ms != 0 && now_ms >= c->expires_ms && c->status != SDC_STATUS_CRITICAL) {
                sim_trace(now_ms, "the TTL of %s is over", c->id);
                tell(a, NEWS_LAPSE, c->id, "", 0);
                c->status = SDC_STATUS_CRITICAL;
                c->output[0] = '\0';
                c->critical_since_ms = now_ms;
            }
            uint64_t most_ms = c->deregister_ms < DEREGISTER_LEAST_MS ? DEREGISTER_LEAST_MS
                                                                      : c->deregister_ms;
            if (c->deregister_ms != 0 && c->status == SDC_STATUS_CRITICAL &&
                now_ms - c->critical_since_ms >= most_ms + REAPER_MS) {
                sim_trace(now_ms, "%s is critical for too long: deregistered", l->id);
                l->is_used = false;
                a->m->num_forgotten++;
            }
        }
    }
    locals_sync(a);
}

static void on_check_timer(void *user)
{
    look_at_checks((model_agent *)user);
}

static void beat(model_agent *a, model_check *c, sdc_status status, const char *output)
{
    uint64_t now_ms = world_now(a->m->w);
    if (status == SDC_STATUS_CRITICAL && c->status != SDC_STATUS_CRITICAL) {
        c->critical_since_ms = now_ms;
    }
    c->status = status;
    (void)snprintf(c->output, sizeof c->output, "%s", output);
    c->expires_ms = now_ms + c->ttl_ms;
    world_at(a->m->w, c->expires_ms, on_check_timer, a);
}

/* ---- what is asked --------------------------------------------------------------------------- */

static model_local *find_local(model_agent *a, const char *id)
{
    for (uint32_t i = 0; i < MODEL_LOCALS; i++) {
        if (a->locals[i].is_used && strcmp(a->locals[i].id, id) == 0) {
            return &a->locals[i];
        }
    }
    return NULL;
}

static model_check *find_check(model_agent *a, const char *id)
{
    for (uint32_t i = 0; i < MODEL_LOCALS; i++) {
        model_local *l = &a->locals[i];
        for (uint32_t k = 0; l->is_used && k < l->num_checks; k++) {
            if (strcmp(l->checks[k].id, id) == 0) {
                return &l->checks[k];
            }
        }
    }
    return NULL;
}

static model_local *place_for(model_agent *a, const char *id)
{
    model_local *l = find_local(a, id);
    for (uint32_t i = 0; l == NULL && i < MODEL_LOCALS; i++) {
        l = !a->locals[i].is_used ? &a->locals[i] : NULL;
    }
    return l;
}

/* Checks that were there keep their state; with replace-existing-checks those that are no longer
   wanted go, a maintenance mode among them. The checks of a keeper are always the same. */
static void serve_register(peer *p)
{
    model_agent *a = p->agent;
    if (!read_body(p)) {
        return;
    }
    model_local fresh = a->m->reader->local;
    int service = catalog_service_nth(a->m->reader->name, strlen(a->m->reader->name));
    model_local *l = place_for(a, fresh.id);
    if (service < 0 || l == NULL || fresh.id[0] == '\0') {
        sim_fail(world_now(a->m->w), "a registration of \"%s\" as \"%s\"", a->m->reader->name,
                 fresh.id);
        return;
    }
    bool replaces = strstr(p->query, "replace-existing-checks=true") != NULL;
    fresh.is_in_maintenance = !replaces && l->is_used && l->is_in_maintenance;
    fresh.is_used = true;
    fresh.service = (uint32_t)service;
    uint64_t now_ms = world_now(a->m->w);
    for (uint32_t i = 0; i < fresh.num_checks; i++) {
        model_check *c = &fresh.checks[i];
        const model_check *old = find_check(a, c->id);
        c->critical_since_ms = old != NULL ? old->critical_since_ms : now_ms;
        c->expires_ms = old != NULL ? old->expires_ms : now_ms + c->ttl_ms;
        if (old != NULL) {
            c->status = old->status;
            memcpy(c->output, old->output, sizeof c->output);
        }
        if (c->ttl_ms != 0) {
            world_at(a->m->w, c->expires_ms, on_check_timer, a);
        }
    }
    *l = fresh;
    locals_sync(a);
    peer_reply(p, 200, "", "", 0);
}

static void reply_unknown_check(peer *p, const char *id)
{
    char text[160];
    (void)snprintf(text, sizeof text, sim_chance(p->agent->m->random, 50)
                       ? "Unknown check ID \"%s\". Ensure that the check ID is passed, not the "
                         "check name."
                       : "CheckID \"%s\" does not have associated TTL", id);
    peer_reply_text(p, strncmp(text, "CheckID", 7) == 0 ? 500 : 404, text);
    p->agent->m->num_forgotten++;
}

static void reply_unknown_service(peer *p, const char *id)
{
    char text[160];
    bool is_get = strcmp(p->method, "GET") == 0;
    (void)snprintf(text, sizeof text, is_get
                       ? "unknown service ID: %s"
                       : "Unknown service ID \"%s\". Ensure that the service ID is passed, not "
                         "the service name.", id);
    peer_reply_text(p, 404, text);
    p->agent->m->num_forgotten++;
}

static void serve_update(peer *p, const char *id)
{
    model_check *c = find_check(p->agent, id);
    if (c == NULL || c->ttl_ms == 0 || p->noise == NOISE_FORGOTTEN) {
        if (c != NULL) {
            sim_hit(NOISE_FORGOTTEN);
        }
        reply_unknown_check(p, id);
        return;
    }
    if (!read_body(p)) {
        return;
    }
    const put_reader *r = p->agent->m->reader;
    beat(p->agent, c, status_from(r->status), r->output);
    locals_sync(p->agent);
    peer_reply(p, 200, "", "", 0);
}

static void serve_maintenance(peer *p, const char *id)
{
    char enable[8] = "";
    model_local *l = find_local(p->agent, id);
    if (l == NULL) {
        reply_unknown_service(p, id);
        return;
    }
    (void)peer_param(p, "enable", enable, sizeof enable);
    (void)peer_param(p, "reason", l->reason, sizeof l->reason);
    l->is_in_maintenance = strcmp(enable, "true") == 0;
    locals_sync(p->agent);
    peer_reply(p, 200, "", "", 0);
}

static void serve_deregister(peer *p, const char *id)
{
    model_local *l = find_local(p->agent, id);
    if (l == NULL) {
        reply_unknown_service(p, id);
        return;
    }
    l->is_used = false;
    locals_sync(p->agent);
    peer_reply(p, 200, "", "", 0);
}

/* The hash is of what a registration says, not of the state of its checks. */
static void serve_get(peer *p, const char *id)
{
    char headers[120];
    const model_local *l = find_local(p->agent, id);
    if (l == NULL) {
        reply_unknown_service(p, id);
        return;
    }
    (void)snprintf(headers, sizeof headers, "Content-Type: application/json\r\n"
                   "X-Consul-Contenthash: %04x%04x%04x%04x%04x\r\n", l->tags, l->version,
                   (unsigned)l->port, l->weight_passing, l->weight_warning);
    peer_reply(p, 200, headers, "{\"ID\":\"x\"}", 10);
}

static void unescape(const char *text, char *out, size_t max)
{
    size_t n = 0;
    for (; *text != '\0' && n + 1 < max; text++) {
        if (*text == '%' && text[1] != '\0' && text[2] != '\0') {
            char hex[3] = { text[1], text[2], '\0' };
            out[n++] = (char)strtoul(hex, NULL, 16);
            text += 2;
        } else {
            out[n++] = *text;
        }
    }
    out[n] = '\0';
}

void locals_hear(peer *p)
{
    static const struct {
        const char *path;
        model_news  what;
    } kinds[] = {
        { "/v1/agent/check/update/", NEWS_BEAT },
        { "/v1/agent/service/deregister/", NEWS_DEREGISTER },
        { "/v1/agent/service/maintenance/", NEWS_LOOK },
        { "/v1/agent/service/", NEWS_LOOK }
    };
    char id[80];
    if (!world_conn_is_open(p->conn) || strcmp(p->path, "/v1/agent/service/register") == 0) {
        return;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t len = strlen(kinds[i].path);
        if (strncmp(p->path, kinds[i].path, len) == 0) {
            unescape(p->path + len, id, sizeof id);
            tell(p->agent, kinds[i].what, id, p->body, p->body_len);
            return;
        }
    }
}

void locals_serve(peer *p)
{
    static const struct {
        const char *method, *path;
        void      (*serve)(peer *p, const char *id);
    } routes[] = {
        { "PUT", "/v1/agent/check/update/", serve_update },
        { "GET", "/v1/agent/service/", serve_get },
        { "PUT", "/v1/agent/service/maintenance/", serve_maintenance },
        { "PUT", "/v1/agent/service/deregister/", serve_deregister }
    };
    char id[80];
    if (strcmp(p->path, "/v1/agent/service/register") == 0) {
        serve_register(p);
        return;
    }
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        size_t len = strlen(routes[i].path);
        if (strcmp(p->method, routes[i].method) == 0 &&
            strncmp(p->path, routes[i].path, len) == 0) {
            unescape(p->path + len, id, sizeof id);
            routes[i].serve(p, id);
            return;
        }
    }
    sim_fail(world_now(p->agent->m->w), "a request that nobody serves: %s %s", p->method, p->path);
}

/* ---- restarts -------------------------------------------------------------------------------- */

void locals_forget(model_agent *a)
{
    for (uint32_t i = 0; i < MODEL_LOCALS; i++) {
        a->m->num_forgotten += a->locals[i].is_used ? 1 : 0;
    }
    memset(a->locals, 0, sizeof a->locals);
    locals_sync(a);
}

/* TTLs begin anew. */
void locals_restarted(model_agent *a)
{
    for (uint32_t i = 0; i < MODEL_LOCALS; i++) {
        model_local *l = &a->locals[i];
        for (uint32_t k = 0; l->is_used && k < l->num_checks; k++) {
            if (l->checks[k].ttl_ms != 0) {
                l->checks[k].expires_ms = world_now(a->m->w) + l->checks[k].ttl_ms;
                world_at(a->m->w, l->checks[k].expires_ms, on_check_timer, a);
            }
        }
    }
    locals_sync(a);
}
