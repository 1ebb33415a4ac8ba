/* Tests of what the other tests stand on: the harness, the allocator, the world, the script.
   A library of one screen stands in for the real one, so that its mistakes can be made at will:
   each promise of sdc_io is broken once, and the world has to notice. */
#include "alloc.h"
#include "script.h"
#include "test.h"
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a very small library -------------------------------------------------------------------- */

typedef enum mini_fault {
    MINI_FINE = 0,
    MINI_SAME_SERIAL,               /* a new descriptor under the old serial                  */
    MINI_SILENT,                    /* does not tell its wants                                */
    MINI_LATE,                      /* tells fd -1 after the close                            */
    MINI_SPINS                      /* wants to be stepped at once, for ever                  */
} mini_fault;

/* Sends one request on a connection of its own, reads until the end, pauses, and again. */
struct sdc_task {
    const sdc_io *io;
    sdc_target    target;
    const char   *request;
    mini_fault    fault;
    void         *stream;
    bool          is_open;
    size_t        written;
    char          answer[4096];
    size_t        answer_len;
    unsigned      num_answers;
    uint64_t      pause_ms, next_ms;
    sdc_wants     wants;
    uint32_t      serial;
    sdc_wants_fn  on_wants;
    void         *on_wants_user;
    sdc_wake_fn   on_wake;
    void         *on_wake_user;
    bool          is_stopped;
    bool          is_quick;         /* no step ends with an exchange: straight to the next    */
};

static void mini_tell(sdc_task *t, int fd, bool readable, bool writable, uint64_t deadline_ms)
{
    t->wants.fd = fd;
    t->wants.serial = t->serial;
    t->wants.readable = readable;
    t->wants.writable = writable;
    t->wants.deadline_ms = deadline_ms;
    if (t->on_wants != NULL && t->fault != MINI_SILENT) {
        t->on_wants(t->on_wants_user, t, sdc_task_wants(t));
    }
}

static sdc_err mini_end(sdc_task *t, sdc_err result)
{
    if (t->fault != MINI_LATE) {
        mini_tell(t, -1, false, false, UINT64_MAX);
    }
    if (t->stream != NULL) {
        t->io->stream_close(t->io->user, t->stream);
    }
    t->stream = NULL;
    t->is_open = false;
    t->next_ms = t->io->now_ms(t->io->user) + t->pause_ms;
    mini_tell(t, -1, false, false, t->fault == MINI_SPINS ? 0 : t->next_ms);
    return result;
}

static sdc_err mini_move(sdc_task *t, sdc_ready *until, sdc_error *error)
{
    size_t n = 0;
    if (!t->is_open) {
        if (t->stream == NULL && t->fault != MINI_SAME_SERIAL) {
            t->serial++;
        }
        sdc_err err = t->io->stream_open(t->io->user, &t->target, &t->stream, until, error);
        t->is_open = err == SDC_OK;
        t->written = 0;
        t->answer_len = 0;
        return err;
    }
    if (t->written < strlen(t->request)) {
        sdc_err err = t->io->stream_write(t->io->user, t->stream, t->request + t->written,
                                          strlen(t->request) - t->written, &n, until, error);
        t->written += err == SDC_OK ? n : 0;
        return err;
    }
    sdc_err err = t->io->stream_read(t->io->user, t->stream, t->answer + t->answer_len,
                                     sizeof t->answer - 1 - t->answer_len, &n, until, error);
    if (err != SDC_OK) {
        return err;
    }
    t->answer_len += n;
    t->answer[t->answer_len] = '\0';
    if (n == 0) {
        t->num_answers++;
        return SDC_STOPPED;
    }
    return SDC_OK;
}

static sdc_err mini_go(sdc_task *t)
{
    uint64_t now_ms = t->io->now_ms(t->io->user);
    if (t->is_stopped) {
        if (t->stream != NULL) {
            mini_end(t, SDC_STOPPED);
        }
        mini_tell(t, -1, false, false, UINT64_MAX);
        return SDC_STOPPED;
    }
    if (now_ms < t->next_ms && t->stream == NULL) {
        mini_tell(t, -1, false, false, t->fault == MINI_SPINS ? 0 : t->next_ms);
        return SDC_AGAIN;
    }
    for (;;) {
        sdc_ready until = { -1, false, false, UINT64_MAX };
        sdc_error error;
        sdc_err err = mini_move(t, &until, &error);
        if (err == SDC_AGAIN) {
            mini_tell(t, until.fd, until.readable, until.writable, UINT64_MAX);
            return err;
        }
        if (err != SDC_OK) {
            mini_end(t, err);
            if (!t->is_quick) {
                return err == SDC_STOPPED ? SDC_OK : err;
            }
        }
    }
}

sdc_err sdc_step(sdc_task *t, int timeout_ms)
{
    uint64_t start_ms = t->io->now_ms(t->io->user);
    for (;;) {
        sdc_err result = mini_go(t);
        uint64_t now_ms = t->io->now_ms(t->io->user);
        if (result != SDC_AGAIN ||
            (timeout_ms >= 0 && now_ms >= start_ms + (uint64_t)timeout_ms)) {
            return result;
        }
        sdc_wants wants = sdc_task_wants(t);
        int left = timeout_ms < 0 ? -1 : timeout_ms - (int)(now_ms - start_ms);
        if (wants.timeout_ms < 0 || (left >= 0 && left < wants.timeout_ms)) {
            wants.timeout_ms = left;
        }
        sdc_error error;
        t->io->wait(t->io->user, NULL, &wants, &error);
    }
}

sdc_wants sdc_task_wants(const sdc_task *t)
{
    sdc_wants wants = t->wants;
    uint64_t now_ms = t->io->now_ms(t->io->user);
    wants.timeout_ms = wants.deadline_ms == UINT64_MAX ? -1
                       : wants.deadline_ms <= now_ms   ? 0
                                                       : (int)(wants.deadline_ms - now_ms);
    return wants;
}

void sdc_task_on_wants(sdc_task *t, sdc_wants_fn fn, void *user)
{
    t->on_wants = fn;
    t->on_wants_user = user;
    if (fn != NULL && t->fault != MINI_SILENT) {
        fn(user, t, sdc_task_wants(t));
    }
}

void sdc_task_on_wake(sdc_task *t, sdc_wake_fn fn, void *user)
{
    t->on_wake = fn;
    t->on_wake_user = user;
}

