#ifndef SDCONSUL_H_INCLUDED
#define SDCONSUL_H_INCLUDED

/* ---- configuration --------------------------------------- [sdc:config] --
   What a program may define before it includes this file.

   SDCONSUL_IMPLEMENTATION   the bodies too; in exactly one file
   SDC_API                   how public functions are declared     (extern)
   SDC_ASSERT(condition)     caller's mistakes; NDEBUG silences    (assert)
   ------------------------------------------------------------------------- */
#ifndef SDC_API
#define SDC_API extern
#endif

/* ---- the public interface ----------------------------------- [sdc:api] --
   Strings    What goes in ends in NUL and is copied; NULL counts as "". What
              comes out ends in NUL, is borrowed and is never NULL.
   Descs      All zero is valid, and a comment in (brackets) says what a zero
              means. SDC_NEVER in a field that ends in _ms switches the thing
              off or makes it last for ever.
   Hooks      Structs of callbacks are copied. What their `user` points to
              outlives the last object and event that were made with them. A
              hook must neither throw nor longjmp.
   Errors     An sdc_error is written on every return, with code SDC_OK after
              success; pass NULL where nobody asks. `*out` is NULL after a
              failure. destroy and release take NULL.
   Holds      An object holds what it was made from. destroy lets go of the
              program's own hold; the order does not matter.
   Threads    One task, one thread at a time. What any thread may call says
              so. A client is shared by tasks on several threads.
   Callbacks  come with no lock held and all state consistent, from sdc_step,
              wait, subscribe, sdc_cache_update and destroy of that very
              object. They may call anything on any object, stop and destroy
              included, but must not step the task that called them: that is
              SDC_ERR_ARG. The call in which a callback destroyed the object
              answers SDC_GONE.
   ------------------------------------------------------------------------- */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SDC_VERSION_MAJOR 0
#define SDC_VERSION_MINOR 1
#define SDC_VERSION_PATCH 0
#define SDC_VERSION \
    (SDC_VERSION_MAJOR * 10000 + SDC_VERSION_MINOR * 100 + SDC_VERSION_PATCH)

#define SDC_NEVER 0xFFFFFFFFu

