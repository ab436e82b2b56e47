#!/usr/bin/env python3
"""One file, clean anywhere: strict flags, every standard and compiler, two files in one program,
another name, every switch (with every compiler where LLM_TESTS_REQUIRE=1); and what the object
asks of its process and keeps in it."""
import os
import shutil
import subprocess

from toolchain import BUILD, C_COMPILERS, CXX_COMPILERS, REQUIRED, ROOT, Report, have, in_parallel, run

FOLDER = os.path.join(BUILD, "flags")
STRICT = ("-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual "
          "-Werror").split()
STRICT_C = ["-Wstrict-prototypes", "-Wmissing-prototypes"]
LIBRARIES = ["-lm", "-lpthread"]
SWITCHES = ["LLM_STATIC", "LLM_NO_THREADS", "LLM_NO_MMAP", "LLM_NO_AVX2", "LLM_NO_AVX_VNNI", "LLM_NO_AVX512",
            "LLM_NO_AMX", "LLM_NO_TEMPLATE", "LLM_NO_MESSAGES"]

IMPLEMENTATION = '#define LLM_IMPLEMENTATION\n#include "llm.h"\n'
USE = """#include "llm.h"
int main(void) {
    llm_model *model;
    llm_model_desc desc = {0};
    llm_error error;
    desc.path = "/no/such/file";
    desc.error = &error;
    return llm_model_open(&model, &desc) ? 0 : 1;
}
"""
SOURCES = {
    "implementation.c": IMPLEMENTATION,
    "use.c": USE,
    "use_again.c": '#include "llm.h"\n#include "llm.h"\nconst char *name(void);\n'
                   "const char *name(void) { return llm_result_name(LLM_OK); }\n",
    "late.c": "#include <stdio.h>\n#include <string.h>\n" + IMPLEMENTATION + USE,
    "other_name.c": '#define LLM_IMPLEMENTATION\n#include "something else.h"\n' +
                    USE.replace('"llm.h"', '"something else.h"'),
    "whole.c": IMPLEMENTATION + USE,
}

# All that a guest may ask of its process; what is not here (exit, abort, printf, getenv, signal, ...) is refused.
# What -D_FORTIFY_SOURCE and compilers make of these (__memcpy_chk, bcmp) counts as the same.
ALLOWED = set("""memchr memcmp bcmp memcpy memmove memset strchr strcmp strlen abs snprintf vsnprintf
malloc free open close fstat mmap munmap madvise mlock munlock getrlimit sysconf getpid clock_gettime sched_yield select getrusage syscall errno_location
pthread_attr_init pthread_attr_setstacksize pthread_attr_destroy pthread_create pthread_join
pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock pthread_mutex_destroy
pthread_cond_init pthread_cond_wait pthread_cond_broadcast pthread_cond_destroy
stack_chk_fail""".split())
# Sections that can be written when the program runs.
WRITABLE = {".data", ".bss", ".tdata", ".tbss", "COMMON"}


def write_sources():
    os.makedirs(FOLDER, exist_ok=True)
    for name, text in SOURCES.items():
        for path in (name, name[:-2] + ".cpp"):
            changed = text.replace("desc = {0}", "desc = {}") if path.endswith(".cpp") else text
            with open(os.path.join(FOLDER, path), "w", encoding="ascii") as f:
                f.write(changed)
    shutil.copy(os.path.join(ROOT, "llm.h"), os.path.join(FOLDER, "something else.h"))


def command(compiler, standard, flags, sources, output=None):
    """Compiles to an object where one source and no output is given, else to a program."""
    cxx = "++" in compiler
    sources = [os.path.join(FOLDER, s if not cxx else s[:-2] + ".cpp") for s in sources]
    strict = STRICT + ([] if cxx else STRICT_C)
    tail = ["-o", os.path.join(FOLDER, output), *LIBRARIES] if output else ["-c", "-o", "/dev/null"]
    return [compiler, f"-std={standard}", "-pedantic-errors", *strict, *flags, "-I", ROOT, *sources, *tail]


