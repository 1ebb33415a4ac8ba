/* Inputs that end at an unmapped page, or begin behind one: a read outside of them is a crash,
   in any build. What was fed is overwritten afterwards, so that a pointer that was kept shows. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"
#include "../fuzz/feed.h"
#include "../fuzz/files.h"

#include <sys/mman.h>

/* Memory between two pages that nobody may touch. */
typedef struct guard {
    char  *whole;
    char  *bytes;
    size_t page, size;
} guard;

static bool guard_init(guard *g, size_t size)
{
    g->page = (size_t)sysconf(_SC_PAGESIZE);
    g->size = (size / g->page + 1) * g->page;
    g->whole = (char *)mmap(NULL, g->size + 2 * g->page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->whole == (char *)MAP_FAILED) {
        FAIL("mmap fails");
        return false;
    }
    g->bytes = g->whole + g->page;
    return CHECK(mprotect(g->whole, g->page, PROT_NONE) == 0) &&
           CHECK(mprotect(g->bytes + g->size, g->page, PROT_NONE) == 0);
}

static void guard_deinit(guard *g)
{
    munmap(g->whole, g->size + 2 * g->page);
}

/* Where `len` bytes end (or begin) at the unmapped page. */
static char *guard_put(guard *g, const void *bytes, size_t len, bool at_end)
{
    char *to = at_end ? g->bytes + g->size - len : g->bytes;

    if (len > 0) {
        memcpy(to, bytes, len);
    }
    return to;
}

static bool guard_feed(guard *g, feed *f, const char *bytes, size_t len, bool at_end)
{
    char *placed = guard_put(g, bytes, len, at_end);
    bool goes_on = feed_piece(f, placed, len);

    memset(placed, 0xEE, len);
    return goes_on;
}

static void guard_try_cut(guard *g, feed *f, const char *bytes, size_t len, size_t at, size_t step,
                          bool at_end)
{
    bool goes_on = true;

    feed_begin(f);
    if (at > 0) {
        goes_on = guard_feed(g, f, bytes, at, at_end);
    }
    for (size_t done = at; goes_on && done < len;) {
        size_t piece = step == 0 || step > len - done ? len - done : step;
        goes_on = guard_feed(g, f, bytes + done, piece, at_end);
        done += piece;
    }
    (void)feed_end(f, len);
    if (!feed_same(f, "guarded and cut at", at)) {
        FAIL("\"%.*s\", steps of %zu: %s", (int)(len < 100 ? len : 100), bytes, step, f->why);
    }
}

/* Short inputs in every cut, all in some sizes of pieces. */
static void guard_try(guard *g, feed *f, const char *bytes, size_t len)
{
    static const size_t steps[] = { 0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128,
                                    129, 1000 };

    (void)feed_whole(f, bytes, len);
    f->first.len = 0;
    feed_put(&f->first, f->log.text, f->log.len);
    for (int at_end = 0; at_end <= 1; at_end++) {
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            guard_try_cut(g, f, bytes, len, 0, steps[i], at_end != 0);
        }
        for (size_t at = 1; at < len && len < 700; at++) {
            guard_try_cut(g, f, bytes, len, at, 0, at_end != 0);
        }
    }
}

typedef struct guard_run {
    guard guard;
    feed  feed;
} guard_run;

static void guard_try_file(void *user, const char *path, const unsigned char *bytes, size_t len)
{
    guard_run *run = (guard_run *)user;

    test_note("%s", files_name(path));
    guard_try(&run->guard, &run->feed, (const char *)bytes, len);
}

static void guard_try_folder(feed_kind kind, const char *beside)
{
    char folder[512];
    guard_run run;

    REQUIRE(guard_init(&run.guard, 65536));
    feed_init(&run.feed, kind, NULL);
    REQUIRE(run.feed.made == SDC_OK);
    files_beside(__FILE__, beside, folder, sizeof folder);
    CHECK(files_each(folder, guard_try_file, &run) >= 4);
    feed_deinit(&run.feed);
    guard_deinit(&run.guard);
}

static void test_guard_json(void)
{
    guard_try_folder(FEED_JSON, "data/json");
    guard_try_folder(FEED_JSON, "../fuzz/corpus/json");
}

static void test_guard_entries(void)
{
    guard_try_folder(FEED_ENTRIES, "../fuzz/corpus/entries");
}

static void test_guard_http(void)
{
    guard_try_folder(FEED_HTTP, "../fuzz/corpus/http");
}

/* -- Texts that end in NUL, and slices that do not -- */

static void guard_try_text(guard *g, const char *text)
{
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    sdci_agent_url address;
    sdc_error error;
    sdci_buf buf;

    for (int at_end = 0; at_end <= 1; at_end++) {
        const char *placed = guard_put(g, text, strlen(text) + 1, at_end != 0);
        (void)sdci_parse_address("address", placed, &address, &error);
        (void)sdci_path_part_valid("service", placed, &error);
        sdci_buf_init(&buf, &a, 100000);
        sdci_put_escaped(&buf, placed);
        CHECK_ERR(buf.err, SDC_OK);
        sdci_buf_deinit(&buf);
    }
}

static void guard_try_slice(guard *g, const char *text)
{
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    sdci_agent_url address;
    uint64_t number = 0;
    sdci_buf buf;

    for (int at_end = 0; at_end <= 1; at_end++) {
        sdci_str s = sdci_slice(guard_put(g, text, strlen(text), at_end != 0), strlen(text));
        memset(&address, 0, sizeof address);
        (void)sdci_parse_authority(s, &address);
        (void)sdci_parse_u64(s, UINT64_MAX, &number);
        (void)sdci_trim(s);
        (void)sdci_http_is_token(s);
        CHECK(sdci_equal_nocase(s, sdci_str_of(text)));
        sdci_buf_init(&buf, &a, 100000);
        sdci_put_base64(&buf, s);
        sdci_buf_deinit(&buf);
    }
}

static void test_guard_urls(void)
{
    static const char *const texts[] = {
        "", "h", "h:", "h:8", "h:8500", ":", "[", "[]", "[:", "[::1", "[::1]", "[::1]:", "[::1]:85",
        "http:/", "http://", "http://h", "http://h/", "http://h/a/", "http://h/a%", "https://h:1/p",
        "unix:", "unix://", "unix:///a", "/", "//", ".", "..", "a/", "a/.", "a/..", "\xc3", "\xe2",
        "\xe2\x80", "\xf0\x9f\x98", "\xc2\xa0", "a\xc3", "a b", " ", "\t ", "%", "a\xe2\x80\xa8",
        "18446744073709551615", "0", "Content-Length", "a@b"
    };
    guard g;

    REQUIRE(guard_init(&g, 4096));
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        test_note("%s", texts[i]);
        guard_try_text(&g, texts[i]);
        guard_try_slice(&g, texts[i]);
    }
    guard_deinit(&g);
}

static const test_case cases_guard[] = {
    TEST(test_guard_json),
    TEST(test_guard_entries),
    TEST(test_guard_http),
    TEST(test_guard_urls)
};
