#!/usr/bin/env python3
"""report.py DIR: what the benchmark measured, as a table, a chart and a record.
report.py --readme DIR/results.json README.md: that record in the README.

The first reads decode.jsonl, exchange.jsonl, guard.txt and notes.txt in DIR; writes report.txt,
results.json and chart.svg there. A ratio is taken within each round, where all had the same
machine; what is shown is the median of these ratios, and the least and the greatest of them.

The second writes the goals and who meets them between two marks in README.md, and the chart to
chart.svg beside this file. Why a goal is missed is not known to a program: misses.txt beside this
file says it.
"""
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import textwrap
import time

OURS = "sdconsul.h"
NO_FAST = "sdconsul.h, no fast path"
NO_SIMD = "sdconsul.h, no SIMD"
CURL = "libcurl + yyjson"
CHUNKS = {0: "", 65536: "64 KiB", 1500: "1,500 B", 7: "7 B"}


class Spread:
    """The median of what the rounds said, with its least and greatest."""

    def __init__(self, values):
        self.mid = statistics.median(values)
        self.low, self.high = min(values), max(values)

    def text(self, form="%.2f"):
        return "%s (%s..%s)" % (form % self.mid, form % self.low, form % self.high)

    def record(self):
        return {"median": self.mid, "min": self.low, "max": self.high}


def ratio(a, b):
    """a over b, round by round; None where they have no round together."""
    both = [x / y for x, y in zip(a, b) if x and y]
    return Spread(both) if both else None


def every_ratio(a, b):
    """Each of a over each of b: for what was not taken in common rounds."""
    return Spread([x / y for x in a for y in b])


def lines_of(path):
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return [json.loads(line) for line in f if line.startswith("{")]


def text_of(path):
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return f.read().splitlines()


class Results:
    def __init__(self, where):
        self.decoders = {}      # of a body: {(decoder, chunk): samples}, in order
        self.sizes, self.versions = {}, {}
        for line in lines_of(os.path.join(where, "decode.jsonl")):
            body = os.path.basename(line["body"])[:-len(".json")]
            key = (line["decoder"], line["chunk"])
            self.decoders.setdefault(body, {})[key] = line["samples"]
            self.sizes[body] = line["bytes"]
            self.versions[line["decoder"]] = line["version"]
        self.watches, self.unchanged = {}, {}
        for line in lines_of(os.path.join(where, "exchange.jsonl")):
            if line["kind"] == "exchange":
                self.watches.setdefault(line["instances"], {})[line["watch"]] = line
            else:
                self.unchanged[line["instances"]] = line
        self.guard = text_of(os.path.join(where, "guard.txt"))
        self.notes = text_of(os.path.join(where, "notes.txt"))
        self.other_versions = text_of(os.path.join(where, "versions.txt"))
        picked = [d for d in self.versions if d.startswith("simdjson")]
        self.simdjson = picked[0] if picked else "simdjson"
        self.westmere = picked[-1] if picked else "simdjson, westmere"

    def decode_ratio(self, body, decoder, chunk, reference):
        lines = self.decoders.get(body, {})
        ours, theirs = lines.get((decoder, chunk)), lines.get((reference, 0))
        return ratio(ours, theirs) if ours and theirs else None

    def cpu_ratio(self, instances, name, reference):
        watches = self.watches.get(instances, {})
        if name not in watches or reference not in watches:
            return None
        return ratio(watches[name]["cpu_us"], watches[reference]["cpu_us"])

    def memory_ratio(self, instances, key, name, reference):
        watches = self.watches.get(instances, {})
        if name not in watches or reference not in watches:
            return None
        return every_ratio(watches[name][key], watches[reference][key])


# ---- goals ----

