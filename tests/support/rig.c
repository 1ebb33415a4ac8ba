/* The common beginning of tests behind rig.h. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void rig_join(script_text *t, const sdc_instance *instances, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        script_printf(t, "%s%s", i > 0 ? "," : "", instances[i].addr);
    }
    script_add(t, "", 0);
}

static void rig_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    rig *r = (rig *)user;
    r->events = (rig_event *)realloc(r->events, (r->num_events + 1) * sizeof *r->events);
    if (r->events == NULL) {
        abort();
    }
    rig_event *seen = &r->events[r->num_events++];
    memset(seen, 0, sizeof *seen);
    seen->at_ms = world_now(r->world);
    seen->err = event->err;
    seen->is_known = event->is_known;
    seen->num_instances = event->num_instances;
    seen->num_added = change->num_added;
    seen->num_removed = change->num_removed;
    seen->num_updated = change->num_updated;
    snprintf(seen->message, sizeof seen->message, "%s", event->message);
    script_text t;
    memset(&t, 0, sizeof t);
    rig_join(&t, event->instances, event->num_instances);
    snprintf(seen->addrs, sizeof seen->addrs, "%s", t.text);
    script_text_deinit(&t);
}

bool rig_init_client(rig *r, const world_desc *desc, const sdc_client_desc *client)
{
    memset(r, 0, sizeof *r);
    fault_alloc_init(&r->memory);
    r->world = world_create(desc);
    r->script = script_create(r->world, "10.0.0.1", 8500);
    sdc_allocator allocator = fault_alloc_hook(&r->memory);
    sdc_logger logger = world_logger(r->world);
    sdc_client_desc own = *client;
    own.ignore_environment = true;
    own.address = own.address != NULL ? own.address : "10.0.0.1:8500";
    own.io = own.io != NULL ? own.io : world_io(r->world);
    own.allocator = own.allocator != NULL ? own.allocator : &allocator;
    own.logger = own.logger != NULL ? own.logger : &logger;
    sdc_error error;
    memset(&error, 0, sizeof error);
    sdc_err err = sdc_client_create(&own, &r->client, &error);
    if (err != SDC_OK) {
        FAIL("sdc_client_create: %s: %s", test_err_name(err), error.message);
    }
    return err == SDC_OK;
}

bool rig_init(rig *r, const world_desc *desc)
{
    sdc_client_desc client;
    memset(&client, 0, sizeof client);
    return rig_init_client(r, desc, &client);
}

void rig_deinit(rig *r)
{
    sdc_instancer_destroy(r->instancer);
    sdc_registrar_destroy(r->registrar);
    sdc_client_destroy(r->client);
    world_destroy(r->world);
    fault_alloc_deinit(&r->memory);
    free(r->events);
    free(r->addrs);
    memset(r, 0, sizeof *r);
}

bool rig_watch(rig *r, const sdc_instancer_desc *desc)
{
    sdc_instancer_desc own;
    memset(&own, 0, sizeof own);
    if (desc != NULL) {
        own = *desc;
    }
    if (own.query.service == NULL) {
        own.query.service = "web";
    }
    sdc_error error;
    memset(&error, 0, sizeof error);
    sdc_err err = sdc_instancer_create(r->client, &own, &r->instancer, &error);
    if (err == SDC_OK) {
        r->task = sdc_instancer_task(r->instancer);
        err = sdc_instancer_subscribe(r->instancer, rig_on_event, r);
    }
    if (err != SDC_OK) {
        FAIL("rig_watch: %s: %s", test_err_name(err), error.message);
    }
    return err == SDC_OK;
}

sdc_instancer *rig_watch_of(sdc_client *client)
{
    sdc_instancer *instancer = NULL;
    sdc_instancer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.query.service = "web";
    CHECK_ERR(sdc_instancer_create(client, &desc, &instancer, NULL), SDC_OK);
    return instancer;
}

bool rig_register(rig *r, const sdc_registrar_desc *desc)
{
    sdc_check check;
    memset(&check, 0, sizeof check);
    check.ttl_ms = 10000;
    sdc_registrar_desc own;
    memset(&own, 0, sizeof own);
    own.registration.id = "web-1";
    own.registration.name = "web";
    own.registration.address = "10.9.0.1";
    own.registration.port = 8000;
    own.registration.checks = &check;
    own.registration.num_checks = 1;
    sdc_error error;
    memset(&error, 0, sizeof error);
    sdc_err err = sdc_registrar_create(r->client, desc != NULL ? desc : &own, &r->registrar,
                                       &error);
    if (err != SDC_OK) {
        FAIL("rig_register: %s: %s", test_err_name(err), error.message);
        return false;
    }
    r->task = sdc_registrar_task(r->registrar);
    return true;
}

sdc_err rig_run(rig *r, uint64_t ms)
{
    return world_run(r->world, r->task, ms);
}

sdc_err rig_run_exchange(rig *r)
{
    return world_run_exchange(r->world, r->task, 3600000);
}

sdc_err rig_stop(rig *r)
{
    sdc_stop(r->task);
    return world_run(r->world, r->task, 10000);
}

const char *rig_addrs(rig *r)
{
    const sdc_event *event = sdc_instancer_state(r->instancer);
    script_text t;
    memset(&t, 0, sizeof t);
    rig_join(&t, event->instances, event->num_instances);
    sdc_event_release(event);
    free(r->addrs);
    r->addrs = t.text;
    return r->addrs;
}

sdc_err rig_err(rig *r)
{
    const sdc_event *event = sdc_instancer_state(r->instancer);
    sdc_err err = event->err;
    sdc_event_release(event);
    return err;
}

bool rig_is_known(rig *r)
{
    const sdc_event *event = sdc_instancer_state(r->instancer);
    bool is_known = event->is_known;
    sdc_event_release(event);
    return is_known;
}

size_t rig_num_events(const rig *r)
{
    return r->num_events;
}

const rig_event *rig_event_nth(const rig *r, size_t nth)
{
    return nth < r->num_events ? &r->events[nth] : NULL;
}

const rig_event *rig_last(const rig *r)
{
    return r->num_events > 0 ? &r->events[r->num_events - 1] : NULL;
}
