/* poll: a watch and a registrar on a plain poll() loop.

     cc -I. -o poll examples/poll.c examples/sdconsul.c
     ./poll web 8080         registers web on port 8080 and watches it */
#include "sdconsul.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WATCH, KEEP, NUM_TASKS };

static sdc_task *tasks[NUM_TASKS];
static int wake_pipe[2];            /* a byte in it ends a poll that is just to begin, too */

static void on_wake(void *user, sdc_task *task)
{
    ssize_t ignored = write(wake_pipe[1], "", 1);
    (void)user, (void)task, (void)ignored;
}

/* sdc_stop may be called here. The registrar deregisters before it is SDC_STOPPED. */
static void on_signal(int number)
{
    (void)number;
    for (int i = 0; i < NUM_TASKS; i++) {
        sdc_stop(tasks[i]);
    }
}

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    (void)user, (void)change;
    printf("%zu instances %s\n", event->num_instances, event->message);
}

/* Asks every task what it waits for, waits for the first of that, and steps them all. */
static void loop(void)
{
    struct pollfd fds[NUM_TASKS + 1];
    char bytes[64];
    int num_stopped;
    do {
        int timeout_ms = -1;
        for (int i = 0; i < NUM_TASKS; i++) {
            sdc_wants wants = sdc_task_wants(tasks[i]);
            short events = (short)((wants.readable ? POLLIN : 0) | (wants.writable ? POLLOUT : 0));
            fds[i] = (struct pollfd){ .fd = wants.fd, .events = events };   /* -1 is left out */
            if (wants.timeout_ms >= 0 && (timeout_ms < 0 || wants.timeout_ms < timeout_ms)) {
                timeout_ms = wants.timeout_ms;
            }
        }
        fds[NUM_TASKS] = (struct pollfd){ .fd = wake_pipe[0], .events = POLLIN };
        (void)poll(fds, NUM_TASKS + 1, timeout_ms);
        if ((fds[NUM_TASKS].revents & POLLIN) != 0 && read(wake_pipe[0], bytes, sizeof bytes) < 0) {
            break;
        }
        num_stopped = 0;
        for (int i = 0; i < NUM_TASKS; i++) {
            num_stopped += sdc_step(tasks[i], 0) == SDC_STOPPED;
        }
    } while (num_stopped < NUM_TASKS);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "web";
    sdc_check check = { .ttl_ms = 10000 };
    sdc_instancer_desc watch = { .query = { .service = name } };
    sdc_registration web = { .name = name, .checks = &check, .num_checks = 1 };
    sdc_registrar_desc keep = { .registration = web };
    sdc_client *client;
    sdc_instancer *instancer;
    sdc_registrar *registrar;
    sdc_error error = { .message = "no pipe" };

    keep.registration.port = (uint16_t)(argc > 2 ? strtoul(argv[2], NULL, 10) : 8080);
    if (pipe(wake_pipe) != 0 || fcntl(wake_pipe[1], F_SETFL, O_NONBLOCK) != 0 ||
        sdc_client_create(&(sdc_client_desc){ 0 }, &client, &error) != SDC_OK ||
        sdc_instancer_create(client, &watch, &instancer, &error) != SDC_OK ||
        sdc_registrar_create(client, &keep, &registrar, &error) != SDC_OK) {
        fprintf(stderr, "poll: %s\n", error.message);
        return 1;
    }
    tasks[WATCH] = sdc_instancer_task(instancer);
    tasks[KEEP] = sdc_registrar_task(registrar);
    sdc_task_on_wake(tasks[WATCH], on_wake, NULL);
    sdc_task_on_wake(tasks[KEEP], on_wake, NULL);
    (void)sdc_instancer_subscribe(instancer, on_event, NULL);
    (void)signal(SIGINT, on_signal);
    loop();
    sdc_registrar_destroy(registrar);
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
    return 0;
}
