/* Tests of [sdc:task]: what a step answers, what a task wants, waking and stopping, and what
   callbacks may do, in virtual time. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "support/rig.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TASK_SHARE = 262144 };

/* ---- common beginnings ----------------------------------------------------------------------- */

static const char *task_body(rig *r, int number)
{
    char address[16];
    snprintf(address, sizeof address, "10.1.0.%d", number);
    return SCRIPT_LIST(r->script, { .id = "web-1", .address = address, .port = 80 });
}

/* A watch that has read one instance at index 100; its next query is held for its whole wait. */
static bool task_begin_with(rig *r, const world_desc *desc, const sdc_client_desc *client)
{
    sdc_client_desc none;
    memset(&none, 0, sizeof none);
    if (!rig_init_client(r, desc, client != NULL ? client : &none)) {
        return false;
    }
    script_health(r->script, 100, task_body(r, 1));
    script_hold(r->script);
    bool ok = rig_watch(r, NULL);
    rig_run(r, 30000);
    return ok && CHECK_STR(rig_addrs(r), "10.1.0.1:80") && CHECK_INT(script_num_held(r->script), 1);
}

static bool task_begin(rig *r)
{
    return task_begin_with(r, NULL, NULL);
}

static void task_change(rig *r, uint64_t index, int number)
{
    script_change(r->script, index, task_body(r, number));
}

/* Steps by 0 until something other than SDC_AGAIN comes, `ms` at most. */
static sdc_err task_poll(rig *r, uint64_t ms)
{
    sdc_err err = SDC_AGAIN;
    for (uint64_t i = 0; i <= ms && err == SDC_AGAIN; i++) {
        for (int k = 0; k < 4 && err == SDC_AGAIN; k++) {
            err = sdc_step(r->task, 0);
            world_advance(r->world, 0);
        }
        if (err == SDC_AGAIN) {
            world_advance(r->world, 1);
        }
    }
    return err;
}

/* ---- results of a step ----------------------------------------------------------------------- */

static void test_task_step_0_never_blocks(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, task_body(&r, 1));
    script_error(r.script, 500, "x");
    script_health(r.script, 101, task_body(&r, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    uint64_t now_ms = world_now(r.world);
    CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    CHECK_U64(world_now(r.world), now_ms);
    CHECK_ERR(task_poll(&r, 10), SDC_OK);
    CHECK_ERR(task_poll(&r, 10), SDC_ERR_STATUS);
    CHECK_ERR(task_poll(&r, 1000), SDC_OK);
    CHECK_ERR(task_poll(&r, 1000), SDC_AGAIN);
    CHECK_STR(rig_addrs(&r), "10.1.0.2:80");
    CHECK_U64(world_seen(r.world)->waits, 0);
    CHECK_U64(world_num_calls(r.world, WORLD_WAKER), 0);
    rig_deinit(&r);
}

static void test_task_step_n_is_a_bound(void)
{
    static const int bounds[] = { 1, 7, 100, 5000 };
    rig r;
    REQUIRE(task_begin(&r));
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
        uint64_t now_ms = world_now(r.world);
        CHECK_ERR(sdc_step(r.task, bounds[i]), SDC_AGAIN);
        CHECK_U64(world_now(r.world) - now_ms, bounds[i]);
    }
    task_change(&r, 101, 2);
    uint64_t now_ms = world_now(r.world);
    CHECK_ERR(sdc_step(r.task, 5000), SDC_OK);      /* and not one ms more than it needs */
    CHECK_U64(world_now(r.world), now_ms);
    rig_deinit(&r);
}

static void test_task_step_n_bounds_each_phase(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = "consul.example:8500";
    REQUIRE(rig_init_client(&r, NULL, &desc));
    world_resolve_to(r.world, "consul.example", "10.0.0.1", 1000);
    world_listen_connect_ms(r.world, "10.0.0.1", 8500, 1000);
    script_hang(r.script);
    rig_watch(&r, NULL);
    for (uint64_t i = 1; i <= 30; i++) {
        CHECK_ERR(sdc_step(r.task, 100), SDC_AGAIN);
        CHECK_U64(world_now(r.world) - WORLD_START_MS, i * 100);
    }
    CHECK_INT(script_num_requests(r.script), 1);
    CHECK_U64(script_nth(r.script, 0)->at_ms, WORLD_START_MS + 2000);
    rig_deinit(&r);
}

static void test_task_step_without_bound_is_one_exchange(void)
{
    rig r;
    REQUIRE(task_begin(&r));
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);        /* the one that is under way */
    size_t num = script_num_requests(r.script);
    for (size_t i = 0; i < 5; i++) {
        uint64_t now_ms = world_now(r.world);
        CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
        CHECK_INT(script_num_requests(r.script), num + 1 + i);
        CHECK_U64(world_now(r.world) - now_ms, script_wait_ms(script_last(r.script)));
    }
    CHECK_U64(world_now(r.world), script_last(r.script)->answered_ms);
    rig_deinit(&r);
}

static void test_task_failure_is_said_once(void)
{
    rig r;
    sdc_error error;
    REQUIRE(rig_init(&r, NULL));
    script_error(r.script, 500, "first");
    script_error(r.script, 500, "second");
    script_health(r.script, 100, task_body(&r, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    sdc_task_error(r.task, &error);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_ERR(sdc_step(r.task, -1), SDC_ERR_STATUS);
    CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    sdc_task_error(r.task, &error);
    CHECK_ERR(error.code, SDC_ERR_STATUS);
    CHECK_INT(error.http_status, 500);
    CHECK_HAS(error.message, "first");
    uint64_t now_ms = world_now(r.world);
    CHECK_ERR(sdc_step(r.task, -1), SDC_ERR_STATUS);        /* its pause is inside this one */
    CHECK(world_now(r.world) >= now_ms + 10);
    sdc_task_error(r.task, &error);
    CHECK_HAS(error.message, "second");
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    sdc_task_error(r.task, &error);
    CHECK_ERR(error.code, SDC_OK);
    CHECK_STR(error.message, "");
    CHECK_INT(error.http_status, 0);
    rig_deinit(&r);
}

static void task_check_nothing_wanted(const sdc_task *task)
{
    sdc_wants wants = sdc_task_wants(task);
    CHECK_INT(wants.fd, -1);
    CHECK(!wants.readable);
    CHECK(!wants.writable);
    CHECK_INT(wants.timeout_ms, -1);
    CHECK_U64(wants.deadline_ms, UINT64_MAX);
}

static void test_93_stopped_is_for_ever(void)
{
    rig r;
    REQUIRE(task_begin(&r));
    size_t num = script_num_requests(r.script);
    sdc_stop(r.task);
    sdc_stop(r.task);
    CHECK_INT(sdc_task_wants(r.task).timeout_ms, 0);
    CHECK_ERR(sdc_step(r.task, 0), SDC_STOPPED);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    for (int i = -1; i <= 1000; i += 500) {
        task_check_nothing_wanted(r.task);
        uint64_t now_ms = world_now(r.world);
        CHECK_ERR(sdc_step(r.task, i), SDC_STOPPED);
        CHECK_U64(world_now(r.world), now_ms);
        world_advance(r.world, 100000);
    }
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, 0), SDC_STOPPED);
    CHECK_INT(script_num_requests(r.script), num);
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80");        /* what is known stays known */
    rig_deinit(&r);
}

