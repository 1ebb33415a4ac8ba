/* What everything else stands on: slices, numbers, errors, memory, buffers, random pauses. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"

/* -- Slices and numbers -- */

static void test_base_slices(void)
{
    CHECK_INT(sdci_str_of(NULL).len, 0);
    CHECK_INT(sdci_str_of("abc").len, 3);
    CHECK(sdci_is_empty(NULL) && sdci_is_empty("") && !sdci_is_empty(" "));
    CHECK(sdci_equal_nocase(sdci_str_of("X-Consul-Index"), sdci_str_of("x-CONSUL-index")));
    CHECK(!sdci_equal_nocase(sdci_str_of("abc"), sdci_str_of("abcd")));
    CHECK(!sdci_equal_nocase(sdci_str_of("abc"), sdci_str_of("abd")));
    CHECK(sdci_equal_nocase(sdci_str_of(""), sdci_slice("x", 0)));
    /* only ASCII letters have two forms: neither '@' and '`' nor letters of other alphabets do */
    CHECK(!sdci_equal_nocase(sdci_str_of("@["), sdci_str_of("`{")));
    CHECK(!sdci_equal_nocase(sdci_str_of("\xc3\x89"), sdci_str_of("\xc3\xa9")));
}

static void test_base_trim(void)
{
    static const struct { const char *text, *want; } table[] = {
        { "", "" }, { " ", "" }, { " \t\r\n ", "" }, { "a", "a" }, { " a b ", "a b" },
        { "\ta\r\n", "a" }, { "a ", "a" }, { " a", "a" }, { "\va\f", "\va\f" }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        sdci_str got = sdci_trim(sdci_str_of(table[i].text));
        CHECK_MEM(got.ptr, got.len, table[i].want, strlen(table[i].want));
    }
    sdci_str got = sdci_trim(sdci_slice("\0a\0", 3));
    CHECK_MEM(got.ptr, got.len, "\0a\0", 3);
}

static void test_base_characters(void)
{
    for (int c = 0; c < 256; c++) {
        char text[2] = { (char)c, '\0' };
        bool is_control = c < 0x20 || c == 0x7F;
        CHECK_INT(sdci_is_control((char)c), is_control);
        CHECK_INT(sdci_has_control(text), is_control && c != 0);
        const char *digits = "0123456789abcdefABCDEF";
        const char *found = c != 0 ? strchr(digits, c) : NULL;
        int value = found == NULL ? -1 : (int)(found - digits);
        CHECK_INT(sdci_hex((char)c), value > 15 ? value - 6 : value);
        CHECK_INT(sdci_is_digit((char)c), c >= '0' && c <= '9');
    }
}

static void test_68_decimal_numbers_of_64_bits(void)
{
    static const struct { const char *text; uint64_t max, value; bool is_ok; } table[] = {
        { "0", UINT64_MAX, 0, true }, { "1", UINT64_MAX, 1, true }, { "0007", UINT64_MAX, 7, true },
        { "9007199254740993", UINT64_MAX, 9007199254740993u, true },
        { "9223372036854775807", UINT64_MAX, 9223372036854775807u, true },
        { "9223372036854775808", UINT64_MAX, 9223372036854775808u, true },
        { "18446744073709551615", UINT64_MAX, UINT64_MAX, true },
        { "00000000000000000000018446744073709551615", UINT64_MAX, UINT64_MAX, true },
        { "18446744073709551616", UINT64_MAX, 0, false },
        { "18446744073709551620", UINT64_MAX, 0, false },
        { "99999999999999999999", UINT64_MAX, 0, false },
        { "184467440737095516150", UINT64_MAX, 0, false },
        { "65535", 65535, 65535, true }, { "65536", 65535, 0, false }, { "70000", 65535, 0, false },
        { "655350", 65535, 0, false }, { "9", 9, 9, true }, { "10", 9, 0, false },
        { "5", 4, 0, false }, { "0", 0, 0, true }, { "1", 0, 0, false },
        { "", UINT64_MAX, 0, false }, { "-1", UINT64_MAX, 0, false },
        { "+1", UINT64_MAX, 0, false }, { " 1", UINT64_MAX, 0, false },
        { "1 ", UINT64_MAX, 0, false },
        { "1.0", UINT64_MAX, 0, false }, { "1e3", UINT64_MAX, 0, false },
        { "0x1", UINT64_MAX, 0, false }, { "a", UINT64_MAX, 0, false }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint64_t value = 12345;
        test_note("%s, at most %llu", table[i].text, (unsigned long long)table[i].max);
        CHECK_INT(sdci_parse_u64(sdci_str_of(table[i].text), table[i].max, &value),
                  table[i].is_ok);
        CHECK_U64(value, table[i].is_ok ? table[i].value : 12345);
    }
}

