"""The search index: features of many frames on disk, compared with a query by a matrix product.

    index.json              the model, the files, and where the rows of each file are
    parts/*.safetensors     rows of features in half precision and their times; with --ocr also the
                            text that was read in each frame (search/ocr.py)

Claim: a query never fails because another process indexes files.  index.json is replaced in one
step, a part never changes, and it is deleted only after an index.json without it is in place.  A
query that misses a deleted part reads the new index.json and starts again (`with_index`).

Symbols: M rows of a part, T moments of a file, E embedding.
Left out: how rows are written (search/indexing.py), index.json (search/index_file.py), approximate
search (search/faiss_index.py), several models in one index.
"""
import os
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.checkpoint.base_model import BaseModel
from minilora.io.files import (TensorFileError, check_file_size, load_tensors, save_tensors,
                               sha256_of)
from minilora.io.progress import stage
from minilora.io.regular_file import kind_of
from minilora.io.schema import ListOf, Nothing, OneOf, Record, SchemaError, TensorOf, Text, check
from minilora.io.text import shown
from minilora.search.index_file import (MAX_ROWS, PART_SUFFIX, PARTS_FOLDER, Entry, identity_of,
                                        read_index_file, write_index_file)

MAX_TIME = 1e9                          # seconds
MAX_PART_BYTES = 1 << 28                # 4,096 rows of a ViT-L/14 have 6 MB
QUERY_ATTEMPTS = 10                     # while other processes replace index.json


