/* The HTTP decoder: framing, fields, limits; and what the head and text of an answer come to. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"
#include "../fuzz/feed.h"
#include "../fuzz/files.h"

#define HTTP_HEAD_MAX ((size_t)64 << 10)     /* the default of max_head_bytes */

/* The log of an answer after all ways to cut it were tried, under limits. Valid until the next
   call. */
static const char *http_log_within(const void *bytes, size_t len, size_t head_max,
                                   uint64_t body_max)
{
    static char log[16384];
    feed f;

    feed_init(&f, FEED_HTTP, NULL);
    if (f.made == SDC_OK) {
        f.http->head_max = head_max;
        f.http->line.max = head_max + 1;
        f.http->body_max = body_max;
    }
    snprintf(log, sizeof log, "%s", feed_check(&f, bytes, len));
    feed_deinit(&f);
    return log;
}

static const char *http_log_of(const void *bytes, size_t len)
{
    return http_log_within(bytes, len, HTTP_HEAD_MAX, UINT64_MAX);
}

static const char *http_log(const char *text)
{
    return http_log_of(text, strlen(text));
}

/* The log of an answer made of parts, each of which may be "". */
static const char *http_log_parts(const char *start, const char *fields, const char *body)
{
    static char text[8192];

    snprintf(text, sizeof text, "%s\r\n%s\r\n%s", start, fields, body);
    return http_log(text);
}

/* As a 200 with chunks. */
static const char *http_log_chunks(const char *chunks)
{
    return http_log_parts("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", chunks);
}

#define HTTP_CHUNKED "200 {Transfer-Encoding: chunked} "

/* -- The status line -- */

static void test_http_status_lines(void)
{
    static const struct { const char *line; const char *log; } good[] = {
        { "HTTP/1.1 200 OK", "200 | ok whole keep" },
        { "HTTP/1.1 200", "200 | ok whole keep" },
        { "HTTP/1.1 200 ", "200 | ok whole keep" },
        { "HTTP/1.1 200 any reason: at all", "200 | ok whole keep" },
        { "HTTP/1.1 599 \xc3\xa9", "599 | ok whole keep" },
        { "HTTP/1.1 999 x", "999 | ok whole keep" },
        { "HTTP/1.2 200 OK", "200 | ok whole keep" },
        { "HTTP/1.0 200 OK", "200 | ok whole close" }
    };
    static const char *const bad[] = {
        "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1  200 OK", "HTTP/1.1 200OK",
        "HTTP/1.1 -20 OK", "HTTP/1.1 +20 OK", "HTTP/1.1 0x0 OK", "HTTP/1.1 OK", "HTTP/1.1",
        "HTTP/1.1 ", "HTTP/1. 200 OK", "HTTP/1.a 200 OK", "HTTP/1.10 200 OK", "HTTP/2.0 200 OK",
        "HTTP/2 200", "http/1.1 200 OK", "HTTP 200", "ICY 200 OK", " HTTP/1.1 200 OK", "",
        "HTTP/1.1 099 low", "HTTP/1.1 000 zero", "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1\t200 OK", "<html>", "{\"a\":1}", "SSH-2.0-OpenSSH_9.2", "220 mail ESMTP"
    };

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char want[200];
        const char *bar = strchr(good[i].log, '|');
        test_note("%s", good[i].line);
        snprintf(want, sizeof want, "%.*s{Content-Length: 0} %s", (int)(bar - good[i].log),
                 good[i].log, bar);
        CHECK_STR(http_log_parts(good[i].line, "Content-Length: 0\r\n", ""), want);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_note("%s", bad[i]);
        CHECK_HAS(http_log_parts(bad[i], "Content-Length: 0\r\n", ""), "| HTTP: HTTP, byte ");
    }
    CHECK_HAS(http_log_of("HTTP/1.1 200 O\0K\n", 17), "| HTTP: HTTP, byte ");
}

/* It may send without end, so what it says is judged as it comes. */
static void test_http_a_peer_of_another_protocol_is_told_at_once(void)
{
    static const char *const starts[] = { "S", "\x15\x03\x01", "{", "<", "HTTP/2", "HTTPS",
                                          "\r\n" };

    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        CHECK_HAS(http_log(starts[i]), "| HTTP: HTTP, byte 0: the peer does not speak HTTP/1.x");
    }
    CHECK_HAS(http_log(""), "| IO: HTTP, byte 0: the connection ended before the answer did");
    CHECK_HAS(http_log("HTTP/1"), "| IO: HTTP, byte 6: the connection ended before the answer did");
}

/* -- Line 45: chunks -- */

static void test_45_chunks(void)
{
    static const struct { const char *chunks; const char *log; } table[] = {
        { "5\r\nhello\r\n0\r\n\r\n", "\"hello\" | ok whole keep" },
        { "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n",
          "\"hello\" | ok whole keep" },
        { "0\r\n\r\n", "| ok whole keep" },
        { "000\r\n\r\n", "| ok whole keep" },
        { "A\r\n0123456789\r\n0a\r\nabcdefghij\r\n0\r\n\r\n",
          "\"0123456789abcdefghij\" | ok whole keep" },
        { "00000000000002\r\n\r\n\r\n0\r\n\r\n", "\"\\x0D\\x0A\" | ok whole keep" },
        { "5;a\r\nhello\r\n0;last\r\n\r\n", "\"hello\" | ok whole keep" },
        { "5;a=b;c=\"d;e\"\r\nhello\r\n0\r\n\r\n", "\"hello\" | ok whole keep" },
        { "5 \t;a\r\nhello\r\n0 \r\n\r\n", "\"hello\" | ok whole keep" },
        { "5\r\nhello\r\n0\r\nX-A: 1\r\nX-B:\r\n\r\n", "\"hello\" | ok whole keep" },
        { "5\r\nhello\r\n0\r\nX-A: 1\r\n folded\r\n\r\n", "\"hello\" | ok whole keep" },
        { "5\r\nhello\r\n0\r\nContent-Length: 7\r\nConnection: close\r\n\r\n",
          "\"hello\" | ok whole keep" },
        { "4\r\n0\r\n\r\r\n0\r\n\r\n", "\"0\\x0D\\x0A\\x0D\" | ok whole keep" },
        { "2\r\nok\r\n0\r\n\r\nHTTP/1.1 500", "\"ok\" | ok whole keep rest 12" }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char want[300];
        test_note("%s", table[i].chunks);
        snprintf(want, sizeof want, HTTP_CHUNKED "%s", table[i].log);
        CHECK_STR(http_log_chunks(table[i].chunks), want);
    }
}