#ifdef __cplusplus
extern "C" {
#endif

/* -- Results -------------------------------------------------------------- */

/* The first four are answers, the others are failures. */
typedef enum sdc_err {
    SDC_OK = 0,
    SDC_AGAIN,        /* not finished: call again when sdc_task_wants says so */
    SDC_STOPPED,      /* the task was stopped, and what it had to do is done  */
    SDC_GONE,         /* a callback destroyed the object: the pointer is dead */
    SDC_ERR_ARG,      /* an impossible argument; the message names the field  */
    SDC_ERR_NOMEM,
    SDC_ERR_LIMIT,    /* a limit was reached: head, body, depth, instances    */
    SDC_ERR_RESOLVE,  /* no address for the agent's name                      */
    SDC_ERR_CONNECT,
    SDC_ERR_TLS,      /* the transport refused the peer, or the peer it       */
    SDC_ERR_IO,       /* the connection broke in the middle of an exchange    */
    SDC_ERR_TIMEOUT,
    SDC_ERR_HTTP,     /* not HTTP/1.x, or framed wrongly                      */
    SDC_ERR_STATUS,   /* answered, but not 200: http_status and message tell  */
    SDC_ERR_DENIED,   /* 401 and 403                                          */
    SDC_ERR_BUSY,     /* 429, 503 of a rate limit, a full connection table    */
    SDC_ERR_JSON,     /* not JSON (RFC 8259)                                  */
    SDC_ERR_SHAPE,    /* JSON, but not what this endpoint answers             */
    SDC_ERR_EMPTY,    /* nothing to pick from                                 */
    SDC_ERR_USER      /* the program's own, for its callbacks; never ours     */
} sdc_err;

/* The detail behind an sdc_err. */
typedef struct sdc_error {
    int     http_status;            /* 0 unless an answer arrived             */
    int     os_errno;               /* 0 unless a system call failed          */
    sdc_err code;
    char    message[256];           /* one printable line, never with a token */
} sdc_error;

/* A few words for each value, such as "out of memory". Static, never NULL. */
SDC_API const char *sdc_err_str(sdc_err err);

/* The SDC_VERSION that the implementation was compiled from. */
SDC_API int sdc_version(void);

/* -- Hooks ---------------------------------------------------------------- */

typedef struct sdc_task sdc_task;

typedef struct sdc_kv {
    const char *key;
    const char *value;
} sdc_kv;

/* Memory. One function: an old_size of 0 allocates, a new_size of 0 frees and
   answers NULL; a resize that fails leaves `ptr` as it was. Any thread, since
   whoever releases the last hold on an event frees it. */
typedef struct sdc_allocator {
    void *user;
    void *(*resize)(void *user, void *ptr, size_t old_size, size_t new_size);
} sdc_allocator;

typedef enum sdc_log_level {
    SDC_LOG_DEBUG = 0, SDC_LOG_INFO, SDC_LOG_WARN, SDC_LOG_ERROR
} sdc_log_level;

/* Log. One call is one record: fields[0].key is "event", the others depend on
   it. Fields are borrowed for the call. Comes from whichever thread makes the
   thing happen. A token is never in it. */
typedef struct sdc_logger {
    void *user;
    void (*log)(void *user, sdc_log_level level, const sdc_kv *fields,
                size_t num_fields);
    sdc_log_level min_level;        /*                       (everything)     */
} sdc_logger;

/* What a task waits for. */
typedef struct sdc_wants {
    int      fd;                    /* -1: no descriptor to watch             */
    uint32_t serial;                /* differs when fd is another descriptor
                                       under the same number                  */
    bool     readable, writable;    /* either ends the wait; edges will do    */
    int      timeout_ms;            /* from now: step at the latest then;
                                       0 at once, -1 never                    */
    uint64_t deadline_ms;           /* the same on the clock of
                                       sdc_client_now_ms; UINT64_MAX never    */
} sdc_wants;

/* -- The outside world as one table --------------------------------------- */

/* What ends a wait. A member receives it as -1, false, false, UINT64_MAX. */
typedef struct sdc_ready {
    int      fd;
    bool     readable, writable;
    uint64_t at_ms;                 /* or at this time of now_ms              */
} sdc_ready;

typedef struct sdc_ip {
    char text[64];                  /* "10.0.0.1", "fe80::1%eth0"             */
} sdc_ip;

/* Where a stream goes. Borrowed for the call. */
typedef struct sdc_target {
    const char *host;               /* as in the client's address, without
                                       brackets: whom a certificate must name */
    const char *ip;                 /* numeric                                */
    const char *path;               /* of a unix socket; else ""              */
    uint16_t    port;
    bool        tls;                /* the address said https; offer http/1.1
                                       in ALPN, or none                       */
} sdc_target;

/* The library makes no system call but through these. A NULL member means the
   one of POSIX. The stream_ members come together, so do the two of resolve,
   and the three of the waker with wait. To put TLS under the library copy
   *sdc_io_posix(), replace the stream_ members and call the originals from
   them: those ignore `user`.
   None blocks, except wait, and resolve if may_block. For one task one member
   runs at a time.
   SDC_AGAIN means nothing yet: *until says what ends the wait (or sdc_wake
   does), and the member is called again with the same arguments. A descriptor
   named there stays open until stream_close or resolve_end. The library waits
   for a stream only after read or write answered SDC_AGAIN, so bytes that a
   transport holds decrypted are always taken first. Any other answer is a
   failure, and message and os_errno of *error say why. */
typedef struct sdc_io {
    void *user;
    bool  can_tls;                  /* stream_open does https; without it such
                                       an address is refused at create        */
    /* Milliseconds of a clock that never goes back. Any thread. */
    uint64_t (*now_ms)(void *user);
    /* 64 random bits. Any thread. */
    uint64_t (*random)(void *user);
    /* A name to numeric addresses; `host` is never numeric and never
       "localhost". *op is NULL at first and the hook's own; resolve_end
       follows if it was set, finished or not, and no sdc_wake comes after
       that. The one of POSIX asks getaddrinfo if may_block, else it fails. */
    sdc_err (*resolve)(void *user, sdc_task *task, const char *host,
                       bool may_block, void **op, sdc_ip *ips, size_t max_ips,
                       size_t *num_ips, sdc_ready *until, sdc_error *error);
    void    (*resolve_end)(void *user, void *op);
    /* *stream is NULL at first. SDC_OK, once: bytes can flow, a TLS handshake
       included. stream_close follows if *stream was set. */
    sdc_err (*stream_open)(void *user, const sdc_target *target, void **stream,
                           sdc_ready *until, sdc_error *error);
    /* SDC_OK with *len 0 is the peer's orderly end. */
    sdc_err (*stream_read)(void *user, void *stream, void *bytes, size_t max,
                           size_t *len, sdc_ready *until, sdc_error *error);
    sdc_err (*stream_write)(void *user, void *stream, const void *bytes,
                            size_t len, size_t *written, sdc_ready *until,
                            sdc_error *error);
    /* At once: never waits for the peer. */
    void    (*stream_close)(void *user, void *stream);
    /* A waker exists while a step blocks. Waking it before the wait ends the
       next wait. waker_wake: any thread, and signal handlers. */
    sdc_err (*waker_create)(void *user, void **waker, sdc_error *error);
    void    (*waker_wake)(void *user, void *waker);
    void    (*waker_destroy)(void *user, void *waker);
    /* `waker` may be NULL. SDC_OK: ready, woken, interrupted, or time is up;
       the library looks for itself. */
    sdc_err (*wait)(void *user, void *waker, const sdc_wants *wants,
                    sdc_error *error);
    /* A whole file of at most `max` bytes; a longer one is SDC_ERR_LIMIT. */
    sdc_err (*read_file)(void *user, const char *path, char *text, size_t max,
                         size_t *len, sdc_error *error);
} sdc_io;

/* The table that is used where the client's desc gives none. Static. */
SDC_API const sdc_io *sdc_io_posix(void);

/* -- Client: where Consul is and who we are ------------------------------- */

/* The names in (brackets) in capitals are environment variables, read once at
   create, as the official client does. An empty one counts as not set. */
typedef struct sdc_client_desc {
    const char *address;            /* "host:port" | "http://host:port/prefix" |
                                       "https://..." | "unix:///path"
                                       (CONSUL_HTTP_ADDR, 127.0.0.1:8500)     */
    const char *token;              /* ACL token             (see token_file) */
    const char *token_file;         /* trimmed, read anew for each request;
                                       wins over `token`, and both win over
                                       (CONSUL_HTTP_TOKEN_FILE, then
                                       CONSUL_HTTP_TOKEN, then none)          */
    const char *basic_auth;         /* "user:password"    (CONSUL_HTTP_AUTH)  */
    const char *datacenter;         /*                       (the agent's)    */
    const char *ns;                 /*                    (CONSUL_NAMESPACE)  */
    const char *partition;          /*                    (CONSUL_PARTITION)  */
    bool        ignore_environment; /*                       (false)          */
    uint32_t    connect_timeout_ms; /* for each numeric address, a TLS
                                       handshake included    (5000)           */
    uint32_t    request_timeout_ms; /* of requests that do not block on the
                                       server                (15000)          */
    size_t      max_head_bytes;     /* of an answer          (65536)          */
    size_t      max_body_bytes;     /* a body is never held  (256 MiB)        */
    size_t      max_instances;      /* of one answer         (100000)         */
    const sdc_allocator *allocator; /*                       (malloc)         */
    const sdc_logger    *logger;    /*                       (silent)         */
    const sdc_io        *io;        /*                       (POSIX)          */
} sdc_client_desc;

typedef struct sdc_client sdc_client;

/* Makes a client: no connection, no thread, a few hundred bytes. A second
   identity or a second agent is a second client.
   Errors: SDC_ERR_ARG (the message names the field or the environment
   variable), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_client_create(const sdc_client_desc *desc,
                                  sdc_client **out, sdc_error *error);
SDC_API void sdc_client_destroy(sdc_client *client);

/* Uses another token from the next request on. "" sends none, NULL goes back
   to the configured one. Any thread.
   Errors: SDC_ERR_ARG (control characters), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_client_set_token(sdc_client *client, const char *token);

/* The clock of every time in this interface, in milliseconds. Any thread. */
SDC_API uint64_t sdc_client_now_ms(const sdc_client *client);

/* -- What is registered, what is asked for, what is found ----------------- */

/* From better to worse. */
typedef enum sdc_status {
    SDC_STATUS_UNSET = 0, SDC_STATUS_PASSING, SDC_STATUS_WARNING,
    SDC_STATUS_CRITICAL, SDC_STATUS_MAINTENANCE
} sdc_status;

/* A health check. Exactly one of ttl_ms, http, h2ping, tcp, udp, grpc,
   os_service, args, docker_container_id (with args) and alias_service or
   alias_node says the kind (Consul docs: api-docs/agent/check). */
typedef struct sdc_check {
    const char *id;                 /* (service:ID, or service:ID:1, :2 ... where
                                       there are several; always sent)        */
    const char *name, *notes;       /*                       (not sent)       */
    uint32_t    ttl_ms;
    uint32_t    interval_ms;        /* all kinds but TTL and alias (10000)    */
    uint32_t    timeout_ms;         /*             (not sent: 10000 in Consul) */
    uint32_t    deregister_critical_after_ms;   /* SDC_NEVER: not sent
                             (TTL in a registrar: 1 hour; else not sent)      */
    const char *http, *method, *body;
    const sdc_kv *headers;          size_t num_headers;
    const char *h2ping, *tcp, *udp, *grpc, *os_service;
    const char *docker_container_id, *shell;
    const char *const *args;        size_t num_args;
    const char *alias_node, *alias_service, *tls_server_name;
    bool        grpc_use_tls, tcp_use_tls, tls_skip_verify, disable_redirects;
    bool        h2ping_no_tls;      /* Consul's default for this kind is TLS  */
    uint32_t    success_before_passing;
    uint32_t    failures_before_warning, failures_before_critical;
    uint32_t    output_max_bytes;
    sdc_status  status;             /* the check's first; passing, warning or
                                       critical   (TTL in a registrar: passing;
                                       else not sent: critical in Consul)     */
} sdc_check;

typedef struct sdc_address {
    const char *key;                /* "lan", "wan", "lan_ipv6", ...          */
    const char *address;
    uint16_t    port;
} sdc_address;

typedef struct sdc_port {
    const char *name;
    uint16_t    port;
    bool        is_default;
} sdc_port;

/* A service to register. Only what is set here is sent, since an agent refuses
   members that it does not know (Consul docs: api-docs/agent/service). */
typedef struct sdc_registration {
    const char *id;                 /* unique on its agent; always sent
                                       (name-address-port, without the absent
                                       parts)                                 */
    const char *name;               /* required                               */
    const char *const *tags;        size_t num_tags;
    const char *address;            /*                       (the node's)     */
    uint16_t    port;               /*                       (none)           */
    const sdc_port *ports;          size_t num_ports;   /* Consul 1.22        */
    const char *socket_path;        /* Consul 1.10                            */
    const sdc_address *tagged_addresses; size_t num_tagged_addresses;
    const sdc_kv *meta;             size_t num_meta;
    uint32_t    weight_passing, weight_warning; /* (1 and 1: not sent) else
                                       both are, and passing is at least 1    */
    bool        enable_tag_override;
    const sdc_check *checks;        size_t num_checks;
    const char *kind, *region, *zone;
    const char *raw_members;        /* further JSON members, "\"Proxy\":{}":
                                       checked, sent as they are, never logged */
} sdc_registration;

typedef enum sdc_source {
    SDC_SOURCE_SERVICE = 0, SDC_SOURCE_CONNECT, SDC_SOURCE_INGRESS
} sdc_source;

typedef enum sdc_consistency {
    SDC_CONSISTENCY_DEFAULT = 0, SDC_CONSISTENCY_STALE, SDC_CONSISTENCY_STRONG
} sdc_consistency;

/* Which instances (Consul docs: api-docs/health#list-service-instances). */
typedef struct sdc_query {
    const char *service;            /* required                               */
    const char *const *tags;        size_t num_tags;    /* an instance carries
                                       all of them; letter case is ignored    */
    bool        passing_only;       /* asked of Consul, which then leaves out
                                       warnings too                           */
    sdc_status  worst_status;       /* worse ones are left out on this side
                                                          (as Consul answers) */
    sdc_source  source;
    const char *datacenter, *ns, *partition;    /*           (the client's)   */
    const char *peer, *near_node, *filter;
    const sdc_kv *node_meta;        size_t num_node_meta;
    const sdc_kv *params;           size_t num_params;  /* further query
                                       parameters, escaped here               */
    sdc_consistency consistency;
    bool        cached;             /* answer from the agent's cache          */
    uint32_t    max_age_s, stale_if_error_s;    /* with cached (not sent)     */
    uint32_t    wait_ms;            /* how long the server may hold the query;
                                       up to a tenth is taken off at random
                                                             (60000)          */
    uint64_t    index;              /* 0 asks for an answer at once; an
                                       instancer keeps its own and wants 0    */
} sdc_query;

/* One instance of a service. Two are the same one where peer, partition, ns,
   node and id are equal (and addr, where there is no id). */
typedef struct sdc_instance {
    const char *addr;               /* "10.0.0.1:8000", "[2001:db8::1]:8000"  */
    const char *host;
    const char *socket_path;        /* "" but for a service on a unix socket:
                                       then addr is "unix:" and the path      */
    const char *id, *service, *node, *datacenter, *ns, *partition, *peer;
    const char *const *tags;        size_t num_tags;    /* sorted             */
    const sdc_kv *meta;             size_t num_meta;    /* sorted by key      */
    const sdc_address *tagged_addresses; size_t num_tagged_addresses; /* same */
    const sdc_port *ports;          size_t num_ports;   /* `port` is the
                                       default one of these                   */
    const char *region, *zone;
    sdc_status  status;             /* of all its checks and its node's; unset,
                                       in a cache that the program fills,
                                       counts as passing                      */
    uint32_t    weight;             /* Consul's for that status; 0: no calls,
                                       unless all are 0                       */
    uint16_t    port;
} sdc_instance;

/* The instances as of one moment. Immutable, counted, readable from any
   thread, never copied by value. While held the same pointer is the same
   event, so a poller compares pointers. */
typedef struct sdc_event {
    const sdc_instance *instances;  /* sorted by addr, then node and id       */
    size_t      num_instances;
    const char *message;            /* "" unless err is a failure             */
    uint64_t    index;              /* X-Consul-Index of the answer behind it */
    uint64_t    at_ms;              /* when it came about; an answer that
                                       changes nothing makes no event         */
    uint64_t    failing_since_ms;   /* first failure of this outage; 0 none   */
    sdc_err     err;                /* SDC_AGAIN: nothing heard yet; a failure:
                                       the newest query failed, and instances
                                       are the last good ones                 */
    bool        is_known;           /* a good answer has been had: an empty list
                                       then means that there are none         */
} sdc_event;

/* This event against the one that the subscriber saw before. */
typedef struct sdc_change {
    const sdc_event *before;        /* NULL in a subscriber's first call, when
                                       all are added; retain it to keep what
                                       was removed                            */
    const sdc_instance *const *added;   size_t num_added;    /* in the event  */
    const sdc_instance *const *removed; size_t num_removed;  /* in before     */
    const sdc_instance *const *updated; size_t num_updated;  /* in the event  */
} sdc_change;

/* Both arguments are borrowed for the call; retain the event to keep it. */
typedef void (*sdc_event_fn)(void *user, const sdc_event *event,
                             const sdc_change *change);

/* Any thread, these two, in a callback too, and after the client's end. */
SDC_API const sdc_event *sdc_event_retain(const sdc_event *event);
SDC_API void sdc_event_release(const sdc_event *event);

/* -- One-shot calls ------------------------------------------------------- */

/* Each blocks the caller for at most request_timeout_ms, and the last one for
   its wait too. Any thread.
   Errors: SDC_ERR_ARG before anything is sent, and those of the exchange. */
SDC_API sdc_err sdc_client_register(sdc_client *client,
                                    const sdc_registration *registration,
                                    sdc_error *error);
/* An ID that the agent does not know is a success. */
SDC_API sdc_err sdc_client_deregister(sdc_client *client,
                                      const char *service_id,
                                      sdc_error *error);
/* One query; release *out. With query->index it blocks on the server, and
   (*out)->index is what to ask with next time. */
SDC_API sdc_err sdc_client_service(sdc_client *client, const sdc_query *query,
                                   const sdc_event **out, sdc_error *error);

/* -- Task: what an instancer and a registrar have in common --------------- */

/* Moves a task on. It goes on until it would block, or until its share of
   work is done (256 KiB taken in; timeout_ms of its wants is 0 then), and
   returns at the latest when one exchange has ended. timeout_ms: 0 never
   blocks, n blocks for at most n ms, -1 until an exchange ends.
     SDC_OK       an exchange (a query, a registration, a heartbeat) ended well
     SDC_ERR_...  one failed: said once, and sdc_task_error has the detail; the
                  pause before the next is inside the steps to come
     SDC_AGAIN    none ended: time is up, or there is nothing to do but wait
     SDC_STOPPED  stopped and done: no descriptor, no deadline, for ever
     SDC_GONE     a callback destroyed it
   Stepping too often does no harm. One thread at a time. */
SDC_API sdc_err sdc_step(sdc_task *task, int timeout_ms);

/* Ends a task: the next step drops what is under way, closes the descriptor
   and answers SDC_STOPPED; a registrar deregisters first, which takes
   stop_timeout_ms at most. A step that blocks is woken. No callback is begun
   after it. Idempotent. Any thread, and signal handlers. */
SDC_API void sdc_stop(sdc_task *task);

/* Makes a blocked step look again, and calls the task's wake hook: step it
   soon. Cuts no pause short. Any thread, and signal handlers. */
SDC_API void sdc_wake(sdc_task *task);

/* wants: told at once, and from then on inside sdc_step and destroy whenever
   fd, serial, readiness or deadline_ms differ from what was told last; fd -1
   comes before a descriptor is closed.
   wake: sdc_stop, sdc_wake and sdc_registrar_set_... were called: make the
   loop step this task, by uv_async_send or a write to an eventfd. Comes on the
   caller's thread, signal handlers included. A step that blocks needs none.
   NULL takes a function off. Call on the thread that steps. */
typedef void (*sdc_wants_fn)(void *user, sdc_task *task, sdc_wants wants);
typedef void (*sdc_wake_fn)(void *user, sdc_task *task);

/* The same by asking. Changes nothing. The thread that steps. */
SDC_API sdc_wants sdc_task_wants(const sdc_task *task);
SDC_API void sdc_task_on_wants(sdc_task *task, sdc_wants_fn fn, void *user);
SDC_API void sdc_task_on_wake(sdc_task *task, sdc_wake_fn fn, void *user);

/* Counted since the task was created. */
typedef struct sdc_stats {
    uint64_t requests, answers, failures, changes, connects;
    uint64_t bytes_in, bytes_out, skipped_instances;
    uint64_t registrations, heartbeats;
    uint64_t index;                 /* of the newest answer; 0 none           */
    uint64_t last_contact_ms;       /* X-Consul-Lastcontact of that answer    */
    uint64_t last_good_at_ms;       /* also moves when nothing changed        */
    uint32_t consecutive_failures;
    bool     known_leader, filtered_by_acl, is_streaming;   /* its headers; a
                                       streamed one never knows the leader    */
} sdc_stats;

/* Any thread, these two. The error is of the newest exchange. */
SDC_API void sdc_task_stats(const sdc_task *task, sdc_stats *out);
SDC_API void sdc_task_error(const sdc_task *task, sdc_error *out);

/* -- Registrar: keeps one service registered ------------------------------ */

typedef struct sdc_registrar_desc {
    sdc_registration registration;  /* copied, all of it                      */
    uint32_t heartbeat_ms;          /* for a TTL check  (a third of the TTL)  */
    uint32_t verify_ms;             /* without a TTL check, how often the agent
                                       is asked whether it is there (30000)   */
    uint32_t stop_timeout_ms;       /* deregistering on stop ends by then
                                                             (2000)           */
    bool     keep_on_stop;          /* do not deregister on stop   (false)    */
} sdc_registrar_desc;

typedef struct sdc_registrar sdc_registrar;

/* Makes a registrar; nothing is sent before the first step. The task registers
   the service and retries until that succeeds, beats its TTL checks, registers
   again what the agent has forgotten, and deregisters when stopped.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_registrar_create(sdc_client *client,
                                     const sdc_registrar_desc *desc,
                                     sdc_registrar **out, sdc_error *error);
/* At once and without network traffic: stop first to deregister. */
SDC_API void sdc_registrar_destroy(sdc_registrar *registrar);
/* Valid as long as the registrar. */
SDC_API sdc_task *sdc_registrar_task(sdc_registrar *registrar);

/* Once, blocking, for at most request_timeout_ms. Counts as a step of the
   task, which need not be stepped besides. */
SDC_API sdc_err sdc_registrar_register(sdc_registrar *registrar,
                                       sdc_error *error);
SDC_API sdc_err sdc_registrar_deregister(sdc_registrar *registrar,
                                         sdc_error *error);

/* Any thread, these three. What is set is kept and sent by the next steps, and
   again whenever the service had to be registered again; a blocked step is
   woken. check_id NULL means every TTL check; output and reason are cut at
   4 KiB. Errors: SDC_ERR_ARG (no such TTL check, a status that cannot be
   set), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_registrar_set_status(sdc_registrar *registrar,
                                         const char *check_id,
                                         sdc_status status,
                                         const char *output);
SDC_API sdc_err sdc_registrar_set_maintenance(sdc_registrar *registrar, bool on,
                                              const char *reason);
/* As of the agent's newest answer. */
SDC_API bool sdc_registrar_is_registered(const sdc_registrar *registrar);

/* -- Instancer: keeps the instances of one service ------------------------ */

typedef struct sdc_instancer_desc {
    sdc_query query;                /* copied, all of it                      */
    uint32_t  backoff_min_ms;       /*                       (10)             */
    uint32_t  backoff_max_ms;       /*                       (60000)          */
    uint32_t  resync_ms;            /* a full read with index 0 (600000)      */
} sdc_instancer_desc;

typedef struct sdc_instancer sdc_instancer;

/* Makes an instancer; nothing is sent before the first step.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_instancer_create(sdc_client *client,
                                     const sdc_instancer_desc *desc,
                                     sdc_instancer **out, sdc_error *error);
/* At once. No callback is begun after it, and its last event stays valid as
   long as somebody holds it. */
SDC_API void sdc_instancer_destroy(sdc_instancer *instancer);
/* Valid as long as the instancer. */
SDC_API sdc_task *sdc_instancer_task(sdc_instancer *instancer);

/* Steps until a good answer has had so many instances (0: any good answer).
   Errors: SDC_ERR_TIMEOUT with the newest failure's message, SDC_STOPPED,
   SDC_GONE. */
SDC_API sdc_err sdc_instancer_wait(sdc_instancer *instancer,
                                   size_t min_instances, uint32_t timeout_ms,
                                   sdc_error *error);

/* Calls fn at once with the state, and then with each new event. The pair fn
   and user names the subscription. The thread that steps.
   Errors: SDC_ERR_ARG (the pair is there already), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_instancer_subscribe(sdc_instancer *instancer,
                                        sdc_event_fn fn, void *user);
/* Not called again after this returned. An unknown pair is ignored. */
SDC_API void sdc_instancer_unsubscribe(sdc_instancer *instancer,
                                       sdc_event_fn fn, void *user);

/* The instances as of its last good answer, with the error since.
   Retained: give it back with sdc_event_release. Never NULL; before the first
   answer it is empty and its err is SDC_AGAIN. Any thread. */
SDC_API const sdc_event *sdc_instancer_state(sdc_instancer *instancer);

/* -- Cache: the store under an instancer, usable with any other source ---- */

typedef struct sdc_cache sdc_cache;

/* Makes an empty cache; allocator NULL is malloc. update, update_error,
   subscribe and unsubscribe: one thread at a time. Subscribers run inside
   them: keep those short. */
SDC_API sdc_err sdc_cache_create(const sdc_allocator *allocator,
                                 sdc_cache **out);
SDC_API void sdc_cache_destroy(sdc_cache *cache);

/* Replaces the instances, which are copied; addr, or host and port, is
   required. Subscribers are called if something differs from the current
   event: the order of instances, tags and meta does not count. A now_ms
   before the last one counts as the last one.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM (all stays as it was), SDC_GONE. */
SDC_API sdc_err sdc_cache_update(sdc_cache *cache,
                                 const sdc_instance *instances, size_t num,
                                 uint64_t index, uint64_t now_ms);
/* Says that the source fails; the instances stay. Subscribers are called when
   the code changes; the first message of a code stays. Errors: as above. */
SDC_API sdc_err sdc_cache_update_error(sdc_cache *cache, sdc_err err,
                                       const char *message, uint64_t now_ms);

/* As the four of the instancer. */
SDC_API const sdc_event *sdc_cache_state(sdc_cache *cache);
SDC_API sdc_err sdc_cache_subscribe(sdc_cache *cache, sdc_event_fn fn,
                                    void *user);
SDC_API void sdc_cache_unsubscribe(sdc_cache *cache, sdc_event_fn fn,
                                   void *user);

/* The instancer's own cache, valid as long as the instancer: subscribe to it,
   never update it. */
SDC_API sdc_cache *sdc_instancer_cache(sdc_instancer *instancer);

/* -- Decoders: bytes in, events out; no socket, no clock ------------------ */

/* feed answers SDC_OK while all is good, else the first error, which stays
   until reset. What a callback answers other than SDC_OK ends the feed and is
   that error; a callback must not destroy or feed its decoder. _error says
   what is wrong and at which byte, counted from 0 since reset. reset keeps
   the memory. One thread at a time. */
typedef struct sdc_json    sdc_json;       /* any JSON text (RFC 8259), strict */
typedef struct sdc_http    sdc_http;       /* one HTTP/1.x response            */
typedef struct sdc_entries sdc_entries;    /* the body of a health answer      */

typedef enum sdc_json_kind {
    SDC_JSON_NULL, SDC_JSON_FALSE, SDC_JSON_TRUE, SDC_JSON_NUMBER,
    SDC_JSON_STRING, SDC_JSON_KEY, SDC_JSON_OBJECT, SDC_JSON_OBJECT_END,
    SDC_JSON_ARRAY, SDC_JSON_ARRAY_END
} sdc_json_kind;

/* `text` is decoded and whole, may hold NUL, is not terminated by one, and is
   borrowed for the call: the characters of a string or key, the literal of a
   number; else it is empty. */
typedef sdc_err (*sdc_json_fn)(void *user, sdc_json_kind kind,
                               const char *text, size_t len);

SDC_API sdc_err sdc_json_create(const sdc_allocator *allocator, sdc_json_fn fn,
                                void *user, sdc_json **out);
SDC_API sdc_err sdc_json_feed(sdc_json *json, const void *bytes, size_t len);
/* SDC_OK: the bytes were one whole value. */
SDC_API sdc_err sdc_json_finish(sdc_json *json);
SDC_API void sdc_json_error(const sdc_json *json, sdc_error *out);
SDC_API void sdc_json_reset(sdc_json *json);
SDC_API void sdc_json_destroy(sdc_json *json);

/* The instance is borrowed for the call. */
typedef sdc_err (*sdc_instance_fn)(void *user, const sdc_instance *instance);

SDC_API sdc_err sdc_entries_create(const sdc_allocator *allocator,
                                   sdc_instance_fn fn, void *user,
                                   sdc_entries **out);
SDC_API sdc_err sdc_entries_feed(sdc_entries *entries, const void *bytes,
                                 size_t len);
SDC_API sdc_err sdc_entries_finish(sdc_entries *entries);
SDC_API void sdc_entries_error(const sdc_entries *entries, sdc_error *out);
/* Entries without usable address or port, or of a wrong shape, since reset. */
SDC_API uint64_t sdc_entries_skipped(const sdc_entries *entries);
SDC_API void sdc_entries_reset(sdc_entries *entries);
SDC_API void sdc_entries_destroy(sdc_entries *entries);

/* NULL members are skipped. Names and values are borrowed for the call. */
typedef struct sdc_http_handler {
    void    *user;
    /* Of the final answer, not of a 1xx before it. */
    sdc_err (*on_status)(void *user, int status);
    sdc_err (*on_header)(void *user, const char *name, size_t name_len,
                         const char *value, size_t value_len);
    sdc_err (*on_body)(void *user, const void *bytes, size_t len);
} sdc_http_handler;

SDC_API sdc_err sdc_http_create(const sdc_allocator *allocator,
                                const sdc_http_handler *handler,
                                sdc_http **out);
/* *used < len: the rest does not belong to this response. */
SDC_API sdc_err sdc_http_feed(sdc_http *http, const void *bytes, size_t len,
                              size_t *used);
/* The peer closed. SDC_OK: the response is whole. */
SDC_API sdc_err sdc_http_finish(sdc_http *http);
SDC_API bool sdc_http_is_complete(const sdc_http *http);
/* The connection may carry another exchange. */
SDC_API bool sdc_http_keeps_alive(const sdc_http *http);
SDC_API void sdc_http_error(const sdc_http *http, sdc_error *out);
SDC_API void sdc_http_reset(sdc_http *http);
SDC_API void sdc_http_destroy(sdc_http *http);

#ifdef __cplusplus
}
#endif
#endif /* SDCONSUL_H_INCLUDED */

#if defined(SDCONSUL_IMPLEMENTATION) && !defined(SDCONSUL_IMPLEMENTATION_INCLUDED)
#define SDCONSUL_IMPLEMENTATION_INCLUDED

/* ---- platform ------------------------------------------ [sdc:platform] --
   Every system header and everything that depends on the compiler or the
   system. Below this section there is no #if on either.
   ------------------------------------------------------------------------- */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if !defined(_POSIX_VERSION) || _POSIX_VERSION < 200809L || !defined(AI_NUMERICHOST) || \
    !defined(CLOCK_MONOTONIC) || !defined(MSG_PEEK)
