#!/usr/bin/env python3
"""Fuzzers of everything that takes data from outside. Needs clang with libFuzzer, but for --replay.

    tests/fuzz/run.py [--seconds N] [NAME...]       from the kept inputs, N seconds of all targets together (600), two at a time
    tests/fuzz/run.py --replay                      the kept inputs once, with the normal compiler
    tests/fuzz/run.py --campaign [--executions N] [--jobs N] [NAME...]
                                                    N executions of each (10,000,000), a twentieth of them under
                                                    AddressSanitizer; may be stopped and started again
    tests/fuzz/run.py --keep [NAME...]              the campaign's inputs, minimised, become the kept ones
    tests/fuzz/run.py --table                       counts and coverage to the table in docs/reliability.md

A target is a function in fuzz_NAME.c; all.c makes one program of them. Kept inputs are in
corpus/NAME.pack, inputs that once broke something in corpus/NAME.what-it-was. What a run finds is
written to build/tests/fuzz/found/NAME-crash-..., a failure; a hang of ten seconds and memory beyond two
gigabytes are failures as well.
"""
import glob
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import seeds  # noqa: E402
from toolchain import BUILD, JOBS, ROOT, Report, in_parallel, run  # noqa: E402

FOLDER = os.path.join(BUILD, "fuzz")
CORPUS = os.path.join(HERE, "corpus")
FOUND = os.path.join(FOLDER, "found")
RECORD = os.path.join(FOLDER, "record.json")
DOCUMENT = os.path.join(ROOT, "docs", "reliability.md")
MARKS = ("<!-- fuzzers: tests/fuzz/run.py --table -->", "<!-- end of fuzzers -->")
SOURCE = "tests/fuzz/all.c"
LIBRARIES = ["-lm", "-lpthread"]
SANITIZE = ["-fsanitize=address,undefined", "-fsanitize=float-cast-overflow", "-fno-sanitize-recover=all"]
BUILDS = {
    "asan": ["clang", "-std=c11", "-O1", "-g1", "-fsanitize=fuzzer", *SANITIZE],
    "ubsan": ["clang", "-std=c11", "-O2", "-g1", "-fsanitize=fuzzer,undefined", "-fsanitize-trap=undefined",
              "-fno-sanitize-coverage=trace-cmp"],
    "coverage": ["clang", "-std=c11", "-O1", "-DFUZZ_REPLAY", "-fprofile-instr-generate", "-fcoverage-mapping"],
}
MODELS = ["llama-tied.q4", "gemma-pattern.q8", "llama-odd.q8"]
PACK_MOST = {"gguf": 400 << 10, "imatrix": 64 << 10}  # bytes of a pack, if not 160 KB
LONGEST = {"gguf": 12288, "llama2c": 6144, "safetensors": 4096, "tokenizer_json": 4096, "calls": 1024, "sampler": 1024, "adapter": 512, "imatrix": 4096, "lora": 3072}  # bytes of an input, if not 2048
# What a target reaches first: >>tags of llm.h, and files.
ABOUT = {
    "llm": ["file", "model", "tokenizer-merge"],
    "gguf": ["tools/convert/gguf.h", "tools/convert/vocabulary.h", "tools/convert/tokenizer_build.h"],
    "safetensors": ["tools/convert/json.h", "tools/convert/safetensors.h", "tools/convert/huggingface.h"],
    "llama2c": ["tools/convert/llama2c.h"],
    "tokenizer_json": ["tools/convert/tokenizer_json.h", "tools/convert/tokenizer_build.h"],
    "template": ["template"],
    "text": ["tokenizer-pre", "tokenizer-merge", "tokenizer-calls"],
    "sampler": ["sampler"],
    "calls": ["evaluate", "cache", "chat"],
    "adapter": ["adapter"],
    "imatrix": ["tools/convert/imatrix.h"],
    "lora": ["tools/convert/adapter.h", "tools/convert/peft.h"],
}
TARGETS = list(ABOUT)


# ---- programs -----------------------------------------------------------------------------------

