#!/usr/bin/env python3
"""exchange.py SERVER BODIES NAME=PROGRAM...: what an update costs each watching program.

The programs take turns, a process and a connection each time, against one server that answers at
once. Prints one JSON object for each program and number of instances: CPU microseconds of user and
system time for an update in each round, and memory over the idle process in bytes.
"""
import json
import os
import select
import subprocess
import sys
import time

ROUNDS = 7
# memory at rest is looked at in the first rounds only
REST_ROUNDS = 3
REST_S = 0.5
# of instances: answers before the clock starts, and answers that count
PLAN = {10: (50, 1000), 1000: (10, 150), 10000: (3, 12)}
# what takes a hundred times as much CPU gets fewer of them, in every other round
SLOW = {"go-kit": {10: (50, 300), 1000: (5, 20), 10000: (2, 3)}}
PATIENCE_S = 60


class Broken(Exception):
    pass


def memory(pid):
    """Resident bytes now, and the most there ever were."""
    found = {}
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                found[key] = int(value.split()[0]) * 1024
    return found["VmRSS"], found["VmHWM"]


def said(process, word):
    """The rest of the line that begins with `word`."""
    if not select.select([process.stdout], [], [], PATIENCE_S)[0]:
        raise Broken("no answer in %d s" % PATIENCE_S)
    line = process.stdout.readline().decode()
    if not line.startswith(word):
        raise Broken("it ended early, or said %r" % line)
    return line[len(word):].strip()


def watch(program, port, service, num_warm, num, rest_s):
    """One process from its start to its rest."""
    process = subprocess.Popen([program, str(port), "%s-%d" % (service, num_warm + num),
                                str(num_warm), str(num)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        said(process, "idle")
        idle = memory(process.pid)[0]
        process.stdin.write(b"\n")
        facts = json.loads(said(process, "done"))
        time.sleep(rest_s)
        rest, peak = memory(process.pid)
    finally:
        process.kill()
        process.wait()
    facts.update(idle=idle, rest=rest - idle, peak=peak - idle)
    return facts


class Server:
    def __init__(self, program, body):
        self.process = subprocess.Popen([program, body], stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def rounds(programs, server, instances):
    """Of each program what every round said, None where it was left out."""
    results = {name: [] for name in programs}
    for i in range(ROUNDS):
        for name in list(results):
            num_warm, num = SLOW.get(name, PLAN)[instances]
            if name in SLOW and i % 2 == 1:
                results[name].append(None)
                continue
            try:
                results[name].append(watch(programs[name], server.port, "changing", num_warm, num,
                                           REST_S if i < REST_ROUNDS else 0))
            except (Broken, OSError, ValueError) as e:
                print("skipped: %s with %d instances: %s" % (name, instances, e), file=sys.stderr)
                del results[name]
    return results


def unchanged(programs, server, instances):
    """The answers to ours that change nothing."""
    num_warm, num = PLAN[instances]
    facts = watch(programs["sdconsul.h"], server.port, "same", num_warm, num, 0)
    return {"kind": "unchanged", "instances": instances, "watch": "sdconsul.h",
            "cpu_us": facts["cpu_us"], "events": facts["events"],
            "allocations": facts["allocations"]}


def main():
    server_program, bodies = sys.argv[1:3]
    programs = dict(a.split("=", 1) for a in sys.argv[3:])
    for instances in PLAN:
        with Server(server_program, os.path.join(bodies, "consul-%d.json" % instances)) as server:
            for name, all_facts in rounds(programs, server, instances).items():
                out = {"kind": "exchange", "instances": instances, "watch": name}
                out["cpu_us"] = [facts and facts["cpu_us"] for facts in all_facts]
                for key in ("events", "allocations", "allocated_bytes"):
                    if key in all_facts[0]:
                        out[key] = all_facts[0][key]
                at_rest = [facts for facts in all_facts[:REST_ROUNDS] if facts]
                for key in ("idle", "rest", "peak"):
                    out[key] = [facts[key] for facts in at_rest]
                print(json.dumps(out), flush=True)
            print(json.dumps(unchanged(programs, server, instances)), flush=True)


if __name__ == "__main__":
    main()
