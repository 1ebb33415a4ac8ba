/* What goes over the wire, and what comes of the answers: paths, queries, bodies of
   registrations, and the three one-shot calls. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/rig.h"
#include "support/script.h"
#include "support/test.h"
#include "support/world.h"
#include "support/world_agent.h"

#include <stdio.h>
#include <string.h>

#define REQUESTS_NUM(array) (sizeof(array) / sizeof((array)[0]))

/* A rig whose script has these steps, and in client further settings. */
static bool requests_begin(rig *r, const sdc_client_desc *client)
{
    sdc_client_desc none;
    memset(&none, 0, sizeof none);
    return rig_init_client(r, NULL, client != NULL ? client : &none);
}

static sdc_registration requests_web(void)
{
    sdc_registration registration;
    memset(&registration, 0, sizeof registration);
    registration.name = "web";
    return registration;
}

static sdc_query requests_query(const char *service)
{
    sdc_query query;
    memset(&query, 0, sizeof query);
    query.service = service;
    return query;
}

/* ---- paths ----------------------------------------------------------------------------------- */

static void test_74_path_escaping(void)
{
    static const struct {
        const char *name, *path;
    } cases[] = {
        { "a b", "a%20b" },
        { "a/b", "a%2Fb" },
        { "\xc3\xa9", "%C3%A9" },
        { "%", "%25" },
        { "%2e", "%252e" },
        { "?", "%3F" },
        { "#", "%23" },
        { "+", "%2B" },
        { ";", "%3B" },
        { "a?b=c&d", "a%3Fb%3Dc%26d" },
        { ":@!$'()*,=", "%3A%40%21%24%27%28%29%2A%2C%3D" },
        { "\"<>\\^`{|}[]", "%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D" },
        { "AZaz09-._~", "AZaz09-._~" },
        { "...", "..." },
        { ".a", ".a" },
        { "a..", "a.." },
        { "\xf0\x9f\x90\x88", "%F0%9F%90%88" },
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_on(r.script, "PUT ");
    script_ok(r.script);
    script_on(r.script, "GET ");
    script_health(r.script, 1, "[]");
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        char path[200];
        const sdc_event *event = NULL;
        test_note("%s", cases[i].name);
        CHECK_ERR(sdc_client_deregister(r.client, cases[i].name, NULL), SDC_OK);
        snprintf(path, sizeof path, "/v1/agent/service/deregister/%s", cases[i].path);
        CHECK_STR(script_last(r.script)->raw_path, path);
        sdc_query query = requests_query(cases[i].name);
        CHECK_ERR(sdc_client_service(r.client, &query, &event, NULL), SDC_OK);
        snprintf(path, sizeof path, "/v1/health/service/%s", cases[i].path);
        CHECK_STR(script_last(r.script)->raw_path, path);
        sdc_event_release(event);
    }
    rig_deinit(&r);
}

/* In a path; each of these is redirected, rejected or taken for another path by some agent. */
static const char *const requests_bad_names[] = {
    "", ".", "..", "/", "//", "a//b", "/a", "a/", "a/./b", "../../v1/kv/x", "a/..",
    "a\r\nb", "\n", "a\x01", "\x7f", "a\tb", "\xc2\xa0", "a\xc2\x85", "\xe2\x80\xa8",
    "\xef\xbb\xbfx"
};

static void test_74_path_refusals(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i <= REQUESTS_NUM(requests_bad_names); i++) {
        const char *bad = i < REQUESTS_NUM(requests_bad_names) ? requests_bad_names[i] : NULL;
        const sdc_event *event = (const sdc_event *)(const void *)&r;
        sdc_registration registration = requests_web();
        sdc_query query = requests_query(bad);
        sdc_instancer_desc watch;
        sdc_instancer *instancer = NULL;
        sdc_error error;
        test_note("case %zu", i);
        CHECK_ERR(sdc_client_deregister(r.client, bad, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "service_id");
        CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "service");
        CHECK(event == NULL);
        memset(&watch, 0, sizeof watch);
        watch.query.service = bad;
        CHECK_ERR(sdc_instancer_create(r.client, &watch, &instancer, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "service");
        CHECK(instancer == NULL);
        registration.name = bad;
        CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "name");
        registration.name = "web";
        registration.id = bad;
        if (bad != NULL && bad[0] != '\0') {
            CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_ARG);
            CHECK_HAS(error.message, "id");
        }
    }
    CHECK_U64(world_seen(r.world)->opened, 0);
    rig_deinit(&r);
}

/* A TTL check's ID stands in the path of its heartbeat. */
static void test_74_check_ids(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 1; i < REQUESTS_NUM(requests_bad_names); i++) {
        sdc_check check;
        sdc_registrar_desc desc;
        sdc_registrar *registrar = NULL;
        sdc_error error;
        test_note("case %zu", i);
        memset(&check, 0, sizeof check);
        memset(&desc, 0, sizeof desc);
        check.id = requests_bad_names[i];
        check.ttl_ms = 10000;
        desc.registration.name = "web";
        desc.registration.checks = &check;
        desc.registration.num_checks = 1;
        CHECK_ERR(sdc_registrar_create(r.client, &desc, &registrar, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "checks[0]");
        sdc_registrar_destroy(registrar);
    }
    rig_deinit(&r);
}

static void test_74_prefix_before_every_path(void)
{
    rig r;
    sdc_client_desc client;
    memset(&client, 0, sizeof client);
    client.address = "http://10.0.0.1:8500/proxy";
    REQUIRE(requests_begin(&r, &client));
    script_on(r.script, "PUT ");
    script_ok(r.script);
    script_on(r.script, "GET ");
    script_health(r.script, 1, "[]");
    script_hold(r.script);
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 30000);
    CHECK_ERR(sdc_registrar_set_maintenance(r.registrar, true, "x"), SDC_OK);
    rig_run(&r, 10);
    rig_watch(&r, NULL);
    rig_run(&r, 100);
    CHECK_INT(script_count(r.script, "PUT /proxy/v1/agent/service/register"), 1);
    CHECK(script_count(r.script, "PUT /proxy/v1/agent/check/update/") >= 1);
    CHECK_INT(script_count(r.script, "PUT /proxy/v1/agent/service/maintenance/web-1"), 1);
    CHECK(script_count(r.script, "GET /proxy/v1/health/service/web") >= 1);
    for (size_t i = 0; i < script_num_requests(r.script); i++) {
        CHECK(strncmp(script_nth(r.script, i)->raw_path, "/proxy/v1/", 10) == 0);
    }
    rig_deinit(&r);
}

/* ---- queries --------------------------------------------------------------------------------- */

/* One query; its request. NULL after a failed check. */
static const script_request *requests_ask(rig *r, const sdc_query *query)
{
    const sdc_event *event = NULL;
    sdc_error error;
    sdc_err err = sdc_client_service(r->client, query, &event, &error);
    sdc_event_release(event);
    if (err != SDC_OK) {
        FAIL("sdc_client_service: %s: %s", test_err_name((int)err), error.message);
        return NULL;
    }
    return script_last(r->script);
}

