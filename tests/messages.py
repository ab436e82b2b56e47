#!/usr/bin/env python3
"""Every refusal has a test that knows its exact words. Python's standard library only; takes a second.

    tests/messages.py [--list]

Collects the format of every call that refuses something (REFUSALS below) in llm.h and tools/convert, and
every text in the C tests. A format is pinned when some text of a test is a message of it, from the first
character to the last: "feed: token %zu is %d, not in 0 .. %u" by "feed: token 2 is -1, not in 0 .. 319". A
conversion in the test's text (a message that it composes with snprintf), and a macro's #argument, may stand
for anything. So a new refusal without a test, and a test of other words, fail here. Messages that no test can
provoke are listed in UNREACHABLE with the reason.

Also holds docs/errors.md against the codes in llm.h: every one has its row, in their order.
"""
import glob
import os
import re
import sys

from toolchain import ROOT, Report

# name of the function or macro: which argument is the format
REFUSALS = {"llm__fail": 2, "llm__tpl_fail": 2, "LLM__REFUSE": 0, "gguf_refuse": 1, "TB_FAIL": 2, "usage_error": 0}
# Those that make a message of two arguments, each a literal or not: the first one's number, the message.
IN_PARTS = {"tj_fail": (1, "tokenizer.json: {}: {}%s"), "tj_wrong": (1, "tokenizer.json: {}: {}%s")}
SOURCES = ["llm.h"] + sorted(os.path.relpath(p, ROOT) for p in glob.glob(os.path.join(ROOT, "tools/convert/*.[ch]")))
TESTS = sorted(glob.glob(os.path.join(ROOT, "tests/test_*.c")) + glob.glob(os.path.join(ROOT, "tests/convert/test_*.c")))
WINDOWS = "only Windows says this"
UNREACHABLE = {
    "the host is big-endian, .llm files are not": "says so on another kind of machine (tests/platforms.py)",
    "%s: the path is not UTF-8 of at most 1023 characters": WINDOWS,
    "%s: cannot be opened (error %u)": WINDOWS,
    "%s: cannot be mapped (error %u)": WINDOWS,
    "prefetch: byte %zu of %zu cannot be locked (error %u); the process's minimum working set is %zu bytes": WINDOWS,
}
COMPOSED = {  # formats of parts that are words elsewhere, and a message of each
    "%s %lld %s": "line 1, column 5: int 5 cannot be called",
    "%s '%.*s' %s": "line 1, column 8: str 'a' has no absolute value",
    "%s %s": "line 1, column 26: dict has no attributes to set: expected a namespace",
    "%.*s": "chat template, line 1, column 19: never",
}
ANY = "\x01"  # what a conversion or #argument in a test's text stands for
CONVERSION = re.compile(r"%[-+ #0]*[0-9*]*(?:\.[0-9*]+)?(?:hh|h|ll|l|z|j|t)?([diouxXeEfFgGcsp%])")
NUMBER = {"d": r"-?\d+", "i": r"-?\d+", "u": r"\d+", "x": r"[0-9a-f]+", "X": r"[0-9A-F]+", "c": r"."}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "a": "\a", "\\": "\\", '"': '"', "'": "'", "?": "?"}
TOKEN = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\#\#|\#[ ]*[A-Za-z_]\w*|[A-Za-z_]\w*|\\\n|\s+|.""",
                   re.S)


def unescape(literal):
    """The bytes of a string literal, as Latin-1."""
    def one(m):
        s = m.group(1)
        if s[0] == "x":
            return chr(int(s[1:], 16) & 255)
        if s[0] in "01234567":
            return chr(int(s, 8) & 255)
        return ESCAPES.get(s[0], s[0])
    return re.sub(r"\\(x[0-9a-fA-F]+|[0-7]{1,3}|.)", one, literal[1:-1], flags=re.S)


def tokens(text):
    """(kind, text, line) of a C source without comments and white space; kind is '"', '#', 'a' or the character."""
    found, line = [], 1
    for m in TOKEN.finditer(text):
        t = m.group(0)
        if t[0] == '"':
            found.append(('"', unescape(t), line))
        elif t[0] == "#" and t != "##" and len(t) > 1:
            found.append(("#", t[1:].strip(), line))
        elif t[0].isalpha() or t[0] == "_":
            found.append(("a", t, line))
        elif not t[0].isspace() and t[:2] not in ("/*", "//", "\\\n"):
            found.append((t[0], t, line))
        line += t.count("\n")
    return found


def arguments(list_, at):
    """[tokens of each argument] of a call whose parenthesis opens at `at`."""
    depth, all_ = 0, [[]]
    for t in list_[at:]:
        depth += (t[0] in "([{") - (t[0] in ")]}")
        if depth == 0:
            break
        if depth == 1 and t[0] == ",":
            all_.append([])
        elif not (depth == 1 and t[0] == "(" and not all_[0] and len(all_) == 1):
            all_[-1].append(t)
    return all_


