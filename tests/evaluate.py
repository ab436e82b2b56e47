#!/usr/bin/env python3
"""What `evaluate` reports, computed again from the logits that it writes; what it refuses. Needs the programs of `make`
and the converted fixtures; Python's standard library only."""
import array
import math
import os
import struct
import subprocess
import tempfile

from toolchain import BUILD, ROOT, Report

PROGRAMS = os.path.join(ROOT, "build")
TEXT = os.path.join(ROOT, "tests", "data", "text.txt")
CONTEXT, WINDOWS = 32, 3


def run(program, *arguments, given=None):
    done = subprocess.run([os.path.join(PROGRAMS, program), *map(str, arguments)], input=given, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=100, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")


def model_of(name, kind):
    return os.path.join(BUILD, "models", f"{name}.{kind}.llm")


def evaluate(model, *options):
    return run("evaluate", model, TEXT, "--ctx", CONTEXT, "--limit-windows", WINDOWS, "--threads", 1, *options)


def numbers(said):
    return {line.split()[0]: float(line.split()[1]) for line in said.splitlines()}


def read_logits(path, vocab):
    values = array.array("f")
    with open(path, "rb") as f:
        values.frombytes(f.read())
    return [values[i:i + vocab] for i in range(0, len(values), vocab)]


def log_softmax(row):
    top = max(row)
    norm = top + math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - norm for x in row]


def expected(ours, other, ids):
    """The numbers of the report, from both files' rows."""
    first, nll, other_nll, kl, same = CONTEXT // 2, [], [], [], 0
    targets = [ids[w * CONTEXT + i + 1] for w in range(WINDOWS) for i in range(first, CONTEXT - 1)]
    for row, reference, target in zip(ours, other, targets):
        q, p = log_softmax(row), log_softmax(reference)
        nll.append(-q[target])
        other_nll.append(-p[target])
        kl.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q)))
        same += max(range(len(q)), key=q.__getitem__) == max(range(len(p)), key=p.__getitem__)
    count, kl = len(nll), sorted(kl)
    mean, other_mean = math.fsum(nll) / count, math.fsum(other_nll) / count
    return {"scored": count, "perplexity": math.exp(mean), "kl_mean": math.fsum(kl) / count,
            "kl_99": kl[int(0.99 * (count - 1))], "kl_max": kl[-1], "same_top": same / count,
            "perplexity_ratio": math.exp(mean - other_mean)}


def check_numbers(report, name, folder):
    exact, coarse = os.path.join(folder, name + ".f32"), os.path.join(folder, name + ".q3")
    status, _, said = evaluate(model_of(name, "f32"), "--logits", exact)
    report.check(status == 0, f"{name}: {said}")
    status, out, said = evaluate(model_of(name, "q3"), "--logits", coarse, "--against", exact)
    if not report.check(status == 0, f"{name}: {said}"):
        return
    with open(TEXT, "rb") as f:
        ids = [int(i) for i in run("tokenize", model_of(name, "q3"), given=f.read(8000))[1].split()]
    vocab = os.path.getsize(exact) // 4 // (WINDOWS * (CONTEXT - 1 - CONTEXT // 2))
    found, right = numbers(out), expected(read_logits(coarse, vocab), read_logits(exact, vocab), ids)
    for key, value in right.items():
        report.check(abs(found.get(key, math.inf) - value) <= 1e-4 * abs(value) + 1e-6,
                     f"{name}: {key} {found.get(key)}, expected {value}")
    report.check(right["kl_mean"] > 1e-4, f"{name}: the two models hardly differ")
    status, out, said = evaluate(model_of(name, "f32"), "--against", exact)
    found = numbers(out)
    report.check(status == 0 and found["kl_max"] < 1e-9 and found["same_top"] == 1 and found["perplexity_ratio"] == 1,
                 f"{name} against itself: {out} {said}")


def check_refusals(report, name, folder):
    model, good = model_of(name, "f32"), os.path.join(folder, name + ".f32")
    with open(good, "rb") as f:
        data = f.read()
    size = len(data) // (WINDOWS * (CONTEXT - 1 - CONTEXT // 2))  # of a row
    bad = os.path.join(folder, "bad")
    for what, changed, words in (
            ("cut", data[:-1], f"ends at position {len(data) // size - 1}"), ("empty", b"", "ends at position 0"),
            ("longer", data + b"\0", "goes on after the last position"),
            ("NaN", data[:size + 8] + struct.pack("<f", math.nan) + data[size + 12:], "position 1, token 2: "),
            ("infinite", data[:4] + struct.pack("<f", math.inf) + data[8:], "token 1: inf, expected a finite logit")):
        with open(bad, "wb") as f:
            f.write(changed)
        status, out, said = evaluate(model, "--against", bad)
        report.check(status == 1 and words in said and bad in said and not out, f"{what}: {status} {out} {said}")
    for what, options, words in (("no file", ["--against", os.path.join(folder, "none")], "No such file"),
                                 ("a folder", ["--logits", folder], "directory"),
                                 ("keys of 3 bits", ["--kv", "q3"], "--kv is q8, f16 or q4")):
        status, out, said = evaluate(model, *options)
        report.check(status in (1, 2) and words in said and not out, f"{what}: {status} {said}")
    status, _, said = run("evaluate", model, TEXT, "--ctx", 3)
    report.check(status == 2 and "--ctx is at least 4" in said, f"--ctx 3: {status} {said}")
    with open(bad, "w", encoding="ascii") as f:
        f.write("a few words")
    status, _, said = run("evaluate", model, bad, "--ctx", 64)
    report.check(status == 1 and "tokens, a window 64" in said, f"a short text: {status} {said}")


def main():
    report = Report("evaluate")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("llama-tied", "gemma-pattern"):
            check_numbers(report, name, folder)
        check_refusals(report, "llama-tied", folder)
    report.end()


if __name__ == "__main__":
    main()