#error "sdconsul.h needs POSIX.1-2008: compile with -D_POSIX_C_SOURCE=200809L or -std=gnu99"
#endif

#ifndef SDC_ASSERT
#include <assert.h>
#define SDC_ASSERT(condition) assert(condition)
#endif

#if defined(__GNUC__) || defined(__clang__)
#define SDCI_PRINTF(text, args) __attribute__((__format__(__printf__, text, args)))
#else
#error "sdconsul.h needs the __atomic builtins of gcc or clang"
#endif

#ifdef MSG_NOSIGNAL
#define SDCI_SEND_FLAGS MSG_NOSIGNAL
#else
#define SDCI_SEND_FLAGS 0
#endif

/* Bits that two threads share; never wider than a pointer, so that 32-bit machines need no
   libatomic. All are sequentially consistent: none is on a hot path. */
static uint32_t sdci_atomic_get(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void sdci_atomic_set(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

/* Answers the new value. */
static uint32_t sdci_atomic_add(uint32_t *p, uint32_t value)
{
    return __atomic_add_fetch(p, value, __ATOMIC_SEQ_CST);
}

static uint32_t sdci_atomic_sub(uint32_t *p, uint32_t value)
{
    return __atomic_sub_fetch(p, value, __ATOMIC_SEQ_CST);
}

/* Answers the value from before. */
static uint32_t sdci_atomic_swap(uint32_t *p, uint32_t value)
{
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
}

/* A lock for a few instructions: spins shortly, then yields. It is never held while a callback,
   a hook or a system call runs, and never taken in a signal handler. */
static void sdci_lock(uint32_t *lock)
{
    unsigned spins = 0;

    while (sdci_atomic_swap(lock, 1) != 0) {
        spins++;
        if (spins > 64) {
            sched_yield();
        }
    }
}

static void sdci_unlock(uint32_t *lock)
{
    sdci_atomic_set(lock, 0);
}

/* Options that not every system has; each makes a connection better and none is needed. */
static void sdci_socket_tune(int fd)
{
    int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
#ifdef TCP_KEEPIDLE
    int idle_s = 30;
    int interval_s = 10;
    int probes = 3;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
#endif
#ifdef TCP_USER_TIMEOUT
    unsigned unacknowledged_ms = 60000;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms,
                     sizeof unacknowledged_ms);
#endif
}

/* ---- base --------------------------------------------------- [sdc:base] --
   Slices, errors, memory, growable buffers, numbers as text, random pauses.
   Knows nothing of Consul.
   ------------------------------------------------------------------------- */

#define SDCI_FOREVER UINT64_MAX

typedef struct sdci_str {
    const char *ptr;
    size_t len;
} sdci_str;

static sdci_str sdci_str_of(const char *text)
{
    sdci_str s;

    s.ptr = text != NULL ? text : "";
    s.len = strlen(s.ptr);
    return s;
}

static sdci_str sdci_slice(const char *ptr, size_t len)
{
    sdci_str s;

    s.ptr = ptr;
    s.len = len;
    return s;
}

static bool sdci_is_empty(const char *text)
{
    return text == NULL || text[0] == '\0';
}

/* ASCII only, as in HTTP field names and in Consul's tags; no locale has a say. */
static char sdci_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool sdci_equal_nocase(sdci_str a, sdci_str b)
{
    if (a.len != b.len) {
        return false;
    }
    for (size_t i = 0; i < a.len; i++) {
        if (sdci_lower(a.ptr[i]) != sdci_lower(b.ptr[i])) {
            return false;
        }
    }
    return true;
}

static bool sdci_is_control(char c)
{
    unsigned char u = (unsigned char)c;

    return u < 0x20 || u == 0x7f;
}

static bool sdci_has_control(const char *text)
{
    for (; *text != '\0'; text++) {
        if (sdci_is_control(*text)) {
            return true;
        }
    }
    return false;
}

static bool sdci_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int sdci_hex(char c)
{
    if (sdci_is_digit(c)) {
        return c - '0';
    }
    c = sdci_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static sdci_str sdci_trim(sdci_str s)
{
    while (s.len > 0 && strchr(" \t\r\n", s.ptr[0]) != NULL && s.ptr[0] != '\0') {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && s.ptr[s.len - 1] != '\0' && strchr(" \t\r\n", s.ptr[s.len - 1]) != NULL) {
        s.len--;
    }
    return s;
}

/* Decimal digits alone, at most `max`; no sign, no space. */
static bool sdci_parse_u64(sdci_str s, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;

    if (s.len == 0) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) {
        if (!sdci_is_digit(s.ptr[i])) {
            return false;
        }
        uint64_t digit = (uint64_t)(s.ptr[i] - '0');
        if (value > (max - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

static uint32_t sdci_or(uint32_t value, uint32_t default_value)
{
    return value != 0 ? value : default_value;
}

static uint64_t sdci_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t sdci_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* `now` plus a duration, where SDC_NEVER is for ever. */
static uint64_t sdci_after(uint64_t now_ms, uint32_t duration_ms)
{
    return duration_ms == SDC_NEVER ? SDCI_FOREVER : now_ms + duration_ms;
}

/* -- Errors -- */

const char *sdc_err_str(sdc_err err)
{
    switch (err) {
    case SDC_OK:          return "ok";
    case SDC_AGAIN:       return "not yet";
    case SDC_STOPPED:     return "stopped";
    case SDC_GONE:        return "destroyed during the call";
    case SDC_ERR_ARG:     return "invalid argument";
    case SDC_ERR_NOMEM:   return "out of memory";
    case SDC_ERR_LIMIT:   return "a limit was reached";
    case SDC_ERR_RESOLVE: return "the agent's name has no address";
    case SDC_ERR_CONNECT: return "no connection to the agent";
    case SDC_ERR_TLS:     return "TLS was refused";
    case SDC_ERR_IO:      return "the connection broke";
    case SDC_ERR_TIMEOUT: return "no answer in time";
    case SDC_ERR_HTTP:    return "the answer is not valid HTTP";
    case SDC_ERR_STATUS:  return "the agent answered with an error";
    case SDC_ERR_DENIED:  return "permission denied";
    case SDC_ERR_BUSY:    return "the agent asks for fewer requests";
    case SDC_ERR_JSON:    return "the answer is not valid JSON";
    case SDC_ERR_SHAPE:   return "the answer has an unexpected form";
    case SDC_ERR_EMPTY:   return "nothing to pick from";
    case SDC_ERR_USER:    return "the program's own error";
    }
    return "unknown error";
}

int sdc_version(void)
{
    return SDC_VERSION;
}

/* A message is one printable line: what a peer or a caller put into it cannot break a log. */
static void sdci_make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if (sdci_is_control(*text)) {
            *text = ' ';
        }
    }
}

static void sdci_error_clear(sdc_error *error)
{
    if (error != NULL) {
        memset(error, 0, sizeof *error);
    }
}

/* Writes the whole error and answers its code, so that a refusal is one line. */
static sdc_err sdci_fail(sdc_error *error, sdc_err code, const char *format, ...) SDCI_PRINTF(3, 4);

static sdc_err sdci_fail(sdc_error *error, sdc_err code, const char *format, ...)
{
    va_list args;

    if (error == NULL) {
        return code;
    }
    sdci_error_clear(error);
    error->code = code;
    va_start(args, format);
    (void)vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    sdci_make_printable(error->message);
    return code;
}

/* For failures whose code says all there is to say. */
static sdc_err sdci_fail_plain(sdc_error *error, sdc_err code)
{
    return sdci_fail(error, code, "%s", sdc_err_str(code));
}

/* What a decoder keeps of its first error: small, since each watch holds three of them. */
typedef struct sdci_fault {
    const char *what;               /* static */
    uint64_t at;                    /* byte since reset */
    sdc_err code;
} sdci_fault;

static void sdci_fault_tell(const sdci_fault *fault, const char *of_what, sdc_error *out)
{
    sdci_error_clear(out);
    if (fault->code == SDC_OK) {
        return;
    }
    (void)sdci_fail(out, fault->code, "%s, byte %llu: %s", of_what,
                    (unsigned long long)fault->at,
                    fault->what != NULL ? fault->what : sdc_err_str(fault->code));
}

/* -- Memory -- */

static void *sdci_malloc_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    (void)old_size;
    if (new_size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, new_size);
}

static sdc_allocator sdci_allocator_or_malloc(const sdc_allocator *allocator)
{
    sdc_allocator a;

    a.user = NULL;
    a.resize = sdci_malloc_resize;
    return allocator != NULL ? *allocator : a;
}

static void *sdci_resize(const sdc_allocator *a, void *ptr, size_t old_size, size_t new_size)
{
    return a->resize(a->user, ptr, old_size, new_size);
}

/* Zeroed; NULL when there is none. */
static void *sdci_new(const sdc_allocator *a, size_t size)
{
    void *ptr = sdci_resize(a, NULL, 0, size);

    if (ptr != NULL) {
        memset(ptr, 0, size);
    }
    return ptr;
}

static void sdci_free(const sdc_allocator *a, void *ptr, size_t size)
{
    if (ptr != NULL) {
        (void)sdci_resize(a, ptr, size, 0);
    }
}

/* Secrets do not outlive their use: the writes are volatile so that none is optimised away. */
static void sdci_wipe(void *ptr, size_t size)
{
    volatile unsigned char *p = (volatile unsigned char *)ptr;

    while (size > 0) {
        size--;
        p[size] = 0;
    }
}

/* Bytes that grow up to a limit. The first failure sticks in `err` and further writes do nothing,
   so that a writer checks once, at its end. Growing is by half, from 256 bytes. */
typedef struct sdci_buf {
    const sdc_allocator *allocator;
    char *ptr;
    size_t len, cap, max;
    sdc_err err;
    bool is_secret;                 /* wiped whenever memory is given back */
} sdci_buf;

static void sdci_buf_init(sdci_buf *buf, const sdc_allocator *allocator, size_t max)
{
    memset(buf, 0, sizeof *buf);
    buf->allocator = allocator;
    buf->max = max;
}

static void sdci_buf_deinit(sdci_buf *buf)
{
    if (buf->is_secret && buf->ptr != NULL) {
        sdci_wipe(buf->ptr, buf->cap);
    }
    sdci_free(buf->allocator, buf->ptr, buf->cap);
    buf->ptr = NULL;
    buf->len = 0;
    buf->cap = 0;
    buf->err = SDC_OK;
}

/* Empty again; the memory stays. */
static void sdci_buf_clear(sdci_buf *buf)
{
    buf->len = 0;
    buf->err = SDC_OK;
}

/* A secret must not stay behind in memory that realloc gave back, so it is moved by hand. */
static char *sdci_buf_regrow(sdci_buf *buf, size_t cap)
{
    if (!buf->is_secret) {
        return (char *)sdci_resize(buf->allocator, buf->ptr, buf->cap, cap);
    }
    char *ptr = (char *)sdci_resize(buf->allocator, NULL, 0, cap);
    if (ptr != NULL && buf->ptr != NULL) {
        memcpy(ptr, buf->ptr, buf->len);
        sdci_wipe(buf->ptr, buf->cap);
        sdci_free(buf->allocator, buf->ptr, buf->cap);
    }
    return ptr;
}

static bool sdci_buf_reserve(sdci_buf *buf, size_t extra)
{
    if (buf->err != SDC_OK) {
        return false;
    }
    if (extra <= buf->cap - buf->len) {
        return true;
    }
    if (extra > buf->max - buf->len) {
        buf->err = SDC_ERR_LIMIT;
        return false;
    }
    size_t cap = buf->cap + buf->cap / 2;
    cap = cap < 256 ? 256 : cap;
    cap = cap < buf->len + extra ? buf->len + extra : cap;
    cap = cap > buf->max ? buf->max : cap;
    char *ptr = sdci_buf_regrow(buf, cap);
    if (ptr == NULL) {
        buf->err = SDC_ERR_NOMEM;
        return false;
    }
    buf->ptr = ptr;
    buf->cap = cap;
    return true;
}

static void sdci_put(sdci_buf *buf, const void *bytes, size_t len)
{
    if (len > 0 && sdci_buf_reserve(buf, len)) {
        memcpy(buf->ptr + buf->len, bytes, len);
        buf->len += len;
    }
}

static void sdci_put_char(sdci_buf *buf, char c)
{
    sdci_put(buf, &c, 1);
}

static void sdci_put_text(sdci_buf *buf, const char *text)
{
    sdci_put(buf, text, strlen(text));
}

static void sdci_put_u64(sdci_buf *buf, uint64_t value)
{
    char digits[24];

    (void)snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    sdci_put_text(buf, digits);
}

/* The bytes from `start` on, as they stand now: valid until the next write. */
static sdci_str sdci_buf_from(const sdci_buf *buf, size_t start)
{
    return sdci_slice(buf->ptr + start, buf->len - start);
}

/* A copy of the text in memory of its own, NUL included. NULL when there is none. */
static char *sdci_copy(const sdc_allocator *a, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = (char *)sdci_resize(a, NULL, 0, size);

    if (copy != NULL) {
        memcpy(copy, text, size);
    }
    return copy;
}

static void sdci_free_text(const sdc_allocator *a, char *text)
{
    if (text != NULL) {
        sdci_free(a, text, strlen(text) + 1);
    }
}

static void sdci_free_secret(const sdc_allocator *a, char *text)
{
    if (text != NULL) {
        size_t size = strlen(text) + 1;
        sdci_wipe(text, size);
        sdci_free(a, text, size);
    }
}

/* -- Random pauses -- */

/* A splitmix64 sequence: jitter needs to be cheap and spread, not secret. */
typedef struct sdci_random {
    uint64_t state;
} sdci_random;

static uint64_t sdci_random_next(sdci_random *random)
{
    random->state += 0x9E3779B97F4A7C15u;
    uint64_t z = random->state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Evenly from 0 to `max`, both included. */
static uint64_t sdci_random_upto(sdci_random *random, uint64_t max)
{
    uint64_t bits = sdci_random_next(random);

    return max == UINT64_MAX ? bits : bits % (max + 1);
}

/* The pause after the nth failure in a row (from 1): anywhere between min and min doubled n-1
   times, but never beyond max. The jitter is drawn after the cap, so that clients which have been
   failing together for long do not come back together. */
static uint32_t sdci_backoff_ms(sdci_random *random, uint32_t min_ms, uint32_t max_ms, uint32_t nth)
{
    uint64_t span = min_ms;

    for (uint32_t i = 1; i < nth && span < max_ms; i++) {
        span *= 2;
    }
    span = sdci_min(span, max_ms);
    uint64_t least = sdci_min(min_ms, span);
    return (uint32_t)(least + sdci_random_upto(random, span - least));
}

/* ---- JSON --------------------------------------------------- [sdc:json] --
   One strict RFC 8259 grammar as a push decoder: any split of the bytes, one
   event for each token, text decoded. Memory is bounded: one bit for each
   level, and the text of one string at a time.

                    .------------ value in a container ------------.
                    v                                              |
     VALUE --scalar or end of container--> NEXT --','--> VALUE or KEY
       |  '['  FIRST_ITEM --']'--> NEXT      |
       |  '{'  FIRST_KEY  --'}'--> NEXT      '--outermost--> DONE
       |           '--string--> COLON --':'--> VALUE
       '--'"'--> STRING <--> ESCAPE, UNICODE, LOW_BACKSLASH, LOW_U
       '--digit--> NUMBER and its states         '--letter--> LITERAL
   ------------------------------------------------------------------------- */

#define SDCI_JSON_DEPTH_MAX 64u
#define SDCI_JSON_TEXT_MAX  ((size_t)1 << 20)

typedef enum sdci_json_state {
    SDCI_JSON_VALUE,            /* a value must come                               */
    SDCI_JSON_FIRST_ITEM,       /* after '[': a value or ']'                       */
    SDCI_JSON_FIRST_KEY,        /* after '{': a name or '}'                        */
    SDCI_JSON_KEY,              /* after ',' in an object: a name                  */
    SDCI_JSON_COLON,            /* after a name                                    */
    SDCI_JSON_NEXT,             /* after a value in a container: ',' or its end    */
    SDCI_JSON_STRING,           /* in a string or name                             */
    SDCI_JSON_ESCAPE,           /* after its '\'                                   */
    SDCI_JSON_UNICODE,          /* in the four digits after '\u'                   */
    SDCI_JSON_LOW_BACKSLASH,    /* after a high surrogate: the '\' of the low one  */
    SDCI_JSON_LOW_U,            /* and its 'u'                                     */
    SDCI_JSON_NUMBER,           /* number: its first character is next             */
    SDCI_JSON_MINUS,            /* number: after '-'                               */
    SDCI_JSON_ZERO,             /* number: after a leading 0                       */
    SDCI_JSON_INTEGER,          /* number: in its digits                           */
    SDCI_JSON_DOT,              /* number: after '.'                               */
    SDCI_JSON_FRACTION,         /* number: in the digits after it                  */
    SDCI_JSON_E,                /* number: after 'e'                               */
    SDCI_JSON_E_SIGN,           /* number: after the exponent's sign               */
    SDCI_JSON_EXPONENT,         /* number: in the exponent's digits                */
    SDCI_JSON_LITERAL,          /* in true, false or null                          */
    SDCI_JSON_DONE              /* one whole value was had: only space may follow  */
} sdci_json_state;

struct sdc_json {
    sdc_json_fn fn;
    void *user;
    sdc_allocator own;          /* of a decoder that sdc_json_create made */
    sdci_buf text;              /* of a token that has escapes or spans two feeds */
    sdci_fault fault;
    uint64_t offset;            /* bytes before the current feed */
    const char *cursor;         /* during a feed: the byte that an error would be about */
    uint64_t objects;           /* bit n: level n is an object */
    const char *literal;        /* what is left of true, false or null */
    uint32_t depth;
    uint32_t code_point;        /* being read from \u digits */
    uint32_t high;              /* the high surrogate before it, or 0 */
    sdci_json_state state;
    sdc_json_kind kind;         /* of the token being read */
    uint8_t num_digits;         /* of the \u escape */
    uint8_t utf8_left;          /* continuation bytes to come */
    uint8_t utf8_min, utf8_max; /* the range of the next one */
    bool keeps_text;            /* false: the consumer does not want it, so it is only checked */
};

static void sdci_json_reset(sdc_json *json)
{
    sdci_buf_clear(&json->text);
    memset(&json->fault, 0, sizeof json->fault);
    json->offset = 0;
    json->objects = 0;
    json->depth = 0;
    json->high = 0;
    json->utf8_left = 0;
    json->state = SDCI_JSON_VALUE;
    json->keeps_text = true;
}

static void sdci_json_init(sdc_json *json, const sdc_allocator *allocator, sdc_json_fn fn,
                           void *user)
{
    memset(json, 0, sizeof *json);
    json->fn = fn;
    json->user = user;
    sdci_buf_init(&json->text, allocator, SDCI_JSON_TEXT_MAX);
    sdci_json_reset(json);
}

static void sdci_json_deinit(sdc_json *json)
{
    sdci_buf_deinit(&json->text);
}

static void sdci_json_fail(sdc_json *json, sdc_err code, const char *what)
{
    if (json->fault.code == SDC_OK) {
        json->fault.code = code;
        json->fault.what = what;
    }
}

static void sdci_json_emit(sdc_json *json, sdc_json_kind kind, sdci_str text)
{
    sdc_err err = json->fn(json->user, kind, text.ptr, text.len);

    if (err != SDC_OK) {
        sdci_json_fail(json, err, NULL);
    }
}

/* Where a finished value leaves the machine. */
static void sdci_json_value_done(sdc_json *json)
{
    json->state = json->depth == 0 ? SDCI_JSON_DONE : SDCI_JSON_NEXT;
}

static bool sdci_json_in_object(const sdc_json *json)
{
    return (json->objects >> (json->depth - 1) & 1) != 0;
}

static void sdci_json_open(sdc_json *json, bool is_object)
{
    if (json->depth == SDCI_JSON_DEPTH_MAX) {
        sdci_json_fail(json, SDC_ERR_LIMIT, "nested deeper than 64 levels");
        return;
    }
    uint64_t bit = (uint64_t)1 << json->depth;
    json->objects = is_object ? json->objects | bit : json->objects & ~bit;
    json->depth++;
    json->state = is_object ? SDCI_JSON_FIRST_KEY : SDCI_JSON_FIRST_ITEM;
    sdci_json_emit(json, is_object ? SDC_JSON_OBJECT : SDC_JSON_ARRAY, sdci_slice("", 0));
}

static void sdci_json_close(sdc_json *json)
{
    bool is_object = sdci_json_in_object(json);

    json->depth--;
    sdci_json_value_done(json);
    sdci_json_emit(json, is_object ? SDC_JSON_OBJECT_END : SDC_JSON_ARRAY_END, sdci_slice("", 0));
}

/* Keeps a piece of a token for later. */
static void sdci_json_keep(sdc_json *json, const char *bytes, size_t len)
{
    if (!json->keeps_text) {
        return;
    }
    sdci_put(&json->text, bytes, len);
    if (json->text.err != SDC_OK) {
        sdci_json_fail(json, json->text.err, "a string is longer than 1 MiB");
    }
}

/* Ends a token whose last piece is `tail`: without a kept part it goes out as it stands in the
   caller's bytes. */
static void sdci_json_emit_token(sdc_json *json, sdc_json_kind kind, sdci_str tail)
{
    if (json->text.len > 0) {
        sdci_json_keep(json, tail.ptr, tail.len);
        tail = sdci_slice(json->text.ptr, json->text.len);
    }
    if (json->fault.code == SDC_OK) {
        sdci_json_emit(json, kind, tail);
    }
    sdci_buf_clear(&json->text);
}

/* -- Strings -- */

static void sdci_json_begin_string(sdc_json *json, sdc_json_kind kind)
{
    json->kind = kind;
    json->state = SDCI_JSON_STRING;
}

/* First byte of a UTF-8 sequence: how many follow, and the range of the next one, which excludes
   overlong forms, surrogates and what is past U+10FFFF (Unicode 15, table 3-7). */
static bool sdci_json_utf8_lead(sdc_json *json, unsigned char c)
{
    json->utf8_min = 0x80;
    json->utf8_max = 0xBF;
    if (c >= 0xC2 && c <= 0xDF) {
        json->utf8_left = 1;
    } else if (c >= 0xE0 && c <= 0xEF) {
        json->utf8_left = 2;
        json->utf8_min = c == 0xE0 ? 0xA0 : 0x80;
        json->utf8_max = c == 0xED ? 0x9F : 0xBF;
    } else if (c >= 0xF0 && c <= 0xF4) {
        json->utf8_left = 3;
        json->utf8_min = c == 0xF0 ? 0x90 : 0x80;
        json->utf8_max = c == 0xF4 ? 0x8F : 0xBF;
    } else {
        return false;
    }
    return true;
}

/* One byte of a multi-byte character; false if it cannot stand there. */
static bool sdci_json_utf8_byte(sdc_json *json, unsigned char c)
{
    if (json->utf8_left == 0) {
        return sdci_json_utf8_lead(json, c);
    }
    if (c < json->utf8_min || c > json->utf8_max) {
        return false;
    }
    json->utf8_left--;
    json->utf8_min = 0x80;
    json->utf8_max = 0xBF;
    return true;
}

/* From p to the first byte that is neither a plain ASCII character nor part of a whole and valid
   multi-byte one. */
static const char *sdci_json_run(sdc_json *json, const char *p, const char *end)
{
    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c >= 0x80 || json->utf8_left > 0) {
            if (!sdci_json_utf8_byte(json, c)) {
                json->cursor = p;
                sdci_json_fail(json, SDC_ERR_JSON, "invalid UTF-8");
                return p;
            }
        } else if (c == '"' || c == '\\' || c < 0x20) {
            return p;
        }
    }
    return p;
}

static const char *sdci_json_in_string(sdc_json *json, const char *p, const char *end)
{
    const char *start = p;

    p = sdci_json_run(json, p, end);
    sdci_str run = sdci_slice(start, (size_t)(p - start));
    if (json->fault.code != SDC_OK) {
        return p;
    }
    if (p == end || *p == '\\') {
        sdci_json_keep(json, run.ptr, run.len);
        json->state = p == end ? SDCI_JSON_STRING : SDCI_JSON_ESCAPE;
        return p == end ? p : p + 1;
    }
    if (*p != '"') {
        json->cursor = p;
        sdci_json_fail(json, SDC_ERR_JSON, "a control character in a string");
        return p;
    }
    if (json->kind == SDC_JSON_KEY) {
        json->state = SDCI_JSON_COLON;
    } else {
        sdci_json_value_done(json);
    }
    sdci_json_emit_token(json, json->kind, run);
    return p + 1;
}

static void sdci_json_escape(sdc_json *json, char c)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";

    if (c == 'u') {
        json->code_point = 0;
        json->num_digits = 0;
        json->state = SDCI_JSON_UNICODE;
        return;
    }
    const char *found = c != '\0' ? strchr(from, c) : NULL;
    if (found == NULL) {
        sdci_json_fail(json, SDC_ERR_JSON, "an unknown escape in a string");
        return;
    }
    json->state = SDCI_JSON_STRING;
    sdci_json_keep(json, &to[found - from], 1);
}

