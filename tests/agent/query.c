/* Reading the catalog, and waiting for it to change.

   The older profile, and the newer one in plain reads, answer from the state:
   a blocking query ends when the list's index is higher than the one asked for.
   The newer profile answers blocking health queries from a streaming view. A
   view has an index of its own: that of the list when the view was made, then
   that of each change of this very service. It does not see what happens to
   other services, so its index may be lower than a plain read's. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_WAIT_MS = 300000,       /* default_query_time */
    MAX_WAIT_MS = 600000,           /* max_query_time */
    VIEW_RETRY_MS = 12000,          /* a broken subscription is made anew about so often */
    VIEW_IDLE_MS = 1200000          /* a view that nobody asks is kept so long */
};

void query_free(query *q)
{
    char *const texts[] = { q->name, q->token, q->dc, q->peer, q->filter, q->hash };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    strs_free(&q->tags);
    pairs_free(&q->node_meta);
    memset(q, 0, sizeof *q);
}

/* ---- what belongs to the list ------------------------------------------------------------ */
static bool has_tag(const strs *tags, const char *tag)
{
    for (size_t i = 0; i < tags->n; i++) {
        if (text_is_nocase(tags->v[i], tag)) {
            return true;
        }
    }
    return false;
}

static bool has_node_meta(const agent *a, const query *q)
{
    for (size_t i = 0; i < q->node_meta.n; i++) {
        const pair *want = &q->node_meta.v[i];
        const char *is = text_is(want->key, "consul-network-segment") ? ""
                       : text_is(want->key, "consul-version") && agent_is_new(a) ? "1.22.7" : NULL;

        if (is == NULL || !text_is(is, want->value)) {
            return false;
        }
    }
    return true;
}

static bool is_passing(const agent *a, const service *s)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        const check_state *remote = &a->checks[i]->remote;

        if (remote->def != NULL && (text_is(remote->def->service_id, "")
                                    || text_is(remote->def->service_id, s->remote->id))
            && !text_is(remote->status, "passing")) {
            return false;
        }
    }
    return true;
}

static bool belongs(const agent *a, const query *q, const service *s)
{
    if (s->remote == NULL || !text_is_nocase(s->remote->name, q->name)) {
        return false;
    }
    for (size_t i = 0; i < q->tags.n; i++) {
        if (!has_tag(&s->remote->tags, q->tags.v[i])) {
            return false;
        }
    }
    return has_node_meta(a, q) && (!q->is_passing || is_passing(a, s));
}

/* Names with their tags, as /v1/catalog/services. */
static void write_names(agent *a, json_out *w, unsigned rights)
{
    out_open(w, '{');
    for (size_t i = 0; i < a->num_indexes && (rights & AGENT_SERVICE_READ) != 0; i++) {
        strs tags = { NULL, 0 };

        for (size_t k = 0; k < a->num_services; k++) {
            const service_def *def = a->services[k]->remote;

            for (size_t t = 0; def != NULL && text_is_nocase(def->name, a->indexes[i].name)
                               && t < def->tags.n; t++) {
                if (!has_tag(&tags, def->tags.v[t])) {
                    strs_add(&tags, def->tags.v[t], strlen(def->tags.v[t]));
                }
            }
        }
        out_key(w, a->indexes[i].name);
        out_strs(w, &tags);
        strs_free(&tags);
    }
    out_close(w, '}');
}

static void write_service_checks(agent *a, json_out *w, const query *q, bool *was_filtered,
                                 bool may_read)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        const check *c = a->checks[i];

        if (c->remote.def == NULL || !text_is_nocase(c->remote.def->service_name, q->name)
            || !has_node_meta(a, q)) {
            continue;
        }
        if (!may_read) {
            *was_filtered = true;
            continue;
        }
        write_check_entry(a, w, &c->remote, c->create, c->modify);
    }
}

