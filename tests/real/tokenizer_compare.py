#!/usr/bin/env python3
"""Compares the tokenizer with `tokenizers` on real vocabularies.

    tokenizer_compare.py MODEL... [--driver PROGRAM] [--seed N] [--quick] [--dump FILE]

MODEL is a GGUF file or a tokenizer.json, which tests/tokenize_driver.c reads as the converter does; the
vocabulary of a GGUF file is dumped for it. Compared, ids by ids: at least 1 MB of mixed text,
every Unicode scalar by itself (and between letters), 20,000 random strings, and all of it once more
with special tokens allowed. Needs the packages tokenizers and, for GGUF, gguf. Where the packages
sentencepiece and protobuf are installed, SentencePiece vocabularies are also compared with it.
"""
import argparse
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


# ---- vocabularies: a dict as the dump has it, and the original's object ----

def read_gguf(path):
    import gguf
    fields = gguf.GGUFReader(path).fields

    def get(name, default=None):
        field = fields.get("tokenizer.ggml." + name)
        return field.contents() if field else default
    return {
        "model": get("model"), "pre": get("pre", "default"), "tokens": get("tokens"),
        "types": get("token_type"), "scores": get("scores"), "merges": get("merges"),
        "bos": get("bos_token_id", -1), "eos": get("eos_token_id", -1),
        "eot": get("eot_token_id", -1), "eom": get("eom_token_id", -1),
        "unknown": get("unknown_token_id", -1), "padding": get("padding_token_id", -1),
        "add_bos": bool(get("add_bos_token", False)),
        "add_space_prefix": bool(get("add_space_prefix", get("model") == "llama")),
    }


def generate_merges(vocab, scores):
    """As the SentencePiece converter of transformers does."""
    merges = []
    for piece, score in scores.items():
        local = []
        for i in range(1, len(piece)):
            left, right = piece[:i], piece[i:]
            if left in vocab and right in vocab:
                local.append((left, right, score))
        merges.extend(sorted(local, key=lambda x: (vocab[x[0]], vocab[x[1]])))
    merges.sort(key=lambda x: (x[2], len(x[0]), len(x[1])), reverse=True)
    return [(left, right) for left, right, _ in merges]


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level_original(v, special):
    vocab = {t: i for i, (t, k) in enumerate(zip(v["tokens"], v["types"])) if k == NORMAL or special}
    merges = [tuple(m.split(" ")) for m in v["merges"]]
    t = Tokenizer(models.BPE(vocab, merges, ignore_merges=v["pre"] == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if v["pre"] == "smollm":
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), level])
    elif v["pre"] == "gpt-2":
        t.pre_tokenizer = level
    else:
        pattern = LLAMA3 if v["pre"] == "llama-bpe" else LLAMA3.replace("{1,3}", "")
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return t


def pieces_original(v, special):
    """User-defined runs of spaces are spelled with U+2581, as in the model that GGUF was made from;
    SentencePiece matches them after normalisation, so here they match both spellings."""
    vocab = {}
    for i, (text, kind) in enumerate(zip(v["tokens"], v["types"])):
        if kind != CONTROL or special:
            vocab[text.replace(" ", "\u2581")] = i
    normal = {t: s for t, s, k in zip(v["tokens"], v["scores"], v["types"]) if k == NORMAL}
    merges = generate_merges({t: vocab[t] for t in normal}, normal)
    unknown = v["tokens"][v["unknown"]]
    vocab.setdefault(unknown, v["unknown"])
    t = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Replace(" ", "\u2581")]
    if v["add_space_prefix"]:
        steps.insert(0, normalizers.Prepend("\u2581"))
    t.normalizer = normalizers.Sequence(steps)
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse()])
    return t


class SentencePiece:
    """The library itself, over a model made of the same pieces; control tokens are never parsed."""

    def __init__(self, v):
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
        model = sentencepiece_model_pb2.ModelProto()
        model.trainer_spec.model_type = 2
        model.trainer_spec.byte_fallback = True
        for name in ("unk", "bos", "eos", "pad"):
            i = v[{"unk": "unknown", "pad": "padding"}.get(name, name)]
            setattr(model.trainer_spec, name + "_id", i)
            if i >= 0:
                setattr(model.trainer_spec, name + "_piece", v["tokens"][i])
        model.normalizer_spec.name = "identity"
        model.normalizer_spec.add_dummy_prefix = v["add_space_prefix"]
        model.normalizer_spec.remove_extra_whitespaces = False
        for i, (text, score, kind) in enumerate(zip(v["tokens"], v["scores"], v["types"])):
            piece = model.pieces.add()
            piece.piece, piece.score = text.replace(" ", "\u2581"), score
            piece.type = UNKNOWN if i == v["unknown"] else kind
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())

    def encode_batch(self, texts, add_special_tokens=False):
        class Encoding:
            def __init__(self, ids):
                self.ids = ids
        return [Encoding(self.processor.encode(t)) for t in texts]


