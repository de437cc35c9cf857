"""Pretrain the ResNet-18 on synthetic scenes, for computers without the ImageNet weights.

    python -m minilora.baselines.scene_pretraining --out resnet18-scenes.pt

Claim: early layers of a network learn edges and textures on any task.  Here the network classifies
the product and the kind of defect in a synthetic scene (scenes/scene.py); it is fine-tuned on
photographs later.

Symbols: N scenes, R resolution.
Left out: ImageNet; its weights have the same keys and should be used if they are available.
"""
import argparse
import glob
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.baselines.resnet18 import BATCH_COUNTER, RESNET18_FEATURES, ResNet18
from minilora.checkpoint.weights import check_saved_name
from minilora.data.images import normalise
from minilora.io.cli import (non_negative_int, option_parser, positive_int, run_command,
                             seed_value)
from minilora.io.derived_name import derived_stem
from minilora.io.files import write_safetensors
from minilora.io.parser import OneLineParser
from minilora.io.progress import ProgressLine
from minilora.io.text import shown
from minilora.io.transaction import atomic_folder
from minilora.pretrain.batches import SceneStream
from minilora.pretrain.captions import CAPTION_KINDS, CLASS_NAMES, NORMAL
from minilora.training_steps import TrainConfig, run_training

HELD_OUT = 10_000_000           # number of the first test scene; training uses lower numbers
N_STATES = len(CAPTION_KINDS) + 1         # states of a product: each kind of defect, and good
TRAIN_CONFIG = TrainConfig(250, 64, 2e-3)


def labelled_scenes(first: int, count: int, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures uint8 (N, 3, R, R), class names (N,), states (N,)) of `count` scenes.

    first: number of the first scene.  Class names and states are given as indices.
    """
    pictures, class_names, states = [], [], []
    stream = SceneStream(first, first + count)
    for k in range(count):
        picture, _, facts = stream[k]
        small = F.interpolate(picture[None].float(), (resolution, resolution), mode="bilinear",
                              antialias=True)
        pictures.append(small[0].round().byte())
        class_names.append(facts[0])
        states.append(facts[3])
    states = torch.stack(states)
    return (torch.stack(pictures), torch.stack(class_names),
            torch.where(states == NORMAL, len(CAPTION_KINDS), states))


def pretrain_on_scenes(count: int, train_config: TrainConfig, resolution: int = 128, seed: int = 1,
                       report: Callable[[int, float], None] = lambda step, loss: None
                       ) -> tuple[ResNet18, float, float]:
    """Train a ResNet-18 on `count` scenes.

    Returns (network, accuracy of the class name, accuracy of the state), measured on test scenes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)                 # torch.nn draws weights from the global generator
        net = ResNet18(len(CLASS_NAMES))
        state_head = nn.Linear(RESNET18_FEATURES, N_STATES)
    pictures, class_names, states = labelled_scenes(0, count, resolution)

    def loss_of(rows):
        features = net.features(normalise(pictures[rows]))
        return (F.cross_entropy(net.fc(features), class_names[rows])
                + F.cross_entropy(state_head(features), states[rows]))

    run_training(loss_of, [*net.parameters(), *state_head.parameters()], count, train_config,
                 torch.Generator().manual_seed(seed), report)
    net.eval()
    pictures, class_names, states = labelled_scenes(HELD_OUT, min(count, 500), resolution)
    with torch.no_grad():
        features = torch.cat([net.features(normalise(p)) for p in pictures.split(50)])
        accuracies = [(head(features).argmax(1) == truth).float().mean().item()
                      for head, truth in ((net.fc, class_names), (state_head, states))]
    return net, *accuracies


def save_backbone(net: ResNet18, path: str | Path) -> None:
    """Write the weights with torchvision's keys, without the batch counters."""
    write_safetensors(path, {k: v for k, v in net.state_dict().items()
                             if not k.endswith(BATCH_COUNTER)})


def parser() -> OneLineParser:
    """Options of the command."""
    p = option_parser("minilora.baselines.scene_pretraining", __doc__, "--out resnet18.safetensors")
    add = p.add_argument
    add("--out", type=Path, metavar="FILE", help="for the weights; without it, a demonstration")
    add("--scenes", type=positive_int, metavar="N", default=5000, help="training scenes")
    add("--steps", type=non_negative_int, metavar="N", default=TRAIN_CONFIG.steps,
        help="training steps")
    add("--seed", type=seed_value, metavar="N", default=1, help="of weights and batches")
    return p


def demo() -> None:
    """Three training steps on 24 scenes."""
    train_config = TrainConfig(3, 8, 2e-3)
    _, class_accuracy, state_accuracy = pretrain_on_scenes(24, train_config, resolution=64)
    print(f"after 3 steps on 24 scenes: class name {class_accuracy:.0%}, "
          f"state {state_accuracy:.0%} correct; chance "
          f"{1 / len(CLASS_NAMES):.0%} and {1 / N_STATES:.0%}")


def main() -> None:
    """Run the command; without --out, the demo."""
    options = parser().parse_args()
    if options.out is None:
        return demo()
    check_saved_name(options.out)
    with atomic_folder(options.out.parent, f"scene-pretraining-{derived_stem(options.out.stem)}",
                       [glob.escape(options.out.name)]) as staging:
        pretrain_to_file(options, staging / options.out.name)


def pretrain_to_file(options: argparse.Namespace, path: Path) -> None:
    """Train and write the weights."""
    train_config = replace(TRAIN_CONFIG, steps=options.steps)
    net, class_accuracy, state_accuracy = pretrain_on_scenes(
        options.scenes, train_config, seed=options.seed, report=ProgressLine(options.steps))
    save_backbone(net, path)
    print(f"test scenes: class name {class_accuracy:.1%} (of {len(CLASS_NAMES)}), state "
          f"{state_accuracy:.1%} (of {N_STATES}) correct; written {shown(options.out)}")


if __name__ == "__main__":
    run_command("minilora.baselines.scene_pretraining", main)