static void test_75_query_escaping(void)
{
    static const char nasty[] = "&;#+%= \"\xc3\xa9/?";
    static const char escaped[] = "%26%3B%23%2B%25%3D%20%22%C3%A9%2F%3F";
    rig r;
    char part[200];
    REQUIRE(requests_begin(&r, NULL));
    script_health(r.script, 1, "[]");
    const char *const tags[] = { nasty, "v1", "v1=2&index=9" };
    const sdc_kv metas[] = { { nasty, nasty }, { "rack", "r 1" }, { "empty", NULL } };
    const sdc_kv params[] = { { nasty, nasty }, { "sg", "a&wait=1ms" } };
    sdc_query query = requests_query("web");
    query.tags = tags;
    query.num_tags = 3;
    query.node_meta = metas;
    query.num_node_meta = 3;
    query.params = params;
    query.num_params = 2;
    query.filter = "Service.Tags contains \"a&b\" and Node.Meta.x != \"#\"";
    query.near_node = "_agent&index=1";
    query.datacenter = "dc 1";
    query.peer = "p+q";
    const script_request *request = requests_ask(&r, &query);
    REQUIRE(request != NULL);
    CHECK_STR(script_query_nth(request, "tag", 0), nasty);
    CHECK_STR(script_query_nth(request, "tag", 1), "v1");
    CHECK_STR(script_query_nth(request, "tag", 2), "v1=2&index=9");
    CHECK_STR(script_query_nth(request, "tag", 3), NULL);
    snprintf(part, sizeof part, "tag=%s&tag=v1&tag=v1%%3D2%%26index%%3D9", escaped);
    CHECK_HAS(request->raw_query, part);
    snprintf(part, sizeof part, "%s:%s", nasty, nasty);
    CHECK_STR(script_query_nth(request, "node-meta", 0), part);
    CHECK_STR(script_query_nth(request, "node-meta", 1), "rack:r 1");
    CHECK_STR(script_query_nth(request, "node-meta", 2), "empty:");
    CHECK_STR(script_query(request, nasty), nasty);
    CHECK_STR(script_query(request, "sg"), "a&wait=1ms");
    CHECK_STR(script_query(request, "filter"), query.filter);
    CHECK_STR(script_query(request, "near"), "_agent&index=1");
    CHECK_STR(script_query(request, "dc"), "dc 1");
    CHECK_STR(script_query(request, "peer"), "p+q");
    CHECK_STR(script_query(request, "index"), NULL);
    CHECK_STR(script_query_nth(request, "wait", 1), NULL);
    rig_deinit(&r);
}

static void test_75_query_of_each_kind(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_health(r.script, 1, "[]");
    sdc_query query = requests_query("web");
    const script_request *request = requests_ask(&r, &query);
    REQUIRE(request != NULL);
    CHECK_STR(request->raw_path, "/v1/health/service/web");
    CHECK_INT(request->num_params, 1);
    CHECK_STR(script_header(request, "Cache-Control"), NULL);
    query.source = SDC_SOURCE_CONNECT;
    query.passing_only = true;
    query.consistency = SDC_CONSISTENCY_STALE;
    query.cached = true;
    query.max_age_s = 30;
    query.stale_if_error_s = 60;
    request = requests_ask(&r, &query);
    REQUIRE(request != NULL);
    CHECK_STR(request->raw_path, "/v1/health/connect/web");
    CHECK_STR(script_query(request, "passing"), "1");
    CHECK_STR(script_query(request, "stale"), "");
    CHECK_STR(script_query(request, "cached"), "");
    CHECK_STR(script_query(request, "consistent"), NULL);
    CHECK_STR(script_header(request, "Cache-Control"), "max-age=30, stale-if-error=60");
    query.max_age_s = 0;
    query.stale_if_error_s = 0xFFFFFFFFu;
    request = requests_ask(&r, &query);
    REQUIRE(request != NULL);
    CHECK_STR(script_header(request, "Cache-Control"), "stale-if-error=4294967295");
    query = requests_query("web");
    query.source = SDC_SOURCE_INGRESS;
    query.consistency = SDC_CONSISTENCY_STRONG;
    request = requests_ask(&r, &query);
    REQUIRE(request != NULL);
    CHECK_STR(request->raw_path, "/v1/health/ingress/web");
    CHECK_STR(script_query(request, "consistent"), "");
    CHECK_STR(script_query(request, "stale"), NULL);
    rig_deinit(&r);
}

static void test_77_query_refusals(void)
{
    static const char *const tags[] = { "ok", "" };
    static const char *const split_tags[] = { "a\r\nX-Evil: 1" };
    static const sdc_kv no_key[] = { { "a", "b" }, { "", "x" } };
    static const sdc_kv split_key[] = { { "a\nb", "c" } };
    static const sdc_kv split_value[] = { { "a", "b\rc" } };
    sdc_query cases[13];
    static const char *const parts[] = {
        "tags[1]", "tags", "node_meta[1]", "node_meta", "node_meta", "params[1]", "params",
        "datacenter", "ns", "partition", "peer", "near_node", "filter"
    };
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        cases[i] = requests_query("web");
    }
    cases[0].tags = tags;
    cases[0].num_tags = 2;
    cases[1].tags = split_tags;
    cases[1].num_tags = 1;
    cases[2].node_meta = no_key;
    cases[2].num_node_meta = 2;
    cases[3].node_meta = split_key;
    cases[3].num_node_meta = 1;
    cases[4].node_meta = split_value;
    cases[4].num_node_meta = 1;
    cases[5].params = no_key;
    cases[5].num_params = 2;
    cases[6].params = split_value;
    cases[6].num_params = 1;
    cases[7].datacenter = "a\r\nb";
    cases[8].ns = "a\nb";
    cases[9].partition = "a\nb";
    cases[10].peer = "a\nb";
    cases[11].near_node = "a\nb";
    cases[12].filter = "a\r\n\r\nGET / HTTP/1.1";
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        const sdc_event *event = NULL;
        sdc_error error;
        test_note("%s", parts[i]);
        CHECK_ERR(sdc_client_service(r.client, &cases[i], &event, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, parts[i]);
        CHECK(strpbrk(error.message, "\r\n") == NULL);
    }
    CHECK_U64(world_seen(r.world)->opened, 0);
    rig_deinit(&r);
}

/* What a registration's strings hold is text in a body: they cannot leave it. */
static void test_77_registration_strings_stay_in_the_body(void)
{
    static const char evil[] = "x\r\nX-Evil: 1\r\n\r\nPUT /v1/agent/leave HTTP/1.1\r\n";
    const char *const tags[] = { evil };
    const sdc_kv metas[] = { { evil, evil } };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_registration registration = requests_web();
    registration.tags = tags;
    registration.num_tags = 1;
    registration.meta = metas;
    registration.num_meta = 1;
    registration.address = evil;
    registration.id = "web-1";
    CHECK_ERR(sdc_client_register(r.client, &registration, NULL), SDC_OK);
    CHECK_INT(script_num_requests(r.script), 1);
    const script_request *request = script_last(r.script);
    CHECK_STR(script_header(request, "X-Evil"), NULL);
    CHECK_HASNT(request->body, "\r");
    CHECK_HASNT(request->body, "\n");
    rig_deinit(&r);
}

static void test_78_scope_only_if_set(void)
{
    static const char *const names[] = { "dc", "ns", "partition", "peer" };
    for (unsigned set = 0; set < 16; set++) {
        rig r;
        sdc_client_desc client;
        test_note("client %u, query %u", set & 1u, set >> 1);
        memset(&client, 0, sizeof client);
        if ((set & 1u) != 0) {
            client.datacenter = "client-dc";
            client.ns = "client-ns";
            client.partition = "client-partition";
        }
        REQUIRE(requests_begin(&r, &client));
        script_on(r.script, "PUT ");
        script_ok(r.script);
        script_on(r.script, "GET ");
        script_health(r.script, 1, "[]");
        sdc_query query = requests_query("web");
        query.datacenter = (set & 2u) != 0 ? "query-dc" : NULL;
        query.ns = (set & 4u) != 0 ? "query-ns" : "";
        query.partition = (set & 4u) != 0 ? "query-partition" : NULL;
        query.peer = (set & 8u) != 0 ? "query-peer" : NULL;
        const char *const want[] = {
            (set & 2u) != 0 ? "query-dc" : (set & 1u) != 0 ? "client-dc" : NULL,
            (set & 4u) != 0 ? "query-ns" : (set & 1u) != 0 ? "client-ns" : NULL,
            (set & 4u) != 0 ? "query-partition" : (set & 1u) != 0 ? "client-partition" : NULL,
            (set & 8u) != 0 ? "query-peer" : NULL
        };
        const script_request *request = requests_ask(&r, &query);
        REQUIRE(request != NULL);
        for (size_t i = 0; i < REQUESTS_NUM(names); i++) {
            CHECK_STR(script_query(request, names[i]), want[i]);
        }
        CHECK_ERR(sdc_client_deregister(r.client, "web-1", NULL), SDC_OK);
        request = script_last(r.script);
        CHECK_STR(script_query(request, "ns"), (set & 1u) != 0 ? "client-ns" : NULL);
        CHECK_STR(script_query(request, "partition"),
                  (set & 1u) != 0 ? "client-partition" : NULL);
        CHECK_STR(script_query(request, "peer"), NULL);
        rig_deinit(&r);
    }
}

