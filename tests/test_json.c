/* The JSON decoder: the grammar, text, numbers, limits, and what its callback may say. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"
#include "../fuzz/feed.h"
#include "../fuzz/files.h"

/* The log of an input after all ways to cut it were tried. Valid until the next call. */
static const char *json_log_of(const void *bytes, size_t len)
{
    static char log[8192];
    feed f;

    feed_init(&f, FEED_JSON, NULL);
    snprintf(log, sizeof log, "%s", feed_check(&f, bytes, len));
    feed_deinit(&f);
    return log;
}

static const char *json_log(const char *text)
{
    return json_log_of(text, strlen(text));
}

/* -- Grammar -- */

static void test_json_tokens_in_order(void)
{
    CHECK_STR(json_log("[]"), "[ ] | ok");
    CHECK_STR(json_log(" {\r\n\t} "), "{ } | ok");
    CHECK_STR(json_log("{\"a\":1,\"b\":[true,false,null,\"x\",-2.5e+3],\"c\":{}}"),
              "{ \"a\": 1 \"b\": [ true false null \"x\" -2.5e+3 ] \"c\": { } } | ok");
    CHECK_STR(json_log("[[],[[]],{\"a\":[{}]}]"), "[ [ ] [ [ ] ] { \"a\": [ { } ] } ] | ok");
}

static void test_json_any_value_at_the_top(void)
{
    CHECK_STR(json_log("null"), "null | ok");
    CHECK_STR(json_log(" true "), "true | ok");
    CHECK_STR(json_log("\"10.0.0.1:8300\""), "\"10.0.0.1:8300\" | ok");
    CHECK_STR(json_log("0"), "0 | ok");
    CHECK_STR(json_log("-12.5"), "-12.5 | ok");
    CHECK_STR(json_log("7\n"), "7 | ok");
}

static void test_json_says_what_is_wrong_and_where(void)
{
    CHECK_STR(json_log(""), "| JSON: JSON, byte 0: the text ends too early");
    CHECK_STR(json_log("[1,]"), "[ 1 | JSON: JSON, byte 3: a value is missing");
    CHECK_STR(json_log("[1 2]"), "[ 1 | JSON: JSON, byte 3: ',' or ']' is missing");
    CHECK_STR(json_log("{\"a\":1]"), "{ \"a\": 1 | JSON: JSON, byte 6: ',' or '}' is missing");
    CHECK_STR(json_log("{\"a\" 1}"), "{ \"a\": | JSON: JSON, byte 5: ':' is missing");
    CHECK_STR(json_log("{\"a\":1,}"), "{ \"a\": 1 | JSON: JSON, byte 7: a member name is missing");
    CHECK_STR(json_log("[] []"), "[ ] | JSON: JSON, byte 3: more bytes after the value");
    CHECK_STR(json_log("[tru]"),
              "[ | JSON: JSON, byte 4: neither true, false nor null");
    CHECK_STR(json_log("[01]"), "[ 0 | JSON: JSON, byte 2: ',' or ']' is missing");
    CHECK_STR(json_log("[1.]"), "[ | JSON: JSON, byte 3: a malformed number");
    CHECK_STR(json_log("[\"a\\x\"]"), "[ | JSON: JSON, byte 4: an unknown escape in a string");
    CHECK_STR(json_log("[\"a\nb\"]"),
              "[ | JSON: JSON, byte 3: a control character in a string");
    CHECK_STR(json_log("[\"\\u00zz\"]"),
              "[ | JSON: JSON, byte 6: \\u needs four hexadecimal digits");
    CHECK_STR(json_log("[\"ab\xff\"]"), "[ | JSON: JSON, byte 4: invalid UTF-8");
    CHECK_STR(json_log("[1"), "[ | JSON: JSON, byte 2: the text ends too early");
}

/* -- Line 67: text -- */