static void test_task_stopped_before_it_began(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    rig_watch(&r, NULL);
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_INT(world_num_conns(r.world), 0);
    task_check_nothing_wanted(r.task);
    rig_deinit(&r);
}

/* A stop in each phase of a task ends it in the next step, without a moment's wait. */
static void test_task_stop_in_each_phase(void)
{
    for (uint64_t at_ms = 0; at_ms < 60; at_ms++) {
        rig r;
        world_desc world_is;
        sdc_client_desc desc;
        memset(&world_is, 0, sizeof world_is);
        memset(&desc, 0, sizeof desc);
        world_is.latency_ms = 5;
        world_is.connect_ms = 3;
        world_is.run_ms = 1;
        world_is.run_bytes = 100;
        desc.address = "consul.example:8500";
        REQUIRE(rig_init_client(&r, &world_is, &desc));
        world_resolve_to(r.world, "consul.example", "10.0.0.1", 7);
        script_health(r.script, 100, task_body(&r, 1));
        script_error(r.script, 500, "x");
        rig_watch(&r, NULL);
        rig_run(&r, at_ms);
        sdc_stop(r.task);
        CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
        CHECK_U64(world_now(r.world), WORLD_START_MS + at_ms);
        CHECK_INT(world_seen(r.world)->open_now, 0);
        CHECK_INT(world_seen(r.world)->resolves_now, 0);
        task_check_nothing_wanted(r.task);
        rig_deinit(&r);
    }
}

static void test_task_stepping_too_often_does_no_harm(void)
{
    rig r;
    REQUIRE(task_begin(&r));
    uint64_t sent = world_seen(r.world)->bytes_written;
    for (int i = 0; i < 1000; i++) {
        CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    }
    CHECK_U64(world_seen(r.world)->bytes_written, sent);
    CHECK_INT(script_num_requests(r.script), 2);
    rig_deinit(&r);
    REQUIRE(rig_init(&r, NULL));                    /* in a pause too */
    script_error(r.script, 500, "x");
    rig_watch(&r, NULL);
    rig_run(&r, 60000);
    size_t num = script_num_requests(r.script);
    for (int i = 0; i < 1000; i++) {
        CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    }
    CHECK_INT(script_num_requests(r.script), num);
    rig_deinit(&r);
}

static void test_task_stats_count(void)
{
    rig r;
    sdc_stats stats;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, task_body(&r, 1));
    script_error(r.script, 500, "x");
    script_health(r.script, 101, task_body(&r, 2));
    script_hold(r.script);
    rig_watch(&r, NULL);
    sdc_task_stats(r.task, &stats);
    CHECK_U64(stats.requests + stats.answers + stats.bytes_in + stats.bytes_out, 0);
    rig_run(&r, 1000);
    sdc_task_stats(r.task, &stats);
    CHECK_U64(stats.requests, 4);
    CHECK_U64(stats.answers, 3);
    CHECK_U64(stats.failures, 1);
    CHECK_U64(stats.changes, 2);
    CHECK_U64(stats.connects, 1);
    CHECK_U64(stats.bytes_in, world_seen(r.world)->bytes_read);
    CHECK_U64(stats.bytes_out, world_seen(r.world)->bytes_written);
    CHECK_U64(stats.index, 101);
    CHECK_INT(stats.consecutive_failures, 0);
    rig_deinit(&r);
}

/* ---- the share of one step ------------------------------------------------------------------- */

static void test_task_takes_in_256_kib_a_step(void)
{
    rig r;
    sdc_err err = SDC_AGAIN;
    unsigned full_steps = 0;
    REQUIRE(rig_init(&r, NULL));
    script_chunked(r.script, 100000);
    script_health(r.script, 100, script_many(r.script, 0, 1500));
    script_hold(r.script);
    rig_watch(&r, NULL);
    for (int i = 0; i < 100 && err == SDC_AGAIN; i++) {
        uint64_t before = world_seen(r.world)->bytes_read;
        err = sdc_step(r.task, 0);
        uint64_t taken = world_seen(r.world)->bytes_read - before;
        CHECK(taken <= TASK_SHARE);
        if (taken == TASK_SHARE && err == SDC_AGAIN) {
            full_steps++;
            CHECK_INT(sdc_task_wants(r.task).timeout_ms, 0);
        } else {
            world_advance(r.world, 0);
        }
    }
    CHECK_ERR(err, SDC_OK);
    CHECK(full_steps >= 4);
    CHECK_U64(full_steps, world_seen(r.world)->bytes_read / TASK_SHARE);
    CHECK_INT(rig_last(&r)->num_instances, 1500);
    rig_deinit(&r);
}

static void test_task_takes_a_large_answer_in_each_drive(void)
{
    for (int drive = WORLD_DRIVE_BLOCK; drive <= WORLD_DRIVE_EDGE; drive++) {
        rig r;
        world_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.drive = (world_drive)drive;
        REQUIRE(rig_init(&r, &desc));
        script_health(r.script, 100, script_many(r.script, 0, 1500));
        script_hold(r.script);
        rig_watch(&r, NULL);
        CHECK_ERR(rig_run_exchange(&r), SDC_OK);
        CHECK_U64(world_now(r.world), WORLD_START_MS);
        CHECK_INT(rig_last(&r)->num_instances, 1500);
        rig_deinit(&r);
    }
}

/* ---- wants ----------------------------------------------------------------------------------- */

/* The world's table in between, to see what is told before each close. */
typedef struct task_spy {
    rig       r;
    sdc_io    real, io;             /* the world's, and the one in front of it               */
    sdc_wants told;
    unsigned  num_told;
    unsigned  num_closed;
    sdc_task *told_task;
    int       last_fd;              /* of the newest stream                                  */
} task_spy;

static void task_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    task_spy *spy = (task_spy *)user;
    spy->told = wants;
    spy->told_task = task;
    spy->num_told++;
    if (wants.fd >= 0) {
        spy->last_fd = wants.fd;
    }
}

/* The world's members know the world by `user`; this one's own members stand in front. */
static task_spy *task_spied;

static void task_stream_close(void *user, void *stream)
{
    task_spied->num_closed++;
    CHECK_INT(task_spied->told.fd, -1);
    CHECK(!task_spied->told.readable);
    CHECK(!task_spied->told.writable);
    task_spied->real.stream_close(user, stream);
}

static void task_check_told(task_spy *spy)
{
    sdc_wants wants = sdc_task_wants(spy->r.task);
    CHECK_INT(wants.fd, spy->told.fd);
    CHECK(wants.serial == spy->told.serial);
    CHECK(wants.readable == spy->told.readable);
    CHECK(wants.writable == spy->told.writable);
    CHECK_U64(wants.deadline_ms, spy->told.deadline_ms);
}

static bool task_spy_init(task_spy *spy, const world_desc *world_is)
{
    sdc_client_desc desc;
    memset(spy, 0, sizeof *spy);
    memset(&desc, 0, sizeof desc);
    task_spied = spy;
    spy->told.fd = -1;
    spy->last_fd = -1;
    if (!rig_init(&spy->r, world_is)) {
        return false;
    }
    spy->real = *world_io(spy->r.world);
    spy->io = spy->real;
    spy->io.stream_close = task_stream_close;
    sdc_client_destroy(spy->r.client);
    sdc_allocator allocator = fault_alloc_hook(&spy->r.memory);
    desc.address = "10.0.0.1:8500";
    desc.ignore_environment = true;
    desc.io = &spy->io;
    desc.allocator = &allocator;
    return CHECK_ERR(sdc_client_create(&desc, &spy->r.client, NULL), SDC_OK) &&
           rig_watch(&spy->r, NULL);
}

