#!/usr/bin/env python3
"""bodies.py DIR: writes the bodies of the benchmark, answers of /v1/health/service/web.

They are what Consul 1.22 writes, member for member and escape for escape, and the same bytes on
every machine: the random numbers are our own, so that no version of Python changes them.
"""
import json
import os
import sys

SIZES = (1, 10, 100, 1000, 10000)


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def upto(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        return (z ^ (z >> 31)) % n

    def pick(self, items):
        return items[self.upto(len(items))]

    def some(self, items, most):
        left = list(items)
        return [left.pop(self.upto(len(left))) for _ in range(self.upto(most + 1))]

    def hex(self, n):
        return "".join(self.pick("0123456789abcdef") for _ in range(n))

    def shuffle(self, items):
        for i in range(len(items) - 1, 0, -1):
            k = self.upto(i + 1)
            items[i], items[k] = items[k], items[i]

    def uuid(self):
        return "-".join(self.hex(n) for n in (8, 4, 4, 4, 12))


def node(r, i):
    ip = "10.%d.%d.%d" % (20 + i // 65536, i // 256 % 256, i % 256)
    create = 1000 + 7 * i
    return {
        "ID": r.uuid(), "Node": "ip-" + ip.replace(".", "-"), "Address": ip, "Datacenter": "dc1",
        "TaggedAddresses": {"lan": ip, "lan_ipv4": ip, "wan": ip, "wan_ipv4": ip},
        "Meta": {"consul-network-segment": "", "consul-version": "1.22.7"},
        "CreateIndex": create, "ModifyIndex": create + 3,
    }


def check(host, check_id, name, status, output, service, kind, index):
    sid, sname, tags = service
    return {
        "Node": host, "CheckID": check_id, "Name": name, "Status": status, "Notes": "",
        "Output": output, "ServiceID": sid, "ServiceName": sname, "ServiceTags": tags,
        "Type": kind, "Interval": "10s" if kind else "", "Timeout": "1s" if kind else "",
        "ExposedPort": 0, "Definition": {}, "CreateIndex": index, "ModifyIndex": index + 5,
    }


def status_of(r):
    n = r.upto(100)
    return "critical" if n == 0 else "warning" if n < 4 else "passing"


def entry(r, i):
    """One instance of a deployment: the same members in all of them, few nodes, one tag that
    only some carry."""
    host = node(Random(i // 4), i // 4)
    port = 20000 + r.upto(12000)
    sid = "web-%s-%d" % (r.hex(8), port)
    tags = ["v1.14.%d" % r.upto(3), r.pick(["eu-central-1a", "eu-central-1b", "eu-central-1c"])]
    if r.upto(10) == 0:
        tags.append("canary")
    at = {"Address": host["Address"], "Port": port}
    index = 200000 + 11 * i
    status = status_of(r)
    output = "HTTP GET http://%s:%d/health: %s Output: %s" % (
        host["Address"], port, "200 OK" if status == "passing" else "429 Too Many Requests",
        '{"status":"%s","uptime":%d}' % (status, r.upto(10**6)))
    service = {
        "ID": sid, "Service": "web", "Tags": tags, "Address": host["Address"],
        "TaggedAddresses": {"lan_ipv4": at, "wan_ipv4": at},
        "Meta": {"commit": r.hex(10), "team": "storefront", "version": tags[0][1:]},
        "Port": port, "Weights": {"Passing": 10, "Warning": 1}, "EnableTagOverride": False,
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {}, "PeerName": "",
        "CreateIndex": index, "ModifyIndex": index,
    }
    of = (sid, "web", tags)
    return {"Node": host, "Service": service, "Checks": [
        check(host["Node"], "serfHealth", "Serf Health Status", "passing",
              "Agent alive and reachable", ("", "", []), "", host["CreateIndex"]),
        check(host["Node"], "service:" + sid, "Service 'web' check", status, output, of, "http",
              index)]}


WORDS = ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
         "sigma tau upsilon phi chi psi omega").split()
SENTENCES = ('says "hello" & <goodbye>', "a\\b\tc", "caf\u00e9 \u6771\u4eac \U0001F600", "",
             "plain", "line one\nline two", "100% of 5 > 4")


def varied_check(r, i, host, of, index):
    check_id = r.pick(["service:%s:%d" % (of[0], i), r.pick(WORDS), "ttl-%d" % r.upto(99)])
    c = check(host, check_id,
              r.pick(WORDS).title(), status_of(r), r.pick(SENTENCES) * (1 + r.upto(3)), of,
              r.pick(["http", "tcp", "ttl", "grpc", "script"]), index + r.upto(10**r.upto(7)))
    for name in r.some(["Notes", "Interval", "Timeout", "ExposedPort", "Type", "Definition"], 5):
        del c[name]
    if r.upto(4) == 0:
        c["Definition"] = {"Interval": "10s", "HTTP": "http://localhost:%d/" % r.upto(65536),
                           "Header": {w: [r.pick(SENTENCES)] for w in sorted(r.some(WORDS, 3))}}
    return c


def varied(r, i):
    """Entries of one name that have little in common."""
    e = entry(r, i)
    host, service = e["Node"], e["Service"]
    host["Meta"] = {w: r.pick(SENTENCES) for w in sorted(r.some(WORDS, 5))} or None
    service["Tags"] = [r.pick(WORDS) + r.hex(r.upto(9)) for _ in range(r.upto(9))]
    service["Meta"] = {w: r.pick(SENTENCES) + r.hex(r.upto(20)) for w in sorted(r.some(WORDS, 8))}
    if r.upto(3) == 0:
        service["Address"] = ""
    if r.upto(3) == 0:
        del service["TaggedAddresses"]
    if r.upto(3) == 0:
        service["Locality"] = {"Region": "eu", "Zone": "eu-" + r.hex(1)}
    if r.upto(4) == 0:
        service["Proxy"] = {"DestinationServiceName": r.pick(WORDS), "Mode": "",
                            "Config": {w: r.upto(10**9) / 8 for w in sorted(r.some(WORDS, 4))},
                            "MeshGateway": {}, "Expose": {"Checks": True, "Paths": [1.5e3, None]}}
    service["Weights"] = r.pick([{"Passing": 1 + r.upto(999), "Warning": r.upto(99)},
                                 {"Passing": 1 + r.upto(9)}])
    of = (service["ID"], "web", service["Tags"])
    e["Checks"][1:] = [varied_check(r, k, host["Node"], of, 300000) for k in range(r.upto(5))]
    if r.upto(40) == 0:
        e["Checks"].append(check(host["Node"], "_service_maintenance:" + of[0], "Maintenance",
                                 "critical", "", of, "", 5))
    return e


WANTED = {"Node", "Service", "Checks", "ID", "Address", "Port", "Tags", "Meta", "Weights",
          "Passing", "Warning", "CheckID", "Status"}


def scattered(r, value):
    """Members in any order, unwanted ones under names that never come again, and one such before
    each wanted one: no two places between values are alike."""
    if isinstance(value, list):
        return [scattered(r, v) for v in value]
    if not isinstance(value, dict):
        return value
    members = [(k if k in WANTED else r.hex(6 + r.upto(9)), scattered(r, v))
               for k, v in value.items()]
    r.shuffle(members)
    out = {}
    for k, v in members:
        if k in WANTED:
            out[r.hex(6 + r.upto(5))] = r.pick([{}, []])
        out[k] = v
    return out


def random_keys(r, i):
    e = scattered(r, entry(r, i))
    e["Service"]["Meta"] = {r.hex(4 + r.upto(16)): r.hex(4 + r.upto(16)) for _ in range(4)}
    return e


def long_output(r, i):
    """A check that shows the log of a script."""
    e = entry(r, i)
    lines = ['%s\t"%s" <%s@example.com> C:\\%s & \u00e9 %d%%' %
             (r.pick(WORDS), r.pick(WORDS), r.pick(WORDS), r.pick(WORDS), r.upto(101))
             for _ in range(80 + r.upto(40))]
    e["Checks"][1]["Output"] = "\r\n".join(lines) + "\n"
    return e


def text_of(entries, **kwargs):
    """As Go's encoding/json writes it: <, > and & are only ever inside strings."""
    text = json.dumps(entries, ensure_ascii=False, **kwargs)
    for c in "<>&":
        text = text.replace(c, "\\u%04x" % ord(c))
    return text.encode()


COMPACT = {"separators": (",", ":")}


def many(make, num, seed):
    r = Random(seed)
    return [make(r, i) for i in range(num)]


def bodies(only):
    plain = many(entry, 1000 if only else SIZES[-1], 1)
    for num in (1000,) if only else SIZES:
        yield "consul-%d" % num, text_of(plain[:num], **COMPACT)
    if only:
        return
    yield "pretty-1000", text_of(plain[:1000], indent=4)
    yield "varied-1000", text_of(many(varied, 1000, 2), **COMPACT)
    yield "random-keys-1000", text_of(many(random_keys, 1000, 3), **COMPACT)
    yield "long-outputs-300", text_of(many(long_output, 300, 4), **COMPACT)


def main():
    where = sys.argv[1]
    os.makedirs(where, exist_ok=True)
    for name, text in bodies("--only-consul-1000" in sys.argv[2:]):
        with open(os.path.join(where, name + ".json"), "wb") as f:
            f.write(text)


if __name__ == "__main__":
    main()
