#!/usr/bin/env python3
"""cluster.py PROGRAM [ARGUMENT...]: a Consul cluster on loopback, and a program that plays with it.

Three servers (s1, s2, s3) and a client agent (client), each on an address of its own in 127.0.1.x
and with a data folder, run as long as PROGRAM does. PROGRAM finds in its environment

    SDC_CLUSTER_FD    a stream socket: one command a line, one answer a line, "ok ..." or "no ..."
    SDC_CLUSTER_URLS  "s1=http://... s2=... s3=... client=..."
    SDC_CLUSTER_CUT   1 where `cut` works

and its exit status is the one of this script. Commands:

    whole                     waits until all four agents are well; the leader's name
    leader                    its name
    kill AGENT, up AGENT      SIGKILL; started again with the data that it had
    cut, join                 the client agent from and to all servers
    save, restore             a snapshot of the cluster, by consul's own command
    put SERVICE N             two instances on nodes without agents, tagged vN both in one
                              transaction; the time at which that began, in us of CLOCK_MONOTONIC
    entry SERVICE ID PORT     one instance on a node without an agent
    forget SERVICE ID         and away with it
    register AGENT SERVICE ID PORT, status AGENT ID STATUS, deregister AGENT ID
                              at that agent, with a TTL check. One that is cut off takes it, and
                              answers when it can tell the servers: that is not waited for
    truth SERVICE             what the leader says (consistent): all instances, and those that pass

Where the machine allows it everything lives in a network and a process namespace of its own: then
nft can cut agents off and nobody else notices, and all is gone with this process however that ends.
Elsewhere the cluster runs on the machine's loopback on free ports, and cannot be cut.
"""
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
INSIDE = "SDC_CLUSTER_INSIDE"
NAMES = ("s1", "s2", "s3", "client")
PATIENCE_S = 60
VERSION = "1.22.7"


class Refused(Exception):
    """What a command could not do; its text is the answer."""


def skip(reason):
    print("skipped: the cluster: " + reason)
    print("0 passed, 0 failed, 1 skipped")
    sys.exit(0)


def free_port(addresses, taken):
    """A port that nothing uses, TCP or UDP, on any of the addresses.

    It lies below the range of outgoing connections: there a client that keeps trying the port of a
    killed agent could connect to itself and hold the port.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as text:
        low = int(text.read().split()[0])
    if low < 11000:
        low = 65536
    while True:
        port = random.randrange(10000, low)
        held = []
        try:
            for address in addresses:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    held.append(socket.socket(socket.AF_INET, kind))
                    held[-1].bind((address, port))
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
        if port not in taken:
            taken.append(port)
            return port


class Agent:
    """One Consul process, its address and its folder."""

    def __init__(self, name, ip, folder, binary, ports):
        self.name, self.ip, self.folder, self.binary = name, ip, folder, binary
        self.http_port, self.serf_port, self.rpc_port = ports
        self.url = "http://%s:%d" % (ip, self.http_port)
        self.process = None

    def write_config(self, servers):
        config = {
            "datacenter": "dc1", "node_name": self.name, "data_dir": self.folder + "/data",
            "bind_addr": self.ip, "client_addr": self.ip, "advertise_addr": self.ip,
            "ports": {"http": self.http_port, "https": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
                      "serf_lan": self.serf_port, "serf_wan": -1, "server": self.rpc_port},
            "server": self in servers, "retry_interval": "1s",
            "retry_join": ["%s:%d" % (server.ip, server.serf_port) for server in servers],
            "performance": {"raft_multiplier": 1}, "connect": {"enabled": False},
            "disable_update_check": True, "disable_anonymous_signature": True,
            "telemetry": {"disable_hostname": True, "prometheus_retention_time": "0s"},
        }
        if self in servers:
            config["bootstrap_expect"] = len(servers)
            # A server that was killed comes back. Autopilot would take it out of the catalog
            # meanwhile, with its services, and their absence would be true.
            config["autopilot"] = {"cleanup_dead_servers": False}
        os.makedirs(self.folder, exist_ok=True)
        with open(self.folder + "/config.json", "w") as out:
            json.dump(config, out, indent=4)

    def start(self):
        with open(self.folder + "/log", "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "agent", "-config-file", self.folder + "/config.json"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        if self.is_running():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def ask(self, method, path, body=None, timeout_s=10.0):
        """The decoded answer. Raises Refused when there is none, or it is not 200."""
        connection = http.client.HTTPConnection(self.ip, self.http_port, timeout=timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Refused("%s %s: %s" % (self.name, path, error))
        finally:
            connection.close()
        if answer.status != 200:
            raise Refused("%s %s: %d %s" % (self.name, path, answer.status, text.strip()))
        return json.loads(text) if text.strip() else None


def aggregate(checks):
    """As Consul's own client says it."""
    statuses = {check["Status"] for check in checks}
    ids = [check["CheckID"] for check in checks]
    if any(i == "_node_maintenance" or i.startswith("_service_maintenance:") for i in ids):
        return "maintenance"
    for status in ("critical", "warning"):
        if status in statuses:
            return status
    return "passing"