void sdc_wake(sdc_task *t)
{
    if (t->on_wake != NULL) {
        t->on_wake(t->on_wake_user, t);
    }
}

void sdc_stop(sdc_task *t)
{
    t->is_stopped = true;
    sdc_wake(t);
}

sdc_err sdc_client_create(const sdc_client_desc *desc, sdc_client **out, sdc_error *error)
{
    static const sdc_kv fields[] = { { "event", "client_created" }, { "address", "x" } };
    *out = NULL;
    memset(error, 0, sizeof *error);
    desc->logger->log(desc->logger->user, SDC_LOG_INFO, fields, 2);
    return SDC_OK;
}

static void mini_init(sdc_task *t, world *w, const char *ip, uint16_t port, const char *request)
{
    memset(t, 0, sizeof *t);
    t->io = world_io(w);
    t->target.host = ip[0] == '/' ? "" : ip;
    t->target.ip = ip[0] == '/' ? "" : ip;
    t->target.path = ip[0] == '/' ? ip : "";
    t->target.port = port;
    t->request = request;
    t->pause_ms = 1000;
    t->wants.fd = -1;
    t->next_ms = world_now(w);
    t->wants.deadline_ms = world_now(w);
}

static const char get_x[] = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

static const char *mini_body(const sdc_task *t)
{
    const char *end = strstr(t->answer, "\r\n\r\n");
    return end != NULL ? end + 4 : "(no head)";
}

/* ---- the harness ----------------------------------------------------------------------------- */

static void test_harness_checks_count_and_go_on(void)
{
    test_expect_failures();
    bool held = CHECK(1 + 1 == 3);
    CHECK_INT(-1, 1);
    CHECK_U64(UINT64_MAX, 0);
    CHECK_STR("a", NULL);
    CHECK_STR("a", "b");
    CHECK_ERR(SDC_OK, SDC_AGAIN);
    CHECK_BETWEEN(5, 6, 7);
    CHECK_HAS("abc", "x");
    CHECK_HASNT("abc", "b");
    CHECK_MEM("ab", 2, "ac", 2);
    CHECK_MEM("ab", 2, "ab", 1);
    FAIL("%d", 1);
    CHECK_INT(test_expected_failures(), 12);
    CHECK(!held);
    CHECK_INT(test_num_failures(), 0);
}

static void test_harness_checks_that_hold(void)
{
    CHECK(CHECK_STR(NULL, NULL) && CHECK_STR("x", "x") && CHECK_MEM("", 0, "", 0));
    CHECK_BETWEEN(5, 5, 5);
    CHECK_HAS("abc", "bc");
    CHECK_HASNT(NULL, "b");
    CHECK_STR(test_err_name(SDC_ERR_USER), "SDC_ERR_USER");
    CHECK_STR(test_err_name(99), "(no sdc_err)");
    CHECK_STR(test_name(), "test_harness_checks_that_hold");
}

/* ---- the allocator --------------------------------------------------------------------------- */

static void test_alloc_counts_and_fails_on_demand(void)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    char *a = (char *)hook.resize(hook.user, NULL, 0, 10);
    strcpy(a, "abc");
    fault_alloc_fail(&memory, 1, false);
    CHECK(hook.resize(hook.user, a, 10, 20) == NULL);
    CHECK_STR(a, "abc");
    char *b = (char *)hook.resize(hook.user, a, 10, 20);
    CHECK(b != a);
    CHECK_STR(b, "abc");
    CHECK_INT(memory.num_live, 1);
    CHECK_INT(memory.live_bytes, 20);
    fault_alloc_fail(&memory, 2, true);
    char *c = (char *)hook.resize(hook.user, NULL, 0, 1);
    CHECK(c != NULL);
    CHECK(hook.resize(hook.user, NULL, 0, 1) == NULL);
    CHECK(hook.resize(hook.user, NULL, 0, 1) == NULL);
    CHECK_INT(memory.num_calls, 6);
    CHECK_INT(memory.num_failed, 3);
    CHECK(hook.resize(hook.user, b, 20, 0) == NULL);
    CHECK(hook.resize(hook.user, c, 1, 0) == NULL);
    CHECK_INT(memory.num_frees, 2);
    CHECK_INT(memory.peak_bytes, 21);
    fault_alloc_deinit(&memory);
}

static void test_alloc_notices_misuse(void)
{
    fault_alloc memory;
    fault_alloc_init(&memory);
    sdc_allocator hook = fault_alloc_hook(&memory);
    char *a = (char *)hook.resize(hook.user, NULL, 0, 10);
    char *b = (char *)hook.resize(hook.user, NULL, 0, 10);
    test_expect_failures();
    hook.resize(hook.user, a, 9, 0);
    CHECK_INT(memory.num_errors, 1);
    b[10] = 1;
    hook.resize(hook.user, b, 10, 0);
    CHECK_INT(memory.num_errors, 2);
    hook.resize(hook.user, NULL, 5, 10);
    CHECK_INT(memory.num_errors, 3);
    CHECK(hook.resize(hook.user, NULL, 0, 10) != NULL);
    fault_alloc_deinit(&memory);
    CHECK_INT(memory.num_errors, 4);
    CHECK_INT(test_expected_failures(), 4);
}

/* ---- the clock ------------------------------------------------------------------------------- */

typedef struct clock_log {
    world *w;
    char   text[64];
} clock_log;

static void on_a(void *user)
{
    clock_log *log = (clock_log *)user;
    strcat(log->text, "a");
    CHECK_U64(world_now(log->w), WORLD_START_MS + 10);
}

static void on_b(void *user)
{
    strcat(((clock_log *)user)->text, "b");
}

static void on_c(void *user)
{
    clock_log *log = (clock_log *)user;
    strcat(log->text, "c");
    world_after(log->w, 0, on_b, log);
}

static void test_clock_moves_on_demand_alone(void)
{
    clock_log log = { world_create(NULL), "" };
    world *w = log.w;
    world_at(w, WORLD_START_MS + 20, on_b, &log);
    world_after(w, 10, on_a, &log);
    uint64_t number = world_after(w, 15, on_b, &log);
    world_after(w, 20, on_c, &log);
    CHECK_U64(world_next_ms(w), WORLD_START_MS + 10);
    world_cancel(w, number);
    world_advance(w, 9);
    CHECK_STR(log.text, "");
    CHECK_U64(world_now(w), WORLD_START_MS + 9);
    world_advance(w, 11);
    CHECK_STR(log.text, "abcb");
    CHECK_U64(world_io(w)->now_ms(world_io(w)->user), WORLD_START_MS + 20);
    CHECK_U64(world_next_ms(w), UINT64_MAX);
    world_destroy(w);
}

