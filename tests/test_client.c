/* Where Consul is and who we are: addresses, the environment, tokens, and the head of every
   request, as a server at the other end sees it. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/alloc.h"
#include "support/rig.h"
#include "support/script.h"
#include "support/test.h"
#include "support/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the environment ------------------------------------------------------------------------- */

static const char *const client_variables[] = {
    "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_AUTH",
    "CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY", "CONSUL_NAMESPACE", "CONSUL_PARTITION",
    "CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY"
};

enum { CLIENT_NUM_VARIABLES = sizeof client_variables / sizeof client_variables[0] };

/* What the process was started with; it comes back behind each test. */
typedef struct client_environment {
    char *values[CLIENT_NUM_VARIABLES];
} client_environment;

static void client_environment_take(client_environment *saved)
{
    for (size_t i = 0; i < CLIENT_NUM_VARIABLES; i++) {
        const char *value = getenv(client_variables[i]);
        saved->values[i] = NULL;
        if (value != NULL) {
            saved->values[i] = (char *)malloc(strlen(value) + 1);
            if (saved->values[i] != NULL) {
                strcpy(saved->values[i], value);
            }
        }
        unsetenv(client_variables[i]);
    }
}

static void client_environment_give_back(client_environment *saved)
{
    for (size_t i = 0; i < CLIENT_NUM_VARIABLES; i++) {
        if (saved->values[i] != NULL) {
            setenv(client_variables[i], saved->values[i], 1);
        } else {
            unsetenv(client_variables[i]);
        }
        free(saved->values[i]);
    }
}

/* ---- a world with one server ----------------------------------------------------------------- */

typedef struct client_stage {
    world      *w;
    script     *s;
    sdc_client *client;
    sdc_logger  logger;
    client_environment environment;
} client_stage;

static void client_begin(client_stage *stage, const world_desc *desc)
{
    memset(stage, 0, sizeof *stage);
    client_environment_take(&stage->environment);
    stage->w = world_create(desc);
    stage->logger = world_logger(stage->w);
    stage->s = script_create(stage->w, "10.0.0.1", 8500);
    script_ok(stage->s);
}

static void client_end(client_stage *stage)
{
    sdc_client_destroy(stage->client);
    world_destroy(stage->w);
    client_environment_give_back(&stage->environment);
}

/* A desc on this world that looks at the environment. */
static sdc_client_desc client_desc_of(client_stage *stage, const char *address)
{
    sdc_client_desc desc = world_client_desc(stage->w, address);
    desc.ignore_environment = false;
    desc.logger = &stage->logger;
    return desc;
}

static bool client_make(client_stage *stage, const sdc_client_desc *desc)
{
    sdc_error error;
    sdc_client_destroy(stage->client);
    sdc_err err = sdc_client_create(desc, &stage->client, &error);
    if (err != SDC_OK) {
        FAIL("sdc_client_create: %s: %s", test_err_name((int)err), error.message);
    }
    return err == SDC_OK;
}

/* One request; what the server got of it. NULL: it got nothing. */
static const script_request *client_ask_of(client_stage *stage, script *s)
{
    sdc_error error;
    size_t before = script_num_requests(s);
    sdc_err err = sdc_client_deregister(stage->client, "x", &error);
    if (err != SDC_OK) {
        FAIL("sdc_client_deregister: %s: %s", test_err_name((int)err), error.message);
    }
    return script_num_requests(s) > before ? script_last(s) : NULL;
}

static const script_request *client_ask(client_stage *stage)
{
    return client_ask_of(stage, stage->s);
}

/* The token of the next request; NULL none. */
static const char *client_token(client_stage *stage)
{
    const script_request *request = client_ask(stage);
    return CHECK(request != NULL) ? script_header(request, "X-Consul-Token") : "no request";
}

/* Create must refuse this desc, name `part`, and leave nothing behind. */
static void client_refused(const sdc_client_desc *desc, const char *part)
{
    sdc_client *client = (sdc_client *)(void *)&client;
    sdc_error error;
    memset(&error, 0x55, sizeof error);
    sdc_err err = sdc_client_create(desc, &client, &error);
    CHECK_ERR(err, SDC_ERR_ARG);
    CHECK_INT(error.code, SDC_ERR_ARG);
    CHECK(client == NULL);
    CHECK_HAS(error.message, part);
    CHECK(strpbrk(error.message, "\r\n") == NULL);
    CHECK_INT(error.http_status, 0);
    if (err == SDC_OK) {
        sdc_client_destroy(client);
    }
}

/* ---- addresses ------------------------------------------------------------------------------- */

