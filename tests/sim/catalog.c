/* The catalog behind catalog.h. */
#include "catalog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const catalog_tags[CATALOG_TAGS] = {
    "EU", "a b", "blue", "canary", "q\"\\u", "v1", "v2", "\xc3\xbc"
};

static const char *const catalog_names[CATALOG_SERVICES] = {
    "web", "db", "a/pi", "cache", "own-0", "own-1"
};

const char *catalog_service_name(uint32_t service)
{
    return catalog_names[service];
}

int catalog_service_nth(const char *name, size_t len)
{
    for (int i = 0; i < CATALOG_SERVICES; i++) {
        if (strlen(catalog_names[i]) == len && memcmp(catalog_names[i], name, len) == 0) {
            return i;
        }
    }
    return -1;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

static uint64_t hash_mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    return h ^ (h >> 32);
}

/* The NUL counts, so that texts do not run into one another. */
static uint64_t hash_text(uint64_t h, const char *text)
{
    size_t len = strlen(text) + 1;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ (unsigned char)text[i]) * 0x100000001B3u;
    }
    return h;
}

static uint64_t hash_number(uint64_t h, uint64_t number)
{
    return hash_mix(h ^ number * 0x9E3779B97F4A7C15u);
}

/* Only what is the same whoever made it: both sides of a comparison come through here. */
uint64_t sim_hash_instance(const sdc_instance *i)
{
    uint64_t h = 0xCBF29CE484222325u;
    const char *const texts[] = { i->addr, i->host, i->id, i->service, i->node, i->datacenter,
                                  i->socket_path, i->peer };
    for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
        h = hash_text(h, texts[k]);
    }
    for (size_t k = 0; k < i->num_tags; k++) {
        h = hash_text(h, i->tags[k]);
    }
    h = hash_number(h, i->num_tags);
    for (size_t k = 0; k < i->num_meta; k++) {
        h = hash_text(hash_text(h, i->meta[k].key), i->meta[k].value);
    }
    h = hash_number(h, i->num_meta);
    h = hash_number(h, (uint64_t)i->status << 32 | i->weight);
    return hash_number(h, i->port);
}

uint64_t sim_hash_empty(void)
{
    return 0x51AB1E5EED5EED51u;
}

uint64_t sim_hash_event(const sdc_event *event)
{
    uint64_t sum = sim_hash_empty();
    for (size_t i = 0; i < event->num_instances; i++) {
        sum += sim_hash_instance(&event->instances[i]);
    }
    return sum;
}

/* ---- instances ------------------------------------------------------------------------------- */

static sdc_status status_of(const catalog_instance *c)
{
    if (c->is_in_maintenance) {
        return SDC_STATUS_MAINTENANCE;
    }
    sdc_status worst = c->node_status;
    for (uint32_t i = 0; i < c->num_checks; i++) {
        worst = c->checks[i].status > worst ? c->checks[i].status : worst;
    }
    return worst;
}

static uint32_t weight_of(const catalog_instance *c)
{
    bool has_none = c->weight_passing == 0 && c->weight_warning == 0;
    switch (c->status) {
    case SDC_STATUS_PASSING:
        return has_none ? 1 : c->weight_passing;
    case SDC_STATUS_WARNING:
        return has_none ? 1 : c->weight_warning;
    case SDC_STATUS_UNSET:
    case SDC_STATUS_CRITICAL:
    case SDC_STATUS_MAINTENANCE:
        break;
    }
    return 0;
}

/* What the library should make of it. */
static uint64_t hash_of(const catalog_instance *c, uint32_t service)
{
    char addr[48];
    char version[16];
    const char *tags[CATALOG_TAGS];
    const char *host = c->address[0] != '\0' ? c->address : c->node_address;
    sdc_kv meta[2] = { { "odd", "<a&b>" }, { "version", version } };
    sdc_instance i;
    memset(&i, 0, sizeof i);
    (void)snprintf(addr, sizeof addr, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host,
                   (unsigned)c->port);
    (void)snprintf(version, sizeof version, "%u", (unsigned)c->version);
    for (uint32_t t = 0; t < CATALOG_TAGS; t++) {
        if ((c->tags >> t & 1) != 0) {
            tags[i.num_tags++] = catalog_tags[t];
        }
    }
    i.addr = addr;
    i.host = host;
    i.id = c->id;
    i.service = catalog_names[service];
    i.node = c->node;
    i.datacenter = "dc1";
    i.socket_path = "";
    i.peer = "";
    i.tags = tags;
    i.meta = meta;
    i.num_meta = c->version != 0 ? 2 : 0;
    i.status = c->status;
    i.weight = weight_of(c);
    i.port = c->port;
    return sim_hash_instance(&i);
}

