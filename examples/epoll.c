/* epoll: two watches and a registrar on an epoll loop with a timer of its own.

     cc -I. -o epoll examples/epoll.c examples/sdconsul.c
     ./epoll web db          registers web on port 8080, watches web and db */
#include "sdconsul.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { NUM_TASKS = 3 };

static struct slot { sdc_task *task; int fd; uint64_t deadline_ms; } slots[NUM_TASKS];
static int epoll_fd, timer_fd, wake_fd;

static void set(int op, int fd, uint32_t events)
{
    struct epoll_event event = { .events = events, .data = { .fd = fd } };
    (void)epoll_ctl(epoll_fd, op, fd, &event);
}

/* A task says what it waits for now. Before it closes a descriptor it says -1. */
static void on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    struct slot *s = (struct slot *)user;
    (void)task;
    if (s->fd >= 0 && wants.fd != s->fd) {
        set(EPOLL_CTL_DEL, s->fd, 0);
    }
    if (wants.fd >= 0) {
        set(wants.fd == s->fd ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, wants.fd,
            (wants.readable ? EPOLLIN : 0u) | (wants.writable ? EPOLLOUT : 0u));
    }
    s->fd = wants.fd;
    s->deadline_ms = wants.deadline_ms;
}

static void on_wake(void *user, sdc_task *task)
{
    (void)user, (void)task, (void)eventfd_write(wake_fd, 1);
}

static void on_signal(int number)
{
    (void)number;
    for (int i = 0; i < NUM_TASKS; i++) {
        sdc_stop(slots[i].task);
    }
}

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    printf("%s: %zu instances, %zu of them new %s\n", (const char *)user, event->num_instances,
           change->num_added, event->message);
}

static void loop(const sdc_client *client)
{
    struct epoll_event events[8];
    uint64_t count;
    int num_stopped = 0;

    while (num_stopped < NUM_TASKS) {
        uint64_t now_ms = sdc_client_now_ms(client), until_ms = now_ms + 60000;
        for (int i = 0; i < NUM_TASKS; i++) {
            until_ms = slots[i].deadline_ms < until_ms ? slots[i].deadline_ms : until_ms;
        }
        int num = epoll_wait(epoll_fd, events, 8, until_ms > now_ms ? (int)(until_ms - now_ms) : 0);
        for (int i = 0; i < num; i++) {
            int fd = events[i].data.fd;     /* one of a task needs nothing but a step */
            if ((fd == timer_fd || fd == wake_fd) && read(fd, &count, sizeof count) > 0) {
                printf("%s", fd == timer_fd ? "the program's own timer\n" : "");
            }
        }
        num_stopped = 0;
        for (int i = 0; i < NUM_TASKS; i++) {
            num_stopped += sdc_step(slots[i].task, 0) == SDC_STOPPED;
        }
    }
}

static void add_task(struct slot *s, sdc_task *task)
{
    s->task = task;
    s->fd = -1;
    sdc_task_on_wake(task, on_wake, NULL);
    sdc_task_on_wants(task, on_wants, s);
}

static void must(sdc_err err, const sdc_error *error)
{
    if (err != SDC_OK) {
        fprintf(stderr, "epoll: %s\n", error->message);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct itimerspec every = { .it_interval = { .tv_sec = 5 }, .it_value = { .tv_sec = 5 } };
    sdc_check check = { .ttl_ms = 10000 };
    sdc_registration web = { .port = 8080, .checks = &check, .num_checks = 1 };
    sdc_registrar_desc keep = { .registration = web };
    sdc_client *client = NULL;
    sdc_instancer *watches[2];
    sdc_registrar *registrar = NULL;
    sdc_error error = { .message = "usage: epoll SERVICE SERVICE" };

    must(argc == 3 ? SDC_OK : SDC_ERR_ARG, &error);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)timerfd_settime(timer_fd, 0, &every, NULL);
    set(EPOLL_CTL_ADD, timer_fd, EPOLLIN);
    set(EPOLL_CTL_ADD, wake_fd, EPOLLIN);
    must(sdc_client_create(&(sdc_client_desc){ 0 }, &client, &error), &error);
    for (int i = 0; i < 2; i++) {
        sdc_instancer_desc watch = { .query = { .service = argv[i + 1] } };
        must(sdc_instancer_create(client, &watch, &watches[i], &error), &error);
        (void)sdc_instancer_subscribe(watches[i], on_event, argv[i + 1]);
        add_task(&slots[i], sdc_instancer_task(watches[i]));
    }
    keep.registration.name = argv[1];
    must(sdc_registrar_create(client, &keep, &registrar, &error), &error);
    add_task(&slots[2], sdc_registrar_task(registrar));
    (void)signal(SIGINT, on_signal);
    loop(client);
    sdc_registrar_destroy(registrar);
    sdc_instancer_destroy(watches[0]);
    sdc_instancer_destroy(watches[1]);
    sdc_client_destroy(client);
    return 0;
}
