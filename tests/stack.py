#!/usr/bin/env python3
"""tests/stack.c by two compilers, optimised and not: everything fits a stack of 64 KB. Where all is required, each
compiler builds it both ways; else one is enough for each."""
import os
import shutil

from toolchain import BUILD, C_COMPILERS, REQUIRED, Report, have, run

BUILDS = [(c, o) for c in C_COMPILERS for o in ("-O0", "-O2")] if REQUIRED else [("gcc", "-O0"), ("clang", "-O2")]


def main():
    report = Report("stack")
    have(C_COMPILERS, report)
    os.makedirs(BUILD, exist_ok=True)
    for compiler, level in BUILDS:
        if not shutil.which(compiler):
            continue
        program = os.path.join(BUILD, f"stack-{compiler}{level}")
        status, output = run([compiler, "-std=c11", level, "-g", "-Wall", "-Wextra", "tests/stack.c", "-o", program, "-lm",
                              "-lpthread"])
        if not report.check(status == 0, f"{compiler} {level}: it does not compile\n{output[:2000]}"):
            continue
        status, output = run([program, os.path.join(BUILD, "models")], timeout=120)
        report.check(status == 0, f"{compiler} {level}: status {status} (below 0: a signal)\n{output[-2000:]}")
        lines = output.splitlines()
        print(f"{compiler} {level}: {lines[-2] if len(lines) > 1 else ''}")
        print("\n".join("  " + line for line in lines[:-2]))
    report.end()


if __name__ == "__main__":
    main()
