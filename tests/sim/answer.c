/* The HTTP side of the model: requests in, answers out, and what may be wrong with an answer. */
#include "model_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const rate_texts[] = {
    "rate limit exceeded, try again later or against a different server",
    "RPC rate limit exceeded", "", "Rate limit reached, try again later"
};
static const char *const error_texts[] = {
    "rpc error making call: EOF", "rpc error making call: i/o deadline reached",
    "No known Consul servers", "context canceled", "item is marked for eviction",
    "rpc error getting client: failed to get conn: dial tcp 10.0.0.9:8300: connection refused"
};
static const char conn_limit[] =
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 81\r\n"
    "Connection: close\r\n\r\n"
    "Your IP is issuing too many concurrent connections, please rate limit your calls\n";

static sim_random *dice(const peer *p)
{
    return p->agent->m->random;
}

static uint64_t now_of(const peer *p)
{
    return world_now(p->agent->m->w);
}

/* ---- sending --------------------------------------------------------------------------------- */

static const char *reason_of(int status)
{
    switch (status) {
    case 200: return "OK";
    case 301: return "Moved Permanently";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 429: return "Too Many Requests";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default:  return "Internal Server Error";
    }
}

/* The request is done with. */
static void finish(peer *p)
{
    if (p->state == PEER_DEAD) {
        return;
    }
    p->state = PEER_IDLE;
    p->len -= p->request_len;
    memmove(p->in, p->in + p->request_len, p->len);
    if (p->len > 0) {
        sim_fail(now_of(p), "a request was sent before the answer to the one before it");
    }
}

static void send_part(peer *p, size_t len, sim_fault noise)
{
    const model_text *out = &p->agent->m->out;
    world_conn_send(p->conn, out->bytes, len);
    sim_hit(noise);
    p->state = PEER_DEAD;
    if (noise == NOISE_RESET) {
        world_conn_reset(p->conn);
    } else if (noise != NOISE_STALL) {
        world_conn_close(p->conn);
    }
}

/* Sends what is in m->out, or what the noise leaves of it. True: all of it. */
static bool deliver(peer *p, size_t head_len, bool is_chunked)
{
    const model_text *out = &p->agent->m->out;
    size_t body_len = out->len - head_len;
    switch (p->noise) {
    case NOISE_CUT_HEAD:
        send_part(p, sim_below(dice(p), (uint32_t)head_len), p->noise);
        return false;
    case NOISE_CUT_BODY:
        if (body_len > 1) {
            send_part(p, head_len + sim_below(dice(p), (uint32_t)body_len - 1), p->noise);
            return false;
        }
        break;
    case NOISE_CUT_LAST:
        send_part(p, out->len - (is_chunked ? 5 : 1), p->noise);
        return false;
    case NOISE_RESET:
    case NOISE_STALL:
        send_part(p, sim_below(dice(p), (uint32_t)out->len), p->noise);
        return false;
    case NOISE_CLOSE_AFTER:
        send_part(p, out->len, p->noise);
        return true;
    default:
        break;
    }
    world_conn_send(p->conn, out->bytes, out->len);
    finish(p);
    return true;
}

static void add_chunks(model_text *out, const char *body, size_t len, size_t chunk)
{
    char size[24];
    for (size_t from = 0; from < len; from += chunk) {
        size_t n = len - from < chunk ? len - from : chunk;
        (void)snprintf(size, sizeof size, "%zx\r\n", n);
        text_put(out, size);
        text_add(out, body + from, n);
        text_put(out, "\r\n");
    }
    text_put(out, "0\r\n\r\n");
}

static void begin_head(model_text *out, int status, const char *headers)
{
    text_clear(out);
    text_put(out, "HTTP/1.1 ");
    text_put_number(out, (uint64_t)status);
    text_put(out, " ");
    text_put(out, reason_of(status));
    text_put(out, "\r\n");
    text_put(out, headers);
}