static void test_address_forms(void)
{
    static const struct {
        const char *address, *ip;
        uint16_t    port;
        const char *host, *prefix;
    } cases[] = {
        { "10.0.0.2:8501", "10.0.0.2", 8501, "10.0.0.2:8501", "" },
        { "10.0.0.2", "10.0.0.2", 8500, "10.0.0.2:8500", "" },
        { "http://10.0.0.2", "10.0.0.2", 80, "10.0.0.2:80", "" },
        { "http://10.0.0.2:1", "10.0.0.2", 1, "10.0.0.2:1", "" },
        { "http://10.0.0.2:65535/", "10.0.0.2", 65535, "10.0.0.2:65535", "" },
        { "http://10.0.0.2:8500/consul", "10.0.0.2", 8500, "10.0.0.2:8500", "/consul" },
        { "http://10.0.0.2:8500/a/b/", "10.0.0.2", 8500, "10.0.0.2:8500", "/a/b" },
        { "[::1]:8500", "::1", 8500, "[::1]:8500", "" },
        { "[::1]", "::1", 8500, "[::1]:8500", "" },
        { "http://[2001:db8::1]:8502/x", "2001:db8::1", 8502, "[2001:db8::1]:8502", "/x" },
        { "unix:///run/consul/http.sock", "/run/consul/http.sock", 0, "localhost", "" },
        { "consul.internal:8500", "10.0.0.3", 8500, "consul.internal:8500", "" },
        { "http://consul.internal/p", "10.0.0.3", 80, "consul.internal:80", "/p" },
        { "localhost:8500", "127.0.0.1", 8500, "localhost:8500", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client_stage stage;
        test_note("%s", cases[i].address);
        client_begin(&stage, NULL);
        world_resolve_to(stage.w, "consul.internal", "10.0.0.3", 0);
        script *s = script_create(stage.w, cases[i].ip, cases[i].port);
        script_ok(s);
        sdc_client_desc desc = client_desc_of(&stage, cases[i].address);
        const script_request *request = client_make(&stage, &desc) ? client_ask_of(&stage, s)
                                                                   : NULL;
        if (CHECK(request != NULL)) {
            char path[100];
            snprintf(path, sizeof path, "%s/v1/agent/service/deregister/x", cases[i].prefix);
            CHECK_STR(request->raw_path, path);
            CHECK_STR(script_header(request, "Host"), cases[i].host);
        }
        client_end(&stage);
    }
}

static void test_address_default(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    script *s = script_create(stage.w, "127.0.0.1", 8500);
    script_ok(s);
    sdc_client_desc desc = client_desc_of(&stage, NULL);
    CHECK(client_make(&stage, &desc) && client_ask_of(&stage, s) != NULL);
    desc = client_desc_of(&stage, "");
    CHECK(client_make(&stage, &desc) && client_ask_of(&stage, s) != NULL);
    client_end(&stage);
}

static void test_address_refusals(void)
{
    static const struct {
        const char *address, *why;
    } cases[] = {
        { "10.0.0.1:0", "port" },
        { "10.0.0.1:65536", "port" },
        { "10.0.0.1:", "port" },
        { "10.0.0.1:x", "port" },
        { "10.0.0.1:-1", "port" },
        { "10.0.0.1:+80", "port" },
        { "10.0.0.1:80 ", "space" },
        { "http://10.0.0.1:99999999999999999999/", "port" },
        { ":8500", "host" },
        { "http://", "host" },
        { "http://:80/x", "host" },
        { "http:///x", "host" },
        { "[]:80", "host" },
        { "::1", "brackets" },
        { "2001:db8::1:8500", "brackets" },
        { "[::1", "]" },
        { "[::1]8500", "]" },
        { "[hello]:8500", "" },
        { "ftp://10.0.0.1", "scheme" },
        { "://x", "scheme" },
        { "unix://", "path" },
        { "a b:80", "space" },
        { "10.0.0.1\r\nX-Evil: 1", "control" },
        { "10.0.0.1:80\n", "control" },
        { "http://10.0.0.1/a\x7f", "control" },
        { "10.0.0.1:80?token=x", "host, port and path" },
        { "http://10.0.0.1/#x", "host, port and path" },
        { "user:password@10.0.0.1:80", "host, port and path" },
        { "10.0.0.1:8500,", "host" },
        { "10.0.0.1:8500,,10.0.0.2:8500", "host" },
        { "http://10.0.0.1//a", "" },
        { "http://10.0.0.1/a//b", "" },
        { "http://10.0.0.1/a/../b", "" },
        { "http://10.0.0.1/./b", "" },
    };
    client_stage stage;
    client_begin(&stage, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_note("%s", cases[i].address);
        sdc_client_desc desc = client_desc_of(&stage, cases[i].address);
        client_refused(&desc, "address");
        client_refused(&desc, cases[i].why);
    }
    CHECK_U64(world_seen(stage.w)->opened, 0);
    client_end(&stage);
}

/* What stands in a prefix goes into each request line: refused, or escaped by whoever wrote it. */
static void test_address_prefix_needs_escaping(void)
{
    static const char *const prefixes[] = { "/caf\xc3\xa9", "/a\"b", "/a<b>", "/a\\b", "/\xff" };
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        client_stage stage;
        char address[64];
        test_note("%s", prefixes[i]);
        client_begin(&stage, NULL);
        snprintf(address, sizeof address, "http://10.0.0.1:8500%s", prefixes[i]);
        sdc_client_desc desc = client_desc_of(&stage, address);
        sdc_error error;
        if (sdc_client_create(&desc, &stage.client, &error) == SDC_OK) {
            const script_request *request = client_ask(&stage);
            for (const char *p = request != NULL ? request->target : ""; *p != '\0'; p++) {
                CHECK(*p > ' ' && *p < 0x7f && strchr("\"<>\\^`{|}", *p) == NULL);
            }
        } else {
            CHECK_HAS(error.message, "address");
        }
        client_end(&stage);
    }
}