def models():
    """The models that the fuzzers open; what went wrong, or nothing. tests/run.py makes those of fixtures too."""
    folder, program = os.path.join(BUILD, "models"), os.path.join(BUILD, "llm-convert")
    newest = max(os.path.getmtime(s) for s in sources() + [seeds.__file__])
    wanted = [(f"tests/fixtures/models/{m.split('.')[0]}.gguf", m.split(".")[1], os.path.join(folder, m + ".llm"))
              for m in MODELS]
    for name, kind, data in seeds.tiny_models():
        wanted.append((os.path.join(FOLDER, name + ".gguf"), kind, os.path.join(FOLDER, f"{name}.{kind}.llm")))
        with open(wanted[-1][0], "wb") as f:
            f.write(data)
    wanted = [w for w in wanted if not os.path.exists(w[2]) or os.path.getmtime(w[2]) < newest]
    if wanted and (not os.path.exists(program) or os.path.getmtime(program) < newest):
        program = os.path.join(FOLDER, "llm-convert")
        status, said = run([find_compiler(), "-O1", "tools/convert/convert.c", "-o", program, *LIBRARIES])
        if status:
            return said
    os.makedirs(folder, exist_ok=True)
    for source, kind, to in wanted:
        status, said = run([program, source, to, "--type", kind, "--fast", "--quiet"])
        if status:
            return said
    return ""


def sources():
    return [os.path.join(ROOT, "llm.h"), *sorted(glob.glob(os.path.join(ROOT, "tools/convert/*"))),
            *sorted(glob.glob(os.path.join(HERE, "*.[ch]")))]


def find_compiler():
    return next((n for n in (os.environ.get("CC", "").split()[:1] + ["gcc", "clang", "cc"]) if shutil.which(n)), "cc")


def build(kind):
    """Compiles all.c; libFuzzer's program gets a name for each target. Returns what went wrong."""
    folder = os.path.join(FOLDER, kind)
    os.makedirs(folder, exist_ok=True)
    program, stamp = os.path.join(folder, "all"), os.path.join(folder, "made-of")
    made_of = repr([BUILDS[kind]] + [(s, os.path.getmtime(s)) for s in sources()])
    if os.path.exists(program) and os.path.exists(stamp):
        with open(stamp, encoding="utf-8") as f:
            if f.read() == made_of:
                return ""
    status, said = run([*BUILDS[kind], SOURCE, "-o", program, *LIBRARIES], timeout=1800)
    if status == 0:
        with open(stamp, "w", encoding="utf-8") as f:
            f.write(made_of)
    for target in TARGETS:
        link = os.path.join(folder, target)
        if os.path.lexists(link):
            os.remove(link)
        os.symlink("all", link)
    return said[-3000:] if status else ""