/* As peer_reply; answers whether all of it went out. */
static bool reply(peer *p, int status, const char *headers, const char *body, size_t len)
{
    model *m = p->agent->m;
    model_text *out = &m->out;
    if (p->state == PEER_DEAD) {
        return false;
    }
    bool is_chunked = len > 2048 || (m->desc.chunk_bytes != 0 && len > m->desc.chunk_bytes);
    begin_head(out, status, headers);
    if (!m->desc.is_plain) {
        text_put(out, "Vary: Accept-Encoding\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n");
    }
    if (is_chunked) {
        text_put(out, "Transfer-Encoding: chunked\r\n\r\n");
    } else {
        text_put(out, "Content-Length: ");
        text_put_number(out, len);
        text_put(out, "\r\n\r\n");
    }
    size_t head_len = out->len;
    if (is_chunked) {
        add_chunks(out, body, len, m->desc.chunk_bytes != 0 ? m->desc.chunk_bytes : 2048);
    } else {
        text_add(out, body, len);
    }
    sim_trace(now_of(p), "agent %u answers %d, %zu bytes", (unsigned)p->agent->nth, status, len);
    return deliver(p, head_len, is_chunked);
}

void peer_reply(peer *p, int status, const char *headers, const char *body, size_t len)
{
    (void)reply(p, status, headers, body, len);
}

void peer_reply_text(peer *p, int status, const char *body)
{
    (void)reply(p, status, "Content-Type: text/plain; charset=utf-8\r\n", body, strlen(body));
}

static void close_without_answer(peer *p, sim_fault fault)
{
    sim_hit(fault);
    p->state = PEER_DEAD;
    world_conn_close(p->conn);
}

/* What stands in place of an answer. True: it was sent. Where a 200 is all that an answer says, no
   client can tell that it comes from somebody else. */
static bool reply_noise(peer *p)
{
    sim_fault noise = p->noise;
    bool is_read = strncmp(p->path, "/v1/health/", 11) == 0;
    if (!is_read && (noise == NOISE_HTML || noise == NOISE_BAD_JSON || noise == NOISE_BAD_SHAPE)) {
        return false;
    }
    switch (noise) {
    case NOISE_GARBAGE:
        text_clear(&p->agent->m->out);
        text_put(&p->agent->m->out, "SSH-2.0-OpenSSH_9.6\r\n\x01\x02\x03garbage\r\n\r\n");
        (void)deliver(p, 10, false);
        break;
    case NOISE_500:
        peer_reply_text(p, 500, error_texts[sim_below(dice(p), 6)]);
        break;
    case NOISE_HTML:
        peer_reply(p, 200, "Content-Type: text/html\r\n", "<html>login</html>", 18);
        break;
    case NOISE_REDIRECT:
        peer_reply(p, 301, "Location: http://10.0.0.9/ui/\r\n", "", 0);
        break;
    case NOISE_BAD_JSON:
        peer_reply(p, 200, "X-Consul-Index: 77\r\n", "[{\"Node\":{\"Node\":\"n1\",]}", 24);
        break;
    case NOISE_BAD_SHAPE:
        peer_reply(p, 200, "X-Consul-Index: 78\r\n", "{\"error\":\"what\"}", 16);
        break;
    default:
        return false;
    }
    sim_hit(noise);
    return true;
}

/* ---- reads ----------------------------------------------------------------------------------- */

static token_kind token_now(const peer *p)
{
    const model_agent *a = p->agent;
    if (model_is_on(a, FAULT_ACL_DENY) || p->token == TOKEN_UNKNOWN) {
        return TOKEN_UNKNOWN;
    }
    if (model_is_on(a, FAULT_ACL_HIDE) || p->token == TOKEN_BLIND) {
        return TOKEN_BLIND;
    }
    return model_is_on(a, FAULT_ACL_PART) ? TOKEN_HALF : p->token;
}

static bool is_streamed(const peer *p)
{
    return p->agent->m->desc.streams && p->index != 0;
}

