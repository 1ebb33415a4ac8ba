/* What holds for all three decoders: any cut gives the same events, memory is bounded, and each
   allocation may fail. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"
#include "../fuzz/feed.h"
#include "../fuzz/files.h"
#include "../fuzz/model.h"

static const char *const split_names[] = { "json", "entries", "http" };

/* -- Every input in every cut -- */

static void split_try_file(void *user, const char *path, const unsigned char *bytes, size_t len)
{
    feed *f = (feed *)user;

    test_note("%s", files_name(path));
    (void)feed_check(f, bytes, len);
}

/* The inputs of the fuzz targets, each for its decoder. */
static void test_split_corpora(void)
{
    char folder[512];
    char rest[64];

    for (int kind = FEED_JSON; kind <= FEED_HTTP; kind++) {
        feed f;
        feed_init(&f, (feed_kind)kind, NULL);
        REQUIRE(f.made == SDC_OK);
        snprintf(rest, sizeof rest, "../fuzz/corpus/%s", split_names[kind]);
        files_beside(__FILE__, rest, folder, sizeof folder);
        CHECK(files_each(folder, split_try_file, &f) >= 10);
        feed_deinit(&f);
    }
}

/* Rich inputs, from which the mutants are made. */
static const char split_json[] =
    " {\"a\\u00e9\\ud83d\\ude00\":[1,-0.5e+10,true,false,null,\"x\\n\\\"\xc3\xa9\"],"
    "\"b\":{\"c\":[[],{}]},\"d\":18446744073709551615} ";
static const char split_entries[] =
    "[{\"Node\":{\"Node\":\"n1\",\"Address\":\"10.0.0.1\",\"Datacenter\":\"dc1\",\"Meta\":null},"
    "\"Service\":{\"ID\":\"w\\u0031\",\"Tags\":[\"b\",\"a\\\\\"],\"Meta\":{\"k\":\"v\"},"
    "\"Port\":80,"
    "\"Ports\":[{\"Name\":\"p\",\"Port\":1,\"Default\":true}],\"Weights\":{\"Passing\":3},"
    "\"TaggedAddresses\":{\"lan\":{\"Address\":\"1\",\"Port\":2}},\"Proxy\":{\"x\":[{}]}},"
    "\"Checks\":[{\"CheckID\":\"c\",\"Status\":\"warning\"}]},{\"Service\":{\"Address\":\"::1\","
    "\"Port\":8000}},{\"Service\":{\"Port\":-1}},null]";
static const char split_http[] =
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Consul-Index: 42\r\nVary: a\r\n b\r\n"
    "Transfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n1A\r\n01234567890123456789012345\r\n"
    "0\r\nTrailer: x\r\n\r\nHTTP/1.1 200";

static const char *split_input(int kind)
{
    const char *const inputs[] = { split_json, split_entries, split_http };

    return inputs[kind];
}

static size_t split_upto(uint64_t *random, size_t max)
{
    return feed_place(random, max + 1);
}

/* One to four small changes: a byte replaced, removed, inserted or doubled, or two swapped. */
static size_t split_mutate(char *text, size_t len, uint64_t *random)
{
    static const char likely[] = "\"\\{}[],:"
                                 "0123456789-+.eEtfnu \r\n\t;aA\xc3\xa9\xed\xa0\x80\xff\x01";

    for (size_t left = 1 + split_upto(random, 3); left > 0 && len > 1; left--) {
        size_t at = split_upto(random, len - 1);
        size_t how = split_upto(random, 4);
        char c = likely[split_upto(random, sizeof likely - 2)];
        if (how == 0) {
            text[at] = c;
        } else if (how == 1) {
            memmove(text + at, text + at + 1, len - at - 1);
            len--;
        } else if (how == 2 || how == 3) {
            memmove(text + at + 1, text + at, len - at);
            text[at] = how == 2 ? c : text[at + 1];
            len++;
        } else {
            size_t other = split_upto(random, len - 1);
            char kept = text[at];
            text[at] = text[other];
            text[other] = kept;
        }
    }
    return len;
}

