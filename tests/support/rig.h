/* What most tests of a watch or a registration begin with: a world, a scripted server at
   10.0.0.1:8500, a client on a fault-injecting allocator, and a record of all events.

       rig r;
       rig_init(&r, NULL);
       script_health(r.script, 10, SCRIPT_LIST(r.script, { .address = "10.1.0.1", .port = 80 }));
       script_hold(r.script);
       rig_watch(&r, NULL);
       rig_run(&r, 1000);
       CHECK_STR(rig_addrs(&r), "10.1.0.1:80");
       CHECK_INT(rig_num_events(&r), 2);                the first one is "nothing heard yet"
       rig_deinit(&r);                  destroys everything, and reports leaks and breaches  */
#ifndef RIG_H
#define RIG_H

#include "alloc.h"
#include "script.h"
#include "test.h"
#include "world.h"

typedef struct rig_event {
    uint64_t at_ms;                 /* the clock when the subscriber was called               */
    sdc_err  err;
    bool     is_known;
    size_t   num_instances, num_added, num_removed, num_updated;
    char     addrs[200];            /* "10.1.0.1:80,10.1.0.2:80", cut when longer             */
    char     message[256];
} rig_event;

typedef struct rig {
    world         *world;
    script        *script;
    sdc_client    *client;
    sdc_instancer *instancer;       /* NULL before rig_watch                                  */
    sdc_registrar *registrar;       /* NULL before rig_register                               */
    sdc_task      *task;            /* of the one that was made last                          */
    fault_alloc    memory;
    rig_event     *events;
    size_t         num_events;
    char          *addrs;           /* of rig_addrs                                           */
} rig;

/* desc may be NULL. False (and a failed check) when the client could not be made. */
bool rig_init(rig *r, const world_desc *desc);
/* The same with a client of the test's own making: fields that stay zero are filled in (address,
   io, allocator, logger), and the environment is ignored. */
bool rig_init_client(rig *r, const world_desc *desc, const sdc_client_desc *client);
void rig_deinit(rig *r);            /* what the test has destroyed itself is NULL before      */

/* desc may be NULL: all zero. A missing service name becomes "web". */
bool rig_watch(rig *r, const sdc_instancer_desc *desc);
/* A watch of the service web by a client of the test's own, which the test destroys. */
sdc_instancer *rig_watch_of(sdc_client *client);
/* desc may be NULL: the service web, id web-1, 10.9.0.1:8000, with a TTL check of 10 s. */
bool rig_register(rig *r, const sdc_registrar_desc *desc);

/* Steps the task made last for ms of virtual time; see world_run. */
sdc_err rig_run(rig *r, uint64_t ms);
/* Until an exchange has ended, at most a virtual hour. */
sdc_err rig_run_exchange(rig *r);
/* Stops the task and runs it until it says so, at most 10 s; the answer is SDC_STOPPED. */
sdc_err rig_stop(rig *r);

/* The state as it is now. */
const char *rig_addrs(rig *r);      /* by comma, "" none; valid until the next call           */
sdc_err     rig_err(rig *r);
bool        rig_is_known(rig *r);
/* What the subscriber saw; [0] is the call inside subscribe. NULL: not so many. */
size_t           rig_num_events(const rig *r);
const rig_event *rig_event_nth(const rig *r, size_t nth);
const rig_event *rig_last(const rig *r);

#endif