def unpack(target, folder):
    """The kept inputs as files, which is what libFuzzer reads."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(CORPUS, target + ".pack")
    data, at = b"", 0
    if os.path.exists(path):
        with open(path, "rb") as f:
            data = f.read()
    while at + 4 <= len(data):
        size = struct.unpack_from("<I", data, at)[0]
        with open(os.path.join(folder, f"kept-{at:07d}"), "wb") as f:
            f.write(data[at + 4:at + 4 + size])
        at += 4 + size
    for path in glob.glob(os.path.join(CORPUS, target + ".*")):
        if not path.endswith(".pack"):
            shutil.copy(path, folder)


class Run:
    """One run of libFuzzer: what it says at its end, and how it ended."""

    def __init__(self, kind, target, folders, *options):
        os.makedirs(FOUND, exist_ok=True)
        words = os.path.join(HERE, target + ".dict")
        command = [os.path.join(FOLDER, kind, target), "-timeout=10", "-rss_limit_mb=2048",
                   f"-max_len={LONGEST.get(target, 2048)}", "-print_final_stats=1", f"-artifact_prefix={os.path.join(FOUND, target)}-", *options]
        command += [f"-dict={words}"] if os.path.exists(words) else []
        self.began = time.time()
        with open(os.path.join(FOLDER, f"{target}.{kind}.log"), "wb") as log:
            self.status = subprocess.call([*command, *folders], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        self.seconds = time.time() - self.began
        with open(log.name, encoding="utf-8", errors="replace") as f:
            self.said = f.read()
        self.executions = self.number(r"stat::number_of_executed_units: +(\d+)")
        self.edges, self.features = self.number(r" cov: (\d+)"), self.number(r" ft: (\d+)")
        found = re.findall(r"Test unit written to (\S+)", self.said)
        self.crash = found[-1] if found else ""

    def number(self, pattern):
        found = re.findall(pattern, self.said)
        return int(found[-1]) if found else 0

    def why(self):
        end = re.search(r"(?m)^(tests/fuzz/\S+:\d+: .*|SUMMARY: .*|.*runtime error.*|ERROR: .*)$", self.said)
        return f"{end.group(1) if end else self.said[-500:]}; {self.crash or 'no input was written'}"


# ---- the ways to run ----------------------------------------------------------------------------

def fuzz(report, names, seconds):
    """What CI does: every target for its share of the time."""
    said = build("asan")
    if not report.check(not said, f"all.c does not compile: {said}"):
        return
    each = max(1, seconds // len(names))

    def one(target):
        folder = os.path.join(FOLDER, "run", target)
        shutil.rmtree(folder, ignore_errors=True)
        unpack(target, folder)
        return target, Run("asan", target, [folder], f"-max_total_time={each}")
    for target, r in in_parallel(one, names):
        print(f"{target}: {r.executions} executions in {r.seconds:.0f} s, {r.edges} edges, {r.features} features")
        report.check(r.status == 0 and r.executions > 0, f"{target}: {r.why()}")


def replay(report, names):
    """The kept inputs through the targets as the normal compiler makes them."""
    compiler, program = find_compiler(), os.path.join(FOLDER, "replay")
    for flags, environment in ((SANITIZE, {}), (SANITIZE, {"ASAN_OPTIONS": "detect_leaks=0"}), ([], {})):
        status, said = run([compiler, "-std=c11", "-O1", "-g1", "-DFUZZ_REPLAY", "-DLLM_NO_AVX512", *flags, SOURCE, "-o", program,
                            *LIBRARIES])
        if status == 0 and run([program], timeout=20, env={**os.environ, **environment})[0] == 0:
            break
    if not report.check(status == 0, f"all.c does not compile: {said[-3000:]}"):
        return
    for target in names:
        for path in sorted(glob.glob(os.path.join(CORPUS, target + ".*"))):
            status, said = run([program, path], timeout=300, env={**os.environ, **environment})
            report.check(status == 0, f"{os.path.relpath(path, ROOT)}: {said[-2000:]}")
        report.check(os.path.exists(os.path.join(CORPUS, target + ".pack")), f"{target}: there is no pack")


def load_record():
    if not os.path.exists(RECORD):
        return {}
    with open(RECORD, encoding="ascii") as f:
        return json.load(f)


def campaign(report, names, executions, jobs):
    """Until every target has had its executions, in pieces, so that little is lost when it is stopped."""
    for kind in ("ubsan", "asan"):
        said = build(kind)
        if not report.check(not said, f"all.c does not compile: {said}"):
            return
    seeds.write(os.path.join(FOLDER, "seeds"))
    record, lock = load_record(), threading.Lock()

    def one(target):
        folder = os.path.join(FOLDER, "work", target)
        unpack(target, folder)
        for path in glob.glob(os.path.join(FOLDER, "seeds", target, "*")):
            shutil.copy(path, folder)
        for kind, share in (("asan", executions // 20), ("ubsan", executions - executions // 20)):
            while (left := share - record.get(target, {}).get(kind, 0)) > 0:
                r = Run(kind, target, [folder], f"-runs={min(left, 1000000)}", "-max_total_time=300", "-entropic=0")
                with lock:
                    mine = record.setdefault(target, {})
                    mine[kind] = mine.get(kind, 0) + r.executions
                    mine["edges"], mine["features"] = r.edges, r.features
                    mine["seconds"] = mine.get("seconds", 0) + r.seconds
                    with open(RECORD, "w", encoding="ascii") as f:
                        json.dump(record, f, indent=1, sort_keys=True)
                print(f"{target} {kind}: {mine[kind]} executions, {r.edges} edges, {r.features} features", flush=True)
                if not report.check(r.status == 0 and r.executions > 0, f"{target}: {r.why()}"):
                    return
    waiting = list(names)

    def lane():
        while waiting:
            one(waiting.pop(0))
    lanes = [threading.Thread(target=lane) for _ in range(jobs)]
    for t in lanes:
        t.start()
    for t in lanes:
        t.join()


def keep(report, names):
    """Minimises the campaign's inputs by what they cover, the smallest first, into packs."""
    said = build("ubsan")
    if not report.check(not said, f"all.c does not compile: {said}"):
        return
    os.makedirs(CORPUS, exist_ok=True)
    for target in names:
        work, small = os.path.join(FOLDER, "work", target), os.path.join(FOLDER, "kept", target)
        shutil.rmtree(small, ignore_errors=True)
        os.makedirs(small)
        r = Run("ubsan", target, [small, work], "-merge=1")
        inputs, size, data = [], 0, b""
        for path in glob.glob(os.path.join(small, "*")):
            with open(path, "rb") as f:
                inputs.append(f.read())
        for one in sorted(inputs, key=lambda i: (len(i), i)):
            size += 4 + len(one)
            data += struct.pack("<I", len(one)) + one if size <= PACK_MOST.get(target, 160 << 10) else b""
        with open(os.path.join(CORPUS, target + ".pack"), "wb") as f:
            f.write(data)
        report.check(r.status == 0 and data, f"{target}: {r.why()}")
        print(f"{target}: {len(inputs)} inputs, {size} bytes, {len(data)} kept")


# ---- the table ----------------------------------------------------------------------------------

