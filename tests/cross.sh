#!/bin/sh
# cross.sh DIR: the tests of the decoders on machines that this one is not, under qemu-user: aarch64
# for NEON, and s390x, which is big-endian, for the words of eight bytes. Statically linked.
# Ends with N passed, N failed, N skipped.
#
# clang makes the programs, since the cross compilers of gcc exclude the 32-bit libc that the matrix
# wants. Debian: clang qemu-user, and for each machine binutils-aarch64-linux-gnu
# libc6-dev-arm64-cross libgcc-12-dev-arm64-cross, binutils-s390x-linux-gnu libc6-dev-s390x-cross
# libgcc-12-dev-s390x-cross.
set -u
dir=${1:?folder to build in}
clang=${CLANG:-clang}
mkdir -p "$dir"
skipped=0
failed=0
set --

build() { # MACHINE NAME SOURCE FLAG...
    machine=$1 name=$2 source=$3
    shift 3
    "$clang" --target="$machine-linux-gnu" --ld-path="$(command -v "$machine-linux-gnu-ld")" -static \
        -isystem "/usr/$machine-linux-gnu/include" -std=gnu99 -O1 -Wno-unused-function -DSDC_API=static \
        -DDIFFERENTIAL_BODIES=5000 "$@" "$source" tests/support/test.c -o "$dir/$name" -lpthread
}

# A machine is skipped where nothing can be linked or run for it, and only there.
can() { # MACHINE
    why=
    command -v "$clang" >/dev/null || why="no $clang"
    command -v "qemu-$1" >/dev/null || why="no qemu-$1"
    command -v "$1-linux-gnu-ld" >/dev/null || why="no $1-linux-gnu-ld"
    if [ -z "$why" ]; then
        echo 'int main(void) { return 0; }' >"$dir/probe.c"
        "$clang" --target="$1-linux-gnu" --ld-path="$(command -v "$1-linux-gnu-ld")" -static \
            "$dir/probe.c" -o "$dir/probe" 2>"$dir/probe.log" && "qemu-$1" "$dir/probe" || why='no libc'
    fi
    [ -z "$why" ] && return 0
    echo "SKIPPED: nothing is tested on $1: $why"
    skipped=$((skipped + 1))
    return 1
}

if can aarch64; then
    build aarch64 neon tests/group_decoders.c &&
        build aarch64 neon_fast tests/variant.c &&
        build aarch64 neon_plain tests/variant.c -DSDC_NO_FAST_PATH || failed=1
    set -- "$@" "qemu-aarch64 $dir/neon" "qemu-aarch64 $dir/neon_fast differential" \
        "qemu-aarch64 $dir/neon_plain"
fi
if can s390x; then
    build s390x big_endian tests/variant.c &&
        build s390x big_endian_plain tests/variant.c -DSDC_NO_FAST_PATH || failed=1
    set -- "$@" "qemu-s390x $dir/big_endian" "qemu-s390x $dir/big_endian_plain differential"
fi
[ $failed -eq 0 ] || { echo "0 passed, 1 failed, $skipped skipped"; exit 1; }
[ $# -gt 0 ] || { echo "0 passed, 0 failed, $skipped skipped"; exit 0; }
TEST_TIMEOUT_S=${TEST_TIMEOUT_S:-300} sh tests/support/tap.sh -j "${JOBS:-2}" "$@"
