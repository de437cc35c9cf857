"""Kill commands with SIGKILL, at chosen calls and at random moments, and look at what is left.

    python tests/kills.py --moments 100 --out kills.txt

Every scenario: an earlier result is there; the command is run again with other options and killed;
what is left must be the earlier result or the new one, never a mixture; the same command is run to
its end, and its result must be that of a run that was never killed.
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small
import torch
from conftest import REPO, TINY

from minilora.checkpoint.weights import read_state_dict, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.io.files import load_tensors
from minilora.io.transaction import settle
from minilora.scenes import belts, scene
from minilora.search import query as search

# runs a module as `python -m` does, and dies at the n-th call of one of the functions
DEADLY = """
import builtins, os, runpy, shutil, signal, sys
kind, last = sys.argv[1], int(sys.argv[2])
calls = 0
def deadly(function, counts=lambda *a, **k: True):
    def counted(*arguments, **options):
        global calls
        if counts(*arguments, **options):
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return counted
writes = lambda path, mode="r", *a, **k: set(mode) & set("wxa")
owner, name = {"open": (builtins, "open"), "fsync": (os, "fsync"), "replace": (os, "replace"),
               "rmtree": (shutil, "rmtree"), "unlink": (os, "unlink")}[kind]
setattr(owner, name, deadly(getattr(owner, name), writes if kind == "open" else lambda *a, **k: 1))
sys.argv = sys.argv[3:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(f"calls {calls}", file=sys.stderr)
"""
KINDS = ("open", "fsync", "replace", "rmtree", "unlink")
MOST = 6                # calls of a kind at which a command is killed


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


class Fit:
    """minilora.fit, its resume point included."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "run"
        scene.write_class(folder / "data", "gear", good=4, test_good=2, defective=1, resolution=64)
        self.weights(folder)
        run(self.command(steps=1, out=folder / "earlier"))

    @staticmethod
    def weights(folder):
        clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
        save_official(clip, folder / "tiny.pt")

    def command(self, steps=12, out=None):
        return ["minilora.fit", "--class", "gear", "--shots", "3", "--data",
                str(self.folder / "data"), "--model", str(self.folder / "tiny.pt"), "--steps",
                str(steps), "--save-every", "0", "--out", str(out or self.out)]

    def earlier(self):
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.folder / "earlier", self.out)

    def result(self, out=None):
        """What may not be mixed, and does not depend on the clock."""
        out = out or self.out
        settle(out)
        metrics = json.loads((out / "metrics.json").read_text())
        adapter = load_tensors(out / "adapter.pt")
        numbers = [v.double().sum().item() for layer in adapter["lora"]["layers"].values()
                   for v in layer.values() if isinstance(v, torch.Tensor)]
        return (metrics["fingerprint"], metrics["losses"], metrics["rows"], numbers,
                digest(out / "scores.csv"), digest(out / "memory.pt"),
                {p.name: digest(p) for p in (out / "maps").iterdir()})

    def whole(self):
        run(self.command(out=self.folder / "whole"))
        return self.result(self.folder / "whole")


class Predict:
    """minilora.predict: the tables of an earlier time stay until all new ones are there."""

    def __init__(self, folder):
        fit = Fit(folder)
        run(fit.command(steps=1))
        self.folder, self.run = folder, fit.out
        run(self.command("good"))
        shutil.move(folder / "out", folder / "earlier-out")

    def command(self, kind=""):
        pictures = self.folder / "data" / "gear" / "test" / kind
        return ["minilora.predict", str(self.run), str(pictures), "--model",
                str(self.folder / "tiny.pt"), "--out", str(self.folder / "out")]

    def earlier(self):
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        shutil.copytree(self.folder / "earlier-out", self.folder / "out")

    def result(self):
        settle(self.folder / "out")
        return [digest(self.folder / "out" / f"predictions.{kind}") for kind in ("csv", "json")]

    def whole(self):
        run(self.command())
        return self.result()


class Scenes:
    """minilora.scenes: a class is there with all of its pictures, or not at all."""

    def __init__(self, folder):
        self.folder = folder

    def command(self):
        return ["minilora.scenes", "--out", str(self.folder / "drawn"), "--class", "gear"]

    def earlier(self):
        shutil.rmtree(self.folder / "drawn", ignore_errors=True)

    def result(self):
        return {name: sorted((str(p.relative_to(self.folder)), digest(p))
                             for p in (self.folder / "drawn" / name).rglob("*.png"))
                for name in ("gear",) if (self.folder / "drawn" / name).exists()}

    def whole(self):
        run(self.command())
        return self.result()