def lines_about(target, profile):
    """(lines run, lines) of what the target is about, when its kept inputs are replayed."""
    import coverage
    program = os.path.join(FOLDER, "coverage", "all")
    ran = total = 0
    files = [a for a in ABOUT[target] if "/" in a]
    tags = [a for a in ABOUT[target] if "/" not in a]
    for source in files + (["llm.h"] if tags else []):
        inside = coverage.lines_of(tags)[0] if source == "llm.h" else None
        status, said = run([coverage.tool("llvm-cov"), "show", program, f"-instr-profile={profile}",
                            "-show-instantiations=false", os.path.join(ROOT, source)])
        if status:
            sys.exit(f"run.py: {said[-2000:]}")
        for text in said.splitlines():
            line = coverage.LINE.match(text)
            if line and line.group(2) is not None and (inside is None or int(line.group(1)) in inside):
                total += 1
                ran += line.group(2) != "0"
    return ran, total


def table(report, names):
    import coverage
    said = build("coverage")
    if not report.check(not said, f"all.c does not compile: {said}"):
        return
    record, rows = load_record(), []
    for target in names:
        raw, profile = (os.path.join(FOLDER, "coverage", target + end) for end in (".profraw", ".profdata"))
        inputs = sorted(glob.glob(os.path.join(CORPUS, target + ".*")))
        status, said = run([os.path.join(FOLDER, "coverage", "all"), *inputs],
                           env={**os.environ, "LLVM_PROFILE_FILE": raw})
        report.check(status == 0, f"{target}: {said[-1000:]}")
        run([coverage.tool("llvm-profdata"), "merge", "-sparse", raw, "-o", profile])
        ran, total = lines_about(target, profile)
        mine = record.get(target, {})
        rows.append(f"| {target} | {mine.get('ubsan', 0):,} | {mine.get('asan', 0):,} | {mine.get('edges', 0):,} | "
                    f"{', '.join(a.replace('tools/convert/', '') for a in ABOUT[target])} | "
                    f"{ran:,} of {total:,} ({100 * ran / max(total, 1):.1f} %) |")
    head = ["| target | executions, UBSan | ASan + UBSan | edges reached | about | lines run by the kept inputs |",
            "|---|---|---|---|---|---|"]
    with open(DOCUMENT, encoding="utf-8") as f:
        text = f.read()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    old = {r.split("|")[1].strip(): r for r in text[begin:end].strip().splitlines()[2:]}
    old.update({r.split("|")[1].strip(): r for r in rows})
    rows = [old[t] for t in TARGETS if t in old]
    with open(DOCUMENT, "w", encoding="utf-8") as f:
        f.write(text[:begin] + "\n" + "\n".join(head + rows) + "\n" + text[end:])
    print("\n".join(rows))


def option(arguments, name, value):
    if name in arguments:
        at = arguments.index(name)
        value = int(arguments[at + 1])
        del arguments[at:at + 2]
    return value


def main():
    arguments = sys.argv[1:]
    seconds, executions = option(arguments, "--seconds", 600), option(arguments, "--executions", 10000000)
    jobs = option(arguments, "--jobs", JOBS)
    modes = [a for a in arguments if a.startswith("-")]
    names = [a for a in arguments if not a.startswith("-")] or TARGETS
    if any(n not in TARGETS for n in names) or any(m not in ("--campaign", "--replay", "--keep", "--table") for m in modes):
        print(__doc__ + "\ntargets: " + " ".join(TARGETS))
        return
    report = Report("fuzz corpus" if "--replay" in modes else "fuzz")
    os.makedirs(FOLDER, exist_ok=True)
    said = models()
    if said:
        report.check(False, f"the small models cannot be made: {said[-2000:]}")
    elif "--replay" in modes:
        replay(report, names)
    elif not shutil.which("clang"):
        report.missing("clang is not installed")
    elif not probe():
        report.missing("clang has no libFuzzer")
    elif "--campaign" in modes:
        campaign(report, names, executions, jobs)
    elif "--keep" in modes:
        keep(report, names)
    elif "--table" in modes:
        table(report, names)
    else:
        fuzz(report, names, seconds)
    report.end()


def probe():
    source, program = os.path.join(FOLDER, "probe.c"), os.path.join(FOLDER, "probe")
    with open(source, "w", encoding="ascii") as f:
        f.write("#include <stddef.h>\n#include <stdint.h>\n"
                "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { return (void)d, (void)n, 0; }\n")
    return run(["clang", "-fsanitize=fuzzer,address,undefined", source, "-o", program])[0] == 0 and \
        run([program, "-runs=10"], timeout=60)[0] == 0


if __name__ == "__main__":
    main()
