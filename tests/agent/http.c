/* HTTP/1.x of the embedded agent: requests out of bytes, answers into bytes,
   with the manners of Go's net/http. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    HEAD_MAX = 1052672,             /* 1 MiB and the 4 KiB that Go adds */
    CHUNK_ABOVE = 2048,             /* a body up to here goes with its length */
    HEADER_TIMEOUT_MS = 10000,
    IDLE_TIMEOUT_MS = 120000
};

/* ---- answers ----------------------------------------------------------------------------- */
void answer_init(answer *ans, int status)
{
    memset(ans, 0, sizeof *ans);
    ans->status = status;
}

void answer_free(answer *ans)
{
    pairs_free(&ans->headers);
    buf_free(&ans->body);
}

void answer_error(answer *ans, int status, const char *format, ...)
{
    char text[8192];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ans->status = status;
    buf_clear(&ans->body);
    buf_str(&ans->body, text);
}

json_out answer_json(agent *a, answer *ans, bool asked_pretty)
{
    json_out w;

    memset(&w, 0, sizeof w);
    w.out = &ans->body;
    w.is_pretty = a->is_pretty || asked_pretty;
    w.is_go_old = !agent_is_new(a);
    pairs_set(&ans->headers, "Content-Type", "application/json");
    return w;
}

void answer_json_end(agent *a, answer *ans, bool asked_pretty)
{
    if (asked_pretty || (a->is_pretty && !agent_is_new(a))) {
        buf_char(&ans->body, '\n');
    }
}

static const char *reason_of(int status)
{
    switch (status) {
    case 200: return "OK";
    case 301: return "Moved Permanently";
    case 307: return "Temporary Redirect";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default:  return "Unknown";
    }
}

/* The core reads no wall clock: its days begin at a fixed one. */
static void write_date(buf *out, uint64_t ms)
{
    uint64_t s = ms / 1000;
    static const char *const days[] = { "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun" };
    uint64_t day = s / 86400;

    buf_fmt(out, "%s, %02u Jan 2024 %02u:%02u:%02u GMT", days[day % 7], (unsigned)(day % 28 + 1),
            (unsigned)(s / 3600 % 24), (unsigned)(s / 60 % 60), (unsigned)(s % 60));
}

static void complete_headers(const agent *a, answer *ans)
{
    const char *type = NULL;

    if (ans->is_bare) {
        ans->is_sniffed = pairs_get(&ans->headers, "Content-Type") == NULL && ans->body.len > 0;
        return;
    }
    pairs_set(&ans->headers, "Vary", "Accept-Encoding");
    if (agent_is_new(a)) {
        pairs_set(&ans->headers, "X-Consul-Default-Acl-Policy", acl_is_on(a) ? "deny" : "allow");
    }
    if (pairs_get(&ans->headers, "Content-Type") != NULL || ans->is_sniffed) {
        return;
    }
    if (!agent_is_new(a)) {
        ans->is_sniffed = ans->body.len > 0;
        return;
    }
    type = ans->status >= 400 ? "text/plain; charset=utf-8" : "application/json; charset=utf-8";
    pairs_set(&ans->headers, "Content-Type", type);
}

