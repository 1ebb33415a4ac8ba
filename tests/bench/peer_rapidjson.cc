// RapidJSON: a document for each body, with its SSE2 code.
#define RAPIDJSON_SSE2 1
#include "peer.h"

#include <cstdlib>
#include <rapidjson/document.h>

namespace {

typedef rapidjson::Value value;

text text_of(const value &v)
{
    return v.IsString() ? text{ v.GetString(), v.GetStringLength() } : text{ "", 0 };
}

void on_node(const value &node, entry &e)
{
    for (const auto &m : node.GetObject()) {
        text key = text_of(m.name);
        if (TEXT_IS(key, "Node")) {
            e.node = text_of(m.value);
        } else if (TEXT_IS(key, "Address")) {
            e.node_address = text_of(m.value);
        }
    }
}

void on_weights(const value &weights, entry &e)
{
    e.weight_warning = 0;
    for (const auto &m : weights.GetObject()) {
        text key = text_of(m.name);
        if (TEXT_IS(key, "Passing")) {
            e.weight_passing = m.value.GetUint64();
        } else if (TEXT_IS(key, "Warning")) {
            e.weight_warning = m.value.GetUint64();
        }
    }
}

void on_tags(const value &tags, const sum &s, entry &e)
{
    if (tags.IsArray()) {
        for (const auto &tag : tags.GetArray()) {
            entry_tag(&s, &e, text_of(tag));
        }
    }
}

void on_meta(const value &meta, const sum &s, entry &e)
{
    if (meta.IsObject()) {
        for (const auto &m : meta.GetObject()) {
            entry_meta(&s, &e, text_of(m.name), text_of(m.value));
        }
    }
}

void on_service(const value &service, const sum &s, entry &e)
{
    for (const auto &m : service.GetObject()) {
        text key = text_of(m.name);
        if (TEXT_IS(key, "ID")) {
            e.id = text_of(m.value);
        } else if (TEXT_IS(key, "Address")) {
            e.address = text_of(m.value);
        } else if (TEXT_IS(key, "Port")) {
            e.port = m.value.GetUint64();
        } else if (TEXT_IS(key, "Tags")) {
            on_tags(m.value, s, e);
        } else if (TEXT_IS(key, "Meta")) {
            on_meta(m.value, s, e);
        } else if (TEXT_IS(key, "Weights")) {
            on_weights(m.value, e);
        }
    }
}

void on_checks(const value &checks, entry &e)
{
    for (const auto &check : checks.GetArray()) {
        text id = { "", 0 }, status = { "", 0 };
        for (const auto &m : check.GetObject()) {
            text key = text_of(m.name);
            if (TEXT_IS(key, "CheckID")) {
                id = text_of(m.value);
            } else if (TEXT_IS(key, "Status")) {
                status = text_of(m.value);
            }
        }
        entry_check(&e, id, status);
    }
}

void *open(size_t)
{
    return std::malloc(1);
}

bool run(void *, const char *body, size_t len, size_t, sum *s)
{
    rapidjson::Document doc;

    doc.Parse(body, len);
    if (doc.HasParseError()) {
        return false;
    }
    for (const auto &item : doc.GetArray()) {
        entry e;
        entry_begin(&e);
        for (const auto &m : item.GetObject()) {
            text key = text_of(m.name);
            if (TEXT_IS(key, "Node")) {
                on_node(m.value, e);
            } else if (TEXT_IS(key, "Service")) {
                on_service(m.value, *s, e);
            } else if (TEXT_IS(key, "Checks")) {
                on_checks(m.value, e);
            }
        }
        entry_end(s, &e);
    }
    return true;
}

} // namespace

const peer *bench_peer(void)
{
    static const peer p = { "RapidJSON", RAPIDJSON_VERSION_STRING, false, open, run, std::free };

    return &p;
}
