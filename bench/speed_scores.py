"""Scoring one picture: minilora against the tower alone, and against other methods on that tower.

    minilora     Detector.score, with a memory of 8 shots in four rotations each
    features     its features alone: ordinary and value-value path (features.py)
    tower        one pass of the image tower: every block over every token
    CLS only     encode_image: the same, but the last block is computed only for CLS
    PatchCore    minilora/baselines/patchcore.py: 8 shots, coreset 10 %; it runs no block after the
                 second hidden state that it uses
    AnomalyDINO  minilora/baselines/anomalydino.py: 8 shots in eight rotations, all patches
    anomalib     anomalib's PatchCore on the same hidden states, if it is installed
                 (anomalib_peer.py)

At several resolutions; the embedded model, and random weights of ViT-B/16's shape.  The memories
hold random tokens, as many as the shots would give: time does not depend on their values.
Left out: pictures that are read from files, several pictures at once, accuracy (accuracy.py).
"""
import argparse
import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import anomalib_peer, measure
from bench.speed_pairs import detector_with_memory, random_pixels, seeded_clip
from bench.whole_fit import SHOTS
from minilora.baselines.anomalydino import ANGLES, AnomalyDINO
from minilora.baselines.patchcore import PatchCore
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.data.images import normalise
from minilora.memory_bank import CORESET_SHARE, MemoryBank

TOWERS = ("embedded", "ViT-B/16")
AGAINST_TOWER = (1.1, "times")      # goal
LABELS = {"tower": "the image tower alone", "CLS only": "encode_image, last block for CLS only",
          "features": "its features alone, both paths", "PatchCore": "PatchCore, coreset 10 %",
          "AnomalyDINO": "AnomalyDINO's recipe", "anomalib": "anomalib's PatchCore, same tower"}


def tower_of(name: str, device: str) -> CLIP:
    """The embedded model, or random weights of ViT-B/16's shape."""
    return seeded_clip(device) if name == "ViT-B/16" else load_clip(device=device)[0]


def random_tokens(count: int, width: int, device: str) -> Tensor:
    tokens = torch.randn(count, width, generator=torch.Generator().manual_seed(6))
    return F.normalize(tokens, dim=-1).to(device)


def scorers(clip: CLIP, resolution: int, device: str) -> dict[str, Callable]:
    """{name: function without arguments that scores one picture}."""
    pixels = random_pixels(1, device, resolution)
    plain = copy.deepcopy(clip).requires_grad_(False)           # without LoRA
    visual, normalised = plain.visual, normalise(pixels)
    detector = detector_with_memory(clip, resolution)
    patches, width = (resolution // visual.patch) ** 2, visual.proj.shape[0]
    patchcore, dino = PatchCore(plain), AnomalyDINO(plain)
    patchcore.bank = random_tokens(round(CORESET_SHARE * SHOTS * patches),
                                   width * len(patchcore.states), device)
    dino.bank = MemoryBank(random_tokens(SHOTS * len(ANGLES) * patches, width, device))
    found = {"minilora": lambda: detector.score(pixels),
             "features": lambda: detector.encode(pixels),
             "tower": lambda: visual.pool(visual.hidden_states(visual.embed(normalised))[-1]),
             "CLS only": lambda: visual.encode_image(normalised),
             "PatchCore": lambda: patchcore.score(pixels),
             "AnomalyDINO": lambda: dino.score(pixels)}
    if anomalib_peer.is_installed():
        theirs = anomalib_peer.patchcore(visual, patchcore.states, patchcore.bank)
        found["anomalib"] = lambda: theirs(normalised)
    return found


def second_call(work: Callable[[], object], device: str) -> float:
    """Seconds of the second of two calls: the cache holds what this rival needs, not the last."""
    work()
    return measure.seconds(work, device)


def score_rows(o: argparse.Namespace) -> Iterator[dict]:
    """Rows of the table, see speed.py: for each tower and resolution, one for each rival."""
    for name in o.towers:
        for resolution in o.resolutions:
            with torch.no_grad():
                found = scorers(tower_of(name, o.device), resolution, o.device)
                taken = measure.side_by_side(found, o.rounds, o.device, second_call)
            for rival in list(found)[1:]:
                yield {"label": f"score a picture, {name}, {resolution} pixels: {LABELS[rival]}",
                       "apart": None, "ours": taken["minilora"], "theirs": taken[rival],
                       "goal": AGAINST_TOWER if rival == "tower" else None}