static void sdci_json_keep_code_point(sdc_json *json, uint32_t c)
{
    char utf8[4];
    size_t len = 0;

    if (c < 0x80) {
        utf8[len++] = (char)c;
    } else if (c < 0x800) {
        utf8[len++] = (char)(0xC0 | c >> 6);
        utf8[len++] = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        utf8[len++] = (char)(0xE0 | c >> 12);
        utf8[len++] = (char)(0x80 | (c >> 6 & 0x3F));
        utf8[len++] = (char)(0x80 | (c & 0x3F));
    } else {
        utf8[len++] = (char)(0xF0 | c >> 18);
        utf8[len++] = (char)(0x80 | (c >> 12 & 0x3F));
        utf8[len++] = (char)(0x80 | (c >> 6 & 0x3F));
        utf8[len++] = (char)(0x80 | (c & 0x3F));
    }
    sdci_json_keep(json, utf8, len);
}

/* After the fourth digit: half of a surrogate pair, or a character. */
static void sdci_json_unicode_done(sdc_json *json)
{
    uint32_t c = json->code_point;
    bool is_low = c >= 0xDC00 && c <= 0xDFFF;
    bool is_high = c >= 0xD800 && c <= 0xDBFF;

    if (is_low != (json->high != 0)) {
        sdci_json_fail(json, SDC_ERR_JSON, "half of a surrogate pair");
        return;
    }
    if (is_high) {
        json->high = c;
        json->state = SDCI_JSON_LOW_BACKSLASH;
        return;
    }
    if (is_low) {
        c = 0x10000 + ((json->high - 0xD800) << 10) + (c - 0xDC00);
    }
    json->high = 0;
    json->state = SDCI_JSON_STRING;
    sdci_json_keep_code_point(json, c);
}

static void sdci_json_unicode(sdc_json *json, char c)
{
    int digit = sdci_hex(c);

    if (digit < 0) {
        sdci_json_fail(json, SDC_ERR_JSON, "\\u needs four hexadecimal digits");
        return;
    }
    json->code_point = json->code_point * 16 + (uint32_t)digit;
    json->num_digits++;
    if (json->num_digits == 4) {
        sdci_json_unicode_done(json);
    }
}

/* The "\u" between the halves of a pair. */
static void sdci_json_low(sdc_json *json, char c)
{
    if (c != (json->state == SDCI_JSON_LOW_BACKSLASH ? '\\' : 'u')) {
        sdci_json_fail(json, SDC_ERR_JSON, "half of a surrogate pair");
        return;
    }
    if (json->state == SDCI_JSON_LOW_BACKSLASH) {
        json->state = SDCI_JSON_LOW_U;
    } else {
        json->code_point = 0;
        json->num_digits = 0;
        json->state = SDCI_JSON_UNICODE;
    }
}

/* -- Numbers and literals -- */

/* The state after one more character of a number; SDCI_JSON_VALUE: it cannot stand there. */
static sdci_json_state sdci_json_number_state(sdci_json_state state, char c)
{
    bool is_digit = sdci_is_digit(c);
    bool is_e = c == 'e' || c == 'E';

    if (state == SDCI_JSON_NUMBER && c == '-') {
        return SDCI_JSON_MINUS;
    }
    if ((state == SDCI_JSON_NUMBER || state == SDCI_JSON_MINUS) && is_digit) {
        return c == '0' ? SDCI_JSON_ZERO : SDCI_JSON_INTEGER;
    }
    if ((state == SDCI_JSON_ZERO || state == SDCI_JSON_INTEGER) && c == '.') {
        return SDCI_JSON_DOT;
    }
    if ((state == SDCI_JSON_ZERO || state == SDCI_JSON_INTEGER || state == SDCI_JSON_FRACTION) &&
        is_e) {
        return SDCI_JSON_E;
    }
    if (state == SDCI_JSON_INTEGER && is_digit) {
        return SDCI_JSON_INTEGER;
    }
    if ((state == SDCI_JSON_DOT || state == SDCI_JSON_FRACTION) && is_digit) {
        return SDCI_JSON_FRACTION;
    }
    if (state == SDCI_JSON_E && (c == '+' || c == '-')) {
        return SDCI_JSON_E_SIGN;
    }
    if ((state == SDCI_JSON_E || state == SDCI_JSON_E_SIGN || state == SDCI_JSON_EXPONENT) &&
        is_digit) {
        return SDCI_JSON_EXPONENT;
    }
    return SDCI_JSON_VALUE;
}

static bool sdci_json_number_may_end(sdci_json_state state)
{
    return state == SDCI_JSON_ZERO || state == SDCI_JSON_INTEGER || state == SDCI_JSON_FRACTION ||
           state == SDCI_JSON_EXPONENT;
}

/* A number ends at the first byte that is not of it, which stays for the next state. */
static const char *sdci_json_in_number(sdc_json *json, const char *p, const char *end)
{
    const char *start = p;

    for (; p < end; p++) {
        sdci_json_state next = sdci_json_number_state(json->state, *p);
        if (next == SDCI_JSON_VALUE) {
            break;
        }
        json->state = next;
    }
    sdci_str run = sdci_slice(start, (size_t)(p - start));
    if (p == end) {
        sdci_json_keep(json, run.ptr, run.len);
    } else if (!sdci_json_number_may_end(json->state)) {
        json->cursor = p;
        sdci_json_fail(json, SDC_ERR_JSON, "a malformed number");
    } else {
        sdci_json_value_done(json);
        sdci_json_emit_token(json, SDC_JSON_NUMBER, run);
    }
    return p;
}

static void sdci_json_begin_literal(sdc_json *json, char first)
{
    if (first == 't') {
        json->literal = "rue";
        json->kind = SDC_JSON_TRUE;
    } else if (first == 'f') {
        json->literal = "alse";
        json->kind = SDC_JSON_FALSE;
    } else {
        json->literal = "ull";
        json->kind = SDC_JSON_NULL;
    }
    json->state = SDCI_JSON_LITERAL;
}

static void sdci_json_in_literal(sdc_json *json, char c)
{
    if (c != *json->literal) {
        sdci_json_fail(json, SDC_ERR_JSON, "neither true, false nor null");
        return;
    }
    json->literal++;
    if (*json->literal == '\0') {
        sdci_json_value_done(json);
        sdci_json_emit(json, json->kind, sdci_slice("", 0));
    }
}

/* -- Between tokens -- */

static bool sdci_json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* First character of a value. A number's stays, so that its whole text is one run. */
static const char *sdci_json_begin_value(sdc_json *json, const char *p)
{
    char c = *p;

    if (c == '"') {
        sdci_json_begin_string(json, SDC_JSON_STRING);
    } else if (c == '{' || c == '[') {
        sdci_json_open(json, c == '{');
    } else if (c == 't' || c == 'f' || c == 'n') {
        sdci_json_begin_literal(json, c);
    } else if (c == '-' || sdci_is_digit(c)) {
        json->state = SDCI_JSON_NUMBER;
        return p;
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, "a value is missing");
        return p;
    }
    return p + 1;
}

static void sdci_json_begin_key(sdc_json *json, char c)
{
    if (c == '"') {
        sdci_json_begin_string(json, SDC_JSON_KEY);
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, "a member name is missing");
    }
}

static void sdci_json_after_value(sdc_json *json, char c)
{
    bool is_object = sdci_json_in_object(json);

    if (c == ',') {
        json->state = is_object ? SDCI_JSON_KEY : SDCI_JSON_VALUE;
    } else if (c == (is_object ? '}' : ']')) {
        sdci_json_close(json);
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, is_object ? "',' or '}' is missing"
                                                     : "',' or ']' is missing");
    }
}

/* One character in a state that allows space before it. */
static const char *sdci_json_between(sdc_json *json, const char *p)
{
    char c = *p;

    if (sdci_json_is_space(c)) {
        return p + 1;
    }
    if (json->state == SDCI_JSON_VALUE ||
        (json->state == SDCI_JSON_FIRST_ITEM && c != ']')) {
        return sdci_json_begin_value(json, p);
    }
    if (json->state == SDCI_JSON_KEY || (json->state == SDCI_JSON_FIRST_KEY && c != '}')) {
        sdci_json_begin_key(json, c);
    } else if (json->state == SDCI_JSON_FIRST_ITEM || json->state == SDCI_JSON_FIRST_KEY) {
        sdci_json_close(json);
    } else if (json->state == SDCI_JSON_NEXT) {
        sdci_json_after_value(json, c);
    } else if (json->state == SDCI_JSON_COLON && c == ':') {
        json->state = SDCI_JSON_VALUE;
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, json->state == SDCI_JSON_COLON
                           ? "':' is missing" : "more bytes after the value");
    }
    return p + 1;
}

/* -- The decoder -- */

