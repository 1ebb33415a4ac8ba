/* What every decoder of the benchmark takes out of an answer, and the sum that
   shows that all of them took the same. Compiles as C and as C++.

   Of an entry: host (of the service, else of the node), ID, node, port, weight,
   tags, meta, and the worst status of its checks. The full sum is over every
   byte and is compared before anything is timed; while the clock runs, each
   text gives its first byte, so that nothing is found and then not used. */
#ifndef BENCH_EXTRACT_H
#define BENCH_EXTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct sum {
    uint64_t value;
    uint64_t num;               /* of entries */
    bool is_full;
} sum;

typedef struct text { const char *ptr; size_t len; } text;

enum { PASSING = 1, WARNING, CRITICAL, MAINTENANCE };

typedef struct entry {
    text address, node_address, id, node;
    uint64_t port, weight_passing, weight_warning;
    uint64_t lists;             /* of the tags and meta pairs, in any order */
    int status;                 /* 0: no check so far */
} entry;

static inline uint64_t sum_mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

static inline uint64_t sum_bytes(const char *ptr, size_t len)
{
    uint64_t h = len;

    for (size_t i = 0; i < len; i++) {
        h = sum_mix(h, (unsigned char)ptr[i]);
    }
    return h;
}

static inline uint64_t sum_text(const sum *s, text t)
{
    if (s->is_full) {
        return sum_bytes(t.ptr, t.len);
    }
    return t.len > 0 ? (unsigned char)t.ptr[0] : 0;
}

/* The same of a text that ends in NUL, whose length nobody needs to know. */
static inline uint64_t sum_str(const sum *s, const char *str)
{
    return s->is_full ? sum_bytes(str, strlen(str)) : (unsigned char)str[0];
}

static inline uint64_t sum_pair(uint64_t key, uint64_t value)
{
    return key * 31 + value * 37;
}

static inline void sum_entry(sum *s, uint64_t host, uint64_t id, uint64_t node, uint64_t lists,
                             uint64_t port, uint64_t weight, int status)
{
    uint64_t h = host * 3 + id * 5 + node * 7 + lists + port * 11 + weight * 13 +
                 (uint64_t)status * 17;

    s->value = sum_mix(s->value, h);
    s->num++;
}

/* -- For decoders that leave the meaning of the members to their caller -- */

static inline void entry_begin(entry *e)
{
    memset(e, 0, sizeof *e);
    e->weight_passing = 1;
    e->weight_warning = 1;
}

static inline bool text_is(text t, const char *str, size_t len)
{
    return t.len == len && memcmp(t.ptr, str, len) == 0;
}

#define TEXT_IS(t, literal) text_is((t), (literal), sizeof(literal) - 1)
#define TEXT_BEGINS(t, literal) \
    ((t).len >= sizeof(literal) - 1 && memcmp((t).ptr, (literal), sizeof(literal) - 1) == 0)

static inline void entry_tag(const sum *s, entry *e, text tag)
{
    e->lists += sum_text(s, tag);
}

static inline void entry_meta(const sum *s, entry *e, text key, text value)
{
    e->lists += sum_pair(sum_text(s, key), sum_text(s, value));
}

static inline void entry_check(entry *e, text id, text status)
{
    int n = TEXT_BEGINS(id, "_node_maintenance") || TEXT_BEGINS(id, "_service_maintenance:")
                ? MAINTENANCE
            : TEXT_IS(status, "passing") ? PASSING
            : TEXT_IS(status, "warning") ? WARNING
                                         : CRITICAL;

    e->status = n > e->status ? n : e->status;
}

static inline void entry_end(sum *s, const entry *e)
{
    int status = e->status == 0 ? PASSING : e->status;
    uint64_t weight = status == PASSING ? e->weight_passing
                    : status == WARNING ? e->weight_warning : 0;

    sum_entry(s, sum_text(s, e->address.len > 0 ? e->address : e->node_address),
              sum_text(s, e->id), sum_text(s, e->node), e->lists, e->port, weight, status);
}

#endif
