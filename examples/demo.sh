#!/bin/sh
# demo.sh DEMO [CONSUL]: runs the program DEMO, with its embedded agent or with a real one. CONSUL is the
# path of a consul binary, which is started in -dev mode on loopback and a unix socket, and stopped
# afterwards; or the address of an agent that runs, as in http://127.0.0.1:8500.
set -eu
demo=$1
consul=${2:-}
case $consul in
'') exec "$demo" ;;
*://* | *:[0-9]*) exec "$demo" "$consul" ;;
esac
if ! command -v "$consul" >/dev/null; then
    echo "demo.sh: not a program: $consul" >&2
    exit 1
fi
dir=$(mktemp -d)
pid=

# Only what was started here is stopped.
finish() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

# An agent since 1.14 has one more port by default, and an older one refuses to hear of it.
grpc='grpc = -1'
case $("$consul" version) in
*v1.[0-9].* | *v1.1[0-3].*) ;;
*) grpc="$grpc, grpc_tls = -1" ;;
esac

# The agent makes its socket after it has its ports. Where one of those is taken it ends, and gets others.
start() {
    "$consul" agent -dev -node demo -bind 127.0.0.1 -config-file "$dir/agent.hcl" >"$dir/log" 2>&1 &
    pid=$!
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 300 ]; do
        if [ -S "$dir/http.sock" ]; then
            return 0
        fi
        sleep 0.05
        tries=$((tries + 1))
    done
    kill "$pid" 2>/dev/null || true
    return 1
}

for try in 1 2 3 4 5; do
    port=$((10000 + ($$ * 7 + try * 997) % 20000))
    cat >"$dir/agent.hcl" <<HCL
addresses { http = "unix://$dir/http.sock" }
ports { http = $port, https = -1, dns = -1, $grpc, serf_lan = $((port + 1)), serf_wan = -1, server = $((port + 2)) }
disable_update_check = true
HCL
    if start; then
        "$demo" "unix://$dir/http.sock"
        exit 0
    fi
done
echo "demo.sh: the agent does not start:" >&2
tail -n 5 "$dir/log" >&2
exit 1
