/* Threads: what any thread may call, called by several while others step, on real sockets and the
   embedded agent. `make tsan` runs this under ThreadSanitizer, which is what it is for; without it
   the tests prove that nothing is lost, nothing hangs and no lock is held in a callback.

   THREADS_MS in the environment says how long the longest of these goes on (200). */
#include "../sdconsul.h"

#include "agent/server.h"
#include "support/test.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS_SOON_MS = 20000, THREADS_CALLERS = 3, THREADS_WATCHES = 6 };

/* ---- time, threads --------------------------------------------------------------------------- */

static void threads_pause(uint32_t us)
{
    struct timespec t;
    t.tv_sec = us / 1000000;
    t.tv_nsec = (long)(us % 1000000) * 1000;
    nanosleep(&t, NULL);
}

static uint64_t threads_ms(void)
{
    const char *text = getenv("THREADS_MS");
    return text != NULL ? strtoull(text, NULL, 10) : 200;
}

static uint32_t threads_get(uint32_t *value)
{
    return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}

static void threads_set(uint32_t *value, uint32_t to)
{
    __atomic_store_n(value, to, __ATOMIC_SEQ_CST);
}

static void threads_add(uint32_t *value)
{
    (void)__atomic_add_fetch(value, 1, __ATOMIC_SEQ_CST);
}

static pthread_t threads_start(void *(*run)(void *user), void *user)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, user) != 0) {
        abort();
    }
    return thread;
}

/* Waits until *value is at least `want`. False: that took too long. */
static bool threads_await(uint32_t *value, uint32_t want)
{
    uint64_t from_ms = agent_server_now();
    while (threads_get(value) < want) {
        if (agent_server_now() - from_ms > THREADS_SOON_MS) {
            return false;
        }
        threads_pause(50);
    }
    return true;
}

/* ---- an agent, a client, a watch and a registrar --------------------------------------------- */

typedef struct threads_bed {
    agent         *a;
    agent_server  *server;
    sdc_client    *client;
    sdc_instancer *watch;
    sdc_registrar *registrar;
    uint32_t       is_over;         /* atomic                                                */
    uint32_t       rounds;          /* atomic: of all that threads_call_all calls            */
    uint32_t       events;          /* atomic: of subscribers                                */
} threads_bed;

static sdc_instancer *threads_watch(threads_bed *bed)
{
    sdc_instancer *watch = NULL;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "web";
    desc.query.wait_ms = 20;
    CHECK_ERR(sdc_instancer_create(bed->client, &desc, &watch, NULL), SDC_OK);
    return watch;
}

static bool threads_begin(threads_bed *bed)
{
    agent_desc is;
    uint16_t port = 0;
    char address[40];
    sdc_client_desc at;
    sdc_check check;
    sdc_registrar_desc desc;
    memset(bed, 0, sizeof *bed);
    memset(&is, 0, sizeof is);
    memset(&at, 0, sizeof at);
    memset(&check, 0, sizeof check);
    memset(&desc, 0, sizeof desc);
    is.profile = AGENT_1_22;
    bed->a = agent_create(&is, agent_server_now());
    bed->server = agent_server_start(bed->a, NULL, &port);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    at.address = address;
    at.ignore_environment = true;
    check.ttl_ms = 300;
    desc.registration.id = "web-1";
    desc.registration.name = "web";
    desc.registration.address = "10.9.0.1";
    desc.registration.port = 80;
    desc.registration.checks = &check;
    desc.registration.num_checks = 1;
    bool ok = CHECK(bed->server != NULL) &&
              CHECK_ERR(sdc_client_create(&at, &bed->client, NULL), SDC_OK) &&
              CHECK_ERR(sdc_registrar_create(bed->client, &desc, &bed->registrar, NULL), SDC_OK);
    bed->watch = ok ? threads_watch(bed) : NULL;
    return ok && bed->watch != NULL;
}

static void threads_end(threads_bed *bed)
{
    sdc_instancer_destroy(bed->watch);
    sdc_registrar_destroy(bed->registrar);
    sdc_client_destroy(bed->client);
    if (bed->server != NULL) {
        agent_server_stop(bed->server);
    }
    agent_destroy(bed->a);
}

/* ---- what any thread may call ---------------------------------------------------------------- */

static size_t threads_read_event(const sdc_event *event)
{
    size_t sum = event->num_instances + strlen(event->message);
    for (size_t i = 0; i < event->num_instances; i++) {
        sum += strlen(event->instances[i].addr) + event->instances[i].num_tags;
    }
    return sum;
}

/* The registration of threads_begin, with other tags. */
static void threads_update(threads_bed *bed, uint32_t round)
{
    static const char *const tags[] = { "a", "b", "c" };
    sdc_check check;
    sdc_registration registration;
    memset(&check, 0, sizeof check);
    memset(&registration, 0, sizeof registration);
    check.ttl_ms = 300;
    registration.id = "web-1";
    registration.name = "web";
    registration.address = "10.9.0.1";
    registration.port = 80;
    registration.checks = &check;
    registration.num_checks = 1;
    registration.tags = tags;
    registration.num_tags = 1 + round % 3;
    CHECK_ERR(sdc_registrar_update(bed->registrar, &registration, NULL), SDC_OK);
}

