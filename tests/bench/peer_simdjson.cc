// simdjson On-Demand, over the padded body in place, with one parser kept. PEER_KERNEL names the
// kernel to force; without it simdjson picks one.
#include "peer.h"

#include <simdjson.h>
#include <string>

namespace {

namespace od = simdjson::ondemand;

text text_of(std::string_view v)
{
    return { v.data(), v.size() };
}

/* null counts as absent, as it does for the others */
text string_of(od::value v)
{
    std::string_view out;
    return v.get_string().get(out) == simdjson::SUCCESS ? text_of(out) : text{ "", 0 };
}

void on_node(od::object node, entry &e)
{
    for (auto field : node) {
        od::raw_json_string key = field.key();
        if (key == "Node") {
            e.node = string_of(field.value());
        } else if (key == "Address") {
            e.node_address = string_of(field.value());
        }
    }
}

void on_weights(od::object weights, entry &e)
{
    e.weight_warning = 0;
    for (auto field : weights) {
        od::raw_json_string key = field.key();
        if (key == "Passing") {
            e.weight_passing = field.value().get_uint64();
        } else if (key == "Warning") {
            e.weight_warning = field.value().get_uint64();
        }
    }
}

void on_meta(od::value value, const sum &s, entry &e)
{
    od::object meta;

    if (value.get_object().get(meta) != simdjson::SUCCESS) {
        return;
    }
    for (auto field : meta) {
        std::string_view key = field.unescaped_key();
        entry_meta(&s, &e, text_of(key), string_of(field.value()));
    }
}

void on_tags(od::value value, const sum &s, entry &e)
{
    od::array tags;

    if (value.get_array().get(tags) != simdjson::SUCCESS) {
        return;
    }
    for (od::value tag : tags) {
        entry_tag(&s, &e, string_of(tag));
    }
}

void on_service(od::object service, const sum &s, entry &e)
{
    for (auto field : service) {
        od::raw_json_string key = field.key();
        if (key == "ID") {
            e.id = string_of(field.value());
        } else if (key == "Address") {
            e.address = string_of(field.value());
        } else if (key == "Port") {
            e.port = field.value().get_uint64();
        } else if (key == "Tags") {
            on_tags(field.value(), s, e);
        } else if (key == "Meta") {
            on_meta(field.value(), s, e);
        } else if (key == "Weights") {
            on_weights(field.value(), e);
        }
    }
}

void on_checks(od::array checks, entry &e)
{
    for (od::object check : checks) {
        text id = { "", 0 }, status = { "", 0 };
        for (auto field : check) {
            od::raw_json_string key = field.key();
            if (key == "CheckID") {
                id = string_of(field.value());
            } else if (key == "Status") {
                status = string_of(field.value());
            }
        }
        entry_check(&e, id, status);
    }
}

const simdjson::implementation *kernel()
{
#ifdef PEER_KERNEL
    return simdjson::get_available_implementations()[PEER_KERNEL];
#else
    return simdjson::get_available_implementations().detect_best_supported();
#endif
}

void *open(size_t max_len)
{
    const simdjson::implementation *k = kernel();

    if (k == nullptr || !k->supported_by_runtime_system()) {
        return nullptr;
    }
    simdjson::get_active_implementation() = k;
    od::parser *parser = new od::parser;
    if (parser->allocate(max_len) != simdjson::SUCCESS) {
        delete parser;
        return nullptr;
    }
    return parser;
}

bool run(void *state, const char *body, size_t len, size_t, sum *s)
{
    od::parser *parser = static_cast<od::parser *>(state);

    try {
        od::document doc = parser->iterate(
            simdjson::padded_string_view(body, len, len + simdjson::SIMDJSON_PADDING));
        for (od::object item : doc.get_array()) {
            entry e;
            entry_begin(&e);
            for (auto field : item) {
                od::raw_json_string key = field.key();
                if (key == "Node") {
                    on_node(field.value().get_object(), e);
                } else if (key == "Service") {
                    on_service(field.value().get_object(), *s, e);
                } else if (key == "Checks") {
                    on_checks(field.value().get_array(), e);
                }
            }
            entry_end(s, &e);
        }
        return doc.at_end();
    } catch (const simdjson::simdjson_error &) {
        return false;
    }
}

void close(void *state)
{
    delete static_cast<od::parser *>(state);
}

} // namespace

const peer *bench_peer(void)
{
    static const std::string name =
        std::string("simdjson, ") + (kernel() != nullptr ? kernel()->name() : "no kernel");
    static const std::string version = std::to_string(simdjson::SIMDJSON_VERSION_MAJOR) + "." +
                                       std::to_string(simdjson::SIMDJSON_VERSION_MINOR) + "." +
                                       std::to_string(simdjson::SIMDJSON_VERSION_REVISION);
    static const peer p = { name.c_str(), version.c_str(), false, open, run, close };

    return &p;
}
