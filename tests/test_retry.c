/* Tests of [sdc:retry]: which tries are made, when, and what is said in the end. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/picks.h"
#include "support/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_TRIES = 128, RETRY_POLICIES = SDC_POLICY_HASHED + 1 };

static const char *const retry_policy_names[RETRY_POLICIES] = {
    "round robin", "random", "weighted", "least loaded", "hashed"
};

typedef struct retry_try {
    int      number;                /* of the instance                                        */
    uint64_t at_ms;
    uint32_t left_ms;
} retry_try;

/* The calls that a test's desc makes: what each answers, and what was seen of them. */
typedef struct retry_log {
    picks    *p;
    sdc_err   outcomes[8];          /* of the first ones ...                                  */
    size_t    num_outcomes;
    sdc_err   rest;                 /* ... and of all others                                  */
    uint64_t  takes_ms;             /* each call                                              */
    retry_try tries[RETRY_TRIES];
    size_t    num_tries;
    uint32_t  agains[RETRY_TRIES];  /* what again was asked                                   */
    sdc_err   again_errs[RETRY_TRIES];
    size_t    num_agains;
    size_t    stop_at;              /* again says no after this one; 0: never                 */
    void    (*then)(struct retry_log *log);     /* inside each call                           */
} retry_log;

static void retry_log_init(retry_log *log, picks *p, sdc_err rest)
{
    memset(log, 0, sizeof *log);
    log->p = p;
    log->rest = rest;
}

static sdc_err retry_call(void *user, const sdc_pick *pick, uint32_t left_ms)
{
    retry_log *log = (retry_log *)user;
    size_t nth = log->num_tries++;
    const picks_end *end = (const picks_end *)pick->endpoint;
    CHECK(end->is_open);
    CHECK_INT(end->number, picks_number(pick->instance->addr));
    if (nth < RETRY_TRIES) {
        log->tries[nth].number = end->number;
        log->tries[nth].at_ms = log->p->now_ms;
        log->tries[nth].left_ms = left_ms;
    }
    log->p->now_ms += log->takes_ms;
    if (log->then != NULL) {
        log->then(log);
    }
    return nth < log->num_outcomes ? log->outcomes[nth] : log->rest;
}

static bool retry_again(void *user, uint32_t attempt, sdc_err err)
{
    retry_log *log = (retry_log *)user;
    if (log->num_agains < RETRY_TRIES) {
        log->agains[log->num_agains] = attempt;
        log->again_errs[log->num_agains] = err;
    }
    log->num_agains++;
    return log->stop_at == 0 || attempt < log->stop_at;
}

static sdc_retry_desc retry_desc(retry_log *log)
{
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.call = retry_call;
    desc.user = log;
    return desc;
}

/* Pauses so long that the budget, 10 tries a second, is never the limit. */
static sdc_retry_desc retry_slow_desc(retry_log *log, uint32_t max_attempts)
{
    sdc_retry_desc desc = retry_desc(log);
    desc.max_attempts = max_attempts;
    desc.backoff_min_ms = 20000;
    desc.backoff_max_ms = 20000;
    return desc;
}

static size_t retry_num_different(const retry_log *log, size_t from, size_t to)
{
    size_t num = 0;
    for (size_t i = from; i < to; i++) {
        size_t k = from;
        while (log->tries[k].number != log->tries[i].number) {
            k++;
        }
        num += k == i;
    }
    return num;
}

/* ---- how it ends ----------------------------------------------------------------------------- */

