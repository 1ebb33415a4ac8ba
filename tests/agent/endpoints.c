/* The endpoints: routing as Go's multiplexer does it, parameters, bodies. */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- writing what is known --------------------------------------------------------------- */
static void write_node_addresses(agent *a, json_out *w)
{
    const char *family = strchr(a->address, ':') == NULL ? "ipv4" : "ipv6";
    static const char *const nets[] = { "lan", "wan" };

    out_key(w, "TaggedAddresses");
    out_open(w, '{');
    for (size_t i = 0; i < 2; i++) {
        buf key = { NULL, 0, 0 };

        buf_fmt(&key, "%s_%s", nets[i], family);
        out_key_text(w, nets[i], a->address);
        out_key_text(w, buf_text(&key), a->address);
        buf_free(&key);
    }
    out_close(w, '}');
}

static void write_node_head(agent *a, json_out *w, const char *meta_key)
{
    out_key_text(w, "ID", a->node_id);
    out_key_text(w, "Node", a->node);
    out_key_text(w, "Address", a->address);
    out_key_text(w, "Datacenter", a->datacenter);
    write_node_addresses(a, w);
    out_key(w, meta_key);
    out_open(w, '{');
    out_key_text(w, "consul-network-segment", "");
    if (agent_is_new(a)) {
        out_key_text(w, "consul-version", "1.22.7");
    }
    out_close(w, '}');
}

static void write_addresses(json_out *w, const char *key, const addresses *list)
{
    if (list->n == 0) {
        return;
    }
    out_key(w, key);
    out_open(w, '{');
    for (size_t i = 0; i < list->n; i++) {
        out_key(w, list->v[i].key);
        out_open(w, '{');
        out_key_text(w, "Address", list->v[i].address);
        out_key_int(w, "Port", list->v[i].port);
        out_close(w, '}');
    }
    out_close(w, '}');
}

static void write_ports(json_out *w, const ports *list)
{
    out_open(w, '[');
    for (size_t i = 0; i < list->n; i++) {
        out_open(w, '{');
        out_key_text(w, "Name", list->v[i].name);
        out_key_int(w, "Port", list->v[i].port);
        out_key(w, "Default");
        out_bool(w, list->v[i].is_default);
        out_close(w, '}');
    }
    out_close(w, ']');
}

static void write_weights(json_out *w, const char *key, const service_def *def)
{
    out_key(w, key);
    out_open(w, '{');
    out_key_int(w, "Passing", def->weight_passing);
    out_key_int(w, "Warning", def->weight_warning);
    out_close(w, '}');
}

static void write_locality(json_out *w, const char *key, const service_def *def)
{
    out_key(w, key);
    out_open(w, '{');
    if (!text_is(def->region, "")) {
        out_key_text(w, "Region", def->region);
    }
    if (!text_is(def->zone, "")) {
        out_key_text(w, "Zone", def->zone);
    }
    out_close(w, '}');
}

static void write_proxy(agent *a, json_out *w, const char *key, const service_def *def)
{
    out_key(w, key);
    out_open(w, '{');
    if (!text_is(def->proxy_destination, "")) {
        out_key_text(w, "DestinationServiceName", def->proxy_destination);
    }
    if (agent_is_new(a)) {
        out_key_text(w, "Mode", "");
    }
    out_key_empty(w, "MeshGateway");
    out_key_empty(w, "Expose");
    out_close(w, '}');
}

static void write_connect(json_out *w, const char *key, const service_def *def)
{
    out_key(w, key);
    out_open(w, '{');
    if (def->is_native) {
        out_key(w, "Native");
        out_bool(w, true);
    }
    out_close(w, '}');
}

static void write_meta(json_out *w, const service_def *def, bool may_be_null)
{
    out_key(w, "Meta");
    if (may_be_null && (!def->has_meta || (w->is_stream && def->meta.n == 0))) {
        out_null(w);
    } else {
        out_pairs(w, &def->meta);
    }
}

static void write_health_service(agent *a, json_out *w, const service *s)
{
    const service_def *def = s->remote;

    out_open(w, '{');
    if (!text_is(def->kind, "")) {
        out_key_text(w, "Kind", def->kind);
    }
    out_key_text(w, "ID", def->id);
    out_key_text(w, "Service", def->name);
    out_key(w, "Tags");
    out_strs(w, &def->tags);
    out_key_text(w, "Address", def->address);
    write_addresses(w, "TaggedAddresses", &def->tagged);
    write_meta(w, def, true);
    if (!agent_is_new(a) || service_def_port(def) != 0) {
        out_key_int(w, "Port", service_def_port(def));
    }
    if (def->ports.n > 0) {
        out_key(w, "Ports");
        write_ports(w, &def->ports);
    }
    if (!text_is(def->socket_path, "")) {
        out_key_text(w, "SocketPath", def->socket_path);
    }
    write_weights(w, "Weights", def);
    out_key(w, "EnableTagOverride");
    out_bool(w, def->enable_tag_override);
    if (def->has_locality) {
        write_locality(w, "Locality", def);
    }
    write_proxy(a, w, "Proxy", def);
    write_connect(w, "Connect", def);
    if (agent_is_new(a)) {
        out_key_text(w, "PeerName", "");
    }
    out_key_uint(w, "CreateIndex", s->create);
    out_key_uint(w, "ModifyIndex", s->modify);
    out_close(w, '}');
}

