#!/usr/bin/env python3
"""report_pick.py DIR: what a pick costs, as a table and a record.
report_pick.py --readme DIR/pick.json README.md: that record in the README.

The first reads pick.jsonl, pick-guard.txt, pick-versions.txt and pick-notes.txt in DIR; writes
pick.txt and pick.json there. Ratios as report.py takes them: within each round.
"""
import json
import os
import sys
import time

import report
from report import OURS, Spread, comma, ratio

GO_KIT = "go-kit"
BEGIN = "<!-- make bench-readme, picks: begin -->"
ROUNDS_MIN = 3
SIZES = (3, 100, 10000)
THREADS = {1: "one thread", 2: "two threads"}
ROWS = [(OURS, "round_robin"), (GO_KIT, "round_robin"), (OURS, "random"), (GO_KIT, "random"),
        (OURS, "weighted"), (OURS, "least_loaded"), (OURS, "least_loaded_by_weight"),
        (OURS, "hashed")]

ABOUT = """
PICKS: sdc_balancer_next with its sdc_balancer_done, and Endpoint() of go-kit's balancers over its
sd.Endpointer, which counts no use and so need not be told of an end. Wall time over the picks of all
threads, as Go's RunParallel counts; go-kit with as many GOMAXPROCS. Its random balancer races on two
threads. Rounds in which a thread had no CPU of its own do not count. Equal weights, but 1 to 5 for weighted and by weight; hashed by 1,024 keys in turn."""


def undisturbed(line):
    """The rounds in which each thread had a CPU, None in place of the others; all where those are
    few. Two threads that take turns on one CPU do not disturb each other and look fast."""
    kept = [ns if cpus >= 0.9 * line["threads"] else None
            for ns, cpus in zip(line["ns"], line["cpus"])]
    return kept if sum(ns is not None for ns in kept) >= ROUNDS_MIN else line["ns"]


class Picks:
    def __init__(self, where):
        lines = report.lines_of(os.path.join(where, "pick.jsonl"))
        self.lines = {(x["pick"], x["policy"], x["instances"], x["threads"]): x for x in lines}
        self.guard = report.text_of(os.path.join(where, "pick-guard.txt"))
        self.notes = report.text_of(os.path.join(where, "pick-notes.txt"))
        self.versions = report.text_of(os.path.join(where, "pick-versions.txt"))

    def ns(self, name, policy, instances, threads):
        line = self.lines.get((name, policy, instances, threads))
        return undisturbed(line) if line else []

    def spread(self, *key):
        return Spread([ns for ns in self.ns(*key) if ns])

    def over(self, policy, instances, threads, reference, of):
        """Ours over another policy, or over the same one of go-kit."""
        return ratio(self.ns(OURS, policy, instances, threads),
                     self.ns(reference, of, instances, threads))

    def cpus(self, threads):
        """How many CPUs worked for so many threads, in the middle of all rounds."""
        all_rounds = [c for line in self.lines.values() if line["threads"] == threads
                      for c in line["cpus"]]
        return Spread(all_rounds) if all_rounds else None

    def num_allocations(self):
        return sum(n for line in self.lines.values() for n in line["allocations"] if n)


def worst(spreads):
    """The one with the greatest median; None where one was not measured."""
    return None if None in spreads else max(spreads, key=lambda s: s.mid)


def shown_name(policy):
    return policy.replace("_", " ")


# ---- goals ----

def goals(p):
    def over_go_kit(policy, threads):
        return ("pick, %s, %s, worst of three sizes: over go-kit"
                % (shown_name(policy), THREADS[threads]),
                worst([p.over(policy, n, threads, GO_KIT, policy) for n in SIZES]), -1.5)

    def over_ours(policy, threads):
        return ("pick, %s, %s, 10,000 instances: over our round robin"
                % (shown_name(policy), THREADS[threads]),
                p.over(policy, 10000, threads, OURS, "round_robin"), -2)

    return [
        over_go_kit("round_robin", 1), over_go_kit("round_robin", 2), over_go_kit("random", 1),
        over_ours("weighted", 1), over_ours("weighted", 2),
        over_ours("least_loaded", 1), over_ours("least_loaded", 2),
        over_ours("least_loaded_by_weight", 1), over_ours("least_loaded_by_weight", 2),
        ("pick, every policy, instances and threads: allocations",
         Spread([p.num_allocations()]) if p.lines else None, 0),
    ]


# ---- the table ----

