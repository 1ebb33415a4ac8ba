/* cJSON: a tree for each body. */
#include "peer.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

static text cj_text(const cJSON *v)
{
    text t = { "", 0 };

    if (v->valuestring != NULL) {
        t.ptr = v->valuestring;
        t.len = strlen(v->valuestring);
    }
    return t;
}

static bool cj_is(const cJSON *v, const char *name)
{
    return strcmp(v->string, name) == 0;
}

static void cj_node(const cJSON *node, entry *e)
{
    const cJSON *v;

    cJSON_ArrayForEach(v, node) {
        if (cj_is(v, "Node")) {
            e->node = cj_text(v);
        } else if (cj_is(v, "Address")) {
            e->node_address = cj_text(v);
        }
    }
}

static void cj_lists(const cJSON *list, const sum *s, entry *e)
{
    const cJSON *v;

    cJSON_ArrayForEach(v, list) {
        if (v->string == NULL) {
            entry_tag(s, e, cj_text(v));
        } else {
            text key = { v->string, strlen(v->string) };
            entry_meta(s, e, key, cj_text(v));
        }
    }
}

static void cj_weights(const cJSON *weights, entry *e)
{
    const cJSON *v;

    e->weight_warning = 0;
    cJSON_ArrayForEach(v, weights) {
        if (cj_is(v, "Passing")) {
            e->weight_passing = (uint64_t)v->valuedouble;
        } else if (cj_is(v, "Warning")) {
            e->weight_warning = (uint64_t)v->valuedouble;
        }
    }
}

static void cj_service(const cJSON *service, const sum *s, entry *e)
{
    const cJSON *v;

    cJSON_ArrayForEach(v, service) {
        if (cj_is(v, "ID")) {
            e->id = cj_text(v);
        } else if (cj_is(v, "Address")) {
            e->address = cj_text(v);
        } else if (cj_is(v, "Port")) {
            e->port = (uint64_t)v->valuedouble;
        } else if (cj_is(v, "Tags") || cj_is(v, "Meta")) {
            cj_lists(v, s, e);
        } else if (cj_is(v, "Weights")) {
            cj_weights(v, e);
        }
    }
}

static void cj_check(const cJSON *check, entry *e)
{
    const cJSON *v;
    text id = { "", 0 }, status = { "", 0 };

    cJSON_ArrayForEach(v, check) {
        if (cj_is(v, "CheckID")) {
            id = cj_text(v);
        } else if (cj_is(v, "Status")) {
            status = cj_text(v);
        }
    }
    entry_check(e, id, status);
}

static void cj_entry(const cJSON *item, sum *s)
{
    const cJSON *v, *check;
    entry e;

    entry_begin(&e);
    cJSON_ArrayForEach(v, item) {
        if (cj_is(v, "Node")) {
            cj_node(v, &e);
        } else if (cj_is(v, "Service")) {
            cj_service(v, s, &e);
        } else if (cj_is(v, "Checks")) {
            cJSON_ArrayForEach(check, v) {
                cj_check(check, &e);
            }
        }
    }
    entry_end(s, &e);
}

static void *cj_open(size_t max_len)
{
    (void)max_len;
    return malloc(1);
}

static bool cj_run(void *state, const char *body, size_t len, size_t chunk, sum *s)
{
    const cJSON *item;

    (void)state;
    (void)chunk;
    cJSON *root = cJSON_ParseWithLength(body, len);
    if (root == NULL) {
        return false;
    }
    cJSON_ArrayForEach(item, root) {
        cj_entry(item, s);
    }
    cJSON_Delete(root);
    return true;
}

const peer *bench_peer(void)
{
    static peer p = { "cJSON", NULL, false, cj_open, cj_run, free };

    p.version = cJSON_Version();
    return &p;
}