static void test_45_upper_case_hexadecimal(void)
{
    char chunks[700];
    char data[0x1AB + 1];

    memset(data, 'x', sizeof data);
    data[0x1AB] = '\0';
    snprintf(chunks, sizeof chunks, "1aB\r\n%s\r\n0\r\n\r\n", data);
    CHECK_HAS(http_log_chunks(chunks), "x\" | ok whole keep");
    chunks[0] = '0';
    CHECK_HAS(http_log_chunks(chunks), "| HTTP: ");
}

static void test_45_malformed_chunks(void)
{
    static const char *const bad[] = {
        "\r\nhello\r\n0\r\n\r\n", "g\r\n", "-5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n", "5\rhello\r\n", ";a\r\nhello\r\n0\r\n\r\n",
        "5,\r\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n", "5\r\nhell\r\n0\r\n\r\n", "5\r\nhello!\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n", "5;\x01\r\nhello\r\n0\r\n\r\n", "0\r\nbad trailer\r\n\r\n",
        "0\r\nX: 1\n\r\n", "0\r\n folded\r\n\r\n", "0\r\nX Y: 1\r\n\r\n", "{\"a\":1}"
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_note("%s", bad[i]);
        CHECK_HAS(http_log_chunks(bad[i]), "| HTTP: HTTP, byte ");
    }
}

static void test_45_chunk_sizes_that_overflow(void)
{
    static const char *const sizes[] = { "10000000000000000", "FFFFFFFFFFFFFFFFF",
                                         "80000000000000005", "0000000000000000000000005",
                                         "10000000000000005", "ffffffffffffffff5" };
    char chunks[100];

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        test_note("%s", sizes[i]);
        snprintf(chunks, sizeof chunks, "%s\r\nhello\r\n0\r\n\r\n", sizes[i]);
        CHECK_HAS(http_log_chunks(chunks), HTTP_CHUNKED "| HTTP: ");
        CHECK_HAS(http_log_chunks(chunks), "a malformed chunk size");
    }
}

/* -- Line 46: bodies with a length -- */

static void test_46_content_length(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 5\r\n", "hello"),
              "200 {Content-Length: 5} \"hello\" | ok whole keep");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 0\r\n", ""),
              "200 {Content-Length: 0} | ok whole keep");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 00005\r\n", "hello"),
              "200 {Content-Length: 00005} \"hello\" | ok whole keep");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 2\r\n", "hello"),
              "200 {Content-Length: 2} \"he\" | ok whole keep rest 3");
    CHECK_STR(http_log_parts("HTTP/1.1 404 Not Found", "Content-Length: 3\r\nX: y\r\n", "no\n"),
              "404 {Content-Length: 3} {X: y} \"no\\x0A\" | ok whole keep");
}

static void test_46_long_bodies(void)
{
    static const size_t sizes[] = { 3900, 10000 };
    static char text[10100];

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t head = (size_t)snprintf(text, sizeof text,
                                       "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++) {
            text[head + k] = (char)('!' + k % 90);
        }
        const char *log = http_log_of(text, head + sizes[i]);
        CHECK_HAS(log, "\" | ok whole keep");
        CHECK(strstr(log, "!\\x22#$%&'()*+,-./0123456789:;<=>?@") != NULL);
    }
}

static void test_46_content_lengths_that_are_none(void)
{
    static const char *const bad[] = { "", "-1", "+5", "5 5", "5,5", "5, 5", "5;", "0x5", "five",
                                       "5.0", "18446744073709551616", "99999999999999999999",
                                       "1e3", "\"5\"" };
    char fields[100];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_note("%s", bad[i]);
        snprintf(fields, sizeof fields, "Content-Length: %s\r\n", bad[i]);
        CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", fields, "hello"), "200 | HTTP: ");
        CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", fields, "hello"),
                  "Content-Length is not a number");
    }
}

/* -- Line 47: bodies up to the end -- */

static void test_47_bodies_that_end_with_the_connection(void)
{
    CHECK_STR(http_log_parts("HTTP/1.0 200 OK", "X: y\r\n", "hello"),
              "200 {X: y} \"hello\" | ok ended close");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "", "hello"), "200 \"hello\" | ok ended close");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "", ""), "200 | ok ended close");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Connection: keep-alive\r\n", "x"),
              "200 {Connection: keep-alive} \"x\" | ok ended close");
    CHECK_STR(http_log_parts("HTTP/1.0 200 OK", "Content-Length: 2\r\n", "hi"),
              "200 {Content-Length: 2} \"hi\" | ok whole close");
}

/* -- Line 48: two framings -- */

