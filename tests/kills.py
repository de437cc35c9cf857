"""Kill commands with SIGKILL, at chosen calls and at random moments, and check the files.

    python tests/kills.py --moments 100 --out kills.txt
    python tests/kills.py --moments 100 --scenarios Fit Predict FitAll Index

Every scenario starts with an earlier result, and a user's file beside it.  The command runs with
other options and is killed.  Then the files must be the earlier result or the new one, never a
mixture, as a reader finds them.  The same command then runs to its end; its result must equal that
of a run that was never killed, the user's file must be there, and nothing temporary may be left.

Each process is a copy of one that has imported torch already (killed.py), so a kill costs the work
of the command only.
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

import killed
import small
import torch
from conftest import TINY

from minilora.checkpoint.weights import read_state_dict, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.io.lock import LOCK_FILE
from minilora.io.record import RECORD_FILE, read_record
from minilora.io.transaction import STAGING, read_journal, result_path
from minilora.runs.summary import SUMMARY_FILES
from minilora.scenes import belts, scene
from minilora.search import query as search

KINDS = ("open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
MAX_CALLS = 6           # at most this many calls of a kind are chosen for a kill
MINE = "notes of the user"
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None      # in memory, where there is one
TIMED = ("metrics.json", "report.html")         # they tell how long the run took


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def valid_files(folder, purpose):
    """{name: path} of the result that a reader of the folder finds."""
    names = read_journal(folder / f"{STAGING}{purpose}", purpose)
    names = read_record(folder).get(purpose, {}) if names is None else names
    return {name: result_path(folder, name, purpose) for name in names}


def copy_with_notes(source, target):
    """A fresh copy of an earlier result, in which a user has put a file."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    (target / "notes.txt").write_text(MINE)


def check_tidy(folder):
    """Raise AssertionError unless a folder holds the recorded files, the user's, and no others."""
    recorded = [name for names in read_record(folder).values() for name in names]
    expected = {RECORD_FILE, LOCK_FILE, *recorded}
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    found -= {name for name in found if (folder / name).read_bytes() == MINE.encode()}
    if found != expected or any(folder.glob(f"{STAGING}*")):
        raise AssertionError(f"{folder} holds {found ^ expected}")
    if (folder / "notes.txt").read_text() != MINE:
        raise AssertionError("the user's file was changed")


class Fit:
    """minilora.fit, including its resume point."""
    processes = 1

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "run"
        scene.write_class(folder / "data", "gear", good=4, test_good=2, defective=1, resolution=64)
        self.weights(folder)
        run(self.command(steps=1, out=folder / "earlier"))

    @staticmethod
    def weights(folder):
        clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
        save_official(clip, folder / "tiny.safetensors")

    def command(self, steps=12, out=None, name="gear"):
        return ["minilora.fit", "--class", name, "--shots", "3", "--data",
                str(self.folder / "data"), "--model", str(self.folder / "tiny.safetensors"),
                "--steps", str(steps), "--save-every", "0", "--out", str(out or self.out)]

    def earlier(self):
        copy_with_notes(self.folder / "earlier", self.out)

    def result(self, out=None):
        """Everything that must come from one run, except times."""
        files = valid_files(out or self.out, "fit")
        metrics = json.loads(files["metrics.json"].read_text())
        return (metrics["fingerprint"], metrics["losses"], metrics["rows"],
                {name: digest(path) for name, path in files.items() if name not in TIMED})

    def uninterrupted(self):
        run(self.command(out=self.folder / "uninterrupted"), processes=self.processes)
        return self.result(self.folder / "uninterrupted")

    def check_end(self):
        check_tidy(self.out)


