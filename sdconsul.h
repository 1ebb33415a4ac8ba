/* sdconsul.h - Consul service discovery for C programs, in one header

   MIT licence; its text stands at the end of this file.

   A program includes this file, registers its service with a Consul agent,
   watches the instances of others by blocking queries, and gets one of them for
   each call. It needs libc and POSIX sockets and nothing else; it starts no
   thread and owns no loop: the program calls a step function.


   HOW TO INCLUDE IT

   Anywhere:                     #include "sdconsul.h"

   In exactly one .c or .cc file, before anything else:

       #define SDCONSUL_IMPLEMENTATION
       #include "sdconsul.h"

   C99 or later, C++11 or later, with gcc or clang. The implementation needs
   POSIX.1-2008 declared by the system's headers: compilers do that by default
   (-std=gnu99 and so on); with a strict -std=c99 also give
   -D_POSIX_C_SOURCE=200809L. The public half needs nothing of the kind.
   Link with nothing.


   CONTENTS                                search for a tag to get to its place

       [sdc:config]      what a program may define
       [sdc:api]         the public interface
       [sdc:platform]    system headers, compiler, atomics
       [sdc:base]        slices, errors, memory, buffers, numbers, pauses
       [sdc:json]        the JSON decoder
       [sdc:entries]     health answers, one instance at a time
       [sdc:url]         addresses, escaping
       [sdc:http]        the HTTP/1.x response decoder
       [sdc:io]          the outside world by POSIX
       [sdc:call]        one HTTP exchange on a kept connection
       [sdc:client]      where Consul is and who we are; requests and answers
       [sdc:task]        sdc_step
       [sdc:cache]       events and subscribers
       [sdc:registrar]   registering, and staying registered
       [sdc:instancer]   queries, and watching
       [sdc:endpointer]  what is made of instances, kept while they live
       [sdc:balancer]    one endpoint for each call
       [sdc:retry]       calls that may be made more than once

   Each section uses only what stands above it.


   A COMPLETE PROGRAM

       #include <stdio.h>
       #define SDCONSUL_IMPLEMENTATION
       #include "sdconsul.h"

       static void on_event(void *user, const sdc_event *event,
                            const sdc_change *change)
       {
           (void)user;
           printf("%zu instances, %zu new: %s\n", event->num_instances,
                  change->num_added, sdc_err_str(event->err));
           for (size_t i = 0; i < event->num_instances; i++) {
               printf("  %s\n", event->instances[i].addr);
           }
       }

       int main(void)
       {
           sdc_client *client;
           sdc_instancer *web;
           sdc_instancer_desc desc = { .query = { .service = "web",
                                                  .passing_only = true } };
           sdc_error error;

           if (sdc_client_create(NULL, &client, &error) != SDC_OK ||
               sdc_instancer_create(client, &desc, &web, &error) != SDC_OK) {
               fprintf(stderr, "%s\n", error.message);
               return 1;
           }
           sdc_instancer_subscribe(web, on_event, NULL);
           while (sdc_step(sdc_instancer_task(web), -1) != SDC_STOPPED) {
               continue;
           }
           sdc_instancer_destroy(web);
           sdc_client_destroy(client);
           return 0;
       }


   MANUAL

   1. Where Consul is

   A client says where the agent is and who we are. It opens no connection. All
   zero means the local agent, or what CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and
   their relatives say, as for Consul's own tools:

       sdc_client_desc desc = { .address = "10.0.0.1:8500",
                                .token_file = "/run/secrets/consul" };

   Several agents may be named, the preferred one first:

       .address = "10.0.0.1:8500,10.0.0.2:8500,10.0.0.3:8500"

   Each task uses the first and stays there as long as it works. It goes on to
   the next one when it cannot connect, gets no answer in time, is refused for a
   limit, or hears that there is no leader; a connection that breaks is made
   again with the same agent first. After five minutes elsewhere it looks for
   the first one, for connect_timeout_ms at most, and goes back to where it was
   if that is still away. A name is resolved anew for each connection, and all
   of its addresses are tried.

   A token goes into the X-Consul-Token header and nowhere else. The file is
   read anew for each request, so a rotated token is used by the next one; while
   it cannot be read, the last one that was read stays. sdc_client_set_token
   does the same by hand, from any thread. A watch whose token has changed
   starts over without an index.

   2. Ask once

       sdc_query query = { .service = "web", .passing_only = true };
       const sdc_event *answer;
       if (sdc_client_service(client, &query, &answer, &error) == SDC_OK) {
           ... answer->instances[i].addr ...
           sdc_event_release(answer);
       }

   blocks for request_timeout_ms at most. With query.index set to the index of
   the last answer it is a blocking query, held for its wait, and answer->index
   is what to ask with next.

   3. Watch

   An instancer asks again and again: the first read answers at once, the others
   are held by the agent until something changes, so a change is heard of within
   milliseconds and an unchanged service costs one request a minute. Subscribe,
   and step:

       sdc_instancer_subscribe(web, on_event, user);
       while (sdc_step(sdc_instancer_task(web), -1) != SDC_STOPPED) { }

   A subscriber is called at once with the state, and then with each event: the
   whole list, and what was added, removed and updated since the last one. It is
   not called when an answer changes nothing. Or do not subscribe, and look:

       const sdc_event *now = sdc_instancer_state(web);    any thread
       ...
       sdc_event_release(now);

   At the start of a program

       sdc_instancer_wait(web, 1, 5000, &error);

   steps until one instance is known, or five seconds are over.

   A burst of changes, a deployment say, can be shown as one: quiet_min_ms of
   the instancer waits until nothing has changed for so long, but not beyond
   quiet_max_ms.

   Failures keep the list. event->err is then not SDC_OK, message says why,
   failing_since_ms since when, and instances are the last good ones. An empty
   list with is_known true means that there are none; a list that turns empty
   has been confirmed by a second read. A service that nobody has registered is
   known and empty, too. A token that may not read the service looks like that
   as well: SDC_ERR_DENIED where the agent says so, filtered_by_acl in sdc_stats
   and a warning where it only leaves instances out.

   4. Register

       sdc_check check = { .ttl_ms = 10000 };
       sdc_registrar_desc desc = { .registration = {
           .name = "web", .address = "10.0.0.7", .port = 8080,
           .checks = &check, .num_checks = 1 } };
       sdc_registrar_create(client, &desc, &me, &error);
       ... step sdc_registrar_task(me) ...
       sdc_registrar_set_status(me, NULL, SDC_STATUS_WARNING, "queue is long");
       ... sdc_stop(sdc_registrar_task(me)); step until SDC_STOPPED ...

   The task registers, tries again until that succeeds, beats each TTL check at
   a third of its TTL, registers again when the agent has forgotten the service,
   and deregisters when stopped. A program that dies without stopping turns
   critical after its TTL and is removed by the agent an hour later, unless
   deregister_critical_after_ms says otherwise (SDC_NEVER: it stays).

   The ID is name-address-port unless you give one: the same at each start, so
   that a restarted program takes its old place.

   Heartbeats prove that the task is stepped, not that the program is well. With
   status_expires_ms they end when sdc_registrar_set_status was not called for
   so long, the TTL lapses, and the next call brings them back at once: call it
   from what must not hang, as often as you like. A status that is the same as
   before costs no request.

   sdc_registrar_update registers other tags, meta or weights under the same ID,
   without a gap and from any thread.

   Checks that an agent has and the registration has not are taken away when
   this registrar registers there for the first time, or again after an update
   with other checks, after it has ended a maintenance, and after somebody has
   changed the registration. A maintenance is such a check: the program's own is
   set again at once, before anything else, but one by an operator (consul maint
   -service) ends with that.

   A registration lives in one agent. Where the client names several it moves to
   the next when this one does not answer, and home to the first after minutes;
   what it leaves behind is taken back as soon as that agent answers again. An
   agent further down the list that refuses it is left for the next, too; what
   the first one refuses is tried again there. The log names the agent. Such a
   service needs an address of its own, since the node's is another one on
   another agent.

   Where the agent checks the service itself (http, tcp, grpc, ...) there is
   nothing to beat: the task asks every verify_ms whether the service is still
   there, and still as it was registered; what somebody has removed or replaced
   is registered again. With enable_tag_override only its presence counts. For
   a registration without any of this there are sdc_client_register and
   sdc_client_deregister, which block.

   5. Call

   What a program calls is not an instance but something made from one, a
   connection or a pool. An endpointer keeps one for each address in a cache:

       sdc_endpointer_desc pools = { .open = on_open, .close = on_close };
       sdc_endpointer_create(sdc_instancer_cache(web), &pools, client,
                             &endpointer, &error);

   open comes once for each new address and must not block: it notes where, and
   the first call connects. The endpoint stays through all updates, until its
   last instance has gone and the last call with it is done; then close comes,
   once, on the thread of whoever let go last. Step sdc_endpointer_task in the
   loop of the watch; it has timers alone, for opens that failed and for
   invalidate_after_ms, and left alone they are seen to at the next pick.

   A balancer picks one, on any thread, and hears how the call went. Several
   threads may get the same one at the same time. Until the first answer there
   is nothing to pick from: sdc_instancer_wait.

       sdc_balancer_desc policy = { .policy = SDC_POLICY_LEAST_LOADED,
                                    .eject_after = 5 };
       sdc_balancer_create(endpointer, &policy, &balancer, &error);
       ...
       if (sdc_balancer_next(balancer, NULL, &pick) == SDC_OK) {
           sdc_balancer_done(balancer, &pick, my_call(pick.endpoint));
       }

   A call that can be made twice is better left to a retry, which blocks: up to
   three tries, each at another endpoint while there is one, with short pauses,
   and so few that they make no outage worse. For a call that can not, the hook
   `again` says no. An answer that is the request's fault (404) is a success of
   the instance: SDC_OK.

       static sdc_err call(void *user, const sdc_pick *pick, uint32_t left_ms);
       sdc_retry_desc get = { .call = call, .timeout_ms = 2000,
                              .try_timeout_ms = 500 };
       err = sdc_retry(balancer, &get, &error);

   In an event loop sdc_attempt does the same in steps:

       sdc_attempt_init(&a, balancer, &get);
       switch (sdc_attempt_next(&a, &error)) {
       case SDC_OK:    begin the call to a.pick; when it has ended
                       sdc_attempt_done(&a, outcome), and if that is not
                       SDC_OK, next again
       case SDC_AGAIN: next again in a.pause_ms
       default:        given up; the message says why
       }
       sdc_attempt_deinit(&a);

   Zones, slow start, subsets and the ejection of what keeps failing are fields
   of sdc_balancer_desc, and off by default. Where zone or panic_percent are
   used, leave passing_only off in the query: they want to know how many are
   critical, and those get no calls anyhow.

   6. Your own loop

   sdc_step(task, 0) never blocks. What to wait for is told by sdc_task_wants,
   or, as it changes, to the function given to sdc_task_on_wants:

       for (;;) {
           sdc_wants wants = sdc_task_wants(task);
           struct pollfd p = { .fd = wants.fd, .events =
               (wants.readable ? POLLIN : 0) | (wants.writable ? POLLOUT : 0) };
           poll(&p, 1, wants.timeout_ms);
           sdc_step(task, 0);
       }

   Edge-triggered loops are fine; stepping too often is, too. One task has one
   descriptor at most; an endpointer's has none. wants.serial tells a new
   descriptor from an old one under the same number; a loop that keeps
   registrations, as epoll does, compares it, or relies on hearing of fd -1
   before every close.

   A step that is asked not to block cannot use the system's resolver. Give the
   agent's address as a number, a unix path or localhost; or let one blocking
   step resolve it; or plug in a resolve hook.

   sdc_stop, sdc_wake and the setters of a registrar may be called from other
   threads; sdc_task_on_wake then tells your loop that the task wants a step.

   7. Threads, signals, fork

   The library starts no thread. One task, one thread at a time; different tasks
   of one client may be stepped on different threads. Any thread may call
   sdc_stop, sdc_wake, sdc_task_stats, sdc_task_error, sdc_client_set_token,
   sdc_registrar_set_..., sdc_registrar_update, sdc_registrar_is_registered,
   sdc_instancer_state, sdc_cache_state, sdc_endpointer_each, sdc_balancer_...,
   sdc_retry, and retain and release events. An sdc_attempt belongs to one
   thread at a time, as tasks do. sdc_stop and sdc_wake may be called from
   signal handlers.

   An endpointer is created and destroyed on the thread that updates its source,
   which for an instancer is the one that steps it. open comes on that thread,
   on the one that steps the endpointer's task, or, where nobody does, on one
   that picks; close on the thread of whoever lets go last. What they share is
   theirs to lock.

   What threads share is under locks that are held for a few instructions and
   waited for by yielding; mind that where threads have real-time priorities.

   No signal is raised or handled: a write to a closed connection is an error,
   not SIGPIPE. Every descriptor is close-on-exec (where the system has no
   SOCK_CLOEXEC, from a moment after it was made). After fork the child owns
   copies of the descriptors: it must not step or stop the parent's tasks, only
   exec, or exit by _exit.

   8. Another world

   sdc_io is everything that the library does outside itself: clock, random
   numbers, names, streams, waiting and one file. Replace it to put TLS under a
   stream, to use your own resolver, or to run whole days of watching in a test
   within milliseconds. Copy *sdc_io_posix() and change what you need.

   9. Other sources

   sdc_cache is the store under an instancer. A program that learns of instances
   elsewhere (a file, DNS) creates one, calls sdc_cache_update, and has
   endpointers and balancers over it. examples/call.c does that.

   10. Decoders

   sdc_json, sdc_entries and sdc_http take bytes in any split and call back with
   whole pieces. They know neither sockets nor time, and are what the fuzzers
   drive.


   WHAT THE NETWORK SEES

   Reads     The first read has no index, later ones the index of the last
             answer and a wait of 54 to 60 s. Two reads beyond the first are
             free, then one comes each 500 ms at most; while answers come at
             once and change nothing that slows down to one each 15 s, or 2 s
             where a list is empty and its index moves.
   Index     One that goes backwards is not believed: the next read starts over
             without one, and the answer in between is not published. 0 counts
             as 1. A missing one means polling at the rate above.
   Failures  The next read comes 10 ms after the first, or anywhere within a
             second where a query broke that had been held; after further ones
             anywhere within half of the time that it has been failing, at
             least 1 s and at most 60 s. After 403 and 429 not under a second,
             and not before Retry-After has passed (of that at most
             backoff_max_ms, and an eighth more at random). It has no index.
             One good answer ends it. A list of agents is gone along without
             pauses, and each round of it is followed by one.
   Waits     Two queries in a row that are held for ten seconds or more and then
             cut, as proxies and write timeouts do, halve the wait, down to
             10 s; held ones let it grow again.
   Registrar One request for each registration, and one more that looks at it
             where there is no TTL check; a beat each third of the TTL, a tenth
             earlier at random; else a look each 30 s. What the program sets
             is sent at once, but not within 100 ms of the one before. Pauses
             as above, but no longer than 30 s, or half a beat where a TTL is
             at stake. Away from the first agent, a registration there each
             5 to 6 minutes; what was left behind is taken back with pauses of
             30 s to 10 min.
   Again     With max_stale_ms, an answer that is too old is asked again of the
             leader; so is every list that turns empty, 20 ms later, or after a
             second and up to five times while its index is below that of the
             list. A held query that ends early with the index it was asked
             with is followed by a full read, one in 10 s.
   Deadlines A connection must come up in 5 s for each address, an answer that
             nobody holds in 15 s, a blocking query in wait + wait/16 + 10 s.
   Connection  One for each task, kept open and watched; a request that meets a
             kept connection which has died is repeated once on a new one.
   Redirects are not followed. Compressed answers are not asked for.


   LIMITS

   No HTTP/2, no compression, no TLS of its own (see 8), no KV store, sessions,
   ACL management or Connect certificates. No IDN: names go to the resolver as
   they are. Port 0 means "no port": such an instance is left out, and counted,
   unless it has a socket path or named ports. An entry with more than 1024
   tags, ports, tagged addresses or meta pairs, or with more than 1 MiB of text,
   is left out. JSON nested deeper than 64 levels is an error; so is a string
   over 1 MiB in sdc_json. A client names at most 32 agents.

   No health checks of its own: an instance is healthy if Consul says so and
   calls to it succeed. Weights are scaled where their sum passes 65,536.
   Retries make one call after the other, never two at once (no hedging).


   ERRORS

   Functions answer an sdc_err; where they take an sdc_error it has the detail:
   an HTTP status, an errno, and one printable line that names the field, the
   agent or the byte. sdc_err_str has a few words for each value.

   SDC_ERR_ARG is a mistake in the program, and nothing was sent. SDC_ERR_DENIED
   wants another token; SDC_ERR_BUSY wants patience, which the tasks have by
   themselves. Tasks never give up: an error of sdc_step is news, not an end.
   SDC_ERR_EMPTY means that there is nothing to pick from: no instance, or none
   that could be opened. SDC_ERR_USER is for callbacks that have no better one.
   SDC_ASSERT guards against what a program can get wrong and the network can
   not; NDEBUG takes it out.


   MEMORY

   All of it comes from the client's allocator, and each free says how much was
   asked for. Answers are decoded as they arrive: their size is bounded by
   max_body_bytes, and what is held is one entry and the instances found so far.
   A kit of about 125 KiB (receive buffer, decoder, what decoders have learned)
   is lent to a task for one step, and to a blocking call while it lasts. The
   client keeps them: there are as many as were in use at once. A body that goes
   on in a later step keeps its decoder, of a few KiB, until it ends. Out of
   memory is an error like others: the last good state stays, and the task tries
   again.

   Of each entry a watch keeps a print: a hash of its bytes, 48 bits under a
   seed that nobody else knows, and how many they are. An entry of the next
   answer with the print that is expected at its place is that entry again, and
   is not read. Of changes, one in 10^14 would be overlooked so, until the next
   read with index 0 (resync_ms), which reads everything. With SDC_NO_FAST_PATH
   all answers are read so.

   An endpointer takes 1.5 KiB and about 300 bytes for each address, a copy of
   one of its instances among them; a balancer 4 KiB and about 200 bytes for
   each address. The order of a weighted one has a number for each unit of
   weight (over their greatest common divisor), at most 256 KiB, and the table
   of a hashed one 256 KiB; with a zone there can be three of these. All of that
   is made when the list changes, while the old one still stands: picks and
   tries take none. Where memory runs out then, picks go on with the list from
   before, and the change is tried again 100 ms later.


   VERSION

   SemVer: within a major version sources stay compatible, structs that end in
   _desc grow only at their end, and error values keep their numbers. No promise
   is made for the ABI: compile it together with the program.
*/

#ifndef SDCONSUL_H_INCLUDED
#define SDCONSUL_H_INCLUDED

/* ---- configuration --------------------------------------- [sdc:config] --
   What a program may define before it includes this file.

   SDCONSUL_IMPLEMENTATION   the bodies too; in exactly one file
   SDC_API                   how public functions are declared     (extern)
   SDC_ASSERT(condition)     caller's mistakes; NDEBUG silences    (assert)
   SDC_NO_FAST_PATH          the decoder of entries learns nothing, knows none
   SDC_NO_SIMD               plain words instead of SSE2 or NEON
   ------------------------------------------------------------------------- */
#ifndef SDC_API
#define SDC_API extern
#endif

/* ---- the public interface ----------------------------------- [sdc:api] --
   Strings    What goes in ends in NUL and is copied; NULL counts as "". What
              comes out ends in NUL, is borrowed and is never NULL.
   Descs      All zero is valid, and a comment in (brackets) says what a zero
              means. SDC_NEVER in a field that ends in _ms switches the thing
              off or makes it last for ever; where neither makes sense it is
              refused.
   Hooks      Structs of callbacks are copied. What their `user` points to
              outlives the last object and event that were made with them. A
              hook must neither throw nor longjmp.
   Errors     An sdc_error is written on every return, with code SDC_OK after
              success; pass NULL where nobody asks. `*out` is NULL after a
              failure. destroy and release take NULL.
   Holds      An object holds what it was made from. destroy lets go of the
              program's own hold; the order does not matter.
   Threads    One task, one thread at a time. What any thread may call says
              so. A client is shared by tasks on several threads.
   Callbacks  come with no lock held and all state consistent, from sdc_step,
              wait, subscribe, sdc_cache_update and destroy of that very
              object. They may call anything on any object, stop and destroy
              included, but a callback of a step must not step that task:
              that is SDC_ERR_ARG. The call in which a callback destroyed
              the object answers SDC_GONE.
   ------------------------------------------------------------------------- */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SDC_VERSION_MAJOR 0
#define SDC_VERSION_MINOR 1
#define SDC_VERSION_PATCH 0
#define SDC_VERSION \
    (SDC_VERSION_MAJOR * 10000 + SDC_VERSION_MINOR * 100 + SDC_VERSION_PATCH)

#define SDC_NEVER 0xFFFFFFFFu

#ifdef __cplusplus
extern "C" {
#endif

/* -- Results -------------------------------------------------------------- */

/* The first four are answers, the others are failures. */
typedef enum sdc_err {
    SDC_OK = 0,
    SDC_AGAIN,        /* not finished: call again when sdc_task_wants says so */
    SDC_STOPPED,      /* the task was stopped, and what it had to do is done  */
    SDC_GONE,         /* a callback destroyed the object: the pointer is dead */
    SDC_ERR_ARG,      /* an impossible argument; the message names the field  */
    SDC_ERR_NOMEM,
    SDC_ERR_LIMIT,    /* a limit was reached: head, body, depth, instances    */
    SDC_ERR_RESOLVE,  /* no address for the agent's name                      */
    SDC_ERR_CONNECT,
    SDC_ERR_TLS,      /* the transport refused the peer, or the peer it       */
    SDC_ERR_IO,       /* the connection broke in the middle of an exchange    */
    SDC_ERR_TIMEOUT,
    SDC_ERR_HTTP,     /* not HTTP/1.x, or framed wrongly                      */
    SDC_ERR_STATUS,   /* answered, but not 200: http_status and message tell  */
    SDC_ERR_DENIED,   /* 401 and 403                                          */
    SDC_ERR_BUSY,     /* 429, 503 of a rate limit, a full connection table    */
    SDC_ERR_JSON,     /* not JSON (RFC 8259)                                  */
    SDC_ERR_SHAPE,    /* JSON, but not what this endpoint answers             */
    SDC_ERR_EMPTY,    /* nothing to pick from                                 */
    SDC_ERR_USER      /* the program's own, for its callbacks; never ours     */
} sdc_err;

/* The detail behind an sdc_err. */
typedef struct sdc_error {
    int     http_status;            /* 0 unless an answer arrived             */
    int     os_errno;               /* 0 unless a system call failed          */
    sdc_err code;
    char    message[256];           /* one printable line, never with a token */
} sdc_error;

/* A few words for each value, such as "out of memory". Static, never NULL. */
SDC_API const char *sdc_err_str(sdc_err err);

/* The SDC_VERSION that the implementation was compiled from. */
SDC_API int sdc_version(void);

/* -- Hooks ---------------------------------------------------------------- */

typedef struct sdc_task sdc_task;

typedef struct sdc_kv {
    const char *key;
    const char *value;
} sdc_kv;

/* Memory. One function: an old_size of 0 allocates, a new_size of 0 frees and
   answers NULL; a resize that fails leaves `ptr` as it was. Any thread, since
   whoever releases the last hold on an event frees it. */
typedef struct sdc_allocator {
    void *user;
    void *(*resize)(void *user, void *ptr, size_t old_size, size_t new_size);
} sdc_allocator;

typedef enum sdc_log_level {
    SDC_LOG_DEBUG = 0, SDC_LOG_INFO, SDC_LOG_WARN, SDC_LOG_ERROR
} sdc_log_level;

/* Log. One call is one record: fields[0].key is "event", the others depend on
   it. Fields are borrowed for the call. Comes from whichever thread makes the
   thing happen. A token is never in it. */
typedef struct sdc_logger {
    void *user;
    void (*log)(void *user, sdc_log_level level, const sdc_kv *fields,
                size_t num_fields);
    sdc_log_level min_level;        /*                       (everything)     */
} sdc_logger;

/* What a task waits for. */
typedef struct sdc_wants {
    int      fd;                    /* -1: no descriptor to watch             */
    uint32_t serial;                /* differs when fd is another descriptor
                                       under the same number                  */
    bool     readable, writable;    /* either ends the wait; edges will do    */
    int      timeout_ms;            /* from now: step at the latest then;
                                       0 at once, -1 never                    */
    uint64_t deadline_ms;           /* the same on the clock of
                                       sdc_client_now_ms; UINT64_MAX never    */
} sdc_wants;

/* -- The outside world as one table --------------------------------------- */

/* What ends a wait. A member receives it as -1, false, false, UINT64_MAX. */
typedef struct sdc_ready {
    int      fd;
    bool     readable, writable;
    uint64_t at_ms;                 /* or at this time of now_ms              */
} sdc_ready;

typedef struct sdc_ip {
    char text[64];                  /* "10.0.0.1", "fe80::1%eth0"             */
} sdc_ip;

/* Where a stream goes. Borrowed for the call. */
typedef struct sdc_target {
    const char *host;               /* as in the client's address, without
                                       brackets: whom a certificate must name */
    const char *ip;                 /* numeric                                */
    const char *path;               /* of a unix socket; else ""              */
    uint16_t    port;
    bool        tls;                /* the address said https; offer http/1.1
                                       in ALPN, or none                       */
} sdc_target;

/* The library makes no system call but through these. A NULL member means the
   one of POSIX. The stream_ members come together, so do the two of resolve,
   and the three of the waker with wait. To put TLS under the library copy
   *sdc_io_posix(), replace the stream_ members and call the originals from
   them: those ignore `user`.
   None blocks, except wait, and resolve if may_block. For one task one member
   runs at a time.
   SDC_AGAIN means nothing yet: *until says what ends the wait (or sdc_wake
   does), and the member is called again with the same arguments. A descriptor
   named there stays open until stream_close or resolve_end. The library waits
   for a stream only after read or write answered SDC_AGAIN, so bytes that a
   transport holds decrypted are always taken first. A write that answers SDC_OK
   has taken something. Any other answer is a failure: message and os_errno of
   *error, which is never NULL, say why; its code is filled in. */
typedef struct sdc_io {
    void *user;
    bool  can_tls;                  /* stream_open does https; without it such
                                       an address is refused at create        */
    /* Milliseconds of a clock that never goes back. Any thread. */
    uint64_t (*now_ms)(void *user);
    /* 64 random bits. Any thread. */
    uint64_t (*random)(void *user);
    /* A name to numeric addresses; `host` is never numeric and never
       "localhost". *op is NULL at first and the hook's own; resolve_end
       follows if it was set, finished or not, and no sdc_wake comes after
       that. `task` is NULL in a one-shot call, where *until must say what
       ends the wait. The one of POSIX asks getaddrinfo if may_block, else it
       fails. */
    sdc_err (*resolve)(void *user, sdc_task *task, const char *host,
                       bool may_block, void **op, sdc_ip *ips, size_t max_ips,
                       size_t *num_ips, sdc_ready *until, sdc_error *error);
    void    (*resolve_end)(void *user, void *op);
    /* *stream is NULL at first. SDC_OK, once: bytes can flow, a TLS handshake
       included. stream_close follows if *stream was set. */
    sdc_err (*stream_open)(void *user, const sdc_target *target, void **stream,
                           sdc_ready *until, sdc_error *error);
    /* SDC_OK with *len 0 is the peer's orderly end. */
    sdc_err (*stream_read)(void *user, void *stream, void *bytes, size_t max,
                           size_t *len, sdc_ready *until, sdc_error *error);
    sdc_err (*stream_write)(void *user, void *stream, const void *bytes,
                            size_t len, size_t *written, sdc_ready *until,
                            sdc_error *error);
    /* At once: never waits for the peer. */
    void    (*stream_close)(void *user, void *stream);
    /* A waker exists while a step blocks. Waking it before the wait ends the
       next wait. waker_wake: any thread, and signal handlers. */
    sdc_err (*waker_create)(void *user, void **waker, sdc_error *error);
    void    (*waker_wake)(void *user, void *waker);
    void    (*waker_destroy)(void *user, void *waker);
    /* `waker` may be NULL. SDC_OK: ready, woken, interrupted, or time is up;
       the library looks for itself. */
    sdc_err (*wait)(void *user, void *waker, const sdc_wants *wants,
                    sdc_error *error);
    /* A whole file of at most `max` bytes; a longer one is SDC_ERR_LIMIT. */
    sdc_err (*read_file)(void *user, const char *path, char *text, size_t max,
                         size_t *len, sdc_error *error);
} sdc_io;

/* The table that is used where the client's desc gives none. Static. */
SDC_API const sdc_io *sdc_io_posix(void);

/* -- Client: where Consul is and who we are ------------------------------- */

/* The names in (brackets) in capitals are environment variables, read once at
   create, as the official client does. An empty one counts as not set. */
typedef struct sdc_client_desc {
    const char *address;            /* "host:port" | "http://host:port/prefix" |
                                       "https://..." | "unix:///path"; several
                                       agents by comma, also where one is a unix
                                       path, the preferred one first
                                       (CONSUL_HTTP_ADDR, 127.0.0.1:8500)     */
    const char *token;              /* ACL token             (see token_file) */
    const char *token_file;         /* trimmed, read anew for each request;
                                       wins over `token`, and both win over
                                       (CONSUL_HTTP_TOKEN_FILE, then
                                       CONSUL_HTTP_TOKEN, then none)          */
    const char *basic_auth;         /* "user:password"    (CONSUL_HTTP_AUTH)  */
    const char *datacenter;         /*                       (the agent's)    */
    const char *ns;                 /*                    (CONSUL_NAMESPACE)  */
    const char *partition;          /*                    (CONSUL_PARTITION)  */
    bool        ignore_environment; /*                       (false)          */
    uint32_t    connect_timeout_ms; /* for each numeric address, a TLS
                                       handshake included    (5000)           */
    uint32_t    request_timeout_ms; /* of requests that do not block on the
                                       server                (15000)          */
    size_t      max_head_bytes;     /* of an answer          (65536)          */
    size_t      max_body_bytes;     /* a body is never held  (256 MiB)        */
    size_t      max_instances;      /* of one answer         (100000)         */
    const sdc_allocator *allocator; /*                       (malloc)         */
    const sdc_logger    *logger;    /*                       (silent)         */
    const sdc_io        *io;        /*                       (POSIX)          */
} sdc_client_desc;

typedef struct sdc_client sdc_client;

/* Makes a client: no connection, no thread, a few hundred bytes. A second
   identity or a second agent is a second client.
   Errors: SDC_ERR_ARG (the message names the field or the environment
   variable), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_client_create(const sdc_client_desc *desc,
                                  sdc_client **out, sdc_error *error);
SDC_API void sdc_client_destroy(sdc_client *client);

/* Uses another token from the next request on. "" sends none, NULL goes back
   to the configured one. Any thread.
   Errors: SDC_ERR_ARG (control characters), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_client_set_token(sdc_client *client, const char *token);

/* The clock of every time in this interface, in milliseconds. Any thread. */
SDC_API uint64_t sdc_client_now_ms(const sdc_client *client);

/* -- What is registered, what is asked for, what is found ----------------- */

/* From better to worse. */
typedef enum sdc_status {
    SDC_STATUS_UNSET = 0, SDC_STATUS_PASSING, SDC_STATUS_WARNING,
    SDC_STATUS_CRITICAL, SDC_STATUS_MAINTENANCE
} sdc_status;

/* "passing", "warning", "critical", "maintenance", or "unset". Static. */
SDC_API const char *sdc_status_str(sdc_status status);

/* A health check. Exactly one of ttl_ms, http, h2ping, tcp, udp, grpc,
   os_service, args, docker_container_id (with args) and alias_service or
   alias_node says the kind (Consul docs: api-docs/agent/check). */
typedef struct sdc_check {
    const char *id;                 /* always sent   (service:ID, or where there
                                       are several service:ID:1, :2, ...)     */
    const char *name, *notes;       /*                       (not sent)       */
    uint32_t    ttl_ms;
    uint32_t    interval_ms;        /* all kinds but TTL and alias (10000)    */
    uint32_t    timeout_ms;         /*            (not sent: 10000 in Consul) */
    uint32_t    deregister_critical_after_ms;   /* SDC_NEVER: not sent
                             (TTL in a registrar: 1 hour; else not sent)      */
    const char *http, *method, *body;
    const sdc_kv *headers;          size_t num_headers;
    const char *h2ping, *tcp, *udp, *grpc, *os_service;
    const char *docker_container_id, *shell;
    const char *const *args;        size_t num_args;
    const char *alias_node, *alias_service, *tls_server_name;
    bool        grpc_use_tls, tcp_use_tls, tls_skip_verify, disable_redirects;
    bool        h2ping_no_tls;      /* Consul's default for this kind is TLS  */
    uint32_t    success_before_passing;
    uint32_t    failures_before_warning, failures_before_critical;
    uint32_t    output_max_bytes;
    sdc_status  status;             /* the check's first; passing, warning or
                                       critical   (TTL in a registrar: passing;
                                       else not sent: critical in Consul)     */
} sdc_check;

typedef struct sdc_address {
    const char *key;                /* "lan", "wan", "lan_ipv6", ...          */
    const char *address;
    uint16_t    port;
} sdc_address;

typedef struct sdc_port {
    const char *name;
    uint16_t    port;
    bool        is_default;
} sdc_port;

/* A service to register. Only what is set here is sent, since an agent refuses
   members that it does not know (Consul docs: api-docs/agent/service). */
typedef struct sdc_registration {
    const char *id;                 /* unique on its agent; always sent
                                       (name-address-port, without the absent
                                       parts)                                 */
    const char *name;               /* required                               */
    const char *const *tags;        size_t num_tags;
    const char *address;            /*                       (the node's)     */
    uint16_t    port;               /* (none: instancers then leave it out)   */
    const sdc_port *ports;          size_t num_ports;   /* Consul 1.22        */
    const char *socket_path;        /* Consul 1.10                            */
    const sdc_address *tagged_addresses; size_t num_tagged_addresses;
    const sdc_kv *meta;             size_t num_meta;
    uint32_t    weight_passing, weight_warning; /* (1 and 1: not sent) else
                                       both are, and passing is at least 1    */
    bool        enable_tag_override;
    const sdc_check *checks;        size_t num_checks;
    const char *kind, *region, *zone;
    const char *raw_members;        /* further JSON members, "\"Proxy\":{}":
                                       checked, sent as they are, not logged  */
} sdc_registration;

typedef enum sdc_source {
    SDC_SOURCE_SERVICE = 0, SDC_SOURCE_CONNECT, SDC_SOURCE_INGRESS
} sdc_source;

typedef enum sdc_consistency {
    SDC_CONSISTENCY_DEFAULT = 0, SDC_CONSISTENCY_STALE, SDC_CONSISTENCY_STRONG
} sdc_consistency;

/* Which instances (Consul docs: api-docs/health#list-service-instances). */
typedef struct sdc_query {
    const char *service;            /* required                               */
    const char *const *tags;        size_t num_tags;    /* an instance carries
                                       all of them; letter case is ignored    */
    bool        passing_only;       /* asked of Consul, which then leaves out
                                       warnings too                           */
    sdc_status  worst_status;       /* worse ones are left out on this side
                                                          (as Consul answers) */
    sdc_source  source;
    const char *datacenter, *ns, *partition;    /*           (the client's)   */
    const char *peer, *near_node, *filter;
    const sdc_kv *node_meta;        size_t num_node_meta;
    const sdc_kv *params;           size_t num_params;  /* further query
                                       parameters, escaped here               */
    sdc_consistency consistency;
    uint32_t    max_stale_ms;       /* with stale: an answer of a server that
                                       has not heard of its leader for longer is
                                       asked again of the leader  (no limit)  */
    bool        cached;             /* answer from the agent's cache          */
    uint32_t    max_age_s, stale_if_error_s;    /* with cached (not sent)     */
    uint32_t    wait_ms;            /* how long the server may hold the query;
                                       up to a tenth is taken off at random;
                                       SDC_NEVER: 10 minutes (60000)          */
    uint64_t    index;              /* 0 asks for an answer at once; an
                                       instancer keeps its own and wants 0    */
} sdc_query;

/* One instance of a service. Two are the same one where peer, partition, ns,
   node and id are equal (and addr, where there is no id). */
typedef struct sdc_instance {
    const char *addr;               /* "10.0.0.1:8000", "[2001:db8::1]:8000"  */
    const char *host;
    const char *socket_path;        /* "" but for a service on a unix socket:
                                       then addr is "unix:" and the path      */
    const char *id, *service, *node, *datacenter, *ns, *partition, *peer;
    const char *const *tags;        size_t num_tags;    /* sorted             */
    const sdc_kv *meta;             size_t num_meta;    /* sorted by key      */
    const sdc_address *tagged_addresses; size_t num_tagged_addresses; /* same */
    const sdc_port *ports;          size_t num_ports;   /* `port` is the
                                       default one of these                   */
    const char *region, *zone;
    sdc_status  status;             /* of all its checks and its node's; unset,
                                       in a cache that the program fills,
                                       counts as passing                      */
    uint32_t    weight;             /* Consul's for that status; 0: no calls,
                                       unless all are 0                       */
    uint16_t    port;
} sdc_instance;

/* The instances as of one moment. Immutable, counted, readable from any
   thread, never copied by value. While held the same pointer is the same
   event, so a poller compares pointers. */
typedef struct sdc_event {
    const sdc_instance *instances;  /* sorted by addr, then node and id       */
    size_t      num_instances;
    const char *message;            /* "" unless err is a failure             */
    uint64_t    index;              /* X-Consul-Index of the answer behind it */
    uint64_t    at_ms;              /* when it came about; an answer that
                                       changes nothing makes no event         */
    uint64_t    failing_since_ms;   /* first failure of this outage; 0 none   */
    sdc_err     err;                /* SDC_AGAIN: nothing heard yet; a failure:
                                       the newest query failed, and instances
                                       are the last good ones                 */
    bool        is_known;           /* a good answer has been had: an empty list
                                       then means that there are none         */
} sdc_event;

/* This event against the one that the subscriber saw before. */
typedef struct sdc_change {
    const sdc_event *before;        /* NULL in a subscriber's first call, when
                                       all are added; retain it to keep what
                                       was removed                            */
    const sdc_instance *const *added;   size_t num_added;    /* in the event  */
    const sdc_instance *const *removed; size_t num_removed;  /* in before     */
    const sdc_instance *const *updated; size_t num_updated;  /* in the event  */
} sdc_change;

/* Both arguments are borrowed for the call; retain the event to keep it. */
typedef void (*sdc_event_fn)(void *user, const sdc_event *event,
                             const sdc_change *change);

/* Any thread, these two, in a callback too, and after the client's end. */
SDC_API const sdc_event *sdc_event_retain(const sdc_event *event);
SDC_API void sdc_event_release(const sdc_event *event);

/* -- One-shot calls ------------------------------------------------------- */

/* Each blocks the caller for at most request_timeout_ms; the last one, asked
   with an index, for wait_ms + wait_ms/16 + 10 s. The system's resolver is not
   bounded by that. Of several agents the first that works is used, each with a
   time of its own; one that got the request but did not answer may have done
   what it asks. Any thread.
   Errors: SDC_ERR_ARG before anything is sent, and those of the exchange. */
SDC_API sdc_err sdc_client_register(sdc_client *client,
                                    const sdc_registration *registration,
                                    sdc_error *error);
/* An ID that the agent does not know is a success. Of several agents each is
   told, since any may hold the service; the first failure is the result. */
SDC_API sdc_err sdc_client_deregister(sdc_client *client,
                                      const char *service_id,
                                      sdc_error *error);
/* One query; release *out. With query->index it blocks on the server, and
   (*out)->index is what to ask with next time. */
SDC_API sdc_err sdc_client_service(sdc_client *client, const sdc_query *query,
                                   const sdc_event **out, sdc_error *error);

/* -- Task: what an instancer and a registrar have in common --------------- */

/* Moves a task on. It goes on until it would block, or until its share of
   work is done (256 KiB taken in; timeout_ms of its wants is 0 then), and
   returns at the latest when one exchange has ended. timeout_ms: 0 never
   blocks, n blocks for at most n ms, -1 until an exchange ends.
     SDC_OK       an exchange (a query, a registration, a heartbeat) ended well
     SDC_ERR_...  one failed: said once, and sdc_task_error has the detail; the
                  pause before the next is inside the steps to come
     SDC_AGAIN    none ended: time is up, or there is nothing to do but wait
     SDC_STOPPED  stopped and done: no descriptor, no deadline, for ever
     SDC_GONE     a callback destroyed it
   Stepping too often does no harm. One thread at a time. */
SDC_API sdc_err sdc_step(sdc_task *task, int timeout_ms);

/* Ends a task: the next step drops what is under way, closes the descriptor
   and answers SDC_STOPPED; a registrar deregisters first, which takes
   stop_timeout_ms at most. A step that blocks is woken. No callback is begun
   after it. Idempotent. Any thread, and signal handlers. */
SDC_API void sdc_stop(sdc_task *task);

/* Makes a blocked step look again, and calls the task's wake hook: step it
   soon. Cuts no pause short. Any thread, and signal handlers. */
SDC_API void sdc_wake(sdc_task *task);

/* wants: told at once, and from then on inside sdc_step and destroy whenever
   fd, serial, readiness or deadline_ms differ from what was told last; fd -1
   comes before a descriptor is closed.
   wake: sdc_stop, sdc_wake, sdc_registrar_set_... or _update were called: make
   the loop step this task, by uv_async_send or a write to an eventfd. Comes on
   the caller's thread, signal handlers included, and must do no more than that:
   no step, no destroy, no lock that the stepping thread may hold meanwhile. A
   step that blocks needs none.
   NULL takes a function off. Call on the thread that steps. */
typedef void (*sdc_wants_fn)(void *user, sdc_task *task, sdc_wants wants);
typedef void (*sdc_wake_fn)(void *user, sdc_task *task);

/* The same by asking. Changes nothing. The thread that steps. */
SDC_API sdc_wants sdc_task_wants(const sdc_task *task);
SDC_API void sdc_task_on_wants(sdc_task *task, sdc_wants_fn fn, void *user);
SDC_API void sdc_task_on_wake(sdc_task *task, sdc_wake_fn fn, void *user);

/* Counted since the task was created. */
typedef struct sdc_stats {
    uint64_t requests, answers, failures, changes, connects;
    uint64_t bytes_in, bytes_out, skipped_instances;
    uint64_t registrations, heartbeats;
    uint64_t index;                 /* of the newest answer; 0 none           */
    uint64_t last_contact_ms;       /* X-Consul-Lastcontact of that answer    */
    uint64_t last_good_at_ms;       /* also moves when nothing changed        */
    uint32_t consecutive_failures;
    bool     known_leader, filtered_by_acl, is_streaming;   /* its headers; a
                                       streamed one never knows the leader    */
    uint32_t agent;                 /* which of the client's list is in use,
                                       from 0                                 */
} sdc_stats;

/* Any thread, these two. The error is of the newest exchange, unless its answer
   is asked for once more before it counts. */
SDC_API void sdc_task_stats(const sdc_task *task, sdc_stats *out);
SDC_API void sdc_task_error(const sdc_task *task, sdc_error *out);

/* -- Registrar: keeps one service registered ------------------------------ */

typedef struct sdc_registrar_desc {
    sdc_registration registration;  /* copied, all of it                      */
    uint32_t heartbeat_ms;          /* for a TTL check  (a third of the TTL)  */
    uint32_t status_expires_ms;     /* a TTL check's heartbeats end when its
                                       last set_status is so old      (never) */
    uint32_t verify_ms;             /* without heartbeats, how often the agent
                                       is asked whether it is there, and still
                                       the same                       (30000) */
    uint32_t stop_timeout_ms;       /* deregistering on stop ends by then
                                                             (2000)           */
    bool     keep_on_stop;          /* do not deregister on stop   (false)    */
} sdc_registrar_desc;

typedef struct sdc_registrar sdc_registrar;

/* Makes a registrar; nothing is sent before the first step. The task registers
   the service and retries until that succeeds, beats its TTL checks, registers
   again what the agent has forgotten, and deregisters when stopped.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_registrar_create(sdc_client *client,
                                     const sdc_registrar_desc *desc,
                                     sdc_registrar **out, sdc_error *error);
/* At once and without network traffic: stop first to deregister. */
SDC_API void sdc_registrar_destroy(sdc_registrar *registrar);
/* Valid as long as the registrar, these two. */
SDC_API sdc_task *sdc_registrar_task(sdc_registrar *registrar);
/* The service ID that it registers and deregisters. */
SDC_API const char *sdc_registrar_id(const sdc_registrar *registrar);

/* Once, blocking, for at most request_timeout_ms; several agents share that.
   Counts as a step of the task, which need not be stepped besides. What was
   registered before stays and is kept alive when the agent refuses this. */
SDC_API sdc_err sdc_registrar_register(sdc_registrar *registrar,
                                       sdc_error *error);
SDC_API sdc_err sdc_registrar_deregister(sdc_registrar *registrar,
                                         sdc_error *error);

/* Any thread, the next three: kept, and sent by the next steps; a blocked step
   is woken. Sent at once, but for the pause after a failure, and each of the
   three at most every 100 ms, the newest one then.
   Registers the service anew and in place, with other tags, meta, weights and
   so on. Nothing is lost while the agent is away, the newest one wins, and what
   was registered before stays and is kept alive until the agent takes this one.
   When its checks are others, those that are not in it any more are taken away,
   and with them what others have added, an operator's maintenance too.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. Refused are another ID, and other TTL
   checks: their IDs and ttl_ms must stay the same. */
SDC_API sdc_err sdc_registrar_update(sdc_registrar *registrar,
                                     const sdc_registration *same_id,
                                     sdc_error *error);
/* These two are sent again whenever the service had to be registered again. A
   status and output that are the same as before only put off its expiry.
   check_id NULL means every TTL check; output and reason are cut at 4 KiB.
   Errors: SDC_ERR_ARG (no such TTL check, a status that cannot be set, text
   that is not UTF-8), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_registrar_set_status(sdc_registrar *registrar,
                                         const char *check_id,
                                         sdc_status status,
                                         const char *output);
SDC_API sdc_err sdc_registrar_set_maintenance(sdc_registrar *registrar, bool on,
                                              const char *reason);
/* The agent has the service, as of its newest answer; also while an update is
   still on its way. Any thread. */
SDC_API bool sdc_registrar_is_registered(const sdc_registrar *registrar);

/* -- Instancer: keeps the instances of one service ------------------------ */

typedef struct sdc_instancer_desc {
    sdc_query query;                /* copied, all of it                      */
    uint32_t  backoff_min_ms;       /*                       (10)             */
    uint32_t  backoff_max_ms;       /*                       (60000)          */
    uint32_t  resync_ms;            /* a full read with index 0 (600000)      */
    uint32_t  quiet_min_ms;         /* a burst of changes is one event: shown
                                       after no change for so long (0: at once);
                                       the first list and errors are not held,
                                       and a stop drops what is               */
    uint32_t  quiet_max_ms;         /* but not later than this after the first
                                       change             (4 * quiet_min_ms)  */
} sdc_instancer_desc;

typedef struct sdc_instancer sdc_instancer;

/* Makes an instancer; nothing is sent before the first step.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_instancer_create(sdc_client *client,
                                     const sdc_instancer_desc *desc,
                                     sdc_instancer **out, sdc_error *error);
/* At once. No callback is begun after it, and its last event stays valid as
   long as somebody holds it. */
SDC_API void sdc_instancer_destroy(sdc_instancer *instancer);
/* Valid as long as the instancer. */
SDC_API sdc_task *sdc_instancer_task(sdc_instancer *instancer);

/* Steps until a good answer has had so many instances (0: any good answer).
   Errors: SDC_ERR_TIMEOUT with the message of the failure that goes on,
   SDC_STOPPED, SDC_GONE, SDC_ERR_ARG (from a callback of a step). */
SDC_API sdc_err sdc_instancer_wait(sdc_instancer *instancer,
                                   size_t min_instances, uint32_t timeout_ms,
                                   sdc_error *error);

/* Calls fn at once with the state (err is SDC_AGAIN while nothing has been
   heard), and then with each new event. The pair fn and user names the
   subscription. The thread that steps.
   Errors: SDC_ERR_ARG (the pair is there already), SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_instancer_subscribe(sdc_instancer *instancer,
                                        sdc_event_fn fn, void *user);
/* Not called again after this returned. An unknown pair is ignored. */
SDC_API void sdc_instancer_unsubscribe(sdc_instancer *instancer,
                                       sdc_event_fn fn, void *user);

/* The instances as of its last good answer, with the error since.
   Retained: give it back with sdc_event_release. Never NULL; before the first
   answer it is empty and its err is SDC_AGAIN. Any thread. */
SDC_API const sdc_event *sdc_instancer_state(sdc_instancer *instancer);

/* -- Cache: the store under an instancer, usable with any other source ---- */

typedef struct sdc_cache sdc_cache;

/* Makes an empty cache; allocator NULL is malloc. update, update_error,
   subscribe and unsubscribe: one thread at a time. Subscribers run inside
   them: keep those short. */
SDC_API sdc_err sdc_cache_create(const sdc_allocator *allocator,
                                 sdc_cache **out);
SDC_API void sdc_cache_destroy(sdc_cache *cache);

/* Replaces the instances, which are copied; addr, or host and port, is
   required. Subscribers are called if something differs from the current
   event: the order of instances, tags and meta does not count. A now_ms
   before the last one counts as the last one.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM (all stays as it was), SDC_GONE. */
SDC_API sdc_err sdc_cache_update(sdc_cache *cache,
                                 const sdc_instance *instances, size_t num,
                                 uint64_t index, uint64_t now_ms);
/* Says that the source fails; the instances stay. Subscribers are called when
   the code changes; the first message of a code stays. Errors: as above. */
SDC_API sdc_err sdc_cache_update_error(sdc_cache *cache, sdc_err err,
                                       const char *message, uint64_t now_ms);

/* As the four of the instancer. */
SDC_API const sdc_event *sdc_cache_state(sdc_cache *cache);
SDC_API sdc_err sdc_cache_subscribe(sdc_cache *cache, sdc_event_fn fn,
                                    void *user);
SDC_API void sdc_cache_unsubscribe(sdc_cache *cache, sdc_event_fn fn,
                                   void *user);

/* The instancer's own cache, valid as long as the instancer: subscribe to it,
   never update it. */
SDC_API sdc_cache *sdc_instancer_cache(sdc_instancer *instancer);

/* -- Endpointer: instances turned into what the program calls ------------- */

typedef struct sdc_endpointer_desc {
    /* Makes what is called at instance->addr, a connection or a pool say, once
       for each new addr; the instance is borrowed for the call. Comes on the
       thread that updates the source or steps the endpointer's task; on a
       picking one only where nobody steps that.
       Must not block: what takes long is begun here and ends at the first use.
       Anything but SDC_OK is a failure: tried again after 100 ms, doubling to
       30 s, with jitter, for as long as the instance is there. */
    sdc_err (*open)(void *user, const sdc_instance *instance, void **endpoint);
    /* Once for each that open made, when its instance is gone and its last pick
       is done; on the thread of whoever let go last: any. NULL: nothing to do.
       Neither open nor close comes with a lock held. */
    void    (*close)(void *user, void *endpoint);
    void    *user;
    uint32_t invalidate_after_ms;   /* in an outage of the source, how long its
                                       endpoints outlive the first error
                                                             (for ever)       */
} sdc_endpointer_desc;

typedef struct sdc_endpointer sdc_endpointer;

/* Makes an endpointer over a cache, opens what is in it, and follows it: an
   instance that stays keeps its endpoint, also when its tags, status or weight
   change. Instances that share an addr share one endpoint, with the sum of
   their weights. Several may follow one cache. `client` lends clock, memory and
   log; failing_since_ms of the first event is read on its clock.
   Create and destroy: on the thread that updates the source.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_endpointer_create(sdc_cache *source,
                                      const sdc_endpointer_desc *desc,
                                      sdc_client *client, sdc_endpointer **out,
                                      sdc_error *error);
/* Closes everything; what is picked, at its done. Its balancers find nothing
   from now on. Nothing is opened after it; but where nobody steps the task a
   thread that picks may be inside open or close just then, and ends that. */
SDC_API void sdc_endpointer_destroy(sdc_endpointer *endpointer);

/* Has timers alone: for failed opens and for invalidation. Unstepped, these
   happen at the next update or pick; once it has been stepped they are left to
   it. Valid as long as the endpointer. */
SDC_API sdc_task *sdc_endpointer_task(sdc_endpointer *endpointer);

/* Not SDC_OK ends the walk. */
typedef sdc_err (*sdc_endpoint_fn)(void *user, void *endpoint,
                                   const sdc_instance *instance);

/* Calls fn for each endpoint that is open, in the order of addr; all of them
   stay open meanwhile. Answers what the last call did. Any thread. */
SDC_API sdc_err sdc_endpointer_each(sdc_endpointer *endpointer,
                                    sdc_endpoint_fn fn, void *user);

/* -- Balancer: one endpoint for each call --------------------------------- */

/* Instances that Consul gives a weight of 0, the critical ones, are not picked
   while others are there. Of the policies the last three go by weight. */
typedef enum sdc_policy {
    SDC_POLICY_ROUND_ROBIN = 0, /* from a random place on                     */
    SDC_POLICY_RANDOM,
    SDC_POLICY_WEIGHTED,        /* round robin in proportion to the weights, and
                                   smooth: 5, 1, 1 is a a b a c a a (nginx,
                                   smooth weighted round robin)               */
    SDC_POLICY_LEAST_LOADED,    /* of two that are drawn by weight the one with
                                   fewer calls in flight for its weight
                                   (Mitzenmacher, "The Power of Two Choices in
                                   Randomized Load Balancing"). What fails at
                                   once is never busy: with eject_after       */
    SDC_POLICY_HASHED           /* the same key goes to the same instance as
                                   long as that is there, whichever others come
                                   and go (Thaler and Ravishankar, "Using
                                   Name-Based Mappings to Increase Hit Rates";
                                   keys share 65537 slots, which is even up to
                                   about a thousand instances)                */
} sdc_policy;

typedef struct sdc_balancer_desc {
    uint64_t    seed;               /* all picks of one thread follow from it
                                       (random); keys go by it alone, so that
                                       processes with the same one agree (0)  */
    sdc_policy  policy;             /*                       (round robin)    */
    /* Own zone first (Envoy docs: priority levels). As long as zone_min_percent
       of the instances in the zone are healthy all calls stay there; then as
       many as half of that still have if half of it is healthy, and so on. This
       and panic_percent go by what is in the list: leave passing_only off in
       the query, critical instances get no calls anyhow. */
    const char *zone;               /*                       (no preference)  */
    const char *zone_meta;          /* the meta key that tells an instance's
                                       zone                  (its locality)   */
    uint32_t    zone_min_percent;   /*                       (70)             */
    /* When fewer than this are healthy they cannot carry all the load: all are
       used, the critical and the ejected too, but not those in maintenance
       while there are others (Envoy docs: panic threshold). With none healthy
       that is so in any case. */
    uint32_t    panic_percent;      /*                       (off)            */
    /* An instance that comes later than the first list gets calls in proportion
       to its age, at least a tenth of its share, until it is so old (Envoy
       docs: slow start mode). Where most of a list is new the rest carries
       that. */
    uint32_t    slow_start_ms;      /*                       (off)            */
    /* After so many failed picks in a row an instance is left out for eject_ms,
       then twice, three times and so on up to ten times that; each eject_ms
       without takes one off again (Envoy docs: outlier detection). Never more
       than eject_max_percent of the list, or of the subset, are out at once,
       but one of two can be. */
    uint32_t    eject_after;        /*                       (off)            */
    uint32_t    eject_ms;           /*                       (30000)          */
    uint32_t    eject_max_percent;  /*                       (10)             */
    /* This process uses so many of each zone: those that its seed ranks first,
       so that a change of the list moves few (gRPC A68, random subsetting).
       With one seed for all processes they would all use the same, and keys
       agree only where they do. */
    uint32_t    subset_size;        /*                       (all)            */
    /* Tries beyond the first that sdc_retry and sdc_attempt may make in all, as
       a share of their first ones, of which 100 can be saved up; 10 a second
       are always free (Finagle docs: retry budgets). */
    uint32_t    retry_percent;      /*                       (20)             */
} sdc_balancer_desc;

/* Valid until done, the endpoint and the instance too. */
typedef struct sdc_pick {
    void *endpoint;
    const sdc_instance *instance;
    void *internal[2];
} sdc_pick;

typedef struct sdc_balancer sdc_balancer;

/* Makes a balancer; several may use one endpointer. Any thread.
   Errors: SDC_ERR_ARG, SDC_ERR_NOMEM. */
SDC_API sdc_err sdc_balancer_create(sdc_endpointer *endpointer,
                                    const sdc_balancer_desc *desc,
                                    sdc_balancer **out, sdc_error *error);
/* After the last next, and after the done of each pick: asserted. */
SDC_API void sdc_balancer_destroy(sdc_balancer *balancer);

/* Picks. Without hash_key a hashed one goes anywhere; the other policies ignore
   it. Allocates nothing and waits for nobody, but for timers of an endpointer
   that nobody steps. *out is zero after a failure. Any thread.
   Errors: SDC_ERR_EMPTY; that of the outage, after invalidation. */
SDC_API sdc_err sdc_balancer_next(sdc_balancer *balancer, const char *hash_key,
                                  sdc_pick *out);
/* Ends a pick, once for each next that succeeded, and zeroes it; ignores one
   that is zero. outcome: SDC_OK it went well, SDC_AGAIN no verdict, anything
   else it failed. May close the endpoint. Any thread, also another one. */
SDC_API void sdc_balancer_done(sdc_balancer *balancer, sdc_pick *pick,
                               sdc_err outcome);

/* -- Retry: a call that may be made more than once ------------------------ */

typedef struct sdc_retry_desc {
    uint32_t max_attempts;          /* the first one counts  (3)              */
    uint32_t timeout_ms;            /* all of them together, from the first
                                       sdc_attempt_next on   (no limit)       */
    uint32_t try_timeout_ms;        /* each of them          (no limit)       */
    /* The pause before the nth try is drawn from 0 to backoff_min_ms, doubled
       n - 2 times, at most backoff_max_ms (AWS Architecture Blog, "Exponential
       Backoff And Jitter": full jitter). */
    uint32_t backoff_min_ms;        /*                       (10)             */
    uint32_t backoff_max_ms;        /*                       (1000)           */
    const char *hash_key;           /* stays where it is     (none)           */
    /* sdc_retry alone: makes the call, within left_ms (SDC_NEVER: no limit).
       SDC_OK ends it: the instance did its work, also where its answer is that
       the request was wrong. The outcome is that of sdc_balancer_done. */
    sdc_err (*call)(void *user, const sdc_pick *pick, uint32_t left_ms);
    /* After a failed try, the nth: is another one of any use? The call may not
       be one that can be made twice.          (yes, whatever the error was)  */
    bool    (*again)(void *user, uint32_t attempt, sdc_err err);
    void    *user;
} sdc_retry_desc;

/* Picks and calls until one call succeeds: none of the last 16 endpoints again
   while another is left; a hashed one goes on in its key's own order. Blocks in
   call and in the pauses. Any thread.
   Ends with SDC_OK, with the last try's error, with SDC_ERR_TIMEOUT when the
   deadline ended it or that try had no verdict, with SDC_ERR_EMPTY at once when
   there is nothing to pick, or SDC_ERR_ARG. The message counts the tries and
   names the last ones. */
SDC_API sdc_err sdc_retry(sdc_balancer *balancer, const sdc_retry_desc *desc,
                          sdc_error *error);

/* The same for event loops: without blocking and without allocating. One for
   each call in flight, inside a struct of the program's own; one thread at a
   time. */
typedef struct sdc_attempt {
    sdc_pick pick;                  /* whom to call                           */
    uint32_t number;                /* of this try, from 1                    */
    uint32_t left_ms;               /* for this try; SDC_NEVER: no limit      */
    uint32_t pause_ms;              /* after SDC_AGAIN: ask again then        */
    sdc_balancer *balancer;         /* borrowed, these two, until deinit      */
    const sdc_retry_desc *desc;
    uint64_t internal[40];
} sdc_attempt;

SDC_API void sdc_attempt_init(sdc_attempt *attempt, sdc_balancer *balancer,
                              const sdc_retry_desc *desc);
/* SDC_OK: call attempt->pick, within left_ms, which the program looks after,
   then sdc_attempt_done. SDC_AGAIN: come back after pause_ms (earlier says so
   again). Anything else: given up, as sdc_retry ends; after that, and after
   success, SDC_ERR_ARG. */
SDC_API sdc_err sdc_attempt_next(sdc_attempt *attempt, sdc_error *error);
/* SDC_OK: finished. Else sdc_attempt_next says how it goes on. */
SDC_API void sdc_attempt_done(sdc_attempt *attempt, sdc_err outcome);
/* At any time: a pick that is open ends without a verdict. */
SDC_API void sdc_attempt_deinit(sdc_attempt *attempt);

/* -- Decoders: bytes in, events out; no socket, no clock ------------------ */

/* feed answers SDC_OK while all is good, else the first error, which stays
   until reset. What a callback answers other than SDC_OK ends the feed and is
   that error; a callback must not destroy or feed its decoder. _error says
   what is wrong and at which byte, counted from 0 since reset. reset keeps
   the memory. One thread at a time. */
typedef struct sdc_json    sdc_json;        /* any JSON text (RFC 8259) */
typedef struct sdc_http    sdc_http;        /* one HTTP/1.x response */
typedef struct sdc_entries sdc_entries;     /* the body of a health answer */

typedef enum sdc_json_kind {
    SDC_JSON_NULL, SDC_JSON_FALSE, SDC_JSON_TRUE, SDC_JSON_NUMBER,
    SDC_JSON_STRING, SDC_JSON_KEY, SDC_JSON_OBJECT, SDC_JSON_OBJECT_END,
    SDC_JSON_ARRAY, SDC_JSON_ARRAY_END
} sdc_json_kind;

/* `text` is decoded and whole, may hold NUL, is not terminated by one, and is
   borrowed for the call: the characters of a string or key, the literal of a
   number; else it is empty. */
typedef sdc_err (*sdc_json_fn)(void *user, sdc_json_kind kind,
                               const char *text, size_t len);

SDC_API sdc_err sdc_json_create(const sdc_allocator *allocator, sdc_json_fn fn,
                                void *user, sdc_json **out);
SDC_API sdc_err sdc_json_feed(sdc_json *json, const void *bytes, size_t len);
/* SDC_OK: the bytes were one whole value. */
SDC_API sdc_err sdc_json_finish(sdc_json *json);
SDC_API void sdc_json_error(const sdc_json *json, sdc_error *out);
SDC_API void sdc_json_reset(sdc_json *json);
SDC_API void sdc_json_destroy(sdc_json *json);

/* The instance is borrowed for the call. */
typedef sdc_err (*sdc_instance_fn)(void *user, const sdc_instance *instance);

SDC_API sdc_err sdc_entries_create(const sdc_allocator *allocator,
                                   sdc_instance_fn fn, void *user,
                                   sdc_entries **out);
/* Up to 512 bytes are held back and read by a later feed, or by finish: what
   they hold, an instance or an error, shows only then. */
SDC_API sdc_err sdc_entries_feed(sdc_entries *entries, const void *bytes,
                                 size_t len);
/* SDC_OK: the bytes were one whole answer, and each instance has been seen. */
SDC_API sdc_err sdc_entries_finish(sdc_entries *entries);
SDC_API void sdc_entries_error(const sdc_entries *entries, sdc_error *out);
/* Entries without usable address or port, or of a wrong shape, since reset. */
SDC_API uint64_t sdc_entries_skipped(const sdc_entries *entries);
SDC_API void sdc_entries_reset(sdc_entries *entries);
SDC_API void sdc_entries_destroy(sdc_entries *entries);

/* NULL members are skipped. Names and values are borrowed for the call. */
typedef struct sdc_http_handler {
    void    *user;
    /* Of the final answer, not of a 1xx before it. */
    sdc_err (*on_status)(void *user, int status);
    sdc_err (*on_header)(void *user, const char *name, size_t name_len,
                         const char *value, size_t value_len);
    sdc_err (*on_body)(void *user, const void *bytes, size_t len);
} sdc_http_handler;

SDC_API sdc_err sdc_http_create(const sdc_allocator *allocator,
                                const sdc_http_handler *handler,
                                sdc_http **out);
/* *used < len: the rest does not belong to this response. */
SDC_API sdc_err sdc_http_feed(sdc_http *http, const void *bytes, size_t len,
                              size_t *used);
/* The peer closed. SDC_OK: the response is whole. */
SDC_API sdc_err sdc_http_finish(sdc_http *http);
SDC_API bool sdc_http_is_complete(const sdc_http *http);
/* The connection may carry another exchange. */
SDC_API bool sdc_http_keeps_alive(const sdc_http *http);
SDC_API void sdc_http_error(const sdc_http *http, sdc_error *out);
SDC_API void sdc_http_reset(sdc_http *http);
SDC_API void sdc_http_destroy(sdc_http *http);

#ifdef __cplusplus
}
#endif
#endif /* SDCONSUL_H_INCLUDED */

#if defined(SDCONSUL_IMPLEMENTATION) && !defined(SDCONSUL_IMPLEMENTATION_INCLUDED)
#define SDCONSUL_IMPLEMENTATION_INCLUDED

/* ---- platform ------------------------------------------ [sdc:platform] --
   Every system header and everything that depends on the compiler or the
   system. Below this section there is no #if on either.
   ------------------------------------------------------------------------- */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#if !defined(_POSIX_VERSION) || _POSIX_VERSION < 200809L || !defined(AI_NUMERICHOST) || \
    !defined(CLOCK_MONOTONIC) || !defined(MSG_PEEK)
#error "sdconsul.h needs POSIX.1-2008: compile with -D_POSIX_C_SOURCE=200809L or -std=gnu99"
#endif

#ifndef SDC_ASSERT
#include <assert.h>
#define SDC_ASSERT(condition) assert(condition)
#endif

#if defined(__GNUC__) || defined(__clang__)
#define SDCI_PRINTF(text, args) __attribute__((__format__(__printf__, text, args)))
#define SDCI_NOINLINE __attribute__((__noinline__))
#define SDCI_INLINE __inline__ __attribute__((__always_inline__))
#else
#error "sdconsul.h needs the __atomic builtins of gcc or clang"
#endif

#ifdef MSG_NOSIGNAL
#define SDCI_SEND_FLAGS MSG_NOSIGNAL
#else
#define SDCI_SEND_FLAGS 0
#endif

/* Bits that two threads share; never wider than a pointer, so that 32-bit machines need no
   libatomic. Sequentially consistent where nothing else is said: those are on no hot path. */
static uint32_t sdci_atomic_get(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void sdci_atomic_set(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

/* Answers the new value. */
static uint32_t sdci_atomic_add(uint32_t *p, uint32_t value)
{
    return __atomic_add_fetch(p, value, __ATOMIC_SEQ_CST);
}

static uint32_t sdci_atomic_sub(uint32_t *p, uint32_t value)
{
    return __atomic_sub_fetch(p, value, __ATOMIC_SEQ_CST);
}

static void *sdci_atomic_get_ptr(void *const *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void sdci_atomic_set_ptr(void **p, void *value)
{
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

static sdc_wake_fn sdci_atomic_get_wake_fn(sdc_wake_fn const *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void sdci_atomic_set_wake_fn(sdc_wake_fn *p, sdc_wake_fn value)
{
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

/* For what is looked at in each pick: no more than the value, in no order with others. */
static uint32_t sdci_atomic_peek(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void sdci_atomic_poke(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
}

/* A lock for a few instructions: spins shortly, then yields. It is never held while a callback,
   a hook or a system call runs, and never taken in a signal handler. */
static bool sdci_try_lock(uint32_t *lock)
{
    return __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) == 0;
}

static void sdci_lock(uint32_t *lock)
{
    unsigned spins = 0;

    while (!sdci_try_lock(lock)) {
        spins++;
        if (spins > 64) {
            sched_yield();
        }
    }
}

static void sdci_unlock(uint32_t *lock)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

/* Brings near what is read soon. */
static SDCI_INLINE void sdci_prefetch(const void *p)
{
    __builtin_prefetch(p);
}

/* A byte that each thread has of its own: its place tells threads apart, and it holds how far this
   one has moved on from where that led it. All that is ever lost with it is a little speed. */
static uint8_t *sdci_thread_byte(void)
{
    static __thread uint8_t moved;

    return &moved;
}

/* The two halves of a product as one. */
static uint64_t sdci_fold(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 sdci_wide_product;
    sdci_wide_product product = (sdci_wide_product)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    uint64_t low = (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
    uint64_t one = (a >> 32) * (b & 0xFFFFFFFFu) + (low >> 32);
    uint64_t two = (a & 0xFFFFFFFFu) * (b >> 32) + (one & 0xFFFFFFFFu);
    uint64_t high = (a >> 32) * (b >> 32) + (one >> 32) + (two >> 32);

    return (two << 32 | (low & 0xFFFFFFFFu)) ^ high;
#endif
}

/* -- Looking at many bytes at once -- */

/* Three ways to the same answers: SSE2, NEON, and words of eight bytes for everything else.
   SDC_NO_SIMD takes the last one everywhere. */

/* How many of 32 bytes sdci_wide_same compares: with SSE2 a mask of those that it does not, else
   their number. All 32 may be read. */
typedef uint32_t sdci_wide;

#if defined(__SSE2__) && !defined(SDC_NO_SIMD)
#include <emmintrin.h>
#define SDCI_LANE 16u
typedef uint32_t sdci_lane_bits;

/* A bit for each of 16 bytes that is not plain inside a JSON string: a quote, a backslash, a
   control character or part of a multi-byte one. As signed numbers the last two are one range. */
static sdci_lane_bits sdci_lane_special(const char *p)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i sign = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')),
                                _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
    __m128i plain = _mm_andnot_si128(sign, _mm_cmpgt_epi8(bytes, _mm_set1_epi8(0x1F)));

    return (uint32_t)_mm_movemask_epi8(plain) ^ 0xFFFFu;
}

static size_t sdci_lane_first(sdci_lane_bits special)
{
    return (size_t)__builtin_ctz(special);
}

static uint32_t sdci_lane_equal(const char *a, const char *b)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)a);
    __m128i y = _mm_loadu_si128((const __m128i *)(const void *)b);

    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(x, y));
}

/* The first n, from 1 to 32. */
static sdci_wide sdci_wide_of(size_t n)
{
    return ~(0xFFFFFFFFu >> (32 - n));
}

static bool sdci_wide_same(const char *a, const char *b, sdci_wide wide)
{
    uint32_t equal = sdci_lane_equal(a, b) | sdci_lane_equal(a + 16, b + 16) << 16;

    return (equal | wide) == 0xFFFFFFFFu;
}

/* How many of 16 bytes are digits before the first that is none. */
static size_t sdci_lane_digits(const char *p)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i value = _mm_sub_epi8(bytes, _mm_set1_epi8('0'));
    __m128i is_digit = _mm_cmpeq_epi8(_mm_min_epu8(value, _mm_set1_epi8(9)), value);

    return (size_t)__builtin_ctz(~(uint32_t)_mm_movemask_epi8(is_digit));
}
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(SDC_NO_SIMD)
#include <arm_neon.h>
#define SDCI_LANE 16u
typedef uint64_t sdci_lane_bits;

/* NEON has no movemask: a narrowing shift leaves four bits for each byte. */
static sdci_lane_bits sdci_lane_narrow(uint8x16_t found)
{
    return vget_lane_u64(
        vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(found), 4)), 0);
}

static sdci_lane_bits sdci_lane_special(const char *p)
{
    uint8x16_t bytes = vld1q_u8((const uint8_t *)p);
    uint8x16_t found = vorrq_u8(vorrq_u8(vceqq_u8(bytes, vdupq_n_u8('"')),
                                         vceqq_u8(bytes, vdupq_n_u8('\\'))),
                                vcltq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(0x20)));

    return sdci_lane_narrow(found);
}

static size_t sdci_lane_first(sdci_lane_bits special)
{
    return (size_t)__builtin_ctzll(special) / 4;
}

static bool sdci_lane_same(const char *a, const char *b, size_t n)
{
    uint8x16_t equal = vceqq_u8(vld1q_u8((const uint8_t *)a), vld1q_u8((const uint8_t *)b));

    return (~sdci_lane_narrow(equal) & (~(uint64_t)0 >> (64 - 4 * n))) == 0;
}

static sdci_wide sdci_wide_of(size_t n)
{
    return (sdci_wide)n;
}

static bool sdci_wide_same(const char *a, const char *b, sdci_wide n)
{
    return n <= 16 ? sdci_lane_same(a, b, n)
                   : sdci_lane_same(a, b, 16) && sdci_lane_same(a + 16, b + 16, n - 16);
}

static size_t sdci_lane_digits(const char *p)
{
    uint8x16_t value = vsubq_u8(vld1q_u8((const uint8_t *)p), vdupq_n_u8('0'));
    uint64_t others = ~sdci_lane_narrow(vcleq_u8(value, vdupq_n_u8(9)));

    return others != 0 ? (size_t)__builtin_ctzll(others) / 4 : 16;
}
#else
#define SDCI_LANE 8u
typedef uint64_t sdci_lane_bits;

static uint64_t sdci_word(const char *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof word);
    return word;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define SDCI_FIRST_BYTE(bits) ((size_t)__builtin_clzll(bits) / 8)
#define SDCI_FIRST_BYTES(n)   (~(uint64_t)0 << (64 - 8 * (n)))
#else
#define SDCI_FIRST_BYTE(bits) ((size_t)__builtin_ctzll(bits) / 8)
#define SDCI_FIRST_BYTES(n)   (~(uint64_t)0 >> (64 - 8 * (n)))
#endif

/* The top bit of each byte that is not plain inside a JSON string; no borrow or carry crosses a
   byte, so each bit is exact. */
static sdci_lane_bits sdci_lane_special(const char *p)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t tops = 0x8080808080808080u;
    uint64_t word = sdci_word(p);
    uint64_t low = word & ~tops;
    uint64_t quote = ((low ^ ones * '"') + ~tops) & tops;
    uint64_t slash = ((low ^ ones * '\\') + ~tops) & tops;
    uint64_t control = (low + ones * (0x80 - 0x20)) & tops;

    return (~(quote & slash & control) & tops) | (word & tops);
}

static size_t sdci_lane_first(sdci_lane_bits special)
{
    return SDCI_FIRST_BYTE(special);
}

static sdci_wide sdci_wide_of(size_t n)
{
    return (sdci_wide)n;
}

static bool sdci_wide_same(const char *a, const char *b, sdci_wide n)
{
    for (; n > 8; n -= 8) {
        if (sdci_word(a) != sdci_word(b)) {
            return false;
        }
        a += 8;
        b += 8;
    }
    return ((sdci_word(a) ^ sdci_word(b)) & SDCI_FIRST_BYTES(n)) == 0;
}

static size_t sdci_lane_digits(const char *p)
{
    size_t n = 0;

    while (n < 16 && p[n] >= '0' && p[n] <= '9') {
        n++;
    }
    return n;
}
#endif

/* A stream socket that no other program inherits and that raises no signal, as far as the system
   can do that in one go. */
static int sdci_socket(int family)
{
#ifdef SOCK_CLOEXEC
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
#else
    int fd = socket(family, SOCK_STREAM, 0);
#endif
#ifdef SO_NOSIGPIPE
    int on = 1;
    if (fd >= 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
    }
#endif
    return fd;
}

/* One descriptor that is both ends of a pipe for wakes, ready for use; -1 where there is none. */
static int sdci_open_wakes(void)
{
#ifdef __linux__
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
#else
    return -1;
#endif
}

/* Options of TCP that not every system has; each makes a connection better and none is needed. */
static void sdci_socket_tune(int fd)
{
    int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#ifdef TCP_KEEPIDLE
    int idle_s = 30;
    int interval_s = 10;
    int probes = 3;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
#endif
#ifdef TCP_USER_TIMEOUT
    unsigned unacknowledged_ms = 60000;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms,
                     sizeof unacknowledged_ms);
#endif
}

/* ---- base --------------------------------------------------- [sdc:base] --
   Slices, errors, memory, growable buffers, numbers as text, random pauses.
   Knows nothing of Consul.
   ------------------------------------------------------------------------- */

#define SDCI_FOREVER UINT64_MAX
#define SDCI_LARGE_BYTES ((size_t)64 << 10)

typedef struct sdci_str {
    const char *ptr;
    size_t len;
} sdci_str;

static sdci_str sdci_str_of(const char *text)
{
    sdci_str s;

    s.ptr = text != NULL ? text : "";
    s.len = strlen(s.ptr);
    return s;
}

static sdci_str sdci_slice(const char *ptr, size_t len)
{
    sdci_str s;

    s.ptr = ptr;
    s.len = len;
    return s;
}

static bool sdci_is_empty(const char *text)
{
    return text == NULL || text[0] == '\0';
}

/* ASCII only, as in HTTP field names and in Consul's tags; no locale has a say. */
static char sdci_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool sdci_equal_nocase(sdci_str a, sdci_str b)
{
    if (a.len != b.len) {
        return false;
    }
    for (size_t i = 0; i < a.len; i++) {
        if (sdci_lower(a.ptr[i]) != sdci_lower(b.ptr[i])) {
            return false;
        }
    }
    return true;
}

static bool sdci_is_control(char c)
{
    unsigned char u = (unsigned char)c;

    return u < 0x20 || u == 0x7f;
}

static bool sdci_has_control(const char *text)
{
    for (; *text != '\0'; text++) {
        if (sdci_is_control(*text)) {
            return true;
        }
    }
    return false;
}

static bool sdci_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int sdci_hex(char c)
{
    if (sdci_is_digit(c)) {
        return c - '0';
    }
    c = sdci_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* JSON's white space (RFC 8259, 2), and what is trimmed from settings. */
static bool sdci_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static sdci_str sdci_trim(sdci_str s)
{
    while (s.len > 0 && sdci_is_space(s.ptr[0])) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && sdci_is_space(s.ptr[s.len - 1])) {
        s.len--;
    }
    return s;
}

/* Decimal digits alone, at most `max`; no sign, no space. */
static bool sdci_parse_u64(sdci_str s, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;

    if (s.len == 0) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) {
        if (!sdci_is_digit(s.ptr[i])) {
            return false;
        }
        uint64_t digit = (uint64_t)(s.ptr[i] - '0');
        if (digit > max || value > (max - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

static uint32_t sdci_or(uint32_t value, uint32_t default_value)
{
    return value != 0 ? value : default_value;
}

static uint64_t sdci_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t sdci_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* `now` plus a duration, where SDC_NEVER is for ever. */
static uint64_t sdci_after(uint64_t now_ms, uint32_t duration_ms)
{
    return duration_ms == SDC_NEVER ? SDCI_FOREVER : now_ms + duration_ms;
}

/* -- Hashing -- */

typedef struct sdci_lanes { uint64_t a, b, c, d; } sdci_lanes;

/* 16 bytes into a lane. */
static SDCI_INLINE uint64_t sdci_hash_lane(uint64_t lane, const char *bytes)
{
    uint64_t first;
    uint64_t second;

    memcpy(&first, bytes, sizeof first);
    memcpy(&second, bytes + sizeof first, sizeof second);
    return sdci_fold(lane ^ first, 0x9E3779B97F4A7C15u ^ second);
}

/* Four lanes, so that the processor works on all of them at once. */
static SDCI_INLINE sdci_lanes sdci_hash_block(sdci_lanes lanes, const char bytes[64])
{
    lanes.a = sdci_hash_lane(lanes.a, bytes);
    lanes.b = sdci_hash_lane(lanes.b, bytes + 16);
    lanes.c = sdci_hash_lane(lanes.c, bytes + 32);
    lanes.d = sdci_hash_lane(lanes.d, bytes + 48);
    return lanes;
}

/* A hash of bytes; to compare by it alone takes a seed that nobody else knows. */
static uint64_t sdci_hash(const char *p, size_t len, uint64_t seed)
{
    sdci_lanes lanes = { seed, seed + 1, seed + 2, seed + 3 };
    char rest[64] = { 0 };

    for (; len >= sizeof rest; len -= sizeof rest) {
        lanes = sdci_hash_block(lanes, p);
        p += sizeof rest;
    }
    memcpy(rest, p, len);
    lanes = sdci_hash_block(lanes, rest);
    return sdci_fold(sdci_fold(lanes.a ^ seed, lanes.b ^ ~seed),
                     sdci_fold(lanes.c ^ seed, lanes.d ^ ~seed));
}

/* -- UTF-8 -- */

/* A character being read: how many bytes are to come, and the range of the next one. */
typedef struct sdci_utf8 {
    uint8_t left, min, max;
} sdci_utf8;

/* First byte of a sequence. The ranges exclude overlong forms, surrogates and what is past
   U+10FFFF (Unicode 15, table 3-7). */
static bool sdci_utf8_lead(sdci_utf8 *utf8, unsigned char c)
{
    utf8->min = 0x80;
    utf8->max = 0xBF;
    if (c >= 0xC2 && c <= 0xDF) {
        utf8->left = 1;
    } else if (c >= 0xE0 && c <= 0xEF) {
        utf8->left = 2;
        utf8->min = c == 0xE0 ? 0xA0 : 0x80;
        utf8->max = c == 0xED ? 0x9F : 0xBF;
    } else if (c >= 0xF0 && c <= 0xF4) {
        utf8->left = 3;
        utf8->min = c == 0xF0 ? 0x90 : 0x80;
        utf8->max = c == 0xF4 ? 0x8F : 0xBF;
    } else {
        return false;
    }
    return true;
}

/* One byte of a multi-byte character; false if it cannot stand there. */
static bool sdci_utf8_byte(sdci_utf8 *utf8, unsigned char c)
{
    if (utf8->left == 0) {
        return sdci_utf8_lead(utf8, c);
    }
    if (c < utf8->min || c > utf8->max) {
        return false;
    }
    utf8->left--;
    utf8->min = 0x80;
    utf8->max = 0xBF;
    return true;
}

static bool sdci_is_utf8(const char *text)
{
    sdci_utf8 utf8 = { 0, 0, 0 };

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c >= 0x80 || utf8.left > 0) && !sdci_utf8_byte(&utf8, c)) {
            return false;
        }
    }
    return utf8.left == 0;
}

/* Writes a code point. Answers how many bytes it has. */
static size_t sdci_put_utf8(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* -- Errors -- */

const char *sdc_err_str(sdc_err err)
{
    switch (err) {
    case SDC_OK:          return "ok";
    case SDC_AGAIN:       return "not yet";
    case SDC_STOPPED:     return "stopped";
    case SDC_GONE:        return "destroyed during the call";
    case SDC_ERR_ARG:     return "invalid argument";
    case SDC_ERR_NOMEM:   return "out of memory";
    case SDC_ERR_LIMIT:   return "a limit was reached";
    case SDC_ERR_RESOLVE: return "the name has no address";
    case SDC_ERR_CONNECT: return "no connection";
    case SDC_ERR_TLS:     return "TLS was refused";
    case SDC_ERR_IO:      return "the connection broke";
    case SDC_ERR_TIMEOUT: return "no answer in time";
    case SDC_ERR_HTTP:    return "the answer is not valid HTTP";
    case SDC_ERR_STATUS:  return "an error for an answer";
    case SDC_ERR_DENIED:  return "permission denied";
    case SDC_ERR_BUSY:    return "too many requests";
    case SDC_ERR_JSON:    return "the answer is not valid JSON";
    case SDC_ERR_SHAPE:   return "the answer has an unexpected form";
    case SDC_ERR_EMPTY:   return "nothing to pick from";
    case SDC_ERR_USER:    return "the program's own error";
    }
    return "unknown error";
}

int sdc_version(void)
{
    return SDC_VERSION;
}

/* A message is one printable line: what a peer or a caller put into it cannot break a log. */
static void sdci_make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if (sdci_is_control(*text)) {
            *text = ' ';
        }
    }
}

static void sdci_error_clear(sdc_error *error)
{
    if (error != NULL) {
        memset(error, 0, sizeof *error);
    }
}

/* Writes the whole error and answers its code, so that a refusal is one line. */
static sdc_err sdci_fail(sdc_error *error, sdc_err code, const char *format, ...) SDCI_PRINTF(3, 4);

static sdc_err sdci_fail(sdc_error *error, sdc_err code, const char *format, ...)
{
    va_list args;

    if (error == NULL) {
        return code;
    }
    sdci_error_clear(error);
    error->code = code;
    va_start(args, format);
    (void)vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    sdci_make_printable(error->message);
    return code;
}

/* After a hook failed, which need not have filled in everything. */
static void sdci_error_settle(sdc_error *error, sdc_err code)
{
    error->code = code;
    error->message[sizeof error->message - 1] = '\0';
    if (error->message[0] == '\0') {
        (void)snprintf(error->message, sizeof error->message, "%s", sdc_err_str(code));
    }
    sdci_make_printable(error->message);
}

/* For failures whose code says all there is to say. */
static sdc_err sdci_fail_plain(sdc_error *error, sdc_err code)
{
    return sdci_fail(error, code, "%s", sdc_err_str(code));
}

/* What a decoder keeps of its first error: small, since each watch holds two of them. */
typedef struct sdci_fault {
    const char *what;               /* static */
    uint64_t at;                    /* byte since reset */
    sdc_err code;
} sdci_fault;

static void sdci_fault_tell(const sdci_fault *fault, const char *of_what, sdc_error *out)
{
    sdci_error_clear(out);
    if (fault->code == SDC_OK || out == NULL) {
        return;
    }
    (void)sdci_fail(out, fault->code, "%s, byte %llu: %s", of_what,
                    (unsigned long long)fault->at,
                    fault->what != NULL ? fault->what : sdc_err_str(fault->code));
}

/* -- Memory -- */

static void *sdci_malloc_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    (void)old_size;
    if (new_size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, new_size);
}

static sdc_allocator sdci_allocator_or_malloc(const sdc_allocator *allocator)
{
    sdc_allocator a;

    a.user = NULL;
    a.resize = sdci_malloc_resize;
    return allocator != NULL ? *allocator : a;
}

static void *sdci_resize(const sdc_allocator *a, void *ptr, size_t old_size, size_t new_size)
{
    return a->resize(a->user, ptr, old_size, new_size);
}

/* Zeroed; NULL when there is none. */
static void *sdci_new(const sdc_allocator *a, size_t size)
{
    void *ptr = sdci_resize(a, NULL, 0, size);

    if (ptr != NULL) {
        memset(ptr, 0, size);
    }
    return ptr;
}

/* A large block is made small before it is freed: glibc's malloc gives each large block pages of
   its own, which go back to the system with it, but stops doing so for blocks up to the largest
   one that it has ever seen freed. */
static void sdci_free(const sdc_allocator *a, void *ptr, size_t size)
{
    if (ptr == NULL) {
        return;
    }
    void *small = size >= SDCI_LARGE_BYTES ? sdci_resize(a, ptr, size, 1) : NULL;
    (void)sdci_resize(a, small != NULL ? small : ptr, small != NULL ? 1 : size, 0);
}

/* Secrets do not outlive their use: the writes are volatile so that none is optimised away. */
static void sdci_wipe(void *ptr, size_t size)
{
    volatile unsigned char *p = (volatile unsigned char *)ptr;

    while (size > 0) {
        size--;
        p[size] = 0;
    }
}

/* Bytes that grow up to a limit. The first failure sticks in `err` and further writes do nothing,
   so that a writer checks once, at its end. Growing is by half, from 256 bytes. */
typedef struct sdci_buf {
    const sdc_allocator *allocator;
    char *ptr;
    size_t len, cap, max;
    sdc_err err;
    bool is_secret;                 /* wiped before its memory has another use */
} sdci_buf;

static void sdci_buf_init(sdci_buf *buf, const sdc_allocator *allocator, size_t max)
{
    memset(buf, 0, sizeof *buf);
    buf->allocator = allocator;
    buf->max = max;
}

static void sdci_buf_deinit(sdci_buf *buf)
{
    if (buf->is_secret && buf->ptr != NULL) {
        sdci_wipe(buf->ptr, buf->cap);
    }
    sdci_free(buf->allocator, buf->ptr, buf->cap);
    buf->ptr = NULL;
    buf->len = 0;
    buf->cap = 0;
    buf->err = SDC_OK;
}

/* Empty again; the memory stays. */
static void sdci_buf_clear(sdci_buf *buf)
{
    if (buf->is_secret && buf->len > 0) {
        sdci_wipe(buf->ptr, buf->len);
    }
    buf->len = 0;
    buf->err = SDC_OK;
}

/* A secret must not stay behind in memory that realloc gave back, so it is moved by hand. */
static char *sdci_buf_regrow(sdci_buf *buf, size_t cap)
{
    if (!buf->is_secret) {
        return (char *)sdci_resize(buf->allocator, buf->ptr, buf->cap, cap);
    }
    char *ptr = (char *)sdci_resize(buf->allocator, NULL, 0, cap);
    if (ptr != NULL && buf->ptr != NULL) {
        memcpy(ptr, buf->ptr, buf->len);
        sdci_wipe(buf->ptr, buf->cap);
        sdci_free(buf->allocator, buf->ptr, buf->cap);
    }
    return ptr;
}

static bool sdci_buf_reserve(sdci_buf *buf, size_t extra)
{
    if (buf->err != SDC_OK) {
        return false;
    }
    if (extra <= buf->cap - buf->len) {
        return true;
    }
    if (extra > buf->max - buf->len) {
        buf->err = SDC_ERR_LIMIT;
        return false;
    }
    size_t cap = buf->cap + buf->cap / 2;
    cap = cap < 256 ? 256 : cap;
    cap = cap < buf->len + extra ? buf->len + extra : cap;
    cap = cap > buf->max ? buf->max : cap;
    char *ptr = sdci_buf_regrow(buf, cap);
    if (ptr == NULL) {
        buf->err = SDC_ERR_NOMEM;
        return false;
    }
    buf->ptr = ptr;
    buf->cap = cap;
    return true;
}

static void sdci_put(sdci_buf *buf, const void *bytes, size_t len)
{
    if (len > 0 && sdci_buf_reserve(buf, len)) {
        memcpy(buf->ptr + buf->len, bytes, len);
        buf->len += len;
    }
}

static void sdci_put_char(sdci_buf *buf, char c)
{
    sdci_put(buf, &c, 1);
}

static void sdci_put_text(sdci_buf *buf, const char *text)
{
    sdci_put(buf, text, strlen(text));
}

static void sdci_put_u64(sdci_buf *buf, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;

    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    sdci_put(buf, digits + at, sizeof digits - at);
}

/* The bytes from `start` on, as they stand now: valid until the next write. */
static sdci_str sdci_buf_from(const sdci_buf *buf, size_t start)
{
    return sdci_slice(buf->ptr + start, buf->len - start);
}

/* A copy in memory of its own, with a NUL behind it. NULL when there is none. */
static char *sdci_copy_slice(const sdc_allocator *a, sdci_str text)
{
    char *copy = (char *)sdci_resize(a, NULL, 0, text.len + 1);

    if (copy != NULL) {
        memcpy(copy, text.len > 0 ? text.ptr : "", text.len);
        copy[text.len] = '\0';
    }
    return copy;
}

static char *sdci_copy(const sdc_allocator *a, const char *text)
{
    return sdci_copy_slice(a, sdci_str_of(text));
}

/* Ends a buffer and answers its bytes as a text of their own. NULL: it had failed, or there is no
   memory. */
static char *sdci_buf_to_text(sdci_buf *buf)
{
    char *text = buf->err == SDC_OK
                     ? sdci_copy_slice(buf->allocator, sdci_slice(buf->ptr, buf->len)) : NULL;

    sdci_buf_deinit(buf);
    return text;
}

static void sdci_free_text(const sdc_allocator *a, char *text)
{
    if (text != NULL) {
        sdci_free(a, text, strlen(text) + 1);
    }
}

static void sdci_free_secret(const sdc_allocator *a, char *text)
{
    if (text != NULL) {
        size_t size = strlen(text) + 1;
        sdci_wipe(text, size);
        sdci_free(a, text, size);
    }
}

/* -- Gates -- */

/* Work that several threads ask for and one at a time does. Who comes first does it, for the others
   too: they leave at once, and so does who asks from inside the work. True: do it, and again for as
   long as sdci_gate_again says so. */
static bool sdci_gate_enter(uint32_t *gate)
{
    return sdci_atomic_add(gate, 1) == 1;
}

/* `seen`: the gate's value before the work, so that nobody who asked since then is forgotten. */
static bool sdci_gate_again(uint32_t *gate, uint32_t seen)
{
    return sdci_atomic_sub(gate, seen) != 0;
}

/* -- Random pauses -- */

/* A splitmix64 sequence: jitter needs to be cheap and spread, not secret. */
typedef struct sdci_random {
    uint64_t state;
} sdci_random;

static uint64_t sdci_random_next(sdci_random *random)
{
    random->state += 0x9E3779B97F4A7C15u;
    uint64_t z = random->state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Evenly from 0 to `max`, both included. */
static uint64_t sdci_random_upto(sdci_random *random, uint64_t max)
{
    uint64_t bits = sdci_random_next(random);

    return max == UINT64_MAX ? bits : bits % (max + 1);
}

/* 32 random bits as one of `num` numbers from 0 on: without a division, for picks. */
static uint32_t sdci_scaled(uint32_t bits, uint32_t num)
{
    return (uint32_t)(((uint64_t)bits * num) >> 32);
}

static uint32_t sdci_random_below(sdci_random *random, uint32_t num)
{
    return sdci_scaled((uint32_t)(sdci_random_next(random) >> 32), num);
}

/* What a program may ask of pauses; 0 stands for a default that is not checked here. */
static sdc_err sdci_backoff_valid(uint32_t min_ms, uint32_t max_ms, sdc_error *error)
{
    if (min_ms == SDC_NEVER || max_ms == SDC_NEVER) {
        return sdci_fail(error, SDC_ERR_ARG, "%s cannot be for ever",
                         min_ms == SDC_NEVER ? "backoff_min_ms" : "backoff_max_ms");
    }
    if (max_ms != 0 && max_ms < min_ms) {
        return sdci_fail(error, SDC_ERR_ARG, "backoff_max_ms is less than backoff_min_ms");
    }
    return SDC_OK;
}

static uint64_t sdci_doubled(uint64_t min_ms, uint64_t max_ms, uint32_t times)
{
    for (; times > 0 && min_ms < max_ms; times--) {
        min_ms *= 2;
    }
    return sdci_min(min_ms, max_ms);
}

/* The pause after the nth failure in a row (from 1): anywhere between min and min doubled n-1
   times, but never beyond max. The jitter is drawn after the cap, so that clients which have been
   failing together for long do not come back together. */
static uint32_t sdci_backoff_ms(sdci_random *random, uint32_t min_ms, uint32_t max_ms, uint32_t nth)
{
    uint64_t span = sdci_doubled(min_ms, max_ms, nth > 0 ? nth - 1 : 0);
    uint64_t least = sdci_min(min_ms, span);
    return (uint32_t)(least + sdci_random_upto(random, span - least));
}

/* ---- JSON --------------------------------------------------- [sdc:json] --
   One strict RFC 8259 grammar as a push decoder: any split of the bytes, one
   event for each token, text decoded. Memory is bounded: one bit for each
   level, and the text of one string at a time.

                    .------------ value in a container ------------.
                    v                                              |
     VALUE --scalar or end of container--> NEXT --','--> VALUE or KEY
       |  '['  FIRST_ITEM --']'--> NEXT      |
       |  '{'  FIRST_KEY  --'}'--> NEXT      '--outermost--> DONE
       |           '--string--> COLON --':'--> VALUE
       '--'"'--> STRING <--> ESCAPE, UNICODE, LOW_BACKSLASH, LOW_U
       '--digit--> NUMBER and its states         '--letter--> LITERAL
   ------------------------------------------------------------------------- */

#define SDCI_JSON_DEPTH_MAX 64u
#define SDCI_JSON_TEXT_MAX  ((size_t)1 << 20)

typedef enum sdci_json_state {
    SDCI_JSON_VALUE,            /* a value must come                               */
    SDCI_JSON_FIRST_ITEM,       /* after '[': a value or ']'                       */
    SDCI_JSON_FIRST_KEY,        /* after '{': a name or '}'                        */
    SDCI_JSON_KEY,              /* after ',' in an object: a name                  */
    SDCI_JSON_COLON,            /* after a name                                    */
    SDCI_JSON_NEXT,             /* after a value in a container: ',' or its end    */
    SDCI_JSON_STRING,           /* in a string or name                             */
    SDCI_JSON_ESCAPE,           /* after its '\'                                   */
    SDCI_JSON_UNICODE,          /* in the four digits after '\u'                   */
    SDCI_JSON_LOW_BACKSLASH,    /* after a high surrogate: the '\' of the low one  */
    SDCI_JSON_LOW_U,            /* and its 'u'                                     */
    SDCI_JSON_NUMBER,           /* number: its first character is next             */
    SDCI_JSON_MINUS,            /* number: after '-'                               */
    SDCI_JSON_ZERO,             /* number: after a leading 0                       */
    SDCI_JSON_INTEGER,          /* number: in its digits                           */
    SDCI_JSON_DOT,              /* number: after '.'                               */
    SDCI_JSON_FRACTION,         /* number: in the digits after it                  */
    SDCI_JSON_E,                /* number: after 'e'                               */
    SDCI_JSON_E_SIGN,           /* number: after the exponent's sign               */
    SDCI_JSON_EXPONENT,         /* number: in the exponent's digits                */
    SDCI_JSON_LITERAL,          /* in true, false or null                          */
    SDCI_JSON_DONE              /* one whole value was had: only space may follow  */
} sdci_json_state;

struct sdc_json {
    sdc_json_fn fn;
    void *user;
    sdc_allocator own;          /* of a decoder that sdc_json_create made */
    sdci_buf text;              /* of a token that has escapes or spans two feeds */
    sdci_fault fault;
    uint64_t offset;            /* bytes before the current feed */
    uint64_t at;                /* the byte that an error of the grammar would be about */
    uint64_t token_at;          /* the first byte of the token: what a refusal is about */
    uint64_t objects;           /* bit n: level n is an object */
    const char *literal;        /* what is left of true, false or null */
    uint32_t depth;
    uint32_t code_point;        /* being read from \u digits */
    uint32_t high;              /* the high surrogate before it, or 0 */
    sdci_json_state state;
    sdc_json_kind kind;         /* of the token being read */
    uint8_t num_digits;         /* of the \u escape */
    sdci_utf8 utf8;             /* the character being read */
};

static void sdci_json_reset(sdc_json *json)
{
    sdci_buf_clear(&json->text);
    memset(&json->fault, 0, sizeof json->fault);
    json->offset = 0;
    json->objects = 0;
    json->at = 0;
    json->token_at = 0;
    json->depth = 0;
    json->high = 0;
    json->utf8.left = 0;
    json->state = SDCI_JSON_VALUE;
}

static void sdci_json_init(sdc_json *json, const sdc_allocator *allocator, sdc_json_fn fn,
                           void *user)
{
    memset(json, 0, sizeof *json);
    json->fn = fn;
    json->user = user;
    sdci_buf_init(&json->text, allocator, SDCI_JSON_TEXT_MAX);
    sdci_json_reset(json);
}

static void sdci_json_deinit(sdc_json *json)
{
    sdci_buf_deinit(&json->text);
}

static void sdci_json_fail_at(sdc_json *json, uint64_t at, sdc_err code, const char *what)
{
    if (json->fault.code == SDC_OK) {
        json->fault.code = code;
        json->fault.what = what;
        json->fault.at = at;
    }
}

static void sdci_json_fail(sdc_json *json, sdc_err code, const char *what)
{
    sdci_json_fail_at(json, json->at, code, what);
}

static void sdci_json_emit(sdc_json *json, sdc_json_kind kind, sdci_str text)
{
    sdc_err err = json->fn(json->user, kind, text.ptr, text.len);

    if (err != SDC_OK) {
        sdci_json_fail_at(json, json->token_at, err, NULL);
    }
}

/* Where a finished value leaves the machine. */
static void sdci_json_value_done(sdc_json *json)
{
    json->state = json->depth == 0 ? SDCI_JSON_DONE : SDCI_JSON_NEXT;
}

static bool sdci_json_in_object(const sdc_json *json)
{
    return (json->objects >> (json->depth - 1) & 1) != 0;
}

static void sdci_json_open(sdc_json *json, bool is_object)
{
    if (json->depth == SDCI_JSON_DEPTH_MAX) {
        sdci_json_fail(json, SDC_ERR_LIMIT, "nested deeper than 64 levels");
        return;
    }
    uint64_t bit = (uint64_t)1 << json->depth;
    json->objects = is_object ? json->objects | bit : json->objects & ~bit;
    json->depth++;
    json->state = is_object ? SDCI_JSON_FIRST_KEY : SDCI_JSON_FIRST_ITEM;
    sdci_json_emit(json, is_object ? SDC_JSON_OBJECT : SDC_JSON_ARRAY, sdci_slice("", 0));
}

static void sdci_json_close(sdc_json *json)
{
    bool is_object = sdci_json_in_object(json);

    json->depth--;
    sdci_json_value_done(json);
    sdci_json_emit(json, is_object ? SDC_JSON_OBJECT_END : SDC_JSON_ARRAY_END, sdci_slice("", 0));
}

/* Keeps a piece of a token for later. */
static void sdci_json_keep(sdc_json *json, const char *bytes, size_t len)
{
    sdci_put(&json->text, bytes, len);
    if (json->text.err != SDC_OK) {
        sdci_json_fail_at(json, json->token_at, json->text.err,
                          json->text.err == SDC_ERR_LIMIT ? "a string is longer than 1 MiB" : NULL);
    }
}

/* Ends a token whose last piece is `tail`: without a kept part it goes out as it stands in the
   caller's bytes. */
static void sdci_json_emit_token(sdc_json *json, sdc_json_kind kind, sdci_str tail)
{
    if (json->text.len > 0 || tail.len > SDCI_JSON_TEXT_MAX) {
        sdci_json_keep(json, tail.ptr, tail.len);
        tail = sdci_slice(json->text.ptr, json->text.len);
    }
    if (json->fault.code == SDC_OK) {
        sdci_json_emit(json, kind, tail);
    }
    sdci_buf_clear(&json->text);
}

/* -- Strings -- */

static void sdci_json_begin_string(sdc_json *json, sdc_json_kind kind)
{
    json->kind = kind;
    json->state = SDCI_JSON_STRING;
}

/* From p to the first byte that is neither a plain ASCII character nor part of a whole and valid
   multi-byte one. */
static const char *sdci_json_run(sdc_json *json, const char *p, const char *end)
{
    const char *start = p;

    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c >= 0x80 || json->utf8.left > 0) {
            if (!sdci_utf8_byte(&json->utf8, c)) {
                sdci_json_fail_at(json, json->at + (uint64_t)(p - start), SDC_ERR_JSON,
                                  "invalid UTF-8");
                return p;
            }
        } else if (c == '"' || c == '\\' || c < 0x20) {
            return p;
        }
    }
    return p;
}

static const char *sdci_json_in_string(sdc_json *json, const char *p, const char *end)
{
    const char *start = p;

    p = sdci_json_run(json, p, end);
    sdci_str run = sdci_slice(start, (size_t)(p - start));
    if (json->fault.code != SDC_OK) {
        return p;
    }
    if (p == end || *p == '\\') {
        sdci_json_keep(json, run.ptr, run.len);
        json->state = p == end ? SDCI_JSON_STRING : SDCI_JSON_ESCAPE;
        return p == end ? p : p + 1;
    }
    if (*p != '"') {
        sdci_json_fail_at(json, json->at + run.len, SDC_ERR_JSON,
                          "a control character in a string");
        return p;
    }
    if (json->kind == SDC_JSON_KEY) {
        json->state = SDCI_JSON_COLON;
    } else {
        sdci_json_value_done(json);
    }
    sdci_json_emit_token(json, json->kind, run);
    return p + 1;
}

static void sdci_json_escape(sdc_json *json, char c)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";

    if (c == 'u') {
        json->code_point = 0;
        json->num_digits = 0;
        json->state = SDCI_JSON_UNICODE;
        return;
    }
    const char *found = c != '\0' ? strchr(from, c) : NULL;
    if (found == NULL) {
        sdci_json_fail(json, SDC_ERR_JSON, "an unknown escape in a string");
        return;
    }
    json->state = SDCI_JSON_STRING;
    sdci_json_keep(json, &to[found - from], 1);
}

static void sdci_json_keep_code_point(sdc_json *json, uint32_t c)
{
    char utf8[4];

    sdci_json_keep(json, utf8, sdci_put_utf8(utf8, c));
}

/* After the fourth digit: half of a surrogate pair, or a character. */
static void sdci_json_unicode_done(sdc_json *json)
{
    uint32_t c = json->code_point;
    bool is_low = c >= 0xDC00 && c <= 0xDFFF;
    bool is_high = c >= 0xD800 && c <= 0xDBFF;

    if (is_low != (json->high != 0)) {
        sdci_json_fail(json, SDC_ERR_JSON, "half of a surrogate pair");
        return;
    }
    if (is_high) {
        json->high = c;
        json->state = SDCI_JSON_LOW_BACKSLASH;
        return;
    }
    if (is_low) {
        c = 0x10000 + ((json->high - 0xD800) << 10) + (c - 0xDC00);
    }
    json->high = 0;
    json->state = SDCI_JSON_STRING;
    sdci_json_keep_code_point(json, c);
}

static void sdci_json_unicode(sdc_json *json, char c)
{
    int digit = sdci_hex(c);

    if (digit < 0) {
        sdci_json_fail(json, SDC_ERR_JSON, "\\u needs four hexadecimal digits");
        return;
    }
    json->code_point = json->code_point * 16 + (uint32_t)digit;
    json->num_digits++;
    if (json->num_digits == 4) {
        sdci_json_unicode_done(json);
    }
}

/* The "\u" between the halves of a pair. */
static void sdci_json_low(sdc_json *json, char c)
{
    if (c != (json->state == SDCI_JSON_LOW_BACKSLASH ? '\\' : 'u')) {
        sdci_json_fail(json, SDC_ERR_JSON, "half of a surrogate pair");
        return;
    }
    if (json->state == SDCI_JSON_LOW_BACKSLASH) {
        json->state = SDCI_JSON_LOW_U;
    } else {
        json->code_point = 0;
        json->num_digits = 0;
        json->state = SDCI_JSON_UNICODE;
    }
}

/* -- Numbers and literals -- */

/* The state after one more character of a number; SDCI_JSON_VALUE: it cannot stand there. */
static sdci_json_state sdci_json_number_state(sdci_json_state state, char c)
{
    bool is_digit = sdci_is_digit(c);
    bool is_e = c == 'e' || c == 'E';

    if (state == SDCI_JSON_NUMBER && c == '-') {
        return SDCI_JSON_MINUS;
    }
    if ((state == SDCI_JSON_NUMBER || state == SDCI_JSON_MINUS) && is_digit) {
        return c == '0' ? SDCI_JSON_ZERO : SDCI_JSON_INTEGER;
    }
    if ((state == SDCI_JSON_ZERO || state == SDCI_JSON_INTEGER) && c == '.') {
        return SDCI_JSON_DOT;
    }
    if ((state == SDCI_JSON_ZERO || state == SDCI_JSON_INTEGER || state == SDCI_JSON_FRACTION) &&
        is_e) {
        return SDCI_JSON_E;
    }
    if (state == SDCI_JSON_INTEGER && is_digit) {
        return SDCI_JSON_INTEGER;
    }
    if ((state == SDCI_JSON_DOT || state == SDCI_JSON_FRACTION) && is_digit) {
        return SDCI_JSON_FRACTION;
    }
    if (state == SDCI_JSON_E && (c == '+' || c == '-')) {
        return SDCI_JSON_E_SIGN;
    }
    if ((state == SDCI_JSON_E || state == SDCI_JSON_E_SIGN || state == SDCI_JSON_EXPONENT) &&
        is_digit) {
        return SDCI_JSON_EXPONENT;
    }
    return SDCI_JSON_VALUE;
}

static bool sdci_json_number_may_end(sdci_json_state state)
{
    return state == SDCI_JSON_ZERO || state == SDCI_JSON_INTEGER || state == SDCI_JSON_FRACTION ||
           state == SDCI_JSON_EXPONENT;
}

/* A number ends at the first byte that is not of it, which stays for the next state. */
static const char *sdci_json_in_number(sdc_json *json, const char *p, const char *end)
{
    const char *start = p;

    for (; p < end; p++) {
        sdci_json_state next = sdci_json_number_state(json->state, *p);
        if (next == SDCI_JSON_VALUE) {
            break;
        }
        json->state = next;
    }
    sdci_str run = sdci_slice(start, (size_t)(p - start));
    if (p == end) {
        sdci_json_keep(json, run.ptr, run.len);
    } else if (!sdci_json_number_may_end(json->state)) {
        sdci_json_fail_at(json, json->at + run.len, SDC_ERR_JSON, "a malformed number");
    } else {
        sdci_json_value_done(json);
        sdci_json_emit_token(json, SDC_JSON_NUMBER, run);
    }
    return p;
}

static void sdci_json_begin_literal(sdc_json *json, char first)
{
    if (first == 't') {
        json->literal = "rue";
        json->kind = SDC_JSON_TRUE;
    } else if (first == 'f') {
        json->literal = "alse";
        json->kind = SDC_JSON_FALSE;
    } else {
        json->literal = "ull";
        json->kind = SDC_JSON_NULL;
    }
    json->state = SDCI_JSON_LITERAL;
}

static void sdci_json_in_literal(sdc_json *json, char c)
{
    if (c != *json->literal) {
        sdci_json_fail(json, SDC_ERR_JSON, "neither true, false nor null");
        return;
    }
    json->literal++;
    if (*json->literal == '\0') {
        sdci_json_value_done(json);
        sdci_json_emit(json, json->kind, sdci_slice("", 0));
    }
}

/* -- Between tokens -- */

/* First character of a value. A number's stays, so that its whole text is one run. */
static const char *sdci_json_begin_value(sdc_json *json, const char *p)
{
    char c = *p;

    if (c == '"') {
        sdci_json_begin_string(json, SDC_JSON_STRING);
    } else if (c == '{' || c == '[') {
        sdci_json_open(json, c == '{');
    } else if (c == 't' || c == 'f' || c == 'n') {
        sdci_json_begin_literal(json, c);
    } else if (c == '-' || sdci_is_digit(c)) {
        json->state = SDCI_JSON_NUMBER;
        return p;
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, "a value is missing");
        return p;
    }
    return p + 1;
}

static void sdci_json_begin_key(sdc_json *json, char c)
{
    if (c == '"') {
        sdci_json_begin_string(json, SDC_JSON_KEY);
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, "a member name is missing");
    }
}

static void sdci_json_after_value(sdc_json *json, char c)
{
    bool is_object = sdci_json_in_object(json);

    if (c == ',') {
        json->state = is_object ? SDCI_JSON_KEY : SDCI_JSON_VALUE;
    } else if (c == (is_object ? '}' : ']')) {
        sdci_json_close(json);
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, is_object ? "',' or '}' is missing"
                                                     : "',' or ']' is missing");
    }
}

/* One character in a state that allows space before it. */
static const char *sdci_json_between(sdc_json *json, const char *p)
{
    char c = *p;

    if (sdci_is_space(c)) {
        return p + 1;
    }
    json->token_at = json->at;
    if (json->state == SDCI_JSON_VALUE ||
        (json->state == SDCI_JSON_FIRST_ITEM && c != ']')) {
        return sdci_json_begin_value(json, p);
    }
    if (json->state == SDCI_JSON_KEY || (json->state == SDCI_JSON_FIRST_KEY && c != '}')) {
        sdci_json_begin_key(json, c);
    } else if (json->state == SDCI_JSON_FIRST_ITEM || json->state == SDCI_JSON_FIRST_KEY) {
        sdci_json_close(json);
    } else if (json->state == SDCI_JSON_NEXT) {
        sdci_json_after_value(json, c);
    } else if (json->state == SDCI_JSON_COLON && c == ':') {
        json->state = SDCI_JSON_VALUE;
    } else {
        sdci_json_fail(json, SDC_ERR_JSON, json->state == SDCI_JSON_COLON
                           ? "':' is missing" : "more bytes after the value");
    }
    return p + 1;
}

/* -- The decoder -- */

/* Takes at least one byte, or leaves a state that will. */
static const char *sdci_json_some(sdc_json *json, const char *p, const char *end)
{
    switch (json->state) {
    case SDCI_JSON_VALUE:
    case SDCI_JSON_FIRST_ITEM:
    case SDCI_JSON_FIRST_KEY:
    case SDCI_JSON_KEY:
    case SDCI_JSON_COLON:
    case SDCI_JSON_NEXT:
    case SDCI_JSON_DONE:
        return sdci_json_between(json, p);
    case SDCI_JSON_STRING:
        return sdci_json_in_string(json, p, end);
    case SDCI_JSON_ESCAPE:
        sdci_json_escape(json, *p);
        return p + 1;
    case SDCI_JSON_UNICODE:
        sdci_json_unicode(json, *p);
        return p + 1;
    case SDCI_JSON_LOW_BACKSLASH:
    case SDCI_JSON_LOW_U:
        sdci_json_low(json, *p);
        return p + 1;
    case SDCI_JSON_NUMBER:
    case SDCI_JSON_MINUS:
    case SDCI_JSON_ZERO:
    case SDCI_JSON_INTEGER:
    case SDCI_JSON_DOT:
    case SDCI_JSON_FRACTION:
    case SDCI_JSON_E:
    case SDCI_JSON_E_SIGN:
    case SDCI_JSON_EXPONENT:
        return sdci_json_in_number(json, p, end);
    case SDCI_JSON_LITERAL:
        sdci_json_in_literal(json, *p);
        return p + 1;
    }
    return end;
}

sdc_err sdc_json_feed(sdc_json *json, const void *bytes, size_t len)
{
    const char *start = (const char *)bytes;
    const char *p = start;

    if (json->fault.code != SDC_OK) {
        return json->fault.code;
    }
    while (p < start + len && json->fault.code == SDC_OK) {
        json->at = json->offset + (uint64_t)(p - start);
        p = sdci_json_some(json, p, start + len);
    }
    json->offset += (uint64_t)(p - start);
    return json->fault.code;
}

/* A number at the top level is the one value that only the end of the text ends. */
sdc_err sdc_json_finish(sdc_json *json)
{
    if (json->fault.code != SDC_OK) {
        return json->fault.code;
    }
    if (json->depth == 0 && sdci_json_number_may_end(json->state)) {
        sdci_json_value_done(json);
        sdci_json_emit_token(json, SDC_JSON_NUMBER, sdci_slice("", 0));
    }
    if (json->state != SDCI_JSON_DONE && json->fault.code == SDC_OK) {
        sdci_json_fail_at(json, json->offset, SDC_ERR_JSON, "the text ends too early");
    }
    return json->fault.code;
}

void sdc_json_error(const sdc_json *json, sdc_error *out)
{
    sdci_fault_tell(&json->fault, "JSON", out);
}

void sdc_json_reset(sdc_json *json)
{
    sdci_json_reset(json);
}

sdc_err sdc_json_create(const sdc_allocator *allocator, sdc_json_fn fn, void *user, sdc_json **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);

    *out = NULL;
    if (fn == NULL) {
        return SDC_ERR_ARG;
    }
    sdc_json *json = (sdc_json *)sdci_new(&own, sizeof *json);
    if (json == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_json_init(json, &json->own, fn, user);
    json->own = own;
    *out = json;
    return SDC_OK;
}

void sdc_json_destroy(sdc_json *json)
{
    if (json != NULL) {
        sdc_allocator own = json->own;
        sdci_json_deinit(json);
        sdci_free(&own, json, sizeof *json);
    }
}

/* ---- entries --------------------------------------------- [sdc:entries] --
   The body of /v1/health/service/NAME, one instance at a time: an array of
   {Node, Service, Checks}. Holds the text of one entry, never the body.

   Where the decoder stands is a place: a container whose members are wanted,
   and how deep in a skipped one it is. A table says for each place which
   members are wanted and what becomes of them; every other member is skipped,
   however deep it goes, and still checked to the last byte.

   An entry that cannot be used (no address, no port, a member of the wrong
   shape) is counted and left out; the others are not touched by it.

   The grammar is that of [sdc:json], written again for speed: bytes are read
   where they are, by whole tokens. A token begins only where SDCI_LOOK bytes
   are in sight, so that none but a long one is ever cut; what is left over at
   the end of a feed waits in `carry` for more, or for the end. Long strings and
   numbers go on from feed to feed instead.

     BETWEEN --long string--> STRING --'"'--> BETWEEN
        '------long number--> NUMBER --else-> BETWEEN

   The general decoder reads anything (from "Containers and names" to "Tokens").
   Over it lies a shortcut for what comes again and again, learned while
   decoding (from "Learning gaps" on); the page at "Gaps" says why that is sound.
   A watch need not even read the entries that it knows (see "Known entries").
   Consul docs: api-docs/health#list-service-instances.
   ------------------------------------------------------------------------- */

#define SDCI_LOOK            256u               /* bytes in sight where a token may begin */
#define SDCI_CARRY           512u               /* what is fed in small pieces is read by so many */
#define SDCI_NAME_MAX        15u                /* no member that is wanted has a longer name */
#define SDCI_STRIDE          16u                /* texts are copied by so many bytes at a time */
#define SDCI_CHECKS_APART    3u                 /* positions tell so many checks apart */
#define SDCI_ENTRY_TEXT_MAX  ((size_t)1 << 20)   /* wanted text of one entry */
#define SDCI_ENTRY_ITEMS_MAX 1024u               /* tags, meta pairs, ... of one entry */

typedef enum sdci_place {
    SDCI_AT_TOP,                /* before the array */
    SDCI_AT_LIST,
    SDCI_AT_ENTRY,
    SDCI_AT_NODE,
    SDCI_AT_NODE_LOCALITY,
    SDCI_AT_SERVICE,
    SDCI_AT_TAGS,
    SDCI_AT_META,
    SDCI_AT_TAGGED,
    SDCI_AT_TAGGED_ITEM,
    SDCI_AT_PORTS,
    SDCI_AT_PORT,
    SDCI_AT_WEIGHTS,
    SDCI_AT_LOCALITY,
    SDCI_AT_CHECKS,
    SDCI_AT_CHECK,
    SDCI_NUM_PLACES
} sdci_place;

/* The strings of an entry that have one value each. */
typedef enum sdci_field {
    SDCI_NODE, SDCI_NODE_ADDRESS, SDCI_DATACENTER, SDCI_NODE_PARTITION, SDCI_NODE_PEER,
    SDCI_NODE_REGION, SDCI_NODE_ZONE, SDCI_ID, SDCI_SERVICE, SDCI_ADDRESS, SDCI_SOCKET_PATH,
    SDCI_NS, SDCI_PARTITION, SDCI_PEER, SDCI_REGION, SDCI_ZONE,
    SDCI_ITEM_NAME,             /* of the port or tagged address being read */
    SDCI_ITEM_ADDRESS,
    SDCI_CHECK_ID, SDCI_CHECK_STATUS,
    SDCI_NUM_FIELDS
} sdci_field;

/* Its numbers; all are unsigned and at most 65535 in Consul. */
typedef enum sdci_number {
    SDCI_PORT, SDCI_WEIGHT_PASSING, SDCI_WEIGHT_WARNING, SDCI_ITEM_PORT, SDCI_ITEM_IS_DEFAULT,
    SDCI_NUM_NUMBERS
} sdci_number;

/* What becomes of a value: its type, and the field, number or place it goes to. */
typedef enum sdci_type {
    SDCI_SKIP, SDCI_STRING, SDCI_UINT16, SDCI_BOOL, SDCI_OBJECT, SDCI_ARRAY, SDCI_TAG, SDCI_META
} sdci_type;

typedef struct sdci_member {
    char name[SDCI_NAME_MAX + 1];       /* empty: any member, or an item of an array */
    uint8_t len;                        /* of the name */
    sdci_type type;
    int target;
} sdci_member;

/* A piece of `text`; at is one more than the offset, so that 0 is "not there". */
typedef struct sdci_span { uint32_t at, len; } sdci_span;

typedef struct sdci_pair { sdci_span key, value; } sdci_pair;
typedef struct sdci_item { sdci_span name, address; uint16_t port; bool is_default; } sdci_item;

typedef struct sdci_gaps sdci_gaps;

/* Called for an entry that is left out: its number from 0, and why. */
typedef void (*sdci_skipped_fn)(void *user, uint64_t number, const char *why);

/* What may come next. */
typedef enum sdci_expect {
    SDCI_EXPECT_VALUE, SDCI_EXPECT_FIRST_ITEM, SDCI_EXPECT_FIRST_KEY, SDCI_EXPECT_KEY,
    SDCI_EXPECT_COLON, SDCI_EXPECT_NEXT, SDCI_EXPECT_NOTHING
} sdci_expect;

/* A position in the grammar between two tokens: all that decides what the bytes behind it mean. */
typedef struct sdci_where {
    uint64_t skip_objects;      /* bit n: level n of the skipped containers is an object */
    uint8_t place;
    uint8_t expect;
    uint8_t member;             /* in the place's table: what the next value is */
    uint8_t skip_depth;         /* open containers inside a skipped value */
    uint8_t check;              /* the nth check of the entry, from 1; late ones count as one */
    uint8_t zero[3];            /* so that positions compare as bytes */
} sdci_where;

typedef enum sdci_entries_mode {
    SDCI_BETWEEN,               /* between tokens                                     */
    SDCI_IN_STRING,             /* a string or name goes on; ends at its quote        */
    SDCI_IN_NUMBER              /* a number goes on; ends at the first other byte     */
} sdci_entries_mode;

/* Called for an entry that is the nth of the known ones again. */
typedef sdc_err (*sdci_known_fn)(void *user, size_t nth);

/* What whoever decodes knows of an answer before (search for: known entries). */
typedef struct sdci_known {
    sdci_known_fn fn;           /* NULL: nothing, and it will not be asked for */
    const uint64_t *prints;     /* of the entries of that answer, in its order */
    size_t num;
    size_t next;                /* the one that may come now: both callbacks set it */
    uint64_t seed;
} sdci_known;

struct sdc_entries {
    sdc_instance_fn fn;
    sdci_skipped_fn skipped_fn;         /* or NULL */
    void *user;
    const sdc_allocator *allocator;
    sdc_allocator own;                  /* these two of a decoder by sdc_entries_create */
    sdci_gaps *own_gaps;
    sdci_fault fault;
    const char *window;                 /* the bytes being read */
    const char *stop;                   /* no token begins here or later */
    const char *limit;                  /* here the bytes end: known entries may reach so far */
    uint64_t offset;                    /* how many bytes came before the window */
    sdci_where at;
    sdci_gaps *gaps;                    /* lent for a feed, or own; NULL: nothing is learned */
    uint32_t gap;                       /* the slot of the one that led to the newest scalar; 0:
                                           none, but where an answer begins */
    sdci_entries_mode mode;
    sdci_json_state number_state;       /* of SDCI_IN_NUMBER */
    uint32_t number;                    /* its value so far; from 65536 on only "too much" */
    bool is_key;                        /* of SDCI_IN_STRING: a name */
    bool is_kept;                       /* and its text is wanted */
    bool has_nul;
    bool is_last;                       /* nothing comes behind this window */
    size_t kept_at;                     /* where the kept text begins in `text` */
    size_t name_len;
    char name[SDCI_NAME_MAX + 1];       /* of a name that is looked up: its beginning */
    const char *bad;                    /* why this entry cannot be used; NULL so far it can */
    sdci_buf text;                      /* the strings of this entry, each with a NUL */
    sdci_buf tags, meta, tagged, ports; /* sdci_span, sdci_pair, sdci_item, sdci_item */
    sdci_buf arrays;                    /* what the emitted instance points to */
    sdc_instance out;                   /* that one; each writes all its members */
    uint64_t num_entries, num_skipped;
    sdci_known known;
    const char *entry_from;             /* in the window: where an entry may begin, comma included;
                                           NULL once that is unknown */
    uint64_t print;                     /* of the entry that is emitted; 0: none */
    sdci_span fields[SDCI_NUM_FIELDS];
    uint16_t numbers[SDCI_NUM_NUMBERS];
    sdci_span key;                      /* of the map member being read */
    sdc_status status;                  /* the worst of the checks so far */
    size_t carry_len;
    char carry[SDCI_CARRY + SDCI_LOOK];
};

static const sdci_member sdci_of_top[]  = { { "", 0, SDCI_ARRAY, SDCI_AT_LIST } };
static const sdci_member sdci_of_list[] = { { "", 0, SDCI_OBJECT, SDCI_AT_ENTRY } };

static const sdci_member sdci_of_entry[] = {
    { "Node", 4, SDCI_OBJECT, SDCI_AT_NODE },
    { "Service", 7, SDCI_OBJECT, SDCI_AT_SERVICE },
    { "Checks", 6, SDCI_ARRAY, SDCI_AT_CHECKS },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_node[] = {
    { "Node", 4, SDCI_STRING, SDCI_NODE },
    { "Address", 7, SDCI_STRING, SDCI_NODE_ADDRESS },
    { "Datacenter", 10, SDCI_STRING, SDCI_DATACENTER },
    { "Partition", 9, SDCI_STRING, SDCI_NODE_PARTITION },
    { "PeerName", 8, SDCI_STRING, SDCI_NODE_PEER },
    { "Locality", 8, SDCI_OBJECT, SDCI_AT_NODE_LOCALITY },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_node_locality[] = {
    { "Region", 6, SDCI_STRING, SDCI_NODE_REGION },
    { "Zone", 4, SDCI_STRING, SDCI_NODE_ZONE },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_service[] = {
    { "ID", 2, SDCI_STRING, SDCI_ID },
    { "Service", 7, SDCI_STRING, SDCI_SERVICE },
    { "Tags", 4, SDCI_ARRAY, SDCI_AT_TAGS },
    { "Address", 7, SDCI_STRING, SDCI_ADDRESS },
    { "TaggedAddresses", 15, SDCI_OBJECT, SDCI_AT_TAGGED },
    { "Meta", 4, SDCI_OBJECT, SDCI_AT_META },
    { "Port", 4, SDCI_UINT16, SDCI_PORT },
    { "Ports", 5, SDCI_ARRAY, SDCI_AT_PORTS },
    { "SocketPath", 10, SDCI_STRING, SDCI_SOCKET_PATH },
    { "Weights", 7, SDCI_OBJECT, SDCI_AT_WEIGHTS },
    { "Locality", 8, SDCI_OBJECT, SDCI_AT_LOCALITY },
    { "PeerName", 8, SDCI_STRING, SDCI_PEER },
    { "Namespace", 9, SDCI_STRING, SDCI_NS },
    { "Partition", 9, SDCI_STRING, SDCI_PARTITION },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_tags[]   = { { "", 0, SDCI_TAG, 0 } };
static const sdci_member sdci_of_meta[]   = { { "", 0, SDCI_META, 0 } };
static const sdci_member sdci_of_tagged[] = { { "", 0, SDCI_OBJECT, SDCI_AT_TAGGED_ITEM } };
static const sdci_member sdci_of_ports[]  = { { "", 0, SDCI_OBJECT, SDCI_AT_PORT } };
static const sdci_member sdci_of_checks[] = { { "", 0, SDCI_OBJECT, SDCI_AT_CHECK } };

static const sdci_member sdci_of_tagged_item[] = {
    { "Address", 7, SDCI_STRING, SDCI_ITEM_ADDRESS },
    { "Port", 4, SDCI_UINT16, SDCI_ITEM_PORT },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_port[] = {
    { "Name", 4, SDCI_STRING, SDCI_ITEM_NAME },
    { "Port", 4, SDCI_UINT16, SDCI_ITEM_PORT },
    { "Default", 7, SDCI_BOOL, SDCI_ITEM_IS_DEFAULT },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_weights[] = {
    { "Passing", 7, SDCI_UINT16, SDCI_WEIGHT_PASSING },
    { "Warning", 7, SDCI_UINT16, SDCI_WEIGHT_WARNING },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_locality[] = {
    { "Region", 6, SDCI_STRING, SDCI_REGION },
    { "Zone", 4, SDCI_STRING, SDCI_ZONE },
    { "", 0, SDCI_SKIP, 0 }
};

static const sdci_member sdci_of_check[] = {
    { "CheckID", 7, SDCI_STRING, SDCI_CHECK_ID },
    { "Status", 6, SDCI_STRING, SDCI_CHECK_STATUS },
    { "", 0, SDCI_SKIP, 0 }
};

/* What kind of container a place is. Each has one parent, so a position needs no stack. */
typedef struct sdci_shape {
    const sdci_member *members; /* the last one stands for all others */
    uint8_t num_named;
    bool is_object;
    uint8_t depth;              /* containers that are open there */
    uint8_t parent;
} sdci_shape;

/* In the order of sdci_place. */
static const sdci_shape sdci_shapes[SDCI_NUM_PLACES] = {
    { sdci_of_top,            0, false, 0, SDCI_AT_TOP },
    { sdci_of_list,           0, false, 1, SDCI_AT_TOP },
    { sdci_of_entry,          3, true,  2, SDCI_AT_LIST },
    { sdci_of_node,           6, true,  3, SDCI_AT_ENTRY },
    { sdci_of_node_locality,  2, true,  4, SDCI_AT_NODE },
    { sdci_of_service,       14, true,  3, SDCI_AT_ENTRY },
    { sdci_of_tags,           0, false, 4, SDCI_AT_SERVICE },
    { sdci_of_meta,           0, true,  4, SDCI_AT_SERVICE },
    { sdci_of_tagged,         0, true,  4, SDCI_AT_SERVICE },
    { sdci_of_tagged_item,    2, true,  5, SDCI_AT_TAGGED },
    { sdci_of_ports,          0, false, 4, SDCI_AT_SERVICE },
    { sdci_of_port,           3, true,  5, SDCI_AT_PORTS },
    { sdci_of_weights,        2, true,  4, SDCI_AT_SERVICE },
    { sdci_of_locality,       2, true,  4, SDCI_AT_SERVICE },
    { sdci_of_checks,         0, false, 3, SDCI_AT_ENTRY },
    { sdci_of_check,          2, true,  4, SDCI_AT_CHECKS }
};

static sdci_place sdci_entries_place(const sdc_entries *e)
{
    return (sdci_place)e->at.place;
}

static const sdci_member *sdci_entries_member(const sdc_entries *e)
{
    static const sdci_member skipped = { "", 0, SDCI_SKIP, 0 };

    return e->at.skip_depth > 0 ? &skipped : &sdci_shapes[e->at.place].members[e->at.member];
}

/* `p` is the byte that it is about. Answers NULL, as whatever cannot go on does. */
static const char *sdci_entries_fail(sdc_entries *e, const char *p, sdc_err code,
                                     const char *what)
{
    if (e->fault.code == SDC_OK) {
        bool is_behind = e->is_last && code == SDC_ERR_JSON && p >= e->stop;
        p = is_behind ? e->stop : p;
        e->fault.code = code;
        e->fault.what = is_behind ? "the text ends too early" : what;
        e->fault.at = e->offset + (uint64_t)(p - e->window);
    }
    return NULL;
}

/* The first reason is the one that is told. */
static void sdci_entry_bad(sdc_entries *e, const char *why)
{
    if (e->bad == NULL) {
        e->bad = why;
    }
}

/* -- The text of an entry -- */

static const char *sdci_span_text(const sdc_entries *e, sdci_span span)
{
    return span.at == 0 ? "" : e->text.ptr + span.at - 1;
}

static const char *sdci_field_text(const sdc_entries *e, sdci_field field)
{
    return sdci_span_text(e, e->fields[field]);
}

/* Keeps a text whole. No memory, or no room: it counts as absent, and the entry's end says so. */
SDCI_NOINLINE static sdci_span sdci_entry_keep_long(sdc_entries *e, const char *text, size_t len)
{
    sdci_span span = { 0, 0 };

    if (sdci_buf_reserve(&e->text, len + 1)) {
        char *to = e->text.ptr + e->text.len;
        memcpy(to, text, len);
        to[len] = '\0';
        span.at = (uint32_t)e->text.len + 1;
        span.len = (uint32_t)len;
        e->text.len += len + 1;
    }
    return span;
}

/* The same. Short ones are copied by a whole stride: behind a short token that many bytes are in
   sight, and what is written too much is written over by the next text. */
static SDCI_INLINE sdci_span sdci_entry_keep(sdc_entries *e, const char *text, size_t len)
{
    size_t at = e->text.len;

    if (len > SDCI_STRIDE || e->text.cap - at < 2 * SDCI_STRIDE) {
        return sdci_entry_keep_long(e, text, len);
    }
    memcpy(e->text.ptr + at, text, SDCI_STRIDE);
    e->text.ptr[at + len] = '\0';
    e->text.len = at + len + 1;
    sdci_span span = { (uint32_t)at + 1, (uint32_t)len };
    return span;
}

/* Room for one more item; NULL where there is none. Items beyond the bound make the entry unusable,
   not the answer. */
static void *sdci_entry_push(sdc_entries *e, sdci_buf *items, size_t size)
{
    if (items->len >= SDCI_ENTRY_ITEMS_MAX * size) {
        sdci_entry_bad(e, "more than 1024 tags, ports or meta pairs");
        return NULL;
    }
    if (items->cap - items->len < size && !sdci_buf_reserve(items, size)) {
        return NULL;
    }
    items->len += size;
    return items->ptr + items->len - size;
}

/* -- Entering and leaving places -- */

static void sdci_clear_fields(sdc_entries *e, sdci_field first, sdci_field last)
{
    memset(&e->fields[first], 0, (size_t)(last - first + 1) * sizeof e->fields[0]);
}

/* Consul leaves a Warning of 0 out, but a service without any weights has 1 and 1. */
static void sdci_reset_weights(sdc_entries *e, uint16_t warning)
{
    e->numbers[SDCI_WEIGHT_PASSING] = 1;
    e->numbers[SDCI_WEIGHT_WARNING] = warning;
}

static void sdci_entry_reset(sdc_entries *e)
{
    sdci_buf_clear(&e->text);
    sdci_buf_clear(&e->tags);
    sdci_buf_clear(&e->meta);
    sdci_buf_clear(&e->tagged);
    sdci_buf_clear(&e->ports);
    sdci_clear_fields(e, SDCI_NODE, SDCI_NODE_ZONE);
    sdci_clear_fields(e, SDCI_ID, SDCI_ZONE);
    sdci_clear_fields(e, SDCI_ITEM_NAME, SDCI_CHECK_STATUS);
    memset(e->numbers, 0, sizeof e->numbers);
    sdci_reset_weights(e, 1);
    e->status = SDC_STATUS_UNSET;
    e->bad = NULL;
}

static void sdci_reset_service(sdc_entries *e)
{
    sdci_buf_clear(&e->tags);
    sdci_buf_clear(&e->meta);
    sdci_buf_clear(&e->tagged);
    sdci_buf_clear(&e->ports);
    sdci_clear_fields(e, SDCI_ID, SDCI_ZONE);
    e->numbers[SDCI_PORT] = 0;
    sdci_reset_weights(e, 1);
}

static void sdci_reset_item(sdc_entries *e)
{
    sdci_clear_fields(e, SDCI_ITEM_NAME, SDCI_ITEM_ADDRESS);
    e->numbers[SDCI_ITEM_PORT] = 0;
    e->numbers[SDCI_ITEM_IS_DEFAULT] = 0;
}

/* Forgets what a container held before, so that of two members of one name the last wins; null is
   the same as an absent one. */
static void sdci_entries_clear(sdc_entries *e, sdci_place place)
{
    switch (place) {
    case SDCI_AT_ENTRY:         sdci_entry_reset(e);                                     break;
    case SDCI_AT_NODE:          sdci_clear_fields(e, SDCI_NODE, SDCI_NODE_ZONE);         break;
    case SDCI_AT_NODE_LOCALITY: sdci_clear_fields(e, SDCI_NODE_REGION, SDCI_NODE_ZONE);  break;
    case SDCI_AT_SERVICE:       sdci_reset_service(e);                                   break;
    case SDCI_AT_TAGS:          sdci_buf_clear(&e->tags);                                break;
    case SDCI_AT_META:          sdci_buf_clear(&e->meta);                                break;
    case SDCI_AT_TAGGED:        sdci_buf_clear(&e->tagged);                              break;
    case SDCI_AT_PORTS:         sdci_buf_clear(&e->ports);                               break;
    case SDCI_AT_TAGGED_ITEM:
    case SDCI_AT_PORT:          sdci_reset_item(e);                                      break;
    case SDCI_AT_WEIGHTS:       sdci_reset_weights(e, 1);                                break;
    case SDCI_AT_LOCALITY:      sdci_clear_fields(e, SDCI_REGION, SDCI_ZONE);            break;
    case SDCI_AT_CHECKS:        e->status = SDC_STATUS_UNSET;                            break;
    case SDCI_AT_CHECK:         sdci_clear_fields(e, SDCI_CHECK_ID, SDCI_CHECK_STATUS);  break;
    case SDCI_AT_TOP:
    case SDCI_AT_LIST:
    case SDCI_NUM_PLACES:                                                                break;
    }
}

static void sdci_entries_enter(sdc_entries *e, sdci_place place)
{
    e->at.place = (uint8_t)place;
    sdci_entries_clear(e, place);
    if (place == SDCI_AT_WEIGHTS) {
        sdci_reset_weights(e, 0);
    }
}

static bool sdci_span_is(const sdc_entries *e, sdci_span span, const char *text, size_t len)
{
    return span.len == len && memcmp(sdci_span_text(e, span), text, len) == 0;
}

static bool sdci_span_begins(const sdc_entries *e, sdci_span span, const char *text, size_t len)
{
    return span.len >= len && memcmp(sdci_span_text(e, span), text, len) == 0;
}

/* What the official client's AggregatedStatus does, but that a status which nobody knows counts
   as critical: sending calls to such an instance would be a guess. */
static void sdci_check_done(sdc_entries *e)
{
    sdci_span id = e->fields[SDCI_CHECK_ID];
    sdci_span text = e->fields[SDCI_CHECK_STATUS];
    sdc_status status = SDC_STATUS_CRITICAL;

    if (sdci_span_is(e, id, "_node_maintenance", 17) ||
        sdci_span_begins(e, id, "_service_maintenance:", 21)) {
        status = SDC_STATUS_MAINTENANCE;
    } else if (sdci_span_is(e, text, "passing", 7)) {
        status = SDC_STATUS_PASSING;
    } else if (sdci_span_is(e, text, "warning", 7)) {
        status = SDC_STATUS_WARNING;
    }
    e->status = status > e->status ? status : e->status;
}

static void sdci_item_done(sdc_entries *e, sdci_buf *items, sdci_span name)
{
    sdci_item *item = (sdci_item *)sdci_entry_push(e, items, sizeof *item);

    if (item != NULL) {
        item->name = name;
        item->address = e->fields[SDCI_ITEM_ADDRESS];
        item->port = e->numbers[SDCI_ITEM_PORT];
        item->is_default = e->numbers[SDCI_ITEM_IS_DEFAULT] != 0;
    }
}

/* -- From an entry to an instance -- */

static bool sdci_is_space_or_control(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == ' ' || sdci_is_control(*text)) {
            return true;
        }
    }
    return false;
}

/* Sorts in place, keeping the order of equals: for a handful of items that mostly are in order
   already, as Consul writes its maps. */
static void sdci_sort_small(void *items, size_t num, size_t size,
                            int (*compare)(const void *a, const void *b))
{
    char *base = (char *)items;
    char moving[64];

    SDC_ASSERT(size <= sizeof moving);
    for (size_t i = 1; i < num; i++) {
        size_t to = i;
        size_t from = 0;
        if (compare(base + (i - 1) * size, base + i * size) <= 0) {
            continue;
        }
        while (from < to) {
            size_t middle = from + (to - from) / 2;
            if (compare(base + middle * size, base + i * size) > 0) {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        if (to < i) {
            memcpy(moving, base + i * size, size);
            memmove(base + (to + 1) * size, base + to * size, (i - to) * size);
            memcpy(base + to * size, moving, size);
        }
    }
}

/* strcmp, which mostly need not be called. */
static int sdci_compare_text(const char *a, const char *b)
{
    return *a != *b ? (unsigned char)*a - (unsigned char)*b : strcmp(a, b);
}

static int sdci_compare_tags(const void *a, const void *b)
{
    return sdci_compare_text(*(const char *const *)a, *(const char *const *)b);
}

static int sdci_compare_kv(const void *a, const void *b)
{
    return sdci_compare_text(((const sdc_kv *)a)->key, ((const sdc_kv *)b)->key);
}

static int sdci_compare_address(const void *a, const void *b)
{
    return sdci_compare_text(((const sdc_address *)a)->key, ((const sdc_address *)b)->key);
}

/* Sorts a map and keeps the last of several members with one name, as Go's maps do. Answers how
   many are left. Consul writes maps in order, so mostly there is nothing to do. */
static size_t sdci_sort_map(void *items, size_t num, size_t size,
                            int (*compare)(const void *a, const void *b))
{
    char *base = (char *)items;
    size_t in_order = 1;
    size_t kept = 0;

    while (in_order < num &&
           compare(base + (in_order - 1) * size, base + in_order * size) < 0) {
        in_order++;
    }
    if (in_order >= num) {
        return num;
    }
    sdci_sort_small(items, num, size, compare);
    for (size_t i = 0; i < num; i++) {
        if (i + 1 < num && compare(base + i * size, base + (i + 1) * size) == 0) {
            continue;
        }
        memmove(base + kept * size, base + i * size, size);
        kept++;
    }
    return kept;
}

static void sdci_fill_tags(sdc_entries *e, sdc_instance *out, const char **tags)
{
    const sdci_span *spans = (const sdci_span *)(void *)e->tags.ptr;

    for (size_t i = 0; i < out->num_tags; i++) {
        tags[i] = sdci_span_text(e, spans[i]);
    }
    sdci_sort_small(tags, out->num_tags, sizeof *tags, sdci_compare_tags);
    out->tags = tags;
}

static void sdci_fill_meta(sdc_entries *e, sdc_instance *out, sdc_kv *meta)
{
    const sdci_pair *pairs = (const sdci_pair *)(void *)e->meta.ptr;

    for (size_t i = 0; i < out->num_meta; i++) {
        meta[i].key = sdci_span_text(e, pairs[i].key);
        meta[i].value = sdci_span_text(e, pairs[i].value);
    }
    out->num_meta = sdci_sort_map(meta, out->num_meta, sizeof *meta, sdci_compare_kv);
    out->meta = meta;
}

static void sdci_fill_tagged(sdc_entries *e, sdc_instance *out, sdc_address *tagged)
{
    const sdci_item *items = (const sdci_item *)(void *)e->tagged.ptr;

    for (size_t i = 0; i < out->num_tagged_addresses; i++) {
        tagged[i].key = sdci_span_text(e, items[i].name);
        tagged[i].address = sdci_span_text(e, items[i].address);
        tagged[i].port = items[i].port;
    }
    out->num_tagged_addresses = sdci_sort_map(tagged, out->num_tagged_addresses, sizeof *tagged,
                                              sdci_compare_address);
    out->tagged_addresses = tagged;
}

static void sdci_fill_ports(sdc_entries *e, sdc_instance *out, sdc_port *ports)
{
    const sdci_item *items = (const sdci_item *)(void *)e->ports.ptr;

    for (size_t i = 0; i < out->num_ports; i++) {
        ports[i].name = sdci_span_text(e, items[i].name);
        ports[i].port = items[i].port;
        ports[i].is_default = items[i].is_default;
    }
    out->ports = ports;
}

/* The arrays of an instance stand behind one another in one piece of memory. All elements are
   made of pointers and smaller things, so whole elements keep each other aligned. */
static bool sdci_entry_arrays(sdc_entries *e, sdc_instance *out)
{
    out->num_tags = e->tags.len / sizeof(sdci_span);
    out->num_meta = e->meta.len / sizeof(sdci_pair);
    out->num_tagged_addresses = e->tagged.len / sizeof(sdci_item);
    out->num_ports = e->ports.len / sizeof(sdci_item);
    size_t tags = out->num_tags * sizeof(const char *);
    size_t meta = out->num_meta * sizeof(sdc_kv);
    size_t tagged = out->num_tagged_addresses * sizeof(sdc_address);
    size_t ports = out->num_ports * sizeof(sdc_port);

    sdci_buf_clear(&e->arrays);
    if (!sdci_buf_reserve(&e->arrays, tags + meta + tagged + ports + 1)) {
        return false;
    }
    char *p = e->arrays.ptr;
    sdci_fill_tags(e, out, (const char **)(void *)p);
    sdci_fill_meta(e, out, (sdc_kv *)(void *)(p + tags));
    sdci_fill_tagged(e, out, (sdc_address *)(void *)(p + tags + meta));
    sdci_fill_ports(e, out, (sdc_port *)(void *)(p + tags + meta + tagged));
    return true;
}

static const char *sdci_first_of(const char *a, const char *b)
{
    return a[0] != '\0' ? a : b;
}

/* Consul 1.22 gives several ports by name and copies the default one into Port; older agents in
   front of newer servers leave Port 0, which is no port to call. */
static uint16_t sdci_entry_port(const sdc_entries *e)
{
    const sdci_item *items = (const sdci_item *)(void *)e->ports.ptr;
    size_t num = e->ports.len / sizeof *items;

    if (e->numbers[SDCI_PORT] != 0 || num == 0) {
        return e->numbers[SDCI_PORT];
    }
    for (size_t i = 0; i < num; i++) {
        if (items[i].is_default) {
            return items[i].port;
        }
    }
    return items[0].port;
}

static uint32_t sdci_entry_weight(const sdc_entries *e, sdc_status status)
{
    if (status == SDC_STATUS_PASSING) {
        return e->numbers[SDCI_WEIGHT_PASSING];
    }
    return status == SDC_STATUS_WARNING ? e->numbers[SDCI_WEIGHT_WARNING] : 0;
}

/* "host:port", with brackets round an IPv6 host: up to len + 8 bytes. Answers how many. */
static size_t sdci_write_addr(char *out, const char *host, size_t len, uint16_t port)
{
    bool is_bare_ipv6 = memchr(host, ':', len) != NULL && host[0] != '[';
    char digits[5];
    size_t at = sizeof digits;
    char *to = out;

    if (is_bare_ipv6) {
        *to++ = '[';
    }
    memcpy(to, host, len);
    to += len;
    if (is_bare_ipv6) {
        *to++ = ']';
    }
    *to++ = ':';
    do {
        digits[--at] = (char)('0' + port % 10);
        port /= 10;
    } while (port > 0);
    memcpy(to, digits + at, sizeof digits - at);
    return (size_t)(to - out) + sizeof digits - at;
}

static void sdci_put_addr(sdci_buf *buf, const char *host, uint16_t port)
{
    size_t len = strlen(host);

    if (sdci_buf_reserve(buf, len + 8)) {
        buf->len += sdci_write_addr(buf->ptr + buf->len, host, len, port);
    }
}

/* Writes the instance's addr behind the other text. Answers where it starts. */
static size_t sdci_entry_addr(sdc_entries *e, sdci_field address, uint16_t port)
{
    size_t at = e->text.len;

    if (e->fields[SDCI_SOCKET_PATH].len > 0) {
        sdci_put_text(&e->text, "unix:");
        if (sdci_buf_reserve(&e->text, e->fields[SDCI_SOCKET_PATH].len)) {
            sdci_put_text(&e->text, sdci_field_text(e, SDCI_SOCKET_PATH));
        }
    } else if (sdci_buf_reserve(&e->text, (size_t)e->fields[address].len + 9)) {
        e->text.len += sdci_write_addr(e->text.ptr + at, sdci_field_text(e, address),
                                       e->fields[address].len, port);
    }
    sdci_put_char(&e->text, '\0');
    return at;
}

/* All texts are final from here on: pointers into them hold until the next entry. */
static void sdci_entry_strings(const sdc_entries *e, sdc_instance *out)
{
    out->socket_path = sdci_field_text(e, SDCI_SOCKET_PATH);
    out->id = sdci_field_text(e, SDCI_ID);
    out->service = sdci_field_text(e, SDCI_SERVICE);
    out->node = sdci_field_text(e, SDCI_NODE);
    out->datacenter = sdci_field_text(e, SDCI_DATACENTER);
    out->ns = sdci_field_text(e, SDCI_NS);
    out->partition = sdci_first_of(sdci_field_text(e, SDCI_PARTITION),
                                   sdci_field_text(e, SDCI_NODE_PARTITION));
    out->peer = sdci_first_of(sdci_field_text(e, SDCI_PEER), sdci_field_text(e, SDCI_NODE_PEER));
    bool has_own = e->fields[SDCI_REGION].len > 0 || e->fields[SDCI_ZONE].len > 0;
    out->region = sdci_field_text(e, has_own ? SDCI_REGION : SDCI_NODE_REGION);
    out->zone = sdci_field_text(e, has_own ? SDCI_ZONE : SDCI_NODE_ZONE);
}

/* -- Known entries -- */

/* A watch is answered with every entry again whenever one of them changes. So who watches keeps a
   print of each: a hash of its bytes, from behind the entry before it to its last brace, and how
   many these are. Where the bytes in sight have the print of the entry that is expected there, they
   are that entry, with all that it was found to be then, and are not read again.

   That is sound but for the hash: what leads from the end of one entry to the end of the next one
   is those bytes alone. The hash has 48 bits and a secret seed: of entries that did change, one in
   10^14 would be taken for what it was before, until a read in which nothing counts as known. */

#define SDCI_PRINT_LEN 0xFFFFu      /* the bits of the length; the hash is in the others */

static uint64_t sdci_print(const char *p, size_t len, uint64_t seed)
{
    return (sdci_hash(p, len, seed) & ~(uint64_t)SDCI_PRINT_LEN) | len;
}

/* 0: nobody asks for it, the entry began in an earlier window, or it is long. */
static uint64_t sdci_entry_print(const sdc_entries *e, const char *at)
{
    size_t len = e->entry_from != NULL ? (size_t)(at + 1 - e->entry_from) : 0;

    if (e->known.fn == NULL || len == 0 || len > SDCI_PRINT_LEN) {
        return 0;
    }
    return sdci_print(e->entry_from, len, e->known.seed);
}

static void sdci_entry_emit(sdc_entries *e, sdci_field address, const char *at)
{
    sdc_instance *out = &e->out;

    out->port = sdci_entry_port(e);
    out->status = e->status == SDC_STATUS_UNSET ? SDC_STATUS_PASSING : e->status;
    out->weight = sdci_entry_weight(e, out->status);
    e->print = sdci_entry_print(e, at);
    size_t addr_at = sdci_entry_addr(e, address, out->port);
    if (e->text.err != SDC_OK) {
        return;
    }
    out->addr = e->text.ptr + addr_at;
    out->host = sdci_field_text(e, address);
    sdci_entry_strings(e, out);
    if (!sdci_entry_arrays(e, out)) {
        return;
    }
    sdc_err err = e->fn(e->user, out);
    if (err != SDC_OK) {
        (void)sdci_entries_fail(e, at, err, NULL);
    }
}

static void sdci_entries_leave_out(sdc_entries *e, const char *why)
{
    if (e->skipped_fn != NULL) {
        e->skipped_fn(e->user, e->num_entries, why);
    }
    e->num_skipped++;
    e->num_entries++;
}

/* Too much text makes the entry unusable; no memory ends the answer. */
static void sdci_entry_settle_memory(sdc_entries *e, const char *at)
{
    const sdci_buf *bufs[] = { &e->text, &e->tags, &e->meta, &e->tagged, &e->ports, &e->arrays };
    unsigned any = (unsigned)e->text.err | (unsigned)e->tags.err | (unsigned)e->meta.err |
                   (unsigned)e->tagged.err | (unsigned)e->ports.err | (unsigned)e->arrays.err;

    for (size_t i = 0; any != 0 && i < sizeof bufs / sizeof bufs[0]; i++) {
        if (bufs[i]->err == SDC_ERR_LIMIT) {
            sdci_entry_bad(e, "more than 1 MiB of text");
        } else if (bufs[i]->err != SDC_OK) {
            (void)sdci_entries_fail(e, at, bufs[i]->err, NULL);
        }
    }
}

/* `at` is the brace that ends the entry. */
SDCI_NOINLINE static void sdci_entry_done(sdc_entries *e, const char *at)
{
    sdci_field address = e->fields[SDCI_ADDRESS].len > 0 ? SDCI_ADDRESS : SDCI_NODE_ADDRESS;
    bool is_unix = e->fields[SDCI_SOCKET_PATH].len > 0;

    sdci_entry_settle_memory(e, at);
    if (!is_unix && e->fields[address].len == 0) {
        sdci_entry_bad(e, "no address");
    } else if (!is_unix && sdci_is_space_or_control(sdci_field_text(e, address))) {
        sdci_entry_bad(e, "a space or control character in the address");
    } else if (!is_unix && sdci_entry_port(e) == 0) {
        sdci_entry_bad(e, "no port");
    }
    if (e->fault.code == SDC_OK && e->bad == NULL) {
        sdci_entry_emit(e, address, at);
        sdci_entry_settle_memory(e, at);
    }
    if (e->bad == NULL) {
        e->num_entries++;
    } else {
        sdci_entries_leave_out(e, e->bad);
    }
    e->entry_from = at + 1;
}

/* A place of which something is left to do at its end. */
static bool sdci_place_has_end(sdci_place place)
{
    return place == SDCI_AT_ENTRY || place == SDCI_AT_CHECK || place == SDCI_AT_PORT ||
           place == SDCI_AT_TAGGED_ITEM;
}

/* `at` is the last byte of the place. */
static void sdci_entries_left(sdc_entries *e, sdci_place place, const char *at)
{
    if (place == SDCI_AT_CHECK) {
        sdci_check_done(e);
    } else if (place == SDCI_AT_TAGGED_ITEM) {
        sdci_item_done(e, &e->tagged, e->key);
    } else if (place == SDCI_AT_ENTRY) {
        sdci_entry_done(e, at);
    } else if (place == SDCI_AT_PORT) {
        sdci_item_done(e, &e->ports, e->fields[SDCI_ITEM_NAME]);
    }
}

/* -- Gaps -- */

/* A gap is all that stands between the end of one scalar and the first byte of the next one, such
   as `,"Service":{"ID":"` or `"}]},{"Node":{"ID":"`. Consul writes the same few dozen of them for
   every entry, and they are half of an answer. So the decoder learns them.

   What is learned is one statement: from the position `before`, the bytes `bytes` lead to the
   position `after`, and on their way these places were entered and left (as far as there is
   something to do then). The general decoder makes it, when it has just walked from `before` over
   `bytes` without a fault and come to a scalar. A position holds everything that decides what bytes
   mean, and nothing in the walk depends on anything else; so whenever a decoder, this one or
   another, stands at `before` again and finds the same bytes, the general decoder would do the same
   again, and it may be left out.

   `done` is the position behind the scalar that follows a gap, and `next` are gaps that were found
   there. Only a gap whose `before` is this very `done` is ever put there (sdci_gap_link), so on the
   way from gap to gap positions need not be looked at: the bytes decide, and all of them are
   compared. A slot keeps its gap until the whole table is cleared. Which gap is tried first is a
   guess, and a wrong one costs time alone.

   Two things keep the statement true. Where a walk did something that is not in it (a fault, a
   member of the wrong shape, a name with an escape), nothing is learned. And a gap before a string
   ends with the quote, but one before anything else ends before its first byte, which is looked at
   anew: a number today may be null tomorrow.

   Two statements and a scalar between them that nobody wants make a third, where that scalar is
   always the same (search for: joining gaps). Its bytes are compared with all others.

   Bodies in which nothing comes again would pay for learning and gain nothing. So misses are
   counted against what the shortcut did, and where it does little, little is looked up and learned.

   With SDC_NO_FAST_PATH nothing is learned, and the decoder answers the same. */

#define SDCI_GAP_BYTES    128u
#define SDCI_GAP_ACTIONS  7u
#define SDCI_GAP_NEXT     4u
#define SDCI_GAP_SLOTS    240u      /* 0 is where an answer begins */
#define SDCI_GAP_FULL     176u      /* a fuller table would be slow to look up */
#define SDCI_GAP_PATIENCE 8192u     /* so many misses clear it */
#define SDCI_GAP_TRIALS   6u        /* the same so often: always the same */
#define SDCI_LEAVE        0x80u     /* among actions: with the place that ends */

typedef struct sdci_gap sdci_gap;

/* A gap, the scalar behind it and what is read beside that are in sight where a token begins. */
typedef char sdci_gap_is_in_sight[SDCI_GAP_BYTES + 4 * SDCI_STRIDE + 32 <= SDCI_LOOK ? 1 : -1];
typedef char sdci_gap_has_room[SDCI_GAP_FULL < SDCI_GAP_SLOTS && SDCI_GAP_BYTES < 256 ? 1 : -1];

/* The scalar behind a gap, as far as the shortcut knows what to do with it. */
typedef enum sdci_follows {
    SDCI_SKIPPED_TEXT, SDCI_FIELD_TEXT, SDCI_LISTED_TEXT,
    SDCI_SKIPPED_NUMBER,        /* or true, false, null */
    SDCI_WANTED_NUMBER,
    SDCI_TRIED_SCALAR,          /* skipped, and perhaps always the same */
    SDCI_OTHER_SCALAR           /* the general way */
} sdci_follows;

struct sdci_gap {
    sdci_gap *next[SDCI_GAP_NEXT];  /* which followed it, the likeliest first; NULL: no more */
    const sdci_member *member;      /* what the scalar is that follows */
    sdci_wide head;                 /* of the bytes: as many as are compared first */
    uint8_t len;                    /* 0: the slot is free */
    uint8_t follows, target;        /* target: the field or number */
    uint8_t num_trials;             /* how often the scalar was compared with its first value */
    uint8_t value_len;              /* of that, which stands in `bytes` behind the gap */
    uint8_t varies;                 /* it was another one once */
    uint8_t is_joined;
    uint8_t has_effects;            /* actions or a key */
    uint8_t num_actions;
    uint8_t actions[SDCI_GAP_ACTIONS];      /* places to enter and to leave */
    uint8_t end_at;                 /* the byte that ended an entry */
    uint8_t key_at, key_len;        /* of a map: the name of the value that follows */
    char bytes[SDCI_GAP_BYTES];
    sdci_where before, after;
    sdci_where done;                /* behind the scalar that follows */
};

struct sdci_gaps {
    uint32_t num_used;
    uint32_t num_misses;            /* of the general decoder, less what the shortcut did */
    /* the walk that is under way */
    const char *from;               /* NULL: nothing can be learned from it */
    sdci_gap walk;
    sdci_gap slots[SDCI_GAP_SLOTS];
};

/* -- Notes for the gap that is being walked over -- */

static void sdci_note_action(sdc_entries *e, uint8_t action)
{
    sdci_gaps *gaps = e->gaps;

    if (gaps == NULL || gaps->from == NULL) {
        return;
    }
    if (gaps->walk.num_actions == SDCI_GAP_ACTIONS) {
        gaps->from = NULL;
        return;
    }
    gaps->walk.actions[gaps->walk.num_actions++] = action;
}

/* A gap remembers one end of an entry, and names its key last. */
static void sdci_note_leave(sdc_entries *e, sdci_place place, const char *p)
{
    sdci_gaps *gaps = e->gaps;

    if (gaps == NULL || gaps->from == NULL || !sdci_place_has_end(place)) {
        return;
    }
    if (gaps->walk.key_at != 0 || (size_t)(p - gaps->from) >= SDCI_GAP_BYTES ||
        (place == SDCI_AT_ENTRY && gaps->walk.end_at != 0)) {
        gaps->from = NULL;
        return;
    }
    if (place == SDCI_AT_ENTRY) {
        gaps->walk.end_at = (uint8_t)(p - gaps->from + 1);
    }
    sdci_note_action(e, (uint8_t)(SDCI_LEAVE | (unsigned)place));
}

static void sdci_note_key(sdc_entries *e, const char *name, size_t len)
{
    sdci_gaps *gaps = e->gaps;

    if (gaps == NULL || gaps->from == NULL) {
        return;
    }
    if (gaps->walk.key_at != 0 || (size_t)(name - gaps->from) + len > SDCI_GAP_BYTES) {
        gaps->from = NULL;
        return;
    }
    gaps->walk.key_at = (uint8_t)(name - gaps->from);
    gaps->walk.key_len = (uint8_t)len;
}

/* Something happened that is not in a gap's statement. */
static void sdci_forget_walk(sdc_entries *e)
{
    if (e->gaps != NULL) {
        e->gaps->from = NULL;
    }
}

/* A walk begins: at the end of a scalar, or where a window begins. */
static void sdci_begin_walk(sdc_entries *e, const char *p)
{
    if (e->gaps != NULL) {
        e->gaps->from = p;
        e->gaps->walk.before = e->at;
        e->gaps->walk.num_actions = 0;
        e->gaps->walk.end_at = 0;
        e->gaps->walk.key_at = 0;
        e->gaps->walk.key_len = 0;
    }
}

/* -- Over known entries -- */

/* The length of the entry from p on if it is the one that is expected; else 0. */
static size_t sdci_known_len(const sdc_entries *e, const char *p)
{
    const sdci_known *known = &e->known;
    uint64_t print = known->next < known->num ? known->prints[known->next] : 0;
    size_t len = (size_t)(print & SDCI_PRINT_LEN);
    bool is_first = e->at.expect == SDCI_EXPECT_FIRST_ITEM;

    if (len == 0 || len > (size_t)(e->limit - p) || *p != (is_first ? '{' : ',')) {
        return 0;
    }
    return sdci_print(p, len, known->seed) == print ? len : 0;
}

/* From the end of an entry, or the beginning of the list, over all that are as they were. NULL: a
   fault. */
static const char *sdci_entries_skip_known(sdc_entries *e, const char *p)
{
    const char *from = p;

    for (size_t len = sdci_known_len(e, p); len > 0; len = sdci_known_len(e, p)) {
        p += len;
        sdc_err err = e->known.fn(e->user, e->known.next);
        if (err != SDC_OK) {
            return sdci_entries_fail(e, p - 1, err, NULL);
        }
        e->num_entries++;
        e->at.expect = SDCI_EXPECT_NEXT;
        e->entry_from = p;
    }
    if (p != from) {
        e->gap = 0;
        sdci_begin_walk(e, p);
    }
    return p;
}

/* -- What the general decoder calls of the fast path -- */

/* Both stand behind it. */
static void sdci_gap_missed(sdc_entries *e, const char *p, bool is_string);
static const char *sdci_entries_shortcut(sdc_entries *e, const char *p, const char *end);

/* The general decoder has come to a scalar at p. Where the walk began just there, the shortcut came
   to it and nothing was walked over. */
static SDCI_INLINE void sdci_gap_learn(sdc_entries *e, const char *p, bool is_string)
{
    if (e->gaps != NULL && e->gaps->from != p) {
        sdci_gap_missed(e, p, is_string);
    }
}

static bool sdci_same_where(const sdci_where *a, const sdci_where *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* Whether the decoder stands behind a scalar whose gap is known. */
static bool sdci_entries_has_shortcut(const sdc_entries *e, const char *p)
{
    const sdci_gaps *gaps = e->gaps;

    return gaps != NULL && gaps->from == p && sdci_same_where(&gaps->slots[e->gap].done, &e->at);
}

/* -- Containers and names -- */

static bool sdci_entries_in_object(const sdc_entries *e)
{
    if (e->at.skip_depth > 0) {
        return (e->at.skip_objects >> (e->at.skip_depth - 1) & 1) != 0;
    }
    return sdci_shapes[e->at.place].is_object;
}

/* A value of another type than its place has. Outside an entry that is the end of the answer, or
   of this item of it; inside, of the entry. */
static void sdci_entries_wrong(sdc_entries *e)
{
    static const char *const why[] = {
        "", "a value is not a string", "a port or weight is not an integer from 0 to 65535",
        "a port's Default is neither true nor false", "a value is not an object",
        "a value is not an array", "a tag is not a string", "a meta value is not a string"
    };

    sdci_forget_walk(e);
    if (sdci_entries_place(e) == SDCI_AT_LIST) {
        sdci_entries_leave_out(e, "not an object");
        e->entry_from = NULL;           /* it counts anew each time, so it is in no print */
    } else {
        sdci_entry_bad(e, why[sdci_entries_member(e)->type]);
    }
}

/* Goes into a container that is wanted, and counts its way out of one that is not. */
static const char *sdci_entries_open(sdc_entries *e, const char *p)
{
    bool is_object = *p == '{';
    const sdci_member *member = sdci_entries_member(e);

    if (sdci_shapes[e->at.place].depth + e->at.skip_depth == SDCI_JSON_DEPTH_MAX) {
        return sdci_entries_fail(e, p, SDC_ERR_LIMIT, "nested deeper than 64 levels");
    }
    if (member->type == (is_object ? SDCI_OBJECT : SDCI_ARRAY)) {
        sdci_note_action(e, (uint8_t)member->target);
        sdci_entries_enter(e, (sdci_place)member->target);
        e->entry_from = e->at.place == SDCI_AT_LIST ? p + 1 : e->entry_from;
        if (e->at.place == SDCI_AT_CHECK && e->at.check < SDCI_CHECKS_APART) {
            e->at.check++;
        }
    } else {
        if (member->type != SDCI_SKIP) {
            sdci_entries_wrong(e);
        } else if (p[1] == (is_object ? '}' : ']')) {
            e->at.member = 0;
            e->at.expect = SDCI_EXPECT_NEXT;
            return p + 2;
        }
        uint64_t bit = (uint64_t)1 << e->at.skip_depth;
        e->at.skip_objects = is_object ? e->at.skip_objects | bit : e->at.skip_objects & ~bit;
        e->at.skip_depth++;
    }
    e->at.member = 0;
    e->at.expect = is_object ? SDCI_EXPECT_FIRST_KEY : SDCI_EXPECT_FIRST_ITEM;
    return e->fault.code == SDC_OK ? p + 1 : NULL;
}

static const char *sdci_entries_close(sdc_entries *e, const char *p)
{
    if (e->at.skip_depth > 0) {
        e->at.skip_depth--;
        e->at.skip_objects &= ((uint64_t)1 << e->at.skip_depth) - 1;
    } else {
        sdci_place place = sdci_entries_place(e);
        sdci_note_leave(e, place, p);
        e->at.check = place == SDCI_AT_CHECKS ? 0 : e->at.check;
        e->at.place = sdci_shapes[place].parent;
        sdci_entries_left(e, place, p);
    }
    e->at.member = 0;
    e->at.expect = e->at.place == SDCI_AT_TOP && e->at.skip_depth == 0 ? SDCI_EXPECT_NOTHING
                                                                       : SDCI_EXPECT_NEXT;
    return e->fault.code == SDC_OK ? p + 1 : NULL;
}

/* All that are wanted begin with a capital letter. */
static void sdci_entries_find_member(sdc_entries *e, const char *name, size_t len)
{
    const sdci_shape *shape = &sdci_shapes[e->at.place];
    const sdci_member *members = shape->members;
    uint8_t num = shape->num_named;
    uint8_t i = len > 0 && *name >= 'A' && *name <= 'Z' ? 0 : num;

    while (i < num && (members[i].len != len || members[i].name[0] != *name ||
                       memcmp(members[i].name, name, len) != 0)) {
        i++;
    }
    e->at.member = i;
}

/* In a map every name is wanted; in a skipped container none is. */
static bool sdci_entries_wants_key(const sdc_entries *e)
{
    return e->at.skip_depth == 0 && sdci_shapes[e->at.place].num_named == 0;
}

/* A whole name that stands in the window without escapes. */
static SDCI_INLINE void sdci_entries_plain_key(sdc_entries *e, const char *name, size_t len)
{
    if (e->at.skip_depth > 0) {
        return;
    }
    if (sdci_entries_wants_key(e)) {
        e->at.member = 0;
        e->key = sdci_entry_keep(e, name, len);
        sdci_note_key(e, name, len);
    } else {
        sdci_entries_find_member(e, name, len);
    }
}

/* -- Scalars -- */

static void sdci_entries_scalar_done(sdc_entries *e, const char *p)
{
    e->mode = SDCI_BETWEEN;
    e->at.member = 0;
    e->at.expect = SDCI_EXPECT_NEXT;
    sdci_begin_walk(e, p);
}

static bool sdci_entries_wants_text(const sdci_member *member)
{
    return member->type == SDCI_STRING || member->type == SDCI_TAG || member->type == SDCI_META;
}

static void sdci_entries_take_tag(sdc_entries *e, sdci_span text)
{
    sdci_span *tag = (sdci_span *)sdci_entry_push(e, &e->tags, sizeof *tag);

    if (tag != NULL) {
        *tag = text;
    }
}

static void sdci_entries_take_meta(sdc_entries *e, sdci_span text)
{
    sdci_pair *pair = (sdci_pair *)sdci_entry_push(e, &e->meta, sizeof *pair);

    if (pair != NULL) {
        pair->key = e->key;
        pair->value = text;
    }
}

/* A string value that is wanted and whose text is kept already. */
static void sdci_entries_take_string(sdc_entries *e, const sdci_member *member, sdci_span text)
{
    if (member->type == SDCI_STRING) {
        e->fields[member->target] = text;
    } else if (member->type == SDCI_TAG) {
        sdci_entries_take_tag(e, text);
    } else {
        sdci_entries_take_meta(e, text);
    }
}

/* `number`: its value, or more than 65535 for one that is too large, negative or not an integer. */
static void sdci_entries_take_number(sdc_entries *e, const sdci_member *member, uint32_t number)
{
    if (member->type == SDCI_UINT16 && number <= UINT16_MAX) {
        e->numbers[member->target] = (uint16_t)number;
    } else if (member->type != SDCI_SKIP) {
        sdci_entries_wrong(e);
    }
}

/* Go writes null for what is not set. An item of a list is not a thing that can be unset. */
static void sdci_entries_take_null(sdc_entries *e)
{
    const sdci_member *m = sdci_entries_member(e);

    if (m->type == SDCI_SKIP) {
        return;
    }
    if (m->len == 0) {
        sdci_entries_wrong(e);
    } else if (m->type == SDCI_STRING) {
        memset(&e->fields[m->target], 0, sizeof e->fields[0]);
    } else if (m->type == SDCI_UINT16 || m->type == SDCI_BOOL) {
        e->numbers[m->target] = m->target == SDCI_WEIGHT_PASSING ? 1 : 0;
    } else {
        sdci_entries_clear(e, (sdci_place)m->target);
    }
}

static void sdci_entries_take_bool(sdc_entries *e, bool value)
{
    const sdci_member *m = sdci_entries_member(e);

    if (m->type == SDCI_BOOL) {
        e->numbers[m->target] = value;
    } else if (m->type != SDCI_SKIP) {
        sdci_entries_wrong(e);
    }
}

/* -- Strings -- */

#define SDCI_ESCAPE_MAX 12          /* a surrogate pair */

/* The first byte from p on that is not a plain character of a string. */
SDCI_NOINLINE static const char *sdci_plain_end(const char *p, const char *end)
{
    while ((size_t)(end - p) >= SDCI_LANE) {
        sdci_lane_bits special = sdci_lane_special(p);
        if (special != 0) {
            return p + sdci_lane_first(special);
        }
        p += SDCI_LANE;
    }
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20 &&
           (unsigned char)*p < 0x80) {
        p++;
    }
    return p;
}

/* The same; most often it is within one lane. SDCI_LOOK is in sight. */
static SDCI_INLINE const char *sdci_text_end(const char *p, const char *end)
{
    sdci_lane_bits special = sdci_lane_special(p);

    return special != 0 ? p + sdci_lane_first(special) : sdci_plain_end(p + SDCI_LANE, end);
}

static void sdci_entries_begin_string(sdc_entries *e, bool is_key)
{
    sdci_forget_walk(e);
    e->mode = SDCI_IN_STRING;
    e->is_key = is_key;
    e->is_kept = is_key ? sdci_entries_wants_key(e)
                        : sdci_entries_wants_text(sdci_entries_member(e));
    e->name_len = 0;
    e->has_nul = false;
    e->kept_at = e->text.len;
}

/* Of a name that is only looked up no more is kept than shows that it is none of ours. */
static void sdci_entries_keep_piece(sdc_entries *e, const char *bytes, size_t len)
{
    if (e->is_kept) {
        sdci_put(&e->text, bytes, len);
        e->has_nul = e->has_nul || (len == 1 && bytes[0] == '\0');
    } else if (e->is_key) {
        size_t room = sizeof e->name - e->name_len;
        len = len < room ? len : room;
        memcpy(e->name + e->name_len, bytes, len);
        e->name_len += len;
    }
}

/* What an instance shows; a check's ID and status are only compared. */
static bool sdci_entries_shows(const sdci_member *member)
{
    return member->type != SDCI_STRING ||
           (member->target != SDCI_CHECK_ID && member->target != SDCI_CHECK_STATUS);
}

/* A name that was read in pieces. */
static void sdci_entries_end_key(sdc_entries *e, sdci_span span)
{
    e->mode = SDCI_BETWEEN;
    e->at.expect = SDCI_EXPECT_COLON;
    if (e->is_kept) {
        e->key = span;
        e->at.member = 0;
        if (e->has_nul) {
            sdci_entry_bad(e, "a NUL character in a string");
        }
    } else if (e->at.skip_depth == 0) {
        sdci_entries_find_member(e, e->name, e->name_len);
    }
}

/* The closing quote of a string that was read in pieces. A C string cannot show a NUL, and to show
   less than was said would be worse than nothing. */
static const char *sdci_entries_end_string(sdc_entries *e, const char *p)
{
    sdci_span span = { 0, 0 };
    const sdci_member *member = sdci_entries_member(e);

    if (e->is_kept && e->text.err == SDC_OK) {
        span.at = (uint32_t)e->kept_at + 1;
        span.len = (uint32_t)(e->text.len - e->kept_at);
        sdci_put_char(&e->text, '\0');
    }
    if (e->is_key) {
        sdci_entries_end_key(e, span);
        return p + 1;
    }
    if (e->has_nul && sdci_entries_shows(member)) {
        sdci_entry_bad(e, "a NUL character in a string");
    } else if (e->has_nul) {
        memset(&span, 0, sizeof span);      /* no name that is known has a NUL */
    }
    if (e->is_kept) {
        sdci_entries_take_string(e, member, span);
    } else if (member->type != SDCI_SKIP) {
        sdci_entries_wrong(e);
    }
    sdci_entries_scalar_done(e, p + 1);
    return e->fault.code == SDC_OK ? p + 1 : NULL;
}

/* Four digits of a \u escape, or -1 with *p at the byte that is none. */
static int32_t sdci_hex4(const char **p)
{
    int32_t value = 0;

    for (int i = 0; i < 4; i++) {
        int digit = sdci_hex(**p);
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
        *p += 1;
    }
    return value;
}

static const char *sdci_entries_code_point(sdc_entries *e, uint32_t c, const char *behind)
{
    char utf8[4];

    sdci_entries_keep_piece(e, utf8, sdci_put_utf8(utf8, c));
    return behind;
}

/* Behind the backslash and u. A high surrogate wants its low one at once. */
static const char *sdci_entries_unicode(sdc_entries *e, const char *p)
{
    int32_t c = sdci_hex4(&p);
    int32_t low = 0;

    if (c < 0) {
        return sdci_entries_fail(e, p, SDC_ERR_JSON, "\\u needs four hexadecimal digits");
    }
    if (c < 0xD800 || c > 0xDFFF) {
        return sdci_entries_code_point(e, (uint32_t)c, p);
    }
    if (c > 0xDBFF) {
        return sdci_entries_fail(e, p - 1, SDC_ERR_JSON, "half of a surrogate pair");
    }
    for (int i = 0; i < 2; i++, p++) {
        if (*p != "\\u"[i]) {
            return sdci_entries_fail(e, p, SDC_ERR_JSON, "half of a surrogate pair");
        }
    }
    low = sdci_hex4(&p);
    if (low < 0) {
        return sdci_entries_fail(e, p, SDC_ERR_JSON, "\\u needs four hexadecimal digits");
    }
    if (low < 0xDC00 || low > 0xDFFF) {
        return sdci_entries_fail(e, p - 1, SDC_ERR_JSON, "half of a surrogate pair");
    }
    return sdci_entries_code_point(e, 0x10000 + (((uint32_t)c - 0xD800) << 10) +
                                          ((uint32_t)low - 0xDC00), p);
}

/* What a backslash and this character stand for; NUL: nothing, or \u. */
static char sdci_unescaped(char c)
{
    switch (c) {
    case '"':
    case '\\':
    case '/':  return c;
    case 'b':  return '\b';
    case 'f':  return '\f';
    case 'n':  return '\n';
    case 'r':  return '\r';
    case 't':  return '\t';
    default:   return '\0';
    }
}

/* From the backslash on, with a whole escape in sight. */
static const char *sdci_entries_escape(sdc_entries *e, const char *p)
{
    char c = sdci_unescaped(p[1]);

    if (p[1] == 'u') {
        return sdci_entries_unicode(e, p + 2);
    }
    if (c == '\0') {
        return sdci_entries_fail(e, p + 1, SDC_ERR_JSON, "an unknown escape in a string");
    }
    sdci_entries_keep_piece(e, &c, 1);
    return p + 2;
}

/* A multi-byte character, whole in sight. */
static const char *sdci_entries_utf8(sdc_entries *e, const char *p)
{
    sdci_utf8 utf8 = { 0, 0, 0 };
    const char *start = p;

    do {
        if (!sdci_utf8_byte(&utf8, (unsigned char)*p)) {
            return sdci_entries_fail(e, p, SDC_ERR_JSON, "invalid UTF-8");
        }
        p++;
    } while (utf8.left > 0);
    sdci_entries_keep_piece(e, start, (size_t)(p - start));
    return p;
}

/* Goes on in a string. Stops at its end, or where `end` may cut an escape or a character. */
static const char *sdci_entries_string(sdc_entries *e, const char *p, const char *end)
{
    while (p != NULL) {
        const char *run = p;
        p = sdci_plain_end(p, end);
        if (p != run) {
            sdci_entries_keep_piece(e, run, (size_t)(p - run));
        }
        if (p < end && *p == '"') {
            return sdci_entries_end_string(e, p);
        }
        if (p < end && (unsigned char)*p < 0x20) {
            return sdci_entries_fail(e, p, SDC_ERR_JSON, "a control character in a string");
        }
        if (end - p < SDCI_ESCAPE_MAX) {
            return p;
        }
        p = *p == '\\' ? sdci_entries_escape(e, p) : sdci_entries_utf8(e, p);
    }
    return p;
}

/* A string value, behind its quote. Most are whole and plain. */
static const char *sdci_entries_begin_text(sdc_entries *e, const char *p, const char *end)
{
    const sdci_member *member = sdci_entries_member(e);
    const char *close = sdci_text_end(p, end);

    if (close == end || *close != '"') {
        sdci_entries_begin_string(e, false);
        sdci_entries_keep_piece(e, p, (size_t)(close - p));
        return close;
    }
    if (sdci_entries_wants_text(member)) {
        sdci_entries_take_string(e, member, sdci_entry_keep(e, p, (size_t)(close - p)));
    } else if (member->type != SDCI_SKIP) {
        sdci_entries_wrong(e);
    }
    sdci_entries_scalar_done(e, close + 1);
    return e->fault.code == SDC_OK ? close + 1 : NULL;
}

/* -- Numbers -- */

/* How long a plain integer of at most 15 digits is; 0 for every other number. */
static SDCI_INLINE size_t sdci_plain_integer(const char *p)
{
    size_t len = sdci_lane_digits(p);
    char behind = p[len];

    bool is_other = len > 15 || behind == '.' || (behind | 0x20) == 'e' || (*p == '0' && len > 1);
    return is_other ? 0 : len;
}

/* Its value, where more than 65535 is only "too much". */
static uint32_t sdci_integer_value(const char *p, size_t len)
{
    uint32_t value = 0;

    for (size_t i = 0; i < len && i < 6; i++) {
        value = value * 10 + (uint32_t)(p[i] - '0');
    }
    return value;
}

static const char *sdci_entries_number(sdc_entries *e, const char *p, const char *end)
{
    for (; p < end; p++) {
        sdci_json_state next = sdci_json_number_state(e->number_state, *p);
        if (next == SDCI_JSON_VALUE) {
            break;
        }
        e->number_state = next;
        bool counts = next == SDCI_JSON_INTEGER || next == SDCI_JSON_ZERO;
        e->number = counts && e->number <= UINT16_MAX ? e->number * 10 + (uint32_t)(*p - '0')
                                                      : UINT16_MAX + 1u;
    }
    if (p == end) {
        return p;
    }
    if (!sdci_json_number_may_end(e->number_state) || (e->is_last && p == e->stop)) {
        return sdci_entries_fail(e, p, SDC_ERR_JSON, "a malformed number");
    }
    sdci_entries_take_number(e, sdci_entries_member(e), e->number);
    sdci_entries_scalar_done(e, p);
    return e->fault.code == SDC_OK ? p : NULL;
}

/* -- Tokens -- */

static const char *sdci_skip_space(const char *p, const char *stop)
{
    while (p < stop && sdci_is_space(*p)) {
        p++;
    }
    return p;
}

/* true, false or null. */
static const char *sdci_entries_literal(sdc_entries *e, const char *p)
{
    const char *text = *p == 't' ? "true" : *p == 'f' ? "false" : "null";
    size_t len = *p == 'f' ? 5 : 4;

    sdci_gap_learn(e, p, false);
    for (size_t i = 1; i < len; i++) {
        if (p[i] != text[i]) {
            return sdci_entries_fail(e, p + i, SDC_ERR_JSON, "neither true, false nor null");
        }
    }
    if (*p == 'n') {
        sdci_entries_take_null(e);
    } else {
        sdci_entries_take_bool(e, *p == 't');
    }
    sdci_entries_scalar_done(e, p + len);
    return p + len;
}

static const char *sdci_entries_begin_number(sdc_entries *e, const char *p, const char *end)
{
    size_t len = sdci_plain_integer(p);

    sdci_gap_learn(e, p, false);
    if (len == 0 || (e->is_last && p + len == e->stop)) {
        sdci_forget_walk(e);
        e->mode = SDCI_IN_NUMBER;
        e->number_state = SDCI_JSON_NUMBER;
        e->number = 0;
        return sdci_entries_number(e, p, end);
    }
    const sdci_member *member = sdci_entries_member(e);
    if (member->type != SDCI_SKIP) {
        sdci_entries_take_number(e, member, sdci_integer_value(p, len));
    }
    sdci_entries_scalar_done(e, p + len);
    return e->fault.code == SDC_OK ? p + len : NULL;
}

/* The whole answer: an array, or it is none. */
static const char *sdci_entries_begin_top(sdc_entries *e, const char *p)
{
    bool is_value = *p != '\0' && strchr("{[\"-0123456789tfn", *p) != NULL;

    if (*p == '[') {
        return sdci_entries_open(e, p);
    }
    return is_value ? sdci_entries_fail(e, p, SDC_ERR_SHAPE, "the answer is not an array")
                    : sdci_entries_fail(e, p, SDC_ERR_JSON, "a value is missing");
}

static const char *sdci_entries_begin_value(sdc_entries *e, const char *p, const char *end)
{
    if (e->at.place == SDCI_AT_TOP) {
        return sdci_entries_begin_top(e, p);
    }
    if (*p == '"') {
        sdci_gap_learn(e, p + 1, true);
        return sdci_entries_begin_text(e, p + 1, end);
    }
    if (*p == '{' || *p == '[') {
        return sdci_entries_open(e, p);
    }
    if (*p == '-' || sdci_is_digit(*p)) {
        return sdci_entries_begin_number(e, p, end);
    }
    if (*p == 't' || *p == 'f' || *p == 'n') {
        return sdci_entries_literal(e, p);
    }
    return sdci_entries_fail(e, p, SDC_ERR_JSON, "a value is missing");
}

/* A name, from its quote on, and mostly the colon and what stands behind it, since one step of
   several tokens is faster. Long names and those with escapes go the way of strings. */
static SDCI_INLINE const char *sdci_entries_begin_key(sdc_entries *e, const char *p,
                                                      const char *end)
{
    const char *close = sdci_text_end(p + 1, end);

    if (close == end || *close != '"') {
        sdci_entries_begin_string(e, true);
        sdci_entries_keep_piece(e, p + 1, (size_t)(close - p) - 1);
        return close;
    }
    sdci_entries_plain_key(e, p + 1, (size_t)(close - p) - 1);
    if (close + 2 >= e->stop || close[1] != ':') {
        e->at.expect = SDCI_EXPECT_COLON;
        return close + 1;
    }
    e->at.expect = SDCI_EXPECT_VALUE;
    return sdci_is_space(close[2]) ? close + 2 : sdci_entries_begin_value(e, close + 2, end);
}

static const char *sdci_entries_key(sdc_entries *e, const char *p, const char *end)
{
    return *p == '"' ? sdci_entries_begin_key(e, p, end)
                     : sdci_entries_fail(e, p, SDC_ERR_JSON, "a member name is missing");
}

/* ',' or the end of the container. */
static const char *sdci_entries_next(sdc_entries *e, const char *p, const char *end)
{
    bool is_object = sdci_entries_in_object(e);

    if (*p == ',') {
        e->at.expect = is_object ? SDCI_EXPECT_KEY : SDCI_EXPECT_VALUE;
        return is_object && p[1] == '"' ? sdci_entries_begin_key(e, p + 1, end) : p + 1;
    }
    if (*p == (is_object ? '}' : ']')) {
        return sdci_entries_close(e, p);
    }
    return sdci_entries_fail(e, p, SDC_ERR_JSON, is_object ? "',' or '}' is missing"
                                                           : "',' or ']' is missing");
}

static const char *sdci_entries_colon(sdc_entries *e, const char *p)
{
    e->at.expect = SDCI_EXPECT_VALUE;
    return *p == ':' ? p + 1 : sdci_entries_fail(e, p, SDC_ERR_JSON, "':' is missing");
}

/* Behind a value. Behind a scalar the shortcut may go on. */
static const char *sdci_entries_behind(sdc_entries *e, const char *p, const char *end)
{
    bool is_known = e->gap != 0 && sdci_entries_has_shortcut(e, p);
    const char *q = is_known ? sdci_entries_shortcut(e, p, end) : p;

    return q == p ? sdci_entries_next(e, p, end) : q;
}

/* One token or some that belong together, or the beginning of a long one. */
static const char *sdci_entries_token(sdc_entries *e, const char *p, const char *end)
{
    switch ((sdci_expect)e->at.expect) {
    case SDCI_EXPECT_NEXT:
        return sdci_entries_behind(e, p, end);
    case SDCI_EXPECT_KEY:
        return sdci_entries_key(e, p, end);
    case SDCI_EXPECT_FIRST_KEY:
        return *p == '}' ? sdci_entries_close(e, p) : sdci_entries_key(e, p, end);
    case SDCI_EXPECT_COLON:
        return sdci_entries_colon(e, p);
    case SDCI_EXPECT_VALUE:
        return sdci_entries_begin_value(e, p, end);
    case SDCI_EXPECT_FIRST_ITEM:
        return *p == ']' ? sdci_entries_close(e, p) : sdci_entries_begin_value(e, p, end);
    case SDCI_EXPECT_NOTHING:
        break;
    }
    return sdci_entries_fail(e, p, SDC_ERR_JSON, "more bytes after the value");
}

/* As many tokens as begin before `stop`, and known entries between them. The shortcut would go over
   the list's bracket without noting that an entry may begin there. */
static const char *sdci_entries_tokens(sdc_entries *e, const char *p, const char *end)
{
    bool is_at_known = e->known.fn != NULL && (p == e->entry_from || e->at.place == SDCI_AT_TOP);

    if (p < e->stop && !is_at_known && sdci_entries_has_shortcut(e, p)) {
        p = sdci_entries_shortcut(e, p, end);
    }
    while (p != NULL && e->mode == SDCI_BETWEEN) {
        if (p == e->entry_from && e->known.num > 0) {
            p = sdci_entries_skip_known(e, p);
        }
        if (p == NULL || p >= e->stop) {
            return p;
        }
        p = sdci_is_space(*p) ? sdci_skip_space(p, e->stop) : sdci_entries_token(e, p, end);
    }
    return p;
}

/* Whether an entry may begin next. */
static bool sdci_entries_is_at_entry(const sdc_entries *e)
{
    return e->mode == SDCI_BETWEEN && e->at.place == SDCI_AT_LIST && e->at.skip_depth == 0 &&
           (e->at.expect == SDCI_EXPECT_NEXT || e->at.expect == SDCI_EXPECT_FIRST_ITEM);
}

/* Reads from p as far as it goes; up to `end` there are bytes in sight. NULL: a fault. */
static const char *sdci_entries_window(sdc_entries *e, const char *p, const char *end)
{
    const char *before = NULL;
    sdci_entries_mode mode = e->mode;

    e->entry_from = sdci_entries_is_at_entry(e) ? p : NULL;
    sdci_forget_walk(e);
    if (e->mode == SDCI_BETWEEN) {
        sdci_begin_walk(e, p);
    }
    while (p != NULL && (p != before || e->mode != mode)) {
        before = p;
        mode = e->mode;
        switch (mode) {
        case SDCI_BETWEEN:   p = sdci_entries_tokens(e, p, end); break;
        case SDCI_IN_STRING: p = sdci_entries_string(e, p, end); break;
        case SDCI_IN_NUMBER: p = sdci_entries_number(e, p, end); break;
        }
    }
    return p;
}

/* -- Learning gaps -- */

/* Of a gap's first and last bytes; what is between them only gets compared. */
static uint32_t sdci_gap_hash(const char *bytes, size_t len)
{
    uint64_t first = 0;
    uint64_t last = 0;

    if (len >= sizeof first) {
        memcpy(&first, bytes, sizeof first);
        memcpy(&last, bytes + len - sizeof last, sizeof last);
    } else {
        memcpy(&first, bytes, len);
    }
    return (uint32_t)sdci_fold(first ^ len, last ^ 0x9E3779B97F4A7C15u);
}

/* The slot of this gap, or a free one. Never 0. */
static uint32_t sdci_gap_slot(const sdci_gaps *gaps, const sdci_where *before, const char *bytes,
                              size_t len)
{
    uint32_t slot = sdci_gap_hash(bytes, len) % SDCI_GAP_SLOTS;

    while (slot == 0 || (gaps->slots[slot].len != 0 &&
                         !(gaps->slots[slot].len == len &&
                           sdci_same_where(&gaps->slots[slot].before, before) &&
                           memcmp(gaps->slots[slot].bytes, bytes, len) == 0))) {
        slot = (slot + 1) % SDCI_GAP_SLOTS;
    }
    return slot;
}

/* `gap` follows `last` from now on: it is the first guess there. */
static void sdci_gap_link(sdci_gap *last, sdci_gap *gap)
{
    uint32_t at = 0;

    if (!sdci_same_where(&last->done, &gap->before)) {
        return;
    }
    while (at + 1 < SDCI_GAP_NEXT && last->next[at] != gap && last->next[at] != NULL) {
        at++;
    }
    memmove(last->next + 1, last->next, at * sizeof last->next[0]);
    last->next[0] = gap;
}

static sdci_follows sdci_gap_follows(const sdci_member *member, bool is_string)
{
    switch (member->type) {
    case SDCI_SKIP:   return SDCI_TRIED_SCALAR;
    case SDCI_STRING: return is_string ? SDCI_FIELD_TEXT : SDCI_OTHER_SCALAR;
    case SDCI_TAG:
    case SDCI_META:   return is_string ? SDCI_LISTED_TEXT : SDCI_OTHER_SCALAR;
    case SDCI_UINT16: return is_string ? SDCI_OTHER_SCALAR : SDCI_WANTED_NUMBER;
    case SDCI_BOOL:
    case SDCI_OBJECT:
    case SDCI_ARRAY:  break;
    }
    return SDCI_OTHER_SCALAR;
}

static void sdci_gap_set_len(sdci_gap *gap, size_t len)
{
    gap->len = (uint8_t)len;
    gap->head = sdci_wide_of((size_t)sdci_min(len, 32));
    gap->has_effects = gap->num_actions > 0 || gap->key_at != 0;
}

static void sdci_gap_fill(const sdc_entries *e, sdci_gap *gap, size_t len, bool is_string)
{
    *gap = e->gaps->walk;
    gap->after = e->at;
    gap->done = e->at;
    gap->done.member = 0;
    gap->done.expect = SDCI_EXPECT_NEXT;
    gap->member = sdci_entries_member(e);
    gap->follows = (uint8_t)sdci_gap_follows(gap->member, is_string);
    gap->target = (uint8_t)gap->member->target;
    gap->num_trials = 0;
    gap->varies = 0;
    gap->is_joined = 0;
    sdci_gap_set_len(gap, len);
    memset(gap->next, 0, sizeof gap->next);
    memset(gap->bytes, 0, sizeof gap->bytes);
    memcpy(gap->bytes, e->gaps->from, len);
}

/* The gap up to p has just been walked over: looks it up, and learns it if it is new. A table that
   does not help in the long run is full of what does not come again, and is cleared. */
SDCI_NOINLINE static void sdci_gap_look_up(sdc_entries *e, const char *p, bool is_string)
{
    sdci_gaps *gaps = e->gaps;
    sdci_gap *last = &gaps->slots[e->gap];
    size_t len = (size_t)(p - gaps->from);

    e->gap = 0;
    if (gaps->num_misses >= SDCI_GAP_PATIENCE) {    /* `last` is zeroed too, and links to nothing */
        memset(gaps->slots, 0, sizeof gaps->slots);
        gaps->num_used = 0;
        gaps->num_misses = 0;
    }
    if (len > SDCI_GAP_BYTES) {
        return;
    }
    uint32_t slot = sdci_gap_slot(gaps, &gaps->walk.before, gaps->from, len);
    sdci_gap *gap = &gaps->slots[slot];
    if (gap->len == 0) {
        if (gaps->num_used == SDCI_GAP_FULL) {
            return;
        }
        sdci_gap_fill(e, gap, len, is_string);
        gaps->num_used++;
    }
    sdci_gap_link(last, gap);
    e->gap = slot;
}

/* The general decoder has walked to a scalar at p, which the shortcut did not reach: a miss. While
   these are rare each gap is looked up; where they go on and on, only now and then. */
SDCI_NOINLINE static void sdci_gap_missed(sdc_entries *e, const char *p, bool is_string)
{
    uint32_t num = ++e->gaps->num_misses;

    if (e->gaps->from != NULL && (num < SDCI_GAP_PATIENCE / 32 || num % 32 == 0)) {
        sdci_gap_look_up(e, p, is_string);
    } else {
        e->gap = 0;
    }
}

/* -- The shortcut -- */

/* Whether the bytes of a gap stand at p, where SDCI_LOOK can be read, when its head does. */
static bool sdci_gap_fits_whole(const sdci_gap *gap, const char *p)
{
    size_t last = gap->len - 32u;

    for (size_t at = 32; at < last; at += 32) {
        if (!sdci_wide_same(gap->bytes + at, p + at, sdci_wide_of(32))) {
            return false;
        }
    }
    return sdci_wide_same(gap->bytes + last, p + last, sdci_wide_of(32));
}

static SDCI_INLINE bool sdci_gap_fits(const sdci_gap *gap, const char *p)
{
    return sdci_wide_same(gap->bytes, p, gap->head) &&
           (gap->len <= 32 || sdci_gap_fits_whole(gap, p));
}

/* The gap that stands at p, behind the scalar of `last`, if it is one of those that followed there,
   but not the likeliest. It is held for likelier from now on. */
SDCI_NOINLINE static sdci_gap *sdci_gap_other(sdci_gap *last, const char *p)
{
    for (uint32_t i = 1; i < SDCI_GAP_NEXT && last->next[i] != NULL; i++) {
        sdci_gap *gap = last->next[i];
        if (sdci_gap_fits(gap, p)) {
            last->next[i] = last->next[i - 1];
            last->next[i - 1] = gap;
            return gap;
        }
    }
    return NULL;
}

static SDCI_INLINE sdci_gap *sdci_gap_guess(sdci_gap *last, const char *p)
{
    sdci_gap *first = last->next[0];

    return first != NULL && sdci_gap_fits(first, p) ? first : sdci_gap_other(last, p);
}

/* From behind an entry that a gap ended over the next ones, as far as they are known. What the gap
   did behind that entry already, the next one does again. */
static const char *sdci_shortcut_known(sdc_entries *e, const char *p)
{
    memset(&e->at, 0, sizeof e->at);
    e->at.place = SDCI_AT_LIST;
    e->at.expect = SDCI_EXPECT_NEXT;
    return sdci_entries_skip_known(e, p);
}

/* Does what the general decoder did on its walk over this gap. Along the shortcut `at` is not kept
   up: nothing that is called from here may look at it. Answers p; or where an entry ended and the
   next ones are known, the byte behind those; NULL: a fault. */
static const char *sdci_gap_apply(sdc_entries *e, const sdci_gap *gap, const char *p)
{
    for (uint32_t i = 0; i < gap->num_actions; i++) {
        uint8_t action = gap->actions[i];
        if ((action & SDCI_LEAVE) != 0) {
            sdci_entries_left(e, (sdci_place)(action ^ SDCI_LEAVE), p + gap->end_at - 1);
        } else {
            sdci_entries_enter(e, (sdci_place)action);
        }
    }
    if (gap->key_at != 0) {
        e->key = sdci_entry_keep(e, p + gap->key_at, gap->key_len);
    }
    if (e->fault.code != SDC_OK) {
        return NULL;
    }
    if (gap->end_at != 0 && e->known.num > 0) {
        const char *known = sdci_shortcut_known(e, p + gap->end_at);
        return known != p + gap->end_at ? known : p;
    }
    return p;
}

/* A string that nobody wants, of which all up to p is plain. Answers the byte behind it; NULL: it
   needs the general way. */
SDCI_NOINLINE static const char *sdci_skip_rest(const char *p, const char *end)
{
    const char *close = sdci_plain_end(p, end);

    while (end - close >= SDCI_ESCAPE_MAX && *close == '\\' && sdci_unescaped(close[1]) != '\0') {
        close = sdci_plain_end(close + 2, end);
    }
    return close < end && *close == '"' ? close + 1 : NULL;
}

/* The same from its first byte on; most end within one lane. */
static SDCI_INLINE const char *sdci_skip_text(const char *p, const char *end)
{
    sdci_lane_bits special = sdci_lane_special(p);
    const char *close = p + (special != 0 ? sdci_lane_first(special) : 0);

    return *close == '"' ? close + 1 : sdci_skip_rest(special != 0 ? close : p + SDCI_LANE, end);
}

/* A string that is wanted. Answers the byte behind it; NULL: it needs the general way. Most end
   within one lane. */
static SDCI_INLINE const char *sdci_quick_text(sdc_entries *e, sdci_span *text, const char *p,
                                               const char *end)
{
    const char *close = sdci_text_end(p, end);

    if (close == end || *close != '"') {
        return NULL;
    }
    *text = sdci_entry_keep(e, p, (size_t)(close - p));
    return close + 1;
}

/* The same for one of several: a tag, or the value of a meta pair. */
SDCI_NOINLINE static const char *sdci_quick_listed(sdc_entries *e, const sdci_gap *gap,
                                                   const char *p, const char *end)
{
    sdci_span text;
    const char *behind = sdci_quick_text(e, &text, p, end);

    if (behind != NULL && gap->member->type == SDCI_TAG) {
        sdci_entries_take_tag(e, text);
    } else if (behind != NULL) {
        sdci_entries_take_meta(e, text);
    }
    return behind;
}

/* true, false or null that nobody wants. NULL: something else. */
static const char *sdci_skip_literal(const char *p)
{
    if (memcmp(p, "true", 4) == 0 || memcmp(p, "null", 4) == 0) {
        return p + 4;
    }
    return memcmp(p, "false", 5) == 0 ? p + 5 : NULL;
}

static SDCI_INLINE const char *sdci_skip_number(const char *p)
{
    size_t len = sdci_plain_integer(p);

    return len > 0 ? p + len : sdci_skip_literal(p);
}

/* A plain integer behind a known gap. NULL: something else. */
static const char *sdci_quick_number(sdc_entries *e, const sdci_gap *gap, const char *p)
{
    size_t len = sdci_plain_integer(p);
    uint32_t value = sdci_integer_value(p, len);

    if (len == 0 || value > UINT16_MAX) {
        return NULL;
    }
    e->numbers[gap->target] = (uint16_t)value;
    return p + len;
}

/* -- Joining gaps -- */

/* Where a scalar that nobody wants is the same time after time, it becomes part of the gap: the two
   gaps round it and the scalar between them are learned as one. That is the same kind of statement,
   made of three that hold. The two stay, for the day when the scalar is another one. */

/* Of a joined gap that was joined again only the longer one is looked for. */
static void sdci_gap_relink(sdci_gap *last, const sdci_gap *gap, sdci_gap *longer)
{
    sdci_gap_link(last, longer);
    for (uint32_t i = 1; gap->is_joined && i < SDCI_GAP_NEXT; i++) {
        if (last->next[i] == gap) {
            memmove(&last->next[i], &last->next[i + 1],
                    (SDCI_GAP_NEXT - i - 1) * sizeof last->next[0]);
            last->next[SDCI_GAP_NEXT - 1] = NULL;
        }
    }
}

/* `longer` becomes `gap`, its scalar and `next` in one; all three are in `bytes` already. */
static void sdci_gap_unite(sdci_gap *longer, const sdci_gap *gap, const sdci_gap *next)
{
    uint8_t shift = (uint8_t)(gap->len + gap->value_len);

    memcpy(longer->next, next->next, sizeof longer->next);
    longer->member = next->member;
    longer->after = next->after;
    longer->done = next->done;
    longer->follows = next->follows;
    longer->target = next->target;
    longer->num_trials = 0;
    longer->varies = next->varies;
    longer->is_joined = 1;
    if (next->member->type == SDCI_SKIP && !next->varies) {
        longer->follows = SDCI_TRIED_SCALAR;
    }
    memcpy(longer->actions + longer->num_actions, next->actions, next->num_actions);
    longer->num_actions = (uint8_t)(gap->num_actions + next->num_actions);
    longer->end_at = next->end_at != 0 ? (uint8_t)(shift + next->end_at) : gap->end_at;
    longer->key_at = next->key_at != 0 ? (uint8_t)(shift + next->key_at) : 0;
    longer->key_len = next->key_len;
    sdci_gap_set_len(longer, (size_t)shift + next->len);
}

/* `gap` followed `last`, and its scalar ends at p. */
static void sdci_gap_join(sdci_gaps *gaps, sdci_gap *last, sdci_gap *gap, const char *p)
{
    const sdci_gap *next = sdci_gap_guess(gap, p);
    size_t len = (size_t)gap->len + gap->value_len;
    sdci_gap joined = *gap;

    if (next == NULL || len + next->len > SDCI_GAP_BYTES || gap->key_at != 0 ||
        gap->num_actions + next->num_actions > (int)SDCI_GAP_ACTIONS ||
        (gap->end_at != 0 && next->end_at != 0) || gaps->num_used == SDCI_GAP_FULL) {
        return;
    }
    memcpy(joined.bytes + len, next->bytes, next->len);
    sdci_gap_unite(&joined, gap, next);
    uint32_t slot = sdci_gap_slot(gaps, &joined.before, joined.bytes, joined.len);
    if (gaps->slots[slot].len == 0) {
        gaps->slots[slot] = joined;
        gaps->num_used++;
    }
    sdci_gap_relink(last, gap, &gaps->slots[slot]);
}

/* A scalar that nobody wants, behind a gap that is new: notes whether it is always the same, and
   after some trials joins it. Answers the byte behind it; NULL: it needs the general way. */
SDCI_NOINLINE static const char *sdci_quick_trial(sdc_entries *e, sdci_gap *last, sdci_gap *gap,
                                                  const char *p, const char *end)
{
    bool is_text = gap->bytes[gap->len - 1] == '"';
    const char *behind = is_text ? sdci_skip_text(p, end) : sdci_skip_number(p);
    size_t len = behind != NULL ? (size_t)(behind - p) : SIZE_MAX;

    if (gap->num_trials == 0 && len <= SDCI_GAP_BYTES - gap->len) {
        memcpy(gap->bytes + gap->len, p, len);
        gap->value_len = (uint8_t)len;
    } else if (gap->num_trials == 0 || len != gap->value_len ||
               memcmp(gap->bytes + gap->len, p, len) != 0) {
        gap->varies = 1;
    }
    gap->num_trials++;
    if (gap->varies || gap->num_trials == SDCI_GAP_TRIALS) {
        gap->follows = is_text ? SDCI_SKIPPED_TEXT : SDCI_SKIPPED_NUMBER;
    }
    if (!gap->varies && gap->num_trials == SDCI_GAP_TRIALS && behind < e->stop) {
        sdci_gap_join(e->gaps, last, gap, behind);
    }
    return behind;
}

/* -- Along the shortcut -- */

/* The scalar behind a known gap. Answers the byte behind it; NULL: it needs the general way. */
static SDCI_INLINE const char *sdci_quick_scalar(sdc_entries *e, sdci_gap *last, sdci_gap *gap,
                                                 const char *p, const char *end)
{
    switch ((sdci_follows)gap->follows) {
    case SDCI_SKIPPED_TEXT:   return sdci_skip_text(p, end);
    case SDCI_FIELD_TEXT:     return sdci_quick_text(e, &e->fields[gap->target], p, end);
    case SDCI_LISTED_TEXT:    return sdci_quick_listed(e, gap, p, end);
    case SDCI_SKIPPED_NUMBER: return sdci_skip_number(p);
    case SDCI_WANTED_NUMBER:  return sdci_quick_number(e, gap, p);
    case SDCI_TRIED_SCALAR:   return sdci_quick_trial(e, last, gap, p, end);
    case SDCI_OTHER_SCALAR:   break;
    }
    return NULL;
}

/* Where the shortcut ends before a scalar: the general decoder goes on with it. */
static const char *sdci_shortcut_leave(sdc_entries *e, const sdci_gap *gap, const char *p,
                                       const char *end)
{
    e->at = gap->after;
    e->gap = (uint32_t)(gap - e->gaps->slots);
    if (gap->bytes[gap->len - 1] == '"') {
        return sdci_entries_begin_text(e, p, end);
    }
    sdci_begin_walk(e, p);
    return p;
}

/* From the end of a scalar on over known gaps and the scalars behind them, as far as they reach.
   Leaves the decoder where the general one goes on. Apart from it, so that this one loop has the
   registers to itself. */
SDCI_NOINLINE static const char *sdci_entries_shortcut(sdc_entries *e, const char *p,
                                                       const char *end)
{
    sdci_gaps *gaps = e->gaps;
    sdci_gap *gap = &gaps->slots[e->gap];
    const char *stop = e->stop;
    const char *began = p;

    while (p < stop) {
        sdci_gap *found = sdci_gap_guess(gap, p);
        if (found == NULL) {
            break;
        }
        sdci_gap *last = gap;
        gap = found;
        if (gap->has_effects) {
            const char *behind = sdci_gap_apply(e, gap, p);
            if (behind != p) {
                return behind;
            }
        }
        p += gap->len;
        const char *behind = sdci_quick_scalar(e, last, gap, p, end);
        if (behind == NULL) {
            return sdci_shortcut_leave(e, gap, p, end);
        }
        p = behind;
    }
    e->at = gap->done;
    e->gap = (uint32_t)(gap - gaps->slots);
    gaps->num_misses -= (uint32_t)sdci_min((uint64_t)(p - began) / 32, gaps->num_misses);
    sdci_begin_walk(e, p);
    return p;
}

/* -- The decoder -- */

static void sdci_entries_reset(sdc_entries *e)
{
    memset(&e->fault, 0, sizeof e->fault);
    memset(&e->at, 0, sizeof e->at);
    e->at.place = SDCI_AT_TOP;
    e->at.expect = SDCI_EXPECT_VALUE;
    e->mode = SDCI_BETWEEN;
    e->offset = 0;
    e->carry_len = 0;
    e->gap = 0;
    sdci_entry_reset(e);
    sdci_buf_clear(&e->arrays);
    e->num_entries = 0;
    e->num_skipped = 0;
}

/* NULL: no memory. With `own` NULL the allocator outlives the decoder. */
static sdc_entries *sdci_entries_new(const sdc_allocator *allocator, const sdc_allocator *own)
{
    sdc_entries *e = (sdc_entries *)sdci_new(allocator, sizeof *e);

    if (e == NULL) {
        return NULL;
    }
    if (own != NULL) {
        e->own = *own;
        allocator = &e->own;
    }
    e->allocator = allocator;
    sdci_buf_init(&e->text, allocator, SDCI_ENTRY_TEXT_MAX);
    sdci_buf_init(&e->tags, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_span));
    sdci_buf_init(&e->meta, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_pair));
    sdci_buf_init(&e->tagged, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_item));
    sdci_buf_init(&e->ports, allocator, SDCI_ENTRY_ITEMS_MAX * sizeof(sdci_item));
    sdci_buf_init(&e->arrays, allocator, SIZE_MAX);
    sdci_entries_reset(e);
    return e;
}

static void sdci_entries_free(sdc_entries *e)
{
    if (e != NULL) {
        sdc_allocator allocator = *e->allocator;
        sdci_buf_deinit(&e->text);
        sdci_buf_deinit(&e->tags);
        sdci_buf_deinit(&e->meta);
        sdci_buf_deinit(&e->tagged);
        sdci_buf_deinit(&e->ports);
        sdci_buf_deinit(&e->arrays);
        sdci_free(&allocator, e->own_gaps, sizeof *e->own_gaps);
        sdci_free(&allocator, e, sizeof *e);
    }
}

/* What its buffers hold: little, but after an entry as nobody writes it. */
static size_t sdci_entries_bytes(const sdc_entries *e)
{
    return e->text.cap + e->tags.cap + e->meta.cap + e->tagged.cap + e->ports.cap + e->arrays.cap;
}

/* Reads a window and answers how much of it was taken. A token begins where SDCI_LOOK bytes are in
   sight; behind the last window there are as many zeros, which no token has. */
static size_t sdci_entries_take(sdc_entries *e, const char *bytes, size_t len, bool is_last)
{
    size_t in_sight = is_last ? len + SDCI_LOOK : len;

#ifdef SDC_NO_FAST_PATH
    e->gaps = NULL;
    e->known.fn = NULL;
    e->known.num = 0;
#endif
    e->window = bytes;
    e->limit = bytes + len;
    e->is_last = is_last;
    e->stop = in_sight < SDCI_LOOK ? bytes : bytes + (in_sight - SDCI_LOOK) + (is_last ? 0 : 1);
    const char *p = sdci_entries_window(e, bytes, bytes + in_sight);
    size_t taken = p != NULL ? (size_t)(p - bytes) : 0;

    e->offset += taken;
    return taken;
}

/* Fills the carry from p on and reads it. Answers where the bytes go on that are neither read nor
   carried. */
static const char *sdci_entries_feed_carry(sdc_entries *e, const char *p, const char *end)
{
    size_t old = e->carry_len;
    size_t more = (size_t)sdci_min((uint64_t)(end - p), SDCI_CARRY - old);

    memcpy(e->carry + old, p, more);
    e->carry_len = old + more;
    if (e->carry_len < SDCI_CARRY) {
        return end;
    }
    size_t taken = sdci_entries_take(e, e->carry, e->carry_len, false);
    if (taken >= old) {
        e->carry_len = 0;
        return p + (taken - old);
    }
    e->carry_len -= taken;
    memmove(e->carry, e->carry + taken, e->carry_len);
    return p + more;
}

sdc_err sdc_entries_feed(sdc_entries *entries, const void *bytes, size_t len)
{
    sdc_entries *e = entries;
    const char *p = (const char *)bytes;
    const char *end = len > 0 ? p + len : p;

    while (e->carry_len > 0 && p < end && e->fault.code == SDC_OK) {
        p = sdci_entries_feed_carry(e, p, end);
    }
    while ((size_t)(end - p) >= SDCI_LOOK && e->fault.code == SDC_OK) {
        p += sdci_entries_take(e, p, (size_t)(end - p), false);
    }
    if (p < end && e->fault.code == SDC_OK) {
        memcpy(e->carry, p, (size_t)(end - p));
        e->carry_len = (size_t)(end - p);
    }
    return e->fault.code;
}

sdc_err sdc_entries_finish(sdc_entries *entries)
{
    sdc_entries *e = entries;

    if (e->fault.code != SDC_OK) {
        return e->fault.code;
    }
    memset(e->carry + e->carry_len, 0, SDCI_LOOK);
    size_t taken = sdci_entries_take(e, e->carry, e->carry_len, true);
    bool is_whole = e->mode == SDCI_BETWEEN && e->at.expect == SDCI_EXPECT_NOTHING;
    if (!is_whole || taken < e->carry_len) {
        e->window = e->carry + taken;
        (void)sdci_entries_fail(e, e->stop, SDC_ERR_JSON, "the text ends too early");
    }
    e->carry_len = 0;
    return e->fault.code;
}

void sdc_entries_error(const sdc_entries *entries, sdc_error *out)
{
    sdci_fault_tell(&entries->fault, "JSON", out);
}

uint64_t sdc_entries_skipped(const sdc_entries *entries)
{
    return entries->num_skipped;
}

void sdc_entries_reset(sdc_entries *entries)
{
    sdci_entries_reset(entries);
}

sdc_err sdc_entries_create(const sdc_allocator *allocator, sdc_instance_fn fn, void *user,
                           sdc_entries **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);

    *out = NULL;
    if (fn == NULL) {
        return SDC_ERR_ARG;
    }
    sdc_entries *e = sdci_entries_new(&own, &own);
    if (e == NULL) {
        return SDC_ERR_NOMEM;
    }
    e->fn = fn;
    e->user = user;
    e->own_gaps = (sdci_gaps *)sdci_new(&own, sizeof *e->own_gaps);     /* works without, too */
    e->gaps = e->own_gaps;
    *out = e;
    return SDC_OK;
}

void sdc_entries_destroy(sdc_entries *entries)
{
    sdci_entries_free(entries);
}

/* ---- URLs ---------------------------------------------------- [sdc:url] --
   The agent's address taken apart, and what a caller passes made safe to
   stand in a request line. Everything but RFC 3986's unreserved characters is
   percent-encoded, so nothing can add a parameter, a line or a header.
   ------------------------------------------------------------------------- */

static bool sdci_is_unreserved(char c)
{
    char l = sdci_lower(c);

    return (l >= 'a' && l <= 'z') || sdci_is_digit(c) || c == '-' || c == '.' || c == '_' ||
           c == '~';
}

static void sdci_put_escaped(sdci_buf *buf, const char *text)
{
    static const char digits[] = "0123456789ABCDEF";

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (sdci_is_unreserved(*text)) {
            sdci_put_char(buf, *text);
        } else {
            sdci_put_char(buf, '%');
            sdci_put_char(buf, digits[c >> 4]);
            sdci_put_char(buf, digits[c & 15]);
        }
    }
}

/* The code point at *p of a UTF-8 text, moving *p behind it; a byte that is not UTF-8 counts as
   itself, and only what Consul's printable check would refuse matters to the caller. */
static uint32_t sdci_code_point(const unsigned char **p)
{
    const unsigned char *s = *p;

    if (s[0] >= 0xC2 && s[0] <= 0xDF && (s[1] & 0xC0) == 0x80) {
        *p += 2;
        return (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3Fu);
    }
    if ((s[0] & 0xF0) == 0xE0 && (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80) {
        *p += 3;
        return (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3Fu);
    }
    *p += 1;
    return s[0] < 0x80 ? s[0] : 'x';
}

/* Control characters, and the spaces and format characters that look like nothing or like an
   ordinary space: Consul answers 400 with an empty body to those in a path. */
static bool sdci_has_unprintable(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;

    while (*p != '\0') {
        uint32_t c = sdci_code_point(&p);
        if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || c == 0x1680 ||
            (c >= 0x2000 && c <= 0x200F) || (c >= 0x2028 && c <= 0x202F) ||
            (c >= 0x205F && c <= 0x206F) || c == 0x3000 || c == 0xFEFF) {
            return true;
        }
    }
    return false;
}

/* True if a part of the path, between slashes, is empty, "." or "..": agents redirect those, in
   some versions even when they come percent-encoded. */
static bool sdci_has_dot_part(sdci_str text)
{
    size_t at = 0;

    for (size_t i = 0; i <= text.len; i++) {
        if (i < text.len && text.ptr[i] != '/') {
            continue;
        }
        size_t len = i - at;
        if (len == 0 || (len == 1 && text.ptr[at] == '.') ||
            (len == 2 && text.ptr[at] == '.' && text.ptr[at + 1] == '.')) {
            return true;
        }
        at = i + 1;
    }
    return false;
}

/* A name or ID that can stand in a path. `field` is what the caller calls it. */
static sdc_err sdci_path_part_valid(const char *field, const char *text, sdc_error *error)
{
    if (sdci_is_empty(text)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s is missing", field);
    }
    if (sdci_has_unprintable(text)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s has a character that is not printable", field);
    }
    if (sdci_has_dot_part(sdci_str_of(text))) {
        return sdci_fail(error, SDC_ERR_ARG,
                         "%s has an empty, \".\" or \"..\" part between slashes: \"%.80s\"", field,
                         text);
    }
    return SDC_OK;
}

/* -- The agent's address -- */

typedef struct sdci_agent_url {
    sdci_str host;              /* without brackets */
    sdci_str prefix;            /* "" or "/...", without a slash at its end */
    sdci_str path;              /* of a unix socket */
    uint16_t port;
    bool is_ipv6, is_unix, tls;
} sdci_agent_url;

static bool sdci_starts_with(sdci_str text, const char *start, sdci_str *rest)
{
    size_t len = strlen(start);

    if (text.len < len || memcmp(text.ptr, start, len) != 0) {
        return false;
    }
    *rest = sdci_slice(text.ptr + len, text.len - len);
    return true;
}

/* `field` is what the caller calls it: a member of the desc, or an environment variable. */
static sdc_err sdci_bad_address(sdc_error *error, const char *field, sdci_str address,
                                const char *why)
{
    return sdci_fail(error, SDC_ERR_ARG, "%s \"%.*s\": %s", field,
                     (int)sdci_min(address.len, 100), address.ptr, why);
}

/* True for a numeric IPv6 address, with a scope ("%eth0") or without. */
static bool sdci_is_ipv6(sdci_str host)
{
    char text[64];
    struct in6_addr ignored;
    size_t len = 0;

    while (len < host.len && host.ptr[len] != '%') {
        len++;
    }
    if (len >= sizeof text || host.len >= sizeof text) {
        return false;
    }
    memcpy(text, host.ptr, len);
    text[len] = '\0';
    return inet_pton(AF_INET6, text, &ignored) == 1;
}

/* Takes "host" or "[v6]" from the front of *text, which keeps ":port" or nothing. */
static const char *sdci_parse_host(sdci_str *text, sdci_agent_url *out)
{
    const char *end = text->ptr + text->len;
    const char *colon = text->len > 0 ? (const char *)memchr(text->ptr, ':', text->len) : NULL;
    const char *after = colon != NULL ? colon : end;

    if (text->len > 0 && text->ptr[0] == '[') {
        const char *bracket = (const char *)memchr(text->ptr, ']', text->len);
        if (bracket == NULL) {
            return "']' is missing";
        }
        out->is_ipv6 = true;
        out->host = sdci_slice(text->ptr + 1, (size_t)(bracket - text->ptr) - 1);
        after = bracket + 1;
    } else {
        out->host = sdci_slice(text->ptr, (size_t)(after - text->ptr));
        if (colon != NULL && memchr(colon + 1, ':', (size_t)(end - colon) - 1) != NULL) {
            return "an IPv6 host needs brackets";
        }
    }
    *text = sdci_slice(after, (size_t)(end - after));
    if (out->host.len == 0) {
        return "the host is missing";
    }
    return out->is_ipv6 && !sdci_is_ipv6(out->host) ? "no IPv6 address between the brackets"
                                                    : NULL;
}

/* "host", "host:port", "[v6]" or "[v6]:port". */
static const char *sdci_parse_authority(sdci_str text, sdci_agent_url *out)
{
    uint64_t number = 0;
    const char *why = sdci_parse_host(&text, out);

    if (why != NULL || text.len == 0) {
        return why;
    }
    if (text.ptr[0] != ':') {
        return "only a port may follow ']'";
    }
    if (!sdci_parse_u64(sdci_slice(text.ptr + 1, text.len - 1), 65535, &number) || number == 0) {
        return "the port is not a number from 1 to 65535";
    }
    out->port = (uint16_t)number;
    return NULL;
}

/* What no part of an address may hold. */
static const char *sdci_address_nonsense(sdci_str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (sdci_is_control(c) || c == ' ') {
            return "it has a space or control character";
        }
        if (c == '?' || c == '#' || c == '@') {
            return "only host, port and path may be in it";
        }
    }
    return NULL;
}

/* The prefix goes into the request line as it is: percent-encoded already, or not in need of it
   (RFC 3986, 3.3), and without parts that a server would redirect. */
static const char *sdci_parse_prefix(sdci_str text, sdci_agent_url *out)
{
    while (text.len > 0 && text.ptr[text.len - 1] == '/') {
        text.len--;
    }
    out->prefix = text;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (!sdci_is_unreserved(c) && (c == '\0' || strchr("/%!$&'()*+;=:", c) == NULL)) {
            return "its path has a character that needs percent-encoding";
        }
    }
    return text.len > 0 && sdci_has_dot_part(sdci_slice(text.ptr + 1, text.len - 1))
               ? "its path has an empty, \".\" or \"..\" part" : NULL;
}

/* Without a scheme the port is Consul's, with one it is the scheme's, as the official client has
   it. */
static sdc_err sdci_parse_address(const char *field, const char *address, sdci_agent_url *out,
                                  sdc_error *error)
{
    sdci_str text = sdci_str_of(address);
    sdci_str rest = text;

    memset(out, 0, sizeof *out);
    out->port = 8500;
    if (sdci_starts_with(text, "unix://", &rest)) {
        out->is_unix = true;
        out->path = rest;
        out->host = sdci_str_of("localhost");
        return rest.len > 0 ? SDC_OK
                            : sdci_bad_address(error, field, text, "the path is missing");
    }
    if (sdci_starts_with(text, "https://", &rest)) {
        out->tls = true;
        out->port = 443;
    } else if (sdci_starts_with(text, "http://", &rest)) {
        out->port = 80;
    } else if (strstr(address, "://") != NULL) {
        return sdci_bad_address(error, field, text, "the scheme is not http, https or unix");
    }
    size_t len = 0;
    while (len < rest.len && rest.ptr[len] != '/') {
        len++;
    }
    const char *why = sdci_address_nonsense(rest);
    why = why != NULL ? why : sdci_parse_authority(sdci_slice(rest.ptr, len), out);
    why = why != NULL ? why : sdci_parse_prefix(sdci_slice(rest.ptr + len, rest.len - len), out);
    return why == NULL ? SDC_OK : sdci_bad_address(error, field, text, why);
}

/* -- Base64, for basic authentication (RFC 7617) -- */

static void sdci_put_base64(sdci_buf *buf, sdci_str text)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < text.len; i += 3) {
        uint32_t bits = (uint32_t)(unsigned char)text.ptr[i] << 16;
        bits |= i + 1 < text.len ? (uint32_t)(unsigned char)text.ptr[i + 1] << 8 : 0;
        bits |= i + 2 < text.len ? (uint32_t)(unsigned char)text.ptr[i + 2] : 0;
        sdci_put_char(buf, digits[bits >> 18]);
        sdci_put_char(buf, digits[bits >> 12 & 63]);
        sdci_put_char(buf, i + 1 < text.len ? digits[bits >> 6 & 63] : '=');
        sdci_put_char(buf, i + 2 < text.len ? digits[bits & 63] : '=');
    }
}

/* ---- HTTP --------------------------------------------------- [sdc:http] --
   One HTTP/1.x response (RFC 9112): status line, fields, then a body by
   length, by chunks or up to the end of the connection. Takes bytes, yields
   events; knows no socket and no clock.

   It is strict, because it talks to one kind of server and a framing that two
   sides read differently is how answers get mixed up: both Content-Length and
   Transfer-Encoding, two lengths, a coding other than chunked, a bare LF, a
   malformed chunk size are errors. A short body is an error, never data.

     STATUS_LINE --> FIELDS --1xx--> STATUS_LINE
                       |--no body-----------------------------> COMPLETE
                       |--Content-Length--> LENGTH_BODY ------>    ^
                       |--chunked--> CHUNK_SIZE --0--> TRAILERS ---'
                       |                |  ^  '--';'--> CHUNK_EXTENSION
                       |                v  |
                       |            CHUNK_DATA --> CHUNK_END
                       '--neither--> CLOSE_BODY --peer closes--> COMPLETE
   ------------------------------------------------------------------------- */

#define SDCI_HTTP_HEAD_MAX ((size_t)64 << 10)

typedef enum sdci_http_state {
    SDCI_HTTP_STATUS_LINE,      /* until its CRLF                                     */
    SDCI_HTTP_FIELDS,           /* until an empty line                                */
    SDCI_HTTP_LENGTH_BODY,      /* `left` bytes to come                               */
    SDCI_HTTP_CLOSE_BODY,       /* until the peer closes                              */
    SDCI_HTTP_CHUNK_SIZE,       /* in its digits                                      */
    SDCI_HTTP_CHUNK_EXTENSION,  /* after them, until CR                               */
    SDCI_HTTP_CHUNK_SIZE_LF,
    SDCI_HTTP_CHUNK_DATA,       /* `left` bytes to come                               */
    SDCI_HTTP_CHUNK_END_CR,
    SDCI_HTTP_CHUNK_END_LF,
    SDCI_HTTP_TRAILERS,         /* as fields, until an empty line; nobody sees them   */
    SDCI_HTTP_COMPLETE          /* further bytes are not of this response             */
} sdci_http_state;

struct sdc_http {
    sdc_http_handler handler;
    sdc_allocator own;          /* of a decoder that sdc_http_create made */
    sdci_buf line;              /* the newest field, and the line being read behind it */
    size_t line_at;             /* where that line begins */
    sdci_fault fault;
    uint64_t offset;            /* bytes taken since reset */
    uint64_t at;                /* the byte that an error would be about: of a line its first */
    uint64_t field_at;          /* the first byte of the field in `line` */
    uint64_t left;              /* of the body or chunk */
    uint64_t length;            /* Content-Length, if has_length */
    uint64_t body_bytes, body_max;
    size_t head_bytes, head_max;    /* everything that is not body counts */
    int status;
    sdci_http_state state;
    uint8_t num_digits;         /* of a chunk size */
    bool has_length, is_chunked, is_1_0, says_close, says_keep_alive;
};

static void sdci_http_reset(sdc_http *http)
{
    sdci_buf_clear(&http->line);
    memset(&http->fault, 0, sizeof http->fault);
    http->offset = 0;
    http->left = 0;
    http->length = 0;
    http->body_bytes = 0;
    http->head_bytes = 0;
    http->status = 0;
    http->state = SDCI_HTTP_STATUS_LINE;
    http->num_digits = 0;
    http->line_at = 0;
    http->at = 0;
    http->field_at = 0;
    http->has_length = false;
    http->is_chunked = false;
    http->is_1_0 = false;
    http->says_close = false;
    http->says_keep_alive = false;
}

static void sdci_http_init(sdc_http *http, const sdc_allocator *allocator,
                           const sdc_http_handler *handler, size_t head_max, uint64_t body_max)
{
    memset(http, 0, sizeof *http);
    http->handler = *handler;
    http->head_max = head_max;
    http->body_max = body_max;
    sdci_buf_init(&http->line, allocator, head_max + 1);
    sdci_http_reset(http);
}

static void sdci_http_deinit(sdc_http *http)
{
    sdci_buf_deinit(&http->line);
}

static sdc_err sdci_http_fail(sdc_http *http, sdc_err code, const char *what)
{
    if (http->fault.code == SDC_OK) {
        http->fault.code = code;
        http->fault.what = what;
        http->fault.at = http->at;
    }
    return http->fault.code;
}

/* -- The head -- */

/* "HTTP/1.1 200 OK"; the reason may be empty, and the space before it missing. */
static sdc_err sdci_http_status_line(sdc_http *http, sdci_str line)
{
    uint64_t status = 0;
    bool is_http = line.len >= 12 && memcmp(line.ptr, "HTTP/1.", 7) == 0 &&
                   sdci_is_digit(line.ptr[7]) && line.ptr[8] == ' ' &&
                   sdci_parse_u64(sdci_slice(line.ptr + 9, 3), 999, &status) &&
                   (line.len == 12 || line.ptr[12] == ' ');

    if (!is_http) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "the status line is not of HTTP/1.x");
    }
    if (status < 100 || status == 101) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "an impossible status");
    }
    http->is_1_0 = line.ptr[7] == '0';
    http->status = (int)status;
    http->state = SDCI_HTTP_FIELDS;
    if (status >= 200 && http->handler.on_status != NULL) {
        sdc_err err = http->handler.on_status(http->handler.user, http->status);
        return err == SDC_OK ? SDC_OK : sdci_http_fail(http, err, NULL);
    }
    return SDC_OK;
}

/* Characters of a field name (RFC 9110, 5.6.2). */
static bool sdci_http_is_token(sdci_str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = sdci_lower(text.ptr[i]);
        bool is_common = (c >= 'a' && c <= 'z') || c == '-' || sdci_is_digit(c);
        if (!is_common && (c == '\0' || strchr("!#$%&'*+.^_`|~", c) == NULL)) {
            return false;
        }
    }
    return text.len > 0;
}

/* A length that comes twice with the same value is one length (RFC 9110, 8.6). */
static sdc_err sdci_http_content_length(sdc_http *http, sdci_str value)
{
    uint64_t length = 0;

    if (!sdci_parse_u64(value, UINT64_MAX, &length)) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "Content-Length is not a number");
    }
    if (http->has_length && http->length != length) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "two Content-Lengths that differ");
    }
    http->has_length = true;
    http->length = length;
    return SDC_OK;
}

/* One option of a Connection field, which is a list. */
static void sdci_http_connection(sdc_http *http, sdci_str value)
{
    while (value.len > 0) {
        size_t len = 0;
        while (len < value.len && value.ptr[len] != ',') {
            len++;
        }
        sdci_str option = sdci_trim(sdci_slice(value.ptr, len));
        if (sdci_equal_nocase(option, sdci_str_of("close"))) {
            http->says_close = true;
        } else if (sdci_equal_nocase(option, sdci_str_of("keep-alive"))) {
            http->says_keep_alive = true;
        }
        len += len < value.len ? 1 : 0;
        value = sdci_slice(value.ptr + len, value.len - len);
    }
}

static sdc_err sdci_http_framing_field(sdc_http *http, sdci_str name, sdci_str value)
{
    if (sdci_equal_nocase(name, sdci_str_of("Content-Length"))) {
        return sdci_http_content_length(http, value);
    }
    if (sdci_equal_nocase(name, sdci_str_of("Transfer-Encoding"))) {
        if (http->is_chunked || !sdci_equal_nocase(value, sdci_str_of("chunked"))) {
            return sdci_http_fail(http, SDC_ERR_HTTP, "a transfer coding other than chunked");
        }
        http->is_chunked = true;
    } else if (sdci_equal_nocase(name, sdci_str_of("Connection"))) {
        sdci_http_connection(http, value);
    }
    return SDC_OK;
}

/* A whole field, folded lines joined. Those of a 1xx and of the trailer are checked for form
   alone. */
static sdc_err sdci_http_field(sdc_http *http, sdci_str line)
{
    const char *colon = (const char *)memchr(line.ptr, ':', line.len);

    if (colon == NULL || !sdci_http_is_token(sdci_slice(line.ptr, (size_t)(colon - line.ptr)))) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "a malformed header field");
    }
    sdci_str name = sdci_slice(line.ptr, (size_t)(colon - line.ptr));
    sdci_str value = sdci_slice(colon + 1, line.len - name.len - 1);
    for (size_t i = 0; i < value.len; i++) {
        if (sdci_is_control(value.ptr[i]) && value.ptr[i] != '\t') {
            return sdci_http_fail(http, SDC_ERR_HTTP, "a control character in a header field");
        }
    }
    value = sdci_trim(value);
    if (http->state != SDCI_HTTP_FIELDS || http->status < 200) {
        return SDC_OK;
    }
    sdc_err err = sdci_http_framing_field(http, name, value);
    if (err == SDC_OK && http->handler.on_header != NULL) {
        err = http->handler.on_header(http->handler.user, name.ptr, name.len, value.ptr,
                                      value.len);
    }
    return err == SDC_OK ? SDC_OK : sdci_http_fail(http, err, NULL);
}

/* The empty line: what the body is made of (RFC 9112, 6.3). */
static sdc_err sdci_http_head_done(sdc_http *http)
{
    bool has_no_body = http->status == 204 || http->status == 304;

    if (http->state == SDCI_HTTP_TRAILERS) {
        http->state = SDCI_HTTP_COMPLETE;
        return SDC_OK;
    }
    if (http->status < 200) {
        http->state = SDCI_HTTP_STATUS_LINE;
        return SDC_OK;
    }
    if (http->is_chunked && (http->has_length || http->is_1_0)) {
        return sdci_http_fail(http, SDC_ERR_HTTP, http->is_1_0
                                  ? "chunks in an answer of HTTP/1.0"
                                  : "both Content-Length and Transfer-Encoding");
    }
    if (http->has_length && http->length > http->body_max) {
        return sdci_http_fail(http, SDC_ERR_LIMIT, "the body is longer than max_body_bytes");
    }
    http->left = http->length;
    if (has_no_body || (http->has_length && http->length == 0)) {
        http->state = SDCI_HTTP_COMPLETE;
    } else if (http->has_length) {
        http->state = SDCI_HTTP_LENGTH_BODY;
    } else {
        http->state = http->is_chunked ? SDCI_HTTP_CHUNK_SIZE : SDCI_HTTP_CLOSE_BODY;
    }
    return SDC_OK;
}

static bool sdci_http_is_fold(char first)
{
    return first == ' ' || first == '\t';
}

/* `line` holds the newest field, if the end of a feed has cut it or what is behind it: only the
   first byte of the next line shows that it was whole. Lines that begin with a space are folds,
   which a client reads as one space (RFC 9112, 5.2). */
static sdc_err sdci_http_flush_field(sdc_http *http)
{
    uint64_t at = http->at;

    http->at = http->field_at;
    sdc_err err = sdci_http_field(http, sdci_slice(http->line.ptr, http->line_at));
    http->at = at;
    http->line_at = 0;
    sdci_buf_clear(&http->line);
    return err;
}

/* A line without its CRLF. Answers whether it is a field, which a fold may follow. */
static bool sdci_http_line_done(sdc_http *http, sdci_str line)
{
    if (http->state == SDCI_HTTP_STATUS_LINE) {
        (void)sdci_http_status_line(http, line);
    } else if (line.len == 0) {
        (void)sdci_http_head_done(http);
    } else if (sdci_http_is_fold(line.ptr[0]) && http->line_at == 0) {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a folded line without a field");
    } else {
        return true;
    }
    return false;
}

/* A peer that does not speak HTTP is told from its first bytes: it may never send a line end. */
static sdc_err sdci_http_check_start(sdc_http *http, sdci_str line)
{
    size_t len = (size_t)sdci_min(line.len, 7);

    if (http->state == SDCI_HTTP_STATUS_LINE && memcmp(line.ptr, "HTTP/1.", len) != 0) {
        return sdci_http_fail(http, SDC_ERR_HTTP, "the peer does not speak HTTP/1.x");
    }
    return SDC_OK;
}

static sdc_err sdci_http_check_end(sdc_http *http, sdci_str line)
{
    if (line.len < 2 || line.ptr[line.len - 2] != '\r') {
        return sdci_http_fail(http, SDC_ERR_HTTP, "a line of the head does not end in CRLF");
    }
    return SDC_OK;
}

/* Most heads come in one piece: then a field is read where it is, when the byte behind it shows
   that no fold follows. False: it has to go through `line`. */
static bool sdci_http_line_in_place(sdc_http *http, sdci_str line, bool has_next, char next)
{
    bool is_whole = http->state == SDCI_HTTP_STATUS_LINE || line.len == 2 ||
                    (has_next && !sdci_http_is_fold(next));

    if (http->line.len > 0 || !is_whole) {
        return false;
    }
    if (sdci_http_check_start(http, line) == SDC_OK && sdci_http_check_end(http, line) == SDC_OK) {
        line.len -= 2;
        if (sdci_http_line_done(http, line)) {
            (void)sdci_http_field(http, line);
        }
    }
    return true;
}

/* Through `line`: a piece of a line, up to its LF where that is there. */
static void sdci_http_line_piece(sdc_http *http, sdci_str piece, bool has_end)
{
    if (piece.len == 0) {
        return;
    }
    sdci_put(&http->line, piece.ptr, piece.len);
    if (http->line.err != SDC_OK) {
        (void)sdci_http_fail(http, http->line.err, NULL);
        return;
    }
    sdci_str line = sdci_buf_from(&http->line, http->line_at);
    if (sdci_http_check_start(http, line) != SDC_OK || !has_end ||
        sdci_http_check_end(http, line) != SDC_OK) {
        return;
    }
    http->line.len -= 2;
    line.len -= 2;
    if (!sdci_http_line_done(http, line)) {
        sdci_buf_clear(&http->line);
        return;
    }
    http->field_at = http->line_at == 0 ? http->at : http->field_at;
    http->line_at = http->line.len;
}

/* Takes bytes up to the end of one line, or up to the limit. */
static size_t sdci_http_head(sdc_http *http, const char *bytes, size_t len)
{
    if (http->line_at > 0 && http->line.len == http->line_at && !sdci_http_is_fold(bytes[0]) &&
        sdci_http_flush_field(http) != SDC_OK) {
        return 0;
    }
    size_t room = (size_t)sdci_min(len, http->head_max - http->head_bytes);
    const char *lf = room > 0 ? (const char *)memchr(bytes, '\n', room) : NULL;
    size_t taken = lf != NULL ? (size_t)(lf - bytes) + 1 : room;
    sdci_str line = sdci_slice(bytes, taken);
    char next = taken < len ? bytes[taken] : '\0';

    http->head_bytes += taken;
    if (lf == NULL || !sdci_http_line_in_place(http, line, taken < len, next)) {
        sdci_http_line_piece(http, line, lf != NULL);
    }
    if (lf == NULL && room < len) {
        http->at = http->offset + room;
        (void)sdci_http_fail(http, SDC_ERR_LIMIT, "the head is longer than max_head_bytes");
    }
    return taken;
}

/* -- The body -- */

static void sdci_http_chunk_size_done(sdc_http *http)
{
    http->state = SDCI_HTTP_CHUNK_DATA;
    if (http->left == 0) {
        http->state = SDCI_HTTP_TRAILERS;
    } else if (http->left > http->body_max - http->body_bytes) {
        (void)sdci_http_fail(http, SDC_ERR_LIMIT, "the body is longer than max_body_bytes");
    }
    http->num_digits = 0;
}

static void sdci_http_chunk_size(sdc_http *http, char c)
{
    int digit = sdci_hex(c);

    if (digit >= 0 && http->num_digits < 15) {
        http->left = http->left * 16 + (uint64_t)digit;
        http->num_digits++;
    } else if (digit >= 0 || http->num_digits == 0) {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a malformed chunk size");
    } else if (c == '\r') {
        http->state = SDCI_HTTP_CHUNK_SIZE_LF;
    } else if (c == ';' || c == ' ' || c == '\t') {
        http->state = SDCI_HTTP_CHUNK_EXTENSION;
    } else {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a malformed chunk size");
    }
}

/* Extensions mean nothing here (RFC 9112, 7.1.1); they count as head, so that they end. */
static void sdci_http_chunk_extension(sdc_http *http, char c)
{
    if (c == '\r') {
        http->state = SDCI_HTTP_CHUNK_SIZE_LF;
    } else if (sdci_is_control(c) && c != '\t') {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a malformed chunk extension");
    } else if (http->head_bytes == http->head_max) {
        (void)sdci_http_fail(http, SDC_ERR_LIMIT, "the head is longer than max_head_bytes");
    } else {
        http->head_bytes++;
    }
}

/* One byte of what stands round the chunks. */
static void sdci_http_chunk_byte(sdc_http *http, char c)
{
    bool is_cr = http->state == SDCI_HTTP_CHUNK_END_CR;

    if (http->state == SDCI_HTTP_CHUNK_SIZE) {
        sdci_http_chunk_size(http, c);
    } else if (http->state == SDCI_HTTP_CHUNK_EXTENSION) {
        sdci_http_chunk_extension(http, c);
    } else if (c != (is_cr ? '\r' : '\n')) {
        (void)sdci_http_fail(http, SDC_ERR_HTTP, "a chunk does not end in CRLF");
    } else if (is_cr) {
        http->state = SDCI_HTTP_CHUNK_END_LF;
    } else if (http->state == SDCI_HTTP_CHUNK_SIZE_LF) {
        sdci_http_chunk_size_done(http);
    } else {
        http->state = SDCI_HTTP_CHUNK_SIZE;
        http->left = 0;
    }
}

static void sdci_http_body(sdc_http *http, const char *bytes, size_t len)
{
    http->body_bytes += len;
    if (http->handler.on_body != NULL) {
        sdc_err err = http->handler.on_body(http->handler.user, bytes, len);
        if (err != SDC_OK) {
            (void)sdci_http_fail(http, err, NULL);
        }
    }
}

/* A piece of a body or chunk whose length is known. */
static size_t sdci_http_counted(sdc_http *http, const char *bytes, size_t len)
{
    size_t taken = (size_t)sdci_min(len, http->left);

    http->left -= taken;
    sdci_http_body(http, bytes, taken);
    if (http->left == 0) {
        http->state = http->state == SDCI_HTTP_CHUNK_DATA ? SDCI_HTTP_CHUNK_END_CR
                                                          : SDCI_HTTP_COMPLETE;
    }
    return taken;
}

static size_t sdci_http_until_close(sdc_http *http, const char *bytes, size_t len)
{
    size_t taken = (size_t)sdci_min(len, http->body_max - http->body_bytes);

    if (taken > 0) {
        sdci_http_body(http, bytes, taken);
    }
    if (taken < len) {
        http->at = http->offset + taken;
        (void)sdci_http_fail(http, SDC_ERR_LIMIT, "the body is longer than max_body_bytes");
    }
    return taken;
}

/* -- The decoder -- */

/* Answers how many bytes it took: at least one where there is no fault. */
static size_t sdci_http_some(sdc_http *http, const char *bytes, size_t len)
{
    switch (http->state) {
    case SDCI_HTTP_STATUS_LINE:
    case SDCI_HTTP_FIELDS:
    case SDCI_HTTP_TRAILERS:
        return sdci_http_head(http, bytes, len);
    case SDCI_HTTP_LENGTH_BODY:
    case SDCI_HTTP_CHUNK_DATA:
        return sdci_http_counted(http, bytes, len);
    case SDCI_HTTP_CLOSE_BODY:
        return sdci_http_until_close(http, bytes, len);
    case SDCI_HTTP_CHUNK_SIZE:
    case SDCI_HTTP_CHUNK_EXTENSION:
    case SDCI_HTTP_CHUNK_SIZE_LF:
    case SDCI_HTTP_CHUNK_END_CR:
    case SDCI_HTTP_CHUNK_END_LF:
        sdci_http_chunk_byte(http, bytes[0]);
        return 1;
    case SDCI_HTTP_COMPLETE:
        break;
    }
    return 0;
}

sdc_err sdc_http_feed(sdc_http *http, const void *bytes, size_t len, size_t *used)
{
    const char *start = (const char *)bytes;
    size_t done = 0;

    *used = 0;
    while (done < len && http->fault.code == SDC_OK && http->state != SDCI_HTTP_COMPLETE) {
        if (http->line.len == http->line_at) {
            http->at = http->offset;
        }
        size_t taken = sdci_http_some(http, start + done, len - done);
        http->offset += taken;
        done += taken;
    }
    *used = done;
    return http->fault.code;
}

sdc_err sdc_http_finish(sdc_http *http)
{
    if (http->fault.code != SDC_OK) {
        return http->fault.code;
    }
    if (http->state == SDCI_HTTP_CLOSE_BODY) {
        http->state = SDCI_HTTP_COMPLETE;
        http->says_close = true;
    }
    if (http->state != SDCI_HTTP_COMPLETE) {
        http->at = http->offset;
        return sdci_http_fail(http, SDC_ERR_IO, "the connection ended before the answer did");
    }
    return SDC_OK;
}

bool sdc_http_is_complete(const sdc_http *http)
{
    return http->state == SDCI_HTTP_COMPLETE && http->fault.code == SDC_OK;
}

bool sdc_http_keeps_alive(const sdc_http *http)
{
    return sdc_http_is_complete(http) && !http->says_close &&
           (!http->is_1_0 || http->says_keep_alive);
}

void sdc_http_error(const sdc_http *http, sdc_error *out)
{
    sdci_fault_tell(&http->fault, "HTTP", out);
    if (out != NULL) {
        out->http_status = http->status >= 200 ? http->status : 0;
    }
}

void sdc_http_reset(sdc_http *http)
{
    sdci_http_reset(http);
}

sdc_err sdc_http_create(const sdc_allocator *allocator, const sdc_http_handler *handler,
                        sdc_http **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);

    *out = NULL;
    if (handler == NULL) {
        return SDC_ERR_ARG;
    }
    sdc_http *http = (sdc_http *)sdci_new(&own, sizeof *http);
    if (http == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_http_init(http, &http->own, handler, SDCI_HTTP_HEAD_MAX, UINT64_MAX);
    http->own = own;
    *out = http;
    return SDC_OK;
}

void sdc_http_destroy(sdc_http *http)
{
    if (http != NULL) {
        sdc_allocator own = http->own;
        sdci_http_deinit(http);
        sdci_free(&own, http, sizeof *http);
    }
}

/* -- Dates -- */

static uint64_t sdci_days_before_year(uint64_t year)
{
    year--;
    return year * 365 + year / 4 - year / 100 + year / 400;
}

/* Seconds since 1970 of "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7), in which nothing but the
   order counts here. 0: no such date; the two forms of old are not read. */
static uint64_t sdci_parse_date(sdci_str text)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const uint16_t before[] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 };
    static const uint8_t at[] = { 5, 12, 17, 20, 23 };
    uint64_t n[5];
    uint64_t month = 0;

    if (text.len != 29 || memcmp(text.ptr + 25, " GMT", 4) != 0) {
        return 0;
    }
    for (size_t i = 0; i < 5; i++) {
        if (!sdci_parse_u64(sdci_slice(text.ptr + at[i], i == 1 ? 4 : 2), 9999, &n[i])) {
            return 0;
        }
    }
    while (month < 12 && memcmp(months + 3 * month, text.ptr + 8, 3) != 0) {
        month++;
    }
    if (month == 12 || n[0] == 0 || n[1] < 1970) {
        return 0;
    }
    bool is_leap = (n[1] % 4 == 0 && n[1] % 100 != 0) || n[1] % 400 == 0;
    uint64_t days = sdci_days_before_year(n[1]) - sdci_days_before_year(1970) + before[month] +
                    n[0] + (is_leap && month > 1 ? 1 : 0) - 1;
    return ((days * 24 + n[2]) * 60 + n[3]) * 60 + n[4];
}

/* ---- io ------------------------------------------------------- [sdc:io] --
   The outside world by POSIX: the only section that makes system calls, but for
   the thin ones in [sdc:platform]. Each function is one member of sdc_io.
   Streams and wakers are descriptors packed into a pointer, so that nothing here
   needs memory.
   ------------------------------------------------------------------------- */

/* What went wrong, in words that depend on no locale. */
static const char *sdci_errno_text(int code)
{
    switch (code) {
    case ECONNREFUSED: return "connection refused";
    case ECONNRESET:   return "connection reset by the peer";
    case EPIPE:        return "connection closed by the peer";
    case ETIMEDOUT:    return "the peer does not answer";
    case EHOSTUNREACH: return "no route to the host";
    case ENETUNREACH:  return "the network is unreachable";
    case EADDRNOTAVAIL: return "no local address or port left";
    case EACCES:
    case EPERM:        return "permission denied";
    case ENOENT:       return "no such file or socket";
    case EMFILE:       return "this process has too many open descriptors";
    case ENFILE:       return "the system has too many open descriptors";
    case ENOMEM:
    case ENOBUFS:      return "the system is out of memory";
    default:           return "system error";
    }
}

static sdc_err sdci_fail_os(sdc_error *error, sdc_err code, const char *doing, int os_errno)
{
    (void)sdci_fail(error, code, "%s: %s (errno %d)", doing, sdci_errno_text(os_errno), os_errno);
    if (error != NULL) {
        error->os_errno = os_errno;
    }
    return code;
}

static uint64_t sdci_posix_now_ms(void *user)
{
    struct timespec now;

    (void)user;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int sdci_open_file(const char *path)
{
    int fd;

    do {
        fd = open(path, O_RDONLY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static ssize_t sdci_read_fd(int fd, void *bytes, size_t max)
{
    ssize_t got;

    do {
        got = read(fd, bytes, max);
    } while (got < 0 && errno == EINTR);
    return got;
}

/* Asked once for each object, which then goes on by itself. The clock stands in where there is no
   random device: two processes still differ. */
static uint64_t sdci_posix_random(void *user)
{
    uint64_t bits = 0;
    int fd = sdci_open_file("/dev/urandom");
    ssize_t got = fd >= 0 ? sdci_read_fd(fd, &bits, sizeof bits) : -1;
    struct timespec now;

    (void)user;
    if (fd >= 0) {
        (void)close(fd);
    }
    if (got != (ssize_t)sizeof bits) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        bits = (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec ^ (uint64_t)getpid() << 16;
    }
    return bits;
}

/* -- Names -- */

static size_t sdci_collect_ips(const struct addrinfo *list, sdc_ip *ips, size_t max)
{
    size_t num = 0;

    for (; list != NULL && num < max; list = list->ai_next) {
        if (getnameinfo(list->ai_addr, list->ai_addrlen, ips[num].text, sizeof ips[num].text, NULL,
                        0, NI_NUMERICHOST) == 0) {
            num++;
        }
    }
    return num;
}

static sdc_err sdci_posix_resolve(void *user, sdc_task *task, const char *host, bool may_block,
                                  void **op, sdc_ip *ips, size_t max_ips, size_t *num_ips,
                                  sdc_ready *until, sdc_error *error)
{
    struct addrinfo hints;
    struct addrinfo *list = NULL;

    (void)user;
    (void)task;
    (void)op;
    (void)until;
    if (!may_block) {
        return sdci_fail(error, SDC_ERR_RESOLVE, "a name needs a step that may block, or a resolve "
                         "hook; or give the address as a number");
    }
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    int failure = getaddrinfo(host, NULL, &hints, &list);
    if (failure != 0) {
        return sdci_fail(error, SDC_ERR_RESOLVE, "the resolver says %s", gai_strerror(failure));
    }
    *num_ips = sdci_collect_ips(list, ips, max_ips);
    freeaddrinfo(list);
    return *num_ips > 0 ? SDC_OK
                        : sdci_fail(error, SDC_ERR_RESOLVE, "the name has no address");
}

static void sdci_posix_resolve_end(void *user, void *op)
{
    (void)user;
    (void)op;
}

/* -- Streams -- */

/* A descriptor as a pointer that is never NULL. */
static void *sdci_fd_to_stream(int fd)
{
    return (void *)((uintptr_t)fd + 1);
}

static int sdci_stream_to_fd(const void *stream)
{
    return (int)((uintptr_t)stream - 1);
}

static bool sdci_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL, 0);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
           fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

/* Starts to connect. Answers the descriptor, or -1 with errno set. */
static int sdci_connect(int family, const struct sockaddr *address, socklen_t len)
{
    int fd = sdci_socket(family);

    if (fd < 0) {
        return -1;
    }
    if (!sdci_set_nonblocking(fd) ||
        (connect(fd, address, len) != 0 && errno != EINPROGRESS && errno != EINTR)) {
        int code = errno;
        (void)close(fd);
        errno = code;
        return -1;
    }
    return fd;
}

static sdc_err sdci_connect_unix(const char *path, void **stream, sdc_error *error)
{
    struct sockaddr_un address;

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.sun_path) {
        return sdci_fail(error, SDC_ERR_CONNECT, "the path of the unix socket is too long");
    }
    memcpy(address.sun_path, path, strlen(path));
    int fd = sdci_connect(AF_UNIX, (const struct sockaddr *)(const void *)&address,
                          (socklen_t)sizeof address);
    if (fd < 0) {
        return sdci_fail_os(error, SDC_ERR_CONNECT, path, errno);
    }
    *stream = sdci_fd_to_stream(fd);
    return SDC_OK;
}

/* getaddrinfo with two numbers asks nobody; it is here because it knows scopes ("%eth0"). */
static sdc_err sdci_connect_ip(const char *ip, uint16_t port, void **stream, sdc_error *error)
{
    struct addrinfo hints;
    struct addrinfo *list = NULL;
    char service[8];
    int fd = -1;

    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    (void)snprintf(service, sizeof service, "%u", (unsigned)port);
    int failure = getaddrinfo(ip, service, &hints, &list);
    if (failure != 0) {
        return sdci_fail(error, SDC_ERR_CONNECT, "%.80s is not a numeric address", ip);
    }
    fd = sdci_connect(list->ai_family, list->ai_addr, list->ai_addrlen);
    int code = errno;
    freeaddrinfo(list);
    if (fd < 0) {
        return sdci_fail_os(error, SDC_ERR_CONNECT, "connect", code);
    }
    sdci_socket_tune(fd);
    *stream = sdci_fd_to_stream(fd);
    return SDC_OK;
}

static sdc_err sdci_posix_stream_open(void *user, const sdc_target *target, void **stream,
                                      sdc_ready *until, sdc_error *error)
{
    sdc_err err = SDC_OK;
    int code = 0;
    socklen_t len = sizeof code;

    (void)user;
    if (*stream == NULL) {
        err = target->path[0] != '\0' ? sdci_connect_unix(target->path, stream, error)
                                      : sdci_connect_ip(target->ip, target->port, stream, error);
    }
    if (err != SDC_OK) {
        return err;
    }
    struct pollfd ready;
    ready.fd = sdci_stream_to_fd(*stream);
    ready.events = POLLOUT;
    ready.revents = 0;
    if (poll(&ready, 1, 0) <= 0) {
        until->fd = ready.fd;
        until->writable = true;
        return SDC_AGAIN;
    }
    if (getsockopt(ready.fd, SOL_SOCKET, SO_ERROR, &code, &len) != 0) {
        code = errno;
    }
    if (code == ECONNRESET) {
        return SDC_OK;      /* it had accepted: what it said before is still to be read */
    }
    return code == 0 ? SDC_OK : sdci_fail_os(error, SDC_ERR_CONNECT, "connect", code);
}

static bool sdci_would_block(int code)
{
    return code == EAGAIN || code == EWOULDBLOCK;
}

static sdc_err sdci_posix_stream_read(void *user, void *stream, void *bytes, size_t max,
                                      size_t *len, sdc_ready *until, sdc_error *error)
{
    int fd = sdci_stream_to_fd(stream);
    ssize_t got;

    (void)user;
    do {
        got = recv(fd, bytes, max, 0);
    } while (got < 0 && errno == EINTR);
    if (got >= 0) {
        *len = (size_t)got;
        return SDC_OK;
    }
    if (sdci_would_block(errno)) {
        until->fd = fd;
        until->readable = true;
        return SDC_AGAIN;
    }
    return sdci_fail_os(error, SDC_ERR_IO, "receive", errno);
}

static sdc_err sdci_posix_stream_write(void *user, void *stream, const void *bytes, size_t len,
                                       size_t *written, sdc_ready *until, sdc_error *error)
{
    int fd = sdci_stream_to_fd(stream);
    ssize_t put;

    (void)user;
    do {
        put = send(fd, bytes, len, SDCI_SEND_FLAGS);
    } while (put < 0 && errno == EINTR);
    if (put >= 0) {
        *written = (size_t)put;
        return SDC_OK;
    }
    if (sdci_would_block(errno)) {
        until->fd = fd;
        until->writable = true;
        return SDC_AGAIN;
    }
    return sdci_fail_os(error, SDC_ERR_IO, "send", errno);
}

static void sdci_posix_stream_close(void *user, void *stream)
{
    (void)user;
    (void)close(sdci_stream_to_fd(stream));
}

/* -- Waiting -- */

#define SDCI_WAKER_BITS (sizeof(uintptr_t) * 4)

/* Where one descriptor cannot be both ends. */
static bool sdci_open_pipe(int ends[2])
{
    if (pipe(ends) != 0) {
        return false;
    }
    if (!sdci_set_nonblocking(ends[0]) || !sdci_set_nonblocking(ends[1])) {
        int code = errno;
        (void)close(ends[0]);
        (void)close(ends[1]);
        errno = code;
        return false;
    }
    return true;
}

/* Both ends in one pointer; NULL where they do not fit. */
static void *sdci_waker_of(const int ends[2])
{
    uintptr_t limit = ((uintptr_t)1 << SDCI_WAKER_BITS) - 1;

    if ((uintptr_t)ends[0] >= limit || (uintptr_t)ends[1] >= limit) {
        return NULL;
    }
    return (void *)(((uintptr_t)ends[0] + 1) | ((uintptr_t)ends[1] + 1) << SDCI_WAKER_BITS);
}

static void sdci_close_ends(const int ends[2])
{
    (void)close(ends[0]);
    if (ends[1] != ends[0]) {
        (void)close(ends[1]);
    }
}

static sdc_err sdci_posix_waker_create(void *user, void **waker, sdc_error *error)
{
    int one = sdci_open_wakes();
    int ends[2] = { one, one };

    (void)user;
    if (one < 0 && !sdci_open_pipe(ends)) {
        return sdci_fail_os(error, SDC_ERR_IO, "pipe", errno);
    }
    *waker = sdci_waker_of(ends);
    if (*waker == NULL) {
        sdci_close_ends(ends);
        return sdci_fail_os(error, SDC_ERR_IO, "pipe", EMFILE);
    }
    return SDC_OK;
}

static int sdci_waker_read_end(const void *waker)
{
    uintptr_t mask = ((uintptr_t)1 << SDCI_WAKER_BITS) - 1;

    return (int)(((uintptr_t)waker & mask) - 1);
}

static int sdci_waker_write_end(const void *waker)
{
    return (int)(((uintptr_t)waker >> SDCI_WAKER_BITS) - 1);
}

/* A full pipe is a pending wake already. Signal handlers come here too, so errno is kept. */
static void sdci_posix_waker_wake(void *user, void *waker)
{
    int saved = errno;
    uint64_t one = 1;           /* as an eventfd wants it */

    (void)user;
    while (write(sdci_waker_write_end(waker), &one, sizeof one) < 0 && errno == EINTR) {
        continue;
    }
    errno = saved;
}

static void sdci_posix_waker_destroy(void *user, void *waker)
{
    int ends[2] = { sdci_waker_read_end(waker), sdci_waker_write_end(waker) };

    (void)user;
    sdci_close_ends(ends);
}

static void sdci_drain(int fd)
{
    char bytes[64];

    while (sdci_read_fd(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes) {
        continue;
    }
}

static sdc_err sdci_posix_wait(void *user, void *waker, const sdc_wants *wants, sdc_error *error)
{
    struct pollfd fds[2];
    nfds_t num = 0;

    (void)user;
    memset(fds, 0, sizeof fds);
    if (waker != NULL) {
        fds[num].fd = sdci_waker_read_end(waker);
        fds[num].events = POLLIN;
        num++;
    }
    if (wants->fd >= 0) {
        fds[num].fd = wants->fd;
        fds[num].events = (short)((wants->readable ? POLLIN : 0) | (wants->writable ? POLLOUT : 0));
        num++;
    }
    if (poll(fds, num, wants->timeout_ms) < 0 && errno != EINTR) {
        return sdci_fail_os(error, SDC_ERR_IO, "poll", errno);
    }
    if (waker != NULL && fds[0].revents != 0) {
        sdci_drain(fds[0].fd);
    }
    return SDC_OK;
}

/* -- Files -- */

static sdc_err sdci_posix_read_file(void *user, const char *path, char *text, size_t max,
                                    size_t *len, sdc_error *error)
{
    char more;
    ssize_t got = 0;
    size_t total = 0;

    (void)user;
    int fd = sdci_open_file(path);
    if (fd < 0) {
        return sdci_fail_os(error, SDC_ERR_IO, "open", errno);
    }
    do {
        got = sdci_read_fd(fd, text + total, max - total);
        total += got > 0 ? (size_t)got : 0;
    } while (got > 0 && total < max);
    bool is_longer = got > 0 && sdci_read_fd(fd, &more, 1) > 0;
    int code = errno;
    (void)close(fd);
    if (got < 0) {
        return sdci_fail_os(error, SDC_ERR_IO, "read", code);
    }
    *len = total;
    return is_longer ? sdci_fail(error, SDC_ERR_LIMIT, "the file is too long") : SDC_OK;
}

static const sdc_io sdci_io_of_posix = {
    NULL, false, sdci_posix_now_ms, sdci_posix_random, sdci_posix_resolve, sdci_posix_resolve_end,
    sdci_posix_stream_open, sdci_posix_stream_read, sdci_posix_stream_write,
    sdci_posix_stream_close, sdci_posix_waker_create, sdci_posix_waker_wake,
    sdci_posix_waker_destroy, sdci_posix_wait, sdci_posix_read_file
};

const sdc_io *sdc_io_posix(void)
{
    return &sdci_io_of_posix;
}

/* The caller's table with POSIX's members where it has none. False: members that belong together
   were given in part. */
static bool sdci_io_complete(const sdc_io *given, sdc_io *out)
{
    const sdc_io *posix = &sdci_io_of_posix;

    *out = given != NULL ? *given : *posix;
    bool has_stream = out->stream_open != NULL;
    bool has_resolve = out->resolve != NULL;
    bool has_wait = out->wait != NULL;
    if (has_stream != (out->stream_read != NULL) || has_stream != (out->stream_write != NULL) ||
        has_stream != (out->stream_close != NULL) || has_resolve != (out->resolve_end != NULL) ||
        has_wait != (out->waker_create != NULL) || has_wait != (out->waker_wake != NULL) ||
        has_wait != (out->waker_destroy != NULL)) {
        return false;
    }
    out->now_ms = out->now_ms != NULL ? out->now_ms : posix->now_ms;
    out->random = out->random != NULL ? out->random : posix->random;
    out->read_file = out->read_file != NULL ? out->read_file : posix->read_file;
    if (!has_resolve) {
        out->resolve = posix->resolve;
        out->resolve_end = posix->resolve_end;
    }
    if (!has_stream) {
        out->stream_open = posix->stream_open;
        out->stream_read = posix->stream_read;
        out->stream_write = posix->stream_write;
        out->stream_close = posix->stream_close;
    }
    if (!has_wait) {
        out->wait = posix->wait;
        out->waker_create = posix->waker_create;
        out->waker_wake = posix->waker_wake;
        out->waker_destroy = posix->waker_destroy;
    }
    return true;
}

/* ---- call --------------------------------------------------- [sdc:call] --
   One HTTP exchange over a connection that is kept between exchanges. Two
   machines: the link brings a connection up, the call sends a request on it
   and feeds the answer to [sdc:http]. Both only ever do what does not block,
   and say in `until` what to wait for. A deadline counts when there is nothing
   left to do, so that an answer which is already here is never thrown away.
   ------------------------------------------------------------------------- */

#define SDCI_AGENTS_MAX 32u
#define SDCI_IPS_MAX  8
#define SDCI_RETRY_MS 500u
#define SDCI_REQUEST_KEPT 512u

/* An agent: owned by the client, the same for all its links. */
typedef struct sdci_agent {
    char *host;                 /* without brackets */
    char *path;                 /* of a unix socket, else "" */
    char *prefix;               /* before every path */
    char *name;                 /* host and port as a Host field and a message have it */
    uint16_t port;
    bool tls, is_numeric;
} sdci_agent;

/* CLOSED --start--> RESOLVING --addresses--> OPENING --connected--> OPEN
      ^                 |                     |   ^                   |
      |                 '--- no address ---.  |   '-- next address    |
      '--- the last one failed, or close --+--'----- closed ----------'     */
typedef enum sdci_link_state {
    SDCI_LINK_CLOSED,           /* nothing open; ends when an exchange needs it       */
    SDCI_LINK_RESOLVING,        /* a name is being looked up; ends with an answer     */
    SDCI_LINK_OPENING,          /* one numeric address is tried; ends by its deadline */
    SDCI_LINK_OPEN              /* bytes can flow; ends when either side closes       */
} sdci_link_state;

typedef struct sdci_link {
    const sdc_io *io;
    const sdc_allocator *allocator;
    const sdci_agent *agents;           /* all of them, in the order of the client's address */
    const sdci_agent *agent;            /* the one in use */
    size_t num_agents;
    sdc_task *task;                     /* for resolve; NULL in a one-shot call */
    void (*before_close)(void *user);   /* a descriptor that was told is about to go */
    void *user;
    void *op;                           /* of resolve */
    void *stream;
    sdc_ip *ips;                        /* the newest answer for the name, kept */
    size_t num_ips, next_ip;            /* num_ips is also how many there is memory for */
    uint64_t deadline_ms;               /* of RESOLVING and of each address in OPENING */
    sdc_ready until;                    /* what the newest SDC_AGAIN waits for */
    uint32_t connect_timeout_ms;
    uint32_t serial;                    /* counts descriptors */
    uint64_t num_connects;
    unsigned num_silent;                /* new connections in a row closed without a byte */
    sdci_link_state state;
} sdci_link;

static void sdci_ready_none(sdc_ready *until)
{
    until->fd = -1;
    until->readable = false;
    until->writable = false;
    until->at_ms = SDCI_FOREVER;
}

static void sdci_link_enter(sdci_link *link, sdci_link_state next, uint64_t now_ms)
{
    switch (next) {
    case SDCI_LINK_RESOLVING:
    case SDCI_LINK_OPENING:
        link->deadline_ms = sdci_after(now_ms, link->connect_timeout_ms);
        link->serial++;
        break;
    case SDCI_LINK_CLOSED:
    case SDCI_LINK_OPEN:
        link->deadline_ms = SDCI_FOREVER;
        break;
    }
    link->state = next;
}

static void sdci_link_init(sdci_link *link, const sdc_io *io, const sdc_allocator *allocator,
                           const sdci_agent *agents, size_t num_agents,
                           uint32_t connect_timeout_ms)
{
    memset(link, 0, sizeof *link);
    link->io = io;
    link->allocator = allocator;
    link->agents = agents;
    link->agent = agents;
    link->num_agents = num_agents;
    link->connect_timeout_ms = connect_timeout_ms;
    sdci_ready_none(&link->until);
    sdci_link_enter(link, SDCI_LINK_CLOSED, 0);
}

/* Gives back what the state holds outside: the lookup or the stream. */
static void sdci_link_drop(sdci_link *link)
{
    if (link->before_close != NULL && (link->op != NULL || link->stream != NULL)) {
        link->before_close(link->user);
    }
    if (link->op != NULL) {
        link->io->resolve_end(link->io->user, link->op);
        link->op = NULL;
    }
    if (link->stream != NULL) {
        link->io->stream_close(link->io->user, link->stream);
        link->stream = NULL;
    }
    sdci_ready_none(&link->until);
}

static void sdci_link_close(sdci_link *link)
{
    sdci_link_drop(link);
    sdci_link_enter(link, SDCI_LINK_CLOSED, 0);
}

static void sdci_link_deinit(sdci_link *link)
{
    sdci_link_close(link);
    sdci_free(link->allocator, link->ips, link->num_ips * sizeof *link->ips);
    link->ips = NULL;
    link->num_ips = 0;
}

static size_t sdci_link_which(const sdci_link *link)
{
    return (size_t)(link->agent - link->agents);
}

/* Goes to that agent from now on: nothing of the one before is kept. */
static void sdci_link_use(sdci_link *link, size_t which)
{
    SDC_ASSERT(which < link->num_agents);
    if (which != sdci_link_which(link)) {
        sdci_link_deinit(link);
        link->agent = &link->agents[which];
        link->num_silent = 0;
    }
}

/* -- Resolving -- */

static sdc_err sdci_link_set_ips(sdci_link *link, const sdc_ip *ips, size_t num, sdc_error *error)
{
    size_t old_size = link->num_ips * sizeof *ips;
    sdc_ip *room = link->ips;

    if (num != link->num_ips) {
        room = (sdc_ip *)sdci_resize(link->allocator, link->ips, old_size, num * sizeof *ips);
    }
    if (room == NULL) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    memcpy(room, ips, num * sizeof *ips);
    link->ips = room;
    link->num_ips = num;
    return SDC_OK;
}

static void sdci_ip_set(sdc_ip *ip, const char *text)
{
    (void)snprintf(ip->text, sizeof ip->text, "%s", text);
}

/* What needs no resolver: unix paths, numbers, and localhost (RFC 6761, 6.3). Answers how many
   addresses these are, 0 for other names. */
static size_t sdci_agent_ips(const sdci_agent *agent, sdc_ip ips[2])
{
    if (agent->path[0] != '\0' || agent->is_numeric) {
        sdci_ip_set(&ips[0], agent->path[0] != '\0' ? "" : agent->host);
        return 1;
    }
    if (sdci_equal_nocase(sdci_str_of(agent->host), sdci_str_of("localhost"))) {
        sdci_ip_set(&ips[0], "127.0.0.1");
        sdci_ip_set(&ips[1], "::1");
        return 2;
    }
    return 0;
}

/* Asks the hook. Where a step may not block and the hook would have to, the addresses it gave
   before are used again. */
static sdc_err sdci_link_ask_ips(sdci_link *link, bool may_block, sdc_error *error)
{
    sdc_ip ips[SDCI_IPS_MAX];
    size_t num = 0;

    memset(ips, 0, sizeof ips);
    sdci_ready_none(&link->until);
    sdc_err err = link->io->resolve(link->io->user, link->task, link->agent->host, may_block,
                                    &link->op, ips, SDCI_IPS_MAX, &num, &link->until, error);
    if (err == SDC_AGAIN) {
        return SDC_AGAIN;
    }
    if (err == SDC_OK && num > 0) {
        err = sdci_link_set_ips(link, ips, (size_t)sdci_min(num, SDCI_IPS_MAX), error);
    } else if (err == SDC_OK) {
        err = sdci_fail(error, SDC_ERR_RESOLVE, "the name has no address");
    } else if (err == SDC_ERR_RESOLVE && !may_block && link->num_ips > 0) {
        err = SDC_OK;
    }
    sdci_link_drop(link);
    return err;
}

static sdc_err sdci_link_resolve(sdci_link *link, bool may_block, sdc_error *error)
{
    sdc_ip known[2];
    size_t num_known = sdci_agent_ips(link->agent, known);

    link->next_ip = 0;
    return num_known > 0 ? sdci_link_set_ips(link, known, num_known, error)
                         : sdci_link_ask_ips(link, may_block, error);
}

/* -- Opening -- */

static sdc_err sdci_link_open(sdci_link *link, sdc_error *error)
{
    sdc_target target;

    target.host = link->agent->path[0] != '\0' ? "" : link->agent->host;
    target.ip = link->ips[link->next_ip].text;
    target.path = link->agent->path;
    target.port = link->agent->port;
    target.tls = link->agent->tls;
    sdci_ready_none(&link->until);
    return link->io->stream_open(link->io->user, &target, &link->stream, &link->until, error);
}

/* Says which agent and address a failure is about. */
static void sdci_link_blame(const sdci_link *link, sdc_err err, sdc_error *error)
{
    char why[sizeof error->message];
    const char *ip = link->ips != NULL && link->next_ip < link->num_ips
                         ? link->ips[link->next_ip].text : "";
    bool is_named = ip[0] != '\0' && strcmp(ip, link->agent->host) != 0;

    sdci_error_settle(error, err);
    (void)snprintf(why, sizeof why, "%s", error->message);
    (void)snprintf(error->message, sizeof error->message, "%.70s%s%.46s: %.120s",
                   link->agent->name, is_named ? " at " : "", is_named ? ip : "", why);
    sdci_make_printable(error->message);
}

/* This address failed. True: another one is left, and it is tried from now on. */
static bool sdci_link_next_address(sdci_link *link, uint64_t now_ms)
{
    sdci_link_drop(link);
    link->next_ip++;
    if (link->next_ip >= link->num_ips) {
        return false;
    }
    sdci_link_enter(link, SDCI_LINK_OPENING, now_ms);
    return true;
}

/* Brings the connection up. SDC_OK: open. SDC_AGAIN: see `until` and the deadline. Else the last
   address failed, and *error says how. */
static sdc_err sdci_link_run(sdci_link *link, uint64_t now_ms, bool may_block, sdc_error *error)
{
    sdc_err err = SDC_OK;

    if (link->state == SDCI_LINK_CLOSED) {
        sdci_link_enter(link, SDCI_LINK_RESOLVING, now_ms);
    }
    if (link->state == SDCI_LINK_RESOLVING) {
        err = sdci_link_resolve(link, may_block, error);
        if (err == SDC_OK) {
            sdci_link_enter(link, SDCI_LINK_OPENING, now_ms);
        }
    }
    while (link->state == SDCI_LINK_OPENING) {
        err = sdci_link_open(link, error);
        if (err == SDC_AGAIN && now_ms >= link->deadline_ms) {
            err = sdci_fail(error, SDC_ERR_TIMEOUT, "not connected within %u ms",
                            (unsigned)link->connect_timeout_ms);
        }
        if (err == SDC_OK) {
            link->num_connects++;
            sdci_link_enter(link, SDCI_LINK_OPEN, now_ms);
        } else if (err == SDC_AGAIN || !sdci_link_next_address(link, now_ms)) {
            break;
        }
    }
    if (err == SDC_AGAIN && link->state == SDCI_LINK_RESOLVING && now_ms >= link->deadline_ms) {
        err = sdci_fail(error, SDC_ERR_TIMEOUT, "the name was not resolved within %u ms",
                        (unsigned)link->connect_timeout_ms);
    }
    if (err != SDC_OK && err != SDC_AGAIN) {
        sdci_link_blame(link, err, error);
        sdci_link_close(link);
    }
    return err;
}

/* -- The exchange -- */

/* IDLE --start--> CONNECTING --open--> SENDING --all sent--> RECEIVING --> IDLE
                      ^                    |                     |
                      '-- a kept connection died at once, before the first byte: once, on a new

   In IDLE a kept connection is watched for the peer's close.               */
typedef enum sdci_call_state {
    SDCI_CALL_IDLE,             /* no exchange; ends with a start                     */
    SDCI_CALL_CONNECTING,       /* the link is coming up; it has deadlines of its own */
    SDCI_CALL_SENDING,          /* the request goes out; an early answer is read too  */
    SDCI_CALL_RECEIVING         /* ends with the answer, or at the deadline           */
} sdci_call_state;

typedef struct sdci_call {
    sdci_link link;
    sdc_http http;
    sdci_buf request;           /* holds the token: wiped */
    size_t sent;
    uint64_t deadline_ms;       /* of SENDING and RECEIVING together */
    uint64_t retry_until_ms;    /* a kept connection that dies later was not dead before */
    uint64_t bytes_in, bytes_out;
    uint32_t timeout_ms;
    sdci_call_state state;
    bool may_retry;             /* the connection was used before and no byte has come since */
    bool is_fresh;              /* the connection was made for this exchange */
    bool has_more;              /* stopped by its share of work, not for want of bytes */
} sdci_call;

/* What a run works with: lent for one step. */
typedef struct sdci_share {
    char *bytes;                /* receive buffer */
    size_t max;
    size_t left;                /* of what this step may take in */
    sdci_gaps *gaps;            /* for a decoder, or NULL */
    sdc_entries **entries;      /* a decoder, NULL while it is out; or NULL */
    bool may_block;             /* resolve may */
} sdci_share;

static void sdci_call_enter(sdci_call *call, sdci_call_state next, uint64_t now_ms)
{
    switch (next) {
    case SDCI_CALL_IDLE:
    case SDCI_CALL_CONNECTING:
        call->deadline_ms = SDCI_FOREVER;
        break;
    case SDCI_CALL_SENDING:
        call->deadline_ms = sdci_after(now_ms, call->timeout_ms);
        call->retry_until_ms = now_ms + SDCI_RETRY_MS;
        break;
    case SDCI_CALL_RECEIVING:
        break;
    }
    call->state = next;
}

static void sdci_call_init(sdci_call *call, const sdc_allocator *allocator)
{
    memset(call, 0, sizeof *call);
    sdci_buf_init(&call->request, allocator, (size_t)16 << 20);
    sdci_buf_init(&call->http.line, allocator, 1);
    call->request.is_secret = true;
    sdci_call_enter(call, SDCI_CALL_IDLE, 0);
}

/* Ends the exchange, however it went. The memory of a request serves the next one too, since most
   are short and much alike. */
static void sdci_call_end(sdci_call *call)
{
    sdci_http_deinit(&call->http);
    if (call->request.cap <= SDCI_REQUEST_KEPT) {
        sdci_buf_clear(&call->request);
    } else {
        sdci_buf_deinit(&call->request);
    }
    call->has_more = false;
    sdci_call_enter(call, SDCI_CALL_IDLE, 0);
}

/* Ends the exchange and the connection with it. */
static void sdci_call_abort(sdci_call *call)
{
    sdci_link_close(&call->link);
    sdci_call_end(call);
}

static void sdci_call_deinit(sdci_call *call)
{
    sdci_link_deinit(&call->link);
    sdci_call_end(call);
    sdci_buf_deinit(&call->request);
}

/* Between exchanges: bytes or an end that nobody asked for mean that the connection is of no more
   use, and it is better to know that before the next request. */
static void sdci_call_watch(sdci_call *call)
{
    sdci_link *link = &call->link;
    char byte;
    size_t len = 0;
    sdc_error ignored;

    if (call->state != SDCI_CALL_IDLE || link->state != SDCI_LINK_OPEN) {
        return;
    }
    sdci_ready_none(&link->until);
    if (link->io->stream_read(link->io->user, link->stream, &byte, 1, &len, &link->until,
                              &ignored) != SDC_AGAIN) {
        sdci_link_close(link);
    }
}

/* Starts to send what `request` holds. The timeout counts from the moment of sending. */
static void sdci_call_start(sdci_call *call, const sdc_http_handler *handler, size_t head_max,
                            uint64_t body_max, uint32_t timeout_ms, uint64_t now_ms)
{
    SDC_ASSERT(call->state == SDCI_CALL_IDLE);
    sdci_call_watch(call);              /* what nobody asked for is no answer to this */
    sdci_http_deinit(&call->http);
    sdci_http_init(&call->http, call->link.allocator, handler, head_max, body_max);
    call->sent = 0;
    call->timeout_ms = timeout_ms;
    call->may_retry = call->link.state == SDCI_LINK_OPEN;
    call->is_fresh = !call->may_retry;
    sdci_call_enter(call, SDCI_CALL_CONNECTING, now_ms);
}

/* A kept connection that is dead before the first byte of the answer proves nothing about the
   request: the peer may have closed it long ago (RFC 9110, 9.2.2; all requests here are safe to
   repeat). One that dies while the agent holds the query does: the agent may be another one since.
   True: the request is repeated. */
static bool sdci_call_retries(sdci_call *call, uint64_t now_ms)
{
    if (!call->may_retry || now_ms > call->retry_until_ms) {
        return false;
    }
    call->may_retry = false;
    call->is_fresh = true;
    call->sent = 0;
    sdci_link_close(&call->link);
    sdci_call_enter(call, SDCI_CALL_CONNECTING, now_ms);
    return true;
}

/* Bytes of the answer. SDC_AGAIN: more are needed. */
static sdc_err sdci_call_take(sdci_call *call, const char *bytes, size_t len, sdc_error *error)
{
    size_t used = 0;

    call->may_retry = false;
    call->link.num_silent = 0;
    call->bytes_in += len;
    sdc_err err = sdc_http_feed(&call->http, bytes, len, &used);
    if (err != SDC_OK) {
        sdc_http_error(&call->http, error);
        return err;
    }
    if (!sdc_http_is_complete(&call->http)) {
        return SDC_AGAIN;
    }
    if (used < len || call->sent < call->request.len || !sdc_http_keeps_alive(&call->http)) {
        sdci_link_close(&call->link);
    }
    return SDC_OK;
}

/* The peer closed: the end of an answer without a length, or of the exchange. */
static sdc_err sdci_call_peer_closed(sdci_call *call, uint64_t now_ms, sdc_error *error)
{
    if (sdci_call_retries(call, now_ms)) {
        return SDC_AGAIN;
    }
    sdc_err err = sdc_http_finish(&call->http);
    if (err != SDC_OK) {
        sdc_http_error(&call->http, error);
    }
    if (err != SDC_OK && call->http.offset == 0) {
        err = sdci_fail(error, SDC_ERR_IO, "the agent closed the connection without an answer");
    }
    sdci_link_close(&call->link);
    return err;
}

/* What a read waits for; while a request goes out, what the write waits for stands beside it. */
static void sdci_call_wait_for(sdci_call *call, sdc_ready until)
{
    sdc_ready of_write = call->link.until;

    if (call->state == SDCI_CALL_SENDING && call->sent < call->request.len) {
        until.fd = until.fd >= 0 ? until.fd : of_write.fd;
        until.readable = until.readable || of_write.readable;
        until.writable = until.writable || of_write.writable;
        until.at_ms = sdci_min(until.at_ms, of_write.at_ms);
    }
    call->link.until = until;
}

/* Reads what is there. SDC_OK: the answer is whole. */
static sdc_err sdci_call_receive(sdci_call *call, sdci_share *share, uint64_t now_ms,
                                 sdc_error *error)
{
    sdci_link *link = &call->link;
    sdc_err err = SDC_AGAIN;

    while (err == SDC_AGAIN && link->state == SDCI_LINK_OPEN) {
        size_t len = 0;
        sdc_ready until;
        if (share->left == 0) {
            call->has_more = true;
            return SDC_AGAIN;
        }
        sdci_ready_none(&until);
        sdc_err got = link->io->stream_read(link->io->user, link->stream, share->bytes,
                                            (size_t)sdci_min(share->max, share->left), &len,
                                            &until, error);
        if (got == SDC_AGAIN) {
            sdci_call_wait_for(call, until);
            return SDC_AGAIN;
        }
        if (got != SDC_OK) {
            return sdci_call_retries(call, now_ms) ? SDC_AGAIN : got;
        }
        share->left -= len;
        err = len == 0 ? sdci_call_peer_closed(call, now_ms, error)
                       : sdci_call_take(call, share->bytes, len, error);
    }
    return err;
}

/* A write that fails is not yet the end: a busy agent answers 429 and closes before it has read
   the request, and that answer says more than the broken pipe. */
static sdc_err sdci_call_send(sdci_call *call, sdci_share *share, uint64_t now_ms,
                              sdc_error *error)
{
    sdci_link *link = &call->link;
    sdc_error of_write;

    sdci_error_clear(&of_write);
    while (call->sent < call->request.len) {
        size_t written = 0;
        sdci_ready_none(&link->until);
        sdc_err err = link->io->stream_write(link->io->user, link->stream,
                                             call->request.ptr + call->sent,
                                             call->request.len - call->sent, &written,
                                             &link->until, &of_write);
        if (err == SDC_AGAIN) {
            return sdci_call_receive(call, share, now_ms, error);
        }
        if (err != SDC_OK) {
            sdc_err got = sdci_call_receive(call, share, now_ms, error);
            if (got != SDC_AGAIN || call->state != SDCI_CALL_SENDING ||
                sdci_call_retries(call, now_ms)) {
                return got;
            }
            *error = of_write;
            return err;
        }
        if (written == 0) {
            return sdci_fail(error, SDC_ERR_IO, "the transport took nothing and did not say when");
        }
        call->sent += written;
        call->bytes_out += written;
    }
    sdci_call_enter(call, SDCI_CALL_RECEIVING, now_ms);
    return SDC_AGAIN;
}

/* One pass through the state; SDC_AGAIN with another state means that there is more to do. */
static sdc_err sdci_call_once(sdci_call *call, sdci_share *share, uint64_t now_ms,
                              sdc_error *error)
{
    sdc_err err = SDC_AGAIN;

    switch (call->state) {
    case SDCI_CALL_IDLE:
        break;
    case SDCI_CALL_CONNECTING:
        err = sdci_link_run(&call->link, now_ms, share->may_block, error);
        if (err == SDC_OK) {
            sdci_call_enter(call, SDCI_CALL_SENDING, now_ms);
            err = SDC_AGAIN;
        }
        break;
    case SDCI_CALL_SENDING:
        err = sdci_call_send(call, share, now_ms, error);
        break;
    case SDCI_CALL_RECEIVING:
        err = sdci_call_receive(call, share, now_ms, error);
        break;
    }
    return err;
}

/* The connection broke without a word. When it was new, and the one before it too, that is how an
   agent before 1.9 treats those beyond its limit; one alone may be an agent that has just died. */
static sdc_err sdci_call_silent(sdci_call *call, uint64_t now_ms, sdc_error *error)
{
    if (!call->is_fresh || now_ms > call->retry_until_ms) {
        return SDC_ERR_IO;
    }
    call->link.num_silent++;
    return call->link.num_silent < 2 ? SDC_ERR_IO
           : sdci_fail(error, SDC_ERR_BUSY, "new connections are closed without an answer: "
                       "its limit (http_max_conns_per_client) may be reached");
}

/* Moves the exchange on. SDC_OK: the answer is whole. SDC_AGAIN: wait for `until`, the deadline,
   or nothing if has_more. Else it failed and *error says how. The exchange is over unless
   SDC_AGAIN, and the caller ends it. */
static sdc_err sdci_call_run(sdci_call *call, sdci_share *share, uint64_t now_ms,
                             sdc_error *error)
{
    sdci_call_state before;
    sdc_err err;

    call->has_more = false;
    do {
        before = call->state;
        err = sdci_call_once(call, share, now_ms, error);
    } while (err == SDC_AGAIN && call->state != before);
    if (err == SDC_ERR_IO && call->state > SDCI_CALL_CONNECTING && call->http.offset == 0) {
        err = sdci_call_silent(call, now_ms, error);
    }
    if (err == SDC_AGAIN && !call->has_more && now_ms >= call->deadline_ms) {
        err = sdci_fail(error, SDC_ERR_TIMEOUT, "no answer within %u ms",
                        (unsigned)call->timeout_ms);
        sdci_link_blame(&call->link, err, error);
    } else if (err != SDC_OK && err != SDC_AGAIN && call->state > SDCI_CALL_CONNECTING) {
        sdci_link_blame(&call->link, err, error);
    }
    if (err != SDC_OK && err != SDC_AGAIN) {
        sdci_link_close(&call->link);
    }
    return err;
}

/* The earliest time at which there is something to do. */
static uint64_t sdci_call_deadline(const sdci_call *call)
{
    uint64_t at = sdci_min(call->deadline_ms, call->link.deadline_ms);

    return call->has_more ? 0 : sdci_min(at, call->link.until.at_ms);
}

/* ---- client ----------------------------------------------- [sdc:client] --
   Where Consul is and who we are, the head of every request, and what the head
   of an answer says. Shared by tasks on several threads: what changes (token,
   spare receive buffers) is under `lock`, everything else is fixed at create.
   ------------------------------------------------------------------------- */

#define SDCI_RECEIVE_BYTES ((size_t)64 << 10)
#define SDCI_DECODER_BYTES ((size_t)32 << 10)     /* of buffers that a kept decoder may have */
#define SDCI_FEW_BYTES     512u     /* on the stack, where there is no memory for a buffer */
#define SDCI_TOKEN_MAX     4096u
#define SDCI_RETRY_AFTER_MAX_S 3600u
#define SDCI_SLACK_MS      10000u   /* what an answer may take beyond its wait: an agent holds a
                                       request for 7 s while it looks for a leader */

struct sdc_client {
    sdc_allocator allocator;
    sdc_logger logger;
    sdc_io io;
    sdci_agent *agents;                 /* at least one */
    size_t num_agents, agents_size;     /* agents_size: of their memory */
    char *authorization;                /* of basic_auth: a whole header line, or NULL */
    char *datacenter, *ns, *partition;  /* "" for none */
    char *token_file;                   /* or NULL */
    char *configured_token;             /* or NULL */
    char *file_token;                   /* newest good content of token_file; under lock */
    char *set_token;                    /* by sdc_client_set_token, or NULL; under lock */
    struct sdci_kit *spare;             /* those that nobody uses, linked; under lock */
    size_t max_head_bytes, max_body_bytes, max_instances;
    uint32_t connect_timeout_ms, request_timeout_ms;
    uint32_t holds;                     /* the program's and each object's; atomic */
    uint32_t lock;
};

/* -- Log -- */

static void sdci_log(const sdc_client *client, sdc_log_level level, const sdc_kv *fields,
                     size_t num_fields)
{
    if (client->logger.log != NULL && level >= client->logger.min_level) {
        client->logger.log(client->logger.user, level, fields, num_fields);
    }
}

static sdc_kv sdci_kv(const char *key, const char *value)
{
    sdc_kv field;

    field.key = key;
    field.value = value;
    return field;
}

/* -- Kits -- */

/* What receiving works with, lent for one step: the number of kits follows the threads that step,
   not the tasks, and an idle watch holds none. */
typedef struct sdci_kit {
    struct sdci_kit *next;              /* among the spare ones */
    sdc_entries *entries;               /* NULL until one was needed, and while one is out */
    sdci_gaps gaps;                     /* what a decoder has learned serves the next one as well */
    char bytes[SDCI_RECEIVE_BYTES];
} sdci_kit;

/* NULL: no memory. */
static sdci_kit *sdci_client_lend(sdc_client *client)
{
    sdci_lock(&client->lock);
    sdci_kit *kit = client->spare;
    if (kit != NULL) {
        client->spare = kit->next;
    }
    sdci_unlock(&client->lock);
    if (kit == NULL) {
        kit = (sdci_kit *)sdci_resize(&client->allocator, NULL, 0, sizeof *kit);
        if (kit != NULL) {
            kit->entries = NULL;
            memset(&kit->gaps, 0, sizeof kit->gaps);
        }
    }
    return kit;
}

static void sdci_client_give_back(sdc_client *client, sdci_kit *kit)
{
    if (kit != NULL) {
        sdci_lock(&client->lock);
        kit->next = client->spare;
        client->spare = kit;
        sdci_unlock(&client->lock);
    }
}

/* -- Create and destroy -- */

/* A setting of the desc, or of the environment where the desc leaves it open. */
typedef struct sdci_setting {
    const char *name;           /* for messages: the desc's member or the variable */
    const char *value;          /* NULL: not set */
} sdci_setting;

static sdci_setting sdci_setting_of(const sdc_client_desc *desc, const char *member,
                                    const char *value, const char *variable)
{
    sdci_setting setting;
    bool is_given = !sdci_is_empty(value) || desc->ignore_environment;

    setting.name = is_given ? member : variable;
    setting.value = is_given ? value : getenv(variable);
    setting.value = sdci_is_empty(setting.value) ? NULL : setting.value;
    return setting;
}

static sdc_err sdci_setting_valid(sdci_setting setting, sdc_error *error)
{
    if (setting.value != NULL && sdci_has_control(setting.value)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s has a control character", setting.name);
    }
    return SDC_OK;
}

/* Copies a text that may be absent. False: no memory. */
static bool sdci_client_keep(sdc_client *client, char **out, const char *text)
{
    if (text == NULL) {
        return true;
    }
    *out = sdci_copy(&client->allocator, text);
    return *out != NULL;
}

static sdc_err sdci_token_valid(const char *field, const char *token, sdc_error *error)
{
    if (token != NULL && sdci_has_control(token)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s has a control character", field);
    }
    if (token != NULL && strlen(token) > SDCI_TOKEN_MAX) {
        return sdci_fail(error, SDC_ERR_ARG, "%s is longer than 4096 bytes", field);
    }
    return SDC_OK;
}

/* The official client's precedence: file, token, file of the environment, token of it. */
static sdc_err sdci_client_init_token(sdc_client *client, const sdc_client_desc *desc,
                                      sdc_error *error)
{
    bool is_explicit = !sdci_is_empty(desc->token_file) || !sdci_is_empty(desc->token);
    sdci_setting file = { "token_file", sdci_is_empty(desc->token_file) ? NULL : desc->token_file };
    sdci_setting token = { "token", sdci_is_empty(desc->token) ? NULL : desc->token };

    if (!is_explicit) {
        file = sdci_setting_of(desc, "token_file", NULL, "CONSUL_HTTP_TOKEN_FILE");
        token = sdci_setting_of(desc, "token", NULL, "CONSUL_HTTP_TOKEN");
    }
    sdc_err err = sdci_token_valid(token.name, token.value, error);
    if (err != SDC_OK) {
        return err;
    }
    if (!sdci_client_keep(client, &client->token_file, file.value) ||
        !sdci_client_keep(client, &client->configured_token, token.value)) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    return SDC_OK;
}

static sdc_err sdci_client_init_auth(sdc_client *client, const sdc_client_desc *desc,
                                     sdc_error *error)
{
    sdci_setting auth = sdci_setting_of(desc, "basic_auth", desc->basic_auth, "CONSUL_HTTP_AUTH");
    sdc_err err = sdci_setting_valid(auth, error);
    sdci_buf pair;
    sdci_buf line;

    if (auth.value == NULL || err != SDC_OK) {
        return err;
    }
    sdci_buf_init(&pair, &client->allocator, 65536);
    sdci_buf_init(&line, &client->allocator, 131072);
    pair.is_secret = true;
    line.is_secret = true;
    sdci_put_text(&pair, auth.value);
    sdci_put_text(&pair, strchr(auth.value, ':') == NULL ? ":" : "");
    sdci_put_text(&line, "Authorization: Basic ");
    sdci_put_base64(&line, sdci_slice(pair.ptr, pair.len));
    sdci_put(&line, "\r\n", 3);
    err = pair.err != SDC_OK ? pair.err : line.err;
    sdci_buf_deinit(&pair);
    if (err == SDC_OK) {
        client->authorization = sdci_copy(&client->allocator, line.ptr);
        err = client->authorization != NULL ? SDC_OK : SDC_ERR_NOMEM;
    }
    sdci_buf_deinit(&line);
    return err == SDC_OK ? SDC_OK : sdci_fail_plain(error, err);
}

/* CONSUL_HTTP_SSL asks for https, whatever scheme the address names. What is no boolean is refused:
   to guess would be to send a token in the clear. */
static sdc_err sdci_environment_tls(const sdc_client_desc *desc, bool *tls, sdc_error *error)
{
    static const char *const yes[] = { "1", "t", "T", "TRUE", "true", "True" };
    static const char *const no[] = { "0", "f", "F", "FALSE", "false", "False" };
    sdci_setting ssl = sdci_setting_of(desc, "", NULL, "CONSUL_HTTP_SSL");

    *tls = false;
    for (size_t i = 0; ssl.value != NULL && i < sizeof yes / sizeof yes[0]; i++) {
        if (strcmp(ssl.value, yes[i]) == 0 || strcmp(ssl.value, no[i]) == 0) {
            *tls = strcmp(ssl.value, yes[i]) == 0;
            return SDC_OK;
        }
    }
    return ssl.value == NULL ? SDC_OK
                             : sdci_fail(error, SDC_ERR_ARG, "%s is not a boolean", ssl.name);
}

static bool sdci_is_numeric_host(const sdci_agent_url *address, const char *host)
{
    struct in_addr ignored;

    return address->is_ipv6 || inet_pton(AF_INET, host, &ignored) == 1;
}

/* host:port as a Host field has it; over a unix socket any name does. */
static char *sdci_agent_name(const sdc_allocator *allocator, const sdci_agent *agent)
{
    sdci_buf name;

    sdci_buf_init(&name, allocator, 4096);
    if (agent->path[0] != '\0') {
        sdci_put_text(&name, "localhost");
    } else {
        sdci_put_addr(&name, agent->host, agent->port);
    }
    return sdci_buf_to_text(&name);
}

static sdc_err sdci_agent_init(sdci_agent *agent, const sdc_allocator *allocator,
                               const sdci_agent_url *address)
{
    agent->host = sdci_copy_slice(allocator, address->host);
    agent->path = sdci_copy_slice(allocator, address->path);
    agent->prefix = sdci_copy_slice(allocator, address->prefix);
    agent->port = address->port;
    agent->tls = address->tls;
    if (agent->host == NULL || agent->path == NULL || agent->prefix == NULL) {
        return SDC_ERR_NOMEM;
    }
    agent->is_numeric = sdci_is_numeric_host(address, agent->host);
    agent->name = sdci_agent_name(allocator, agent);
    return agent->name != NULL ? SDC_OK : SDC_ERR_NOMEM;
}

static void sdci_agent_deinit(sdci_agent *agent, const sdc_allocator *allocator)
{
    sdci_free_text(allocator, agent->host);
    sdci_free_text(allocator, agent->path);
    sdci_free_text(allocator, agent->prefix);
    sdci_free_text(allocator, agent->name);
}

/* One agent of the list. `tls`: wanted by the environment. */
static sdc_err sdci_client_add_agent(sdc_client *client, const char *field, const char *text,
                                     bool tls, sdc_error *error)
{
    sdci_agent_url address;
    sdc_err err = sdci_parse_address(field, text, &address, error);

    if (err != SDC_OK) {
        return err;
    }
    address.tls = address.tls || (tls && !address.is_unix);
    if (address.tls && !client->io.can_tls) {
        return sdci_fail(error, SDC_ERR_ARG, "%s \"%.100s\": https needs an io table with can_tls, "
                         "whose stream_open does the handshake", field, text);
    }
    err = sdci_agent_init(&client->agents[client->num_agents], &client->allocator, &address);
    client->num_agents++;
    return err == SDC_OK ? SDC_OK : sdci_fail_plain(error, err);
}

/* The texts between commas, each an agent. */
static sdc_err sdci_client_add_agents(sdc_client *client, const char *field, const char *list,
                                      bool tls, sdc_error *error)
{
    sdc_err err = SDC_OK;

    for (const char *at = list; at != NULL && err == SDC_OK;) {
        const char *comma = strchr(at, ',');
        size_t len = comma != NULL ? (size_t)(comma - at) : strlen(at);
        char *text = sdci_copy_slice(&client->allocator, sdci_slice(at, len));
        err = text != NULL ? sdci_client_add_agent(client, field, text, tls, error)
                           : sdci_fail_plain(error, SDC_ERR_NOMEM);
        sdci_free_text(&client->allocator, text);
        at = comma != NULL ? comma + 1 + strspn(comma + 1, " ") : NULL;
    }
    return err;
}

static sdc_err sdci_client_init_agents(sdc_client *client, const sdc_client_desc *desc,
                                       sdc_error *error)
{
    sdci_setting given = sdci_setting_of(desc, "address", desc->address, "CONSUL_HTTP_ADDR");
    const char *list = given.value != NULL ? given.value : "127.0.0.1:8500";
    size_t num = 1;
    bool tls = false;

    for (const char *c = list; *c != '\0'; c++) {
        num += *c == ',' ? 1 : 0;
    }
    if (num > SDCI_AGENTS_MAX) {
        return sdci_fail(error, SDC_ERR_ARG, "%s names more than %u agents", given.name,
                         SDCI_AGENTS_MAX);
    }
    sdc_err err = sdci_environment_tls(desc, &tls, error);
    if (err != SDC_OK) {
        return err;
    }
    client->agents = (sdci_agent *)sdci_new(&client->allocator, num * sizeof *client->agents);
    client->agents_size = num * sizeof *client->agents;
    return client->agents != NULL ? sdci_client_add_agents(client, given.name, list, tls, error)
                                  : sdci_fail_plain(error, SDC_ERR_NOMEM);
}

static sdc_err sdci_client_init_names(sdc_client *client, const sdc_client_desc *desc,
                                      sdc_error *error)
{
    sdci_setting dc = { "datacenter", desc->datacenter };
    sdci_setting ns = sdci_setting_of(desc, "ns", desc->ns, "CONSUL_NAMESPACE");
    sdci_setting partition = sdci_setting_of(desc, "partition", desc->partition,
                                             "CONSUL_PARTITION");

    sdc_err err = sdci_setting_valid(dc, error);
    err = err == SDC_OK ? sdci_setting_valid(ns, error) : err;
    err = err == SDC_OK ? sdci_setting_valid(partition, error) : err;
    if (err != SDC_OK) {
        return err;
    }
    if (!sdci_client_keep(client, &client->datacenter, dc.value != NULL ? dc.value : "") ||
        !sdci_client_keep(client, &client->ns, ns.value != NULL ? ns.value : "") ||
        !sdci_client_keep(client, &client->partition,
                          partition.value != NULL ? partition.value : "")) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    return SDC_OK;
}

static sdc_err sdci_client_init(sdc_client *client, const sdc_client_desc *desc, sdc_error *error)
{
    client->connect_timeout_ms = sdci_or(desc->connect_timeout_ms, 5000);
    client->request_timeout_ms = sdci_or(desc->request_timeout_ms, 15000);
    client->max_head_bytes = desc->max_head_bytes != 0
                                 ? (size_t)sdci_min(desc->max_head_bytes, SIZE_MAX / 2)
                                 : SDCI_HTTP_HEAD_MAX;
    client->max_body_bytes = desc->max_body_bytes != 0 ? desc->max_body_bytes : (size_t)256 << 20;
    client->max_instances = desc->max_instances != 0 ? desc->max_instances : 100000;
    if (!sdci_io_complete(desc->io, &client->io)) {
        return sdci_fail(error, SDC_ERR_ARG, "io: the members of stream, of resolve, and of waker "
                         "with wait come together or not at all");
    }
    if (desc->logger != NULL) {
        client->logger = *desc->logger;
    }
    sdc_err err = sdci_client_init_agents(client, desc, error);
    if (err == SDC_OK) {
        err = sdci_client_init_token(client, desc, error);
    }
    if (err == SDC_OK) {
        err = sdci_client_init_auth(client, desc, error);
    }
    return err == SDC_OK ? sdci_client_init_names(client, desc, error) : err;
}

static void sdci_client_free(sdc_client *client)
{
    sdc_allocator allocator = client->allocator;

    while (client->spare != NULL) {
        sdci_kit *next = client->spare->next;
        sdci_entries_free(client->spare->entries);
        sdci_free(&allocator, client->spare, sizeof *client->spare);
        client->spare = next;
    }
    for (size_t i = 0; i < client->num_agents; i++) {
        sdci_agent_deinit(&client->agents[i], &allocator);
    }
    sdci_free(&allocator, client->agents, client->agents_size);
    sdci_free_secret(&allocator, client->authorization);
    sdci_free_secret(&allocator, client->configured_token);
    sdci_free_secret(&allocator, client->file_token);
    sdci_free_secret(&allocator, client->set_token);
    sdci_free_text(&allocator, client->token_file);
    sdci_free_text(&allocator, client->datacenter);
    sdci_free_text(&allocator, client->ns);
    sdci_free_text(&allocator, client->partition);
    sdci_free(&allocator, client, sizeof *client);
}

static sdc_client *sdci_client_retain(sdc_client *client)
{
    (void)sdci_atomic_add(&client->holds, 1);
    return client;
}

static void sdci_client_release(sdc_client *client)
{
    if (sdci_atomic_sub(&client->holds, 1) == 0) {
        sdci_client_free(client);
    }
}

sdc_err sdc_client_create(const sdc_client_desc *desc, sdc_client **out, sdc_error *error)
{
    sdc_client_desc defaults;

    *out = NULL;
    sdci_error_clear(error);
    if (desc == NULL) {
        memset(&defaults, 0, sizeof defaults);
        desc = &defaults;
    }
    if (desc->allocator != NULL && desc->allocator->resize == NULL) {
        return sdci_fail(error, SDC_ERR_ARG, "allocator: resize is missing");
    }
    sdc_allocator allocator = sdci_allocator_or_malloc(desc->allocator);
    sdc_client *client = (sdc_client *)sdci_new(&allocator, sizeof *client);
    if (client == NULL) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    client->allocator = allocator;
    client->holds = 1;
    sdc_err err = sdci_client_init(client, desc, error);
    if (err != SDC_OK) {
        sdci_client_free(client);
        return err;
    }
    *out = client;
    return SDC_OK;
}

void sdc_client_destroy(sdc_client *client)
{
    if (client != NULL) {
        sdci_client_release(client);
    }
}

uint64_t sdc_client_now_ms(const sdc_client *client)
{
    return client->io.now_ms(client->io.user);
}

/* -- Token -- */

/* Replaces a token that other threads may be reading. */
static void sdci_client_swap_token(sdc_client *client, char **slot, char *token)
{
    sdci_lock(&client->lock);
    char *old = *slot;
    *slot = token;
    sdci_unlock(&client->lock);
    sdci_free_secret(&client->allocator, old);
}

sdc_err sdc_client_set_token(sdc_client *client, const char *token)
{
    char *copy = NULL;
    sdc_err err = sdci_token_valid("token", token, NULL);

    if (err == SDC_OK && !sdci_client_keep(client, &copy, token)) {
        err = SDC_ERR_NOMEM;
    }
    if (err == SDC_OK) {
        sdci_client_swap_token(client, &client->set_token, copy);
    }
    return err;
}

static void sdci_client_warn_token_file(const sdc_client *client, const char *why)
{
    sdc_kv fields[3];

    fields[0] = sdci_kv("event", "token_file");
    fields[1] = sdci_kv("path", client->token_file);
    fields[2] = sdci_kv("err", why);
    sdci_log(client, SDC_LOG_WARN, fields, 3);
}

/* Reads the token file anew. What cannot be read changes nothing: a secret that is being replaced
   is missing for a moment. */
static void sdci_client_read_token_file(sdc_client *client)
{
    char text[SDCI_TOKEN_MAX + 1];
    size_t len = 0;
    sdc_error error;

    sdci_error_clear(&error);
    sdc_err err = client->io.read_file(client->io.user, client->token_file, text, SDCI_TOKEN_MAX,
                                       &len, &error);
    if (err == SDC_OK) {
        sdci_str token = sdci_trim(sdci_slice(text, len));
        memmove(text, token.ptr, token.len);
        text[token.len] = '\0';
        if (memchr(text, '\0', token.len) != NULL || sdci_has_control(text)) {
            err = sdci_fail(&error, SDC_ERR_ARG, "a control character in the token");
        } else if (token.len == 0) {
            err = sdci_fail(&error, SDC_ERR_ARG, "the file is empty");
        }
    }
    char *copy = err == SDC_OK ? sdci_copy(&client->allocator, text) : NULL;
    sdci_wipe(text, sizeof text);
    if (copy != NULL) {
        sdci_client_swap_token(client, &client->file_token, copy);
    } else {
        sdci_client_warn_token_file(client, err == SDC_OK ? "out of memory" : error.message);
    }
}

/* The token of the next request, into a buffer that the caller wipes. */
static void sdci_client_get_token(sdc_client *client, char out[SDCI_TOKEN_MAX + 1])
{
    const char *token = client->configured_token;

    sdci_lock(&client->lock);
    bool needs_file = client->set_token == NULL && client->token_file != NULL;
    sdci_unlock(&client->lock);
    if (needs_file) {
        sdci_client_read_token_file(client);
    }
    sdci_lock(&client->lock);
    if (client->set_token != NULL) {
        token = client->set_token;
    } else if (!sdci_is_empty(client->file_token)) {
        token = client->file_token;
    }
    size_t len = token != NULL ? strlen(token) : 0;
    SDC_ASSERT(len <= SDCI_TOKEN_MAX);
    memcpy(out, token != NULL ? token : "", len);
    out[len] = '\0';
    sdci_unlock(&client->lock);
}

/* -- Requests -- */

/* A request being written. Its path and query are put together from escaped parts alone. */
typedef struct sdci_request {
    sdc_client *client;
    const sdci_agent *agent;    /* whom it goes to */
    sdci_buf *out;
    size_t path_at;             /* where the path without prefix begins */
    size_t token_at, token_len; /* so that no message repeats it */
    const char *header;         /* a further header line with its CRLF, or "" */
    bool has_query;
} sdci_request;

/* Writes into the call's request, for the agent that the call goes to. */
static sdci_request sdci_request_begin(sdc_client *client, sdci_call *call, const char *method,
                                       const char *path)
{
    sdci_buf *out = &call->request;
    sdci_request request;

    memset(&request, 0, sizeof request);
    request.header = "";
    sdci_buf_clear(out);
    sdci_put_text(out, method);
    sdci_put_char(out, ' ');
    sdci_put_text(out, call->link.agent->prefix);
    request.client = client;
    request.agent = call->link.agent;
    request.out = out;
    request.path_at = out->len;
    sdci_put_text(out, path);
    return request;
}

static void sdci_request_param(sdci_request *request, const char *key, const char *value)
{
    sdci_put_char(request->out, request->has_query ? '&' : '?');
    request->has_query = true;
    sdci_put_escaped(request->out, key);
    sdci_put_char(request->out, '=');
    sdci_put_escaped(request->out, value);
}

static void sdci_request_param_u64(sdci_request *request, const char *key, uint64_t value,
                                   const char *unit)
{
    sdci_request_param(request, key, "");
    sdci_put_u64(request->out, value);
    sdci_put_text(request->out, unit);
}

static void sdci_request_param_if(sdci_request *request, const char *key, const char *value)
{
    if (!sdci_is_empty(value)) {
        sdci_request_param(request, key, value);
    }
}

/* An agent that is not Enterprise refuses ns and partition, so they go out only where they are
   set. */
static void sdci_request_scope(sdci_request *request, const char *datacenter, const char *ns,
                               const char *partition)
{
    const sdc_client *client = request->client;

    sdci_request_param_if(request, "dc",
                          sdci_is_empty(datacenter) ? client->datacenter : datacenter);
    sdci_request_param_if(request, "ns", sdci_is_empty(ns) ? client->ns : ns);
    sdci_request_param_if(request, "partition",
                          sdci_is_empty(partition) ? client->partition : partition);
}

static void sdci_request_token(sdci_request *request)
{
    char token[SDCI_TOKEN_MAX + 1];

    sdci_client_get_token(request->client, token);
    if (token[0] != '\0') {
        sdci_put_text(request->out, "X-Consul-Token: ");
        request->token_at = request->out->len;
        request->token_len = strlen(token);
        sdci_put_text(request->out, token);
        sdci_put_text(request->out, "\r\n");
        sdci_wipe(token, request->token_len);
    }
}

/* The rest of the head. `body` is NULL for a GET; a PUT always says how long its body is. */
static void sdci_request_end(sdci_request *request, const sdci_str *body)
{
    sdci_buf *out = request->out;

    sdci_put_text(out, " HTTP/1.1\r\nHost: ");
    sdci_put_text(out, request->agent->name);
    sdci_put_text(out, "\r\nUser-Agent: sdconsul/");
    sdci_put_u64(out, SDC_VERSION_MAJOR);
    sdci_put_char(out, '.');
    sdci_put_u64(out, SDC_VERSION_MINOR);
    sdci_put_char(out, '.');
    sdci_put_u64(out, SDC_VERSION_PATCH);
    sdci_put_text(out, "\r\n");
    sdci_put_text(out, request->header);
    sdci_request_token(request);
    if (request->client->authorization != NULL) {
        sdci_put_text(out, request->client->authorization);
    }
    if (body != NULL) {
        sdci_put_text(out, body->len > 0 ? "Content-Type: application/json\r\nContent-Length: "
                                         : "Content-Length: ");
        sdci_put_u64(out, body->len);
        sdci_put_text(out, "\r\n");
    }
    sdci_put_text(out, "\r\n");
    if (body != NULL) {
        sdci_put(out, body->ptr, body->len);
    }
}

/* -- Answers -- */

/* What the head of an answer says, and the beginning of an error's text. The body of a 200 goes to
   `body` as it comes. Consul docs: api-docs/features/blocking. */
typedef struct sdci_answer {
    sdc_err (*body)(void *user, const void *bytes, size_t len);     /* or NULL */
    void *user;
    uint64_t index;             /* 0: none that could be read */
    uint64_t last_contact_ms;
    uint64_t date_s;            /* of the Date field, 0 none */
    uint64_t retry_date_s;      /* Retry-After as a date, 0 none */
    uint64_t retry_after_s;     /* as seconds */
    uint64_t content_hash;      /* a hash of X-Consul-ContentHash; 0: none came */
    size_t text_len;
    sdci_str token;             /* as it was sent; valid as long as the request, and so is: */
    sdci_str path;              /* without prefix and query, for messages */
    const char *method;
    const char *agent;          /* its name */
    int status;
    bool known_leader, is_streaming, filtered_by_acl;
    bool is_encoded;            /* in a way that nobody asked for */
    bool has_bad_index;
    char text[160];
} sdci_answer;

static sdc_err sdci_answer_on_status(void *user, int status)
{
    ((sdci_answer *)user)->status = status;
    return SDC_OK;
}

/* An index of 0 would ask for an answer at once for ever: it counts as 1 (Consul docs, blocking
   queries). One that cannot be read counts as none. */
static void sdci_answer_index(sdci_answer *answer, sdci_str value)
{
    uint64_t index = 0;

    answer->has_bad_index = !sdci_parse_u64(value, UINT64_MAX, &index);
    answer->index = answer->has_bad_index ? 0 : sdci_max(index, 1);
}

static sdc_err sdci_answer_on_header(void *user, const char *name, size_t name_len,
                                     const char *value_ptr, size_t value_len)
{
    sdci_answer *answer = (sdci_answer *)user;
    sdci_str field = sdci_slice(name, name_len);
    sdci_str value = sdci_slice(value_ptr, value_len);
    sdci_str rest = field;
    uint64_t number = 0;

    if (sdci_equal_nocase(field, sdci_str_of("Content-Encoding"))) {
        answer->is_encoded = !sdci_equal_nocase(value, sdci_str_of("identity"));
    } else if (sdci_equal_nocase(field, sdci_str_of("Date"))) {
        answer->date_s = sdci_parse_date(value);
    } else if (sdci_equal_nocase(field, sdci_str_of("Retry-After"))) {
        answer->retry_date_s = sdci_parse_date(value);
        answer->retry_after_s = sdci_parse_u64(value, SDC_NEVER, &number) ? number : 0;
    }
    if (name_len < 9 || !sdci_equal_nocase(sdci_slice(name, 9), sdci_str_of("X-Consul-"))) {
        return SDC_OK;
    }
    rest = sdci_slice(name + 9, name_len - 9);
    if (sdci_equal_nocase(rest, sdci_str_of("Index"))) {
        sdci_answer_index(answer, value);
    } else if (sdci_equal_nocase(rest, sdci_str_of("KnownLeader"))) {
        answer->known_leader = sdci_equal_nocase(value, sdci_str_of("true"));
    } else if (sdci_equal_nocase(rest, sdci_str_of("LastContact"))) {
        answer->last_contact_ms = sdci_parse_u64(value, UINT64_MAX, &number) ? number : 0;
    } else if (sdci_equal_nocase(rest, sdci_str_of("ContentHash"))) {
        answer->content_hash = sdci_hash(value.ptr, value.len, 0) | 1;
    } else if (sdci_equal_nocase(rest, sdci_str_of("Query-Backend"))) {
        answer->is_streaming = sdci_equal_nocase(value, sdci_str_of("streaming"));
    } else if (sdci_equal_nocase(rest, sdci_str_of("Results-Filtered-By-ACLs"))) {
        answer->filtered_by_acl = sdci_equal_nocase(value, sdci_str_of("true"));
    }
    return SDC_OK;
}

static sdc_err sdci_answer_on_body(void *user, const void *bytes, size_t len)
{
    sdci_answer *answer = (sdci_answer *)user;

    if (answer->status == 200 && !answer->is_encoded) {
        return answer->body != NULL ? answer->body(answer->user, bytes, len) : SDC_OK;
    }
    size_t taken = (size_t)sdci_min(len, sizeof answer->text - 1 - answer->text_len);
    memcpy(answer->text + answer->text_len, bytes, taken);
    answer->text_len += taken;
    return SDC_OK;
}

static sdc_http_handler sdci_answer_handler(sdci_answer *answer)
{
    sdc_http_handler handler;

    handler.user = answer;
    handler.on_status = sdci_answer_on_status;
    handler.on_header = sdci_answer_on_header;
    handler.on_body = sdci_answer_on_body;
    return handler;
}

/* For each request, once it is written. */
static void sdci_answer_init(sdci_answer *answer, const sdci_request *request, const char *method)
{
    memset(answer, 0, sizeof *answer);
    answer->method = method;
    answer->agent = request->agent->name;
    answer->path = sdci_slice("", 0);
    if (request->out->err != SDC_OK) {
        return;
    }
    sdci_str path = sdci_buf_from(request->out, request->path_at);
    answer->token = sdci_slice(request->out->ptr + request->token_at, request->token_len);
    size_t len = 0;
    while (len < path.len && path.ptr[len] != '?' && path.ptr[len] != ' ') {
        len++;
    }
    answer->path = sdci_slice(path.ptr, (size_t)sdci_min(len, 90));
}

/* A peer that echoes the request must not put our token into a log; nor a part of it that the end
   of the kept text has cut. */
static void sdci_answer_hide_token(sdci_answer *answer)
{
    for (size_t i = 0; answer->token.len > 0 && i < answer->text_len; i++) {
        size_t len = (size_t)sdci_min(answer->token.len, answer->text_len - i);
        if (memcmp(answer->text + i, answer->token.ptr, len) == 0 &&
            (len == answer->token.len || answer->text_len == sizeof answer->text - 1)) {
            memset(answer->text + i, '*', len);
        }
    }
}

/* An error's text on one line: NUL and control characters become spaces. */
static void sdci_answer_clean_text(sdci_answer *answer)
{
    sdci_answer_hide_token(answer);
    for (size_t i = 0; i < answer->text_len; i++) {
        if (sdci_is_control(answer->text[i])) {
            answer->text[i] = ' ';
        }
    }
    while (answer->text_len > 0 && answer->text[answer->text_len - 1] == ' ') {
        answer->text_len--;
    }
    answer->text[answer->text_len] = '\0';
}

static sdc_err sdci_answer_code(const sdci_answer *answer)
{
    if (answer->status == 401 || answer->status == 403) {
        return SDC_ERR_DENIED;
    }
    if (answer->status == 429 ||
        (answer->status == 503 && strstr(answer->text, "rate limit") != NULL)) {
        return SDC_ERR_BUSY;
    }
    return SDC_ERR_STATUS;
}

/* "10.0.0.1:8500: GET /v1/health/service/web: what is wrong with the answer" */
static sdc_err sdci_answer_fail(const sdci_answer *answer, sdc_error *error, sdc_err code,
                                const char *what)
{
    (void)sdci_fail(error, code, "%.70s: %s %.*s: %s", answer->agent, answer->method,
                    (int)answer->path.len, answer->path.ptr, what);
    if (error != NULL) {
        error->http_status = answer->status;
    }
    return code;
}

/* Names the limit that an agent enforces by this text (Consul docs: agent/config, limits). */
static const char *sdci_answer_hint(const sdci_answer *answer)
{
    if (answer->status >= 300 && answer->status < 400) {
        return " (a redirect is never followed)";
    }
    return answer->status == 429 && strstr(answer->text, "concurrent connections") != NULL
               ? " (limits.http_max_conns_per_client)" : "";
}

/* What a whole answer means as a result. */
static sdc_err sdci_answer_result(sdci_answer *answer, sdc_error *error)
{
    sdci_answer_clean_text(answer);
    answer->token = sdci_slice("", 0);          /* the request that it stands in ends before us */
    if (answer->status == 200 && !answer->is_encoded) {
        return SDC_OK;
    }
    if (answer->is_encoded) {
        return sdci_answer_fail(answer, error, SDC_ERR_HTTP,
                                "a content encoding that was not asked for");
    }
    sdc_err code = sdci_answer_code(answer);
    (void)sdci_fail(error, code, "%.70s: %s %.*s: status %d%s%s%s", answer->agent, answer->method,
                    (int)answer->path.len, answer->path.ptr, answer->status,
                    answer->text_len > 0 ? ": " : "", answer->text,
                    sdci_answer_hint(answer));
    if (error != NULL) {
        error->http_status = answer->status;
    }
    return code;
}

/* How long the answer asks to be left alone (RFC 9110, 10.2.3), 0 where it does not. A date counts
   from the answer's own, so nobody's clock matters. */
static uint32_t sdci_answer_retry_after_ms(const sdci_answer *answer)
{
    uint64_t after_s = answer->retry_after_s;

    if (answer->date_s != 0 && answer->retry_date_s > answer->date_s) {
        after_s = answer->retry_date_s - answer->date_s;
    }
    return (uint32_t)(sdci_min(after_s, SDCI_RETRY_AFTER_MAX_S) * 1000);
}

/* What agents of all versions say of a service or check ID that they do not have; the last one is
   `CheckID "..." does not have associated TTL`, whose end a long ID would push out of the text. */
static bool sdci_answer_says_unknown(const sdci_answer *answer)
{
    bool may_be = answer->status == 404 || answer->status == 500 || answer->status == 400;

    return may_be && (strstr(answer->text, "nknown service") != NULL ||
                      strstr(answer->text, "nknown check") != NULL ||
                      strncmp(answer->text, "CheckID \"", 9) == 0);
}

/* A 500 of an agent that has lost its servers, or whose servers have no leader. */
static bool sdci_answer_is_leaderless(const sdci_answer *answer)
{
    static const char *const signs[] = { "leader", "Consul servers", "consistent reads",
                                         "rpc error", "grpc: ", "error reading from server" };

    for (size_t i = 0; answer->status >= 500 && i < sizeof signs / sizeof signs[0]; i++) {
        if (strstr(answer->text, signs[i]) != NULL) {
            return true;
        }
    }
    return false;
}

/* Whether another agent may do better. `nth`: how often in a row it has failed. A connection that
   breaks once is no more than that; and what is refused here is refused everywhere. */
static bool sdci_answer_blames_agent(const sdci_answer *answer, sdc_err err, uint32_t nth)
{
    if (err == SDC_ERR_RESOLVE || err == SDC_ERR_CONNECT || err == SDC_ERR_TLS ||
        err == SDC_ERR_TIMEOUT || err == SDC_ERR_BUSY) {
        return true;
    }
    if (err == SDC_ERR_STATUS) {
        return answer->status == 502 || answer->status == 504 || answer->status == 503 ||
               sdci_answer_is_leaderless(answer);
    }
    return nth > 1 && (err == SDC_ERR_IO || err == SDC_ERR_HTTP || err == SDC_ERR_JSON ||
                       err == SDC_ERR_SHAPE);
}

/* -- One exchange, blocking -- */

static int sdci_timeout_ms(uint64_t deadline_ms, uint64_t now_ms)
{
    if (deadline_ms == SDCI_FOREVER) {
        return -1;
    }
    return deadline_ms <= now_ms ? 0 : (int)sdci_min(deadline_ms - now_ms, INT32_MAX);
}

/* What a call alone waits for, until `limit_ms`. */
static sdc_wants sdci_call_wants(const sdci_call *call, uint64_t limit_ms, uint64_t now_ms)
{
    sdc_wants wants;

    memset(&wants, 0, sizeof wants);
    wants.fd = call->link.until.fd;
    wants.readable = call->link.until.readable;
    wants.writable = call->link.until.writable;
    wants.serial = call->link.serial;
    wants.deadline_ms = sdci_min(limit_ms, sdci_call_deadline(call));
    wants.timeout_ms = sdci_timeout_ms(wants.deadline_ms, now_ms);
    return wants;
}

static void sdci_client_init_call(sdc_client *client, sdci_call *call)
{
    sdci_call_init(call, &client->allocator);
    sdci_link_init(&call->link, &client->io, &client->allocator, client->agents,
                   client->num_agents, client->connect_timeout_ms);
}

/* A share of work with a kit, or with what little there is on the stack. */
static sdci_share sdci_share_of(sdci_kit *kit, char few[SDCI_FEW_BYTES])
{
    sdci_share share;

    memset(&share, 0, sizeof share);
    share.bytes = kit != NULL ? kit->bytes : few;
    share.max = kit != NULL ? sizeof kit->bytes : SDCI_FEW_BYTES;
    share.gaps = kit != NULL ? &kit->gaps : NULL;
    share.entries = kit != NULL ? &kit->entries : NULL;
    return share;
}

static sdc_err sdci_client_run(sdc_client *client, sdci_call *call, sdci_share *share,
                               uint64_t limit_ms, sdc_error *error)
{
    for (;;) {
        uint64_t now_ms = sdc_client_now_ms(client);
        share->left = SIZE_MAX;
        sdc_err err = sdci_call_run(call, share, now_ms, error);
        if (err != SDC_AGAIN) {
            return err;
        }
        if (now_ms >= limit_ms) {
            return sdci_fail(error, SDC_ERR_TIMEOUT, "%s: no answer in time",
                             call->link.agent->name);
        }
        sdc_wants wants = sdci_call_wants(call, limit_ms, sdc_client_now_ms(client));
        err = client->io.wait(client->io.user, NULL, &wants, error);
        if (err != SDC_OK) {
            sdci_error_settle(error, err);
            return err;
        }
    }
}

/* Sends what `call->request` holds on a connection of its own and waits for the whole answer, for
   `timeout_ms` at most, connecting included. `lent`, or NULL, shows meanwhile what a decoder of the
   body may work with. */
static sdc_err sdci_client_perform(sdc_client *client, sdci_call *call, sdci_answer *answer,
                                   uint32_t timeout_ms, sdci_share **lent, sdc_error *error)
{
    sdc_http_handler handler = sdci_answer_handler(answer);
    uint64_t now_ms = sdc_client_now_ms(client);
    uint64_t limit_ms = sdci_after(now_ms, timeout_ms);
    char few[SDCI_FEW_BYTES];
    sdci_share share;
    sdc_error own;

    if (call->request.err != SDC_OK) {
        return sdci_fail_plain(error, call->request.err);
    }
    error = error != NULL ? error : &own;       /* hooks may write to it unasked */
    sdci_error_clear(error);
    sdci_kit *kit = sdci_client_lend(client);
    share = sdci_share_of(kit, few);
    share.may_block = true;
    share.entries = NULL;       /* the body is read on when the kit is back */
    if (lent != NULL) {
        *lent = &share;
    }
    sdci_call_start(call, &handler, client->max_head_bytes, client->max_body_bytes, timeout_ms,
                    now_ms);
    sdc_err err = sdci_client_run(client, call, &share, limit_ms, error);
    if (lent != NULL) {
        *lent = NULL;
    }
    sdci_client_give_back(client, kit);
    if (err == SDC_OK) {
        sdci_error_clear(error);        /* an address before the good one may have failed */
        err = sdci_answer_result(answer, error);
    }
    return err;
}

/* After a perform. True: this agent is to blame and the call goes to the next one of the list, for
   which the request is to be written anew. */
static bool sdci_client_tries_next(sdci_call *call, const sdci_answer *answer, sdc_err err)
{
    size_t next = sdci_link_which(&call->link) + 1;
    bool is_over = err == SDC_OK || next >= call->link.num_agents ||
                   !sdci_answer_blames_agent(answer, err, UINT32_MAX);

    if (!is_over) {
        sdci_call_abort(call);
        sdci_link_use(&call->link, next);
    }
    return !is_over;
}

/* ---- task --------------------------------------------------- [sdc:task] --
   The one driver. A task is a machine with one call; sdc_step moves it on, and
   the blocking form is the same machine with a wait between its moves.

   What comes from other threads or a signal handler is flags and two pointers
   here, all atomic; `visitors` counts who is looking at the pointers, so that
   the stepping thread never frees what a visitor still uses.
   ------------------------------------------------------------------------- */

#define SDCI_STEP_BYTES ((size_t)256 << 10)     /* what one step takes in */
#define SDCI_STOP_POLL_MS 100u                  /* how often a blocked step looks without a waker */
#define SDCI_RETURN_MS 300000u                  /* until the first agent is looked for again */

typedef struct sdci_task_ops {
    /* Moves the machine on until it would block or one exchange has ended, and answers as
       sdc_step does. */
    sdc_err (*advance)(sdc_task *task, sdci_share *share);
    /* The earliest timer of the machine itself. */
    uint64_t (*deadline)(const sdc_task *task);
    /* Frees the object whose task this is. */
    void (*release)(sdc_task *task);
} sdci_task_ops;

struct sdc_task {
    const sdci_task_ops *ops;
    sdc_client *client;
    sdci_call call;
    sdci_answer answer;
    sdci_random random;
    uint64_t now_ms;            /* of the clock, once for each round of a step */
    uint64_t failing_since_ms;  /* the first failure after a success; no use while there is none */
    uint64_t home_at_ms;        /* when the first agent of the list is looked for again */
    sdc_wants_fn wants_fn;
    void *wants_user;
    sdc_wants told;             /* what wants_fn was told last */
    sdc_stats stats;            /* the stepping thread's; copied to `seen` for the others */
    sdc_stats seen;             /* under lock */
    sdc_error *error;           /* of the newest exchange, or NULL; under lock */
    sdc_err err;                /* its code, also where there was no memory for it */
    uint32_t lock;
    uint32_t is_stopping;       /* atomic, and so are all below */
    uint32_t is_woken;
    uint32_t visitors;
    void *waker;                /* of the step that blocks, or NULL */
    sdc_wake_fn wake_fn;
    void *wake_user;
    bool is_stepping;           /* not atomic: the stepping thread's own */
    bool is_dead;               /* destroyed by a callback of the step that is running */
};

static bool sdci_task_is_stopping(const sdc_task *task)
{
    return sdci_atomic_get(&task->is_stopping) != 0;
}

/* -- Wants -- */

static sdc_wants sdci_task_wants_at(const sdc_task *task, uint64_t now_ms)
{
    bool is_woken = sdci_atomic_get(&task->is_woken) != 0;

    return sdci_call_wants(&task->call, is_woken ? 0 : task->ops->deadline(task), now_ms);
}

sdc_wants sdc_task_wants(const sdc_task *task)
{
    return sdci_task_wants_at(task, sdc_client_now_ms(task->client));
}

static void sdci_task_tell(sdc_task *task, sdc_wants wants)
{
    bool is_same = wants.fd == task->told.fd && wants.serial == task->told.serial &&
                   wants.readable == task->told.readable &&
                   wants.writable == task->told.writable &&
                   wants.deadline_ms == task->told.deadline_ms;

    if (task->wants_fn != NULL && !is_same) {
        task->told = wants;
        task->wants_fn(task->wants_user, task, wants);
    }
}

/* A descriptor is about to be closed: whoever watches it hears of it first. */
static void sdci_task_before_close(void *user)
{
    sdc_task *task = (sdc_task *)user;
    sdc_wants wants = task->told;

    if (task->wants_fn != NULL && wants.fd >= 0) {
        wants.fd = -1;
        wants.readable = false;
        wants.writable = false;
        sdci_task_tell(task, wants);
    }
}

void sdc_task_on_wants(sdc_task *task, sdc_wants_fn fn, void *user)
{
    task->wants_fn = fn;
    task->wants_user = user;
    if (fn != NULL) {
        task->told = sdc_task_wants(task);
        fn(user, task, task->told);
    }
}

/* -- Waking -- */

static void sdci_task_leave_visitors(sdc_task *task)
{
    while (sdci_atomic_get(&task->visitors) != 0) {
        sched_yield();
    }
}

/* Two visitors may be here at once, and one may be a signal handler on the stepping thread, so
   there is no lock: the waker and the hook are taken away first and freed when nobody looks. The
   visit is counted before anything is said, since what is said may make the task go away. */
static void sdci_task_visit(sdc_task *task, bool stops)
{
    (void)sdci_atomic_add(&task->visitors, 1);
    if (stops) {
        sdci_atomic_set(&task->is_stopping, 1);
    }
    sdci_atomic_set(&task->is_woken, 1);
    void *waker = sdci_atomic_get_ptr(&task->waker);
    if (waker != NULL) {
        task->client->io.waker_wake(task->client->io.user, waker);
    }
    sdc_wake_fn fn = sdci_atomic_get_wake_fn(&task->wake_fn);
    if (fn != NULL) {
        fn(task->wake_user, task);
    }
    (void)sdci_atomic_sub(&task->visitors, 1);
}

void sdc_wake(sdc_task *task)
{
    if (task != NULL) {         /* a resolver may know of none */
        sdci_task_visit(task, false);
    }
}

void sdc_stop(sdc_task *task)
{
    sdci_task_visit(task, true);
}

void sdc_task_on_wake(sdc_task *task, sdc_wake_fn fn, void *user)
{
    sdci_atomic_set_wake_fn(&task->wake_fn, NULL);
    sdci_task_leave_visitors(task);
    task->wake_user = user;
    sdci_atomic_set_wake_fn(&task->wake_fn, fn);
}

/* False: there is none to be had. */
static bool sdci_task_make_waker(sdc_task *task)
{
    const sdc_io *io = &task->client->io;
    void *waker = NULL;
    sdc_error ignored;

    if (task->waker == NULL && io->waker_create(io->user, &waker, &ignored) == SDC_OK) {
        sdci_atomic_set_ptr(&task->waker, waker);
    }
    return task->waker != NULL;
}

static void sdci_task_end_waker(sdc_task *task)
{
    const sdc_io *io = &task->client->io;
    void *waker = task->waker;

    if (waker != NULL) {
        sdci_atomic_set_ptr(&task->waker, NULL);
        sdci_task_leave_visitors(task);
        io->waker_destroy(io->user, waker);
    }
}

/* -- What other threads may read -- */

static void sdci_task_publish_stats(sdc_task *task)
{
    task->stats.bytes_in = task->call.bytes_in;
    task->stats.bytes_out = task->call.bytes_out;
    task->stats.connects = task->call.link.num_connects;
    task->stats.agent = (uint32_t)sdci_link_which(&task->call.link);
    sdci_lock(&task->lock);
    task->seen = task->stats;
    sdci_unlock(&task->lock);
}

/* NULL: there is none. Most tasks have none most of the time, so it has memory of its own. */
static void sdci_task_set_error(sdc_task *task, const sdc_error *error)
{
    const sdc_allocator *allocator = &task->client->allocator;
    sdc_error *copy = NULL;

    if (error != NULL) {
        copy = (sdc_error *)sdci_resize(allocator, NULL, 0, sizeof *copy);
    }
    if (copy != NULL) {
        *copy = *error;
    }
    sdci_lock(&task->lock);
    sdc_error *old = task->error;
    task->error = copy;
    task->err = error != NULL ? error->code : SDC_OK;
    sdci_unlock(&task->lock);
    sdci_free(allocator, old, sizeof *old);
}

/* The lock is the only thing that a reader changes. */
static uint32_t *sdci_task_lock(const sdc_task *task)
{
    return (uint32_t *)(uintptr_t)&task->lock;
}

void sdc_task_stats(const sdc_task *task, sdc_stats *out)
{
    sdci_lock(sdci_task_lock(task));
    *out = task->seen;
    sdci_unlock(sdci_task_lock(task));
}

void sdc_task_error(const sdc_task *task, sdc_error *out)
{
    sdci_lock(sdci_task_lock(task));
    sdc_err err = task->err;
    bool has_detail = task->error != NULL;
    if (has_detail) {
        *out = *task->error;
    }
    sdci_unlock(sdci_task_lock(task));
    if (!has_detail && err != SDC_OK) {
        (void)sdci_fail_plain(out, err);
    } else if (!has_detail) {
        sdci_error_clear(out);
    }
}

/* -- Exchanges of a machine -- */

/* Sends what the call's request holds; the answer's body goes to `body`. */
static void sdci_task_start(sdc_task *task, const sdci_request *request, const char *method,
                            uint32_t timeout_ms,
                            sdc_err (*body)(void *user, const void *bytes, size_t len))
{
    const sdc_client *client = task->client;

    sdci_answer_init(&task->answer, request, method);
    task->answer.body = body;
    task->answer.user = task;
    sdc_http_handler handler = sdci_answer_handler(&task->answer);
    task->stats.requests++;
    sdci_call_start(&task->call, &handler, client->max_head_bytes, client->max_body_bytes,
                    timeout_ms, task->now_ms);
}

/* Moves the exchange on and, when it is over, counts it and keeps its error. *error is the detail
   of what this answers. The machine may change the verdict before it calls this an end. */
static sdc_err sdci_task_exchange(sdc_task *task, sdci_share *share, sdc_error *error)
{
    sdci_error_clear(error);
    sdc_err err = task->call.request.err;
    if (err == SDC_OK) {
        err = sdci_call_run(&task->call, share, task->now_ms, error);
    } else {
        (void)sdci_fail_plain(error, err);
    }
    if (err == SDC_OK) {
        task->stats.answers++;
        err = sdci_answer_result(&task->answer, error);
    }
    return err;
}

static void sdci_task_succeeded(sdc_task *task)
{
    task->stats.consecutive_failures = 0;
    if (task->err != SDC_OK) {
        sdci_task_set_error(task, NULL);
    }
    sdci_task_publish_stats(task);
}

static void sdci_task_failed(sdc_task *task, const sdc_error *error)
{
    if (task->stats.consecutive_failures == 0) {
        task->failing_since_ms = task->now_ms;
    }
    task->stats.failures++;
    task->stats.consecutive_failures++;
    sdci_task_set_error(task, error);
    sdci_task_publish_stats(task);
}

/* -- Several agents -- */

/* Goes to that agent, which is left again by its own failures alone; and, unless it is the first of
   the list, after a while, each task at a time of its own. */
static void sdci_task_use_agent(sdc_task *task, size_t which)
{
    sdci_link_use(&task->call.link, which);
    task->home_at_ms = which == 0 ? SDCI_FOREVER
                     : task->now_ms + SDCI_RETURN_MS +
                       sdci_random_upto(&task->random, SDCI_RETURN_MS / 4);
}

/* After a failure that was counted: on to the next agent, if this one is to blame. */
static bool sdci_task_leave_agent(sdc_task *task, sdc_err err)
{
    const sdci_link *link = &task->call.link;
    bool leaves = link->num_agents > 1 &&
                  sdci_answer_blames_agent(&task->answer, err, task->stats.consecutive_failures);

    if (leaves) {
        sdci_task_use_agent(task, (sdci_link_which(link) + 1) % link->num_agents);
    }
    return leaves;
}

/* Failures as rounds of the list: to ask another agent is no reason to wait. */
static uint32_t sdci_task_rounds(const sdc_task *task, uint32_t num_failures)
{
    uint32_t num_agents = (uint32_t)task->call.link.num_agents;

    return num_failures / num_agents + (num_failures % num_agents != 0 ? 1 : 0);
}

/* -- Step -- */

static void sdci_task_init(sdc_task *task, sdc_client *client, const sdci_task_ops *ops)
{
    memset(task, 0, sizeof *task);
    task->ops = ops;
    task->client = sdci_client_retain(client);
    task->told.fd = -1;
    task->random.state = client->io.random(client->io.user);
    task->now_ms = sdc_client_now_ms(client);
    task->home_at_ms = SDCI_FOREVER;
    sdci_client_init_call(client, &task->call);
    task->call.link.task = task;
    task->call.link.before_close = sdci_task_before_close;
    task->call.link.user = task;
}

/* The waker is gone by now: a task is not destroyed while it blocks, but by its own callbacks. Who
   has just stopped it from elsewhere may still be on the way out. */
static void sdci_task_deinit(sdc_task *task)
{
    sdci_task_leave_visitors(task);
    sdci_task_set_error(task, NULL);
    sdci_call_deinit(&task->call);
    sdci_client_release(task->client);
}

/* Destroys the object at once, or at the end of the step that is running. */
static void sdci_task_destroy(sdc_task *task)
{
    sdci_atomic_set(&task->is_stopping, 1);
    if (task->is_stepping) {
        task->is_dead = true;
    } else {
        task->is_stepping = true;       /* hooks that are called from here cannot come back */
        task->ops->release(task);
    }
}

/* One round: everything that can be done without waiting. */
static sdc_err sdci_task_round(sdc_task *task, bool may_block)
{
    char few[SDCI_FEW_BYTES];

    sdci_atomic_set(&task->is_woken, 0);
    task->now_ms = sdc_client_now_ms(task->client);
    sdci_kit *kit = sdci_client_lend(task->client);
    sdci_share share = sdci_share_of(kit, few);
    share.left = SDCI_STEP_BYTES;
    share.may_block = may_block;
    sdc_err err = task->ops->advance(task, &share);
    sdci_client_give_back(task->client, kit);
    if (task->ops->deadline(task) > task->now_ms) {
        sdci_call_watch(&task->call);
    }
    sdci_task_publish_stats(task);
    if (task->wants_fn != NULL && !task->is_dead) {
        sdci_task_tell(task, sdc_task_wants(task));
    }
    return err;
}

/* Waits for what the task wants, or until `limit`. Without a descriptor for a waker a stop is
   noticed by looking now and then. */
static sdc_err sdci_task_wait(sdc_task *task, uint64_t limit_ms, sdc_error *error)
{
    const sdc_io *io = &task->client->io;
    sdc_wants wants = sdci_task_wants_at(task, task->now_ms);

    wants.deadline_ms = sdci_min(wants.deadline_ms, limit_ms);
    if (wants.deadline_ms <= task->now_ms) {
        return SDC_OK;
    }
    if (!sdci_task_make_waker(task)) {
        wants.deadline_ms = sdci_min(wants.deadline_ms, task->now_ms + SDCI_STOP_POLL_MS);
    }
    /* asked again, now that a wake finds the waker */
    wants.timeout_ms = sdci_atomic_get(&task->is_woken) != 0 ? 0
                     : sdci_timeout_ms(wants.deadline_ms, sdc_client_now_ms(task->client));
    return io->wait(io->user, task->waker, &wants, error);
}

/* The blocking form: rounds with a wait between them. */
static sdc_err sdci_task_step_until(sdc_task *task, uint64_t limit_ms)
{
    sdc_error error;

    for (;;) {
        sdc_err err = sdci_task_round(task, true);
        if (err != SDC_AGAIN || task->is_dead) {
            return err;
        }
        if (task->now_ms >= limit_ms) {
            return SDC_AGAIN;
        }
        sdci_error_clear(&error);
        err = sdci_task_wait(task, limit_ms, &error);
        if (err != SDC_OK) {
            sdci_error_settle(&error, err);
            sdci_task_failed(task, &error);
            return err;
        }
    }
}

/* Ends what began with is_stepping: whatever callbacks asked for meanwhile is done now. */
static sdc_err sdci_task_leave(sdc_task *task, sdc_err err)
{
    if (task->is_dead) {
        task->ops->release(task);
        return SDC_GONE;
    }
    task->is_stepping = false;
    return err;
}

sdc_err sdc_step(sdc_task *task, int timeout_ms)
{
    sdc_err err;

    if (task->is_stepping) {
        return SDC_ERR_ARG;
    }
    task->is_stepping = true;
    if (timeout_ms == 0) {
        err = sdci_task_round(task, false);
    } else {
        uint64_t limit_ms = timeout_ms < 0 ? SDCI_FOREVER
                          : sdc_client_now_ms(task->client) + (uint64_t)timeout_ms;
        err = sdci_task_step_until(task, limit_ms);
        sdci_task_end_waker(task);
    }
    return sdci_task_leave(task, err);
}

/* ---- cache ------------------------------------------------- [sdc:cache] --
   Events and who hears of them. An event is one block of memory: its head, the
   texts and arrays that its instances point to, the instances, and where each
   one stood in the body that it is made of, with the print of its entry. Nothing
   in it that a program can see ever changes, so threads share it by a count alone.

   A list is compared with the newest event while it is gathered, each instance
   with the one that stood at the same place of the last body. As long as they
   are equal nothing is kept. Then only instances that differ are: the block of
   the next event is those, and a copy of what is taken over from the old one,
   moved as a whole. Texts that nobody points to any more come along until they
   are a sixteenth; then the block is written anew.
   ------------------------------------------------------------------------- */

#define SDCI_LIST_MAX    ((size_t)1 << 30)
#define SDCI_LIST_AHEAD  8u             /* how far a lost place is looked for in the old list */
#define SDCI_LIST_RECENT 128u
#define SDCI_IS_FRESH    0x80000000u

typedef struct sdci_event {
    sdc_event pub;              /* first, so that the one is the other */
    sdc_allocator allocator;    /* outlives the client: whoever holds the event may be last */
    size_t size;                /* of the whole block */
    size_t text_end;            /* where texts and arrays end, which begin behind this head */
    size_t waste;               /* about how many bytes of these nobody points to */
    uint32_t *order;            /* where the nth of the body stands; the cache's alone */
    uint64_t *prints;           /* of the nth of the body, or 0; the cache's alone */
    const sdc_event *base;      /* only to be compared: the event that this one was made from */
    uintptr_t moved;            /* how far from there to here what was taken over has moved */
    uint32_t holds;             /* atomic */
    char message[sizeof(((sdc_error *)0)->message)];
} sdci_event;

/* The program sees events as constant; only the count in front of them changes. */
static sdci_event *sdci_event_of(const sdc_event *event)
{
    return (sdci_event *)(uintptr_t)event;
}

const sdc_event *sdc_event_retain(const sdc_event *event)
{
    (void)sdci_atomic_add(&sdci_event_of(event)->holds, 1);
    return event;
}

static void sdci_event_free(sdci_event *event)
{
    sdc_allocator allocator = event->allocator;

    sdci_free(&allocator, event, event->size);
}

void sdc_event_release(const sdc_event *event)
{
    if (event != NULL && sdci_atomic_sub(&sdci_event_of(event)->holds, 1) == 0) {
        sdci_event_free(sdci_event_of(event));
    }
}

/* -- Comparing -- */

static int sdci_compare_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b ? 1 : 0;
}

/* The order of an event. What follows id only makes it the same for the same set. */
static int sdci_compare_place(const sdc_instance *a, const sdc_instance *b)
{
    int order = strcmp(a->addr, b->addr);

    order = order != 0 ? order : strcmp(a->node, b->node);
    order = order != 0 ? order : strcmp(a->id, b->id);
    order = order != 0 ? order : strcmp(a->peer, b->peer);
    order = order != 0 ? order : strcmp(a->partition, b->partition);
    return order != 0 ? order : strcmp(a->ns, b->ns);
}

/* Equal: the same instance. Service IDs are unique on one node alone. */
static int sdci_compare_identity(const sdc_instance *a, const sdc_instance *b)
{
    int order = strcmp(a->id, b->id);

    order = order != 0 ? order : strcmp(a->node, b->node);
    order = order != 0 ? order : strcmp(a->peer, b->peer);
    order = order != 0 ? order : strcmp(a->partition, b->partition);
    order = order != 0 ? order : strcmp(a->ns, b->ns);
    return order != 0 || a->id[0] != '\0' ? order : strcmp(a->addr, b->addr);
}

/* Neighbours in an event's array: the order of that array again. */
static int sdci_compare_position(const sdc_instance *a, const sdc_instance *b)
{
    return sdci_compare_u64((uint64_t)(uintptr_t)a, (uint64_t)(uintptr_t)b);
}

/* Most texts of two instances are both empty, or differ in no byte. */
static bool sdci_same_text(const char *a, const char *b)
{
    return a[0] == b[0] && (a[0] == '\0' || strcmp(a, b) == 0);
}

static bool sdci_same_tags(const sdc_instance *a, const sdc_instance *b)
{
    for (size_t i = 0; i < a->num_tags; i++) {
        if (!sdci_same_text(a->tags[i], b->tags[i])) {
            return false;
        }
    }
    return true;
}

static bool sdci_same_meta(const sdc_instance *a, const sdc_instance *b)
{
    for (size_t i = 0; i < a->num_meta; i++) {
        if (!sdci_same_text(a->meta[i].key, b->meta[i].key) ||
            !sdci_same_text(a->meta[i].value, b->meta[i].value)) {
            return false;
        }
    }
    return true;
}

static bool sdci_same_addresses(const sdc_instance *a, const sdc_instance *b)
{
    for (size_t i = 0; i < a->num_tagged_addresses; i++) {
        const sdc_address *x = &a->tagged_addresses[i];
        const sdc_address *y = &b->tagged_addresses[i];
        if (!sdci_same_text(x->key, y->key) || !sdci_same_text(x->address, y->address) ||
            x->port != y->port) {
            return false;
        }
    }
    for (size_t i = 0; i < a->num_ports; i++) {
        const sdc_port *x = &a->ports[i];
        const sdc_port *y = &b->ports[i];
        if (!sdci_same_text(x->name, y->name) || x->port != y->port ||
            x->is_default != y->is_default) {
            return false;
        }
    }
    return true;
}

/* All that a program can see of them is equal. What tells instances apart comes first. */
static bool sdci_same_instance(const sdc_instance *a, const sdc_instance *b)
{
    return a->port == b->port && a->status == b->status && a->weight == b->weight &&
           a->num_tags == b->num_tags && a->num_meta == b->num_meta &&
           a->num_tagged_addresses == b->num_tagged_addresses && a->num_ports == b->num_ports &&
           sdci_same_text(a->id, b->id) && sdci_same_text(a->addr, b->addr) &&
           sdci_same_text(a->node, b->node) && sdci_same_text(a->host, b->host) &&
           sdci_same_tags(a, b) && sdci_same_meta(a, b) && sdci_same_addresses(a, b) &&
           sdci_same_text(a->service, b->service) &&
           sdci_same_text(a->datacenter, b->datacenter) && sdci_same_text(a->ns, b->ns) &&
           sdci_same_text(a->partition, b->partition) && sdci_same_text(a->peer, b->peer) &&
           sdci_same_text(a->region, b->region) && sdci_same_text(a->zone, b->zone) &&
           sdci_same_text(a->socket_path, b->socket_path);
}

static bool sdci_same_instances(const sdc_event *a, const sdc_event *b)
{
    if (a->num_instances != b->num_instances) {
        return false;
    }
    for (size_t i = 0; i < a->num_instances; i++) {
        if (!sdci_same_instance(&a->instances[i], &b->instances[i])) {
            return false;
        }
    }
    return true;
}

typedef int (*sdci_compare_fn)(const sdc_instance *a, const sdc_instance *b);

/* Merges the sorted halves [from, middle) and [middle, to) of `a` into `into`. */
static void sdci_merge(const sdc_instance **a, const sdc_instance **into, size_t from,
                       size_t middle, size_t to, sdci_compare_fn compare)
{
    size_t left = from;
    size_t right = middle;

    for (size_t i = from; i < to; i++) {
        bool takes_left = left < middle && (right >= to || compare(a[left], a[right]) <= 0);
        into[i] = takes_left ? a[left++] : a[right++];
    }
}

/* A merge sort from the bottom up: stable, and with a known bound, which qsort does not promise.
   `spare` has room for as many. */
static void sdci_sort(const sdc_instance **items, const sdc_instance **spare, size_t num,
                      sdci_compare_fn compare)
{
    const sdc_instance **from = items;
    const sdc_instance **to = spare;

    for (size_t width = 1; width < num; width *= 2) {
        for (size_t at = 0; at < num; at += 2 * width) {
            size_t middle = (size_t)sdci_min(at + width, num);
            size_t end = (size_t)sdci_min(at + 2 * width, num);
            sdci_merge(from, to, at, middle, end, compare);
        }
        const sdc_instance **swap = from;
        from = to;
        to = swap;
    }
    if (from != items) {
        memcpy(items, from, num * sizeof *items);
    }
}

/* -- Gathering a list -- */

/* Memory of an event that is gone, for the next one. */
typedef struct sdci_spare {
    void *ptr;                  /* or NULL */
    size_t size;
} sdci_spare;

/* A text or an array of texts that was kept, by its offset; len 0: none. */
typedef struct sdci_kept {
    uint32_t at, len;
    bool is_array;
} sdci_kept;

/* Those of a moment ago, by a hash: in each pair the one that was wanted last comes first. */
typedef struct sdci_recent {
    sdci_kept pairs[SDCI_LIST_RECENT][2];
} sdci_recent;

/* Instances on their way into an event. Those that are not taken over from the old one are fresh:
   in a block that is to be the event's their texts and arrays grow from behind the head, and the
   instances themselves from the end downwards. Until that block is known to stay where it is, what
   points into it is an offset. */
typedef struct sdci_list {
    const sdc_allocator *allocator;
    sdci_event *old;            /* retained; NULL: all are fresh */
    sdci_spare *spare;          /* where a block may come from; or NULL */
    char *block;                /* NULL until there is something to keep */
    size_t cap;
    size_t text_end;
    sdci_recent *recent;
    sdci_buf from;              /* uint32_t for each: where in the old event, or which fresh one;
                                   not written while all is as in the last body */
    sdci_buf prints;            /* uint64_t for each, likewise */
    size_t num, num_fresh;
    size_t next;                /* in the last body: what the next instance is compared with */
    size_t num_lost;            /* in a row: instances that were not found there */
    bool is_changed;
    sdc_err err;
} sdci_list;

static void sdci_list_init(sdci_list *list, const sdc_allocator *allocator, const sdc_event *old,
                           sdci_spare *spare)
{
    memset(list, 0, sizeof *list);
    list->allocator = allocator;
    list->old = old != NULL ? sdci_event_of(sdc_event_retain(old)) : NULL;
    list->spare = spare;
    list->is_changed = old == NULL;
    sdci_buf_init(&list->from, allocator, SDCI_LIST_MAX);
    sdci_buf_init(&list->prints, allocator, SDCI_LIST_MAX);
}

static void sdci_list_forget_old(sdci_list *list)
{
    if (list->old != NULL) {
        sdc_event_release(&list->old->pub);
        list->old = NULL;
    }
}

static void sdci_list_deinit(sdci_list *list)
{
    sdci_free(list->allocator, list->block, list->cap);
    sdci_free(list->allocator, list->recent, sizeof *list->recent);
    sdci_buf_deinit(&list->from);
    sdci_buf_deinit(&list->prints);
    sdci_list_forget_old(list);
    list->block = NULL;
    list->recent = NULL;
}

static sdc_err sdci_list_err(const sdci_list *list)
{
    if (list->err != SDC_OK) {
        return list->err;
    }
    return list->from.err != SDC_OK ? list->from.err : list->prints.err;
}

static size_t sdci_list_num_old(const sdci_list *list)
{
    return list->old != NULL ? list->old->pub.num_instances : 0;
}

/* The body was the last one again, as far as the old event tells. */
static bool sdci_list_is_same(const sdci_list *list)
{
    return !list->is_changed && list->num == sdci_list_num_old(list);
}

static sdc_instance *sdci_list_fresh(const sdci_list *list)
{
    return (sdc_instance *)(void *)(list->block + list->cap) - list->num_fresh;
}

/* Sets the length of the block; what stands at its end goes along. */
static bool sdci_list_grow(sdci_list *list, size_t cap)
{
    size_t fresh = list->num_fresh * sizeof(sdc_instance);

    SDC_ASSERT(cap >= list->cap);
    char *block = (char *)sdci_resize(list->allocator, list->block, list->cap, cap);
    if (block == NULL) {
        list->err = SDC_ERR_NOMEM;
        return false;
    }
    memmove(block + cap - fresh, block + list->cap - fresh, fresh);
    list->block = block;
    list->cap = cap;
    return true;
}

static size_t sdci_aligned(size_t at)
{
    return (at + sizeof(void *) - 1) / sizeof(void *) * sizeof(void *);
}

/* The next length of the block. A list with few changes needs little of its own, and one with many
   becomes about as long as the old one: that is the next step then, and only small ones follow it.
   Without an old one the first steps are long, since what they leave behind is of little use. */
static size_t sdci_list_next_cap(const sdci_list *list)
{
    size_t half_more = list->cap + list->cap / 2;

    if (sdci_list_num_old(list) == 0) {
        return list->cap < SDCI_LARGE_BYTES ? (size_t)sdci_max(4 * list->cap, 1024) : half_more;
    }
    size_t guess = list->old->size + list->old->size / 16;
    if (list->cap >= guess) {
        return list->cap + (size_t)sdci_min(list->cap / 2, SDCI_LARGE_BYTES);
    }
    return guess < SDCI_LARGE_BYTES || half_more > guess / 8 ? guess : half_more;
}

static bool sdci_list_room(sdci_list *list, size_t extra)
{
    size_t need = list->text_end + list->num_fresh * sizeof(sdc_instance) + extra;

    if (list->err != SDC_OK || need <= list->cap) {
        return list->err == SDC_OK;
    }
    if (extra > SDCI_LIST_MAX || need > SDCI_LIST_MAX) {
        list->err = SDC_ERR_LIMIT;
        return false;
    }
    return sdci_list_grow(list, sdci_aligned((size_t)sdci_max(sdci_list_next_cap(list), need)));
}

/* Begins the block, where offset 0 of the texts is the empty one. */
static bool sdci_list_begin(sdci_list *list)
{
    if (list->spare != NULL && list->spare->ptr != NULL) {
        list->block = (char *)list->spare->ptr;
        list->cap = list->spare->size;
        list->spare->ptr = NULL;
    }
    list->recent = (sdci_recent *)sdci_new(list->allocator, sizeof *list->recent);
    list->err = list->recent == NULL ? SDC_ERR_NOMEM : list->err;
    list->text_end = sizeof(sdci_event);
    if (!sdci_list_room(list, 1)) {
        return false;
    }
    list->block[list->text_end] = '\0';
    list->text_end++;
    return true;
}

/* An offset where a pointer will be. */
static void *sdci_as_pointer(size_t offset)
{
    return (void *)(uintptr_t)offset;
}

static const char *sdci_list_put(sdci_list *list, const char *text, size_t len)
{
    size_t at = list->text_end;

    if (!sdci_list_room(list, len + 1)) {
        return NULL;
    }
    memcpy(list->block + at, text, len);
    list->block[at + len] = '\0';
    list->text_end += len + 1;
    return (const char *)sdci_as_pointer(at);
}

/* Where the same bytes were kept a moment ago; NULL: not, and then those at `at` are. */
static const sdci_kept *sdci_list_recall(sdci_list *list, const char *bytes, size_t len, size_t at,
                                         bool is_array)
{
    sdci_kept *pair = list->recent->pairs[sdci_hash(bytes, len, 0) % SDCI_LIST_RECENT];

    for (size_t i = 0; i < 2; i++) {
        sdci_kept found = pair[i];
        if (found.len == len && found.is_array == is_array &&
            memcmp(list->block + found.at, bytes, len) == 0) {
            pair[i] = pair[0];
            pair[0] = found;
            return &pair[0];
        }
    }
    pair[1] = pair[0];
    pair[0].at = (uint32_t)at;
    pair[0].len = (uint32_t)len;
    pair[0].is_array = is_array;
    return NULL;
}

/* Instances of one service have most of their texts in common: what was kept a moment ago is not
   kept again. */
static const char *sdci_list_keep(sdci_list *list, const char *text)
{
    if (list->err != SDC_OK || sdci_is_empty(text)) {
        return (const char *)sdci_as_pointer(sizeof(sdci_event));
    }
    size_t len = strlen(text);
    const sdci_kept *kept = sdci_list_recall(list, text, len + 1, list->text_end, false);
    return kept != NULL ? (const char *)sdci_as_pointer(kept->at) : sdci_list_put(list, text, len);
}

/* Room for an array, aligned for pointers. Answers its offset. */
static size_t sdci_list_array(sdci_list *list, size_t size)
{
    size_t at = sdci_aligned(list->text_end);

    if (size == 0) {
        return sizeof(sdci_event);      /* as the empty text: no place of its own */
    }
    if (sdci_list_room(list, at - list->text_end + size)) {
        memset(list->block + list->text_end, 0, at - list->text_end + size);
        list->text_end = at + size;
    }
    return at;
}

static void sdci_list_set(sdci_list *list, size_t at, const void *item, size_t size)
{
    if (list->err == SDC_OK) {
        memcpy(list->block + at, item, size);
    }
}

/* An array of texts alone that was kept a moment ago is not kept again either: then all its texts
   are older than it, and nothing stands behind it. Answers where the one to use is. */
static size_t sdci_list_share(sdci_list *list, size_t at, size_t size)
{
    if (list->err != SDC_OK || size == 0) {
        return at;
    }
    const sdci_kept *kept = sdci_list_recall(list, list->block + at, size, at, true);
    if (kept == NULL) {
        return at;
    }
    list->text_end = at;
    return kept->at;
}

static void sdci_list_add_tags(sdci_list *list, sdc_instance *out, const sdc_instance *in)
{
    size_t size = in->num_tags * sizeof in->tags[0];
    size_t at = sdci_list_array(list, size);

    for (size_t i = 0; i < in->num_tags; i++) {
        const char *tag = sdci_list_keep(list, in->tags[i]);
        sdci_list_set(list, at + i * sizeof tag, &tag, sizeof tag);
    }
    out->tags = (const char *const *)sdci_as_pointer(sdci_list_share(list, at, size));
}

static void sdci_list_add_meta(sdci_list *list, sdc_instance *out, const sdc_instance *in)
{
    size_t size = in->num_meta * sizeof in->meta[0];
    size_t at = sdci_list_array(list, size);

    for (size_t i = 0; i < in->num_meta; i++) {
        sdc_kv pair;
        pair.key = sdci_list_keep(list, in->meta[i].key);
        pair.value = sdci_list_keep(list, in->meta[i].value);
        sdci_list_set(list, at + i * sizeof pair, &pair, sizeof pair);
    }
    out->meta = (const sdc_kv *)sdci_as_pointer(sdci_list_share(list, at, size));
}

static void sdci_list_add_addresses(sdci_list *list, sdc_instance *out, const sdc_instance *in)
{
    size_t at = sdci_list_array(list, in->num_tagged_addresses * sizeof(sdc_address));

    out->tagged_addresses = (const sdc_address *)sdci_as_pointer(at);
    for (size_t i = 0; i < in->num_tagged_addresses; i++) {
        sdc_address address = in->tagged_addresses[i];
        address.key = sdci_list_keep(list, in->tagged_addresses[i].key);
        address.address = sdci_list_keep(list, in->tagged_addresses[i].address);
        sdci_list_set(list, at + i * sizeof address, &address, sizeof address);
    }
}

static void sdci_list_add_ports(sdci_list *list, sdc_instance *out, const sdc_instance *in)
{
    size_t at = sdci_list_array(list, in->num_ports * sizeof(sdc_port));

    out->ports = (const sdc_port *)sdci_as_pointer(at);
    for (size_t i = 0; i < in->num_ports; i++) {
        sdc_port port = in->ports[i];
        port.name = sdci_list_keep(list, in->ports[i].name);
        sdci_list_set(list, at + i * sizeof port, &port, sizeof port);
    }
}

/* A program that fills a cache may give addr alone, or host and port alone. */
static const char *sdci_list_addr(sdci_list *list, const sdc_instance *in)
{
    sdci_buf addr;

    if (!sdci_is_empty(in->addr)) {
        return sdci_list_put(list, in->addr, strlen(in->addr));
    }
    sdci_buf_init(&addr, list->allocator, SDCI_LIST_MAX);
    sdci_put_addr(&addr, in->host, in->port);
    list->err = list->err == SDC_OK ? addr.err : list->err;
    const char *at = list->err == SDC_OK ? sdci_list_put(list, addr.ptr, addr.len) : NULL;
    sdci_buf_deinit(&addr);
    return at;
}

/* An instance with all that it points to. addr and id are hardly ever those of another one. */
static void sdci_list_add_fresh(sdci_list *list, const sdc_instance *in)
{
    sdc_instance out = *in;

    if (list->err != SDC_OK || (list->recent == NULL && !sdci_list_begin(list))) {
        return;
    }
    out.addr = sdci_list_addr(list, in);
    out.id = sdci_is_empty(in->id) ? sdci_list_keep(list, in->id)
                                   : sdci_list_put(list, in->id, strlen(in->id));
    const char **const texts[] = { &out.host, &out.socket_path, &out.service, &out.node,
                                   &out.datacenter, &out.ns, &out.partition, &out.peer,
                                   &out.region, &out.zone };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && list->err == SDC_OK; i++) {
        *texts[i] = sdci_list_keep(list, *texts[i]);
    }
    sdci_list_add_tags(list, &out, in);
    sdci_list_add_addresses(list, &out, in);
    sdci_list_add_ports(list, &out, in);
    sdci_list_add_meta(list, &out, in);
    if (sdci_list_room(list, sizeof out)) {
        list->num_fresh++;
        memcpy(sdci_list_fresh(list), &out, sizeof out);
    }
}

/* Where in the old event an instance stands that is equal: it was at the next place of the last
   body, or a little behind it. */
static bool sdci_list_find(sdci_list *list, const sdc_instance *in, uint32_t *at)
{
    const sdci_event *old = list->old;
    size_t num = old->pub.num_instances;
    size_t end = (size_t)sdci_min(num, list->next + SDCI_LIST_AHEAD + list->num_lost);

    for (size_t k = list->next; k < end; k++) {
        *at = old->order[k];
        if (sdci_same_instance(&old->pub.instances[*at], in)) {
            list->next = k + 1;
            list->num_lost = 0;
            return true;
        }
    }
    if (list->next < num &&
        sdci_compare_identity(&old->pub.instances[old->order[list->next]], in) == 0) {
        list->next++;
    } else {
        list->num_lost += list->num_lost < 8 * SDCI_LIST_AHEAD ? 1 : 0;
    }
    return false;
}

/* From here on the body is not the last one: what was equal so far is written down. */
static void sdci_list_diverge(sdci_list *list)
{
    list->is_changed = true;
    if (sdci_buf_reserve(&list->from, sdci_list_num_old(list) * sizeof(uint32_t))) {
        sdci_put(&list->from, list->old->order, list->num * sizeof(uint32_t));
    }
    if (sdci_buf_reserve(&list->prints, sdci_list_num_old(list) * sizeof(uint64_t))) {
        sdci_put(&list->prints, list->old->prints, list->num * sizeof(uint64_t));
    }
}

static void sdci_list_note(sdci_list *list, uint32_t from, uint64_t print)
{
    if (list->is_changed) {
        sdci_put(&list->from, &from, sizeof from);
        sdci_put(&list->prints, &print, sizeof print);
    }
    list->num++;
}

/* The nth of the last body again. */
static void sdci_list_add_known(sdci_list *list, size_t nth)
{
    list->next = nth + 1;
    list->num_lost = 0;
    if (!list->is_changed && nth != list->num) {
        sdci_list_diverge(list);
    }
    sdci_list_note(list, list->old->order[nth], list->old->prints[nth]);
}

/* `print`: of the entry that it was made of, or 0. An equal instance keeps it in the old event,
   where the cache alone looks for it. */
static void sdci_list_add(sdci_list *list, const sdc_instance *in, uint64_t print)
{
    uint32_t from = 0;
    bool is_old = list->old != NULL && sdci_list_find(list, in, &from);

    if (is_old) {
        uint64_t *known = &list->old->prints[list->next - 1];
        *known = print != 0 ? print : *known;
        sdci_list_add_known(list, list->next - 1);
        return;
    }
    if (!list->is_changed) {
        sdci_list_diverge(list);
    }
    from = SDCI_IS_FRESH | (uint32_t)list->num_fresh;
    sdci_list_add_fresh(list, in);
    sdci_list_note(list, from, print);
}

/* -- From a list to an event -- */

static const char *sdci_moved(const char *text, uintptr_t by)
{
    return (const char *)((uintptr_t)text + by);
}

/* The block that pointers move to, and how far. */
typedef struct sdci_move {
    uintptr_t block;
    size_t size;
    uintptr_t by;
} sdci_move;

static sdci_move sdci_move_to(const void *block, size_t size, uintptr_t by)
{
    sdci_move move;

    move.block = (uintptr_t)block;
    move.size = size;
    move.by = by;
    return move;
}

/* Instances share arrays of texts: another one may have moved this one's, whose texts are in the
   new block then. They are not as long as they are offsets, or in the old block. */
static bool sdci_has_moved(const char *text, const sdci_move *move)
{
    return (uintptr_t)text - move->block < move->size;
}

static void sdci_relocate_texts(const char **texts, size_t num, const sdci_move *move)
{
    if (num > 0 && !sdci_has_moved(texts[0], move)) {
        for (size_t i = 0; i < num; i++) {
            texts[i] = sdci_moved(texts[i], move->by);
        }
    }
}

/* Moves every pointer of an instance by the same distance: its texts and arrays have moved there,
   or have found their place at last. The arrays are read where they are now. */
static void sdci_relocate(sdc_instance *at, const sdci_move *move)
{
    uintptr_t by = move->by;
    const char **tags = (const char **)((uintptr_t)at->tags + by);
    sdc_kv *meta = (sdc_kv *)((uintptr_t)at->meta + by);
    sdc_address *addresses = (sdc_address *)((uintptr_t)at->tagged_addresses + by);
    sdc_port *ports = (sdc_port *)((uintptr_t)at->ports + by);

    at->addr = sdci_moved(at->addr, by);
    at->host = sdci_moved(at->host, by);
    at->socket_path = sdci_moved(at->socket_path, by);
    at->id = sdci_moved(at->id, by);
    at->service = sdci_moved(at->service, by);
    at->node = sdci_moved(at->node, by);
    at->datacenter = sdci_moved(at->datacenter, by);
    at->ns = sdci_moved(at->ns, by);
    at->partition = sdci_moved(at->partition, by);
    at->peer = sdci_moved(at->peer, by);
    at->region = sdci_moved(at->region, by);
    at->zone = sdci_moved(at->zone, by);
    sdci_relocate_texts(tags, at->num_tags, move);
    sdci_relocate_texts(&meta->key, 2 * at->num_meta, move);
    for (size_t i = 0; i < at->num_tagged_addresses; i++) {
        addresses[i].key = sdci_moved(addresses[i].key, by);
        addresses[i].address = sdci_moved(addresses[i].address, by);
    }
    for (size_t i = 0; i < at->num_ports; i++) {
        ports[i].name = sdci_moved(ports[i].name, by);
    }
    at->tags = tags;
    at->meta = meta;
    at->tagged_addresses = addresses;
    at->ports = ports;
}

/* Tags, meta and tagged addresses in one order, so that it does not count in a comparison. */
static void sdci_canonical(sdc_instance *at)
{
    sdci_sort_small((void *)(uintptr_t)at->tags, at->num_tags, sizeof at->tags[0],
                    sdci_compare_tags);
    sdci_sort_small((void *)(uintptr_t)at->meta, at->num_meta, sizeof at->meta[0],
                    sdci_compare_kv);
    sdci_sort_small((void *)(uintptr_t)at->tagged_addresses, at->num_tagged_addresses,
                    sizeof at->tagged_addresses[0], sdci_compare_address);
}

static size_t sdci_event_text_len(const sdci_event *event)
{
    return event != NULL ? event->text_end - sizeof *event : 0;
}

/* How much of the old texts nobody would point to if they were taken over. */
static size_t sdci_list_waste(const sdci_list *list)
{
    size_t num_old = sdci_list_num_old(list);
    size_t num_gone = num_old - (list->num - list->num_fresh);
    size_t each = num_old > 0 ? sdci_event_text_len(list->old) / num_old : 0;

    return list->old != NULL ? list->old->waste + num_gone * each : 0;
}

/* All gathered: where too much would be taken over for nothing, what is left of the old event
   becomes fresh too. */
static void sdci_list_finish(sdci_list *list)
{
    if (!list->is_changed) {
        sdci_list_diverge(list);
    }
    if (list->recent == NULL) {
        (void)sdci_list_begin(list);
    }
    if (sdci_list_err(list) != SDC_OK ||
        sdci_list_waste(list) <= sdci_event_text_len(list->old) / 16 + 1024) {
        return;
    }
    uint32_t *from = (uint32_t *)(void *)list->from.ptr;
    for (size_t i = 0; i < list->num; i++) {
        if ((from[i] & SDCI_IS_FRESH) == 0) {
            const sdc_instance *kept = &list->old->pub.instances[from[i]];
            from[i] = SDCI_IS_FRESH | (uint32_t)list->num_fresh;
            sdci_list_add_fresh(list, kept);
        }
    }
    sdci_list_forget_old(list);
}

/* A block in which all has its place; the instances find theirs. */
typedef struct sdci_building {
    const sdci_list *list;
    sdc_instance *into;         /* the event's array; the fresh ones stand at its end */
    sdc_instance *fresh;
    uint64_t *prints;           /* the event's */
    uint32_t *order;            /* the event's; until the end, places of the sorted fresh ones */
    uint32_t *place;            /* of each old one in the event; then of each fresh one by number,
                                   among the sorted ones */
    const sdc_instance **sorted;    /* the fresh ones, and room for as many to sort with */
    size_t size;                /* of `sorted` and `place`, one piece of memory */
    sdci_move fresh_move;       /* from offsets */
    sdci_move old_move;         /* of what is taken over */
} sdci_building;

/* Texts, copied texts, instances, prints, order. */
static sdc_err sdci_building_layout(sdci_building *b, sdci_list *list)
{
    size_t old_len = sdci_event_text_len(list->old);
    size_t old_at = sdci_aligned(list->text_end);
    size_t into_at = sdci_aligned(old_at + old_len);
    size_t into_end = into_at + list->num * sizeof *b->into;
    size_t prints_at = (into_end + sizeof *b->prints - 1) & ~(sizeof *b->prints - 1);
    size_t order_at = prints_at + list->num * sizeof *b->prints;
    size_t size = (order_at + list->num * sizeof *b->order + 7) & ~(size_t)7;
    size_t fresh_len = list->num_fresh * sizeof *b->into;

    if (size > SDCI_LIST_MAX) {
        return SDC_ERR_LIMIT;
    }
    if (size > list->cap && !sdci_list_grow(list, size)) {
        return SDC_ERR_NOMEM;
    }
    memmove(list->block + into_end - fresh_len, sdci_list_fresh(list), fresh_len);
    if (list->cap - size > sdci_min(size / 16, 4096)) {
        char *block = (char *)sdci_resize(list->allocator, list->block, list->cap, size);
        list->cap = block != NULL ? size : list->cap;
        list->block = block != NULL ? block : list->block;
    }
    if ((uintptr_t)list->block < list->cap) {
        return SDC_ERR_NOMEM;           /* so low that offsets would look like addresses */
    }
    b->fresh_move = sdci_move_to(list->block, list->cap, (uintptr_t)list->block);
    if (list->old != NULL) {
        memcpy(list->block + old_at, list->old + 1, old_len);
        b->old_move = sdci_move_to(list->block, list->cap, (uintptr_t)list->block + old_at -
                                                               (uintptr_t)(list->old + 1));
    }
    list->text_end = old_at + old_len;
    b->list = list;
    b->into = (sdc_instance *)(void *)(list->block + into_at);
    b->fresh = b->into + (list->num - list->num_fresh);
    b->prints = (uint64_t *)(void *)(list->block + prints_at);
    b->order = (uint32_t *)(void *)(list->block + order_at);
    return SDC_OK;
}

static sdc_err sdci_building_lend(sdci_building *b)
{
    size_t num_old = sdci_list_num_old(b->list);
    size_t num_fresh = b->list->num_fresh;

    b->size = 2 * num_fresh * sizeof *b->sorted + (num_old + num_fresh + 1) * sizeof *b->place;
    b->sorted = (const sdc_instance **)sdci_resize(b->list->allocator, NULL, 0, b->size);
    if (b->sorted == NULL) {
        return SDC_ERR_NOMEM;
    }
    b->place = (uint32_t *)(void *)(b->sorted + 2 * num_fresh);
    return SDC_OK;
}

/* Puts each of the fresh ones where `sorted` says, going along each circle of moves. */
static void sdci_building_permute(sdci_building *b)
{
    for (size_t i = 0; i < b->list->num_fresh; i++) {
        sdc_instance moving = b->fresh[i];
        size_t at = i;
        while (b->sorted[at] != NULL) {
            size_t from = (size_t)(b->sorted[at] - b->fresh);
            b->sorted[at] = NULL;
            b->fresh[at] = from == i ? moving : b->fresh[from];
            at = from;
        }
    }
}

/* They were gathered from the last one downwards. */
static void sdci_building_sort(sdci_building *b)
{
    size_t num = b->list->num_fresh;
    uint32_t *place = b->place + sdci_list_num_old(b->list);

    for (size_t i = 0; i < num; i++) {
        sdci_relocate(&b->fresh[i], &b->fresh_move);
        sdci_canonical(&b->fresh[i]);
        b->sorted[num - 1 - i] = &b->fresh[i];
    }
    sdci_sort(b->sorted, b->sorted + num, num, sdci_compare_place);
    for (size_t i = 0; i < num; i++) {
        place[num - 1 - (size_t)(b->sorted[i] - b->fresh)] = (uint32_t)i;
    }
    sdci_building_permute(b);
}

/* Merges what is left of the old event, which is in order, and the sorted fresh ones: these make
   room at the speed at which the array is filled. True: it is the old list again. */
static bool sdci_building_merge(sdci_building *b)
{
    const uint32_t gone = UINT32_MAX;
    const uint32_t *from = (const uint32_t *)(const void *)b->list->from.ptr;
    size_t num_old = sdci_list_num_old(b->list);
    const sdc_instance *old = num_old > 0 ? b->list->old->pub.instances : NULL;
    bool is_same = b->list->num == num_old;
    size_t k = 0;
    size_t i = 0;

    for (size_t n = 0; n < num_old; n++) {
        b->place[n] = gone;
    }
    for (size_t n = 0; n < b->list->num; n++) {
        if ((from[n] & SDCI_IS_FRESH) == 0) {
            b->place[from[n]] = 0;
        }
    }
    for (size_t n = 0; n < b->list->num; n++) {
        while (i < num_old && b->place[i] == gone) {
            i++;
        }
        if (i < num_old && (k == b->list->num_fresh ||
                            sdci_compare_place(&old[i], &b->fresh[k]) <= 0)) {
            b->into[n] = old[i];
            sdci_relocate(&b->into[n], &b->old_move);
            b->place[i] = (uint32_t)n;
            is_same = is_same && i == n;
            i++;
        } else {
            memmove(&b->into[n], &b->fresh[k], sizeof b->into[n]);
            b->order[k] = (uint32_t)n;
            is_same = is_same && sdci_same_instance(&b->into[n], &old[n]);
            k++;
        }
    }
    return is_same;
}

/* Where each one of the body stands. */
static void sdci_building_order(sdci_building *b)
{
    uint32_t *from = (uint32_t *)(void *)b->list->from.ptr;
    size_t num = b->list->num;
    const uint32_t *fresh_place = b->place + sdci_list_num_old(b->list);

    for (size_t n = 0; n < num; n++) {
        bool is_fresh = (from[n] & SDCI_IS_FRESH) != 0;
        from[n] = is_fresh ? b->order[fresh_place[from[n] & ~SDCI_IS_FRESH]] : b->place[from[n]];
    }
    if (num > 0) {
        memcpy(b->order, from, num * sizeof *from);
        memcpy(b->prints, b->list->prints.ptr, num * sizeof *b->prints);
    }
}

/* The block becomes an event, and is the list's no more. */
static sdci_event *sdci_building_end(const sdci_building *b, sdci_list *list)
{
    sdci_event *event = (sdci_event *)(void *)list->block;
    size_t waste = sdci_list_waste(list);

    memset(event, 0, sizeof *event);
    event->allocator = *list->allocator;
    event->size = list->cap;
    event->text_end = list->text_end;
    event->waste = waste;
    event->order = b->order;
    event->prints = b->prints;
    event->base = list->old != NULL ? &list->old->pub : NULL;
    event->moved = b->old_move.by;
    event->holds = 1;
    event->pub.message = event->message;
    event->pub.instances = b->into;
    event->pub.num_instances = list->num;
    list->block = NULL;
    return event;
}

/* Makes an event of a list, which is used up. NULL: *err says why. *is_same: its instances are
   those of the old event, which the body had in another order. */
static sdci_event *sdci_list_to_event(sdci_list *list, bool *is_same, sdc_err *err)
{
    sdci_building b;
    sdci_event *event = NULL;

    memset(&b, 0, sizeof b);
    sdci_list_finish(list);
    *err = sdci_list_err(list);
    if (*err == SDC_OK) {
        *err = sdci_building_layout(&b, list);
    }
    if (*err == SDC_OK) {
        *err = sdci_building_lend(&b);
    }
    if (*err == SDC_OK) {
        sdci_building_sort(&b);
        *is_same = sdci_building_merge(&b);
        sdci_building_order(&b);
        event = sdci_building_end(&b, list);
        sdci_free(list->allocator, (void *)b.sorted, b.size);
    }
    return event;
}

/* An event of no instances. */
static sdci_event *sdci_event_empty(const sdc_allocator *allocator)
{
    sdci_list list;
    bool is_same = false;
    sdc_err err;

    sdci_list_init(&list, allocator, NULL, NULL);
    sdci_event *event = sdci_list_to_event(&list, &is_same, &err);
    sdci_list_deinit(&list);
    return event;
}

/* The same instances in a block of their own. */
static sdci_event *sdci_event_copy(const sdc_event *from)
{
    const sdci_event *old = sdci_event_of(from);
    sdci_event *event = (sdci_event *)sdci_resize(&old->allocator, NULL, 0, old->size);

    if (event == NULL) {
        return NULL;
    }
    size_t behind = offsetof(sdci_event, message);      /* other threads count holds meanwhile */
    memcpy(event, old, offsetof(sdci_event, holds));
    memcpy((char *)event + behind, (const char *)old + behind, old->size - behind);
    event->holds = 1;
    event->base = from;
    event->moved = (uintptr_t)event - (uintptr_t)old;
    event->pub.message = event->message;
    event->order = (uint32_t *)((uintptr_t)old->order + event->moved);
    event->prints = (uint64_t *)((uintptr_t)old->prints + event->moved);
    sdc_instance *instances = (sdc_instance *)((uintptr_t)from->instances + event->moved);
    event->pub.instances = instances;
    sdci_move move = sdci_move_to(event, event->size, event->moved);
    for (size_t i = 0; i < from->num_instances; i++) {
        sdci_relocate(&instances[i], &move);
    }
    return event;
}

/* -- One instance on its own -- */

/* Bytes laid behind one another; without a block they are only counted. */
typedef struct sdci_layout {
    char *block;                /* or NULL */
    size_t at;
} sdci_layout;

static void *sdci_lay(sdci_layout *layout, const void *bytes, size_t size)
{
    char *place = layout->block != NULL ? layout->block + layout->at : NULL;

    layout->at += size;
    if (place != NULL && size > 0) {
        memcpy(place, bytes, size);
    }
    return place;
}

static const char *sdci_lay_text(sdci_layout *layout, const char *text)
{
    return (const char *)sdci_lay(layout, text, strlen(text) + 1);
}

static void sdci_lay_pair(sdci_layout *layout, sdc_kv pair, sdc_kv *out)
{
    pair.key = sdci_lay_text(layout, pair.key);
    pair.value = sdci_lay_text(layout, pair.value);
    if (out != NULL) {
        *out = pair;
    }
}

static void sdci_lay_addresses(sdci_layout *layout, const sdc_instance *in, sdc_address *addresses,
                               sdc_port *ports)
{
    for (size_t i = 0; i < in->num_tagged_addresses; i++) {
        sdc_address address = in->tagged_addresses[i];
        address.key = sdci_lay_text(layout, address.key);
        address.address = sdci_lay_text(layout, address.address);
        if (addresses != NULL) {
            addresses[i] = address;
        }
    }
    for (size_t i = 0; i < in->num_ports; i++) {
        sdc_port port = in->ports[i];
        port.name = sdci_lay_text(layout, port.name);
        if (ports != NULL) {
            ports[i] = port;
        }
    }
}

/* *out is `in` with all that it points to laid here: the arrays first, since they are aligned as
   the block is. */
static void sdci_lay_instance(sdci_layout *layout, const sdc_instance *in, sdc_instance *out)
{
    const char **tags = (const char **)sdci_lay(layout, in->tags,
                                                in->num_tags * sizeof in->tags[0]);
    sdc_kv *meta = (sdc_kv *)sdci_lay(layout, in->meta, in->num_meta * sizeof in->meta[0]);
    sdc_address *addresses = (sdc_address *)sdci_lay(
        layout, in->tagged_addresses, in->num_tagged_addresses * sizeof in->tagged_addresses[0]);
    sdc_port *ports = (sdc_port *)sdci_lay(layout, in->ports, in->num_ports * sizeof in->ports[0]);

    *out = *in;
    const char **const texts[] = { &out->addr, &out->host, &out->socket_path, &out->id,
                                   &out->service, &out->node, &out->datacenter, &out->ns,
                                   &out->partition, &out->peer, &out->region, &out->zone };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        *texts[i] = sdci_lay_text(layout, *texts[i]);
    }
    for (size_t i = 0; i < in->num_tags; i++) {
        const char *tag = sdci_lay_text(layout, in->tags[i]);
        if (tags != NULL) {
            tags[i] = tag;
        }
    }
    for (size_t i = 0; i < in->num_meta; i++) {
        sdci_lay_pair(layout, in->meta[i], meta != NULL ? &meta[i] : NULL);
    }
    sdci_lay_addresses(layout, in, addresses, ports);
    out->tags = tags;
    out->meta = meta;
    out->tagged_addresses = addresses;
    out->ports = ports;
}

/* -- What changed -- */

/* A change with the memory that its arrays stand in. */
typedef struct sdci_diff {
    sdc_change change;
    const sdc_event *event;             /* borrowed, and so is change.before */
    const sdc_instance **room;
    size_t size;
} sdci_diff;

static void sdci_diff_deinit(sdci_diff *diff, const sdc_allocator *allocator)
{
    sdci_free(allocator, (void *)diff->room, diff->size);
    memset(diff, 0, sizeof *diff);
}

/* Whether `now` is `old` as it was taken over, text and all: a quick yes for most of a list. */
static bool sdci_was_taken(const sdc_event *event, const sdc_event *before,
                           const sdc_instance *old, const sdc_instance *now)
{
    return sdci_event_of(event)->base == before &&
           now->addr == sdci_moved(old->addr, sdci_event_of(event)->moved);
}

static void sdci_diff_note(const sdc_instance **list, size_t *num, const sdc_instance *instance)
{
    if (list != NULL) {
        list[*num] = instance;
    }
    (*num)++;
}

/* Walks both lists in their order: what stands in one alone is removed or added so far, and what
   stands in both but looks different is updated. Without arrays they are counted alone. */
static void sdci_diff_walk(sdci_diff *diff, const sdc_instance **removed,
                           const sdc_instance **added, const sdc_instance **updated)
{
    const sdc_event *before = diff->change.before;
    const sdc_event *event = diff->event;
    sdc_change *change = &diff->change;
    size_t num_before = before != NULL ? before->num_instances : 0;
    size_t i = 0;
    size_t k = 0;

    change->num_removed = change->num_added = change->num_updated = 0;
    while (i < num_before || k < event->num_instances) {
        const sdc_instance *old = i < num_before ? &before->instances[i] : NULL;
        const sdc_instance *now = k < event->num_instances ? &event->instances[k] : NULL;
        bool is_same = old != NULL && now != NULL && sdci_was_taken(event, before, old, now);
        int order = is_same ? 0 : old == NULL ? 1 : now == NULL ? -1 : sdci_compare_place(old, now);
        if (order < 0) {
            sdci_diff_note(removed, &change->num_removed, old);
        } else if (order > 0) {
            sdci_diff_note(added, &change->num_added, now);
        } else if (!is_same && !sdci_same_instance(old, now)) {
            sdci_diff_note(updated, &change->num_updated, now);
        }
        i += order <= 0 ? 1 : 0;
        k += order >= 0 ? 1 : 0;
    }
}

/* An instance that has moved to another addr was found as removed and as added: it is one that was
   updated. */
static void sdci_diff_pair(sdci_diff *diff, const sdc_instance **removed,
                           const sdc_instance **added, const sdc_instance **updated)
{
    sdc_change *change = &diff->change;
    size_t num_removed = 0;
    size_t num_added = 0;
    size_t i = 0;
    size_t k = 0;

    while (i < change->num_removed || k < change->num_added) {
        int order = i == change->num_removed ? 1
                  : k == change->num_added ? -1
                  : sdci_compare_identity(removed[i], added[k]);
        if (order < 0) {
            removed[num_removed++] = removed[i];
        } else if (order > 0) {
            added[num_added++] = added[k];
        } else {
            updated[change->num_updated++] = added[k];
        }
        i += order <= 0 ? 1 : 0;
        k += order >= 0 ? 1 : 0;
    }
    change->num_removed = num_removed;
    change->num_added = num_added;
}

/* Fills *diff with what `event` has against `before`, which may be NULL. */
static sdc_err sdci_diff_make(sdci_diff *diff, const sdc_allocator *allocator,
                              const sdc_event *before, const sdc_event *event)
{
    sdci_diff_deinit(diff, allocator);
    diff->event = event;
    diff->change.before = before;
    sdci_diff_walk(diff, NULL, NULL, NULL);
    size_t num_removed = diff->change.num_removed;
    size_t num_added = diff->change.num_added;
    size_t num_pairs = (size_t)sdci_min(num_removed, num_added);
    size_t num_updated = diff->change.num_updated + num_pairs;
    size_t spare = num_pairs > 0 ? (size_t)sdci_max(num_updated, sdci_max(num_removed, num_added))
                                 : 0;
    diff->size = (num_removed + num_added + num_updated + spare) * sizeof *diff->room;
    if (diff->size == 0) {
        return SDC_OK;
    }
    diff->room = (const sdc_instance **)sdci_resize(allocator, NULL, 0, diff->size);
    if (diff->room == NULL) {
        memset(diff, 0, sizeof *diff);
        return SDC_ERR_NOMEM;
    }
    const sdc_instance **removed = diff->room;
    const sdc_instance **added = removed + num_removed;
    const sdc_instance **updated = added + num_added;
    const sdc_instance **to_sort = updated + num_updated;
    sdci_diff_walk(diff, removed, added, updated);
    if (num_pairs > 0) {
        sdci_sort(removed, to_sort, diff->change.num_removed, sdci_compare_identity);
        sdci_sort(added, to_sort, diff->change.num_added, sdci_compare_identity);
        sdci_diff_pair(diff, removed, added, updated);
        sdci_sort(removed, to_sort, diff->change.num_removed, sdci_compare_position);
        sdci_sort(added, to_sort, diff->change.num_added, sdci_compare_position);
        sdci_sort(updated, to_sort, diff->change.num_updated, sdci_compare_position);
    }
    diff->change.removed = removed;
    diff->change.added = added;
    diff->change.updated = updated;
    return SDC_OK;
}

/* -- The cache -- */

/* Each subscriber remembers what it saw: an update from inside a callback then needs no queue. */
typedef struct sdci_subscriber {
    sdc_event_fn fn;                    /* NULL: unsubscribed while a broadcast runs */
    void *user;
    const sdc_event *seen;              /* retained */
} sdci_subscriber;

struct sdc_cache {
    sdc_allocator allocator;
    const sdc_event *current;           /* retained; under lock */
    const sdc_event *unseen;            /* a newer one that nobody was shown, retained; or NULL */
    sdci_buf subscribers;               /* of sdci_subscriber */
    sdci_diff diff;                     /* the newest one that was made */
    const uint32_t *mute;               /* not 0: no callback is begun; or NULL */
    sdci_spare spare;
    uint64_t now_ms;
    uint32_t holds;                     /* the owner's and each running call's; atomic */
    uint32_t lock;
    bool is_broadcasting, is_dead;
    bool keeps_spare;                   /* whoever says so gives the spare back in time */
};

static void sdci_cache_drop_spare(sdc_cache *cache)
{
    sdci_free(&cache->allocator, cache->spare.ptr, cache->spare.size);
    cache->spare.ptr = NULL;
}

/* Releases an event. The memory of a large one may soon be wanted again, and new memory costs more
   than what is written into it, since the system has to clear each page. */
static void sdci_cache_let_go(sdc_cache *cache, const sdc_event *event)
{
    sdci_event *block = sdci_event_of(event);

    if (event == NULL || sdci_atomic_sub(&block->holds, 1) != 0) {
        return;
    }
    if (!cache->keeps_spare || block->size < SDCI_LARGE_BYTES) {
        sdci_event_free(block);
        return;
    }
    sdci_cache_drop_spare(cache);
    cache->spare.size = block->size;
    cache->spare.ptr = block;
}

static sdci_subscriber *sdci_cache_subscriber(const sdc_cache *cache, size_t i)
{
    return (sdci_subscriber *)(void *)cache->subscribers.ptr + i;
}

static size_t sdci_cache_num_subscribers(const sdc_cache *cache)
{
    return cache->subscribers.len / sizeof(sdci_subscriber);
}

static sdc_cache *sdci_cache_retain(sdc_cache *cache)
{
    (void)sdci_atomic_add(&cache->holds, 1);
    return cache;
}

static void sdci_cache_release(sdc_cache *cache)
{
    if (sdci_atomic_sub(&cache->holds, 1) != 0) {
        return;
    }
    sdc_allocator allocator = cache->allocator;
    for (size_t i = 0; i < sdci_cache_num_subscribers(cache); i++) {
        sdc_event_release(sdci_cache_subscriber(cache, i)->seen);
    }
    sdc_event_release(cache->unseen);
    sdc_event_release(cache->current);
    sdci_cache_drop_spare(cache);
    sdci_diff_deinit(&cache->diff, &allocator);
    sdci_buf_deinit(&cache->subscribers);
    sdci_free(&allocator, cache, sizeof *cache);
}

/* Ends a call that held the cache. SDC_GONE: a callback destroyed it meanwhile. */
static sdc_err sdci_cache_leave(sdc_cache *cache, sdc_err err)
{
    bool is_dead = cache->is_dead;

    sdci_cache_release(cache);
    return is_dead ? SDC_GONE : err;
}

sdc_err sdc_cache_create(const sdc_allocator *allocator, sdc_cache **out)
{
    sdc_allocator own = sdci_allocator_or_malloc(allocator);
    sdc_cache *cache = (sdc_cache *)sdci_new(&own, sizeof *cache);

    *out = NULL;
    if (cache == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_event *nothing = sdci_event_empty(&own);
    if (nothing == NULL) {
        sdci_free(&own, cache, sizeof *cache);
        return SDC_ERR_NOMEM;
    }
    nothing->pub.err = SDC_AGAIN;
    cache->allocator = own;
    cache->current = &nothing->pub;
    cache->holds = 1;
    sdci_buf_init(&cache->subscribers, &cache->allocator, SIZE_MAX / 2);
    *out = cache;
    return SDC_OK;
}

void sdc_cache_destroy(sdc_cache *cache)
{
    if (cache != NULL) {
        SDC_ASSERT(!cache->is_dead);
        cache->is_dead = true;
        sdci_cache_release(cache);
    }
}

const sdc_event *sdc_cache_state(sdc_cache *cache)
{
    sdci_lock(&cache->lock);
    const sdc_event *event = sdc_event_retain(cache->current);
    sdci_unlock(&cache->lock);
    return event;
}

static bool sdci_cache_is_mute(const sdc_cache *cache)
{
    return cache->is_dead || (cache->mute != NULL && sdci_atomic_get(cache->mute) != 0);
}

/* -- Subscribers -- */

/* Calls one subscriber with the current event. It may subscribe others, which can move the array,
   so nothing is kept across the call but the number. */
static sdc_err sdci_cache_deliver(sdc_cache *cache, size_t i)
{
    sdci_subscriber *s = sdci_cache_subscriber(cache, i);
    const sdc_event *before = s->seen;
    const sdc_event *event = sdc_event_retain(cache->current);

    if (cache->diff.event != event || cache->diff.change.before != before) {
        sdc_err err = sdci_diff_make(&cache->diff, &cache->allocator, before, event);
        if (err != SDC_OK) {
            sdc_event_release(event);
            return err;
        }
    }
    s->seen = sdc_event_retain(event);          /* the callback may unsubscribe */
    sdci_diff used = cache->diff;               /* and update, which makes another one */
    memset(&cache->diff, 0, sizeof cache->diff);
    s->fn(s->user, event, &used.change);
    sdci_cache_let_go(cache, event);
    if (cache->diff.room == NULL && used.event == cache->current) {
        cache->diff = used;
    } else {
        sdci_diff_deinit(&used, &cache->allocator);
    }
    sdci_cache_let_go(cache, before);
    return SDC_OK;
}

/* The unsubscribed leave the array only when nobody walks along it. */
static void sdci_cache_compact(sdc_cache *cache)
{
    size_t kept = 0;

    for (size_t i = 0; i < sdci_cache_num_subscribers(cache); i++) {
        sdci_subscriber *s = sdci_cache_subscriber(cache, i);
        if (s->fn != NULL) {
            *sdci_cache_subscriber(cache, kept) = *s;
            kept++;
        } else {
            sdc_event_release(s->seen);
        }
    }
    cache->subscribers.len = kept * sizeof(sdci_subscriber);
}

/* Brings every subscriber to the current event. Inside a callback it leaves that to the broadcast
   that runs already. Who could not be told for want of memory is told the next time. */
static sdc_err sdci_cache_broadcast(sdc_cache *cache)
{
    sdc_err err = SDC_OK;

    if (cache->is_broadcasting) {
        return SDC_OK;
    }
    cache->is_broadcasting = true;
    size_t i = 0;
    while (i < sdci_cache_num_subscribers(cache) && !sdci_cache_is_mute(cache)) {
        sdci_subscriber *s = sdci_cache_subscriber(cache, i);
        bool needs_call = s->fn != NULL && s->seen != cache->current;
        sdc_err told = needs_call ? sdci_cache_deliver(cache, i) : SDC_OK;
        err = err == SDC_OK ? told : err;
        /* a callback may have updated the cache: then those before it are behind again */
        i = needs_call && told == SDC_OK ? 0 : i + 1;
    }
    cache->is_broadcasting = false;
    sdci_diff_deinit(&cache->diff, &cache->allocator);
    sdci_cache_compact(cache);
    return err;
}

static sdci_subscriber *sdci_cache_find(const sdc_cache *cache, sdc_event_fn fn, void *user)
{
    for (size_t i = 0; i < sdci_cache_num_subscribers(cache); i++) {
        sdci_subscriber *s = sdci_cache_subscriber(cache, i);
        if (s->fn == fn && s->user == user) {
            return s;
        }
    }
    return NULL;
}

void sdc_cache_unsubscribe(sdc_cache *cache, sdc_event_fn fn, void *user)
{
    sdci_subscriber *s = fn != NULL ? sdci_cache_find(cache, fn, user) : NULL;

    if (s == NULL) {
        return;
    }
    s->fn = NULL;
    if (!cache->is_broadcasting) {
        sdci_cache_compact(cache);
    }
}

sdc_err sdc_cache_subscribe(sdc_cache *cache, sdc_event_fn fn, void *user)
{
    sdci_subscriber s;

    if (fn == NULL || sdci_cache_find(cache, fn, user) != NULL) {
        return SDC_ERR_ARG;
    }
    memset(&s, 0, sizeof s);
    s.fn = fn;
    s.user = user;
    sdci_put(&cache->subscribers, &s, sizeof s);
    if (cache->subscribers.err != SDC_OK) {
        cache->subscribers.err = SDC_OK;
        return SDC_ERR_NOMEM;
    }
    if (sdci_cache_is_mute(cache)) {
        return SDC_OK;
    }
    (void)sdci_atomic_add(&cache->holds, 1);
    if (cache->is_broadcasting) {
        (void)sdci_cache_deliver(cache, sdci_cache_num_subscribers(cache) - 1);
    } else {
        (void)sdci_cache_broadcast(cache);
    }
    const sdci_subscriber *now = sdci_cache_find(cache, fn, user);
    bool was_called = now == NULL || now->seen != NULL || sdci_cache_is_mute(cache);
    if (!was_called) {
        sdc_cache_unsubscribe(cache, fn, user);
    }
    return sdci_cache_leave(cache, was_called ? SDC_OK : SDC_ERR_NOMEM);
}

/* -- Updates -- */

/* Makes an event the current one and tells everybody. Takes the caller's hold on it. Without
   memory all stays as it was. */
static sdc_err sdci_cache_publish(sdc_cache *cache, sdci_event *event)
{
    const sdc_event *old = cache->current;

    if (sdci_cache_num_subscribers(cache) > 0) {
        sdc_err err = sdci_diff_make(&cache->diff, &cache->allocator, old, &event->pub);
        if (err != SDC_OK) {
            sdc_event_release(&event->pub);
            return err;
        }
    }
    sdci_lock(&cache->lock);
    cache->current = &event->pub;
    sdci_unlock(&cache->lock);
    sdci_cache_let_go(cache, old);
    return sdci_cache_broadcast(cache);
}

static uint64_t sdci_cache_clock(sdc_cache *cache, uint64_t now_ms)
{
    cache->now_ms = sdci_max(cache->now_ms, now_ms);
    return cache->now_ms;
}

/* What the next list is compared with. */
static const sdc_event *sdci_cache_newest(const sdc_cache *cache)
{
    return cache->unseen != NULL ? cache->unseen : cache->current;
}

/* The event for a list that may differ from the newest one. NULL with SDC_OK: it does not, and the
   order of the body, and its prints, are written down for the next one. */
static sdci_event *sdci_cache_event(sdc_cache *cache, sdci_list *list, sdc_err *err)
{
    const sdc_event *newest = sdci_cache_newest(cache);
    bool is_same = false;
    sdci_event *event = sdci_list_to_event(list, &is_same, err);

    if (event == NULL) {
        return NULL;
    }
    if (event->base != newest) {
        is_same = sdci_same_instances(&event->pub, newest);
    }
    if (!is_same || !newest->is_known) {
        return event;
    }
    memcpy(sdci_event_of(newest)->order, event->order,
           newest->num_instances * sizeof *event->order);
    memcpy(sdci_event_of(newest)->prints, event->prints,
           newest->num_instances * sizeof *event->prints);
    sdci_cache_let_go(cache, &event->pub);
    return NULL;
}

/* Makes the unseen event, if any, the current one, unless its instances are those that everybody
   knows. */
static sdc_err sdci_cache_show(sdc_cache *cache)
{
    const sdc_event *unseen = cache->unseen;

    if (unseen == NULL) {
        return sdci_cache_broadcast(cache);     /* who could not be told before */
    }
    cache->unseen = NULL;
    if (sdci_same_instances(unseen, cache->current)) {
        sdci_cache_let_go(cache, unseen);
        return SDC_OK;
    }
    sdc_event_retain(unseen);           /* publish takes a hold, also when it fails */
    sdc_err err = sdci_cache_publish(cache, sdci_event_of(unseen));
    if (err != SDC_OK && cache->current != unseen) {
        cache->unseen = unseen;
    } else {
        sdci_cache_let_go(cache, unseen);
    }
    return err;
}

/* Takes a gathered list if it differs from the newest one, or if that is not a good answer: shows
   it to everybody, or `keeps_unseen`, so that further changes can come to it first. *changed: the
   instances differ. */
static sdc_err sdci_cache_offer(sdc_cache *cache, sdci_list *list, uint64_t index, uint64_t now_ms,
                                bool keeps_unseen, bool *changed)
{
    const sdc_event *newest = sdci_cache_newest(cache);
    bool is_same = newest->is_known && list->old == sdci_event_of(newest) &&
                   sdci_list_is_same(list);
    sdc_err err = SDC_OK;
    sdci_event *event = is_same ? NULL : sdci_cache_event(cache, list, &err);

    *changed = event != NULL;
    if (err != SDC_OK) {
        return err;
    }
    if (event == NULL && newest->err == SDC_OK) {
        return sdci_cache_broadcast(cache);
    }
    if (event == NULL) {
        event = sdci_event_copy(newest);
    }
    if (event == NULL) {
        return SDC_ERR_NOMEM;
    }
    event->pub.err = SDC_OK;
    event->pub.failing_since_ms = 0;
    event->message[0] = '\0';
    event->pub.index = index;
    event->pub.at_ms = sdci_cache_clock(cache, now_ms);
    event->pub.is_known = true;
    sdci_list_forget_old(list);         /* which may be the last hold on it but one */
    if (cache->unseen != NULL) {
        sdci_cache_let_go(cache, cache->unseen);
        cache->unseen = NULL;
    }
    if (keeps_unseen) {
        cache->unseen = &event->pub;
        return SDC_OK;
    }
    return sdci_cache_publish(cache, event);
}

sdc_err sdc_cache_update(sdc_cache *cache, const sdc_instance *instances, size_t num,
                         uint64_t index, uint64_t now_ms)
{
    sdci_list list;
    bool changed = false;

    for (size_t i = 0; i < num; i++) {
        if (sdci_is_empty(instances[i].addr) &&
            (sdci_is_empty(instances[i].host) || instances[i].port == 0)) {
            return SDC_ERR_ARG;
        }
    }
    (void)sdci_atomic_add(&cache->holds, 1);
    sdci_list_init(&list, &cache->allocator, NULL, NULL);
    for (size_t i = 0; i < num && sdci_list_err(&list) == SDC_OK; i++) {
        sdci_list_add(&list, &instances[i], 0);
    }
    sdc_err err = sdci_cache_offer(cache, &list, index, now_ms, false, &changed);
    sdci_list_deinit(&list);
    return sdci_cache_leave(cache, err);
}

sdc_err sdc_cache_update_error(sdc_cache *cache, sdc_err err, const char *message, uint64_t now_ms)
{
    const sdc_event *current = cache->current;

    if (err < SDC_ERR_ARG || err > SDC_ERR_USER) {
        return SDC_ERR_ARG;
    }
    if (current->err == err) {
        return SDC_OK;
    }
    sdci_event *event = sdci_event_copy(current);
    if (event == NULL) {
        return SDC_ERR_NOMEM;
    }
    event->pub.err = err;
    event->pub.at_ms = sdci_cache_clock(cache, now_ms);
    if (current->failing_since_ms == 0) {
        event->pub.failing_since_ms = sdci_max(event->pub.at_ms, 1);
    }
    (void)snprintf(event->message, sizeof event->message, "%s",
                   sdci_is_empty(message) ? sdc_err_str(err) : message);
    sdci_make_printable(event->message);
    (void)sdci_atomic_add(&cache->holds, 1);
    return sdci_cache_leave(cache, sdci_cache_publish(cache, event));
}

/* ---- registrar ----------------------------------------- [sdc:registrar] --
   What is registered, written as the agent's JSON; then the machine that keeps
   it so. Members are written only where the caller set them, since an agent
   refuses those that it does not know (1.7 and later).
   Consul docs: api-docs/agent/service#register-service, api-docs/agent/check.
   ------------------------------------------------------------------------- */

#define SDCI_BODY_MAX      ((size_t)16 << 20)
#define SDCI_OUTPUT_MAX    4096u    /* an agent keeps no more of a check's output */
#define SDCI_MINUTE_MS     60000u
#define SDCI_KNOWN_MS      10000u   /* a registration that has lived so long was good */
#define SDCI_TWIN_MIN_MS   30000u   /* between attempts to take one back from another agent */
#define SDCI_TWIN_MAX_MS   600000u
#define SDCI_CHANGE_MS     100u     /* between two sendings of what the program keeps changing */

/* -- Writing JSON -- */

static void sdci_put_json(sdci_buf *buf, const char *text)
{
    char escape[8];

    sdci_put_char(buf, '"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            sdci_put_char(buf, '\\');
            sdci_put_char(buf, *text);
        } else if ((unsigned char)*text < 0x20) {
            (void)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*text);
            sdci_put_text(buf, escape);
        } else {
            sdci_put_char(buf, *text);
        }
    }
    sdci_put_char(buf, '"');
}

/* `"name":`, after a comma unless it is the first of its object. */
static void sdci_put_name(sdci_buf *buf, const char *name)
{
    bool is_first = buf->len == 0 || buf->ptr[buf->len - 1] == '{' ||
                    buf->ptr[buf->len - 1] == '[';

    sdci_put_text(buf, is_first ? "" : ",");
    if (name != NULL) {
        sdci_put_json(buf, name);
        sdci_put_char(buf, ':');
    }
}

static void sdci_put_member(sdci_buf *buf, const char *name, const char *value)
{
    if (!sdci_is_empty(value)) {
        sdci_put_name(buf, name);
        sdci_put_json(buf, value);
    }
}

static void sdci_put_member_u64(sdci_buf *buf, const char *name, uint64_t value)
{
    if (value != 0) {
        sdci_put_name(buf, name);
        sdci_put_u64(buf, value);
    }
}

static void sdci_put_member_true(sdci_buf *buf, const char *name, bool value)
{
    if (value) {
        sdci_put_name(buf, name);
        sdci_put_text(buf, "true");
    }
}

/* A duration as Go writes it: a number alone would be nanoseconds. */
static void sdci_put_member_ms(sdci_buf *buf, const char *name, uint32_t ms)
{
    if (ms != 0 && ms != SDC_NEVER) {
        sdci_put_name(buf, name);
        sdci_put_char(buf, '"');
        sdci_put_u64(buf, ms % 1000 == 0 ? ms / 1000 : ms);
        sdci_put_text(buf, ms % 1000 == 0 ? "s\"" : "ms\"");
    }
}

static void sdci_put_strings(sdci_buf *buf, const char *name, const char *const *items, size_t num)
{
    if (num == 0) {
        return;
    }
    sdci_put_name(buf, name);
    sdci_put_char(buf, '[');
    for (size_t i = 0; i < num; i++) {
        sdci_put_name(buf, NULL);
        sdci_put_json(buf, items[i] != NULL ? items[i] : "");
    }
    sdci_put_char(buf, ']');
}

const char *sdc_status_str(sdc_status status)
{
    switch (status) {
    case SDC_STATUS_UNSET:       return "unset";
    case SDC_STATUS_PASSING:     return "passing";
    case SDC_STATUS_WARNING:     return "warning";
    case SDC_STATUS_CRITICAL:    return "critical";
    case SDC_STATUS_MAINTENANCE: return "maintenance";
    }
    return "unknown status";
}

/* What a check can be set to; "" for the others. */
static const char *sdci_status_text(sdc_status status)
{
    bool can_be_set = status >= SDC_STATUS_PASSING && status <= SDC_STATUS_CRITICAL;

    return can_be_set ? sdc_status_str(status) : "";
}

/* -- Checks -- */

static size_t sdci_check_num_kinds(const sdc_check *c)
{
    bool is_alias = !sdci_is_empty(c->alias_node) || !sdci_is_empty(c->alias_service);

    return (size_t)(c->ttl_ms != 0) + (size_t)!sdci_is_empty(c->http) +
           (size_t)!sdci_is_empty(c->h2ping) + (size_t)!sdci_is_empty(c->tcp) +
           (size_t)!sdci_is_empty(c->udp) + (size_t)!sdci_is_empty(c->grpc) +
           (size_t)!sdci_is_empty(c->os_service) + (size_t)(c->num_args > 0) + (size_t)is_alias;
}

static sdc_err sdci_check_valid(const sdc_check *c, size_t i, sdc_error *error)
{
    if (sdci_check_num_kinds(c) != 1) {
        return sdci_fail(error, SDC_ERR_ARG, "checks[%u]: exactly one kind must be set, such as "
                         "ttl_ms, http or tcp", (unsigned)i);
    }
    if (c->ttl_ms == SDC_NEVER || c->interval_ms == SDC_NEVER || c->timeout_ms == SDC_NEVER) {
        return sdci_fail(error, SDC_ERR_ARG, "checks[%u]: %s cannot be for ever", (unsigned)i,
                         c->ttl_ms == SDC_NEVER ? "ttl_ms"
                         : c->interval_ms == SDC_NEVER ? "interval_ms" : "timeout_ms");
    }
    if (!sdci_is_empty(c->docker_container_id) && c->num_args == 0) {
        return sdci_fail(error, SDC_ERR_ARG, "checks[%u]: docker_container_id needs args",
                         (unsigned)i);
    }
    if (c->status != SDC_STATUS_UNSET && sdci_status_text(c->status)[0] == '\0') {
        return sdci_fail(error, SDC_ERR_ARG, "checks[%u]: status must be passing, warning or "
                         "critical", (unsigned)i);
    }
    for (size_t k = 0; k < c->num_headers; k++) {
        if (sdci_is_empty(c->headers[k].key)) {
            return sdci_fail(error, SDC_ERR_ARG, "checks[%u]: headers[%u] has no key",
                             (unsigned)i, (unsigned)k);
        }
    }
    if (!sdci_is_empty(c->id)) {
        char field[32];
        (void)snprintf(field, sizeof field, "checks[%u]: id", (unsigned)i);
        return sdci_path_part_valid(field, c->id, error);
    }
    return SDC_OK;
}

/* The check's own ID, or the one that an agent would give it. */
static void sdci_put_check_id(sdci_buf *buf, const sdc_registration *r, size_t i, const char *id)
{
    if (!sdci_is_empty(r->checks[i].id)) {
        sdci_put_text(buf, r->checks[i].id);
        return;
    }
    sdci_put_text(buf, "service:");
    sdci_put_text(buf, id);
    if (r->num_checks > 1) {
        sdci_put_char(buf, ':');
        sdci_put_u64(buf, i + 1);
    }
}

static char *sdci_check_id(const sdc_allocator *allocator, const sdc_registration *r, size_t i,
                           const char *id)
{
    sdci_buf text;

    sdci_buf_init(&text, allocator, SDCI_BODY_MAX);
    sdci_put_check_id(&text, r, i, id);
    return sdci_buf_to_text(&text);
}

/* {"Name":["value", ...]}: the values of one name stand together. */
static void sdci_put_headers(sdci_buf *buf, const sdc_check *c)
{
    if (c->num_headers == 0) {
        return;
    }
    sdci_put_name(buf, "Header");
    sdci_put_char(buf, '{');
    for (size_t i = 0; i < c->num_headers; i++) {
        bool is_first = true;
        for (size_t k = 0; k < i; k++) {
            is_first = is_first && strcmp(c->headers[k].key, c->headers[i].key) != 0;
        }
        if (!is_first) {
            continue;
        }
        sdci_put_name(buf, c->headers[i].key);
        sdci_put_char(buf, '[');
        for (size_t k = i; k < c->num_headers; k++) {
            if (strcmp(c->headers[k].key, c->headers[i].key) == 0) {
                const char *value = c->headers[k].value;
                sdci_put_name(buf, NULL);
                sdci_put_json(buf, value != NULL ? value : "");
            }
        }
        sdci_put_char(buf, ']');
    }
    sdci_put_char(buf, '}');
}

static void sdci_put_check_kind(sdci_buf *buf, const sdc_check *c)
{
    sdci_put_member_ms(buf, "TTL", c->ttl_ms);
    sdci_put_member(buf, "HTTP", c->http);
    sdci_put_member(buf, "Method", c->method);
    sdci_put_member(buf, "Body", c->body);
    sdci_put_headers(buf, c);
    sdci_put_member_true(buf, "DisableRedirects", c->disable_redirects);
    sdci_put_member(buf, "H2PING", c->h2ping);
    if (!sdci_is_empty(c->h2ping) && c->h2ping_no_tls) {
        sdci_put_name(buf, "H2PingUseTLS");
        sdci_put_text(buf, "false");
    }
    sdci_put_member(buf, "TCP", c->tcp);
    sdci_put_member_true(buf, "TCPUseTLS", c->tcp_use_tls);
    sdci_put_member(buf, "UDP", c->udp);
    sdci_put_member(buf, "GRPC", c->grpc);
    sdci_put_member_true(buf, "GRPCUseTLS", c->grpc_use_tls);
    sdci_put_member(buf, "OSService", c->os_service);
    sdci_put_strings(buf, "ScriptArgs", c->args, c->num_args);
    sdci_put_member(buf, "DockerContainerID", c->docker_container_id);
    sdci_put_member(buf, "Shell", c->shell);
    sdci_put_member(buf, "AliasNode", c->alias_node);
    sdci_put_member(buf, "AliasService", c->alias_service);
    sdci_put_member(buf, "TLSServerName", c->tls_server_name);
    sdci_put_member_true(buf, "TLSSkipVerify", c->tls_skip_verify);
}

/* A registrar beats its TTL checks, so there they start as passing, and a process that was killed
   does not stay for ever. */
static void sdci_put_check(sdci_buf *buf, const sdc_registration *r, size_t i, const char *check_id,
                           bool is_beaten)
{
    const sdc_check *c = &r->checks[i];
    bool is_alias = !sdci_is_empty(c->alias_node) || !sdci_is_empty(c->alias_service);
    bool has_interval = c->ttl_ms == 0 && !is_alias;
    bool is_kept = is_beaten && c->ttl_ms != 0;
    sdc_status status = c->status == SDC_STATUS_UNSET && is_kept ? SDC_STATUS_PASSING : c->status;

    sdci_put_name(buf, NULL);
    sdci_put_char(buf, '{');
    sdci_put_member(buf, "CheckID", check_id);
    sdci_put_member(buf, "Name", c->name);
    sdci_put_member(buf, "Notes", c->notes);
    sdci_put_member(buf, "Status", sdci_status_text(status));
    sdci_put_check_kind(buf, c);
    sdci_put_member_ms(buf, "Interval", has_interval ? sdci_or(c->interval_ms, 10000) : 0);
    sdci_put_member_ms(buf, "Timeout", c->timeout_ms);
    sdci_put_member_ms(buf, "DeregisterCriticalServiceAfter",
                       c->deregister_critical_after_ms != 0 || !is_kept
                           ? c->deregister_critical_after_ms : 60 * SDCI_MINUTE_MS);
    sdci_put_member_u64(buf, "SuccessBeforePassing", c->success_before_passing);
    sdci_put_member_u64(buf, "FailuresBeforeWarning", c->failures_before_warning);
    sdci_put_member_u64(buf, "FailuresBeforeCritical", c->failures_before_critical);
    sdci_put_member_u64(buf, "OutputMaxSize", c->output_max_bytes);
    sdci_put_char(buf, '}');
}

/* -- The service -- */

/* The strict grammar of [sdc:json] is the judge of what a caller puts into a body: text that is not
   UTF-8, raw members that are none, or that would be a second ID or name. */
typedef struct sdci_body_check {
    uint32_t depth;
    bool names_are_ours;        /* ID and Name at the top level may not come in it */
} sdci_body_check;

static sdc_err sdci_body_check_on_json(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    sdci_body_check *check = (sdci_body_check *)user;
    sdci_str name = sdci_slice(text, len);

    if (kind == SDC_JSON_OBJECT || kind == SDC_JSON_ARRAY) {
        check->depth++;
    } else if (kind == SDC_JSON_OBJECT_END || kind == SDC_JSON_ARRAY_END) {
        check->depth--;
    } else if (kind == SDC_JSON_KEY && check->depth == 1 && check->names_are_ours &&
               (sdci_equal_nocase(name, sdci_str_of("ID")) ||
                sdci_equal_nocase(name, sdci_str_of("Name")))) {
        return SDC_ERR_ARG;
    }
    return SDC_OK;
}

static sdc_err sdci_body_valid(const sdc_allocator *allocator, const char *field,
                               bool names_are_ours, sdci_str text, sdc_error *error)
{
    sdci_body_check check = { 0, names_are_ours };
    sdc_json json;
    sdc_error why;

    sdci_json_init(&json, allocator, sdci_body_check_on_json, &check);
    (void)sdc_json_feed(&json, names_are_ours ? "{" : "", names_are_ours ? 1 : 0);
    (void)sdc_json_feed(&json, text.ptr, text.len);
    (void)sdc_json_feed(&json, names_are_ours ? "}" : "", names_are_ours ? 1 : 0);
    sdc_err err = sdc_json_finish(&json);
    sdc_json_error(&json, &why);
    sdci_json_deinit(&json);
    if (err == SDC_OK || err == SDC_ERR_NOMEM) {
        return err == SDC_OK ? SDC_OK : sdci_fail_plain(error, err);
    }
    return sdci_fail(error, SDC_ERR_ARG, "%s: %.200s", field,
                     err == SDC_ERR_ARG ? "ID and Name have members of their own" : why.message);
}

static sdc_err sdci_registration_valid(const sdc_allocator *allocator, const sdc_registration *r,
                                       sdc_error *error)
{
    sdc_err err = sdci_path_part_valid("name", r->name, error);

    if (err == SDC_OK && !sdci_is_empty(r->id)) {
        err = sdci_path_part_valid("id", r->id, error);
    }
    if (err != SDC_OK) {
        return err;
    }
    if (r->port != 0 && r->num_ports > 0) {
        return sdci_fail(error, SDC_ERR_ARG, "port and ports cannot both be set");
    }
    bool has_weights = r->weight_passing != 0 || r->weight_warning != 0;
    if ((has_weights && r->weight_passing == 0) || r->weight_passing > 65535 ||
        r->weight_warning > 65535) {
        return sdci_fail(error, SDC_ERR_ARG,
                         "weight_passing must be from 1 to 65535 and weight_warning at most that");
    }
    for (size_t i = 0; i < r->num_meta; i++) {
        if (sdci_is_empty(r->meta[i].key)) {
            return sdci_fail(error, SDC_ERR_ARG, "meta[%u] has no key", (unsigned)i);
        }
    }
    for (size_t i = 0; i < r->num_tagged_addresses; i++) {
        if (sdci_is_empty(r->tagged_addresses[i].key)) {
            return sdci_fail(error, SDC_ERR_ARG, "tagged_addresses[%u] has no key", (unsigned)i);
        }
    }
    for (size_t i = 0; i < r->num_checks && err == SDC_OK; i++) {
        err = sdci_check_valid(&r->checks[i], i, error);
    }
    if (err == SDC_OK && !sdci_is_empty(r->raw_members)) {
        err = sdci_body_valid(allocator, "raw_members", true, sdci_str_of(r->raw_members), error);
    }
    return err;
}

/* name-address-port, without what is absent: the same at every start, so that a service which died
   is replaced and not doubled. */
static void sdci_put_service_id(sdci_buf *buf, const sdc_registration *r)
{
    if (!sdci_is_empty(r->id)) {
        sdci_put_text(buf, r->id);
        return;
    }
    sdci_put_text(buf, r->name);
    if (!sdci_is_empty(r->address)) {
        sdci_put_char(buf, '-');
        sdci_put_text(buf, r->address);
    }
    if (r->port != 0) {
        sdci_put_char(buf, '-');
        sdci_put_u64(buf, r->port);
    }
}

static void sdci_put_addresses(sdci_buf *buf, const sdc_registration *r)
{
    if (r->num_tagged_addresses > 0) {
        sdci_put_name(buf, "TaggedAddresses");
        sdci_put_char(buf, '{');
        for (size_t i = 0; i < r->num_tagged_addresses; i++) {
            const sdc_address *a = &r->tagged_addresses[i];
            sdci_put_name(buf, a->key != NULL ? a->key : "");
            sdci_put_char(buf, '{');
            sdci_put_member(buf, "Address", a->address);
            sdci_put_member_u64(buf, "Port", a->port);
            sdci_put_char(buf, '}');
        }
        sdci_put_char(buf, '}');
    }
}

static void sdci_put_ports(sdci_buf *buf, const sdc_registration *r)
{
    sdci_put_member_u64(buf, "Port", r->port);
    if (r->num_ports > 0) {
        sdci_put_name(buf, "Ports");
        sdci_put_char(buf, '[');
        for (size_t i = 0; i < r->num_ports; i++) {
            sdci_put_name(buf, NULL);
            sdci_put_char(buf, '{');
            sdci_put_member(buf, "Name", r->ports[i].name);
            sdci_put_member_u64(buf, "Port", r->ports[i].port);
            sdci_put_member_true(buf, "Default", r->ports[i].is_default);
            sdci_put_char(buf, '}');
        }
        sdci_put_char(buf, ']');
    }
}

static void sdci_put_meta(sdci_buf *buf, const sdc_registration *r)
{
    if (r->num_meta > 0) {
        sdci_put_name(buf, "Meta");
        sdci_put_char(buf, '{');
        for (size_t i = 0; i < r->num_meta; i++) {
            sdci_put_name(buf, r->meta[i].key);
            sdci_put_json(buf, r->meta[i].value != NULL ? r->meta[i].value : "");
        }
        sdci_put_char(buf, '}');
    }
}

/* Where both weights are sent, since an agent takes an absent one for 0. */
static void sdci_put_weights(sdci_buf *buf, const sdc_registration *r)
{
    if (r->weight_passing != 0) {
        sdci_put_name(buf, "Weights");
        sdci_put_text(buf, "{\"Passing\":");
        sdci_put_u64(buf, r->weight_passing);
        sdci_put_text(buf, ",\"Warning\":");
        sdci_put_u64(buf, r->weight_warning);
        sdci_put_char(buf, '}');
    }
}

static void sdci_put_checks(sdci_buf *buf, const sdc_registration *r, const char *id,
                            bool is_beaten)
{
    if (r->num_checks == 0) {
        return;
    }
    sdci_put_name(buf, "Checks");
    sdci_put_char(buf, '[');
    for (size_t i = 0; i < r->num_checks; i++) {
        char *check_id = sdci_check_id(buf->allocator, r, i, id);
        if (check_id == NULL) {
            buf->err = SDC_ERR_NOMEM;
            return;
        }
        sdci_put_check(buf, r, i, check_id, is_beaten);
        sdci_free_text(buf->allocator, check_id);
    }
    sdci_put_char(buf, ']');
}

/* Answers where what may hold checks begins. */
static size_t sdci_put_registration(sdci_buf *buf, const sdc_registration *r, const char *id,
                                    bool is_beaten)
{
    sdci_put_char(buf, '{');
    sdci_put_member(buf, "ID", id);
    sdci_put_member(buf, "Name", r->name);
    sdci_put_member(buf, "Kind", r->kind);
    sdci_put_strings(buf, "Tags", r->tags, r->num_tags);
    sdci_put_member(buf, "Address", r->address);
    sdci_put_ports(buf, r);
    sdci_put_member(buf, "SocketPath", r->socket_path);
    sdci_put_addresses(buf, r);
    sdci_put_meta(buf, r);
    sdci_put_weights(buf, r);
    sdci_put_member_true(buf, "EnableTagOverride", r->enable_tag_override);
    if (!sdci_is_empty(r->region) || !sdci_is_empty(r->zone)) {
        sdci_put_name(buf, "Locality");
        sdci_put_char(buf, '{');
        sdci_put_member(buf, "Region", r->region);
        sdci_put_member(buf, "Zone", r->zone);
        sdci_put_char(buf, '}');
    }
    size_t checks_at = buf->len;
    sdci_put_checks(buf, r, id, is_beaten);
    if (!sdci_is_empty(r->raw_members)) {
        sdci_put_name(buf, NULL);
        sdci_put_text(buf, r->raw_members);
    }
    sdci_put_char(buf, '}');
    return checks_at;
}

/* What is registered, ready to be sent as often as it takes. */
typedef struct sdci_service {
    const sdc_allocator *allocator;
    sdci_buf body;
    size_t checks_at;                   /* in the body */
    char *id;
    char *name, *tags, *address;        /* for the log, as go-kit writes them */
    bool has_tag_override;              /* others may change the tags */
} sdci_service;

static void sdci_service_deinit(sdci_service *service)
{
    sdci_buf_deinit(&service->body);
    sdci_free_text(service->allocator, service->id);
    sdci_free_text(service->allocator, service->name);
    sdci_free_text(service->allocator, service->tags);
    sdci_free_text(service->allocator, service->address);
}

/* "[a b]" */
static char *sdci_tag_list(const sdc_allocator *allocator, const char *const *tags, size_t num)
{
    sdci_buf list;

    sdci_buf_init(&list, allocator, SDCI_BODY_MAX);
    sdci_put_char(&list, '[');
    for (size_t i = 0; i < num; i++) {
        sdci_put_text(&list, i > 0 ? " " : "");
        sdci_put_text(&list, tags[i] != NULL ? tags[i] : "");
    }
    sdci_put_char(&list, ']');
    return sdci_buf_to_text(&list);
}

static sdc_err sdci_service_write(sdci_service *service, const sdc_registration *r, bool is_beaten)
{
    const sdc_allocator *a = service->allocator;
    sdci_buf id;

    sdci_buf_init(&id, a, SDCI_BODY_MAX);
    sdci_put_service_id(&id, r);
    service->id = sdci_buf_to_text(&id);
    service->tags = sdci_tag_list(a, r->tags, r->num_tags);
    service->name = sdci_copy(a, r->name);
    service->address = sdci_copy(a, r->address != NULL ? r->address : "");
    if (service->id == NULL || service->tags == NULL || service->name == NULL ||
        service->address == NULL) {
        return SDC_ERR_NOMEM;
    }
    service->checks_at = sdci_put_registration(&service->body, r, service->id, is_beaten);
    return service->body.err;
}

/* An agent takes two checks of one ID for one. Those that get theirs from the service differ. */
static sdc_err sdci_check_ids_differ(const sdci_service *service, const sdc_registration *r,
                                     sdc_error *error)
{
    sdc_err err = SDC_OK;

    for (size_t i = 0; i < r->num_checks; i++) {
        for (size_t k = 0; k < r->num_checks && !sdci_is_empty(r->checks[i].id); k++) {
            bool is_named = !sdci_is_empty(r->checks[k].id);
            char *given = is_named ? NULL : sdci_check_id(service->allocator, r, k, service->id);
            const char *other = is_named ? r->checks[k].id : given;
            if (other == NULL) {
                return sdci_fail_plain(error, SDC_ERR_NOMEM);
            }
            if ((k < i || !is_named) && strcmp(other, r->checks[i].id) == 0) {
                err = sdci_fail(error, SDC_ERR_ARG, "checks[%u]: id is that of checks[%u], too",
                                (unsigned)i, (unsigned)k);
            }
            sdci_free_text(service->allocator, given);
            if (err != SDC_OK) {
                return err;
            }
        }
    }
    return err;
}

/* Checks and writes a registration. `is_beaten`: a registrar will keep its TTL checks alive. */
static sdc_err sdci_service_init(sdci_service *service, const sdc_allocator *allocator,
                                 const sdc_registration *r, bool is_beaten, sdc_error *error)
{
    memset(service, 0, sizeof *service);
    service->allocator = allocator;
    service->has_tag_override = r->enable_tag_override;
    sdci_buf_init(&service->body, allocator, SDCI_BODY_MAX);
    sdc_err err = sdci_registration_valid(allocator, r, error);
    if (err != SDC_OK) {
        return err;
    }
    err = sdci_service_write(service, r, is_beaten);
    if (err != SDC_OK) {
        (void)sdci_fail_plain(error, err);
    } else {
        err = sdci_path_part_valid("id", service->id, error);
    }
    if (err == SDC_OK) {
        err = sdci_check_ids_differ(service, r, error);
    }
    if (err == SDC_OK) {
        err = sdci_body_valid(allocator, "registration", false,
                              sdci_slice(service->body.ptr, service->body.len), error);
    }
    if (err != SDC_OK) {
        sdci_service_deinit(service);
        memset(service, 0, sizeof *service);
    }
    return err;
}

/* -- Requests of a registrar -- */

/* replaces: checks that are not in the body are taken away, where the agent knows how (1.6.1). That
   of a maintenance is one of them. */
static sdci_request sdci_request_register(sdc_client *client, sdci_call *call, sdci_str body,
                                          bool replaces)
{
    sdci_request request = sdci_request_begin(client, call, "PUT", "/v1/agent/service/register");

    if (replaces) {
        sdci_request_param(&request, "replace-existing-checks", "true");
    }
    sdci_request_scope(&request, NULL, NULL, NULL);
    sdci_request_end(&request, &body);
    return request;
}

/* METHOD path/ID, without a body. */
static sdci_request sdci_request_on_id(sdc_client *client, sdci_call *call, const char *method,
                                       const char *path, const char *id)
{
    sdci_request request = sdci_request_begin(client, call, method, path);
    sdci_str nothing = sdci_slice("", 0);

    sdci_put_escaped(&call->request, id);
    sdci_request_scope(&request, NULL, NULL, NULL);
    sdci_request_end(&request, strcmp(method, "GET") == 0 ? NULL : &nothing);
    return request;
}

sdc_err sdc_client_register(sdc_client *client, const sdc_registration *registration,
                            sdc_error *error)
{
    sdci_service service;
    sdci_call call;
    sdci_answer answer;

    sdci_error_clear(error);
    sdc_err err = sdci_service_init(&service, &client->allocator, registration, false, error);
    if (err != SDC_OK) {
        return err;
    }
    sdci_client_init_call(client, &call);
    do {
        sdci_request request = sdci_request_register(client, &call,
                                                     sdci_buf_from(&service.body, 0), true);
        sdci_answer_init(&answer, &request, "PUT");
        err = sdci_client_perform(client, &call, &answer, client->request_timeout_ms, NULL, error);
    } while (sdci_client_tries_next(&call, &answer, err));
    sdci_call_deinit(&call);
    sdci_service_deinit(&service);
    return err;
}

/* At one agent. One that does not have the service is as good as one that had it. */
static sdc_err sdci_client_deregister_at(sdc_client *client, size_t which, const char *id,
                                         sdc_error *error)
{
    sdci_call call;
    sdci_answer answer;

    sdci_client_init_call(client, &call);
    sdci_link_use(&call.link, which);
    sdci_request request = sdci_request_on_id(client, &call, "PUT",
                                              "/v1/agent/service/deregister/", id);
    sdci_answer_init(&answer, &request, "PUT");
    sdc_err err = sdci_client_perform(client, &call, &answer, client->request_timeout_ms, NULL,
                                      error);
    if (err == SDC_ERR_STATUS && sdci_answer_says_unknown(&answer)) {
        sdci_error_clear(error);
        err = SDC_OK;
    }
    sdci_call_deinit(&call);
    return err;
}

sdc_err sdc_client_deregister(sdc_client *client, const char *service_id, sdc_error *error)
{
    sdci_error_clear(error);
    sdc_err err = sdci_path_part_valid("service_id", service_id, error);
    sdc_error of_one;
    for (size_t i = 0; err != SDC_ERR_ARG && i < client->num_agents; i++) {
        sdc_err err_of_one = sdci_client_deregister_at(client, i, service_id, &of_one);
        if (err_of_one != SDC_OK && err == SDC_OK) {
            err = err_of_one;
            if (error != NULL) {
                *error = of_one;
            }
        }
    }
    return err;
}

/* -- The registrar -- */

/* PAUSED --a job is due--> EXCHANGING --its answer, or dropped for another job--> PAUSED
     |                          |
     '-- stopped, all done -----'--> STOPPED

   There is no plan: whenever the machine is free it looks at what is wanted and what is known, and
   does the most urgent thing. So nothing is forgotten, whatever order things happen in.

   A registration lives in one agent. Where there are several, one is the base:

     base n --n is to blame, or n > 0 refuses--> base n+1: registers there;
        |                                          after the last comes the first
        |--HOME, every SDCI_RETURN_MS: registers at the first-- ok --> base 0
        '--TWIN, slowly: deregisters where an earlier base may hold it still

   HOME and TWIN are excursions: the base goes on holding what it has, and they are short, whatever
   a name leads to, so that its beats are not missed. Stopping takes back first what the base holds,
   then the others'. */
typedef enum sdci_registrar_state {
    SDCI_REGISTRAR_PAUSED,      /* ends when the next job is due                      */
    SDCI_REGISTRAR_EXCHANGING,  /* `job` is under way; ends with its answer           */
    SDCI_REGISTRAR_STOPPED      /* for ever                                           */
} sdci_registrar_state;

typedef enum sdci_job {
    SDCI_JOB_NONE,
    SDCI_JOB_REGISTER,
    SDCI_JOB_BEAT,              /* checks[which] */
    SDCI_JOB_MAINTENANCE,
    SDCI_JOB_VERIFY,
    SDCI_JOB_HOME,
    SDCI_JOB_TWIN,
    SDCI_JOB_DEREGISTER
} sdci_job;

/* What another thread wants sent: the newest wins. Under the registrar's lock. */
typedef struct sdci_mail {
    char *text;                 /* output or reason */
    uint64_t at_ms;             /* when it was put there */
    sdc_status status;          /* of a check; passing or maintenance where that is meant */
    bool is_new;
} sdci_mail;

/* When a job is to be done, and how often in a row it has failed: each has its own, so that none
   waits for the failures of another. */
typedef struct sdci_timer {
    uint64_t due_ms;
    uint64_t asked_at_ms;       /* when the newest one began */
    uint64_t pause_until_ms;    /* after a failure; nothing that the program says cuts it short */
    uint64_t failing_since_ms;  /* the first of these failures */
    uint32_t num_failures;
    bool was_unheard;           /* failed without an answer: due again when any job gets one */
} sdci_timer;

/* A TTL check. It is LIVE until `expires_ms`, which each status of the program moves on, and then
   SILENT until the next one: its TTL lapses, as it would if the whole program hung. */
typedef struct sdci_beat {
    sdci_mail mail;
    char *id;
    char *output;               /* what the beats say; the stepping thread's */
    sdci_timer timer;
    uint64_t expires_ms;
    sdc_status status;
    uint32_t ttl_ms;
    uint32_t every_ms;
    bool is_silent;
} sdci_beat;

struct sdc_registrar {
    sdc_task task;              /* first: the one is the other */
    char *id;                   /* of every service below; any thread */
    sdci_service service;       /* what is wanted */
    sdci_service *update_mail;  /* what is wanted from now on, or NULL; under lock */
    sdci_beat *beats;
    size_t num_beats;
    size_t which;
    sdci_mail maintenance_mail;
    char *reason;               /* of the maintenance that is wanted */
    sdci_timer to_register;     /* or to deregister */
    sdci_timer to_maintain;
    sdci_timer to_verify;
    sdci_timer to_take_back;    /* what twins there are */
    uint64_t asked_at_ms;       /* when `job` began */
    uint64_t until_ms;          /* when it ends at the latest, connecting included, if ever */
    uint64_t registered_at_ms;  /* when a registration last succeeded */
    uint64_t content_hash;      /* of what the agent made of it; 0: not known yet */
    uint64_t stop_at_ms;        /* when stopping ends at the latest */
    uint64_t call_until_ms;     /* the same of a call that registers or deregisters */
    uint32_t call_turns;        /* agents that a call which registers may still ask */
    uint32_t verify_ms, stop_timeout_ms, status_expires_ms;
    uint32_t lock;              /* of the mails */
    uint32_t is_registered;     /* atomic; at the base */
    uint32_t base;              /* which of the agents */
    uint32_t num_lost;          /* registrations in a row that were lost soon */
    uint32_t held;              /* a bit for each: a registration was sent and not taken back */
    uint32_t tried;             /* a bit for each: taking back was tried in this round of them */
    uint32_t known;             /* a bit for each: it has taken these checks and no others */
    sdci_registrar_state state;
    sdci_job job;
    bool keep_on_stop;
    bool is_wanted;             /* not after sdc_registrar_deregister */
    bool is_current;            /* what is registered is what is wanted */
    bool wants_maintenance;
    bool was_held;              /* by the agent of `job`, when that began */
};

static sdc_registrar *sdci_registrar_of(const sdc_task *task)
{
    return (sdc_registrar *)(uintptr_t)task;
}

static void sdci_registrar_log(const sdc_registrar *r, const char *action, const char *err)
{
    const sdci_link *link = &r->task.call.link;
    sdc_kv fields[6];
    size_t num = 0;

    fields[num++] = sdci_kv("event", "registrar");
    fields[num++] = sdci_kv("service", r->service.name);
    fields[num++] = sdci_kv("tags", r->service.tags);
    fields[num++] = sdci_kv("address", r->service.address);
    if (link->num_agents > 1) {
        fields[num++] = sdci_kv("agent", link->agent->name);
    }
    fields[num++] = err != NULL ? sdci_kv("err", err) : sdci_kv("action", action);
    sdci_log(r->task.client, err != NULL ? SDC_LOG_WARN : SDC_LOG_INFO, fields, num);
}

static void sdci_registrar_log_beat(const sdc_registrar *r, const sdci_beat *beat)
{
    sdc_kv fields[4];

    fields[0] = sdci_kv("event", "registrar");
    fields[1] = sdci_kv("service", r->service.name);
    fields[2] = sdci_kv("check", beat->id);
    fields[3] = sdci_kv("action", beat->is_silent ? "expire" : "revive");
    sdci_log(r->task.client, beat->is_silent ? SDC_LOG_WARN : SDC_LOG_INFO, fields, 4);
}

/* -- Mail from other threads -- */

/* Puts a text into a mail, cut between two characters where it is too long. */
static sdc_err sdci_registrar_post(sdc_registrar *r, sdci_mail *mail, sdc_status status,
                                   const char *text)
{
    const sdc_allocator *a = &r->task.client->allocator;
    size_t len = (size_t)sdci_min(strlen(text), SDCI_OUTPUT_MAX);

    if (!sdci_is_utf8(text)) {
        return SDC_ERR_ARG;
    }
    while (len > 0 && ((unsigned char)text[len] & 0xC0) == 0x80) {
        len--;
    }
    char *copy = sdci_copy_slice(a, sdci_slice(text, len));
    if (copy == NULL) {
        return SDC_ERR_NOMEM;
    }
    uint64_t now_ms = sdc_client_now_ms(r->task.client);
    sdci_lock(&r->lock);
    char *old = mail->text;
    mail->text = copy;
    mail->at_ms = now_ms;
    mail->status = status;
    mail->is_new = true;
    sdci_unlock(&r->lock);
    sdci_free_text(a, old);
    return SDC_OK;
}

/* Takes a mail out, if there is one. */
static bool sdci_registrar_receive(sdc_registrar *r, sdci_mail *mail, sdci_mail *out)
{
    sdci_lock(&r->lock);
    *out = *mail;
    mail->text = NULL;
    mail->is_new = false;
    sdci_unlock(&r->lock);
    return out->is_new;
}

static void sdci_service_destroy(sdci_service *service)
{
    if (service != NULL) {
        const sdc_allocator *a = service->allocator;
        sdci_service_deinit(service);
        sdci_free(a, service, sizeof *service);
    }
}

/* Leaves a registration for the stepping thread, or takes it out with NULL. Answers the one that
   was there. */
static sdci_service *sdci_registrar_swap_update(sdc_registrar *r, sdci_service *update)
{
    sdci_lock(&r->lock);
    sdci_service *old = r->update_mail;
    r->update_mail = update;
    sdci_unlock(&r->lock);
    return old;
}

/* When what has changed is sent: at once, but for the pause after a failure, and a little later
   where it changes all the time. */
static uint64_t sdci_timer_soon(const sdci_timer *timer, uint64_t now_ms)
{
    return sdci_max(sdci_max(now_ms, timer->pause_until_ms),
                    sdci_after(timer->asked_at_ms, SDCI_CHANGE_MS));
}

/* The agent has something else than what is wanted. */
static void sdci_registrar_outdated(sdc_registrar *r)
{
    r->is_current = false;
    r->to_register.due_ms = sdci_timer_soon(&r->to_register, r->task.now_ms);
}

/* Only where the checks are others does an agent have any that must go: replacing them takes away
   what others have added, and the maintenance of an operator. */
static bool sdci_service_has_same_checks(const sdci_service *s, const sdci_service *other)
{
    size_t len = s->body.len - s->checks_at;

    return len == other->body.len - other->checks_at &&
           memcmp(s->body.ptr + s->checks_at, other->body.ptr + other->checks_at, len) == 0;
}

static void sdci_registrar_read_update(sdc_registrar *r)
{
    sdci_service *update = sdci_registrar_swap_update(r, NULL);

    if (update != NULL) {
        sdci_service old = r->service;
        r->service = *update;
        *update = old;
        r->known = sdci_service_has_same_checks(&r->service, update) ? r->known : 0;
        sdci_service_destroy(update);
        sdci_registrar_outdated(r);
    }
}

/* What is said over and over costs no requests: it only proves that the program lives. */
static void sdci_registrar_read_status(sdc_registrar *r, sdci_beat *beat, const sdci_mail *mail)
{
    bool is_same = mail->status == beat->status && strcmp(mail->text, beat->output) == 0;

    sdci_free_text(&r->task.client->allocator, beat->output);
    beat->output = mail->text;
    beat->status = mail->status;
    beat->expires_ms = sdci_after(mail->at_ms, r->status_expires_ms);
    if (!is_same) {
        beat->timer.due_ms = sdci_timer_soon(&beat->timer, r->task.now_ms);
    }
}

static void sdci_registrar_read_mail(sdc_registrar *r)
{
    const sdc_allocator *a = &r->task.client->allocator;
    sdci_mail mail;

    sdci_registrar_read_update(r);
    for (size_t i = 0; i < r->num_beats; i++) {
        sdci_beat *beat = &r->beats[i];
        if (sdci_registrar_receive(r, &beat->mail, &mail)) {
            sdci_registrar_read_status(r, beat, &mail);
        }
    }
    if (sdci_registrar_receive(r, &r->maintenance_mail, &mail)) {
        sdci_free_text(a, r->reason);
        r->reason = mail.text;
        r->wants_maintenance = mail.status == SDC_STATUS_MAINTENANCE;
        r->known = r->wants_maintenance ? r->known : 0;     /* one left elsewhere is such a check */
        r->to_maintain.due_ms = sdci_timer_soon(&r->to_maintain, r->task.now_ms);
    }
}

/* -- Which job is next -- */

typedef struct sdci_due {
    sdci_job job;
    size_t which;               /* of the beats */
    uint64_t at_ms;
} sdci_due;

static void sdci_due_earlier(sdci_due *due, sdci_job job, size_t which, uint64_t at_ms)
{
    if (at_ms < due->at_ms) {
        due->job = job;
        due->which = which;
        due->at_ms = at_ms;
    }
}

/* What keeps a registration that is there. Maintenance comes before a beat that is due with it:
   until then a new registration is in use. A beat shows by itself when the service is gone, so the
   agent is asked only where there is none. */
static void sdci_registrar_next_upkeep(const sdc_registrar *r, sdci_due *due)
{
    bool is_beating = false;

    sdci_due_earlier(due, SDCI_JOB_MAINTENANCE, 0, r->to_maintain.due_ms);
    for (size_t i = 0; i < r->num_beats; i++) {
        sdci_due_earlier(due, SDCI_JOB_BEAT, i, r->beats[i].timer.due_ms);
        is_beating = is_beating || !r->beats[i].is_silent;
    }
    /* not in front of an update that is about to be sent; but one that is refused may stay so */
    if (!is_beating && (r->is_current || r->to_register.num_failures > 0)) {
        sdci_due_earlier(due, SDCI_JOB_VERIFY, 0, r->to_verify.due_ms);
    }
}

static uint32_t sdci_bit(size_t nth)
{
    return (uint32_t)1 << nth;
}

/* The agents other than the base that may hold a registration of ours. */
static uint32_t sdci_registrar_twins(const sdc_registrar *r)
{
    return r->held & ~sdci_bit(r->base);
}

/* Two excursions do not follow each other while the base is waiting. */
static void sdci_registrar_next_excursion(const sdc_registrar *r, sdci_due *due)
{
    bool was_away = r->job == SDCI_JOB_HOME || r->job == SDCI_JOB_TWIN;

    if (was_away && due->at_ms <= r->task.now_ms) {
        return;
    }
    sdci_due_earlier(due, SDCI_JOB_HOME, 0, r->task.home_at_ms);
    if (sdci_registrar_twins(r) != 0 && sdci_atomic_get(&r->is_registered) != 0) {
        sdci_due_earlier(due, SDCI_JOB_TWIN, 0, r->to_take_back.due_ms);
    }
}

/* The most urgent job, and when it is due. Stopping leaves one thing to do, if any. */
static sdci_due sdci_registrar_next(const sdc_registrar *r)
{
    sdci_due due = { SDCI_JOB_NONE, 0, SDCI_FOREVER };
    bool is_stopping = r->stop_at_ms != SDCI_FOREVER;

    if (is_stopping || !r->is_wanted) {
        bool takes_back = !is_stopping || (!r->keep_on_stop && r->task.now_ms < r->stop_at_ms);
        if (takes_back && r->held != 0) {
            sdci_due_earlier(&due, SDCI_JOB_DEREGISTER, 0, r->to_register.due_ms);
        }
    } else {
        if (!r->is_current) {
            sdci_due_earlier(&due, SDCI_JOB_REGISTER, 0, r->to_register.due_ms);
        }
        if (sdci_atomic_get(&r->is_registered) != 0) {
            sdci_registrar_next_upkeep(r, &due);
        }
        sdci_registrar_next_excursion(r, &due);
        for (size_t i = 0; i < r->num_beats; i++) {
            sdci_due_earlier(&due, SDCI_JOB_NONE, i, r->beats[i].is_silent
                                                         ? SDCI_FOREVER : r->beats[i].expires_ms);
        }
    }
    return due;
}

/* Silences what has not been told a status for too long, and gives its voice back to what has been
   told one since. A beat that was under way is not repeated. */
static void sdci_registrar_expire(sdc_registrar *r)
{
    for (size_t i = 0; i < r->num_beats; i++) {
        sdci_beat *beat = &r->beats[i];
        bool is_old = r->task.now_ms >= beat->expires_ms;
        if (is_old != beat->is_silent) {
            beat->is_silent = is_old;
            beat->timer.was_unheard = false;
            beat->timer.due_ms = is_old ? SDCI_FOREVER
                                        : sdci_timer_soon(&beat->timer, r->task.now_ms);
            sdci_registrar_log_beat(r, beat);
        }
    }
}

/* -- Doing a job -- */

/* A new registration starts a check as passing, which a silent one is not: that is the one thing
   said about it. */
static sdci_request sdci_registrar_request_beat(sdc_registrar *r, const sdci_beat *beat)
{
    sdc_status status = beat->is_silent ? SDC_STATUS_CRITICAL : beat->status;
    sdc_client *client = r->task.client;
    sdci_call *call = &r->task.call;
    sdci_buf body;

    sdci_buf_init(&body, &client->allocator, SDCI_BODY_MAX);
    sdci_put_char(&body, '{');
    sdci_put_member(&body, "Status", sdci_status_text(status));
    sdci_put_member(&body, "Output", beat->is_silent ? "the program's status has expired"
                                                     : beat->output);
    sdci_put_char(&body, '}');
    sdci_request request = sdci_request_begin(client, call, "PUT", "/v1/agent/check/update/");
    sdci_put_escaped(&call->request, beat->id);
    sdci_request_scope(&request, NULL, NULL, NULL);
    if (body.err == SDC_OK) {
        sdci_str text = sdci_buf_from(&body, 0);
        sdci_request_end(&request, &text);
    } else {
        call->request.err = body.err;
    }
    sdci_buf_deinit(&body);
    return request;
}

static sdci_request sdci_registrar_request_maintenance(sdc_registrar *r)
{
    sdci_call *call = &r->task.call;
    sdci_request request = sdci_request_begin(r->task.client, call, "PUT",
                                              "/v1/agent/service/maintenance/");
    sdci_str nothing = sdci_slice("", 0);

    sdci_put_escaped(&call->request, r->id);
    sdci_request_param(&request, "enable", r->wants_maintenance ? "true" : "false");
    sdci_request_param_if(&request, "reason", r->reason);
    sdci_request_scope(&request, NULL, NULL, NULL);
    sdci_request_end(&request, &nothing);
    return request;
}

static sdci_request sdci_registrar_request(sdc_registrar *r, sdci_job job)
{
    sdc_client *client = r->task.client;
    sdci_call *call = &r->task.call;

    switch (job) {
    case SDCI_JOB_REGISTER:
    case SDCI_JOB_HOME:
        return sdci_request_register(client, call, sdci_buf_from(&r->service.body, 0),
                                     (r->known & sdci_bit(sdci_link_which(&call->link))) == 0);
    case SDCI_JOB_BEAT:
        return sdci_registrar_request_beat(r, &r->beats[r->which]);
    case SDCI_JOB_MAINTENANCE:
        return sdci_registrar_request_maintenance(r);
    case SDCI_JOB_VERIFY:
        return sdci_request_on_id(client, call, "GET", "/v1/agent/service/", r->id);
    case SDCI_JOB_TWIN:
    case SDCI_JOB_DEREGISTER:
    case SDCI_JOB_NONE:
        break;
    }
    return sdci_request_on_id(client, call, "PUT", "/v1/agent/service/deregister/", r->id);
}

static uint32_t sdci_num_bits(uint32_t bits)
{
    uint32_t num = 0;

    for (; bits != 0; bits &= bits - 1) {
        num++;
    }
    return num;
}

/* How long an exchange may take beside heartbeats: no longer than a quarter of the shortest TTL, so
   that two in a row which lead nowhere, after the third of a pause, do not cost it. A new
   registration in place may take two such. */
static uint64_t sdci_registrar_beside_beats_ms(const sdc_registrar *r, sdci_job job)
{
    uint64_t most_ms = r->task.client->request_timeout_ms;

    for (size_t i = 0; i < r->num_beats; i++) {
        if (!r->beats[i].is_silent) {
            most_ms = sdci_min(most_ms, sdci_max(r->beats[i].ttl_ms / 4, 1000));
        }
    }
    return job == SDCI_JOB_REGISTER ? 2 * most_ms : most_ms;
}

/* Stopping and the calls leave each agent that is still to be asked a part of their time. */
static uint32_t sdci_registrar_timeout_ms(const sdc_registrar *r, sdci_job job)
{
    uint64_t timeout_ms = r->task.client->request_timeout_ms;
    uint64_t until_ms = sdci_min(r->stop_at_ms, r->call_until_ms);
    bool takes_back = job == SDCI_JOB_DEREGISTER;

    if (sdci_atomic_get(&r->is_registered) != 0 && !takes_back) {
        timeout_ms = sdci_min(timeout_ms, sdci_registrar_beside_beats_ms(r, job));
    }
    if (until_ms != SDCI_FOREVER && (takes_back || job == SDCI_JOB_REGISTER)) {
        uint32_t turns = takes_back ? sdci_num_bits(r->held & ~r->tried) : r->call_turns;
        uint64_t left_ms = until_ms - sdci_min(r->task.now_ms, until_ms);
        timeout_ms = sdci_max(sdci_min(timeout_ms, left_ms / sdci_max(turns, 1)), 1);
    }
    return (uint32_t)timeout_ms;
}

/* A name may lead to many addresses, each with a time of its own to connect. What keeps others
   waiting ends in its own time all the same; the base is worth all of them. */
static uint64_t sdci_registrar_until_ms(const sdc_registrar *r, sdci_job job, uint32_t timeout_ms)
{
    bool is_excursion = job == SDCI_JOB_HOME || job == SDCI_JOB_TWIN;
    bool is_awaited = r->stop_at_ms != SDCI_FOREVER || r->call_until_ms != SDCI_FOREVER;

    return is_excursion || is_awaited ? sdci_after(r->task.now_ms, timeout_ms) : SDCI_FOREVER;
}

/* One of the agents that may hold a registration: the base first, then each in its turn. */
static size_t sdci_registrar_pick(sdc_registrar *r, uint32_t among)
{
    size_t which = 0;

    SDC_ASSERT(among != 0);
    if ((among & ~r->tried) == 0) {
        r->tried = 0;
    }
    among &= ~r->tried;
    if ((among & sdci_bit(r->base)) != 0) {
        return r->base;
    }
    while ((among & sdci_bit(which)) == 0) {
        which++;
    }
    return which;
}

/* Which agent a job is for. */
static size_t sdci_registrar_agent_of(sdc_registrar *r, sdci_job job)
{
    if (job == SDCI_JOB_TWIN || job == SDCI_JOB_DEREGISTER) {
        return sdci_registrar_pick(r, job == SDCI_JOB_TWIN ? sdci_registrar_twins(r) : r->held);
    }
    return job == SDCI_JOB_HOME ? 0 : r->base;
}

/* The timer of the job that is under way. */
static sdci_timer *sdci_registrar_timer(sdc_registrar *r)
{
    switch (r->job) {
    case SDCI_JOB_BEAT:        return &r->beats[r->which].timer;
    case SDCI_JOB_MAINTENANCE: return &r->to_maintain;
    case SDCI_JOB_VERIFY:      return &r->to_verify;
    case SDCI_JOB_TWIN:        return &r->to_take_back;
    case SDCI_JOB_REGISTER:
    case SDCI_JOB_HOME:
    case SDCI_JOB_DEREGISTER:
    case SDCI_JOB_NONE:        break;
    }
    return &r->to_register;
}

static void sdci_registrar_start(sdc_registrar *r, sdci_job job, size_t which)
{
    sdc_task *task = &r->task;
    size_t agent = sdci_registrar_agent_of(r, job);
    uint32_t timeout_ms = sdci_registrar_timeout_ms(r, job);

    if (job == SDCI_JOB_TWIN || job == SDCI_JOB_DEREGISTER) {
        r->tried |= sdci_bit(agent);
    }
    sdci_link_use(&task->call.link, agent);
    r->which = which;
    sdci_request request = sdci_registrar_request(r, job);
    task->call.link.connect_timeout_ms = (uint32_t)sdci_min(task->client->connect_timeout_ms,
                                                            timeout_ms);
    sdci_task_start(task, &request, job == SDCI_JOB_VERIFY ? "GET" : "PUT", timeout_ms, NULL);
    if (job == SDCI_JOB_MAINTENANCE) {
        r->to_maintain.due_ms = SDCI_FOREVER;   /* what is set meanwhile is due again */
    }
    r->was_held = (r->held & sdci_bit(agent)) != 0;
    r->asked_at_ms = task->now_ms;
    r->until_ms = sdci_registrar_until_ms(r, job, timeout_ms);
    r->job = job;
    sdci_registrar_timer(r)->asked_at_ms = task->now_ms;
    r->state = SDCI_REGISTRAR_EXCHANGING;
}

/* Counted from when the last one was sent, and a little early at random: many processes that were
   started together spread. */
static uint64_t sdci_registrar_next_beat(sdc_registrar *r, const sdci_beat *beat)
{
    if (beat->is_silent) {
        return SDCI_FOREVER;
    }
    return r->asked_at_ms + beat->every_ms -
           sdci_random_upto(&r->task.random, beat->every_ms / 10);
}

/* Due now; what the agent keeps forgetting comes behind the others. */
static void sdci_timer_anew(sdci_timer *timer, uint64_t now_ms)
{
    timer->due_ms = now_ms + (timer->num_failures > 1 ? 1 : 0);
    timer->pause_until_ms = 0;
}

/* An agent keeps the state of a check that it has, and starts one that it does not have with the
   body's; so what the program set is sent at once behind the registration. */
static void sdci_registrar_registered(sdc_registrar *r)
{
    uint64_t now_ms = r->task.now_ms;

    r->task.stats.registrations++;
    r->registered_at_ms = now_ms;
    sdci_atomic_set(&r->is_registered, 1);
    for (size_t i = 0; i < r->num_beats; i++) {
        sdci_timer_anew(&r->beats[i].timer, now_ms);
    }
    if (r->wants_maintenance) {
        sdci_timer_anew(&r->to_maintain, now_ms);
    }
    /* asked at once where that tells what the agent has made of it */
    bool asks_hash = r->verify_ms != SDC_NEVER && !r->service.has_tag_override;
    r->to_verify.due_ms = asks_hash ? now_ms : sdci_after(now_ms, r->verify_ms);
    r->content_hash = 0;
    r->is_current = true;
    r->known |= sdci_bit(r->base);
    sdci_registrar_log(r, "register", NULL);
}

/* The service is there, but is it ours? Somebody may have registered another one under its ID, and
   an agent tells that by a hash of all that it knows of it. With EnableTagOverride it changes for
   good reasons too, and some agents give none. The first one after a registration is ours. */
static void sdci_registrar_verified(sdc_registrar *r)
{
    uint64_t hash = r->task.answer.content_hash;
    bool is_other = r->content_hash != 0 && hash != 0 && hash != r->content_hash;

    r->to_verify.due_ms = sdci_after(r->task.now_ms, r->verify_ms);
    if (r->content_hash == 0) {
        r->content_hash = hash;
    }
    if (is_other && !r->service.has_tag_override) {
        sdci_registrar_log(r, NULL, "what is registered under the ID was changed");
        r->known &= ~sdci_bit(r->base);
        sdci_registrar_outdated(r);
    }
}

static void sdci_registrar_deregistered(sdc_registrar *r)
{
    size_t agent = sdci_link_which(&r->task.call.link);

    r->held &= ~sdci_bit(agent);
    r->known &= ~sdci_bit(agent);
    if (agent == r->base) {
        r->is_current = false;
        sdci_atomic_set(&r->is_registered, 0);
    }
    r->to_register.due_ms = r->task.now_ms;
    sdci_registrar_log(r, "deregister", NULL);
}

static void sdci_registrar_came_home(sdc_registrar *r)
{
    r->base = 0;
    sdci_task_use_agent(&r->task, 0);
    r->to_take_back.due_ms = r->task.now_ms;
    r->to_take_back.num_failures = 0;
    sdci_registrar_registered(r);
}

/* Two names of the list may lead to one agent, and then the base has just lost what was taken for a
   twin: it is asked at once. */
static void sdci_registrar_took_back(sdc_registrar *r)
{
    uint64_t now_ms = r->task.now_ms;
    uint32_t bit = sdci_bit(sdci_link_which(&r->task.call.link));

    r->held &= ~bit;
    r->known &= ~bit;
    r->num_lost = 0;
    r->to_take_back.due_ms = now_ms;
    r->to_verify.due_ms = r->verify_ms != SDC_NEVER ? now_ms : SDCI_FOREVER;
    for (size_t i = 0; i < r->num_beats; i++) {
        sdci_beat *beat = &r->beats[i];
        beat->timer.due_ms = beat->is_silent ? beat->timer.due_ms : now_ms;
    }
    sdci_registrar_log(r, "deregister_twin", NULL);
}

/* The agent answers: what failed for want of that need not wait any longer. */
static void sdci_registrar_heard(sdc_registrar *r)
{
    sdci_timer *timers[] = { &r->to_register, &r->to_maintain, &r->to_verify };

    for (size_t i = 0; i < r->num_beats + sizeof timers / sizeof timers[0]; i++) {
        sdci_timer *timer = i < r->num_beats ? &r->beats[i].timer : timers[i - r->num_beats];
        if (timer->was_unheard) {
            timer->was_unheard = false;
            timer->due_ms = r->task.now_ms;
            timer->pause_until_ms = 0;
        }
    }
}

/* The one writer of what a good answer changes. */
static void sdci_registrar_job_done(sdc_registrar *r)
{
    bool is_upkeep = r->job == SDCI_JOB_BEAT || r->job == SDCI_JOB_MAINTENANCE ||
                     r->job == SDCI_JOB_VERIFY;

    if (r->task.stats.consecutive_failures > 0 && is_upkeep) {
        sdci_registrar_log(r, "recovered", NULL);
    }
    sdci_registrar_timer(r)->was_unheard = false;
    sdci_registrar_heard(r);
    switch (r->job) {
    case SDCI_JOB_REGISTER:
        sdci_registrar_registered(r);
        break;
    case SDCI_JOB_BEAT:
        r->task.stats.heartbeats++;
        r->beats[r->which].timer.due_ms = sdci_registrar_next_beat(r, &r->beats[r->which]);
        break;
    case SDCI_JOB_VERIFY:
        sdci_registrar_verified(r);
        break;
    case SDCI_JOB_HOME:
        sdci_registrar_came_home(r);
        break;
    case SDCI_JOB_TWIN:
        sdci_registrar_took_back(r);
        break;
    case SDCI_JOB_DEREGISTER:
        sdci_registrar_deregistered(r);
        break;
    case SDCI_JOB_MAINTENANCE:
    case SDCI_JOB_NONE:
        break;
    }
    sdci_registrar_timer(r)->num_failures = 0;
    sdci_registrar_timer(r)->pause_until_ms = 0;
    sdci_task_succeeded(&r->task);
}

/* The pause after a failure. What the agent has refused as wrong or forbidden is not better a
   moment later, nor is one that asks to be left alone; but a beat that is late must still come
   before its TTL is over. It is at most half of the time that the job has been failing, so that all
   is well again soon after a short outage. */
static uint64_t sdci_registrar_pause_ms(sdc_registrar *r, sdc_err err, uint32_t nth, bool has_ttl,
                                        uint64_t failing_ms)
{
    bool is_refused = err == SDC_ERR_STATUS || err == SDC_ERR_DENIED || err == SDC_ERR_BUSY;
    uint32_t least_ms = is_refused ? 1000 : 10;
    uint64_t limit_ms = 30000;

    for (size_t i = 0; has_ttl && i < r->num_beats; i++) {
        limit_ms = sdci_min(limit_ms, sdci_max(r->beats[i].every_ms / 2, 100));
    }
    if (sdci_task_is_stopping(&r->task)) {
        limit_ms = sdci_min(limit_ms, sdci_max(r->stop_timeout_ms / 8, 10));
    }
    uint32_t most_ms = (uint32_t)sdci_min(sdci_max(failing_ms / 2, 2000), limit_ms);
    uint64_t pause_ms = sdci_backoff_ms(&r->task.random, (uint32_t)sdci_min(least_ms, most_ms),
                                        most_ms, nth);
    uint64_t after_ms = sdci_min(sdci_answer_retry_after_ms(&r->task.answer), limit_ms);
    return after_ms > pause_ms
               ? after_ms + sdci_random_upto(&r->task.random, after_ms / 8) : pause_ms;
}

/* Counts a failure. Answers for how long there has been nothing else. */
static uint64_t sdci_timer_failed(sdci_timer *timer, uint64_t now_ms)
{
    if (timer->num_failures == 0) {
        timer->failing_since_ms = now_ms;
    }
    timer->num_failures++;
    return now_ms - timer->failing_since_ms;
}

/* What was registered is so no more. A registration that has lived for a while was a good one, and
   is missed by accident; others are lost as soon as they are had, and the pauses grow. */
static void sdci_registrar_lost(sdc_registrar *r)
{
    if (r->task.now_ms - r->registered_at_ms >= SDCI_KNOWN_MS) {
        r->num_lost = 0;
    }
    r->num_lost++;
    r->is_current = false;
    sdci_atomic_set(&r->is_registered, 0);
}

/* The agent does not know what was registered. */
static void sdci_registrar_forgotten(sdc_registrar *r, sdc_err err)
{
    sdci_registrar_lost(r);
    uint64_t pause_ms = r->num_lost <= 1
                            ? 0 : sdci_registrar_pause_ms(r, err, r->num_lost - 1,
                                                          r->num_beats > 0, SDCI_FOREVER);
    if (r->job != SDCI_JOB_VERIFY) {
        (void)sdci_timer_failed(sdci_registrar_timer(r), r->task.now_ms);
    }
    r->to_register.due_ms = r->task.now_ms + pause_ms;
    r->to_register.pause_until_ms = r->to_register.due_ms;
}

/* The base has just been left, for the next agent of the list. The pauses grow with each round. */
static void sdci_registrar_left(sdc_registrar *r, sdc_err err)
{
    sdci_timer *timer = &r->to_register;

    if (sdci_atomic_get(&r->is_registered) != 0) {
        sdci_registrar_lost(r);
    }
    uint32_t round = sdci_task_rounds(&r->task, r->num_lost + timer->num_failures);
    uint64_t failing_ms = timer->num_failures > 0 ? r->task.now_ms - timer->failing_since_ms
                                                  : SDCI_FOREVER;
    timer->was_unheard = false;
    timer->due_ms = r->task.now_ms +
                    (round > 1 ? sdci_registrar_pause_ms(r, err, round, false, failing_ms) : 0);
    timer->pause_until_ms = timer->due_ms;
    r->base = (uint32_t)sdci_link_which(&r->task.call.link);
    r->to_take_back.num_failures = 0;
    r->to_take_back.due_ms = r->task.now_ms + SDCI_TWIN_MIN_MS +
                             sdci_random_upto(&r->task.random, SDCI_TWIN_MIN_MS / 2);
}

/* The base knows nothing of this, and is no worse for it. */
static void sdci_registrar_excursion_failed(sdc_registrar *r, const sdc_error *error)
{
    uint32_t before = r->task.stats.consecutive_failures;

    sdci_registrar_log(r, NULL, error->message);
    if (r->job == SDCI_JOB_HOME) {
        sdci_task_use_agent(&r->task, r->base);
    } else {
        r->to_take_back.num_failures++;
        r->to_take_back.due_ms = r->task.now_ms +
                                 sdci_backoff_ms(&r->task.random, SDCI_TWIN_MIN_MS,
                                                 SDCI_TWIN_MAX_MS, r->to_take_back.num_failures);
    }
    sdci_task_failed(&r->task, error);
    r->task.stats.consecutive_failures = before;
}

/* Another agent is asked at once, a round of them after a pause. */
static void sdci_registrar_deregister_failed(sdc_registrar *r, sdc_err err, const sdc_error *error)
{
    sdci_timer *timer = &r->to_register;
    uint64_t pause_ms = 0;

    uint64_t failing_ms = sdci_timer_failed(timer, r->task.now_ms);
    if ((r->held & ~r->tried) == 0 && r->stop_at_ms != SDCI_FOREVER) {
        pause_ms = sdci_registrar_pause_ms(r, err, timer->num_failures, false, failing_ms);
    } else if ((r->held & ~r->tried) == 0) {
        pause_ms = sdci_backoff_ms(&r->task.random, SDCI_TWIN_MIN_MS, SDCI_TWIN_MAX_MS,
                                   timer->num_failures);
    }
    timer->due_ms = r->task.now_ms + pause_ms;
    timer->pause_until_ms = timer->due_ms;
    sdci_registrar_log(r, NULL, error->message);
    sdci_task_failed(&r->task, error);
}

/* On to the next agent? What the first one of the list refuses is refused everywhere; but one that
   was only the next best, and refuses, is no place to wait for the first to come back. */
static bool sdci_registrar_leaves(sdc_registrar *r, sdc_err err, const sdc_error *error)
{
    bool is_unwelcome = r->job == SDCI_JOB_REGISTER && r->base != 0 && error->http_status != 0 &&
                        sdci_atomic_get(&r->is_registered) == 0;

    if (is_unwelcome) {
        sdci_task_use_agent(&r->task, (r->base + 1) % r->task.call.link.num_agents);
    }
    return is_unwelcome || sdci_task_leave_agent(&r->task, err);
}

/* A job at the base. */
static void sdci_registrar_base_failed(sdc_registrar *r, sdc_err err, const sdc_error *error)
{
    sdci_timer *timer = sdci_registrar_timer(r);
    bool is_forgotten = err == SDC_ERR_STATUS && sdci_answer_says_unknown(&r->task.answer) &&
                        r->job != SDCI_JOB_REGISTER;

    if (is_forgotten) {
        sdci_registrar_forgotten(r, err);
    } else {
        uint64_t failing_ms = sdci_timer_failed(timer, r->task.now_ms);
        timer->was_unheard = error->http_status == 0;
        timer->due_ms = r->task.now_ms +
                        sdci_registrar_pause_ms(r, err, timer->num_failures,
                                                r->job == SDCI_JOB_BEAT, failing_ms);
        timer->pause_until_ms = timer->due_ms;
    }
    sdci_registrar_log(r, NULL, error->message);
    sdci_task_failed(&r->task, error);
    if (!is_forgotten && sdci_registrar_leaves(r, err, error)) {
        sdci_registrar_left(r, err);
    }
}

static void sdci_registrar_job_failed(sdc_registrar *r, sdc_err err, const sdc_error *error)
{
    bool is_refused = error->http_status >= 400 && error->http_status < 500;

    if (is_refused && !r->was_held) {
        r->held &= ~sdci_bit(sdci_link_which(&r->task.call.link));
    }
    if (r->job == SDCI_JOB_HOME || r->job == SDCI_JOB_TWIN) {
        sdci_registrar_excursion_failed(r, error);
    } else if (r->job == SDCI_JOB_DEREGISTER) {
        sdci_registrar_deregister_failed(r, err, error);
    } else {
        sdci_registrar_base_failed(r, err, error);
    }
}

/* -- The machine -- */

/* Ends the exchange that is under way, whatever it is about. */
static void sdci_registrar_drop(sdc_registrar *r)
{
    if (r->state == SDCI_REGISTRAR_EXCHANGING) {
        sdci_call_abort(&r->task.call);
        r->state = SDCI_REGISTRAR_PAUSED;
        sdci_registrar_timer(r)->due_ms = r->task.now_ms;
    }
    r->job = SDCI_JOB_NONE;
}

/* The first step that sees the stop: what is under way is dropped, and time begins to run. */
static void sdci_registrar_begin_stop(sdc_registrar *r)
{
    if (sdci_task_is_stopping(&r->task) && r->stop_at_ms == SDCI_FOREVER) {
        r->stop_at_ms = sdci_after(r->task.now_ms, r->stop_timeout_ms);
        r->tried = 0;
        sdci_registrar_drop(r);
        r->to_register.due_ms = 0;
        r->to_register.num_failures = 0;
    }
}

/* SDC_OK: a job was started. */
static sdc_err sdci_registrar_paused(sdc_registrar *r)
{
    sdci_registrar_read_mail(r);
    sdci_registrar_expire(r);
    sdci_due due = sdci_registrar_next(r);
    if (due.job == SDCI_JOB_NONE && r->stop_at_ms != SDCI_FOREVER) {
        sdci_call_abort(&r->task.call);
        r->state = SDCI_REGISTRAR_STOPPED;
        return SDC_STOPPED;
    }
    if (due.job == SDCI_JOB_NONE || due.at_ms > r->task.now_ms) {
        return SDC_AGAIN;
    }
    sdci_registrar_start(r, due.job, due.which);
    return SDC_OK;
}

static sdc_err sdci_registrar_exchanging(sdc_registrar *r, sdci_share *share)
{
    sdc_error error;
    sdc_err err = sdci_task_exchange(&r->task, share, &error);

    if ((r->job == SDCI_JOB_REGISTER || r->job == SDCI_JOB_HOME) && r->task.call.sent > 0) {
        r->held |= sdci_bit(sdci_link_which(&r->task.call.link));
    }
    if (err == SDC_AGAIN && r->task.now_ms < r->until_ms) {
        return SDC_AGAIN;
    }
    if (err == SDC_AGAIN) {
        err = sdci_fail(&error, SDC_ERR_TIMEOUT, "%.70s: no answer within %u ms",
                        r->task.call.link.agent->name, (unsigned)(r->until_ms - r->asked_at_ms));
        sdci_call_abort(&r->task.call);
    }
    r->state = SDCI_REGISTRAR_PAUSED;
    bool is_gone = (r->job == SDCI_JOB_DEREGISTER || r->job == SDCI_JOB_TWIN) &&
                   err == SDC_ERR_STATUS && sdci_answer_says_unknown(&r->task.answer);
    err = is_gone ? SDC_OK : err;
    sdci_call_end(&r->task.call);
    if (err == SDC_OK) {
        sdci_registrar_job_done(r);
    } else {
        sdci_registrar_job_failed(r, err, &error);
    }
    sdci_registrar_read_mail(r);        /* what came meanwhile is due now, and the wants say so */
    return err;
}

static sdc_err sdci_registrar_advance(sdc_task *task, sdci_share *share)
{
    sdc_registrar *r = sdci_registrar_of(task);
    sdc_err err = SDC_STOPPED;

    sdci_registrar_begin_stop(r);
    if (r->state == SDCI_REGISTRAR_PAUSED) {
        err = sdci_registrar_paused(r);
        if (err != SDC_OK) {
            return err;
        }
    }
    if (r->state == SDCI_REGISTRAR_EXCHANGING) {
        err = sdci_registrar_exchanging(r, share);
    }
    return err;
}

static uint64_t sdci_registrar_deadline(const sdc_task *task)
{
    const sdc_registrar *r = sdci_registrar_of(task);

    if (r->state == SDCI_REGISTRAR_STOPPED) {
        return SDCI_FOREVER;
    }
    if (sdci_task_is_stopping(task) && r->stop_at_ms == SDCI_FOREVER) {
        return 0;
    }
    if (r->state == SDCI_REGISTRAR_EXCHANGING) {
        return r->until_ms;
    }
    sdci_due due = sdci_registrar_next(r);
    if (due.job == SDCI_JOB_NONE && r->stop_at_ms != SDCI_FOREVER) {
        return 0;       /* all is done: the next step says so */
    }
    return sdci_min(due.at_ms, r->stop_at_ms);
}

/* -- Create and destroy -- */

static void sdci_registrar_free(sdc_registrar *r)
{
    sdc_client *client = sdci_client_retain(r->task.client);
    const sdc_allocator *a = &client->allocator;

    for (size_t i = 0; i < r->num_beats; i++) {
        sdci_free_text(a, r->beats[i].mail.text);
        sdci_free_text(a, r->beats[i].id);
        sdci_free_text(a, r->beats[i].output);
    }
    sdci_free(a, r->beats, r->num_beats * sizeof *r->beats);
    sdci_free_text(a, r->maintenance_mail.text);
    sdci_free_text(a, r->reason);
    sdci_service_destroy(r->update_mail);
    sdci_service_deinit(&r->service);
    sdci_free_text(a, r->id);
    sdci_task_deinit(&r->task);
    sdci_free(a, r, sizeof *r);
    sdci_client_release(client);
}

static void sdci_registrar_release(sdc_task *task)
{
    sdci_registrar_free(sdci_registrar_of(task));
}

static const sdci_task_ops sdci_registrar_ops = {
    sdci_registrar_advance, sdci_registrar_deadline, sdci_registrar_release
};

static sdc_err sdci_registrar_init_beats(sdc_registrar *r, const sdc_registrar_desc *desc)
{
    const sdc_registration *registration = &desc->registration;
    const sdc_allocator *a = &r->task.client->allocator;
    size_t num = 0;

    for (size_t i = 0; i < registration->num_checks; i++) {
        num += registration->checks[i].ttl_ms != 0 ? 1 : 0;
    }
    if (num == 0) {
        return SDC_OK;
    }
    r->beats = (sdci_beat *)sdci_new(a, num * sizeof *r->beats);
    r->num_beats = r->beats != NULL ? num : 0;
    for (size_t i = 0, k = 0; i < registration->num_checks && k < r->num_beats; i++) {
        const sdc_check *check = &registration->checks[i];
        if (check->ttl_ms == 0) {
            continue;
        }
        sdci_beat *beat = &r->beats[k++];
        uint32_t third_ms = check->ttl_ms >= 3 ? check->ttl_ms / 3 : 1;
        beat->id = sdci_check_id(a, registration, i, r->id);
        beat->output = sdci_copy(a, "");
        beat->status = check->status != SDC_STATUS_UNSET ? check->status : SDC_STATUS_PASSING;
        beat->ttl_ms = check->ttl_ms;
        beat->expires_ms = sdci_after(r->task.now_ms, r->status_expires_ms);
        beat->every_ms = sdci_or(desc->heartbeat_ms, third_ms);
        if (beat->id == NULL || beat->output == NULL) {
            return SDC_ERR_NOMEM;
        }
    }
    return r->num_beats > 0 ? SDC_OK : SDC_ERR_NOMEM;
}

static sdc_err sdci_registrar_desc_valid(const sdc_registrar_desc *desc, sdc_error *error)
{
    if (desc->heartbeat_ms == SDC_NEVER || desc->stop_timeout_ms == SDC_NEVER) {
        return sdci_fail(error, SDC_ERR_ARG, "%s cannot be for ever",
                         desc->heartbeat_ms == SDC_NEVER ? "heartbeat_ms" : "stop_timeout_ms");
    }
    for (size_t i = 0; i < desc->registration.num_checks; i++) {
        uint32_t ttl_ms = desc->registration.checks[i].ttl_ms;
        if (ttl_ms != 0 && desc->heartbeat_ms >= ttl_ms) {
            return sdci_fail(error, SDC_ERR_ARG, "heartbeat_ms is not less than the ttl_ms of "
                             "checks[%u]", (unsigned)i);
        }
    }
    return SDC_OK;
}

sdc_err sdc_registrar_create(sdc_client *client, const sdc_registrar_desc *desc,
                             sdc_registrar **out, sdc_error *error)
{
    sdci_service service;

    *out = NULL;
    sdci_error_clear(error);
    sdc_err err = sdci_registrar_desc_valid(desc, error);
    if (err == SDC_OK) {
        err = sdci_service_init(&service, &client->allocator, &desc->registration, true, error);
    }
    if (err != SDC_OK) {
        return err;
    }
    sdc_registrar *r = (sdc_registrar *)sdci_new(&client->allocator, sizeof *r);
    if (r == NULL) {
        sdci_service_deinit(&service);
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    sdci_task_init(&r->task, client, &sdci_registrar_ops);
    r->service = service;
    r->verify_ms = sdci_or(desc->verify_ms, 30000);
    r->status_expires_ms = sdci_or(desc->status_expires_ms, SDC_NEVER);
    r->stop_timeout_ms = sdci_or(desc->stop_timeout_ms, 2000);
    r->keep_on_stop = desc->keep_on_stop;
    r->is_wanted = true;
    r->stop_at_ms = SDCI_FOREVER;
    r->call_until_ms = SDCI_FOREVER;
    r->to_maintain.due_ms = SDCI_FOREVER;
    r->to_verify.due_ms = SDCI_FOREVER;
    r->state = SDCI_REGISTRAR_PAUSED;
    r->id = sdci_copy(&client->allocator, service.id);
    err = r->id != NULL ? sdci_registrar_init_beats(r, desc) : SDC_ERR_NOMEM;
    if (err != SDC_OK) {
        sdci_registrar_free(r);
        return sdci_fail_plain(error, err);
    }
    *out = r;
    return SDC_OK;
}

void sdc_registrar_destroy(sdc_registrar *registrar)
{
    if (registrar != NULL) {
        sdci_task_destroy(&registrar->task);
    }
}

sdc_task *sdc_registrar_task(sdc_registrar *registrar)
{
    return &registrar->task;
}

const char *sdc_registrar_id(const sdc_registrar *registrar)
{
    return registrar->id;
}

/* -- Calls on a registrar -- */

/* The time of a call is over: what it is about is tried again by later steps. */
static sdc_err sdci_registrar_give_up(sdc_registrar *r, sdc_error *error)
{
    r->task.is_stepping = true;
    sdci_registrar_drop(r);
    sdc_err err = sdci_task_leave(&r->task, SDC_AGAIN);
    if (err != SDC_AGAIN) {
        return sdci_fail_plain(error, err);
    }
    return sdci_fail(error, SDC_ERR_TIMEOUT, "%s: no answer in time",
                     r->task.call.link.agent->name);
}

static sdc_err sdci_registrar_tell(sdc_registrar *r, sdc_err err, sdc_error *error)
{
    if (error != NULL && err >= SDC_ERR_ARG) {
        sdc_task_error(&r->task, error);
    } else if (err != SDC_OK) {
        return sdci_fail_plain(error, err);
    }
    return err;
}

/* The end of a call: *error is why, unless err is SDC_OK. */
static sdc_err sdci_registrar_end_call(sdc_registrar *r, sdc_err err, sdc_error *error)
{
    if (err == SDC_GONE) {
        return sdci_fail_plain(error, err);
    }
    r->call_until_ms = SDCI_FOREVER;
    return err == SDC_AGAIN ? sdci_registrar_give_up(r, error)
                            : sdci_registrar_tell(r, err, error);
}

/* Steps until a registration succeeds, or has failed at one agent that was not to blame or at each
   of them, or the time is over. */
static sdc_err sdci_registrar_register_once(sdc_registrar *r, sdc_error *error)
{
    sdc_err err = SDC_OK;

    r->call_turns = (uint32_t)r->task.call.link.num_agents;
    for (; r->call_turns > 0; r->call_turns--) {
        uint32_t base = r->base;
        r->job = SDCI_JOB_NONE;
        err = SDC_OK;
        while (err == SDC_OK && (r->job != SDCI_JOB_REGISTER ||
                                 r->state == SDCI_REGISTRAR_EXCHANGING)) {
            int left_ms = sdci_timeout_ms(r->call_until_ms, sdc_client_now_ms(r->task.client));
            err = sdc_step(&r->task, left_ms);
        }
        if (err < SDC_ERR_ARG || r->base == base) {
            break;
        }
    }
    return sdci_registrar_end_call(r, err, error);
}

/* Steps until no agent holds it any more, or each that may has been asked, or the time is over. */
static sdc_err sdci_registrar_take_back(sdc_registrar *r, sdc_error *error)
{
    sdc_err first = SDC_OK;

    for (;;) {
        int left_ms = sdci_timeout_ms(r->call_until_ms, sdc_client_now_ms(r->task.client));
        sdc_err err = sdc_step(&r->task, left_ms);
        if (err == SDC_AGAIN || err == SDC_GONE) {
            return sdci_registrar_end_call(r, err, error);
        }
        if (err != SDC_OK && first == SDC_OK) {
            first = sdci_registrar_tell(r, err, error);
        }
        if (err == SDC_STOPPED || (r->held & ~r->tried) == 0 ||
            r->state == SDCI_REGISTRAR_EXCHANGING) {
            r->call_until_ms = SDCI_FOREVER;
            return first;
        }
    }
}

/* What the calls have in common: the time begins to run, and what is under way is dropped. */
static void sdci_registrar_begin_call(sdc_registrar *r, bool is_wanted)
{
    const sdc_client *client = r->task.client;

    r->task.is_stepping = true;
    sdci_registrar_drop(r);
    r->is_wanted = is_wanted;
    r->call_until_ms = sdci_after(sdc_client_now_ms(client), client->request_timeout_ms);
    r->to_register.due_ms = 0;
    r->to_register.pause_until_ms = 0;
    r->to_register.num_failures = 0;
}

sdc_err sdc_registrar_register(sdc_registrar *registrar, sdc_error *error)
{
    sdci_error_clear(error);
    if (registrar->task.is_stepping) {
        return sdci_fail(error, SDC_ERR_ARG, "the task is being stepped");
    }
    sdci_registrar_begin_call(registrar, true);
    registrar->is_current = false;
    registrar->num_lost = 0;
    sdc_err err = sdci_task_leave(&registrar->task, SDC_OK);
    return err == SDC_OK ? sdci_registrar_register_once(registrar, error)
                         : sdci_fail_plain(error, err);
}

sdc_err sdc_registrar_deregister(sdc_registrar *registrar, sdc_error *error)
{
    sdci_error_clear(error);
    if (registrar->task.is_stepping) {
        return sdci_fail(error, SDC_ERR_ARG, "the task is being stepped");
    }
    if (registrar->state == SDCI_REGISTRAR_STOPPED) {
        return sdci_fail_plain(error, SDC_STOPPED);
    }
    sdci_registrar_begin_call(registrar, false);
    registrar->held |= sdci_bit(registrar->base);
    registrar->tried = 0;
    sdc_err err = sdci_task_leave(&registrar->task, SDC_OK);
    return err == SDC_OK ? sdci_registrar_take_back(registrar, error)
                         : sdci_fail_plain(error, err);
}

/* set_status of any thread goes by the beats, so these stay as they are. */
static sdc_err sdci_registrar_same_beats(const sdc_registrar *r, const sdc_registration *same_id,
                                         sdc_error *error)
{
    const sdc_allocator *a = &r->task.client->allocator;
    size_t num_same = 0;

    for (size_t i = 0; i < same_id->num_checks; i++) {
        const sdc_check *check = &same_id->checks[i];
        bool is_same = check->ttl_ms == 0;
        char *id = is_same ? NULL : sdci_check_id(a, same_id, i, r->id);
        if (!is_same && id == NULL) {
            return sdci_fail_plain(error, SDC_ERR_NOMEM);
        }
        for (size_t k = 0; k < r->num_beats && !is_same; k++) {
            is_same = r->beats[k].ttl_ms == check->ttl_ms && strcmp(r->beats[k].id, id) == 0;
            num_same += is_same ? 1 : 0;
        }
        sdci_free_text(a, id);
        if (!is_same) {
            return sdci_fail(error, SDC_ERR_ARG, "checks[%u]: no TTL check of this id and ttl_ms "
                             "was there before", (unsigned)i);
        }
    }
    if (num_same != r->num_beats) {
        return sdci_fail(error, SDC_ERR_ARG, "checks: the TTL checks cannot be left out");
    }
    return SDC_OK;
}

sdc_err sdc_registrar_update(sdc_registrar *registrar, const sdc_registration *same_id,
                             sdc_error *error)
{
    const sdc_allocator *a = &registrar->task.client->allocator;

    sdci_error_clear(error);
    sdci_service *update = (sdci_service *)sdci_new(a, sizeof *update);
    if (update == NULL) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    sdc_err err = sdci_service_init(update, a, same_id, true, error);
    if (err != SDC_OK) {
        sdci_free(a, update, sizeof *update);
        return err;
    }
    if (strcmp(update->id, registrar->id) != 0) {
        err = sdci_fail(error, SDC_ERR_ARG, "id: is %.80s and cannot become %.80s", registrar->id,
                        update->id);
    } else {
        err = sdci_registrar_same_beats(registrar, same_id, error);
    }
    if (err == SDC_OK) {
        update = sdci_registrar_swap_update(registrar, update);
        sdc_wake(&registrar->task);
    }
    sdci_service_destroy(update);
    return err;
}

sdc_err sdc_registrar_set_status(sdc_registrar *registrar, const char *check_id, sdc_status status,
                                 const char *output)
{
    sdc_err err = SDC_ERR_ARG;

    if (sdci_status_text(status)[0] == '\0') {
        return SDC_ERR_ARG;
    }
    for (size_t i = 0; i < registrar->num_beats; i++) {
        sdci_beat *beat = &registrar->beats[i];
        if (check_id != NULL && strcmp(beat->id, check_id) != 0) {
            continue;
        }
        err = sdci_registrar_post(registrar, &beat->mail, status, output != NULL ? output : "");
        if (err != SDC_OK) {
            break;
        }
    }
    sdc_wake(&registrar->task);
    return err;
}

sdc_err sdc_registrar_set_maintenance(sdc_registrar *registrar, bool on, const char *reason)
{
    sdc_err err = sdci_registrar_post(registrar, &registrar->maintenance_mail,
                                      on ? SDC_STATUS_MAINTENANCE : SDC_STATUS_PASSING,
                                      reason != NULL ? reason : "");

    sdc_wake(&registrar->task);
    return err;
}

bool sdc_registrar_is_registered(const sdc_registrar *registrar)
{
    return sdci_atomic_get(&registrar->is_registered) != 0;
}

/* ---- instancer ----------------------------------------- [sdc:instancer] --
   A query, written once; then the machine that asks it again and again and
   publishes what differs. Its rules are those of Consul's blocking queries and
   of what agents were seen to do.
   Consul docs: api-docs/features/blocking, api-docs/health.
   ------------------------------------------------------------------------- */

#define SDCI_WAIT_MAX_MS     600000u    /* an agent holds no query for longer */
#define SDCI_READS_FREE      3u         /* the first and two more */
#define SDCI_READ_EVERY_MS   500u
#define SDCI_READ_SLOWEST_MS 15000u
#define SDCI_READ_AWAIT_MS   2000u
#define SDCI_WAIT_LEAST_MS   10000u     /* queries are cut, if at all, after so long; and no less
                                           is asked for unless the program does */
#define SDCI_WAIT_GROWS      8u         /* held queries in a row, before longer ones are tried */
#define SDCI_FULL_EVERY_MS   10000u     /* full reads for want of trust come no faster */
#define SDCI_CONFIRM_MS      20u        /* before an emptied list is read again */
#define SDCI_REPLAY_MS       1000u      /* the same where the server may be replaying its log, */
#define SDCI_REPLAY_READS    5u         /* and how often that is believed */
#define SDCI_REPLAY_MAX_MS   10000u     /* lower indexes that last so long are another history */
#define SDCI_SLOW_RETRY_MS   1000u      /* after an answer that says no */
#define SDCI_SPREAD_MS       1000u      /* over which those that fail together come back */
#define SDCI_SPARE_MS        200u       /* an agent that holds a query for so long has no news */

/* -- Query -- */

/* What is asked for, without index and wait, and what is checked on this side. */
typedef struct sdci_query {
    const sdc_allocator *allocator;
    char *target;               /* path and query, without the client's prefix */
    sdci_buf tags;              /* each with its NUL */
    size_t num_tags;
    char *name;                 /* for the log, as go-kit writes them */
    char *tag_list;
    char *header;               /* Cache-Control, or NULL */
    sdc_status worst_status;
    uint32_t wait_ms;
    uint32_t max_stale_ms;
    bool is_stale;              /* any server may answer */
    bool has_query;
} sdci_query;

static void sdci_query_deinit(sdci_query *query)
{
    sdci_buf_deinit(&query->tags);
    sdci_free_text(query->allocator, query->target);
    sdci_free_text(query->allocator, query->header);
    sdci_free_text(query->allocator, query->name);
    sdci_free_text(query->allocator, query->tag_list);
}

static sdc_err sdci_query_text_valid(const char *field, const char *text, sdc_error *error)
{
    if (text != NULL && sdci_has_control(text)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s has a control character", field);
    }
    return SDC_OK;
}

static sdc_err sdci_query_pairs_valid(const char *field, const sdc_kv *pairs, size_t num,
                                      sdc_error *error)
{
    sdc_err err = SDC_OK;

    for (size_t i = 0; i < num && err == SDC_OK; i++) {
        if (sdci_is_empty(pairs[i].key)) {
            return sdci_fail(error, SDC_ERR_ARG, "%s[%u] has no key", field, (unsigned)i);
        }
        err = sdci_query_text_valid(field, pairs[i].key, error);
        err = err == SDC_OK ? sdci_query_text_valid(field, pairs[i].value, error) : err;
    }
    return err;
}

static sdc_err sdci_query_tags_valid(const sdc_query *q, sdc_error *error)
{
    for (size_t i = 0; i < q->num_tags; i++) {
        if (sdci_is_empty(q->tags[i])) {
            return sdci_fail(error, SDC_ERR_ARG, "tags[%u] is empty", (unsigned)i);
        }
        sdc_err err = sdci_query_text_valid("tags", q->tags[i], error);
        if (err != SDC_OK) {
            return err;
        }
    }
    return SDC_OK;
}

static sdc_err sdci_query_valid(const sdc_query *q, sdc_error *error)
{
    static const char *const names[] = { "datacenter", "ns", "partition", "peer", "near_node",
                                         "filter" };
    const char *const texts[] = { q->datacenter, q->ns, q->partition, q->peer, q->near_node,
                                  q->filter };
    sdc_err err = sdci_path_part_valid("service", q->service, error);

    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && err == SDC_OK; i++) {
        err = sdci_query_text_valid(names[i], texts[i], error);
    }
    if (err == SDC_OK) {
        err = sdci_query_tags_valid(q, error);
    }
    if (err == SDC_OK) {
        err = sdci_query_pairs_valid("node_meta", q->node_meta, q->num_node_meta, error);
    }
    if (err == SDC_OK) {
        err = sdci_query_pairs_valid("params", q->params, q->num_params, error);
    }
    if (err == SDC_OK && q->cached && q->consistency == SDC_CONSISTENCY_STRONG) {
        err = sdci_fail(error, SDC_ERR_ARG, "cached does not go with strong consistency");
    }
    return err;
}

static const char *sdci_query_path(sdc_source source)
{
    switch (source) {
    case SDC_SOURCE_CONNECT: return "/v1/health/connect/";
    case SDC_SOURCE_INGRESS: return "/v1/health/ingress/";
    case SDC_SOURCE_SERVICE: break;
    }
    return "/v1/health/service/";
}

/* "k:v", as node-meta wants it, escaped as one value. */
static void sdci_query_put_node_meta(sdci_request *request, const sdc_kv *pair)
{
    sdci_put_text(request->out, request->has_query ? "&node-meta=" : "?node-meta=");
    request->has_query = true;
    sdci_put_escaped(request->out, pair->key);
    sdci_put_escaped(request->out, ":");
    sdci_put_escaped(request->out, pair->value != NULL ? pair->value : "");
}

static void sdci_query_put_params(sdci_request *request, const sdc_query *q)
{
    sdci_request_scope(request, q->datacenter, q->ns, q->partition);
    for (size_t i = 0; i < q->num_tags; i++) {
        sdci_request_param(request, "tag", q->tags[i]);
    }
    sdci_request_param_if(request, "passing", q->passing_only ? "1" : "");
    sdci_request_param_if(request, "peer", q->peer);
    sdci_request_param_if(request, "near", q->near_node);
    sdci_request_param_if(request, "filter", q->filter);
    for (size_t i = 0; i < q->num_node_meta; i++) {
        sdci_query_put_node_meta(request, &q->node_meta[i]);
    }
    if (q->consistency == SDC_CONSISTENCY_STRONG) {
        sdci_request_param(request, "consistent", "");
    }
    if (q->cached) {
        sdci_request_param(request, "cached", "");
    }
    for (size_t i = 0; i < q->num_params; i++) {
        sdci_request_param(request, q->params[i].key,
                           q->params[i].value != NULL ? q->params[i].value : "");
    }
}

/* Answers NULL where there is no memory. */
static char *sdci_query_target(sdci_query *query, sdc_client *client, const sdc_query *q)
{
    sdci_buf target;
    sdci_request request;

    sdci_buf_init(&target, &client->allocator, SDCI_BODY_MAX);
    memset(&request, 0, sizeof request);
    request.client = client;
    request.out = &target;
    sdci_put_text(&target, sdci_query_path(q->source));
    sdci_put_escaped(&target, q->service);
    sdci_query_put_params(&request, q);
    query->has_query = request.has_query;
    return sdci_buf_to_text(&target);
}

static bool sdci_query_has_header(const sdc_query *q)
{
    return q->cached && (q->max_age_s != 0 || q->stale_if_error_s != 0);
}

/* RFC 9111's directives, as the agent's cache reads them. NULL: no memory. */
static char *sdci_query_header(const sdci_query *query, const sdc_query *q)
{
    char max_age[24] = "";
    char stale[40] = "";
    char header[96];

    if (q->max_age_s != 0) {
        (void)snprintf(max_age, sizeof max_age, "max-age=%u", (unsigned)q->max_age_s);
    }
    if (q->stale_if_error_s != 0) {
        (void)snprintf(stale, sizeof stale, "%sstale-if-error=%u", max_age[0] != '\0' ? ", " : "",
                       (unsigned)q->stale_if_error_s);
    }
    (void)snprintf(header, sizeof header, "Cache-Control: %s%s\r\n", max_age, stale);
    return sdci_copy(query->allocator, header);
}

static sdc_err sdci_query_write(sdci_query *query, sdc_client *client, const sdc_query *q)
{
    query->target = sdci_query_target(query, client, q);
    if (sdci_query_has_header(q)) {
        query->header = sdci_query_header(query, q);
    }
    for (size_t i = 0; i < q->num_tags; i++) {
        sdci_put(&query->tags, q->tags[i], strlen(q->tags[i]) + 1);
    }
    query->num_tags = q->num_tags;
    query->tag_list = sdci_tag_list(query->allocator, q->tags, q->num_tags);
    query->name = sdci_copy(query->allocator, q->service);
    bool is_whole = query->tag_list != NULL && query->name != NULL && query->target != NULL &&
                    (query->header != NULL || !sdci_query_has_header(q));
    return is_whole ? query->tags.err : SDC_ERR_NOMEM;
}

static sdc_err sdci_query_init(sdci_query *query, sdc_client *client, const sdc_query *q,
                               sdc_error *error)
{
    memset(query, 0, sizeof *query);
    query->allocator = &client->allocator;
    sdci_buf_init(&query->tags, &client->allocator, SDCI_BODY_MAX);
    sdc_err err = sdci_query_valid(q, error);
    if (err != SDC_OK) {
        return err;
    }
    query->worst_status = q->worst_status;
    query->is_stale = q->consistency == SDC_CONSISTENCY_STALE;
    query->max_stale_ms = sdci_or(q->max_stale_ms, SDC_NEVER);
    query->wait_ms = q->wait_ms == SDC_NEVER ? SDCI_WAIT_MAX_MS : sdci_or(q->wait_ms, 60000);
    err = sdci_query_write(query, client, q);
    if (err != SDC_OK) {
        sdci_query_deinit(query);
        return sdci_fail_plain(error, err);
    }
    return SDC_OK;
}

/* The request of one read. wait always goes along: without one an agent would hold the query for
   its own default, and in the streaming backend some versions would for ever. `is_fresh`: asks the
   leader, whatever the query says. */
static sdci_request sdci_query_request(const sdci_query *query, sdc_client *client,
                                       sdci_call *call, uint64_t index, uint32_t wait_ms,
                                       bool is_fresh)
{
    sdci_request request = sdci_request_begin(client, call, "GET", query->target);

    request.has_query = query->has_query;
    request.header = query->header != NULL ? query->header : "";
    if (query->is_stale && !is_fresh) {
        sdci_request_param(&request, "stale", "");
    }
    if (index != 0) {
        sdci_request_param_u64(&request, "index", index, "");
    }
    sdci_request_param_u64(&request, "wait", wait_ms, "ms");
    sdci_request_end(&request, NULL);
    return request;
}

/* Whether a server answered that has not heard of its leader for too long. The streaming backend
   does not say (it always answers 0). */
static bool sdci_query_is_outdated(const sdci_query *query, const sdci_answer *answer)
{
    return query->is_stale && !answer->is_streaming && query->max_stale_ms != SDC_NEVER &&
           answer->last_contact_ms > query->max_stale_ms;
}

/* How long an answer may take: what the agent may add to the wait, and some slack. */
static uint32_t sdci_query_timeout_ms(const sdc_client *client, uint64_t index, uint32_t wait_ms)
{
    if (index == 0) {
        return client->request_timeout_ms;
    }
    return (uint32_t)sdci_min((uint64_t)wait_ms + wait_ms / 16 + SDCI_SLACK_MS, SDC_NEVER - 1);
}

/* An agent's streaming backend and its filter have disagreed before, so tags are looked at again,
   without regard to letter case, as Consul does. */
static bool sdci_query_wants(const sdci_query *query, const sdc_instance *instance)
{
    const char *tag = query->tags.ptr;

    if (query->worst_status != SDC_STATUS_UNSET && instance->status > query->worst_status) {
        return false;
    }
    for (size_t i = 0; i < query->num_tags; i++) {
        bool has = false;
        for (size_t k = 0; k < instance->num_tags && !has; k++) {
            has = sdci_equal_nocase(sdci_str_of(instance->tags[k]), sdci_str_of(tag));
        }
        if (!has) {
            return false;
        }
        tag += strlen(tag) + 1;
    }
    return true;
}

/* -- One answer on its way -- */

/* Decodes a body into a list. */
typedef struct sdci_reading {
    const sdci_query *query;
    const sdc_allocator *allocator;
    sdci_share *share;          /* while a run goes on, else NULL */
    sdc_entries *entries;       /* from the first bytes of a body to its end, else NULL */
    sdci_list list;
    size_t max_instances;
    uint64_t seed;              /* of prints; not another one as long as a cache lives */
    bool reads_all;             /* also what is known */
    uint64_t num_skipped;
    uint64_t first_skipped;     /* number of the first entry that was left out, and why */
    const char *why_skipped;
} sdci_reading;

static bool sdci_reading_is_full(const sdci_reading *reading)
{
    return reading->list.num >= reading->max_instances;
}

/* One more is in the list, which knows what may come next. */
static sdc_err sdci_reading_added(sdci_reading *reading)
{
    reading->entries->known.next = reading->list.next;
    return sdci_list_err(&reading->list);
}

static sdc_err sdci_reading_on_instance(void *user, const sdc_instance *instance)
{
    sdci_reading *reading = (sdci_reading *)user;

    if (!sdci_query_wants(reading->query, instance)) {
        return SDC_OK;
    }
    if (sdci_reading_is_full(reading)) {
        return SDC_ERR_LIMIT;
    }
    sdci_list_add(&reading->list, instance, reading->entries->print);
    return sdci_reading_added(reading);
}

static sdc_err sdci_reading_on_known(void *user, size_t nth)
{
    sdci_reading *reading = (sdci_reading *)user;

    if (sdci_reading_is_full(reading)) {
        return SDC_ERR_LIMIT;
    }
    sdci_list_add_known(&reading->list, nth);
    return sdci_reading_added(reading);
}

static void sdci_reading_on_skipped(void *user, uint64_t number, const char *why)
{
    sdci_reading *reading = (sdci_reading *)user;

    reading->num_skipped++;
    if (reading->why_skipped == NULL) {
        reading->first_skipped = number;
        reading->why_skipped = why;
    }
}

/* `cache`, or NULL: whose newest event the answer is compared with. */
static void sdci_reading_init(sdci_reading *reading, const sdc_client *client,
                              const sdci_query *query, sdc_cache *cache)
{
    memset(reading, 0, sizeof *reading);
    reading->query = query;
    reading->allocator = &client->allocator;
    reading->max_instances = client->max_instances;
    sdci_list_init(&reading->list, &client->allocator,
                   cache != NULL ? sdci_cache_newest(cache) : NULL,
                   cache != NULL ? &cache->spare : NULL);
}

/* Where the kit has its decoder; NULL without a kit. */
static sdc_entries **sdci_reading_spare(const sdci_reading *reading)
{
    return reading->share != NULL ? reading->share->entries : NULL;
}

/* The decoder of the kit, or one of its own where that is out with a slower body. */
static sdc_entries *sdci_reading_take_decoder(const sdci_reading *reading)
{
    sdc_entries **spare = sdci_reading_spare(reading);
    sdc_entries *e = spare != NULL ? *spare : NULL;

    if (e == NULL) {
        return sdci_entries_new(reading->allocator, NULL);
    }
    *spare = NULL;
    sdci_entries_reset(e);
    return e;
}

/* Only where there is a list from before. */
static void sdci_reading_tell_known(const sdci_reading *reading, sdci_known *known)
{
    const sdci_event *old = reading->list.old;

    memset(known, 0, sizeof *known);
    if (old != NULL) {
        known->fn = sdci_reading_on_known;
        known->prints = old->prints;
        known->num = reading->reads_all ? 0 : old->pub.num_instances;
        known->seed = reading->seed;
    }
}

/* Before bytes are fed: a decoder, and the gaps that are lent just now. */
static sdc_err sdci_reading_begin(sdci_reading *reading)
{
    if (reading->entries == NULL) {
        reading->entries = sdci_reading_take_decoder(reading);
        if (reading->entries == NULL) {
            return SDC_ERR_NOMEM;
        }
        reading->entries->fn = sdci_reading_on_instance;
        reading->entries->skipped_fn = sdci_reading_on_skipped;
        reading->entries->user = reading;
        sdci_reading_tell_known(reading, &reading->entries->known);
    }
    reading->entries->gaps = reading->share != NULL ? reading->share->gaps : NULL;
    return SDC_OK;
}

/* The decoder goes to the kit, unless there is one or it has grown large. */
static void sdci_reading_end(sdci_reading *reading)
{
    sdc_entries **spare = sdci_reading_spare(reading);

    if (reading->entries != NULL && spare != NULL && *spare == NULL &&
        sdci_entries_bytes(reading->entries) <= SDCI_DECODER_BYTES) {
        *spare = reading->entries;
    } else {
        sdci_entries_free(reading->entries);
    }
    reading->entries = NULL;
}

static void sdci_reading_deinit(sdci_reading *reading)
{
    sdci_reading_end(reading);
    sdci_list_deinit(&reading->list);
}

/* After the exchange: `err` is its result, *error the detail. What is wrong with the body itself
   is said in its own words. */
static sdc_err sdci_reading_finish(sdci_reading *reading, const sdci_answer *answer, sdc_err err,
                                   sdc_error *error)
{
    sdc_error of_body;

    sdci_error_clear(&of_body);
    if (err == SDC_OK) {
        err = sdci_reading_begin(reading);
        err = err == SDC_OK ? sdc_entries_finish(reading->entries) : sdci_fail_plain(error, err);
    }
    if (reading->entries != NULL) {
        sdc_entries_error(reading->entries, &of_body);
        sdci_reading_end(reading);
    }
    if (of_body.code == SDC_OK || of_body.code != err) {
        return err;
    }
    bool is_too_long = err == SDC_ERR_LIMIT && sdci_reading_is_full(reading);
    return sdci_answer_fail(answer, error, err,
                            is_too_long ? "more instances than max_instances" : of_body.message);
}

static sdc_err sdci_reading_feed(sdci_reading *reading, const void *bytes, size_t len)
{
    sdc_err err = sdci_reading_begin(reading);

    return err == SDC_OK ? sdc_entries_feed(reading->entries, bytes, len) : err;
}

static sdc_err sdci_reading_on_body(void *user, const void *bytes, size_t len)
{
    return sdci_reading_feed((sdci_reading *)user, bytes, len);
}

/* An event of a one-shot answer: the same as the first of an instancer. */
static sdc_err sdci_reading_event(sdci_reading *reading, const sdci_answer *answer,
                                  const sdc_client *client, const sdc_event **out,
                                  sdc_error *error)
{
    sdc_err err = SDC_OK;
    bool is_same = false;
    sdci_event *event = sdci_list_to_event(&reading->list, &is_same, &err);

    if (event == NULL) {
        return sdci_fail_plain(error, err);
    }
    event->pub.index = answer->index;
    event->pub.at_ms = sdc_client_now_ms(client);
    event->pub.is_known = true;
    *out = &event->pub;
    return SDC_OK;
}

/* One read by the agent that the call goes to. SDC_AGAIN: its answer is outdated. */
static sdc_err sdci_query_read(const sdci_query *query, sdc_client *client, sdci_call *call,
                               uint64_t index, bool is_fresh, sdci_answer *answer,
                               const sdc_event **out, sdc_error *error)
{
    sdci_reading reading;

    sdci_reading_init(&reading, client, query, NULL);
    sdci_request request = sdci_query_request(query, client, call, index, query->wait_ms, is_fresh);
    sdci_answer_init(answer, &request, "GET");
    answer->body = sdci_reading_on_body;
    answer->user = &reading;
    sdc_err err = sdci_client_perform(client, call, answer,
                                      sdci_query_timeout_ms(client, index, query->wait_ms),
                                      &reading.share, error);
    err = sdci_reading_finish(&reading, answer, err, error);
    if (err == SDC_OK && !is_fresh && sdci_query_is_outdated(query, answer)) {
        err = SDC_AGAIN;
    }
    if (err == SDC_OK) {
        err = sdci_reading_event(&reading, answer, client, out, error);
    }
    sdci_call_end(call);
    sdci_reading_deinit(&reading);
    return err;
}

sdc_err sdc_client_service(sdc_client *client, const sdc_query *query, const sdc_event **out,
                           sdc_error *error)
{
    sdci_query q;
    sdci_call call;
    sdci_answer answer;

    *out = NULL;
    sdci_error_clear(error);
    sdc_err err = sdci_query_init(&q, client, query, error);
    if (err != SDC_OK) {
        return err;
    }
    sdci_client_init_call(client, &call);
    do {
        err = sdci_query_read(&q, client, &call, query->index, false, &answer, out, error);
        if (err == SDC_AGAIN) {
            err = sdci_query_read(&q, client, &call, 0, true, &answer, out, error);
        }
    } while (sdci_client_tries_next(&call, &answer, err));
    sdci_call_deinit(&call);
    sdci_query_deinit(&q);
    return err;
}

/* -- How often an agent is asked -- */

/* A token bucket: a few reads are free, further ones come one each `every_ms`. That grows while an
   agent answers at once and says nothing new, so that no bug on its side makes a busy loop. */
typedef struct sdci_bucket {
    uint64_t filled_at_ms;
    uint32_t tokens;
    uint32_t every_ms;
} sdci_bucket;

static void sdci_bucket_init(sdci_bucket *bucket, uint64_t now_ms)
{
    bucket->filled_at_ms = now_ms;
    bucket->tokens = SDCI_READS_FREE;
    bucket->every_ms = SDCI_READ_EVERY_MS;
}

static void sdci_bucket_fill(sdci_bucket *bucket, uint64_t now_ms)
{
    uint64_t num = (now_ms - bucket->filled_at_ms) / bucket->every_ms;

    if (num + bucket->tokens >= SDCI_READS_FREE) {
        bucket->tokens = SDCI_READS_FREE;
        bucket->filled_at_ms = now_ms;
    } else {
        bucket->tokens += (uint32_t)num;
        bucket->filled_at_ms += num * bucket->every_ms;
    }
}

/* When the next read may be: `now_ms` or later. */
static uint64_t sdci_bucket_next_ms(const sdci_bucket *bucket, uint64_t now_ms)
{
    return bucket->tokens > 0 ? now_ms : sdci_max(now_ms, bucket->filled_at_ms + bucket->every_ms);
}

static void sdci_bucket_take(sdci_bucket *bucket)
{
    SDC_ASSERT(bucket->tokens > 0);
    bucket->tokens--;
}

/* What has trickled in counts at the pace it came with; the rest of it is lost. */
static void sdci_bucket_set_pace(sdci_bucket *bucket, uint32_t every_ms, uint64_t now_ms)
{
    if (bucket->every_ms != every_ms) {
        sdci_bucket_fill(bucket, now_ms);
        bucket->every_ms = every_ms;
        bucket->filled_at_ms = now_ms;
    }
}

/* -- How long queries are held -- */

/* What stands between us and the servers may end a query that is held for too long: an idle timeout
   of a proxy, a write timeout of the agent. Two such ends in a row halve the wait; so many whole
   waits double it again, and ever more of them where that was punished before. */
typedef struct sdci_wait {
    uint32_t ms;                /* of the next blocking query */
    uint32_t most_ms;           /* as the program wants it */
    uint32_t num_cut, num_held; /* since the other one */
    uint32_t grows_after;       /* so many held ones */
} sdci_wait;

static void sdci_wait_init(sdci_wait *wait, uint32_t most_ms)
{
    memset(wait, 0, sizeof *wait);
    wait->ms = most_ms;
    wait->most_ms = most_ms;
    wait->grows_after = SDCI_WAIT_GROWS;
}

/* A query was answered at the end of its wait. */
static void sdci_wait_held(sdci_wait *wait)
{
    wait->num_cut = 0;
    wait->num_held++;
    if (wait->num_held < wait->grows_after) {
        return;
    }
    wait->num_held = 0;
    if (wait->ms == wait->most_ms) {
        wait->grows_after = SDCI_WAIT_GROWS;
    }
    wait->ms = (uint32_t)sdci_min((uint64_t)wait->ms * 2, wait->most_ms);
}

/* A query was held for a while and then ended without an answer. True: the wait is shorter now. */
static bool sdci_wait_cut(sdci_wait *wait)
{
    uint32_t before_ms = wait->ms;

    wait->num_held = 0;
    wait->num_cut++;
    if (wait->num_cut < 2) {
        return false;
    }
    wait->num_cut = 0;
    wait->ms = (uint32_t)sdci_min(sdci_max(wait->ms / 2, SDCI_WAIT_LEAST_MS), wait->ms);
    wait->grows_after = (uint32_t)sdci_min((uint64_t)wait->grows_after * 2, SDCI_WAIT_GROWS * 64);
    return wait->ms < before_ms;
}

/* -- The instancer -- */

/* PAUSED --wake_ms--> READING --answer or failure--> PAUSED
     |                    |
     '------ stopped -----'--> STOPPED

   What the next read is follows from the newest answer:
     FIRST     index 0   at the start; after a failure, an index that went backwards or none at
                         all; every resync_ms; to look for the first agent of the list again
     BLOCKING  index n   after an answer with index n
     FRESH     index 0   after an answer that is older than max_stale_ms: from the leader
     CONFIRM   index 0   after an answer that would empty the list: only two in a row empty it,
                         or more while a server seems to replay its log                      */
typedef enum sdci_instancer_state {
    SDCI_INSTANCER_PAUSED,      /* ends at wake_ms, when the bucket has a token too   */
    SDCI_INSTANCER_READING,     /* ends with the answer, or a failure                 */
    SDCI_INSTANCER_STOPPED      /* for ever                                           */
} sdci_instancer_state;

typedef enum sdci_read_kind {
    SDCI_READ_FIRST, SDCI_READ_BLOCKING, SDCI_READ_FRESH, SDCI_READ_CONFIRM
} sdci_read_kind;

struct sdc_instancer {
    sdc_task task;              /* first: the one is the other */
    sdc_cache *cache;
    sdci_query query;
    sdci_reading reading;
    uint64_t seed;              /* of prints */
    uint64_t token_print;       /* of the token that was sent last */
    sdci_bucket bucket;
    sdci_wait wait;
    uint64_t wake_ms;           /* end of the pause */
    uint64_t asked_at_ms;
    uint64_t full_at_ms;        /* when a full read last ended well */
    uint64_t resync_at_ms;
    uint64_t recheck_at_ms;     /* when the next one is due for want of trust, or FOREVER */
    uint64_t show_at_ms;        /* when changes were quiet for long enough; FOREVER: none wait */
    uint64_t show_by_ms;        /* when they are shown however unquiet it is */
    uint64_t index;             /* to ask with; 0: none */
    uint64_t good_index;        /* the highest that was believed, of this history */
    uint64_t below_since_ms;    /* when lower ones came to be believed; 0: not now */
    uint64_t doubted_index;     /* of the newest one that would empty the list */
    uint64_t asked_index;       /* of the read under way */
    const sdci_agent *began_at; /* the agent that was the first to fail in this outage */
    uint32_t asked_wait_ms;
    uint32_t backoff_min_ms, backoff_max_ms, resync_ms, quiet_min_ms, quiet_max_ms;
    uint32_t num_failures;      /* in a row */
    uint32_t num_doubts;        /* in a row: answers that would empty the list */
    uint32_t away;              /* the agent to go back to if the first one does not answer, or 0 */
    sdci_instancer_state state;
    sdci_read_kind read;        /* the one under way, or the next one */
    bool has_warned_of_index;
};

static sdc_instancer *sdci_instancer_of(const sdc_task *task)
{
    return (sdc_instancer *)(uintptr_t)task;
}

static void sdci_instancer_log(const sdc_instancer *i, sdc_log_level level, const char *key,
                               const char *value)
{
    sdc_kv fields[4];

    fields[0] = sdci_kv("event", "instancer");
    fields[1] = sdci_kv("service", i->query.name);
    fields[2] = sdci_kv("tags", i->query.tag_list);
    fields[3] = sdci_kv(key, value);
    sdci_log(i->task.client, level, fields, 4);
}

/* -- Asking -- */

/* Arms the pause before the next read. */
static void sdci_instancer_pause(sdc_instancer *i, sdci_read_kind next, uint64_t pause_ms)
{
    i->state = SDCI_INSTANCER_PAUSED;
    i->read = next;
    i->wake_ms = i->task.now_ms + pause_ms;
}

static sdc_err sdci_instancer_on_body(void *user, const void *bytes, size_t len)
{
    sdc_instancer *i = sdci_instancer_of((sdc_task *)user);

    return sdci_reading_feed(&i->reading, bytes, len);
}

/* A blocking query, or what takes its place with an agent that names no index, gives way to a full
   read when one is due. */
static void sdci_instancer_choose(sdc_instancer *i)
{
    sdc_task *task = &i->task;
    bool is_free = i->read == SDCI_READ_BLOCKING || i->read == SDCI_READ_FIRST;
    bool is_well = is_free && i->num_failures == 0;

    if (is_free && task->now_ms >= task->home_at_ms) {     /* the one in use may refuse for ever */
        i->away = (uint32_t)sdci_link_which(&task->call.link);
        sdci_task_use_agent(task, 0);
        i->read = SDCI_READ_FIRST;
    } else if (is_well && task->now_ms >= sdci_min(i->resync_at_ms, i->recheck_at_ms)) {
        i->read = SDCI_READ_FIRST;
    }
}

/* Whether the read under way, or the next one, is what an answer needs before it counts. Such a one
   asks the leader. */
static bool sdci_instancer_asks_again(const sdc_instancer *i)
{
    return i->read == SDCI_READ_FRESH || i->read == SDCI_READ_CONFIRM;
}

static sdci_request sdci_instancer_request(sdc_instancer *i)
{
    i->asked_index = i->read == SDCI_READ_BLOCKING ? i->index : 0;
    return sdci_query_request(&i->query, i->task.client, &i->task.call, i->asked_index,
                              i->asked_wait_ms, sdci_instancer_asks_again(i));
}

/* What an index stands for is what one token may see. */
static bool sdci_instancer_has_other_token(sdc_instancer *i, const sdci_request *request)
{
    uint64_t before = i->token_print;

    if (request->out->err == SDC_OK) {
        i->token_print = sdci_hash(request->out->ptr + request->token_at, request->token_len,
                                   i->seed);
    }
    return i->token_print != before;
}

/* Watches that were started together end their waits together unless each takes a little off. */
static uint32_t sdci_instancer_wait_ms(sdc_instancer *i)
{
    uint64_t wait_ms = i->wait.ms - sdci_random_upto(&i->task.random, i->wait.ms / 10);

    if (i->recheck_at_ms > i->task.now_ms) {
        wait_ms = sdci_min(wait_ms, i->recheck_at_ms - i->task.now_ms);
    }
    return (uint32_t)wait_ms;
}

static void sdci_instancer_ask(sdc_instancer *i)
{
    sdc_task *task = &i->task;

    sdci_instancer_choose(i);
    i->asked_wait_ms = sdci_instancer_wait_ms(i);
    i->asked_at_ms = task->now_ms;
    sdci_request request = sdci_instancer_request(i);
    if (sdci_instancer_has_other_token(i, &request) && i->read == SDCI_READ_BLOCKING) {
        i->read = SDCI_READ_FIRST;
        request = sdci_instancer_request(i);
    }
    sdci_bucket_take(&i->bucket);
    sdci_reading_init(&i->reading, task->client, &i->query, i->cache);
    i->reading.seed = i->seed;
    i->reading.reads_all = i->asked_index == 0;
    sdci_task_start(task, &request, "GET",
                    sdci_query_timeout_ms(task->client, i->asked_index, i->asked_wait_ms),
                    sdci_instancer_on_body);
    i->state = SDCI_INSTANCER_READING;
}

/* -- Answers -- */

static void sdci_instancer_note_headers(sdc_instancer *i)
{
    const sdci_answer *answer = &i->task.answer;
    sdc_stats *stats = &i->task.stats;

    if (answer->filtered_by_acl && !stats->filtered_by_acl) {
        sdci_instancer_log(i, SDC_LOG_WARN, "err", "the token may not read all instances: "
                           "results filtered by ACLs");
    }
    stats->index = answer->index;
    stats->last_contact_ms = answer->last_contact_ms;
    stats->known_leader = answer->known_leader;
    stats->is_streaming = answer->is_streaming;
    stats->filtered_by_acl = answer->filtered_by_acl;
    stats->skipped_instances += i->reading.num_skipped;
    if (answer->index == 0 && !i->has_warned_of_index) {
        i->has_warned_of_index = true;
        sdci_instancer_log(i, SDC_LOG_WARN, "err", answer->has_bad_index
                               ? "X-Consul-Index is not a number: polling"
                               : "no X-Consul-Index in the answer: polling");
    }
    i->has_warned_of_index = i->has_warned_of_index && answer->index == 0;
}

static void sdci_instancer_log_skipped(const sdc_instancer *i)
{
    const sdci_reading *reading = &i->reading;
    char text[160];

    if (reading->num_skipped > 0) {
        (void)snprintf(text, sizeof text, "%llu entries left out, the first is number %llu: %s",
                       (unsigned long long)reading->num_skipped,
                       (unsigned long long)reading->first_skipped, reading->why_skipped);
        sdci_instancer_log(i, SDC_LOG_WARN, "skipped", text);
    }
}

static void sdci_instancer_log_number(const sdc_instancer *i, sdc_log_level level,
                                      const char *key, uint64_t number)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    sdci_instancer_log(i, level, key, text);
}

/* Whether the agent held the query, as far as its wait let it. */
static bool sdci_instancer_was_held(const sdc_instancer *i)
{
    return i->task.now_ms - i->asked_at_ms >= sdci_min(i->asked_wait_ms, SDCI_READ_EVERY_MS);
}

/* The slowest pace. Agents before 1.10 wake whoever asks for a service without instances at every
   change of any service; such an answer is short, and the first instance is waited for. */
static uint32_t sdci_instancer_slowest_ms(const sdc_instancer *i)
{
    bool is_awaiting = i->task.answer.index > i->asked_index &&
                       sdci_cache_newest(i->cache)->num_instances == 0;

    return is_awaiting ? SDCI_READ_AWAIT_MS : SDCI_READ_SLOWEST_MS;
}

/* How fast the next reads may come. `is_news`: the answer differs from what is known. A read that
   did not ask to be held proves nothing, unless the agent leaves no other way to ask. */
static void sdci_instancer_adjust_bucket(sdc_instancer *i, bool is_news)
{
    if (is_news || sdci_instancer_was_held(i)) {
        sdci_bucket_set_pace(&i->bucket, SDCI_READ_EVERY_MS, i->task.now_ms);
    } else if (i->asked_index != 0 || i->task.answer.index == 0) {
        sdci_bucket_set_pace(&i->bucket, (uint32_t)sdci_min((uint64_t)i->bucket.every_ms * 2,
                                                            sdci_instancer_slowest_ms(i)),
                             i->task.now_ms);
    }
}

/* The index of a healthy agent only grows. One that shrinks belongs to another history: a restored
   snapshot, a restarted agent, a streaming view that was reset and is empty for a moment. */
static bool sdci_instancer_went_backwards(const sdc_instancer *i)
{
    uint64_t index = i->task.answer.index;

    return i->read == SDCI_READ_BLOCKING && index != 0 && index < i->index;
}

/* -- Publishing -- */

/* Arms the quiet time, anew with each change; the first one of a burst says when it is over. */
static void sdci_instancer_show_later(sdc_instancer *i)
{
    uint64_t now_ms = i->task.now_ms;

    if (i->show_by_ms == SDCI_FOREVER) {
        i->show_by_ms = sdci_after(now_ms, i->quiet_max_ms);
    }
    i->show_at_ms = sdci_min(sdci_after(now_ms, i->quiet_min_ms), i->show_by_ms);
}

/* Shows what waits, if anything does. */
static void sdci_instancer_show(sdc_instancer *i)
{
    bool failed = sdci_cache_show(i->cache) != SDC_OK;

    i->show_by_ms = SDCI_FOREVER;
    i->show_at_ms = failed ? i->task.now_ms + SDCI_SLOW_RETRY_MS : SDCI_FOREVER;
}

/* Whether the agent held the query to the end of its wait, or nearly so. */
static bool sdci_instancer_waited(const sdc_instancer *i)
{
    return i->task.now_ms - i->asked_at_ms >= i->asked_wait_ms - i->asked_wait_ms / 8;
}

/* An agent ends a query before its time, with the index that it was asked with, when its store is
   replaced: what it says is the old one's, and the index means nothing to the new one. A full read
   tells; but some agents wake like that all the time. */
static void sdci_instancer_note_trust(sdc_instancer *i)
{
    if (i->read != SDCI_READ_BLOCKING) {
        i->full_at_ms = i->task.now_ms;
        i->resync_at_ms = sdci_after(i->task.now_ms, i->resync_ms);
        i->recheck_at_ms = SDCI_FOREVER;
    } else if (i->task.answer.index == i->asked_index && !sdci_instancer_waited(i)) {
        i->recheck_at_ms = i->full_at_ms + SDCI_FULL_EVERY_MS;
    }
}

/* Whether the answer's index is below that of what is known, as in a log that is replayed. */
static bool sdci_instancer_is_below(const sdc_instancer *i)
{
    uint64_t index = i->task.answer.index;
    bool is_new = i->below_since_ms == 0 ||
                  i->task.now_ms - i->below_since_ms < SDCI_REPLAY_MAX_MS;

    return index != 0 && index < i->good_index && is_new;
}

/* A log that is replayed shows older lists before the empty ones in between: a lower index does not
   at once replace what an emptied list is measured by. */
static void sdci_instancer_note_good_index(sdc_instancer *i)
{
    bool is_below = sdci_instancer_is_below(i);

    if (is_below && i->below_since_ms == 0) {
        i->below_since_ms = sdci_max(i->task.now_ms, 1);
    } else if (!is_below) {
        i->good_index = i->task.answer.index;
        i->below_since_ms = 0;
    }
}

static sdc_err sdci_instancer_publish(sdc_instancer *i)
{
    uint32_t num_failures = i->task.stats.consecutive_failures;
    size_t num = i->reading.list.num;
    uint64_t index = i->task.answer.index;
    const sdc_event *current = i->cache->current;
    bool is_quiet = i->quiet_min_ms != 0 && current->is_known && current->err == SDC_OK;
    bool changed = false;

    sdci_task_succeeded(&i->task);              /* as the subscribers should see it */
    sdci_instancer_note_trust(i);
    i->index = index;
    sdci_instancer_note_good_index(i);
    i->task.stats.last_good_at_ms = i->task.now_ms;
    sdci_instancer_pause(i, index != 0 ? SDCI_READ_BLOCKING : SDCI_READ_FIRST, 0);
    sdc_err err = sdci_cache_offer(i->cache, &i->reading.list, index, i->task.now_ms, is_quiet,
                                   &changed);
    if (changed && err == SDC_OK && is_quiet) {
        sdci_instancer_show_later(i);
    }
    if (changed && err == SDC_OK) {
        i->task.stats.changes++;
        sdci_instancer_log_skipped(i);
        sdci_instancer_log_number(i, SDC_LOG_INFO, "instances", num);
    }
    if (err != SDC_OK) {
        i->task.stats.consecutive_failures = num_failures;
    }
    sdci_instancer_adjust_bucket(i, changed);
    return err;
}

/* A held query that failed may have been cut. */
static void sdci_instancer_note_cut(sdc_instancer *i, sdc_err err, const sdc_error *error)
{
    uint64_t held_ms = i->task.now_ms - i->asked_at_ms;
    uint32_t least_ms = i->asked_wait_ms - i->asked_wait_ms / 8;
    bool is_cut = (err == SDC_ERR_IO && error->http_status == 0) ||
                  (err == SDC_ERR_STATUS && error->http_status >= 500);

    if (i->read == SDCI_READ_BLOCKING && is_cut &&
        held_ms >= sdci_min(least_ms, SDCI_WAIT_LEAST_MS) && sdci_wait_cut(&i->wait)) {
        sdci_instancer_log(i, SDC_LOG_WARN, "action", "held queries are cut: asking for less time");
    }
}

/* A query that was held for as long as those that are cut, and answered. To the end of the wait
   counts only where that was not a shorter one, up to a full read. */
static void sdci_instancer_note_held(sdc_instancer *i)
{
    uint64_t held_ms = i->task.now_ms - i->asked_at_ms;

    if (i->read != SDCI_READ_BLOCKING) {
        return;
    }
    if (sdci_instancer_waited(i) && i->asked_wait_ms >= i->wait.ms - i->wait.ms / 8) {
        sdci_wait_held(&i->wait);
    } else if (held_ms >= SDCI_WAIT_LEAST_MS) {
        i->wait.num_cut = 0;
    }
}

/* An answer that would empty the list: only the second one in a row may. An index below that of
   what is known says that the store is another one, or that a server which has just started is
   still replaying its log; there the answers come a second apart, and the index must have settled.
   True: there is a doubt, and the next read is armed. */
static bool sdci_instancer_doubts_empty(sdc_instancer *i)
{
    uint64_t index = i->task.answer.index;
    bool is_below = sdci_instancer_is_below(i);
    bool is_settled = !is_below || index == i->doubted_index ||
                      i->num_doubts >= SDCI_REPLAY_READS;

    if (i->read == SDCI_READ_CONFIRM && is_settled) {
        i->num_doubts = 0;
        return false;
    }
    i->num_doubts = i->read == SDCI_READ_CONFIRM ? i->num_doubts + 1 : 1;
    i->doubted_index = index;
    i->index = 0;
    sdci_instancer_pause(i, SDCI_READ_CONFIRM, is_below ? SDCI_REPLAY_MS : SDCI_CONFIRM_MS);
    return true;
}

/* A whole and valid answer. */
static sdc_err sdci_instancer_answered(sdc_instancer *i)
{
    size_t num = i->reading.list.num;
    bool would_empty = num == 0 && sdci_cache_newest(i->cache)->num_instances > 0;

    sdci_instancer_note_headers(i);
    sdci_instancer_note_held(i);
    if (sdci_instancer_went_backwards(i)) {
        i->index = 0;
        sdci_instancer_log(i, SDC_LOG_INFO, "action", "index went backwards: starting over");
        sdci_instancer_pause(i, SDCI_READ_FIRST, 0);
        sdci_instancer_adjust_bucket(i, false);
        return SDC_OK;
    }
    if (!sdci_instancer_asks_again(i) && sdci_query_is_outdated(&i->query, &i->task.answer)) {
        i->index = 0;
        sdci_instancer_pause(i, SDCI_READ_FRESH, 0);
        sdci_instancer_adjust_bucket(i, false);
        return SDC_OK;
    }
    if (would_empty && sdci_instancer_doubts_empty(i)) {
        sdci_instancer_adjust_bucket(i, true);
        return SDC_OK;
    }
    return sdci_instancer_publish(i);
}

/* The first agent of the list was looked for and is not well yet: that is no news to subscribers,
   since the other one is. */
static void sdci_instancer_not_home(sdc_instancer *i, const sdc_error *error)
{
    sdci_task_use_agent(&i->task, i->away);
    i->away = 0;
    sdci_instancer_pause(i, SDCI_READ_FIRST, 0);
    sdci_instancer_log(i, SDC_LOG_INFO, "still_away", error->message);
    sdci_task_failed(&i->task, error);
}

/* Whether the next read may come at once: a query that was answered badly, and not held, is most
   likely the only one of its kind; and the next agent of the list is no worse for being asked. */
static bool sdci_instancer_is_alone(const sdc_instancer *i, bool goes_on)
{
    return i->num_failures == 1 ? !sdci_instancer_was_held(i) : goes_on;
}

/* The pause after a failure that was counted: up to half of the time that the watch has been
   failing. So it is good again soon after the agent is, and thousands that lost their agents
   together do not come back together. An agent that says no, or not now, is given time; but
   `goes_on` says that one is asked next which this outage has not asked in this round. */
static uint64_t sdci_instancer_pause_ms(sdc_instancer *i, sdc_err err, bool goes_on)
{
    sdc_task *task = &i->task;
    bool is_slow = !goes_on && (err == SDC_ERR_DENIED || err == SDC_ERR_BUSY);
    uint64_t min_ms = sdci_max(i->backoff_min_ms, is_slow ? SDCI_SLOW_RETRY_MS : 0);
    uint64_t max_ms = sdci_max((task->now_ms - task->failing_since_ms) / 2,
                               sdci_max(2 * min_ms, SDCI_SPREAD_MS));
    uint64_t after_ms = sdci_min(sdci_answer_retry_after_ms(&task->answer), i->backoff_max_ms);
    uint64_t pause_ms = sdci_min(min_ms, i->backoff_max_ms);

    if (is_slow || !sdci_instancer_is_alone(i, goes_on)) {
        pause_ms += sdci_random_upto(&task->random, sdci_min(max_ms, i->backoff_max_ms) - pause_ms);
    }
    if (!goes_on && after_ms > pause_ms) {
        pause_ms = after_ms + sdci_random_upto(&task->random, after_ms / 8);
    }
    return pause_ms;
}

/* After a failure that was counted. True: on to an agent that this round has not asked. */
static bool sdci_instancer_go_on(sdc_instancer *i, sdc_err err)
{
    const sdci_agent *before = i->task.call.link.agent;
    char text[160];

    i->began_at = i->num_failures == 1 ? before : i->began_at;
    if (!sdci_task_leave_agent(&i->task, err)) {
        return false;
    }
    (void)snprintf(text, sizeof text, "%.70s left for %.70s", before->name,
                   i->task.call.link.agent->name);
    sdci_instancer_log(i, SDC_LOG_WARN, "agent", text);
    return i->task.call.link.agent != i->began_at;
}

static void sdci_instancer_failed(sdc_instancer *i, sdc_err err, const sdc_error *error)
{
    sdci_instancer_note_cut(i, err, error);
    i->num_failures++;
    i->index = 0;
    /* the backoff bounds the rate now; buckets that were emptied together do not refill together */
    sdci_bucket_set_pace(&i->bucket, SDCI_READ_EVERY_MS +
                         (uint32_t)sdci_random_upto(&i->task.random, SDCI_READ_EVERY_MS / 5),
                         i->task.now_ms);
    sdci_task_failed(&i->task, error);
    sdci_instancer_log(i, SDC_LOG_WARN, "err", error->message);
    bool goes_on = sdci_instancer_go_on(i, err);
    uint64_t pause_ms = sdci_instancer_pause_ms(i, err, goes_on);
    sdci_instancer_pause(i, SDCI_READ_FIRST, pause_ms);
    sdci_instancer_log_number(i, SDC_LOG_DEBUG, "pause_ms", pause_ms);
    sdci_instancer_show(i);
    (void)sdc_cache_update_error(i->cache, err, error->message, i->task.now_ms);
    sdci_cache_drop_spare(i->cache);
}

/* -- The machine -- */

/* SDC_OK: a read was started. */
static sdc_err sdci_instancer_paused(sdc_instancer *i)
{
    sdci_bucket_fill(&i->bucket, i->task.now_ms);
    if (i->wake_ms > i->task.now_ms || i->bucket.tokens == 0) {
        return SDC_AGAIN;
    }
    sdci_instancer_ask(i);
    return SDC_OK;
}

/* When the memory of the last event is given back: FOREVER where there is none, or no query out. */
static uint64_t sdci_instancer_spare_ms(const sdc_instancer *i)
{
    bool has_spare = i->cache->spare.ptr != NULL && i->state == SDCI_INSTANCER_READING;

    return has_spare ? i->asked_at_ms + SDCI_SPARE_MS : SDCI_FOREVER;
}

/* The newest answer was good, and is not to be asked again of somebody else. */
static void sdci_instancer_recovered(sdc_instancer *i)
{
    if (i->away != 0) {
        sdci_instancer_log(i, SDC_LOG_INFO, "back_at", i->task.call.link.agent->name);
        i->away = 0;
    }
    if (i->num_failures > 0) {
        i->num_failures = 0;
        sdci_instancer_log(i, SDC_LOG_INFO, "action", "recovered");
    }
}

static sdc_err sdci_instancer_run_read(sdc_instancer *i, sdci_share *share)
{
    sdc_error error;

    if (i->task.now_ms >= sdci_instancer_spare_ms(i)) {
        sdci_cache_drop_spare(i->cache);
    }
    i->reading.share = share;
    sdc_err err = sdci_task_exchange(&i->task, share, &error);
    if (err == SDC_AGAIN) {
        i->reading.share = NULL;
        return SDC_AGAIN;
    }
    err = sdci_reading_finish(&i->reading, &i->task.answer, err, &error);
    sdci_call_end(&i->task.call);
    if (err == SDC_OK) {
        err = sdci_instancer_answered(i);
        if (err != SDC_OK) {
            (void)sdci_fail_plain(&error, err);
        }
    }
    if (err != SDC_OK && i->away != 0) {
        sdci_instancer_not_home(i, &error);
    } else if (err != SDC_OK) {
        sdci_instancer_failed(i, err, &error);
    } else if (!sdci_instancer_asks_again(i)) {
        sdci_instancer_recovered(i);
    }
    i->reading.share = NULL;
    sdci_reading_deinit(&i->reading);
    return err;
}

static sdc_err sdci_instancer_stop(sdc_instancer *i)
{
    if (i->state == SDCI_INSTANCER_READING) {
        sdci_reading_deinit(&i->reading);
    }
    sdci_call_abort(&i->task.call);
    sdci_cache_drop_spare(i->cache);
    i->state = SDCI_INSTANCER_STOPPED;
    return SDC_STOPPED;
}

static sdc_err sdci_instancer_advance(sdc_task *task, sdci_share *share)
{
    sdc_instancer *i = sdci_instancer_of(task);
    sdc_err err = SDC_OK;

    if (task->now_ms >= i->show_at_ms && !sdci_task_is_stopping(task)) {
        sdci_instancer_show(i);
    }
    if (sdci_task_is_stopping(task)) {
        return sdci_instancer_stop(i);
    }
    if (i->state == SDCI_INSTANCER_PAUSED) {
        err = sdci_instancer_paused(i);
    }
    return err == SDC_OK ? sdci_instancer_run_read(i, share) : err;
}

static uint64_t sdci_instancer_deadline(const sdc_task *task)
{
    const sdc_instancer *i = sdci_instancer_of(task);

    if (i->state == SDCI_INSTANCER_STOPPED) {
        return SDCI_FOREVER;
    }
    if (sdci_task_is_stopping(task)) {
        return 0;
    }
    uint64_t next_ms = i->state == SDCI_INSTANCER_PAUSED
                           ? sdci_bucket_next_ms(&i->bucket, i->wake_ms)
                           : sdci_instancer_spare_ms(i);
    return sdci_min(next_ms, i->show_at_ms);
}

/* -- Create and destroy -- */

static void sdci_instancer_release(sdc_task *task)
{
    sdc_instancer *i = sdci_instancer_of(task);
    sdc_client *client = sdci_client_retain(task->client);

    if (i->state == SDCI_INSTANCER_READING) {
        sdci_reading_deinit(&i->reading);
    }
    sdci_task_deinit(task);
    sdci_query_deinit(&i->query);
    i->cache->mute = NULL;
    sdc_cache_destroy(i->cache);
    sdci_free(&client->allocator, i, sizeof *i);
    sdci_client_release(client);
}

static const sdci_task_ops sdci_instancer_ops = {
    sdci_instancer_advance, sdci_instancer_deadline, sdci_instancer_release
};

static sdc_err sdci_instancer_valid(const sdc_instancer_desc *desc, sdc_error *error)
{
    if (desc->query.index != 0) {
        return sdci_fail(error, SDC_ERR_ARG, "query.index: an instancer keeps its own");
    }
    if (desc->quiet_min_ms == SDC_NEVER) {
        return sdci_fail(error, SDC_ERR_ARG, "quiet_min_ms cannot be for ever");
    }
    if (desc->quiet_max_ms != 0 && desc->quiet_max_ms < desc->quiet_min_ms) {
        return sdci_fail(error, SDC_ERR_ARG, "quiet_max_ms is less than quiet_min_ms");
    }
    return sdci_backoff_valid(desc->backoff_min_ms, desc->backoff_max_ms, error);
}

/* What the desc leaves open. */
static void sdci_instancer_configure(sdc_instancer *i, const sdc_instancer_desc *desc)
{
    uint64_t quiet_max_ms = (uint64_t)desc->quiet_min_ms * 4;

    i->backoff_min_ms = sdci_or(desc->backoff_min_ms, 10);
    i->backoff_max_ms = (uint32_t)sdci_max(sdci_or(desc->backoff_max_ms, 60000),
                                           i->backoff_min_ms);
    i->resync_ms = sdci_or(desc->resync_ms, 600000);
    i->quiet_min_ms = desc->quiet_min_ms;
    i->quiet_max_ms = sdci_or(desc->quiet_max_ms, (uint32_t)sdci_min(quiet_max_ms, SDC_NEVER));
}

sdc_err sdc_instancer_create(sdc_client *client, const sdc_instancer_desc *desc,
                             sdc_instancer **out, sdc_error *error)
{
    sdci_query query;
    sdc_cache *cache = NULL;

    *out = NULL;
    sdci_error_clear(error);
    sdc_err err = sdci_instancer_valid(desc, error);
    if (err == SDC_OK) {
        err = sdci_query_init(&query, client, &desc->query, error);
    }
    if (err != SDC_OK) {
        return err;
    }
    sdc_instancer *i = (sdc_instancer *)sdci_new(&client->allocator, sizeof *i);
    err = i != NULL ? sdc_cache_create(&client->allocator, &cache) : SDC_ERR_NOMEM;
    if (err != SDC_OK) {
        sdci_query_deinit(&query);
        sdci_free(&client->allocator, i, sizeof *i);
        return sdci_fail_plain(error, err);
    }
    sdci_task_init(&i->task, client, &sdci_instancer_ops);
    i->query = query;
    i->seed = client->io.random(client->io.user);
    i->cache = cache;
    i->cache->mute = &i->task.is_stopping;
    i->cache->keeps_spare = true;
    sdci_instancer_configure(i, desc);
    i->resync_at_ms = SDCI_FOREVER;
    i->recheck_at_ms = SDCI_FOREVER;
    i->show_at_ms = SDCI_FOREVER;
    i->show_by_ms = SDCI_FOREVER;
    sdci_bucket_init(&i->bucket, i->task.now_ms);
    sdci_wait_init(&i->wait, i->query.wait_ms);
    sdci_instancer_pause(i, SDCI_READ_FIRST, 0);
    *out = i;
    return SDC_OK;
}

void sdc_instancer_destroy(sdc_instancer *instancer)
{
    if (instancer != NULL) {
        sdci_task_destroy(&instancer->task);
    }
}

/* -- Calls on an instancer -- */

sdc_task *sdc_instancer_task(sdc_instancer *instancer)
{
    return &instancer->task;
}

sdc_cache *sdc_instancer_cache(sdc_instancer *instancer)
{
    return instancer->cache;
}

sdc_err sdc_instancer_subscribe(sdc_instancer *instancer, sdc_event_fn fn, void *user)
{
    return sdc_cache_subscribe(instancer->cache, fn, user);
}

void sdc_instancer_unsubscribe(sdc_instancer *instancer, sdc_event_fn fn, void *user)
{
    sdc_cache_unsubscribe(instancer->cache, fn, user);
}

const sdc_event *sdc_instancer_state(sdc_instancer *instancer)
{
    return sdc_cache_state(instancer->cache);
}

static bool sdci_instancer_has(const sdc_instancer *i, size_t min_instances)
{
    const sdc_event *event = i->cache->current;

    return event->err == SDC_OK && event->num_instances >= min_instances;
}

sdc_err sdc_instancer_wait(sdc_instancer *instancer, size_t min_instances, uint32_t timeout_ms,
                           sdc_error *error)
{
    sdc_client *client = sdci_client_retain(instancer->task.client);
    uint64_t limit_ms = sdci_after(sdc_client_now_ms(client), timeout_ms);
    sdc_err err = SDC_OK;

    sdci_error_clear(error);
    while (err != SDC_GONE && err != SDC_STOPPED && err != SDC_ERR_ARG &&
           !sdci_instancer_has(instancer, min_instances)) {
        uint64_t now_ms = sdc_client_now_ms(client);
        if (now_ms >= limit_ms) {
            err = SDC_ERR_TIMEOUT;
            break;
        }
        err = sdc_step(&instancer->task, sdci_timeout_ms(limit_ms, now_ms));
    }
    sdci_client_release(client);
    if (err == SDC_GONE || err == SDC_STOPPED || err == SDC_ERR_ARG) {
        return sdci_fail_plain(error, err);
    }
    if (err == SDC_ERR_TIMEOUT && !sdci_instancer_has(instancer, min_instances)) {
        const char *why = instancer->cache->current->message;
        return sdci_fail(error, SDC_ERR_TIMEOUT, "%s",
                         why[0] != '\0' ? why : "not enough instances in time");
    }
    return SDC_OK;
}

/* ---- endpointer --------------------------------------- [sdc:endpointer] --
   What the program makes of instances, and keeps while they live. Three things
   are counted, each by those above it:

     endpoint   what open made for one addr; closed when its count ends
     upstream   one instance as it was at one time, in memory of its own, with
                its endpoint; once changed it is another one of the same
     set        the upstreams of one moment, for everybody to read

     source --mail--> event --> list, waiting ones too --> set, of those open

   List and set change in one place, sdci_endpointer_run, by one thread at a
   time: whoever brings news, or finds that a timer is due, does the work there
   unless another thread is at it, which then does it once more.

      FOLLOWS --error--> FAILS --invalid_at_ms--> INVALID        CLOSED
         ^                 |                         |             ^
         '--- good news ---+-------------------------'     destroy, from any

   ------------------------------------------------------------------------- */

#define SDCI_OPEN_MIN_MS 100u       /* the pause after an open that failed, doubling to */
#define SDCI_OPEN_MAX_MS 30000u
#define SDCI_BEHIND_MS   100u       /* until what failed for want of memory is tried again */

typedef struct sdci_endpoint {
    sdc_endpointer *owner;          /* retained */
    void *made;                     /* by open; the program's */
    uint32_t holds;                 /* of upstreams; atomic */
    uint32_t serial;                /* another one for each endpoint of the owner */
    uint32_t num_failures;          /* of open */
    bool is_open;                   /* set before anybody but the owner sees an upstream of it */
    uint64_t due_ms;                /* of the next open, while it is not */
} sdci_endpoint;

typedef struct sdci_upstream {
    sdci_endpoint *endpoint;        /* retained */
    size_t size;                    /* of this and the texts behind it */
    uint32_t holds;                 /* atomic */
    uint32_t weight;                /* of all instances with this addr */
    bool is_critical;               /* all of them are; or in maintenance */
    sdc_instance instance;          /* one of them */
} sdci_upstream;

typedef struct sdci_set {
    sdci_upstream **upstreams;      /* retained, sorted by addr */
    size_t num;
    size_t size;                    /* of the whole block; 0: part of an endpointer, never freed */
    uint32_t holds;                 /* atomic */
} sdci_set;

/* Who hears of each new set: a balancer, of which this section knows no more. */
typedef struct sdci_follower {
    struct sdci_follower *next;     /* under the endpointer's lock, these two */
    uint32_t told;                  /* the serial of the newest set that it was told of */
    /* Takes over the current set. SDC_ERR_NOMEM: it is told again later. */
    sdc_err (*follow)(struct sdci_follower *follower);
    void (*retain)(struct sdci_follower *follower);
    void (*release)(struct sdci_follower *follower);
} sdci_follower;

typedef enum sdci_endpointer_state {
    SDCI_ENDPOINTER_FOLLOWS = 0,    /* the source is well, or silent so far */
    SDCI_ENDPOINTER_FAILS,          /* its outage is bridged, until invalid_at_ms */
    SDCI_ENDPOINTER_INVALID,        /* the outage has lasted too long: nothing is open */
    SDCI_ENDPOINTER_CLOSED          /* destroyed; for ever */
} sdci_endpointer_state;

struct sdc_endpointer {
    sdc_task task;                  /* first, so that the one is the other */
    sdc_endpointer_desc desc;
    sdc_cache *source;              /* retained until closed */
    sdci_random random;             /* the working thread's, all down to `is_changed` */
    sdci_set *list;                 /* all upstreams, waiting ones too; retained, or NULL */
    const sdc_event *event;         /* that the list is to be made from; retained, or NULL */
    uint64_t invalid_at_ms;
    uint64_t behind_ms;             /* when to go on with what failed for want of memory */
    sdci_endpointer_state state;
    sdc_err outage;                 /* the error that the state is about, */
    uint64_t outage_since_ms;       /* and since when, by the source's clock: which outage it is */
    uint32_t next_serial;
    bool has_heard;                 /* an event, good or bad */
    bool is_changed;                /* the set is not what the list says */
    uint32_t gate;                  /* atomic: to the working thread's */
    uint32_t holds;                 /* the program's, of endpoints and of followers; atomic */
    uint32_t is_closing;            /* atomic */
    uint32_t is_awaited;            /* atomic: there are timers, and picks have to look for them */
    bool is_stopped;                /* the stepping thread's */
    sdci_set nothing;               /* the empty set: there is always memory for that one */
    uint32_t lock;                  /* of all below */
    const sdc_event *mail;          /* the newest one that nobody has looked at; or NULL */
    sdci_set *set;                  /* retained */
    sdc_err set_err;                /* why it is empty, if it is */
    uint32_t serial;                /* of the set */
    sdci_follower *followers;
    uint64_t due_ms;                /* the earliest timer */
    bool is_stepped;                /* steps look for timers */
};

static sdc_endpointer *sdci_endpointer_of(const sdc_task *task)
{
    return (sdc_endpointer *)(uintptr_t)task;
}

static const sdc_allocator *sdci_endpointer_allocator(const sdc_endpointer *e)
{
    return &e->task.client->allocator;
}

static void sdci_endpointer_log(const sdc_endpointer *e, sdc_log_level level, const char *addr,
                                const char *key, const char *value)
{
    sdc_kv fields[3];

    fields[0] = sdci_kv("event", "endpointer");
    fields[1] = sdci_kv("addr", addr);
    fields[2] = sdci_kv(key, value);
    sdci_log(e->task.client, level, fields, 3);
}

/* -- Counting -- */

static sdc_endpointer *sdci_endpointer_retain(sdc_endpointer *e)
{
    (void)sdci_atomic_add(&e->holds, 1);
    return e;
}

static void sdci_endpointer_release(sdc_endpointer *e)
{
    if (sdci_atomic_sub(&e->holds, 1) != 0) {
        return;
    }
    sdc_client *client = sdci_client_retain(e->task.client);
    sdci_task_deinit(&e->task);
    sdci_free(&client->allocator, e, sizeof *e);
    sdci_client_release(client);
}

static sdci_endpoint *sdci_endpoint_retain(sdci_endpoint *endpoint)
{
    (void)sdci_atomic_add(&endpoint->holds, 1);
    return endpoint;
}

static void sdci_endpoint_release(sdci_endpoint *endpoint)
{
    sdc_endpointer *e = endpoint->owner;

    if (sdci_atomic_sub(&endpoint->holds, 1) != 0) {
        return;
    }
    if (endpoint->is_open && e->desc.close != NULL) {
        e->desc.close(e->desc.user, endpoint->made);
    }
    sdci_free(sdci_endpointer_allocator(e), endpoint, sizeof *endpoint);
    sdci_endpointer_release(e);
}

static sdci_upstream *sdci_upstream_retain(sdci_upstream *upstream)
{
    (void)sdci_atomic_add(&upstream->holds, 1);
    return upstream;
}

static void sdci_upstream_release(sdci_upstream *upstream)
{
    if (sdci_atomic_sub(&upstream->holds, 1) == 0) {
        sdc_endpointer *e = sdci_endpointer_retain(upstream->endpoint->owner);
        sdci_endpoint_release(upstream->endpoint);
        sdci_free(sdci_endpointer_allocator(e), upstream, upstream->size);
        sdci_endpointer_release(e);
    }
}

static sdci_set *sdci_set_new(const sdc_endpointer *e, size_t max)
{
    size_t size = sizeof(sdci_set) + max * sizeof(sdci_upstream *);
    sdci_set *set = (sdci_set *)sdci_new(sdci_endpointer_allocator(e), size);

    if (set != NULL) {
        set->upstreams = (sdci_upstream **)(void *)(set + 1);
        set->size = size;
        set->holds = 1;
    }
    return set;
}

static sdci_set *sdci_set_retain(sdci_set *set)
{
    (void)sdci_atomic_add(&set->holds, 1);
    return set;
}

/* May close endpoints: never under a lock. */
static void sdci_set_release(sdc_endpointer *e, sdci_set *set)
{
    if (set != NULL && sdci_atomic_sub(&set->holds, 1) == 0 && set->size > 0) {
        for (size_t i = 0; i < set->num; i++) {
            sdci_upstream_release(set->upstreams[i]);
        }
        sdci_free(sdci_endpointer_allocator(e), set, set->size);
    }
}

static bool sdci_set_is_same(const sdci_set *a, const sdci_set *b)
{
    return a != NULL && a->num == b->num &&
           (a->num == 0 || memcmp(a->upstreams, b->upstreams, a->num * sizeof *a->upstreams) == 0);
}

/* The current one, retained; where it is empty, *err is why. */
static sdci_set *sdci_endpointer_set(sdc_endpointer *e, sdc_err *err, uint32_t *serial)
{
    sdci_lock(&e->lock);
    sdci_set *set = sdci_set_retain(e->set);
    *err = e->set_err;
    *serial = e->serial;
    sdci_unlock(&e->lock);
    return set;
}

/* -- From instances to upstreams -- */

/* Instances with one addr, which stand side by side in an event. */
typedef struct sdci_twins {
    const sdc_instance *shown;      /* the first that is not critical, or the first */
    size_t end;                     /* where those with the next addr begin */
    uint32_t weight;
    bool is_critical;
} sdci_twins;

static bool sdci_is_critical(const sdc_instance *instance)
{
    return instance->status == SDC_STATUS_CRITICAL || instance->status == SDC_STATUS_MAINTENANCE;
}

static void sdci_twins_add(sdci_twins *twins, const sdc_instance *instance)
{
    bool is_critical = sdci_is_critical(instance);

    if (twins->is_critical && !is_critical) {
        twins->shown = instance;
        twins->is_critical = false;
    }
    if (!is_critical) {
        twins->weight = (uint32_t)sdci_min((uint64_t)twins->weight + instance->weight, UINT32_MAX);
    }
}

/* An entry that is listed twice counts once: Consul has it twice where two of its servers do not
   agree for a moment. */
static sdci_twins sdci_twins_at(const sdc_event *event, size_t from)
{
    const sdc_instance *first = &event->instances[from];
    sdci_twins twins;

    twins.shown = first;
    twins.end = from;
    twins.weight = 0;
    twins.is_critical = true;
    do {
        const sdc_instance *instance = &event->instances[twins.end];
        if (twins.end == from || sdci_compare_identity(instance, instance - 1) != 0) {
            sdci_twins_add(&twins, instance);
        }
        twins.end++;
    } while (twins.end < event->num_instances &&
             strcmp(event->instances[twins.end].addr, first->addr) == 0);
    return twins;
}

static bool sdci_upstream_is(const sdci_upstream *upstream, const sdci_twins *twins)
{
    return upstream->weight == twins->weight && upstream->is_critical == twins->is_critical &&
           sdci_same_instance(&upstream->instance, twins->shown);
}

/* Takes over the caller's hold on the endpoint, also when it fails. */
static sdci_upstream *sdci_upstream_new(const sdc_endpointer *e, sdci_endpoint *endpoint,
                                        const sdci_twins *twins)
{
    sdci_layout layout = { NULL, sizeof(sdci_upstream) };
    sdc_instance counted;

    sdci_lay_instance(&layout, twins->shown, &counted);
    sdci_upstream *upstream = (sdci_upstream *)sdci_new(sdci_endpointer_allocator(e), layout.at);
    if (upstream == NULL) {
        sdci_endpoint_release(endpoint);
        return NULL;
    }
    upstream->endpoint = endpoint;
    upstream->size = layout.at;
    upstream->holds = 1;
    upstream->weight = twins->weight;
    upstream->is_critical = twins->is_critical;
    layout.block = (char *)upstream;
    layout.at = sizeof *upstream;
    sdci_lay_instance(&layout, twins->shown, &upstream->instance);
    return upstream;
}

static sdci_endpoint *sdci_endpoint_new(sdc_endpointer *e)
{
    sdci_endpoint *endpoint = (sdci_endpoint *)sdci_new(sdci_endpointer_allocator(e),
                                                        sizeof *endpoint);

    if (endpoint != NULL) {
        endpoint->owner = sdci_endpointer_retain(e);
        endpoint->holds = 1;
        endpoint->serial = ++e->next_serial;
    }
    return endpoint;
}

/* The upstream for an addr; `known` is that of the list with the same addr, or NULL. */
static sdci_upstream *sdci_endpointer_upstream(sdc_endpointer *e, sdci_upstream *known,
                                               const sdci_twins *twins)
{
    if (known != NULL && sdci_upstream_is(known, twins)) {
        return sdci_upstream_retain(known);
    }
    sdci_endpoint *endpoint = known != NULL ? sdci_endpoint_retain(known->endpoint)
                                            : sdci_endpoint_new(e);
    return endpoint != NULL ? sdci_upstream_new(e, endpoint, twins) : NULL;
}

/* The list for an event: both are sorted by addr, so one walk along both finds what stays. NULL:
   no memory. */
static sdci_set *sdci_endpointer_new_list(sdc_endpointer *e, const sdc_event *event)
{
    sdci_set *list = sdci_set_new(e, event->num_instances);
    size_t k = 0;

    for (size_t i = 0; list != NULL && i < event->num_instances;) {
        sdci_twins twins = sdci_twins_at(event, i);
        int order = -1;
        while (e->list != NULL && k < e->list->num && order < 0) {
            order = strcmp(e->list->upstreams[k]->instance.addr, twins.shown->addr);
            k += order < 0 ? 1u : 0u;
        }
        sdci_upstream *known = order == 0 ? e->list->upstreams[k] : NULL;
        sdci_upstream *upstream = sdci_endpointer_upstream(e, known, &twins);
        if (upstream == NULL) {
            sdci_set_release(e, list);
            return NULL;
        }
        list->upstreams[list->num++] = upstream;
        i = twins.end;
    }
    return list;
}

/* -- Opening -- */

static bool sdci_endpointer_is_closing(const sdc_endpointer *e)
{
    return sdci_atomic_get(&e->is_closing) != 0;
}

/* A quarter of the pause is random, in steps, so that many which fail together do not make as many
   new sets when they come back. */
static void sdci_endpointer_open_failed(sdc_endpointer *e, const sdci_upstream *upstream,
                                        sdc_err err)
{
    sdci_endpoint *endpoint = upstream->endpoint;
    uint64_t span_ms = sdci_doubled(SDCI_OPEN_MIN_MS, SDCI_OPEN_MAX_MS, endpoint->num_failures);
    uint64_t due_ms = sdc_client_now_ms(e->task.client) + span_ms -
                      sdci_random_upto(&e->random, span_ms / 4);

    endpoint->num_failures++;
    endpoint->due_ms = due_ms - due_ms % (span_ms / 16);
    sdci_endpointer_log(e, SDC_LOG_WARN, upstream->instance.addr, "open_failed", sdc_err_str(err));
}

static void sdci_endpointer_open(sdc_endpointer *e, sdci_upstream *upstream)
{
    sdci_endpoint *endpoint = upstream->endpoint;
    void *made = NULL;
    sdc_err err = e->desc.open(e->desc.user, &upstream->instance, &made);

    if (err != SDC_OK) {
        sdci_endpointer_open_failed(e, upstream, err);
        return;
    }
    endpoint->made = made;
    endpoint->is_open = true;
    e->is_changed = true;
    if (endpoint->num_failures > 0) {
        sdci_endpointer_log(e, SDC_LOG_INFO, upstream->instance.addr, "action", "opened");
    }
}

static void sdci_endpointer_open_due(sdc_endpointer *e, uint64_t now_ms)
{
    size_t num = e->list != NULL ? e->list->num : 0;

    for (size_t i = 0; i < num && !sdci_endpointer_is_closing(e); i++) {
        sdci_upstream *upstream = e->list->upstreams[i];
        if (!upstream->endpoint->is_open && upstream->endpoint->due_ms <= now_ms) {
            sdci_endpointer_open(e, upstream);
        }
    }
}

/* -- Telling -- */

/* The upstreams of the list that are open. It is the list itself where all are. */
static sdci_set *sdci_endpointer_open_set(sdc_endpointer *e)
{
    sdci_set *list = e->list;
    size_t num_open = 0;

    for (size_t i = 0; list != NULL && i < list->num; i++) {
        num_open += list->upstreams[i]->endpoint->is_open ? 1u : 0u;
    }
    if (num_open == 0 || num_open == list->num) {
        return sdci_set_retain(num_open == 0 ? &e->nothing : list);
    }
    sdci_set *set = sdci_set_new(e, num_open);
    for (size_t i = 0; set != NULL && set->num < num_open; i++) {
        if (list->upstreams[i]->endpoint->is_open) {
            set->upstreams[set->num++] = sdci_upstream_retain(list->upstreams[i]);
        }
    }
    return set;
}

/* One that has not heard of the current set, retained; or NULL. */
static sdci_follower *sdci_endpointer_untold(sdc_endpointer *e)
{
    sdci_lock(&e->lock);
    sdci_follower *follower = e->followers;
    while (follower != NULL && follower->told == e->serial) {
        follower = follower->next;
    }
    if (follower != NULL) {
        follower->told = e->serial;
        follower->retain(follower);
    }
    sdci_unlock(&e->lock);
    return follower;
}

/* SDC_ERR_NOMEM: some were not told. */
static sdc_err sdci_endpointer_tell(sdc_endpointer *e)
{
    sdci_follower *follower;
    sdc_err result = SDC_OK;

    for (;;) {
        follower = sdci_endpointer_untold(e);
        if (follower == NULL) {
            return result;
        }
        sdc_err err = follower->follow(follower);
        follower->release(follower);
        result = result == SDC_OK ? err : result;
    }
}

/* Makes the list the set of everybody. What nobody needs any more is closed here, after the
   followers have let go of it. */
static sdc_err sdci_endpointer_publish(sdc_endpointer *e)
{
    sdci_set *set = sdci_endpointer_open_set(e);

    if (set == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_lock(&e->lock);
    sdci_set *old = e->set;
    e->set = set;
    e->set_err = e->state == SDCI_ENDPOINTER_INVALID ? e->outage : SDC_ERR_EMPTY;
    e->serial++;
    sdci_unlock(&e->lock);
    sdc_err err = sdci_endpointer_tell(e);
    sdci_set_release(e, old);
    return err;
}

/* -- The machine -- */

/* `invalid_at_ms`: when this state ends by itself. */
static void sdci_endpointer_enter(sdc_endpointer *e, sdci_endpointer_state state,
                                  uint64_t invalid_at_ms)
{
    e->invalid_at_ms = invalid_at_ms;
    if (state == SDCI_ENDPOINTER_INVALID || state == SDCI_ENDPOINTER_CLOSED ||
        e->state == SDCI_ENDPOINTER_INVALID) {
        e->is_changed = true;   /* what an empty set means, if nothing else */
        e->behind_ms = 0;
    }
    e->state = state;
}

/* Nothing is to be open. */
static void sdci_endpointer_drop_list(sdc_endpointer *e)
{
    sdci_set *list = e->list;

    sdc_event_release(e->event);
    e->event = NULL;
    e->list = NULL;
    sdci_set_release(e, list);
}

/* The outage began now, or before this endpointer came: then the event knows when. Another one than
   the last may be heard of without the good news in between. */
static void sdci_endpointer_hear_error(sdc_endpointer *e, const sdc_event *event, uint64_t now_ms)
{
    if (e->state == SDCI_ENDPOINTER_FOLLOWS || e->outage_since_ms != event->failing_since_ms) {
        uint64_t since_ms = e->has_heard ? now_ms : sdci_min(event->failing_since_ms, now_ms);
        uint32_t after_ms = e->desc.invalidate_after_ms;
        sdci_endpointer_enter(e, SDCI_ENDPOINTER_FAILS,
                              sdci_after(since_ms, after_ms != 0 ? after_ms : SDC_NEVER));
        e->outage = event->err;
        e->outage_since_ms = event->failing_since_ms;
    }
}

/* Takes the mail: what is new of the source's health, and the instances to follow, which an error
   leaves as they were. */
static void sdci_endpointer_hear(sdc_endpointer *e, uint64_t now_ms)
{
    sdci_lock(&e->lock);
    const sdc_event *event = e->mail;
    e->mail = NULL;
    sdci_unlock(&e->lock);
    if (event == NULL || e->state == SDCI_ENDPOINTER_CLOSED) {
        sdc_event_release(event);
        return;
    }
    if (event->err == SDC_OK) {
        sdci_endpointer_enter(e, SDCI_ENDPOINTER_FOLLOWS, SDCI_FOREVER);
    } else if (event->err != SDC_AGAIN) {
        sdci_endpointer_hear_error(e, event, now_ms);
    }
    e->has_heard = true;
    sdc_event_release(e->event);
    e->event = event;
    e->behind_ms = 0;
}

static void sdci_endpointer_invalidate(sdc_endpointer *e)
{
    sdci_endpointer_log(e, SDC_LOG_WARN, "", "invalidated", sdc_err_str(e->outage));
    sdci_endpointer_enter(e, SDCI_ENDPOINTER_INVALID, SDCI_FOREVER);
    sdci_endpointer_drop_list(e);
}

/* The list for the newest event. */
static sdc_err sdci_endpointer_follow(sdc_endpointer *e)
{
    sdci_set *list = sdci_endpointer_new_list(e, e->event);

    if (list == NULL) {
        return SDC_ERR_NOMEM;
    }
    sdci_set *old = e->list;
    sdc_event_release(e->event);
    e->event = NULL;
    e->list = list;
    e->is_changed = e->is_changed || !sdci_set_is_same(old, list);
    sdci_set_release(e, old);
    return SDC_OK;
}

/* The earliest of all timers. */
static uint64_t sdci_endpointer_next_ms(const sdc_endpointer *e)
{
    uint64_t next_ms = e->invalid_at_ms;

    if (e->event != NULL || e->is_changed) {
        next_ms = sdci_min(next_ms, e->behind_ms);
    }
    for (size_t i = 0; e->list != NULL && i < e->list->num; i++) {
        const sdci_endpoint *endpoint = e->list->upstreams[i]->endpoint;
        next_ms = endpoint->is_open ? next_ms : sdci_min(next_ms, endpoint->due_ms);
    }
    return e->state == SDCI_ENDPOINTER_CLOSED ? SDCI_FOREVER : next_ms;
}

/* Says whose the timers are, under the lock: of the steps, if there are any, else of picks. */
static void sdci_endpointer_entrust(sdc_endpointer *e)
{
    sdci_atomic_set(&e->is_awaited, e->due_ms != SDCI_FOREVER && !e->is_stepped ? 1 : 0);
}

/* True: the earliest timer is nearer than before. */
static bool sdci_endpointer_arm(sdc_endpointer *e)
{
    uint64_t next_ms = sdci_endpointer_next_ms(e);

    sdci_lock(&e->lock);
    bool is_nearer = next_ms < e->due_ms;
    e->due_ms = next_ms;
    sdci_endpointer_entrust(e);
    sdci_unlock(&e->lock);
    return is_nearer;
}

static void sdci_endpointer_work(sdc_endpointer *e)
{
    uint64_t now_ms = sdc_client_now_ms(e->task.client);
    sdc_err err = SDC_OK;

    sdci_endpointer_hear(e, now_ms);
    if (sdci_endpointer_is_closing(e) && e->state != SDCI_ENDPOINTER_CLOSED) {
        sdci_endpointer_enter(e, SDCI_ENDPOINTER_CLOSED, SDCI_FOREVER);
    }
    if (e->invalid_at_ms <= now_ms) {
        sdci_endpointer_invalidate(e);
    }
    if (e->state == SDCI_ENDPOINTER_INVALID || e->state == SDCI_ENDPOINTER_CLOSED) {
        sdci_endpointer_drop_list(e);
    } else if (e->event != NULL && e->behind_ms <= now_ms) {
        err = sdci_endpointer_follow(e);
    }
    sdci_endpointer_open_due(e, now_ms);
    if (sdci_endpointer_is_closing(e) && e->state != SDCI_ENDPOINTER_CLOSED) {
        return;                 /* by open: who destroys it asks for another round */
    }
    if (err == SDC_OK && e->is_changed && e->behind_ms <= now_ms) {
        e->is_changed = false;
        err = sdci_endpointer_publish(e);
    }
    if (err != SDC_OK) {
        e->is_changed = true;
        e->behind_ms = now_ms + SDCI_BEHIND_MS;
        sdci_endpointer_log(e, SDC_LOG_WARN, "", "err", sdc_err_str(err));
    }
}

/* Does what is to be done, unless another thread is at it, or a caller of this one: they do it
   then. */
static void sdci_endpointer_run(sdc_endpointer *e, bool is_step)
{
    bool is_nearer = false;

    sdci_endpointer_retain(e);          /* open may destroy it */
    if (sdci_gate_enter(&e->gate)) {
        uint32_t seen;
        do {
            seen = sdci_atomic_get(&e->gate);
            sdci_endpointer_work(e);
            is_nearer = sdci_endpointer_arm(e) || is_nearer;
        } while (sdci_gate_again(&e->gate, seen));
    }
    if (is_nearer && !is_step && !sdci_endpointer_is_closing(e)) {
        sdc_wake(&e->task);
    }
    sdci_endpointer_release(e);
}

static uint64_t sdci_endpointer_due_ms(sdc_endpointer *e)
{
    sdci_lock(&e->lock);
    uint64_t due_ms = e->due_ms;
    sdci_unlock(&e->lock);
    return due_ms;
}

/* Before a pick, for timers that no step looks after. */
static void sdci_endpointer_look(sdc_endpointer *e)
{
    if (sdci_atomic_peek(&e->is_awaited) != 0 &&
        sdci_endpointer_due_ms(e) <= sdc_client_now_ms(e->task.client)) {
        sdci_endpointer_run(e, false);
    }
}

static void sdci_endpointer_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    sdc_endpointer *e = (sdc_endpointer *)user;

    (void)change;
    sdc_event_retain(event);
    sdci_lock(&e->lock);
    const sdc_event *old = e->mail;
    e->mail = event;
    sdci_unlock(&e->lock);
    sdc_event_release(old);
    sdci_endpointer_run(e, false);
}

/* It hears of every set after the one of this serial. True: there is none yet. */
static bool sdci_endpointer_join(sdc_endpointer *e, sdci_follower *follower, uint32_t serial)
{
    sdci_lock(&e->lock);
    follower->next = e->followers;
    e->followers = follower;
    follower->told = e->serial;
    bool is_newest = e->serial == serial;
    sdci_unlock(&e->lock);
    return is_newest;
}

static void sdci_endpointer_leave(sdc_endpointer *e, const sdci_follower *follower)
{
    sdci_lock(&e->lock);
    sdci_follower **at = &e->followers;
    while (*at != follower) {
        at = &(*at)->next;
    }
    *at = follower->next;
    sdci_unlock(&e->lock);
}

/* -- The task -- */

static sdc_err sdci_endpointer_advance(sdc_task *task, sdci_share *share)
{
    sdc_endpointer *e = sdci_endpointer_of(task);

    (void)share;
    e->is_stopped = sdci_task_is_stopping(task);
    sdci_lock(&e->lock);
    e->is_stepped = !e->is_stopped;
    sdci_endpointer_entrust(e);
    sdci_unlock(&e->lock);
    if (e->is_stopped) {
        return SDC_STOPPED;
    }
    if (sdci_endpointer_due_ms(e) <= task->now_ms) {
        sdci_endpointer_run(e, true);
    }
    return SDC_AGAIN;
}

static uint64_t sdci_endpointer_deadline(const sdc_task *task)
{
    sdc_endpointer *e = sdci_endpointer_of(task);

    if (sdci_task_is_stopping(task)) {
        return e->is_stopped ? SDCI_FOREVER : 0;
    }
    return sdci_endpointer_due_ms(e);
}

static void sdci_endpointer_end(sdc_task *task)
{
    sdc_endpointer *e = sdci_endpointer_of(task);
    sdc_cache *source = e->source;

    e->source = NULL;
    sdc_task_on_wake(task, NULL, NULL);     /* a pick that holds it may be about to wake it */
    sdc_cache_unsubscribe(source, sdci_endpointer_on_event, e);
    sdci_cache_release(source);
    sdci_endpointer_run(e, true);
    sdci_endpointer_release(e);
}

static const sdci_task_ops sdci_endpointer_ops = {
    sdci_endpointer_advance, sdci_endpointer_deadline, sdci_endpointer_end
};

/* -- Create, destroy, walk -- */

static sdc_endpointer *sdci_endpointer_new(sdc_cache *source, const sdc_endpointer_desc *desc,
                                           sdc_client *client)
{
    sdc_endpointer *e = (sdc_endpointer *)sdci_new(&client->allocator, sizeof *e);

    if (e == NULL) {
        return NULL;
    }
    sdci_task_init(&e->task, client, &sdci_endpointer_ops);
    e->desc = *desc;
    e->source = sdci_cache_retain(source);
    e->random.state = sdci_random_next(&e->task.random);
    e->invalid_at_ms = SDCI_FOREVER;
    e->due_ms = SDCI_FOREVER;
    e->holds = 1;
    e->nothing.holds = 1;
    e->set = sdci_set_retain(&e->nothing);
    e->set_err = SDC_ERR_EMPTY;
    return e;
}

sdc_err sdc_endpointer_create(sdc_cache *source, const sdc_endpointer_desc *desc,
                              sdc_client *client, sdc_endpointer **out, sdc_error *error)
{
    *out = NULL;
    sdci_error_clear(error);
    if (source == NULL || client == NULL || desc == NULL || desc->open == NULL) {
        return sdci_fail(error, SDC_ERR_ARG, "%s is missing",
                         source == NULL ? "source" : client == NULL ? "client"
                         : desc == NULL ? "desc" : "open");
    }
    sdc_endpointer *e = sdci_endpointer_new(source, desc, client);
    if (e == NULL) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    sdc_err err = sdc_cache_subscribe(source, sdci_endpointer_on_event, e);
    if (err != SDC_OK) {
        sdc_endpointer_destroy(e);
        return sdci_fail_plain(error, err);
    }
    if (!e->has_heard) {                /* a watch that was stopped tells nobody any more */
        const sdc_event *event = sdc_cache_state(source);
        sdci_endpointer_on_event(e, event, NULL);
        sdc_event_release(event);
    }
    *out = e;
    return SDC_OK;
}

void sdc_endpointer_destroy(sdc_endpointer *endpointer)
{
    if (endpointer != NULL) {
        sdci_atomic_set(&endpointer->is_closing, 1);    /* at once, also from inside a step */
        sdci_task_destroy(&endpointer->task);
    }
}

sdc_task *sdc_endpointer_task(sdc_endpointer *endpointer)
{
    return &endpointer->task;
}

sdc_err sdc_endpointer_each(sdc_endpointer *endpointer, sdc_endpoint_fn fn, void *user)
{
    uint32_t serial;
    sdc_err ignored;
    sdc_err err = SDC_OK;

    sdci_endpointer_retain(endpointer);         /* fn may destroy it */
    sdci_endpointer_look(endpointer);
    sdci_set *set = sdci_endpointer_set(endpointer, &ignored, &serial);
    for (size_t i = 0; i < set->num && err == SDC_OK; i++) {
        const sdci_upstream *upstream = set->upstreams[i];
        err = fn(user, upstream->endpoint->made, &upstream->instance);
    }
    sdci_set_release(endpointer, set);
    sdci_endpointer_release(endpointer);
    return err;
}

/* ---- balancer ------------------------------------------- [sdc:balancer] --
   Which endpoint a call goes to. What takes thought is done when the list
   changes, in a plan: for each group of instances an array in which a pick is
   a position. Policies differ in how the array is filled and how it is drawn
   from:

     round robin     each once               the next one
     random          each once               any
     weighted        smooth, by weight       the next one
     least loaded    smooth, by weight       the better of any two
     hashed          a table (rendezvous)    any, by the numbers of the key

   What changes between two lists (who is ejected, or young) is marks that a
   pick passes over.

   Picking threads do not meet: each goes to a shard, which has positions,
   random numbers and counts of its own. How often a seat of the plan is picked
   is the sum over all shards; when the next plan comes that sum is added to the
   seat's own count. The plan's hold on a seat is so large that this count does
   not end before, so it does not matter where the end of a pick is counted: in
   any shard, or in the seat.
   ------------------------------------------------------------------------- */

#define SDCI_SHARDS      16u
#define SDCI_PLAN_HOLDS  0x40000000u
#define SDCI_ORDER_MAX   65536u     /* weights are scaled so that they sum up to no more */
#define SDCI_TABLE       65537u     /* slots for keys; a prime, so that any skip leads to all */
#define SDCI_BID_UNIT    ((uint32_t)1 << 28)
#define SDCI_BID_PACE    ((uint64_t)1 << 32)
#define SDCI_DRAWS       16u        /* that meet a mark, before the list is searched */
#define SDCI_ROUTE_AWAY  65536u     /* all calls go to other zones; less is a share of them */
#define SDCI_ROUTE_ALL   65537u
#define SDCI_EJECT_TIMES 10u
#define SDCI_FREE_TRIES  10u        /* a second, beyond the first ones of calls */
#define SDCI_EJECTED     1u
#define SDCI_YOUNG       2u

/* The groups of a plan, each of which has an order. */
enum { SDCI_HOME = 0, SDCI_AWAY, SDCI_ALL, SDCI_GROUPS };

#define SDCI_IN(group)   (1u << (group))
#define SDCI_IS_HEALTHY  SDCI_IN(SDCI_GROUPS)   /* these two whatever a subset leaves */
#define SDCI_IS_HOME     SDCI_IN(SDCI_GROUPS + 1)

/* What a balancer remembers of an endpoint, whichever instance stands for it. */
typedef struct sdci_record {
    uint32_t num_failed;            /* atomic: picks in a row */
    uint32_t marks;                 /* atomic; changed under the balancer's lock, as what follows */
    uint64_t young_until_ms;
    uint64_t until_ms;              /* when an ejection ends, or ended */
    struct sdci_record *next;       /* among those with marks, and what points to this one there */
    struct sdci_record **linked_by;
    const sdc_instance *instance;   /* of its seat in the newest plan */
    uint32_t times;                 /* how long the newest ejection was, in eject_ms */
    bool is_listed;
    uint8_t groups;                 /* as its choice's in the plan */
    uint32_t seen_in, place;        /* the newest plan that has it, by number, and where; these two
                                       are the planning thread's */
    uint32_t holds;                 /* of seats; atomic */
} sdci_record;

/* An upstream that is, or was, in a plan; its picks hold it. */
typedef struct sdci_seat {
    sdci_upstream *upstream;        /* retained */
    sdci_record *record;            /* retained */
    uint32_t holds;                 /* atomic: SDCI_PLAN_HOLDS, and picks handed over */
    uint32_t place;                 /* in the newest plan; the planning thread's */
    uint32_t since;                 /* the number of the first plan that it is in */
} sdci_seat;

/* All that a pick has to read of a seat. */
typedef struct sdci_choice {
    void *endpoint;
    const sdc_instance *instance;
    sdci_seat *seat;
} sdci_choice;

/* What least loaded goes by, side by side, since a pick looks at two of these anywhere. */
typedef struct sdci_load {
    uint32_t in_flight;             /* atomic: picks of the choice, in all shards */
    uint32_t weight;
} sdci_load;

typedef struct sdci_order {
    uint32_t *at;                   /* places of choices; NULL: each is itself */
    size_t num;
} sdci_order;

typedef struct sdci_plan {
    sdci_choice *choices;           /* one for each upstream, in the order of addr */
    uint32_t number;                /* of the plan; 0: the empty one */
    uint32_t num;
    uint32_t num_healthy;
    sdci_order orders[SDCI_GROUPS];
    uint8_t *groups;                /* of each choice: SDCI_IN of groups, and SDCI_IS_... */
    sdci_load *loads;               /* of each choice, with least loaded; else NULL */
    uint32_t *out;                  /* picks of each choice, in each shard; with the others */
    size_t stride;                  /* from one shard's to the next one's */
    size_t size;                    /* of the whole block, but for the orders */
    bool borrows_orders;            /* from the plan before it, until it takes its place */
} sdci_plan;

/* What a picking thread works with. */
typedef struct sdci_shard {
    uint32_t lock;
    uint32_t positions[SDCI_GROUPS];
    sdci_random random;             /* state 0: nobody has been here yet */
    sdci_order home;                /* the plan's, and its choices: for plain picks */
    const sdci_choice *choices;
    sdci_load *loads;
    uint32_t *out;                  /* of the plan, this shard's */
    uint64_t drawn;                 /* for the next plain pick, with least loaded */
    const sdci_plan *plan;
    sdc_err err;                    /* where the plan is empty */
} sdci_shard;

/* Two lines of cache, so that two shards never have one in common. */
typedef union sdci_shard_line {
    sdci_shard shard;
    char size[128];
} sdci_shard_line;

/* How many of the list are what. */
typedef struct sdci_tally {
    uint32_t listed, usable, home, usable_home;
    uint32_t used, ejected;         /* used: in a subset, or listed where there is none */
    uint32_t ready, ready_home;     /* both used and usable */
} sdci_tally;

/* What retries may cost. */
typedef struct sdci_budget {
    uint64_t at_ms;                 /* up to when the free ones have been counted */
    uint32_t free_tries;
    uint32_t earned;                /* hundredths of a try */
} sdci_budget;

struct sdc_balancer {
    sdci_follower follower;         /* first, so that the one is the other */
    sdc_endpointer *endpointer;     /* retained */
    sdc_balancer_desc desc;         /* with all defaults resolved */
    uint64_t seed;                  /* of what is random */
    char *zone, *zone_meta;         /* own, or NULL */
    uint32_t holds;                 /* the program's and the endpointer's; atomic */
    uint32_t num_seats;             /* atomic */
    uint32_t gate;                  /* atomic: to the planning thread's */
    uint32_t serial;                /* the planning thread's, down to `nothing`: of its set */
    uint32_t num_plans;
    sdci_plan *plan;                /* the newest */
    sdci_plan nothing;              /* the empty one: there is always memory for that */
    uint32_t route;                 /* atomic: where picks go, by the tally */
    uint32_t num_marked;            /* atomic: records with marks; picks need the time then */
    uint32_t num_started;           /* atomic: shards that somebody has used */
    char apart[64];                 /* what is written is on other lines than what picks read */
    uint32_t lock;                  /* of all below but the shards */
    sdci_tally tally;
    sdci_record *marked;            /* records with marks */
    uint32_t due_s;                 /* atomic: about when the first of these ends */
    uint32_t told_route;            /* what the log said last */
    char service[64];               /* for the log */
    sdci_random random;
    sdci_budget budget;
    sdci_shard_line shards[SDCI_SHARDS];
};

static sdc_balancer *sdci_balancer_of(sdci_follower *follower)
{
    return (sdc_balancer *)(void *)follower;
}

static const sdc_client *sdci_balancer_client(const sdc_balancer *b)
{
    return b->endpointer->task.client;
}

static const sdc_allocator *sdci_balancer_allocator(const sdc_balancer *b)
{
    return &sdci_balancer_client(b)->allocator;
}

static void sdci_balancer_log(const sdc_balancer *b, sdc_log_level level, const char *service,
                              const char *addr, const char *key, const char *value)
{
    sdc_kv fields[4];

    fields[0] = sdci_kv("event", "balancer");
    fields[1] = sdci_kv("service", service);
    fields[2] = sdci_kv("addr", addr);
    fields[3] = sdci_kv(key, value);
    sdci_log(sdci_balancer_client(b), level, fields, 4);
}

/* -- Seats -- */

static void sdci_record_release(const sdc_balancer *b, sdci_record *record)
{
    if (sdci_atomic_sub(&record->holds, 1) == 0) {
        sdci_free(sdci_balancer_allocator(b), record, sizeof *record);
    }
}

/* May close the endpoint: never under a lock. */
static void sdci_seat_release(sdc_balancer *b, sdci_seat *seat, uint32_t num_holds)
{
    if (sdci_atomic_sub(&seat->holds, num_holds) == 0) {
        (void)sdci_atomic_sub(&b->num_seats, 1);
        sdci_upstream_release(seat->upstream);
        sdci_record_release(b, seat->record);
        sdci_free(sdci_balancer_allocator(b), seat, sizeof *seat);
    }
}

/* `record`: what is known of the endpoint, or NULL. */
static sdci_seat *sdci_seat_new(sdc_balancer *b, sdci_upstream *upstream, sdci_record *record)
{
    const sdc_allocator *allocator = sdci_balancer_allocator(b);
    sdci_seat *seat = (sdci_seat *)sdci_new(allocator, sizeof *seat);

    if (seat != NULL && record == NULL) {
        record = (sdci_record *)sdci_new(allocator, sizeof *record);
    }
    if (seat == NULL || record == NULL) {
        sdci_free(allocator, seat, sizeof *seat);
        return NULL;
    }
    (void)sdci_atomic_add(&b->num_seats, 1);
    (void)sdci_atomic_add(&record->holds, 1);
    seat->upstream = sdci_upstream_retain(upstream);
    seat->record = record;
    seat->holds = SDCI_PLAN_HOLDS;
    return seat;
}

static bool sdci_plan_has(const sdci_plan *plan, const sdci_seat *seat)
{
    return seat->place < plan->num && plan->choices[seat->place].seat == seat;
}

/* -- Orders: smooth by weight -- */

static uint32_t sdci_gcd(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Weights, none of them 0, over their greatest common divisor, and scaled where their sum would be
   too large for an order. Answers the sum. */
static size_t sdci_reduce_weights(uint32_t *weights, size_t num)
{
    uint32_t divisor = 0;
    uint64_t sum = 0;
    uint64_t max = sdci_max(num, SDCI_ORDER_MAX);
    uint64_t reduced = 0;

    for (size_t i = 0; i < num; i++) {
        divisor = sdci_gcd(weights[i], divisor);
    }
    for (size_t i = 0; i < num; i++) {
        weights[i] /= divisor;
        sum += weights[i];
    }
    for (size_t i = 0; i < num; i++) {
        if (sum > max) {
            weights[i] = (uint32_t)sdci_max(weights[i] * max / sum, 1);
        }
        reduced += weights[i];
    }
    return (size_t)reduced;
}

/* Those of one weight take turns, so that only one of them is looked at for each place of an
   order. */
typedef struct sdci_class {
    int64_t value;                  /* of the one whose turn it is: its share of the places so far,
                                       times their number, less those that it had */
    uint32_t weight;
    uint32_t turn;                  /* whose */
    size_t start, num, next;        /* in the array of all, by class */
} sdci_class;

static sdci_class *sdci_class_at(const sdci_buf *classes, size_t i)
{
    return (sdci_class *)(void *)classes->ptr + i;
}

static size_t sdci_num_classes(const sdci_buf *classes)
{
    return classes->len / sizeof(sdci_class);
}

/* Which class a weight is of; a new one if need be. */
static size_t sdci_class_of(sdci_buf *classes, uint32_t weight)
{
    size_t i = 0;

    while (i < sdci_num_classes(classes) && sdci_class_at(classes, i)->weight != weight) {
        i++;
    }
    if (i == sdci_num_classes(classes)) {
        sdci_class added;
        memset(&added, 0, sizeof added);
        added.weight = weight;
        sdci_put(classes, &added, sizeof added);
    }
    return i;
}

/* Sorts 0 to num - 1 by class into `grouped`. */
static void sdci_classify(sdci_buf *classes, const uint32_t *weights, uint32_t *grouped, size_t num)
{
    size_t start = 0;

    for (size_t i = 0; i < num && classes->err == SDC_OK; i++) {
        size_t which = sdci_class_of(classes, weights[i]);
        if (classes->err == SDC_OK) {
            sdci_class_at(classes, which)->num++;
        }
    }
    for (size_t c = 0; c < sdci_num_classes(classes); c++) {
        sdci_class_at(classes, c)->start = start;
        start += sdci_class_at(classes, c)->num;
    }
    for (size_t i = 0; i < num && classes->err == SDC_OK; i++) {
        sdci_class *of = sdci_class_at(classes, sdci_class_of(classes, weights[i]));
        grouped[of->start + of->next++] = (uint32_t)i;
    }
    for (size_t c = 0; c < sdci_num_classes(classes); c++) {
        sdci_class *of = sdci_class_at(classes, c);
        of->next = 0;
        of->turn = grouped[of->start];
    }
}

/* One place of a smooth order: whoever is furthest behind its share, the first of several. */
static uint32_t sdci_smooth_next(sdci_class *classes, size_t num_classes, const uint32_t *grouped,
                                 size_t sum)
{
    sdci_class *best = classes;

    for (sdci_class *of = classes; of < classes + num_classes; of++) {
        of->value += of->weight;
        if (of->value > best->value || (of->value == best->value && of->turn < best->turn)) {
            best = of;
        }
    }
    uint32_t taken = best->turn;
    best->next++;
    if (best->next == best->num) {      /* each of them has had one more */
        best->next = 0;
        best->value -= (int64_t)sum;
    }
    best->turn = grouped[best->start + best->next];
    return taken;
}

/* Numbers from 0 to num - 1, each as often as its reduced weight says and as evenly as that goes.
   `grouped` is room for as many. */
static bool sdci_smooth(const sdc_allocator *allocator, const uint32_t *weights, uint32_t *grouped,
                        size_t num, uint32_t *into, size_t sum)
{
    sdci_buf classes;

    sdci_buf_init(&classes, allocator, SIZE_MAX / 2);
    sdci_classify(&classes, weights, grouped, num);
    bool is_done = classes.err == SDC_OK;
    for (size_t i = 0; i < sum && is_done; i++) {
        into[i] = sdci_smooth_next(sdci_class_at(&classes, 0), sdci_num_classes(&classes), grouped,
                                   sum);
    }
    sdci_buf_deinit(&classes);
    return is_done;
}

/* -- Orders: a table for keys -- */

/* Rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates"),
   worked out for slots instead of keys. An upstream bids for all slots, one after the other, in an
   order that follows from its addr and at the pace of its weight; a slot goes to the first bid. No
   bid depends on other upstreams, so when one comes or goes only its own slots change hands. */
typedef struct sdci_bidder {
    uint64_t pace;                  /* 1 / weight */
    uint64_t delay;                 /* less than one bid takes */
    uint32_t num_bids;
    uint32_t slot, skip;            /* of the next bid, and on to the one after it */
} sdci_bidder;

/* What bids need: when each slot was won, and how the nth bid of anybody stands in time. */
typedef struct sdci_auction {
    uint32_t *table;                /* who has won */
    uint64_t *won_at;
    uint32_t *times;
    size_t num_free;
} sdci_auction;

/* When the nth bid of weight 1 comes, in units of 2^-28. The gaps are 1 / (slots left), so the time
   until a given slot is reached is exponential, and of several such times the first falls to each
   by its weight. The last is 11.7: it fits 32 bits, and with a pace of at most 2^32 it fits 64. */
static void sdci_auction_init(sdci_auction *auction)
{
    uint32_t time = 0;

    for (uint32_t i = 0; i < SDCI_TABLE; i++) {
        auction->times[i] = time;
        auction->won_at[i] = UINT64_MAX;
        time += SDCI_BID_UNIT / (SDCI_TABLE - i);
    }
    auction->num_free = SDCI_TABLE;
}

static void sdci_bidder_init(sdci_bidder *bidder, const char *addr, uint32_t weight, uint64_t seed)
{
    sdci_random random;

    random.state = sdci_hash(addr, strlen(addr), seed);
    bidder->pace = SDCI_BID_PACE / weight;
    bidder->delay = sdci_random_upto(&random, (SDCI_BID_UNIT / SDCI_TABLE - 1) * bidder->pace);
    bidder->num_bids = 0;
    bidder->slot = sdci_random_below(&random, SDCI_TABLE);
    bidder->skip = sdci_random_below(&random, SDCI_TABLE - 1) + 1;
}

/* All bids before a time. */
static void sdci_auction_bid(sdci_auction *auction, sdci_bidder *bidder, uint32_t who,
                             uint64_t until)
{
    while (bidder->num_bids < SDCI_TABLE) {
        uint64_t at = auction->times[bidder->num_bids] * bidder->pace + bidder->delay;
        uint64_t *won_at = &auction->won_at[bidder->slot];
        if (at >= until) {
            return;
        }
        auction->num_free -= *won_at == UINT64_MAX ? 1u : 0u;
        if (at < *won_at) {
            *won_at = at;
            auction->table[bidder->slot] = who;
        }
        bidder->num_bids++;
        bidder->slot += bidder->skip;
        bidder->slot -= bidder->slot < SDCI_TABLE ? 0 : SDCI_TABLE;
    }
}

/* In spans of time, each with about as many bids as an eighth of the slots, until none is free. */
static void sdci_auction_run(sdci_auction *auction, sdci_bidder *bidders, size_t num,
                             uint64_t sum_of_weights)
{
    uint64_t span = sdci_max(SDCI_BID_UNIT * SDCI_BID_PACE / 8 / sum_of_weights, 1);

    sdci_auction_init(auction);
    for (uint64_t until = span; auction->num_free > 0; until += span) {
        for (size_t i = 0; i < num; i++) {
            sdci_auction_bid(auction, &bidders[i], (uint32_t)i, until);
        }
    }
}

/* -- Plans -- */

/* The upstreams of one group while its order is made, and room to make it in. */
typedef struct sdci_draft {
    const sdc_balancer *balancer;
    const sdci_plan *plan;
    uint32_t *places;               /* of the choices, rising */
    uint32_t *weights;
    uint32_t *grouped;
    size_t num;
    size_t size;                    /* of the three, one piece of memory */
} sdci_draft;

static const sdci_upstream *sdci_plan_upstream(const sdci_plan *plan, size_t i)
{
    return plan->choices[i].seat->upstream;
}

/* Where all are used, those without a weight count too. */
static uint32_t sdci_plan_weight(const sdci_plan *plan, size_t i)
{
    return sdci_or(sdci_plan_upstream(plan, i)->weight, 1);
}

static void sdci_order_free(const sdc_allocator *allocator, sdci_order *order)
{
    sdci_free(allocator, order->at, order->num * sizeof *order->at);
    order->at = NULL;
    order->num = 0;
}

static bool sdci_order_alloc(const sdc_allocator *allocator, sdci_order *order, size_t num)
{
    order->at = (uint32_t *)sdci_resize(allocator, NULL, 0, num * sizeof *order->at);
    order->num = order->at != NULL ? num : 0;
    return order->at != NULL;
}

/* Each place is itself where that is possible, which saves picks a look. */
static bool sdci_order_even(sdci_draft *draft, sdci_order *order)
{
    if (draft->num == draft->plan->num) {
        order->num = draft->num;
        return true;
    }
    bool is_done = sdci_order_alloc(sdci_balancer_allocator(draft->balancer), order, draft->num);
    for (size_t i = 0; i < order->num; i++) {
        order->at[i] = (uint32_t)i;
    }
    return is_done;
}

static bool sdci_order_weighted(sdci_draft *draft, sdci_order *order)
{
    const sdc_allocator *allocator = sdci_balancer_allocator(draft->balancer);
    size_t sum = sdci_reduce_weights(draft->weights, draft->num);

    if (sum == draft->num) {
        return sdci_order_even(draft, order);
    }
    return sdci_order_alloc(allocator, order, sum) &&
           sdci_smooth(allocator, draft->weights, draft->grouped, draft->num, order->at, sum);
}

static bool sdci_order_hashed(sdci_draft *draft, sdci_order *order)
{
    const sdc_allocator *allocator = sdci_balancer_allocator(draft->balancer);
    sdci_auction auction;
    size_t times_at = draft->num * sizeof(sdci_bidder) + SDCI_TABLE * sizeof auction.won_at[0];
    size_t size = times_at + SDCI_TABLE * sizeof auction.times[0];
    char *room = (char *)sdci_resize(allocator, NULL, 0, size);
    bool is_done = room != NULL && sdci_order_alloc(allocator, order, SDCI_TABLE);
    uint64_t sum = 0;

    if (is_done) {
        sdci_bidder *bidders = (sdci_bidder *)(void *)room;
        for (size_t i = 0; i < draft->num; i++) {
            const char *addr = sdci_plan_upstream(draft->plan, draft->places[i])->instance.addr;
            sdci_bidder_init(&bidders[i], addr, draft->weights[i], draft->balancer->desc.seed);
            sum += draft->weights[i];
        }
        auction.table = order->at;
        auction.won_at = (uint64_t *)(void *)(bidders + draft->num);
        auction.times = (uint32_t *)(void *)(room + times_at);
        sdci_auction_run(&auction, bidders, draft->num, sum);
    }
    sdci_free(allocator, room, size);
    return is_done;
}

/* Fills an order with the upstreams of a draft: first by their number in that, then by their places
   in the plan. */
static bool sdci_order_fill(sdci_draft *draft, sdci_order *order)
{
    bool is_done = true;

    switch (draft->balancer->desc.policy) {
    case SDC_POLICY_WEIGHTED:
    case SDC_POLICY_LEAST_LOADED: is_done = sdci_order_weighted(draft, order); break;
    case SDC_POLICY_HASHED:       is_done = sdci_order_hashed(draft, order);   break;
    case SDC_POLICY_ROUND_ROBIN:
    case SDC_POLICY_RANDOM:       is_done = sdci_order_even(draft, order);     break;
    }
    for (size_t i = 0; i < order->num && order->at != NULL && is_done; i++) {
        order->at[i] = draft->places[order->at[i]];
    }
    return is_done;
}

static bool sdci_plan_order(const sdc_balancer *b, sdci_plan *plan, unsigned group)
{
    sdci_draft draft;

    memset(&draft, 0, sizeof draft);
    draft.balancer = b;
    draft.plan = plan;
    draft.size = 3 * plan->num * sizeof *draft.places;
    draft.places = (uint32_t *)sdci_resize(sdci_balancer_allocator(b), NULL, 0, draft.size);
    if (draft.places == NULL) {
        return false;
    }
    draft.weights = draft.places + plan->num;
    draft.grouped = draft.weights + plan->num;
    for (uint32_t i = 0; i < plan->num; i++) {
        if ((plan->groups[i] & SDCI_IN(group)) != 0) {
            draft.places[draft.num] = i;
            draft.weights[draft.num] = sdci_plan_weight(plan, i);
            draft.num++;
        }
    }
    bool is_done = draft.num == 0 || sdci_order_fill(&draft, &plan->orders[group]);
    sdci_free(sdci_balancer_allocator(b), draft.places, draft.size);
    return is_done;
}

/* -- Plans: who is in which group -- */

/* Those that Consul wants to have calls; where it gives a weight to none, those that are not
   critical. */
static bool sdci_plan_is_healthy(const sdci_plan *plan, uint32_t i, bool has_weights)
{
    const sdci_upstream *upstream = sdci_plan_upstream(plan, i);

    return !upstream->is_critical && (upstream->weight > 0 || !has_weights);
}

static bool sdci_balancer_is_home(const sdc_balancer *b, const sdc_instance *instance)
{
    const char *zone = instance->zone;

    if (b->zone == NULL) {
        return true;
    }
    if (b->zone_meta != NULL) {
        zone = "";
        for (size_t i = 0; i < instance->num_meta; i++) {
            const sdc_kv *pair = &instance->meta[i];
            zone = strcmp(pair->key, b->zone_meta) == 0 ? pair->value : zone;
        }
    }
    return strcmp(zone, b->zone) == 0;
}

static void sdci_plan_group(const sdc_balancer *b, sdci_plan *plan)
{
    bool has_weights = false;
    bool has_others = false;        /* than those in maintenance, where somebody wants no calls */

    for (uint32_t i = 0; i < plan->num; i++) {
        const sdci_upstream *upstream = sdci_plan_upstream(plan, i);
        has_weights = has_weights || sdci_plan_is_healthy(plan, i, true);
        has_others = has_others || upstream->instance.status != SDC_STATUS_MAINTENANCE;
    }
    for (uint32_t i = 0; i < plan->num; i++) {
        const sdc_instance *instance = &sdci_plan_upstream(plan, i)->instance;
        bool is_healthy = sdci_plan_is_healthy(plan, i, has_weights);
        bool is_home = sdci_balancer_is_home(b, instance);
        bool is_out = instance->status == SDC_STATUS_MAINTENANCE && has_others;
        unsigned own = SDCI_IS_HEALTHY | SDCI_IN(is_home ? SDCI_HOME : SDCI_AWAY);
        plan->groups[i] = (uint8_t)((is_out ? 0 : SDCI_IN(SDCI_ALL)) |
                                    (is_home ? SDCI_IS_HOME : 0) | (is_healthy ? own : 0));
        plan->num_healthy += is_healthy ? 1 : 0;
    }
}

/* The value that `keep` of the ranks are less than, found from its highest bit down. */
static uint64_t sdci_rank_limit(const uint64_t *ranks, size_t num, size_t keep)
{
    uint64_t limit = 0;

    for (unsigned bit = 64; bit > 0; bit--) {
        uint64_t higher = limit | (uint64_t)1 << (bit - 1);
        size_t num_less = 0;
        for (size_t i = 0; i < num; i++) {
            num_less += ranks[i] < higher ? 1 : 0;
        }
        limit = num_less <= keep ? higher : limit;
    }
    return limit;
}

/* Leaves as many in a group as this process uses: those whose addr ranks lowest by its seed, so
   that another one comes in only where one of them has gone. */
static bool sdci_plan_subset(const sdc_balancer *b, sdci_plan *plan, unsigned group)
{
    size_t size = plan->num * sizeof(uint64_t);
    size_t num = 0;
    uint64_t *ranks = (uint64_t *)sdci_resize(sdci_balancer_allocator(b), NULL, 0, size);

    if (ranks == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < plan->num; i++) {
        const char *addr = sdci_plan_upstream(plan, i)->instance.addr;
        bool is_in = (plan->groups[i] & SDCI_IN(group)) != 0;
        ranks[i] = is_in ? sdci_hash(addr, strlen(addr), b->seed) : UINT64_MAX;
        num += is_in ? 1 : 0;
    }
    if (num > b->desc.subset_size) {
        uint64_t limit = sdci_rank_limit(ranks, plan->num, b->desc.subset_size);
        for (uint32_t i = 0; i < plan->num; i++) {
            plan->groups[i] &= (uint8_t)~(ranks[i] < limit ? 0 : SDCI_IN(group));
        }
    }
    sdci_free(sdci_balancer_allocator(b), ranks, size);
    return true;
}

/* -- Plans: making one -- */

/* Frees it with the seats that are in no other plan. */
static void sdci_plan_free(sdc_balancer *b, sdci_plan *plan, const sdci_plan *other)
{
    const sdc_allocator *allocator = sdci_balancer_allocator(b);

    for (uint32_t i = 0; i < plan->num; i++) {
        sdci_seat *seat = plan->choices[i].seat;
        if (!sdci_plan_has(other, seat)) {
            sdci_seat_release(b, seat, SDCI_PLAN_HOLDS);
        }
    }
    for (unsigned group = 0; group < SDCI_GROUPS; group++) {
        sdci_order_free(allocator, &plan->orders[group]);
    }
    if (plan != &b->nothing) {
        sdci_free(allocator, plan, plan->size);
    }
}

/* Choices, counts and groups in one block, the counts of each shard in lines of cache of their
   own. */
static sdci_plan *sdci_plan_alloc(const sdc_balancer *b, size_t num)
{
    bool has_loads = b->desc.policy == SDC_POLICY_LEAST_LOADED;
    size_t stride = (num + 31) / 16 * 16;
    size_t counts_at = sizeof(sdci_plan) + num * sizeof(sdci_choice) + 64;
    size_t groups_at = counts_at + (has_loads ? num * sizeof(sdci_load)
                                              : SDCI_SHARDS * stride * sizeof(uint32_t));
    sdci_plan *plan = (sdci_plan *)sdci_new(sdci_balancer_allocator(b), groups_at + num);

    if (plan != NULL) {
        void *counts = (char *)plan + counts_at;
        plan->size = groups_at + num;
        plan->stride = stride;
        plan->choices = (sdci_choice *)(void *)(plan + 1);
        plan->loads = has_loads ? (sdci_load *)counts : NULL;
        plan->out = has_loads ? NULL : (uint32_t *)counts;
        plan->groups = (uint8_t *)plan + groups_at;
    }
    return plan;
}

/* The seat for an upstream; `known` is that of the newest plan with the same addr, or NULL. */
static sdci_seat *sdci_plan_seat(sdc_balancer *b, sdci_upstream *upstream, sdci_seat *known)
{
    if (known != NULL && known->upstream == upstream) {
        return known;
    }
    bool is_kept = known != NULL && known->upstream->endpoint == upstream->endpoint;
    return sdci_seat_new(b, upstream, is_kept ? known->record : NULL);
}

/* Both the set and the newest plan are sorted by addr. False: no memory. */
static bool sdci_plan_seats(sdc_balancer *b, sdci_plan *plan, const sdci_set *set)
{
    uint32_t k = 0;

    for (size_t i = 0; i < set->num; i++) {
        sdci_upstream *upstream = set->upstreams[i];
        int order = -1;
        while (k < b->plan->num && order < 0) {
            order = strcmp(sdci_plan_upstream(b->plan, k)->instance.addr, upstream->instance.addr);
            k += order < 0 ? 1u : 0u;
        }
        sdci_seat *seat = sdci_plan_seat(b, upstream, order == 0 ? b->plan->choices[k].seat : NULL);
        if (seat == NULL) {
            return false;
        }
        SDC_ASSERT(upstream->endpoint->is_open);
        sdci_choice *choice = &plan->choices[plan->num++];
        choice->seat = seat;
        choice->endpoint = upstream->endpoint->made;
        choice->instance = &upstream->instance;
    }
    return true;
}

static void sdci_plan_weigh(sdci_plan *plan)
{
    for (uint32_t i = 0; i < plan->num && plan->loads != NULL; i++) {
        plan->loads[i].weight = sdci_plan_weight(plan, i);
    }
}

/* Orders follow from these alone: with other tags, or another status, they are what they were. */
static bool sdci_plan_is_alike(const sdci_plan *a, const sdci_plan *b)
{
    bool is_alike = a->num == b->num && memcmp(a->groups, b->groups, a->num) == 0;

    for (uint32_t i = 0; i < a->num && is_alike; i++) {
        const sdci_upstream *x = sdci_plan_upstream(a, i);
        const sdci_upstream *y = sdci_plan_upstream(b, i);
        is_alike = x == y || (x->weight == y->weight &&
                              strcmp(x->instance.addr, y->instance.addr) == 0);
    }
    return is_alike;
}

static bool sdci_plan_order_all(const sdc_balancer *b, sdci_plan *plan)
{
    bool needs_all = b->desc.panic_percent > 0 || b->desc.eject_after > 0 || plan->num_healthy == 0;
    bool is_done = true;

    for (unsigned group = 0; group < SDCI_GROUPS && is_done; group++) {
        if (group != SDCI_ALL || needs_all) {
            is_done = sdci_plan_order(b, plan, group);
        }
    }
    return is_done;
}

/* NULL: no memory. */
static sdci_plan *sdci_plan_new(sdc_balancer *b, const sdci_set *set)
{
    sdci_plan *plan = sdci_plan_alloc(b, set->num);

    if (plan == NULL) {
        return NULL;
    }
    bool is_done = sdci_plan_seats(b, plan, set);
    if (is_done) {
        sdci_plan_group(b, plan);
        sdci_plan_weigh(plan);
    }
    for (unsigned group = 0; group < SDCI_GROUPS && is_done && b->desc.subset_size > 0; group++) {
        is_done = sdci_plan_subset(b, plan, group);
    }
    plan->borrows_orders = is_done && sdci_plan_is_alike(plan, b->plan);
    if (plan->borrows_orders) {
        memcpy(plan->orders, b->plan->orders, sizeof plan->orders);
    } else if (is_done) {
        is_done = sdci_plan_order_all(b, plan);
    }
    if (!is_done) {
        sdci_plan_free(b, plan, b->plan);
        return NULL;
    }
    return plan;
}

/* -- The tally, under the balancer's lock -- */

static bool sdci_record_is(const sdci_record *record, uint32_t mark)
{
    return (sdci_atomic_peek(&record->marks) & mark) != 0;
}

/* Seconds of 1024 ms, so that a time fits an atomic number; those never come down again. */
static uint32_t sdci_about_s(uint64_t time_ms)
{
    return (uint32_t)sdci_min(time_ms >> 10, UINT32_MAX);
}

/* When the first of its marks ends. */
static uint64_t sdci_record_due_ms(const sdci_record *record)
{
    return sdci_min(sdci_record_is(record, SDCI_EJECTED) ? record->until_ms : SDCI_FOREVER,
                    sdci_record_is(record, SDCI_YOUNG) ? record->young_until_ms : SDCI_FOREVER);
}

/* Those with marks are in a list, each once. */
static void sdci_record_link(sdc_balancer *b, sdci_record *record, bool on)
{
    if (on) {
        record->next = b->marked;
        record->linked_by = &b->marked;
        b->marked = record;
    } else {
        *record->linked_by = record->next;
    }
    if (record->next != NULL) {
        record->next->linked_by = on ? &record->next : record->linked_by;
    }
    (void)sdci_atomic_add(&b->num_marked, on ? 1 : UINT32_MAX);
}

static void sdci_record_mark(sdc_balancer *b, sdci_record *record, uint32_t mark, bool on)
{
    uint32_t before = sdci_atomic_peek(&record->marks);
    uint32_t after = on ? before | mark : before & ~mark;

    sdci_atomic_poke(&record->marks, after);
    if ((before != 0) != (after != 0)) {
        sdci_record_link(b, record, after != 0);
    }
    uint64_t due_ms = sdci_record_due_ms(record);
    if (on && sdci_about_s(due_ms) < sdci_atomic_peek(&b->due_s)) {
        sdci_atomic_poke(&b->due_s, sdci_about_s(due_ms));
    }
}

/* Into the tally or out of it: the latter before anything of the record changes, the former
   after. */
static void sdci_tally_count(sdci_tally *tally, const sdci_record *record, bool on)
{
    uint32_t one = record->is_listed ? on ? 1 : UINT32_MAX : 0;
    bool is_ejected = sdci_record_is(record, SDCI_EJECTED);
    bool is_home = (record->groups & SDCI_IS_HOME) != 0;
    bool is_usable = (record->groups & SDCI_IS_HEALTHY) != 0 && !is_ejected;
    bool is_ready = is_usable && (record->groups & (SDCI_IN(SDCI_HOME) | SDCI_IN(SDCI_AWAY))) != 0;

    tally->listed += one;
    tally->used += (record->groups & (SDCI_IS_HEALTHY - 1)) != 0 ? one : 0;
    tally->ready += is_ready ? one : 0;
    tally->ready_home += is_ready && is_home ? one : 0;
    tally->usable += is_usable ? one : 0;
    tally->home += is_home ? one : 0;
    tally->usable_home += is_usable && is_home ? one : 0;
    tally->ejected += is_ejected ? one : 0;
}

/* Where picks go by the tally. */
static uint32_t sdci_balancer_find_route(const sdc_balancer *b)
{
    const sdci_tally *tally = &b->tally;
    uint64_t want = (uint64_t)tally->home * b->desc.zone_min_percent;
    uint64_t have = (uint64_t)tally->usable_home * 100;

    if (tally->ready == 0 ||
        (uint64_t)tally->usable * 100 < (uint64_t)tally->listed * b->desc.panic_percent) {
        return SDCI_ROUTE_ALL;
    }
    if (tally->ready_home == 0) {
        return SDCI_ROUTE_AWAY;
    }
    return have >= want || tally->ready == tally->ready_home
               ? 0 : (uint32_t)(SDCI_ROUTE_AWAY - SDCI_ROUTE_AWAY * have / want);
}

static const char *sdci_route_str(uint32_t route)
{
    return route == 0 ? "home" : route < SDCI_ROUTE_AWAY ? "overflow"
         : route == SDCI_ROUTE_AWAY ? "away" : "all";
}

/* Says where picks go, if they went elsewhere when it said so last. */
static void sdci_balancer_log_route(sdc_balancer *b)
{
    sdc_kv fields[4];
    char service[sizeof b->service];
    char usable[32];

    sdci_lock(&b->lock);
    sdci_tally tally = b->tally;
    const char *route = sdci_route_str(sdci_atomic_peek(&b->route));
    bool is_news = tally.listed > 0 && route != sdci_route_str(b->told_route);
    b->told_route = is_news ? sdci_atomic_peek(&b->route) : b->told_route;
    memcpy(service, b->service, sizeof service);
    sdci_unlock(&b->lock);
    if (is_news) {
        (void)snprintf(usable, sizeof usable, "%lu/%lu", (unsigned long)tally.usable,
                       (unsigned long)tally.listed);
        fields[0] = sdci_kv("event", "balancer");
        fields[1] = sdci_kv("service", service);
        fields[2] = sdci_kv("route", route);
        fields[3] = sdci_kv("usable", usable);
        sdci_log(sdci_balancer_client(b), strcmp(route, "home") == 0 ? SDC_LOG_INFO : SDC_LOG_WARN,
                 fields, 4);
    }
}

static void sdci_balancer_reroute(sdc_balancer *b)
{
    sdci_atomic_poke(&b->route, sdci_balancer_find_route(b));
}

/* Takes one out of the tally, changes what it counts, and puts it back in again. */
static void sdci_balancer_set_ejected(sdc_balancer *b, sdci_record *record, bool on)
{
    sdci_tally_count(&b->tally, record, false);
    sdci_record_mark(b, record, SDCI_EJECTED, on);
    sdci_tally_count(&b->tally, record, true);
    if (!on) {
        sdci_atomic_poke(&record->num_failed, 0);
    }
    sdci_balancer_reroute(b);
}

/* So many may be out; one of two in any case. */
static bool sdci_balancer_may_eject(const sdc_balancer *b, uint32_t num)
{
    return (uint64_t)num * 100 <= (uint64_t)b->tally.used * b->desc.eject_max_percent ||
           (num == 1 && b->tally.used > 1);
}

/* The young whose time is over are so no more. Answers an ejected one whose time is over, or one
   too many of a list that has become shorter; NULL: there is none, and the next look is not before
   the first time that ends. */
static sdci_record *sdci_balancer_sweep(sdc_balancer *b, uint64_t now_ms)
{
    bool is_too_many = b->tally.ejected > 0 && !sdci_balancer_may_eject(b, b->tally.ejected);
    uint64_t due_ms = SDCI_FOREVER;
    sdci_record *next;

    for (sdci_record *record = b->marked; record != NULL; record = next) {
        next = record->next;
        if (sdci_record_is(record, SDCI_EJECTED) && (is_too_many || record->until_ms <= now_ms)) {
            return record;
        }
        if (sdci_record_is(record, SDCI_YOUNG) && record->young_until_ms <= now_ms) {
            sdci_record_mark(b, record, SDCI_YOUNG, false);
        }
        due_ms = sdci_min(due_ms, sdci_record_due_ms(record));
    }
    sdci_atomic_poke(&b->due_s, sdci_about_s(due_ms));
    return NULL;
}

/* Ends what is over. The log is written without the lock, when the record may be gone. */
static void sdci_balancer_end_marks(sdc_balancer *b, uint64_t now_ms)
{
    char addr[64];
    char service[64];
    bool is_back = true;

    while (is_back) {
        sdci_lock(&b->lock);
        sdci_record *record = sdci_balancer_sweep(b, now_ms);
        is_back = record != NULL;
        if (is_back) {
            (void)snprintf(addr, sizeof addr, "%s", record->instance->addr);
            (void)snprintf(service, sizeof service, "%s", record->instance->service);
            sdci_balancer_set_ejected(b, record, false);
        }
        sdci_unlock(&b->lock);
        if (is_back) {
            sdci_balancer_log(b, SDC_LOG_INFO, service, addr, "action", "back");
        }
    }
    sdci_balancer_log_route(b);
}

/* Takes no lock before a mark may be over. */
static void sdci_balancer_look(sdc_balancer *b, uint64_t now_ms)
{
    if (sdci_about_s(now_ms) >= sdci_atomic_peek(&b->due_s)) {
        sdci_balancer_end_marks(b, now_ms);
    }
}

/* -- Following -- */

/* What a new plan says of a record. */
static void sdci_balancer_note(sdc_balancer *b, const sdci_plan *plan, uint32_t i, uint64_t now_ms,
                               bool is_late)
{
    sdci_record *record = plan->choices[i].seat->record;
    const sdci_upstream *upstream = sdci_plan_upstream(plan, i);
    bool is_new = record->seen_in == 0;

    record->seen_in = b->num_plans;
    record->place = i;
    sdci_lock(&b->lock);
    sdci_tally_count(&b->tally, record, false);
    record->is_listed = true;
    if (upstream->instance.service[0] != '\0') {
        (void)snprintf(b->service, sizeof b->service, "%s", upstream->instance.service);
    }
    record->instance = &upstream->instance;
    record->groups = plan->groups[i];
    if (is_new && is_late && b->desc.slow_start_ms > 0) {
        record->young_until_ms = now_ms + b->desc.slow_start_ms;
        sdci_record_mark(b, record, SDCI_YOUNG, true);
    }
    sdci_tally_count(&b->tally, record, true);
    sdci_unlock(&b->lock);
}

/* Its endpoint is in the list no more. */
static void sdci_balancer_forget(sdc_balancer *b, sdci_record *record)
{
    sdci_lock(&b->lock);
    if (sdci_record_is(record, SDCI_EJECTED)) {
        sdci_balancer_set_ejected(b, record, false);
    }
    sdci_record_mark(b, record, SDCI_YOUNG, false);
    sdci_tally_count(&b->tally, record, false);
    record->is_listed = false;
    sdci_unlock(&b->lock);
}

/* With least loaded the new plan goes on counting what is in flight. What it counts for a seat that
   took over from another one is not that seat's, so it is taken off there. */
static void sdci_balancer_carry(const sdci_plan *plan, const sdci_record *record, uint32_t place,
                                uint32_t num_picks)
{
    if (place < plan->num && plan->choices[place].seat->record == record) {
        (void)sdci_atomic_sub(&plan->choices[place].seat->holds, num_picks);
        (void)sdci_atomic_add(&plan->loads[place].in_flight, num_picks);
    }
}

/* Of a plan that no shard has any more. */
static uint32_t sdci_plan_num_picks(const sdci_plan *plan, uint32_t i)
{
    uint32_t num_picks = 0;

    if (plan->loads != NULL) {
        return sdci_atomic_get(&plan->loads[i].in_flight);
    }
    for (unsigned s = 0; s < SDCI_SHARDS; s++) {
        num_picks += plan->out[s * plan->stride + i];
    }
    return num_picks;
}

/* Where an upstream of this addr is, or would be. */
static uint32_t sdci_plan_find(const sdci_plan *plan, const char *addr)
{
    uint32_t from = 0;
    uint32_t to = plan->num;

    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (strcmp(plan->choices[middle].instance->addr, addr) < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

/* Where a turn goes on in another plan: at the instance that was next, or the one behind it. Those
   that come and go before it make nobody's turn early or late. */
static uint32_t sdci_plan_turn(const sdci_plan *plan, const sdci_plan *old, unsigned group,
                               uint32_t position)
{
    const sdci_order *order = &plan->orders[group];
    const sdci_order *before = &old->orders[group];
    uint32_t from = 0;
    uint32_t to = (uint32_t)order->num;

    if (before->num == 0) {
        return position;
    }
    position %= (uint32_t)before->num;
    uint32_t place = before->at != NULL ? before->at[position] : position;
    place = sdci_plan_find(plan, old->choices[place].instance->addr);
    while (order->at != NULL && from < to) {
        uint32_t middle = from + (to - from) / 2;
        from = order->at[middle] < place ? middle + 1 : from;
        to = order->at[middle] < place ? to : middle;
    }
    return order->at != NULL ? from : place;
}

/* Gives a plan to every shard. From then on nobody reads the old one, and what was picked by it is
   counted in its seats. */
static void sdci_balancer_switch(sdc_balancer *b, sdci_plan *plan, sdc_err err)
{
    const sdci_plan *old = b->plan;
    bool has_turns = b->desc.policy == SDC_POLICY_ROUND_ROBIN;

    for (unsigned s = 0; s < SDCI_SHARDS; s++) {
        sdci_shard *shard = &b->shards[s].shard;
        sdci_lock(&shard->lock);
        for (unsigned group = 0; group < SDCI_GROUPS && has_turns; group++) {
            shard->positions[group] = sdci_plan_turn(plan, old, group, shard->positions[group]);
        }
        shard->plan = plan;
        shard->home = plan->orders[SDCI_HOME];
        shard->choices = plan->choices;
        shard->loads = plan->loads;
        shard->out = plan->out != NULL ? plan->out + s * plan->stride : NULL;
        shard->err = err;
        sdci_unlock(&shard->lock);
    }
    b->plan = plan;
    for (uint32_t i = 0; i < old->num; i++) {
        uint32_t num_picks = sdci_plan_num_picks(old, i);
        (void)sdci_atomic_add(&old->choices[i].seat->holds, num_picks);
        if (b->desc.policy == SDC_POLICY_LEAST_LOADED) {
            const sdci_record *record = old->choices[i].seat->record;
            sdci_balancer_carry(plan, record, record->place, num_picks);
        }
    }
}

static void sdci_balancer_adopt(sdc_balancer *b, sdci_plan *plan, sdc_err err)
{
    sdci_plan *old = b->plan;
    uint64_t now_ms = sdc_client_now_ms(sdci_balancer_client(b));

    b->num_plans++;
    for (uint32_t i = 0; i < plan->num; i++) {
        sdci_seat *seat = plan->choices[i].seat;
        plan->number = b->num_plans;
        seat->place = i;
        if (seat->since == 0) {         /* else picks may be reading it */
            seat->since = b->num_plans;
        }
        sdci_balancer_note(b, plan, i, now_ms, old->num > 0);
    }
    for (uint32_t i = 0; i < old->num; i++) {
        if (old->choices[i].seat->record->seen_in != b->num_plans) {
            sdci_balancer_forget(b, old->choices[i].seat->record);
        }
    }
    sdci_balancer_switch(b, plan, err);
    sdci_lock(&b->lock);
    sdci_balancer_reroute(b);
    sdci_unlock(&b->lock);
    sdci_balancer_end_marks(b, now_ms);
    if (old != plan) {
        if (plan->borrows_orders) {
            memset(old->orders, 0, sizeof old->orders);
        }
        sdci_plan_free(b, old, plan);
    }
}

static sdc_err sdci_balancer_update(sdc_balancer *b)
{
    sdc_err why;
    sdci_set *set = sdci_endpointer_set(b->endpointer, &why, &b->serial);
    sdci_plan *plan = set->num > 0 ? sdci_plan_new(b, set) : &b->nothing;

    if (plan != NULL) {
        sdci_balancer_adopt(b, plan, why);
    }
    sdci_set_release(b->endpointer, set);
    return plan != NULL ? SDC_OK : SDC_ERR_NOMEM;
}

/* Where another thread is at it, that one's update is this one's too; its error is as well. */
static sdc_err sdci_balancer_follow(sdci_follower *follower)
{
    sdc_balancer *b = sdci_balancer_of(follower);
    sdc_err err = SDC_OK;

    if (sdci_gate_enter(&b->gate)) {
        uint32_t seen;
        do {
            seen = sdci_atomic_get(&b->gate);
            err = sdci_balancer_update(b);
        } while (sdci_gate_again(&b->gate, seen));
    }
    return err;
}

/* -- Picking --

   sdc_balancer_next goes the plain way where it can: a shard, a draw, done. Else it makes a wish,
   for which a group is chosen and drawn from until a draw is accepted; where only such are met that
   are not, all are searched. Retries begin with the wish. */

/* What one pick asks for. */
typedef struct sdci_wish {
    sdci_random *random;            /* the shard's, or the key's own */
    sdci_random key;
    const uint32_t *tried;          /* serials of endpoints that are not wanted again */
    size_t num_tried;
    uint64_t now_ms;                /* only while there are marks */
} sdci_wish;

/* Two threads that met in a shard do so no more: this one moves on to where there is room. Nobody
   waits for a thread that was put to sleep in a shard. */
static SDCI_NOINLINE sdci_shard *sdci_balancer_other_shard(sdc_balancer *b, size_t at)
{
    for (size_t i = 1;; i++) {
        sdci_shard *shard = &b->shards[(at + i) % SDCI_SHARDS].shard;
        if (sdci_try_lock(&shard->lock)) {
            *sdci_thread_byte() += (uint8_t)i;
            return shard;
        }
        if (i > 4 * SDCI_SHARDS) {
            sched_yield();
        }
    }
}

/* This thread's, locked. */
static SDCI_INLINE sdci_shard *sdci_balancer_shard(sdc_balancer *b)
{
    const uint8_t *moved = sdci_thread_byte();
    uint64_t number = (uint64_t)(uintptr_t)moved * 0x9E3779B97F4A7C15u >> 32;
    size_t at = ((size_t)number + *moved) % SDCI_SHARDS;
    sdci_shard *shard = &b->shards[at].shard;

    return sdci_try_lock(&shard->lock) ? shard : sdci_balancer_other_shard(b, at);
}

/* Each shard begins at a place of its own; the first to be used always at the same one for a
   seed. */
static void sdci_shard_start(sdc_balancer *b, sdci_shard *shard)
{
    uint64_t nth = sdci_atomic_add(&b->num_started, 1);

    shard->random.state = sdci_fold(b->seed ^ nth, 0x9E3779B97F4A7C15u) | 1;
    for (unsigned group = 0; group < SDCI_GROUPS; group++) {
        shard->positions[group] = (uint32_t)sdci_random_next(&shard->random);
    }
    shard->drawn = sdci_random_next(&shard->random);
}

static SDCI_INLINE uint32_t sdci_draw_next(sdci_shard *shard, unsigned group, uint32_t num)
{
    uint32_t at = shard->positions[group];

    at = at < num ? at : at % num;      /* a shard's first pick, or the list has become shorter */
    shard->positions[group] = at + 1 < num ? at + 1 : 0;
    return at;
}

static SDCI_INLINE uint32_t sdci_order_place(const sdci_order *order, uint32_t at)
{
    return order->at != NULL ? order->at[at] : at;
}

/* The better of two, which are drawn by weight: fewer calls in flight for its weight. */
static SDCI_INLINE uint32_t sdci_draw_better(const sdci_shard *shard, const sdci_order *order,
                                             uint64_t bits)
{
    const sdci_load *loads = shard->loads;
    uint32_t num = (uint32_t)order->num;
    uint32_t a = sdci_order_place(order, sdci_scaled((uint32_t)(bits >> 32), num));
    uint32_t b = sdci_order_place(order, sdci_scaled((uint32_t)bits, num));

    sdci_prefetch(&shard->choices[a]);
    uint64_t load_a = (uint64_t)sdci_atomic_peek(&loads[a].in_flight) * loads[b].weight;
    uint64_t load_b = (uint64_t)sdci_atomic_peek(&loads[b].in_flight) * loads[a].weight;

    return load_a <= load_b ? a : b;
}

static SDCI_INLINE uint32_t sdci_draw_any(const sdci_order *order, sdci_random *random)
{
    return sdci_order_place(order, sdci_random_below(random, (uint32_t)order->num));
}

static bool sdci_policy_has_turns(sdc_policy policy)
{
    return policy == SDC_POLICY_ROUND_ROBIN || policy == SDC_POLICY_WEIGHTED;
}

/* The place of a choice. */
static uint32_t sdci_draw(sdc_policy policy, sdci_shard *shard, unsigned group,
                          sdci_random *random)
{
    const sdci_order *order = &shard->plan->orders[group];

    if (sdci_policy_has_turns(policy)) {
        return sdci_order_place(order, sdci_draw_next(shard, group, (uint32_t)order->num));
    }
    return policy == SDC_POLICY_LEAST_LOADED
               ? sdci_draw_better(shard, order, sdci_random_next(random))
               : sdci_draw_any(order, random);
}

/* The same at home, for plain picks. Least loaded reads the order at any two places: they are drawn
   one pick ahead, so that what is there is near by then. */
static SDCI_INLINE uint32_t sdci_draw_plain(sdc_policy policy, sdci_shard *shard,
                                            sdci_random *random)
{
    const sdci_order *home = &shard->home;
    uint32_t num = (uint32_t)home->num;

    if (sdci_policy_has_turns(policy)) {
        return sdci_order_place(home, sdci_draw_next(shard, SDCI_HOME, num));
    }
    if (policy != SDC_POLICY_LEAST_LOADED) {
        return sdci_draw_any(home, random);
    }
    uint64_t bits = shard->drawn;
    shard->drawn = sdci_random_next(random);
    if (home->at != NULL) {
        sdci_prefetch(&home->at[sdci_scaled((uint32_t)(shard->drawn >> 32), num)]);
        sdci_prefetch(&home->at[sdci_scaled((uint32_t)shard->drawn, num)]);
    }
    return sdci_draw_better(shard, home, bits);
}

/* 16 bits that say whether a pick goes away. A key's are not one of the numbers that lead to its
   places, so that keys that stay at home are where they are without an overflow. */
static uint32_t sdci_wish_bits(const sdci_wish *wish)
{
    uint64_t bits = wish->random == &wish->key ? sdci_fold(wish->key.state, 0xD6E8FEB86659FD93u)
                                               : sdci_random_next(wish->random);

    return (uint32_t)(bits >> 48);
}

static unsigned sdci_balancer_group(const sdc_balancer *b, const sdci_plan *plan,
                                    const sdci_wish *wish)
{
    uint32_t route = sdci_atomic_peek(&b->route);
    unsigned group = SDCI_HOME;

    if (route == SDCI_ROUTE_ALL) {
        group = SDCI_ALL;
    } else if (route > 0) {
        group = sdci_wish_bits(wish) < route ? SDCI_AWAY : SDCI_HOME;
    }
    while (plan->orders[group].num == 0) {      /* the route is for another plan already */
        group = (group + 1) % SDCI_GROUPS;
    }
    return group;
}

/* A young one is picked in proportion to its age. */
static bool sdci_record_is_up(const sdc_balancer *b, const sdci_record *record,
                              const sdci_wish *wish)
{
    uint32_t span_ms = b->desc.slow_start_ms;
    uint64_t left_ms = record->young_until_ms - sdci_min(record->young_until_ms, wish->now_ms);
    uint64_t age_ms = span_ms - sdci_min(left_ms, span_ms);

    return sdci_random_below(wish->random, span_ms) < sdci_max(age_ms, span_ms / 10);
}

/* `ignored`: marks that do not matter. */
static bool sdci_balancer_accepts(sdc_balancer *b, const sdci_choice *choice,
                                  const sdci_wish *wish, uint32_t ignored)
{
    sdci_record *record = choice->seat->record;
    uint32_t marks = sdci_atomic_peek(&record->marks) & ~ignored;

    for (size_t i = 0; i < wish->num_tried; i++) {
        if (wish->tried[i] == choice->seat->upstream->endpoint->serial) {
            return false;
        }
    }
    if (marks != SDCI_YOUNG) {
        return marks == 0;
    }
    sdci_lock(&b->lock);
    bool is_up = sdci_record_is_up(b, record, wish);
    sdci_unlock(&b->lock);
    return is_up;
}

/* Along the whole plan, from anywhere: one of these groups that is accepted; else `otherwise`. */
static uint32_t sdci_balancer_search(sdc_balancer *b, const sdci_plan *plan, const sdci_wish *wish,
                                     unsigned groups, uint32_t ignored, uint32_t otherwise)
{
    uint32_t from = sdci_random_below(wish->random, plan->num);

    for (uint32_t i = 0; i < plan->num; i++) {
        uint32_t at = (from + i) % plan->num;
        if ((plan->groups[at] & groups) != 0 &&
            sdci_balancer_accepts(b, &plan->choices[at], wish, ignored)) {
            return at;
        }
    }
    return otherwise;
}

/* When draws have met with marks, or endpoints that were tried, alone: one of the group, then of
   any healthy ones, then one that is ejected, but not one that was tried while another is left. */
static uint32_t sdci_balancer_seek(sdc_balancer *b, const sdci_plan *plan, const sdci_wish *wish,
                                   unsigned group, uint32_t drawn)
{
    unsigned own = SDCI_IN(group);
    unsigned healthy = group == SDCI_ALL ? own : SDCI_IN(SDCI_HOME) | SDCI_IN(SDCI_AWAY);
    uint32_t at = sdci_balancer_search(b, plan, wish, own, SDCI_YOUNG, UINT32_MAX);

    if (at == UINT32_MAX) {
        at = sdci_balancer_search(b, plan, wish, healthy, SDCI_YOUNG, UINT32_MAX);
    }
    if (at == UINT32_MAX) {
        at = sdci_balancer_search(b, plan, wish, healthy, SDCI_YOUNG | SDCI_EJECTED, drawn);
    }
    return at;
}

static uint32_t sdci_balancer_choose(sdc_balancer *b, sdci_shard *shard,
                                     const sdci_wish *wish)
{
    const sdci_plan *plan = shard->plan;
    unsigned group = sdci_balancer_group(b, plan, wish);
    uint32_t ignored = group == SDCI_ALL ? SDCI_EJECTED : 0;
    uint32_t at = 0;

    for (unsigned i = 0; i < SDCI_DRAWS; i++) {
        at = sdci_draw(b->desc.policy, shard, group, wish->random);
        if (sdci_balancer_accepts(b, &plan->choices[at], wish, ignored)) {
            return at;
        }
    }
    return sdci_balancer_seek(b, plan, wish, group, at);
}

/* With least loaded the shards have their counts in common. */
static SDCI_INLINE void sdci_shard_count(sdci_shard *shard, sdc_policy policy, size_t place,
                                         uint32_t num)
{
    if (policy == SDC_POLICY_LEAST_LOADED) {
        (void)sdci_atomic_add(&shard->loads[place].in_flight, num);
    } else {
        shard->out[place] += num;
    }
}

/* The last part of a pick: whom it goes to is counted in the shard, which is left. */
static SDCI_INLINE void sdci_shard_pick(sdci_shard *shard, sdc_policy policy, uint32_t at,
                                        sdc_pick *out)
{
    const sdci_choice *choice = &shard->choices[at];

    sdci_shard_count(shard, policy, at, 1);
    out->endpoint = choice->endpoint;
    out->instance = choice->instance;
    out->internal[0] = choice->seat;
    out->internal[1] = (void *)(uintptr_t)at;
    sdci_unlock(&shard->lock);
}

/* Any pick. */
static SDCI_NOINLINE sdc_err sdci_balancer_pick_for(sdc_balancer *b, sdci_wish *wish, sdc_pick *out)
{
    sdci_endpointer_look(b->endpointer);
    if (sdci_atomic_peek(&b->num_marked) != 0) {
        wish->now_ms = sdc_client_now_ms(sdci_balancer_client(b));
        sdci_balancer_look(b, wish->now_ms);
    }
    sdci_shard *shard = sdci_balancer_shard(b);
    if (shard->plan->num == 0) {
        sdc_err err = shard->err;
        sdci_unlock(&shard->lock);
        memset(out, 0, sizeof *out);
        return err;
    }
    if (shard->random.state == 0) {
        sdci_shard_start(b, shard);
    }
    wish->random = wish->random != NULL ? wish->random : &shard->random;
    sdci_shard_pick(shard, b->desc.policy, sdci_balancer_choose(b, shard, wish), out);
    return SDC_OK;
}

/* A key is where a sequence of random numbers begins, which lead to the same places each time. */
static sdci_random sdci_key_random(const sdc_balancer *b, const char *hash_key)
{
    sdci_random random;

    random.state = sdci_hash(hash_key, strlen(hash_key), b->desc.seed);
    return random;
}

static bool sdci_balancer_has_key(const sdc_balancer *b, const char *hash_key)
{
    return hash_key != NULL && b->desc.policy == SDC_POLICY_HASHED;
}

static void sdci_wish_init(sdci_wish *wish, const sdc_balancer *b, const char *hash_key)
{
    memset(wish, 0, sizeof *wish);
    if (sdci_balancer_has_key(b, hash_key)) {
        wish->key = sdci_key_random(b, hash_key);
        wish->random = &wish->key;
    }
}

static SDCI_NOINLINE sdc_err sdci_balancer_pick_any(sdc_balancer *b, const char *hash_key,
                                                   sdc_pick *out)
{
    sdci_wish wish;

    sdci_wish_init(&wish, b, hash_key);
    return sdci_balancer_pick_for(b, &wish, out);
}

/* What most picks are: from the healthy ones at home, no marks, no timers. */
static SDCI_INLINE bool sdci_balancer_is_plain(const sdc_balancer *b, const sdci_shard *shard)
{
    return shard->home.num > 0 && shard->random.state != 0 &&
           sdci_atomic_peek(&b->route) == 0 && sdci_atomic_peek(&b->num_marked) == 0 &&
           sdci_atomic_peek(&b->endpointer->is_awaited) == 0;
}

/* A pick by the plain way if there is one, which does as sdci_balancer_pick_for would. `key`: its
   numbers, or NULL. */
static SDCI_INLINE sdc_err sdci_balancer_pick_plain(sdc_balancer *b, const char *hash_key,
                                                    sdci_random *key, sdc_pick *out)
{
    sdci_shard *shard = sdci_balancer_shard(b);
    sdc_policy policy = b->desc.policy;

    if (!sdci_balancer_is_plain(b, shard)) {
        sdci_unlock(&shard->lock);
        return sdci_balancer_pick_any(b, hash_key, out);
    }
    uint32_t at = sdci_draw_plain(policy, shard, key != NULL ? key : &shard->random);
    sdci_shard_pick(shard, policy, at, out);
    return SDC_OK;
}

static SDCI_NOINLINE sdc_err sdci_balancer_pick_by_key(sdc_balancer *b, const char *hash_key,
                                                      sdc_pick *out)
{
    sdci_random key = sdci_key_random(b, hash_key);

    return sdci_balancer_pick_plain(b, hash_key, &key, out);
}

sdc_err sdc_balancer_next(sdc_balancer *balancer, const char *hash_key, sdc_pick *out)
{
    return sdci_balancer_has_key(balancer, hash_key)
               ? sdci_balancer_pick_by_key(balancer, hash_key, out)
               : sdci_balancer_pick_plain(balancer, hash_key, NULL, out);
}

/* -- Outcomes -- */

/* How long the next ejection is: each eject_ms since the last one has taken one off. */
static uint64_t sdci_record_sentence_ms(const sdc_balancer *b, sdci_record *record, uint64_t now_ms)
{
    uint64_t rest = record->until_ms != 0 ? (now_ms - sdci_min(record->until_ms, now_ms)) /
                                            b->desc.eject_ms : 0;

    record->times -= (uint32_t)sdci_min(rest, record->times);
    record->times += record->times < SDCI_EJECT_TIMES ? 1 : 0;
    return (uint64_t)record->times * b->desc.eject_ms;
}

/* True: it is left out from now on. */
static bool sdci_balancer_eject(sdc_balancer *b, sdci_record *record, uint64_t now_ms)
{
    sdci_lock(&b->lock);
    bool is_ejected = record->is_listed && !sdci_record_is(record, SDCI_EJECTED) &&
                      sdci_balancer_may_eject(b, b->tally.ejected + 1);
    if (is_ejected) {
        record->until_ms = now_ms + sdci_record_sentence_ms(b, record, now_ms);
        sdci_balancer_set_ejected(b, record, true);
    }
    sdci_unlock(&b->lock);
    return is_ejected;
}

static void sdci_balancer_failed(sdc_balancer *b, const sdci_seat *seat, sdc_err outcome)
{
    const sdc_instance *instance = &seat->upstream->instance;

    if (sdci_atomic_add(&seat->record->num_failed, 1) < b->desc.eject_after) {
        return;
    }
    uint64_t now_ms = sdc_client_now_ms(sdci_balancer_client(b));
    sdci_balancer_look(b, now_ms);
    if (sdci_balancer_eject(b, seat->record, now_ms)) {
        sdci_balancer_log(b, SDC_LOG_WARN, instance->service, instance->addr, "ejected",
                          sdc_err_str(outcome));
        sdci_balancer_log_route(b);
    }
}

static SDCI_NOINLINE void sdci_balancer_judge(sdc_balancer *b, const sdci_seat *seat,
                                              sdc_err outcome)
{
    if (outcome == SDC_OK && sdci_atomic_peek(&seat->record->num_failed) != 0) {
        sdci_atomic_poke(&seat->record->num_failed, 0);
    } else if (outcome != SDC_OK && outcome != SDC_AGAIN) {
        sdci_balancer_failed(b, seat, outcome);
    }
}

/* With least loaded: one call less in flight, for a pick that its plan does not count any more, or
   another plan does. It goes to the plan of any shard that is not older than the seat; there is
   one, since the seat was picked in it. */
static void sdci_balancer_uncount(sdc_balancer *b, const sdci_seat *seat)
{
    bool is_counted = false;

    for (unsigned i = 0; i < SDCI_SHARDS && !is_counted; i++) {
        sdci_shard *shard = &b->shards[i].shard;
        sdci_lock(&shard->lock);
        is_counted = shard->plan->number >= seat->since;
        if (is_counted) {
            uint32_t place = sdci_plan_find(shard->plan, seat->upstream->instance.addr);
            sdci_balancer_carry(shard->plan, seat->record, place, UINT32_MAX);
        }
        sdci_unlock(&shard->lock);
    }
}

/* The end of a pick that the plan in this shard does not count. */
static SDCI_NOINLINE void sdci_balancer_let_go(sdc_balancer *b, sdci_seat *seat)
{
    if (b->desc.policy == SDC_POLICY_LEAST_LOADED) {
        sdci_balancer_uncount(b, seat);
    }
    sdci_seat_release(b, seat, 1);
}

void sdc_balancer_done(sdc_balancer *balancer, sdc_pick *pick, sdc_err outcome)
{
    sdci_seat *seat = (sdci_seat *)pick->internal[0];
    size_t place = (size_t)(uintptr_t)pick->internal[1];

    memset(pick, 0, sizeof *pick);
    if (seat == NULL) {
        return;
    }
    if (balancer->desc.eject_after != 0) {
        sdci_balancer_judge(balancer, seat, outcome);
    }
    sdci_shard *shard = sdci_balancer_shard(balancer);
    bool is_there = place < shard->plan->num && shard->choices[place].seat == seat;
    if (is_there) {
        sdci_shard_count(shard, balancer->desc.policy, place, UINT32_MAX);
    }
    sdci_unlock(&shard->lock);
    if (!is_there) {
        sdci_balancer_let_go(balancer, seat);
    }
}

/* -- Create and destroy -- */

static sdc_err sdci_balancer_valid(const sdc_balancer_desc *desc, sdc_error *error)
{
    static const char *const names[] = { "zone_min_percent", "panic_percent",
                                         "eject_max_percent" };
    const uint32_t percents[] = { desc->zone_min_percent, desc->panic_percent,
                                  desc->eject_max_percent };

    if ((unsigned)desc->policy > SDC_POLICY_HASHED) {
        return sdci_fail(error, SDC_ERR_ARG, "policy is none of sdc_policy");
    }
    bool has_meta = !sdci_is_empty(desc->zone_meta);
    if (sdci_is_empty(desc->zone) && (has_meta || desc->zone_min_percent != 0)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s without zone",
                         has_meta ? "zone_meta" : "zone_min_percent");
    }
    if (desc->eject_after == 0 && (desc->eject_ms != 0 || desc->eject_max_percent != 0)) {
        return sdci_fail(error, SDC_ERR_ARG, "%s without eject_after",
                         desc->eject_ms != 0 ? "eject_ms" : "eject_max_percent");
    }
    if (desc->slow_start_ms == SDC_NEVER || desc->eject_ms == SDC_NEVER) {
        return sdci_fail(error, SDC_ERR_ARG, "%s cannot be for ever",
                         desc->slow_start_ms == SDC_NEVER ? "slow_start_ms" : "eject_ms");
    }
    for (size_t i = 0; i < sizeof percents / sizeof percents[0]; i++) {
        if (percents[i] > 100) {
            return sdci_fail(error, SDC_ERR_ARG, "%s is over 100", names[i]);
        }
    }
    return SDC_OK;
}

/* What the desc leaves open. */
static bool sdci_balancer_configure(sdc_balancer *b, const sdc_balancer_desc *desc)
{
    const sdc_client *client = sdci_balancer_client(b);

    b->desc = *desc;
    b->desc.zone = NULL;
    b->desc.zone_meta = NULL;
    b->desc.zone_min_percent = sdci_or(desc->zone_min_percent, 70);
    b->desc.eject_ms = sdci_or(desc->eject_ms, 30000);
    b->desc.eject_max_percent = sdci_or(desc->eject_max_percent, 10);
    b->desc.retry_percent = sdci_or(desc->retry_percent, 20);
    b->seed = desc->seed != 0 ? desc->seed : client->io.random(client->io.user);
    b->random.state = b->seed;
    b->budget.at_ms = sdc_client_now_ms(client);
    b->budget.free_tries = SDCI_FREE_TRIES;
    if (!sdci_is_empty(desc->zone)) {
        b->zone = sdci_copy(&client->allocator, desc->zone);
    }
    if (!sdci_is_empty(desc->zone_meta)) {
        b->zone_meta = sdci_copy(&client->allocator, desc->zone_meta);
    }
    return (b->zone != NULL || sdci_is_empty(desc->zone)) &&
           (b->zone_meta != NULL || sdci_is_empty(desc->zone_meta));
}

static void sdci_balancer_retain(sdci_follower *follower)
{
    (void)sdci_atomic_add(&sdci_balancer_of(follower)->holds, 1);
}

static void sdci_balancer_release(sdci_follower *follower)
{
    sdc_balancer *b = sdci_balancer_of(follower);
    sdc_endpointer *e = b->endpointer;
    const sdc_allocator *allocator = sdci_balancer_allocator(b);

    if (sdci_atomic_sub(&b->holds, 1) != 0) {
        return;
    }
    sdci_plan *plan = b->plan;
    sdci_balancer_switch(b, &b->nothing, SDC_ERR_EMPTY);
    sdci_plan_free(b, plan, &b->nothing);
    bool is_every_pick_done = sdci_atomic_get(&b->num_seats) == 0;
    SDC_ASSERT(is_every_pick_done);
    (void)is_every_pick_done;
    sdci_free_text(allocator, b->zone);
    sdci_free_text(allocator, b->zone_meta);
    sdci_free(allocator, b, sizeof *b);
    sdci_endpointer_release(e);
}

static sdc_balancer *sdci_balancer_new(sdc_endpointer *e, const sdc_balancer_desc *desc)
{
    sdc_balancer *b = (sdc_balancer *)sdci_new(sdci_endpointer_allocator(e), sizeof *b);

    if (b == NULL) {
        return NULL;
    }
    b->follower.follow = sdci_balancer_follow;
    b->follower.retain = sdci_balancer_retain;
    b->follower.release = sdci_balancer_release;
    b->endpointer = sdci_endpointer_retain(e);
    b->holds = 1;
    b->plan = &b->nothing;
    sdci_balancer_switch(b, &b->nothing, SDC_ERR_EMPTY);
    if (!sdci_balancer_configure(b, desc) ||
        sdci_balancer_follow(&b->follower) != SDC_OK) {
        sdci_balancer_release(&b->follower);
        return NULL;
    }
    return b;
}

sdc_err sdc_balancer_create(sdc_endpointer *endpointer, const sdc_balancer_desc *desc,
                            sdc_balancer **out, sdc_error *error)
{
    sdc_balancer_desc defaults;

    *out = NULL;
    sdci_error_clear(error);
    memset(&defaults, 0, sizeof defaults);
    desc = desc != NULL ? desc : &defaults;
    if (endpointer == NULL) {
        return sdci_fail(error, SDC_ERR_ARG, "endpointer is missing");
    }
    sdc_err err = sdci_balancer_valid(desc, error);
    if (err != SDC_OK) {
        return err;
    }
    sdc_balancer *b = sdci_balancer_new(endpointer, desc);
    if (b == NULL) {
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    bool is_newest = sdci_endpointer_join(endpointer, &b->follower, b->serial);
    if (!is_newest && sdci_balancer_follow(&b->follower) != SDC_OK) {
        sdc_balancer_destroy(b);
        return sdci_fail_plain(error, SDC_ERR_NOMEM);
    }
    *out = b;
    return SDC_OK;
}

void sdc_balancer_destroy(sdc_balancer *balancer)
{
    if (balancer != NULL) {
        sdci_endpointer_leave(balancer->endpointer, &balancer->follower);
        sdci_balancer_release(&balancer->follower);
    }
}

/* ---- retry ------------------------------------------------- [sdc:retry] --
   One call, made until it succeeds or there is a reason to give it up. The
   form that blocks is the other one with waits.

        READY --next--> TRYING --ok--> ENDED <--- nothing to pick, out of time
          ^               |              ^
          |             failed           |
          |               v              |
          |             FAILED --next----'  last try, not again, no budget
          |               |
          '---- due ------'  next: paused until then

   ------------------------------------------------------------------------- */

#define SDCI_TRIED_MAX     16u      /* endpoints that a call remembers */
#define SDCI_NAMED         2u       /* tries that a message names */
#define SDCI_FREE_EVERY_MS 100u
#define SDCI_WHY_BYTES     96u
#define SDCI_EARNED_MAX    10000u   /* hundredths: a burst of 100 */

typedef enum sdci_attempt_state {
    SDCI_ATTEMPT_READY = 0,         /* the next try begins when it is due */
    SDCI_ATTEMPT_TRYING,            /* a pick is open */
    SDCI_ATTEMPT_FAILED,            /* whether there is another try is not decided yet */
    SDCI_ATTEMPT_ENDED
} sdci_attempt_state;

typedef struct sdci_named_try {
    sdc_err err;
    char addr[48];                  /* as much of it as there is room for */
} sdci_named_try;

/* What stands in `internal` of an attempt. */
typedef struct sdci_attempt {
    uint64_t deadline_ms;           /* of all tries */
    uint64_t due_ms;                /* of the next one */
    sdci_attempt_state state;
    uint32_t num_tried;             /* so many since all were tried */
    uint32_t tried[SDCI_TRIED_MAX]; /* serials of endpoints, the newest overwrite the oldest */
    sdci_named_try named[SDCI_NAMED];   /* the newest first */
} sdci_attempt;

/* Does not compile where there is too little room. */
typedef char
    sdci_attempt_fits[sizeof(((sdc_attempt *)0)->internal) >= sizeof(sdci_attempt) ? 1 : -1];

static sdci_attempt sdci_attempt_load(const sdc_attempt *attempt)
{
    sdci_attempt a;

    memcpy(&a, attempt->internal, sizeof a);
    return a;
}

static void sdci_attempt_save(sdc_attempt *attempt, const sdci_attempt *a)
{
    memcpy(attempt->internal, a, sizeof *a);
}

/* -- Budget -- */

static void sdci_budget_earn(sdc_balancer *b)
{
    sdci_lock(&b->lock);
    b->budget.earned = (uint32_t)sdci_min((uint64_t)b->budget.earned + b->desc.retry_percent,
                                          SDCI_EARNED_MAX);
    sdci_unlock(&b->lock);
}

/* The free ones grow back at an even pace. */
static void sdci_budget_fill(sdci_budget *budget, uint64_t now_ms)
{
    uint64_t num = (now_ms - sdci_min(budget->at_ms, now_ms)) / SDCI_FREE_EVERY_MS;
    bool is_full = num >= SDCI_FREE_TRIES - budget->free_tries;

    budget->free_tries = is_full ? SDCI_FREE_TRIES : budget->free_tries + (uint32_t)num;
    budget->at_ms = is_full ? now_ms : budget->at_ms + num * SDCI_FREE_EVERY_MS;
}

/* True: one more try beyond the first is paid for. */
static bool sdci_budget_spend(sdc_balancer *b, uint64_t now_ms)
{
    sdci_budget *budget = &b->budget;

    sdci_lock(&b->lock);
    sdci_budget_fill(budget, now_ms);
    bool is_free = budget->free_tries > 0;
    bool is_paid = is_free || budget->earned >= 100;
    budget->free_tries -= is_free ? 1 : 0;
    budget->earned -= is_paid && !is_free ? 100 : 0;
    sdci_unlock(&b->lock);
    return is_paid;
}

/* -- Giving up -- */

/* Ends the call; the message is why, how many tries there were, and how the last ones failed. */
static sdc_err sdci_attempt_end(sdc_attempt *attempt, sdci_attempt *a, sdc_err err, const char *why,
                                sdc_error *error)
{
    const sdci_named_try *last = &a->named[0];
    const sdci_named_try *before = &a->named[1];

    a->state = SDCI_ATTEMPT_ENDED;
    sdci_attempt_save(attempt, a);
    if (attempt->number == 0) {
        return sdci_fail(error, err, "%s", why);
    }
    if (attempt->number == 1) {
        return sdci_fail(error, err, "%s after 1 try: %s (%s)", why, sdc_err_str(last->err),
                         last->addr);
    }
    return sdci_fail(error, err, "%s after %u tries: %s (%s), before that %s (%s)", why,
                     attempt->number, sdc_err_str(last->err), last->addr,
                     sdc_err_str(before->err), before->addr);
}

/* A call that ends while nobody knows how its last try went took too long for its program. */
static sdc_err sdci_attempt_err(const sdci_attempt *a)
{
    return a->named[0].err == SDC_AGAIN ? SDC_ERR_TIMEOUT : a->named[0].err;
}

/* -- One try -- */

static sdc_err sdci_attempt_valid(const sdc_attempt *attempt, sdc_error *error)
{
    const sdc_retry_desc *desc = attempt->desc;

    if (attempt->balancer == NULL || desc == NULL) {
        return sdci_fail(error, SDC_ERR_ARG, "%s is missing", desc == NULL ? "desc" : "balancer");
    }
    return sdci_backoff_valid(desc->backoff_min_ms, desc->backoff_max_ms, error);
}

static uint64_t sdci_attempt_now_ms(const sdc_attempt *attempt)
{
    return sdc_client_now_ms(sdci_balancer_client(attempt->balancer));
}

static uint32_t sdci_attempt_left_ms(const sdc_attempt *attempt, const sdci_attempt *a,
                                     uint64_t now_ms)
{
    uint32_t try_ms = sdci_or(attempt->desc->try_timeout_ms, SDC_NEVER);

    return a->deadline_ms == SDCI_FOREVER
               ? try_ms : (uint32_t)sdci_min(try_ms, a->deadline_ms - now_ms);
}

static size_t sdci_attempt_num_tried(const sdci_attempt *a)
{
    return (size_t)sdci_min(a->num_tried, SDCI_TRIED_MAX);
}

/* Remembers whom a pick goes to. One that was tried before means that none is left: then all may be
   tried once more, but for this one. */
static void sdci_attempt_note(sdci_attempt *a, const sdc_pick *pick)
{
    uint32_t serial = ((const sdci_seat *)pick->internal[0])->upstream->endpoint->serial;

    for (size_t i = 0; i < sdci_attempt_num_tried(a); i++) {
        if (a->tried[i] == serial) {
            a->num_tried = 0;
        }
    }
    a->tried[a->num_tried % SDCI_TRIED_MAX] = serial;
    a->num_tried++;
}

/* For the message of a call that is given up. */
static void sdci_attempt_name(sdci_attempt *a, const sdc_pick *pick, sdc_err outcome)
{
    for (size_t i = SDCI_NAMED; i > 1; i--) {
        a->named[i - 1] = a->named[i - 2];
    }
    a->named[0].err = outcome;
    (void)snprintf(a->named[0].addr, sizeof a->named[0].addr, "%s",
                   pick->instance != NULL ? pick->instance->addr : "?");
}

/* Why there is nothing to pick from. */
static const char *sdci_attempt_nothing(sdc_err err, char why[SDCI_WHY_BYTES])
{
    const char *text = err == SDC_ERR_EMPTY ? "no instance, or none could be opened"
                                            : sdc_err_str(err);

    (void)snprintf(why, SDCI_WHY_BYTES, "nothing to pick from (%s%s)",
                   err == SDC_ERR_EMPTY ? "" : "the source fails: ", text);
    return why;
}

static sdc_err sdci_attempt_begin(sdc_attempt *attempt, sdci_attempt *a, sdc_error *error)
{
    char why[SDCI_WHY_BYTES];
    const sdc_retry_desc *desc = attempt->desc;
    uint64_t now_ms = sdci_attempt_now_ms(attempt);
    sdci_wish wish;

    if (attempt->number == 0) {
        a->deadline_ms = sdci_after(now_ms, sdci_or(desc->timeout_ms, SDC_NEVER));
        sdci_budget_earn(attempt->balancer);
    }
    if (now_ms < a->due_ms) {
        attempt->pause_ms = (uint32_t)(a->due_ms - now_ms);
        return SDC_AGAIN;
    }
    if (now_ms >= a->deadline_ms) {
        return sdci_attempt_end(attempt, a, SDC_ERR_TIMEOUT, "out of time", error);
    }
    sdci_wish_init(&wish, attempt->balancer, desc->hash_key);
    wish.tried = a->tried;
    wish.num_tried = sdci_attempt_num_tried(a);
    sdc_err err = sdci_balancer_pick_for(attempt->balancer, &wish, &attempt->pick);
    if (err != SDC_OK) {
        return sdci_attempt_end(attempt, a, err, sdci_attempt_nothing(err, why), error);
    }
    attempt->number++;
    attempt->left_ms = sdci_attempt_left_ms(attempt, a, now_ms);
    attempt->pause_ms = 0;
    a->state = SDCI_ATTEMPT_TRYING;
    sdci_attempt_note(a, &attempt->pick);
    sdci_attempt_save(attempt, a);
    return SDC_OK;
}

/* Anywhere up to the smallest pause, doubled for each try but the first. */
static uint64_t sdci_attempt_pause_ms(const sdc_attempt *attempt)
{
    sdc_balancer *b = attempt->balancer;
    uint64_t min_ms = sdci_or(attempt->desc->backoff_min_ms, 10);
    uint64_t max_ms = sdci_max(sdci_or(attempt->desc->backoff_max_ms, 1000), min_ms);
    uint64_t span_ms = sdci_doubled(min_ms, max_ms, attempt->number - 1);

    sdci_lock(&b->lock);
    uint64_t pause_ms = sdci_random_upto(&b->random, span_ms);
    sdci_unlock(&b->lock);
    return pause_ms;
}

/* Another try, or the end of the call. */
static sdc_err sdci_attempt_decide(sdc_attempt *attempt, sdci_attempt *a, sdc_error *error)
{
    const sdc_retry_desc *desc = attempt->desc;
    sdc_err last = a->named[0].err;

    if (attempt->number >= sdci_or(desc->max_attempts, 3)) {
        return sdci_attempt_end(attempt, a, sdci_attempt_err(a), "given up", error);
    }
    if (desc->again != NULL && !desc->again(desc->user, attempt->number, last)) {
        return sdci_attempt_end(attempt, a, sdci_attempt_err(a), "not tried again", error);
    }
    uint64_t now_ms = sdci_attempt_now_ms(attempt);
    a->due_ms = now_ms + sdci_attempt_pause_ms(attempt);
    if (a->due_ms >= a->deadline_ms) {
        return sdci_attempt_end(attempt, a, SDC_ERR_TIMEOUT, "out of time", error);
    }
    if (!sdci_budget_spend(attempt->balancer, now_ms)) {
        return sdci_attempt_end(attempt, a, sdci_attempt_err(a), "no budget for retries", error);
    }
    a->state = SDCI_ATTEMPT_READY;
    sdci_attempt_save(attempt, a);
    return sdci_attempt_begin(attempt, a, error);
}

/* -- Without blocking -- */

void sdc_attempt_init(sdc_attempt *attempt, sdc_balancer *balancer, const sdc_retry_desc *desc)
{
    memset(attempt, 0, sizeof *attempt);
    attempt->balancer = balancer;
    attempt->desc = desc;
}

sdc_err sdc_attempt_next(sdc_attempt *attempt, sdc_error *error)
{
    sdci_attempt a = sdci_attempt_load(attempt);

    sdci_error_clear(error);
    sdc_err err = sdci_attempt_valid(attempt, error);
    if (err != SDC_OK) {
        return err;
    }
    switch (a.state) {
    case SDCI_ATTEMPT_READY:  return sdci_attempt_begin(attempt, &a, error);
    case SDCI_ATTEMPT_FAILED: return sdci_attempt_decide(attempt, &a, error);
    case SDCI_ATTEMPT_TRYING: return sdci_fail(error, SDC_ERR_ARG, "the last try is not done");
    case SDCI_ATTEMPT_ENDED:  break;
    }
    return sdci_fail(error, SDC_ERR_ARG, "the call has ended");
}

void sdc_attempt_done(sdc_attempt *attempt, sdc_err outcome)
{
    sdci_attempt a = sdci_attempt_load(attempt);

    SDC_ASSERT(a.state == SDCI_ATTEMPT_TRYING);
    if (a.state == SDCI_ATTEMPT_TRYING) {
        a.state = outcome == SDC_OK ? SDCI_ATTEMPT_ENDED : SDCI_ATTEMPT_FAILED;
        if (outcome != SDC_OK) {
            sdci_attempt_name(&a, &attempt->pick, outcome);
        }
        sdci_attempt_save(attempt, &a);
        sdc_balancer_done(attempt->balancer, &attempt->pick, outcome);
    }
}

void sdc_attempt_deinit(sdc_attempt *attempt)
{
    sdci_attempt a = sdci_attempt_load(attempt);

    if (a.state == SDCI_ATTEMPT_TRYING) {
        sdc_balancer_done(attempt->balancer, &attempt->pick, SDC_AGAIN);
    }
    memset(attempt, 0, sizeof *attempt);
}

/* -- Blocking -- */

/* What io's wait says is not asked for: an attempt that is not due pauses again. */
static void sdci_retry_pause(const sdc_client *client, uint32_t pause_ms)
{
    sdc_wants wants;
    sdc_error ignored;

    memset(&wants, 0, sizeof wants);
    sdci_error_clear(&ignored);
    wants.fd = -1;
    wants.deadline_ms = sdc_client_now_ms(client) + pause_ms;
    wants.timeout_ms = (int)sdci_min(pause_ms, INT32_MAX);
    (void)client->io.wait(client->io.user, NULL, &wants, &ignored);
}

sdc_err sdc_retry(sdc_balancer *balancer, const sdc_retry_desc *desc, sdc_error *error)
{
    sdc_attempt attempt;
    bool is_done = false;

    if (desc == NULL || desc->call == NULL) {
        return sdci_fail(error, SDC_ERR_ARG, "%s is missing", desc == NULL ? "desc" : "call");
    }
    sdc_attempt_init(&attempt, balancer, desc);
    sdc_err err = SDC_OK;
    while (!is_done) {
        err = sdc_attempt_next(&attempt, error);
        if (err == SDC_AGAIN) {
            sdci_retry_pause(sdci_balancer_client(balancer), attempt.pause_ms);
        } else if (err == SDC_OK) {
            err = desc->call(desc->user, &attempt.pick, attempt.left_ms);
            sdc_attempt_done(&attempt, err);
            is_done = err == SDC_OK;
        } else {
            is_done = true;
        }
    }
    sdc_attempt_deinit(&attempt);
    return err;
}

#undef SDCI_AGENTS_MAX
#undef SDCI_BEHIND_MS
#undef SDCI_BID_PACE
#undef SDCI_BID_UNIT
#undef SDCI_BODY_MAX
#undef SDCI_CARRY
#undef SDCI_CHANGE_MS
#undef SDCI_CHECKS_APART
#undef SDCI_CONFIRM_MS
#undef SDCI_DECODER_BYTES
#undef SDCI_DRAWS
#undef SDCI_EARNED_MAX
#undef SDCI_EJECTED
#undef SDCI_EJECT_TIMES
#undef SDCI_ENTRY_ITEMS_MAX
#undef SDCI_ENTRY_TEXT_MAX
#undef SDCI_ESCAPE_MAX
#undef SDCI_FEW_BYTES
#undef SDCI_FIRST_BYTE
#undef SDCI_FIRST_BYTES
#undef SDCI_FOREVER
#undef SDCI_FREE_EVERY_MS
#undef SDCI_FREE_TRIES
#undef SDCI_FULL_EVERY_MS
#undef SDCI_GAP_ACTIONS
#undef SDCI_GAP_BYTES
#undef SDCI_GAP_FULL
#undef SDCI_GAP_NEXT
#undef SDCI_GAP_PATIENCE
#undef SDCI_GAP_SLOTS
#undef SDCI_GAP_TRIALS
#undef SDCI_HTTP_HEAD_MAX
#undef SDCI_IN
#undef SDCI_INLINE
#undef SDCI_IPS_MAX
#undef SDCI_IS_FRESH
#undef SDCI_IS_HEALTHY
#undef SDCI_IS_HOME
#undef SDCI_JSON_DEPTH_MAX
#undef SDCI_JSON_TEXT_MAX
#undef SDCI_KNOWN_MS
#undef SDCI_LANE
#undef SDCI_LARGE_BYTES
#undef SDCI_LEAVE
#undef SDCI_LIST_AHEAD
#undef SDCI_LIST_MAX
#undef SDCI_LIST_RECENT
#undef SDCI_LOOK
#undef SDCI_MINUTE_MS
#undef SDCI_NAMED
#undef SDCI_NAME_MAX
#undef SDCI_NOINLINE
#undef SDCI_OPEN_MAX_MS
#undef SDCI_OPEN_MIN_MS
#undef SDCI_ORDER_MAX
#undef SDCI_OUTPUT_MAX
#undef SDCI_PLAN_HOLDS
#undef SDCI_PRINTF
#undef SDCI_PRINT_LEN
#undef SDCI_READS_FREE
#undef SDCI_READ_AWAIT_MS
#undef SDCI_READ_EVERY_MS
#undef SDCI_READ_SLOWEST_MS
#undef SDCI_RECEIVE_BYTES
#undef SDCI_REPLAY_MAX_MS
#undef SDCI_REPLAY_MS
#undef SDCI_REPLAY_READS
#undef SDCI_REQUEST_KEPT
#undef SDCI_RETRY_AFTER_MAX_S
#undef SDCI_RETRY_MS
#undef SDCI_RETURN_MS
#undef SDCI_ROUTE_ALL
#undef SDCI_ROUTE_AWAY
#undef SDCI_SEND_FLAGS
#undef SDCI_SHARDS
#undef SDCI_SLACK_MS
#undef SDCI_SLOW_RETRY_MS
#undef SDCI_SPARE_MS
#undef SDCI_SPREAD_MS
#undef SDCI_STEP_BYTES
#undef SDCI_STOP_POLL_MS
#undef SDCI_STRIDE
#undef SDCI_TABLE
#undef SDCI_TOKEN_MAX
#undef SDCI_TRIED_MAX
#undef SDCI_TWIN_MAX_MS
#undef SDCI_TWIN_MIN_MS
#undef SDCI_WAIT_GROWS
#undef SDCI_WAIT_LEAST_MS
#undef SDCI_WAIT_MAX_MS
#undef SDCI_WAKER_BITS
#undef SDCI_WHY_BYTES
#undef SDCI_YOUNG

#endif /* SDCONSUL_IMPLEMENTATION */

/* The MIT License

   Copyright (c) 2026 The sdconsul.h authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software
   and associated documentation files (the "Software"), to deal in the Software without
   restriction, including without limitation the rights to use, copy, modify, merge, publish,
   distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
   Software is furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all copies or
   substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
   BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
   NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
   DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
