/* A watch as one writes it with libcurl and yyjson: the body is gathered in a
   buffer that is kept, parsed to a document, copied into structs, one block of
   memory for each instance, sorted, and compared with the list before. */
#include "watch.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <yyjson.h>

typedef struct pair { const char *key, *value; } pair;

typedef struct instance {
    const char *addr, *id, *node, *status;
    const char **tags;
    pair *meta;
    size_t num_tags, num_meta;
    uint64_t port, weight;
} instance;

typedef struct list {
    instance **items;
    size_t num;
} list;

typedef struct body {
    char *bytes;
    size_t len, max;
} body;

static body answer;
static unsigned long long answer_index;

/* -- From a document to structs -- */

static const char *str_of(yyjson_val *object, const char *name)
{
    const char *str = yyjson_get_str(yyjson_obj_get(object, name));

    return str != NULL ? str : "";
}

static size_t size_of(const char *str)
{
    return strlen(str) + 1;
}

static const char *copied(char **to, const char *str)
{
    char *at = *to;
    size_t size = size_of(str);

    memcpy(at, str, size);
    *to += size;
    return at;
}

static const char *val_str(yyjson_val *v)
{
    const char *str = yyjson_get_str(v);

    return str != NULL ? str : "";
}

static size_t text_size(yyjson_val *tags, yyjson_val *meta)
{
    size_t i, max, size = 0;
    yyjson_val *key, *val;

    yyjson_arr_foreach(tags, i, max, val) {
        size += size_of(val_str(val));
    }
    yyjson_obj_foreach(meta, i, max, key, val) {
        size += size_of(val_str(key)) + size_of(val_str(val));
    }
    return size;
}

static int status_rank(const char *status)
{
    return strcmp(status, "passing") == 0 ? 0 : strcmp(status, "warning") == 0 ? 1 : 2;
}

static const char *worst_of(yyjson_val *checks)
{
    static const char *const names[] = { "passing", "warning", "critical" };
    int worst = 0;
    size_t i, max;
    yyjson_val *check;

    yyjson_arr_foreach(checks, i, max, check) {
        int rank = status_rank(str_of(check, "Status"));
        worst = rank > worst ? rank : worst;
    }
    return names[worst];
}

static instance *instance_new(yyjson_val *entry)
{
    yyjson_val *node = yyjson_obj_get(entry, "Node");
    yyjson_val *service = yyjson_obj_get(entry, "Service");
    yyjson_val *tags = yyjson_obj_get(service, "Tags");
    yyjson_val *meta = yyjson_obj_get(service, "Meta");
    yyjson_val *weights = yyjson_obj_get(service, "Weights");
    const char *addr = str_of(service, "Address");
    const char *id = str_of(service, "ID"), *name = str_of(node, "Node");
    size_t i, max;
    yyjson_val *key, *val;

    addr = *addr != '\0' ? addr : str_of(node, "Address");
    size_t arrays = yyjson_arr_size(tags) * sizeof(char *) + yyjson_obj_size(meta) * sizeof(pair);
    instance *out = malloc(sizeof *out + arrays + size_of(addr) + size_of(id) + size_of(name) +
                           text_size(tags, meta));
    if (out == NULL) {
        watch_fail("out of memory");
    }
    out->num_tags = yyjson_arr_size(tags);
    out->num_meta = yyjson_obj_size(meta);
    out->meta = (pair *)(void *)(out + 1);
    out->tags = (const char **)(void *)(out->meta + out->num_meta);
    char *text = (char *)(void *)(out->tags + out->num_tags);
    out->addr = copied(&text, addr);
    out->id = copied(&text, id);
    out->node = copied(&text, name);
    yyjson_arr_foreach(tags, i, max, val) {
        out->tags[i] = copied(&text, val_str(val));
    }
    yyjson_obj_foreach(meta, i, max, key, val) {
        out->meta[i].key = copied(&text, val_str(key));
        out->meta[i].value = copied(&text, val_str(val));
    }
    out->port = yyjson_get_uint(yyjson_obj_get(service, "Port"));
    out->status = worst_of(yyjson_obj_get(entry, "Checks"));
    out->weight = yyjson_get_uint(
        yyjson_obj_get(weights, status_rank(out->status) == 1 ? "Warning" : "Passing"));
    return out;
}

