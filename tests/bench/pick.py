#!/usr/bin/env python3
"""pick.py ROUNDS MS OURS [GO_KIT]: nanoseconds for a pick by each policy, of ours and of go-kit's.

Both programs are asked in turn, for MS milliseconds each, so that what is compared has had the same
machine; every other round begins with the other one. Prints one JSON object for each policy,
number of instances and of threads.
"""
import json
import subprocess
import sys

INSTANCES = (3, 100, 10000)
THREADS = (1, 2)
OURS, GO_KIT = "sdconsul.h", "go-kit"
POLICIES = ("round_robin", "random", "weighted", "least_loaded", "hashed")


def exists(name, policy, threads):
    """go-kit has two policies; its random one races on two threads."""
    return name == OURS or policy == "round_robin" or (policy == "random" and threads == 1)


class Program:
    def __init__(self, name, path):
        self.name = name
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)

    def ask(self, policy, instances, threads, ms):
        """Nanoseconds, and what was allocated meanwhile where the program says it."""
        self.process.stdin.write("%s %d %d %d\n" % (policy, instances, threads, ms))
        line = self.process.stdout.readline().split()
        if not line:
            sys.exit("%s ended early" % self.name)
        return float(line[1]), int(line[2]) if len(line) > 2 else None

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(programs, instances, threads, rounds, ms):
    """One line for each program and policy: the policies in turn, the programs within each."""
    lines = {}
    for i in range(rounds + 1):
        for policy in POLICIES:
            for program in programs if i % 2 == 0 else programs[::-1]:
                if not exists(program.name, policy, threads):
                    continue
                ns, allocations = program.ask(policy, instances, threads, ms)
                line = lines.setdefault((program.name, policy), {
                    "pick": program.name, "policy": policy, "instances": instances,
                    "threads": threads, "ns": [], "allocations": []})
                # the first round brings code and data into the caches and is not counted
                if i > 0:
                    line["ns"].append(ns)
                    line["allocations"].append(allocations)
    return lines.values()


def main():
    rounds, ms = int(sys.argv[1]), int(sys.argv[2])
    programs = [Program(*pair) for pair in zip((OURS, GO_KIT), sys.argv[3:])]
    for instances in INSTANCES:
        for threads in THREADS:
            for line in measure(programs, instances, threads, rounds, ms):
                print(json.dumps(line), flush=True)
    for program in programs:
        program.end()


if __name__ == "__main__":
    main()