/* The property where inputs are odd: mutants in three cuts each, seeded. */
static void test_split_mutants(void)
{
    enum { NUM_MUTANTS = 6000 };
    char text[1000];
    uint64_t random = 20;

    for (int kind = FEED_JSON; kind <= FEED_HTTP; kind++) {
        feed f;
        feed_init(&f, (feed_kind)kind, NULL);
        REQUIRE(f.made == SDC_OK);
        for (int n = 0; n < NUM_MUTANTS && test_num_failures() < 5; n++) {
            size_t len = strlen(split_input(kind));
            memcpy(text, split_input(kind), len);
            len = split_mutate(text, len, &random);
            f.first.len = 0;
            feed_puts(&f.first, feed_whole(&f, text, len));
            bool is_same = true;
            for (int cut = 0; cut < 3 && is_same; cut++) {
                size_t at = split_upto(&random, len);
                size_t step = split_upto(&random, 9);
                (void)feed_in_pieces(&f, text, len, at, step);
                is_same = feed_same(&f, "cut at", at);
            }
            if (!is_same || !f.each_instance_is_sane) {
                FAIL("%s mutant %d \"%.*s\": %s", split_names[kind], n, (int)len, text, f.why);
            }
        }
        feed_deinit(&f);
    }
}

/* Bodies of many entries, so that what is learned from one is used on the next, with changes in
   any of them, against the plain model: the same instances, number left out and error. */
static size_t split_put_mutants(char *text, size_t size, uint64_t *random)
{
    size_t len = 1;

    text[0] = '[';
    for (int i = 0; i < 6 && len + 2 * sizeof split_entries < size; i++) {
        size_t inner = sizeof split_entries - 3;
        text[len++] = i == 0 ? ' ' : ',';
        memcpy(text + len, split_entries + 1, inner);
        bool is_changed = split_upto(random, 3) == 0;
        len += is_changed ? split_mutate(text + len, inner, random) : inner;
    }
    text[len++] = ']';
    return len;
}

static void test_split_mutants_against_the_model(void)
{
    enum { NUM_BODIES = 1500 };
    static char text[8192];
    uint64_t random = 7;
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    REQUIRE(f.made == SDC_OK);
    f.omits_reasons = true;
    for (int n = 0; n < NUM_BODIES && test_num_failures() < 5; n++) {
        size_t len = split_put_mutants(text, sizeof text, &random);
        feed_log want = model_log(text, len);
        f.first.len = 0;
        feed_put(&f.first, want.text, want.len);
        (void)feed_in_pieces(&f, text, len, split_upto(&random, len), split_upto(&random, 3000));
        if (!feed_same(&f, "against the model, cut at", 0)) {
            FAIL("body %d \"%.*s\": %s", n, (int)len, text, f.why);
        }
        free(want.text);
    }
    feed_deinit(&f);
}

/* An entry as in a long answer; its parts are what the slots of split_put_alike replace. */
static const char *const split_alike[] = {
    "{\"Node\":{\"Node\":\"", "n1", "\",\"Address\":\"", "10.0.0.1", "\",\"CreateIndex\":", "12",
    "},\"Service\":{\"ID\":\"", "web-1", "\",\"Tags\":[\"", "v1", "\",\"b\"],\"Meta\":{\"", "key",
    "\":\"", "value", "\"},\"Port\":", "8000", ",\"Weights\":{\"Passing\":", "1",
    "}},\"Checks\":[{\"CheckID\":\"", "serfHealth", "\",\"Output\":\"", "all is well",
    "\",\"Status\":\"", "passing", "\",\"ExposedPort\":", "0", "}]}"
};

enum { SPLIT_NUM_ALIKE = sizeof split_alike / sizeof split_alike[0] };

/* Twelve entries of one form, so that the form is known, but for one part of the tenth. */
static size_t split_put_alike(char *text, size_t size, size_t part, const char *value)
{
    size_t len = 0;

    for (int n = 0; n < 12; n++) {
        text[len++] = n == 0 ? '[' : ',';
        for (size_t i = 0; i < SPLIT_NUM_ALIKE; i++) {
            const char *piece = n == 9 && i == part ? value : split_alike[i];
            if (len + strlen(piece) + 2 > size) {
                FAIL("too long");
                return 0;
            }
            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
    }
    text[len++] = ']';
    return len;
}

static void split_try_alike(feed *f, size_t part, const char *value)
{
    static char text[8192];
    static const size_t steps[] = { 0, 1, 200, 777 };
    size_t len = split_put_alike(text, sizeof text, part, value);
    feed_log want = model_log(text, len);

    f->first.len = 0;
    feed_put(&f->first, want.text, want.len);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        (void)feed_in_pieces(f, text, len, 0, steps[i]);
        if (!feed_same(f, "against the model in steps of", steps[i])) {
            FAIL("\"%s\" after \"%s\": %s", value, split_alike[part - 1], f->why);
        }
    }
    free(want.text);
}