/* Each of them once, but for sdc_stop. */
static void threads_call_all(threads_bed *bed, uint32_t round)
{
    static const sdc_status statuses[] = { SDC_STATUS_PASSING, SDC_STATUS_WARNING,
                                           SDC_STATUS_CRITICAL };
    sdc_stats stats;
    sdc_error error;
    sdc_task *tasks[] = { sdc_instancer_task(bed->watch), sdc_registrar_task(bed->registrar) };
    for (size_t i = 0; i < 2; i++) {
        sdc_wake(tasks[i]);
        sdc_task_stats(tasks[i], &stats);
        sdc_task_error(tasks[i], &error);
        CHECK(memchr(error.message, '\0', sizeof error.message) != NULL);
    }
    CHECK_ERR(sdc_client_set_token(bed->client, round % 2 == 0 ? "even" : "odd-and-longer"),
              SDC_OK);
    CHECK_ERR(sdc_registrar_set_status(bed->registrar, NULL, statuses[round % 3], "round"),
              SDC_OK);
    CHECK_ERR(sdc_registrar_set_maintenance(bed->registrar, round % 8 == 7, "why"), SDC_OK);
    if (round % 16 == 0) {
        threads_update(bed, round / 16);
    }
    (void)sdc_registrar_is_registered(bed->registrar);
    (void)sdc_client_now_ms(bed->client);
    const sdc_event *event = sdc_instancer_state(bed->watch);
    const sdc_event *again = sdc_cache_state(sdc_instancer_cache(bed->watch));
    sdc_event_release(sdc_event_retain(event));
    CHECK(threads_read_event(event) + threads_read_event(again) < 100000);
    sdc_event_release(again);
    sdc_event_release(event);
}

static void *threads_run_caller(void *user)
{
    threads_bed *bed = (threads_bed *)user;
    const sdc_event *held = NULL;
    for (uint32_t round = 0; threads_get(&bed->is_over) == 0; round++) {
        threads_call_all(bed, round);
        if (round % 16 == 0) {              /* some live longer than what they were made from */
            sdc_event_release(held);
            held = sdc_instancer_state(bed->watch);
        }
        threads_add(&bed->rounds);
        threads_pause(100);
    }
    sdc_event_release(held);
    return NULL;
}

/* The blocking calls, from a thread of their own: they make the changes that the watch sees. */
static void *threads_run_one_shots(void *user)
{
    threads_bed *bed = (threads_bed *)user;
    for (uint32_t round = 0; threads_get(&bed->is_over) == 0; round++) {
        sdc_registration registration;
        sdc_query query;
        const sdc_event *event = NULL;
        sdc_error error;
        memset(&registration, 0, sizeof registration);
        memset(&query, 0, sizeof query);
        registration.id = "web-2";
        registration.name = "web";
        registration.address = "10.9.0.2";
        registration.port = (uint16_t)(1 + round % 1000);
        query.service = "web";
        CHECK_ERR(sdc_client_register(bed->client, &registration, &error), SDC_OK);
        CHECK_ERR(sdc_client_service(bed->client, &query, &event, &error), SDC_OK);
        sdc_event_release(event);
        CHECK_ERR(sdc_client_deregister(bed->client, "web-2", &error), SDC_OK);
        threads_pause(500);
    }
    return NULL;
}

static void *threads_run_registrar(void *user)
{
    threads_bed *bed = (threads_bed *)user;
    sdc_task *task = sdc_registrar_task(bed->registrar);
    uint64_t from_ms = agent_server_now();
    sdc_err err = SDC_OK;
    for (int i = 0; err != SDC_STOPPED && agent_server_now() - from_ms < 2 * THREADS_SOON_MS; i++) {
        err = sdc_step(task, i % 7 - 1);
    }
    CHECK_ERR(err, SDC_STOPPED);
    return NULL;
}

static void threads_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    threads_bed *bed = (threads_bed *)user;
    CHECK(change->num_added <= event->num_instances);
    CHECK(threads_read_event(event) < 100000);
    threads_add(&bed->events);
}

static void test_92_what_any_thread_may_call_while_others_step(void)
{
    threads_bed bed;
    pthread_t callers[THREADS_CALLERS];
    REQUIRE(threads_begin(&bed));
    CHECK_ERR(sdc_instancer_subscribe(bed.watch, threads_on_event, &bed), SDC_OK);
    sdc_task *task = sdc_instancer_task(bed.watch);
    pthread_t registrar = threads_start(threads_run_registrar, &bed);
    pthread_t one_shots = threads_start(threads_run_one_shots, &bed);
    for (size_t i = 0; i < THREADS_CALLERS; i++) {
        callers[i] = threads_start(threads_run_caller, &bed);
    }
    uint64_t from_ms = agent_server_now();
    uint64_t most_ms = threads_ms();
    for (int i = 0; agent_server_now() - from_ms < most_ms ||
                    (threads_get(&bed.events) < 3 &&
                     agent_server_now() - from_ms < THREADS_SOON_MS); i++) {
        sdc_err err = sdc_step(task, i % 7 - 1);
        CHECK(err == SDC_OK || err == SDC_AGAIN);
    }
    CHECK(threads_get(&bed.events) >= 3);
    CHECK(threads_get(&bed.rounds) >= THREADS_CALLERS);
    CHECK(sdc_registrar_is_registered(bed.registrar));
    sdc_stop(sdc_registrar_task(bed.registrar));
    pthread_join(registrar, NULL);
    threads_set(&bed.is_over, 1);
    for (size_t i = 0; i < THREADS_CALLERS; i++) {
        pthread_join(callers[i], NULL);
    }
    pthread_join(one_shots, NULL);
    agent_server_lock(bed.server);
    CHECK(!agent_has_service(bed.a, "web-1"));
    agent_server_unlock(bed.server);
    threads_end(&bed);
}

