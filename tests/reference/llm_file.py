#!/usr/bin/env python3
"""Whether a .llm file is sound: a second reader, written from the description of the format in llm.h alone.

    llm_file.py [--verify] FILE...

Numbers are Python's, so nothing overflows. check() raises Refused with the reason. tests/mutants.py compares its
judgement with that of llm_model_open.
"""
import struct
import sys

F32, BF16, Q8, Q6, Q5, Q4, Q3, Q2 = range(8)
BITS = {Q8: 8, Q6: 6, Q5: 5, Q4: 4, Q3: 3, Q2: 2}
NONE = 0xFFFFFFFF
PAGE = 4096

ROLES = """EMBEDDING POSITIONS ROPE ATTN_NORM ATTN_NORM_BIAS Q K V Q_BIAS K_BIAS V_BIAS Q_NORM K_NORM ATTN_OUT
    ATTN_OUT_BIAS ATTN_POST_NORM FFN_NORM FFN_NORM_BIAS ROUTER GATE_UP GATE_UP_BIAS DOWN DOWN_BIAS FFN_POST_NORM
    OUT_NORM OUT_NORM_BIAS HEAD HEAD_BIAS ATTN_SUB_NORM FFN_SUB_NORM""".split()
MATRICES = "EMBEDDING POSITIONS Q K V ATTN_OUT ROUTER GATE_UP DOWN HEAD".split()
LATER = "POSITIONS ROUTER ATTN_NORM_BIAS FFN_NORM_BIAS OUT_NORM_BIAS".split()
WITHOUT_LAYER = "EMBEDDING OUT_NORM HEAD HEAD_BIAS".split()
IN_PARTS = "EMBEDDING HEAD".split()
IN_EVERY_LAYER = "ATTN_NORM Q K V ATTN_OUT FFN_NORM GATE_UP DOWN".split()

DESCRIPTION = "vocab width layers context heads kv_heads head_size value_size ffn norm activation flags".split()
SCALES = "norm_epsilon query_scale embedding_scale residual_scale logit_scale attention_softcap logit_softcap".split()
RANGES = {"vocab": (1, 1 << 22), "width": (1, 1 << 16), "layers": (1, 1024), "context": (1, 1 << 28),
          "heads": (1, 1024), "kv_heads": (1, 1024), "head_size": (2, 512), "value_size": (1, 512),
          "ffn": (1, 1 << 18), "norm": (0, 1), "activation": (0, 4), "ropes": (0, 8)}

TABLES = ("TOKENS KINDS TEXT TRIE ADDED PAIRS BYTES STARTS JOINS ENDS "
          "NORMALIZED NFC_PAGES NFC_CLASSES NFC_SPLITS NFC_JOINS WORDS").split()
ELEMENT = dict(zip(TABLES, (24, 1, 1, 8, 8, 64, 4, 32, 1, 4, 8, 1, 128, 12, 12, 8)))


class Refused(Exception):
    pass


def want(condition, *why):
    if not condition:
        raise Refused(" ".join(map(str, why)))


