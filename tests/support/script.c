/* The scripted HTTP server behind script.h. */
#include "script.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SCRIPT_LENGTH_MAX = 2048, SCRIPT_DEFAULT_WAIT_MS = 300000 };

/* ---- types ----------------------------------------------------------------------------------- */

typedef enum script_kind {
    SCRIPT_REPLY, SCRIPT_RAW, SCRIPT_END, SCRIPT_HANG, SCRIPT_HOLD, SCRIPT_CALL
} script_kind;

typedef struct script_step {
    script_kind kind;
    int         status;
    char       *headers;
    char       *bytes;              /* the body, or what is sent verbatim                     */
    size_t      len;
    uint64_t    index;              /* of a health answer                                     */
    script_fn   fn;
    void       *user;
    uint32_t    delay_ms;
    size_t      chunk_bytes;
    bool        is_until_close;
    size_t      times;
    script_end  end;
} script_step;

typedef struct script_route {
    char         *start;
    script_step **steps;
    size_t        num_steps;
    size_t        next;             /* the step for the next request                          */
    size_t        used;             /* how often that one was used                            */
    const script_step *current;     /* what a hold answers                                    */
} script_route;

typedef struct script_conn {
    struct script_conn *next;
    script            *owner;
    world_conn        *conn;
    script_text        in;
    script_request    *request;     /* that waits for its answer                              */
} script_conn;

/* What stands behind a script_request. */
typedef struct script_job {
    script_request     r;           /* first: a request's address is its job's                */
    script_conn       *sc;
    script_route      *route;
    const script_step *step;
    uint64_t           event;
    bool               is_held, is_done;
    struct script_later *later;
} script_job;

typedef struct script_later {       /* of script_answer_later                                 */
    int   status;
    char *headers, *body;
} script_later;

struct script {
    world          *w;
    char           *ip;
    uint16_t        port;
    script_job    **jobs;
    size_t          num_jobs;
    script_route  **routes;         /* [0] is the one for all others                          */
    size_t          num_routes;
    size_t          selected;
    script_step     next;           /* what was said before the next step                     */
    script_conn    *conns;
    script_step   **strays;         /* steps of script_change, which stand in no list         */
    size_t          num_strays;
    char          **texts;
    size_t          num_texts;
    script_text     health_headers;
    size_t          num_greets;
    char           *greeting;
    script_end      greet_end;
};

/* ---- text ------------------------------------------------------------------------------------ */

static void *script_alloc(size_t size)
{
    void *p = calloc(1, size > 0 ? size : 1);
    if (p == NULL) {
        abort();
    }
    return p;
}

static void *script_grow(void *old, size_t size)
{
    void *p = realloc(old, size);
    if (p == NULL) {
        abort();
    }
    return p;
}

static char *script_copy(const void *bytes, size_t len)
{
    char *copy = (char *)script_alloc(len + 1);
    if (len > 0) {
        memcpy(copy, bytes, len);
    }
    return copy;
}

/* What is handed out as const belongs to the script all the same. */
static void script_free(const char *text)
{
    union {
        const char *given;
        char       *owned;
    } both;
    both.given = text;
    free(both.owned);
}

void script_text_deinit(script_text *t)
{
    free(t->text);
    memset(t, 0, sizeof *t);
}

void script_add(script_text *t, const void *bytes, size_t len)
{
    if (t->len + len + 1 > t->cap) {
        t->cap = (t->len + len + 1) * 2;
        t->text = (char *)script_grow(t->text, t->cap);
    }
    if (len > 0) {
        memcpy(t->text + t->len, bytes, len);
    }
    t->len += len;
    t->text[t->len] = '\0';
}

static void script_add_str(script_text *t, const char *text)
{
    script_add(t, text, strlen(text));
}

void script_printf(script_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int len = format != NULL ? vsnprintf(NULL, 0, format, args) : -1;
    va_end(args);
    if (len < 0) {
        abort();
    }
    char *text = (char *)script_alloc((size_t)len + 1);
    vsnprintf(text, (size_t)len + 1, format, again);
    va_end(again);
    script_add(t, text, (size_t)len);
    free(text);
}

/* Escapes as Go does, which writes Consul's answers. */
void script_json(script_text *t, const char *text)
{
    script_add_str(t, "\"");
    for (const char *c = text; *c != '\0'; c++) {
        unsigned char byte = (unsigned char)*c;
        if (byte == '"' || byte == '\\') {
            script_printf(t, "\\%c", byte);
        } else if (byte == '\n') {
            script_add_str(t, "\\n");
        } else if (byte < 0x20 || byte == '<' || byte == '>' || byte == '&') {
            script_printf(t, "\\u%04x", byte);
        } else {
            script_add(t, c, 1);
        }
    }
    script_add_str(t, "\"");
}

/* ---- steps ----------------------------------------------------------------------------------- */

static script_route *script_selected(script *s)
{
    return s->routes[s->selected];
}

static script_step *script_make(script *s, script_kind kind)
{
    script_step *step = (script_step *)script_alloc(sizeof *step);
    *step = s->next;
    memset(&s->next, 0, sizeof s->next);
    s->next.times = 1;
    step->kind = kind;
    step->headers = script_copy("", 0);
    step->bytes = script_copy("", 0);
    return step;
}

