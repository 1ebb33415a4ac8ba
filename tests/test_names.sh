#!/bin/sh
# What including sdconsul.h does to a program: the names that it takes, alone and in two files, as C
# and as C++, whatever was included before and whichever way the compiler was called.
#
#   test_names.sh [all]
#
# Each compilation of the whole header takes time, so without `all` there are three: two files as
# strict C99, C++11, and system headers in front in one order. CC and CXX say the compilers (cc,
# c++); without a C++ compiler its part is skipped. Last line: `N passed, N failed, N skipped`.
set -u

here=$(cd "$(dirname "$0")" && pwd)
header=$here/../sdconsul.h
cc=${CC:-cc}
cxx=${CXX:-c++}
flags='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wundef -Werror'
c_flags="$flags -Wvla -Wstrict-prototypes -Wmissing-prototypes"
strict='-std=c99 -D_POSIX_C_SOURCE=200809L'
all=${1:-}
dir=$(mktemp -d "${TMPDIR:-/tmp}/names.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
passed=0
failed=0
skipped=0

# result NAME STATUS [FILE]: counts one test; of a failed one the file is shown.
result()
{
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $1"
        if [ -n "${3:-}" ] && [ -s "$3" ]; then
            sed -n '1,20p' "$3"
        fi
    fi
}

# nothing FILE: succeeds if it is empty.
nothing()
{
    [ ! -s "$1" ]
}

# ---- the public half ---------------------------------------------------------------------------

# Everything above the implementation line: no private name, not even in a comment.
sed '/defined(SDCONSUL_IMPLEMENTATION)/,$d' "$header" >"$dir/public.h"
[ "$(wc -l <"$dir/public.h")" -gt 100 ]
result 'the public half ends at the implementation line' $?
grep -n 'sdci_\|SDCI_' "$dir/public.h" >"$dir/out"
nothing "$dir/out"
result 'no private name in the public half' $? "$dir/out"

# Without the implementation the header defines no function and no object.
echo '#include "sdconsul.h"' >"$dir/use.c"
# shellcheck disable=SC2086
$cc $c_flags $strict -I"$here/.." -c "$dir/use.c" -o "$dir/use.o" 2>"$dir/out"
result 'the public half compiles alone' $? "$dir/out"
nm "$dir/use.o" | grep -v ' [Nna] ' >"$dir/out"
nothing "$dir/out"
result 'the public half defines nothing' $? "$dir/out"

# It needs no feature macro and no system header beyond three of the language.
# shellcheck disable=SC2086
$cc $c_flags -std=c99 -I"$here/.." -c "$dir/use.c" -o "$dir/use.o" 2>"$dir/out"
result 'the public half is plain C99' $? "$dir/out"
grep -n '^#[[:space:]]*include' "$dir/public.h" |
    grep -v '<stdbool.h>\|<stddef.h>\|<stdint.h>' >"$dir/out"
nothing "$dir/out"
result 'the public half includes three headers' $? "$dir/out"

# ---- macros ------------------------------------------------------------------------------------

# macros FILE FLAGS: the names of all macros behind the file.
macros()
{
    # shellcheck disable=SC2086
    $cc -std=gnu99 -I"$here/.." $2 -dM -E "$1" | sed 's/^#define \([A-Za-z0-9_]*\).*/\1/' | sort -u
}

printf '#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n' >"$dir/before.c"
cat "$dir/before.c" "$dir/use.c" >"$dir/after.c"
macros "$dir/before.c" '' >"$dir/macros.before"
macros "$dir/after.c" '' >"$dir/macros.after"
[ "$(wc -l <"$dir/macros.after")" -gt 100 ]
result 'the compiler tells its macros' $?
comm -13 "$dir/macros.before" "$dir/macros.after" >"$dir/macros.new"
grep -qx SDCONSUL_H_INCLUDED "$dir/macros.new" && grep -qx SDC_VERSION "$dir/macros.new"
result 'the public half defines its macros' $? "$dir/macros.new"
grep -vx 'SDC_[A-Z0-9_]*\|SDCONSUL_H_INCLUDED' "$dir/macros.new" >"$dir/out"
nothing "$dir/out"
result 'the public half defines SDC_ macros and its guard alone' $? "$dir/out"

# Behind the implementation the system's headers are there too; of our own names no private one.
macros "$dir/after.c" -DSDCONSUL_IMPLEMENTATION >"$dir/macros.all"
grep '^SDCI_\|^sdci_' "$dir/macros.all" >"$dir/out"
nothing "$dir/out"
result 'no private macro is left behind the implementation' $? "$dir/out"
grep '^sdc_\|^SDCONSUL' "$dir/macros.all" |
    grep -vx 'SDCONSUL_H_INCLUDED\|SDCONSUL_IMPLEMENTATION\|SDCONSUL_IMPLEMENTATION_INCLUDED' \
    >"$dir/out"
nothing "$dir/out"
result 'the implementation adds its guard alone' $? "$dir/out"

# ---- symbols -----------------------------------------------------------------------------------

for file in one two; do
    # shellcheck disable=SC2086
    $cc $c_flags $strict -c "$here/test_two_tu/$file.c" -o "$dir/$file.o" 2>"$dir/out"
    result "test_two_tu/$file.c as strict C99" $? "$dir/out"
done
$cc "$dir/one.o" "$dir/two.o" -o "$dir/two_tu" 2>"$dir/out" && "$dir/two_tu" >"$dir/out" 2>&1
result 'two files make one program' $? "$dir/out"
nm -g "$dir/one.o" | awk '$2 != "U" && NF == 3 { print $3 }' | grep -v '^_\{0,1\}main$' \
    >"$dir/symbols"
grep -q '^_\{0,1\}sdc_step$' "$dir/symbols" && grep -q '^_\{0,1\}sdc_client_create$' "$dir/symbols"
result 'the implementation gives its functions' $? "$dir/symbols"
grep -v '^_\{0,1\}sdc_' "$dir/symbols" >"$dir/out"
nothing "$dir/out"
result 'only sdc_ symbols are visible' $? "$dir/out"
nm "$dir/two.o" | grep 'sdc_[a-z_]*$' | grep -v ' U ' >"$dir/out"
nothing "$dir/out"
result 'the other file has none of them' $? "$dir/out"

# Each function that is declared is there, and each that is there is declared.
sed -n 's/.*[ *]\(sdc_[a-z0-9_]*\)(.*/\1/p' "$dir/public.h" | grep -v '^sdc_[a-z_]*_fn$' |
    sort -u >"$dir/named"
sed 's/^_sdc_/sdc_/' "$dir/symbols" | sort -u >"$dir/given"
comm -13 "$dir/named" "$dir/given" >"$dir/out"
nothing "$dir/out"
result 'each visible function is declared' $? "$dir/out"
sed -n '/^SDC_API/s/.*[ *]\(sdc_[a-z0-9_]*\)(.*/\1/p' "$dir/public.h" | sort -u >"$dir/declared"
[ "$(wc -l <"$dir/declared")" -gt 40 ] && comm -23 "$dir/declared" "$dir/given" >"$dir/out" &&
    nothing "$dir/out"
result 'each declared function is there' $? "$dir/out"

# No writable state of its own: a process may have any number of clients and nothing between them.
if command -v objdump >/dev/null 2>&1; then
    objdump -t "$dir/one.o" | grep ' O [.*]*\(\.data\|\.bss\|COM\)' | grep -v '\.data\.rel\.ro' \
        >"$dir/out"
    nothing "$dir/out"
    result 'no writable globals' $? "$dir/out"
else
    skipped=$((skipped + 1))
    echo 'skipped no writable globals: no objdump'
fi

# ---- the ways it can be compiled ---------------------------------------------------------------

printf '#define SDCONSUL_IMPLEMENTATION\n#include "sdconsul.h"\n' >"$dir/lib.c"

# shellcheck disable=SC2086
! $cc -std=c99 -U_POSIX_C_SOURCE -I"$here/.." -c "$dir/lib.c" -o "$dir/x.o" 2>"$dir/out"
result 'strict C99 without it is refused' $? "$dir/out"
grep -q '_POSIX_C_SOURCE=200809L' "$dir/out"
result 'the refusal says what to define' $? "$dir/out"

# System headers in front, in both orders, and behind; with the widest set of names switched on.
{
    for h in unistd.h time.h sys/un.h sys/socket.h string.h stdlib.h stdio.h stdint.h stddef.h \
        stdbool.h stdarg.h sched.h poll.h netinet/tcp.h netinet/in.h netdb.h fcntl.h errno.h \
        assert.h arpa/inet.h signal.h pthread.h sys/types.h sys/time.h sys/stat.h ctype.h math.h \
        limits.h inttypes.h strings.h locale.h; do
        echo "#include <$h>"
    done
} >"$dir/headers"
cat "$dir/headers" "$dir/lib.c" >"$dir/down.c"
sed '1!G;h;$!d' "$dir/headers" | cat - "$dir/lib.c" >"$dir/up.c"
cat "$dir/lib.c" "$dir/headers" >"$dir/behind.c"
orders=up
widths=-D_GNU_SOURCE
if [ -n "$all" ]; then
    orders='down up behind'
    widths='-D_GNU_SOURCE -D_DEFAULT_SOURCE -DNOTHING'
fi
for order in $orders; do
    for with in $widths; do
        # shellcheck disable=SC2086
        $cc $c_flags $strict $with -I"$here/.." -fsyntax-only "$dir/$order.c" 2>"$dir/out"
        result "system headers $order $with" $? "$dir/out"
    done
done

# Asserts away, and with the program's own; an API decoration of the program's own.
ways()
{
    # shellcheck disable=SC2086
    $cc $c_flags -std=gnu99 -O2 -DNDEBUG -I"$here/.." -c "$dir/lib.c" -o "$dir/x.o" 2>"$dir/out"
    result 'with NDEBUG' $? "$dir/out"
    # shellcheck disable=SC2086
    $cc $c_flags -std=gnu99 '-DSDC_ASSERT(c)=((void)(c))' -I"$here/.." -c "$dir/lib.c" \
        -o "$dir/x.o" 2>"$dir/out"
    result 'with an assert of its own' $? "$dir/out"
    nm -u "$dir/x.o" | grep 'assert' >"$dir/out"
    nothing "$dir/out"
    result 'the assert of its own is the only one' $? "$dir/out"
    # shellcheck disable=SC2086
    $cc $flags -std=gnu99 -DSDC_API=static -Wno-unused-function -I"$here/.." -c "$dir/lib.c" \
        -o "$dir/x.o" 2>"$dir/out"
    result 'static into one file' $? "$dir/out"
    if [ -s "$dir/x.o" ]; then
        nm -g "$dir/x.o" | awk '$2 != "U" && NF == 3 { print $3 }' >"$dir/out"
        nothing "$dir/out"
        result 'static leaves no symbol' $? "$dir/out"
    fi
}

if [ -n "$all" ]; then
    ways
fi

# ---- C++ ---------------------------------------------------------------------------------------

if command -v "${cxx%% *}" >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    $cxx $flags -std=c++11 "$here/test_cxx.cc" -o "$dir/cxx" 2>"$dir/out" &&
        "$dir/cxx" >"$dir/out" 2>&1
    result 'test_cxx.cc as C++11' $? "$dir/out"
    # a C++ program on the library that a C compiler made
    printf '%s\n' '#include "sdconsul.h"' 'extern "C" int c_main(void);' \
        'int main() { return sdc_version() == SDC_VERSION ? c_main() : 1; }' >"$dir/mixed.cc"
    # shellcheck disable=SC2086
    objcopy --redefine-sym main=c_main "$dir/one.o" "$dir/library.o" 2>"$dir/out" &&
        $cxx $flags -std=c++11 -I"$here/.." "$dir/mixed.cc" "$dir/library.o" "$dir/two.o" \
            -o "$dir/mixed" 2>"$dir/out" &&
        "$dir/mixed" >"$dir/out" 2>&1
    result 'a C++ program on the library compiled as C' $? "$dir/out"
else
    skipped=$((skipped + 1))
    echo 'skipped C++: no compiler'
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