def matrix(c_compilers, cxx_compilers):
    """(what, command, run it?) for everything that must compile without a word."""
    pairs = [(c, s) for c in c_compilers for s in ("c99", "c11")] + [(c, "c++11") for c in cxx_compilers]
    for compiler, standard in pairs:
        tag = f"{compiler} {standard}"
        short = tag.replace(" ", "-")
        for level in ("-O0", "-O3"):
            yield f"{tag} {level}", command(compiler, standard, [level], ["implementation.c"]), None
        if standard == "c11":
            continue
        yield (f"{tag}: three files, one implementing",
               command(compiler, standard, ["-O0"], ["use.c", "use_again.c", "implementation.c"], f"three-{short}"),
               f"three-{short}")
        yield (f"{tag}: another file name",
               command(compiler, standard, ["-O0"], ["other_name.c"], f"other-{short}"), f"other-{short}")
        yield (f"{tag}: after other headers",
               command(compiler, standard, ["-O0"], ["late.c"], f"late-{short}"), f"late-{short}")
        for switch in SWITCHES if REQUIRED or compiler in ("gcc", "clang++") else []:
            output = f"{switch}-{short}"
            yield (f"{tag} -D{switch}",
                   command(compiler, standard, ["-O0", "-D" + switch], ["whole.c"], output), output)
        everything = ["-O1", *("-D" + s for s in SWITCHES)]
        yield f"{tag}: all switches", command(compiler, standard, everything, ["whole.c"], f"all-{short}"), f"all-{short}"


def check_builds(report, jobs):
    def build(job):
        what, line, program = job
        status, output = run(line)
        if status == 0 and program:
            status, output = run([os.path.join(FOLDER, program)], timeout=60)
            what += ": running it"
        return what, status, output
    for what, status, output in in_parallel(build, jobs):
        if not report.check(status == 0, f"{what}: status {status}"):
            print(output[:1500])


def check_mixed(report, c_compiler, cxx_compiler):
    """Implemented in C, used from C++."""
    objects = [os.path.join(FOLDER, n) for n in ("mixed_c.o", "mixed_cxx.o")]
    program = os.path.join(FOLDER, "mixed")
    lines = [[c_compiler, "-c", "-I", ROOT, os.path.join(FOLDER, "implementation.c"), "-o", objects[0]],
             [cxx_compiler, "-c", "-I", ROOT, os.path.join(FOLDER, "use.cpp"), "-o", objects[1]],
             [cxx_compiler, *objects, "-o", program, *LIBRARIES], [program]]
    for line in lines:
        status, output = run(line)
        if not report.check(status == 0, " ".join(line)):
            print(output[:1500])
            return


def plain_name(symbol):
    """open of open@GLIBC_2.2.5, memcpy of __memcpy_chk."""
    name = symbol.split("@")[0]
    name = name[len("__isoc23_"):] if name.startswith("__isoc23_") else name
    name = name[2:] if name.startswith("__") else name
    return name[:-4] if name.endswith("_chk") else name


def check_symbols(report, compiler, flags):
    """Undefined symbols: the listed ones. Defined ones: no data that can be written, also without a name."""
    path = os.path.join(FOLDER, f"symbols-{compiler}.o")
    status, output = run([compiler, *flags, "-c", "-I", ROOT, os.path.join(FOLDER, "implementation.c"), "-o", path])
    what = f"{compiler} {' '.join(flags)}"
    if not report.check(status == 0, what):
        print(output[:1500])
        return
    symbols = [line.split() for line in
               subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.splitlines()]
    undefined = {s[-1] for s in symbols if s[-2] in "Uw"}
    strange = sorted(s for s in undefined if plain_name(s) not in ALLOWED and s != "_GLOBAL_OFFSET_TABLE_")
    writable = [s[-1] for s in symbols if s[-2] in "bBdDCsSgG"]
    foreign = [s[-1] for s in symbols if s[-2] in "TRVW" and not s[-1].startswith("llm_")]
    sections = [line.split() for line in
                subprocess.run(["size", "-A", path], capture_output=True, text=True, check=True).stdout.splitlines()]
    written = [s[0] for s in sections if len(s) == 3 and s[1] != "0" and not s[0].startswith(".data.rel.ro") and
               any(s[0] == w or s[0].startswith(w + ".") for w in WRITABLE)]
    report.check(len(undefined) > 20 and not strange, f"{what}: it calls {strange}")
    report.check(not writable and not written, f"{what}: data that can be written: {writable} {written}")
    report.check(not foreign, f"{what}: names that are not llm_...: {foreign}")
    if flags == ["-O2"]:
        print(f"{what} asks for: {' '.join(sorted(undefined))}")


def main():
    report = Report("flags")
    write_sources()
    c_compilers, cxx_compilers = have(C_COMPILERS, report), have(CXX_COMPILERS, report)
    if not c_compilers:
        report.missing("no C compiler")
        report.end()
    check_builds(report, list(matrix(c_compilers, cxx_compilers)))
    if cxx_compilers:
        check_mixed(report, c_compilers[0], cxx_compilers[-1])
    if shutil.which("nm"):
        for compiler in c_compilers:
            for flags in (["-O0"], ["-O2"], ["-Os", "-fPIC"], ["-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-all"]):
                check_symbols(report, compiler, flags)
    else:
        report.missing("nm is not installed")
    report.end()


if __name__ == "__main__":
    main()
