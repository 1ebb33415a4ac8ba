/* A fleet by simulation: thousands of clients with several watches each, on model agents that
   answer so many requests a second, while all agents restart within a second. One rule for
   failures is tried at a time: that of sdconsul.h, which runs as it is, and those of two other
   clients, which are machines of a few lines on the same agents.

       fleet_desc desc = { .rule = FLEET_OURS, .num_agents = 5, .clients_per_agent = 100 };
       fleet_result result;
       if (fleet_run(&desc, &result)) { ... result.converged_ms ... }

   The clock is virtual and all follows from the seed. */
#ifndef FLEET_H
#define FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fleet_rule {
    FLEET_OURS = 0, FLEET_GOKIT, FLEET_OFFICIAL, FLEET_NUM_RULES
} fleet_rule;

/* All zero is the fleet of the README. */
typedef struct fleet_desc {
    fleet_rule rule;
    uint64_t   seed;                /*                                             (1)       */
    uint32_t   num_agents;          /*                                             (100)     */
    uint32_t   clients_per_agent;   /*                                             (100)     */
    uint32_t   watches_per_client;  /*                                             (10)      */
    uint32_t   answers_per_s;       /* of one agent                                (500)     */
    uint32_t   queue_max;           /* requests that wait at one agent; those beyond are
                                       answered 429 at once                 (half a second's) */
    bool       no_limit;            /* all wait, however many                      (429)     */
    uint32_t   start_ms;            /* the watches begin spread over this time     (60000)   */
    uint32_t   rest_ms;             /* and then rest; what they ask for in this time is
                                       num_at_rest                                 (60000)   */
    uint32_t   spread_ms;           /* the agents go down within this time         (1000)    */
    uint32_t   down_ms;             /* each for so long                            (5000)    */
    uint32_t   warm_ms;             /* each answers 500 for so long when it is back (0)      */
    bool       keeps_index;         /* indexes go on                        (they start over) */
    bool       no_change;           /* the lists are as before   (each has another instance)  */
    uint32_t   give_up_ms;          /* the end, converged or not                   (600000)  */
} fleet_desc;

typedef struct fleet_result {
    uint32_t num_watches;
    uint32_t capacity;              /* answers a second of all agents together               */
    /* From the moment at which the first agent goes down until the last watch has converged.
       A request is one that an agent has got; an attempt is also a connection refused. */
    uint64_t num_requests, num_attempts, num_limited;
    uint64_t peak_s, peak_100ms;    /* requests of the busiest second, and tenth of a second */
    uint64_t agent_peak_s;          /* the same second of the busiest agent alone            */
    uint64_t attempts_peak_s;
    /* When so many hundredths of the watches had published the lists as they are now; counted
       from the first agent's end. UINT64_MAX: not before it was given up. */
    uint64_t converged_ms[101];
    uint64_t back_ms;               /* the last agent's return, on the same clock            */
    uint64_t num_at_rest;
    size_t   bytes_at_rest;         /* memory of all watches and clients (ours only)         */
    size_t   bytes_at_end;
} fleet_result;

/* False: no memory, or a desc that makes no sense. */
bool fleet_run(const fleet_desc *desc, fleet_result *out);

const char *fleet_rule_str(fleet_rule rule);

#endif
