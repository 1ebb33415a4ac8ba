/* sdconsul.h in the fleet: an instancer for each watch, a client for each client, on an sdc_io
   whose streams are the wires of the model. */
#include "fleet_model.h"
#include "../../sdconsul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OURS_SERVICES = 20, OURS_INSTANCES = 3, OURS_BODY_MAX = 4096,
    OURS_OLD_PORT = 8000, OURS_NEW_PORT = 8001
};

typedef struct ours_watch {
    sdc_instancer *instancer;
    fleet         *f;
    const char    *text;            /* of the answer, what has not been read                  */
    size_t         left;
    bool           is_open, has_ended;
} ours_watch;

typedef struct ours {
    sdc_io       io;
    sdc_allocator allocator;
    sdc_client **clients;
    ours_watch  *watches;
    ours_watch  *stepped;           /* whose stream it is that opens                          */
    char        *answers[OURS_SERVICES][2];     /* of each epoch                              */
    size_t       live_bytes;
} ours;

static const char ours_limit[] =
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: 69\r\n\r\n"
    "rate limit exceeded, try again later or against a different server\r\n\r";

static const char ours_error[] =
    "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: 23\r\n\r\n"
    "No known Consul servers";

static ours *ours_of(const fleet *f)
{
    return (ours *)f->rule;
}

static uint32_t ours_number(const ours_watch *w)
{
    return (uint32_t)(w - ours_of(w->f)->watches);
}

/* ---- the outside world ----------------------------------------------------------------------- */

static uint64_t ours_now_ms(void *user)
{
    return ((fleet *)user)->now_us / 1000;
}

static uint64_t ours_random(void *user)
{
    return fleet_random((fleet *)user);
}

static sdc_err ours_stream_open(void *user, const sdc_target *target, void **stream,
                                sdc_ready *until, sdc_error *error)
{
    fleet *f = (fleet *)user;
    ours_watch *w = ours_of(f)->stepped;

    (void)target;
    (void)until;
    if (!fleet_connect(f, ours_number(w))) {
        (void)snprintf(error->message, sizeof error->message, "Connection refused");
        return SDC_ERR_CONNECT;
    }
    w->is_open = true;
    w->has_ended = false;
    w->left = 0;
    *stream = w;
    return SDC_OK;
}

static sdc_err ours_stream_read(void *user, void *stream, void *bytes, size_t max, size_t *len,
                                sdc_ready *until, sdc_error *error)
{
    ours_watch *w = (ours_watch *)stream;

    (void)user;
    (void)error;
    *len = w->left < max ? w->left : max;
    if (*len == 0 && !w->has_ended) {
        until->fd = (int)ours_number(w);
        until->readable = true;
        return SDC_AGAIN;
    }
    memcpy(bytes, w->text, *len);
    w->text += *len;
    w->left -= *len;
    return SDC_OK;
}

/* The number after "name=" in the first line of a request, or 0. */
static uint64_t ours_parameter(const char *request, const char *name)
{
    const char *end = strchr(request, '\r');
    const char *at = strstr(request, name);

    return at != NULL && at < end ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* Requests are short and come whole. */
static sdc_err ours_stream_write(void *user, void *stream, const void *bytes, size_t len,
                                 size_t *written, sdc_ready *until, sdc_error *error)
{
    ours_watch *w = (ours_watch *)stream;
    char request[1024];

    (void)until;
    (void)error;
    if (len >= sizeof request || len < 4 || memcmp((const char *)bytes + len - 4, "\r\n\r\n", 4)) {
        return SDC_ERR_IO;
    }
    memcpy(request, bytes, len);
    request[len] = '\0';
    *written = len;
    fleet_request((fleet *)user, ours_number(w), ours_parameter(request, "index="),
                  ours_parameter(request, "wait=") * 1000);
    return SDC_OK;
}

static void ours_stream_close(void *user, void *stream)
{
    ours_watch *w = (ours_watch *)stream;

    w->is_open = false;
    fleet_close((fleet *)user, ours_number(w));
}

static void *ours_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    ours *o = (ours *)user;
    void *result = NULL;

    if (new_size == 0) {
        free(ptr);
    } else {
        result = realloc(ptr, new_size);
    }
    if (result != NULL || new_size == 0) {
        o->live_bytes += new_size - old_size;
    }
    return result;
}

/* ---- answers --------------------------------------------------------------------------------- */

