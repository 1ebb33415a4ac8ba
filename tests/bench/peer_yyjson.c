/* yyjson: a document for each body. */
#include "peer.h"

#include <stdlib.h>
#include <yyjson.h>

static text yy_text(yyjson_val *v)
{
    text t = { yyjson_get_str(v), yyjson_get_len(v) };

    if (t.ptr == NULL) {
        t.ptr = "";
        t.len = 0;
    }
    return t;
}

static void yy_node(yyjson_val *node, entry *e)
{
    size_t i, max;
    yyjson_val *key, *val;

    yyjson_obj_foreach(node, i, max, key, val) {
        text k = yy_text(key);
        if (TEXT_IS(k, "Node")) {
            e->node = yy_text(val);
        } else if (TEXT_IS(k, "Address")) {
            e->node_address = yy_text(val);
        }
    }
}

static void yy_tags(yyjson_val *tags, const sum *s, entry *e)
{
    size_t i, max;
    yyjson_val *val;

    yyjson_arr_foreach(tags, i, max, val) {
        entry_tag(s, e, yy_text(val));
    }
}

static void yy_meta(yyjson_val *meta, const sum *s, entry *e)
{
    size_t i, max;
    yyjson_val *key, *val;

    yyjson_obj_foreach(meta, i, max, key, val) {
        entry_meta(s, e, yy_text(key), yy_text(val));
    }
}

static void yy_weights(yyjson_val *weights, entry *e)
{
    size_t i, max;
    yyjson_val *key, *val;

    e->weight_warning = 0;
    yyjson_obj_foreach(weights, i, max, key, val) {
        text k = yy_text(key);
        if (TEXT_IS(k, "Passing")) {
            e->weight_passing = yyjson_get_uint(val);
        } else if (TEXT_IS(k, "Warning")) {
            e->weight_warning = yyjson_get_uint(val);
        }
    }
}

static void yy_service(yyjson_val *service, const sum *s, entry *e)
{
    size_t i, max;
    yyjson_val *key, *val;

    yyjson_obj_foreach(service, i, max, key, val) {
        text k = yy_text(key);
        if (TEXT_IS(k, "ID")) {
            e->id = yy_text(val);
        } else if (TEXT_IS(k, "Address")) {
            e->address = yy_text(val);
        } else if (TEXT_IS(k, "Port")) {
            e->port = yyjson_get_uint(val);
        } else if (TEXT_IS(k, "Tags")) {
            yy_tags(val, s, e);
        } else if (TEXT_IS(k, "Meta")) {
            yy_meta(val, s, e);
        } else if (TEXT_IS(k, "Weights")) {
            yy_weights(val, e);
        }
    }
}

static void yy_check(yyjson_val *check, entry *e)
{
    size_t i, max;
    yyjson_val *key, *val;
    text id = { "", 0 }, status = { "", 0 };

    yyjson_obj_foreach(check, i, max, key, val) {
        text k = yy_text(key);
        if (TEXT_IS(k, "CheckID")) {
            id = yy_text(val);
        } else if (TEXT_IS(k, "Status")) {
            status = yy_text(val);
        }
    }
    entry_check(e, id, status);
}

static void yy_entry(yyjson_val *item, sum *s)
{
    size_t i, max, k, max_k;
    yyjson_val *key, *val, *check;
    entry e;

    entry_begin(&e);
    yyjson_obj_foreach(item, i, max, key, val) {
        text name = yy_text(key);
        if (TEXT_IS(name, "Node")) {
            yy_node(val, &e);
        } else if (TEXT_IS(name, "Service")) {
            yy_service(val, s, &e);
        } else if (TEXT_IS(name, "Checks")) {
            yyjson_arr_foreach(val, k, max_k, check) {
                yy_check(check, &e);
            }
        }
    }
    entry_end(s, &e);
}

static void *yy_open(size_t max_len)
{
    (void)max_len;
    return malloc(1);
}

static bool yy_run(void *state, const char *body, size_t len, size_t chunk, sum *s)
{
    size_t i, max;
    yyjson_val *item;

    (void)state;
    (void)chunk;
    yyjson_doc *doc = yyjson_read(body, len, 0);
    if (doc == NULL) {
        return false;
    }
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, item) {
        yy_entry(item, s);
    }
    yyjson_doc_free(doc);
    return true;
}

const peer *bench_peer(void)
{
    static const peer p = { "yyjson", YYJSON_VERSION_STRING, false, yy_open, yy_run, free };

    return &p;
}
