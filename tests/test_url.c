/* The agent's address taken apart, and what a caller passes made safe for a request line. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"

/* -- Escaping -- */

static const char *url_escaped(const char *text)
{
    static char out[4096];
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    sdci_buf buf;

    sdci_buf_init(&buf, &a, sizeof out - 1);
    sdci_put_escaped(&buf, text);
    CHECK_ERR(buf.err, SDC_OK);
    snprintf(out, sizeof out, "%.*s", (int)buf.len, buf.len > 0 ? buf.ptr : "");
    sdci_buf_deinit(&buf);
    return out;
}

static void test_74_escaping_of_a_path_part(void)
{
    static const struct { const char *text, *want; } table[] = {
        { "web", "web" }, { "", "" }, { "AZaz09-._~", "AZaz09-._~" }, { "a b", "a%20b" },
        { "a/b", "a%2Fb" }, { "\xc3\xa9", "%C3%A9" }, { "%", "%25" }, { "%2F", "%252F" },
        { "?", "%3F" }, { "#", "%23" }, { "+", "%2B" }, { ";", "%3B" }, { "&", "%26" },
        { "=", "%3D" }, { "\"", "%22" }, { "'", "%27" }, { "\\", "%5C" }, { "<>", "%3C%3E" },
        { "!$()*,:@[]", "%21%24%28%29%2A%2C%3A%40%5B%5D" }, { "`{|}^", "%60%7B%7C%7D%5E" },
        { "\r\nX: y", "%0D%0AX%3A%20y" }, { "\x7f\x80\xff\x01", "%7F%80%FF%01" },
        { "\xf0\x9f\x98\x80", "%F0%9F%98%80" }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        CHECK_STR(url_escaped(table[i].text), table[i].want);
    }
}

/* Of all bytes only RFC 3986's unreserved ones stay; the others can be read back. */
static void test_75_escaping_of_every_byte(void)
{
    static const char stay[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (int c = 1; c < 256; c++) {
        char text[2] = { (char)c, '\0' };
        const char *got = url_escaped(text);
        if (strchr(stay, c) != NULL) {
            CHECK_STR(got, text);
        } else if (CHECK(strlen(got) == 3 && got[0] == '%')) {
            CHECK_INT(sdci_hex(got[1]) * 16 + sdci_hex(got[2]), c);
            CHECK(strchr("0123456789ABCDEF", got[1]) != NULL);
            CHECK(strchr("0123456789ABCDEF", got[2]) != NULL);
        }
    }
}

static void test_75_escaping_of_tags_and_filters(void)
{
    CHECK_STR(url_escaped("&;#+%= \""), "%26%3B%23%2B%25%3D%20%22");
    CHECK_STR(url_escaped("Service.Meta[\"a b\"] == \"x&y\" and \"v1\" in Service.Tags"),
              "Service.Meta%5B%22a%20b%22%5D%20%3D%3D%20%22x%26y%22%20and%20%22v1%22%20in%20"
              "Service.Tags");
    CHECK_STR(url_escaped("k:v&index=5"), "k%3Av%26index%3D5");
}

static void test_url_escaping_keeps_to_the_limit(void)
{
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    sdci_buf buf;

    sdci_buf_init(&buf, &a, 8);
    sdci_put_escaped(&buf, "//");
    CHECK_ERR(buf.err, SDC_OK);
    sdci_put_escaped(&buf, "/");
    CHECK_ERR(buf.err, SDC_ERR_LIMIT);
    sdci_buf_deinit(&buf);
}

/* -- What can stand in a path -- */

static void test_74_names_that_can_stand_in_a_path(void)
{
    static const char *const good[] = {
        "web", "a", "a b", "a/b", "a/b/c", "\xc3\xa9", "%", "%2e", "a?b", "a#b", "a+b", "a;b",
        "...", ".a", "a.", "..a", "a..", "a/.b", "a/b.", "a/...", "_", "~", "a:b", "a\\b", "\"",
        "\xe6\x9d\xb1\xe4\xba\xac", "\xf0\x9f\x98\x80", "web-10.0.0.1-8000", "caf\xc3\xa9 1",
        "a\xff", "\xe2\x82", "\xc3"
    };
    sdc_error error;

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        memset(&error, 0, sizeof error);
        test_note("%s", good[i]);
        CHECK_ERR(sdci_path_part_valid("service", good[i], &error), SDC_OK);
        CHECK_ERR(error.code, SDC_OK);
    }
}