/* The list; true if ACLs took something out of it. */
static bool write_list(agent *a, json_out *w, const query *q, unsigned rights)
{
    unsigned need = AGENT_SERVICE_READ | AGENT_NODE_READ;
    bool may_read = (rights & need) == need;
    bool was_filtered = false;

    if (q->kind == QUERY_NAMES) {
        write_names(a, w, rights);
        return false;
    }
    out_open(w, '[');
    if (q->kind == QUERY_CHECKS) {
        write_service_checks(a, w, q, &was_filtered, may_read);
    }
    for (size_t i = 0; i < a->num_services && q->kind != QUERY_CHECKS; i++) {
        const service *s = a->services[i];

        if (!text_is(q->peer, "") || !belongs(a, q, s)) {
            continue;
        }
        if (!may_read) {
            was_filtered = true;
        } else if (q->kind == QUERY_HEALTH) {
            write_health_entry(a, w, s);
        } else {
            write_catalog_entry(a, w, s);
        }
    }
    out_close(w, ']');
    return was_filtered;
}

static uint64_t list_index(const agent *a, const query *q)
{
    if (!text_is(q->peer, "") && q->kind != QUERY_CHECKS) {
        return 1;
    }
    if (q->kind == QUERY_NAMES) {
        return a->catalog_index;
    }
    if (q->kind == QUERY_CHECKS) {
        return a->checks_index;     /* of the whole table: any check of any service */
    }
    return agent_index(a, q->name, q->kind != QUERY_CATALOG);
}

/* ---- answers ----------------------------------------------------------------------------- */
static void put_meta(const agent *a, answer *ans, uint64_t index, bool knows_leader,
                     const char *backend)
{
    buf text = { NULL, 0, 0 };

    buf_fmt(&text, "%llu", (unsigned long long)index);
    pairs_set(&ans->headers, "X-Consul-Index", buf_text(&text));
    pairs_set(&ans->headers, "X-Consul-Knownleader", knows_leader ? "true" : "false");
    pairs_set(&ans->headers, "X-Consul-Lastcontact", "0");
    if (agent_is_new(a) && backend != NULL) {
        pairs_set(&ans->headers, "X-Consul-Query-Backend", backend);
    }
    buf_free(&text);
}

static void put_cache(agent_conn *conn, answer *ans, bool is_hit)
{
    if (!conn->query.is_cached) {
        return;
    }
    pairs_set(&ans->headers, "X-Cache", is_hit ? "HIT" : "MISS");
    if (is_hit) {
        pairs_set(&ans->headers, "Age", "0");
    }
}

static void finish(agent_conn *conn, answer *ans)
{
    if (conn->state == CONN_WAITING) {
        conn->agent->stats.blocked++;
    }
    if (conn->view != NULL) {
        conn->view->used_at = conn->agent->now_ms;
    }
    conn->view = NULL;
    query_free(&conn->query);
    http_send(conn, ans);
}

/* An error of the servers, which the older profile dresses with an index. The newer one does so
   where the handler is not that of health queries. */
static void finish_error(agent_conn *conn, answer *ans)
{
    bool is_health = conn->query.kind == QUERY_HEALTH;

    if (!agent_is_new(conn->agent) || !is_health) {
        put_meta(conn->agent, ans, 1, false, "blocking-query");
    }
    finish(conn, ans);
}

static void put_consistency(const query *q, answer *ans)
{
    pairs_set(&ans->headers, "X-Consul-Effective-Consistency",
              q->is_stale ? "stale" : q->is_consistent ? "consistent" : "leader");
}

static void finish_plain(agent_conn *conn, bool is_hit)
{
    agent *a = conn->agent;
    const query *q = &conn->query;
    answer ans;

    answer_init(&ans, 200);
    json_out w = answer_json(a, &ans, q->is_pretty);
    bool was_filtered = write_list(a, &w, q, conn->wait_rights);
    answer_json_end(a, &ans, q->is_pretty);
    put_meta(a, &ans, list_index(a, q), a->has_leader, "blocking-query");
    put_consistency(q, &ans);
    put_cache(conn, &ans, is_hit);
    if (was_filtered && agent_is_new(a) && !text_is(q->token, "")) {
        pairs_set(&ans.headers, "X-Consul-Results-Filtered-By-Acls", "true");
    }
    finish(conn, &ans);
}