static int compare(const void *a, const void *b)
{
    const instance *x = *(instance *const *)a, *y = *(instance *const *)b;
    int by_node = strcmp(x->node, y->node);

    return by_node != 0 ? by_node : strcmp(x->id, y->id);
}

static list list_of(const body *b)
{
    list out = { NULL, 0 };
    size_t i, max;
    yyjson_val *entry;
    yyjson_doc *doc = yyjson_read(b->bytes, b->len, 0);

    if (doc == NULL) {
        watch_fail("not JSON");
    }
    yyjson_val *root = yyjson_doc_get_root(doc);
    out.items = malloc((yyjson_arr_size(root) + 1) * sizeof *out.items);
    yyjson_arr_foreach(root, i, max, entry) {
        out.items[out.num++] = instance_new(entry);
    }
    yyjson_doc_free(doc);
    qsort(out.items, out.num, sizeof *out.items, compare);
    return out;
}

static void list_free(list *l)
{
    for (size_t i = 0; i < l->num; i++) {
        free(l->items[i]);
    }
    free(l->items);
}

/* -- What changed -- */

static bool same_instance(const instance *x, const instance *y)
{
    bool same = strcmp(x->addr, y->addr) == 0 && x->port == y->port && x->weight == y->weight &&
                strcmp(x->status, y->status) == 0 && x->num_tags == y->num_tags &&
                x->num_meta == y->num_meta;

    for (size_t i = 0; same && i < x->num_tags; i++) {
        same = strcmp(x->tags[i], y->tags[i]) == 0;
    }
    for (size_t i = 0; same && i < x->num_meta; i++) {
        same = strcmp(x->meta[i].key, y->meta[i].key) == 0 &&
               strcmp(x->meta[i].value, y->meta[i].value) == 0;
    }
    return same;
}

static size_t num_changed(const list *before, const list *now)
{
    size_t i = 0, k = 0, num = 0;

    while (i < before->num && k < now->num) {
        int order = compare(&before->items[i], &now->items[k]);
        num += order != 0 || !same_instance(before->items[i], now->items[k]);
        i += order <= 0;
        k += order >= 0;
    }
    return num + (before->num - i) + (now->num - k);
}

/* -- libcurl -- */

static size_t on_bytes(char *bytes, size_t size, size_t num, void *user)
{
    body *b = user;
    size_t len = size * num;

    if (b->len + len > b->max) {
        b->max = (b->len + len) * 2;
        b->bytes = realloc(b->bytes, b->max);
    }
    if (b->bytes == NULL) {
        return 0;
    }
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
    return len;
}

static size_t on_header(char *line, size_t size, size_t num, void *user)
{
    char text[64];

    (void)user;
    (void)snprintf(text, sizeof text, "%.*s", (int)(size * num), line);
    if (strncasecmp(text, "X-Consul-Index:", 15) == 0) {
        answer_index = strtoull(text + 15, NULL, 10);
    }
    return size * num;
}

static CURL *curl_new(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
    CURL *curl = curl_easy_init();

    if (curl == NULL) {
        watch_fail("no libcurl");
    }
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    (void)curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 65536L);
    return curl;
}

static list fetched(CURL *curl, const plan *p)
{
    char url[256];

    (void)snprintf(url, sizeof url,
                   "http://127.0.0.1:%s/v1/health/service/%s?index=%llu&passing=1&wait=60000ms",
                   p->port, p->service, answer_index);
    (void)curl_easy_setopt(curl, CURLOPT_URL, url);
    answer.len = 0;
    if (curl_easy_perform(curl) != CURLE_OK) {
        watch_fail("the exchange failed");
    }
    return list_of(&answer);
}

static void update(CURL *curl, const plan *p, list *known)
{
    list now = fetched(curl, p);

    if (num_changed(known, &now) == 0) {
        watch_fail("nothing changed");
    }
    list_free(known);
    *known = now;
}

int main(int argc, char **argv)
{
    plan p = watch_plan(argc, argv);
    list known = { NULL, 0 };
    CURL *curl = curl_new();
    uint64_t began = 0;

    watch_begin();
    for (unsigned i = 0; i < p.num_warm + p.num; i++) {
        if (i == p.num_warm) {
            began = watch_cpu_us();
        }
        update(curl, &p, &known);
    }
    watch_done(&p, watch_cpu_us() - began, "");
    list_free(&known);
    known = fetched(curl, &p);
    return 0;
}
