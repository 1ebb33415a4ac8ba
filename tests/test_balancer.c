/* Tests of [sdc:balancer]: what is picked, and which instances are picked from. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/picks.h"
#include "support/test.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BAL_POLICIES = SDC_POLICY_HASHED + 1,
    BAL_KEY      = 24
};

/* Chi-square at p = 0.001 for 9 and 99 degrees of freedom: with fixed seeds a test that holds
   once holds always, and a skew of a few percent over so many picks is far beyond these. */
static const double bal_chi2_9 = 27.88;
static const double bal_chi2_99 = 148.23;

static const char *const bal_policy_names[BAL_POLICIES] = {
    "round robin", "random", "weighted", "least loaded", "hashed"
};

static const char *bal_key(char *key, size_t n)
{
    snprintf(key, BAL_KEY, "key-%u", (unsigned)n);
    return key;
}

/* Counts num picks, the nth with its own key: hashed ones spread, the others do not care. */
static void bal_count_keys(sdc_balancer *b, size_t num, unsigned *counts, size_t max)
{
    memset(counts, 0, max * sizeof *counts);
    char key[BAL_KEY];
    for (size_t i = 0; i < num; i++) {
        int number = picks_one(b, bal_key(key, i), SDC_OK);
        if (number < 0 || (size_t)number >= max) {
            FAIL("picked number %d of %u", number, (unsigned)max);
            return;
        }
        counts[number]++;
    }
}

/* low <= 1000 * part / whole <= high */
static void bal_check_permille(unsigned part, unsigned whole, unsigned low, unsigned high)
{
    CHECK_BETWEEN((1000u * (uint64_t)part + whole / 2) / whole, low, high);
}

/* ---- round robin ----------------------------------------------------------------------------- */

static void test_balancer_round_robin_gives_each_the_same(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 7);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 3 });
    unsigned counts[7];
    picks_count(b, NULL, 7 * 100, counts, 7);
    for (size_t i = 0; i < 7; i++) {
        CHECK_INT(counts[i], 100);
    }
    int first[7];
    unsigned seen = 0;
    for (size_t i = 0; i < 7; i++) {
        first[i] = picks_one(b, NULL, SDC_OK);
        seen |= 1u << first[i];
    }
    CHECK_INT(seen, 0x7f);
    for (size_t i = 0; i < 70; i++) {
        CHECK_INT(picks_one(b, NULL, SDC_OK), first[i % 7]);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_round_robin_ignores_weights(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a=50 b=1 c=7");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    unsigned counts[3];
    picks_count(b, NULL, 300, counts, 3);
    CHECK_INT(counts[0], 100);
    CHECK_INT(counts[1], 100);
    CHECK_INT(counts[2], 100);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Many processes that start together must not all call the same instance first. */
static void test_beat_xrr0(void)
{
    enum { PROCESSES = 1000, INSTANCES = 10 };
    unsigned firsts[INSTANCES] = { 0 };
    for (size_t process = 1; process <= PROCESSES; process++) {
        picks p;
        picks_init_seeded(&p, process, 0);
        picks_numbered(&p, 0, INSTANCES);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 0 });
        firsts[picks_one(b, NULL, SDC_OK)]++;
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
    double chi2 = picks_chi2(firsts, NULL, INSTANCES);
    if (!CHECK(chi2 < bal_chi2_9)) {
        FAIL("chi-square of the first picks: %.1f", chi2);
    }
}

static void test_balancer_round_robin_starts_differ(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 1000);
    picks_show(&p);
    int first[10];
    unsigned same = 0;
    for (size_t i = 0; i < 10; i++) {
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 0 });
        first[i] = picks_one(b, NULL, SDC_OK);
        sdc_balancer_destroy(b);
        for (size_t j = 0; j < i; j++) {
            same += first[j] == first[i];
        }
    }
    CHECK_BETWEEN(same, 0, 1);
    picks_deinit(&p);
}

/* A list that changes with each pick must not send all picks to where a list begins. */
static void test_balancer_updates_do_not_favour_the_first(void)
{
    static const sdc_policy policies[] = { SDC_POLICY_ROUND_ROBIN, SDC_POLICY_WEIGHTED };
    static const char *const tags[] = { "odd" };
    for (size_t k = 0; k < 2; k++) {
        test_note("%s", bal_policy_names[policies[k]]);
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 10);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = policies[k],
                                                                   .seed = 7 });
        unsigned counts[10] = { 0 };
        for (size_t i = 0; i < 1000; i++) {
            p.items[i % 10].tags = tags;
            p.items[i % 10].num_tags = p.items[i % 10].num_tags == 0 ? 1 : 0;
            picks_show(&p);
            counts[picks_one(b, NULL, SDC_OK)]++;
        }
        for (size_t i = 0; i < 10; i++) {
            CHECK_BETWEEN(counts[i], 60, 150);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* An instance that comes and goes with each update: the others get the same, however many calls
   there are between two updates. */
static void test_balancer_turns_go_on_while_one_flaps(void)
{
    static const char *const zones[] = { NULL, "x" };
    for (size_t k = 0; k < 8; k++) {
        size_t num_picks = 1 + k / 2 * 2;
        test_note("%u picks an update, zone %s", (unsigned)num_picks, k % 2 == 0 ? "no" : "x");
        picks p;
        picks_init(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 7,
                                                                   .zone = zones[k % 2] });
        unsigned counts[11] = { 0 };
        for (size_t i = 0; i < 1000; i++) {
            picks_list(&p, i % 2 == 0 ? "a@x b@x c@x d@x e@x f@x g@x h@x i@x j@x k@y"
                                      : "b@x c@x d@x e@x f@x g@x h@x i@x j@x k@y");
            for (size_t n = 0; n < num_picks; n++) {
                counts[picks_one(b, NULL, SDC_OK)]++;
            }
        }
        unsigned num_others = k % 2 == 0 ? 10 : 9;
        unsigned share = (unsigned)(1000 * num_picks - counts[0]) / num_others;
        for (size_t i = 1; i <= num_others; i++) {
            CHECK_BETWEEN(counts[i], share - 2, share + 2);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

typedef struct bal_thread {
    sdc_balancer *balancer;
    pthread_t     thread;
    size_t        num;
    unsigned      counts[10];
} bal_thread;

static void *bal_thread_run(void *user)
{
    bal_thread *t = (bal_thread *)user;
    for (size_t i = 0; i < t->num; i++) {
        int number = picks_one(t->balancer, NULL, SDC_OK);
        if (number < 0 || number >= 10) {
            FAIL("picked number %d", number);
            return NULL;
        }
        t->counts[number]++;
    }
    return NULL;
}

/* Adds up what four threads picked, num each. */
static void bal_count_threads(sdc_balancer *b, size_t num, unsigned *counts)
{
    bal_thread threads[4];
    memset(threads, 0, sizeof threads);
    memset(counts, 0, 10 * sizeof *counts);
    for (size_t i = 0; i < 4; i++) {
        threads[i].balancer = b;
        threads[i].num = num;
        if (pthread_create(&threads[i].thread, NULL, bal_thread_run, &threads[i]) != 0) {
            abort();
        }
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i].thread, NULL);
        for (size_t k = 0; k < 10; k++) {
            counts[k] += threads[i].counts[k];
        }
    }
}

/* Each thread goes round by itself, from a place of its own: they differ by a round at most. */
static void test_balancer_round_robin_of_threads_is_even(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 5 });
    unsigned counts[10];
    bal_count_threads(b, 10000, counts);
    for (size_t i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 3980, 4020);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- random ---------------------------------------------------------------------------------- */

static void test_balancer_random_is_even(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a=100 b c d e f=2 g h i j=9");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = SDC_POLICY_RANDOM,
                                                               .seed = 11 });
    unsigned singles[10] = { 0 };
    unsigned pairs[100] = { 0 };
    int before = picks_one(b, NULL, SDC_OK);
    for (size_t i = 0; i < 100000; i++) {
        int number = picks_one(b, NULL, SDC_OK);
        singles[number]++;
        pairs[before * 10 + number]++;
        before = number;
    }
    double chi2_singles = picks_chi2(singles, NULL, 10);
    double chi2_pairs = picks_chi2(pairs, NULL, 100);
    if (!CHECK(chi2_singles < bal_chi2_9) || !CHECK(chi2_pairs < bal_chi2_99)) {
        FAIL("chi-square: %.1f, of pairs %.1f", chi2_singles, chi2_pairs);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Four threads on one balancer: under ThreadSanitizer a race shows, and without it numbers that
   are torn or repeated would spoil the spread. */
static void test_beat_xrand(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = SDC_POLICY_RANDOM,
                                                               .seed = 13 });
    unsigned counts[10];
    bal_count_threads(b, 25000, counts);
    for (size_t i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 9500, 10500);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

typedef struct bal_trace {
    sdc_balancer *balancer;
    pthread_t     thread;
    int           numbers[32];
} bal_trace;

static void *bal_trace_run(void *user)
{
    bal_trace *t = (bal_trace *)user;
    for (size_t i = 0; i < 32; i++) {
        t->numbers[i] = picks_one(t->balancer, NULL, SDC_OK);
    }
    return NULL;
}

/* Threads that went in step would meet at the same instances. All are there until the last has
   begun: one after the other they could be the same thread to the balancer. */
