"""What the embedded model can do before any adaptation: four measures on unseen pictures.

    python -m bench.eye --data FOLDER --photos FOLDER
    python -m bench.eye --data FOLDER --compare 12 13 23 24 34 --name eye-states

    memory   plain memory of the patches of good pictures, no refinement (pretrain/held_out.py)
    text     hand-written prompts, no picture of the product: the detector's row zero-shot
    names    zero-shot classification of photographs, centre crop of every tenth photograph
    search   among 50 of these: does "a photo of a sunflower" find a sunflower first?

Hidden state n enters block n of the image tower; blocks are counted from 0.

Left out: everything that is trained on a product (accuracy.py).
"""
import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from bench.accuracy import spread
from bench.tables import write
from minilora.auroc import auroc
from minilora.bpe import default_tokenizer
from minilora.checkpoint.published import Weights
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.data.decoding import open_image
from minilora.data.images import clip_preprocess, load_squares
from minilora.data.mvtec import Sample, few_shot, list_classes, load_class
from minilora.detector import Detector
from minilora.pretrain.held_out import encode_pictures, plain_memory, predicted_class, zero_shot
from minilora.pretrain.photographs import find_photographs, is_held_out


def auroc_of(scores: Tensor, samples: list[Sample]) -> list[float]:
    """Image AUROC of all test pictures, of the even-numbered and of the odd-numbered ones."""
    labels = torch.tensor([s.label for s in samples])
    return [auroc(scores[k::step], labels[k::step]) for k, step in ((0, 1), (0, 2), (1, 2))]


def memory_rows(clip: CLIP, root: Path, states: list[int], seeds: list[int],
                shots: int) -> dict[str, list]:
    """{class: [(all, even, odd) of each seed]} of the plain memory of some hidden states."""
    found = {}
    for name in list_classes(root):
        data = load_class(root, name)
        test = load_squares([s.path for s in data.test], 224)
        for seed in seeds:
            good = load_squares([s.path for s in few_shot(data.train, shots, seed)], 224)
            with torch.no_grad():
                scores = plain_memory(clip.visual, good, test, states)
            found.setdefault(name, []).append(auroc_of(scores, data.test))
    return found


def compare(clip: CLIP, options: argparse.Namespace) -> tuple[list, tuple]:
    """(tables, CSV) of the plain memory for sets of hidden states, on even-numbered pictures."""
    lines, numbers = [], []
    for pair in options.compare:
        states = [int(digit) for digit in pair]
        found = memory_rows(clip, options.data, states, options.seeds, options.shots)
        values = {name: [seed[1] for seed in seeds] for name, seeds in found.items()}
        mean = [sum(column) / len(column) for column in zip(*values.values())]
        lines.append([" and ".join(pair), *map(spread, values.values()), spread(mean)])
        numbers += [(pair, name, seed, f"{value:.6f}") for name, own in values.items()
                    for seed, value in zip(options.seeds, own)]
        print(*lines[-1], flush=True)
    header = ["states", *values, "mean"]
    return ([("image AUROC on even-numbered pictures, per cent", header, lines)],
            (("states", "class", "seed", "value"), numbers))


def text_rows(model: str | None, root: Path) -> dict[str, list]:
    """{class: [(all, even, odd)]} of hand-written prompts."""
    found = {}
    for name in list_classes(root):
        data = load_class(root, name)
        detector = Detector(load_clip(model)[0], name)
        test = load_squares([s.path for s in data.test], 224)
        scores = torch.cat([detector.rows(part)["zero-shot"][1] for part in test.split(16)])
        found[name] = [auroc_of(scores, data.test)]
    return found