static void test_67_escapes_become_their_characters(void)
{
    CHECK_STR(json_log("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
              "\"\\x22\\x5C/\\x08\\x0C\\x0A\\x0D\\x09\" | ok");
    CHECK_STR(json_log("\"\\u003cb\\u003E \\u0026\""), "\"<b> &\" | ok");
    CHECK_STR(json_log("\"\\u00e9\\u20ac\\u2028\""),
              "\"\\xC3\\xA9\\xE2\\x82\\xAC\\xE2\\x80\\xA8\" | ok");
    CHECK_STR(json_log("\"a\\u0041b\""), "\"aAb\" | ok");
    CHECK_STR(json_log("{\"\\u0050ort\":1}"), "{ \"Port\": 1 } | ok");
}

static void test_67_nul_is_a_character_of_the_text(void)
{
    CHECK_STR(json_log("[\"a\\u0000b\",\"\\u0000\"]"), "[ \"a\\x00b\" \"\\x00\" ] | ok");
    CHECK_STR(json_log("{\"\\u0000\":0}"), "{ \"\\x00\": 0 } | ok");
    CHECK_STR(json_log_of("[\"a\0b\"]", 7),
              "[ | JSON: JSON, byte 3: a control character in a string");
}

static void test_67_surrogate_pairs_become_one_character(void)
{
    CHECK_STR(json_log("\"\\ud83d\\ude00\""), "\"\\xF0\\x9F\\x98\\x80\" | ok");
    CHECK_STR(json_log("\"\\ud800\\udc00\""), "\"\\xF0\\x90\\x80\\x80\" | ok");
    CHECK_STR(json_log("\"\\uDBFF\\uDFFF\""), "\"\\xF4\\x8F\\xBF\\xBF\" | ok");
    CHECK_STR(json_log("\"x\\ud83d\\ude00y\""), "\"x\\xF0\\x9F\\x98\\x80y\" | ok");
}

static void test_67_lone_surrogates_are_refused(void)
{
    static const char *const lone[] = {
        "\"\\ud800\"", "\"\\udbff\"", "\"\\udc00\"", "\"\\udfff\"", "\"\\ud800x\"",
        "\"\\ud800\\n\"", "\"\\ud800\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\\ud800\"",
        "\"\\ud800\\ue000\"", "\"\\ud800\\udbff\"", "\"\\ud800\\udc00\\udc00\"",
        "{\"\\ud800\":1}"
    };

    for (size_t i = 0; i < sizeof lone / sizeof lone[0]; i++) {
        test_note("%s", lone[i]);
        CHECK_HAS(json_log(lone[i]), "| JSON: JSON, byte ");
        CHECK_HAS(json_log(lone[i]), "half of a surrogate pair");
    }
}

/* What UTF-8 is, by decoding it (RFC 3629). */
static bool json_is_utf8(const unsigned char *b, size_t len)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };

    while (len > 0) {
        size_t need = b[0] < 0x80 ? 1 : b[0] >= 0xF8 ? 0 : b[0] >= 0xF0 ? 4 : b[0] >= 0xE0 ? 3
                    : b[0] >= 0xC0 ? 2 : 0;
        uint32_t c = need == 1 ? b[0] : b[0] & (0xFFu >> (need + 1));
        if (need == 0 || need > len) {
            return false;
        }
        for (size_t i = 1; i < need; i++) {
            if ((b[i] & 0xC0) != 0x80) {
                return false;
            }
            c = c << 6 | (b[i] & 0x3Fu);
        }
        if (c < least[need] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) {
            return false;
        }
        b += need;
        len -= need;
    }
    return true;
}

static sdc_err json_ignore(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    (void)user;
    (void)kind;
    (void)text;
    (void)len;
    return SDC_OK;
}