static void test_retry_ends_with_the_first_success(void)
{
    for (size_t failures = 0; failures < 3; failures++) {
        test_note("%u failures", (unsigned)failures);
        picks p;
        picks_init(&p);
        picks_list(&p, "a b c d");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
        retry_log log;
        retry_log_init(&log, &p, SDC_OK);
        log.num_outcomes = failures;
        log.outcomes[0] = SDC_ERR_IO;
        log.outcomes[1] = SDC_ERR_CONNECT;
        sdc_retry_desc desc = retry_desc(&log);
        sdc_error error;
        memset(&error, 0xAA, sizeof error);
        CHECK_ERR(sdc_retry(b, &desc, &error), SDC_OK);
        CHECK_ERR(error.code, SDC_OK);
        CHECK_STR(error.message, "");
        CHECK_INT(log.num_tries, failures + 1);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_retry_counts_its_attempts(void)
{
    static const uint32_t max[] = { 0, 1, 2, 3, 5, 12 };
    for (size_t i = 0; i < sizeof max / sizeof max[0]; i++) {
        test_note("max_attempts %u", (unsigned)max[i]);
        picks p;
        picks_init(&p);
        picks_list(&p, "a b c d");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
        retry_log log;
        retry_log_init(&log, &p, SDC_ERR_IO);
        sdc_retry_desc desc = retry_slow_desc(&log, max[i]);
        CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
        CHECK_INT(log.num_tries, max[i] == 0 ? 3 : max[i]);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_retry_answers_the_last_error(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c d");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_USER);
    log.num_outcomes = 2;
    log.outcomes[0] = SDC_ERR_IO;
    log.outcomes[1] = SDC_ERR_CONNECT;
    sdc_retry_desc desc = retry_desc(&log);
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_USER);
    CHECK_ERR(error.code, SDC_ERR_USER);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* How many tries, and for the last two where and what. */
static void test_retry_message_names_the_tries(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 5);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_DENIED);
    log.num_outcomes = 2;
    log.outcomes[0] = SDC_ERR_IO;
    log.outcomes[1] = SDC_ERR_HTTP;
    sdc_retry_desc desc = retry_desc(&log);
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_DENIED);
    CHECK_HAS(error.message, "3");
    for (size_t i = 1; i < 3; i++) {
        CHECK_HAS(error.message, p.texts[log.tries[i].number].addr);
    }
    CHECK_HAS(error.message, sdc_err_str(SDC_ERR_HTTP));
    CHECK_HAS(error.message, sdc_err_str(SDC_ERR_DENIED));
    CHECK_HASNT(error.message, "\n");
    if (test_is_verbose()) {
        printf("%s\n", error.message);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Addresses that do not fit, and one that says control characters: one printable line. */
static void test_retry_message_of_long_addresses(void)
{
    char addrs[4][300];
    sdc_instance items[4];
    picks p;
    picks_init(&p);
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < 4; i++) {
        memset(addrs[i], 'a' + (int)i, 299);
        addrs[i][150] = '\n';
        addrs[i][299] = '\0';
        items[i].addr = addrs[i];
        items[i].weight = 1;
    }
    CHECK_ERR(sdc_cache_update(p.cache, items, 4, 1, p.now_ms), SDC_OK);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    sdc_retry_desc desc = retry_desc(&log);
    desc.max_attempts = 4;
    sdc_error error;
    memset(&error, 0xAA, sizeof error);
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_IO);
    CHECK(memchr(error.message, '\0', sizeof error.message) != NULL);
    CHECK_HAS(error.message, "4");
    CHECK_HASNT(error.message, "\n");
    char start[9] = { 0 };
    memset(start, 'a' + log.tries[3].number, 8);
    CHECK_HAS(error.message, start);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_again_ends_it(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c d");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_USER);
    log.num_outcomes = 1;
    log.outcomes[0] = SDC_ERR_IO;
    log.stop_at = 2;
    sdc_retry_desc desc = retry_desc(&log);
    desc.again = retry_again;
    desc.max_attempts = 5;
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_USER);
    CHECK_INT(log.num_tries, 2);
    CHECK_INT(log.num_agains, 2);
    CHECK_INT(log.agains[0], 1);
    CHECK_ERR(log.again_errs[0], SDC_ERR_IO);
    CHECK_INT(log.agains[1], 2);
    CHECK_ERR(log.again_errs[1], SDC_ERR_USER);
    CHECK_HAS(error.message, "2");
    CHECK_U64(p.now_ms, log.tries[1].at_ms);        /* no pause where no try follows */
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_again_is_not_asked_after_success(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_OK);
    sdc_retry_desc desc = retry_desc(&log);
    desc.again = retry_again;
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_OK);
    CHECK_INT(log.num_agains, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Without anybody to call there is nothing to wait for: no try, no pause, no second look. */
static void test_beat_xretryspin(void)
{
    static const uint32_t timeouts[] = { 0, 50, SDC_NEVER };
    for (size_t i = 0; i < 3; i++) {
        picks p;
        picks_init(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
        retry_log log;
        retry_log_init(&log, &p, SDC_ERR_IO);
        sdc_retry_desc desc = retry_desc(&log);
        desc.max_attempts = UINT32_MAX;
        desc.timeout_ms = timeouts[i];
        desc.again = retry_again;
        sdc_error error;
        memset(&error, 0, sizeof error);
        CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_EMPTY);
        CHECK_ERR(error.code, SDC_ERR_EMPTY);
        CHECK(error.message[0] != '\0');
        CHECK_INT(log.num_tries, 0);
        CHECK_INT(log.num_agains, 0);
        CHECK_INT(p.num_sleeps, 0);
        CHECK_U64(p.now_ms, PICKS_START_MS);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void retry_empty_the_list(retry_log *log)
{
    picks_list(log->p, "");
}

static void test_retry_list_that_turns_empty(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    log.then = retry_empty_the_list;
    sdc_retry_desc desc = retry_desc(&log);
    desc.max_attempts = 1000;
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_EMPTY);
    CHECK_INT(log.num_tries, 1);
    CHECK_INT(p.num_open, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_after_invalidation(void)
{
    picks p;
    picks_init_seeded(&p, 1, 1000);
    picks_list(&p, "a b");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    CHECK_ERR(sdc_cache_update_error(p.cache, SDC_ERR_DENIED, "no token", p.now_ms), SDC_OK);
    p.now_ms += 1000;
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    sdc_retry_desc desc = retry_desc(&log);
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_DENIED);
    CHECK_INT(log.num_tries, 0);
    CHECK_INT(p.num_sleeps, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Why there is nothing to pick from is said. */
static void test_retry_message_of_nothing(void)
{
    picks p;
    picks_init_seeded(&p, 1, 1000);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    sdc_retry_desc desc = retry_desc(&log);
    sdc_error error;
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_EMPTY);
    CHECK_STR(error.message, "nothing to pick from (no instance, or none could be opened)");
    picks_list(&p, "a b");
    log.then = retry_empty_the_list;
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_EMPTY);
    CHECK_HAS(error.message, "nothing to pick from (no instance, or none could be opened) after "
                             "1 try: ");
    picks_list(&p, "a b");
    CHECK_ERR(sdc_cache_update_error(p.cache, SDC_ERR_DENIED, "no token", p.now_ms), SDC_OK);
    p.now_ms += 1000;
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_DENIED);
    char want[120];
    snprintf(want, sizeof want, "nothing to pick from (the source fails: %s)",
             sdc_err_str(SDC_ERR_DENIED));
    CHECK_STR(error.message, want);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void retry_check_refusal(const sdc_retry_desc *desc, const char *field)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_retry(b, desc, &error), SDC_ERR_ARG);
    CHECK_ERR(error.code, SDC_ERR_ARG);
    CHECK_HAS(error.message, field);
    CHECK_ERR(sdc_retry(b, desc, NULL), SDC_ERR_ARG);
    CHECK_INT(p.num_sleeps, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static sdc_err retry_never_called(void *user, const sdc_pick *pick, uint32_t left_ms)
{
    (void)user;
    (void)pick;
    (void)left_ms;
    FAIL("called");
    return SDC_OK;
}

static void test_retry_refuses_what_cannot_be(void)
{
    retry_check_refusal(&(sdc_retry_desc){ .max_attempts = 3 }, "call");
    retry_check_refusal(&(sdc_retry_desc){ .call = retry_never_called, .backoff_min_ms = 100,
                                           .backoff_max_ms = 99 }, "backoff_max_ms");
    retry_check_refusal(&(sdc_retry_desc){ .call = retry_never_called,
                                           .backoff_min_ms = SDC_NEVER }, "backoff_min_ms");
    retry_check_refusal(&(sdc_retry_desc){ .call = retry_never_called,
                                           .backoff_max_ms = SDC_NEVER }, "backoff_max_ms");
    retry_check_refusal(NULL, "desc");
    sdc_error error = { .code = SDC_OK };
    CHECK_ERR(sdc_retry(NULL, &(sdc_retry_desc){ .call = retry_never_called }, &error),
              SDC_ERR_ARG);
    CHECK_HAS(error.message, "balancer");
}

/* ---- whom it calls --------------------------------------------------------------------------- */

/* Tries num times with a desc of the balancer; each try fails. */
static void retry_run(const char *list, sdc_balancer_desc desc, const char *key,
                      uint32_t num, retry_log *log)
{
    picks p;
    picks_init(&p);
    picks_list(&p, list);
    sdc_balancer *b = picks_balancer(&p, &desc);
    retry_log_init(log, &p, SDC_ERR_IO);
    sdc_retry_desc retry = retry_slow_desc(log, num);
    retry.hash_key = key;
    CHECK_ERR(sdc_retry(b, &retry, NULL), SDC_ERR_IO);
    CHECK_INT(log->num_tries, num);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_not_the_same_while_another_is_left(void)
{
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        for (uint64_t seed = 1; seed <= 8; seed++) {
            test_note("%s, seed %u", retry_policy_names[i], (unsigned)seed);
            sdc_balancer_desc desc = { .policy = (sdc_policy)i, .seed = seed };
            retry_log log;
            retry_run("a b c d e", desc, "key", 5, &log);
            CHECK_INT(retry_num_different(&log, 0, 5), 5);
            retry_run("a=90 b=1 c=1", desc, "key", 3, &log);
            CHECK_INT(retry_num_different(&log, 0, 3), 3);
            retry_run("a#1 a#2 a#3 b", desc, NULL, 2, &log);
            CHECK_INT(retry_num_different(&log, 0, 2), 2);
        }
    }
}

static void test_retry_same_again_where_none_is_left(void)
{
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        test_note("%s", retry_policy_names[i]);
        sdc_balancer_desc desc = { .policy = (sdc_policy)i, .seed = 3 };
        retry_log log;
        retry_run("a", desc, "key", 4, &log);
        CHECK_INT(retry_num_different(&log, 0, 4), 1);
        retry_run("a b c", desc, "key", 9, &log);
        CHECK_INT(retry_num_different(&log, 0, 3), 3);
        CHECK_BETWEEN(retry_num_different(&log, 0, 9), 3, 3);
    }
}

/* Sixteen endpoints are remembered: of any 17 tries in a row no two go to the same one. */
static void test_retry_many_different(void)
{
    enum { TRIES = 60, INSTANCES = 40, IN_A_ROW = 17 };
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        test_note("%s", retry_policy_names[i]);
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, INSTANCES);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = (sdc_policy)i,
                                                                   .seed = 5 });
        retry_log log;
        retry_log_init(&log, &p, SDC_ERR_IO);
        sdc_retry_desc desc = retry_slow_desc(&log, TRIES);
        desc.hash_key = "key";
        CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
        CHECK_INT(log.num_tries, TRIES);
        for (size_t from = 0; from + IN_A_ROW <= TRIES; from++) {
            CHECK_INT(retry_num_different(&log, from, from + IN_A_ROW), IN_A_ROW);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* Where its zone or an ejection holds one back, it is still another one. */
static void test_retry_goes_beyond_its_zone(void)
{
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        for (uint64_t seed = 1; seed <= 10; seed++) {
            test_note("%s, seed %u", retry_policy_names[i], (unsigned)seed);
            sdc_balancer_desc desc = { .policy = (sdc_policy)i, .seed = seed, .zone = "x" };
            retry_log log;
            retry_run("a@x b@x c@y d@y", desc, "key", 4, &log);
            CHECK(log.tries[0].number < 2 && log.tries[1].number < 2);
            CHECK_INT(retry_num_different(&log, 0, 4), 4);
        }
    }
}

static void test_retry_takes_an_ejected_one_before_the_same(void)
{
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        for (size_t nth = 0; nth < 10; nth++) {
            test_note("%s, %u", retry_policy_names[i], (unsigned)nth);
            picks p;
            picks_init(&p);
            picks_list(&p, "a b");
            sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
                .policy = (sdc_policy)i, .seed = nth + 1, .eject_after = 1, .eject_ms = 3600000 });
            int ejected = picks_one(b, "key", SDC_ERR_IO);
            CHECK_INT(picks_one(b, "key", SDC_OK), 1 - ejected);
            retry_log log;
            retry_log_init(&log, &p, SDC_ERR_IO);
            sdc_retry_desc desc = retry_desc(&log);
            desc.max_attempts = 2;
            desc.hash_key = "key";
            CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
            CHECK_INT(log.tries[0].number, 1 - ejected);
            CHECK_INT(log.tries[1].number, ejected);
            sdc_balancer_destroy(b);
            picks_deinit(&p);
        }
    }
}