void http_send(agent_conn *conn, answer *ans)
{
    agent *a = conn->agent;
    buf *out = &conn->out;
    const request *r = &conn->request;
    bool is_chunked = ans->body.len > CHUNK_ABOVE;
    bool is_head = text_is(r->method, "HEAD");
    bool keeps = r->keeps_alive && !(is_chunked && r->minor == 0);

    complete_headers(a, ans);
    buf_fmt(out, "HTTP/1.%d %d %s\r\n", r->minor, ans->status, reason_of(ans->status));
    for (size_t i = 0; i < ans->headers.n; i++) {
        buf_fmt(out, "%s: %s\r\n", ans->headers.v[i].key, ans->headers.v[i].value);
    }
    buf_str(out, "Date: ");
    write_date(out, a->now_ms);
    buf_str(out, "\r\n");
    if (!is_chunked && !(is_head && ans->body.len == 0)) {
        buf_fmt(out, "Content-Length: %zu\r\n", ans->body.len);
    }
    if (ans->is_sniffed) {
        buf_str(out, "Content-Type: text/plain; charset=utf-8\r\n");
    }
    if (keeps && r->minor == 0) {
        buf_str(out, "Connection: keep-alive\r\n");
    } else if (!keeps && r->minor == 1) {
        buf_str(out, "Connection: close\r\n");
    }
    if (is_chunked && r->minor == 1) {
        buf_str(out, "Transfer-Encoding: chunked\r\n");
    }
    buf_str(out, "\r\n");
    if (!is_head && is_chunked && r->minor == 1) {
        buf_fmt(out, "%zx\r\n", ans->body.len);
        buf_add(out, buf_text(&ans->body), ans->body.len);
        buf_str(out, "\r\n0\r\n\r\n");
    } else if (!is_head) {
        buf_add(out, buf_text(&ans->body), ans->body.len);
    }
    answer_free(ans);
    request_free(&conn->request);
    a->stats.answers++;
    conn->did_answer = true;
    conn->close_at = agent_is_new(a) ? a->now_ms + IDLE_TIMEOUT_MS : NEVER;
    conn->state = keeps ? CONN_READING : CONN_CLOSING;
    conn->lingers = !keeps;
}

/* What Go's server says by itself: no date, and the connection ends. */
static void refuse(agent_conn *conn, int status, const char *detail)
{
    const char *colon = text_is(detail, "") ? "" : ": ";

    buf_fmt(&conn->out, "HTTP/1.1 %d %s%s%s\r\nContent-Type: text/plain; charset=utf-8\r\n"
            "Connection: close\r\n\r\n%d %s%s%s", status, reason_of(status), colon, detail,
            status, reason_of(status), colon, detail);
    conn->state = CONN_CLOSING;
    conn->lingers = true;
    conn->close_at = NEVER;
    request_free(&conn->request);
}

/* ---- requests ---------------------------------------------------------------------------- */
static void params_free(param *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(list[i].key);
        free(list[i].value);
    }
    free(list);
}

void request_free(request *r)
{
    free(r->method);
    free(r->path);
    free(r->raw_path);
    free(r->raw_query);
    params_free(r->params, r->num_params);
    params_free(r->headers, r->num_headers);
    buf_free(&r->head);
    buf_free(&r->body);
    memset(r, 0, sizeof *r);
}

static void param_add(param **list, size_t *n, const char *key, size_t key_len, const char *value,
                      size_t value_len)
{
    *list = agent_grow(*list, (*n + 1) * sizeof **list);
    (*list)[*n].key = agent_dup_len(key, key_len);
    (*list)[*n].value = agent_dup_len(value, value_len);
    (*n)++;
}

const char *request_header(const request *r, const char *name)
{
    for (size_t i = 0; i < r->num_headers; i++) {
        if (text_is_nocase(r->headers[i].key, name)) {
            return r->headers[i].value;
        }
    }
    return NULL;
}

const char *request_param(const request *r, const char *key)
{
    for (size_t i = 0; i < r->num_params; i++) {
        if (text_is(r->params[i].key, key)) {
            return r->params[i].value;
        }
    }
    return NULL;
}

static int hex_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool percent_decode(const char *text, size_t len, bool plus_is_space, buf *out)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '%') {
            if (i + 2 >= len || hex_of(text[i + 1]) < 0 || hex_of(text[i + 2]) < 0) {
                return false;
            }
            buf_char(out, (char)(hex_of(text[i + 1]) * 16 + hex_of(text[i + 2])));
            i += 2;
        } else {
            buf_char(out, text[i] == '+' && plus_is_space ? ' ' : text[i]);
        }
    }
    return true;
}

