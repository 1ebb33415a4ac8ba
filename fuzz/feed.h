/* How the tests and the fuzz targets feed a decoder. All that it says of an input (its events, the
   result, the error with its byte) is written down as one text, and that text must be the same
   however the input is cut. Include sdconsul.h before this file; with SDCONSUL_IMPLEMENTATION the
   reasons for entries that are left out are in the log too.

       feed f;
       feed_init(&f, FEED_JSON, NULL);
       puts(feed_whole(&f, "[1]", 3));              [ 1 ] | ok
       if (!feed_is_steady(&f, "[1]", 3)) { ... f.why says which cut changed what ... }
       feed_deinit(&f);

   JSON       tokens with a space between them: { "name": [ "text" -1.5e3 null ] } | ok
   entries    a line for each instance, "skip N: why" for one that is left out, then the result
   HTTP       200 {Name: value} "body" | ok whole keep
   A failure stands where ok would, as code and message: | JSON: JSON, byte 1: a value is missing */
#ifndef FEED_H
#define FEED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum feed_kind { FEED_JSON, FEED_ENTRIES, FEED_HTTP } feed_kind;

typedef struct feed_log {
    char  *text;
    size_t len, cap;
} feed_log;

typedef struct feed {
    feed_kind    kind;
    sdc_json    *json;
    sdc_entries *entries;
    sdc_http    *http;
    feed_log     log;               /* of the newest run                                      */
    feed_log     first;             /* of the run that feed_is_steady compares with           */
    size_t       taken;             /* bytes of the newest run that the decoder used          */
    sdc_err      made;              /* what create answered; nothing can be fed unless SDC_OK */
    sdc_err      err;               /* the result of the newest run                           */
    bool         in_body;           /* the log is inside the body's quotes                    */
    bool         each_instance_is_sane;
    bool         omits_reasons;     /* no lines for entries that are left out                 */
    char         why[2048];
} feed;

/* Inputs up to this size are cut at every byte, longer ones at FEED_PLACES seeded places. */
enum { FEED_EVERY = 4096, FEED_PLACES = 1000 };

/* -- The log -- */

static inline void feed_put(feed_log *log, const char *bytes, size_t len)
{
    if (log->len + len + 1 > log->cap) {
        size_t cap = 2 * log->cap + len + 256;
        char *text = (char *)realloc(log->text, cap);
        if (text == NULL) {
            abort();
        }
        log->text = text;
        log->cap = cap;
    }
    if (len > 0) {
        memcpy(log->text + log->len, bytes, len);
    }
    log->len += len;
    log->text[log->len] = '\0';
}

static inline void feed_puts(feed_log *log, const char *text)
{
    feed_put(log, text, strlen(text));
}

/* Printable ASCII as it is, but for the backslash and what is in `also`; the rest as \xNN. */
static inline void feed_put_escaped(feed_log *log, const char *bytes, size_t len, const char *also)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t done = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c < 0x20 || c >= 0x7F || c == '\\' || strchr(also, c) != NULL) {
            char escape[4] = { '\\', 'x', digits[c >> 4], digits[c & 15] };
            feed_put(log, bytes + done, i - done);
            feed_put(log, escape, sizeof escape);
            done = i + 1;
        }
    }
    feed_put(log, bytes + done, len - done);
}