static script_step *script_step_add(script *s, script_kind kind)
{
    script_route *route = script_selected(s);
    script_step *step = script_make(s, kind);
    route->steps = (script_step **)script_grow(route->steps,
                                               (route->num_steps + 1) * sizeof(script_step *));
    route->steps[route->num_steps++] = step;
    return step;
}

static void script_step_set(script_step *step, int status, const char *headers, const void *bytes,
                            size_t len)
{
    free(step->headers);
    free(step->bytes);
    step->status = status;
    step->headers = script_copy(headers != NULL ? headers : "",
                                headers != NULL ? strlen(headers) : 0);
    step->bytes = script_copy(bytes, len);
    step->len = len;
}

static void script_step_free(script_step *step)
{
    free(step->headers);
    free(step->bytes);
    free(step);
}

void script_on(script *s, const char *start)
{
    const char *text = start != NULL ? start : "";
    for (size_t i = 0; i < s->num_routes; i++) {
        if (strcmp(s->routes[i]->start, text) == 0) {
            s->selected = i;
            return;
        }
    }
    script_route *route = (script_route *)script_alloc(sizeof *route);
    route->start = script_copy(text, strlen(text));
    s->routes = (script_route **)script_grow(s->routes, (s->num_routes + 1) * sizeof route);
    s->selected = s->num_routes;
    s->routes[s->num_routes++] = route;
}

void script_reply_bytes(script *s, int status, const char *headers, const void *body, size_t len)
{
    script_step_set(script_step_add(s, SCRIPT_REPLY), status, headers, body, len);
}

void script_reply(script *s, int status, const char *headers, const char *body)
{
    script_reply_bytes(s, status, headers, body, strlen(body));
}

static const char *script_headers_for(script *s, uint64_t index, bool is_streamed)
{
    script_text *t = &s->health_headers;
    t->len = 0;
    script_add_str(t, "Content-Type: application/json\r\nVary: Accept-Encoding\r\n"
                      "X-Consul-Default-Acl-Policy: allow\r\n");
    if (!is_streamed) {
        script_add_str(t, "X-Consul-Effective-Consistency: leader\r\n");
    }
    script_printf(t, "X-Consul-Index: %llu\r\nX-Consul-Knownleader: %s\r\n"
                     "X-Consul-Lastcontact: 0\r\nX-Consul-Query-Backend: %s\r\n",
                  (unsigned long long)index, is_streamed ? "false" : "true",
                  is_streamed ? "streaming" : "blocking-query");
    return t->text;
}

const char *script_health_headers(script *s, uint64_t index)
{
    return script_headers_for(s, index, false);
}

static void script_step_health(script *s, script_step *step, uint64_t index, const char *body,
                               bool is_streamed)
{
    size_t len = strlen(body);
    script_step_set(step, 200, script_headers_for(s, index, is_streamed), body, len);
    step->index = index;
    if (step->chunk_bytes == 0 && !step->is_until_close && len > SCRIPT_LENGTH_MAX) {
        step->chunk_bytes = SCRIPT_LENGTH_MAX;
    }
}

void script_health(script *s, uint64_t index, const char *body)
{
    script_step_health(s, script_step_add(s, SCRIPT_REPLY), index, body, false);
}

void script_streamed(script *s, uint64_t index, const char *body)
{
    script_step_health(s, script_step_add(s, SCRIPT_REPLY), index, body, true);
}

void script_ok(script *s)
{
    script_reply(s, 200, "Vary: Accept-Encoding\r\n", "");
}

void script_error(script *s, int status, const char *text)
{
    script_reply(s, status, "Content-Type: text/plain; charset=utf-8\r\n"
                            "Vary: Accept-Encoding\r\n", text);
}

void script_raw_bytes(script *s, const void *bytes, size_t len)
{
    script_step_set(script_step_add(s, SCRIPT_RAW), 0, NULL, bytes, len);
}

void script_raw(script *s, const char *text)
{
    script_raw_bytes(s, text, strlen(text));
}

void script_close(script *s)
{
    script_step_add(s, SCRIPT_END)->end = SCRIPT_CLOSES;
}

void script_reset(script *s)
{
    script_step_add(s, SCRIPT_END)->end = SCRIPT_RESETS;
}

void script_hang(script *s)
{
    script_step_add(s, SCRIPT_HANG);
}

void script_hold(script *s)
{
    script_step_add(s, SCRIPT_HOLD);
}

void script_call(script *s, script_fn fn, void *user)
{
    script_step *step = script_step_add(s, SCRIPT_CALL);
    step->fn = fn;
    step->user = user;
}

void script_delay(script *s, uint32_t ms)
{
    s->next.delay_ms = ms;
}

void script_chunked(script *s, size_t chunk_bytes)
{
    s->next.chunk_bytes = chunk_bytes;
}

void script_until_close(script *s)
{
    s->next.is_until_close = true;
}

void script_times(script *s, size_t times)
{
    s->next.times = times;
}

void script_then_close(script *s)
{
    s->next.end = SCRIPT_CLOSES;
}

void script_then_reset(script *s)
{
    s->next.end = SCRIPT_RESETS;
}

