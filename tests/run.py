#!/usr/bin/env python3
"""Runs the tests: `make test`. Python's standard library only, no network, no model.

    tests/run.py [--require-real] [NAME...]

Builds the converter, converts the small models of tests/fixtures, then compiles and runs every C test
and every script below, two at a time, and prints a line for each. Checks that need a real model,
another toolchain or a Python package are skipped, with a line that says so; with --require-real (or
LLM_TESTS_REQUIRE=1) everything must be there, and the real models are checked too. NAME runs only the
tests whose names hold it. The last line counts all checks; exit status 1 if any failed.
"""
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time

from toolchain import BUILD, ROOT, in_parallel, run

PYTHON = sys.executable
MODELS = os.path.join(BUILD, "models")
TYPES = {t: ["--type", t, "--fast"] for t in "f32 bf16 q8 q6 q5 q4 q3 q2 auto".split()}
TYPES["mixed"] = ["--bits", "5", "--calibrate", "tests/data/README.md"]
WARNINGS = ["-Wall", "-Wextra"]
LIBRARIES = ["-lm", "-lpthread"]

# (name, command, Python packages that it needs, seconds it may take). A script ends with a line
# "name: N passed, N failed, N skipped", or, where it prints none, its exit status is one check.
SCRIPTS = [
    ("flags", [PYTHON, "tests/flags.py"], [], 1200),
    ("messages", [PYTHON, "tests/messages.py"], [], 60),
    ("size", [PYTHON, "tests/size.py"], [], 1200),
    ("bits of compilers", [PYTHON, "tests/bits.py"], [], 1200),
    ("bits of the sampler", ["env", "CFLAGS_EXTRA=-DLLM_NO_TEMPLATE", "sh", "tests/bits_sampler.sh"], [], 400),
    ("soak", [PYTHON, "tests/soak.py", "100000", "1"], [], 200),
    ("stack", [PYTHON, "tests/stack.py"], [], 300),
    ("fuzz corpus", [PYTHON, "tests/fuzz/run.py", "--replay"], [], 400),
    ("evaluate", [PYTHON, "tests/evaluate.py"], [], 200),
    ("faults of programs", [PYTHON, "tests/faults.py"], [], 400),
    ("sources", [PYTHON, "tests/convert/sources.py"], ["numpy", "gguf", "safetensors"], 300),
    ("dequantisation", [PYTHON, "tests/convert/compare_dequant.py"], ["numpy", "gguf"], 200),
] + [
    (f"reference of {name}",
     [PYTHON, "tests/reference/forward.py", f"tests/fixtures/models/{name}.gguf", f"tests/fixtures/models/{name}.ids",
      "--compare", f"tests/fixtures/models/{name}.logits", "--limit", "1e-5"], ["numpy", "gguf"], 100)
    for name in ("llama-tied", "llama-untied", "llama-odd", "qwen3", "gemma", "gemma-pattern", "bitnet")
]
# Only with --require-real, as SCRIPTS: what needs other tools, a real model or many minutes.
LONG_SCRIPTS = [
    ("memory checkers", [PYTHON, "tests/memory_checkers.py"], [], 1500),
    ("fuzz", [PYTHON, "tests/fuzz/run.py", "--seconds", "400"], [], 2400),
    ("soak of millions of tokens", [PYTHON, "tests/soak.py", "1000000", "2", "3", "4"], [], 600),
    ("other machines", [PYTHON, "tests/platforms.py"], [], 1500),
    ("all mutants", [PYTHON, "tests/mutants.py"], ["gguf"], 1800),
    ("hostile weights", [PYTHON, "tests/hostile.py"], [], 900),
    ("windows", [PYTHON, "tests/windows.py"], [], 1800),
    ("coverage", [PYTHON, "tests/coverage.py"], [], 600),
    ("32 bits", [PYTHON, "tests/narrow.py"], [], 1800),
    ("recursion", [PYTHON, "tests/recursion.py"], [], 300),
    ("instructions", [PYTHON, "tests/instructions.py"], [], 900),
]
# Only with --require-real, alone at the end: it fetches both models where they are not there, and takes a
# quarter of an hour.
REAL = ("real models", [PYTHON, "tests/real/run.py"], ["numpy", "gguf", "tokenizers"], 3000)

