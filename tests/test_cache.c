/* Tests of [sdc:cache]: events, what is told to whom, and what callbacks may do. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/alloc.h"
#include "support/script.h"
#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a cache on the checking allocator, and a subscriber that writes down what it is told ---- */

enum { CACHE_LIST_MAX = 32 };

typedef struct cache_bed {
    fault_alloc memory;
    sdc_cache  *cache;
    uint64_t    now_ms;
} cache_bed;

typedef struct cache_spy {
    unsigned         calls;
    unsigned         depth;         /* of calls inside calls                                  */
    const sdc_event *last;          /* borrowed: compared only                                */
    const sdc_event *before;        /* the same                                               */
    char             told[9000];    /* of the newest call, see cache_describe                 */
    void           (*then)(struct cache_spy *spy);      /* at the end of each call            */
    cache_bed       *bed;
    struct cache_spy *other;
    sdc_err          result;        /* of what `then` did                                     */
} cache_spy;

static bool cache_bed_init(cache_bed *bed)
{
    memset(bed, 0, sizeof *bed);
    fault_alloc_init(&bed->memory);
    sdc_allocator hook = fault_alloc_hook(&bed->memory);
    bed->now_ms = 1000;
    return CHECK_ERR(sdc_cache_create(&hook, &bed->cache), SDC_OK);
}

static void cache_bed_deinit(cache_bed *bed)
{
    sdc_cache_destroy(bed->cache);
    fault_alloc_deinit(&bed->memory);
}

static void cache_join(script_text *t, char sign, const sdc_instance *const *list, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        script_printf(t, " %c%s", sign, list[i]->addr);
    }
}

/* "ok a,b +c -d ~e": the error, all addresses, then those added, removed and updated. */
static void cache_describe(char *out, size_t size, const sdc_event *event,
                           const sdc_change *change)
{
    script_text t;
    memset(&t, 0, sizeof t);
    script_printf(&t, "%s%s ", event->err == SDC_OK ? "ok" : sdc_err_str(event->err),
                  event->is_known ? "" : "?");
    for (size_t i = 0; i < event->num_instances; i++) {
        script_printf(&t, "%s%s", i > 0 ? "," : "", event->instances[i].addr);
    }
    cache_join(&t, '+', change->added, change->num_added);
    cache_join(&t, '-', change->removed, change->num_removed);
    cache_join(&t, '~', change->updated, change->num_updated);
    snprintf(out, size, "%s", t.text);
    script_text_deinit(&t);
}

static void cache_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    cache_spy *spy = (cache_spy *)user;
    /* each subscriber is told what it has missed since its own last call, no more and no less */
    CHECK(change->before == spy->last);
    CHECK_INT(spy->depth, 0);
    spy->depth++;
    spy->calls++;
    spy->before = change->before;
    spy->last = event;
    cache_describe(spy->told, sizeof spy->told, event, change);
    if (spy->then != NULL) {
        spy->then(spy);
        char again[sizeof spy->told];
        cache_describe(again, sizeof again, event, change);     /* borrowed until the end */
        CHECK_STR(again, spy->told);
    }
    spy->depth--;
}

/* "id@addr/node" with id and node left out where the text has none. */
static size_t cache_parse(const char *text, char *copy, sdc_instance *list)
{
    size_t num = 0;
    strcpy(copy, text);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
        char *addr = strchr(word, '@');
        char *node = strchr(word, '/');
        memset(&list[num], 0, sizeof list[num]);
        list[num].id = addr != NULL ? word : "";
        list[num].addr = addr != NULL ? addr + 1 : word;
        list[num].node = node != NULL ? node + 1 : "";
        if (addr != NULL) {
            *addr = '\0';
        }
        if (node != NULL) {
            *node = '\0';
        }
        num++;
    }
    return num;
}

static sdc_err cache_put(cache_bed *bed, const char *text)
{
    char copy[600];
    sdc_instance list[CACHE_LIST_MAX];
    size_t num = cache_parse(text, copy, list);
    return sdc_cache_update(bed->cache, list, num, 7, bed->now_ms);
}

static const sdc_event *cache_peek(cache_bed *bed)
{
    const sdc_event *event = sdc_cache_state(bed->cache);
    sdc_event_release(event);
    return event;
}

static sdc_err cache_listen(cache_bed *bed, cache_spy *spy)
{
    spy->bed = bed;
    return sdc_cache_subscribe(bed->cache, cache_on_event, spy);
}

/* ---- states ---------------------------------------------------------------------------------- */

static void test_cache_starts_with_nothing_heard(void)
{
    cache_bed bed;
    REQUIRE(cache_bed_init(&bed));
    const sdc_event *event = sdc_cache_state(bed.cache);
    REQUIRE(event != NULL);
    CHECK_ERR(event->err, SDC_AGAIN);
    CHECK(!event->is_known);
    CHECK_INT(event->num_instances, 0);
    CHECK_STR(event->message, "");
    CHECK_U64(event->failing_since_ms, 0);
    CHECK_U64(event->index, 0);
    sdc_event_release(event);
    cache_bed_deinit(&bed);
}

static void test_cache_copies_and_sorts(void)
{
    cache_bed bed;
    REQUIRE(cache_bed_init(&bed));
    char addr[] = "10.0.0.2:80";
    const char *tags[] = { "b", "a" };
    sdc_kv meta[] = { { "y", "2" }, { "x", "1" } };
    sdc_address tagged[] = { { "wan", "1.2.3.4", 81 }, { "lan", "10.0.0.2", 80 } };
    sdc_port ports[] = { { "http", 80, true }, { "admin", 90, false } };
    sdc_instance list[3];
    memset(list, 0, sizeof list);
    list[0].addr = addr;
    list[0].id = "b";
    list[0].tags = tags;
    list[0].num_tags = 2;
    list[0].meta = meta;
    list[0].num_meta = 2;
    list[0].tagged_addresses = tagged;
    list[0].num_tagged_addresses = 2;
    list[0].ports = ports;
    list[0].num_ports = 2;
    list[0].weight = 3;
    list[1].addr = addr;
    list[1].id = "a";
    list[2].host = "2001:db8::1";
    list[2].port = 8000;
    CHECK_ERR(sdc_cache_update(bed.cache, list, 3, 42, 5000), SDC_OK);
    memset(addr, 'x', sizeof addr - 1);
    tags[0] = meta[0].key = tagged[0].key = ports[0].name = "gone";
    const sdc_event *event = sdc_cache_state(bed.cache);
    CHECK_ERR(event->err, SDC_OK);
    CHECK(event->is_known);
    CHECK_U64(event->index, 42);
    CHECK_U64(event->at_ms, 5000);
    REQUIRE(event->num_instances == 3);
    CHECK_STR(event->instances[0].id, "a");
    CHECK_STR(event->instances[0].node, "");
    CHECK_STR(event->instances[0].zone, "");
    const sdc_instance *i = &event->instances[1];
    CHECK_STR(i->addr, "10.0.0.2:80");
    CHECK_STR(i->id, "b");
    CHECK_STR(i->tags[0], "a");
    CHECK_STR(i->tags[1], "b");
    CHECK_STR(i->meta[0].key, "x");
    CHECK_STR(i->meta[1].value, "2");
    CHECK_STR(i->tagged_addresses[0].key, "lan");
    CHECK_STR(i->tagged_addresses[1].address, "1.2.3.4");
    CHECK_STR(i->ports[0].name, "http");
    CHECK_INT(i->ports[1].port, 90);
    CHECK_INT(i->weight, 3);
    CHECK_STR(event->instances[2].addr, "[2001:db8::1]:8000");
    sdc_event_release(event);
    cache_bed_deinit(&bed);
}

