/* JSON as Go's encoding/json writes it: <, > and & escaped, four spaces when
   indented, nothing inside empty objects and arrays. */
#include "internal.h"

#include <string.h>

static void out_break(json_out *w)
{
    if (!w->is_pretty) {
        return;
    }
    buf_char(w->out, '\n');
    for (int i = 0; i < w->depth; i++) {
        buf_str(w->out, "    ");
    }
}

/* Before a value or a key: the comma and the new line that belong there. */
static void out_begin(json_out *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth == 0) {
        return;
    }
    if (!w->is_first) {
        buf_char(w->out, ',');
    }
    w->is_first = false;
    out_break(w);
}

void out_open(json_out *w, char bracket)
{
    out_begin(w);
    buf_char(w->out, bracket);
    w->depth++;
    w->is_first = true;
}

void out_close(json_out *w, char bracket)
{
    w->depth--;
    if (!w->is_first) {
        out_break(w);
    }
    buf_char(w->out, bracket);
    w->is_first = false;
}

static void out_escaped(json_out *w, const char *text)
{
    size_t len = strlen(text);

    buf_char(w->out, '"');
    for (size_t i = 0; i < len;) {
        uint32_t r = 0;
        size_t n = utf8_rune(text + i, len - i, &r);
        bool is_bad = r == 0xfffd && n == 1;

        if (r == '"' || r == '\\') {
            buf_fmt(w->out, "\\%c", (char)r);
        } else if (r == '\n' || r == '\r' || r == '\t') {
            buf_str(w->out, r == '\n' ? "\\n" : r == '\r' ? "\\r" : "\\t");
        } else if ((r == '\b' || r == '\f') && !w->is_go_old) {
            buf_str(w->out, r == '\b' ? "\\b" : "\\f");
        } else if (r < 0x20 || r == '<' || r == '>' || r == '&' || r == 0x2028 || r == 0x2029
                   || is_bad) {
            buf_fmt(w->out, "\\u%04x", (unsigned)r);
        } else {
            buf_add(w->out, text + i, n);
        }
        i += n;
    }
    buf_char(w->out, '"');
}

void out_key(json_out *w, const char *key)
{
    out_begin(w);
    out_escaped(w, key);
    buf_str(w->out, w->is_pretty ? ": " : ":");
    w->after_key = true;
}

void out_text(json_out *w, const char *text)
{
    out_begin(w);
    out_escaped(w, text);
}

void out_int(json_out *w, int64_t n)
{
    out_begin(w);
    buf_fmt(w->out, "%lld", (long long)n);
}

void out_uint(json_out *w, uint64_t n)
{
    out_begin(w);
    buf_fmt(w->out, "%llu", (unsigned long long)n);
}

void out_bool(json_out *w, bool b)
{
    out_begin(w);
    buf_str(w->out, b ? "true" : "false");
}

void out_null(json_out *w)
{
    out_begin(w);
    buf_str(w->out, "null");
}

void out_key_text(json_out *w, const char *key, const char *text)
{
    out_key(w, key);
    out_text(w, text);
}

void out_key_uint(json_out *w, const char *key, uint64_t n)
{
    out_key(w, key);
    out_uint(w, n);
}

void out_key_int(json_out *w, const char *key, int64_t n)
{
    out_key(w, key);
    out_int(w, n);
}

void out_key_empty(json_out *w, const char *key)
{
    out_key(w, key);
    out_open(w, '{');
    out_close(w, '}');
}

void out_strs(json_out *w, const strs *list)
{
    out_open(w, '[');
    for (size_t i = 0; i < list->n; i++) {
        out_text(w, list->v[i]);
    }
    out_close(w, ']');
}

void out_pairs(json_out *w, const pairs *map)
{
    out_open(w, '{');
    for (size_t i = 0; i < map->n; i++) {
        out_key_text(w, map->v[i].key, map->v[i].value);
    }
    out_close(w, '}');
}