class Index:
    """A folder of features.

    base: the model that made them;
    sampling: keyword arguments "rate" and "change" of `sample_frames`, the same for all files, and
    "bits" of `all_frames` unless all 16 are in use;
    ocr: True if the text in the frames is stored as well.
    """

    def __init__(self, folder: str | Path, base: BaseModel, sampling: dict[str, float],
                 ocr: bool = False) -> None:
        self.folder, self.base = Path(folder), base
        self.sampling, self.ocr = {k: float(v) for k, v in sampling.items()}, bool(ocr)
        self.entries: dict[str, Entry] = {}
        self.parts: dict[str, str] = {}             # {name of a part: SHA-256 of its file}
        self.unfinished: dict[str, float] = {}      # runs whose parts may be missing in `parts`
        self.identity, self.width = None, None      # of the index.json that was read; E

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """The index in a folder.  Raises ValueError if there is none or it is damaged."""
        identity = identity_of(Path(folder))
        saved = read_index_file(Path(folder))
        index = cls(folder, saved["base"], saved["sampling"], saved["reads"])
        index.entries, index.parts = saved["files"], saved["parts"]
        index.unfinished, index.identity = saved["unfinished"], identity
        return index

    @property
    def bits(self) -> int:
        """How many bits of 16-bit grey pictures are in use; 0: all 16."""
        return int(self.sampling.get("bits", 0))

    def is_outdated(self) -> bool:
        """Whether index.json has been replaced since it was read."""
        return identity_of(self.folder) != self.identity

    def refresh(self) -> None:
        """Take over files and parts of the index.json on disk, if another process replaced it.

        Raises ValueError if that one was made with another model or other options.
        """
        if not self.is_outdated():
            return
        found = Index.open(self.folder)
        mine, theirs = ({"sha256": i.base.sha256[:12], "activation": i.base.activation,
                         **i.sampling, "ocr": i.ocr} for i in (self, found))
        if mine != theirs:
            raise ValueError(f"{shown(self.folder)} was made with {theirs}, expected {mine}; give "
                             "the same model and options, or another --out")
        self.entries, self.parts, self.unfinished, self.identity = (
            found.entries, found.parts, found.unfinished, found.identity)

    def write(self) -> None:
        """Write index.json."""
        for name in self.part_names():
            self.part_digest(name)
        write_index_file(self.folder, {
            "base": self.base, "sampling": self.sampling, "reads": self.ocr,
            "files": self.entries, "parts": self.parts, "unfinished": self.unfinished})
        self.identity = identity_of(self.folder)

    def part_path(self, name: str) -> Path:
        """File of the part `name`."""
        return self.folder / PARTS_FOLDER / f"{name}{PART_SUFFIX}"

    def part_digest(self, name: str) -> str:
        """SHA-256 of the file of a part."""
        if name not in self.parts:
            self.parts[name] = sha256_of(self.part_path(name))
        return self.parts[name]

    def load_part(self, name: str) -> dict[str, Any]:
        """A part: {"features": half (M, E), "times": (M,), "texts": [str] or None}.

        Raises TensorFileError if the file is missing or is not a part of this index.
        """
        path = self.part_path(name)
        if os.path.lexists(path):
            if kind := kind_of(os.lstat(path).st_mode):
                raise TensorFileError(f"{shown(path)} is {kind}, not written by minilora; make the "
                                      "index again in another folder")
            check_file_size(path, MAX_PART_BYTES)
        content = {"texts": None, **load_tensors(path)}
        rows = len(content["times"]) if isinstance(content.get("times"), Tensor) \
            and content["times"].ndim else 0
        schema = Record({
            "features": TensorOf(((1, MAX_ROWS), self.width), torch.float16),
            "times": TensorOf((None,), torch.float64, largest=MAX_TIME),
            "texts": OneOf(Nothing(), ListOf(Text(10**6), rows, rows))})
        try:
            content = check(content, schema, shown(path))
            if len(content["features"]) != rows:
                raise SchemaError(f"{shown(path)}: expected as many features as times, found "
                                  f"{len(content['features'])} and {rows}")
        except SchemaError as error:
            raise TensorFileError(f"{error}; make the index again in another folder") from error
        self.width = content["features"].shape[1]
        return content

    def check_rows(self, name: str, found: int, expected: int) -> None:
        """Raise ValueError if a part with `found` rows has fewer than index.json says."""
        if expected > found:
            raise ValueError(f"{shown(self.part_path(name))} has {found} rows, index.json expects "
                             f"{expected}; make the index again")

    def part_names(self) -> list[str]:
        """Names of all parts in use, in order, without duplicates."""
        return list(dict.fromkeys(piece[0] for e in self.entries.values() for piece in e.pieces))

    def curves(self, score_part: Callable[[dict], Tensor], files: Container[str] | None = None
               ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the curve of each file: (path, times (T,), values (T,)).

        score_part: from a part (see `load_part`) to one value per row (M,), or K of them (M, K),
        as returned by `similarity_to`, `products_with` and `contains_text`;  files: only these
        paths, None: all.
        """
        wanted = [e for e in self.entries.values() if files is None or e.path in files]
        names = dict.fromkeys(name for e in wanted for name, _, _ in e.pieces)
        cache, progress = {}, stage("parts of the index", names, len(names))
        for entry in wanted:
            times, values = [], []
            for name, first, last in entry.pieces:
                if name not in cache:       # holds one part, which many still images may share
                    next(progress, None)
                    part = self.load_part(name)
                    cache = {name: (part["times"], score_part(part))}
                self.check_rows(name, len(cache[name][0]), last)
                times.append(cache[name][0][first:last])
                values.append(cache[name][1][first:last])
            if values:
                times = torch.cat(times)
                if (times.diff() < 0).any():
                    raise ValueError(f"{shown(self.folder)}: the times of {shown(entry.path)} do "
                                     "not ascend; make the index again in another folder")
                yield entry.path, times, torch.cat(values)
        next(progress, None)            # the line ends


def with_index(index: Index, work: Callable[[Index], Any]) -> Any:
    """`work(index)`; repeated with the new index.json if it fails because that was replaced."""
    for _ in range(QUERY_ATTEMPTS - 1):
        try:
            return work(index)
        except (ValueError, OSError):       # a part that the new index.json does not need is gone
            if not index.is_outdated():
                raise
        found = Index.open(index.folder)
        if found.base != index.base:        # the features of the query are of the other model
            raise ValueError(f"{shown(index.folder)} was replaced by an index of another model "
                             "during the query; run the same command again")
        index = found
    return work(index)


def similarity_to(query: Tensor) -> Callable[[dict], Tensor]:
    """For `Index.curves`: cosine similarity of every row with a query (E,).

    The returned function raises ValueError if the rows have another E.
    """
    return products_with(F.normalize(query.float(), dim=-1))


def products_with(vectors: Tensor) -> Callable[[dict], Tensor]:
    """For `Index.curves`: scalar products of every row with one vector (E,) or with K, (E, K).

    The returned function raises ValueError if the rows have another E.
    """
    def score_part(part):
        if part["features"].shape[1] != len(vectors):
            raise ValueError(f"the index holds features of {part['features'].shape[1]} numbers, "
                             f"the query has {len(vectors)}; make the index again with this model")
        return part["features"].float() @ vectors
    return score_part


def contains_text(text: str) -> Callable[[dict], Tensor]:
    """For `Index.curves`: 1 for a frame that contains the text, else 0.

    Only letters and digits are compared.  Raises ValueError if the text has none.
    """
    wanted = letters_and_digits(text)
    if not wanted:
        raise ValueError(f"'{shown(text)}' has neither letter nor digit; give the text to search "
                         "for")
    return lambda part: torch.tensor([float(wanted in letters_and_digits(t)) for t in
                                      part["texts"] or [""] * len(part["times"])])


def letters_and_digits(text: str) -> str:
    """The text in lower case without spaces and signs, which OCR often misses."""
    return "".join(c for c in text.casefold() if c.isalnum())


def demo() -> None:
    """Three rows of one video, scored by a feature and by a text."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        index = Index(folder, BaseModel("made up", "0" * 64), {"rate": 1.0, "change": 0.0},
                      ocr=True)
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