void script_clear(script *s)
{
    for (size_t i = 0; i < s->num_routes; i++) {
        script_route *route = s->routes[i];
        for (size_t k = 0; k < route->num_steps; k++) {
            s->strays = (script_step **)script_grow(s->strays,
                                                    (s->num_strays + 1) * sizeof(script_step *));
            s->strays[s->num_strays++] = route->steps[k];
        }
        route->num_steps = 0;
        route->next = 0;
        route->used = 0;
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

size_t script_num_requests(const script *s)
{
    return s->num_jobs;
}

const script_request *script_nth(const script *s, size_t nth)
{
    return nth < s->num_jobs ? &s->jobs[nth]->r : NULL;
}

const script_request *script_last(const script *s)
{
    return s->num_jobs > 0 ? &s->jobs[s->num_jobs - 1]->r : NULL;
}

static bool script_starts(const script_request *r, const char *start)
{
    size_t method_len = strlen(r->method);
    size_t len = strlen(start);
    if (len <= method_len) {
        return strncmp(r->method, start, len) == 0;
    }
    return strncmp(r->method, start, method_len) == 0 && start[method_len] == ' ' &&
           strncmp(r->path, start + method_len + 1, len - method_len - 1) == 0;
}

size_t script_count(const script *s, const char *start)
{
    size_t count = 0;
    for (size_t i = 0; i < s->num_jobs; i++) {
        if (script_starts(&s->jobs[i]->r, start)) {
            count++;
        }
    }
    return count;
}

const script_request *script_nth_of(const script *s, const char *start, size_t nth)
{
    for (size_t i = 0; i < s->num_jobs; i++) {
        if (script_starts(&s->jobs[i]->r, start) && nth-- == 0) {
            return &s->jobs[i]->r;
        }
    }
    return NULL;
}

const char *script_query_nth(const script_request *r, const char *key, size_t nth)
{
    for (size_t i = 0; r != NULL && i < r->num_params; i++) {
        if (strcmp(r->params[i].key, key) == 0 && nth-- == 0) {
            return r->params[i].value;
        }
    }
    return NULL;
}

const char *script_query(const script_request *r, const char *key)
{
    return script_query_nth(r, key, 0);
}

const char *script_header(const script_request *r, const char *name)
{
    for (size_t i = 0; r != NULL && i < r->num_headers; i++) {
        if (strcasecmp(r->headers[i].key, name) == 0) {
            return r->headers[i].value;
        }
    }
    return NULL;
}

/* Go's durations, as far as a client sends them: "60000ms", "60s", "5m", "1m30s". */
uint64_t script_wait_ms(const script_request *r)
{
    const char *text = script_query(r, "wait");
    uint64_t ms = 0;
    while (text != NULL && isdigit((unsigned char)*text)) {
        char *unit = NULL;
        uint64_t n = strtoull(text, &unit, 10);
        if (strncmp(unit, "ms", 2) == 0) {
            ms += n;
            text = unit + 2;
        } else if (*unit == 's') {
            ms += n * 1000;
            text = unit + 1;
        } else if (*unit == 'm') {
            ms += n * 60000;
            text = unit + 1;
        } else if (*unit == 'h') {
            ms += n * 3600000;
            text = unit + 1;
        } else {
            FAIL("wait=%s is no duration", script_query(r, "wait"));
            return 0;
        }
    }
    return ms;
}

/* ---- parsing --------------------------------------------------------------------------------- */

static void script_bad(const script_request *r, const char *what)
{
    FAIL("request %zu: %s in:\n%.300s", r->number, what, r->head);
}

static int script_hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0'
           : c >= 'a' && c <= 'f'    ? c - 'a' + 10
           : c >= 'A' && c <= 'F'    ? c - 'A' + 10
                                     : -1;
}

/* In place; a plus is a space in a query. */
static void script_decode(const script_request *r, char *text, bool is_query)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        if (*from == '%') {
            int high = script_hex(from[1]);
            int low = high < 0 ? -1 : script_hex(from[2]);
            if (low < 0) {
                script_bad(r, "a broken percent escape");
                break;
            }
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = is_query && *from == '+' ? ' ' : *from;
        }
    }
    *to = '\0';
}

static void script_check_target(const script_request *r)
{
    static const char fine[] = "-._~!$&'()*+,:;=@/?%";
    if (r->target[0] != '/') {
        script_bad(r, "a target without a slash in front");
    }
    for (const char *c = r->target; *c != '\0'; c++) {
        if (!isalnum((unsigned char)*c) && strchr(fine, *c) == NULL) {
            script_bad(r, "a byte in the target that needs escaping");
            return;
        }
    }
    if (strchr(r->raw_query, ';') != NULL) {
        script_bad(r, "a bare semicolon in the query, which Go refuses");
    }
}

static void script_parse_query(script_job *job)
{
    script_request *r = &job->r;
    for (const char *at = r->raw_query; *at != '\0';) {
        size_t len = strcspn(at, "&");
        size_t key_len = strcspn(at, "=");
        key_len = key_len < len ? key_len : len;
        char *key = script_copy(at, key_len);
        char *value = key_len < len ? script_copy(at + key_len + 1, len - key_len - 1)
                                    : script_copy("", 0);
        script_decode(r, key, true);
        script_decode(r, value, true);
        r->params = (script_pair *)script_grow(r->params, (r->num_params + 1) * sizeof *r->params);
        r->params[r->num_params].key = key;
        r->params[r->num_params++].value = value;
        at += len + (at[len] == '&' ? 1 : 0);
    }
    if (script_query(r, "token") != NULL) {
        script_bad(r, "a token in the URL");
    }
}

