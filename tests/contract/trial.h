/* What a case of the contract suite has at hand. A trial is one case on one agent.

   A case is a plain function: it asks, and it says what the answers must be.

       static void register_unknown_member(trial *t)
       {
           reply *r = put(t, "{'Name':'x','Foo':1}", "/v1/agent/service/register");
           STATUS(r, 400);
           BODY(r, "Request decode failed: json: unknown field \"Foo\"");
       }

   The first expectation that does not hold fails the trial, and is what is reported; the case
   runs on, so nothing here needs a NULL check. JSON bodies are written with ' for ".

   Where the two versions differ, the case says so with PER(t, as 1.8 does, as 1.22 does). */
#ifndef CONTRACT_TRIAL_H
#define CONTRACT_TRIAL_H

#include "value.h"
#include "wire.h"

typedef struct trial trial;
typedef struct backend backend;

/* One request and its answer; belongs to the trial, which frees it at its end. */
typedef struct reply {
    trial       *of;
    char         asked[256];        /* method and target, for messages                        */
    wire         w;                 /* open only while the answer is still due                */
    wire_answer  answer;
    value       *json;              /* NULL: the body is not JSON                             */
    uint64_t     sent_ms, took_ms;
    struct reply *next;
} reply;

struct trial {
    const char *url;
    const char *token;              /* sent with every request; NULL: none                    */
    const backend *backend;         /* never NULL                                             */
    bool        is_new;             /* answers as 1.22, else as 1.8                           */
    bool        is_real;
    const char *name;           /* for a service that no other trial touches              */
    char        why[512];           /* the first expectation that did not hold; "": none      */
    reply      *replies;
    char       *registered[16];     /* ids that the end of the trial deregisters              */
    size_t      num_registered;
    char       *texts[64];
    size_t      num_texts;
};

enum {
    CASE_ALONE = 1,     /* other trials on the same agent would disturb it: runs behind them    */
    CASE_ACL = 2,       /* on the agent with access control (default deny)                    */
    CASE_REAL = 4,      /* only on a real agent                                               */
    CASE_FIRST = 8,     /* alone, but before all others: wants a fresh agent                    */
    CASE_RESTART = 16,  /* alone, and last of all: the agent loses all it knows                 */
    CASE_TOKENS = 32    /* needs make_token                                                     */
};

typedef struct contract_case {
    const char *name;
    void      (*run)(trial *t);
    unsigned    flags;
} contract_case;

typedef struct contract_group {
    const contract_case *cases;
    size_t               num_cases;
} contract_group;

extern const contract_group cases_register, cases_check, cases_health, cases_blocking, cases_http,
                            cases_acl, cases_restart;

#define CASES(group, table) \
    const contract_group group = { table, sizeof(table) / sizeof((table)[0]) }

#define PER(t, as_1_8, as_1_22) ((t)->is_new ? (as_1_22) : (as_1_8))

#if defined(__GNUC__)
#define TRIAL_PRINTF(nth, first) __attribute__((format(printf, nth, first)))
#else
#define TRIAL_PRINTF(nth, first)
#endif

/* ---- asking: format and arguments make the target ----------------------- */

reply *get(trial *t, const char *format, ...) TRIAL_PRINTF(2, 3);
reply *put(trial *t, const char *body, const char *format, ...) TRIAL_PRINTF(3, 4);
/* Any method, and further fields ("Name: value\r\n" each, or ""). */
reply *ask(trial *t, const char *method, const char *fields, const char *format, ...)
    TRIAL_PRINTF(4, 5);
/* These bytes as they stand, on a connection of their own; `begin` does not wait. */
reply *ask_raw(trial *t, const char *bytes);
reply *begin_raw(trial *t, const char *bytes);

/* Registers with a body made from the format; that must succeed. Deregistered with the trial. */
reply *enroll(trial *t, const char *format, ...) TRIAL_PRINTF(2, 3);
reply *deregister(trial *t, const char *id);
/* PUT /v1/agent/check/VERB/CHECK_ID of the check "service:" and t->name. */
reply *beat(trial *t, const char *verb);

/* The health of t->name, once `path` in it shows `want` or 3 s have gone: a registration reaches
   the catalogue a moment after it is answered. */
reply *health_when(trial *t, const char *path, const char *want);
/* The same until there are so many instances. */
reply *health_of(trial *t, size_t num_instances);
uint64_t index_of(reply *r);

/* Formatted text that lives as long as the trial. */
const char *text(trial *t, const char *format, ...) TRIAL_PRINTF(2, 3);

/* The words of 1.22 for an id that it does not know. */
const char *no_such_service(trial *t, const char *id);
const char *no_such_check(trial *t, const char *id);

/* A blocking query: `begin` sends it, `is_blocked` says that nothing came back within so many ms,
   `finish` takes the answer (8 s at most). */
reply *begin(trial *t, const char *format, ...) TRIAL_PRINTF(2, 3);
bool   is_blocked(reply *r, int ms);
void   finish(reply *r);
/* As finish, for one more answer on the same connection: a reply of its own. */
reply *next_answer(reply *r);

/* ---- acting on the agent (backend.c) -------------------------------------- */

/* Ends the agent at once and starts it again: it has forgotten everything. */
void restart_agent(trial *t);
/* Asks a real agent to end, and leaves it so. */
void terminate_agent(trial *t);
bool can_restart(const trial *t);

/* A token that may read all services, and what the flags say; answers its secret. */
const char *make_token(trial *t, bool reads_nodes, bool writes_services);
void revoke_token(trial *t, const char *secret);
bool can_make_tokens(const trial *t);

/* ---- expecting ----------------------------------------------------------- */

#define EXPECT(t, condition) trial_expect((t), (condition), __LINE__, #condition)
#define STATUS(r, want) trial_status((r), (want), __LINE__)
#define BODY(r, ...) trial_body((r), __LINE__, __VA_ARGS__)             /* printf-like, exact */
#define BODY_STARTS(r, ...) trial_body_starts((r), __LINE__, __VA_ARGS__)
#define AT(r, path, want) trial_at((r), (path), (want), __LINE__)       /* as value_show does */
#define FIELD(r, name, want) trial_field((r), (name), (want), __LINE__) /* NULL: no such field */
#define TOOK(r, low, high) trial_took((r), (low), (high), __LINE__)     /* milliseconds        */

void trial_expect(trial *t, bool holds, int line, const char *what);
void trial_status(reply *r, int want, int line);
void trial_body(reply *r, int line, const char *format, ...) TRIAL_PRINTF(3, 4);
void trial_body_starts(reply *r, int line, const char *format, ...) TRIAL_PRINTF(3, 4);
void trial_at(reply *r, const char *path, const char *want, int line);
void trial_field(reply *r, const char *name, const char *want, int line);
void trial_took(reply *r, uint64_t low, uint64_t high, int line);

void trial_begin(trial *t, const char *name);
void trial_end(trial *t);

#endif
