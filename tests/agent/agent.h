/* An embedded Consul agent for tests and the demo: one server node with its
   own catalog, as far as service discovery goes. It answers what a real agent
   answers, in two versions; a contract suite runs the same cases against it
   and against real agents.

   The core takes bytes and time and gives bytes: no socket, no clock, no
   thread, no lock. Same inputs, same outputs. Times are milliseconds of any
   monotonic clock; going back counts as standing still. server.h puts it
   behind a socket.

   Different from a real agent: probes of HTTP, TCP and other active checks are
   never run (agent_set_check stands in for them), no gzip, catalog writes
   follow at once, contents of Proxy and Connect are checked but not stored,
   every `filter` is answered as a wrong one. */
#ifndef SDCONSUL_TESTS_AGENT_H
#define SDCONSUL_TESTS_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum agent_profile { AGENT_1_8, AGENT_1_22 } agent_profile;

typedef struct agent_desc {
    agent_profile profile;
    const char *management_token;   /* ACLs on, default deny (NULL: ACLs off)          */
    bool        pretty;             /* indented JSON as of -dev (compact)              */
    uint64_t    first_index;        /* raft index of the node's registration (7 or 15) */
    size_t      max_conns;          /* as http_max_conns_per_client (200)              */
    const char *node;               /*                             ("node-1")          */
    const char *address;            /* of the node                 ("127.0.0.1")       */
    const char *datacenter;         /*                             ("dc1")             */
} agent_desc;

typedef struct agent agent;
typedef struct agent_conn agent_conn;

agent *agent_create(const agent_desc *desc, uint64_t now_ms);
void   agent_destroy(agent *a);                     /* with all its connections */

/* ---- connections ------------------------------------------------------------------------- */
agent_conn *agent_accept(agent *a);                 /* a client connected; never NULL */
/* Request bytes in any split: keep-alive and pipelining as real ones. */
void   agent_conn_feed(agent_conn *conn, const void *bytes, size_t len, uint64_t now_ms);
/* Bytes for the client, valid until the next call that takes the agent. */
size_t agent_conn_peek(const agent_conn *conn, const char **bytes);
void   agent_conn_ack(agent_conn *conn, size_t n);
bool   agent_conn_wants_close(const agent_conn *conn);      /* once its bytes are sent */
/* The end is orderly: a socket's other direction stays open for half a second, so that what the
   client still sends does not cost it the answer. */
bool   agent_conn_lingers(const agent_conn *conn);
void   agent_conn_close(agent_conn *conn);          /* the client is gone: frees */

/* ---- time: TTLs, ends of waits, deregistration of critical services ---------------------- */
void     agent_advance(agent *a, uint64_t now_ms);
uint64_t agent_next_ms(const agent *a);             /* the next timer; UINT64_MAX: none */

/* ---- faults ------------------------------------------------------------------------------ */
/* As kill and start: every connection wants close with nothing sent, views are gone, the catalog
   begins at first_index (0: as at first). keep_services: as with a data-dir, they come back. */
void agent_restart(agent *a, uint64_t first_index, bool keep_services, uint64_t now_ms);
/* Without a leader plain reads answer 500 `No cluster leader` and nothing reaches the catalog. */
void agent_set_leader(agent *a, bool is_known, uint64_t now_ms);
/* The next n requests answer `status` with `body` and are not looked at. */
void agent_fail_next(agent *a, size_t n, int status, const char *body);
/* The next n requests stay without an answer for ever. */
void agent_hang_next(agent *a, size_t n);

enum {                              /* rights of a token                               */
    AGENT_SERVICE_READ = 1, AGENT_SERVICE_WRITE = 2, AGENT_NODE_READ = 4, AGENT_AGENT_READ = 8,
    AGENT_NODE_WRITE = 16
};
/* The management token from now on; NULL: ACLs off. */
void agent_set_token(agent *a, const char *secret, uint64_t now_ms);
/* Makes the token, or changes its rights. */
void agent_add_token(agent *a, const char *secret, unsigned rights, uint64_t now_ms);
void agent_revoke_token(agent *a, const char *secret, uint64_t now_ms);

/* ---- acting from outside the HTTP interface ---------------------------------------------- */
/* The result of a check, also of one that is not TTL. False: no such check. */
bool agent_set_check(agent *a, const char *check_id, const char *status, const char *output,
                     uint64_t now_ms);
/* Removes a service and its checks. False: no such service. */
bool agent_kill_service(agent *a, const char *id, uint64_t now_ms);
/* The node's own health, which counts for each of its services. */
void agent_set_node_health(agent *a, const char *status, const char *output, uint64_t now_ms);

/* ---- looking at it ----------------------------------------------------------------------- */
typedef struct agent_stats {
    uint64_t requests;              /* whole requests received                         */
    uint64_t answers;
    uint64_t blocked;               /* answers that waited first                       */
    uint64_t conns_accepted, conns_refused;
    size_t   conns_open, conns_waiting;
    uint64_t index;                 /* the newest of the catalog                       */
} agent_stats;

void agent_get_stats(const agent *a, agent_stats *out);
/* Of the newest request: the request line with its headers as they came, and the body; never
   NULL, valid until the next request. */
const char *agent_last_request(const agent *a);
const char *agent_last_body(const agent *a);
/* Status of a local check, "" where there is none. Valid until it changes. */
const char *agent_check_status(const agent *a, const char *check_id);
size_t agent_num_services(const agent *a);          /* registered at this agent */
bool   agent_has_service(const agent *a, const char *id);

#endif
