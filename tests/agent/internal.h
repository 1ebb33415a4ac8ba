/* What the files of the embedded agent share. Nothing here is for tests. */
#ifndef SDCONSUL_TESTS_AGENT_INTERNAL_H
#define SDCONSUL_TESTS_AGENT_INTERNAL_H

#include "agent.h"

#if defined(__GNUC__)
#define AGENT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define AGENT_PRINTF(fmt, args)
#endif

#define NEVER UINT64_MAX

/* ---- text.c: memory that cannot fail (the program ends), strings, bytes ------------------ */
void *agent_alloc(size_t size);                     /* zeroed */
void *agent_grow(void *ptr, size_t size);
char *agent_dup(const char *text);
char *agent_dup_len(const char *bytes, size_t len);
void  agent_set_text(char **to, const char *text);  /* frees the old one */
bool  text_is(const char *a, const char *b);
bool  text_is_nocase(const char *a, const char *b);
bool  text_begins(const char *text, const char *prefix);

typedef struct buf { char *ptr; size_t len, cap; } buf;     /* ptr ends with a NUL once it is set */

void buf_add(buf *b, const void *bytes, size_t len);
void buf_str(buf *b, const char *text);
void buf_char(buf *b, char c);
void buf_fmt(buf *b, const char *format, ...) AGENT_PRINTF(2, 3);
void buf_drop(buf *b, size_t n);                    /* the first n bytes */
void buf_clear(buf *b);
void buf_free(buf *b);
const char *buf_text(const buf *b);                 /* never NULL */

typedef struct strs { char **v; size_t n; } strs;
typedef struct pair { char *key, *value; } pair;
typedef struct pairs { pair *v; size_t n; } pairs;

void strs_add(strs *list, const char *text, size_t len);
void strs_free(strs *list);
bool strs_equal(const strs *a, const strs *b);
void pairs_set(pairs *map, const char *key, const char *value);     /* sorted, one per key */
void pairs_free(pairs *map);
bool pairs_equal(const pairs *a, const pairs *b);
const char *pairs_get(const pairs *map, const char *key);           /* NULL: none */

/* As Go's time.ParseDuration and Duration.String. */
bool duration_parse(const char *text, int64_t *ns);
void duration_explain(buf *out, const char *text);  /* the error of one that did not parse */
void duration_format(buf *out, int64_t ns);
size_t utf8_rune(const char *text, size_t len, uint32_t *rune);     /* 1 and U+FFFD if invalid */
void quote_go(buf *out, const char *text);          /* as %q */

/* ---- json_out.c: JSON as Go's encoding/json writes it ------------------------------------ */
typedef struct json_out {
    buf *out;
    int  depth;
    bool is_pretty, is_go_old;      /* before Go 1.22 \b and \f have no short form */
    bool is_first, after_key;
    bool is_stream;                 /* empty maps came as none through the stream */
} json_out;

void out_open(json_out *w, char bracket);           /* '{' or '[' */
void out_close(json_out *w, char bracket);
void out_key(json_out *w, const char *key);
void out_text(json_out *w, const char *text);
void out_int(json_out *w, int64_t n);
void out_uint(json_out *w, uint64_t n);
void out_bool(json_out *w, bool b);
void out_null(json_out *w);
void out_key_text(json_out *w, const char *key, const char *text);
void out_key_uint(json_out *w, const char *key, uint64_t n);
void out_key_int(json_out *w, const char *key, int64_t n);
void out_key_empty(json_out *w, const char *key);   /* {} */
void out_strs(json_out *w, const strs *list);
void out_pairs(json_out *w, const pairs *map);

/* ---- definitions: never changed once registered, so agent and catalog share them --------- */
typedef struct address { char *key, *address; int64_t port; } address;
typedef struct addresses { address *v; size_t n; } addresses;
typedef struct port { char *name; int64_t port; bool is_default; } port;
typedef struct ports { port *v; size_t n; } ports;

typedef struct service_def {
    unsigned  holds;
    char     *id, *name, *kind, *address, *socket_path, *region, *zone, *proxy_destination;
    strs      tags;
    pairs     meta;
    addresses tagged;
    ports     ports;
    int64_t   port, weight_passing, weight_warning;
    bool      has_meta;             /* {} is not null */
    bool      has_weights, enable_tag_override, has_locality, is_native;
} service_def;

typedef struct check_def {
    unsigned holds;
    char    *id, *name, *notes, *status, *service_id, *service_name;
    const char *type;
    char    *http, *h2ping, *tcp, *udp, *grpc, *os_service, *alias_node, *alias_service, *docker;
    strs     args, service_tags;
    int64_t  interval_ns, timeout_ns, ttl_ns, deregister_ns;
    int64_t  failures_before_warning, failures_before_critical, output_max;
} check_def;