static void test_base_small_arithmetic(void)
{
    CHECK_INT(sdci_or(0, 7), 7);
    CHECK_INT(sdci_or(3, 7), 3);
    CHECK_U64(sdci_min(3, UINT64_MAX), 3);
    CHECK_U64(sdci_max(3, UINT64_MAX), UINT64_MAX);
    CHECK_U64(sdci_after(100, 50), 150);
    CHECK_U64(sdci_after(100, SDC_NEVER), UINT64_MAX);
    CHECK_U64(sdci_after(100, 0), 100);
}

/* -- Errors -- */

static void test_base_each_error_has_words_of_its_own(void)
{
    for (int a = SDC_OK; a <= SDC_ERR_USER; a++) {
        CHECK(strlen(sdc_err_str((sdc_err)a)) > 1);
        CHECK(strcmp(sdc_err_str((sdc_err)a), "unknown error") != 0);
        for (int b = SDC_OK; b < a; b++) {
            CHECK(strcmp(sdc_err_str((sdc_err)a), sdc_err_str((sdc_err)b)) != 0);
        }
    }
    CHECK_STR(sdc_err_str((sdc_err)(SDC_ERR_USER + 1)), "unknown error");
    CHECK_INT(sdc_version(), SDC_VERSION);
}

static void test_base_messages_are_one_printable_line(void)
{
    sdc_error error;
    char text[600];

    memset(&error, 0xEE, sizeof error);
    CHECK_ERR(sdci_fail(&error, SDC_ERR_IO, "%s\n%d\tx\x7fy", "a\r\nb", 7), SDC_ERR_IO);
    CHECK_STR(error.message, "a  b 7 x y");
    CHECK_ERR(error.code, SDC_ERR_IO);
    CHECK_INT(error.http_status, 0);
    CHECK_INT(error.os_errno, 0);
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    CHECK_ERR(sdci_fail(&error, SDC_ERR_ARG, "%s", text), SDC_ERR_ARG);
    CHECK_INT(strlen(error.message), sizeof error.message - 1);
    CHECK_ERR(sdci_fail(NULL, SDC_ERR_ARG, "%s", text), SDC_ERR_ARG);
    CHECK_ERR(sdci_fail_plain(&error, SDC_ERR_NOMEM), SDC_ERR_NOMEM);
    CHECK_STR(error.message, "out of memory");
}

static void test_base_where_a_decoder_failed(void)
{
    sdci_fault fault;
    sdc_error error;

    memset(&fault, 0, sizeof fault);
    memset(&error, 0xEE, sizeof error);
    sdci_fault_tell(&fault, "JSON", &error);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_STR(error.message, "");
    fault.code = SDC_ERR_USER;
    fault.at = UINT64_MAX;
    sdci_fault_tell(&fault, "JSON", &error);
    CHECK_STR(error.message, "JSON, byte 18446744073709551615: the program's own error");
    fault.what = "it is odd";
    sdci_fault_tell(&fault, "HTTP", &error);
    CHECK_STR(error.message, "HTTP, byte 18446744073709551615: it is odd");
    sdci_fault_tell(&fault, "HTTP", NULL);
}

/* -- Memory -- */