static void test_cache_sorts_by_addr_node_and_id(void)
{
    cache_bed bed;
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "b@9:1/n2 z@9:1/n1 a@9:1/n2 c@10:1/n9"), SDC_OK);
    const sdc_event *event = cache_peek(&bed);
    REQUIRE(event->num_instances == 4);
    CHECK_STR(event->instances[0].id, "c");
    CHECK_STR(event->instances[1].id, "z");
    CHECK_STR(event->instances[2].id, "a");
    CHECK_STR(event->instances[3].id, "b");
    cache_bed_deinit(&bed);
}

static void test_cache_refuses_what_has_no_address(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    const sdc_event *before = cache_peek(&bed);
    sdc_instance list[2];
    memset(list, 0, sizeof list);
    list[0].addr = "2:2";
    CHECK_ERR(sdc_cache_update(bed.cache, list, 2, 8, 2000), SDC_ERR_ARG);
    list[1].host = "10.0.0.1";
    CHECK_ERR(sdc_cache_update(bed.cache, list, 2, 8, 2000), SDC_ERR_ARG);
    list[1].host = NULL;
    list[1].port = 80;
    CHECK_ERR(sdc_cache_update(bed.cache, list, 2, 8, 2000), SDC_ERR_ARG);
    CHECK(cache_peek(&bed) == before);
    CHECK_INT(spy.calls, 1);
    list[1].host = "10.0.0.1";
    CHECK_ERR(sdc_cache_update(bed.cache, list, 2, 8, 2000), SDC_OK);
    CHECK_STR(spy.told, "ok 10.0.0.1:80,2:2 +10.0.0.1:80 +2:2 -1:1");
    cache_bed_deinit(&bed);
}

static void test_cache_clock_that_goes_back_stands_still(void)
{
    cache_bed bed;
    REQUIRE(cache_bed_init(&bed));
    bed.now_ms = 5000;
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    bed.now_ms = 4000;
    CHECK_ERR(cache_put(&bed, "a@1:2"), SDC_OK);
    CHECK_U64(cache_peek(&bed)->at_ms, 5000);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_IO, "x", 3000), SDC_OK);
    CHECK_U64(cache_peek(&bed)->at_ms, 5000);
    CHECK_U64(cache_peek(&bed)->failing_since_ms, 5000);
    cache_bed_deinit(&bed);
}

/* ---- what counts as a change ----------------------------------------------------------------- */

static void test_11_order_of_lists_does_not_count_in_a_cache(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    const char *tags[2][3] = { { "x", "y", "z" }, { "z", "x", "y" } };
    sdc_kv meta[2][2] = { { { "k", "1" }, { "l", "2" } }, { { "l", "2" }, { "k", "1" } } };
    sdc_address tagged[2][2] = { { { "lan", "a", 1 }, { "wan", "b", 2 } },
                                 { { "wan", "b", 2 }, { "lan", "a", 1 } } };
    sdc_instance list[2][2];
    memset(list, 0, sizeof list);
    for (size_t way = 0; way < 2; way++) {
        for (size_t i = 0; i < 2; i++) {
            sdc_instance *at = &list[way][way == 0 ? i : 1 - i];
            at->addr = i == 0 ? "1:1" : "2:2";
            at->id = i == 0 ? "a" : "b";
            at->tags = tags[way];
            at->num_tags = 3;
            at->meta = meta[way];
            at->num_meta = 2;
            at->tagged_addresses = tagged[way];
            at->num_tagged_addresses = 2;
        }
    }
    CHECK_ERR(sdc_cache_update(bed.cache, list[0], 2, 1, 1000), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    const sdc_event *event = sdc_cache_state(bed.cache);
    CHECK_ERR(sdc_cache_update(bed.cache, list[1], 2, 2, 2000), SDC_OK);
    CHECK_INT(spy.calls, 1);
    CHECK(cache_peek(&bed) == event);
    CHECK_U64(event->at_ms, 1000);
    sdc_event_release(event);
    cache_bed_deinit(&bed);
}

static void cache_fill_one(sdc_instance *at)
{
    static const char *const tags[] = { "t1", "t2" };
    static const sdc_kv meta[] = { { "k", "v" } };
    static const sdc_address tagged[] = { { "lan", "10.0.0.1", 80 } };
    static const sdc_port ports[] = { { "http", 80, true }, { "admin", 90, false } };
    memset(at, 0, sizeof *at);
    at->addr = "10.0.0.1:80";
    at->host = "10.0.0.1";
    at->port = 80;
    at->id = "web-1";
    at->service = "web";
    at->tags = tags;
    at->num_tags = 2;
    at->meta = meta;
    at->num_meta = 1;
    at->tagged_addresses = tagged;
    at->num_tagged_addresses = 1;
    at->ports = ports;
    at->num_ports = 2;
    at->status = SDC_STATUS_PASSING;
    at->weight = 1;
}

/* Changes the nth thing that a program can see; false when there is no nth. *is_other: the
   instance is another one then. */
static bool cache_change_nth(sdc_instance *at, size_t nth, bool *is_other)
{
    static const char *const tags[] = { "t1", "t3" };
    static const sdc_kv key[] = { { "j", "v" } };
    static const sdc_kv value[] = { { "k", "w" } };
    static const sdc_address tagged[] = { { "lan", "10.0.0.1", 81 } };
    static const sdc_address tagged_to[] = { { "lan", "10.0.0.2", 80 } };
    static const sdc_address tagged_key[] = { { "wan", "10.0.0.1", 80 } };
    static const sdc_port port[] = { { "http", 80, true }, { "admin", 91, false } };
    static const sdc_port port_name[] = { { "http", 80, true }, { "debug", 90, false } };
    static const sdc_port port_default[] = { { "http", 80, false }, { "admin", 90, true } };
    *is_other = nth >= 22;
    switch (nth) {
    case 0:  at->addr = "10.0.0.1:81"; break;
    case 1:  at->host = "10.0.0.2"; break;
    case 2:  at->socket_path = "/s"; break;
    case 3:  at->service = "api"; break;
    case 4:  at->datacenter = "dc2"; break;
    case 5:  at->region = "eu"; break;
    case 6:  at->zone = "a"; break;
    case 7:  at->status = SDC_STATUS_WARNING; break;
    case 8:  at->weight = 2; break;
    case 9:  at->port = 81; break;
    case 10: at->tags = tags; break;
    case 11: at->num_tags = 1; break;
    case 12: at->meta = key; break;
    case 13: at->meta = value; break;
    case 14: at->num_meta = 0; break;
    case 15: at->tagged_addresses = tagged; break;
    case 16: at->tagged_addresses = tagged_to; break;
    case 17: at->tagged_addresses = tagged_key; break;
    case 18: at->ports = port; break;
    case 19: at->ports = port_name; break;
    case 20: at->ports = port_default; break;
    case 21: at->num_ports = 1; break;
    case 22: at->id = "web-2"; break;
    case 23: at->node = "n2"; break;
    case 24: at->peer = "p"; break;
    case 25: at->partition = "q"; break;
    case 26: at->ns = "r"; break;
    default: return false;
    }
    return true;
}

static void test_cache_everything_visible_counts(void)
{
    bool is_other = false;
    sdc_instance one;
    for (size_t nth = 0; cache_change_nth(&one, nth, &is_other); nth++) {
        test_note("change %zu", nth);
        cache_bed bed;
        cache_spy spy = { 0 };
        REQUIRE(cache_bed_init(&bed));
        cache_fill_one(&one);
        CHECK_ERR(sdc_cache_update(bed.cache, &one, 1, 1, 1000), SDC_OK);
        CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
        cache_change_nth(&one, nth, &is_other);
        CHECK_ERR(sdc_cache_update(bed.cache, &one, 1, 1, 1000), SDC_OK);
        CHECK_INT(spy.calls, 2);
        if (is_other) {
            CHECK_HAS(spy.told, " +10.0.0.1:80 -10.0.0.1:80");
        } else {
            CHECK_HAS(spy.told, " ~10.0.0.1:8");
            CHECK_HASNT(spy.told, "+");
            CHECK_HASNT(spy.told, "-");
        }
        cache_bed_deinit(&bed);
    }
}

/* ---- what is told ---------------------------------------------------------------------------- */

static void test_cache_subscriber_is_called_at_once(void)
{
    cache_bed bed;
    cache_spy early = { 0 };
    cache_spy late = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &early), SDC_OK);
    CHECK_STR(early.told, "not yet? ");
    CHECK_ERR(cache_put(&bed, "a@1:1 b@2:2"), SDC_OK);
    CHECK_STR(early.told, "ok 1:1,2:2 +1:1 +2:2");
    CHECK_ERR(cache_listen(&bed, &late), SDC_OK);
    CHECK_INT(late.calls, 1);
    CHECK(late.before == NULL);
    CHECK_STR(late.told, "ok 1:1,2:2 +1:1 +2:2");
    CHECK_ERR(cache_put(&bed, "a@1:1 b@2:2"), SDC_OK);
    CHECK_INT(early.calls, 2);
    CHECK_INT(late.calls, 1);
    cache_bed_deinit(&bed);
}