static bool parse_param(request *r, const char *text, size_t len)
{
    const char *equals = memchr(text, '=', len);
    size_t key_len = equals == NULL ? len : (size_t)(equals - text);
    buf key = { NULL, 0, 0 };
    buf value = { NULL, 0, 0 };
    bool is_good = percent_decode(text, key_len, true, &key)
        && (equals == NULL || percent_decode(equals + 1, len - key_len - 1, true, &value));

    if (is_good && len > 0) {
        param_add(&r->params, &r->num_params, buf_text(&key), key.len, buf_text(&value),
                  value.len);
    }
    buf_free(&key);
    buf_free(&value);
    return is_good;
}

/* The older Go took ';' for '&', the newer one refuses it. */
static void parse_query(agent *a, request *r)
{
    const char *separators = agent_is_new(a) ? "&" : "&;";

    if (agent_is_new(a) && strchr(r->raw_query, ';') != NULL) {
        r->is_query_broken = true;
    }
    for (const char *p = r->raw_query; *p != '\0';) {
        size_t len = strcspn(p, separators);

        if (!parse_param(r, p, len)) {
            r->is_query_broken = true;
        }
        p += len + (p[len] != '\0');
    }
}

/* False: the target is no URL. A path with a NUL in it is left to the check for printable runes. */
static bool parse_target(agent *a, request *r, const char *target, size_t len)
{
    buf path = { NULL, 0, 0 };

    if (len > 7 && strncmp(target, "http://", 7) == 0) {
        const char *slash = memchr(target + 7, '/', len - 7);
        size_t skip = slash == NULL ? len : (size_t)(slash - target);

        target += skip;
        len -= skip;
    }
    const char *mark = memchr(target, '?', len);
    size_t path_len = mark == NULL ? len : (size_t)(mark - target);
    if (path_len == 0 || target[0] != '/' || !percent_decode(target, path_len, false, &path)) {
        buf_free(&path);
        return false;
    }
    if (path.len != strlen(buf_text(&path))) {
        path.ptr[strlen(path.ptr)] = '\x01';
    }
    r->path = agent_dup(buf_text(&path));
    r->raw_path = agent_dup_len(target, path_len);
    r->raw_query = mark == NULL ? agent_dup("") : agent_dup_len(mark + 1, len - path_len - 1);
    buf_free(&path);
    parse_query(a, r);
    return true;
}

static bool is_token(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (c <= ' ' || c == 0x7f || (c & 0x80) != 0 || strchr("()<>@,;:\\\"/[]?={}", c) != NULL) {
            return false;
        }
    }
    return len > 0;
}

static bool is_good_value(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return true;
}

static size_t line_len(const char *text, size_t len)
{
    const char *end = memchr(text, '\n', len);
    size_t n = end == NULL ? len : (size_t)(end - text);

    return n > 0 && text[n - 1] == '\r' ? n - 1 : n;
}

/* False: refused. */
static bool parse_request_line(agent_conn *conn, const char *line, size_t len)
{
    request *r = &conn->request;
    const char *first = memchr(line, ' ', len);
    const char *second = first == NULL ? NULL
                       : memchr(first + 1, ' ', len - (size_t)(first + 1 - line));

    if (second == NULL || !is_token(line, (size_t)(first - line))) {
        refuse(conn, 400, "");
        return false;
    }
    const char *version = second + 1;
    size_t version_len = len - (size_t)(version - line);
    bool is_version = version_len == 8 && strncmp(version, "HTTP/", 5) == 0 && version[6] == '.'
        && version[5] >= '0' && version[5] <= '9' && version[7] >= '0' && version[7] <= '9';
    if (!is_version) {
        refuse(conn, 400, "");
        return false;
    }
    if (version[5] != '1') {
        refuse(conn, agent_is_new(conn->agent) ? 505 : 400, "unsupported protocol version");
        return false;
    }
    r->minor = version[7] == '0' ? 0 : 1;
    r->method = agent_dup_len(line, (size_t)(first - line));
    if (!parse_target(conn->agent, r, first + 1, (size_t)(second - first - 1))) {
        refuse(conn, 400, "");
        return false;
    }
    return true;
}