static void test_14_wait_always_there(void)
{
    static const uint32_t waits[] = { 0, 1, 9, 10, 999, 1000, 60000, 600000, 86400000,
                                      SDC_NEVER };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_health(r.script, 7, "[]");
    for (size_t i = 0; i < REQUESTS_NUM(waits) * 2; i++) {
        sdc_query query = requests_query("web");
        query.wait_ms = waits[i / 2];
        query.index = i % 2;
        test_note("wait_ms %u, index %u", (unsigned)query.wait_ms, (unsigned)query.index);
        const script_request *request = requests_ask(&r, &query);
        REQUIRE(request != NULL);
        const char *wait = script_query(request, "wait");
        if (!CHECK(wait != NULL)) {
            break;
        }
        size_t digits = strspn(wait, "0123456789");
        CHECK(digits > 0 && wait[0] != '0');
        CHECK(strcmp(wait + digits, "ms") == 0 || strcmp(wait + digits, "s") == 0);
        CHECK_STR(script_query(request, "index"), query.index != 0 ? "1" : NULL);
    }
    rig_deinit(&r);
}

/* ---- bodies of registrations ----------------------------------------------------------------- */

/* The body that one registration becomes. NULL after a failed check. */
static const char *requests_body(rig *r, const sdc_registration *registration)
{
    sdc_error error;
    sdc_err err = sdc_client_register(r->client, registration, &error);
    if (err != SDC_OK) {
        FAIL("sdc_client_register: %s: %s", test_err_name((int)err), error.message);
        return NULL;
    }
    const script_request *request = script_last(r->script);
    CHECK_STR(request->method, "PUT");
    CHECK_STR(request->raw_path, "/v1/agent/service/register");
    CHECK_STR(script_header(request, "Content-Type"), "application/json");
    return request->body;
}

static void test_79_minimal_body(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_registration registration = requests_web();
    CHECK_STR(requests_body(&r, &registration), "{\"ID\":\"web\",\"Name\":\"web\"}");
    registration.address = "10.1.0.1";
    CHECK_STR(requests_body(&r, &registration),
              "{\"ID\":\"web-10.1.0.1\",\"Name\":\"web\",\"Address\":\"10.1.0.1\"}");
    registration.port = 80;
    CHECK_STR(requests_body(&r, &registration), "{\"ID\":\"web-10.1.0.1-80\",\"Name\":\"web\","
              "\"Address\":\"10.1.0.1\",\"Port\":80}");
    registration.address = "";
    CHECK_STR(requests_body(&r, &registration),
              "{\"ID\":\"web-80\",\"Name\":\"web\",\"Port\":80}");
    registration.address = "2001:db8::1";
    registration.port = 65535;
    CHECK_STR(requests_body(&r, &registration), "{\"ID\":\"web-2001:db8::1-65535\","
              "\"Name\":\"web\",\"Address\":\"2001:db8::1\",\"Port\":65535}");
    registration.id = "mine";
    CHECK_STR(requests_body(&r, &registration), "{\"ID\":\"mine\",\"Name\":\"web\","
              "\"Address\":\"2001:db8::1\",\"Port\":65535}");
    rig_deinit(&r);
}

static void test_79_full_body(void)
{
    static const char *const tags[] = { "v1", "blue green", "" };
    static const sdc_port ports[] = { { "http", 8080, true }, { "admin", 8081, false } };
    static const sdc_address addresses[] = { { "lan", "10.1.0.1", 80 }, { "wan", "192.0.2.1", 0 } };
    static const sdc_kv metas[] = { { "version", "2" }, { "empty", NULL } };
    static const char want[] =
        "{\"ID\":\"web-1\",\"Name\":\"web\",\"Kind\":\"typical\","
        "\"Tags\":[\"v1\",\"blue green\",\"\"],\"Address\":\"10.1.0.1\","
        "\"Ports\":[{\"Name\":\"http\",\"Port\":8080,\"Default\":true},"
        "{\"Name\":\"admin\",\"Port\":8081}],\"SocketPath\":\"/run/web.sock\","
        "\"TaggedAddresses\":{\"lan\":{\"Address\":\"10.1.0.1\",\"Port\":80},"
        "\"wan\":{\"Address\":\"192.0.2.1\"}},"
        "\"Meta\":{\"version\":\"2\",\"empty\":\"\"},"
        "\"Weights\":{\"Passing\":10,\"Warning\":0},\"EnableTagOverride\":true,"
        "\"Locality\":{\"Region\":\"eu\",\"Zone\":\"eu-1\"},"
        "\"Checks\":[{\"CheckID\":\"service:web-1\",\"TTL\":\"10s\"}],"
        "\"Proxy\":{\"Upstreams\":[]},\"Connect\":null}";
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_check check;
    memset(&check, 0, sizeof check);
    check.ttl_ms = 10000;
    sdc_registration registration = requests_web();
    registration.id = "web-1";
    registration.kind = "typical";
    registration.tags = tags;
    registration.num_tags = 3;
    registration.address = "10.1.0.1";
    registration.ports = ports;
    registration.num_ports = 2;
    registration.socket_path = "/run/web.sock";
    registration.tagged_addresses = addresses;
    registration.num_tagged_addresses = 2;
    registration.meta = metas;
    registration.num_meta = 2;
    registration.weight_passing = 10;
    registration.enable_tag_override = true;
    registration.region = "eu";
    registration.zone = "eu-1";
    registration.checks = &check;
    registration.num_checks = 1;
    registration.raw_members = "\"Proxy\":{\"Upstreams\":[]},\"Connect\":null";
    CHECK_STR(requests_body(&r, &registration), want);
    rig_deinit(&r);
}

/* Each kind of check by itself, with all that goes with it; what an agent of either version must
   take is registered at embedded ones below. */
typedef struct requests_check {
    const char *name, *json;
    sdc_check   check;
    bool        is_new;             /* 1.8 does not know it                                   */
} requests_check;

static const sdc_kv requests_headers[] = {
    { "X-A", "1" }, { "Host", "web \"x\"" }, { "X-A", "2" }, { "X-B", NULL }
};
static const char *const requests_args[] = { "/bin/check", "-a b" };

