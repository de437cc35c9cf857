"""A start for the ResNet where the official weights are not at hand: drawn scenes and their labels.

    python -m minilora.baselines.scene_pretraining --out resnet18-scenes.pt

Claim: early layers of a network find edges and textures whatever it is trained on.  Here it learns
what an embedded scene shows and what is wrong with it (scenes/scene.py); photographs come later.

Symbols: N scenes, R resolution.  Leaves out: ImageNet, whose weights of the same keys are better.
"""
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from minilora.baselines.resnet18 import COUNTER, RESNET18_FEATURES, ResNet18
from minilora.data.images import normalise
from minilora.io.cli import ProgressLine, command, option_parser
from minilora.io.files import save_tensors
from minilora.pretrain.batches import SceneStream
from minilora.pretrain.captions import CAPTION_KINDS, CLASS_NAMES, NORMAL
from minilora.training_steps import TrainConfig, run_training

HELD_OUT = 10_000_000           # number of the first scene that is never learned from
N_STATES = len(CAPTION_KINDS) + 1         # of a product: each kind of defect, and none
TRAIN_CONFIG = TrainConfig(250, 64, 2e-3)


def labelled_scenes(first, count, resolution):
    """(pictures uint8 (N, 3, R, R), nouns (N,), states (N,)) of scenes by their numbers."""
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


def pretrained(count, recipe, resolution=128, seed=1, report=lambda step, loss: None):
    """(ResNet18, accuracy over nouns, accuracy over states) after training on `count` scenes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)                         # torch draws a layer's weights globally
        net = ResNet18(len(CLASS_NAMES))
        state_of = nn.Linear(RESNET18_FEATURES, N_STATES)
    pictures, class_names, states = labelled_scenes(0, count, resolution)

    def loss_of(rows):
        features = net.features(normalise(pictures[rows]))
        return (F.cross_entropy(net.fc(features), class_names[rows])
                + F.cross_entropy(state_of(features), states[rows]))

    run_training(loss_of, [*net.parameters(), *state_of.parameters()], count, recipe,
            torch.Generator().manual_seed(seed), report)
    net.eval()
    pictures, class_names, states = labelled_scenes(HELD_OUT, min(count, 500), resolution)
    with torch.no_grad():
        features = torch.cat([net.features(normalise(p)) for p in pictures.split(50)])
        right = [(head(features).argmax(1) == truth).float().mean().item()
                 for head, truth in ((net.fc, class_names), (state_of, states))]
    return net, *right


def save_backbone(net, path):
    """Keys of torchvision, without the counters."""
    save_tensors(path, {k: v for k, v in net.state_dict().items() if not k.endswith(COUNTER)})


def parser():
    p = option_parser("minilora.baselines.scene_pretraining", __doc__)
    p.add_argument("--out", type=Path, help="file for the weights; without it a demonstration")
    p.add_argument("--scenes", type=int, default=5000, help="scenes that are drawn, once")
    p.add_argument("--steps", type=int, default=TRAIN_CONFIG.steps)
    p.add_argument("--seed", type=int, default=1)
    return p


def demo():
    net, class_names, states = pretrained(24, TrainConfig(3, 8, 2e-3), resolution=64)
    print(f"after 3 steps on 24 scenes: {class_names:.0%} of nouns, {states:.0%} of states; chance "
          f"{1 / len(CLASS_NAMES):.0%} and {1 / N_STATES:.0%}")


def main():
    options = parser().parse_args()
    if options.out is None:
        return demo()
    net, class_names, states = pretrained(options.scenes, replace(TRAIN_CONFIG, steps=options.steps),
                                    seed=options.seed, report=ProgressLine(options.steps))
    save_backbone(net, options.out)
    print(f"held-out scenes: {class_names:.1%} of {len(CLASS_NAMES)} nouns, {states:.1%} of {N_STATES} "
          f"states; written {options.out}")


if __name__ == "__main__":
    command("minilora.baselines.scene_pretraining", main)