static void write_key_duration(json_out *w, const char *key, int64_t ns)
{
    buf text = { NULL, 0, 0 };

    if (ns != 0) {
        duration_format(&text, ns);
    }
    out_key_text(w, key, buf_text(&text));
    buf_free(&text);
}

void write_check_entry(agent *a, json_out *w, const check_state *state, uint64_t create,
                       uint64_t modify)
{
    const check_def *def = state->def;

    out_open(w, '{');
    out_key_text(w, "Node", a->node);
    out_key_text(w, "CheckID", def->id);
    out_key_text(w, "Name", def->name);
    out_key_text(w, "Status", state->status);
    out_key_text(w, "Notes", def->notes);
    out_key_text(w, "Output", state->output);
    out_key_text(w, "ServiceID", def->service_id);
    out_key_text(w, "ServiceName", def->service_name);
    out_key(w, "ServiceTags");
    out_strs(w, &state->tags);
    out_key_text(w, "Type", def->type);
    if (agent_is_new(a)) {
        write_key_duration(w, "Interval", def->interval_ns);
        write_key_duration(w, "Timeout", def->timeout_ns);
        out_key_int(w, "ExposedPort", 0);
    }
    out_key_empty(w, "Definition");
    out_key_uint(w, "CreateIndex", create);
    out_key_uint(w, "ModifyIndex", modify);
    out_close(w, '}');
}

/* The checks of a service; "": of the node. */
static void write_checks_of(agent *a, json_out *w, const char *service_id)
{
    for (size_t i = 0; i < a->num_checks; i++) {
        const check *c = a->checks[i];

        if (c->remote.def != NULL && text_is(c->remote.def->service_id, service_id)) {
            write_check_entry(a, w, &c->remote, c->create, c->modify);
        }
    }
}

void write_health_entry(agent *a, json_out *w, const service *s)
{
    out_open(w, '{');
    out_key(w, "Node");
    out_open(w, '{');
    write_node_head(a, w, "Meta");
    out_key_uint(w, "CreateIndex", a->node_create);
    out_key_uint(w, "ModifyIndex", a->node_modify);
    out_close(w, '}');
    out_key(w, "Service");
    write_health_service(a, w, s);
    out_key(w, "Checks");
    out_open(w, '[');
    write_checks_of(a, w, "");
    write_checks_of(a, w, s->remote->id);
    out_close(w, ']');
    out_close(w, '}');
}

void write_catalog_entry(agent *a, json_out *w, const service *s)
{
    const service_def *def = s->remote;

    out_open(w, '{');
    write_node_head(a, w, "NodeMeta");
    out_key_text(w, "ServiceKind", def->kind);
    out_key_text(w, "ServiceID", def->id);
    out_key_text(w, "ServiceName", def->name);
    out_key(w, "ServiceTags");
    out_strs(w, &def->tags);
    out_key_text(w, "ServiceAddress", def->address);
    write_addresses(w, "ServiceTaggedAddresses", &def->tagged);
    write_weights(w, "ServiceWeights", def);
    out_key(w, "ServiceMeta");
    out_pairs(w, &def->meta);
    out_key_int(w, "ServicePort", service_def_port(def));
    if (agent_is_new(a)) {
        out_key(w, "ServicePorts");
        if (def->ports.n == 0) {
            out_null(w);
        } else {
            write_ports(w, &def->ports);
        }
        out_key_text(w, "ServiceSocketPath", def->socket_path);
    }
    out_key(w, "ServiceEnableTagOverride");
    out_bool(w, def->enable_tag_override);
    write_proxy(a, w, "ServiceProxy", def);
    write_connect(w, "ServiceConnect", def);
    if (agent_is_new(a) && def->has_locality) {
        write_locality(w, "ServiceLocality", def);
    } else if (agent_is_new(a)) {
        out_key(w, "ServiceLocality");
        out_null(w);
    }
    out_key_uint(w, "CreateIndex", s->create);
    out_key_uint(w, "ModifyIndex", s->modify);
    out_close(w, '}');
}