static void test_base_malloc_is_the_default(void)
{
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    char *p = (char *)sdci_new(&a, 100);

    REQUIRE(p != NULL);
    CHECK(p[0] == 0 && p[99] == 0);
    p[0] = 'x';
    char *q = (char *)sdci_resize(&a, p, 100, 10000);
    REQUIRE(q != NULL);
    CHECK(q[0] == 'x');
    CHECK(sdci_resize(&a, q, 10000, 0) == NULL);
    sdci_free(&a, NULL, 0);
    sdci_free_text(&a, NULL);
    sdci_free_secret(&a, NULL);
}

static void test_base_buffer_grows_up_to_its_limit(void)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    sdci_buf buf;

    sdci_buf_init(&buf, &hook, 1000);
    CHECK_INT(memory.num_calls, 0);
    sdci_put(&buf, "", 0);
    CHECK_INT(memory.num_calls, 0);
    for (int i = 0; i < 1000; i++) {
        sdci_put_char(&buf, (char)('a' + i % 26));
    }
    CHECK_ERR(buf.err, SDC_OK);
    CHECK_INT(buf.len, 1000);
    CHECK(buf.cap <= 1000 && memory.num_calls < 8);
    sdci_put_char(&buf, 'x');
    CHECK_ERR(buf.err, SDC_ERR_LIMIT);
    CHECK_INT(buf.len, 1000);
    for (int i = 0; i < 1000; i++) {
        CHECK_INT(buf.ptr[i], 'a' + i % 26);
    }
    sdci_buf_clear(&buf);
    CHECK_ERR(buf.err, SDC_OK);
    sdci_put(&buf, "0123456789", 10);
    sdci_put_text(&buf, "abc");
    sdci_put_u64(&buf, UINT64_MAX);
    sdci_str tail = sdci_buf_from(&buf, 10);
    CHECK_MEM(tail.ptr, tail.len, "abc18446744073709551615", 23);
    sdci_buf_deinit(&buf);
    sdci_buf_deinit(&buf);
    fault_alloc_deinit(&memory);
}

/* The first failure sticks: a writer that checks once at its end sees it. */
static void test_base_buffer_failure_sticks(void)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    sdci_buf buf;

    sdci_buf_init(&buf, &hook, 10);
    sdci_put(&buf, "0123456789a", 11);
    sdci_put(&buf, "b", 1);
    CHECK_ERR(buf.err, SDC_ERR_LIMIT);
    CHECK_INT(buf.len, 0);
    sdci_buf_deinit(&buf);
    sdci_buf_init(&buf, &hook, 1000);
    fault_alloc_fail(&memory, 1, false);
    sdci_put(&buf, "a", 1);
    sdci_put(&buf, "b", 1);
    CHECK_ERR(buf.err, SDC_ERR_NOMEM);
    CHECK_INT(buf.len, 0);
    sdci_buf_clear(&buf);
    sdci_put(&buf, "c", 1);
    CHECK_ERR(buf.err, SDC_OK);
    CHECK_MEM(buf.ptr, buf.len, "c", 1);
    sdci_buf_deinit(&buf);
    fault_alloc_deinit(&memory);
}

/* An allocator that looks at what is given back: a secret must be gone by then. */
typedef struct base_watcher {
    sdc_allocator under;
    unsigned num_dirty, num_given;
} base_watcher;

static void *base_watching_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    base_watcher *w = (base_watcher *)user;
    const char *bytes = (const char *)ptr;

    if (ptr != NULL) {
        w->num_given++;
        for (size_t i = 0; i < old_size; i++) {
            if (bytes[i] == 'S') {
                w->num_dirty++;
                break;
            }
        }
    }
    return sdci_resize(&w->under, ptr, old_size, new_size);
}