def goals(r):
    """Each is what it says, what was measured, and the bound: at least (+) or at most (-)."""
    def decoder(instances, decoder, reference, least):
        body = "consul-%d" % instances
        which = "decoder" if decoder == OURS else "decoder without SIMD"
        return ("%s, %s instances, 64 KiB chunks: over %s" % (which, comma(instances), reference),
                r.decode_ratio(body, decoder, 65536, reference), least)

    def update(instances, reference, most):
        return ("update, %s instances: CPU over %s" % (comma(instances), reference),
                r.cpu_ratio(instances, OURS, reference), -most)

    def memory(key, what, reference, most):
        return ("memory, 10,000 instances, %s: over %s" % (what, reference),
                r.memory_ratio(10000, key, OURS, reference), -most)

    out = [
        decoder(1000, OURS, r.simdjson, 1.4), decoder(10000, OURS, r.simdjson, 1.4),
        decoder(1000, OURS, r.westmere, 1.8), decoder(10000, OURS, r.westmere, 1.8),
        decoder(1000, NO_SIMD, "yyjson", 1.3), decoder(10000, NO_SIMD, "yyjson", 1.3),
        ("decoder, nothing repeats, 64 KiB chunks: over yyjson",
         r.decode_ratio("random-keys-1000", OURS, 65536, "yyjson"), 0.9),
        update(10, "floor", 2), update(1000, "floor", 4.5), update(1000, CURL, 1 / 2),
        update(1000, "go-kit", 1 / 40), update(10000, "floor", 2.5), update(10000, CURL, 1 / 4),
        memory("rest", "at rest", "go-kit", 1 / 10), memory("rest", "at rest", CURL, 1 / 10),
        memory("peak", "at a change", "go-kit", 1 / 5), memory("peak", "at a change", CURL, 1 / 5),
    ]
    for instances, line in sorted(r.unchanged.items()):
        out.append(("allocations, an answer of %s that changes nothing" % comma(instances),
                    Spread([line["allocations"]]), 0))
    return out


def verdict(measured, bound):
    if measured is None:
        return "not measured"
    is_met = measured.mid >= bound if bound > 0 else measured.mid <= -bound
    return "met" if is_met else "missed"


# ---- the table ----

def comma(n):
    return "{:,}".format(n)


def machine():
    model = ""
    for line in text_of("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return "%s, %d CPUs, %s %s" % (model or platform.machine(), os.cpu_count() or 0,
                                   platform.system(), platform.machine())


def compiler():
    try:
        out = subprocess.run([os.environ.get("CC") or "cc", "--version"], capture_output=True,
                             text=True, check=True).stdout
        return out.splitlines()[0] + ", -O2"
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def show_decoders(r, say):
    for body, lines in r.decoders.items():
        say("")
        say("%s, %s bytes" % (body, comma(r.sizes[body])))
        say("  %-26s %-8s %-24s %-21s %s" % ("", "chunks", "MB/s", "over simdjson", "over yyjson"))
        for (decoder, chunk), samples in lines.items():
            cells = []
            for reference in (r.simdjson, "yyjson"):
                over = r.decode_ratio(body, decoder, chunk, reference)
                cells.append(over.text() if over else "-")
            speed = Spread([s for s in samples if s]).text("%.0f")
            say("  %-26s %-8s %-24s %-21s %s" % (decoder, CHUNKS[chunk], speed, *cells))


def megabytes(samples):
    return Spread([n / 1e6 for n in samples])


def show_watches(r, say):
    for instances, watches in r.watches.items():
        say("")
        say("%s instances" % comma(instances))
        say("  %-18s %-26s %-22s %9s %12s" % (
            "", "CPU us for an update", "over the floor", "at rest", "at a change"))
        for name, line in watches.items():
            over = r.cpu_ratio(instances, name, "floor")
            cpu = Spread([us for us in line["cpu_us"] if us])
            say("  %-18s %-26s %-22s %6s MB %9s MB" % (
                name, cpu.text("%.0f"), over.text("%.1f") if over else "-",
                "%.1f" % megabytes(line["rest"]).mid, "%.1f" % megabytes(line["peak"]).mid))
        line = r.unchanged.get(instances)
        if line:
            say("  %s, an answer that changes nothing: %.0f us, %.0f allocations, %.0f events" % (
                OURS, line["cpu_us"], line["allocations"], line["events"]))


def shown_goal(measured, bound):
    """The goal and what was measured, as text."""
    goal = "0" if bound == 0 else "%s %.4g" % (">=" if bound > 0 else "<=", abs(bound))
    form = "%.0f" if bound == 0 else "%.3f" if abs(bound) < 0.1 else "%.2f"
    if measured is None:
        return goal, "-"
    return goal, form % measured.mid if measured.low == measured.high else measured.text(form)


