/* PUT /v1/agent/service/register: decoding as strict as the agent's, with its
   words, and what it says about the values. */
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* ---- decoding: the first fault in the order of the document is told ---------------------- */
typedef struct decoder {
    bool is_new;                    /* the newer profile */
    bool is_check_set;              /* something in the check differs from zero */
    buf  error;
} decoder;

typedef enum field_type {
    F_TEXT, F_KIND, F_CHECK_ID, F_INT, F_BOOL, F_STRS, F_MAP, F_HEADER, F_DURATION,
    F_OTHER_ID,                     /* a text that does not make a check one */
   
    F_CHECK, F_CHECKS, F_WEIGHTS, F_TAGGED, F_PORTS, F_LOCALITY, F_PROXY, F_CONNECT
} field_type;

enum { NOWHERE = -1 };              /* known, checked and dropped */

typedef struct field {
    const char *name;
    field_type  type;
    int         offset;
    bool        is_new;             /* not known to the older profile */
    bool        is_aux;             /* spelled with underscores: outside Go's alias struct */
} field;

#define AT(type, member) ((int)offsetof(type, member))

static const field service_fields[] = {
    { "Kind", F_KIND, AT(service_def, kind), false, false },
    { "ID", F_TEXT, AT(service_def, id), false, false },
    { "Name", F_TEXT, AT(service_def, name), false, false },
    { "Tags", F_STRS, AT(service_def, tags), false, false },
    { "Address", F_TEXT, AT(service_def, address), false, false },
    { "TaggedAddresses", F_TAGGED, NOWHERE, false, false },
    { "Meta", F_MAP, AT(service_def, meta), false, false },
    { "Port", F_INT, AT(service_def, port), false, false },
    { "Ports", F_PORTS, NOWHERE, true, false },
    { "SocketPath", F_TEXT, AT(service_def, socket_path), true, false },
    { "Check", F_CHECK, NOWHERE, false, false },
    { "Checks", F_CHECKS, NOWHERE, false, false },
    { "Weights", F_WEIGHTS, NOWHERE, false, false },
    { "Token", F_TEXT, NOWHERE, false, false },
    { "EnableTagOverride", F_BOOL, AT(service_def, enable_tag_override), false, false },
    { "Locality", F_LOCALITY, NOWHERE, true, false },
    { "Proxy", F_PROXY, NOWHERE, false, false },
    { "Connect", F_CONNECT, NOWHERE, false, false },
    { "enable_tag_override", F_BOOL, AT(service_def, enable_tag_override), false, true },
    { "tagged_addresses", F_TAGGED, NOWHERE, false, true },
};

static const field check_fields[] = {
    { "CheckID", F_CHECK_ID, AT(check_def, id), false, false },
    { "Name", F_TEXT, AT(check_def, name), false, false },
    { "Status", F_TEXT, AT(check_def, status), false, false },
    { "Notes", F_TEXT, AT(check_def, notes), false, false },
    { "ScriptArgs", F_STRS, AT(check_def, args), false, false },
    { "HTTP", F_TEXT, AT(check_def, http), false, false },
    { "H2PING", F_TEXT, AT(check_def, h2ping), true, false },
    { "H2PingUseTLS", F_BOOL, NOWHERE, true, false },
    { "Header", F_HEADER, NOWHERE, false, false },
    { "Method", F_TEXT, NOWHERE, false, false },
    { "Body", F_TEXT, NOWHERE, false, false },
    { "DisableRedirects", F_BOOL, NOWHERE, true, false },
    { "TCP", F_TEXT, AT(check_def, tcp), false, false },
    { "TCPUseTLS", F_BOOL, NOWHERE, true, false },
    { "UDP", F_TEXT, AT(check_def, udp), true, false },
    { "Interval", F_DURATION, AT(check_def, interval_ns), false, false },
    { "AliasNode", F_TEXT, AT(check_def, alias_node), false, false },
    { "AliasService", F_TEXT, AT(check_def, alias_service), false, false },
    { "DockerContainerID", F_TEXT, AT(check_def, docker), false, false },
    { "Shell", F_TEXT, NOWHERE, false, false },
    { "GRPC", F_TEXT, AT(check_def, grpc), false, false },
    { "GRPCUseTLS", F_BOOL, NOWHERE, false, false },
    { "OSService", F_TEXT, AT(check_def, os_service), true, false },
    { "TLSServerName", F_TEXT, NOWHERE, true, false },
    { "TLSSkipVerify", F_BOOL, NOWHERE, false, false },
    { "Timeout", F_DURATION, AT(check_def, timeout_ns), false, false },
    { "TTL", F_DURATION, AT(check_def, ttl_ns), false, false },
    { "SuccessBeforePassing", F_INT, NOWHERE, false, false },
    { "FailuresBeforeWarning", F_INT, AT(check_def, failures_before_warning), true, false },
    { "FailuresBeforeCritical", F_INT, AT(check_def, failures_before_critical), false, false },
    { "ProxyHTTP", F_TEXT, NOWHERE, false, false },
    { "ProxyGRPC", F_TEXT, NOWHERE, false, false },
    { "DeregisterCriticalServiceAfter", F_DURATION, AT(check_def, deregister_ns), false, false },
    { "OutputMaxSize", F_INT, AT(check_def, output_max), false, false },
    { "args", F_STRS, AT(check_def, args), false, true },
    { "script_args", F_STRS, AT(check_def, args), false, true },
    { "deregister_critical_service_after", F_DURATION, AT(check_def, deregister_ns), false, true },
    { "docker_container_id", F_TEXT, AT(check_def, docker), false, true },
    { "tls_server_name", F_TEXT, NOWHERE, true, true },
    { "tls_skip_verify", F_BOOL, NOWHERE, false, true },
    { "tcp_use_tls", F_BOOL, NOWHERE, true, true },
    { "grpc_use_tls", F_BOOL, NOWHERE, true, true },
    { "h2ping_use_tls", F_BOOL, NOWHERE, true, true },
    { "ServiceID", F_OTHER_ID, NOWHERE, false, true },
    { "service_id", F_OTHER_ID, NOWHERE, false, true },
};