static void test_random_is_seeded(void)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = 7;
    world *a = world_create(&desc);
    world *b = world_create(&desc);
    desc.seed = 8;
    world *c = world_create(&desc);
    uint64_t first = world_io(a)->random(a);
    CHECK_U64(first, world_io(b)->random(b));
    CHECK(first != world_io(c)->random(c));
    CHECK(first != world_io(a)->random(a));
    world_random_is(a, 5);
    CHECK_U64(world_io(a)->random(a), 5);
    CHECK_U64(world_io(a)->random(a), 5);
    world_random_seeded(a);
    world_io(b)->random(b);
    CHECK_U64(world_io(a)->random(a), world_io(b)->random(b));
    world_destroy(a);
    world_destroy(b);
    world_destroy(c);
}

static void test_files(void)
{
    world *w = world_create(NULL);
    const sdc_io *io = world_io(w);
    sdc_error error;
    char text[8];
    size_t len = 0;
    CHECK_ERR(io->read_file(w, "/t", text, sizeof text, &len, &error), SDC_ERR_IO);
    CHECK_INT(error.os_errno, ENOENT);
    world_file_set(w, "/t", "token\n");
    CHECK_ERR(io->read_file(w, "/t", text, sizeof text, &len, &error), SDC_OK);
    CHECK_MEM(text, len, "token\n", 6);
    world_file_set(w, "/t", "123456789");
    CHECK_ERR(io->read_file(w, "/t", text, sizeof text, &len, &error), SDC_ERR_LIMIT);
    world_file_remove(w, "/t");
    CHECK_ERR(io->read_file(w, "/t", text, sizeof text, &len, &error), SDC_ERR_IO);
    world_destroy(w);
}

static void test_log_is_kept_as_lines(void)
{
    world *w = world_create(NULL);
    CHECK(world_client(w, "10.0.0.1:8500") == NULL);
    CHECK_STR(world_log(w), "INFO client_created address=x\n");
    CHECK_INT(world_log_count(w, "INFO", "client_created"), 1);
    CHECK_INT(world_log_count(w, NULL, "address=x"), 1);
    CHECK_INT(world_log_count(w, "WARN", "client"), 0);
    world_log_clear(w);
    CHECK_STR(world_log(w), "");
    world_destroy(w);
}

/* ---- the network ----------------------------------------------------------------------------- */

/* Greets, echoes, and says in `text` what happened to it. */
typedef struct echo {
    char text[256];
    bool ends;
} echo;

static void echo_note(echo *e, const char *text, size_t len)
{
    size_t have = strlen(e->text);
    size_t room = sizeof e->text - 1 - have;
    memcpy(e->text + have, text, len < room ? len : room);
}

static void echo_on_accept(void *user, world_conn *conn)
{
    echo_note((echo *)user, "A", 1);
    world_conn_send_str(conn, "hello ");
}

static void echo_on_bytes(void *user, world_conn *conn, const char *bytes, size_t len)
{
    echo *e = (echo *)user;
    echo_note(e, bytes, len);
    world_conn_send(conn, bytes, len);
    if (e->ends) {
        world_conn_close(conn);
    }
}

static void echo_on_close(void *user, world_conn *conn)
{
    (void)conn;
    echo_note((echo *)user, "C", 1);
}

static void echo_listen(world *w, echo *e, const char *ip, uint16_t port)
{
    world_server server = { e, echo_on_accept, echo_on_bytes, echo_on_close, NULL };
    memset(e, 0, sizeof *e);
    e->ends = true;
    world_listen(w, ip, port, &server);
}

static void test_net_exchange_in_each_drive(void)
{
    static const world_drive drives[] = {
        WORLD_DRIVE_BLOCK, WORLD_DRIVE_LEVEL, WORLD_DRIVE_EDGE
    };
    for (size_t i = 0; i < 3 * 16; i++) {
        world_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.drive = drives[i % 3];
        desc.read_max = (i / 3) & 1 ? 1 : 0;
        desc.write_max = (i / 3) & 2 ? 1 : 0;
        desc.again_every = (i / 3) & 4 ? 2 : 0;
        desc.early_wait_every = (i / 3) & 4 ? 3 : 0;
        desc.latency_ms = (i / 3) & 8 ? 20 : 0;
        desc.window_bytes = 2;
        test_note("variant %zu", i);
        world *w = world_create(&desc);
        echo e;
        echo_listen(w, &e, "10.0.0.1", 80);
        sdc_task task;
        mini_init(&task, w, "10.0.0.1", 80, "Z");
        CHECK_ERR(world_run_exchange(w, &task, 5000), SDC_OK);
        CHECK_STR(task.answer, "hello Z");
        CHECK_U64(world_now(w) - WORLD_START_MS, desc.latency_ms * 4);
        CHECK_ERR(world_run(w, &task, 500), SDC_AGAIN);
        CHECK_STR(e.text, "AZC");
        CHECK_U64(world_now(w) - WORLD_START_MS, desc.latency_ms * 4 + 500);
        CHECK_ERR(world_run(w, &task, 3000), SDC_OK);
        CHECK_INT(task.num_answers, 4);
        world_destroy(w);
        if (test_num_failures() > 0) {
            return;
        }
    }
}

static void test_net_unix_socket(void)
{
    world *w = world_create(NULL);
    echo e;
    sdc_task task;
    mini_init(&task, w, "/run/x.sock", 0, "Z");
    CHECK_ERR(world_run_exchange(w, &task, 1), SDC_ERR_CONNECT);
    echo_listen(w, &e, "/run/x.sock", 0);
    world_advance(w, 1000);
    CHECK_ERR(world_run_exchange(w, &task, 1), SDC_OK);
    CHECK_STR(task.answer, "hello Z");
    CHECK_INT(world_num_connects(w, "/run/x.sock", 0), 2);
    CHECK_STR(world_conn_ip(world_conn_nth(w, 0)), "/run/x.sock");
    world_destroy(w);
}

