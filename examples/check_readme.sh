#!/bin/sh
# check_readme.sh [pieces]: compiles the C in README.md, with warnings as errors.
#
# Its first program is whole: it is built and linked in C99. The others are pieces that lean on names
# declared here; functions stand by themselves, the rest inside of one. `pieces`: these alone, which
# takes no time.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
warnings='-Wall -Wextra -Wpedantic -Werror'
# The nth piece goes to DIR/n.
awk -v dir="$dir" '/^```c$/ { inside = 1; n++; next } /^```$/ { inside = 0 } inside { print > (dir "/" n) }' \
    "$root/README.md"
if ! grep -q 'int main' "$dir/1" || ! [ -f "$dir/2" ]; then
    echo 'check_readme.sh: README.md does not begin with a whole program' >&2
    exit 1
fi

cat >"$dir/names.h" <<'C'
#include "sdconsul.h"
#include <stdio.h>
typedef struct pool pool;
bool pool_get(pool *p, const char *path, uint32_t left_ms);
sdc_err connect_later(void *user, const sdc_instance *instance, void **endpoint);
void disconnect(void *user, void *endpoint);
extern sdc_client *client;
extern sdc_registrar *registrar;
extern sdc_instancer *web;
extern sdc_endpointer *endpointer;
extern sdc_balancer *balancer;
extern sdc_error error;
C
n=2
{
    echo '#include "names.h"'
    while [ -f "$dir/$n" ]; do
        if grep -q '^static .*)$' "$dir/$n"; then
            cat "$dir/$n"
        else
            printf 'void piece_%s(void);\nvoid piece_%s(void)\n{\n%s\n}\n' "$n" "$n" "$(cat "$dir/$n")"
        fi
        n=$((n + 1))
    done
} >"$dir/pieces.c"
# shellcheck disable=SC2086
${CC:-cc} -std=c99 $warnings -I "$root" -fsyntax-only "$dir/pieces.c"
[ "${1:-}" != pieces ] || exit 0

cp "$dir/1" "$dir/program.c"
for std in "-std=gnu99" "-std=c99 -D_POSIX_C_SOURCE=200809L"; do
    # shellcheck disable=SC2086
    ${CC:-cc} $std $warnings -I "$root" -o "$dir/program" "$dir/program.c"
done
