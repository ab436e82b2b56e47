#!/usr/bin/env python3
"""All mutants of tests/test_mutants.c, and two readers of each format that must agree about 100,000 more.

    mutants.py [--count N] [--agree-only]

The mutants of test_mutants.c are opened and used under the address and undefined behaviour sanitizers. Then files
with one to four changes (fields at borders, bytes, fields copied to others, another size; checksums made right again
or not) are judged by the C code and by tests/reference/{llm,gguf}_file.py: both accept one, or both refuse it.
"""
import concurrent.futures
import os
import random
import struct
import subprocess
import sys

from toolchain import BUILD, ROOT, Report, run

sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))
import gguf_file  # noqa: E402
import llm_file  # noqa: E402

COUNT = 100000  # mutants of each format
BATCH = 500
FLAGS = ["-std=c11", "-O1", "-g", "-DMUTANTS_WHOLE", "-fsanitize=address,undefined", "-fsanitize=float-cast-overflow",
         "-fno-sanitize-recover=all"]
MODELS = os.path.join(BUILD, "models")
LLM = ["llama-tied.q8", "gemma-pattern.q4", "llama-untied.bf16", "llama-odd.q3", "llama-untied.mixed", "bitnet.q2"]
GGUF = ["llama-tied", "gemma-pattern"]
BORDERS = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023,
           1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 20), (1 << 21),
           (1 << 21) + 1, (1 << 22), (1 << 22) + 1, (1 << 24), (1 << 24) + 64, (1 << 28), (1 << 28) + 1, (1 << 31) - 1,
           1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 32, (1 << 56), (1 << 56) + 1, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 4096, (1 << 64) - 64, (1 << 64) - 1, 0x7F800000, 0x7FC00000, 0xFF800000, 0x3F800000, 0x80000000,
           0x0DA24260, 0x0DA2425F, 0x7149F2CA, 0x7149F2CB, 0x00000001]


class Server:
    """The C code's judgement of batches of mutants; a crash is a failed answer."""

    def __init__(self, program, kind, path):
        self.process = subprocess.Popen([program, "--serve", kind, path], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)

    def results(self, mutants):
        """mutants: [(flags, size, [(offset, bytes)])]; a result for each."""
        out = bytearray()
        for flags, size, changes in mutants:
            out += struct.pack("<IQI", flags, size, len(changes))
            for at, new in changes:
                out += struct.pack("<II", at, len(new)) + new
        out += struct.pack("<IQI", 0xFFFFFFFF, 0, 0)
        self.process.stdin.write(out)
        self.process.stdin.flush()
        return self.process.stdout.read(len(mutants))

    def end(self):
        self.process.stdin.close()
        said = self.process.stdout.read() + self.process.stderr.read()
        return self.process.wait(), said.decode(errors="replace")


def mutated(good, size, changes):
    data = bytearray(good[:size]) + bytes(max(0, size - len(good)))
    for at, new in changes:
        data[at:at + len(new)] = new
    return data


# ---- .llm ----

def llm_fields(good):
    """[(offset, width)] of the header, its table, the description, the layers, the directory and the vocabulary."""
    fields = [(0, 4), (4, 4), (8, 4), (12, 4), (16, 8), (24, 8)]
    for i in range(struct.unpack_from("<I", good, 12)[0]):
        at = 64 + 32 * i
        kind, offset, size = good[at:at + 4], *struct.unpack_from("<QQ", good, at + 8)
        fields += [(at, 4), (at + 4, 4), (at + 8, 8), (at + 16, 8), (at + 24, 8)]
        if kind in (b"DESC", b"LAYR"):
            fields += [(offset + k, 4) for k in range(0, size, 4)]
        elif kind == b"TOKN":
            fields += [(offset + k, 4) for k in range(0, 256, 4)]
        elif kind == b"TDIR":
            for entry in range(offset, offset + size, 64):
                fields += [(entry + k, 4) for k in range(0, 32, 4)] + [(entry + k, 8) for k in range(32, 64, 8)]
    return fields


