"""Split labelled pictures into training and test pictures, to compare supervised methods.

Claim: a comparison is fair if all methods are tested on the same pictures and none is trained on
one of them.  Here the test pictures depend on the seed only, not on how many labels a method gets.

    defects   the pictures of each kind are shuffled; training pictures come from the first half,
              the second half is tested
    good      training: from train/good, by default as many as defective ones; test: all test/good

Symbols: N samples.
Left out: validation pictures; nothing is chosen with them here.
"""
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minilora.data.mvtec import GOOD_KIND, Dataset, Sample, few_shot


@dataclass(frozen=True)
class Split:
    """Training samples, test samples, and the names of the kinds, "good" first."""
    train: list[Sample]
    test: list[Sample]
    kinds: tuple[str, ...]

    def targets(self, samples: Iterable[Sample]) -> Tensor:
        """Index in `kinds` of each sample, int64 (N,)."""
        return torch.tensor([self.kinds.index(s.kind) for s in samples])

    def counts(self) -> list[int]:
        """Number of training samples of each kind, in the order of `kinds`."""
        number = Counter(s.kind for s in self.train)
        return [number[kind] for kind in self.kinds]


def split(data: Dataset, labels: int | str, seed: int, tail: float = 1.0,
          good: int | None = None) -> Split:
    """A Split of a Dataset.

    labels: training pictures of each kind of defect; "all": the whole first half.
    tail: makes a long-tailed distribution: each kind, in alphabetical order, gets this share of the
    number of the kind before it, and at least 2.
    good: number of good training pictures; None: as many as defective ones.
    Raises ValueError for a class without kinds of defects, or if the first half of a kind has fewer
    than `labels` pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = sorted({s.kind for s in data.test} - {GOOD_KIND})
    if not kinds:
        raise ValueError(f"class {data.name}: expected folders of defects in {data.root}/test, "
                         "found none; supervised training needs labelled defects")
    train, test = [], [s for s in data.test if s.kind == GOOD_KIND]
    for number, kind in enumerate(kinds):
        samples = [s for s in data.test if s.kind == kind]
        order = torch.randperm(len(samples), generator=generator).tolist()
        half = len(samples) // 2
        test += [samples[k] for k in sorted(order[half:])]
        most = half if labels == "all" else labels
        if most > half:
            raise ValueError(f"class {data.name}: {labels} labels asked for, {half} of {kind} are "
                             "for training, the others for the test; ask for fewer")
        wanted = min(most, max(2, round(most * tail ** number)))
        train += [samples[k] for k in sorted(order[:wanted])]
    good = min(len(data.train), len(train) if good is None else good)
    return Split(few_shot(data.train, good, seed) + train, test, (GOOD_KIND, *kinds))


def demo() -> None:
    """Training pictures of each kind, for three ways to split one class."""
    samples = [Sample(Path(f"{kind}/{k:02}.png"), kind, int(kind != GOOD_KIND))
               for kind, count in ((GOOD_KIND, 6), ("crack", 10), ("stain", 8))
               for k in range(count)]
    good = [Sample(Path(f"train/{k:02}.png"), GOOD_KIND, 0) for k in range(30)]
    data = Dataset(Path("nut"), "nut", good, samples)
    for labels, tail, many in (("all", 1.0, None), (2, 1.0, None), ("all", 0.5, 30)):
        chosen = split(data, labels, seed=1, tail=tail, good=many)
        print(f"labels {labels}, tail {tail}: training",
              *(f"{k} {n}" for k, n in zip(chosen.kinds, chosen.counts())),
              f"  test {len(chosen.test)}")
    both = [{s.path for s in part} for part in (chosen.train, chosen.test)]
    print("no picture in both:", not both[0] & both[1])


if __name__ == "__main__":
    demo()
