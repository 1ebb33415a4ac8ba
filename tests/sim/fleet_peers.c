/* The rules of two other clients, as their sources have them.

   go-kit 0.13, sd/consul/instancer.go: a pause of 10 ms after the first failure, then twice the
   last one times 0.5 to 1.5, 60 s at most; a failure keeps the index; an index that went
   backwards is a failure of which the answer is thrown away.

   The official client's watch, api/watch/plan.go: 5 s times n squared after the nth failure in a
   row, 180 s at most, no jitter; a failure drops the index.

   Both send no wait, which means five minutes, have no deadline for an answer and no limit for
   their rate. Go's transport repeats a request at once, on a new connection, when a connection
   that was used before ends without an answer. */
#include "fleet_model.h"

#include <stdlib.h>

enum {
    PEER_WAIT_US = 300000000, PEER_GOKIT_FIRST_US = 10000, PEER_GOKIT_MOST_US = 60000000,
    PEER_OFFICIAL_STEP_US = 5000000, PEER_OFFICIAL_MOST_US = 180000000
};

typedef struct peer {
    uint64_t index;
    uint64_t pause_us;              /* go-kit's next one                                      */
    uint32_t num_failures;          /* the official watch's                                   */
    bool     is_reused;             /* the connection carried an answer                       */
} peer;

static peer *peer_of(fleet *f, uint32_t watch)
{
    return &((peer *)f->rule)[watch];
}

static bool peer_begin(fleet *f)
{
    f->rule = calloc(f->num_watches, sizeof(peer));
    for (uint32_t i = 0; f->rule != NULL && i < f->num_watches; i++) {
        peer_of(f, i)->pause_us = PEER_GOKIT_FIRST_US;
    }
    return f->rule != NULL;
}

static void peer_end(fleet *f)
{
    free(f->rule);
}

static size_t peer_bytes(const fleet *f)
{
    (void)f;
    return 0;
}

/* False: refused. */
static bool peer_ask(fleet *f, uint32_t watch)
{
    if (!fleet_connect(f, watch)) {
        peer_of(f, watch)->is_reused = false;
        return false;
    }
    fleet_request(f, watch, peer_of(f, watch)->index, PEER_WAIT_US);
    return true;
}

/* ---- go-kit ---------------------------------------------------------------------------------- */

static void gokit_pause(fleet *f, uint32_t watch)
{
    peer *p = peer_of(f, watch);
    uint64_t twice_us = 2 * p->pause_us;

    fleet_timer(f, watch, f->now_us + p->pause_us);
    p->pause_us = twice_us / 2 + fleet_random(f) % twice_us;
    if (p->pause_us > PEER_GOKIT_MOST_US) {
        p->pause_us = PEER_GOKIT_MOST_US;
    }
}

static void gokit_on_timer(fleet *f, uint32_t watch)
{
    if (!peer_ask(f, watch)) {
        gokit_pause(f, watch);
    }
}

static void gokit_on_closed(fleet *f, uint32_t watch, bool was_asking)
{
    if (was_asking && (!peer_of(f, watch)->is_reused || !peer_ask(f, watch))) {
        gokit_pause(f, watch);
    }
}

static void gokit_on_answer(fleet *f, uint32_t watch, const fleet_answer *answer)
{
    peer *p = peer_of(f, watch);

    p->is_reused = true;
    if (answer->status != 200) {
        gokit_pause(f, watch);
    } else if (answer->index < p->index) {
        p->index = 0;
        gokit_pause(f, watch);
    } else {
        p->index = answer->index;
        p->pause_us = PEER_GOKIT_FIRST_US;
        fleet_published(f, watch, answer->epoch);
        (void)peer_ask(f, watch);
    }
}

const fleet_ops fleet_ops_gokit = {
    peer_begin, gokit_on_answer, gokit_on_closed, gokit_on_timer, peer_bytes, peer_end
};

/* ---- the official watch ---------------------------------------------------------------------- */

static void official_failed(fleet *f, uint32_t watch)
{
    peer *p = peer_of(f, watch);
    uint64_t n = ++p->num_failures;
    uint64_t pause_us = PEER_OFFICIAL_STEP_US * n * n;

    p->index = 0;
    fleet_timer(f, watch, f->now_us + (pause_us < PEER_OFFICIAL_MOST_US ? pause_us
                                                                         : PEER_OFFICIAL_MOST_US));
}

static void official_on_timer(fleet *f, uint32_t watch)
{
    if (!peer_ask(f, watch)) {
        official_failed(f, watch);
    }
}

static void official_on_closed(fleet *f, uint32_t watch, bool was_asking)
{
    if (was_asking && (!peer_of(f, watch)->is_reused || !peer_ask(f, watch))) {
        official_failed(f, watch);
    }
}

static void official_on_answer(fleet *f, uint32_t watch, const fleet_answer *answer)
{
    peer *p = peer_of(f, watch);

    p->is_reused = true;
    if (answer->status != 200) {
        official_failed(f, watch);
        return;
    }
    p->num_failures = 0;
    p->index = answer->index;
    fleet_published(f, watch, answer->epoch);
    (void)peer_ask(f, watch);
}

const fleet_ops fleet_ops_official = {
    peer_begin, official_on_answer, official_on_closed, official_on_timer, peer_bytes, peer_end
};
