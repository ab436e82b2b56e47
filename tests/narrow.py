#!/usr/bin/env python3
"""Where size_t has 32 bits: tests of everything that sizes come into, under sanitizers, and the same bits, also with
x87 arithmetic. gcc and clang with -m32; what they lack is in Debian's packages gcc-N-multilib (N is gcc's version)
and libc6-dev-i386."""
import os

from bits import SMALL, hash_of, is_hash
from toolchain import BUILD, ROOT, Report, have, in_parallel, run

FOLDER = os.path.join(BUILD, "narrow")
SANITIZED = ["-O1", "-fsanitize=address,undefined", "-fsanitize=float-cast-overflow", "-fno-sanitize-recover=all"]
TESTS = ["test_model", "test_parts", "test_adapter", "test_mutants", "test_hostile", "test_session", "test_tokenizer",
         "test_template", "test_chat", "convert/test_quantize"]
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual -Werror".split()
BITS = ["gcc -O2", "gcc -Ofast -msse2 -mfpmath=sse", "clang -O2", "clang -Ofast -msse2"]
MODELS = os.path.join(BUILD, "models")


def narrow(compiler):
    """The compiler with -m32. Other cross compilers push out the package that has <asm/errno.h>."""
    name = run(["gcc", "-print-multiarch"])[1].strip()
    return [compiler, "-m32", "-idirafter", f"/usr/include/{name}"]


def works(compiler, report):
    source, program = os.path.join(FOLDER, "probe.c"), os.path.join(FOLDER, "probe")
    with open(source, "w", encoding="ascii") as file:
        file.write("#include <errno.h>\n#include <stdlib.h>\nint main(void) { free(malloc(9)); return 0; }\n")
    status, output = run([*narrow(compiler), source, "-o", program])
    if status == 0:
        status, output = run([program])
    return status == 0 or report.missing(f"{compiler} -m32 does not work: {output.strip()[:200]}")


def check_test(report, name):
    program = os.path.join(FOLDER, os.path.basename(name))
    status, output = run([*narrow("gcc"), "-std=c11", "-w", *SANITIZED, f"tests/{name}.c", "-o", program, "-lm",
                          "-lpthread"])
    if report.check(status == 0, f"{name} does not compile\n{output[:2000]}"):
        with open(os.path.join(ROOT, f"tests/{name}.c"), encoding="utf-8") as file:
            arguments = [MODELS] if "fixture_arguments(" in file.read() else []
        status, output = run([program, *arguments])
        report.check(status == 0, f"{name}: status {status}\n{output[-2000:]}")


def check_warnings(report, compiler):
    source = os.path.join(FOLDER, "whole.c")
    with open(source, "w", encoding="ascii") as file:
        file.write("#define LLM_IMPLEMENTATION\n#include \"../../../llm.h\"\n")
    status, output = run([*narrow(compiler), "-std=c99", "-O1", *WARNINGS, "-c", source, "-o", source + compiler + ".o"])
    report.check(status == 0, f"{compiler}: {output[:2000]}")


def check_bits(report, want, flags):
    compiler, *flags = flags.split()
    program = os.path.join(FOLDER, "bits" + compiler + "".join(flags))
    status, output = run([*narrow(compiler), "-std=c11", "-w", "-DLLM_NO_TEMPLATE", *flags, "tests/bits.c", "-o", program,
                          "-lm", "-lpthread"])
    if not report.check(status == 0, f"bits.c with {compiler} {flags}\n{output[:2000]}"):
        return
    for (small, kv), expected in want.items():
        got = hash_of(program, *fixture(small), f"--kv {kv} --threads 2")
        report.check(got == expected, f"{compiler} {flags}, {small} kv {kv}: {got}, expected {expected}")


def fixture(small):
    return (os.path.join(MODELS, small + ".llm"),
            os.path.join(ROOT, "tests", "fixtures", "models", small.split(".")[0] + ".ids"))


def main():
    report = Report("32 bits")
    os.makedirs(FOLDER, exist_ok=True)
    here = [compiler for compiler in have(["gcc", "clang"], report) if works(compiler, report)]
    if "gcc" in here:
        in_parallel(lambda name: check_test(report, name), TESTS)
    in_parallel(lambda compiler: check_warnings(report, compiler), here)
    program = os.path.join(FOLDER, "native")
    status, output = run(["gcc", "-O2", "-w", "-DLLM_NO_TEMPLATE", "tests/bits.c", "-o", program, "-lm", "-lpthread"])
    if here and report.check(status == 0, output[:2000]):
        want = {(small, kv): hash_of(program, *fixture(small), f"--kv {kv}") for small in SMALL for kv in ("q8", "f16", "q4")}
        report.check(all(is_hash(text) for text in want.values()), f"native: {want}")
        in_parallel(lambda flags: check_bits(report, want, flags), [b for b in BITS if b.split()[0] in here])
    report.end()


if __name__ == "__main__":
    main()
