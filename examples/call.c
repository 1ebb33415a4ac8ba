/* call: HTTP requests to three servers by endpointer, balancer and retry. One of them dies in the
   middle of an answer, and no request is lost. Brings the servers itself and needs no agent.

     cc -I. -o call examples/call.c examples/sdconsul.c -lpthread && ./call */
#include "sdconsul.h"

#include "hello.h"

#include <stdio.h>
#include <stdlib.h>

enum { NUM_SERVERS = 3, NUM_CALLS = 300, DEATH = 40, NEWS = 200 };

static unsigned num_answered[NUM_SERVERS], num_failed;

/* An endpoint: a connection that is kept from call to call. It serves one thread; where several
   call, a list of idle connections under a lock stands in its place. */
typedef struct endpoint { struct sockaddr_in to; int fd; } endpoint;

/* Once for each new address. Must not block, so it only notes where; the first call connects. */
static sdc_err on_open(void *user, const sdc_instance *instance, void **out)
{
    endpoint *e = calloc(1, sizeof *e);

    (void)user;
    if (e == NULL) {
        return SDC_ERR_NOMEM;
    }
    e->fd = -1;
    e->to = hello_at(instance->host, instance->port);
    printf("opened %s\n", instance->addr);
    *out = e;
    return SDC_OK;
}

/* Once for each, when its instance has gone and no call uses it any more. */
static void on_close(void *user, void *endpoint_of_ours)
{
    endpoint *e = endpoint_of_ours;

    (void)user;
    printf("closed 127.0.0.1:%u\n", (unsigned)ntohs(e->to.sin_port));
    if (e->fd >= 0) {
        (void)close(e->fd);
    }
    free(e);
}

/* One try. After a failure comes another one, elsewhere: a GET may well be made twice. */
static sdc_err on_call(void *user, const sdc_pick *pick, uint32_t left_ms)
{
    endpoint *e = pick->endpoint;
    sdc_err err = hello_get(&e->fd, &e->to, left_ms);

    (void)user;
    if (err == SDC_OK) {
        num_answered[pick->instance->id[0] - 'a']++;
    } else {
        num_failed++;
        printf("failed %s: %s\n", pick->instance->addr, sdc_err_str(err));
    }
    return err;
}

int main(void)
{
    static hello servers[NUM_SERVERS];
    sdc_instance list[NUM_SERVERS] = { { .id = "a" }, { .id = "b" }, { .id = "c" } };
    sdc_endpointer_desc endpoints = { .open = on_open, .close = on_close };
    sdc_balancer_desc policy = { .policy = SDC_POLICY_ROUND_ROBIN, .eject_after = 2 };
    sdc_retry_desc get = { .call = on_call, .timeout_ms = 5000, .try_timeout_ms = 1000 };
    sdc_client *client = NULL;
    sdc_cache *cache = NULL;        /* with Consul: sdc_instancer_cache(instancer), as in whole.c */
    sdc_endpointer *endpointer = NULL;
    sdc_balancer *balancer = NULL;
    sdc_error error = { .message = "no memory" };
    unsigned num_lost = 0;

    servers[1].dies_at = DEATH;
    for (int i = 0; i < NUM_SERVERS; i++) {
        if (!hello_start(&servers[i])) {
            perror("call");
            return 1;
        }
        list[i].host = "127.0.0.1";
        list[i].port = servers[i].port;
    }
    if (sdc_client_create(NULL, &client, &error) != SDC_OK ||
        sdc_cache_create(NULL, &cache) != SDC_OK ||
        sdc_cache_update(cache, list, NUM_SERVERS, 0, sdc_client_now_ms(client)) != SDC_OK ||
        sdc_endpointer_create(cache, &endpoints, client, &endpointer, &error) != SDC_OK ||
        sdc_balancer_create(endpointer, &policy, &balancer, &error) != SDC_OK) {
        fprintf(stderr, "call: %s\n", error.message);
        return 1;
    }
    for (int i = 0; i < NUM_CALLS; i++) {
        if (i == NEWS) {            /* only now does the source hear that b is gone */
            list[1] = list[2];
            (void)sdc_cache_update(cache, list, 2, 0, sdc_client_now_ms(client));
        }
        if (sdc_retry(balancer, &get, &error) != SDC_OK) {
            printf("lost:  %s\n", error.message);
            num_lost++;
        }
    }
    printf("%d calls: a answered %u, b %u, c %u. %u tries failed, %u calls were lost.\n", NUM_CALLS,
           num_answered[0], num_answered[1], num_answered[2], num_failed, num_lost);
    sdc_balancer_destroy(balancer);
    sdc_endpointer_destroy(endpointer);
    sdc_cache_destroy(cache);
    sdc_client_destroy(client);
    return num_lost == 0 ? 0 : 1;
}