static void script_parse_line(script_job *job, const char *line, size_t len)
{
    script_request *r = &job->r;
    const char *space = (const char *)memchr(line, ' ', len);
    size_t method_len = space != NULL ? (size_t)(space - line) : len;
    const char *target = line + method_len + (method_len < len ? 1 : 0);
    size_t rest = len - (size_t)(target - line);
    const char *space2 = (const char *)memchr(target, ' ', rest);
    size_t target_len = space2 != NULL ? (size_t)(space2 - target) : rest;
    r->method = script_copy(line, method_len);
    r->target = script_copy(target, target_len);
    size_t path_len = strcspn(r->target, "?");
    r->raw_path = script_copy(r->target, path_len);
    const char *query = r->target[path_len] == '?' ? r->target + path_len + 1 : "";
    r->raw_query = script_copy(query, strlen(query));
    char *path = script_copy(r->raw_path, strlen(r->raw_path));
    r->path = path;
    if (rest - target_len != 9 || memcmp(target + target_len, " HTTP/1.1", 9) != 0) {
        script_bad(r, "no HTTP/1.1 request line");
    }
    script_check_target(r);
    script_decode(r, path, false);
    script_parse_query(job);
}

static void script_parse_header(script_job *job, const char *line, size_t len)
{
    script_request *r = &job->r;
    const char *colon = (const char *)memchr(line, ':', len);
    size_t name_len = colon != NULL ? (size_t)(colon - line) : 0;
    for (size_t i = 0; i < name_len; i++) {
        if (!isalnum((unsigned char)line[i]) && line[i] != '-') {
            name_len = 0;
        }
    }
    if (name_len == 0) {
        script_bad(r, "a line that is no header");
        return;
    }
    const char *value = colon + 1;
    size_t value_len = len - name_len - 1;
    while (value_len > 0 && (*value == ' ' || *value == '\t')) {
        value++;
        value_len--;
    }
    for (size_t i = 0; i < value_len; i++) {
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f) {
            script_bad(r, "a control character in a header");
            break;
        }
    }
    r->headers = (script_pair *)script_grow(r->headers, (r->num_headers + 1) * sizeof *r->headers);
    r->headers[r->num_headers].key = script_copy(line, name_len);
    r->headers[r->num_headers++].value = script_copy(value, value_len);
}

static size_t script_num_headers(const script_request *r, const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < r->num_headers; i++) {
        if (strcasecmp(r->headers[i].key, name) == 0) {
            count++;
        }
    }
    return count;
}

static void script_check_headers(const script_request *r)
{
    const char *host = script_header(r, "Host");
    if (script_num_headers(r, "Host") != 1 || host[0] == '\0') {
        script_bad(r, "not one Host");
    }
    if (script_num_headers(r, "Content-Length") > 1) {
        script_bad(r, "several Content-Length");
    }
    if (script_header(r, "Transfer-Encoding") != NULL) {
        script_bad(r, "a Transfer-Encoding, which no request needs");
    }
    if (strcmp(r->method, "GET") == 0 && r->body_len > 0) {
        script_bad(r, "a body in a GET");
    }
    if (strcmp(r->method, "PUT") == 0 && script_header(r, "Content-Length") == NULL) {
        script_bad(r, "a PUT without Content-Length");
    }
}

static void script_parse_head(script_job *job, const char *head, size_t len)
{
    script_request *r = &job->r;
    r->head = script_copy(head, len);
    bool is_first = true;
    for (size_t from = 0; from < len;) {
        const char *end = strstr(r->head + from, "\r\n");
        size_t line_len = end != NULL ? (size_t)(end - r->head) - from : len - from;
        if (memchr(r->head + from, '\n', line_len) != NULL ||
            memchr(r->head + from, '\0', line_len) != NULL) {
            script_bad(r, "a bare line feed or a NUL");
        }
        if (is_first) {
            script_parse_line(job, r->head + from, line_len);
        } else {
            script_parse_header(job, r->head + from, line_len);
        }
        is_first = false;
        from += line_len + 2;
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

static const char *script_reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Request Entity Too Large";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default:  return "Status";
    }
}

static bool script_says_close(const char *headers)
{
    static const char name[] = "connection: close";
    for (const char *at = headers; at != NULL && *at != '\0'; at = strchr(at, '\n')) {
        at += *at == '\n' ? 1 : 0;
        if (strncasecmp(at, name, sizeof name - 1) == 0) {
            return true;
        }
    }
    return false;
}

static void script_finish(script_job *job, script_end end);

static void script_send_chunks(script_text *out, const script_step *step)
{
    for (size_t from = 0; from < step->len; from += step->chunk_bytes) {
        size_t left = step->len - from;
        size_t n = left < step->chunk_bytes ? left : step->chunk_bytes;
        script_printf(out, "%zx\r\n", n);
        script_add(out, step->bytes + from, n);
        script_add_str(out, "\r\n");
    }
    script_add_str(out, "0\r\n\r\n");
}

