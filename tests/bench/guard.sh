#!/bin/sh
# guard.sh BUILD_DIR [decode | pick | --record]: instructions under callgrind for each byte of the decoder, on a
# body that is always the same, and for each pick of a balancer, a next with its done; by a compiler that is
# always called the same way. Fails when one of them is more than 10% above what callgrind.txt beside this file
# says. decode and pick: these alone. --record writes that file anew.
#
# A number for each way the decoder is built and for each policy; they hold for one compiler, whose version is
# on the first line.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$1/bench/guard
part=${2-all}
recorded=$here/callgrind.txt
max_percent=110

skip() { echo "skipped: counting instructions: $*"; exit 0; }

command -v valgrind >/dev/null 2>&1 || skip 'no valgrind'
command -v gcc >/dev/null 2>&1 || skip 'no gcc'
command -v python3 >/dev/null 2>&1 || skip 'no python3'
compiler="gcc $(gcc -dumpversion | cut -d. -f1) $(uname -m)"
[ "$part" = --record ] || [ "$(sed -n 1p "$recorded")" = "$compiler" ] ||
    skip "recorded with $(sed -n 1p "$recorded"), this is $compiler"

mkdir -p "$out"

build() { # NAME ARGUMENT...
    built=$out/$1
    shift
    gcc -std=gnu99 -O2 -fno-pie -no-pie -I"$top" -I"$here" "$@" -o "$built"
}

# counted NAME FUNCTION PROGRAM ARGUMENT...: runs it, and prints the name and the instructions inside of the
# function over the number that begins the last line which the program prints
counted() {
    name=$1 function=$2
    shift 2
    over=$(valgrind -q --tool=callgrind --toggle-collect="$function" --callgrind-out-file="$out/$name.out" "$@" |
        sed -n '$s/ .*//; $p')
    awk -v name="$name" -v over="$over" \
        '/^(totals|summary):/ && !n++ { printf "%s %.3f\n", name, $2 / over }' "$out/$name.out"
}

decoder() { # NAME FLAG...
    name=$1
    shift
    build "$name" "$@" -DPEER_NAME='"guard"' "$here/count.c" "$here/peer_ours.c"
    counted "$name" counted "$out/$name" "$out/consul-1000.json"
}

decoders() {
    python3 "$here/bodies.py" "$out" --only-consul-1000
    decoder fast
    decoder no-fast-path -DSDC_NO_FAST_PATH
    decoder no-simd -DSDC_NO_SIMD
}

picks() {
    build pick "$here/pick.c" "$top/examples/sdconsul.c" -lpthread
    for policy in round_robin random weighted least_loaded least_loaded_by_weight hashed; do
        echo "$policy 100 1 0" | counted "pick-$policy" grain "$out/pick"
    done
}

{
    echo "$compiler"
    [ "$part" = pick ] || decoders
    [ "$part" = decode ] || picks
} >"$out/now.txt"

if [ "$part" = --record ]; then
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
        printf "%-27s %8.3f instructions for each %s, recorded %8.3f: %s\n", $1, $2,
            $1 ~ /^pick-/ ? "pick" : "byte", was[$1], is_bad ? "WORSE" : "ok"
    }
    END { exit failed > 0 }' "$recorded" "$out/now.txt" || {
    echo "guard: more than $((max_percent - 100))% worse than tests/bench/callgrind.txt"
    exit 1
}