/* All texts of up to four bytes from the ends of the ranges that the definition names. */
static void test_67_utf8_by_its_definition(void)
{
    static const unsigned char bytes[] = { 0x20, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                                           0xC1, 0xC2, 0xDF, 0xE0, 0xEC, 0xED, 0xEE, 0xEF, 0xF0,
                                           0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF };
    enum { NUM = sizeof bytes };
    sdc_json *json = NULL;

    REQUIRE(sdc_json_create(NULL, json_ignore, NULL, &json) == SDC_OK);
    for (unsigned n = 0; n < NUM * NUM * NUM * NUM * 4; n++) {
        unsigned rest = n / 4;
        size_t len = n % 4 + 1;
        unsigned char text[6] = { '"', bytes[rest % NUM], bytes[rest / NUM % NUM],
                                  bytes[rest / NUM / NUM % NUM], bytes[rest / NUM / NUM / NUM],
                                  '"' };
        text[len + 1] = '"';
        sdc_json_reset(json);
        (void)sdc_json_feed(json, text, len + 2);
        bool is_taken = sdc_json_finish(json) == SDC_OK;
        if (is_taken != json_is_utf8(text + 1, len)) {
            FAIL("%s: %02x %02x %02x %02x, the first %zu", is_taken ? "taken" : "refused", text[1],
                 text[2], text[3], text[4], len);
        }
    }
    sdc_json_destroy(json);
}

/* Every code point, as bytes and as an escape, gives the same text, or is refused both times. */
static sdc_err json_keep_text(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    char *out = (char *)user;

    (void)kind;
    out[0] = (char)len;
    memcpy(out + 1, text, len < 8 ? len : 8);
    return SDC_OK;
}

static size_t json_put_utf8(char *out, uint32_t c)
{
    sdci_buf buf;
    sdc_json json;
    sdc_allocator malloc_of = sdci_allocator_or_malloc(NULL);

    memset(&json, 0, sizeof json);
    sdci_buf_init(&buf, &malloc_of, 16);
    json.text = buf;
    sdci_json_keep_code_point(&json, c);
    size_t len = json.text.len;
    memcpy(out, json.text.ptr, len);
    sdci_buf_deinit(&json.text);
    return len;
}

static void test_67_every_code_point_escaped_and_raw(void)
{
    char escaped[16];
    char raw[16];
    sdc_json *json = NULL;

    REQUIRE(sdc_json_create(NULL, json_keep_text, escaped, &json) == SDC_OK);
    for (uint32_t c = 0x20; c <= 0x10FFFF; c += c < 0x3000 || (c > 0xD000 && c < 0xE100) ? 1 : 97) {
        char text[32];
        bool is_surrogate = c >= 0xD800 && c <= 0xDFFF;
        size_t len = c < 0x10000
            ? (size_t)snprintf(text, sizeof text, "\"\\u%04x\"", (unsigned)c)
            : (size_t)snprintf(text, sizeof text, "\"\\u%04X\\u%04x\"",
                               (unsigned)(0xD800 + ((c - 0x10000) >> 10)),
                               (unsigned)(0xDC00 + ((c - 0x10000) & 0x3FF)));
        sdc_json_reset(json);
        sdc_err err = sdc_json_feed(json, text, len);
        CHECK_ERR(err, is_surrogate ? SDC_ERR_JSON : SDC_OK);
        if (is_surrogate || c == '"' || c == '\\') {
            continue;
        }
        raw[0] = (char)json_put_utf8(raw + 1, c);
        CHECK_MEM(escaped, (size_t)escaped[0] + 1, raw, (size_t)raw[0] + 1);
        size_t raw_len = (size_t)raw[0];
        memmove(raw + 1, raw + 1, raw_len);
        raw[0] = '"';
        raw[raw_len + 1] = '"';
        sdc_json_reset(json);
        CHECK_ERR(sdc_json_feed(json, raw, raw_len + 2), SDC_OK);
        CHECK_MEM(escaped + 1, (size_t)escaped[0], raw + 1, raw_len);
        if (test_num_failures() > 5) {
            break;
        }
    }
    sdc_json_destroy(json);
}

/* -- Line 68: numbers -- */

static void test_68_numbers_keep_every_digit(void)
{
    CHECK_STR(json_log("[9007199254740993,9223372036854775808,18446744073709551615]"),
              "[ 9007199254740993 9223372036854775808 18446744073709551615 ] | ok");
    CHECK_STR(json_log("[18446744073709551616,-9223372036854775809,0.10000000000000000001]"),
              "[ 18446744073709551616 -9223372036854775809 0.10000000000000000001 ] | ok");
    CHECK_STR(json_log("[-0,0e0,1E+05,1e-05]"), "[ -0 0e0 1E+05 1e-05 ] | ok");
}