static sdc_err run_against(world_mode mode, bool tls, uint64_t ms, uint64_t *took_ms)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.can_tls = tls;
    desc.latency_ms = 5;
    world *w = world_create(&desc);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    world_listen_mode(w, "10.0.0.1", 80, mode);
    world_listen_connect_ms(w, "10.0.0.1", 80, 100);
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 80, "Z");
    task.target.tls = tls;
    sdc_err result = world_run_exchange(w, &task, ms);
    *took_ms = world_now(w) - WORLD_START_MS;
    sdc_stop(&task);
    sdc_step(&task, 0);
    world_destroy(w);
    return result;
}

static void test_net_ways_to_connect(void)
{
    uint64_t took_ms = 0;
    CHECK_ERR(run_against(WORLD_ACCEPTS, false, 5000, &took_ms), SDC_OK);
    CHECK_U64(took_ms, 120);
    CHECK_ERR(run_against(WORLD_ACCEPTS, true, 5000, &took_ms), SDC_OK);
    CHECK_U64(took_ms, 130);
    CHECK_ERR(run_against(WORLD_REFUSES, false, 5000, &took_ms), SDC_ERR_CONNECT);
    CHECK_U64(took_ms, 110);
    CHECK_ERR(run_against(WORLD_UNREACHABLE, false, 5000, &took_ms), SDC_ERR_CONNECT);
    CHECK_ERR(run_against(WORLD_BLACKHOLE, false, 5000, &took_ms), SDC_AGAIN);
    CHECK_U64(took_ms, 5000);
    CHECK_ERR(run_against(WORLD_TLS_FAILS, true, 5000, &took_ms), SDC_ERR_TLS);
}

static void *open_stream(world *w, const char *ip, uint16_t port)
{
    const sdc_io *io = world_io(w);
    sdc_target target = { ip, ip, "", port, false };
    void *stream = NULL;
    sdc_err err = SDC_AGAIN;
    for (int i = 0; i < 4 && err == SDC_AGAIN; i++) {
        sdc_ready until = { -1, false, false, UINT64_MAX };
        sdc_error error;
        err = io->stream_open(w, &target, &stream, &until, &error);
        world_advance(w, 0);
    }
    CHECK_ERR(err, SDC_OK);
    return stream;
}

static sdc_err read_stream(world *w, void *stream, char *text, size_t max)
{
    sdc_ready until = { -1, false, false, UINT64_MAX };
    sdc_error error;
    size_t len = 0;
    sdc_err err = world_io(w)->stream_read(w, stream, text, max - 1, &len, &until, &error);
    text[err == SDC_OK ? len : 0] = '\0';
    return err;
}

static sdc_err write_stream(world *w, void *stream, const char *text, size_t *written)
{
    sdc_ready until = { -1, false, false, UINT64_MAX };
    sdc_error error;
    *written = 0;
    return world_io(w)->stream_write(w, stream, text, strlen(text), written, &until, &error);
}

static void test_net_runs_and_latency(void)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.latency_ms = 10;
    desc.run_bytes = 2;
    desc.run_ms = 5;
    world *w = world_create(&desc);
    world_server nothing;
    memset(&nothing, 0, sizeof nothing);
    world_listen(w, "10.0.0.1", 80, &nothing);
    world_advance(w, 0);
    sdc_target target = { "10.0.0.1", "10.0.0.1", "", 80, false };
    void *stream = NULL;
    sdc_ready until = { -1, false, false, UINT64_MAX };
    sdc_error error;
    CHECK_ERR(world_io(w)->stream_open(w, &target, &stream, &until, &error), SDC_AGAIN);
    CHECK(until.fd >= 0 && until.writable && !until.readable && until.at_ms == UINT64_MAX);
    world_advance(w, 20);
    sdc_ready again = { -1, false, false, UINT64_MAX };
    CHECK_ERR(world_io(w)->stream_open(w, &target, &stream, &again, &error), SDC_OK);
    char text[16];
    world_conn *conn = world_conn_nth(w, 0);
    world_conn_send_str(conn, "abcde");
    world_conn_close(conn);
    world_advance(w, 9);
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_AGAIN);
    world_advance(w, 1);
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_OK);
    CHECK_STR(text, "ab");
    world_advance(w, 10);
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_OK);
    CHECK_STR(text, "cde");
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_OK);
    CHECK_STR(text, "");
    world_io(w)->stream_close(w, stream);
    world_destroy(w);
}

static void test_net_window_hang_and_resets(void)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.window_bytes = 4;
    world *w = world_create(&desc);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    e.ends = false;
    void *stream = open_stream(w, "10.0.0.1", 80);
    world_conn *conn = world_conn_nth(w, 0);
    char text[16];
    size_t n = 0;
    world_conn_hang(conn, true);
    CHECK_ERR(write_stream(w, stream, "123456", &n), SDC_OK);
    CHECK_INT(n, 4);
    world_advance(w, 100);
    CHECK_ERR(write_stream(w, stream, "56", &n), SDC_AGAIN);
    CHECK_STR(e.text, "A");
    world_conn_hang(conn, false);
    CHECK_STR(e.text, "A1234");
    CHECK_ERR(write_stream(w, stream, "56", &n), SDC_OK);
    world_advance(w, 0);
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_OK);
    CHECK_STR(text, "hello 123456");
    CHECK_STR(world_sent(conn, &n), "123456");
    CHECK_INT(n, 6);
    world_conn_send_str(conn, "x");
    world_conn_reset(conn);
    world_advance(w, 0);
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_OK);
    CHECK_STR(text, "x");
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_ERR_IO);
    CHECK_ERR(write_stream(w, stream, "7", &n), SDC_ERR_IO);
    CHECK_INT(world_seen(w)->open_now, 1);
    world_io(w)->stream_close(w, stream);
    CHECK_INT(world_seen(w)->open_now, 0);
    world_destroy(w);
}

static void test_net_write_after_the_servers_end(void)
{
    world *w = world_create(NULL);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    void *stream = open_stream(w, "10.0.0.1", 80);
    char text[16];
    size_t n = 0;
    world_close_all(w, "10.0.0.1", 80);
    CHECK_ERR(write_stream(w, stream, "1", &n), SDC_OK);
    world_advance(w, 0);
    CHECK_STR(e.text, "A");
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_OK);
    CHECK_STR(text, "hello ");
    CHECK_ERR(read_stream(w, stream, text, sizeof text), SDC_ERR_IO);
    world_io(w)->stream_close(w, stream);
    world_destroy(w);
}