static inline void feed_put_u64(feed_log *log, uint64_t value)
{
    char digits[24];
    size_t at = sizeof digits;

    do {
        at--;
        digits[at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    feed_put(log, digits + at, sizeof digits - at);
}

static inline const char *feed_err_name(sdc_err err)
{
    switch (err) {
    case SDC_OK:          return "ok";
    case SDC_AGAIN:       return "AGAIN";
    case SDC_STOPPED:     return "STOPPED";
    case SDC_GONE:        return "GONE";
    case SDC_ERR_ARG:     return "ARG";
    case SDC_ERR_NOMEM:   return "NOMEM";
    case SDC_ERR_LIMIT:   return "LIMIT";
    case SDC_ERR_RESOLVE: return "RESOLVE";
    case SDC_ERR_CONNECT: return "CONNECT";
    case SDC_ERR_TLS:     return "TLS";
    case SDC_ERR_IO:      return "IO";
    case SDC_ERR_TIMEOUT: return "TIMEOUT";
    case SDC_ERR_HTTP:    return "HTTP";
    case SDC_ERR_STATUS:  return "STATUS";
    case SDC_ERR_DENIED:  return "DENIED";
    case SDC_ERR_BUSY:    return "BUSY";
    case SDC_ERR_JSON:    return "JSON";
    case SDC_ERR_SHAPE:   return "SHAPE";
    case SDC_ERR_EMPTY:   return "EMPTY";
    case SDC_ERR_USER:    return "USER";
    }
    return "?";
}

/* The result of a run. What the decoder's error says must agree with what finish answered. */
static inline void feed_put_result(feed *f, const sdc_error *error)
{
    feed_puts(&f->log, feed_err_name(f->err));
    if (f->err != SDC_OK) {
        feed_puts(&f->log, ": ");
        feed_puts(&f->log, error->message);
    }
    if (error->code != f->err) {
        feed_puts(&f->log, " (but the error's code is another)");
    }
}

/* -- JSON -- */

static inline sdc_err feed_on_json(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    static const char *const marks[] = { "null ", "false ", "true ", "", "", "", "{ ", "} ", "[ ",
                                         "] " };
    feed *f = (feed *)user;
    bool is_text = kind == SDC_JSON_STRING || kind == SDC_JSON_KEY;

    feed_puts(&f->log, marks[kind]);
    feed_puts(&f->log, is_text ? "\"" : "");
    feed_put_escaped(&f->log, text, len, "\"");
    feed_puts(&f->log, kind == SDC_JSON_KEY ? "\": " : is_text ? "\" " : len > 0 ? " " : "");
    return SDC_OK;
}

/* -- Entries -- */

static inline void feed_put_word(feed_log *log, const char *text)
{
    feed_put_escaped(log, text, strlen(text), " ,=");
}

static inline void feed_put_field(feed_log *log, const char *name, const char *value)
{
    if (value[0] != '\0') {
        feed_puts(log, " ");
        feed_puts(log, name);
        feed_puts(log, "=");
        feed_put_word(log, value);
    }
}

static inline void feed_put_lists(feed_log *log, const sdc_instance *in)
{
    for (size_t i = 0; i < in->num_tags; i++) {
        feed_puts(log, i == 0 ? " tags=" : ",");
        feed_put_word(log, in->tags[i]);
    }
    for (size_t i = 0; i < in->num_meta; i++) {
        feed_puts(log, " meta.");
        feed_put_word(log, in->meta[i].key);
        feed_puts(log, "=");
        feed_put_word(log, in->meta[i].value);
    }
    for (size_t i = 0; i < in->num_tagged_addresses; i++) {
        feed_puts(log, " at.");
        feed_put_word(log, in->tagged_addresses[i].key);
        feed_puts(log, "=");
        feed_put_word(log, in->tagged_addresses[i].address);
        feed_puts(log, ":");
        feed_put_u64(log, in->tagged_addresses[i].port);
    }
    for (size_t i = 0; i < in->num_ports; i++) {
        feed_puts(log, " port.");
        feed_put_word(log, in->ports[i].name);
        feed_puts(log, "=");
        feed_put_u64(log, in->ports[i].port);
        feed_puts(log, in->ports[i].is_default ? "*" : "");
    }
}

/* host and port stand in addr already, where they are not checked by feed_is_sane. */
static inline void feed_put_instance(feed_log *log, const sdc_instance *in)
{
    static const char *const status[] = { "unset", "passing", "warning", "critical",
                                          "maintenance" };

    feed_put_word(log, in->addr);
    feed_put_field(log, "id", in->id);
    feed_put_field(log, "service", in->service);
    feed_put_field(log, "node", in->node);
    feed_put_field(log, "dc", in->datacenter);
    feed_put_field(log, "ns", in->ns);
    feed_put_field(log, "partition", in->partition);
    feed_put_field(log, "peer", in->peer);
    feed_put_field(log, "region", in->region);
    feed_put_field(log, "zone", in->zone);
    feed_put_lists(log, in);
    feed_puts(log, " ");
    feed_puts(log, status[in->status]);
    feed_puts(log, " weight=");
    feed_put_u64(log, in->weight);
    feed_puts(log, "\n");
}

/* UTF-8 as the Unicode standard has it (15, table 3-7), without NUL. */
static inline bool feed_is_utf8(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    while (*s != 0) {
        size_t more = *s < 0x80 ? 0 : *s < 0xE0 ? 1 : *s < 0xF0 ? 2 : 3;
        if ((*s >= 0x80 && *s < 0xC2) || *s > 0xF4 || (*s == 0xE0 && s[1] < 0xA0) ||
            (*s == 0xED && s[1] > 0x9F) || (*s == 0xF0 && s[1] < 0x90) ||
            (*s == 0xF4 && s[1] > 0x8F)) {
            return false;
        }
        for (size_t i = 1; i <= more; i++) {
            if ((s[i] & 0xC0) != 0x80) {
                return false;
            }
        }
        s += more + 1;
    }
    return true;
}

static inline bool feed_strings_are_sane(const sdc_instance *in)
{
    const char *const texts[] = { in->addr, in->host, in->socket_path, in->id, in->service,
                                  in->node, in->datacenter, in->ns, in->partition, in->peer,
                                  in->region, in->zone };
    bool ok = true;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        ok = ok && texts[i] != NULL && feed_is_utf8(texts[i]);
    }
    for (size_t i = 0; i < in->num_tags; i++) {
        ok = ok && feed_is_utf8(in->tags[i]) &&
             (i == 0 || strcmp(in->tags[i - 1], in->tags[i]) <= 0);
    }
    for (size_t i = 0; i < in->num_meta; i++) {
        ok = ok && feed_is_utf8(in->meta[i].key) && feed_is_utf8(in->meta[i].value) &&
             (i == 0 || strcmp(in->meta[i - 1].key, in->meta[i].key) < 0);
    }
    for (size_t i = 0; i < in->num_tagged_addresses; i++) {
        const sdc_address *a = &in->tagged_addresses[i];
        ok = ok && feed_is_utf8(a->key) && feed_is_utf8(a->address) &&
             (i == 0 || strcmp(a[-1].key, a->key) < 0);
    }
    for (size_t i = 0; i < in->num_ports; i++) {
        ok = ok && feed_is_utf8(in->ports[i].name);
    }
    return ok;
}

/* addr against what it is made of; a port where there is no socket path; one of Consul's states. */
static inline bool feed_is_sane(const sdc_instance *in)
{
    feed_log want = { NULL, 0, 0 };
    bool has_brackets = strchr(in->host, ':') != NULL && in->host[0] != '[';

    if (in->socket_path[0] != '\0') {
        feed_puts(&want, "unix:");
        feed_puts(&want, in->socket_path);
    } else {
        feed_puts(&want, has_brackets ? "[" : "");
        feed_puts(&want, in->host);
        feed_puts(&want, has_brackets ? "]:" : ":");
        feed_put_u64(&want, in->port);
    }
    bool ok = strcmp(want.text, in->addr) == 0 &&
              (in->socket_path[0] != '\0' || (in->host[0] != '\0' && in->port != 0)) &&
              in->status >= SDC_STATUS_PASSING && in->status <= SDC_STATUS_MAINTENANCE &&
              in->weight <= 65535 && (in->status < SDC_STATUS_CRITICAL || in->weight == 0);
    free(want.text);
    return ok && feed_strings_are_sane(in);
}

static inline sdc_err feed_on_instance(void *user, const sdc_instance *instance)
{
    feed *f = (feed *)user;

    f->each_instance_is_sane = f->each_instance_is_sane && feed_is_sane(instance);
    feed_put_instance(&f->log, instance);
    return SDC_OK;
}

#ifdef SDCONSUL_IMPLEMENTATION
static inline void feed_on_skipped(void *user, uint64_t number, const char *why)
{
    feed *f = (feed *)user;

    if (f->omits_reasons) {
        return;
    }
    feed_puts(&f->log, "skip ");
    feed_put_u64(&f->log, number);
    feed_puts(&f->log, ": ");
    feed_puts(&f->log, why);
    feed_puts(&f->log, "\n");
}
#endif

/* -- HTTP -- */

static inline sdc_err feed_on_status(void *user, int status)
{
    feed *f = (feed *)user;

    feed_put_u64(&f->log, (uint64_t)status);
    feed_puts(&f->log, " ");
    return SDC_OK;
}

static inline sdc_err feed_on_header(void *user, const char *name, size_t name_len,
                                     const char *value, size_t value_len)
{
    feed *f = (feed *)user;

    feed_puts(&f->log, "{");
    feed_put_escaped(&f->log, name, name_len, "{}");
    feed_puts(&f->log, ": ");
    feed_put_escaped(&f->log, value, value_len, "{}");
    feed_puts(&f->log, "} ");
    return SDC_OK;
}

static inline sdc_err feed_on_body(void *user, const void *bytes, size_t len)
{
    feed *f = (feed *)user;

    feed_puts(&f->log, f->in_body ? "" : "\"");
    f->in_body = true;
    feed_put_escaped(&f->log, (const char *)bytes, len, "\"");
    return SDC_OK;
}

static inline sdc_err feed_create_http(feed *f, const sdc_allocator *allocator)
{
    sdc_http_handler handler;

    handler.user = f;
    handler.on_status = feed_on_status;
    handler.on_header = feed_on_header;
    handler.on_body = feed_on_body;
    return sdc_http_create(allocator, &handler, &f->http);
}

/* -- One run -- */

static inline void feed_init(feed *f, feed_kind kind, const sdc_allocator *allocator)
{
    memset(f, 0, sizeof *f);
    f->kind = kind;
    f->each_instance_is_sane = true;
    if (kind == FEED_JSON) {
        f->made = sdc_json_create(allocator, feed_on_json, f, &f->json);
    } else if (kind == FEED_ENTRIES) {
        f->made = sdc_entries_create(allocator, feed_on_instance, f, &f->entries);
    } else {
        f->made = feed_create_http(f, allocator);
    }
#ifdef SDCONSUL_IMPLEMENTATION
    if (f->entries != NULL) {
        f->entries->skipped_fn = feed_on_skipped;
    }
#endif
}

static inline void feed_deinit(feed *f)
{
    sdc_json_destroy(f->json);
    sdc_entries_destroy(f->entries);
    sdc_http_destroy(f->http);
    free(f->log.text);
    free(f->first.text);
}

static inline void feed_begin(feed *f)
{
    f->log.len = 0;
    feed_puts(&f->log, "");
    f->taken = 0;
    f->err = SDC_OK;
    f->in_body = false;
    if (f->kind == FEED_JSON) {
        sdc_json_reset(f->json);
    } else if (f->kind == FEED_ENTRIES) {
        sdc_entries_reset(f->entries);
    } else {
        sdc_http_reset(f->http);
    }
}

/* False: the decoder wants no more. */
static inline bool feed_piece(feed *f, const void *bytes, size_t len)
{
    size_t used = len;

    if (f->kind == FEED_JSON) {
        f->err = sdc_json_feed(f->json, bytes, len);
    } else if (f->kind == FEED_ENTRIES) {
        f->err = sdc_entries_feed(f->entries, bytes, len);
    } else {
        f->err = sdc_http_feed(f->http, bytes, len, &used);
    }
    f->taken += used;
    return f->err == SDC_OK && used == len;
}

static inline void feed_end_http(feed *f, size_t len)
{
    sdc_error error;
    bool is_whole = sdc_http_is_complete(f->http);

    f->err = sdc_http_finish(f->http);
    sdc_http_error(f->http, &error);
    feed_puts(&f->log, f->in_body ? "\" | " : "| ");
    feed_put_result(f, &error);
    if (f->err == SDC_OK) {
        feed_puts(&f->log, is_whole ? " whole" : " ended");
        feed_puts(&f->log, sdc_http_keeps_alive(f->http) ? " keep" : " close");
        if (f->taken < len) {
            feed_puts(&f->log, " rest ");
            feed_put_u64(&f->log, len - f->taken);
        }
    }
}

/* Answers the log, valid until the next run. */
static inline const char *feed_end(feed *f, size_t len)
{
    sdc_error error;

    if (f->kind == FEED_JSON) {
        f->err = sdc_json_finish(f->json);
        sdc_json_error(f->json, &error);
        feed_puts(&f->log, "| ");
        feed_put_result(f, &error);
    } else if (f->kind == FEED_ENTRIES) {
        f->err = sdc_entries_finish(f->entries);
        sdc_entries_error(f->entries, &error);
        feed_put_result(f, &error);
        feed_puts(&f->log, ", ");
        feed_put_u64(&f->log, sdc_entries_skipped(f->entries));
        feed_puts(&f->log, " skipped");
    } else {
        feed_end_http(f, len);
    }
    return f->log.text;
}

static inline const char *feed_whole(feed *f, const void *bytes, size_t len)
{
    feed_begin(f);
    (void)feed_piece(f, bytes, len);
    return feed_end(f, len);
}

/* In pieces of `step` bytes, after a first one of `at`; a step of 0 is one piece for the rest. */
static inline const char *feed_in_pieces(feed *f, const void *bytes, size_t len, size_t at,
                                         size_t step)
{
    const char *p = (const char *)bytes;
    bool goes_on = true;

    feed_begin(f);
    if (at > 0) {
        goes_on = feed_piece(f, p, at);
    }
    for (size_t done = at; goes_on && done < len;) {
        size_t piece = step == 0 || step > len - done ? len - done : step;
        goes_on = feed_piece(f, p + done, piece);
        done += piece;
    }
    return feed_end(f, len);
}

/* -- All cuts -- */

static inline bool feed_same(feed *f, const char *cut, size_t at)
{
    size_t same = 0;

    if (f->log.len == f->first.len && memcmp(f->log.text, f->first.text, f->log.len) == 0) {
        return true;
    }
    while (f->log.text[same] != '\0' && f->log.text[same] == f->first.text[same]) {
        same++;
    }
    size_t from = same > 40 ? same - 40 : 0;
    snprintf(f->why, sizeof f->why, "%s %zu: \"%.200s\" instead of \"%.200s\"", cut, at,
             f->log.text + from, f->first.text + from);
    return false;
}

/* Evenly spread places, the same in each run. */
static inline size_t feed_place(uint64_t *state, size_t len)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)((*state >> 33) % len);
}