static const requests_check requests_checks[] = {
    { "ttl", "\"TTL\":\"1500ms\"", { .ttl_ms = 1500 }, false },
    { "ttl with all", "\"Name\":\"n\",\"Notes\":\"o\",\"Status\":\"warning\",\"TTL\":\"1s\","
      "\"DeregisterCriticalServiceAfter\":\"90s\",\"SuccessBeforePassing\":1,"
      "\"FailuresBeforeCritical\":3,\"OutputMaxSize\":512",
      { .name = "n", .notes = "o", .ttl_ms = 1000, .deregister_critical_after_ms = 90000,
        .success_before_passing = 1, .failures_before_critical = 3, .output_max_bytes = 512,
        .interval_ms = 5000, .status = SDC_STATUS_WARNING }, false },
    { "http", "\"HTTP\":\"http://127.0.0.1/?a=\\\"b\\\"\",\"Interval\":\"10s\"",
      { .http = "http://127.0.0.1/?a=\"b\"" }, false },
    { "http with all", "\"HTTP\":\"https://127.0.0.1/\",\"Method\":\"POST\",\"Body\":\"{}\","
      "\"Header\":{\"X-A\":[\"1\",\"2\"],\"Host\":[\"web \\\"x\\\"\"],\"X-B\":[\"\"]},"
      "\"DisableRedirects\":true,\"TLSServerName\":\"web.example\",\"TLSSkipVerify\":true,"
      "\"Interval\":\"1001ms\",\"Timeout\":\"2s\",\"FailuresBeforeWarning\":1,"
      "\"FailuresBeforeCritical\":2",
      { .http = "https://127.0.0.1/", .method = "POST", .body = "{}", .headers = requests_headers,
        .num_headers = 4, .disable_redirects = true, .tls_server_name = "web.example",
        .tls_skip_verify = true, .interval_ms = 1001, .timeout_ms = 2000,
        .deregister_critical_after_ms = SDC_NEVER, .failures_before_warning = 1,
        .failures_before_critical = 2 }, true },
    { "h2ping", "\"H2PING\":\"127.0.0.1:1\",\"Interval\":\"10s\"", { .h2ping = "127.0.0.1:1" },
      true },
    { "h2ping without TLS", "\"H2PING\":\"127.0.0.1:1\",\"H2PingUseTLS\":false,"
      "\"Interval\":\"10s\"", { .h2ping = "127.0.0.1:1", .h2ping_no_tls = true }, true },
    { "tcp", "\"TCP\":\"127.0.0.1:1\",\"Interval\":\"60s\",\"Timeout\":\"1ms\"",
      { .tcp = "127.0.0.1:1", .interval_ms = 60000, .timeout_ms = 1 }, false },
    { "tcp with TLS", "\"TCP\":\"127.0.0.1:1\",\"TCPUseTLS\":true,\"Interval\":\"10s\"",
      { .tcp = "127.0.0.1:1", .tcp_use_tls = true }, true },
    { "udp", "\"UDP\":\"127.0.0.1:1\",\"Interval\":\"10s\"", { .udp = "127.0.0.1:1" }, true },
    { "grpc", "\"GRPC\":\"127.0.0.1:1/s\",\"GRPCUseTLS\":true,\"Interval\":\"10s\"",
      { .grpc = "127.0.0.1:1/s", .grpc_use_tls = true }, false },
    { "os_service", "\"OSService\":\"ssh\",\"Interval\":\"10s\"", { .os_service = "ssh" }, true },
    { "alias of a service", "\"AliasService\":\"other\"", { .alias_service = "other" }, false },
    { "alias of a node", "\"AliasNode\":\"node-2\",\"AliasService\":\"other\"",
      { .alias_node = "node-2", .alias_service = "other" }, false },
    { "args", "\"ScriptArgs\":[\"/bin/check\",\"-a b\"],\"Interval\":\"10s\"",
      { .args = requests_args, .num_args = 2 }, false },
    { "docker", "\"ScriptArgs\":[\"/bin/check\",\"-a b\"],\"DockerContainerID\":\"c1\","
      "\"Shell\":\"/bin/sh\",\"Interval\":\"10s\"",
      { .args = requests_args, .num_args = 2, .docker_container_id = "c1", .shell = "/bin/sh" },
      false },
    { "longest", "\"TTL\":\"4294967294ms\",\"DeregisterCriticalServiceAfter\":\"4294967s\"",
      { .ttl_ms = 0xFFFFFFFEu, .deregister_critical_after_ms = 4294967000u }, false },
};

static void test_79_each_kind_of_check(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    for (size_t i = 0; i < REQUESTS_NUM(requests_checks); i++) {
        char want[600];
        test_note("%s", requests_checks[i].name);
        sdc_registration registration = requests_web();
        registration.checks = &requests_checks[i].check;
        registration.num_checks = 1;
        snprintf(want, sizeof want, "{\"ID\":\"web\",\"Name\":\"web\",\"Checks\":["
                 "{\"CheckID\":\"service:web\",%s}]}", requests_checks[i].json);
        CHECK_STR(requests_body(&r, &registration), want);
    }
    rig_deinit(&r);
}

/* What an agent does not know it refuses, so that every member above is proved by its taking it.
   Scripts, and Docker with them, are off in an agent unless it is told otherwise, and services of
   the system are those of Windows. */
static void test_79_agents_of_both_versions_take_the_checks(void)
{
    for (int is_new = 0; is_new <= 1; is_new++) {
        agent_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.profile = is_new ? AGENT_1_22 : AGENT_1_8;
        world *w = world_create(NULL);
        agent *a = agent_create(&desc, world_now(w));
        world_listen_agent(w, "10.0.0.2", 8500, a);
        sdc_client *client = world_client(w, "10.0.0.2:8500");
        for (size_t i = 0; client != NULL && i < REQUESTS_NUM(requests_checks); i++) {
            const requests_check *one = &requests_checks[i];
            sdc_registration registration = requests_web();
            sdc_error error;
            test_note("%s agent, %s", is_new ? "1.22" : "1.8", one->name);
            registration.id = one->name;
            registration.checks = &one->check;
            registration.num_checks = 1;
            sdc_err err = sdc_client_register(client, &registration, &error);
            bool is_off = one->check.num_args > 0 || one->check.os_service != NULL;
            if (is_off && (is_new || !one->is_new)) {
                CHECK_ERR(err, SDC_ERR_STATUS);
                CHECK_HASNT(error.message, "unknown field");
            } else if (one->is_new && !is_new) {
                CHECK_ERR(err, SDC_ERR_STATUS);
                CHECK_HAS(error.message, "unknown field");
            } else {
                CHECK_STR(error.message, "");
                CHECK(agent_has_service(a, one->name));
            }
        }
        sdc_client_destroy(client);
        world_destroy(w);
        agent_destroy(a);
    }
}

static void test_79_ids_of_checks(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_check checks[3];
    memset(checks, 0, sizeof checks);
    checks[0].ttl_ms = 1000;
    checks[1].ttl_ms = 2000;
    checks[1].id = "own \"id\"";
    checks[2].ttl_ms = 3000;
    sdc_registration registration = requests_web();
    registration.id = "w1";
    registration.checks = checks;
    registration.num_checks = 3;
    CHECK_STR(requests_body(&r, &registration), "{\"ID\":\"w1\",\"Name\":\"web\",\"Checks\":["
              "{\"CheckID\":\"service:w1:1\",\"TTL\":\"1s\"},"
              "{\"CheckID\":\"own \\\"id\\\"\",\"TTL\":\"2s\"},"
              "{\"CheckID\":\"service:w1:3\",\"TTL\":\"3s\"}]}");
    rig_deinit(&r);
}

/* A registrar beats its TTL checks, so they begin as passing and have an end; others are as the
   caller wrote them. */
static void test_79_body_of_a_registrar(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_check checks[3];
    memset(checks, 0, sizeof checks);
    checks[0].ttl_ms = 10000;
    checks[1].ttl_ms = 10000;
    checks[1].status = SDC_STATUS_CRITICAL;
    checks[1].deregister_critical_after_ms = SDC_NEVER;
    checks[2].tcp = "127.0.0.1:1";
    sdc_registrar_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.registration.name = "web";
    desc.registration.checks = checks;
    desc.registration.num_checks = 3;
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_STR(script_nth(r.script, 0)->body, "{\"ID\":\"web\",\"Name\":\"web\",\"Checks\":["
              "{\"CheckID\":\"service:web:1\",\"Status\":\"passing\",\"TTL\":\"10s\","
              "\"DeregisterCriticalServiceAfter\":\"3600s\"},"
              "{\"CheckID\":\"service:web:2\",\"Status\":\"critical\",\"TTL\":\"10s\"},"
              "{\"CheckID\":\"service:web:3\",\"TCP\":\"127.0.0.1:1\",\"Interval\":\"10s\"}]}");
    rig_deinit(&r);
}

