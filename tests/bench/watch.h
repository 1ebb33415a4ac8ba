/* What the watching programs of the exchange benchmark have in common.

   Each is started as PROGRAM PORT SERVICE NUM_WARM NUM, says "idle" when it could
   begin, waits for a line, takes NUM_WARM answers and then NUM of which the CPU
   time counts, says "done" and what it measured, and goes on watching until it
   is ended, so that its memory at rest can be looked at from outside. */
#ifndef BENCH_WATCH_H
#define BENCH_WATCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct plan {
    const char *port, *service;
    unsigned num_warm, num;
} plan;

static inline void watch_fail(const char *what)
{
    fprintf(stderr, "watch: %s\n", what);
    exit(1);
}

static inline plan watch_plan(int argc, char **argv)
{
    plan p;

    if (argc != 5) {
        watch_fail("usage: PORT SERVICE NUM_WARM NUM");
    }
    p.port = argv[1];
    p.service = argv[2];
    p.num_warm = (unsigned)atoi(argv[3]);
    p.num = (unsigned)atoi(argv[4]);
    return p;
}

static inline void watch_begin(void)
{
    char go;

    printf("idle\n");
    (void)fflush(stdout);
    if (read(0, &go, 1) != 1) {
        exit(0);
    }
}

static inline uint64_t watch_us(struct timeval t)
{
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_usec;
}

/* User and system time of this process so far. */
static inline uint64_t watch_cpu_us(void)
{
    struct rusage r;

    (void)getrusage(RUSAGE_SELF, &r);
    return watch_us(r.ru_utime) + watch_us(r.ru_stime);
}

/* `facts`: further members of the JSON object, or "". */
static inline void watch_done(const plan *p, uint64_t cpu_us, const char *facts)
{
    printf("done {\"cpu_us\": %.3f%s%s}\n", (double)cpu_us / p->num, *facts ? ", " : "", facts);
    (void)fflush(stdout);
}

#endif
