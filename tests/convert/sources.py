#!/usr/bin/env python3
"""What the converter reads besides GGUF: Hugging Face folders and llama2.c's .bin.

Folders of tests/fixtures/folders: their logits against those of transformers; the same weights as a GGUF file,
written here, must give the same tensors, description and template; tokens against the `tokenizers` package; 8-bit
floats with scales of every kind, and ternary weights in every form, against the products in F32. A .bin of every
form, written here, and stories260K where it is: logits against the float64 reference. Refused: what the program says
of an input that is none.
"""
import json
import os
import shutil
import struct
import sys
import tempfile

import numpy as np

from safetensors.numpy import save_file

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(ROOT, "tests", "reference")]
import gguf  # noqa: E402
from forward import compare, forward  # noqa: E402
from toolchain import BUILD, Report, run  # noqa: E402

FOLDERS = os.path.join(ROOT, "tests", "fixtures", "folders")
STORIES = os.path.join(os.path.dirname(ROOT), "shared", "models", "stories260K.bin")
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
GEMMA = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm"}
TOP = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}


class Test:
    def __init__(self, folder):
        self.folder, self.report = folder, Report("sources")
        self.check = self.report.check
        self.convert_program = os.path.join(BUILD, "llm-convert")
        self.bits = os.path.join(folder, "bits")
        self.tokenize = os.path.join(folder, "tokenize")
        for source, program in (("tests/bits.c", self.bits), ("examples/tokenize.c", self.tokenize)):
            status, said = run(["cc", "-O1", "-w", "-DLLM_NO_TEMPLATE", "-DLLM_NO_AVX2", source, "-o", program, "-lm",
                                "-lpthread"])
            self.check(status == 0, f"{source} does not compile: {said[:500]}")

    def path(self, name):
        return os.path.join(self.folder, name)

    def convert(self, source, name, *options):
        """The path of the new file; None when the converter refused it."""
        out = self.path(name + ".llm")
        status, said = run([self.convert_program, source, out, "--quiet", "--fast", *options])
        return out if self.check(status == 0, f"{source}: {said}") else None

    def logits(self, model, ids, shape):
        text, out = self.path("ids.txt"), self.path("out.f32")
        with open(text, "w", encoding="ascii") as f:
            f.write(" ".join(map(str, ids)))
        status, said = run([self.bits, model, text, "--kv", "f16", "--out", out])
        self.check(status == 0, f"{model}: {said}")
        return np.fromfile(out, "<f4").reshape(shape)


def sections(path):
    """{kind: bytes} of a .llm file."""
    data = open(path, "rb").read()
    count = struct.unpack_from("<I", data, 12)[0]
    found = {}
    for i in range(count):
        kind, _, offset, size, _ = struct.unpack_from("<4sIQQQ", data, 64 + 32 * i)
        found[kind.decode()] = data[offset:offset + size]
    return found


def read_tensors(folder):
    """{name: (dtype, array as stored, as uint16 for BF16)} of all shards, in plain Python."""
    tensors = {}
    for file in sorted(f for f in os.listdir(folder) if f.endswith(".safetensors")):
        data = open(os.path.join(folder, file), "rb").read()
        size = struct.unpack_from("<Q", data)[0]
        for name, t in json.loads(data[8:8 + size]).items():
            if name != "__metadata__":
                a, b = t["data_offsets"]
                kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}[t["dtype"]]
                tensors[name] = t["dtype"], np.frombuffer(data[8 + size + a:8 + size + b], kind).reshape(t["shape"])
    return tensors


def to_float(dtype, array):
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


# ---- folders ---------------------------------------------------------------------------------------

def test_logits(t, name):
    folder = os.path.join(FOLDERS, name)
    ids = open(os.path.join(folder, "ids.txt"), encoding="ascii").read().split()
    right = np.fromfile(os.path.join(folder, "logits.f32"), "<f4").reshape(len(ids), -1)
    model = t.convert(folder, name, "--type", "f32")
    error, kl, agree = compare(right.astype(np.float64), t.logits(model, ids, right.shape).astype(np.float64))
    print(f"{name}: relative error {error.max():.1e} at most, {error.mean():.1e} on average; KL {kl.mean():.1e}")
    t.check(error.max() < 2.5e-3 and error.mean() < 1e-3 and agree == 1.0, f"{name}: {error.max()}, top {agree}")