static void test_address_https_needs_tls(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "https://10.0.0.1:8501");
    client_refused(&desc, "https");
    client_refused(&desc, "can_tls");
    client_refused(&desc, "https://10.0.0.1:8501");
    desc = client_desc_of(&stage, "https://10.0.0.1");
    client_refused(&desc, "can_tls");
    /* nothing went out in the clear */
    CHECK_U64(world_seen(stage.w)->opened, 0);
    client_end(&stage);
}

static void test_address_https_with_tls(void)
{
    client_stage stage;
    world_desc with_tls;
    memset(&with_tls, 0, sizeof with_tls);
    with_tls.can_tls = true;
    client_begin(&stage, &with_tls);
    script *s = script_create(stage.w, "10.0.0.1", 443);
    script_ok(s);
    sdc_client_desc desc = client_desc_of(&stage, "https://10.0.0.1/p");
    REQUIRE(client_make(&stage, &desc));
    const script_request *request = client_ask_of(&stage, s);
    if (CHECK(request != NULL)) {
        CHECK_STR(request->raw_path, "/p/v1/agent/service/deregister/x");
    }
    client_end(&stage);
}

/* ---- other refusals at create ---------------------------------------------------------------- */

static void test_client_refusals(void)
{
    static char longest[4200];
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.token = "secret\r\nX-Evil: 1";
    client_refused(&desc, "token");
    memset(longest, 't', 4097);
    desc.token = longest;
    client_refused(&desc, "token");
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.basic_auth = "user:pass\nword";
    client_refused(&desc, "basic_auth");
    sdc_allocator nothing;
    memset(&nothing, 0, sizeof nothing);
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.allocator = &nothing;
    client_refused(&desc, "allocator");
    sdc_io half = *world_io(stage.w);
    half.stream_write = NULL;
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.io = &half;
    client_refused(&desc, "io");
    half = *world_io(stage.w);
    half.wait = NULL;
    client_refused(&desc, "io");
    client_end(&stage);
}

static void test_77_client_names_without_line_breaks(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.datacenter = "dc1\r\nX-Evil: 1";
    client_refused(&desc, "datacenter");
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.ns = "a\nb";
    client_refused(&desc, "ns");
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.partition = "\x01";
    client_refused(&desc, "partition");
    client_end(&stage);
}

static void test_client_destroy_takes_null(void)
{
    sdc_client_destroy(NULL);
}

/* ---- environment variables ------------------------------------------------------------------- */

static void test_environment_address(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    script *other = script_create(stage.w, "10.0.0.5", 8505);
    script_ok(other);
    setenv("CONSUL_HTTP_ADDR", "http://10.0.0.5:8505/pre", 1);
    sdc_client_desc desc = client_desc_of(&stage, NULL);
    REQUIRE(client_make(&stage, &desc));
    const script_request *request = client_ask_of(&stage, other);
    if (CHECK(request != NULL)) {
        CHECK_STR(request->raw_path, "/pre/v1/agent/service/deregister/x");
    }
    /* the program's own wins */
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    CHECK(client_make(&stage, &desc) && client_ask(&stage) != NULL);
    /* switched off */
    script *local = script_create(stage.w, "127.0.0.1", 8500);
    script_ok(local);
    desc = client_desc_of(&stage, NULL);
    desc.ignore_environment = true;
    CHECK(client_make(&stage, &desc) && client_ask_of(&stage, local) != NULL);
    /* read at create, not later */
    desc.ignore_environment = false;
    REQUIRE(client_make(&stage, &desc));
    setenv("CONSUL_HTTP_ADDR", "10.0.0.1:8500", 1);
    CHECK(client_ask_of(&stage, other) != NULL);
    /* an empty one is none */
    setenv("CONSUL_HTTP_ADDR", "", 1);
    CHECK(client_make(&stage, &desc) && client_ask_of(&stage, local) != NULL);
    client_end(&stage);
}

