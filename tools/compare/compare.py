#!/usr/bin/env python3
"""Speed beside llama.cpp: the same machine, the same minutes, turn by turn.

    compare.py MODEL.llm MODEL.gguf --build
    compare.py MODEL.llm MODEL.gguf --llama FOLDER_OF_LLAMA_BENCH

Both programs run in turn (A B A B ...), so that a machine that slows down or is shared slows both.
Printed, as markdown: the median of each test, its range, the ratio, and the sizes of the files.
`--build` makes llama.cpp once, from the source in the llama-cpp-python package, with clang and
cmake, in a cache folder. Needs Python 3.8 and nothing else, or pip, clang and cmake to build.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"

# Static, no OpenMP (its own thread pool is the faster of the two), nothing that is not measured.
CMAKE = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_C_COMPILER=clang", "-DCMAKE_CXX_COMPILER=clang++",
         "-DBUILD_SHARED_LIBS=OFF", "-DGGML_OPENMP=OFF", "-DLLAMA_OPENSSL=OFF",
         "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_MTMD=OFF",
         "-DLLAMA_BUILD_APP=OFF"]
CMAKE_ISA = {
    "avx2": ["-DGGML_NATIVE=OFF", "-DGGML_SSE42=ON", "-DGGML_AVX=ON", "-DGGML_AVX2=ON",
             "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON", "-DGGML_AVX512=OFF"],
    "native": ["-DGGML_NATIVE=ON"],
}


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "llm.h", f"llama.cpp-{VERSION}")


def unpack_source(folder):
    """The package's source, or where it already is. A half-unpacked folder never gets the name."""
    source = os.path.join(folder, "source")
    if os.path.isdir(source):
        return source
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", f"{PACKAGE}=={VERSION}",
                        "--no-deps", "--no-binary", ":all:", "--dest", scratch],
                       check=True, stdout=sys.stderr)
        archive, = [f for f in os.listdir(scratch) if f.endswith(".tar.gz")]
        with tarfile.open(os.path.join(scratch, archive)) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(os.path.join(scratch, "all"), filter="data")
            else:
                tar.extractall(os.path.join(scratch, "all"))
        top, = os.listdir(os.path.join(scratch, "all"))
        os.rename(os.path.join(scratch, "all", top, "vendor", "llama.cpp"), source)
    return source


def build_llama(isa, jobs):
    kind = "avx2" if isa == "avx2" else "native"
    folder = cache_folder()
    build = os.path.join(folder, "build-" + kind)
    if not os.path.exists(os.path.join(build, "bin", "llama-bench")):
        for program in ("cmake", "clang", "clang++"):
            if not shutil.which(program):
                raise SystemExit(f"compare: building llama.cpp needs {program}")
        source = unpack_source(folder)
        subprocess.run(["cmake", "-S", source, "-B", build, *CMAKE, *CMAKE_ISA[kind]], check=True,
                       stdout=sys.stderr)
        subprocess.run(["cmake", "--build", build, "--target", "llama-bench", "llama-quantize",
                        "-j", str(jobs)], check=True, stdout=sys.stderr)
    return os.path.join(build, "bin")


def json_lines(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"compare: {' '.join(command)} failed ({done.returncode}):\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_llama(o):
    """{(test, threads): tokens per second} of one turn."""
    rows = json_lines([os.path.join(o.llama, "llama-bench"), "-m", o.gguf, "-p", str(o.prompt),
                       "-n", str(o.decode), "-t", o.threads, "-r", "1", "-o", "jsonl"])
    return {("prefill" if r["n_prompt"] else "decode", r["n_threads"]): r["avg_ts"] for r in rows}


def run_ours(o):
    rows = json_lines([o.bench, o.model, "-p", str(o.prompt), "-n", str(o.decode), "-t", o.threads]
                      + (["--isa", o.isa] if o.isa else []) + ["--json"])
    return {(r["test"], r["threads"]): r["tokens_per_second"] for r in rows}


def note(text):
    print(text, file=sys.stderr, flush=True)


def measure(o):
    rounds = []
    for i in range(o.rounds):
        rounds.append((run_llama(o), run_ours(o)))
        note(f"round {i + 1} of {o.rounds}")
    missing = set(rounds[0][0]) ^ set(rounds[0][1])
    if missing:
        raise SystemExit(f"compare: only one of the two programs reports {sorted(missing)}")
    return rounds


def cell(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def table(o, rounds):
    lines = ["| test | threads | llama.cpp tok/s | llm.h tok/s | ratio |",
             "|---|---:|---:|---:|---:|"]
    tokens = {"prefill": o.prompt, "decode": o.decode}
    for test, threads in sorted(rounds[0][0], key=lambda k: (k[0] == "decode", k[1])):
        theirs = [a[test, threads] for a, _ in rounds]
        ours = [b[test, threads] for _, b in rounds]
        ratio = statistics.median(y / x for x, y in zip(theirs, ours))
        lines.append(f"| {test} {tokens[test]} | {threads} | {cell(theirs)} | {cell(ours)} "
                     f"| {ratio:.2f} |")
    a, b = os.path.getsize(o.gguf), os.path.getsize(o.model)
    lines.append(f"| file, MB | | {a / 1e6:.1f} | {b / 1e6:.1f} | {b / a:.2f} |")
    return "\n".join(lines)


def main():
    a = argparse.ArgumentParser(description="speed beside llama.cpp, turn by turn")
    a.add_argument("model", help="our file, .llm")
    a.add_argument("gguf", help="llama.cpp's file of the same model, best as Q4_0")
    where = a.add_mutually_exclusive_group(required=True)
    where.add_argument("--llama", metavar="FOLDER", help="where llama-bench is")
    where.add_argument("--build", action="store_true", help="build llama.cpp in a cache folder")
    a.add_argument("--bench", default=os.path.join("build", "bench"), help="default: build/bench")
    a.add_argument("--isa", help="run ours with this instruction set; with avx2, llama.cpp is "
                                 "built for it too, otherwise for this machine")
    a.add_argument("-p", "--prompt", type=int, default=512)
    a.add_argument("-n", "--decode", type=int, default=128)
    a.add_argument("-t", "--threads", default="1,2")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="for --build")
    o = a.parse_args()
    if o.rounds < 1 or o.prompt < 1 or o.decode < 1:
        raise SystemExit("compare: --rounds, --prompt and --decode want at least 1")
    for path in (o.model, o.gguf, o.bench):
        if not os.path.isfile(path):
            raise SystemExit(f"compare: there is no file {path}")
    if o.build:
        o.llama = build_llama(o.isa, o.jobs)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        note(f"compare: the machine is busy (load {load:.1f}); the numbers will be low for both")
    rounds = measure(o)
    print(f"{os.path.basename(o.gguf)} and {os.path.basename(o.model)}, "
          f"{'--isa ' + o.isa if o.isa else 'best instruction set'}, median of {o.rounds} "
          f"rounds in turn (range), load {load:.1f} at the start\n")
    print(table(o, rounds))


if __name__ == "__main__":
    main()