/* As the agent's own endpoints show it; hash "" leaves ContentHash out. */
static void write_agent_service(agent *a, json_out *w, const service_def *def, const char *hash)
{
    out_open(w, '{');
    if (!text_is(def->kind, "")) {
        out_key_text(w, "Kind", def->kind);
    }
    out_key_text(w, "ID", def->id);
    out_key_text(w, "Service", def->name);
    out_key(w, "Tags");
    out_strs(w, &def->tags);
    write_meta(w, def, false);
    out_key_int(w, "Port", service_def_port(def));
    if (def->ports.n > 0) {
        out_key(w, "Ports");
        write_ports(w, &def->ports);
    }
    out_key_text(w, "Address", def->address);
    if (!text_is(def->socket_path, "")) {
        out_key_text(w, "SocketPath", def->socket_path);
    }
    write_addresses(w, "TaggedAddresses", &def->tagged);
    write_weights(w, "Weights", def);
    out_key(w, "EnableTagOverride");
    out_bool(w, def->enable_tag_override);
    if (!text_is(hash, "")) {
        out_key_text(w, "ContentHash", hash);
    }
    if (text_is(def->kind, "connect-proxy")) {
        write_proxy(a, w, "Proxy", def);
    }
    if (def->is_native) {
        write_connect(w, "Connect", def);
    }
    if (agent_is_new(a)) {
        out_key_text(w, "Datacenter", a->datacenter);
        if (def->has_locality) {
            write_locality(w, "Locality", def);
        }
    }
    out_close(w, '}');
}

/* ---- parameters -------------------------------------------------------------------------- */
static const char *request_token(const request *r)
{
    const char *token = request_param(r, "token");

    if (token != NULL && !text_is(token, "")) {
        return token;
    }
    token = request_header(r, "X-Consul-Token");
    if (token != NULL && !text_is(token, "")) {
        return token;
    }
    token = request_header(r, "Authorization");
    if (token != NULL && strncasecmp(token, "Bearer ", 7) == 0) {
        return token + 7 + strspn(token + 7, " ");
    }
    return "";
}

static bool refuse_enterprise(agent *a, answer *ans, const char *what, const char *name,
                              const char *feature)
{
    answer_error(ans, 400, "%sInvalid %s: \"%s\" - %s are a Consul Enterprise feature",
                 agent_is_new(a) ? "" : "Bad request: ", what, name, feature);
    return false;
}

/* Namespaces and, in the newer profile, partitions: refused where they are not empty. */
static bool check_enterprise(agent *a, const request *r, answer *ans)
{
    const char *ns = request_param(r, "ns");
    const char *ns_header = request_header(r, "X-Consul-Namespace");
    const char *partition = agent_is_new(a) ? request_param(r, "partition") : NULL;
    const char *partition_header = agent_is_new(a) ? request_header(r, "X-Consul-Partition") : NULL;

    if (ns_header != NULL && !text_is(ns_header, "")) {
        return refuse_enterprise(a, ans, "header", "X-Consul-Namespace", "Namespaces");
    }
    if (ns != NULL && !text_is(ns, "")) {
        return refuse_enterprise(a, ans, "query parameter", "ns", "Namespaces");
    }
    if (partition_header != NULL && !text_is(partition_header, "")) {
        return refuse_enterprise(a, ans, "header", "X-Consul-Partition", "Partitions");
    }
    if (partition != NULL && !text_is(partition, "")) {
        return refuse_enterprise(a, ans, "query parameter", "partition", "Partitions");
    }
    return true;
}

static const char *param_or_empty(const request *r, const char *key)
{
    const char *value = request_param(r, key);

    return value == NULL ? "" : value;
}

/* Refused by the parser of parameters, which writes past Consul's own headers. */
static bool refuse_param(answer *ans, const char *text)
{
    answer_error(ans, 400, "%s", text);
    ans->is_sniffed = true;
    return false;
}

static bool parse_consistency(const request *r, query *q, answer *ans)
{
    const char *max_stale = param_or_empty(r, "max_stale");
    int64_t ns = 0;

    q->is_stale = request_param(r, "stale") != NULL;
    q->is_consistent = request_param(r, "consistent") != NULL;
    q->is_cached = request_param(r, "cached") != NULL;
    if (!text_is(max_stale, "") && !duration_parse(max_stale, &ns)) {
        buf text = { NULL, 0, 0 };

        buf_str(&text, "Invalid max_stale value ");
        quote_go(&text, max_stale);
        refuse_param(ans, buf_text(&text));
        buf_free(&text);
        return false;
    }
    q->is_stale = q->is_stale || ns > 0;
    if (q->is_consistent && (q->is_stale || q->is_cached)) {
        return refuse_param(ans, q->is_stale
            ? "Cannot specify ?stale with ?consistent, conflicting semantics."
            : "Cannot specify ?cached with ?consistent, conflicting semantics.");
    }
    return true;
}

static bool check_cache_control(const request *r, answer *ans)
{
    const char *value = request_header(r, "Cache-Control");
    static const char *const names[] = { "max-age=", "stale-if-error=" };

    for (size_t i = 0; value != NULL && i < 2; i++) {
        const char *at = strstr(value, names[i]);

        if (at != NULL) {
            const char *digits = at + strlen(names[i]);
            size_t len = strspn(digits, "0123456789");

            if (len == 0 || (digits[len] != '\0' && strchr(", ", digits[len]) == NULL)) {
                return refuse_param(ans, "Invalid Cache-Control header.");
            }
        }
    }
    return true;
}

