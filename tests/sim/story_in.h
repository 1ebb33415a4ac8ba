/* Shared by the parts of a story: story.c makes it and says what happens when, watch.c and keeper.c
   check one watch and one registrar, drive.c steps them. */
#ifndef STORY_IN_H
#define STORY_IN_H

#include "../support/alloc.h"
#include "model.h"
#include "story.h"

enum {
    STORY_WATCHES = 3, STORY_KEEPERS = 2, STORY_FAULTS = 6, STORY_HELD = 4, KEEPER_CHECKS = 3,
    SLOW_RETRY_MS = 1000
};

typedef struct story story;

/* A watch, and what was seen of it. */
typedef struct watch {
    story             *s;
    uint32_t           nth, view;
    sdc_instancer_desc desc;        /* points into the members below                            */
    char               number[4];
    sdc_kv             param;
    char               tags[CATALOG_TAGS][8];
    const char        *tag_list[CATALOG_TAGS];
    sdc_instancer     *instancer;   /* NULL: destroyed, or not made                             */
    sdc_task          *task;
    bool               may_call;    /* the subscriber: not after stop or destroy                */
    bool               is_stopping;
    uint64_t           began_ms, stopped_ms;    /* of a stop that is seen late: when it could be */
    bool               is_stopped;
    uint32_t           dies_at_event;       /* counts down: a callback stops or destroys it     */
    /* the newest event */
    bool               has_event, is_known;
    sdc_err            err;
    uint64_t           hash, good_hash;
    size_t             num, good_num;
    /* requests */
    sdc_stats          seen;
    uint64_t           credit_ms, credit_at_ms, not_before_ms, failing_since_ms;
} watch;

/* The newest update of a check that an agent has got. */
typedef struct keeper_told {
    bool       is_known;
    bool       is_free;             /* the next one may come at any time                        */
    uint32_t   agent;
    uint64_t   request, asked_ms, hash, not_before_ms;
    uint64_t   changed_ms;          /* when the program last said something else                */
} keeper_told;

/* A registrar, and what it should have achieved. */
typedef struct keeper {
    story             *s;
    uint32_t           nth, service;
    sdc_registrar_desc desc;
    sdc_check          checks[KEEPER_CHECKS];
    char               check_ids[KEEPER_CHECKS][24];
    const char        *tag_list[CATALOG_TAGS];
    char               id[24], version[8];
    sdc_kv             meta[2];
    uint32_t           num_ttl, least_every_ms, most_every_ms;
    sdc_registrar     *registrar;
    sdc_task          *task;
    bool               is_stopping, is_stopped;
    uint64_t           stopped_ms, took_ms;
    /* what is wanted */
    uint32_t           tags;
    uint64_t           set_at_ms;           /* when the last status was set                     */
    uint32_t           orphans;             /* a bit for each agent where an earlier registrar
                                               had to leave it                                  */
    sdc_status         status[KEEPER_CHECKS];       /* of TTL checks                            */
    char               output[KEEPER_CHECKS][24];
    bool               in_maintenance;
    /* requests */
    sdc_stats          seen;
    uint64_t           credit, credit_at_ms, forgotten;
    uint64_t           failing_since_ms;
    /* upkeep */
    keeper_told        told[KEEPER_CHECKS];
    int                beating;             /* which check the request under way is for, or -1  */
    uint64_t           asked_at_ms;         /* when that request began                          */
    uint32_t           base;                /* the agent that last got a beat or a look         */
    uint64_t           base_at_ms, kept_at_ms;      /* since when that one; when it last did    */
    uint64_t           wanted_at_ms, called_at_ms, absent_since_ms;
    bool               is_wanted;           /* not after sdc_registrar_deregister               */
    /* a program that says how it is all the time */
    uint64_t           talks_until_ms;
    uint32_t           talks_every_ms;
    bool               talk_changes, is_talking;
} keeper;

typedef struct active_fault {
    story    *s;
    bool      is_used;
    uint32_t  agent;
    sim_fault fault;
} active_fault;

typedef enum drive_kind { DRIVE_BLOCK, DRIVE_LEVEL, DRIVE_EDGE, NUM_DRIVES } drive_kind;

