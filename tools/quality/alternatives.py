#!/usr/bin/env python3
"""What else could be done with the bytes: low rank beside 3 bits, and pruning, against plain formats at as many bytes.

    alternatives.py [--every N] [--print]      writes its section of docs/quality.md

SmolLM2's original (originals.py) runs over the calibration text in NumPy; every matmul's second moments H are kept.
Every contender is quantised with the same error feedback (LDLQ), tables (llm.h) and scales, so that only the idea
differs. The loss is tr(E H E^T) / tr(W H W^T), E being what the weights changed by, averaged over the matrices of
every tenth layer; the divergence is that of the whole model with the matrices of all layers replaced, in float, on
text that it has not been calibrated on. Takes about 20 minutes. Needs numpy, gguf and what `make` builds."""
import argparse
import os
import re
import subprocess

import numpy as np
from gguf import GGUFReader, quants

import originals
import texts

ROOT = texts.ROOT
BUILD = os.path.join(ROOT, "build")
DOCUMENT = os.path.join(ROOT, "docs", "quality.md")
BEGIN, END = "<!-- measured: tools/quality/alternatives.py -->", "<!-- end of alternatives -->"
WINDOW, RANKS = 512, (8, 16, 32)
GRID = (0.92, 1.14, 1.43)  # scales that are tried, over the one that lets nothing clip
MATRICES = {"attn_q": "attn", "attn_k": "attn", "attn_v": "attn", "attn_output": "out", "ffn_gate": "ffn", "ffn_up": "ffn",
            "ffn_down": "down"}


# ---- the model -------------------------------------------------------------------------------------

