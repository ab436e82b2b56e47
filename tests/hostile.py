#!/usr/bin/env python3
"""Weights that are not finite: the same bits from every compiler and flag, see tests/test_hostile.c."""
import os

from toolchain import BUILD, Report, have, in_parallel, run

FLAGS = ["-O0", "-O2", "-Ofast -march=native"]


def main():
    report = Report("hostile weights of compilers")
    folder = os.path.join(BUILD, "hostile")
    os.makedirs(folder, exist_ok=True)

    def hash_of(job):
        compiler, flags = job
        program = os.path.join(folder, f"{compiler}{flags}".replace(" ", ""))
        status, output = run([compiler, "-std=c11", "-w", *flags.split(), "tests/test_hostile.c", "-o", program, "-lm",
                              "-lpthread"])
        if status == 0:
            status, output = run([program, os.path.join(BUILD, "models"), "--hash"])
        return output.strip().splitlines()[-2] if status == 0 else f"status {status}\n{output[-2000:]}"

    jobs = [(compiler, flags) for compiler in have(["gcc", "clang"], report) for flags in FLAGS]
    found = in_parallel(hash_of, jobs)
    for job, said in zip(jobs, found):
        print(f"{' '.join(job)}: {said}")
        report.check("; hash " in said and said == found[0], f"{' '.join(job)}: {said}, expected {found[0]}")
    report.end()


if __name__ == "__main__":
    main()
