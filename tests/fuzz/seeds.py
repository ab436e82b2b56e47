"""First inputs for the fuzzers, small and of every kind: write(folder) makes folder/TARGET/NAME."""
import json
import json
import os
import random
import struct

TEMPLATES = "tests/fixtures/templates"
TEXTS = ["", "Hello world", "  two  spaces\n\n\tand lines\r\n", "it's 12345 o'clock, WE'LL see", "\u00e9\u4e2d\U0001f600 e\u0301 \ufb01",
         "<|im_start|>user\nhi<|im_end|>", "<start_of_turn>model\n<bos><eos>", "a" * 700, "ab " * 300, "\u2581\u2581x"]


# ---- GGUF -----------------------------------------------------------------------------------

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5


def gguf_text(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind, value):
    if kind == STRING:
        return gguf_text(value)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<B", I32: "<i"}[kind], value)


def gguf_file(pairs, tensors):
    """pairs: (key, kind, value or list); tensors: (name, shape, type number, bytes). Same bytes lie together."""
    out = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += gguf_text(key)
        if isinstance(value, list):
            out += struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(gguf_value(kind, v) for v in value)
        else:
            out += struct.pack("<I", kind) + gguf_value(kind, value)
    data, places = b"", {}
    for name, shape, kind, content in tensors:
        if content not in places:
            places[content] = len(data)
            data += content + bytes(-len(content) % 32)
        out += gguf_text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, places[content])
    return out + bytes(-len(out) % 32) + data


def letters(pieces):
    """A tiny vocabulary, its kinds, and merges of a byte-level one or scores of a SentencePiece one."""
    if pieces:
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(48)] + list("\u2581abel") + ["\u2581a", "ll"]
        kinds = [2, 3, 3] + [6] * 48 + [1] * 7
        return tokens, kinds, [0.0] * 51 + [-float(i) for i in range(7)]
    tokens = ["<|end|>", "<|im_start|>"] + list("abcdehlo\u0120\u010a12!'") + ["he", "ll", "\u0120a", "hell"]
    return tokens, [3, 3] + [1] * (len(tokens) - 2), ["h e", "l l", "\u0120 a", "he ll"]


def gguf_vocabulary(pieces):
    tokens, kinds, rest = letters(pieces)
    pairs = [("tokenizer.ggml.model", STRING, "llama" if pieces else "gpt2"),
             ("tokenizer.ggml.tokens", STRING, tokens), ("tokenizer.ggml.token_type", I32, kinds),
             ("tokenizer.ggml.eos_token_id", U32, 2 if pieces else 0), ("tokenizer.ggml.bos_token_id", U32, 1),
             ("tokenizer.ggml.add_bos_token", BOOL, pieces)]
    if pieces:
        return pairs + [("tokenizer.ggml.scores", F32, rest)]
    return pairs + [("tokenizer.ggml.pre", STRING, "llama-bpe"), ("tokenizer.ggml.merges", STRING, rest)]


