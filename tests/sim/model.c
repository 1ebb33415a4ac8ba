/* The state of the model Consul: catalog, agents, and the faults that lie on them. */
#include "model_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- small things ---------------------------------------------------------------------------- */

void text_clear(model_text *t)
{
    t->len = 0;
}

void text_add(model_text *t, const void *bytes, size_t len)
{
    if (t->len + len + 1 > t->cap) {
        t->cap = 2 * (t->len + len + 1);
        t->bytes = (char *)realloc(t->bytes, t->cap);
        if (t->bytes == NULL) {
            abort();
        }
    }
    if (len > 0) {
        memcpy(t->bytes + t->len, bytes, len);
    }
    t->len += len;
    t->bytes[t->len] = '\0';
}

void text_put(model_text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

void text_put_number(model_text *t, uint64_t number)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    text_add(t, digits + at, sizeof digits - at);
}

const char *model_ip(uint32_t agent)
{
    static const char *const ips[MODEL_AGENTS] = { "10.0.0.1", "10.0.0.2", "10.0.0.3" };
    return ips[agent];
}

const char *model_name(uint32_t agent)
{
    static const char *const names[MODEL_AGENTS] = {
        "agent-0.example", "agent-1.example", "agent-2.example"
    };
    return names[agent];
}

void model_node(uint32_t agent, char name[12], char address[16])
{
    (void)snprintf(name, 12, "agent-%u", (unsigned)agent);
    (void)snprintf(address, 16, "%s", model_ip(agent));
}

bool model_is_on(const model_agent *a, sim_fault fault)
{
    return a->on[fault] != 0;
}

static bool is_anywhere(const model *m, sim_fault fault)
{
    for (uint32_t i = 0; i < m->desc.num_agents; i++) {
        if (model_is_on(&m->agents[i], fault)) {
            return true;
        }
    }
    return false;
}

bool model_has_leader(const model_agent *a)
{
    return !is_anywhere(a->m, FAULT_NO_LEADER) && world_now(a->m->w) >= a->leader_at_ms;
}

bool model_is_up(const model *m, uint32_t nth)
{
    return m->agents[nth].is_up && !model_is_on(&m->agents[nth], FAULT_BLACKHOLE);
}

bool model_is_only_away(const model *m, uint32_t nth)
{
    for (int fault = 0; fault < NUM_FAULTS; fault++) {
        bool is_away = fault == FAULT_KILL || fault == FAULT_TERM || fault == FAULT_BLACKHOLE;
        if (!is_away && model_is_on(&m->agents[nth], (sim_fault)fault)) {
            return false;
        }
    }
    return true;
}

bool model_is_clear(const model *m)
{
    for (int fault = 0; fault < NUM_FAULTS; fault++) {
        if (is_anywhere(m, (sim_fault)fault)) {
            return false;
        }
    }
    return true;
}

static bool is_networks(int fault)
{
    return fault == FAULT_SLOW || fault == FAULT_DRIP || fault == FAULT_SPLIT;
}

uint64_t model_well_since(const model *m, uint32_t nth)
{
    const model_agent *a = &m->agents[nth];
    uint64_t since_ms = a->well_at_ms > m->network_well_at_ms ? a->well_at_ms
                                                              : m->network_well_at_ms;
    for (int fault = 0; fault < NUM_FAULTS; fault++) {
        if (model_is_on(is_networks(fault) ? &m->agents[0] : a, (sim_fault)fault)) {
            return world_now(m->w);
        }
    }
    return a->is_up ? since_ms : world_now(m->w);
}

void model_on_news(model *m, model_news_fn fn, void *user)
{
    m->on_news = fn;
    m->news_user = user;
}

uint64_t model_num_forgotten(const model *m)
{
    return m->num_forgotten;
}

void model_expect_token(model *m, const char *token)
{
    m->has_token = token != NULL;
    m->token_at_ms = world_now(m->w);
    (void)snprintf(m->token, sizeof m->token, "%s", token != NULL ? token : "");
}

uint32_t model_take_retry_after(model *m, uint32_t view)
{
    uint32_t ms = m->views[view].retry_after_ms;
    m->views[view].retry_after_ms = 0;
    return ms;
}

void model_expect_no_index(model *m, uint32_t view)
{
    m->expects_no_index[view] = true;
}

void model_forget_reads(model *m, uint32_t view)
{
    m->expects_no_index[view] = true;
    m->views[view].num_empty = 0;
    m->views[view].is_hidden = false;
    m->views[view].retry_after_ms = 0;
}