/* The lies that are told about an index. */
static uint64_t index_told(const peer *p, uint64_t index)
{
    const model_agent *a = p->agent;
    if (model_is_on(a, FAULT_INDEX_ZERO)) {
        sim_hit(FAULT_INDEX_ZERO);
        return 0;
    }
    if (model_is_on(a, FAULT_INDEX_JUMP)) {
        sim_hit(FAULT_INDEX_JUMP);
        return index + 1000000;
    }
    if (model_is_on(a, FAULT_FOLLOWER)) {
        uint32_t behind = sim_below(dice(p), 10);
        sim_hit(FAULT_FOLLOWER);
        return index > behind ? index - behind : 1;
    }
    return index;
}

static void put_read_headers(model_text *t, const peer *p, uint64_t index, bool is_filtered)
{
    const model_desc *desc = &p->agent->m->desc;
    text_clear(t);
    text_put(t, "Content-Type: application/json\r\n");
    if (model_is_on(p->agent, FAULT_INDEX_NONE)) {
        sim_hit(FAULT_INDEX_NONE);
    } else {
        text_put(t, "X-Consul-Index: ");
        text_put_number(t, index);
        text_put(t, "\r\n");
    }
    bool is_stale = strstr(p->query, "stale") != NULL;
    text_put(t, is_streamed(p) ? "X-Consul-Knownleader: false\r\nX-Consul-Lastcontact: "
                               : "X-Consul-Knownleader: true\r\nX-Consul-Lastcontact: ");
    text_put_number(t, is_stale && !is_streamed(p) ? sim_below(dice(p), 10) : 0);
    text_put(t, "\r\n");
    if (!desc->is_plain) {
        text_put(t, is_streamed(p) ? "X-Consul-Query-Backend: streaming\r\n"
                                   : "X-Consul-Query-Backend: blocking-query\r\n");
        text_put(t, "X-Consul-Default-Acl-Policy: deny\r\n");
    }
    if (is_filtered && !is_streamed(p)) {
        text_put(t, "X-Consul-Results-Filtered-By-Acls: true\r\n");
    }
}

/* Answers how many instances the library is left with. */
static uint32_t put_list(model_text *t, const peer *p, const catalog *c, catalog_sight sight)
{
    const catalog_view *v = &p->agent->m->views[p->view];
    const catalog_service *s = &c->services[v->service];
    catalog_view asked = *v;
    uint32_t num = 0;
    bool is_first = true;
    if (is_streamed(p) && model_is_on(p->agent, FAULT_LOOSE_TAGS) && v->tags != 0) {
        sim_hit(FAULT_LOOSE_TAGS);
        asked.tags = 0;
    }
    text_clear(t);
    text_put(t, "[");
    for (uint32_t i = 0; i < s->num; i++) {
        const catalog_instance *at = &s->instances[i];
        if (!catalog_is_seen(at, sight) || !catalog_view_has(&asked, at)) {
            continue;
        }
        text_add(t, ",", is_first ? 0 : 1);
        text_add(t, at->json, at->json_len);
        is_first = false;
        bool is_kept = v->worst == SDC_STATUS_UNSET || at->status <= v->worst;
        num += is_kept && catalog_view_has_tags(v, at) ? 1 : 0;
    }
    text_put(t, "]");
    return num;
}

/* An ACL that hides everything makes an empty list true enough: at once where nothing is known,
   else when the library has asked again. */
static void note_emptiness(catalog_view *v, uint32_t num, bool is_whole, bool is_filtered,
                           uint64_t now_ms)
{
    if (num > 0) {
        v->num_empty = 0;
        v->is_hidden = false;
    } else if (is_whole) {
        v->num_empty++;
        v->is_hidden = v->is_hidden || is_filtered;
    }
    if (num == 0 && is_whole && v->is_hidden) {
        v->hidden_once_at_ms = now_ms;
        v->hidden_at_ms = v->num_empty >= 2 ? now_ms : v->hidden_at_ms;
    }
}

