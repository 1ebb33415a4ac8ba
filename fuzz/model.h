/* The entries decoder once more, the plain way: each entry as a tree, made from the events of
   plain.h, and then the rules, read off one after the other. Slow and short, it is what the
   real one is compared with: the same instances, the same number left out, the same error. */
#ifndef MODEL_H
#define MODEL_H

#include "feed.h"
#include "plain.h"

typedef struct model_node {
    sdc_json_kind kind;
    char *key, *text;               /* each with a NUL of its own behind it; key "" in an array */
    size_t key_len, text_len;
    struct model_node *up, *first, *last, *next;
} model_node;

typedef struct model {
    model_node *entry, *at;         /* the tree being made, and the open container in it        */
    char       *key;
    size_t      key_len;
    unsigned    depth, skip_depth;  /* open containers; and those of an item that is no object  */
    uint64_t    num_skipped;
    feed_log    log;
    struct model_block *blocks;     /* where trees and texts are, the newest first              */
} model;

typedef struct model_block {
    struct model_block *next;
    size_t              used, size;
} model_block;

/* -- The tree -- */

/* Memory that is given back all at once by model_free. */
static inline void *model_new(model *m, size_t size)
{
    model_block *block = m->blocks;

    size = (size + 15) / 16 * 16;
    if (block == NULL || block->size - block->used < size) {
        size_t block_size = sizeof *block + 16 + (size > 16384 ? size : 16384);
        block = (model_block *)malloc(block_size);
        if (block == NULL) {
            abort();
        }
        block->next = m->blocks;
        block->used = (sizeof *block + 15) / 16 * 16;
        block->size = block_size;
        m->blocks = block;
    }
    void *piece = (char *)block + block->used;
    block->used += size;
    return piece;
}

static inline void model_free(model *m)
{
    while (m->blocks != NULL) {
        model_block *next = m->blocks->next;
        free(m->blocks);
        m->blocks = next;
    }
}

static inline char *model_copy(model *m, const char *text, size_t len)
{
    char *copy = (char *)model_new(m, len + 1);

    if (len > 0) {
        memcpy(copy, text, len);
    }
    copy[len] = '\0';
    return copy;
}

static inline model_node *model_add(model *m, sdc_json_kind kind, const char *text, size_t len)
{
    model_node *n = (model_node *)model_new(m, sizeof *n);

    memset(n, 0, sizeof *n);
    n->kind = kind;
    n->text = model_copy(m, text, len);
    n->text_len = len;
    n->key = m->key != NULL ? m->key : model_copy(m, "", 0);
    n->key_len = m->key != NULL ? m->key_len : 0;
    m->key = NULL;
    n->up = m->at;
    if (m->at != NULL && m->at->last != NULL) {
        m->at->last->next = n;
    } else if (m->at != NULL) {
        m->at->first = n;
    }
    if (m->at != NULL) {
        m->at->last = n;
    }
    return n;
}

static inline bool model_is_null(const model_node *n)
{
    return n == NULL || n->kind == SDC_JSON_NULL;
}

/* The last member of that name; NULL where there is none or it is null. */
static inline const model_node *model_get(const model_node *n, const char *name)
{
    const model_node *found = NULL;

    for (const model_node *c = n != NULL ? n->first : NULL; c != NULL; c = c->next) {
        if (c->key_len == strlen(name) && memcmp(c->key, name, c->key_len) == 0) {
            found = c;
        }
    }
    return model_is_null(found) ? NULL : found;
}

static inline const char *model_text(const model_node *n, const char *name)
{
    const model_node *found = model_get(n, name);

    return found != NULL ? found->text : "";
}

static inline uint16_t model_number(const model_node *n, const char *name, uint16_t absent)
{
    const model_node *found = model_get(n, name);

    return found != NULL ? (uint16_t)strtoul(found->text, NULL, 10) : absent;
}

/* -- Types: every member that is wanted, also one that a later one replaces -- */

typedef struct model_rule {
    char        in;                 /* where the member stands                                 */
    const char *name;               /* "": any, and null is none of its values                 */
    char        type;               /* 's' shown text, 't' text, 'n' port, 'b' bool, or where
                                       its members stand: upper case an object, else a list    */
} model_rule;

