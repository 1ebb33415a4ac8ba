/* jsmn: tokens only, in one array that is kept. Numbers and escapes are left to
   the caller, so this one reads ports and undoes escapes itself. */
#define JSMN_STATIC
#define JSMN_PARENT_LINKS
#include <jsmn.h>

#include "peer.h"

#include <stdlib.h>

typedef struct walk {
    jsmntok_t *tokens;
    unsigned max_tokens;
    const char *body;
    char *plain;                /* what was unescaped of this body */
    size_t plain_len;
} walk;

static text raw_of(const walk *w, const jsmntok_t *t)
{
    text raw = { w->body + t->start, (size_t)(t->end - t->start) };

    return raw;
}

static unsigned hex4(const char *p)
{
    unsigned v = 0;

    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)p[i];
        v = v * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return v;
}

static size_t put_utf8(char *out, unsigned r)
{
    if (r < 0x80) {
        out[0] = (char)r;
        return 1;
    }
    if (r < 0x800) {
        out[0] = (char)(0xC0 | r >> 6);
        out[1] = (char)(0x80 | (r & 0x3F));
        return 2;
    }
    out[0] = (char)(0xE0 | r >> 12);
    out[1] = (char)(0x80 | (r >> 6 & 0x3F));
    out[2] = (char)(0x80 | (r & 0x3F));
    return 3;
}

/* Go writes no surrogate pairs: what is outside of the basic plane it writes as it is. */
static text unescaped(walk *w, text raw)
{
    static const char letters[] = "nrtbf", meaning[] = "\n\r\t\b\f";
    text out = { w->plain + w->plain_len, 0 };
    char *to = w->plain + w->plain_len;

    for (size_t i = 0; i < raw.len;) {
        if (raw.ptr[i] != '\\') {
            *to++ = raw.ptr[i++];
        } else if (raw.ptr[i + 1] == 'u') {
            to += put_utf8(to, hex4(raw.ptr + i + 2));
            i += 6;
        } else {
            const char *letter = strchr(letters, raw.ptr[i + 1]);
            *to++ = letter != NULL ? meaning[letter - letters] : raw.ptr[i + 1];
            i += 2;
        }
    }
    out.len = (size_t)(to - out.ptr);
    w->plain_len += out.len;
    return out;
}

static text string_of(walk *w, const jsmntok_t *t)
{
    text raw = raw_of(w, t);

    if (t->type != JSMN_STRING) {
        raw.len = 0;
    }
    return memchr(raw.ptr, '\\', raw.len) == NULL ? raw : unescaped(w, raw);
}

static uint64_t number_of(const walk *w, const jsmntok_t *t)
{
    uint64_t v = 0;

    for (int i = t->start; i < t->end; i++) {
        v = v * 10 + (uint64_t)(w->body[i] - '0');
    }
    return v;
}

/* The token behind this value and all that is in it. */
static const jsmntok_t *behind(const jsmntok_t *t)
{
    int end = t->end;

    for (t++; t->start < end && t->end >= 0; t++) {
    }
    return t;
}

static void on_node(walk *w, const jsmntok_t *node, entry *e)
{
    const jsmntok_t *key = node + 1;

    for (int i = 0; i < node->size; i++, key = behind(key + 1)) {
        text k = raw_of(w, key);
        if (TEXT_IS(k, "Node")) {
            e->node = string_of(w, key + 1);
        } else if (TEXT_IS(k, "Address")) {
            e->node_address = string_of(w, key + 1);
        }
    }
}

static void on_weights(walk *w, const jsmntok_t *weights, entry *e)
{
    const jsmntok_t *key = weights + 1;

    e->weight_warning = 0;
    for (int i = 0; i < weights->size; i++, key = behind(key + 1)) {
        text k = raw_of(w, key);
        if (TEXT_IS(k, "Passing")) {
            e->weight_passing = number_of(w, key + 1);
        } else if (TEXT_IS(k, "Warning")) {
            e->weight_warning = number_of(w, key + 1);
        }
    }
}