static const char *const proxy_fields[] = {
    "DestinationServiceName", "DestinationServiceID", "LocalServiceAddress", "LocalServicePort",
    "Config", "Upstreams", "MeshGateway", "Expose", "destination_service_name",
    "destination_service_id", "local_service_address", "local_service_port", "mesh_gateway",
    /* from here on the newer profile alone */
    "Mode", "LocalServiceSocketPath", "TransparentProxy", "AccessLogs", "EnvoyExtensions",
    "local_service_socket_path", "transparent_proxy", "access_logs",
};
enum { NUM_OLD_PROXY_FIELDS = 13 };

static void unknown_field(decoder *d, const char *name)
{
    if (d->error.len == 0) {
        buf_str(&d->error, "json: unknown field ");
        quote_go(&d->error, name);
    }
}

static const char *kind_word(const node *n)
{
    switch (n->kind) {
    case NODE_BOOL:   return "bool";
    case NODE_NUMBER: return "number";
    case NODE_STRING: return "string";
    case NODE_OBJECT: return "object";
    case NODE_ARRAY:  return "array";
    case NODE_NULL:   break;
    }
    return "null";
}

static void mismatch(decoder *d, const node *n, const char *path, const char *type)
{
    bool is_number = n->kind == NODE_NUMBER && text_is(type, "int");

    if (d->error.len == 0) {
        buf_fmt(&d->error, "json: cannot unmarshal %s%s%s into Go struct field %s of type %s",
                kind_word(n), is_number ? " " : "", is_number ? n->text : "", path, type);
    }
}

static void decode_text_as(decoder *d, const node *n, const char *path, const char *type, char **to)
{
    if (n->kind == NODE_STRING) {
        agent_set_text(to, n->text);
    } else if (n->kind != NODE_NULL) {
        mismatch(d, n, path, type);
    }
}

static void decode_text(decoder *d, const node *n, const char *path, char **to)
{
    decode_text_as(d, n, path, "string", to);
}

static void decode_int(decoder *d, const node *n, const char *path, int64_t *to)
{
    char *end = NULL;

    if (n->kind == NODE_NULL) {
        return;
    }
    errno = 0;
    long long value = strtoll(n->text, &end, 10);
    if (n->kind != NODE_NUMBER || *end != '\0' || errno == ERANGE) {
        mismatch(d, n, path, "int");
        return;
    }
    *to = value;
}

static void decode_bool(decoder *d, const node *n, const char *path, bool *to)
{
    if (n->kind == NODE_BOOL) {
        *to = n->is_true;
    } else if (n->kind != NODE_NULL) {
        mismatch(d, n, path, "bool");
    }
}

static void decode_strs(decoder *d, const node *n, const char *path, strs *to)
{
    strs_free(to);
    if (n->kind != NODE_ARRAY && n->kind != NODE_NULL) {
        mismatch(d, n, path, "[]string");
    }
    for (size_t i = 0; n->kind == NODE_ARRAY && i < n->num_kids; i++) {
        char *text = agent_dup("");

        decode_text(d, n->kids[i], path, &text);
        strs_add(to, text, strlen(text));
        free(text);
    }
}

static void decode_map(decoder *d, const node *n, const char *path, pairs *to)
{
    if (n->kind != NODE_OBJECT) {
        if (n->kind != NODE_NULL) {
            mismatch(d, n, path, "map[string]string");
        }
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        char *text = agent_dup("");

        decode_text(d, n->kids[i], path, &text);
        pairs_set(to, n->kids[i]->key, text);
        free(text);
    }
}

static void decode_header(decoder *d, const node *n, const char *path)
{
    if (n->kind != NODE_OBJECT && n->kind != NODE_NULL) {
        mismatch(d, n, path, "map[string][]string");
    }
    for (size_t i = 0; n->kind == NODE_OBJECT && i < n->num_kids; i++) {
        strs list = { NULL, 0 };

        decode_strs(d, n->kids[i], path, &list);
        strs_free(&list);
    }
}

/* Strings and numbers; any other kind is passed over in silence. */
static void decode_duration(decoder *d, const node *n, int64_t *to)
{
    if (n->kind == NODE_NUMBER) {
        *to = (int64_t)strtod(n->text, NULL);
    } else if (n->kind == NODE_STRING && !duration_parse(n->text, to) && d->error.len == 0) {
        duration_explain(&d->error, n->text);
    }
}

