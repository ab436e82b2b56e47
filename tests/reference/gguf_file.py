#!/usr/bin/env python3
"""Whether a GGUF file can be read: a second reader, written from the public specification and from what
tools/convert/gguf.h says about where it is narrower (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    gguf_file.py FILE...

check() raises Refused with the reason. tests/mutants.py compares its judgement with that of the converter.
"""
import struct
import sys

import gguf

NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
BOOL, STRING, ARRAY = 7, 8, 9
TYPES = "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS BF16 TQ1_0 TQ2_0 MXFP4".split()
BLOCKS = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items() if kind.name in TYPES}


class Refused(Exception):
    pass


def want(condition, *why):
    if not condition:
        raise Refused(" ".join(map(str, why)))


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        want(self.at + size <= len(self.data), "cut at", self.at)
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return bytes(self.take(self.number("<Q")))

    def scalar(self, kind):
        if kind == STRING:
            return self.text()
        value = self.number(NUMBERS[kind])
        want(kind != BOOL or value <= 1, "boolean", value)
        return value

    def value(self):
        """(value type, value); an array's value is None."""
        kind = self.number("<I")
        if kind != ARRAY:
            want(kind in NUMBERS or kind == STRING, "value type", kind)
            return kind, self.scalar(kind)
        kind, count = self.number("<I"), self.number("<Q")
        want(kind in NUMBERS or kind == STRING, "array of type", kind)
        if kind in NUMBERS:
            values = self.take(struct.calcsize(NUMBERS[kind]) * count)
            want(kind != BOOL or not values or max(values) <= 1, "boolean in an array")
        else:
            self.skip_texts(count)
        return ARRAY, None

    def skip_texts(self, count):
        data, at, end, size_at = self.data, self.at, len(self.data), struct.Struct("<Q").unpack_from
        for _ in range(count):
            want(at + 8 <= end, "cut at", at)
            at += 8 + size_at(data, at)[0]
            want(at <= end, "cut at", at)
        self.at = at


def check_tensor(reader):
    """(name, offset, bytes)"""
    name = reader.text()
    dims = reader.number("<I")
    want(name and 1 <= dims <= 4, "tensor", name, "of dimensions", dims)
    shape = [reader.number("<Q") for _ in range(dims)]
    kind, offset = reader.number("<I"), reader.number("<Q")
    elements = 1
    for n in shape:
        elements *= n
        want(1 <= elements <= 1 << 56, "shape", shape)
    want(kind in BLOCKS, "tensor type", kind)
    block, size = BLOCKS[kind]
    want(shape[0] % block == 0, "rows of", shape[0])
    return name, offset, elements // block * size


def check(data):
    """Raises Refused unless the bytes are a GGUF file that the converter must be able to read."""
    reader = Reader(data)
    want(bytes(reader.take(4)) == b"GGUF", "magic")
    want(reader.number("<I") in (2, 3), "version")
    tensors, pairs = reader.number("<Q"), reader.number("<Q")
    metadata = {}
    for _ in range(pairs):
        key = reader.text()
        want(1 <= len(key) <= 65535 and key not in metadata, "key", key)
        metadata[key] = reader.value()
    kind, name = metadata.get(b"general.architecture", (None, None))
    want(kind == STRING and 1 <= len(name) <= 63 and 0 not in name, "architecture", name)
    kind, alignment = metadata.get(b"general.alignment", (4, 32))
    want(kind in NUMBERS and alignment in [1 << i for i in range(21)], "alignment", alignment)
    alignment = int(alignment)
    found = [check_tensor(reader) for _ in range(tensors)]
    want(len({name for name, _, _ in found}) == len(found), "a tensor's name twice")
    start = -(-reader.at // alignment) * alignment
    for name, offset, size in found:
        want(offset % alignment == 0 and start + offset + size <= len(data), "tensor", name, "at", offset)


def main():
    bad = 0
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            data = file.read()
        try:
            check(data)
            print(f"{path}: sound")
        except Refused as why:
            print(f"{path}: {why}")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