static inline const model_rule *model_rules(size_t *num)
{
    static const model_rule rules[] = {
        { 'E', "Node", 'N' }, { 'E', "Service", 'S' }, { 'E', "Checks", 'c' },
        { 'N', "Node", 's' }, { 'N', "Address", 's' }, { 'N', "Datacenter", 's' },
        { 'N', "Partition", 's' }, { 'N', "PeerName", 's' }, { 'N', "Locality", 'L' },
        { 'L', "Region", 's' }, { 'L', "Zone", 's' },
        { 'S', "ID", 's' }, { 'S', "Service", 's' }, { 'S', "Tags", 'g' }, { 'S', "Address", 's' },
        { 'S', "TaggedAddresses", 'A' }, { 'S', "Meta", 'M' }, { 'S', "Port", 'n' },
        { 'S', "Ports", 'p' }, { 'S', "SocketPath", 's' }, { 'S', "Weights", 'W' },
        { 'S', "Locality", 'L' }, { 'S', "PeerName", 's' }, { 'S', "Namespace", 's' },
        { 'S', "Partition", 's' },
        { 'g', "", 's' }, { 'M', "", 's' }, { 'A', "", 'I' }, { 'p', "", 'P' }, { 'c', "", 'C' },
        { 'I', "Address", 's' }, { 'I', "Port", 'n' },
        { 'P', "Name", 's' }, { 'P', "Port", 'n' }, { 'P', "Default", 'b' },
        { 'W', "Passing", 'n' }, { 'W', "Warning", 'n' },
        { 'C', "CheckID", 't' }, { 'C', "Status", 't' }
    };

    *num = sizeof rules / sizeof rules[0];
    return rules;
}

static inline bool model_is_port(const model_node *n)
{
    unsigned long value = 0;

    for (const char *p = n->text; *p != '\0'; p++) {
        bool is_digit = *p >= '0' && *p <= '9';
        value = value > 65535 || !is_digit ? 65536 : value * 10 + (unsigned long)(*p - '0');
    }
    return n->kind == SDC_JSON_NUMBER && value <= 65535;
}

static inline bool model_is_typed(const model_node *n, char where);

static inline bool model_is_of_type(const model_node *n, char type)
{
    bool has_nul = strlen(n->text) != n->text_len;

    switch (type) {
    case 's': return n->kind == SDC_JSON_STRING && !has_nul;
    case 't': return n->kind == SDC_JSON_STRING;
    case 'n': return model_is_port(n);
    case 'b': return n->kind == SDC_JSON_TRUE || n->kind == SDC_JSON_FALSE;
    default: break;
    }
    bool is_object = type >= 'A' && type <= 'Z';
    return n->kind == (is_object ? SDC_JSON_OBJECT : SDC_JSON_ARRAY) && model_is_typed(n, type);
}

static inline bool model_is_typed(const model_node *n, char where)
{
    size_t num_rules = 0;
    size_t num_items = 0;
    const model_rule *rules = model_rules(&num_rules);

    for (const model_node *c = n->first; c != NULL; c = c->next) {
        for (size_t i = 0; i < num_rules; i++) {
            const model_rule *r = &rules[i];
            bool is_any = r->name[0] == '\0';
            bool is_it = is_any || (c->key_len == strlen(r->name) &&
                                    memcmp(c->key, r->name, c->key_len) == 0);
            if (r->in != where || !is_it) {
                continue;
            }
            num_items += is_any ? 1 : 0;
            bool has_nul = is_any && strlen(c->key) != c->key_len;
            bool may_be_null = !is_any && c->kind == SDC_JSON_NULL;
            if (has_nul || (!may_be_null && !model_is_of_type(c, r->type))) {
                return false;
            }
        }
    }
    return num_items <= 1024 || where == 'c';
}

/* -- Values -- */

static inline int model_compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static inline size_t model_count(const model_node *n)
{
    size_t num = 0;

    for (const model_node *c = n != NULL ? n->first : NULL; c != NULL; c = c->next) {
        num++;
    }
    return num;
}

/* The members of a map, one for each name, sorted: the nth of them. */
static inline const model_node *model_sorted(const model_node *map, const model_node *before)
{
    const model_node *best = NULL;

    for (const model_node *c = map != NULL ? map->first : NULL; c != NULL; c = c->next) {
        bool is_behind = before == NULL || strcmp(c->key, before->key) > 0;
        if (is_behind && (best == NULL || strcmp(c->key, best->key) <= 0)) {
            best = c;
        }
    }
    return best;
}

static inline sdc_status model_status(const model_node *checks)
{
    sdc_status worst = SDC_STATUS_PASSING;

    for (const model_node *c = checks != NULL ? checks->first : NULL; c != NULL; c = c->next) {
        const model_node *id = model_get(c, "CheckID");
        const model_node *status = model_get(c, "Status");
        const char *text = status != NULL && strlen(status->text) == status->text_len
                               ? status->text : "";
        sdc_status s = strcmp(text, "passing") == 0 ? SDC_STATUS_PASSING
                     : strcmp(text, "warning") == 0 ? SDC_STATUS_WARNING : SDC_STATUS_CRITICAL;
        if (id != NULL && ((id->text_len == 17 && memcmp(id->text, "_node_maintenance", 17) == 0) ||
                           strncmp(id->text, "_service_maintenance:", 21) == 0)) {
            s = SDC_STATUS_MAINTENANCE;
        }
        worst = s > worst ? s : worst;
    }
    return worst;
}