static void test_cache_pair_names_a_subscription(void)
{
    cache_bed bed;
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &one), SDC_ERR_ARG);
    CHECK_INT(one.calls, 1);
    CHECK_ERR(cache_listen(&bed, &two), SDC_OK);
    CHECK_ERR(sdc_cache_subscribe(bed.cache, NULL, &two), SDC_ERR_ARG);
    sdc_cache_unsubscribe(bed.cache, NULL, &two);
    sdc_cache_unsubscribe(bed.cache, cache_on_event, &bed);
    CHECK_ERR(cache_put(&bed, "1:1"), SDC_OK);
    CHECK_INT(one.calls, 2);
    CHECK_INT(two.calls, 2);
    sdc_cache_unsubscribe(bed.cache, cache_on_event, &one);
    CHECK_ERR(cache_put(&bed, "2:2"), SDC_OK);
    CHECK_INT(one.calls, 2);
    CHECK_INT(two.calls, 3);
    one.last = NULL;
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
    CHECK_STR(one.told, "ok 2:2 +2:2");
    cache_bed_deinit(&bed);
}

static void test_cache_tells_added_removed_and_updated(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(cache_put(&bed, "c@3:3 a@1:1 b@2:2"), SDC_OK);
    CHECK_STR(spy.told, "ok 1:1,2:2,3:3 +1:1 +2:2 +3:3");
    CHECK_ERR(cache_put(&bed, "e@5:5 b@2:2 d@4:4"), SDC_OK);
    CHECK_STR(spy.told, "ok 2:2,4:4,5:5 +4:4 +5:5 -1:1 -3:3");
    CHECK_ERR(cache_put(&bed, ""), SDC_OK);
    CHECK_STR(spy.told, "ok  -2:2 -4:4 -5:5");
    cache_bed_deinit(&bed);
}

static void test_cache_instance_that_moves_is_updated(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1 b@2:2 c@3:3"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(cache_put(&bed, "a@9:9 b@2:2 d@4:4"), SDC_OK);
    CHECK_STR(spy.told, "ok 2:2,4:4,9:9 +4:4 -3:3 ~9:9");
    CHECK_ERR(cache_put(&bed, "a@2:2 b@9:9 d@4:4"), SDC_OK);        /* they swap */
    CHECK_STR(spy.told, "ok 2:2,4:4,9:9 ~2:2 ~9:9");
    CHECK_ERR(cache_put(&bed, "a@0:0/n2 b@9:9 d@4:4"), SDC_OK);     /* an id counts on its node */
    CHECK_STR(spy.told, "ok 0:0,4:4,9:9 +0:0 -2:2");
    cache_bed_deinit(&bed);
}

static void test_cache_without_ids_the_addr_is_the_identity(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "1:1 2:2 3:3"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(cache_put(&bed, "3:3 4:4 1:1"), SDC_OK);
    CHECK_STR(spy.told, "ok 1:1,3:3,4:4 +4:4 -2:2");
    sdc_instance list[3];
    memset(list, 0, sizeof list);
    list[0].addr = "1:1";
    list[1].addr = "3:3";
    list[1].weight = 5;
    list[2].addr = "4:4";
    CHECK_ERR(sdc_cache_update(bed.cache, list, 3, 1, 1000), SDC_OK);
    CHECK_STR(spy.told, "ok 1:1,3:3,4:4 ~3:3");
    cache_bed_deinit(&bed);
}

/* ---- against a model ------------------------------------------------------------------------- */

typedef struct cache_model {
    sdc_instance before[CACHE_LIST_MAX], now[CACHE_LIST_MAX];
    char         addrs[2][CACHE_LIST_MAX][16];
    size_t       num_before, num_now;
    unsigned     calls;
} cache_model;

static const char cache_ids[CACHE_LIST_MAX / 2][4] = {
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"
};