@torch.no_grad()
def photographs_of(clip: CLIP, photos: str,
                   count: int | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """(features (N, E), kinds (N,), class names) of every tenth photograph whose kind is known.

    count: only this many of them, evenly spaced.
    """
    found, class_names = find_photographs(photos)
    chosen = [(path, kind) for k, (path, kind) in enumerate(found) if is_held_out(k) and kind >= 0]
    if count:
        chosen = [chosen[k] for k in torch.linspace(0, len(chosen) - 1, count).long().tolist()]
    pictures = torch.stack([clip_preprocess(open_image(path)) for path, _ in chosen])
    kinds = torch.tensor([kind for _, kind in chosen])
    return encode_pictures(clip, pictures, "cpu"), kinds, class_names


def names_row(image: Tensor, kinds: Tensor, class_names: list[str],
              clip: CLIP) -> tuple[float, float]:
    """(accuracy over all pictures, mean of the accuracies of the kinds)."""
    right = (predicted_class(clip, default_tokenizer(), image, class_names) == kinds).float()
    each = [right[kinds == kind].mean() for kind in kinds.unique()]
    return right.mean().item(), torch.stack(each).mean().item()


def search_row(image: Tensor, kinds: Tensor, class_names: list[str],
               clip: CLIP) -> tuple[float, int, float]:
    """Does the name of a kind find a picture of it first?  (share of kinds, kinds, chance)."""
    present = kinds.unique()
    values = zero_shot(clip, default_tokenizer(), image,
                       [f"a photo of a {class_names[kind]}" for kind in present.tolist()])
    first = kinds[values.argmax(0)]
    chance = torch.stack([(kinds == kind).float().mean() for kind in present]).mean()
    return (first == present).float().mean().item(), len(present), chance.item()


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.eye", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="folder in MVTec AD's layout")
    p.add_argument("--photos", help="folder of photographs as in pretraining")
    p.add_argument("--model", help="official name or checkpoint file; else the embedded mini-clip")
    p.add_argument("--states", "--blocks", type=int, nargs="+", default=[2, 3],
                   help="hidden states of the plain memory; state n enters block n")
    p.add_argument("--compare", nargs="+", metavar="STATES",
                   help="only the plain memory, for each of these sets: 13 is states 1 and 3")
    p.add_argument("--shots", type=int, default=8)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--out", type=Path, default=Path("bench/results"))
    p.add_argument("--name", default="eye")
    return p


def head_of(weights: Weights, options: argparse.Namespace, what: str) -> list[str]:
    return [f"{options.shots} shots, seeds {' '.join(map(str, options.seeds))}, 224 px; {what}; "
            f"weights {weights.name} (sha256 {weights.sha256[:12]}…); torch {torch.__version__}; "
            f"{time.strftime('%Y-%m-%d')}"]


def measure(clip: CLIP, options: argparse.Namespace) -> tuple[list, tuple]:
    """(tables, CSV) of all four measures."""
    memory = memory_rows(clip, options.data, options.states, options.seeds, options.shots)
    text = text_rows(options.model, options.data)
    lines, numbers = [], []
    for row, found in (("plain memory", memory), ("text alone", text)):
        for k, part in enumerate(("all pictures", "even-numbered", "odd-numbered")):
            values = {name: [seed[k] for seed in seeds] for name, seeds in found.items()}
            mean = [sum(column) / len(column) for column in zip(*values.values())]
            lines.append([row, part, *map(spread, values.values()), spread(mean)])
            numbers += [(row, part, name, seed, f"{value:.6f}") for name, own in values.items()
                        for seed, value in zip(options.seeds, own)]
    made = [("image AUROC, per cent", ["row", "pictures", *memory, "mean"], lines)]
    if options.photos:
        image, kinds, class_names = photographs_of(clip, options.photos)
        accuracy, each = names_row(image, kinds, class_names, clip)
        first, present, chance = search_row(*photographs_of(clip, options.photos, 50), clip)
        found = (("zero-shot over names, of pictures",
                  f"{len(kinds)} pictures, {len(class_names)} names",
                  accuracy, 1 / len(class_names)),
                 ("zero-shot over names, mean over kinds", "the same", each, 1 / len(class_names)),
                 ("a name finds its kind first", f"50 pictures, {present} kinds", first, chance))
        rows = [[what, on, f"{100 * value:.1f}", f"{100 * blind:.1f}"]
                for what, on, value, blind in found]
        made.append(("photographs held out, per cent", ["measure", "on", "right", "chance"], rows))
        numbers += [(row[0], row[1], "", "", row[2]) for row in rows]
    return made, (("row", "pictures", "class", "seed", "value"), numbers)


def main() -> None:
    options = parser().parse_args()
    clip, weights = load_clip(options.model)
    if options.compare:
        (made, numbers), what = compare(clip, options), "plain memory"
    else:
        made, numbers = measure(clip, options)
        what = f"plain memory of hidden states {' and '.join(map(str, options.states))}"
    write(options.out, options.name, made, head_of(weights, options, what), numbers)


if __name__ == "__main__":
    main()
