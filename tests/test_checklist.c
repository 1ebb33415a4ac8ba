/* Lines of the checklist that no test of one section proves as a whole; README.md beside this file
   says which test proves which line. In virtual time, but for four tests on real sockets. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "agent/server.h"
#include "support/rig.h"
#include "support/world_agent.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECKLIST_NUM(array) (sizeof(array) / sizeof((array)[0]))

enum { CHECKLIST_SOON_MS = 10000 };     /* what takes milliseconds, on a machine that is busy   */

/* ---- common beginnings ----------------------------------------------------------------------- */

/* One instance web-N at 10.1.0.N:80. */
static const char *checklist_body(rig *r, int number)
{
    char address[16];
    char id[16];
    snprintf(address, sizeof address, "10.1.0.%d", number);
    snprintf(id, sizeof id, "web-%d", number);
    return SCRIPT_LIST(r->script, { .id = id, .address = address, .port = 80 });
}

static sdc_stats checklist_stats(const rig *r)
{
    sdc_stats stats;
    sdc_task_stats(r->task, &stats);
    return stats;
}

/* An embedded agent at 10.0.0.2:8500 and a client of it. */
static agent *checklist_agent(rig *r, agent_profile profile, uint64_t first_index)
{
    agent_desc desc;
    sdc_client_desc client;
    memset(&desc, 0, sizeof desc);
    memset(&client, 0, sizeof client);
    desc.profile = profile;
    desc.first_index = first_index;
    client.address = "10.0.0.2:8500";
    if (!rig_init_client(r, NULL, &client)) {
        return NULL;
    }
    agent *a = agent_create(&desc, world_now(r->world));
    world_listen_agent(r->world, "10.0.0.2", 8500, a);
    return a;
}

static sdc_err checklist_register(rig *r, const char *id, uint16_t port)
{
    sdc_registration registration;
    memset(&registration, 0, sizeof registration);
    registration.id = id;
    registration.name = "web";
    registration.address = "10.9.0.1";
    registration.port = port;
    return sdc_client_register(r->client, &registration, NULL);
}

/* ---- the blocking loop ----------------------------------------------------------------------- */

/* Its index is far below the one that the watch knows, and stays so. */
static void checklist_restart(agent_profile profile)
{
    rig r;
    agent *a = checklist_agent(&r, profile, 5000);
    REQUIRE(a != NULL);
    CHECK_ERR(checklist_register(&r, "web-1", 1), SDC_OK);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 20000);
    CHECK_STR(rig_addrs(&r), "10.9.0.1:1");
    CHECK(checklist_stats(&r).index > 5000);
    agent_restart(a, 7, true, world_now(r.world));
    uint64_t at_ms = world_now(r.world);
    CHECK_ERR(checklist_register(&r, "web-2", 2), SDC_OK);
    rig_run(&r, 5000);
    CHECK_STR(rig_addrs(&r), "10.9.0.1:1,10.9.0.1:2");
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK(checklist_stats(&r).index < 100);
    CHECK_BETWEEN(rig_last(&r)->at_ms - at_ms, 0, 1010);
    at_ms = world_now(r.world);
    CHECK(agent_kill_service(a, "web-1", at_ms));       /* the new history is followed, too */
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.9.0.1:2");
    CHECK_BETWEEN(rig_last(&r)->at_ms - at_ms, 0, 100);
    rig_deinit(&r);
    agent_destroy(a);
}

static void test_21_restarted_agent_with_lower_indexes(void)
{
    checklist_restart(AGENT_1_8);
    checklist_restart(AGENT_1_22);
}

/* Whatever stands between ends each query after 30 s without a byte. */
static void checklist_close_after(void *user)
{
    world_conn_close((world_conn *)user);
}

static void checklist_cut_at_30_s(void *user, script_request *request)
{
    rig *r = (rig *)user;
    uint64_t wait_ms = script_wait_ms(request);
    const char *headers = script_health_headers(r->script, 10);
    if (script_query(request, "index") == NULL) {
        script_answer(request, 200, headers, checklist_body(r, 1));
    } else if (wait_ms <= 30000) {
        script_answer_later(request, (uint32_t)wait_ms, 200, headers, checklist_body(r, 1));
    } else {
        world_after(r->world, 30000, checklist_close_after, request->conn);
    }
}

