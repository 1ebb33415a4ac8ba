/* Memory that cannot fail, strings and growing buffers of the embedded agent. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void *agent_grow(void *ptr, size_t size)
{
    void *p = realloc(ptr, size == 0 ? 1 : size);

    if (p == NULL) {
        fprintf(stderr, "embedded agent: out of memory\n");
        abort();
    }
    return p;
}

void *agent_alloc(size_t size)
{
    void *p = agent_grow(NULL, size);

    memset(p, 0, size);
    return p;
}

char *agent_dup_len(const char *bytes, size_t len)
{
    char *p = agent_grow(NULL, len + 1);

    if (len != 0) {
        memcpy(p, bytes, len);
    }
    p[len] = '\0';
    return p;
}

char *agent_dup(const char *text)
{
    return agent_dup_len(text == NULL ? "" : text, text == NULL ? 0 : strlen(text));
}

void agent_set_text(char **to, const char *text)
{
    char *copy = agent_dup(text);

    free(*to);
    *to = copy;
}

bool text_is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

bool text_is_nocase(const char *a, const char *b)
{
    return strcasecmp(a, b) == 0;
}

bool text_begins(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* ---- buffers ----------------------------------------------------------------------------- */
void buf_add(buf *b, const void *bytes, size_t len)
{
    if (b->cap - b->len <= len) {
        size_t cap = (b->len + len + 1) * 2;

        b->ptr = agent_grow(b->ptr, cap);
        b->cap = cap;
    }
    if (len != 0) {
        memcpy(b->ptr + b->len, bytes, len);
    }
    b->len += len;
    b->ptr[b->len] = '\0';
}

void buf_str(buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

void buf_char(buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_fmt(buf *b, const char *format, ...)
{
    va_list args;
    va_list again;

    if (format == NULL) {           /* never: gcc's sanitizers make it wonder */
        abort();
    }
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n > 0) {
        char *text = agent_grow(NULL, (size_t)n + 1);

        vsnprintf(text, (size_t)n + 1, format, again);
        buf_add(b, text, (size_t)n);
        free(text);
    }
    va_end(again);
    va_end(args);
}

void buf_drop(buf *b, size_t n)
{
    if (n == 0) {
        return;
    }
    memmove(b->ptr, b->ptr + n, b->len - n);
    b->len -= n;
    b->ptr[b->len] = '\0';
}

void buf_clear(buf *b)
{
    b->len = 0;
    if (b->ptr != NULL) {
        b->ptr[0] = '\0';
    }
}

void buf_free(buf *b)
{
    free(b->ptr);
    memset(b, 0, sizeof *b);
}

const char *buf_text(const buf *b)
{
    return b->ptr == NULL ? "" : b->ptr;
}

/* ---- lists and maps of strings ----------------------------------------------------------- */
void strs_add(strs *list, const char *text, size_t len)
{
    list->v = agent_grow(list->v, (list->n + 1) * sizeof *list->v);
    list->v[list->n++] = agent_dup_len(text, len);
}

void strs_free(strs *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->v[i]);
    }
    free(list->v);
    memset(list, 0, sizeof *list);
}

bool strs_equal(const strs *a, const strs *b)
{
    if (a->n != b->n) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!text_is(a->v[i], b->v[i])) {
            return false;
        }
    }
    return true;
}

void pairs_set(pairs *map, const char *key, const char *value)
{
    size_t i = 0;

    while (i < map->n && strcmp(map->v[i].key, key) < 0) {
        i++;
    }
    if (i < map->n && text_is(map->v[i].key, key)) {
        agent_set_text(&map->v[i].value, value);
        return;
    }
    map->v = agent_grow(map->v, (map->n + 1) * sizeof *map->v);
    memmove(map->v + i + 1, map->v + i, (map->n - i) * sizeof *map->v);
    map->v[i].key = agent_dup(key);
    map->v[i].value = agent_dup(value);
    map->n++;
}

void pairs_free(pairs *map)
{
    for (size_t i = 0; i < map->n; i++) {
        free(map->v[i].key);
        free(map->v[i].value);
    }
    free(map->v);
    memset(map, 0, sizeof *map);
}

bool pairs_equal(const pairs *a, const pairs *b)
{
    if (a->n != b->n) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!text_is(a->v[i].key, b->v[i].key) || !text_is(a->v[i].value, b->v[i].value)) {
            return false;
        }
    }
    return true;
}

const char *pairs_get(const pairs *map, const char *key)
{
    for (size_t i = 0; i < map->n; i++) {
        if (text_is(map->v[i].key, key)) {
            return map->v[i].value;
        }
    }
    return NULL;
}

/* ---- durations --------------------------------------------------------------------------- */
static bool duration_unit(const char **text, double *ns)
{
    static const struct { const char *name; double ns; } units[] = {
        { "ns", 1 }, { "us", 1e3 }, { "\xc2\xb5s", 1e3 }, { "ms", 1e6 },
        { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 },
    };

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (text_begins(*text, units[i].name)) {
            *text += strlen(units[i].name);
            *ns = units[i].ns;
            return true;
        }
    }
    return false;
}

