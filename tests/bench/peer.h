/* A decoder in the benchmark: one shared object each, so that several versions
   of one library can stand side by side. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include "extract.h"

typedef struct peer {
    const char *name;           /* as the table shows it */
    const char *version;
    bool takes_chunks;          /* else it is given the whole body */
    /* NULL when it cannot run here. Bodies are at most so long. */
    void *(*open)(size_t max_len);
    /* Adds the body's entries to *s. False: it was refused. 64 zero bytes follow a body. */
    bool (*run)(void *state, const char *body, size_t len, size_t chunk, sum *s);
    void (*close)(void *state);
} peer;

#ifdef __cplusplus
extern "C" {
#endif

__attribute__((visibility("default"))) const peer *bench_peer(void);

#ifdef __cplusplus
}
#endif

#endif
