#!/bin/sh
# matrix.sh DIR: the header alone, under every compiler and standard that this machine has, with
# the warnings of the house style as errors; and in front of it the system's headers in some order.
# Ends with N passed, N failed, N skipped.
set -u
dir=${1:?folder to build in}
mkdir -p "$dir"
warn="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wundef -Wvla"
c_warn="-Wstrict-prototypes -Wmissing-prototypes"
posix=-D_POSIX_C_SOURCE=200809L
passed=0 failed=0 skipped=0

printf '#define SDCONSUL_IMPLEMENTATION\n#include "sdconsul.h"\n' >"$dir/impl.c"
printf '#include "sdconsul.h"\nint main(void) { return sdc_version() == SDC_VERSION ? 0 : 1; }\n' \
    >"$dir/user.c"
cp "$dir/impl.c" "$dir/impl.cc"
cp "$dir/user.c" "$dir/user.cc"

try() { # WHAT COMMAND...
    what=$1
    shift
    if "$@" >"$dir/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $what: $*"
        head -n 20 "$dir/log"
    fi
}

pair() { # COMPILER EXTENSION FLAGS...: both halves compile, link and run
    compiler=$1 ext=$2
    shift 2
    try "$compiler $*" "$compiler" $warn -Werror "$@" -I. "$dir/impl.$ext" "$dir/user.$ext" \
        -o "$dir/user"
    try "run $compiler $*" "$dir/user"
}

has() {
    command -v "$1" >/dev/null 2>&1 || { echo "skipped: no $1"; skipped=$((skipped + 1)); return 1; }
}

for cc in gcc clang; do
    has $cc || continue
    for std in c99 c11 c17; do
        pair $cc c $c_warn -std=$std $posix -O2
    done
    for opt in -O0 -O1 -O3 -Os; do
        pair $cc c $c_warn -std=gnu99 $opt
    done
    pair $cc c $c_warn -std=gnu11 -O2 -DNDEBUG
done
if has clang-19; then
    pair clang-19 c $c_warn -std=c23 $posix -O2
fi
for cxx in g++ clang++; do
    has $cxx || continue
    for std in c++11 c++14 c++17 c++20; do
        pair $cxx cc -std=$std -O2
    done
done
if has gcc && echo 'int main(void){return 0;}' | gcc -m32 -x c - -o "$dir/user" 2>/dev/null; then
    pair gcc c $c_warn -std=gnu99 -m32 -O2
else
    echo "skipped: no 32-bit libc"
    skipped=$((skipped + 1))
fi

# the system's headers before it, in three orders
heads="arpa/inet errno fcntl netdb netinet/in netinet/tcp poll sched stdarg stdio stdlib string
       sys/socket sys/un time unistd stdint stdbool stddef signal pthread math sys/stat"
order() { # NAME FILTER
    for head in $heads; do
        echo "#include <$head.h>"
    done | eval "$2" >"$dir/$1.c"
    cat "$dir/impl.c" >>"$dir/$1.c"
    try "headers $1" "${CC:-cc}" $warn $c_warn -Werror -std=gnu99 -I. -c "$dir/$1.c" -o "$dir/$1.o"
}
order sorted sort
order reversed 'sort -r'
order given cat

# an allocator of asserts and storage classes of the program's own
printf '#define SDC_API static\n#define SDC_ASSERT(x) ((void)(x))\n' >"$dir/own.c"
cat "$dir/impl.c" >>"$dir/own.c"
printf 'int main(void) { return sdc_version() == SDC_VERSION ? 0 : 1; }\n' >>"$dir/own.c"
try "own macros" "${CC:-cc}" $warn $c_warn -Werror -Wno-unused-function -std=gnu99 -I. \
    "$dir/own.c" -o "$dir/user"
try "run own macros" "$dir/user"

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
