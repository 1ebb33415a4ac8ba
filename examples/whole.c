/* whole: everything at once. A program that registers itself as an instance of "web" and calls the
   instances of "web", whoever they are.

     cc -I. -o whole examples/whole.c examples/sdconsul.c -lpthread
     ./whole                 in three terminals; then Ctrl-C in one, kill -9 for another

       registrar    tells the agent that we are here, and that we are well
         (agent     of Consul, at CONSUL_HTTP_ADDR or 127.0.0.1:8500)
       instancer    asks it who is there, and hears of changes at once
       cache        keeps the list
       endpointer   makes a connection of each instance, and closes it when that has gone
       balancer     picks one for each call
       retry        makes the call, and on another one if it fails

   Where there is no Consul, `make build/embedded_agent` and `build/embedded_agent --port 8500` do.
   The main thread steps the tasks in a poll loop. Calls block and have a thread of their own. */
#include "sdconsul.h"

#include "hello.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REGISTER, WATCH, ENDPOINTS, NUM_TASKS, PAUSE_MS = 200 };

static sdc_task *tasks[NUM_TASKS];
static int wake_pipe[2];            /* a byte in it ends the poll of the main thread */
static int end_pipe[2];             /* its end ends the calls */
static unsigned num_calls, num_lost;

/* ---- an endpoint: what is called ---- */

/* A connection that is kept from call to call. One will do, since one thread calls. */
typedef struct endpoint { struct sockaddr_in to; int fd; } endpoint;

/* For each new address. Must not block: the first call connects. */
static sdc_err on_open(void *user, const sdc_instance *instance, void **out)
{
    endpoint *e = calloc(1, sizeof *e);

    (void)user;
    if (e == NULL) {
        return SDC_ERR_NOMEM;
    }
    e->fd = -1;
    e->to = hello_at(instance->host, instance->port);
    *out = e;
    return SDC_OK;
}

/* When the last instance there has gone and no call is under way; on any thread. */
static void on_close(void *user, void *endpoint_of_ours)
{
    endpoint *e = endpoint_of_ours;

    (void)user;
    if (e->fd >= 0) {
        (void)close(e->fd);
    }
    free(e);
}

/* ---- calls, on their thread ---- */

static sdc_err on_call(void *user, const sdc_pick *pick, uint32_t left_ms)
{
    endpoint *e = pick->endpoint;
    sdc_err err = hello_get(&e->fd, &e->to, left_ms);

    (void)user;
    printf("%s %s\n", pick->instance->addr, err == SDC_OK ? "answers" : sdc_err_str(err));
    return err;
}

/* Until end_pipe is closed. */
static void *call_again_and_again(void *balancer)
{
    sdc_retry_desc get = { .timeout_ms = 3000, .try_timeout_ms = 1000, .call = on_call };
    struct pollfd end = { .fd = end_pipe[0], .events = POLLIN };
    sdc_error error;

    for (; poll(&end, 1, PAUSE_MS) <= 0; num_calls++) {
        if (sdc_retry(balancer, &get, &error) != SDC_OK) {
            printf("lost: %s\n", error.message);
            num_lost++;
        }
    }
    return NULL;
}

/* ---- tasks, on the main thread ---- */

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    (void)user;
    printf("%zu instances: %zu came, %zu went. %s\n", event->num_instances, change->num_added,
           change->num_removed, event->message);
}

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

static int fail(const char *why)
{
    fprintf(stderr, "whole: %s\n", why);
    return 1;
}

static bool make_pipes(void)
{
    return pipe(end_pipe) == 0 && pipe(wake_pipe) == 0 &&
           fcntl(wake_pipe[1], F_SETFL, O_NONBLOCK) == 0;
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

int main(void)
{
    static hello server;            /* what the others call */
    sdc_check alive = { .ttl_ms = 5000 };
    sdc_registrar_desc me = { .registration = {
        .name = "web", .address = "127.0.0.1", .checks = &alive, .num_checks = 1 } };
    sdc_instancer_desc others = { .query = { .service = "web", .passing_only = true } };
    sdc_endpointer_desc connections = { .open = on_open, .close = on_close };
    sdc_balancer_desc policy = { .policy = SDC_POLICY_ROUND_ROBIN, .eject_after = 2 };
    sdc_client *client = NULL;
    sdc_registrar *registrar = NULL;
    sdc_instancer *instancer = NULL;
    sdc_endpointer *endpointer = NULL;
    sdc_balancer *balancer = NULL;
    sdc_error error;
    pthread_t caller;

    /* What others will call has to be there before it is registered. */
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (!make_pipes() || !hello_start(&server)) {
        return fail(strerror(errno));
    }
    me.registration.port = server.port;

    /* Each is made from the one before. Nothing is sent yet. */
    if (sdc_client_create(NULL, &client, &error) != SDC_OK ||
        sdc_registrar_create(client, &me, &registrar, &error) != SDC_OK ||
        sdc_instancer_create(client, &others, &instancer, &error) != SDC_OK ||
        sdc_endpointer_create(sdc_instancer_cache(instancer), &connections, client, &endpointer,
                              &error) != SDC_OK ||
        sdc_balancer_create(endpointer, &policy, &balancer, &error) != SDC_OK) {
        return fail(error.message);
    }

    /* These two block, once: we are here, and who else is? */
    if (sdc_registrar_register(registrar, &error) != SDC_OK ||
        sdc_instancer_wait(instancer, 1, 5000, &error) != SDC_OK) {
        return fail(error.message);
    }

    /* From here on the loop does it all. */
    tasks[REGISTER] = sdc_registrar_task(registrar);
    tasks[WATCH] = sdc_instancer_task(instancer);
    tasks[ENDPOINTS] = sdc_endpointer_task(endpointer);
    for (int i = 0; i < NUM_TASKS; i++) {
        sdc_task_on_wake(tasks[i], on_wake, NULL);
    }
    (void)sdc_instancer_subscribe(instancer, on_event, NULL);
    (void)signal(SIGINT, on_signal);
    (void)signal(SIGTERM, on_signal);
    if (pthread_create(&caller, NULL, call_again_and_again, balancer) != 0) {
        return fail("no thread");
    }
    loop();                         /* until all are stopped, which a signal does */

    /* Nobody finds us any more. Calls end before what they use; the rest goes in any order. */
    (void)close(end_pipe[1]);
    (void)pthread_join(caller, NULL);
    printf("%u calls, %u lost\n", num_calls, num_lost);
    sdc_balancer_destroy(balancer);
    sdc_endpointer_destroy(endpointer);
    sdc_instancer_destroy(instancer);
    sdc_registrar_destroy(registrar);
    sdc_client_destroy(client);
    return num_lost == 0 ? 0 : 1;
}