/* Steps for ms by 0 alone, comparing what is told with what is asked after each step. */
static void task_spy_run(task_spy *spy, uint64_t ms)
{
    for (uint64_t i = 0; i < ms * 4; i++) {
        sdc_err err = sdc_step(spy->r.task, 0);
        task_check_told(spy);
        if (err == SDC_STOPPED) {
            return;
        }
        world_advance(spy->r.world, i % 4 == 3 ? 1 : 0);
    }
}

static void test_task_wants_are_told_at_once(void)
{
    task_spy spy;
    REQUIRE(task_spy_init(&spy, NULL));
    script_health(spy.r.script, 100, task_body(&spy.r, 1));
    script_hold(spy.r.script);
    sdc_task_on_wants(spy.r.task, task_on_wants, &spy);
    CHECK_INT(spy.num_told, 1);
    CHECK(spy.told_task == spy.r.task);
    CHECK_INT(spy.told.fd, -1);
    CHECK_INT(spy.told.timeout_ms, 0);
    task_check_told(&spy);
    sdc_task_on_wants(spy.r.task, NULL, NULL);
    task_poll(&spy.r, 10);
    CHECK_INT(spy.num_told, 1);
    sdc_task_on_wants(spy.r.task, task_on_wants, &spy);
    CHECK_INT(spy.num_told, 2);
    CHECK(spy.told.fd >= 0);
    CHECK(spy.told.readable);
    CHECK(!spy.told.writable);
    task_check_told(&spy);
    rig_deinit(&spy.r);
}

static void test_task_wants_are_told_when_they_differ(void)
{
    task_spy spy;
    REQUIRE(task_spy_init(&spy, NULL));
    script_health(spy.r.script, 100, task_body(&spy.r, 1));
    script_times(spy.r.script, 3);
    script_error(spy.r.script, 500, "x");
    script_health(spy.r.script, 100, task_body(&spy.r, 1));
    script_hold(spy.r.script);
    sdc_task_on_wants(spy.r.task, task_on_wants, &spy);
    task_spy_run(&spy, 5000);
    unsigned num = spy.num_told;
    for (int i = 0; i < 100; i++) {
        CHECK_ERR(sdc_step(spy.r.task, 0), SDC_AGAIN);
    }
    CHECK_INT(spy.num_told, num);           /* and only then */
    script_change(spy.r.script, 101, task_body(&spy.r, 2));
    task_spy_run(&spy, 10);
    CHECK(spy.num_told > num);
    rig_deinit(&spy.r);
}

static void test_task_wants_change_nothing(void)
{
    rig r;
    REQUIRE(task_begin(&r));
    uint64_t reads = world_seen(r.world)->reads;
    sdc_wants a = sdc_task_wants(r.task);
    sdc_wants b = sdc_task_wants(r.task);
    CHECK_INT(a.fd, b.fd);
    CHECK(a.serial == b.serial);
    CHECK_U64(a.deadline_ms, b.deadline_ms);
    CHECK_U64(a.deadline_ms - world_now(r.world), (uint64_t)a.timeout_ms);
    CHECK_U64(world_seen(r.world)->reads, reads);
    world_advance(r.world, 1000);
    b = sdc_task_wants(r.task);
    CHECK_INT(b.timeout_ms, a.timeout_ms - 1000);
    CHECK_U64(b.deadline_ms, a.deadline_ms);
    rig_deinit(&r);
}

static void test_task_wants_name_the_deadline_of_a_read(void)
{
    rig r;
    REQUIRE(task_begin(&r));
    const script_request *q = script_nth(r.script, 1);
    uint64_t wait_ms = script_wait_ms(q);
    CHECK_U64(sdc_task_wants(r.task).deadline_ms, q->at_ms + wait_ms + wait_ms / 16 + 10000);
    rig_deinit(&r);
}

typedef enum task_end {
    TASK_END_ERROR, TASK_END_CLOSE, TASK_END_RESET, TASK_END_STOP, TASK_END_DESTROY,
    TASK_END_DEADLINE, TASK_END_GARBAGE, TASK_END_GOODBYE, TASK_NUM_ENDS
} task_end;

static void task_end_connection(task_spy *spy, task_end how)
{
    rig *r = &spy->r;
    switch (how) {
    case TASK_END_ERROR:
        script_set_down(r->script, true);
        break;
    case TASK_END_CLOSE:
        world_close_all(r->world, "10.0.0.1", 8500);
        break;
    case TASK_END_RESET:
        world_reset_all(r->world, "10.0.0.1", 8500);
        break;
    case TASK_END_STOP:
        sdc_stop(r->task);
        break;
    case TASK_END_DESTROY:
        sdc_instancer_destroy(r->instancer);
        r->instancer = NULL;
        break;
    case TASK_END_DEADLINE:
        world_advance(r->world, 100000);
        break;
    case TASK_END_GARBAGE:
        world_conn_send_str(world_conn_nth(r->world, 0), "SSH-2.0\r\n\r\n");
        break;
    case TASK_END_GOODBYE:
    case TASK_NUM_ENDS:
        world_conn_send_str(world_conn_nth(r->world, 0), "HTTP/1.1 200 OK\r\nConnection: close\r\n"
                            "X-Consul-Index: 100\r\nContent-Length: 2\r\n\r\n[]");
        break;
    }
}

static void test_task_tells_fd_before_it_closes_it(void)
{
    for (int how = 0; how < TASK_NUM_ENDS; how++) {
        task_spy spy;
        test_note("end %d", how);
        REQUIRE(task_spy_init(&spy, NULL));
        script_health(spy.r.script, 100, task_body(&spy.r, 1));
        script_hang(spy.r.script);
        sdc_task_on_wants(spy.r.task, task_on_wants, &spy);
        task_spy_run(&spy, 5);
        CHECK(spy.told.fd >= 0);
        CHECK_INT(spy.num_closed, 0);
        task_end_connection(&spy, (task_end)how);
        if (spy.r.instancer != NULL) {
            task_spy_run(&spy, 5);
        }
        CHECK(spy.num_closed >= 1);
        CHECK(how == TASK_END_ERROR || how > TASK_END_RESET || spy.last_fd >= 0);
        rig_deinit(&spy.r);
    }
}

static void test_task_serial_tells_descriptors_apart(void)
{
    task_spy spy;
    REQUIRE(task_spy_init(&spy, NULL));
    script_health(spy.r.script, 100, task_body(&spy.r, 1));
    script_hold(spy.r.script);
    sdc_task_on_wants(spy.r.task, task_on_wants, &spy);
    task_spy_run(&spy, 5);
    for (int i = 0; i < 4; i++) {
        sdc_wants before = spy.told;
        world_close_all(spy.r.world, "10.0.0.1", 8500);
        task_spy_run(&spy, 2000);
        CHECK_INT(spy.told.fd, before.fd);          /* the system gives the number again */
        CHECK(spy.told.serial != before.serial);
    }
    CHECK_INT(spy.num_closed, 4);
    rig_deinit(&spy.r);
}

