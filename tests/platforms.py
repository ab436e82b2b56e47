#!/usr/bin/env python3
"""Other machines, under emulation: the kernels against the scalar ones, and the same logits as here.

AArch64 (NEON with and without dot products and i8mm; gcc and clang) and big-endian s390x under qemu-user,
WebAssembly with SIMD under Node; x86-64 with AMX, AVX-512 and AVX-VNNI on one with AVX2, by other intrinsics
(tests/emulate, Debian's libsimde-dev), once with an address sanitizer. Builds tests/test_kernels.c and
tests/bits.c for each. The small models are those of tests/run.py.

Arguments: only machines whose names hold one of them.
"""
import os
import platform
import shutil
import sys

from bits import SMALL, hash_of, is_hash
from toolchain import BUILD, ROOT, Report, in_parallel, run

FOLDER = os.path.join(BUILD, "platforms")
LIBRARIES = ["-lm", "-lpthread"]
ARM = ["aarch64-linux-gnu-gcc", "-static"]

# (name, compiler and flags, how to link, what runs it, its instruction sets)
MACHINES = [
    ("aarch64 gcc -O2", [*ARM, "-O2"], ARM, ["qemu-aarch64"], ["neon-i8mm", "neon-dot", "neon", "scalar"]),
    ("aarch64 gcc -Ofast", [*ARM, "-Ofast"], ARM, ["qemu-aarch64"], ["neon-i8mm", "neon-dot", "neon"]),
    ("aarch64 clang -O2", ["clang", "--target=aarch64-linux-gnu", "-O2"], ARM, ["qemu-aarch64"],
     ["neon-i8mm", "neon-dot", "neon"]),
    ("aarch64 clang -Ofast", ["clang", "--target=aarch64-linux-gnu", "-Ofast"], ARM, ["qemu-aarch64"],
     ["neon-i8mm", "neon-dot", "neon"]),
    ("aarch64 without i8mm", [*ARM, "-O2"], ARM, ["qemu-aarch64", "-cpu", "cortex-a76"], ["neon-dot", "neon"]),
    ("aarch64 without dot products", [*ARM, "-O2"], ARM, ["qemu-aarch64", "-cpu", "cortex-a57"], ["neon"]),
    ("wasm", ["emcc", "-O2", "-msimd128"],
     ["emcc", "-sENVIRONMENT=node", "-sNODERAWFS=1", "-sALLOW_MEMORY_GROWTH=1", "-sEXIT_RUNTIME=1"],
     ["node", "--no-experimental-fetch"], ["simd128", "scalar"]),
    ("wasm -ffast-math", ["emcc", "-O3", "-ffast-math", "-msimd128"],
     ["emcc", "-sENVIRONMENT=node", "-sNODERAWFS=1", "-sALLOW_MEMORY_GROWTH=1", "-sEXIT_RUNTIME=1"],
     ["node", "--no-experimental-fetch"], ["simd128"]),
]
# x86-64 with instructions that this machine may lack: (name, compiler and flags, instruction sets).
SIMDE = "/usr/include/simde/x86/avx512.h"
EMULATED = "-mavx2 -mf16c -include tests/emulate/x86.h".split()
MORE_X86 = [
    ("x86-64 gcc, emulated", ["gcc", "-O1", "-w", *EMULATED], ["amx", "avx512", "avx-vnni", "avx2"]),
    ("x86-64 clang, emulated", ["clang", "-O1", "-fsanitize=address", *EMULATED], []),
]
BIG_ENDIAN = (["s390x-linux-gnu-gcc", "-static", "-O1"], ["qemu-s390x"])


def build(source, name, compiler, linker):
    """(program, what the compilers said); the program is None where they failed."""
    stem = os.path.join(FOLDER, name.replace(" ", "") + "-" + os.path.basename(source)[:-2])
    program = stem + (".js" if "emcc" in linker else "")
    status, output = run([*compiler, "-std=c11", "-w", "-DLLM_NO_TEMPLATE", "-c", os.path.join(ROOT, source), "-o",
                          stem + ".o"])
    if status == 0:
        status, output = run([*linker, stem + ".o", "-o", program, *LIBRARIES])
    return (program if status == 0 else None), output