static void test_79_strings_are_escaped(void)
{
    static const struct {
        const char *text, *json;
    } cases[] = {
        { "a\"b\\c", "a\\\"b\\\\c" },
        { "\x01\x1f", "\\u0001\\u001f" },
        { "a/b", "a/b" },
        { "\xc3\xa9 \xf0\x9f\x90\x88 \xe2\x80\xa8", "\xc3\xa9 \xf0\x9f\x90\x88 \xe2\x80\xa8" },
        { "</script>&", "</script>&" },
        { "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf" },
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        char want[200];
        test_note("case %zu", i);
        sdc_kv meta = { cases[i].text, cases[i].text };
        sdc_registration registration = requests_web();
        registration.meta = &meta;
        registration.num_meta = 1;
        snprintf(want, sizeof want, "{\"ID\":\"web\",\"Name\":\"web\",\"Meta\":{\"%s\":\"%s\"}}",
                 cases[i].json, cases[i].json);
        CHECK_STR(requests_body(&r, &registration), want);
    }
    rig_deinit(&r);
}

static void test_79_text_that_is_not_utf8_is_refused(void)
{
    static const char *const bad[] = { "\xff", "a\xc3", "\xc0\xaf", "\xed\xa0\x80",
                                       "\xf5\x80\x80\x80", "\x80", "\xe2\x82" };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(bad) * 6; i++) {
        const char *text = bad[i / 6];
        const char *const tags[] = { text };
        sdc_kv meta = { "k", text };
        sdc_check check;
        sdc_error error;
        test_note("case %zu, place %zu", i / 6, i % 6);
        memset(&check, 0, sizeof check);
        check.ttl_ms = 1000;
        check.notes = text;
        sdc_registration registration = requests_web();
        registration.tags = tags;
        registration.num_tags = i % 6 == 0 ? 1 : 0;
        registration.meta = &meta;
        registration.num_meta = i % 6 == 1 ? 1 : 0;
        registration.checks = &check;
        registration.num_checks = i % 6 == 2 ? 1 : 0;
        registration.name = i % 6 == 3 ? text : "web";
        registration.id = i % 6 == 4 ? text : NULL;
        registration.address = i % 6 == 5 ? text : NULL;
        CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_ARG);
        CHECK(error.message[0] != '\0');
    }
    CHECK_U64(world_seen(r.world)->opened, 0);
    rig_deinit(&r);
}

static void test_79_raw_members_are_checked(void)
{
    static const char *const bad[] = {
        "x", "\"a\"", "\"a\":", "\"a\":1,", ",\"a\":1", "{}", "\"a\":1}", "}", "\"a\":1}{\"b\":2",
        "\"a\":01", "\"a\":'b'", "\"a\":1 \"b\":2", "//", "\"a\":\"\xff\"", "\"a\":\"\\ud800\"",
        "\"ID\":\"another\"", "\"id\":\"another\"", "\"Name\":\"another\""
    };
    static const char *const good[] = {
        "\"Proxy\":{}", " \"A\" : [ 1 , null ] ", "\"A\":{\"B\":{\"ID\":\"x\"}},\"C\":1e3"
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    for (size_t i = 0; i < REQUESTS_NUM(bad); i++) {
        sdc_registration registration = requests_web();
        sdc_error error;
        test_note("%s", bad[i]);
        registration.raw_members = bad[i];
        CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "raw_members");
    }
    CHECK_INT(script_num_requests(r.script), 0);
    for (size_t i = 0; i < REQUESTS_NUM(good); i++) {
        char want[200];
        sdc_registration registration = requests_web();
        test_note("%s", good[i]);
        registration.raw_members = good[i];
        snprintf(want, sizeof want, "{\"ID\":\"web\",\"Name\":\"web\",%s}", good[i]);
        CHECK_STR(requests_body(&r, &registration), want);
    }
    rig_deinit(&r);
}

/* What raw members hold may be a secret: no message and no log repeats it. */
static void test_79_raw_members_are_never_told(void)
{
    rig r;
    sdc_error error;
    REQUIRE(requests_begin(&r, NULL));
    script_error(r.script, 400, "no");
    sdc_registration registration = requests_web();
    registration.raw_members = "\"Token\":\"hidden\",";
    CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_ARG);
    CHECK_HASNT(error.message, "hidden");
    registration.raw_members = "\"Token\":\"hidden\"";
    sdc_registrar_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.registration = registration;
    REQUIRE(rig_register(&r, &desc));
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
    CHECK(world_log(r.world)[0] != '\0');
    CHECK_HASNT(world_log(r.world), "hidden");
    rig_deinit(&r);
}

static void test_79_registration_refusals(void)
{
    enum { NUM = 13 };
    static const char *const parts[NUM] = {
        "checks[0]", "checks[0]", "checks[0]", "checks[1]", "checks[0]", "checks[0]", "port",
        "weight", "weight", "weight", "meta[1]", "checks[0]", "tagged_addresses[0]"
    };
    static const sdc_kv no_key[] = { { "a", "b" }, { NULL, "x" } };
    static const sdc_kv no_name[] = { { "", "b" } };
    static const sdc_port port = { "http", 1, false };
    static const sdc_address nowhere = { "", "10.0.0.1", 1 };
    sdc_check checks[NUM][2];
    sdc_registration cases[NUM];
    memset(checks, 0, sizeof checks);
    for (size_t i = 0; i < NUM; i++) {
        cases[i] = requests_web();
        cases[i].checks = checks[i];
    }
    for (size_t i = 0; i < 6; i++) {
        cases[i].num_checks = 1;
    }
    checks[1][0].ttl_ms = 1;                    /* two kinds; above, none */
    checks[1][0].tcp = "127.0.0.1:1";
    checks[2][0].docker_container_id = "c";
    checks[3][0].ttl_ms = 1000;
    checks[3][1].http = "http://a/";
    checks[3][1].grpc = "a:1";
    cases[3].num_checks = 2;
    checks[4][0].ttl_ms = 1000;
    checks[4][0].status = SDC_STATUS_MAINTENANCE;
    checks[5][0].ttl_ms = SDC_NEVER;
    cases[6].port = 80;
    cases[6].ports = &port;
    cases[6].num_ports = 1;
    cases[7].weight_warning = 1;
    cases[8].weight_passing = 65536;
    cases[9].weight_passing = 1;
    cases[9].weight_warning = 65536;
    cases[10].meta = no_key;
    cases[10].num_meta = 2;
    checks[11][0].http = "http://a/";
    checks[11][0].headers = no_name;
    checks[11][0].num_headers = 1;
    cases[11].num_checks = 1;
    cases[12].tagged_addresses = &nowhere;
    cases[12].num_tagged_addresses = 1;
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < NUM; i++) {
        sdc_error error;
        test_note("case %zu", i);
        CHECK_ERR(sdc_client_register(r.client, &cases[i], &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, parts[i]);
    }
    CHECK_U64(world_seen(r.world)->opened, 0);
    rig_deinit(&r);
}

static void test_79_interval_for_ever_is_refused(void)
{
    rig r;
    sdc_error error;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_check check;
    memset(&check, 0, sizeof check);
    check.tcp = "127.0.0.1:1";
    check.interval_ms = SDC_NEVER;
    sdc_registration registration = requests_web();
    registration.checks = &check;
    registration.num_checks = 1;
    CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_ARG);
    CHECK_HAS(error.message, "interval_ms");
    rig_deinit(&r);
}