/* Two such ends, and the wait fits; longer ones are tried again, and ever more rarely. */
static void test_18_eof_at_the_end_of_a_wait_shortens_it(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_call(r.script, checklist_cut_at_30_s, &r);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 100000);
    CHECK_U64(checklist_stats(&r).failures, 2);
    CHECK_BETWEEN(script_wait_ms(script_last(r.script)), 27000, 30000);
    CHECK_ERR(rig_err(&r), SDC_OK);
    rig_run(&r, 200000);
    CHECK_U64(checklist_stats(&r).failures, 2);
    rig_run(&r, 24 * 3600000);
    CHECK_BETWEEN(checklist_stats(&r).failures, 4, 40);
    for (size_t i = 0; i < rig_num_events(&r); i++) {
        CHECK(i == 0 || rig_event_nth(&r, i)->num_instances == 1);
    }
    rig_deinit(&r);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static sdc_err checklist_call(rig *r, int which, sdc_error *error)
{
    sdc_query query;
    const sdc_event *event = NULL;
    sdc_registration registration;
    memset(&query, 0, sizeof query);
    memset(&registration, 0, sizeof registration);
    query.service = "web";
    registration.name = "web";
    sdc_err err = which == 0 ? sdc_client_service(r->client, &query, &event, error)
                : which == 1 ? sdc_client_register(r->client, &registration, error)
                             : sdc_client_deregister(r->client, "web", error);
    sdc_event_release(event);
    return err;
}

/* An agent waits so long for a leader before it says that there is none. */
static void test_34_slow_500_of_calls_that_do_not_block(void)
{
    static const uint32_t delays[] = { 7000, 8000, 10000 };
    for (size_t i = 0; i < CHECKLIST_NUM(delays) * 3; i++) {
        rig r;
        sdc_error error;
        test_note("call %zu", i);
        REQUIRE(rig_init(&r, NULL));
        script_delay(r.script, delays[i / 3]);
        script_error(r.script, 500, "No cluster leader");
        CHECK_ERR(checklist_call(&r, (int)(i % 3), &error), SDC_ERR_STATUS);
        CHECK_U64(world_now(r.world) - WORLD_START_MS, delays[i / 3]);
        CHECK_INT(error.http_status, 500);
        CHECK_HAS(error.message, "No cluster leader");
        CHECK_INT(script_num_requests(r.script), 1);
        rig_deinit(&r);
    }
}

static void test_34_slow_500_of_a_registration(void)
{
    rig r;
    sdc_error error;
    REQUIRE(rig_init(&r, NULL));
    script_delay(r.script, 8000);
    script_error(r.script, 500, "No cluster leader");
    REQUIRE(rig_register(&r, NULL));
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_STATUS);
    CHECK_U64(world_now(r.world) - WORLD_START_MS, 8000);
    sdc_task_error(r.task, &error);
    CHECK_HAS(error.message, "No cluster leader");
    rig_deinit(&r);
}

/* What the agent left out is no failure, but the program can see that there is more. */
static void test_35_filtered_by_acl_is_told(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    for (uint64_t index = 10; index < 13; index++) {
        char headers[100];
        snprintf(headers, sizeof headers, "X-Consul-Index: %u\r\n%s", (unsigned)index,
                 index < 12 ? "X-Consul-Results-Filtered-By-Acls: true\r\n" : "");
        script_reply(r.script, 200, headers, checklist_body(&r, 1));
    }
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK(checklist_stats(&r).filtered_by_acl);
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK_INT(world_log_count(r.world, "WARN", "filtered by ACLs"), 1);
    CHECK_ERR(rig_run_exchange(&r), SDC_OK);
    CHECK(!checklist_stats(&r).filtered_by_acl);
    rig_deinit(&r);
}