/* Feeds the input whole, cut once at every place (or at many seeded ones), and byte by byte.
   False: two of these differ, and `why` says how. `first` holds the log of the whole one. */
static inline bool feed_is_steady(feed *f, const void *bytes, size_t len)
{
    size_t num = len <= FEED_EVERY ? len : FEED_PLACES;
    uint64_t random = len;

    (void)feed_whole(f, bytes, len);
    f->first.len = 0;
    feed_put(&f->first, f->log.text, f->log.len);
    for (size_t i = 0; i < num; i++) {
        size_t at = len <= FEED_EVERY ? i : feed_place(&random, len);
        (void)feed_in_pieces(f, bytes, len, at, 0);
        if (!feed_same(f, "cut at", at)) {
            return false;
        }
    }
    (void)feed_in_pieces(f, bytes, len, 0, 1);
    return feed_same(f, "byte by byte of", len);
}

/* -- For tests -- */

#ifdef TEST_H
/* The log of the input, after all cuts were tried. Valid until the next call for that decoder. */
static inline const char *feed_check(feed *f, const void *bytes, size_t len)
{
    if (f->made != SDC_OK) {
        FAIL("no decoder: %s", feed_err_name(f->made));
        return "";
    }
    if (!feed_is_steady(f, bytes, len)) {
        FAIL("input \"%.*s\": %s", (int)(len < 200 ? len : 200), (const char *)bytes, f->why);
    }
    if (!f->each_instance_is_sane) {
        FAIL("input \"%.*s\": an instance breaks a rule", (int)(len < 200 ? len : 200),
             (const char *)bytes);
        f->each_instance_is_sane = true;
    }
    return f->first.text;
}
#endif

#endif
