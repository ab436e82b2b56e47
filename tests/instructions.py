#!/usr/bin/env python3
"""Instructions that a SmolLM2-shaped model takes with AVX2, counted by callgrind: a decode step after 64 tokens of
context, and a prefill of 64 tokens, on one thread. A number that no other load on the machine changes, so that a
kernel that became slower is seen anywhere.

    tests/instructions.py             holds the counts against tests/instructions.json, to 2 %
    tests/instructions.py --update    writes the counts into that file

The model is made here (llm-convert --random, random weights in q4). Counts belong to a compiler: with another
version than the recorded one there is nothing to compare, and the test says so. A count that fell by more than
2 % fails too: record it, so that it stays. Needs valgrind, gcc and AVX2."""
import json
import os
import re
import shutil
import sys

from toolchain import BUILD, ROOT, Report, run

COUNTS = os.path.join(ROOT, "tests", "instructions.json")
FLAGS = ["-std=c11", "-O2", "-g"]
SHAPE, TYPE, TOLERANCE = "smollm2-135m", "q4", 0.02
TESTS = ["decode", "prefill"]


def compiler_version():
    return run(["gcc", "--version"])[1].splitlines()[0].strip()


def prepare(report):
    """(program, model), or None."""
    converter, program = os.path.join(BUILD, "llm-convert"), os.path.join(BUILD, "instructions")
    model = os.path.join(BUILD, f"random-{SHAPE}-{TYPE}.llm")
    os.makedirs(BUILD, exist_ok=True)
    for line in (["gcc", "-O2", "tools/convert/convert.c", "-o", converter + "-random", "-lm", "-lpthread"],
                 [converter + "-random", "--random", SHAPE, model, "--type", TYPE, "--quiet"],
                 ["gcc", *FLAGS, "tests/instructions.c", "-o", program, "-lm", "-lpthread"]):
        status, output = run(line)
        if not report.check(status == 0, f"{' '.join(line)}: status {status}\n{output[-2000:]}"):
            return None
    return program, model


def count(report, program, model, test):
    status, output = run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                          "--toggle-collect=measured", program, model, test], timeout=1200)
    found = re.search(r"Collected : (\d+)", output)
    if not report.check(status == 0 and found and int(found.group(1)) > 1000000,
                        f"{test}: status {status}, no count\n{output[-2000:]}"):
        return None
    return int(found.group(1))


def here(report):
    """All that it needs; the machine is not to blame for what it has not."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        avx2 = " avx2 " in f.read()
    return all(good or report.missing(what) for good, what in
               ((shutil.which("gcc"), "gcc is not installed"), (shutil.which("valgrind"), "valgrind is not installed"),
                (avx2, "this machine has no AVX2")))


def compare(report, recorded, counts):
    for test in TESTS:
        change = counts[test] / recorded[test] - 1
        print(f"{test}: {counts[test]} instructions, recorded {recorded[test]} ({100 * change:+.2f} %)")
        report.check(abs(change) <= TOLERANCE, f"{test} takes {counts[test]} instructions, {100 * change:+.2f} % "
                     "against the recorded ones; if that is meant: tests/instructions.py --update")


def main():
    if "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__)
        return
    report, update = Report("instructions"), "--update" in sys.argv
    if not here(report):
        report.end()
    recorded = {}
    if os.path.exists(COUNTS):
        with open(COUNTS, encoding="utf-8") as f:
            recorded = json.load(f)
    version = compiler_version()
    if not update and recorded.get("compiler") != version:
        report.skipped += 1
        print(f"SKIP instructions: the counts are of \"{recorded.get('compiler')}\", this is \"{version}\"")
        report.end()
    made = prepare(report)
    counts = {test: count(report, *made, test) for test in TESTS} if made else {}
    if made and all(counts.values()):
        if update:
            recorded = {"compiler": version, "flags": " ".join(FLAGS), "model": f"random {SHAPE} {TYPE}", **counts}
            with open(COUNTS, "w", encoding="utf-8") as f:
                f.write(json.dumps(recorded, indent=2) + "\n")
        compare(report, recorded, counts)
    report.end()


if __name__ == "__main__":
    main()
