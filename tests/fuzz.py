"""Randomly changed files: a reader raises only its documented errors, or reads the file.

    python tests/fuzz.py --count 1000000 --processes 2 --out fuzz.txt
    python tests/fuzz.py --kinds record --first 17 --count 1        one file again

READERS get files with damaged bytes.  The kinds of fuzz_runs.py, fuzz_weights.py and fuzz_data.py
get files with changed values or structure.  Every kind gets the same number.  Four things are
wrong, are printed with kind and seed, and make the command fail:

    another exception than ValueError and OSError, or a ValueError that minilora did not raise
    a message, or a note about a file, of more than one printable line
    more than 2 s of processor time, of all threads of the process; more than 60 s of waiting
    more than 300 MB: highest resident memory during the reading minus the one before it; pictures
        are limited to 25 megapixels, half of the default, since their memory is proportional
"""
import argparse
import faulthandler
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import conftest
import torch
from fuzz_data import DataFolder
from fuzz_runs import RunFolder, tensor_file_bytes
from fuzz_weights import WeightFolder, safetensors_bytes
from PIL import Image

from bench.measure import peak
from minilora.data import decoding
from minilora.data.images import read_image
from minilora.data.own_and_visa import VISA_COLUMNS, VISA_SPLIT_FILE, visa_class
from minilora.io.files import load_tensors
from minilora.io.notes import take_notes
from minilora.io.safetensors import read_safetensors
from minilora.io.text import shown
from minilora.io.zip_reader import read_tensors
from minilora.runs.fingerprints import finished_metrics

FINE, MAX_SECONDS, MAX_MORE_BYTES, MAX_MESSAGE = ("read", "refused"), 2.0, 300e6, 4000
MAX_WAITING = 60                        # seconds of the wall clock, for files that block
MEGAPIXELS = 25.0
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None      # in memory, where there is one
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
PACKAGE = str(Path(conftest.REPO) / "minilora") + os.sep


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
    if not (root / "a.png").exists():
        (root / "a.png").write_bytes(picture("PNG"))
    path.replace(root / VISA_SPLIT_FILE)
    return visa_class(root, "nut")


VISA = ",".join(VISA_COLUMNS) + "\nnut,train,normal,a.png,\nnut,test,anomaly,a.png,a.png\n"
TWO = {"a": torch.zeros(4), "b": torch.ones(4, 3).half().T}
# name -> (undamaged content, reader)
READERS = {
    "bytes of an archive": (saved_bytes(TWO), read_tensors),
    "bytes of safetensors": (safetensors_bytes(TWO), read_safetensors),
    "bytes of tensors": (tensor_file_bytes({"version": 1, "lora": {"A": torch.ones(3)},
                                            "losses": [0.5, 1.5], "text": "x", "none": None}),
                         load_tensors),
    "bytes of metrics.json": (json.dumps({
        "fingerprint": "a", "rows": {"adapted": {"image_auroc": 0.5}}, "losses": [1.0]}).encode(),
        lambda path: finished_metrics(path.parent, "a")),
    "bytes of VisA": (VISA.encode(), read_visa),
    **{f"bytes of {name}": (picture(name), read_image) for name in FORMATS}}


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


# ---- kinds --------------------------------------------------------------------------------------

MAKERS = (RunFolder, WeightFolder, DataFolder)


def methods_of(make):
    """{kind: name of a method} of a class with methods `attempt_<kind>`."""
    return {name.removeprefix("attempt_").replace("_", " "): name
            for name in vars(make) if name.startswith("attempt_")}


KINDS = (*READERS, *(kind for make in MAKERS for kind in methods_of(make)))


def make_kinds(folder):
    """{kind: function(draw)} that writes one file of this kind below the folder and reads it."""
    folder, kinds = Path(folder), {}
    (folder / "bytes").mkdir()
    for kind, (content, reader) in READERS.items():
        kinds[kind] = damage(folder / "bytes", content, reader)
    for make in MAKERS:
        (folder / make.__name__).mkdir()
        made = make(folder / make.__name__, damaged)
        kinds |= {kind: getattr(made, name) for kind, name in methods_of(make).items()}
    return kinds


def damage(folder, content, reader):
    """function(draw): writes a damaged copy of the content and reads it."""
    def attempt(draw):
        path = folder / "metrics.json"
        path.write_bytes(damaged(content, draw))
        reader(path)
    return attempt


# ---- one file -----------------------------------------------------------------------------------

class Waits(Exception):
    """The reader has waited for MAX_WAITING seconds."""


