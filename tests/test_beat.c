/* What the peers get wrong, each case by the name it has in README.md beside this file: go-kit's
   package for Consul, or the official client, fails it. Cases that a test of another file proves
   whole are named there alone. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEAT_NUM(array) (sizeof(array) / sizeof((array)[0]))

/* ---- common beginnings ----------------------------------------------------------------------- */

static const char *beat_body(rig *r, int number)
{
    char address[16];
    char id[16];
    snprintf(address, sizeof address, "10.1.0.%d", number);
    snprintf(id, sizeof id, "web-%d", number);
    return SCRIPT_LIST(r->script, { .id = id, .address = address, .port = 80 });
}

/* A watch that has read instance 1 at `index`, and whose next query is held. */
static bool beat_begin(rig *r, uint64_t index)
{
    if (!rig_init(r, NULL)) {
        return false;
    }
    script_health(r->script, index, beat_body(r, 1));
    script_hold(r->script);
    bool ok = rig_watch(r, NULL);
    rig_run(r, 10000);
    return ok && CHECK_STR(rig_addrs(r), "10.1.0.1:80");
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* One 500, and the agent is well again, its index where it was: go-kit publishes the instances when
   the next blocking query ends, after up to five minutes. */
static void test_beat_xrecover(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 5, beat_body(&r, 1));
    script_error(r.script, 500, "once");
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 1000);
    CHECK_INT(rig_num_events(&r), 4);
    CHECK_ERR(rig_event_nth(&r, 2)->err, SDC_ERR_STATUS);
    CHECK_STR(rig_event_nth(&r, 2)->addrs, "10.1.0.1:80");
    CHECK_ERR(rig_last(&r)->err, SDC_OK);
    CHECK_STR(rig_last(&r)->addrs, "10.1.0.1:80");
    CHECK_BETWEEN(rig_last(&r)->at_ms - rig_event_nth(&r, 2)->at_ms, 0, 999);
    CHECK_INT(script_num_held(r.script), 1);
    rig_deinit(&r);
}

/* A server that answers at once, always with the same index: thousands of requests a second. */
static void test_beat_xspin(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 42, beat_body(&r, 1));
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 1000);
    CHECK_BETWEEN(script_num_requests(r.script), 3, 5);
    rig_run(&r, 59000);
    CHECK_BETWEEN(script_num_requests(r.script), 5, 20);
    script_clear(r.script);
    script_health(r.script, 42, beat_body(&r, 2));
    rig_run(&r, 15000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_INT(rig_num_events(&r), 3);
    rig_deinit(&r);
}

/* Without a usable index go-kit publishes the first list for ever. */
static void test_beat_xzero(void)
{
    static const char *const headers[] = { NULL, "X-Consul-Index: 0\r\n", "X-Consul-Index: x\r\n",
                                           "X-Consul-Index: 18446744073709551616\r\n" };
    for (size_t i = 0; i < BEAT_NUM(headers); i++) {
        rig r;
        test_note("case %zu", i);
        REQUIRE(rig_init(&r, NULL));
        script_reply(r.script, 200, headers[i], beat_body(&r, 1));
        REQUIRE(rig_watch(&r, NULL));
        for (int number = 2; number < 6; number++) {
            char addr[24];
            size_t before = script_num_requests(r.script);
            rig_run(&r, 60000);
            script_clear(r.script);
            script_reply(r.script, 200, headers[i], beat_body(&r, number));
            rig_run(&r, 15000);
            snprintf(addr, sizeof addr, "10.1.0.%d:80", number);
            CHECK_STR(rig_addrs(&r), addr);
            CHECK_BETWEEN(script_num_requests(r.script) - before, 5, 30);
        }
        rig_deinit(&r);
    }
}

/* Where a watch is when it is stopped, and how it is ended. */
typedef enum beat_phase {
    BEAT_RESOLVE, BEAT_CONNECT, BEAT_WRITE, BEAT_HELD, BEAT_HEAD, BEAT_BODY, BEAT_BACKOFF,
    BEAT_BUCKET, BEAT_NUM_PHASES
} beat_phase;

