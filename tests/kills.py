"""Kill commands with SIGKILL, at chosen calls and at random moments, and check the files.

    python tests/kills.py --moments 100 --out kills.txt

Every scenario starts with an earlier result.  The command runs with other options and is killed.
Then the files must be the earlier result or the new one, never a mixture.  The same command then
runs to its end; its result must equal that of a run that was never killed.
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
from minilora.io.transaction import recover
from minilora.scenes import belts, scene
from minilora.search import query as search

# Runs a module as `python -m` does; kills itself at the n-th call of one of the functions.
KILL_AT_CALL = """
import builtins, os, runpy, shutil, signal, sys
kind, last = sys.argv[1], int(sys.argv[2])
calls = 0
def with_kill(function, counts=lambda *a, **k: True):
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
counts = writes if kind == "open" else lambda *a, **k: True
setattr(owner, name, with_kill(getattr(owner, name), counts))
sys.argv = sys.argv[3:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(f"calls {calls}", file=sys.stderr)
"""
KINDS = ("open", "fsync", "replace", "rmtree", "unlink")
MAX_CALLS = 6           # at most this many calls of a kind are chosen for a kill


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


class Fit:
    """minilora.fit, including its resume point."""

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
        """Everything that must come from one run, except times."""
        out = out or self.out
        recover(out)
        metrics = json.loads((out / "metrics.json").read_text())
        adapter = load_tensors(out / "adapter.pt")
        numbers = [v.double().sum().item() for layer in adapter["lora"]["layers"].values()
                   for v in layer.values() if isinstance(v, torch.Tensor)]
        return (metrics["fingerprint"], metrics["losses"], metrics["rows"], numbers,
                digest(out / "scores.csv"), digest(out / "memory.pt"),
                {p.name: digest(p) for p in (out / "maps").iterdir()})

    def uninterrupted(self):
        run(self.command(out=self.folder / "uninterrupted"))
        return self.result(self.folder / "uninterrupted")


class Predict:
    """minilora.predict: the earlier tables stay until all new ones are written."""

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
        recover(self.folder / "out")
        return [digest(self.folder / "out" / f"predictions.{kind}") for kind in ("csv", "json")]

    def uninterrupted(self):
        run(self.command())
        return self.result()


class Scenes:
    """minilora.scenes: a class has all its pictures or does not exist."""

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

    def uninterrupted(self):
        run(self.command())
        return self.result()


class Pretrain:
    """minilora.pretrain with a small tower: the weights and the training log."""

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
        recover(self.folder)
        rows = (self.folder / "clip.log.csv").read_text().splitlines()
        losses = [row.split(",")[:4] for row in rows if not row.startswith("#")]
        return losses, {key: value.double().sum().item() for key, value in
                        read_state_dict(self.folder / "clip.pt").items()}

    def uninterrupted(self):
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

    def uninterrupted(self):
        run(self.command())
        return self.result()


def run(command, kind="open", last=0, delay=None):
    """(exit status, number of calls).  last: kill at this call;  delay: or after these seconds."""
    arguments = [sys.executable, "-c", KILL_AT_CALL, kind, str(last), *command]
    process = subprocess.Popen(arguments, cwd=REPO,
                               env=os.environ | {"PYTHONPATH": str(REPO / "tests")},
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if delay is not None:
        time.sleep(delay)
        process.kill()
    stderr = process.communicate()[1]
    calls = [int(line.split()[1]) for line in stderr.splitlines() if line.startswith("calls ")]
    if process.returncode not in (0, 1, -signal.SIGKILL) or "Traceback" in stderr:
        raise RuntimeError(f"{command}: {stderr}")
    return process.returncode, calls[0] if calls else None


def survives(scenario, uninterrupted, earlier, **moment):
    """Run a command, kill it, and run it again.  Returns whether the kill came before its end.

    earlier: `result` before;  uninterrupted: `result` of a run that was never killed.
    Raises AssertionError if a result is lost, mixed or different.
    """
    status, _ = run(scenario.command(), **moment)
    left = scenario.result()
    if left not in (earlier, uninterrupted):
        raise AssertionError(f"killed at {moment}: neither the earlier result nor the new one")
    run(scenario.command())
    if scenario.result() != uninterrupted:
        raise AssertionError(f"killed at {moment}, then run to the end: another result")
    return status == -signal.SIGKILL


class Index:
    """minilora.search index: one video is indexed already, another and a picture are new."""

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
        """Times and features of every file; of the first file only if the index is incomplete."""
        index = search.Index.open(self.out)
        rows = {Path(path).name: (times.tolist(), values.tolist()) for path, times, values in
                index.curves(lambda part: part["features"].double().sum(1))}
        return rows if len(rows) == 3 else {"a.gif": rows["a.gif"]}

    def uninterrupted(self):
        run(self.command())
        return self.result()


SCENARIOS = {s.__name__: s for s in (Fit, Predict, Scenes, Pretrain, Download, Index)}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--moments", type=int, default=100, help="number of random moments")
    p.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    draw, lines = random.Random(options.seed), []
    each = -(-options.moments // len(options.scenarios))
    for make in map(SCENARIOS.get, options.scenarios):
        with tempfile.TemporaryDirectory() as folder:
            scenario = make(Path(folder))
            uninterrupted, killed, tried = scenario.uninterrupted(), 0, 0
            begun = time.time()
            scenario.earlier()
            earlier = scenario.result()
            run(scenario.command())
            length = time.time() - begun
            moments = [{"delay": draw.uniform(0.3, length)} for _ in range(each)]
            for kind in KINDS:
                scenario.earlier()
                _, calls = run(scenario.command(), kind)
                chosen = sorted(draw.sample(range(calls), min(calls, MAX_CALLS)))
                moments += [{"kind": kind, "last": k + 1} for k in chosen]
            for moment in moments:
                scenario.earlier()
                killed += survives(scenario, uninterrupted, earlier, **moment)
                tried += 1
                print(f"{make.__name__} {tried}/{len(moments)} {moment}", flush=True)
            lines.append(f"{make.__name__}: {tried - each} kills at calls of "
                         f"{', '.join(KINDS)} (all calls, or a sample of {MAX_CALLS}) and "
                         f"{each} at random moments, {killed} of them before the "
                         "end; nothing lost, nothing mixed, every result as without a kill")
    text = "\n".join([time.strftime("%Y-%m-%d"), *lines]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
