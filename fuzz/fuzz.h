/* What the fuzz targets share: giving up loudly, and cuts that the input itself chooses. */
#ifndef FUZZ_H
#define FUZZ_H

#include "feed.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static inline void fuzz_require(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

/* Feeds the input whole, byte by byte (short ones), and in cuts that its own bytes decide, so that
   a mutation can move them; aborts where two runs differ or an instance breaks a rule. */
static inline void fuzz_cuts(feed_kind kind, const uint8_t *bytes, size_t len)
{
    uint64_t state = len;
    feed f;

    feed_init(&f, kind, NULL);
    fuzz_require(f.made == SDC_OK, "no decoder");
    feed_puts(&f.first, feed_whole(&f, bytes, len));
    for (size_t i = 0; i < len; i++) {
        state = (state ^ bytes[i]) * 0x100000001B3u;
    }
    for (int n = 0; n < 4 && len > 0; n++) {
        size_t at = feed_place(&state, len);
        size_t step = n == 0 ? 0 : feed_place(&state, 40);
        (void)feed_in_pieces(&f, bytes, len, at, step);
        fuzz_require(feed_same(&f, "cut at", at), f.why);
    }
    if (len <= 2048) {
        (void)feed_in_pieces(&f, bytes, len, 0, 1);
        fuzz_require(feed_same(&f, "byte by byte of", len), f.why);
    }
    fuzz_require(f.each_instance_is_sane, "an instance breaks a rule");
    feed_deinit(&f);
}

#endif