static void test_37_another_agent_is_asked_at_once(void)
{
    static const struct { int status; const char *body; } limits[] = {
        { 429, "rate limit exceeded, try again later or against a different server" },
        { 503, "rate limit exceeded for operation that can only be performed by the leader, try "
               "again later" }
    };
    for (size_t i = 0; i < CHECKLIST_NUM(limits); i++) {
        rig r;
        sdc_client_desc client;
        test_note("%d", limits[i].status);
        memset(&client, 0, sizeof client);
        client.address = "10.0.0.1:8500,10.0.0.2:8500";
        REQUIRE(rig_init_client(&r, NULL, &client));
        script *other = script_create(r.world, "10.0.0.2", 8500);
        script_error(r.script, limits[i].status, limits[i].body);
        script_health(other, 100, checklist_body(&r, 2));
        script_hold(other);
        REQUIRE(rig_watch(&r, NULL));
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_BUSY);
        rig_run(&r, 100);
        CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
        CHECK_ERR(rig_err(&r), SDC_OK);
        CHECK_INT(script_num_requests(r.script), 1);
        rig_deinit(&r);
    }
}

/* ---- real sockets ---------------------------------------------------------------------------- */

static sdc_client *checklist_client_at(uint16_t port)
{
    char address[32];
    sdc_client *client = NULL;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    desc.address = address;
    desc.ignore_environment = true;
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    return client;
}

enum { CHECKLIST_REFUSALS = 20 };

/* As an agent whose connection table is full: the answer comes before any request is read, and a
   reset behind it. */
static void *checklist_refuse(void *user)
{
    static const char answer[] =
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 81\r\n"
        "Connection: close\r\n\r\nYour IP is issuing too many concurrent connections, please rate "
        "limit your calls\n";
    for (int i = 0; i < CHECKLIST_REFUSALS; i++) {
        int fd = accept(*(const int *)user, NULL, NULL);
        struct linger now = { 1, 0 };
        if (fd < 0) {
            return NULL;
        }
        (void)send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(fd);
    }
    return NULL;
}

/* Linux gives what came before a reset; elsewhere it may be gone, and the connection just broke.
   SIGPIPE ends this program if anything raises it. */
static void test_36_limit_at_accept_on_a_real_socket(void)
{
    uint16_t port = 0;
    int listener = test_listen(&port);
    pthread_t thread;
    sdc_client *client = checklist_client_at(port);
    REQUIRE(client != NULL);
    REQUIRE(pthread_create(&thread, NULL, checklist_refuse, &listener) == 0);
    for (int i = 0; i < CHECKLIST_REFUSALS; i++) {
        sdc_error error;
        sdc_err err = sdc_client_deregister(client, "web", &error);
#ifdef __linux__
        CHECK_ERR(err, SDC_ERR_BUSY);
#endif
        CHECK(err == SDC_ERR_BUSY || err == SDC_ERR_IO);
        if (err == SDC_ERR_BUSY) {
            CHECK_HAS(error.message, "too many concurrent connections");
        }
        CHECK(error.message[0] != '\0');
    }
    pthread_join(thread, NULL);
    close(listener);
    sdc_client_destroy(client);
}

