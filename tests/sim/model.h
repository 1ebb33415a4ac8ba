/* A small model of Consul, at one to three addresses of a simulated network: the catalog, and
   agents that answer health queries (blocking and streamed) and keep registrations, as real agents
   were seen to do, with all that may go wrong with them. */
#ifndef MODEL_H
#define MODEL_H

#include "../support/world.h"
#include "catalog.h"
#include "sim.h"

enum {
    MODEL_AGENTS = 3, MODEL_VIEWS = 4, MODEL_LOCALS = 4, MODEL_PORT = 8500,
    MODEL_BYTEWISE = 16             /* strengths of a drip or split that it divides: byte by byte */
};

typedef enum model_kind {
    MODEL_DEV,                      /* one agent in memory: a restart forgets everything        */
    MODEL_SERVER,                   /* one agent with a disk                                    */
    MODEL_CLIENT                    /* agents in front of servers that live on                  */
} model_kind;

typedef struct model_desc {
    model_kind kind;
    uint32_t   num_agents;
    bool       streams;             /* blocking queries by the streaming backend                */
    bool       keeps_locals;        /* registrations survive a restart of the agent             */
    uint32_t   chunk_bytes;         /* longer bodies come in chunks of this size                */
    uint32_t   think_ms;            /* at most, before an answer                                */
    bool       is_plain;            /* few headers, as old agents have                          */
} model_desc;

/* What an agent knows of a service that was registered with it. */
typedef struct model_check {
    char       id[80], output[64];
    sdc_status status;
    uint32_t   ttl_ms;              /* 0: the agent checks itself                               */
    uint32_t   deregister_ms;       /* 0 never                                                  */
    uint64_t   expires_ms, critical_since_ms;
} model_check;

typedef struct model_local {
    bool        is_used;
    uint32_t    service;
    char        id[48], address[24], reason[64];
    uint16_t    port;
    uint32_t    tags, version, weight_passing, weight_warning;
    bool        is_in_maintenance;
    model_check checks[CATALOG_CHECKS];
    uint32_t    num_checks;
} model_local;

typedef struct model model;

/* Belongs to the world. */
model *model_create(world *w, sim_random *random, const model_desc *desc);

/* A watch's question; its requests carry "sim=NUMBER" with the number that this answers. */
uint32_t            model_add_view(model *m, const catalog_view *question);
const catalog_view *model_view(const model *m, uint32_t nth);

/* Tokens: "" and what begins with "good" may do everything, "half" cannot see node n0, "blind"
   sees nothing and writes nothing, all others are unknown. */

/* From a while after now on all requests must carry this token; NULL: any. */
void model_expect_token(model *m, const char *token);

/* One random change of an instance that no agent registered. `service` -1: any. */
void model_change(model *m, int service);
/* One of the checks that an agent makes itself. */
void model_flip_check(model *m);
/* Somebody else removes a service from its agent, or gives it other tags. */
void model_meddle(model *m, const char *id, bool removes);
/* The service that agent `nth` keeps under this id, or NULL. */
const model_local *model_find(const model *m, uint32_t nth, const char *id);
bool model_is_up(const model *m, uint32_t nth);         /* and can be reached             */
bool model_is_only_away(const model *m, uint32_t nth);  /* no fault but that one          */
bool model_is_clear(const model *m);            /* no fault is on                               */

/* A fault of one agent begins or ends; `param` is its strength, and depends on it. */
void model_fault_on(model *m, uint32_t agent, sim_fault fault, uint32_t param);
void model_fault_off(model *m, uint32_t agent, sim_fault fault);
void model_snapshot(model *m);                  /* what FAULT_RESTORE goes back to              */

/* What agents hear of a registrar, and what becomes of its checks, told as it happens. A request
   counts when all of it is there and its connection is still open. */
typedef enum model_news {
    NEWS_BEAT,                      /* a check's update; `body` as it was sent                  */
    NEWS_LOOK,                      /* a service is asked for                                   */
    NEWS_DEREGISTER,
    NEWS_LAPSE                      /* a TTL is over                                            */
} model_news;

typedef void (*model_news_fn)(void *user, model_news what, uint32_t agent, const char *id,
                              const char *body, size_t len);
void model_on_news(model *m, model_news_fn fn, void *user);

/* Since when no fault lies on this agent or its network; now, while one does. */
uint64_t model_well_since(const model *m, uint32_t nth);

/* How often an agent said that it does not know what was registered, or forgot it unasked. */
uint64_t model_num_forgotten(const model *m);
/* Whether the watch knows of instances: only then one false empty does it no harm. */
void     model_tell_filled(model *m, uint32_t view, bool is_filled);
/* The pause that the newest answer to this view asked for, once. */
uint32_t model_take_retry_after(model *m, uint32_t view);
/* The next read of this view must carry no index: an exchange has failed. */
void model_expect_no_index(model *m, uint32_t view);
/* A new watch begins with this view. */
void model_forget_reads(model *m, uint32_t view);
const char *model_name(uint32_t agent);         /* "agent-0.example", for the resolver          */
const char *model_ip(uint32_t agent);

#endif
