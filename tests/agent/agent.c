/* State of the embedded agent: what is registered, what the catalog got of it
   and under which index, TTLs. Local state and catalog are two things, as in a
   real agent: an output that changes alone reaches the catalog minutes later,
   and without a leader nothing does. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_MAX_CONNS = 200,
    REAP_MS = 30000,                /* how often critical services are looked for */
    REAP_MIN_MS = 60000,            /* the least of DeregisterCriticalServiceAfter */
    DEFER_MS = 300000,              /* check_update_interval */
    OUTPUT_MAX = 4096
};

/* ---- definitions ------------------------------------------------------------------------- */
service_def *service_def_hold(service_def *def)
{
    def->holds++;
    return def;
}

void service_def_release(service_def *def)
{
    if (def == NULL || --def->holds > 0) {
        return;
    }
    char *const texts[] = { def->id, def->name, def->kind, def->address, def->socket_path,
                            def->region, def->zone, def->proxy_destination };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    for (size_t i = 0; i < def->tagged.n; i++) {
        free(def->tagged.v[i].key);
        free(def->tagged.v[i].address);
    }
    for (size_t i = 0; i < def->ports.n; i++) {
        free(def->ports.v[i].name);
    }
    free(def->tagged.v);
    free(def->ports.v);
    strs_free(&def->tags);
    pairs_free(&def->meta);
    free(def);
}

check_def *check_def_hold(check_def *def)
{
    def->holds++;
    return def;
}

void check_def_release(check_def *def)
{
    if (def == NULL || --def->holds > 0) {
        return;
    }
    char *const texts[] = { def->id, def->name, def->notes, def->status, def->service_id,
                            def->service_name, def->http, def->h2ping, def->tcp, def->udp,
                            def->grpc, def->os_service, def->alias_node, def->alias_service,
                            def->docker };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    strs_free(&def->args);
    strs_free(&def->service_tags);
    free(def);
}

static bool addresses_equal(const addresses *a, const addresses *b)
{
    if (a->n != b->n) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!text_is(a->v[i].key, b->v[i].key) || !text_is(a->v[i].address, b->v[i].address)
            || a->v[i].port != b->v[i].port) {
            return false;
        }
    }
    return true;
}

static bool ports_equal(const ports *a, const ports *b)
{
    if (a->n != b->n) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!text_is(a->v[i].name, b->v[i].name) || a->v[i].port != b->v[i].port
            || a->v[i].is_default != b->v[i].is_default) {
            return false;
        }
    }
    return true;
}

bool service_def_equal(const service_def *a, const service_def *b)
{
    return text_is(a->id, b->id) && text_is(a->name, b->name) && text_is(a->kind, b->kind)
        && text_is(a->address, b->address) && text_is(a->socket_path, b->socket_path)
        && text_is(a->region, b->region) && text_is(a->zone, b->zone)
        && text_is(a->proxy_destination, b->proxy_destination) && a->is_native == b->is_native
        && strs_equal(&a->tags, &b->tags) && pairs_equal(&a->meta, &b->meta)
        && a->has_meta == b->has_meta
        && addresses_equal(&a->tagged, &b->tagged) && ports_equal(&a->ports, &b->ports)
        && a->port == b->port && a->weight_passing == b->weight_passing
        && a->weight_warning == b->weight_warning
        && a->enable_tag_override == b->enable_tag_override;
}

bool check_def_equal(const check_def *a, const check_def *b)
{
    return text_is(a->name, b->name) && text_is(a->notes, b->notes)
        && text_is(a->service_id, b->service_id) && text_is(a->service_name, b->service_name)
        && text_is(a->type, b->type) && strs_equal(&a->service_tags, &b->service_tags)
        && a->interval_ns == b->interval_ns && a->timeout_ns == b->timeout_ns;
}

int64_t service_def_port(const service_def *def)
{
    for (size_t i = 0; def->port == 0 && i < def->ports.n; i++) {
        if (def->ports.v[i].is_default) {
            return def->ports.v[i].port;
        }
    }
    return def->port;
}

