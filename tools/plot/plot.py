#!/usr/bin/env python3
"""Draws speed against context, and prefill against the length of the prompt, from lines of JSON.

    build/bench MODEL.llm -p 32,64,128,256,512,1024 -d 0,256,1024,4096 -r 5 --json > ours.jsonl
    llama-bench -m MODEL.gguf -p 32,64,128,256,512,1024 -n 128 -d 0,256,1024,4096 -o jsonl > theirs.jsonl
    tools/plot/plot.py ours.jsonl theirs.jsonl --output docs/speed

Takes what `bench --json`, llama-bench (-o jsonl) and `make compare` (build/compare.jsonl) write, in any number of
files, and writes OUTPUT-context and OUTPUT-prompt (.svg; --png for pictures of points) for what the lines hold. A line
for each model, program and number of threads; where one was measured several times, the median. Needs matplotlib."""
import argparse
import json
import os
import statistics

MARKS = "osD^vP"


def read(path):
    """[{test, depth, tokens, line, tokens_per_second}] of the lines that are of prefill and decode."""
    points = []
    with open(path, encoding="utf-8") as f:
        for number, text in enumerate(f, 1):
            if not text.strip():
                continue
            try:
                r = json.loads(text)
            except ValueError as error:
                raise SystemExit(f"plot: {path}, line {number}: {error}") from error
            if "avg_ts" in r:  # llama-bench
                test, tokens, depth = ("prefill", r["n_prompt"], r["n_depth"]) if r["n_prompt"] else \
                    ("decode", r["n_gen"], r["n_depth"])
                who, speed, threads = "llama.cpp " + os.path.basename(r["model_filename"]), r["avg_ts"], r["n_threads"]
            elif r.get("test") in ("prefill", "decode") and "tokens_per_second" in r:
                test, tokens, depth, threads = r["test"], r["tokens"], r.get("depth", 0), r["threads"]
                speed = r["tokens_per_second"]
                who = f"{r['who']} {r['model']}" if "who" in r else "llm.h " + os.path.basename(r["model"])
            else:
                continue
            points.append({"test": test, "depth": depth, "tokens": tokens, "speed": speed,
                           "line": f"{who}, {threads} thread{'s' * (threads > 1)}"})
    return points


def curves(points, test, over):
    """{name of the line: [(x, median speed)]}"""
    found = {}
    for p in points:
        if p["test"] == test and (over == "depth" or not p["depth"]):
            found.setdefault(p["line"], {}).setdefault(p[over], []).append(p["speed"])
    return {line: sorted((x, statistics.median(s)) for x, s in by.items()) for line, by in sorted(found.items())}


def draw(pyplot, lines, title, label, path):
    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    for i, (name, line) in enumerate(lines.items()):
        axes.plot(*zip(*line), marker=MARKS[i % len(MARKS)], markersize=4, linewidth=1.5, label=name,
                  linestyle="--" if name.startswith("llama.cpp") else "-")
    axes.set(title=title, xlabel=label, ylabel="tokens a second", ylim=(0, None))
    axes.set_xscale("symlog", base=2, linthresh=32)
    ticks = sorted({x for line in lines.values() for x, _ in line})
    axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.set_xlim(ticks[0] * 0.9, ticks[-1] * 1.1 + 1)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=150)
    pyplot.close(figure)
    print(path)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("files", nargs="+", metavar="FILE.jsonl")
    a.add_argument("--output", default=os.path.join("docs", "speed"), help="default: docs/speed")
    a.add_argument("--png", action="store_true")
    o = a.parse_args()
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("plot: the Python package matplotlib is not installed (pip install matplotlib)") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "llm.h"  # the same bytes for the same lines
    from matplotlib import pyplot
    points = [p for path in o.files for p in read(path)]
    drawn = 0
    for test, over, name, title, label in (
            ("decode", "depth", "context", "Decoding after some context", "tokens of context before"),
            ("prefill", "tokens", "prompt", "Evaluating a prompt", "tokens of the prompt")):
        lines = curves(points, test, over)
        if lines:
            draw(pyplot, lines, title, label, f"{o.output}-{name}.{'png' if o.png else 'svg'}")
            drawn += 1
    if not drawn:
        raise SystemExit(f"plot: no line of prefill or decode in {', '.join(o.files)}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        raise SystemExit(f"plot: {error}") from error
