#!/usr/bin/env python3
"""Weights that are not finite: the same bits from every compiler, flag and machine, see tests/test_hostile.c."""
import os

import platforms
from toolchain import BUILD, Report, have, in_parallel, run

SOURCE = "tests/test_hostile.c"
FLAGS = ["-O0", "-O2", "-Ofast -march=native"]


def main():
    report = Report("hostile weights of compilers")
    os.makedirs(platforms.FOLDER, exist_ok=True)

    def hash_of(job):
        name, compiler, linker, runner = job
        program, output = platforms.build(SOURCE, name, compiler, linker)
        if not program:
            return output[:2000]
        command = platforms.launcher(program, runner) if runner else program
        status, output = run([command, os.path.join(BUILD, "models"), "--hash"])
        return output.strip().splitlines()[-2] if status == 0 else f"status {status}\n{output[-2000:]}"

    jobs = [(f"{compiler} {flags}", [compiler, *flags.split()], [compiler], []) for compiler in
            have(["gcc", "clang"], report) for flags in FLAGS]
    for name, compiler, linker, runner, _ in platforms.MACHINES:
        if platforms.installed(report, [compiler[0], linker[0], runner[0]], name):
            jobs.append((name, compiler, linker, runner))
    found = in_parallel(hash_of, jobs)
    for job, said in zip(jobs, found):
        print(f"{job[0]}: {said}")
        report.check("; hash " in said and said == found[0], f"{job[0]}: {said}, expected {found[0]}")
    report.end()


if __name__ == "__main__":
    main()