static void test_balancer_threads_do_not_go_in_step(void)
{
    static const sdc_policy policies[] = { SDC_POLICY_ROUND_ROBIN, SDC_POLICY_RANDOM };
    for (size_t k = 0; k < 2; k++) {
        test_note("%s", bal_policy_names[policies[k]]);
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 10000);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = policies[k],
                                                                   .seed = 3 });
        bal_trace traces[6];
        for (size_t i = 0; i < 6; i++) {
            traces[i].balancer = b;
            if (pthread_create(&traces[i].thread, NULL, bal_trace_run, &traces[i]) != 0) {
                abort();
            }
        }
        for (size_t i = 0; i < 6; i++) {
            pthread_join(traces[i].thread, NULL);
            for (size_t j = 0; j < i; j++) {
                CHECK(memcmp(traces[i].numbers, traces[j].numbers, sizeof traces[i].numbers) != 0);
            }
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* ---- weighted -------------------------------------------------------------------------------- */

static sdc_balancer *bal_weighted(picks *p)
{
    return picks_balancer(p, &(sdc_balancer_desc){ .policy = SDC_POLICY_WEIGHTED, .seed = 17 });
}

/* Whether text is cycle, again and again, from any place of it on. */
static bool bal_is_rotation(const char *text, const char *cycle)
{
    size_t period = strlen(cycle);
    for (size_t from = 0; from < period; from++) {
        size_t i = 0;
        while (text[i] != '\0' && text[i] == cycle[(from + i) % period]) {
            i++;
        }
        if (text[i] == '\0') {
            return true;
        }
    }
    return false;
}

static void bal_check_cycle(const char *list, const char *cycle)
{
    test_note("%s", list);
    picks p;
    picks_init(&p);
    picks_list(&p, list);
    sdc_balancer *b = bal_weighted(&p);
    char text[256];
    picks_text(b, 4 * strlen(cycle), text, sizeof text);
    if (!CHECK(bal_is_rotation(text, cycle))) {
        FAIL("%s is not %s", text, cycle);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_weighted_is_smooth(void)
{
    bal_check_cycle("a=5 b=1 c=1", "aabacaa");
    bal_check_cycle("a=1 b=5 c=1", "bbabcbb");
    bal_check_cycle("a=2 b=1", "aba");
    bal_check_cycle("a=1 b=1 c=1", "abc");
    bal_check_cycle("a=3 b=3", "ab");
    bal_check_cycle("a=9", "a");
}

static void test_balancer_weighted_goes_by_ratios(void)
{
    bal_check_cycle("a=500 b=100 c=100", "aabacaa");
    bal_check_cycle("a=327675 b=65535 c=65535", "aabacaa");
    bal_check_cycle("a=4000000000 b=800000000 c=800000000", "aabacaa");
}

static void test_balancer_weights_of_twins_add_up(void)
{
    bal_check_cycle("a=3#one a=2#two b=1 c=1", "aabacaa");
    bal_check_cycle("a=5#one a=0#two b=1 c=1", "aabacaa");
    bal_check_cycle("a=4294967295#1 a=4294967295#2 b=4294967295", "ab");    /* no more than fits */
}

/* The rule as it is told: all gain their weight, the one that has most is next and pays the
   sum; among equals the one that stands first. */
static void bal_smooth_model(const uint32_t *weights, size_t num, char *cycle, size_t period)
{
    long long have[16] = { 0 };
    long long sum = 0;
    for (size_t i = 0; i < num; i++) {
        sum += weights[i];
    }
    for (size_t turn = 0; turn < period; turn++) {
        size_t best = 0;
        for (size_t i = 0; i < num; i++) {
            have[i] += weights[i];
            best = have[i] > have[best] ? i : best;
        }
        have[best] -= sum;
        cycle[turn] = (char)('a' + best);
    }
    cycle[period] = '\0';
}

static void test_balancer_weighted_equals_the_plain_rule(void)
{
    enum { ROUNDS = 150, MOST = 12, HEAVIEST = 40 };
    uint64_t nth = 0;
    for (size_t round = 0; round < ROUNDS && test_num_failures() == 0; round++) {
        test_note("round %u", (unsigned)round);
        size_t num = 2 + (size_t)(picks_mix(++nth) % (MOST - 1));
        uint32_t weights[MOST];
        size_t sum = 0;
        picks p;
        picks_init(&p);
        picks_list(&p, "");
        for (size_t i = 0; i < num; i++) {
            char word[2] = { (char)('a' + i), '\0' };
            weights[i] = 1 + (uint32_t)(picks_mix(++nth) % HEAVIEST);
            picks_add(&p, word)->weight = weights[i];
            sum += weights[i];
        }
        picks_show(&p);
        char cycle[MOST * HEAVIEST + 1];
        char text[2 * MOST * HEAVIEST + 1];
        bal_smooth_model(weights, num, cycle, sum);
        sdc_balancer *b = bal_weighted(&p);
        picks_text(b, 2 * sum, text, sizeof text);
        if (!CHECK(bal_is_rotation(text, cycle))) {
            FAIL("%s is not %s", text, cycle);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* A scaled order has at most a few 65,536ths of all picks too many or too few for any. */
static void test_balancer_weights_beyond_the_order_are_scaled(void)
{
    static const uint32_t weights[] = { 1000003, 500009, 250007, 3, 77777, 1 };
    enum { INSTANCES = sizeof weights / sizeof weights[0], NUM = 4 * 65536 };
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, INSTANCES);
    double sum = 0;
    for (size_t i = 0; i < INSTANCES; i++) {
        p.items[i].weight = weights[i];
        sum += weights[i];
    }
    picks_show(&p);
    sdc_balancer *b = bal_weighted(&p);
    unsigned counts[INSTANCES];
    picks_count(b, NULL, NUM, counts, INSTANCES);
    for (size_t i = 0; i < INSTANCES; i++) {
        double share = weights[i] / sum;
        double off = counts[i] / (double)NUM - share;
        if (counts[i] == 0 || off > 0.0005 || off < -0.0005) {
            FAIL("weight %u: %u of %u picks instead of %.1f", weights[i], counts[i],
                 (unsigned)NUM, share * NUM);
        }
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Many whose weights do not fit: of so few places for each a whole one can be missing, which is
   a tenth of the share where the share is ten places or more; in all no more than 2 %. */
static void test_balancer_weights_of_many_are_scaled(void)
{
    enum { INSTANCES = 2000, NUM = 4 * 65536 };
    static unsigned counts[INSTANCES];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, INSTANCES);
    double sum = 0;
    for (size_t i = 0; i < INSTANCES; i++) {
        p.items[i].weight = 1 + (uint32_t)(picks_mix(i) % 100);
        sum += p.items[i].weight;
    }
    picks_show(&p);
    sdc_balancer *b = bal_weighted(&p);
    picks_count(b, NULL, NUM, counts, INSTANCES);
    double heavy = 0;
    double heavy_share = 0;
    for (size_t i = 0; i < INSTANCES; i++) {
        double share = NUM * p.items[i].weight / sum;
        heavy += p.items[i].weight > 50 ? counts[i] : 0;
        heavy_share += p.items[i].weight > 50 ? share : 0;
        CHECK(counts[i] > 0);
        if (p.items[i].weight >= 16 && (counts[i] < 0.9 * share || counts[i] > 1.1 * share)) {
            FAIL("weight %u: %u picks instead of %.1f", p.items[i].weight, counts[i], share);
        }
    }
    CHECK(heavy > 0.98 * heavy_share && heavy < 1.02 * heavy_share);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_weighted_largest_sums(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a=4294967295 b=4294967295 c=1 d=4294967295 e=4294967295");
    sdc_balancer *b = bal_weighted(&p);
    unsigned counts[5];
    picks_count(b, NULL, 4 * 65536, counts, 5);
    CHECK_BETWEEN(counts[2], 1, 40);
    for (size_t i = 0; i < 5; i++) {
        if (i != 2) {
            bal_check_permille(counts[i], 4 * 65536, 249, 251);
        }
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* More instances than an order has places: each is picked all the same. */
static void test_balancer_weighted_of_70000(void)
{
    enum { INSTANCES = 70000 };
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, INSTANCES);
    p.items[0].weight = 3;
    picks_show(&p);
    sdc_balancer *b = bal_weighted(&p);
    unsigned *counts = (unsigned *)calloc(INSTANCES, sizeof *counts);
    picks_count(b, NULL, 2 * (INSTANCES + 2), counts, INSTANCES);
    size_t left_out = 0;
    for (size_t i = 0; i < INSTANCES; i++) {
        left_out += counts[i] == 0;
    }
    CHECK_INT(left_out, 0);
    free(counts);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_weights_that_change_count(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a=5 b=1 c=1");
    sdc_balancer *b = bal_weighted(&p);
    unsigned counts[3];
    picks_count(b, NULL, 700, counts, 3);
    CHECK_INT(counts[0], 500);
    picks_list(&p, "a=1 b=5 c=1");
    picks_count(b, NULL, 700, counts, 3);
    CHECK_INT(counts[0], 100);
    CHECK_INT(counts[1], 500);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- least loaded ---------------------------------------------------------------------------- */

static sdc_balancer *bal_least(picks *p)
{
    return picks_balancer(p, &(sdc_balancer_desc){ .policy = SDC_POLICY_LEAST_LOADED,
                                                   .seed = 19 });
}

/* Opens num picks and keeps them; counts by number. */
static void bal_hold(sdc_balancer *b, sdc_pick *held, size_t num, unsigned *counts, size_t max)
{
    memset(counts, 0, max * sizeof *counts);
    for (size_t i = 0; i < num; i++) {
        int number = picks_hold(b, NULL, &held[i]);
        if (number >= 0 && (size_t)number < max) {
            counts[number]++;
        }
    }
}

static void bal_let_go(sdc_balancer *b, sdc_pick *held, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        sdc_balancer_done(b, &held[i], SDC_OK);
    }
}

/* Two choices keep the fullest within a few of the mean (at random it is about 30 above). */
static void test_balancer_least_loaded_keeps_level(void)
{
    enum { HELD = 1000 };
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = bal_least(&p);
    static sdc_pick held[HELD];
    unsigned counts[10];
    bal_hold(b, held, HELD, counts, 10);
    for (size_t i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 95, 105);
    }
    bal_let_go(b, held, HELD);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What is loaded gets less until the others have as much. */
static void test_balancer_least_loaded_drains_the_busy(void)
{
    enum { HELD = 200 };
    picks p;
    picks_init(&p);
    picks_list(&p, "a");
    sdc_balancer *b = bal_least(&p);
    static sdc_pick busy[HELD], held[HELD];
    unsigned counts[3];
    bal_hold(b, busy, HELD, counts, 3);
    CHECK_INT(counts[0], HELD);
    picks_list(&p, "a b c");
    picks_count(b, NULL, 3000, counts, 3);
    CHECK_BETWEEN(counts[0], 0, 400);
    bal_hold(b, held, HELD, counts, 3);
    CHECK_BETWEEN(counts[0], 0, 40);
    bal_let_go(b, busy, HELD);
    bal_let_go(b, held, HELD);
    picks_count(b, NULL, 3000, counts, 3);
    for (size_t i = 0; i < 3; i++) {
        CHECK_BETWEEN(counts[i], 800, 1200);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Under load, so many calls are in flight at each as its weight says. */
static void test_balancer_least_loaded_goes_by_weight(void)
{
    enum { HELD = 700 };
    picks p;
    picks_init(&p);
    picks_list(&p, "a=5 b=1 c=1");
    sdc_balancer *b = bal_least(&p);
    static sdc_pick held[HELD];
    unsigned counts[3];
    bal_hold(b, held, HELD, counts, 3);
    CHECK_BETWEEN(counts[0], 480, 520);
    CHECK_BETWEEN(counts[1], 85, 115);
    CHECK_BETWEEN(counts[2], 85, 115);
    bal_let_go(b, held, HELD);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* One call at a time, so that nobody is loaded: still by weight. */
static void test_balancer_least_loaded_when_idle(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a=5 b=1 c=1");
    sdc_balancer *b = bal_least(&p);
    unsigned counts[3];
    picks_count(b, NULL, 70000, counts, 3);
    bal_check_permille(counts[0], 70000, 643, 786);
    bal_check_permille(counts[1], 70000, 107, 179);
    bal_check_permille(counts[2], 70000, 107, 179);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* In flight is what has been picked and not done: an update of the list does not forget it. */
static void test_balancer_update_keeps_what_is_in_flight(void)
{
    enum { HELD = 100 };
    static const char *const tags[] = { "green" };
    picks p;
    picks_init(&p);
    picks_list(&p, "a");
    sdc_balancer *b = bal_least(&p);
    static sdc_pick held[HELD];
    unsigned counts[2];
    bal_hold(b, held, HELD, counts, 2);
    picks_list(&p, "a b");
    p.items[0].tags = tags;
    p.items[0].num_tags = 1;
    picks_show(&p);
    p.items[0].weight = 2;
    p.items[1].weight = 2;
    picks_show(&p);
    picks_count(b, NULL, 1000, counts, 2);
    CHECK_BETWEEN(counts[0], 0, 300);
    bal_let_go(b, held, HELD);
    picks_count(b, NULL, 1000, counts, 2);
    CHECK_BETWEEN(counts[0], 400, 600);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What is in flight goes with its endpoint, wherever that stands in the list, and ends there. */
static void test_balancer_in_flight_moves_with_its_endpoint(void)
{
    enum { HELD = 120 };
    static const char *const lists[] = { "b c", "a b c d", "c d e", "a c", "c" };
    picks p;
    picks_init(&p);
    picks_list(&p, "c");
    sdc_balancer *b = bal_least(&p);
    static sdc_pick held[HELD];
    unsigned counts[5];
    bal_hold(b, held, HELD, counts, 5);
    CHECK_INT(counts[2], HELD);
    for (size_t i = 0; i < 5; i++) {
        picks_list(&p, lists[i]);
        bal_let_go(b, held + i * 20, 20);
        picks_count(b, NULL, 600, counts, 5);
        CHECK_BETWEEN(counts[2], 0, p.num_items == 1 ? 600 : 220);
    }
    bal_let_go(b, held + 100, 20);
    picks_list(&p, "a b c d");
    picks_count(b, NULL, 4000, counts, 5);
    for (size_t i = 0; i < 4; i++) {
        CHECK_BETWEEN(counts[i], 850, 1150);        /* and nothing of it is left behind */
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* A call that ends in a shard that does not have the newest plan yet, as happens for a moment while
   that is handed out: it is not in flight any more all the same. */
static void test_balancer_in_flight_ends_in_a_shard_that_is_behind(void)
{
    picks p;
    picks_init(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = SDC_POLICY_LEAST_LOADED, .seed = 1 });
    picks_list(&p, "a b");
    sdc_pick pick;
    int number = picks_hold(b, NULL, &pick);
    REQUIRE(number >= 0);
    CHECK_INT(b->plan->loads[number].in_flight, 1);
    enum { SHARDS = sizeof b->shards / sizeof b->shards[0] };
    sdci_shard_line now[SHARDS];
    memcpy(now, b->shards, sizeof now);
    sdci_shard *shard = sdci_balancer_shard(b);
    sdci_unlock(&shard->lock);
    for (size_t s = 0; s < SHARDS; s++) {
        bool is_behind = &b->shards[s].shard != shard;
        b->shards[s].shard.plan = is_behind ? &b->nothing : shard->plan;
    }
    *sdci_thread_byte() += 1;                       /* its next shard is another one */
    sdc_balancer_done(b, &pick, SDC_OK);
    memcpy(b->shards, now, sizeof now);
    CHECK_INT(b->plan->loads[number].in_flight, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What is in flight goes along with its instance, wherever that stands in the next list. */
static void test_balancer_in_flight_follows_its_instance(void)
{
    enum { HELD = 300 };
    static sdc_pick held[HELD];
    static const char *const lists[] = { "b c d", "a0 b c e", "c", "a b c d e", "b c" };
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c d");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = SDC_POLICY_LEAST_LOADED, .seed = 1 });
    unsigned num[26] = { 0 };
    for (size_t i = 0; i < HELD; i++) {
        num[picks_hold(b, NULL, &held[i])]++;
    }
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        test_note("%s", lists[i]);
        picks_list(&p, lists[i]);
        uint32_t c = sdci_plan_find(b->plan, "c:80");
        CHECK_INT(b->plan->loads[c].in_flight, num[2]);
    }
    for (size_t i = 0; i < HELD; i++) {
        sdc_balancer_done(b, &held[i], SDC_OK);
    }
    CHECK_INT(b->plan->loads[0].in_flight, 0);
    CHECK_INT(b->plan->loads[1].in_flight, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- hashed ---------------------------------------------------------------------------------- */

enum { BAL_KEYS = 100000 };

static sdc_balancer *bal_hashed(picks *p, uint64_t seed)
{
    return picks_balancer(p, &(sdc_balancer_desc){ .policy = SDC_POLICY_HASHED, .seed = seed });
}

/* Where each of so many keys goes. */
static void bal_map(sdc_balancer *b, int *map, size_t num_keys)
{
    char key[BAL_KEY];
    for (size_t i = 0; i < num_keys; i++) {
        map[i] = picks_one(b, bal_key(key, i), SDC_OK);
    }
}

static size_t bal_moved(const int *x, const int *y, size_t num_keys)
{
    size_t moved = 0;
    for (size_t i = 0; i < num_keys; i++) {
        moved += x[i] != y[i];
    }
    return moved;
}

static void test_balancer_hashed_keeps_to_its_key(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 20);
    picks_show(&p);
    sdc_balancer *b = bal_hashed(&p, 0);
    static int first[1000], again[1000];
    bal_map(b, first, 1000);
    picks_count(b, NULL, 100, (unsigned[20]){ 0 }, 20);
    bal_map(b, again, 1000);
    CHECK_INT(bal_moved(first, again, 1000), 0);
    int of_empty = picks_one(b, "", SDC_OK);
    for (size_t i = 0; i < 50; i++) {
        CHECK_INT(picks_one(b, "", SDC_OK), of_empty);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Another process: other random numbers, other order in which the instances became known, other
   times of that; only what is there and the seed count. */
static void bal_check_agreement(uint64_t seed)
{
    enum { KEYS = 2000, INSTANCES = 30 };
    static int here[KEYS], there[KEYS];
    picks p;
    picks_init_seeded(&p, 1, 0);
    picks_numbered(&p, 0, INSTANCES);
    picks_show(&p);
    sdc_balancer *b = bal_hashed(&p, seed);
    bal_map(b, here, KEYS);
    sdc_balancer_destroy(b);
    picks_deinit(&p);

    picks_init_seeded(&p, 2, 0);
    b = bal_hashed(&p, seed);
    picks_numbered(&p, 20, 40);
    picks_show(&p);
    p.now_ms += 5000;
    picks_numbered(&p, 0, INSTANCES);
    for (size_t i = 0; i < INSTANCES / 2; i++) {
        sdc_instance item = p.items[i];
        p.items[i] = p.items[INSTANCES - 1 - i];
        p.items[INSTANCES - 1 - i] = item;
    }
    picks_show(&p);
    bal_map(b, there, KEYS);
    CHECK_INT(bal_moved(here, there, KEYS), 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_hashed_agrees_across_processes(void)
{
    bal_check_agreement(0);
    bal_check_agreement(42);
}

static void test_balancer_hashed_seeds_differ(void)
{
    static int one[2000], other[2000];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = bal_hashed(&p, 1);
    bal_map(b, one, 2000);
    sdc_balancer_destroy(b);
    b = bal_hashed(&p, 2);
    bal_map(b, other, 2000);
    sdc_balancer_destroy(b);
    CHECK_BETWEEN(bal_moved(one, other, 2000), 1700, 1900);
    picks_deinit(&p);
}

typedef struct bal_moves {
    size_t   moved;                 /* keys that go elsewhere than before                     */
    size_t   needless;              /* of these, between two that are there in both lists     */
    unsigned most;                  /* of the others, those at one instance                   */
} bal_moves;

/* What happens to BAL_KEYS keys between a list without number `one` and one with it. */
static bal_moves bal_compare(const int *without, const int *with, int one, size_t num)
{
    bal_moves m = { 0, 0, 0 };
    unsigned *took = (unsigned *)calloc(num, sizeof *took);
    for (size_t i = 0; i < BAL_KEYS; i++) {
        if (without[i] == with[i]) {
            continue;
        }
        m.moved++;
        m.needless += with[i] != one;
        if (with[i] == one && ++took[without[i]] > m.most) {
            m.most = took[without[i]];
        }
    }
    free(took);
    return m;
}

/* Of n + 1 instances one comes or goes: the keys that it has, 1 / (n + 1) of all, move, and no
   others do. Tolerance: a fifth of that share, or 60 keys, since an instance has so many slots of
   a table, which were drawn at random. */
static void bal_check_move(size_t n)
{
    static int without[BAL_KEYS], with[BAL_KEYS], back[BAL_KEYS];
    size_t one = n / 2;
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, n + 1);
    picks_remove(&p, one);
    picks_show(&p);
    sdc_balancer *b = bal_hashed(&p, 0);
    bal_map(b, without, BAL_KEYS);
    picks_numbered(&p, 0, n + 1);
    picks_show(&p);
    bal_map(b, with, BAL_KEYS);
    picks_remove(&p, one);
    picks_show(&p);
    bal_map(b, back, BAL_KEYS);
    CHECK_INT(bal_moved(without, back, BAL_KEYS), 0);
    bal_moves m = bal_compare(without, with, (int)one, n + 1);
    double share = (double)BAL_KEYS / (double)(n + 1);
    if (test_is_verbose()) {
        printf("one of %u comes or goes: %u of %u keys move (one share is %.0f), %u of these "
               "between two that stay; at most %u of its keys are at one other\n",
               (unsigned)n + 1, (unsigned)m.moved, (unsigned)BAL_KEYS, share,
               (unsigned)m.needless, m.most);
    }
    CHECK_INT(m.needless, 0);
    double slack = share / 5 > 60 ? share / 5 : 60;
    CHECK_BETWEEN(m.moved, share - slack, share + slack);
    /* the keys of the one that went are spread over all the others */
    double each = share / (double)n;
    CHECK_BETWEEN(m.most, each * 0.5, each * 1.3 + 16);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_hashed_moves_one_share(void)
{
    static const size_t sizes[] = { 3, 10, 100, 1000 };
    for (size_t i = 0; i < 4; i++) {
        test_note("%u instances", (unsigned)sizes[i]);
        bal_check_move(sizes[i]);
    }
}

static void test_balancer_hashed_spreads_keys(void)
{
    static const size_t sizes[] = { 1, 3, 10, 100 };
    for (size_t i = 0; i < 4; i++) {
        test_note("%u instances", (unsigned)sizes[i]);
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, sizes[i]);
        picks_show(&p);
        sdc_balancer *b = bal_hashed(&p, 0);
        unsigned counts[100];
        bal_count_keys(b, BAL_KEYS, counts, sizes[i]);
        double each = (double)BAL_KEYS / (double)sizes[i];
        for (size_t k = 0; k < sizes[i]; k++) {
            CHECK_BETWEEN(counts[k], each * 0.85, each * 1.15);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_balancer_hashed_goes_by_weight(void)
{
    static int light[BAL_KEYS], heavy[BAL_KEYS];
    picks p;
    picks_init(&p);
    picks_list(&p, "a=5 b=1 c=1 d=3");
    sdc_balancer *b = bal_hashed(&p, 0);
    unsigned counts[4];
    bal_count_keys(b, BAL_KEYS, counts, 4);
    bal_check_permille(counts[0], BAL_KEYS, 480, 520);
    bal_check_permille(counts[1], BAL_KEYS, 90, 110);
    bal_check_permille(counts[2], BAL_KEYS, 90, 110);
    bal_check_permille(counts[3], BAL_KEYS, 285, 315);
    /* d from 3 of 10 to 4 of 11: only what it gains has to move, 6.4 % */
    bal_map(b, light, BAL_KEYS);
    picks_list(&p, "a=5 b=1 c=1 d=4");
    bal_map(b, heavy, BAL_KEYS);
    bal_check_permille((unsigned)bal_moved(light, heavy, BAL_KEYS), BAL_KEYS, 50, 120);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_hashed_by_extreme_weights(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a=4294967295 b=1 c=4294967295");
    sdc_balancer *b = bal_hashed(&p, 0);
    unsigned counts[4];
    bal_count_keys(b, BAL_KEYS, counts, 4);
    bal_check_permille(counts[0], BAL_KEYS, 485, 515);
    CHECK_BETWEEN(counts[1], 0, 20);
    picks_list(&p, "a=3600000000 b=400000000");
    bal_count_keys(b, BAL_KEYS, counts, 4);
    bal_check_permille(counts[1], BAL_KEYS, 90, 110);
    picks_list(&p, "b=1 d=65535");
    bal_count_keys(b, BAL_KEYS, counts, 4);
    CHECK_BETWEEN(counts[1], 0, 20);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_hashed_without_a_key_goes_anywhere(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = bal_hashed(&p, 0);
    unsigned counts[10];
    picks_count(b, NULL, 10000, counts, 10);
    for (size_t i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 800, 1200);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Also where picks go around one that is out. */
static void test_balancer_other_policies_ignore_the_key(void)
{
    for (size_t i = 0; i < 2u * SDC_POLICY_HASHED; i++) {
        test_note("%s%s", bal_policy_names[i / 2], i % 2 != 0 ? ", one is out" : "");
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 11);
        picks_show(&p);
        sdc_balancer_desc desc = { .policy = (sdc_policy)(i / 2), .seed = 23, .eject_after = 1 };
        sdc_balancer *b = picks_balancer(&p, &desc);
        int out = i % 2 != 0 ? picks_one(b, "one key", SDC_ERR_IO) : -1;
        unsigned counts[11];
        picks_count(b, "one key", 10000, counts, 11);
        for (int k = 0; k < 11; k++) {
            CHECK_BETWEEN(counts[k], k == out ? 0 : 780, k == out ? 0 : 1120);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* ---- all policies ---------------------------------------------------------------------------- */

/* Calls fn for each policy on a fresh list. */
static void bal_each_policy(const char *list, const sdc_balancer_desc *desc,
                            void (*fn)(picks *p, sdc_balancer *b))
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        picks p;
        picks_init(&p);
        picks_list(&p, list);
        sdc_balancer_desc one = *desc;
        one.policy = (sdc_policy)policy;
        sdc_balancer *b = picks_balancer(&p, &one);
        fn(&p, b);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
    test_note(NULL);
}

/* What 500 picks were, some with keys, some held for a while, some failed, with time passing. */
static void bal_story(size_t process, const sdc_balancer_desc *desc, int *story)
{
    picks p;
    picks_init_seeded(&p, process, 0);
    picks_list(&p, "a=5@x b=2@x c=1@y d@y e!@x f=3");
    sdc_balancer *b = picks_balancer(&p, desc);
    sdc_pick held;
    memset(&held, 0, sizeof held);
    char key[BAL_KEY];
    for (size_t i = 0; i < 500; i++) {
        if (i % 7 == 0) {
            sdc_balancer_done(b, &held, SDC_OK);
            story[i] = picks_hold(b, NULL, &held);
        } else {
            story[i] = picks_one(b, i % 3 == 0 ? bal_key(key, i) : NULL,
                                 i % 5 == 0 ? SDC_ERR_IO : SDC_OK);
        }
        if (i == 250) {
            picks_list(&p, "a=5@x c=1@y d@y e!@x f=3 g=2@x");
        }
        p.now_ms += 20;
    }
    sdc_balancer_done(b, &held, SDC_OK);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_all_follows_from_the_seed(void)
{
    static int one[500], two[500], other[500];
    for (size_t i = 0; i < 2u * BAL_POLICIES; i++) {
        test_note("%s%s", bal_policy_names[i / 2], i % 2 != 0 ? ", all options" : "");
        sdc_balancer_desc desc = { .policy = (sdc_policy)(i / 2), .seed = 99 };
        if (i % 2 != 0) {
            desc.zone = "x";
            desc.panic_percent = 30;
            desc.slow_start_ms = 3000;
            desc.eject_after = 2;
            desc.eject_ms = 1000;
            desc.eject_max_percent = 50;
            desc.subset_size = 3;
        }
        bal_story(1, &desc, one);
        bal_story(2, &desc, two);
        CHECK_INT(bal_moved(one, two, 500), 0);
        size_t moved = 0;
        for (desc.seed = 100; desc.seed < 103; desc.seed++) {
            bal_story(1, &desc, other);
            moved += bal_moved(one, other, 500);
        }
        CHECK(moved > 0);
    }
}

static void bal_expect_no_critical(picks *p, sdc_balancer *b)
{
    (void)p;
    unsigned counts[4];
    bal_count_keys(b, 2000, counts, 4);
    CHECK(counts[0] > 0);
    CHECK_INT(counts[1], 0);
    CHECK(counts[2] > 0);
    CHECK_INT(counts[3], 0);
    for (size_t i = 0; i < 500; i++) {
        int number = picks_one(b, NULL, SDC_OK);
        CHECK(number == 0 || number == 2);
    }
}

static void test_balancer_weight_0_is_not_picked(void)
{
    bal_each_policy("a=5 b! c=1 d=0", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_no_critical);
    bal_each_policy("a=5 b=0#1 b=0#2 c=1~ d!", &(sdc_balancer_desc){ .seed = 1 },
                    bal_expect_no_critical);
}

/* A source that gives critical ones a weight, and one that gives a weight to nobody. */
static void bal_expect_status_first(picks *p, sdc_balancer *b)
{
    unsigned counts[3];
    p->items[1].status = SDC_STATUS_CRITICAL;
    p->items[2].status = SDC_STATUS_MAINTENANCE;
    for (uint32_t weight = 2; weight > 0; weight--) {
        for (size_t i = 0; i < 3; i++) {
            p->items[i].weight = weight - 1;
        }
        picks_show(p);
        bal_count_keys(b, 300, counts, 3);
        CHECK_INT(counts[0], 300);
    }
    p->items[0].status = SDC_STATUS_WARNING;
    p->items[1].status = SDC_STATUS_UNSET;
    picks_show(p);
    bal_count_keys(b, 3000, counts, 3);
    CHECK(counts[0] > 1000 && counts[1] > 1000);
    CHECK_INT(counts[2], 0);
}

static void test_balancer_critical_is_not_picked_whatever_its_weight(void)
{
    bal_each_policy("a b c", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_status_first);
}

static void bal_expect_all_alike(picks *p, sdc_balancer *b)
{
    (void)p;
    unsigned counts[4];
    bal_count_keys(b, 20000, counts, 4);
    for (size_t i = 0; i < 4; i++) {
        CHECK_BETWEEN(counts[i], 4500, 5500);
    }
}

static void test_72_all_weights_zero_are_picked_alike(void)
{
    bal_each_policy("a! b! c! d!", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_all_alike);
    bal_each_policy("a=0 b=0 c=0 d=0", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_all_alike);
}

static void bal_expect_return(picks *p, sdc_balancer *b)
{
    unsigned counts[2];
    bal_count_keys(b, 1000, counts, 2);
    CHECK(counts[0] > 300 && counts[1] > 300);
    picks_list(p, "a b!");
    bal_count_keys(b, 1000, counts, 2);
    CHECK_INT(counts[1], 0);
    picks_list(p, "a! b!");
    bal_count_keys(b, 1000, counts, 2);
    CHECK(counts[0] > 300 && counts[1] > 300);
    picks_list(p, "a! b");
    bal_count_keys(b, 1000, counts, 2);
    CHECK_INT(counts[0], 0);
}

static void test_balancer_weights_that_turn_0(void)
{
    bal_each_policy("a b", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_return);
}

static bool bal_is_zero(const sdc_pick *pick)
{
    sdc_pick zero;
    memset(&zero, 0, sizeof zero);
    return memcmp(pick, &zero, sizeof zero) == 0;
}

static void bal_expect_empty(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    for (size_t i = 0; i < 2; i++) {
        memset(&pick, 0xAA, sizeof pick);
        CHECK_ERR(sdc_balancer_next(b, "key", &pick), SDC_ERR_EMPTY);
        CHECK(bal_is_zero(&pick));
        CHECK_ERR(sdc_balancer_next(b, NULL, &pick), SDC_ERR_EMPTY);
    }
    picks_list(p, "a");
    CHECK_INT(picks_one(b, "key", SDC_OK), 0);
    picks_list(p, "");
    CHECK_ERR(sdc_balancer_next(b, "key", &pick), SDC_ERR_EMPTY);
    CHECK(bal_is_zero(&pick));
}

static void test_balancer_nothing_to_pick(void)
{
    bal_each_policy("", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_empty);
    bal_each_policy("", &(sdc_balancer_desc){ .seed = 1, .zone = "x", .panic_percent = 50,
                                              .slow_start_ms = 1000, .eject_after = 1,
                                              .subset_size = 2 }, bal_expect_empty);
}

static void bal_expect_done_zeroes(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    memset(&pick, 0, sizeof pick);
    sdc_balancer_done(b, &pick, SDC_ERR_IO);
    CHECK(bal_is_zero(&pick));
    CHECK_INT(picks_hold(b, "key", &pick), 0);
    picks_list(p, "b");
    CHECK_INT(p->num_open, 2);
    CHECK_STR(pick.instance->addr, "a:80");
    sdc_balancer_done(b, &pick, SDC_OK);
    CHECK(bal_is_zero(&pick));
    CHECK_INT(p->num_open, 1);
    sdc_balancer_done(b, &pick, SDC_OK);
    CHECK_INT(p->num_open, 1);
}

static void test_balancer_done_zeroes_its_pick(void)
{
    bal_each_policy("a", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_done_zeroes);
}

static void bal_expect_outage(picks *p, sdc_balancer *b)
{
    CHECK_INT(picks_one(b, "key", SDC_OK), 0);
    CHECK_ERR(sdc_cache_update_error(p->cache, SDC_ERR_CONNECT, "away", p->now_ms), SDC_OK);
    CHECK_INT(picks_one(b, "key", SDC_OK), 0);
    sdc_endpointer_destroy(p->endpointer);
    p->endpointer = NULL;
    sdc_pick pick;
    CHECK_ERR(sdc_balancer_next(b, "key", &pick), SDC_ERR_EMPTY);
    CHECK(bal_is_zero(&pick));
}

static void test_balancer_outlives_its_endpointer(void)
{
    bal_each_policy("a", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_outage);
}

static void test_balancer_after_invalidation_answers_the_outage(void)
{
    picks p;
    picks_init_seeded(&p, 1, 5000);
    picks_list(&p, "a b");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    CHECK_ERR(sdc_cache_update_error(p.cache, SDC_ERR_DENIED, "no token", p.now_ms), SDC_OK);
    p.now_ms += 4999;
    CHECK(picks_one(b, NULL, SDC_OK) >= 0);
    p.now_ms += 1;
    sdc_pick pick;
    memset(&pick, 0xAA, sizeof pick);
    CHECK_ERR(sdc_balancer_next(b, NULL, &pick), SDC_ERR_DENIED);
    CHECK(bal_is_zero(&pick));
    CHECK_INT(p.num_open, 0);
    picks_list(&p, "a b");
    CHECK(picks_one(b, NULL, SDC_OK) >= 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void *bal_done_elsewhere(void *user)
{
    void **both = (void **)user;
    sdc_balancer_done((sdc_balancer *)both[0], (sdc_pick *)both[1], SDC_OK);
    return NULL;
}

static void bal_expect_done_by_another_thread(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    CHECK_INT(picks_hold(b, "key", &pick), 0);
    picks_list(p, "");
    CHECK_INT(p->num_open, 1);
    void *both[2] = { b, &pick };
    pthread_t thread;
    if (pthread_create(&thread, NULL, bal_done_elsewhere, both) != 0) {
        abort();
    }
    pthread_join(thread, NULL);
    CHECK(bal_is_zero(&pick));
    CHECK_INT(p->num_open, 0);
}

static void test_balancer_done_on_another_thread(void)
{
    bal_each_policy("a", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_done_by_another_thread);
}

/* ---- own zone first -------------------------------------------------------------------------- */

enum { BAL_HOME = 10 };

/* n00000 to n00009 are in zone x, of which so many are healthy; so many more are in y. */
static void bal_zones(picks *p, size_t num_healthy, size_t num_others)
{
    picks_numbered(p, 0, BAL_HOME + num_others);
    for (size_t i = 0; i < p->num_items; i++) {
        p->items[i].zone = i < BAL_HOME ? "x" : "y";
        if (i >= num_healthy && i < BAL_HOME) {
            p->items[i].weight = 0;
            p->items[i].status = SDC_STATUS_CRITICAL;
        }
    }
    picks_show(p);
}

/* Of 1000 picks, how many go to the first ten; all others are checked to be healthy. */
static unsigned bal_share_home(picks *p, sdc_balancer *b)
{
    enum { NUM = 20000, MOST = 64 };
    unsigned counts[MOST];
    unsigned home = 0;
    bal_count_keys(b, NUM, counts, MOST);
    for (size_t i = 0; i < MOST; i++) {
        home += i < BAL_HOME ? counts[i] : 0;
        bool is_healthy = i < p->num_items && p->items[i].weight != 0;
        CHECK(is_healthy || counts[i] == 0);
    }
    return (home * 1000u + NUM / 2) / NUM;
}

static void bal_check_overflow(sdc_policy policy, uint32_t min_percent, size_t num_healthy,
                               unsigned permille)
{
    test_note("%s, %u of 10 healthy, %u %%", bal_policy_names[policy], (unsigned)num_healthy,
              (unsigned)min_percent);
    picks p;
    picks_init(&p);
    bal_zones(&p, num_healthy, 5);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = policy, .seed = 29, .zone = "x", .zone_min_percent = min_percent });
    unsigned share = bal_share_home(&p, b);
    unsigned slack = permille == 0 || permille == 1000 ? 0 : 20;
    CHECK_BETWEEN(share, permille - slack, permille + slack);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* As many calls stay as the healthy make of zone_min_percent: 6 of 10 are 60 of 70 %. */
static void test_balancer_zone_overflows_gradually(void)
{
    static const unsigned permille[] = { 0, 143, 286, 429, 571, 714, 857, 1000, 1000, 1000, 1000 };
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        for (size_t healthy = 0; healthy <= BAL_HOME; healthy++) {
            bal_check_overflow((sdc_policy)policy, 0, healthy, permille[healthy]);
        }
    }
}

static void test_balancer_zone_min_percent(void)
{
    bal_check_overflow(SDC_POLICY_RANDOM, 70, 6, 857);
    bal_check_overflow(SDC_POLICY_RANDOM, 100, 9, 900);
    bal_check_overflow(SDC_POLICY_RANDOM, 100, 10, 1000);
    bal_check_overflow(SDC_POLICY_RANDOM, 50, 5, 1000);
    bal_check_overflow(SDC_POLICY_RANDOM, 50, 2, 400);
    bal_check_overflow(SDC_POLICY_RANDOM, 1, 1, 1000);
    bal_check_overflow(SDC_POLICY_RANDOM, 1, 0, 0);
}

static void test_balancer_zone_with_nobody_elsewhere(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        picks p;
        picks_init(&p);
        bal_zones(&p, 1, 0);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 1, .zone = "x" });
        CHECK_INT(bal_share_home(&p, b), 1000);
        bal_zones(&p, 1, 3);
        CHECK_BETWEEN(bal_share_home(&p, b), 123, 163);
        for (size_t i = BAL_HOME; i < p.num_items; i++) {
            p.items[i].weight = 0;
            p.items[i].status = SDC_STATUS_CRITICAL;
        }
        picks_show(&p);
        CHECK_INT(bal_share_home(&p, b), 1000);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_balancer_zone_nobody_is_in(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        picks p;
        picks_init(&p);
        picks_list(&p, "a@y b@y c@z d");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 1, .zone = "x" });
        unsigned counts[4];
        bal_count_keys(b, 4000, counts, 4);
        for (size_t i = 0; i < 4; i++) {
            CHECK_BETWEEN(counts[i], 850, 1150);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* Each of these would be another instance's zone if the locality and meta were mixed up. */
static void test_balancer_zone_of_a_meta_key(void)
{
    static const sdc_kv rack_1[] = { { "other", "r2" }, { "rack", "r1" }, { "zone", "r2" } };
    static const sdc_kv rack_2[] = { { "other", "r1" }, { "rack", "r2" }, { "zone", "r1" } };
    picks p;
    picks_init(&p);
    picks_list(&p, "a b@r1 c@r1 d");
    p.items[0].meta = rack_1;
    p.items[0].num_meta = 3;
    p.items[1].meta = rack_2;
    p.items[1].num_meta = 3;
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .zone = "r1",
                                                               .zone_meta = "rack" });
    unsigned counts[4];
    picks_count(b, NULL, 100, counts, 4);
    CHECK_INT(counts[0], 100);
    sdc_balancer_destroy(b);
    b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .zone = "r1" });
    picks_count(b, NULL, 100, counts, 4);
    CHECK_INT(counts[1] + counts[2], 100);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* The texts of a desc are the program's: they may be gone when it is used. */
static void test_balancer_copies_its_texts(void)
{
    char zone[] = "r1";
    char key[] = "rack";
    static const sdc_kv rack_1[] = { { "rack", "r1" } };
    picks p;
    picks_init(&p);
    picks_list(&p, "a b");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .zone = zone,
                                                               .zone_meta = key });
    memset(zone, '?', sizeof zone - 1);
    memset(key, '?', sizeof key - 1);
    p.items[0].meta = rack_1;
    p.items[0].num_meta = 1;
    picks_show(&p);
    unsigned counts[2];
    picks_count(b, NULL, 100, counts, 2);
    CHECK_INT(counts[0], 100);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_zone_that_overflows_keeps_keys(void)
{
    static int one[2000], two[2000];
    picks p;
    picks_init(&p);
    bal_zones(&p, 4, 5);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = SDC_POLICY_HASHED,
                                                               .zone = "x" });
    bal_map(b, one, 2000);
    bal_map(b, two, 2000);
    CHECK_INT(bal_moved(one, two, 2000), 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Four of ten at home turn critical: their keys move, and of the others one in seven, which has to
   go elsewhere (6 of 10 are 60 of 70 %); nothing else, and all back when they are well. */
static void test_balancer_zone_that_overflows_moves_no_other_keys(void)
{
    static int before[BAL_KEYS], after[BAL_KEYS];
    picks p;
    picks_init(&p);
    bal_zones(&p, 10, 5);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = SDC_POLICY_HASHED,
                                                               .zone = "x" });
    bal_map(b, before, BAL_KEYS);
    bal_zones(&p, 6, 5);
    bal_map(b, after, BAL_KEYS);
    unsigned num_well = 0;
    unsigned num_away = 0;
    for (size_t i = 0; i < BAL_KEYS; i++) {
        num_well += before[i] < 6;
        num_away += before[i] < 6 && after[i] >= BAL_HOME;
        CHECK(before[i] >= 6 || after[i] == before[i] || after[i] >= BAL_HOME);
    }
    bal_check_permille(num_away, num_well, 130, 156);
    bal_zones(&p, 10, 5);
    bal_map(b, after, BAL_KEYS);
    CHECK_INT(bal_moved(before, after, BAL_KEYS), 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- panic ----------------------------------------------------------------------------------- */

static void bal_expect_panic(picks *p, sdc_balancer *b)
{
    unsigned counts[4];
    bal_count_keys(b, 4000, counts, 4);
    CHECK_INT(counts[2] + counts[3], 0);    /* two of four are 50 %, which is not fewer */
    picks_list(p, "a b! c! d!");
    bal_count_keys(b, 4000, counts, 4);
    for (size_t i = 0; i < 4; i++) {
        CHECK_BETWEEN(counts[i], 800, 1200);
    }
    picks_list(p, "a b c! d");
    bal_count_keys(b, 4000, counts, 4);
    CHECK_INT(counts[2], 0);
}

static void test_balancer_panic_uses_all(void)
{
    bal_each_policy("a b c! d!", &(sdc_balancer_desc){ .seed = 31, .panic_percent = 50 },
                    bal_expect_panic);
}

/* The limit is exact. */
static void test_balancer_panic_begins_below_its_limit(void)
{
    static const uint32_t limits[][2] = { { 1, 2 }, { 1, 3 }, { 50, 149 }, { 50, 150 },
                                          { 100, 299 }, { 100, 300 } };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        test_note("%u %%, %u of 300", (unsigned)limits[i][0], (unsigned)limits[i][1]);
        unsigned counts[300];
        unsigned num_critical = 0;
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 300);
        for (size_t k = limits[i][1]; k < 300; k++) {
            p.items[k].status = SDC_STATUS_CRITICAL;
        }
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .seed = 1, .panic_percent = limits[i][0] });
        picks_count(b, NULL, 600, counts, 300);
        for (size_t k = limits[i][1]; k < 300; k++) {
            num_critical += counts[k];
        }
        CHECK_INT(num_critical, i % 2 == 0 ? 600 - 2 * limits[i][1] : 0);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void bal_expect_no_panic(picks *p, sdc_balancer *b)
{
    (void)p;
    unsigned counts[4];
    bal_count_keys(b, 1000, counts, 4);
    CHECK_INT(counts[0], 1000);
}

static void test_balancer_panic_is_off(void)
{
    bal_each_policy("a b! c! d!", &(sdc_balancer_desc){ .seed = 31 }, bal_expect_no_panic);
}

/* A list of which the nth is in maintenance. */
static void bal_show_maintenance(picks *p, const char *words, size_t nth)
{
    picks_list(p, words);
    p->items[nth].status = SDC_STATUS_MAINTENANCE;
    picks_show(p);
}

/* Somebody has taken it out: it is left out of a panic as long as anything else is there. */
static void bal_expect_maintenance_out(picks *p, sdc_balancer *b)
{
    unsigned counts[4];
    bal_show_maintenance(p, "a b! c! d!", 3);
    bal_count_keys(b, 3000, counts, 4);
    CHECK_INT(counts[3], 0);
    CHECK(counts[0] > 700 && counts[1] > 700 && counts[2] > 700);
    bal_show_maintenance(p, "b! c! d!", 1);         /* nobody is healthy */
    bal_count_keys(b, 3000, counts, 4);
    CHECK_INT(counts[2], 0);
    CHECK(counts[1] > 1000 && counts[3] > 1000);
    bal_show_maintenance(p, "b!", 0);               /* nothing else is there */
    bal_count_keys(b, 100, counts, 4);
    CHECK_INT(counts[1], 100);
}

static void test_balancer_panic_leaves_out_maintenance(void)
{
    bal_each_policy("a b c d", &(sdc_balancer_desc){ .seed = 31, .panic_percent = 60 },
                    bal_expect_maintenance_out);
}

/* ---- slow start ------------------------------------------------------------------------------ */

enum { BAL_SLOW_MS = 10000 };

/* Of 11,000 picks over ten and a new one, those of the new one; the others share the rest. */
static unsigned bal_share_new(sdc_balancer *b)
{
    unsigned counts[11];
    bal_count_keys(b, 11000, counts, 11);
    for (size_t i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 800, 1350);
    }
    return counts[10];
}

static void bal_check_slow(sdc_policy policy)
{
    picks p;
    picks_init(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = policy, .seed = 37, .slow_start_ms = BAL_SLOW_MS });
    p.now_ms += 5000;
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    unsigned counts[10];
    bal_count_keys(b, 10000, counts, 10);
    for (size_t i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 850, 1150);
    }
    p.now_ms += 5000;
    picks_numbered(&p, 0, 11);
    picks_show(&p);
    uint64_t start_ms = p.now_ms;
    CHECK_BETWEEN(bal_share_new(b), 70, 150);       /* a tenth of 1000, at least */
    p.now_ms = start_ms + BAL_SLOW_MS / 20;
    CHECK_BETWEEN(bal_share_new(b), 70, 150);
    p.now_ms = start_ms + BAL_SLOW_MS / 4;
    CHECK_BETWEEN(bal_share_new(b), 190, 330);
    p.now_ms = start_ms + BAL_SLOW_MS / 2;
    CHECK_BETWEEN(bal_share_new(b), 410, 620);
    p.now_ms = start_ms + BAL_SLOW_MS;
    CHECK_BETWEEN(bal_share_new(b), 850, 1150);
    p.now_ms = start_ms + 100 * BAL_SLOW_MS;
    CHECK_BETWEEN(bal_share_new(b), 850, 1150);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_slow_start_grows_with_age(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        bal_check_slow((sdc_policy)policy);
    }
}

static void test_balancer_slow_start_again_after_return(void)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 11);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 41,
                                                               .slow_start_ms = BAL_SLOW_MS });
    CHECK_BETWEEN(bal_share_new(b), 950, 1050);
    p.now_ms += 5 * BAL_SLOW_MS;
    p.num_items = 10;
    picks_show(&p);
    p.num_items = 11;
    picks_show(&p);
    CHECK_BETWEEN(bal_share_new(b), 70, 150);
    p.items[10].weight = 1;
    p.items[10].id = "renamed";
    p.now_ms += BAL_SLOW_MS / 2;
    picks_show(&p);
    CHECK_BETWEEN(bal_share_new(b), 410, 620);      /* the same addr: as old as it was */
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* All replaced at once, as deployments do: all are as young as each other. */
static void bal_expect_all_young(picks *p, sdc_balancer *b)
{
    p->now_ms += 60000;
    picks_list(p, "e f g");
    unsigned counts[7];
    for (size_t age = 0; age < 3; age++) {
        bal_count_keys(b, 3000, counts, 7);
        for (size_t i = 4; i < 7; i++) {
            CHECK_BETWEEN(counts[i], 800, 1200);
        }
        p->now_ms += BAL_SLOW_MS / 2;
    }
}

static void test_balancer_slow_start_of_all(void)
{
    bal_each_policy("a b c d", &(sdc_balancer_desc){ .seed = 43, .slow_start_ms = BAL_SLOW_MS },
                    bal_expect_all_young);
}

static void test_balancer_slow_start_keeps_keys(void)
{
    static int one[2000], two[2000];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = SDC_POLICY_HASHED, .slow_start_ms = BAL_SLOW_MS });
    picks_numbered(&p, 0, 11);
    picks_show(&p);
    p.now_ms += BAL_SLOW_MS / 3;
    bal_map(b, one, 2000);
    bal_map(b, two, 2000);
    CHECK_INT(bal_moved(one, two, 2000), 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* The clock is looked at while somebody is young, and no longer, also where nobody ever draws the
   young one: in another zone, critical, or not one of the subset. */
static void bal_check_growing_up(const sdc_balancer_desc *desc, const char *list)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a@x b@x");
    sdc_balancer *b = picks_balancer(&p, desc);
    picks_list(&p, list);
    p.now_ms += BAL_SLOW_MS - 1;
    picks_one(b, NULL, SDC_OK);
    p.num_looks = 0;
    picks_one(b, NULL, SDC_OK);
    CHECK_BETWEEN(p.num_looks, 1, 1);
    p.now_ms += 1;
    picks_one(b, NULL, SDC_OK);
    p.num_looks = 0;
    for (size_t i = 0; i < 100; i++) {
        picks_one(b, NULL, SDC_OK);
    }
    CHECK_INT(p.num_looks, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_slow_start_ends_for_all(void)
{
    sdc_balancer_desc desc = { .seed = 1, .slow_start_ms = BAL_SLOW_MS };
    bal_check_growing_up(&desc, "a@x b@x c@x");
    bal_check_growing_up(&desc, "a@x b@x c!@x");
    desc.subset_size = 1;
    bal_check_growing_up(&desc, "a@x b@x c@x d@x e@x");
    desc.subset_size = 0;
    desc.zone = "x";
    bal_check_growing_up(&desc, "a@x b@x c@y");
}

/* ---- ejection -------------------------------------------------------------------------------- */

enum { BAL_EJECT_MS = 30000 };

/* Picks until `victim` was picked so many times, with this outcome for it and a good one for
   the others. False when it is not picked any more. */
static bool bal_outcomes(sdc_balancer *b, int victim, size_t times, sdc_err outcome)
{
    char key[BAL_KEY];
    for (size_t i = 0; i < 2000 && times > 0; i++) {
        sdc_pick pick;
        int number = picks_hold(b, bal_key(key, i), &pick);
        sdc_balancer_done(b, &pick, number == victim ? outcome : SDC_OK);
        times -= number == victim;
    }
    return times == 0;
}

/* Whether it is picked, without a verdict on anything. */
static bool bal_is_in(sdc_balancer *b, int victim)
{
    char key[BAL_KEY];
    for (size_t i = 0; i < 1000; i++) {
        if (picks_one(b, bal_key(key, i), SDC_AGAIN) == victim) {
            return true;
        }
    }
    return false;
}

static void bal_expect_ejection(picks *p, sdc_balancer *b)
{
    CHECK(bal_outcomes(b, 1, 2, SDC_ERR_IO));
    CHECK(bal_is_in(b, 1));
    CHECK(bal_outcomes(b, 1, 1, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 1));
    CHECK(bal_is_in(b, 0));
    CHECK(bal_is_in(b, 2));
    p->now_ms += BAL_EJECT_MS - 1;
    CHECK(!bal_is_in(b, 1));
    p->now_ms += 1;
    CHECK(bal_is_in(b, 1));
}

static void test_balancer_ejects_after_failures_in_a_row(void)
{
    bal_each_policy("a b=2 c d", &(sdc_balancer_desc){ .seed = 47, .eject_after = 3 },
                    bal_expect_ejection);
}

static void bal_expect_outcomes(picks *p, sdc_balancer *b)
{
    (void)p;
    CHECK(bal_outcomes(b, 1, 2, SDC_ERR_IO));
    CHECK(bal_outcomes(b, 1, 1, SDC_OK));
    CHECK(bal_outcomes(b, 1, 2, SDC_ERR_IO));
    CHECK(bal_is_in(b, 1));                         /* one success in between */
    CHECK(bal_outcomes(b, 1, 5, SDC_AGAIN));
    CHECK(bal_is_in(b, 1));                         /* no verdict adds nothing */
    CHECK(bal_outcomes(b, 1, 1, SDC_ERR_TIMEOUT));
    CHECK(!bal_is_in(b, 1));                        /* and takes nothing back */
}

static void test_balancer_ejection_by_outcome(void)
{
    bal_each_policy("a b c d", &(sdc_balancer_desc){ .seed = 53, .eject_after = 3 },
                    bal_expect_outcomes);
}

static void test_balancer_ejection_any_error_is_a_failure(void)
{
    for (int outcome = SDC_STOPPED; outcome <= SDC_ERR_USER; outcome++) {
        test_note("%s", test_err_name(outcome));
        picks p;
        picks_init(&p);
        picks_list(&p, "a b c");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .eject_after = 1 });
        CHECK(bal_outcomes(b, 2, 1, (sdc_err)outcome));
        CHECK(!bal_is_in(b, 2));
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void test_balancer_ejection_is_off(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1 });
    CHECK(bal_outcomes(b, 2, 100, SDC_ERR_IO));
    CHECK(bal_is_in(b, 2));
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* How long b stays out when it fails now, in milliseconds; the clock is then there. */
static uint64_t bal_time_out(picks *p, sdc_balancer *b, uint32_t eject_ms)
{
    CHECK(bal_outcomes(b, 1, 2, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 1));
    uint64_t start_ms = p->now_ms;
    for (size_t turn = 1; turn < 20; turn++) {
        p->now_ms = start_ms + turn * eject_ms - 1;
        CHECK(!bal_is_in(b, 1));
        p->now_ms++;
        if (bal_is_in(b, 1)) {
            return turn * eject_ms;
        }
    }
    FAIL("does not come back");
    return 0;
}

static void test_balancer_ejection_grows_up_to_ten_times(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 59, .eject_after = 2,
                                                               .eject_ms = 700 });
    for (uint64_t nth = 1; nth <= 14; nth++) {
        CHECK_U64(bal_time_out(&p, b, 700), 700 * (nth < 10 ? nth : 10));
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_ejection_is_forgiven(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 61, .eject_after = 2,
                                                               .eject_ms = 1000 });
    for (uint64_t nth = 1; nth <= 4; nth++) {
        CHECK_U64(bal_time_out(&p, b, 1000), 1000 * nth);
    }
    p.now_ms += 999;                                /* not a whole eject_ms without */
    CHECK_U64(bal_time_out(&p, b, 1000), 5000);
    p.now_ms += 2001;                               /* two of five are taken off */
    CHECK_U64(bal_time_out(&p, b, 1000), 4000);
    p.now_ms += 1001;
    CHECK_U64(bal_time_out(&p, b, 1000), 4000);
    p.now_ms += 3600000;
    CHECK_U64(bal_time_out(&p, b, 1000), 1000);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Lets each of the first num fail in turn; answers how many are out then. */
static size_t bal_eject_first(sdc_balancer *b, size_t num, size_t failures)
{
    size_t out = 0;
    for (size_t i = 0; i < num; i++) {
        bal_outcomes(b, (int)i, failures, SDC_ERR_IO);
    }
    for (size_t i = 0; i < num; i++) {
        out += !bal_is_in(b, (int)i);
    }
    return out;
}

static size_t bal_num_ejected(size_t num, uint32_t max_percent, sdc_policy policy)
{
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, num);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = policy, .seed = 67, .eject_after = 2, .eject_max_percent = max_percent });
    size_t out = bal_eject_first(b, num, 2);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
    return out;
}

static void test_balancer_ejects_a_share_at_most(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        CHECK_INT(bal_num_ejected(20, 0, (sdc_policy)policy), 2);
        CHECK_INT(bal_num_ejected(29, 0, (sdc_policy)policy), 2);
        CHECK_INT(bal_num_ejected(20, 50, (sdc_policy)policy), 10);
        CHECK_INT(bal_num_ejected(10, 0, (sdc_policy)policy), 1);
        CHECK_INT(bal_num_ejected(9, 0, (sdc_policy)policy), 1);
        CHECK_INT(bal_num_ejected(3, 0, (sdc_policy)policy), 1);
        CHECK_INT(bal_num_ejected(2, 0, (sdc_policy)policy), 1);
        CHECK_INT(bal_num_ejected(1, 0, (sdc_policy)policy), 0);
    }
}

static void bal_expect_all_ejected(picks *p, sdc_balancer *b)
{
    (void)p;
    unsigned counts[4];
    char key[BAL_KEY];
    for (size_t i = 0; i < 400; i++) {
        picks_one(b, bal_key(key, i), SDC_ERR_IO);
    }
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < 4000; i++) {
        counts[picks_one(b, bal_key(key, i), SDC_AGAIN)]++;
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK_BETWEEN(counts[i], 800, 1200);
    }
}

static void test_balancer_all_ejected_are_used_anyway(void)
{
    bal_each_policy("a b c d", &(sdc_balancer_desc){ .seed = 71, .eject_after = 1,
                                                     .eject_max_percent = 100 },
                    bal_expect_all_ejected);
}

/* A list that shrinks takes room away from those that are out. */
static void test_balancer_ejected_of_a_list_that_shrinks(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 20);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 73, .eject_after = 1 });
        CHECK_INT(bal_eject_first(b, 2, 1), 2);
        p.num_items = 4;
        picks_show(&p);
        CHECK_BETWEEN(!bal_is_in(b, 0) + !bal_is_in(b, 1), 0, 1);
        p.num_items = 1;
        picks_show(&p);
        CHECK(bal_is_in(b, 0));
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

static void bal_expect_memory(picks *p, sdc_balancer *b)
{
    static const char *const tags[] = { "blue" };
    CHECK(bal_outcomes(b, 1, 2, SDC_ERR_IO));
    p->items[1].tags = tags;
    p->items[1].num_tags = 1;
    picks_show(p);
    CHECK(bal_outcomes(b, 1, 1, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 1));                        /* three in a row, an update between */
    picks_list(p, "a b=3~ c d e");
    CHECK(!bal_is_in(b, 1));
    p->now_ms += BAL_EJECT_MS - 1;
    picks_list(p, "b=2 c d e");
    CHECK(!bal_is_in(b, 1));
    p->now_ms += 1;
    CHECK(bal_is_in(b, 1));
}

static void test_balancer_update_keeps_ejections(void)
{
    bal_each_policy("a b c d", &(sdc_balancer_desc){ .seed = 79, .eject_after = 3 },
                    bal_expect_memory);
}

static void test_balancer_ejection_moves_only_its_own_keys(void)
{
    static int before[BAL_KEYS], after[BAL_KEYS];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 10);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = SDC_POLICY_HASHED, .eject_after = 1 });
    bal_map(b, before, BAL_KEYS);
    CHECK(bal_outcomes(b, 4, 1, SDC_ERR_IO));
    bal_map(b, after, BAL_KEYS);
    unsigned took[10] = { 0 };
    for (size_t i = 0; i < BAL_KEYS; i++) {
        CHECK(before[i] == 4 || after[i] == before[i]);
        took[after[i]] += before[i] == 4;
    }
    CHECK_INT(took[4], 0);
    for (size_t i = 0; i < 10; i++) {
        CHECK(i == 4 || took[i] > 700);             /* 10,000 of its keys over the other nine */
    }
    p.now_ms += BAL_EJECT_MS;
    bal_map(b, after, BAL_KEYS);
    CHECK_INT(bal_moved(before, after, BAL_KEYS), 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What the one that is out had, the others get alike. */
static void bal_expect_rest_alike(picks *p, sdc_balancer *b)
{
    (void)p;
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    unsigned counts[5];
    bal_count_keys(b, 20000, counts, 5);
    CHECK_INT(counts[0], 0);
    for (size_t i = 1; i < 5; i++) {
        CHECK_BETWEEN(counts[i], 4250, 5750);
    }
}

static void test_balancer_ejected_calls_are_shared(void)
{
    bal_each_policy("a b c d e", &(sdc_balancer_desc){ .seed = 83, .eject_after = 1 },
                    bal_expect_rest_alike);
}

/* Many are out, each until a time of its own: each is back when that has come, and once. */
static void test_balancer_many_ejected_come_back(void)
{
    enum { ALL = 100, OUT = 40, APART_MS = 100 };
    static sdc_pick held[ALL];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, ALL);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .seed = 1, .eject_after = 1, .eject_max_percent = 50 });
    for (size_t i = 0; i < ALL; i++) {
        picks_hold(b, NULL, &held[i]);
    }
    uint64_t due_ms = p.now_ms + BAL_EJECT_MS;
    for (size_t i = 0; i < ALL; i++) {
        sdc_balancer_done(b, &held[i], i < OUT ? SDC_ERR_IO : SDC_OK);
        p.now_ms += i < OUT ? APART_MS : 0;
    }
    CHECK_INT(picks_log_count(&p, "ejected="), OUT);
    for (size_t i = 0; i < OUT; i++) {
        unsigned counts[ALL];
        picks_log_clear(&p);
        p.now_ms = due_ms - 1;
        picks_count(b, NULL, ALL, counts, ALL);
        CHECK_INT(picks_log_count(&p, "action=back"), 0);
        p.now_ms = due_ms;
        picks_count(b, NULL, ALL, counts, ALL);
        CHECK_INT(picks_log_count(&p, "action=back"), 1);
        due_ms += APART_MS;
    }
    p.num_looks = 0;
    picks_one(b, NULL, SDC_OK);
    CHECK_INT(p.num_looks, 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* However long nobody looks, an ejection is over when its time is. */
static void test_balancer_ejection_ends_unseen(void)
{
    static const uint64_t gaps_ms[] = { BAL_EJECT_MS, 86400000, 0x7fffffff, 0x80000000, 0x80010000,
                                        0xc0000000, 0xffffffff, 0x100000000, 0x180010000,
                                        3456000000000 };
    for (size_t i = 0; i < sizeof gaps_ms / sizeof gaps_ms[0]; i++) {
        test_note("%llu ms", (unsigned long long)gaps_ms[i]);
        picks p;
        picks_init(&p);
        picks_list(&p, "a b c");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .eject_after = 1 });
        CHECK(bal_outcomes(b, 1, 1, SDC_ERR_IO));
        CHECK(!bal_is_in(b, 1));
        p.now_ms += gaps_ms[i];
        CHECK(bal_is_in(b, 1));
        CHECK(bal_outcomes(b, 2, 1, SDC_ERR_IO));   /* and the next one takes its time */
        p.now_ms += BAL_EJECT_MS - 1;
        CHECK(!bal_is_in(b, 2));
        p.now_ms += 1;
        CHECK(bal_is_in(b, 2));
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* Failures of calls that were under way when it was left out are not held against it afterwards. */
static void test_balancer_ejected_begins_anew(void)
{
    sdc_pick held[12];
    picks p;
    picks_init(&p);
    picks_list(&p, "a b");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .eject_after = 3 });
    for (size_t i = 0; i < 12; i++) {
        picks_hold(b, NULL, &held[i]);
    }
    for (size_t i = 0; i < 12; i++) {
        const picks_end *end = (const picks_end *)held[i].endpoint;
        sdc_balancer_done(b, &held[i], end->number == 0 ? SDC_ERR_IO : SDC_OK);
    }
    CHECK(!bal_is_in(b, 0));
    p.now_ms += BAL_EJECT_MS;
    CHECK(bal_outcomes(b, 0, 2, SDC_ERR_IO));
    CHECK(bal_is_in(b, 0));
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 0));
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What has left the list is not left out of it as well. */
static void bal_expect_no_late_ejection(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    char key[BAL_KEY];
    for (size_t i = 0; picks_hold(b, bal_key(key, i), &pick) != 0; i++) {
        sdc_balancer_done(b, &pick, SDC_OK);
    }
    picks_list(p, "b c d");
    sdc_balancer_done(b, &pick, SDC_ERR_IO);
    CHECK_STR(p->log, "");
    p->num_looks = 0;
    picks_one(b, NULL, SDC_OK);
    CHECK_INT(p->num_looks, 0);
    CHECK(bal_outcomes(b, 1, 1, SDC_ERR_IO));       /* there is room for another one */
    CHECK(!bal_is_in(b, 1));
}

static void test_balancer_gone_is_not_ejected(void)
{
    bal_each_policy("a b c d", &(sdc_balancer_desc){ .seed = 1, .eject_after = 1 },
                    bal_expect_no_late_ejection);
}

/* ---- subsets --------------------------------------------------------------------------------- */

enum { BAL_SUBSET_OF = 100 };

/* Marks what is used, and counts it. */
static size_t bal_subset(sdc_balancer *b, bool *is_used, size_t max)
{
    char key[BAL_KEY];
    size_t num = 0;
    memset(is_used, 0, max * sizeof *is_used);
    for (size_t i = 0; i < 40 * max; i++) {
        int number = picks_one(b, bal_key(key, i), SDC_AGAIN);
        if (number >= 0 && (size_t)number < max) {
            num += !is_used[number];
            is_used[number] = true;
        }
    }
    return num;
}

static size_t bal_subset_moved(const bool *x, const bool *y, size_t max)
{
    size_t moved = 0;
    for (size_t i = 0; i < max; i++) {
        moved += x[i] && !y[i];
    }
    return moved;
}

static void bal_check_subset(sdc_policy policy)
{
    bool first[BAL_SUBSET_OF + 1], now[BAL_SUBSET_OF + 1];
    sdc_balancer_desc desc = { .policy = policy, .seed = 89, .subset_size = 10 };
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, BAL_SUBSET_OF);
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &desc);
    CHECK_INT(bal_subset(b, first, BAL_SUBSET_OF + 1), 10);
    sdc_balancer *again = picks_balancer(&p, &desc);
    CHECK_INT(bal_subset(again, now, BAL_SUBSET_OF + 1), 10);
    CHECK_INT(bal_subset_moved(first, now, BAL_SUBSET_OF + 1), 0);
    sdc_balancer_destroy(again);
    picks_numbered(&p, 0, BAL_SUBSET_OF + 1);
    picks_show(&p);
    CHECK_INT(bal_subset(b, now, BAL_SUBSET_OF + 1), 10);
    CHECK_BETWEEN(bal_subset_moved(first, now, BAL_SUBSET_OF + 1), 0, 1);
    for (size_t i = 0; i < BAL_SUBSET_OF; i += 9) {
        picks_numbered(&p, 0, BAL_SUBSET_OF);
        picks_remove(&p, i);
        picks_show(&p);
        CHECK_INT(bal_subset(b, now, BAL_SUBSET_OF + 1), 10);
        CHECK_INT(bal_subset_moved(first, now, BAL_SUBSET_OF + 1), first[i] ? 1 : 0);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_subset_is_stable(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        bal_check_subset((sdc_policy)policy);
    }
}

static void test_balancer_subset_sizes(void)
{
    static const uint32_t sizes[] = { 1, 2, 9, 10, 11, UINT32_MAX };
    bool used[10];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        test_note("subset of %u", (unsigned)sizes[i]);
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 10);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1,
                                                                   .subset_size = sizes[i] });
        CHECK_INT(bal_subset(b, used, 10), sizes[i] < 10 ? sizes[i] : 10);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* Over many processes each instance is used by about as many. */