static void field_path(const decoder *d, buf *out, const char *before, const field *f)
{
    buf_clear(out);
    buf_str(out, before);
    buf_char(out, '.');
    if (d->is_new && !f->is_aux) {
        buf_str(out, "Alias.");
    }
    buf_str(out, f->name);
}

static const field *find_field(const decoder *d, const field *fields, size_t num_fields,
                               const char *name)
{
    for (size_t i = 0; i < num_fields; i++) {
        if (text_is_nocase(fields[i].name, name) && (d->is_new || !fields[i].is_new)) {
            return &fields[i];
        }
    }
    return NULL;
}

/* Whether a check with this member is more than Go's zero value. */
static bool makes_check(const node *n, const field *f)
{
    bool is_empty = n->num_kids == 0 && !text_is(f->name, "script_args");

    if (f->type == F_DURATION) {
        return false;               /* counts by its value */
    }
    switch (n->kind) {
    case NODE_BOOL:   return n->is_true;
    case NODE_NUMBER: return !text_is(n->text, "0");
    case NODE_STRING: return f->type != F_OTHER_ID && !text_is(n->text, "");
    case NODE_OBJECT: return true;
    case NODE_ARRAY:  return !is_empty;
    case NODE_NULL:   break;
    }
    return false;
}

static void decode_plain(decoder *d, const node *n, const field *f, const char *path, void *base)
{
    char *at = f->offset == NOWHERE ? NULL : (char *)base + f->offset;
    char *text = NULL;
    strs list = { NULL, 0 };
    int64_t number = 0;
    bool flag = false;

    d->is_check_set = d->is_check_set || makes_check(n, f);
    switch (f->type) {
    case F_TEXT: case F_OTHER_ID:
        decode_text(d, n, path, at != NULL ? (char **)(void *)at : &text);
        free(text);
        break;
    case F_KIND:
        decode_text_as(d, n, path, "structs.ServiceKind", (char **)(void *)at);
        break;
    case F_CHECK_ID:
        decode_text_as(d, n, path, "types.CheckID", (char **)(void *)at);
        break;
    case F_INT:
        decode_int(d, n, path, at != NULL ? (int64_t *)(void *)at : &number);
        break;
    case F_BOOL:
        decode_bool(d, n, path, at != NULL ? (bool *)(void *)at : &flag);
        break;
    case F_STRS:
        decode_strs(d, n, path, at != NULL ? (strs *)(void *)at : &list);
        strs_free(&list);
        break;
    case F_HEADER:
        decode_header(d, n, path);
        break;
    case F_MAP:
        decode_map(d, n, path, (pairs *)(void *)at);
        ((service_def *)base)->has_meta = n->kind == NODE_OBJECT;
        break;
    case F_DURATION: case F_CHECK: case F_CHECKS: case F_WEIGHTS: case F_TAGGED:
    case F_PORTS: case F_LOCALITY: case F_PROXY: case F_CONNECT:
        break;
    }
}

/* Go's type of a check while it is decoded, for those who send something else. */
static const char *check_type_name(const decoder *d)
{
    return d->is_new
        ? "struct { Interval interface {}; Timeout interface {}; TTL interface {}; "
          "DeregisterCriticalServiceAfter interface {}; Args []string \"json:\\\"args\\\"\"; "
          "ScriptArgsSnake []string \"json:\\\"script_args\\\"\"; "
          "DeregisterCriticalServiceAfterSnake interface {} "
          "\"json:\\\"deregister_critical_service_after\\\"\"; "
          "DockerContainerIDSnake string \"json:\\\"docker_container_id\\\"\"; "
          "TLSServerNameSnake string \"json:\\\"tls_server_name\\\"\"; "
          "TLSSkipVerifySnake bool \"json:\\\"tls_skip_verify\\\"\"; "
          "TCPUseTLSSnake bool \"json:\\\"tcp_use_tls\\\"\"; "
          "GRPCUseTLSSnake bool \"json:\\\"grpc_use_tls\\\"\"; "
          "H2PingUseTLSSnake bool \"json:\\\"h2ping_use_tls\\\"\"; "
          "ServiceID string \"json:\\\"ServiceID\\\"\"; "
          "ServiceIDSnake string \"json:\\\"service_id\\\"\"; *structs.Alias }"
        : "struct { Interval interface {}; Timeout interface {}; TTL interface {}; "
          "DeregisterCriticalServiceAfter interface {}; Args []string \"json:\\\"args\\\"\"; "
          "ScriptArgsSnake []string \"json:\\\"script_args\\\"\"; "
          "DeregisterCriticalServiceAfterSnake interface {} "
          "\"json:\\\"deregister_critical_service_after\\\"\"; "
          "DockerContainerIDSnake string \"json:\\\"docker_container_id\\\"\"; "
          "TLSSkipVerifySnake bool \"json:\\\"tls_skip_verify\\\"\"; "
          "ServiceID string \"json:\\\"ServiceID\\\"\"; "
          "ServiceIDSnake string \"json:\\\"service_id\\\"\"; *structs.Alias }";
}