static void test_task_without_hooks_is_watched_by_asking(void)
{
    rig r;
    unsigned steps = 0;
    REQUIRE(rig_init(&r, NULL));
    script_health(r.script, 100, task_body(&r, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    while (world_now(r.world) < WORLD_START_MS + 300000) {
        sdc_wants wants = sdc_task_wants(r.task);
        if (world_poll(r.world, &wants)) {
            sdc_step(r.task, 0);
            steps++;
        } else {
            world_advance(r.world, 1);
        }
    }
    CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
    CHECK_BETWEEN(script_num_requests(r.script), 5, 7);
    CHECK(steps < 40);
    rig_deinit(&r);
}

/* ---- any loop, any network ------------------------------------------------------------------- */

/* The same life on another network or by another loop: what was seen, in order. */
static void task_live(const world_desc *desc, char *seen, size_t size)
{
    rig r;
    size_t at = 0;
    REQUIRE(rig_init(&r, desc));
    script_health(r.script, 100, task_body(&r, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    rig_run(&r, 5000);
    task_change(&r, 101, 2);
    rig_run(&r, 5000);
    world_close_all(r.world, "10.0.0.1", 8500);
    rig_run(&r, 5000);
    world_reset_all(r.world, "10.0.0.1", 8500);
    rig_run(&r, 5000);
    script_clear(r.script);
    script_error(r.script, 500, "x");
    script_chunked(r.script, 7);
    script_health(r.script, 103, task_body(&r, 4));
    script_until_close(r.script);
    script_health(r.script, 104, script_many(r.script, 0, 40));
    script_health(r.script, 105, task_body(&r, 5));
    script_hold(r.script);
    task_change(&r, 102, 3);
    rig_run(&r, 10000);
    script_set_down(r.script, true);
    rig_run(&r, 3000);
    script_set_down(r.script, false);
    rig_run(&r, 10000);
    task_change(&r, 106, 6);
    rig_run(&r, 90000);
    for (size_t i = 0; i < rig_num_events(&r) && at < size; i++) {
        const rig_event *e = rig_event_nth(&r, i);
        at += (size_t)snprintf(seen + at, size - at, "%d:%zu:%.30s ", (int)e->err,
                               e->num_instances, e->addrs);
    }
    CHECK_ERR(rig_stop(&r), SDC_STOPPED);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    CHECK_INT(world_seen(r.world)->wakers_now, 0);
    rig_deinit(&r);
}

static void task_vary(world_desc *desc, int way)
{
    switch (way) {
    case 0: break;
    case 1: desc->read_max = 1; break;
    case 2: desc->write_max = 1; break;
    case 3: desc->again_every = 5; break;
    case 4: desc->again_every = 3; desc->read_max = 7; desc->write_max = 5; break;
    case 5: desc->latency_ms = 9; desc->connect_ms = 20; break;
    case 6: desc->run_ms = 1; desc->run_bytes = 300; break;
    case 7: desc->connect_at_once = true; break;
    case 8: desc->window_bytes = 16; desc->latency_ms = 1; break;
    default: desc->early_wait_every = 2; break;
    }
}

static void test_task_lives_the_same_life_by_any_loop(void)
{
    char want[1500] = "";
    char seen[1500];
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.drive = WORLD_DRIVE_BLOCK;
    task_live(&desc, want, sizeof want);
    CHECK_HAS(want, "0:40:");
    CHECK_HAS(want, "10.1.0.6:80");
    for (int drive = WORLD_DRIVE_BLOCK; drive <= WORLD_DRIVE_EDGE; drive++) {
        for (int way = 0; way < 10 && test_num_failures() == 0; way++) {
            test_note("drive %d, way %d", drive, way);
            memset(&desc, 0, sizeof desc);
            desc.drive = (world_drive)drive;
            task_vary(&desc, way);
            seen[0] = '\0';
            task_live(&desc, seen, sizeof seen);
            CHECK_STR(seen, want);
        }
    }
}

/* ---- waking and stopping --------------------------------------------------------------------- */

typedef struct task_waking {
    rig     *r;
    unsigned calls;
    sdc_task *task;
    size_t   wakers;                /* that were there when the event came                   */
} task_waking;

static void task_on_wake(void *user, sdc_task *task)
{
    task_waking *waking = (task_waking *)user;
    waking->calls++;
    waking->task = task;
}

static void task_wakes(void *user)
{
    task_waking *waking = (task_waking *)user;
    waking->wakers = world_seen(waking->r->world)->wakers_now;
    sdc_wake(waking->r->task);
}

static void task_stops(void *user)
{
    task_waking *waking = (task_waking *)user;
    waking->wakers = world_seen(waking->r->world)->wakers_now;
    sdc_stop(waking->r->task);
}

static void test_task_wake_hook(void)
{
    rig r;
    task_waking waking;
    memset(&waking, 0, sizeof waking);
    REQUIRE(task_begin(&r));
    sdc_task_on_wake(r.task, task_on_wake, &waking);
    CHECK_INT(waking.calls, 0);
    CHECK(sdc_task_wants(r.task).timeout_ms > 0);
    sdc_wake(r.task);
    CHECK_INT(waking.calls, 1);
    CHECK(waking.task == r.task);
    CHECK_INT(sdc_task_wants(r.task).timeout_ms, 0);        /* a loop that asks sees it too */
    CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    CHECK(sdc_task_wants(r.task).timeout_ms > 0);
    sdc_task_on_wake(r.task, NULL, NULL);
    sdc_wake(r.task);
    CHECK_INT(waking.calls, 1);
    sdc_task_on_wake(r.task, task_on_wake, &waking);
    sdc_stop(r.task);
    CHECK_INT(waking.calls, 2);
    CHECK_ERR(sdc_step(r.task, 0), SDC_STOPPED);
    rig_deinit(&r);
}

static void test_task_wake_cuts_no_pause_short(void)
{
    rig r;
    REQUIRE(rig_init(&r, NULL));
    script_error(r.script, 403, "Permission denied");
    rig_watch(&r, NULL);
    rig_run(&r, 60000);
    size_t num = script_num_requests(r.script);
    uint64_t deadline_ms = sdc_task_wants(r.task).deadline_ms;
    REQUIRE(deadline_ms > world_now(r.world));
    for (int i = 0; i < 100; i++) {
        sdc_wake(r.task);
        CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
        world_advance(r.world, 0);
    }
    CHECK_INT(script_num_requests(r.script), num);
    CHECK_U64(sdc_task_wants(r.task).deadline_ms, deadline_ms);
    rig_deinit(&r);
}

static void test_task_wake_of_a_blocked_step(void)
{
    rig r;
    task_waking waking;
    memset(&waking, 0, sizeof waking);
    REQUIRE(task_begin(&r));
    waking.r = &r;
    for (uint64_t ms = 100; ms <= 500; ms += 100) {
        world_after(r.world, ms, task_wakes, &waking);
    }
    uint64_t wakes = world_seen(r.world)->wakes;
    uint64_t waits = world_seen(r.world)->waits;
    const script_request *q = script_last(r.script);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);                /* it looked, and went on */
    CHECK_U64(world_now(r.world), q->at_ms + script_wait_ms(q));
    CHECK_U64(world_seen(r.world)->wakes - wakes, 5);
    CHECK(world_seen(r.world)->waits - waits >= 6);
    CHECK_INT(waking.wakers, 1);
    CHECK_INT(world_seen(r.world)->wakers_now, 0);
    rig_deinit(&r);
}

static void test_task_stop_of_a_blocked_step(void)
{
    rig r;
    task_waking waking;
    memset(&waking, 0, sizeof waking);
    REQUIRE(task_begin(&r));
    waking.r = &r;
    world_after(r.world, 1234, task_stops, &waking);
    uint64_t now_ms = world_now(r.world);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_U64(world_now(r.world) - now_ms, 1234);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    CHECK_INT(world_seen(r.world)->wakers_now, 0);
    rig_deinit(&r);
}

static void test_task_waker_exists_only_while_a_step_blocks(void)
{
    rig r;
    REQUIRE(task_begin(&r));
    uint64_t made = world_num_calls(r.world, WORLD_WAKER);
    CHECK_INT(world_seen(r.world)->wakers_now, 0);
    CHECK_ERR(sdc_step(r.task, 0), SDC_AGAIN);
    CHECK_U64(world_num_calls(r.world, WORLD_WAKER), made);
    CHECK_ERR(sdc_step(r.task, 10), SDC_AGAIN);
    CHECK_U64(world_num_calls(r.world, WORLD_WAKER), made + 1);
    CHECK_INT(world_seen(r.world)->wakers_now, 0);
    CHECK_INT(world_seen(r.world)->open_now, 1);            /* the connection, and no more */
    rig_deinit(&r);
}

static void test_task_stop_is_noticed_without_a_waker(void)
{
    rig r;
    task_waking waking;
    memset(&waking, 0, sizeof waking);
    REQUIRE(task_begin(&r));
    waking.r = &r;
    world_fail(r.world, WORLD_WAKER, 1, true, SDC_ERR_IO, EMFILE);
    world_after(r.world, 1234, task_stops, &waking);
    uint64_t now_ms = world_now(r.world);
    CHECK_ERR(sdc_step(r.task, -1), SDC_STOPPED);
    CHECK_BETWEEN(world_now(r.world) - now_ms, 1234, 1334);
    CHECK_INT(waking.wakers, 0);
    rig_deinit(&r);
}

/* ---- names ----------------------------------------------------------------------------------- */

static void test_task_resolves_in_each_way(void)
{
    for (int kind = WORLD_RESOLVER_TIMER; kind <= WORLD_RESOLVER_BLOCKS; kind++) {
        for (int drive = WORLD_DRIVE_BLOCK; drive <= WORLD_DRIVE_EDGE; drive++) {
            rig r;
            world_desc world_is;
            sdc_client_desc desc;
            memset(&world_is, 0, sizeof world_is);
            memset(&desc, 0, sizeof desc);
            test_note("resolver %d, drive %d", kind, drive);
            world_is.drive = (world_drive)drive;
            desc.address = "consul.example:8500";
            REQUIRE(rig_init_client(&r, &world_is, &desc));
            world_resolver_is(r.world, (world_resolver)kind);
            world_resolve_to(r.world, "consul.example", "10.0.0.1", 40);
            script_health(r.script, 100, task_body(&r, 1));
            script_hold(r.script);
            rig_watch(&r, NULL);
            rig_run(&r, 2000);
            if (kind == WORLD_RESOLVER_BLOCKS && drive != WORLD_DRIVE_BLOCK) {
                CHECK_ERR(rig_err(&r), SDC_ERR_RESOLVE);
            } else {
                CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
                CHECK_U64(rig_last(&r)->at_ms, WORLD_START_MS + 40);
            }
            rig_deinit(&r);
        }
    }
}

static void test_task_that_may_not_block_uses_the_last_addresses(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = "consul.example:8500";
    REQUIRE(rig_init_client(&r, NULL, &desc));
    world_resolver_is(r.world, WORLD_RESOLVER_BLOCKS);
    world_resolve_to(r.world, "consul.example", "10.0.0.1", 40);
    script_health(r.script, 100, task_body(&r, 1));
    script_hold(r.script);
    rig_watch(&r, NULL);
    CHECK_ERR(sdc_step(r.task, -1), SDC_OK);
    world_close_all(r.world, "10.0.0.1", 8500);
    CHECK_ERR(task_poll(&r, 100), SDC_AGAIN);
    CHECK_INT(script_num_held(r.script), 1);
    CHECK_INT(world_num_conns(r.world), 2);
    CHECK_ERR(rig_err(&r), SDC_OK);
    rig_deinit(&r);
}

static void test_task_resolver_that_never_answers(void)
{
    rig r;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = "consul.example:8500";
    REQUIRE(rig_init_client(&r, NULL, &desc));
    world_resolve_never(r.world, "consul.example");
    rig_watch(&r, NULL);
    sdc_err err = sdc_step(r.task, -1);
    CHECK(err == SDC_ERR_TIMEOUT || err == SDC_ERR_RESOLVE);
    CHECK_U64(world_now(r.world) - WORLD_START_MS, 5000);
    CHECK_INT(world_seen(r.world)->resolves_now, 0);
    rig_deinit(&r);
}

static void test_task_connect_timeout(void)
{
    for (uint32_t ms = 0; ms <= 300; ms += 300) {
        rig r;
        sdc_client_desc desc;
        sdc_error error;
        memset(&desc, 0, sizeof desc);
        desc.connect_timeout_ms = ms;
        REQUIRE(rig_init_client(&r, NULL, &desc));
        world_listen_mode(r.world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
        rig_watch(&r, NULL);
        CHECK_ERR(sdc_step(r.task, -1), SDC_ERR_TIMEOUT);
        CHECK_U64(world_now(r.world) - WORLD_START_MS, ms == 0 ? 5000 : ms);
        sdc_task_error(r.task, &error);
        CHECK_HAS(error.message, "10.0.0.1:8500");
        CHECK_INT(world_seen(r.world)->open_now, 0);
        rig_deinit(&r);
    }
}

/* ---- callbacks that do things ---------------------------------------------------------------- */

/* Subscribes to a watch, and does one thing in its second call. */
typedef struct task_actor {
    rig           *r;
    void         (*act)(struct task_actor *actor);
    unsigned       calls;
    unsigned       acts_in;         /* the call in which it acts                             */
    sdc_err        result;
    sdc_instancer *other;
    struct task_actor *friend_;
} task_actor;

static void task_actor_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    task_actor *actor = (task_actor *)user;
    (void)change;
    actor->calls++;
    if (actor->act != NULL && actor->calls == actor->acts_in) {
        actor->act(actor);
        CHECK(event->num_instances == 0 || event->instances[0].addr[0] == '1');
    }
}

static void task_actor_init(task_actor *actor, rig *r, void (*act)(task_actor *actor))
{
    memset(actor, 0, sizeof *actor);
    actor->r = r;
    actor->act = act;
    actor->acts_in = 2;
}

static sdc_err task_listen(rig *r, task_actor *actor)
{
    return sdc_instancer_subscribe(r->instancer, task_actor_on_event, actor);
}

static void task_act_step(task_actor *actor)
{
    actor->result = sdc_step(actor->r->task, 0);
    CHECK_ERR(sdc_step(actor->r->task, -1), SDC_ERR_ARG);
    CHECK_ERR(sdc_instancer_wait(actor->r->instancer, 5, 100, NULL), SDC_ERR_ARG);
}

static void test_task_callback_must_not_step_its_own_task(void)
{
    rig r;
    task_actor actor;
    REQUIRE(task_begin(&r));
    task_actor_init(&actor, &r, task_act_step);
    CHECK_ERR(task_listen(&r, &actor), SDC_OK);
    task_change(&r, 101, 2);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);
    CHECK_INT(actor.calls, 2);
    CHECK_ERR(actor.result, SDC_ERR_ARG);
    task_change(&r, 102, 3);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);       /* no harm was done */
    CHECK_INT(actor.calls, 3);
    rig_deinit(&r);
}

static void task_act_stop(task_actor *actor)
{
    sdc_stop(actor->r->task);
}

static void test_task_callback_may_stop(void)
{
    rig r;
    task_actor first;
    task_actor second;
    REQUIRE(task_begin(&r));
    task_actor_init(&first, &r, task_act_stop);
    task_actor_init(&second, &r, NULL);
    CHECK_ERR(task_listen(&r, &first), SDC_OK);
    CHECK_ERR(task_listen(&r, &second), SDC_OK);
    task_change(&r, 101, 2);
    sdc_err err = sdc_step(r.task, 100);
    CHECK(err == SDC_OK || err == SDC_STOPPED);
    CHECK_INT(first.calls, 2);
    CHECK_INT(second.calls, 1);                     /* no callback is begun after a stop */
    CHECK_ERR(sdc_step(r.task, 0), SDC_STOPPED);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    rig_deinit(&r);
}

static void task_act_destroy(task_actor *actor)
{
    sdc_instancer_destroy(actor->r->instancer);
    actor->r->instancer = NULL;
}

static void test_93_callback_may_destroy(void)
{
    for (int bound = -1; bound <= 100; bound++) {
        rig r;
        task_actor first;
        task_actor second;
        REQUIRE(task_begin(&r));
        task_actor_init(&first, &r, task_act_destroy);
        task_actor_init(&second, &r, NULL);
        CHECK_ERR(task_listen(&r, &first), SDC_OK);
        CHECK_ERR(task_listen(&r, &second), SDC_OK);
        task_change(&r, 101, 2);
        world_advance(r.world, 0);
        CHECK_ERR(sdc_step(r.task, bound), SDC_GONE);
        CHECK_INT(first.calls, 2);
        CHECK_INT(second.calls, 1);
        CHECK_INT(world_seen(r.world)->open_now, 0);
        CHECK_INT(world_seen(r.world)->wakers_now, 0);
        rig_deinit(&r);
        bound += bound < 0 ? 0 : 49;
    }
}

static void test_task_callback_may_destroy_in_its_first_call(void)
{
    rig r;
    task_actor actor;
    REQUIRE(task_begin(&r));
    task_actor_init(&actor, &r, task_act_destroy);
    actor.acts_in = 1;
    CHECK_ERR(task_listen(&r, &actor), SDC_GONE);
    CHECK_INT(world_seen(r.world)->open_now, 0);
    rig_deinit(&r);
}

static void task_act_destroy_all(task_actor *actor)
{
    task_act_destroy(actor);
    sdc_client_destroy(actor->r->client);
    actor->r->client = NULL;
}

static void test_task_callback_may_destroy_the_client_too(void)
{
    rig r;
    task_actor actor;
    REQUIRE(task_begin(&r));
    task_actor_init(&actor, &r, task_act_destroy_all);
    CHECK_ERR(task_listen(&r, &actor), SDC_OK);
    task_change(&r, 101, 2);
    CHECK_ERR(sdc_step(r.task, 100), SDC_GONE);
    CHECK_INT(r.memory.num_live, 0);
    rig_deinit(&r);
}

static void task_act_on_error(task_actor *actor)
{
    CHECK_ERR(rig_err(actor->r), SDC_ERR_STATUS);
    task_act_destroy(actor);
}

static void test_task_callback_of_an_error_may_destroy(void)
{
    rig r;
    task_actor actor;
    REQUIRE(task_begin(&r));
    task_actor_init(&actor, &r, task_act_on_error);
    CHECK_ERR(task_listen(&r, &actor), SDC_OK);
    script_clear(r.script);
    script_error(r.script, 500, "x");
    task_change(&r, 101, 1);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);
    CHECK_ERR(sdc_step(r.task, 100), SDC_GONE);
    rig_deinit(&r);
}