static void send_list(peer *p, uint64_t index, uint32_t num, bool is_filtered)
{
    model *m = p->agent->m;
    catalog_view *v = &m->views[p->view];
    model_text headers;
    memset(&headers, 0, sizeof headers);
    put_read_headers(&headers, p, index, is_filtered);
    bool is_whole = reply(p, 200, headers.bytes, m->body.bytes, m->body.len);
    free(headers.bytes);
    uint64_t counted = index == 0 ? 1 : index;      /* as Consul's rules for clients have it    */
    if (is_whole) {
        v->told_index = model_is_on(p->agent, FAULT_INDEX_NONE) ? 0 : counted;
        v->told_by = p->agent->nth;
    }
    v->is_backwards = is_whole && counted < p->index && !model_is_on(p->agent, FAULT_INDEX_NONE);
    v->was_emptied = num == 0 || (!is_whole && v->was_emptied);
    note_emptiness(v, num, is_whole, is_filtered, now_of(p));
}

/* What is true for this reader. */
static void answer_read(peer *p)
{
    token_kind token = token_now(p);
    catalog_sight sight = token == TOKEN_FULL ? SIGHT_ALL
                        : token == TOKEN_HALF ? SIGHT_PART : SIGHT_NONE;
    const catalog *c = model_seen_by(p);
    if (sight != SIGHT_ALL) {
        sim_hit(sight == SIGHT_PART ? FAULT_ACL_PART : FAULT_ACL_HIDE);
    }
    if (c != &p->agent->m->now) {
        sim_hit(FAULT_FROZEN_VIEW);
    }
    uint32_t num = put_list(&p->agent->m->body, p, c, sight);
    send_list(p, index_told(p, model_index_for(p)), num, sight != SIGHT_ALL);
}

static void answer_false_empty(peer *p, uint64_t index, sim_fault fault)
{
    sim_hit(fault);
    text_clear(&p->agent->m->body);
    text_put(&p->agent->m->body, "[]");
    send_list(p, index, 0, false);
}

static void answer_denied(peer *p)
{
    sim_hit(FAULT_ACL_DENY);
    peer_reply_text(p, 403, sim_chance(dice(p), 50) ? "ACL not found"
                                                    : "rpc error making call: ACL not found");
}

/* A wait is over. */
static void answer_waited(peer *p)
{
    const model_agent *a = p->agent;
    uint64_t held_ms = now_of(p) - p->asked_ms;
    if (p->is_by_proxy) {
        sim_hit(FAULT_PROXY_TIMEOUT);
        peer_reply_text(p, sim_chance(dice(p), 50) ? 504 : 503, "upstream timed out");
    } else if (model_is_on(a, FAULT_WRITE_TIMEOUT) && held_ms >= a->on[FAULT_WRITE_TIMEOUT]) {
        close_without_answer(p, FAULT_WRITE_TIMEOUT);
    } else if (token_now(p) == TOKEN_UNKNOWN && !(is_streamed(p) && p->index > 1)) {
        answer_denied(p);
    } else if (token_now(p) == TOKEN_UNKNOWN && sim_chance(dice(p), 50)) {
        answer_false_empty(p, 1, FAULT_ACL_DENY);
    } else if (token_now(p) == TOKEN_UNKNOWN) {
        /* a view that is kept alive: what it had, at the index that was asked for */
        p->token = TOKEN_FULL;
        sim_hit(FAULT_ACL_DENY);
        uint32_t num = put_list(&a->m->body, p, model_seen_by(p), SIGHT_ALL);
        send_list(p, p->index, num, false);
    } else if (model_is_on(a, FAULT_FALSE_EMPTY) && p->index > 1 && sim_chance(dice(p), 60)) {
        answer_false_empty(p, 1, FAULT_FALSE_EMPTY);
    } else {
        answer_read(p);
    }
}

