"""Judge pictures as they arrive in a folder, until Ctrl-C: `minilora predict RUN --watch FOLDER`.

    poll      which pictures are new and complete                   arrivals.py
    judge     read, score, decide                                   picture.py
    overlay   of an NG picture, written whole or not at all
    row       appended to watch.csv and on the disk                 watch_log.py
    line      printed

Claim: a picture is done when its row is on the disk, and only then it is announced.  So a kill at
any moment loses no picture and judges none twice, and every printed line has its row.  A picture
that cannot be read gets a row as well, after ten seconds without a change; it stops nothing.

Memory holds the key of each known picture, about 100 bytes, and nothing else that grows.
Latency: from the last change of the file to the decision; of a file that was moved here, from the
poll before it was found.
Left out: pictures that are judged together (one at a time gives the shortest latency).
"""
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType

from minilora.detector import Detector
from minilora.io.derived_name import derived_stem
from minilora.io.files import WRITTEN, atomic_write
from minilora.io.lock import lock_folder
from minilora.io.notes import take_notes
from minilora.io.record import identity, results_among
from minilora.io.temporary import remove_leftovers
from minilora.io.text import shown
from minilora.prediction.arrivals import Arrival, Arrivals
from minilora.prediction.inputs import read_or_error
from minilora.prediction.picture import Prediction, predict_or_error, prediction_line
from minilora.prediction.watch_log import WatchLog, check_watch_log

NAP = 0.1                       # seconds after which a waiting process looks for Ctrl-C