static void script_send_reply(script_job *job, const script_step *step)
{
    const char *asked = script_header(&job->r, "Connection");
    bool is_asked = asked != NULL && strcasecmp(asked, "close") == 0;
    bool closes = step->is_until_close || is_asked || script_says_close(step->headers);
    script_text out;
    memset(&out, 0, sizeof out);
    script_printf(&out, "HTTP/1.1 %d %s\r\n%s", step->status, script_reason(step->status),
                  step->headers);
    if (closes && !script_says_close(step->headers)) {
        script_add_str(&out, "Connection: close\r\n");
    }
    if (step->chunk_bytes != 0) {
        script_add_str(&out, "Transfer-Encoding: chunked\r\n\r\n");
        script_send_chunks(&out, step);
    } else {
        if (!step->is_until_close && step->status != 204 && step->status != 304) {
            script_printf(&out, "Content-Length: %zu\r\n", step->len);
        }
        script_add_str(&out, "\r\n");
        script_add(&out, step->bytes, step->len);
    }
    world_conn_send(job->r.conn, out.text, out.len);
    script_text_deinit(&out);
    script_finish(job, step->end != SCRIPT_KEEPS ? step->end : closes ? SCRIPT_CLOSES
                                                                      : SCRIPT_KEEPS);
}

static const script_step *script_current(const script_job *job)
{
    static char no_headers[] = "Content-Type: application/json\r\nX-Consul-Index: 1\r\n";
    static char no_body[] = "[]";
    static const script_step nothing = {
        .kind = SCRIPT_REPLY, .status = 200, .headers = no_headers, .bytes = no_body, .len = 2,
        .index = 1
    };
    return job->route->current != NULL ? job->route->current : &nothing;
}

static void script_release(void *user)
{
    script_job *job = (script_job *)user;
    job->event = 0;
    job->is_held = false;
    if (!job->is_done) {
        script_send_reply(job, script_current(job));
    }
}

/* As a blocking query: an index that is not the newest is answered at once. */
static void script_hold_it(script_job *job)
{
    script *s = job->sc->owner;
    const char *index = script_query(&job->r, "index");
    uint64_t asked = index != NULL ? strtoull(index, NULL, 10) : 0;
    uint64_t wait_ms = script_query(&job->r, "wait") != NULL ? script_wait_ms(&job->r)
                                                             : SCRIPT_DEFAULT_WAIT_MS;
    if (asked == 0 || asked < script_current(job)->index) {
        wait_ms = 0;
    }
    job->is_held = true;
    job->event = world_after(s->w, wait_ms + job->step->delay_ms, script_release, job);
}

static void script_do(void *user)
{
    script_job *job = (script_job *)user;
    const script_step *step = job->step;
    job->event = 0;
    if (job->is_done) {
        return;
    }
    switch (step->kind) {
    case SCRIPT_REPLY:
        if (step->status == 200) {
            job->route->current = step;
        }
        script_send_reply(job, step);
        break;
    case SCRIPT_RAW:
        world_conn_send(job->r.conn, step->bytes, step->len);
        script_finish(job, step->end);
        break;
    case SCRIPT_END:
        script_finish(job, step->end);
        break;
    case SCRIPT_HANG:
        break;
    case SCRIPT_HOLD:
        script_hold_it(job);
        break;
    case SCRIPT_CALL:
        step->fn(step->user, &job->r);
        break;
    }
}

static script_route *script_route_for(script *s, const script_request *r)
{
    script_route *best = s->routes[0];
    for (size_t i = 1; i < s->num_routes; i++) {
        if (script_starts(r, s->routes[i]->start) &&
            strlen(s->routes[i]->start) >= strlen(best->start)) {
            best = s->routes[i];
        }
    }
    return best;
}

static const script_step *script_take_step(script_route *route)
{
    if (route->num_steps == 0) {
        return NULL;
    }
    const script_step *step = route->steps[route->next];
    route->used++;
    if (route->used >= step->times && route->next + 1 < route->num_steps) {
        route->next++;
        route->used = 0;
    }
    return step;
}

static void script_begin(script_job *job)
{
    script *s = job->sc->owner;
    job->route = script_route_for(s, &job->r);
    job->step = script_take_step(job->route);
    if (job->step == NULL) {
        script_bad(&job->r, "no step for what came");
        script_answer(&job->r, 404, NULL, "no step");
        return;
    }
    if (job->step->delay_ms > 0 && job->step->kind != SCRIPT_HOLD) {
        job->event = world_after(s->w, job->step->delay_ms, script_do, job);
    } else {
        script_do(job);
    }
}

void script_answer_raw(script_request *r, const void *bytes, size_t len)
{
    script_job *job = (script_job *)r;
    if (!job->is_done) {
        world_conn_send(r->conn, bytes, len);
        script_finish(job, SCRIPT_KEEPS);
    }
}

void script_answer(script_request *r, int status, const char *headers, const char *body)
{
    script_job *job = (script_job *)r;
    if (job->is_done) {
        return;
    }
    script_step step;
    memset(&step, 0, sizeof step);
    script_step_set(&step, status, headers, body, strlen(body));
    script_send_reply(job, &step);
    free(step.headers);
    free(step.bytes);
}

static void script_do_later(void *user)
{
    script_job *job = (script_job *)user;
    script_later *later = job->later;
    job->event = 0;
    script_answer(&job->r, later->status, later->headers, later->body);
}

static void script_later_free(script_later *later)
{
    if (later != NULL) {
        free(later->headers);
        free(later->body);
        free(later);
    }
}

void script_answer_later(script_request *r, uint32_t ms, int status, const char *headers,
                         const char *body)
{
    script_job *job = (script_job *)r;
    script_later *later = (script_later *)script_alloc(sizeof *later);
    later->status = status;
    later->headers = script_copy(headers != NULL ? headers : "",
                                 headers != NULL ? strlen(headers) : 0);
    later->body = script_copy(body, strlen(body));
    script_later_free(job->later);
    job->later = later;
    world_cancel(job->sc->owner->w, job->event);
    job->event = world_after(job->sc->owner->w, ms, script_do_later, job);
}

