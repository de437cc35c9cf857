"""Brings files into an index and out of it: frames, features, parts.

Claim: a file that has not changed is not encoded again; a long one that was interrupted goes on
after the last part that is there.  Every file is written whole (io/files.py), and one process writes
at a time (io/transaction.py), so a kill at any moment costs one part at most.

Symbols: E embedding.  Leaves out: reading ahead (encoding takes far longer than decoding).
"""
from collections import deque
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F

from minilora.data.frames import all_frames, sampled
from minilora.data.images import clip_preprocess, normalise
from minilora.io.files import TensorFileError, digest_of, save_tensors
from minilora.io.transaction import only_one
from minilora.search.index import Entry, Index, likeness

PART_ROWS, BATCH = 4096, 32          # rows of a part; frames that are encoded together


class FrameEncoder:
    """A CLIP's features of frames.  clip: a `CLIP`, ViT or ResNet;  read: PIL -> str, or None."""

    def __init__(self, clip, read=None):
        self.clip, self.resolution, self.read = clip, clip.config.resolution, read

    @torch.no_grad()
    def pictures(self, pictures):
        """PIL pictures -> half (N, E) of length one."""
        pixels = torch.stack([clip_preprocess(p, self.resolution) for p in pictures])
        features = self.clip.encode_image(normalise(pixels).to(self.clip.logit_scale.device))
        return F.normalize(features, dim=-1).half().cpu()


def update(index, paths, encoder, say=lambda line: None):
    """Adds files, or encodes them anew where they have changed.  Returns [(path, error)].

    encoder: has `pictures`, as Encoder, and `read`, PIL -> str, if the index `reads`.

    Files that cannot be read are named and left out; what was known of them before is dropped.
    """
    failed, stills = [], Stills(index, encoder)
    with only_one(index.folder):
        (index.folder / "parts").mkdir(exist_ok=True)
        for path in paths:
            name = str(Path(path).resolve())
            try:
                if not Path(path).exists():
                    raise FileNotFoundError(f"{path} not found; give a picture or a video")
                stamp = Path(path).stat()
                known = index.entries.get(name)
                if known and (known.size, known.changed) == (stamp.st_size, stamp.st_mtime_ns):
                    continue
                entry = index_file(index, encoder, path, name, stamp, stills)
            except (OSError, ValueError) as error:
                failed.append((str(path), str(error)))
                index.entries.pop(name, None)
                say(f"--  {error}")
                continue
            if entry:
                index.entries[name] = entry
                index.write()
                say(f"{path}: {entry.rows()} frames")
        stills.flush()
        index.write()
        index.clear()
    return failed


def index_file(index, encoder, path, name, stamp, stills):
    """The Entry of a file with several frames; a single one waits among `stills`, and is None."""
    mark = digest_of(name, stamp.st_size, stamp.st_mtime_ns, index.sha256, index.sampling,
                     index.reads)
    frames = sampled(all_frames(path), **index.sampling)
    first, second = next(frames, None), next(frames, None)
    if first is None:
        raise ValueError(f"{path} holds no frame; give a picture or a video")
    if second is None:
        stills.add(name, stamp, first)
        return None
    pieces, frames = [], chain((first, second), frames)
    while piece := write_part(index, encoder, f"frames-{mark}-{len(pieces):05d}",
                              islice(frames, PART_ROWS)):
        pieces.append(piece)
    return Entry(name, stamp.st_size, stamp.st_mtime_ns, pieces)


def write_part(index, encoder, name, frames):
    """[name, 0, rows] of what the iterator `frames` gives, None if that is nothing.

    A part that an interrupted run has written is taken as it is; its frames are decoded in vain.
    """
    try:
        rows = len(index.load(name)["times"])
        deque(islice(frames, rows), maxlen=0)
        return [name, 0, rows]
    except TensorFileError:
        rows = Rows(index, encoder)
    while group := list(islice(frames, BATCH)):         # no more pictures than these in memory
        rows.add(group)
    return [name, 0, rows.save(name)] if rows.times else None


class Rows:
    """What goes into a part."""

    def __init__(self, index, encoder):
        self.index, self.encoder = index, encoder
        self.features, self.times, self.texts = [], [], []

    def add(self, frames):
        pictures = [f.picture for f in frames]
        self.features.append(self.encoder.pictures(pictures))
        self.times += [f.time for f in frames]
        if self.index.reads:
            self.texts += [self.encoder.read(p) for p in pictures]

    def save(self, name):
        """Writes the part; how many rows it has."""
        save_tensors(self.index.part(name), {
            "features": torch.cat(self.features),
            "times": torch.tensor(self.times, dtype=torch.float64),
            "texts": self.texts if self.index.reads else None})
        return len(self.times)


class Stills:
    """Single pictures: encoded together, and many share a part."""

    def __init__(self, index, encoder, size=256):
        self.index, self.encoder, self.size = index, encoder, size
        self.waiting, self.known, self.rows = [], [], Rows(index, encoder)

    def add(self, name, stamp, frame):
        self.waiting.append(frame)
        self.known.append((name, stamp))
        if len(self.waiting) == BATCH:
            self.encode()
        if len(self.known) == self.size:
            self.flush()

    def encode(self):
        if self.waiting:
            self.rows.add(self.waiting)
            self.waiting = []

    def flush(self):
        """Writes a part and says in the index where each picture's row is."""
        self.encode()
        if not self.known:
            return
        part = "stills-" + digest_of([(n, s.st_mtime_ns) for n, s in self.known], self.index.sha256)
        self.rows.save(part)
        for row, (name, stamp) in enumerate(self.known):
            self.index.entries[name] = Entry(name, stamp.st_size, stamp.st_mtime_ns,
                                             [[part, row, row + 1]])
        self.known, self.rows = [], Rows(self.index, self.encoder)
        self.index.write()


def remove_files(index, paths):
    """Takes files, or all below folders, out of the index.  Returns how many."""
    gone = [name for name in index.entries for path in map(Path, paths)
            if path.resolve() in (Path(name), *Path(name).parents)]
    with only_one(index.folder):
        for name in gone:
            index.entries.pop(name, None)
        index.write()
        index.clear()
    return len(gone)


def demo():
    """Random features of two pictures and an animation."""
    import tempfile

    from PIL import Image

    class Colours:
        def pictures(self, pictures):
            means = torch.stack([clip_preprocess(p, 8).float().mean((1, 2)) for p in pictures])
            return F.normalize(means + 1, dim=-1).half()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for name in ("red", "blue"):
            Image.new("RGB", (32, 32), name).save(folder / f"{name}.png")
        belt = [Image.new("RGB", (32, 32), (250 - 20 * k, 20 * k, 0)) for k in range(12)]
        belt[0].save(folder / "belt.gif", save_all=True, append_images=belt[1:], duration=500)
        (folder / "notes.png").write_text("no picture")
        index = Index(folder / "index", "means", "0" * 64, {"rate": 1.0, "change": 0.0})
        for path, error in update(index, sorted(folder.glob("*.*")), Colours()):
            print("left out:", Path(path).name)
        green = likeness(torch.tensor([0, 1.0, 0]))
        for path, times, values in Index.open(folder / "index").curves(green):
            best = int(values.argmax())
            print(f"{Path(path).name:9s} {len(times)} frames, greenest at {times[best]:.1f} s: "
                  f"{values[best]:.2f}")
        print("removed:", remove_files(index, [folder / "red.png"]), "left:", len(index.entries))


if __name__ == "__main__":
    demo()
