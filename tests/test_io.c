/* Tests of [sdc:io]: the POSIX table on real sockets of this machine, with real signals, threads
   and limits. Everything binds to port 0 or a path of its own; nothing leaves the machine. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"

#include "agent/server.h"
#include "support/rig.h"
#include "support/script.h"
#include "support/test.h"
#include "support/world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    IO_FDS = 512,                   /* descriptors that are looked at                        */
    IO_SOON_MS = 2000               /* what takes milliseconds, on a machine that is busy    */
};

/* ---- time, descriptors, threads -------------------------------------------------------------- */

static uint64_t io_now(void)
{
    return agent_server_now();
}

static void io_pause(uint32_t us)
{
    struct timespec t;
    t.tv_sec = us / 1000000;
    t.tv_nsec = (long)(us % 1000000) * 1000;
    nanosleep(&t, NULL);
}

typedef struct io_fds {
    bool   is_open[IO_FDS];
    size_t num;
} io_fds;

static io_fds io_look(void)
{
    io_fds fds;
    memset(&fds, 0, sizeof fds);
    for (int i = 0; i < IO_FDS; i++) {
        fds.is_open[i] = fcntl(i, F_GETFD) >= 0;
        fds.num += fds.is_open[i] ? 1 : 0;
    }
    return fds;
}

/* Threads of the tests leave signals to the one that steps. */
static pthread_t io_thread(void *(*run)(void *user), void *user)
{
    pthread_t thread;
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    if (pthread_create(&thread, NULL, run, user) != 0) {
        abort();
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return thread;
}

/* ---- an agent behind a real socket ----------------------------------------------------------- */

typedef struct io_bed {
    agent         *a;
    agent_server  *server;
    sdc_client    *client;
    sdc_instancer *instancer;
    sdc_task      *task;
    uint16_t       port;
    char           dir[64], path[96];
    char           address[128];
} io_bed;

/* `where` as agent_server_start takes it; "unix" is a path of its own. */
static bool io_bed_listen(io_bed *bed, const char *where)
{
    agent_desc desc;
    sigset_t all;
    sigset_t old;
    memset(bed, 0, sizeof *bed);
    memset(&desc, 0, sizeof desc);
    desc.profile = AGENT_1_22;
    bed->a = agent_create(&desc, agent_server_now());
    if (strcmp(where, "unix") == 0) {
        snprintf(bed->dir, sizeof bed->dir, "/tmp/sdconsul-test-XXXXXX");
        if (mkdtemp(bed->dir) == NULL) {
            return false;
        }
        snprintf(bed->path, sizeof bed->path, "%s/socket", bed->dir);
        where = bed->path;
        snprintf(bed->address, sizeof bed->address, "unix://%s", bed->path);
    }
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    bed->server = agent_server_start(bed->a, where, &bed->port);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (bed->server != NULL && bed->path[0] == '\0') {
        snprintf(bed->address, sizeof bed->address, strcmp(where, "::1") == 0 ? "[%s]:%u" : "%s:%u",
                 where, (unsigned)bed->port);
    }
    return bed->server != NULL;
}

static bool io_bed_client(io_bed *bed, const sdc_io *io)
{
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = bed->address;
    desc.ignore_environment = true;
    desc.io = io;
    return CHECK_ERR(sdc_client_create(&desc, &bed->client, NULL), SDC_OK);
}

static bool io_bed_watch(io_bed *bed, uint32_t wait_ms)
{
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "web";
    desc.query.wait_ms = wait_ms;
    bool ok = CHECK_ERR(sdc_instancer_create(bed->client, &desc, &bed->instancer, NULL), SDC_OK);
    bed->task = ok ? sdc_instancer_task(bed->instancer) : NULL;
    return ok;
}

static bool io_bed_init(io_bed *bed, uint32_t wait_ms)
{
    return CHECK(io_bed_listen(bed, "127.0.0.1")) && io_bed_client(bed, NULL) &&
           io_bed_watch(bed, wait_ms);
}

static void io_bed_deinit(io_bed *bed)
{
    sdc_instancer_destroy(bed->instancer);
    sdc_client_destroy(bed->client);
    agent_server_stop(bed->server);
    agent_destroy(bed->a);
    if (bed->dir[0] != '\0') {
        unlink(bed->path);
        rmdir(bed->dir);
    }
}

static sdc_err io_register(io_bed *bed, const char *id, sdc_error *error)
{
    sdc_registration registration;
    memset(&registration, 0, sizeof registration);
    registration.id = id;
    registration.name = "web";
    registration.address = "10.9.0.1";
    registration.port = 8000;
    return sdc_client_register(bed->client, &registration, error);
}

static size_t io_num_instances(io_bed *bed)
{
    const sdc_event *event = sdc_instancer_state(bed->instancer);
    size_t num = event->num_instances;
    sdc_event_release(event);
    return num;
}

/* A whole life: registered, found, a change seen, gone, stopped. */
static void io_live(const char *where, const char *name)
{
    io_bed bed;
    sdc_error error;
    test_note("%s", where);
    if (!io_bed_listen(&bed, where)) {
        agent_destroy(bed.a);
        if (strcmp(where, "::1") == 0) {
            test_skip("no ::1 here");
        } else {
            FAIL("cannot listen: errno %d", errno);
        }
        return;
    }
    if (name != NULL) {
        snprintf(bed.address, sizeof bed.address, "%s:%u", name, (unsigned)bed.port);
    }
    REQUIRE(io_bed_client(&bed, NULL) && io_bed_watch(&bed, 0));
    CHECK_ERR(io_register(&bed, "web-1", &error), SDC_OK);
    CHECK_STR(error.message, "");
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 1, IO_SOON_MS, &error), SDC_OK);
    CHECK_STR(error.message, "");
    CHECK_ERR(sdc_step(bed.task, 20), SDC_AGAIN);       /* the next query blocks */
    agent_server_lock(bed.server);
    CHECK(agent_kill_service(bed.a, "web-1", agent_server_now()));
    agent_server_unlock(bed.server);
    uint64_t from_ms = io_now();
    while (io_num_instances(&bed) > 0 && io_now() - from_ms < IO_SOON_MS) {
        sdc_step(bed.task, 100);
    }
    CHECK_INT(io_num_instances(&bed), 0);
    sdc_stop(bed.task);
    CHECK_ERR(sdc_step(bed.task, -1), SDC_STOPPED);
    io_bed_deinit(&bed);
}

