/* Tests of [sdc:endpointer], and of the life of endpoints through picks: what is opened and closed,
   when, and how often. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/alloc.h"
#include "support/rig.h"
#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a cache that the test fills, and a recorder of open and close --------------------------- */

enum { EP_LIST_MAX = 48, EP_TEXT_MAX = 600, EP_START_MS = 1000000 };

typedef struct ep_bed ep_bed;

/* What open makes. It outlives its close, so that a late or second use is seen. */
typedef struct ep_thing {
    ep_bed  *bed;
    char     addr[48];
    unsigned num_closes;
    unsigned num_held;              /* picks of the test                                      */
} ep_thing;

struct ep_bed {
    fault_alloc     memory;         /* of the client, and so of the endpointer                */
    fault_alloc     source;         /* of the cache                                           */
    sdc_io          io;
    uint64_t        now_ms;
    uint64_t        random;         /* a state                                                */
    sdc_client     *client;
    sdc_cache      *cache;
    sdc_endpointer *endpointer;
    sdc_balancer   *balancer;       /* round robin                                            */
    const char     *bad;            /* addrs by space that open refuses; "*" all              */
    ep_thing      **things;         /* of each open that went well                            */
    size_t          num_things, cap_things;
    unsigned        num_refused;
    unsigned        num_asked;      /* calls of open                                          */
    uint64_t        asked_ms;       /* when the newest one was                                */
    unsigned        depth;          /* of open and close inside each other                    */
    /* once, inside the next open or close */
    void          (*in_open)(ep_bed *bed, const sdc_instance *instance);
    void          (*in_close)(ep_bed *bed, ep_thing *thing);
    void          (*in_log)(ep_bed *bed);       /* the same, in the next record               */
    char            log[EP_TEXT_MAX];           /* the newest record                          */
    size_t          num_looks;      /* at the clock                                           */
    sdc_pick        pick;           /* for these two                                          */
    sdc_err         result;
    char            text[EP_TEXT_MAX];
};

static uint64_t ep_now(void *user)
{
    ep_bed *bed = (ep_bed *)user;
    bed->num_looks++;
    return bed->now_ms;
}

static void ep_log(void *user, sdc_log_level level, const sdc_kv *fields, size_t num_fields)
{
    static const char *const names[] = { "debug", "info", "warn", "error" };
    ep_bed *bed = (ep_bed *)user;
    void (*then)(ep_bed *) = bed->in_log;
    size_t len = (size_t)snprintf(bed->log, sizeof bed->log, "%s", names[level]);
    for (size_t i = 0; i < num_fields && len < sizeof bed->log; i++) {
        len += (size_t)snprintf(bed->log + len, sizeof bed->log - len, " %s=%s", fields[i].key,
                                fields[i].value);
    }
    bed->in_log = NULL;
    if (then != NULL) {
        then(bed);
    }
}

static uint64_t ep_mix(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t ep_random(void *user)
{
    return ep_mix(&((ep_bed *)user)->random);
}

/* The words of `text` hold this one. */
static bool ep_has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
        bool begins = at == text || at[-1] == ' ';
        if (begins && (at[len] == ' ' || at[len] == '\0')) {
            return true;
        }
    }
    return false;
}

static ep_thing *ep_thing_new(ep_bed *bed, const char *addr)
{
    if (bed->num_things == bed->cap_things) {
        bed->cap_things = bed->cap_things * 2 + 16;
        bed->things = (ep_thing **)realloc(bed->things, bed->cap_things * sizeof *bed->things);
    }
    ep_thing *thing = (ep_thing *)calloc(1, sizeof *thing);
    if (bed->things == NULL || thing == NULL) {
        abort();
    }
    thing->bed = bed;
    snprintf(thing->addr, sizeof thing->addr, "%s", addr);
    bed->things[bed->num_things++] = thing;
    return thing;
}

static sdc_err ep_open(void *user, const sdc_instance *instance, void **endpoint)
{
    ep_bed *bed = (ep_bed *)user;
    void (*then)(ep_bed *, const sdc_instance *) = bed->in_open;
    CHECK(*endpoint == NULL);
    bed->num_asked++;
    bed->asked_ms = bed->now_ms;
    bed->in_open = NULL;
    if (then != NULL) {
        char addr[48];
        snprintf(addr, sizeof addr, "%s", instance->addr);
        bed->depth++;
        then(bed, instance);
        bed->depth--;
        CHECK_STR(instance->addr, addr);        /* borrowed for the whole call */
    }
    if (bed->bad != NULL && (bed->bad[0] == '*' || ep_has_word(bed->bad, instance->addr))) {
        bed->num_refused++;
        return SDC_ERR_USER;
    }
    *endpoint = ep_thing_new(bed, instance->addr);
    return SDC_OK;
}

static void ep_close(void *user, void *endpoint)
{
    ep_bed *bed = (ep_bed *)user;
    ep_thing *thing = (ep_thing *)endpoint;
    void (*then)(ep_bed *, ep_thing *) = bed->in_close;
    CHECK(thing->bed == bed);
    CHECK_INT(thing->num_held, 0);
    thing->num_closes++;
    CHECK_INT(thing->num_closes, 1);
    bed->in_close = NULL;
    if (then != NULL) {
        bed->depth++;
        then(bed, thing);
        bed->depth--;
    }
}

static bool ep_bed_init(ep_bed *bed)
{
    sdc_client_desc desc;
    memset(bed, 0, sizeof *bed);
    memset(&desc, 0, sizeof desc);
    fault_alloc_init(&bed->memory);
    fault_alloc_init(&bed->source);
    sdc_allocator memory = fault_alloc_hook(&bed->memory);
    sdc_allocator source = fault_alloc_hook(&bed->source);
    bed->now_ms = EP_START_MS;
    bed->random = 1;
    bed->io = *sdc_io_posix();
    bed->io.user = bed;
    bed->io.now_ms = ep_now;
    bed->io.random = ep_random;
    desc.io = &bed->io;
    desc.allocator = &memory;
    desc.ignore_environment = true;
    sdc_logger logger = { .log = ep_log, .user = bed };
    desc.logger = &logger;
    return CHECK_ERR(sdc_client_create(&desc, &bed->client, NULL), SDC_OK) &&
           CHECK_ERR(sdc_cache_create(&source, &bed->cache), SDC_OK);
}

static sdc_endpointer_desc ep_desc(ep_bed *bed)
{
    sdc_endpointer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.open = ep_open;
    desc.close = ep_close;
    desc.user = bed;
    return desc;
}

static sdc_balancer *ep_balancer(sdc_endpointer *endpointer, sdc_policy policy)
{
    sdc_balancer *balancer = NULL;
    sdc_balancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.policy = policy;
    desc.seed = 7;
    CHECK_ERR(sdc_balancer_create(endpointer, &desc, &balancer, NULL), SDC_OK);
    return balancer;
}

/* An endpointer over the cache as it is, and a balancer. */
static bool ep_make(ep_bed *bed, uint32_t invalidate_after_ms)
{
    sdc_endpointer_desc desc = ep_desc(bed);
    sdc_error error;
    desc.invalidate_after_ms = invalidate_after_ms;
    sdc_err err = sdc_endpointer_create(bed->cache, &desc, bed->client, &bed->endpointer, &error);
    if (!CHECK_ERR(err, SDC_OK)) {
        return false;
    }
    bed->balancer = ep_balancer(bed->endpointer, SDC_POLICY_ROUND_ROBIN);
    return bed->balancer != NULL;
}

/* Destroys what the test has left (what it destroyed itself is NULL) and reports each endpoint that
   was not closed. */
static void ep_bed_deinit(ep_bed *bed)
{
    sdc_balancer_destroy(bed->balancer);
    sdc_endpointer_destroy(bed->endpointer);
    sdc_cache_destroy(bed->cache);
    sdc_client_destroy(bed->client);
    for (size_t i = 0; i < bed->num_things; i++) {
        if (bed->things[i]->num_closes != 1) {
            FAIL("%s: closed %u times", bed->things[i]->addr, bed->things[i]->num_closes);
        }
        free(bed->things[i]);
    }
    free(bed->things);
    fault_alloc_deinit(&bed->memory);
    fault_alloc_deinit(&bed->source);
    memset(bed, 0, sizeof *bed);
}

/* ---- lists ----------------------------------------------------------------------------------- */

/* Cuts the word at the last of this sign and answers what follows it, or "". */
static char *ep_cut(char *word, char sign)
{
    char *at = strrchr(word, sign);
    if (at == NULL) {
        return word + strlen(word);
    }
    *at = '\0';
    return at + 1;
}

static sdc_status ep_status(const char *letter)
{
    return letter[0] == 'c' ? SDC_STATUS_CRITICAL : letter[0] == 'w' ? SDC_STATUS_WARNING
                                                                    : SDC_STATUS_PASSING;
}

/* "id@addr/node*weight~status#tag", of which only addr has to be there; the weight is 1. */
static size_t ep_parse(char *text, sdc_instance *list, const char **tags)
{
    size_t num = 0;
    for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
        sdc_instance *i = &list[num];
        memset(i, 0, sizeof *i);
        tags[num] = ep_cut(word, '#');
        i->tags = &tags[num];
        i->num_tags = tags[num][0] != '\0' ? 1 : 0;
        i->status = ep_status(ep_cut(word, '~'));
        const char *weight = ep_cut(word, '*');
        i->weight = weight[0] != '\0' ? (uint32_t)strtoul(weight, NULL, 10) : 1;
        i->node = ep_cut(word, '/');
        char *addr = strchr(word, '@');
        i->id = addr != NULL ? word : "";
        i->addr = addr != NULL ? addr + 1 : word;
        if (addr != NULL) {
            *addr = '\0';
        }
        num++;
    }
    return num;
}

static sdc_err ep_put(ep_bed *bed, const char *text)
{
    char copy[EP_TEXT_MAX];
    sdc_instance list[EP_LIST_MAX];
    const char *tags[EP_LIST_MAX];
    snprintf(copy, sizeof copy, "%s", text);
    size_t num = ep_parse(copy, list, tags);
    return sdc_cache_update(bed->cache, list, num, 7, bed->now_ms);
}

static sdc_err ep_fail(ep_bed *bed, sdc_err err)
{
    return sdc_cache_update_error(bed->cache, err, "", bed->now_ms);
}

/* A cache with this list, an endpointer over it, and a balancer. */
static bool ep_begin(ep_bed *bed, const char *list, uint32_t invalidate_after_ms)
{
    return ep_bed_init(bed) && CHECK_ERR(ep_put(bed, list), SDC_OK) &&
           ep_make(bed, invalidate_after_ms);
}

/* ---- what is there --------------------------------------------------------------------------- */

/* Opened so far, of this addr or (NULL) all; and those of them that are open. */
static size_t ep_opened(const ep_bed *bed, const char *addr)
{
    size_t num = 0;
    for (size_t i = 0; i < bed->num_things; i++) {
        num += addr == NULL || strcmp(bed->things[i]->addr, addr) == 0 ? 1 : 0;
    }
    return num;
}

static size_t ep_open_now(const ep_bed *bed, const char *addr)
{
    size_t num = 0;
    for (size_t i = 0; i < bed->num_things; i++) {
        bool counts = addr == NULL || strcmp(bed->things[i]->addr, addr) == 0;
        num += counts && bed->things[i]->num_closes == 0 ? 1 : 0;
    }
    return num;
}

static sdc_err ep_add_addr(void *user, void *endpoint, const sdc_instance *instance)
{
    ep_bed *bed = (ep_bed *)user;
    const ep_thing *thing = (const ep_thing *)endpoint;
    size_t len = strlen(bed->text);
    CHECK_STR(thing->addr, instance->addr);
    CHECK_INT(thing->num_closes, 0);
    snprintf(bed->text + len, sizeof bed->text - len, "%s%s", len > 0 ? " " : "", instance->addr);
    return SDC_OK;
}

/* What can be called, as sdc_endpointer_each tells; valid until the next call. Nothing else may be
   open, so this is for moments without picks. */
static const char *ep_all(ep_bed *bed)
{
    bed->text[0] = '\0';
    CHECK_ERR(sdc_endpointer_each(bed->endpointer, ep_add_addr, bed), SDC_OK);
    size_t num = bed->text[0] != '\0' ? 1 : 0;
    for (const char *at = bed->text; *at != '\0'; at++) {
        num += *at == ' ' ? 1 : 0;
    }
    CHECK_INT(ep_open_now(bed, NULL), num);
    return bed->text;
}

/* ---- picks ----------------------------------------------------------------------------------- */

static sdc_err ep_next_of(sdc_balancer *balancer, sdc_pick *pick)
{
    sdc_err err = sdc_balancer_next(balancer, NULL, pick);
    if (err != SDC_OK) {
        CHECK(pick->endpoint == NULL && pick->instance == NULL && pick->internal[0] == NULL);
        return err;
    }
    ep_thing *thing = (ep_thing *)pick->endpoint;
    CHECK_INT(thing->num_closes, 0);
    CHECK_STR(thing->addr, pick->instance->addr);
    thing->num_held++;
    return SDC_OK;
}

static void ep_done_of(sdc_balancer *balancer, sdc_pick *pick)
{
    if (pick->endpoint != NULL) {
        ep_thing *thing = (ep_thing *)pick->endpoint;
        CHECK_INT(thing->num_closes, 0);
        CHECK_STR(thing->addr, pick->instance->addr);
        thing->num_held--;
    }
    sdc_balancer_done(balancer, pick, SDC_OK);
    CHECK(pick->endpoint == NULL && pick->instance == NULL && pick->internal[0] == NULL);
}

static sdc_err ep_next(ep_bed *bed, sdc_pick *pick)
{
    return ep_next_of(bed->balancer, pick);
}

static void ep_done(ep_bed *bed, sdc_pick *pick)
{
    ep_done_of(bed->balancer, pick);
}

