/* The adapter behind world_agent.h: bytes and time in, bytes out. */
#include "world_agent.h"

#include <stdlib.h>
#include <string.h>

typedef struct world_agent_conn {
    struct world_agent_conn *next;
    world_conn *conn;
    agent_conn *peer;               /* NULL: closed, by either side                           */
} world_agent_conn;

typedef struct world_agent {
    world            *w;
    agent            *a;
    world_agent_conn *conns;
    uint64_t          timer, timer_ms;
} world_agent;

static void world_agent_on_timer(void *user);

/* Gives what the agent has to say to each connection, and sets the clock for its next timer. */
static void world_agent_pump(void *user)
{
    world_agent *wa = (world_agent *)user;
    for (world_agent_conn **at = &wa->conns; *at != NULL;) {
        world_agent_conn *wc = *at;
        const char *bytes = NULL;
        size_t len = wc->peer != NULL ? agent_conn_peek(wc->peer, &bytes) : 0;
        if (len > 0) {
            world_conn_send(wc->conn, bytes, len);
            agent_conn_ack(wc->peer, len);
        }
        if (wc->peer != NULL && agent_conn_wants_close(wc->peer)) {
            world_conn_close(wc->conn);
            agent_conn_close(wc->peer);
            wc->peer = NULL;
        }
        if (wc->peer == NULL) {
            *at = wc->next;
            world_conn_set_user(wc->conn, NULL);
            free(wc);
        } else {
            at = &wc->next;
        }
    }
    uint64_t next_ms = agent_next_ms(wa->a);
    if (next_ms != wa->timer_ms) {
        world_cancel(wa->w, wa->timer);
        wa->timer_ms = next_ms;
        wa->timer = next_ms != UINT64_MAX
                        ? world_at(wa->w, next_ms, world_agent_on_timer, wa) : 0;
    }
}

static void world_agent_on_timer(void *user)
{
    world_agent *wa = (world_agent *)user;
    wa->timer = 0;
    wa->timer_ms = UINT64_MAX;
    agent_advance(wa->a, world_now(wa->w));
    world_agent_pump(wa);
}

static void world_agent_on_accept(void *user, world_conn *conn)
{
    world_agent *wa = (world_agent *)user;
    world_agent_conn *wc = (world_agent_conn *)calloc(1, sizeof *wc);
    if (wc == NULL) {
        abort();
    }
    wc->conn = conn;
    wc->next = wa->conns;
    wa->conns = wc;
    world_conn_set_user(conn, wc);
    agent_advance(wa->a, world_now(wa->w));
    wc->peer = agent_accept(wa->a);
    world_agent_pump(wa);
}

static void world_agent_on_bytes(void *user, world_conn *conn, const char *bytes, size_t len)
{
    world_agent *wa = (world_agent *)user;
    world_agent_conn *wc = (world_agent_conn *)world_conn_user(conn);
    if (wc != NULL) {
        agent_conn_feed(wc->peer, bytes, len, world_now(wa->w));
        world_agent_pump(wa);
    }
}

static void world_agent_on_close(void *user, world_conn *conn)
{
    world_agent *wa = (world_agent *)user;
    world_agent_conn *wc = (world_agent_conn *)world_conn_user(conn);
    if (wc != NULL) {
        agent_conn_close(wc->peer);
        wc->peer = NULL;
        world_agent_pump(wa);
    }
}

static void world_agent_free(void *user)
{
    world_agent *wa = (world_agent *)user;
    while (wa->conns != NULL) {
        world_agent_conn *wc = wa->conns;
        wa->conns = wc->next;
        free(wc);
    }
    free(wa);
}

void world_listen_agent(world *w, const char *ip, uint16_t port, agent *a)
{
    world_agent *wa = (world_agent *)calloc(1, sizeof *wa);
    if (wa == NULL) {
        abort();
    }
    wa->w = w;
    wa->a = a;
    wa->timer_ms = UINT64_MAX;
    world_server server;
    memset(&server, 0, sizeof server);
    server.user = wa;
    server.on_accept = world_agent_on_accept;
    server.on_bytes = world_agent_on_bytes;
    server.on_close = world_agent_on_close;
    world_listen(w, ip, port, &server);
    world_on_look(w, world_agent_pump, wa);
    world_on_destroy(w, world_agent_free, wa);
    world_agent_pump(wa);
}
