"""Search by everyday nouns, part "words": photographs in a folder, and the same as a slideshow.

    python -m bench.search --part words --photos PHOTOS --name search-words

PHOTOS has the layout of Caltech-101; only held-out photographs are used, which the embedded model
was not trained on (it was trained on others of the same kinds, with the same nouns).  A round takes
half of the nouns; the second round of a seed takes the other half.  So every noun is asked once
where it is shown and once where it is not.

    folder      PER_KIND photographs of each noun; a correct result is a photograph of the noun
    slideshow   a video that shows each of them for SHOWN_SECONDS, never two of a kind in a row,
                indexed at the default rate; a correct result is an event that overlaps one

Metrics: search_find.py; in the folder a photograph counts as an event of one second, so that every
overlap is 1 or 0.  AUC is over photographs there, over frames in the video.
Left out: photographs with several things in them, longer sentences.
"""
import statistics
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench import measure
from bench.accuracy import cell, spread
from bench.search_belts import (FLOOR, Asked, code_version, features_version,
                                stored_index)
from bench.search_find import moment_figures
from bench.search_nothing import absent_texts, against, floor_of, outcome_of
from minilora.checkpoint.weights import load_clip
from minilora.data.decoding import read_image
from minilora.data.frames import Frame, save_video
from minilora.io.files import atomic_write, digest_of
from minilora.pretrain.photographs import find_photographs, is_held_out
from minilora.scenes.scene import seed_for
from minilora.search import moment_metrics
from minilora.search import query as search
from minilora.search.events import Event
from minilora.search.floor import Floor
from minilora.search.index import Index, similarity_to
from minilora.search.query import find_curves

PER_KIND, SHOWN_SECONDS = 3, 5
INDEX_RATE, VIDEO_RATE = 1, 4   # frames a second: the default of the command, and of the video
SIDE = 224                      # of the video, pixels
# The folders' names as nouns.  Two folders with one noun are one kind.
NOUNS = {"faces": "face", "leopards": "leopard", "motorbikes": "motorbike",
         "airplanes": "airplane", "car side": "car", "cougar body": "cougar",
         "cougar face": "cougar", "crocodile head": "crocodile", "flamingo head": "flamingo",
         "windsor chair": "chair"}
LEFT_OUT = ("faces easy",               # the photographs of "faces", cut out
            "wild cat", "water lilly")  # name what other folders show too: cougars, leopards, lotus
PLACES = ("folder", "slideshow")


def with_article(noun: str) -> str:
    """The query: "an accordion", "a camera", "scissors"."""
    if noun == "scissors":
        return noun
    vowel = noun[0] in "aeiou" and noun not in ("euphonium", "ewer")
    return f"{'an' if vowel else 'a'} {noun}"


def held_out_photographs(root: str) -> dict[str, list[Path]]:
    """{noun: held-out photographs}, only nouns with at least PER_KIND of them."""
    photographs, names = find_photographs(root)
    kinds = {}
    for number, (path, kind) in enumerate(photographs):
        name = names[kind] if kind >= 0 else ""
        if is_held_out(number) and name and name not in LEFT_OUT:
            kinds.setdefault(NOUNS.get(name, name), []).append(path)
    return {noun: paths for noun, paths in sorted(kinds.items()) if len(paths) >= PER_KIND}


def rounds_of(kinds: dict[str, list[Path]], seed: int) -> list[list[tuple[str, Path]]]:
    """The two rounds of a seed: [(noun, photograph)] in the order of the slideshow.

    Each kind is in one of them, with PER_KIND photographs; neighbours are of different kinds.
    """
    generator = seed_for("words", seed)
    shuffled = lambda things: [things[k] for k in torch.randperm(len(things), generator=generator)]
    nouns, out = shuffled(list(kinds)), []
    for half in (nouns[::2], nouns[1::2]):
        chosen, order = {noun: shuffled(kinds[noun])[:PER_KIND] for noun in half}, []
        for turn in range(PER_KIND):
            row = shuffled(half)
            if order and row[0] == order[-1][0]:
                row = row[1:] + row[:1]
            order += [(noun, chosen[noun][turn]) for noun in row]
        out.append(order)
    return out


def slides(order: list[tuple[str, Path]]) -> Iterator[Frame]:
    """The frames of the slideshow; each photograph is cut to a square."""
    for number, (_, path) in enumerate(order):
        picture = ImageOps.fit(read_image(path), (SIDE, SIDE), Image.Resampling.BICUBIC)
        for k in range(SHOWN_SECONDS * VIDEO_RATE):
            yield Frame(number * SHOWN_SECONDS + k / VIDEO_RATE, picture)


def write_slides(order: list[tuple[str, Path]], folder: Path) -> list[Path]:
    """The slideshow as a video in a folder."""
    path = folder / "slideshow.mp4"
    with atomic_write(path) as file:
        save_video(file, slides(order), VIDEO_RATE)
    return [path]


def as_seconds(found: list[Event]) -> list[Event]:
    """Pictures, whose events have no length, as events of one second."""
    return [event._replace(end=event.start + 1) for event in found]


