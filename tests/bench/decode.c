/* decode ROUNDS_MAX SECONDS BODY... -- PEER.so...: every decoder on every body.

   First each takes each body once, and all must find the same in it. Then they
   take turns, round by round, so that what slows the machine down for a while
   slows all of them; a sample is as many runs as take a few milliseconds of
   CPU time. Those that take long for one run sit out three rounds of four.
   Prints one JSON object for each body and decoder with the sample of each round
   in MB/s, or null. */
#include "peer.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PEERS = 32, MAX_LINES = 64, MAX_ROUNDS = 99, PADDING = 64 };

static const uint64_t sample_ns = 3000000;
static const uint64_t long_run_ns = 12000000;
static const size_t long_body = (size_t)4 << 20;

/* One row of the table: a decoder and how it is fed, in a process of its own, so that none gets a
   heap that another one has left in pieces. */
typedef struct line {
    const peer *p;
    size_t chunk;               /* 0: the whole body */
    unsigned num_runs;          /* in one sample; set in the worker */
    bool is_slow;
    int fd;                     /* to the worker */
    pid_t pid;
    double samples[MAX_ROUNDS];
} line;

/* What a worker is asked, one byte each, and what it answers. */
enum { ASK_FULL = 'f', ASK_LIGHT = 'l', ASK_CALIBRATE = 'c', ASK_SAMPLE = 's' };

typedef struct answer {
    sum s;
    double mb_per_s;
    bool is_slow;
    bool is_ok;
} answer;

typedef struct body {
    const char *path;
    char *bytes;
    size_t len;
} body;

static const peer *peers[MAX_PEERS];
static size_t num_peers;
static line lines[MAX_LINES];
static size_t num_lines;

