"""Which files are worth a look, found by faiss without comparing with every frame.

    pip install minilora[faiss]

Features are grouped around LISTS centres; a query looks into the PROBES groups nearest to it
(Jegou et al. 2011, inverted lists).  The curves of the files so found are then computed exactly, so
an event that is found has the score it would have without; what can be lost is a file.

The groups lie beside the index, in half precision, and are made again when the index has changed.
Symbols: M rows, E embedding.  Leaves out: compression below half precision.
"""
import math

import torch
import torch.nn.functional as F

from minilora.io.files import digest_of, whole_file

LISTS, PROBES, NEAREST_ROWS = 1024, 16, 200
TRAINED = 40                    # rows a centre is learned from
PLACES = 2**20                  # more rows than a part ever has


def package():
    try:
        import faiss
        return faiss
    except ImportError as error:
        raise ValueError("--fast needs faiss; pip install minilora[faiss]") from error


def path_of(index):
    return index.folder / f"groups-{digest_of(index.parts(), LISTS)}.faiss"


def build(index):
    """Writes the groups of an Index.  Returns their path."""
    faiss = package()
    names, path = index.parts(), path_of(index)
    rows_of = lambda name: index.load(name)["features"]         # one part in memory at a time
    sizes = [len(rows_of(name)) for name in names]
    count, generator = sum(sizes), torch.Generator().manual_seed(0)
    lists = max(1, min(LISTS, count // TRAINED))
    share = min(1.0, lists * TRAINED / count)
    some = torch.cat([rows_of(name)[torch.randperm(size, generator=generator)
                                    [:math.ceil(share * size)]]
                      for name, size in zip(names, sizes)]).float()
    groups = faiss.index_factory(some.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    groups.train(some.numpy())
    for number, features in enumerate(map(rows_of, names)):     # of a row: its part, then its place
        numbers = torch.arange(len(features)) + number * PLACES
        groups.add_with_ids(features.float().numpy(), numbers.numpy())
    for old in index.folder.glob("groups-*.faiss"):
        old.unlink()
    with whole_file(path) as file:
        faiss.write_index(groups, str(file.name))
    return path


def files_near(index, query, rows=NEAREST_ROWS):
    """Paths of the files that hold the `rows` frames nearest to a query (E,), as a set."""
    faiss = package()
    if not index.parts():
        return set()
    path = path_of(index)
    groups = faiss.read_index(str(path if path.is_file() else build(index)), faiss.IO_FLAG_MMAP)
    groups.nprobe = PROBES
    _, numbers = groups.search(F.normalize(query.float(), dim=-1)[None].numpy(), rows)
    names, pieces = index.parts(), {}
    for entry in index.entries.values():
        for name, first, last in entry.pieces:
            pieces.setdefault(name, []).append((first, last, entry.path))
    places = [(names[n // PLACES], n % PLACES) for n in numbers[0].tolist() if n >= 0]
    return {path for name, row in places for first, last, path in pieces[name]
            if first <= row < last}


def demo():
    """How many of a thousand rows are compared with a query."""
    try:
        faiss = package()
    except ValueError as error:
        print(error)
        return
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=generator)
    rows = centres.repeat_interleave(50, 0) + 0.9 * torch.randn(1000, 16, generator=generator)
    rows = F.normalize(rows, dim=-1).numpy()
    groups = faiss.index_factory(16, "IVF20,Flat", faiss.METRIC_INNER_PRODUCT)
    groups.train(rows)
    groups.add(rows)
    exact = set((rows @ rows[0]).argsort()[-10:].tolist())
    for probes in (1, 2, 4):
        groups.nprobe = probes
        _, found = groups.search(rows[:1], 10)
        right = len(exact & set(found[0].tolist()))
        print(f"{probes} of 20 groups: {right} of the 10 nearest rows")


if __name__ == "__main__":
    demo()
