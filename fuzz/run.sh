#!/bin/sh
# Runs the fuzz targets one after the other with libFuzzer, AddressSanitizer and UBSan.
#
#   fuzz/run.sh FOLDER SECONDS TARGET...        fuzz/run.sh build/fuzz 60 json entries http
#
# Programs and the growing corpora are kept in FOLDER; fuzz/corpus/TARGET gives the seeds and
# fuzz/TARGET.dict the words. A finding stays in FOLDER as TARGET-crash-...; it is shown again by
# build/replay_TARGET (see fuzz/replay.c). To make the seeds of the tree richer, let libFuzzer
# choose the inputs that add something:
#
#   FOLDER/fuzz_TARGET -merge=1 -max_len=3000 fuzz/corpus/TARGET FOLDER/corpus_TARGET
#
# Needs clang with its sanitizers (CLANG=clang-19 for a certain one). Without it nothing is done.
set -eu
folder=$1
seconds=$2
shift 2
cd "$(dirname "$0")/.."
mkdir -p "$folder"
clang=${CLANG:-clang}
flags="-std=gnu99 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"

echo 'int LLVMFuzzerTestOneInput(const unsigned char *b, unsigned long n);
int LLVMFuzzerTestOneInput(const unsigned char *b, unsigned long n) { return b == 0 && n > 9; }' \
    >"$folder/probe.c"
# shellcheck disable=SC2086
if ! "$clang" $flags "$folder/probe.c" -o "$folder/probe" 2>"$folder/probe.log"; then
    echo "fuzz: skipped, no $clang with libFuzzer and sanitizers"
    exit 0
fi
printf '#define SDCONSUL_IMPLEMENTATION\n#include "%s/sdconsul.h"\n' "$PWD" >"$folder/sdconsul.c"
status=0
for target in "$@"; do
    echo "fuzz: $target for $seconds s"
    # shellcheck disable=SC2086
    "$clang" $flags "fuzz/fuzz_$target.c" "$folder/sdconsul.c" -o "$folder/fuzz_$target"
    mkdir -p "$folder/corpus_$target"
    "$folder/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -dict="fuzz/$target.dict" -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$folder/$target-" "$folder/corpus_$target" "fuzz/corpus/$target" \
        || status=1
done
exit "$status"