/* What is odd in the tenth of many alike entries is seen as it would be in the first. */
static void test_split_odd_values_among_many_alike(void)
{
    static const char *const numbers[] = {
        "0", "7", "65535", "65536", "100000", "999999999999999", "1234567890123456",
        "12345678901234567", "007", "00", "0080", "-0", "-1", "1.5", "1.", "1e2", "8E1", "0.5",
        "0e1", "1e", "+1", "", " 5 ", "5 ", "5x", "true", "false", "null", "nul", "\"5\"", "{}",
        "[]", "[1]", "{\"a\":5}", "5,\"x\":6", "5,", "18446744073709551616", ".5", "1-", "1,1"
    };
    static const char *const texts[] = {
        "", "a", "0123456789abcde", "0123456789abcdef", "0123456789abcdef0", "a\\nb", "\\u0041",
        "\\u0000", "a\\u0000", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "a\x01z", "a\nz", "\xc3\xa9",
        "a\xc3", "\xff", "\xed\xa0\x80", "a\"z", "\\\"", "\\", "\\x", "a b", "critical", "warning",
        "_node_maintenance", "::1", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abc",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "\",\"x\":\"", "\"", "a\",1,\"", "\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9"
    };
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    REQUIRE(f.made == SDC_OK);
    f.omits_reasons = true;
    for (size_t part = 1; part < SPLIT_NUM_ALIKE; part += 2) {
        bool is_text = split_alike[part - 1][strlen(split_alike[part - 1]) - 1] == '"';
        size_t num = is_text ? sizeof texts / sizeof texts[0] : sizeof numbers / sizeof numbers[0];
        for (size_t i = 0; i < num && test_num_failures() < 5; i++) {
            split_try_alike(&f, part, is_text ? texts[i] : numbers[i]);
        }
    }
    feed_deinit(&f);
}

typedef struct split_refuser {
    unsigned left;
} split_refuser;

static sdc_err split_refuse(void *user, const sdc_instance *instance)
{
    split_refuser *r = (split_refuser *)user;

    (void)instance;
    r->left--;
    return r->left == 0 ? SDC_ERR_USER : SDC_OK;
}

/* What the program refuses is told with the byte that ended the entry, in any cut, also where the
   entries behind it are empty. */
static void test_split_a_refused_instance_names_its_end(void)
{
    static char text[8192];
    split_refuser r;
    sdc_entries *entries = NULL;
    sdc_error error;
    size_t ends[25] = { 0 };
    size_t len = 0;

    for (unsigned n = 1; n <= 24; n++) {
        const char *more = n % 3 == 0 ? ",{}" : n % 4 == 0 ? ",{\"Service\":{}}" : "";
        len += (size_t)snprintf(text + len, sizeof text - len,
                                "%s{\"Node\":{\"Address\":\"10.0.0.1\"},"
                                "\"Service\":{\"Port\":80,\"ID\":\"web\"}}", n == 1 ? "[" : ",");
        ends[n] = len - 1;
        len += (size_t)snprintf(text + len, sizeof text - len, "%s", more);
    }
    text[len++] = ']';
    REQUIRE(sdc_entries_create(NULL, split_refuse, &r, &entries) == SDC_OK);
    for (unsigned nth = 1; nth <= 24; nth++) {
        for (size_t cut = 0; cut < len; cut += 1 + cut / 40) {
            char want[100];
            snprintf(want, sizeof want, "JSON, byte %zu: the program's own error", ends[nth]);
            r.left = nth;
            sdc_entries_reset(entries);
            (void)sdc_entries_feed(entries, text, cut);
            (void)sdc_entries_feed(entries, text + cut, len - cut);
            CHECK_ERR(sdc_entries_finish(entries), SDC_ERR_USER);
            sdc_entries_error(entries, &error);
            test_note("instance %u, cut at %zu", nth, cut);
            CHECK_STR(error.message, want);
        }
    }
    sdc_entries_destroy(entries);
}

