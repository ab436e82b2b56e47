#!/usr/bin/env python3
"""The checks with the two real models: SmolLM2-135M-Instruct and Gemma 3 270M.

    tests/real/run.py [smollm2 | gemma]...      with numpy, gguf and tokenizers installed

Fetches the models into models/ where they are not there (tools/fetch.py), converts them into
build/tests/real, and checks logits, perplexity, memory, bits and tokenizers. tests/run.py
--require-real calls it. Takes about a quarter of an hour on two cores, and 2 GB of disk.
"""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from toolchain import BUILD, ROOT, Report, in_parallel, run  # noqa: E402

PYTHON, CC = sys.executable, os.environ.get("CC", "").split() or ["cc"]
REAL = os.path.join(BUILD, "real")
TEXT = os.path.join(ROOT, "tests", "data", "text.txt")
POSITIONS = 64
MARGIN = 8 << 20  # of resident memory: the C library and the program

# Perplexity of llama.cpp on tests/data/text.txt, windows of 512: llama-perplexity -c 512 -b 512 of
# the source in llama-cpp-python 0.3.36, built with clang 14 -O3, on the very GGUF file fetched here.
MODELS = {
    "smollm2": {"gguf": "models/smollm2-135m-instruct.gguf", "llama.cpp": 40.3055, "source": "Q4_1"},
    "gemma": {"gguf": "models/gemma-3-270m.gguf", "llama.cpp": 40.9419, "source": "Q4_K_M"},
}
TYPES = ["f32", "q8", "auto"]


def path_of(name, kind):
    return os.path.join(REAL, f"{name}.{kind}.llm")


def build(report):
    """What is needed besides the models."""
    programs = {
        "llm-convert": "tools/convert/convert.c", "evaluate": "examples/evaluate.c", "tokenize": "examples/tokenize.c",
        "bits": "tests/bits.c", "memory": "tests/real/memory.c", "tokenize_driver": "tests/tokenize_driver.c"}
    good = True
    for name, source in programs.items():
        status, output = run([*CC, "-O2", source, "-o", os.path.join(REAL, name), "-lm", "-lpthread"])
        good &= report.check(status == 0, f"{source}: {output[:1000]}")
    return good


def program(name):
    return os.path.join(REAL, name)


def numbers(output):
    """{"perplexity": 40.3, ...} of lines "name number"."""
    return {k: float(v) for k, v in re.findall(r"^(\w+) (-?[\d.]+(?:e[-+]?\d+)?)(?: .*)?$", output, re.MULTILINE)}


def convert(report, name, gguf):
    for kind in TYPES:
        status, output = run([program("llm-convert"), gguf, path_of(name, kind), "--type", kind, "--quiet"])
        if not report.check(status == 0, f"{name} to {kind}: {output[-500:]}"):
            return False
    return True


def token_ids(report, name):
    """A file with the ids of the first tokens of the text."""
    path = os.path.join(REAL, name + ".ids")
    with open(TEXT, encoding="utf-8") as f:
        status, output = run([program("tokenize"), path_of(name, "f32")], input=f.read()[:2000])
    ids = re.findall(r"\d+", output)[:POSITIONS]
    report.check(status == 0 and len(ids) == POSITIONS, f"{name}: ids of the text: {output[:300]}")
    with open(path, "w", encoding="ascii") as f:
        f.write(" ".join(ids) + "\n")
    return path


def check_logits(report, name, gguf, ids):
    """f32 weights, float activations, 16-bit keys and values, against float64: below 1e-4.

    Rounding keys and values to 16 bits by itself moves the logits by 3e-4 against exact ones, and by
    1e-4 to 2e-4 where float32 and float64 round a value to two sides of a tie. So the reference uses
    the library's cache, and checks that it holds its own keys and values, rounded. What is left is
    the arithmetic. The two other figures are printed and bounded."""
    logits, cache = os.path.join(REAL, "logits.f32"), os.path.join(REAL, "cache.f16")
    status, output = run([program("bits"), path_of(name, "f32"), ids, "--kv", "f16", "--out", logits, "--kv-out", cache])
    if not report.check(status == 0, f"{name}: {output[:500]}"):
        return
    forward = [PYTHON, "tests/reference/forward.py", gguf, ids, "--compare", logits]
    for what, options, limit in (("with the cache's rounding", ["--kv-file", cache], "1e-4"),
                                 ("with its own rounding", ["--kv", "f16"], "2e-3"),
                                 ("exact", ["--kv", "f64"], "5e-3")):
        status, output = run([*forward, *options, "--limit", limit])
        print(f"{name}, {POSITIONS} positions, f32 weights, KV f16, reference {what}: {output.strip()}", flush=True)
        report.check(status == 0, f"{name}: logits, reference {what}, limit {limit}")