/* The durations come after all other fields, each in its own turn. */
static void decode_check_durations(decoder *d, const node *n, check_def *def)
{
    static const char *const order[] = { "Interval", "Timeout", "TTL",
                                         "DeregisterCriticalServiceAfter",
                                         "deregister_critical_service_after" };

    for (size_t k = 0; k < sizeof order / sizeof order[0]; k++) {
        const field *f = find_field(d, check_fields, sizeof check_fields / sizeof check_fields[0],
                                    order[k]);
        int64_t *to = (int64_t *)(void *)((char *)def + f->offset);

        for (size_t i = 0; i < n->num_kids; i++) {
            if (text_is_nocase(n->kids[i]->key, order[k]) && (k < 4 || *to == 0)) {
                decode_duration(d, n->kids[i], to);
            }
        }
        d->is_check_set = d->is_check_set || *to != 0;
    }
}

static check_def *decode_check(decoder *d, const node *n, const char *field_name)
{
    check_def *def = agent_alloc(sizeof *def);
    buf path = { NULL, 0, 0 };
    buf before = { NULL, 0, 0 };

    def->holds = 1;
    d->is_check_set = false;
    buf_fmt(&before, "%s%s", d->is_new ? ".Alias." : ".", field_name);
    if (n->kind != NODE_OBJECT && n->kind != NODE_NULL) {
        mismatch(d, n, buf_text(&before), check_type_name(d));
    }
    for (size_t i = 0; n->kind == NODE_OBJECT && i < n->num_kids; i++) {
        const node *kid = n->kids[i];
        const field *f = find_field(d, check_fields, sizeof check_fields / sizeof check_fields[0],
                                    kid->key);

        if (f == NULL) {
            unknown_field(d, kid->key);
            continue;
        }
        field_path(d, &path, buf_text(&before), f);
        decode_plain(d, kid, f, d->is_new ? buf_text(&path) : buf_text(&before), def);
    }
    if (n->kind == NODE_OBJECT && d->error.len == 0) {
        decode_check_durations(d, n, def);
    }
    buf_free(&path);
    buf_free(&before);
    return def;
}

static void add_check(registration *r, check_def *def)
{
    r->checks = agent_grow(r->checks, (r->num_checks + 1) * sizeof(check_def *));
    r->checks[r->num_checks++] = def;
}

static void decode_checks(decoder *d, const node *n, const char *path, registration *r)
{
    if (n->kind != NODE_ARRAY) {
        if (n->kind != NODE_NULL) {
            mismatch(d, n, path, "structs.CheckTypes");
        }
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        r->has_null_check = r->has_null_check || n->kids[i]->kind == NODE_NULL;
        add_check(r, decode_check(d, n->kids[i], "Checks"));
    }
}

/* An object with a few numbers, texts and flags of its own Go type. */
static bool is_object(decoder *d, const node *n, const char *path, const char *type)
{
    if (n->kind != NODE_OBJECT && n->kind != NODE_NULL) {
        mismatch(d, n, path, type);
    }
    return n->kind == NODE_OBJECT;
}

static void inner_path(const decoder *d, buf *out, const char *type, const char *field_name,
                       const char *name)
{
    buf_clear(out);
    buf_fmt(out, "%s.%s%s.%s", type, d->is_new ? "Alias." : "", field_name, name);
}

static void decode_weights(decoder *d, const node *n, const char *path, service_def *def)
{
    buf inner = { NULL, 0, 0 };

    def->has_weights = false;
    if (!is_object(d, n, path, "structs.Weights")) {
        return;
    }
    def->has_weights = true;
    def->weight_passing = def->weight_warning = 0;
    for (size_t i = 0; i < n->num_kids; i++) {
        bool is_passing = text_is_nocase(n->kids[i]->key, "Passing");

        if (!is_passing && !text_is_nocase(n->kids[i]->key, "Warning")) {
            unknown_field(d, n->kids[i]->key);
            continue;
        }
        inner_path(d, &inner, "Weights", "Weights", is_passing ? "Passing" : "Warning");
        decode_int(d, n->kids[i], buf_text(&inner),
                   is_passing ? &def->weight_passing : &def->weight_warning);
    }
    buf_free(&inner);
}

static void decode_address(decoder *d, const node *n, const char *path, addresses *list)
{
    buf inner = { NULL, 0, 0 };
    address *to = addresses_add(list, n->key);

    if (!is_object(d, n, path, "structs.ServiceAddress")) {
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        bool is_port = text_is_nocase(n->kids[i]->key, "Port");

        inner_path(d, &inner, "ServiceAddress", "TaggedAddresses", is_port ? "Port" : "Address");
        if (is_port) {
            decode_int(d, n->kids[i], buf_text(&inner), &to->port);
        } else if (text_is_nocase(n->kids[i]->key, "Address")) {
            decode_text(d, n->kids[i], buf_text(&inner), &to->address);
        } else {
            unknown_field(d, n->kids[i]->key);
        }
    }
    buf_free(&inner);
}

static void decode_tagged(decoder *d, const node *n, const char *path, service_def *def)
{
    if (!is_object(d, n, path, "map[string]structs.ServiceAddress")) {
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        decode_address(d, n->kids[i], path, &def->tagged);
    }
}