/* What a pick answers now. */
static sdc_err ep_try(ep_bed *bed)
{
    sdc_pick pick;
    sdc_err err = ep_next(bed, &pick);
    if (err == SDC_OK) {
        ep_done(bed, &pick);
    }
    return err;
}

/* Picks until it is that addr; a round robin comes to each. */
static ep_thing *ep_pick(ep_bed *bed, const char *addr, sdc_pick *pick)
{
    for (int i = 0; i < EP_LIST_MAX; i++) {
        if (!CHECK_ERR(ep_next(bed, pick), SDC_OK)) {
            return NULL;
        }
        if (strcmp(pick->instance->addr, addr) == 0) {
            return (ep_thing *)pick->endpoint;
        }
        ep_done(bed, pick);
    }
    FAIL("%s is never picked", addr);
    return NULL;
}

/* How many of num picks go to this addr. */
static unsigned ep_share(sdc_balancer *balancer, const char *addr, unsigned num)
{
    unsigned count = 0;
    for (unsigned i = 0; i < num; i++) {
        sdc_pick pick;
        if (!CHECK_ERR(ep_next_of(balancer, &pick), SDC_OK)) {
            return count;
        }
        count += strcmp(pick.instance->addr, addr) == 0 ? 1 : 0;
        ep_done_of(balancer, &pick);
    }
    return count;
}

/* ---- the task -------------------------------------------------------------------------------- */

static sdc_err ep_step(ep_bed *bed)
{
    return sdc_step(sdc_endpointer_task(bed->endpointer), 0);
}

static uint64_t ep_wants(const ep_bed *bed)
{
    return sdc_task_wants(sdc_endpointer_task(bed->endpointer)).deadline_ms;
}

/* As a loop finds it, which steps a task at once that was woken. */
static uint64_t ep_deadline(ep_bed *bed)
{
    if (ep_wants(bed) <= bed->now_ms) {
        CHECK_ERR(ep_step(bed), SDC_AGAIN);
    }
    return ep_wants(bed);
}

/* Lets time pass as a loop does that steps the task at its deadlines and no oftener. */
static void ep_run(ep_bed *bed, uint64_t ms)
{
    uint64_t until_ms = bed->now_ms + ms;
    for (unsigned spins = 0; ep_wants(bed) <= until_ms; spins++) {
        uint64_t next_ms = ep_wants(bed);
        if (next_ms > bed->now_ms) {
            bed->now_ms = next_ms;
            spins = 0;
        }
        CHECK_ERR(ep_step(bed), SDC_AGAIN);
        if (spins > 3) {
            FAIL("a deadline that a step does not move");
            break;
        }
    }
    bed->now_ms = until_ms;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void test_endpointer_opens_once_for_each_addr(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "b@2:1 a@1:1", 0));
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_INT(bed.num_asked, 2);
    CHECK_ERR(ep_put(&bed, "a@1:1 b@2:1 c@3:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1 3:1");
    CHECK_ERR(ep_put(&bed, "c@3:1 b@2:1 a@1:1"), SDC_OK);
    for (int i = 0; i < 10; i++) {
        CHECK_ERR(ep_try(&bed), SDC_OK);
        ep_run(&bed, 1000);
    }
    CHECK_INT(bed.num_asked, 3);
    CHECK_INT(ep_opened(&bed, "3:1"), 1);
    ep_bed_deinit(&bed);
}

/* Nothing has been heard, then a list, then none. */
static void test_endpointer_over_an_empty_cache(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed) && ep_make(&bed, 0));
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_STR(ep_all(&bed), "");
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(ep_opened(&bed, NULL), 1);
    ep_bed_deinit(&bed);
}

/* Which of them are called is the balancer's affair. */
static void test_endpointer_opens_whatever_the_status_and_weight(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1~c*0 b@2:1~w c@3:1", 0));
    CHECK_STR(ep_all(&bed), "1:1 2:1 3:1");
    ep_bed_deinit(&bed);
}

/* The program hears of the instance, and of what it was made with in the desc. */
static sdc_err ep_open_number(void *user, const sdc_instance *instance, void **endpoint)
{
    (void)endpoint;                         /* nothing is an endpoint, too */
    CHECK_STR(instance->tags[0], "blue");
    CHECK_INT(instance->weight, 5);
    *(unsigned *)user += 1;
    return SDC_OK;
}

static void ep_close_number(void *user, void *endpoint)
{
    CHECK(endpoint == NULL);
    *(unsigned *)user += 100;
}

static void test_endpointer_endpoint_may_be_null(void)
{
    ep_bed bed;
    unsigned count = 0;
    sdc_pick pick;
    REQUIRE(ep_bed_init(&bed));
    sdc_endpointer_desc desc = { ep_open_number, ep_close_number, &count, 0 };
    CHECK_ERR(ep_put(&bed, "a@1:1*5#blue"), SDC_OK);
    CHECK_ERR(sdc_endpointer_create(bed.cache, &desc, bed.client, &bed.endpointer, NULL), SDC_OK);
    bed.balancer = ep_balancer(bed.endpointer, SDC_POLICY_ROUND_ROBIN);
    CHECK_INT(count, 1);
    CHECK_ERR(sdc_balancer_next(bed.balancer, NULL, &pick), SDC_OK);
    CHECK_STR(pick.instance->addr, "1:1");
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_INT(count, 1);
    sdc_balancer_done(bed.balancer, &pick, SDC_OK);
    CHECK_INT(count, 101);
    ep_bed_deinit(&bed);
}

