/* What tests of balancers and retries begin with: a cache that the test fills, an endpointer
   whose endpoints know whether they are open, and a client whose clock, random numbers and
   sleep are the test's own. No real time passes.

       picks p;
       picks_init(&p);
       picks_list(&p, "a=5 b c!");                      a has weight 5, c is critical
       sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
       CHECK_INT(picks_one(b, NULL, SDC_OK), 1);        the one picked: a is 0, b is 1, ...
       p.now_ms += 30000;
       sdc_balancer_destroy(b);
       picks_deinit(&p);                                destroys the rest, and reports leaks

   A list is words between spaces: name, then =weight (1), @zone (none), ! critical with weight
   0, ~ warning, #id (none). Twins are two words with one name. picks_numbered makes as many
   as one likes, n00000 and so on, in p.items, where a test changes them before picks_show. */
#ifndef PICKS_H
#define PICKS_H

#include "alloc.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PICKS_START_MS = 1000000, PICKS_NAME = 24, PICKS_LIST_MAX = 64 };

typedef struct picks_end {
    struct picks_end *next;
    int               number;
    bool              is_open;
} picks_end;

typedef struct picks_item_text {
    char addr[PICKS_NAME], id[PICKS_NAME], zone[PICKS_NAME];
} picks_item_text;