address *addresses_add(addresses *list, const char *key)
{
    size_t i = 0;

    while (i < list->n && strcmp(list->v[i].key, key) < 0) {
        i++;
    }
    if (i == list->n || !text_is(list->v[i].key, key)) {
        list->v = agent_grow(list->v, (list->n + 1) * sizeof *list->v);
        memmove(list->v + i + 1, list->v + i, (list->n - i) * sizeof *list->v);
        memset(&list->v[i], 0, sizeof list->v[i]);
        list->v[i].key = agent_dup(key);
        list->v[i].address = agent_dup("");
        list->n++;
    }
    return &list->v[i];
}

const address *addresses_get(const addresses *list, const char *key)
{
    for (size_t i = 0; i < list->n; i++) {
        if (text_is(list->v[i].key, key)) {
            return &list->v[i];
        }
    }
    return NULL;
}

/* ---- finding, sorted by id --------------------------------------------------------------- */
static size_t service_place(const agent *a, const char *id)
{
    size_t i = 0;

    while (i < a->num_services && strcmp(a->services[i]->id, id) < 0) {
        i++;
    }
    return i;
}

static service *service_entry(const agent *a, const char *id)
{
    size_t i = service_place(a, id);

    return i < a->num_services && text_is(a->services[i]->id, id) ? a->services[i] : NULL;
}

static check *check_entry(const agent *a, const char *id)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        if (text_is(a->checks[i]->id, id)) {
            return a->checks[i];
        }
    }
    return NULL;
}

service *agent_find_service(const agent *a, const char *id)
{
    service *s = service_entry(a, id);

    return s != NULL && s->local != NULL ? s : NULL;
}

check *agent_find_check(const agent *a, const char *id)
{
    check *c = check_entry(a, id);

    return c != NULL && c->local.def != NULL ? c : NULL;
}

static service *service_add(agent *a, const char *id)
{
    size_t i = service_place(a, id);

    a->services = agent_grow(a->services, (a->num_services + 1) * sizeof *a->services);
    memmove(a->services + i + 1, a->services + i, (a->num_services - i) * sizeof *a->services);
    a->services[i] = agent_alloc(sizeof(service));
    a->services[i]->id = agent_dup(id);
    a->num_services++;
    return a->services[i];
}

static check *check_add(agent *a, const char *id)
{
    size_t i = 0;

    while (i < a->num_checks && strcmp(a->checks[i]->id, id) < 0) {
        i++;
    }
    a->checks = agent_grow(a->checks, (a->num_checks + 1) * sizeof *a->checks);
    memmove(a->checks + i + 1, a->checks + i, (a->num_checks - i) * sizeof *a->checks);
    a->checks[i] = agent_alloc(sizeof(check));
    a->checks[i]->id = agent_dup(id);
    a->num_checks++;
    a->checks[i]->ttl_at = a->checks[i]->defer_at = a->checks[i]->critical_since = NEVER;
    a->checks[i]->last_output = agent_dup("");
    return a->checks[i];
}

static void check_state_clear(check_state *state)
{
    check_def_release(state->def);
    free(state->status);
    free(state->output);
    strs_free(&state->tags);
    memset(state, 0, sizeof *state);
}

static void check_state_set(check_state *state, check_def *def, const char *status,
                            const char *output, const strs *tags)
{
    check_state next;

    memset(&next, 0, sizeof next);
    next.def = check_def_hold(def);
    next.status = agent_dup(status);
    next.output = agent_dup(output);
    for (size_t i = 0; i < tags->n; i++) {
        strs_add(&next.tags, tags->v[i], strlen(tags->v[i]));
    }
    check_state_clear(state);
    *state = next;
}

static void service_free(service *s)
{
    service_def_release(s->local);
    service_def_release(s->remote);
    free(s->id);
    free(s);
}

static void check_free(check *c)
{
    check_state_clear(&c->local);
    check_state_clear(&c->remote);
    free(c->last_output);
    free(c->id);
    free(c);
}