def perplexity(report, model, *options):
    status, output = run([program("evaluate"), model, TEXT, *options], timeout=1200)
    value = numbers(output).get("perplexity", float("nan"))
    report.check(status == 0 and value > 1, f"{os.path.basename(model)}: {output[-500:]}")
    return value


def check_perplexity(report, name, reference, source):
    ppl = {kind: perplexity(report, path_of(name, kind)) for kind in TYPES}
    exact = perplexity(report, path_of(name, "f32"), "--kv", "f16")
    print(f"{name}: perplexity f32 {ppl['f32']:.4f} (KV f16 {exact:.4f}), q8 {ppl['q8']:.4f}, auto {ppl['auto']:.4f}, "
          f"llama.cpp with {source} {reference:.4f}", flush=True)
    report.check(abs(ppl["q8"] / ppl["f32"] - 1) < 0.005, f"{name}: q8 is not within 0.5% of f32")
    report.check(abs(ppl["q8"] / exact - 1) < 0.005, f"{name}: q8 is not within 0.5% of f32 with KV f16")
    report.check(ppl["auto"] / reference - 1 < 0.02, f"{name}: auto is not within 2% of llama.cpp")


def check_memory(report, name):
    for kind in ("auto", "q8"):
        status, output = run([program("memory"), path_of(name, kind)])
        n = numbers(output)
        if not report.check(status == 0 and "rss_file" in n, f"{name} {kind}: {output[:500]}"):
            continue
        report.check(n["session_calls"] == 1 and n["session_bytes"] == n["query"],
                     f"{name} {kind}: {n['session_calls']:.0f} allocations for {n['session_bytes']:.0f} bytes, "
                     f"the query said {n['query']:.0f}")
        report.check(n["eval_calls"] == 0, f"{name} {kind}: 1,000 tokens made {n['eval_calls']:.0f} allocations")
        resident = n["rss_anon"] + n["rss_file"]
        print(f"{name} {kind}: {resident / 1e6:.1f} MB resident after 1,000 tokens ({n['rss_base'] / 1e6:.1f} before); "
              f"file {n['file'] / 1e6:.1f} MB, query {n['query'] / 1e6:.1f} MB", flush=True)
        report.check(resident <= n["file"] + n["query"] + MARGIN, f"{name} {kind}: more is resident")


def check_bits(report, name, ids):
    status, output = run([PYTHON, "tests/bits.py", "--real", path_of(name, "auto"), ids], timeout=1500)
    print(output.strip()[-6000:], flush=True)
    found = re.findall(r": (\d+) passed, (\d+) failed, (\d+) skipped$", output, re.MULTILINE)
    if report.check(bool(found), f"{name}: bits: exit status {status}"):
        report.passed += int(found[-1][0])
        report.failed += int(found[-1][1])
        report.skipped += int(found[-1][2])


def check_tokenizers(report, models):
    """Both at once: each is one thread of Python."""
    def compare(gguf):
        return run([PYTHON, "tests/real/tokenizer_compare.py", gguf, "--driver", program("tokenize_driver")], timeout=1500)
    for gguf, (status, output) in zip(models, in_parallel(compare, models)):
        print(output.strip()[-6000:], flush=True)
        report.check(status == 0, f"{gguf}: the tokenizer, exit status {status}")


def check_model(report, name, model):
    """False when the model is not here."""
    gguf = os.path.join(ROOT, model["gguf"])
    status, output = run([PYTHON, "tools/fetch.py", name], timeout=1200)
    if status != 0:
        return report.missing(f"{name}: {output.strip()[-500:]}")
    if not convert(report, name, gguf):
        return True
    ids = token_ids(report, name)
    check_logits(report, name, gguf, ids)
    check_perplexity(report, name, model["llama.cpp"], model["source"])
    os.remove(path_of(name, "f32"))
    check_memory(report, name)
    check_bits(report, name, ids)
    return True


def main():
    report = Report("real models")
    names = sys.argv[1:] or list(MODELS)
    if any(n not in MODELS for n in names):
        sys.exit(__doc__)
    os.makedirs(REAL, exist_ok=True)
    if build(report):
        here = [name for name in names if check_model(report, name, MODELS[name])]
        check_tokenizers(report, [MODELS[name]["gguf"] for name in here])
    report.end()


if __name__ == "__main__":
    main()