static void test_48_two_framings_are_refused(void)
{
    static const char *const both[] = {
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "content-length: 5\r\nX: y\r\ntransfer-encoding: CHUNKED\r\n"
    };
    static const char *const codings[] = {
        "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n", "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
        "Transfer-Encoding: \"chunked\"\r\n", "Transfer-Encoding: chunked;q=1\r\n"
    };

    for (size_t i = 0; i < sizeof both / sizeof both[0]; i++) {
        test_note("%s", both[i]);
        CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", both[i], "5\r\nhello\r\n0\r\n\r\n"),
                  "both Content-Length and Transfer-Encoding");
        CHECK_HASNT(http_log_parts("HTTP/1.1 200 OK", both[i], "5\r\nhello\r\n0\r\n\r\n"),
                    "hello");
    }
    for (size_t i = 0; i < sizeof codings / sizeof codings[0]; i++) {
        test_note("%s", codings[i]);
        CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", codings[i], "5\r\nhello\r\n0\r\n\r\n"),
                  "a transfer coding other than chunked");
    }
    CHECK_HAS(http_log_parts("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
              "chunks in an answer of HTTP/1.0");
}

/* -- Line 49: short bodies -- */

/* Every beginning of a whole answer is an error at its end, and says so. */
static void http_try_beginnings(const char *text)
{
    feed f;
    size_t len = strlen(text);

    feed_init(&f, FEED_HTTP, NULL);
    REQUIRE(f.made == SDC_OK);
    for (size_t i = 0; i < len; i++) {
        test_note("the first %zu of %s", i, text);
        (void)feed_whole(&f, text, i);
        CHECK_ERR(f.err, SDC_ERR_IO);
        CHECK_HAS(f.log.text, "the connection ended before the answer did");
        CHECK(!sdc_http_is_complete(f.http) && !sdc_http_keeps_alive(f.http));
    }
    (void)feed_whole(&f, text, len);
    CHECK_ERR(f.err, SDC_OK);
    feed_deinit(&f);
}

static void test_49_short_answers_are_errors(void)
{
    http_try_beginnings("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX: y\r\n\r\n0123456789");
    http_try_beginnings("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                        "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n z\r\n\r\n");
    http_try_beginnings("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n");
    http_try_beginnings("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx");
}

static void test_49_the_byte_where_it_ended(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 10\r\n", "hello"),
              "200 {Content-Length: 10} \"hello\" | IO: HTTP, byte 44: "
              "the connection ended before the answer did");
    CHECK_STR(http_log_chunks("5\r\nhello\r\n"),
              HTTP_CHUNKED "\"hello\" | IO: HTTP, byte 57: "
              "the connection ended before the answer did");
}

/* -- Line 50: fields -- */

static void test_50_names_in_any_letter_case(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "content-length: 2\r\nCONNECTION: CLOSE\r\n", "hi"),
              "200 {content-length: 2} {CONNECTION: CLOSE} \"hi\" | ok whole close");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "tRANSFER-eNCODING: ChunkeD\r\n",
                             "1\r\nx\r\n0\r\n\r\n"),
              "200 {tRANSFER-eNCODING: ChunkeD} \"x\" | ok whole keep");
}

static void test_50_values_are_trimmed(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 204 No Content",
                             "A:1\r\nB:  \t 2 \t \r\nC:\r\nD: \r\nE: a b\tc\r\nF::\r\n", ""),
              "204 {A: 1} {B: 2} {C: } {D: } {E: a b\\x09c} {F: :} | ok whole keep");
}

static void test_50_folded_lines_are_one_field(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 204 No Content", "A: one\r\n two\r\n\tthree\r\nB: x\r\n",
                             ""),
              "204 {A: one two\\x09three} {B: x} | ok whole keep");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length:\r\n 2\r\n", "hi"),
              "200 {Content-Length: 2} \"hi\" | ok whole keep");
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 2\r\n  \r\n", "hi"),
              "200 {Content-Length: 2} \"hi\" | ok whole keep");
    CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 1\r\n 2\r\n", "hi"),
              "Content-Length is not a number");
    CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", " A: 1\r\n", ""),
              "a folded line without a field");
}

static void test_50_fields_that_come_twice(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 2\r\nContent-Length: 2\r\n", "hi"),
              "200 {Content-Length: 2} {Content-Length: 2} \"hi\" | ok whole keep");
    CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 2\r\nContent-Length: 3\r\n",
                             "hi!"), "two Content-Lengths that differ");
    CHECK_STR(http_log_parts("HTTP/1.1 204 No Content",
                             "Vary: a\r\nVary: b\r\nConnection: x\r\nConnection: close, y\r\n", ""),
              "204 {Vary: a} {Vary: b} {Connection: x} {Connection: close, y} | ok whole close");
}

static void test_50_malformed_fields(void)
{
    static const char *const bad[] = {
        "no colon\r\n", ": no name\r\n", "Space : x\r\n", "In side: x\r\n", "A\tB: x\r\n",
        "\xc3\xa9: x\r\n", "A\x01: x\r\n", "A@: x\r\n", "A(b): x\r\n", "A: x\x01y\r\n",
        "A: x\ry\r\n", "A: x\x7f\r\n", "A: x\n", "A: x\r\nB: y\n", "A: x\n\r\n", "\"A\": x\r\n",
        "A: x\r\r\n"
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_note("%s", bad[i]);
        CHECK_HAS(http_log_parts("HTTP/1.1 204 No Content", bad[i], ""), "| HTTP: HTTP, byte ");
    }
    CHECK_HAS(http_log_of("HTTP/1.1 204 x\r\nA: \0\r\n\r\n", 24), "| HTTP: HTTP, byte ");
    CHECK_HAS(http_log_of("HTTP/1.1 204 x\r\nA\0: b\r\n\r\n", 25), "| HTTP: HTTP, byte ");
    CHECK_HAS(http_log_of("HTTP/1.1 204 x\n\n", 16), "| HTTP: HTTP, byte ");
    CHECK_STR(http_log_parts("HTTP/1.1 204 x", "!#$%&'*+-.^_`|~09azAZ: \xc3\xa9\r\n", ""),
              "204 {!#$%&'*+-.^_`|~09azAZ: \\xC3\\xA9} | ok whole keep");
}

