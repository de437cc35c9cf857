"""Approximate nearest-neighbour search with faiss: which files are worth an exact comparison.

    pip install minilora[faiss]

An inverted file (Jegou et al. 2011) clusters the features around N_LISTS centroids; each centroid
has a list of its features.  A query is compared only with the N_PROBES lists of the nearest
centroids.  The similarity curves of the files found this way are then computed exactly.  An event
therefore has the same score as in an exact search; a whole file can be missed.

The inverted file is stored next to the index in half precision and is rebuilt after the index has
changed.
Symbols: M rows, E embedding.  Left out: compression below half precision.
"""
import math
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.io.files import atomic_write, digest_of
from minilora.search.index import Index

N_LISTS, N_PROBES, NEAREST_ROWS = 1024, 16, 200
TRAINING_ROWS_PER_LIST = 40     # rows per centroid for k-means
PART_STRIDE = 2**20             # more than the rows of any part: id = part number * stride + row


def import_faiss() -> ModuleType:
    """The package faiss.  Raises ValueError if it is not installed."""
    try:
        import faiss
        return faiss
    except ImportError as error:
        raise ValueError("--fast needs faiss; pip install minilora[faiss]") from error


def inverted_index_path(index: Index) -> Path:
    """File of the inverted lists; its name changes with the parts of the index."""
    return index.folder / f"groups-{digest_of(index.part_names(), N_LISTS)}.faiss"


def build_inverted_index(index: Index) -> Path:
    """Cluster the features of an index, write the inverted lists and return their path."""
    faiss = import_faiss()
    names, path = index.part_names(), inverted_index_path(index)
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
    for old in index.folder.glob("groups-*.faiss"):
        old.unlink()
    with atomic_write(path) as file:
        faiss.write_index(inverted, str(file.name))
    return path


def nearest_files(index: Index, query: Tensor, rows: int = NEAREST_ROWS) -> set[str]:
    """Paths of the files that contain the `rows` frames nearest to a query (E,)."""
    faiss = import_faiss()
    if not index.part_names():
        return set()
    path = inverted_index_path(index)
    inverted = faiss.read_index(str(path if path.is_file() else build_inverted_index(index)),
                                faiss.IO_FLAG_MMAP)
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