static void test_endpointer_needs_no_close(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    sdc_endpointer_desc desc = ep_desc(&bed);
    desc.close = NULL;
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(sdc_endpointer_create(bed.cache, &desc, bed.client, &bed.endpointer, NULL), SDC_OK);
    CHECK_ERR(ep_put(&bed, "2:1"), SDC_OK);
    sdc_endpointer_destroy(bed.endpointer);
    bed.endpointer = NULL;
    CHECK_INT(ep_opened(&bed, NULL), 2);
    for (size_t i = 0; i < bed.num_things; i++) {
        CHECK_INT(bed.things[i]->num_closes, 0);
        bed.things[i]->num_closes = 1;
    }
    ep_bed_deinit(&bed);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void test_endpointer_closes_once_what_is_gone(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1 b@2:1 c@3:1", 0));
    CHECK_ERR(ep_put(&bed, "a@1:1 c@3:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 3:1");
    CHECK_ERR(ep_put(&bed, "d@4:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "4:1");
    CHECK_INT(ep_opened(&bed, NULL), 4);
    ep_bed_deinit(&bed);
}

static void test_endpointer_closes_after_the_last_done(void)
{
    ep_bed bed;
    sdc_pick one, two;
    REQUIRE(ep_begin(&bed, "a@1:1", 0));
    CHECK_ERR(ep_next(&bed, &one), SDC_OK);
    CHECK_ERR(ep_next(&bed, &two), SDC_OK);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    ep_done(&bed, &one);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    ep_done(&bed, &two);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

static void test_endpointer_done_without_a_pick_is_nothing(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "a@1:1", 0));
    memset(&pick, 0, sizeof pick);
    ep_done(&bed, &pick);
    CHECK_ERR(ep_next(&bed, &pick), SDC_OK);
    ep_done(&bed, &pick);
    ep_done(&bed, &pick);                   /* zeroed by the first */
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

/* A pick may outlive many updates: nothing of it changes meanwhile. */
static void test_endpointer_picks_outlive_updates(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "a@1:1/n1*3#old b@2:1", 0));
    ep_thing *thing = ep_pick(&bed, "1:1", &pick);
    REQUIRE(thing != NULL);
    for (int i = 0; i < 50; i++) {
        char list[80];
        snprintf(list, sizeof list, "x%d@%d:1 b@2:1*%d", i, i + 10, i + 1);
        CHECK_ERR(ep_put(&bed, list), SDC_OK);
        CHECK_ERR(ep_try(&bed), SDC_OK);
        CHECK_INT(ep_open_now(&bed, NULL), 3);
    }
    CHECK(pick.endpoint == thing);
    CHECK_STR(pick.instance->addr, "1:1");
    CHECK_STR(pick.instance->id, "a");
    CHECK_STR(pick.instance->node, "n1");
    CHECK_STR(pick.instance->tags[0], "old");
    CHECK_INT(pick.instance->weight, 3);
    ep_done(&bed, &pick);
    CHECK_INT(thing->num_closes, 1);
    CHECK_INT(ep_open_now(&bed, NULL), 2);
    ep_bed_deinit(&bed);
}

/* Picks of several balancers count together. */
static void test_endpointer_closes_after_the_last_done_of_all_balancers(void)
{
    static const sdc_policy policies[] = { SDC_POLICY_RANDOM, SDC_POLICY_WEIGHTED,
                                           SDC_POLICY_LEAST_LOADED, SDC_POLICY_HASHED };
    enum { NUM = 4 };
    ep_bed bed;
    sdc_balancer *balancers[NUM];
    sdc_pick picks[NUM];
    REQUIRE(ep_begin(&bed, "a@1:1 b@2:1", 0));
    for (size_t i = 0; i < NUM; i++) {
        balancers[i] = ep_balancer(bed.endpointer, policies[i]);
        REQUIRE(balancers[i] != NULL);
        CHECK_ERR(ep_next_of(balancers[i], &picks[i]), SDC_OK);
    }
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    for (size_t i = 0; i < NUM; i++) {
        const ep_thing *thing = (const ep_thing *)picks[i].endpoint;
        CHECK_INT(thing->num_closes, 0);
        ep_done_of(balancers[i], &picks[i]);
        CHECK_INT(thing->num_closes, thing->num_held == 0 ? 1 : 0);
        sdc_balancer_destroy(balancers[i]);
    }
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

/* Gone and back while a call is under way. */
static void test_endpointer_addr_comes_back_while_it_is_picked(void)
{
    ep_bed bed;
    sdc_pick before, after;
    REQUIRE(ep_begin(&bed, "a@1:1", 0));
    CHECK_ERR(ep_next(&bed, &before), SDC_OK);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_ERR(ep_put(&bed, "a@1:1"), SDC_OK);
    CHECK_ERR(ep_next(&bed, &after), SDC_OK);
    ep_done(&bed, &before);
    CHECK_INT(((const ep_thing *)after.endpoint)->num_closes, 0);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    ep_done(&bed, &after);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

/* ---- survivors ------------------------------------------------------------------------------- */

static void test_endpointer_survivors_keep_their_endpoint(void)
{
    static const char *const lists[] = { "a@1:1#blue b@2:1", "a@1:1#blue*9 b@2:1", "a@1:1~w b@2:1",
                                         "a@1:1/elsewhere b@2:1", "other@1:1 c@3:1 b@2:1",
                                         "a@1:1*0~c b@2:1 c@3:1" };
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1 b@2:1", 0));
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        CHECK_ERR(ep_put(&bed, lists[i]), SDC_OK);
        CHECK_INT(ep_opened(&bed, "1:1"), 1);
        CHECK_INT(ep_open_now(&bed, "1:1"), 1);
        CHECK_INT(ep_opened(&bed, "2:1"), 1);
    }
    ep_bed_deinit(&bed);
}

/* New texts for new picks, the old ones for those that were made before. */
static void test_endpointer_instance_of_a_pick_is_of_its_time(void)
{
    ep_bed bed;
    sdc_pick before, after;
    REQUIRE(ep_begin(&bed, "a@1:1*2#blue", 0));
    CHECK_ERR(ep_next(&bed, &before), SDC_OK);
    CHECK_ERR(ep_put(&bed, "a@1:1*3#green"), SDC_OK);
    CHECK_ERR(ep_next(&bed, &after), SDC_OK);
    CHECK(before.endpoint == after.endpoint);
    CHECK_STR(before.instance->tags[0], "blue");
    CHECK_INT(before.instance->weight, 2);
    CHECK_STR(after.instance->tags[0], "green");
    CHECK_INT(after.instance->weight, 3);
    ep_done(&bed, &after);
    CHECK_ERR(ep_put(&bed, "b@1:1*4#red"), SDC_OK);
    CHECK_STR(before.instance->tags[0], "blue");
    CHECK_STR(before.instance->id, "a");
    ep_done(&bed, &before);
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

/* Everything that an instance points to is a pick's own: source and endpointer may be gone. */
static void ep_check_arrays(const sdc_instance *i)
{
    REQUIRE(i->num_tags == 3 && i->num_meta == 2 && i->num_tagged_addresses == 1);
    REQUIRE(i->num_ports == 2);
    CHECK_STR(i->tags[0], "");
    CHECK_STR(i->tags[2], "yy");
    CHECK_STR(i->meta[0].key, "a");
    CHECK_STR(i->meta[1].value, "22");
    CHECK_STR(i->tagged_addresses[0].key, "wan");
    CHECK_STR(i->tagged_addresses[0].address, "1.2.3.4");
    CHECK_INT(i->tagged_addresses[0].port, 81);
    CHECK_STR(i->ports[0].name, "http");
    CHECK_INT(i->ports[1].port, 90);
    CHECK(i->ports[0].is_default && !i->ports[1].is_default);
}

static void ep_check_whole(const sdc_instance *i)
{
    CHECK_STR(i->addr, "unix:/run/a");
    CHECK_STR(i->host, "h");
    CHECK_STR(i->socket_path, "/run/a");
    CHECK_STR(i->service, "web");
    CHECK_STR(i->datacenter, "dc1");
    CHECK_STR(i->ns, "n");
    CHECK_STR(i->partition, "p");
    CHECK_STR(i->peer, "peer");
    CHECK_STR(i->region, "r");
    CHECK_STR(i->zone, "z");
    CHECK_INT(i->status, SDC_STATUS_WARNING);
    CHECK_INT(i->port, 80);
    ep_check_arrays(i);
}

static sdc_instance ep_whole(void)
{
    static const char *const tags[] = { "", "x", "yy" };
    static const sdc_kv meta[] = { { "a", "1" }, { "b", "22" } };
    static const sdc_address tagged[] = { { "wan", "1.2.3.4", 81 } };
    static const sdc_port ports[] = { { "http", 80, true }, { "z", 90, false } };
    sdc_instance one;
    memset(&one, 0, sizeof one);
    one.addr = "unix:/run/a";
    one.host = "h";
    one.socket_path = "/run/a";
    one.id = "id";
    one.service = "web";
    one.node = "n1";
    one.datacenter = "dc1";
    one.ns = "n";
    one.partition = "p";
    one.peer = "peer";
    one.tags = tags;
    one.num_tags = 3;
    one.meta = meta;
    one.num_meta = 2;
    one.tagged_addresses = tagged;
    one.num_tagged_addresses = 1;
    one.ports = ports;
    one.num_ports = 2;
    one.region = "r";
    one.zone = "z";
    one.status = SDC_STATUS_WARNING;
    one.weight = 1;
    one.port = 80;
    return one;
}

static void test_endpointer_pick_has_the_whole_instance(void)
{
    ep_bed bed;
    sdc_pick pick;
    sdc_instance one = ep_whole();
    REQUIRE(ep_bed_init(&bed));
    CHECK_ERR(sdc_cache_update(bed.cache, &one, 1, 7, bed.now_ms), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    CHECK_ERR(ep_next(&bed, &pick), SDC_OK);
    sdc_cache_destroy(bed.cache);
    bed.cache = NULL;
    sdc_endpointer_destroy(bed.endpointer);
    bed.endpointer = NULL;
    ep_check_whole(pick.instance);
    ep_done(&bed, &pick);
    ep_bed_deinit(&bed);
}

/* What comes after an outage and is what was there before makes no work for balancers. */
static void test_endpointer_same_list_is_no_news(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1*3", 0));
    uint32_t serial = bed.endpointer->serial;
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_ERR(ep_put(&bed, "2:1*3 1:1"), SDC_OK);
    CHECK_U64(bed.endpointer->serial, serial);
    CHECK_ERR(ep_put(&bed, "2:1*3 1:1#blue"), SDC_OK);
    CHECK_U64(bed.endpointer->serial, serial + 1);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_U64(bed.endpointer->serial, serial + 2);
    ep_bed_deinit(&bed);
}

/* ---- twins and duplicates -------------------------------------------------------------------- */

static void test_endpointer_twins_share_one(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1 b@1:1 c@1:1/n2 d@2:1", 0));
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_ERR(ep_put(&bed, "b@1:1 c@1:1/n2 d@2:1"), SDC_OK);
    CHECK_ERR(ep_put(&bed, "c@1:1/n2 d@2:1"), SDC_OK);
    CHECK_ERR(ep_put(&bed, "a@1:1 c@1:1/n2 d@2:1"), SDC_OK);
    CHECK_ERR(ep_put(&bed, "a@1:1 d@2:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_INT(ep_opened(&bed, NULL), 2);
    CHECK_ERR(ep_put(&bed, "d@2:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "2:1");
    ep_bed_deinit(&bed);
}

static void test_endpointer_twin_that_goes_leaves_picks_alone(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "a@1:1 b@1:1", 0));
    CHECK_ERR(ep_next(&bed, &pick), SDC_OK);
    CHECK_ERR(ep_put(&bed, "b@1:1"), SDC_OK);
    CHECK_ERR(ep_put(&bed, "a@1:1"), SDC_OK);
    ep_done(&bed, &pick);
    CHECK_STR(ep_all(&bed), "1:1");
    CHECK_INT(ep_opened(&bed, NULL), 1);
    ep_bed_deinit(&bed);
}

static void test_endpointer_twins_add_their_weights(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1*2 b@1:1*3 c@2:1*5", 0));
    sdc_balancer *weighted = ep_balancer(bed.endpointer, SDC_POLICY_WEIGHTED);
    CHECK_INT(ep_share(weighted, "1:1", 100), 50);
    CHECK_ERR(ep_put(&bed, "a@1:1*5 b@1:1*10 c@2:1*5"), SDC_OK);
    CHECK_INT(ep_share(weighted, "1:1", 100), 75);
    CHECK_ERR(ep_put(&bed, "a@1:1*5 b@1:1*0 c@2:1*5"), SDC_OK);     /* of one of them alone */
    CHECK_INT(ep_share(weighted, "1:1", 100), 50);
    CHECK_ERR(ep_put(&bed, "a@1:1*0 b@1:1*15 c@2:1*5"), SDC_OK);
    CHECK_INT(ep_share(weighted, "1:1", 100), 75);
    CHECK_ERR(ep_put(&bed, "b@1:1*5 c@2:1*5"), SDC_OK);
    CHECK_INT(ep_share(weighted, "1:1", 100), 50);
    sdc_balancer_destroy(weighted);
    /* of the others each addr counts once */
    CHECK_ERR(ep_put(&bed, "a@1:1*5 b@1:1*10 c@2:1*5"), SDC_OK);
    CHECK_INT(ep_share(bed.balancer, "1:1", 100), 50);
    ep_bed_deinit(&bed);
}

/* A sum beyond 32 bits is the largest one. */
static void test_endpointer_weights_of_twins_do_not_wrap(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1*4294967295 b@1:1*2 c@2:1*4294967295", 0));
    sdc_balancer *weighted = ep_balancer(bed.endpointer, SDC_POLICY_WEIGHTED);
    CHECK_BETWEEN(ep_share(weighted, "1:1", 100), 49, 51);
    sdc_balancer_destroy(weighted);
    ep_bed_deinit(&bed);
}

static void test_endpointer_exact_duplicate_counts_once(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1 a@1:1 b@2:1", 0));
    sdc_balancer *weighted = ep_balancer(bed.endpointer, SDC_POLICY_WEIGHTED);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_INT(ep_share(weighted, "1:1", 100), 50);
    CHECK_INT(ep_share(bed.balancer, "1:1", 100), 50);
    CHECK_ERR(ep_put(&bed, "a@1:1 b@2:1 b@2:1 b@2:1"), SDC_OK);
    CHECK_INT(ep_share(weighted, "1:1", 100), 50);
    sdc_balancer_destroy(weighted);
    ep_bed_deinit(&bed);
}

/* go-kit forgets one of the two and never closes it. */
static void test_beat_xdup_endpoints(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "a@1:1 a@1:1 b@1:1", 0));
    for (int i = 0; i < 20; i++) {
        CHECK_ERR(ep_put(&bed, i % 2 == 0 ? "a@1:1" : "b@1:1 b@1:1 a@1:1 a@1:1"), SDC_OK);
        CHECK_INT(ep_opened(&bed, NULL), 1);
    }
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

/* ---- an open that fails ---------------------------------------------------------------------- */

static void test_beat_xbadfactory(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    CHECK_STR(ep_all(&bed), "1:1 3:1");
    CHECK_BETWEEN(ep_deadline(&bed) - bed.now_ms, 50, 150);
    ep_run(&bed, 150);
    CHECK_INT(bed.num_refused, 2);
    CHECK_INT(ep_share(bed.balancer, "1:1", 100), 50);      /* the others are served meanwhile */
    bed.bad = NULL;
    ep_run(&bed, 400);
    CHECK_STR(ep_all(&bed), "1:1 2:1 3:1");
    CHECK_INT(ep_opened(&bed, NULL), 3);
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    CHECK_BETWEEN(ep_share(bed.balancer, "2:1", 99), 33, 33);
    ep_bed_deinit(&bed);
}

/* The nth pause, from 1: about 100 ms doubled n - 1 times, at most 30 s, never under 50 ms. */
static uint64_t ep_pause_most(unsigned nth)
{
    uint64_t most_ms = 100;
    for (unsigned i = 1; i < nth && most_ms < 30000; i++) {
        most_ms *= 2;
    }
    return (most_ms < 30000 ? most_ms : 30000) * 3 / 2;
}

static void ep_pauses(uint64_t seed, uint64_t *pauses, unsigned num)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.random = seed;
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    for (unsigned i = 0; i < num; i++) {
        uint64_t from_ms = bed.asked_ms;
        unsigned asked = bed.num_asked;
        while (bed.num_asked == asked && bed.now_ms - from_ms < 100000) {
            ep_run(&bed, 1);
        }
        pauses[i] = bed.now_ms - from_ms;
        CHECK_BETWEEN(pauses[i], 50, ep_pause_most(i + 1) + 1);
    }
    ep_bed_deinit(&bed);
}

static void test_endpointer_pauses_double_with_jitter(void)
{
    enum { NUM = 16, SEEDS = 20 };
    uint64_t pauses[SEEDS][NUM];
    uint64_t sum = 0;
    unsigned same = 0;
    for (unsigned seed = 0; seed < SEEDS; seed++) {
        ep_pauses(seed * 7919 + 1, pauses[seed], NUM);
        sum += pauses[seed][NUM - 1] / SEEDS;
        for (unsigned i = 0; seed > 0 && i < NUM; i++) {
            same += pauses[seed][i] == pauses[0][i] && i > 4 ? 1 : 0;
        }
    }
    CHECK_BETWEEN(sum, 7500, 30000);            /* it grows up to there, and is drawn there too */
    CHECK(same < SEEDS * NUM / 3);              /* in a few steps, so some are the same by chance */
}

static void test_endpointer_failed_open_of_a_gone_instance_is_dropped(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_ERR(ep_put(&bed, ""), SDC_OK);
    unsigned asked = bed.num_asked;
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    ep_run(&bed, 100000);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(bed.num_asked, asked);
    bed.bad = NULL;
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);     /* new again: at once */
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

static void test_endpointer_unstepped_opens_again_at_a_pick(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = NULL;
    bed.now_ms += 49;                           /* jitter or not, that is too early */
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_INT(bed.num_asked, 2);
    bed.now_ms += 151 - 49;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_INT(ep_share(bed.balancer, "2:1", 10), 5);
    ep_bed_deinit(&bed);
}

/* Nothing is there to be picked, but something to be tried. */
static void test_endpointer_unstepped_pick_answers_what_it_opened(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.now_ms += 151;
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(bed.num_asked, 2);
    bed.bad = NULL;
    bed.now_ms += 301;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_INT(bed.num_asked, 3);
    ep_bed_deinit(&bed);
}

static void test_endpointer_stepped_leaves_opening_to_the_task(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    bed.bad = NULL;
    bed.now_ms += 10000;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_INT(bed.num_asked, 2);
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    ep_bed_deinit(&bed);
}

/* A long list with one bad instance: each has a pause of its own. */
static void test_endpointer_failed_opens_have_pauses_of_their_own(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    ep_run(&bed, 20000);
    bed.bad = "2:1 3:1";
    unsigned asked = bed.num_asked;
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    CHECK(bed.num_asked > asked);
    CHECK_BETWEEN(ep_deadline(&bed) - bed.now_ms, 1, 150);
    bed.bad = "2:1";
    ep_run(&bed, 150);
    CHECK_STR(ep_all(&bed), "1:1 3:1");
    ep_bed_deinit(&bed);
}

/* A loop that sleeps until the old deadline has to hear of the new one: by the wake hook, as after
   sdc_registrar_set_... */
static void ep_on_wake(void *user, sdc_task *task)
{
    (void)task;
    *(unsigned *)user += 1;
}

/* How often opens are tried, all that are due at once counting as one, until then. */
static unsigned ep_num_rounds(ep_bed *bed, uint64_t until_ms)
{
    unsigned num = 0;
    while (ep_wants(bed) <= until_ms) {
        uint64_t asked_ms = bed->asked_ms;
        bed->now_ms = ep_wants(bed) > bed->now_ms ? ep_wants(bed) : bed->now_ms;
        CHECK_ERR(ep_step(bed), SDC_AGAIN);
        num += bed->asked_ms != asked_ms;
    }
    bed->now_ms = until_ms;
    return num;
}

/* Many that fail together make no more than some rounds, since each is work for all balancers. */
static void test_endpointer_failed_opens_come_back_together(void)
{
    enum { MANY = 40 };
    char list[EP_TEXT_MAX] = "";
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    for (int i = 0; i < MANY; i++) {
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, " %d:1", 10 + i);
    }
    CHECK_ERR(ep_put(&bed, list), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    CHECK_INT(bed.num_asked, MANY);
    uint64_t start_ms = bed.now_ms;
    CHECK_BETWEEN(ep_num_rounds(&bed, start_ms + 100), 2, 6);
    CHECK_INT(bed.num_asked, 2 * MANY);
    ep_num_rounds(&bed, start_ms + 120000);
    unsigned num_asked = bed.num_asked;         /* from now on each 30 s */
    CHECK_BETWEEN(ep_num_rounds(&bed, start_ms + 240000), 12, 65);
    CHECK_BETWEEN(bed.num_asked - num_asked, 3 * MANY, 7 * MANY);
    ep_bed_deinit(&bed);
}

static void test_endpointer_failed_open_wakes_the_task(void)
{
    ep_bed bed;
    unsigned wakes = 0;
    REQUIRE(ep_begin(&bed, "1:1", 0));
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    sdc_task_on_wake(sdc_endpointer_task(bed.endpointer), ep_on_wake, &wakes);
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK(wakes >= 1);
    ep_run(&bed, 1000);
    CHECK(bed.num_refused > 2);
    ep_bed_deinit(&bed);
}

/* ---- errors of the source -------------------------------------------------------------------- */

static void test_endpointer_error_keeps_endpoints(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    ep_run(&bed, 100000000);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_TIMEOUT), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1");
    CHECK_INT(bed.num_asked, 2);
    ep_bed_deinit(&bed);
}

static void test_endpointer_invalidates_by_the_tasks_deadline(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 5000));
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_U64(ep_deadline(&bed), bed.now_ms + 5000);
    ep_run(&bed, 4999);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    ep_run(&bed, 1);
    CHECK_STR(ep_all(&bed), "");
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_INT(ep_opened(&bed, NULL), 4);
    ep_bed_deinit(&bed);
}

static void test_endpointer_further_errors_do_not_put_it_off(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    uint64_t first_ms = bed.now_ms;
    for (int i = 0; i < 4; i++) {
        CHECK_ERR(ep_fail(&bed, i % 2 == 0 ? SDC_ERR_CONNECT : SDC_ERR_TIMEOUT), SDC_OK);
        CHECK_U64(ep_deadline(&bed), first_ms + 5000);
        ep_run(&bed, 1200);
    }
    CHECK_STR(ep_all(&bed), "1:1");
    ep_run(&bed, 200);
    CHECK_STR(ep_all(&bed), "");
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);   /* what began it */
    ep_bed_deinit(&bed);
}

/* Each outage counts for itself. */
static void test_endpointer_recovery_forgets_the_outage(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    for (int i = 0; i < 5; i++) {
        CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
        ep_run(&bed, 4000);
        CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
        CHECK_U64(ep_deadline(&bed), UINT64_MAX);
        ep_run(&bed, 2000);
        CHECK_ERR(ep_try(&bed), SDC_OK);
    }
    CHECK_INT(bed.num_asked, 1);
    ep_bed_deinit(&bed);
}

static void test_endpointer_unstepped_invalidates_at_a_pick(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 5000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_DENIED), SDC_OK);
    bed.now_ms += 4999;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    bed.now_ms += 1;
    CHECK_ERR(ep_try(&bed), SDC_ERR_DENIED);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_DENIED);
    CHECK_ERR(ep_put(&bed, "2:1"), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_STR(ep_all(&bed), "2:1");
    ep_bed_deinit(&bed);
}