/* Entries of which neither side is left. */
static void drop_dead_entries(agent *a)
{
    size_t n = 0;

    for (size_t i = 0; i < a->num_services; i++) {
        if (a->services[i]->local == NULL && a->services[i]->remote == NULL) {
            service_free(a->services[i]);
        } else {
            a->services[n++] = a->services[i];
        }
    }
    a->num_services = n;
    n = 0;
    for (size_t i = 0; i < a->num_checks; i++) {
        if (a->checks[i]->local.def == NULL && a->checks[i]->remote.def == NULL) {
            check_free(a->checks[i]);
        } else {
            a->checks[n++] = a->checks[i];
        }
    }
    a->num_checks = n;
}

/* ---- the catalog ----------------------------------------------------------------------------
   One index per service, gone with its last instance; then the index of the last extinction of any
   service stands for it, and before the first extinction the newest of the catalog. */
static service_index *index_of(const agent *a, const char *name)
{
    for (size_t i = 0; i < a->num_indexes; i++) {
        if (text_is_nocase(a->indexes[i].name, name)) {
            return &a->indexes[i];
        }
    }
    return NULL;
}

static void bump(agent *a, const char *name, uint64_t index)
{
    service_index *entry = index_of(a, name);

    if (entry == NULL) {
        a->indexes = agent_grow(a->indexes, (a->num_indexes + 1) * sizeof *a->indexes);
        entry = &a->indexes[a->num_indexes++];
        entry->name = agent_dup(name);
    }
    entry->index = index;
    query_touch(a, name, index);
}

/* After a change of a check: one of the node counts for each of its services. */
static void bump_check(agent *a, const check_def *def, uint64_t index)
{
    a->checks_index = index;
    if (!text_is(def->service_id, "")) {
        bump(a, def->service_name, index);
        return;
    }
    for (size_t i = 0; i < a->num_indexes; i++) {
        bump(a, a->indexes[i].name, index);
    }
}

uint64_t agent_index(const agent *a, const char *name, bool with_checks)
{
    const service_index *entry = index_of(a, name);
    uint64_t newest = a->catalog_index;

    if (entry != NULL) {
        return entry->index;
    }
    if (a->extinction != 0) {
        return a->extinction;
    }
    return with_checks && a->checks_index > newest ? a->checks_index : newest;
}

static bool has_instance(const agent *a, const char *name)
{
    for (size_t i = 0; i < a->num_services; i++) {
        if (a->services[i]->remote != NULL
            && text_is_nocase(a->services[i]->remote->name, name)) {
            return true;
        }
    }
    return false;
}

/* After an instance of the name went: the service may have died out. */
static void bump_less(agent *a, const char *name, uint64_t index)
{
    if (has_instance(a, name)) {
        bump(a, name, index);
        return;
    }
    service_index *entry = index_of(a, name);
    if (entry != NULL) {
        free(entry->name);
        *entry = a->indexes[--a->num_indexes];
    }
    a->extinction = index;
    query_touch(a, name, index);
}

static void write_service(agent *a, service *s, uint64_t index)
{
    service_def *old = s->remote;

    s->in_sync = true;
    if (old != NULL && service_def_equal(old, s->local)) {
        return;
    }
    s->create = old == NULL ? index : s->create;
    s->modify = index;
    s->remote = service_def_hold(s->local);
    a->catalog_index = index;
    bump(a, s->remote->name, index);
    if (old != NULL && !text_is_nocase(old->name, s->remote->name)) {
        bump_less(a, old->name, index);
    }
    service_def_release(old);
}