static void test_80_replaces_existing_checks(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_ok(r.script);
    sdc_registration registration = requests_web();
    CHECK(requests_body(&r, &registration) != NULL);
    CHECK_STR(script_query(script_last(r.script), "replace-existing-checks"), "true");
    /* the registrar's first, and not when it has to be done again */
    script_clear(r.script);
    script_on(r.script, "PUT /v1/agent/check/");
    script_error(r.script, 404, "Unknown check ID \"service:web-1\".");
    script_ok(r.script);
    script_on(r.script, NULL);
    script_ok(r.script);
    REQUIRE(rig_register(&r, NULL));
    rig_run(&r, 5000);
    size_t num = script_count(r.script, "PUT /v1/agent/service/register");
    CHECK(num >= 3);
    for (size_t i = 0; i < num; i++) {
        const script_request *request = script_nth_of(r.script, "PUT /v1/agent/service/register",
                                                      i);
        const char *replaces = script_query(request, "replace-existing-checks");
        CHECK_STR(replaces != NULL ? replaces : "", i < 2 ? "true" : "");
    }
    rig_deinit(&r);
}

/* ---- what answers mean ----------------------------------------------------------------------- */

static void test_83_unknown_service_is_deregistered(void)
{
    static const struct {
        int         status;
        const char *text;
    } unknown[] = {
        { 404, "Unknown service ID \"web-1\". Ensure that the service ID is passed, not the "
               "service name." },
        { 404, "Unknown service \"web-1\"" },
        { 500, "Unknown service \"web-1\"" },
        { 500, "Unknown service {\"web-1\" {}}" },
        { 500, "Unknown service ID \"web-1\"" },
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(unknown); i++) {
        sdc_error error;
        test_note("%d %s", unknown[i].status, unknown[i].text);
        script_clear(r.script);
        script_error(r.script, unknown[i].status, unknown[i].text);
        memset(&error, 0x55, sizeof error);
        CHECK_ERR(sdc_client_deregister(r.client, "web-1", &error), SDC_OK);
        CHECK_INT(error.code, SDC_OK);
        CHECK_STR(error.message, "");
        CHECK_INT(error.http_status, 0);
    }
    rig_deinit(&r);
}

static void test_83_agents_of_both_versions(void)
{
    for (int i = 0; i < 4; i++) {
        agent_desc desc;
        sdc_error error;
        memset(&desc, 0, sizeof desc);
        desc.profile = (i & 1) != 0 ? AGENT_1_22 : AGENT_1_8;
        desc.management_token = (i & 2) != 0 ? "m" : NULL;
        test_note("agent %d", i);
        world *w = world_create(NULL);
        agent *a = agent_create(&desc, world_now(w));
        world_listen_agent(w, "10.0.0.2", 8500, a);
        sdc_client *client = world_client(w, "10.0.0.2:8500");
        if (client != NULL) {
            CHECK_ERR(sdc_client_set_token(client, desc.management_token), SDC_OK);
            sdc_registration registration = requests_web();
            CHECK_ERR(sdc_client_register(client, &registration, &error), SDC_OK);
            CHECK(agent_has_service(a, "web"));
            CHECK_ERR(sdc_client_deregister(client, "web", &error), SDC_OK);
            CHECK(!agent_has_service(a, "web"));
            CHECK_ERR(sdc_client_deregister(client, "web", &error), SDC_OK);
            CHECK_STR(error.message, "");
            CHECK_INT(world_log_count(w, "", ""), 0);
        }
        sdc_client_destroy(client);
        world_destroy(w);
        agent_destroy(a);
    }
}

/* The same status says that the path does not exist at all. */
static void test_43_another_404_is_a_failure(void)
{
    static const char *const texts[] = { "Invalid URL path: not a recognized HTTP API endpoint",
                                         "", "404 page not found" };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(texts); i++) {
        sdc_error error;
        test_note("%s", texts[i]);
        script_clear(r.script);
        script_error(r.script, 404, texts[i]);
        CHECK_ERR(sdc_client_deregister(r.client, "web-1", &error), SDC_ERR_STATUS);
        CHECK_INT(error.http_status, 404);
        CHECK_HAS(error.message, texts[i]);
        CHECK_HAS(error.message, "/v1/agent/service/deregister/web-1");
    }
    rig_deinit(&r);
}

static void test_44_statuses(void)
{
    static const struct {
        int         status;
        const char *text;
        sdc_err     err;
    } cases[] = {
        { 400, "Request decode failed", SDC_ERR_STATUS },
        { 401, "who", SDC_ERR_DENIED },
        { 403, "Permission denied: token with AccessorID 'x' lacks permission", SDC_ERR_DENIED },
        { 403, "ACL not found", SDC_ERR_DENIED },
        { 405, "method PUT not allowed", SDC_ERR_STATUS },
        { 413, "Request body too large", SDC_ERR_STATUS },
        { 429, "Your IP is issuing too many concurrent connections", SDC_ERR_BUSY },
        { 429, "", SDC_ERR_BUSY },
        { 431, "Request Header Fields Too Large", SDC_ERR_STATUS },
        { 500, "No cluster leader", SDC_ERR_STATUS },
        { 502, "<html>bad gateway</html>", SDC_ERR_STATUS },
        { 503, "rate limit exceeded, try again later or against a different server",
          SDC_ERR_BUSY },
        { 503, "error reading from server: EOF", SDC_ERR_STATUS },
        { 504, "gateway timeout", SDC_ERR_STATUS },
        { 204, "", SDC_ERR_STATUS },
        { 202, "", SDC_ERR_STATUS },
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        sdc_registration registration = requests_web();
        sdc_query query = requests_query("web");
        const sdc_event *event = (const sdc_event *)(const void *)&r;
        sdc_error error;
        char status[40];
        test_note("%d %s", cases[i].status, cases[i].text);
        script_clear(r.script);
        if (cases[i].status == 204) {
            script_raw(r.script, "HTTP/1.1 204 No Content\r\n\r\n");
        } else {
            script_error(r.script, cases[i].status, cases[i].text);
        }
        snprintf(status, sizeof status, "%d", cases[i].status);
        CHECK_ERR(sdc_client_register(r.client, &registration, &error), cases[i].err);
        CHECK_INT(error.code, cases[i].err);
        CHECK_INT(error.http_status, cases[i].status);
        CHECK_HAS(error.message, status);
        CHECK_HAS(error.message, cases[i].text);
        CHECK_ERR(sdc_client_deregister(r.client, "x", &error), cases[i].err);
        CHECK_INT(error.http_status, cases[i].status);
        CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), cases[i].err);
        CHECK_INT(error.http_status, cases[i].status);
        CHECK_HAS(error.message, cases[i].text);
        CHECK(event == NULL);
    }
    rig_deinit(&r);
}

static void test_39_a_refused_registration_is_sent_once(void)
{
    rig r;
    sdc_error error;
    REQUIRE(requests_begin(&r, NULL));
    script_error(r.script, 400, "Invalid check: TTL must be > 0 for TTL checks");
    sdc_registration registration = requests_web();
    CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_STATUS);
    CHECK_INT(script_num_requests(r.script), 1);
    CHECK_HAS(error.message, "Invalid check: TTL must be > 0 for TTL checks");
    CHECK_HAS(error.message, "PUT /v1/agent/service/register");
    CHECK_U64(world_now(r.world), WORLD_START_MS);
    rig_deinit(&r);
}

static void test_41_redirects_are_never_followed(void)
{
    static const int statuses[] = { 300, 301, 302, 303, 307, 308, 304 };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script *elsewhere = script_create(r.world, "10.0.0.9", 80);
    script_ok(elsewhere);
    for (size_t i = 0; i < REQUESTS_NUM(statuses); i++) {
        sdc_registration registration = requests_web();
        sdc_query query = requests_query("web");
        const sdc_event *event = NULL;
        sdc_error error;
        test_note("%d", statuses[i]);
        script_clear(r.script);
        script_reply(r.script, statuses[i], "Location: http://10.0.0.9/v1/x\r\n", "");
        size_t before = script_num_requests(r.script);
        CHECK_ERR(sdc_client_register(r.client, &registration, &error), SDC_ERR_STATUS);
        CHECK_INT(error.http_status, statuses[i]);
        CHECK_HAS(error.message, "redirect");
        CHECK_STR(script_last(r.script)->method, "PUT");
        CHECK_ERR(sdc_client_deregister(r.client, "x", &error), SDC_ERR_STATUS);
        CHECK_STR(script_last(r.script)->method, "PUT");
        CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_ERR_STATUS);
        CHECK_INT(script_num_requests(r.script), before + 3);
    }
    CHECK_INT(script_num_requests(elsewhere), 0);
    rig_deinit(&r);
}