/* ---- callbacks ------------------------------------------------------------------------------- */

/* A hook of a step waits here until another thread has been through all that it may call. A lock
   that were held meanwhile would keep it from that. */
typedef struct threads_gate {
    threads_bed *bed;
    uint32_t     asked;             /* atomic: how often a hook has waited                   */
    uint32_t     answered;          /* atomic: rounds that were made for it                  */
    uint32_t     in_vain;           /* atomic: hooks that waited too long                    */
    uint32_t     is_open;           /* hooks wait no more: the thread that steps alone       */
} threads_gate;

static void threads_wait_here(threads_gate *gate)
{
    if (gate->is_open == 0) {
        threads_add(&gate->asked);
        if (!threads_await(&gate->answered, threads_get(&gate->asked))) {
            threads_add(&gate->in_vain);
        }
    }
}

static void *threads_run_gate(void *user)
{
    threads_gate *gate = (threads_gate *)user;
    uint32_t done = 0;
    while (threads_get(&gate->bed->is_over) == 0) {
        if (threads_get(&gate->asked) > done) {
            threads_call_all(gate->bed, done);
            done++;
            threads_set(&gate->answered, done);
        }
        threads_pause(50);
    }
    return NULL;
}

static void threads_gate_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    (void)event;
    (void)change;
    threads_wait_here((threads_gate *)user);
}

static void threads_gate_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    (void)task;
    (void)wants;
    threads_wait_here((threads_gate *)user);
}

/* go-kit hands an event to each subscriber under the lock of its cache: one that does not take it
   stalls the loop, and whoever wants to unsubscribe. */
static void test_92_hook_that_waits_stalls_no_other_thread(void)
{
    threads_bed bed;
    threads_gate gate;
    REQUIRE(threads_begin(&bed));
    memset(&gate, 0, sizeof gate);
    gate.bed = &bed;
    sdc_task *task = sdc_instancer_task(bed.watch);
    pthread_t thread = threads_start(threads_run_gate, &gate);
    sdc_task_on_wants(task, threads_gate_on_wants, &gate);
    CHECK_ERR(sdc_instancer_subscribe(bed.watch, threads_gate_on_event, &gate), SDC_OK);
    sdc_task_on_wants(sdc_registrar_task(bed.registrar), threads_gate_on_wants, &gate);
    for (int i = 0; i < 40 && threads_get(&gate.in_vain) == 0; i++) {
        (void)sdc_step(sdc_registrar_task(bed.registrar), 5);
        (void)sdc_step(task, 5);
    }
    CHECK_INT(threads_get(&gate.in_vain), 0);
    CHECK(threads_get(&gate.answered) >= 5);
    gate.is_open = 1;
    threads_set(&bed.is_over, 1);
    pthread_join(thread, NULL);
    threads_end(&bed);
}

/* What a callback does to the library while other threads look at it. */
typedef struct threads_actor {
    threads_bed   *bed;
    sdc_instancer *other;           /* made in one call, destroyed in the next               */
    uint32_t       calls;
} threads_actor;

static void threads_act(void *user, const sdc_event *event, const sdc_change *change)
{
    threads_actor *actor = (threads_actor *)user;
    threads_bed *bed = actor->bed;
    (void)event;
    (void)change;
    threads_call_all(bed, actor->calls);
    sdc_instancer_unsubscribe(bed->watch, threads_on_event, bed);
    CHECK_ERR(sdc_instancer_subscribe(bed->watch, threads_on_event, bed), SDC_OK);
    if (actor->other == NULL) {
        actor->other = threads_watch(bed);
        CHECK_ERR(sdc_instancer_subscribe(actor->other, threads_on_event, bed), SDC_OK);
        (void)sdc_step(sdc_instancer_task(actor->other), 0);
    } else {
        sdc_stop(sdc_instancer_task(actor->other));
        sdc_instancer_destroy(actor->other);
        actor->other = NULL;
    }
    actor->calls++;
}

static void test_92_callbacks_call_anything_while_others_look(void)
{
    threads_bed bed;
    threads_actor actor;
    pthread_t callers[THREADS_CALLERS];
    REQUIRE(threads_begin(&bed));
    memset(&actor, 0, sizeof actor);
    actor.bed = &bed;
    CHECK_ERR(sdc_instancer_subscribe(bed.watch, threads_act, &actor), SDC_OK);
    pthread_t one_shots = threads_start(threads_run_one_shots, &bed);
    for (size_t i = 0; i < THREADS_CALLERS; i++) {
        callers[i] = threads_start(threads_run_caller, &bed);
    }
    uint64_t from_ms = agent_server_now();
    while (actor.calls < 3 && agent_server_now() - from_ms < THREADS_SOON_MS) {
        sdc_err err = sdc_step(sdc_instancer_task(bed.watch), 20);
        CHECK(err == SDC_OK || err == SDC_AGAIN);
    }
    CHECK(actor.calls >= 3);
    threads_set(&bed.is_over, 1);
    pthread_join(one_shots, NULL);
    for (size_t i = 0; i < THREADS_CALLERS; i++) {
        pthread_join(callers[i], NULL);
    }
    sdc_instancer_destroy(actor.other);
    threads_end(&bed);
}

/* ---- stopping -------------------------------------------------------------------------------- */