/* Takes at least one byte, or leaves a state that will. */
static const char *sdci_json_some(sdc_json *json, const char *p, const char *end)
{
    switch (json->state) {
    case SDCI_JSON_VALUE:
    case SDCI_JSON_FIRST_ITEM:
    case SDCI_JSON_FIRST_KEY:
    case SDCI_JSON_KEY:
    case SDCI_JSON_COLON:
    case SDCI_JSON_NEXT:
    case SDCI_JSON_DONE:
        return sdci_json_between(json, p);
    case SDCI_JSON_STRING:
        return sdci_json_in_string(json, p, end);
    case SDCI_JSON_ESCAPE:
        sdci_json_escape(json, *p);
        return p + 1;
    case SDCI_JSON_UNICODE:
        sdci_json_unicode(json, *p);
        return p + 1;
    case SDCI_JSON_LOW_BACKSLASH:
    case SDCI_JSON_LOW_U:
        sdci_json_low(json, *p);
        return p + 1;
    case SDCI_JSON_NUMBER:
    case SDCI_JSON_MINUS:
    case SDCI_JSON_ZERO:
    case SDCI_JSON_INTEGER:
    case SDCI_JSON_DOT:
    case SDCI_JSON_FRACTION:
    case SDCI_JSON_E:
    case SDCI_JSON_E_SIGN:
    case SDCI_JSON_EXPONENT:
        return sdci_json_in_number(json, p, end);
    case SDCI_JSON_LITERAL:
        sdci_json_in_literal(json, *p);
        return p + 1;
    }
    return end;
}

sdc_err sdc_json_feed(sdc_json *json, const void *bytes, size_t len)
{
    const char *start = (const char *)bytes;
    const char *p = start;

    if (json->fault.code != SDC_OK) {
        return json->fault.code;
    }
    while (p < start + len && json->fault.code == SDC_OK) {
        json->cursor = p;
        p = sdci_json_some(json, p, start + len);
    }
    if (json->fault.code != SDC_OK) {
        json->fault.at = json->offset + (uint64_t)(json->cursor - start);
    }
    json->offset += (uint64_t)(p - start);
    return json->fault.code;
}

/* A number at the top level is the one value that only the end of the text ends. */
sdc_err sdc_json_finish(sdc_json *json)
{
    if (json->fault.code != SDC_OK) {
        return json->fault.code;
    }
    if (json->depth == 0 && sdci_json_number_may_end(json->state)) {
        sdci_json_value_done(json);
        sdci_json_emit_token(json, SDC_JSON_NUMBER, sdci_slice("", 0));
    }
    if (json->state != SDCI_JSON_DONE && json->fault.code == SDC_OK) {
        sdci_json_fail(json, SDC_ERR_JSON, "the text ends too early");
        json->fault.at = json->offset;
    }
    return json->fault.code;
}

void sdc_json_error(const sdc_json *json, sdc_error *out)
{
    sdci_fault_tell(&json->fault, "JSON", out);
}

void sdc_json_reset(sdc_json *json)
{
    sdci_json_reset(json);
}

sdc_err sdc_json_create(const sdc_allocator *allocator, sdc_json_fn fn, void *user, sdc_json **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);

    *out = NULL;
    if (fn == NULL) {
        return SDC_ERR_ARG;
    }
    sdc_json *json = (sdc_json *)sdci_new(&own, sizeof *json);
    if (json == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_json_init(json, NULL, fn, user);
    json->own = own;
    json->text.allocator = &json->own;
    *out = json;
    return SDC_OK;
}

void sdc_json_destroy(sdc_json *json)
{
    if (json != NULL) {
        sdc_allocator own = json->own;
        sdci_json_deinit(json);
        sdci_free(&own, json, sizeof *json);
    }
}

/* ---- entries --------------------------------------------- [sdc:entries] --
   The body of /v1/health/service/NAME, one instance at a time: an array of
   {Node, Service, Checks}. Consumes the events of [sdc:json] and keeps the
   text of one entry, never the body.

   Where the decoder stands is a stack of places. A table says for each place
   which members are wanted and what becomes of them; every other member is
   skipped, however deep it goes, and is still checked by [sdc:json].

   An entry that cannot be used (no address, no port, a member of the wrong
   shape) is counted and left out; the others are not touched by it.
   Consul docs: api-docs/health#list-service-instances.
   ------------------------------------------------------------------------- */

#define SDCI_ENTRY_TEXT_MAX  ((size_t)1 << 20)   /* wanted text of one entry */
#define SDCI_ENTRY_ITEMS_MAX 1024u               /* tags, meta pairs, ... of one entry */

typedef enum sdci_place {
    SDCI_AT_TOP,                /* before the array */
    SDCI_AT_LIST,
    SDCI_AT_ENTRY,
    SDCI_AT_NODE,
    SDCI_AT_NODE_LOCALITY,
    SDCI_AT_SERVICE,
    SDCI_AT_TAGS,
    SDCI_AT_META,
    SDCI_AT_TAGGED,
    SDCI_AT_TAGGED_ITEM,
    SDCI_AT_PORTS,
    SDCI_AT_PORT,
    SDCI_AT_WEIGHTS,
    SDCI_AT_LOCALITY,
    SDCI_AT_CHECKS,
    SDCI_AT_CHECK,
    SDCI_NUM_PLACES
} sdci_place;

/* The strings of an entry that have one value each. */
typedef enum sdci_field {
    SDCI_NODE, SDCI_NODE_ADDRESS, SDCI_DATACENTER, SDCI_NODE_PARTITION, SDCI_NODE_PEER,
    SDCI_NODE_REGION, SDCI_NODE_ZONE, SDCI_ID, SDCI_SERVICE, SDCI_ADDRESS, SDCI_SOCKET_PATH,
    SDCI_NS, SDCI_PARTITION, SDCI_PEER, SDCI_REGION, SDCI_ZONE,
    SDCI_ITEM_NAME,             /* of the port or tagged address being read */
    SDCI_ITEM_ADDRESS,
    SDCI_CHECK_ID, SDCI_CHECK_STATUS,
    SDCI_NUM_FIELDS
} sdci_field;

/* Its numbers; all are unsigned and at most 65535 in Consul. */
typedef enum sdci_number {
    SDCI_PORT, SDCI_WEIGHT_PASSING, SDCI_WEIGHT_WARNING, SDCI_ITEM_PORT, SDCI_ITEM_IS_DEFAULT,
    SDCI_NUM_NUMBERS
} sdci_number;

/* What becomes of a value: its type, and the field, number or place it goes to. */
typedef enum sdci_type {
    SDCI_SKIP, SDCI_STRING, SDCI_UINT16, SDCI_BOOL, SDCI_OBJECT, SDCI_ARRAY, SDCI_TAG, SDCI_META
} sdci_type;

typedef struct sdci_member {
    const char *name;           /* NULL: any member, or an item of an array */
    sdci_type type;
    int target;
} sdci_member;

/* A piece of `text`; at is one more than the offset, so that 0 is "not there". */
typedef struct sdci_span { uint32_t at, len; } sdci_span;

typedef struct sdci_pair { sdci_span key, value; } sdci_pair;
typedef struct sdci_item { sdci_span name, address; uint16_t port; bool is_default; } sdci_item;

/* Called for an entry that is left out: its number from 0, and why. */
typedef void (*sdci_skipped_fn)(void *user, uint64_t number, const char *why);

struct sdc_entries {
    sdc_json json;
    sdc_instance_fn fn;
    sdci_skipped_fn skipped_fn;         /* or NULL */
    void *user;
    sdc_allocator own;                  /* of a decoder that sdc_entries_create made */
    const sdci_member *member;          /* what the next value is */
    const char *bad;                    /* why this entry cannot be used; NULL so far it can */
    sdci_buf text;                      /* the strings of this entry, each with a NUL */
    sdci_buf tags, meta, tagged, ports; /* sdci_span, sdci_pair, sdci_item, sdci_item */
    sdci_buf arrays;                    /* what the emitted instance points to */
    uint64_t num_entries, num_skipped;
    sdci_span fields[SDCI_NUM_FIELDS];
    uint16_t numbers[SDCI_NUM_NUMBERS];
    sdci_span key;                      /* of the map member being read */
    uint32_t skip_depth;                /* open containers inside a skipped value */
    uint8_t places[8];
    uint8_t depth;                      /* places[depth] is where we are */
    sdc_status status;                  /* the worst of the checks so far */
};

static const sdci_member sdci_of_top[]  = { { NULL, SDCI_ARRAY, SDCI_AT_LIST } };
static const sdci_member sdci_of_list[] = { { NULL, SDCI_OBJECT, SDCI_AT_ENTRY } };