static void test_74_names_that_consul_redirects_or_rejects(void)
{
    static const char *const bad[] = {
        "", ".", "..", "/", "//", "a/", "/a", "a//b", "a/./b", "a/../b", "./a", "../a", "a/.",
        "a/..", "a///b", "/.", "\x01", "a\nb", "a\tb", "\x7f", "a\x1f", "\x0b",
        "\xc2\x80", "\xc2\x9f", "\xc2\xa0", "a\xc2\xa0z", "\xc2\xad", "\xe2\x80\x8b",
        "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\x89", "\xe2\x81\xa0", "\xe3\x80\x80",
        "\xef\xbb\xbf", "\xe1\x9a\x80"
    };
    sdc_error error;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memset(&error, 0, sizeof error);
        test_note("refusal %zu", i);
        CHECK_ERR(sdci_path_part_valid("service", bad[i], &error), SDC_ERR_ARG);
        CHECK_ERR(error.code, SDC_ERR_ARG);
        CHECK_HAS(error.message, "service ");
    }
    CHECK_ERR(sdci_path_part_valid("id", NULL, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "id is missing");
}

static void test_77_no_line_break_in_a_name(void)
{
    char text[] = "web?x";
    sdc_error error;

    for (int c = 1; c < 256; c++) {
        text[3] = (char)c;
        bool is_control = c < 0x20 || c == 0x7F;
        CHECK_ERR(sdci_path_part_valid("name", text, &error), is_control ? SDC_ERR_ARG : SDC_OK);
        CHECK_INT(sdci_has_control(text), is_control);
    }
}

/* -- The agent's address -- */

typedef struct url_row {
    const char *address, *host, *prefix, *path;
    unsigned    port;
    bool        is_ipv6, is_unix, tls;
} url_row;

static bool url_slice_is(sdci_str s, const char *want)
{
    return s.len == strlen(want) && (s.len == 0 || memcmp(s.ptr, want, s.len) == 0);
}

static void test_url_addresses(void)
{
    static const url_row table[] = {
        { "127.0.0.1:8500", "127.0.0.1", "", "", 8500, false, false, false },
        { "10.0.0.1", "10.0.0.1", "", "", 8500, false, false, false },
        { "consul", "consul", "", "", 8500, false, false, false },
        { "consul.example.com:85", "consul.example.com", "", "", 85, false, false, false },
        { "localhost:65535", "localhost", "", "", 65535, false, false, false },
        { "h:1", "h", "", "", 1, false, false, false },
        { "[::1]", "::1", "", "", 8500, true, false, false },
        { "[::1]:85", "::1", "", "", 85, true, false, false },
        { "[fe80::1%eth0]:85", "fe80::1%eth0", "", "", 85, true, false, false },
        { "http://h", "h", "", "", 80, false, false, false },
        { "http://h:8500", "h", "", "", 8500, false, false, false },
        { "http://h:8500/", "h", "", "", 8500, false, false, false },
        { "http://h:8500/consul", "h", "/consul", "", 8500, false, false, false },
        { "http://h:8500/a/b///", "h", "/a/b", "", 8500, false, false, false },
        { "http://[2001:db8::1]:8500/p", "2001:db8::1", "/p", "", 8500, true, false, false },
        { "https://h", "h", "", "", 443, false, false, true },
        { "https://h:8501/p", "h", "/p", "", 8501, false, false, true },
        { "https://[::1]", "::1", "", "", 443, true, false, true },
        { "unix:///var/run/consul.sock", "localhost", "", "/var/run/consul.sock", 8500, false, true,
          false },
        { "unix://relative.sock", "localhost", "", "relative.sock", 8500, false, true, false },
        { "unix:///a b,c@d?e", "localhost", "", "/a b,c@d?e", 8500, false, true, false }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const url_row *row = &table[i];
        sdci_agent_url got;
        sdc_error error;
        test_note("%s", row->address);
        CHECK_ERR(sdci_parse_address("address", row->address, &got, &error), SDC_OK);
        CHECK(url_slice_is(got.host, row->host));
        CHECK(url_slice_is(got.prefix, row->prefix));
        CHECK(url_slice_is(got.path, row->path));
        CHECK_INT(got.is_unix ? 8500 : got.port, row->port);
        CHECK_INT(got.is_ipv6, row->is_ipv6);
        CHECK_INT(got.is_unix, row->is_unix);
        CHECK_INT(got.tls, row->tls);
    }
}