static void hold(peer *p)
{
    const model_agent *a = p->agent;
    uint32_t wait_ms = p->wait_ms != 0 ? p->wait_ms : 300000;
    uint32_t extra_ms = is_streamed(p) ? 0 : sim_below(dice(p), wait_ms / 16 + 1);
    uint32_t most_ms = a->on[FAULT_PROXY_TIMEOUT];
    p->is_by_proxy = most_ms != 0 && most_ms < wait_ms + extra_ms;
    p->state = PEER_HELD;
    world_conn_timer(p->conn, p->is_by_proxy ? most_ms : wait_ms + extra_ms);
}

static void wait_for_leader(peer *p)
{
    if (now_of(p) - p->asked_ms >= LEADER_HOLD_MS) {
        sim_hit(FAULT_NO_LEADER);
        peer_reply_text(p, 500, sim_chance(dice(p), 50)
                                    ? "No cluster leader"
                                    : "rpc error making call: No cluster leader");
        return;
    }
    p->state = PEER_LEADERLESS;
    world_conn_timer(p->conn, LEADER_HOLD_MS);
}

/* An agent that does not hold queries is asked ever more slowly, as long as nothing changes. Over a
   slow network an answer looks as if it had been held. */
static void check_pace(peer *p)
{
    catalog_view *v = &p->agent->m->views[p->view];
    const model_agent *network = &p->agent->m->agents[0];
    bool is_slow = model_is_on(network, FAULT_SLOW) || model_is_on(network, FAULT_DRIP);
    bool is_idle = v->idle_hash == v->hash && p->noise == NUM_FAULTS && !is_slow &&
                   token_now(p) == TOKEN_FULL && p->index == v->told_index;
    v->num_idle = is_idle ? v->num_idle + 1 : 0;
    v->idle_hash = v->hash;
    if (v->num_idle > IDLE_FAST && now_of(p) - v->idle_at_ms < IDLE_SLOW_MS) {
        sim_fail(now_of(p), "a read %llu ms after the one before, of an agent that does not hold "
                 "queries", (unsigned long long)(now_of(p) - v->idle_at_ms));
    }
    v->idle_at_ms = now_of(p);
}

static void read_unlimited(peer *p)
{
    const model_agent *a = p->agent;
    const catalog_view *v = &a->m->views[p->view];
    bool is_denied = token_now(p) == TOKEN_UNKNOWN;
    if (is_denied && (!is_streamed(p) || sim_chance(dice(p), 30))) {
        answer_denied(p);
    } else if (!is_streamed(p) && !model_has_leader(a)) {
        wait_for_leader(p);
    } else if (p->noise == NOISE_FALSE_EMPTY && p->index == 0 && v->is_filled &&
               !v->was_emptied) {
        answer_false_empty(p, model_index_for(p), NOISE_FALSE_EMPTY);
    } else if (p->index == 0) {
        answer_read(p);
    } else if (model_is_on(a, FAULT_NO_BLOCK)) {
        sim_hit(FAULT_NO_BLOCK);
        check_pace(p);
        answer_waited(p);
    } else if (!is_denied && model_index_for(p) > p->index) {
        answer_read(p);
    } else {
        hold(p);
    }
}

/* In seconds, or as a date, which counts from the answer's own. */
static void retry_later(peer *p, char *headers, size_t max)
{
    uint32_t seconds = sim_below(dice(p), 20);
    bool is_date = !p->agent->m->desc.is_plain && sim_chance(dice(p), 50);
    (void)snprintf(headers, max, is_date ? "Retry-After: Thu, 01 Jan 2026 00:00:%02u GMT\r\n"
                                         : "Retry-After: %u\r\n", (unsigned)seconds);
    if (p->view >= 0) {
        p->agent->m->views[p->view].retry_after_ms = seconds * 1000;
    }
}

/* True: the request was refused. */
static bool is_limited(peer *p)
{
    char headers[120];
    if (!sim_chance(dice(p), p->agent->on[FAULT_RATE])) {
        return false;
    }
    sim_hit(FAULT_RATE);
    uint32_t kind = sim_below(dice(p), 4);
    if (kind == 0) {
        peer_reply_text(p, 503, "rate limit exceeded for operation that can only be performed by "
                                "the leader, try again later");
        return true;
    }
    headers[0] = '\0';
    if (kind == 1) {
        retry_later(p, headers, sizeof headers);
    }
    const char *body = rate_texts[sim_below(dice(p), 4)];
    peer_reply(p, 429, headers, body, strlen(body));
    return true;
}