static bool task_other(rig *r, sdc_instancer **out)
{
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "web";
    return CHECK_ERR(sdc_instancer_create(r->client, &desc, out, NULL), SDC_OK);
}

static void task_act_on_other(task_actor *actor)
{
    sdc_task *task = sdc_instancer_task(actor->other);
    actor->result = sdc_step(task, -1);
    sdc_stop(task);
    CHECK_ERR(sdc_step(task, 0), SDC_STOPPED);
    sdc_instancer_destroy(actor->other);
    actor->other = NULL;
}

static void test_task_callback_may_step_and_destroy_another_task(void)
{
    rig r;
    task_actor actor;
    REQUIRE(task_begin(&r));
    task_actor_init(&actor, &r, task_act_on_other);
    REQUIRE(task_other(&r, &actor.other));
    CHECK_ERR(task_listen(&r, &actor), SDC_OK);
    task_change(&r, 101, 2);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);
    CHECK_ERR(actor.result, SDC_OK);
    CHECK(actor.other == NULL);
    rig_deinit(&r);
}

static void task_act_swap(task_actor *actor)
{
    sdc_instancer_unsubscribe(actor->r->instancer, task_actor_on_event, actor);
    actor->result = task_listen(actor->r, actor->friend_);
}

static void test_task_callback_may_subscribe_and_unsubscribe(void)
{
    rig r;
    task_actor first;
    task_actor second;
    REQUIRE(task_begin(&r));
    task_actor_init(&first, &r, task_act_swap);
    task_actor_init(&second, &r, NULL);
    first.friend_ = &second;
    CHECK_ERR(task_listen(&r, &first), SDC_OK);
    CHECK_ERR(task_listen(&r, &first), SDC_ERR_ARG);
    task_change(&r, 101, 2);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);
    CHECK_ERR(first.result, SDC_OK);
    CHECK_INT(second.calls, 1);
    task_change(&r, 102, 3);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);
    CHECK_INT(first.calls, 2);
    CHECK_INT(second.calls, 2);
    rig_deinit(&r);
}