def permute(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(path, folder):
    """The folder's weights as the usual converter writes them; returns its config of text."""
    c = json.load(open(os.path.join(folder, "config.json"), encoding="utf-8"))
    c = c.get("text_config", c)
    family = {"llama": "llama", "qwen3": "qwen3", "gemma3_text": "gemma3"}[c["model_type"]]
    w = gguf.GGUFWriter(path, family)
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    head = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    w.add_key_length(head)
    w.add_value_length(head)
    if family == "gemma3":
        w.add_attention_scale(c["query_pre_attn_scalar"] ** -0.5)
        w.add_sliding_window(c["sliding_window"])
        w.add_sliding_window_pattern(c["sliding_window_pattern"])
        w.add_rope_freq_base_swa(c["rope_local_base_freq"])
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(c["rope_scaling"]["factor"])
    if family == "llama":
        w.add_tensor("rope_freqs.weight", llama3_factors(c["rope_scaling"], c["rope_theta"], head))
    for name, (dtype, array) in read_tensors(folder).items():
        if name.startswith("vision_tower."):
            continue
        name = name.removeprefix("language_model.").removeprefix("model.")
        if name == "lm_head.weight":
            name = "output.weight"
        elif name in TOP:
            name = TOP[name]
        else:
            _, layer, rest = name.split(".", 2)
            inner, kind = rest.rsplit(".", 1)
            name = f"blk.{layer}.{({**NAMES, **GEMMA} if family == 'gemma3' else NAMES)[inner]}.{kind}"
        if family == "llama" and (".attn_q." in name or ".attn_k." in name):
            array = permute(array, c["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"])
        if array.ndim == 1:
            array, dtype = to_float(dtype, array), "F32"
        if family == "gemma3" and name.endswith("norm.weight"):
            array = array + np.float32(1)
        w.add_tensor(name, np.ascontiguousarray(array), raw_dtype=gguf.GGMLQuantizationType[dtype])
    template = json.load(open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8")).get("chat_template")
    if template is None:
        template = open(os.path.join(folder, "chat_template.jinja"), encoding="utf-8").read()
    if isinstance(template, list):
        template = next(x["template"] for x in template if x["name"] == "default")
    w.add_chat_template(template)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama3_factors(s, base, head):
    """As published with Llama 3.1."""
    wave = 2 * np.pi * base ** (np.arange(0, head, 2) / head)
    low, high = (s["original_max_position_embeddings"] / s[k] for k in ("low_freq_factor", "high_freq_factor"))
    smooth = (s["original_max_position_embeddings"] / wave - s["low_freq_factor"]) / \
        (s["high_freq_factor"] - s["low_freq_factor"])
    between = 1 / ((1 - smooth) / s["factor"] + smooth)
    return np.where(wave < high, 1.0, np.where(wave > low, s["factor"], between)).astype(np.float32)


def test_same_as_gguf(t, name):
    folder = os.path.join(FOLDERS, name)
    path = t.path(name + ".gguf")
    write_gguf(path, folder)
    for kind in ("f32", "auto", "q4"):
        theirs = sections(t.convert(folder, name, "--type", kind, "--fast"))
        ours = sections(t.convert(path, name + "-gguf", "--type", kind, "--fast"))
        for section in ("DESC", "LAYR", "TMPL", "DATA"):
            t.check(theirs[section] == ours[section], f"{name} as {kind}: {section} is not that of the GGUF file")
        plain = [struct.unpack_from("<8I", s["TDIR"], 64 * i) for s in (theirs, ours) for i in
                 range(len(s["TDIR"]) // 64)]
        t.check(plain[:len(plain) // 2] == plain[len(plain) // 2:], f"{name} as {kind}: other tensors")


def test_tokens(t, name):
    try:
        from tokenizers import Tokenizer
    except ImportError:
        t.report.missing("the Python package tokenizers")
        return
    model = t.convert(os.path.join(FOLDERS, name), name)
    reference = Tokenizer.from_file(os.path.join(FOLDERS, name, "tokenizer.json"))
    for text in ("the people of the town, 1992", " two  spaces", "caf\u00e9 \u4e16\u754c\n\nand so on"):
        text += "\n"
        status, said = run([t.tokenize, model], input=text)
        t.check(status == 0 and said.split() == [str(i) for i in reference.encode(text).ids],
                f"{name}: {text!r} is {said.split()}, not {reference.encode(text).ids}")


def test_ends(t, name, ids):
    """Each of generation_config.json's ids ends a generation: the section lists it."""
    model = t.convert(os.path.join(FOLDERS, name), name)
    section = sections(model)["TOKN"]
    for i in ids:
        t.check(struct.pack("<I", i) in section, f"{name}: {i} is nowhere in the tokenizer section")


# ---- 8-bit floats ------------------------------------------------------------------------------------

def save_eight(folder, tensors, config):
    """A folder whose file holds {name: (dtype, bytes, shape)}."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    header, data = {}, b""
    for name, (dtype, raw, shape) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def test_eight(t, dtype, values, kind, block):
    """kind: how many scales a matrix has; the same model with the products in F32 must be the same file."""
    source = os.path.join(FOLDERS, "qwen3")
    config = json.load(open(os.path.join(source, "config.json"), encoding="utf-8"))
    random = np.random.Generator(np.random.PCG64(5))
    finite = np.flatnonzero(np.isfinite(values)).astype(np.uint8)
    eight, plain = {}, {}
    for name, (_, array) in read_tensors(source).items():
        if array.ndim != 2 or "embed" in name:
            eight[name] = plain[name] = ("F32", array.tobytes(), array.shape)
            continue
        codes = random.choice(finite, array.shape)
        codes.flat[:finite.size] = finite[:codes.size]
        rows, cols = array.shape
        grid = {"tensor": (1, 1), "scalar": (1, 1), "row": (rows, 1),
                "block": (-(-rows // block[0]), -(-cols // block[1])), "none": (0, 0)}[kind]
        product = values[codes]
        if kind != "none":
            # scales that BF16 holds as well
            scale = (random.integers(1, 200, grid) / 4096).astype(np.float32)
            steps = {"row": (1, cols), "block": block}.get(kind, (rows, cols))
            whole = np.repeat(np.repeat(scale, steps[0], 0), steps[1], 1)[:rows, :cols]
            product = (product * whole).astype(np.float32)
            shape = {"scalar": (), "row": (rows, 1)}.get(kind, grid)
            raw, written = scale.tobytes(), "F32"
            if kind == "row":
                raw, written = (scale.view(np.uint32) >> 16).astype("<u2").tobytes(), "BF16"
            eight[name + ("_scale_inv" if kind == "block" else "_scale")] = (written, raw, shape)
            eight[name[:-6] + "input_scale"] = ("F32", np.float32(1).tobytes(), ())
        eight[name] = (dtype, codes.tobytes(), array.shape)
        plain[name] = ("F32", product.astype("<f4").tobytes(), array.shape)
    save_eight(t.path("plain"), plain, config)
    if kind != "none":
        config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if kind == "block":
        config["quantization_config"]["weight_block_size"] = list(block)
    save_eight(t.path("eight"), eight, config)
    for stored in ("f32", "q8"):
        ours, right = (sections(t.convert(t.path(n), n, "--type", stored, "--fast")) for n in ("eight", "plain"))
        t.check(ours["DATA"] == right["DATA"], f"{dtype}, scales for a {kind} {block}, as {stored}: other weights")


# ---- ternary weights -----------------------------------------------------------------------------------

def test_ternary(t, form):
    """The same model with every weight in F32 must be the same file."""
    source = os.path.join(FOLDERS, "bitnet")
    config = json.load(open(os.path.join(source, "config.json"), encoding="utf-8"))
    random = np.random.Generator(np.random.PCG64(6))
    stored, plain = {}, {}
    for name, (dtype, array) in read_tensors(source).items():
        if dtype != "U8":
            if not name.endswith("_scale"):
                stored[name] = plain[name] = (dtype, array.tobytes(), array.shape)
            continue
        shape = (4 * array.shape[0], array.shape[1])
        weights = np.concatenate([array >> 2 * i & 3 for i in range(4)]).astype(np.float32) - 1
        size = np.float32(random.integers(1, 200) / 4096)  # BF16 holds it
        if form == "rounded":
            trained = (weights * random.uniform(0.7, 1.3, shape) + random.uniform(-0.3, 0.3, shape)) * size
            trained = (trained.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
            stored[name] = ("BF16", trained.tobytes(), shape)
            trained = (trained.astype(np.uint32) << 16).view(np.float32)
            size = np.abs(trained.astype(np.float64)).mean().astype(np.float32)
            weights = np.clip(np.round(trained / size), -1, 1) + 0.0  # no -0
        else:
            stored[name] = ("U8", array.tobytes(), array.shape)
            written = size if form == "multiplied" else 1 / size
            stored[name + "_scale"] = ("F32", np.float32(written).tobytes(), (1,) if form == "multiplied" else ())
            size = size if form == "multiplied" else 1 / np.float32(written)
        plain[name] = ("F32", (weights * size).astype("<f4").tobytes(), shape)
    settings = {"quant_method": "bitnet"}
    if form != "divided":
        settings.update(linear_class="autobitlinear", quantization_mode="online" if form == "rounded" else "offline")
    save_eight(t.path("stored"), stored, {**config, "quantization_config": settings})
    del config["quantization_config"]
    save_eight(t.path("plain"), plain, config)
    for kind in ("f32", "auto", "q2", "q4"):
        ours, right = (sections(t.convert(t.path(n), n, "--type", kind, "--fast")) for n in ("stored", "plain"))
        t.check(ours["DATA"] == right["DATA"], f"ternary weights, {form}, as {kind}: other weights")


# ---- llama2.c ----------------------------------------------------------------------------------------

class Floats:
    """A .bin as the reference wants its weights: an independent reading of version 0 and 1."""

    def __init__(self, path):
        data = open(path, "rb").read()
        numbered = data[:4] == b"24ka"
        dim, hidden, layers, heads, kv_heads, vocab, seq = struct.unpack_from("<7i", data, 8 if numbered else 0)
        shared = data[36] == 1 if numbered else vocab > 0
        vocab, kv = abs(vocab), dim // heads * kv_heads
        shapes = {"wq": (dim, dim), "wk": (kv, dim), "wv": (kv, dim), "wo": (dim, dim), "w1": (hidden, dim),
                  "w2": (dim, hidden), "w3": (hidden, dim), "an": (dim,), "fn": (dim,)}
        names = {"wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output", "w1": "ffn_gate",
                 "w2": "ffn_down", "w3": "ffn_up", "an": "attn_norm", "fn": "ffn_norm"}
        top = {"emb": ("token_embd", (vocab, dim)), "norm": ("output_norm", (dim,)), "cls": ("output", (vocab, dim)),
               "freq": (None, (seq * dim // heads,))}
        order = "an fn norm emb wq wk wv wo w1 w2 w3 cls" if numbered else \
            "emb an wq wk wv wo fn w1 w2 w3 norm freq cls"
        at, self.tensors = 256 if numbered else 28, {}
        for key in order.split():
            if key == "cls" and shared:
                continue
            for layer in range(layers if key in shapes else 1):
                name, shape = (f"blk.{layer}.{names[key]}", shapes[key]) if key in shapes else top[key]
                size = int(np.prod(shape))
                if name:
                    self.tensors[name + ".weight"] = self.Tensor(np.frombuffer(data, "<f4", size, at).reshape(shape))
                at += 4 * size
        assert at == len(data), (at, len(data))
        self.family, self.fields = "llama", {}
        self.settings = {"embedding_length": dim, "block_count": layers, "attention.head_count": heads,
                         "attention.head_count_kv": kv_heads, "attention.layer_norm_rms_epsilon": 1e-5}

    class Tensor:
        def __init__(self, data):
            self.data = data

    def setting(self, name, default=None):
        return self.settings.get(name, default)

    def rows(self, name, select=slice(None)):
        return self.tensors[name].data[select].astype(np.float64)


def make_bin(path, version, shared, vocab=40):
    dim, hidden, layers, heads, kv_heads, seq = 32, 48, 2, 4, 2, 64
    random = np.random.Generator(np.random.PCG64(version * 2 + shared))

    def matrix(rows, cols):
        return (random.standard_normal((rows, cols)) * 1.2 / cols ** 0.5).astype("<f4").tobytes()

    def gains(count):
        return b"".join((1 + random.standard_normal(dim) / 4).astype("<f4").tobytes() for _ in range(count))

    kv = dim // heads * kv_heads
    blocks = {k: b"".join(matrix(*s) for _ in range(layers)) for k, s in
              {"wq": (dim, dim), "wk": (kv, dim), "wv": (kv, dim), "wo": (dim, dim), "w1": (hidden, dim),
               "w2": (dim, hidden), "w3": (hidden, dim)}.items()}
    blocks.update(emb=matrix(vocab, dim), cls=b"" if shared else matrix(vocab, dim), an=gains(layers), fn=gains(layers),
                  norm=gains(1), freq=bytes(4 * seq * dim // heads))
    numbers = [dim, hidden, layers, heads, kv_heads, vocab if shared or version else -vocab, seq]
    head = struct.pack("<7i", *numbers)
    order = "emb an wq wk wv wo fn w1 w2 w3 norm freq cls"
    if version:
        head = (b"24ka" + struct.pack("<i", 1) + head + bytes([shared])).ljust(256, b"\0")
        order = "an fn norm emb wq wk wv wo w1 w2 w3 cls"
    with open(path, "wb") as f:
        f.write(head + b"".join(blocks[k] for k in order.split()))


def make_tokenizer(path, vocab):
    tokens = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)] + [(b"<0x%02X>" % b, 0.0) for b in range(256)]
    for i, piece in enumerate([b" t", b"he", b" the", b" ", b"t", b"h", b"e", b"a"]):
        tokens.append((piece, -float(i)))
    tokens = tokens[:vocab]
    with open(path, "wb") as f:
        f.write(struct.pack("<i", max(len(t) for t, _ in tokens)))
        for token, score in tokens:
            f.write(struct.pack("<fi", score, len(token)) + token)
    return len(tokens)


def check_bin(t, path, what, count=40, limit=2.5e-3, **options):
    model = t.convert(path, "bin", "--type", "f32")
    weights = Floats(path)
    vocab = weights.tensors["token_embd.weight"].data.shape[0]
    ids = np.random.Generator(np.random.PCG64(3)).integers(0, vocab, count)
    right = forward(weights, ids, "f16")
    error, kl, agree = compare(right, t.logits(model, ids, right.shape).astype(np.float64))
    print(f"{what}: relative error {error.max():.1e} at most, {error.mean():.1e} on average; KL {kl.mean():.1e}")
    t.check(error.max() < limit and agree == 1.0, f"{what}: {error.max()}, top {agree}")
    return model


def test_bin(t):
    for version in (0, 1):
        for shared in (False, True):
            path = t.path("model.bin")
            make_bin(path, version, shared)
            check_bin(t, path, f"llama2.c version {version}, {'shared' if shared else 'a classifier of its own'}")


def test_bin_tokens(t):
    vocab = make_tokenizer(t.path("tokenizer.bin"), 1000)
    path = t.path("model.bin")
    make_bin(path, 0, True, vocab)
    model = t.convert(path, "bin")
    status, said = run([t.tokenize, model], input="the\u00e9a\n")
    right = [1, 261, 3 + 0xC3, 3 + 0xA9, 266, 3 + 10]
    t.check(status == 0 and said.split() == list(map(str, right)), f"tokenizer.bin: {said.split()}, not {right}")
    status, said = run([t.convert_program, path, t.path("default.llm"), "--type", "q8"])
    t.check(status == 0 and "not calibrated: the built-in text: the vocabulary has no words for" in said,
            f"a vocabulary that does not fit the calibration: {said}")
    status, said = run([t.convert_program, path, t.path("asked.llm"), "--type", "q8", "--calibrate"])
    t.check(status == 1 and "the vocabulary has no words for" in said, f"a calibration that was asked for: {said}")
    shutil.move(t.path("tokenizer.bin"), t.path("words"))
    t.check("TOKN" not in sections(t.convert(path, "bin")), "a tokenizer from nowhere")
    t.check("TOKN" in sections(t.convert(path, "bin", "--tokenizer", t.path("words"))), "--tokenizer is forgotten")
    make_tokenizer(t.path("tokenizer.bin"), vocab - 1)
    status, said = run([t.convert_program, path, t.path("bin.llm"), "--type", "f32"])
    t.check(status == 0 and "tokenizer.bin beside it does not fit" in said, f"a tokenizer that does not fit: {said}")
    status, said = run([t.convert_program, path, t.path("bin.llm"), "--tokenizer", t.path("tokenizer.bin")])
    t.check(status == 1 and "the file ends after" in said, f"a tokenizer that must fit: {said}")


def test_stories(t):
    if not os.path.exists(STORIES):
        t.report.skipped += 1
        print("SKIP sources: ../shared/models/stories260K.bin is not there")
        return
    model = check_bin(t, STORIES, "stories260K", 64)
    generate = t.path("generate")
    status, said = run(["cc", "-O1", "-w", "-DLLM_NO_TEMPLATE", "-DLLM_NO_AVX2", "examples/generate.c", "-o", generate,
                        "-lm", "-lpthread"])
    t.check(status == 0, said[:500])
    status, said = run(["sh", "-c", '"$@" 2>/dev/null', "sh", generate, model, "--ids", "-p", "1 403 407", "-n", "40"])
    weights, ids = Floats(STORIES), [1, 403, 407]
    for _ in range(40):
        ids.append(int(forward(weights, ids)[-1].argmax()))
    t.check(status == 0 and said.split() == list(map(str, ids[3:])), f"stories260K: {said.split()}, not {ids[3:]}")
    status, said = run([generate, model, "--ids", "-p", "once upon"])
    t.check(status == 1 and "expected token ids" in said, f"a text without a tokenizer: {said}")


# ---- refusals of the program ---------------------------------------------------------------------------

def test_refused(t):
    empty = t.path("empty")
    os.makedirs(empty, exist_ok=True)
    for source, words in ((empty, "the folder has no config.json"), ("somebody/some-model", "nothing is downloaded"),
                          (t.path("none.gguf"), "no such file or folder"),
                          (os.path.join(FOLDERS, "qwen3", "model.safetensors"), "expected the folder"),
                          (os.path.join(FOLDERS, "qwen3", "config.json"), "expected the folder")):
        status, said = run([t.convert_program, source, t.path("no.llm")])
        t.check(status == 1 and words in said and not os.path.exists(t.path("no.llm")), f"{source}: {status} {said}")
    strange = t.path("ein Mod\u00e8l \u4e16")
    shutil.copytree(os.path.join(FOLDERS, "gemma3"), strange)
    t.convert(strange, "\u4e16\u754c")
    save_file({"x": np.zeros(3, np.float32)}, t.path("x.safetensors"))
    shutil.move(t.path("x.safetensors"), os.path.join(strange, "model.safetensors"))
    status, said = run([t.convert_program, strange, t.path("no.llm")])
    t.check(status == 1 and "tensor x: not known" in said, f"a tensor that nobody knows: {said}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        t = Test(folder)
        for name in ("llama", "qwen3", "gemma3", "bitnet"):
            test_logits(t, name)
            test_tokens(t, name)
            if name != "bitnet":
                test_same_as_gguf(t, name)
        test_ends(t, "llama", [281, 284])
        test_ends(t, "qwen3", [282, 280])
        test_ends(t, "gemma3", [1, 5])
        values = np.fromfile(os.path.join(FOLDERS, "fp8.f32"), "<f4").reshape(2, 256)
        for dtype, table in zip(("F8_E4M3", "F8_E5M2"), values):
            for kind in ("none", "scalar", "tensor", "row", "block"):
                test_eight(t, dtype, table, kind, (16, 20))
        for form in ("divided", "multiplied", "rounded"):
            test_ternary(t, form)
        test_bin(t)
        test_bin_tokens(t)
        test_stories(t)
        test_refused(t)
        t.report.end()


if __name__ == "__main__":
    main()