static uint64_t cache_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Each id is there or not, anywhere among few addresses, with one of two weights. */
static void cache_model_next(cache_model *m, uint64_t *state, unsigned round)
{
    memcpy(m->before, m->now, sizeof m->now);
    m->num_before = m->num_now;
    m->num_now = 0;
    for (size_t i = 0; i < CACHE_LIST_MAX / 2; i++) {
        char *addr = m->addrs[round % 2][i];
        snprintf(addr, sizeof m->addrs[0][0], "%u:1", (unsigned)(cache_random(state) % 12));
        sdc_instance *at = &m->now[m->num_now];
        memset(at, 0, sizeof *at);
        at->id = cache_ids[i];
        at->addr = addr;
        at->weight = (uint32_t)(1 + cache_random(state) % 2);
        m->num_now += cache_random(state) % 4 != 0 ? 1 : 0;
    }
}

static const sdc_instance *cache_model_find(const sdc_instance *list, size_t num, const char *id)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(list[i].id, id) == 0) {
            return &list[i];
        }
    }
    return NULL;
}

static bool cache_has(const sdc_instance *const *list, size_t num, const char *id)
{
    size_t count = 0;
    for (size_t i = 0; i < num; i++) {
        count += strcmp(list[i]->id, id) == 0 ? 1 : 0;
    }
    CHECK(count <= 1);
    return count > 0;
}

static void cache_check_order(const sdc_instance *const *list, size_t num)
{
    for (size_t i = 1; i < num; i++) {
        CHECK(list[i - 1] < list[i]);
    }
}

static void cache_model_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    cache_model *m = (cache_model *)user;
    size_t num = 0;
    m->calls++;
    CHECK_INT(event->num_instances, m->num_now);
    for (size_t i = 0; i < CACHE_LIST_MAX / 2; i++) {
        const char *id = cache_ids[i];
        const sdc_instance *old = cache_model_find(m->before, m->num_before, id);
        const sdc_instance *now = cache_model_find(m->now, m->num_now, id);
        bool differs = old != NULL && now != NULL &&
                       (strcmp(old->addr, now->addr) != 0 || old->weight != now->weight);
        num += (old == NULL) != (now == NULL) || differs ? 1 : 0;
        CHECK_INT(cache_has(change->added, change->num_added, id), old == NULL && now != NULL);
        CHECK_INT(cache_has(change->removed, change->num_removed, id), old != NULL && now == NULL);
        CHECK_INT(cache_has(change->updated, change->num_updated, id), differs);
    }
    CHECK_INT(change->num_added + change->num_removed + change->num_updated, num);
    cache_check_order(change->added, change->num_added);
    cache_check_order(change->removed, change->num_removed);
    cache_check_order(change->updated, change->num_updated);
    for (size_t i = 1; i < event->num_instances; i++) {
        CHECK(strcmp(event->instances[i - 1].addr, event->instances[i].addr) <= 0);
    }
}

static void test_cache_changes_are_those_of_a_model(void)
{
    cache_bed bed;
    cache_model m;
    uint64_t state = 5;
    memset(&m, 0, sizeof m);
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(sdc_cache_subscribe(bed.cache, cache_model_on_event, &m), SDC_OK);
    for (unsigned round = 0; round < 500 && test_num_failures() == 0; round++) {
        test_note("round %u", round);
        cache_model_next(&m, &state, round);
        CHECK_ERR(sdc_cache_update(bed.cache, m.now, m.num_now, round, round), SDC_OK);
        CHECK_INT(m.calls, round + 2);
    }
    cache_bed_deinit(&bed);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void test_cache_error_keeps_the_instances(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_CONNECT, "first", 2000), SDC_OK);
    CHECK_INT(spy.calls, 2);
    const sdc_event *event = cache_peek(&bed);
    CHECK_ERR(event->err, SDC_ERR_CONNECT);
    CHECK(event->is_known);
    CHECK_STR(event->message, "first");
    CHECK_U64(event->at_ms, 2000);
    CHECK_U64(event->failing_since_ms, 2000);
    REQUIRE(event->num_instances == 1);
    CHECK_STR(event->instances[0].addr, "1:1");
    CHECK_STR(event->instances[0].id, "a");
    CHECK_HASNT(spy.told, "+");
    CHECK_HASNT(spy.told, "~");
    cache_bed_deinit(&bed);
}

static void test_cache_error_is_told_when_its_code_changes(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_CONNECT, "first", 2000), SDC_OK);
    const sdc_event *event = cache_peek(&bed);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_CONNECT, "second", 3000), SDC_OK);
    CHECK(cache_peek(&bed) == event);
    CHECK_STR(event->message, "first");
    CHECK_INT(spy.calls, 2);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_TIMEOUT, "third", 4000), SDC_OK);
    CHECK_INT(spy.calls, 3);
    event = cache_peek(&bed);
    CHECK_STR(event->message, "third");
    CHECK_U64(event->failing_since_ms, 2000);
    CHECK_U64(event->at_ms, 4000);
    cache_bed_deinit(&bed);
}

static void test_cache_recovery_is_an_event(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_IO, "broken", 2000), SDC_OK);
    bed.now_ms = 3000;
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_INT(spy.calls, 3);
    CHECK_STR(spy.told, "ok 1:1");
    const sdc_event *event = cache_peek(&bed);
    CHECK_STR(event->message, "");
    CHECK_U64(event->failing_since_ms, 0);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_IO, "again", 4000), SDC_OK);
    CHECK_U64(cache_peek(&bed)->failing_since_ms, 4000);
    cache_bed_deinit(&bed);
}

static void test_cache_error_before_the_first_answer(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_USER, NULL, 0), SDC_OK);
    const sdc_event *event = cache_peek(&bed);
    CHECK(!event->is_known);
    CHECK_STR(event->message, sdc_err_str(SDC_ERR_USER));
    CHECK(event->failing_since_ms != 0);                /* 0 means that nothing fails */
    CHECK_ERR(cache_put(&bed, ""), SDC_OK);
    CHECK_STR(spy.told, "ok ");
    CHECK(cache_peek(&bed)->is_known);
    cache_bed_deinit(&bed);
}

static void test_cache_refuses_errors_that_are_none(void)
{
    static const sdc_err bad[] = { SDC_OK, SDC_AGAIN, SDC_STOPPED, SDC_GONE,
                                   (sdc_err)(SDC_ERR_USER + 1) };
    cache_bed bed;
    REQUIRE(cache_bed_init(&bed));
    const sdc_event *event = cache_peek(&bed);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_ERR(sdc_cache_update_error(bed.cache, bad[i], "x", 1), SDC_ERR_ARG);
    }
    CHECK(cache_peek(&bed) == event);
    cache_bed_deinit(&bed);
}