static void test_io_ipv4(void)
{
    io_live("127.0.0.1", NULL);
}

static void test_io_localhost_needs_no_resolver(void)
{
    io_live("127.0.0.1", "localhost");
}

static void test_io_localhost_of_ipv6(void)
{
    io_live("::1", "localhost");
}

static void test_55_unix_socket_of_the_system(void)
{
    io_live("unix", NULL);
}

static void test_56_ipv6_of_the_system(void)
{
    io_live("::1", NULL);
}

/* ---- a peer of the test's own ---------------------------------------------------------------- */

/* The same at a path. */
static int io_listen_at(const char *path)
{
    struct sockaddr_un at;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    if (fd < 0 || bind(fd, (const struct sockaddr *)(const void *)&at, sizeof at) != 0 ||
        listen(fd, 16) != 0) {
        abort();
    }
    return fd;
}

/* Accepts one connection and treats it in one way. */
typedef struct io_peer {
    int       listener;
    uint16_t  port;
    pthread_t thread;
    size_t    take_max;             /* resets the connection when it has taken so much; 0 never */
    size_t    take_at_once;
    script_text got;
} io_peer;

static size_t io_whole_request(const script_text *got)
{
    static const char name[] = "Content-Length: ";
    const char *end = got->len > 0 ? strstr(got->text, "\r\n\r\n") : NULL;
    const char *at = end != NULL ? strstr(got->text, name) : NULL;
    if (end == NULL) {
        return SIZE_MAX;
    }
    return (size_t)(end - got->text) + 4 +
           (at != NULL && at < end ? (size_t)strtoull(at + sizeof name - 1, NULL, 10) : 0);
}

static void io_serve(io_peer *peer, int fd)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    static char bytes[65536];
    for (;;) {
        size_t most = peer->take_at_once < sizeof bytes ? peer->take_at_once : sizeof bytes;
        ssize_t n = recv(fd, bytes, most, 0);
        if (n <= 0) {
            return;
        }
        script_add(&peer->got, bytes, (size_t)n);
        if (peer->take_max != 0 && peer->got.len >= peer->take_max) {
            struct linger now = { 1, 0 };
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            return;
        }
        if (peer->got.len >= io_whole_request(&peer->got)) {
            ssize_t put = send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
            (void)put;
            return;
        }
    }
}

static void *io_peer_run(void *user)
{
    io_peer *peer = (io_peer *)user;
    int fd = accept(peer->listener, NULL, NULL);
    if (fd >= 0) {
        io_serve(peer, fd);
        close(fd);
    }
    return NULL;
}

static void io_peer_start(io_peer *peer, size_t take_at_once, size_t take_max)
{
    memset(peer, 0, sizeof *peer);
    peer->listener = test_listen(&peer->port);
    peer->take_at_once = take_at_once;
    peer->take_max = take_max;
    peer->thread = io_thread(io_peer_run, peer);
}

static void io_peer_end(io_peer *peer)
{
    pthread_join(peer->thread, NULL);
    close(peer->listener);
    script_text_deinit(&peer->got);
}

static sdc_client *io_client_of(uint16_t port, const sdc_io *io)
{
    char address[32];
    sdc_client *client = NULL;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    desc.address = address;
    desc.ignore_environment = true;
    desc.io = io;
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    return client;
}

/* A registration whose body has about two million bytes. */
typedef struct io_large {
    sdc_registration registration;
    const char      *tags[1000];
    char             text[1000][2048];
} io_large;