# Longest first. Tests that are not named here come last; a time limit holds for all.
LONG = ["test_bits", "test_template", "test_tokenizer", "test_kernels"]
C_LIMIT = 500
# These compile every instruction set's kernels; for the others, two sets less save a third of a compiler's time.
EVERY_ISA = ["test_kernels", "test_bits", "test_isa", "test_hostile", "test_forward", "test_session", "test_switches"]
FEWER_ISA = ["-DLLM_NO_AVX512", "-DLLM_NO_AVX_VNNI"]
# What needs the chat templates; without them a test compiles in half the time.
TEMPLATES = re.compile("llm_template|llm_chat|llm__tpl|LLM_NO_TEMPLATE|everything.h")
# These run a second time under a thread sanitizer.
RACES = ["test_session.c", "test_threads.c", "test_jobs.c", "test_read.c", "test_adapter.c"]
COUNTS = re.compile(r"^(.*): (\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)


class Result:
    def __init__(self, name, passed=0, failed=0, skipped=0, said="", seconds=0.0):
        self.name, self.passed, self.failed, self.skipped = name, passed, failed, skipped
        self.said, self.seconds = said, seconds


def judge(name, status, output, seconds, needs_line=True):
    """Counts from the last line that has them. A test that dies or says nothing has failed."""
    found = COUNTS.findall(output)
    passed, failed, skipped = (int(n) for n in found[-1][1:]) if found else (0, 0, 0)
    said = "".join(line + "\n" for line in output.splitlines() if re.match("(FAIL|SKIP|WARN)", line))
    if found and passed + failed + skipped == 0:
        failed, said = 1, said + "FAIL it checked nothing\n"
    if not found and not needs_line and status == 0:
        passed = 1
    elif (status != 0 and failed == 0) or (not found and needs_line):
        failed += 1
        said += f"FAIL exit status {status}; it ended with\n{output[-3000:]}\n"
    return Result(name, passed, failed, skipped, said, seconds)


def announce(r):
    word = "FAIL" if r.failed else "skip" if not r.passed else "ok"
    print(f"{word:4} {r.name}: {r.passed} passed, {r.failed} failed, {r.skipped} skipped ({r.seconds:.1f} s)")
    lines = r.said.splitlines()
    for line in lines[:40]:
        print("     " + line)
    if len(lines) > 40:
        print(f"     ... {len(lines) - 40} more lines")
    sys.stdout.flush()


# ---- compilers and what they can do here ---------------------------------------------------------

def find_compiler():
    for name in [os.environ.get("CC", "").strip(), "gcc", "clang", "cc"]:
        if name and shutil.which(name.split()[0]):
            return name.split()
    sys.exit("run.py: no C compiler; install gcc or clang, or set CC\n0 passed, 1 failed, 0 skipped")


def probe(compiler, flags, environment=None):
    """Do these flags give a program that runs, with threads and memory of its own?"""
    source, program = os.path.join(BUILD, "probe.c"), os.path.join(BUILD, "probe")
    with open(source, "w", encoding="ascii") as f:
        f.write("#include <pthread.h>\n#include <stdlib.h>\n"
                "static void *f(void *p) { free(malloc(9)); return p; }\n"
                "int main(void) { pthread_t t; return pthread_create(&t, NULL, f, NULL) || pthread_join(t, NULL); }\n")
    if run([*compiler, *flags, source, "-o", program, "-lpthread"])[0] != 0:
        return False
    return run([program], timeout=20, env={**os.environ, **(environment or {})})[0] == 0


class Sanitizers:
    """Flags and environment for the C tests, as far as this machine can."""

    def __init__(self, compiler):
        base = ["-fsanitize=address,undefined", "-fsanitize=float-cast-overflow", "-fno-sanitize-recover=all"]
        self.flags, self.environment = [], {}
        for environment in ({}, {"ASAN_OPTIONS": "detect_leaks=0"}):
            if probe(compiler, base, environment):
                self.flags, self.environment = base, environment
                break
        self.thread = ["-fsanitize=thread"] if probe(compiler, ["-fsanitize=thread"]) else []


# ---- the tests -----------------------------------------------------------------------------------

def convert_fixtures(compiler):
    """The small models in every type, and in several at once. A converter that fails is a failed test."""
    began, problems = time.time(), ""
    program = os.path.join(BUILD, "llm-convert")
    os.makedirs(MODELS, exist_ok=True)
    status, output = run([*compiler, "-O2", "tools/convert/convert.c", "-o", program, *LIBRARIES])
    jobs = []
    if status:
        problems = f"FAIL the converter does not compile\n{output[:3000]}\n"
    else:
        jobs = [(g, t) for g in sorted(glob.glob(os.path.join(ROOT, "tests/fixtures/models/*.gguf"))) for t in TYPES]
        if not jobs:
            problems = "FAIL tests/fixtures/models holds no GGUF file\n"
    for path, kind in jobs:
        name = os.path.basename(path)[:-5]
        status, output = run([program, path, os.path.join(MODELS, f"{name}.{kind}.llm"), *TYPES[kind], "--quiet"])
        if status:
            problems += f"FAIL {name} {kind}: status {status} {output[-300:]}\n"
    failed = problems.count("FAIL")
    return Result("conversion of fixtures", len(jobs) - failed if jobs else 0, failed, 0, problems, time.time() - began)


def c_test(compiler, flags, environment):
    """A function that compiles and runs a C test."""
    def test(path, tag=""):
        began, name = time.time(), os.path.basename(path)[:-2]
        program = os.path.join(BUILD, name + tag.replace(" ", "-"))
        with open(path, encoding="utf-8") as f:
            source = f.read()
        fewer = ([] if name in EVERY_ISA else FEWER_ISA) + ([] if TEMPLATES.search(source) else ["-DLLM_NO_TEMPLATE"])
        line = [*compiler, "-std=c11", "-O1", "-g1", *WARNINGS, *flags, *fewer, path, "-o", program, *LIBRARIES]
        status, output = run(line)
        if status:
            return Result(name + tag, 0, 1, 0, f"FAIL {' '.join(line)}\n{output[:3000]}", time.time() - began)
        arguments = [MODELS] if "fixture_arguments(" in source else []
        status, said = run([program, *arguments], timeout=C_LIMIT, env={**os.environ, **environment})
        if output.strip():
            said = "WARN the compiler said:\n" + "".join("WARN   " + o + "\n" for o in output.splitlines()[:8]) + said
        return judge(name + tag, status, said, time.time() - began)
    return test


def script_test(name, command, packages, limit, required):
    began = time.time()
    missing = [p for p in packages if not importlib.util.find_spec(p)]
    if missing:
        what = f"the Python package{'s' if missing[1:] else ''} {', '.join(missing)}"
        return Result(name, 0, int(required), int(not required), f"{'FAIL' if required else 'SKIP'} it needs {what}\n")
    status, output = run(command, timeout=limit)
    result = judge(name, status, output, time.time() - began, needs_line="reference" not in name)
    if name == REAL[0]:  # its figures belong in the log
        result.said = output if not result.failed else output[-12000:]
    return result


def collect(compiler, required, wanted):
    """[(name, function)] of everything that is to run."""
    can = Sanitizers(compiler)
    plain, races = c_test(compiler, can.flags, can.environment), c_test(compiler, can.thread, {})
    paths = sorted(glob.glob(os.path.join(ROOT, "tests/test_*.c"))) + \
        sorted(glob.glob(os.path.join(ROOT, "tests/convert/test_*.c")))
    paths.sort(key=lambda p: next((i for i, n in enumerate(LONG) if n in p), len(LONG)))
    print(f"compiler {' '.join(compiler)}; sanitizers {' '.join(can.flags + can.thread) or 'none'}", flush=True)
    scripts = SCRIPTS + (LONG_SCRIPTS if required else [])
    jobs = [(name, lambda s=script: script_test(*s, required)) for script in scripts for name in [script[0]]]
    jobs += [(os.path.basename(p)[:-2], lambda p=p: plain(p)) for p in paths]
    for p in (p for p in paths if os.path.basename(p) in RACES):
        name = os.path.basename(p)[:-2] + ", races"
        jobs.append((name, lambda p=p: races(p, ", races")) if can.thread else
                    (name, lambda name=name: Result(name, 0, 0, 1, "SKIP -fsanitize=thread does not work here\n")))
    return [(n, f) for n, f in jobs if not wanted or any(w in n for w in wanted)]


def main():
    arguments = [a for a in sys.argv[1:] if a != "--require-real"]
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return 0
    required = len(arguments) < len(sys.argv) - 1 or os.environ.get("LLM_TESTS_REQUIRE", "") not in ("", "0")
    if required:
        os.environ["LLM_TESTS_REQUIRE"] = "1"
    os.makedirs(BUILD, exist_ok=True)
    compiler, results = find_compiler(), []

    def finish(result):
        announce(result)
        results.append(result)

    finish(convert_fixtures(compiler))
    in_parallel(lambda job: finish(job[1]()), collect(compiler, required, arguments))
    for name, *_ in [] if required or arguments else LONG_SCRIPTS:
        finish(Result(name, 0, 0, 1, "SKIP it runs with --require-real or LLM_TESTS_REQUIRE=1\n"))
    if required and (not arguments or any(a in REAL[0] for a in arguments)):
        finish(script_test(*REAL, required))
    elif not arguments:
        finish(Result(REAL[0], 0, 0, 1, "SKIP the real models are checked with --require-real or LLM_TESTS_REQUIRE=1\n"))
    failed = sum(r.failed for r in results)
    for r in results:
        if r.failed:
            print(f"failed: {r.name}")
    print(f"{sum(r.passed for r in results)} passed, {failed} failed, {sum(r.skipped for r in results)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        print(f"run.py: {error}\n0 passed, 1 failed, 0 skipped")
        sys.exit(1)
