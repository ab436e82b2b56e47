"""Every block type: random blocks through the converter and through gguf-py, the same bits.

Needs numpy and gguf. Prints one line per type; exit status 1 if any bit differs.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCKS = 4000


def random_blocks(kind, size, rng):
    """Any bytes, so any code and scale; and as many whose half-precision scales are ordinary."""
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    places = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
              "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
              "TQ1_0": [52], "TQ2_0": [64]}
    for at in places.get(kind, []):
        scales = rng.normal(0, 0.05, BLOCKS // 2).astype(np.float16)
        blocks[: BLOCKS // 2, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def i2_s(blocks):
    """Of bitnet.cpp, which gguf-py does not know: 32 bytes, of each the highest two bits first, one quarter of the block
    after the other."""
    return np.concatenate([(blocks >> shift & 3).astype(np.float32) - 1 for shift in (6, 4, 2, 0)], axis=1)


def main():
    rng = np.random.default_rng(3)
    failed = passed = 0
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "driver")
        extra = os.environ.get("CFLAGS", "").split()
        subprocess.run([os.environ.get("CC", "cc"), "-O2", *extra, os.path.join(HERE, "dequantize_driver.c"),
                        "-o", program, "-lm", "-lpthread"], check=True)
        kinds = subprocess.run([program], capture_output=True, check=True, text=True).stdout.split()
        wanted = ("F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS TQ1_0 TQ2_0 I2_S "
                  "MXFP4")
        if sorted(kinds) != sorted(wanted.split()):
            print("FAIL the converter knows", kinds)
            failed += 1
        for kind in kinds:
            qtype = None if kind == "I2_S" else GGMLQuantizationType[kind]
            weights, size = GGML_QUANT_SIZES[qtype] if qtype is not None else (128, 32)
            blocks = random_blocks(kind, size, rng)
            raw = subprocess.run([program, kind], input=blocks.tobytes(), capture_output=True, check=True).stdout
            ours = np.frombuffer(raw, np.float32)
            data = blocks if kind not in ("F32", "F16") else blocks.view(np.float32 if kind == "F32" else np.float16)
            with np.errstate(all="ignore"):
                theirs = (quants.dequantize(data, qtype) if qtype is not None else i2_s(data)).astype(np.float32).reshape(-1)
            same = len(ours) == len(theirs) == BLOCKS * weights and np.all(
                (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs)))
            print(f"{'ok  ' if same else 'FAIL'} {kind}")
            passed += bool(same)
            failed += not same
    print(f"compare_dequant: {passed} passed, {failed} failed, 0 skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
