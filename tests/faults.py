#!/usr/bin/env python3
"""The programs where the system refuses something: what cannot be read, a disk or a standard output that is full
or closed, no address space. Each ends by itself with a message on stderr and the right exit status,
and leaves no half file behind."""
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(1, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools", "quality"))
import texts  # noqa: E402
from toolchain import BUILD, ROOT, Report, in_parallel

PROGRAMS = os.path.join(ROOT, "build")
MODEL = os.path.join(BUILD, "models", "llama-tied.q8.llm")
SOURCE = os.path.join(ROOT, "tests", "fixtures", "models", "llama-tied.gguf")
TEXT = os.path.join(ROOT, "tests", "data", "text.txt")
# What each program does with a model, and prints on standard output.
READERS = {
    "llm-inspect": ["{model}"],
    "generate": ["{model}", "-p", "the", "-n", "4", "--threads", "1"],
    "tokenize": ["{model}"],
    "chat": ["{model}", "--threads", "1", "-n", "4"],
    "evaluate": ["{model}", TEXT, "--ctx", "32", "--threads", "1", "--limit-windows", "1"],
    "bench": ["{model}", "-p", "8", "-n", "4", "-t", "1"],
    "minimal": ["{model}", "the"],
}
CLOSED = -1


def limits(**to):
    """A function for the child: sets limits (name, bytes), and writing past one is an error, no signal."""
    def begin():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, value in to.items():
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    return begin


def start(program, arguments, stdout=None, **to):
    """(exit status, standard output, standard error); a negative status is a signal, None: it hung."""
    command = [os.path.join(PROGRAMS, program), *arguments]
    if stdout == CLOSED:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    out = open(stdout, "wb") if isinstance(stdout, str) else subprocess.PIPE
    try:
        done = subprocess.run(command, input=b"the people\n", stdout=out, stderr=subprocess.PIPE, timeout=60,
                              cwd=ROOT, preexec_fn=limits(**to), check=False)
        return done.returncode, done.stdout or b"", done.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return None, b"", "no end after 60 seconds"
    finally:
        if out != subprocess.PIPE:
            out.close()


def reader(program, model=MODEL):
    return [a.format(model=model) for a in READERS[program]]


def refused(report, what, result, status=1, word="."):
    code, _, said = result
    report.check(code == status and re.search(word, said) and "\0" not in said,
                 f"{what}: status {code}, expected {status} and \"{word}\"; it says: {said[-400:]}")


def check_inputs(report, folder):
    """Nothing there, a folder, an empty file, noise, a model that is cut, a pipe, a device."""
    paths = {"missing": os.path.join(folder, "missing"), "a folder": folder, "a device": "/dev/null"}
    with open(MODEL, "rb") as f:
        model = f.read()
    for name, data in (("empty", b""), ("noise", bytes(range(256)) * 64), ("cut", model[:len(model) // 2]),
                       ("head", model[:100]), ("grown", model + b"\0" * 64)):
        paths[name] = os.path.join(folder, name)
        with open(paths[name], "wb") as f:
            f.write(data)
    paths["a pipe"] = os.path.join(folder, "pipe")
    os.mkfifo(paths["a pipe"])
    jobs = [(program, name, path) for program in READERS for name, path in paths.items()]
    for (program, name, _), result in zip(jobs, in_parallel(lambda j: start(j[0], reader(j[0], j[2])), jobs)):
        refused(report, f"{program} of {name}", result)
        report.check(program == "bench" or not result[1], f"{program} of {name} writes {result[1][:80]}")
    output = os.path.join(folder, "out.llm")
    for name, path in paths.items():
        refused(report, f"llm-convert of {name}", start("llm-convert", [path, output]))
        report.check(not os.path.exists(output), f"llm-convert of {name} leaves a file")
    for path in paths.values():
        if path.startswith(folder) and path != folder and os.path.exists(path):
            os.unlink(path)


def check_outputs(report):
    """Standard output on a full disk, and closed."""
    for program in [*READERS, "llm-convert"]:
        for what, out in (("a full disk", "/dev/full"), ("a closed output", CLOSED)):
            if out == "/dev/full" and not os.path.exists(out):
                report.missing("there is no /dev/full")
                continue
            if program != "llm-convert":
                refused(report, f"{program} to {what}", start(program, reader(program), out))
            if program != "minimal":
                refused(report, f"{program} --help to {what}", start(program, ["--help"], out))


def check_disk(report, folder):
    """A conversion to a disk that is full from some byte on: nothing is left. An old file stays as it is."""
    output, size = os.path.join(folder, "out.llm"), os.path.getsize(MODEL)
    for limit in [0, 1, 4095, 4096, 5000, 65536, size // 2, size - 4096, size - 1]:
        result = start("llm-convert", [SOURCE, output, "--type", "q8", "--fast", "--quiet"], FSIZE=limit)
        refused(report, f"llm-convert with room for {limit} bytes", result, word="cannot be written")
        report.check(not os.listdir(folder), f"room for {limit} bytes: {os.listdir(folder)} is left")
    status, _, said = start("llm-convert", [SOURCE, output, "--type", "q8", "--fast", "--quiet"], FSIZE=size)
    report.check(status == 0 and os.path.getsize(output) == size, f"room for all {size} bytes: {said}")
    with open(output, "rb") as f:
        before = f.read()
    refused(report, "over an old file", start("llm-convert", [SOURCE, output, "--quiet"], FSIZE=5000))
    with open(output, "rb") as f:
        report.check(f.read() == before and os.listdir(folder) == ["out.llm"], "the old file has changed")
    status, _, said = start("llm-convert", [SOURCE, output, "--type", "q8", "--fast"], "/dev/full")
    report.check(status == 1 and os.listdir(folder) == ["out.llm"], f"a report to a full disk: {status} {said}")
    os.unlink(output)
    logits = os.path.join(folder, "logits")
    refused(report, "evaluate --logits on a full disk", start("evaluate", reader("evaluate") + ["--logits", logits],
                                                              FSIZE=5000))
    if os.path.exists(logits):
        os.unlink(logits)


def check_draft(report, folder):
    """A small model goes on with the built-in text; where a disk has room for the result, but not for the draft that
    speaks, the text alone does."""
    source = os.path.join(ROOT, "tests", "fixtures", "models", "llama-untied.gguf")
    text, found = os.path.join(folder, "text"), {}
    with open(text, "wb") as f:
        f.write(texts.calibration())
    whole = os.path.getsize(os.path.join(BUILD, "models", "llama-untied.q4.llm"))
    draft = os.path.getsize(os.path.join(BUILD, "models", "llama-untied.q8.llm"))
    for name, words, to in (("continued", [], {}), ("given", [text], {}), ("full", [], {"FSIZE": (whole + draft) // 2})):
        output = os.path.join(folder, name)
        status, _, said = start("llm-convert", [source, output, "--type", "q4", "--calibrate", *words], **to)
        report.check(status == 0 and ("the text is not continued" in said) == (name == "full"), f"{name}: {status} {said}")
        if os.path.exists(output):
            with open(output, "rb") as f:
                found[name] = f.read()
            os.unlink(output)
    os.unlink(text)
    report.check(found.get("full") == found.get("given") != found.get("continued"), "what the text alone makes")
    report.check(not os.listdir(folder), f"{os.listdir(folder)} is left")


def check_devices(report, folder):
    """What is no ordinary file is not replaced by one."""
    pipe = os.path.join(folder, "pipe")
    os.mkfifo(pipe)
    for path in (pipe, folder):
        refused(report, f"llm-convert onto {path}", start("llm-convert", [SOURCE, path, "--quiet"]))
    report.check(os.listdir(folder) == ["pipe"] and not os.path.isfile(pipe), f"{os.listdir(folder)} in the folder")
    os.unlink(pipe)
    refused(report, "llm-convert without such a folder",
            start("llm-convert", [SOURCE, os.path.join(folder, "no", "out.llm"), "--quiet"]))
    refused(report, "llm-convert onto its input", start("llm-convert", [SOURCE, SOURCE, "--type", "q9"]), 2)


def check_limits(report, folder):
    """An address space that is short by more and more: success or a refusal, never a crash."""
    output, ended = os.path.join(folder, "out.llm"), {0: 0, 1: 0}
    jobs = [(program, size) for program in [*READERS, "llm-convert"] for size in range(3, 40, 4)]

    def try_one(job):
        program, size = job
        there = output + f".{program}.{size}"
        arguments = [SOURCE, there, "--quiet"] if program == "llm-convert" else reader(program)
        return start(program, arguments, AS=size << 20), there
    for (program, size), ((status, _, said), there) in zip(jobs, in_parallel(try_one, jobs)):
        if status == 127:  # the loader had no room for the C library
            continue
        ended[status if status in ended else 1] += 1
        report.check(status == 0 or (status == 1 and said), f"{program} in {size} MB: status {status}: {said[-300:]}")
        report.check(os.path.exists(there) == (program == "llm-convert" and status == 0), f"{there} in {size} MB")
        if os.path.exists(there):
            os.unlink(there)
    report.check(ended[0] and ended[1], f"{ended[0]} runs had room, {ended[1]} had not")
    report.check(not os.listdir(folder), f"{os.listdir(folder)} is left")


def main():
    report = Report("faults of programs")
    for program in [*READERS, "llm-convert"]:
        if not os.path.exists(os.path.join(PROGRAMS, program)):
            done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=False)
            if not report.check(done.returncode == 0, f"make: {done.stderr[-1000:]}"):
                report.end()
    folder = tempfile.mkdtemp(prefix="llm-faults-")
    try:
        for check in (check_inputs, check_disk, check_draft, check_devices, check_limits):
            check(report, folder)
        check_outputs(report)
    finally:
        shutil.rmtree(folder)
    report.end()


if __name__ == "__main__":
    main()
