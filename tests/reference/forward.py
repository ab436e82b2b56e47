#!/usr/bin/env python3
"""The forward pass in float64, straight from the definition: what the library is measured against.

    forward.py MODEL.gguf IDS.txt --out logits.f32 [--kv f16 | --kv-file CACHE.f16]
    forward.py MODEL.gguf IDS.txt --compare OTHER.f32 [--limit 1e-3]

IDS.txt holds token ids separated by blanks or commas (`-` reads standard input). The logits are raw
little-endian float32, [position][vocabulary]. It shares no code with the library: weights are read
and dequantised by the `gguf` package, everything after that is NumPy. Families: llama, qwen3,
gemma3, bitnet, bitnet-b1.58.

Sources: Touvron et al. 2023 (arXiv 2302.13971), Gemma Team 2025 (arXiv 2503.19786), Su et al. 2021
(RoPE, arXiv 2104.09864), and the tensor names and row orders of the GGUF specification.
"""
import argparse
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Weights:
    """A GGUF file: its metadata, and its tensors as float64 matrices [output][input]."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = reader.fields
        self.tensors = {t.name: t for t in reader.tensors}
        self.family = self.field("general.architecture")

    def field(self, name, default=None):
        if name in self.fields:
            return self.fields[name].contents()
        if default is None:
            raise SystemExit(f"the file has no field {name}")
        return default

    def setting(self, name, default=None):
        return self.field(f"{self.family}.{name}", default)

    def rows(self, name, select=slice(None)):
        """Some rows of a matrix (or a whole vector), dequantised."""
        t = self.tensors[name]
        return dequantize(t.data[select], t.tensor_type).astype(np.float64)


class Shape:
    """The hyperparameters that the pass needs, from the metadata."""

    def __init__(self, w):
        if w.family not in ("llama", "qwen3", "gemma3", "bitnet", "bitnet-b1.58"):
            raise SystemExit(f"no reference for the family {w.family}")
        if f"{w.family}.final_logit_softcapping" in w.fields or w.setting("rope.scaling.factor", 1.0) != 1.0:
            raise SystemExit("the reference does not know scaled positions and squashed logits")
        if "rope_freqs.weight" in w.tensors:
            raise SystemExit("the reference does not know rope_freqs.weight")
        self.gemma = w.family == "gemma3"
        self.interleaved = w.family == "llama"  # rows of Q and K
        self.normed_heads = w.family in ("qwen3", "gemma3")
        self.activation = {"gemma3": gelu_tanh, "bitnet-b1.58": relu2}.get(w.family, silu)
        self.width = w.setting("embedding_length")
        self.layers = w.setting("block_count")
        self.heads = w.setting("attention.head_count")
        self.kv_heads = w.setting("attention.head_count_kv", self.heads)
        self.head_dim = w.setting("attention.key_length", self.width // self.heads)
        self.epsilon = w.setting("attention.layer_norm_rms_epsilon")
        self.base = w.setting("rope.freq_base", 10000.0)
        self.local_base = w.setting("rope.freq_base_swa", 10000.0)
        self.window = w.setting("attention.sliding_window", 0) if self.gemma else 0
        self.pattern = w.setting("attention.sliding_window_pattern", 6)

    def is_local(self, layer):
        """Does this layer see only the last `window` positions? Every sixth sees all."""
        if self.window == 0:
            return False
        if isinstance(self.pattern, list):
            return bool(self.pattern[layer])
        return (layer + 1) % self.pattern != 0


def rms_norm(x, gain, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * gain


def sub_norm(w, s, name, x):
    """Of what goes into an output matrix, in the families that have such norms."""
    return rms_norm(x, w.rows(name), s.epsilon) if name in w.tensors else x


def rope(x, base, interleaved):
    """x [position][head][channel]: turn pair i by position * base^(-2i/d). A pair is two neighbours
    (GGUF orders Llama's Q and K rows so), or one channel of each half (all others)."""
    positions, _, d = x.shape
    angle = np.outer(np.arange(positions), base ** (-2.0 * np.arange(d // 2) / d))[:, None, :]
    c, s = np.cos(angle), np.sin(angle)
    first = slice(0, None, 2) if interleaved else slice(0, d // 2)
    second = slice(1, None, 2) if interleaved else slice(d // 2, None)
    out = np.empty_like(x)
    out[..., first] = x[..., first] * c - x[..., second] * s
    out[..., second] = x[..., first] * s + x[..., second] * c
    return out


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Cache:
    """Keys and values that another implementation has rounded to 16 bits (tests/bits.c --kv-out).

    Where a float32 and a float64 computation fall on two sides of a tie, one rounds up and the other
    down. Such values move all later ones by far more than the arithmetic does. With the other's
    cache in place of one's own, after checking every value of it, only the arithmetic is compared."""

    def __init__(self, path, s, positions):
        self.data = np.fromfile(path, dtype="<f2").reshape(2, s.layers, positions, s.kv_heads, s.head_dim)
        self.interleaved = s.interleaved
        self.worst = 0.0

    def take(self, which, layer, exact):
        got = self.data[which, layer].astype(np.float64)
        if which == 0 and self.interleaved:  # Llama's pairs lie half a head apart there
            got = got.reshape(*got.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(got.shape)
        half_step = np.spacing(np.maximum(np.abs(exact), np.abs(got)).astype(np.float16)).astype(np.float64) / 2
        size = np.sqrt(np.mean(exact * exact, axis=-1, keepdims=True))  # of a head: rope mixes its channels
        self.worst = max(self.worst, float(((np.abs(got - exact) - half_step) / size).max()))
        return got


def attention(w, s, layer, x, kv_type):
    """x [position][width], normed already; the result is after the output projection."""
    positions = x.shape[0]
    blk = f"blk.{layer}."
    local = s.is_local(layer)

    def project(name, heads):
        return (x @ w.rows(blk + name).T).reshape(positions, heads, s.head_dim)

    q, k, v = project("attn_q.weight", s.heads), project("attn_k.weight", s.kv_heads), \
        project("attn_v.weight", s.kv_heads)
    if s.normed_heads:
        q = rms_norm(q, w.rows(blk + "attn_q_norm.weight"), s.epsilon)
        k = rms_norm(k, w.rows(blk + "attn_k_norm.weight"), s.epsilon)
    base = s.local_base if local else s.base
    q, k = rope(q, base, s.interleaved), rope(k, base, s.interleaved)
    if kv_type == "f16":
        k, v = k.astype(np.float16).astype(np.float64), v.astype(np.float16).astype(np.float64)
    elif isinstance(kv_type, Cache):
        k, v = kv_type.take(0, layer, k), kv_type.take(1, layer, v)

    distance = np.arange(positions)[:, None] - np.arange(positions)[None, :]
    hidden = (distance < 0) | (distance >= s.window if local else False)
    out = np.empty((positions, s.heads, s.head_dim))
    for h in range(s.heads):
        g = h * s.kv_heads // s.heads
        scores = q[:, h] @ k[:, g].T / np.sqrt(s.head_dim)
        out[:, h] = softmax(np.where(hidden, -np.inf, scores)) @ v[:, g]
    return sub_norm(w, s, blk + "attn_sub_norm.weight", out.reshape(positions, -1)) @ w.rows(blk + "attn_output.weight").T


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x ** 3)))


def relu2(x):
    return np.maximum(x, 0.0) ** 2


def feed_forward(w, s, layer, x):
    blk = f"blk.{layer}."
    gate = x @ w.rows(blk + "ffn_gate.weight").T
    up = x @ w.rows(blk + "ffn_up.weight").T
    return sub_norm(w, s, blk + "ffn_sub_norm.weight", s.activation(gate) * up) @ w.rows(blk + "ffn_down.weight").T


def hidden_states(w, s, ids, kv_type):
    """The input of the head, [position][width]."""
    x = w.rows("token_embd.weight", ids)
    if s.gemma:
        x = x * np.sqrt(s.width)

    def norm(name, y):
        return rms_norm(y, w.rows(name), s.epsilon)

    for layer in range(s.layers):
        blk = f"blk.{layer}."
        y = attention(w, s, layer, norm(blk + "attn_norm.weight", x), kv_type)
        x = x + (norm(blk + "post_attention_norm.weight", y) if s.gemma else y)
        y = feed_forward(w, s, layer, norm(blk + "ffn_norm.weight", x))
        x = x + (norm(blk + "post_ffw_norm.weight", y) if s.gemma else y)
    return norm("output_norm.weight", x)


def forward(model, ids, kv_type="f64"):
    """Logits, float64 [position][vocabulary], for one sequence that starts at position 0. `model` is the path of
    a GGUF file, or something like Weights."""
    w = Weights(model) if isinstance(model, str) else model
    s = Shape(w)
    head = "output.weight" if "output.weight" in w.tensors else "token_embd.weight"
    vocabulary = w.tensors[head].data.shape[0]
    ids = np.asarray(ids, dtype=np.int64)
    if ids.size == 0 or ids.min() < 0 or ids.max() >= vocabulary:
        raise SystemExit(f"no ids, or an id outside 0 .. {vocabulary - 1}")
    if kv_type not in ("f64", "f16"):
        kv_type = Cache(kv_type, s, len(ids))
    x = hidden_states(w, s, ids, kv_type)
    if isinstance(kv_type, Cache):
        print(f"cache: beyond half a unit in the last place of 16 bits, values are off by {kv_type.worst:.1e} "
              "of their head's root mean square at most")
        if not kv_type.worst < 1e-4:
            raise SystemExit("the cache does not hold this model's keys and values, rounded to 16 bits")
    logits = np.empty((len(ids), vocabulary))
    for first in range(0, vocabulary, 16384):  # a large vocabulary's head does not fit at once
        part = slice(first, first + 16384)
        logits[:, part] = x @ w.rows(head, part).T
    return logits


def compare(logits, other):
    """Relative error of `other` per position, KL divergence, how often the best token agrees."""
    def log_softmax(x):
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    error = np.linalg.norm(other - logits, axis=1) / np.linalg.norm(logits, axis=1)
    p, q = log_softmax(logits), log_softmax(other)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    agree = (logits.argmax(axis=1) == other.argmax(axis=1)).mean()
    return error, kl, agree


def main():
    a = argparse.ArgumentParser(description="float64 reference logits of a GGUF model")
    a.add_argument("model")
    a.add_argument("ids", help="file of token ids, or - for standard input")
    a.add_argument("--out", help="write float32 [position][vocabulary] there")
    a.add_argument("--kv", choices=("f64", "f16"), default="f64",
                   help="round K (after RoPE) and V to this type")
    a.add_argument("--kv-file", metavar="CACHE.f16", help="use these rounded keys and values, once checked")
    a.add_argument("--compare", metavar="OTHER.f32", help="logits to hold against the reference")
    a.add_argument("--limit", type=float, help="with --compare: fail above this relative error")
    o = a.parse_args()
    text = sys.stdin.read() if o.ids == "-" else open(o.ids, encoding="ascii").read()
    logits = forward(o.model, [int(t) for t in text.replace(",", " ").split()], o.kv_file or o.kv)
    if o.out:
        logits.astype("<f4").tofile(o.out)
    if not o.compare:
        return 0
    other = np.fromfile(o.compare, dtype="<f4").astype(np.float64)
    if other.size != logits.size:
        raise SystemExit(f"{o.compare} holds {other.size} numbers, not {logits.shape}")
    error, kl, agree = compare(logits, other.reshape(logits.shape))
    worst = int(np.nanargmax(error)) if not np.isnan(error).all() else 0
    print(f"relative error: max {error.max():.3e} at position {worst}, mean {error.mean():.3e}; "
          f"KL divergence: mean {kl.mean():.3e}, max {kl.max():.3e}; top-1 agreement {agree:.4f}")
    return 1 if o.limit is not None and not error.max() <= o.limit else 0


if __name__ == "__main__":
    sys.exit(main())