static io_large *io_large_create(void)
{
    io_large *large = (io_large *)calloc(1, sizeof *large);
    if (large == NULL) {
        abort();
    }
    for (size_t i = 0; i < 1000; i++) {
        snprintf(large->text[i], sizeof large->text[i], "%04zu", i);
        memset(large->text[i] + 4, 'a' + (int)(i % 26), 2000);
        large->tags[i] = large->text[i];
    }
    large->registration.id = "web-1";
    large->registration.name = "web";
    large->registration.tags = large->tags;
    large->registration.num_tags = 1000;
    return large;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static io_fds io_before;
static unsigned io_num_waits;

/* In front of POSIX's wait: what is open while a step blocks. */
static sdc_err io_wait_and_look(void *user, void *waker, const sdc_wants *wants, sdc_error *error)
{
    io_fds now = io_look();
    for (int i = 0; i < IO_FDS; i++) {
        if (now.is_open[i] && !io_before.is_open[i]) {
            CHECK((fcntl(i, F_GETFD) & FD_CLOEXEC) != 0);
            CHECK((fcntl(i, F_GETFL) & O_NONBLOCK) != 0);
        }
    }
    /* the connection and the waker: an eventfd, or the two ends of a pipe */
    CHECK(now.num == io_before.num + 1 + 1 || now.num == io_before.num + 1 + 2);
    io_num_waits++;
    return sdc_io_posix()->wait(user, waker, wants, error);
}

static void test_io_descriptors_are_few_and_end_with_exec(void)
{
    uint16_t port = 0;
    int listener = test_listen(&port);
    sdc_io io = *sdc_io_posix();
    io.wait = io_wait_and_look;
    io_before = io_look();
    io_num_waits = 0;
    sdc_client *client = io_client_of(port, &io);
    sdc_instancer *instancer = rig_watch_of(client);
    sdc_task *task = sdc_instancer_task(instancer);
    CHECK_INT(io_look().num, io_before.num);        /* nothing before the first step */
    CHECK_ERR(sdc_step(task, 20), SDC_AGAIN);
    CHECK(io_num_waits >= 1);
    CHECK_INT(io_look().num, io_before.num + 1);    /* the connection, between steps */
    CHECK_ERR(sdc_step(task, 0), SDC_AGAIN);
    CHECK_INT(io_look().num, io_before.num + 1);
    sdc_stop(task);
    CHECK_ERR(sdc_step(task, 0), SDC_STOPPED);
    CHECK_INT(io_look().num, io_before.num);
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
    close(listener);
}

static void test_23_destroy_closes_the_descriptor(void)
{
    uint16_t port = 0;
    int listener = test_listen(&port);
    io_fds before = io_look();
    sdc_client *client = io_client_of(port, NULL);
    sdc_instancer *instancer = rig_watch_of(client);
    CHECK_ERR(sdc_step(sdc_instancer_task(instancer), 20), SDC_AGAIN);
    CHECK_INT(io_look().num, before.num + 1);
    uint64_t from_ms = io_now();
    sdc_instancer_destroy(instancer);
    CHECK(io_now() - from_ms < IO_SOON_MS);
    CHECK_INT(io_look().num, before.num);
    sdc_client_destroy(client);
    close(listener);
}

/* Runs in a child of its own, which may do with its limits what it likes. */
static bool io_in_child(void (*run)(void *user), void *user)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        run(user);
        fflush(NULL);
        _exit(test_num_failures() == 0 ? 0 : 1);
    }
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        continue;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Leaves so many descriptors. */
static void io_limit(unsigned left)
{
    struct rlimit limit;
    int last = -1;
    for (unsigned i = 0; i <= left; i++) {
        last = dup(0);
    }
    for (int fd = last; fd >= last - (int)left; fd--) {
        close(fd);
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)last;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void io_unlimit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 1024 ? limit.rlim_max : 1024;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void io_without_descriptors(void *user)
{
    io_bed *bed = (io_bed *)user;
    sdc_error error;
    io_limit(0);
    CHECK_ERR(sdc_step(bed->task, 100), SDC_ERR_CONNECT);
    sdc_task_error(bed->task, &error);
    CHECK_ERR(error.code, SDC_ERR_CONNECT);
    CHECK_INT(error.os_errno, EMFILE);
    CHECK_HAS(error.message, "descriptors");
    CHECK_ERR(sdc_instancer_wait(bed->instancer, 1, 50, &error), SDC_ERR_TIMEOUT);
    CHECK_HAS(error.message, "descriptors");
    CHECK_ERR(io_register(bed, "web-2", &error), SDC_ERR_CONNECT);
    CHECK_INT(error.os_errno, EMFILE);
    io_unlimit();
    CHECK_ERR(sdc_instancer_wait(bed->instancer, 1, 5000, &error), SDC_OK);
}

static void test_59_emfile_is_an_error_and_passes(void)
{
    io_bed bed;
    REQUIRE(io_bed_init(&bed, 0));
    CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    CHECK(io_in_child(io_without_descriptors, &bed));
    io_bed_deinit(&bed);
}

/* ---- signals --------------------------------------------------------------------------------- */

static volatile sig_atomic_t io_num_signals;
static sdc_task *io_signal_task;

static void io_on_signal(int number)
{
    (void)number;
    io_num_signals++;
}

static void io_on_signal_stop(int number)
{
    (void)number;
    io_num_signals++;
    sdc_stop(io_signal_task);
}

static void io_on_signal_wake(int number)
{
    (void)number;
    io_num_signals++;
    sdc_wake(io_signal_task);
}

static void io_handle(int number, void (*handler)(int number), struct sigaction *old)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;            /* no SA_RESTART: calls are interrupted */
    sigemptyset(&action.sa_mask);
    io_num_signals = 0;
    sigaction(number, &action, old);
}