static void test_balancer_subsets_of_processes_differ(void)
{
    enum { PROCESSES = 500, SIZE = 5, OF = 25 };
    unsigned users[OF] = { 0 };
    for (size_t process = 1; process <= PROCESSES; process++) {
        bool used[OF];
        picks p;
        picks_init_seeded(&p, process, 0);
        picks_numbered(&p, 0, OF);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .subset_size = SIZE });
        CHECK_INT(bal_subset(b, used, OF), SIZE);
        for (size_t i = 0; i < OF; i++) {
            users[i] += used[i];
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
    for (size_t i = 0; i < OF; i++) {
        CHECK_BETWEEN(users[i], 60, 145);           /* 100 on average, deviation 9 */
    }
}

static void test_balancer_subset_of_each_zone(void)
{
    bool used[40];
    picks p;
    picks_init(&p);
    picks_numbered(&p, 0, 40);
    for (size_t i = 0; i < 40; i++) {
        p.items[i].zone = i % 2 == 0 ? "x" : "y";
    }
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .zone = "x",
                                                               .subset_size = 4 });
    CHECK_INT(bal_subset(b, used, 40), 4);
    for (size_t i = 0; i < 40; i++) {
        CHECK(!used[i] || i % 2 == 0);
        p.items[i].weight = i % 2;
    }
    picks_show(&p);
    CHECK_INT(bal_subset(b, used, 40), 4);
    for (size_t i = 0; i < 40; i++) {
        CHECK(!used[i] || i % 2 == 1);
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* Critical ones are not picked while others are there, also where the seed ranks them first. */
static void test_balancer_subset_of_critical_ones(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        bool used[10], now[10];
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, 10);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 1, .subset_size = 2 });
        CHECK_INT(bal_subset(b, used, 10), 2);
        for (size_t i = 0; i < 10; i++) {
            p.items[i].weight = used[i] ? 0 : 1;
            p.items[i].status = used[i] ? SDC_STATUS_CRITICAL : SDC_STATUS_PASSING;
        }
        picks_show(&p);
        CHECK(bal_subset(b, now, 10) > 0);
        CHECK_INT(bal_subset_moved(used, now, 10), 2);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* ---- options together ------------------------------------------------------------------------ */

