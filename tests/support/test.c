/* The harness behind test.h. */
#include "test.h"

#include "../../sdconsul.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TEST_TIMEOUT_S = 60, TEST_FAILURES_SHOWN = 20 };

typedef struct test_state {
    const char *name;
    const char *skip_reason;
    char        note[256];
    unsigned    num_failures;           /* failed checks of the running test                 */
    unsigned    num_expected;
    bool        is_expecting;
    bool        is_verbose;
} test_state;

static test_state test_now;

const char *test_name(void)
{
    return test_now.name != NULL ? test_now.name : "";
}

int test_listen(uint16_t *port)
{
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (const struct sockaddr *)(const void *)&at, sizeof at) != 0 ||
        listen(fd, 64) != 0 || getsockname(fd, (struct sockaddr *)(void *)&at, &len) != 0) {
        abort();
    }
    *port = ntohs(at.sin_port);
    return fd;
}

bool test_is_verbose(void)
{
    return test_now.is_verbose;
}

unsigned test_num_failures(void)
{
    return test_now.num_failures;
}

void test_note(const char *format, ...)
{
    test_now.note[0] = '\0';
    if (format == NULL || format[0] == '\0') {
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(test_now.note, sizeof test_now.note, format, args);
    va_end(args);
}

void test_expect_failures(void)
{
    test_now.is_expecting = true;
    test_now.num_expected = 0;
}

unsigned test_expected_failures(void)
{
    test_now.is_expecting = false;
    return test_now.num_expected;
}

void test_skip(const char *reason)
{
    test_now.skip_reason = reason;
}

/* Writes one whole line with one call, so that lines of several threads do not mix. */
void test_fail(const char *file, int line, const char *format, ...)
{
    if (test_now.is_expecting) {
        test_now.num_expected++;
        return;
    }
    unsigned nth = __atomic_add_fetch(&test_now.num_failures, 1u, __ATOMIC_RELAXED);
    if (nth > TEST_FAILURES_SHOWN) {
        return;
    }
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printf("%s:%d: %s: %s%s%s%s\n", file, line, test_name(), text,
           test_now.note[0] != '\0' ? " [" : "", test_now.note,
           test_now.note[0] != '\0' ? "]" : "");
}

bool test_check(bool ok, const char *file, int line, const char *text)
{
    if (!ok) {
        test_fail(file, line, "CHECK(%s)", text);
    }
    return ok;
}

bool test_check_int(long long a, long long b, const char *file, int line,
                    const char *a_text, const char *b_text)
{
    if (a != b) {
        test_fail(file, line, "CHECK_INT(%s, %s): %lld is not %lld", a_text, b_text, a, b);
    }
    return a == b;
}

bool test_check_u64(uint64_t a, uint64_t b, const char *file, int line,
                    const char *a_text, const char *b_text)
{
    if (a != b) {
        test_fail(file, line, "CHECK_U64(%s, %s): %llu is not %llu", a_text, b_text,
                  (unsigned long long)a, (unsigned long long)b);
    }
    return a == b;
}

bool test_check_between(uint64_t a, uint64_t low, uint64_t high, const char *file, int line,
                        const char *a_text)
{
    bool ok = low <= a && a <= high;
    if (!ok) {
        test_fail(file, line, "CHECK_BETWEEN(%s): %llu is not in %llu..%llu", a_text,
                  (unsigned long long)a, (unsigned long long)low, (unsigned long long)high);
    }
    return ok;
}

bool test_check_str(const char *a, const char *b, const char *file, int line,
                    const char *a_text, const char *b_text)
{
    bool ok = a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
    if (!ok) {
        test_fail(file, line, "CHECK_STR(%s, %s): %s%.900s%s is not %s%.900s%s", a_text, b_text,
                  a != NULL ? "\"" : "", a != NULL ? a : "NULL", a != NULL ? "\"" : "",
                  b != NULL ? "\"" : "", b != NULL ? b : "NULL", b != NULL ? "\"" : "");
    }
    return ok;
}

bool test_check_has(const char *text, const char *part, bool want, const char *file, int line,
                    const char *text_text)
{
    bool has = text != NULL && strstr(text, part) != NULL;
    if (has != want) {
        test_fail(file, line, "%s(%s): \"%.200s\" is %s \"%.2000s\"",
                  want ? "CHECK_HAS" : "CHECK_HASNT", text_text, part,
                  want ? "not in" : "in", text != NULL ? text : "(NULL)");
    }
    return has == want;
}

bool test_check_mem(const void *a, size_t a_len, const void *b, size_t b_len,
                    const char *file, int line, const char *a_text, const char *b_text)
{
    const unsigned char *x = (const unsigned char *)a;
    const unsigned char *y = (const unsigned char *)b;
    size_t both = a_len < b_len ? a_len : b_len;
    size_t at = 0;
    while (at < both && x[at] == y[at]) {
        at++;
    }
    bool ok = at == a_len && at == b_len;
    if (!ok) {
        test_fail(file, line, "CHECK_MEM(%s, %s): %zu and %zu bytes, first difference at %zu",
                  a_text, b_text, a_len, b_len, at);
    }
    return ok;
}

/* A switch, so that the compiler finds a name that is missing here. */
const char *test_err_name(int err)
{
    switch ((sdc_err)err) {
    case SDC_OK:          return "SDC_OK";
    case SDC_AGAIN:       return "SDC_AGAIN";
    case SDC_STOPPED:     return "SDC_STOPPED";
    case SDC_GONE:        return "SDC_GONE";
    case SDC_ERR_ARG:     return "SDC_ERR_ARG";
    case SDC_ERR_NOMEM:   return "SDC_ERR_NOMEM";
    case SDC_ERR_LIMIT:   return "SDC_ERR_LIMIT";
    case SDC_ERR_RESOLVE: return "SDC_ERR_RESOLVE";
    case SDC_ERR_CONNECT: return "SDC_ERR_CONNECT";
    case SDC_ERR_TLS:     return "SDC_ERR_TLS";
    case SDC_ERR_IO:      return "SDC_ERR_IO";
    case SDC_ERR_TIMEOUT: return "SDC_ERR_TIMEOUT";
    case SDC_ERR_HTTP:    return "SDC_ERR_HTTP";
    case SDC_ERR_STATUS:  return "SDC_ERR_STATUS";
    case SDC_ERR_DENIED:  return "SDC_ERR_DENIED";
    case SDC_ERR_BUSY:    return "SDC_ERR_BUSY";
    case SDC_ERR_JSON:    return "SDC_ERR_JSON";
    case SDC_ERR_SHAPE:   return "SDC_ERR_SHAPE";
    case SDC_ERR_EMPTY:   return "SDC_ERR_EMPTY";
    case SDC_ERR_USER:    return "SDC_ERR_USER";
    }
    return "(no sdc_err)";
}

bool test_check_err(int a, int b, const char *file, int line,
                    const char *a_text, const char *b_text)
{
    if (a != b) {
        test_fail(file, line, "CHECK_ERR(%s, %s): %s (%d) is not %s", a_text, b_text,
                  test_err_name(a), a, test_err_name(b));
    }
    return a == b;
}

/* ---- signals: name the test, then die -------------------------------------------------------- */

static void test_write(const char *text)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, text, len);
        if (n <= 0) {
            return;
        }
        text += n;
        len -= (size_t)n;
    }
}

