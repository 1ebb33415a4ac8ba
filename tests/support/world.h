/* A simulated outside world behind an sdc_io table: a clock, random numbers, files, a resolver,
   wakers, and a network of in-memory streams with servers at their far ends. One world, one
   thread; everything that happens follows from the seed, and takes no real time.

       world *w = world_create(NULL);
       world_listen(w, "10.0.0.1", 8500, &server);        or script_create, world_listen_agent
       sdc_client *client = world_client(w, "10.0.0.1:8500");
       ...
       sdc_step(task, -1);                                blocks in virtual time only
       world_run(w, task, 60000);                         steps it for a virtual minute
       ...destroy all that was made with the table...
       world_destroy(w);                                  reports what the library left open

   Time. The clock starts at WORLD_START_MS and stands still, whatever is called; only three
   things move it: the library's wait (it jumps to the next thing that happens, or to the
   wait's end), world_advance and the world_loop family. What servers do happens inside these
   three too (and in world_poll, at the present moment), never inside another call of the
   library: after sdc_step(task, 0) wrote a request, world_advance(w, 0) lets the server see it.

   Contract. What sdconsul.h promises to an sdc_io is checked on each call, and a breach is a
   failed check of the running test: the same arguments after SDC_AGAIN, *until as promised,
   stream_close and resolve_end exactly once, no call on a stream that ended or was closed,
   waits only for what was named, numeric addresses and localhost never resolved, no descriptor
   closed while the wants still name it, no wait without an end, no busy loop (WORLD_SPIN_MAX
   calls that move no bytes while the clock stands still).

   Environment. WORLD_TRACE=1 prints each call and event. WORLD_DRIVE, WORLD_READ_MAX,
   WORLD_WRITE_MAX and WORLD_AGAIN_EVERY replace a zero in the desc's field of that name, so
   that a whole test program can be run under other conditions. */
#ifndef WORLD_H
#define WORLD_H

#include "../../sdconsul.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct world      world;
typedef struct world_conn world_conn;
typedef void (*world_fn)(void *user);

enum { WORLD_START_MS = 1000000, WORLD_SPIN_MAX = 200000 };

/* How world_run steps a task. */
typedef enum world_drive {
    WORLD_DRIVE_DEFAULT = 0,        /* the next one, or the environment's                    */
    WORLD_DRIVE_BLOCK,              /* sdc_step(task, time left)                             */
    WORLD_DRIVE_LEVEL,              /* world_loop, descriptors watched as poll does          */
    WORLD_DRIVE_EDGE                /* world_loop, as epoll with EPOLLET, registered once    */
} world_drive;

/* All zero is a friendly network. Fields may be changed later by world_set. */
typedef struct world_desc {
    uint64_t    seed;               /*                                       (1)             */
    world_drive drive;              /*                                       (block)         */
    uint32_t    latency_ms;         /* one way, each direction               (0)             */
    uint32_t    connect_ms;         /* beyond the latency there and back     (0)             */
    uint32_t    run_ms;             /* bytes from a server arrive in runs of run_bytes,
                                       run_ms apart; both are needed         (all at once)   */
    size_t      run_bytes;
    size_t      read_max;           /* a read takes at most so many bytes    (no limit)      */
    size_t      write_max;          /* a write gives at most so many         (no limit)      */
    size_t      window_bytes;       /* from the library, not yet taken by the server; beyond
                                       that a write answers SDC_AGAIN        (65536)         */
    uint32_t    again_every;        /* each nth open, read, write and resolve answers
                                       SDC_AGAIN though it could do more     (never)         */
    uint32_t    early_wait_every;   /* each nth wait ends at once, for no reason (never)     */
    bool        connect_at_once;    /* stream_open answers SDC_OK in its first call, as unix
                                       sockets always do                                     */
    bool        reset_discards;     /* a reset also takes away the bytes that had arrived but
                                       were not read                                         */
    bool        can_tls;            /* bytes stay plain; a handshake takes one trip more     */
    size_t      keep_sent_bytes;    /* of each connection, for world_sent    (16 MiB)        */
} world_desc;

world *world_create(const world_desc *desc /* or NULL */);
/* Reports streams, wakers and resolves that are still there; a NULL does nothing. */
void   world_destroy(world *w);
/* Calls fn(user) in world_destroy, newest first: for what is made along with a world. */
void   world_on_destroy(world *w, world_fn fn, void *user);
/* From the next call on. seed, can_tls and drive of the new desc do not count. */
void   world_set(world *w, const world_desc *desc);
const sdc_io *world_io(world *w);
/* A client on this world: ignores the environment, logs to the world. NULL after a failure,
   which is then a failed check. */