static void test_cache_message_is_one_printable_line(void)
{
    cache_bed bed;
    char text[600];
    memset(text, 'm', sizeof text);
    text[sizeof text - 1] = '\0';
    text[3] = '\n';
    text[4] = '\x1b';
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_USER, text, 1), SDC_OK);
    const char *message = cache_peek(&bed)->message;
    CHECK(strlen(message) < sizeof ((sdc_error *)0)->message);
    CHECK(strlen(message) > 100);
    for (size_t i = 0; message[i] != '\0'; i++) {
        CHECK(message[i] >= 0x20 && message[i] != 0x7f);
    }
    cache_bed_deinit(&bed);
}

/* ---- callbacks that do things ---------------------------------------------------------------- */

static void cache_then_update(cache_spy *spy)
{
    if (spy->calls == 2) {
        spy->result = cache_put(spy->bed, "b@2:2");
    }
}

static void test_cache_update_inside_a_callback(void)
{
    cache_bed bed;
    cache_spy first = { 0 };
    cache_spy middle = { 0 };
    cache_spy last = { 0 };
    middle.then = cache_then_update;
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &first), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &middle), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &last), SDC_OK);
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(middle.result, SDC_OK);
    CHECK_STR(first.told, "ok 2:2 +2:2 -1:1");
    CHECK_STR(middle.told, "ok 2:2 +2:2 -1:1");
    CHECK_HAS(last.told, "ok 2:2 +2:2");
    CHECK_STR(cache_peek(&bed)->instances[0].id, "b");
    cache_bed_deinit(&bed);
}

static void cache_then_update_at_once(cache_spy *spy)
{
    if (spy->calls == 1) {
        spy->result = cache_put(spy->bed, "b@2:2");
    }
}

static void test_cache_update_inside_the_first_call(void)
{
    cache_bed bed;
    cache_spy before = { 0 };
    cache_spy spy = { 0 };
    spy.then = cache_then_update_at_once;
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &before), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(spy.result, SDC_OK);
    CHECK_STR(before.told, "ok 2:2 +2:2 -1:1");
    CHECK_STR(spy.told, "ok 2:2 +2:2 -1:1");
    CHECK_INT(spy.calls, 2);
    cache_bed_deinit(&bed);
}

static void cache_then_leave(cache_spy *spy)
{
    sdc_cache_unsubscribe(spy->bed->cache, cache_on_event, spy);
}

static void test_cache_leave_inside_a_callback(void)
{
    cache_bed bed;
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    REQUIRE(cache_bed_init(&bed));
    one.then = cache_then_leave;
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);        /* leaves in its first call */
    CHECK_ERR(cache_listen(&bed, &two), SDC_OK);
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_INT(one.calls, 1);
    CHECK_INT(two.calls, 2);
    two.then = cache_then_leave;
    CHECK_ERR(cache_put(&bed, "a@2:2"), SDC_OK);
    CHECK_ERR(cache_put(&bed, "a@3:3"), SDC_OK);
    CHECK_INT(two.calls, 3);
    cache_bed_deinit(&bed);
}

static void cache_then_update_and_leave(cache_spy *spy)
{
    if (spy->calls == 1) {
        spy->result = cache_put(spy->bed, "b@2:2");
        sdc_cache_unsubscribe(spy->bed->cache, cache_on_event, spy);
    }
}

static void test_cache_update_and_leave_inside_the_first_call(void)
{
    cache_bed bed;
    cache_spy spy = { 0 };
    spy.then = cache_then_update_and_leave;
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &spy), SDC_OK);
    CHECK_ERR(spy.result, SDC_OK);
    CHECK_ERR(cache_put(&bed, "c@3:3"), SDC_OK);
    CHECK_BETWEEN(spy.calls, 1, 2);
    cache_bed_deinit(&bed);
}

static void cache_then_dismiss_other(cache_spy *spy)
{
    if (spy->calls == 2) {
        sdc_cache_unsubscribe(spy->bed->cache, cache_on_event, spy->other);
    }
}

static void test_cache_dismiss_another_inside_a_callback(void)
{
    for (size_t way = 0; way < 2; way++) {
        cache_bed bed;
        cache_spy one = { 0 };
        cache_spy two = { 0 };
        cache_spy *dismisses = way == 0 ? &one : &two;
        REQUIRE(cache_bed_init(&bed));
        dismisses->then = cache_then_dismiss_other;
        dismisses->other = way == 0 ? &two : &one;
        CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
        CHECK_ERR(cache_listen(&bed, &two), SDC_OK);
        CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
        CHECK_ERR(cache_put(&bed, "a@2:2"), SDC_OK);
        CHECK_INT(dismisses->calls, 3);
        CHECK_INT(dismisses->other->calls, way == 0 ? 1 : 2);   /* never again after that */
        cache_bed_deinit(&bed);
    }
}

static void cache_then_bring_other(cache_spy *spy)
{
    if (spy->calls == 2) {
        spy->result = cache_listen(spy->bed, spy->other);
    }
}

static void test_cache_subscribe_inside_a_callback(void)
{
    cache_bed bed;
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    cache_spy late = { 0 };
    REQUIRE(cache_bed_init(&bed));
    one.then = cache_then_bring_other;
    one.other = &late;
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &two), SDC_OK);
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(one.result, SDC_OK);
    CHECK_INT(late.calls, 1);
    CHECK_INT(two.calls, 2);
    CHECK_STR(late.told, "ok 1:1 +1:1");
    CHECK_ERR(cache_put(&bed, "a@2:2"), SDC_OK);
    CHECK_INT(late.calls, 2);
    CHECK_STR(late.told, "ok 2:2 ~2:2");
    cache_bed_deinit(&bed);
}

static void cache_then_destroy(cache_spy *spy)
{
    sdc_cache_destroy(spy->bed->cache);
    spy->bed->cache = NULL;
}

static void test_cache_destroy_inside_a_callback(void)
{
    cache_bed bed;
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &two), SDC_OK);
    one.then = cache_then_destroy;
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_GONE);
    CHECK_INT(one.calls, 2);
    CHECK_INT(two.calls, 1);
    cache_bed_deinit(&bed);
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_OK);
    memset(&two, 0, sizeof two);
    two.then = cache_then_destroy;
    CHECK_ERR(cache_listen(&bed, &two), SDC_GONE);
    cache_bed_deinit(&bed);
    REQUIRE(cache_bed_init(&bed));
    memset(&one, 0, sizeof one);
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
    one.then = cache_then_destroy;
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_IO, "x", 1), SDC_GONE);
    cache_bed_deinit(&bed);
}

static void cache_then_update_and_destroy(cache_spy *spy)
{
    spy->result = cache_put(spy->bed, "b@2:2");
    cache_then_destroy(spy);
}

static void test_cache_update_and_destroy_inside_a_callback(void)
{
    cache_bed bed;
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_listen(&bed, &one), SDC_OK);
    CHECK_ERR(cache_listen(&bed, &two), SDC_OK);
    one.then = cache_then_update_and_destroy;
    CHECK_ERR(cache_put(&bed, "a@1:1"), SDC_GONE);
    CHECK_ERR(one.result, SDC_OK);
    CHECK_INT(two.calls, 1);
    cache_bed_deinit(&bed);
}

