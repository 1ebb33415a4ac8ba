/* Any bytes as the body of a health answer. Build, run and replay: see fuzz/run.sh and
   fuzz/replay.c.

   The instances, the number of those left out, the result and the byte of an error do not depend
   on how the body is cut, and they are those of model.h; each instance keeps the rules of
   feed_is_sane: addr is made of host and port or of the socket path, tags and meta are sorted, all
   text is UTF-8. */
#include "../sdconsul.h"
#include "feed.h"
#include "fuzz.h"
#include "model.h"

static void compare_with_model(const uint8_t *bytes, size_t len)
{
    feed_log want = model_log(bytes, len);
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    fuzz_require(f.made == SDC_OK, "no decoder");
    (void)feed_whole(&f, bytes, len);
    feed_put(&f.first, want.text, want.len);
    fuzz_require(feed_same(&f, "against the model, input of", len), f.why);
    feed_deinit(&f);
    free(want.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    compare_with_model(bytes, len);
    fuzz_cuts(FEED_ENTRIES, bytes, len);
    return 0;
}