static bool parse_header(agent_conn *conn, const char *line, size_t len)
{
    request *r = &conn->request;
    const char *colon = memchr(line, ':', len);

    if (colon == NULL || colon == line || line[0] == ' ' || line[0] == '\t') {
        refuse(conn, 400, "");
        return false;
    }
    if (!is_token(line, (size_t)(colon - line))) {
        refuse(conn, 400, "invalid header name");
        return false;
    }
    const char *value = colon + 1;
    const char *end = line + len;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    if (!is_good_value(value, (size_t)(end - value))) {
        refuse(conn, 400, agent_is_new(conn->agent) ? "" : "invalid header value");
        return false;
    }
    param_add(&r->headers, &r->num_headers, line, (size_t)(colon - line), value,
              (size_t)(end - value));
    return true;
}

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = list; *p != '\0'; p++) {
        if ((p == list || strchr(", ", p[-1]) != NULL) && strncasecmp(p, word, len) == 0
            && strchr(", ", p[len]) != NULL) {
            return true;
        }
    }
    return false;
}

static bool check_host(agent_conn *conn)
{
    const request *r = &conn->request;
    const char *host = request_header(r, "Host");
    size_t n = 0;

    for (size_t i = 0; i < r->num_headers; i++) {
        n += text_is_nocase(r->headers[i].key, "Host");
    }
    if (n > 1) {
        refuse(conn, 400, agent_is_new(conn->agent) ? "" : "too many Host headers");
    } else if (host == NULL && r->minor == 1) {
        refuse(conn, 400, "missing required Host header");
    } else if (host != NULL && strpbrk(host, " \t<>\"") != NULL) {
        refuse(conn, 400, "malformed Host header");
    } else {
        return true;
    }
    return false;
}

static bool parse_head(agent_conn *conn, size_t head_len)
{
    request *r = &conn->request;
    const char *text = conn->in.ptr;
    size_t at = 0;

    for (bool is_first = true; at < head_len; is_first = false) {
        size_t len = line_len(text + at, head_len - at);
        const char *line = text + at;

        at += (size_t)((const char *)memchr(line, '\n', head_len - at) - line) + 1;
        if (is_first) {
            if (!parse_request_line(conn, line, len)) {
                return false;
            }
        } else if (len > 0 && !parse_header(conn, line, len)) {
            return false;
        }
    }
    const char *connection = request_header(r, "Connection");
    r->keeps_alive = connection == NULL ? r->minor == 1
                   : r->minor == 1 ? !has_word(connection, "close")
                                   : has_word(connection, "keep-alive");
    buf_add(&r->head, text, head_len);
    return check_host(conn);
}

/* ---- bodies ------------------------------------------------------------------------------ */
typedef enum body_state { BODY_MORE, BODY_WHOLE, BODY_BAD, BODY_FOREIGN } body_state;

static body_state read_chunks(const char *text, size_t len, buf *out, size_t *used)
{
    size_t at = 0;

    for (;;) {
        const char *end = memchr(text + at, '\n', len - at);
        if (end == NULL) {
            return BODY_MORE;
        }
        char *digits_end = NULL;
        unsigned long long size = strtoull(text + at, &digits_end, 16);
        if (digits_end == text + at || size > 64u * 1024 * 1024) {
            return BODY_BAD;
        }
        at = (size_t)(end - text) + 1;
        if (size == 0) {
            break;
        }
        if (len - at < size + 2) {
            return BODY_MORE;
        }
        buf_add(out, text + at, (size_t)size);
        at += (size_t)size + 2;
    }
    for (;;) {
        const char *end = memchr(text + at, '\n', len - at);
        if (end == NULL) {
            return BODY_MORE;
        }
        size_t n = line_len(text + at, len - at);
        at = (size_t)(end - text) + 1;
        if (n == 0) {
            *used = at;
            return BODY_WHOLE;
        }
    }
}

