#!/bin/sh
# Tests of tap.sh.
set -u

here=$(dirname "$0")
passed=0
failed=0

# check NAME WANTED-LAST-LINE WANTED-STATUS PART-OF-OUTPUT COMMAND...
check()
{
    name=$1
    wanted=$2
    status=$3
    part=$4
    shift 4
    out=$(sh "$here/tap.sh" "$@" 2>&1)
    got_status=$?
    last=$(printf '%s\n' "$out" | tail -n 1)
    case "$out" in
    *"$part"*) has_part=yes ;;
    *) has_part=no ;;
    esac
    if [ "$last" = "$wanted" ] && [ "$got_status" = "$status" ] && [ "$has_part" = yes ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s: status %s, output:\n%s\n' "$name" "$got_status" "$out"
    fi
}

good='echo text; echo "3 passed, 0 failed, 1 skipped"'
bad='echo why; echo "1 passed, 2 failed, 0 skipped"; exit 1'

check sums '6 passed, 0 failed, 2 skipped' 0 'ok  ' "$good" "$good"
check shows_failed_whole '4 passed, 2 failed, 1 skipped' 1 'why' "$good" "$bad"
check counts_death '3 passed, 1 failed, 1 skipped' 1 'status 1' "$good" 'kill -9 $$'
check counts_silence '0 passed, 1 failed, 0 skipped' 1 'no last line' 'true'
check counts_lying_status '3 passed, 1 failed, 0 skipped' 1 'status 7' \
    'echo "3 passed, 0 failed, 0 skipped"; exit 7'
check counts_lying_line '0 passed, 2 failed, 0 skipped' 1 'status 0' \
    'echo "0 passed, 1 failed, 0 skipped"'
check tells_skipped '0 passed, 0 failed, 1 skipped' 0 'skipped test_x: no y' \
    'echo "skipped test_x: no y"; echo "0 passed, 0 failed, 1 skipped"'
check many_in_one_lane '15 passed, 0 failed, 5 skipped' 0 'ok' -j 1 "$good" "$good" "$good" \
    "$good" "$good"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
