/* The simulated world behind world.h. */
#include "world.h"

#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORLD_FIRST_FD = 1000, WORLD_MAX_SPINS = 10, WORLD_LOG_MAX = 8 << 20 };

/* ---- types ----------------------------------------------------------------------------------- */

typedef struct world_buf {
    char  *bytes;
    size_t len, cap;
} world_buf;

typedef enum world_event_kind {
    WORLD_EV_NONE,                  /* cancelled                                              */
    WORLD_EV_CALL,                  /* fn(object)                                             */
    WORLD_EV_CONNECTED,             /* the peer's answer to a connect has arrived             */
    WORLD_EV_HANDSHAKE,             /* the peer's part of the TLS handshake has arrived       */
    WORLD_EV_ARRIVE,                /* number more bytes can be read                          */
    WORLD_EV_EOF,
    WORLD_EV_RESET,
    WORLD_EV_DELIVER,               /* number more bytes have reached the server              */
    WORLD_EV_CLOSED,                /* the server sees the library's close                    */
    WORLD_EV_TIMER,                 /* the server's timer of a connection                     */
    WORLD_EV_UNBLOCK,               /* a made-up SDC_AGAIN is over                            */
    WORLD_EV_SEND,                  /* of world_conn_send_later: bytes, number of them        */
    WORLD_EV_RESOLVED
} world_event_kind;

typedef struct world_event {
    uint64_t         at_ms, number; /* number: the order among those of one moment            */
    world_event_kind kind;
    void            *object;
    world_fn         fn;
    uint64_t         arg;
    char            *bytes;
} world_event;

typedef struct world_place {        /* where a server listens, or something is to happen      */
    char        *ip;
    uint16_t     port;
    bool         is_listening;
    world_server server;
    world_mode   mode;
    uint32_t     connect_ms;
    size_t       num_connects;
} world_place;

typedef enum world_phase {
    WORLD_CONNECTING,               /* ends when the peer's answer arrives                    */
    WORLD_CONNECTED,                /* the answer is there, the library has not asked since   */
    WORLD_HANDSHAKING,              /* ends when the peer's handshake arrives                 */
    WORLD_SHAKEN,                   /* it is there, the library has not asked since           */
    WORLD_IS_OPEN,                  /* stream_open has answered SDC_OK                        */
    WORLD_FAILED,                   /* stream_open has failed, only close is left             */
    WORLD_CLOSED
} world_phase;

struct world_conn {
    world       *w;
    size_t       id;
    int          fd;
    world_phase  phase;
    char        *host, *ip, *path;
    uint16_t     port;
    bool         tls;
    world_mode   mode;
    world_server server;
    void        *user;
    uint64_t     opened_ms;
    bool         is_accepted;
    /* to the library */
    world_buf    in;                /* sent by the server and not yet read                    */
    size_t       in_from;           /* the first byte of it that is not yet read              */
    size_t       in_arrived;        /* bytes from there on that can be read                   */
    uint64_t     last_arrival_ms;
    bool         server_ended;      /* world_conn_close or _reset was called                  */
    bool         has_eof, has_reset;
    bool         told_end;          /* the library has read the end or got an error           */
    /* from the library */
    world_buf    out;               /* written and not yet taken by the server                */
    world_buf    sent;              /* the record                                             */
    size_t       num_held;          /* of out, what a hanging server would have got by now    */
    bool         hangs;
    uint64_t     timer;
    /* the contract */
    bool         blocks_read, blocks_write, blocks_open;    /* made-up SDC_AGAIN              */
    bool         named_read, named_write;                   /* by the newest SDC_AGAIN        */
    char        *again_bytes;       /* what a write that answered SDC_AGAIN was given         */
    size_t       again_len;
    uint64_t     edges;             /* moments at which something became ready                */
};

typedef struct world_name {
    char    *name, *ips;
    char    *message;               /* of the failure, or NULL                                */
    uint32_t delay_ms;
    bool     is_never;
} world_name;

typedef struct world_lookup {       /* a resolve that has answered SDC_AGAIN                  */
    struct world_lookup *next;
    world    *w;
    sdc_task *task;
    char     *host;
    int       fd;
    uint64_t  event, at_ms;
    bool      is_done;
} world_lookup;

typedef struct world_waker {
    struct world_waker   *next;
    volatile sig_atomic_t is_woken;
} world_waker;

typedef struct world_file {
    char  *path, *bytes;
    size_t len;
} world_file;

typedef struct world_fd {           /* one of the two, or neither                             */
    world_conn   *conn;
    world_lookup *lookup;
} world_fd;

typedef struct world_owned {
    struct world_owned *next;
    world_fn            fn;
    void               *user;
} world_owned;

typedef struct world_plan {
    uint64_t calls, at;
    bool     is_for_good, is_hit;
    sdc_err  err;
    int      os_errno;
} world_plan;

typedef struct world_slot {         /* a task inside world_loop                               */
    sdc_task *task;                 /* NULL: gone or forgotten                                */
    size_t    index;                /* in the caller's array, or SIZE_MAX                     */
    sdc_wants told, asked;
    bool      is_told, is_woken, is_done;
    int       reg_fd;               /* edge: what was registered last                         */
    uint32_t  reg_serial;
    bool      is_registered;
    uint64_t  seen_edges;
} world_slot;

typedef struct world_looping {
    struct world_looping *outer;
    const world_loop_desc *desc;
    sdc_task **tasks;
    world_slot **slots;
    size_t num_slots;
    bool   stops;
} world_looping;

struct world {
    world_desc desc;
    sdc_io     io;
    uint64_t   now_ms;
    uint64_t   library_random, server_random, fixed_random;
    bool       is_random_fixed;
    world_event *events;            /* a heap                                                 */
    size_t     num_events, cap_events;
    uint64_t   last_event;
    world_place **places;
    size_t     num_places;
    world_conn **conns;
    size_t     num_conns, cap_conns;
    world_fd  *fds;
    size_t     num_fds;
    world_name *names;
    size_t     num_names;
    world_resolver resolver;
    world_lookup *lookups;
    world_waker *wakers;
    world_file *files;
    size_t     num_files;
    world_plan plans[WORLD_NUM_OPS + 1];
    uint64_t   again_calls;
    uint64_t   spin_calls;
    unsigned   num_spins, num_endless;
    sdc_wants  last_wait;
    world_stats stats;
    world_buf  log;
    world_looping *loop;
    world_owned *owned;
    world_owned *looks;
    bool       is_traced;
};

/* ---- small things ---------------------------------------------------------------------------- */

static void *world_alloc(size_t size)
{
    void *p = calloc(1, size > 0 ? size : 1);
    if (p == NULL) {
        abort();
    }
    return p;
}

static void *world_grow(void *old, size_t size)
{
    void *p = realloc(old, size);
    if (p == NULL) {
        abort();
    }
    return p;
}

static char *world_copy(const char *text)
{
    size_t len = text != NULL ? strlen(text) : 0;
    char *copy = (char *)world_alloc(len + 1);
    if (len > 0) {
        memcpy(copy, text, len);
    }
    return copy;
}

/* Keeps a NUL behind the bytes. */
static void world_buf_add(world_buf *b, const void *bytes, size_t len)
{
    if (b->len + len + 1 > b->cap) {
        b->cap = (b->len + len + 1) * 2;
        b->bytes = (char *)world_grow(b->bytes, b->cap);
    }
    if (len > 0) {
        memcpy(b->bytes + b->len, bytes, len);
    }
    b->len += len;
    b->bytes[b->len] = '\0';
}

static void world_buf_drop(world_buf *b, size_t len)
{
    memmove(b->bytes, b->bytes + len, b->len - len);
    b->len -= len;
}