static void test_url_addresses_that_are_none(void)
{
    static const char *const bad[] = {
        "", ":8500", "h:", "h:0", "h:65536", "h:-1", "h:+80", "h:8 0", "h:80a", "h:80:90", "::1",
        "2001:db8::1:8500", "[::1", "[::1]8500", "[::1]:", "[::1]:x", "[]:80", "[]", "[]:", "[",
        "http://", "http:///x", "https://", "https://:443", "http://:80/x", "unix://",
        "ftp://h", "HTTP://h", "tcp://h:80", "://h", "http://h:80?x=y", "http://h#f",
        "http://user:password@h", "user@h", "h1:80,h2:80", "a b", " h", "h ", "h\n", "h\r\nX: y",
        "http://h/a b", "http://h/\x01", "http://h/\r\nHost: evil", "h\x7f", "http://h?", "\t",
        "[h]:80", "http://h/a//b", "http://h/../b"
    };
    sdc_error error;
    sdci_agent_url got;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memset(&error, 0, sizeof error);
        test_note("%s", bad[i]);
        CHECK_ERR(sdci_parse_address("address", bad[i], &got, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "address");
        CHECK(!sdci_has_control(error.message));
    }
}

/* A long one is shown in part, and whatever its size the message stays a line. */
static void test_url_long_addresses_in_messages(void)
{
    char text[5000];
    sdc_error error;
    sdci_agent_url got;

    memset(text, 'a', sizeof text);
    memcpy(text, "http://", 7);
    text[sizeof text - 2] = ' ';
    text[sizeof text - 1] = '\0';
    CHECK_ERR(sdci_parse_address("address", text, &got, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "space or control");
    text[sizeof text - 2] = 'a';
    CHECK_ERR(sdci_parse_address("address", text, &got, &error), SDC_OK);
    CHECK_INT(got.host.len, sizeof text - 1 - 7);
}

/* The prefix goes into each request line as it is, so nothing in it may end one. */
static void test_77_every_byte_in_a_prefix(void)
{
    char text[] = "http://h/a?b";
    sdc_error error;
    sdci_agent_url got;

    for (int c = 1; c < 256; c++) {
        text[10] = (char)c;
        bool is_unsafe = c <= 0x20 || c >= 0x7F || strchr("?#@,\"<>\\^`{|}[]", c) != NULL;
        test_note("byte %d", c);
        CHECK_ERR(sdci_parse_address("address", text, &got, &error),
                  is_unsafe ? SDC_ERR_ARG : SDC_OK);
    }
}

/* -- Base64 -- */

static void test_url_base64(void)
{
    static const struct { const char *text, *want; } table[] = {     /* RFC 4648, 10 */
        { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg==" },
        { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" }, { "user:pa ss", "dXNlcjpwYSBzcw==" },
        { "\xff\xfe\xfd", "//79" }, { "\xfb\xff", "+/8=" }
    };
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    sdci_buf buf;

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        sdci_buf_init(&buf, &a, 100);
        sdci_put_base64(&buf, sdci_str_of(table[i].text));
        CHECK_MEM(buf.len > 0 ? buf.ptr : "", buf.len, table[i].want, strlen(table[i].want));
        sdci_buf_deinit(&buf);
    }
}

/* -- addr -- */

static void test_66_host_and_port_in_one(void)
{
    static const struct { const char *host; unsigned port; const char *want; } table[] = {
        { "10.0.0.1", 80, "10.0.0.1:80" }, { "::1", 8500, "[::1]:8500" },
        { "[::1]", 8500, "[::1]:8500" }, { "fe80::1%eth0", 1, "[fe80::1%eth0]:1" },
        { "a.b", 65535, "a.b:65535" }, { "h", 0, "h:0" }
    };
    sdc_allocator a = sdci_allocator_or_malloc(NULL);
    sdci_buf buf;

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        sdci_buf_init(&buf, &a, 100);
        sdci_put_addr(&buf, table[i].host, (uint16_t)table[i].port);
        CHECK_MEM(buf.ptr, buf.len, table[i].want, strlen(table[i].want));
        sdci_buf_deinit(&buf);
    }
}

static const test_case cases_url[] = {
    TEST(test_74_escaping_of_a_path_part),
    TEST(test_75_escaping_of_every_byte),
    TEST(test_75_escaping_of_tags_and_filters),
    TEST(test_url_escaping_keeps_to_the_limit),
    TEST(test_74_names_that_can_stand_in_a_path),
    TEST(test_74_names_that_consul_redirects_or_rejects),
    TEST(test_77_no_line_break_in_a_name),
    TEST(test_url_addresses),
    TEST(test_url_addresses_that_are_none),
    TEST(test_url_long_addresses_in_messages),
    TEST(test_77_every_byte_in_a_prefix),
    TEST(test_url_base64),
    TEST(test_66_host_and_port_in_one)
};