def up(n, to):
    return -(-n // to) * to


def single(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


# ---- XXH64, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md ----

P1, P2, P3, P4, P5 = (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579,
                      2870177450012600261)
MASK = (1 << 64) - 1


def rotated(x, n):
    return (x << n | x >> (64 - n)) & MASK


def round_of(accumulator, lane):
    x = (accumulator + lane * P2) & MASK
    return (x << 31 | x >> 33) * P1 & MASK


def xxh64(data):
    size, at = len(data), 0
    if size >= 32:
        a, b, c, d = (P1 + P2) & MASK, P2, 0, -P1 & MASK
        for p, q, r, s in struct.iter_unpack("<4Q", data[:size // 32 * 32]):
            x = (a + p * P2) & MASK
            a = ((x << 31 & MASK) | x >> 33) * P1 & MASK
            x = (b + q * P2) & MASK
            b = ((x << 31 & MASK) | x >> 33) * P1 & MASK
            x = (c + r * P2) & MASK
            c = ((x << 31 & MASK) | x >> 33) * P1 & MASK
            x = (d + s * P2) & MASK
            d = ((x << 31 & MASK) | x >> 33) * P1 & MASK
        h = (rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18)) & MASK
        for lane in (a, b, c, d):
            h = ((h ^ rotated(lane * P2 & MASK, 31) * P1 & MASK) * P1 + P4) & MASK
        at = size // 32 * 32
    else:
        h = P5
    h = (h + size) & MASK
    while size - at >= 8:
        lane = int.from_bytes(data[at:at + 8], "little")
        h = (rotated(h ^ rotated(lane * P2 & MASK, 31) * P1 & MASK, 27) * P1 + P4) & MASK
        at += 8
    if size - at >= 4:
        h = (rotated(h ^ int.from_bytes(data[at:at + 4], "little") * P1 & MASK, 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        h = rotated(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ h >> 33) * P2 & MASK
    h = (h ^ h >> 29) * P3 & MASK
    return h ^ h >> 32


known = {}


def checksum(data):
    """XXH64; the mutants of one file have most of their parts in common, so it is remembered."""
    data = bytes(data)
    if data not in known:
        if len(known) > 4000:
            known.clear()
        known[data] = xxh64(data)
    return known[data]


# ---- the file ----

def check_header(data):
    """{kind: (offset, size, checksum)}"""
    want(len(data) >= 64, "shorter than a header")
    magic, version, count, size, table_sum = struct.unpack_from("<8sIIQQ", data)
    want(magic == b"llm.h\r\n\x1a", "magic")
    want(version == 1, "version", version)
    want(1 <= count <= 64, "section count", count)
    want(size == len(data), "file size", size)
    want(64 + 32 * count <= len(data), "the table passes the end")
    want(checksum(data[64:64 + 32 * count]) == table_sum, "the table's checksum")
    sections = {}
    for i in range(count):
        kind, _, offset, size, total = struct.unpack_from("<4sIQQQ", data, 64 + 32 * i)
        want(offset % PAGE == 0 and offset + size <= len(data), "section", kind, offset, size)
        want(kind not in sections, "section", kind, "twice")
        sections[kind] = (offset, size, total)
    return sections


def check_description(data):
    """{field: value}"""
    want(len(data) >= 128, "DESC is short")
    values = struct.unpack_from("<16s12I7f3I", data)
    d = dict(zip(["family", *DESCRIPTION, *SCALES, "ropes", "experts", "experts_used"], values))
    for field, (least, most) in RANGES.items():
        want(least <= d[field] <= most, field, d[field])
    for field in SCALES:
        want(d[field] - d[field] == 0, field, "is not finite")
    want(d["norm_epsilon"] > 0, "norm_epsilon")
    for field in SCALES[-2:]:
        want(d[field] == 0 or single(1e-30) <= d[field] <= single(1e30), field, d[field])
    want(d["heads"] % d["kv_heads"] == 0, "kv_heads does not divide heads")
    want(d["head_size"] % 2 == 0, "head_size is odd")
    want(d["experts"] == 0 and d["norm"] == 0 and d["flags"] == 0 and d["activation"] != 2, "not in this version")
    return d


def shape_of(d, role):
    """Rows and columns; columns None: 1 .. head_size / 2."""
    q, k, v = d["heads"] * d["head_size"], d["kv_heads"] * d["head_size"], d["kv_heads"] * d["value_size"]
    ffn = up(d["ffn"], 16)
    return {"EMBEDDING": (d["vocab"], d["width"]), "HEAD": (d["vocab"], d["width"]), "HEAD_BIAS": (1, d["vocab"]),
            "ROPE": (1, None), "Q": (q, d["width"]), "K": (k, d["width"]), "V": (v, d["width"]), "Q_BIAS": (1, q),
            "K_BIAS": (1, k), "V_BIAS": (1, v), "Q_NORM": (1, d["head_size"]), "K_NORM": (1, d["head_size"]),
            "ATTN_OUT": (d["width"], d["heads"] * d["value_size"]), "GATE_UP": (2 * ffn, d["width"]),
            "GATE_UP_BIAS": (1, 2 * ffn), "DOWN": (d["width"], d["ffn"]),
            "ATTN_SUB_NORM": (1, d["heads"] * d["value_size"]), "FFN_SUB_NORM": (1, d["ffn"])}.get(role, (1, d["width"]))


def size_of(role, kind, rows, cols):
    """Bytes of a tensor."""
    if role == "ROPE":
        return 8 * cols
    if role not in MATRICES:
        return 4 * cols
    k = up(cols, 64)
    if kind in (F32, BF16):
        return up(rows, 16) * k * (4 if kind == F32 else 2)
    block = next(s for s in (256, 192, 128, 64) if k % s == 0)
    head = k // block * 16 * 2 + (k // 16 * 8 if BITS[kind] < 8 else 0)
    return up(rows, 16) // 16 * (up(head, 64) + k // 64 * 128 * BITS[kind])


def check_tensor(data, d, area, entry):
    """(role, layer, part, type, rows, rotation) of an entry of the directory"""
    role, layer, expert, kind, rows, cols, rotation, row_rotation, offset, size, _, _ = entry
    want(role < len(ROLES), "role", role)
    role = ROLES[role]
    want(role not in LATER, role, "is not in this version")
    if role in WITHOUT_LAYER:
        want(layer == NONE, role, "in layer", layer)
    else:
        want(layer < d["ropes" if role == "ROPE" else "layers"], role, "in layer", layer)
    want(expert == NONE or (role in IN_PARTS and 1 <= expert <= 7), "expert", expert)
    want(kind <= Q2 if role in MATRICES else kind == F32, role, "of type", kind)
    want_rows, want_cols = shape_of(d, role)
    want((1 <= rows <= want_rows if role in IN_PARTS else rows == want_rows) and cols <= 1 << 18, role, "has rows", rows)
    want(cols == want_cols if want_cols is not None else 1 <= cols <= d["head_size"] // 2, role, "has columns", cols)
    want(rotation == 0 or (rotation in (16, 32, 64) and role in MATRICES and kind in BITS), "rotation", rotation)
    want(row_rotation == 0 or (row_rotation in (16, 32, 64) and role == "V" and d["value_size"] % row_rotation == 0),
         "row_rotation", row_rotation)
    want(offset % 64 == 0 and area[0] <= offset and offset + size <= area[0] + area[1], role, "lies outside of DATA")
    want(offset + up(size, 64) <= len(data), role, "ends in a line that passes the end of the file")
    want(size == size_of(role, kind, rows, cols), role, "has bytes", size)
    return role, layer, 0 if expert == NONE else expert, kind, rows, rotation


def check_tensors(data, d, sections):
    """The directory."""
    at, size, _ = sections.get(b"TDIR", (0, 0, 0))
    want(size % 64 == 0 and size <= 1 << 24, "TDIR of size", size)
    found, parts = {}, {}
    for entry in struct.iter_unpack("<8I4Q", data[at:at + size]):
        role, layer, part, kind, rows, rotation = check_tensor(data, d, sections.get(b"DATA", (0, 0, 0)), entry)
        want((role, layer, part) not in found, role, "twice in layer", layer)
        found[role, layer, part] = kind, rotation
        if role in IN_PARTS:
            parts.setdefault(role, {})[part] = rows, kind, rotation
    for role in ("EMBEDDING", "OUT_NORM"):
        want((role, NONE, 0) in found, role, "is missing")
    for role, those in parts.items():
        want(sorted(those) == list(range(len(those))), role, "lacks a part")
        sizes = [those[i][0] for i in range(len(those))]
        want(all(size % 16 == 0 for size in sizes[:-1]), role, "has a part that ends within a panel")
        want(sum(sizes) == d["vocab"], role, "has rows", sum(sizes))
        want(len({rotation for _, kind, rotation in those.values() if kind in BITS}) <= 1, role, "has rotations")
    for rope in range(d["ropes"]):
        want(("ROPE", rope, 0) in found, "rope", rope, "is missing")
    for layer in range(d["layers"]):
        for role in IN_EVERY_LAYER:
            want((role, layer, 0) in found, role, "is missing in layer", layer)
        rotations = {found[role, layer, 0][1] for role in "QKV" if found[role, layer, 0][0] in BITS}
        want(len(rotations) <= 1, "layer", layer, "has rotations", rotations)


def check_tokenizer(data, vocab):
    want(len(data) >= 256, "the tokenizer's header is cut")
    header = struct.unpack_from("<4s15I32I", data)
    magic, version, size, pre, _, count, longest, reach = header[:8]
    want(magic == b"LTOK" and version == 2, "tokenizer", magic, version)
    want(size <= len(data), "tokenizer of size", size)
    want(pre <= 4, "pre-tokenizer", pre)
    want(1 <= count <= min(vocab, 1 << 21), "vocabulary of", count)
    for number in header[8:13]:
        want(number < count or number == NONE, "id", number)
    want(longest <= 65535 and reach <= 64, "longest", longest, "reach", reach)
    exact = {"TOKENS": count + 1, "KINDS": count, "BYTES": 256, "STARTS": 4, "JOINS": 8192}
    for i, table in enumerate(TABLES):
        at, elements = header[16 + 2 * i:18 + 2 * i]
        want(at % 64 == 0 and at >= 256 and at + elements * ELEMENT[table] <= len(data), table, at, elements)
        want(elements == exact.get(table, elements), table, "has elements", elements)
        want(table not in ("TRIE", "ADDED", "NORMALIZED") or elements <= 0xFFFF00, table, "has nodes", elements)
        want(table != "PAIRS" or elements >= 1, "no bucket of pairs")


def check(data, verify=False):
    """Raises Refused unless the bytes are a .llm file that a reader must take."""
    sections = check_header(data)

    def content(kind):
        at, size, _ = sections.get(kind, (0, 0, 0))
        return data[at:at + size]

    for kind in sections if verify else (b"DESC", b"LAYR", b"TDIR"):
        if kind in sections and sections[kind][1]:
            want(checksum(content(kind)) == sections[kind][2], "checksum of", kind)
    d = check_description(content(b"DESC"))
    layers = content(b"LAYR")
    want(len(layers) == 16 * d["layers"], "LAYR of size", len(layers))
    for _, rope, _, _ in struct.iter_unpack("<4I", layers):
        want(rope == NONE or rope < d["ropes"], "a layer with rope", rope)
    check_tensors(data, d, sections)
    if content(b"TOKN"):
        check_tokenizer(content(b"TOKN"), d["vocab"])


def main():
    paths = [a for a in sys.argv[1:] if a != "--verify"]
    bad = 0
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        try:
            check(data, len(paths) < len(sys.argv) - 1)
            print(f"{path}: sound")
        except Refused as why:
            print(f"{path}: {why}")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