static void io_without_a_waker(void *user)
{
    io_bed *bed = (io_bed *)user;
    struct itimerval soon;
    memset(&soon, 0, sizeof soon);
    soon.it_value.tv_usec = 30000;
    io_limit(1);                                    /* the connection, and no pipe */
    CHECK_ERR(sdc_instancer_wait(bed->instancer, 1, 5000, NULL), SDC_OK);
    io_signal_task = bed->task;
    io_handle(SIGALRM, io_on_signal_stop, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    uint64_t from_ms = io_now();
    CHECK_ERR(sdc_step(bed->task, -1), SDC_STOPPED);
    CHECK(io_now() - from_ms < IO_SOON_MS);
}

static void test_59_without_a_pipe_a_stop_is_seen_all_the_same(void)
{
    io_bed bed;
    REQUIRE(io_bed_init(&bed, 0));
    CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    CHECK(io_in_child(io_without_a_waker, &bed));
    io_bed_deinit(&bed);
}

/* Signals for one thread, one each `every_us`, until told to end. */
typedef struct io_storm {
    pthread_t target, thread;
    uint32_t  every_us;
    unsigned  most;
    char      is_over;
} io_storm;

static void *io_storm_run(void *user)
{
    io_storm *storm = (io_storm *)user;
    for (unsigned i = 0; i < storm->most && !__atomic_load_n(&storm->is_over, __ATOMIC_SEQ_CST);
         i++) {
        io_pause(storm->every_us);
        pthread_kill(storm->target, SIGUSR1);
    }
    return NULL;
}

static void io_storm_start(io_storm *storm, uint32_t every_us, unsigned most)
{
    memset(storm, 0, sizeof *storm);
    storm->target = pthread_self();
    storm->every_us = every_us;
    storm->most = most;
    storm->thread = io_thread(io_storm_run, storm);
}

static void io_storm_end(io_storm *storm)
{
    __atomic_store_n(&storm->is_over, 1, __ATOMIC_SEQ_CST);
    pthread_join(storm->thread, NULL);
}

static void test_59_interrupted_calls_go_on(void)
{
    io_bed bed;
    io_storm storm;
    struct sigaction old;
    REQUIRE(io_bed_init(&bed, 200));
    CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    io_handle(SIGUSR1, io_on_signal, &old);
    io_storm_start(&storm, 200, UINT32_MAX);
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 1, 5000, NULL), SDC_OK);
    uint64_t from_ms = io_now();
    CHECK_ERR(sdc_step(bed.task, -1), SDC_OK);          /* held for its wait, whole */
    CHECK_BETWEEN(io_now() - from_ms, 170, IO_SOON_MS);
    from_ms = io_now();
    if (sdc_step(bed.task, 50) == SDC_AGAIN) {          /* OK on a machine that is very busy */
        CHECK_BETWEEN(io_now() - from_ms, 50, IO_SOON_MS);
    }
    for (int i = 0; i < 30; i++) {
        CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    }
    io_storm_end(&storm);
    sigaction(SIGUSR1, &old, NULL);
    CHECK(io_num_signals > 20);
    io_bed_deinit(&bed);
}

static void test_59_peer_that_resets_raises_no_sigpipe(void)
{
    io_large *large = io_large_create();
    struct sigaction old;
    io_handle(SIGPIPE, io_on_signal, &old);
    for (size_t i = 0; i < 3; i++) {
        io_peer peer;
        sdc_error error;
        io_peer_start(&peer, 65536, 1 + i * 10000);
        sdc_client *client = io_client_of(peer.port, NULL);
        CHECK_ERR(sdc_client_register(client, &large->registration, &error), SDC_ERR_IO);
        CHECK_HAS(error.message, "127.0.0.1");
        sdc_client_destroy(client);
        io_peer_end(&peer);
    }
    sigaction(SIGPIPE, &old, NULL);
    CHECK_INT(io_num_signals, 0);
    free(large);
}

/* Writing to a unix socket whose peer has gone is EPIPE at once: no reset comes before it. */
static void test_59_peer_that_closes_raises_no_sigpipe(void)
{
    char dir[] = "/tmp/sdconsul-test-XXXXXX";
    char path[64];
    char address[80];
    io_peer peer;
    sdc_error error;
    sdc_client *client = NULL;
    sdc_client_desc desc;
    struct sigaction old;
    io_large *large = io_large_create();
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/socket", dir);
    snprintf(address, sizeof address, "unix://%s", path);
    memset(&desc, 0, sizeof desc);
    desc.address = address;
    desc.ignore_environment = true;
    memset(&peer, 0, sizeof peer);
    peer.listener = io_listen_at(path);
    peer.take_at_once = 1000;
    peer.take_max = 1000;
    peer.thread = io_thread(io_peer_run, &peer);
    io_handle(SIGPIPE, io_on_signal, &old);
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    CHECK_ERR(sdc_client_register(client, &large->registration, &error), SDC_ERR_IO);
    sdc_client_destroy(client);
    sigaction(SIGPIPE, &old, NULL);
    CHECK_INT(io_num_signals, 0);
    io_peer_end(&peer);
    unlink(path);
    rmdir(dir);
    free(large);
}

