#!/usr/bin/env python3
"""How large the library is, as `size` counts text (code, constants, tables for unwinding), at -O2 on x86-64.

Where all is required, by each compiler; else by the first one that is here."""
import os
import platform
import shutil

from toolchain import BUILD, C_COMPILERS, REQUIRED, ROOT, Report, have, run

# What is built, its switches, and how many bytes of text it may have by each of C_COMPILERS: what it has, and 3 %.
BUILDS = [
    ("everything", [], (302000, 330000)),
    ("everything but SIMD", ["LLM_NO_AVX2"], (201000, 224000)),
    ("one instruction set, no templates, no messages",
     ["LLM_NO_AVX_VNNI", "LLM_NO_AVX512", "LLM_NO_TEMPLATE", "LLM_NO_MESSAGES"], (144500, 166000)),
]


def main():
    report = Report("size")
    compilers = have(C_COMPILERS, report)
    if platform.machine() not in ("x86_64", "AMD64") or not shutil.which("size") or not compilers:
        report.missing("a compiler and binutils on x86-64")
        report.end()
    os.makedirs(BUILD, exist_ok=True)
    source = os.path.join(BUILD, "size.c")
    with open(source, "w", encoding="ascii") as f:
        f.write('#define LLM_IMPLEMENTATION\n#include "llm.h"\n')
    for compiler in compilers if REQUIRED else compilers[:1]:
        for what, switches, limits in BUILDS:
            program = os.path.join(BUILD, f"size-{compiler}.o")
            status, output = run([compiler, "-O2", "-c", "-I", ROOT, *("-D" + s for s in switches), source, "-o", program])
            if not report.check(status == 0, f"{compiler}, {what}: it does not compile\n{output[:1000]}"):
                continue
            text, limit = int(run(["size", program])[1].splitlines()[1].split()[0]), limits[C_COMPILERS.index(compiler)]
            print(f"{compiler}, {what}: {text} bytes")
            report.check(text <= limit, f"{compiler}, {what}: {text} bytes of text, at most {limit} are allowed")
    report.end()


if __name__ == "__main__":
    main()