static int checklist_option(int fd, int level, int name)
{
    int value = 0;
    socklen_t len = sizeof value;
    CHECK_INT(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

/* A peer that vanished without FIN is noticed by the kernel, whatever the library waits for. */
static void test_58_keepalive_and_user_timeout_are_set(void)
{
    const sdc_io *io = sdc_io_posix();
    uint16_t port = 0;
    int listener = test_listen(&port);
    void *stream = NULL;
    sdc_target target;
    sdc_ready until;
    sdc_error error;
    memset(&target, 0, sizeof target);
    target.host = "127.0.0.1";
    target.ip = "127.0.0.1";
    target.path = "";
    target.port = port;
    sdc_err err = io->stream_open(io->user, &target, &stream, &until, &error);
    CHECK(err == SDC_OK || err == SDC_AGAIN);
    REQUIRE(stream != NULL);
    int fd = sdci_stream_to_fd(stream);
    CHECK(checklist_option(fd, SOL_SOCKET, SO_KEEPALIVE) != 0);
#ifdef TCP_KEEPIDLE
    int whole_s = checklist_option(fd, IPPROTO_TCP, TCP_KEEPIDLE) +
                  checklist_option(fd, IPPROTO_TCP, TCP_KEEPINTVL) *
                  checklist_option(fd, IPPROTO_TCP, TCP_KEEPCNT);
    CHECK_BETWEEN(whole_s, 10, 60);
#endif
#ifdef TCP_USER_TIMEOUT
    CHECK_BETWEEN(checklist_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 10000, 60000);
#endif
    io->stream_close(io->user, stream);
    close(listener);
}

/* Nothing comes any more, at whatever point of an exchange that begins: what changed meanwhile is
   known after the deadline of that query. */
static void test_58_silence_in_each_phase_ends_at_the_deadline(void)
{
    static const char *const parts[] = {
        "", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nX-Consul-Index: 101\r\n",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 101\r\nContent-Length: 100\r\n\r\n[{\"Node\":{",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 101\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n"
    };
    for (size_t i = 0; i < CHECKLIST_NUM(parts); i++) {
        rig r;
        test_note("silent after %zu bytes", strlen(parts[i]));
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, checklist_body(&r, 1));
        if (parts[i][0] == '\0') {
            script_hang(r.script);
        } else {
            script_raw(r.script, parts[i]);
        }
        script_health(r.script, 102, checklist_body(&r, 2));
        script_hold(r.script);
        REQUIRE(rig_watch(&r, NULL));
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_TIMEOUT);
        const script_request *q = script_nth(r.script, 1);
        uint64_t wait_ms = script_wait_ms(q);
        CHECK_U64(world_now(r.world) - q->at_ms, wait_ms + wait_ms / 16 + 10000);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
        CHECK(!world_conn_is_open(q->conn));
        rig_run(&r, 1000);
        CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
        CHECK(script_query(script_nth(r.script, 2), "index") == NULL);
        rig_deinit(&r);
    }
}

/* ---- names ----------------------------------------------------------------------------------- */

/* A watch of an agent that has a name; `ips` is what that stands for at first. */
static bool checklist_begin_named(rig *r, const char *ips)
{
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = "consul.example:8500";
    desc.connect_timeout_ms = 700;
    if (!rig_init_client(r, NULL, &desc)) {
        return false;
    }
    world_resolve_to(r->world, "consul.example", ips, 0);
    script_health(r->script, 100, checklist_body(r, 1));
    script_hold(r->script);
    return rig_watch(r, NULL);
}

static void test_57_each_dead_address_costs_its_own_deadline(void)
{
    static const struct { const char *ips; uint64_t ms; } cases[] = {
        { "10.0.0.7,10.0.0.8,10.0.0.9,10.0.0.1", 700 },
        { "10.0.0.8,10.0.0.8,10.0.0.1", 1400 }, { "10.0.0.9,10.0.0.7,10.0.0.1,10.0.0.8", 0 },
    };
    for (size_t i = 0; i < CHECKLIST_NUM(cases); i++) {
        rig r;
        test_note("%s", cases[i].ips);
        REQUIRE(checklist_begin_named(&r, cases[i].ips));
        world_listen_mode(r.world, "10.0.0.7", 8500, WORLD_REFUSES);
        world_listen_mode(r.world, "10.0.0.8", 8500, WORLD_BLACKHOLE);
        world_listen_mode(r.world, "10.0.0.9", 8500, WORLD_UNREACHABLE);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_U64(world_now(r.world) - WORLD_START_MS, cases[i].ms);
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
        CHECK_U64(checklist_stats(&r).failures, 0);
        rig_deinit(&r);
    }
}

/* The agent moves: the name is asked for again when its connection ends, and only then. */
static void test_57_name_is_resolved_anew_at_each_reconnect(void)
{
    rig r;
    REQUIRE(checklist_begin_named(&r, "10.0.0.1"));
    script *moved = script_create(r.world, "10.0.0.5", 8500);
    script_health(moved, 7, checklist_body(&r, 2));
    script_hold(moved);
    rig_run(&r, 300000);
    CHECK_U64(world_seen(r.world)->resolves, 1);
    world_resolve_to(r.world, "consul.example", "10.0.0.5", 0);
    script_set_down(r.script, true);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_ERR(rig_err(&r), SDC_OK);
    CHECK_INT(world_num_connects(r.world, "10.0.0.1", 8500), 1);
    CHECK_BETWEEN(world_seen(r.world)->resolves, 2, 3);
    rig_deinit(&r);
}

