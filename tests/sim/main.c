/* The simulator's command line. See sim.h.

     sim --seed N [--trace]                one story, and all that happens in it
     sim [--from N] [--jobs J] SEEDS       so many, on J cores; figures at the end
     sim --tap SEEDS                       the same as a test program

   Built with SIM_BREAKS, on the header that break.sh makes:
     sim_breaks                            as a test program: each rule broken, until a seed notices
     sim_breaks --break N --seed M --trace one of these stories

   Stories run in children: one that crashes or hangs is a failing seed like others. */
#include "../support/test.h"
#include "sim.h"
#include "story.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_JOBS = 64, SEED_SECONDS = 30, SHOWN_FAILURES = 20, BREAK_SEEDS = 300, WHOLE_SEEDS = 10 };

#ifdef SIM_BREAKS
extern int sdci_broken;
extern const char *const sdci_rules[];
#endif

sim_report sim_now;

/* ---- the verdict ----------------------------------------------------------------------------- */

void sim_fail(uint64_t now_ms, const char *format, ...)
{
    va_list args;
    char line[sizeof sim_now.text];
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    sim_trace(now_ms, "FAILED: %s", line);
    if (sim_now.text[0] == '\0') {
        memcpy(sim_now.text, line, sizeof line);
        sim_now.at_ms = now_ms;
    }
}

/* The world's clock does not start at 0; its traces and these show the same time. */
void sim_trace(uint64_t now_ms, const char *format, ...)
{
    va_list args;
    if (!sim_now.is_traced) {
        return;
    }
    printf("%10llu  ", (unsigned long long)(now_ms - 1000000));
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

const char *sim_fault_name(sim_fault fault)
{
    static const char *const names[NUM_FAULTS] = {
        "kill", "term", "black hole", "half open", "reset", "refuse", "pause", "slow", "drip",
        "split", "no leader", "restore", "acl deny", "acl hide", "acl part", "rate limit",
        "connection limit", "silent limit", "write timeout", "proxy timeout", "stuck index",
        "frozen view", "no block", "loose tags", "global index", "follower", "index zero",
        "no index", "index jump", "false empty", "unwelcome", "meddle",
        "resolver", "no memory", "asleep",
        "noise", "cut head", "cut body", "cut last", "reset in answer", "stall", "silence",
        "delay", "garbage", "bad json", "bad shape", "500", "html", "redirect", "forgotten",
        "close after", "false empty at 0"
    };
    return names[fault];
}

/* ---- many stories ---------------------------------------------------------------------------- */

typedef struct shared {             /* between the children                                     */
    uint64_t next, end;             /* seeds                                                    */
    uint64_t running[MAX_JOBS];     /* seed of each child                                       */
    uint64_t done, failed, exchanges, events, virtual_ms;
    uint64_t hits[NUM_FAULTS], stories_hit[NUM_FAULTS];
    uint32_t stops;
    uint32_t cpu_us[];              /* of each seed                                             */
} shared;

typedef struct options {
    uint64_t seed, from, seeds;
    uint32_t jobs;
    int      rule;                  /* the broken one, 0 none                                   */
    bool     has_seed, is_traced, is_tap, ends_at_first;
    const char *program;
} options;

static uint64_t cpu_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void print_failure(const options *o, uint64_t seed, const char *what, uint64_t at_ms)
{
    char rule[24] = "";
    if (o->rule != 0) {
        (void)snprintf(rule, sizeof rule, " --break %d", o->rule);
    }
    printf("seed %llu: invariant: %s, at %llu ms; replay: %s%s --seed %llu --trace\n",
           (unsigned long long)seed, what, (unsigned long long)at_ms, o->program, rule,
           (unsigned long long)seed);
    fflush(stdout);
}

static void add(uint64_t *to, uint64_t n)
{
    (void)__atomic_add_fetch(to, n, __ATOMIC_RELAXED);
}

static void count_story(shared *sh)
{
    add(&sh->done, 1);
    add(&sh->exchanges, sim_now.exchanges);
    add(&sh->events, sim_now.events);
    add(&sh->virtual_ms, sim_now.virtual_ms);
    for (int i = 0; i < NUM_FAULTS; i++) {
        add(&sh->hits[i], sim_now.hits[i]);
        add(&sh->stories_hit[i], sim_now.hits[i] > 0 ? 1 : 0);
    }
}

/* Ends with the parent, however that ends. */
static void child(const options *o, shared *sh, uint32_t nth, pid_t parent)
{
    for (;;) {
        uint64_t seed = __atomic_fetch_add(&sh->next, 1, __ATOMIC_RELAXED);
        if (seed >= sh->end || __atomic_load_n(&sh->stops, __ATOMIC_RELAXED) != 0 ||
            getppid() != parent) {
            break;
        }
        sh->running[nth] = seed;
        alarm(SEED_SECONDS);
        uint64_t before = cpu_now_us();
        story_run(seed, false);
        sh->cpu_us[seed - o->from] = (uint32_t)(cpu_now_us() - before);
        count_story(sh);
        if (sim_has_failed()) {
            uint64_t failed = __atomic_add_fetch(&sh->failed, 1, __ATOMIC_RELAXED);
            if (failed <= SHOWN_FAILURES) {
                print_failure(o, seed, sim_now.text, sim_now.at_ms - 1000000);
            }
            if (o->ends_at_first || failed >= SHOWN_FAILURES) {
                __atomic_store_n(&sh->stops, 1, __ATOMIC_RELAXED);
            }
        }
    }
    fflush(stdout);
    _exit(0);
}

static pid_t start_child(const options *o, shared *sh, uint32_t nth)
{
    pid_t parent = getpid();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        child(o, sh, nth, parent);
    }
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    return pid;
}