def gguf_model(family, pieces, kind, data):
    """A whole model of width 32, one layer; `data` are the bytes of every matrix, repeated if need be."""
    vocab = len(letters(pieces)[0])
    block, size = BLOCKS[kind]
    needed = max(vocab, 32) * 32 // block * size
    data = (data * -(-needed // len(data)))[:needed]
    pairs = [("general.architecture", STRING, family), (f"{family}.block_count", U32, 1),
             (f"{family}.context_length", U32, 64), (f"{family}.embedding_length", U32, 32),
             (f"{family}.feed_forward_length", U32, 32), (f"{family}.attention.head_count", U32, 2),
             (f"{family}.attention.head_count_kv", U32, 1), (f"{family}.attention.layer_norm_rms_epsilon", F32, 1e-5),
             (f"{family}.attention.key_length", U32, 16), (f"{family}.attention.value_length", U32, 16),
             (f"{family}.rope.freq_base", F32, 10000.0), ("tokenizer.chat_template", STRING, "{{ bos_token }}")]

    def matrix(name, rows):
        return (name + ".weight", (32, rows), kind, data)

    def vector(name, n):
        return (name + ".weight", (n,), 0, struct.pack("<32f", *[1.0] * 32))
    tensors = [matrix("token_embd", vocab), matrix("blk.0.attn_q", 32), matrix("blk.0.attn_k", 16),
               matrix("blk.0.attn_v", 16), matrix("blk.0.attn_output", 32), matrix("blk.0.ffn_gate", 32),
               matrix("blk.0.ffn_up", 32), matrix("blk.0.ffn_down", 32), vector("blk.0.attn_norm", 32),
               vector("blk.0.ffn_norm", 32), vector("output_norm", 32)]
    if family in ("qwen3", "gemma3"):
        tensors += [vector("blk.0.attn_q_norm", 16), vector("blk.0.attn_k_norm", 16)]
    if family == "bitnet":
        tensors += [vector("blk.0.attn_sub_norm", 32), vector("blk.0.ffn_sub_norm", 32)]
    if family == "gemma3":
        tensors += [vector("blk.0.post_attention_norm", 32), vector("blk.0.post_ffw_norm", 32)]
        pairs += [("gemma3.attention.sliding_window", U32, 16)]
    return gguf_file(pairs + gguf_vocabulary(pieces), tensors)


# weights and bytes of a block of every type of GGML, by its number
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
          11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 30: (1, 2)}


def tiny_models():
    """(name, type, GGUF) of the models that fuzzers open and change."""
    rng = random.Random(4)
    weights = struct.pack("<2048e", *[rng.gauss(0, 0.4) for _ in range(2048)])
    yield "tiny-llama", "q4", gguf_model("llama", False, 1, weights)
    yield "tiny-gemma", "q8", gguf_model("gemma3", True, 1, weights)
    yield "tiny-qwen", "f32", gguf_model("qwen3", False, 1, weights)


def gguf_seeds():
    rng = random.Random(1)
    one = struct.pack("<32e", *[0.5] * 32)
    yield "llama", gguf_model("llama", False, 1, one)
    yield "llama-pieces", gguf_model("llama", True, 1, one)
    yield "qwen3", gguf_model("qwen3", False, 2, rng.randbytes(18))
    yield "gemma3", gguf_model("gemma3", True, 8, rng.randbytes(34))
    yield "bitnet", gguf_model("bitnet", False, 1, struct.pack("<8e", *[0.5, 0.0, -0.5, 0.5] * 2))
    yield "types", gguf_file([("general.architecture", STRING, "llama")],
                             [(f"t{n}", (256, 2), n, rng.randbytes(512 // w * size))
                              for n, (w, size) in BLOCKS.items()])
    yield "empty", gguf_file([], [])


# ---- the others -------------------------------------------------------------------------------

def template_seed(text, how=0x0cff):
    """The layout that fuzz_template.c reads, without a failing allocation: settings, messages, template."""
    how &= 0xff
    out = struct.pack("<H", how)
    for role, content in [(0, "Hi <|im_end|>"), (1, "yes"), (2, "Be kind.")][:how & 3]:
        out += bytes([role, len(content)]) + content.encode()
    for bit, part in ((4, '[{"function": {"name": "f", "arguments": {"a": [1, 2.5, null]}}}]'), (5, "true"),
                      (7, '[{"type": "function", "function": {"name": "f"}}]')):
        if how >> bit & 1:
            out += bytes([len(part)]) + part.encode()
    return out + text


def template_seeds():
    for name in sorted(os.listdir(TEMPLATES)):
        if name.endswith(".jinja"):
            with open(os.path.join(TEMPLATES, name), "rb") as f:
                text = f.read()
            if len(text) < 4000:
                yield name[:-6], template_seed(text)
    for i, text in enumerate([b"{{ 1 + 2 * 3 }}", b"{% set ns = namespace(a=1) %}{% for m in messages %}"
                              b"{% set ns.a = ns.a + loop.index %}{% endfor %}{{ ns.a }}",
                              b"{% macro f(x, y=2) %}{{ x ~ y }}{% endmacro %}{{ f(1) | upper }}",
                              b"{{ messages | map(attribute='content') | join(', ') | tojson }}",
                              b"{{ 'a-b'.split('-')[::-1] | list | length }}{{ strftime_now('%d %b %Y') }}"]):
        yield f"small-{i}", template_seed(text)


def text_seeds():
    for i, text in enumerate(TEXTS):
        for how in (0, 1, 2, 0x10):
            yield f"{i}-{how}", bytes([how]) + text.encode()
    yield "bytes", bytes([1]) + bytes(range(256))


def llm_change(how, *changes):
    """changes: (section from 1 on, or 0 for the whole file; offset; bytes)"""
    out = bytes([how])
    for section, at, data in changes:
        out += struct.pack("<I", at)[:3] + bytes([section << 5 | (len(data) - 1)]) + data
    return out


def llm_seeds():
    for base in range(3):
        for how in (0x07, 0x0f, 0x05, 0x47):
            yield f"whole-{base}-{how}", llm_change(how | base << 4)
        for section in (1, 2, 3, 4):
            for at in (0, 8, 16, 24, 40, 64, 80):
                yield f"field-{base}-{section}-{at}", llm_change(7 | base << 4, (section, at, b"\xff\xff\xff\xff"))
        yield f"cut-{base}", bytes([1 | base << 4]) + b"\x00\x10\x00\xe0"


# ---- Hugging Face, llama2.c -------------------------------------------------------------------

def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def sized(data):
    return struct.pack("<H", len(data)) + data


def folder_seed(kind, family, types):
    """A folder of a model of width 16; `types` are the dtypes of its matrices in turn."""
    config = {"model_type": kind, "vocab_size": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-5,
              "max_position_embeddings": 64, "tie_word_embeddings": True, "hidden_act": "silu", "rope_theta": 1e4}
    if kind.startswith("gemma"):
        config.update(hidden_activation="gelu_pytorch_tanh", sliding_window=16, sliding_window_pattern=6)
    if kind == "bitnet":
        config["quantization_config"] = {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                         "quantization_mode": family}
    if family == "llama3":
        config["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                  "original_max_position_embeddings": 32}
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": [24, 16], layer + "self_attn.q_proj.weight": [16, 16],
              layer + "self_attn.k_proj.weight": [8, 16], layer + "self_attn.v_proj.weight": [8, 16],
              layer + "self_attn.o_proj.weight": [16, 16], layer + "mlp.gate_proj.weight": [16, 16],
              layer + "mlp.up_proj.weight": [16, 16], layer + "mlp.down_proj.weight": [16, 16],
              layer + "input_layernorm.weight": [16], layer + "post_attention_layernorm.weight": [16],
              "model.norm.weight": [16]}
    if kind in ("qwen3", "gemma3_text"):
        shapes.update({layer + "self_attn.q_norm.weight": [8], layer + "self_attn.k_norm.weight": [8]})
    if kind == "gemma3_text":
        shapes.update({layer + "pre_feedforward_layernorm.weight": [16], layer + "post_feedforward_layernorm.weight": [16]})
    if kind == "bitnet":
        shapes.update({layer + "self_attn.attn_sub_norm.weight": [16], layer + "mlp.ffn_sub_norm.weight": [16]})
    packed = [n for n, s in shapes.items() if family == "offline" and len(s) == 2 and "proj" in n]
    shapes.update({n: [shapes[n][0] // 4, 16] for n in packed}, **{n + "_scale": [1] for n in packed})
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for i, (name, shape) in enumerate(shapes.items()):
        dtype = "U8" if name in packed else types[i % len(types)]
        size = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1}[dtype]
        end = at + shape[0] * (shape[1] if len(shape) > 1 else 1) * size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    texts = [compact(config), compact({"chat_template": "{{ bos_token }}", "eos_token": "</s>"}),
             compact({"eos_token_id": [2, 3]}), b""]
    return b"\x02" + b"".join(sized(t) for t in texts) + struct.pack("<H", at) + compact(header)


def safetensors_seeds():
    for kind, family, types in (("llama", "", ["BF16"]), ("llama", "llama3", ["F32"]), ("qwen3", "", ["F16", "BF16"]),
                                ("gemma3_text", "", ["BF16"]), ("mistral", "", ["F8_E4M3"]),
                                ("bitnet", "offline", ["BF16"]), ("bitnet", "online", ["BF16"])):
        yield f"folder-{kind}{family}", folder_seed(kind, family, types)
    for i, text in enumerate(['{"a": [1, -2.5e3, true, null, "\\u00e9\\ud83d\\ude00\\n"], "b": {"c": {}}}', "[[[[[[]]]]]]",
                              '"text"', "18446744073709551615", "[0.1, 1e-400, 123456789012345678901234567890]"]):
        yield f"json-{i}", b"\x00" + text.encode()
    header = compact({"t": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]},
                      "e": {"dtype": "I64", "shape": [0], "data_offsets": [8, 8]}})
    yield "file", b"\x01" + struct.pack("<Q", len(header)) + header + bytes(8)


def llama2c_seeds():
    words = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % b for b in range(256)] + [b" ", b"a", b"b", b" a"]
    some = [b"<unk>", b"<s>", b"</s>", b"a", b"b", b"ab", b" a"]
    for name, tokens in (("words", words), ("some", some)):
        listed = struct.pack("<i", max(map(len, tokens)))
        for i, t in enumerate(tokens):
            listed += struct.pack("<fi", -float(i), len(t)) + t
        fields = struct.pack("<7i", 16, 16, 1, 2, 1, len(tokens), 32)
        body = struct.pack("<16f", *[0.1] * 16)
        yield name + "-0", b"\x01" + sized(listed) + fields + body
        yield name + "-1", b"\x01" + sized(listed) + (b"24ka" + struct.pack("<i", 1) + fields + b"\x01").ljust(256, b"\0") + body
    yield "untied", b"\x01" + sized(b"") + struct.pack("<7i", 8, 8, 2, 2, 2, -12, 16) + body
    yield "raw", b"\x00" + sized(b"") + struct.pack("<7i", 4, 4, 1, 2, 1, 3, 2) + bytes(500)


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def tokenizer_json(pieces, words):
    tokens, kinds, rest = letters(pieces)
    merges = rest if not pieces else ["\u2581 a", "l l"]
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": i == 1, "normalized": False,
              "special": True} for i, t in enumerate(tokens) if kinds[i] in (2, 3)]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>" if pieces else None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": pieces, "byte_fallback": pieces, "ignore_merges": False,
             "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": tokens[1], "type_id": 0}},
                                                    {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [], "special_tokens": {tokens[1]: {"id": tokens[1], "ids": [1], "tokens": [tokens[1]]}}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": words[0], "pre_tokenizer": words[1], "post_processor": bos if pieces else None,
            "decoder": None, "model": model}