/* ---- lists that are gathered beside the event before ------------------------------------------ */

enum { GATHER_MAX = 160 };

/* Instances as a body has them, with texts of their own. */
typedef struct gather_item {
    sdc_instance in;
    char         addr[64], host[32], id[32], node[32], commit[24];
    const char  *tags[2];
    sdc_kv       meta[3];
    sdc_address  tagged[2];
    sdc_port     ports[1];
} gather_item;

typedef struct gather_body {
    gather_item  items[GATHER_MAX];
    unsigned     versions[GATHER_MAX];
    size_t       order[GATHER_MAX];     /* of the body: numbers of instances */
    size_t       num;
} gather_body;

static void gather_fill(gather_item *item, size_t n, unsigned version)
{
    static const char *const zones[] = { "eu-central-1a", "eu-central-1b", "eu-central-1c" };
    memset(item, 0, sizeof *item);
    sdc_instance *in = &item->in;
    snprintf(item->host, sizeof item->host, "10.0.%u.%u", (unsigned)(n / 4), version / 50);
    snprintf(item->addr, sizeof item->addr, "%s:%u", item->host,
             (unsigned)(20000 + (n * 7919 + version * 31) % 10000));
    snprintf(item->id, sizeof item->id, "web-%zu", n);
    snprintf(item->node, sizeof item->node, "node-%zu", n / 4);
    snprintf(item->commit, sizeof item->commit, "%08x", (unsigned)(n * 2654435761u + version));
    item->tags[0] = zones[n % 3];
    item->tags[1] = version % 2 == 0 ? "v1.14.2" : "v1.15.0";
    item->meta[0].key = "commit";
    item->meta[0].value = n % 5 == 0 ? "" : item->commit;
    item->meta[1].key = "team";
    item->meta[1].value = "storefront";
    item->tagged[0].key = "lan";
    item->tagged[0].address = item->host;
    item->tagged[0].port = 80;
    item->ports[0].name = "http";
    item->ports[0].port = 80;
    in->addr = item->addr;
    in->host = item->host;
    in->id = item->id;
    in->node = item->node;
    in->service = "web";
    in->datacenter = "dc1";
    in->socket_path = in->ns = in->partition = in->peer = in->region = in->zone = "";
    in->tags = item->tags;
    in->num_tags = n % 7 == 0 ? 0 : 2;
    in->meta = item->meta;
    in->num_meta = 2;
    in->tagged_addresses = item->tagged;
    in->num_tagged_addresses = n % 4 == 0 ? 0 : 1;
    in->ports = item->ports;
    in->num_ports = n % 11 == 0 ? 1 : 0;
    in->port = 80;
    in->weight = 1;
    in->status = SDC_STATUS_PASSING;
}

static void gather_body_init(gather_body *body, size_t num)
{
    memset(body, 0, sizeof *body);
    for (size_t i = 0; i < GATHER_MAX; i++) {
        gather_fill(&body->items[i], i, 0);
        body->order[i] = i;
    }
    body->num = num;
}

static void gather_change(gather_body *body, size_t n)
{
    body->versions[n]++;
    gather_fill(&body->items[n], n, body->versions[n]);
}

/* Adds the body to a list beside the newest event and offers it, as an instancer does. */
static sdc_err gather_offer(sdc_cache *cache, const gather_body *body, bool *changed)
{
    sdci_list list;
    sdci_list_init(&list, &cache->allocator, cache->current, &cache->spare);
    for (size_t i = 0; i < body->num; i++) {
        gather_item copy = body->items[body->order[i]];     /* gone when it has been added */
        sdci_list_add(&list, &copy.in, 0);
        memset(copy.commit, 'x', sizeof copy.commit);
    }
    sdc_err err = sdci_cache_offer(cache, &list, 7, 1000, false, changed);
    sdci_list_deinit(&list);
    return err;
}

static void gather_reverse(gather_body *body, size_t from, size_t to)
{
    for (; from + 1 < to; from++, to--) {
        size_t swap = body->order[from];
        body->order[from] = body->order[to - 1];
        body->order[to - 1] = swap;
    }
}

static void test_cache_unchanged_list_needs_no_memory(void)
{
    gather_body body;
    cache_bed bed;
    bool changed = false;
    REQUIRE(cache_bed_init(&bed));
    gather_body_init(&body, 100);
    CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
    CHECK(changed);
    for (int round = 0; round < 3; round++) {
        const sdc_event *before = cache_peek(&bed);
        uint64_t calls = bed.memory.num_calls;
        CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
        CHECK(!changed);
        CHECK(cache_peek(&bed) == before);
        CHECK_U64(bed.memory.num_calls, calls);
        /* the same instances in another order: that takes some work, but only once */
        gather_reverse(&body, 10, 90);
        CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
        CHECK(!changed);
        CHECK(cache_peek(&bed) == before);
    }
    cache_bed_deinit(&bed);
}

/* One byte less at the end of a body is a change too: its last instance is gone. */
static void test_cache_list_that_ends_early_is_a_change(void)
{
    gather_body body;
    cache_bed bed;
    bool changed = false;
    REQUIRE(cache_bed_init(&bed));
    gather_body_init(&body, 20);
    CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
    body.num = 19;
    CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
    CHECK(changed);
    CHECK_INT(cache_peek(&bed)->num_instances, 19);
    body.num = 0;
    CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
    CHECK(changed);
    CHECK_INT(cache_peek(&bed)->num_instances, 0);
    CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
    CHECK(!changed);
    cache_bed_deinit(&bed);
}

static bool gather_is_inside(const sdci_event *event, const void *p, size_t size)
{
    uintptr_t at = (uintptr_t)p - (uintptr_t)event;
    return at >= sizeof *event && at + size <= event->text_end;
}

/* Everything that an event points to is in its own block. */
static void gather_check_own(const sdc_event *event)
{
    const sdci_event *block = sdci_event_of(event);
    for (size_t i = 0; i < event->num_instances; i++) {
        const sdc_instance *at = &event->instances[i];
        const char *const texts[] = { at->addr, at->host, at->socket_path, at->id, at->service,
                                      at->node, at->datacenter, at->ns, at->partition, at->peer,
                                      at->region, at->zone };
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            CHECK(gather_is_inside(block, texts[k], strlen(texts[k]) + 1));
        }
        for (size_t k = 0; k < at->num_tags; k++) {
            CHECK(gather_is_inside(block, &at->tags[k], sizeof at->tags[k]));
            CHECK(gather_is_inside(block, at->tags[k], 1));
        }
        for (size_t k = 0; k < at->num_meta; k++) {
            CHECK(gather_is_inside(block, &at->meta[k], sizeof at->meta[k]));
            CHECK(gather_is_inside(block, at->meta[k].key, 1));
            CHECK(gather_is_inside(block, at->meta[k].value, 1));
        }
        for (size_t k = 0; k < at->num_tagged_addresses; k++) {
            CHECK(gather_is_inside(block, at->tagged_addresses[k].key, 1));
            CHECK(gather_is_inside(block, at->tagged_addresses[k].address, 1));
        }
        for (size_t k = 0; k < at->num_ports; k++) {
            CHECK(gather_is_inside(block, at->ports[k].name, 1));
        }
    }
}