class FitAll(Fit):
    """minilora.fit --class all in two processes, as torchrun starts them; the first one is killed.
    """
    processes, names = 2, ("gear", "nut", "metal")

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "runs"
        for name in self.names:
            scene.write_class(folder / "data", name, good=4, test_good=2, defective=1,
                              resolution=64)
        self.weights(folder)
        run(self.command(steps=1, out=folder / "earlier"), processes=2)

    def command(self, steps=6, out=None, name="all"):
        return super().command(steps, out, name)

    def result(self, out=None):
        """The results of the classes; each has its own transaction."""
        return [super(FitAll, self).result((out or self.out) / name) for name in self.names]

    def check_end(self):
        for name in self.names:
            (self.out / name / "notes.txt").write_text(MINE)
            check_tidy(self.out / name)
        if sorted(os.listdir(self.out)) != sorted([RECORD_FILE, LOCK_FILE, "notes.txt", *self.names,
                                                   *SUMMARY_FILES]):
            raise AssertionError(f"{self.out} holds {os.listdir(self.out)}")


class Predict:
    """minilora.predict: the earlier tables and overlays stay until all new ones are written."""
    processes = 1

    def __init__(self, folder):
        fit = Fit(folder)
        run(fit.command(steps=1))
        self.folder, self.run, self.out = folder, fit.out, folder / "out"
        run(self.command("good"))
        shutil.move(self.out, folder / "earlier-out")

    def command(self, kind=""):
        pictures = self.folder / "data" / "gear" / "test" / kind
        return ["minilora.predict", str(self.run), str(pictures), "--model",
                str(self.folder / "tiny.safetensors"), "--out", str(self.out)]

    def earlier(self):
        copy_with_notes(self.folder / "earlier-out", self.out)

    def result(self):
        return {name: digest(path) for name, path in valid_files(self.out, "predict").items()}

    def uninterrupted(self):
        run(self.command())
        return self.result()

    def check_end(self):
        check_tidy(self.out)


class Scenes:
    """minilora.scenes: a class has all its pictures or does not exist."""
    processes = 1

    def __init__(self, folder):
        self.folder = folder

    def command(self):
        return ["small", "scenes", "--out", str(self.folder / "drawn"), "--class", "gear"]

    def earlier(self):
        shutil.rmtree(self.folder / "drawn", ignore_errors=True)

    def result(self):
        return {name: sorted((str(p.relative_to(self.folder)), digest(p))
                             for p in (self.folder / "drawn" / name).rglob("*.png"))
                for name in ("gear",) if (self.folder / "drawn" / name).exists()}

    def uninterrupted(self):
        run(self.command())
        return self.result()

    def check_end(self):
        if sorted(os.listdir(self.folder / "drawn")) != ["gear"]:
            raise AssertionError(f"left: {os.listdir(self.folder / 'drawn')}")


class Pretrain:
    """minilora.pretrain with a small tower: the weights and the training log."""
    processes = 1

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "weights"
        run(self.command(steps=1))
        shutil.move(self.out, folder / "earlier-weights")

    def command(self, steps=6):
        return ["small", "pretrain", "--out", str(self.out / "clip.safetensors"), "--steps",
                str(steps), "--batch", "4", "--fresh", "1", "--buffer", "32", "--workers", "0",
                "--dtype", "float32", "--save-every", "1", "--threads", "1"]

    def earlier(self):
        copy_with_notes(self.folder / "earlier-weights", self.out)

    def result(self):
        files = valid_files(self.out, "pretrain-clip")
        rows = files["clip.log.csv"].read_text().splitlines()
        losses = [row.split(",")[:4] for row in rows if not row.startswith("#")]
        return losses, {key: value.double().sum().item() for key, value in
                        read_state_dict(files["clip.safetensors"]).items()}

    def uninterrupted(self):
        run(self.command())
        return self.result()

    def check_end(self):
        check_tidy(self.out)


class Download:
    """A download, which goes on where the killed one ended."""
    processes = 1

    def __init__(self, folder):
        self.path = folder / "w.pt"

    def command(self):
        return ["small", "download", str(self.path), hashlib.sha256(small.CONTENT).hexdigest()]

    def earlier(self):
        self.path.unlink(missing_ok=True)
        self.path.with_name("w.pt.part").unlink(missing_ok=True)

    def result(self):
        return digest(self.path)

    def uninterrupted(self):
        run(self.command())
        return self.result()


