"""What the embedded model sees, before any adaptation: four measures on pictures it never saw.

    python -m bench.eye --data FOLDER --photos FOLDER
    python -m bench.eye --data FOLDER --compare 12 13 23 24 34 --name eye-states

    memory   a plain memory of patches (minilora/pretrain/held_out.py), good pictures alone, no refinement
    text     hand-written prompts, no picture of the product: the detector's row zero-shot
    names    zero-shot over the kinds of photographs, on the middle of every tenth photograph
    search   a folder of 50 of these: does "a photo of a sunflower" find a sunflower first?

Leaves out: everything that is trained on a product (accuracy.py).
"""
import argparse
import time
from pathlib import Path

import torch

from bench.accuracy import spread
from bench.tables import write
from minilora.auroc import auroc
from minilora.bpe import default_tokenizer
from minilora.checkpoint.weights import load_clip
from minilora.data.images import clip_preprocess, load_squares, open_image
from minilora.data.mvtec import few_shot, list_classes, load_class
from minilora.detector import Detector
from minilora.pretrain.held_out import encode_pictures, named, plain_memory, zero_shot
from minilora.pretrain.photographs import find_photographs, is_held_out


def auroc_of(scores, samples):
    """Image AUROC over all test pictures, the even-numbered and the odd-numbered ones."""
    labels = torch.tensor([s.label for s in samples])
    return [auroc(scores[k::step], labels[k::step]) for k, step in ((0, 1), (0, 2), (1, 2))]


def memory_rows(clip, root, states, seeds, shots):
    """{class: [(all, even, odd) of each seed]} of the plain memory."""
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


def compare(clip, options):
    """Tables of the plain memory over pairs of states, on even-numbered pictures; and its CSV."""
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


def text_rows(model, root):
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
def photographs_of(clip, photos, count=None):
    """(features (N, E), kinds (N,), nouns) of every tenth photograph whose kind is known.

    count: only so many of them, evenly chosen.
    """
    found, class_names = find_photographs(photos)
    chosen = [(path, kind) for k, (path, kind) in enumerate(found) if is_held_out(k) and kind >= 0]
    if count:
        chosen = [chosen[k] for k in torch.linspace(0, len(chosen) - 1, count).long().tolist()]
    pictures = torch.stack([clip_preprocess(open_image(path)) for path, _ in chosen])
    return encode_pictures(clip, pictures, "cpu"), torch.tensor([kind for _, kind in chosen]), class_names


def names_row(image, kinds, class_names, clip):
    """Accuracy over pictures, and the mean over kinds."""
    right = (named(clip, default_tokenizer(), image, class_names) == kinds).float()
    each = [right[kinds == kind].mean() for kind in kinds.unique()]
    return right.mean().item(), torch.stack(each).mean().item()


def search_row(image, kinds, class_names, clip):
    """Of each kind among these pictures: does its name find one first?  (share, kinds, chance)."""
    asked = kinds.unique()
    values = zero_shot(clip, default_tokenizer(), image,
                       [f"a photo of a {class_names[kind]}" for kind in asked.tolist()])
    first = kinds[values.argmax(0)]
    chance = torch.stack([(kinds == kind).float().mean() for kind in asked]).mean()
    return (first == asked).float().mean().item(), len(asked), chance.item()


def parser():
    p = argparse.ArgumentParser(prog="python -m bench.eye", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="folder in MVTec AD's layout")
    p.add_argument("--photos", help="folder of photographs as in pretraining")
    p.add_argument("--model", help="official name or checkpoint file; else the embedded mini-clip")
    p.add_argument("--states", type=int, nargs="+", default=[2, 3], help="of the plain memory")
    p.add_argument("--compare", nargs="+", metavar="BLOCKS",
                   help="only the memory, of each of these sets of states: 13 is 1 and 3")
    p.add_argument("--shots", type=int, default=8)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--out", type=Path, default=Path("bench/results"))
    p.add_argument("--name", default="eye")
    return p


def head_of(weights, options, what):
    return [f"{options.shots} shots, seeds {' '.join(map(str, options.seeds))}, 224 px; {what}; "
            f"weights {weights.name} (sha256 {weights.sha256[:12]}…); torch {torch.__version__}; "
            f"{time.strftime('%Y-%m-%d')}"]


def measure(clip, options):
    """Tables of all four measures, and their CSV."""
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
        first, asked, chance = search_row(*photographs_of(clip, options.photos, 50), clip)
        found = (("zero-shot over names, of pictures", f"{len(kinds)} pictures, {len(class_names)} names",
                  accuracy, 1 / len(class_names)),
                 ("zero-shot over names, mean over kinds", "the same", each, 1 / len(class_names)),
                 ("a name finds its kind first", f"50 pictures, {asked} kinds", first, chance))
        rows = [[what, on, f"{100 * value:.1f}", f"{100 * blind:.1f}"]
                for what, on, value, blind in found]
        made.append(("photographs held out, per cent", ["measure", "on", "right", "chance"], rows))
        numbers += [(row[0], row[1], "", "", row[2]) for row in rows]
    return made, (("row", "pictures", "class", "seed", "value"), numbers)


def main():
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
