#!/bin/sh
# The tables of README.md beside this file against the tests that there are: each one that is named
# exists and is run, each line has one, and none with a line's number is missing from its row.
#
#   test_table.sh [README]
#
# Last line: `N passed, N failed, N skipped`.
set -u

here=$(cd "$(dirname "$0")" && pwd)
readme=${1:-$here/README.md}
dir=$(mktemp -d "${TMPDIR:-/tmp}/table.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
passed=0
failed=0
left_out='54 85 86 89'
cases='RECOVER SPIN ZERO SAMEIDX EMPTYBACK STOPLEAK STOPEVENT STOP2 CTORHANG IPV6 NILNODE DUP
    EPCLOSE BLOCK LATE RAND CAPJIT RETRYSPIN IDDEFAULT 429 REDIR301 TOKLEAK SSLVERIFY URL ERRLATE
    HALFOPEN RR0 TAG1 TTLLOST TOKFILE BIG BADFACTORY'

# result NAME FILE: a test that holds if the file is empty.
result()
{
    if [ -s "$2" ]; then
        failed=$((failed + 1))
        echo "FAILED $1"
        sed -n '1,20p' "$2"
    else
        passed=$((passed + 1))
    fi
}

# What is run: the names in the tables of cases.
cat "$here"/*.c "$here"/support/*.c "$here"/sim/*.c 2>/dev/null |
    sed -n 's/^ *TEST(\(test_[a-z0-9_]*\)).*/\1/p' | sort -u >"$dir/tests"
# Which ones are named: "line name", a name that ends in * for all that begin so.
awk -F'|' '
    /^[|]/ {
        rest = $0
        key = $2
        gsub(/[ `]/, "", key)
        while (match(rest, /`test_[a-z0-9_]*\*?`/)) {
            print key, substr(rest, RSTART + 1, RLENGTH - 2)
            rest = substr(rest, RSTART + RLENGTH)
        }
    }' "$readme" >"$dir/named"

[ "$(wc -l <"$dir/tests")" -gt 300 ] || echo "only $(wc -l <"$dir/tests") tests" >"$dir/out"
touch "$dir/out"
result 'the tests are found' "$dir/out"

awk 'NR == FNR { is_test[$1] = 1; next }
    $2 !~ /\*$/ && !($2 in is_test) { print $1 ": no such test: " $2 }
    $2 ~ /\*$/ {
        start = substr($2, 1, length($2) - 1)
        found = 0
        for (t in is_test) { found = found || index(t, start) == 1 }
        if (!found) { print $1 ": no test begins so: " $2 }
    }' "$dir/tests" "$dir/named" >"$dir/out"
result 'each test that is named exists' "$dir/out"

awk -v left_out="$left_out" '
    BEGIN { n = split(left_out, l, " "); for (i = 1; i <= n; i++) { out[l[i]] = 1 } }
    $1 ~ /^[0-9]+$/ { has[$1 + 0] = 1 }
    END {
        for (i = 1; i <= 95; i++) {
            if (!(i in has) && !(i in out)) { print "no test for line " i }
            if ((i in has) && (i in out)) { print "line " i " is left out and has a test" }
        }
    }' "$dir/named" >"$dir/out"
result 'each line has a test' "$dir/out"

sed -n 's/^| \([0-9][0-9]*\) |.*/\1/p' "$readme" | sort | uniq -d >"$dir/out"
result 'no line stands there twice' "$dir/out"

# test_43_44_x belongs to both lines.
sed -n 's/^test_\([0-9][0-9]\)_\([0-9][0-9]\)_.*/\1 &/p; s/^test_\([0-9][0-9]\)_.*/\1 &/p' \
    "$dir/tests" | sed 's/^0//' >"$dir/numbered"
sed -n 's/^test_[0-9][0-9]_\([0-9][0-9]\)_.*/\1 &/p' "$dir/tests" >>"$dir/numbered"
awk 'NR == FNR { named[$1] = named[$1] " " $2; next }
    {
        n = split(named[$1], one, " ")
        found = 0
        for (i = 1; i <= n; i++) {
            is_start = one[i] ~ /\*$/ && index($2, substr(one[i], 1, length(one[i]) - 1)) == 1
            found = found || one[i] == $2 || is_start
        }
        if (!found) { print "not in the row of line " $1 ": " $2 }
    }' "$dir/named" "$dir/numbered" >"$dir/out"
result 'each test with a number stands in the row of its line' "$dir/out"

for case in $cases; do
    row=$(grep "^| X-$case |" "$readme")
    case $row in
    *'`test_'* | *'later: no '*) ;;
    *) echo "no test for X-$case" ;;
    esac
done >"$dir/out"
result 'each case to beat has a test, or says what it waits for' "$dir/out"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
