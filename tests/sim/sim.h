/* What the parts of the simulator share: seeded random numbers, the kinds of faults, and the one
   place where a broken invariant is noted.

   A seed makes a story (story.h): a model Consul (model.h) on a simulated network (world.h), some
   watches and registrars of the library on it, hours of changes and faults, and what must hold all
   the while. Nothing but the seed decides what happens, so a failing seed replays exactly. */
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SIM_PRINTF(nth, first) __attribute__((format(printf, nth, first)))
#else
#define SIM_PRINTF(nth, first)
#endif

/* ---- random ---------------------------------------------------------------------------------- */

typedef struct sim_random {
    uint64_t state;
} sim_random;

static inline uint64_t sim_next(sim_random *r)
{
    r->state += 0x9E3779B97F4A7C15u;
    uint64_t z = r->state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* From 0 to n - 1; n is at least 1. */
static inline uint32_t sim_below(sim_random *r, uint32_t n)
{
    return (uint32_t)((sim_next(r) >> 32) * n >> 32);
}

static inline uint32_t sim_between(sim_random *r, uint32_t low, uint32_t high)
{
    return low + sim_below(r, high - low + 1);
}

static inline bool sim_chance(sim_random *r, uint32_t percent)
{
    return sim_below(r, 100) < percent;
}

/* From low to high, each doubling as likely as the others: durations that differ in kind. */
static inline uint32_t sim_span(sim_random *r, uint32_t low, uint32_t high)
{
    uint32_t doublings = 0;
    while ((uint64_t)low << (doublings + 1) <= high) {
        doublings++;
    }
    uint64_t base = (uint64_t)low << sim_below(r, doublings + 1);
    uint64_t span = base + sim_below(r, (uint32_t)base);
    return span < high ? (uint32_t)span : high;
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* What can be wrong for a while, then what can be wrong with one answer. */
typedef enum sim_fault {
    FAULT_KILL,                 /* the agent dies (EOF, refused) and starts again               */
    FAULT_TERM,                 /* the same in order: held queries are answered first           */
    FAULT_BLACKHOLE,            /* connects are not answered, open connections fall silent      */
    FAULT_HALF_OPEN,            /* open connections fall silent for ever, new ones work         */
    FAULT_RESET,                /* all connections are reset                                    */
    FAULT_REFUSE,               /* new connections are refused, old ones go on                  */
    FAULT_PAUSE,                /* the agent stands still, and answers everything later         */
    FAULT_SLOW,                 /* latency                                                      */
    FAULT_DRIP,                 /* answers arrive in small runs                                 */
    FAULT_SPLIT,                /* short reads and writes, SDC_AGAIN for no reason              */
    FAULT_NO_LEADER,
    FAULT_RESTORE,              /* an older state with a lower index                            */
    FAULT_ACL_DENY,             /* the token is unknown: 403, or lies from a streamed view      */
    FAULT_ACL_HIDE,             /* it may read nothing: empty lists                             */
    FAULT_ACL_PART,             /* it may not read one node                                     */
    FAULT_RATE,                 /* 429, 503                                                     */
    FAULT_CONN_LIMIT,           /* 429 as soon as a connection is accepted                      */
    FAULT_CONN_SILENT,          /* new connections are closed without a word                    */
    FAULT_WRITE_TIMEOUT,        /* answers that were held for long become an EOF                */
    FAULT_PROXY_TIMEOUT,        /* ... become a 504 after a time of the proxy's own             */
    FAULT_STUCK_INDEX,          /* changes neither move the index nor wake anybody              */
    FAULT_FROZEN_VIEW,          /* a streamed view that misses everything                       */
    FAULT_NO_BLOCK,             /* blocking queries are answered at once                        */
    FAULT_LOOSE_TAGS,           /* a streamed view has instances without the tags too           */
    FAULT_GLOBAL_INDEX,         /* each change anywhere wakes everybody                         */
    FAULT_FOLLOWER,             /* the index goes up and down a little                          */
    FAULT_INDEX_ZERO,
    FAULT_INDEX_NONE,
    FAULT_INDEX_JUMP,           /* far too high for a while                                     */
    FAULT_FALSE_EMPTY,          /* 200 [] with index 1 when a wait is over                      */
    FAULT_UNWELCOME,            /* registrations are refused: 403, 400, or a 500            */
    FAULT_MEDDLE,               /* somebody else changes or removes what was registered         */
    FAULT_RESOLVER,             /* the name is not found, or not in time                        */
    FAULT_NO_MEMORY,            /* an allocation fails                                          */
    FAULT_ASLEEP,               /* the program does not step                                    */
    FAULT_NOISE,                /* some answers are hit by one of those below                   */
    NOISE_CUT_HEAD,
    NOISE_CUT_BODY,
    NOISE_CUT_LAST,             /* the last byte, or the last chunk, is missing                 */
    NOISE_RESET,                /* in the middle                                                */
    NOISE_STALL,                /* in the middle, then silence                                  */
    NOISE_SILENCE,              /* not a byte                                                   */
    NOISE_DELAY,
    NOISE_GARBAGE,              /* not HTTP                                                     */
    NOISE_BAD_JSON,
    NOISE_BAD_SHAPE,
    NOISE_500,
    NOISE_HTML,
    NOISE_REDIRECT,
    NOISE_FORGOTTEN,            /* a body like those of unknown checks, for what is known       */
    NOISE_CLOSE_AFTER,          /* without having announced it                                  */
    NOISE_FALSE_EMPTY,          /* [] for an index 0, never twice in a row                      */
    NUM_FAULTS
} sim_fault;

const char *sim_fault_name(sim_fault fault);

/* ---- the verdict ----------------------------------------------------------------------------- */

/* One story at a time in a process. */
typedef struct sim_report {
    char     text[400];         /* the first broken invariant, "" none                          */
    uint64_t at_ms;
    bool     is_traced;
    uint64_t hits[NUM_FAULTS];  /* what each kind has really hit                                */
    uint64_t exchanges;         /* requests that reached the model                              */
    uint64_t events;            /* callbacks                                                    */
    uint64_t virtual_ms;
} sim_report;

extern sim_report sim_now;

/* Notes a broken invariant; the first one counts. */
void sim_fail(uint64_t now_ms, const char *format, ...) SIM_PRINTF(2, 3);
void sim_trace(uint64_t now_ms, const char *format, ...) SIM_PRINTF(2, 3);

static inline bool sim_has_failed(void)
{
    return sim_now.text[0] != '\0';
}

static inline void sim_hit(sim_fault fault)
{
    sim_now.hits[fault]++;
}

#endif