/* ---- the one-shot query ---------------------------------------------------------------------- */

static void test_service_answers_instances(void)
{
    rig r;
    const sdc_event *event = NULL;
    sdc_error error;
    REQUIRE(requests_begin(&r, NULL));
    script_health(r.script, 1234, SCRIPT_LIST(r.script,
        { .id = "b", .address = "10.1.0.2", .port = 80, .tags = "v1,v2" },
        { .id = "a", .address = "10.1.0.1", .port = 80, .status = "critical" },
        { .id = "c", .address = "2001:db8::1", .port = 81 }));
    sdc_query query = requests_query("web");
    CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_OK);
    REQUIRE(event != NULL);
    CHECK_INT(error.code, SDC_OK);
    CHECK_ERR(event->err, SDC_OK);
    CHECK_STR(event->message, "");
    CHECK(event->is_known);
    CHECK_U64(event->index, 1234);
    if (CHECK_INT(event->num_instances, 3)) {
        CHECK_STR(event->instances[0].addr, "10.1.0.1:80");
        CHECK_INT(event->instances[0].status, SDC_STATUS_CRITICAL);
        CHECK_STR(event->instances[1].addr, "10.1.0.2:80");
        CHECK_INT(event->instances[1].num_tags, 2);
        CHECK_STR(event->instances[2].addr, "[2001:db8::1]:81");
    }
    /* the event outlives the client */
    const sdc_event *held = sdc_event_retain(event);
    sdc_event_release(event);
    sdc_client_destroy(r.client);
    r.client = NULL;
    CHECK_STR(held->instances[0].addr, "10.1.0.1:80");
    sdc_event_release(held);
    rig_deinit(&r);
}

static void test_service_filters_on_this_side(void)
{
    static const char *const tags[] = { "V1" };
    rig r;
    const sdc_event *event = NULL;
    REQUIRE(requests_begin(&r, NULL));
    script_health(r.script, 5, SCRIPT_LIST(r.script,
        { .id = "a", .address = "10.1.0.1", .port = 1, .tags = "v1" },
        { .id = "b", .address = "10.1.0.2", .port = 1, .tags = "v2" },
        { .id = "c", .address = "10.1.0.3", .port = 1, .tags = "v1", .status = "warning" },
        { .id = "d", .address = "10.1.0.4", .port = 1, .tags = "v1", .status = "critical" }));
    sdc_query query = requests_query("web");
    query.tags = tags;
    query.num_tags = 1;
    query.worst_status = SDC_STATUS_WARNING;
    CHECK_ERR(sdc_client_service(r.client, &query, &event, NULL), SDC_OK);
    if (CHECK(event != NULL) && CHECK_INT(event->num_instances, 2)) {
        CHECK_STR(event->instances[0].id, "a");
        CHECK_STR(event->instances[1].id, "c");
    }
    sdc_event_release(event);
    rig_deinit(&r);
}

static void test_service_index(void)
{
    static const struct {
        const char *header;
        uint64_t    index;
    } cases[] = {
        { "X-Consul-Index: 18446744073709551615\r\n", UINT64_MAX },
        { "x-consul-index: 9\r\n", 9 },
        { "X-Consul-Index: 0\r\n", 1 },
        { "", 0 },
        { "X-Consul-Index: abc\r\n", 0 },
        { "X-Consul-Index: 18446744073709551616\r\n", 0 },
        { "X-Consul-Index: -1\r\n", 0 },
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        const sdc_event *event = NULL;
        test_note("%s", cases[i].header);
        script_clear(r.script);
        script_reply(r.script, 200, cases[i].header, "[]");
        sdc_query query = requests_query("web");
        query.index = UINT64_MAX - i;
        CHECK_ERR(sdc_client_service(r.client, &query, &event, NULL), SDC_OK);
        if (CHECK(event != NULL)) {
            CHECK_U64(event->index, cases[i].index);
            CHECK(event->is_known);
            CHECK_INT(event->num_instances, 0);
        }
        char sent[32];
        snprintf(sent, sizeof sent, "%llu", (unsigned long long)(UINT64_MAX - i));
        CHECK_STR(script_query(script_last(r.script), "index"), sent);
        sdc_event_release(event);
    }
    rig_deinit(&r);
}

static void test_service_with_an_index_blocks(void)
{
    rig r;
    const sdc_event *event = NULL;
    REQUIRE(requests_begin(&r, NULL));
    script_delay(r.script, 20000);
    script_health(r.script, 101, "[]");
    sdc_query query = requests_query("web");
    query.index = 100;
    query.wait_ms = 30000;
    CHECK_ERR(sdc_client_service(r.client, &query, &event, NULL), SDC_OK);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 20000);
    CHECK(event != NULL && event->index == 101);
    sdc_event_release(event);
    rig_deinit(&r);
}

static void test_service_of_bad_bodies(void)
{
    static const struct {
        const char *body;
        sdc_err     err;
    } cases[] = {
        { "<html>sign in</html>", SDC_ERR_JSON }, { "[", SDC_ERR_JSON }, { "", SDC_ERR_JSON },
        { "{}", SDC_ERR_SHAPE }, { "\"x\"", SDC_ERR_SHAPE }, { "[]]", SDC_ERR_JSON },
    };
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    for (size_t i = 0; i < REQUESTS_NUM(cases); i++) {
        const sdc_event *event = (const sdc_event *)(const void *)&r;
        sdc_error error;
        test_note("%s", cases[i].body);
        script_clear(r.script);
        script_health(r.script, 5, cases[i].body);
        sdc_query query = requests_query("web");
        CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), cases[i].err);
        CHECK_INT(error.code, cases[i].err);
        CHECK(error.message[0] != '\0');
        CHECK(event == NULL);
    }
    rig_deinit(&r);
}

static void test_service_limit_of_instances(void)
{
    rig r;
    const sdc_event *event = NULL;
    sdc_error error;
    sdc_client_desc client;
    memset(&client, 0, sizeof client);
    client.max_instances = 10;
    REQUIRE(requests_begin(&r, &client));
    script_health(r.script, 5, script_many(r.script, 0, 10));
    script_health(r.script, 5, script_many(r.script, 0, 11));
    sdc_query query = requests_query("web");
    CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_OK);
    CHECK(event != NULL && event->num_instances == 10);
    sdc_event_release(event);
    CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_ERR_LIMIT);
    CHECK(event == NULL);
    rig_deinit(&r);
}

/* ---- how long a call may take ---------------------------------------------------------------- */

typedef enum requests_call {
    REQUESTS_REGISTER, REQUESTS_DEREGISTER, REQUESTS_SERVICE
} requests_call;

static sdc_err requests_do(rig *r, requests_call call, sdc_error *error)
{
    sdc_registration registration = requests_web();
    sdc_query query = requests_query("web");
    const sdc_event *event = NULL;
    sdc_err err = SDC_OK;
    switch (call) {
    case REQUESTS_REGISTER:   err = sdc_client_register(r->client, &registration, error); break;
    case REQUESTS_DEREGISTER: err = sdc_client_deregister(r->client, "x", error);         break;
    case REQUESTS_SERVICE:    err = sdc_client_service(r->client, &query, &event, error); break;
    }
    sdc_event_release(event);
    return err;
}

static void requests_trickle(void *user, world_conn *conn)
{
    (void)user;
    world_conn_send_str(conn, "X-Slow: 1\r\n");
    world_conn_timer(conn, 700);
}