def wait_no_longer(number, frame):
    raise Waits


def attempt(kind, seed, kinds):
    """Read one changed file.  Returns "read", "refused", or what is wrong.

    kinds: of `make_kinds`.
    """
    draw, answers, begun = random.Random(f"{kind} {seed}"), [], time.process_time()
    more = peak(lambda: answers.append(answer_of(kinds[kind], draw)))["allocated"]
    answer, seconds = answers[0], time.process_time() - begun
    notes = [line for line in take_notes() if not line.isprintable() or len(line) > MAX_MESSAGE]
    return answer + f" after {seconds:.1f} s" * (seconds > MAX_SECONDS) \
        + f" with {more / 1e6:.0f} MB more" * (more > MAX_MORE_BYTES) \
        + f" and the note {notes}" * bool(notes)


def answer_of(write_and_read, draw):
    """`attempt` without the limits of time and memory."""
    signal.setitimer(signal.ITIMER_REAL, MAX_WAITING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "refused" if write_and_read(draw) is False else "read"
    except (ValueError, OSError) as error:
        return fault_of(error) or "refused"
    except Exception as error:                          # what this test searches for
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fault_of(error):
    """What is wrong with a refusal; "" if it is as documented."""
    text, trace = str(error), error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    if not text.isprintable() or len(text) > MAX_MESSAGE:
        return f"not in one line: {error!r}"
    if not isinstance(error, OSError) and not (
            trace.tb_frame.f_code.co_filename.startswith(PACKAGE)):
        return f"not raised by minilora: {error!r}"
    return ""


# ---- many files ---------------------------------------------------------------------------------

def try_kinds(chosen, number, first, doing):
    """({(kind, answer): count}, {kind: seconds}) for `number` files of each kind.

    first: of the seeds;  doing: a file that tells kind and seed, if the process dies.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, wait_no_longer)
    os.fsync = lambda descriptor: None                  # the folder is in memory
    decoding._limit["megapixels"] = MEGAPIXELS
    found, seconds = Counter(), Counter()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, open(doing, "wb", 0) as now:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)    # libtiff writes there
        faulthandler.enable(now)
        kinds = make_kinds(folder)
        for kind in chosen:
            begun = time.process_time()
            for seed in range(first, first + number):
                now.seek(0)
                now.write(f"{kind}, seed {seed}".ljust(60).encode())
                answer = attempt(kind, seed, kinds)
                found[kind, answer] += 1
                if answer not in FINE:
                    print(f"{kind}, seed {seed}: {shown(answer, 1000)}", flush=True)
            seconds[kind] = time.process_time() - begun
            print(f"{kind}: {number:,} in {seconds[kind]:.0f} s", flush=True)
    return found, seconds


def report(found, seconds, begun, processes):
    """The figures as lines of text."""
    wrong = sum(number for (_, answer), number in found.items() if answer not in FINE)
    yield (f"{time.strftime('%Y-%m-%d')}: {found.total():,} changed files in "
           f"{time.time() - begun:.0f} s in {processes} processes, {wrong} of them with an "
           f"undocumented exception, over {MAX_SECONDS:g} s of processor time, or over "
           f"{MAX_MORE_BYTES / 1e6:.0f} MB (highest resident memory minus that before)")
    for kind in seconds:
        number = sum(n for (name, _), n in found.items() if name == kind)
        yield (f"{kind}: {number:,}; {found[kind, 'refused']:,} refused, {found[kind, 'read']:,} "
               "read (a change that cannot be detected, or that does not matter); "
               f"{number / seconds[kind]:,.0f} a second of processor time")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--count", type=int, default=200_000)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--first", type=int, default=0, help="first seed, to go on or to repeat")
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    begun, processes = time.time(), options.processes
    number = -(-options.count // len(options.kinds) // processes)
    with tempfile.TemporaryDirectory() as folder, \
            ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        doing = [Path(folder) / str(k) for k in range(processes)]
        firsts = [options.first + k * number for k in range(processes)]
        try:
            parts = list(pool.map(try_kinds, [options.kinds] * processes, [number] * processes,
                                  firsts, doing))
        except BrokenProcessPool:
            sys.exit(f"a process has died at: {[path.read_text() for path in doing]}")
    found = sum((part[0] for part in parts), Counter())
    text = "\n".join(report(found, sum((part[1] for part in parts), Counter()), begun, processes))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0 if all(answer in FINE for _, answer in found) else 1


if __name__ == "__main__":
    sys.exit(main())
