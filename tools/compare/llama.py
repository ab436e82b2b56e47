"""llama.cpp: built from the source in the llama-cpp-python package, its files made, its programs run."""
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
PROGRAMS = ["llama-bench", "llama-quantize", "llama-batched-bench", "llama-completion", "llama-imatrix",
            "llama-perplexity"]

# Static, no OpenMP (its own thread pool is the faster of the two), nothing that is not measured.
CMAKE = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_C_COMPILER=clang", "-DCMAKE_CXX_COMPILER=clang++",
         "-DBUILD_SHARED_LIBS=OFF", "-DGGML_OPENMP=OFF", "-DLLAMA_OPENSSL=OFF",
         "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_MTMD=OFF",
         "-DLLAMA_BUILD_APP=OFF"]
CMAKE_ISA = {
    "avx2": ["-DGGML_NATIVE=OFF", "-DGGML_SSE42=ON", "-DGGML_AVX=ON", "-DGGML_AVX2=ON",
             "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON", "-DGGML_AVX512=OFF"],
    "native": ["-DGGML_NATIVE=ON"],
    # clang 14 says __AMXINT8__ where ggml asks for __AMX_INT8__, as later compilers say
    "amx": ["-DGGML_NATIVE=ON", "-DCMAKE_C_FLAGS=-D__AMX_INT8__", "-DCMAKE_CXX_FLAGS=-D__AMX_INT8__"],
}


def cache_folder(*parts):
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "llm.h", *parts)


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


def best_build():
    """Which of CMAKE_ISA is the best for this machine: with AVX2 and nothing better, one build is both."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            flags = f.read().split()
    except OSError:
        return "native"
    if "amx_int8" in flags:
        return "amx"
    return "avx2" if "avx2" in flags and "avx512f" not in flags and "avx_vnni" not in flags else "native"


def build(isa, jobs):
    """The folder of its programs, built for AVX2 or for this machine."""
    kind = "avx2" if isa == "avx2" else best_build()
    folder = cache_folder(f"llama.cpp-{VERSION}")
    target = os.path.join(folder, "build-" + kind)
    programs = os.path.join(target, "bin")
    if not all(os.path.exists(os.path.join(programs, p)) for p in PROGRAMS):
        for program in ("cmake", "clang", "clang++"):
            if not shutil.which(program):
                raise SystemExit(f"compare: building llama.cpp needs {program}")
        source = unpack_source(folder)
        subprocess.run(["cmake", "-S", source, "-B", target, *CMAKE, *CMAKE_ISA[kind]], check=True,
                       stdout=sys.stderr)
        subprocess.run(["cmake", "--build", target, "--target", *PROGRAMS, "-j", str(jobs)],
                       check=True, stdout=sys.stderr)
    return programs


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"compare: {' '.join(command)} failed ({done.returncode}):\n{done.stderr}")
    return done.stdout


def json_lines(command):
    return [json.loads(line) for line in run(command).splitlines() if line.startswith("{")]


def quantise(programs, source, output, kind):
    partial = output + ".partial"
    run([os.path.join(programs, "llama-quantize"), "--allow-requantize", source, partial, kind])
    os.replace(partial, output)


def measure(programs, path, o, vocabulary):
    """One turn: rows of test, threads, tokens, depth, batch and tokens a second, or seconds."""
    threads, rows = ",".join(map(str, o.threads)), []
    bench = [os.path.join(programs, "llama-bench"), "-m", path, "-t", threads, "-r", "1", "-o", "jsonl"]
    prompt = str(o.prompt) if "prefill" in o.tests else "0"
    decode = str(o.decode) if "decode" in o.tests else "0"
    found = json_lines([*bench, "-p", prompt, "-n", decode]) if prompt != "0" or decode != "0" else []
    if "depth" in o.tests:
        found += json_lines([*bench, "-p", "0", "-n", str(o.decode), "-d", str(o.depth)])
    for r in found:
        rows.append({"test": "prefill" if r["n_prompt"] else "decode", "threads": r["n_threads"],
                     "tokens": r["n_prompt"] or r["n_gen"], "depth": r["n_depth"], "batch": 0,
                     "tokens_per_second": r["avg_ts"]})
    for count in o.threads if "batch" in o.tests else []:
        for r in json_lines([os.path.join(programs, "llama-batched-bench"), "-m", path, "-t", str(count),
                             "-c", str(o.batch * (o.batch_decode + 1) + 64), "-npp", "1",
                             "-ntg", str(o.batch_decode), "-npl", f"1,{o.batch}",
                             "--output-format", "jsonl"]):
            rows.append({"test": "batch", "threads": count, "tokens": r["tg"] * r["pl"], "depth": 0,
                         "batch": r["pl"], "tokens_per_second": r["speed_tg"]})
    for count in o.threads if "first" in o.tests and vocabulary else []:
        start = time.monotonic()
        run([os.path.join(programs, "llama-completion"), "-m", path, "-t", str(count), "-p", o.text,
             "-n", "1", "-c", "64", "--temp", "0", "--no-warmup", "-no-cnv"])
        rows.append({"test": "first", "threads": count, "tokens": 10, "depth": 0, "batch": 0,
                     "seconds": time.monotonic() - start})
    return rows
