#include "trial.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ANSWER_MS = 8000, SETTLE_MS = 3000, TARGET_MAX = 8192 };

static void pause_ms(int ms)
{
    struct timespec t = { .tv_nsec = (long)ms * 1000000 };
    nanosleep(&t, NULL);
}

static void give_up(const char *why)
{
    fprintf(stderr, "contract: %s\n", why);
    abort();
}

/* ---- expecting ----------------------------------------------------------- */

static void fail(trial *t, int line, const char *format, ...) TRIAL_PRINTF(3, 4);

static void fail(trial *t, int line, const char *format, ...)
{
    if (t->why[0] != '\0') {
        return;
    }
    size_t len = line > 0 ? (size_t)snprintf(t->why, sizeof t->why, "line %d: ", line) : 0;
    va_list args;
    va_start(args, format);
    vsnprintf(t->why + len, sizeof t->why - len, format, args);
    va_end(args);
}

void trial_expect(trial *t, bool holds, int line, const char *what)
{
    if (!holds) {
        fail(t, line, "does not hold: %s", what);
    }
}

void trial_status(reply *r, int want, int line)
{
    if (r->answer.status == 0) {
        fail(r->of, line, "%s: %s, want status %d", r->asked, r->answer.fault, want);
    } else if (r->answer.status != want) {
        fail(r->of, line, "%s: status %d, want %d; body <%.200s>", r->asked, r->answer.status, want,
             r->answer.body);
    }
}

static void body_is(reply *r, int line, const char *want, size_t len)
{
    if (strlen(want) != len || strncmp(r->answer.body, want, len) != 0) {
        fail(r->of, line, "%s: body <%.200s>, want <%.200s>", r->asked, r->answer.body, want);
    }
}

