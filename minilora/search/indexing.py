"""Add files to a search index and remove them: from frames to features to parts.

Claim: a file that has not changed is not encoded again, and a long video whose indexing was
interrupted continues after its last complete part.  Every file is written atomically (io/files.py),
and index.json changes under a lock (search/index_changes.py), so an interruption at any moment
loses at most one part, and two runs at once lose nothing.

Symbols: N pictures, E embedding.
Left out: decoding the next frames in parallel (encoding takes far longer than decoding).
"""
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora.clip import CLIP
from minilora.data.frames import Frame, all_frames, sample_frames
from minilora.data.images import clip_preprocess, normalise
from minilora.io.files import DISK_FULL, TensorFileError, digest_of, save_tensors
from minilora.io.progress import stage
from minilora.io.regular_file import NotRegularFileError, kind_of
from minilora.io.text import shown
from minilora.search.index import Index, similarity_to
from minilora.search.index_changes import (add_entries, begin_run, end_run, is_known, is_regular,
                                           remove_entries)
from minilora.search.index_file import Entry

PART_ROWS, BATCH = 4096, 32             # rows per part; frames that are encoded together


class FrameEncoder:
    """CLIP features of frames.  clip: ViT or ResNet;  read: from a picture to its text (OCR)."""

    def __init__(self, clip: CLIP, read: Callable[[Image.Image], str] | None = None) -> None:
        self.clip, self.resolution, self.read = clip, clip.config.resolution, read

    @torch.no_grad()
    def encode(self, pictures: list[Image.Image]) -> Tensor:
        """Features of PIL pictures, half (N, E) of length one."""
        pixels = torch.stack([clip_preprocess(p, self.resolution) for p in pictures])
        features = self.clip.encode_image(normalise(pixels).to(self.clip.logit_scale.device))
        return F.normalize(features, dim=-1).half().cpu()


def update_index(index: Index, paths: Iterable[str | Path], encoder: FrameEncoder,
                 say: Callable[[str], None] = lambda line: None) -> list[tuple[str, str]]:
    """Add new files and encode changed ones again.  Returns the failed ones, [(path, error)].

    encoder: a `FrameEncoder`, or any object with `encode` and, if index.ocr, `read`;
    say: receives one line of text per file.
    A file that cannot be read is reported and left out; its earlier entry is removed.
    """
    run = begin_run(index)
    failed, unreadable, stills = [], [], StillImages(index, encoder, run)
    paths = list(paths)
    for path in stage("files", paths, len(paths)):
        name = str(Path(path).resolve())
        try:
            stat = status_of_file(Path(path))
            if is_known(index, name, stat.st_size, stat.st_mtime_ns):
                continue
            entry = index_file(index, encoder, run, path, name, stat, stills)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in DISK_FULL:      # no fault of this file
                raise
            failed.append((str(path), str(error)))
            unreadable.append(name)
            say(f"--  {shown(error, 500)}")
            continue
        if entry:
            add_entries(index, run, [entry])
            say(f"{shown(path)}: {entry.rows()} frames")
    stills.flush()
    remove_entries(index, unreadable)
    end_run(index, run)
    return failed


