/* Any bytes as a JSON text. Build, run and replay: see fuzz/run.sh and fuzz/replay.c.

   The events, the result and the byte of an error do not depend on how the text is cut, and they
   are those of plain.h; of a text that is taken the brackets match and each name is followed by a
   value. */
#include "../sdconsul.h"
#include "feed.h"
#include "fuzz.h"
#include "plain.h"

/* The grammar of the events, as a second opinion on what was taken. */
typedef struct order {
    bool in_object[65], wants_value[65];
    unsigned depth;
    unsigned num_tops;
} order;

static void order_value(order *o)
{
    if (o->depth == 0) {
        o->num_tops++;
        fuzz_require(o->num_tops == 1, "two values at the top");
    } else if (o->in_object[o->depth]) {
        fuzz_require(o->wants_value[o->depth], "a value without a name");
        o->wants_value[o->depth] = false;
    }
}

static sdc_err order_event(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    order *o = (order *)user;
    bool is_open = kind == SDC_JSON_OBJECT || kind == SDC_JSON_ARRAY;

    fuzz_require(text != NULL, "no text");
    if (kind == SDC_JSON_KEY) {
        fuzz_require(o->in_object[o->depth] && !o->wants_value[o->depth], "a name out of place");
        o->wants_value[o->depth] = true;
    } else if (kind == SDC_JSON_OBJECT_END || kind == SDC_JSON_ARRAY_END) {
        bool is_object = kind == SDC_JSON_OBJECT_END;
        fuzz_require(o->depth > 0 && o->in_object[o->depth] == is_object &&
                     !o->wants_value[o->depth], "an end out of place");
        o->depth--;
    } else {
        order_value(o);
    }
    if (is_open) {
        o->depth++;
        fuzz_require(o->depth <= 64, "deeper than 64");
        o->in_object[o->depth] = kind == SDC_JSON_OBJECT;
        o->wants_value[o->depth] = false;
    }
    bool is_text = kind == SDC_JSON_KEY || kind == SDC_JSON_STRING || kind == SDC_JSON_NUMBER;
    fuzz_require(is_text || len == 0, "text where there is none");
    fuzz_require(kind != SDC_JSON_NUMBER || len > 0, "a number without digits");
    return SDC_OK;
}

static void compare_with_plain(const uint8_t *bytes, size_t len)
{
    feed f, g;

    feed_init(&f, FEED_JSON, NULL);
    feed_init(&g, FEED_JSON, NULL);
    fuzz_require(f.made == SDC_OK && g.made == SDC_OK, "no decoder");
    feed_puts(&g.log, "");
    plain_result want = plain_read(bytes, len, feed_on_json, &g);
    feed_puts(&g.log, "| ");
    feed_puts(&g.log, feed_err_name(want.err));
    if (want.err != SDC_OK) {
        feed_puts(&g.log, ": JSON, byte ");
        feed_put_u64(&g.log, want.at);
        feed_puts(&g.log, ": ");
        feed_puts(&g.log, want.what);
    }
    (void)feed_whole(&f, bytes, len);
    feed_put(&f.first, g.log.text, g.log.len);
    fuzz_require(feed_same(&f, "against the plain one, input of", len), f.why);
    feed_deinit(&f);
    feed_deinit(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    sdc_json *json = NULL;
    order o;

    memset(&o, 0, sizeof o);
    if (sdc_json_create(NULL, order_event, &o, &json) == SDC_OK) {
        (void)sdc_json_feed(json, bytes, len);
        fuzz_require(sdc_json_finish(json) != SDC_OK || (o.depth == 0 && o.num_tops == 1),
                     "taken, but not one whole value");
    }
    sdc_json_destroy(json);
    compare_with_plain(bytes, len);
    fuzz_cuts(FEED_JSON, bytes, len);
    return 0;
}