static const char *status_text(sdc_status status)
{
    return status == SDC_STATUS_PASSING ? "passing"
         : status == SDC_STATUS_WARNING ? "warning" : "critical";
}

typedef struct writer {
    char    *bytes;
    uint32_t len, cap;
} writer;

static void put(writer *w, const char *text)
{
    uint32_t len = (uint32_t)strlen(text);
    if (w->len + len >= w->cap) {
        abort();
    }
    memcpy(w->bytes + w->len, text, len);
    w->len += len;
}

static void put_number(writer *w, uint64_t number)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    put(w, text);
}

/* Only what our tags and ids hold needs escaping. */
static void put_string(writer *w, const char *text)
{
    if (w->len + 2 * strlen(text) + 3 > w->cap) {
        abort();
    }
    w->bytes[w->len++] = '"';
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\') {
            w->bytes[w->len++] = '\\';
        }
        w->bytes[w->len++] = *p;
    }
    w->bytes[w->len++] = '"';
}

static void put_check(writer *w, const catalog_instance *c, const char *id, const char *status,
                      bool is_services, uint32_t service)
{
    put(w, "{\"Node\":");
    put_string(w, c->node);
    put(w, ",\"CheckID\":");
    put_string(w, id);
    put(w, ",\"Name\":\"c\",\"Status\":\"");
    put(w, status);
    put(w, "\",\"Notes\":\"\",\"Output\":\"\",\"ServiceID\":");
    put_string(w, is_services ? c->id : "");
    put(w, ",\"ServiceName\":");
    put_string(w, is_services ? catalog_names[service] : "");
    put(w, "}");
}

static void put_tags(writer *w, uint32_t tags)
{
    const char *comma = "";
    put(w, "[");
    for (uint32_t t = CATALOG_TAGS; t-- > 0;) {
        if ((tags >> t & 1) != 0) {
            put(w, comma);
            put_string(w, catalog_tags[t]);
            comma = ",";
        }
    }
    put(w, "]");
}

static void put_service(writer *w, const catalog_instance *c, uint32_t service)
{
    put(w, "\"Service\":{\"ID\":");
    put_string(w, c->id);
    put(w, ",\"Service\":");
    put_string(w, catalog_names[service]);
    put(w, ",\"Tags\":");
    put_tags(w, c->tags);
    put(w, ",\"Address\":");
    put_string(w, c->address);
    if (c->version != 0) {
        put(w, ",\"Meta\":{\"version\":\"");
        put_number(w, c->version);
        put(w, "\",\"odd\":\"\\u003ca\\u0026b\\u003e\"}");
    } else {
        put(w, ",\"Meta\":null");
    }
    put(w, ",\"Port\":");
    put_number(w, c->port);
    if (c->weight_passing != 0 || c->weight_warning != 0) {
        put(w, ",\"Weights\":{\"Passing\":");
        put_number(w, c->weight_passing);
        put(w, ",\"Warning\":");
        put_number(w, c->weight_warning);
        put(w, "}");
    }
    put(w, ",\"EnableTagOverride\":false,\"CreateIndex\":7,\"ModifyIndex\":7},");
}

static void write_json(catalog_instance *c, uint32_t service)
{
    writer w = { c->json, 0, CATALOG_JSON };
    char id[80];
    put(&w, "{\"Node\":{\"ID\":\"\",\"Node\":");
    put_string(&w, c->node);
    put(&w, ",\"Address\":");
    put_string(&w, c->node_address);
    put(&w, ",\"Datacenter\":\"dc1\",\"TaggedAddresses\":null,\"Meta\":null},");
    put_service(&w, c, service);
    put(&w, "\"Checks\":[");
    put_check(&w, c, "serfHealth", status_text(c->node_status), false, service);
    for (uint32_t i = 0; i < c->num_checks; i++) {
        put(&w, ",");
        put_check(&w, c, c->checks[i].id, status_text(c->checks[i].status), true, service);
    }
    if (c->is_in_maintenance) {
        (void)snprintf(id, sizeof id, "_service_maintenance:%s", c->id);
        put(&w, ",");
        put_check(&w, c, id, "critical", true, service);
    }
    put(&w, "]}");
    c->json_len = w.len;
}

void catalog_settle(catalog_instance *instance, uint32_t service)
{
    instance->status = status_of(instance);
    instance->hash = hash_of(instance, service);
    write_json(instance, service);
}

static bool is_instance(const catalog_instance *c, const char *node, const char *id)
{
    return strcmp(c->node, node) == 0 && strcmp(c->id, id) == 0;
}

