#!/usr/bin/env python3
"""Quality beside llama.cpp: divergence from an unquantised original against size. `make quality` runs it.

    quality.py                                  all of it; writes docs/quality.md and docs/quality.svg
    quality.py --print --models gemma --only q4,Q4_K_M --windows 4

Originals are those of originals.py, texts those of texts.py: both sides calibrate on one text and are judged by
another. llama.cpp's types are made with its importance matrix, and each side is compared with its own logits of the
original, in windows of 512 tokens of which the second half is scored. Everything is kept in a cache folder by what it
was made of, so that only what has changed is done again. Needs what compare.py needs (its llama.cpp), the Python
packages numpy and gguf, and matplotlib for the picture."""
import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(1, os.path.join(os.path.dirname(HERE), "compare"))
import llama  # noqa: E402
import texts  # noqa: E402

ROOT = texts.ROOT
BUILD = os.path.join(ROOT, "build")
CONTEXT = 512
MODELS = {  # name, fetched source, windows
    "smollm2": ("SmolLM2-135M", "smollm2-135m-instruct.gguf", 38),
    "gemma": ("Gemma 3 270M", "gemma-3-270m.gguf", 8),
}
KINDS = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q4_0", "Q3_K_M", "IQ3_S"]
# Ours: options of llm-convert; {imatrix} is llama.cpp's importance matrix, {calibration} the text.
SETTINGS = [
    "--type q8",
    "--type q6",
    "--type q5",
    "--type q4",
    "--type q4 --imatrix {imatrix}",
    "--type q4 --fast",
    "--type q3",
    "--bits 3",
    "--bits 3.5",
    "--bits 4.4",
    "--bits 5",
    "--bits 5.3",
    "--bits 6.1",
    "--bits 7.3",
]
DOCUMENT, PICTURE = os.path.join(ROOT, "docs", "quality.md"), os.path.join(ROOT, "docs", "quality.svg")
BEGIN, END = "<!-- measured: make quality -->", "<!-- end of measured -->"


def note(text):
    print("quality: " + text, file=sys.stderr, flush=True)


def run(command):
    """(exit status, standard output, standard error)"""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                          stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def must(command):
    status, out, said = run(command)
    if status:
        raise SystemExit(f"quality: {' '.join(command)} failed ({status}):\n{said[-3000:]}")
    return out + said


# ---- the cache -------------------------------------------------------------------------------------

