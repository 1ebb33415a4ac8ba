/* Any bytes as the bodies of health answers, one after the other with a byte of 0xFF between them,
   which no body can have. Build, run and replay: see fuzz/run.sh and fuzz/replay.c.

   One decoder takes all of them, so that what it learned from one meets the next, in pieces that
   the input's own bytes decide. The instances, the number of those left out, the result and the
   byte of an error are those of model.h; each instance keeps the rules of feed_is_sane: addr is made
   of host and port or of the socket path, tags and meta are sorted, all text is UTF-8. A body alone
   is the same however it is cut. */
#include "../sdconsul.h"
#include "feed.h"
#include "fuzz.h"
#include "model.h"

enum { SEPARATOR = 0xFF };

/* Fed from memory of just its size, so that a sanitizer sees a read beyond the piece. */
static bool feed_apart(feed *f, const uint8_t *bytes, size_t len)
{
    char *piece = (char *)malloc(len > 0 ? len : 1);

    fuzz_require(piece != NULL, "no memory");
    if (len > 0) {
        memcpy(piece, bytes, len);
    }
    bool goes_on = feed_piece(f, piece, len);
    free(piece);
    return goes_on;
}

static void compare_with_model(feed *f, const uint8_t *bytes, size_t len, uint64_t *cuts)
{
    static const size_t steps[] = { 1, 16, 150, 600 };
    feed_log want = model_log(bytes, len);
    bool goes_on = true;

    size_t step = feed_place(cuts, 2) == 0 ? 0 : steps[feed_place(cuts, 4)];
    feed_begin(f);
    for (size_t at = 0; goes_on && at < len;) {
        size_t piece = step == 0 ? len : 1 + feed_place(cuts, step);
        piece = piece < len - at ? piece : len - at;
        goes_on = feed_apart(f, bytes + at, piece);
        at += piece;
    }
    (void)feed_end(f, len);
    f->first.len = 0;
    feed_put(&f->first, want.text, want.len);
    fuzz_require(feed_same(f, "against the model, body of", len), f->why);
    fuzz_require(f->each_instance_is_sane, "an instance breaks a rule");
    free(want.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    uint64_t cuts = len;
    size_t from = 0;
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    fuzz_require(f.made == SDC_OK, "no decoder");
    for (size_t i = 0; i < len; i++) {
        cuts = (cuts ^ bytes[i]) * 0x100000001B3u;
    }
    for (size_t i = 0; i <= len; i++) {
        if (i == len || bytes[i] == SEPARATOR) {
            compare_with_model(&f, bytes + from, i - from, &cuts);
            from = i + 1;
        }
    }
    feed_deinit(&f);
    if (len == 0 || memchr(bytes, SEPARATOR, len) == NULL) {
        fuzz_cuts(FEED_ENTRIES, bytes, len);
    }
    return 0;
}
