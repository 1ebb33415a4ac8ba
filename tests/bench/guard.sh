#!/bin/sh
# guard.sh BUILD_DIR [--record]: instructions for each byte of the decoder under callgrind, on a body
# that is always the same and by a compiler that is always called the same way. Fails when one of them is
# more than 10% above what callgrind.txt beside this file says. --record writes that file anew.
#
# A number for each way the decoder is built; they hold for one compiler, whose version is on the first line.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$1/bench/guard
recorded=$here/callgrind.txt
max_percent=110

skip() { echo "skipped: instructions for each byte: $*"; exit 0; }

command -v valgrind >/dev/null 2>&1 || skip 'no valgrind'
command -v gcc >/dev/null 2>&1 || skip 'no gcc'
command -v python3 >/dev/null 2>&1 || skip 'no python3'
compiler="gcc $(gcc -dumpversion | cut -d. -f1) $(uname -m)"
[ "${2-}" = --record ] || [ "$(sed -n 1p "$recorded")" = "$compiler" ] ||
    skip "recorded with $(sed -n 1p "$recorded"), this is $compiler"

mkdir -p "$out"
python3 "$here/bodies.py" "$out" --only-consul-1000

# NAME FLAG...: prints the name and the instructions for each byte
count() {
    name=$1
    shift
    gcc -std=gnu99 -O2 -fno-pie -no-pie "$@" -DPEER_NAME='"guard"' -I"$top" -I"$here" \
        "$here/count.c" "$here/peer_ours.c" -o "$out/$name"
    len=$(valgrind -q --tool=callgrind --toggle-collect=counted --callgrind-out-file="$out/$name.out" \
        "$out/$name" "$out/consul-1000.json")
    awk -v name="$name" -v len="$len" '/^(totals|summary):/ && !n++ { printf "%s %.3f\n", name, $2 / len }' \
        "$out/$name.out"
}

{
    echo "$compiler"
    count fast
    count no-fast-path -DSDC_NO_FAST_PATH
    count no-simd -DSDC_NO_SIMD
} >"$out/now.txt"

if [ "${2-}" = --record ]; then
    cp "$out/now.txt" "$recorded"
    cat "$recorded"
    exit
fi
awk -v max="$max_percent" 'FNR == 1 { next }
    NR == FNR { was[$1] = $2; next }
    {
        percent = was[$1] > 0 ? $2 / was[$1] * 100 : 0
        is_bad = percent == 0 || percent > max
        failed += is_bad
        printf "%-14s %7.3f instructions for each byte, recorded %7.3f: %s\n", $1, $2, was[$1],
            is_bad ? "WORSE" : "ok"
    }
    END { exit failed > 0 }' "$recorded" "$out/now.txt" || {
    echo "guard: more than $((max_percent - 100))% worse than tests/bench/callgrind.txt"
    exit 1
}