def llm_seal(data, every):
    """Changes that make the checksums right, as far as the table leads to data; of every section, or of those that are
    looked at when a file is opened."""
    changes = []
    if len(data) < 64:
        return changes
    count = struct.unpack_from("<I", data, 12)[0]
    if count > 64 or 64 + 32 * count > len(data):
        return changes
    table = bytearray(data[64:64 + 32 * count])
    sections = [(bytes(table[32 * i:32 * i + 4]), *struct.unpack_from("<QQ", table, 32 * i + 8)) for i in range(count)]

    def put(at, value):
        changes.append((at, struct.pack("<Q", value)))
        data[at:at + 8] = changes[-1][1]

    for i, (kind, offset, size) in enumerate(sections):
        if (every or kind in (b"DESC", b"LAYR", b"TDIR")) and offset + size <= len(data):
            put(64 + 32 * i + 24, llm_file.checksum(data[offset:offset + size]))
    put(24, llm_file.checksum(data[64:64 + 32 * count]))
    return changes


def border_value(good, fields, field, rng):
    value = int.from_bytes(good[field[0]:field[0] + field[1]], "little")
    other = rng.choice(fields)
    return rng.choice([
        rng.choice(BORDERS), value + rng.choice([-4096, -64, -32, -16, -2, -1, 1, 2, 16, 32, 64, 4096]), value * 2,
        value // 2, value ^ 1 << rng.randrange(8 * field[1]), len(good) - value, len(good) + rng.randrange(-65, 65),
        int.from_bytes(good[other[0]:other[0] + other[1]], "little"), rng.randrange(4096), rng.getrandbits(64)])


def some_changes(good, fields, end, rng):
    """One to four changes of the metadata."""
    changes = []
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        what = rng.random()
        if what < 0.8:
            field = rng.choice(fields)
            value = border_value(good, fields, field, rng) & (1 << 8 * field[1]) - 1
            changes.append((field[0], value.to_bytes(field[1], "little")))
        elif what < 0.95:
            changes.append((rng.randrange(end), bytes([rng.randrange(256)])))
        else: # a run of bytes over another
            length, at = rng.randrange(1, 128), rng.randrange(end)
            changes.append((rng.randrange(end - 128), bytes(good[at:at + length])))
    return changes


def llm_mutant(good, fields, rng, number):
    """Flags, size and changes of a mutant."""
    end = 53248
    if number < 8 * len(fields): # each field by itself, several times
        field = fields[number % len(fields)]
        value = border_value(good, fields, field, rng) & (1 << 8 * field[1]) - 1
        changes = [(field[0], value.to_bytes(field[1], "little"))]
    else:
        changes = some_changes(good, fields, end, rng)
    size = len(good)
    if rng.random() < 0.1:
        size = rng.choice([rng.randrange(len(good)), len(good) + rng.randrange(1, 4097), len(good) - rng.randrange(1, 129)])
        if rng.random() < 0.8:
            changes.append((16, struct.pack("<Q", size)))
    if rng.random() < 0.1: # a weight or a text
        changes.append((rng.randrange(len(good)), bytes([rng.randrange(256)])))
    changes = [(at, new) for at, new in changes if at + len(new) <= size]
    verify = rng.random() < 0.25
    if rng.random() < 0.9:
        changes += llm_seal(mutated(good, size, changes), verify and rng.random() < 0.7)
    return int(verify) + (2 if number % 64 == 0 else 0), size, changes


# ---- GGUF ----

def gguf_fields(good):
    """([(offset, width)] of lengths, types, counts and numbers, where the metadata end)."""
    fields, at = [(0, 4), (4, 4), (8, 8), (16, 8)], 24
    tensors, pairs = struct.unpack_from("<QQ", good, 8)

    def number(width):
        nonlocal at
        fields.append((at, width))
        at += width
        return int.from_bytes(good[at - width:at], "little")

    def text():
        nonlocal at
        size = number(8)
        at += size

    for _ in range(pairs):
        text()
        kind, count = number(4), 1
        if kind == gguf_file.ARRAY:
            kind, count = number(4), number(8)
        for _ in range(count):
            if kind == gguf_file.STRING:
                text()
            else:
                number(struct.calcsize(gguf_file.NUMBERS[kind]))
    for _ in range(tensors):
        text()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
    return fields, at


