/* sdconsul.h by its public decoder. PEER_NAME and the header's own macros make
   the variants. */
#define SDCONSUL_IMPLEMENTATION
#include "sdconsul.h"

#include "peer.h"

static const char *version_text(void)
{
    static char version[16];

    (void)snprintf(version, sizeof version, "%d.%d.%d", SDC_VERSION_MAJOR, SDC_VERSION_MINOR,
                   SDC_VERSION_PATCH);
    return version;
}

typedef struct ours {
    sdc_entries *entries;
    sum *s;
} ours;

static int status_number(sdc_status status)
{
    switch (status) {
    case SDC_STATUS_UNSET:       return 0;
    case SDC_STATUS_PASSING:     return PASSING;
    case SDC_STATUS_WARNING:     return WARNING;
    case SDC_STATUS_CRITICAL:    return CRITICAL;
    case SDC_STATUS_MAINTENANCE: return MAINTENANCE;
    }
    return 0;
}

static sdc_err ours_on_instance(void *user, const sdc_instance *i)
{
    sum *s = ((ours *)user)->s;
    uint64_t lists = 0;

    for (size_t k = 0; k < i->num_tags; k++) {
        lists += sum_str(s, i->tags[k]);
    }
    for (size_t k = 0; k < i->num_meta; k++) {
        lists += sum_pair(sum_str(s, i->meta[k].key), sum_str(s, i->meta[k].value));
    }
    sum_entry(s, sum_str(s, i->host), sum_str(s, i->id), sum_str(s, i->node), lists, i->port,
              i->weight, status_number(i->status));
    return SDC_OK;
}

static void *ours_open(size_t max_len)
{
    ours *o = malloc(sizeof *o);

    (void)max_len;
    if (o != NULL && sdc_entries_create(NULL, ours_on_instance, o, &o->entries) != SDC_OK) {
        free(o);
        return NULL;
    }
    return o;
}

static bool ours_run(void *state, const char *body, size_t len, size_t chunk, sum *s)
{
    ours *o = state;

    o->s = s;
    sdc_entries_reset(o->entries);
    for (size_t at = 0; at < len;) {
        size_t n = chunk == 0 || chunk > len - at ? len - at : chunk;
        if (sdc_entries_feed(o->entries, body + at, n) != SDC_OK) {
            return false;
        }
        at += n;
    }
    return sdc_entries_finish(o->entries) == SDC_OK;
}

static void ours_close(void *state)
{
    ours *o = state;

    sdc_entries_destroy(o->entries);
    free(o);
}

const peer *bench_peer(void)
{
    static peer p = { PEER_NAME, NULL, true, ours_open, ours_run, ours_close };

    p.version = version_text();
    return &p;
}