def original(v, special):
    if "json" in v:
        d = json.loads(v["json"])
        for a in d["added_tokens"] if not special else []:
            if v["types"][a["id"]] == CONTROL:  # no text has it, but it keeps its id
                known, a["content"] = d["model"]["vocab"].pop(a["content"], None), "\0never %d\0" % a["id"]
                if known is not None:
                    d["model"]["vocab"][a["content"]] = known
        return Tokenizer.from_str(json.dumps(d))
    t = (byte_level_original if v["model"] == "gpt2" else pieces_original)(v, special)
    added = []
    for text, kind in zip(v["tokens"], v["types"]):
        if kind == USER:
            spaced = v["model"] == "llama" and " " in text
            added.append(AddedToken(text.replace(" ", "\u2581") if spaced else text,
                                    normalized=spaced, special=False))
    t.add_tokens(added)
    if special:
        t.add_special_tokens([AddedToken(text, normalized=False, special=True)
                              for text, kind in zip(v["tokens"], v["types"]) if kind == CONTROL])
    return t


def is_mark(text):
    """What the converter takes for a control token, even where the file does not."""
    return len(text) >= 5 and text.startswith("<|") and text.endswith("|>") or text in (
        "<start_of_turn>", "<end_of_turn>", "<turn|>", "<|turn>", "<end_of_utterance>")


def read_json(path):
    """tokenizer.json: the driver reads it itself. Here are its tokens, and what they are."""
    text = open(path, encoding="utf-8").read()
    d = json.loads(text)
    vocab, added = d["model"]["vocab"], d["added_tokens"]
    count = 1 + max(list(vocab.values()) + [a["id"] for a in added])
    tokens, types = ["" for _ in range(count)], [UNUSED] * count
    for t, i in vocab.items():
        tokens[i], types[i] = t, NORMAL
    for a in added:
        tokens[a["id"]], types[a["id"]] = a["content"], CONTROL if a["special"] or is_mark(a["content"]) else USER
    return {"json": text, "tokens": tokens, "types": types, "model": "json", "scores": None}


def dump(v, path):
    out = io.BytesIO()

    def text(s):
        s = s if isinstance(s, bytes) else s.encode()
        out.write(struct.pack("<I", len(s)) + s)
    text(v["model"] + "\0")
    text(v["pre"] + "\0")
    flags = (v["add_bos"] | 2 * v["add_space_prefix"] | 8 * (v["scores"] is not None) |
             16 * (v["merges"] is not None))
    out.write(struct.pack("<I6i", flags, v["bos"], v["eos"], v["eot"], v["eom"], v["unknown"],
                          v["padding"]))
    out.write(struct.pack("<I", len(v["tokens"])))
    for t in v["tokens"]:
        text(t)
    out.write(struct.pack("<%di" % len(v["types"]), *v["types"]))
    if v["scores"] is not None:
        out.write(struct.pack("<%df" % len(v["scores"]), *v["scores"]))
    out.write(struct.pack("<I", len(v["merges"] or [])))
    for m in v["merges"] or []:
        text(m)
    open(path, "wb").write(out.getvalue())


# ---- texts ----