def tokenizer_json_seeds():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = dict(level, use_regex=False)
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    digits = {"type": "Digits", "individual_digits": True}
    block = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                 {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    config = compact({"bos_token": "<|im_start|>", "eos_token": "<|end|>", "add_bos_token": False})
    for name, pieces, words in (
            ("gpt2", False, (None, level)), ("nfc", False, ({"type": "NFC"}, level)),
            ("smollm", False, (None, {"type": "Sequence", "pretokenizers": [digits, level]})),
            ("llama3", False, (None, {"type": "Sequence", "pretokenizers": [split, plain]})),
            ("llama2", True, (block, None)),
            ("metaspace", True, (None, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
                                        "split": False}))):
        text = compact(tokenizer_json(pieces, words))
        yield name, sized(b"") + text
        yield name + "-config", sized(config) + text


def random_seeds(count, size, salt):
    rng = random.Random(salt)
    for i in range(count):
        yield f"random-{i}", rng.randbytes(rng.randrange(1, size))


def sampler_seeds():
    yield "zero", bytes(64)
    yield from random_seeds(20, 400, 2)


def calls_seeds():
    yield from random_seeds(40, 300, 3)


def adapter_change(where, at, data):
    """where: 0 the file's start, 1 LORA, 2 PAIR, 3 DATA"""
    return bytes([where, len(data) - 1]) + struct.pack("<H", at) + data