/* One step of a random history of a service. */
static void gather_step(gather_body *body, uint64_t *state)
{
    size_t at = body->num > 0 ? (size_t)(cache_random(state) % body->num) : 0;
    size_t some = (size_t)(cache_random(state) % 30);
    switch (cache_random(state) % 10) {
    case 0:                                     /* another order */
        gather_reverse(body, at, at + some < body->num ? at + some : body->num);
        break;
    case 1:                                     /* all restart, or many */
        for (size_t i = 0; i < body->num; i += 1 + at % 3) {
            gather_change(body, body->order[i]);
        }
        break;
    case 2: case 3:                             /* some go: they trade places with later ones */
        for (size_t i = 0; i < some % 6 && body->num > 0; i++) {
            body->num--;
            at %= body->num + 1;
            size_t gone = body->order[at];
            memmove(&body->order[at], &body->order[at + 1],
                    (GATHER_MAX - at - 1) * sizeof body->order[0]);
            body->order[GATHER_MAX - 1] = gone;
        }
        break;
    case 4: case 5:                             /* some come */
        for (size_t i = 0; i < some % 6 && body->num < GATHER_MAX; i++) {
            size_t come = body->order[GATHER_MAX - 1];
            memmove(&body->order[at + 1], &body->order[at],
                    (GATHER_MAX - at - 1) * sizeof body->order[0]);
            body->order[at] = come;
            body->num++;
        }
        break;
    case 6:
        break;
    default:
        if (body->num > 0) {
            gather_change(body, body->order[at]);
        }
        break;
    }
}

/* What is gathered beside the event before is what is gathered from nothing, told alike, and no
   event changes when others are made of it. */
static void test_cache_gathered_lists_are_those_given_at_once(void)
{
    static gather_body body;
    sdc_instance given[GATHER_MAX];
    cache_bed beside;
    cache_bed plain;
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    uint64_t state = 4;
    char before[sizeof one.told];
    REQUIRE(cache_bed_init(&beside) && cache_bed_init(&plain));
    beside.cache->keeps_spare = true;
    gather_body_init(&body, 60);
    CHECK_ERR(cache_listen(&beside, &one), SDC_OK);
    CHECK_ERR(cache_listen(&plain, &two), SDC_OK);
    for (unsigned round = 0; round < 700 && test_num_failures() == 0; round++) {
        bool changed = false;
        test_note("round %u", round);
        const sdc_event *held = sdc_cache_state(beside.cache);
        sdc_change none;
        memset(&none, 0, sizeof none);
        cache_describe(before, sizeof before, held, &none);
        gather_step(&body, &state);
        for (size_t i = 0; i < body.num; i++) {
            given[i] = body.items[body.order[i]].in;
        }
        CHECK_ERR(gather_offer(beside.cache, &body, &changed), SDC_OK);
        CHECK_ERR(sdc_cache_update(plain.cache, given, body.num, 7, 1000), SDC_OK);
        CHECK_INT(changed || held->err != SDC_OK, cache_peek(&beside) != held);
        CHECK_INT(one.calls, two.calls);
        CHECK_STR(one.told, two.told);
        CHECK(sdci_same_instances(cache_peek(&beside), cache_peek(&plain)));
        gather_check_own(cache_peek(&beside));
        /* what nobody points to any more is not carried along for ever */
        CHECK(sdci_event_of(cache_peek(&beside))->text_end <=
              sdci_event_of(cache_peek(&plain))->text_end * 3 / 2 + 2048);
        if (round % 40 == 39) {
            CHECK_ERR(sdc_cache_update_error(beside.cache, SDC_ERR_IO, "x", 1000), SDC_OK);
            CHECK_ERR(sdc_cache_update_error(plain.cache, SDC_ERR_IO, "x", 1000), SDC_OK);
            gather_check_own(cache_peek(&beside));
        }
        char after[sizeof before];
        cache_describe(after, sizeof after, held, &none);
        CHECK_STR(after, before);
        sdc_event_release(held);
    }
    cache_bed_deinit(&beside);
    cache_bed_deinit(&plain);
}

static void test_cache_instances_share_texts_and_arrays(void)
{
    static gather_body body;
    cache_bed bed;
    bool changed = false;
    REQUIRE(cache_bed_init(&bed));
    gather_body_init(&body, 140);
    CHECK_ERR(gather_offer(bed.cache, &body, &changed), SDC_OK);
    const sdc_event *event = cache_peek(&bed);
    size_t num_services = 1;
    size_t num_tags = 1;
    for (size_t i = 1; i < event->num_instances; i++) {
        num_services += event->instances[i].service != event->instances[i - 1].service ? 1 : 0;
        for (size_t k = 0; k < i && event->instances[i].num_tags > 0; k++) {
            if (event->instances[k].tags == event->instances[i].tags) {
                break;
            }
            num_tags += k + 1 == i ? 1 : 0;
        }
    }
    CHECK_BETWEEN(num_services, 1, 4);
    CHECK_BETWEEN(num_tags, 3, 20);
    /* less than the instances alone would be twice */
    CHECK(sdci_event_of(event)->text_end - sizeof(sdci_event) < 140 * sizeof(sdc_instance));
    cache_bed_deinit(&bed);
}

static bool gather_story(cache_bed *bed, gather_body *body, uint64_t nth)
{
    bool changed = false;
    fault_alloc_fail(&bed->memory, nth, false);
    for (int i = 0; i < 4; i++) {
        const sdc_event *before = cache_peek(bed);
        sdc_err err = gather_offer(bed->cache, body, &changed);
        if (err != SDC_OK) {
            CHECK_ERR(err, SDC_ERR_NOMEM);
            CHECK(cache_peek(bed) == before);
            CHECK_ERR(gather_offer(bed->cache, body, &changed), SDC_OK);
        }
        CHECK_INT(cache_peek(bed)->num_instances, body->num);
        gather_check_own(cache_peek(bed));
        switch (i) {
        case 0: gather_change(body, body->order[5]); break;
        case 1: gather_reverse(body, 0, 50); break;
        default:
            for (size_t k = 0; k < body->num; k += 2) {
                gather_change(body, body->order[k]);
            }
        }
    }
    return bed->memory.num_failed > 0;
}