static void test_net_descriptors_are_used_again(void)
{
    world *w = world_create(NULL);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    void *a = open_stream(w, "10.0.0.1", 80);
    void *b = open_stream(w, "10.0.0.1", 80);
    int fd = world_conn_fd(world_conn_nth(w, 0));
    CHECK(fd != world_conn_fd(world_conn_nth(w, 1)));
    world_io(w)->stream_close(w, a);
    void *c = open_stream(w, "10.0.0.1", 80);
    CHECK_INT(world_conn_fd(world_conn_nth(w, 2)), fd);
    CHECK_INT(world_seen(w)->open_max, 2);
    world_io(w)->stream_close(w, b);
    world_io(w)->stream_close(w, c);
    world_destroy(w);
}

static void test_net_planned_faults(void)
{
    world *w = world_create(NULL);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 80, "Z");
    task.pause_ms = 0;
    world_fail(w, WORLD_OPEN, 2, false, SDC_OK, EMFILE);
    CHECK_ERR(world_run_exchange(w, &task, 1), SDC_OK);
    CHECK(!world_fail_happened(w, WORLD_OPEN));
    CHECK_ERR(world_run_exchange(w, &task, 1), SDC_ERR_CONNECT);
    CHECK(world_fail_happened(w, WORLD_OPEN));
    world_fail(w, WORLD_ANY_OP, 2, false, SDC_ERR_TIMEOUT, 0);
    CHECK_ERR(world_run_exchange(w, &task, 1), SDC_OK);
    CHECK(world_fail_happened(w, WORLD_ANY_OP));
    CHECK_U64(world_num_calls(w, WORLD_OPEN), 3);
    world_destroy(w);
}

/* ---- the resolver ---------------------------------------------------------------------------- */

static void on_wake_count(void *user, sdc_task *task)
{
    (void)task;
    ++*(unsigned *)user;
}

static void test_resolver_kinds(void)
{
    world *w = world_create(NULL);
    const sdc_io *io = world_io(w);
    world_resolve_to(w, "agent", "10.0.0.1,::1", 50);
    world_resolve_fails(w, "bad", "SERVFAIL", 0);
    sdc_task task;
    unsigned wakes = 0;
    mini_init(&task, w, "10.0.0.1", 80, "");
    sdc_task_on_wake(&task, on_wake_count, &wakes);
    for (int kind = WORLD_RESOLVER_TIMER; kind <= WORLD_RESOLVER_FD; kind++) {
        world_resolver_is(w, (world_resolver)kind);
        void *op = NULL;
        sdc_ip ips[4];
        size_t num = 0;
        sdc_error error;
        sdc_ready until = { -1, false, false, UINT64_MAX };
        CHECK_ERR(io->resolve(w, &task, "agent", false, &op, ips, 4, &num, &until, &error),
                  SDC_AGAIN);
        CHECK_INT(until.at_ms == UINT64_MAX, kind != WORLD_RESOLVER_TIMER);
        CHECK_INT(until.fd >= 0, kind == WORLD_RESOLVER_FD);
        wakes = 0;
        world_advance(w, 50);
        CHECK_INT(wakes, kind == WORLD_RESOLVER_WAKE ? 1 : 0);
        sdc_ready again = { -1, false, false, UINT64_MAX };
        CHECK_ERR(io->resolve(w, &task, "agent", false, &op, ips, 4, &num, &again, &error), SDC_OK);
        CHECK_INT(num, 2);
        CHECK_STR(ips[1].text, "::1");
        io->resolve_end(w, op);
        void *op2 = NULL;
        sdc_ready until2 = { -1, false, false, UINT64_MAX };
        CHECK_ERR(io->resolve(w, &task, "bad", false, &op2, ips, 4, &num, &until2, &error),
                  SDC_ERR_RESOLVE);
        CHECK_STR(error.message, "SERVFAIL");
        CHECK(op2 == NULL);
    }
    world_destroy(w);
}

static void test_resolver_that_blocks(void)
{
    world *w = world_create(NULL);
    const sdc_io *io = world_io(w);
    world_resolver_is(w, WORLD_RESOLVER_BLOCKS);
    world_resolve_to(w, "agent", "10.0.0.1", 50);
    void *op = NULL;
    sdc_ip ips[4];
    size_t num = 0;
    sdc_error error;
    sdc_ready until = { -1, false, false, UINT64_MAX };
    CHECK_ERR(io->resolve(w, NULL, "agent", false, &op, ips, 4, &num, &until, &error),
              SDC_ERR_RESOLVE);
    CHECK_ERR(io->resolve(w, NULL, "agent", true, &op, ips, 4, &num, &until, &error), SDC_OK);
    CHECK_U64(world_now(w), WORLD_START_MS + 50);
    CHECK(op == NULL);
    world_destroy(w);
}

/* ---- breaches of the contract are noticed ---------------------------------------------------- */

static void test_breach_of_stream_calls(void)
{
    world *w = world_create(NULL);
    const sdc_io *io = world_io(w);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    void *stream = open_stream(w, "10.0.0.1", 80);
    char text[16];
    size_t n = 0;
    sdc_error error;
    sdc_ready bad = { -1, true, false, UINT64_MAX };
    sdc_ready good = { -1, false, false, UINT64_MAX };
    unsigned seen[16];
    unsigned num = 0;
    test_expect_failures();
    io->stream_read(w, stream, text, 4, &n, &bad, &error);
    seen[num++] = world_seen(w)->breaches;
    sdc_target target = { "10.0.0.1", "10.0.0.1", "", 80, false };
    io->stream_open(w, &target, &stream, &good, &error);
    seen[num++] = world_seen(w)->breaches;
    sdc_target other = { "10.0.0.1", "name", "", 80, false };
    void *stream2 = NULL;
    io->stream_open(w, &other, &stream2, &good, &error);
    seen[num++] = world_seen(w)->breaches;
    other.ip = "10.0.0.2";
    sdc_ready good2 = { -1, false, false, UINT64_MAX };
    io->stream_open(w, &other, &stream2, &good2, &error);
    seen[num++] = world_seen(w)->breaches;
    sdc_wants wants = { world_conn_fd(world_conn_nth(w, 0)), 1, false, true, 0, UINT64_MAX };
    io->wait(w, NULL, &wants, &error);
    seen[num++] = world_seen(w)->breaches;
    io->stream_close(w, stream);
    io->stream_close(w, stream);
    seen[num++] = world_seen(w)->breaches;
    read_stream(w, stream, text, sizeof text);
    seen[num++] = world_seen(w)->breaches;
    world_destroy(w);                                   /* stream2 is still open */
    CHECK_INT(test_expected_failures(), 8);
    for (unsigned i = 0; i < num; i++) {
        CHECK_INT(seen[i], i + 1);
    }
}