static void task_act_update(task_actor *actor)
{
    sdc_cache *cache = sdc_instancer_cache(actor->r->instancer);
    const sdc_event *event = sdc_cache_state(cache);
    actor->result = sdc_instancer_subscribe(actor->other, task_actor_on_event, actor->friend_);
    CHECK_STR(event->instances[0].addr, "10.1.0.2:80");
    sdc_event_release(event);
    CHECK_ERR(sdc_client_set_token(actor->r->client, "t"), SDC_OK);
}

static void test_task_callback_may_use_everything_else(void)
{
    rig r;
    task_actor first;
    task_actor second;
    REQUIRE(task_begin(&r));
    task_actor_init(&first, &r, task_act_update);
    task_actor_init(&second, &r, NULL);
    first.friend_ = &second;
    REQUIRE(task_other(&r, &first.other));
    CHECK_ERR(task_listen(&r, &first), SDC_OK);
    task_change(&r, 101, 2);
    CHECK_ERR(sdc_step(r.task, 100), SDC_OK);
    CHECK_ERR(first.result, SDC_OK);
    CHECK_INT(second.calls, 1);
    sdc_instancer_destroy(first.other);
    rig_deinit(&r);
}

/* The wants hook destroys its own task, when it is told the nth time. */
typedef struct task_quitter {
    rig     *r;
    unsigned quits_in;
    unsigned calls;
    bool     stops;
} task_quitter;

