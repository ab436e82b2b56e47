"""The texts of `make quality`: what models are calibrated on, and what they are judged by."""
import gzip
import hashlib
import os
import re
import unicodedata

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAN = "/usr/share/man"

# Kinds of text, each with its sources and the characters that are taken of it at a turn. No word of it is in the
# calibration text. Pages are those of the Debian packages apt, man-db and passwd, in other languages than English.
PAGES = ["de/man8/apt.8", "ru/man1/passwd.1", "fr/man8/apt.8", "zh_CN/man1/passwd.1", "es/man1/man.1", "ja/man1/passwd.1",
         "it/man1/man.1", "nl/man8/apt.8"]
MODULES = ["textwrap", "fractions", "shlex", "calendar"]
SIZES = {"novel": 1200, "code": 1000, "jargon": 1200, "page": 600}
FEWER = {"ru": 450, "ja": 300, "zh_CN": 300}  # of these a token is about one
ROUNDS = 16
# Of the evaluation text that docs/quality.md is about.
SHA256 = "be5894cb601c3f7b268de3670038f58555d6add0c6aaaa0ef479386e3ac0c783"


# ---- calibration -----------------------------------------------------------------------------------

def calibration():
    """The text of tools/convert/calibration_text.h."""
    with open(os.path.join(ROOT, "tools", "convert", "calibration_text.h"), encoding="ascii") as f:
        source = f.read()
    pieces = [b""]
    for literal, mark in re.findall(r'"((?:\\.|[^"\\])*)"|/\*.*?\*/|([,}])', source[source.index("pieces[] = {"):], re.S):
        if mark == "}":
            break
        if mark:
            pieces.append(b"")
        pieces[-1] += re.sub(r"\\([0-7]{1,3}|.)", escape, literal).encode("latin-1")
    return b"\n".join(pieces)


def escape(found):
    code = found.group(1)
    return chr(int(code, 8)) if code[0] in "01234567" else {"n": "\n", "t": "\t"}.get(code, code)


# ---- evaluation ------------------------------------------------------------------------------------

ACCENTS = {":": "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", ",": "\u0327"}


def letter(found):
    """What an escape of troff stands for."""
    code = found.group(1)
    if code in "- ":
        return code
    if code[0] == "(" and code[1] in ACCENTS:
        return unicodedata.normalize("NFC", code[2] + ACCENTS[code[1]])
    return {"(ss": "\u00df", "(Fo": "\u00ab", "(Fc": "\u00bb", "(aq": "'", "(lq": "\u201c", "(rq": "\u201d", "(oq": "\u2018",
            "(cq": "\u2019", "(en": "\u2013", "e": "\\"}.get(code, "")


def page(name):
    """A manual page as plain text."""
    path = os.path.join(MAN, name + ".gz")
    if not os.path.exists(path):
        raise SystemExit(f"quality: {path} is not there; it is part of the Debian packages apt, man-db and passwd")
    with gzip.open(path, "rt", encoding="utf-8") as f:
        lines = f.read().splitlines()
    kept = []
    for line in lines:
        if line.startswith((".SH", ".PP", ".TP", ".IP")):
            kept.append("")
        if line.startswith((".SH", ".B ", ".I ", ".BR", ".IR", ".BI")):
            line = re.sub(r"^\.[A-Z]+\s*", "", line).replace('"', "")
        if line.startswith((".", "'")):
            continue
        line = re.sub(r"\\f(?:\[\w*\]|\(..|.)|\\[&%/,|^:]|\\m\[\w*\]|\\[hw]'[^']*'|\\s[-+]?\d", "", line)
        line = re.sub(r"\\\*(?:\(..|\[\w*\]|.)", "'", line)
        kept.append(re.sub(r"\\(\(..|.)", letter, line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def cut(text, size):
    """Pieces of at least `size` characters, of whole lines."""
    pieces, now = [], ""
    for line in text.splitlines(keepends=True):
        now += line
        if len(now) >= size:
            pieces.append(now)
            now = ""
    return pieces


def evaluation():
    """Turns of four kinds of text, so that its first windows hold all of them."""
    with open(os.path.join(ROOT, "tests", "data", "text.txt"), encoding="utf-8") as f:
        known = f.read()
    half = known.index("Chapter 1. Hacker Slang")
    kinds = {"novel": cut(known[:half], SIZES["novel"]), "jargon": cut(known[half:], SIZES["jargon"]), "code": [], "page": []}
    library = os.path.dirname(os.__file__)
    code, pages = [], []
    for module in MODULES:
        with open(os.path.join(library, module + ".py"), encoding="utf-8") as f:
            code.append(cut(f.read(), SIZES["code"]))
    for name in PAGES:
        pages.append(cut(page(name), FEWER.get(name.split("/")[0], SIZES["page"])))
    for turn in range(ROUNDS):
        kinds["code"].append(code[turn % len(code)][1 + turn // len(code)])
        kinds["page"].append(pages[turn % len(pages)][1 + turn // len(pages)])
    text = "".join(kinds[kind][turn] + "\n" for turn in range(ROUNDS) for kind in ("novel", "code", "jargon", "page"))
    return text.encode()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    print(evaluation().decode(), end="")