/* One in another zone comes before one that is out at home. */
static void test_retry_ejected_ones_come_last(void)
{
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        for (size_t nth = 1; nth <= 6; nth++) {
            test_note("%s, seed %u", retry_policy_names[i], (unsigned)nth);
            picks p;
            picks_init(&p);
            picks_list(&p, "a@x b@x c@y");
            sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
                .policy = (sdc_policy)i, .seed = nth, .zone = "x", .eject_after = 1,
                .eject_ms = 3600000 });
            int ejected = picks_one(b, "key", SDC_ERR_IO);
            CHECK(ejected == 0 || ejected == 1);
            retry_log log;
            retry_log_init(&log, &p, SDC_ERR_IO);
            sdc_retry_desc desc = retry_slow_desc(&log, 3);
            desc.hash_key = "key";
            CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
            CHECK_INT(log.tries[2].number, ejected);
            CHECK_INT(retry_num_different(&log, 0, 3), 3);
            sdc_balancer_destroy(b);
            picks_deinit(&p);
        }
    }
}

/* The first is the key's own, and the others follow from key and seed alone. */
static void test_retry_hashed_goes_on_in_the_keys_order(void)
{
    unsigned others = 0;
    int before = -1;
    for (size_t k = 0; k < 10; k++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", (unsigned)k);
        test_note("%s", key);
        retry_log one, two;
        sdc_balancer_desc desc = { .policy = SDC_POLICY_HASHED };
        retry_run("a b c d e f g h", desc, key, 8, &one);
        CHECK_INT(retry_num_different(&one, 0, 8), 8);
        picks p;
        picks_init_seeded(&p, 77, 0);
        picks_list(&p, "h f");
        sdc_balancer *b = picks_balancer(&p, &desc);
        p.now_ms += 1234;
        picks_list(&p, "h g f e d c b a");
        CHECK_INT(picks_one(b, key, SDC_OK), one.tries[0].number);
        retry_log_init(&two, &p, SDC_ERR_USER);
        sdc_retry_desc retry = retry_slow_desc(&two, 8);
        retry.hash_key = key;
        CHECK_ERR(sdc_retry(b, &retry, NULL), SDC_ERR_USER);
        for (size_t i = 0; i < 8; i++) {
            CHECK_INT(one.tries[i].number, two.tries[i].number);
        }
        others += one.tries[1].number != before;
        before = one.tries[1].number;
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
    CHECK(others > 5);
}

/* Where the key's first is gone, its second is where the call goes: both are the key's order. */
static void test_retry_hashed_second_choices_are_spread(void)
{
    unsigned seconds[10] = { 0 };
    unsigned num = 0;
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = SDC_POLICY_HASHED });
    for (size_t k = 0; k < 4000; k++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", (unsigned)k);
        retry_log log;
        retry_log_init(&log, &p, SDC_ERR_IO);
        sdc_retry_desc desc = retry_slow_desc(&log, 2);
        desc.hash_key = key;
        CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
        if (log.tries[0].number == 3) {
            seconds[log.tries[1].number]++;
            num++;
        }
    }
    CHECK_INT(seconds[3], 0);
    for (size_t i = 0; i < 10; i++) {
        CHECK(i == 3 || seconds[i] > num / 25);     /* a ninth each, on average */
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void retry_replace_the_list(retry_log *log)
{
    picks_list(log->p, log->num_tries == 1 ? "b" : "c");
}

static void test_retry_follows_the_list(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    log.then = retry_replace_the_list;
    sdc_retry_desc desc = retry_desc(&log);
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(log.tries[i].number, i);
    }
    CHECK_INT(p.num_open, 1);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Outcomes reach the balancer: what fails in retries is left out by what follows. */
static void test_retry_outcomes_count_for_ejection(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .eject_after = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_OK);
    log.num_outcomes = 1;
    log.outcomes[0] = SDC_ERR_IO;
    sdc_retry_desc desc = retry_desc(&log);
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_OK);
    unsigned counts[3];
    picks_count(b, NULL, 30, counts, 3);
    CHECK_INT(counts[log.tries[0].number], 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* No verdict on the instance, but no success either. */
static void test_retry_no_verdict_is_tried_again(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .eject_after = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_OK);
    log.num_outcomes = 1;
    log.outcomes[0] = SDC_AGAIN;
    sdc_retry_desc desc = retry_desc(&log);
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_OK);
    CHECK_INT(log.num_tries, 2);
    unsigned counts[3];
    picks_count(b, NULL, 30, counts, 3);
    CHECK_INT(counts[log.tries[0].number], 10);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Nothing but that: the program has not made up its mind in time. */
