#!/usr/bin/env python3
"""Windows, by mingw and wine: llm.h and the programs compile without a warning for 64 and 32 bits; C tests
pass; the logits have the bits of this machine; the converter writes the same file, under any name."""
import os
import shutil

from bits import SMALL, hash_of, is_hash
from toolchain import BUILD, ROOT, Report, in_parallel, run

FOLDER = os.path.join(BUILD, "windows")
CC, CC32, CXX = "x86_64-w64-mingw32-gcc", "i686-w64-mingw32-gcc", "x86_64-w64-mingw32-g++"
STRICT = ("-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual -Werror").split()
STRICT_C = ["-Wstrict-prototypes", "-Wmissing-prototypes"]
WRAP = ["-include", "tests/windows.h"] + [f"-Wl,--wrap={f}" for f in ("malloc", "calloc", "realloc", "free")]
LIBRARIES = ["-static", "-lm", "-lpthread"]
TESTS = ["test_paths", "test_model", "test_session", "test_bits", "test_kernels", "test_tokenizer", "test_template",
         "test_chat"]
PROGRAMS = {"llm-convert": "tools/convert/convert.c", "llm-inspect": "tools/convert/inspect.c",
            **{n: f"examples/{n}.c" for n in ("bench", "chat", "evaluate", "generate", "jobs", "minimal", "profile", "tokenize")}}
FIXTURES = os.path.join("tests", "fixtures", "models")


def header_builds():
    """(what, command) for llm.h alone."""
    source = os.path.join(FOLDER, "implementation")
    for end in (".c", ".cpp"):
        with open(source + end, "w", encoding="ascii") as f:
            f.write('#define LLM_IMPLEMENTATION\n#include "llm.h"\n')
    for compiler in (CC, CC32):
        for standard, level in (("c99", "-O0"), ("c11", "-O2")):
            yield (f"{compiler} {standard} {level}",
                   [compiler, f"-std={standard}", level, *STRICT, *STRICT_C, "-I", ROOT, "-c", source + ".c", "-o",
                    os.path.join(FOLDER, f"{compiler}-{standard}.o")])
    yield f"{CXX} c++11", [CXX, "-std=c++11", "-O1", *STRICT, "-I", ROOT, "-c", source + ".cpp", "-o", source + ".o"]


def program(name):
    return os.path.join(FOLDER, name + ".exe")