static void test_23_stop_from_a_signal_handler(void)
{
    io_bed bed;
    io_storm storm;
    struct sigaction old;
    REQUIRE(io_bed_init(&bed, 0));
    io_signal_task = bed.task;
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 0, 5000, NULL), SDC_OK);
    io_handle(SIGUSR1, io_on_signal_stop, &old);
    io_storm_start(&storm, 20000, 1);
    uint64_t from_ms = io_now();
    CHECK_ERR(sdc_step(bed.task, -1), SDC_STOPPED);
    CHECK(io_now() - from_ms < IO_SOON_MS);
    io_storm_end(&storm);
    sigaction(SIGUSR1, &old, NULL);
    CHECK_INT(io_num_signals, 1);
    io_bed_deinit(&bed);
}

static void test_io_wakes_from_a_signal_handler(void)
{
    io_bed bed;
    io_storm storm;
    struct sigaction old;
    REQUIRE(io_bed_init(&bed, 150));
    io_signal_task = bed.task;
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 0, 5000, NULL), SDC_OK);
    io_handle(SIGUSR1, io_on_signal_wake, &old);
    io_storm_start(&storm, 300, UINT32_MAX);
    uint64_t from_ms = io_now();
    CHECK_ERR(sdc_step(bed.task, -1), SDC_OK);          /* woken, it went on */
    CHECK_BETWEEN(io_now() - from_ms, 120, IO_SOON_MS);
    for (int i = 0; i < 20; i++) {
        sdc_err err = sdc_step(bed.task, 1);            /* wakers come and go meanwhile */
        CHECK(err == SDC_AGAIN || err == SDC_OK);
    }
    io_storm_end(&storm);
    sigaction(SIGUSR1, &old, NULL);
    CHECK(io_num_signals > 20);
    io_bed_deinit(&bed);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *io_stop_soon(void *user)
{
    io_pause(30000);
    sdc_stop((sdc_task *)user);
    return NULL;
}

static void test_23_stop_from_another_thread(void)
{
    io_bed bed;
    REQUIRE(io_bed_init(&bed, 0));
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 0, 5000, NULL), SDC_OK);
    io_fds before = io_look();
    pthread_t thread = io_thread(io_stop_soon, bed.task);
    uint64_t from_ms = io_now();
    CHECK_ERR(sdc_step(bed.task, -1), SDC_STOPPED);
    CHECK(io_now() - from_ms < IO_SOON_MS);
    pthread_join(thread, NULL);
    CHECK(io_look().num < before.num);
    io_bed_deinit(&bed);
}

typedef struct io_caller {
    io_bed       *bed;
    pthread_t     thread;
    unsigned      wakes;
    char          is_over;
} io_caller;

/* Everything that any thread may call, over and over. */
static void *io_call_run(void *user)
{
    io_caller *caller = (io_caller *)user;
    sdc_stats stats;
    sdc_error error;
    while (!__atomic_load_n(&caller->is_over, __ATOMIC_SEQ_CST)) {
        sdc_wake(caller->bed->task);
        caller->wakes++;
        sdc_task_stats(caller->bed->task, &stats);
        sdc_task_error(caller->bed->task, &error);
        const sdc_event *event = sdc_instancer_state(caller->bed->instancer);
        sdc_event_release(sdc_event_retain(event));
        sdc_event_release(event);
        sdc_client_set_token(caller->bed->client, caller->wakes % 2 == 0 ? "a" : "bb");
        (void)sdc_client_now_ms(caller->bed->client);
        io_pause(50);
    }
    return NULL;
}

static void test_92_other_threads_look_and_wake(void)
{
    io_bed bed;
    io_caller callers[2];
    REQUIRE(io_bed_init(&bed, 50));
    for (size_t i = 0; i < 2; i++) {
        memset(&callers[i], 0, sizeof callers[i]);
        callers[i].bed = &bed;
        callers[i].thread = io_thread(io_call_run, &callers[i]);
    }
    uint64_t from_ms = io_now();
    unsigned exchanges = 0;
    for (int i = 0; io_now() - from_ms < (exchanges < 2 ? 10000 : 120); i++) {
        sdc_err err = sdc_step(bed.task, i % 5 - 1);
        CHECK(err == SDC_OK || err == SDC_AGAIN);
        exchanges += err == SDC_OK ? 1 : 0;
    }
    for (size_t i = 0; i < 2; i++) {
        __atomic_store_n(&callers[i].is_over, 1, __ATOMIC_SEQ_CST);
        pthread_join(callers[i].thread, NULL);
        CHECK(callers[i].wakes > 0);
    }
    CHECK(exchanges >= 2);
    io_bed_deinit(&bed);
}

/* ---- large bodies, short writes -------------------------------------------------------------- */

static unsigned io_num_writes;

static sdc_err io_open_narrow(void *user, const sdc_target *target, void **stream,
                              sdc_ready *until, sdc_error *error)
{
    bool is_new = *stream == NULL;
    sdc_err err = sdc_io_posix()->stream_open(user, target, stream, until, error);
    if (is_new && *stream != NULL) {
        int few = 65536;
        setsockopt(sdci_stream_to_fd(*stream), SOL_SOCKET, SO_SNDBUF, &few, sizeof few);
    }
    return err;
}