static void test_57_all_addresses_dead_is_an_error_until_one_lives(void)
{
    rig r;
    sdc_error error;
    REQUIRE(checklist_begin_named(&r, "10.0.0.7,10.0.0.1"));
    script_set_down(r.script, true);
    CHECK_ERR(rig_run_exchange(&r), SDC_ERR_CONNECT);
    sdc_task_error(r.task, &error);
    CHECK_HAS(error.message, "consul.example");
    CHECK_INT(world_num_connects(r.world, "10.0.0.7", 8500), 1);
    CHECK_INT(world_num_connects(r.world, "10.0.0.1", 8500), 1);
    script_set_down(r.script, false);
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
    rig_deinit(&r);
}

/* ---- instances ------------------------------------------------------------------------------- */

static void test_70_one_id_on_two_nodes_changes_one_by_one(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, SCRIPT_LIST(r.script,
        { .node = "n1", .id = "web", .address = "10.1.0.1", .port = 80 },
        { .node = "n2", .id = "web", .address = "10.1.0.2", .port = 80 }));
    script_hold(r.script);
    REQUIRE(rig_watch(&r, NULL));
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80,10.1.0.2:80");
    script_change(r.script, 101, SCRIPT_LIST(r.script,
        { .node = "n1", .id = "web", .address = "10.1.0.1", .port = 80 },
        { .node = "n2", .id = "web", .address = "10.1.0.2", .port = 80, .tags = "new" }));
    rig_run(&r, 1000);
    CHECK_INT(rig_last(&r)->num_updated, 1);
    CHECK_INT(rig_last(&r)->num_added + rig_last(&r)->num_removed, 0);
    script_change(r.script, 102, SCRIPT_LIST(r.script,
        { .node = "n2", .id = "web", .address = "10.1.0.2", .port = 80, .tags = "new" }));
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_INT(rig_last(&r)->num_removed, 1);
    CHECK_INT(rig_last(&r)->num_updated + rig_last(&r)->num_added, 0);
    script_change(r.script, 103, SCRIPT_LIST(r.script,
        { .node = "n3", .id = "web", .address = "10.1.0.2", .port = 80, .tags = "new" }));
    rig_run(&r, 1000);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_INT(rig_last(&r)->num_removed, 1);            /* at the same address, another one */
    CHECK_INT(rig_last(&r)->num_added, 1);
    CHECK_INT(rig_last(&r)->num_updated, 0);
    rig_deinit(&r);
}

/* ---- heartbeats ------------------------------------------------------------------------------ */

typedef enum checklist_loss {
    CHECKLIST_ERROR, CHECKLIST_SILENCE, CHECKLIST_NUM_LOSSES
} checklist_loss;

/* Two beats in a row are lost, the first one at any time: the agent never sees the TTL expire. */
static void test_81_two_lost_beats_do_not_expire_the_check(void)
{
    for (uint64_t i = 0; i < 20 * CHECKLIST_NUM_LOSSES; i++) {
        rig r;
        agent *a = checklist_agent(&r, AGENT_1_22, 0);
        checklist_loss loss = (checklist_loss)(i % CHECKLIST_NUM_LOSSES);
        REQUIRE(a != NULL);
        REQUIRE(rig_register(&r, NULL));            /* its TTL is 10 s */
        rig_run(&r, 20000 + i * 177);
        if (loss == CHECKLIST_ERROR) {
            agent_fail_next(a, 2, 500, "No cluster leader");
        } else {
            agent_hang_next(a, 2);
        }
        uint64_t failures = checklist_stats(&r).failures;
        for (int k = 0; k < 300 && test_num_failures() == 0; k++) {
            test_note("begin %u, loss %d, after %d ms", (unsigned)i, (int)loss, k * 100);
            rig_run(&r, 100);
            CHECK_STR(agent_check_status(a, "service:web-1"), "passing");
        }
        CHECK_U64(checklist_stats(&r).failures - failures, 2);
        CHECK_U64(checklist_stats(&r).registrations, 1);
        rig_deinit(&r);
        agent_destroy(a);
    }
}

/* ---- fleets ---------------------------------------------------------------------------------- */

static void checklist_come_up(void *user)
{
    rig *r = (rig *)user;
    script_set_down(r->script, false);
}

