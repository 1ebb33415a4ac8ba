/* An allocator for tests: it counts, it fails on demand, and it checks its caller.

       fault_alloc memory;
       fault_alloc_init(&memory);
       fault_alloc_fail(&memory, 7, false);             the 7th call from now fails, once
       sdc_allocator hook = fault_alloc_hook(&memory);
       ...desc.allocator = &hook; make, use and destroy everything...
       fault_alloc_deinit(&memory);                     reports what is still there

   Reported as failed checks: a free or resize that passes the wrong old size, of a block that
   is not there (or freed before), and writes before and behind a block. A resize always moves
   the block, and freed memory is filled with 0xDD, so that a stale pointer does not go
   unnoticed. Any thread. */
#ifndef ALLOC_H
#define ALLOC_H

#include "../../sdconsul.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

typedef struct fault_block {
    struct fault_block *prev, *next;
    size_t              size;
    uint64_t            magic;
} fault_block;

typedef struct fault_alloc {
    /* what a test may read */
    uint64_t num_calls;         /* allocations and resizes asked for; frees do not count      */
    uint64_t num_failed;        /* of these, failed on demand                                 */
    uint64_t num_frees;
    size_t   num_live;          /* blocks                                                     */
    size_t   live_bytes, peak_bytes;
    size_t   max_bytes;         /* what is asked beyond so many live ones fails; 0: no limit  */
    unsigned num_errors;        /* faults of the caller, each reported                        */
    /* its own */
    uint64_t    fail_at;        /* this num_calls fails; 0: none                              */
    bool        is_for_good;
    char        lock;
    fault_block blocks;         /* head of the list of live ones                              */
} fault_alloc;

enum { FAULT_GUARD = 16 };
#define FAULT_LIVE 0x6c69766562316f63u

static inline void fault_alloc_init(fault_alloc *a)
{
    memset(a, 0, sizeof *a);
    a->blocks.prev = &a->blocks;
    a->blocks.next = &a->blocks;
}

/* The nth allocation or resize from now on fails: once, or from then on for good. 0: none. */
static inline void fault_alloc_fail(fault_alloc *a, uint64_t nth, bool for_good)
{
    a->fail_at = nth == 0 ? 0 : a->num_calls + nth;
    a->is_for_good = for_good;
}

static inline void fault_alloc_error(fault_alloc *a, const char *what, size_t x, size_t y)
{
    a->num_errors++;
    test_fail(__FILE__, __LINE__, "allocator: %s (%zu, %zu)", what, x, y);
}

static inline bool fault_alloc_may(fault_alloc *a, size_t old_size, size_t new_size)
{
    a->num_calls++;
    bool fails = a->fail_at != 0 && (a->num_calls == a->fail_at ||
                                     (a->is_for_good && a->num_calls > a->fail_at));
    size_t after = a->live_bytes - old_size + new_size;
    if (fails || (a->max_bytes != 0 && new_size > old_size && after > a->max_bytes)) {
        a->num_failed++;
        return false;
    }
    return true;
}

static inline unsigned char *fault_block_bytes(fault_block *b)
{
    return (unsigned char *)(b + 1) + FAULT_GUARD;
}

static inline fault_block *fault_alloc_take(fault_alloc *a, size_t size)
{
    fault_block *b = (fault_block *)malloc(sizeof *b + size + 2 * FAULT_GUARD);
    if (b == NULL) {
        return NULL;
    }
    b->size = size;
    b->magic = FAULT_LIVE;
    memset(b + 1, 0xCA, size + 2 * FAULT_GUARD);
    b->next = a->blocks.next;
    b->prev = &a->blocks;
    b->next->prev = b;
    a->blocks.next = b;
    a->num_live++;
    a->live_bytes += size;
    return b;
}

static inline void fault_alloc_give(fault_alloc *a, fault_block *b)
{
    b->prev->next = b->next;
    b->next->prev = b->prev;
    a->num_live--;
    a->live_bytes -= b->size;
    memset(fault_block_bytes(b), 0xDD, b->size);
    b->magic = 0;
    free(b);
}

/* The block that `ptr` belongs to if it is one and as the caller says, else NULL. */
static inline fault_block *fault_alloc_find(fault_alloc *a, void *ptr, size_t old_size)
{
    fault_block *b = (fault_block *)(void *)((unsigned char *)ptr - FAULT_GUARD) - 1;
    if (b->magic != FAULT_LIVE) {
        fault_alloc_error(a, "not a live block; old size", old_size, 0);
        return NULL;
    }
    if (b->size != old_size) {
        fault_alloc_error(a, "wrong old size; given, real", old_size, b->size);
    }
    const unsigned char *before = (const unsigned char *)(b + 1);
    const unsigned char *behind = fault_block_bytes(b) + b->size;
    for (size_t i = 0; i < FAULT_GUARD; i++) {
        if (before[i] != 0xCA || behind[i] != 0xCA) {
            fault_alloc_error(a, "written outside a block of; at", b->size, i);
            break;
        }
    }
    return b;
}

static inline void *fault_alloc_resize_locked(fault_alloc *a, void *ptr, size_t old_size,
                                              size_t new_size)
{
    if ((ptr == NULL) != (old_size == 0)) {
        fault_alloc_error(a, "pointer and old size contradict", old_size, new_size);
        return NULL;
    }
    fault_block *old = ptr != NULL ? fault_alloc_find(a, ptr, old_size) : NULL;
    if (ptr != NULL && old == NULL) {
        return NULL;
    }
    if (new_size == 0) {
        if (old != NULL) {
            a->num_frees++;
            fault_alloc_give(a, old);
        }
        return NULL;
    }
    if (!fault_alloc_may(a, old_size, new_size)) {
        return NULL;
    }
    fault_block *b = fault_alloc_take(a, new_size);
    if (b != NULL && old != NULL) {
        memcpy(fault_block_bytes(b), ptr, old->size < new_size ? old->size : new_size);
        fault_alloc_give(a, old);
    }
    if (a->live_bytes > a->peak_bytes) {
        a->peak_bytes = a->live_bytes;
    }
    return b != NULL ? fault_block_bytes(b) : NULL;
}

static inline void *fault_alloc_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    fault_alloc *a = (fault_alloc *)user;
    while (__atomic_test_and_set(&a->lock, __ATOMIC_ACQUIRE)) {
    }
    void *result = fault_alloc_resize_locked(a, ptr, old_size, new_size);
    __atomic_clear(&a->lock, __ATOMIC_RELEASE);
    return result;
}

static inline sdc_allocator fault_alloc_hook(fault_alloc *a)
{
    sdc_allocator hook;
    hook.user = a;
    hook.resize = fault_alloc_resize;
    return hook;
}

/* Checks all live blocks for writes outside them. */
static inline void fault_alloc_check(fault_alloc *a)
{
    for (fault_block *b = a->blocks.next; b != &a->blocks; b = b->next) {
        fault_alloc_find(a, fault_block_bytes(b), b->size);
    }
}

/* Reports and frees what is still there. */
static inline void fault_alloc_deinit(fault_alloc *a)
{
    fault_alloc_check(a);
    if (a->num_live != 0) {
        fault_alloc_error(a, "leaked; blocks, bytes", a->num_live, a->live_bytes);
    }
    while (a->blocks.next != &a->blocks) {
        fault_alloc_give(a, a->blocks.next);
    }
}

#endif