static void test_breach_of_writes_ends_and_waits(void)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.window_bytes = 1;
    world *w = world_create(&desc);
    const sdc_io *io = world_io(w);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    void *stream = open_stream(w, "10.0.0.1", 80);
    char text[16];
    size_t n = 0;
    sdc_error error;
    write_stream(w, stream, "ab", &n);
    CHECK_ERR(write_stream(w, stream, "bc", &n), SDC_AGAIN);
    unsigned seen[16];
    unsigned num = 0;
    test_expect_failures();
    write_stream(w, stream, "bx", &n);
    seen[num++] = world_seen(w)->breaches;
    world_close_all(w, "10.0.0.1", 80);
    world_advance(w, 0);
    while (read_stream(w, stream, text, sizeof text) == SDC_OK && text[0] != '\0') {
    }
    read_stream(w, stream, text, sizeof text);
    seen[num++] = world_seen(w)->breaches;
    io->stream_close(w, stream);
    world_advance(w, 0);
    sdc_wants wants = { -1, 0, false, false, -1, UINT64_MAX };
    io->wait(w, NULL, &wants, &error);
    seen[num++] = world_seen(w)->breaches;
    void *op = NULL;
    sdc_ip ip;
    sdc_ready until = { -1, false, false, UINT64_MAX };
    io->resolve(w, NULL, "::1", false, &op, &ip, 1, &n, &until, &error);
    seen[num++] = world_seen(w)->breaches;
    io->resolve_end(w, &ip);
    seen[num++] = world_seen(w)->breaches;
    wants.timeout_ms = 0;
    for (int i = 0; i < WORLD_SPIN_MAX + 10; i++) {
        io->wait(w, NULL, &wants, &error);
    }
    seen[num++] = world_seen(w)->breaches;
    world_destroy(w);
    CHECK_INT(test_expected_failures(), 6);
    for (unsigned i = 0; i < num; i++) {
        CHECK_INT(seen[i], i + 1);
    }
}

static unsigned run_faulty(mini_fault fault, world_drive drive)
{
    world_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.drive = drive;
    world *w = world_create(&desc);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 80, "Z");
    task.fault = fault;
    test_expect_failures();
    world_run(w, &task, 2000);
    unsigned breaches = world_seen(w)->breaches;
    task.fault = MINI_FINE;
    sdc_stop(&task);
    sdc_step(&task, 0);
    world_destroy(w);
    test_expected_failures();
    return breaches;
}

static void test_breach_of_wants(void)
{
    CHECK_INT(run_faulty(MINI_FINE, WORLD_DRIVE_LEVEL), 0);
    CHECK(run_faulty(MINI_SILENT, WORLD_DRIVE_LEVEL) > 0);
    CHECK(run_faulty(MINI_LATE, WORLD_DRIVE_LEVEL) > 0);
    CHECK(run_faulty(MINI_SPINS, WORLD_DRIVE_LEVEL) > 0);
}

/* ---- wakers and the loop --------------------------------------------------------------------- */

typedef struct waking {
    world *w;
    void  *waker;
} waking;

static void on_wake_it(void *user)
{
    waking *it = (waking *)user;
    world_io(it->w)->waker_wake(it->w, it->waker);
}

static void test_waker_ends_a_wait(void)
{
    waking it = { world_create(NULL), NULL };
    const sdc_io *io = world_io(it.w);
    sdc_error error;
    CHECK_ERR(io->waker_create(it.w, &it.waker, &error), SDC_OK);
    sdc_wants wants = { -1, 0, false, false, 1000, UINT64_MAX };
    world_after(it.w, 300, on_wake_it, &it);
    CHECK_ERR(io->wait(it.w, it.waker, &wants, &error), SDC_OK);
    CHECK_U64(world_now(it.w), WORLD_START_MS + 300);
    CHECK_ERR(io->wait(it.w, it.waker, &wants, &error), SDC_OK);
    CHECK_U64(world_now(it.w), WORLD_START_MS + 1300);
    on_wake_it(&it);
    CHECK_ERR(io->wait(it.w, it.waker, &wants, &error), SDC_OK);
    CHECK_U64(world_now(it.w), WORLD_START_MS + 1300);
    CHECK_INT(world_last_wait(it.w).timeout_ms, 1000);
    io->waker_destroy(it.w, it.waker);
    world_destroy(it.w);
}

static void on_stop_it(void *user)
{
    sdc_stop((sdc_task *)user);
}

static void test_loop_many_tasks_wake_and_stop(void)
{
    world *w = world_create(NULL);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    sdc_task a;
    sdc_task b;
    mini_init(&a, w, "10.0.0.1", 80, "Z");
    mini_init(&b, w, "10.0.0.1", 80, "Z");
    b.pause_ms = 100;
    sdc_task *tasks[] = { &a, NULL, &b };
    world_after(w, 950, on_stop_it, &b);
    size_t steps = world_loop(w, tasks, 3, WORLD_START_MS + 5500);
    CHECK_U64(world_now(w), WORLD_START_MS + 5500);
    CHECK_INT(a.num_answers, 6);
    CHECK_INT(b.num_answers, 10);
    CHECK_BETWEEN(steps, 20, 80);
    CHECK(a.on_wants == NULL && a.on_wake == NULL);
    CHECK_INT(world_seen(w)->open_now, 0);
    world_destroy(w);
}

/* An adapter that asks after each step sees the same number before and after, and by the serial
   alone that it is another descriptor, which has to be registered anew. */