static void test_retry_without_any_verdict(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_AGAIN);
    sdc_retry_desc desc = retry_desc(&log);
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_TIMEOUT);
    CHECK_INT(log.num_tries, 3);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- when ------------------------------------------------------------------------------------ */

/* The pauses before tries 2 to num of one call, as its tries saw the clock. */
static void retry_pauses(sdc_balancer *b, picks *p, uint32_t min_ms, uint32_t max_ms,
                         uint32_t num, uint64_t *pauses)
{
    retry_log log;
    retry_log_init(&log, p, SDC_ERR_IO);
    sdc_retry_desc desc = retry_desc(&log);
    desc.max_attempts = num;
    desc.backoff_min_ms = min_ms;
    desc.backoff_max_ms = max_ms;
    p->now_ms += 10000;                             /* the budget is full */
    uint64_t start_ms = p->now_ms;
    uint64_t slept_ms = p->slept_ms;
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
    CHECK_INT(log.num_tries, num);
    CHECK_U64(log.tries[0].at_ms, start_ms);
    CHECK_U64(log.tries[num - 1].at_ms, p->now_ms);
    CHECK_U64(p->slept_ms - slept_ms, p->now_ms - start_ms);
    for (size_t i = 1; i < num; i++) {
        pauses[i - 1] = log.tries[i].at_ms - log.tries[i - 1].at_ms;
    }
}

