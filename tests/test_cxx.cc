// The header as C++11, the implementation too: what a C++ program does with it at all, on the
// POSIX table and without an agent.
#define SDCONSUL_IMPLEMENTATION
#include "../sdconsul.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

int num_failed = 0;

void check(bool ok, const char *what)
{
    if (!ok) {
        num_failed++;
        std::printf("FAILED %s\n", what);
    }
}

struct seen {
    int         num_calls = 0;
    std::string addrs;
};

void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    seen *s = static_cast<seen *>(user);
    s->num_calls++;
    s->addrs.clear();
    for (size_t i = 0; i < event->num_instances; i++) {
        s->addrs += event->instances[i].addr;
        s->addrs += ' ';
    }
    check(change->num_added + change->num_removed + change->num_updated > 0 || s->num_calls == 1,
          "an event without a change");
}

void try_cache()
{
    sdc_cache *cache = nullptr;
    seen s;
    check(sdc_cache_create(nullptr, &cache) == SDC_OK, "sdc_cache_create");
    check(sdc_cache_subscribe(cache, on_event, &s) == SDC_OK, "sdc_cache_subscribe");
    std::vector<sdc_instance> list(2);
    list[0].host = "::1";
    list[0].port = 80;
    list[1].addr = "10.0.0.1:81";
    check(sdc_cache_update(cache, list.data(), list.size(), 7, 1) == SDC_OK, "sdc_cache_update");
    check(s.num_calls == 2 && s.addrs == "10.0.0.1:81 [::1]:80 ", "the addresses");
    sdc_cache_destroy(cache);
}

sdc_err on_instance(void *user, const sdc_instance *instance)
{
    *static_cast<std::string *>(user) += instance->addr;
    return SDC_OK;
}

void try_entries()
{
    static const char body[] = "[{\"Node\":{\"Node\":\"n\",\"Address\":\"10.0.0.9\"},"
                               "\"Service\":{\"ID\":\"a\",\"Service\":\"web\",\"Port\":80}}]";
    std::string addrs;
    sdc_entries *entries = nullptr;
    check(sdc_entries_create(nullptr, on_instance, &addrs, &entries) == SDC_OK,
          "sdc_entries_create");
    for (size_t i = 0; i + 1 < sizeof body; i++) {
        check(sdc_entries_feed(entries, body + i, 1) == SDC_OK, "sdc_entries_feed");
    }
    check(sdc_entries_finish(entries) == SDC_OK, "sdc_entries_finish");
    check(addrs == "10.0.0.9:80", "the address of the node");
    sdc_entries_destroy(entries);
}

// A unix socket that is not there: the whole way down to the system and back.
void try_client()
{
    sdc_client_desc desc = sdc_client_desc();
    sdc_client *client = nullptr;
    sdc_error error;
    desc.address = "unix:///nonexistent/of/test_cxx.sock";
    desc.ignore_environment = true;
    check(sdc_client_create(&desc, &client, &error) == SDC_OK, "sdc_client_create");
    sdc_query query = sdc_query();
    const sdc_event *event = nullptr;
    query.service = "web";
    sdc_err err = sdc_client_service(client, &query, &event, &error);
    check(err == SDC_ERR_CONNECT && event == nullptr && error.message[0] != '\0',
          "sdc_client_service where nobody is");
    sdc_instancer_desc watch = sdc_instancer_desc();
    sdc_instancer *instancer = nullptr;
    watch.query.service = "web";
    check(sdc_instancer_create(client, &watch, &instancer, &error) == SDC_OK,
          "sdc_instancer_create");
    sdc_task *task = sdc_instancer_task(instancer);
    check(sdc_step(task, 0) == SDC_ERR_CONNECT, "sdc_step where nobody is");
    sdc_stop(task);
    check(sdc_step(task, -1) == SDC_STOPPED, "sdc_step after sdc_stop");
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
}

} // namespace

int main()
{
    check(sdc_version() == SDC_VERSION, "sdc_version");
    check(std::strcmp(sdc_err_str(SDC_OK), "ok") == 0, "sdc_err_str");
    try_cache();
    try_entries();
    try_client();
    return num_failed == 0 ? 0 : 1;
}