def true_seconds(place: str, index: Index, order: list[tuple[str, Path]]) -> dict[str, list]:
    """{noun: its true events [(file, start, end)]} of what is shown in one of PLACES."""
    out = {}
    for number, (noun, path) in enumerate(order):
        true = (str(path.resolve()), 0, 1) if place == "folder" else (
            *index.entries, number * SHOWN_SECONDS, (number + 1) * SHOWN_SECONDS)
        out.setdefault(noun, []).append(true)
    return out


def evaluate_place(place: str, index: Index, floor: Floor | None, true: dict[str, list],
                   asked: dict[str, dict[str, Tensor]]) -> dict[str, float | list]:
    """{metric: value} of one round in one of PLACES; also the "margins" of each kind of query.

    true: as returned by `true_seconds`;  asked: {kind of text: {text: its query (E,)}}, the kind
    "nouns" holds present and absent nouns, the others are absent.
    """
    shaped = as_seconds if place == "folder" else list
    outcomes = {kind: {text: outcome_of(index, floor, Asked(query))
                       for text, query in queries.items()} for kind, queries in asked.items()}
    nouns = outcomes.pop("nouns")
    present = {noun: nouns.pop(noun) for noun in true}
    absent = {"other nouns": nouns, **outcomes}
    with_floor = moment_figures([(shaped(o.answered), true[noun]) for noun, o in present.items()])
    curves = {noun: find_curves(index, similarity_to(asked["nouns"][noun])) for noun in true}
    return {**moment_figures([(shaped(o.everything), true[n]) for n, o in present.items()]),
            "AUC": statistics.mean(moment_metrics.frame_auroc(curves[noun], true[noun])
                                   for noun in true),
            **{f"{name}, floor": value for name, value in with_floor.items()},
            "lost": 1 - moment_metrics.answered([o.answered for o in present.values()])[0],
            **{f"{name}, {kind}": value for kind, found in absent.items()
               for name, value in zip(("answered", "events"), moment_metrics.answered(
                   [o.answered for o in found.values()]))},
            **{f"margins, {kind}": [o.margin for o in found.values()]
               for kind, found in {"nouns": present, **absent}.items()}}


def evaluate_words(seed: int, threads: int, store: str, photos: str) -> dict[str, dict]:
    """{place: {metric: value}}: means over the two rounds of a seed, margins of both."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    kinds, figures = held_out_photographs(photos), {place: [] for place in PLACES}
    texts = {"nouns": list(kinds), **absent_texts()}
    asked = {kind: {text: search.query_features(
        clip.eval(), [with_article(text) if kind == "nouns" else text]) for text in group}
        for kind, group in texts.items()}
    for number, order in enumerate(rounds_of(kinds, seed)):
        mark = digest_of(weights.sha256, features_version(), INDEX_RATE, VIDEO_RATE, SHOWN_SECONDS,
                         SIDE, [(noun, str(path.resolve())) for noun, path in order])
        makers = {"folder": lambda folder, order=order: [path for _, path in order],
                  "slideshow": lambda folder, order=order: write_slides(order, folder)}
        for place in PLACES:
            index = stored_index(Path(store, f"{place}-{seed}-{number}-{mark[:12]}"), INDEX_RATE,
                                 clip, weights.sha256, makers[place])
            figures[place].append(evaluate_place(
                place, index, floor_of(index, clip), true_seconds(place, index, order), asked))
    both = lambda a, b: a + b if isinstance(a, list) else (a + b) / 2
    return {place: {name: both(first[name], second[name]) for name in first}
            for place, (first, second) in figures.items()}


def words_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head), mean and spread over the seeds."""
    if options.photos is None:
        raise ValueError("part words needs photographs in Caltech-101's layout; give --photos, or "
                         "leave the part out")
    store = options.out / "search"
    photos = str(Path(options.photos).resolve())
    cells = [cell(store / f"words-{seed}.json", digest_of(
        "words", seed, load_clip()[1].sha256, features_version(),
        code_version(*FLOOR), photos), partial(
            measure.fresh, evaluate_words, seed, options.threads, str(store.resolve()), photos))
        for seed in options.seeds]
    column = lambda place, name: spread([c[place][name] for c in cells])
    found = ("R@1 0.5", "R@1 0.7", "R@5 0.5", "mIoU", "mAP 0.5", "F1@1", "F1@5", "F1@10")
    margins = lambda place, kind: [m for c in cells for m in c[place][f"margins, {kind}"]]
    tables = [
        ("everyday nouns: what is found", ["", *found, "AUC"],
         [row for place in PLACES for row in (
             [place, *(column(place, name) for name in (*found, "AUC"))],
             [f"{place}, above the floor", *(column(place, f"{name}, floor") for name in found),
              ""])]),
        ("everyday nouns: present queries lost by the floor, absent queries answered",
         ["", "present: lost", "absent", "answered", "events of a query", "AUC against present",
          "lost if 5 % were answered"],
         [[place, column(place, "lost"), kind, column(place, f"answered, {kind}"),
           f"{statistics.mean(c[place][f'events, {kind}'] for c in cells):.2f}",
           *against(margins(place, "nouns"), margins(place, kind))]
          for place in PLACES for kind in ("other nouns", *absent_texts())])]
    nouns = len(held_out_photographs(photos))
    return tables, [f"words: {nouns} nouns, half of them shown in each of two rounds a seed, "
                    f"{PER_KIND} held-out photographs each, {SHOWN_SECONDS} s a photograph in the "
                    f"slideshow; index of {INDEX_RATE} frame a second; per cent"]