static bool parse_wait(const request *r, query *q, answer *ans)
{
    const char *wait = param_or_empty(r, "wait");
    const char *index = param_or_empty(r, "index");

    if (!text_is(wait, "") && !duration_parse(wait, &q->wait_ns)) {
        return refuse_param(ans, "Invalid wait time");
    }
    if (!text_is(index, "")) {
        errno = 0;
        q->index = strtoull(index, NULL, 10);
        if (strspn(index, "0123456789") != strlen(index) || errno == ERANGE) {
            return refuse_param(ans, "Invalid index");
        }
    }
    return true;
}

static void parse_lists(const request *r, query *q)
{
    for (size_t i = 0; i < r->num_params; i++) {
        const char *value = r->params[i].value;

        if (text_is(r->params[i].key, "tag")) {
            strs_add(&q->tags, value, strlen(value));
        } else if (text_is(r->params[i].key, "node-meta")) {
            size_t len = strcspn(value, ":");
            char *key = agent_dup_len(value, len);

            pairs_set(&q->node_meta, key, value[len] == ':' ? value + len + 1 : "");
            free(key);
        }
    }
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = { "1", "t", "T", "TRUE", "true", "True" };
    static const char *const no[] = { "0", "f", "F", "FALSE", "false", "False" };

    for (size_t i = 0; i < 6; i++) {
        if (text_is(text, yes[i]) || text_is(text, no[i])) {
            *out = text_is(text, yes[i]);
            return true;
        }
    }
    return false;
}

static bool parse_passing(const request *r, query *q, answer *ans)
{
    const char *value = request_param(r, "passing");

    q->is_passing = value != NULL;
    if (value != NULL && !text_is(value, "") && !parse_bool(value, &q->is_passing)) {
        answer_error(ans, 400, "Invalid value for ?passing");
        return false;
    }
    return true;
}

static bool parse_query(agent *a, const request *r, query *q, answer *ans)
{
    const char *dc = param_or_empty(r, "dc");

    if (agent_is_new(a) && !text_is(param_or_empty(r, "datacenter"), "")) {
        dc = param_or_empty(r, "datacenter");
    }
    q->dc = agent_dup(text_is(dc, "") ? a->datacenter : dc);
    q->token = agent_dup(request_token(r));
    q->peer = agent_dup(agent_is_new(a) ? param_or_empty(r, "peer") : "");
    q->filter = agent_dup(param_or_empty(r, "filter"));
    q->is_pretty = request_param(r, "pretty") != NULL;
    q->is_near = !text_is(param_or_empty(r, "near"), "");
    q->is_central = request_param(r, "merge-central-config") != NULL;
    parse_lists(r, q);
    return check_enterprise(a, r, ans) && parse_consistency(r, q, ans)
        && check_cache_control(r, ans) && parse_wait(r, q, ans);
}

/* ---- handlers ---------------------------------------------------------------------------- */
/* Of a request whose path goes on with `rest` behind the endpoint's own. True: the answer is ready;
   false: it was sent, or comes later. */
typedef bool (*handler)(agent_conn *conn, const char *rest, answer *ans);

static bool is_pretty(const request *r)
{
    return request_param(r, "pretty") != NULL;
}

static bool start_query(agent_conn *conn, query_kind kind, const char *rest, answer *ans)
{
    query q;

    memset(&q, 0, sizeof q);
    q.kind = kind;
    q.name = agent_dup(rest);
    if (!parse_query(conn->agent, &conn->request, &q, ans)) {
        query_free(&q);
        return true;
    }
    if (kind != QUERY_NAMES && text_is(rest, "")) {
        answer_error(ans, 400, "Missing service name");
        query_free(&q);
        return true;
    }
    if (kind == QUERY_HEALTH && !parse_passing(&conn->request, &q, ans)) {
        query_free(&q);
        return true;
    }
    query_start(conn, &q);
    return false;
}

static bool get_health_service(agent_conn *conn, const char *rest, answer *ans)
{
    return start_query(conn, QUERY_HEALTH, rest, ans);
}

static bool get_health_checks(agent_conn *conn, const char *rest, answer *ans)
{
    return start_query(conn, QUERY_CHECKS, rest, ans);
}

static bool get_catalog_service(agent_conn *conn, const char *rest, answer *ans)
{
    return start_query(conn, QUERY_CATALOG, rest, ans);
}

static bool get_catalog_services(agent_conn *conn, const char *rest, answer *ans)
{
    return start_query(conn, QUERY_NAMES, rest, ans);
}

static bool get_leader(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;
    buf leader = { NULL, 0, 0 };

    (void)rest;
    if (!check_cache_control(&conn->request, ans)) {
        return true;
    }
    json_out w = answer_json(a, ans, is_pretty(&conn->request));
    if (a->has_leader) {
        buf_fmt(&leader, "%s:8300", a->address);
    }
    out_text(&w, buf_text(&leader));
    buf_free(&leader);
    return true;
}