static void world_trace(world *w, const char *format, ...) TEST_PRINTF(2, 3);
static void world_trace(world *w, const char *format, ...)
{
    if (!w->is_traced) {
        return;
    }
    va_list args;
    va_start(args, format);
    printf("%10llu  ", (unsigned long long)(w->now_ms - WORLD_START_MS));
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static void world_breach(world *w, const char *format, ...) TEST_PRINTF(2, 3);
static void world_breach(world *w, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    w->stats.breaches++;
    world_trace(w, "BREACH %s", text);
    test_fail(__FILE__, __LINE__, "sdc_io contract, at %llu ms: %s",
              (unsigned long long)(w->now_ms - WORLD_START_MS), text);
}

static sdc_err world_error(sdc_error *error, sdc_err code, int os_errno, const char *message)
{
    if (error != NULL) {
        memset(error, 0, sizeof *error);
        error->code = code;
        error->os_errno = os_errno;
        snprintf(error->message, sizeof error->message, "%s", message);
    }
    return code;
}

static uint64_t world_splitmix(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool world_is_before(const world_event *a, const world_event *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->number < b->number;
}

static void world_swap(world *w, size_t i, size_t j)
{
    world_event e = w->events[i];
    w->events[i] = w->events[j];
    w->events[j] = e;
}

static uint64_t world_push(world *w, world_event event)
{
    if (w->num_events == w->cap_events) {
        w->cap_events = w->cap_events * 2 + 16;
        w->events = (world_event *)world_grow(w->events, w->cap_events * sizeof event);
    }
    event.number = ++w->last_event;
    if (event.at_ms < w->now_ms) {
        event.at_ms = w->now_ms;
    }
    size_t i = w->num_events++;
    w->events[i] = event;
    while (i > 0 && world_is_before(&w->events[i], &w->events[(i - 1) / 2])) {
        world_swap(w, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
    return event.number;
}

static uint64_t world_add_event(world *w, uint64_t at_ms, world_event_kind kind, void *object,
                                uint64_t arg)
{
    world_event event;
    memset(&event, 0, sizeof event);
    event.at_ms = at_ms;
    event.kind = kind;
    event.object = object;
    event.arg = arg;
    return world_push(w, event);
}

static world_event world_pop(world *w)
{
    world_event first = w->events[0];
    w->events[0] = w->events[--w->num_events];
    size_t i = 0;
    for (;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2; child++) {
            if (child < w->num_events && world_is_before(&w->events[child], &w->events[least])) {
                least = child;
            }
        }
        if (least == i) {
            return first;
        }
        world_swap(w, i, least);
        i = least;
    }
}

void world_cancel(world *w, uint64_t number)
{
    for (size_t i = 0; number != 0 && i < w->num_events; i++) {
        if (w->events[i].number == number) {
            w->events[i].kind = WORLD_EV_NONE;
        }
    }
}

uint64_t world_at(world *w, uint64_t at_ms, world_fn fn, void *user)
{
    world_event event;
    memset(&event, 0, sizeof event);
    event.at_ms = at_ms;
    event.kind = WORLD_EV_CALL;
    event.fn = fn;
    event.object = user;
    return world_push(w, event);
}

uint64_t world_after(world *w, uint64_t ms, world_fn fn, void *user)
{
    return world_at(w, w->now_ms + ms, fn, user);
}

/* Cancelled events at the top are dropped, so that nobody jumps to them. */
static uint64_t world_next(world *w)
{
    while (w->num_events > 0 && w->events[0].kind == WORLD_EV_NONE) {
        free(world_pop(w).bytes);
    }
    return w->num_events > 0 ? w->events[0].at_ms : UINT64_MAX;
}

uint64_t world_next_ms(const world *w)
{
    uint64_t at_ms = UINT64_MAX;
    if (w->num_events > 0 && w->events[0].kind != WORLD_EV_NONE) {
        return w->events[0].at_ms;
    }
    for (size_t i = 0; i < w->num_events; i++) {
        if (w->events[i].kind != WORLD_EV_NONE && w->events[i].at_ms < at_ms) {
            at_ms = w->events[i].at_ms;
        }
    }
    return at_ms;
}

static void world_set_now(world *w, uint64_t now_ms)
{
    if (now_ms > w->now_ms) {
        w->now_ms = now_ms;
        w->spin_calls = 0;
    }
}

static void world_happen(world *w, world_event *event);

static void world_look(world *w)
{
    for (world_owned *look = w->looks; look != NULL; look = look->next) {
        look->fn(look->user);
    }
}

/* Whether a server's or the test's own code runs in it. */
static bool world_is_servers(world_event_kind kind)
{
    return kind == WORLD_EV_CALL || kind == WORLD_EV_CONNECTED || kind == WORLD_EV_DELIVER ||
           kind == WORLD_EV_CLOSED || kind == WORLD_EV_TIMER;
}

static bool world_do_one(world *w, uint64_t until_ms)
{
    if (world_next(w) > until_ms) {
        return false;
    }
    world_event event = world_pop(w);
    world_set_now(w, event.at_ms);
    world_happen(w, &event);
    free(event.bytes);
    if (world_is_servers(event.kind)) {
        world_look(w);
    }
    return true;
}

static void world_do_due(world *w)
{
    world_look(w);
    while (world_do_one(w, w->now_ms)) {
    }
}

uint64_t world_now(const world *w)
{
    return w->now_ms;
}

void world_advance_to(world *w, uint64_t at_ms)
{
    world_look(w);
    while (world_do_one(w, at_ms)) {
    }
    world_set_now(w, at_ms);
}

void world_advance(world *w, uint64_t ms)
{
    world_advance_to(w, w->now_ms + ms);
}

/* A call that moves no bytes. Too many of them at one moment are a busy loop; the clock is
   then pushed, so that the test comes to its end. */
static void world_spin(world *w)
{
    if (++w->spin_calls <= WORLD_SPIN_MAX) {
        return;
    }
    world_breach(w, "busy loop: %llu calls while the clock stands still",
                 (unsigned long long)w->spin_calls);
    if (++w->num_spins > WORLD_MAX_SPINS) {
        abort();
    }
    world_set_now(w, w->now_ms + 1000);
}

/* ---- faults ---------------------------------------------------------------------------------- */

void world_fail(world *w, world_op op, uint64_t nth, bool for_good, sdc_err err, int os_errno)
{
    world_plan *plan = &w->plans[op];
    plan->at = nth == 0 ? 0 : plan->calls + nth;
    plan->is_for_good = for_good;
    plan->is_hit = false;
    plan->err = err;
    plan->os_errno = os_errno;
}

uint64_t world_num_calls(const world *w, world_op op)
{
    return w->plans[op].calls;
}

bool world_fail_happened(const world *w, world_op op)
{
    return w->plans[op].is_hit;
}

static bool world_plan_hits(world_plan *plan)
{
    plan->calls++;
    bool hits = plan->at != 0 && (plan->calls == plan->at ||
                                  (plan->is_for_good && plan->calls > plan->at));
    plan->is_hit = plan->is_hit || hits;
    return hits;
}

/* Counts a call and answers SDC_OK, or the error that was planned for it. */
static sdc_err world_fault(world *w, world_op op, sdc_error *error)
{
    static const sdc_err usual[WORLD_NUM_OPS] = {
        SDC_ERR_CONNECT, SDC_ERR_IO, SDC_ERR_IO, SDC_ERR_RESOLVE, SDC_ERR_IO, SDC_ERR_IO, SDC_ERR_IO
    };
    bool by_op = world_plan_hits(&w->plans[op]);
    bool by_any = world_plan_hits(&w->plans[WORLD_ANY_OP]);
    if (error == NULL) {
        world_breach(w, "a member was called without an sdc_error");
    }
    if (!by_op && !by_any) {
        return SDC_OK;
    }
    const world_plan *plan = &w->plans[by_op ? op : WORLD_ANY_OP];
    world_trace(w, "fault in op %d", (int)op);
    return world_error(error, plan->err != SDC_OK ? plan->err : usual[op], plan->os_errno,
                       "a planned fault");
}

static void world_check_until(world *w, const sdc_ready *until, const char *member)
{
    if (until->fd != -1 || until->readable || until->writable || until->at_ms != UINT64_MAX) {
        world_breach(w, "%s: *until does not come as -1, false, false, UINT64_MAX", member);
    }
}

/* Whether this call is one of those that answer SDC_AGAIN for no reason. */
static bool world_is_again(world *w)
{
    if (w->desc.again_every == 0) {
        return false;
    }
    w->again_calls++;
    return w->again_calls % w->desc.again_every == 0;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static int world_fd_take(world *w, world_conn *conn, world_lookup *lookup)
{
    size_t i = 0;
    while (i < w->num_fds && (w->fds[i].conn != NULL || w->fds[i].lookup != NULL)) {
        i++;
    }
    if (i == w->num_fds) {
        w->fds = (world_fd *)world_grow(w->fds, (i + 1) * sizeof *w->fds);
        w->num_fds++;
    }
    w->fds[i].conn = conn;
    w->fds[i].lookup = lookup;
    return WORLD_FIRST_FD + (int)i;
}

static world_fd *world_fd_get(world *w, int fd)
{
    size_t i = (size_t)(fd - WORLD_FIRST_FD);
    if (fd < WORLD_FIRST_FD || i >= w->num_fds ||
        (w->fds[i].conn == NULL && w->fds[i].lookup == NULL)) {
        return NULL;
    }
    return &w->fds[i];
}

static void world_fd_give(world *w, int fd)
{
    for (world_looping *loop = w->loop; loop != NULL; loop = loop->outer) {
        for (size_t i = 0; i < loop->num_slots; i++) {
            world_slot *slot = loop->slots[i];
            if (slot->task != NULL && slot->told.fd == fd) {
                world_breach(w, "descriptor %d is closed while the wants that were told name it",
                             fd);
            }
            /* as epoll does by itself */
            if (slot->reg_fd == fd) {
                slot->is_registered = false;
            }
        }
    }
    world_fd *entry = world_fd_get(w, fd);
    if (entry != NULL) {
        memset(entry, 0, sizeof *entry);
    }
}

static size_t world_window(const world *w)
{
    return w->desc.window_bytes != 0 ? w->desc.window_bytes : 65536;
}

static bool world_conn_is_readable(const world_conn *c)
{
    switch (c->phase) {
    case WORLD_CONNECTING:
    case WORLD_HANDSHAKING:
    case WORLD_CLOSED:      return false;
    case WORLD_CONNECTED:   return !c->blocks_open && c->mode != WORLD_ACCEPTS;
    case WORLD_SHAKEN:      return !c->blocks_open;
    case WORLD_FAILED:      return true;
    case WORLD_IS_OPEN:     break;
    }
    return !c->blocks_read && (c->in_arrived > 0 || c->has_eof || c->has_reset);
}

static bool world_conn_is_writable(const world_conn *c)
{
    switch (c->phase) {
    case WORLD_CONNECTING:
    case WORLD_CLOSED:      return false;
    case WORLD_CONNECTED:   return !c->blocks_open;
    case WORLD_HANDSHAKING: return true;
    case WORLD_SHAKEN:
    case WORLD_FAILED:      return true;
    case WORLD_IS_OPEN:     break;
    }
    return !c->blocks_write && (c->has_reset || c->server_ended || c->out.len < world_window(c->w));
}

static bool world_fd_is_ready(world *w, int fd, bool readable, bool writable)
{
    const world_fd *entry = fd >= 0 ? world_fd_get(w, fd) : NULL;
    if (entry == NULL) {
        return false;
    }
    if (entry->lookup != NULL) {
        return readable && entry->lookup->is_done;
    }
    return (readable && world_conn_is_readable(entry->conn)) ||
           (writable && world_conn_is_writable(entry->conn));
}

/* ---- places ---------------------------------------------------------------------------------- */

static world_place *world_place_find(const world *w, const char *ip, uint16_t port)
{
    bool is_path = ip[0] == '/' || ip[0] == '@';
    for (size_t i = 0; i < w->num_places; i++) {
        if (strcmp(w->places[i]->ip, ip) == 0 && (is_path || w->places[i]->port == port)) {
            return w->places[i];
        }
    }
    return NULL;
}

static world_place *world_place_get(world *w, const char *ip, uint16_t port)
{
    world_place *place = world_place_find(w, ip, port);
    if (place == NULL) {
        place = (world_place *)world_alloc(sizeof *place);
        place->ip = world_copy(ip);
        place->port = port;
        w->places = (world_place **)world_grow(w->places, (w->num_places + 1) * sizeof place);
        w->places[w->num_places++] = place;
    }
    return place;
}

void world_listen(world *w, const char *ip, uint16_t port, const world_server *server)
{
    world_place *place = world_place_get(w, ip, port);
    place->is_listening = true;
    place->server = *server;
}

void world_unlisten(world *w, const char *ip, uint16_t port)
{
    world_place_get(w, ip, port)->is_listening = false;
}

void world_listen_mode(world *w, const char *ip, uint16_t port, world_mode mode)
{
    world_place_get(w, ip, port)->mode = mode;
}

void world_listen_connect_ms(world *w, const char *ip, uint16_t port, uint32_t connect_ms)
{
    world_place_get(w, ip, port)->connect_ms = connect_ms;
}

size_t world_num_connects(world *w, const char *ip, uint16_t port)
{
    return world_place_get(w, ip, port)->num_connects;
}

static bool world_conn_is_at(const world_conn *c, const char *ip, uint16_t port)
{
    return c->path[0] != '\0' ? strcmp(c->path, ip) == 0
                              : c->port == port && strcmp(c->ip, ip) == 0;
}

void world_close_all(world *w, const char *ip, uint16_t port)
{
    for (size_t i = 0; i < w->num_conns; i++) {
        if (world_conn_is_at(w->conns[i], ip, port)) {
            world_conn_close(w->conns[i]);
        }
    }
}

void world_reset_all(world *w, const char *ip, uint16_t port)
{
    for (size_t i = 0; i < w->num_conns; i++) {
        if (world_conn_is_at(w->conns[i], ip, port)) {
            world_conn_reset(w->conns[i]);
        }
    }
}

/* ---- connections, the server's side ---------------------------------------------------------- */

static uint64_t world_arrival(world_conn *c, uint64_t at_ms)
{
    if (at_ms > c->last_arrival_ms) {
        c->last_arrival_ms = at_ms;
    }
    return c->last_arrival_ms;
}

void world_conn_send(world_conn *c, const void *bytes, size_t len)
{
    world *w = c->w;
    if (c->server_ended || c->phase == WORLD_CLOSED || len == 0) {
        return;
    }
    world_trace(w, "#%zu server sends %zu bytes", c->id, len);
    world_buf_add(&c->in, bytes, len);
    bool in_runs = w->desc.run_bytes != 0 && w->desc.run_ms != 0;
    size_t run = in_runs ? w->desc.run_bytes : len;
    uint64_t at_ms = world_arrival(c, w->now_ms + w->desc.latency_ms);
    for (size_t from = 0; from < len; from += run) {
        size_t n = len - from < run ? len - from : run;
        if (from > 0) {
            at_ms = world_arrival(c, at_ms + w->desc.run_ms);
        }
        world_add_event(w, at_ms, WORLD_EV_ARRIVE, c, n);
    }
}

void world_conn_send_str(world_conn *c, const char *text)
{
    world_conn_send(c, text, strlen(text));
}

void world_conn_send_later(world_conn *c, uint32_t delay_ms, const void *bytes, size_t len)
{
    world_event event;
    memset(&event, 0, sizeof event);
    event.at_ms = c->w->now_ms + delay_ms;
    event.kind = WORLD_EV_SEND;
    event.object = c;
    event.arg = len;
    event.bytes = (char *)world_alloc(len);
    memcpy(event.bytes, bytes, len);
    world_push(c->w, event);
}

static void world_conn_end(world_conn *c, world_event_kind kind)
{
    if (c->server_ended || c->phase == WORLD_CLOSED) {
        return;
    }
    world_trace(c->w, "#%zu server %s", c->id, kind == WORLD_EV_EOF ? "closes" : "resets");
    c->server_ended = true;
    world_conn_timer_off(c);
    world_add_event(c->w, world_arrival(c, c->w->now_ms + c->w->desc.latency_ms), kind, c, 0);
}

void world_conn_close(world_conn *c)
{
    world_conn_end(c, WORLD_EV_EOF);
}

void world_conn_reset(world_conn *c)
{
    world_conn_end(c, WORLD_EV_RESET);
}

static void world_deliver(world_conn *c, size_t len)
{
    if (len == 0) {
        return;
    }
    bool was_full = c->out.len >= world_window(c->w);
    char *bytes = (char *)world_alloc(len + 1);
    memcpy(bytes, c->out.bytes, len);
    world_buf_drop(&c->out, len);
    if (was_full && c->out.len < world_window(c->w)) {
        c->edges++;
    }
    if (!c->server_ended && c->server.on_bytes != NULL) {
        c->server.on_bytes(c->server.user, c, bytes, len);
    }
    free(bytes);
}

void world_conn_hang(world_conn *c, bool on)
{
    c->hangs = on;
    if (!on) {
        size_t len = c->num_held;
        c->num_held = 0;
        world_deliver(c, len);
    }
}

void world_conn_timer_off(world_conn *c)
{
    world_cancel(c->w, c->timer);
    c->timer = 0;
}

void world_conn_timer(world_conn *c, uint32_t ms)
{
    world_conn_timer_off(c);
    c->timer = world_add_event(c->w, c->w->now_ms + ms, WORLD_EV_TIMER, c, 0);
}

void world_conn_set_user(world_conn *c, void *user)
{
    c->user = user;
}

void *world_conn_user(const world_conn *c)
{
    return c->user;
}

world *world_conn_world(const world_conn *c)
{
    return c->w;
}

bool world_conn_is_open(const world_conn *c)
{
    return c->phase != WORLD_CLOSED && c->phase != WORLD_FAILED && !c->server_ended;
}

size_t world_conn_id(const world_conn *c)
{
    return c->id;
}

uint64_t world_conn_opened_ms(const world_conn *c)
{
    return c->opened_ms;
}

int world_conn_fd(const world_conn *c)
{
    return c->fd;
}

uint16_t world_conn_port(const world_conn *c)
{
    return c->port;
}

const char *world_conn_ip(const world_conn *c)
{
    return c->path[0] != '\0' ? c->path : c->ip;
}

const char *world_conn_host(const world_conn *c)
{
    return c->host;
}

size_t world_num_conns(const world *w)
{
    return w->num_conns;
}

world_conn *world_conn_nth(const world *w, size_t nth)
{
    return nth < w->num_conns ? w->conns[nth] : NULL;
}

const char *world_sent(const world_conn *c, size_t *len)
{
    if (len != NULL) {
        *len = c->sent.len;
    }
    return c->sent.bytes != NULL ? c->sent.bytes : "";
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void world_on_connected(world_conn *c)
{
    if (c->phase == WORLD_CLOSED) {
        return;
    }
    if (c->phase == WORLD_CONNECTING) {
        c->phase = WORLD_CONNECTED;
        c->edges++;
    }
    if (c->mode == WORLD_ACCEPTS) {
        c->is_accepted = true;
        c->w->stats.accepted++;
        world_trace(c->w, "#%zu accepted", c->id);
        if (c->server.on_accept != NULL) {
            c->server.on_accept(c->server.user, c);
        }
    }
}

static void world_on_end(world_conn *c, bool is_reset)
{
    c->edges++;
    if (!is_reset) {
        c->has_eof = true;
        return;
    }
    c->has_reset = true;
    if (c->w->desc.reset_discards) {
        c->in_arrived = 0;
    }
}

static void world_on_unblock(world_conn *c)
{
    c->blocks_open = false;
    c->blocks_read = false;
    c->blocks_write = false;
    c->edges++;
}

static void world_on_resolved(world_lookup *lookup)
{
    lookup->is_done = true;
    world_trace(lookup->w, "resolved %s", lookup->host);
    if (lookup->w->resolver == WORLD_RESOLVER_WAKE) {
        sdc_wake(lookup->task);
    }
}

static void world_happen(world *w, world_event *event)
{
    world_conn *c = (world_conn *)event->object;
    switch (event->kind) {
    case WORLD_EV_NONE:
        break;
    case WORLD_EV_CALL:
        event->fn(event->object);
        break;
    case WORLD_EV_CONNECTED:
        world_on_connected(c);
        break;
    case WORLD_EV_HANDSHAKE:
        if (c->phase == WORLD_HANDSHAKING) {
            c->phase = WORLD_SHAKEN;
            c->edges++;
        }
        break;
    case WORLD_EV_ARRIVE:
        c->in_arrived += (size_t)event->arg;
        c->edges++;
        break;
    case WORLD_EV_EOF:
        world_on_end(c, false);
        break;
    case WORLD_EV_RESET:
        world_on_end(c, true);
        break;
    case WORLD_EV_DELIVER:
        if (c->hangs) {
            c->num_held += (size_t)event->arg;
        } else {
            world_deliver(c, (size_t)event->arg);
        }
        break;
    case WORLD_EV_CLOSED:
        world_conn_timer_off(c);
        if (c->is_accepted && c->server.on_close != NULL) {
            c->server.on_close(c->server.user, c);
        }
        break;
    case WORLD_EV_TIMER:
        c->timer = 0;
        if (c->server.on_timer != NULL) {
            c->server.on_timer(c->server.user, c);
        }
        break;
    case WORLD_EV_UNBLOCK:
        world_on_unblock(c);
        break;
    case WORLD_EV_SEND:
        world_conn_send(c, event->bytes, (size_t)event->arg);
        break;
    case WORLD_EV_RESOLVED:
        world_on_resolved((world_lookup *)event->object);
        break;
    }
    (void)w;
}

/* ---- streams --------------------------------------------------------------------------------- */

static bool world_is_numeric(const char *host)
{
    char text[128];
    unsigned char out[16];
    snprintf(text, sizeof text, "%s", host);
    char *zone = strchr(text, '%');
    if (zone != NULL) {
        *zone = '\0';
    }
    return inet_pton(AF_INET, text, out) == 1 || inet_pton(AF_INET6, text, out) == 1;
}

static void world_check_target(world *w, const sdc_target *t)
{
    if (t->host == NULL || t->ip == NULL || t->path == NULL) {
        world_breach(w, "stream_open: NULL in the target");
    } else if (t->path[0] != '\0' ? t->host[0] != '\0' || t->ip[0] != '\0'
                                  : t->host[0] == '\0' || !world_is_numeric(t->ip)) {
        world_breach(w, "stream_open: host \"%s\", ip \"%s\", path \"%s\"", t->host, t->ip,
                     t->path);
    }
    if (t->tls && !w->desc.can_tls) {
        world_breach(w, "stream_open: TLS, but can_tls is false");
    }
}

static bool world_is_target(const world_conn *c, const sdc_target *t)
{
    return strcmp(c->host, t->host) == 0 && strcmp(c->ip, t->ip) == 0 &&
           strcmp(c->path, t->path) == 0 && c->port == t->port && c->tls == t->tls;
}

static world_conn *world_conn_new(world *w, const sdc_target *t, const world_place *place)
{
    world_conn *c = (world_conn *)world_alloc(sizeof *c);
    c->w = w;
    c->id = w->num_conns;
    c->fd = world_fd_take(w, c, NULL);
    c->host = world_copy(t->host);
    c->ip = world_copy(t->ip);
    c->path = world_copy(t->path);
    c->port = t->port;
    c->tls = t->tls;
    c->server = place->server;
    c->mode = place->mode != WORLD_ACCEPTS || place->is_listening ? place->mode : WORLD_REFUSES;
    c->opened_ms = w->now_ms;
    if (w->num_conns == w->cap_conns) {
        w->cap_conns = w->cap_conns * 2 + 16;
        w->conns = (world_conn **)world_grow(w->conns, w->cap_conns * sizeof c);
    }
    w->conns[w->num_conns++] = c;
    w->stats.opened++;
    w->stats.open_now++;
    if (w->stats.open_now > w->stats.open_max) {
        w->stats.open_max = w->stats.open_now;
    }
    return c;
}

static sdc_err world_again_open(world_conn *c, bool readable, sdc_ready *until)
{
    until->fd = c->fd;
    until->readable = readable;
    until->writable = !readable;
    c->named_read = readable;
    c->named_write = !readable;
    world_spin(c->w);
    return SDC_AGAIN;
}

/* Where nobody listens on a unix path the system says so at once, without a descriptor. */
static sdc_err world_open_first(world *w, const sdc_target *t, world_conn **out, sdc_error *error)
{
    world_check_target(w, t);
    bool is_unix = t->path[0] != '\0';
    world_place *place = world_place_get(w, is_unix ? t->path : t->ip, is_unix ? 0 : t->port);
    place->num_connects++;
    world_trace(w, "open %s:%u", place->ip, (unsigned)t->port);
    if (is_unix && (!place->is_listening || place->mode == WORLD_REFUSES)) {
        int os_errno = place->is_listening ? ECONNREFUSED : ENOENT;
        return world_error(error, SDC_ERR_CONNECT, os_errno, strerror(os_errno));
    }
    world_conn *c = world_conn_new(w, t, place);
    *out = c;
    bool is_instant = c->mode == WORLD_ACCEPTS && (is_unix || w->desc.connect_at_once);
    if (is_instant) {
        c->phase = WORLD_CONNECTED;
        world_add_event(w, w->now_ms + w->desc.latency_ms, WORLD_EV_CONNECTED, c, 0);
    } else if (c->mode != WORLD_BLACKHOLE) {
        uint64_t ms = 2u * (uint64_t)w->desc.latency_ms + w->desc.connect_ms + place->connect_ms;
        world_add_event(w, w->now_ms + ms, WORLD_EV_CONNECTED, c, 0);
    }
    return SDC_OK;
}

static sdc_err world_open_fails(world_conn *c, sdc_err err, int os_errno, sdc_error *error)
{
    c->phase = WORLD_FAILED;
    c->named_read = false;
    c->named_write = false;
    return world_error(error, err, os_errno,
                       os_errno != 0 ? strerror(os_errno) : "the peer's certificate is bad");
}

static sdc_err world_open_done(world_conn *c)
{
    c->phase = WORLD_IS_OPEN;
    c->named_read = false;
    c->named_write = false;
    return SDC_OK;
}

static sdc_err world_open_connected(world_conn *c, sdc_ready *until, sdc_error *error)
{
    if (c->mode == WORLD_REFUSES) {
        return world_open_fails(c, SDC_ERR_CONNECT, ECONNREFUSED, error);
    }
    if (c->mode == WORLD_UNREACHABLE) {
        return world_open_fails(c, SDC_ERR_CONNECT, EHOSTUNREACH, error);
    }
    if (!c->tls) {
        return world_open_done(c);
    }
    c->phase = WORLD_HANDSHAKING;
    world_add_event(c->w, c->w->now_ms + 2u * (uint64_t)c->w->desc.latency_ms,
                    WORLD_EV_HANDSHAKE, c, 0);
    return world_again_open(c, true, until);
}

static sdc_err world_stream_open(void *user, const sdc_target *target, void **stream,
                                 sdc_ready *until, sdc_error *error)
{
    world *w = (world *)user;
    world_check_until(w, until, "stream_open");
    world_conn *c = (world_conn *)*stream;
    bool is_first = c == NULL;
    if (is_first) {
        sdc_err fault = world_fault(w, WORLD_OPEN, error);
        sdc_err err = fault != SDC_OK ? fault : world_open_first(w, target, &c, error);
        *stream = c;
        world_spin(w);
        if (err != SDC_OK) {
            return err;
        }
    } else if (!world_is_target(c, target)) {
        world_breach(w, "stream_open: another target than before SDC_AGAIN");
    }
    if (world_is_again(w) && c->phase == WORLD_CONNECTED) {
        c->blocks_open = true;
        world_add_event(w, w->now_ms, WORLD_EV_UNBLOCK, c, 0);
        return world_again_open(c, false, until);
    }
    switch (c->phase) {
    case WORLD_CONNECTING:
        return world_again_open(c, false, until);
    case WORLD_CONNECTED:
        return world_open_connected(c, until, error);
    case WORLD_HANDSHAKING:
        return world_again_open(c, true, until);
    case WORLD_SHAKEN:
        if (c->mode == WORLD_TLS_FAILS) {
            return world_open_fails(c, SDC_ERR_TLS, 0, error);
        }
        return world_open_done(c);
    case WORLD_IS_OPEN:
    case WORLD_FAILED:
    case WORLD_CLOSED:
        break;
    }
    world_breach(w, "stream_open: called again after it had answered");
    return world_error(error, SDC_ERR_IO, 0, "stream_open was called after its end");
}

static bool world_check_stream(world *w, world_conn *c, const char *member)
{
    if (c == NULL || c->w != w) {
        world_breach(w, "%s: not a stream", member);
        return false;
    }
    if (c->phase != WORLD_IS_OPEN) {
        world_breach(w, "%s: stream #%zu is %s", member, c->id,
                     c->phase == WORLD_CLOSED ? "closed" : "not open");
        return false;
    }
    return true;
}

static size_t world_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static sdc_err world_read_again(world_conn *c, bool is_made_up, sdc_ready *until)
{
    if (is_made_up) {
        c->blocks_read = true;
        world_add_event(c->w, c->w->now_ms, WORLD_EV_UNBLOCK, c, 0);
    }
    until->fd = c->fd;
    until->readable = true;
    c->named_read = true;
    world_spin(c->w);
    return SDC_AGAIN;
}

static sdc_err world_stream_read(void *user, void *stream, void *bytes, size_t max, size_t *len,
                                 sdc_ready *until, sdc_error *error)
{
    world *w = (world *)user;
    world_conn *c = (world_conn *)stream;
    w->stats.reads++;
    world_check_until(w, until, "stream_read");
    if (!world_check_stream(w, c, "stream_read")) {
        return world_error(error, SDC_ERR_IO, EBADF, "not an open stream");
    }
    if (c->told_end) {
        world_breach(w, "stream_read: stream #%zu had ended before", c->id);
    }
    if (max == 0) {
        world_breach(w, "stream_read: room for no byte");
    }
    sdc_err fault = world_fault(w, WORLD_READ, error);
    if (fault != SDC_OK) {
        c->told_end = true;
        return fault;
    }
    c->named_read = false;
    bool is_made_up = world_is_again(w);
    if (is_made_up || c->blocks_read) {
        return world_read_again(c, is_made_up, until);
    }
    *len = 0;
    if (c->in_arrived > 0) {
        size_t n = world_least(max, c->in_arrived);
        n = w->desc.read_max != 0 ? world_least(n, w->desc.read_max) : n;
        memcpy(bytes, c->in.bytes + c->in_from, n);
        c->in_from += n;
        c->in_arrived -= n;
        if (c->in_from > c->in.len / 2) {
            world_buf_drop(&c->in, c->in_from);
            c->in_from = 0;
        }
        *len = n;
        w->stats.bytes_read += n;
        world_trace(w, "#%zu read %zu", c->id, n);
        return SDC_OK;
    }
    if (!c->has_reset && !c->has_eof) {
        return world_read_again(c, false, until);
    }
    c->told_end = true;
    world_trace(w, "#%zu read the end", c->id);
    return c->has_reset ? world_error(error, SDC_ERR_IO, ECONNRESET, strerror(ECONNRESET)) : SDC_OK;
}

/* A caller that got SDC_AGAIN comes again with the same bytes: a TLS library relies on it. */
static void world_check_again(world_conn *c, const void *bytes, size_t len)
{
    if (c->again_bytes == NULL) {
        return;
    }
    if (len < c->again_len || memcmp(bytes, c->again_bytes, c->again_len) != 0) {
        world_breach(c->w, "stream_write: other bytes than before SDC_AGAIN");
    }
    free(c->again_bytes);
    c->again_bytes = NULL;
}

static sdc_err world_write_again(world_conn *c, const void *bytes, size_t len, bool is_made_up,
                                 sdc_ready *until)
{
    if (is_made_up) {
        c->blocks_write = true;
        world_add_event(c->w, c->w->now_ms, WORLD_EV_UNBLOCK, c, 0);
    }
    c->again_len = world_least(len, 65536);
    c->again_bytes = (char *)world_alloc(c->again_len);
    memcpy(c->again_bytes, bytes, c->again_len);
    until->fd = c->fd;
    until->writable = true;
    c->named_write = true;
    world_spin(c->w);
    return SDC_AGAIN;
}

static void world_take(world_conn *c, const void *bytes, size_t len)
{
    world *w = c->w;
    size_t keep = w->desc.keep_sent_bytes != 0 ? w->desc.keep_sent_bytes : (size_t)16 << 20;
    world_buf_add(&c->sent, bytes, world_least(len, keep - world_least(keep, c->sent.len)));
    w->stats.bytes_written += len;
    world_trace(w, "#%zu write %zu", c->id, len);
    if (c->server_ended) {
        /* what comes for a closed socket is answered by a reset */
        world_add_event(w, world_arrival(c, w->now_ms + 2u * (uint64_t)w->desc.latency_ms),
                        WORLD_EV_RESET, c, 0);
        return;
    }
    world_buf_add(&c->out, bytes, len);
    world_add_event(w, w->now_ms + w->desc.latency_ms, WORLD_EV_DELIVER, c, len);
}

static sdc_err world_stream_write(void *user, void *stream, const void *bytes, size_t len,
                                  size_t *written, sdc_ready *until, sdc_error *error)
{
    world *w = (world *)user;
    world_conn *c = (world_conn *)stream;
    w->stats.writes++;
    world_check_until(w, until, "stream_write");
    if (!world_check_stream(w, c, "stream_write")) {
        return world_error(error, SDC_ERR_IO, EBADF, "not an open stream");
    }
    if (len == 0) {
        world_breach(w, "stream_write: no bytes");
    }
    world_check_again(c, bytes, len);
    sdc_err fault = world_fault(w, WORLD_WRITE, error);
    if (fault != SDC_OK) {
        return fault;
    }
    c->named_write = false;
    if (c->has_reset) {
        return world_error(error, SDC_ERR_IO, EPIPE, strerror(EPIPE));
    }
    bool is_made_up = world_is_again(w);
    size_t room = world_window(w) - world_least(world_window(w), c->out.len);
    if (is_made_up || c->blocks_write || (room == 0 && !c->server_ended)) {
        return world_write_again(c, bytes, len, is_made_up, until);
    }
    size_t n = c->server_ended ? len : world_least(len, room);
    n = w->desc.write_max != 0 ? world_least(n, w->desc.write_max) : n;
    world_take(c, bytes, n);
    *written = n;
    return SDC_OK;
}

static void world_stream_close(void *user, void *stream)
{
    world *w = (world *)user;
    world_conn *c = (world_conn *)stream;
    if (c == NULL || c->w != w || c->phase == WORLD_CLOSED) {
        world_breach(w, "stream_close: %s", c == NULL ? "no stream" : "closed before");
        return;
    }
    world_trace(w, "#%zu close", c->id);
    c->phase = WORLD_CLOSED;
    c->in_arrived = 0;
    free(c->again_bytes);
    c->again_bytes = NULL;
    world_fd_give(w, c->fd);
    w->stats.closed++;
    w->stats.open_now--;
    world_add_event(w, w->now_ms + w->desc.latency_ms, WORLD_EV_CLOSED, c, 0);
}

/* ---- resolver -------------------------------------------------------------------------------- */

static world_name *world_name_find(world *w, const char *name)
{
    for (size_t i = 0; i < w->num_names; i++) {
        if (strcmp(w->names[i].name, name) == 0) {
            return &w->names[i];
        }
    }
    return NULL;
}

static world_name *world_name_set(world *w, const char *name)
{
    world_name *entry = world_name_find(w, name);
    if (entry == NULL) {
        w->names = (world_name *)world_grow(w->names, (w->num_names + 1) * sizeof *w->names);
        entry = &w->names[w->num_names++];
        memset(entry, 0, sizeof *entry);
        entry->name = world_copy(name);
    }
    free(entry->ips);
    free(entry->message);
    entry->ips = world_copy("");
    entry->message = NULL;
    entry->delay_ms = 0;
    entry->is_never = false;
    return entry;
}

void world_resolve_to(world *w, const char *name, const char *ips, uint32_t delay_ms)
{
    world_name *entry = world_name_set(w, name);
    free(entry->ips);
    entry->ips = world_copy(ips);
    entry->delay_ms = delay_ms;
}

void world_resolve_fails(world *w, const char *name, const char *message, uint32_t delay_ms)
{
    world_name *entry = world_name_set(w, name);
    entry->message = world_copy(message);
    entry->delay_ms = delay_ms;
}

void world_resolve_never(world *w, const char *name)
{
    world_name_set(w, name)->is_never = true;
}

void world_resolver_is(world *w, world_resolver kind)
{
    w->resolver = kind;
}

static sdc_err world_resolve_answer(const world_name *entry, sdc_ip *ips, size_t max_ips,
                                    size_t *num_ips, sdc_error *error)
{
    *num_ips = 0;
    if (entry == NULL || entry->message != NULL) {
        return world_error(error, SDC_ERR_RESOLVE, 0,
                           entry != NULL ? entry->message : "no such name");
    }
    for (const char *ip = entry->ips; *ip != '\0' && *num_ips < max_ips;) {
        size_t len = strcspn(ip, ",");
        snprintf(ips[*num_ips].text, sizeof ips[0].text, "%.*s", (int)len, ip);
        (*num_ips)++;
        ip += len + (ip[len] == ',' ? 1 : 0);
    }
    return SDC_OK;
}

static sdc_err world_resolve_again(world_lookup *lookup, sdc_ready *until)
{
    switch (lookup->w->resolver) {
    case WORLD_RESOLVER_TIMER:
        until->at_ms = lookup->at_ms;
        break;
    case WORLD_RESOLVER_FD:
        until->fd = lookup->fd;
        until->readable = true;
        break;
    case WORLD_RESOLVER_WAKE:
    case WORLD_RESOLVER_BLOCKS:
        break;
    }
    world_spin(lookup->w);
    return SDC_AGAIN;
}

static world_lookup *world_lookup_new(world *w, sdc_task *task, const char *host, bool is_never,
                                      uint32_t delay_ms)
{
    world_lookup *lookup = (world_lookup *)world_alloc(sizeof *lookup);
    lookup->w = w;
    lookup->task = task;
    lookup->host = world_copy(host);
    lookup->fd = w->resolver == WORLD_RESOLVER_FD ? world_fd_take(w, NULL, lookup) : -1;
    lookup->at_ms = is_never ? UINT64_MAX : w->now_ms + delay_ms;
    lookup->next = w->lookups;
    w->lookups = lookup;
    w->stats.resolves_now++;
    if (!is_never) {
        lookup->event = world_add_event(w, lookup->at_ms, WORLD_EV_RESOLVED, lookup, 0);
    }
    return lookup;
}

static sdc_err world_resolve_blocks(world *w, const world_name *entry, bool may_block, sdc_ip *ips,
                                    size_t max_ips, size_t *num_ips, sdc_error *error)
{
    if (!may_block) {
        return world_error(error, SDC_ERR_RESOLVE, 0, "a name cannot be resolved without blocking");
    }
    world_advance(w, entry == NULL ? 0 : entry->is_never ? 3600000 : entry->delay_ms);
    return world_resolve_answer(entry, ips, max_ips, num_ips, error);
}

static sdc_err world_resolve(void *user, sdc_task *task, const char *host, bool may_block,
                             void **op, sdc_ip *ips, size_t max_ips, size_t *num_ips,
                             sdc_ready *until, sdc_error *error)
{
    world *w = (world *)user;
    world_lookup *lookup = (world_lookup *)*op;
    w->stats.resolves++;
    world_check_until(w, until, "resolve");
    if (world_is_numeric(host) || strcmp(host, "localhost") == 0) {
        world_breach(w, "resolve: asked for \"%s\"", host);
    }
    world_trace(w, "resolve %s", host);
    sdc_err fault = world_fault(w, WORLD_RESOLVE, error);
    if (fault != SDC_OK) {
        return fault;
    }
    world_name *entry = world_name_find(w, host);
    if (lookup == NULL) {
        if (w->resolver == WORLD_RESOLVER_BLOCKS) {
            return world_resolve_blocks(w, entry, may_block, ips, max_ips, num_ips, error);
        }
        bool is_slow = entry != NULL && (entry->is_never || entry->delay_ms > 0);
        if (!is_slow && !world_is_again(w)) {
            world_spin(w);
            return world_resolve_answer(entry, ips, max_ips, num_ips, error);
        }
        lookup = world_lookup_new(w, task, host, entry != NULL && entry->is_never,
                                  entry != NULL ? entry->delay_ms : 0);
        *op = lookup;
        return world_resolve_again(lookup, until);
    }
    if (lookup->task != task || strcmp(lookup->host, host) != 0) {
        world_breach(w, "resolve: other arguments than before SDC_AGAIN");
    }
    if (!lookup->is_done && lookup->at_ms > w->now_ms) {
        return world_resolve_again(lookup, until);
    }
    return world_resolve_answer(entry, ips, max_ips, num_ips, error);
}

static void world_lookup_free(world *w, world_lookup *lookup)
{
    world_cancel(w, lookup->event);
    if (lookup->fd >= 0) {
        world_fd_give(w, lookup->fd);
    }
    free(lookup->host);
    free(lookup);
    w->stats.resolves_now--;
}

static void world_resolve_end(void *user, void *op)
{
    world *w = (world *)user;
    for (world_lookup **at = &w->lookups; *at != NULL; at = &(*at)->next) {
        if (*at == op) {
            world_lookup *lookup = *at;
            *at = lookup->next;
            world_lookup_free(w, lookup);
            return;
        }
    }
    world_breach(w, "resolve_end: no such resolve, or ended before");
}

/* ---- waker and wait -------------------------------------------------------------------------- */

static sdc_err world_waker_create(void *user, void **waker, sdc_error *error)
{
    world *w = (world *)user;
    sdc_err fault = world_fault(w, WORLD_WAKER, error);
    if (fault != SDC_OK) {
        return fault;
    }
    world_waker *made = (world_waker *)world_alloc(sizeof *made);
    made->next = w->wakers;
    w->wakers = made;
    w->stats.wakers_now++;
    *waker = made;
    return SDC_OK;
}

/* May run in a signal handler: no search, no trace. */
static void world_waker_wake(void *user, void *waker)
{
    world *w = (world *)user;
    w->stats.wakes++;
    ((world_waker *)waker)->is_woken = 1;
}

static world_waker *world_waker_find(world *w, const void *waker)
{
    world_waker *found = w->wakers;
    while (found != NULL && found != waker) {
        found = found->next;
    }
    return found;
}

static void world_waker_destroy(void *user, void *waker)
{
    world *w = (world *)user;
    for (world_waker **at = &w->wakers; *at != NULL; at = &(*at)->next) {
        if (*at == waker) {
            world_waker *found = *at;
            *at = found->next;
            free(found);
            w->stats.wakers_now--;
            return;
        }
    }
    world_breach(w, "waker_destroy: no such waker");
}

static void world_check_wait(world *w, const world_waker *waker, const void *given,
                             const sdc_wants *wants)
{
    if (given != NULL && waker == NULL) {
        world_breach(w, "wait: no such waker");
    }
    if (wants->fd < 0) {
        return;
    }
    const world_fd *entry = world_fd_get(w, wants->fd);
    if (entry == NULL) {
        world_breach(w, "wait: descriptor %d is not open", wants->fd);
    } else if (entry->conn != NULL && ((wants->readable && !entry->conn->named_read) ||
                                       (wants->writable && !entry->conn->named_write))) {
        world_breach(w, "wait: for%s%s of stream #%zu, which no SDC_AGAIN named",
                     wants->readable ? " readable" : "", wants->writable ? " writable" : "",
                     entry->conn->id);
    }
}

static sdc_err world_wait_endless(world *w, sdc_error *error)
{
    world_breach(w, "wait: nothing can end it");
    if (++w->num_endless > 100) {
        abort();
    }
    return world_error(error, SDC_ERR_IO, 0, "nothing can end this wait");
}

static sdc_err world_wait(void *user, void *waker, const sdc_wants *wants, sdc_error *error)
{
    world *w = (world *)user;
    world_waker *mine = waker != NULL ? world_waker_find(w, waker) : NULL;
    uint64_t start_ms = w->now_ms;
    w->stats.waits++;
    w->last_wait = *wants;
    world_trace(w, "wait fd %d%s%s, %d ms", wants->fd, wants->readable ? " r" : "",
                wants->writable ? " w" : "", wants->timeout_ms);
    world_check_wait(w, mine, waker, wants);
    world_spin(w);
    sdc_err fault = world_fault(w, WORLD_WAIT, error);
    if (fault != SDC_OK) {
        return fault;
    }
    if (w->desc.early_wait_every != 0 && w->stats.waits % w->desc.early_wait_every == 0) {
        world_do_due(w);
        return SDC_OK;
    }
    uint64_t end_ms = wants->timeout_ms < 0 ? UINT64_MAX
                                            : start_ms + (uint64_t)wants->timeout_ms;
    for (;;) {
        world_do_due(w);
        /* an event's own code may have destroyed the task and its waker, but not the step */
        if ((mine != NULL && mine->is_woken) || w->now_ms >= end_ms ||
            world_fd_is_ready(w, wants->fd, wants->readable, wants->writable)) {
            break;
        }
        uint64_t next_ms = world_next(w);
        if (next_ms == UINT64_MAX && end_ms == UINT64_MAX) {
            return world_wait_endless(w, error);
        }
        world_set_now(w, next_ms < end_ms ? next_ms : end_ms);
    }
    if (mine != NULL) {
        mine->is_woken = 0;
    }
    w->stats.waited_ms += w->now_ms - start_ms;
    return SDC_OK;
}

bool world_poll(world *w, const sdc_wants *wants)
{
    world_do_due(w);
    return wants->deadline_ms <= w->now_ms ||
           world_fd_is_ready(w, wants->fd, wants->readable, wants->writable);
}

sdc_wants world_last_wait(const world *w)
{
    return w->last_wait;
}

/* ---- clock, random, files -------------------------------------------------------------------- */

static uint64_t world_io_now(void *user)
{
    return ((const world *)user)->now_ms;
}

static uint64_t world_io_random(void *user)
{
    world *w = (world *)user;
    return w->is_random_fixed ? w->fixed_random : world_splitmix(&w->library_random);
}

uint64_t world_random(world *w)
{
    return world_splitmix(&w->server_random);
}

void world_random_is(world *w, uint64_t value)
{
    w->is_random_fixed = true;
    w->fixed_random = value;
}

void world_random_seeded(world *w)
{
    w->is_random_fixed = false;
}

static world_file *world_file_find(world *w, const char *path)
{
    for (size_t i = 0; i < w->num_files; i++) {
        if (strcmp(w->files[i].path, path) == 0) {
            return &w->files[i];
        }
    }
    return NULL;
}

void world_file_set_bytes(world *w, const char *path, const void *bytes, size_t len)
{
    world_file *file = world_file_find(w, path);
    if (file == NULL) {
        w->files = (world_file *)world_grow(w->files, (w->num_files + 1) * sizeof *w->files);
        file = &w->files[w->num_files++];
        memset(file, 0, sizeof *file);
        file->path = world_copy(path);
    }
    free(file->bytes);
    file->bytes = (char *)world_alloc(len);
    if (len > 0) {
        memcpy(file->bytes, bytes, len);
    }
    file->len = len;
}

void world_file_set(world *w, const char *path, const char *text)
{
    world_file_set_bytes(w, path, text, strlen(text));
}

void world_file_remove(world *w, const char *path)
{
    world_file *file = world_file_find(w, path);
    if (file != NULL) {
        free(file->path);
        free(file->bytes);
        *file = w->files[--w->num_files];
    }
}

static sdc_err world_read_file(void *user, const char *path, char *text, size_t max, size_t *len,
                               sdc_error *error)
{
    world *w = (world *)user;
    w->stats.files++;
    sdc_err fault = world_fault(w, WORLD_FILE, error);
    if (fault != SDC_OK) {
        return fault;
    }
    const world_file *file = world_file_find(w, path);
    if (file == NULL) {
        return world_error(error, SDC_ERR_IO, ENOENT, strerror(ENOENT));
    }
    if (file->len > max) {
        return world_error(error, SDC_ERR_LIMIT, 0, "the file is too long");
    }
    memcpy(text, file->bytes, file->len);
    *len = file->len;
    return SDC_OK;
}

/* ---- the library's log ----------------------------------------------------------------------- */

static void world_on_log(void *user, sdc_log_level level, const sdc_kv *fields, size_t num_fields)
{
    static const char *const names[] = { "DEBUG", "INFO", "WARN", "ERROR" };
    world *w = (world *)user;
    if (w->log.len > WORLD_LOG_MAX) {
        return;
    }
    size_t from = w->log.len;
    world_buf_add(&w->log, names[level], strlen(names[level]));
    for (size_t i = 0; i < num_fields; i++) {
        if (fields[i].key == NULL || fields[i].value == NULL) {
            world_breach(w, "log: a field is NULL");
            continue;
        }
        world_buf_add(&w->log, " ", 1);
        if (i > 0) {
            world_buf_add(&w->log, fields[i].key, strlen(fields[i].key));
            world_buf_add(&w->log, "=", 1);
        } else if (strcmp(fields[i].key, "event") != 0) {
            world_breach(w, "log: the first field is %s", fields[i].key);
        }
        world_buf_add(&w->log, fields[i].value, strlen(fields[i].value));
    }
    world_trace(w, "log: %s", w->log.bytes + from);
    world_buf_add(&w->log, "\n", 1);
}

sdc_logger world_logger(world *w)
{
    sdc_logger logger;
    memset(&logger, 0, sizeof logger);
    logger.user = w;
    logger.log = world_on_log;
    return logger;
}

const char *world_log(const world *w)
{
    return w->log.bytes != NULL ? w->log.bytes : "";
}

void world_log_clear(world *w)
{
    w->log.len = 0;
    world_buf_add(&w->log, "", 0);
}

static bool world_line_has(const char *line, size_t len, const char *part)
{
    size_t part_len = strlen(part);
    for (size_t i = 0; i + part_len <= len; i++) {
        if (memcmp(line + i, part, part_len) == 0) {
            return true;
        }
    }
    return false;
}

size_t world_log_count(const world *w, const char *level, const char *part)
{
    size_t count = 0;
    size_t level_len = level != NULL ? strlen(level) : 0;
    for (const char *line = world_log(w); *line != '\0';) {
        size_t len = strcspn(line, "\n");
        bool is_level = level_len == 0 || (len >= level_len && memcmp(line, level, level_len) == 0);
        if (is_level && world_line_has(line, len, part)) {
            count++;
        }
        line += len + (line[len] == '\n' ? 1 : 0);
    }
    return count;
}

/* ---- event loop ------------------------------------------------------------------------------ */

static void world_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    world_slot *slot = (world_slot *)user;
    (void)task;
    slot->told = wants;
    slot->is_told = true;
}

static void world_on_wake(void *user, sdc_task *task)
{
    (void)task;
    ((world_slot *)user)->is_woken = true;
}

static uint64_t world_fd_edges(world *w, int fd)
{
    const world_fd *entry = world_fd_get(w, fd);
    return entry != NULL && entry->conn != NULL ? entry->conn->edges : 0;
}

/* As an adapter does that asks after each step: registers what has another number or serial,
   for both directions, and never touches it again. */
static void world_slot_register(world *w, world_slot *slot)
{
    int fd = slot->asked.fd;
    if (fd == slot->reg_fd && (fd < 0 || slot->asked.serial == slot->reg_serial)) {
        return;
    }
    slot->reg_fd = fd;
    slot->reg_serial = slot->asked.serial;
    slot->is_registered = fd >= 0;
    slot->seen_edges = world_fd_edges(w, fd);
    if (world_fd_is_ready(w, fd, true, true)) {
        slot->seen_edges = UINT64_MAX;
    }
}

static void world_slot_check(world *w, const world_slot *slot)
{
    const sdc_wants *a = &slot->told;
    const sdc_wants *b = &slot->asked;
    if (!slot->is_told) {
        world_breach(w, "sdc_task_on_wants told nothing at once");
    } else if (a->fd != b->fd || a->readable != b->readable || a->writable != b->writable ||
               a->deadline_ms != b->deadline_ms || (a->fd >= 0 && a->serial != b->serial)) {
        world_breach(w, "wants told: fd %d/%u r%d w%d %llu; asked: fd %d/%u r%d w%d %llu",
                     a->fd, (unsigned)a->serial, a->readable, a->writable,
                     (unsigned long long)a->deadline_ms, b->fd, (unsigned)b->serial, b->readable,
                     b->writable, (unsigned long long)b->deadline_ms);
    }
    uint64_t left = b->deadline_ms <= w->now_ms ? 0 : b->deadline_ms - w->now_ms;
    int timeout_ms = b->deadline_ms == UINT64_MAX ? -1 : left > INT_MAX ? INT_MAX : (int)left;
    if (b->timeout_ms != timeout_ms) {
        world_breach(w, "wants: timeout %d ms, but the deadline is in %d ms", b->timeout_ms,
                     timeout_ms);
    }
    const world_fd *entry = b->fd >= 0 ? world_fd_get(w, b->fd) : NULL;
    if (b->fd >= 0 && entry == NULL) {
        world_breach(w, "wants: descriptor %d is not open", b->fd);
    } else if (entry != NULL && entry->conn != NULL && b->timeout_ms != 0 &&
               ((b->readable && !entry->conn->named_read) ||
                (b->writable && !entry->conn->named_write))) {
        world_breach(w, "wants: readiness of stream #%zu that no SDC_AGAIN named",
                     entry->conn->id);
    }
}

static void world_slot_look(world *w, world_slot *slot)
{
    slot->asked = sdc_task_wants(slot->task);
    world_slot_check(w, slot);
    world_slot_register(w, slot);
}

static bool world_slot_is_due(world *w, world_slot *slot, bool is_edge)
{
    if (slot->task == NULL || slot->is_done) {
        return slot->task != NULL && slot->is_woken;
    }
    if (slot->is_woken || slot->told.deadline_ms <= w->now_ms) {
        return true;
    }
    const world_fd *entry = slot->told.fd >= 0 ? world_fd_get(w, slot->told.fd) : NULL;
    if (!is_edge || (entry != NULL && entry->lookup != NULL)) {
        return world_fd_is_ready(w, slot->told.fd, slot->told.readable, slot->told.writable);
    }
    return slot->is_registered && slot->reg_fd >= 0 &&
           slot->seen_edges != world_fd_edges(w, slot->reg_fd);
}

static void world_slot_step(world *w, world_looping *loop, world_slot *slot)
{
    sdc_task *task = slot->task;
    slot->is_woken = false;
    if (slot->is_registered) {
        slot->seen_edges = world_fd_edges(w, slot->reg_fd);
    }
    world_trace(w, "step task %zu", slot->index);
    sdc_err result = sdc_step(task, 0);
    world_trace(w, "step task %zu: %s", slot->index, test_err_name(result));
    if (result == SDC_GONE) {
        slot->task = NULL;
        if (slot->index < SIZE_MAX) {
            loop->tasks[slot->index] = NULL;
        }
    }
    slot->is_done = result == SDC_STOPPED;
    if (slot->task != NULL) {
        world_slot_look(w, slot);
    }
    if (result != SDC_AGAIN && loop->desc->stops_at_result) {
        loop->stops = true;
    }
    if (loop->desc->on_result != NULL) {
        loop->desc->on_result(loop->desc->user, task, result);
    }
}

static void world_slot_add(world *w, world_looping *loop, sdc_task *task, size_t index)
{
    world_slot *slot = (world_slot *)world_alloc(sizeof *slot);
    slot->task = task;
    slot->index = index;
    slot->reg_fd = -1;
    slot->told.fd = -1;
    loop->slots = (world_slot **)world_grow(loop->slots, (loop->num_slots + 1) * sizeof slot);
    loop->slots[loop->num_slots++] = slot;
    sdc_task_on_wants(task, world_on_wants, slot);
    sdc_task_on_wake(task, world_on_wake, slot);
    world_slot_look(w, slot);
}

void world_loop_add(world *w, sdc_task *task)
{
    if (w->loop != NULL) {
        world_slot_add(w, w->loop, task, SIZE_MAX);
    }
}

void world_loop_forget(world *w, const sdc_task *task)
{
    for (world_looping *loop = w->loop; loop != NULL; loop = loop->outer) {
        for (size_t i = 0; i < loop->num_slots; i++) {
            world_slot *slot = loop->slots[i];
            if (slot->task == task) {
                sdc_task_on_wants(slot->task, NULL, NULL);
                sdc_task_on_wake(slot->task, NULL, NULL);
                slot->task = NULL;
                if (slot->index < SIZE_MAX) {
                    loop->tasks[slot->index] = NULL;
                }
            }
        }
    }
}

void world_loop_stop(world *w)
{
    if (w->loop != NULL) {
        w->loop->stops = true;
    }
}

/* One round over all tasks; answers the number of steps. */
static size_t world_loop_round(world *w, world_looping *loop)
{
    size_t steps = 0;
    for (size_t i = 0; i < loop->num_slots && !loop->stops; i++) {
        if (world_slot_is_due(w, loop->slots[i], loop->desc->is_edge)) {
            world_spin(w);
            world_slot_step(w, loop, loop->slots[i]);
            steps++;
        }
    }
    return steps;
}

static bool world_loop_has_tasks(const world_looping *loop)
{
    for (size_t i = 0; i < loop->num_slots; i++) {
        if (loop->slots[i]->task != NULL && !loop->slots[i]->is_done) {
            return true;
        }
    }
    return false;
}

static uint64_t world_loop_next(world *w, const world_looping *loop)
{
    uint64_t next_ms = world_next(w);
    for (size_t i = 0; i < loop->num_slots; i++) {
        const world_slot *slot = loop->slots[i];
        if (slot->task != NULL && !slot->is_done && slot->told.deadline_ms < next_ms) {
            next_ms = slot->told.deadline_ms;
        }
    }
    return next_ms;
}

static void world_loop_end(world *w, world_looping *loop)
{
    for (size_t i = 0; i < loop->num_slots; i++) {
        if (loop->slots[i]->task != NULL) {
            sdc_task_on_wants(loop->slots[i]->task, NULL, NULL);
            sdc_task_on_wake(loop->slots[i]->task, NULL, NULL);
        }
        free(loop->slots[i]);
    }
    free(loop->slots);
    w->loop = loop->outer;
}

size_t world_loop_with(world *w, sdc_task **tasks, size_t num_tasks, uint64_t until_ms,
                       const world_loop_desc *desc)
{
    world_looping loop;
    memset(&loop, 0, sizeof loop);
    loop.outer = w->loop;
    loop.desc = desc;
    loop.tasks = tasks;
    w->loop = &loop;
    for (size_t i = 0; i < num_tasks; i++) {
        if (tasks[i] != NULL) {
            world_slot_add(w, &loop, tasks[i], i);
        }
    }
    size_t steps = 0;
    for (;;) {
        world_do_due(w);
        size_t now_steps = loop.stops ? 0 : world_loop_round(w, &loop);
        steps += now_steps;
        if (loop.stops || w->now_ms > until_ms || !world_loop_has_tasks(&loop)) {
            break;
        }
        if (now_steps > 0 || world_next(w) <= w->now_ms) {
            continue;
        }
        uint64_t next_ms = world_loop_next(w, &loop);
        if (next_ms > until_ms) {
            world_set_now(w, until_ms);
            break;
        }
        world_set_now(w, next_ms);
    }
    world_loop_end(w, &loop);
    return steps;
}

size_t world_loop(world *w, sdc_task **tasks, size_t num_tasks, uint64_t until_ms)
{
    world_loop_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.is_edge = w->desc.drive == WORLD_DRIVE_EDGE;
    return world_loop_with(w, tasks, num_tasks, until_ms, &desc);
}

/* ---- running one task ------------------------------------------------------------------------ */

static void world_keep_result(void *user, sdc_task *task, sdc_err result)
{
    (void)task;
    if (result != SDC_AGAIN) {
        *(sdc_err *)user = result;
    }
}

static sdc_err world_run_loop(world *w, sdc_task *task, uint64_t end_ms, bool is_one)
{
    sdc_err last = SDC_AGAIN;
    world_loop_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.is_edge = w->desc.drive == WORLD_DRIVE_EDGE;
    desc.stops_at_result = is_one;
    desc.on_result = world_keep_result;
    desc.user = &last;
    world_loop_with(w, &task, 1, end_ms, &desc);
    return last;
}

static sdc_err world_run_until(world *w, sdc_task *task, uint64_t ms, bool is_one)
{
    uint64_t end_ms = w->now_ms + ms;
    if (w->desc.drive == WORLD_DRIVE_LEVEL || w->desc.drive == WORLD_DRIVE_EDGE) {
        return world_run_loop(w, task, end_ms, is_one);
    }
    sdc_err last = SDC_AGAIN;
    world_do_due(w);
    do {
        uint64_t left = end_ms - w->now_ms;
        sdc_err result = sdc_step(task, left > INT_MAX ? INT_MAX : (int)left);
        world_trace(w, "step: %s", test_err_name(result));
        world_spin(w);
        world_keep_result(&last, task, result);
        if (result == SDC_STOPPED || result == SDC_GONE || (is_one && result != SDC_AGAIN)) {
            return last;
        }
    } while (w->now_ms < end_ms);
    return last;
}

sdc_err world_run(world *w, sdc_task *task, uint64_t ms)
{
    return world_run_until(w, task, ms, false);
}

sdc_err world_run_exchange(world *w, sdc_task *task, uint64_t ms)
{
    return world_run_until(w, task, ms, true);
}

/* ---- the world itself ------------------------------------------------------------------------ */

static size_t world_env(const char *name)
{
    const char *text = getenv(name);
    return text != NULL ? (size_t)strtoul(text, NULL, 10) : 0;
}

static world_drive world_env_drive(void)
{
    const char *text = getenv("WORLD_DRIVE");
    if (text != NULL && strcmp(text, "level") == 0) {
        return WORLD_DRIVE_LEVEL;
    }
    if (text != NULL && strcmp(text, "edge") == 0) {
        return WORLD_DRIVE_EDGE;
    }
    return WORLD_DRIVE_BLOCK;
}

void world_set(world *w, const world_desc *desc)
{
    world_desc old = w->desc;
    w->desc = *desc;
    w->desc.seed = old.seed;
    w->desc.can_tls = old.can_tls;
    w->desc.drive = old.drive;
    if (w->desc.read_max == 0) {
        w->desc.read_max = world_env("WORLD_READ_MAX");
    }
    if (w->desc.write_max == 0) {
        w->desc.write_max = world_env("WORLD_WRITE_MAX");
    }
    if (w->desc.again_every == 0) {
        w->desc.again_every = (uint32_t)world_env("WORLD_AGAIN_EVERY");
    }
}

static void world_make_io(world *w)
{
    w->io.user = w;
    w->io.can_tls = w->desc.can_tls;
    w->io.now_ms = world_io_now;
    w->io.random = world_io_random;
    w->io.resolve = world_resolve;
    w->io.resolve_end = world_resolve_end;
    w->io.stream_open = world_stream_open;
    w->io.stream_read = world_stream_read;
    w->io.stream_write = world_stream_write;
    w->io.stream_close = world_stream_close;
    w->io.waker_create = world_waker_create;
    w->io.waker_wake = world_waker_wake;
    w->io.waker_destroy = world_waker_destroy;
    w->io.wait = world_wait;
    w->io.read_file = world_read_file;
}

world *world_create(const world_desc *desc)
{
    world *w = (world *)world_alloc(sizeof *w);
    world_desc zero;
    memset(&zero, 0, sizeof zero);
    const world_desc *given = desc != NULL ? desc : &zero;
    w->desc.seed = given->seed != 0 ? given->seed : 1;
    w->desc.can_tls = given->can_tls;
    w->desc.drive = given->drive != WORLD_DRIVE_DEFAULT ? given->drive : world_env_drive();
    world_set(w, given);
    w->now_ms = WORLD_START_MS;
    w->library_random = w->desc.seed;
    w->server_random = ~w->desc.seed;
    w->last_wait.fd = -1;
    w->is_traced = getenv("WORLD_TRACE") != NULL;
    world_make_io(w);
    return w;
}

static void world_check_end(world *w)
{
    if (w->stats.open_now != 0) {
        world_breach(w, "%zu streams were never closed", w->stats.open_now);
    }
    if (w->stats.wakers_now != 0) {
        world_breach(w, "%zu wakers were never destroyed", w->stats.wakers_now);
    }
    if (w->stats.resolves_now != 0) {
        world_breach(w, "%zu resolves were never ended", w->stats.resolves_now);
    }
}

static void world_free_conns(world *w)
{
    for (size_t i = 0; i < w->num_conns; i++) {
        world_conn *c = w->conns[i];
        free(c->host);
        free(c->ip);
        free(c->path);
        free(c->in.bytes);
        free(c->out.bytes);
        free(c->sent.bytes);
        free(c->again_bytes);
        free(c);
    }
    free(w->conns);
}

static void world_free_tables(world *w)
{
    for (size_t i = 0; i < w->num_places; i++) {
        free(w->places[i]->ip);
        free(w->places[i]);
    }
    for (size_t i = 0; i < w->num_names; i++) {
        free(w->names[i].name);
        free(w->names[i].ips);
        free(w->names[i].message);
    }
    for (size_t i = 0; i < w->num_files; i++) {
        free(w->files[i].path);
        free(w->files[i].bytes);
    }
    for (size_t i = 0; i < w->num_events; i++) {
        free(w->events[i].bytes);
    }
    free(w->places);
    free(w->names);
    free(w->files);
    free(w->events);
}

void world_destroy(world *w)
{
    if (w == NULL) {
        return;
    }
    world_check_end(w);
    while (w->owned != NULL) {
        world_owned *owned = w->owned;
        w->owned = owned->next;
        owned->fn(owned->user);
        free(owned);
    }
    while (w->looks != NULL) {
        world_owned *look = w->looks;
        w->looks = look->next;
        free(look);
    }
    while (w->lookups != NULL) {
        world_resolve_end(w, w->lookups);
    }
    while (w->wakers != NULL) {
        world_waker_destroy(w, w->wakers);
    }
    world_free_conns(w);
    world_free_tables(w);
    free(w->fds);
    free(w->log.bytes);
    free(w);
}

static void world_chain(world_owned **first, world_fn fn, void *user)
{
    world_owned *owned = (world_owned *)world_alloc(sizeof *owned);
    owned->fn = fn;
    owned->user = user;
    owned->next = *first;
    *first = owned;
}

void world_on_destroy(world *w, world_fn fn, void *user)
{
    world_chain(&w->owned, fn, user);
}

void world_on_look(world *w, world_fn fn, void *user)
{
    world_chain(&w->looks, fn, user);
}

const sdc_io *world_io(world *w)
{
    return &w->io;
}

const world_stats *world_seen(const world *w)
{
    return &w->stats;
}

sdc_client_desc world_client_desc(world *w, const char *address)
{
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = address;
    desc.ignore_environment = true;
    desc.io = &w->io;
    return desc;
}

sdc_client *world_client(world *w, const char *address)
{
    sdc_client_desc desc = world_client_desc(w, address);
    sdc_logger logger = world_logger(w);
    desc.logger = &logger;
    sdc_client *client = NULL;
    sdc_error error;
    memset(&error, 0, sizeof error);
    if (sdc_client_create(&desc, &client, &error) != SDC_OK) {
        test_fail(__FILE__, __LINE__, "client for %s: %s", address, error.message);
    }
    return client;
}
