#!/bin/sh
# The numbers of the house style, checked on sdconsul.h: line and function lengths, section tags
# against the contents list, no private name in the public half, every private macro undefined.
set -u
h=sdconsul.h
failed=0
complain() { echo "lint: $*"; failed=1; }

impl=$(grep -n '^#if defined(SDCONSUL_IMPLEMENTATION)' $h | cut -d: -f1)
api=$(grep -n '\[sdc:api\] --' $h | cut -d: -f1)

awk -v from="$api" -v to="$impl" 'FNR < to && FNR > from && length > 80 { print FNR ": over 80" }
    length > 100 { print FNR ": over 100" } /\t/ { print FNR ": a tab" }
    / $/ { print FNR ": space at the end" }' $h >/tmp/lint.$$
[ ! -s /tmp/lint.$$ ] || complain "lines: $(tr '\n' ';' </tmp/lint.$$)"

awk -v to="$impl" 'FNR < to && /sdci_/ { print FNR }' $h >/tmp/lint.$$
[ ! -s /tmp/lint.$$ ] || complain "sdci_ in the public half: $(tr '\n' ' ' </tmp/lint.$$)"

sed -n 's/.* \[\(sdc:[a-z]*\)\] --$/\1/p' $h >/tmp/lint.$$
sed -n 's/^       \[\(sdc:[a-z]*\)\]  .*/\1/p' $h | diff - /tmp/lint.$$ >/dev/null ||
    complain "the contents list and the banners differ"

for macro in $(awk -v from="$impl" 'FNR > from && /^ *# *define SDCI_/ { sub(/\(.*/, "", $2); print $2 }' $h | sort -u); do
    grep -q "^#undef $macro\$" $h || complain "$macro is not undefined at the end"
done

if command -v ctags >/dev/null 2>&1; then
    ctags --languages=C --langmap=C:.c.h --kinds-C=f --fields=+ne -o - $h 2>/dev/null |
        awk -F'\t' '{ l = e = 0
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^line:/) { l = substr($i, 6) }
                if ($i ~ /^end:/)  { e = substr($i, 5) }
            }
            print e - l + 1, $1 }' | sort -n >/tmp/lint.$$
    num=$(wc -l </tmp/lint.$$)
    echo "functions: $num, median $(sed -n "$(((num + 1) / 2))p" /tmp/lint.$$ | cut -d' ' -f1)," \
         "95th percentile $(sed -n "$((num * 95 / 100))p" /tmp/lint.$$ | cut -d' ' -f1)," \
         "longest $(tail -n 1 /tmp/lint.$$)"
    awk '$1 > 90 { print $2 }' /tmp/lint.$$ | grep . && complain "functions over 90 lines"
fi
! grep -nE '\b(TO[D]O|FIX[M]E|XX[X]|HAC[K])\b' $h || complain "left open in the code"
rm -f /tmp/lint.$$
[ $failed -eq 0 ] && echo "lint: ok"
exit $failed