static uint64_t number_of(const peer *p, const char *key)
{
    char value[32];
    return peer_param(p, key, value, sizeof value) ? strtoull(value, NULL, 10) : 0;
}

/* The index is the one that this very agent has told last, unless something went wrong since. What
   comes late on a connection that is closed by now says nothing. */
static void check_read(peer *p, const catalog_view *v)
{
    bool *expects_none = &p->agent->m->expects_no_index[p->view];
    if (p->wait_ms == 0 || p->wait_ms > v->wait_ms) {
        sim_fail(now_of(p), "a read with a wait of %u ms", (unsigned)p->wait_ms);
    }
    if (p->index == 0) {
        *expects_none = false;
    } else if (world_conn_is_open(p->conn)) {
        if (*expects_none) {
            sim_fail(now_of(p), "a read with index %llu after a failure",
                     (unsigned long long)p->index);
        }
        if (p->index != v->told_index || p->agent->nth != v->told_by) {
            sim_fail(now_of(p), "a read with index %llu at agent %u, not %llu at agent %u",
                     (unsigned long long)p->index, (unsigned)p->agent->nth,
                     (unsigned long long)v->told_index, (unsigned)v->told_by);
        }
    }
}

static void serve_read(peer *p)
{
    model *m = p->agent->m;
    char value[32];
    if (!peer_param(p, "sim", value, sizeof value)) {
        sim_fail(now_of(p), "a read lost its parameters: %s", p->path);
        return;
    }
    p->view = (int)strtoul(value, NULL, 10);
    p->index = number_of(p, "index");
    p->wait_ms = (uint32_t)number_of(p, "wait");
    check_read(p, &m->views[p->view]);
    if (p->index == 0 || !model_is_on(p->agent, FAULT_NO_BLOCK)) {
        m->views[p->view].num_idle = 0;
    }
    m->views[p->view].is_backwards = false;
    m->views[p->view].retry_after_ms = 0;
    if (!is_limited(p)) {
        read_unlimited(p);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

bool peer_param(const peer *p, const char *key, char *out, size_t max)
{
    size_t key_len = strlen(key);
    const char *at = p->query;
    while (*at != '\0') {
        size_t len = strcspn(at, "&");
        if (len > key_len && strncmp(at, key, key_len) == 0 && at[key_len] == '=') {
            size_t n = len - key_len - 1 < max - 1 ? len - key_len - 1 : max - 1;
            memcpy(out, at + key_len + 1, n);
            out[n] = '\0';
            return true;
        }
        at += len + (at[len] == '&' ? 1 : 0);
    }
    return false;
}

static const char *header_of(const char *head, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0) {
            return line + 2 + len;
        }
    }
    return NULL;
}

static token_kind kind_of_token(const char *text)
{
    if (text == NULL || strncmp(text, "good", 4) == 0) {
        return TOKEN_FULL;
    }
    return strncmp(text, "half", 4) == 0 ? TOKEN_HALF
         : strncmp(text, "blind", 5) == 0 ? TOKEN_BLIND : TOKEN_UNKNOWN;
}

/* Long after a token was set, each request carries it. */
static void check_token(const peer *p, const char *token)
{
    const model *m = p->agent->m;
    size_t len = strlen(m->token);
    bool is_it = token == NULL ? len == 0
                               : strncmp(token, m->token, len) == 0 && token[len] == '\r';
    if (m->has_token && now_of(p) >= m->token_at_ms + TOKEN_LATE_MS && !is_it &&
        world_conn_is_open(p->conn)) {
        sim_fail(now_of(p), "a request does not have the token \"%s\"", m->token);
    }
}