void script_change(script *s, uint64_t index, const char *body)
{
    script_route *route = script_selected(s);
    script_step *step = script_make(s, SCRIPT_REPLY);
    script_step_health(s, step, index, body, false);
    s->strays = (script_step **)script_grow(s->strays, (s->num_strays + 1) * sizeof step);
    s->strays[s->num_strays++] = step;
    route->current = step;
    size_t num_jobs = s->num_jobs;
    for (size_t i = 0; i < num_jobs; i++) {
        script_job *job = s->jobs[i];
        if (job->is_held && job->route == route) {
            world_cancel(s->w, job->event);
            script_release(job);
        }
    }
}

size_t script_num_held(const script *s)
{
    size_t count = 0;
    for (size_t i = 0; i < s->num_jobs; i++) {
        count += s->jobs[i]->is_held ? 1 : 0;
    }
    return count;
}

/* ---- connections ----------------------------------------------------------------------------- */

static size_t script_find(const char *bytes, size_t len, const char *part)
{
    size_t part_len = strlen(part);
    for (size_t i = 0; i + part_len <= len; i++) {
        if (strncasecmp(bytes + i, part, part_len) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static size_t script_body_len(const char *head, size_t len)
{
    static const char name[] = "\r\nContent-Length:";
    size_t at = script_find(head, len, name);
    return at != SIZE_MAX ? (size_t)strtoull(head + at + sizeof name - 1, NULL, 10) : 0;
}

/* Takes a whole request off the connection's bytes, if there is one. */
static script_job *script_take_request(script_conn *sc)
{
    script *s = sc->owner;
    size_t head_len = script_find(sc->in.text, sc->in.len, "\r\n\r\n");
    if (head_len == SIZE_MAX) {
        return NULL;
    }
    size_t body_len = script_body_len(sc->in.text, head_len);
    if (sc->in.len - head_len - 4 < body_len) {
        return NULL;
    }
    script_job *job = (script_job *)script_alloc(sizeof *job);
    job->sc = sc;
    job->r.script = s;
    job->r.conn = sc->conn;
    job->r.number = s->num_jobs;
    job->r.at_ms = world_now(s->w);
    job->r.body = script_copy(sc->in.text + head_len + 4, body_len);
    job->r.body_len = body_len;
    script_parse_head(job, sc->in.text, head_len);
    script_check_headers(&job->r);
    size_t used = head_len + 4 + body_len;
    memmove(sc->in.text, sc->in.text + used, sc->in.len - used + 1);
    sc->in.len -= used;
    s->jobs = (script_job **)script_grow(s->jobs, (s->num_jobs + 1) * sizeof job);
    s->jobs[s->num_jobs++] = job;
    return job;
}

static void script_next_request(script_conn *sc)
{
    while (sc->request == NULL && sc->in.len > 0 && world_conn_is_open(sc->conn)) {
        script_job *job = script_take_request(sc);
        if (job == NULL) {
            return;
        }
        if (sc->in.len > 0) {
            script_bad(&job->r, "more bytes before the answer");
        }
        sc->request = &job->r;
        script_begin(job);
    }
}

/* The request has its answer, or will never have one. */
static void script_finish(script_job *job, script_end end)
{
    job->is_done = true;
    job->is_held = false;
    job->r.answered_ms = world_now(job->sc->owner->w);
    if (job->sc->request == &job->r) {
        job->sc->request = NULL;
    }
    switch (end) {
    case SCRIPT_KEEPS:
        script_next_request(job->sc);
        break;
    case SCRIPT_CLOSES:
        world_conn_close(job->r.conn);
        break;
    case SCRIPT_RESETS:
        world_conn_reset(job->r.conn);
        break;
    }
}

static void script_on_accept(void *user, world_conn *conn)
{
    script *s = (script *)user;
    script_conn *sc = (script_conn *)script_alloc(sizeof *sc);
    sc->owner = s;
    sc->conn = conn;
    sc->next = s->conns;
    s->conns = sc;
    world_conn_set_user(conn, sc);
    if (s->num_greets == 0) {
        return;
    }
    s->num_greets--;
    world_conn_send_str(conn, s->greeting);
    if (s->greet_end == SCRIPT_CLOSES) {
        world_conn_close(conn);
    } else if (s->greet_end == SCRIPT_RESETS) {
        world_conn_reset(conn);
    }
}

static void script_on_bytes(void *user, world_conn *conn, const char *bytes, size_t len)
{
    script_conn *sc = (script_conn *)world_conn_user(conn);
    (void)user;
    script_add(&sc->in, bytes, len);
    if (sc->request != NULL) {
        script_bad(sc->request, "more bytes before the answer");
    }
    script_next_request(sc);
}

static void script_on_close(void *user, world_conn *conn)
{
    script_conn *sc = (script_conn *)world_conn_user(conn);
    script *s = (script *)user;
    script_job *job = (script_job *)sc->request;
    if (job != NULL && !job->is_done) {
        world_cancel(s->w, job->event);
        job->event = 0;
        job->is_done = true;
        job->is_held = false;
        job->r.answered_ms = world_now(s->w);
        sc->request = NULL;
    }
}

void script_greet(script *s, size_t num, const char *bytes, script_end end)
{
    free(s->greeting);
    s->greeting = script_copy(bytes, strlen(bytes));
    s->num_greets = num;
    s->greet_end = end;
}

void script_set_down(script *s, bool is_down)
{
    world_listen_mode(s->w, s->ip, s->port, is_down ? WORLD_REFUSES : WORLD_ACCEPTS);
    if (is_down) {
        world_close_all(s->w, s->ip, s->port);
    }
}

/* ---- bodies ---------------------------------------------------------------------------------- */

static const char *script_or(const char *text, const char *otherwise)
{
    return text != NULL ? text : otherwise;
}

static void script_json_tags(script_text *t, const char *tags)
{
    script_add_str(t, "[");
    for (const char *tag = script_or(tags, ""); *tag != '\0';) {
        size_t len = strcspn(tag, ",");
        char *one = script_copy(tag, len);
        script_json(t, one);
        free(one);
        tag += len;
        if (*tag == ',') {
            script_add_str(t, ",");
            tag++;
        }
    }
    script_add_str(t, "]");
}

static void script_json_node(script_text *t, const script_instance *in, unsigned long long index)
{
    const char *address = script_or(in->node_address, "127.0.0.1");
    script_add_str(t, "{\"Node\":{\"ID\":\"6ef0bcf4-4b4c-92d9-4da7-6a1bf9c4d1a5\",\"Node\":");
    script_json(t, script_or(in->node, "node-1"));
    script_add_str(t, ",\"Address\":");
    script_json(t, address);
    script_add_str(t, ",\"Datacenter\":");
    script_json(t, script_or(in->datacenter, "dc1"));
    script_add_str(t, ",\"TaggedAddresses\":{\"lan\":");
    script_json(t, address);
    script_add_str(t, ",\"lan_ipv4\":");
    script_json(t, address);
    script_add_str(t, ",\"wan\":");
    script_json(t, address);
    script_add_str(t, ",\"wan_ipv4\":");
    script_json(t, address);
    script_printf(t, "},\"Meta\":{%s%s\"consul-network-segment\":\"\",\"consul-version\":"
                     "\"1.22.7\"},\"CreateIndex\":%llu,\"ModifyIndex\":%llu}",
                  script_or(in->node_meta, ""), in->node_meta != NULL ? "," : "", index, index);
}

static void script_json_service(script_text *t, const script_instance *in,
                                unsigned long long index)
{
    const char *address = script_or(in->address, "");
    bool is_default = in->weight_passing == 0 && in->weight_warning == 0;
    script_add_str(t, ",\"Service\":{\"ID\":");
    script_json(t, script_or(in->id, script_or(in->service, "web")));
    script_add_str(t, ",\"Service\":");
    script_json(t, script_or(in->service, "web"));
    script_add_str(t, ",\"Tags\":");
    script_json_tags(t, in->tags);
    script_add_str(t, ",\"Address\":");
    script_json(t, address);
    if (address[0] != '\0' && in->port != 0) {
        script_printf(t, ",\"TaggedAddresses\":{\"lan_ipv4\":{\"Address\":\"%s\",\"Port\":%d},"
                         "\"wan_ipv4\":{\"Address\":\"%s\",\"Port\":%d}}",
                      address, in->port, address, in->port);
    }
    if (in->meta != NULL) {
        script_printf(t, ",\"Meta\":{%s}", in->meta);
    } else {
        script_add_str(t, ",\"Meta\":null");
    }
    if (in->port != 0) {
        script_printf(t, ",\"Port\":%d", in->port);
    }
    script_printf(t, ",\"Weights\":{\"Passing\":%d,\"Warning\":%d},\"EnableTagOverride\":false",
                  is_default ? 1 : in->weight_passing, is_default ? 1 : in->weight_warning);
    if (in->service_members != NULL) {
        script_printf(t, ",%s", in->service_members);
    }
    script_printf(t, ",\"Proxy\":{\"Mode\":\"\",\"MeshGateway\":{},\"Expose\":{}},\"Connect\":{},"
                     "\"PeerName\":\"\",\"CreateIndex\":%llu,\"ModifyIndex\":%llu}", index, index);
}

static void script_json_check(script_text *t, const script_instance *in, const char *status,
                              bool is_node, unsigned long long index)
{
    const char *service = script_or(in->service, "web");
    const char *id = script_or(in->id, service);
    script_add_str(t, "{\"Node\":");
    script_json(t, script_or(in->node, "node-1"));
    script_add_str(t, ",\"CheckID\":");
    if (is_node) {
        script_add_str(t, "\"serfHealth\",\"Name\":\"Serf Health Status\"");
    } else {
        script_text check_id;
        memset(&check_id, 0, sizeof check_id);
        script_printf(&check_id, "service:%s", id);
        script_json(t, check_id.text);
        check_id.len = 0;
        script_printf(&check_id, "Service '%s' check", service);
        script_add_str(t, ",\"Name\":");
        script_json(t, check_id.text);
        script_text_deinit(&check_id);
    }
    script_add_str(t, ",\"Status\":");
    script_json(t, status);
    script_printf(t, ",\"Notes\":\"\",\"Output\":\"%s\",\"ServiceID\":",
                  is_node ? "Agent alive and reachable" : "");
    script_json(t, is_node ? "" : id);
    script_add_str(t, ",\"ServiceName\":");
    script_json(t, is_node ? "" : service);
    script_add_str(t, ",\"ServiceTags\":");
    script_json_tags(t, is_node ? NULL : in->tags);
    script_printf(t, ",\"Type\":\"%s\",\"Interval\":\"\",\"Timeout\":\"\",\"ExposedPort\":0,"
                     "\"Definition\":{},\"CreateIndex\":%llu,\"ModifyIndex\":%llu}",
                  is_node ? "" : "ttl", index, index);
}

void script_entry_of(script_text *t, const script_instance *instance)
{
    unsigned long long index = instance->index != 0 ? instance->index : 10;
    const char *node_status = script_or(instance->node_status, "passing");
    const char *status = script_or(instance->status, "passing");
    bool has_node = strcmp(node_status, "none") != 0;
    bool has_service = strcmp(status, "none") != 0;
    script_json_node(t, instance, index);
    script_json_service(t, instance, index);
    script_add_str(t, ",\"Checks\":[");
    if (has_node) {
        script_json_check(t, instance, node_status, true, index);
    }
    if (has_node && has_service) {
        script_add_str(t, ",");
    }
    if (has_service) {
        script_json_check(t, instance, status, false, index);
    }
    script_add_str(t, "]}");
}

void script_list_of(script_text *t, const script_instance *list, size_t num)
{
    script_add_str(t, "[");
    for (size_t i = 0; i < num; i++) {
        if (i > 0) {
            script_add_str(t, ",");
        }
        script_entry_of(t, &list[i]);
    }
    script_add_str(t, "]");
}

void script_entry(script_text *t, const char *node, const char *id, const char *address, int port,
                  const char *tags, const char *status)
{
    script_instance instance;
    memset(&instance, 0, sizeof instance);
    instance.node = node;
    instance.id = id;
    instance.address = address;
    instance.port = port;
    instance.tags = tags;
    instance.status = status;
    if (t->len > 0 && t->text[t->len - 1] == '}') {
        script_add_str(t, ",");
    }
    script_entry_of(t, &instance);
}

static const char *script_own(script *s, script_text *t)
{
    s->texts = (char **)script_grow(s->texts, (s->num_texts + 1) * sizeof(char *));
    s->texts[s->num_texts++] = t->text;
    return t->text;
}

const char *script_list(script *s, const script_instance *list, size_t num)
{
    script_text t;
    memset(&t, 0, sizeof t);
    script_list_of(&t, list, num);
    return script_own(s, &t);
}

const char *script_many(script *s, size_t from, size_t num)
{
    script_text t;
    memset(&t, 0, sizeof t);
    script_add_str(&t, "[");
    for (size_t i = from; i < from + num; i++) {
        char id[32];
        char address[64];
        snprintf(id, sizeof id, "web-%zu", i);
        snprintf(address, sizeof address, "10.%zu.%zu.%zu", i / 65536 % 256, i / 256 % 256,
                 i % 256);
        script_entry(&t, NULL, id, address, 8000, NULL, NULL);
    }
    script_add_str(&t, "]");
    return script_own(s, &t);
}

/* ---- the script itself ----------------------------------------------------------------------- */

static void script_job_free(script_job *job)
{
    script_request *r = &job->r;
    const char *const parts[] = {
        r->head, r->method, r->target, r->raw_path, r->path, r->raw_query, r->body
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        script_free(parts[i]);
    }
    for (size_t i = 0; i < r->num_params; i++) {
        script_free(r->params[i].key);
        script_free(r->params[i].value);
    }
    for (size_t i = 0; i < r->num_headers; i++) {
        script_free(r->headers[i].key);
        script_free(r->headers[i].value);
    }
    free(r->params);
    free(r->headers);
    script_later_free(job->later);
    free(job);
}

static void script_destroy(void *user)
{
    script *s = (script *)user;
    script_clear(s);
    for (size_t i = 0; i < s->num_jobs; i++) {
        script_job_free(s->jobs[i]);
    }
    for (size_t i = 0; i < s->num_routes; i++) {
        free(s->routes[i]->start);
        free(s->routes[i]->steps);
        free(s->routes[i]);
    }
    for (size_t i = 0; i < s->num_strays; i++) {
        script_step_free(s->strays[i]);
    }
    for (size_t i = 0; i < s->num_texts; i++) {
        free(s->texts[i]);
    }
    while (s->conns != NULL) {
        script_conn *sc = s->conns;
        s->conns = sc->next;
        script_text_deinit(&sc->in);
        free(sc);
    }
    script_text_deinit(&s->health_headers);
    free(s->jobs);
    free(s->routes);
    free(s->strays);
    free(s->texts);
    free(s->greeting);
    free(s->ip);
    free(s);
}

script *script_create(world *w, const char *ip, uint16_t port)
{
    script *s = (script *)script_alloc(sizeof *s);
    s->w = w;
    s->ip = script_copy(ip, strlen(ip));
    s->port = port;
    s->next.times = 1;
    script_on(s, NULL);
    world_server server;
    memset(&server, 0, sizeof server);
    server.user = s;
    server.on_accept = script_on_accept;
    server.on_bytes = script_on_bytes;
    server.on_close = script_on_close;
    world_listen(w, ip, port, &server);
    world_on_destroy(w, script_destroy, s);
    return s;
}