static void task_quitter_on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    task_quitter *q = (task_quitter *)user;
    (void)wants;
    q->calls++;
    if (q->calls == q->quits_in && q->stops) {
        sdc_stop(task);
    } else if (q->calls == q->quits_in) {
        sdc_instancer_destroy(q->r->instancer);
        q->r->instancer = NULL;
    }
}

static void task_quit(unsigned quits_in, bool stops)
{
    rig r;
    task_quitter q;
    memset(&q, 0, sizeof q);
    test_note("quits in call %u", quits_in);
    REQUIRE(rig_init(&r, NULL));
    q.r = &r;
    q.quits_in = quits_in;
    q.stops = stops;
    script_health(r.script, 100, task_body(&r, 1));
    script_close(r.script);
    script_error(r.script, 500, "x");
    script_hold(r.script);
    rig_watch(&r, NULL);
    sdc_task_on_wants(r.task, task_quitter_on_wants, &q);
    sdc_err err = SDC_AGAIN;
    for (int i = 0; i < 200 && r.instancer != NULL && err != SDC_STOPPED; i++) {
        err = sdc_step(r.task, 1);
    }
    CHECK(q.calls >= quits_in);
    if (quits_in > 1) {
        CHECK_ERR(err, stops ? SDC_STOPPED : SDC_GONE);
    }
    CHECK_INT(world_seen(r.world)->open_now, 0);
    rig_deinit(&r);
}

static void test_task_wants_hook_may_stop_and_destroy(void)
{
    for (unsigned n = 1; n <= 8; n++) {
        task_quit(n, false);
        task_quit(n, true);
    }
}

/* ---- large answers and their end ------------------------------------------------------------- */

/* Until a step has left a part of the answer for the next one. */
static bool task_begin_in_a_large_body(rig *r)
{
    if (!rig_init(r, NULL)) {
        return false;
    }
    script_health(r->script, 10, script_many(r->script, 0, 5000));
    script_hold(r->script);
    if (!rig_watch(r, NULL)) {
        return false;
    }
    for (int i = 0; i < 50; i++) {
        world_advance(r->world, 0);
        CHECK_ERR(sdc_step(r->task, 0), SDC_AGAIN);
        sdc_stats stats;
        sdc_task_stats(r->task, &stats);
        if (stats.bytes_in > 0 && sdc_task_wants(r->task).timeout_ms == 0) {
            return true;
        }
    }
    FAIL("no step ended in the middle of the body");
    return false;
}

static void test_task_stopped_in_a_large_body_wants_nothing(void)
{
    rig r;
    REQUIRE(task_begin_in_a_large_body(&r));
    sdc_stop(r.task);
    CHECK_ERR(sdc_step(r.task, 0), SDC_STOPPED);
    sdc_wants wants = sdc_task_wants(r.task);
    CHECK_INT(wants.fd, -1);
    CHECK_INT(wants.timeout_ms, -1);
    CHECK_U64(wants.deadline_ms, UINT64_MAX);
    task_check_nothing_wanted(r.task);
    rig_deinit(&r);
}

/* A loop that was away for longer than the answer may take finds it whole in the socket. */
static void test_task_answer_that_is_here_counts_after_the_deadline(void)
{
    rig r;
    REQUIRE(task_begin_in_a_large_body(&r));
    world_advance(r.world, 20000);
    sdc_err err = SDC_AGAIN;
    for (int i = 0; i < 100 && err == SDC_AGAIN; i++) {
        err = sdc_step(r.task, 0);
    }
    CHECK_ERR(err, SDC_OK);
    CHECK_INT(rig_last(&r)->num_instances, 5000);
    rig_deinit(&r);
}

/* ---- what hooks of one's own say ------------------------------------------------------------- */

typedef enum task_hook_mode {
    TASK_OPEN_SAYS_A_MESSAGE, TASK_OPEN_SAYS_NOTHING, TASK_WRITE_SAYS_A_MESSAGE,
    TASK_WRITE_SAYS_NOTHING, TASK_READ_SAYS_NOTHING, TASK_WRITES_NOTHING, TASK_NUM_FAULTS,
    TASK_WRITE_WANTS_READABLE = TASK_NUM_FAULTS, TASK_WRITE_WANTS_TIME
} task_hook_mode;

typedef struct task_hooks {
    task_hook_mode mode;
    uint64_t       now_ms;
} task_hooks;

static uint64_t task_hook_now_ms(void *user)
{
    return ((task_hooks *)user)->now_ms;
}

static sdc_err task_hook_open(void *user, const sdc_target *target, void **stream,
                              sdc_ready *until, sdc_error *error)
{
    task_hooks *hooks = (task_hooks *)user;
    (void)target;
    (void)until;
    if (hooks->mode == TASK_OPEN_SAYS_A_MESSAGE) {
        snprintf(error->message, sizeof error->message, "certificate expired");
    }
    if (hooks->mode <= TASK_OPEN_SAYS_NOTHING) {
        return SDC_ERR_TLS;
    }
    *stream = hooks;
    return SDC_OK;
}

static sdc_err task_hook_read(void *user, void *stream, void *buf, size_t max, size_t *len,
                              sdc_ready *until, sdc_error *error)
{
    task_hooks *hooks = (task_hooks *)user;
    (void)stream;
    (void)buf;
    (void)max;
    (void)len;
    (void)error;
    if (hooks->mode == TASK_READ_SAYS_NOTHING) {
        return SDC_ERR_IO;
    }
    until->fd = 7;
    until->readable = true;
    return SDC_AGAIN;
}

static sdc_err task_hook_write(void *user, void *stream, const void *buf, size_t len,
                               size_t *written, sdc_ready *until, sdc_error *error)
{
    task_hooks *hooks = (task_hooks *)user;
    (void)stream;
    (void)buf;
    switch (hooks->mode) {
    case TASK_WRITE_SAYS_A_MESSAGE:
        snprintf(error->message, sizeof error->message, "broken");
        return SDC_ERR_IO;
    case TASK_WRITE_SAYS_NOTHING:
        return SDC_ERR_IO;
    case TASK_WRITE_WANTS_READABLE:
        until->fd = 7;
        until->readable = true;
        return SDC_AGAIN;
    case TASK_WRITE_WANTS_TIME:
        until->at_ms = hooks->now_ms + 50;
        return SDC_AGAIN;
    case TASK_WRITES_NOTHING:
        *written = 0;
        return SDC_OK;
    default:
        *written = len;
        return SDC_OK;
    }
}

static void task_hook_close(void *user, void *stream)
{
    (void)user;
    (void)stream;
}

static sdc_client *task_hooks_client(task_hooks *hooks, sdc_io *io)
{
    sdc_client *client = NULL;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    memset(io, 0, sizeof *io);
    hooks->now_ms = WORLD_START_MS;
    io->user = hooks;
    io->now_ms = task_hook_now_ms;
    io->stream_open = task_hook_open;
    io->stream_read = task_hook_read;
    io->stream_write = task_hook_write;
    io->stream_close = task_hook_close;
    desc.address = "10.0.0.1:8500";
    desc.io = io;
    desc.ignore_environment = true;
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    return client;
}

