"""Features of many frames on disk, compared with a query by a matrix product.

    index.json      which model, which files, and where the rows of each lie
    parts/*.pt      rows of features in half precision, their times, and if it is asked for the text
                    that was read in each (search/ocr.py); at most PART rows a file

Symbols: M rows, E embedding.  Leaves out: how rows come in (search/indexing.py), approximate search
(search/faiss_index.py), several models in one index.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from minilora.io.files import TensorFileError, load_tensors, save_tensors, write_json

INDEX_VERSION = 2


@dataclass
class Entry:
    """One file of the index.  pieces: [[name of a part, first row, last row + 1], ...]."""
    path: str
    size: int
    changed: int                # time of the last change, nanoseconds
    pieces: list

    def rows(self):
        return sum(last - first for _, first, last in self.pieces)


def entry_of(kept):
    """An Entry from index.json.  Raises ValueError if it could not have been written here."""
    entry = Entry(**kept)
    for name, first, last in entry.pieces:
        if not (type(name) is str and name.replace("-", "").isalnum() and type(first) is int
                and type(last) is int and 0 <= first < last):
            raise ValueError(f"piece {[name, first, last]} of {entry.path}")
    if type(entry.path) is not str:
        raise ValueError(f"path {entry.path}")
    return entry


class Index:
    """A folder of features.  sampling: {"rate", "change"} of `frames.sampled`, the same for all.

    reads: whether text in the frames is kept as well.
    """

    def __init__(self, folder, model, sha256, sampling, reads=False):
        self.folder, self.model, self.sha256 = Path(folder), model, sha256
        self.sampling, self.reads, self.entries = dict(sampling), bool(reads), {}

    @classmethod
    def open(cls, folder):
        """The index in a folder.  Raises ValueError if there is none, or it is damaged."""
        path = Path(folder) / "index.json"
        try:
            kept = json.loads(path.read_text("utf-8"))
            if kept["version"] != INDEX_VERSION:
                raise ValueError(f"format {kept['version']}, expected {INDEX_VERSION}")
            index = cls(folder, kept["model"], kept["sha256"], kept["sampling"], kept["reads"])
            index.entries = {e["path"]: entry_of(e) for e in kept["files"]}
        except FileNotFoundError as error:
            raise ValueError(f"{folder} holds no index; make one with python -m minilora.search "
                             f"index PATHS --out {folder}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is no index of minilora ({type(error).__name__}: {error}); "
                             "make it again") from error
        return index

    def write(self):
        write_json(self.folder / "index.json", {
            "version": INDEX_VERSION, "model": self.model, "sha256": self.sha256,
            "sampling": self.sampling, "reads": self.reads,
            "files": [vars(e) for e in self.entries.values()]})

    def part(self, name):
        return self.folder / "parts" / f"{name}.pt"

    def load(self, name):
        """{"features": half (M, E), "times": (M,), "texts": [str] or None} of a part.

        Raises TensorFileError if the file is missing or no part of an index.
        """
        path = self.part(name)
        kept = load_tensors(path)
        features, times, texts = (kept.get(k) for k in ("features", "times", "texts"))
        if not (isinstance(features, torch.Tensor) and isinstance(times, torch.Tensor)
                and features.ndim == 2 and times.shape == features.shape[:1]
                and features.is_floating_point() and times.dtype == torch.float64
                and (texts is None or type(texts) is list and len(texts) == len(times))):
            raise TensorFileError(f"{path}: expected features (M, E) and times (M,), found "
                                  f"{', '.join(map(str, kept))}; delete it and index again")
        return {"features": features, "times": times, "texts": texts}

    def parts(self):
        """Names of all parts in use, in order, each once."""
        return list(dict.fromkeys(piece[0] for e in self.entries.values() for piece in e.pieces))

    def clear(self):
        """Removes parts that no file refers to."""
        used = {*self.parts()}
        for path in (self.folder / "parts").glob("*.pt"):
            if path.stem not in used:
                path.unlink()

    def curves(self, value_of, files=None):
        """Yields (path, times (T,), values (T,)) of every file, or of some.

        value_of: what to make of a part (see `load`), (M,) of it; `likeness` and `reading` give it.
        """
        kept = {}
        for entry in self.entries.values():
            if files is not None and entry.path not in files:
                continue
            times, values = [], []
            for name, first, last in entry.pieces:
                if name not in kept:                    # one part at a time, used by many stills
                    part = self.load(name)
                    kept = {name: (part["times"], value_of(part))}
                times.append(kept[name][0][first:last])
                values.append(kept[name][1][first:last])
            if values:
                yield entry.path, torch.cat(times), torch.cat(values)


def likeness(query):
    """For `Index.curves`: cosine of every row with a query (E,).  Raises ValueError for other E."""
    query = F.normalize(query.float(), dim=-1)

    def value_of(part):
        if part["features"].shape[1] != len(query):
            raise ValueError(f"the index holds features of {part['features'].shape[1]} numbers, "
                             f"the query has {len(query)}; make the index again with this model")
        return part["features"].float() @ query
    return value_of


def reading(text):
    """For `Index.curves`: 1 where a text was read, else 0; letters and digits alone count."""
    wanted = letters(text)
    if not wanted:
        raise ValueError(f"{text!r} has neither letter nor digit; give what is to be read")
    return lambda part: torch.tensor([float(wanted in letters(t)) for t in
                                      part["texts"] or [""] * len(part["times"])])


def letters(text):
    """Without spaces, signs and case: readers lose them."""
    return "".join(c for c in text.casefold() if c.isalnum())


def demo():
    """Three rows of one video."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        index = Index(folder, "made up", "0" * 64, {"rate": 1.0, "change": 0.0}, reads=True)
        save_tensors(index.part("frames-0"), {
            "features": F.normalize(torch.tensor([[3.0, 4], [4, 3], [0, 1]]), dim=-1).half(),
            "times": torch.arange(3, dtype=torch.float64), "texts": ["", "SN 4821", ""]})
        index.entries["belt.mp4"] = Entry("belt.mp4", 1, 1, [["frames-0", 0, 3]])
        index.write()
        for words, value_of in (("like (1, 0)", likeness(torch.tensor([1.0, 0]))),
                                ('reads "sn4821"', reading("sn4821"))):
            (path, times, values), = Index.open(folder).curves(value_of)
            print(f"{path} {words:15s}", "  ".join(
                f"{t:.0f} s: {v:.2f}" for t, v in zip(times.tolist(), values.tolist())))


if __name__ == "__main__":
    demo()
