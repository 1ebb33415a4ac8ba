/* A scripted HTTP server in the simulated world: the "fake" of the checklist. It parses and
   keeps each request, and answers it with the next step of a list that the test wrote.

       world *w = world_create(NULL);
       script *s = script_create(w, "10.0.0.1", 8500);
       script_health(s, 100, SCRIPT_LIST(s, {.id = "web-1", .address = "10.1.0.1", .port = 80}));
       script_delay(s, 2000);
       script_error(s, 500, "No cluster leader");
       script_health(s, 50, "[]");
       script_hold(s);                              for this and all later requests
       ...
       CHECK_STR(script_query(script_nth(s, 1), "index"), "100");
       world_destroy(w);                            frees the script too

   When the list is used up its last step goes on being used. A request for which there is no
   step at all is a failed check, and is answered by 404.

   Each request is checked for what holds for all of them: CRLF lines, one Host, a valid target
   without bytes that need escaping, no control characters, at most one Content-Length, no
   second request before the first one's answer, no token in the URL. */
#ifndef SCRIPT_H
#define SCRIPT_H

#include "test.h"
#include "world.h"

typedef struct script script;

typedef struct script_pair {
    const char *key, *value;
} script_pair;

/* ---- requests -------------------------------------------------------------------------------- */

typedef struct script_request {
    script      *script;
    world_conn  *conn;
    size_t       number;            /* in the script, from 0                                  */
    uint64_t     at_ms;             /* when it was there, whole                               */
    uint64_t     answered_ms;       /* when its answer was sent, or its connection ended; 0   */
    const char  *head;              /* all of it as it came, without the empty line           */
    const char  *method;
    const char  *target;            /* as it came: path and query                             */
    const char  *raw_path;          /* as it came                                             */
    const char  *path;              /* decoded                                                */
    const char  *raw_query;         /* as it came, without the question mark; "" none         */
    script_pair *params;            /* decoded, in order; a bare one has the value ""         */
    size_t       num_params;
    script_pair *headers;           /* in order; names as they came                           */
    size_t       num_headers;
    const char  *body;              /* ends in NUL beyond its length                          */
    size_t       body_len;
} script_request;

/* Requests stay valid until world_destroy. */
size_t                script_num_requests(const script *s);
const script_request *script_nth(const script *s, size_t nth);      /* NULL: not so many          */
const script_request *script_last(const script *s);                 /* NULL: none                 */
/* Those whose "METHOD /path" begins so: script_count(s, "PUT /v1/agent/check/"). */
size_t                script_count(const script *s, const char *start);
const script_request *script_nth_of(const script *s, const char *start, size_t nth);

/* NULL: not there (or no request). The names of headers are compared without case. */
const char *script_query(const script_request *r, const char *key);
const char *script_query_nth(const script_request *r, const char *key, size_t nth);
const char *script_header(const script_request *r, const char *name);
/* The wait= of the query in milliseconds; 0 when there is none. */
uint64_t    script_wait_ms(const script_request *r);

/* ---- steps ----------------------------------------------------------------------------------- */

/* At an address of the world; a path for a unix socket. Belongs to the world. */
script *script_create(world *w, const char *ip, uint16_t port);

/* Steps that follow are for requests that begin so ("PUT /v1/agent/", "GET "); NULL: for all
   others, as at first. The longest one that fits is taken. Choosing one again adds to it. */
void script_on(script *s, const char *start);

/* headers is NULL or whole lines "Name: value\r\n". Content-Length is added, and the connection
   is kept, unless headers say "Connection: close" or the request did. */
void script_reply(script *s, int status, const char *headers, const char *body);
void script_reply_bytes(script *s, int status, const char *headers, const void *body, size_t len);
/* As a healthy agent answers a health query that asked it for the leader's view: all the usual
   headers, chunks when the body is over 2 KiB. streamed: with those of the streaming backend. */
void script_health(script *s, uint64_t index, const char *body);
void script_streamed(script *s, uint64_t index, const char *body);
void script_ok(script *s);                                      /* 200, empty: PUTs           */
void script_error(script *s, int status, const char *text);     /* text/plain                 */
void script_raw(script *s, const char *text);                   /* these bytes and no others  */
void script_raw_bytes(script *s, const void *bytes, size_t len);
void script_close(script *s);                       /* ends the connection without an answer  */
void script_reset(script *s);
void script_hang(script *s);                        /* never answers                          */
/* Answers when the query's wait= is over (5 min without one; at once without an index) with the
   current answer: the newest 200 of this list that was given, or the one of script_change. */