static void test_endpointer_unstepped_invalidates_at_an_update(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 5000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_DENIED), SDC_OK);
    bed.now_ms += 5000;
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

static void test_endpointer_stepped_leaves_invalidation_to_the_task(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_DENIED), SDC_OK);
    bed.now_ms += 100000;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_ERR(ep_try(&bed), SDC_ERR_DENIED);
    ep_bed_deinit(&bed);
}

static void test_endpointer_invalidation_spares_picks(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 5000));
    ep_thing *thing = ep_pick(&bed, "1:1", &pick);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    ep_run(&bed, 5000);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    REQUIRE(thing != NULL);
    CHECK_STR(pick.instance->addr, "1:1");
    ep_done(&bed, &pick);
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

/* What failed to open is not tried while the list is not believed. */
static void test_endpointer_invalidation_ends_attempts_to_open(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 5000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    ep_run(&bed, 5000);
    unsigned asked = bed.num_asked;
    ep_run(&bed, 100000);
    CHECK_INT(bed.num_asked, asked);
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    bed.bad = NULL;
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

/* A source that has failed from the start. */
static void test_endpointer_outage_before_any_list(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed) && ep_make(&bed, 5000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_run(&bed, 5000);
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    ep_bed_deinit(&bed);
}

static void test_endpointer_made_in_an_outage(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    bed.now_ms += 3000;
    REQUIRE(ep_make(&bed, 5000));
    CHECK_STR(ep_all(&bed), "1:1 2:1");         /* go-kit has none there: the list was not kept */
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_U64(ep_deadline(&bed), bed.now_ms + 2000);
    ep_run(&bed, 2000);
    CHECK_STR(ep_all(&bed), "");
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    ep_bed_deinit(&bed);
}

/* An error that it hears of counts from then on, by the clock of its client, whatever the source's
   own clock says; of one before its time the source's word is taken, if it is not in the future. */
static void test_endpointer_source_with_another_clock(void)
{
    static const uint64_t clocks[] = { 5, UINT64_MAX - 5 };
    for (size_t i = 0; i < 2; i++) {
        ep_bed bed;
        REQUIRE(ep_bed_init(&bed));
        CHECK_ERR(sdc_cache_update(bed.cache, NULL, 0, 7, clocks[i]), SDC_OK);
        REQUIRE(ep_make(&bed, 5000));
        CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_CONNECT, "", clocks[i]), SDC_OK);
        CHECK_U64(ep_deadline(&bed), bed.now_ms + 5000);
        ep_bed_deinit(&bed);
    }
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    CHECK_ERR(sdc_cache_update_error(bed.cache, SDC_ERR_CONNECT, "", UINT64_MAX - 5), SDC_OK);
    REQUIRE(ep_make(&bed, 5000));
    CHECK_U64(ep_deadline(&bed), bed.now_ms + 5000);
    ep_bed_deinit(&bed);
}

/* It was well for a moment, inside a callback even: that is another outage then. */
static void ep_in_open_flap(ep_bed *bed, const sdc_instance *instance)
{
    (void)instance;
    CHECK_ERR(ep_put(bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(ep_fail(bed, SDC_ERR_TIMEOUT), SDC_OK);
}

static void test_endpointer_outage_after_outage_in_an_open(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 5000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    bed.now_ms += 4000;
    bed.in_open = ep_in_open_flap;
    bed.bad = NULL;
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_U64(ep_deadline(&bed), bed.now_ms + 5000);
    ep_run(&bed, 5000);
    CHECK_ERR(ep_try(&bed), SDC_ERR_TIMEOUT);
    ep_bed_deinit(&bed);
}

static void test_endpointer_made_late_in_an_outage(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    bed.now_ms += 60000;
    REQUIRE(ep_make(&bed, 5000));
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    CHECK_STR(ep_all(&bed), "");
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    ep_bed_deinit(&bed);
}

static void test_endpointer_invalidation_wakes_the_task(void)
{
    ep_bed bed;
    unsigned wakes = 0;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    sdc_task_on_wake(sdc_endpointer_task(bed.endpointer), ep_on_wake, &wakes);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK(wakes >= 1);
    ep_bed_deinit(&bed);
}

/* ---- destroy --------------------------------------------------------------------------------- */

static void ep_destroy(ep_bed *bed)
{
    sdc_endpointer *endpointer = bed->endpointer;
    bed->endpointer = NULL;
    sdc_endpointer_destroy(endpointer);
}

static void test_beat_xepclose(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    const ep_thing *thing = ep_pick(&bed, "2:1", &pick);
    ep_destroy(&bed);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    REQUIRE(thing != NULL);
    CHECK_INT(thing->num_closes, 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_ERR(ep_put(&bed, "4:1"), SDC_OK);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_STR(pick.instance->addr, "2:1");
    ep_done(&bed, &pick);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_INT(bed.num_asked, 3);
    ep_bed_deinit(&bed);
}

static void test_endpointer_destroy_takes_null(void)
{
    sdc_endpointer_destroy(NULL);
    sdc_balancer_destroy(NULL);
}

/* Nothing is opened after it, though something was to be tried again. */
static void test_endpointer_destroy_ends_attempts_to_open(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 5000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    ep_destroy(&bed);
    bed.now_ms += 100000;
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(bed.num_asked, 1);
    ep_bed_deinit(&bed);
}

static void ep_destroy_nth(ep_bed *bed, unsigned which)
{
    switch (which) {
    case 0:
        ep_destroy(bed);
        CHECK_INT(ep_open_now(bed, NULL), 0);
        break;
    case 1:
        sdc_balancer_destroy(bed->balancer);
        bed->balancer = NULL;
        break;
    case 2:
        sdc_client_destroy(bed->client);
        bed->client = NULL;
        break;
    default:
        sdc_cache_destroy(bed->cache);
        bed->cache = NULL;
        break;
    }
}

/* Whatever of the others is there still works. */
static void ep_use(ep_bed *bed, bool has_endpoints)
{
    if (bed->balancer != NULL) {
        CHECK_ERR(ep_try(bed), has_endpoints ? SDC_OK : SDC_ERR_EMPTY);
    }
    if (bed->endpointer != NULL) {
        CHECK_ERR(ep_step(bed), SDC_AGAIN);
    }
    if (bed->cache != NULL) {
        CHECK_ERR(ep_put(bed, bed->num_asked % 2 == 0 ? "1:1 2:1 3:1" : "1:1 2:1"), SDC_OK);
    }
}

static void test_endpointer_destroy_in_any_order(void)
{
    for (unsigned order = 0; order < 256; order++) {
        unsigned seen = 0;
        ep_bed bed;
        for (unsigned i = 0; i < 4; i++) {
            seen |= 1u << (order >> (2 * i) & 3);
        }
        if (seen != 15) {
            continue;
        }
        test_note("order %u", order);
        REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
        for (unsigned i = 0; i < 4; i++) {
            ep_destroy_nth(&bed, order >> (2 * i) & 3);
            ep_use(&bed, bed.endpointer != NULL);
        }
        ep_bed_deinit(&bed);
    }
}

/* A pick that outlives all but its balancer. */
static void test_endpointer_pick_outlives_everything_else(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "a@1:1#blue", 0));
    CHECK_ERR(ep_next(&bed, &pick), SDC_OK);
    ep_destroy_nth(&bed, 3);
    ep_destroy_nth(&bed, 2);
    sdc_endpointer_destroy(bed.endpointer);
    bed.endpointer = NULL;
    CHECK_STR(pick.instance->tags[0], "blue");
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    ep_done(&bed, &pick);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

/* ---- from inside open and close -------------------------------------------------------------- */

static void ep_in_open_destroy(ep_bed *bed, const sdc_instance *instance)
{
    (void)instance;
    ep_destroy(bed);
}

static void test_endpointer_destroyed_in_an_open_of_an_update(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 0));
    bed.in_open = ep_in_open_destroy;
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    CHECK_INT(bed.num_asked, 2);                /* nothing is opened after it */
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_bed_deinit(&bed);
}

static void test_endpointer_destroyed_in_an_open_of_a_step(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = NULL;
    bed.in_open = ep_in_open_destroy;
    bed.now_ms += 200;
    CHECK_ERR(sdc_step(sdc_endpointer_task(bed.endpointer), 0), SDC_GONE);
    CHECK_INT(bed.num_asked, 3);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_bed_deinit(&bed);
}

static void test_endpointer_destroyed_in_an_open_of_a_pick(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1 3:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = NULL;
    bed.in_open = ep_in_open_destroy;
    bed.now_ms += 200;
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(bed.num_asked, 4);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

static void ep_in_close_destroy(ep_bed *bed, ep_thing *thing)
{
    (void)thing;
    ep_destroy(bed);
}

static void test_endpointer_destroyed_in_a_close(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    bed.in_close = ep_in_close_destroy;
    CHECK_ERR(ep_put(&bed, "3:1 4:1"), SDC_OK);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_bed_deinit(&bed);
    /* the same in done */
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    REQUIRE(ep_pick(&bed, "1:1", &pick) != NULL);
    CHECK_ERR(ep_put(&bed, "2:1"), SDC_OK);
    bed.in_close = ep_in_close_destroy;
    ep_done(&bed, &pick);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

static void test_endpointer_destroyed_in_a_close_of_a_step(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 1000));
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    bed.in_close = ep_in_close_destroy;
    bed.now_ms += 1000;
    CHECK_ERR(sdc_step(sdc_endpointer_task(bed.endpointer), 0), SDC_GONE);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_bed_deinit(&bed);
}

/* A close that comes while the list changes, before anything of the new one is open: what was
   opened, but did not become known for want of memory, goes with the list. */
static void test_endpointer_destroyed_in_a_close_before_opens(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1 3:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = "3:1";
    bed.now_ms += 200;
    fault_alloc_fail(&bed.memory, 1, true);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    fault_alloc_fail(&bed.memory, 0, false);
    CHECK_INT(ep_open_now(&bed, "2:1"), 1);
    bed.in_close = ep_in_close_destroy;
    unsigned num_asked = bed.num_asked;
    CHECK_ERR(ep_put(&bed, "0:1 1:1 4:1"), SDC_OK);
    CHECK(bed.in_close == NULL);
    CHECK_INT(bed.num_asked, num_asked);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_bed_deinit(&bed);
}

/* Each record may be the end of it. */
static void test_endpointer_destroyed_in_the_log(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 0));          /* an open that failed */
    bed.bad = "2:1";
    bed.in_log = ep_destroy;
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    CHECK_INT(bed.num_asked, 2);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
    REQUIRE(ep_bed_init(&bed));                 /* one that did not any more */
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = NULL;
    bed.in_log = ep_destroy;
    bed.now_ms += 200;
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    CHECK_INT(bed.num_asked, 4);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
    REQUIRE(ep_begin(&bed, "1:1 2:1", 1000));   /* an outage that lasts */
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    bed.in_log = ep_destroy;
    bed.now_ms += 1000;
    CHECK(ep_try(&bed) != SDC_OK);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));      /* no memory */
    fault_alloc_fail(&bed.memory, 1, true);
    bed.in_log = ep_destroy;
    (void)ep_put(&bed, "2:1 3:1");
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

static void ep_in_close_drop_all(ep_bed *bed, ep_thing *thing)
{
    (void)thing;
    ep_destroy(bed);
    ep_destroy_nth(bed, 2);
    ep_destroy_nth(bed, 3);
}

static void test_endpointer_everything_is_destroyed_in_a_close(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    bed.in_close = ep_in_close_drop_all;
    CHECK_ERR(ep_put(&bed, "2:1 3:1"), SDC_GONE);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    CHECK_ERR(ep_try(&bed), SDC_ERR_EMPTY);
    ep_bed_deinit(&bed);
}

static void ep_in_open_update(ep_bed *bed, const sdc_instance *instance)
{
    (void)instance;
    bed->result = ep_put(bed, "3:1 4:1");
}

static void ep_in_close_update(ep_bed *bed, ep_thing *thing)
{
    (void)thing;
    bed->result = ep_put(bed, "3:1 4:1");
}