SAMPLES = [
    "The quick brown fox doesn't jump; it'll've been LAZY'S, I'M sure, we'D think 'twas they're.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Größenwahn, naïve façade, ÇA VA? İstanbul ıslak.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ελληνική γλώσσα, ΑΣ.",
    "我能吞下玻璃而不伤身体。昨天下午三点半，他们在北京大学门口见面。「引號」、日本語のテキスト、カタカナ。",
    "한국어 문장입니다. 나는 유리를 먹을 수 있어요. ภาษาไทยไม่มีช่องว่าง नमस्ते दुनिया בדיקה العربية ١٢٣٤",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 👍🏽 e\u0301 a\u0300\u0323 \u200bzero\u200dwidth\ufeff \u00a0nbsp\u3000wide \u2028line\u2029para",
    "for (int i = 0; i < n; ++i) {\n\t\tx[i] += 1.5e-10f * 0xDEADBEEF; // 12345678901\n\t}\r\n\r\n",
    "<table><tr><td>a</td></tr></table>\n\n\n<h1>T</h1>  <s>strike</s> <unused7> <start_of_turn>user",
    "<|im_start|>system\nYou<|im_end|>\n<|endoftext|><|eot_id|></s><bos><eos><|im_|im_start|>",
    "=" * 90 + "-" * 70 + "#" * 33 + "." * 17 + "!" * 9 + "\n" * 40 + " " * 75 + "\t" * 45 + "end",
    "SGVsbG8gV29ybGQhIFRoaXMgaXMgYmFzZTY0IGVuY29kZWQgdGV4dA==" * 3, "a" * 300, "ab" * 150, "aab" * 90,
    "\0\x01\x02\x1b[31m\x7f\x80\x85\x9f control\x0b\x0c\x1c\x1d\x1e\x1f", "1/2 ½ ²³ Ⅷ ① 一二三 3.14159 1,000,000",
    "x \n y\n z  \n  w \t\n\t q\r\n \r\n\n  \u00a0 \u3000\n\u2003t", "'s 'ſ 'S 'RE' 'll'LL'lL'' 'd'D'm",
    "▁ ▁▁ a▁b ▁▁▁▁c ▁ ▁d", " lead", "  lead", "\tlead", "trail ", "trail  ", "\n", " ", "  ", "",
]


def stdlib_text(limit):
    """Source and documentation strings that every Python has, names of characters included."""
    root = os.path.dirname(os.__file__)
    parts, size = [], 0
    for name in sorted(os.listdir(root)):
        if name.endswith(".py") and size < limit:
            parts.append(open(os.path.join(root, name), encoding="utf-8", errors="ignore").read()[:30000])
            size += len(parts[-1])
    return "".join(parts)