/* Cuts the request line into texts. */
static void cut_request(peer *p)
{
    char *end = strstr(p->in, "\r\n");
    char *target = strchr(p->in, ' ');
    *end = '\0';
    *target++ = '\0';
    char *version = strchr(target, ' ');
    *version = '\0';
    char *mark = strchr(target, '?');
    p->method = p->in;
    p->path = target;
    p->query = mark != NULL ? mark + 1 : "";
    if (mark != NULL) {
        *mark = '\0';
    }
    sim_trace(now_of(p), "agent %u gets %s %s?%s", (unsigned)p->agent->nth, p->method, p->path,
              p->query);
}

/* True: a registration was refused, or whatever changes something. */
static bool is_unwelcome(peer *p)
{
    uint32_t how = p->agent->on[FAULT_UNWELCOME];
    bool is_one = strcmp(p->path, "/v1/agent/service/register") == 0 ||
                  (how % 2 != 0 && strcmp(p->method, "PUT") == 0);
    if (how == 0 || !is_one) {
        return false;
    }
    sim_hit(FAULT_UNWELCOME);
    if (how % 3 == 0) {
        peer_reply_text(p, 403, "Permission denied: token with AccessorID 'x' lacks permission "
                                "'service:write' on \"own\"");
    } else {
        peer_reply_text(p, how % 3 == 1 ? 400 : 500, "Invalid service: x");
    }
    return true;
}

static void serve(peer *p)
{
    p->state = PEER_THINKING;
    if (reply_noise(p)) {
        return;
    }
    if (strncmp(p->path, "/v1/health/service/", 19) == 0) {
        serve_read(p);
    } else if (!is_limited(p)) {
        if (token_now(p) == TOKEN_UNKNOWN) {
            answer_denied(p);
        } else if (token_now(p) == TOKEN_BLIND) {
            sim_hit(FAULT_ACL_HIDE);
            peer_reply_text(p, 403, "Permission denied: token with AccessorID 'x' lacks "
                                    "permission 'service:write' on \"own\"");
        } else if (!is_unwelcome(p)) {
            locals_serve(p);
        }
    }
}

static sim_fault choose_noise(const peer *p)
{
    if (!sim_chance(dice(p), p->agent->on[FAULT_NOISE])) {
        return NUM_FAULTS;
    }
    return (sim_fault)(FAULT_NOISE + 1 + sim_below(dice(p), NUM_FAULTS - FAULT_NOISE - 1));
}

static void begin(peer *p)
{
    uint32_t think_ms = sim_below(dice(p), p->agent->m->desc.think_ms + 1);
    sim_now.exchanges++;
    const char *token = header_of(p->in, "X-Consul-Token: ");
    check_token(p, token);
    p->token = kind_of_token(token);
    cut_request(p);
    locals_hear(p);
    p->view = -1;
    p->index = 0;
    p->asked_ms = now_of(p);
    p->noise = choose_noise(p);
    p->state = PEER_THINKING;
    if (p->noise == NOISE_SILENCE) {
        sim_hit(NOISE_SILENCE);
        p->state = PEER_DEAD;
    } else if (model_is_on(p->agent, FAULT_PAUSE)) {
        sim_hit(FAULT_PAUSE);
    } else if (p->noise == NOISE_DELAY || think_ms > 0) {
        bool is_late = p->noise == NOISE_DELAY;
        if (is_late) {
            sim_hit(NOISE_DELAY);
        }
        world_conn_timer(p->conn, think_ms + (is_late ? sim_span(dice(p), 20, 16000) : 0));
    } else {
        serve(p);
    }
}

static void look_for_request(peer *p)
{
    p->in[p->len] = '\0';
    const char *end = strstr(p->in, "\r\n\r\n");
    if (p->state != PEER_IDLE || end == NULL) {
        return;
    }
    const char *length = header_of(p->in, "Content-Length: ");
    p->body = end + 4;
    p->body_len = length != NULL && length < end ? strtoul(length, NULL, 10) : 0;
    p->request_len = (size_t)(end + 4 - p->in) + p->body_len;
    if (p->len >= p->request_len) {
        begin(p);
    }
}