static void test_base_secrets_are_wiped(void)
{
    base_watcher watcher;
    sdc_allocator hook;
    sdci_buf buf;

    memset(&watcher, 0, sizeof watcher);
    watcher.under = sdci_allocator_or_malloc(NULL);
    hook.user = &watcher;
    hook.resize = base_watching_resize;
    sdci_buf_init(&buf, &hook, 100000);
    buf.is_secret = true;
    for (int i = 0; i < 2000; i++) {
        sdci_put_text(&buf, "SSSSSSSS");
    }
    CHECK_ERR(buf.err, SDC_OK);
    CHECK_INT(buf.len, 16000);
    for (size_t i = 0; i < buf.len; i++) {
        CHECK_INT(buf.ptr[i], 'S');
    }
    sdci_buf_clear(&buf);               /* and memory that stays may be read by the next writer */
    for (size_t i = 0; i < 16000; i++) {
        CHECK_INT(buf.ptr[i], 0);
    }
    sdci_buf_deinit(&buf);
    sdci_free_secret(&hook, sdci_copy(&hook, "SECRET"));
    CHECK(watcher.num_given > 5);
    CHECK_INT(watcher.num_dirty, 0);
    sdci_free_text(&hook, sdci_copy(&hook, "SHOWN"));
    CHECK_INT(watcher.num_dirty, 1);
}

/* -- Random pauses -- */

static void test_base_random_is_spread_and_replays(void)
{
    sdci_random a = { 42 };
    sdci_random b = { 42 };
    unsigned counts[10] = { 0 };

    for (int i = 0; i < 10000; i++) {
        CHECK_U64(sdci_random_next(&a), sdci_random_next(&b));
        uint64_t n = sdci_random_upto(&a, 9);
        CHECK_U64(n, sdci_random_upto(&b, 9));
        if (!CHECK(n <= 9)) {
            return;
        }
        counts[n]++;
    }
    for (int i = 0; i < 10; i++) {
        CHECK_BETWEEN(counts[i], 850, 1150);
    }
    CHECK_U64(sdci_random_upto(&a, 0), 0);
    (void)sdci_random_upto(&a, UINT64_MAX);
}

/* From min to min doubled n-1 times, not beyond max, and the whole span is used, at the cap too. */
static void test_33_backoff_doubles_jitters_and_is_capped(void)
{
    sdci_random random = { 7 };

    for (uint32_t nth = 1; nth < 80; nth++) {
        uint32_t least = UINT32_MAX;
        uint32_t most = 0;
        uint64_t top = nth <= 13 ? 10u << (nth - 1) : 60000;
        top = top > 60000 ? 60000 : top;
        for (int i = 0; i < 500; i++) {
            uint32_t ms = sdci_backoff_ms(&random, 10, 60000, nth);
            least = ms < least ? ms : least;
            most = ms > most ? ms : most;
        }
        test_note("failure %u: %u to %u", (unsigned)nth, (unsigned)least, (unsigned)most);
        CHECK(least >= 10 && most <= top);
        CHECK(least <= 10 + (top - 10) / 20);
        CHECK(most >= top - (top - 10) / 20);
    }
    CHECK_INT(sdci_backoff_ms(&random, 10, 10, 50), 10);
    CHECK_INT(sdci_backoff_ms(&random, 10, 5, 1), 5);
    CHECK(sdci_backoff_ms(&random, UINT32_MAX, UINT32_MAX, UINT32_MAX) == UINT32_MAX);
}

static const test_case cases_base[] = {
    TEST(test_base_slices),
    TEST(test_base_trim),
    TEST(test_base_characters),
    TEST(test_68_decimal_numbers_of_64_bits),
    TEST(test_base_small_arithmetic),
    TEST(test_base_each_error_has_words_of_its_own),
    TEST(test_base_messages_are_one_printable_line),
    TEST(test_base_where_a_decoder_failed),
    TEST(test_base_malloc_is_the_default),
    TEST(test_base_buffer_grows_up_to_its_limit),
    TEST(test_base_buffer_failure_sticks),
    TEST(test_base_secrets_are_wiped),
    TEST(test_base_random_is_spread_and_replays),
    TEST(test_33_backoff_doubles_jitters_and_is_capped)
};