static void test_loop_needs_serials(void)
{
    for (int i = 0; i < 2; i++) {
        world *w = world_create(NULL);
        echo e;
        echo_listen(w, &e, "10.0.0.1", 80);
        sdc_task task;
        mini_init(&task, w, "10.0.0.1", 80, "Z");
        task.is_quick = true;
        task.pause_ms = 0;
        task.fault = i == 0 ? MINI_FINE : MINI_SAME_SERIAL;
        world_desc slow;
        memset(&slow, 0, sizeof slow);
        slow.latency_ms = 1;
        world_set(w, &slow);
        world_loop_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.is_edge = true;
        sdc_task *tasks[] = { &task };
        world_loop_with(w, tasks, 1, WORLD_START_MS + 100, &desc);
        if (i == 0) {
            CHECK_INT(task.num_answers, 25);
        } else {
            CHECK_INT(task.num_answers, 1);
        }
        sdc_stop(&task);
        sdc_step(&task, 0);
        world_destroy(w);
    }
}

static void test_poll_for_own_loops(void)
{
    world *w = world_create(NULL);
    echo e;
    echo_listen(w, &e, "10.0.0.1", 80);
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 80, "Z");
    sdc_err err = SDC_AGAIN;
    for (int i = 0; i < 10 && err == SDC_AGAIN; i++) {
        sdc_wants wants = sdc_task_wants(&task);
        CHECK(world_poll(w, &wants));
        err = sdc_step(&task, 0);
    }
    CHECK_ERR(err, SDC_OK);
    sdc_wants wants = sdc_task_wants(&task);
    CHECK(!world_poll(w, &wants));
    world_advance(w, 1000);
    CHECK(world_poll(w, &wants));
    world_destroy(w);
}

/* ---- the script ------------------------------------------------------------------------------ */

static void test_script_requests_are_parsed(void)
{
    world *w = world_create(NULL);
    script *s = script_create(w, "10.0.0.1", 8500);
    script_reply(s, 200, "X-A: b\r\n", "body");
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 8500,
              "PUT /v1/a%20b/c?index=12&tag=a%26b&tag=c+d&passing HTTP/1.1\r\nHost: h:1\r\n"
              "x-consul-token: secret\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxyz");
    CHECK_ERR(world_run_exchange(w, &task, 100), SDC_OK);
    CHECK_STR(task.answer, "HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\n"
                           "Content-Length: 4\r\n\r\nbody");
    const script_request *r = script_nth(s, 0);
    REQUIRE(r != NULL);
    CHECK_STR(r->method, "PUT");
    CHECK_STR(r->path, "/v1/a b/c");
    CHECK_STR(r->raw_path, "/v1/a%20b/c");
    CHECK_STR(r->raw_query, "index=12&tag=a%26b&tag=c+d&passing");
    CHECK_STR(script_query(r, "index"), "12");
    CHECK_STR(script_query(r, "tag"), "a&b");
    CHECK_STR(script_query_nth(r, "tag", 1), "c d");
    CHECK_STR(script_query(r, "passing"), "");
    CHECK_STR(script_query(r, "none"), NULL);
    CHECK_STR(script_header(r, "X-Consul-Token"), "secret");
    CHECK_STR(r->body, "xyz");
    CHECK_U64(r->at_ms, WORLD_START_MS);
    CHECK_INT(script_num_requests(s), 1);
    CHECK_INT(script_count(s, "PUT /v1/a b"), 1);
    CHECK_INT(script_count(s, "GET"), 0);
    CHECK(script_last(s) == r && script_nth(s, 1) == NULL);
    world_destroy(w);
}

static void check_bad(const char *request, unsigned want)
{
    test_note("%s", request);
    world *w = world_create(NULL);
    script *s = script_create(w, "10.0.0.1", 8500);
    script_ok(s);
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 8500, request);
    test_expect_failures();
    world_run_exchange(w, &task, 100);
    unsigned num = test_expected_failures();
    CHECK_INT(num, want);
    CHECK_INT(script_num_requests(s) > 0, 1);
    sdc_stop(&task);
    sdc_step(&task, 0);
    world_destroy(w);
}

static void test_script_notices_bad_requests(void)
{
    check_bad("GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 0);
    check_bad("GET /x HTTP/1.1\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x HTTP/1.0\r\nHost: h\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x\"y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x%2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x?token=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x HTTP/1.1\r\nHost: h\r\nBad header: x\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nA: b\nC: d\r\n\r\n", 2);
    check_bad("PUT /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1);
    check_bad("GET /x HTTP/1.1\r\nHost: h\r\n\r\nGET /y HTTP/1.1\r\nHost: h\r\n"
              "Connection: close\r\n\r\n", 1);
}

static void test_script_steps_in_order(void)
{
    world *w = world_create(NULL);
    script *s = script_create(w, "10.0.0.1", 8500);
    script_delay(s, 300);
    script_reply(s, 200, NULL, "one");
    script_times(s, 2);
    script_error(s, 500, "No cluster leader");
    script_close(s);
    script_reset(s);
    script_chunked(s, 2);
    script_reply(s, 200, NULL, "abcde");
    script_until_close(s);
    script_reply(s, 200, NULL, "fghij");
    script_raw(s, "HTTP/1.0 200 OK\r\n\r\nraw");
    script_then_close(s);
    script_raw(s, "HTTP/1.0 200 OK\r\n\r\nraw");
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 8500, get_x);
    task.pause_ms = 0;
    CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_OK);
    CHECK_STR(mini_body(&task), "one");
    CHECK_U64(world_now(w), WORLD_START_MS + 300);
    CHECK_U64(script_nth(s, 0)->answered_ms, WORLD_START_MS + 300);
    for (int i = 0; i < 2; i++) {
        CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_OK);
        CHECK_HAS(task.answer, "HTTP/1.1 500 Internal Server Error\r\n");
        CHECK_STR(mini_body(&task), "No cluster leader");
    }
    CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_OK);
    CHECK_INT(task.answer_len, 0);
    CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_ERR_IO);
    CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_OK);
    CHECK_STR(mini_body(&task), "2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n");
    CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_OK);
    CHECK_STR(mini_body(&task), "fghij");
    CHECK_HASNT(task.answer, "Content-Length");
    CHECK_ERR(world_run_exchange(w, &task, 1000), SDC_AGAIN);       /* keeps the connection */
    CHECK_INT(task.answer_len, 22);
    sdc_stop(&task);
    sdc_step(&task, 0);
    world_destroy(w);
}

static const char get_index[] = "GET /x?index=5&wait=2s HTTP/1.1\r\nHost: h\r\n"
                                "Connection: close\r\n\r\n";