service_def *service_def_hold(service_def *def);
void         service_def_release(service_def *def);
bool         service_def_equal(const service_def *a, const service_def *b);
int64_t      service_def_port(const service_def *def);
check_def   *check_def_hold(check_def *def);
void         check_def_release(check_def *def);
bool         check_def_equal(const check_def *a, const check_def *b);
address     *addresses_add(addresses *list, const char *key);
const address *addresses_get(const addresses *list, const char *key);

/* ---- state: what the agent knows, and beside it what the catalog got of it --------------- */
typedef struct service {
    char        *id;
    service_def *local, *remote;    /* NULL: not there */
    bool         in_sync;
    uint64_t     create, modify;
} service;

typedef struct check_state { check_def *def; char *status, *output; strs tags; } check_state;

typedef struct check {
    char       *id;
    check_state local, remote;      /* def NULL: not there */
    bool        in_sync;
    uint64_t    create, modify;
    uint64_t    ttl_at;             /* NEVER: not running */
    uint64_t    defer_at;           /* when an output that changed alone is written; NEVER */
    uint64_t    critical_since;     /* NEVER: it is not */
    char       *last_output;        /* of the last TTL update */
} check;

typedef struct service_index { char *name; uint64_t index; } service_index;

typedef struct acl_token { char *secret, *accessor; unsigned rights; } acl_token;

/* A question for the instances of one service, as parsed from a URL. */
typedef enum query_kind {
    QUERY_HEALTH, QUERY_CHECKS, QUERY_CATALOG, QUERY_NAMES,
    QUERY_AGENT                     /* a service of the agent, by its id and its hash */
} query_kind;

typedef struct query {
    query_kind kind;
    char   *name, *token, *dc, *peer, *filter, *hash;
    strs    tags;
    pairs   node_meta;
    uint64_t index;
    int64_t wait_ns;
    bool    is_passing, is_stale, is_consistent, is_cached, is_near, is_central, is_pretty;
} query;

/* What one streaming subscription of the newer profile holds: its own index, and for a token that
   went away the last list it had. */
typedef struct view {
    struct view *next;
    char    *key, *dc, *name, *token;
    uint64_t index;                 /* 0: nothing has come yet */
    uint64_t retry_at;              /* NEVER: the subscription is well */
    uint64_t used_at;
    bool     is_frozen;
    buf      frozen;
} view;

typedef enum conn_state {
    CONN_READING,                   /* wants the rest of a request */
    CONN_HANDLING,                  /* within a handler: the next request has to wait */
    CONN_WAITING,                   /* a blocking query, until a change or its deadline */
    CONN_HUNG,                      /* never answers */
    CONN_CLOSING                    /* wants close once its bytes are sent */
} conn_state;

typedef struct param { char *key, *value; } param;

typedef struct request {
    char   *method, *path, *raw_path, *raw_query;
    param  *params, *headers;
    size_t  num_params, num_headers;
    buf     head, body;
    int     minor;
    bool    keeps_alive, is_query_broken;
} request;

typedef struct answer {
    int     status;
    pairs   headers;
    buf     body;
    bool    is_sniffed;             /* Content-Type is Go's guess, behind the length */
    bool    is_bare;                /* from Go's own multiplexer: no Vary, no policy */
} answer;

struct agent_conn {
    agent_conn *next;
    agent      *agent;
    conn_state  state;
    buf         in, out;
    size_t      scanned;            /* bytes of `in` known to hold no end of the head */
    bool        did_continue, is_in_head, did_answer, lingers;
    uint64_t    close_at;           /* read_header_timeout or idle_timeout; NEVER */
    request     request;
    query       query;              /* CONN_WAITING */
    view       *view;               /* CONN_WAITING: NULL without streaming */
    unsigned    wait_rights;        /* as they were when the wait began */
    uint64_t    wait_until;
};

struct agent {
    agent_profile profile;
    bool     is_pretty, has_leader;
    char    *node, *node_id, *address, *datacenter, *management;
    uint64_t now_ms, started_ms, reap_at, random, desc_first_index;
    size_t   max_conns;
    /* catalog */
    uint64_t raft, node_create, node_modify, catalog_index, checks_index, extinction;
    service_index *indexes;
    size_t   num_indexes;
    /* agent, by id */
    service **services;
    size_t   num_services;
    check  **checks;
    size_t   num_checks;
    acl_token *tokens;
    size_t   num_tokens;
    view    *views;
    agent_conn *conns;
    strs     cached;                /* keys asked for with ?cached by the older profile */
    size_t   fail_next, hang_next;
    int      fail_status;
    char    *fail_body;
    bool     is_waking, wake_again;
    agent_stats stats;
    buf      last_request, last_body;
};

