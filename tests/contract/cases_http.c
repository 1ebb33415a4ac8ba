/* HTTP itself: framing, connections, paths, and what no endpoint gets to see. */
#include "trial.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEADER "GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n"

/* ---- framing -------------------------------------------------------------------- */

/* One service whose health takes exactly so many bytes: a tag of the right length fills it up. */
static reply *health_of_length(trial *t, size_t want)
{
    char fill[4096];
    memset(fill, 'x', sizeof fill);
    int pad = 1;
    reply *r = NULL;
    for (int i = 0; i < 5; i++) {
        enroll(t, "{'Name':'%s','Port':%d,'Tags':['%.*s']}", t->name, 10 + i, pad, fill);
        r = health_when(t, "0/Service/Port", text(t, "%d", 10 + i));
        if (r->answer.body_len == want) {
            return r;
        }
        long next = pad + (long)want - (long)r->answer.body_len;
        EXPECT(t, next > 0 && next < (long)sizeof fill);
        pad = next > 0 && next < (long)sizeof fill ? (int)next : 1;
    }
    EXPECT(t, r->answer.body_len == want);
    return r;
}

static void body_to_2048_has_a_length(trial *t)
{
    reply *r = health_of_length(t, 2048);
    EXPECT(t, r->answer.framing == WIRE_LENGTH);
    FIELD(r, "Content-Length", "2048");
    FIELD(r, "Transfer-Encoding", NULL);
}

static void body_beyond_2048_is_chunked(trial *t)
{
    reply *r = health_of_length(t, 2049);
    EXPECT(t, r->answer.framing == WIRE_CHUNKED);
    FIELD(r, "Content-Length", NULL);
    FIELD(r, "Transfer-Encoding", "chunked");
    r = health_of_length(t, 3000);
    EXPECT(t, r->answer.framing == WIRE_CHUNKED);
    AT(r, "0/Service/Service", t->name);
}

static void http_1_0_closes(trial *t)
{
    health_of_length(t, 3000);
    reply *r = begin_raw(t, text(t, "GET /v1/health/service/%s HTTP/1.0\r\n\r\n", t->name));
    finish(r);
    STATUS(r, 200);
    EXPECT(t, strncmp(r->answer.head, "HTTP/1.0 200 OK", 15) == 0);
    EXPECT(t, r->answer.framing == WIRE_UNTIL_CLOSE && r->answer.body_len == 3000);
    r = ask_raw(t, "GET /v1/status/leader HTTP/1.0\r\n\r\n");
    EXPECT(t, r->answer.framing == WIRE_LENGTH);
    EXPECT(t, wire_ends(&r->w, 2000));
}

