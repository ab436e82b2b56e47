#!/usr/bin/env python3
"""Builds tests/soak.c and runs it: soak.py TOKENS [SEED...]"""
import os
import shutil
import sys

from toolchain import BUILD, C_COMPILERS, Report, run


def main():
    report = Report("soak")
    tokens, seeds = sys.argv[1], sys.argv[2:] or ["1"]
    program, found = os.path.join(BUILD, f"soak-{tokens}"), [c for c in C_COMPILERS if shutil.which(c)]
    os.makedirs(BUILD, exist_ok=True)
    status, output = run([(found or ["cc"])[0], "-std=c11", "-O2", "-g", "-Wall", "-Wextra", "tests/soak.c", "-o", program,
                          "-lm", "-lpthread"])
    if not report.check(status == 0, f"it does not compile\n{output[:2000]}"):
        report.end()
    for seed in seeds:
        status, output = run([program, os.path.join(BUILD, "models"), tokens, seed], timeout=600)
        print(output[-3000:], end="")
        report.check(status == 0, f"{tokens} tokens, seed {seed}: status {status}")
    report.end()


if __name__ == "__main__":
    main()