static body_state read_body(request *r, const char *text, size_t len, size_t *used)
{
    const char *coding = request_header(r, "Transfer-Encoding");
    const char *length = request_header(r, "Content-Length");

    *used = 0;
    if (coding != NULL) {
        buf_clear(&r->body);
        return text_is_nocase(coding, "chunked") ? read_chunks(text, len, &r->body, used)
                                                 : BODY_FOREIGN;
    }
    if (length == NULL) {
        return BODY_WHOLE;
    }
    if (length[0] == '\0' || strspn(length, "0123456789") != strlen(length)) {
        return BODY_BAD;
    }
    unsigned long long want = strtoull(length, NULL, 10);
    if (len < want) {
        return BODY_MORE;
    }
    buf_add(&r->body, text, (size_t)want);
    *used = (size_t)want;
    return BODY_WHOLE;
}

/* ---- the connection ---------------------------------------------------------------------- */
/* The length of the head with its empty line; 0: not whole yet. */
static size_t find_head(agent_conn *conn)
{
    const char *text = conn->in.ptr;

    for (size_t i = conn->scanned; i < conn->in.len; i++) {
        if (text[i] != '\n') {
            continue;
        }
        if ((i >= 1 && text[i - 1] == '\n') || (i >= 2 && text[i - 1] == '\r'
                                                && text[i - 2] == '\n')) {
            return i + 1;
        }
        if (i == 0 || (i == 1 && text[0] == '\r')) {
            return i + 1;           /* an empty first line is no request line */
        }
    }
    conn->scanned = conn->in.len;
    return 0;
}

static void remember(agent *a, const request *r)
{
    buf_clear(&a->last_request);
    buf_clear(&a->last_body);
    buf_add(&a->last_request, buf_text(&r->head), r->head.len);
    buf_add(&a->last_body, buf_text(&r->body), r->body.len);
    a->stats.requests++;
}

static void dispatch(agent_conn *conn)
{
    agent *a = conn->agent;

    conn->state = CONN_HANDLING;
    remember(a, &conn->request);
    if (a->hang_next > 0) {
        a->hang_next--;
        conn->state = CONN_HUNG;
        return;
    }
    if (a->fail_next > 0) {
        answer ans;

        a->fail_next--;
        answer_init(&ans, a->fail_status);
        buf_str(&ans.body, a->fail_body);
        http_send(conn, &ans);
        return;
    }
    endpoint_handle(conn);
}

/* True: a request was handled, there may be another one behind it. */
static bool pump_one(agent_conn *conn)
{
    size_t head_len = conn->in.len == 0 ? 0 : find_head(conn);
    size_t used = 0;

    if (head_len > HEAD_MAX || (head_len == 0 && conn->in.len > HEAD_MAX)) {
        refuse(conn, 431, "");
        return false;
    }
    if (head_len == 0) {
        if (conn->in.len > 0 && !conn->is_in_head && conn->did_answer) {
            conn->close_at = agent_is_new(conn->agent) ? conn->agent->now_ms + HEADER_TIMEOUT_MS
                                                       : NEVER;
        }
        conn->is_in_head = conn->in.len > 0;
        return false;
    }
    conn->close_at = NEVER;
    request_free(&conn->request);
    if (!parse_head(conn, head_len)) {
        return false;
    }
    request *r = &conn->request;
    switch (read_body(r, conn->in.ptr + head_len, conn->in.len - head_len, &used)) {
    case BODY_BAD:
        refuse(conn, 400, "");
        return false;
    case BODY_FOREIGN:
        buf_str(&conn->out, "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain; "
                "charset=utf-8\r\nConnection: close\r\n\r\nUnsupported transfer encoding");
        conn->state = CONN_CLOSING;
        return false;
    case BODY_MORE:
        if (request_header(r, "Expect") != NULL && !conn->did_continue && r->minor == 1) {
            conn->did_continue = true;
            buf_str(&conn->out, "HTTP/1.1 100 Continue\r\n\r\n");
        }
        return false;
    case BODY_WHOLE:
        break;
    }
    buf_drop(&conn->in, head_len + used);
    conn->scanned = 0;
    conn->is_in_head = conn->did_continue = false;
    dispatch(conn);
    return true;
}