bool duration_parse(const char *text, int64_t *ns)
{
    const char *p = text + (text[0] == '-' || text[0] == '+');
    double sum = 0;

    *ns = 0;
    if (text_is(p, "0")) {
        return true;
    }
    if (*p == '\0') {
        return false;
    }
    while (*p != '\0') {
        size_t digits = strspn(p, "0123456789.");
        double unit = 0;
        char *end = NULL;
        double n = strtod(p, &end);

        if (digits == 0 || end != p + digits) {
            return false;
        }
        p = end;
        if (!duration_unit(&p, &unit)) {
            return false;
        }
        sum += n * unit;
    }
    if (sum > 9.2e18) {
        return false;
    }
    *ns = (int64_t)(text[0] == '-' ? -sum : sum);
    return true;
}

void duration_explain(buf *out, const char *text)
{
    const char *p = text + (text[0] == '-' || text[0] == '+');
    const char *what = "invalid duration ";
    char *unknown = NULL;

    while (*p != '\0') {
        size_t digits = strspn(p, "0123456789.");
        size_t letters = strcspn(p + digits, "0123456789.");
        const char *unit = p + digits;
        double ns = 0;

        if (digits == 0) {
            break;
        }
        if (letters == 0) {
            what = "missing unit in duration ";
            break;
        }
        if (!duration_unit(&unit, &ns) || unit != p + digits + letters) {
            unknown = agent_dup_len(p + digits, letters);
            break;
        }
        p = unit;
    }
    buf_str(out, "time: ");
    if (unknown != NULL) {
        buf_str(out, "unknown unit ");
        quote_go(out, unknown);
        what = " in duration ";
        free(unknown);
    }
    buf_str(out, what);
    quote_go(out, text);
}

/* A number of units with the fraction that is needed: 1500 of 1000 is "1.5". */
static void duration_fraction(buf *out, uint64_t n, uint64_t unit)
{
    char digits[24];

    buf_fmt(out, "%llu", (unsigned long long)(n / unit));
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)(unit + n % unit));
    size_t len = strlen(digits);
    while (len > 1 && digits[len - 1] == '0') {
        len--;
    }
    if (len > 1) {
        buf_char(out, '.');
        buf_add(out, digits + 1, len - 1);
    }
}

void duration_format(buf *out, int64_t ns)
{
    uint64_t n = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;

    if (ns < 0) {
        buf_char(out, '-');
    }
    if (n < 1000000000u) {
        uint64_t unit = n < 1000 ? 1 : n < 1000000 ? 1000 : 1000000;

        duration_fraction(out, n, unit);
        buf_str(out, n == 0 ? "s" : unit == 1 ? "ns" : unit == 1000 ? "\xc2\xb5s" : "ms");
        return;
    }
    uint64_t minutes = n / 60000000000u;
    if (minutes >= 60) {
        buf_fmt(out, "%lluh", (unsigned long long)(minutes / 60));
    }
    if (minutes > 0) {
        buf_fmt(out, "%llum", (unsigned long long)(minutes % 60));
    }
    duration_fraction(out, n % 60000000000u, 1000000000u);
    buf_char(out, 's');
}

/* ---- runes ------------------------------------------------------------------------------- */
size_t utf8_rune(const char *text, size_t len, uint32_t *rune)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    unsigned char first = (unsigned char)text[0];
    size_t need = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3
                : first < 0xf5 ? 4 : 0;
    uint32_t r = need == 1 ? first : need == 2 ? first & 0x1fu : need == 3 ? first & 0x0fu
               : first & 0x07u;

    *rune = 0xfffd;
    if (need == 0 || need > len) {
        return 1;
    }
    for (size_t i = 1; i < need; i++) {
        unsigned char c = (unsigned char)text[i];

        if ((c & 0xc0u) != 0x80u) {
            return 1;
        }
        r = r << 6 | (c & 0x3fu);
    }
    if (r < least[need] || r > 0x10ffff || (r >= 0xd800 && r <= 0xdfff)) {
        return 1;
    }
    *rune = r;
    return need;
}

void quote_go(buf *out, const char *text)
{
    buf_char(out, '"');
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;

        if (c == '"' || c == '\\') {
            buf_fmt(out, "\\%c", c);
        } else if (c == '\n') {
            buf_str(out, "\\n");
        } else if (c == '\t') {
            buf_str(out, "\\t");
        } else if (c == '\r') {
            buf_str(out, "\\r");
        } else if (c < 0x20 || c == 0x7f) {
            buf_fmt(out, "\\x%02x", c);
        } else {
            buf_char(out, (char)c);
        }
    }
    buf_char(out, '"');
}