sdc_client     *world_client(world *w, const char *address);
sdc_client_desc world_client_desc(world *w, const char *address);

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t world_now(const world *w);
void     world_advance(world *w, uint64_t ms);      /* does all that happens until then         */
void     world_advance_to(world *w, uint64_t at_ms);
/* Calls fn(user) when the clock is there. Answers a number for world_cancel. */
uint64_t world_at(world *w, uint64_t at_ms, world_fn fn, void *user);
uint64_t world_after(world *w, uint64_t ms, world_fn fn, void *user);
void     world_cancel(world *w, uint64_t number);
/* Calls fn(user) whenever the world is about to look what happens next: for a server that the
   test changes from outside. */
void     world_on_look(world *w, world_fn fn, void *user);
uint64_t world_next_ms(const world *w);             /* of the next event; UINT64_MAX none        */

/* ---- random ---------------------------------------------------------------------------------- */

uint64_t world_random(world *w);                    /* the servers' own, another sequence        */
/* The library's sdc_io random answers this from now on; or the seeded sequence again. */
void     world_random_is(world *w, uint64_t value);
void     world_random_seeded(world *w);

/* ---- stepping -------------------------------------------------------------------------------- */

/* Steps the task for ms of virtual time as desc.drive says, or until it is stopped or gone.
   Answers the last result that was not SDC_AGAIN, or SDC_AGAIN. */
sdc_err world_run(world *w, sdc_task *task, uint64_t ms);
/* The same until an exchange has ended (SDC_OK or a failure) or the time is over. */
sdc_err world_run_exchange(world *w, sdc_task *task, uint64_t ms);

typedef struct world_loop_desc {
    bool     is_edge;               /* as epoll with EPOLLET, else as poll                    */
    bool     stops_at_result;       /* ends when any step answered other than SDC_AGAIN       */
    /* of each step; may be NULL */
    void   (*on_result)(void *user, sdc_task *task, sdc_err result);
    void    *user;
} world_loop_desc;

/* An event loop in virtual time: steps each task by sdc_step(task, 0) whenever its wants say
   so, or it was woken, until the clock stands at until_ms, world_loop_stop was called, or all
   tasks are stopped or gone. Takes both hooks of each task (sdc_task_on_wants, _on_wake) for
   that time, and checks what they tell against sdc_task_wants. Entries may be NULL and become
   NULL when their step answers SDC_GONE. Answers the number of steps made. */
size_t world_loop(world *w, sdc_task **tasks, size_t num_tasks, uint64_t until_ms);
size_t world_loop_with(world *w, sdc_task **tasks, size_t num_tasks, uint64_t until_ms,
                       const world_loop_desc *desc);
/* From inside the loop (callbacks, events). forget: before another one destroys that task;
   add: a task made meanwhile. */
void   world_loop_stop(world *w);
void   world_loop_forget(world *w, const sdc_task *task);
void   world_loop_add(world *w, sdc_task *task);

/* For a loop of the test's own: does what is due now, and answers whether a task with these
   wants is to be stepped. */
bool   world_poll(world *w, const sdc_wants *wants);

/* ---- servers --------------------------------------------------------------------------------- */

/* NULL members are skipped. Called from inside wait, world_advance, world_loop and world_poll. */
typedef struct world_server {
    void  *user;
    void (*on_accept)(void *user, world_conn *conn);
    void (*on_bytes) (void *user, world_conn *conn, const char *bytes, size_t len);
    void (*on_close) (void *user, world_conn *conn);    /* the library closed its stream       */
    void (*on_timer) (void *user, world_conn *conn);    /* see world_conn_timer                */
} world_server;

typedef enum world_mode {
    WORLD_ACCEPTS = 0,
    WORLD_REFUSES,                  /* ECONNREFUSED, as an address where nobody listens       */
    WORLD_BLACKHOLE,                /* the connection is never answered                       */
    WORLD_UNREACHABLE,              /* EHOSTUNREACH                                           */
    WORLD_TLS_FAILS                 /* SDC_ERR_TLS after the handshake's trip                 */
} world_mode;

/* ip is numeric ("10.0.0.1", "::1"), or the path of a unix socket (then port does not count).
   The struct is copied; listening again at the same place replaces it for new connections. */
void world_listen(world *w, const char *ip, uint16_t port, const world_server *server);
void world_unlisten(world *w, const char *ip, uint16_t port);   /* open connections go on         */
void world_listen_mode(world *w, const char *ip, uint16_t port, world_mode mode);
void world_listen_connect_ms(world *w, const char *ip, uint16_t port, uint32_t connect_ms);
/* How often the library tried to connect there. */
size_t world_num_connects(world *w, const char *ip, uint16_t port);
/* Ends (or resets) each open connection to this place, as a server does that dies. */
void world_close_all(world *w, const char *ip, uint16_t port);
void world_reset_all(world *w, const char *ip, uint16_t port);

/* Connections, the server's side. They stay valid until world_destroy; what is sent on a closed
   one is dropped. */