/* Full jitter: anything from 0 to the limit, half of it on average, and the limit doubles. */
static void retry_check_jitter(uint32_t min_ms, uint32_t max_ms, const uint64_t *limits,
                               uint32_t num)
{
    enum { ROUNDS = 400, MOST = 8 };
    test_note("backoff %u to %u", (unsigned)min_ms, (unsigned)max_ms);
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    uint64_t least[MOST], most[MOST] = { 0 }, sum[MOST] = { 0 };
    memset(least, 0xFF, sizeof least);
    for (size_t round = 0; round < ROUNDS; round++) {
        uint64_t pauses[MOST];
        retry_pauses(b, &p, min_ms, max_ms, num + 1, pauses);
        for (size_t i = 0; i < num; i++) {
            sum[i] += pauses[i];
            least[i] = pauses[i] < least[i] ? pauses[i] : least[i];
            most[i] = pauses[i] > most[i] ? pauses[i] : most[i];
        }
    }
    for (size_t i = 0; i < num; i++) {
        CHECK_BETWEEN(least[i], 0, limits[i] / 10);
        CHECK_BETWEEN(most[i], limits[i] - limits[i] / 10 - (limits[i] < 20), limits[i]);
        CHECK_BETWEEN(sum[i] / ROUNDS, limits[i] * 2 / 5, limits[i] * 3 / 5);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_pauses_have_full_jitter(void)
{
    static const uint64_t usual[] = { 10, 20, 40, 80, 160, 320, 640, 1000 };
    static const uint64_t capped[] = { 100, 200, 250, 250, 250 };
    static const uint64_t even[] = { 70, 70, 70 };
    static const uint64_t beyond[] = { 1500, 1500 };    /* more than the usual limit */
    retry_check_jitter(0, 0, usual, 8);
    retry_check_jitter(100, 250, capped, 5);
    retry_check_jitter(70, 70, even, 3);
    retry_check_jitter(1500, 0, beyond, 2);
}

/* The doubling ends where 32 bits do. */
static void test_retry_pauses_of_many_tries(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    uint64_t pauses[RETRY_TRIES];
    uint64_t most = 0;
    retry_pauses(b, &p, 50, 1000, 100, pauses);
    for (size_t i = 20; i < 99; i++) {
        CHECK_BETWEEN(pauses[i], 0, 1000);
        most = pauses[i] > most ? pauses[i] : most;
    }
    CHECK(most > 800);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_without_limits_has_no_left_ms(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    log.takes_ms = 100000;
    sdc_retry_desc desc = retry_desc(&log);
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
    for (size_t i = 0; i < 3; i++) {
        CHECK_INT(log.tries[i].left_ms, SDC_NEVER);
    }
    retry_log_init(&log, &p, SDC_ERR_IO);
    desc.timeout_ms = SDC_NEVER;
    desc.try_timeout_ms = SDC_NEVER;
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_IO);
    CHECK_INT(log.num_tries, 3);
    CHECK_INT(log.tries[2].left_ms, SDC_NEVER);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_deadline_over_all(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    log.takes_ms = 400;
    sdc_retry_desc desc = retry_desc(&log);
    desc.max_attempts = 50;
    desc.timeout_ms = 1500;
    uint64_t start_ms = p.now_ms;
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_TIMEOUT);
    CHECK_ERR(error.code, SDC_ERR_TIMEOUT);
    CHECK_BETWEEN(log.num_tries, 3, 4);
    for (size_t i = 0; i < log.num_tries; i++) {
        CHECK_U64(log.tries[i].left_ms, start_ms + 1500 - log.tries[i].at_ms);
    }
    CHECK_HAS(error.message, sdc_err_str(SDC_ERR_IO));
    /* the call itself took no notice of left_ms here: not later than by one call */
    CHECK_BETWEEN(p.now_ms, start_ms + 1, start_ms + 1500 + 400);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Calls that keep to left_ms, as they should: the whole ends at its deadline. */
static void retry_use_all_of_left(retry_log *log)
{
    log->p->now_ms += log->tries[log->num_tries - 1].left_ms;
}

static void test_retry_deadline_of_each(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_TIMEOUT);
    log.then = retry_use_all_of_left;
    sdc_retry_desc desc = retry_desc(&log);
    desc.max_attempts = 4;
    desc.try_timeout_ms = 300;
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_TIMEOUT);
    CHECK_INT(log.num_tries, 4);
    for (size_t i = 0; i < 4; i++) {
        CHECK_INT(log.tries[i].left_ms, 300);
    }
    retry_log_init(&log, &p, SDC_ERR_TIMEOUT);
    log.then = retry_use_all_of_left;
    desc.timeout_ms = 700;
    uint64_t start_ms = p.now_ms;
    CHECK_ERR(sdc_retry(b, &desc, NULL), SDC_ERR_TIMEOUT);
    CHECK_INT(log.num_tries, 3);
    CHECK_INT(log.tries[0].left_ms, 300);
    CHECK_INT(log.tries[1].left_ms, 300);
    CHECK_U64(log.tries[2].left_ms, start_ms + 700 - log.tries[2].at_ms);
    CHECK_U64(p.now_ms, start_ms + 700);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* The deadline comes in a pause: it ends there at the latest, and nobody is called after it. */
static void test_retry_deadline_in_a_pause(void)
{
    for (size_t process = 1; process <= 50; process++) {
        picks p;
        picks_init_seeded(&p, process, 0);
        picks_list(&p, "a b c");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 0 });
        retry_log log;
        retry_log_init(&log, &p, SDC_ERR_IO);
        sdc_retry_desc desc = retry_slow_desc(&log, 5);
        desc.timeout_ms = 2000;
        uint64_t start_ms = p.now_ms;
        sdc_err err = sdc_retry(b, &desc, NULL);
        CHECK(err == SDC_ERR_TIMEOUT);
        CHECK_BETWEEN(p.now_ms, start_ms, start_ms + 2000);
        CHECK_BETWEEN(log.tries[log.num_tries - 1].at_ms, start_ms, start_ms + 1999);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* Tries without number are still paced. */
/* Whoever comes late, at the deadline itself, is told so, and makes no call. */
static void test_retry_attempt_late_for_its_deadline(void)
{
    for (uint64_t late_ms = 0; late_ms <= 1; late_ms++) {
        picks p;
        picks_init(&p);
        picks_list(&p, "a b");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
        sdc_retry_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.timeout_ms = 5000;
        sdc_attempt attempt;
        sdc_attempt_init(&attempt, b, &desc);
        CHECK_ERR(sdc_attempt_next(&attempt, NULL), SDC_OK);
        CHECK_INT(attempt.left_ms, 5000);
        sdc_attempt_done(&attempt, SDC_ERR_IO);
        CHECK_ERR(sdc_attempt_next(&attempt, NULL), SDC_AGAIN);
        p.now_ms = PICKS_START_MS + 5000 + late_ms;
        CHECK_ERR(sdc_attempt_next(&attempt, NULL), SDC_ERR_TIMEOUT);
        CHECK(attempt.pick.endpoint == NULL);
        sdc_attempt_deinit(&attempt);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_retry_never_spins(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    sdc_retry_desc desc = retry_desc(&log);
    desc.max_attempts = UINT32_MAX;
    desc.timeout_ms = 20000;
    sdc_err err = sdc_retry(b, &desc, NULL);
    CHECK(err == SDC_ERR_TIMEOUT || err == SDC_ERR_IO);
    CHECK_BETWEEN(log.num_tries, 8, 80);
    CHECK_BETWEEN(p.num_sleeps, log.num_tries * 3 / 4, log.num_tries);    /* a pause may be 0 */
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- the budget ------------------------------------------------------------------------------ */

/* Tries that num calls make during an outage, gap_ms between them. Attempts, so that no pause
   moves the clock: each call is over before the next begins. */
static size_t retry_outage(picks *p, sdc_balancer *b, size_t num, uint64_t gap_ms,
                           uint32_t max_attempts)
{
    size_t tries = 0;
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.max_attempts = max_attempts;
    desc.backoff_min_ms = 1;
    desc.backoff_max_ms = 1;
    for (size_t i = 0; i < num; i++) {
        sdc_attempt attempt;
        sdc_attempt_init(&attempt, b, &desc);
        uint64_t start_ms = p->now_ms;
        for (;;) {
            sdc_err err = sdc_attempt_next(&attempt, NULL);
            if (err == SDC_AGAIN) {
                p->now_ms += attempt.pause_ms;
                continue;
            }
            if (err != SDC_OK) {
                CHECK_ERR(err, SDC_ERR_IO);
                break;
            }
            tries++;
            sdc_attempt_done(&attempt, SDC_ERR_IO);
        }
        sdc_attempt_deinit(&attempt);
        p->now_ms = start_ms + gap_ms > p->now_ms ? start_ms + gap_ms : p->now_ms;
    }
    return tries;
}

/* 20 % of the first ones, and 10 for each second that began meanwhile. */
static void retry_check_budget(uint32_t percent, size_t num, uint64_t gap_ms)
{
    test_note("%u %%, %u calls, %u ms apart", (unsigned)percent, (unsigned)num,
              (unsigned)gap_ms);
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1,
                                                               .retry_percent = percent });
    uint64_t start_ms = p.now_ms;
    size_t tries = retry_outage(&p, b, num, gap_ms, 10);
    uint64_t seconds = (p.now_ms - start_ms) / 1000;
    size_t share = num * (percent == 0 ? 20 : percent) / 100;
    if (test_is_verbose()) {
        printf("%u %%: %u calls in an outage of %u s made %u tries\n", (unsigned)percent,
               (unsigned)num, (unsigned)seconds, (unsigned)tries);
    }
    CHECK_BETWEEN(tries, num + share, num + share + 10 * (seconds + 2));
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_budget_bounds_an_outage(void)
{
    retry_check_budget(0, 1000, 0);
    retry_check_budget(0, 10000, 0);
    retry_check_budget(0, 10000, 5);
    retry_check_budget(50, 1000, 1);
    retry_check_budget(100, 1000, 0);
    retry_check_budget(1, 10000, 1);
}

/* 10 a second are free, whatever the share is. */
static void test_retry_budget_ten_a_second_are_free(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .retry_percent = 1 });
    CHECK_INT(retry_outage(&p, b, 50, 120, 2), 100);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* They are there from the start, also where the clock begins with it. */
static void test_retry_budget_at_the_beginning_of_time(void)
{
    static const uint64_t starts_ms[] = { 0, 1, 50, 999, PICKS_START_MS };
    for (size_t i = 0; i < sizeof starts_ms / sizeof starts_ms[0]; i++) {
        test_note("at %u ms", (unsigned)starts_ms[i]);
        picks p;
        picks_init(&p);
        p.now_ms = starts_ms[i];
        picks_list(&p, "a b c");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1,
                                                                   .retry_percent = 1 });
        CHECK_INT(retry_outage(&p, b, 1, 0, 50), 11);
        CHECK_BETWEEN(p.now_ms, starts_ms[i], starts_ms[i] + 50);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* What was not used does not pile up: after an hour of quiet there are ten again, not 36,000. */
static void test_retry_budget_does_not_pile_up(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .retry_percent = 1 });
    size_t first = retry_outage(&p, b, 200, 0, 5);
    p.now_ms += 3600000;
    size_t second = retry_outage(&p, b, 200, 0, 5);
    CHECK_BETWEEN(first, 202 + 8, 202 + 25);
    CHECK_BETWEEN(second, 202 + 8, 202 + 25);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Each balancer has its own, shared by all calls through it, blocking ones too. */
static void test_retry_budget_of_each_balancer(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *one = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .retry_percent = 1 });
    sdc_balancer *two = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 2, .retry_percent = 1 });
    retry_outage(&p, one, 50, 0, 5);
    retry_log log;
    retry_log_init(&log, &p, SDC_ERR_IO);
    sdc_retry_desc desc = retry_desc(&log);
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_retry(one, &desc, &error), SDC_ERR_IO);
    CHECK_INT(log.num_tries, 1);
    CHECK_ERR(error.code, SDC_ERR_IO);
    CHECK_INT(p.num_sleeps, 0);
    retry_log_init(&log, &p, SDC_ERR_IO);
    CHECK_ERR(sdc_retry(two, &desc, NULL), SDC_ERR_IO);
    CHECK_INT(log.num_tries, 3);
    sdc_balancer_destroy(one);
    sdc_balancer_destroy(two);
    picks_deinit(&p);
}