struct story {
    uint64_t     seed;
    sim_random   random;            /* of the story; the world has its own for the library      */
    world       *w;
    model       *m;
    fault_alloc  memory;
    sdc_allocator allocator;
    sdc_logger   logger;
    sdc_io       io;
    char         address[128];
    bool         has_token_file, is_file_there, is_token_set;
    const char  *token, *file_token;        /* by sdc_client_set_token, and in the file         */
    sdc_client_desc client_desc;
    sdc_client  *client;
    uint32_t     num_agents, num_watches, num_keepers;
    watch        watches[STORY_WATCHES];
    keeper       keepers[STORY_KEEPERS];
    active_fault faults[STORY_FAULTS];
    uint32_t     change_gap_ms, fault_gap_ms;
    uint64_t     touched_at_ms;     /* when the program itself was last hindered                */
    uint64_t     away_since_ms;     /* the first agent; 0: it is there                          */
    bool         resolver_blocks, resolver_wakes, is_calling;
    uint32_t     aside_view;        /* of one-shot calls                                        */
    char         aside_number[4];
    bool         is_calm;           /* neither faults nor changes                               */
    uint64_t     calm_at_ms;        /* since when                                               */
    size_t       rest_blocks, rest_bytes;   /* in use at the first rest; 0 not known            */
    bool         is_ending;
    const sdc_event *held[STORY_HELD];
    uint64_t     held_hash[STORY_HELD];
    size_t       memory_bound;
};

/* The clock as people read it: from the start of the story. */
static inline uint64_t story_now(const story *s)
{
    return world_now(s->w);
}

/* ---- story.c --------------------------------------------------------------------------------- */

/* Memory and a token that may write. */
bool story_is_able(const story *s);
/* The program does not step from now on; until it wakes up, with what the first one answered. */
uint64_t story_fall_asleep(story *s);
void story_wake_up(story *s, uint64_t slept_at_ms);

/* ---- watch.c --------------------------------------------------------------------------------- */

void watch_init(watch *w, story *s, uint32_t nth);
void watch_start(watch *w);         /* makes the instancer, unless memory fails                 */
void watch_look(watch *w);          /* its requests: at every step                              */
void watch_stop(watch *w);          /* as another thread does                                   */
void watch_destroy(watch *w);
void watch_on_result(watch *w, sdc_err result);
/* Until then after the last fault the watch must equal the model. */
uint64_t watch_bound_ms(const watch *w);
/* A change is seen within that time once all is well. */
uint32_t watch_react_ms(const watch *w);
bool watch_is_true(const watch *w); /* or the truth is too new to be known                      */
void watch_check_state(watch *w);   /* sdc_instancer_state is the newest event                  */

/* ---- keeper.c -------------------------------------------------------------------------------- */

void keeper_init(keeper *k, story *s, uint32_t nth);
void keeper_start(keeper *k);
void keeper_look(keeper *k);
void keeper_act(keeper *k);         /* sets a status, or the maintenance mode                   */
void keeper_meddle(keeper *k);      /* somebody else spoils the registration                    */
void keeper_heal(keeper *k);        /* nothing is critical any more: agents reap what is        */
void keeper_before_call(keeper *k); /* grants what a blocking call may ask for                  */
void keeper_stop(keeper *k);
void keeper_destroy(keeper *k);
void keeper_on_result(keeper *k, sdc_err result);
uint64_t keeper_bound_ms(const keeper *k);
/* NULL: some agent has it as it is wanted; else what is wrong with the best. */
const char *keeper_wrong(const keeper *k);
bool keeper_is_anywhere(const keeper *k);
/* At the first agent, and (but for what an earlier registrar left) nowhere else. */
bool keeper_is_home(const keeper *k);

const char *keeper_wrong_at(const keeper *k, uint32_t agent);
void keeper_check_id(const keeper *k, size_t nth, char *out, size_t max);

/* ---- upkeep.c -------------------------------------------------------------------------------- */

void upkeep_on_news(keeper *k, model_news what, uint32_t agent, const char *id, const char *body,
                    size_t len);
void upkeep_look(keeper *k, const sdc_stats *now);      /* before keeper_look keeps it          */
void upkeep_check(keeper *k);               /* at every step                                    */
void upkeep_check_content(const keeper *k);     /* now and then                                 */
void upkeep_called(keeper *k);              /* a call has done what steps do                    */
uint64_t upkeep_bound_ms(const keeper *k);

/* ---- calls.c --------------------------------------------------------------------------------- */

void calls_init(story *s);          /* behind the watches                                       */
void calls_register(keeper *k);
void calls_deregister(keeper *k);
void calls_wait(watch *w);
void calls_once(story *s);          /* one of the client's own calls                            */

/* ---- drive.c --------------------------------------------------------------------------------- */

sdc_io drive_io(story *s);          /* the world's, with a look at everything in each wait      */
/* Steps all tasks for so long. */
void drive(story *s, uint64_t ms);
void story_look(story *s);          /* what must hold at every step                             */
void story_on_result(story *s, const sdc_task *task, sdc_err result);

#endif