void world_conn_send(world_conn *c, const void *bytes, size_t len);
void world_conn_send_str(world_conn *c, const char *text);
void world_conn_send_later(world_conn *c, uint32_t delay_ms, const void *bytes, size_t len);
void world_conn_close(world_conn *c);           /* orderly, behind all that was sent           */
void world_conn_reset(world_conn *c);           /* ECONNRESET, behind all that was sent        */
/* Takes no bytes from the library any more, so that its window fills; or takes them again. */
void world_conn_hang(world_conn *c, bool on);
void world_conn_timer(world_conn *c, uint32_t ms);      /* on_timer then; the newest call counts  */
void world_conn_timer_off(world_conn *c);
void world_conn_set_user(world_conn *c, void *user);
void    *world_conn_user(const world_conn *c);
world   *world_conn_world(const world_conn *c);
bool     world_conn_is_open(const world_conn *c);       /* neither side has ended it              */
size_t   world_conn_id(const world_conn *c);            /* from 0, in the order of stream_open    */
uint64_t world_conn_opened_ms(const world_conn *c);
int      world_conn_fd(const world_conn *c);
uint16_t world_conn_port(const world_conn *c);
const char *world_conn_ip(const world_conn *c);         /* or path                                */
const char *world_conn_host(const world_conn *c);       /* the target's host                      */

/* All streams that were ever opened (EMFILE and the like aside), and what was sent on them. */
size_t      world_num_conns(const world *w);
world_conn *world_conn_nth(const world *w, size_t nth);
/* Bytes that the library wrote, NUL-terminated, whether the server took them or not. */
const char *world_sent(const world_conn *c, size_t *len /* or NULL */);

/* ---- resolver -------------------------------------------------------------------------------- */

typedef enum world_resolver {
    WORLD_RESOLVER_TIMER = 0,       /* SDC_AGAIN with at_ms until the delay is over            */
    WORLD_RESOLVER_WAKE,            /* SDC_AGAIN with nothing; sdc_wake when it is there       */
    WORLD_RESOLVER_FD,              /* SDC_AGAIN with a descriptor that becomes readable       */
    WORLD_RESOLVER_BLOCKS           /* as POSIX's: the delay passes inside the call, and only if
                                       may_block; else SDC_ERR_RESOLVE                         */
} world_resolver;

/* ips: "10.0.0.1" or several by comma. A name without entry is not found, at once. */
void world_resolve_to(world *w, const char *name, const char *ips, uint32_t delay_ms);
void world_resolve_fails(world *w, const char *name, const char *message, uint32_t delay_ms);
void world_resolve_never(world *w, const char *name);
void world_resolver_is(world *w, world_resolver kind);

/* ---- files ----------------------------------------------------------------------------------- */

void world_file_set(world *w, const char *path, const char *text);
void world_file_set_bytes(world *w, const char *path, const void *bytes, size_t len);
void world_file_remove(world *w, const char *path);

/* ---- faults ---------------------------------------------------------------------------------- */

typedef enum world_op {
    WORLD_OPEN, WORLD_READ, WORLD_WRITE, WORLD_RESOLVE, WORLD_WAIT, WORLD_WAKER, WORLD_FILE,
    WORLD_NUM_OPS, WORLD_ANY_OP = WORLD_NUM_OPS
} world_op;

/* The nth call from now of this member (any: of all of these together) fails, once or from then
   on for good, in place of doing anything. err SDC_OK takes the usual one of that member.
   os_errno: EMFILE and so on. nth 0: none. One plan at a time for each op. */
void     world_fail(world *w, world_op op, uint64_t nth, bool for_good, sdc_err err, int os_errno);
uint64_t world_num_calls(const world *w, world_op op);
bool     world_fail_happened(const world *w, world_op op);      /* the newest plan hit         */

/* ---- what was seen --------------------------------------------------------------------------- */

typedef struct world_stats {
    uint64_t opened;                /* streams that got a descriptor                           */
    uint64_t closed;
    uint64_t accepted;              /* reached their server                                    */
    size_t   open_now, open_max;
    uint64_t reads, writes, waits, wakes, resolves, files;      /* calls                       */
    uint64_t bytes_read, bytes_written;                         /* by the library              */
    uint64_t waited_ms;             /* inside wait                                             */
    size_t   wakers_now, resolves_now;
    unsigned breaches;              /* of the contract; each was reported                      */
} world_stats;

const world_stats *world_seen(const world *w);
/* What the newest wait was called with. */
sdc_wants world_last_wait(const world *w);

/* ---- the library's log ----------------------------------------------------------------------- */

/* Each record becomes a line "LEVEL event key=value key=value". */
sdc_logger  world_logger(world *w);
const char *world_log(const world *w);              /* all lines; "" none                      */
void        world_log_clear(world *w);
/* Lines that hold both; level NULL or "": any ("DEBUG", "INFO", "WARN", "ERROR"). */
size_t      world_log_count(const world *w, const char *level, const char *part);

#endif