typedef struct retry_thread {
    sdc_balancer *balancer;
    pthread_t     thread;
    unsigned      num_paid;         /* second tries that were allowed                         */
} retry_thread;

/* A thousand calls, each given up after the decision about its second try. */
static void *retry_thread_run(void *user)
{
    retry_thread *t = (retry_thread *)user;
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    for (size_t i = 0; i < 1000; i++) {
        sdc_attempt attempt;
        sdc_attempt_init(&attempt, t->balancer, &desc);
        if (sdc_attempt_next(&attempt, NULL) == SDC_OK) {
            sdc_attempt_done(&attempt, SDC_ERR_IO);
            t->num_paid += sdc_attempt_next(&attempt, NULL) != SDC_ERR_IO;
        }
        sdc_attempt_deinit(&attempt);
    }
    return NULL;
}

/* Threads share it to the last try: 20 % of 4000, and the ten of the second that it is. */
static void test_retry_budget_of_threads(void)
{
    retry_thread threads[4];
    memset(threads, 0, sizeof threads);
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    unsigned num_paid = 0;
    for (size_t i = 0; i < 4; i++) {
        threads[i].balancer = b;
        if (pthread_create(&threads[i].thread, NULL, retry_thread_run, &threads[i]) != 0) {
            abort();
        }
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i].thread, NULL);
        num_paid += threads[i].num_paid;
    }
    CHECK_BETWEEN(num_paid, 809, 810);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- attempts -------------------------------------------------------------------------------- */

/* Goes on until the next try or the end. */
static sdc_err retry_step(picks *p, sdc_attempt *attempt)
{
    sdc_err err = sdc_attempt_next(attempt, NULL);
    while (err == SDC_AGAIN) {
        CHECK(attempt->pause_ms > 0);
        p->now_ms += attempt->pause_ms;
        err = sdc_attempt_next(attempt, NULL);
    }
    return err;
}

