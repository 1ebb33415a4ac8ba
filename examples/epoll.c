/* epoll: two watches and a registrar on an epoll loop with a timer of its own.

     cc -I. -o epoll examples/epoll.c examples/sdconsul.c
     ./epoll web db          registers web on port 8080, watches web and db */
#include "sdconsul.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { KEEP = 2, NUM_TASKS, TIMER = NUM_TASKS, WAKE, NUM_SOURCES };

static struct slot { sdc_task *task; int fd; uint64_t deadline_ms; } slots[NUM_TASKS];
static int epoll_fd, timer_fd, wake_fd;

static void set(int op, int fd, bool readable, bool writable, uint32_t source)
{
    struct epoll_event event = { .data = { .u32 = source } };
    event.events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
    (void)epoll_ctl(epoll_fd, op, fd, &event);
}

/* A task says what it waits for now. Before it closes a descriptor it says -1. */
static void on_wants(void *user, sdc_task *task, sdc_wants wants)
{
    struct slot *s = (struct slot *)user;
    (void)task;
    if (s->fd >= 0 && wants.fd != s->fd) {
        set(EPOLL_CTL_DEL, s->fd, false, false, 0);
    }
    if (wants.fd >= 0) {
        set(wants.fd == s->fd ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, wants.fd, wants.readable,
            wants.writable, (uint32_t)(s - slots));
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
    for (int i = 0; i < NUM_TASKS; i++) {
        sdc_stop(slots[i].task);
    }
    (void)number;
}

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    printf("%s: %zu instances: %zu added, %zu removed, %zu updated %s\n", (const char *)user,
           event->num_instances, change->num_added, change->num_removed, change->num_updated,
           event->message);
}

/* Waits until something is ready or due, and answers what, one bit for each source. */
static unsigned wait_for_sources(const sdc_client *client)
{
    struct epoll_event events[NUM_SOURCES];
    uint64_t now_ms = sdc_client_now_ms(client), until_ms = now_ms + 60000;
    unsigned ready = 0;

    for (int i = 0; i < NUM_TASKS; i++) {
        until_ms = slots[i].deadline_ms < until_ms ? slots[i].deadline_ms : until_ms;
    }
    int num = epoll_wait(epoll_fd, events, NUM_SOURCES,
                         until_ms > now_ms ? (int)(until_ms - now_ms) : 0);
    for (int i = 0; i < num; i++) {
        ready |= 1u << events[i].data.u32;
    }
    now_ms = sdc_client_now_ms(client);
    for (int i = 0; i < NUM_TASKS; i++) {
        ready |= slots[i].deadline_ms <= now_ms ? 1u << i : 0;
    }
    return ready;
}

static void loop(const sdc_client *client)
{
    uint64_t count;

    for (unsigned stopped = 0; stopped != (1u << NUM_TASKS) - 1;) {
        unsigned ready = wait_for_sources(client);
        if ((ready & 1u << TIMER) != 0 && read(timer_fd, &count, sizeof count) > 0) {
            printf("the program's own timer\n");
        }
        bool is_woken = (ready & 1u << WAKE) != 0 && eventfd_read(wake_fd, &count) == 0;
        for (int i = 0; i < NUM_TASKS; i++) {
            if ((is_woken || (ready & 1u << i) != 0) && sdc_step(slots[i].task, 0) == SDC_STOPPED) {
                stopped |= 1u << i;
            }
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

int main(int argc, char **argv)
{
    struct itimerspec every = { .it_interval = { .tv_sec = 5 }, .it_value = { .tv_sec = 5 } };
    sdc_check check = { .ttl_ms = 10000 };
    sdc_registrar_desc keep = { .registration = { .checks = &check, .num_checks = 1 } };
    sdc_client *client = NULL;
    sdc_instancer *watches[KEEP] = { NULL, NULL };
    sdc_registrar *registrar = NULL;
    sdc_error error = { .message = "usage: epoll SERVICE SERVICE" };

    keep.registration.name = argv[1];
    keep.registration.port = 8080;
    bool is_ok = argc == 3 && sdc_client_create(&(sdc_client_desc){ 0 }, &client, &error) == SDC_OK &&
                 sdc_registrar_create(client, &keep, &registrar, &error) == SDC_OK;
    for (int i = 0; i < KEEP && is_ok; i++) {
        sdc_instancer_desc watch = { .query = { .service = argv[i + 1] } };
        is_ok = sdc_instancer_create(client, &watch, &watches[i], &error) == SDC_OK &&
                sdc_instancer_subscribe(watches[i], on_event, argv[i + 1]) == SDC_OK;
    }
    if (is_ok) {
        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
        wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        (void)timerfd_settime(timer_fd, 0, &every, NULL);
        set(EPOLL_CTL_ADD, timer_fd, true, false, TIMER);
        set(EPOLL_CTL_ADD, wake_fd, true, false, WAKE);
        add_task(&slots[0], sdc_instancer_task(watches[0]));
        add_task(&slots[1], sdc_instancer_task(watches[1]));
        add_task(&slots[KEEP], sdc_registrar_task(registrar));
        (void)signal(SIGINT, on_signal);
        loop(client);
    } else {
        fprintf(stderr, "epoll: %s\n", error.message);
    }
    sdc_registrar_destroy(registrar);
    sdc_instancer_destroy(watches[0]);
    sdc_instancer_destroy(watches[1]);
    sdc_client_destroy(client);
    return is_ok ? 0 : 1;
}
