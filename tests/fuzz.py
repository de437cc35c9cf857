"""Randomly damaged small files: a reader raises only its documented errors, or reads the file.

    python tests/fuzz.py --count 200000 --out fuzz.txt

Every reader gets the same number of files.  Any other exception is printed with its seed, and the
command fails.
"""
import argparse
import io
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import conftest  # noqa: F401  finds minilora
import torch
from PIL import Image

from minilora.data.images import read_image
from minilora.data.own_and_visa import VISA_COLUMNS, VISA_SPLIT_FILE, visa_class
from minilora.io.files import TensorFileError, load_tensors
from minilora.io.unpickler import CheckpointError
from minilora.io.zip_reader import read_tensors
from minilora.runs.run_class import finished_metrics

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")


def saved_bytes(content):
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def picture(file_format):
    out = io.BytesIO()
    Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(out, file_format)
    return out.getvalue()


def read_visa(path):
    root = path.parent / "visa"
    (root / VISA_SPLIT_FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / "a.png").write_bytes(picture("PNG"))
    path.replace(root / VISA_SPLIT_FILE)
    return visa_class(root, "nut")


VISA = ",".join(VISA_COLUMNS) + "\nnut,train,normal,a.png,\nnut,test,anomaly,a.png,a.png\n"
# name -> (undamaged content, reader, its documented exceptions)
READERS = {
    "weights": (saved_bytes({"a": torch.zeros(4), "b": torch.ones(4, 3).half().T}), read_tensors,
                CheckpointError),
    "adapter": (saved_bytes({"version": 1, "lora": {"A": torch.ones(3)}, "losses": [0.5, 1.5],
                       "text": "x", "none": None}), load_tensors, TensorFileError),
    "metrics.json": (json.dumps({"fingerprint": "a", "rows": {"adapted": {"image_auroc": 0.5}},
                                 "losses": [1.0]}).encode(),
                     lambda path: finished_metrics(path.parent, "a"), ()),
    "VisA": (VISA.encode(), read_visa, (ValueError, FileNotFoundError)),
    **{name: (picture(name), read_image, (ValueError, FileNotFoundError)) for name in FORMATS}}


def damaged(content, draw):
    """A copy of content with one to four random changes.  draw: a random.Random."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        kind, length = draw.randrange(6), draw.choice((1, 1, 2, 4, 8, 64))
        if kind == 0:
            content[at:at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del content[at:at + length]
        elif kind == 2:
            content[at:at] = draw.randbytes(length)
        elif kind == 3:
            content[at:at + length] = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 4:
            other = draw.randrange(len(content) + 1)
            content[at:at + length] = content[other:other + length]
        else:
            del content[draw.randrange(len(content) + 1):]
        if not content:
            break
    return bytes(content)


def attempt(name, seed, folder):
    """Read one damaged file.  Returns "read", "refused", or the undocumented exception."""
    content, reader, documented = READERS[name]
    path = Path(folder) / ("metrics.json" if name == "metrics.json" else "file")
    path.write_bytes(damaged(content, random.Random(f"{name} {seed}")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
        return "read"
    except documented:
        return "refused"
    except Exception as error:                          # what this test searches for
        return f"{type(error).__name__}: {error}"


def try_readers(count, first=0):
    """{(reader, answer): count} for `count` damaged files, with seeds from `first` on."""
    found = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + -(-count // len(READERS))):
            for name in READERS:
                answer = attempt(name, seed, folder)
                found[name, answer] += 1
                if answer not in ("read", "refused"):
                    print(f"{name}, seed {seed}: {answer}", flush=True)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--count", type=int, default=200_000)
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    begun, found = time.time(), try_readers(options.count)
    wrong = sum(n for (_, answer), n in found.items() if answer not in ("read", "refused"))
    lines = [f"{time.strftime('%Y-%m-%d')}: {found.total():,} damaged files in "
             f"{time.time() - begun:.0f} s, {wrong} undocumented exceptions"]
    lines += [f"{name}: {found[name, 'refused']:,} refused, {found[name, 'read']:,} read ("
              "damage that a reader cannot detect, or that does not matter)" for name in READERS]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