void trial_body(reply *r, int line, const char *format, ...)
{
    char want[TARGET_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(want, sizeof want, format, args);
    va_end(args);
    body_is(r, line, want, r->answer.body_len);
}

void trial_body_starts(reply *r, int line, const char *format, ...)
{
    char want[TARGET_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(want, sizeof want, format, args);
    va_end(args);
    body_is(r, line, want, strlen(want));
}

void trial_at(reply *r, const char *path, const char *want, int line)
{
    char is[512];
    value_show(value_at(r->json, path), is, sizeof is);
    if (r->answer.status == 0) {
        fail(r->of, line, "%s: %s", r->asked, r->answer.fault);
    } else if (r->json == NULL) {
        fail(r->of, line, "%s: not JSON: <%.200s>", r->asked, r->answer.body);
    } else if (strcmp(is, want) != 0) {
        fail(r->of, line, "%s: %s is <%.200s>, want <%s>", r->asked, path, is, want);
    }
}

void trial_field(reply *r, const char *name, const char *want, int line)
{
    const char *is = wire_field(&r->answer, name);
    if ((is == NULL) != (want == NULL) || (is != NULL && strcmp(is, want) != 0)) {
        fail(r->of, line, "%s: %s is <%s>, want <%s>", r->asked, name, is != NULL ? is : "absent",
             want != NULL ? want : "absent");
    }
}

void trial_took(reply *r, uint64_t low, uint64_t high, int line)
{
    if (r->took_ms < low || r->took_ms > high) {
        fail(r->of, line, "%s: took %u ms, want %u to %u", r->asked, (unsigned)r->took_ms,
             (unsigned)low, (unsigned)high);
    }
}

/* ---- asking -------------------------------------------------------------- */

static reply *new_reply(trial *t)
{
    reply *r = (reply *)calloc(1, sizeof *r);
    if (r == NULL) {
        give_up("out of memory");
    }
    r->of = t;
    r->w.fd = -1;
    r->next = t->replies;
    t->replies = r;
    return r;
}

static void take_answer(reply *r)
{
    bool to_head = strncmp(r->asked, "HEAD ", 5) == 0;
    wire_receive(&r->w, to_head, ANSWER_MS, &r->answer);
    r->took_ms = r->answer.at_ms - r->sent_ms;
    r->json = value_read(r->answer.body, r->answer.body_len);
}

static reply *send_raw(trial *t, const char *asked, const char *bytes, size_t len)
{
    reply *r = new_reply(t);
    snprintf(r->asked, sizeof r->asked, "%s", asked);
    r->asked[strcspn(r->asked, "\r\n")] = '\0';
    bool is_open = wire_open(&r->w, t->url);
    r->sent_ms = wire_now_ms();
    if (!is_open || !wire_send(&r->w, bytes, len)) {
        fail(t, 0, "%s: cannot %s %s", r->asked, is_open ? "send to" : "connect to", t->url);
    }
    return r;
}

reply *begin_raw(trial *t, const char *bytes)
{
    return send_raw(t, bytes, bytes, strlen(bytes));
}

reply *ask_raw(trial *t, const char *bytes)
{
    reply *r = begin_raw(t, bytes);
    take_answer(r);
    return r;
}

/* The request as bytes; a body is sent with ' turned into ". */
static reply *send_request(trial *t, const char *method, const char *fields, const char *body,
                           const char *format, va_list args)
{
    static const char head[] = "%s %s HTTP/1.1\r\nHost: agent\r\n%s%s%s%s"
                               "Content-Length: %zu\r\n\r\n";
    char target[TARGET_MAX], asked[256];
    vsnprintf(target, sizeof target, format, args);
    size_t body_len = body != NULL ? strlen(body) : 0;
    size_t max = sizeof head + strlen(method) + strlen(target) + strlen(fields) + body_len + 256;
    char *bytes = (char *)malloc(max);
    if (bytes == NULL) {
        give_up("out of memory");
    }
    bool has_token = t->token != NULL;
    size_t head_len = (size_t)snprintf(bytes, max, head, method, target,
                                       has_token ? "X-Consul-Token: " : "",
                                       has_token ? t->token : "", has_token ? "\r\n" : "", fields,
                                       body_len);
    for (size_t i = 0; i < body_len; i++) {
        bytes[head_len + i] = body[i] == '\'' ? '"' : body[i];
    }
    snprintf(asked, sizeof asked, "%s %.120s %.100s", method, target, body != NULL ? body : "");
    reply *r = send_raw(t, asked, bytes, head_len + body_len);
    free(bytes);
    return r;
}

reply *get(trial *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    reply *r = send_request(t, "GET", "", NULL, format, args);
    va_end(args);
    finish(r);
    return r;
}

reply *put(trial *t, const char *body, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    reply *r = send_request(t, "PUT", "", body, format, args);
    va_end(args);
    finish(r);
    return r;
}

reply *ask(trial *t, const char *method, const char *fields, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    reply *r = send_request(t, method, fields, NULL, format, args);
    va_end(args);
    finish(r);
    return r;
}

reply *begin(trial *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    reply *r = send_request(t, "GET", "", NULL, format, args);
    va_end(args);
    return r;
}

bool is_blocked(reply *r, int ms)
{
    return wire_is_silent(&r->w, ms);
}

void finish(reply *r)
{
    take_answer(r);
    wire_close(&r->w);
}

reply *next_answer(reply *r)
{
    reply *next = new_reply(r->of);
    snprintf(next->asked, sizeof next->asked, "next after %.200s", r->asked);
    next->sent_ms = wire_now_ms();
    next->w = r->w;
    memset(&r->w, 0, sizeof r->w);
    r->w.fd = -1;
    take_answer(next);
    return next;
}

/* ---- the usual requests -------------------------------------------------- */

static void remember(trial *t, const char *body)
{
    char *json = strdup(body);
    char id[256];
    if (json == NULL || t->num_registered == sizeof t->registered / sizeof t->registered[0]) {
        give_up("a case registers too many services");
    }
    for (char *c = json; *c != '\0'; c++) {
        *c = *c == '\'' ? '"' : *c;
    }
    value *v = value_read(json, strlen(json));
    const value *named = value_at(v, "ID");
    value_show(named->kind == VALUE_STRING ? named : value_at(v, "Name"), id, sizeof id);
    t->registered[t->num_registered++] = strdup(id);
    value_free(v);
    free(json);
}

reply *enroll(trial *t, const char *format, ...)
{
    char body[TARGET_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(body, sizeof body, format, args);
    va_end(args);
    reply *r = put(t, body, "/v1/agent/service/register");
    if (r->answer.status != 200) {
        fail(t, 0, "cannot register %.200s: %d %s <%.100s>", body, r->answer.status,
             r->answer.fault, r->answer.body);
    }
    remember(t, body);
    return r;
}

reply *deregister(trial *t, const char *id)
{
    return put(t, NULL, "/v1/agent/service/deregister/%s", id);
}

reply *beat(trial *t, const char *verb)
{
    return put(t, NULL, "/v1/agent/check/%s/service:%s", verb, t->name);
}

static reply *health_until(trial *t, const char *path, const char *want, size_t num_instances)
{
    uint64_t deadline = wire_now_ms() + SETTLE_MS;
    char is[512];
    for (;;) {
        reply *r = get(t, "/v1/health/service/%s", t->name);
        value_show(value_at(r->json, path), is, sizeof is);
        bool is_so = want != NULL ? strcmp(is, want) == 0
                                  : r->json != NULL && value_count(r->json) == num_instances;
        if (is_so || wire_now_ms() > deadline) {
            if (!is_so) {
                fail(t, 0, "the health of %s never has %s %s: <%.300s>", t->name,
                     want != NULL ? path : "so many instances:", want != NULL ? want : "",
                     r->answer.body);
            }
            return r;
        }
        pause_ms(5);
    }
}

reply *health_when(trial *t, const char *path, const char *want)
{
    return health_until(t, path, want, 0);
}

reply *health_of(trial *t, size_t num_instances)
{
    return health_until(t, "", NULL, num_instances);
}

const char *text(trial *t, const char *format, ...)
{
    char buf[TARGET_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(buf, sizeof buf, format, args);
    va_end(args);
    char *own = strdup(buf);
    if (own == NULL || t->num_texts == sizeof t->texts / sizeof t->texts[0]) {
        give_up("a case makes too many texts");
    }
    t->texts[t->num_texts++] = own;
    return own;
}

const char *no_such_service(trial *t, const char *id)
{
    return text(t, "Unknown service ID \"%s\". Ensure that the service ID is passed, not the "
                   "service name.", id);
}

const char *no_such_check(trial *t, const char *id)
{
    return text(t, "Unknown check ID \"%s\". Ensure that the check ID is passed, not the "
                   "check name.", id);
}

uint64_t index_of(reply *r)
{
    const char *index = wire_field(&r->answer, "X-Consul-Index");
    if (index == NULL || *index == '\0' || strspn(index, "0123456789") != strlen(index)) {
        fail(r->of, 0, "%s: no index; status %d %s", r->asked, r->answer.status, r->answer.fault);
        return 0;
    }
    return strtoull(index, NULL, 10);
}

void trial_begin(trial *t, const char *name)
{
    t->name = name;
}

void trial_end(trial *t)
{
    for (size_t i = 0; i < t->num_registered; i++) {
        deregister(t, t->registered[i]);
        free(t->registered[i]);
    }
    while (t->num_texts > 0) {
        free(t->texts[--t->num_texts]);
    }
    while (t->replies != NULL) {
        reply *r = t->replies;
        t->replies = r->next;
        wire_close(&r->w);
        wire_answer_free(&r->answer);
        value_free(r->json);
        free(r);
    }
}