def gguf_mutant(good, fields, end, rng):
    # The vocabulary has most of the fields: half of the time another one.
    few = [f for f in fields if f[0] < 1500 or f[0] > end - 1600]
    size = len(good)
    if rng.random() < 0.05:
        size = rng.choice([rng.randrange(end + 64), len(good) - rng.randrange(1, 4097), len(good) + rng.randrange(1, 64)])
    changes = some_changes(good, few if rng.random() < 0.7 else fields, end, rng)
    return 0, size, [(at, new) for at, new in changes if at + len(new) <= size]


# ---- agreement ----

def judgement(reader, data, *more):
    try:
        reader.check(data, *more)
        return ""
    except reader.Refused as why:
        return str(why) or "refused"


def agree(program, kind, path, count, seed):
    """(accepted, refused, [what differs], [what went wrong]) over `count` mutants of a file."""
    with open(path, "rb") as file:
        good = file.read()
    rng, server = random.Random(seed), Server(program, kind, path)
    fields, end = (llm_fields(good), 0) if kind == "llm" else gguf_fields(good)
    accepted, refused, differ, wrong = 0, 0, [], []
    for first in range(0, count, BATCH):
        mutants = [llm_mutant(good, fields, rng, n) if kind == "llm" else gguf_mutant(good, fields, end, rng)
                   for n in range(first, min(first + BATCH, count))]
        results = server.results(mutants)
        if len(results) < len(mutants):
            wrong.append(f"{path}: no answer to mutant {first + len(results)}")
            break
        for n, (result, (flags, size, changes)) in enumerate(zip(results, mutants)):
            data = mutated(good, size, changes)
            why = judgement(llm_file, data, bool(flags & 1)) if kind == "llm" else judgement(gguf_file, data)
            accepted, refused = accepted + (not why), refused + bool(why)
            if bool(result) != bool(why):
                differ.append(f"{path} mutant {first + n}: result {result}, the other reader: {why or 'accepted'}; "
                              f"flags {flags}, size {size}, changes {[(a, b.hex()) for a, b in changes[:6]]}")
    status, said = server.end()
    if status:
        wrong.append(f"{path}: status {status}\n{said[-3000:]}")
    return accepted, refused, differ, wrong


def main():
    report = Report("mutants")
    count = int(sys.argv[sys.argv.index("--count") + 1]) if "--count" in sys.argv else COUNT
    program = os.path.join(BUILD, "mutants")
    status, output = run(["gcc", *FLAGS, "tests/test_mutants.c", "-o", program, "-lm", "-lpthread"])
    if not report.check(status == 0, f"it does not compile\n{output[:3000]}"):
        report.end()
    jobs = [("llm", os.path.join(MODELS, name + ".llm"), count // len(LLM), seed) for seed, name in enumerate(LLM)] + \
           [("gguf", os.path.join(ROOT, "tests/fixtures/models", name + ".gguf"), count // len(GGUF), seed)
            for seed, name in enumerate(GGUF)]
    # Processes: the second reader is Python too.
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        parts = [] if "--agree-only" in sys.argv else \
            [pool.submit(run, [program, MODELS, "--part", str(part), "8"], 1200) for part in range(8)]
        answers = [(job, pool.submit(agree, program, *job)) for job in jobs]
        for part, done in enumerate(parts):
            status, output = done.result()
            lines = output.strip().splitlines()
            report.check(status == 0, f"part {part}: status {status}\n{output[-3000:]}")
            print(f"part {part}: {' '.join(lines[-2:])}", flush=True)
        for (kind, path, *_), done in answers:
            accepted, refused, differ, wrong = done.result()
            print(f"{os.path.basename(path)}: both accept {accepted}, refuse {refused}", flush=True)
            report.check(not wrong, "\n".join(wrong))
            report.check(not differ, f"{len(differ)} differ:\n" + "\n".join(differ[:10]))
            report.check(accepted > count // 100 and refused > count // 100, f"{accepted} accepted, {refused} refused")
    report.end()


if __name__ == "__main__":
    main()
