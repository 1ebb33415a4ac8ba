#!/bin/sh
# The examples that call, as a user would run them: no call is lost while servers leave and die.
#
#   test_examples.sh BUILD
#
# BUILD has the programs call, whole, discover and embedded_agent. Last line: `N passed, N failed,
# N skipped`.
set -u

b=${1:?folder of the programs}
dir=$(mktemp -d "${TMPDIR:-/tmp}/examples.XXXXXX") || exit 1
pids=
# Only what was started here is ended.
finish()
{
    # shellcheck disable=SC2086
    kill -9 $pids 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM
passed=0
failed=0

# result NAME STATUS [FILE...]: counts one test; of a failed one the files are shown.
result()
{
    name=$1
    status=$2
    shift 2
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $name"
        [ "$#" -eq 0 ] || tail -n 20 "$@"
    fi
}

# within SECONDS COMMAND...: asks 20 times a second.
within()
{
    tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

# ends PID: within 10 seconds, and well.
ends()
{
    ended=1
    if within 10 is_gone "$1"; then
        wait "$1"
        ended=$?
        pids=$(echo "$pids " | sed "s/ $1 / /")
    fi
    return "$ended"
}

is_gone()
{
    ! kill -0 "$1" 2>/dev/null
}

# ---- call ----------------------------------------------------------------------------------------

"$b/call" >"$dir/call" 2>&1
result 'call: no call is lost' $? "$dir/call"
grep -q '^300 calls: a answered [1-9][0-9]*, b 39, c [1-9][0-9]*\. [1-9][0-9]* tries failed, 0 calls' "$dir/call"
result 'call: three answer, b until it dies, and tries at it fail' $? "$dir/call"
[ "$(grep -c '^opened' "$dir/call")" -eq 3 ] && [ "$(grep -c '^closed' "$dir/call")" -eq 3 ] &&
    [ "$(grep '^closed' "$dir/call" | sort -u | wc -l)" -eq 3 ]
result 'call: each endpoint is opened once and closed once' $? "$dir/call"

# ---- whole ---------------------------------------------------------------------------------------

address()
{
    sed -n 's/^listening on //p' "$dir/agent"
}
is_listening()
{
    [ -n "$(address)" ]
}
# has_called N WHO...: each of them has had answers of N instances.
has_called()
{
    wanted=$1
    shift
    for who in "$@"; do
        [ "$(grep ' answers$' "$dir/$who" | sort -u | wc -l)" -ge "$wanted" ] || return 1
    done
}
num_answers()
{
    grep -c ' answers$' "$dir/$1"
}
has_answers()
{
    [ "$(num_answers "$1")" -ge "$2" ]
}

: >"$dir/agent"
"$b/embedded_agent" --port 0 >>"$dir/agent" 2>&1 &
agent=$!
pids=" $agent"
within 10 is_listening
result 'the embedded agent starts' $? "$dir/agent"
CONSUL_HTTP_ADDR=$(address)
export CONSUL_HTTP_ADDR
for who in 1 2 3; do
    : >"$dir/$who"
    "$b/whole" >>"$dir/$who" 2>&1 &
    eval "pid_$who=$!"
    pids="$pids $!"
done
# shellcheck disable=SC2154
within 10 has_called 3 1 2 3
result 'whole: each calls all three' $? "$dir/1" "$dir/2" "$dir/3"

kill -INT "$pid_1"
ends "$pid_1"
result 'whole: ends by Ctrl-C, and has lost no call' $? "$dir/1"
"$b/discover" web >"$dir/list" 2>&1
[ "$(wc -l <"$dir/list")" -eq 2 ]
result 'whole: has deregistered then' $? "$dir/list"

kill -KILL "$pid_2"
ends "$pid_2" 2>/dev/null
within 10 has_answers 3 $(($(num_answers 3) + 8))
result 'whole: the last one goes on' $? "$dir/3"
grep '^127' "$dir/3" | grep -qv ' answers$'
result 'whole: it has tried the killed one in vain' $? "$dir/3"
kill -TERM "$pid_3"
ends "$pid_3"
result 'whole: it has lost no call either' $? "$dir/3"
"$b/discover" web >"$dir/list" 2>&1
[ "$(wc -l <"$dir/list")" -eq 1 ]
result 'whole: only the one that was killed is still listed' $? "$dir/list"
kill "$agent"
ends "$agent"
result 'the embedded agent ends' $?

# ---- README.md -----------------------------------------------------------------------------------

sh "$(dirname "$0")/../examples/check_readme.sh" pieces >"$dir/out" 2>&1
result 'the pieces of C in README.md compile' $? "$dir/out"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