static void finish_view(agent_conn *conn, bool is_hit)
{
    agent *a = conn->agent;
    const query *q = &conn->query;
    const view *v = conn->view;
    unsigned rights = 0;
    answer ans;

    answer_init(&ans, 200);
    json_out w = answer_json(a, &ans, q->is_pretty);
    w.is_stream = true;
    if (v->is_frozen) {
        buf_add(&ans.body, buf_text(&v->frozen), v->frozen.len);
    } else if (v->index == 0) {
        buf_str(&ans.body, "[]");
    } else {
        acl_rights(a, q->token, &rights);
        write_list(a, &w, q, rights);
    }
    answer_json_end(a, &ans, q->is_pretty);
    put_meta(a, &ans, v->index == 0 ? 1 : v->index, false, "streaming");
    put_consistency(q, &ans);
    put_cache(conn, &ans, is_hit);
    finish(conn, &ans);
}

/* ---- views ------------------------------------------------------------------------------- */
static void view_free(view *v)
{
    char *const texts[] = { v->key, v->dc, v->name, v->token };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    buf_free(&v->frozen);
    free(v);
}

void query_drop_views(agent *a)
{
    while (a->views != NULL) {
        view *next = a->views->next;

        view_free(a->views);
        a->views = next;
    }
    for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        conn->view = NULL;
    }
}

static bool view_may_follow(const agent *a, const view *v)
{
    unsigned rights = 0;

    return a->has_leader && text_is(v->dc, a->datacenter) && acl_rights(a, v->token, &rights);
}

/* Subscribes: the view has the list of now, under its index of now. */
static void view_follow(const agent *a, view *v, const query *q)
{
    if (!view_may_follow(a, v)) {
        v->retry_at = a->now_ms + VIEW_RETRY_MS;
        return;
    }
    v->retry_at = NEVER;
    v->is_frozen = false;
    buf_clear(&v->frozen);
    v->index = q != NULL ? list_index(a, q) : agent_index(a, v->name, true);
}

/* A view without waiters runs no timer: its attempts up to now are made when it is asked. */
static void view_catch_up(const agent *a, view *v)
{
    if (v->retry_at > a->now_ms) {
        return;
    }
    if (view_may_follow(a, v)) {
        view_follow(a, v, NULL);
        return;
    }
    v->retry_at += ((a->now_ms - v->retry_at) / VIEW_RETRY_MS + 1) * VIEW_RETRY_MS;
}

static char *view_key(const query *q)
{
    buf key = { NULL, 0, 0 };

    buf_fmt(&key, "%s|%s|%s|%d|%s|%s", q->name, q->token, q->dc, q->is_passing, q->peer, q->filter);
    for (size_t i = 0; i < q->tags.n; i++) {
        buf_fmt(&key, "|tag=%s", q->tags.v[i]);
    }
    for (size_t i = 0; i < q->node_meta.n; i++) {
        buf_fmt(&key, "|meta=%s:%s", q->node_meta.v[i].key, q->node_meta.v[i].value);
    }
    char *text = agent_dup(buf_text(&key));
    buf_free(&key);
    return text;
}

static view *view_of(agent *a, const query *q, bool *was_there)
{
    char *key = view_key(q);

    *was_there = true;
    for (view *v = a->views; v != NULL; v = v->next) {
        if (text_is(v->key, key)) {
            free(key);
            view_catch_up(a, v);
            return v;
        }
    }
    view *v = agent_alloc(sizeof *v);
    v->key = key;
    v->name = agent_dup(q->name);
    v->dc = agent_dup(q->dc);
    v->token = agent_dup(q->token);
    v->next = a->views;
    a->views = v;
    view_follow(a, v, q);
    *was_there = false;
    return v;
}

void query_touch(agent *a, const char *name, uint64_t index)
{
    for (view *v = a->views; v != NULL; v = v->next) {
        if (text_is_nocase(v->name, name) && v->retry_at == NEVER) {
            v->index = index;
        }
    }
}

/* Who waits in the view is told at once; who asks later gets the list as it was. */
static void view_freeze(agent *a, view *v)
{
    for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        if (conn->state == CONN_WAITING && conn->view == v) {
            answer ans;

            answer_init(&ans, 200);
            answer_error(&ans, 403, "ACL not found");
            finish(conn, &ans);
        }
    }
    v->retry_at = a->now_ms + VIEW_RETRY_MS;
}