void model_tell_filled(model *m, uint32_t view, bool is_filled)
{
    m->views[view].is_filled = is_filled;
}

/* ---- views and the index --------------------------------------------------------------------- */

uint32_t model_add_view(model *m, const catalog_view *question)
{
    catalog_view *v = &m->views[m->num_views];
    memset(v, 0, sizeof *v);
    v->service = question->service;
    v->tags = question->tags;
    v->passing_only = question->passing_only;
    v->worst = question->worst;
    v->wait_ms = question->wait_ms;
    catalog_view_note(v, &m->now, world_now(m->w));
    return m->num_views++;
}

const catalog_view *model_view(const model *m, uint32_t nth)
{
    return &m->views[nth];
}

/* A streamed view goes its own ways; a query without an index is never streamed. */
static bool is_streamed(const peer *p)
{
    return p->agent->m->desc.streams && p->index != 0;
}

const catalog *model_seen_by(const peer *p)
{
    const model_agent *a = p->agent;
    bool is_frozen = is_streamed(p) && a->frozen != NULL;
    return is_frozen ? a->frozen : &a->m->now;
}

/* Consul's rules: a service that has instances has an index of its own; one that has none answers
   with the newest extinction of any service, and from a streamed view with its own old one. */
uint64_t model_index_for(const peer *p)
{
    const catalog *c = model_seen_by(p);
    const catalog_service *s = &c->services[p->agent->m->views[p->view].service];
    if (model_is_on(p->agent, FAULT_GLOBAL_INDEX)) {
        sim_hit(FAULT_GLOBAL_INDEX);
        return c->index;
    }
    if (s->num > 0 || (is_streamed(p) && s->index != 0)) {
        return s->index;
    }
    return c->extinct_index != 0 ? c->extinct_index : c->index;
}

static void note_views(model *m)
{
    for (uint32_t i = 0; i < m->num_views; i++) {
        catalog_view_note(&m->views[i], &m->now, world_now(m->w));
    }
}

static void look_at_all(model *m)
{
    for (uint32_t i = 0; i < m->desc.num_agents; i++) {
        for (peer *p = m->agents[i].peers, *next; p != NULL; p = next) {
            next = p->next;
            peer_look(p);
        }
    }
}

void model_commit(model *m, uint32_t service)
{
    catalog_service *s = &m->now.services[service];
    if (is_anywhere(m, FAULT_STUCK_INDEX)) {
        sim_hit(FAULT_STUCK_INDEX);
        note_views(m);
        return;
    }
    m->now.index += 1 + sim_below(m->random, 3);
    s->index = m->now.index;
    if (s->num == 0) {
        m->now.extinct_index = m->now.index;
    }
    note_views(m);
    look_at_all(m);
}

/* ---- changes --------------------------------------------------------------------------------- */

static sdc_status some_status(sim_random *r)
{
    uint32_t n = sim_below(r, 10);
    return n < 6 ? SDC_STATUS_PASSING : n < 8 ? SDC_STATUS_WARNING : SDC_STATUS_CRITICAL;
}

static void make_instance(model *m, catalog_instance *i, uint32_t service)
{
    sim_random *r = m->random;
    uint32_t node = sim_below(r, 4);
    memset(i, 0, sizeof *i);
    (void)snprintf(i->node, sizeof i->node, "n%u", (unsigned)node);
    (void)snprintf(i->node_address, sizeof i->node_address, "10.9.0.%u", (unsigned)node);
    (void)snprintf(i->id, sizeof i->id, "%s-%u", catalog_service_name(service),
                   (unsigned)sim_below(r, 9));
    if (sim_chance(r, 40)) {
        (void)snprintf(i->address, sizeof i->address, "10.1.%u.%u", (unsigned)sim_below(r, 3),
                       (unsigned)sim_below(r, 5));
    } else if (sim_chance(r, 20)) {
        (void)snprintf(i->address, sizeof i->address, "2001:db8::%u",
                       1 + (unsigned)sim_below(r, 9));
    }
    i->port = (uint16_t)(8000 + sim_below(r, 4));
    i->tags = (uint32_t)sim_next(r) & ((1u << CATALOG_TAGS) - 1);
    i->version = sim_below(r, 4);
    i->weight_passing = sim_below(r, 3);
    i->weight_warning = i->weight_passing > 0 ? sim_below(r, 3) : 0;
    i->node_status = SDC_STATUS_PASSING;
    i->num_checks = sim_below(r, 3);
    for (uint32_t k = 0; k < i->num_checks; k++) {
        (void)snprintf(i->checks[k].id, sizeof i->checks[k].id, "service:%s:%u", i->id,
                       (unsigned)k);
        i->checks[k].status = some_status(r);
    }
}

