#!/bin/sh
# Runs test programs side by side and sums what they say.
#
#   tap.sh [-j N] COMMAND...
#
# Each COMMAND is one word for the shell ("build/tests/core", "sh tests/x.sh -v") whose last line
# is `N passed, N failed, N skipped`. One line is printed for each, with what was slow or
# skipped; of a failed one everything is printed. A command that dies, ends otherwise than it
# says, or does not end with that line counts as one more failure. N commands run at a time (2).
# The very last line is the grand total; the exit status is 1 when anything failed.
set -u

jobs=2
if [ "${1:-}" = "-j" ]; then
    jobs=$2
    shift 2
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/tap.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# Takes each command that no other lane has taken yet: mkdir is what decides.
lane()
{
    n=0
    for command in "$@"; do
        n=$((n + 1))
        if ! mkdir "$dir/$n" 2>/dev/null; then
            continue
        fi
        sh -c "$command" >"$dir/$n/out" 2>&1 </dev/null
        echo "$?" >"$dir/$n/status"
        report "$command" "$dir/$n" >"$dir/$n/report"
        cat "$dir/$n/report"
    done
}

# One write for each report, so that those of two lanes do not mix.
report()
{
    awk -v command="$1" -v status="$(cat "$2/status")" -v counts="$2/counts" '
        { lines[NR] = $0 }
        /^(skipped|slow) / { told = told $0 "\n" }
        END {
            passed = failed = skipped = 0
            is_sum = NR > 0 && lines[NR] ~ /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/
            if (is_sum) {
                split(lines[NR], word, " ")
                passed = word[1] + 0; failed = word[3] + 0; skipped = word[5] + 0
            }
            why = ""
            if (!is_sum) {
                why = " (no last line, status " status ")"
            } else if ((failed == 0) != (status == 0)) {
                why = " (status " status ")"
            }
            if (why != "") { failed++ }
            print passed, failed, skipped > counts
            if (failed > 0) {
                for (i = 1; i <= NR; i++) { print lines[i] }
                print "not ok  " command why
            } else {
                printf "%s", told
                print "ok  " command "  " passed " passed" (skipped ? ", " skipped " skipped" : "")
            }
        }' "$2/out"
}

i=0
pids=
while [ "$i" -lt "$jobs" ]; do
    lane "$@" &
    pids="$pids $!"
    i=$((i + 1))
done
for pid in $pids; do
    wait "$pid"
done
cat "$dir"/*/counts 2>/dev/null | awk -v wanted="$#" '
    { passed += $1; failed += $2; skipped += $3 }
    END {
        failed += wanted - NR
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0
    }'