/* An instance that is out counts as not healthy in its zone: one of two are 50 of 70 %. */
static void test_balancer_ejection_and_zone(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        picks p;
        picks_init(&p);
        picks_list(&p, "a@x b@x c@y d@y");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 97, .zone = "x", .eject_after = 2,
            .eject_max_percent = 50 });
        CHECK(bal_outcomes(b, 1, 2, SDC_ERR_IO));
        unsigned counts[4];
        bal_count_keys(b, 20000, counts, 4);
        CHECK_INT(counts[1], 0);
        bal_check_permille(counts[0], 20000, 690, 740);
        CHECK(counts[2] > 2000 && counts[3] > 2000);
        CHECK(bal_outcomes(b, 0, 2, SDC_ERR_IO));
        bal_count_keys(b, 20000, counts, 4);
        CHECK_INT(counts[0] + counts[1], 0);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* The share that may be out is one of those that are used: one of ten, though ten of the list. */
static void test_balancer_ejection_and_subset(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        bool used[BAL_SUBSET_OF];
        picks p;
        picks_init(&p);
        picks_numbered(&p, 0, BAL_SUBSET_OF);
        picks_show(&p);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 1, .subset_size = 10, .eject_after = 1 });
        CHECK_INT(bal_subset(b, used, BAL_SUBSET_OF), 10);
        size_t out = 0;
        for (size_t i = 0; i < BAL_SUBSET_OF; i++) {
            CHECK(!used[i] || bal_outcomes(b, (int)i, 1, SDC_ERR_IO));
        }
        for (size_t i = 0; i < BAL_SUBSET_OF; i++) {
            out += used[i] && !bal_is_in(b, (int)i);
        }
        CHECK_INT(out, 1);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* How healthy a zone is does not go by those of it that are used: 5 of 10 are 50 of 70 %. */
