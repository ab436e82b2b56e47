#!/usr/bin/env python3
"""How long a calibrated conversion takes, and how much memory: a checkpoint of random weights, of a real one's shape.

    conversion_time.py --tokenizer FOLDER [--shape llama-3.2-1b] [--layers N] [-- OPTIONS OF LLM-CONVERT]

FOLDER holds a tokenizer.json that knows English, Llama 3's for the figure in docs/quality.md; the text that is built in is
calibrated on. With --layers the checkpoint has so many, and is as much smaller. Needs numpy, and what `make` builds."""
import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHAPES = {
    "llama-3.2-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                     "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256},
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152},
}


def tensors(c):
    """{name: shape}"""
    width, hidden = c["hidden_size"], c["intermediate_size"]
    queries, keys = (c[n] * c["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    layer = {"self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
             "self_attn.o_proj": (width, queries), "mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width),
             "mlp.down_proj": (width, hidden), "input_layernorm": (width,), "post_attention_layernorm": (width,)}
    found = {"model.embed_tokens.weight": (c["vocab_size"], width), "model.norm.weight": (width,)}
    for i in range(c["num_hidden_layers"]):
        found.update({f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()})
    return found


def write_weights(path, shapes):
    """Normal, each row of a matrix of length 1; bf16, which NumPy has no type for. Returns how many."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text, random = json.dumps(header).encode(), np.random.Generator(np.random.SFC64(1))
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            x = random.standard_normal(shape, np.float32)
            x = x * np.float32(shape[1] ** -0.5) if len(shape) > 1 else np.float32(1) + np.float32(0.1) * x
            f.write((x.view(np.uint32) >> 16).astype("<u2").tobytes())
    return at // 2


def write_checkpoint(folder, o):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": True, **SHAPES[o.shape]}
    config["num_hidden_layers"] = o.layers or config["num_hidden_layers"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(os.path.join(o.tokenizer, name)):
            shutil.copy(os.path.join(o.tokenizer, name), folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    return write_weights(os.path.join(folder, "model.safetensors"), tensors(config))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--tokenizer", metavar="FOLDER", required=True)
    a.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    a.add_argument("--layers", type=int, help="instead of the shape's")
    a.add_argument("options", nargs="*", default=["--type", "q4"], help="of llm-convert; by default --type q4")
    o = a.parse_args()
    if o.layers is not None and o.layers < 1:
        a.error("--layers: at least 1")
    with tempfile.TemporaryDirectory() as folder:
        weights = write_checkpoint(folder, o)
        command = [os.path.join(ROOT, "build", "llm-convert"), folder, os.path.join(folder, "out.llm"), *o.options]
        began = time.monotonic()
        status = subprocess.run(command).returncode
        took, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        raise SystemExit(f"conversion_time: llm-convert failed ({status})")
    print(f"{weights:,} weights: {took / 60:.1f} minutes, {(used.ru_utime + used.ru_stime) / 60:.1f} of processor time, "
          f"at most {used.ru_maxrss * 1024 / 1e9:.2f} GB resident")


if __name__ == "__main__":
    main()