static void test_cache_gathering_outlives_each_failed_allocation(void)
{
    static gather_body body;
    bool happened = true;
    for (uint64_t nth = 1; happened && test_num_failures() == 0; nth++) {
        test_note("allocation %llu", (unsigned long long)nth);
        cache_bed bed;
        REQUIRE(cache_bed_init(&bed));
        bed.cache->keeps_spare = nth % 2 == 0;
        gather_body_init(&body, 60);
        happened = gather_story(&bed, &body, nth);
        cache_bed_deinit(&bed);
        CHECK(nth < 500);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void test_cache_events_outlive_it(void)
{
    cache_bed bed;
    REQUIRE(cache_bed_init(&bed));
    CHECK_ERR(cache_put(&bed, "a@1:1 b@2:2"), SDC_OK);
    const sdc_event *first = sdc_cache_state(bed.cache);
    CHECK(sdc_event_retain(first) == first);
    CHECK_ERR(cache_put(&bed, "c@3:3"), SDC_OK);
    const sdc_event *second = sdc_cache_state(bed.cache);
    sdc_cache_destroy(bed.cache);
    bed.cache = NULL;
    CHECK_STR(first->instances[1].id, "b");
    CHECK_STR(second->instances[0].addr, "3:3");
    sdc_event_release(first);
    CHECK_STR(first->instances[0].addr, "1:1");
    sdc_event_release(first);
    sdc_event_release(second);
    sdc_event_release(NULL);
    sdc_cache_destroy(NULL);
    cache_bed_deinit(&bed);
}

/* Each allocation of a story fails once: that call says so and changes nothing, the same call
   succeeds a moment later, and nobody has missed anything in the end. */
static bool cache_story(cache_bed *bed, uint64_t nth)
{
    static const char *const lists[] = { "a@1:1 b@2:2", "a@9:9 c@3:3", "", "d@4:4" };
    cache_spy one = { 0 };
    cache_spy two = { 0 };
    fault_alloc_fail(&bed->memory, nth, false);
    for (size_t i = 0; i < 4; i++) {
        const sdc_event *before = cache_peek(bed);
        sdc_err err = cache_put(bed, lists[i]);
        if (err != SDC_OK) {
            CHECK_ERR(err, SDC_ERR_NOMEM);
            CHECK(cache_peek(bed) == before);
            CHECK_ERR(cache_put(bed, lists[i]), SDC_OK);
        }
        cache_spy *spy = i == 0 ? &one : i == 1 ? &two : NULL;
        if (spy != NULL && cache_listen(bed, spy) == SDC_ERR_NOMEM) {
            CHECK_INT(spy->calls, 0);
            CHECK_ERR(cache_listen(bed, spy), SDC_OK);
        }
        err = sdc_cache_update_error(bed->cache, SDC_ERR_IO, "x", i);
        if (err != SDC_OK) {
            CHECK_ERR(err, SDC_ERR_NOMEM);
            CHECK_ERR(sdc_cache_update_error(bed->cache, SDC_ERR_IO, "x", i), SDC_OK);
        }
    }
    bool happened = bed->memory.num_failed > 0;
    fault_alloc_fail(&bed->memory, 0, false);
    CHECK_ERR(cache_put(bed, "e@5:5"), SDC_OK);
    CHECK_STR(one.told, "ok 5:5 +5:5 -4:4");
    CHECK_STR(two.told, "ok 5:5 +5:5 -4:4");
    return happened;
}

static void test_cache_each_allocation_fails_once(void)
{
    bool happened = true;
    for (uint64_t nth = 1; happened && test_num_failures() == 0; nth++) {
        test_note("allocation %llu", (unsigned long long)nth);
        cache_bed bed;
        REQUIRE(cache_bed_init(&bed));
        happened = cache_story(&bed, nth);
        cache_bed_deinit(&bed);
        CHECK(nth < 500);
    }
    fault_alloc memory;
    sdc_cache *cache = NULL;
    for (uint64_t nth = 1; nth <= 2; nth++) {
        fault_alloc_init(&memory);
        fault_alloc_fail(&memory, nth, false);
        sdc_allocator hook = fault_alloc_hook(&memory);
        CHECK_ERR(sdc_cache_create(&hook, &cache), SDC_ERR_NOMEM);
        CHECK(cache == NULL);
        fault_alloc_deinit(&memory);
    }
}

static void test_cache_uses_malloc_by_default(void)
{
    sdc_cache *cache = NULL;
    sdc_instance one;
    memset(&one, 0, sizeof one);
    one.addr = "1:1";
    REQUIRE(sdc_cache_create(NULL, &cache) == SDC_OK);
    CHECK_ERR(sdc_cache_update(cache, &one, 1, 0, 0), SDC_OK);
    const sdc_event *event = sdc_cache_state(cache);
    CHECK_STR(event->instances[0].addr, "1:1");
    sdc_event_release(event);
    sdc_cache_destroy(cache);
}

static const test_case cases_cache[] = {
    TEST(test_cache_starts_with_nothing_heard),
    TEST(test_cache_copies_and_sorts),
    TEST(test_cache_sorts_by_addr_node_and_id),
    TEST(test_cache_refuses_what_has_no_address),
    TEST(test_cache_clock_that_goes_back_stands_still),
    TEST(test_11_order_of_lists_does_not_count_in_a_cache),
    TEST(test_cache_everything_visible_counts),
    TEST(test_cache_subscriber_is_called_at_once),
    TEST(test_cache_pair_names_a_subscription),
    TEST(test_cache_tells_added_removed_and_updated),
    TEST(test_cache_instance_that_moves_is_updated),
    TEST(test_cache_without_ids_the_addr_is_the_identity),
    TEST(test_cache_changes_are_those_of_a_model),
    TEST(test_cache_error_keeps_the_instances),
    TEST(test_cache_error_is_told_when_its_code_changes),
    TEST(test_cache_recovery_is_an_event),
    TEST(test_cache_error_before_the_first_answer),
    TEST(test_cache_refuses_errors_that_are_none),
    TEST(test_cache_message_is_one_printable_line),
    TEST(test_cache_update_inside_a_callback),
    TEST(test_cache_update_inside_the_first_call),
    TEST(test_cache_leave_inside_a_callback),
    TEST(test_cache_update_and_leave_inside_the_first_call),
    TEST(test_cache_dismiss_another_inside_a_callback),
    TEST(test_cache_subscribe_inside_a_callback),
    TEST(test_cache_destroy_inside_a_callback),
    TEST(test_cache_update_and_destroy_inside_a_callback),
    TEST(test_cache_unchanged_list_needs_no_memory),
    TEST(test_cache_list_that_ends_early_is_a_change),
    TEST(test_cache_gathered_lists_are_those_given_at_once),
    TEST(test_cache_instances_share_texts_and_arrays),
    TEST(test_cache_gathering_outlives_each_failed_allocation),
    TEST(test_cache_events_outlive_it),
    TEST(test_cache_each_allocation_fails_once),
    TEST(test_cache_uses_malloc_by_default)
};