static inline uint16_t model_port(const model_node *service)
{
    uint16_t port = model_number(service, "Port", 0);
    const model_node *ports = model_get(service, "Ports");
    const model_node *chosen = NULL;

    for (const model_node *c = ports != NULL ? ports->first : NULL; c != NULL; c = c->next) {
        const model_node *is_default = model_get(c, "Default");
        if (chosen == NULL && is_default != NULL && is_default->kind == SDC_JSON_TRUE) {
            chosen = c;
        }
    }
    if (port != 0 || ports == NULL || ports->first == NULL) {
        return port;
    }
    return model_number(chosen != NULL ? chosen : ports->first, "Port", 0);
}

static inline bool model_is_address(const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7F) {
            return false;
        }
    }
    return text[0] != '\0';
}

/* -- An entry -- */

static inline void *model_array(model *m, size_t num, size_t size)
{
    void *array = model_new(m, (num + 1) * size);

    memset(array, 0, (num + 1) * size);
    return array;
}

static inline void model_put_lists(model *m, const model_node *service, sdc_instance *out)
{
    const model_node *tags = model_get(service, "Tags");
    const model_node *meta = model_get(service, "Meta");
    const model_node *tagged = model_get(service, "TaggedAddresses");
    const model_node *named = model_get(service, "Ports");
    const char **tag = (const char **)model_array(m, model_count(tags), sizeof *tag);
    sdc_kv *kv = (sdc_kv *)model_array(m, model_count(meta), sizeof *kv);
    sdc_address *address = (sdc_address *)model_array(m, model_count(tagged), sizeof *address);
    sdc_port *port = (sdc_port *)model_array(m, model_count(named), sizeof *port);

    for (const model_node *c = tags != NULL ? tags->first : NULL; c != NULL; c = c->next) {
        tag[out->num_tags++] = c->text;
    }
    qsort(tag, out->num_tags, sizeof *tag, model_compare_text);
    for (const model_node *c = model_sorted(meta, NULL); c != NULL; c = model_sorted(meta, c)) {
        kv[out->num_meta].key = c->key;
        kv[out->num_meta++].value = c->text;
    }
    for (const model_node *c = model_sorted(tagged, NULL); c != NULL; c = model_sorted(tagged, c)) {
        address[out->num_tagged_addresses].key = c->key;
        address[out->num_tagged_addresses].address = model_text(c, "Address");
        address[out->num_tagged_addresses++].port = model_number(c, "Port", 0);
    }
    for (const model_node *c = named != NULL ? named->first : NULL; c != NULL; c = c->next) {
        const model_node *is_default = model_get(c, "Default");
        port[out->num_ports].name = model_text(c, "Name");
        port[out->num_ports].port = model_number(c, "Port", 0);
        port[out->num_ports++].is_default = is_default != NULL &&
                                            is_default->kind == SDC_JSON_TRUE;
    }
    out->tags = tag;
    out->meta = kv;
    out->tagged_addresses = address;
    out->ports = port;
    feed_put_instance(&m->log, out);
}

static inline const char *model_either(const char *first, const char *second)
{
    return first[0] != '\0' ? first : second;
}

static inline void model_put_instance(model *m, const model_node *node, const model_node *service,
                                      const char *addr)
{
    const model_node *weights = model_get(service, "Weights");
    const model_node *locality = model_get(service, "Locality");
    sdc_instance out;

    memset(&out, 0, sizeof out);
    out.addr = addr;
    out.id = model_text(service, "ID");
    out.service = model_text(service, "Service");
    out.node = model_text(node, "Node");
    out.datacenter = model_text(node, "Datacenter");
    out.ns = model_text(service, "Namespace");
    out.partition = model_either(model_text(service, "Partition"), model_text(node, "Partition"));
    out.peer = model_either(model_text(service, "PeerName"), model_text(node, "PeerName"));
    bool has_own = model_text(locality, "Region")[0] != '\0' ||
                   model_text(locality, "Zone")[0] != '\0';
    locality = has_own ? locality : model_get(node, "Locality");
    out.region = model_text(locality, "Region");
    out.zone = model_text(locality, "Zone");
    out.status = model_status(model_get(m->entry, "Checks"));
    out.weight = weights == NULL ? 1 : model_number(weights, "Passing", 1);
    if (out.status == SDC_STATUS_WARNING) {
        out.weight = weights == NULL ? 1 : model_number(weights, "Warning", 0);
    } else if (out.status > SDC_STATUS_WARNING) {
        out.weight = 0;
    }
    model_put_lists(m, service, &out);
}