static void decode_port(decoder *d, const node *n, const char *path, ports *list)
{
    buf inner = { NULL, 0, 0 };

    list->v = agent_grow(list->v, (list->n + 1) * sizeof *list->v);
    port *to = &list->v[list->n++];
    memset(to, 0, sizeof *to);
    to->name = agent_dup("");
    if (!is_object(d, n, path, "structs.ServicePort")) {
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        const char *key = n->kids[i]->key;

        inner_path(d, &inner, "ServicePort", "Ports", key);
        if (text_is_nocase(key, "Name")) {
            decode_text(d, n->kids[i], buf_text(&inner), &to->name);
        } else if (text_is_nocase(key, "Port")) {
            decode_int(d, n->kids[i], buf_text(&inner), &to->port);
        } else if (text_is_nocase(key, "Default")) {
            decode_bool(d, n->kids[i], buf_text(&inner), &to->is_default);
        } else {
            unknown_field(d, key);
        }
    }
    buf_free(&inner);
}

static void decode_ports(decoder *d, const node *n, const char *path, service_def *def)
{
    if (n->kind != NODE_ARRAY) {
        if (n->kind != NODE_NULL) {
            mismatch(d, n, path, "structs.ServicePorts");
        }
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        decode_port(d, n->kids[i], path, &def->ports);
    }
}

static void decode_locality(decoder *d, const node *n, const char *path, service_def *def)
{
    buf inner = { NULL, 0, 0 };

    if (!is_object(d, n, path, "structs.Locality")) {
        return;
    }
    def->has_locality = true;
    for (size_t i = 0; i < n->num_kids; i++) {
        bool is_region = text_is_nocase(n->kids[i]->key, "Region");

        if (!is_region && !text_is_nocase(n->kids[i]->key, "Zone")) {
            unknown_field(d, n->kids[i]->key);
            continue;
        }
        inner_path(d, &inner, "Locality", "Locality", is_region ? "Region" : "Zone");
        decode_text(d, n->kids[i], buf_text(&inner), is_region ? &def->region : &def->zone);
    }
    buf_free(&inner);
}

static void decode_proxy(decoder *d, const node *n, const char *path, service_def *def)
{
    size_t num = d->is_new ? sizeof proxy_fields / sizeof proxy_fields[0] : NUM_OLD_PROXY_FIELDS;

    if (!is_object(d, n, path, "structs.ConnectProxyConfig")) {
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        const node *kid = n->kids[i];
        size_t k = 0;

        while (k < num && !text_is_nocase(proxy_fields[k], kid->key)) {
            k++;
        }
        if (k == num) {
            unknown_field(d, kid->key);
        } else if ((k == 0 || text_is(proxy_fields[k], "destination_service_name"))
                   && kid->kind == NODE_STRING) {
            agent_set_text(&def->proxy_destination, kid->text);
        }
    }
}

/* What is unknown here is let through by real agents, too. */
static void decode_connect(decoder *d, const node *n, const char *path, service_def *def)
{
    buf inner = { NULL, 0, 0 };

    if (!is_object(d, n, path, "struct { SidecarServiceSnake *structs.ServiceDefinition "
                   "\"json:\\\"sidecar_service\\\"\"; *structs.Alias }")) {
        return;
    }
    buf_fmt(&inner, "%s%s", path, d->is_new ? ".Alias.Native" : "");
    for (size_t i = 0; i < n->num_kids; i++) {
        if (text_is_nocase(n->kids[i]->key, "Native")) {
            decode_bool(d, n->kids[i], buf_text(&inner), &def->is_native);
        }
    }
    buf_free(&inner);
}

static void decode_service_field(decoder *d, const node *n, const field *f, registration *r,
                                 check_def **single)
{
    service_def *def = r->service;
    buf path = { NULL, 0, 0 };

    field_path(d, &path, "", f);
    switch (f->type) {
    case F_CHECK:
        check_def_release(*single);
        *single = decode_check(d, n, "Check");
        if (!d->is_check_set) {
            check_def_release(*single);
            *single = NULL;
        }
        break;
    case F_CHECKS:   decode_checks(d, n, buf_text(&path), r);       break;
    case F_WEIGHTS:  decode_weights(d, n, buf_text(&path), def);    break;
    case F_TAGGED:   decode_tagged(d, n, buf_text(&path), def);     break;
    case F_PORTS:    decode_ports(d, n, buf_text(&path), def);      break;
    case F_LOCALITY: decode_locality(d, n, buf_text(&path), def);   break;
    case F_PROXY:    decode_proxy(d, n, buf_text(&path), def);      break;
    case F_CONNECT:  decode_connect(d, n, buf_text(&path), def);    break;
    case F_TEXT: case F_KIND: case F_CHECK_ID: case F_INT: case F_BOOL: case F_STRS: case F_MAP:
    case F_HEADER: case F_DURATION: case F_OTHER_ID:
        decode_plain(d, n, f, buf_text(&path), def);
        break;
    }
    buf_free(&path);
}

static void put_first(registration *r, check_def *def)
{
    add_check(r, def);
    memmove(r->checks + 1, r->checks, (r->num_checks - 1) * sizeof(check_def *));
    r->checks[0] = def;
}