static void test_split_empty_feeds_change_nothing(void)
{
    for (int kind = FEED_JSON; kind <= FEED_HTTP; kind++) {
        const char *text = split_input(kind);
        feed f;
        feed_init(&f, (feed_kind)kind, NULL);
        REQUIRE(f.made == SDC_OK);
        feed_puts(&f.first, feed_whole(&f, text, strlen(text)));
        feed_begin(&f);
        bool goes_on = feed_piece(&f, text, 0);
        for (size_t i = 0; goes_on && i < strlen(text); i++) {
            goes_on = feed_piece(&f, text + i, 1) && feed_piece(&f, text + i + 1, 0);
        }
        (void)feed_end(&f, strlen(text));
        CHECK_STR(f.log.text, f.first.text);
        feed_deinit(&f);
    }
}

/* -- Memory -- */

typedef struct split_count {
    uint64_t num;
} split_count;

static sdc_err split_count_instance(void *user, const sdc_instance *instance)
{
    (void)instance;
    ((split_count *)user)->num++;
    return SDC_OK;
}

/* A body of about `size` bytes: the entries of a real answer, again and again. */
static char *split_long_body(size_t size, size_t *len, uint64_t *num_entries)
{
    char path[512];
    size_t one_len = 0;

    files_beside(__FILE__, "data/entries/agent_1_22.json", path, sizeof path);
    char *one = (char *)files_read(path, &one_len);
    char *body = one != NULL && one_len > 2 ? (char *)malloc(size + one_len) : NULL;
    *len = 0;
    *num_entries = 0;
    while (body != NULL && *len < size) {
        body[*len] = *len == 0 ? '[' : ',';
        memcpy(body + *len + 1, one + 1, one_len - 2);
        *len += one_len - 1;
        *num_entries += 7;
    }
    if (body != NULL) {
        body[*len] = ']';
        (*len)++;
    }
    free(one);
    return body;
}

static sdc_err split_feed_entries(sdc_entries *entries, const char *body, size_t len, size_t piece)
{
    sdc_err err = SDC_OK;

    for (size_t at = 0; at < len && err == SDC_OK; at += piece) {
        err = sdc_entries_feed(entries, body + at, piece < len - at ? piece : len - at);
    }
    return err == SDC_OK ? sdc_entries_finish(entries) : err;
}

/* 20 MB hold no more than one entry does, and once that memory is there no more is asked for. */
static void test_60_a_body_of_20_mb_in_little_memory(void)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    size_t len = 0;
    uint64_t num_entries = 0;
    char *body = split_long_body((size_t)20 << 20, &len, &num_entries);
    sdc_entries *entries = NULL;
    split_count count = { 0 };

    REQUIRE(body != NULL);
    CHECK_ERR(sdc_entries_create(&hook, split_count_instance, &count, &entries), SDC_OK);
    CHECK_ERR(split_feed_entries(entries, body, len, 65536), SDC_OK);
    CHECK_U64(count.num + sdc_entries_skipped(entries), num_entries);
    CHECK_BETWEEN(memory.peak_bytes, 1, 96 << 10);
    uint64_t num_calls = memory.num_calls;
    CHECK(num_calls < 100);
    sdc_entries_reset(entries);
    CHECK_ERR(split_feed_entries(entries, body, len > 1 << 20 ? 1 << 20 : len, 65536),
              SDC_ERR_JSON);
    CHECK_U64(memory.num_calls, num_calls);
    sdc_entries_destroy(entries);
    fault_alloc_deinit(&memory);
    free(body);
}

