#!/usr/bin/env bash
# run.sh CONTRACT [END_TO_END]: runs both programs against both real agents, and stops what it started.
#
# CONTRACT gets a column for each agent this machine has, and the embedded ones of its own. END_TO_END finds
# them in its environment; for X in 18 and NEW, each unset where there is no such agent:
#   SDC_CONSUL_X             URL of an agent in memory
#   SDC_CONSUL_X_ACL         the same with access control, default deny; SDC_CONSUL_TOKEN may do all
#   SDC_CONSUL_X_SERVER      a server with a data folder, which keeps its state over a restart
#   SDC_CONSUL_X_UNIX        one on a unix socket
# and beside each of them ..._CTL, a shell command that takes kill, term, up, restart or stop behind it
# (see agents.sh): system("$SDC_CONSUL_18_CTL restart") in short.
#
# Status 0 when nothing failed. What this machine cannot get is skipped and said so.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
contract=${1:?contract program}
end_to_end=${2:-}
run=$(mktemp -d "${TMPDIR:-/tmp}/sdconsul.XXXXXX")
cache=${SDC_CONSUL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sdconsul}
export SDC_CONSUL_TOKEN=11111111-2222-3333-4444-555555555555

cleanup() {
    local dir
    for dir in "$run"/*/; do
        [ ! -f "$dir/modes" ] || "$here/agents.sh" "$dir" stop &
    done
    wait
    rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

kinds="dev acl"
[ -z "$end_to_end" ] || kinds="dev acl server unix"

# The agents start side by side: a server takes ten seconds to become its own leader.
starting=()
start_all() { # VERSION NAME
    local kind
    for kind in $kinds; do
        "$here/agents.sh" "$run/$2-$kind" start "$1" "$kind" >/dev/null &
        starting+=($!)
    done
}

export_all() { # NAME
    local kind dir suffix
    for kind in $kinds; do
        dir=$run/$1-$kind
        suffix=_${kind^^}
        [ "$kind" != dev ] || suffix=
        [ ! -f "$dir/url" ] || export "SDC_CONSUL_$1$suffix=$(cat "$dir/url")" \
            "SDC_CONSUL_$1${suffix}_CTL=$(printf '%q %q' "$here/agents.sh" "$dir")"
    done
}

"$here/get.sh"
if ! command -v perl >/dev/null; then
    echo "skipped: both agents: no perl, which finds their ports"
    kinds=
fi
[ ! -x "$cache/consul-1.8.7" ] || start_all 1.8 18
[ ! -x "$cache/consul-1.22.7" ] || start_all new NEW
failed=0
for pid in "${starting[@]}"; do
    wait "$pid" || failed=1
done
if [ "$failed" -ne 0 ]; then
    echo 'run.sh: not every agent started' >&2
    exit 1
fi
export_all 18
export_all NEW

columns=()
[ -z "${SDC_CONSUL_18:-}" ] || columns+=("real-1.8.7=$SDC_CONSUL_18"
    "acl-real-1.8.7=$SDC_CONSUL_18_ACL" "ctl-real-1.8.7=$SDC_CONSUL_18_CTL")
[ -z "${SDC_CONSUL_NEW:-}" ] || columns+=("real-1.22.7=$SDC_CONSUL_NEW"
    "acl-real-1.22.7=$SDC_CONSUL_NEW_ACL" "ctl-real-1.22.7=$SDC_CONSUL_NEW_CTL")
"$contract" "${columns[@]}" || failed=1
if [ -n "$end_to_end" ]; then
    "$end_to_end" || failed=1
fi
exit "$failed"