static void mutate(model *m, catalog_instance *i)
{
    sim_random *r = m->random;
    switch (sim_below(r, 7)) {
    case 0:
        i->tags ^= 1u << sim_below(r, CATALOG_TAGS);
        break;
    case 1:
        i->version = (i->version + 1) % 5;
        break;
    case 2:
        i->weight_passing = 1 + sim_below(r, 9);
        i->weight_warning = sim_below(r, 3);
        break;
    case 3:
        i->port = (uint16_t)(8000 + sim_below(r, 6));
        break;
    case 4:
        i->node_status = i->node_status == SDC_STATUS_PASSING ? SDC_STATUS_CRITICAL
                                                              : SDC_STATUS_PASSING;
        break;
    case 5:
        i->is_in_maintenance = !i->is_in_maintenance;
        break;
    default:
        if (i->num_checks > 0) {
            i->checks[sim_below(r, i->num_checks)].status = some_status(r);
        }
        break;
    }
}

/* One that no agent keeps, or NULL. */
static catalog_instance *some_instance(model *m, catalog_service *s)
{
    for (uint32_t tries = 0; tries < 4 && s->num > 0; tries++) {
        catalog_instance *i = &s->instances[sim_below(m->random, s->num)];
        if (!i->is_registered) {
            return i;
        }
    }
    return NULL;
}

static void add_some(model *m, uint32_t service)
{
    catalog_instance fresh;
    make_instance(m, &fresh, service);
    catalog_settle(&fresh, service);
    if (m->now.services[service].num < CATALOG_INSTANCES - 2) {
        (void)catalog_put(&m->now, service, &fresh);
    }
}

static void remove_external(catalog_service *s)
{
    for (uint32_t i = s->num; i-- > 0;) {
        if (!s->instances[i].is_registered) {
            s->instances[i] = s->instances[--s->num];
        }
    }
}

void model_change(model *m, int which)
{
    uint32_t service = which >= 0 ? (uint32_t)which : sim_below(m->random, CATALOG_SERVICES);
    catalog_service *s = &m->now.services[service];
    uint32_t what = sim_below(m->random, 100);
    catalog_instance *at = some_instance(m, s);
    if (!model_has_leader(&m->agents[0])) {
        return;
    }
    if (at == NULL || what < 25 || s->num < 2) {
        add_some(m, service);
    } else if (what < 27) {
        remove_external(s);
    } else if (what < 45) {
        (void)catalog_remove(&m->now, service, at->node, at->id);
    } else {
        mutate(m, at);
        catalog_settle(at, service);
    }
    sim_trace(world_now(m->w), "change of %s, %u instances", catalog_service_name(service),
              (unsigned)s->num);
    model_commit(m, service);
}

void model_flip_check(model *m)
{
    for (uint32_t i = 0; i < m->desc.num_agents; i++) {
        model_agent *a = &m->agents[i];
        model_local *l = &a->locals[sim_below(m->random, MODEL_LOCALS)];
        for (uint32_t k = 0; l->is_used && a->is_up && k < l->num_checks; k++) {
            if (l->checks[k].ttl_ms == 0) {
                l->checks[k].status = some_status(m->random);
                locals_sync(a);
                return;
            }
        }
    }
}

void model_meddle(model *m, const char *id, bool removes)
{
    for (uint32_t i = 0; i < m->desc.num_agents; i++) {
        model_local *l = (model_local *)(uintptr_t)model_find(m, i, id);
        if (l == NULL || !m->agents[i].is_up) {
            continue;
        }
        sim_hit(FAULT_MEDDLE);
        sim_trace(world_now(m->w), "somebody %s %s", removes ? "removes" : "changes", id);
        if (removes) {
            l->is_used = false;
            m->num_forgotten++;
        } else {
            l->tags ^= 1u << sim_below(m->random, CATALOG_TAGS);
        }
        locals_sync(&m->agents[i]);
    }
}

const model_local *model_find(const model *m, uint32_t nth, const char *id)
{
    const model_agent *a = &m->agents[nth];
    for (uint32_t i = 0; i < MODEL_LOCALS; i++) {
        if (a->locals[i].is_used && strcmp(a->locals[i].id, id) == 0) {
            return &a->locals[i];
        }
    }
    return NULL;
}

/* ---- faults ---------------------------------------------------------------------------------- */