def literal(argument):
    """The text of an argument; None, if it is no string literal."""
    return "".join(t[1] for t in argument) if argument and all(t[0] == '"' for t in argument) else None


def refusals(path):
    """[(line, format)]; a format that is no literal is None."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        list_ = tokens(f.read())
    found = []
    for i, (kind, name, line) in enumerate(list_[:-1]):
        if kind != "a" or list_[i + 1][0] != "(" or list_[i - 1][:2] == ("#", "define"):
            continue
        given, at, count = arguments(list_, i + 1), REFUSALS.get(name), 1
        if name in IN_PARTS:
            at, count = IN_PARTS[name][0], 2
        if at is None or len(given) < at + count:
            continue  # no refusal, or a macro that hands on its arguments
        parts = given[at:at + count]
        if any(t[0] == "a" and t[1] in ("char", "format", "what", "__VA_ARGS__") for p in parts for t in p):
            continue  # a declaration, or handed on
        parts = [literal(p) for p in parts]
        found.append((line, IN_PARTS[name][1].format(*(p or "%s" for p in parts)) if count > 1 else parts[0]))
    return found


def texts(path):
    """Every run of string literals; what stands for anything in it is ANY."""
    with open(path, encoding="utf-8") as f:
        list_ = tokens(f.read())
    found, run = set(), []
    for t in list_ + [(";", ";", 0)]:
        if t[0] == '"':
            run.append(CONVERSION.sub(lambda m: "%" if m.group(1) == "%" else ANY, t[1]))
        elif t[0] == "#" and run:
            run.append(ANY)
        elif run:
            found.add("".join(run))
            run = []
    return found


def expression(format_):
    """A regular expression for the messages of a format."""
    out, at = "", 0
    for m in CONVERSION.finditer(format_):
        out += re.escape(format_[at:m.start()])
        kind, at = m.group(1), m.end()
        if kind == "%":
            out += "%"
        elif kind in NUMBER:
            out += f"(?:{NUMBER[kind]}|{ANY})"
        elif kind in "eEfFgG":
            out += f"(?:[-+0-9.e]+|-?inf|-?nan|{ANY})"
        else:
            out += "(?:.*)"
    place = rf"(?:line [0-9{ANY}]+, column [0-9{ANY}]+: )?"  # before what a chat template's refusal says
    if out.startswith("(?:.*):\\ "):  # whose message it is may be told apart from what it says
        out = "(?:.*:\\ )?" + out[len("(?:.*):\\ "):]
    return re.compile(place + out + re.escape(format_[at:]), re.S)


def plain_size(format_):
    return len(re.sub(r"[^A-Za-z]", "", CONVERSION.sub("", format_)))


def check_refusals(report, show):
    known = set().union(*(texts(p) for p in TESTS))
    seen = set()
    for path in SOURCES:
        for line, format_ in refusals(path):
            where = f"{path}:{line}"
            if format_ is None:
                report.check(False, f"{where}: the format is no literal, so that no test can be found for it")
                continue
            seen.add(format_)
            pattern = expression(format_)
            by = next((t for t in sorted(known) if pattern.fullmatch(t)), None)
            if show:
                print(f"{where}: {format_!r}\n    {by!r}")
            if format_ in COMPOSED:
                report.check(COMPOSED[format_] in known, f"{where}: no test has \"{COMPOSED[format_]}\"")
            elif plain_size(format_) < 8:
                report.check(False, f"{where}: \"{format_}\" says too little to be known by its words")
            elif format_ in UNREACHABLE:
                report.check(by is None, f"{where}: \"{format_}\" is pinned, but listed as unreachable")
            else:
                report.check(by is not None, f"{where}: no test has a message of \"{format_}\"")
    for format_ in [*UNREACHABLE, *COMPOSED]:
        report.check(format_ in seen, f"\"{format_}\" is listed in messages.py, but nothing says it")


def check_document(report):
    with open(os.path.join(ROOT, "llm.h"), encoding="utf-8") as f:
        header = f.read()
    listed = header[header.index("#define LLM_RESULTS(X)"):header.index("typedef enum llm_result")]
    codes = ["LLM_" + name for name in re.findall(r"X\((\w+),", listed) if name != "X"]
    with open(os.path.join(ROOT, "docs", "errors.md"), encoding="utf-8") as f:
        rows = re.findall(r"^\| `(LLM_\w+)` \|(.*)\|$", f.read(), re.M)
    report.check([r[0] for r in rows] == codes, f"docs/errors.md lists {[r[0] for r in rows]}, llm.h {codes}")
    for code, cells in rows:
        cells = [c.strip() for c in cells.split("|")]
        report.check(len(cells) == 4 and all(cells), f"docs/errors.md, {code}: {len(cells)} columns, expected meaning, "
                     "cause, cure and kinds of messages")


def main():
    if "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__)
        return
    report = Report("messages")
    check_refusals(report, "--list" in sys.argv)
    check_document(report)
    report.end()


if __name__ == "__main__":
    main()