def write_list(entries):
    """id@node=status[tags], by address: "-" where there is none."""
    lines = []
    for entry, status in entries:
        service = entry["Service"]
        address = service["Address"] or entry["Node"]["Address"]
        lines.append(("%s:%d" % (address, service["Port"]), entry["Node"]["Node"], service["ID"],
                      "%s@%s=%s[%s]" % (service["ID"], entry["Node"]["Node"], status,
                                        ",".join(sorted(service["Tags"] or [])))))
    return ";".join(line[-1] for line in sorted(lines)) or "-"


class Cluster:
    def __init__(self, folder, binary):
        ips = ["127.0.1.%d" % (i + 1) for i in range(len(NAMES))]
        taken = []
        self.ports = [free_port(ips, taken) for _ in range(3)]
        self.agents = {name: Agent(name, ip, os.path.join(folder, name), binary, self.ports)
                       for name, ip in zip(NAMES, ips)}
        self.servers = [self.agents[name] for name in NAMES[:3]]
        self.is_cut = False
        self.snapshot = os.path.join(folder, "snapshot")
        self.binary = binary

    def start(self):
        for agent in self.agents.values():
            agent.write_config(self.servers)
            agent.start()

    def stop(self):
        for agent in self.agents.values():
            agent.kill()

    # -- what the cluster is --

    def find_leader(self):
        """The leader that a running server names, if that is running itself."""
        for server in self.servers:
            if not server.is_running():
                continue
            try:
                at = server.ask("GET", "/v1/status/leader", timeout_s=2.0) or ""
            except Refused:
                continue
            for one in self.servers:
                if at.startswith(one.ip + ":") and one.is_running():
                    return one
        return None

    def wait_for(self, what, question):
        """Asks until the answer is not None."""
        until = time.monotonic() + PATIENCE_S
        why = "no answer"
        while time.monotonic() < until:
            for agent in self.agents.values():
                if agent.process is not None and agent.process.poll() not in (None, -9):
                    raise Refused("%s ended by itself" % agent.name)
            try:
                answer = question()
                if answer is not None:
                    return answer
            except Refused as refused:
                why = str(refused)
            time.sleep(0.05)
        raise Refused("after %d s: %s: %s" % (PATIENCE_S, what, why))

    def leader(self):
        return self.wait_for("a leader", self.find_leader)

    def is_whole(self):
        leader = self.find_leader()
        if leader is None:
            return None
        for agent in self.agents.values():
            if not agent.ask("GET", "/v1/status/leader").startswith(leader.ip + ":"):
                return None
            # By way of each agent: the one that was cut off may know no way yet.
            agent.ask("GET", "/v1/catalog/nodes?consistent")
        peers = leader.ask("GET", "/v1/operator/raft/configuration")["Servers"]
        voters = [peer for peer in peers if peer["Voter"]]
        passing = leader.ask("GET", "/v1/health/state/passing?consistent")
        alive = {check["Node"] for check in passing if check["CheckID"] == "serfHealth"}
        return leader if len(voters) == 3 and alive == set(NAMES) else None

    # -- the commands --

    def do_whole(self):
        return self.wait_for("a whole cluster", self.is_whole).name

    def do_leader(self):
        return self.leader().name

    def do_kill(self, name):
        self.agents[name].kill()

    def do_up(self, name):
        self.agents[name].start()

    def do_cut(self):
        """Serf's UDP, and the streams of the client agent. Those of serf do not come from the
        address that an agent is bound to, so none of them passes: the servers do without
        theirs, which they need to join and to compare notes twice a minute."""
        client = self.agents["client"].ip
        servers = "{ %s }" % ", ".join(server.ip for server in self.servers)
        serf = self.agents["client"].serf_port
        self.nft("""
            table ip cut {
                chain out {
                    type filter hook output priority 0
                    ip saddr %s ip daddr %s drop
                    ip saddr %s ip daddr %s drop
                    tcp dport %d drop
                    tcp sport %d drop
                    ip daddr %s udp dport %d drop
                }
            }""" % (client, servers, servers, client, serf, serf, client, serf))
        self.is_cut = True

    def do_join(self):
        self.nft("delete table ip cut")
        self.is_cut = False

    def nft(self, rules):
        self.run(["nft", "-f", "-"], rules)

    def run(self, command, text=""):
        done = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Refused("%s: %s" % (command[0], done.stdout.decode().replace("\n", " ")))

    def do_save(self):
        self.run([self.binary, "snapshot", "save", "-http-addr=" + self.leader().url,
                  self.snapshot])

    def do_restore(self):
        self.run([self.binary, "snapshot", "restore", "-http-addr=" + self.leader().url,
                  self.snapshot])

    def do_put(self, service, version):
        writes = []
        for i, letter in enumerate("ab"):
            node = "%s-%s" % (service, letter)
            address = "10.88.0.%d" % (i + 1)
            writes.append({"Node": {"Verb": "set", "Node": {"Node": node, "Address": address}}})
            writes.append({"Service": {"Verb": "set", "Node": node, "Service": {
                "ID": "anchor-" + letter, "Service": service, "Tags": ["v" + version],
                "Address": address, "Port": 8001 + i}}})
        return self.change(lambda: self.leader().ask("PUT", "/v1/txn", writes))

    def do_entry(self, service, name, port):
        return self.change(lambda: self.leader().ask("PUT", "/v1/catalog/register", {
            "Node": "%s-%s" % (service, name), "Address": "10.88.1.1",
            "Service": {"ID": name, "Service": service, "Tags": ["v1"], "Port": int(port)}}))

    def do_forget(self, service, name):
        return self.change(lambda: self.leader().ask("PUT", "/v1/catalog/deregister", {
            "Node": "%s-%s" % (service, name), "ServiceID": name}))

    def do_register(self, name, service, own, port):
        return self.tell(name, "service/register", {
            "Name": service, "ID": own, "Tags": ["v1"], "Address": "10.88.2.1", "Port": int(port),
            "Check": {"TTL": "10m", "Status": "passing"}})

    def do_status(self, name, own, status):
        return self.tell(name, "check/update/service:" + own, {"Status": status})

    def do_deregister(self, name, own):
        return self.tell(name, "service/deregister/" + own)

    def tell(self, name, path, body=None):
        agent = self.agents[name]
        if name != "client" or not self.is_cut:
            return self.change(lambda: agent.ask("PUT", "/v1/agent/" + path, body))
        began = time.monotonic()
        try:
            agent.ask("PUT", "/v1/agent/" + path, body, timeout_s=0.5)
        except Refused:
            pass
        return "%d" % (began * 1e6)

    def change(self, write):
        """When the attempt that succeeded began; it is made again until one does."""
        began = [0.0]

        def attempt():
            began[0] = time.monotonic()
            write()
            return True
        self.wait_for("a change", attempt)
        return "%d" % (began[0] * 1e6)

    def do_truth(self, service):
        leader = self.find_leader()
        if leader is None:
            raise Refused("no leader")
        answer = leader.ask("GET", "/v1/health/service/%s?consistent" % service)
        entries = [(entry, aggregate(entry["Checks"])) for entry in answer]
        return "%s %s" % (write_list(entries),
                          write_list([one for one in entries if one[1] == "passing"]))

    def obey(self, line):
        verb, *arguments = line.split()
        try:
            return "ok %s" % (getattr(self, "do_" + verb)(*arguments) or "")
        except Refused as refused:
            return "no %s" % str(refused).replace("\n", " ")


