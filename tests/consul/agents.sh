#!/usr/bin/env bash
# agents.sh DIR VERB: one real Consul agent on loopback, all it has lives in DIR.
#
#   start VERSION [dev|server] [acl] [unix]   VERSION is 1.8 or new; prints the agent's URL
#       dev      state in memory, gone with the process (the default)
#       server   one server with a data folder in DIR: a restart finds its state again
#       acl      default deny; the management token is $token below
#       unix     answers on DIR/http.sock instead of a TCP port
#   kill       SIGKILL
#   term       SIGTERM, does not wait
#   up         starts a stopped agent again: same address, same data
#   restart    kill, then up
#   stop       SIGTERM, SIGKILL after 5 s; DIR stays, for its log
#
# Ports are found free at the start and kept for `up`. Only the process whose id stands in DIR/pid is ever
# signalled, and only while it is this agent.
set -euo pipefail
cache=${SDC_CONSUL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sdconsul}
token=11111111-2222-3333-4444-555555555555

die() { echo "agents.sh: $*" >&2; exit 1; }

# Prints $1 ports that nothing uses, for TCP and UDP. They lie below the range of outgoing connections:
# there a client that keeps trying the port of a killed agent could connect to itself and hold the port.
free_ports() {
    perl -MSocket -e '
        my $low = 32768;
        if (open(my $range, "<", "/proc/sys/net/ipv4/ip_local_port_range")) {
            ($low) = split " ", <$range>;
        }
        $low = 65536 if $low < 11000;
        my (@held, @ports);
        while (@ports < $ARGV[0]) {
            my $port = 10000 + int(rand($low - 10000));
            my $at = sockaddr_in($port, inet_aton("127.0.0.1"));
            socket(my $tcp, PF_INET, SOCK_STREAM, 0) && socket(my $udp, PF_INET, SOCK_DGRAM, 0) or die;
            next unless bind($tcp, $at) && bind($udp, $at);
            push @held, $tcp, $udp;
            push @ports, $port;
        }
        print "@ports\n"' "$1"
}

# Prints the body of GET $1 from the agent in $dir; says nothing when it does not answer.
ask() {
    perl -MSocket -e '
        my ($where, $path, $token) = @ARGV;
        my ($scheme, $at) = $where =~ m{^(.*)://(.*)$};
        my $is_unix = $scheme eq "unix";
        my $to = $is_unix ? sockaddr_un($at) : sockaddr_in($at =~ s{.*:}{}r, inet_aton("127.0.0.1"));
        socket(my $s, $is_unix ? PF_UNIX : PF_INET, SOCK_STREAM, 0) or die;
        connect($s, $to) or exit;
        alarm 9;
        syswrite $s, "GET $path HTTP/1.0\r\nHost: a\r\nX-Consul-Token: $token\r\n\r\n";
        my $answer = do { local $/; <$s> };
        print $1 if $answer =~ m{^HTTP\S+ 200.*?\r\n\r\n(.*)}s' "$(cat "$dir/url")" "$1" "$token" || true
}

write_config() { # HTTP SERF RPC
    local http='"addresses": {}' acl='"acl": {}' grpc='"grpc": -1' management=master
    if [ "$version" = new ]; then
        grpc='"grpc": -1, "grpc_tls": -1' # 1.8 refuses a configuration with a member it does not know
        management=initial_management
    fi
    if [[ $modes == *unix* ]]; then
        http='"addresses": { "http": "unix://'$dir'/http.sock" }, "unix_sockets": { "mode": "0600" }'
        echo "unix://$dir/http.sock" >"$dir/url"
    else
        echo "http://127.0.0.1:$1" >"$dir/url"
    fi
    if [[ $modes == *acl* ]]; then
        acl='"acl": { "enabled": true, "default_policy": "deny",
            "tokens": { "'$management'": "'$token'", "agent": "'$token'" } }'
    fi
    cat >"$dir/config.json" <<JSON
{
    "datacenter": "dc1", "node_name": "$(cat "$dir/node")",
    "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
    "ports": { "http": $1, "https": -1, "dns": -1, "serf_lan": $2, "serf_wan": -1, "server": $3, $grpc },
    "disable_update_check": true, "disable_anonymous_signature": true,
    "telemetry": { "disable_hostname": true, "prometheus_retention_time": "0s" },
    $http, $acl
}
JSON
}

is_running() {
    [ -s "$dir/pid" ] && grep -qszF -- "$dir/config.json" "/proc/$(cat "$dir/pid")/cmdline"
}

# Starts the process and waits until it lists itself as a healthy instance of the service "consul": then it
# leads, answers, and is no other agent that happens to have the port. Fails when the process ends.
launch() {
    local mode=(-dev)
    if [[ $modes == *server* ]]; then
        mode=(-server -bootstrap-expect=1 -data-dir="$dir/data")
    fi
    rm -f "$dir/http.sock"
    setsid nohup "$(binary)" agent "${mode[@]}" -config-file "$dir/config.json" >>"$dir/log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    # Not yet is_running: until exec the process still goes by another command line.
    for _ in {1..1500}; do
        sleep 0.02
        kill -0 "$(cat "$dir/pid")" 2>/dev/null || return 1
        if [[ $(ask '/v1/health/service/consul?passing') == *"\"$(cat "$dir/node")\""* ]]; then
            cat "$dir/url"
            return 0
        fi
    done
    return 1
}

binary() {
    case $version in
    1.8) echo "$cache/consul-1.8.7" ;;
    new) echo "$cache/consul-1.22.7" ;;
    *) die "unknown version: $version" ;;
    esac
}

load() {
    [ -f "$dir/modes" ] || die "no agent was started in $dir"
    read -r version modes <"$dir/modes"
}

start() {
    version=${1:?version}
    modes=${*:2}
    mkdir -p "$dir"
    [ -x "$(binary)" ] || die "$(binary) is missing; get.sh gets it"
    echo "$version $modes" >"$dir/modes"
    echo "node-${version/./-}-$$" >"$dir/node"
    for _ in {1..5}; do
        # shellcheck disable=SC2046
        write_config $(free_ports 3)
        rm -rf "$dir/data"
        : >"$dir/log"
        if launch; then
            return
        fi
        is_running || grep -q 'address already in use' "$dir/log" || break
        stop
    done
    tail -n 20 "$dir/log" >&2
    die "the agent in $dir did not start"
}

# Sends a signal; once it may have ended the agent, `gone` waits for it.
send() { if is_running; then kill "-$1" "$(cat "$dir/pid")"; fi; }

gone() { # TENTHS OF A SECOND
    for ((i = 0; i < $1 * 5; i++)); do
        is_running || return 0
        sleep 0.02
    done
    return 1
}

stop() {
    send TERM
    gone 50 || { send KILL; gone 50; }
    rm -f "$dir/pid"
}

up() {
    ! is_running || die "the agent in $dir is running"
    launch || die "the agent in $dir did not start again, see $dir/log"
}

[ $# -ge 2 ] || die 'usage: agents.sh DIR start|kill|term|up|restart|stop'
dir=$(realpath -m "$1")
verb=$2
shift 2
[ "$verb" = start ] || load
case $verb in
start) start "$@" ;;
kill) send KILL; gone 50 ;;
term) send TERM ;;
up) up ;;
restart) send KILL; gone 50; up ;;
stop) stop ;;
*) die "unknown verb: $verb" ;;
esac