typedef struct threads_stopper {
    sdc_task *task;
    uint32_t  after_us;
} threads_stopper;

static void *threads_run_stopper(void *user)
{
    const threads_stopper *stopper = (const threads_stopper *)user;
    threads_pause(stopper->after_us);
    sdc_wake(stopper->task);
    sdc_stop(stopper->task);
    sdc_stop(stopper->task);
    return NULL;
}

/* At any moment of a step: before it blocks, while it does, when it ends by itself. */
static void test_92_stop_from_another_thread_at_any_time(void)
{
    threads_bed bed;
    REQUIRE(threads_begin(&bed));
    for (uint32_t round = 0; round < 40; round++) {
        sdc_instancer *watch = threads_watch(&bed);
        threads_stopper stopper = { sdc_instancer_task(watch), round * 61 % 1000 };
        CHECK_ERR(sdc_instancer_subscribe(watch, threads_on_event, &bed), SDC_OK);
        pthread_t thread = threads_start(threads_run_stopper, &stopper);
        uint64_t from_ms = agent_server_now();
        sdc_err err = SDC_OK;
        while (err != SDC_STOPPED && agent_server_now() - from_ms < THREADS_SOON_MS) {
            err = sdc_step(stopper.task, -1);
        }
        CHECK_ERR(err, SDC_STOPPED);
        uint32_t events = threads_get(&bed.events);
        pthread_join(thread, NULL);
        CHECK_ERR(sdc_step(stopper.task, -1), SDC_STOPPED);
        CHECK_INT(threads_get(&bed.events), events);
        sdc_instancer_destroy(watch);
    }
    threads_end(&bed);
}

/* ---- one client, many tasks ------------------------------------------------------------------ */

typedef struct threads_worker {
    threads_bed *bed;
    pthread_t    thread;
    uint32_t     exchanges;         /* of the worker's own thread                            */
} threads_worker;

static void *threads_run_worker(void *user)
{
    threads_worker *worker = (threads_worker *)user;
    sdc_instancer *watch = threads_watch(worker->bed);
    uint64_t from_ms = agent_server_now();
    while ((threads_get(&worker->bed->is_over) == 0 || worker->exchanges < 3) &&
           agent_server_now() - from_ms < THREADS_SOON_MS) {
        sdc_err err = sdc_step(sdc_instancer_task(watch), 5);
        CHECK(err == SDC_OK || err == SDC_AGAIN);
        worker->exchanges += err == SDC_OK ? 1 : 0;
    }
    const sdc_event *event = sdc_instancer_state(watch);
    sdc_instancer_destroy(watch);
    CHECK(threads_read_event(event) < 100000);
    sdc_event_release(event);
    return NULL;
}

static void test_92_tasks_of_one_client_on_threads_of_their_own(void)
{
    threads_bed bed;
    threads_worker workers[THREADS_WATCHES];
    REQUIRE(threads_begin(&bed));
    pthread_t one_shots = threads_start(threads_run_one_shots, &bed);
    for (size_t i = 0; i < THREADS_WATCHES; i++) {
        memset(&workers[i], 0, sizeof workers[i]);
        workers[i].bed = &bed;
        workers[i].thread = threads_start(threads_run_worker, &workers[i]);
    }
    threads_pause((uint32_t)threads_ms() * 500);
    threads_set(&bed.is_over, 1);
    pthread_join(one_shots, NULL);
    for (size_t i = 0; i < THREADS_WATCHES; i++) {
        pthread_join(workers[i].thread, NULL);
        CHECK(workers[i].exchanges >= 3);
    }
    threads_end(&bed);
}

/* The last hold is let go of on another thread, when client and watch are gone. */
static void *threads_run_release(void *user)
{
    const sdc_event *event = (const sdc_event *)user;
    CHECK_INT(event->num_instances, 1);
    CHECK_STR(event->instances[0].addr, "10.9.0.1:80");
    sdc_event_release(event);
    return NULL;
}

static void test_92_events_are_released_by_any_thread(void)
{
    threads_bed bed;
    REQUIRE(threads_begin(&bed));
    CHECK_ERR(sdc_registrar_register(bed.registrar, NULL), SDC_OK);
    CHECK_ERR(sdc_instancer_wait(bed.watch, 1, THREADS_SOON_MS, NULL), SDC_OK);
    const sdc_event *event = sdc_instancer_state(bed.watch);
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) {
        threads[i] = threads_start(threads_run_release,
                                   (void *)(uintptr_t)sdc_event_retain(event));
    }
    sdc_event_release(event);
    threads_end(&bed);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
}

/* ---- endpoints and picks --------------------------------------------------------------------- */

enum { THREADS_PICKERS = 4, THREADS_HELD = 3, THREADS_SLOTS = 4, THREADS_ADDRS = 8 };
#define THREADS_ALIVE 0x616c697665u

/* What open makes. Its members are plain on purpose: ThreadSanitizer then proves that each use of
   it comes before its close. */
typedef struct threads_endpoint {
    uint64_t  canary;
    char      addr[24];
} threads_endpoint;

/* A pick on its way to another thread, which ends it. */
typedef struct threads_slot {
    uint32_t      state;            /* atomic: 0 free, 1 written to or read from, 2 full     */
    sdc_balancer *balancer;
    sdc_pick      pick;
} threads_slot;