static sdc_err io_write_counted(void *user, void *stream, const void *bytes, size_t len,
                                size_t *written, sdc_ready *until, sdc_error *error)
{
    io_num_writes++;
    return sdc_io_posix()->stream_write(user, stream, bytes, len, written, until, error);
}

static void test_59_large_body_through_a_narrow_socket(void)
{
    io_peer peer;
    sdc_error error;
    sdc_io io = *sdc_io_posix();
    io.stream_open = io_open_narrow;
    io.stream_write = io_write_counted;
    io_num_writes = 0;
    io_large *large = io_large_create();
    io_peer_start(&peer, 30000, 0);
    sdc_client *client = io_client_of(peer.port, &io);
    CHECK_ERR(sdc_client_register(client, &large->registration, &error), SDC_OK);
    CHECK_STR(error.message, "");
    pthread_join(peer.thread, NULL);
    CHECK(io_num_writes > 5);
    /* the same request on the simulated network, where a write takes everything */
    world *w = world_create(NULL);
    world_desc wide;
    memset(&wide, 0, sizeof wide);
    wide.window_bytes = 4000000;
    world_set(w, &wide);
    script *s = script_create(w, "10.0.0.1", 8500);
    script_ok(s);
    sdc_client *twin = world_client(w, "10.0.0.1:8500");
    CHECK_ERR(sdc_client_register(twin, &large->registration, &error), SDC_OK);
    const script_request *q = script_last(s);
    if (CHECK(q != NULL) && CHECK(peer.got.len > q->body_len)) {
        CHECK(q->body_len > 2000000);
        CHECK_MEM(peer.got.text + peer.got.len - q->body_len, q->body_len, q->body, q->body_len);
    }
    sdc_client_destroy(twin);
    world_destroy(w);
    sdc_client_destroy(client);
    close(peer.listener);
    script_text_deinit(&peer.got);
    free(large);
}

static void test_io_change_arrives_at_once(void)
{
    io_bed bed;
    REQUIRE(io_bed_init(&bed, 0));
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 0, 5000, NULL), SDC_OK);
    CHECK_ERR(sdc_step(bed.task, 20), SDC_AGAIN);
    CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    uint64_t from_ms = io_now();
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 1, 5000, NULL), SDC_OK);
    CHECK(io_now() - from_ms < IO_SOON_MS);
    io_bed_deinit(&bed);
}

static void test_io_agent_that_comes_back(void)
{
    io_bed bed;
    sdc_error error;
    REQUIRE(io_bed_init(&bed, 0));
    CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 1, 5000, NULL), SDC_OK);
    CHECK_ERR(sdc_step(bed.task, 20), SDC_AGAIN);
    agent_server_pause(bed.server);
    sdc_err err = SDC_OK;                   /* what the backlog still took is reset at first */
    for (int i = 0; i < 5 && err != SDC_ERR_CONNECT; i++) {
        err = sdc_step(bed.task, 2000);
        CHECK(err == SDC_ERR_IO || err == SDC_ERR_CONNECT);
    }
    sdc_task_error(bed.task, &error);
    CHECK_INT(error.os_errno, ECONNREFUSED);
    CHECK_HAS(error.message, bed.address);
    CHECK(agent_server_resume(bed.server));
    CHECK_ERR(sdc_instancer_wait(bed.instancer, 1, 5000, &error), SDC_OK);
    io_bed_deinit(&bed);
}

/* ---- names ----------------------------------------------------------------------------------- */

static sdc_client *io_client_of_name(const char *address)
{
    sdc_client *client = NULL;
    sdc_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.address = address;
    desc.ignore_environment = true;
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    return client;
}

static void test_io_name_that_does_not_resolve(void)
{
    sdc_error error;
    char address[100];
    memset(address, 'x', 70);   /* no label may be so long: no question leaves the machine */
    snprintf(address + 70, sizeof address - 70, ".invalid:8500");
    sdc_client *client = io_client_of_name(address);
    REQUIRE(client != NULL);
    sdc_instancer *instancer = rig_watch_of(client);
    sdc_task *task = sdc_instancer_task(instancer);
    CHECK_ERR(sdc_step(task, 1000), SDC_ERR_RESOLVE);
    sdc_task_error(task, &error);
    CHECK_ERR(error.code, SDC_ERR_RESOLVE);
    CHECK_HAS(error.message, "xxxxxxxx");
    CHECK_ERR(sdc_client_deregister(client, "web-1", &error), SDC_ERR_RESOLVE);
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
}

static void test_io_name_in_a_step_that_may_not_block(void)
{
    sdc_error error;
    sdc_client *client = io_client_of_name("consul.service.example:8500");
    REQUIRE(client != NULL);
    sdc_instancer *instancer = rig_watch_of(client);
    sdc_task *task = sdc_instancer_task(instancer);
    CHECK_ERR(sdc_step(task, 0), SDC_ERR_RESOLVE);
    sdc_task_error(task, &error);
    CHECK_HAS(error.message, "resolve hook");           /* the two remedies */
    CHECK_HAS(error.message, "number");
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
}

/* ---- the members one by one ------------------------------------------------------------------ */