/* A head of exactly so many bytes: one long field, or many short ones. */
static size_t http_put_head(char *text, size_t size, bool has_many)
{
    static const char start[] = "HTTP/1.1 204 No Content\r\n";
    size_t len = sizeof start - 1;

    memcpy(text, start, len);
    while (has_many && len + 40 < size) {
        memcpy(text + len, "X-Filler: 0123456789\r\n", 22);
        len += 22;
    }
    memcpy(text + len, "X: ", 3);
    memset(text + len + 3, 'y', size - len - 3);
    memcpy(text + size - 4, "\r\n\r\n", 4);
    return size;
}

static void test_50_heads_up_to_the_limit(void)
{
    static char text[(64 << 10) + 1];

    for (int has_many = 0; has_many <= 1; has_many++) {
        test_note("%s", has_many ? "many fields" : "one field");
        (void)http_put_head(text, 1000, has_many != 0);
        CHECK_HAS(http_log_within(text, 1000, 1000, 0), "y} | ok whole keep");
        CHECK_HAS(http_log_within(text, 1000, 999, 0),
                  "| LIMIT: HTTP, byte 999: the head is longer than max_head_bytes");
        CHECK_HAS(http_log_within(text, 1000, 1, 0), "| LIMIT: HTTP, byte 1: ");
        CHECK_HAS(http_log_within(text, 1000, 500, 0), "| LIMIT: HTTP, byte 500: ");
    }
}

static void test_50_heads_of_64_kib(void)
{
    static char text[(64 << 10) + 1];
    feed f;

    feed_init(&f, FEED_HTTP, NULL);
    REQUIRE(f.made == SDC_OK);
    for (size_t over = 0; over <= 1; over++) {
        size_t len = http_put_head(text, (64 << 10) + over, true);
        const char *want = over == 0 ? "| ok whole keep"
                                     : "| LIMIT: HTTP, byte 65536: the head is longer than "
                                       "max_head_bytes";
        CHECK_HAS(feed_whole(&f, text, len), want);
        CHECK_HAS(feed_in_pieces(&f, text, len, 0, 1), want);
        CHECK_HAS(feed_in_pieces(&f, text, len, 100, 1460), want);
    }
    feed_deinit(&f);
}

/* Bytes that never end a line are no reason to hold them all. */
static void test_50_garbage_over_the_limit(void)
{
    char text[3000];

    memset(text, 'x', sizeof text);
    CHECK_HAS(http_log_within(text, sizeof text, 1000, 0),
              "| HTTP: HTTP, byte 0: the peer does not speak HTTP/1.x");
    memcpy(text, "HTTP/1.1 200 ", 13);
    CHECK_HAS(http_log_within(text, sizeof text, 1000, 0), "| LIMIT: HTTP, byte 1000: ");
}