static void test_retry_attempt_step_by_step(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.backoff_min_ms = 1000;
    desc.timeout_ms = 100000;
    desc.try_timeout_ms = 500;
    sdc_attempt attempt;
    memset(&attempt, 0xAA, sizeof attempt);
    sdc_attempt_init(&attempt, b, &desc);
    sdc_error error;
    memset(&error, 0xAA, sizeof error);
    CHECK_ERR(sdc_attempt_next(&attempt, &error), SDC_OK);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_INT(attempt.number, 1);
    CHECK_INT(attempt.left_ms, 500);
    int first = picks_number(attempt.pick.instance->addr);
    CHECK(attempt.pick.endpoint != NULL);
    sdc_attempt_done(&attempt, SDC_ERR_IO);
    CHECK(attempt.pick.endpoint == NULL && attempt.pick.instance == NULL);
    uint64_t start_ms = p.now_ms;
    CHECK_ERR(sdc_attempt_next(&attempt, &error), SDC_AGAIN);
    CHECK(attempt.pick.endpoint == NULL);
    CHECK_BETWEEN(attempt.pause_ms, 1, 1000);
    uint64_t until_ms = start_ms + attempt.pause_ms;
    p.now_ms = until_ms - 1;                        /* too early: the rest of it */
    CHECK_ERR(sdc_attempt_next(&attempt, &error), SDC_AGAIN);
    CHECK_INT(attempt.pause_ms, 1);
    p.now_ms = until_ms;
    CHECK_ERR(sdc_attempt_next(&attempt, &error), SDC_OK);
    CHECK_INT(attempt.number, 2);
    CHECK(picks_number(attempt.pick.instance->addr) != first);
    sdc_attempt_done(&attempt, SDC_OK);
    CHECK(attempt.pick.endpoint == NULL);
    sdc_attempt_deinit(&attempt);
    CHECK_INT(p.num_sleeps, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What sdc_retry does, by the steps of an attempt. */
static sdc_err retry_by_steps(retry_log *log, sdc_balancer *b, const sdc_retry_desc *desc,
                              sdc_error *error)
{
    sdc_attempt attempt;
    sdc_attempt_init(&attempt, b, desc);
    sdc_err err = SDC_OK;
    bool is_done = false;
    while (!is_done) {
        err = sdc_attempt_next(&attempt, error);
        is_done = err != SDC_OK && err != SDC_AGAIN;
        if (err == SDC_AGAIN) {
            log->p->now_ms += attempt.pause_ms;
        } else if (err == SDC_OK) {
            err = retry_call(log, &attempt.pick, attempt.left_ms);
            CHECK_INT(attempt.number, log->num_tries);
            sdc_attempt_done(&attempt, err);
            is_done = err == SDC_OK;
        }
    }
    sdc_attempt_deinit(&attempt);
    return err;
}

/* All tries fail; the third goes well; the deadline ends it; the program does. */
static uint64_t retry_one_way(size_t which, sdc_policy policy, bool by_steps, retry_log *log,
                              sdc_error *error)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b=3 c@x d=2@x");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = policy, .seed = 7,
                                                               .zone = "x" });
    retry_log_init(log, &p, which == 1 ? SDC_OK : SDC_ERR_USER);
    log->num_outcomes = 2;
    log->outcomes[0] = SDC_ERR_IO;
    log->outcomes[1] = SDC_ERR_CONNECT;
    log->takes_ms = 70;
    log->stop_at = 2;
    sdc_retry_desc desc = retry_desc(log);
    desc.max_attempts = 4;
    desc.timeout_ms = which == 2 ? 200 : 0;
    desc.hash_key = "key";
    desc.again = which == 3 ? retry_again : NULL;
    sdc_err err = by_steps ? retry_by_steps(log, b, &desc, error) : sdc_retry(b, &desc, error);
    CHECK_ERR(error->code, err);
    uint64_t end_ms = p.now_ms;
    sdc_balancer_destroy(b);
    picks_deinit(&p);
    return end_ms;
}

/* The same whom, when, and end with its message. */
static void test_retry_attempt_does_as_retry_does(void)
{
    for (size_t i = 0; i < 4u * RETRY_POLICIES; i++) {
        test_note("%s, case %u", retry_policy_names[i / 4], (unsigned)(i % 4));
        retry_log blocks, steps;
        sdc_error of_blocks, of_steps;
        uint64_t end_ms = retry_one_way(i % 4, (sdc_policy)(i / 4), false, &blocks, &of_blocks);
        CHECK_U64(retry_one_way(i % 4, (sdc_policy)(i / 4), true, &steps, &of_steps), end_ms);
        REQUIRE(blocks.num_tries == steps.num_tries);
        for (size_t k = 0; k < steps.num_tries; k++) {
            CHECK_INT(blocks.tries[k].number, steps.tries[k].number);
            CHECK_U64(blocks.tries[k].at_ms, steps.tries[k].at_ms);
            CHECK_INT(blocks.tries[k].left_ms, steps.tries[k].left_ms);
        }
        CHECK_INT(blocks.num_agains, steps.num_agains);
        CHECK_ERR(of_blocks.code, of_steps.code);
        CHECK_STR(of_blocks.message, of_steps.message);
    }
}

