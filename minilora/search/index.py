"""The search index: features of many frames on disk, compared with a query by a matrix product.

    index.json      the model, the files, and where the rows of each file are
    parts/*.pt      rows of features in half precision and their times; with --ocr also the text
                    that was read in each frame (search/ocr.py); a part has a limited size

Symbols: M rows of a part, T moments of a file, E embedding.
Left out: how rows are written (search/indexing.py), approximate search (search/faiss_index.py),
several models in one index.
"""
import json
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.io.files import TensorFileError, load_tensors, save_tensors, write_json

INDEX_VERSION = 2


@dataclass
class Entry:
    """One file of the index; the attributes are the keys in index.json."""
    path: str
    size: int                   # bytes
    changed: int                # time of the last change, nanoseconds
    pieces: list                # [[name of a part, first row, last row + 1], ...]

    def rows(self) -> int:
        """Number of frames."""
        return sum(last - first for _, first, last in self.pieces)


def entry_from_json(content: dict[str, Any]) -> Entry:
    """An Entry from index.json.  Raises ValueError for values that an index cannot contain."""
    entry = Entry(**content)
    for name, first, last in entry.pieces:
        if not (type(name) is str and name.replace("-", "").isalnum() and type(first) is int
                and type(last) is int and 0 <= first < last):
            raise ValueError(f"piece {[name, first, last]} of {entry.path}")
    if type(entry.path) is not str:
        raise ValueError(f"path {entry.path}")
    return entry


class Index:
    """A folder of features.

    sampling: keyword arguments {"rate", "change"} of `sample_frames`, the same for all files;
    ocr: True if the text in the frames is stored as well.
    """

    def __init__(self, folder: str | Path, model: str, sha256: str, sampling: dict[str, float],
                 ocr: bool = False) -> None:
        self.folder, self.model, self.sha256 = Path(folder), model, sha256
        self.sampling, self.ocr = dict(sampling), bool(ocr)
        self.entries: dict[str, Entry] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """The index in a folder.  Raises ValueError if there is none or it is damaged."""
        path = Path(folder) / "index.json"
        try:
            saved = json.loads(path.read_text("utf-8"))
            if saved["version"] != INDEX_VERSION:
                raise ValueError(f"format {saved['version']}, expected {INDEX_VERSION}")
            index = cls(folder, saved["model"], saved["sha256"], saved["sampling"], saved["reads"])
            index.entries = {e["path"]: entry_from_json(e) for e in saved["files"]}
        except FileNotFoundError as error:
            raise ValueError(f"{folder} holds no index; make one with python -m minilora.search "
                             f"index PATHS --out {folder}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is no index of minilora ({type(error).__name__}: {error}); "
                             "make it again") from error
        return index

    def write(self) -> None:
        """Write index.json."""
        write_json(self.folder / "index.json", {
            "version": INDEX_VERSION, "model": self.model, "sha256": self.sha256,
            "sampling": self.sampling, "reads": self.ocr,
            "files": [vars(e) for e in self.entries.values()]})

    def part_path(self, name: str) -> Path:
        """File of the part `name`."""
        return self.folder / "parts" / f"{name}.pt"

    def load_part(self, name: str) -> dict[str, Any]:
        """A part: {"features": half (M, E), "times": (M,), "texts": [str] or None}.

        Raises TensorFileError if the file is missing or is not a part of an index.
        """
        path = self.part_path(name)
        content = load_tensors(path)
        features, times, texts = (content.get(k) for k in ("features", "times", "texts"))
        if not (isinstance(features, Tensor) and isinstance(times, Tensor)
                and features.ndim == 2 and times.shape == features.shape[:1]
                and features.is_floating_point() and times.dtype == torch.float64
                and (texts is None or type(texts) is list and len(texts) == len(times))):
            raise TensorFileError(f"{path}: expected features (M, E) and times (M,), found "
                                  f"{', '.join(map(str, content))}; delete it and index again")
        return {"features": features, "times": times, "texts": texts}

    def part_names(self) -> list[str]:
        """Names of all parts in use, in order, without duplicates."""
        return list(dict.fromkeys(piece[0] for e in self.entries.values() for piece in e.pieces))

    def remove_unused_parts(self) -> None:
        """Delete the parts that no entry refers to."""
        used = {*self.part_names()}
        for path in (self.folder / "parts").glob("*.pt"):
            if path.stem not in used:
                path.unlink()

    def curves(self, score_part: Callable[[dict], Tensor], files: Container[str] | None = None
               ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the curve of each file: (path, times (T,), values (T,)).

        score_part: from a part (see `load_part`) to one value per row (M,), as returned by
        `similarity_to` and `contains_text`;  files: only these paths, None: all.
        """
        cache = {}
        for entry in self.entries.values():
            if files is not None and entry.path not in files:
                continue
            times, values = [], []
            for name, first, last in entry.pieces:
                if name not in cache:       # holds one part, which many still images may share
                    part = self.load_part(name)
                    cache = {name: (part["times"], score_part(part))}
                times.append(cache[name][0][first:last])
                values.append(cache[name][1][first:last])
            if values:
                yield entry.path, torch.cat(times), torch.cat(values)


def similarity_to(query: Tensor) -> Callable[[dict], Tensor]:
    """For `Index.curves`: cosine similarity of every row with a query (E,).

    The returned function raises ValueError if the rows have another E.
    """
    query = F.normalize(query.float(), dim=-1)

    def score_part(part):
        if part["features"].shape[1] != len(query):
            raise ValueError(f"the index holds features of {part['features'].shape[1]} numbers, "
                             f"the query has {len(query)}; make the index again with this model")
        return part["features"].float() @ query
    return score_part


def contains_text(text: str) -> Callable[[dict], Tensor]:
    """For `Index.curves`: 1 for a frame that contains the text, else 0.

    Only letters and digits are compared.  Raises ValueError if the text has none.
    """
    wanted = letters_and_digits(text)
    if not wanted:
        raise ValueError(f"{text!r} has neither letter nor digit; give the text to search for")
    return lambda part: torch.tensor([float(wanted in letters_and_digits(t)) for t in
                                      part["texts"] or [""] * len(part["times"])])


def letters_and_digits(text: str) -> str:
    """The text in lower case without spaces and signs, which OCR often misses."""
    return "".join(c for c in text.casefold() if c.isalnum())


def demo() -> None:
    """Three rows of one video, scored by a feature and by a text."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        index = Index(folder, "made up", "0" * 64, {"rate": 1.0, "change": 0.0}, ocr=True)
        save_tensors(index.part_path("frames-0"), {
            "features": F.normalize(torch.tensor([[3.0, 4], [4, 3], [0, 1]]), dim=-1).half(),
            "times": torch.arange(3, dtype=torch.float64), "texts": ["", "SN 4821", ""]})
        index.entries["belt.mp4"] = Entry("belt.mp4", 1, 1, [["frames-0", 0, 3]])
        index.write()
        for name, score_part in (("similar to (1, 0)", similarity_to(torch.tensor([1.0, 0]))),
                                 ('contains "sn4821"', contains_text("sn4821"))):
            (path, times, values), = Index.open(folder).curves(score_part)
            print(f"{path} {name}", "  ".join(
                f"{t:.0f} s: {v:.2f}" for t, v in zip(times.tolist(), values.tolist())))


if __name__ == "__main__":
    demo()
