"""From measured rows to the tables of docs/performance.md and the README."""
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile

OURS, THEIRS = "llm.h q4", ["llama.cpp Q4_0", "llama.cpp Q4_K_M"]
BEGIN, END = "<!-- measured: make compare, {} -->", "<!-- end of measured -->"  # an instruction set, or "size"
# Instruction sets, and switches for what a program may do without.
ISA_SWITCHES = {"LLM_NO_AVX2", "LLM_NO_AVX512", "LLM_NO_AMX", "LLM_NO_SIMD128", "LLM_NO_VNNI", "LLM_NO_AVXVNNI"}


# ---- the machine and the library -----------------------------------------------------------------

def output(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError:
        return ""


def first_line(*command):
    return (output(*command).splitlines() or [f"no {command[0]}"])[0].strip()


def machine(isa):
    """[(what, words)]"""
    cpu = dict(re.findall(r"^([^:\n]+):\s*(.*)$", output("lscpu"), re.M))
    wanted = "avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni amx_int8 asimddp i8mm".split()
    flags = cpu.get("Flags", "").split()
    memory = re.search(r"MemTotal:\s*(\d+)", output("cat", "/proc/meminfo"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return [["processor", cpu.get("Model name", platform.processor() or platform.machine())],
            ["processors", f"{os.cpu_count()}, {cpu.get('Thread(s) per core', '?')} to a core; "
                           f"caches L2 {cpu.get('L2 cache', '?')}, L3 {cpu.get('L3 cache', '?')}"],
            ["instruction sets", " ".join(f for f in wanted if f in flags) + (f"; ours held to {isa}" if isa else "")],
            ["memory", f"{int(memory.group(1)) / 1048576:.0f} GB" if memory else "?"],
            ["system", f"{platform.system()} {platform.release()}, load {load:.1f} at the start"],
            ["compilers", f"llm.h: {first_line('cc', '--version')}, -O2; llama.cpp: "
                          f"{first_line('clang', '--version')}, Release"],
            ["date", datetime.date.today().isoformat()]]


def library_sizes(root):
    """[(what, compiler and level, bytes of code, bytes of constants)]; nothing where there is no `size`."""
    with open(os.path.join(root, "llm.h"), encoding="utf-8") as f:
        switches = sorted(set(re.findall(r"^ +(LLM_NO_\w+)  ", f.read(), re.M)))
    one = [s for s in switches if s in ISA_SWITCHES and s != "LLM_NO_AVX2"]
    least = [s for s in switches if s != "LLM_NO_AVX2"]
    found = []
    if not shutil.which("size"):
        return found
    with tempfile.TemporaryDirectory() as folder:
        source, made = os.path.join(folder, "library.c"), os.path.join(folder, "library.o")
        with open(source, "w", encoding="ascii") as f:
            f.write('#define LLM_IMPLEMENTATION\n#include "llm.h"\n')
        for what, given in (("everything", []), ("AVX2 alone", one), ("AVX2 alone, all other switches", least)):
            for level in ("-O2", "-Os"):
                subprocess.run(["cc", level, *("-D" + s for s in given), "-I", root, "-c", source, "-o", made],
                               check=True)
                sections = [line.split() for line in output("size", "-A", made).splitlines()]
                code = sum(int(s[1]) for s in sections if len(s) == 3 and s[0].startswith(".text"))
                constants = sum(int(s[1]) for s in sections if len(s) == 3 and s[0].startswith(".rodata"))
                found.append([what, level, code, constants])
    return found


# ---- values --------------------------------------------------------------------------------------

def value(row):
    """Tokens a second, or milliseconds; for a row of either kind more or less is better."""
    if row["test"] == "first":
        return 1e3 * row["seconds"]
    if row["test"] == "sample":
        return 1e3 * row["seconds"] / row["tokens"]
    return row["tokens_per_second"]


class Measured:
    """The rows of one model."""

    def __init__(self, rows):
        self.rows = rows
        self.who = [w for w in THEIRS if any(r["who"] == w for r in rows)]

    def find(self, who, test, threads, depth=0, batch=0):
        wanted = {"who": who, "test": test, "threads": threads, "depth": depth, "batch": batch}
        return [r for r in self.rows if all(r.get(k, 0) == v for k, v in wanted.items())]

    def median(self, *what, **more):
        found = [value(r) for r in self.find(*what, **more)]
        return statistics.median(found) if found else None

    def share(self, field, *what, **more):
        found = [r[field] for r in self.find(*what, **more) if r.get(field) is not None]
        return f"{100 * statistics.median(found):.0f} %" if found else ""

    def tests(self):
        """(test, threads, depth, batch, tokens of a session) in the order of the tables."""
        order = ["prefill", "decode", "batch", "first", "sample"]
        keys = {(r["test"], r.get("depth", 0), r.get("batch", 0), r["threads"],
                 r["tokens"] // max(r.get("batch", 0), 1)) for r in self.rows}
        for test, depth, batch, threads, tokens in sorted(keys, key=lambda k: (order.index(k[0]), *k[1:])):
            if test != "sample" or threads == min(k[3] for k in keys):
                yield test, threads, depth, batch, tokens


def label(test, depth, batch, tokens):
    return {"prefill": f"prefill {tokens}", "first": "first token of a 10-token prompt, ms", "sample": "sampling, ms",
            "decode": f"decode {tokens}" + (f" after {depth}" if depth else ""),
            "batch": f"{plural(batch, 'session')} in a batch, {tokens} each"}[test]


def number(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def cell(found):
    values = [value(r) for r in found]
    if not values:
        return "-"
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} - {number(max(values))})"


def ratio(measured, who, test, threads, depth, batch):
    """How much faster ours is: the median over the rounds."""
    theirs = {r["round"]: value(r) for r in measured.find(who, test, threads, depth, batch)}
    ours = {r["round"]: value(r) for r in measured.find(OURS, test, threads, depth, batch)}
    both = [(theirs[i], ours[i]) for i in theirs if i in ours]
    if not both:
        return "-"
    return f"{statistics.median(a / b if test == 'first' else b / a for a, b in both):.2f}"


# ---- tables --------------------------------------------------------------------------------------

def table(measured):
    who = measured.who
    lines = ["| | threads | " + "".join(f"{w} | " for w in who) + f"{OURS} | " +
             "".join(f"ratio to {w.split()[-1]} | " for w in who) + "of stream | of int8 peak |",
             "|---|" + "---:|" * (2 * len(who) + 4)]
    for test, threads, depth, batch, tokens in measured.tests():
        what = (test, threads, depth, batch)
        cells = [label(test, depth, batch, tokens), str(threads)]
        cells += [cell(measured.find(w, *what)) for w in [*who, OURS]]
        cells += [ratio(measured, w, *what) for w in who]
        cells += [measured.share("bandwidth_share", OURS, *what), measured.share("peak_share", OURS, *what)]
        lines.append("| " + " | ".join(cells) + " |")
    sizes = {w: next(r["bytes"] for r in measured.rows if r["who"] == w) for w in [*who, OURS]}
    lines.append("| file, MB | | " + "".join(f"{sizes[w] / 1e6:.1f} | " for w in [*who, OURS]) +
                 "".join(f"{sizes[OURS] / sizes[w]:.2f} | " for w in who) + " | |")
    return lines


def derived(measured):
    """What follows from the medians: threads, sessions, depth, sampling."""
    lines, counts = [], sorted({r["threads"] for r in measured.rows})
    batches = sorted({r["batch"] for r in measured.rows if r.get("batch")})
    least, most = counts[0], counts[-1]
    for who in [*measured.who, OURS]:
        for test in ("prefill", "decode") if most > least else ():
            a, b = (measured.median(who, test, threads) for threads in (most, least))
            if a and b:
                lines.append(f"- {who}, {test}, {most} threads over {least}: {a / b:.2f}")
        for threads in counts if len(batches) == 2 else ():
            a, b = (measured.median(who, "batch", threads, batch=n) for n in reversed(batches))
            if a and b:
                lines.append(f"- {who}, {batches[1]} sessions in a batch over one, {plural(threads, 'thread')}: "
                             f"{a / b:.2f}")
    for threads in counts:
        for depth in sorted({r["depth"] for r in measured.rows if r.get("depth")}):
            lines += deep(measured, threads, depth)
        sample, decode = measured.median(OURS, "sample", threads), measured.median(OURS, "decode", threads)
        if sample and decode:
            lines.append(f"- sampling (top-k 40, top-p 0.95, three penalties) takes {0.1 * sample * decode:.1f} % of a "
                         f"decoded token, {plural(threads, 'thread')}")
    return lines


def deep(measured, threads, depth):
    """What a token costs more after a context, over what reading the cache's added bytes would."""
    near, far = measured.find(OURS, "decode", threads), measured.find(OURS, "decode", threads, depth)
    added = [1e3 * (b["seconds"] / b["tokens"] - a["seconds"] / a["tokens"]) for a, b in zip(near, far)]
    bound = [1e3 * (b["cache_bytes"] - a["cache_bytes"]) / b["stream"] for a, b in zip(near, far) if b["stream"]]
    if not bound:
        return []
    added, bound = statistics.median(added), statistics.median(bound)
    return [f"- a token after {depth} tokens of context takes {added:.3f} ms more than one near the beginning, "
            f"{plural(threads, 'thread')}: {added / bound:.2f} times what the cache's added bytes take at the stream's "
            "speed"]


def plural(count, what):
    return f"{count} {what}{'s' * (count != 1)}"


def by_model(rows):
    names = list(dict.fromkeys(r["model"] for r in rows))
    return [(name, Measured([r for r in rows if r["model"] == name])) for name in names]


def document(head, rows):
    rounds = 1 + max(r["round"] for r in rows)
    lines = [f"| {what} | {words} |" for what, words in head["machine"]]
    heading = f"### {'Held to' if held(head) else 'With'} {isa_of(rows)}"
    lines = [heading, "", "| | |", "|---|---|", *lines, f"| beside | {head['llama']} |", "",
             f"Medians of {plural(rounds, 'round')} (least - most), in tokens a second where nothing else is said; the programs in",
             "turn. A ratio is the median of those of the rounds; over 1, ours is faster. The first token includes the",
             "start of the process; the page cache is warm."]
    for name, measured in by_model(rows):
        lines += ["", f"#### {name}", "", *table(measured), "", *derived(measured)]
    return "\n".join(lines)


def sizes(head):
    lines = ["| | | code | constants |", "|---|---|---:|---:|"]
    lines += [f"| {what} | {level} | {code} | {constants} |" for what, level, code, constants in head["sizes"]]
    return "\n".join(lines)


def isa_of(rows):
    return next(r["isa"] for r in rows if r.get("isa"))


def held(head):
    return "held to" in dict(head["machine"])["instruction sets"]


def readme_table(head, rows):
    """llama.cpp's Q4_0 against our q4: prefill, decode and size of the models that it has been measured with."""
    known = dict(head["machine"])
    lines = [f"{known['processor']}, {known['instruction sets']}, {known['date']}; tokens a second, medians of "
             f"{1 + max(r['round'] for r in rows)} rounds.", "",
             "| | threads | llama.cpp Q4_0 | llm.h q4 | ratio |", "|---|---:|---:|---:|---:|"]
    for name, measured in by_model(rows):
        if THEIRS[0] not in measured.who:
            continue
        for test, threads, depth, batch, tokens in measured.tests():
            if test in ("prefill", "decode"):
                what = (test, threads, depth, batch)
                lines.append(f"| {name}, {label(test, depth, batch, tokens)} | {threads} | "
                             f"{number(measured.median(THEIRS[0], *what))} | {number(measured.median(OURS, *what))} | "
                             f"{ratio(measured, THEIRS[0], *what)} |")
        a, b = (next(r["bytes"] for r in measured.rows if r["who"] == w) for w in (THEIRS[0], OURS))
        lines.append(f"| {name}, MB | | {a / 1e6:.1f} | {b / 1e6:.1f} | {b / a:.2f} |")
    return "\n".join(lines)


def replace(path, what, text):
    """Puts `text` between the marks of `what` in a document, or behind the last of the marks that are there."""
    begin = BEGIN.format(what)
    with open(path, encoding="utf-8") as f:
        before, found, rest = f.read().partition(begin)
    if not found:
        before, found, rest = before.rpartition(END)
        if not found:
            raise SystemExit(f"compare: {path} has neither \"{begin}\" nor another's \"{END}\"")
        before, rest = f"{before}{END}\n\n", END + rest
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"compare: {path} has no \"{END}\" behind \"{begin}\"")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"{before}{begin}\n{text}\n{END}{after}")