static catalog *copy_catalog(const catalog *c)
{
    catalog *copy = (catalog *)malloc(sizeof *copy);
    if (copy == NULL) {
        abort();
    }
    *copy = *c;
    return copy;
}

void model_snapshot(model *m)
{
    free(m->snapshot);
    m->snapshot = copy_catalog(&m->now);
}

static void forget_everything(model *m)
{
    memset(&m->now, 0, sizeof m->now);
    m->now.index = 5 + sim_below(m->random, 15);
    free(m->snapshot);
    m->snapshot = NULL;
    note_views(m);
}

static void each_peer(model_agent *a, void (*fn)(peer *p))
{
    for (peer *p = a->peers, *next; p != NULL; p = next) {
        next = p->next;
        fn(p);
    }
}

static void kill_peer(peer *p)
{
    p->state = PEER_DEAD;
    world_conn_close(p->conn);
}

static void reset_peer(peer *p)
{
    p->state = PEER_DEAD;
    world_conn_reset(p->conn);
}

static void silence_peer(peer *p)
{
    p->state = PEER_DEAD;
    world_conn_timer_off(p->conn);
}

static void set_mode(model_agent *a)
{
    bool is_black = model_is_on(a, FAULT_BLACKHOLE);
    bool refuses = !a->is_up || model_is_on(a, FAULT_REFUSE);
    world_listen_mode(a->m->w, model_ip(a->nth), MODEL_PORT,
                      is_black ? WORLD_BLACKHOLE : refuses ? WORLD_REFUSES : WORLD_ACCEPTS);
}

static void agent_down(model_agent *a, bool in_order)
{
    a->is_up = false;
    if (in_order) {
        each_peer(a, peer_release);
    }
    each_peer(a, kill_peer);
    set_mode(a);
}

static void agent_up(model_agent *a)
{
    model *m = a->m;
    a->is_up = true;
    if (m->desc.kind == MODEL_DEV) {
        forget_everything(m);
        locals_forget(a);
    } else if (!m->desc.keeps_locals) {
        locals_forget(a);
    }
    if (m->desc.kind == MODEL_SERVER) {
        a->leader_at_ms = world_now(m->w) + sim_below(m->random, 4000);
    }
    locals_restarted(a);
    set_mode(a);
}

static void sync_later(void *user)
{
    locals_sync((model_agent *)user);
}

static void resync_all(model *m, uint32_t most_ms)
{
    for (uint32_t i = 0; i < m->desc.num_agents; i++) {
        world_after(m->w, sim_below(m->random, most_ms + 1), sync_later, &m->agents[i]);
    }
}

/* What is held is answered from the old state, at once; then the new one counts. */
static void restore(model *m)
{
    if (m->snapshot == NULL) {
        return;
    }
    sim_hit(FAULT_RESTORE);
    for (uint32_t i = 0; i < m->desc.num_agents; i++) {
        each_peer(&m->agents[i], peer_release);
    }
    m->now = *m->snapshot;
    note_views(m);
    resync_all(m, 4000);
}

static void set_network(model *m)
{
    const model_agent *a = &m->agents[0];
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.latency_ms = a->on[FAULT_SLOW];
    desc.keep_sent_bytes = 1;
    if (model_is_on(a, FAULT_DRIP)) {
        desc.run_bytes = a->on[FAULT_DRIP] % MODEL_BYTEWISE == 0 ? 1 : 50 + a->on[FAULT_DRIP] % 197;
        desc.run_ms = 1 + a->on[FAULT_DRIP] % 3;
    }
    if (model_is_on(a, FAULT_SPLIT)) {
        uint32_t least = a->on[FAULT_SPLIT] % MODEL_BYTEWISE == 0 ? 1 : 20;
        desc.read_max = least + a->on[FAULT_SPLIT] % 161;
        desc.write_max = least + a->on[FAULT_SPLIT] % 73;
        /* not each second call: of a write and a read in turn it would always be the same one */
        desc.again_every = 3 + a->on[FAULT_SPLIT] % 5;
        desc.early_wait_every = 3;
        desc.reset_discards = a->on[FAULT_SPLIT] % 2 != 0;
    }
    world_set(m->w, &desc);
}

static void set_resolver(model_agent *a)
{
    const char *name = model_name(a->nth);
    uint32_t how = a->on[FAULT_RESOLVER];
    if (how == 0) {
        world_resolve_to(a->m->w, name, model_ip(a->nth), a->nth * 3);
    } else if (how % 3 == 0) {
        world_resolve_never(a->m->w, name);
    } else if (how % 3 == 1) {
        world_resolve_fails(a->m->w, name, "no such name", 20);
    } else {
        world_resolve_to(a->m->w, name, model_ip(a->nth), 4000);
    }
}