class Pretrain:
    """minilora.pretrain on a small tower: the weights and the log of how they were made."""

    def __init__(self, folder):
        self.folder = folder
        run(self.command(steps=1))
        shutil.move(folder / "clip.pt", folder / "earlier.pt")
        shutil.move(folder / "clip.log.csv", folder / "earlier.log.csv")

    def command(self, steps=6):
        return ["small", "pretrain", "--out", str(self.folder / "clip.pt"), "--steps", str(steps),
                "--batch", "4", "--fresh", "1", "--buffer", "32", "--workers", "0", "--dtype",
                "float32", "--save-every", "1", "--threads", "1"]

    def earlier(self):
        for ending in ("pt", "log.csv"):
            shutil.copy(self.folder / f"earlier.{ending}", self.folder / f"clip.{ending}")

    def result(self):
        settle(self.folder)
        rows = (self.folder / "clip.log.csv").read_text().splitlines()
        losses = [row.split(",")[:4] for row in rows if not row.startswith("#")]
        return losses, {key: value.double().sum().item() for key, value in
                        read_state_dict(self.folder / "clip.pt").items()}

    def whole(self):
        run(self.command())
        return self.result()


class Download:
    """A download over an older file of the same name."""

    def __init__(self, folder):
        self.path = folder / "w.pt"

    def command(self):
        return ["small", "download", str(self.path), hashlib.sha256(small.CONTENT).hexdigest()]

    def earlier(self):
        self.path.write_bytes(b"older")

    def result(self):
        return digest(self.path)

    def whole(self):
        run(self.command())
        return self.result()


def run(command, kind="open", last=0, delay=None):
    """(exit status, counted calls).  last: it dies at this call;  delay: or after some seconds."""
    process = subprocess.Popen([sys.executable, "-c", DEADLY, kind, str(last), *command], cwd=REPO,
                               env=os.environ | {"PYTHONPATH": str(REPO / "tests")},
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if delay is not None:
        time.sleep(delay)
        process.kill()
    said = process.communicate()[1]
    calls = [int(line.split()[1]) for line in said.splitlines() if line.startswith("calls ")]
    if process.returncode not in (0, 1, -signal.SIGKILL) or "Traceback" in said:
        raise RuntimeError(f"{command}: {said}")
    return process.returncode, calls[0] if calls else None


def survives(scenario, whole, earlier, **moment):
    """Kills once and finishes.  Returns whether the command was killed; raises if anything is lost.

    earlier: what `result` says before;  whole: what it says of a run that was never killed.
    """
    status, _ = run(scenario.command(), **moment)
    left = scenario.result()
    if left not in (earlier, whole):
        raise AssertionError(f"killed at {moment}: neither the earlier result nor the new one")
    run(scenario.command())
    if scenario.result() != whole:
        raise AssertionError(f"killed at {moment}, then run to the end: another result")
    return status == -signal.SIGKILL


class Index:
    """minilora.search index: a video is there, another and a picture are new."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "index"
        Fit.weights(folder)
        belt = belts.product_belt(0, "gear", slots=10, resolution=64)
        pictures = [f.picture for f in belt.frames(2)]
        (folder / "files").mkdir()
        for name, some in (("a.gif", pictures[:50]), ("b.gif", pictures[50:])):
            some[0].save(folder / "files" / name, save_all=True, append_images=some[1:],
                         duration=500)
        pictures[2].save(folder / "files" / "c.png")
        run(self.command("a.gif"))
        shutil.move(self.out, folder / "earlier-index")

    def command(self, name=""):
        return ["small", "index", "index", str(self.folder / "files" / name), "--rate", "2",
                "--model", str(self.folder / "tiny.pt"), "--out", str(self.out)]

    def earlier(self):
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.folder / "earlier-index", self.out)

    def result(self):
        """Times and features of every file; of an index that is not finished, of the first."""
        index = search.Index.open(self.out)
        rows = {Path(path).name: (times.tolist(), values.tolist()) for path, times, values in
                index.curves(lambda part: part["features"].double().sum(1))}
        return rows if len(rows) == 3 else {"a.gif": rows["a.gif"]}

    def whole(self):
        run(self.command())
        return self.result()


SCENARIOS = {s.__name__: s for s in (Fit, Predict, Scenes, Pretrain, Download, Index)}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--moments", type=int, default=100, help="random moments")
    p.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="file for the record")
    options = p.parse_args()
    draw, lines = random.Random(options.seed), []
    each = -(-options.moments // len(options.scenarios))
    for make in map(SCENARIOS.get, options.scenarios):
        with tempfile.TemporaryDirectory() as folder:
            scenario = make(Path(folder))
            whole, killed, tried = scenario.whole(), 0, 0
            begun = time.time()
            scenario.earlier()
            earlier = scenario.result()
            run(scenario.command())
            length = time.time() - begun
            moments = [{"delay": draw.uniform(0.3, length)} for _ in range(each)]
            for kind in KINDS:
                scenario.earlier()
                _, calls = run(scenario.command(), kind)
                chosen = sorted(draw.sample(range(calls), min(calls, MOST)))
                moments += [{"kind": kind, "last": k + 1} for k in chosen]
            for moment in moments:
                scenario.earlier()
                killed += survives(scenario, whole, earlier, **moment)
                tried += 1
                print(f"{make.__name__} {tried}/{len(moments)} {moment}", flush=True)
            lines.append(f"{make.__name__}: {tried - each} kills at calls of "
                         f"{', '.join(KINDS)} (all, or {MOST} drawn of more) and "
                         f"{each} at random moments, {killed} of them before the "
                         "end; nothing lost, nothing mixed, every result as if never killed")
    text = "\n".join([time.strftime("%Y-%m-%d"), *lines]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