/* The newest list is what counts when all has returned. */
static void test_endpointer_cache_is_updated_in_an_open(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 0));
    bed.in_open = ep_in_open_update;
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(bed.result, SDC_OK);
    CHECK_STR(ep_all(&bed), "3:1 4:1");
    CHECK_INT(ep_share(bed.balancer, "3:1", 10), 5);
    bed.in_close = ep_in_close_update;
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "3:1 4:1");
    ep_bed_deinit(&bed);
}

static void test_endpointer_cache_is_updated_in_the_first_open(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    bed.in_open = ep_in_open_update;
    REQUIRE(ep_make(&bed, 0));
    CHECK_STR(ep_all(&bed), "3:1 4:1");
    CHECK_INT(ep_share(bed.balancer, "3:1", 10), 5);
    ep_bed_deinit(&bed);
}

/* In a step, and in the pick of an endpointer that nobody steps. */
static void test_endpointer_cache_is_updated_in_an_open_of_a_timer(void)
{
    for (int is_stepped = 0; is_stepped <= 1; is_stepped++) {
        ep_bed bed;
        REQUIRE(ep_bed_init(&bed));
        bed.bad = "2:1";
        CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
        REQUIRE(ep_make(&bed, 0));
        bed.bad = NULL;
        bed.now_ms += 200;
        bed.in_open = ep_in_open_update;
        CHECK_ERR(is_stepped ? ep_step(&bed) : ep_try(&bed), is_stepped ? SDC_AGAIN : SDC_OK);
        CHECK_ERR(bed.result, SDC_OK);
        CHECK_STR(ep_all(&bed), "3:1 4:1");
        CHECK_INT(ep_share(bed.balancer, "3:1", 10), 5);
        ep_bed_deinit(&bed);
    }
}

/* Picks in here, made and given back, and one that is given back in here. */
static void ep_in_open_pick(ep_bed *bed, const sdc_instance *instance)
{
    (void)instance;
    (void)ep_try(bed);
    ep_done(bed, &bed->pick);
    bed->result = ep_next(bed, &bed->pick);
}

static void ep_in_close_pick(ep_bed *bed, ep_thing *thing)
{
    (void)thing;
    ep_in_open_pick(bed, NULL);
}

static void test_endpointer_picks_in_an_open(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 0));
    CHECK_ERR(ep_next(&bed, &bed.pick), SDC_OK);
    bed.in_open = ep_in_open_pick;
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(bed.result, SDC_OK);
    ep_done(&bed, &bed.pick);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    ep_bed_deinit(&bed);
}

static void test_endpointer_picks_in_a_close(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    REQUIRE(ep_pick(&bed, "2:1", &bed.pick) != NULL);
    bed.in_close = ep_in_close_pick;
    CHECK_ERR(ep_put(&bed, "3:1"), SDC_OK);     /* 1:1 is closed, and in there 2:1 is let go */
    CHECK_ERR(bed.result, SDC_OK);
    CHECK_STR(bed.pick.instance->addr, "3:1");
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    CHECK_ERR(ep_put(&bed, "4:1"), SDC_OK);
    CHECK_INT(ep_open_now(&bed, "3:1"), 1);
    sdc_pick last = bed.pick;
    memset(&bed.pick, 0, sizeof bed.pick);
    bed.in_close = ep_in_close_pick;            /* of done itself */
    ep_done(&bed, &last);
    CHECK_STR(bed.pick.instance->addr, "4:1");
    ep_done(&bed, &bed.pick);
    CHECK_STR(ep_all(&bed), "4:1");
    ep_bed_deinit(&bed);
}

/* Another endpointer and another balancer come to be, and go, in an open. */
static void ep_in_open_others(ep_bed *bed, const sdc_instance *instance)
{
    sdc_endpointer_desc desc = ep_desc(bed);
    sdc_endpointer *other = NULL;
    (void)instance;
    bed->result = sdc_endpointer_create(bed->cache, &desc, bed->client, &other, NULL);
    sdc_balancer *balancer = ep_balancer(other, SDC_POLICY_HASHED);
    sdc_pick pick;
    CHECK_ERR(ep_next_of(balancer, &pick), SDC_OK);
    sdc_endpointer_destroy(other);
    ep_done_of(balancer, &pick);
    sdc_balancer_destroy(balancer);
    sdc_balancer_destroy(bed->balancer);
    bed->balancer = ep_balancer(bed->endpointer, SDC_POLICY_ROUND_ROBIN);
}

static void test_endpointer_others_come_and_go_in_an_open(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 0));
    bed.in_open = ep_in_open_others;
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_ERR(bed.result, SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_INT(ep_share(bed.balancer, "2:1", 10), 5);
    ep_bed_deinit(&bed);
}

/* What takes a lock of the endpointer, the balancer, the task, the cache or the client. */
static void ep_in_open_look(ep_bed *bed, const sdc_instance *instance)
{
    sdc_stats stats;
    (void)instance;
    bed->text[0] = '\0';
    CHECK_ERR(sdc_endpointer_each(bed->endpointer, ep_add_addr, bed), SDC_OK);
    sdc_balancer_destroy(ep_balancer(bed->endpointer, SDC_POLICY_LEAST_LOADED));
    bed->result = ep_try(bed);
    sdc_event_release(sdc_cache_state(bed->cache));
    sdc_task_stats(sdc_endpointer_task(bed->endpointer), &stats);
    sdc_wake(sdc_endpointer_task(bed->endpointer));
    CHECK_ERR(sdc_client_set_token(bed->client, "other"), SDC_OK);
}

static void ep_in_close_look(ep_bed *bed, ep_thing *thing)
{
    (void)thing;
    ep_in_open_look(bed, NULL);
}

static void test_endpointer_no_lock_is_held_in_open_and_close(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    bed.in_open = ep_in_open_look;
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    CHECK_STR(bed.text, "1:1 2:1");             /* the new one is on its way */
    bed.in_close = ep_in_close_look;
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_STR(bed.text, "1:1 2:1");
    REQUIRE(ep_pick(&bed, "1:1", &pick) != NULL);
    CHECK_ERR(ep_put(&bed, "2:1"), SDC_OK);
    bed.in_close = ep_in_close_look;
    ep_done(&bed, &pick);
    CHECK_STR(bed.text, "2:1");
    CHECK_ERR(bed.result, SDC_OK);
    ep_bed_deinit(&bed);
}

static void ep_in_open_step(ep_bed *bed, const sdc_instance *instance)
{
    (void)instance;
    bed->result = ep_step(bed);
}

static void test_endpointer_open_of_a_step_may_not_step(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = NULL;
    bed.now_ms += 200;
    bed.in_open = ep_in_open_step;
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_ERR(bed.result, SDC_ERR_ARG);
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

/* In what another subscriber of the cache does. */
static void ep_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    ep_bed *bed = (ep_bed *)user;
    (void)change;
    if (bed->endpointer != NULL) {
        ep_destroy(bed);
        CHECK_INT(ep_open_now(bed, NULL), 0);
        sdc_balancer_destroy(bed->balancer);
        bed->balancer = NULL;
    } else {
        CHECK(ep_make(bed, 0));
        CHECK_INT(ep_open_now(bed, NULL), event->num_instances);
    }
}

