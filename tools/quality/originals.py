#!/usr/bin/env python3
"""What quantisation is judged by: a model before it was quantised, as nearly as can be had.

    originals.py SOURCE.gguf ORIGINAL.gguf

Every weight of the source that was rounded gets a uniform dither as wide as the step that it was rounded with: the
outliers of a real model, continuous weights, and no format whose grid they lie on. Matrices are written as F16, with
the source's keys and vocabulary. The dither depends on a seed and on tensors' names alone. Needs numpy and gguf."""
import sys
import zlib

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFReader, GGUFValueType, GGUFWriter
from gguf import quants

SEED = 1
DROPPED = {"general.file_type", "general.quantization_version"}


# ---- steps of the formats --------------------------------------------------------------------------

def half(blocks, at):
    return blocks[:, at:at + 2].copy().view(np.float16).astype(np.float32)


def step_simple(blocks, block):
    """A scale at the beginning of each block."""
    return np.repeat(half(blocks, 0), block, axis=1)


def step_k(blocks, block):
    """Q4_K and Q5_K: a scale of a super-block times 6 bits for each 32 weights."""
    scales, _ = quants.Q4_K.get_scale_min(blocks[:, 4:16])
    return np.repeat(half(blocks, 0) * scales.astype(np.float32), block // scales.shape[1], axis=1)


def step_q6_k(blocks, block):
    """The super-block's scale comes last, behind one of 8 bits for each 16 weights."""
    scales = blocks[:, 192:208].copy().view(np.int8).astype(np.float32)
    return np.repeat(half(blocks, 208) * scales, block // 16, axis=1)


STEPS = {Type.Q4_0: step_simple, Type.Q4_1: step_simple, Type.Q5_0: step_simple, Type.Q5_1: step_simple,
         Type.Q8_0: step_simple, Type.Q4_K: step_k, Type.Q5_K: step_k, Type.Q6_K: step_q6_k}


def original(tensor):
    """The weights as they may have been."""
    kind = tensor.tensor_type
    values = quants.dequantize(tensor.data, kind).astype(np.float32)
    if kind in (Type.F32, Type.F16, Type.BF16):
        return values
    if kind not in STEPS:
        raise SystemExit(f"originals: {tensor.name} is {kind.name}, expected one of {', '.join(k.name for k in STEPS)}")
    block, size = quants.GGML_QUANT_SIZES[kind]
    steps = np.abs(STEPS[kind](tensor.data.reshape(-1, size), block)).reshape(values.shape)
    random = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(tensor.name.encode())]))
    return values + (random.random(values.shape, np.float32) - np.float32(0.5)) * steps


# ---- the file --------------------------------------------------------------------------------------

def copy_keys(reader, writer):
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in DROPPED or key == "general.architecture":
            continue
        kind = field.types[0]
        if kind == GGUFValueType.ARRAY:
            writer.add_key_value(key, field.contents(), kind, field.types[-1])
        else:
            writer.add_key_value(key, field.contents(), kind)


def write(source, output):
    reader = GGUFReader(source)
    writer = GGUFWriter(output, reader.fields["general.architecture"].contents())
    copy_keys(reader, writer)
    writer.add_file_type(1)  # F16
    for tensor in reader.tensors:
        values = original(tensor)
        if not np.isfinite(values.astype(np.float16)).all():
            raise SystemExit(f"originals: {tensor.name} holds what F16 does not")
        writer.add_tensor(tensor.name, values if values.ndim == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write(*sys.argv[1:])
