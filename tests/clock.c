/* Line 94 of the checklist: no clock counts but the monotonic one. This program's own
   clock_gettime, time and gettimeofday stand in front of the C library's: they count who asks for
   what, and the wall clock that they show jumps by years with each look. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../sdconsul.h"

#include "agent/server.h"
#include "support/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Of the thread that is looked at; others, as the agent's, ask as they like. */
static __thread bool clock_is_watched;
static unsigned      clock_num_monotonic, clock_num_wall;

#if defined(__linux__) && defined(SYS_clock_gettime)
#define CLOCK_CAN_INTERPOSE 1
#else
#define CLOCK_CAN_INTERPOSE 0
#endif

#if CLOCK_CAN_INTERPOSE
static long clock_jump(void)
{
    static unsigned times;
    static const long years[] = { 10, -10, 30, -2, 1, -25 };
    return years[__atomic_fetch_add(&times, 1, __ATOMIC_RELAXED) % 6] * 31556952L;
}

static void clock_look(struct timespec *t, clockid_t id)
{
    syscall(SYS_clock_gettime, id, t);
    if (id != CLOCK_MONOTONIC) {
        t->tv_sec += clock_jump();
    }
    if (clock_is_watched) {
        clock_num_monotonic += id == CLOCK_MONOTONIC ? 1 : 0;
        clock_num_wall += id == CLOCK_MONOTONIC ? 0 : 1;
    }
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    clock_look(t, id);
    return 0;
}

time_t time(time_t *at)
{
    struct timespec t;
    clock_look(&t, CLOCK_REALTIME);
    if (at != NULL) {
        *at = t.tv_sec;
    }
    return t.tv_sec;
}

int gettimeofday(struct timeval *at, void *zone)
{
    struct timespec t;
    (void)zone;
    clock_look(&t, CLOCK_REALTIME);
    at->tv_sec = t.tv_sec;
    at->tv_usec = t.tv_nsec / 1000;
    return 0;
}
#endif

static void clock_watch(bool on)
{
    clock_is_watched = on;
}

/* ---- a server that always says the same ------------------------------------------------------ */

typedef struct clock_server {
    int         listener;
    uint16_t    port;
    pthread_t   thread;
    const char *answer;
    unsigned    num_requests;       /* atomic */
} clock_server;

static void *clock_serve(void *user)
{
    clock_server *server = (clock_server *)user;
    for (;;) {
        char bytes[4096];
        int fd = accept(server->listener, NULL, NULL);
        if (fd < 0) {
            return NULL;
        }
        if (recv(fd, bytes, sizeof bytes, 0) > 0) {     /* these requests come in one piece */
            (void)__atomic_add_fetch(&server->num_requests, 1, __ATOMIC_SEQ_CST);
            (void)send(fd, server->answer, strlen(server->answer), MSG_NOSIGNAL);
        }
        shutdown(fd, SHUT_WR);
        while (recv(fd, bytes, sizeof bytes, 0) > 0) {
        }
        close(fd);
    }
}

static void clock_server_start(clock_server *server, const char *answer)
{
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    memset(server, 0, sizeof *server);
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server->answer = answer;
    server->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (server->listener < 0 ||
        bind(server->listener, (const struct sockaddr *)(const void *)&at, sizeof at) != 0 ||
        listen(server->listener, 16) != 0 ||
        getsockname(server->listener, (struct sockaddr *)(void *)&at, &len) != 0 ||
        pthread_create(&server->thread, NULL, clock_serve, server) != 0) {
        abort();
    }
    server->port = ntohs(at.sin_port);
}

static void clock_server_stop(clock_server *server)
{
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->listener);
}

static sdc_client *clock_client(uint16_t port)
{
    sdc_client *client = NULL;
    sdc_client_desc desc;
    char address[40];
    memset(&desc, 0, sizeof desc);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    desc.address = address;
    desc.ignore_environment = true;
    CHECK_ERR(sdc_client_create(&desc, &client, NULL), SDC_OK);
    return client;
}

