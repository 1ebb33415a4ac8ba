#!/usr/bin/env python3
"""pick.py ROUNDS MS OURS [GO_KIT]: nanoseconds for a pick by each policy, of ours and of go-kit's.

Both programs are asked in turn, for MS milliseconds each, so that what is compared has had the same
machine; every other round begins with the other one. Where the machine was busy with something
else, so that a program had less than nine tenths of a CPU for each of its threads, it is asked
again, a few times at most. Prints one JSON object for each policy, number of instances and of
threads.
"""
import json
import subprocess
import sys

INSTANCES = (3, 100, 10000)
THREADS = (1, 2)
OURS, GO_KIT = "sdconsul.h", "go-kit"
TRIES = 5
POLICIES = ("round_robin", "random", "weighted", "least_loaded",
            "least_loaded_by_weight", "hashed")


def exists(name, policy, threads):
    """go-kit has two policies; its random one races on two threads."""
    return name == OURS or policy == "round_robin" or (policy == "random" and threads == 1)


class Program:
    def __init__(self, name, path):
        self.name = name
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)

    def ask_once(self, policy, instances, threads, ms):
        self.process.stdin.write("%s %d %d %d\n" % (policy, instances, threads, ms))
        line = self.process.stdout.readline().split()
        if not line:
            sys.exit("%s ended early" % self.name)
        return float(line[1]), float(line[2]), int(line[3]) if len(line) > 3 else None

    def ask(self, policy, instances, threads, ms):
        """Nanoseconds, CPUs, and what was allocated meanwhile where the program says it; of the
        try that had most CPUs."""
        best = None
        for _ in range(TRIES):
            said = self.ask_once(policy, instances, threads, ms)
            best = said if best is None or said[1] > best[1] else best
            if best[1] >= 0.9 * threads:
                break
        return best

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
                ns, cpus, allocations = program.ask(policy, instances, threads, ms)
                line = lines.setdefault((program.name, policy), {
                    "pick": program.name, "policy": policy, "instances": instances,
                    "threads": threads, "ns": [], "cpus": [], "allocations": []})
                # the first round brings code and data into the caches and is not counted
                if i > 0:
                    line["ns"].append(ns)
                    line["cpus"].append(cpus)
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