void script_hold(script *s);
/* fn answers, now or later, by script_answer and so on. */
typedef void (*script_fn)(void *user, script_request *request);
void script_call(script *s, script_fn fn, void *user);

/* Said before a step, for that step alone. */
void script_delay(script *s, uint32_t ms);          /* before the answer; on top of a hold        */
void script_chunked(script *s, size_t chunk_bytes); /* this size of chunks, whatever the size     */
void script_until_close(script *s);                 /* no length: the body ends with the stream   */
void script_times(script *s, size_t times);         /* the step is used so often                  */
void script_then_close(script *s);                  /* ends the connection behind the answer ...  */
void script_then_reset(script *s);                  /* ... without having announced it            */

/* The world behind a hold changes: this is the current answer, and each held request gets it. */
void   script_change(script *s, uint64_t index, const char *body);
size_t script_num_held(const script *s);

/* Forgets the steps that are left, of all lists; what is held or delayed stays so. */
void script_clear(script *s);

/* The next num connections get these bytes as soon as they are accepted, before any request, and
   then end: in order, by a reset, or not at all. */
typedef enum script_end { SCRIPT_KEEPS = 0, SCRIPT_CLOSES, SCRIPT_RESETS } script_end;
void script_greet(script *s, size_t num, const char *bytes, script_end end);

/* Dead: refuses, and all connections are closed in order. */
void script_set_down(script *s, bool is_down);

/* ---- answers of one's own -------------------------------------------------------------------- */

void script_answer(script_request *r, int status, const char *headers, const char *body);
void script_answer_later(script_request *r, uint32_t ms, int status, const char *headers,
                         const char *body);
void script_answer_raw(script_request *r, const void *bytes, size_t len);
/* The headers of script_health. Valid until the next call. */
const char *script_health_headers(script *s, uint64_t index);

/* ---- bodies ---------------------------------------------------------------------------------- */

typedef struct script_text {        /* zero is empty; free by script_text_deinit              */
    char  *text;                    /* never NULL after the first call                        */
    size_t len, cap;
} script_text;

void script_text_deinit(script_text *t);
void script_printf(script_text *t, const char *format, ...) TEST_PRINTF(2, 3);
void script_add(script_text *t, const void *bytes, size_t len);
void script_json(script_text *t, const char *text);         /* a JSON string, quotes included */

/* One entry of a health answer. A zero means what stands in brackets. */
typedef struct script_instance {
    const char *node;               /* ("node-1")                                             */
    const char *node_address;       /* ("127.0.0.1")                                          */
    const char *node_meta;          /* members: "\"rack\":\"r1\""              (none)         */
    const char *datacenter;         /* ("dc1")                                                */
    const char *id;                 /* (the service's name)                                   */
    const char *service;            /* ("web")                                                */
    const char *address;            /* ("", as an agent writes it that was given none)        */
    int         port;               /* 0 is left out, as Consul 1.22 does                     */
    const char *tags;               /* by comma                                (none)         */
    const char *meta;               /* members: "\"version\":\"2\""            (null)         */
    const char *status;             /* of the service's check; "none": it has none (passing)  */
    const char *node_status;        /* of serfHealth; "none": it has none      (passing)      */
    int         weight_passing;     /* both weights 0: both 1                                 */
    int         weight_warning;
    const char *service_members;    /* further ones of Service: "\"SocketPath\":\"/s\"" (none) */
    uint64_t    index;              /* CreateIndex and ModifyIndex             (10)           */
} script_instance;

void script_entry_of(script_text *t, const script_instance *instance);
void script_list_of(script_text *t, const script_instance *list, size_t num);
/* The short form; tags by comma. Puts a comma in front when it is not the first in its array. */
void script_entry(script_text *t, const char *node, const char *id, const char *address, int port,
                  const char *tags, const char *status);

/* Texts that belong to the script. */
const char *script_list(script *s, const script_instance *list, size_t num);
#define SCRIPT_LIST(s, ...)                                                          \
    script_list((s), (const script_instance[]){ __VA_ARGS__ },                       \
                sizeof((const script_instance[]){ __VA_ARGS__ }) / sizeof(script_instance))
/* num instances web-FROM, web-FROM+1, ... at 10.a.b.c:8000, all passing. */
const char *script_many(script *s, size_t from, size_t num);

#endif
