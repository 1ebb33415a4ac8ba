/* Picks of sdconsul.h, timed: the program that pick.py asks.

   Each line of its input is POLICY INSTANCES THREADS MS: so many threads pick, each a next and
   its done at once, for so many milliseconds. It answers with a line: how many they were,
   nanoseconds for each, how many CPUs worked on them, and what the allocator was asked for
   meanwhile. Nanoseconds are wall time over the picks of all threads, as Go's RunParallel
   counts. MS 0 is one grain on each thread, for callgrind. */
#include "sdconsul.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { GRAIN = 1024, THREADS_MAX = 16, INSTANCES_MAX = 10000, SIZES_MAX = 8, KINDS = 6 };

/* What can be asked for: a policy, over instances of equal weights or of 1 to 5. */
static const struct kind {
    const char *name;
    sdc_policy policy;
    bool is_mixed;
} kinds[KINDS] = {
    { "round_robin", SDC_POLICY_ROUND_ROBIN, false },
    { "random", SDC_POLICY_RANDOM, false },
    { "weighted", SDC_POLICY_WEIGHTED, true },
    { "least_loaded", SDC_POLICY_LEAST_LOADED, false },
    { "least_loaded_by_weight", SDC_POLICY_LEAST_LOADED, true },
    { "hashed", SDC_POLICY_HASHED, false },
};

/* Made at the first question for that number of instances, and kept. */
typedef struct pool {
    size_t num;
    sdc_endpointer *endpointers[2];     /* of equal weights, and of mixed ones */
    sdc_balancer *balancers[KINDS];
} pool;

/* What the threads of one question share. */
typedef struct round_state {
    sdc_balancer *balancer;
    uint64_t ns;                    /* how long; 0: one grain                */
    unsigned num_threads, num_ready;
    uint64_t num_picks;
    uint64_t began, ended;          /* the first thread's, the last thread's */
} round_state;

static uint64_t num_allocations;
static int targets[INSTANCES_MAX];
static char keys[GRAIN][16];

static void fail(const char *what)
{
    fprintf(stderr, "pick: %s\n", what);
    exit(1);
}

static void *counting_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user, (void)old_size;
    __atomic_fetch_add(&num_allocations, 1, __ATOMIC_RELAXED);
    if (new_size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, new_size);
}

static sdc_err open_target(void *user, const sdc_instance *instance, void **endpoint)
{
    (void)user;
    *endpoint = &targets[instance->port - 1];
    return SDC_OK;
}

static sdc_client *client_new(void)
{
    static const sdc_allocator allocator = { NULL, counting_resize };
    sdc_client_desc desc;
    sdc_client *client;
    sdc_error error;

    memset(&desc, 0, sizeof desc);
    desc.ignore_environment = true;
    desc.allocator = &allocator;
    if (sdc_client_create(&desc, &client, &error) != SDC_OK) {
        fail(error.message);
    }
    return client;
}

static sdc_cache *cache_new(size_t num, bool is_mixed)
{
    static sdc_instance instances[INSTANCES_MAX];
    static char hosts[INSTANCES_MAX][16];
    sdc_cache *cache = NULL;

    for (size_t i = 0; i < num; i++) {
        (void)snprintf(hosts[i], sizeof hosts[i], "10.0.%u.%u", (unsigned)i / 250,
                       (unsigned)i % 250 + 1);
        instances[i].host = hosts[i];
        instances[i].port = (uint16_t)(i + 1);
        instances[i].weight = is_mixed ? (uint32_t)(i % 5 + 1) : 1;
    }
    if (sdc_cache_create(NULL, &cache) != SDC_OK ||
        sdc_cache_update(cache, instances, num, 1, 1) != SDC_OK) {
        fail("no cache");
    }
    return cache;
}

static sdc_endpointer *endpointer_new(size_t num, bool is_mixed)
{
    static sdc_client *client;
    sdc_endpointer_desc desc;
    sdc_endpointer *endpointer;
    sdc_error error;

    client = client != NULL ? client : client_new();
    memset(&desc, 0, sizeof desc);
    desc.open = open_target;
    if (sdc_endpointer_create(cache_new(num, is_mixed), &desc, client, &endpointer, &error) !=
        SDC_OK) {
        fail(error.message);
    }
    return endpointer;
}