static void decode_service(decoder *d, const node *root, registration *r)
{
    check_def *single = NULL;

    if (root->kind != NODE_OBJECT) {
        if (root->kind != NODE_NULL) {
            buf_fmt(&d->error, "json: cannot unmarshal %s into Go value of type struct { "
                    "EnableTagOverrideSnake bool \"json:\\\"enable_tag_override\\\"\"; "
                    "TaggedAddressesSnake map[string]structs.ServiceAddress "
                    "\"json:\\\"tagged_addresses\\\"\"; *structs.Alias }", kind_word(root));
        }
        return;
    }
    for (size_t i = 0; i < root->num_kids; i++) {
        const field *f = find_field(d, service_fields,
                                    sizeof service_fields / sizeof service_fields[0],
                                    root->kids[i]->key);

        if (f == NULL) {
            unknown_field(d, root->kids[i]->key);
        } else {
            decode_service_field(d, root->kids[i], f, r, &single);
        }
    }
    if (single != NULL) {
        put_first(r, single);
    }
}

static void fill_text(char **text)
{
    if (*text == NULL) {
        *text = agent_dup("");
    }
}

/* No text of a definition is NULL from here on. */
static void fill_texts(registration *r)
{
    service_def *s = r->service;
    char **const texts[] = { &s->id, &s->name, &s->kind, &s->address, &s->socket_path, &s->region,
                             &s->zone, &s->proxy_destination };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fill_text(texts[i]);
    }
    for (size_t k = 0; k < r->num_checks; k++) {
        check_def *c = r->checks[k];
        char **const more[] = { &c->id, &c->name, &c->notes, &c->status, &c->service_id,
                                &c->service_name, &c->http, &c->h2ping, &c->tcp, &c->udp,
                                &c->grpc, &c->os_service, &c->alias_node, &c->alias_service,
                                &c->docker };

        for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
            fill_text(more[i]);
        }
        c->type = "";
    }
}

bool register_decode(agent *a, const buf *body, registration *out, answer *ans)
{
    decoder d;
    memset(&d, 0, sizeof d);
    d.is_new = agent_is_new(a);
    out->service = agent_alloc(sizeof *out->service);
    out->service->holds = 1;
    node *root = node_parse(body, &d.error);
    if (root != NULL) {
        decode_service(&d, root, out);
    }
    node_free(root);
    fill_texts(out);
    bool is_good = d.error.len == 0;
    if (!is_good) {
        answer_error(ans, 400, "Request decode failed: %s", buf_text(&d.error));
    } else if (text_is(out->service->name, "")) {
        answer_error(ans, 400, "Missing service name");
        is_good = false;
    } else if (text_is(out->service->address, "0.0.0.0") || text_is(out->service->address, "::")
               || text_is(out->service->address, "[::]")) {
        answer_error(ans, 400, "Invalid service address");
        is_good = false;
    }
    buf_free(&d.error);
    if (is_good && text_is(out->service->id, "")) {
        agent_set_text(&out->service->id, out->service->name);
    }
    return is_good;
}

bool register_decode_update(const buf *body, char **status, char **output, answer *ans)
{
    decoder d;
    memset(&d, 0, sizeof d);
    node *root = node_parse(body, &d.error);
    *status = agent_dup("");
    *output = agent_dup("");
    if (root != NULL && root->kind != NODE_OBJECT && root->kind != NODE_NULL) {
        buf_fmt(&d.error, "json: cannot unmarshal %s into Go value of type agent.checkUpdate",
                kind_word(root));
    }
    for (size_t i = 0; root != NULL && root->kind == NODE_OBJECT && i < root->num_kids; i++) {
        const node *kid = root->kids[i];

        if (text_is_nocase(kid->key, "Status")) {
            decode_text(&d, kid, "checkUpdate.Status", status);
        } else if (text_is_nocase(kid->key, "Output")) {
            decode_text(&d, kid, "checkUpdate.Output", output);
        } else {
            unknown_field(&d, kid->key);
        }
    }
    node_free(root);
    bool is_good = d.error.len == 0;
    if (!is_good) {
        answer_error(ans, 400, "Request decode failed: %s", buf_text(&d.error));
    }
    buf_free(&d.error);
    return is_good;
}

void registration_free(registration *r)
{
    service_def_release(r->service);
    for (size_t i = 0; i < r->num_checks; i++) {
        check_def_release(r->checks[i]);
    }
    free(r->checks);
    memset(r, 0, sizeof *r);
}

/* ---- values ------------------------------------------------------------------------------ */
static const char *weights_fault(const service_def *def)
{
    if (def->weight_passing < 1) {
        return "Passing must be greater than 0";
    }
    if (def->weight_warning < 0) {
        return "Warning must be greater or equal than 0";
    }
    if (def->weight_passing > 65535 || def->weight_warning > 65535) {
        return "DNS Weight must be between 0 and 65535";
    }
    return NULL;
}

static const char *meta_fault(const char *key, const char *value)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

    if (text_is(key, "")) {
        return "Key cannot be blank";
    }
    if (strspn(key, good) != strlen(key)) {
        return "Key contains invalid characters";
    }
    if (strlen(key) > 128) {
        return "Key is too long (limit: 128 characters)";
    }
    if (text_begins(key, "consul-")) {
        return "Key prefix 'consul-' is reserved for internal use";
    }
    if (strlen(value) > 512) {
        return "Value is too long (limit: 512 characters)";
    }
    return NULL;
}