/* Nobody listens yet: an error at once, and the list as soon as somebody does. */
static void test_88_agent_that_starts_late(void)
{
    static const uint64_t late_ms[] = { 5, 300, 900, 5000, 120000 };
    for (size_t i = 0; i < CHECKLIST_NUM(late_ms); i++) {
        rig r;
        test_note("%u ms late", (unsigned)late_ms[i]);
        REQUIRE(rig_init(&r, NULL));
        script_health(r.script, 100, checklist_body(&r, 1));
        script_hold(r.script);
        script_set_down(r.script, true);
        REQUIRE(rig_watch(&r, NULL));
        CHECK_ERR(rig_run_exchange(&r), SDC_ERR_CONNECT);
        CHECK_U64(world_now(r.world), WORLD_START_MS);
        CHECK_ERR(rig_err(&r), SDC_ERR_CONNECT);
        CHECK(!rig_is_known(&r));
        world_after(r.world, late_ms[i], checklist_come_up, &r);
        rig_run(&r, late_ms[i] + 60100);
        CHECK_ERR(rig_err(&r), SDC_OK);
        CHECK(rig_is_known(&r));
        CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
        CHECK_INT(rig_num_events(&r), 3);
        uint64_t waited_ms = rig_last(&r)->at_ms - WORLD_START_MS - late_ms[i];
        CHECK_BETWEEN(waited_ms, 0, late_ms[i] < 1000 ? 1000 : 60000);
        rig_deinit(&r);
    }
}

enum { CHECKLIST_WATCHES = 1000, CHECKLIST_SLOTS = 200 };

typedef struct checklist_fleet {
    sdc_instancer *watches[CHECKLIST_WATCHES];
    sdc_task      *tasks[CHECKLIST_WATCHES];
    unsigned       slots[CHECKLIST_SLOTS];      /* requests in each 100 ms after the restart    */
} checklist_fleet;

static void checklist_fleet_run(rig *r, checklist_fleet *fleet, uint64_t ms)
{
    world_loop(r->world, fleet->tasks, CHECKLIST_WATCHES, world_now(r->world) + ms);
}

/* Counts requests from the nth on by the time they came at. */
static unsigned checklist_fleet_count(const rig *r, checklist_fleet *fleet, size_t nth,
                                      uint64_t from_ms)
{
    unsigned most = 0;
    memset(fleet->slots, 0, sizeof fleet->slots);
    for (size_t i = nth; i < script_num_requests(r->script); i++) {
        uint64_t slot = (script_nth(r->script, i)->at_ms - from_ms) / 100;
        if (slot < CHECKLIST_SLOTS) {
            fleet->slots[slot]++;
            most = fleet->slots[slot] > most ? fleet->slots[slot] : most;
        }
    }
    return most;
}

static void checklist_fleet_begin(rig *r, checklist_fleet *fleet)
{
    for (size_t i = 0; i < CHECKLIST_WATCHES; i++) {
        fleet->watches[i] = rig_watch_of(r->client);
        fleet->tasks[i] = sdc_instancer_task(fleet->watches[i]);
    }
}

/* The agent is away for three seconds: after that its thousand watches do not come at once (no
   tenth of a second sees more than a fifth of them), and each has one connection. */