static void http_1_0_keeps_alive_when_asked(trial *t)
{
    reply *r = ask_raw(t, "GET /v1/status/leader HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    STATUS(r, 200);
    FIELD(r, "Connection", "keep-alive");
    EXPECT(t, wire_is_silent(&r->w, 50));
}

static void close_is_honoured(trial *t)
{
    reply *r = ask_raw(t, "GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    STATUS(r, 200);
    FIELD(r, "Connection", "close");
    EXPECT(t, wire_ends(&r->w, 2000));
}

static void kept_alive_after_errors(trial *t)
{
    static const char *const requests[] = {
        "GET /v1/health/service/x?index=bad HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /v1/nope HTTP/1.1\r\nHost: a\r\n\r\n",
        "DELETE /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /v1/health/service//x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /v1/health/service/a%01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT /v1/agent/service/register HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    };
    reply *r = ask_raw(t, LEADER);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        EXPECT(t, wire_send(&r->w, requests[i], strlen(requests[i])));
        r = next_answer(r);
        EXPECT(t, r->answer.status >= 300);
        FIELD(r, "Connection", NULL);
    }
    EXPECT(t, wire_send(&r->w, LEADER, strlen(LEADER)));
    STATUS(next_answer(r), 200);
}

static void pipelining(trial *t)
{
    uint64_t from = wire_now_ms();
    reply *r = ask_raw(t, LEADER "GET /v1/health/service/x?index=18446744073709551615&wait=200ms "
                          "HTTP/1.1\r\nHost: a\r\n\r\n" "GET /v1/nope HTTP/1.1\r\nHost: a\r\n\r\n");
    STATUS(r, 200);
    r = next_answer(r);
    STATUS(r, 200);
    AT(r, "", "[]");
    r = next_answer(r);
    STATUS(r, 404);
    EXPECT(t, wire_now_ms() - from >= 198);
}

static void split_request(trial *t)
{
    static const char body[] = "{\"Name\":\"\"}";
    reply *r = begin_raw(t, "PUT /v1/agent/service/regi");
    EXPECT(t, is_blocked(r, 20));
    static const char rest[] = "ster HTTP/1.1\r\nHost: a\r\ncontent-length:11\r\n\r";
    EXPECT(t, wire_send(&r->w, rest, sizeof rest - 1));
    EXPECT(t, is_blocked(r, 20));
    EXPECT(t, wire_send(&r->w, "\n", 1) && wire_send(&r->w, body, 5));
    EXPECT(t, is_blocked(r, 20));
    EXPECT(t, wire_send(&r->w, body + 5, 6));
    finish(r);
    STATUS(r, 400);
    BODY(r, "Missing service name");
}

static void chunked_request(trial *t)
{
    reply *r = ask_raw(t, "PUT /v1/agent/service/register HTTP/1.1\r\nHost: a\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n"
                          "5\r\n{\"Nam\r\n6;x=y\r\ne\":\"\"}\r\n0\r\n\r\n");
    STATUS(r, 400);
    BODY(r, "Missing service name");
}

static void body_of_a_get_is_ignored(trial *t)
{
    reply *r = ask_raw(t, "GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
                          "abc" LEADER);
    STATUS(r, 200);
    STATUS(next_answer(r), 200);
}

static void head_has_no_body(trial *t)
{
    reply *r = ask_raw(t, "HEAD /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n" LEADER);
    STATUS(r, 405);
    FIELD(r, "Content-Length", "23");
    r = next_answer(r);
    STATUS(r, 200);
}

static void gzip_when_asked(trial *t)
{
    reply *r = ask(t, "GET", "Accept-Encoding: gzip\r\n", "/v1/agent/self");
    STATUS(r, 200);
    FIELD(r, "Content-Encoding", "gzip");
    EXPECT(t, r->answer.body_len > 2 && memcmp(r->answer.body, "\x1F\x8B", 2) == 0);
    r = ask(t, "GET", "Accept-Encoding: gzip\r\n", "/v1/health/service/%s", t->name);
    FIELD(r, "Content-Encoding", PER(t, "gzip", NULL));
}

/* ---- requests that are none --------------------------------------------------------- */

static void broken_requests_close(trial *t)
{
    static const char *const broken[][2] = {
        { "garbage\r\n\r\n", "400 Bad Request" },
        { "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request" },
        { "GET v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request" },
        { "GET /v1/status/leader HTTP/1.1\r\n\r\n",
          "400 Bad Request: missing required Host header" },
        { "GET /v1/health/service/a%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request" },
        { "PUT /v1/agent/check/pass/x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
          "400 Bad Request" },
        { "GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
          "400 Bad Request: invalid header name" }
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        reply *r = ask_raw(t, broken[i][0]);
        STATUS(r, 400);
        BODY(r, "%s", broken[i][1]);
        FIELD(r, "Connection", "close");
        FIELD(r, "Content-Type", "text/plain; charset=utf-8");
        EXPECT(t, r->answer.framing == WIRE_UNTIL_CLOSE);
    }
}

static void unknown_http_version(trial *t)
{
    reply *r = ask_raw(t, "GET /v1/status/leader HTTP/2.0\r\nHost: a\r\n\r\n");
    STATUS(r, PER(t, 400, 505));
    FIELD(r, "Connection", "close");
}

static void head_too_long(trial *t)
{
    enum { LONG_MAX = 1100000 };
    char *long_head = (char *)malloc(LONG_MAX);
    size_t len = (size_t)snprintf(long_head, LONG_MAX, "GET /v1/status/leader?x=");
    memset(long_head + len, 'x', LONG_MAX - len);
    snprintf(long_head + LONG_MAX - 32, 32, " HTTP/1.1\r\nHost: a\r\n\r\n");
    reply *r = ask_raw(t, long_head);
    free(long_head);
    STATUS(r, 431);
    FIELD(r, "Connection", "close");
}

/* ---- paths --------------------------------------------------------------------------- */

static void unknown_paths(trial *t)
{
    reply *r = get(t, "/v1/nope");
    STATUS(r, 404);
    BODY(r, "%s", PER(t, "", "Invalid URL path: not a recognized HTTP API endpoint\n"));
    FIELD(r, "Content-Type", PER(t, NULL, "text/plain; charset=utf-8"));
    FIELD(r, "X-Consul-Default-ACL-Policy", NULL);
    r = get(t, "/v2");
    STATUS(r, 404);
    BODY(r, "%s", PER(t, "", "Invalid URL path: if attempting to use the HTTP API, ensure the path "
                      "starts with '/v1/'\n"));
}

static void redirects(trial *t)
{
    static const char *const moved[][2] = {
        { "//v1/health/service/x", "/v1/health/service/x" },
        { "/v1/health/service//x", "/v1/health/service/x" },
        { "/v1/health/service/../x", "/v1/health/x" },
        { "/v1/health/service/./x", "/v1/health/service/x" },
        { "/v1/health/service/a/..", "/v1/health/service/" },
        { "/v1/health/service", "/v1/health/service/" },
        { "/v1/health/service/a//b?index=5&x=%20y", "/v1/health/service/a/b?index=5&x=%20y" }
    };
    for (size_t i = 0; i < sizeof moved / sizeof moved[0]; i++) {
        reply *r = get(t, "%s", moved[i][0]);
        STATUS(r, PER(t, 301, 307));
        FIELD(r, "Location", moved[i][1]);
        FIELD(r, "Content-Type", "text/html; charset=utf-8");
        BODY_STARTS(r, "<a href=\"/v1/health/");
    }
    reply *r = put(t, "{'Name':'x'}", "/v1/agent/service//register");
    STATUS(r, PER(t, 301, 307));
    FIELD(r, "Location", "/v1/agent/service/register");
    BODY(r, "%s", "");
}

static void encoded_dots_and_slashes(trial *t)
{
    reply *r = get(t, "/v1/health/service/%%2e%%2e/x");
    STATUS(r, PER(t, 301, 200));
    FIELD(r, "Location", PER(t, "/v1/health/x", NULL));
    r = get(t, "/v1/health/service/%%2F%%2Fx");
    STATUS(r, PER(t, 301, 200));
    STATUS(get(t, "/v1/health/service/a%%2Fb"), 200);
    STATUS(get(t, "/v1/health/service/a..b"), 200);
    STATUS(get(t, "/v1/health/service/..."), 200);
}

static void names_that_do_not_print(trial *t)
{
    static const char *const paths[] = { "a%01b", "a%0Ab", "%00", "a%7Fb", "a%C2%A0b", "%E2%80%8B",
                                         "a%C2%85b" };
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        reply *r = get(t, "/v1/health/service/%s", paths[i]);
        STATUS(r, 400);
        BODY(r, "%s", "");
    }
    STATUS(get(t, "/v1/health/service/a%%FFb"), 200);
    STATUS(get(t, "/v1/health/service/%%C3%%A9"), 200);
    STATUS(get(t, "/v1/health/service/a%%20b"), 200);
}

static void a_slash_at_the_end_counts(trial *t)
{
    enroll(t, "{'Name':'%s'}", t->name);
    health_of(t, 1);
    AT(get(t, "/v1/health/service/%s/", t->name), "", "[]");
    STATUS(put(t, NULL, "/v1/agent/service/deregister/%s/", t->name), PER(t, 200, 404));
    health_of(t, 1);
}

static void absolute_target(trial *t)
{
    STATUS(ask_raw(t, "GET http://other:1/v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
}

static void method_is_case_sensitive(trial *t)
{
    reply *r = ask_raw(t, "get /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n");
    STATUS(r, 405);
    BODY(r, "method get not allowed");
}

static void names_of_fields(trial *t)
{
    reply *r = ask_raw(t, "GET /v1/health/service/consul HTTP/1.1\r\nhOST:a\r\n\r\n");
    STATUS(r, 200);
    static const char *const spelled[] = { "X-Consul-Index: ", "X-Consul-Knownleader: ",
                                           "X-Consul-Lastcontact: ", "Content-Type: " };
    for (size_t i = 0; i < sizeof spelled / sizeof spelled[0]; i++) {
        bool is_there = false;
        for (const char *line = r->answer.head; *line != '\0'; line += strlen(line) + 1) {
            is_there = is_there || strncmp(line, spelled[i], strlen(spelled[i])) == 0;
        }
        EXPECT(t, is_there);
    }
    EXPECT(t, wire_field(&r->answer, "Date") != NULL);
}

static void type_of_empty_answers(trial *t)
{
    reply *r = enroll(t, "{'Name':'%s'}", t->name);
    FIELD(r, "Content-Type", PER(t, NULL, "application/json; charset=utf-8"));
    FIELD(r, "X-Consul-Index", NULL);
}

/* ---- the limit of connections ------------------------------------------------------------ */

/* Two hundred from one address; 1.8 hangs up on the next one, 1.22 says why. */
static bool is_refused(trial *t)
{
    static const char words[] = "Your IP is issuing too many concurrent connections, please rate "
                                "limit your calls\n";
    wire more;
    wire_answer a;
    if (!wire_open(&more, t->url)) {
        return false;
    }
    wire_receive(&more, false, 2000, &a);
    bool is = t->is_new ? a.status == 429 && strcmp(a.body, words) == 0
                        : a.status == 0 && strcmp(a.fault, "no answer") == 0;
    wire_answer_free(&a);
    wire_close(&more);
    return is;
}

static bool is_served(trial *t)
{
    wire w;
    wire_answer a;
    if (!wire_open(&w, t->url)) {
        return false;
    }
    wire_send(&w, LEADER, strlen(LEADER));
    wire_receive(&w, false, 2000, &a);
    bool is = a.status == 200;
    wire_answer_free(&a);
    wire_close(&w);
    return is;
}

static void connection_limit(trial *t)
{
    /* One agent at a time: this process holds both ends of an embedded one's connections. */
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    enum { LIMIT = 200 };
    wire held[LIMIT];
    int num_held = 0;
    pthread_mutex_lock(&one);
    while (num_held < LIMIT && wire_open(&held[num_held], t->url)) {
        num_held++;
    }
    EXPECT(t, num_held == LIMIT);
    EXPECT(t, wire_is_silent(&held[0], 50) && wire_is_silent(&held[LIMIT - 1], 0));
    for (int i = 0; i < 3; i++) {
        EXPECT(t, is_refused(t));
    }
    while (num_held > 0) {
        wire_close(&held[--num_held]);
    }
    pthread_mutex_unlock(&one);
    /* The agent learns of the closing a moment later. */
    bool is_over = false;
    for (int i = 0; i < 100 && !is_over; i++) {
        is_over = is_served(t);
    }
    EXPECT(t, is_over);
}

static const contract_case table[] = {
    { "http: a body up to 2048 bytes has a length", body_to_2048_has_a_length, 0 },
    { "http: a longer body is chunked", body_beyond_2048_is_chunked, 0 },
    { "http: 1.0 closes", http_1_0_closes, 0 },
    { "http: 1.0 keeps alive when asked", http_1_0_keeps_alive_when_asked, 0 },
    { "http: Connection: close", close_is_honoured, 0 },
    { "http: kept alive after errors", kept_alive_after_errors, 0 },
    { "http: pipelining", pipelining, 0 },
    { "http: a request in pieces", split_request, 0 },
    { "http: a chunked request", chunked_request, 0 },
    { "http: the body of a GET is ignored", body_of_a_get_is_ignored, 0 },
    { "http: the answer to HEAD has no body", head_has_no_body, 0 },
    { "http: gzip when asked", gzip_when_asked, CASE_REAL },
    { "http: broken requests", broken_requests_close, 0 },
    { "http: unknown version", unknown_http_version, 0 },
    { "http: a head that is too long", head_too_long, CASE_REAL },
    { "http: unknown paths", unknown_paths, 0 },
    { "http: redirects", redirects, 0 },
    { "http: encoded dots and slashes", encoded_dots_and_slashes, 0 },
    { "http: names that do not print", names_that_do_not_print, 0 },
    { "http: a slash at the end counts", a_slash_at_the_end_counts, 0 },
    { "http: an absolute target", absolute_target, 0 },
    { "http: methods are case-sensitive", method_is_case_sensitive, 0 },
    { "http: names of fields", names_of_fields, 0 },
    { "http: type of empty answers", type_of_empty_answers, 0 },
    { "http: the limit of connections", connection_limit, CASE_ALONE }
};

CASES(cases_http, table);