void http_pump(agent_conn *conn)
{
    while (conn->state == CONN_READING && conn->in.len > 0 && pump_one(conn)) {
    }
}

void http_cut(agent_conn *conn)
{
    buf_clear(&conn->out);
    buf_clear(&conn->in);
    request_free(&conn->request);
    query_free(&conn->query);
    conn->view = NULL;
    conn->close_at = NEVER;
    conn->lingers = false;
    conn->state = CONN_CLOSING;
}

void http_advance(agent *a)
{
    for (agent_conn *conn = a->conns; conn != NULL; conn = conn->next) {
        if (conn->close_at > a->now_ms) {
            continue;
        }
        conn->close_at = NEVER;
        if (conn->in.len > 0 && conn->in.ptr[conn->in.len - 1] != '\n') {
            refuse(conn, 400, "");
        }
        conn->state = CONN_CLOSING;
    }
}

agent_conn *agent_accept(agent *a)
{
    agent_conn *conn = agent_alloc(sizeof *conn);
    size_t num_open = 0;

    for (const agent_conn *c = a->conns; c != NULL; c = c->next) {
        num_open += c->state != CONN_CLOSING;
    }
    conn->agent = a;
    conn->next = a->conns;
    a->conns = conn;
    conn->close_at = agent_is_new(a) ? a->now_ms + HEADER_TIMEOUT_MS : NEVER;
    if (num_open < a->max_conns) {
        a->stats.conns_accepted++;
        return conn;
    }
    a->stats.conns_refused++;
    conn->state = CONN_CLOSING;
    conn->close_at = NEVER;
    if (agent_is_new(a)) {
        buf_str(&conn->out, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\n"
                "Content-Length: 81\r\nConnection: close\r\n\r\n"
                "Your IP is issuing too many concurrent connections, "
                "please rate limit your calls\n");
    }
    return conn;
}

void agent_conn_feed(agent_conn *conn, const void *bytes, size_t len, uint64_t now_ms)
{
    agent_advance(conn->agent, now_ms);
    if (conn->state == CONN_CLOSING) {
        return;
    }
    buf_add(&conn->in, bytes, len);
    http_pump(conn);
}

size_t agent_conn_peek(const agent_conn *conn, const char **bytes)
{
    *bytes = buf_text(&conn->out);
    return conn->out.len;
}

void agent_conn_ack(agent_conn *conn, size_t n)
{
    buf_drop(&conn->out, n);
}

bool agent_conn_wants_close(const agent_conn *conn)
{
    return conn->state == CONN_CLOSING;
}

bool agent_conn_lingers(const agent_conn *conn)
{
    return conn->lingers;
}

void agent_conn_close(agent_conn *conn)
{
    agent_conn **at = &conn->agent->conns;

    while (*at != conn) {
        at = &(*at)->next;
    }
    *at = conn->next;
    request_free(&conn->request);
    query_free(&conn->query);
    buf_free(&conn->in);
    buf_free(&conn->out);
    free(conn);
}

void agent_fail_next(agent *a, size_t n, int status, const char *body)
{
    a->fail_next = n;
    a->fail_status = status;
    agent_set_text(&a->fail_body, body);
}

void agent_hang_next(agent *a, size_t n)
{
    a->hang_next = n;
}
