#!/bin/sh
# run.sh BUILD_DIR [pick]: the decoder, the watch and the picks of sdconsul.h beside other libraries, on this
# machine; with `pick` the picks alone, in half a minute.
#
# Writes BUILD_DIR/bench/report.txt, results.json and chart.svg; of the picks pick.txt and pick.json; and prints
# the texts. What is not installed is skipped, and said so. Newer sources of two libraries come from PyPI into a
# cache outside of the tree:
#   SDC_BENCH_CACHE   where that is (~/.cache/sdconsul/bench)
#   SDC_BENCH_QUICK   set: a shorter run, with more noise
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
mkdir -p "$1/bench"
out=$(cd "$1/bench" && pwd)
consul_cache=${SDC_CONSUL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sdconsul}
cache=${SDC_BENCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sdconsul/bench}
CC=${CC:-cc}
CXX=${CXX:-c++}
OPT='-O2'
SHARED='-fPIC -shared -fvisibility=hidden'
seconds=3.5
rounds=31
pick_rounds=31
[ -z "${SDC_BENCH_QUICK-}" ] || { seconds=0.5; rounds=5; pick_rounds=5; }
began=$(date +%s)
step() { echo "== $* ($(($(date +%s) - began)) s)"; }

notes=$out/notes.txt
note() { echo "$*" | tee -a "$notes"; }
skip() { note "skipped: $*"; }
has() { command -v "$1" >/dev/null 2>&1; }

has python3 || { echo 'skipped: the benchmark: no python3'; exit 0; }
# is_new OUT SOURCE...: OUT is there and no source is newer
is_new() {
    [ -e "$1" ] && [ -z "$(find "$@" -newer "$1")" ]
}

# so NAME SOURCE COMMAND...: builds a decoder; one that cannot be built is left out
so() {
    name=$1 source=$2
    shift 2
    is_new "$out/$name.so" "$source" "$here/peer.h" "$here/extract.h" ||
        "$@" $OPT $SHARED -I"$here" "$source" $libs -o "$out/$name.so" 2>"$out/$name.log" ||
        { skip "$name: it does not compile, see $out/$name.log"; rm -f "$out/$name.so"; return 0; }
}

has_c() { # HEADER...
    for header; do echo "#include <$header>"; done | $CC $include -E -x c - >/dev/null 2>&1
}

has_cxx() {
    has "$CXX" && echo "#include <$1>" | $CXX $include -E -x c++ - >/dev/null 2>&1
}

# sdist NAME VERSION SHA256 FILE FOLDER: sets `found` to the folder in which FILE of that source package is
sdist() {
    found=$cache/$1-$2/$5
    [ ! -e "$found/$4" ] || return 0
    mkdir -p "$cache"
    archive=$cache/$1-$2.tar.gz
    if ! [ -e "$archive" ]; then
        echo "getting the sources in the package $1 $2 of PyPI"
        python3 -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: -d "$cache" \
            "$1==$2" >"$out/pip.log" 2>&1 || { found=; return 0; }
    fi
    if ! echo "$3  $archive" | sha256sum -c --quiet - >/dev/null 2>&1; then
        note "the package $1 $2 is not the one that is known: not used"
        found=
        return 0
    fi
    tar -xzf "$archive" -C "$cache"
}

# ---- decoders ----------------------------------------------------------------------------------------------
include= libs=

ours() { # NAME SHOWN FLAG...
    name=$1 shown=$2
    shift 2
    is_new "$out/$name.so" "$top/sdconsul.h" "$here/peer_ours.c" "$here/peer.h" "$here/extract.h" ||
        $CC -std=gnu99 $OPT $SHARED "$@" "-DPEER_NAME=\"$shown\"" -I"$top" -I"$here" "$here/peer_ours.c" \
            -o "$out/$name.so"
}

build_ours() {
    ours ours sdconsul.h
    ours ours-no-fast-path 'sdconsul.h, no fast path' -DSDC_NO_FAST_PATH
    ours ours-no-simd 'sdconsul.h, no SIMD' -DSDC_NO_SIMD
}