static void write_check(agent *a, check *c, uint64_t index)
{
    const service *s = service_entry(a, c->local.def->service_id);
    const strs none = { NULL, 0 };
    const strs *tags = s != NULL && s->remote != NULL ? &s->remote->tags : &none;

    c->in_sync = true;
    c->defer_at = NEVER;
    if (c->remote.def != NULL && check_def_equal(c->remote.def, c->local.def)
        && text_is(c->remote.status, c->local.status) && strs_equal(&c->remote.tags, tags)
        && text_is(c->remote.output, c->local.output)) {
        if (!agent_is_new(a)) {
            a->checks_index = index;        /* the older one touches the table all the same */
        }
        return;
    }
    c->create = c->remote.def == NULL ? index : c->create;
    c->modify = index;
    check_state_set(&c->remote, c->local.def, c->local.status, c->local.output, tags);
    bump_check(a, c->remote.def, index);
}

static void erase_check(agent *a, check *c, uint64_t index)
{
    bump_check(a, c->remote.def, index);
    if (text_is(c->remote.def->service_id, "")) {
        a->catalog_index = index;
    }
    check_state_clear(&c->remote);
}

static void erase_service(agent *a, service *s)
{
    uint64_t index = ++a->raft;
    service_def *old = s->remote;

    for (size_t i = 0; i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->remote.def != NULL && text_is(c->remote.def->service_id, old->id)) {
            check_state_clear(&c->remote);
        }
    }
    s->remote = NULL;
    a->catalog_index = a->checks_index = index;
    bump_less(a, old->name, index);
    service_def_release(old);
}

/* A service goes with those of its checks that are not in the catalog yet. */
static void sync_service(agent *a, service *s)
{
    uint64_t index = ++a->raft;

    write_service(a, s, index);
    for (size_t i = 0; i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->local.def != NULL && !c->in_sync
            && text_is(c->local.def->service_id, s->local->id)) {
            write_check(a, c, index);
        }
    }
}

/* Not of this agent: the servers' own service, and the check that their gossip feeds. */
static bool is_of_servers(const char *id)
{
    return text_is(id, "consul") || text_is(id, "serfHealth");
}

void agent_sync(agent *a)
{
    for (size_t i = 0; a->has_leader && i < a->num_services; i++) {
        service *s = a->services[i];

        if (s->local == NULL && s->remote != NULL && !is_of_servers(s->id)) {
            erase_service(a, s);
        } else if (s->local != NULL && !s->in_sync) {
            sync_service(a, s);
        }
    }
    for (size_t i = 0; a->has_leader && i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->local.def == NULL && c->remote.def != NULL && !is_of_servers(c->id)) {
            erase_check(a, c, ++a->raft);
        } else if (c->local.def != NULL && !c->in_sync) {
            write_check(a, c, ++a->raft);
        }
    }
    drop_dead_entries(a);
    query_wake(a);
}

/* ---- local state ------------------------------------------------------------------------- */
static uint64_t ms_of(int64_t ns)
{
    return ns <= 0 ? 0 : ((uint64_t)ns + 999999) / 1000000;
}

static void put_check(agent *a, check_def *def)
{
    check *c = check_entry(a, def->id);
    bool is_new = c == NULL || c->local.def == NULL;
    char *status = agent_dup(is_new ? def->status : c->local.status);
    char *output = agent_dup(is_new ? "" : c->local.output);

    if (c == NULL) {
        c = check_add(a, def->id);
    }
    /* An output that waits to be written goes along with the next registration; with the older
       profile the check does in any case. */
    c->in_sync = agent_is_new(a) && !is_new && c->in_sync && c->defer_at == NEVER
              && check_def_equal(c->local.def, def);
    check_state_set(&c->local, def, status, output, &def->service_tags);
    check_def_release(def);
    c->critical_since = NEVER;
    c->ttl_at = text_is(def->type, "ttl") ? a->now_ms + ms_of(def->ttl_ns) : NEVER;
    agent_set_text(&c->last_output, "");
    free(status);
    free(output);
}

static void remove_check(check *c)
{
    check_state_clear(&c->local);
    c->ttl_at = c->defer_at = c->critical_since = NEVER;
    c->in_sync = false;
}

static bool is_among(const char *id, check_def *const *checks, size_t num_checks)
{
    for (size_t i = 0; i < num_checks; i++) {
        if (text_is(checks[i]->id, id)) {
            return true;
        }
    }
    return false;
}