static void test_json_numbers_are_checked(void)
{
    static const char *const bad[] = { "[+1]", "[.5]", "[1.]", "[1e]", "[1e+]", "[-]", "[--1]",
                                       "[0x10]", "[01]", "[-01]", "[1e1.5]", "[1_0]", "[1.e1]",
                                       "[NaN]", "[Infinity]", "[-Infinity]", "1.", "-", "1e", "01",
                                       "1a" };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_note("%s", bad[i]);
        CHECK_HAS(json_log(bad[i]), "| JSON: JSON, byte ");
    }
}

/* -- Limits -- */

static char *json_nested(const char *open, const char *close, size_t depth)
{
    size_t size = depth * (strlen(open) + strlen(close)) + 1;
    char *text = (char *)malloc(size);
    char *p = text;

    for (size_t i = 0; text != NULL && i < depth; i++) {
        memcpy(p, open, strlen(open));
        p += strlen(open);
    }
    for (size_t i = 0; text != NULL && i < depth; i++) {
        memcpy(p, close, strlen(close));
        p += strlen(close);
    }
    if (text != NULL) {
        *p = '\0';
    }
    return text;
}

static void test_60_depth_of_64_is_the_limit(void)
{
    char *fits = json_nested("[", "]", 64);
    char *deeper = json_nested("[", "]", 65);
    char *objects = json_nested("{\"a\":[", "]}", 32);

    REQUIRE(fits != NULL && deeper != NULL && objects != NULL);
    CHECK_HAS(json_log(fits), "] | ok");
    CHECK_HAS(json_log(deeper), "| LIMIT: JSON, byte 64: nested deeper than 64 levels");
    CHECK_HAS(json_log(objects), "} | ok");
    free(fits);
    free(deeper);
    free(objects);
}

/* A flat array behind a deep one: the bit of a level is not left over from before. */
static void test_json_levels_are_forgotten(void)
{
    CHECK_STR(json_log("[{\"a\":{\"b\":{}}},[[[]]],{\"c\":[{}]}]"),
              "[ { \"a\": { \"b\": { } } } [ [ [ ] ] ] { \"c\": [ { } ] } ] | ok");
    CHECK_HAS(json_log("[{\"a\":{}},[1}]"), "| JSON: JSON, byte 12:");
    CHECK_HAS(json_log("{\"a\":[[]],\"b\":{\"c\":1]}"), "| JSON: JSON, byte 20:");
}

/* A string of so many letters, at the top: what is said of it however it is cut. */
static const char *json_long_string(size_t letters, char kind)
{
    static char verdict[200];
    char *text = (char *)malloc(letters + 8);
    feed f;

    if (text == NULL) {
        return "";
    }
    memset(text, 'a', letters + 8);
    text[0] = kind == 'n' ? '1' : '"';
    if (kind == 'n') {
        memset(text, '1', letters);
        text[letters] = ' ';
    } else {
        text[letters + 1] = '"';
    }
    size_t len = kind == 'n' ? letters + 1 : letters + 2;
    feed_init(&f, FEED_JSON, NULL);
    feed_log whole = { NULL, 0, 0 };
    feed_puts(&whole, feed_whole(&f, text, len));
    CHECK_STR(strrchr(feed_in_pieces(&f, text, len, 0, 65536), '|'), strrchr(whole.text, '|'));
    CHECK_STR(strrchr(feed_in_pieces(&f, text, len, 5, 0), '|'), strrchr(whole.text, '|'));
    CHECK_STR(strrchr(feed_in_pieces(&f, text, len, len - 1, 0), '|'), strrchr(whole.text, '|'));
    snprintf(verdict, sizeof verdict, "%s", strrchr(whole.text, '|'));
    free(whole.text);
    feed_deinit(&f);
    free(text);
    return verdict;
}