build_yyjson() {
    sdist yyjson 4.0.6 fcd4dc15c1e39a30bf9fa85d56903029111506860fc3080ab0d81c6c6dacaa8c yyjson.c yyjson
    libs=-lyyjson include=
    if [ -n "$found" ]; then
        include=-I$found
        libs=$out/yyjson.o
        is_new "$libs" "$found/yyjson.c" ||
            $CC $OPT -fPIC -fvisibility=hidden -c "$found/yyjson.c" -o "$libs" 2>"$out/yyjson.log" ||
            { skip "yyjson: it does not compile, see $out/yyjson.log"; return 0; }
    elif ! has_c yyjson.h; then
        skip 'yyjson, and libcurl with it: neither from PyPI nor installed'
        return 0
    fi
    so yyjson "$here/peer_yyjson.c" $CC -std=gnu99 $include
    build_curl
}

build_curl() {
    if ! has_c curl/curl.h; then
        skip 'libcurl + yyjson: no libcurl (Debian: libcurl4-openssl-dev)'
        return 0
    fi
    $CC -std=gnu99 $OPT $include "$here/watch_curl.c" $libs -lcurl -o "$out/watch_curl" 2>"$out/curl.log" ||
        { skip "libcurl + yyjson: it does not compile, see $out/curl.log"; return 0; }
    echo "libcurl $(curl-config --version 2>/dev/null | cut -d' ' -f2)" >>"$out/versions.txt"
}

build_simdjson() {
    sdist fastsimdjson 0.8.0 df415e19cec497fc495ead9ee82b9527ff0335dde2fa54eeb6f6a7a60a7b11f6 \
        simdjson.cpp vendor
    libs=-lsimdjson include=
    if [ -n "$found" ] && has "$CXX"; then
        include=-I$found
        libs=$out/simdjson.o
        is_new "$libs" "$found/simdjson.cpp" ||
            $CXX -std=c++17 $OPT -fPIC -c "$found/simdjson.cpp" -o "$libs" 2>"$out/simdjson.log" ||
            { skip "simdjson: it does not compile, see $out/simdjson.log"; return 0; }
    elif ! has_cxx simdjson.h; then
        skip 'simdjson: neither from PyPI nor installed (Debian: libsimdjson-dev)'
        return 0
    fi
    so simdjson "$here/peer_simdjson.cc" $CXX -std=c++17 -fno-gnu-unique $include
    so simdjson-westmere "$here/peer_simdjson.cc" $CXX -std=c++17 -fno-gnu-unique $include \
        '-DPEER_KERNEL="westmere"'
}

# plain NAME HEADER PACKAGE LIBS COMMAND...: a library as it is installed
plain() {
    name=$1 header=$2 package=$3 libs=$4 include=
    shift 4
    source=$(ls "$here/peer_$name".c*)
    if ! { case $source in *.cc) has_cxx "$header" ;; *) has_c "$header" ;; esac; }; then
        skip "$name: not installed (Debian: $package)"
        return 0
    fi
    so "$name" "$source" "$@"
}

build_others() {
    jsmn=$(dpkg-query -W -f '${Version}' libjsmn-dev 2>/dev/null | sed 's/[+-].*//') || jsmn=
    plain rapidjson rapidjson/document.h rapidjson-dev '' $CXX -std=c++17 -fno-gnu-unique
    plain cjson cjson/cJSON.h libcjson-dev -lcjson $CC -std=gnu99
    plain jsmn jsmn.h libjsmn-dev '' $CC -std=gnu99 "-DPEER_VERSION=\"${jsmn:-?}\""
    plain jansson jansson.h libjansson-dev -ljansson $CC -std=gnu99
}

# ---- bodies ------------------------------------------------------------------------------------------------
bodies=$out/bodies

make_bodies() {
    is_new "$bodies/long-outputs-300.json" "$here/bodies.py" || python3 "$here/bodies.py" "$bodies"
}

# record VERSION FILE: what a real agent answers. In a subshell, whose end is also the agent's.
record() {
    agent=$out/agent-$1
    trap 'bash "$top/tests/consul/agents.sh" "$agent" stop >/dev/null 2>&1 || true; rm -rf "$agent"' EXIT
    url=$(bash "$top/tests/consul/agents.sh" "$agent" start "$1" server 2>"$out/agent-$1.log") &&
        python3 "$here/record.py" "$url" "$bodies/$2" 2>>"$out/agent-$1.log" ||
        skip "the body of $2: see $out/agent-$1.log"
}