void agent_put_service(agent *a, service_def *def, check_def **checks, size_t num_checks,
                       bool replace_checks)
{
    service *s = service_entry(a, def->id);
    bool was_there = s != NULL && s->local != NULL;

    for (size_t i = 0; replace_checks && i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->local.def != NULL && text_is(c->local.def->service_id, def->id)
            && !is_among(c->local.def->id, checks, num_checks)) {
            remove_check(c);
        }
    }
    if (s == NULL) {
        s = service_add(a, def->id);
    }
    /* The older agent writes the same registration again; the catalog then finds no difference. */
    s->in_sync = was_there && a->profile == AGENT_1_22 && s->in_sync
              && service_def_equal(s->local, def);
    service_def_release(s->local);
    s->local = def;
    for (size_t i = 0; i < num_checks; i++) {
        put_check(a, checks[i]);
    }
    agent_sync(a);
}

void agent_remove_service(agent *a, service *s)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->local.def != NULL && text_is(c->local.def->service_id, s->local->id)) {
            remove_check(c);
        }
    }
    service_def_release(s->local);
    s->local = NULL;
    s->in_sync = false;
    agent_sync(a);
}

void agent_update_check(agent *a, check *c, const char *status, const char *output)
{
    bool is_critical = text_is(status, "critical");
    bool is_same_status = text_is(c->local.status, status);

    if (!is_critical) {
        c->critical_since = NEVER;
    } else if (c->critical_since == NEVER) {
        c->critical_since = a->now_ms;
    }
    if (is_same_status && text_is(c->local.output, output)) {
        return;
    }
    agent_set_text(&c->local.output, output);
    if (is_same_status) {
        if (c->defer_at == NEVER) {
            c->defer_at = a->now_ms + DEFER_MS / 2 + agent_random_below(a, DEFER_MS);
        }
        return;
    }
    agent_set_text(&c->local.status, status);
    c->in_sync = false;
    agent_sync(a);
}

void agent_ttl_update(agent *a, check *c, const char *status, const char *output)
{
    size_t max = OUTPUT_MAX;
    buf text = { NULL, 0, 0 };

    if (c->local.def->output_max > 0 && c->local.def->output_max < OUTPUT_MAX) {
        max = (size_t)c->local.def->output_max;
    }
    buf_str(&text, output);
    if (text.len > max) {
        size_t total = text.len;

        text.len = max;
        buf_fmt(&text, " ... (captured %zu of %zu bytes)", max, total);
    }
    agent_set_text(&c->last_output, buf_text(&text));
    c->ttl_at = a->now_ms + ms_of(c->local.def->ttl_ns);
    agent_update_check(a, c, status, buf_text(&text));
    buf_free(&text);
}

static void expire_ttl(agent *a, check *c)
{
    buf output = { NULL, 0, 0 };

    c->ttl_at = NEVER;
    buf_str(&output, "TTL expired");
    if (!text_is(c->last_output, "")) {
        buf_fmt(&output, " (last output before timeout follows): %s", c->last_output);
    }
    agent_update_check(a, c, "critical", buf_text(&output));
    buf_free(&output);
}

void agent_set_maintenance(agent *a, service *s, bool on, const char *reason)
{
    buf id = { NULL, 0, 0 };
    buf missing = { NULL, 0, 0 };

    if (s == NULL) {
        buf_str(&id, "_node_maintenance");
    } else {
        buf_fmt(&id, "_service_maintenance:%s", s->local->id);
    }
    buf_fmt(&missing, "Maintenance mode is enabled for this %s, but no reason was provided. "
            "This is a default message.", s == NULL ? "node" : "service");
    check *c = agent_find_check(a, buf_text(&id));
    if (on && c == NULL) {
        check_def *def = agent_alloc(sizeof *def);

        def->holds = 1;
        def->id = agent_dup(buf_text(&id));
        def->name = agent_dup(s == NULL ? "Node Maintenance Mode" : "Service Maintenance Mode");
        def->notes = agent_dup(text_is(reason, "") ? buf_text(&missing) : reason);
        def->status = agent_dup("critical");
        def->type = "maintenance";
        def->service_id = agent_dup(s == NULL ? "" : s->local->id);
        def->service_name = agent_dup(s == NULL ? "" : s->local->name);
        for (size_t i = 0; s != NULL && i < s->local->tags.n; i++) {
            strs_add(&def->service_tags, s->local->tags.v[i], strlen(s->local->tags.v[i]));
        }
        put_check(a, def);
    } else if (!on && c != NULL) {
        remove_check(c);
    }
    buf_free(&id);
    buf_free(&missing);
    agent_sync(a);
}