def show_goals(found, say):
    say("")
    say("%-72s %-9s %-22s %s" % ("GOALS", "goal", "measured", ""))
    for what, measured, bound in found:
        goal, shown = shown_goal(measured, bound)
        say("%-72s %-9s %-22s %s" % (what, goal, shown, verdict(measured, bound)))


ABOUT_DECODERS = """
DECODERS: one thread's CPU time. All take the same out of each body, compared byte by byte before
anything is timed. sdconsul.h checks every byte, simdjson On-Demand not all of what it skips.
Memory is malloc's as it comes; the parser of simdjson is kept. Chunks: the whole body unless it
is said."""

ABOUT_UPDATES = """
UPDATES: user and system time of the whole process for each changed answer, from a server on
loopback that answers at once: no query waits, and the pauses that an instancer keeps between
reads are jumped over by its clock. libcurl + yyjson keeps its buffer for the body. Floor: the
same requests, the answer received and thrown away. Memory: resident, over what the idle process
had, some time after the last update and the most there ever was."""


def shown_versions(r):
    return ["%s %s" % (d, v) for d, v in r.versions.items()
            if d not in (NO_FAST, NO_SIMD)] + r.other_versions


def paragraph(out, text, indent=""):
    out.extend(textwrap.wrap(" ".join(text.split()), 98, subsequent_indent=indent))


def report(r):
    out = []
    say = out.append
    say("sdconsul.h beside others; all ratios within one run, median (least..greatest)")
    say("machine: " + machine())
    say("compiler: " + compiler())
    paragraph(out, "versions: " + "; ".join(shown_versions(r)), "    ")
    say("")
    paragraph(out, ABOUT_DECODERS)
    show_decoders(r, say)
    say("")
    paragraph(out, ABOUT_UPDATES)
    show_watches(r, say)
    say("")
    say("INSTRUCTIONS (callgrind)")
    for line in r.guard:
        say("  " + line)
    show_goals(goals(r), say)
    if r.notes:
        say("")
        out.extend(r.notes)
    return "\n".join(out) + "\n"


def record_goals(found):
    return [{"goal": what, "bound": abs(bound), "at": "least" if bound > 0 else "most",
             "measured": measured.record() if measured else None,
             "shown": shown_goal(measured, bound),
             "verdict": verdict(measured, bound)} for what, measured, bound in found]


def record(r):
    return {
        "machine": machine(), "compiler": compiler(), "date": time.strftime("%Y-%m-%d"),
        "versions": shown_versions(r),
        "decoders": {body: [{"decoder": d, "chunk": c, "mb_per_s": Spread(
            [s for s in samples if s]).record(), "samples": samples}
            for (d, c), samples in lines.items()] for body, lines in r.decoders.items()},
        "updates": {str(n): list(w.values()) for n, w in r.watches.items()},
        "unchanged": list(r.unchanged.values()),
        "instructions": r.guard,
        "goals": record_goals(goals(r)),
        "notes": r.notes,
    }


# ---- the chart ----

