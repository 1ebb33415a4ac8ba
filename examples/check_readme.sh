#!/bin/sh
# Compiles the first program of README.md, in C99 and with warnings as errors, and links it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
awk '/^```c$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' "$root/README.md" >"$dir/program.c"
if ! grep -q 'int main' "$dir/program.c"; then
    echo 'check_readme.sh: README.md begins with no whole program' >&2
    exit 1
fi
for std in "-std=gnu99" "-std=c99 -D_POSIX_C_SOURCE=200809L"; do
    # shellcheck disable=SC2086
    ${CC:-cc} $std -Wall -Wextra -Wpedantic -Werror -I "$root" -o "$dir/program" "$dir/program.c"
done