static const sdci_member sdci_of_entry[] = {
    { "Node", SDCI_OBJECT, SDCI_AT_NODE },
    { "Service", SDCI_OBJECT, SDCI_AT_SERVICE },
    { "Checks", SDCI_ARRAY, SDCI_AT_CHECKS },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_node[] = {
    { "Node", SDCI_STRING, SDCI_NODE },
    { "Address", SDCI_STRING, SDCI_NODE_ADDRESS },
    { "Datacenter", SDCI_STRING, SDCI_DATACENTER },
    { "Partition", SDCI_STRING, SDCI_NODE_PARTITION },
    { "PeerName", SDCI_STRING, SDCI_NODE_PEER },
    { "Locality", SDCI_OBJECT, SDCI_AT_NODE_LOCALITY },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_node_locality[] = {
    { "Region", SDCI_STRING, SDCI_NODE_REGION },
    { "Zone", SDCI_STRING, SDCI_NODE_ZONE },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_service[] = {
    { "ID", SDCI_STRING, SDCI_ID },
    { "Service", SDCI_STRING, SDCI_SERVICE },
    { "Tags", SDCI_ARRAY, SDCI_AT_TAGS },
    { "Address", SDCI_STRING, SDCI_ADDRESS },
    { "TaggedAddresses", SDCI_OBJECT, SDCI_AT_TAGGED },
    { "Meta", SDCI_OBJECT, SDCI_AT_META },
    { "Port", SDCI_UINT16, SDCI_PORT },
    { "Ports", SDCI_ARRAY, SDCI_AT_PORTS },
    { "SocketPath", SDCI_STRING, SDCI_SOCKET_PATH },
    { "Weights", SDCI_OBJECT, SDCI_AT_WEIGHTS },
    { "Locality", SDCI_OBJECT, SDCI_AT_LOCALITY },
    { "PeerName", SDCI_STRING, SDCI_PEER },
    { "Namespace", SDCI_STRING, SDCI_NS },
    { "Partition", SDCI_STRING, SDCI_PARTITION },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_tags[]   = { { NULL, SDCI_TAG, 0 } };
static const sdci_member sdci_of_meta[]   = { { NULL, SDCI_META, 0 } };
static const sdci_member sdci_of_tagged[] = { { NULL, SDCI_OBJECT, SDCI_AT_TAGGED_ITEM } };
static const sdci_member sdci_of_ports[]  = { { NULL, SDCI_OBJECT, SDCI_AT_PORT } };
static const sdci_member sdci_of_checks[] = { { NULL, SDCI_OBJECT, SDCI_AT_CHECK } };

static const sdci_member sdci_of_tagged_item[] = {
    { "Address", SDCI_STRING, SDCI_ITEM_ADDRESS },
    { "Port", SDCI_UINT16, SDCI_ITEM_PORT },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_port[] = {
    { "Name", SDCI_STRING, SDCI_ITEM_NAME },
    { "Port", SDCI_UINT16, SDCI_ITEM_PORT },
    { "Default", SDCI_BOOL, SDCI_ITEM_IS_DEFAULT },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_weights[] = {
    { "Passing", SDCI_UINT16, SDCI_WEIGHT_PASSING },
    { "Warning", SDCI_UINT16, SDCI_WEIGHT_WARNING },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_locality[] = {
    { "Region", SDCI_STRING, SDCI_REGION },
    { "Zone", SDCI_STRING, SDCI_ZONE },
    { NULL, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_check[] = {
    { "CheckID", SDCI_STRING, SDCI_CHECK_ID },
    { "Status", SDCI_STRING, SDCI_CHECK_STATUS },
    { NULL, SDCI_SKIP, 0 }
};

/* In the order of sdci_place. */
static const sdci_member *const sdci_members_of[SDCI_NUM_PLACES] = {
    sdci_of_top, sdci_of_list, sdci_of_entry, sdci_of_node, sdci_of_node_locality, sdci_of_service,
    sdci_of_tags, sdci_of_meta, sdci_of_tagged, sdci_of_tagged_item, sdci_of_ports, sdci_of_port,
    sdci_of_weights, sdci_of_locality, sdci_of_checks, sdci_of_check
};

static sdci_place sdci_entries_place(const sdc_entries *e)
{
    return (sdci_place)e->places[e->depth];
}

/* The first reason is the one that is told. */
static void sdci_entry_bad(sdc_entries *e, const char *why)
{
    if (e->bad == NULL) {
        e->bad = why;
    }
}

/* -- The text of an entry -- */

static const char *sdci_span_text(const sdc_entries *e, sdci_span span)
{
    return span.at == 0 ? "" : e->text.ptr + span.at - 1;
}

static const char *sdci_field_text(const sdc_entries *e, sdci_field field)
{
    return sdci_span_text(e, e->fields[field]);
}

/* A C string cannot show a NUL, and showing less than was said would be worse than nothing. */
static sdci_span sdci_entry_keep(sdc_entries *e, sdci_str text)
{
    sdci_span span = { 0, 0 };

    if (text.len > 0 && memchr(text.ptr, '\0', text.len) != NULL) {
        sdci_entry_bad(e, "a NUL character in a string");
        return span;
    }
    span.at = (uint32_t)e->text.len + 1;
    span.len = (uint32_t)text.len;
    sdci_put(&e->text, text.ptr, text.len);
    sdci_put_char(&e->text, '\0');
    return span;
}

/* Items beyond the bound make the entry unusable, not the answer. */
static void sdci_entry_push(sdc_entries *e, sdci_buf *items, const void *item, size_t size)
{
    if (items->len / size >= SDCI_ENTRY_ITEMS_MAX) {
        sdci_entry_bad(e, "more than 1024 tags, ports or meta pairs");
        return;
    }
    sdci_put(items, item, size);
}

/* -- Entering and leaving places -- */

static void sdci_clear_fields(sdc_entries *e, sdci_field first, sdci_field last)
{
    memset(&e->fields[first], 0, (size_t)(last - first + 1) * sizeof e->fields[0]);
}

/* Consul leaves a Warning of 0 out, but a service without any weights has 1 and 1. */
static void sdci_reset_weights(sdc_entries *e, uint16_t warning)
{
    e->numbers[SDCI_WEIGHT_PASSING] = 1;
    e->numbers[SDCI_WEIGHT_WARNING] = warning;
}

static void sdci_entry_reset(sdc_entries *e)
{
    sdci_buf_clear(&e->text);
    sdci_buf_clear(&e->tags);
    sdci_buf_clear(&e->meta);
    sdci_buf_clear(&e->tagged);
    sdci_buf_clear(&e->ports);
    memset(e->fields, 0, sizeof e->fields);
    memset(e->numbers, 0, sizeof e->numbers);
    sdci_reset_weights(e, 1);
    e->status = SDC_STATUS_UNSET;
    e->bad = NULL;
}

static void sdci_reset_service(sdc_entries *e)
{
    sdci_buf_clear(&e->tags);
    sdci_buf_clear(&e->meta);
    sdci_buf_clear(&e->tagged);
    sdci_buf_clear(&e->ports);
    sdci_clear_fields(e, SDCI_ID, SDCI_ZONE);
    e->numbers[SDCI_PORT] = 0;
    sdci_reset_weights(e, 1);
}

static void sdci_reset_item(sdc_entries *e)
{
    sdci_clear_fields(e, SDCI_ITEM_NAME, SDCI_ITEM_ADDRESS);
    e->numbers[SDCI_ITEM_PORT] = 0;
    e->numbers[SDCI_ITEM_IS_DEFAULT] = 0;
}

/* Forgets what a container held before, so that of two members of one name the last wins; null is
   the same as an absent one. */
static void sdci_entries_clear(sdc_entries *e, sdci_place place)
{
    switch (place) {
    case SDCI_AT_ENTRY:         sdci_entry_reset(e);                                     break;
    case SDCI_AT_NODE:          sdci_clear_fields(e, SDCI_NODE, SDCI_NODE_ZONE);         break;
    case SDCI_AT_NODE_LOCALITY: sdci_clear_fields(e, SDCI_NODE_REGION, SDCI_NODE_ZONE);  break;
    case SDCI_AT_SERVICE:       sdci_reset_service(e);                                   break;
    case SDCI_AT_TAGS:          sdci_buf_clear(&e->tags);                                break;
    case SDCI_AT_META:          sdci_buf_clear(&e->meta);                                break;
    case SDCI_AT_TAGGED:        sdci_buf_clear(&e->tagged);                              break;
    case SDCI_AT_PORTS:         sdci_buf_clear(&e->ports);                               break;
    case SDCI_AT_TAGGED_ITEM:
    case SDCI_AT_PORT:          sdci_reset_item(e);                                      break;
    case SDCI_AT_WEIGHTS:       sdci_reset_weights(e, 1);                                break;
    case SDCI_AT_LOCALITY:      sdci_clear_fields(e, SDCI_REGION, SDCI_ZONE);            break;
    case SDCI_AT_CHECKS:        e->status = SDC_STATUS_UNSET;                            break;
    case SDCI_AT_CHECK:         sdci_clear_fields(e, SDCI_CHECK_ID, SDCI_CHECK_STATUS);  break;
    case SDCI_AT_TOP:
    case SDCI_AT_LIST:
    case SDCI_NUM_PLACES:                                                                break;
    }
}

static void sdci_entries_enter(sdc_entries *e, sdci_place place)
{
    SDC_ASSERT(e->depth + 1u < sizeof e->places);
    e->depth++;
    e->places[e->depth] = (uint8_t)place;
    sdci_entries_clear(e, place);
    if (place == SDCI_AT_WEIGHTS) {
        sdci_reset_weights(e, 0);
    }
}

/* What the official client's AggregatedStatus does, but that a status which nobody knows counts
   as critical: sending calls to such an instance would be a guess. */
static void sdci_check_done(sdc_entries *e)
{
    const char *id = sdci_field_text(e, SDCI_CHECK_ID);
    const char *text = sdci_field_text(e, SDCI_CHECK_STATUS);
    sdc_status status = SDC_STATUS_CRITICAL;

    if (strcmp(id, "_node_maintenance") == 0 || strncmp(id, "_service_maintenance:", 21) == 0) {
        status = SDC_STATUS_MAINTENANCE;
    } else if (strcmp(text, "passing") == 0) {
        status = SDC_STATUS_PASSING;
    } else if (strcmp(text, "warning") == 0) {
        status = SDC_STATUS_WARNING;
    }
    e->status = status > e->status ? status : e->status;
}

static void sdci_item_done(sdc_entries *e, sdci_buf *items, sdci_span name)
{
    sdci_item item;

    memset(&item, 0, sizeof item);
    item.name = name;
    item.address = e->fields[SDCI_ITEM_ADDRESS];
    item.port = e->numbers[SDCI_ITEM_PORT];
    item.is_default = e->numbers[SDCI_ITEM_IS_DEFAULT] != 0;
    sdci_entry_push(e, items, &item, sizeof item);
}

/* -- From an entry to an instance -- */

static bool sdci_is_space_or_control(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == ' ' || sdci_is_control(*text)) {
            return true;
        }
    }
    return false;
}

/* Sorts in place, keeping the order of equals: for a handful of items that mostly are in order
   already, as Consul writes its maps. */
static void sdci_sort_small(void *items, size_t num, size_t size,
                            int (*compare)(const void *a, const void *b))
{
    char *base = (char *)items;
    char moving[64];

    SDC_ASSERT(size <= sizeof moving);
    for (size_t i = 1; i < num; i++) {
        size_t to = i;
        while (to > 0 && compare(base + (to - 1) * size, base + i * size) > 0) {
            to--;
        }
        if (to < i) {
            memcpy(moving, base + i * size, size);
            memmove(base + (to + 1) * size, base + to * size, (i - to) * size);
            memcpy(base + to * size, moving, size);
        }
    }
}

static int sdci_compare_tags(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int sdci_compare_kv(const void *a, const void *b)
{
    return strcmp(((const sdc_kv *)a)->key, ((const sdc_kv *)b)->key);
}

static int sdci_compare_address(const void *a, const void *b)
{
    return strcmp(((const sdc_address *)a)->key, ((const sdc_address *)b)->key);
}

/* Of neighbours that compare equal the last stays. Answers how many are left. */
static size_t sdci_keep_last(void *items, size_t num, size_t size,
                             int (*compare)(const void *a, const void *b))
{
    char *base = (char *)items;
    size_t kept = 0;

    for (size_t i = 0; i < num; i++) {
        if (i + 1 < num && compare(base + i * size, base + (i + 1) * size) == 0) {
            continue;
        }
        memmove(base + kept * size, base + i * size, size);
        kept++;
    }
    return kept;
}

static void sdci_fill_tags(sdc_entries *e, sdc_instance *out, const char **tags)
{
    const sdci_span *spans = (const sdci_span *)(void *)e->tags.ptr;

    for (size_t i = 0; i < out->num_tags; i++) {
        tags[i] = sdci_span_text(e, spans[i]);
    }
    sdci_sort_small(tags, out->num_tags, sizeof *tags, sdci_compare_tags);
    out->tags = tags;
}

static void sdci_fill_meta(sdc_entries *e, sdc_instance *out, sdc_kv *meta)
{
    const sdci_pair *pairs = (const sdci_pair *)(void *)e->meta.ptr;

    for (size_t i = 0; i < out->num_meta; i++) {
        meta[i].key = sdci_span_text(e, pairs[i].key);
        meta[i].value = sdci_span_text(e, pairs[i].value);
    }
    sdci_sort_small(meta, out->num_meta, sizeof *meta, sdci_compare_kv);
    out->num_meta = sdci_keep_last(meta, out->num_meta, sizeof *meta, sdci_compare_kv);
    out->meta = meta;
}

static void sdci_fill_tagged(sdc_entries *e, sdc_instance *out, sdc_address *tagged)
{
    const sdci_item *items = (const sdci_item *)(void *)e->tagged.ptr;

    for (size_t i = 0; i < out->num_tagged_addresses; i++) {
        tagged[i].key = sdci_span_text(e, items[i].name);
        tagged[i].address = sdci_span_text(e, items[i].address);
        tagged[i].port = items[i].port;
    }
    sdci_sort_small(tagged, out->num_tagged_addresses, sizeof *tagged, sdci_compare_address);
    out->num_tagged_addresses = sdci_keep_last(tagged, out->num_tagged_addresses, sizeof *tagged,
                                               sdci_compare_address);
    out->tagged_addresses = tagged;
}

static void sdci_fill_ports(sdc_entries *e, sdc_instance *out, sdc_port *ports)
{
    const sdci_item *items = (const sdci_item *)(void *)e->ports.ptr;

    for (size_t i = 0; i < out->num_ports; i++) {
        ports[i].name = sdci_span_text(e, items[i].name);
        ports[i].port = items[i].port;
        ports[i].is_default = items[i].is_default;
    }
    out->ports = ports;
}

/* The arrays of an instance stand behind one another in one piece of memory. All elements are
   made of pointers and smaller things, so whole elements keep each other aligned. */
static bool sdci_entry_arrays(sdc_entries *e, sdc_instance *out)
{
    out->num_tags = e->tags.len / sizeof(sdci_span);
    out->num_meta = e->meta.len / sizeof(sdci_pair);
    out->num_tagged_addresses = e->tagged.len / sizeof(sdci_item);
    out->num_ports = e->ports.len / sizeof(sdci_item);
    size_t tags = out->num_tags * sizeof(const char *);
    size_t meta = out->num_meta * sizeof(sdc_kv);
    size_t tagged = out->num_tagged_addresses * sizeof(sdc_address);
    size_t ports = out->num_ports * sizeof(sdc_port);

    sdci_buf_clear(&e->arrays);
    if (!sdci_buf_reserve(&e->arrays, tags + meta + tagged + ports)) {
        return false;
    }
    char *p = e->arrays.ptr;
    sdci_fill_tags(e, out, (const char **)(void *)p);
    sdci_fill_meta(e, out, (sdc_kv *)(void *)(p + tags));
    sdci_fill_tagged(e, out, (sdc_address *)(void *)(p + tags + meta));
    sdci_fill_ports(e, out, (sdc_port *)(void *)(p + tags + meta + tagged));
    return true;
}

static const char *sdci_first_of(const char *a, const char *b)
{
    return a[0] != '\0' ? a : b;
}

/* Consul 1.22 gives several ports by name and copies the default one into Port; older agents in
   front of newer servers leave Port 0, which is no port to call. */
static uint16_t sdci_entry_port(const sdc_entries *e)
{
    const sdci_item *items = (const sdci_item *)(void *)e->ports.ptr;
    size_t num = e->ports.len / sizeof *items;

    if (e->numbers[SDCI_PORT] != 0 || num == 0) {
        return e->numbers[SDCI_PORT];
    }
    for (size_t i = 0; i < num; i++) {
        if (items[i].is_default) {
            return items[i].port;
        }
    }
    return items[0].port;
}

static uint32_t sdci_entry_weight(const sdc_entries *e, sdc_status status)
{
    if (status == SDC_STATUS_PASSING) {
        return e->numbers[SDCI_WEIGHT_PASSING];
    }
    return status == SDC_STATUS_WARNING ? e->numbers[SDCI_WEIGHT_WARNING] : 0;
}

/* "host:port", with brackets round an IPv6 host. */
static void sdci_put_addr(sdci_buf *buf, const char *host, uint16_t port)
{
    bool is_bare_ipv6 = strchr(host, ':') != NULL && host[0] != '[';

    sdci_put_text(buf, is_bare_ipv6 ? "[" : "");
    sdci_put_text(buf, host);
    sdci_put_text(buf, is_bare_ipv6 ? "]:" : ":");
    sdci_put_u64(buf, port);
}

/* Writes the instance's addr behind the other text. Answers where it starts. */
static size_t sdci_entry_addr(sdc_entries *e, sdci_field address, uint16_t port)
{
    size_t at = e->text.len;

    if (e->fields[SDCI_SOCKET_PATH].len > 0) {
        sdci_put_text(&e->text, "unix:");
        if (sdci_buf_reserve(&e->text, e->fields[SDCI_SOCKET_PATH].len)) {
            sdci_put_text(&e->text, sdci_field_text(e, SDCI_SOCKET_PATH));
        }
    } else if (sdci_buf_reserve(&e->text, (size_t)e->fields[address].len + 16)) {
        sdci_put_addr(&e->text, sdci_field_text(e, address), port);
    }
    sdci_put_char(&e->text, '\0');
    return at;
}

/* All texts are final from here on: pointers into them hold until the next entry. */
static void sdci_entry_strings(const sdc_entries *e, sdc_instance *out)
{
    out->socket_path = sdci_field_text(e, SDCI_SOCKET_PATH);
    out->id = sdci_field_text(e, SDCI_ID);
    out->service = sdci_field_text(e, SDCI_SERVICE);
    out->node = sdci_field_text(e, SDCI_NODE);
    out->datacenter = sdci_field_text(e, SDCI_DATACENTER);
    out->ns = sdci_field_text(e, SDCI_NS);
    out->partition = sdci_first_of(sdci_field_text(e, SDCI_PARTITION),
                                   sdci_field_text(e, SDCI_NODE_PARTITION));
    out->peer = sdci_first_of(sdci_field_text(e, SDCI_PEER), sdci_field_text(e, SDCI_NODE_PEER));
    bool has_own = e->fields[SDCI_REGION].len > 0 || e->fields[SDCI_ZONE].len > 0;
    out->region = sdci_field_text(e, has_own ? SDCI_REGION : SDCI_NODE_REGION);
    out->zone = sdci_field_text(e, has_own ? SDCI_ZONE : SDCI_NODE_ZONE);
}

static void sdci_entry_emit(sdc_entries *e, sdci_field address)
{
    sdc_instance out;

    memset(&out, 0, sizeof out);
    out.port = sdci_entry_port(e);
    out.status = e->status == SDC_STATUS_UNSET ? SDC_STATUS_PASSING : e->status;
    out.weight = sdci_entry_weight(e, out.status);
    size_t addr_at = sdci_entry_addr(e, address, out.port);
    if (e->text.err != SDC_OK) {
        return;
    }
    out.addr = e->text.ptr + addr_at;
    out.host = sdci_field_text(e, address);
    sdci_entry_strings(e, &out);
    if (!sdci_entry_arrays(e, &out)) {
        return;
    }
    sdc_err err = e->fn(e->user, &out);
    if (err != SDC_OK) {
        sdci_json_fail(&e->json, err, NULL);
    }
}

static void sdci_entries_leave_out(sdc_entries *e, const char *why)
{
    if (e->skipped_fn != NULL) {
        e->skipped_fn(e->user, e->num_entries, why);
    }
    e->num_skipped++;
    e->num_entries++;
}

static void sdci_entry_done(sdc_entries *e)
{
    sdci_field address = e->fields[SDCI_ADDRESS].len > 0 ? SDCI_ADDRESS : SDCI_NODE_ADDRESS;
    bool is_unix = e->fields[SDCI_SOCKET_PATH].len > 0;

    if (!is_unix && e->fields[address].len == 0) {
        sdci_entry_bad(e, "no address");
    } else if (!is_unix && sdci_is_space_or_control(sdci_field_text(e, address))) {
        sdci_entry_bad(e, "a space or control character in the address");
    } else if (!is_unix && sdci_entry_port(e) == 0) {
        sdci_entry_bad(e, "no port");
    }
    if (e->bad == NULL) {
        sdci_entry_emit(e, address);
        e->num_entries++;
    } else {
        sdci_entries_leave_out(e, e->bad);
    }
}

static void sdci_entries_leave(sdc_entries *e)
{
    sdci_place place = sdci_entries_place(e);

    e->depth--;
    if (place == SDCI_AT_ENTRY) {
        sdci_entry_done(e);
    } else if (place == SDCI_AT_CHECK) {
        sdci_check_done(e);
    } else if (place == SDCI_AT_PORT) {
        sdci_item_done(e, &e->ports, e->fields[SDCI_ITEM_NAME]);
    } else if (place == SDCI_AT_TAGGED_ITEM) {
        sdci_item_done(e, &e->tagged, e->key);
    }
}

/* -- From JSON events to entries -- */

static const sdci_member *sdci_find_member(sdci_place place, sdci_str name)
{
    const sdci_member *m = sdci_members_of[place];

    while (m->name != NULL && (strlen(m->name) != name.len ||
                               memcmp(m->name, name.ptr, name.len) != 0)) {
        m++;
    }
    return m;
}

static void sdci_entries_on_key(sdc_entries *e, sdci_str name)
{
    e->member = sdci_find_member(sdci_entries_place(e), name);
    e->json.keeps_text = e->member->type != SDCI_SKIP;
    if (e->member->name == NULL && e->member->type != SDCI_SKIP) {
        e->key = sdci_entry_keep(e, name);
    }
}

/* A value of another type than its place has. Outside an entry that is the end of the answer, or
   of this item of it; inside, of the entry. */
static void sdci_entries_wrong(sdc_entries *e)
{
    static const char *const why[] = {
        "", "a value is not a string", "a port or weight is not an integer from 0 to 65535",
        "a port's Default is neither true nor false", "a value is not an object",
        "a value is not an array", "a tag is not a string", "a meta value is not a string"
    };

    if (sdci_entries_place(e) == SDCI_AT_TOP) {
        sdci_json_fail(&e->json, SDC_ERR_SHAPE, "the answer is not an array");
    } else if (sdci_entries_place(e) == SDCI_AT_LIST) {
        sdci_entries_leave_out(e, "not an object");
    } else {
        sdci_entry_bad(e, why[e->member->type]);
    }
}

static void sdci_entries_on_number(sdc_entries *e, sdci_str text)
{
    uint64_t value = 0;

    if (e->member->type == SDCI_UINT16 && sdci_parse_u64(text, 65535, &value)) {
        e->numbers[e->member->target] = (uint16_t)value;
    } else {
        sdci_entries_wrong(e);
    }
}

static void sdci_entries_on_string(sdc_entries *e, sdci_str text)
{
    sdci_pair pair;

    if (e->member->type == SDCI_STRING) {
        e->fields[e->member->target] = sdci_entry_keep(e, text);
    } else if (e->member->type == SDCI_TAG) {
        sdci_span tag = sdci_entry_keep(e, text);
        sdci_entry_push(e, &e->tags, &tag, sizeof tag);
    } else if (e->member->type == SDCI_META) {
        pair.key = e->key;
        pair.value = sdci_entry_keep(e, text);
        sdci_entry_push(e, &e->meta, &pair, sizeof pair);
    } else {
        sdci_entries_wrong(e);
    }
}

/* Go writes null for what is not set. An item of a list is not a thing that can be unset. */
static void sdci_entries_on_null(sdc_entries *e)
{
    const sdci_member *m = e->member;

    if (m->name == NULL) {
        sdci_entries_wrong(e);
    } else if (m->type == SDCI_STRING) {
        memset(&e->fields[m->target], 0, sizeof e->fields[0]);
    } else if (m->type == SDCI_UINT16 || m->type == SDCI_BOOL) {
        e->numbers[m->target] = m->target == SDCI_WEIGHT_PASSING ? 1 : 0;
    } else {
        sdci_entries_clear(e, (sdci_place)m->target);
    }
}

static void sdci_entries_on_scalar(sdc_entries *e, sdc_json_kind kind, sdci_str text)
{
    if (e->member->type == SDCI_SKIP) {
        return;
    }
    if (kind == SDC_JSON_STRING) {
        sdci_entries_on_string(e, text);
    } else if (kind == SDC_JSON_NUMBER) {
        sdci_entries_on_number(e, text);
    } else if (kind == SDC_JSON_NULL) {
        sdci_entries_on_null(e);
    } else if (e->member->type == SDCI_BOOL) {
        e->numbers[e->member->target] = kind == SDC_JSON_TRUE;
    } else {
        sdci_entries_wrong(e);
    }
}

/* Goes into a container that is wanted, and counts its way out of one that is not. */
static void sdci_entries_on_open(sdc_entries *e, sdc_json_kind kind)
{
    sdci_type type = e->member->type;

    if (type == (kind == SDC_JSON_OBJECT ? SDCI_OBJECT : SDCI_ARRAY)) {
        sdci_entries_enter(e, (sdci_place)e->member->target);
        return;
    }
    if (type != SDCI_SKIP) {
        sdci_entries_wrong(e);
    }
    e->skip_depth = 1;
}

static void sdci_entries_in_skipped(sdc_entries *e, sdc_json_kind kind)
{
    if (kind == SDC_JSON_OBJECT || kind == SDC_JSON_ARRAY) {
        e->skip_depth++;
    } else if (kind == SDC_JSON_OBJECT_END || kind == SDC_JSON_ARRAY_END) {
        e->skip_depth--;
    }
}

static void sdci_entries_on_token(sdc_entries *e, sdc_json_kind kind, sdci_str text)
{
    if (e->skip_depth > 0) {
        sdci_entries_in_skipped(e, kind);
    } else if (kind == SDC_JSON_OBJECT || kind == SDC_JSON_ARRAY) {
        sdci_entries_on_open(e, kind);
    } else if (kind == SDC_JSON_OBJECT_END || kind == SDC_JSON_ARRAY_END) {
        sdci_entries_leave(e);
    } else {
        sdci_entries_on_scalar(e, kind, text);
    }
    /* the next token is an item of the array here, or a name, and only names may be unwanted */
    e->json.keeps_text = e->skip_depth == 0;
    e->member = sdci_members_of[sdci_entries_place(e)];
}

/* Too much text makes the entry unusable; no memory ends the answer. */
static void sdci_entries_check_memory(sdc_entries *e)
{
    sdci_buf *bufs[] = { &e->text, &e->tags, &e->meta, &e->tagged, &e->ports, &e->arrays };

    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
        if (bufs[i]->err == SDC_ERR_LIMIT) {
            sdci_entry_bad(e, "more than 1 MiB of text");
        } else if (bufs[i]->err != SDC_OK) {
            sdci_json_fail(&e->json, bufs[i]->err, NULL);
        }
    }
}

static sdc_err sdci_entries_on_json(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    sdc_entries *e = (sdc_entries *)user;

    if (kind == SDC_JSON_KEY && e->skip_depth == 0) {
        sdci_entries_on_key(e, sdci_slice(text, len));
    } else {
        sdci_entries_on_token(e, kind, sdci_slice(text, len));
    }
    sdci_entries_check_memory(e);
    return e->json.fault.code;
}

/* -- The decoder -- */

static void sdci_entries_reset(sdc_entries *e)
{
    sdci_json_reset(&e->json);
    sdci_entry_reset(e);
    sdci_buf_clear(&e->arrays);
    e->num_entries = 0;
    e->num_skipped = 0;
    e->skip_depth = 0;
    e->depth = 0;
    e->places[0] = SDCI_AT_TOP;
    e->member = sdci_members_of[SDCI_AT_TOP];
}

static void sdci_entries_init(sdc_entries *e, const sdc_allocator *allocator, sdc_instance_fn fn,
                              sdci_skipped_fn skipped_fn, void *user)
{
    memset(e, 0, sizeof *e);
    sdci_json_init(&e->json, allocator, sdci_entries_on_json, e);
    e->fn = fn;
    e->skipped_fn = skipped_fn;
    e->user = user;
    sdci_buf_init(&e->text, allocator, SDCI_ENTRY_TEXT_MAX);
    sdci_buf_init(&e->tags, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_span));
    sdci_buf_init(&e->meta, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_pair));
    sdci_buf_init(&e->tagged, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_item));
    sdci_buf_init(&e->ports, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_item));
    sdci_buf_init(&e->arrays, allocator, SIZE_MAX);
    sdci_entries_reset(e);
}

static void sdci_entries_deinit(sdc_entries *e)
{
    sdci_json_deinit(&e->json);
    sdci_buf_deinit(&e->text);
    sdci_buf_deinit(&e->tags);
    sdci_buf_deinit(&e->meta);
    sdci_buf_deinit(&e->tagged);
    sdci_buf_deinit(&e->ports);
    sdci_buf_deinit(&e->arrays);
}

sdc_err sdc_entries_feed(sdc_entries *entries, const void *bytes, size_t len)
{
    return sdc_json_feed(&entries->json, bytes, len);
}

sdc_err sdc_entries_finish(sdc_entries *entries)
{
    return sdc_json_finish(&entries->json);
}

void sdc_entries_error(const sdc_entries *entries, sdc_error *out)
{
    sdc_json_error(&entries->json, out);
}

uint64_t sdc_entries_skipped(const sdc_entries *entries)
{
    return entries->num_skipped;
}

void sdc_entries_reset(sdc_entries *entries)
{
    sdci_entries_reset(entries);
}

sdc_err sdc_entries_create(const sdc_allocator *allocator, sdc_instance_fn fn, void *user,
                           sdc_entries **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);

    *out = NULL;
    if (fn == NULL) {
        return SDC_ERR_ARG;
    }
    sdc_entries *e = (sdc_entries *)sdci_new(&own, sizeof *e);
    if (e == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_entries_init(e, NULL, fn, NULL, user);
    e->own = own;
    sdci_buf *bufs[] = { &e->json.text, &e->text, &e->tags, &e->meta, &e->tagged, &e->ports,
                         &e->arrays };
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
        bufs[i]->allocator = &e->own;
    }
    *out = e;
    return SDC_OK;
}

void sdc_entries_destroy(sdc_entries *entries)
{
    if (entries != NULL) {
        sdc_allocator own = entries->own;
        sdci_entries_deinit(entries);
        sdci_free(&own, entries, sizeof *entries);
    }
}

/* ---- URLs ---------------------------------------------------- [sdc:url] --
   The agent's address taken apart, and what a caller passes made safe to
   stand in a request line. Everything but RFC 3986's unreserved characters is
   percent-encoded, so nothing can add a parameter, a line or a header.
   ------------------------------------------------------------------------- */

static bool sdci_is_unreserved(char c)
{
    char l = sdci_lower(c);

    return (l >= 'a' && l <= 'z') || sdci_is_digit(c) || c == '-' || c == '.' || c == '_' ||
           c == '~';
}

static void sdci_put_escaped(sdci_buf *buf, const char *text)
{
    static const char digits[] = "0123456789ABCDEF";

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (sdci_is_unreserved(*text)) {
            sdci_put_char(buf, *text);
        } else {
            sdci_put_char(buf, '%');
            sdci_put_char(buf, digits[c >> 4]);
            sdci_put_char(buf, digits[c & 15]);
        }
    }
}

/* The code point at *p of a UTF-8 text, moving *p behind it; a byte that is not UTF-8 counts as
   itself, and only what Consul's printable check would refuse matters to the caller. */
static uint32_t sdci_code_point(const unsigned char **p)
{
    const unsigned char *s = *p;

    if (s[0] >= 0xC2 && s[0] <= 0xDF && (s[1] & 0xC0) == 0x80) {
        *p += 2;
        return (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3Fu);
    }
    if ((s[0] & 0xF0) == 0xE0 && (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80) {
        *p += 3;
        return (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3Fu);
    }
    *p += 1;
    return s[0] < 0x80 ? s[0] : 'x';
}

/* Control characters, and the spaces and format characters that look like nothing or like an
   ordinary space: Consul answers 400 with an empty body to those in a path. */
static bool sdci_has_unprintable(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;

    while (*p != '\0') {
        uint32_t c = sdci_code_point(&p);
        if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || c == 0x1680 ||
            (c >= 0x2000 && c <= 0x200F) || (c >= 0x2028 && c <= 0x202F) ||
            (c >= 0x205F && c <= 0x206F) || c == 0x3000 || c == 0xFEFF) {
            return true;
        }
    }
    return false;
}

/* True if a part of the path, between slashes, is empty, "." or "..": agents redirect those, in
   some versions even when they come percent-encoded. */
static bool sdci_has_dot_part(const char *text)
{
    for (;;) {
        size_t len = strcspn(text, "/");
        if (len == 0 || (len == 1 && text[0] == '.') ||
            (len == 2 && text[0] == '.' && text[1] == '.')) {
            return true;
        }
        if (text[len] == '\0') {
            return false;
        }
        text += len + 1;
    }
}

/* A name or ID that can stand in a path. `field` is what the caller calls it. */
static sdc_err sdci_check_path_part(const char *field, const char *text, sdc_error *error)
{
    if (sdci_is_empty(text)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s is missing", field);
    }
    if (sdci_has_unprintable(text)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s has a character that is not printable", field);
    }
    if (sdci_has_dot_part(text)) {
        return sdci_fail(error, SDC_ERR_ARG,
                         "%s has an empty, \".\" or \"..\" part between slashes: \"%.80s\"", field,
                         text);
    }
    return SDC_OK;
}

/* -- The agent's address -- */

typedef struct sdci_address {
    sdci_str host;              /* without brackets */
    sdci_str prefix;            /* "" or "/...", without a slash at its end */
    sdci_str path;              /* of a unix socket */
    uint16_t port;
    bool is_ipv6, is_unix, tls;
} sdci_address;

static bool sdci_starts_with(sdci_str text, const char *start, sdci_str *rest)
{
    size_t len = strlen(start);

    if (text.len < len || memcmp(text.ptr, start, len) != 0) {
        return false;
    }
    *rest = sdci_slice(text.ptr + len, text.len - len);
    return true;
}

static sdc_err sdci_bad_address(sdc_error *error, sdci_str address, const char *why)
{
    return sdci_fail(error, SDC_ERR_ARG, "address \"%.*s\": %s", (int)sdci_min(address.len, 100),
                     address.ptr, why);
}

/* "host", "host:port", "[v6]" or "[v6]:port". */
static const char *sdci_parse_authority(sdci_str text, sdci_address *out)
{
    const char *colon = text.len > 0 ? (const char *)memchr(text.ptr, ':', text.len) : NULL;
    sdci_str port = sdci_slice("", 0);
    uint64_t number = 0;

    if (text.len > 0 && text.ptr[0] == '[') {
        const char *bracket = (const char *)memchr(text.ptr, ']', text.len);
        if (bracket == NULL) {
            return "']' is missing";
        }
        out->is_ipv6 = true;
        out->host = sdci_slice(text.ptr + 1, (size_t)(bracket - text.ptr) - 1);
        colon = bracket + 1 < text.ptr + text.len ? bracket + 1 : NULL;
        if (colon != NULL && *colon != ':') {
            return "only a port may follow ']'";
        }
    } else {
        out->host = colon == NULL ? text : sdci_slice(text.ptr, (size_t)(colon - text.ptr));
    }
    if (out->host.len == 0) {
        return "the host is missing";
    }
    if (colon == NULL) {
        return NULL;
    }
    port = sdci_slice(colon + 1, (size_t)(text.ptr + text.len - colon) - 1);
    if (memchr(port.ptr, ':', port.len) != NULL) {
        return "an IPv6 host needs brackets";
    }
    if (!sdci_parse_u64(port, 65535, &number) || number == 0) {
        return "the port is not a number from 1 to 65535";
    }
    out->port = (uint16_t)number;
    return NULL;
}

/* What no part of an address may hold; a list of several agents would need a comma. */
static const char *sdci_address_nonsense(sdci_str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (sdci_is_control(c) || c == ' ') {
            return "it has a space or control character";
        }
        if (c == '?' || c == '#' || c == '@') {
            return "only host, port and path may be in it";
        }
        if (c == ',') {
            return "only one agent can be named";
        }
    }
    return NULL;
}