def adapter_seeds():
    """The layout that fuzz_adapter.c reads: two bytes of how, two weights, changes."""
    weights = struct.pack("<2f", 1.0, -0.5)
    for which in range(16):
        for how in (0, 1, 5, 7, 0x79):
            yield f"whole-{which}-{how}", bytes([how, which]) + weights
    for weight in (0.0, float("inf"), float("nan"), 1e38):
        yield f"weight-{weight}", bytes([3, 4]) + struct.pack("<2f", weight, weight)
    for where, fields in enumerate((range(8, 160, 8), (0, 16, 20, 24, 32), range(0, 128, 4), range(0, 64, 4))):
        for at in fields:
            for value in (b"\xff\xff\xff\xff", b"\1\0\0\0", b"\0\0\x80\x7f"):
                yield f"field-{where}-{at}-{value[0]}", bytes([3]) + b"\0" + weights + adapter_change(where, at, value)
    for most in (17, 1024, 1025):
        yield f"rank-{most}", bytes([3, 0]) + weights + adapter_change(2, 24, struct.pack("<I", most))
    meta = adapter_change(0, 12, struct.pack("<I", 4))
    meta += adapter_change(0, 160, b"META" + bytes(4) + struct.pack("<Q", 4096))
    yield "meta", bytes([3, 0]) + weights + meta + adapter_change(0, 176, struct.pack("<QQ", 64, 0))