static void test_90_thousand_watches_are_spread_after_a_restart(void)
{
    rig r;
    static checklist_fleet fleet;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, checklist_body(&r, 1));
    script_times(r.script, CHECKLIST_WATCHES);
    script_hold(r.script);
    checklist_fleet_begin(&r, &fleet);
    checklist_fleet_run(&r, &fleet, 5000);
    CHECK_INT(world_seen(r.world)->open_now, CHECKLIST_WATCHES);
    CHECK_INT(script_num_held(r.script), CHECKLIST_WATCHES);
    script_set_down(r.script, true);
    checklist_fleet_run(&r, &fleet, 3000);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    script_clear(r.script);
    script_health(r.script, 7, checklist_body(&r, 2));
    script_times(r.script, CHECKLIST_WATCHES);
    script_hold(r.script);
    script_set_down(r.script, false);
    size_t before = script_num_requests(r.script);
    uint64_t back_ms = world_now(r.world);
    checklist_fleet_run(&r, &fleet, 20000);
    unsigned most = checklist_fleet_count(&r, &fleet, before, back_ms);
    CHECK_BETWEEN(most, 1, CHECKLIST_WATCHES * 2 / 5);      /* each reads, and asks again at once */
    CHECK_INT(script_num_requests(r.script) - before, 2 * CHECKLIST_WATCHES);
    CHECK_INT(world_seen(r.world)->open_now, CHECKLIST_WATCHES);
    CHECK_INT(world_seen(r.world)->open_max, CHECKLIST_WATCHES);
    CHECK_INT(script_num_held(r.script), CHECKLIST_WATCHES);
    for (size_t i = 0; i < CHECKLIST_WATCHES; i++) {
        const sdc_event *event = sdc_instancer_state(fleet.watches[i]);
        CHECK_ERR(event->err, SDC_OK);
        CHECK_STR(event->instances[0].addr, "10.1.0.2:80");
        sdc_event_release(event);
        sdc_instancer_destroy(fleet.watches[i]);
    }
    rig_deinit(&r);
}

/* ---- processes ------------------------------------------------------------------------------- */

static bool checklist_child(bool execs)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        if (execs) {
            execl("/bin/sh", "sh", "-c", "exit 0", (char *)NULL);
        }
        _exit(0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

/* A child that goes away, by exit or by another program, does not end the parent's query: the same
   connection brings the change. */
static void test_93_fork_in_the_middle_of_a_query(void)
{
    for (int execs = 0; execs <= 1; execs++) {
        uint16_t port = 0;
        agent_desc desc;
        sdc_stats stats;
        memset(&desc, 0, sizeof desc);
        agent *a = agent_create(&desc, agent_server_now());
        agent_server *server = agent_server_start(a, NULL, &port);
        REQUIRE(server != NULL);
        sdc_client *client = checklist_client_at(port);
        sdc_instancer *watch = rig_watch_of(client);
        CHECK_ERR(sdc_instancer_wait(watch, 0, CHECKLIST_SOON_MS, NULL), SDC_OK);
        CHECK_ERR(sdc_step(sdc_instancer_task(watch), 20), SDC_AGAIN);
        CHECK(checklist_child(execs != 0));
        sdc_registration registration;
        memset(&registration, 0, sizeof registration);
        registration.name = "web";
        registration.address = "10.9.0.1";
        registration.port = 80;
        CHECK_ERR(sdc_client_register(client, &registration, NULL), SDC_OK);
        CHECK_ERR(sdc_instancer_wait(watch, 1, CHECKLIST_SOON_MS, NULL), SDC_OK);
        sdc_task_stats(sdc_instancer_task(watch), &stats);
        CHECK_U64(stats.failures, 0);
        CHECK_U64(stats.connects, 1);
        sdc_instancer_destroy(watch);
        sdc_client_destroy(client);
        agent_server_stop(server);
        agent_destroy(a);
    }
}

static const test_case cases_checklist[] = {
    TEST(test_21_restarted_agent_with_lower_indexes),
    TEST(test_18_eof_at_the_end_of_a_wait_shortens_it),
    TEST(test_34_slow_500_of_calls_that_do_not_block),
    TEST(test_34_slow_500_of_a_registration),
    TEST(test_35_filtered_by_acl_is_told),
    TEST(test_37_another_agent_is_asked_at_once),
    TEST(test_36_limit_at_accept_on_a_real_socket),
    TEST(test_58_keepalive_and_user_timeout_are_set),
    TEST(test_58_silence_in_each_phase_ends_at_the_deadline),
    TEST(test_57_each_dead_address_costs_its_own_deadline),
    TEST(test_57_name_is_resolved_anew_at_each_reconnect),
    TEST(test_57_all_addresses_dead_is_an_error_until_one_lives),
    TEST(test_70_one_id_on_two_nodes_changes_one_by_one),
    TEST(test_81_two_lost_beats_do_not_expire_the_check),
    TEST(test_88_agent_that_starts_late),
    TEST(test_90_thousand_watches_are_spread_after_a_restart),
    TEST(test_93_fork_in_the_middle_of_a_query),
};