static void test_endpointer_made_and_destroyed_by_a_subscriber(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_ERR(sdc_cache_subscribe(bed.cache, ep_on_event, &bed), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1");
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK(bed.endpointer == NULL);
    CHECK_ERR(ep_put(&bed, "1:1 2:1 3:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1 3:1");
    sdc_cache_unsubscribe(bed.cache, ep_on_event, &bed);
    CHECK_ERR(ep_put(&bed, "3:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "3:1");
    ep_bed_deinit(&bed);
}

static void ep_in_open_stop(ep_bed *bed, const sdc_instance *instance)
{
    (void)instance;
    sdc_stop(sdc_endpointer_task(bed->endpointer));
}

static void test_endpointer_task_is_stopped_in_an_open(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "*";
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    bed.bad = NULL;
    bed.now_ms += 200;
    bed.in_open = ep_in_open_stop;
    sdc_err err = ep_step(&bed);
    CHECK(err == SDC_AGAIN || err == SDC_STOPPED);
    CHECK_ERR(ep_step(&bed), SDC_STOPPED);
    CHECK_STR(ep_all(&bed), "1:1");
    ep_bed_deinit(&bed);
}

/* ---- each ------------------------------------------------------------------------------------ */

static void test_endpointer_each_goes_by_addr(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "10.0.0.5:1";
    CHECK_ERR(ep_put(&bed, "z@10.0.0.1:1 y@10.0.0.9:1 x@10.0.0.10:1 w@10.0.0.5:1 v@10.0.0.9:1"),
              SDC_OK);
    REQUIRE(ep_make(&bed, 0));
    CHECK_STR(ep_all(&bed), "10.0.0.10:1 10.0.0.1:1 10.0.0.9:1");
    ep_bed_deinit(&bed);
}

static sdc_err ep_stop_at(void *user, void *endpoint, const sdc_instance *instance)
{
    (void)ep_add_addr(user, endpoint, instance);
    return strcmp(instance->addr, "2:1") == 0 ? SDC_ERR_USER : SDC_OK;
}

static void test_endpointer_each_ends_where_fn_says_so(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    bed.text[0] = '\0';
    CHECK_ERR(sdc_endpointer_each(bed.endpointer, ep_stop_at, &bed), SDC_ERR_USER);
    CHECK_STR(bed.text, "1:1 2:1");
    ep_bed_deinit(&bed);
}

static sdc_err ep_each_update(void *user, void *endpoint, const sdc_instance *instance)
{
    ep_bed *bed = (ep_bed *)user;
    CHECK_ERR(ep_put(bed, "2:1 4:1"), SDC_OK);
    (void)ep_add_addr(user, endpoint, instance);
    CHECK_INT(ep_open_now(bed, NULL), 4);       /* of the old list all, and the new one */
    return SDC_OK;
}

static void test_endpointer_each_holds_all_meanwhile(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    bed.text[0] = '\0';
    CHECK_ERR(sdc_endpointer_each(bed.endpointer, ep_each_update, &bed), SDC_OK);
    CHECK_STR(bed.text, "1:1 2:1 3:1");
    CHECK_STR(ep_all(&bed), "2:1 4:1");
    ep_bed_deinit(&bed);
}

static sdc_err ep_each_destroy(void *user, void *endpoint, const sdc_instance *instance)
{
    ep_bed *bed = (ep_bed *)user;
    if (bed->endpointer != NULL) {
        ep_destroy(bed);
    }
    CHECK_INT(ep_open_now(bed, NULL), 3);
    return ep_add_addr(user, endpoint, instance);
}

static void test_endpointer_destroyed_in_each(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    bed.text[0] = '\0';
    sdc_err err = sdc_endpointer_each(bed.endpointer, ep_each_destroy, &bed);
    CHECK(err == SDC_OK || err == SDC_GONE);
    CHECK_HAS(bed.text, "1:1");
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

static sdc_err ep_each_again(void *user, void *endpoint, const sdc_instance *instance)
{
    ep_bed *bed = (ep_bed *)user;
    (void)endpoint;
    (void)instance;
    CHECK_STR(ep_all(bed), "1:1 2:1");
    CHECK_ERR(ep_try(bed), SDC_OK);
    return SDC_OK;
}

static void test_endpointer_each_in_each(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    CHECK_ERR(sdc_endpointer_each(bed.endpointer, ep_each_again, &bed), SDC_OK);
    ep_bed_deinit(&bed);
}

/* What is gone but picked is nobody's to walk along. */
static void test_endpointer_each_leaves_out_what_is_gone(void)
{
    ep_bed bed;
    sdc_pick pick;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    REQUIRE(ep_pick(&bed, "1:1", &pick) != NULL);
    CHECK_ERR(ep_put(&bed, "2:1"), SDC_OK);
    bed.text[0] = '\0';
    CHECK_ERR(sdc_endpointer_each(bed.endpointer, ep_add_addr, &bed), SDC_OK);
    CHECK_STR(bed.text, "2:1");
    ep_done(&bed, &pick);
    ep_bed_deinit(&bed);
}

/* Each nth of num addrs. */
static void ep_put_many(ep_bed *bed, size_t num, size_t nth)
{
    sdc_instance *list = (sdc_instance *)calloc(num, sizeof *list);
    char (*addrs)[24] = (char (*)[24])calloc(num, sizeof *addrs);
    size_t used = 0;
    if (list == NULL || addrs == NULL) {
        abort();
    }
    for (size_t i = 0; i < num; i += nth) {
        snprintf(addrs[used], sizeof addrs[used], "10.0.%u.%u:80", (unsigned)(i / 250),
                 (unsigned)(i % 250));
        list[used].addr = addrs[used];
        list[used].weight = (uint32_t)(1 + i % 3);
        used++;
    }
    CHECK_ERR(sdc_cache_update(bed->cache, list, used, 7, bed->now_ms), SDC_OK);
    free(list);
    free(addrs);
}

static void test_endpointer_long_list(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed) && ep_make(&bed, 0));
    ep_put_many(&bed, 5000, 1);
    CHECK_INT(ep_open_now(&bed, NULL), 5000);
    ep_put_many(&bed, 5000, 2);
    CHECK_INT(ep_open_now(&bed, NULL), 2500);
    ep_put_many(&bed, 5000, 3);
    CHECK_INT(ep_open_now(&bed, NULL), 1667);
    CHECK_INT(ep_opened(&bed, NULL), 5000 + 1667 - 834);
    ep_bed_deinit(&bed);
}

/* ---- several endpointers, descs -------------------------------------------------------------- */

static void test_endpointer_several_on_one_cache(void)
{
    ep_bed bed;
    sdc_endpointer *other = NULL;
    sdc_pick mine, yours;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    sdc_endpointer_desc desc = ep_desc(&bed);
    desc.invalidate_after_ms = 1000;
    CHECK_ERR(sdc_endpointer_create(bed.cache, &desc, bed.client, &other, NULL), SDC_OK);
    sdc_balancer *balancer = ep_balancer(other, SDC_POLICY_ROUND_ROBIN);
    CHECK_INT(ep_open_now(&bed, "1:1"), 2);
    CHECK_ERR(ep_put(&bed, "1:1"), SDC_OK);
    CHECK_ERR(ep_next(&bed, &mine), SDC_OK);
    CHECK_ERR(ep_next_of(balancer, &yours), SDC_OK);
    CHECK(mine.endpoint != yours.endpoint);
    ep_done_of(balancer, &yours);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    bed.now_ms += 1000;
    CHECK_ERR(ep_next_of(balancer, &yours), SDC_ERR_CONNECT);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    ep_done(&bed, &mine);
    CHECK_INT(ep_open_now(&bed, NULL), 1);
    sdc_endpointer_destroy(other);
    CHECK_ERR(ep_next_of(balancer, &yours), SDC_ERR_EMPTY);
    CHECK_ERR(ep_try(&bed), SDC_OK);
    sdc_balancer_destroy(balancer);
    ep_bed_deinit(&bed);
}

static void test_endpointer_refuses_what_cannot_be(void)
{
    ep_bed bed;
    sdc_error error;
    sdc_endpointer *out = (sdc_endpointer *)&bed;
    REQUIRE(ep_bed_init(&bed));
    sdc_endpointer_desc desc = ep_desc(&bed);
    desc.open = NULL;
    CHECK_ERR(sdc_endpointer_create(bed.cache, &desc, bed.client, &out, &error), SDC_ERR_ARG);
    CHECK(out == NULL);
    CHECK_ERR(error.code, SDC_ERR_ARG);
    CHECK_HAS(error.message, "open");
    desc = ep_desc(&bed);
    CHECK_ERR(sdc_endpointer_create(NULL, &desc, bed.client, &out, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "source");
    desc.invalidate_after_ms = SDC_NEVER;           /* that is what 0 says, too */
    CHECK_ERR(sdc_endpointer_create(bed.cache, &desc, bed.client, &out, &error), SDC_OK);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_U64(sdc_task_wants(sdc_endpointer_task(out)).deadline_ms, UINT64_MAX);
    sdc_endpointer_destroy(out);
    ep_bed_deinit(&bed);
}

/* ---- the task -------------------------------------------------------------------------------- */

static void test_endpointer_task_has_timers_alone(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    sdc_task *task = sdc_endpointer_task(bed.endpointer);
    CHECK(task != NULL && task == sdc_endpointer_task(bed.endpointer));
    sdc_wants wants = sdc_task_wants(task);
    CHECK_INT(wants.fd, -1);
    CHECK(!wants.readable && !wants.writable);
    CHECK_INT(wants.timeout_ms, -1);
    for (int i = 0; i < 5; i++) {
        CHECK_ERR(sdc_step(task, 0), SDC_AGAIN);
    }
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_ERR(sdc_step(task, 0), SDC_AGAIN);
    CHECK_INT(sdc_task_wants(task).timeout_ms, 5000);
    ep_bed_deinit(&bed);
}

static void ep_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    (void)task;
    *(uint64_t *)user = wants.deadline_ms;
}

static void test_endpointer_task_tells_its_wants(void)
{
    ep_bed bed;
    uint64_t told = 0;
    sdc_stats stats;
    sdc_error error;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    sdc_task *task = sdc_endpointer_task(bed.endpointer);
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    sdc_task_on_wants(task, ep_on_wants, &told);
    CHECK_U64(told, UINT64_MAX);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);            /* it was woken */
    CHECK_U64(told, bed.now_ms + 5000);
    bed.now_ms += 5000;
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_U64(told, UINT64_MAX);
    sdc_task_stats(task, &stats);
    CHECK_U64(stats.requests, 0);
    sdc_task_error(task, &error);
    CHECK_ERR(error.code, SDC_OK);
    ep_bed_deinit(&bed);
}

static void test_endpointer_task_stops(void)
{
    ep_bed bed;
    REQUIRE(ep_bed_init(&bed));
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    REQUIRE(ep_make(&bed, 5000));
    sdc_task *task = sdc_endpointer_task(bed.endpointer);
    sdc_stop(task);
    sdc_stop(task);
    CHECK_ERR(sdc_step(task, 0), SDC_STOPPED);
    CHECK_ERR(sdc_step(task, -1), SDC_STOPPED);
    CHECK_U64(ep_deadline(&bed), UINT64_MAX);
    bed.now_ms += 100000;
    bed.bad = NULL;
    CHECK_ERR(sdc_step(task, 0), SDC_STOPPED);
    CHECK_INT(bed.num_asked, 2);
    CHECK_ERR(ep_try(&bed), SDC_OK);            /* from now on nobody steps it: picks look */
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_ERR(ep_put(&bed, "3:1"), SDC_OK);
    CHECK_STR(ep_all(&bed), "3:1");
    ep_destroy(&bed);
    CHECK_INT(ep_open_now(&bed, NULL), 0);
    ep_bed_deinit(&bed);
}

/* Looks at the clock of ten picks. */
static size_t ep_looks(ep_bed *bed)
{
    CHECK_ERR(ep_try(bed), SDC_OK);
    bed->num_looks = 0;
    for (int i = 0; i < 10; i++) {
        CHECK_ERR(ep_try(bed), SDC_OK);
    }
    return bed->num_looks;
}

/* Picks look at the clock where there are timers that no step looks after, and at no other time. */
static void test_endpointer_task_and_picks_share_the_timers(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    CHECK_INT(ep_looks(&bed), 0);
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_INT(ep_looks(&bed), 10);
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    CHECK_INT(ep_looks(&bed), 0);
    sdc_stop(sdc_endpointer_task(bed.endpointer));
    CHECK_ERR(ep_step(&bed), SDC_STOPPED);
    CHECK_INT(ep_looks(&bed), 10);
    bed.bad = NULL;
    bed.now_ms += 200;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_INT(ep_looks(&bed), 0);
    ep_bed_deinit(&bed);
    REQUIRE(ep_begin(&bed, "1:1", 5000));       /* it is stopped while there are no timers */
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    sdc_stop(sdc_endpointer_task(bed.endpointer));
    CHECK_ERR(ep_step(&bed), SDC_STOPPED);
    CHECK_INT(ep_looks(&bed), 0);
    CHECK_ERR(ep_fail(&bed, SDC_ERR_CONNECT), SDC_OK);
    CHECK_INT(ep_looks(&bed), 10);
    bed.now_ms += 5000;
    CHECK_ERR(ep_try(&bed), SDC_ERR_CONNECT);
    ep_bed_deinit(&bed);
}

/* Each failure is a record that says what failed, and what is done about it. */
static void test_endpointer_log(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1", 5000));
    CHECK_STR(bed.log, "");
    bed.bad = "2:1";
    CHECK_ERR(ep_put(&bed, "1:1 2:1"), SDC_OK);
    CHECK_STR(bed.log, "warn event=endpointer addr=2:1 open_failed=the program's own error");
    bed.bad = NULL;
    ep_run(&bed, 200);
    CHECK_STR(bed.log, "info event=endpointer addr=2:1 action=opened");
    CHECK_ERR(ep_fail(&bed, SDC_ERR_DENIED), SDC_OK);
    ep_run(&bed, 5000);
    CHECK_STR(bed.log, "warn event=endpointer addr= invalidated=permission denied");
    fault_alloc_fail(&bed.memory, 1, true);
    (void)ep_put(&bed, "1:1 2:1");
    fault_alloc_fail(&bed.memory, 0, false);
    CHECK_STR(bed.log, "warn event=endpointer addr= err=out of memory");
    bed.log[0] = '\0';
    ep_run(&bed, 200);
    CHECK_STR(ep_all(&bed), "1:1 2:1");
    CHECK_STR(bed.log, "");
    ep_bed_deinit(&bed);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Calls of open and close pair whatever fails, so the only question is how it goes on. */
static void ep_shortage(uint64_t nth, bool for_good, bool *was_hit)
{
    static const char *const after = "2:1*3 3:1 4:1 5:1 6:1";
    ep_bed bed;
    sdc_pick pick;
    test_note("allocation %u, %s", (unsigned)nth, for_good ? "for good" : "once");
    REQUIRE(ep_begin(&bed, "1:1 2:1 3:1", 0));
    sdc_balancer *weighted = ep_balancer(bed.endpointer, SDC_POLICY_WEIGHTED);
    CHECK_ERR(ep_step(&bed), SDC_AGAIN);
    REQUIRE(ep_pick(&bed, "1:1", &pick) != NULL);
    fault_alloc_fail(&bed.memory, nth, for_good);
    sdc_err err = ep_put(&bed, after);
    CHECK(err == SDC_OK || err == SDC_ERR_NOMEM);
    /* something is served in any case, be it what was there before */
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_BETWEEN(ep_share(weighted, "2:1", 12), 1, 6);
    *was_hit = bed.memory.num_failed > 0;
    fault_alloc_fail(&bed.memory, 0, false);
    ep_run(&bed, 35000);                        /* by itself: no update, no pick */
    ep_done(&bed, &pick);
    CHECK_STR(ep_all(&bed), "2:1 3:1 4:1 5:1 6:1");
    CHECK_INT(ep_share(weighted, "2:1", 70), 30);
    CHECK_INT(ep_share(bed.balancer, "6:1", 10), 2);
    CHECK_INT(ep_opened(&bed, "2:1"), 1);
    sdc_balancer_destroy(weighted);
    ep_bed_deinit(&bed);
}

static void test_endpointer_update_without_memory(void)
{
    for (int for_good = 0; for_good <= 1; for_good++) {
        bool was_hit = true;
        uint64_t nth = 1;
        for (; was_hit && nth < 500 && test_num_failures() == 0; nth++) {
            ep_shortage(nth, for_good == 1, &was_hit);
        }
        CHECK_BETWEEN(nth, 2, 499);
    }
}

/* The same for create and for all that follows: no leak, and a clean refusal. */
static sdc_err ep_life(ep_bed *bed, uint64_t nth, bool for_good)
{
    sdc_endpointer_desc desc = ep_desc(bed);
    sdc_balancer_desc balanced;
    sdc_pick pick;
    memset(&balanced, 0, sizeof balanced);
    balanced.policy = SDC_POLICY_HASHED;
    desc.invalidate_after_ms = 1000;
    fault_alloc_fail(&bed->memory, nth, for_good);
    sdc_err err = sdc_endpointer_create(bed->cache, &desc, bed->client, &bed->endpointer, NULL);
    CHECK((err == SDC_OK) == (bed->endpointer != NULL));
    if (err != SDC_OK) {
        return err;
    }
    err = sdc_balancer_create(bed->endpointer, &balanced, &bed->balancer, NULL);
    CHECK((err == SDC_OK) == (bed->balancer != NULL));
    if (err != SDC_OK) {
        return err;
    }
    (void)ep_put(bed, "1:1 2:1");
    err = ep_next(bed, &pick);
    (void)ep_put(bed, "2:1 3:1");
    (void)ep_fail(bed, SDC_ERR_CONNECT);
    bed->now_ms += 1000;
    (void)ep_step(bed);
    (void)ep_put(bed, "4:1");
    ep_done(bed, &pick);
    return err == SDC_OK || err == SDC_ERR_EMPTY || err == SDC_ERR_CONNECT ? SDC_OK : err;
}

static void test_endpointer_every_allocation_may_fail(void)
{
    for (int for_good = 0; for_good <= 1; for_good++) {
        bool was_hit = true;
        unsigned nth = 1;
        for (; was_hit && nth < 1000 && test_num_failures() == 0; nth++) {
            ep_bed bed;
            test_note("allocation %u, %s", nth, for_good == 1 ? "for good" : "once");
            REQUIRE(ep_bed_init(&bed));
            CHECK_ERR(ep_put(&bed, "1:1 1:2 1:3"), SDC_OK);
            sdc_err err = ep_life(&bed, nth, for_good == 1);
            was_hit = bed.memory.num_failed > 0;
            CHECK(err == SDC_OK || (err == SDC_ERR_NOMEM && was_hit));
            ep_bed_deinit(&bed);
        }
        CHECK_BETWEEN(nth, 4, 999);
    }
}

/* An endpointer that is not stepped finds its way back at the next pick or update. */
static void test_endpointer_unstepped_recovers_from_no_memory(void)
{
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1 2:1", 0));
    fault_alloc_fail(&bed.memory, 1, true);
    (void)ep_put(&bed, "2:1 3:1");
    CHECK_ERR(ep_try(&bed), SDC_OK);
    fault_alloc_fail(&bed.memory, 0, false);
    bed.now_ms += 35000;
    CHECK_ERR(ep_try(&bed), SDC_OK);
    CHECK_STR(ep_all(&bed), "2:1 3:1");
    CHECK_INT(ep_share(bed.balancer, "3:1", 10), 5);
    ep_bed_deinit(&bed);
}

/* Picks take no memory: they work where none is to be had. */
static void test_endpointer_picks_allocate_nothing(void)
{
    static const sdc_policy policies[] = { SDC_POLICY_ROUND_ROBIN, SDC_POLICY_RANDOM,
                                           SDC_POLICY_WEIGHTED, SDC_POLICY_LEAST_LOADED,
                                           SDC_POLICY_HASHED };
    ep_bed bed;
    REQUIRE(ep_begin(&bed, "1:1*2 2:1 3:1", 0));
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        sdc_balancer *balancer = ep_balancer(bed.endpointer, policies[i]);
        uint64_t before = bed.memory.num_calls;
        sdc_pick picks[20];
        for (int n = 0; n < 20; n++) {
            CHECK_ERR(ep_next_of(balancer, &picks[n]), SDC_OK);
        }
        for (int n = 0; n < 20; n++) {
            ep_done_of(balancer, &picks[n]);
        }
        CHECK_U64(bed.memory.num_calls, before);
        sdc_balancer_destroy(balancer);
    }
    ep_bed_deinit(&bed);
}

/* ---- a watch as the source ------------------------------------------------------------------- */

typedef struct ep_count {
    unsigned opens, closes;
} ep_count;

static sdc_err ep_count_open(void *user, const sdc_instance *instance, void **endpoint)
{
    ep_count *count = (ep_count *)user;
    count->opens++;
    *endpoint = (void *)(uintptr_t)instance->port;
    return SDC_OK;
}

static void ep_count_close(void *user, void *endpoint)
{
    (void)endpoint;
    ((ep_count *)user)->closes++;
}

static void ep_watch_goes_on(rig *r, sdc_task *task, uint64_t ms)
{
    sdc_task *tasks[2];
    tasks[0] = r->task;
    tasks[1] = task;
    (void)world_loop(r->world, tasks, 2, world_now(r->world) + ms);
}

static bool ep_watch_begin(rig *r, ep_count *count, sdc_endpointer **out)
{
    sdc_endpointer_desc desc = { ep_count_open, ep_count_close, count, 30000 };
    memset(count, 0, sizeof *count);
    return rig_init(r, NULL) && rig_watch(r, NULL) &&
           CHECK_ERR(sdc_endpointer_create(sdc_instancer_cache(r->instancer), &desc, r->client,
                                           out, NULL), SDC_OK);
}

static void test_endpointer_over_a_watch(void)
{
    rig r;
    ep_count count;
    sdc_pick pick;
    sdc_endpointer *endpointer = NULL;
    REQUIRE(ep_watch_begin(&r, &count, &endpointer));
    script_health(r.script, 10, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 },
                                            { .address = "10.1.0.2", .port = 80, .id = "b" }));
    script_hold(r.script);
    sdc_balancer *balancer = ep_balancer(endpointer, SDC_POLICY_ROUND_ROBIN);
    sdc_task *task = sdc_endpointer_task(endpointer);
    CHECK_ERR(sdc_balancer_next(balancer, NULL, &pick), SDC_ERR_EMPTY);
    ep_watch_goes_on(&r, task, 1000);
    CHECK_INT(count.opens, 2);
    script_change(r.script, 11, SCRIPT_LIST(r.script, { .address = "10.1.0.2", .port = 80,
                                                        .id = "b" }));
    ep_watch_goes_on(&r, task, 1000);
    CHECK_INT(count.closes, 1);
    script_set_down(r.script, true);
    ep_watch_goes_on(&r, task, 29000);
    CHECK_ERR(sdc_balancer_next(balancer, NULL, &pick), SDC_OK);
    sdc_balancer_done(balancer, &pick, SDC_OK);
    ep_watch_goes_on(&r, task, 3000);
    CHECK_INT(count.closes, 2);
    sdc_err err = sdc_balancer_next(balancer, NULL, &pick);
    CHECK(err == SDC_ERR_IO || err == SDC_ERR_CONNECT);     /* a connection broke first */
    script_set_down(r.script, false);
    script_health(r.script, 11, SCRIPT_LIST(r.script, { .address = "10.1.0.2", .port = 80,
                                                        .id = "b" }));
    script_hold(r.script);
    ep_watch_goes_on(&r, task, 60000);
    CHECK_INT(count.opens, 3);
    CHECK_ERR(sdc_balancer_next(balancer, NULL, &pick), SDC_OK);
    sdc_instancer_destroy(r.instancer);         /* its last list goes on */
    r.instancer = NULL;
    sdc_balancer_done(balancer, &pick, SDC_OK);
    CHECK_INT(count.closes, 2);
    sdc_endpointer_destroy(endpointer);
    CHECK_INT(count.closes, 3);
    sdc_balancer_destroy(balancer);
    rig_deinit(&r);
}

