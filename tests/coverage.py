#!/usr/bin/env python3
"""Branch and line coverage of what reads data from outside. Needs clang and llvm-cov.

    tests/coverage.py [--write] [--list] [SECTION...]

A section is a set of >>tags of llm.h with the C tests that are about it (SECTIONS below). Builds those
tests with clang's source-based coverage, runs them and prints, for each section, how many of its
branches were taken and its lines were run, then the branches that never were, with their source lines.
Below LIMIT percent of the branches is a failure. --write brings the tables in docs/coverage.md up to
date and keeps the reasons that were written there by hand; --list prints every branch never taken, as
`line:column side source`. A branch is one outcome of one condition, so `a && b` has four.
"""
import fnmatch
import glob
import os
import re
import shutil
import sys

from toolchain import BUILD, ROOT, Report, in_parallel, run

HEADER = os.path.join(ROOT, "llm.h")
DOCUMENT = os.path.join(ROOT, "docs", "coverage.md")
FOLDER = os.path.join(BUILD, "coverage")
MODELS = os.path.join(BUILD, "models")
LIMIT = 95.0
# name: (tags, C tests, whether LIMIT holds)
SECTIONS = {
    "file": (["file", "formats", "model", "adapter"],
             ["test_model*", "test_parts", "test_file*", "test_read*", "test_adapter"], True),
    "tokenizer": (["tokenizer-section", "tokenizer-unicode", "unicode-table", "tokenizer-pre", "tokenizer-merge",
                   "tokenizer-calls"], ["test_tokenizer*"], True),
    "template": (["template"], ["test_template*"], True),
    "chat": (["chat"], ["test_chat*"], False),
    "stream": (["stream"], ["test_stream*"], False),
}
TABLE = ("<!-- table: tests/coverage.py --write -->", "<!-- end of table -->")
LEFT = ("<!-- left: tests/coverage.py --write -->", "<!-- end of left -->")


def tool(name):
    """A tool of clang's version, or of whatever version there is."""
    status, said = run(["clang", "--version"]) if shutil.which("clang") else (1, "")
    version = re.search(r"version (\d+)", said)
    named = [f"{name}-{version.group(1)}"] if status == 0 and version else []
    return next((n for n in named + [name] if shutil.which(n)), None)


def tests_of(patterns):
    paths = sorted(glob.glob(os.path.join(ROOT, "tests", "test_*.c")) +
                   glob.glob(os.path.join(ROOT, "tests", "convert", "test_*.c")))
    return [p for p in paths if any(fnmatch.fnmatch(os.path.basename(p)[:-2], w) for w in patterns)]


def lines_of(tags):
    """Numbers of the lines of llm.h's implementation under these tags."""
    with open(HEADER, encoding="utf-8") as f:
        source = f.read().splitlines()
    tag, inside, found, begun = None, set(), set(), False
    for number, line in enumerate(source, 1):
        heading = re.match(r"/\* (?:---- )?>>([\w-]+)", line)
        if heading:
            begun = begun or heading.group(1) == "base"
            tag = heading.group(1) if begun else None
        if tag in tags:
            inside.add(number)
            found.add(tag)
    missing = [t for t in tags if t not in found]
    if missing:
        sys.exit(f"coverage.py: llm.h has no section >>{missing[0]}")
    return inside, source


def build_and_run(path):
    """Runs an instrumented test; returns (program, profile, what went wrong)."""
    name = os.path.basename(path)[:-2]
    program, profile = os.path.join(FOLDER, name), os.path.join(FOLDER, name + ".profraw")
    status, said = run(["clang", "-std=c11", "-O1", "-fprofile-instr-generate", "-fcoverage-mapping", path,
                        "-o", program, "-lm", "-lpthread"])
    if status:
        return program, profile, f"{name} does not compile: {said[-1500:]}"
    with open(path, encoding="utf-8") as f:
        arguments = [MODELS] if "fixture_arguments(" in f.read() else []
    status, said = run([program, *arguments], timeout=280, env={**os.environ, "LLVM_PROFILE_FILE": profile})
    return program, profile, "" if status == 0 else f"{name} fails: {said[-1500:]}"


BRANCH = re.compile(r"Branch \((\d+):(\d+)\): \[True: ([^,]+), False: ([^\]]+)\]")
LINE = re.compile(r"^ *(\d+)\| *([0-9.]+[kMGTPE]?)?\|")


def measure(programs, profiles, inside):
    """({(line, text of the place): [true, false]}, {line: run?}) of the lines inside."""
    merged = os.path.join(FOLDER, "merged.profdata")
    status, said = run([tool("llvm-profdata"), "merge", "-sparse", *profiles, "-o", merged])
    if status:
        sys.exit(f"coverage.py: {said}")
    objects = [part for p in programs[1:] for part in ("-object", p)]
    status, said = run([tool("llvm-cov"), "show", programs[0], *objects, f"-instr-profile={merged}",
                        "-show-branches=count", "-show-expansions", "-show-instantiations=false", HEADER])
    if status:
        sys.exit(f"coverage.py: {said[-2000:]}")
    branches, lines, at = {}, {}, 0
    for text in said.splitlines():
        line = LINE.match(text)
        if line:
            at = int(line.group(1))
            if at in inside and line.group(2) is not None:
                lines[at] = lines.get(at, False) or line.group(2) != "0"
            continue
        branch = BRANCH.search(text)
        if not branch or at not in inside:
            continue
        key = (at, int(branch.group(1)), int(branch.group(2)))
        taken = branches.setdefault(key, [False, False])
        taken[0] |= branch.group(3) != "0"
        taken[1] |= branch.group(4) != "0"
    return branches, lines