static void requests_trickle_on_accept(void *user, world_conn *conn)
{
    (void)user;
    world_conn_send_str(conn, "HTTP/1.1 200 OK\r\n");
    world_conn_timer(conn, 700);
}

/* An agent that hangs, trickles, swallows the connection, or whose name is never resolved. */
static void test_calls_are_bounded(void)
{
    static const char *const ways[] = { "hangs", "trickles", "blackhole", "resolver", "full" };
    for (size_t i = 0; i < REQUESTS_NUM(ways) * 3; i++) {
        rig r;
        sdc_client_desc client;
        sdc_error error;
        const char *way = ways[i / 3];
        test_note("%s, call %zu", way, i % 3);
        memset(&client, 0, sizeof client);
        client.request_timeout_ms = 4000;
        client.connect_timeout_ms = i % 2 == 0 ? 60000 : 1500;
        client.address = strcmp(way, "resolver") == 0 ? "consul.internal:8500" : NULL;
        REQUIRE(requests_begin(&r, &client));
        script_hang(r.script);
        if (strcmp(way, "trickles") == 0) {
            world_server server;
            memset(&server, 0, sizeof server);
            server.on_accept = requests_trickle_on_accept;
            server.on_timer = requests_trickle;
            world_listen(r.world, "10.0.0.1", 8500, &server);
        } else if (strcmp(way, "blackhole") == 0) {
            world_listen_mode(r.world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
        } else if (strcmp(way, "resolver") == 0) {
            world_resolve_never(r.world, "consul.internal");
        } else if (strcmp(way, "full") == 0) {
            world_desc narrow;
            memset(&narrow, 0, sizeof narrow);
            narrow.window_bytes = 10;
            world_set(r.world, &narrow);
            world_server deaf;
            memset(&deaf, 0, sizeof deaf);
            world_listen(r.world, "10.0.0.1", 8500, &deaf);
        }
        CHECK_ERR(requests_do(&r, (requests_call)(i % 3), &error), SDC_ERR_TIMEOUT);
        CHECK_BETWEEN(world_now(r.world) - WORLD_START_MS, 1500, 4000);
        CHECK(error.message[0] != '\0');
        CHECK_INT(error.http_status, 0);
        CHECK_INT(world_seen(r.world)->open_now, 0);
        rig_deinit(&r);
    }
}

static void test_service_with_an_index_is_bounded_by_its_wait(void)
{
    rig r;
    sdc_client_desc client;
    const sdc_event *event = NULL;
    sdc_error error;
    memset(&client, 0, sizeof client);
    client.request_timeout_ms = 4000;
    REQUIRE(requests_begin(&r, &client));
    script_hang(r.script);
    sdc_query query = requests_query("web");
    query.index = 7;
    query.wait_ms = 32000;
    CHECK_ERR(sdc_client_service(r.client, &query, &event, &error), SDC_ERR_TIMEOUT);
    CHECK_BETWEEN(world_now(r.world) - WORLD_START_MS, 34000, 32000 + 2000 + 10000 + 4000);
    rig_deinit(&r);
}

static void test_calls_tell_what_is_down(void)
{
    rig r;
    sdc_error error;
    REQUIRE(requests_begin(&r, NULL));
    script_set_down(r.script, true);
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(requests_do(&r, (requests_call)i, &error), SDC_ERR_CONNECT);
        CHECK_HAS(error.message, "10.0.0.1:8500");
        CHECK(error.os_errno != 0);
    }
    script_set_down(r.script, false);
    script_reset(r.script);
    CHECK_ERR(requests_do(&r, REQUESTS_DEREGISTER, &error), SDC_ERR_IO);
    script_clear(r.script);
    script_close(r.script);
    CHECK_ERR(requests_do(&r, REQUESTS_DEREGISTER, &error), SDC_ERR_IO);
    script_clear(r.script);
    script_then_close(r.script);
    script_raw(r.script, "SSH-2.0-x\r\n\r\n");
    CHECK_ERR(requests_do(&r, REQUESTS_DEREGISTER, &error), SDC_ERR_HTTP);
    CHECK_U64(world_now(r.world), WORLD_START_MS);
    rig_deinit(&r);
}

/* Every call brings its own connection and leaves none. */
static void test_calls_leave_no_connection(void)
{
    rig r;
    REQUIRE(requests_begin(&r, NULL));
    script_on(r.script, "PUT ");
    script_ok(r.script);
    script_on(r.script, "GET ");
    script_health(r.script, 1, "[]");
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(requests_do(&r, (requests_call)i, NULL), SDC_OK);
        CHECK_INT(world_seen(r.world)->open_now, 0);
    }
    CHECK_U64(world_seen(r.world)->opened, 3);
    rig_deinit(&r);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Each allocation of each call fails, once and from then on for good. */
static void test_calls_without_memory(void)
{
    for (int which = 0; which < 6; which++) {
        for (uint64_t nth = 1; nth < 200; nth++) {
            rig r;
            sdc_error error;
            test_note("call %d, allocation %u fails, %s", which / 2, (unsigned)nth,
                      which % 2 != 0 ? "for good" : "once");
            REQUIRE(requests_begin(&r, NULL));
            script_on(r.script, "PUT ");
            script_ok(r.script);
            script_on(r.script, "GET ");
            script_health(r.script, 5, script_many(r.script, 0, 3));
            fault_alloc_fail(&r.memory, nth, which % 2 != 0);
            sdc_err err = requests_do(&r, (requests_call)(which / 2), &error);
            bool was_hit = r.memory.num_failed > 0;
            fault_alloc_fail(&r.memory, 0, false);
            CHECK(err == SDC_OK || (was_hit && err == SDC_ERR_NOMEM));
            CHECK_INT(error.code, err);
            CHECK_INT(world_seen(r.world)->open_now, 0);
            CHECK_ERR(requests_do(&r, (requests_call)(which / 2), &error), SDC_OK);
            rig_deinit(&r);
            if (!was_hit) {
                CHECK(nth > 2);
                break;
            }
        }
    }
}

static const test_case cases_requests[] = {
    TEST(test_74_path_escaping),
    TEST(test_74_path_refusals),
    TEST(test_74_check_ids),
    TEST(test_74_prefix_before_every_path),
    TEST(test_75_query_escaping),
    TEST(test_75_query_of_each_kind),
    TEST(test_77_query_refusals),
    TEST(test_77_registration_strings_stay_in_the_body),
    TEST(test_78_scope_only_if_set),
    TEST(test_14_wait_always_there),
    TEST(test_79_minimal_body),
    TEST(test_79_full_body),
    TEST(test_79_each_kind_of_check),
    TEST(test_79_agents_of_both_versions_take_the_checks),
    TEST(test_79_ids_of_checks),
    TEST(test_79_body_of_a_registrar),
    TEST(test_79_strings_are_escaped),
    TEST(test_79_text_that_is_not_utf8_is_refused),
    TEST(test_79_raw_members_are_checked),
    TEST(test_79_raw_members_are_never_told),
    TEST(test_79_registration_refusals),
    TEST(test_79_interval_for_ever_is_refused),
    TEST(test_80_replaces_existing_checks),
    TEST(test_83_unknown_service_is_deregistered),
    TEST(test_83_agents_of_both_versions),
    TEST(test_43_another_404_is_a_failure),
    TEST(test_44_statuses),
    TEST(test_39_a_refused_registration_is_sent_once),
    TEST(test_41_redirects_are_never_followed),
    TEST(test_service_answers_instances),
    TEST(test_service_filters_on_this_side),
    TEST(test_service_index),
    TEST(test_service_with_an_index_blocks),
    TEST(test_service_of_bad_bodies),
    TEST(test_service_limit_of_instances),
    TEST(test_calls_are_bounded),
    TEST(test_service_with_an_index_is_bounded_by_its_wait),
    TEST(test_calls_tell_what_is_down),
    TEST(test_calls_leave_no_connection),
    TEST(test_calls_without_memory),
};