static void test_io_clock_and_random(void)
{
    const sdc_io *io = sdc_io_posix();
    uint64_t a = io->now_ms(io->user);
    uint64_t b = io->now_ms(io->user);
    CHECK(b >= a && b - a < IO_SOON_MS);
    io_fds before = io_look();
    CHECK(io->random(io->user) != io->random(io->user));
    CHECK_INT(io_look().num, before.num);
    CHECK(!io->can_tls);
    CHECK(sdc_io_posix() == io);
}

static void io_write_file(const char *path, const char *text, size_t len)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(text, 1, len, file) != len || fclose(file) != 0) {
        abort();
    }
}

static void test_io_files(void)
{
    const sdc_io *io = sdc_io_posix();
    char dir[] = "/tmp/sdconsul-test-XXXXXX";
    char path[64];
    char text[16];
    size_t len = 99;
    sdc_error error;
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/file", dir);
    io_fds before = io_look();
    io_write_file(path, "0123456789", 10);
    memset(&error, 0, sizeof error);
    CHECK_ERR(io->read_file(io->user, path, text, sizeof text, &len, &error), SDC_OK);
    CHECK_MEM(text, len, "0123456789", 10);
    CHECK_ERR(io->read_file(io->user, path, text, 10, &len, &error), SDC_OK);
    CHECK_INT(len, 10);
    CHECK_ERR(io->read_file(io->user, path, text, 9, &len, &error), SDC_ERR_LIMIT);
    io_write_file(path, "", 0);
    CHECK_ERR(io->read_file(io->user, path, text, sizeof text, &len, &error), SDC_OK);
    CHECK_INT(len, 0);
    unlink(path);
    CHECK(io->read_file(io->user, path, text, sizeof text, &len, &error) >= SDC_ERR_ARG);
    CHECK_INT(error.os_errno, ENOENT);
    CHECK(io->read_file(io->user, dir, text, sizeof text, &len, &error) >= SDC_ERR_ARG);
    CHECK_INT(error.os_errno, EISDIR);
    rmdir(dir);
    CHECK_INT(io_look().num, before.num);
}

static sdc_wants io_wants(int timeout_ms)
{
    sdc_wants wants;
    memset(&wants, 0, sizeof wants);
    wants.fd = -1;
    wants.timeout_ms = timeout_ms;
    wants.deadline_ms = UINT64_MAX;
    return wants;
}

static void test_io_waker(void)
{
    const sdc_io *io = sdc_io_posix();
    void *waker = NULL;
    sdc_error error;
    sdc_wants wants = io_wants(5000);
    io_fds before = io_look();
    CHECK_ERR(io->waker_create(io->user, &waker, &error), SDC_OK);
    for (int i = 0; i < 100000; i++) {              /* more than a pipe holds, and none blocks */
        io->waker_wake(io->user, waker);
    }
    errno = 77;
    io->waker_wake(io->user, waker);
    CHECK_INT(errno, 77);                           /* a signal handler's caller sees no change */
    uint64_t from_ms = io_now();
    CHECK_ERR(io->wait(io->user, waker, &wants, &error), SDC_OK);
    CHECK(io_now() - from_ms < IO_SOON_MS);         /* woken before it began */
    wants = io_wants(20);
    from_ms = io_now();
    CHECK_ERR(io->wait(io->user, waker, &wants, &error), SDC_OK);
    CHECK(io_now() - from_ms >= 20);                /* and once alone */
    io->waker_destroy(io->user, waker);
    CHECK_INT(io_look().num, before.num);
}

/* As on systems where a waker has two descriptors. */
static void test_io_waker_of_a_pipe(void)
{
    const sdc_io *io = sdc_io_posix();
    sdc_wants wants;
    sdc_error error;
    int ends[2];
    const int too_large[2] = { 0, -1 };
    REQUIRE(sdci_open_pipe(ends));
    for (int i = 0; i < 2; i++) {
        CHECK((fcntl(ends[i], F_GETFD) & FD_CLOEXEC) != 0);
        CHECK((fcntl(ends[i], F_GETFL) & O_NONBLOCK) != 0);
    }
    void *waker = sdci_waker_of(ends);
    memset(&wants, 0, sizeof wants);
    wants.fd = -1;
    wants.timeout_ms = 60000;
    for (int i = 0; i < 3; i++) {
        io->waker_wake(io->user, waker);
        uint64_t from_ms = io_now();
        CHECK_ERR(io->wait(io->user, waker, &wants, &error), SDC_OK);
        CHECK(io_now() - from_ms < IO_SOON_MS);
    }
    char byte;
    CHECK(read(ends[0], &byte, 1) < 0 && errno == EAGAIN);      /* a wake ends one wait */
    io->waker_destroy(io->user, waker);
    CHECK(fcntl(ends[0], F_GETFD) < 0 && fcntl(ends[1], F_GETFD) < 0);
    CHECK(sdci_waker_of(too_large) == NULL);
}

static void test_io_wait_without_waker(void)
{
    const sdc_io *io = sdc_io_posix();
    sdc_error error;
    sdc_wants wants = io_wants(15);
    uint64_t from_ms = io_now();
    CHECK_ERR(io->wait(io->user, NULL, &wants, &error), SDC_OK);
    CHECK_BETWEEN(io_now() - from_ms, 15, IO_SOON_MS);
    wants = io_wants(0);
    CHECK_ERR(io->wait(io->user, NULL, &wants, &error), SDC_OK);
}