/* A child that died takes its seed with it, and another one goes on. */
static bool bury(const options *o, shared *sh, uint32_t nth, int status)
{
    char what[60];
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return false;
    }
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    (void)snprintf(what, sizeof what, number == SIGALRM ? "no end within %d s of real time"
                                                        : "died by signal %d",
                   number == SIGALRM ? SEED_SECONDS : number);
    print_failure(o, sh->running[nth], what, 0);
    add(&sh->done, 1);
    uint64_t failed = __atomic_add_fetch(&sh->failed, 1, __ATOMIC_RELAXED);
    if (o->ends_at_first || failed >= SHOWN_FAILURES) {
        sh->stops = 1;
    }
    return sh->stops == 0;
}

static void run_children(const options *o, shared *sh)
{
    pid_t pids[MAX_JOBS];
    uint32_t left = o->jobs;
    for (uint32_t i = 0; i < o->jobs; i++) {
        pids[i] = start_child(o, sh, i);
    }
    while (left > 0) {
        int status = 0;
        pid_t pid = wait(&status);
        if (pid < 0) {
            return;
        }
        for (uint32_t i = 0; i < o->jobs; i++) {
            if (pids[i] != pid) {
                continue;
            }
            pids[i] = -1;
            left--;
            if (bury(o, sh, i, status)) {
                pids[i] = start_child(o, sh, i);
                left++;
            }
        }
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

static void print_figures(shared *sh, double seconds)
{
    uint64_t n = sh->done > 0 ? sh->done : 1;
    qsort(sh->cpu_us, n, sizeof sh->cpu_us[0], compare);
    printf("%llu stories in %.1f s, %.0f a second; CPU of one: p50 %.1f ms, p99 %.1f ms\n",
           (unsigned long long)sh->done, seconds, (double)sh->done / seconds,
           sh->cpu_us[n / 2] / 1000.0, sh->cpu_us[n * 99 / 100] / 1000.0);
    printf("a story: %.0f exchanges, %.0f events, %.1f virtual hours\n",
           (double)sh->exchanges / (double)n, (double)sh->events / (double)n,
           (double)sh->virtual_ms / (double)n / 3600000);
    for (int i = 0; i < NUM_FAULTS; i++) {
        if (i == FAULT_NOISE) {
            continue;               /* counted by its kinds                                     */
        }
        printf("  %-18s %10llu hits in %llu stories\n", sim_fault_name((sim_fault)i),
               (unsigned long long)sh->hits[i], (unsigned long long)sh->stories_hit[i]);
    }
}

static shared *run_seeds(const options *o)
{
    size_t size = sizeof(shared) + (o->seeds + 1) * sizeof(uint32_t);
    shared *sh = (shared *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                                -1, 0);
    if (sh == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    sh->next = o->from;
    sh->end = o->from + o->seeds;
    run_children(o, sh);
    return sh;
}

static int run_many(const options *o)
{
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    shared *sh = run_seeds(o);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    if (o->is_tap) {
        printf("%llu passed, %llu failed, 0 skipped\n",
               (unsigned long long)(sh->done - sh->failed), (unsigned long long)sh->failed);
    } else {
        print_figures(sh, (double)(ended.tv_sec - began.tv_sec) +
                              (double)(ended.tv_nsec - began.tv_nsec) / 1e9 + 1e-6);
    }
    return sh->failed > 0 ? 1 : 0;
}

/* ---- broken rules ---------------------------------------------------------------------------- */

#ifdef SIM_BREAKS
/* Whether the stories tell the header with this rule broken from a whole one. */
static bool is_noticed(const options *given, int rule)
{
    options o = *given;
    o.rule = rule;
    o.seeds = rule != 0 ? BREAK_SEEDS : WHOLE_SEEDS;
    o.ends_at_first = true;
    sdci_broken = rule;
    shared *sh = run_seeds(&o);
    bool has_failed = sh->failed > 0;
    if (rule != 0) {
        printf("%s %d: %s: %s after %llu stories\n", has_failed ? "ok" : "FAILED", rule,
               sdci_rules[rule - 1], has_failed ? "noticed" : "not noticed",
               (unsigned long long)sh->done);
    }
    return has_failed;
}

static int run_breaks(const options *o)
{
    int passed = is_noticed(o, 0) ? 0 : 1;
    int failed = 1 - passed;
    for (int rule = 1; sdci_rules[rule - 1] != NULL; rule++) {
        bool is_good = is_noticed(o, rule);
        passed += is_good ? 1 : 0;
        failed += is_good ? 0 : 1;
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0 ? 1 : 0;
}
#endif

/* ---- one story ------------------------------------------------------------------------------- */

static int run_one(const options *o)
{
    if (o->is_traced) {
        setenv("WORLD_TRACE", "1", 1);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint64_t before = cpu_now_us();
    story_run(o->seed, o->is_traced);
    if (sim_has_failed()) {
        print_failure(o, o->seed, sim_now.text, sim_now.at_ms - 1000000);
        return 1;
    }
    printf("seed %llu: all holds; %llu exchanges, %llu events, %.1f virtual hours, %.1f ms\n",
           (unsigned long long)o->seed, (unsigned long long)sim_now.exchanges,
           (unsigned long long)sim_now.events, (double)sim_now.virtual_ms / 3600000,
           (double)(cpu_now_us() - before) / 1000);
    return 0;
}

static uint64_t number_at(int argc, char **argv, int i)
{
    return i < argc ? strtoull(argv[i], NULL, 10) : 0;
}

static void read_options(options *o, int argc, char **argv)
{
    o->program = argv[0];
    o->from = 1;
    o->jobs = 1;
    o->seeds = 300;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0) {
            o->has_seed = true;
            o->seed = number_at(argc, argv, ++i);
        } else if (strcmp(argv[i], "--trace") == 0) {
            o->is_traced = true;
        } else if (strcmp(argv[i], "--from") == 0) {
            o->from = number_at(argc, argv, ++i);
        } else if (strcmp(argv[i], "--jobs") == 0) {
            o->jobs = (uint32_t)number_at(argc, argv, ++i);
        } else if (strcmp(argv[i], "--break") == 0) {
            o->rule = (int)number_at(argc, argv, ++i);
        } else if (strcmp(argv[i], "--tap") == 0) {
            o->is_tap = true;
        } else {
            o->seeds = number_at(argc, argv, i);
        }
    }
    o->jobs = o->jobs < 1 ? 1 : o->jobs > MAX_JOBS ? MAX_JOBS : o->jobs;
}

int main(int argc, char **argv)
{
    options o;
    memset(&o, 0, sizeof o);
    read_options(&o, argc, argv);
#ifdef SIM_BREAKS
    sdci_broken = o.rule;
    if (!o.has_seed) {
        return run_breaks(&o);
    }
#endif
    return o.has_seed ? run_one(&o) : run_many(&o);
}