INK, MUTED, GRID = "#1f2328", "#6e7781", "#d8dee4"
ACCENT, ACCENT_SOFT, PLAIN = "#0a5ec2", "#8db9ea", "#b4bcc6"
WIDTH, LABEL_X, BAR_X, BAR_END = 860, 250, 262, 690
ROW, BAR = 24, 15


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Chart:
    def __init__(self):
        self.y, self.parts = 0, []

    def text(self, x, y, text, size=13, color=INK, anchor="start", weight="normal"):
        self.parts.append(
            '<text x="%.1f" y="%.1f" font-size="%d" fill="%s" text-anchor="%s" font-weight="%s">'
            "%s</text>" % (x, y, size, color, anchor, weight, escape(text)))

    def rect(self, x, y, width, height, color):
        self.parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" rx="2"/>'
                          % (x, y, max(width, 1.5), height, color))

    def line(self, x1, y1, x2, y2, color, width=1.0):
        self.parts.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" '
                          'stroke-width="%.1f"/>' % (x1, y1, x2, y2, color, width))

    def title(self, title, subtitle):
        self.y += 36
        self.text(24, self.y, title, 16, weight="600")
        self.y += 19
        self.text(24, self.y, subtitle, 12, MUTED)
        self.y += 14

    def bars(self, rows):
        """rows: label, Spread, shown value, colour. The longest bar fills the width."""
        most = max(spread.high for _, spread, _, _ in rows)
        scale = (BAR_END - BAR_X) / most
        top = self.y
        for label, spread, shown, color in rows:
            y = self.y + (ROW - BAR) / 2
            mid = y + BAR / 2
            self.text(LABEL_X, mid + 4.5, label, 13, anchor="end",
                      weight="600" if color == ACCENT else "normal")
            self.rect(BAR_X, y, spread.mid * scale, BAR, color)
            if spread.high > spread.low:
                low, high = BAR_X + spread.low * scale, BAR_X + spread.high * scale
                self.line(low, mid, high, mid, INK)
                self.line(low, mid - 3, low, mid + 3, INK)
                self.line(high, mid - 3, high, mid + 3, INK)
            end = BAR_X + max(spread.mid, spread.high) * scale
            self.text(end + 8, mid + 4.5, shown, 12, MUTED)
            self.y += ROW
        self.line(BAR_X, top, BAR_X, self.y, MUTED)

    def svg(self):
        height = self.y + 24
        return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
                'viewBox="0 0 %d %d" '
                'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
                '<rect width="100%%" height="100%%" fill="#ffffff"/>\n%s\n</svg>\n'
                % (WIDTH, height, WIDTH, height, "\n".join(self.parts)))


def color_of(name):
    return ACCENT if name == OURS else ACCENT_SOFT if name.startswith(OURS) else PLAIN


def chart_decoders(chart, r, body):
    rows = []
    for (decoder, chunk), samples in r.decoders.get(body, {}).items():
        if chunk not in (0, 65536) or (decoder.startswith(OURS) and chunk == 0):
            continue
        spread = Spread([s for s in samples if s])
        label = decoder if decoder.startswith(OURS) else "%s (%s)" % (decoder, r.versions[decoder])
        rows.append((label, spread, "%s MB/s" % comma(round(spread.mid)), color_of(decoder)))
    if rows:
        rows.sort(key=lambda row: -row[1].mid)
        chart.title("Decoding a health answer of 1,000 instances",
                    "MB/s, more is better; sdconsul.h in chunks of 64 KiB, the others with the "
                    "whole body in memory")
        chart.bars(rows)


def chart_chunks(chart, r, body):
    rows = []
    for (decoder, chunk), samples in r.decoders.get(body, {}).items():
        if decoder.startswith(OURS):
            spread = Spread([s for s in samples if s])
            how = decoder[len(OURS):].strip(", ") or "as it is"
            label = "%s; %s" % (how, "chunks of " + CHUNKS[chunk] if chunk else "whole")
            rows.append((label, spread, "%s MB/s" % comma(round(spread.mid)), color_of(decoder)))
    if rows:
        chart.title("The same answer in pieces, with and without the fast path and SIMD",
                    "MB/s, more is better; sdconsul.h alone")
        chart.bars(rows)


def shown_us(us):
    return "%.0f \u00b5s" % us if us < 1000 else "%.1f ms" % (us / 1000)


def chart_updates(chart, r, instances):
    rows = []
    for name, line in r.watches.get(instances, {}).items():
        spread = Spread([us for us in line["cpu_us"] if us])
        over = r.cpu_ratio(instances, name, "floor")
        shown = shown_us(spread.mid)
        if over and name != "floor":
            shown += " = %.1f \u00d7 floor" % over.mid
        label = "floor: receive and discard" if name == "floor" else name
        rows.append((label, spread, shown, color_of(name)))
    if rows:
        chart.title("CPU for one update of %s instances" % comma(instances),
                    "user and system time of the whole process, less is better")
        chart.bars(rows)


def chart_memory(chart, r, instances):
    rows = []
    for name, line in r.watches.get(instances, {}).items():
        if name == "floor":
            continue
        for key, what in (("rest", "at rest"), ("peak", "at a change")):
            spread = megabytes(line[key])
            rows.append(("%s, %s" % (name, what), spread, "%.1f MB" % spread.mid, color_of(name)))
    if rows:
        chart.title("Memory with %s instances" % comma(instances),
                    "resident, over the idle process, less is better")
        chart.bars(rows)