/* Without a scheme the port is Consul's, with one it is the scheme's, as for the official client. */
static sdc_err sdci_parse_address(const char *address, sdci_address *out, sdc_error *error)
{
    sdci_str text = sdci_str_of(address);
    sdci_str rest = text;

    memset(out, 0, sizeof *out);
    out->port = 8500;
    if (sdci_starts_with(text, "unix://", &rest)) {
        out->is_unix = true;
        out->path = rest;
        out->host = sdci_str_of("localhost");
        return rest.len > 0 ? SDC_OK : sdci_bad_address(error, text, "the path is missing");
    }
    if (sdci_starts_with(text, "https://", &rest)) {
        out->tls = true;
        out->port = 443;
    } else if (sdci_starts_with(text, "http://", &rest)) {
        out->port = 80;
    } else if (strstr(address, "://") != NULL) {
        return sdci_bad_address(error, text, "the scheme is not http, https or unix");
    }
    const char *why = sdci_address_nonsense(rest);
    if (why != NULL) {
        return sdci_bad_address(error, text, why);
    }
    size_t len = 0;
    while (len < rest.len && rest.ptr[len] != '/') {
        len++;
    }
    out->prefix = sdci_slice(rest.ptr + len, rest.len - len);
    while (out->prefix.len > 0 && out->prefix.ptr[out->prefix.len - 1] == '/') {
        out->prefix.len--;
    }
    why = sdci_parse_authority(sdci_slice(rest.ptr, len), out);
    return why == NULL ? SDC_OK : sdci_bad_address(error, text, why);
}

/* -- Base64, for basic authentication (RFC 7617) -- */

static void sdci_put_base64(sdci_buf *buf, sdci_str text)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < text.len; i += 3) {
        uint32_t bits = (uint32_t)(unsigned char)text.ptr[i] << 16;
        bits |= i + 1 < text.len ? (uint32_t)(unsigned char)text.ptr[i + 1] << 8 : 0;
        bits |= i + 2 < text.len ? (uint32_t)(unsigned char)text.ptr[i + 2] : 0;
        sdci_put_char(buf, digits[bits >> 18]);
        sdci_put_char(buf, digits[bits >> 12 & 63]);
        sdci_put_char(buf, i + 1 < text.len ? digits[bits >> 6 & 63] : '=');
        sdci_put_char(buf, i + 2 < text.len ? digits[bits & 63] : '=');
    }
}

/* ---- HTTP --------------------------------------------------- [sdc:http] --
   One HTTP/1.x response (RFC 9112): status line, fields, then a body by
   length, by chunks or up to the end of the connection. Takes bytes, yields
   events; knows no socket and no clock.

   It is strict, because it talks to one kind of server and a framing that two
   sides read differently is how answers get mixed up: both Content-Length and
   Transfer-Encoding, two lengths, a coding other than chunked, a bare LF, a
   malformed chunk size are errors. A short body is an error, never data.

     STATUS_LINE --> FIELDS --1xx--> STATUS_LINE
                       |--no body-----------------------------> COMPLETE
                       |--Content-Length--> LENGTH_BODY ------>    ^
                       |--chunked--> CHUNK_SIZE --0--> TRAILERS ---'
                       |                |  ^  '--';'--> CHUNK_EXTENSION
                       |                v  |
                       |            CHUNK_DATA --> CHUNK_END
                       '--neither--> CLOSE_BODY --peer closes--> COMPLETE
   ------------------------------------------------------------------------- */

#define SDCI_HTTP_HEAD_MAX ((size_t)64 << 10)

typedef enum sdci_http_state {
    SDCI_HTTP_STATUS_LINE,      /* until its CRLF                                     */
    SDCI_HTTP_FIELDS,           /* until an empty line                                */
    SDCI_HTTP_LENGTH_BODY,      /* `left` bytes to come                               */
    SDCI_HTTP_CLOSE_BODY,       /* until the peer closes                              */
    SDCI_HTTP_CHUNK_SIZE,       /* in its digits                                      */
    SDCI_HTTP_CHUNK_EXTENSION,  /* after them, until CR                               */
    SDCI_HTTP_CHUNK_SIZE_LF,
    SDCI_HTTP_CHUNK_DATA,       /* `left` bytes to come                               */
    SDCI_HTTP_CHUNK_END_CR,
    SDCI_HTTP_CHUNK_END_LF,
    SDCI_HTTP_TRAILERS,         /* as fields, until an empty line; nobody sees them   */
    SDCI_HTTP_COMPLETE          /* further bytes are not of this response             */
} sdci_http_state;

struct sdc_http {
    sdc_http_handler handler;
    sdc_allocator own;          /* of a decoder that sdc_http_create made */
    sdci_buf line;              /* the newest field, and the line being read behind it */
    size_t line_at;             /* where that line begins */
    sdci_fault fault;
    uint64_t offset;            /* bytes before the current feed */
    uint64_t left;              /* of the body or chunk */
    uint64_t length;            /* Content-Length, if has_length */
    uint64_t body_bytes, body_max;
    size_t head_bytes, head_max;    /* everything that is not body counts */
    int status;
    sdci_http_state state;
    uint8_t num_digits;         /* of a chunk size */
    bool has_length, is_chunked, is_1_0, says_close, says_keep_alive;
};

static void sdci_http_reset(sdc_http *http)
{
    sdci_buf_clear(&http->line);
    memset(&http->fault, 0, sizeof http->fault);
    http->offset = 0;
    http->left = 0;
    http->length = 0;
    http->body_bytes = 0;
    http->head_bytes = 0;
    http->status = 0;
    http->state = SDCI_HTTP_STATUS_LINE;
    http->num_digits = 0;
    http->line_at = 0;
    http->has_length = false;
    http->is_chunked = false;
    http->is_1_0 = false;
    http->says_close = false;
    http->says_keep_alive = false;
}