catalog_instance *catalog_find(catalog *c, uint32_t service, const char *node, const char *id)
{
    catalog_service *s = &c->services[service];
    for (uint32_t i = 0; i < s->num; i++) {
        if (is_instance(&s->instances[i], node, id)) {
            return &s->instances[i];
        }
    }
    return NULL;
}

bool catalog_put(catalog *c, uint32_t service, const catalog_instance *instance)
{
    catalog_service *s = &c->services[service];
    catalog_instance *at = catalog_find(c, service, instance->node, instance->id);
    if (at == NULL && s->num == CATALOG_INSTANCES) {
        return false;
    }
    at = at != NULL ? at : &s->instances[s->num++];
    *at = *instance;
    return true;
}

bool catalog_remove(catalog *c, uint32_t service, const char *node, const char *id)
{
    catalog_service *s = &c->services[service];
    catalog_instance *at = catalog_find(c, service, node, id);
    if (at == NULL) {
        return false;
    }
    *at = s->instances[--s->num];
    return true;
}

/* ---- views ----------------------------------------------------------------------------------- */

bool catalog_view_has_tags(const catalog_view *v, const catalog_instance *instance)
{
    return (instance->tags & v->tags) == v->tags;
}

bool catalog_view_has(const catalog_view *v, const catalog_instance *instance)
{
    return catalog_view_has_tags(v, instance) &&
           (!v->passing_only || instance->status == SDC_STATUS_PASSING);
}

bool catalog_is_seen(const catalog_instance *instance, catalog_sight sight)
{
    return sight == SIGHT_ALL || (sight == SIGHT_PART && strcmp(instance->node, "n0") != 0);
}

static bool table_has(const catalog_view *v, uint64_t hash)
{
    size_t i = v->cap > 0 ? (size_t)hash & (v->cap - 1) : 0;
    while (v->cap > 0 && v->hashes[i] != 0) {
        if (v->hashes[i] == hash) {
            return true;
        }
        i = (i + 1) & (v->cap - 1);
    }
    return false;
}

static void table_insert(catalog_view *v, uint64_t hash)
{
    size_t i = (size_t)hash & (v->cap - 1);
    while (v->hashes[i] != 0) {
        i = (i + 1) & (v->cap - 1);
    }
    v->hashes[i] = hash;
    v->used++;
}

static void table_add(catalog_view *v, uint64_t hash)
{
    if (hash == 0 || table_has(v, hash)) {
        return;
    }
    if (2 * (v->used + 1) > v->cap) {
        catalog_view old = *v;
        v->cap = v->cap > 0 ? 2 * v->cap : 256;
        v->used = 0;
        v->hashes = (uint64_t *)calloc(v->cap, sizeof *v->hashes);
        if (v->hashes == NULL) {
            abort();
        }
        for (size_t i = 0; i < old.cap; i++) {
            if (old.hashes[i] != 0) {
                table_insert(v, old.hashes[i]);
            }
        }
        free(old.hashes);
    }
    table_insert(v, hash);
}

static uint64_t view_hash(const catalog_view *v, const catalog *c, catalog_sight sight,
                          uint32_t *num)
{
    const catalog_service *s = &c->services[v->service];
    uint64_t sum = sim_hash_empty();
    *num = 0;
    for (uint32_t i = 0; i < s->num; i++) {
        const catalog_instance *at = &s->instances[i];
        bool is_kept = v->worst == SDC_STATUS_UNSET || at->status <= v->worst;
        if (is_kept && catalog_is_seen(at, sight) && catalog_view_has(v, at)) {
            sum += at->hash;
            (*num)++;
        }
    }
    return sum;
}

void catalog_view_note(catalog_view *v, const catalog *c, uint64_t now_ms)
{
    uint32_t num_part = 0;
    uint64_t part = view_hash(v, c, SIGHT_PART, &num_part);
    if (v->hash == sim_hash_empty()) {
        v->empty_at_ms = now_ms;
    }
    uint64_t before = v->hash;
    v->hash = view_hash(v, c, SIGHT_ALL, &v->num);
    v->changed_at_ms = v->hash != before ? now_ms : v->changed_at_ms;
    if (v->num == 0) {
        v->empty_at_ms = now_ms;
    } else {
        table_add(v, v->hash);
    }
    if (num_part > 0) {
        table_add(v, part);
    }
}

bool catalog_view_held(const catalog_view *v, uint64_t hash)
{
    return table_has(v, hash);
}

void catalog_view_deinit(catalog_view *v)
{
    free(v->hashes);
    v->hashes = NULL;
    v->cap = 0;
}