static void test_io_streams_refused_and_too_long(void)
{
    const sdc_io *io = sdc_io_posix();
    sdc_target target;
    sdc_ready until;
    sdc_error error;
    void *stream = NULL;
    uint16_t port = 0;
    char path[300];
    memset(&target, 0, sizeof target);
    memset(&until, 0, sizeof until);
    memset(path, 'p', sizeof path);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    target.host = "localhost";
    target.ip = "";
    target.path = path;
    io_fds before = io_look();
    CHECK_ERR(io->stream_open(io->user, &target, &stream, &until, &error), SDC_ERR_CONNECT);
    CHECK(stream == NULL);
    target.path = "/tmp/sdconsul-test-nobody-is-here";
    CHECK_ERR(io->stream_open(io->user, &target, &stream, &until, &error), SDC_ERR_CONNECT);
    CHECK_INT(error.os_errno, ENOENT);
    target.path = "";
    target.ip = "not a number";
    CHECK_ERR(io->stream_open(io->user, &target, &stream, &until, &error), SDC_ERR_CONNECT);
    CHECK(stream == NULL);
    close(test_listen(&port));                        /* nobody listens there any more */
    target.ip = "127.0.0.1";
    target.port = port;
    sdc_err err = SDC_AGAIN;
    for (int i = 0; i < 100 && err == SDC_AGAIN; i++) {
        err = io->stream_open(io->user, &target, &stream, &until, &error);
        io_pause(err == SDC_AGAIN ? 1000 : 0);
    }
    CHECK_ERR(err, SDC_ERR_CONNECT);
    CHECK_INT(error.os_errno, ECONNREFUSED);
    if (stream != NULL) {
        io->stream_close(io->user, stream);
    }
    CHECK_INT(io_look().num, before.num);
}

static void test_io_members_come_together(void)
{
    sdc_io whole = *sdc_io_posix();
    sdc_client_desc desc;
    sdc_client *client = NULL;
    sdc_error error;
    memset(&desc, 0, sizeof desc);
    desc.ignore_environment = true;
    for (int way = 0; way < 9; way++) {
        sdc_io io = whole;
        test_note("way %d", way);
        switch (way) {
        case 0: io.stream_open = NULL; break;
        case 1: io.stream_read = NULL; break;
        case 2: io.stream_write = NULL; break;
        case 3: io.stream_close = NULL; break;
        case 4: io.resolve = NULL; break;
        case 5: io.resolve_end = NULL; break;
        case 6: io.wait = NULL; break;
        case 7: io.waker_create = NULL; break;
        default: io.waker_wake = NULL; break;
        }
        desc.io = &io;
        CHECK_ERR(sdc_client_create(&desc, &client, &error), SDC_ERR_ARG);
        CHECK_HAS(error.message, "io");
        CHECK(client == NULL);
    }
}

static uint64_t io_own_clock(void *user)
{
    (void)user;
    return 4711;
}

static void test_io_missing_members_are_those_of_posix(void)
{
    sdc_io own;
    sdc_client_desc desc;
    sdc_client *client = NULL;
    io_bed bed;
    memset(&own, 0, sizeof own);
    memset(&desc, 0, sizeof desc);
    own.now_ms = io_own_clock;
    desc.ignore_environment = true;
    desc.io = &own;
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    CHECK_U64(sdc_client_now_ms(client), 4711);
    sdc_client_destroy(client);
    memset(&own, 0, sizeof own);
    REQUIRE(io_bed_listen(&bed, "127.0.0.1") && io_bed_client(&bed, &own));
    CHECK_ERR(io_register(&bed, "web-1", NULL), SDC_OK);
    io_bed_deinit(&bed);
}

static const test_case cases_io[] = {
    TEST(test_io_ipv4),
    TEST(test_io_localhost_needs_no_resolver),
    TEST(test_io_localhost_of_ipv6),
    TEST(test_55_unix_socket_of_the_system),
    TEST(test_56_ipv6_of_the_system),
    TEST(test_io_descriptors_are_few_and_end_with_exec),
    TEST(test_23_destroy_closes_the_descriptor),
    TEST(test_59_emfile_is_an_error_and_passes),
    TEST(test_59_without_a_pipe_a_stop_is_seen_all_the_same),
    TEST(test_59_interrupted_calls_go_on),
    TEST(test_59_peer_that_resets_raises_no_sigpipe),
    TEST(test_59_peer_that_closes_raises_no_sigpipe),
    TEST(test_23_stop_from_a_signal_handler),
    TEST(test_io_wakes_from_a_signal_handler),
    TEST(test_23_stop_from_another_thread),
    TEST(test_92_other_threads_look_and_wake),
    TEST(test_59_large_body_through_a_narrow_socket),
    TEST(test_io_change_arrives_at_once),
    TEST(test_io_agent_that_comes_back),
    TEST(test_io_name_that_does_not_resolve),
    TEST(test_io_name_in_a_step_that_may_not_block),
    TEST(test_io_clock_and_random),
    TEST(test_io_files),
    TEST(test_io_waker),
    TEST(test_io_waker_of_a_pipe),
    TEST(test_io_wait_without_waker),
    TEST(test_io_streams_refused_and_too_long),
    TEST(test_io_members_come_together),
    TEST(test_io_missing_members_are_those_of_posix)
};