static bool check_meta(const pairs *meta, answer *ans)
{
    if (meta->n > 64) {
        answer_error(ans, 400, "Invalid Service Meta: Node metadata cannot contain more than 64 "
                     "key/value pairs");
        return false;
    }
    for (size_t i = 0; i < meta->n; i++) {
        const char *fault = meta_fault(meta->v[i].key, meta->v[i].value);

        if (fault != NULL) {
            answer_error(ans, 400, "Invalid Service Meta: Couldn't load metadata pair ('%s', "
                         "'%s'): %s", meta->v[i].key, meta->v[i].value, fault);
            return false;
        }
    }
    return true;
}

static bool is_blank(const char *text)
{
    return strspn(text, " \t\r\n\v\f") == strlen(text);
}

static void add_fault(strs *faults, const char *text)
{
    strs_add(faults, text, strlen(text));
}

/* The first fault of the named ports. */
static void ports_fault(const ports *list, strs *faults)
{
    bool has_default = false;

    for (size_t i = 0; i < list->n; i++) {
        const port *p = &list->v[i];

        if (is_blank(p->name)) {
            add_fault(faults, "Ports.Name cannot be empty");
            return;
        }
        if (p->port <= 0) {
            add_fault(faults, "Ports.Port must be greater than zero");
            return;
        }
        for (size_t k = 0; k < i; k++) {
            if (text_is(list->v[k].name, p->name)) {
                buf text = { NULL, 0, 0 };

                buf_str(&text, "Ports.Name ");
                quote_go(&text, p->name);
                buf_str(&text, " has to be unique");
                add_fault(faults, buf_text(&text));
                buf_free(&text);
                return;
            }
        }
        if (has_default && p->is_default) {
            add_fault(faults, "Only one port can be marked as default");
            return;
        }
        has_default = has_default || p->is_default;
    }
    if (list->n > 0 && !has_default) {
        add_fault(faults, "One of the Ports must be marked as Default");
    }
}

static void service_faults(const agent *a, const service_def *def, strs *faults)
{
    bool is_proxy = text_is(def->kind, "connect-proxy");
    bool lacks_port = is_proxy && def->port == 0 && text_is(def->socket_path, "");

    if (is_blank(def->region) && !is_blank(def->zone)) {
        add_fault(faults, "zone cannot be set without region");
    }
    if (is_proxy && def->ports.n > 0) {
        add_fault(faults, "Ports cannot be set for a connect-proxy");
    }
    if (lacks_port && agent_is_new(a)) {
        add_fault(faults, "Port or SocketPath must be set for a connect-proxy");
    }
    if (is_proxy && is_blank(def->proxy_destination)) {
        add_fault(faults, "Proxy.DestinationServiceName must be non-empty for Connect proxy "
                       "services");
    }
    if (lacks_port && !agent_is_new(a)) {
        add_fault(faults, "Port must be set for a Connect proxy");
    }
    if (def->is_native && agent_is_new(a) && def->port == 0 && text_is(def->socket_path, "")) {
        add_fault(faults, "Port or SocketPath must be set for a Connect native service.");
    }
    if (def->ports.n > 0 && def->port != 0) {
        add_fault(faults, "Cannot set both Port and Ports");
    }
    ports_fault(&def->ports, faults);
}

static bool check_service(const agent *a, const service_def *def, answer *ans)
{
    strs faults = { NULL, 0 };
    buf text = { NULL, 0, 0 };

    service_faults(a, def, &faults);
    buf_fmt(&text, "%s%zu error%s occurred:\n", agent_is_new(a) ? "Validation failed: " : "",
            faults.n, faults.n == 1 ? "" : "s");
    for (size_t i = 0; i < faults.n; i++) {
        buf_fmt(&text, "\t* %s\n", faults.v[i]);
    }
    buf_str(&text, "\n");
    bool is_good = faults.n == 0;
    if (!is_good) {
        answer_error(ans, 400, "%s", buf_text(&text));
    }
    strs_free(&faults);
    buf_free(&text);
    return is_good;
}

static const char *check_fault(const agent *a, const check_def *c)
{
    bool is_probe = c->args.n > 0 || !text_is(c->http, "") || !text_is(c->tcp, "")
        || !text_is(c->udp, "") || !text_is(c->grpc, "") || !text_is(c->h2ping, "")
        || !text_is(c->os_service, "");
    bool is_alias = !text_is(c->alias_node, "") || !text_is(c->alias_service, "");

    if (c->interval_ns > 0 && c->ttl_ns > 0) {
        return "Interval and TTL cannot both be specified";
    }
    if (is_probe && c->interval_ns <= 0) {
        return agent_is_new(a)
            ? "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"
            : "Interval must be > 0 for Script, HTTP, or TCP checks";
    }
    if (is_probe && is_alias) {
        return "Interval cannot be set for Alias checks";
    }
    if (is_alias && c->ttl_ns > 0) {
        return "TTL must be not be set for Alias checks";
    }
    if (!is_probe && !is_alias && c->ttl_ns <= 0) {
        return "TTL must be > 0 for TTL checks";
    }
    if (c->output_max < 0) {
        return "MaxOutputMaxSize must be positive";
    }
    if (c->failures_before_warning > c->failures_before_critical) {
        return "FailuresBeforeWarning can't be higher than FailuresBeforeCritical";
    }
    return NULL;
}