static size_t ours_write_instance(char *to, size_t max, uint32_t service, uint32_t nth,
                                  uint32_t port)
{
    int len = snprintf(to, max,
        "%s{\"Node\":{\"ID\":\"6e1b3e4a-5c2d-4f6a-9b7e-%012u\",\"Node\":\"node-%u-%u\","
        "\"Address\":\"10.%u.%u.7\",\"Datacenter\":\"dc1\",\"TaggedAddresses\":"
        "{\"lan\":\"10.%u.%u.7\",\"wan\":\"10.%u.%u.7\"},\"Meta\":{\"consul-network-segment\":\"\","
        "\"consul-version\":\"1.22.7\"},\"CreateIndex\":11,\"ModifyIndex\":14},"
        "\"Service\":{\"ID\":\"service-%u-%u\",\"Service\":\"service-%u\",\"Tags\":[\"v1\"],"
        "\"Address\":\"10.%u.%u.7\",\"Meta\":{\"zone\":\"a\"},\"Port\":%u,"
        "\"Weights\":{\"Passing\":1,\"Warning\":1},\"EnableTagOverride\":false,"
        "\"Proxy\":{\"Mode\":\"\",\"MeshGateway\":{},\"Expose\":{}},\"Connect\":{},"
        "\"PeerName\":\"\",\"CreateIndex\":21,\"ModifyIndex\":21},"
        "\"Checks\":[{\"Node\":\"node-%u-%u\",\"CheckID\":\"service:service-%u-%u\","
        "\"Name\":\"Service check\",\"Status\":\"passing\",\"Notes\":\"\",\"Output\":\"\","
        "\"ServiceID\":\"service-%u-%u\",\"ServiceName\":\"service-%u\",\"ServiceTags\":[\"v1\"],"
        "\"Type\":\"ttl\",\"Interval\":\"\",\"Timeout\":\"\",\"ExposedPort\":0,\"Definition\":{},"
        "\"CreateIndex\":21,\"ModifyIndex\":22}]}",
        nth > 0 ? "," : "", service * 100 + nth, service, nth, service, nth, service, nth, service,
        nth, service, nth, service, service, nth, port, service, nth, service, nth, service, nth,
        service);
    return len > 0 && (size_t)len < max ? (size_t)len : 0;
}

/* The last instance is another one after the restart, by its port. */
static char *ours_make_answer(uint32_t service, uint64_t index, uint32_t last_port)
{
    char body[OURS_BODY_MAX];
    size_t len = 0;
    char *text = (char *)malloc(OURS_BODY_MAX + 512);

    body[len++] = '[';
    for (uint32_t i = 0; i < OURS_INSTANCES; i++) {
        uint32_t port = i + 1 == OURS_INSTANCES ? last_port : OURS_OLD_PORT;
        len += ours_write_instance(body + len, sizeof body - len - 2, service, i, port);
    }
    body[len++] = ']';
    if (text != NULL) {
        (void)snprintf(text, OURS_BODY_MAX + 512,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                       "Vary: Accept-Encoding\r\nX-Consul-Default-Acl-Policy: allow\r\n"
                       "X-Consul-Index: %llu\r\nX-Consul-Knownleader: true\r\n"
                       "X-Consul-Lastcontact: 0\r\nX-Consul-Query-Backend: blocking-query\r\n"
                       "Content-Length: %u\r\n\r\n%.*s",
                       (unsigned long long)index, (unsigned)len, (int)len, body);
    }
    return text;
}

static const char *ours_answer(ours *o, uint32_t service, const fleet_answer *answer,
                               const fleet_desc *desc)
{
    char **text = &o->answers[service][answer->epoch > 0];

    if (answer->status != 200) {
        return answer->status == 429 ? ours_limit : ours_error;
    }
    if (*text == NULL) {
        uint32_t port = desc->no_change || answer->epoch == 0 ? OURS_OLD_PORT : OURS_NEW_PORT;
        *text = ours_make_answer(service, answer->index, port);
    }
    return *text;
}

/* ---- watches --------------------------------------------------------------------------------- */

static uint32_t ours_service(uint32_t watch)
{
    return watch % OURS_SERVICES;
}

static void ours_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    ours_watch *w = (ours_watch *)user;
    const fleet *f = w->f;

    (void)change;
    if (event->err != SDC_OK || event->num_instances != OURS_INSTANCES) {
        return;
    }
    bool is_new = f->desc.no_change
        ? f->began_us != FLEET_NEVER
        : event->instances[OURS_INSTANCES - 1].port == OURS_NEW_PORT;
    if (is_new) {
        fleet_published(w->f, ours_number(w), 1);
    }
}

