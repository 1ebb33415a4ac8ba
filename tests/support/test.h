/* The harness of all tests.

   A file test_X.c holds functions without parameters and one table of them:

       static void test_06_lower_index_resets(void) { CHECK_INT(f(), 3); }
       static const test_case cases_watch[] = { TEST(test_06_lower_index_resets) };

   and a program holds one or more such files and this line, without a semicolon:

       TEST_MAIN(GROUP(cases_watch), GROUP(cases_json))

   A name carries the number of the checklist line that the test proves.

   A failed check prints file, line, both values and the name of the test; the test goes on and
   counts as failed once. Each check is an expression that answers whether it held, so that
   `if (!CHECK(p != NULL)) { return; }` is possible; REQUIRE is that in one word.

   Command line: program [-l] [-v] [-x] [part of a name]...
       -l   lists the tests, one a line     -v   names each test as it ends
       -x   exact names instead of parts of names
   Exit 0 when nothing failed, 1 otherwise. The last line is `N passed, N failed, N skipped`.

   Each test has 60 s of real time (TEST_TIMEOUT_S in the environment changes that); then the
   program ends with the test's name. One thread only, unless a line below says otherwise. */
#ifndef TEST_H
#define TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct test_case {
    const char *name;
    void      (*run)(void);
} test_case;

typedef struct test_group {
    const char      *name;
    const test_case *cases;
    size_t           num_cases;
} test_group;

#define TEST(function) { #function, function }
#define GROUP(table) { #table, table, sizeof(table) / sizeof((table)[0]) }

#define TEST_MAIN(...)                                                                        \
    int main(int argc, char **argv)                                                           \
    {                                                                                         \
        static const test_group groups[] = { __VA_ARGS__ };                                   \
        return test_main(argc, argv, groups, sizeof groups / sizeof groups[0]);               \
    }

/* Values are compared as long long, as uint64_t, and as text (NULL is a value of its own). */
#define CHECK(cond)         test_check((cond) ? true : false, __FILE__, __LINE__, #cond)
#define CHECK_INT(a, b)     test_check_int((long long)(a), (long long)(b), __FILE__, __LINE__, \
                                           #a, #b)
#define CHECK_U64(a, b)     test_check_u64((uint64_t)(a), (uint64_t)(b), __FILE__, __LINE__, #a, #b)
#define CHECK_STR(a, b)     test_check_str((a), (b), __FILE__, __LINE__, #a, #b)
#define CHECK_ERR(a, b)     test_check_err((int)(a), (int)(b), __FILE__, __LINE__, #a, #b)
/* low <= a <= high */
#define CHECK_BETWEEN(a, low, high) test_check_between((uint64_t)(a), (uint64_t)(low), \
                                           (uint64_t)(high), __FILE__, __LINE__, #a)
/* text holds part, or must not hold it */
#define CHECK_HAS(text, part)   test_check_has((text), (part), true, __FILE__, __LINE__, #text)
#define CHECK_HASNT(text, part) test_check_has((text), (part), false, __FILE__, __LINE__, #text)
#define CHECK_MEM(a, a_len, b, b_len) test_check_mem((a), (a_len), (b), (b_len), __FILE__, \
                                           __LINE__, #a, #b)
/* These two leave the test, so they stand in the test's own function. */
#define REQUIRE(cond)       do { if (!CHECK(cond)) { return; } } while (0)
#define SKIP(reason)        do { test_skip(reason); return; } while (0)
/* A failure in the program's own words, printf-like. Any thread. */
#define FAIL(...)           test_fail(__FILE__, __LINE__, __VA_ARGS__)

#if defined(__GNUC__)
#define TEST_PRINTF(nth, first) __attribute__((format(printf, nth, first)))
#else
#define TEST_PRINTF(nth, first)
#endif

int  test_main(int argc, char **argv, const test_group *groups, size_t num_groups);
bool test_check(bool ok, const char *file, int line, const char *text);
bool test_check_int(long long a, long long b, const char *file, int line,
                    const char *a_text, const char *b_text);
bool test_check_u64(uint64_t a, uint64_t b, const char *file, int line,
                    const char *a_text, const char *b_text);
bool test_check_str(const char *a, const char *b, const char *file, int line,
                    const char *a_text, const char *b_text);
bool test_check_err(int a, int b, const char *file, int line,
                    const char *a_text, const char *b_text);
bool test_check_between(uint64_t a, uint64_t low, uint64_t high, const char *file, int line,
                        const char *a_text);
bool test_check_has(const char *text, const char *part, bool want, const char *file, int line,
                    const char *text_text);
bool test_check_mem(const void *a, size_t a_len, const void *b, size_t b_len,
                    const char *file, int line, const char *a_text, const char *b_text);
void test_fail(const char *file, int line, const char *format, ...) TEST_PRINTF(3, 4);
void test_skip(const char *reason);

/* A note on what is being tried, for tests that run many variants: it stands beside each
   failure and each crash until the next note or the end of the test. NULL or "" takes it off. */
void test_note(const char *format, ...) TEST_PRINTF(1, 2);

const char *test_name(void);            /* of the running test, "" outside                   */
bool        test_is_verbose(void);
unsigned    test_num_failures(void);    /* failed checks of the running test so far: a loop
                                           over variants ends early with it                  */
/* "SDC_ERR_CONNECT" and so on, without needing the library linked. */
const char *test_err_name(int err);

/* A socket that listens on the loopback, at a port that was free. */
int test_listen(uint16_t *port);

/* For tests of the harness and its friends: between these two a failure is counted, not
   reported, and the second one answers how many there were. */
void     test_expect_failures(void);
unsigned test_expected_failures(void);

#endif