/* The bound is on the text, so it cannot depend on where the bytes happen to be cut. */
static void test_60_a_string_of_1_mib_is_the_limit(void)
{
    CHECK_STR(json_long_string((size_t)1 << 20, 's'), "| ok");
    CHECK_HAS(json_long_string(((size_t)1 << 20) + 1, 's'), "| LIMIT: JSON, byte ");
    CHECK_STR(json_long_string((size_t)1 << 20, 'n'), "| ok");
    CHECK_HAS(json_long_string(((size_t)1 << 20) + 1, 'n'), "| LIMIT: JSON, byte ");
}

/* -- The callback, and a decoder's life -- */

typedef struct json_refuser {
    unsigned left;
    sdc_err  answer;
} json_refuser;

static sdc_err json_refuse(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    json_refuser *r = (json_refuser *)user;

    (void)kind;
    (void)text;
    (void)len;
    if (r->left == 0) {
        FAIL("called again after it had refused");
    }
    r->left--;
    return r->left == 0 ? r->answer : SDC_OK;
}

static void json_refuse_nth(sdc_json *json, json_refuser *r, unsigned nth, size_t cut,
                            char message[256])
{
    static const char text[] = " [true, {\"ab\": \"cd\\n\"}, 12 ] ";
    sdc_error error;

    sdc_json_reset(json);
    r->left = nth;
    r->answer = SDC_ERR_USER;
    sdc_err err = sdc_json_feed(json, text, cut);
    if (err == SDC_OK) {
        err = sdc_json_feed(json, text + cut, sizeof text - 1 - cut);
    }
    CHECK_ERR(err, SDC_ERR_USER);
    CHECK_ERR(sdc_json_feed(json, "]", 1), SDC_ERR_USER);
    CHECK_ERR(sdc_json_finish(json), SDC_ERR_USER);
    sdc_json_error(json, &error);
    CHECK_ERR(error.code, SDC_ERR_USER);
    snprintf(message, 256, "%s", error.message);
}

/* What it says ends the feed, sticks, and is told with the same byte however the text was cut. */
static void test_json_callback_ends_the_feed(void)
{
    json_refuser r;
    sdc_json *json = NULL;
    char whole[256];
    char cut[256];

    REQUIRE(sdc_json_create(NULL, json_refuse, &r, &json) == SDC_OK);
    for (unsigned nth = 1; nth <= 8; nth++) {
        json_refuse_nth(json, &r, nth, 0, whole);
        for (size_t at = 1; at < 29; at++) {
            test_note("event %u, cut at %zu", nth, at);
            json_refuse_nth(json, &r, nth, at, cut);
            CHECK_STR(cut, whole);
        }
    }
    sdc_json_destroy(json);
}

static void test_json_first_error_stays_until_reset(void)
{
    sdc_error error;
    feed f;

    feed_init(&f, FEED_JSON, NULL);
    REQUIRE(f.made == SDC_OK);
    CHECK_ERR(sdc_json_feed(f.json, "[}", 2), SDC_ERR_JSON);
    CHECK_ERR(sdc_json_feed(f.json, "1]", 2), SDC_ERR_JSON);
    CHECK_ERR(sdc_json_finish(f.json), SDC_ERR_JSON);
    sdc_json_error(f.json, &error);
    CHECK_STR(error.message, "JSON, byte 1: a value is missing");
    sdc_json_error(f.json, NULL);
    sdc_json_reset(f.json);
    sdc_json_error(f.json, &error);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_STR(error.message, "");
    CHECK_STR(feed_whole(&f, "[1]", 3), "[ 1 ] | ok");
    CHECK_ERR(sdc_json_feed(f.json, " ", 1), SDC_OK);
    CHECK_ERR(sdc_json_finish(f.json), SDC_OK);
    CHECK_ERR(sdc_json_feed(f.json, "x", 1), SDC_ERR_JSON);
    feed_deinit(&f);
}