static void test_retry_attempt_gives_up_for_good(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.max_attempts = 2;
    sdc_attempt attempt;
    sdc_attempt_init(&attempt, b, &desc);
    for (uint32_t i = 1; i <= 2; i++) {
        CHECK_ERR(retry_step(&p, &attempt), SDC_OK);
        CHECK_INT(attempt.number, i);
        sdc_attempt_done(&attempt, SDC_ERR_CONNECT);
    }
    for (size_t i = 0; i < 3; i++) {
        sdc_error error;
        memset(&error, 0, sizeof error);
        sdc_err err = i == 0 ? SDC_ERR_CONNECT : SDC_ERR_ARG;   /* asked after its end */
        CHECK_ERR(sdc_attempt_next(&attempt, &error), err);
        CHECK_ERR(error.code, err);
        CHECK_HAS(error.message, i == 0 ? "2 tries" : "ended");
        CHECK(attempt.pick.endpoint == NULL);
        p.now_ms += 100000;
    }
    sdc_attempt_deinit(&attempt);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_attempt_of_nobody(void)
{
    picks p;
    picks_init(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    sdc_attempt attempt;
    sdc_attempt_init(&attempt, b, &desc);
    CHECK_ERR(sdc_attempt_next(&attempt, NULL), SDC_ERR_EMPTY);
    sdc_attempt_deinit(&attempt);
    desc.backoff_min_ms = 2000;
    desc.backoff_max_ms = 10;
    sdc_attempt_init(&attempt, b, &desc);
    sdc_error error;
    memset(&error, 0, sizeof error);
    CHECK_ERR(sdc_attempt_next(&attempt, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "backoff_max_ms");
    sdc_attempt_deinit(&attempt);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* deinit in each state: a pick that is open goes back, without a verdict. */
static void test_retry_attempt_deinit_at_any_time(void)
{
    for (size_t state = 0; state < 6; state++) {
        test_note("state %u", (unsigned)state);
        picks p;
        picks_init(&p);
        picks_list(&p, "a b");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .seed = 1, .policy = SDC_POLICY_ROUND_ROBIN, .eject_after = 1 });
        sdc_retry_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.max_attempts = 2;
        sdc_attempt attempt;
        sdc_attempt_init(&attempt, b, &desc);
        sdc_err outcome = state == 1 ? SDC_OK : SDC_AGAIN;
        if (state >= 1) {
            CHECK_ERR(retry_step(&p, &attempt), SDC_OK);
        }
        if (state >= 2) {
            sdc_attempt_done(&attempt, state == 5 ? SDC_OK : outcome);
        }
        if (state == 3 || state == 4) {
            CHECK(sdc_attempt_next(&attempt, NULL) != SDC_ERR_IO);
        }
        if (state == 4) {
            if (attempt.pick.endpoint == NULL) {
                CHECK_ERR(retry_step(&p, &attempt), SDC_OK);
            }
            CHECK_INT(attempt.number, 2);
        }
        sdc_attempt_deinit(&attempt);
        sdc_attempt_deinit(&attempt);
        unsigned counts[2];
        picks_count(b, NULL, 100, counts, 2);
        CHECK_INT(counts[0], 50);                   /* nobody was judged */
        picks_list(&p, "");
        CHECK_INT(p.num_open, 0);                   /* and nothing is held */
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_retry_attempts_side_by_side(void)
{
    enum { NUM = 200 };
    static sdc_attempt attempts[NUM];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .retry_percent = 100 });
    sdc_retry_desc desc;
    memset(&desc, 0, sizeof desc);
    int firsts[NUM];
    for (size_t i = 0; i < NUM; i++) {
        sdc_attempt_init(&attempts[i], b, &desc);
        CHECK_ERR(sdc_attempt_next(&attempts[i], NULL), SDC_OK);
        firsts[i] = picks_number(attempts[i].pick.instance->addr);
    }
    for (size_t i = 0; i < NUM; i++) {
        sdc_attempt_done(&attempts[i], i % 2 == 0 ? SDC_ERR_IO : SDC_OK);
    }
    for (size_t i = 0; i < NUM; i += 2) {
        REQUIRE(retry_step(&p, &attempts[i]) == SDC_OK);
        CHECK_INT(attempts[i].number, 2);
        CHECK(picks_number(attempts[i].pick.instance->addr) != firsts[i]);
    }
    for (size_t i = 0; i < NUM; i++) {
        sdc_attempt_deinit(&attempts[i]);
    }
    picks_list(&p, "");
    CHECK_INT(p.num_open, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_retry_attempts_allocate_nothing(void)
{
    for (size_t i = 0; i < RETRY_POLICIES; i++) {
        test_note("%s", retry_policy_names[i]);
        picks p;
        picks_init(&p);
        picks_list(&p, "a=5@x b=2@x c@y d@y e!@x f=3 g=2@x h@x i");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)i, .seed = 9, .zone = "x", .panic_percent = 20,
            .slow_start_ms = 5000, .eject_after = 2, .eject_ms = 100, .eject_max_percent = 50,
            .subset_size = 3 });
        uint64_t num_calls = p.memory.num_calls;
        uint64_t num_frees = p.memory.num_frees;
        retry_outage(&p, b, 500, 20, 6);
        retry_log log;
        retry_log_init(&log, &p, SDC_ERR_IO);
        sdc_retry_desc desc = retry_slow_desc(&log, 12);
        sdc_error error;
        CHECK_ERR(sdc_retry(b, &desc, &error), SDC_ERR_IO);
        CHECK_U64(p.memory.num_calls, num_calls);
        CHECK_U64(p.memory.num_frees, num_frees);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static const test_case cases_retry[] = {
    TEST(test_retry_ends_with_the_first_success),
    TEST(test_retry_counts_its_attempts),
    TEST(test_retry_answers_the_last_error),
    TEST(test_retry_message_names_the_tries),
    TEST(test_retry_message_of_long_addresses),
    TEST(test_retry_again_ends_it),
    TEST(test_retry_again_is_not_asked_after_success),
    TEST(test_beat_xretryspin),
    TEST(test_retry_list_that_turns_empty),
    TEST(test_retry_after_invalidation),
    TEST(test_retry_message_of_nothing),
    TEST(test_retry_refuses_what_cannot_be),
    TEST(test_retry_not_the_same_while_another_is_left),
    TEST(test_retry_same_again_where_none_is_left),
    TEST(test_retry_many_different),
    TEST(test_retry_goes_beyond_its_zone),
    TEST(test_retry_takes_an_ejected_one_before_the_same),
    TEST(test_retry_ejected_ones_come_last),
    TEST(test_retry_hashed_goes_on_in_the_keys_order),
    TEST(test_retry_hashed_second_choices_are_spread),
    TEST(test_retry_follows_the_list),
    TEST(test_retry_outcomes_count_for_ejection),
    TEST(test_retry_no_verdict_is_tried_again),
    TEST(test_retry_without_any_verdict),
    TEST(test_retry_pauses_have_full_jitter),
    TEST(test_retry_pauses_of_many_tries),
    TEST(test_retry_without_limits_has_no_left_ms),
    TEST(test_retry_deadline_over_all),
    TEST(test_retry_deadline_of_each),
    TEST(test_retry_deadline_in_a_pause),
    TEST(test_retry_attempt_late_for_its_deadline),
    TEST(test_retry_never_spins),
    TEST(test_retry_budget_bounds_an_outage),
    TEST(test_retry_budget_ten_a_second_are_free),
    TEST(test_retry_budget_at_the_beginning_of_time),
    TEST(test_retry_budget_does_not_pile_up),
    TEST(test_retry_budget_of_each_balancer),
    TEST(test_retry_budget_of_threads),
    TEST(test_retry_attempt_step_by_step),
    TEST(test_retry_attempt_does_as_retry_does),
    TEST(test_retry_attempt_gives_up_for_good),
    TEST(test_retry_attempt_of_nobody),
    TEST(test_retry_attempt_deinit_at_any_time),
    TEST(test_retry_attempts_side_by_side),
    TEST(test_retry_attempts_allocate_nothing),
};