static void on_tags(walk *w, const jsmntok_t *tags, const sum *s, entry *e)
{
    for (int i = 0; i < tags->size; i++) {
        entry_tag(s, e, string_of(w, tags + 1 + i));
    }
}

static void on_meta(walk *w, const jsmntok_t *meta, const sum *s, entry *e)
{
    for (int i = 0; i < meta->size; i++) {
        text key = string_of(w, meta + 1 + 2 * i);
        entry_meta(s, e, key, string_of(w, meta + 2 + 2 * i));
    }
}

static void on_service(walk *w, const jsmntok_t *service, const sum *s, entry *e)
{
    const jsmntok_t *key = service + 1;

    for (int i = 0; i < service->size; i++, key = behind(key + 1)) {
        text k = raw_of(w, key);
        if (TEXT_IS(k, "ID")) {
            e->id = string_of(w, key + 1);
        } else if (TEXT_IS(k, "Address")) {
            e->address = string_of(w, key + 1);
        } else if (TEXT_IS(k, "Port")) {
            e->port = number_of(w, key + 1);
        } else if (TEXT_IS(k, "Tags")) {
            on_tags(w, key + 1, s, e);
        } else if (TEXT_IS(k, "Meta")) {
            on_meta(w, key + 1, s, e);
        } else if (TEXT_IS(k, "Weights")) {
            on_weights(w, key + 1, e);
        }
    }
}

static void on_check(walk *w, const jsmntok_t *check, entry *e)
{
    const jsmntok_t *key = check + 1;
    text id = { "", 0 }, status = { "", 0 };

    for (int i = 0; i < check->size; i++, key = behind(key + 1)) {
        text k = raw_of(w, key);
        if (TEXT_IS(k, "CheckID")) {
            id = string_of(w, key + 1);
        } else if (TEXT_IS(k, "Status")) {
            status = string_of(w, key + 1);
        }
    }
    entry_check(e, id, status);
}

static void on_checks(walk *w, const jsmntok_t *checks, entry *e)
{
    const jsmntok_t *check = checks + 1;

    for (int i = 0; i < checks->size; i++, check = behind(check)) {
        on_check(w, check, e);
    }
}

static const jsmntok_t *on_entry(walk *w, const jsmntok_t *item, sum *s)
{
    const jsmntok_t *key = item + 1;
    entry e;

    entry_begin(&e);
    for (int i = 0; i < item->size; i++) {
        text k = raw_of(w, key);
        if (TEXT_IS(k, "Node")) {
            on_node(w, key + 1, &e);
        } else if (TEXT_IS(k, "Service")) {
            on_service(w, key + 1, s, &e);
        } else if (TEXT_IS(k, "Checks")) {
            on_checks(w, key + 1, &e);
        }
        key = behind(key + 1);
    }
    entry_end(s, &e);
    return key;
}

static void *js_open(size_t max_len)
{
    walk *w = calloc(1, sizeof *w);

    w->max_tokens = (unsigned)(max_len / 6 + 64);
    w->tokens = malloc((w->max_tokens + 1) * sizeof *w->tokens);
    w->plain = malloc(max_len);
    return w;
}

static bool js_run(void *state, const char *body, size_t len, size_t chunk, sum *s)
{
    walk *w = state;
    jsmn_parser parser;

    (void)chunk;
    jsmn_init(&parser);
    int num = jsmn_parse(&parser, body, len, w->tokens, w->max_tokens);
    if (num < 1) {
        return false;
    }
    w->tokens[num].start = w->tokens[num].end = (int)len;
    w->body = body;
    w->plain_len = 0;
    const jsmntok_t *item = w->tokens + 1;
    for (int i = 0; i < w->tokens->size; i++) {
        item = on_entry(w, item, s);
    }
    return true;
}

static void js_close(void *state)
{
    walk *w = state;

    free(w->tokens);
    free(w->plain);
    free(w);
}

const peer *bench_peer(void)
{
    static const peer p = { "jsmn", PEER_VERSION, false, js_open, js_run, js_close };

    return &p;
}