/* ---- the server's own part of the catalog ------------------------------------------------ */
static void make_consul_service(agent *a)
{
    service *s = service_add(a, "consul");
    service_def *def = agent_alloc(sizeof *def);
    bool is_new = agent_is_new(a);

    def->holds = 1;
    def->id = agent_dup("consul");
    def->name = agent_dup("consul");
    def->kind = agent_dup("");
    def->address = agent_dup("");
    def->socket_path = agent_dup("");
    def->region = agent_dup("");
    def->zone = agent_dup("");
    def->proxy_destination = agent_dup("");
    def->port = 8300;
    def->weight_passing = def->weight_warning = 1;
    def->has_meta = true;
    pairs_set(&def->meta, "non_voter", "false");
    pairs_set(&def->meta, "raft_version", "3");
    if (is_new) {
        pairs_set(&def->meta, "read_replica", "false");
    }
    pairs_set(&def->meta, "serf_protocol_current", "2");
    pairs_set(&def->meta, "serf_protocol_max", "5");
    pairs_set(&def->meta, "serf_protocol_min", "1");
    pairs_set(&def->meta, "version", is_new ? "1.22.7" : "1.8.7");
    s->remote = def;
    s->create = s->modify = a->raft;
    bump(a, "consul", a->raft);
}

static void make_node(agent *a, uint64_t index)
{
    const strs none = { NULL, 0 };
    check_def *def = agent_alloc(sizeof *def);

    a->raft = a->node_create = a->node_modify = a->catalog_index = a->checks_index = index;
    a->extinction = 0;
    def->holds = 1;
    def->id = agent_dup("serfHealth");
    def->name = agent_dup("Serf Health Status");
    def->notes = agent_dup("");
    def->status = agent_dup("passing");
    def->type = "";
    def->service_id = agent_dup("");
    def->service_name = agent_dup("");
    check *c = check_add(a, "serfHealth");
    c->create = c->modify = index;
    check_state_set(&c->remote, def, "passing", "Agent alive and reachable", &none);
    check_def_release(def);
    make_consul_service(a);
}

static void forget_catalog(agent *a)
{
    for (size_t i = 0; i < a->num_indexes; i++) {
        free(a->indexes[i].name);
    }
    a->num_indexes = 0;
    for (size_t i = 0; i < a->num_services; i++) {
        service_def_release(a->services[i]->remote);
        a->services[i]->remote = NULL;
        a->services[i]->in_sync = false;
    }
    for (size_t i = 0; i < a->num_checks; i++) {
        check_state_clear(&a->checks[i]->remote);
        a->checks[i]->in_sync = false;
    }
}

bool agent_is_new(const agent *a)
{
    return a->profile == AGENT_1_22;
}

/* ---- public: life and time --------------------------------------------------------------- */
static uint64_t index_or_default(const agent *a, uint64_t index)
{
    return index != 0 ? index : agent_is_new(a) ? 15 : 7;
}