static bool get_self(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;

    (void)rest;
    if (!acl_allow(a, request_token(&conn->request), AGENT_AGENT_READ, a->node, ans)) {
        return true;
    }
    json_out w = answer_json(a, ans, is_pretty(&conn->request));
    out_open(&w, '{');
    out_key(&w, "Config");
    out_open(&w, '{');
    out_key_text(&w, "Datacenter", a->datacenter);
    if (agent_is_new(a)) {
        out_key_text(&w, "PrimaryDatacenter", a->datacenter);
    }
    out_key_text(&w, "NodeName", a->node);
    out_key_text(&w, "NodeID", a->node_id);
    out_key_text(&w, "Revision", "");
    out_key(&w, "Server");
    out_bool(&w, true);
    out_key_text(&w, "Version", agent_is_new(a) ? "1.22.7" : "1.8.7");
    out_close(&w, '}');
    out_key_empty(&w, "DebugConfig");
    out_key(&w, "Member");
    out_open(&w, '{');
    out_key_text(&w, "Name", a->node);
    out_key_text(&w, "Addr", a->address);
    out_key_int(&w, "Port", 8301);
    out_close(&w, '}');
    out_key_empty(&w, "Stats");
    out_key_empty(&w, "Meta");
    out_close(&w, '}');
    return true;
}

static bool resolve(agent_conn *conn, unsigned *rights, answer *ans)
{
    return acl_resolve(conn->agent, request_token(&conn->request), rights, ans);
}

static bool get_services(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;
    unsigned rights = 0;

    (void)rest;
    if (!check_enterprise(a, &conn->request, ans) || !resolve(conn, &rights, ans)) {
        return true;
    }
    json_out w = answer_json(a, ans, is_pretty(&conn->request));
    out_open(&w, '{');
    for (size_t i = 0; i < a->num_services && (rights & AGENT_SERVICE_READ) != 0; i++) {
        const service_def *def = a->services[i]->local;

        if (def != NULL) {
            out_key(&w, def->id);
            write_agent_service(a, &w, def, "");
        }
    }
    out_close(&w, '}');
    return true;
}

static bool get_checks(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;
    unsigned rights = 0;

    (void)rest;
    if (!check_enterprise(a, &conn->request, ans) || !resolve(conn, &rights, ans)) {
        return true;
    }
    json_out w = answer_json(a, ans, is_pretty(&conn->request));
    out_open(&w, '{');
    for (size_t i = 0; i < a->num_checks && (rights & AGENT_SERVICE_READ) != 0; i++) {
        const check *c = a->checks[i];

        if (c->local.def != NULL) {
            out_key(&w, c->local.def->id);
            write_check_entry(a, &w, &c->local, 0, 0);
        }
    }
    out_close(&w, '}');
    return true;
}

/* FNV-1a over the service as it is written without the hash. */
static void content_hash(agent *a, const service_def *def, char hash[17])
{
    buf text = { NULL, 0, 0 };
    json_out w;
    uint64_t h = 0xcbf29ce484222325u;

    memset(&w, 0, sizeof w);
    w.out = &text;
    write_agent_service(a, &w, def, "");
    for (size_t i = 0; i < text.len; i++) {
        h = (h ^ (unsigned char)text.ptr[i]) * 0x100000001b3u;
    }
    snprintf(hash, 17, "%016llx", (unsigned long long)h);
    buf_free(&text);
}

bool agent_service_has_hash(agent *a, const char *id, const char *hash)
{
    const service *s = agent_find_service(a, id);
    char own[17];

    if (s == NULL) {
        return false;
    }
    content_hash(a, s->local, own);
    return text_is(own, hash);
}

void answer_agent_service(agent *a, const char *id, const char *secret, bool asked_pretty,
                          answer *ans)
{
    const service *s = agent_find_service(a, id);
    char hash[17];

    if (s == NULL) {
        answer_error(ans, 404, "unknown service ID: %s", id);
        return;
    }
    if (!acl_allow(a, secret, AGENT_SERVICE_READ, s->local->name, ans)) {
        return;
    }
    content_hash(a, s->local, hash);
    pairs_set(&ans->headers, "X-Consul-Contenthash", hash);
    json_out w = answer_json(a, ans, asked_pretty);
    write_agent_service(a, &w, s->local, hash);
}

static bool get_service(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;
    const request *r = &conn->request;
    const char *hash = param_or_empty(r, "hash");
    unsigned rights = 0;
    query q;

    memset(&q, 0, sizeof q);
    if (!check_enterprise(a, r, ans) || !resolve(conn, &rights, ans) || !parse_wait(r, &q, ans)) {
        return true;
    }
    if (text_is(hash, "") || !agent_service_has_hash(a, rest, hash)) {
        answer_agent_service(a, rest, request_token(r), is_pretty(r), ans);
        return true;
    }
    q.kind = QUERY_AGENT;
    q.name = agent_dup(rest);
    q.hash = agent_dup(hash);
    q.token = agent_dup(request_token(r));
    q.is_pretty = is_pretty(r);
    query_start(conn, &q);
    return false;
}

