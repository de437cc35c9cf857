"""Score new pictures in a folder until Ctrl-C: `minilora predict RUN --watch FOLDER`.

    poll      which pictures are new and complete                   new_files.py
    process   read, score, decide                                   picture.py
    overlay   of an NG picture, written whole or not at all
    row       appended to watch.csv and on the disk                 watch_log.py
    line      printed after the row

Claim: a picture is done when its row is on the disk, and its line is printed after that.  So a kill
at any moment loses no picture and scores none twice, and every printed line has its row.  A picture
that cannot be read gets a row as well, after ten seconds without a change; it stops nothing.

Memory holds the key of each known picture, about 100 bytes, and nothing else that grows.
Latency: from the last change of the file to the decision; of a file that was moved here, from the
poll before it was found.
Left out: batches of pictures (one at a time gives the shortest latency).
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

from minilora.data.images import to_pil
from minilora.detector import Detector
from minilora.io.derived_name import derived_stem
from minilora.io.files import WRITTEN, atomic_write
from minilora.io.lock import lock_folder
from minilora.io.notes import take_notes
from minilora.io.record import identity, results_among
from minilora.io.temporary import remove_leftovers
from minilora.io.text import shown
from minilora.prediction.inputs import read_or_error
from minilora.prediction.new_files import NewFile, NewFiles
from minilora.prediction.picture import Prediction, predict_or_error, prediction_line
from minilora.prediction.watch_log import WatchLog, check_watch_log

CHECK_SECONDS = 0.1             # after which a waiting process checks for Ctrl-C


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
            time.sleep(min(left, CHECK_SECONDS))


class FolderWatch:
    """What happens with each new picture, and the counts for the last line.

    say: called with one line per picture;  as_json: lines are JSON objects.
    """

    def __init__(self, detector: Detector, new_files: NewFiles, log: WatchLog,
                 say: Callable[[str], None], as_json: bool = False) -> None:
        self.detector, self.new_files, self.log = detector, new_files, log
        self.say, self.as_json, self.told = say, as_json, set()
        self.counts = {"OK": 0, "NG": 0, None: 0}       # None: unreadable
        self.waited, self.longest = 0.0, 0.0            # sum and maximum of the latencies, seconds

    def process(self, new: NewFile) -> None:
        """Score a picture, write overlay and row, print the line.

        Nothing happens if the file has changed meanwhile, or if it is a result of minilora.
        """
        path = self.new_files.folder / new.name
        if results_among([path]):
            self.log.known.add(new.key)
            return
        picture = read_or_error(self.detector, path)
        if not self.new_files.is_unchanged(new):
            return
        begun = time.perf_counter()
        prediction, scored = predict_or_error(self.detector, path, picture)
        seconds = time.perf_counter() - begun
        if scored is None and not new.is_final:
            new.failed = True                       # perhaps its end is still missing
            return
        if prediction["decision"] == "NG":
            prediction["overlay"] = overlay_of(new)
            with atomic_write(self.log.folder / prediction["overlay"]) as file:
                scored.overlay.save(file, "PNG")
            WRITTEN.pop()                               # a list of all results would grow
        latency = max(0.0, time.time() - new.completed)
        row = prediction | {"time": datetime.now().astimezone().isoformat(timespec="seconds"),
                            "latency_s": round(latency, 3),
                            "scoring_ms": round(1000 * seconds, 1) if scored else None}
        self.log.append(row, new.key)
        self.say(watch_line(row, self.as_json))
        self.counts[prediction["decision"]] += 1
        if scored:
            self.waited, self.longest = self.waited + latency, max(self.longest, latency)

    def tell_problems(self, before: dict[str, str]) -> None:
        """Say what cannot be read since this poll, and what can be read again.

        before: the problems of the poll before.
        """
        for name, reason in self.new_files.problems.items():
            if before.get(name) != reason:
                waiting = "; waiting for it" if name == "." else ""
                tell(f"{shown(self.new_files.folder / name)} {reason}{waiting}")
        if "." in before and "." not in self.new_files.problems:
            tell(f"{shown(self.new_files.folder)} is there again")

    def tell_notes(self, new: NewFile) -> None:
        """Say each kind of note about pictures once (io/notes.py)."""
        for line in take_notes():
            kind = line.removeprefix(shown(self.new_files.folder / new.name))
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


def overlay_of(new: NewFile) -> str:
    """File name of the overlay of an NG picture; the same if it has to be scored again."""
    return f"NG-{derived_stem(Path(new.name).stem)}-{new.key.hex()[:8]}.png"


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
    """Score the new pictures in `folder` until a signal.

    Returns the exit status: 0 all OK, 1 some NG, 2 some not scored.

    poll: seconds between two polls of the folder.
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
        watch = FolderWatch(detector, NewFiles(folder, out, log.known), log, say, as_json)
        while not stop.asked:
            before = watch.new_files.problems
            complete = watch.new_files.poll()
            watch.tell_problems(before)
            for new in complete:
                if stop.asked:
                    break
                watch.process(new)
                watch.tell_notes(new)
            stop.wait(poll)
        log.list_overlays()
        tell(watch.summary())
    return 2 if watch.counts[None] else 1 if watch.counts["NG"] else 0


def demo() -> None:
    """A toy detector and two new pictures, good and with a spot, with a restart between them."""
    from minilora.toy_detector import toy_detector, with_spot
    detector, good = toy_detector()
    with tempfile.TemporaryDirectory() as root:
        folder, out = Path(root) / "belt", Path(root) / "out"
        folder.mkdir()
        out.mkdir()
        for polls, pixels in ((2, good[0]), (3, with_spot(good[:1])[0])):
            to_pil(pixels).save(folder / f"{polls}.png")
            with WatchLog(out) as log:
                print(f"known: {len(log.known)}")
                watch = FolderWatch(detector, NewFiles(folder, out, log.known), log,
                              lambda line: print(line.replace(root, "…")))
                for _ in range(polls):
                    for new in watch.new_files.poll():
                        watch.process(new)
        WRITTEN.clear()


if __name__ == "__main__":
    demo()