/* What happens in the moment in which a fault begins. */
static void begin(model_agent *a, sim_fault fault)
{
    switch (fault) {
    case FAULT_KILL:
    case FAULT_TERM:
        sim_hit(fault);
        agent_down(a, fault == FAULT_TERM);
        break;
    case FAULT_BLACKHOLE:
    case FAULT_HALF_OPEN:
        sim_hit(fault);
        each_peer(a, silence_peer);
        break;
    case FAULT_RESET:
        sim_hit(fault);
        each_peer(a, reset_peer);
        break;
    case FAULT_RESTORE:
        restore(a->m);
        break;
    case FAULT_FROZEN_VIEW:
        a->frozen = copy_catalog(&a->m->now);
        break;
    case FAULT_ACL_DENY:
    case FAULT_ACL_HIDE:
    case FAULT_ACL_PART:
        look_at_all(a->m);
        break;
    default:
        break;
    }
}

void model_fault_on(model *m, uint32_t agent, sim_fault fault, uint32_t param)
{
    model_agent *a = &m->agents[agent];
    a->on[fault] = param != 0 ? param : 1;
    sim_trace(world_now(m->w), "agent %u: %s begins, %u", (unsigned)agent, sim_fault_name(fault),
              (unsigned)param);
    begin(a, fault);
    set_mode(a);
    set_network(m);
    set_resolver(a);
}

void model_fault_off(model *m, uint32_t agent, sim_fault fault)
{
    model_agent *a = &m->agents[agent];
    if (a->on[fault] == 0) {
        return;
    }
    a->on[fault] = 0;
    if (is_networks(fault)) {
        m->network_well_at_ms = world_now(m->w);
    } else {
        a->well_at_ms = world_now(m->w);
    }
    sim_trace(world_now(m->w), "agent %u: %s ends", (unsigned)agent, sim_fault_name(fault));
    if ((fault == FAULT_KILL || fault == FAULT_TERM) && !model_is_on(a, FAULT_KILL) &&
        !model_is_on(a, FAULT_TERM)) {
        agent_up(a);
    } else if (fault == FAULT_PAUSE) {
        each_peer(a, peer_resume);
    } else if (fault == FAULT_NO_LEADER) {
        resync_all(m, 1000);
        look_at_all(m);
    } else if (fault == FAULT_FROZEN_VIEW) {
        free(a->frozen);
        a->frozen = NULL;
        look_at_all(m);
    }
    set_mode(a);
    set_network(m);
    set_resolver(a);
}

/* ---- the model itself ------------------------------------------------------------------------ */

static void free_agent(model_agent *a)
{
    while (a->peers != NULL) {
        peer *p = a->peers;
        a->peers = p->next;
        free(p);
    }
    free(a->frozen);
}

static void model_free(void *user)
{
    model *m = (model *)user;
    for (uint32_t i = 0; i < MODEL_AGENTS; i++) {
        free_agent(&m->agents[i]);
    }
    for (uint32_t i = 0; i < m->num_views; i++) {
        catalog_view_deinit(&m->views[i]);
    }
    locals_deinit(m);
    free(m->snapshot);
    free(m->body.bytes);
    free(m->out.bytes);
    free(m);
}

model *model_create(world *w, sim_random *random, const model_desc *desc)
{
    model *m = (model *)calloc(1, sizeof *m);
    if (m == NULL) {
        abort();
    }
    m->w = w;
    m->random = random;
    m->desc = *desc;
    /* numbers that a double cannot hold are as good as small ones */
    m->now.index = (sim_chance(random, 20) ? (uint64_t)1 << 60 : 5) + sim_below(random, 40);
    locals_init(m);
    for (uint32_t i = 0; i < desc->num_agents; i++) {
        model_agent *a = &m->agents[i];
        world_server server;
        memset(&server, 0, sizeof server);
        server.user = a;
        server.on_accept = peer_on_accept;
        server.on_bytes = peer_on_bytes;
        server.on_close = peer_on_close;
        server.on_timer = peer_on_timer;
        a->m = m;
        a->nth = i;
        a->is_up = true;
        world_listen(w, model_ip(i), MODEL_PORT, &server);
        set_resolver(a);
    }
    set_network(m);
    world_on_destroy(w, model_free, m);
    return m;
}
