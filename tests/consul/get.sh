#!/usr/bin/env bash
# get.sh: puts the two real Consul agents into the cache, outside the tree.
#
#   consul-1.8.7    the package of Debian bullseye, through this machine's apt mirror and signature check
#   consul-1.22.7   built from build/go.mod; cold it takes minutes, 4 GB of disk and 3 GB of memory
#
# What is in the cache already is left alone. What this machine cannot get (no apt, no Go, no network) is
# reported as skipped, with status 0; a file with the wrong content is an error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SDC_CONSUL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sdconsul}
old_version=1.8.7+dfsg1-2
new_version=1.22.7
num_skipped=0

skip() { # VERSION REASON
    printf 'skipped: consul %s: %s\n' "$1" "$2"
    num_skipped=$((num_skipped + 1))
}

last_line() { grep -v '^[[:space:]]*$' "$1" | tail -n 1; }

# The first mirror among this machine's apt sources that serves Debian itself.
debian_mirror() {
    {
        apt-get indextargets --format '$(REPO_URI)' 2>/dev/null || true
        cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -o 'https\?://[^ ]*' || true
    } | awk '!/security/ && /\/debian\/?$/ && !n++ { print } END { exit !n }'
}

# An apt of our own below $1, so that neither root nor this machine's lists are needed. The archive is old:
# its validity date may have passed, its signature and hashes are still checked.
private_apt() {
    mkdir -p "$1"/etc/{apt.conf.d,preferences.d,trusted.gpg.d} \
        "$1"/state/lists/partial "$1"/cache/archives/partial
    : >"$1/state/status"
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] $2 bullseye main" >"$1/etc/sources.list"
    cat >"$1/apt.conf" <<CONF
Dir::Etc "$1/etc";
Dir::Etc::sourceparts "-";
Dir::State "$1/state";
Dir::State::status "$1/state/status";
Dir::Cache "$1/cache";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "";
CONF
}

# Only amd64 has pinned hashes; elsewhere apt's own check must do.
check_hash() { # FILE HASH
    if [ "$(dpkg --print-architecture)" = amd64 ]; then
        echo "$2  $1" | sha256sum -c --quiet -
    fi
}

put() { # FILE NAME: appears in the cache whole or not at all
    mkdir -p "$cache"
    install -m 0755 "$1" "$cache/$2.part.$$"
    mv "$cache/$2.part.$$" "$cache/$2"
}

get_old() {
    local mirror apt=$work/apt
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || { skip 1.8.7 'no apt'; return; }
    mirror=$(debian_mirror) || { skip 1.8.7 'no Debian mirror among the apt sources'; return; }
    private_apt "$apt" "$mirror"
    mkdir "$work/deb"
    # The archive holds a binary rebuild (+bN) of the version, hence the star.
    if ! { apt-get -c "$apt/apt.conf" -qq update && cd "$work/deb" &&
        apt-get -c "$apt/apt.conf" -qq download "consul=$old_version*"; } >"$work/apt.log" 2>&1; then
        skip 1.8.7 "$(last_line "$work/apt.log")"
        return
    fi
    check_hash "$work"/deb/consul_*.deb e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9
    dpkg -x "$work"/deb/consul_*.deb "$work/x"
    check_hash "$work/x/usr/bin/consul" a449efb10a03df3cb9310f3a54d933ccda7c4faba4f421f183fc90a82056798e
    put "$work/x/usr/bin/consul" consul-1.8.7
}

get_new() {
    command -v go >/dev/null || { skip "$new_version" 'no Go'; return; }
    cd "$here/build"
    export GOFLAGS=-mod=readonly GOWORK=off
    if ! go mod download "github.com/hashicorp/consul@v$new_version" 2>"$work/go.log"; then
        skip "$new_version" "$(last_line "$work/go.log")"
        return
    fi
    echo "building consul $new_version; with empty caches this takes minutes"
    nice go build -trimpath -ldflags='-s -w' -o "$work/new" github.com/hashicorp/consul
    "$work/new" version | grep -x "Consul v$new_version" >/dev/null
    put "$work/new" "consul-$new_version"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -x "$cache/consul-1.8.7" ] || get_old
[ -x "$cache/consul-$new_version" ] || get_new
if [ "$num_skipped" -gt 0 ]; then
    echo "$num_skipped of 2 agents skipped"
fi