agent *agent_create(const agent_desc *desc, uint64_t now_ms)
{
    agent *a = agent_alloc(sizeof *a);

    a->profile = desc->profile;
    a->is_pretty = desc->pretty;
    a->has_leader = true;
    a->node = agent_dup(desc->node != NULL ? desc->node : "node-1");
    a->node_id = agent_dup("9f1e0c5a-6bf0-4d0f-9a91-5a080db0db43");
    a->address = agent_dup(desc->address != NULL ? desc->address : "127.0.0.1");
    a->datacenter = agent_dup(desc->datacenter != NULL ? desc->datacenter : "dc1");
    a->management = desc->management_token != NULL ? agent_dup(desc->management_token) : NULL;
    a->max_conns = desc->max_conns != 0 ? desc->max_conns : DEFAULT_MAX_CONNS;
    a->now_ms = a->started_ms = now_ms;
    a->reap_at = now_ms + REAP_MS;
    a->random = 0x9e3779b97f4a7c15u;
    a->fail_body = agent_dup("");
    a->desc_first_index = index_or_default(a, desc->first_index);
    make_node(a, a->desc_first_index);
    return a;
}

void agent_destroy(agent *a)
{
    if (a == NULL) {
        return;
    }
    while (a->conns != NULL) {
        agent_conn_close(a->conns);
    }
    query_drop_views(a);
    forget_catalog(a);
    for (size_t i = 0; i < a->num_services; i++) {
        service_free(a->services[i]);
    }
    for (size_t i = 0; i < a->num_checks; i++) {
        check_free(a->checks[i]);
    }
    for (size_t i = 0; i < a->num_tokens; i++) {
        free(a->tokens[i].secret);
        free(a->tokens[i].accessor);
    }
    char *const texts[] = { a->node, a->node_id, a->address, a->datacenter, a->management,
                            a->fail_body };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    free(a->services);
    free(a->checks);
    free(a->tokens);
    free(a->indexes);
    strs_free(&a->cached);
    buf_free(&a->last_request);
    buf_free(&a->last_body);
    free(a);
}

void agent_see_time(agent *a, uint64_t now_ms)
{
    if (now_ms > a->now_ms) {
        a->now_ms = now_ms;
    }
}

uint64_t agent_random_below(agent *a, uint64_t limit)
{
    a->random ^= a->random << 13;
    a->random ^= a->random >> 7;
    a->random ^= a->random << 17;
    return limit == 0 ? 0 : a->random % limit;
}

static uint64_t reap_after_ms(const check *c)
{
    uint64_t ms = ms_of(c->local.def->deregister_ns);

    return ms == 0 ? NEVER : ms < REAP_MIN_MS ? REAP_MIN_MS : ms;
}

static bool may_be_reaped(const check *c)
{
    return c->local.def != NULL && c->critical_since != NEVER && reap_after_ms(c) != NEVER;
}

static void reap(agent *a)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        const check *c = a->checks[i];

        if (may_be_reaped(c) && a->now_ms - c->critical_since > reap_after_ms(c)) {
            service *s = agent_find_service(a, c->local.def->service_id);

            if (s != NULL) {
                agent_remove_service(a, s);
                i = (size_t)-1;     /* entries moved: from the start */
            }
        }
    }
    while (a->reap_at <= a->now_ms) {
        a->reap_at += REAP_MS;
    }
}

static void run_check_timers(agent *a)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->ttl_at <= a->now_ms) {
            expire_ttl(a, c);
        }
    }
    bool is_due = false;
    for (size_t i = 0; i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (c->defer_at <= a->now_ms) {
            c->defer_at = NEVER;
            c->in_sync = false;
            is_due = true;
        }
    }
    if (is_due) {
        agent_sync(a);
    }
}

uint64_t agent_next_ms(const agent *a)
{
    uint64_t next = query_next_ms(a);

    for (size_t i = 0; i < a->num_checks; i++) {
        const check *c = a->checks[i];

        next = c->ttl_at < next ? c->ttl_at : next;
        next = c->defer_at < next ? c->defer_at : next;
        if (may_be_reaped(c) && a->reap_at < next) {
            next = a->reap_at;
        }
    }
    for (const agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        next = conn->close_at < next ? conn->close_at : next;
    }
    return next;
}