/* What nobody wants is not held, however long it is. */
static void test_60_long_tokens_in_little_memory(void)
{
    static const char *const starts[] = { "[{\"x\":\"", "[{\"x\":{\"y\":[\"", "[{\"x\":[1",
                                          "[{\"x\":", "[{\"x\":{\"y\":1," };
    static const char *const items[] = { "text text\\n\xc3\xa9 ", "\",\"b", ",-12.5e3,{},[]",
                                         "                ", "\"z\":{}," };
    size_t len = (size_t)4 << 20;
    char *body = (char *)malloc(len + 32);

    REQUIRE(body != NULL);
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        fault_alloc memory;
        fault_alloc_init(&memory);
        sdc_allocator hook = fault_alloc_hook(&memory);
        split_count count = { 0 };
        sdc_entries *entries = NULL;
        size_t at = strlen(starts[i]);
        memcpy(body, starts[i], at);
        for (; at < len; at += strlen(items[i])) {
            memcpy(body + at, items[i], strlen(items[i]));
        }
        test_note("%s", starts[i]);
        CHECK_ERR(sdc_entries_create(&hook, split_count_instance, &count, &entries), SDC_OK);
        CHECK_ERR(split_feed_entries(entries, body, at, 1000), SDC_ERR_JSON);
        sdc_error error;
        sdc_entries_error(entries, &error);
        CHECK_HAS(error.message, "the text ends too early");
        CHECK_BETWEEN(memory.peak_bytes, 1, 96 << 10);
        sdc_entries_destroy(entries);
        fault_alloc_deinit(&memory);
    }
    free(body);
}

/* A head holds one field; a body of any framing nothing. */
static void test_60_answers_in_little_memory(void)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    feed_log text = { NULL, 0, 0 };
    sdc_http_handler handler;
    sdc_http *http = NULL;
    size_t used = 0;

    feed_puts(&text, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 500; i++) {
        feed_puts(&text, "X-Field-Of-A-Hundred-Bytes: 0123456789012345678901234567890123456789012"
                  "34567890123456789012345\r\n");
    }
    feed_puts(&text, "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 20000; i++) {
        feed_puts(&text, "40\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
                  "\r\n");
    }
    feed_puts(&text, "0\r\n\r\n");
    memset(&handler, 0, sizeof handler);
    CHECK_ERR(sdc_http_create(&hook, &handler, &http), SDC_OK);
    for (size_t at = 0; at < text.len && test_num_failures() == 0; at += 1460) {
        size_t piece = text.len - at < 1460 ? text.len - at : 1460;
        CHECK_ERR(sdc_http_feed(http, text.text + at, piece, &used), SDC_OK);
        CHECK_INT(used, piece);
    }
    CHECK(sdc_http_is_complete(http));
    CHECK_BETWEEN(memory.peak_bytes, 1, 4096);
    sdc_http_destroy(http);
    fault_alloc_deinit(&memory);
    free(text.text);
}

/* -- Each allocation may fail -- */

/* What is fed: byte by byte, so that tokens are kept over many feeds, or many entries at once. */
typedef struct split_case {
    int    kind;
    size_t step;
    size_t times;               /* the input's entries come so often */
} split_case;

static size_t split_put_case(const split_case *c, char *text, size_t size)
{
    const char *input = split_input(c->kind);
    size_t len = strlen(input);
    size_t at = len;

    if (!CHECK(len * c->times < size)) {
        return 0;
    }
    memcpy(text, input, len);
    for (size_t n = 1; n < c->times; n++) {
        text[at - 1] = ',';
        memcpy(text + at, input + 1, len - 1);
        at += len - 1;
    }
    return at;
}

/* One run with the nth allocation failing. True: there were fewer. */
static bool split_run_without_memory(const split_case *c, uint64_t nth, bool for_good,
                                     const char *text, size_t len, const char *want)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    feed f;

    test_note("%s in steps of %zu, allocation %u fails%s", split_names[c->kind], c->step,
              (unsigned)nth, for_good ? " for good" : "");
    fault_alloc_fail(&memory, nth, for_good);
    feed_init(&f, (feed_kind)c->kind, &hook);
    CHECK(f.made == SDC_OK || f.made == SDC_ERR_NOMEM);
    if (f.made == SDC_OK) {
        (void)feed_in_pieces(&f, text, len, 0, c->step);
        CHECK(f.err == SDC_ERR_NOMEM || strcmp(f.log.text, want) == 0);
        CHECK(f.err == SDC_ERR_NOMEM || f.err == SDC_OK);
        fault_alloc_fail(&memory, 0, false);
        CHECK_STR(feed_in_pieces(&f, text, len, 0, c->step), want);
    }
    bool is_past = memory.num_failed == 0;
    CHECK(!is_past || f.err == SDC_OK);
    feed_deinit(&f);
    fault_alloc_deinit(&memory);
    return is_past;
}

