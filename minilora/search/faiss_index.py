"""Approximate nearest-neighbour search with faiss: which files are worth an exact comparison.

    pip install ".[faiss]"

An inverted file (Jegou et al. 2011) clusters the features around N_LISTS centroids; each centroid
has a list of its features.  A query is compared only with the N_PROBES lists of the nearest
centroids.  The similarity curves of the files found this way are then computed exactly.  An event
therefore has the same score as in an exact search; a whole file can be missed.

The inverted file is made at the first query and again after the index has changed.  It is kept in
the user's cache, never in the folder of the index: faiss reads it with a C++ parser that trusts its
input, and an index may come from somebody else.  A query writes nothing beside the index.

Symbols: M rows, E embedding.
Left out: compression below half precision; a limit for the cache (it has one file per index).
"""
import contextlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.io.files import atomic_write, digest_of
from minilora.io.paths import cache_folder
from minilora.search.index import Index
from minilora.search.index_file import MAX_ROWS

N_LISTS, N_PROBES, NEAREST_ROWS = 1024, 16, 200
TRAINING_ROWS_PER_LIST = 40     # rows per centroid for k-means
PART_STRIDE = 2 * MAX_ROWS      # id = number of the part * stride + row


def import_faiss() -> ModuleType:
    """The package faiss.  Raises ValueError if it is not installed."""
    try:
        import faiss
        return faiss
    except ImportError as error:
        raise ValueError('--fast needs faiss; in the clone: pip install ".[faiss]"') from error


def inverted_index_path(index: Index) -> Path | None:
    """File of the inverted lists in the user's cache; its name changes with the index's content.

    None for a user without a cache.
    """
    cache = cache_folder()
    parts = [(name, index.part_digest(name)) for name in index.part_names()]
    return cache and cache / "search" / (
        f"{digest_of(str(index.folder.resolve()))}-{digest_of(parts, N_LISTS)}.faiss")


def build_inverted_index(index: Index) -> Any:
    """Cluster the features of an index; returns the inverted lists and stores them if possible."""
    faiss = import_faiss()
    names = index.part_names()
    features_of = lambda name: index.load_part(name)["features"]    # one part in memory at a time
    sizes = [len(features_of(name)) for name in names]
    count, generator = sum(sizes), torch.Generator().manual_seed(0)
    lists = max(1, min(N_LISTS, count // TRAINING_ROWS_PER_LIST))
    share = min(1.0, lists * TRAINING_ROWS_PER_LIST / count)
    sample = torch.cat([features_of(name)[torch.randperm(size, generator=generator)
                                          [:math.ceil(share * size)]]
                        for name, size in zip(names, sizes)]).float()
    inverted = faiss.index_factory(sample.shape[1], f"IVF{lists},SQfp16",
                                   faiss.METRIC_INNER_PRODUCT)
    inverted.train(sample.numpy())
    for number, features in enumerate(map(features_of, names)):
        ids = torch.arange(len(features)) + number * PART_STRIDE
        inverted.add_with_ids(features.float().numpy(), ids.numpy())
    with contextlib.suppress(OSError):              # a full disk, a cache that cannot be written
        store_inverted_index(inverted, inverted_index_path(index))
    return inverted


def store_inverted_index(inverted: Any, path: Path | None) -> None:
    """Write inverted lists to the cache; older ones of the same index are deleted."""
    if path is None:
        return
    with atomic_write(path) as file:
        import_faiss().write_index(inverted, str(file.name))
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*.faiss"):
        if old != path:
            old.unlink(missing_ok=True)


def open_inverted_index(index: Index) -> Any:
    """The inverted lists of an index, from the cache or built now."""
    faiss, path = import_faiss(), inverted_index_path(index)
    if path is not None and path.is_file():
        with contextlib.suppress(RuntimeError):     # of another version of faiss, or damaged
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    return build_inverted_index(index)


def nearest_files(index: Index, query: Tensor, rows: int = NEAREST_ROWS) -> set[str]:
    """Paths of the files that contain the `rows` frames nearest to a query (E,)."""
    import_faiss()
    if not index.part_names():
        return set()
    inverted = open_inverted_index(index)
    if inverted.d != len(query):
        raise ValueError(f"the index holds features of {inverted.d} numbers, the query has "
                         f"{len(query)}; make the index again with this model")
    inverted.nprobe = N_PROBES
    _, ids = inverted.search(F.normalize(query.float(), dim=-1)[None].numpy(), rows)
    names, pieces = index.part_names(), {}
    for entry in index.entries.values():
        for name, first, last in entry.pieces:
            pieces.setdefault(name, []).append((first, last, entry.path))
    nearest = [(names[n // PART_STRIDE], n % PART_STRIDE) for n in ids[0].tolist() if n >= 0]
    return {path for name, row in nearest for first, last, path in pieces[name]
            if first <= row < last}


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