def load(path):
    """({name: weights}, {key: value})"""
    reader = GGUFReader(path)
    weights = {t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    keys = {k.split(".", 1)[1]: f.contents() for k, f in reader.fields.items() if k.startswith("llama.")}
    return weights, keys


def normed(x, gain, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * gain


def turned(x, base):
    """x [tokens][heads][size], pairs (2 i, 2 i + 1) as GGUF stores this family."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[0])[:, None] * base ** (-np.arange(half) / half)
    c, s = (f(angle)[:, None].astype(np.float32) for f in (np.cos, np.sin))
    a, b = x[..., 0::2], x[..., 1::2]
    return np.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)


def attention(q, k, v):
    """[tokens][heads][size], causal."""
    group, n = q.shape[1] // k.shape[1], q.shape[0]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    score = np.einsum("ihd,jhd->hij", q, k, optimize=True) / np.sqrt(np.float32(q.shape[2]))
    score[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
    p = np.exp(score - score.max(-1, keepdims=True))
    return np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v, optimize=True).reshape(n, -1)


def layer(w, keys, number, x, seen):
    """One layer over windows x [windows][tokens][width]; seen(input, rows) is told what matmuls eat."""
    eps, base = keys["attention.layer_norm_rms_epsilon"], keys["rope.freq_base"]
    name = f"blk.{number}.%s.weight"
    heads = keys["attention.head_count"]
    for i, window in enumerate(x):
        h = normed(window, w[name % "attn_norm"], eps)
        seen("attn", h)
        q, k, v = (h @ w[name % m].T for m in ("attn_q", "attn_k", "attn_v"))
        size = q.shape[1] // heads
        q, k, v = (y.reshape(len(h), -1, size) for y in (q, k, v))
        h = attention(turned(q, base), turned(k, base), v)
        seen("out", h)
        window = window + h @ w[name % "attn_output"].T
        h = normed(window, w[name % "ffn_norm"], eps)
        seen("ffn", h)
        gate = h @ w[name % "ffn_gate"].T
        h = gate / (1 + np.exp(-gate)) * (h @ w[name % "ffn_up"].T)
        seen("down", h)
        x[i] = window + h @ w[name % "ffn_down"].T


def moments(w, keys, ids):
    """{(layer, input): H} over windows of ids."""
    x, found = w["token_embd.weight"][ids], {}
    for number in range(keys["block_count"]):
        def seen(name, h, number=number):
            found[number, name] = found.get((number, name), 0) + h.T @ h
        layer(w, keys, number, x, seen)
    return {k: h / ids.size for k, h in found.items()}


def logits(w, keys, ids):
    """Logarithms of probabilities behind the second halves of the windows."""
    x = w["token_embd.weight"][ids]
    for number in range(keys["block_count"]):
        layer(w, keys, number, x, lambda name, h: None)
    x = normed(x[:, WINDOW // 2:-1], w["output_norm.weight"], keys["attention.layer_norm_rms_epsilon"])
    z = x.reshape(-1, x.shape[-1]) @ w["token_embd.weight"].T
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


# ---- formats ---------------------------------------------------------------------------------------

def tables():
    """{bits: values [512 steps of a half][16 parameters]} out of llm.h."""
    with open(os.path.join(ROOT, "llm.h"), encoding="utf-8") as f:
        source = f.read()
    source = source[source.index("llm__formats[LLM_TYPE_COUNT] = {"):]
    found = {}
    for bits, u, m, b in re.findall(r"\{([2-6]), 0,\s*\{([^}]*)\},\s*\{([^}]*)\},\s*\{([^}]*)\}\}", source)[:5]:
        u, m, b = (np.array([int(i) for i in part.split(",")]) for part in (u, m, b))
        values = m[:, None] * u - b[:, None]                       # [16][codes]
        x = (np.arange(512) - 256) * 0.5 + 0.25
        best = np.abs(x[:, None, None] - values).argmin(-1)        # [512][16]
        found[int(bits)] = values[np.arange(16), best].astype(np.float32)
    return found


def nearest(table, x):
    """x [...][16 columns] in units of the scale: values for every parameter [...][16 columns][16]."""
    return table[np.clip(x * 2 + 256, 0, 511).astype(np.int16)]


def factored(h):
    """H = U D U^T with U unit upper; (U, D)"""
    h = h + np.eye(len(h), dtype=h.dtype) * 0.01 * np.trace(h) / len(h)
    root = np.linalg.cholesky(h[::-1, ::-1].astype(np.float64))[::-1, ::-1]
    d = np.diag(root)
    return (root / d).astype(np.float32), (d * d).astype(np.float32)


def kept(w, aim, d, sparse):
    """What of aim [rows][16] stays: all, two of four, or blocks of 16 rows but for the share that matters least."""
    weight = np.where(w == 0, 0, aim * aim * d)
    if sparse == "2:4":
        order = weight.reshape(-1, 4, 4).argsort(-1).argsort(-1)
        return (order >= 2).reshape(aim.shape)
    if sparse:
        block = weight.reshape(-1, 16 * 16).sum(-1)
        return np.repeat(block.argsort().argsort() >= round(sparse * len(block)), 16)[:, None] & np.ones(16, bool)
    return np.ones(aim.shape, bool)


def quantised(table, w, u, d, sparse=None):
    """w' with error feedback. table None: the values stay, only what is pruned goes."""
    rows, n = w.shape
    size = next(s for s in (256, 192, 128, 64) if n % s == 0)
    e, out = np.zeros_like(w), np.empty_like(w)
    for start in range(0, n, 16):
        block = slice(start, start + 16)
        aim = w[:, block] + e[:, :start] @ u[:start, block]
        keep = kept(w[:, block], aim, d[block], sparse)
        if start % size == 0 and table is not None:
            scale = best_scale(table, w[:, start:start + size] + e[:, :start] @ u[:start, start:start + size],
                               d[start:start + size])
        if table is not None:
            off = nearest(table, aim / scale) - (aim / scale)[..., None]
            p = ((off * off) * (keep * d[block])[..., None]).sum(1).argmin(-1)
        for k in range(16):
            now = aim[:, k]
            value = now if table is None else scale[:, 0] * table[np.clip(now / scale[:, 0] * 2 + 256, 0, 511).astype(int), p]
            out[:, start + k] = np.where(keep[:, k], value, 0)
            e[:, start + k] = w[:, start + k] - out[:, start + k]
            aim[:, k + 1:] += e[:, start + k, None] * u[start + k, start + k + 1:start + 16]
    return out


def best_scale(table, x, d):
    """[rows][1]: of a few, the one of the least weighted error."""
    most = np.abs(x).max(1, keepdims=True) / 127 + 1e-30
    errors = []
    for factor in GRID:
        t = (x / (most * factor)).reshape(len(x), -1, 16)
        off = nearest(table, t) - t[..., None]
        errors.append(((off * off) * d.reshape(-1, 16)[..., None]).sum(2).min(-1).sum(-1) * factor ** 2)
    return most * np.array(GRID, np.float32)[np.argmin(errors, 0)][:, None]


def low_rank(e, h, rank):
    """The best of that rank for e under h: e seen from the first left singular vectors of e H^(1/2)."""
    _, vectors = np.linalg.eigh(((e @ h) @ e.T).astype(np.float64))
    a = vectors[:, -rank:].astype(np.float32)
    return a @ (a.T @ e)


def corrected(table, w, h, u, d, rank):
    """3 bits and a correction, each once more with the other in view."""
    low = low_rank(w - quantised(table, w, u, d), h, rank)
    q = quantised(table, w - low, u, d)
    return q + low_rank(w - q, h, rank)


def loss(w, made, h):
    e = w - made
    return float(((e @ h) * e).sum() / ((w @ h) * w).sum())


# ---- the comparison --------------------------------------------------------------------------------

OVERHEAD = 0.3125  # scales and parameters
SPARSE = ("q2", "q3", "q4", "2:4 of 4 bits", "2:4 of 6 bits")  # for weights that are sparse already
AT_THE_END = ("q3", "2:4 of 4 bits")                           # of equal size: the whole model's divergence


def pruned(w):
    """The two larger of every four."""
    order = np.abs(w).reshape(-1, 4).argsort(-1).argsort(-1)
    return np.where((order >= 2).reshape(w.shape), w, 0)


def contenders(t):
    """{name: (bits a weight of a matrix [rows][columns], make(w, h, u, d))}"""
    found = {f"q{b}": (lambda shape, b=b: b + OVERHEAD, lambda w, h, u, d, b=b: quantised(t[b], w, u, d)) for b in (2, 3, 4)}
    for r in RANKS:
        found[f"q3 and rank {r}"] = (lambda shape, r=r: 3 + OVERHEAD + 8.0625 * r * (1 / shape[0] + 1 / shape[1]),
                                     lambda w, h, u, d, r=r: corrected(t[3], w, h, u, d, r))
    found["2:4, values not quantised"] = (lambda shape: float("nan"), lambda w, h, u, d: quantised(None, w, u, d, "2:4"))
    for b in (4, 5, 6):
        found[f"2:4 of {b} bits"] = (lambda shape, b=b: b / 2 + 1 + OVERHEAD,
                                     lambda w, h, u, d, b=b: quantised(t[b], w, u, d, "2:4"))
    found["q4 but for a quarter of its blocks"] = (lambda shape: 0.75 * (4 + OVERHEAD),
                                                   lambda w, h, u, d: quantised(t[4], w, u, d, 0.25))
    return found


def measure(w, h, layers, contenders, change=lambda x: x):
    """{contender: (bits, loss)}"""
    found = {}
    for number in layers:
        factors = {name: factored(h[number, name]) for name in set(MATRICES.values())}
        for matrix, name in MATRICES.items():
            x = change(w[f"blk.{number}.{matrix}.weight"])
            for what, (bits, make) in contenders.items():
                made = make(x, h[number, name], *factors[name])
                found.setdefault(what, []).append((x.size, bits(x.shape), loss(x, made, h[number, name])))
    return {k: (sum(s * b for s, b, _ in v) / sum(s for s, _, _ in v), float(np.mean([e for _, _, e in v])))
            for k, v in found.items()}


def divergence(w, keys, h, make, ids, truth):
    """Mean KL of the model with all matrices made so."""
    other = dict(w)
    for number in range(keys["block_count"]):
        factors = {name: factored(h[number, name]) for name in set(MATRICES.values())}
        for matrix, name in MATRICES.items():
            key = f"blk.{number}.{matrix}.weight"
            other[key] = make(w[key], h[number, name], *factors[name])
    return float((np.exp(truth) * (truth - logits(other, keys, ids))).sum(-1).mean())


def tokens(model, text, most=None):
    """Windows of ids."""
    ids = np.array(subprocess.run([os.path.join(BUILD, "tokenize"), model], input=text, capture_output=True,
                                  check=True).stdout.split(), int)
    ids = ids[:len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return ids[:most]


def report(plain, sparse, kl):
    def rows(found, names):
        for name in names:
            bits, error = found[name]
            mixed = plain["q3"][1] + (plain["q4"][1] - plain["q3"][1]) * (bits - plain["q3"][0])
            yield (f"| {name} | " + ("" if bits != bits else f"{bits:.2f}") + f" | {error:.4f} | " +
                   (f"{mixed:.4f}" if name.startswith("q3 and") else "") + " | " +
                   (f"{kl[name]:.3f}" if name in kl and found is plain else "") + " |")
    names = list(plain)
    out = [BEGIN, "", "| SmolLM2's matrices | bits a weight | loss | q3 and q4 mixed to as many bits | mean KL |",
           "|---|---:|---:|---:|---:|", *rows(plain, names), "",
           "| the same, the two smaller of every four set to 0 first | bits a weight | loss |", "|---|---:|---:|"]
    out += [f"| {n} | {sparse[n][0]:.2f} | {sparse[n][1]:.4f} |" for n in SPARSE]
    return "\n".join(out + ["", END])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=os.path.join(ROOT, "models", "smollm2-135m-instruct.gguf"))
    parser.add_argument("--every", type=int, default=10, help="of so many layers one is looked at")
    parser.add_argument("--print", action="store_true", help="do not write docs/quality.md")
    options = parser.parse_args()
    folder = os.path.join(BUILD, "quality")
    os.makedirs(folder, exist_ok=True)
    source, model = os.path.join(folder, "alternatives.gguf"), os.path.join(folder, "alternatives.llm")
    if not os.path.exists(source):
        originals.write(options.source, source)
    subprocess.run([os.path.join(BUILD, "llm-convert"), source, model, "--fast", "--type", "q8", "--quiet"], check=True)
    w, keys = load(source)
    t = tables()
    h = moments(w, keys, tokens(model, texts.calibration()))
    layers = range(2, keys["block_count"], options.every)
    every = contenders(t)
    plain = measure(w, h, layers, every)
    sparse = measure(w, h, layers, {k: every[k] for k in SPARSE}, pruned)
    ids = tokens(model, texts.evaluation(), 2)
    truth = logits(w, keys, ids)
    kl = {n: divergence(w, keys, h, every[n][1], ids, truth) for n in AT_THE_END}
    section = report(plain, sparse, kl)
    if options.print:
        print(section)
        return
    with open(DOCUMENT, encoding="utf-8") as f:
        text = f.read()
    with open(DOCUMENT, "w", encoding="utf-8") as f:
        f.write(text[:text.index(BEGIN)] + section + text[text.index(END) + len(END):])


if __name__ == "__main__":
    main()