void query_freeze_token(agent *a, const char *secret)
{
    for (view *v = a->views; v != NULL; v = v->next) {
        unsigned need = AGENT_SERVICE_READ | AGENT_NODE_READ;
        unsigned rights = 0;

        if (!text_is(v->token, secret) || v->retry_at != NEVER) {
            continue;
        }
        query q;
        memset(&q, 0, sizeof q);
        q.name = v->name;
        answer list;
        answer_init(&list, 200);
        json_out w = answer_json(a, &list, false);
        w.is_stream = true;
        acl_rights(a, v->token, &rights);
        out_open(&w, '[');
        for (size_t i = 0; i < a->num_services && (rights & need) == need; i++) {
            if (belongs(a, &q, a->services[i])) {
                write_health_entry(a, &w, a->services[i]);
            }
        }
        out_close(&w, ']');
        buf_clear(&v->frozen);
        buf_add(&v->frozen, buf_text(&list.body), list.body.len);
        v->is_frozen = true;
        answer_free(&list);
        view_freeze(a, v);
    }
}

void query_leader_changed(agent *a)
{
    for (view *v = a->views; a->has_leader && v != NULL; v = v->next) {
        if (v->retry_at != NEVER && view_may_follow(a, v)) {
            view_follow(a, v, NULL);
        }
    }
}

static void view_retry(agent *a, view *v)
{
    view_follow(a, v, NULL);
    if (v->retry_at == NEVER || !a->has_leader) {
        return;
    }
    for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        if (conn->state == CONN_WAITING && conn->view == v) {
            answer ans;

            answer_init(&ans, 200);
            if (text_is(v->dc, a->datacenter)) {
                answer_error(&ans, 403, "ACL not found");
            } else {
                answer_error(&ans, 500, "No path to datacenter");
            }
            finish(conn, &ans);
        }
    }
}

static void drop_idle_views(agent *a)
{
    for (view **at = &a->views; *at != NULL;) {
        view *v = *at;
        bool is_used = false;

        for (const agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
            is_used = is_used || conn->view == v;
        }
        if (is_used) {
            v->used_at = a->now_ms;
        }
        if (a->now_ms - v->used_at < VIEW_IDLE_MS) {
            at = &v->next;
            continue;
        }
        *at = v->next;
        view_free(v);
    }
}

/* ---- waiting ----------------------------------------------------------------------------- */
static uint64_t wait_ms(agent *a, const query *q, bool is_stream)
{
    int64_t ns = q->wait_ns;

    if (ns < 0 && is_stream) {
        return NEVER;
    }
    uint64_t ms = ns <= 0 ? DEFAULT_WAIT_MS : ((uint64_t)ns + 999999) / 1000000;
    ms = ms > MAX_WAIT_MS ? MAX_WAIT_MS : ms;
    return is_stream ? ms : ms + agent_random_below(a, ms / 16 + 1);
}

static void begin_wait(agent_conn *conn)
{
    uint64_t ms = wait_ms(conn->agent, &conn->query, conn->view != NULL);

    conn->state = CONN_WAITING;
    conn->wait_until = ms == NEVER ? NEVER : conn->agent->now_ms + ms;
}

/* Whether the same list was asked for with ?cached before; the older profile's agent cache. */
static bool was_cached(agent *a, const query *q)
{
    bool is_hit = false;

    if (!q->is_cached) {
        return false;
    }
    char *key = view_key(q);
    for (size_t i = 0; i < a->cached.n; i++) {
        is_hit = is_hit || text_is(a->cached.v[i], key);
    }
    if (!is_hit) {
        strs_add(&a->cached, key, strlen(key));
    }
    free(key);
    return is_hit;
}

static void refuse_filter(agent_conn *conn, bool is_stream)
{
    answer ans;

    answer_init(&ans, 200);
    answer_error(&ans, 500, "%sSelector \"%s\" is not valid",
                 is_stream ? "" : "Failed to create boolean expression evaluator: ",
                 conn->query.filter);
    finish_error(conn, &ans);
}

