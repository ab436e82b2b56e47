#!/usr/bin/env python3
"""Speed beside llama.cpp: the same machine, the same minutes, turn by turn. `make compare` runs it.

    compare.py                      all of it, writes its tables into docs/performance.md and the README
    compare.py --quick              a round of SmolLM2 at the smallest settings, printed only
    compare.py --print --rounds 1 --models gemma --tests prefill,decode

The models are those of tools/fetch.py and random weights of larger shapes. llama.cpp is built with clang from the
source in llama-cpp-python, in a cache folder, where its Q4_0 and Q4_K_M files (llama-quantize from the same source)
and our q4 ones lie too. In every round each program takes its turn, so that a machine that slows down or is shared
slows all; medians of the rounds count. Every row is kept in build/compare.jsonl, which tools/plot draws. Needs pip,
clang and cmake once; for the random shapes the Python package gguf."""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time

import llama
import random_gguf
import report

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "build")
TESTS = ["prefill", "decode", "depth", "batch", "first", "sample", "size"]
MODELS = {  # name, fetched source; without one: random weights of the shape of that name
    "smollm2": ("SmolLM2-135M", "smollm2-135m-instruct.gguf"),
    "gemma": ("Gemma 3 270M", "gemma-3-270m.gguf"),
    "qwen3-0.6b": ("Qwen3-0.6B's shape", None),
    "llama-3.2-1b": ("Llama-3.2-1B's shape", None),
}
KINDS = ["Q4_0", "Q4_K_M"]
TEXT = "The capital of France is Paris, and the capital"  # 10 tokens, give or take one


def note(text):
    print(text, file=sys.stderr, flush=True)


# ---- files ---------------------------------------------------------------------------------------

def fresh(path, *inputs):
    """It is there and no older than what it is made of."""
    return os.path.exists(path) and all(os.path.getmtime(path) >= os.path.getmtime(i) for i in inputs)


def prepare(o, key):
    """{who: file} of a model: ours, and llama.cpp's in both types."""
    folder, (_, source) = llama.cache_folder("compare"), MODELS[key]
    os.makedirs(folder, exist_ok=True)
    ours = os.path.join(folder, key + "-q4.llm")
    converter = os.path.join(ROOT, "tools", "convert")
    code = [os.path.join(converter, f) for f in os.listdir(converter)]
    if source:
        original = os.path.join(o.sources, source)
        if not os.path.exists(original):
            llama.run([sys.executable, os.path.join(ROOT, "tools", "fetch.py"), key, "--folder", o.sources])
        code.append(original)
    else:
        original = os.path.join(folder, key + "-random.gguf")
        if not os.path.exists(original) and not importlib.util.find_spec("gguf"):
            note(f"compare: the Python package gguf is not installed: {key} without llama.cpp")
        elif not fresh(original, random_gguf.__file__):
            random_gguf.write(original + ".partial", key)
            os.replace(original + ".partial", original)
    if not fresh(ours, *code):
        note(f"compare: making {ours}")
        what = [original] if source else ["--random", key]
        llama.run([os.path.join(BUILD, "llm-convert"), *what, ours, "--type", "q4", "--quiet"])
    files = {"llm.h q4": ours}
    for kind in KINDS if os.path.exists(original) else []:
        theirs = os.path.join(folder, f"{key}-{kind}.gguf")
        if not fresh(theirs, original):
            note(f"compare: making {theirs}")
            llama.quantise(o.llama, original, theirs, kind)
        files["llama.cpp " + kind] = theirs
    return files


# ---- ours ----------------------------------------------------------------------------------------

def measure_ours(o, path, vocabulary):
    isa, rows = (["--isa", o.isa] if o.isa else []), []
    threads = ",".join(map(str, o.threads))
    bench = [os.path.join(BUILD, "bench"), path, "-t", threads, "-r", "1", "--json", *isa]
    prompt = str(o.prompt) if "prefill" in o.tests else "0"
    depths = [0] * ("decode" in o.tests) + [o.depth] * ("depth" in o.tests)
    decode = [str(o.decode), "-d", ",".join(map(str, depths))] if depths else ["0"]
    rows += [r for r in llama.json_lines([*bench, "-p", prompt, "-n", *decode])
             if r["test"] in ("prefill", "decode") or (r["test"] == "sample" and "sample" in o.tests)]
    if "batch" in o.tests:
        rows += [r for r in llama.json_lines([*bench, "-p", "0", "-n", str(o.batch_decode), "-b", f"1,{o.batch}"])
                 if r["test"] == "batch"]
    for count in o.threads if "first" in o.tests else []:
        start = time.monotonic()
        llama.run([os.path.join(BUILD, "generate"), path, "-p", o.text if vocabulary else "1 2 3 4 5 6 7 8 9 10",
                   "-n", "1", "--threads", str(count), *isa])
        rows.append({"test": "first", "threads": count, "tokens": 10, "depth": 0, "batch": 0,
                     "seconds": time.monotonic() - start})
    return rows