def show_times(p, say):
    for threads, shown in THREADS.items():
        say("")
        if p.cpus(threads):
            shown += ", %.1f CPUs" % p.cpus(threads).mid
        say("%-37s %s" % (shown, "".join("%-24s" % (comma(n) + " instances") for n in SIZES)))
        for name, policy in ROWS:
            if any(p.ns(name, policy, n, threads) for n in SIZES):
                cells = [p.spread(name, policy, n, threads) for n in SIZES]
                say("  %-35s %s" % (
                    name + ", " + shown_name(policy),
                    "".join("%-24s" % (c.text("%.1f") + " ns") for c in cells)))


def show_ratios(p, say):
    say("")
    say("%-62s %s" % ("ratios", "".join("%-20s" % comma(n) for n in SIZES)))
    for threads, shown in THREADS.items():
        for reference, of, policies in ((GO_KIT, None, ("round_robin", "random")),
                                        (OURS, "round_robin",
                                         ("random", "weighted", "least_loaded", "least_loaded_by_weight",
                                          "hashed"))):
            for policy in policies:
                cells = [p.over(policy, n, threads, reference, of or policy) for n in SIZES]
                if all(cells):
                    say("  %-60s %s" % (
                        "%s, %s: over %s" % (shown_name(policy), shown,
                                             "our round robin" if of else reference),
                        "".join("%-20s" % c.text() for c in cells)))


def text_of(p):
    out = []
    say = out.append
    say("picks of sdconsul.h beside go-kit's; median (least..greatest) of the rounds of one run")
    say("machine: " + report.machine())
    say("compiler: " + report.compiler())
    say("versions: " + "; ".join(p.versions))
    say("")
    report.paragraph(out, ABOUT)
    show_times(p, say)
    show_ratios(p, say)
    say("")
    say("INSTRUCTIONS (callgrind)")
    for line in p.guard:
        say("  " + line)
    report.show_goals(goals(p), say)
    if p.notes:
        say("")
        out.extend(p.notes)
    return "\n".join(out) + "\n"


def record(p):
    return {
        "machine": report.machine(), "compiler": report.compiler(),
        "date": time.strftime("%Y-%m-%d"), "versions": p.versions,
        "picks": [dict(line, ns=p.spread(*key).record(), samples=line["ns"])
                  for key, line in p.lines.items()],
        "instructions": p.guard, "goals": report.record_goals(goals(p)), "notes": p.notes,
    }


# ---- the README ----

def readme_row(results, name, policy):
    cells = []
    for threads in THREADS:
        for n in SIZES:
            found = [x["ns"]["median"] for x in results["picks"]
                     if (x["pick"], x["policy"], x["instances"], x["threads"]) ==
                     (name, policy, n, threads)]
            cells.append("%.1f" % found[0] if found else "-")
    shown = shown_name(policy) if name == OURS else "%s's %s" % (name, shown_name(policy))
    return "| %s | %s |" % (shown, " | ".join(cells)) if set(cells) != {"-"} else None


def readme_section(results):
    out = ["    sh tests/bench/run.sh build pick && make bench-readme", ""]
    out += report.wrapped("On %s, with %s, %s: %s." % (
        results["machine"], results["compiler"], results["date"],
        "; ".join(["sdconsul.h"] + results["versions"])))
    head = ["%s: %s" % (shown, comma(n)) for shown in THREADS.values() for n in SIZES]
    out += ["", "| ns for a pick; instances on | %s |" % " | ".join(head),
            "|---|" + "---|" * len(head)]
    out += [row for row in (readme_row(results, *r) for r in ROWS) if row]
    out += [""] + report.readme_goals(results, report.reasons("pick"))
    return "\n".join(out)


def main():
    if sys.argv[1] == "--readme":
        if not os.path.exists(sys.argv[2]):
            print("not written: the picks, which were not measured")
            return
        with open(sys.argv[2]) as f:
            results = json.load(f)
        report.replace_section(sys.argv[3], BEGIN, readme_section(results))
        print("written: the picks in " + sys.argv[3])
        return
    where = sys.argv[1]
    p = Picks(where)
    text = text_of(p)
    for name, content in (("pick.txt", text),
                          ("pick.json", json.dumps(record(p), indent=1) + "\n")):
        with open(os.path.join(where, name), "w") as f:
            f.write(content)
    print(text, end="")
    print("\nwritten: pick.txt and pick.json in " + os.path.relpath(where))


if __name__ == "__main__":
    main()