static void on_change(void *user)
{
    script_change((script *)user, 6, "[6]");
}

static void test_script_hold_and_change(void)
{
    world *w = world_create(NULL);
    script *s = script_create(w, "10.0.0.1", 8500);
    script_health(s, 5, "[]");
    script_hold(s);
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 8500, get_index);
    task.pause_ms = 0;
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_U64(world_now(w), WORLD_START_MS);
    CHECK_HAS(task.answer, "X-Consul-Index: 5\r\n");
    CHECK_HAS(task.answer, "X-Consul-Knownleader: true\r\n");
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_U64(world_now(w), WORLD_START_MS + 2000);
    CHECK_STR(mini_body(&task), "[]");
    world_after(w, 700, on_change, s);
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_U64(world_now(w), WORLD_START_MS + 2700);
    CHECK_STR(mini_body(&task), "[6]");
    CHECK_INT(script_num_held(s), 0);
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);         /* its index is older */
    CHECK_U64(world_now(w), WORLD_START_MS + 2700);
    world_destroy(w);
}

static void answer_by_path(void *user, script_request *r)
{
    (void)user;
    if (strcmp(r->path, "/x") == 0) {
        script_answer_later(r, 40, 429, "X: y\r\n", "later");
    }
}

static void test_script_routes_calls_and_greetings(void)
{
    world *w = world_create(NULL);
    script *s = script_create(w, "10.0.0.1", 8500);
    script_on(s, "PUT /v1/agent/");
    script_ok(s);
    script_on(s, "GET /x");
    script_call(s, answer_by_path, NULL);
    script_on(s, NULL);
    script_reply(s, 200, NULL, "other");
    sdc_task task;
    mini_init(&task, w, "10.0.0.1", 8500, get_x);
    task.pause_ms = 0;
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_HAS(task.answer, "HTTP/1.1 429 Too Many Requests\r\nX: y\r\n");
    CHECK_U64(world_now(w), WORLD_START_MS + 40);
    task.request = "GET /y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_STR(mini_body(&task), "other");
    script_greet(s, 1, "HTTP/1.1 429 Too Many Requests\r\n\r\nfull", SCRIPT_CLOSES);
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_STR(mini_body(&task), "full");
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_INT(script_num_requests(s), 3);
    script_set_down(s, true);
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_ERR_CONNECT);
    script_set_down(s, false);
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    script_clear(s);
    test_expect_failures();
    CHECK_ERR(world_run_exchange(w, &task, 10000), SDC_OK);
    CHECK_INT(test_expected_failures(), 1);
    world_destroy(w);
}

static void test_script_entries(void)
{
    world *w = world_create(NULL);
    script *s = script_create(w, "10.0.0.1", 8500);
    const char *list = SCRIPT_LIST(s, { .id = "a" }, {
        .node = "n\"2", .id = "b", .address = "10.1.0.2", .port = 81, .tags = "x,y<",
        .meta = "\"v\":\"1\"", .status = "warning", .node_status = "none",
        .weight_passing = 3, .service_members = "\"SocketPath\":\"/s\"" });
    CHECK_HAS(list, "[{\"Node\":{\"ID\":");
    CHECK_HAS(list, "\"Address\":\"\",\"Meta\":null,\"Weights\":{\"Passing\":1,\"Warning\":1}");
    CHECK_HAS(list, "\"Checks\":[{\"Node\":\"node-1\",\"CheckID\":\"serfHealth\"");
    CHECK_HAS(list, "},{\"Node\":\"node-1\",\"CheckID\":\"service:a\"");
    CHECK_HAS(list, "\"Node\":\"n\\\"2\"");
    CHECK_HAS(list, "\"Tags\":[\"x\",\"y\\u003c\"],\"Address\":\"10.1.0.2\"");
    CHECK_HAS(list, "\"Meta\":{\"v\":\"1\"},\"Port\":81,\"Weights\":{\"Passing\":3,\"Warning\":0}");
    CHECK_HAS(list, "\"SocketPath\":\"/s\"");
    CHECK_HAS(list, "\"Checks\":[{\"Node\":\"n\\\"2\",\"CheckID\":\"service:b\"");
    CHECK_HAS(list, "\"Status\":\"warning\"");
    CHECK_HAS(script_many(s, 300, 2), "\"ID\":\"web-301\"");
    CHECK_HAS(script_many(s, 300, 2), "\"Address\":\"10.0.1.45\"");
    world_destroy(w);
}

static const test_case cases_self[] = {
    TEST(test_harness_checks_count_and_go_on),
    TEST(test_harness_checks_that_hold),
    TEST(test_alloc_counts_and_fails_on_demand),
    TEST(test_alloc_notices_misuse),
    TEST(test_clock_moves_on_demand_alone),
    TEST(test_random_is_seeded),
    TEST(test_files),
    TEST(test_log_is_kept_as_lines),
    TEST(test_net_exchange_in_each_drive),
    TEST(test_net_unix_socket),
    TEST(test_net_ways_to_connect),
    TEST(test_net_runs_and_latency),
    TEST(test_net_window_hang_and_resets),
    TEST(test_net_write_after_the_servers_end),
    TEST(test_net_descriptors_are_used_again),
    TEST(test_net_planned_faults),
    TEST(test_resolver_kinds),
    TEST(test_resolver_that_blocks),
    TEST(test_breach_of_stream_calls),
    TEST(test_breach_of_writes_ends_and_waits),
    TEST(test_breach_of_wants),
    TEST(test_waker_ends_a_wait),
    TEST(test_loop_many_tasks_wake_and_stop),
    TEST(test_loop_needs_serials),
    TEST(test_poll_for_own_loops),
    TEST(test_script_requests_are_parsed),
    TEST(test_script_notices_bad_requests),
    TEST(test_script_steps_in_order),
    TEST(test_script_hold_and_change),
    TEST(test_script_routes_calls_and_greetings),
    TEST(test_script_entries)
};

/* Its own main: these tests say themselves under which conditions they run. */
int main(int argc, char **argv)
{
    static const char *const names[] = {
        "WORLD_DRIVE", "WORLD_READ_MAX", "WORLD_WRITE_MAX", "WORLD_AGAIN_EVERY"
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unsetenv(names[i]);
    }
    static const test_group groups[] = { GROUP(cases_self) };
    return test_main(argc, argv, groups, 1);
}