static void test_environment_refusals_name_the_variable(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, NULL);
    setenv("CONSUL_HTTP_ADDR", "10.0.0.1:0", 1);
    client_refused(&desc, "CONSUL_HTTP_ADDR");
    setenv("CONSUL_HTTP_ADDR", "https://10.0.0.1", 1);
    client_refused(&desc, "CONSUL_HTTP_ADDR");
    unsetenv("CONSUL_HTTP_ADDR");
    setenv("CONSUL_HTTP_TOKEN", "a\nb", 1);
    client_refused(&desc, "CONSUL_HTTP_TOKEN");
    unsetenv("CONSUL_HTTP_TOKEN");
    setenv("CONSUL_HTTP_AUTH", "a:\nb", 1);
    client_refused(&desc, "CONSUL_HTTP_AUTH");
    unsetenv("CONSUL_HTTP_AUTH");
    setenv("CONSUL_HTTP_SSL", "maybe", 1);
    client_refused(&desc, "CONSUL_HTTP_SSL");
    unsetenv("CONSUL_HTTP_SSL");
    setenv("CONSUL_NAMESPACE", "a\rb", 1);
    client_refused(&desc, "CONSUL_NAMESPACE");
    unsetenv("CONSUL_NAMESPACE");
    setenv("CONSUL_PARTITION", "a\rb", 1);
    client_refused(&desc, "CONSUL_PARTITION");
    desc.ignore_environment = true;
    CHECK(client_make(&stage, &desc));
    client_end(&stage);
}

static void test_environment_ssl(void)
{
    static const char *const yes[] = { "1", "t", "T", "TRUE", "true", "True" };
    static const char *const no[] = { "0", "f", "F", "FALSE", "false", "False", "" };
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        test_note("%s", yes[i]);
        setenv("CONSUL_HTTP_SSL", yes[i], 1);
        client_refused(&desc, "can_tls");
    }
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        test_note("%s", no[i]);
        setenv("CONSUL_HTTP_SSL", no[i], 1);
        CHECK(client_make(&stage, &desc) && client_ask(&stage) != NULL);
    }
    setenv("CONSUL_HTTP_SSL", "true", 1);
    /* as the official client: who asked for TLS is not sent back to plain text by "http://" */
    desc = client_desc_of(&stage, "http://10.0.0.1:8500");
    client_refused(&desc, "can_tls");
    /* a unix socket has no TLS */
    script *s = script_create(stage.w, "/run/c.sock", 0);
    script_ok(s);
    desc = client_desc_of(&stage, "unix:///run/c.sock");
    CHECK(client_make(&stage, &desc) && client_ask_of(&stage, s) != NULL);
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.ignore_environment = true;
    CHECK(client_make(&stage, &desc) && client_ask(&stage) != NULL);
    client_end(&stage);
}

static void test_environment_names(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    setenv("CONSUL_NAMESPACE", "team-a", 1);
    setenv("CONSUL_PARTITION", "p 1", 1);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    REQUIRE(client_make(&stage, &desc));
    const script_request *request = client_ask(&stage);
    if (CHECK(request != NULL)) {
        CHECK_STR(script_query(request, "ns"), "team-a");
        CHECK_STR(script_query(request, "partition"), "p 1");
    }
    desc.ns = "mine";
    desc.partition = "own";
    REQUIRE(client_make(&stage, &desc));
    request = client_ask(&stage);
    if (CHECK(request != NULL)) {
        CHECK_STR(script_query(request, "ns"), "mine");
        CHECK_STR(script_query(request, "partition"), "own");
    }
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.ignore_environment = true;
    REQUIRE(client_make(&stage, &desc));
    request = client_ask(&stage);
    CHECK(request != NULL && request->num_params == 0);
    client_end(&stage);
}

