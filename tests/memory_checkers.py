#!/usr/bin/env python3
"""Memory checkers over the C tests: valgrind with the AVX2 kernels (it knows no AVX-512; leaks count), clang's
MemorySanitizer with the scalar ones."""
import os
import re
import shutil

from toolchain import BUILD, ROOT, Report, in_parallel, run

MODELS = os.path.join(BUILD, "models")
# Every format, two threads or one, a map or pieces; see tests/once.c.
ONCE = "llama-tied q8 gemma q4 llama-odd q6 gemma-pattern q5 llama-untied q3 gemma bf16 llama-odd f32 llama-tied q2".split()
VALGRIND = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=all",
            "--errors-for-leak-kinds=all", "--fair-sched=yes"]
# Shorter than the rest of the tests, and together they call everything.
UNDER_VALGRIND = ["once", "test_chat", "test_stream", "test_session", "test_read"]
UNDER_MSAN = ["once", "test_adapter", "test_model", "test_parts", "test_mutants", "test_template", "test_forward",
              "test_sampler", "test_read", "test_session", "test_threads", "test_tokenizer", "test_chat", "test_stream", "test_kernels",
              "convert/test_quantize"]
MSAN = {**os.environ, "MSAN_OPTIONS": "allocator_may_return_null=1:exit_code=99"}


def build(report, name, compiler, flags, tag):
    """The command that runs a C test built so; None, and a failed check, if it does not compile."""
    source, program = f"tests/{name}.c", os.path.join(BUILD, f"{os.path.basename(name)}-{tag}")
    status, output = run([compiler, "-std=c11", "-O1", "-g1", *flags, source, "-o", program, "-lm", "-lpthread"])
    if not report.check(status == 0, f"{name} for {tag} does not compile\n{output[:2000]}"):
        return None
    with open(os.path.join(ROOT, source), encoding="utf-8") as f:
        return [program, MODELS] if "fixture_arguments(" in f.read() else [program]


def judge(report, name, tag, status, output):
    """The test must pass, and the checker find nothing."""
    report.check(status == 0, f"{name} under {tag}: status {status} (99: the checker's)\n{output[-3000:]}")
    counts = re.search(r": (\d+) passed, 0 failed, \d+ skipped\s*$", output)
    report.check(counts is not None and int(counts.group(1)) > 0, f"{name} under {tag}: it checked nothing")
    return re.findall(r"^\S+ \S+: [0-9a-f]{16}$", output, re.MULTILINE)


def under_valgrind(report):
    def one(name):
        program = build(report, name, "gcc", [], "valgrind")
        if not program:
            return []
        program += ["avx2", *ONCE] if name == "once" else []
        return judge(report, name, "valgrind", *run([*VALGRIND, *program], timeout=600))
    return sum(in_parallel(one, UNDER_VALGRIND), [])


def under_msan(report):
    def one(name):
        program = build(report, name, "clang", ["-fsanitize=memory", "-fno-omit-frame-pointer", "-DLLM_NO_AVX2"], "msan")
        if not program:
            return []
        program += ["scalar", *ONCE] if name == "once" else []
        return judge(report, name, "MemorySanitizer", *run(program, timeout=600, env=MSAN))
    return sum(in_parallel(one, UNDER_MSAN), [])


def main():
    report = Report("memory checkers")
    digests = []
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        avx2 = " avx2 " in f.read()
    for tool, here, check in (("valgrind", shutil.which("valgrind") and shutil.which("gcc"), under_valgrind),
                              ("clang", shutil.which("clang"), under_msan)):
        if not here:
            report.missing(f"{tool} is not installed")
        elif tool == "valgrind" and not avx2:
            report.missing("this machine has no AVX2")
        else:
            digests.append(check(report))
    report.check(all(len(d) == len(ONCE) // 2 for d in digests), "a digest is missing")
    report.check(len(digests) < 2 or digests[0] == digests[1], f"other bits under the checkers: {digests}")
    report.end()


if __name__ == "__main__":
    main()