typedef struct threads_calls {
    sdc_client     *client;
    sdc_cache      *cache;
    sdc_endpointer *endpointer;
    sdc_balancer   *balancer;
    uint64_t        random;         /* of the updating thread                                */
    bool            has_bad;        /* each eighth open fails                                */
    bool            has_failures;   /* some picks are ended as failed                        */
    uint32_t        opens, closes, asked;       /* atomic, and so are these                  */
    uint32_t        picks, dones, walks;
    uint32_t        is_over;
    threads_slot    slots[THREADS_SLOTS];
} threads_calls;

static sdc_err threads_open(void *user, const sdc_instance *instance, void **endpoint)
{
    threads_calls *c = (threads_calls *)user;
    threads_add(&c->asked);
    if (c->has_bad && threads_get(&c->asked) % 8 == 0) {
        return SDC_ERR_USER;
    }
    threads_endpoint *e = (threads_endpoint *)malloc(sizeof *e);
    if (e == NULL) {
        abort();
    }
    e->canary = THREADS_ALIVE;
    snprintf(e->addr, sizeof e->addr, "%s", instance->addr);
    threads_add(&c->opens);
    *endpoint = e;
    return SDC_OK;
}

static void threads_close(void *user, void *endpoint)
{
    threads_calls *c = (threads_calls *)user;
    threads_endpoint *e = (threads_endpoint *)endpoint;
    CHECK_U64(e->canary, THREADS_ALIVE);
    e->canary = 0;
    e->addr[0] = '\0';
    free(e);
    threads_add(&c->closes);
}

/* xorshift: the threads' own, so that none waits for another's. */
static uint32_t threads_draw(uint64_t *random, uint32_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 16) % below;
}

static bool threads_calls_begin_with(threads_calls *c, const sdc_balancer_desc *how,
                                     uint32_t invalidate_after_ms)
{
    sdc_client_desc at;
    sdc_endpointer_desc desc;
    memset(c, 0, sizeof *c);
    memset(&at, 0, sizeof at);
    memset(&desc, 0, sizeof desc);
    c->random = 88172645463325252u;
    c->has_bad = invalidate_after_ms != 0;
    at.ignore_environment = true;
    desc.open = threads_open;
    desc.close = threads_close;
    desc.user = c;
    desc.invalidate_after_ms = invalidate_after_ms;
    return CHECK_ERR(sdc_client_create(&at, &c->client, NULL), SDC_OK) &&
           CHECK_ERR(sdc_cache_create(NULL, &c->cache), SDC_OK) &&
           CHECK_ERR(sdc_endpointer_create(c->cache, &desc, c->client, &c->endpointer, NULL),
                     SDC_OK) &&
           CHECK_ERR(sdc_balancer_create(c->endpointer, how, &c->balancer, NULL), SDC_OK);
}

static bool threads_calls_begin(threads_calls *c, sdc_policy policy, uint32_t invalidate_after_ms)
{
    sdc_balancer_desc how;
    memset(&how, 0, sizeof how);
    how.policy = policy;
    return threads_calls_begin_with(c, &how, invalidate_after_ms);
}

static void threads_calls_end(threads_calls *c)
{
    sdc_endpointer_destroy(c->endpointer);
    sdc_balancer_destroy(c->balancer);
    sdc_cache_destroy(c->cache);
    sdc_client_destroy(c->client);
    CHECK(threads_get(&c->opens) > 0);
    CHECK_INT(threads_get(&c->closes), threads_get(&c->opens));
    CHECK_INT(threads_get(&c->dones), threads_get(&c->picks));
}

/* Some of the addrs, with other weights each time; some twice, under two IDs; now and then none. */
static void threads_change(threads_calls *c)
{
    sdc_instance list[2 * THREADS_ADDRS];
    char addrs[THREADS_ADDRS][24];
    size_t num = 0;
    bool is_empty = threads_draw(&c->random, 40) == 0;
    memset(list, 0, sizeof list);
    for (unsigned i = 0; i < THREADS_ADDRS && !is_empty; i++) {
        snprintf(addrs[i], sizeof addrs[i], "10.0.0.%u:80", i + 1);
        unsigned kind = threads_draw(&c->random, 6);
        for (unsigned n = 0; n < (kind < 3 ? 1u : kind == 3 ? 2u : 0u); n++) {
            list[num].addr = addrs[i];
            list[num].id = n == 0 ? "a" : "b";
            list[num].weight = threads_draw(&c->random, 4);
            list[num].zone = i < THREADS_ADDRS / 2 ? "here" : "there";
            num++;
        }
    }
    CHECK_ERR(sdc_cache_update(c->cache, list, num, 7, sdc_client_now_ms(c->client)), SDC_OK);
    if (threads_draw(&c->random, 8) == 0) {
        CHECK_ERR(sdc_cache_update_error(c->cache, SDC_ERR_CONNECT, "away",
                                         sdc_client_now_ms(c->client)), SDC_OK);
        threads_pause(threads_draw(&c->random, 4) * 1000);
    }
}

/* Nobody has closed it. */
static void threads_use(const sdc_pick *pick)
{
    const threads_endpoint *e = (const threads_endpoint *)pick->endpoint;
    CHECK_U64(e->canary, THREADS_ALIVE);
    CHECK_STR(e->addr, pick->instance->addr);
}

static void threads_done(threads_calls *c, sdc_balancer *balancer, sdc_pick *pick)
{
    if (pick->endpoint != NULL) {
        threads_use(pick);
        threads_add(&c->dones);
        bool failed = c->has_failures && threads_get(&c->dones) % 3 != 0;
        sdc_balancer_done(balancer, pick, failed ? SDC_ERR_IO : SDC_OK);
    }
}