static void test_environment_auth(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    setenv("CONSUL_HTTP_AUTH", "aladdin:open sesame", 1);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    REQUIRE(client_make(&stage, &desc));
    const script_request *request = client_ask(&stage);
    if (CHECK(request != NULL)) {
        CHECK_STR(script_header(request, "Authorization"), "Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
    desc.basic_auth = "u:p";
    REQUIRE(client_make(&stage, &desc));
    request = client_ask(&stage);
    if (CHECK(request != NULL)) {
        CHECK_STR(script_header(request, "Authorization"), "Basic dTpw");
    }
    desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.ignore_environment = true;
    REQUIRE(client_make(&stage, &desc));
    request = client_ask(&stage);
    CHECK(request != NULL && script_header(request, "Authorization") == NULL);
    client_end(&stage);
}

static void test_basic_auth_padding(void)
{
    /* RFC 7617: user, colon, password; a password may hold colons, a name without one has none */
    static const struct {
        const char *auth, *line;
    } cases[] = {
        { "a:b", "Basic YTpi" },
        { "ab:c", "Basic YWI6Yw==" },
        { "ab:cd", "Basic YWI6Y2Q=" },
        { "ab:cde", "Basic YWI6Y2Rl" },
        { "a:b:c", "Basic YTpiOmM=" },
        { "\xc3\xa9:\xc3\xbf", "Basic w6k6w78=" },
        { "user", "Basic dXNlcjo=" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client_stage stage;
        test_note("%s", cases[i].auth);
        client_begin(&stage, NULL);
        sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
        desc.basic_auth = cases[i].auth;
        desc.token = "t";
        const script_request *request = client_make(&stage, &desc) ? client_ask(&stage) : NULL;
        if (CHECK(request != NULL)) {
            CHECK_STR(script_header(request, "Authorization"), cases[i].line);
            CHECK_STR(script_header(request, "X-Consul-Token"), "t");
        }
        client_end(&stage);
    }
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* All sixteen ways to set four sources: the first one that is set wins. */
static void test_token_precedence(void)
{
    for (unsigned set = 0; set < 16; set++) {
        client_stage stage;
        test_note("file %u, token %u, environment: file %u, token %u", set >> 3 & 1u, set >> 2 & 1u,
                  set >> 1 & 1u, set & 1u);
        client_begin(&stage, NULL);
        world_file_set(stage.w, "/own", "own-file\n");
        world_file_set(stage.w, "/env", "\t env-file \r\n");
        sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
        desc.token_file = (set & 8u) != 0 ? "/own" : NULL;
        desc.token = (set & 4u) != 0 ? "own-token" : "";
        setenv("CONSUL_HTTP_TOKEN_FILE", (set & 2u) != 0 ? "/env" : "", 1);
        setenv("CONSUL_HTTP_TOKEN", (set & 1u) != 0 ? "env-token" : "", 1);
        const char *want = (set & 8u) != 0 ? "own-file" : (set & 4u) != 0 ? "own-token"
                         : (set & 2u) != 0 ? "env-file" : (set & 1u) != 0 ? "env-token" : NULL;
        if (client_make(&stage, &desc)) {
            CHECK_STR(client_token(&stage), want);
            CHECK_ERR(sdc_client_set_token(stage.client, "set"), SDC_OK);
            CHECK_STR(client_token(&stage), "set");
            CHECK_ERR(sdc_client_set_token(stage.client, ""), SDC_OK);
            CHECK_STR(client_token(&stage), NULL);
            CHECK_ERR(sdc_client_set_token(stage.client, NULL), SDC_OK);
            CHECK_STR(client_token(&stage), want);
        }
        desc.ignore_environment = true;
        if ((set & 12u) == 0 && client_make(&stage, &desc)) {
            CHECK_STR(client_token(&stage), NULL);
        }
        client_end(&stage);
    }
}

static void test_token_set_refuses_line_breaks(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.token = "first";
    REQUIRE(client_make(&stage, &desc));
    CHECK_ERR(sdc_client_set_token(stage.client, "a\r\nX-Evil: 1"), SDC_ERR_ARG);
    CHECK_ERR(sdc_client_set_token(stage.client, "\x7f"), SDC_ERR_ARG);
    CHECK_STR(client_token(&stage), "first");
    client_end(&stage);
}

/* Rotation, a file that is missing for a moment, and one that is no token. */
static void test_76_token_file_is_read_anew(void)
{
    client_stage stage;
    static char longest[5000];
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.token_file = "/run/token";
    world_file_set(stage.w, "/run/token", "one\n");
    REQUIRE(client_make(&stage, &desc));
    CHECK_STR(client_token(&stage), "one");
    world_file_set(stage.w, "/run/token", "two");
    CHECK_STR(client_token(&stage), "two");
    CHECK_U64(world_seen(stage.w)->files, 2);
    CHECK_STR(world_log(stage.w), "");
    world_file_remove(stage.w, "/run/token");
    CHECK_STR(client_token(&stage), "two");
    CHECK_INT(world_log_count(stage.w, "WARN", "/run/token"), 1);
    world_file_set(stage.w, "/run/token", "two\nlines");
    CHECK_STR(client_token(&stage), "two");
    world_file_set_bytes(stage.w, "/run/token", "nul\0inside", 10);
    CHECK_STR(client_token(&stage), "two");
    memset(longest, 'x', sizeof longest - 1);
    world_file_set(stage.w, "/run/token", longest);
    CHECK_STR(client_token(&stage), "two");
    CHECK_INT(world_log_count(stage.w, "WARN", "/run/token"), 4);
    world_file_set(stage.w, "/run/token", "three");
    CHECK_STR(client_token(&stage), "three");
    CHECK_INT(world_log_count(stage.w, "WARN", "/run/token"), 4);
    CHECK_HASNT(world_log(stage.w), "two");
    CHECK_HASNT(world_log(stage.w), "inside");
    /* a token that was set makes the file of no interest */
    uint64_t before = world_seen(stage.w)->files;
    CHECK_ERR(sdc_client_set_token(stage.client, "own"), SDC_OK);
    CHECK_STR(client_token(&stage), "own");
    CHECK_U64(world_seen(stage.w)->files, before);
    client_end(&stage);
}

static void test_token_file_that_was_never_there(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.token_file = "/run/token";
    REQUIRE(client_make(&stage, &desc));
    CHECK_STR(client_token(&stage), NULL);
    CHECK_INT(world_log_count(stage.w, "WARN", "/run/token"), 1);
    world_file_set(stage.w, "/run/token", "late");
    CHECK_STR(client_token(&stage), "late");
    /* an empty file leaves what else was configured */
    world_file_set(stage.w, "/run/token", " \n");
    desc.token = "beside";
    REQUIRE(client_make(&stage, &desc));
    CHECK_STR(client_token(&stage), "beside");
    client_end(&stage);
}

static void client_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    (void)change;
    snprintf((char *)user, 256, "%s", event->message);
}

#define CLIENT_SECRET "5ecre7-70ken-0123456789"

/* The token goes into its header and nowhere else, whatever the server does with it. */
static void test_76_token_in_the_header_only(void)
{
    /* an echo that the kept part of the text cuts in its middle */
    char cut[400];
    memset(cut, '.', sizeof cut);
    memcpy(cut + 150, CLIENT_SECRET, strlen(CLIENT_SECRET));
    cut[150 + strlen(CLIENT_SECRET)] = '\0';
    const char *const echoes[] = { "token " CLIENT_SECRET " is bad",
                                   CLIENT_SECRET CLIENT_SECRET, cut };
    for (size_t i = 0; i < sizeof echoes / sizeof echoes[0]; i++) {
        client_stage stage;
        sdc_error error;
        char message[256] = "";
        test_note("echo %zu", i);
        client_begin(&stage, NULL);
        script_on(stage.s, "PUT ");
        script_error(stage.s, 403, echoes[i]);
        script_on(stage.s, "GET ");
        script_error(stage.s, 500, echoes[i]);
        sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
        desc.token = CLIENT_SECRET;
        REQUIRE(client_make(&stage, &desc));
        CHECK_ERR(sdc_client_deregister(stage.client, "x", &error), SDC_ERR_DENIED);
        CHECK_HASNT(error.message, "5ecre7");
        sdc_instancer_desc watch;
        sdc_instancer *instancer = NULL;
        memset(&watch, 0, sizeof watch);
        watch.query.service = "web";
        REQUIRE(sdc_instancer_create(stage.client, &watch, &instancer, &error) == SDC_OK);
        CHECK_ERR(sdc_instancer_subscribe(instancer, client_on_event, message), SDC_OK);
        world_run(stage.w, sdc_instancer_task(instancer), 3000);
        CHECK_HAS(message, "status 500");
        CHECK_HASNT(message, "5ecre7");
        sdc_task_error(sdc_instancer_task(instancer), &error);
        CHECK_HASNT(error.message, "5ecre7");
        sdc_instancer_destroy(instancer);
        CHECK_HASNT(world_log(stage.w), "5ecre7");
        for (size_t k = 0; k < script_num_requests(stage.s); k++) {
            const script_request *request = script_nth(stage.s, k);
            CHECK_HASNT(request->target, "5ecre7");
            CHECK_STR(script_header(request, "X-Consul-Token"), CLIENT_SECRET);
            CHECK_HASNT(request->body, "5ecre7");
        }
        client_end(&stage);
    }
}

static void test_76_token_change_reaches_the_next_request(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.token = "one";
    REQUIRE(rig_init_client(&r, NULL, &desc));
    script_health(r.script, 10, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 1000);
    CHECK_STR(script_header(script_last(r.script), "X-Consul-Token"), "one");
    CHECK_ERR(sdc_client_set_token(r.client, "two"), SDC_OK);
    rig_run(&r, 70000);
    CHECK_STR(script_header(script_last(r.script), "X-Consul-Token"), "two");
    rig_deinit(&r);
}

/* An allocator that looks into what it gets back before anybody else does. */
typedef struct client_vault {
    fault_alloc        memory;
    const char *const *secrets;
    size_t             num_secrets;
} client_vault;

static void *client_vault_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    client_vault *vault = (client_vault *)user;
    for (size_t i = 0; ptr != NULL && i < vault->num_secrets; i++) {
        size_t len = strlen(vault->secrets[i]);
        for (size_t at = 0; at + len <= old_size; at++) {
            if (memcmp((const char *)ptr + at, vault->secrets[i], len) == 0) {
                FAIL("\"%s\" is in a block of %zu bytes that is freed, at %zu", vault->secrets[i],
                     old_size, at);
                break;
            }
        }
    }
    return fault_alloc_resize(&vault->memory, ptr, old_size, new_size);
}

static void client_use_tokens(client_stage *stage)
{
    world_file_set(stage->w, "/run/token", "second-secret\n");
    client_ask(stage);
    world_file_set(stage->w, "/run/token", "third-secret\n");
    client_ask(stage);
    CHECK_ERR(sdc_client_set_token(stage->client, "fourth-secret"), SDC_OK);
    client_ask(stage);
    CHECK_ERR(sdc_client_set_token(stage->client, "fifth-secret"), SDC_OK);
    client_ask(stage);
    CHECK_ERR(sdc_client_set_token(stage->client, NULL), SDC_OK);
}

static void test_tokens_are_zeroed_when_freed(void)
{
    static const char *const secrets[] = { "first-secret", "second-secret", "third-secret",
                                           "fourth-secret", "fifth-secret", "cGFzc3dvcmQ" };
    client_stage stage;
    client_vault vault;
    static char padding[700];
    memset(&vault, 0, sizeof vault);
    fault_alloc_init(&vault.memory);
    vault.secrets = secrets;
    vault.num_secrets = sizeof secrets / sizeof secrets[0];
    sdc_allocator allocator;
    allocator.user = &vault;
    allocator.resize = client_vault_resize;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.allocator = &allocator;
    desc.token = "first-secret";
    desc.token_file = "/run/token";
    desc.basic_auth = "us:password";
    REQUIRE(client_make(&stage, &desc));
    client_use_tokens(&stage);
    /* a request so long that its buffer grows after the token went in */
    sdc_registration registration;
    memset(&registration, 0, sizeof registration);
    memset(padding, 'p', sizeof padding - 1);
    registration.name = "web";
    registration.kind = padding;
    CHECK_ERR(sdc_client_register(stage.client, &registration, NULL), SDC_OK);
    sdc_registrar_desc keep;
    sdc_registrar *registrar = NULL;
    memset(&keep, 0, sizeof keep);
    keep.registration = registration;
    CHECK_ERR(sdc_registrar_create(stage.client, &keep, &registrar, NULL), SDC_OK);
    CHECK_ERR(sdc_step(sdc_registrar_task(registrar), -1), SDC_OK);
    sdc_registrar_destroy(registrar);
    sdc_client_destroy(stage.client);
    stage.client = NULL;
    CHECK_INT(vault.memory.num_live, 0);
    fault_alloc_deinit(&vault.memory);
    client_end(&stage);
}

/* ---- the head of a request ------------------------------------------------------------------- */

static void test_request_head(void)
{
    client_stage stage;
    char agent[40];
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    REQUIRE(client_make(&stage, &desc));
    const script_request *request = client_ask(&stage);
    REQUIRE(request != NULL);
    snprintf(agent, sizeof agent, "sdconsul/%d.%d.%d", SDC_VERSION_MAJOR, SDC_VERSION_MINOR,
             SDC_VERSION_PATCH);
    CHECK_STR(script_header(request, "User-Agent"), agent);
    CHECK_STR(script_header(request, "X-Consul-Token"), NULL);
    CHECK_STR(script_header(request, "Authorization"), NULL);
    CHECK_STR(script_header(request, "Accept-Encoding"), NULL);
    CHECK_STR(script_header(request, "Content-Length"), "0");
    CHECK_STR(request->method, "PUT");
    CHECK_INT(request->body_len, 0);
    client_end(&stage);
}

static void test_client_lives_as_long_as_its_objects(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_ok(r.script);
    REQUIRE(rig_register(&r, NULL));
    sdc_client_destroy(r.client);
    r.client = NULL;
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_INT(script_count(r.script, "PUT /v1/agent/service/register"), 1);
    rig_deinit(&r);
}

static void test_client_clock_is_the_hook(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    REQUIRE(client_make(&stage, &desc));
    CHECK_U64(sdc_client_now_ms(stage.client), WORLD_START_MS);
    world_advance(stage.w, 123);
    CHECK_U64(sdc_client_now_ms(stage.client), WORLD_START_MS + 123);
    client_end(&stage);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Each allocation of create and destroy fails, once and from then on for good. */
static void test_client_create_without_memory(void)
{
    for (int is_for_good = 0; is_for_good <= 1; is_for_good++) {
        for (uint64_t nth = 1; nth < 100; nth++) {
            client_stage stage;
            fault_alloc memory;
            sdc_error error;
            test_note("allocation %u fails, %s", (unsigned)nth, is_for_good ? "for good" : "once");
            client_begin(&stage, NULL);
            fault_alloc_init(&memory);
            fault_alloc_fail(&memory, nth, is_for_good != 0);
            sdc_allocator allocator = fault_alloc_hook(&memory);
            sdc_client_desc desc = client_desc_of(&stage, "http://10.0.0.1:8500/prefix");
            desc.allocator = &allocator;
            desc.token = "t";
            desc.token_file = "/f";
            desc.basic_auth = "u:p";
            desc.datacenter = "dc";
            desc.ns = "n";
            desc.partition = "p";
            sdc_err err = sdc_client_create(&desc, &stage.client, &error);
            bool was_hit = memory.num_failed > 0;
            CHECK_ERR(err, was_hit ? SDC_ERR_NOMEM : SDC_OK);
            CHECK_INT(error.code, err);
            CHECK((stage.client == NULL) == was_hit);
            if (was_hit) {
                CHECK_INT(memory.num_live, 0);
            }
            sdc_client_destroy(stage.client);
            stage.client = NULL;
            fault_alloc_deinit(&memory);
            client_end(&stage);
            if (!was_hit) {
                CHECK(nth > 5);
                break;
            }
        }
    }
}

static void test_set_token_without_memory(void)
{
    client_stage stage;
    fault_alloc memory;
    client_begin(&stage, NULL);
    fault_alloc_init(&memory);
    sdc_allocator allocator = fault_alloc_hook(&memory);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.allocator = &allocator;
    desc.token = "first";
    REQUIRE(client_make(&stage, &desc));
    fault_alloc_fail(&memory, 1, false);
    CHECK_ERR(sdc_client_set_token(stage.client, "second"), SDC_ERR_NOMEM);
    CHECK_STR(client_token(&stage), "first");
    CHECK_ERR(sdc_client_set_token(stage.client, "second"), SDC_OK);
    CHECK_STR(client_token(&stage), "second");
    sdc_client_destroy(stage.client);
    stage.client = NULL;
    fault_alloc_deinit(&memory);
    client_end(&stage);
}

/* A writer that truncates the file first: a request without a token would be answered by an empty
   list that looks like the truth. */
static void test_76_emptied_token_file_keeps_the_last_token(void)
{
    static const char *const empty[] = { "", "\n", " \t\r\n" };
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        client_stage stage;
        client_begin(&stage, NULL);
        test_note("file %u", (unsigned)i);
        sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
        desc.token_file = "/run/token";
        world_file_set(stage.w, "/run/token", "one\n");
        REQUIRE(client_make(&stage, &desc));
        CHECK_STR(client_token(&stage), "one");
        world_file_set(stage.w, "/run/token", empty[i]);
        CHECK_STR(client_token(&stage), "one");
        CHECK_INT(world_log_count(stage.w, "WARN", "/run/token"), 1);
        world_file_set(stage.w, "/run/token", "two");
        CHECK_STR(client_token(&stage), "two");
        CHECK_INT(world_log_count(stage.w, "WARN", "/run/token"), 1);
        client_end(&stage);
    }
}

/* The largest limit is a large one. */
static void test_client_limit_of_the_head_may_be_the_largest(void)
{
    client_stage stage;
    client_begin(&stage, NULL);
    sdc_client_desc desc = client_desc_of(&stage, "10.0.0.1:8500");
    desc.max_head_bytes = SIZE_MAX;
    REQUIRE(client_make(&stage, &desc));
    CHECK(client_ask(&stage) != NULL);
    client_end(&stage);
}

static const test_case cases_client[] = {
    TEST(test_address_forms),
    TEST(test_address_default),
    TEST(test_address_refusals),
    TEST(test_address_prefix_needs_escaping),
    TEST(test_address_https_needs_tls),
    TEST(test_address_https_with_tls),
    TEST(test_client_refusals),
    TEST(test_77_client_names_without_line_breaks),
    TEST(test_client_destroy_takes_null),
    TEST(test_environment_address),
    TEST(test_environment_refusals_name_the_variable),
    TEST(test_environment_ssl),
    TEST(test_environment_names),
    TEST(test_environment_auth),
    TEST(test_basic_auth_padding),
    TEST(test_token_precedence),
    TEST(test_token_set_refuses_line_breaks),
    TEST(test_76_token_file_is_read_anew),
    TEST(test_token_file_that_was_never_there),
    TEST(test_76_token_in_the_header_only),
    TEST(test_76_token_change_reaches_the_next_request),
    TEST(test_tokens_are_zeroed_when_freed),
    TEST(test_request_head),
    TEST(test_client_lives_as_long_as_its_objects),
    TEST(test_client_clock_is_the_hook),
    TEST(test_client_create_without_memory),
    TEST(test_set_token_without_memory),
    TEST(test_76_emptied_token_file_keeps_the_last_token),
    TEST(test_client_limit_of_the_head_may_be_the_largest),
};
