/* What agents and rules of the fleet have in common: the clock, the wires, the agents.

   A watch is a number; watches of one agent stand side by side. Each has one connection at most
   and one request on it. What happens to it is told to its rule by the three functions of
   fleet_ops, never from inside a call of the rule. */
#ifndef FLEET_MODEL_H
#define FLEET_MODEL_H

#include "fleet.h"

#define FLEET_NEVER UINT64_MAX

typedef struct fleet fleet;

/* What an agent says. `epoch` counts its restarts and tells which list it has. */
typedef struct fleet_answer {
    int      status;
    uint64_t index;
    uint32_t epoch;
} fleet_answer;

typedef struct fleet_ops {
    bool (*begin)(fleet *f);
    void (*on_answer)(fleet *f, uint32_t watch, const fleet_answer *answer);
    void (*on_closed)(fleet *f, uint32_t watch, bool was_asking);
    void (*on_timer)(fleet *f, uint32_t watch);
    size_t (*bytes)(const fleet *f);
    void (*end)(fleet *f);
} fleet_ops;

typedef enum fleet_wire {
    FLEET_WIRE_NONE = 0,            /* no connection                                          */
    FLEET_WIRE_OPEN,                /* connected, no request on it                            */
    FLEET_WIRE_HELD,                /* a blocking query, until its wait is over               */
    FLEET_WIRE_QUEUED,              /* the agent has not come to it yet                       */
    FLEET_WIRE_ANSWERED             /* the answer is on its way                               */
} fleet_wire;

typedef struct fleet_watch {
    fleet_wire   wire;
    uint32_t     serial;            /* of the connection: a queued request may be of an older */
    fleet_answer answer;
    bool         is_done;           /* has converged                                          */
} fleet_watch;

typedef struct fleet_queued {
    uint32_t watch, serial;
} fleet_queued;

typedef struct fleet_agent {
    fleet_queued *queue;            /* a ring                                                 */
    size_t        size, head, num;
    uint64_t      warm_until_us;
    uint32_t      epoch;
    bool          is_down;
    uint32_t     *requests;         /* of each tenth of a second since the restart            */
} fleet_agent;

struct fleet {
    fleet_desc       desc;
    const fleet_ops *ops;
    void            *rule;          /* the rule's own                                         */
    uint32_t         num_watches, watches_per_agent;
    uint64_t         random_state;
    uint64_t         now_us;
    uint64_t         began_us;      /* the first agent's end; FLEET_NEVER before              */
    fleet_watch     *watches;
    fleet_agent     *agents;
    /* events, each at most once in a heap: timers of watches, wires, agents, restarts */
    uint32_t        *heap, *place;
    uint64_t        *at_us;
    uint32_t         num_events, num_ids;
    /* what is counted */
    uint32_t        *attempts, *requests;       /* of each tenth of a second                  */
    uint32_t         num_bins;
    uint32_t         num_done;
    fleet_result    *result;
};

/* For rules. */
static inline uint32_t fleet_agent_of(const fleet *f, uint32_t watch)
{
    return watch / f->watches_per_agent;
}

uint64_t fleet_random(fleet *f);
/* on_timer then; FLEET_NEVER takes it off. One for each watch. */
void fleet_timer(fleet *f, uint32_t watch, uint64_t at_us);
/* False: refused. True at once if there is a connection. */
bool fleet_connect(fleet *f, uint32_t watch);
/* A read, or with an index a blocking query. */
void fleet_request(fleet *f, uint32_t watch, uint64_t index, uint64_t wait_us);
/* Lets go of connection and request; the agent does not notice. */
void fleet_close(fleet *f, uint32_t watch);
/* The watch has published the list of that epoch, and nothing says that it fails. */
void fleet_published(fleet *f, uint32_t watch, uint32_t epoch);

extern const fleet_ops fleet_ops_ours, fleet_ops_gokit, fleet_ops_official;

#endif