static void fail(const char *what, const char *which)
{
    fprintf(stderr, "decode: %s: %s\n", what, which);
    exit(1);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void body_read(body *b, const char *path)
{
    FILE *f = fopen(path, "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        fail("cannot read", path);
    }
    b->path = path;
    b->len = (size_t)ftell(f);
    b->bytes = calloc(1, b->len + PADDING);
    rewind(f);
    if (b->bytes == NULL || fread(b->bytes, 1, b->len, f) != b->len) {
        fail("cannot read", path);
    }
    (void)fclose(f);
}

static void peer_load(const char *path)
{
    const peer *(*get)(void);
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol = so != NULL ? dlsym(so, "bench_peer") : NULL;

    if (symbol == NULL || num_peers == MAX_PEERS) {
        fail("cannot load", path);
    }
    memcpy(&get, &symbol, sizeof get);
    peers[num_peers++] = get();
}

static sum line_run(const line *l, void *state, const body *b, bool is_full)
{
    sum s = { 1, 0, is_full };

    if (!l->p->run(state, b->bytes, b->len, l->chunk, &s)) {
        fprintf(stderr, "decode: %s refuses %s\n", l->p->name, b->path);
        _exit(1);
    }
    return s;
}

static uint64_t line_time(const line *l, void *state, const body *b)
{
    uint64_t began = cpu_ns();

    for (unsigned n = 0; n < l->num_runs; n++) {
        (void)line_run(l, state, b, false);
    }
    return cpu_ns() - began;
}

static void line_calibrate(line *l, void *state, const body *b)
{
    for (l->num_runs = 1; l->num_runs < 1000000; l->num_runs *= 2) {
        uint64_t took = line_time(l, state, b);
        if (took * 2 >= sample_ns) {
            uint64_t runs = (sample_ns * l->num_runs + took - 1) / took;
            l->is_slow = took > long_run_ns * l->num_runs;
            l->num_runs = runs == 0 ? 1 : (unsigned)runs;
            return;
        }
    }
}

/* The run before the clock starts warms the caches that the decoder before this one had; a long run
   does that by itself. */
static double line_sample(const line *l, void *state, const body *b)
{
    if (!l->is_slow) {
        (void)line_run(l, state, b, false);
    }
    return (double)b->len * l->num_runs * 1e3 / (double)(line_time(l, state, b) + 1);
}

static void worker(line *l, int fd, const body *b)
{
    void *state = l->p->open(b->len);
    char ask;

    while (read(fd, &ask, 1) == 1) {
        answer a;
        memset(&a, 0, sizeof a);
        a.is_ok = state != NULL;
        if (a.is_ok && (ask == ASK_FULL || ask == ASK_LIGHT)) {
            a.s = line_run(l, state, b, ask == ASK_FULL);
        } else if (a.is_ok && ask == ASK_CALIBRATE) {
            line_calibrate(l, state, b);
            a.is_slow = l->is_slow;
        } else if (a.is_ok) {
            a.mb_per_s = line_sample(l, state, b);
        }
        if (write(fd, &a, sizeof a) != (ssize_t)sizeof a) {
            _exit(1);
        }
    }
    if (state != NULL) {
        l->p->close(state);
    }
    _exit(0);
}

static answer line_ask(const line *l, char what)
{
    answer a;

    if (write(l->fd, &what, 1) != 1 || read(l->fd, &a, sizeof a) != (ssize_t)sizeof a) {
        fail("a decoder died", l->p->name);
    }
    return a;
}

static void line_close(const line *l)
{
    (void)close(l->fd);
    (void)waitpid(l->pid, NULL, 0);
}

static void line_add(const peer *p, size_t chunk, const body *b)
{
    int fds[2];

    if (num_lines == MAX_LINES || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) {
        fail("too many lines", p->name);
    }
    line *l = &lines[num_lines];
    l->p = p;
    l->chunk = chunk;
    (void)fflush(NULL);
    l->pid = fork();
    if (l->pid == 0) {
        for (size_t i = 0; i < num_lines; i++) {
            (void)close(lines[i].fd);
        }
        (void)close(fds[0]);
        worker(l, fds[1], b);
    }
    (void)close(fds[1]);
    l->fd = fds[0];
    if (l->pid < 0) {
        fail("cannot fork", p->name);
    }
    answer a = line_ask(l, ASK_CALIBRATE);
    l->is_slow = a.is_slow;
    if (!a.is_ok) {
        fprintf(stderr, "skipped: %s: cannot run on this machine\n", p->name);
        line_close(l);
        return;
    }
    num_lines++;
}

/* Small chunks of a long body say nothing that those of a short one do not. */
static void lines_open(const body *b)
{
    static const size_t chunks[] = { 0, 65536, 1500, 7 };

    num_lines = 0;
    for (size_t i = 0; i < num_peers; i++) {
        size_t num = !peers[i]->takes_chunks ? 1 : b->len > long_body ? 2 : 4;
        for (size_t k = 0; k < num; k++) {
            if (chunks[k] < b->len) {
                line_add(peers[i], chunks[k], b);
            }
        }
    }
}

static void check_sums(const body *b, char what)
{
    sum first = line_ask(&lines[0], what).s;

    for (size_t i = 1; i < num_lines; i++) {
        sum s = line_ask(&lines[i], what).s;
        if (s.value != first.value || s.num != first.num) {
            fprintf(stderr, "decode: %s and %s differ on %s (%llu and %llu entries)\n",
                    lines[0].p->name, lines[i].p->name, b->path, (unsigned long long)first.num,
                    (unsigned long long)s.num);
            exit(1);
        }
    }
}

static void line_print(const line *l, const body *b, unsigned num_rounds)
{
    printf("{\"body\": \"%s\", \"bytes\": %zu, \"decoder\": \"%s\", \"version\": \"%s\", "
           "\"chunk\": %zu, \"samples\": [", b->path, b->len, l->p->name, l->p->version, l->chunk);
    for (unsigned i = 0; i < num_rounds; i++) {
        if (l->samples[i] > 0) {
            printf("%s%.1f", i == 0 ? "" : ", ", l->samples[i]);
        } else {
            printf("%snull", i == 0 ? "" : ", ");
        }
    }
    printf("]}\n");
}

static void measure(const body *b, unsigned max_rounds, double seconds)
{
    unsigned num_rounds = 0;

    lines_open(b);
    check_sums(b, ASK_FULL);
    check_sums(b, ASK_LIGHT);
    time_t began = time(NULL);
    while (num_rounds < max_rounds &&
           (num_rounds < 5 || difftime(time(NULL), began) < seconds)) {
        for (size_t i = 0; i < num_lines; i++) {
            bool sits_out = lines[i].is_slow && b->len < long_body && num_rounds % 4 != 0;
            lines[i].samples[num_rounds] =
                sits_out ? 0 : line_ask(&lines[i], ASK_SAMPLE).mb_per_s;
        }
        num_rounds++;
    }
    for (size_t i = 0; i < num_lines; i++) {
        line_print(&lines[i], b, num_rounds);
        line_close(&lines[i]);
    }
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    int at = 3;

    if (argc < 6) {
        fail("usage", "decode ROUNDS_MAX SECONDS BODY... -- PEER.so...");
    }
    unsigned max_rounds = (unsigned)atoi(argv[1]);
    while (at < argc && strcmp(argv[at], "--") != 0) {
        at++;
    }
    for (int i = at + 1; i < argc; i++) {
        peer_load(argv[i]);
    }
    for (int i = 3; i < at; i++) {
        body b;
        body_read(&b, argv[i]);
        measure(&b, max_rounds < MAX_ROUNDS ? max_rounds : MAX_ROUNDS, atof(argv[2]));
        free(b.bytes);
    }
    return 0;
}
