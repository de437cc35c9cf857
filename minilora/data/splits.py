"""Pictures with labels for those who need them: which may be learned from, which are judged.

Claim: a comparison of methods is fair if all of them are judged on the same pictures, and none of
them has seen one.  Here the judged ones depend on the seed alone, and not on how many labels a
method is given.

    defects   the pictures of each kind are shuffled; from the first half labels may be taken, the
              second half is judged
    good      for learning out of train/good, as many as defects; all of test/good are judged

Leaves out: validation pictures; nothing is chosen by them here.
"""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from minilora.data.mvtec import Dataset, Sample, few_shot

GOOD_KIND = "good"


@dataclass(frozen=True)
class Split:
    """Samples to learn from, samples to judge, and the names of the classes, "good" first."""
    train: list
    test: list
    kinds: tuple

    def targets(self, samples):
        """Numbers of the samples' classes, (N,)."""
        return torch.tensor([self.kinds.index(s.kind) for s in samples])

    def counts(self):
        """How many pictures of each class there are to learn from, in the order of `kinds`."""
        number = Counter(s.kind for s in self.train)
        return [number[kind] for kind in self.kinds]


def split(data, labels, seed, tail=1.0, good=None):
    """A Split of a Dataset.

    labels: of each kind of defect, a number or "all" (of the half that may be learned from);  tail:
    each further kind, in the order of their names, gets only this share of the one before, and at
    least 2;  good: good pictures to learn from; None: as many as defective ones.
    Raises ValueError for a class without kinds of defects, or for too many labels.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = sorted({s.kind for s in data.test} - {GOOD_KIND})
    if not kinds:
        raise ValueError(f"class {data.name}: expected folders of defects in {data.root}/test; "
                         "without labelled defects there is nothing to learn them from")
    train, test = [], [s for s in data.test if s.kind == GOOD_KIND]
    for number, kind in enumerate(kinds):
        samples = [s for s in data.test if s.kind == kind]
        order = torch.randperm(len(samples), generator=generator).tolist()
        half = len(samples) // 2
        test += [samples[k] for k in sorted(order[half:])]
        most = half if labels == "all" else labels
        if most > half:
            raise ValueError(f"class {data.name}: {labels} labels asked for, {half} of {kind} may "
                             "be learned from, the others are judged; ask for fewer")
        wanted = min(most, max(2, round(most * tail ** number)))
        train += [samples[k] for k in sorted(order[:wanted])]
    good = min(len(data.train), len(train) if good is None else good)
    return Split(few_shot(data.train, good, seed) + train, test, (GOOD_KIND, *kinds))


def demo():
    samples = [Sample(Path(f"{kind}/{k:02}.png"), kind, int(kind != GOOD_KIND))
               for kind, count in ((GOOD_KIND, 6), ("crack", 10), ("stain", 8)) for k in range(count)]
    good = [Sample(Path(f"train/{k:02}.png"), GOOD_KIND, 0) for k in range(30)]
    data = Dataset(Path("nut"), "nut", good, samples)
    for labels, tail, many in (("all", 1.0, None), (2, 1.0, None), ("all", 0.5, 30)):
        chosen = split(data, labels, seed=1, tail=tail, good=many)
        print(f"labels {labels}, tail {tail}: learned from",
              *(f"{k} {n}" for k, n in zip(chosen.kinds, chosen.counts())),
              f"  judged {len(chosen.test)}")
    both = [{s.path for s in part} for part in (chosen.train, chosen.test)]
    print("no picture in both:", not both[0] & both[1])


if __name__ == "__main__":
    demo()
