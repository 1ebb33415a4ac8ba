#include "value.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *at, *end;
    int         depth;
} reader;

static value *read_value(reader *r);

void value_free(value *v)
{
    while (v != NULL) {
        value *next = v->next;
        value_free(v->first);
        free(v->name);
        free(v->text);
        free(v);
        v = next;
    }
}

static void skip_space(reader *r)
{
    while (r->at < r->end && strchr(" \t\r\n", *r->at) != NULL && *r->at != '\0') {
        r->at++;
    }
}

static int take(reader *r, char c)
{
    skip_space(r);
    if (r->at < r->end && *r->at == c) {
        r->at++;
        return 1;
    }
    return 0;
}

static value *new_value(value_kind kind)
{
    value *v = (value *)calloc(1, sizeof *v);
    if (v != NULL) {
        v->kind = kind;
    }
    return v;
}

/* Four hexadecimal digits, or -1. */
static long read_hex(reader *r)
{
    char digits[5] = "";
    if (r->end - r->at < 4) {
        return -1;
    }
    memcpy(digits, r->at, 4);
    r->at += 4;
    return strspn(digits, "0123456789abcdefABCDEF") == 4 ? strtol(digits, NULL, 16) : -1;
}

static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *to++ = (char)(0xE0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    } else {
        *to++ = (char)(0xF0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3F));
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    }
    return to;
}

/* Behind a backslash; NULL when it is no escape. */
static char *read_escape(reader *r, char *to)
{
    static const char from_chars[] = "\"\\/bfnrt", to_chars[] = "\"\\/\b\f\n\r\t";
    char c = *r->at++;
    const char *known = c != '\0' ? strchr(from_chars, c) : NULL;
    if (known != NULL) {
        *to++ = to_chars[known - from_chars];
        return to;
    }
    long high = c == 'u' ? read_hex(r) : -1;
    if (high < 0xD800 || high > 0xDFFF) {
        return high < 0 ? NULL : put_utf8(to, (uint32_t)high);
    }
    if (high > 0xDBFF || r->end - r->at < 6 || memcmp(r->at, "\\u", 2) != 0) {
        return NULL;
    }
    r->at += 2;
    long low = read_hex(r);
    if (low < 0xDC00 || low > 0xDFFF) {
        return NULL;
    }
    return put_utf8(to, 0x10000u + ((uint32_t)(high - 0xD800) << 10) + (uint32_t)(low - 0xDC00));
}

/* Decoded text is never longer than what was written. */
static char *read_string(reader *r)
{
    if (!take(r, '"')) {
        return NULL;
    }
    char *text = (char *)malloc((size_t)(r->end - r->at) + 1);
    char *to = text;
    while (text != NULL && r->at < r->end && *r->at != '"' && (unsigned char)*r->at >= 0x20) {
        if (*r->at != '\\') {
            *to++ = *r->at++;
            continue;
        }
        r->at++;
        to = r->at < r->end ? read_escape(r, to) : NULL;
        if (to == NULL) {
            free(text);
            return NULL;
        }
    }
    if (text != NULL && !take(r, '"')) {
        free(text);
        return NULL;
    }
    if (text != NULL) {
        *to = '\0';
    }
    return text;
}

static size_t count_digits(const char *at, const char *end)
{
    size_t n = 0;
    while (at + n < end && at[n] >= '0' && at[n] <= '9') {
        n++;
    }
    return n;
}

static value *read_number(reader *r)
{
    const char *from = r->at;
    const char *at = from + (*from == '-');
    size_t whole = count_digits(at, r->end);
    if (whole == 0 || (whole > 1 && *at == '0')) {
        return NULL;
    }
    at += whole;
    if (at < r->end && *at == '.') {
        size_t n = count_digits(at + 1, r->end);
        if (n == 0) {
            return NULL;
        }
        at += 1 + n;
    }
    if (at < r->end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < r->end && (*at == '+' || *at == '-');
        size_t n = count_digits(at, r->end);
        if (n == 0) {
            return NULL;
        }
        at += n;
    }
    value *v = new_value(VALUE_NUMBER);
    if (v != NULL) {
        v->text = strndup(from, (size_t)(at - from));
    }
    r->at = at;
    return v;
}

