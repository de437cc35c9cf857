"""Approximate nearest-neighbour search with faiss: which files are worth an exact comparison.

    pip install ".[faiss]"

An inverted file (Jegou et al. 2011) clusters the features around centroids; each centroid has a
list of its features.  A query is compared only with the N_PROBES lists of the nearest centroids.
The similarity curves of the files found this way are then computed exactly.  An event therefore has
the same score as in an exact search; a whole file can be missed.

The parts of an index are divided into groups of at most GROUP_ROWS rows, and each group has an
inverted file of its own.  So the memory for building does not grow with the index, k-means takes
time in proportion to the rows, and a new video changes only the last group.  A query maps these
files into memory, reads only the lists that it needs, and keeps the nearest rows of all groups.

An inverted file is made at the first query and again after its parts have changed.  It is kept in
the user's cache, never in the folder of the index: faiss reads it with a C++ parser that trusts its
input, and an index may come from somebody else.  A query writes nothing beside the index.

Symbols: M rows, E embedding.
Left out: compression below half precision; a limit for the cache (it is as large as the features).
"""
import contextlib
import heapq
import math
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.io.files import atomic_write, digest_of
from minilora.io.notes import note
from minilora.io.paths import cache_folder
from minilora.io.progress import stage
from minilora.io.temporary import remove_leftovers
from minilora.search.floor import NOT_KEPT
from minilora.search.index import Index
from minilora.search.index_file import MAX_ROWS

GROUP_ROWS = 1 << 17            # of one inverted file: 135 MB for E = 512
N_LISTS, N_PROBES = 512, 64     # lists of a group, and those that are searched
NEAREST_ROWS, NEAREST_PARTS = 200, 50               # most rows and parts that decide on files
TRAINING_ROWS_PER_LIST = 40     # rows per centroid for k-means
PART_STRIDE = 2 * MAX_ROWS      # id = number of the part in its group * stride + row


def import_faiss() -> ModuleType:
    """The package faiss.  Raises ValueError if it is not installed."""
    try:
        import faiss
        return faiss
    except ImportError as error:
        raise ValueError('--fast needs faiss; in the clone: pip install ".[faiss]"') from error


def groups_of_parts(index: Index) -> list[dict[str, int]]:
    """The parts in order, as groups {name of a part: its rows in use} of at most GROUP_ROWS rows.

    A larger part is a group of its own.
    """
    rows, groups = {}, [{}]
    for entry in index.entries.values():
        for name, first, last in entry.pieces:
            rows[name] = rows.get(name, 0) + last - first
    total = 0
    for name, count in rows.items():
        if groups[-1] and total + count > GROUP_ROWS:
            groups.append({})
            total = 0
        groups[-1][name] = count
        total += count
    return groups if rows else []


def inverted_index_path(index: Index, names: Iterable[str] | None = None) -> Path | None:
    """File of the inverted lists of some parts (None: of all) in the user's cache.

    Its name changes with the content of the parts.  None for a user without a cache.
    """
    cache = cache_folder()
    parts = [(name, index.part_digest(name))
             for name in (index.part_names() if names is None else names)]
    return cache and cache / "search" / (
        f"{digest_of(str(index.folder.resolve()))}-{digest_of(parts, N_LISTS)}.faiss")