def builds():
    yield from header_builds()
    for name, source in PROGRAMS.items():
        yield name, [CC, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", program(name), *LIBRARIES]
    for name, flags in (("bits", ["-O2"]), ("bits-fast", ["-Ofast", "-march=native"])):
        yield name, [CC, "-std=c11", *flags, "-w", "-DLLM_NO_TEMPLATE", "tests/bits.c", "-o", program(name),
                     *LIBRARIES]
    for name in TESTS:
        yield name, [CC, "-std=c11", "-O1", "-w", *WRAP, f"tests/{name}.c", "-o", program(name), *LIBRARIES]


class Wine:
    """Runs Windows programs, with a folder of its own for what wine keeps."""

    def __init__(self):
        self.command = shutil.which("wine64") or "/usr/lib/wine/wine64"
        if not os.path.exists(self.command):
            self.command = shutil.which("wine")
        self.environment = {**os.environ, "WINEPREFIX": os.path.join(FOLDER, "prefix"), "WINEDEBUG": "-all",
                            "WINEDLLOVERRIDES": "mscoree=;mshtml=", "LC_ALL": "C.UTF-8"}

    def start(self):
        return run([self.command, "wineboot", "--init"], timeout=120, env=self.environment)

    def run(self, *command, **options):
        return run([self.command, *command], env=self.environment, **options)

    def launcher(self, path):
        """A script that runs the program, so that it can be called as one of this machine."""
        script = path + ".sh"
        with open(script, "w", encoding="ascii") as f:
            f.write(f'#!/bin/sh\nexport WINEPREFIX="{self.environment["WINEPREFIX"]}" WINEDEBUG=-all\n'
                    f'exec "{self.command}" "{path}" "$@" 2>/dev/null\n')
        os.chmod(script, 0o755)
        return script


def check_tests(report, wine, built):
    def check(name):
        arguments = [os.path.join("build", "tests", "models")] if name != "test_template" else []
        status, said = wine.run(program(name), *arguments, timeout=400)
        report.check(status == 0 and " 0 failed, " in said.rstrip().rsplit("\n", 1)[-1],
                     f"{name}: status {status}: {said[-600:]}")
    in_parallel(check, [n for n in TESTS if built[n]])


def check_bits(report, wine, built):
    native = os.path.join(FOLDER, "bits-native")
    status, said = run(["gcc" if shutil.which("gcc") else "cc", "-O2", "-w", "-DLLM_NO_TEMPLATE", "tests/bits.c", "-o",
                        native, "-lm", "-lpthread"])
    if not report.check(status == 0, f"native build: {said[:500]}"):
        return
    for small in SMALL:
        model = os.path.join("build", "tests", "models", small + ".llm")
        ids = os.path.join(FIXTURES, small.split(".")[0] + ".ids")
        want = hash_of(native, model, ids, "")
        report.check(is_hash(want), f"{small} here: {want}")
        for name in ("bits", "bits-fast"):
            for options in ("", "--isa scalar", "--threads 2"):
                if built[name]:
                    got = hash_of(wine.launcher(program(name)), model, ids, options)
                    report.check(got == want, f"{name} {small} {options}: {got}, expected {want}")


def same(a, b):
    with open(a, "rb") as x, open(b, "rb") as y:
        return x.read() == y.read()


def check_programs(report, wine):
    """The converter's file, the logits and the text, read and written under names outside every code page."""
    folder = os.path.join(FOLDER, "wörter 模型")
    os.makedirs(folder, exist_ok=True)
    model, text, logits = (os.path.join(folder, n) for n in ("modèle 🙂.llm", "テキスト.txt", "логиты.bin"))
    for path in (model, logits):
        if os.path.exists(path):
            os.remove(path)
    shutil.copy(os.path.join(ROOT, "tests", "data", "text.txt"), text)
    with open(text, "r+b") as f:
        f.truncate(2000)
    native, gguf = os.path.join(BUILD, "models", "gemma.q4.llm"), os.path.join(FIXTURES, "gemma.gguf")
    for _ in range(2):  # the second time it replaces the first
        status, said = wine.run(program("llm-convert"), gguf, model, "--type", "q4", "--fast", "--quiet")
        if not report.check(status == 0 and same(model, native), f"llm-convert: status {status}: {said[-500:]}"):
            return
    report.check(os.listdir(folder).count(os.path.basename(model)) == 1 and
                 not [n for n in os.listdir(folder) if n.endswith(".tmp")], f"left behind: {os.listdir(folder)}")
    status, said = wine.run(program("llm-inspect"), model, "--verify")
    report.check(status == 0 and "gemma3" in said, f"llm-inspect: status {status}: {said[-500:]}")
    evaluate = os.path.join(FOLDER, "evaluate-native")
    status, said = run(["gcc" if shutil.which("gcc") else "cc", "-O2", "examples/evaluate.c", "-o", evaluate, "-lm",
                        "-lpthread"])
    report.check(status == 0, f"evaluate: {said[-500:]}")
    run([evaluate, model, text, "--ctx", "64", "--logits", logits + ".native"])
    status, said = wine.run(program("evaluate"), model, text, "--ctx", "64", "--logits", logits)
    report.check(status == 0 and os.path.getsize(logits) > 0 and same(logits, logits + ".native"),
                 f"evaluate: status {status}: {said[-500:]}")
    status, said = wine.run(program("generate"), model, "-p", "Grüße 你好", "-n", "8", "--ids")
    report.check(status == 0, f"generate: status {status}: {said[-500:]}")
    status, said = wine.run(program("llm-convert"), gguf, os.path.join(folder, "no", "x.llm"))
    report.check(status == 1 and "cannot be created" in said, f"no such folder: status {status}: {said[-500:]}")


def main():
    report = Report("windows")
    os.makedirs(FOLDER, exist_ok=True)
    wine = Wine()
    missing = [c for c in (CC, CC32, CXX) if not shutil.which(c)] + ([] if wine.command else ["wine"])
    if missing:
        report.missing(f"{', '.join(missing)} not installed")
        report.end()
    jobs = [("wine", None)] + list(builds())
    results = in_parallel(lambda job: wine.start() if job[1] is None else run(job[1]), jobs)
    built = {}
    for (name, command), (status, said) in zip(jobs, results):
        built[name] = report.check(status == 0, f"{name}: {' '.join(command or [])}\n{said[-1500:]}")
    if built["wine"]:
        check_tests(report, wine, built)
        check_bits(report, wine, built)
        if built["llm-convert"] and built["llm-inspect"] and built["evaluate"] and built["generate"]:
            check_programs(report, wine)
    report.end()


if __name__ == "__main__":
    main()
