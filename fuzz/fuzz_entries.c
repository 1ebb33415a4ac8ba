/* Any bytes as the body of a health answer. Build, run and replay: see fuzz/run.sh and
   fuzz/replay.c.

   The instances, the number of those left out, the result and the byte of an error do not depend
   on how the body is cut; each instance keeps the rules of feed_is_sane (addr is made of host and
   port or of the socket path, tags and meta are sorted, all text is UTF-8); and what the decoder
   takes the JSON decoder takes too. */
#include "../sdconsul.h"
#include "feed.h"
#include "fuzz.h"

static sdc_err ignore_json(void *user, sdc_json_kind kind, const char *text, size_t len)
{
    (void)user;
    (void)kind;
    (void)text;
    (void)len;
    return SDC_OK;
}

static sdc_err ignore_instance(void *user, const sdc_instance *instance)
{
    (void)user;
    (void)instance;
    return SDC_OK;
}

/* Both read the same grammar, so they differ only in what they hold: SHAPE, and limits on text. */
static void compare_grammars(const uint8_t *bytes, size_t len)
{
    sdc_json *json = NULL;
    sdc_entries *entries = NULL;

    if (sdc_json_create(NULL, ignore_json, NULL, &json) == SDC_OK &&
        sdc_entries_create(NULL, ignore_instance, NULL, &entries) == SDC_OK) {
        (void)sdc_json_feed(json, bytes, len);
        (void)sdc_entries_feed(entries, bytes, len);
        sdc_err of_json = sdc_json_finish(json);
        sdc_err of_entries = sdc_entries_finish(entries);
        fuzz_require(of_entries == of_json || of_entries == SDC_ERR_SHAPE ||
                     of_json == SDC_ERR_LIMIT, "entries and JSON disagree");
    }
    sdc_entries_destroy(entries);
    sdc_json_destroy(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    compare_grammars(bytes, len);
    fuzz_cuts(FEED_ENTRIES, bytes, len);
    return 0;
}