class Cache:
    """Files and results by what they are made of: words, numbers and the contents of files."""

    def __init__(self, folder, kept_only=False):
        self.folder, self.sums, self.kept_only = folder, {}, kept_only
        os.makedirs(folder, exist_ok=True)
        self.known = os.path.join(folder, "sums.json")
        if os.path.exists(self.known):
            with open(self.known, encoding="utf-8") as f:
                self.sums = json.load(f)

    def path(self, name):
        return os.path.join(self.folder, name)

    def sum(self, path):
        about = os.stat(path)
        state = [about.st_size, about.st_mtime_ns]
        if self.sums.get(path, [None])[0] != state:
            digest = hashlib.sha256()
            with open(path, "rb") as f:
                while block := f.read(1 << 22):
                    digest.update(block)
            self.sums[path] = [state, digest.hexdigest()]
            self.write(self.known, json.dumps(self.sums))
        return self.sums[path][1]

    @staticmethod
    def write(path, text):
        partial = f"{path}.{os.getpid()}.partial"
        with open(partial, "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(partial, path)

    def key(self, inputs):
        """Paths stand for what is in them."""
        words = [self.sum(i) if isinstance(i, str) and os.path.isabs(i) else i for i in inputs]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def result(self, what, inputs, measure):
        """What measure() returned, now or once; None is not kept."""
        path = self.path("result-" + self.key([what, *inputs])[:24] + ".json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                return json.load(f)
        if self.kept_only:
            return None
        note(what)
        found = measure()
        if found is not None:
            self.write(path, json.dumps(found))
        return found

    def file(self, name, inputs, make):
        """The path of a file that make(path) writes; None where make returns False. A new one takes the name of the
        one before."""
        path, key = self.path(name), self.key([name, *inputs])
        if os.path.exists(path) and os.path.exists(path + ".key"):
            with open(path + ".key", encoding="utf-8") as f:
                if f.read() == key:
                    return path
        if self.kept_only:
            return None
        note("making " + name)
        if make(path + ".partial") is False:
            return None
        os.replace(path + ".partial", path)
        self.write(path + ".key", key)
        return path


# ---- what both sides share -------------------------------------------------------------------------

class Model:
    """A model's original and its texts."""

    def __init__(self, o, key):
        self.o, self.key, self.cache = o, key, o.cache
        self.name, source, self.windows = MODELS[key]
        self.windows = o.windows or self.windows
        source = os.path.join(o.sources, source)
        if not os.path.exists(source):
            must([sys.executable, os.path.join(ROOT, "tools", "fetch.py"), key, "--folder", o.sources])
        script = os.path.join(HERE, "originals.py")
        self.original = self.cache.file(f"{key}-F16.gguf", [source, script, importlib.metadata.version("gguf")],
                                        lambda out: must([sys.executable, script, source, out]))
        self.calibration = self.text("calibration.txt", texts.calibration())
        self.evaluation = self.text("evaluation.txt", texts.evaluation())
        self.weights = self.cache.result(f"{self.name}: weights", [self.original],
                                         lambda: self.count(self.original))["weights"]

    def text(self, name, data):
        path = self.cache.path(name)
        if not os.path.exists(path) or open(path, "rb").read() != data:
            with open(path, "wb") as f:
                f.write(data)
        return path

    @staticmethod
    def count(path):
        from gguf import GGUFReader
        tensors = GGUFReader(path).tensors
        return {"weights": sum(int(t.n_elements) for t in tensors), "bytes": sum(int(t.n_bytes) for t in tensors)}

    def row(self, who, setting, path, tensors, found):
        return {"model": self.key, "who": who, "setting": setting, "bytes": os.path.getsize(path),
                "bits": 8 * tensors / self.weights, **found}


# ---- llama.cpp -------------------------------------------------------------------------------------

class Theirs:
    def __init__(self, model):
        self.m, self.cache, self.programs = model, model.cache, model.o.llama
        self.version = f"{llama.PACKAGE} {llama.VERSION}"

    def program(self, name, *arguments):
        return must([os.path.join(self.programs, name), *map(str, arguments)])

    def perplexity(self, path, *arguments):
        return self.program("llama-perplexity", "-m", path, "-f", self.m.evaluation, "-c", CONTEXT, "-b", CONTEXT,
                            "--chunks", self.m.windows, "-t", self.m.o.threads, "-ngl", 0, *arguments)

    def imatrix(self):
        return self.cache.file(
            f"{self.m.key}-imatrix.gguf", [self.m.original, self.m.calibration, self.version],
            lambda out: self.program("llama-imatrix", "-m", self.m.original, "-f", self.m.calibration, "-o", out,
                                     "-c", CONTEXT, "-b", CONTEXT, "-t", self.m.o.threads, "-ngl", 0, "--no-ppl"))

    def base(self):
        """The original's logits, and its perplexity, which is beside them."""
        path = self.cache.path(f"{self.m.key}-{self.m.windows}.kld")

        def make(out):
            said = self.perplexity(self.m.original, "--kl-divergence-base", out)
            self.cache.write(path + ".json", json.dumps(float(re.search(r"Final estimate: PPL = ([\d.]+)", said)[1])))
        made = self.cache.file(os.path.basename(path), [self.m.original, self.m.evaluation, self.m.windows, self.version],
                               make)
        with open(path + ".json", encoding="utf-8") as f:
            return made, json.load(f)

    def measure(self, path, base):
        said = self.perplexity(path, "--kl-divergence-base", base, "--kl-divergence")

        def number(pattern):
            return float(re.search(pattern + r"\s*:?\s+([-\d.]+)", said)[1])
        return {"kl": number(r"Mean\s+KLD:"), "kl99": number(r"99\.0%\s+KLD:"), "top": number("Same top p:") / 100,
                "ratio": number(r"Mean PPL\(Q\)/PPL\(base\)")}

    def rows(self):
        kinds = [k for k in KINDS if self.m.o.wanted(k)]
        if not kinds:
            return [], None
        imatrix, (base, perplexity), rows = self.imatrix(), self.base(), []
        for kind in kinds:
            path = self.cache.file(f"{self.m.key}-{kind}.gguf", [self.m.original, imatrix, self.version],
                                   lambda out, kind=kind: self.program("llama-quantize", "--imatrix", imatrix,
                                                                       self.m.original, out, kind, 1))
            if not path:
                continue
            found = self.cache.result(f"{self.m.name}: llama.cpp {kind}", [path, base + ".key"],
                                      lambda: self.measure(path, base))
            tensors = self.cache.result(f"{self.m.name}: bytes of {kind}", [path], lambda: self.m.count(path))
            if not found or not tensors:
                continue
            rows.append(self.m.row("llama.cpp", kind, path, tensors["bytes"], found))
        return rows, perplexity


# ---- ours ------------------------------------------------------------------------------------------

class Ours:
    def __init__(self, model, theirs):
        self.m, self.cache, self.theirs = model, model.cache, theirs
        self.converter, self.evaluator = os.path.join(BUILD, "llm-convert"), os.path.join(BUILD, "evaluate")

    def convert(self, setting):
        """The path of a file, or None: the converter does not know such options."""
        known = {"calibration": self.m.calibration}
        if "{imatrix}" in setting:
            known["imatrix"] = self.theirs.imatrix()
        words = [w.format(**known) for w in setting.split()]
        name = f"{self.m.key}{re.sub('[^a-z0-9.]+', '-', re.sub(' {.*?}', '', setting))}.llm"

        def make(out):
            status, said, error = run([self.converter, self.m.original, out, *words, "--threads", str(self.m.o.threads)])
            if status == 2:
                note(f"skipped: llm-convert {setting}: {error.strip()}")
                return False
            if status:
                raise SystemExit(f"quality: llm-convert {setting} failed ({status}): {error}")
            total = re.search(r"^all\s.*?(\d+)$", said, re.M)
            self.cache.write(os.path.join(self.cache.folder, name + ".json"), total[1])
            return True
        return self.cache.file(name, [self.m.original, self.converter, *words], make)

    def tensors(self, path):
        with open(path + ".json", encoding="utf-8") as f:
            return json.load(f)

    def evaluate(self, path, *options):
        said = must([self.evaluator, path, self.m.evaluation, "--ctx", str(CONTEXT), "--limit-windows",
                     str(self.m.windows), "--threads", str(self.m.o.threads), *options])
        return {k: float(v) for k, v in re.findall(r"^(\w+) ([-\d.e]+)$", said, re.M)}

    def base(self):
        """Logits with float weights and keys and values of 16 bits, and their perplexity."""
        exact = self.convert("--type f32")
        name = f"{self.m.key}-{self.m.windows}.logits"

        def make(out):
            found = self.evaluate(exact, "--kv", "f16", "--logits", out)
            self.cache.write(self.cache.path(name + ".json"), json.dumps(found["perplexity"]))
        made = self.cache.file(name, [exact, self.m.evaluation, self.m.windows, self.evaluator], make)
        with open(self.cache.path(name + ".json"), encoding="utf-8") as f:
            return made, json.load(f)

    def measure(self, path, base):
        found = self.evaluate(path, "--against", base)
        return {"kl": found["kl_mean"], "kl99": found["kl_99"], "top": found["same_top"],
                "ratio": found["perplexity_ratio"]}

    def rows(self):
        settings = [s for s in SETTINGS if self.m.o.wanted(s)]
        if not settings:
            return [], None
        (base, perplexity), rows = self.base(), []
        for setting in settings:
            path = self.convert(setting)
            if not path:
                continue
            shown = setting.format(imatrix="...", calibration="...")
            found = self.cache.result(f"{self.m.name}: llm.h {shown}",
                                      [path, base + ".key", self.m.evaluation, self.m.windows, self.evaluator],
                                      lambda: self.measure(path, base))
            if not found:
                continue
            rows.append(self.m.row("llm.h", shown, path, self.tensors(path), found))
        return rows, perplexity


# ---- the document ----------------------------------------------------------------------------------

def table(rows):
    lines = ["| | file, MB | bits a weight | mean KL | 99 % | same top token | perplexity |", "|---|---:|---:|---:|---:|---:|---:|"]
    for r in sorted(rows, key=lambda r: (r["bytes"], r["who"])):
        who = f"llama.cpp {r['setting']}" if r["who"] == "llama.cpp" else f"**llm.h `{r['setting']}`**"
        lines.append(f"| {who} | {r['bytes'] / 1e6:.1f} | {r['bits']:.2f} | {r['kl']:.4f} | {r['kl99']:.3f} | "
                     f"{100 * r['top']:.1f} % | x {r['ratio']:.3f} |")
    return "\n".join(lines)


def document(found):
    text = [f"Measured {datetime.date.today().isoformat()}; llama.cpp as in {llama.PACKAGE} {llama.VERSION}; evaluation text "
            f"sha256 {texts.sha256(texts.evaluation())[:16]}, calibration text {texts.sha256(texts.calibration())[:16]}."]
    for m, rows, theirs, ours in found:
        shown = [f"{who} {p:.4f}" for who, p in (("llama.cpp", theirs), ("llm.h", ours)) if p]
        positions = m.windows * (CONTEXT - 1 - CONTEXT // 2)
        text += [f"### {m.name}", f"{m.windows} windows, {positions} positions, {m.weights:,} weights. Perplexity of the "
                 f"original: {', '.join(shown)}.", table(rows)]
    return "\n\n".join(text)


def draw(found, path):
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "quality", "svg.fonttype": "none", "axes.xmargin": 0.1})
    from matplotlib import pyplot
    figure, all_axes = pyplot.subplots(1, len(found), figsize=(6 * len(found), 4.5), layout="constrained", squeeze=False)
    for axes, (m, rows, _, _) in zip(all_axes[0], found):
        for who, mark, colour in (("llama.cpp", "o", "tab:gray"), ("llm.h", "s", "tab:blue")):
            points = sorted((r["bytes"] / 1e6, r["kl"], r["setting"]) for r in rows if r["who"] == who)
            axes.scatter([p[0] for p in points], [p[1] for p in points], marker=mark, s=18, color=colour, label=who)
            for x, y, setting in points:
                axes.annotate(setting.replace("--type ", "").replace("--", ""), (x, y), fontsize=6, xytext=(3, 3),
                              textcoords="offset points")
        axes.set(title=m.name, xlabel="file, MB", ylabel="mean KL divergence, nats", yscale="log")
        axes.grid(True, which="both", linewidth=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})
    note(f"{path} is written")