/* The nth allocation fails, once or from then on, until none is left to fail: out of memory or
   the right answer, nothing lost, and good again after a reset. */
static void test_split_every_allocation_may_fail(void)
{
    static const split_case cases[] = { { FEED_JSON, 1, 1 }, { FEED_JSON, 0, 1 },
                                        { FEED_ENTRIES, 1, 1 }, { FEED_ENTRIES, 0, 1 },
                                        { FEED_ENTRIES, 0, 10 }, { FEED_ENTRIES, 700, 10 },
                                        { FEED_HTTP, 1, 1 }, { FEED_HTTP, 0, 1 } };
    static char text[8192];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const split_case *c = &cases[i];
        size_t len = split_put_case(c, text, sizeof text);
        feed f;
        feed_init(&f, (feed_kind)c->kind, NULL);
        REQUIRE(f.made == SDC_OK);
        (void)feed_whole(&f, text, len);
        CHECK_ERR(f.err, SDC_OK);
        for (int for_good = 0; for_good <= 1; for_good++) {
            uint64_t nth = 1;
            while (!split_run_without_memory(c, nth, for_good != 0, text, len, f.log.text) &&
                   nth < 200) {
                nth++;
            }
            CHECK_BETWEEN(nth, 2, 100);
        }
        feed_deinit(&f);
    }
}

/* A long number may end where a feed does; what comes then is read on. */
static void test_split_long_numbers_at_the_end_of_a_feed(void)
{
    static char text[3000];
    feed f;
    feed_init(&f, FEED_ENTRIES, NULL);
    REQUIRE(f.made == SDC_OK);
    for (size_t digits = 200; digits < 1000; digits += 37) {
        size_t len = (size_t)snprintf(text, sizeof text, "[{\"Service\":{\"x\":");
        memset(text + len, '7', digits);
        len += digits;
        size_t end = len;
        len += (size_t)snprintf(text + len, sizeof text - len,
                                ",\"Address\":\"1.1.1.1\",\"Port\":1,\"y\":\"%0900d\"}}]", 0);
        for (size_t cut = end - 1; cut <= end + 1; cut++) {
            test_note("%zu digits, cut at %zu", digits, cut);
            feed_begin(&f);
            (void)feed_piece(&f, text, cut);
            (void)feed_piece(&f, text + cut, len - cut);
            CHECK_STR(feed_end(&f, len), "1.1.1.1:1 passing weight=1\nok, 0 skipped");
        }
    }
    feed_deinit(&f);
}

/* What an entry may hold does not depend on the cut either. */
static void test_split_the_bound_of_an_entry(void)
{
    const size_t most = (size_t)1 << 20;
    char *text = (char *)malloc(most + 200);
    feed f;
    feed_init(&f, FEED_ENTRIES, NULL);
    REQUIRE(f.made == SDC_OK && text != NULL);
    for (size_t id = most - 40; id < most; id++) {
        size_t len = (size_t)sprintf(text, "[{\"Service\":{\"Address\":\"a\",\"Port\":1,\"ID\":\"");
        memset(text + len, 'x', id);
        len += id;
        len += (size_t)sprintf(text + len, "\"}}]");
        bool is_skipped = strstr(feed_whole(&f, text, len), "1 skipped") != NULL;
        feed_begin(&f);
        (void)feed_piece(&f, text, 100);
        (void)feed_piece(&f, text + 100, len - 100);
        test_note("an ID of %zu", id);
        CHECK_INT(strstr(feed_end(&f, len), "1 skipped") != NULL, is_skipped);
    }
    free(text);
    feed_deinit(&f);
}

static const test_case cases_split[] = {
    TEST(test_split_the_bound_of_an_entry),
    TEST(test_split_long_numbers_at_the_end_of_a_feed),
    TEST(test_split_corpora),
    TEST(test_split_mutants),
    TEST(test_split_mutants_against_the_model),
    TEST(test_split_odd_values_among_many_alike),
    TEST(test_split_a_refused_instance_names_its_end),
    TEST(test_split_empty_feeds_change_nothing),
    TEST(test_60_a_body_of_20_mb_in_little_memory),
    TEST(test_60_long_tokens_in_little_memory),
    TEST(test_60_answers_in_little_memory),
    TEST(test_split_every_allocation_may_fail)
};