static inline void model_entry_done(model *m)
{
    const model_node *node = model_get(m->entry, "Node");
    const model_node *service = model_get(m->entry, "Service");
    bool is_usable = model_is_typed(m->entry, 'E');
    feed_log addr = { NULL, 0, 0 };

    if (is_usable) {
        const char *socket_path = model_text(service, "SocketPath");
        const char *host = model_either(model_text(service, "Address"),
                                        model_text(node, "Address"));
        uint16_t port = model_port(service);
        bool has_brackets = strchr(host, ':') != NULL && host[0] != '[';
        is_usable = socket_path[0] != '\0' || (model_is_address(host) && port != 0);
        feed_puts(&addr, socket_path[0] != '\0' ? "unix:" : has_brackets ? "[" : "");
        feed_puts(&addr, socket_path[0] != '\0' ? socket_path : host);
        if (socket_path[0] == '\0') {
            feed_puts(&addr, has_brackets ? "]:" : ":");
            feed_put_u64(&addr, port);
        }
    }
    if (is_usable) {
        model_put_instance(m, node, service, addr.text);
    } else {
        m->num_skipped++;
    }
    free(addr.text);
    m->entry = NULL;
    m->at = NULL;
}

/* -- Events -- */

/* An item of the list that is no object, and what is in it. */
static inline void model_skip(model *m, sdc_json_kind kind, bool is_open, bool is_end)
{
    (void)kind;
    m->num_skipped += m->skip_depth == 0 ? 1 : 0;
    m->skip_depth += is_open ? 1 : 0;
    m->skip_depth -= is_end ? 1 : 0;
}

static inline sdc_err model_on_json(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    model *m = (model *)user;
    bool is_open = kind == SDC_JSON_OBJECT || kind == SDC_JSON_ARRAY;
    bool is_end = kind == SDC_JSON_OBJECT_END || kind == SDC_JSON_ARRAY_END;

    if (m->depth == 0) {
        m->depth = 1;
        return kind == SDC_JSON_ARRAY ? SDC_OK : SDC_ERR_SHAPE;
    }
    if (m->entry == NULL && m->skip_depth == 0 && is_end) {
        return SDC_OK;
    }
    if (m->entry == NULL && (m->skip_depth > 0 || kind != SDC_JSON_OBJECT)) {
        model_skip(m, kind, is_open, is_end);
        return SDC_OK;
    }
    if (kind == SDC_JSON_KEY) {
        m->key = model_copy(m, text, len);
        m->key_len = len;
    } else if (is_end && m->at->up == NULL) {
        model_entry_done(m);
    } else if (is_end) {
        m->at = m->at->up;
    } else {
        model_node *n = model_add(m, kind, text, len);
        m->entry = m->entry == NULL ? n : m->entry;
        m->at = is_open ? n : m->at;
    }
    return SDC_OK;
}

/* What begins another value than an array is refused at once, before it can turn out to be none. */
static inline bool model_is_refused_at(const unsigned char *bytes, size_t len, size_t *at)
{
    *at = 0;
    while (*at < len && bytes[*at] != 0 && strchr(" \t\r\n", bytes[*at]) != NULL) {
        (*at)++;
    }
    return *at < len && bytes[*at] != 0 && strchr("\"{-0123456789tfn", bytes[*at]) != NULL;
}

static inline void model_put_result(model *m, const plain_result *result)
{
    feed_puts(&m->log, feed_err_name(result->err));
    if (result->err != SDC_OK) {
        feed_puts(&m->log, ": JSON, byte ");
        feed_put_u64(&m->log, result->at);
        feed_puts(&m->log, ": ");
        feed_puts(&m->log, result->what);
    }
    feed_puts(&m->log, ", ");
    feed_put_u64(&m->log, m->num_skipped);
    feed_puts(&m->log, " skipped");
}

/* The log as feed writes it, without reasons for what is left out; free its text. */
static inline feed_log model_log(const void *bytes, size_t len)
{
    plain_result result = { SDC_OK, 0, "" };
    model m;

    memset(&m, 0, sizeof m);
    feed_puts(&m.log, "");
    if (model_is_refused_at((const unsigned char *)bytes, len, &result.at)) {
        result.err = SDC_ERR_SHAPE;
        result.what = "the answer is not an array";
    } else {
        result = plain_read(bytes, len, model_on_json, &m);
    }
    model_put_result(&m, &result);
    model_free(&m);
    return m.log;
}

#endif