static void test_50_answers_of_1xx_come_before_the_answer(void)
{
    CHECK_STR(http_log("HTTP/1.1 100 Continue\r\n\r\n"
                       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
              "200 {Content-Length: 2} \"hi\" | ok whole keep");
    CHECK_STR(http_log("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n"
                       "Transfer-Encoding: gzip\r\nConnection: close\r\n\r\nHTTP/1.1 102 \r\n\r\n"
                       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
              "200 {Content-Length: 2} \"hi\" | ok whole keep");
    CHECK_HAS(http_log("HTTP/1.1 100 Continue\r\n\r\n"), "| IO: ");
    CHECK_HAS(http_log("HTTP/1.1 100 Continue\r\n\r\nhello"), "| HTTP: ");
    CHECK_HAS(http_log("HTTP/1.1 100 Continue\r\nbad\r\n\r\n"), "a malformed header field");
}

/* They count as head, so that a peer cannot send them for ever. */
static void test_50_answers_of_1xx_have_an_end(void)
{
    feed_log text = { NULL, 0, 0 };

    for (int i = 0; i < 50; i++) {
        feed_puts(&text, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    feed_puts(&text, "HTTP/1.1 204 No Content\r\n\r\n");
    CHECK_STR(http_log_within(text.text, text.len, text.len, 0), "204 | ok whole keep");
    CHECK_HAS(http_log_within(text.text, text.len, 1000, 0), "| LIMIT: HTTP, byte 1000: ");
    free(text.text);
}

/* -- Keeping the connection -- */

static void test_52_who_keeps_the_connection(void)
{
    static const struct { const char *start, *connection; bool keeps; } table[] = {
        { "HTTP/1.1 200 OK", "", true },
        { "HTTP/1.1 200 OK", "Connection: close\r\n", false },
        { "HTTP/1.1 200 OK", "Connection: Close\r\n", false },
        { "HTTP/1.1 200 OK", "Connection: keep-alive\r\n", true },
        { "HTTP/1.1 200 OK", "Connection: keep-alive, close\r\n", false },
        { "HTTP/1.1 200 OK", "Connection: upgrade ,\t close \r\n", false },
        { "HTTP/1.1 200 OK", "Connection: closed, notclose, close-ish\r\n", true },
        { "HTTP/1.1 200 OK", "Connection: ,, ,\r\n", true },
        { "HTTP/1.1 200 OK", "X-Connection: close\r\n", true },
        { "HTTP/1.0 200 OK", "", false },
        { "HTTP/1.0 200 OK", "Connection: keep-alive\r\n", true },
        { "HTTP/1.0 200 OK", "Connection: Keep-Alive, close\r\n", false }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char fields[200];
        snprintf(fields, sizeof fields, "Content-Length: 1\r\n%s", table[i].connection);
        test_note("%s, %s", table[i].start, table[i].connection);
        CHECK_HAS(http_log_parts(table[i].start, fields, "x"),
                  table[i].keeps ? "\"x\" | ok whole keep" : "\"x\" | ok whole close");
    }
}

static void test_http_answers_without_a_body(void)
{
    CHECK_STR(http_log_parts("HTTP/1.1 204 No Content", "", "x"), "204 | ok whole keep rest 1");
    CHECK_STR(http_log_parts("HTTP/1.1 304 Not Modified", "Content-Length: 9\r\n", ""),
              "304 {Content-Length: 9} | ok whole keep");
    CHECK_STR(http_log_parts("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked\r\n", ""),
              "304 {Transfer-Encoding: chunked} | ok whole keep");
}

static void test_http_the_next_answer_is_left_alone(void)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
                               "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
    size_t used = 0;
    feed f;

    CHECK_STR(http_log(text), "200 {Content-Length: 2} \"hi\" | ok whole keep rest 47");
    feed_init(&f, FEED_HTTP, NULL);
    REQUIRE(f.made == SDC_OK);
    CHECK_ERR(sdc_http_feed(f.http, text, sizeof text - 1, &used), SDC_OK);
    CHECK_INT(used, sizeof text - 1 - 47);
    CHECK_ERR(sdc_http_feed(f.http, text + used, 47, &used), SDC_OK);
    CHECK_INT(used, 0);
    CHECK_STR(feed_whole(&f, text + sizeof text - 1 - 47, 47),
              "404 {Content-Length: 2} \"no\" | ok whole keep");
    feed_deinit(&f);
}

/* -- Line 60: limits -- */

static void test_60_bodies_up_to_the_limit(void)
{
    static const char with_length[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                                  "4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n";
    static const char until_close[] = "HTTP/1.1 200 OK\r\n\r\n0123456789";

    CHECK_HAS(http_log_within(with_length, strlen(with_length), 100, 10), "789\" | ok whole keep");
    CHECK_STR(http_log_within(with_length, strlen(with_length), 100, 9),
              "200 {Content-Length: 10} | LIMIT: HTTP, byte 37: "
              "the body is longer than max_body_bytes");
    CHECK_HAS(http_log_within(chunked, strlen(chunked), 100, 10), "789\" | ok whole keep");
    CHECK_HAS(http_log_within(chunked, strlen(chunked), 100, 9), "\"0123\" | LIMIT: HTTP, byte ");
    CHECK_HAS(http_log_within(until_close, strlen(until_close), 100, 10), "789\" | ok ended close");
    CHECK_HAS(http_log_within(until_close, strlen(until_close), 100, 9), "| LIMIT: HTTP, byte ");
}

static void test_60_the_largest_lengths(void)
{
    CHECK_HAS(http_log_parts("HTTP/1.1 200 OK", "Content-Length: 18446744073709551615\r\n", "x"),
              "{Content-Length: 18446744073709551615} \"x\" | IO: ");
    CHECK_HAS(http_log_chunks("fffffffffffffff\r\nx"), HTTP_CHUNKED "\"x\" | IO: ");
    CHECK_HAS(http_log_within("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", 57,
                              1000, 256 << 20), "| LIMIT: ");
}

/* What stands round the chunks is not body and must end too. */
static void test_60_what_is_round_the_chunks_is_bounded(void)
{
    feed_log text = { NULL, 0, 0 };

    feed_puts(&text, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;");
    for (int i = 0; i < 200; i++) {
        feed_puts(&text, "extension ");
    }
    CHECK_HAS(http_log_within(text.text, text.len, 1000, 100), "| LIMIT: HTTP, byte ");
    text.len = 0;
    feed_puts(&text, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
    for (int i = 0; i < 200; i++) {
        feed_puts(&text, "X: trailer\r\n");
    }
    CHECK_HAS(http_log_within(text.text, text.len, 1000, 100), "| LIMIT: HTTP, byte ");
    free(text.text);
}

/* -- The handler, and a decoder's life -- */

typedef struct http_refuser {
    int refuse;                     /* 0: status, 1: header, 2: body */
    unsigned num_after;             /* calls after it refused */
    bool has_refused;
} http_refuser;

static sdc_err http_refuse(http_refuser *r, int which)
{
    r->num_after += r->has_refused ? 1 : 0;
    r->has_refused = r->has_refused || which == r->refuse;
    return which == r->refuse ? SDC_ERR_USER : SDC_OK;
}

static sdc_err http_refuse_status(void *user, int status)
{
    (void)status;
    return http_refuse((http_refuser *)user, 0);
}

static sdc_err http_refuse_header(void *user, const char *name, size_t name_len, const char *value,
                                  size_t value_len)
{
    (void)name;
    (void)name_len;
    (void)value;
    (void)value_len;
    return http_refuse((http_refuser *)user, 1);
}

static sdc_err http_refuse_body(void *user, const void *bytes, size_t len)
{
    (void)bytes;
    (void)len;
    return http_refuse((http_refuser *)user, 2);
}

static void test_http_handler_ends_the_feed(void)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\nbody";
    http_refuser r;
    sdc_http_handler handler = { &r, http_refuse_status, http_refuse_header, http_refuse_body };
    sdc_http *http = NULL;
    sdc_error error;

    REQUIRE(sdc_http_create(NULL, &handler, &http) == SDC_OK);
    for (int which = 0; which <= 2; which++) {
        for (size_t cut = 0; cut < sizeof text - 1; cut++) {
            size_t used = 0;
            memset(&r, 0, sizeof r);
            r.refuse = which;
            sdc_http_reset(http);
            (void)sdc_http_feed(http, text, cut, &used);
            CHECK_ERR(sdc_http_feed(http, text + cut, sizeof text - 1 - cut, &used), SDC_ERR_USER);
            CHECK_ERR(sdc_http_finish(http), SDC_ERR_USER);
            CHECK(!sdc_http_is_complete(http) && !sdc_http_keeps_alive(http));
            sdc_http_error(http, &error);
            CHECK_ERR(error.code, SDC_ERR_USER);
            CHECK_INT(error.http_status, 200);
            CHECK_INT(r.num_after, 0);
        }
    }
    sdc_http_destroy(http);
}

static void test_http_handler_may_be_empty(void)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\nbody";
    sdc_http_handler handler;
    sdc_http *http = (sdc_http *)1;
    size_t used = 0;

    memset(&handler, 0, sizeof handler);
    CHECK_ERR(sdc_http_create(NULL, NULL, &http), SDC_ERR_ARG);
    CHECK(http == NULL);
    sdc_http_destroy(NULL);
    REQUIRE(sdc_http_create(NULL, &handler, &http) == SDC_OK);
    CHECK_ERR(sdc_http_feed(http, text, sizeof text - 1, &used), SDC_OK);
    CHECK_INT(used, sizeof text - 1);
    CHECK(sdc_http_is_complete(http) && sdc_http_keeps_alive(http));
    sdc_http_destroy(http);
}

static void test_http_first_error_stays_until_reset(void)
{
    size_t used = 0;
    sdc_error error;
    feed f;

    feed_init(&f, FEED_HTTP, NULL);
    REQUIRE(f.made == SDC_OK);
    sdc_http_error(f.http, &error);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_ERR(sdc_http_feed(f.http, "HTTP/1.1 200 OK\r\nbad\r\n\r\n", 24, &used), SDC_ERR_HTTP);
    CHECK_ERR(sdc_http_feed(f.http, "\r\n", 2, &used), SDC_ERR_HTTP);
    CHECK_INT(used, 0);
    CHECK_ERR(sdc_http_finish(f.http), SDC_ERR_HTTP);
    sdc_http_error(f.http, &error);
    CHECK_ERR(error.code, SDC_ERR_HTTP);
    CHECK_INT(error.http_status, 200);
    CHECK_HAS(error.message, "HTTP, byte 17: a malformed header field");
    sdc_http_error(f.http, NULL);
    CHECK_STR(feed_whole(&f, "HTTP/1.1 204 x\r\n\r\n", 18), "204 | ok whole keep");
    CHECK_ERR(sdc_http_finish(f.http), SDC_OK);
    feed_deinit(&f);
}

/* Left in the middle of anything: what was begun does not show in the next answer. */
static void test_http_reset_in_the_middle(void)
{
    static const char first[] = "HTTP/1.1 100 x\r\n\r\nHTTP/1.0 200 OK\r\nA: b\r\n c\r\n"
                                "Connection: close\r\nContent-Length: 9\r\n\r\n012345678";
    static const char second[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
                                 "Connection: close\r\n\r\n1f;x=y\r\n0";
    static const char body[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "2\r\nhi\r\n0\r\n\r\n";
    const char *const texts[] = { first, second };
    size_t used = 0;
    feed f;

    feed_init(&f, FEED_HTTP, NULL);
    REQUIRE(f.made == SDC_OK);
    for (size_t i = 0; i < 2; i++) {
        for (size_t len = 0; len <= strlen(texts[i]); len++) {
            test_note("text %zu left at %zu", i, len);
            feed_begin(&f);
            (void)sdc_http_feed(f.http, texts[i], len, &used);
            CHECK_STR(feed_whole(&f, body, strlen(body)), HTTP_CHUNKED "\"hi\" | ok whole keep");
        }
    }
    feed_deinit(&f);
}

/* -- Answers of agents, as they were on the wire -- */

static const struct { const char *name, *start; } http_goldens[] = {
    { "agent_1_8_badquery.http", "500 {" }, { "agent_1_22_badquery.http", "500 {" },
    { "agent_1_8_gzip.http", "200 {" }, { "agent_1_22_gzip.http", "200 {" },
    { "agent_1_8_none.http", "200 {" }, { "agent_1_22_none.http", "200 {" },
    { "agent_1_8_one.http", "200 {" }, { "agent_1_22_one.http", "200 {" },
    { "agent_1_8_put_unknown.http", "500 {" }, { "agent_1_22_put_unknown.http", "404 {" },
    { "agent_1_8_redirect.http", "301 {" }, { "agent_1_22_redirect.http", "307 {" }
};

static void http_try_golden(void *user, const char *path, const unsigned char *bytes, size_t len)
{
    size_t *num = (size_t *)user;
    const char *log = http_log_of(bytes, len);
    const char *start = "listed";

    for (size_t i = 0; i < sizeof http_goldens / sizeof http_goldens[0]; i++) {
        if (strcmp(http_goldens[i].name, files_name(path)) == 0) {
            start = http_goldens[i].start;
        }
    }
    test_note("%s", files_name(path));
    CHECK(strncmp(log, start, strlen(start)) == 0);
    CHECK_HAS(log, "| ok whole keep");
    CHECK_HASNT(log, "rest");
    (*num)++;
}

static void test_http_answers_of_agents(void)
{
    char folder[512];
    size_t num = 0;

    files_beside(__FILE__, "data/http", folder, sizeof folder);
    (void)files_each(folder, http_try_golden, &num);
    test_note("%s", folder);
    CHECK_INT(num, 12);
}

/* -- What an answer comes to -- */

typedef struct http_taken {
    size_t num_bytes;
} http_taken;

static sdc_err http_take(void *user, const void *bytes, size_t len)
{
    (void)bytes;
    ((http_taken *)user)->num_bytes += len;
    return SDC_OK;
}

/* Feeds an answer in pieces to what the client makes of it; the token is the request's. */
static sdc_err http_answer(const char *text, size_t len, size_t piece, const char *token,
                           sdci_answer *answer, http_taken *taken, sdc_error *error)
{
    sdc_http *http = NULL;
    sdc_err err = SDC_OK;

    memset(answer, 0, sizeof *answer);
    memset(error, 0, sizeof *error);
    taken->num_bytes = 0;
    answer->body = http_take;
    answer->user = taken;
    answer->token = sdci_str_of(token);
    answer->method = "GET";
    answer->agent = "a:1";
    answer->path = sdci_str_of("/x");
    sdc_http_handler handler = sdci_answer_handler(answer);
    CHECK_ERR(sdc_http_create(NULL, &handler, &http), SDC_OK);
    for (size_t at = 0; at < len && err == SDC_OK; at += piece) {
        size_t used = 0;
        err = sdc_http_feed(http, text + at, piece < len - at ? piece : len - at, &used);
    }
    err = err == SDC_OK ? sdc_http_finish(http) : err;
    sdc_http_destroy(http);
    return err == SDC_OK ? sdci_answer_result(answer, error) : err;
}

static sdc_err http_answer_of(const char *text, sdc_error *error)
{
    sdci_answer answer;
    http_taken taken;

    return http_answer(text, strlen(text), 3, "", &answer, &taken, error);
}

static void test_40_texts_of_errors(void)
{
    static const struct { const char *answer; const char *message; } table[] = {
        { "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", "a:1: GET /x: status 500" },
        { "HTTP/1.1 500 x\r\nContent-Length: 17\r\n\r\nNo cluster leader",
          "a:1: GET /x: status 500: No cluster leader" },
        { "HTTP/1.1 500 x\r\n\r\ntwo\r\nlines\r\n", "a:1: GET /x: status 500: two  lines" },
        { "HTTP/1.0 502 x\r\n\r\n<html>\x01\x02</html>",
          "a:1: GET /x: status 502: <html>  </html>" },
        { "HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\n\n\n\n", "a:1: GET /x: status 500" }
    };
    sdc_error error;

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        CHECK_ERR(http_answer_of(table[i].answer, &error), SDC_ERR_STATUS);
        CHECK_STR(error.message, table[i].message);
        CHECK_INT(error.http_status, i == 3 ? 502 : 500);
    }
}

/* A megabyte, NULs and bytes that are no text: a bounded and printable copy. */
static void test_40_a_megabyte_of_binary(void)
{
    size_t len = 1 << 20;
    char *text = (char *)malloc(len);
    sdci_answer answer;
    http_taken taken;
    sdc_error error;

    REQUIRE(text != NULL);
    size_t head = (size_t)snprintf(text, len, "HTTP/1.1 500 x\r\n\r\n");
    for (size_t i = head; i < len; i++) {
        text[i] = (char)(i * 7 % 256);
    }
    CHECK_ERR(http_answer(text, len, 1000, "", &answer, &taken, &error), SDC_ERR_STATUS);
    CHECK(strlen(error.message) < sizeof error.message);
    for (const char *p = error.message; *p != '\0'; p++) {
        CHECK(!sdci_is_control(*p));
    }
    CHECK_HAS(error.message, "a:1: GET /x: status 500: ");
    CHECK_INT(taken.num_bytes, 0);
    memcpy(text, "HTTP/1.1 500 x\r\n\r\na\0b", 21);
    CHECK_ERR(http_answer(text, 21, 1, "", &answer, &taken, &error), SDC_ERR_STATUS);
    CHECK_STR(error.message, "a:1: GET /x: status 500: a b");
    free(text);
}

/* A peer that echoes the request: no part of the token stays, wherever the kept text was cut. */
static void test_76_no_token_in_the_text_of_an_error(void)
{
    static const char token[] = "s3cr3t-t0ken";
    char text[400];
    sdci_answer answer;
    http_taken taken;
    sdc_error error;

    for (int before = 0; before < 200; before++) {
        int len = snprintf(text, sizeof text, "HTTP/1.1 500 x\r\n\r\n%.*s%s, %s", before,
                           "................................................................"
                           "................................................................"
                           "................................................................"
                           "................", token, token);
        CHECK_ERR(http_answer(text, (size_t)len, 7, token, &answer, &taken, &error),
                  SDC_ERR_STATUS);
        CHECK_HASNT(error.message, "s3cr3t");
        CHECK_HASNT(error.message, "s3");
    }
}

static void test_43_44_codes_of_statuses(void)
{
    static const struct { const char *start, *body; sdc_err code; } table[] = {
        { "200 OK", "[]", SDC_OK }, { "201 Created", "", SDC_ERR_STATUS },
        { "400 Bad Request", "Invalid index", SDC_ERR_STATUS },
        { "401 Unauthorized", "", SDC_ERR_DENIED },
        { "403 Forbidden", "ACL not found", SDC_ERR_DENIED },
        { "404 Not Found", "Invalid URL path", SDC_ERR_STATUS },
        { "405 Method Not Allowed", "method POST not allowed", SDC_ERR_STATUS },
        { "413 Too Large", "", SDC_ERR_STATUS }, { "431 Too Large", "", SDC_ERR_STATUS },
        { "429 Too Many Requests", "Your IP is issuing too many", SDC_ERR_BUSY },
        { "500 Error", "rate limit", SDC_ERR_STATUS }, { "502 Bad Gateway", "", SDC_ERR_STATUS },
        { "503 Unavailable", "rate limit exceeded for operation that can", SDC_ERR_BUSY },
        { "503 Unavailable", "error reading from server: EOF", SDC_ERR_STATUS },
        { "504 Timeout", "", SDC_ERR_STATUS }
    };
    sdc_error error;
    char text[300];

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", table[i].start,
                 strlen(table[i].body), table[i].body);
        test_note("%s", table[i].start);
        CHECK_ERR(http_answer_of(text, &error), table[i].code);
        if (table[i].code != SDC_OK) {
            CHECK_ERR(error.code, table[i].code);
            CHECK_HAS(error.message, table[i].body);
            CHECK_INT(error.http_status, atoi(table[i].start));
        }
    }
    CHECK_ERR(http_answer_of("HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n", &error),
              SDC_ERR_STATUS);
    CHECK_HAS(error.message, "status 301 (a redirect is never followed)");
}

/* What was not asked for is not unpacked and not taken for data. */
static void test_53_encoded_bodies_are_refused(void)
{
    static const char *const encodings[] = { "gzip", "GZIP", "br", "deflate", "identity, gzip",
                                             "x-unknown" };
    sdci_answer answer;
    http_taken taken;
    sdc_error error;
    char text[200];

    for (size_t i = 0; i < sizeof encodings / sizeof encodings[0]; i++) {
        int len = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n"
                           "Content-Length: 2\r\n\r\n\x1f\x8b", encodings[i]);
        CHECK_ERR(http_answer(text, (size_t)len, 1, "", &answer, &taken, &error), SDC_ERR_HTTP);
        CHECK_INT(taken.num_bytes, 0);
        CHECK_HAS(error.message, "a content encoding that was not asked for");
    }
    int len = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\ncontent-encoding: Identity\r\n"
                       "Content-Length: 2\r\n\r\n[]");
    CHECK_ERR(http_answer(text, (size_t)len, 1, "", &answer, &taken, &error), SDC_OK);
    CHECK_INT(taken.num_bytes, 2);
}

/* Every bit of X-Consul-Index; what is no number counts as none, and 0 as 1. */
static void test_68_the_index_of_an_answer(void)
{
    static const struct { const char *value; uint64_t index; bool is_bad; } table[] = {
        { "1", 1, false }, { "0", 1, false }, { "000", 1, false }, { "42", 42, false },
        { "2147483648", 2147483648u, false }, { "9007199254740993", 9007199254740993u, false },
        { "9223372036854775808", 9223372036854775808u, false },
        { "18446744073709551615", UINT64_MAX, false }, { "18446744073709551616", 0, true },
        { "99999999999999999999", 0, true }, { "-1", 0, true }, { "+1", 0, true },
        { "1, 1", 0, true }, { "abc", 0, true }, { "1.0", 0, true }, { "1e3", 0, true },
        { "0x10", 0, true }, { "", 0, true }
    };
    sdci_answer answer;
    http_taken taken;
    sdc_error error;
    char text[200];

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int len = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nx-consul-INDEX: %s\r\n"
                           "Content-Length: 2\r\n\r\n[]", table[i].value);
        test_note("%s", table[i].value);
        CHECK_ERR(http_answer(text, (size_t)len, 1, "", &answer, &taken, &error), SDC_OK);
        CHECK_U64(answer.index, table[i].index);
        CHECK_INT(answer.has_bad_index, table[i].is_bad);
    }
}