static void test_on_signal(int sig)
{
    test_write(sig == SIGALRM ? "HANGS " : sig == SIGPIPE ? "SIGPIPE in " : "CRASH in ");
    test_write(test_name());
    if (test_now.note[0] != '\0') {
        test_write(" [");
        test_write(test_now.note);
        test_write("]");
    }
    test_write("\n");
    if (sig == SIGALRM) {
        _exit(124);
    }
    signal(sig, SIG_DFL);
    raise(sig);
}

/* A handler that is there already belongs to a sanitizer, which says more. SIGPIPE stays
   deadly on purpose: the library must never raise it. */
static void test_catch_signals(void)
{
    static const int signals[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGPIPE };
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction old;
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL) {
            signal(signals[i], test_on_signal);
        }
    }
    signal(SIGALRM, test_on_signal);
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct test_run {
    char   **filters;
    int      num_filters;
    bool     is_list, is_exact;
    unsigned timeout_s;
    unsigned passed, failed, skipped;
} test_run;

static uint64_t test_real_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static bool test_is_chosen(const test_run *run, const char *name)
{
    if (run->num_filters == 0) {
        return true;
    }
    for (int i = 0; i < run->num_filters; i++) {
        if (run->is_exact ? strcmp(name, run->filters[i]) == 0
                          : strstr(name, run->filters[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static void test_run_one(test_run *run, const test_case *test)
{
    memset(test_now.note, 0, sizeof test_now.note);
    test_now.name = test->name;
    test_now.skip_reason = NULL;
    test_now.num_failures = 0;
    test_now.is_expecting = false;
    uint64_t start = test_real_ms();
    alarm(run->timeout_s);
    test->run();
    alarm(0);
    uint64_t ms = test_real_ms() - start;
    const char *verdict = "ok";
    if (test_now.num_failures > 0) {
        printf("FAILED %s (%u checks)\n", test->name, test_now.num_failures);
        verdict = NULL;
        run->failed++;
    } else if (test_now.skip_reason != NULL) {
        printf("skipped %s: %s\n", test->name, test_now.skip_reason);
        verdict = NULL;
        run->skipped++;
    } else {
        run->passed++;
    }
    if (verdict != NULL && test_now.is_verbose) {
        printf("ok %s %llu ms\n", test->name, (unsigned long long)ms);
    } else if (ms > 1000) {
        printf("slow %s %llu ms\n", test->name, (unsigned long long)ms);
    }
    test_now.name = NULL;
}

static bool test_parse(test_run *run, int argc, char **argv)
{
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-l") == 0) {
            run->is_list = true;
        } else if (strcmp(argv[i], "-v") == 0) {
            test_now.is_verbose = true;
        } else if (strcmp(argv[i], "-x") == 0) {
            run->is_exact = true;
        } else {
            printf("usage: %s [-l] [-v] [-x] [part of a name]...\n", argv[0]);
            return false;
        }
    }
    run->filters = argv + i;
    run->num_filters = argc - i;
    const char *timeout = getenv("TEST_TIMEOUT_S");
    run->timeout_s = timeout != NULL ? (unsigned)strtoul(timeout, NULL, 10) : TEST_TIMEOUT_S;
    return true;
}

int test_main(int argc, char **argv, const test_group *groups, size_t num_groups)
{
    test_run run;
    memset(&run, 0, sizeof run);
    if (!test_parse(&run, argc, argv)) {
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_catch_signals();
    for (size_t g = 0; g < num_groups; g++) {
        for (size_t i = 0; i < groups[g].num_cases; i++) {
            const test_case *test = &groups[g].cases[i];
            if (!test_is_chosen(&run, test->name)) {
                continue;
            }
            if (run.is_list) {
                printf("%s\n", test->name);
            } else {
                test_run_one(&run, test);
            }
        }
    }
    if (!run.is_list) {
        printf("%u passed, %u failed, %u skipped\n", run.passed, run.failed, run.skipped);
    }
    return run.failed > 0 ? 1 : 0;
}