static sdc_instancer *clock_watch_of(sdc_client *client)
{
    sdc_instancer *watch = NULL;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "web";
    desc.query.wait_ms = 100;
    CHECK_ERR(sdc_instancer_create(client, &desc, &watch, NULL), SDC_OK);
    return watch;
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Registered, beaten, found, stopped: by nothing but the monotonic clock, and each thing in its
   time. */
static void clock_live(sdc_client *client)
{
    sdc_check check;
    sdc_registrar_desc desc;
    sdc_registrar *registrar = NULL;
    sdc_stats stats;
    sdc_error error;
    memset(&check, 0, sizeof check);
    memset(&desc, 0, sizeof desc);
    check.ttl_ms = 300;
    desc.registration.name = "web";
    desc.registration.address = "10.9.0.1";
    desc.registration.port = 80;
    desc.registration.checks = &check;
    desc.registration.num_checks = 1;
    sdc_instancer *watch = clock_watch_of(client);
    CHECK_ERR(sdc_registrar_create(client, &desc, &registrar, &error), SDC_OK);
    CHECK_ERR(sdc_registrar_register(registrar, &error), SDC_OK);
    CHECK_ERR(sdc_instancer_wait(watch, 1, 5000, &error), SDC_OK);
    uint64_t from_ms = sdc_client_now_ms(client);
    uint64_t ms = 0;
    do {                                    /* longer on a machine that is busy */
        sdc_err err = sdc_step(sdc_registrar_task(registrar), 10);
        CHECK(err == SDC_OK || err == SDC_AGAIN);
        err = sdc_step(sdc_instancer_task(watch), 10);
        CHECK(err == SDC_OK || err == SDC_AGAIN);
        sdc_task_stats(sdc_registrar_task(registrar), &stats);
        ms = sdc_client_now_ms(client) - from_ms;
    } while (ms < 600 || (stats.heartbeats < 4 && ms < 20000));
    CHECK_BETWEEN(stats.heartbeats, 4, 4 + ms / 50);
    CHECK_U64(stats.failures, 0);
    sdc_task_stats(sdc_instancer_task(watch), &stats);
    CHECK_U64(stats.failures, 0);
    CHECK_BETWEEN(stats.requests, 2, 4 + ms / 90);
    sdc_stop(sdc_registrar_task(registrar));
    CHECK_ERR(sdc_step(sdc_registrar_task(registrar), -1), SDC_OK);
    CHECK_ERR(sdc_step(sdc_registrar_task(registrar), -1), SDC_STOPPED);
    sdc_registrar_destroy(registrar);
    sdc_instancer_destroy(watch);
}

static bool clock_begin(void)
{
    clock_num_monotonic = 0;
    clock_num_wall = 0;
#if CLOCK_CAN_INTERPOSE
    clock_watch(true);
    struct timeval of_day;
    time_t first = time(NULL);
    CHECK(labs((long)(time(NULL) - first)) > 31556952L);        /* a jump is seen by whoever asks */
    gettimeofday(&of_day, NULL);
    CHECK_INT(clock_num_wall, 3);
    clock_num_wall = 0;
#else
    test_skip("no way here to stand in front of the system's clocks");
#endif
    return CLOCK_CAN_INTERPOSE != 0;
}

static void clock_end(void)
{
    clock_watch(false);
    CHECK(clock_num_monotonic > 10);
    CHECK_INT(clock_num_wall, 0);
}

static void test_94_only_the_monotonic_clock_is_read(void)
{
    uint16_t port = 0;
    agent_desc is;
    if (!clock_begin()) {
        return;
    }
    memset(&is, 0, sizeof is);
    agent *a = agent_create(&is, agent_server_now());
    agent_server *server = agent_server_start(a, NULL, &port);
    REQUIRE(server != NULL);
    sdc_client *client = clock_client(port);
    clock_live(client);
    sdc_client_destroy(client);
    agent_server_stop(server);
    agent_destroy(a);
    clock_end();
}

/* How long a date is away is told by the answer's own date. */
static void test_94_a_date_to_retry_after_needs_no_wall_clock(void)
{
    clock_server server;
    if (!clock_begin()) {
        return;
    }
    clock_server_start(&server, "HTTP/1.1 429 Too Many Requests\r\n"
                                "Date: Mon, 07 Jul 2025 10:00:00 GMT\r\n"
                                "Retry-After: Mon, 07 Jul 2025 10:00:02 GMT\r\n"
                                "Content-Length: 0\r\nConnection: close\r\n\r\n");
    sdc_client *client = clock_client(server.port);
    sdc_instancer *watch = clock_watch_of(client);
    CHECK_ERR(sdc_step(sdc_instancer_task(watch), 1000), SDC_ERR_BUSY);
    uint64_t now_ms = sdc_client_now_ms(client);
    CHECK_ERR(sdc_step(sdc_instancer_task(watch), 10), SDC_AGAIN);
    sdc_wants wants = sdc_task_wants(sdc_instancer_task(watch));
    CHECK_BETWEEN(wants.deadline_ms - now_ms, 1500, 3000);
    CHECK_INT(__atomic_load_n(&server.num_requests, __ATOMIC_SEQ_CST), 1);
    sdc_instancer_destroy(watch);
    sdc_client_destroy(client);
    clock_server_stop(&server);
    clock_end();
}

static const test_case cases_clock[] = {
    TEST(test_94_only_the_monotonic_clock_is_read),
    TEST(test_94_a_date_to_retry_after_needs_no_wall_clock),
};

TEST_MAIN(GROUP(cases_clock))