def status_of_file(path: Path) -> os.stat_result:
    """Size and time of a regular file.  Raises OSError: opening a pipe could wait for ever."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found; give a picture or a video")
    stat = path.stat()
    if kind := kind_of(stat.st_mode):
        raise NotRegularFileError(f"{path} is {kind}, expected a picture or a video")
    return stat


def index_file(index: Index, encoder: FrameEncoder, run: str, path: str | Path, name: str,
               stat: os.stat_result, stills: "StillImages") -> Entry | None:
    """The Entry of a file with several frames.  A single frame is added to `stills`: None."""
    fingerprint = digest_of(name, stat.st_size, stat.st_mtime_ns, index.base.sha256, index.sampling,
                            index.ocr)
    frames = sample_frames(all_frames(path, index.bits),
                           **{k: v for k, v in index.sampling.items() if k != "bits"})
    first, second = next(frames, None), next(frames, None)
    if first is None:
        raise ValueError(f"{path} holds no frame; give a picture or a video")
    if second is None:
        stills.add(name, stat, first)
        return None
    pieces, frames = [], chain((first, second), frames)
    while piece := write_part(index, encoder, run, f"{fingerprint}-{len(pieces):05d}",
                              islice(frames, PART_ROWS)):
        pieces.append(piece)
    return Entry(name, stat.st_size, stat.st_mtime_ns, pieces)


def write_part(index: Index, encoder: FrameEncoder, run: str, ending: str,
               frames: Iterator[Frame]) -> list | None:
    """Encode the frames as one part.  Returns the piece [name, 0, rows], None without frames.

    ending: of the part's name.  A part that an interrupted run has written is used again; its
    frames are decoded and skipped.
    """
    for name in (f"frames-{other}-{ending}" for other in (run, *index.unfinished)):
        if is_regular(index.part_path(name)):
            try:
                rows = len(index.load_part(name)["times"])
            except TensorFileError:
                continue
            deque(islice(frames, rows), maxlen=0)
            return [name, 0, rows]
    name, part = f"frames-{run}-{ending}", PartBuilder(index, encoder)
    while batch := list(islice(frames, BATCH)):         # no more pictures than these in memory
        part.add(batch)
    return [name, 0, part.save(name)] if part.times else None


class PartBuilder:
    """Collects the rows of one part."""

    def __init__(self, index: Index, encoder: FrameEncoder) -> None:
        self.index, self.encoder = index, encoder
        self.features, self.times, self.texts = [], [], []

    def add(self, frames: list[Frame]) -> None:
        """Encode frames and, if index.ocr, read their text."""
        pictures = [f.picture for f in frames]
        self.features.append(self.encoder.encode(pictures))
        self.times += [f.time for f in frames]
        if self.index.ocr:
            self.texts += [self.encoder.read(p) for p in pictures]

    def save(self, name: str) -> int:
        """Write the part and return its number of rows."""
        save_tensors(self.index.part_path(name), {
            "features": torch.cat(self.features),
            "times": torch.tensor(self.times, dtype=torch.float64),
            "texts": self.texts if self.index.ocr else None})
        return len(self.times)


class StillImages:
    """Files with a single picture: they are encoded in batches, and up to `size` share a part."""

    def __init__(self, index: Index, encoder: FrameEncoder, run: str, size: int = 256) -> None:
        self.index, self.encoder, self.run, self.size, self.written = index, encoder, run, size, 0
        self.batch, self.files, self.part = [], [], PartBuilder(index, encoder)

    def add(self, name: str, stat: os.stat_result, frame: Frame) -> None:
        """Queue the picture of file `name`; a full batch is encoded, a full part is written."""
        self.batch.append(frame)
        self.files.append((name, stat))
        if len(self.batch) == BATCH:
            self.encode()
        if len(self.files) == self.size:
            self.flush()

    def encode(self) -> None:
        """Encode the queued pictures."""
        if self.batch:
            self.part.add(self.batch)
            self.batch = []

    def flush(self) -> None:
        """Write the part and add the entries of its pictures to the index."""
        self.encode()
        if not self.files:
            return
        name = f"stills-{self.run}-{self.written:05d}"
        self.part.save(name)
        add_entries(self.index, self.run, [
            Entry(path, stat.st_size, stat.st_mtime_ns, [[name, row, row + 1]])
            for row, (path, stat) in enumerate(self.files)])
        self.files, self.part = [], PartBuilder(self.index, self.encoder)
        self.written += 1


def remove_files(index: Index, paths: Iterable[str | Path]) -> int:
    """Remove files, and all files below folders, from the index.  Returns their number."""
    wanted = [path.resolve() for path in map(Path, paths)]
    removed = remove_entries(index, [name for name in index.entries if any(
        path in (Path(name), *Path(name).parents) for path in wanted)])
    end_run(index)
    return len(removed)


def demo() -> None:
    """Mean colours as features of two pictures and an animation."""
    import tempfile

    from minilora.checkpoint.base_model import BaseModel

    class MeanColours:
        def encode(self, pictures):
            means = torch.stack([clip_preprocess(p, 8).float().mean((1, 2)) for p in pictures])
            return F.normalize(means + 1, dim=-1).half()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for name in ("red", "blue"):
            Image.new("RGB", (32, 32), name).save(folder / f"{name}.png")
        belt = [Image.new("RGB", (32, 32), (250 - 20 * k, 20 * k, 0)) for k in range(12)]
        belt[0].save(folder / "belt.gif", save_all=True, append_images=belt[1:], duration=500)
        (folder / "notes.png").write_text("no picture")
        index = Index(folder / "index", BaseModel("means", "0" * 64), {"rate": 1.0, "change": 0.0})
        for path, _ in update_index(index, sorted(folder.glob("*.*")), MeanColours()):
            print("left out, cannot be read:", Path(path).name)
        green = similarity_to(torch.tensor([0, 1.0, 0]))
        for path, times, values in Index.open(folder / "index").curves(green):
            best = int(values.argmax())
            print(f"{Path(path).name:9s} {len(times)} frames, greenest at {times[best]:.1f} s: "
                  f"{values[best]:.2f}")
        print("removed:", remove_files(index, [folder / "red.png"]), "left:", len(index.entries))


if __name__ == "__main__":
    demo()
