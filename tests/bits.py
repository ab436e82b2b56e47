#!/usr/bin/env python3
"""The same bits from every compiler, flag, instruction set and way to evaluate.

    bits.py                           the small models of tests/run.py, every build
    bits.py --real MODEL.llm IDS.txt  a real model: every build, then every way with the first build

Builds tests/bits.c, which prints a hash of all logits, and compares hashes.
"""
import os
import sys

from toolchain import BUILD, ROOT, Report, have, in_parallel, run

FLAGS = ["-O0", "-O2", "-O3 -march=native", "-Ofast", "-Ofast -march=native"]
STANDARDS = {"gcc": "c99", "clang": "c11", "g++": "c++11", "clang++": "c++11"}
SMALL = ["llama-odd.q8", "llama-untied.f32", "gemma.q4", "gemma-pattern.auto", "llama-tied.q3", "gemma.q6",
         "qwen3.q5", "llama-untied.q2"]
COUNT = 64  # tokens of a real model
SHORT = 4   # tokens where the code is slow: -O0, and the scalar instruction set but once

# Ways to evaluate, all of them with the first build.
WAYS = ["--threads 2", "--threads 3", "--threads 8", "--chunk one", "--chunk 1", "--chunk 2 --threads 2",
        "--with 3", "--with 8 --threads 2 --chunk 3", "--budget 50", "--budget 50 --threads 2 --chunk 4",
        "--with 2 --budget 50", "--threads 3 --host", "--isa scalar --threads 2"]


def builds(report):
    """[(name, program)] of every compiler that is here with every set of flags."""
    folder = os.path.join(BUILD, "bits")
    os.makedirs(folder, exist_ok=True)
    source = os.path.join(ROOT, "tests", "bits.c")
    jobs = []
    for compiler in have(list(STANDARDS), report):
        language = ["-x", "c++"] if "++" in compiler else []
        for flags in FLAGS if not language else FLAGS[-1:]:
            name = f"{compiler} {flags}"
            program = os.path.join(folder, name.replace(" ", ""))
            jobs.append((name, program, [compiler, f"-std={STANDARDS[compiler]}", *flags.split(), "-w",
                                         "-DLLM_NO_TEMPLATE", *language, source, "-o", program, "-lm", "-lpthread"]))
    jobs.sort(key=lambda job: job[0] != "gcc -O2")  # the first one is used for everything else
    done = []
    for (name, program, line), (status, output) in zip(jobs, in_parallel(lambda job: run(job[2]), jobs)):
        if report.check(status == 0, f"{' '.join(line)}: status {status}\n{output[:500]}"):
            done.append((name, program))
    return done


def hash_of(program, model, ids, options):
    """The hash that the program prints, or what it says instead."""
    status, output = run([program, model, ids, *options.split()])
    return output.strip() if status == 0 else f"status {status}: {output.strip()[:300]}"


def is_hash(text):
    return len(text) == 16 and all(c in "0123456789abcdef" for c in text)


def compare(report, jobs, want, what):
    """Each job, (label, program, model, ids, options), must print the hash `want`."""
    for job, got in zip(jobs, in_parallel(lambda j: hash_of(*j[1:]), jobs)):
        report.check(got == want, f"{what}, {job[0]} {job[4]}: {got}, expected {want}")


def isa_names(program, model, ids):
    """Those of the known instruction sets that this machine has."""
    return [isa for isa in ("scalar", "avx2", "avx-vnni", "avx512", "amx") if is_hash(hash_of(program, model, ids, f"--isa {isa} --count 1"))]


def check_small(report, programs):
    folder, first = os.path.join(BUILD, "models"), programs[0][1]
    for small in SMALL:
        model = os.path.join(folder, small + ".llm")
        ids = os.path.join(ROOT, "tests", "fixtures", "models", small.split(".")[0] + ".ids")
        for kv in ("q8", "f16", "q4"):
            isas = isa_names(first, model, ids)
            want = hash_of(first, model, ids, f"--kv {kv} --isa scalar")
            report.check(is_hash(want), f"{small} kv {kv}: {want}")
            compare(report, [(name, program, model, ids, f"--kv {kv} --isa {isa}")
                             for name, program in programs for isa in isas], want, small)


def check_real(report, programs, model, ids):
    first, name = programs[0][1], os.path.basename(model)
    isas = isa_names(first, model, ids)
    want = hash_of(first, model, ids, f"--count {COUNT}")
    print(f"{name}: {want}, instruction sets {', '.join(isas)}", flush=True)
    report.check(is_hash(want), f"{name}: {want}")
    compare(report, [("gcc -O2", first, model, ids, f"--count {COUNT} {way}") for way in WAYS], want, name)
    compare(report, [(n, p, model, ids, f"--count {COUNT}") for n, p in programs[1:] if "-O0" not in n], want, name)
    short = hash_of(first, model, ids, f"--count {SHORT}")
    compare(report, [(n, p, model, ids, f"--count {SHORT} --isa {isa}") for n, p in programs for isa in isas], short, name)
    want = hash_of(first, model, ids, f"--kv f16 --count {COUNT}")
    report.check(is_hash(want), f"{name} kv f16: {want}")
    compare(report, [("gcc -O2", first, model, ids, f"--kv f16 --count {COUNT} {way}") for way in WAYS[2:8:2] + WAYS[-1:]],
            want, name)
    compare(report, [(n, p, model, ids, f"--kv f16 --count {COUNT}") for n, p in programs if "-Ofast" in n], want, name)


def main():
    real = sys.argv[1:2] == ["--real"]
    report = Report("bits of " + os.path.basename(sys.argv[2]) if real else "bits of compilers")
    programs = builds(report)
    if programs:
        if real:
            check_real(report, programs, sys.argv[2], sys.argv[3])
        else:
            check_small(report, programs)
    else:
        report.missing("no compiler")
    report.end()


if __name__ == "__main__":
    main()