def replace(path, inside):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    before, rest = text.split(BEGIN)
    Cache.write(path, f"{before}{BEGIN}\n\n{inside}\n\n{END}{rest.split(END)[1]}")
    note(f"{path} is written")


# ---- all of it -------------------------------------------------------------------------------------

def options():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--models", default=",".join(MODELS), help="default: all, " + ",".join(MODELS))
    a.add_argument("--only", metavar="WORDS", help="only settings that hold one of these words, or are one (q4,Q4_K_M,=--bits 5)")
    a.add_argument("--windows", type=int, help="windows of 512 tokens; by default " +
                   ", ".join(f"{m[2]} of {m[0]}" for m in MODELS.values()))
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--isa", help="with avx2 llama.cpp is built for it, otherwise for this machine")
    a.add_argument("--sources", default=os.path.join(ROOT, "models"), help="where the GGUF files are")
    a.add_argument("--llama", metavar="FOLDER", help="llama.cpp's programs; by default they are built")
    a.add_argument("--kept", action="store_true", help="only rows that are in the cache; nothing is made or measured")
    a.add_argument("--print", action="store_true", help="print the tables, write nothing into docs")
    a.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="to build llama.cpp with")
    o = a.parse_args()
    o.models = o.models.split(",")
    for key in o.models:
        if key not in MODELS:
            a.error(f"--models: \"{key}\" is not one of {', '.join(MODELS)}")
    if o.windows is not None and o.windows < 1 or o.threads < 1:
        a.error("numbers of at least 1")
    words = o.only.split(",") if o.only else None
    o.wanted = lambda setting: words is None or any(w[1:] == setting if w[:1] == "=" else w in setting
                                                         for w in words)
    return o


def main():
    o = options()
    for program in ("evaluate", "llm-convert"):
        if not os.path.exists(os.path.join(BUILD, program)):
            raise SystemExit(f"quality: there is no build/{program}; run make")
    if hasattr(os, "nice"):
        os.nice(19)  # the results are the same, whoever else is at work
    if texts.sha256(texts.evaluation()) != texts.SHA256:
        note("Python or the manual pages are others here: the evaluation text is not that of docs/quality.md")
    o.cache = Cache(llama.cache_folder("quality"), o.kept)
    o.llama = o.llama or llama.build(o.isa, o.jobs)
    found = []
    for key in o.models:
        m = Model(o, key)
        theirs = Theirs(m)
        rows, perplexity = theirs.rows()
        own, own_perplexity = Ours(m, theirs).rows()
        found.append((m, rows + own, perplexity, own_perplexity))
    if o.print:
        print(document(found))
    else:
        replace(DOCUMENT, document(found))
        draw(found, PICTURE)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"quality: {error}") from error
