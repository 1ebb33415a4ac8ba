/* Request bodies as a tree. The bytes go through the header's own decoder; what
   Go would say about wrong ones comes from a second look at them. */
#include "internal.h"

#include "../../sdconsul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

typedef struct builder {
    node  *open[DEPTH_MAX];
    size_t depth;
    char  *key;
    node  *root;
    bool   is_done;
} builder;

void node_free(node *n)
{
    if (n == NULL) {
        return;
    }
    for (size_t i = 0; i < n->num_kids; i++) {
        node_free(n->kids[i]);
    }
    free(n->kids);
    free(n->key);
    free(n->text);
    free(n);
}

static void place(builder *b, node *n)
{
    n->key = b->key;
    b->key = NULL;
    if (b->depth == 0) {
        b->root = n;
        return;
    }
    node *parent = b->open[b->depth - 1];
    parent->kids = agent_grow(parent->kids, (parent->num_kids + 1) * sizeof *parent->kids);
    parent->kids[parent->num_kids++] = n;
}

static node_kind kind_of(sdc_json_kind kind)
{
    switch (kind) {
    case SDC_JSON_FALSE:
    case SDC_JSON_TRUE:
        return NODE_BOOL;
    case SDC_JSON_NUMBER:
        return NODE_NUMBER;
    case SDC_JSON_STRING:
        return NODE_STRING;
    case SDC_JSON_OBJECT:
        return NODE_OBJECT;
    case SDC_JSON_ARRAY:
        return NODE_ARRAY;
    case SDC_JSON_NULL:
    case SDC_JSON_KEY:
    case SDC_JSON_OBJECT_END:
    case SDC_JSON_ARRAY_END:
        break;
    }
    return NODE_NULL;
}

static sdc_err on_json(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    builder *b = user;

    if (kind == SDC_JSON_KEY) {
        free(b->key);
        b->key = agent_dup_len(text, len);
        return SDC_OK;
    }
    if (kind == SDC_JSON_OBJECT_END || kind == SDC_JSON_ARRAY_END) {
        b->depth--;
        b->is_done = b->depth == 0;
        return SDC_OK;
    }
    node *n = agent_alloc(sizeof *n);
    n->kind = kind_of(kind);
    n->text = agent_dup_len(text, len);
    n->is_true = kind == SDC_JSON_TRUE;
    place(b, n);
    if (n->kind != NODE_OBJECT && n->kind != NODE_ARRAY) {
        b->is_done = b->depth == 0;
        return SDC_OK;
    }
    if (b->depth == DEPTH_MAX) {
        return SDC_ERR_LIMIT;
    }
    b->open[b->depth++] = n;
    return SDC_OK;
}

/* ---- Go's words for a syntax error ------------------------------------------------------- */
typedef enum want {
    WANT_VALUE, WANT_VALUE_OR_END, WANT_KEY, WANT_KEY_OR_END, WANT_COLON, WANT_COMMA
} want;

static const char *string_fault(const char **at, const char *end)
{
    const char *p = *at + 1;

    for (; p < end && *p != '"'; p++) {
        *at = p;
        if ((unsigned char)*p < 0x20) {
            return "in string literal";
        }
        if (*p == '\\' && p + 1 < end) {
            p++;
            *at = p;
            if (strchr("\"\\/bfnrtu", *p) == NULL) {
                return "in string escape code";
            }
            for (size_t i = 0; *at == p && *p == 'u' && i < 4 && p + 1 + i < end; i++) {
                if (strchr("0123456789abcdefABCDEF", p[1 + i]) == NULL) {
                    *at = p + 1 + i;
                    return "in \\u hexadecimal character escape";
                }
            }
        }
    }
    *at = p < end ? p + 1 : end;
    return NULL;
}

static const char *literal_fault(const char **at, const char *end, const char *word, buf *text)
{
    for (size_t i = 0; word[i] != '\0'; i++, (*at)++) {
        if (*at == end) {
            return NULL;
        }
        if (**at != word[i]) {
            buf_fmt(text, "in literal %s (expecting '%c')", word, word[i]);
            return buf_text(text);
        }
    }
    return NULL;
}