def build_inverted_index(index: Index, group: dict[str, int]) -> Any:
    """Cluster the features of a group {part: rows in use}; returns its inverted lists."""
    faiss = import_faiss()
    count, generator = sum(group.values()), torch.Generator().manual_seed(0)
    lists = max(1, min(N_LISTS, count // TRAINING_ROWS_PER_LIST))
    share = min(1.0, lists * TRAINING_ROWS_PER_LIST / count)
    sample = []
    for name, rows in group.items():                # one part in memory at a time
        features = index.load_part(name)["features"]
        chosen = torch.randperm(len(features), generator=generator)[:math.ceil(share * rows)]
        sample.append(features[chosen])
    sample = torch.cat(sample).float()
    inverted = faiss.index_factory(sample.shape[1], f"IVF{lists},SQfp16",
                                   faiss.METRIC_INNER_PRODUCT)
    inverted.train(sample.numpy())
    for number, name in enumerate(group):
        features = index.load_part(name)["features"]
        ids = torch.arange(len(features)) + number * PART_STRIDE
        inverted.add_with_ids(features.float().numpy(), ids.numpy())
    return inverted


def load_inverted_index(path: Path | None, group: dict[str, int], width: int | None) -> Any:
    """The inverted lists of a group from the cache; None without them, and for any other file.

    width: E that they must have, None: any.
    """
    faiss = import_faiss()
    with contextlib.suppress(RuntimeError, MemoryError, OSError):   # of another version, damaged
        if path is not None and path.is_file():
            found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
            if isinstance(found, faiss.IndexIVF) and width in (None, found.d) \
                    and found.ntotal >= sum(group.values()):
                return found
    return None


def open_inverted_indexes(index: Index, width: int | None = None
                          ) -> Iterator[tuple[list[str], Any]]:
    """Yield (names of the parts, inverted lists) of each group, from the cache or built now.

    Those built are stored if possible; then older ones of the same index are deleted.
    width: as for `load_inverted_index`.
    """
    groups = groups_of_parts(index)
    paths = [inverted_index_path(index, group) for group in groups]
    for group, path in stage("groups of frames", zip(groups, paths), len(groups)):
        inverted = load_inverted_index(path, group, width)
        if inverted is None:
            inverted = build_inverted_index(index, group)
            try:
                store_inverted_index(inverted, path, paths)
            except (OSError, RuntimeError):         # a full disk is a RuntimeError of faiss
                note(NOT_KEPT, path)
        yield list(group), inverted


def store_inverted_index(inverted: Any, path: Path | None, keep: Container[Path | None]) -> None:
    """Write inverted lists to the cache; those of the same index that are not in `keep` go."""
    if path is None:
        return
    with atomic_write(path) as file:
        import_faiss().write_index(inverted, str(file.name))
    remove_leftovers(path.parent)
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*.faiss"):
        if old not in keep:
            old.unlink(missing_ok=True)


def nearest_files(index: Index, query: Tensor, rows: int = NEAREST_ROWS) -> set[str]:
    """Paths of the files that contain the `rows` frames nearest to a query (E,).

    Frames of more than NEAREST_PARTS parts are not followed: reading these would take too long.
    """
    nearest, query = [], F.normalize(query.float(), dim=-1)[None]           # (1, E)
    for names, inverted in open_inverted_indexes(index, query.shape[1]):
        if inverted.d != query.shape[1]:
            raise ValueError(f"the index holds features of {inverted.d} numbers, the query has "
                             f"{query.shape[1]}; make the index again with this model")
        inverted.nprobe = N_PROBES
        similarities, ids = inverted.search(query.numpy(), rows)
        nearest = heapq.nlargest(rows, nearest + [
            (similarity, names[n // PART_STRIDE], n % PART_STRIDE)
            for similarity, n in zip(similarities[0].tolist(), ids[0].tolist())
            if 0 <= n < len(names) * PART_STRIDE])
        del inverted                                    # before the next group is opened or built
    wanted = {}
    for _, name, row in nearest:                        # the nearest first
        if name in wanted or len(wanted) < NEAREST_PARTS:
            wanted.setdefault(name, []).append(row)
    return {entry.path for entry in index.entries.values()
            for name, first, last in entry.pieces
            if any(first <= row < last for row in wanted.get(name, ()))}


def demo() -> None:
    """Recall of the 10 nearest of a thousand rows, for 1, 2 and 4 of 20 lists."""
    try:
        faiss = import_faiss()
    except ValueError as error:
        print(error)
        return
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=generator)
    rows = centres.repeat_interleave(50, 0) + 0.9 * torch.randn(1000, 16, generator=generator)
    rows = F.normalize(rows, dim=-1).numpy()
    inverted = faiss.index_factory(16, "IVF20,Flat", faiss.METRIC_INNER_PRODUCT)
    inverted.train(rows)
    inverted.add(rows)
    exact = set((rows @ rows[0]).argsort()[-10:].tolist())
    for probes in (1, 2, 4):
        inverted.nprobe = probes
        _, found = inverted.search(rows[:1], 10)
        correct = len(exact & set(found[0].tolist()))
        print(f"{probes} of 20 lists searched: {correct} of the 10 nearest rows found")


if __name__ == "__main__":
    demo()