static bool may_write(agent_conn *conn, const char *name, answer *ans)
{
    return acl_allow(conn->agent, request_token(&conn->request), AGENT_SERVICE_WRITE, name, ans);
}

static bool put_register(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;
    const char *replace = request_param(&conn->request, "replace-existing-checks");
    registration r;
    unsigned rights = 0;

    (void)rest;
    if (!check_enterprise(a, &conn->request, ans)) {
        return true;
    }
    memset(&r, 0, sizeof r);
    if (!register_decode(a, &conn->request.body, &r, ans) || !resolve(conn, &rights, ans)
        || !register_validate(a, &r, ans) || !may_write(conn, r.service->name, ans)) {
        bool does_panic = r.has_null_check && ans->status == 200;

        registration_free(&r);
        if (does_panic) {
            http_cut(conn);         /* as a real agent, which drops the connection */
        }
        return !does_panic;
    }
    const service *old = agent_find_service(a, r.service->id);
    if ((old != NULL && !may_write(conn, old->local->name, ans))
        || !register_late_checks(a, &r, ans)) {
        registration_free(&r);
        return true;
    }
    agent_put_service(a, r.service, r.checks, r.num_checks,
                      replace != NULL && (text_is(replace, "") || text_is(replace, "true")));
    free(r.checks);
    return true;
}

/* With ACLs on the older profile stumbles over the unknown id while it asks whose it is. */
static void refuse_unknown_service(agent *a, const char *id, answer *ans)
{
    if (agent_is_new(a)) {
        answer_error(ans, 404, "Unknown service ID \"%s\". Ensure that the service ID is passed, "
                     "not the service name.", id);
    } else {
        answer_error(ans, 500, "Unknown service {\"%s\" {}}", id);
    }
}

static bool put_deregister(agent_conn *conn, const char *rest, answer *ans)
{
    agent *a = conn->agent;
    unsigned rights = 0;

    if (!check_enterprise(a, &conn->request, ans) || !resolve(conn, &rights, ans)) {
        return true;
    }
    service *s = agent_find_service(a, rest);
    if (s == NULL) {
        if (agent_is_new(a) || acl_is_on(a)) {
            refuse_unknown_service(a, rest, ans);
        } else if (text_is(rest, "")) {
            answer_error(ans, 500, "ServiceID missing");
        }
        return true;
    }
    if (may_write(conn, s->local->name, ans)) {
        agent_remove_service(a, s);
    }
    return true;
}

static bool set_maintenance(agent_conn *conn, const char *rest, bool is_service, answer *ans)
{
    agent *a = conn->agent;
    const char *enable = request_param(&conn->request, "enable");
    unsigned rights = 0;
    bool on = false;

    if (is_service && text_is(rest, "")) {
        answer_error(ans, 400, "Missing service ID");
        return true;
    }
    if (enable == NULL) {
        answer_error(ans, 400, "Missing value for enable");
        return true;
    }
    if (!parse_bool(enable, &on)) {
        buf text = { NULL, 0, 0 };

        quote_go(&text, enable);
        answer_error(ans, 400, "Invalid value for enable: %s", buf_text(&text));
        buf_free(&text);
        return true;
    }
    if (!check_enterprise(a, &conn->request, ans) || !resolve(conn, &rights, ans)) {
        return true;
    }
    const char *reason = param_or_empty(&conn->request, "reason");
    if (!is_service) {
        if (acl_allow(a, request_token(&conn->request), AGENT_NODE_WRITE, a->node, ans)) {
            agent_set_maintenance(a, NULL, on, reason);
        }
        return true;
    }
    service *s = agent_find_service(a, rest);
    if (s == NULL) {
        if (agent_is_new(a) || acl_is_on(a)) {
            refuse_unknown_service(a, rest, ans);
        } else {
            answer_error(ans, 404, "No service registered with ID \"%s\"", rest);
        }
        return true;
    }
    if (may_write(conn, s->local->name, ans)) {
        agent_set_maintenance(a, s, on, reason);
    }
    return true;
}

static bool put_maintenance(agent_conn *conn, const char *rest, answer *ans)
{
    return set_maintenance(conn, rest, true, ans);
}

static bool put_node_maintenance(agent_conn *conn, const char *rest, answer *ans)
{
    return set_maintenance(conn, rest, false, ans);
}

static void update_check(agent_conn *conn, const char *id, const char *status, const char *output,
                         answer *ans)
{
    agent *a = conn->agent;
    unsigned rights = 0;

    if (!check_enterprise(a, &conn->request, ans) || !resolve(conn, &rights, ans)) {
        return;
    }
    check *c = agent_find_check(a, id);
    if (c == NULL && agent_is_new(a)) {
        answer_error(ans, 404, "Unknown check ID \"%s\". Ensure that the check ID is passed, not "
                     "the check name.", id);
        return;
    }
    if (c == NULL && acl_is_on(a)) {
        answer_error(ans, 500, "Unknown check \"%s\"", id);
        return;
    }
    if (c != NULL && !may_write(conn, c->local.def->service_name, ans)) {
        return;
    }
    if (c == NULL || !text_is(c->local.def->type, "ttl")) {
        answer_error(ans, 500, "CheckID \"%s\" does not have associated TTL", id);
        return;
    }
    agent_ttl_update(a, c, status, output);
}

