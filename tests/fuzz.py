"""Randomly changed files: a reader raises only its documented errors, or reads the file.

    python tests/fuzz.py --count 1000000 --processes 2 --out fuzz.txt

READERS get files with damaged bytes; the kinds of fuzz_runs.py get valid files with changed values.
Each gets the same number.  Any other exception, a message of more than one line, a file that costs
more than 2 s or 300 MB is printed with its seed, and the command fails.
"""
import argparse
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import conftest  # noqa: F401  finds minilora
import torch
from fuzz_runs import KINDS, RunFolder, tensor_file_bytes
from PIL import Image

from minilora.data.images import read_image
from minilora.data.own_and_visa import VISA_COLUMNS, VISA_SPLIT_FILE, visa_class
from minilora.io.files import TensorFileError, load_tensors
from minilora.io.text import shown
from minilora.io.unpickler import CheckpointError
from minilora.io.zip_reader import read_tensors
from minilora.runs.run_class import finished_metrics

FINE, MAX_SECONDS, MAX_MORE_BYTES, MAX_MESSAGE = ("read", "refused"), 2.0, 300e6, 1000
KILOBYTE = 1 if sys.platform == "darwin" else 1024      # unit of ru_maxrss
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None      # in memory, where there is one
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
    "adapter": (tensor_file_bytes({"version": 1, "lora": {"A": torch.ones(3)}, "losses": [0.5, 1.5],
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


def attempt(name, seed, folder, run=None):
    """Read one damaged file.  Returns "read", "refused", or what is wrong.

    run: a RunFolder, for its kinds.
    """
    draw, begun = random.Random(f"{name} {seed}"), time.process_time()
    documented = (ValueError, OSError) if name in KINDS else READERS[name][2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(run, KINDS[name])(draw) if name in KINDS else read_damaged(name, draw, folder)
        answer = "read"
    except documented as error:
        answer = "refused" if is_one_line(error) else f"not in one line: {error!r}"
    except Exception as error:                          # what this test searches for
        answer = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - begun
    return answer if seconds < MAX_SECONDS else f"{answer} after {seconds:.1f} s"


def is_one_line(error):
    """Whether a refusal is one printable line that is not too long, and no decoder's own words."""
    return str(error).isprintable() and len(str(error)) < MAX_MESSAGE \
        and not isinstance(error, UnicodeError)


def read_damaged(name, draw, folder):
    """Write a damaged copy of the content of a reader and read it."""
    content, reader, _ = READERS[name]
    path = Path(folder) / ("metrics.json" if name == "metrics.json" else "file")
    path.write_bytes(damaged(content, draw))
    reader(path)


def try_readers(count, first=0, part=0):
    """{(reader, answer): count} for `count` damaged files, with seeds from `first` on.

    part: number of the process, for the lines about what is wrong.
    """
    torch.set_num_threads(1)
    found, names = Counter(), [*READERS, *KINDS]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        run = RunFolder(Path(folder), damaged)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first, first + -(-count // len(names))):
            for name in names:
                answer = attempt(name, seed, folder, run)
                more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KILOBYTE
                if more > MAX_MORE_BYTES:
                    answer, before = f"{answer} with {more / 1e6:.0f} MB more", before + more
                found[name, answer] += 1
                if answer not in FINE:
                    print(f"{name}, seed {seed}: {shown(answer, 1000)}", flush=True)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--count", type=int, default=200_000)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--first", type=int, default=0, help="first seed, to go on or to repeat")
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    begun, share = time.time(), -(-options.count // options.processes)
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        firsts = [options.first + k * share for k in range(options.processes)]
        found = sum(pool.map(try_readers, [share] * len(firsts), firsts), Counter())
    wrong = sum(n for (_, answer), n in found.items() if answer not in FINE)
    lines = [f"{time.strftime('%Y-%m-%d')}: {found.total():,} damaged files in "
             f"{time.time() - begun:.0f} s in {options.processes} processes, {wrong} of them with "
             f"an undocumented exception, over {MAX_SECONDS} s or {MAX_MORE_BYTES / 1e6:.0f} MB"]
    lines += [f"{name}: {found[name, 'refused']:,} refused, {found[name, 'read']:,} read (change "
              "that a reader cannot detect, or that does not matter)"
              for name in (*READERS, *KINDS)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