static void test_balancer_zone_and_subset(void)
{
    picks p;
    picks_init(&p);
    bal_zones(&p, 5, 8);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = SDC_POLICY_RANDOM, .seed = 1, .zone = "x", .subset_size = 3 });
    CHECK_BETWEEN(bal_share_home(&p, b), 694, 734);
    bool used[18];
    CHECK_INT(bal_subset(b, used, 18), 6);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* What a process uses of its zone is out: calls leave the zone, though others of it are well. */
static void test_balancer_ejected_subset_of_a_zone(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        bool used[18];
        picks p;
        picks_init(&p);
        bal_zones(&p, 10, 8);
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
            .policy = (sdc_policy)policy, .seed = 1, .zone = "x", .subset_size = 2,
            .eject_after = 1, .eject_max_percent = 50, .zone_min_percent = 1 });
        CHECK_INT(bal_subset(b, used, 18), 2);
        for (size_t i = 0; i < 10; i++) {
            CHECK(!used[i] || bal_outcomes(b, (int)i, 1, SDC_ERR_IO));
        }
        CHECK_INT(bal_subset(b, used, 18), 2);
        for (size_t i = 0; i < 10; i++) {
            CHECK(!used[i]);
        }
        CHECK_HAS(p.log, "route=away usable=16/18");
        p.now_ms += BAL_EJECT_MS;
        CHECK_INT(bal_subset(b, used, 18), 2);
        for (size_t i = 10; i < 18; i++) {
            CHECK(!used[i]);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
}