typedef struct picks {
    fault_alloc      memory;
    sdc_io           io;
    uint64_t         now_ms;
    size_t           num_random;        /* asked for so far: the next one follows from it     */
    bool             is_random_fixed;
    uint64_t         fixed_random;
    uint64_t         slept_ms;          /* by the library's wait, in all                      */
    unsigned         num_sleeps;
    size_t           num_looks;         /* at the clock                                       */
    char             log[4096];         /* "warn event=balancer route=away", a line each      */
    size_t           log_len;
    void           (*on_log)(struct picks *p);  /* once, inside the next record               */
    sdc_client      *client;
    sdc_cache       *cache;
    sdc_endpointer  *endpointer;
    picks_end       *ends;              /* all that were ever opened                          */
    unsigned         num_open;
    sdc_instance    *items;
    picks_item_text *texts;
    size_t           num_items, max_items;
    uint64_t         index;
} picks;

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators") */
static inline uint64_t picks_mix(uint64_t nth)
{
    uint64_t z = nth * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline uint64_t picks_random(void *user)
{
    picks *p = (picks *)user;
    size_t nth = __atomic_add_fetch(&p->num_random, 1u, __ATOMIC_RELAXED);
    return p->is_random_fixed ? p->fixed_random : picks_mix(nth);
}

static inline uint64_t picks_now(void *user)
{
    picks *p = (picks *)user;
    __atomic_add_fetch(&p->num_looks, 1u, __ATOMIC_RELAXED);
    return p->now_ms;
}

/* What there is no room for is left out. One thread at a time, as all that has a log here. */
static inline void picks_log(void *user, sdc_log_level level, const sdc_kv *fields,
                             size_t num_fields)
{
    static const char *const names[] = { "debug", "info", "warn", "error" };
    picks *p = (picks *)user;
    void (*then)(picks *) = p->on_log;
    size_t room = sizeof p->log - 1;
    p->log_len += (size_t)snprintf(p->log + p->log_len, room - p->log_len, "%s", names[level]);
    for (size_t i = 0; i < num_fields && p->log_len < room; i++) {
        p->log_len += (size_t)snprintf(p->log + p->log_len, room - p->log_len, " %s=%s",
                                       fields[i].key, fields[i].value);
    }
    p->log_len = p->log_len < room ? p->log_len : room - 1;
    memcpy(p->log + p->log_len, "\n", 2);
    p->log_len++;
    p->on_log = NULL;
    if (then != NULL) {
        then(p);
    }
}

static inline void picks_log_clear(picks *p)
{
    p->log_len = 0;
    p->log[0] = '\0';
}

/* Checks all lines since the last time. */
#define PICKS_LOG(p, text) (CHECK_STR((p)->log, (text)), picks_log_clear(p))

static inline size_t picks_log_count(const picks *p, const char *part)
{
    size_t num = 0;
    for (const char *at = strstr(p->log, part); at != NULL; at = strstr(at + 1, part)) {
        num++;
    }
    return num;
}

/* A sleep is a jump of the clock. What would sleep for ever, or waits for a descriptor, is a
   fault of the library here. */
static inline sdc_err picks_wait(void *user, void *waker, const sdc_wants *wants,
                                 sdc_error *error)
{
    picks *p = (picks *)user;
    (void)waker;
    (void)error;
    CHECK_INT(wants->fd, -1);
    CHECK_U64(wants->timeout_ms, wants->deadline_ms - p->now_ms);
    if (wants->deadline_ms == UINT64_MAX || wants->deadline_ms > p->now_ms + 3600000) {
        FAIL("a wait without an end");
        abort();
    }
    p->num_sleeps++;
    if (wants->deadline_ms > p->now_ms) {
        p->slept_ms += wants->deadline_ms - p->now_ms;
        p->now_ms = wants->deadline_ms;
    }
    return SDC_OK;
}

/* "c:80" is 2, "n00017:80" is 17. */
static inline int picks_number(const char *addr)
{
    return addr[0] == 'n' && addr[1] >= '0' && addr[1] <= '9' ? atoi(addr + 1) : addr[0] - 'a';
}

static inline sdc_err picks_open(void *user, const sdc_instance *instance, void **endpoint)
{
    picks *p = (picks *)user;
    picks_end *end = (picks_end *)calloc(1, sizeof *end);
    if (end == NULL) {
        abort();
    }
    end->number = picks_number(instance->addr);
    end->is_open = true;
    end->next = p->ends;
    p->ends = end;
    p->num_open++;
    *endpoint = end;
    return SDC_OK;
}

static inline void picks_close(void *user, void *endpoint)
{
    picks *p = (picks *)user;
    picks_end *end = (picks_end *)endpoint;
    CHECK(end->is_open);
    end->is_open = false;
    p->num_open--;
}

/* The same with the seed of the random numbers: two processes differ by it. */
static inline void picks_init_seeded(picks *p, size_t seed, uint32_t invalidate_after_ms)
{
    memset(p, 0, sizeof *p);
    fault_alloc_init(&p->memory);
    p->now_ms = PICKS_START_MS;
    p->num_random = seed * 100000u;
    p->io = *sdc_io_posix();
    p->io.user = p;
    p->io.now_ms = picks_now;
    p->io.random = picks_random;
    p->io.wait = picks_wait;
    sdc_allocator hook = fault_alloc_hook(&p->memory);
    sdc_logger logger = { .log = picks_log, .user = p };
    sdc_client_desc client = { .ignore_environment = true, .allocator = &hook, .io = &p->io,
                               .logger = &logger };
    sdc_endpointer_desc desc = { .open = picks_open, .close = picks_close, .user = p,
                                 .invalidate_after_ms = invalidate_after_ms };
    sdc_error error = { .code = SDC_OK };
    if (!CHECK_ERR(sdc_client_create(&client, &p->client, &error), SDC_OK) ||
        !CHECK_ERR(sdc_cache_create(&hook, &p->cache), SDC_OK) ||
        !CHECK_ERR(sdc_endpointer_create(p->cache, &desc, p->client, &p->endpointer, &error),
                   SDC_OK)) {
        FAIL("%s", error.message);
        abort();
    }
}

static inline void picks_init(picks *p)
{
    picks_init_seeded(p, 1, 0);
}

/* What the test has destroyed itself is NULL before. */
static inline void picks_deinit(picks *p)
{
    sdc_endpointer_destroy(p->endpointer);
    sdc_cache_destroy(p->cache);
    sdc_client_destroy(p->client);
    CHECK_INT(p->num_open, 0);
    while (p->ends != NULL) {
        picks_end *end = p->ends;
        p->ends = end->next;
        free(end);
    }
    free(p->items);
    free(p->texts);
    fault_alloc_deinit(&p->memory);
}

/* ---- lists ----------------------------------------------------------------------------------- */

/* Room for so many. What was there is lost. */
static inline void picks_reserve(picks *p, size_t num)
{
    if (num <= p->max_items) {
        return;
    }
    free(p->items);
    free(p->texts);
    p->num_items = 0;
    p->items = (sdc_instance *)calloc(num, sizeof *p->items);
    p->texts = (picks_item_text *)calloc(num, sizeof *p->texts);
    if (p->items == NULL || p->texts == NULL) {
        abort();
    }
    p->max_items = num;
}

/* Gives the cache what stands in p->items. */
static inline void picks_show(picks *p)
{
    p->index++;
    CHECK_ERR(sdc_cache_update(p->cache, p->items, p->num_items, p->index, p->now_ms), SDC_OK);
}

static inline void picks_item_init(picks *p, size_t nth)
{
    sdc_instance *item = &p->items[nth];
    picks_item_text *text = &p->texts[nth];
    memset(item, 0, sizeof *item);
    item->addr = text->addr;
    item->id = text->id;
    item->zone = text->zone;
    item->weight = 1;
    item->status = SDC_STATUS_PASSING;
}

/* Puts n<first> to n<first + num - 1> into p->items, each with weight 1. */
static inline void picks_numbered(picks *p, size_t first, size_t num)
{
    picks_reserve(p, num);
    p->num_items = num;
    for (size_t i = 0; i < num; i++) {
        memset(&p->texts[i], 0, sizeof p->texts[i]);
        snprintf(p->texts[i].addr, PICKS_NAME, "n%05u:80", (unsigned)(first + i));
        picks_item_init(p, i);
    }
}

/* Takes one out of p->items. */
static inline void picks_remove(picks *p, size_t nth)
{
    p->num_items--;
    memmove(&p->items[nth], &p->items[nth + 1], (p->num_items - nth) * sizeof *p->items);
}

/* One more, in p->items only; for lists that begin with a picks_list, of at most 64. */
static inline sdc_instance *picks_add(picks *p, const char *word)
{
    if (p->num_items == p->max_items) {
        abort();
    }
    picks_item_text *text = &p->texts[p->num_items];
    sdc_instance *item = &p->items[p->num_items];
    memset(text, 0, sizeof *text);
    picks_item_init(p, p->num_items++);
    int len = (int)strcspn(word, "=@!~# ");
    snprintf(text->addr, PICKS_NAME, "%.*s:80", len, word);
    const char *at = word + len;
    while (*at != '\0' && *at != ' ') {
        len = (int)strcspn(at + 1, "=@!~# ");
        switch (*at) {
        case '=': item->weight = (uint32_t)strtoul(at + 1, NULL, 10);             break;
        case '@': snprintf(text->zone, PICKS_NAME, "%.*s", len, at + 1);          break;
        case '#': snprintf(text->id, PICKS_NAME, "%.*s", len, at + 1);            break;
        case '!': item->weight = 0; item->status = SDC_STATUS_CRITICAL;           break;
        default:  item->status = SDC_STATUS_WARNING;                              break;
        }
        at += 1 + len;
    }
    return item;
}

/* Puts a list into p->items and shows it. */
static inline void picks_list(picks *p, const char *words)
{
    picks_reserve(p, PICKS_LIST_MAX);
    p->num_items = 0;
    for (const char *at = words; *at != '\0'; at += strcspn(at, " ")) {
        at += strspn(at, " ");
        if (*at != '\0') {
            picks_add(p, at);
        }
    }
    picks_show(p);
}

/* ---- picks ----------------------------------------------------------------------------------- */

static inline sdc_balancer *picks_balancer(picks *p, const sdc_balancer_desc *desc)
{
    sdc_balancer *b = NULL;
    sdc_error error = { .code = SDC_OK };
    if (sdc_balancer_create(p->endpointer, desc, &b, &error) != SDC_OK) {
        FAIL("sdc_balancer_create: %s", error.message);
        abort();
    }
    return b;
}

/* The number of what is picked, -1 after a failure; the pick stays open. */
static inline int picks_hold(sdc_balancer *b, const char *key, sdc_pick *pick)
{
    if (!CHECK_ERR(sdc_balancer_next(b, key, pick), SDC_OK)) {
        return -1;
    }
    const picks_end *end = (const picks_end *)pick->endpoint;
    if (!end->is_open || end->number != picks_number(pick->instance->addr)) {
        FAIL("%s: a pick of %s", pick->instance->addr, end->is_open ? "another" : "a closed one");
    }
    return end->number;
}

/* The same, and done with this outcome. */
static inline int picks_one(sdc_balancer *b, const char *key, sdc_err outcome)
{
    sdc_pick pick;
    int number = picks_hold(b, key, &pick);
    if (number >= 0) {
        sdc_balancer_done(b, &pick, outcome);
    }
    return number;
}

/* Counts num picks by their number, which is below max; counts is cleared first. */
static inline void picks_count(sdc_balancer *b, const char *key, size_t num, unsigned *counts,
                               size_t max)
{
    memset(counts, 0, max * sizeof *counts);
    for (size_t i = 0; i < num; i++) {
        int number = picks_one(b, key, SDC_OK);
        if (number < 0 || (size_t)number >= max) {
            FAIL("picked number %d of %u", number, (unsigned)max);
            return;
        }
        counts[number]++;
    }
}

/* "a a b" and so on: num picks as text. Single letters only. */
static inline const char *picks_text(sdc_balancer *b, size_t num, char *text, size_t size)
{
    size_t len = 0;
    text[0] = '\0';
    for (size_t i = 0; i < num && len + 1 < size; i++) {
        text[len++] = (char)('a' + picks_one(b, NULL, SDC_OK));
        text[len] = '\0';
    }
    return text;
}

/* Pearson's statistic of counts against weights (NULL: all alike). */
static inline double picks_chi2(const unsigned *counts, const double *weights, size_t num)
{
    double total = 0;
    double sum = 0;
    for (size_t i = 0; i < num; i++) {
        total += counts[i];
        sum += weights != NULL ? weights[i] : 1;
    }
    double chi2 = 0;
    for (size_t i = 0; i < num; i++) {
        double expected = total * (weights != NULL ? weights[i] : 1) / sum;
        chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    return chi2;
}

#endif