/* False: the slot was not in that state. */
static bool threads_take_slot(threads_slot *slot, uint32_t state)
{
    uint32_t expected = state;
    return __atomic_compare_exchange_n(&slot->state, &expected, 1, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

/* Gives the pick to whoever comes by, and ends one that another thread has left there. */
static void threads_hand_over(threads_calls *c, threads_slot *slot, sdc_balancer *balancer,
                              sdc_pick *pick)
{
    if (threads_take_slot(slot, 0)) {
        slot->balancer = balancer;
        slot->pick = *pick;
        memset(pick, 0, sizeof *pick);
        threads_set(&slot->state, 2);
    } else if (threads_take_slot(slot, 2)) {
        threads_done(c, slot->balancer, &slot->pick);
        threads_set(&slot->state, 0);
    }
}

static void threads_empty_slots(threads_calls *c)
{
    for (size_t i = 0; i < THREADS_SLOTS; i++) {
        if (threads_take_slot(&c->slots[i], 2)) {
            threads_done(c, c->slots[i].balancer, &c->slots[i].pick);
        }
    }
}

static void threads_next(threads_calls *c, sdc_balancer *balancer, uint64_t *random,
                         sdc_pick *pick)
{
    char key[2] = { (char)('a' + threads_draw(random, 26)), '\0' };
    sdc_err err = sdc_balancer_next(balancer, key, pick);
    if (err == SDC_OK) {
        threads_add(&c->picks);
        threads_use(pick);
    } else {
        CHECK(err == SDC_ERR_EMPTY || err == SDC_ERR_CONNECT);
    }
}

/* A few picks at a time, ended in any order, here or elsewhere. */
static void *threads_run_picker(void *user)
{
    threads_calls *c = (threads_calls *)user;
    sdc_pick held[THREADS_HELD];
    uint64_t random = (uint64_t)(uintptr_t)held | 1;
    memset(held, 0, sizeof held);
    while (threads_get(&c->is_over) == 0) {
        sdc_pick *pick = &held[threads_draw(&random, THREADS_HELD)];
        if (pick->endpoint == NULL) {
            threads_next(c, c->balancer, &random, pick);
        } else if (threads_draw(&random, 4) == 0) {
            threads_hand_over(c, &c->slots[threads_draw(&random, THREADS_SLOTS)], c->balancer,
                              pick);
        } else {
            threads_done(c, c->balancer, pick);
        }
        if (threads_draw(&random, 64) == 0) {
            sched_yield();
        }
    }
    for (size_t i = 0; i < THREADS_HELD; i++) {
        threads_done(c, c->balancer, &held[i]);
    }
    return NULL;
}

/* Changes the list for so long, and until so much has happened. */
static void threads_change_for(threads_calls *c, uint64_t most_ms, uint32_t *value, uint32_t want)
{
    uint64_t from_ms = agent_server_now();
    while (agent_server_now() - from_ms < most_ms ||
           (threads_get(value) < want && agent_server_now() - from_ms < THREADS_SOON_MS)) {
        threads_change(c);
        threads_pause(threads_draw(&c->random, 200));
    }
    CHECK(threads_get(value) >= want);
}

static void threads_start_all(pthread_t *threads, size_t num, void *(*run)(void *), void *user)
{
    for (size_t i = 0; i < num; i++) {
        threads[i] = threads_start(run, user);
    }
}

static void threads_join_all(const pthread_t *threads, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void test_92_picks_while_the_list_changes(void)
{
    for (int policy = SDC_POLICY_ROUND_ROBIN; policy <= SDC_POLICY_HASHED; policy++) {
        threads_calls c;
        pthread_t pickers[THREADS_PICKERS];
        test_note("policy %d", policy);
        REQUIRE(threads_calls_begin(&c, (sdc_policy)policy, policy % 2 == 0 ? 0 : 2));
        threads_start_all(pickers, THREADS_PICKERS, threads_run_picker, &c);
        threads_change_for(&c, threads_ms() / 4, &c.picks, 1000);
        threads_set(&c.is_over, 1);
        threads_join_all(pickers, THREADS_PICKERS);
        threads_empty_slots(&c);
        threads_calls_end(&c);
    }
}

/* Ejected ones that come back, young ones, panic, an own zone: all that picks and outcomes change
   for other threads. */
static void test_92_outcomes_while_the_list_changes(void)
{
    for (int policy = SDC_POLICY_ROUND_ROBIN; policy <= SDC_POLICY_HASHED; policy++) {
        threads_calls c;
        sdc_balancer_desc how;
        pthread_t pickers[THREADS_PICKERS];
        test_note("policy %d", policy);
        memset(&how, 0, sizeof how);
        how.policy = (sdc_policy)policy;
        how.zone = "here";
        how.panic_percent = 20;
        how.slow_start_ms = 3;
        how.eject_after = 2;
        how.eject_ms = 1;
        how.eject_max_percent = 50;
        how.subset_size = 3;
        REQUIRE(threads_calls_begin_with(&c, &how, 0));
        c.has_failures = true;
        threads_start_all(pickers, THREADS_PICKERS, threads_run_picker, &c);
        threads_change_for(&c, threads_ms() / 8, &c.picks, 500);
        threads_set(&c.is_over, 1);
        threads_join_all(pickers, THREADS_PICKERS);
        threads_empty_slots(&c);
        threads_calls_end(&c);
    }
}

/* Calls that are tried again, on several threads: each try is a pick as others are. */
static sdc_err threads_call(void *user, const sdc_pick *pick, uint32_t left_ms)
{
    threads_calls *c = (threads_calls *)user;
    threads_use(pick);
    CHECK(left_ms <= 1000);
    threads_add(&c->picks);
    threads_add(&c->dones);
    threads_pause(threads_get(&c->picks) % 20);
    threads_use(pick);
    return threads_get(&c->picks) % 3 == 0 ? SDC_OK : SDC_ERR_IO;
}

static void *threads_run_retries(void *user)
{
    threads_calls *c = (threads_calls *)user;
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.max_attempts = 4;
    desc.timeout_ms = 1000;
    desc.backoff_min_ms = 1;
    desc.backoff_max_ms = 2;
    desc.call = threads_call;
    desc.user = c;
    while (threads_get(&c->is_over) == 0) {
        sdc_error error;
        sdc_err err = sdc_retry(c->balancer, &desc, &error);
        CHECK(err == SDC_OK || err == SDC_ERR_IO || err == SDC_ERR_EMPTY ||
              err == SDC_ERR_TIMEOUT);
        CHECK_ERR(error.code, err);
    }
    return NULL;
}

static void test_92_retries_while_the_list_changes(void)
{
    threads_calls c;
    pthread_t callers[THREADS_PICKERS];
    REQUIRE(threads_calls_begin(&c, SDC_POLICY_LEAST_LOADED, 0));
    threads_start_all(callers, THREADS_PICKERS, threads_run_retries, &c);
    threads_change_for(&c, threads_ms() / 4, &c.picks, 100);
    threads_set(&c.is_over, 1);
    threads_join_all(callers, THREADS_PICKERS);
    threads_calls_end(&c);
}

/* ---- balancers and walks that come and go ---- */

static void *threads_run_balancers(void *user)
{
    threads_calls *c = (threads_calls *)user;
    uint64_t random = (uint64_t)(uintptr_t)&random | 1;
    while (threads_get(&c->is_over) == 0) {
        sdc_balancer *balancer = NULL;
        sdc_balancer_desc how;
        sdc_pick picks[THREADS_HELD];
        memset(&how, 0, sizeof how);
        memset(picks, 0, sizeof picks);
        how.policy = (sdc_policy)threads_draw(&random, SDC_POLICY_HASHED + 1);
        how.seed = threads_draw(&random, 2);
        CHECK_ERR(sdc_balancer_create(c->endpointer, &how, &balancer, NULL), SDC_OK);
        for (size_t i = 0; i < THREADS_HELD; i++) {
            threads_next(c, balancer, &random, &picks[i]);
        }
        threads_pause(threads_draw(&random, 3) * 100);
        for (size_t i = 0; i < THREADS_HELD; i++) {
            threads_done(c, balancer, &picks[i]);
        }
        sdc_balancer_destroy(balancer);
    }
    return NULL;
}

static sdc_err threads_visit(void *user, void *endpoint, const sdc_instance *instance)
{
    threads_calls *c = (threads_calls *)user;
    sdc_pick seen;
    memset(&seen, 0, sizeof seen);
    seen.endpoint = endpoint;
    seen.instance = instance;
    threads_use(&seen);
    threads_add(&c->walks);
    if (threads_get(&c->walks) % 32 == 0) {
        threads_pause(100);                 /* so that the list changes under it */
        threads_use(&seen);
    }
    return SDC_OK;
}

static void *threads_run_walks(void *user)
{
    threads_calls *c = (threads_calls *)user;
    while (threads_get(&c->is_over) == 0) {
        CHECK_ERR(sdc_endpointer_each(c->endpointer, threads_visit, c), SDC_OK);
    }
    return NULL;
}

static void test_92_balancers_come_and_go_while_the_list_changes(void)
{
    threads_calls c;
    pthread_t makers[2];
    REQUIRE(threads_calls_begin(&c, SDC_POLICY_ROUND_ROBIN, 0));
    threads_start_all(makers, 2, threads_run_balancers, &c);
    pthread_t picker = threads_start(threads_run_picker, &c);
    pthread_t walker = threads_start(threads_run_walks, &c);
    threads_change_for(&c, threads_ms() / 2, &c.walks, 200);
    threads_set(&c.is_over, 1);
    threads_join_all(makers, 2);
    pthread_join(picker, NULL);
    pthread_join(walker, NULL);
    threads_empty_slots(&c);
    threads_calls_end(&c);
}

/* ---- the endpointer's task ---- */

static void *threads_run_steps(void *user)
{
    threads_calls *c = (threads_calls *)user;
    sdc_task *task = sdc_endpointer_task(c->endpointer);
    uint64_t from_ms = agent_server_now();
    sdc_err err = SDC_OK;
    for (int i = 0; err != SDC_STOPPED && agent_server_now() - from_ms < 2 * THREADS_SOON_MS; i++) {
        err = sdc_step(task, i % 4 - 1);
        CHECK(err == SDC_AGAIN || err == SDC_OK || err == SDC_STOPPED);
    }
    CHECK_ERR(err, SDC_STOPPED);
    return NULL;
}

static void test_92_endpointer_is_stepped_while_the_list_changes(void)
{
    threads_calls c;
    pthread_t pickers[2];
    REQUIRE(threads_calls_begin(&c, SDC_POLICY_WEIGHTED, 2));
    pthread_t stepper = threads_start(threads_run_steps, &c);
    threads_start_all(pickers, 2, threads_run_picker, &c);
    threads_change_for(&c, threads_ms() / 2, &c.picks, 1000);
    threads_set(&c.is_over, 1);
    threads_join_all(pickers, 2);
    sdc_stop(sdc_endpointer_task(c.endpointer));
    pthread_join(stepper, NULL);
    threads_empty_slots(&c);
    threads_calls_end(&c);
}

/* A step that blocks without an end hears of what is to be done by an update elsewhere: an open to
   be tried again, and endpoints to be dropped. */
static void test_92_update_wakes_a_step_that_blocks(void)
{
    threads_calls c;
    sdc_instance one;
    REQUIRE(threads_calls_begin(&c, SDC_POLICY_ROUND_ROBIN, 50));
    memset(&one, 0, sizeof one);
    one.addr = "10.0.0.1:80";
    pthread_t stepper = threads_start(threads_run_steps, &c);
    threads_pause(20000);
    threads_set(&c.asked, 7);               /* the next open is one that fails */
    CHECK_ERR(sdc_cache_update(c.cache, &one, 1, 7, sdc_client_now_ms(c.client)), SDC_OK);
    CHECK(threads_await(&c.opens, 1));
    CHECK(threads_get(&c.asked) >= 9);
    threads_pause(20000);
    CHECK_ERR(sdc_cache_update_error(c.cache, SDC_ERR_CONNECT, "away",
                                     sdc_client_now_ms(c.client)), SDC_OK);
    CHECK(threads_await(&c.closes, 1));
    sdc_stop(sdc_endpointer_task(c.endpointer));
    pthread_join(stepper, NULL);
    threads_calls_end(&c);
}

/* ---- the end of an endpointer ---- */

static void test_92_endpointer_is_destroyed_while_others_pick(void)
{
    for (unsigned round = 0; round < 10; round++) {
        threads_calls c;
        pthread_t pickers[THREADS_PICKERS];
        REQUIRE(threads_calls_begin(&c, (sdc_policy)(round % 5), 0));
        while (threads_get(&c.opens) == 0) {
            threads_change(&c);
        }
        threads_start_all(pickers, THREADS_PICKERS, threads_run_picker, &c);
        CHECK(threads_await(&c.picks, 20));
        sdc_endpointer_destroy(c.endpointer);
        c.endpointer = NULL;
        sdc_cache_destroy(c.cache);
        sdc_client_destroy(c.client);
        c.cache = NULL;
        c.client = NULL;
        threads_pause(200);
        threads_set(&c.is_over, 1);
        threads_join_all(pickers, THREADS_PICKERS);
        threads_empty_slots(&c);
        sdc_pick pick;
        CHECK_ERR(sdc_balancer_next(c.balancer, NULL, &pick), SDC_ERR_EMPTY);
        CHECK_INT(threads_get(&c.closes), threads_get(&c.opens));
        threads_calls_end(&c);
    }
}

/* Whoever lets go last closes, there and then. */
typedef struct threads_last {
    threads_calls calls;
    sdc_pick      pick;
    uint32_t      before, after;    /* closes, as the thread saw them                        */
} threads_last;

static void *threads_run_last(void *user)
{
    threads_last *last = (threads_last *)user;
    last->before = threads_get(&last->calls.closes);
    threads_done(&last->calls, last->calls.balancer, &last->pick);
    last->after = threads_get(&last->calls.closes);
    return NULL;
}

static void test_92_last_done_closes_on_its_own_thread(void)
{
    threads_last last;
    sdc_instance one;
    memset(&last, 0, sizeof last);
    memset(&one, 0, sizeof one);
    one.addr = "10.0.0.1:80";
    REQUIRE(threads_calls_begin(&last.calls, SDC_POLICY_RANDOM, 0));
    CHECK_ERR(sdc_cache_update(last.calls.cache, &one, 1, 7, 1), SDC_OK);
    threads_next(&last.calls, last.calls.balancer, &last.calls.random, &last.pick);
    CHECK_ERR(sdc_cache_update(last.calls.cache, &one, 0, 7, 1), SDC_OK);
    pthread_t thread = threads_start(threads_run_last, &last);
    pthread_join(thread, NULL);
    CHECK_INT(last.before, 0);
    CHECK_INT(last.after, 1);
    threads_calls_end(&last.calls);
}

static const test_case cases_threads[] = {
    TEST(test_92_what_any_thread_may_call_while_others_step),
    TEST(test_92_hook_that_waits_stalls_no_other_thread),
    TEST(test_92_callbacks_call_anything_while_others_look),
    TEST(test_92_stop_from_another_thread_at_any_time),
    TEST(test_92_tasks_of_one_client_on_threads_of_their_own),
    TEST(test_92_events_are_released_by_any_thread),
    TEST(test_92_picks_while_the_list_changes),
    TEST(test_92_outcomes_while_the_list_changes),
    TEST(test_92_retries_while_the_list_changes),
    TEST(test_92_balancers_come_and_go_while_the_list_changes),
    TEST(test_92_endpointer_is_stepped_while_the_list_changes),
    TEST(test_92_update_wakes_a_step_that_blocks),
    TEST(test_92_endpointer_is_destroyed_while_others_pick),
    TEST(test_92_last_done_closes_on_its_own_thread),
};

TEST_MAIN(GROUP(cases_threads))
