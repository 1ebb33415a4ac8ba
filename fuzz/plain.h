/* JSON once more, the plain way: one byte after the other, by recursion, over a text that is whole
   in memory. It tells the same events as sdc_json, and the same first error with its byte, and
   shares nothing with the header but the names of both. It is what model.h is built on, so that a
   fault in what the decoders of the header have in common is seen too.

       plain_result r = plain_read(bytes, len, fn, user);
       puts(r.err == SDC_OK ? "ok" : r.what);              at r.at

   fn may not refuse anything. */
#ifndef PLAIN_H
#define PLAIN_H

#include <stdlib.h>
#include <string.h>

enum { PLAIN_DEPTH_MAX = 64 };

typedef struct plain_result {
    sdc_err     err;
    size_t      at;
    const char *what;
} plain_result;

typedef struct plain {
    const unsigned char *bytes;
    size_t       len, at;
    sdc_json_fn  fn;
    void        *user;
    plain_result result;
    unsigned     depth;
    char        *text;          /* of the string being read: never longer than the input */
    size_t       text_len;
} plain;

static inline bool plain_fail(plain *p, sdc_err err, const char *what)
{
    p->result.err = err;
    p->result.at = p->at;
    p->result.what = what;
    return false;
}

/* The byte that is next, or -1 at the end. */
static inline int plain_peek(const plain *p)
{
    return p->at < p->len ? p->bytes[p->at] : -1;
}

/* At a byte that cannot stand there, or at the end. */
static inline bool plain_wrong(plain *p, const char *what)
{
    return plain_fail(p, SDC_ERR_JSON, p->at < p->len ? what : "the text ends too early");
}

static inline void plain_keep(plain *p, unsigned c)
{
    p->text[p->text_len++] = (char)c;
}

static inline void plain_space(plain *p)
{
    while (plain_peek(p) == ' ' || plain_peek(p) == '\t' || plain_peek(p) == '\r' ||
           plain_peek(p) == '\n') {
        p->at++;
    }
}

static inline bool plain_is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* -- Strings -- */

static inline void plain_keep_code_point(plain *p, unsigned c)
{
    if (c < 0x80) {
        plain_keep(p, c);
    } else if (c < 0x800) {
        plain_keep(p, 0xC0 + c / 64);
        plain_keep(p, 0x80 + c % 64);
    } else if (c < 0x10000) {
        plain_keep(p, 0xE0 + c / 4096);
        plain_keep(p, 0x80 + c / 64 % 64);
        plain_keep(p, 0x80 + c % 64);
    } else {
        plain_keep(p, 0xF0 + c / 262144);
        plain_keep(p, 0x80 + c / 4096 % 64);
        plain_keep(p, 0x80 + c / 64 % 64);
        plain_keep(p, 0x80 + c % 64);
    }
}

/* Four hexadecimal digits; stands behind them. */
static inline bool plain_hex(plain *p, unsigned *value)
{
    *value = 0;
    for (int i = 0; i < 4; i++) {
        int c = plain_peek(p);
        if (plain_is_digit(c)) {
            *value = *value * 16 + (unsigned)(c - '0');
        } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
            *value = *value * 16 + 10 + (unsigned)((c - 'A') % 32);
        } else {
            return plain_wrong(p, "\\u needs four hexadecimal digits");
        }
        p->at++;
    }
    return true;
}

/* Behind a \u. A surrogate is wrong at the last digit of the half that has no other one. */
static inline bool plain_unicode(plain *p)
{
    static const char half[] = "half of a surrogate pair";
    unsigned high = 0;
    unsigned low = 0;

    if (!plain_hex(p, &high)) {
        return false;
    }
    if (high < 0xD800 || high > 0xDFFF) {
        plain_keep_code_point(p, high);
        return true;
    }
    if (high >= 0xDC00) {
        p->at--;
        return plain_fail(p, SDC_ERR_JSON, half);
    }
    for (int i = 0; i < 2; i++) {
        if (plain_peek(p) != "\\u"[i]) {
            return plain_wrong(p, half);
        }
        p->at++;
    }
    if (!plain_hex(p, &low)) {
        return false;
    }
    if (low < 0xDC00 || low > 0xDFFF) {
        p->at--;
        return plain_fail(p, SDC_ERR_JSON, half);
    }
    plain_keep_code_point(p, 0x10000 + (high - 0xD800) * 1024 + (low - 0xDC00));
    return true;
}