static void ours_step(fleet *f, uint32_t watch)
{
    ours *o = ours_of(f);
    ours_watch *w = &o->watches[watch];
    sdc_task *task = sdc_instancer_task(w->instancer);
    uint64_t deadline_ms;

    o->stepped = w;
    do {
        (void)sdc_step(task, 0);
        deadline_ms = sdc_task_wants(task).deadline_ms;
    } while (deadline_ms <= f->now_us / 1000);
    fleet_timer(f, watch, deadline_ms == UINT64_MAX ? FLEET_NEVER : deadline_ms * 1000);
}

static void ours_on_answer(fleet *f, uint32_t watch, const fleet_answer *answer)
{
    ours_watch *w = &ours_of(f)->watches[watch];

    w->text = ours_answer(ours_of(f), ours_service(watch), answer, &f->desc);
    w->left = w->text != NULL ? strlen(w->text) : 0;
    ours_step(f, watch);
}

static void ours_on_closed(fleet *f, uint32_t watch, bool was_asking)
{
    (void)was_asking;
    ours_of(f)->watches[watch].has_ended = true;
    ours_step(f, watch);
}

static sdc_client *ours_make_client(fleet *f, uint32_t nth)
{
    ours *o = ours_of(f);
    uint32_t agent = nth / f->desc.clients_per_agent;
    sdc_client_desc desc;
    sdc_client *client = NULL;
    char address[32];

    (void)snprintf(address, sizeof address, "10.0.%u.%u:8500", agent / 250, agent % 250 + 1);
    memset(&desc, 0, sizeof desc);
    desc.address = address;
    desc.ignore_environment = true;
    desc.allocator = &o->allocator;
    desc.io = &o->io;
    (void)sdc_client_create(&desc, &client, NULL);
    return client;
}

static bool ours_make_watch(fleet *f, uint32_t watch)
{
    ours *o = ours_of(f);
    ours_watch *w = &o->watches[watch];
    sdc_instancer_desc desc;
    char service[24];

    (void)snprintf(service, sizeof service, "service-%u", ours_service(watch));
    memset(&desc, 0, sizeof desc);
    desc.query.service = service;
    desc.query.passing_only = true;
    w->f = f;
    return sdc_instancer_create(o->clients[watch / f->desc.watches_per_client], &desc,
                                &w->instancer, NULL) == SDC_OK &&
           sdc_instancer_subscribe(w->instancer, ours_on_event, w) == SDC_OK;
}

static void ours_make_io(fleet *f)
{
    ours *o = ours_of(f);

    o->io.user = f;
    o->io.now_ms = ours_now_ms;
    o->io.random = ours_random;
    o->io.stream_open = ours_stream_open;
    o->io.stream_read = ours_stream_read;
    o->io.stream_write = ours_stream_write;
    o->io.stream_close = ours_stream_close;
    o->allocator.user = o;
    o->allocator.resize = ours_resize;
}

static uint32_t ours_num_clients(const fleet *f)
{
    return f->desc.num_agents * f->desc.clients_per_agent;
}

static bool ours_begin(fleet *f)
{
    ours *o = (ours *)calloc(1, sizeof *o);

    f->rule = o;
    if (o == NULL) {
        return false;
    }
    ours_make_io(f);
    o->clients = (sdc_client **)calloc(ours_num_clients(f), sizeof *o->clients);
    o->watches = (ours_watch *)calloc(f->num_watches, sizeof *o->watches);
    bool is_good = o->clients != NULL && o->watches != NULL;
    for (uint32_t i = 0; is_good && i < ours_num_clients(f); i++) {
        o->clients[i] = ours_make_client(f, i);
        is_good = o->clients[i] != NULL;
    }
    for (uint32_t i = 0; is_good && i < f->num_watches; i++) {
        is_good = ours_make_watch(f, i);
    }
    return is_good;
}

static void ours_end(fleet *f)
{
    ours *o = ours_of(f);

    for (uint32_t i = 0; o != NULL && o->watches != NULL && i < f->num_watches; i++) {
        sdc_instancer_destroy(o->watches[i].instancer);
    }
    for (uint32_t i = 0; o != NULL && o->clients != NULL && i < ours_num_clients(f); i++) {
        sdc_client_destroy(o->clients[i]);
    }
    for (uint32_t i = 0; o != NULL && i < OURS_SERVICES; i++) {
        free(o->answers[i][0]);
        free(o->answers[i][1]);
    }
    if (o != NULL) {
        free(o->clients);
        free(o->watches);
        free(o);
    }
}

static size_t ours_bytes(const fleet *f)
{
    return ours_of(f)->live_bytes;
}

const fleet_ops fleet_ops_ours = {
    ours_begin, ours_on_answer, ours_on_closed, ours_step, ours_bytes, ours_end
};