static value *read_word(reader *r, const char *word, value_kind kind)
{
    size_t len = strlen(word);
    if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len) != 0) {
        return NULL;
    }
    r->at += len;
    return new_value(kind);
}

/* Behind the opening bracket. */
static value *read_members(reader *r, value_kind kind, char close)
{
    value *all = new_value(kind);
    value **to = all != NULL ? &all->first : NULL;
    if (to == NULL || take(r, close)) {
        return all;
    }
    do {
        char *name = kind == VALUE_OBJECT ? read_string(r) : NULL;
        int is_named = kind != VALUE_OBJECT || (name != NULL && take(r, ':'));
        *to = is_named ? read_value(r) : NULL;
        if (*to == NULL) {
            free(name);
            value_free(all);
            return NULL;
        }
        (*to)->name = name;
        to = &(*to)->next;
    } while (take(r, ','));
    if (!take(r, close)) {
        value_free(all);
        return NULL;
    }
    return all;
}

static value *read_value(reader *r)
{
    value *v = NULL;
    skip_space(r);
    if (r->at == r->end || r->depth == 64) {
        return NULL;
    }
    r->depth++;
    switch (*r->at) {
    case '{': r->at++; v = read_members(r, VALUE_OBJECT, '}'); break;
    case '[': r->at++; v = read_members(r, VALUE_ARRAY, ']'); break;
    case 'n': v = read_word(r, "null", VALUE_NULL); break;
    case 't': v = read_word(r, "true", VALUE_TRUE); break;
    case 'f': v = read_word(r, "false", VALUE_FALSE); break;
    case '"': {
        char *text = read_string(r);
        v = text != NULL ? new_value(VALUE_STRING) : NULL;
        if (v != NULL) {
            v->text = text;
        }
        break;
    }
    default: v = read_number(r); break;
    }
    r->depth--;
    return v;
}

value *value_read(const char *text, size_t len)
{
    reader r = { .at = text, .end = text + len };
    value *v = read_value(&r);
    skip_space(&r);
    if (v != NULL && r.at != r.end) {
        value_free(v);
        return NULL;
    }
    return v;
}

const value *value_at(const value *v, const char *path)
{
    static const value none = { .kind = VALUE_NONE };
    while (v != NULL && *path != '\0') {
        size_t len = strcspn(path, "/");
        long index = v->kind == VALUE_ARRAY ? strtol(path, NULL, 10) : -1;
        const value *m = v->first;
        while (m != NULL && (v->kind == VALUE_ARRAY
                                 ? index-- > 0
                                 : strncmp(m->name, path, len) != 0 || m->name[len] != '\0')) {
            m = m->next;
        }
        v = m;
        path += len + (path[len] == '/');
    }
    return v != NULL ? v : &none;
}

const char *value_text(const value *v)
{
    return v->text != NULL ? v->text : "";
}

size_t value_count(const value *v)
{
    size_t n = 0;
    for (const value *m = v->first; m != NULL; m = m->next) {
        n++;
    }
    return n;
}

static void show_array(const value *v, char *out, size_t max)
{
    size_t len = (size_t)snprintf(out, max, "[");
    for (const value *m = v->first; m != NULL && len < max; m = m->next) {
        if (m->kind != VALUE_STRING) {
            snprintf(out, max, "[%zu]", value_count(v));
            return;
        }
        len += (size_t)snprintf(out + len, max - len, "%s%s", m->text, m->next ? "," : "");
    }
    if (len < max) {
        snprintf(out + len, max - len, "]");
    }
}

void value_show(const value *v, char *out, size_t max)
{
    switch (v->kind) {
    case VALUE_NONE: snprintf(out, max, "absent"); break;
    case VALUE_NULL: snprintf(out, max, "null"); break;
    case VALUE_FALSE: snprintf(out, max, "false"); break;
    case VALUE_TRUE: snprintf(out, max, "true"); break;
    case VALUE_NUMBER:
    case VALUE_STRING: snprintf(out, max, "%s", v->text); break;
    case VALUE_ARRAY: show_array(v, out, max); break;
    case VALUE_OBJECT:
        snprintf(out, max, v->first != NULL ? "{%zu}" : "{}", value_count(v));
        break;
    }
}