def mixed_text(rng, size):
    """Samples, source code, character names and generated mixtures, about `size` bytes."""
    code, names = stdlib_text(size // 3), []
    for c in range(0x110000):
        name = unicodedata.name(chr(c), "")
        if name and not name.startswith("CJK") and rng.random() < 0.2:
            names.append(chr(c) + " " + name.title())
    parts, total = [code, "\n".join(names)[:size // 4]], 0
    total = sum(len(p.encode()) for p in parts)
    while total < size:
        part = random_string(rng, 400) if rng.random() < 0.5 else rng.choice(SAMPLES)
        parts.append(part + rng.choice(["", " ", "\n", "  ", "\n\n"]))
        total += len(parts[-1].encode())
    return "".join(parts)


RANGES = [(0x20, 0x7F), (0x61, 0x7B), (0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x600),
          (0x900, 0xE80), (0x2000, 0x2070), (0x2580, 0x25A0), (0x3040, 0x3100), (0x4E00, 0x9FFF),
          (0xAC00, 0xD7A4), (0x1F300, 0x1FAFF), (0xE000, 0x110000), (0, 0xD800)]


def random_string(rng, longest, added=()):
    kind, n = rng.randrange(10), rng.randrange(1, longest)
    if kind == 8:  # added tokens among what they may or may not take with them
        few = [rng.choice(added or ["<s>"]) for _ in range(3)]
        few += [" ", "  ", "\n", "\u3000", "a", "_", "\u00e9", "e\u0301", ".", "▁"] + [t[:rng.randrange(1, 9)] for t in few]
        return "".join(rng.choice(few) for _ in range(1 + n // 2))
    if kind == 9:  # what is not in normal form C
        form = rng.choice(["NFD", "NFKD", "NFC"])
        marks = [chr(rng.choice([0x301, 0x323, 0x345, 0x334, 0x3099, 0x11A8, 0x1161, 0x5B0, 0x93C])) for _ in range(3)]
        text = unicodedata.normalize(form, random_string(rng, longest))
        return "".join(c + (rng.choice(marks) if rng.random() < 0.3 else "") for c in text)
    if kind == 0:
        few = "".join(chr(rng.randrange(*rng.choice(RANGES))) for _ in range(rng.randrange(1, 4)))
        return "".join(rng.choice(few) for _ in range(n))
    if kind == 1:
        return "".join(rng.choice("abcde \n\t'sdltrevm0123456789.,!?<>|_-=\r\u00a0\u3000é中▁") for _ in range(n))
    if kind == 2:
        low, high = rng.choice(RANGES)
        return "".join(chr(rng.randrange(low, high)) for _ in range(n))
    if kind == 3:
        words = rng.choice(SAMPLES).split(" ")
        return rng.choice(["", " "]).join(rng.choice(words) for _ in range(1 + n // 6))
    if kind == 4:
        return "".join(rng.choice(["  ", "\n", "\t", " ", "\r\n", "a", "'", "1", "é", "-", "\u2003"])
                       for _ in range(n))
    if kind == 5:
        return "".join(rng.choice("etaoinshrdlu") for _ in range(n))
    if kind == 6:
        unit = "".join(rng.choice("abn =*-▁") for _ in range(rng.randrange(1, 5)))
        return unit * (1 + n // len(unit)) + rng.choice(["", "x", " ", "a"])
    return "".join(chr(rng.randrange(*rng.choice(RANGES))) for _ in range(n))


def clean(s):
    return "".join(c for c in s if not 0xD800 <= ord(c) < 0xE000)


# ---- comparison ----

class Driver:
    def __init__(self, program, path):
        self.process = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ids(self, text, flags):
        data = text if isinstance(text, bytes) else text.encode()
        self.process.stdin.write(struct.pack("<II", flags, len(data)) + data)
        self.process.stdin.flush()
        count, = struct.unpack("<I", self.process.stdout.read(4))
        return list(struct.unpack("<%di" % count, self.process.stdout.read(4 * count)))


def compare(driver, ref, texts, special, label, v, around=False):
    bad = 0
    texts = [clean(t) for t in texts]
    for start in range(0, len(texts), 2000):
        batch = texts[start:start + 2000]
        for text, want in zip(batch, ref.encode_batch(batch, add_special_tokens=around)):
            got = driver.ids(text, special | 2 * around)
            if got == want.ids:
                continue
            bad += 1
            if bad <= 3:
                k = next((i for i, (a, b) in enumerate(zip(got, want.ids)) if a != b),
                         min(len(got), len(want.ids)))
                show = [[v["tokens"][i] for i in ids[max(0, k - 3):k + 5]] for ids in (got, want.ids)]
                print("FAIL %s: %.60r at id %d: %r, original %r" % (label, text, k, show[0], show[1]))
    print("%s special=%d: %d texts, %d bytes, %d differ" %
          (label, special, len(texts), sum(len(t.encode()) for t in texts), bad))
    return bad


def check(path, options):
    v = read_json(path) if path.endswith(".json") else read_gguf(path)
    added, bad = [t for t, k in zip(v["tokens"], v["types"]) if k in (USER, CONTROL)], 0
    with tempfile.TemporaryDirectory() as folder:
        name = path
        if "json" not in v:
            name = os.path.join(folder, "vocabulary")
            dump(v, name)
            if options.dump:
                dump(v, options.dump)
        driver = Driver(options.driver, name)
        rng = random.Random(options.seed)
        mixed = mixed_text(rng, 200000 if options.quick else 1200000)
        scalars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        if options.quick:
            scalars = scalars[:0x3000] + scalars[0x3000::37]
        strings = [random_string(rng, rng.choice([4, 20, 120]), added)
                   for _ in range(2000 if options.quick else 20000)]
        lines = mixed.split("\n")
        for special in (0, 1):
            ref = original(v, special)
            bad += compare(driver, ref, SAMPLES + ["".join(added)], special, "samples", v)
            bad += compare(driver, ref, [mixed], special, "mixed text", v)
            bad += compare(driver, ref, lines, special, "mixed lines", v)
            bad += compare(driver, ref, scalars, special, "scalars", v)
            bad += compare(driver, ref, ["x %sy%s 1%s" % (c, c, c) for c in scalars], special,
                           "scalars in text", v)
            bad += compare(driver, ref, strings, special, "random strings", v)
            if "json" in v:
                bad += compare(driver, ref, SAMPLES, special, "with what goes around", v, True)
        if v["model"] == "llama" and v["scores"]:
            try:
                ref = SentencePiece(v)
            except ImportError:
                print("SKIP sentencepiece or protobuf is not installed")
                return bad
            units = [a * n for a in "abcehlnosx=-.#" for n in range(1, 60)]
            units += [(a + b) * n for a in "aehlnos=-" for b in "aehlnos=." for n in range(1, 40)]
            texts = [t for t in SAMPLES + lines + strings + units if "\0" not in t]
            bad += compare(driver, ref, texts, 0, "sentencepiece", v)
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--driver", default=os.path.join(HERE, "..", "..", "build", "tokenize_driver"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dump", help="also write the driver's vocabulary here")
    options = parser.parse_args()
    bad = 0
    for path in options.models:
        print("== %s" % path)
        bad += check(path, options)
    print("tokenizer_compare: %s" % ("%d texts differ" % bad if bad else "all equal"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