static void start_stream(agent_conn *conn)
{
    agent *a = conn->agent;
    bool was_there = false;

    if (!text_is(conn->query.filter, "")) {
        refuse_filter(conn, true);
        return;
    }
    drop_idle_views(a);
    conn->view = view_of(a, &conn->query, &was_there);
    conn->view->used_at = a->now_ms;
    if (conn->view->index > conn->query.index) {
        finish_view(conn, was_there);
        return;
    }
    begin_wait(conn);
}

static void start_plain(agent_conn *conn)
{
    agent *a = conn->agent;
    const query *q = &conn->query;
    answer ans;

    answer_init(&ans, 200);
    if (!text_is(q->dc, a->datacenter)) {
        answer_error(&ans, 500, "No path to datacenter");
        finish_error(conn, &ans);
        return;
    }
    if (!a->has_leader && !q->is_stale) {
        answer_error(&ans, 500, "No cluster leader");
        finish_error(conn, &ans);
        return;
    }
    if (!acl_resolve(a, q->token, &conn->wait_rights, &ans)) {
        finish_error(conn, &ans);
        return;
    }
    answer_free(&ans);
    if (!text_is(q->filter, "")) {
        refuse_filter(conn, false);
        return;
    }
    bool is_hit = was_cached(a, q);
    if (q->index == 0 || list_index(a, q) > q->index) {
        finish_plain(conn, is_hit);
        return;
    }
    begin_wait(conn);
}

void query_start(agent_conn *conn, query *q)
{
    bool is_stream = agent_is_new(conn->agent) && q->kind == QUERY_HEALTH
                  && (q->index > 0 || q->is_cached) && !q->is_near && !q->is_central;

    conn->query = *q;
    memset(q, 0, sizeof *q);
    conn->view = NULL;
    if (conn->query.kind == QUERY_AGENT) {
        begin_wait(conn);
    } else if (is_stream) {
        start_stream(conn);
    } else {
        start_plain(conn);
    }
}

static bool is_ready(const agent_conn *conn)
{
    const query *q = &conn->query;

    if (conn->state != CONN_WAITING) {
        return false;
    }
    if (q->kind == QUERY_AGENT) {
        return !agent_service_has_hash(conn->agent, q->name, q->hash);
    }
    return (conn->view != NULL ? conn->view->index : list_index(conn->agent, q)) > q->index;
}

static void finish_agent_service(agent_conn *conn)
{
    const query *q = &conn->query;
    answer ans;

    answer_init(&ans, 200);
    answer_agent_service(conn->agent, q->name, q->token, q->is_pretty, &ans);
    if (ans.status == 200) {
        answer_json_end(conn->agent, &ans, q->is_pretty);
    }
    finish(conn, &ans);
}

static void end_wait(agent_conn *conn)
{
    if (conn->query.kind == QUERY_AGENT) {
        finish_agent_service(conn);
    } else if (conn->view != NULL) {
        finish_view(conn, false);
    } else {
        finish_plain(conn, false);
    }
}

/* An answer lets the connection's next request go ahead, which may change the catalog again. */
void query_wake(agent *a)
{
    a->wake_again = true;
    if (a->is_waking) {
        return;
    }
    a->is_waking = true;
    while (a->wake_again) {
        a->wake_again = false;
        for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
            if (is_ready(conn)) {
                end_wait(conn);
            }
            http_pump(conn);
        }
    }
    a->is_waking = false;
}

void query_advance(agent *a)
{
    for (view *v = a->views; v != NULL; v = v->next) {
        if (v->retry_at <= a->now_ms) {
            view_retry(a, v);
        }
    }
    for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        if (conn->state == CONN_WAITING && conn->wait_until <= a->now_ms) {
            end_wait(conn);
        }
    }
    drop_idle_views(a);
    query_wake(a);
}

/* Views that nobody waits in need no timer: they look at their time when asked. */
uint64_t query_next_ms(const agent *a)
{
    uint64_t next = NEVER;

    for (const agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        if (conn->state != CONN_WAITING) {
            continue;
        }
        next = conn->wait_until < next ? conn->wait_until : next;
        if (conn->view != NULL && conn->view->retry_at < next) {
            next = conn->view->retry_at;
        }
    }
    return next;
}
