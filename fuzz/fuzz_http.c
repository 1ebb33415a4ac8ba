/* Any bytes as an HTTP response. Build, run and replay: see fuzz/run.sh and fuzz/replay.c.

   Status, fields, body, result, the byte of an error and what is left over do not depend on how
   the bytes are cut; the body is not longer than its Content-Length says; a status comes once and
   before everything else; nothing is complete after an error. */
#include "../sdconsul.h"
#include "feed.h"
#include "fuzz.h"

typedef struct seen {
    unsigned num_statuses;
    size_t   num_fields, num_body;
} seen;

static sdc_err on_status(void *user, int status)
{
    seen *s = (seen *)user;

    fuzz_require(status >= 200 && status <= 999, "an impossible status");
    fuzz_require(s->num_statuses == 0 && s->num_fields == 0, "a status out of place");
    s->num_statuses++;
    return SDC_OK;
}

static sdc_err on_header(void *user, const char *name, size_t name_len, const char *value,
                         size_t value_len)
{
    seen *s = (seen *)user;

    fuzz_require(s->num_statuses == 1 && s->num_body == 0, "a field out of place");
    fuzz_require(name_len > 0 && memchr(name, ':', name_len) == NULL &&
                 memchr(name, ' ', name_len) == NULL, "an impossible name");
    for (size_t i = 0; i < value_len; i++) {
        fuzz_require((unsigned char)value[i] >= 0x20 || value[i] == '\t', "a control character");
    }
    s->num_fields++;
    return SDC_OK;
}

static sdc_err on_body(void *user, const void *bytes, size_t len)
{
    seen *s = (seen *)user;

    (void)bytes;
    fuzz_require(s->num_statuses == 1 && len > 0, "a body out of place");
    s->num_body += len;
    return SDC_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    seen s = { 0, 0, 0 };
    sdc_http_handler handler = { &s, on_status, on_header, on_body };
    sdc_http *http = NULL;
    size_t used = 0;

    if (sdc_http_create(NULL, &handler, &http) == SDC_OK) {
        sdc_err err = sdc_http_feed(http, bytes, len, &used);
        fuzz_require(used <= len && s.num_body <= used, "more than there was");
        fuzz_require(err != SDC_OK || used == len || sdc_http_is_complete(http),
                     "bytes left without an end");
        fuzz_require(err == SDC_OK || !sdc_http_is_complete(http), "complete in spite of an error");
        err = sdc_http_finish(http);
        fuzz_require(sdc_http_is_complete(http) == (err == SDC_OK), "finish and complete disagree");
        fuzz_require(err != SDC_OK || s.num_statuses == 1, "an answer without a status");
    }
    sdc_http_destroy(http);
    fuzz_cuts(FEED_HTTP, bytes, len);
    return 0;
}