/* All that a process uses is out, though others are well: there is nobody better to go to. */
static void bal_expect_whole_subset_out(picks *p, sdc_balancer *b)
{
    bool used[8], now[8];
    CHECK_INT(bal_subset(b, used, 8), 2);
    for (int i = 0; i < 8; i++) {
        CHECK(!used[i] || bal_outcomes(b, i, 1, SDC_ERR_IO));
    }
    CHECK_INT(bal_subset(b, now, 8), 2);
    CHECK_INT(bal_subset_moved(used, now, 8), 0);
    CHECK_HAS(p->log, "route=all usable=6/8");
    p->now_ms += BAL_EJECT_MS;
    CHECK_INT(bal_subset(b, now, 8), 2);
    CHECK_HAS(p->log, "route=home usable=8/8");
}

static void test_balancer_ejected_whole_subset(void)
{
    bal_each_policy("a b c d e f g h", &(sdc_balancer_desc){ .seed = 1, .subset_size = 2,
                                                             .eject_after = 1,
                                                             .eject_max_percent = 100 },
                    bal_expect_whole_subset_out);
}

static void bal_expect_panic_of_ejected(picks *p, sdc_balancer *b)
{
    (void)p;
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 0));
    CHECK(bal_outcomes(b, 1, 1, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 1));
    CHECK(bal_outcomes(b, 2, 1, SDC_ERR_IO));
    for (int i = 0; i < 5; i++) {                   /* one of five, and one that is critical */
        CHECK(bal_is_in(b, i));
    }
}