def run(command, kind="open", last=0, delay=None, processes=1):
    """(exit status, number of calls).  last: kill at this call;  delay: or after these seconds.

    processes: so many run the command together; the first is killed, and then the others, as
    torchrun does when one has died.
    """
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(free_port())} if processes > 1 else {}
    with tempfile.TemporaryDirectory() as folder:
        errors = [os.path.join(folder, str(rank)) for rank in range(processes)]
        started = [killed.start(command, errors[rank], kind, 0 if rank else last, **(
            group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {}))
            for rank in range(processes)]
        if delay is not None:
            started[0].join(delay)
            started[0].kill()
        started[0].join()
        status = started[0].exitcode
        for other in started[1:]:
            if status:
                other.kill()
            other.join()
        stderr = Path(errors[0]).read_text() if os.path.exists(errors[0]) else ""
    calls = [int(line.split()[1]) for line in stderr.splitlines() if line.startswith("calls ")]
    ended = status in (0, 1) and calls                  # 1: predict has found a defect
    if not (ended or status == -signal.SIGKILL) or "Traceback" in stderr:
        raise RuntimeError(f"{command}: exit status {status}: {stderr}")
    return status, calls[0] if calls else None


def free_port():
    """A port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def survives(scenario, uninterrupted, earlier, **moment):
    """Run a command, kill it, and run it again.  Returns whether the kill came before its end.

    earlier: `result` before;  uninterrupted: `result` of a run that was never killed.
    Raises AssertionError if a result is lost, mixed or different.
    """
    status, _ = run(scenario.command(), processes=scenario.processes, **moment)
    left = scenario.result()
    each = zip(left, earlier, uninterrupted) if scenario.processes > 1 else [
        (left, earlier, uninterrupted)]                 # each class has its own transaction
    if not all(found in (old, new) for found, old, new in each):
        raise AssertionError(f"killed at {moment}: neither the earlier result nor the new one")
    run(scenario.command(), processes=scenario.processes)
    if scenario.result() != uninterrupted:
        raise AssertionError(f"killed at {moment}, then run to the end: another result")
    if hasattr(scenario, "check_end"):
        scenario.check_end()
    return status == -signal.SIGKILL


def calls_of(scenario, kind):
    """Number of calls of a function while the command runs, from the earlier result on."""
    scenario.earlier()
    return run(scenario.command(), kind, processes=scenario.processes)[1]


class Index:
    """minilora.search index: one video is indexed already, another and a picture are new."""
    processes = 1

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
                "--model", str(self.folder / "tiny.safetensors"), "--out", str(self.out)]

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


SCENARIOS = {s.__name__: s for s in (Fit, FitAll, Predict, Scenes, Pretrain, Download, Index)}


def kill_all(make, count, draw):
    """Kill a scenario's command at calls and at `count` random moments.  Returns a line of text."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        scenario = make(Path(folder))
        uninterrupted, killed_early, begun = scenario.uninterrupted(), 0, time.time()
        scenario.earlier()
        earlier, started = scenario.result(), time.time()
        run(scenario.command(), processes=scenario.processes)
        length = time.time() - started
        moments = [{"delay": draw.uniform(0, length)} for _ in range(count)]
        for kind in KINDS:
            calls = calls_of(scenario, kind)
            chosen = sorted(draw.sample(range(calls), min(calls, MAX_CALLS)))
            moments += [{"kind": kind, "last": k + 1} for k in chosen]
        for tried, moment in enumerate(moments, 1):
            scenario.earlier()
            killed_early += survives(scenario, uninterrupted, earlier, **moment)
            print(f"{make.__name__} {tried}/{len(moments)} {moment}", flush=True)
        each = (time.time() - begun) / len(moments)
        return (f"{make.__name__}: {len(moments) - count} kills at calls of {', '.join(KINDS)} "
                f"(all calls, or a sample of {MAX_CALLS}) and {count} at random moments, "
                f"{killed_early} of them before the end; nothing lost, nothing mixed, every result "
                f"as without a kill; {each:.1f} s for each kill and the run after it")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--moments", type=int, default=100,
                   help="number of random moments, for each scenario")
    p.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    lines = [kill_all(make, options.moments, random.Random(options.seed))
             for make in map(SCENARIOS.get, options.scenarios)]
    text = "\n".join([time.strftime("%Y-%m-%d"), *lines]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