/* Fills the stack with something else than zero, so that what nobody wrote is seen. */
static unsigned task_dirty_stack(void)
{
    volatile unsigned char dirt[8192];
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof dirt; i++) {
        dirt[i] = 0xA5;
    }
    for (size_t i = 0; i < sizeof dirt; i += 512) {
        sum += dirt[i];
    }
    return sum;
}

static void task_check_settled(const sdc_error *error, sdc_err err, const char *part)
{
    CHECK_ERR(error->code, err);
    CHECK_INT(error->http_status, 0);
    CHECK_INT(error->os_errno, 0);
    bool has_end = memchr(error->message, 0, sizeof error->message) != NULL;
    if (CHECK(has_end)) {
        CHECK(error->message[0] != '\0');
        CHECK_HAS(error->message, part);
        for (const char *at = error->message; *at != '\0'; at++) {
            CHECK(*at >= ' ' && *at <= '~');
        }
    }
}

/* A hook that fails needs to say nothing but its result. */
static void test_task_error_of_a_hook_is_settled(void)
{
    static const char *const parts[TASK_NUM_FAULTS] = {
        "certificate expired", "", "broken", "", "", ""
    };
    for (int mode = 0; mode < TASK_NUM_FAULTS; mode++) {
        task_hooks hooks = { (task_hook_mode)mode, 0 };
        sdc_io io;
        sdc_error error;
        test_note("mode %d", mode);
        sdc_client *client = task_hooks_client(&hooks, &io);
        sdc_instancer *instancer = rig_watch_of(client);
        REQUIRE(instancer != NULL);
        sdc_err expected = mode <= TASK_OPEN_SAYS_NOTHING ? SDC_ERR_TLS : SDC_ERR_IO;
        CHECK(task_dirty_stack() > 0);
        CHECK_ERR(sdc_step(sdc_instancer_task(instancer), 0), expected);
        sdc_task_error(sdc_instancer_task(instancer), &error);
        task_check_settled(&error, expected, parts[mode]);
        memset(&error, 0x55, sizeof error);
        CHECK(task_dirty_stack() > 0);
        CHECK_ERR(sdc_client_deregister(client, "x", &error), expected);
        task_check_settled(&error, expected, parts[mode]);
        sdc_instancer_destroy(instancer);
        sdc_client_destroy(client);
    }
}

/* A transport that must read before it can write: a loop that watched for writable would spin. */
static void test_task_wants_what_a_write_waits_for(void)
{
    task_hooks hooks = { TASK_WRITE_WANTS_READABLE, 0 };
    sdc_io io;
    sdc_client *client = task_hooks_client(&hooks, &io);
    sdc_instancer *instancer = rig_watch_of(client);
    REQUIRE(instancer != NULL);
    CHECK_ERR(sdc_step(sdc_instancer_task(instancer), 0), SDC_AGAIN);
    sdc_wants wants = sdc_task_wants(sdc_instancer_task(instancer));
    CHECK_INT(wants.fd, 7);
    CHECK(wants.readable);
    CHECK(!wants.writable);
    sdc_instancer_destroy(instancer);
    /* one that waits for a moment keeps it, beside the descriptor of the read */
    hooks.mode = TASK_WRITE_WANTS_TIME;
    instancer = rig_watch_of(client);
    REQUIRE(instancer != NULL);
    CHECK_ERR(sdc_step(sdc_instancer_task(instancer), 0), SDC_AGAIN);
    wants = sdc_task_wants(sdc_instancer_task(instancer));
    CHECK_INT(wants.fd, 7);
    CHECK(wants.readable);
    CHECK(!wants.writable);
    CHECK_INT(wants.timeout_ms, 50);
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
}

/* A round that itself takes long, in a lookup that blocks, is part of the time that was given. */
static void test_task_bound_includes_what_a_round_took(void)
{
    rig r;
    sdc_client_desc client;
    memset(&client, 0, sizeof client);
    client.address = "consul.example:8500";
    client.connect_timeout_ms = 60000;
    REQUIRE(rig_init_client(&r, NULL, &client));
    world_resolver_is(r.world, WORLD_RESOLVER_BLOCKS);
    world_resolve_to(r.world, "consul.example", "10.0.0.1", 5000);
    world_listen_mode(r.world, "10.0.0.1", 8500, WORLD_BLACKHOLE);
    REQUIRE(rig_watch(&r, NULL));
    CHECK_ERR(sdc_step(r.task, 6000), SDC_AGAIN);
    CHECK_U64(world_now(r.world), WORLD_START_MS + 6000);
    uint64_t begun_ms = world_now(r.world);
    CHECK_ERR(sdc_client_deregister(r.client, "x", NULL), SDC_ERR_TIMEOUT);
    CHECK_U64(world_now(r.world) - begun_ms, 15000);
    rig_deinit(&r);
}

static const test_case cases_task[] = {
    TEST(test_task_step_0_never_blocks),
    TEST(test_task_step_n_is_a_bound),
    TEST(test_task_step_n_bounds_each_phase),
    TEST(test_task_step_without_bound_is_one_exchange),
    TEST(test_task_failure_is_said_once),
    TEST(test_93_stopped_is_for_ever),
    TEST(test_task_stopped_before_it_began),
    TEST(test_task_stop_in_each_phase),
    TEST(test_task_stepping_too_often_does_no_harm),
    TEST(test_task_stats_count),
    TEST(test_task_takes_in_256_kib_a_step),
    TEST(test_task_takes_a_large_answer_in_each_drive),
    TEST(test_task_wants_are_told_at_once),
    TEST(test_task_wants_are_told_when_they_differ),
    TEST(test_task_wants_change_nothing),
    TEST(test_task_wants_name_the_deadline_of_a_read),
    TEST(test_task_tells_fd_before_it_closes_it),
    TEST(test_task_serial_tells_descriptors_apart),
    TEST(test_task_without_hooks_is_watched_by_asking),
    TEST(test_task_lives_the_same_life_by_any_loop),
    TEST(test_task_wake_hook),
    TEST(test_task_wake_cuts_no_pause_short),
    TEST(test_task_wake_of_a_blocked_step),
    TEST(test_task_stop_of_a_blocked_step),
    TEST(test_task_waker_exists_only_while_a_step_blocks),
    TEST(test_task_stop_is_noticed_without_a_waker),
    TEST(test_task_resolves_in_each_way),
    TEST(test_task_that_may_not_block_uses_the_last_addresses),
    TEST(test_task_resolver_that_never_answers),
    TEST(test_task_connect_timeout),
    TEST(test_task_callback_must_not_step_its_own_task),
    TEST(test_task_callback_may_stop),
    TEST(test_93_callback_may_destroy),
    TEST(test_task_callback_may_destroy_in_its_first_call),
    TEST(test_task_callback_may_destroy_the_client_too),
    TEST(test_task_callback_of_an_error_may_destroy),
    TEST(test_task_callback_may_step_and_destroy_another_task),
    TEST(test_task_callback_may_subscribe_and_unsubscribe),
    TEST(test_task_callback_may_use_everything_else),
    TEST(test_task_wants_hook_may_stop_and_destroy),
    TEST(test_task_stopped_in_a_large_body_wants_nothing),
    TEST(test_task_answer_that_is_here_counts_after_the_deadline),
    TEST(test_task_error_of_a_hook_is_settled),
    TEST(test_task_wants_what_a_write_waits_for),
    TEST(test_task_bound_includes_what_a_round_took),
};