static inline bool plain_escape(plain *p)
{
    static const char pairs[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    int c = plain_peek(p);

    if (c == 'u') {
        p->at++;
        return plain_unicode(p);
    }
    for (size_t i = 0; c > 0 && pairs[i] != '\0'; i += 2) {
        if (pairs[i] == c) {
            plain_keep(p, (unsigned char)pairs[i + 1]);
            p->at++;
            return true;
        }
    }
    return plain_wrong(p, "an unknown escape in a string");
}

/* Table 3-7 of the Unicode standard, row by row. */
static inline bool plain_utf8(plain *p)
{
    static const struct { unsigned char from, to, second_from, second_to; int more; } rows[] = {
        { 0xC2, 0xDF, 0x80, 0xBF, 1 }, { 0xE0, 0xE0, 0xA0, 0xBF, 2 },
        { 0xE1, 0xEC, 0x80, 0xBF, 2 }, { 0xED, 0xED, 0x80, 0x9F, 2 },
        { 0xEE, 0xEF, 0x80, 0xBF, 2 }, { 0xF0, 0xF0, 0x90, 0xBF, 3 },
        { 0xF1, 0xF3, 0x80, 0xBF, 3 }, { 0xF4, 0xF4, 0x80, 0x8F, 3 }
    };
    int first = plain_peek(p);

    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        if (first < rows[row].from || first > rows[row].to) {
            continue;
        }
        plain_keep(p, (unsigned)first);
        p->at++;
        for (int i = 0; i < rows[row].more; i++) {
            int c = plain_peek(p);
            bool is_good = i == 0 ? c >= rows[row].second_from && c <= rows[row].second_to
                                  : c >= 0x80 && c <= 0xBF;
            if (!is_good) {
                return plain_wrong(p, "invalid UTF-8");
            }
            plain_keep(p, (unsigned)c);
            p->at++;
        }
        return true;
    }
    return plain_wrong(p, "invalid UTF-8");
}

/* At its first quote. */
static inline bool plain_string(plain *p, sdc_json_kind kind)
{
    bool ok = true;

    p->text_len = 0;
    p->at++;
    while (ok) {
        int c = plain_peek(p);
        if (c == '"') {
            p->at++;
            (void)p->fn(p->user, kind, p->text, p->text_len);
            return true;
        }
        if (c < 0x20) {
            return plain_wrong(p, "a control character in a string");
        }
        if (c >= 0x80) {
            ok = plain_utf8(p);
        } else {
            p->at++;
            if (c == '\\') {
                ok = plain_escape(p);
            } else {
                plain_keep(p, (unsigned)c);
            }
        }
    }
    return false;
}

/* -- Numbers and literals -- */

/* At least one digit, and all that follow. */
static inline bool plain_digits(plain *p)
{
    if (!plain_is_digit(plain_peek(p))) {
        return plain_wrong(p, "a malformed number");
    }
    while (plain_is_digit(plain_peek(p))) {
        p->at++;
    }
    return true;
}

static inline bool plain_number(plain *p)
{
    size_t from = p->at;

    if (plain_peek(p) == '-') {
        p->at++;
    }
    if (plain_peek(p) == '0') {
        p->at++;
    } else if (!plain_digits(p)) {
        return false;
    }
    if (plain_peek(p) == '.') {
        p->at++;
        if (!plain_digits(p)) {
            return false;
        }
    }
    if (plain_peek(p) == 'e' || plain_peek(p) == 'E') {
        p->at++;
        if (plain_peek(p) == '+' || plain_peek(p) == '-') {
            p->at++;
        }
        if (!plain_digits(p)) {
            return false;
        }
    }
    if (p->at == p->len && p->depth > 0) {
        return plain_wrong(p, "");          /* more digits might have followed */
    }
    (void)p->fn(p->user, SDC_JSON_NUMBER, (const char *)p->bytes + from, p->at - from);
    return true;
}