/* ---- agent.c ----------------------------------------------------------------------------- */
void     agent_see_time(agent *a, uint64_t now_ms);
uint64_t agent_random_below(agent *a, uint64_t limit);      /* 0 for 0 */
service *agent_find_service(const agent *a, const char *id);    /* local ones */
check   *agent_find_check(const agent *a, const char *id);      /* local ones */
/* Registers; takes the holds that come with the definitions. */
void     agent_put_service(agent *a, service_def *def, check_def **checks, size_t num_checks,
                           bool replace_checks);
void     agent_remove_service(agent *a, service *s);
void     agent_update_check(agent *a, check *c, const char *status, const char *output);
void     agent_ttl_update(agent *a, check *c, const char *status, const char *output);
void     agent_set_maintenance(agent *a, service *s, bool on, const char *reason); /* NULL: node */
/* Writes to the catalog what is not there yet, and answers the queries it ends. */
void     agent_sync(agent *a);
bool     agent_is_new(const agent *a);                 /* the newer profile */
/* The index of a service's list; with_checks where checks are part of it. */
uint64_t agent_index(const agent *a, const char *name, bool with_checks);

/* ---- query.c: reading the catalog, waiting for it ---------------------------------------- */
void     query_start(agent_conn *conn, query *q);   /* takes the query; answers or waits */
void     query_free(query *q);
void     query_wake(agent *a);                      /* after a change */
void     query_advance(agent *a);                   /* ends of waits, views' retries */
uint64_t query_next_ms(const agent *a);
void     query_touch(agent *a, const char *service, uint64_t index);   /* a change of it */
void     query_freeze_token(agent *a, const char *secret);  /* before its rights go */
void     query_drop_views(agent *a);
void     query_leader_changed(agent *a);

/* ---- acl.c ------------------------------------------------------------------------------- */
bool acl_is_on(const agent *a);
/* ~0u: everything. False: no such token. */
bool acl_rights(const agent *a, const char *secret, unsigned *rights);
/* False: refused, and the answer says so. */
bool acl_resolve(agent *a, const char *secret, unsigned *rights, answer *ans);
bool acl_allow(agent *a, const char *secret, unsigned right, const char *resource, answer *ans);

/* ---- json_in.c: a small tree over the header's own decoder ------------------------------- */
typedef enum node_kind {
    NODE_NULL, NODE_BOOL, NODE_NUMBER, NODE_STRING, NODE_OBJECT, NODE_ARRAY
} node_kind;

typedef struct node {
    node_kind kind;
    char     *key, *text;           /* of a member; of a string or number */
    bool      is_true;
    struct node **kids;
    size_t    num_kids;
} node;

/* The first value of the text, as Go's Decoder. NULL: *error says why in Go's words. */
node *node_parse(const buf *text, buf *error);
void  node_free(node *n);

/* ---- register.c -------------------------------------------------------------------------- */
typedef struct registration {
    service_def *service;
    check_def  **checks;
    size_t       num_checks;
    bool         has_null_check;    /* "Checks": [null] makes a real agent panic */
} registration;

/* False: refused, and the answer says so (with a null check it says 200: drop the connection).
   *out is to be freed either way. */
bool register_decode(agent *a, const buf *body, registration *out, answer *ans);
bool register_validate(agent *a, registration *r, answer *ans);
bool register_late_checks(agent *a, registration *r, answer *ans);  /* what AddService refuses */
void registration_free(registration *r);
bool register_decode_update(const buf *body, char **status, char **output, answer *ans);

/* ---- endpoints.c ------------------------------------------------------------------------- */
void endpoint_handle(agent_conn *conn);             /* of conn->request: answers or waits */
void write_health_entry(agent *a, json_out *w, const service *s);
void write_check_entry(agent *a, json_out *w, const check_state *state, uint64_t create,
                       uint64_t modify);
void write_catalog_entry(agent *a, json_out *w, const service *s);
bool agent_service_has_hash(agent *a, const char *id, const char *hash);
void answer_agent_service(agent *a, const char *id, const char *secret, bool asked_pretty,
                          answer *ans);

/* ---- http.c ------------------------------------------------------------------------------ */
void answer_init(answer *ans, int status);
void answer_error(answer *ans, int status, const char *format, ...) AGENT_PRINTF(3, 4);
void answer_free(answer *ans);
void http_send(agent_conn *conn, answer *ans);      /* frees the answer */
json_out answer_json(agent *a, answer *ans, bool asked_pretty);
void answer_json_end(agent *a, answer *ans, bool asked_pretty);
const char *request_header(const request *r, const char *name);     /* NULL: none */
const char *request_param(const request *r, const char *key);       /* the first; NULL: none */
void http_cut(agent_conn *conn);                     /* the process died: nothing more is sent */
void http_advance(agent *a);                        /* header and idle timeouts */
void http_pump(agent_conn *conn);                   /* handles the requests that are whole */
void request_free(request *r);

#endif