void peer_on_accept(void *user, world_conn *conn)
{
    model_agent *a = (model_agent *)user;
    peer *p = (peer *)calloc(1, sizeof *p);
    if (p == NULL) {
        abort();
    }
    p->agent = a;
    p->conn = conn;
    p->next = a->peers;
    a->peers = p;
    world_conn_set_user(conn, p);
    if (model_is_on(a, FAULT_CONN_LIMIT) || model_is_on(a, FAULT_CONN_SILENT)) {
        bool is_silent = !model_is_on(a, FAULT_CONN_LIMIT);
        if (!is_silent) {
            world_conn_send_str(conn, conn_limit);
        }
        close_without_answer(p, is_silent ? FAULT_CONN_SILENT : FAULT_CONN_LIMIT);
    } else if (!a->is_up || model_is_on(a, FAULT_BLACKHOLE)) {
        /* the fault began while the connection came up */
        p->state = PEER_DEAD;
        if (!a->is_up) {
            world_conn_close(conn);
        }
    }
}

void peer_on_bytes(void *user, world_conn *conn, const char *bytes, size_t len)
{
    peer *p = (peer *)world_conn_user(conn);
    (void)user;
    if (p == NULL || p->state == PEER_DEAD) {
        return;
    }
    if (p->len + len >= PEER_IN) {
        sim_fail(now_of(p), "a request of more than %u bytes", (unsigned)PEER_IN);
        return;
    }
    memcpy(p->in + p->len, bytes, len);
    p->len += len;
    look_for_request(p);
}

void peer_on_close(void *user, world_conn *conn)
{
    model_agent *a = (model_agent *)user;
    peer *p = (peer *)world_conn_user(conn);
    for (peer **at = &a->peers; *at != NULL; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            break;
        }
    }
    world_conn_set_user(conn, NULL);
    free(p);
}

void peer_on_timer(void *user, world_conn *conn)
{
    peer *p = (peer *)world_conn_user(conn);
    (void)user;
    if (p == NULL || model_is_on(p->agent, FAULT_PAUSE)) {
        return;
    }
    switch (p->state) {
    case PEER_THINKING:
        serve(p);
        break;
    case PEER_LEADERLESS:
        read_unlimited(p);
        break;
    case PEER_HELD:
        answer_waited(p);
        break;
    case PEER_IDLE:
    case PEER_DEAD:
        break;
    }
}

void peer_look(peer *p)
{
    if (model_is_on(p->agent, FAULT_PAUSE)) {
        return;
    }
    if (p->state == PEER_LEADERLESS && model_has_leader(p->agent)) {
        world_conn_timer_off(p->conn);
        read_unlimited(p);
        return;
    }
    if (p->state != PEER_HELD) {
        return;
    }
    bool is_denied = token_now(p) == TOKEN_UNKNOWN;
    bool is_due = is_denied ? sim_chance(dice(p), 50) : model_index_for(p) > p->index;
    if (is_due) {
        world_conn_timer_off(p->conn);
        p->is_by_proxy = false;
        if (is_denied) {
            answer_denied(p);
        } else {
            answer_read(p);
        }
    }
}

void peer_release(peer *p)
{
    if (p->state != PEER_HELD || model_is_on(p->agent, FAULT_PAUSE)) {
        return;
    }
    world_conn_timer_off(p->conn);
    p->is_by_proxy = false;
    if (p->agent->is_up || !p->agent->m->desc.streams) {
        answer_waited(p);
    } else {
        peer_reply_text(p, 500, "grpc: the client connection is closing");
    }
}

/* Timers that ended during the pause were let go by; all begin anew at once. */
void peer_resume(peer *p)
{
    if (p->state == PEER_THINKING || p->state == PEER_HELD || p->state == PEER_LEADERLESS) {
        world_conn_timer(p->conn, sim_below(dice(p), 20));
    }
}