static inline bool plain_literal(plain *p)
{
    int first = plain_peek(p);
    const char *text = first == 't' ? "true" : first == 'f' ? "false" : "null";

    for (size_t i = 0; text[i] != '\0'; i++) {
        if (plain_peek(p) != text[i]) {
            return plain_wrong(p, "neither true, false nor null");
        }
        p->at++;
    }
    (void)p->fn(p->user, first == 't' ? SDC_JSON_TRUE : first == 'f' ? SDC_JSON_FALSE
                                                                     : SDC_JSON_NULL, "", 0);
    return true;
}

/* -- Values -- */

static inline bool plain_value(plain *p);

/* A name and its colon. */
static inline bool plain_name(plain *p)
{
    if (plain_peek(p) != '"') {
        return plain_wrong(p, "a member name is missing");
    }
    if (!plain_string(p, SDC_JSON_KEY)) {
        return false;
    }
    plain_space(p);
    if (plain_peek(p) != ':') {
        return plain_wrong(p, "':' is missing");
    }
    p->at++;
    return true;
}

static inline bool plain_items(plain *p, bool is_object)
{
    int end = is_object ? '}' : ']';

    plain_space(p);
    if (plain_peek(p) == end) {
        return true;
    }
    for (;;) {
        plain_space(p);
        if (is_object && !plain_name(p)) {
            return false;
        }
        if (!plain_value(p)) {
            return false;
        }
        plain_space(p);
        if (plain_peek(p) == end) {
            return true;
        }
        if (plain_peek(p) != ',') {
            return plain_wrong(p, is_object ? "',' or '}' is missing" : "',' or ']' is missing");
        }
        p->at++;
    }
}

static inline bool plain_container(plain *p)
{
    bool is_object = plain_peek(p) == '{';

    if (p->depth == PLAIN_DEPTH_MAX) {
        return plain_fail(p, SDC_ERR_LIMIT, "nested deeper than 64 levels");
    }
    p->depth++;
    p->at++;
    (void)p->fn(p->user, is_object ? SDC_JSON_OBJECT : SDC_JSON_ARRAY, "", 0);
    if (!plain_items(p, is_object)) {
        return false;
    }
    p->depth--;
    p->at++;
    (void)p->fn(p->user, is_object ? SDC_JSON_OBJECT_END : SDC_JSON_ARRAY_END, "", 0);
    return true;
}

static inline bool plain_value(plain *p)
{
    plain_space(p);
    int c = plain_peek(p);
    if (c == '{' || c == '[') {
        return plain_container(p);
    }
    if (c == '"') {
        return plain_string(p, SDC_JSON_STRING);
    }
    if (c == '-' || plain_is_digit(c)) {
        return plain_number(p);
    }
    if (c == 't' || c == 'f' || c == 'n') {
        return plain_literal(p);
    }
    return plain_wrong(p, "a value is missing");
}

static inline plain_result plain_read(const void *bytes, size_t len, sdc_json_fn fn, void *user)
{
    plain p;

    memset(&p, 0, sizeof p);
    p.bytes = (const unsigned char *)bytes;
    p.len = len;
    p.fn = fn;
    p.user = user;
    p.text = (char *)malloc(len + 1);
    if (p.text == NULL) {
        abort();
    }
    if (plain_value(&p)) {
        plain_space(&p);
        if (p.at < p.len) {
            (void)plain_fail(&p, SDC_ERR_JSON, "more bytes after the value");
        }
    }
    free(p.text);
    return p.result;
}

#endif