static void test_balancer_panic_uses_the_ejected(void)
{
    bal_each_policy("a b c d e!", &(sdc_balancer_desc){ .seed = 101, .eject_after = 1,
                                                        .eject_max_percent = 100,
                                                        .panic_percent = 40 },
                    bal_expect_panic_of_ejected);
}

/* The only one at home is out, so nobody is sent there meanwhile: when its time is over it is home
   again all the same. */
static void bal_expect_home_again(picks *p, sdc_balancer *b)
{
    unsigned counts[3];
    bal_count_keys(b, 100, counts, 3);
    CHECK_INT(counts[0], 100);
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    bal_count_keys(b, 100, counts, 3);
    CHECK_INT(counts[0], 0);
    p->now_ms += BAL_EJECT_MS;
    bal_count_keys(b, 100, counts, 3);
    CHECK_INT(counts[0], 100);
}

static void test_balancer_ejected_home_comes_back(void)
{
    bal_each_policy("a@x b@y c@y", &(sdc_balancer_desc){ .seed = 1, .zone = "x",
                                                         .eject_after = 1 },
                    bal_expect_home_again);
}

static void bal_expect_end_of_panic(picks *p, sdc_balancer *b)
{
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    CHECK(bal_outcomes(b, 1, 1, SDC_ERR_IO));
    CHECK(bal_is_in(b, 2));                         /* nobody is healthy: all are used */
    p->now_ms += BAL_EJECT_MS;
    unsigned counts[3];
    bal_count_keys(b, 1000, counts, 3);
    CHECK_INT(counts[2], 0);
    CHECK(counts[0] > 300 && counts[1] > 300);
}

static void test_balancer_panic_of_ejected_ends(void)
{
    bal_each_policy("a b c!", &(sdc_balancer_desc){ .seed = 1, .eject_after = 1,
                                                    .eject_max_percent = 100 },
                    bal_expect_end_of_panic);
}

/* One in another zone, whose time is over while nobody is sent there, is out no more. */
static void bal_expect_room(picks *p, sdc_balancer *b)
{
    CHECK(bal_outcomes(b, 2, 1, SDC_ERR_IO));
    picks_list(p, "a@x b@x c@y d@y");
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    CHECK(bal_is_in(b, 0));                         /* one of four is out already */
    p->now_ms += BAL_EJECT_MS;
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    CHECK(!bal_is_in(b, 0));
    sdc_pick pick;                                  /* the same where no pick comes between */
    char key[BAL_KEY];
    for (size_t i = 0; picks_hold(b, bal_key(key, i), &pick) != 1; i++) {
        sdc_balancer_done(b, &pick, SDC_AGAIN);
    }
    p->now_ms += BAL_EJECT_MS;
    sdc_balancer_done(b, &pick, SDC_ERR_IO);
    CHECK(!bal_is_in(b, 1));
    CHECK(bal_is_in(b, 0));
}

static void test_balancer_ejection_that_is_over_makes_room(void)
{
    bal_each_policy("a!@x b!@x c@y d@y", &(sdc_balancer_desc){ .seed = 1, .zone = "x",
                                                               .eject_after = 1 },
                    bal_expect_room);
}

/* Every option at once, while the list, health and outcomes change: something is picked always,
   and nothing without weight while there are more with one than can be out. */
static void bal_check_all_options(sdc_policy policy, uint64_t seed)
{
    picks p;
    picks_init(&p);
    uint64_t nth = seed * 1000000;
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = policy, .seed = seed, .zone = "x", .slow_start_ms = 3000, .eject_after = 2,
        .eject_ms = 500, .eject_max_percent = 40, .subset_size = 4 });
    size_t num_rounds = policy == SDC_POLICY_HASHED ? 8 : 40;   /* its lists take longest */
    for (size_t round = 0; round < num_rounds; round++) {
        size_t first = (size_t)(picks_mix(++nth) % 5);
        picks_numbered(&p, first, 1 + (size_t)(picks_mix(++nth) % 12));
        size_t healthy = 0;
        for (size_t i = 0; i < p.num_items; i++) {
            p.items[i].zone = picks_mix(++nth) % 2 == 0 ? "x" : "y";
            p.items[i].weight = (uint32_t)(picks_mix(++nth) % 4);
            healthy += p.items[i].weight != 0;
        }
        picks_show(&p);
        size_t out = p.num_items * 2 / 5 > 1 ? p.num_items * 2 / 5 : 1;
        for (size_t i = 0; i < 20; i++) {
            char key[BAL_KEY];
            sdc_pick pick;
            picks_hold(b, i % 2 == 0 ? NULL : bal_key(key, i), &pick);
            CHECK(healthy <= out || (pick.instance != NULL && pick.instance->weight > 0));
            sdc_balancer_done(b, &pick, picks_mix(++nth) % 3 == 0 ? SDC_ERR_IO : SDC_OK);
            p.now_ms += picks_mix(++nth) % 40;
        }
    }
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

static void test_balancer_all_options_at_once(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        for (uint64_t seed = 1; seed <= 5; seed++) {
            test_note("%s, seed %u", bal_policy_names[policy], (unsigned)seed);
            bal_check_all_options((sdc_policy)policy, seed);
        }
    }
}

/* ---- the log --------------------------------------------------------------------------------- */

/* Where picks go is said once for each change. */
static void test_balancer_log_tells_the_route(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a@x b@x c@y d@y");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .zone = "x",
                                                               .panic_percent = 30 });
    picks_one(b, NULL, SDC_OK);
    PICKS_LOG(&p, "");
    picks_list(&p, "a@x b!@x c@y d@y");
    PICKS_LOG(&p, "warn event=balancer service= route=overflow usable=3/4\n");
    picks_list(&p, "a@x b!@x c@y d@y e!@x");
    picks_one(b, NULL, SDC_OK);
    PICKS_LOG(&p, "");
    picks_list(&p, "a!@x b!@x c@y d@y");
    PICKS_LOG(&p, "warn event=balancer service= route=away usable=2/4\n");
    picks_list(&p, "a!@x b!@x c!@y d@y");
    PICKS_LOG(&p, "warn event=balancer service= route=all usable=1/4\n");
    picks_list(&p, "a!@x b!@x c!@y d!@y");
    PICKS_LOG(&p, "");
    picks_list(&p, "");
    PICKS_LOG(&p, "");
    picks_list(&p, "a!@x b!@x c!@y d!@y");
    PICKS_LOG(&p, "");
    picks_list(&p, "a@x b@x c@y d@y");
    PICKS_LOG(&p, "info event=balancer service= route=home usable=4/4\n");
    sdc_balancer_destroy(b);
    b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1, .zone = "z" });
    PICKS_LOG(&p, "warn event=balancer service= route=away usable=4/4\n");
    sdc_balancer_destroy(b);
    PICKS_LOG(&p, "");
    picks_deinit(&p);
}

/* Who was left out, why, and when it is used again; and where picks went meanwhile. */
static void test_balancer_log_tells_of_ejections(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a@x b@y");
    p.items[0].service = "web";
    p.items[1].service = "web";
    picks_show(&p);
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){
        .policy = SDC_POLICY_RANDOM, .seed = 1, .zone = "x", .eject_after = 2 });
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_IO));
    PICKS_LOG(&p, "");
    CHECK(bal_outcomes(b, 0, 1, SDC_ERR_TIMEOUT));
    PICKS_LOG(&p, "warn event=balancer service=web addr=a:80 ejected=no answer in time\n"
                  "warn event=balancer service=web route=away usable=1/2\n");
    p.now_ms += BAL_EJECT_MS - 1;
    picks_one(b, NULL, SDC_OK);
    PICKS_LOG(&p, "");
    p.now_ms += 1;
    picks_one(b, NULL, SDC_OK);
    PICKS_LOG(&p, "info event=balancer service=web addr=a:80 action=back\n"
                  "info event=balancer service=web route=home usable=2/2\n");
    picks_one(b, NULL, SDC_OK);
    CHECK(bal_outcomes(b, 0, 2, SDC_ERR_IO));
    picks_log_clear(&p);
    picks_list(&p, "b@x");                          /* what is gone does not come back */
    PICKS_LOG(&p, "info event=balancer service=web route=home usable=1/1\n");
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* ---- making one, memory ---------------------------------------------------------------------- */

static void bal_check_refusal(const sdc_balancer_desc *desc, const char *field)
{
    picks p;
    picks_init(&p);
    sdc_balancer *b = (sdc_balancer *)&p;
    sdc_error error = { .code = SDC_OK };
    CHECK_ERR(sdc_balancer_create(p.endpointer, desc, &b, &error), SDC_ERR_ARG);
    CHECK(b == NULL);
    CHECK_ERR(error.code, SDC_ERR_ARG);
    CHECK_HAS(error.message, field);
    b = (sdc_balancer *)&p;
    CHECK_ERR(sdc_balancer_create(p.endpointer, desc, &b, NULL), SDC_ERR_ARG);
    CHECK(b == NULL);
    picks_deinit(&p);
}

static void test_balancer_refuses_what_cannot_be(void)
{
    bal_check_refusal(&(sdc_balancer_desc){ .policy = (sdc_policy)BAL_POLICIES }, "policy");
    bal_check_refusal(&(sdc_balancer_desc){ .policy = (sdc_policy)1000 }, "policy");
    bal_check_refusal(&(sdc_balancer_desc){ .zone = "x", .zone_min_percent = 101 },
                      "zone_min_percent");
    bal_check_refusal(&(sdc_balancer_desc){ .panic_percent = 101 }, "panic_percent");
    bal_check_refusal(&(sdc_balancer_desc){ .eject_after = 1, .eject_max_percent = 101 },
                      "eject_max_percent");
    bal_check_refusal(&(sdc_balancer_desc){ .slow_start_ms = SDC_NEVER }, "slow_start_ms");
    bal_check_refusal(&(sdc_balancer_desc){ .eject_after = 1, .eject_ms = SDC_NEVER },
                      "eject_ms");
    /* what has no effect without another field is a mistake */
    bal_check_refusal(&(sdc_balancer_desc){ .zone_meta = "rack" }, "zone_meta");
    bal_check_refusal(&(sdc_balancer_desc){ .zone_min_percent = 50 }, "zone_min_percent");
    bal_check_refusal(&(sdc_balancer_desc){ .eject_ms = 1000 }, "eject_ms");
    bal_check_refusal(&(sdc_balancer_desc){ .eject_max_percent = 50 }, "eject_max_percent");
}

static void test_balancer_refuses_without_an_endpointer(void)
{
    sdc_error error = { .code = SDC_OK };
    sdc_balancer *b = (sdc_balancer *)&error;
    CHECK_ERR(sdc_balancer_create(NULL, NULL, &b, &error), SDC_ERR_ARG);
    CHECK(b == NULL);
    CHECK_HAS(error.message, "endpointer");
}

static void test_balancer_takes_what_can_be(void)
{
    static const sdc_balancer_desc descs[] = {
        { .seed = 0 },
        { .seed = UINT64_MAX, .zone = "", .zone_meta = "" },
        { .zone = "x", .zone_min_percent = 100, .panic_percent = 100 },
        { .slow_start_ms = SDC_NEVER - 1 },
        { .eject_after = UINT32_MAX, .eject_ms = SDC_NEVER - 1, .eject_max_percent = 100 },
        { .subset_size = UINT32_MAX },
    };
    for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
        test_note("desc %u", (unsigned)i);
        picks p;
        picks_init(&p);
        picks_list(&p, "a b");
        sdc_balancer *b = NULL;
        sdc_error error = { .code = SDC_ERR_USER };
        if (CHECK_ERR(sdc_balancer_create(p.endpointer, &descs[i], &b, &error), SDC_OK)) {
            CHECK_ERR(error.code, SDC_OK);
            CHECK(picks_one(b, NULL, SDC_OK) >= 0);
        }
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
    sdc_balancer_destroy(NULL);
}

static void test_balancer_several_on_one_endpointer(void)
{
    picks p;
    picks_init(&p);
    picks_list(&p, "a b c");
    sdc_balancer *b[BAL_POLICIES];
    for (size_t i = 0; i < BAL_POLICIES; i++) {
        b[i] = picks_balancer(&p, &(sdc_balancer_desc){ .policy = (sdc_policy)i });
    }
    CHECK_INT(p.num_open, 3);
    picks_list(&p, "b c d e");
    for (size_t i = 0; i < BAL_POLICIES; i++) {
        unsigned counts[5];
        bal_count_keys(b[i], 400, counts, 5);
        CHECK_INT(counts[0], 0);
        CHECK(counts[1] > 0 && counts[2] > 0 && counts[3] > 0 && counts[4] > 0);
    }
    for (size_t i = 0; i < BAL_POLICIES; i++) {
        sdc_balancer_destroy(b[i]);
        picks_list(&p, i % 2 == 0 ? "a" : "b c");
    }
    picks_deinit(&p);
}

static void bal_forget_a_pick(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    (void)p;
    picks_hold(b, NULL, &pick);
}

static void bal_forget_a_pick_of_one_that_goes(picks *p, sdc_balancer *b)
{
    bal_forget_a_pick(p, b);
    picks_list(p, "b");
}

static void bal_do_a_pick_twice(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    (void)p;
    picks_hold(b, NULL, &pick);
    sdc_pick copy = pick;
    sdc_balancer_done(b, &pick, SDC_OK);
    sdc_balancer_done(b, &copy, SDC_OK);
}

static void bal_do_a_pick_once(picks *p, sdc_balancer *b)
{
    sdc_pick pick;
    picks_hold(b, NULL, &pick);
    picks_list(p, "b");
    sdc_balancer_done(b, &pick, SDC_OK);
}