def namespace():
    """What stands before a command that is to run in a namespace; empty where none can be made."""
    if not all(shutil.which(tool) for tool in ("unshare", "ip", "nft")):
        print("no namespace: unshare (util-linux), ip (iproute2) or nft (nftables) is missing")
        return []
    private = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        private.append("--map-root-user")
    probe = subprocess.run(private + ["sh", "-c", "ip link set lo up && nft list ruleset"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
    if probe.returncode != 0:
        print("no namespace: " + probe.stdout.decode().strip())
        return []
    return private


def play(cluster, program):
    """Runs the program and obeys it; answers its exit status."""
    ours, its = socket.socketpair()
    environment = dict(
        os.environ, SDC_CLUSTER_FD=str(its.fileno()),
        SDC_CLUSTER_URLS=" ".join("%s=%s" % (a.name, a.url) for a in cluster.agents.values()),
        SDC_CLUSTER_CUT="1" if os.environ.get(INSIDE) else "")
    environment.setdefault("TEST_TIMEOUT_S", "240")
    running = subprocess.Popen(program, env=environment, pass_fds=[its.fileno()])
    its.close()
    try:
        with ours, ours.makefile("rw", newline="\n") as lines:
            for line in lines:
                lines.write(cluster.obey(line) + "\n")
                lines.flush()
    except OSError:
        pass                        # it ended while a command was being obeyed
    return running.wait()


def run(folder, binary):
    """The cluster from its first to its last process; answers the program's exit status."""
    cluster = Cluster(folder, binary)
    try:
        cluster.start()
        status = play(cluster, sys.argv[1:])
        if status != 0:
            for agent in cluster.agents.values():
                with open(agent.folder + "/log", errors="replace") as log:
                    print("---- the log of %s ends" % agent.name)
                    print("".join(log.readlines()[-12:]))
        return status
    finally:
        cluster.stop()


def run_in(private, folder):
    """The same inside, by another one of this script. The folder stays with the one outside."""
    inside = subprocess.Popen(private + [sys.executable, os.path.abspath(__file__)] + sys.argv[1:],
                              env=dict(os.environ, **{INSIDE: folder}))
    try:
        return inside.wait()
    finally:
        inside.kill()               # and with it all that it has started
        inside.wait()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    cache = os.environ.get("SDC_CONSUL_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sdconsul")
    binary = os.path.join(cache, "consul-" + VERSION)
    # An end by these is an end by exception: what was started is stopped and the folder removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        sys.exit(1 if run(os.environ[INSIDE], binary) != 0 else 0)
    if sys.platform != "linux":
        skip("only Linux has all of 127.0.0.0/8")
    subprocess.run([os.path.join(HERE, "get.sh")], check=True)
    if not os.access(binary, os.X_OK):
        skip("no consul " + VERSION)
    private = namespace()
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="sdconsul.") as folder:
        status = run_in(private, folder) if private else run(folder, binary)
    sys.exit(1 if status != 0 else 0)


if __name__ == "__main__":
    main()