def imatrix_seeds():
    keys = [("general.type", STRING, "imatrix"), ("imatrix.datasets", STRING, ["text"]),
            ("imatrix.chunk_count", U32, 3), ("imatrix.chunk_size", U32, 512)]
    names = ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.attn_output", "blk.0.ffn_gate",
             "blk.0.ffn_up", "blk.0.ffn_down"]

    def entry(name, sums, *counts):
        shape = (len(sums) // len(counts), len(counts))
        return [(name + ".weight.in_sum2", shape, 0, struct.pack(f"<{len(sums)}f", *sums)),
                (name + ".weight.counts", (1, len(counts)), 0, struct.pack(f"<{len(counts)}f", *counts))]

    yield "whole", gguf_file(keys, [t for i, n in enumerate(names) for t in entry(n, range(i, i + 32), 1536.0 * i)])
    for name, value in (("ones", 1.0), ("zeros", 0.0), ("large", 3e38), ("tiny", 1e-45), ("nan", float("nan"))):
        for chunks in range(6):
            pairs = keys[:2] + [("imatrix.chunk_count", U32, chunks)]
            yield f"{name}-{chunks}", gguf_file(pairs, entry(names[1], [value] * 32, 1.0))
    yield "bare", gguf_file(keys[:1], entry("output", range(8), 2.0))
    yield "other-columns", gguf_file(keys, entry(names[7], range(8), 2.0))
    yield "experts", gguf_file(keys, entry(names[7], range(8), 5.0, 7.0))
    yield "old", struct.pack("<ii", 1, 19) + b"blk.0.attn_q.weight" + struct.pack("<ii2f", 2, 2, 1, 2)


LORA_SHAPES = {"attn_q": (32, 32), "attn_k": (32, 16), "attn_v": (32, 16), "attn_output": (32, 32), "ffn_gate": (32, 32),
               "ffn_up": (32, 32), "ffn_down": (32, 32)}
LORA_THEIRS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
               "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
               "ffn_down": "mlp.down_proj"}


def lora_file(layers, parts, rank, alpha):
    pairs = [("general.architecture", STRING, "llama"), ("general.type", STRING, "adapter"),
             ("adapter.type", STRING, "lora"), ("adapter.lora.alpha", F32, alpha)]
    tensors = []
    for layer in layers:
        for part in parts:
            cols, rows = LORA_SHAPES[part]
            for end, shape in (("a", (cols, rank)), ("b", (rank, rows))):
                tensors.append((f"blk.{layer}.{part}.weight.lora_{end}", shape, 1, bytes(2 * shape[0] * shape[1])))
    return b"\0" + gguf_file(pairs, tensors)


def lora_folder(parts, rank, dtype, **settings):
    header, at = {}, 0
    for part in parts:
        cols, rows = LORA_SHAPES[part]
        for end, shape in (("A", (rank, cols)), ("B", (rows, rank))):
            size = shape[0] * shape[1] * {"F32": 4, "F16": 2, "BF16": 2}[dtype]
            header[f"base_model.model.model.layers.0.{LORA_THEIRS[part]}.lora_{end}.weight"] = {
                "dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", **settings}
    return b"\1" + sized(compact(config)) + struct.pack("<H", at) + compact(header)


def lora_seeds():
    every = list(LORA_SHAPES)
    yield "file", lora_file([0], every, 2, 4.0)
    for i, layers in enumerate(([0, "00"], [""], [1], [99999])):
        yield f"layers-{i}", lora_file(layers, every[:1], 1, 1.0)
    for i, alpha in enumerate((0.0, float("nan"), 1e38)):
        yield f"alpha-{i}", lora_file([0], every[3:5], 3, alpha)
    for dtype in ("F32", "F16", "BF16"):
        yield "folder-" + dtype, lora_folder(every, 2, dtype)
    yield "patterns", lora_folder(every[:2], 2, "BF16", rank_pattern={"q_proj": 2, "^model.layers.0.self_attn.k_proj": 2},
                                  alpha_pattern={"k_proj": 7.5}, use_rslora=True)
    yield "begun", lora_folder(every[:1], 1, "BF16", init_lora_weights="gaussian", base_model_name_or_path="a/b",
                               modules_to_save=None, use_dora=False)
    yield "dora", lora_folder(every[:1], 1, "BF16", use_dora=True)


SEEDS = {"llm": llm_seeds, "gguf": gguf_seeds, "template": template_seeds, "text": text_seeds,
         "sampler": sampler_seeds, "calls": calls_seeds, "safetensors": safetensors_seeds, "llama2c": llama2c_seeds,
         "tokenizer_json": tokenizer_json_seeds, "adapter": adapter_seeds, "imatrix": imatrix_seeds,
         "lora": lora_seeds}


def write(folder):
    for target, make in SEEDS.items():
        os.makedirs(os.path.join(folder, target), exist_ok=True)
        for name, data in make():
            with open(os.path.join(folder, target, "seed-" + name), "wb") as f:
                f.write(data)