record_bodies() {
    for pair in 1.8:1.8.7 new:1.22.7; do
        file=recorded-${pair#*:}.json
        if ! [ -x "$consul_cache/consul-${pair#*:}" ]; then
            skip "a body recorded from Consul ${pair#*:}: run tests/consul/get.sh first"
        elif ! is_new "$bodies/$file" "$here/record.py"; then
            (record "${pair%:*}" "$file") &
        fi
    done
    wait
}

# ---- go-kit ------------------------------------------------------------------------------------------------

build_gokit() { # PROGRAM PACKAGE
    rm -f "$out/$1"
    if ! has go; then
        skip 'go-kit: no Go'
        return 1
    fi
    (cd "$here/gokit" && GOFLAGS=-mod=readonly GOWORK=off go build -trimpath -o "$out/$1" "$2" 2>"$out/$1.log") || {
        skip "go-kit: it does not build, see $out/$1.log"
        return 1
    }
}

versions_gokit() {
    sed -n 's|^.*go-kit/kit v|go-kit |p; s|^.*consul/api v|Consul API for Go |p' "$here/gokit/go.mod" |
        sed 's| //.*||'
    go version | sed 's|^go version go\([^ ]*\).*|Go \1|'
}

# ---- picks -------------------------------------------------------------------------------------------------

picks() {
    notes=$out/pick-notes.txt
    : >"$notes"
    : >"$out/pick-versions.txt"
    set -- "$out/pick_ours"
    $CC -std=gnu99 $OPT -I"$top" "$here/pick.c" "$top/examples/sdconsul.c" -o "$out/pick_ours" -lpthread
    if build_gokit pick_gokit ./pick; then
        set -- "$@" "$out/pick_gokit"
        versions_gokit | grep -v 'Consul API' >>"$out/pick-versions.txt"
    fi
    step picking
    python3 "$here/pick.py" $pick_rounds 20 "$@" >"$out/pick.jsonl"
    step 'counting instructions'
    sh "$here/guard.sh" "$out/.." pick >"$out/pick-guard.txt" 2>&1 || true
    python3 "$here/report_pick.py" "$out"
}

# ---- watching programs -------------------------------------------------------------------------------------

build_watches() {
    $CC -std=gnu99 $OPT "$here/server.c" -o "$out/server"
    $CC -std=gnu99 $OPT "$here/watch_floor.c" -o "$out/watch_floor"
    $CC -std=gnu99 $OPT -I"$top" "$here/watch_ours.c" "$top/examples/sdconsul.c" -o "$out/watch_ours"
    if build_gokit watch_gokit .; then
        versions_gokit >>"$out/versions.txt"
    fi
}

# ---- the run -----------------------------------------------------------------------------------------------

[ "${2-}" != pick ] || { picks; exit; }
: >"$notes"
: >"$out/versions.txt"
has "$CXX" || skip "simdjson, RapidJSON: no C++ compiler"
rm -f "$out"/watch_*
step 'building the decoders, the bodies and the watching programs'
make_bodies
record_bodies &
recording=$!
has "$CXX" && (build_simdjson) &
simdjson=$!
build_ours
build_yyjson
build_others
build_watches
wait $simdjson || true
wait $recording

set --
for name in ours ours-no-fast-path ours-no-simd simdjson simdjson-westmere yyjson rapidjson cjson \
    jsmn jansson; do
    [ ! -e "$out/$name.so" ] || set -- "$@" "$out/$name.so"
done
step decoding
$CC -std=gnu99 $OPT "$here/decode.c" -o "$out/decode" -ldl
"$out/decode" $rounds $seconds "$bodies"/*.json -- "$@" >"$out/decode.jsonl" 2>"$out/decode.log" ||
    { cat "$out/decode.log"; exit 1; }
grep '^skipped' "$out/decode.log" | sort -u | tee -a "$out/notes.txt" || true

set -- floor="$out/watch_floor" sdconsul.h="$out/watch_ours"
[ ! -e "$out/watch_curl" ] || set -- "$@" "libcurl + yyjson=$out/watch_curl"
[ ! -e "$out/watch_gokit" ] || set -- "$@" go-kit="$out/watch_gokit"
step watching
python3 "$here/exchange.py" "$out/server" "$bodies" "$@" >"$out/exchange.jsonl" 2>"$out/exchange.log" ||
    { cat "$out/exchange.log"; exit 1; }
grep '^skipped' "$out/exchange.log" | tee -a "$out/notes.txt" || true

step 'counting instructions'
sh "$here/guard.sh" "$out/.." decode >"$out/guard.txt" 2>&1 || true
step report
python3 "$here/report.py" "$out"
picks
