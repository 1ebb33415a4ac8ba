/* jansson: a tree for each body. */
#include "peer.h"

#include <jansson.h>
#include <stdlib.h>

static text ja_text(const json_t *v)
{
    text t = { "", 0 };

    if (json_is_string(v)) {
        t.ptr = json_string_value(v);
        t.len = json_string_length(v);
    }
    return t;
}

static text ja_member(const json_t *object, const char *name)
{
    return ja_text(json_object_get(object, name));
}

static uint64_t ja_number(const json_t *object, const char *name, uint64_t absent)
{
    const json_t *v = json_object_get(object, name);

    return v != NULL ? (uint64_t)json_integer_value(v) : absent;
}

static void ja_service(json_t *service, const sum *s, entry *e)
{
    json_t *tags = json_object_get(service, "Tags");
    json_t *weights = json_object_get(service, "Weights");
    const char *key;
    json_t *value;

    e->id = ja_member(service, "ID");
    e->address = ja_member(service, "Address");
    e->port = ja_number(service, "Port", 0);
    for (size_t i = 0; i < json_array_size(tags); i++) {
        entry_tag(s, e, ja_text(json_array_get(tags, i)));
    }
    json_object_foreach(json_object_get(service, "Meta"), key, value) {
        text k = { key, strlen(key) };
        entry_meta(s, e, k, ja_text(value));
    }
    if (weights != NULL) {
        e->weight_passing = ja_number(weights, "Passing", 1);
        e->weight_warning = ja_number(weights, "Warning", 0);
    }
}

static void ja_entry(const json_t *item, sum *s)
{
    const json_t *node = json_object_get(item, "Node");
    const json_t *checks = json_object_get(item, "Checks");
    entry e;

    entry_begin(&e);
    e.node = ja_member(node, "Node");
    e.node_address = ja_member(node, "Address");
    ja_service(json_object_get(item, "Service"), s, &e);
    for (size_t i = 0; i < json_array_size(checks); i++) {
        const json_t *check = json_array_get(checks, i);
        entry_check(&e, ja_member(check, "CheckID"), ja_member(check, "Status"));
    }
    entry_end(s, &e);
}

static void *ja_open(size_t max_len)
{
    (void)max_len;
    return malloc(1);
}

static bool ja_run(void *state, const char *body, size_t len, size_t chunk, sum *s)
{
    json_error_t error;

    (void)state;
    (void)chunk;
    json_t *root = json_loadb(body, len, 0, &error);
    if (root == NULL) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(root); i++) {
        ja_entry(json_array_get(root, i), s);
    }
    json_decref(root);
    return true;
}

const peer *bench_peer(void)
{
    static const peer p = { "jansson", JANSSON_VERSION, false, ja_open, ja_run, free };

    return &p;
}
