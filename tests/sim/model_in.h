/* Shared by the parts of the model: model.c holds the state and what changes it, answer.c speaks
   HTTP, locals.c keeps registrations. */
#ifndef MODEL_IN_H
#define MODEL_IN_H

#include "model.h"

enum { PEER_IN = 8192, LEADER_HOLD_MS = 7000, TOKEN_LATE_MS = 30000,
       IDLE_FAST = 12, IDLE_SLOW_MS = 10000 };

typedef struct model_agent model_agent;

typedef enum peer_state {
    PEER_IDLE,                      /* ends with a whole request                                */
    PEER_THINKING,                  /* ends at the timer                                        */
    PEER_LEADERLESS,                /* waits for a leader; ends at the timer                    */
    PEER_HELD,                      /* a blocking query; ends with a change or at the timer     */
    PEER_DEAD                       /* never says anything again                                */
} peer_state;

typedef enum token_kind { TOKEN_FULL, TOKEN_HALF, TOKEN_BLIND, TOKEN_UNKNOWN } token_kind;

typedef struct peer {
    struct peer *next;
    model_agent *agent;
    world_conn  *conn;
    peer_state   state;
    sim_fault    noise;             /* what will hit the answer; NUM_FAULTS none                */
    /* the request under way, as texts inside `in` */
    const char  *method, *path, *query, *body;
    size_t       body_len, request_len;
    token_kind   token;
    int          view;              /* of a read; else -1                                       */
    uint64_t     index, asked_ms, timer_at_ms;
    uint32_t     wait_ms;
    bool         is_by_proxy;       /* the timer is a proxy's                                   */
    size_t       len;
    char         in[PEER_IN];
} peer;

struct model_agent {
    model      *m;
    uint32_t    nth;
    bool        is_up;
    uint32_t    on[NUM_FAULTS];     /* strength of each fault, 0 off                            */
    uint64_t    well_at_ms;         /* when a fault of its own last ended                       */
    uint64_t    leader_at_ms;       /* after a start: no leader before this                     */
    model_local locals[MODEL_LOCALS];
    catalog    *frozen;             /* what streamed views show while FAULT_FROZEN_VIEW is on   */
    peer       *peers;
};

typedef struct model_text {
    char  *bytes;
    size_t len, cap;
} model_text;

struct model {
    world       *w;
    sim_random  *random;
    model_desc   desc;
    catalog      now;
    catalog     *snapshot;          /* NULL: none was taken                                     */
    model_agent  agents[MODEL_AGENTS];
    catalog_view views[MODEL_VIEWS];
    bool         expects_no_index[MODEL_VIEWS];
    uint32_t     num_views;
    uint64_t     num_forgotten;
    char         token[32];         /* which all requests must carry by now                     */
    bool         has_token;
    uint64_t     token_at_ms;
    uint64_t     network_well_at_ms;
    model_news_fn on_news;
    void        *news_user;
    model_text   body, out;         /* of the answer that is being written                      */
    sdc_json    *json;              /* for what is PUT                                          */
    struct put_reader *reader;
};

/* ---- model.c --------------------------------------------------------------------------------- */

bool model_is_on(const model_agent *a, sim_fault fault);
bool model_has_leader(const model_agent *a);
/* The service has changed: notes what is true now, and wakes who waits for it. */
void model_commit(model *m, uint32_t service);
const catalog *model_seen_by(const peer *p);        /* what this read is answered from          */
uint64_t model_index_for(const peer *p);            /* of this view, honestly                   */
void model_node(uint32_t agent, char name[12], char address[16]);

void text_clear(model_text *t);
void text_add(model_text *t, const void *bytes, size_t len);
void text_put(model_text *t, const char *s);
void text_put_number(model_text *t, uint64_t number);

/* ---- answer.c -------------------------------------------------------------------------------- */

void peer_on_accept(void *user, world_conn *conn);
void peer_on_bytes(void *user, world_conn *conn, const char *bytes, size_t len);
void peer_on_close(void *user, world_conn *conn);
void peer_on_timer(void *user, world_conn *conn);
/* Looks again whether a held query is to be answered. */
void peer_look(peer *p);
void peer_release(peer *p);         /* answers what is held, as an agent does that goes away    */
void peer_resume(peer *p);          /* after a pause                                            */

bool peer_param(const peer *p, const char *key, char *out, size_t max);
/* body NULL: empty */
void peer_reply(peer *p, int status, const char *headers, const char *body, size_t len);
void peer_reply_text(peer *p, int status, const char *body);

/* ---- locals.c -------------------------------------------------------------------------------- */

void locals_init(model *m);
void locals_deinit(model *m);
/* Answers a request to /v1/agent/. */
void locals_serve(peer *p);
void locals_hear(peer *p);          /* tells who listens of a request                           */
void locals_sync(model_agent *a);   /* the catalog learns what the agent has                    */
void locals_forget(model_agent *a);
void locals_restarted(model_agent *a);

#endif