static bool is_digit(const char *p, const char *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

/* Digits from here on, at least one; `fault` if there is something else. */
static const char *digits_fault(const char **at, const char *end, const char *fault)
{
    if (*at < end && !is_digit(*at, end)) {
        return fault;
    }
    while (is_digit(*at, end)) {
        (*at)++;
    }
    return NULL;
}

static const char *number_fault(const char **at, const char *end)
{
    const char *fault = NULL;

    *at += **at == '-';
    if (*at < end && **at == '0') {
        (*at)++;
    } else {
        fault = digits_fault(at, end, "in numeric literal");
    }
    if (fault == NULL && *at < end && **at == '.') {
        (*at)++;
        fault = digits_fault(at, end, "after decimal point in numeric literal");
    }
    if (fault == NULL && *at < end && (**at == 'e' || **at == 'E')) {
        (*at)++;
        *at += *at < end && (**at == '+' || **at == '-');
        fault = digits_fault(at, end, "in exponent of numeric literal");
    }
    return fault;
}

static const char *value_fault(const char **at, const char *end, buf *text)
{
    switch (**at) {
    case '"':
        return string_fault(at, end);
    case 't':
        return literal_fault(at, end, "true", text);
    case 'f':
        return literal_fault(at, end, "false", text);
    case 'n':
        return literal_fault(at, end, "null", text);
    default:
        break;
    }
    if (**at != '-' && (**at < '0' || **at > '9')) {
        return "looking for beginning of value";
    }
    return number_fault(at, end);
}

/* One step over a byte that is no space; NULL: it is well. */
static const char *step_fault(const char **at, const char *end, want *w, char *open, size_t *depth,
                              buf *text)
{
    char c = **at;
    bool in_object = *depth > 0 && open[*depth - 1] == '{';

    if ((*w == WANT_COMMA || *w == WANT_VALUE_OR_END || *w == WANT_KEY_OR_END) && *depth > 0
        && c == (in_object ? '}' : ']')) {
        (*depth)--;
        *w = WANT_COMMA;
    } else if (*w == WANT_COMMA) {
        if (c != ',') {
            return in_object ? "after object key:value pair" : "after array element";
        }
        *w = in_object ? WANT_KEY : WANT_VALUE;
    } else if (*w == WANT_COLON) {
        if (c != ':') {
            return "after object key";
        }
        *w = WANT_VALUE;
    } else if (*w == WANT_KEY || *w == WANT_KEY_OR_END) {
        *w = WANT_COLON;
        return c == '"' ? string_fault(at, end) : "looking for beginning of object key string";
    } else if ((c == '{' || c == '[') && *depth < DEPTH_MAX) {
        open[(*depth)++] = c;
        *w = c == '{' ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
    } else {
        *w = WANT_COMMA;
        return value_fault(at, end, text);
    }
    (*at)++;
    return NULL;
}

static void quote_byte(buf *out, unsigned char c)
{
    if (c == '\'' || c == '\\') {
        buf_fmt(out, "\\%c", c);
    } else if (c < 0x20 || c == 0x7f) {
        buf_fmt(out, c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\r' ? "\\r" : "\\x%02x", c);
    } else if (c >= 0x80) {
        buf_fmt(out, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));     /* the byte as a rune */
    } else {
        buf_char(out, (char)c);
    }
}

static void explain(const buf *body, buf *error)
{
    const char *at = buf_text(body);
    const char *end = at + body->len;
    char open[DEPTH_MAX];
    size_t depth = 0;
    want w = WANT_VALUE;
    buf text = { NULL, 0, 0 };

    while (at < end) {
        if (strchr(" \t\r\n", *at) != NULL && *at != '\0') {
            at++;
            continue;
        }
        const char *fault = step_fault(&at, end, &w, open, &depth, &text);
        if (fault != NULL) {
            buf_str(error, "invalid character '");
            quote_byte(error, (unsigned char)*at);
            buf_fmt(error, "' %s", fault);
            break;
        }
        if (w == WANT_COMMA && depth == 0) {
            break;
        }
    }
    if (error->len == 0) {
        buf_str(error, "unexpected EOF");
    }
    buf_free(&text);
}

/* ---- Go's mercy with text, which the strict decoder does not have ------------------------ */
static bool surrogate(const char *p, const char *end, unsigned *unit)
{
    char digits[5];

    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') {
        return false;
    }
    memcpy(digits, p + 2, 4);
    digits[4] = '\0';
    if (strspn(digits, "0123456789abcdefABCDEF") != 4) {
        return false;
    }
    *unit = (unsigned)strtoul(digits, NULL, 16);
    return *unit >= 0xd800 && *unit <= 0xdfff;
}

/* The text with each bad byte and each lone surrogate replaced. */
static void mend(const buf *text, buf *out)
{
    const char *p = buf_text(text);
    const char *end = p + text->len;

    while (p < end) {
        unsigned first = 0;
        unsigned second = 0;
        uint32_t rune = 0;

        if (surrogate(p, end, &first)) {
            bool is_pair = first < 0xdc00 && surrogate(p + 6, end, &second) && second >= 0xdc00;

            buf_add(out, is_pair ? p : "\\ufffd", is_pair ? 12 : 6);
            p += is_pair ? 12 : 6;
            continue;
        }
        if (p[0] == '\\' && end - p > 1) {
            buf_add(out, p, 2);
            p += 2;
            continue;
        }
        size_t n = utf8_rune(p, (size_t)(end - p), &rune);
        bool is_bad = rune == 0xfffd && n == 1;
        buf_add(out, is_bad ? "\xef\xbf\xbd" : p, is_bad ? 3 : n);
        p += n;
    }
}

node *node_parse(const buf *raw, buf *error)
{
    buf mended = { NULL, 0, 0 };
    const buf *text = &mended;
    sdc_json *json = NULL;
    builder b;
    sdc_err err = SDC_OK;
    bool is_blank = true;

    memset(&b, 0, sizeof b);
    mend(raw, &mended);
    if (sdc_json_create(NULL, on_json, &b, &json) != SDC_OK) {
        abort();
    }
    /* Byte by byte, because what follows the first value is nobody's business. */
    for (size_t i = 0; i < text->len && err == SDC_OK && !b.is_done; i++) {
        is_blank = is_blank && strchr(" \t\r\n", text->ptr[i]) != NULL && text->ptr[i] != '\0';
        err = sdc_json_feed(json, text->ptr + i, 1);
    }
    if (err == SDC_OK && !b.is_done) {
        err = sdc_json_finish(json);
    }
    sdc_json_destroy(json);
    free(b.key);
    buf_free(&mended);
    if (err == SDC_OK && b.root != NULL) {
        return b.root;
    }
    node_free(b.root);
    if (is_blank) {
        buf_str(error, "EOF");
    } else {
        explain(raw, error);
    }
    return NULL;
}