def measure(o, save):
    """[row] of all rounds: what a program says of a test, and who, of which model, in which round. `save` gets those
    of every turn when they are there."""
    rows = []
    for key in o.models:
        files, vocabulary = prepare(o, key), MODELS[key][1] is not None
        order = sorted(files, key=lambda who: (who.startswith("llm"), who))
        for who in order:  # into the page cache
            with open(files[who], "rb", buffering=0) as f:
                while f.read(1 << 24):
                    pass
        for turn in range(o.rounds):
            for who in order:
                found = measure_ours(o, files[who], vocabulary) if who.startswith("llm") else \
                    llama.measure(o.llama, files[who], o, vocabulary)
                for r in found:
                    r.update(model=MODELS[key][0], who=who, round=turn, bytes=os.path.getsize(files[who]))
                rows += found
                save(found)
            note(f"compare: {MODELS[key][0]}, round {turn + 1} of {o.rounds}")
    return rows


# ---- all of it -----------------------------------------------------------------------------------

def options():
    def words(known):
        def parse(text):
            found = text.split(",")
            for word in found:
                if word not in known:
                    raise argparse.ArgumentTypeError(f"\"{word}\" is not one of {', '.join(known)}")
            return found
        return parse

    def counts(text):
        found = [int(n) for n in text.split(",")]
        if min(found) < 1:
            raise argparse.ArgumentTypeError("numbers of at least 1")
        return found

    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--models", type=words(MODELS), default=list(MODELS), help=",".join(MODELS))
    a.add_argument("--tests", type=words(TESTS), default=TESTS, help=",".join(TESTS))
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--threads", type=counts, default=[1, 2], help="default: 1,2")
    a.add_argument("--isa", help="ours with this instruction set; with avx2 llama.cpp is built for it too, "
                                 "otherwise for this machine")
    a.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    a.add_argument("--decode", type=int, default=128)
    a.add_argument("--depth", type=int, default=4096, help="context of the deep decode")
    a.add_argument("--batch", type=int, default=8, help="sessions that decode together")
    a.add_argument("--batch-decode", type=int, default=32)
    a.add_argument("--sources", default=os.path.join(ROOT, "models"), help="where the GGUF files are")
    a.add_argument("--llama", metavar="FOLDER", help="llama.cpp's programs; by default they are built")
    a.add_argument("--print", action="store_true", help="print the tables, write no document")
    a.add_argument("--from", dest="rows", metavar="FILE", help="no measuring: the rows of build/compare.jsonl")
    a.add_argument("--quick", action="store_true", help="one round, SmolLM2, smallest settings, printed")
    a.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="to build llama.cpp with")
    o = a.parse_args()
    o.text = TEXT
    if o.quick:
        o.models, o.rounds, o.prompt, o.decode, o.depth, o.batch_decode = ["smollm2"], 1, 32, 8, 64, 4
        o.threads, o.print, o.tests = [1], True, [t for t in o.tests if t != "size"]
    if min(o.rounds, o.prompt, o.decode, o.depth, o.batch, o.batch_decode) < 1:
        a.error("numbers of at least 1")
    if o.rounds < 5 and not o.print and not o.rows:
        a.error("fewer than five rounds are for --print")
    return o


def main():
    o = options()
    path = os.path.join(BUILD, "compare.jsonl")
    if o.rows:
        with open(o.rows, encoding="utf-8") as f:
            head, *rows = [json.loads(line) for line in f]
    else:
        for program in ("bench", "generate", "llm-convert"):
            if not os.path.exists(os.path.join(BUILD, program)):
                raise SystemExit(f"compare: there is no build/{program}; run make")
        o.llama = o.llama or llama.build(o.isa, o.jobs)
        if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
            note(f"compare: the machine is busy (load {os.getloadavg()[0]:.1f}); the numbers will be low for all")
        head = {"machine": report.machine(o.isa), "sizes": report.library_sizes(ROOT) if "size" in o.tests else [],
                "llama": f"llama.cpp as in {llama.PACKAGE} {llama.VERSION}"}
        with open(path, "w", encoding="utf-8") as f:
            def save(lines):
                f.writelines(json.dumps(line) + "\n" for line in lines)
                f.flush()
            save([head])
            rows = measure(o, save)
        note(f"compare: rows are in {path}")
    if not rows:
        raise SystemExit("compare: nothing was measured")
    if not o.print and max(r["round"] for r in rows) < 4:
        raise SystemExit("compare: fewer than five rounds are for --print")
    document, table = report.document(head, rows), report.readme_table(head, rows)
    if o.print:
        print(document, *([report.sizes(head)] if head["sizes"] else []), sep="\n\n")
    else:
        performance = os.path.join(ROOT, "docs", "performance.md")
        report.replace(performance, report.isa_of(rows), document)
        report.replace(os.path.join(ROOT, "README.md"), report.isa_of(rows), table)
        if head["sizes"]:
            report.replace(performance, "size", report.sizes(head))


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"compare: {error}") from error