/* Whether destroying it is asserted after this. In a process of its own, which ends by it. */
static bool bal_is_asserted(sdc_policy policy, void (*fn)(picks *p, sdc_balancer *b))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL) {
            _exit(1);
        }
        picks p;
        picks_init(&p);
        picks_list(&p, "a");
        sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .seed = 1,
                                                                   .policy = policy });
        fn(&p, b);
        sdc_balancer_destroy(b);
        _exit(0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/* A pick that is not done, or more than once, would be a pick of nothing. */
static void test_balancer_destroy_with_an_open_pick_is_asserted(void)
{
#ifdef NDEBUG
    SKIP("asserts are taken out");
#endif
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        CHECK(bal_is_asserted((sdc_policy)policy, bal_forget_a_pick));
        CHECK(bal_is_asserted((sdc_policy)policy, bal_forget_a_pick_of_one_that_goes));
        CHECK(bal_is_asserted((sdc_policy)policy, bal_do_a_pick_twice));
        CHECK(!bal_is_asserted((sdc_policy)policy, bal_do_a_pick_once));
    }
}

static const sdc_balancer_desc bal_everything = {
    .zone = "x", .zone_min_percent = 90, .panic_percent = 20, .slow_start_ms = 5000,
    .eject_after = 2, .eject_ms = 100, .eject_max_percent = 50, .subset_size = 5
};

static void bal_expect_no_allocation(picks *p, sdc_balancer *b)
{
    picks_list(p, "a=5@x b=2@x c@y d@y e!@x f=3 g=2@x h@x i");
    uint64_t num_calls = p->memory.num_calls;
    uint64_t num_frees = p->memory.num_frees;
    char key[BAL_KEY];
    for (size_t i = 0; i < 5000; i++) {
        picks_one(b, i % 2 == 0 ? bal_key(key, i) : NULL, i % 3 == 0 ? SDC_ERR_IO : SDC_OK);
        p->now_ms += 3;
    }
    CHECK_U64(p->memory.num_calls, num_calls);
    CHECK_U64(p->memory.num_frees, num_frees);
}

static void test_balancer_picks_allocate_nothing(void)
{
    bal_each_policy("a@x b c", &(sdc_balancer_desc){ .seed = 1 }, bal_expect_no_allocation);
    bal_each_policy("a@x b c", &bal_everything, bal_expect_no_allocation);
}

static void test_balancer_create_without_memory(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        test_note("%s", bal_policy_names[policy]);
        picks p;
        picks_init(&p);
        picks_list(&p, "a=5@x b=2@x c@y d@y");
        sdc_balancer_desc desc = bal_everything;
        desc.policy = (sdc_policy)policy;
        sdc_err err = SDC_ERR_NOMEM;
        for (uint64_t nth = 1; err == SDC_ERR_NOMEM && nth < 100; nth++) {
            size_t live = p.memory.num_live;
            sdc_balancer *b = (sdc_balancer *)&p;
            sdc_error error = { .code = SDC_OK };
            fault_alloc_fail(&p.memory, nth, true);
            err = sdc_balancer_create(p.endpointer, &desc, &b, &error);
            fault_alloc_fail(&p.memory, 0, false);
            CHECK_ERR(error.code, err);
            CHECK((b == NULL) == (err != SDC_OK));
            sdc_balancer_destroy(b);
            CHECK_INT(p.memory.num_live, live);
        }
        CHECK_ERR(err, SDC_OK);
        picks_deinit(&p);
    }
}

static uint64_t bal_nth;            /* the allocation that is to fail */

static void bal_change_the_list(picks *p)
{
    picks_list(p, "b@x");
    fault_alloc_fail(&p->memory, bal_nth, true);
}

/* The list changes while a balancer is made, which finds no memory for the new one: it is refused,
   or goes by the new list. */
static void test_balancer_create_while_the_list_changes(void)
{
    sdc_err err = SDC_ERR_NOMEM;
    for (uint64_t nth = 1; err == SDC_ERR_NOMEM && nth < 100; nth++) {
        test_note("allocation %u", (unsigned)nth);
        picks p;
        picks_init(&p);
        picks_list(&p, "a@x b@x");
        sdc_balancer *b = (sdc_balancer *)&p;
        p.on_log = bal_change_the_list;             /* that calls leave the zone */
        bal_nth = nth;
        err = sdc_balancer_create(p.endpointer, &(sdc_balancer_desc){ .seed = 1, .zone = "z" },
                                  &b, NULL);
        CHECK(p.on_log == NULL);
        fault_alloc_fail(&p.memory, 0, false);
        CHECK_INT(p.num_open, 1);
        CHECK(err == SDC_OK || err == SDC_ERR_NOMEM);
        CHECK((b == NULL) == (err != SDC_OK));
        CHECK(b == NULL || picks_one(b, NULL, SDC_OK) == 1);
        CHECK(b != NULL || nth < 99);
        sdc_balancer_destroy(b);
        picks_deinit(&p);
    }
    CHECK_ERR(err, SDC_OK);
}

/* With another tag, or another status that is healthy, no calls move: the table of keys is not made
   anew, which takes more memory than all the rest. */
static void test_balancer_update_keeps_its_orders(void)
{
    enum { TABLE_BYTES = 65537 * 4 };
    static const char *const tags[] = { "blue" };
    picks p;
    picks_init(&p);
    picks_list(&p, "a=2 b c");
    sdc_balancer *b = picks_balancer(&p, &(sdc_balancer_desc){ .policy = SDC_POLICY_HASHED });
    static int before[2000], after[2000];
    bal_map(b, before, 2000);
    p.items[0].tags = tags;
    p.items[0].num_tags = 1;
    p.items[1].status = SDC_STATUS_WARNING;
    size_t live = p.memory.live_bytes;
    p.memory.peak_bytes = live;
    picks_show(&p);
    CHECK_BETWEEN(p.memory.peak_bytes - live, 1, TABLE_BYTES / 4);
    bal_map(b, after, 2000);
    CHECK_INT(bal_moved(before, after, 2000), 0);
    p.items[0].weight = 1;                          /* this one is worked out */
    p.memory.peak_bytes = live;
    picks_show(&p);
    CHECK_BETWEEN(p.memory.peak_bytes - live, TABLE_BYTES, 20 * TABLE_BYTES);
    bal_map(b, after, 2000);
    CHECK(bal_moved(before, after, 2000) > 0);
    sdc_balancer_destroy(b);
    picks_deinit(&p);
}

/* An update that finds no memory leaves picks from what is known and open. */
static void test_balancer_update_without_memory(void)
{
    for (size_t policy = 0; policy < BAL_POLICIES; policy++) {
        uint64_t step = policy == SDC_POLICY_HASHED ? 3 : 1;
        for (uint64_t nth = 1; nth < 60; nth += step) {
            test_note("%s, allocation %u", bal_policy_names[policy], (unsigned)nth);
            picks p;
            picks_init(&p);
            picks_list(&p, "a b=5 c");
            sdc_balancer_desc desc = bal_everything;
            desc.policy = (sdc_policy)policy;
            sdc_balancer *b = picks_balancer(&p, &desc);
            picks_list(&p, "a b=5 c");
            picks_add(&p, "d");
            picks_remove(&p, 0);
            fault_alloc_fail(&p.memory, nth, true);
            sdc_err err = sdc_cache_update(p.cache, p.items, p.num_items, 9, p.now_ms);
            char key[BAL_KEY];
            for (size_t i = 0; i < 50; i++) {
                CHECK(picks_one(b, bal_key(key, i), SDC_OK) >= 0);
            }
            bool is_reached = p.memory.num_failed > 0;
            fault_alloc_fail(&p.memory, 0, false);
            CHECK(err == SDC_OK || err == SDC_ERR_NOMEM);
            unsigned counts[5];
            p.now_ms += 200;                        /* what the cache has taken is made up for */
            picks_one(b, NULL, SDC_OK);
            bal_count_keys(b, 2000, counts, 5);
            CHECK(err != SDC_OK || (counts[0] == 0 && counts[3] > 0));
            picks_list(&p, "b c d e");
            bal_count_keys(b, 2000, counts, 5);
            CHECK_INT(counts[0], 0);
            CHECK(counts[1] > 0 && counts[2] > 0 && counts[3] > 0 && counts[4] > 0);
            sdc_balancer_destroy(b);
            picks_deinit(&p);
            if (!is_reached) {
                break;
            }
        }
    }
}

static const test_case cases_balancer[] = {
    TEST(test_balancer_round_robin_gives_each_the_same),
    TEST(test_balancer_round_robin_ignores_weights),
    TEST(test_beat_xrr0),
    TEST(test_balancer_round_robin_starts_differ),
    TEST(test_balancer_updates_do_not_favour_the_first),
    TEST(test_balancer_turns_go_on_while_one_flaps),
    TEST(test_balancer_round_robin_of_threads_is_even),
    TEST(test_balancer_random_is_even),
    TEST(test_beat_xrand),
    TEST(test_balancer_threads_do_not_go_in_step),
    TEST(test_balancer_weighted_is_smooth),
    TEST(test_balancer_weighted_goes_by_ratios),
    TEST(test_balancer_weights_of_twins_add_up),
    TEST(test_balancer_weighted_equals_the_plain_rule),
    TEST(test_balancer_weights_beyond_the_order_are_scaled),
    TEST(test_balancer_weights_of_many_are_scaled),
    TEST(test_balancer_weighted_largest_sums),
    TEST(test_balancer_weighted_of_70000),
    TEST(test_balancer_weights_that_change_count),
    TEST(test_balancer_least_loaded_keeps_level),
    TEST(test_balancer_least_loaded_drains_the_busy),
    TEST(test_balancer_least_loaded_goes_by_weight),
    TEST(test_balancer_least_loaded_when_idle),
    TEST(test_balancer_update_keeps_what_is_in_flight),
    TEST(test_balancer_in_flight_moves_with_its_endpoint),
    TEST(test_balancer_in_flight_follows_its_instance),
    TEST(test_balancer_in_flight_ends_in_a_shard_that_is_behind),
    TEST(test_balancer_hashed_keeps_to_its_key),
    TEST(test_balancer_hashed_agrees_across_processes),
    TEST(test_balancer_hashed_seeds_differ),
    TEST(test_balancer_hashed_moves_one_share),
    TEST(test_balancer_hashed_spreads_keys),
    TEST(test_balancer_hashed_goes_by_weight),
    TEST(test_balancer_hashed_by_extreme_weights),
    TEST(test_balancer_hashed_without_a_key_goes_anywhere),
    TEST(test_balancer_other_policies_ignore_the_key),
    TEST(test_balancer_all_follows_from_the_seed),
    TEST(test_balancer_weight_0_is_not_picked),
    TEST(test_balancer_critical_is_not_picked_whatever_its_weight),
    TEST(test_72_all_weights_zero_are_picked_alike),
    TEST(test_balancer_weights_that_turn_0),
    TEST(test_balancer_nothing_to_pick),
    TEST(test_balancer_done_zeroes_its_pick),
    TEST(test_balancer_outlives_its_endpointer),
    TEST(test_balancer_after_invalidation_answers_the_outage),
    TEST(test_balancer_done_on_another_thread),
    TEST(test_balancer_zone_overflows_gradually),
    TEST(test_balancer_zone_min_percent),
    TEST(test_balancer_zone_with_nobody_elsewhere),
    TEST(test_balancer_zone_nobody_is_in),
    TEST(test_balancer_zone_of_a_meta_key),
    TEST(test_balancer_copies_its_texts),
    TEST(test_balancer_zone_that_overflows_keeps_keys),
    TEST(test_balancer_zone_that_overflows_moves_no_other_keys),
    TEST(test_balancer_panic_uses_all),
    TEST(test_balancer_panic_begins_below_its_limit),
    TEST(test_balancer_panic_is_off),
    TEST(test_balancer_panic_leaves_out_maintenance),
    TEST(test_balancer_slow_start_grows_with_age),
    TEST(test_balancer_slow_start_again_after_return),
    TEST(test_balancer_slow_start_of_all),
    TEST(test_balancer_slow_start_keeps_keys),
    TEST(test_balancer_slow_start_ends_for_all),
    TEST(test_balancer_ejects_after_failures_in_a_row),
    TEST(test_balancer_ejection_by_outcome),
    TEST(test_balancer_ejection_any_error_is_a_failure),
    TEST(test_balancer_ejection_is_off),
    TEST(test_balancer_ejection_grows_up_to_ten_times),
    TEST(test_balancer_ejection_is_forgiven),
    TEST(test_balancer_ejects_a_share_at_most),
    TEST(test_balancer_all_ejected_are_used_anyway),
    TEST(test_balancer_ejected_of_a_list_that_shrinks),
    TEST(test_balancer_update_keeps_ejections),
    TEST(test_balancer_ejection_moves_only_its_own_keys),
    TEST(test_balancer_ejected_calls_are_shared),
    TEST(test_balancer_many_ejected_come_back),
    TEST(test_balancer_gone_is_not_ejected),
    TEST(test_balancer_ejected_begins_anew),
    TEST(test_balancer_ejection_ends_unseen),
    TEST(test_balancer_subset_is_stable),
    TEST(test_balancer_subset_sizes),
    TEST(test_balancer_subsets_of_processes_differ),
    TEST(test_balancer_subset_of_each_zone),
    TEST(test_balancer_subset_of_critical_ones),
    TEST(test_balancer_ejection_and_zone),
    TEST(test_balancer_ejection_and_subset),
    TEST(test_balancer_zone_and_subset),
    TEST(test_balancer_ejected_subset_of_a_zone),
    TEST(test_balancer_ejected_whole_subset),
    TEST(test_balancer_panic_uses_the_ejected),
    TEST(test_balancer_ejected_home_comes_back),
    TEST(test_balancer_panic_of_ejected_ends),
    TEST(test_balancer_ejection_that_is_over_makes_room),
    TEST(test_balancer_all_options_at_once),
    TEST(test_balancer_log_tells_the_route),
    TEST(test_balancer_log_tells_of_ejections),
    TEST(test_balancer_refuses_what_cannot_be),
    TEST(test_balancer_refuses_without_an_endpointer),
    TEST(test_balancer_takes_what_can_be),
    TEST(test_balancer_several_on_one_endpointer),
    TEST(test_balancer_destroy_with_an_open_pick_is_asserted),
    TEST(test_balancer_picks_allocate_nothing),
    TEST(test_balancer_create_without_memory),
    TEST(test_balancer_create_while_the_list_changes),
    TEST(test_balancer_update_keeps_its_orders),
    TEST(test_balancer_update_without_memory),
};