static const char *const beat_phases[BEAT_NUM_PHASES] = {
    "resolve", "connect", "write", "held", "head", "body", "backoff", "empty bucket"
};

static void beat_prepare(rig *r, beat_phase phase)
{
    world_desc narrow;
    switch (phase) {
    case BEAT_RESOLVE:
        world_resolve_never(r->world, "consul.example");
        break;
    case BEAT_CONNECT:
        world_listen_mode(r->world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
        break;
    case BEAT_WRITE:
        memset(&narrow, 0, sizeof narrow);
        narrow.window_bytes = 10;
        narrow.latency_ms = 10000;
        world_set(r->world, &narrow);
        break;
    case BEAT_HELD:
        script_health(r->script, 100, beat_body(r, 1));
        script_hold(r->script);
        break;
    case BEAT_HEAD:
        script_raw(r->script, "HTTP/1.1 200 OK\r\nX-Consul-In");
        break;
    case BEAT_BODY:
        script_raw(r->script, "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\n"
                   "Content-Length: 99\r\n\r\n[{");
        break;
    case BEAT_BACKOFF:
        script_error(r->script, 403, "Permission denied");
        break;
    case BEAT_BUCKET:
    case BEAT_NUM_PHASES:
        script_health(r->script, 100, beat_body(r, 1));
        break;
    }
}

static bool beat_begin_in(rig *r, beat_phase phase)
{
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = phase == BEAT_RESOLVE ? "consul.example:8500" : NULL;
    if (!rig_init_client(r, NULL, &desc)) {
        return false;
    }
    test_note("%s", beat_phases[phase]);
    beat_prepare(r, phase);
    return rig_watch(r, NULL);
}

static void beat_stop_now(void *user)
{
    sdc_stop(((rig *)user)->task);
}

/* Stopped while a step blocks, or destroyed: go-kit's request stays open for minutes, its sleep
   ends when it likes. Here no millisecond passes. */
static void test_beat_xstopleak(void)
{
    for (int i = 0; i < 2 * BEAT_NUM_PHASES; i++) {
        rig r;
        REQUIRE(beat_begin_in(&r, (beat_phase)(i / 2)));
        rig_run(&r, 1200);
        bool is_open = world_seen(r.world)->open_now > 0;
        if (i / 2 != BEAT_RESOLVE && i / 2 != BEAT_BACKOFF) {
            CHECK(is_open);
        }
        if (i % 2 == 0) {
            world_after(r.world, 30, beat_stop_now, &r);
            sdc_err err = SDC_AGAIN;
            while (err != SDC_STOPPED && world_now(r.world) < WORLD_START_MS + 5000) {
                err = sdc_step(r.task, 1000);
            }
            CHECK_ERR(err, SDC_STOPPED);
            CHECK_U64(world_now(r.world) - WORLD_START_MS, 1230);
        } else {
            sdc_instancer_destroy(r.instancer);
            r.instancer = NULL;
            CHECK_U64(world_now(r.world) - WORLD_START_MS, 1200);
        }
        CHECK_INT(world_seen(r.world)->open_now, 0);
        CHECK_INT(world_seen(r.world)->resolves_now, 0);
        CHECK_INT(world_seen(r.world)->wakers_now, 0);
        rig_deinit(&r);
    }
}

/* A change comes after the stop, or is on its way: nobody is told. */
static void test_beat_xstopevent(void)
{
    for (int i = 0; i < 2 * BEAT_NUM_PHASES; i++) {
        rig r;
        REQUIRE(beat_begin_in(&r, (beat_phase)(i / 2)));
        rig_run(&r, 1200);
        if (i % 2 == 0) {
            script_change(r.script, 200, beat_body(&r, 2));
            world_advance(r.world, 0);              /* its bytes are here, unread */
        }
        size_t num = rig_num_events(&r);
        sdc_stop(r.task);
        script_change(r.script, 300, beat_body(&r, 3));
        for (int k = 0; k < 5; k++) {
            CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
            world_advance(r.world, 100000);
        }
        CHECK_INT(rig_num_events(&r), num);
        rig_deinit(&r);
    }
}

/* An agent that accepts and says nothing: go-kit's constructor never comes back. */
static void test_beat_xctorhang(void)
{
    for (int is_blackhole = 0; is_blackhole <= 1; is_blackhole++) {
        rig r;
        sdc_error error;
        REQUIRE(rig_init(&r, NULL));
        script_hang(r.script);
        if (is_blackhole) {
            world_listen_mode(r.world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
        }
        REQUIRE(rig_watch(&r, NULL));
        CHECK_INT(world_num_conns(r.world), 0);
        CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
        CHECK_U64(world_now(r.world), WORLD_START_MS);
        CHECK_ERR(sdc_instancer_wait(r.instancer, 0, 3000, &error), SDC_ERR_TIMEOUT);
        CHECK_U64(world_now(r.world), WORLD_START_MS + 3000);
        CHECK(error.message[0] != '\0');
        rig_deinit(&r);
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

/* go-kit dies of these. What is whole beside them is published. */
static void test_beat_xnilnode(void)
{
    static const char *const odd[] = {
        "null", "{}", "{\"Node\":null,\"Service\":null,\"Checks\":null}",
        "{\"Node\":{\"Address\":\"10.1.0.8\"}}",
        "{\"Node\":{\"Address\":\"10.1.0.8\"},\"Service\":null}",
        "{\"Service\":{\"Port\":80}}", "{\"Node\":null,\"Service\":{\"Port\":80}}"
    };
    for (size_t i = 0; i < BEAT_NUM(odd); i++) {
        rig r;
        char body[300];
        sdc_stats stats;
        test_note("%s", odd[i]);
        REQUIRE(rig_init(&r, NULL));
        snprintf(body, sizeof body, "[%s,{\"Node\":{\"Node\":\"n\",\"Address\":\"10.1.0.9\"},"
                 "\"Service\":{\"ID\":\"a\",\"Port\":80}},%s]", odd[i], odd[i]);
        script_health(r.script, 100, body);
        script_hold(r.script);
        REQUIRE(rig_watch(&r, NULL));
        rig_run(&r, 1000);
        CHECK_STR(rig_addrs(&r), "10.1.0.9:80");
        CHECK_ERR(rig_err(&r), SDC_OK);
        sdc_task_stats(r.task, &stats);
        CHECK_U64(stats.skipped_instances, 2);
        rig_deinit(&r);
    }
}

/* Listed twice, and two of one address: go-kit opens for each of them and never closes all. Here
   the changes add up to nothing in the end, and what changes nothing is no event. */
static void test_beat_xdup(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    const char *twice = SCRIPT_LIST(r.script, { .id = "a", .address = "10.1.0.1", .port = 80 },
                                    { .id = "a", .address = "10.1.0.1", .port = 80 },
                                    { .id = "b", .address = "10.1.0.1", .port = 80 });
    const char *once = SCRIPT_LIST(r.script, { .id = "b", .address = "10.1.0.1", .port = 80 },
                                   { .id = "a", .address = "10.1.0.1", .port = 80 });
    script_health(r.script, 100, twice);
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    for (uint64_t index = 100; index < 140; index++) {
        rig_run(&r, 2000);
        size_t num = rig_num_events(&r);
        script_change(r.script, index + 1, index % 4 < 2 ? once : twice);
        rig_run(&r, 2000);
        bool is_news = index % 2 == 0;
        CHECK_INT(rig_num_events(&r) - num, is_news ? 1 : 0);
    }
    rig_run(&r, 2000);
    script_change(r.script, 200, "[]");
    rig_run(&r, 2000);
    int left = 0;
    for (size_t i = 0; i < rig_num_events(&r); i++) {
        const rig_event *event = rig_event_nth(&r, i);
        left += (int)event->num_added - (int)event->num_removed;
        CHECK_INT(left, event->num_instances);
    }
    CHECK_INT(left, 0);
    rig_deinit(&r);
}

/* ---- subscribers ----------------------------------------------------------------------------- */

typedef struct beat_witness {
    unsigned calls;
    sdc_err  err;
    size_t   num_instances, num_added;
    bool     is_known;
    char     addr[32];
} beat_witness;

static void beat_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    beat_witness *witness = (beat_witness *)user;
    witness->calls++;
    witness->err = event->err;
    witness->is_known = event->is_known;
    witness->num_instances = event->num_instances;
    witness->num_added = change->num_added;
    snprintf(witness->addr, sizeof witness->addr, "%s",
             event->num_instances > 0 ? event->instances[0].addr : "");
}

/* Whoever comes during an outage gets the last good list and the error; go-kit gives the error. */
static void test_beat_xlate(void)
{
    rig r;
    beat_witness late;
    memset(&late, 0, sizeof late);
    REQUIRE(beat_begin(&r, 100));
    script_set_down(r.script, true);
    rig_run(&r, 600000);
    CHECK_ERR(rig_err(&r), SDC_ERR_CONNECT);
    CHECK_ERR(sdc_instancer_subscribe(r.instancer, beat_on_event, &late), SDC_OK);
    CHECK_INT(late.calls, 1);
    CHECK_ERR(late.err, SDC_ERR_CONNECT);
    CHECK(late.is_known);
    CHECK_INT(late.num_instances, 1);
    CHECK_INT(late.num_added, 1);
    CHECK_STR(late.addr, "10.1.0.1:80");
    const sdc_event *event = sdc_instancer_state(r.instancer);
    CHECK_U64(event->failing_since_ms, WORLD_START_MS + 10000);
    sdc_event_release(event);
    script_set_down(r.script, false);
    rig_run(&r, 61000);
    CHECK_INT(late.calls, 2);
    CHECK_ERR(late.err, SDC_OK);
    rig_deinit(&r);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Without an ID go-kit deregisters "", which is nothing; the agent gave the service its name. */
static void test_beat_xiddefault(void)
{
    rig r;
    sdc_registrar_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.registration.name = "web";
    desc.registration.address = "10.9.0.1";
    desc.registration.port = 8000;
    REQUIRE(rig_init(&r, NULL));
    script_on(r.script, "GET ");
    script_reply(r.script, 200, NULL, "{}");
    script_on(r.script, "PUT ");
    script_ok(r.script);
    REQUIRE(rig_register(&r, &desc));
    rig_run(&r, 1000);
    CHECK_HAS(script_nth(r.script, 0)->body, "\"ID\":\"web-10.9.0.1-8000\"");
    CHECK_STR(sdc_registrar_id(r.registrar), "web-10.9.0.1-8000");
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_STR(script_last(r.script)->raw_path,
              "/v1/agent/service/deregister/web-10.9.0.1-8000");
    CHECK_ERR(sdc_client_deregister(r.client, "", NULL), SDC_ERR_ARG);
    CHECK_ERR(sdc_client_deregister(r.client, NULL, NULL), SDC_ERR_ARG);
    rig_deinit(&r);
}

/* The official client follows a redirect to another host, with the token. */
static void test_beat_xtokleak(void)
{
    static const int statuses[] = { 301, 302, 303, 307, 308 };
    for (size_t i = 0; i < BEAT_NUM(statuses); i++) {
        rig r;
        sdc_client_desc desc;
        sdc_registration registration;
        memset(&desc, 0, sizeof desc);
        memset(&registration, 0, sizeof registration);
        desc.token = "secret-of-the-agent";
        registration.name = "web";
        test_note("%d", statuses[i]);
        REQUIRE(rig_init_client(&r, NULL, &desc));
        script *foreign = script_create(r.world, "10.6.6.6", 80);
        script_ok(foreign);
        script_reply(r.script, statuses[i], "Location: http://10.6.6.6/v1/x\r\n", "");
        CHECK_ERR(sdc_client_register(r.client, &registration, NULL), SDC_ERR_STATUS);
        CHECK_ERR(sdc_client_deregister(r.client, "web", NULL), SDC_ERR_STATUS);
        REQUIRE(rig_watch(&r, NULL));
        rig_run(&r, 60000);
        CHECK_ERR(rig_err(&r), SDC_ERR_STATUS);
        CHECK_INT(world_num_connects(r.world, "10.6.6.6", 80), 0);
        CHECK_STR(script_header(script_nth(r.script, 0), "X-Consul-Token"), desc.token);
        rig_deinit(&r);
    }
}

typedef struct beat_tls {
    sdc_io   real, io;
    unsigned opened, with_tls;
    char     host[64];
} beat_tls;

static beat_tls *beat_tls_now;

static sdc_err beat_tls_open(void *user, const sdc_target *target, void **stream, sdc_ready *until,
                             sdc_error *error)
{
    beat_tls_now->opened++;
    beat_tls_now->with_tls += target->tls ? 1 : 0;
    snprintf(beat_tls_now->host, sizeof beat_tls_now->host, "%s", target->host);
    return beat_tls_now->real.stream_open(user, target, stream, until, error);
}

/* What stands in CONSUL_HTTP_SSL_VERIFY, garbage above all, switches no verification off: the
   transport is always asked for TLS with the name that a certificate must have. */
static void test_beat_xsslverify(void)
{
    static const char *const values[] = { "yes", "0", "false", "", "garbage", "1" };
    const char *was = getenv("CONSUL_HTTP_SSL_VERIFY");
    char saved[64];
    snprintf(saved, sizeof saved, "%s", was != NULL ? was : "");
    for (size_t i = 0; i < BEAT_NUM(values); i++) {
        beat_tls tls;
        world_desc can_tls;
        sdc_client *client = NULL;
        memset(&tls, 0, sizeof tls);
        memset(&can_tls, 0, sizeof can_tls);
        can_tls.can_tls = true;
        world *w = world_create(&can_tls);
        script_ok(script_create(w, "10.0.0.1", 8501));
        beat_tls_now = &tls;
        tls.real = *world_io(w);
        tls.io = tls.real;
        tls.io.stream_open = beat_tls_open;
        sdc_client_desc desc = world_client_desc(w, "https://10.0.0.1:8501");
        desc.ignore_environment = false;
        desc.io = &tls.io;
        setenv("CONSUL_HTTP_SSL_VERIFY", values[i], 1);
        CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
        CHECK_ERR(sdc_client_deregister(client, "web", NULL), SDC_OK);
        CHECK(tls.opened > 0);
        CHECK_INT(tls.with_tls, tls.opened);
        CHECK_STR(tls.host, "10.0.0.1");
        sdc_client_destroy(client);
        world_destroy(w);
    }
    if (was != NULL) {
        setenv("CONSUL_HTTP_SSL_VERIFY", saved, 1);
    } else {
        unsetenv("CONSUL_HTTP_SSL_VERIFY");
    }
}

/* ---- parity ---------------------------------------------------------------------------------- */

/* The body of an error is read to its end, so that its connection serves the next request. */
static void test_beat_body_of_an_error_is_drained(void)
{
    rig r;
    char *much = (char *)malloc(100001);
    REQUIRE(much != NULL);
    memset(much, 'e', 100000);
    much[100000] = '\0';
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, beat_body(&r, 1));
    script_reply(r.script, 500, "Content-Type: text/plain\r\n", much);
    script_chunked(r.script, 1000);
    script_reply(r.script, 404, "Content-Type: text/plain\r\n", much);
    script_health(r.script, 101, beat_body(&r, 2));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 3000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_INT(script_num_requests(r.script), 5);
    CHECK_INT(world_num_conns(r.world), 1);
    free(much);
    rig_deinit(&r);
}

static const test_case cases_beat[] = {
    TEST(test_beat_xrecover),
    TEST(test_beat_xspin),
    TEST(test_beat_xzero),
    TEST(test_beat_xstopleak),
    TEST(test_beat_xstopevent),
    TEST(test_beat_xctorhang),
    TEST(test_beat_xnilnode),
    TEST(test_beat_xdup),
    TEST(test_beat_xlate),
    TEST(test_beat_xiddefault),
    TEST(test_beat_xtokleak),
    TEST(test_beat_xsslverify),
    TEST(test_beat_body_of_an_error_is_drained),
};