static bool put_check_update(agent_conn *conn, const char *rest, answer *ans)
{
    char *status = NULL;
    char *output = NULL;

    if (register_decode_update(&conn->request.body, &status, &output, ans)) {
        if (!text_is(status, "passing") && !text_is(status, "warning")
            && !text_is(status, "critical")) {
            answer_error(ans, 400, "Invalid check status: '%s'", status);
        } else {
            update_check(conn, rest, status, output, ans);
        }
    }
    free(status);
    free(output);
    return true;
}

static bool put_check_pass(agent_conn *conn, const char *rest, answer *ans)
{
    update_check(conn, rest, "passing", param_or_empty(&conn->request, "note"), ans);
    return true;
}

static bool put_check_warn(agent_conn *conn, const char *rest, answer *ans)
{
    update_check(conn, rest, "warning", param_or_empty(&conn->request, "note"), ans);
    return true;
}

static bool put_check_fail(agent_conn *conn, const char *rest, answer *ans)
{
    update_check(conn, rest, "critical", param_or_empty(&conn->request, "note"), ans);
    return true;
}

/* ---- routing ----------------------------------------------------------------------------- */
typedef struct endpoint { const char *method, *path; handler handle; } endpoint;

/* A path that ends in a slash stands for all below it; the longest one wins. */
static const endpoint endpoints[] = {
    { "PUT", "/v1/agent/service/register", put_register },
    { "PUT", "/v1/agent/service/deregister/", put_deregister },
    { "PUT", "/v1/agent/service/maintenance/", put_maintenance },
    { "PUT", "/v1/agent/maintenance", put_node_maintenance },
    { "PUT", "/v1/agent/check/update/", put_check_update },
    { "PUT", "/v1/agent/check/pass/", put_check_pass },
    { "PUT", "/v1/agent/check/warn/", put_check_warn },
    { "PUT", "/v1/agent/check/fail/", put_check_fail },
    { "GET", "/v1/agent/service/", get_service },
    { "GET", "/v1/agent/services", get_services },
    { "GET", "/v1/agent/checks", get_checks },
    { "GET", "/v1/agent/self", get_self },
    { "GET", "/v1/status/leader", get_leader },
    { "GET", "/v1/health/service/", get_health_service },
    { "GET", "/v1/health/checks/", get_health_checks },
    { "GET", "/v1/catalog/service/", get_catalog_service },
    { "GET", "/v1/catalog/services", get_catalog_services },
};

static const endpoint *find_endpoint(const char *path)
{
    const endpoint *best = NULL;

    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        const endpoint *e = &endpoints[i];
        size_t len = strlen(e->path);
        bool is_match = e->path[len - 1] == '/' ? text_begins(path, e->path)
                                                : text_is(path, e->path);

        if (is_match && (best == NULL || len > strlen(best->path))) {
            best = e;
        }
    }
    return best;
}

/* The path without dot segments and double slashes, as Go's path.Clean with the last slash kept. */
static char *clean_path(const char *path)
{
    buf out = { NULL, 0, 0 };
    size_t len = strlen(path);
    bool ends_in_slash = path[len - 1] == '/';

    for (const char *p = path; *p != '\0';) {
        size_t n = strcspn(p + 1, "/");

        if (n == 2 && p[1] == '.' && p[2] == '.') {
            while (out.len > 0 && out.ptr[--out.len] != '/') {
            }
        } else if (n > 0 && !(n == 1 && p[1] == '.')) {
            buf_add(&out, p, n + 1);
        }
        p += n + 1;
    }
    if (out.len == 0 || ends_in_slash) {
        buf_char(&out, '/');
    } else {
        out.ptr[out.len] = '\0';
    }
    char *text = agent_dup(buf_text(&out));
    buf_free(&out);
    return text;
}

static void write_html(buf *out, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        const char *entity = *p == '<' ? "&lt;" : *p == '>' ? "&gt;" : *p == '&' ? "&amp;"
                           : *p == '"' ? "&#34;" : *p == '\'' ? "&#39;" : NULL;

        if (entity != NULL) {
            buf_str(out, entity);
        } else {
            buf_char(out, *p);
        }
    }
}