def condition(source, key):
    """The source of a condition: from its column to where its parentheses or `&&` end."""
    text, depth, out = source[key[1] - 1][key[2] - 1:], 0, ""
    text += " " + source[key[1]].strip() if key[1] < len(source) else ""
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth < 0 or (depth == 0 and (c in ";?" or text[i:i + 2] in ("&&", "||"))):
            break
        if depth == 0 and c == ":" and text.startswith("case"):
            break
        out += c
    return " ".join(out.split())[:90]


def function_of(source, number):
    """The name of the function that a line is in: the last definition that begins a line above it."""
    while number > 0:
        begun = re.match(r"(?:static|LLM_API|LLM__\w+|extern)\b[^=;]*?\b(\w+)\(", source[number - 1])
        if begun and not source[number - 1].rstrip().endswith(";"):
            return begun.group(1)
        number -= 1
    return "?"


class Section:
    def __init__(self, name):
        tags, patterns, self.limited = SECTIONS[name]
        self.name, self.tests = name, tests_of(patterns)
        inside, self.source = lines_of(tags)
        self.problems, self.branches, self.lines = [], {}, {}
        if not self.tests:
            self.problems = [f"no C test matches {' '.join(patterns)}"]
            return
        done = in_parallel(build_and_run, self.tests)
        self.problems = [said for _, _, said in done if said]
        if not self.problems:
            self.branches, self.lines = measure([d[0] for d in done], [d[1] for d in done], inside)

    def branch_counts(self):
        return sum(t + f for t, f in self.branches.values()), 2 * len(self.branches)

    def line_counts(self):
        return sum(self.lines.values()), len(self.lines)

    def left(self):
        """[(key, side)] of the branches never taken, in the order of the source."""
        return [(key, side) for key, taken in sorted(self.branches.items())
                for side, t in zip(("true", "false"), taken) if not t]

    def row(self):
        (b, nb), (n, nn) = self.branch_counts(), self.line_counts()
        return f"| {self.name} | {b} of {nb} | {percent(b, nb):.2f} % | {n} of {nn} | {percent(n, nn):.2f} % |"


def percent(part, whole):
    return 100.0 * part / whole if whole else 0.0


def between(text, marks):
    """(before, the lines between the marks, after)"""
    begin, end = text.index(marks[0]) + len(marks[0]), text.index(marks[1])
    return text[:begin], text[begin:end].strip("\n").splitlines(), text[end:]


def write(sections):
    """Rows of these sections are renewed, those of others stay; reasons stay with their branch."""
    with open(DOCUMENT, encoding="utf-8") as f:
        text = f.read()
    names = [s.name for s in sections]
    before, rows, after = between(text, TABLE)
    rows = [r for r in rows[2:] if r.split("|")[1].strip() not in names] + [s.row() for s in sections]
    rows.sort(key=lambda r: list(SECTIONS).index(r.split("|")[1].strip()))
    head = ["| section | branches taken | | lines run | |", "|---|---|---|---|---|"]
    text = before + "\n" + "\n".join(head + rows) + "\n" + after
    before, rows, after = between(text, LEFT)
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", r)[1:-1]] for r in rows[2:]]
    reasons = {tuple(r[:4]): r[4] for r in rows}
    rows = [r for r in rows if r[0] not in names]
    for s in sections:
        if not s.limited:
            continue
        for key, side in s.left():
            where = [s.name, function_of(s.source, key[0]), "`" + condition(s.source, key).replace("|", "\\|") + "`", side]
            rows.append(where + [reasons.get(tuple(where), "")])
    rows.sort(key=lambda r: list(SECTIONS).index(r[0]))
    head = ["| section | function | condition | never | why |", "|---|---|---|---|---|"]
    text = before + "\n" + "\n".join(head + ["| " + " | ".join(r) + " |" for r in rows]) + "\n" + after
    with open(DOCUMENT, "w", encoding="utf-8") as f:
        f.write(text)


def main():
    options = [a for a in sys.argv[1:] if a.startswith("-")]
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or [n for n in SECTIONS if SECTIONS[n][2]]
    if "-h" in options or "--help" in options or any(n not in SECTIONS for n in names):
        print(__doc__ + "\nsections: " + " ".join(SECTIONS))
        return
    report = Report("coverage")
    absent = [t for t in ("llvm-profdata", "llvm-cov") if not tool(t)] + ([] if shutil.which("clang") else ["clang"])
    if absent:
        report.missing(f"{' and '.join(absent)}: not installed")
        report.end()
    os.makedirs(FOLDER, exist_ok=True)
    sections = []
    for name in names:
        s = Section(name)
        for problem in s.problems:
            report.check(False, f"{name}: {problem}")
        if s.problems:
            continue
        sections.append(s)
        taken, all_ = s.branch_counts()
        print(s.row())
        left = s.left()
        for key, side in left if "--list" in options else left[:60]:
            print(f"  {key[1]}:{key[2]} never {side}: {function_of(s.source, key[0])}: {condition(s.source, key)}")
        if len(left) > 60 and "--list" not in options:
            print(f"  ... and {len(left) - 60} more (--list)")
        if s.limited:
            report.check(percent(taken, all_) >= LIMIT,
                         f"{name}: {percent(taken, all_):.2f} % of the branches were taken, expected {LIMIT} % or more")
    if "--write" in options:
        write(sections)
    report.end()


if __name__ == "__main__":
    main()