static const char *check_type(const check_def *c)
{
    if (!text_is(c->grpc, "")) {
        return "grpc";
    }
    if (!text_is(c->http, "")) {
        return "http";
    }
    if (c->ttl_ns > 0) {
        return "ttl";
    }
    if (!text_is(c->tcp, "")) {
        return "tcp";
    }
    if (!text_is(c->udp, "")) {
        return "udp";
    }
    if (!text_is(c->alias_node, "") || !text_is(c->alias_service, "")) {
        return "alias";
    }
    if (c->args.n > 0) {
        return text_is(c->docker, "") ? "script" : "docker";
    }
    return !text_is(c->h2ping, "") ? "h2ping" : "os_service";
}

static void complete_check(const registration *r, size_t i)
{
    const service_def *s = r->service;
    check_def *c = r->checks[i];
    buf text = { NULL, 0, 0 };

    if (text_is(c->id, "")) {
        buf_fmt(&text, "service:%s", s->id);
        if (r->num_checks > 1) {
            buf_fmt(&text, ":%zu", i + 1);
        }
        agent_set_text(&c->id, buf_text(&text));
    }
    if (text_is(c->name, "")) {
        buf_clear(&text);
        buf_fmt(&text, "Service '%s' check", s->name);
        agent_set_text(&c->name, buf_text(&text));
    }
    if (text_is(c->status, "")) {
        agent_set_text(&c->status, "critical");
    }
    c->type = check_type(c);
    agent_set_text(&c->service_id, s->id);
    agent_set_text(&c->service_name, s->name);
    for (size_t k = 0; k < s->tags.n; k++) {
        strs_add(&c->service_tags, s->tags.v[k], strlen(s->tags.v[k]));
    }
    buf_free(&text);
}

bool register_validate(agent *a, registration *r, answer *ans)
{
    service_def *def = r->service;

    if (!def->has_weights) {
        def->weight_passing = def->weight_warning = 1;
    }
    const char *fault = weights_fault(def);
    if (fault != NULL) {
        answer_error(ans, 400, "Invalid Weights: %s", fault);
        return false;
    }
    if (!check_meta(&def->meta, ans) || !check_service(a, def, ans)) {
        return false;
    }
    if (r->has_null_check) {
        return false;
    }
    for (size_t i = 0; i < r->num_checks; i++) {
        fault = check_fault(a, r->checks[i]);
        if (fault != NULL) {
            answer_error(ans, 400, "Invalid check: %s", fault);
            return false;
        }
    }
    for (size_t i = 0; i < r->num_checks; i++) {
        const char *status = r->checks[i]->status;

        if (!text_is(status, "") && !text_is(status, "passing") && !text_is(status, "warning")
            && !text_is(status, "critical")) {
            answer_error(ans, 400, "Status for checks must 'passing', 'warning', 'critical'");
            return false;
        }
    }
    for (size_t i = 0; i < r->num_checks; i++) {
        complete_check(r, i);
    }
    return true;
}

/* ---- what the agent refuses later, with 500 ---------------------------------------------- */
static bool is_ip(const char *text, int family)
{
    unsigned char bytes[16];

    return inet_pton(family, text, bytes) == 1;
}

static void add_tagged(service_def *def, const char *key)
{
    if (addresses_get(&def->tagged, key) == NULL) {
        address *to = addresses_add(&def->tagged, key);

        agent_set_text(&to->address, def->address);
        to->port = service_def_port(def);
    }
}

static bool check_tagged(const service_def *def, const char *key, int family, answer *ans)
{
    const address *given = addresses_get(&def->tagged, key);

    if (given != NULL && !is_ip(given->address, family)) {
        answer_error(ans, 500, "Service tagged address \"%s\" must be a valid %s address", key,
                     family == AF_INET ? "ipv4" : "ipv6");
        return false;
    }
    return true;
}

bool register_late_checks(agent *a, registration *r, answer *ans)
{
    service_def *def = r->service;

    (void)a;
    if (!check_tagged(def, "lan_ipv4", AF_INET, ans) || !check_tagged(def, "wan_ipv4", AF_INET, ans)
        || !check_tagged(def, "lan_ipv6", AF_INET6, ans)) {
        return false;
    }
    for (size_t i = 0; i < r->num_checks; i++) {
        if (r->checks[i]->args.n > 0) {
            answer_error(ans, 500, "Scripts are disabled on this agent from remote calls; to "
                         "enable, configure 'enable_script_checks' to true");
            return false;
        }
        if (text_is(r->checks[i]->type, "os_service")) {
            answer_error(ans, 500, "not implemented");
            return false;
        }
    }
    if (is_ip(def->address, AF_INET)) {
        add_tagged(def, "lan_ipv4");
        add_tagged(def, "wan_ipv4");
    } else if (is_ip(def->address, AF_INET6)) {
        add_tagged(def, "lan_ipv6");
        add_tagged(def, "wan_ipv6");
    }
    return true;
}