static void redirect(agent_conn *conn, const char *path)
{
    const request *r = &conn->request;
    buf target = { NULL, 0, 0 };
    answer ans;

    answer_init(&ans, agent_is_new(conn->agent) ? 307 : 301);
    ans.is_bare = true;
    for (const char *p = path; *p != '\0'; p++) {
        if (*p <= ' ' || strchr("%<>\"?#", *p) != NULL) {
            buf_fmt(&target, "%%%02X", (unsigned char)*p);
        } else {
            buf_char(&target, *p);
        }
    }
    if (!text_is(r->raw_query, "")) {
        buf_fmt(&target, "?%s", r->raw_query);
    }
    pairs_set(&ans.headers, "Location", buf_text(&target));
    if (text_is(r->method, "GET") || text_is(r->method, "HEAD")) {
        pairs_set(&ans.headers, "Content-Type", "text/html; charset=utf-8");
    }
    if (text_is(r->method, "GET")) {
        buf_str(&ans.body, "<a href=\"");
        write_html(&ans.body, buf_text(&target));
        buf_fmt(&ans.body, "\">%s</a>.\n\n",
                ans.status == 307 ? "Temporary Redirect" : "Moved Permanently");
    }
    buf_free(&target);
    http_send(conn, &ans);
}

/* Where Go's multiplexer would send the client; NULL: nowhere. The older one looks at the decoded
   path, the newer one at the path as it came. */
static char *redirect_of(agent_conn *conn)
{
    const request *r = &conn->request;
    const char *path = agent_is_new(conn->agent) ? r->raw_path : r->path;
    char *clean = clean_path(path);
    buf below = { NULL, 0, 0 };

    buf_fmt(&below, "%s/", clean);
    const endpoint *e = find_endpoint(buf_text(&below));
    if (e != NULL && text_is(e->path, buf_text(&below))) {
        free(clean);
        return below.ptr;
    }
    buf_free(&below);
    if (!text_is(clean, path)) {
        return clean;
    }
    free(clean);
    return NULL;
}

static bool is_printable(const char *text)
{
    static const struct { uint32_t from, to; } not[] = {
        { 0x00, 0x1f }, { 0x7f, 0xa0 }, { 0xad, 0xad }, { 0x600, 0x605 }, { 0x61c, 0x61c },
        { 0x1680, 0x1680 }, { 0x2000, 0x200f }, { 0x2028, 0x202f }, { 0x205f, 0x206f },
        { 0x3000, 0x3000 }, { 0xd800, 0xf8ff }, { 0xfeff, 0xfeff }, { 0xfff0, 0xfffb },
        { 0xe0000, 0x10ffff },
    };
    size_t len = strlen(text);

    for (size_t i = 0; i < len;) {
        uint32_t rune = 0;

        i += utf8_rune(text + i, len - i, &rune);
        for (size_t k = 0; k < sizeof not / sizeof not[0]; k++) {
            if (rune >= not[k].from && rune <= not[k].to) {
                return false;
            }
        }
    }
    return true;
}

static void send_not_found(agent_conn *conn)
{
    answer ans;

    answer_init(&ans, 404);
    ans.is_bare = true;
    if (agent_is_new(conn->agent)) {
        buf_str(&ans.body, text_begins(conn->request.path, "/v1/")
            ? "Invalid URL path: not a recognized HTTP API endpoint\n"
            : "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with "
              "'/v1/'\n");
    }
    http_send(conn, &ans);
}

static void send_bare(agent_conn *conn, int status, const char *body)
{
    answer ans;

    answer_init(&ans, status);
    ans.is_bare = true;
    buf_str(&ans.body, body);
    http_send(conn, &ans);
}

/* False: the answer is not to be sent from here. */
static bool handle(agent_conn *conn, const endpoint *e, answer *ans)
{
    const request *r = &conn->request;
    buf allow = { NULL, 0, 0 };

    if (r->is_query_broken) {
        ans->status = 500;
        return true;
    }
    bool is_options = text_is(r->method, "OPTIONS");
    if (is_options || !text_is(r->method, e->method)) {
        buf_fmt(&allow, "OPTIONS,%s", e->method);
        pairs_set(&ans->headers, "Allow", buf_text(&allow));
        buf_free(&allow);
        if (!is_options) {
            answer_error(ans, 405, "method %s not allowed", r->method);
        }
        return true;
    }
    /* The handler may free the request, and the path with it. */
    char *rest = agent_dup(r->path + strlen(e->path));
    bool is_ready = e->handle(conn, rest, ans);
    free(rest);
    if (is_ready && pairs_get(&ans->headers, "Content-Type") != NULL) {
        answer_json_end(conn->agent, ans, is_pretty(&conn->request));
    }
    return is_ready;
}

void endpoint_handle(agent_conn *conn)
{
    const request *r = &conn->request;
    answer ans;

    if (!is_printable(r->path)) {
        send_bare(conn, 400, "");
        return;
    }
    char *target = redirect_of(conn);
    if (target != NULL) {
        redirect(conn, target);
        free(target);
        return;
    }
    const endpoint *e = find_endpoint(r->path);
    if (e == NULL && text_is(r->path, "/")) {
        send_bare(conn, 200, agent_is_new(conn->agent)
            ? "Consul Agent: UI disabled. To enable, set ui_config.enabled=true in the agent "
              "configuration and restart." : "Consul Agent");
        return;
    }
    if (e == NULL) {
        send_not_found(conn);
        return;
    }
    answer_init(&ans, 200);
    if (handle(conn, e, &ans)) {
        http_send(conn, &ans);
    } else {
        answer_free(&ans);
    }
}