/* Left in the middle of anything: what was begun does not show in the next text. */
static void test_json_reset_in_the_middle(void)
{
    static const char text[] = "{\"k\\u00e9\":[\"\\ud83d\\ude00\xc3\xa9\",-1.5e+2,true,"
                               "{\"a\":null}]}";
    feed f;

    feed_init(&f, FEED_JSON, NULL);
    REQUIRE(f.made == SDC_OK);
    for (size_t i = 0; i < sizeof text; i++) {
        test_note("left at %zu", i);
        feed_begin(&f);
        (void)sdc_json_feed(f.json, text, i);
        CHECK_STR(feed_whole(&f, "[\"b\",{\"c\":2}]", 13), "[ \"b\" { \"c\": 2 } ] | ok");
    }
    feed_deinit(&f);
}

static void test_json_needs_a_callback(void)
{
    sdc_json *json = (sdc_json *)1;

    CHECK_ERR(sdc_json_create(NULL, NULL, NULL, &json), SDC_ERR_ARG);
    CHECK(json == NULL);
    sdc_json_destroy(NULL);
}

/* -- Cases that are files -- */

/* What RFC 8259 leaves to the decoder. Numbers are handed on as text, so there is no too big and
   no too exact; text is Unicode or it is refused; deeper than 64 is a limit of ours. */
static const struct json_choice {
    const char *name;
    bool        is_taken;
    const char *why;
} json_choices[] = {
    { "i_number_double_huge_neg_exp.json", true, "a number is its text" },
    { "i_number_huge_exp.json", true, "a number is its text" },
    { "i_number_neg_int_huge_exp.json", true, "a number is its text" },
    { "i_number_pos_double_huge_exp.json", true, "a number is its text" },
    { "i_number_real_neg_overflow.json", true, "a number is its text" },
    { "i_number_real_pos_overflow.json", true, "a number is its text" },
    { "i_number_real_underflow.json", true, "a number is its text" },
    { "i_number_too_big_neg_int.json", true, "a number is its text" },
    { "i_number_too_big_pos_int.json", true, "a number is its text" },
    { "i_number_very_big_negative_int.json", true, "a number is its text" },
    { "i_object_key_lone_2nd_surrogate.json", false, "a lone surrogate is no character" },
    { "i_string_1st_surrogate_but_2nd_missing.json", false, "a lone surrogate is no character" },
    { "i_string_1st_valid_surrogate_2nd_invalid.json", false, "a lone surrogate is no character" },
    { "i_string_UTF-16LE_with_BOM.json", false, "only UTF-8 is exchanged (RFC 8259, 8.1)" },
    { "i_string_UTF-8_invalid_sequence.json", false, "not UTF-8" },
    { "i_string_UTF8_surrogate_U+D800.json", false, "a surrogate has no UTF-8" },
    { "i_string_incomplete_surrogate_and_escape_valid.json", false,
      "a lone surrogate is no character" },
    { "i_string_incomplete_surrogate_pair.json", false, "a lone surrogate is no character" },
    { "i_string_incomplete_surrogates_escape_valid.json", false,
      "a lone surrogate is no character" },
    { "i_string_invalid_lonely_surrogate.json", false, "a lone surrogate is no character" },
    { "i_string_invalid_surrogate.json", false, "a lone surrogate is no character" },
    { "i_string_invalid_utf-8.json", false, "not UTF-8" },
    { "i_string_inverted_surrogates_U+1D11E.json", false, "a lone surrogate is no character" },
    { "i_string_iso_latin_1.json", false, "not UTF-8" },
    { "i_string_lone_second_surrogate.json", false, "a lone surrogate is no character" },
    { "i_string_lone_utf8_continuation_byte.json", false, "not UTF-8" },
    { "i_string_not_in_unicode_range.json", false, "past U+10FFFF" },
    { "i_string_overlong_sequence_2_bytes.json", false, "overlong UTF-8" },
    { "i_string_overlong_sequence_6_bytes.json", false, "overlong UTF-8" },
    { "i_string_overlong_sequence_6_bytes_null.json", false, "overlong UTF-8" },
    { "i_string_truncated-utf-8.json", false, "not UTF-8" },
    { "i_string_utf16BE_no_BOM.json", false, "only UTF-8 is exchanged (RFC 8259, 8.1)" },
    { "i_string_utf16LE_no_BOM.json", false, "only UTF-8 is exchanged (RFC 8259, 8.1)" },
    { "i_structure_500_nested_arrays.json", false, "deeper than 64" },
    { "i_structure_UTF-8_BOM_empty_object.json", false, "a byte order mark is not sent (8.1)" },
    /* our own */
    { "i_arrays_65_deep.json", false, "deeper than 64" },
    { "i_objects_65_deep.json", false, "deeper than 64" },
    { "i_open_arrays_70.json", false, "deeper than 64" },
    { "i_exponent_huge.json", true, "a number is its text" },
    { "i_fraction_long.json", true, "a number is its text" },
    { "i_code_point_no_character.json", true, "noncharacters are valid in UTF-8" }
};