static void pool_init(pool *p, size_t num)
{
    sdc_balancer_desc desc;
    sdc_error error;

    p->num = num;
    p->endpointers[0] = endpointer_new(num, false);
    p->endpointers[1] = endpointer_new(num, true);
    memset(&desc, 0, sizeof desc);
    desc.seed = 1;
    for (unsigned i = 0; i < KINDS; i++) {
        desc.policy = kinds[i].policy;
        if (sdc_balancer_create(p->endpointers[kinds[i].is_mixed], &desc, &p->balancers[i],
                                &error) != SDC_OK) {
            fail(error.message);
        }
    }
}

static pool *pool_of(size_t num)
{
    static pool pools[SIZES_MAX];

    if (num == 0 || num > INSTANCES_MAX) {
        fail("so many instances are not foreseen");
    }
    for (size_t i = 0; i < SIZES_MAX; i++) {
        if (pools[i].num == 0) {
            pool_init(&pools[i], num);
        }
        if (pools[i].num == num) {
            return &pools[i];
        }
    }
    fail("too many sizes");
    return NULL;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
    struct rusage r;

    (void)getrusage(RUSAGE_SELF, &r);
    return ((uint64_t)r.ru_utime.tv_sec + (uint64_t)r.ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)r.ru_utime.tv_usec + (uint64_t)r.ru_stime.tv_usec) * 1000u;
}

/* Apart, so that callgrind can count it alone. */
__attribute__((noinline)) void grain(sdc_balancer *balancer);

void grain(sdc_balancer *balancer)
{
    for (unsigned i = 0; i < GRAIN; i++) {
        sdc_pick pick;
        if (sdc_balancer_next(balancer, keys[i], &pick) != SDC_OK || pick.endpoint == NULL) {
            fail("no pick");
        }
        sdc_balancer_done(balancer, &pick, SDC_OK);
    }
}

static void *run_thread(void *user)
{
    round_state *s = (round_state *)user;
    uint64_t num = 0, began, now;

    /* all begin together: a thread takes long to start beside what it does here */
    __atomic_add_fetch(&s->num_ready, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&s->num_ready, __ATOMIC_ACQUIRE) < s->num_threads) {
    }
    began = now_ns();
    do {
        grain(s->balancer);
        num += GRAIN;
        now = now_ns();
    } while (now - began < s->ns);
    static char lock;
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE)) {
    }
    s->num_picks += num;
    s->began = s->began == 0 || began < s->began ? began : s->began;
    s->ended = now > s->ended ? now : s->ended;
    __atomic_clear(&lock, __ATOMIC_RELEASE);
    return NULL;
}

static void answer(round_state *s)
{
    pthread_t threads[THREADS_MAX];
    uint64_t before = __atomic_load_n(&num_allocations, __ATOMIC_RELAXED);
    uint64_t cpu_before = cpu_ns();

    for (unsigned i = 0; i < s->num_threads; i++) {
        if (pthread_create(&threads[i], NULL, run_thread, s) != 0) {
            fail("no thread");
        }
    }
    for (unsigned i = 0; i < s->num_threads; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    double wall = (double)(s->ended - s->began);
    printf("%llu %.4f %.3f %llu\n", (unsigned long long)s->num_picks,
           wall / (double)s->num_picks, (double)(cpu_ns() - cpu_before) / wall,
           (unsigned long long)(__atomic_load_n(&num_allocations, __ATOMIC_RELAXED) - before));
    (void)fflush(stdout);
}

static sdc_balancer *balancer_of(const pool *p, const char *name)
{
    for (unsigned i = 0; i < KINDS; i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            return p->balancers[i];
        }
    }
    fail("no such policy");
    return NULL;
}

int main(void)
{
    char name[32];
    unsigned num_instances, num_threads, ms;

    for (unsigned i = 0; i < GRAIN; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "user-%07u", i * 7919);
    }
    while (scanf("%31s %u %u %u", name, &num_instances, &num_threads, &ms) == 4) {
        round_state s;
        memset(&s, 0, sizeof s);
        s.balancer = balancer_of(pool_of(num_instances), name);
        s.ns = (uint64_t)ms * 1000000u;
        s.num_threads = num_threads < THREADS_MAX ? num_threads : THREADS_MAX;
        answer(&s);
    }
    return 0;
}