static const test_case cases_http[] = {
    TEST(test_http_status_lines),
    TEST(test_http_a_peer_of_another_protocol_is_told_at_once),
    TEST(test_45_chunks),
    TEST(test_45_upper_case_hexadecimal),
    TEST(test_45_malformed_chunks),
    TEST(test_45_chunk_sizes_that_overflow),
    TEST(test_46_content_length),
    TEST(test_46_long_bodies),
    TEST(test_46_content_lengths_that_are_none),
    TEST(test_47_bodies_that_end_with_the_connection),
    TEST(test_48_two_framings_are_refused),
    TEST(test_49_short_answers_are_errors),
    TEST(test_49_the_byte_where_it_ended),
    TEST(test_50_names_in_any_letter_case),
    TEST(test_50_values_are_trimmed),
    TEST(test_50_folded_lines_are_one_field),
    TEST(test_50_fields_that_come_twice),
    TEST(test_50_malformed_fields),
    TEST(test_50_heads_up_to_the_limit),
    TEST(test_50_heads_of_64_kib),
    TEST(test_50_garbage_over_the_limit),
    TEST(test_50_answers_of_1xx_come_before_the_answer),
    TEST(test_50_answers_of_1xx_have_an_end),
    TEST(test_52_who_keeps_the_connection),
    TEST(test_http_answers_without_a_body),
    TEST(test_http_the_next_answer_is_left_alone),
    TEST(test_60_bodies_up_to_the_limit),
    TEST(test_60_the_largest_lengths),
    TEST(test_60_what_is_round_the_chunks_is_bounded),
    TEST(test_http_handler_ends_the_feed),
    TEST(test_http_handler_may_be_empty),
    TEST(test_http_first_error_stays_until_reset),
    TEST(test_http_reset_in_the_middle),
    TEST(test_http_answers_of_agents),
    TEST(test_40_texts_of_errors),
    TEST(test_40_a_megabyte_of_binary),
    TEST(test_76_no_token_in_the_text_of_an_error),
    TEST(test_43_44_codes_of_statuses),
    TEST(test_53_encoded_bodies_are_refused),
    TEST(test_68_the_index_of_an_answer)
};