def launcher(program, runner):
    """A script that runs it, so that it can be called as a program of this machine."""
    path = program + ".sh"
    with open(path, "w", encoding="ascii") as f:
        f.write(f"#!/bin/sh\nexec {' '.join([*runner, program])} \"$@\"\n")
    os.chmod(path, 0o755)
    return path


def installed(report, tools, name):
    missing = [t for t in tools if not shutil.which(t)]
    return not missing or report.missing(f"{name}: {', '.join(missing)} not installed")


def fixture(small):
    return (os.path.join(BUILD, "models", small + ".llm"),
            os.path.join(ROOT, "tests", "fixtures", "models", small.split(".")[0] + ".ids"))


def expectations(report):
    """{(small, kv): hash} by the scalar kernels of this machine."""
    program, said = build("tests/bits.c", "native", ["gcc" if shutil.which("gcc") else "cc", "-O2"], ["cc"])
    if not report.check(program, f"native build: {said[:500]}"):
        return {}
    keys = [(small, kv) for small in SMALL for kv in ("q8", "f16", "q4")]
    found = in_parallel(lambda k: hash_of(program, *fixture(k[0]), f"--kv {k[1]} --isa scalar"), keys)
    for key, text in zip(keys, found):
        report.check(is_hash(text), f"native {key}: {text}")
    return dict(zip(keys, found))


def check_machine(report, want, machine):
    name, compiler, linker, runner, isas = machine
    if not installed(report, [compiler[0], linker[0], *runner[:1]], name):
        return
    program, said = build("tests/test_kernels.c", name, compiler, linker)
    if report.check(program, f"{name}: {said[:500]}"):
        status, said = run([launcher(program, runner)])
        report.check(status == 0 and said.rstrip().endswith(" 0 failed, 0 skipped"), f"{name}, kernels: {said[-500:]}")
    if not isas:
        return
    program, said = build("tests/bits.c", name, compiler, linker)
    if not report.check(program, f"{name}: {said[:500]}"):
        return
    program = launcher(program, runner)
    best = hash_of(program, *fixture(SMALL[0]), "--count 1")
    report.check(best == hash_of(program, *fixture(SMALL[0]), f"--count 1 --isa {isas[0]}"), f"{name}: best is not {isas[0]}")
    if isas[0] == "neon":
        refused = hash_of(program, *fixture(SMALL[0]), "--count 1 --isa neon-dot")
        report.check(not is_hash(refused), f"{name}: neon-dot was not refused")
    for small, kv in want:
        for isa in isas if small == SMALL[0] else isas[:2]:
            got = hash_of(program, *fixture(small), f"--kv {kv} --isa {isa}")
            report.check(got == want[small, kv], f"{name}, {small} kv {kv} {isa}: {got}, expected {want[small, kv]}")


def more_x86(report):
    """Machines of MORE_X86, where they can be emulated."""
    if platform.machine() != "x86_64":
        return []
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        flags = set(f.read().split())
    if not os.path.exists(SIMDE) or not {"avx2", "f16c"} <= flags:
        report.missing("x86-64, emulated: libsimde-dev is not installed, or this processor has no AVX2")
        return []
    return [(name, compiler, compiler[:3], [], isas) for name, compiler, isas in MORE_X86]


def check_big_endian(report):
    compiler, runner = BIG_ENDIAN
    if not installed(report, [compiler[0], runner[0]], "big-endian"):
        return
    program, said = build("tests/bits.c", "s390x", compiler, compiler)
    if report.check(program, f"s390x: {said[:500]}"):
        said = hash_of(launcher(program, runner), *fixture(SMALL[0]), "")
        report.check("the host is big-endian, .llm files are not" in said, f"s390x: {said}")


def main():
    report = Report("other machines")
    os.makedirs(FOLDER, exist_ok=True)
    want = expectations(report)
    machines = [m for m in more_x86(report) + MACHINES if not sys.argv[1:] or any(a in m[0] for a in sys.argv[1:])]
    in_parallel(lambda machine: check_machine(report, want, machine), machines)
    if not sys.argv[1:]:
        check_big_endian(report)
    report.end()


if __name__ == "__main__":
    main()