/* 1: must be taken, 0: must be refused, -1: nobody said. */
static int json_verdict(const char *name)
{
    if (name[0] == 'y' || name[0] == 'n') {
        return name[0] == 'y';
    }
    for (size_t i = 0; i < sizeof json_choices / sizeof json_choices[0]; i++) {
        if (strcmp(json_choices[i].name, name) == 0) {
            return json_choices[i].is_taken;
        }
    }
    return -1;
}

static void json_try_file(void *user, const char *path, const unsigned char *bytes, size_t len)
{
    size_t *num = (size_t *)user;
    const char *name = files_name(path);
    size_t name_len = strlen(name);
    feed f;

    if (name[0] == '\0' || name[1] != '_' || name_len < 5 ||
        strcmp(name + name_len - 5, ".json") != 0) {
        return;
    }
    test_note("%s", name);
    feed_init(&f, FEED_JSON, NULL);
    (void)feed_check(&f, bytes, len);
    int verdict = json_verdict(name);
    if (verdict < 0) {
        FAIL("no verdict is listed for it");
    } else {
        bool is_taken = strstr(f.first.text, "| ok") != NULL;
        CHECK_INT(is_taken, verdict);
    }
    feed_deinit(&f);
    (*num)++;
}

static void test_json_own_cases(void)
{
    char folder[512];
    size_t num = 0;

    files_beside(__FILE__, "data/json", folder, sizeof folder);
    (void)files_each(folder, json_try_file, &num);
    test_note("%s", folder);
    CHECK_INT(num, 199);
}

static void test_json_public_suite(void)
{
    const char *folder = getenv("SDC_JSON_SUITE");
    size_t num = 0;

    if (folder == NULL || !files_is_folder(folder)) {
        SKIP("SDC_JSON_SUITE names no folder");
    }
    (void)files_each(folder, json_try_file, &num);
    test_note("%s", folder);
    CHECK(num > 300);
}

static const test_case cases_json[] = {
    TEST(test_json_tokens_in_order),
    TEST(test_json_any_value_at_the_top),
    TEST(test_json_says_what_is_wrong_and_where),
    TEST(test_67_escapes_become_their_characters),
    TEST(test_67_nul_is_a_character_of_the_text),
    TEST(test_67_surrogate_pairs_become_one_character),
    TEST(test_67_lone_surrogates_are_refused),
    TEST(test_67_utf8_by_its_definition),
    TEST(test_67_every_code_point_escaped_and_raw),
    TEST(test_68_numbers_keep_every_digit),
    TEST(test_json_numbers_are_checked),
    TEST(test_60_depth_of_64_is_the_limit),
    TEST(test_json_levels_are_forgotten),
    TEST(test_60_a_string_of_1_mib_is_the_limit),
    TEST(test_json_callback_ends_the_feed),
    TEST(test_json_first_error_stays_until_reset),
    TEST(test_json_reset_in_the_middle),
    TEST(test_json_needs_a_callback),
    TEST(test_json_own_cases),
    TEST(test_json_public_suite)
};