def chart(r):
    c = Chart()
    chart_decoders(c, r, "consul-1000")
    chart_chunks(c, r, "consul-1000")
    chart_updates(c, r, 1000)
    chart_updates(c, r, 10000)
    chart_memory(c, r, 10000)
    c.y += 26
    c.text(24, c.y, "make bench on %s; bars are medians of the rounds of one run, whiskers the "
           "least and the greatest" % re.sub(r", Linux.*", "", machine()), 11, MUTED)
    return c.svg()


# ---- the README ----

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- make bench-readme: begin -->", "<!-- end -->"


def reasons(part):
    """Of misses.txt: the beginning of a goal's name, and why it is missed; of the picks or of
    all the rest."""
    found = {}
    for line in text_of(os.path.join(HERE, "misses.txt")):
        goal, colon, reason = line.partition(" :: ")
        if colon and not line.startswith("#") and goal.startswith("pick") == (part == "pick"):
            found[goal] = reason
    return found


def reason_of(goal, found):
    fitting = [key for key in found if goal["goal"].startswith(key)]
    return found[max(fitting, key=len)] if fitting else None


def wrapped(text, indent=""):
    return textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)


def readme_goals(results, found):
    out = ["| | goal | measured | |", "|---|---|---|---|"]
    missed = [g for g in results["goals"] if g["verdict"] == "missed"]
    for g in results["goals"]:
        out.append("| %s | %s | %s | %s |" % (g["goal"], *g["shown"], g["verdict"]))
    why = []
    for g in missed:
        reason = reason_of(g, found)
        if reason is None:
            print("missed, and misses.txt does not say why: " + g["goal"])
        else:
            why += wrapped("- %s: %s" % (g["goal"], reason), "  ")
    out += ["", "Why they are missed:", ""] + why if why else []
    for key in found:
        if not any(g["goal"].startswith(key) for g in missed):
            print("misses.txt has a reason for what is not missed: " + key)
    return out


def readme_section(results, chart_path):
    out = ["![decoding, updates and memory beside other libraries](%s)" % chart_path, "",
           "    make bench && make bench-readme", ""]
    out += wrapped("On %s, with %s, %s: %s." % (results["machine"], results["compiler"],
                                                results["date"], "; ".join(results["versions"])))
    out += wrapped("Each figure is a ratio within one run, the median (least..greatest) of its "
                   "rounds.")
    out += [""] + readme_goals(results, reasons("all"))
    return "\n".join(out)


def replace_section(readme_path, begin, section):
    with open(readme_path) as f:
        text = f.read()
    if text.count(begin) != 1 or END not in text.split(begin)[1]:
        sys.exit("%s has no place between '%s' and '%s'" % (readme_path, begin, END))
    before, behind = text.split(begin)
    with open(readme_path, "w") as f:
        f.write(before + begin + "\n" + section + "\n" + END + behind.split(END, 1)[1])


def write_readme(results_path, readme_path):
    if not os.path.exists(results_path):
        print("not written: decoding and updates, which were not measured")
        return
    with open(results_path) as f:
        results = json.load(f)
    shutil.copy(os.path.join(os.path.dirname(results_path), "chart.svg"), HERE)
    chart_path = os.path.relpath(os.path.join(HERE, "chart.svg"),
                                 os.path.dirname(os.path.abspath(readme_path)))
    replace_section(readme_path, BEGIN, readme_section(results, chart_path))
    print("written: the figures in %s, and %s" % (readme_path, chart_path))


def main():
    if sys.argv[1] == "--readme":
        write_readme(sys.argv[2], sys.argv[3])
        return
    where = sys.argv[1]
    r = Results(where)
    text = report(r)
    for name, content in (("report.txt", text), ("chart.svg", chart(r)),
                          ("results.json", json.dumps(record(r), indent=1) + "\n")):
        with open(os.path.join(where, name), "w") as f:
            f.write(content)
    print(text, end="")
    print("\nwritten: report.txt, results.json and chart.svg in " + os.path.relpath(where))


if __name__ == "__main__":
    main()
