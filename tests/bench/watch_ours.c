/* The instancer of sdconsul.h, subscribed to, stepped until the exchange ends.

   An instancer does not ask more often than each 500 ms, and each 15 s where
   nothing changes. The clock it is given jumps over these pauses: all else is
   as in any program. */
#include "sdconsul.h"
#include "watch.h"

static uint64_t ahead_ms, num_events, num_allocations, num_bytes;
static uint64_t (*real_now_ms)(void *user);

static uint64_t jumping_now_ms(void *user)
{
    return real_now_ms(user) + ahead_ms;
}

static void *counting_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    if (new_size == 0) {
        free(ptr);
        return NULL;
    }
    if (new_size > old_size) {
        num_allocations++;
        num_bytes += new_size - old_size;
    }
    return realloc(ptr, new_size);
}

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    (void)user;
    (void)change;
    num_events += event->err == SDC_OK;
}

static void one_exchange(sdc_task *task)
{
    sdc_err err = SDC_AGAIN;
    sdc_error error;

    while (err == SDC_AGAIN) {
        err = sdc_step(task, -1);
    }
    if (err != SDC_OK) {
        sdc_task_error(task, &error);
        watch_fail(error.message);
    }
    ahead_ms += 15000;
}

static sdc_instancer *instancer_new(const plan *p)
{
    static sdc_io io;
    static const sdc_allocator allocator = { NULL, counting_resize };
    char address[32];
    sdc_client_desc client_desc;
    sdc_instancer_desc desc;
    sdc_client *client;
    sdc_instancer *instancer;
    sdc_error error;

    io = *sdc_io_posix();
    real_now_ms = io.now_ms;
    io.now_ms = jumping_now_ms;
    (void)snprintf(address, sizeof address, "127.0.0.1:%s", p->port);
    memset(&client_desc, 0, sizeof client_desc);
    client_desc.address = address;
    client_desc.ignore_environment = true;
    client_desc.allocator = &allocator;
    client_desc.io = &io;
    memset(&desc, 0, sizeof desc);
    desc.query.service = p->service;
    desc.query.passing_only = true;
    desc.resync_ms = SDC_NEVER;
    if (sdc_client_create(&client_desc, &client, &error) != SDC_OK ||
        sdc_instancer_create(client, &desc, &instancer, &error) != SDC_OK) {
        watch_fail(error.message);
    }
    return instancer;
}

int main(int argc, char **argv)
{
    plan p = watch_plan(argc, argv);
    sdc_instancer *instancer = instancer_new(&p);
    sdc_task *task = sdc_instancer_task(instancer);
    char facts[160];

    (void)sdc_instancer_subscribe(instancer, on_event, NULL);
    watch_begin();
    for (unsigned i = 0; i < p.num_warm; i++) {
        one_exchange(task);
    }
    num_events = num_allocations = num_bytes = 0;
    uint64_t began = watch_cpu_us();
    for (unsigned i = 0; i < p.num; i++) {
        one_exchange(task);
    }
    uint64_t took = watch_cpu_us() - began;
    (void)snprintf(facts, sizeof facts,
                   "\"events\": %.3f, \"allocations\": %.3f, \"allocated_bytes\": %.0f",
                   (double)num_events / p.num, (double)num_allocations / p.num,
                   (double)num_bytes / p.num);
    watch_done(&p, took, facts);
    while (sdc_step(task, -1) != SDC_STOPPED) {
        continue;
    }
    return 0;
}