class StopRequest:
    """Whether Ctrl-C or SIGTERM has asked for the end; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked, self.before = False, {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block both signals are noted.  A signal that is ignored stays ignored."""
        self.before = {number: signal.getsignal(number) or signal.SIG_DFL
                       for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in self.before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self.note)
        try:
            yield
        finally:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        self.asked = True
        signal.signal(number, self.before[number])

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond a signal."""
        end = time.monotonic() + seconds
        while not self.asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, NAP))


class Watch:
    """What happens with each arrival, and the counts for the last line.

    say: called with one line per picture;  as_json: lines are JSON objects.
    """

    def __init__(self, detector: Detector, arrivals: Arrivals, log: WatchLog,
                 say: Callable[[str], None], as_json: bool = False) -> None:
        self.detector, self.arrivals, self.log = detector, arrivals, log
        self.say, self.as_json, self.told = say, as_json, set()
        self.counts = {"OK": 0, "NG": 0, None: 0}       # None: unreadable
        self.waited, self.longest = 0.0, 0.0            # sum and maximum of the latencies, seconds

    def judge(self, arrival: Arrival) -> None:
        """Score a picture, write overlay and row, print the line.

        Nothing happens if the file has changed meanwhile, or if it is a result of minilora.
        """
        path = self.arrivals.folder / arrival.name
        if results_among([path]):
            self.log.known.add(arrival.key)
            return
        picture = read_or_error(self.detector, path)
        if not self.arrivals.is_unchanged(arrival):
            return
        begun = time.perf_counter()
        prediction, scored = predict_or_error(self.detector, path, picture)
        seconds = time.perf_counter() - begun
        if scored is None and not arrival.is_final:
            arrival.failed = True                       # perhaps its end is still missing
            return
        if prediction["decision"] == "NG":
            prediction["overlay"] = overlay_of(arrival)
            with atomic_write(self.log.folder / prediction["overlay"]) as file:
                scored.overlay.save(file, "PNG")
            WRITTEN.pop()                               # a list of all results would grow
        latency = max(0.0, time.time() - arrival.completed)
        row = prediction | {"time": datetime.now().astimezone().isoformat(timespec="seconds"),
                            "latency_s": round(latency, 3),
                            "scoring_ms": round(1000 * seconds, 1) if scored else None}
        self.log.append(row, arrival.key)
        self.say(watch_line(row, self.as_json))
        self.counts[prediction["decision"]] += 1
        if scored:
            self.waited, self.longest = self.waited + latency, max(self.longest, latency)

    def tell_problems(self, before: dict[str, str]) -> None:
        """Say what cannot be looked at since this poll, and what can be again.

        before: the problems of the poll before.
        """
        for name, reason in self.arrivals.problems.items():
            if before.get(name) != reason:
                waiting = "; waiting for it" if name == "." else ""
                tell(f"{shown(self.arrivals.folder / name)} {reason}{waiting}")
        if "." in before and "." not in self.arrivals.problems:
            tell(f"{shown(self.arrivals.folder)} is there again")

    def tell_notes(self, arrival: Arrival) -> None:
        """Say each kind of note about pictures once (io/notes.py)."""
        for line in take_notes():
            kind = line.removeprefix(shown(self.arrivals.folder / arrival.name))
            if kind not in self.told:
                self.told.add(kind)
                tell(line)

    def summary(self) -> str:
        """The last line."""
        total, scored = sum(self.counts.values()), self.counts["OK"] + self.counts["NG"]
        mean = self.waited / scored if scored else 0.0
        return (f"pictures: {total}, {self.counts['NG']} NG, {self.counts[None]} not scored; "
                f"from complete to decided {mean:.2f} s on average, {self.longest:.2f} s at most; "
                f"rows in {shown(self.log.path)}")


def overlay_of(arrival: Arrival) -> str:
    """File name of the overlay of an NG picture; the same if it has to be judged again."""
    return f"NG-{derived_stem(Path(arrival.name).stem)}-{arrival.key.hex()[:8]}.png"


def watch_line(row: Prediction, as_json: bool) -> str:
    """One line for one picture, to be read by people or as JSON."""
    if as_json:
        return prediction_line(row, as_json=True)
    scoring = "" if row["scoring_ms"] is None else f", scored in {row['scoring_ms']:.0f} ms"
    return f"{prediction_line(row)}  {row['latency_s']:.1f} s after the file was complete{scoring}"


def tell(line: str) -> None:
    """Print a line that is not about one picture."""
    print(line, file=sys.stderr, flush=True)


def watch_folder(detector: Detector, folder: str | Path, out: str | Path,
                 say: Callable[[str], None], poll: float = 1.0, as_json: bool = False,
                 stop: StopRequest | None = None) -> int:
    """Judge what arrives in `folder` until a signal.  Returns the exit status: 0 all OK, 1 some NG,
    2 some not scored.

    poll: seconds between two looks at the folder.
    Raises ValueError or OSError if the folders do not fit, or if a row cannot be written.
    """
    folder, out, stop = Path(folder), Path(out), stop or StopRequest()
    if not folder.is_dir():
        raise ValueError(f"--watch {shown(folder)}: expected a folder, found "
                         f"{'a file' if os.path.lexists(folder) else 'nothing'}; correct the path")
    if identity(folder) == identity(out):
        raise ValueError(f"--watch and --out are the same folder, {shown(out)}; give another --out")
    check_watch_log(out)                                # before a lock file is made there
    with lock_folder(out), WatchLog(out) as log, stop.listening():
        remove_leftovers(out)
        cut = " (a half-written row was removed)" if log.was_cut else ""
        tell(f"watching {shown(folder)}; Ctrl-C ends; pictures known from {shown(log.path)}: "
             f"{len(log.known):,}{cut}")
        watch = Watch(detector, Arrivals(folder, out, log.known), log, say, as_json)
        while not stop.asked:
            before = watch.arrivals.problems
            complete = watch.arrivals.poll()
            watch.tell_problems(before)
            for arrival in complete:
                if stop.asked:
                    break
                watch.judge(arrival)
                watch.tell_notes(arrival)
            stop.wait(poll)
        log.list_overlays()
        tell(watch.summary())
    return 2 if watch.counts[None] else 1 if watch.counts["NG"] else 0


def demo() -> None:
    """A toy detector: a good picture arrives, then one with a spot; and the same after a restart.
    """
    import torch
    from PIL import Image

    from minilora.clip import CLIP, CLIPConfig
    from minilora.config import DetectorConfig
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(4, 3, 64, 96, generator=generator).clamp(-1, 1)
    detector = Detector(clip, "plate", DetectorConfig(steps=0)).fit(good)
    picture = Image.fromarray((good[0] * 255).byte().permute(1, 2, 0).numpy())
    with tempfile.TemporaryDirectory() as root:
        folder, out = Path(root) / "belt", Path(root) / "out"
        folder.mkdir()
        out.mkdir()
        for polls in (2, 3):
            picture.save(folder / f"{polls}.png")
            with WatchLog(out) as log:
                print(f"known: {len(log.known)}")
                watch = Watch(detector, Arrivals(folder, out, log.known), log,
                              lambda line: print(line.replace(root, "…")))
                for _ in range(polls):
                    for arrival in watch.arrivals.poll():
                        watch.judge(arrival)
            picture.paste((10, 10, 10), (36, 20, 46, 30))
        WRITTEN.clear()


if __name__ == "__main__":
    demo()