/* One timer after the other in the order of their times, so that a long step ends as short ones. */
void agent_advance(agent *a, uint64_t now_ms)
{
    for (;;) {
        uint64_t next = agent_next_ms(a);

        if (next > now_ms) {
            break;
        }
        agent_see_time(a, next);
        run_check_timers(a);
        if (a->reap_at <= a->now_ms) {
            reap(a);
        }
        query_advance(a);
        http_advance(a);
    }
    agent_see_time(a, now_ms);
}

/* ---- public: faults and mutators --------------------------------------------------------- */
void agent_restart(agent *a, uint64_t first_index, bool keep_services, uint64_t now_ms)
{
    agent_see_time(a, now_ms);
    for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        http_cut(conn);
    }
    query_drop_views(a);
    strs_free(&a->cached);
    forget_catalog(a);
    for (size_t i = 0; i < a->num_services; i++) {
        if (!keep_services) {
            service_def_release(a->services[i]->local);
            a->services[i]->local = NULL;
        }
    }
    for (size_t i = 0; i < a->num_checks; i++) {
        check *c = a->checks[i];

        if (!keep_services) {
            remove_check(c);
            continue;
        }
        c->defer_at = c->critical_since = NEVER;
        agent_set_text(&c->last_output, "");
        if (c->local.def != NULL && text_is(c->local.def->type, "ttl")) {
            c->ttl_at = a->now_ms + ms_of(c->local.def->ttl_ns);
        }
    }
    drop_dead_entries(a);
    make_node(a, first_index != 0 ? first_index : a->desc_first_index);
    a->reap_at = a->now_ms + REAP_MS;
    agent_sync(a);
}

void agent_set_leader(agent *a, bool is_known, uint64_t now_ms)
{
    agent_see_time(a, now_ms);
    a->has_leader = is_known;
    query_leader_changed(a);
    agent_sync(a);
}

bool agent_set_check(agent *a, const char *id, const char *status, const char *output,
                     uint64_t now_ms)
{
    agent_advance(a, now_ms);
    check *c = agent_find_check(a, id);
    if (c == NULL) {
        return false;
    }
    if (text_is(c->local.def->type, "ttl")) {
        agent_ttl_update(a, c, status, output);
    } else {
        agent_update_check(a, c, status, output);
    }
    return true;
}

bool agent_kill_service(agent *a, const char *id, uint64_t now_ms)
{
    agent_advance(a, now_ms);
    service *s = agent_find_service(a, id);
    if (s == NULL) {
        return false;
    }
    agent_remove_service(a, s);
    return true;
}

void agent_set_node_health(agent *a, const char *status, const char *output, uint64_t now_ms)
{
    agent_advance(a, now_ms);
    check *c = check_entry(a, "serfHealth");
    if (text_is(c->remote.status, status) && text_is(c->remote.output, output)) {
        return;
    }
    agent_set_text(&c->remote.status, status);
    agent_set_text(&c->remote.output, output);
    c->modify = ++a->raft;
    bump_check(a, c->remote.def, c->modify);
    query_wake(a);
}

/* ---- public: looking --------------------------------------------------------------------- */
void agent_get_stats(const agent *a, agent_stats *out)
{
    *out = a->stats;
    out->index = a->raft;
    for (const agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        out->conns_open++;
        out->conns_waiting += conn->state == CONN_WAITING || conn->state == CONN_HUNG;
    }
}

const char *agent_last_request(const agent *a)
{
    return buf_text(&a->last_request);
}

const char *agent_last_body(const agent *a)
{
    return buf_text(&a->last_body);
}

const char *agent_check_status(const agent *a, const char *id)
{
    const check *c = agent_find_check(a, id);

    return c == NULL ? "" : c->local.status;
}

size_t agent_num_services(const agent *a)
{
    size_t n = 0;

    for (size_t i = 0; i < a->num_services; i++) {
        n += a->services[i]->local != NULL;
    }
    return n;
}

bool agent_has_service(const agent *a, const char *id)
{
    return agent_find_service(a, id) != NULL;
}