/* What a watch has found is there when it is over, too. */
static void test_endpointer_over_a_watch_that_was_stopped(void)
{
    rig r;
    ep_count count;
    sdc_endpointer *endpointer = NULL;
    sdc_endpointer_desc desc = { ep_count_open, ep_count_close, &count, 0 };
    memset(&count, 0, sizeof count);
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 10, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 1000);
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_ERR(sdc_endpointer_create(sdc_instancer_cache(r.instancer), &desc, r.client, &endpointer,
                                    NULL), SDC_OK);
    CHECK_INT(count.opens, 1);
    sdc_endpointer_destroy(endpointer);
    CHECK_INT(count.closes, 1);
    rig_deinit(&r);
}

/* A blocking step of the task ends its outage in time. */
static void test_endpointer_step_that_blocks(void)
{
    rig r;
    ep_count count;
    sdc_endpointer *endpointer = NULL;
    REQUIRE(ep_watch_begin(&r, &count, &endpointer));
    script_health(r.script, 10, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_hold(r.script);
    rig_run(&r, 1000);
    script_set_down(r.script, true);
    rig_run(&r, 1000);
    uint64_t from_ms = world_now(r.world);
    CHECK_ERR(sdc_step(sdc_endpointer_task(endpointer), 10), SDC_AGAIN);
    CHECK_U64(world_now(r.world), from_ms + 10);
    CHECK_INT(count.closes, 0);
    CHECK_ERR(sdc_step(sdc_endpointer_task(endpointer), 60000), SDC_AGAIN);
    CHECK_INT(count.closes, 1);
    sdc_endpointer_destroy(endpointer);
    rig_deinit(&r);
}

/* ---- random stories against a model ---------------------------------------------------------- */

enum { EP_ADDRS = 6, EP_IDS = 3, EP_PICKS = 12, EP_BALANCERS = 5, EP_OPS = 40, EP_ROUNDS = 3000 };

/* One id at one addr. */
typedef struct ep_entry {
    bool     is_there, is_twice;
    unsigned weight, tag;
} ep_entry;

typedef struct ep_held {
    sdc_balancer *balancer;         /* NULL: a free place                                     */
    sdc_pick      pick;
    ep_entry      entry;            /* as it was then                                         */
    char          id;
} ep_held;

typedef struct ep_model {
    ep_bed        bed;              /* first: what is a bed to open and close is a model here */
    uint64_t      random;           /* of the story                                           */
    ep_entry      list[EP_ADDRS][EP_IDS];
    ep_held       held[EP_PICKS];
    sdc_balancer *balancers[EP_BALANCERS];
    uint32_t      invalidate_ms;
    uint64_t      since_ms;         /* of the outage; 0 none                                  */
    sdc_err       outage;
    unsigned      num_failed[EP_ADDRS];     /* opens in a row                                 */
    uint64_t      failed_ms[EP_ADDRS];
    bool          is_bad[EP_ADDRS];
    bool          is_now[EP_ADDRS];         /* of sdc_endpointer_each                         */
    unsigned      num_policies;     /* most go without the last one, whose tables take long   */
    bool          is_stepped;       /* else its picks do all                                  */
    bool          is_short;         /* of memory, now and then                                */
    bool          is_updating;      /* then all may be tried                                  */
    bool          is_nested;        /* the cache was updated from inside of this              */
} ep_model;

static unsigned ep_draw(ep_model *m, unsigned below)
{
    return (unsigned)(ep_mix(&m->random) % below);
}

static size_t ep_index(const char *addr)
{
    return (size_t)(addr[0] - '0');
}

static bool ep_is_wanted(const ep_model *m, size_t addr)
{
    return m->list[addr][0].is_there || m->list[addr][1].is_there || m->list[addr][2].is_there;
}

static unsigned ep_weight(const ep_model *m, size_t addr)
{
    unsigned sum = 0;
    for (size_t id = 0; id < EP_IDS; id++) {
        sum += m->list[addr][id].is_there ? m->list[addr][id].weight : 0;
    }
    return sum;
}

/* The outage has lasted too long, which shows as soon as somebody looks. */
static bool ep_is_stale(const ep_model *m)
{
    return m->since_ms != 0 && m->invalidate_ms != 0 &&
           m->bed.now_ms >= m->since_ms + m->invalidate_ms;
}

static void ep_story_update(ep_model *m);

static sdc_err ep_story_open(void *user, const sdc_instance *instance, void **endpoint)
{
    ep_model *m = (ep_model *)user;
    size_t addr = ep_index(instance->addr);
    CHECK(m->is_nested || m->is_short || ep_is_wanted(m, addr));
    if (m->num_failed[addr] > 0 && !m->is_updating && !m->is_short) {
        CHECK(m->bed.now_ms >= m->failed_ms[addr] + 50);
    }
    if (!m->is_nested && ep_draw(m, 40) == 0) {
        m->is_nested = true;
        ep_story_update(m);
    }
    m->bed.bad = m->is_bad[addr] ? "*" : NULL;
    sdc_err err = ep_open(&m->bed, instance, endpoint);
    m->num_failed[addr] = err == SDC_OK ? 0 : m->num_failed[addr] + 1;
    m->failed_ms[addr] = m->bed.now_ms;
    return err;
}

static void ep_story_close(void *user, void *endpoint)
{
    ep_model *m = (ep_model *)user;
    ep_close(&m->bed, endpoint);
    if (!m->is_nested && m->bed.endpointer != NULL && ep_draw(m, 40) == 0) {
        m->is_nested = true;
        ep_story_update(m);
    }
}

/* ---- what happens in a story ---- */

static void ep_story_put(ep_model *m)
{
    char text[EP_TEXT_MAX];
    size_t len = 0;
    text[0] = '\0';
    for (size_t at = 0; at < (size_t)EP_ADDRS * EP_IDS; at++) {
        const ep_entry *e = &m->list[at / EP_IDS][at % EP_IDS];
        for (int n = 0; e->is_there && n < (e->is_twice ? 2 : 1); n++) {
            len += (size_t)snprintf(text + len, sizeof text - len, "%c@%u:1*%u#%u ",
                                    (int)('a' + at % EP_IDS), (unsigned)(at / EP_IDS), e->weight,
                                    e->tag);
        }
    }
    CHECK_ERR(ep_put(&m->bed, text), SDC_OK);
}

static void ep_story_update(ep_model *m)
{
    unsigned num = 1 + ep_draw(m, 4);
    for (unsigned i = 0; i < num; i++) {
        ep_entry *e = &m->list[ep_draw(m, EP_ADDRS)][ep_draw(m, EP_IDS)];
        e->is_there = ep_draw(m, 2) == 0;
        e->is_twice = ep_draw(m, 6) == 0;
        e->weight = ep_draw(m, 5);
        e->tag = ep_draw(m, 100);
    }
    if (ep_draw(m, 30) == 0) {
        memset(m->list, 0, sizeof m->list);
    }
    m->since_ms = 0;
    bool outer = m->is_updating;
    m->is_updating = true;
    ep_story_put(m);
    m->is_updating = outer;
    for (size_t addr = 0; addr < EP_ADDRS; addr++) {
        m->num_failed[addr] = ep_is_wanted(m, addr) ? m->num_failed[addr] : 0;
    }
}

static void ep_story_error(ep_model *m)
{
    sdc_err err = ep_draw(m, 2) == 0 ? SDC_ERR_CONNECT : SDC_ERR_TIMEOUT;
    m->outage = m->since_ms != 0 ? m->outage : err;
    m->since_ms = m->since_ms != 0 ? m->since_ms : m->bed.now_ms;
    m->is_updating = true;
    CHECK_ERR(ep_fail(&m->bed, err), SDC_OK);
    m->is_updating = false;
}

static void ep_story_next(ep_model *m)
{
    ep_held *h = &m->held[ep_draw(m, EP_PICKS)];
    sdc_balancer *balancer = m->balancers[ep_draw(m, EP_BALANCERS)];
    if (h->balancer != NULL || balancer == NULL) {
        return;
    }
    char key[4] = { (char)('a' + ep_draw(m, 26)), '\0', '\0', '\0' };
    sdc_err err = sdc_balancer_next(balancer, ep_draw(m, 2) == 0 ? key : NULL, &h->pick);
    if (err != SDC_OK) {
        CHECK(err == SDC_ERR_EMPTY || err == SDC_ERR_CONNECT || err == SDC_ERR_TIMEOUT);
        return;
    }
    ep_thing *thing = (ep_thing *)h->pick.endpoint;
    CHECK_INT(thing->num_closes, 0);
    CHECK_STR(thing->addr, h->pick.instance->addr);
    thing->num_held++;
    h->balancer = balancer;
    h->id = h->pick.instance->id[0];
    h->entry.weight = h->pick.instance->weight;
    h->entry.tag = (unsigned)strtoul(h->pick.instance->tags[0], NULL, 10);
    const ep_entry *now = &m->list[ep_index(thing->addr)][h->id - 'a'];
    if (!m->is_short) {
        CHECK(now->is_there);
        CHECK_INT(h->entry.tag, now->tag);
        CHECK_INT(h->entry.weight, now->weight);
    }
}

static void ep_story_done(ep_model *m, ep_held *h)
{
    if (h->balancer == NULL) {
        return;
    }
    ep_thing *thing = (ep_thing *)h->pick.endpoint;
    CHECK_INT(thing->num_closes, 0);
    CHECK_STR(h->pick.instance->addr, thing->addr);
    CHECK_INT(h->pick.instance->id[0], h->id);
    CHECK_INT(h->pick.instance->weight, h->entry.weight);
    CHECK_INT(strtoul(h->pick.instance->tags[0], NULL, 10), h->entry.tag);
    thing->num_held--;
    sdc_balancer_done(h->balancer, &h->pick, ep_draw(m, 3) == 0 ? SDC_ERR_IO : SDC_OK);
    h->balancer = NULL;
}

/* Makes or destroys a balancer, of any policy. */
static void ep_story_balancer(ep_model *m)
{
    sdc_balancer **place = &m->balancers[ep_draw(m, EP_BALANCERS)];
    if (*place == NULL) {
        sdc_balancer_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.policy = (sdc_policy)ep_draw(m, m->num_policies);
        desc.seed = ep_draw(m, 3);
        sdc_err err = sdc_balancer_create(m->bed.endpointer, &desc, place, NULL);
        CHECK(err == SDC_OK || (m->is_short && err == SDC_ERR_NOMEM));
        return;
    }
    for (size_t i = 0; i < EP_PICKS; i++) {
        if (m->held[i].balancer == *place) {
            return;
        }
    }
    sdc_balancer_destroy(*place);
    *place = NULL;
}

static void ep_story_act(ep_model *m)
{
    m->is_nested = false;
    switch (ep_draw(m, 12)) {
    case 0: case 1: ep_story_update(m);                                     break;
    case 2:  ep_story_error(m);                                             break;
    case 3:  m->is_bad[ep_draw(m, EP_ADDRS)] = ep_draw(m, 3) == 0;          break;
    case 4:  m->bed.now_ms += ep_draw(m, 300);                              break;
    case 5:  m->bed.now_ms += ep_draw(m, 20000);                            break;
    case 6:  ep_story_balancer(m);                                          break;
    case 7: case 8: ep_story_done(m, &m->held[ep_draw(m, EP_PICKS)]);       break;
    default: ep_story_next(m);                                              break;
    }
}

/* ---- what holds at each moment ---- */

static sdc_err ep_story_mark(void *user, void *endpoint, const sdc_instance *instance)
{
    ep_model *m = (ep_model *)user;
    const ep_thing *thing = (const ep_thing *)endpoint;
    size_t addr = ep_index(instance->addr);
    CHECK_STR(thing->addr, instance->addr);
    CHECK_INT(thing->num_closes, 0);
    CHECK(!m->is_now[addr]);
    m->is_now[addr] = true;
    return SDC_OK;
}

/* Open is what can be picked, and beyond that only what is picked. */
static void ep_story_check_things(ep_model *m)
{
    size_t num_now[EP_ADDRS] = { 0 };
    for (size_t i = 0; i < m->bed.num_things; i++) {
        const ep_thing *thing = m->bed.things[i];
        CHECK(thing->num_closes <= 1);
        if (thing->num_closes == 0 && thing->num_held == 0) {
            num_now[ep_index(thing->addr)]++;
        }
    }
    /* without memory a balancer keeps its last list */
    for (size_t addr = 0; addr < EP_ADDRS && !m->is_short; addr++) {
        CHECK(num_now[addr] <= (m->is_now[addr] ? 1 : 0));
    }
}

static void ep_story_check(ep_model *m)
{
    memset(m->is_now, 0, sizeof m->is_now);
    CHECK_ERR(sdc_endpointer_each(m->bed.endpointer, ep_story_mark, m), SDC_OK);
    ep_story_check_things(m);
    for (size_t addr = 0; addr < EP_ADDRS && !m->is_short; addr++) {
        bool wanted = ep_is_wanted(m, addr) && !ep_is_stale(m);
        uint64_t most_ms = m->failed_ms[addr] + ep_pause_most(m->num_failed[addr]);
        bool waits = m->num_failed[addr] > 0 && m->bed.now_ms <= most_ms;
        CHECK(!m->is_now[addr] || wanted);
        CHECK(m->is_now[addr] || !wanted || waits);
    }
}

/* Nothing of weight 0 is picked while there is something else. */
static void ep_story_check_pick(ep_model *m, const sdc_pick *pick)
{
    CHECK(m->is_now[ep_index(pick->instance->addr)]);
    if (ep_weight(m, ep_index(pick->instance->addr)) > 0) {
        return;
    }
    for (size_t addr = 0; addr < EP_ADDRS; addr++) {
        CHECK(!m->is_now[addr] || ep_weight(m, addr) == 0);
    }
}

/* A pick tells what there is, and does what is due where nobody steps. */
static void ep_story_settle(ep_model *m)
{
    sdc_pick pick;
    if (m->is_stepped) {
        ep_run(&m->bed, 0);
    }
    sdc_err err = ep_next(&m->bed, &pick);
    if (ep_is_stale(m)) {
        memset(m->num_failed, 0, sizeof m->num_failed);
    }
    ep_story_check(m);
    size_t num = 0;
    for (size_t addr = 0; addr < EP_ADDRS; addr++) {
        num += m->is_now[addr] ? 1 : 0;
    }
    if (err == SDC_OK) {
        if (!m->is_short) {
            ep_story_check_pick(m, &pick);
        }
        ep_done(&m->bed, &pick);
    } else if (!m->is_short) {
        CHECK_INT(num, 0);
        CHECK_ERR(err, ep_is_stale(m) ? m->outage : SDC_ERR_EMPTY);
    }
}

/* Memory is back, everything opens, and the source is well: then all is as the list says. */
static void ep_story_converge(ep_model *m)
{
    fault_alloc_fail(&m->bed.memory, 0, false);
    memset(m->is_bad, 0, sizeof m->is_bad);
    m->is_nested = true;                    /* no more of that */
    ep_story_update(m);
    if (m->is_stepped) {
        ep_run(&m->bed, 50000);
    } else {
        m->bed.now_ms += 50000;
        (void)ep_try(&m->bed);
    }
    m->is_short = false;
    memset(m->num_failed, 0, sizeof m->num_failed);
    ep_story_settle(m);
}

/* In one order or the other. */
static void ep_story_end(ep_model *m)
{
    bool endpointer_first = ep_draw(m, 2) == 0;
    if (endpointer_first) {
        ep_destroy(&m->bed);
        CHECK_ERR(ep_try(&m->bed), SDC_ERR_EMPTY);
    }
    for (size_t i = 0; i < EP_PICKS; i++) {
        ep_story_done(m, &m->held[i]);
    }
    if (endpointer_first) {
        CHECK_INT(ep_open_now(&m->bed, NULL), 0);
    }
    for (size_t i = 0; i < EP_BALANCERS; i++) {
        sdc_balancer_destroy(m->balancers[i]);
    }
    if (ep_draw(m, 2) == 0) {
        ep_destroy_nth(&m->bed, 3);
    }
    ep_bed_deinit(&m->bed);
}

static void ep_story(uint64_t seed)
{
    ep_model m;
    memset(&m, 0, sizeof m);
    m.random = seed;
    REQUIRE(ep_bed_init(&m.bed));
    sdc_endpointer_desc desc = ep_desc(&m.bed);
    desc.open = ep_story_open;
    desc.close = ep_story_close;
    desc.invalidate_after_ms = m.invalidate_ms = ep_draw(&m, 2) == 0 ? 5000 : 0;
    m.bed.random = seed;
    m.num_policies = SDC_POLICY_HASHED + (ep_draw(&m, 32) == 0 ? 1 : 0);
    m.is_stepped = ep_draw(&m, 2) == 0;
    m.is_short = ep_draw(&m, 4) == 0;
    m.is_updating = true;
    CHECK_ERR(sdc_endpointer_create(m.bed.cache, &desc, m.bed.client, &m.bed.endpointer, NULL),
              SDC_OK);
    m.is_updating = false;
    m.bed.balancer = ep_balancer(m.bed.endpointer, (sdc_policy)ep_draw(&m, m.num_policies));
    for (int i = 0; i < EP_OPS && test_num_failures() == 0; i++) {
        if (m.is_short && ep_draw(&m, 4) == 0) {
            fault_alloc_fail(&m.bed.memory, 1 + ep_draw(&m, 8), ep_draw(&m, 2) == 0);
        }
        ep_story_act(&m);
        if (m.is_stepped || ep_draw(&m, 2) == 0) {
            ep_story_settle(&m);
        }
        if (m.is_short && ep_draw(&m, 2) == 0) {
            fault_alloc_fail(&m.bed.memory, 0, false);
        }
    }
    ep_story_converge(&m);
    ep_story_end(&m);
}

/* EP_SEED in the environment: that story alone. EP_ROUNDS: so many (3000). */
static void test_endpointer_random_stories(void)
{
    const char *only = getenv("EP_SEED");
    const char *rounds = getenv("EP_ROUNDS");
    uint64_t from = only != NULL ? strtoull(only, NULL, 10) : 1;
    uint64_t num = only != NULL ? 1 : rounds != NULL ? strtoull(rounds, NULL, 10) : EP_ROUNDS;
    for (uint64_t seed = from; seed < from + num && test_num_failures() == 0; seed++) {
        test_note("EP_SEED=%llu", (unsigned long long)seed);
        ep_story(seed);
    }
}

static const test_case cases_endpointer[] = {
    TEST(test_endpointer_opens_once_for_each_addr),
    TEST(test_endpointer_over_an_empty_cache),
    TEST(test_endpointer_opens_whatever_the_status_and_weight),
    TEST(test_endpointer_endpoint_may_be_null),
    TEST(test_endpointer_needs_no_close),
    TEST(test_endpointer_closes_once_what_is_gone),
    TEST(test_endpointer_closes_after_the_last_done),
    TEST(test_endpointer_done_without_a_pick_is_nothing),
    TEST(test_endpointer_picks_outlive_updates),
    TEST(test_endpointer_closes_after_the_last_done_of_all_balancers),
    TEST(test_endpointer_addr_comes_back_while_it_is_picked),
    TEST(test_endpointer_survivors_keep_their_endpoint),
    TEST(test_endpointer_same_list_is_no_news),
    TEST(test_endpointer_instance_of_a_pick_is_of_its_time),
    TEST(test_endpointer_pick_has_the_whole_instance),
    TEST(test_endpointer_twins_share_one),
    TEST(test_endpointer_twin_that_goes_leaves_picks_alone),
    TEST(test_endpointer_twins_add_their_weights),
    TEST(test_endpointer_weights_of_twins_do_not_wrap),
    TEST(test_endpointer_exact_duplicate_counts_once),
    TEST(test_beat_xdup_endpoints),
    TEST(test_beat_xbadfactory),
    TEST(test_endpointer_pauses_double_with_jitter),
    TEST(test_endpointer_failed_open_of_a_gone_instance_is_dropped),
    TEST(test_endpointer_unstepped_opens_again_at_a_pick),
    TEST(test_endpointer_unstepped_pick_answers_what_it_opened),
    TEST(test_endpointer_stepped_leaves_opening_to_the_task),
    TEST(test_endpointer_failed_opens_have_pauses_of_their_own),
    TEST(test_endpointer_failed_opens_come_back_together),
    TEST(test_endpointer_failed_open_wakes_the_task),
    TEST(test_endpointer_error_keeps_endpoints),
    TEST(test_endpointer_invalidates_by_the_tasks_deadline),
    TEST(test_endpointer_further_errors_do_not_put_it_off),
    TEST(test_endpointer_recovery_forgets_the_outage),
    TEST(test_endpointer_unstepped_invalidates_at_a_pick),
    TEST(test_endpointer_unstepped_invalidates_at_an_update),
    TEST(test_endpointer_stepped_leaves_invalidation_to_the_task),
    TEST(test_endpointer_invalidation_spares_picks),
    TEST(test_endpointer_invalidation_ends_attempts_to_open),
    TEST(test_endpointer_outage_before_any_list),
    TEST(test_endpointer_made_in_an_outage),
    TEST(test_endpointer_source_with_another_clock),
    TEST(test_endpointer_outage_after_outage_in_an_open),
    TEST(test_endpointer_made_late_in_an_outage),
    TEST(test_endpointer_invalidation_wakes_the_task),
    TEST(test_beat_xepclose),
    TEST(test_endpointer_destroy_takes_null),
    TEST(test_endpointer_destroy_ends_attempts_to_open),
    TEST(test_endpointer_destroy_in_any_order),
    TEST(test_endpointer_pick_outlives_everything_else),
    TEST(test_endpointer_destroyed_in_an_open_of_an_update),
    TEST(test_endpointer_destroyed_in_an_open_of_a_step),
    TEST(test_endpointer_destroyed_in_an_open_of_a_pick),
    TEST(test_endpointer_destroyed_in_a_close),
    TEST(test_endpointer_destroyed_in_a_close_of_a_step),
    TEST(test_endpointer_destroyed_in_a_close_before_opens),
    TEST(test_endpointer_destroyed_in_the_log),
    TEST(test_endpointer_everything_is_destroyed_in_a_close),
    TEST(test_endpointer_cache_is_updated_in_an_open),
    TEST(test_endpointer_cache_is_updated_in_the_first_open),
    TEST(test_endpointer_cache_is_updated_in_an_open_of_a_timer),
    TEST(test_endpointer_picks_in_an_open),
    TEST(test_endpointer_picks_in_a_close),
    TEST(test_endpointer_others_come_and_go_in_an_open),
    TEST(test_endpointer_no_lock_is_held_in_open_and_close),
    TEST(test_endpointer_open_of_a_step_may_not_step),
    TEST(test_endpointer_made_and_destroyed_by_a_subscriber),
    TEST(test_endpointer_task_is_stopped_in_an_open),
    TEST(test_endpointer_each_goes_by_addr),
    TEST(test_endpointer_each_ends_where_fn_says_so),
    TEST(test_endpointer_each_holds_all_meanwhile),
    TEST(test_endpointer_destroyed_in_each),
    TEST(test_endpointer_each_in_each),
    TEST(test_endpointer_each_leaves_out_what_is_gone),
    TEST(test_endpointer_long_list),
    TEST(test_endpointer_several_on_one_cache),
    TEST(test_endpointer_refuses_what_cannot_be),
    TEST(test_endpointer_task_has_timers_alone),
    TEST(test_endpointer_task_tells_its_wants),
    TEST(test_endpointer_task_stops),
    TEST(test_endpointer_task_and_picks_share_the_timers),
    TEST(test_endpointer_log),
    TEST(test_endpointer_update_without_memory),
    TEST(test_endpointer_every_allocation_may_fail),
    TEST(test_endpointer_unstepped_recovers_from_no_memory),
    TEST(test_endpointer_picks_allocate_nothing),
    TEST(test_endpointer_over_a_watch),
    TEST(test_endpointer_over_a_watch_that_was_stopped),
    TEST(test_endpointer_step_that_blocks),
    TEST(test_endpointer_random_stories),
};