static void sdci_http_init(sdc_http *http, const sdc_allocator *allocator,
                           const sdc_http_handler *handler, size_t head_max, uint64_t body_max)
{
    memset(http, 0, sizeof *http);
    http->handler = *handler;
    http->head_max = head_max;
    http->body_max = body_max;
    sdci_buf_init(&http->line, allocator, head_max + 1);
    sdci_http_reset(http);
}

static void sdci_http_deinit(sdc_http *http)
{
    sdci_buf_deinit(&http->line);
}

static sdc_err sdci_http_fail(sdc_http *http, sdc_err code, const char *what)
{
    if (http->fault.code == SDC_OK) {
        http->fault.code = code;
        http->fault.what = what;
    }
    return http->fault.code;
}

/* -- The head -- */

/* "HTTP/1.1 200 OK"; the reason may be empty, and the space before it missing. */
static sdc_err sdci_http_status_line(sdc_http *http, sdci_str line)
{
    uint64_t status = 0;
    bool is_http = line.len >= 12 && memcmp(line.ptr, "HTTP/1.", 7) == 0 &&
                   sdci_is_digit(line.ptr[7]) && line.ptr[8] == ' ' &&
                   sdci_parse_u64(sdci_slice(line.ptr + 9, 3), 999, &status) &&
                   (line.len == 12 || line.ptr[12] == ' ');

    if (!is_http) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "the status line is not of HTTP/1.x");
    }
    if (status < 100 || status == 101) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "an impossible status");
    }
    http->is_1_0 = line.ptr[7] == '0';
    http->status = (int)status;
    http->state = SDCI_HTTP_FIELDS;
    if (status >= 200 && http->handler.on_status != NULL) {
        sdc_err err = http->handler.on_status(http->handler.user, http->status);
        return err == SDC_OK ? SDC_OK : sdci_http_fail(http, err, NULL);
    }
    return SDC_OK;
}

/* Characters of a field name (RFC 9110, 5.6.2). */
static bool sdci_http_is_token(sdci_str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = sdci_lower(text.ptr[i]);
        bool is_alnum = (c >= 'a' && c <= 'z') || sdci_is_digit(c);
        if (!is_alnum && (c == '\0' || strchr("!#$%&'*+-.^_`|~", c) == NULL)) {
            return false;
        }
    }
    return text.len > 0;
}

/* A length that comes twice with the same value is one length (RFC 9110, 8.6). */
static sdc_err sdci_http_content_length(sdc_http *http, sdci_str value)
{
    uint64_t length = 0;

    if (!sdci_parse_u64(value, UINT64_MAX, &length)) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "Content-Length is not a number");
    }
    if (http->has_length && http->length != length) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "two Content-Lengths that differ");
    }
    http->has_length = true;
    http->length = length;
    return SDC_OK;
}

/* One option of a Connection field, which is a list. */
static void sdci_http_connection(sdc_http *http, sdci_str value)
{
    while (value.len > 0) {
        size_t len = 0;
        while (len < value.len && value.ptr[len] != ',') {
            len++;
        }
        sdci_str option = sdci_trim(sdci_slice(value.ptr, len));
        if (sdci_equal_nocase(option, sdci_str_of("close"))) {
            http->says_close = true;
        } else if (sdci_equal_nocase(option, sdci_str_of("keep-alive"))) {
            http->says_keep_alive = true;
        }
        len += len < value.len ? 1 : 0;
        value = sdci_slice(value.ptr + len, value.len - len);
    }
}

static sdc_err sdci_http_framing_field(sdc_http *http, sdci_str name, sdci_str value)
{
    if (sdci_equal_nocase(name, sdci_str_of("Content-Length"))) {
        return sdci_http_content_length(http, value);
    }
    if (sdci_equal_nocase(name, sdci_str_of("Transfer-Encoding"))) {
        if (http->is_chunked || !sdci_equal_nocase(value, sdci_str_of("chunked"))) {
            return sdci_http_fail(http, SDC_ERR_HTTP, "a transfer coding other than chunked");
        }
        http->is_chunked = true;
    } else if (sdci_equal_nocase(name, sdci_str_of("Connection"))) {
        sdci_http_connection(http, value);
    }
    return SDC_OK;
}

/* A whole field, folded lines joined. Those of a 1xx and of the trailer are checked for form
   alone. */
static sdc_err sdci_http_field(sdc_http *http, sdci_str line)
{
    const char *colon = (const char *)memchr(line.ptr, ':', line.len);

    if (colon == NULL || !sdci_http_is_token(sdci_slice(line.ptr, (size_t)(colon - line.ptr)))) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "a malformed header field");
    }
    sdci_str name = sdci_slice(line.ptr, (size_t)(colon - line.ptr));
    sdci_str value = sdci_trim(sdci_slice(colon + 1, line.len - name.len - 1));
    for (size_t i = 0; i < value.len; i++) {
        if (sdci_is_control(value.ptr[i]) && value.ptr[i] != '\t') {
            return sdci_http_fail(http, SDC_ERR_HTTP, "a control character in a header field");
        }
    }
    if (http->state != SDCI_HTTP_FIELDS || http->status < 200) {
        return SDC_OK;
    }
    sdc_err err = sdci_http_framing_field(http, name, value);
    if (err == SDC_OK && http->handler.on_header != NULL) {
        err = http->handler.on_header(http->handler.user, name.ptr, name.len, value.ptr,
                                      value.len);
    }
    return err == SDC_OK ? SDC_OK : sdci_http_fail(http, err, NULL);
}

/* The empty line: what the body is made of (RFC 9112, 6.3). */
static sdc_err sdci_http_head_done(sdc_http *http)
{
    bool has_no_body = http->status == 204 || http->status == 304;

    if (http->state == SDCI_HTTP_TRAILERS) {
        http->state = SDCI_HTTP_COMPLETE;
        return SDC_OK;
    }
    if (http->status < 200) {
        http->state = SDCI_HTTP_STATUS_LINE;
        return SDC_OK;
    }
    if (http->is_chunked && (http->has_length || http->is_1_0)) {
        return sdci_http_fail(http, SDC_ERR_HTTP, http->is_1_0
                                  ? "chunks in an answer of HTTP/1.0"
                                  : "both Content-Length and Transfer-Encoding");
    }
    if (http->has_length && http->length > http->body_max) {
        return sdci_http_fail(http, SDC_ERR_LIMIT, "the body is longer than max_body_bytes");
    }
    http->left = http->length;
    if (has_no_body || (http->has_length && http->length == 0)) {
        http->state = SDCI_HTTP_COMPLETE;
    } else if (http->has_length) {
        http->state = SDCI_HTTP_LENGTH_BODY;
    } else {
        http->state = http->is_chunked ? SDCI_HTTP_CHUNK_SIZE : SDCI_HTTP_CLOSE_BODY;
    }
    return SDC_OK;
}

/* `line` holds the newest whole field and behind it, from line_at on, the line being read: only a
   line that does not begin with a space shows that the field before it was whole. The others are
   folds, which a client reads as one space (RFC 9112, 5.2). */
static sdc_err sdci_http_flush_field(sdc_http *http)
{
    sdc_err err = SDC_OK;

    if (http->line_at > 0) {
        err = sdci_http_field(http, sdci_slice(http->line.ptr, http->line_at));
        memmove(http->line.ptr, http->line.ptr + http->line_at, http->line.len - http->line_at);
        http->line.len -= http->line_at;
        http->line_at = 0;
    }
    return err;
}

/* A line without its CRLF. */
static sdc_err sdci_http_line_done(sdc_http *http)
{
    sdci_str line = sdci_buf_from(&http->line, http->line_at);

    if (http->state == SDCI_HTTP_STATUS_LINE) {
        sdc_err err = sdci_http_status_line(http, line);
        sdci_buf_clear(&http->line);
        return err;
    }
    if (line.len > 0 && (line.ptr[0] == ' ' || line.ptr[0] == '\t')) {
        if (http->line_at == 0) {
            return sdci_http_fail(http, SDC_ERR_HTTP, "a folded line without a field");
        }
        http->line_at = http->line.len;
        return SDC_OK;
    }
    bool is_end = line.len == 0;
    sdc_err err = sdci_http_flush_field(http);
    if (err == SDC_OK && is_end) {
        sdci_buf_clear(&http->line);
        return sdci_http_head_done(http);
    }
    http->line_at = http->line.len;
    return err;
}

static sdc_err sdci_http_count_head(sdc_http *http, size_t len)
{
    if (len > http->head_max - http->head_bytes) {
        return sdci_http_fail(http, SDC_ERR_LIMIT, "the head is longer than max_head_bytes");
    }
    http->head_bytes += len;
    return SDC_OK;
}

/* A peer that does not speak HTTP is told from its first bytes: it may never send a line end. */
static sdc_err sdci_http_check_start(sdc_http *http)
{
    size_t len = (size_t)sdci_min(http->line.len, 7);

    if (http->state == SDCI_HTTP_STATUS_LINE && memcmp(http->line.ptr, "HTTP/1.", len) != 0) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "the peer does not speak HTTP/1.x");
    }
    return SDC_OK;
}

/* Takes bytes up to the end of one line. */
static size_t sdci_http_head(sdc_http *http, const char *bytes, size_t len)
{
    const char *lf = (const char *)memchr(bytes, '\n', len);
    size_t taken = lf != NULL ? (size_t)(lf - bytes) + 1 : len;

    if (sdci_http_count_head(http, taken) != SDC_OK) {
        return 0;
    }
    sdci_put(&http->line, bytes, taken);
    if (http->line.err != SDC_OK) {
        (void)sdci_http_fail(http, http->line.err, NULL);
        return 0;
    }
    if (sdci_http_check_start(http) != SDC_OK || lf == NULL) {
        return taken;
    }
    sdci_str line = sdci_buf_from(&http->line, http->line_at);
    if (line.len < 2 || line.ptr[line.len - 2] != '\r') {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a line of the head does not end in CRLF");
        return taken;
    }
    http->line.len -= 2;
    (void)sdci_http_line_done(http);
    return taken;
}

/* -- The body -- */

static void sdci_http_chunk_size_done(sdc_http *http)
{
    http->state = SDCI_HTTP_CHUNK_DATA;
    if (http->left == 0) {
        http->state = SDCI_HTTP_TRAILERS;
    } else if (http->left > http->body_max - http->body_bytes) {
        (void)sdci_http_fail(http, SDC_ERR_LIMIT, "the body is longer than max_body_bytes");
    }
    http->num_digits = 0;
}

static void sdci_http_chunk_size(sdc_http *http, char c)
{
    int digit = sdci_hex(c);

    if (digit >= 0 && http->num_digits < 15) {
        http->left = http->left * 16 + (uint64_t)digit;
        http->num_digits++;
    } else if (digit >= 0 || http->num_digits == 0) {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a malformed chunk size");
    } else if (c == '\r') {
        http->state = SDCI_HTTP_CHUNK_SIZE_LF;
    } else if (c == ';' || c == ' ' || c == '\t') {
        http->state = SDCI_HTTP_CHUNK_EXTENSION;
    } else {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a malformed chunk size");
    }
}

/* Extensions mean nothing here (RFC 9112, 7.1.1); they count as head, so that they end. */
static void sdci_http_chunk_extension(sdc_http *http, char c)
{
    if (c == '\r') {
        http->state = SDCI_HTTP_CHUNK_SIZE_LF;
    } else if (sdci_is_control(c) && c != '\t') {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a malformed chunk extension");
    } else {
        (void)sdci_http_count_head(http, 1);
    }
}

/* One byte of what stands round the chunks. */
static void sdci_http_chunk_byte(sdc_http *http, char c)
{
    bool is_cr = http->state == SDCI_HTTP_CHUNK_END_CR;

    if (http->state == SDCI_HTTP_CHUNK_SIZE) {
        sdci_http_chunk_size(http, c);
    } else if (http->state == SDCI_HTTP_CHUNK_EXTENSION) {
        sdci_http_chunk_extension(http, c);
    } else if (c != (is_cr ? '\r' : '\n')) {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a chunk does not end in CRLF");
    } else if (is_cr) {
        http->state = SDCI_HTTP_CHUNK_END_LF;
    } else if (http->state == SDCI_HTTP_CHUNK_SIZE_LF) {
        sdci_http_chunk_size_done(http);
    } else {
        http->state = SDCI_HTTP_CHUNK_SIZE;
        http->left = 0;
    }
}

static void sdci_http_body(sdc_http *http, const char *bytes, size_t len)
{
    http->body_bytes += len;
    if (http->handler.on_body != NULL) {
        sdc_err err = http->handler.on_body(http->handler.user, bytes, len);
        if (err != SDC_OK) {
            (void)sdci_http_fail(http, err, NULL);
        }
    }
}

/* A piece of a body or chunk whose length is known. */
static size_t sdci_http_counted(sdc_http *http, const char *bytes, size_t len)
{
    size_t taken = (size_t)sdci_min(len, http->left);

    http->left -= taken;
    sdci_http_body(http, bytes, taken);
    if (http->left == 0) {
        http->state = http->state == SDCI_HTTP_CHUNK_DATA ? SDCI_HTTP_CHUNK_END_CR
                                                          : SDCI_HTTP_COMPLETE;
    }
    return taken;
}

static size_t sdci_http_until_close(sdc_http *http, const char *bytes, size_t len)
{
    if (len > http->body_max - http->body_bytes) {
        (void)sdci_http_fail(http, SDC_ERR_LIMIT, "the body is longer than max_body_bytes");
        return 0;
    }
    sdci_http_body(http, bytes, len);
    return len;
}

/* -- The decoder -- */

/* Answers how many bytes it took: at least one where there is no fault. */
static size_t sdci_http_some(sdc_http *http, const char *bytes, size_t len)
{
    switch (http->state) {
    case SDCI_HTTP_STATUS_LINE:
    case SDCI_HTTP_FIELDS:
    case SDCI_HTTP_TRAILERS:
        return sdci_http_head(http, bytes, len);
    case SDCI_HTTP_LENGTH_BODY:
    case SDCI_HTTP_CHUNK_DATA:
        return sdci_http_counted(http, bytes, len);
    case SDCI_HTTP_CLOSE_BODY:
        return sdci_http_until_close(http, bytes, len);
    case SDCI_HTTP_CHUNK_SIZE:
    case SDCI_HTTP_CHUNK_EXTENSION:
    case SDCI_HTTP_CHUNK_SIZE_LF:
    case SDCI_HTTP_CHUNK_END_CR:
    case SDCI_HTTP_CHUNK_END_LF:
        sdci_http_chunk_byte(http, bytes[0]);
        return 1;
    case SDCI_HTTP_COMPLETE:
        break;
    }
    return 0;
}

sdc_err sdc_http_feed(sdc_http *http, const void *bytes, size_t len, size_t *used)
{
    const char *start = (const char *)bytes;
    size_t done = 0;

    while (done < len && http->fault.code == SDC_OK && http->state != SDCI_HTTP_COMPLETE) {
        size_t taken = sdci_http_some(http, start + done, len - done);
        if (http->fault.code != SDC_OK) {
            http->fault.at = http->offset + done;
        }
        done += taken;
    }
    http->offset += done;
    *used = done;
    return http->fault.code;
}

sdc_err sdc_http_finish(sdc_http *http)
{
    if (http->fault.code != SDC_OK) {
        return http->fault.code;
    }
    if (http->state == SDCI_HTTP_CLOSE_BODY) {
        http->state = SDCI_HTTP_COMPLETE;
        http->says_close = true;
    }
    if (http->state != SDCI_HTTP_COMPLETE) {
        http->fault.at = http->offset;
        return sdci_http_fail(http, SDC_ERR_IO, "the connection ended before the answer did");
    }
    return SDC_OK;
}

bool sdc_http_is_complete(const sdc_http *http)
{
    return http->state == SDCI_HTTP_COMPLETE && http->fault.code == SDC_OK;
}

bool sdc_http_keeps_alive(const sdc_http *http)
{
    return sdc_http_is_complete(http) && !http->says_close &&
           (!http->is_1_0 || http->says_keep_alive);
}

void sdc_http_error(const sdc_http *http, sdc_error *out)
{
    sdci_fault_tell(&http->fault, "HTTP", out);
    out->http_status = http->status >= 200 ? http->status : 0;
}

void sdc_http_reset(sdc_http *http)
{
    sdci_http_reset(http);
}

sdc_err sdc_http_create(const sdc_allocator *allocator, const sdc_http_handler *handler,
                        sdc_http **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);

    *out = NULL;
    if (handler == NULL) {
        return SDC_ERR_ARG;
    }
    sdc_http *http = (sdc_http *)sdci_new(&own, sizeof *http);
    if (http == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_http_init(http, NULL, handler, SDCI_HTTP_HEAD_MAX, UINT64_MAX);
    http->own = own;
    http->line.allocator = &http->own;
    *out = http;
    return SDC_OK;
}

void sdc_http_destroy(sdc_http *http)
{
    if (http != NULL) {
        sdc_allocator own = http->own;
        sdci_http_deinit(http);
        sdci_free(&own, http, sizeof *http);
    }
}
#endif
