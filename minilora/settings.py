"""Everything that can be chosen about a fit, in one place, with limits.

Claim: one set of defaults serves every product; they were chosen by measurement (bench.ablation),
on which pictures is said in bench/results/README.md.

Leaves out: what is chosen for a run and not for a detector: data, shots, device, folders (fit.py).
"""
from dataclasses import dataclass

from minilora.defects import KINDS

# sensible values; an adapter from a stranger must not ask for all memory there is
LIMITS = {"resolution": (0, 4096), "steps": (0, 10**5), "batch": (1, 4096), "pool": (1, 10**5),
          "rate": (0, 10), "angle": (0, 360), "rank": (1, 4096), "alpha": (1e-6, 1e6),
          "blocks": (0, 1000), "scales": (0.05, 8), "memory_layers": (1, 1000), "copies": (1, 64),
          "remembered": (1, 10**5), "nearby": (0, 1), "sigma": (0, 100), "text_weight": (0, 1000),
          "picture_weight": (0, 1000), "top": (0, 1),
          "false_positive_rate": (0, 1)}


@dataclass(frozen=True)
class Settings:
    """Everything that can be chosen; the same defaults for every product."""

    resolution: int = 0                 # side in pixels; 0: the model's own
    steps: int = 100                    # of training; 0: no adaptation
    batch: int = 8                      # pictures a step
    pool: int = 160                     # pictures to train on, every second with a pasted defect
    rate: float = 5e-4                  # peak learning rate
    losses: tuple = (1.0, 0.5, 0.1)     # weights of focal, dice and cross-entropy
    defects: tuple = KINDS              # kinds that are pasted
    angle: float = 45.0                 # degrees at most by which training pictures are turned
    rank: int = 4
    alpha: float = 8
    targets: tuple = ("q", "k", "v", "out")
    blocks: int = 0                     # the last n get LoRA; 0: the last sixth, rounded up
    context: str = "a photo of a"       # words that the learned context starts from
    scales: tuple = (2.0, 1.0, 0.5)     # sizes at which the memory looks; 1: the resolution
    memory_layers: tuple = ()           # (): a third and all of the first two thirds
    nearby: float = 1.0                 # factor on how much the place counts in the memory; 0: not
    copies: int = 2                     # of each shot, all but one slightly moved and relit
    turns: bool = True                  # each of them in four directions
    remembered: int = 192               # pictures at most that copies and turns make of the shots
    sigma: float = 4.0                  # Gaussian smoothing, in pixels of a 224-pixel map
    text_weight: float = 0.75           # of the text map beside the memory map
    picture_weight: float = 0.5         # of the whole picture's probability in its score
    top: float = 0.003                  # share of a map's pixels that makes the score
    trial: bool = True                  # weigh the maps by pasted defects (trial.py)
    false_positive_rate: float = 0.05   # of good pictures, that the threshold aims at
    seed: int = 1

    def __post_init__(self):
        """Raises ValueError for a number that no sensible run needs, before memory is asked for."""
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not low <= number <= high:           # NaN, too
                    raise ValueError(f"{name}: expected {low:,} to {high:,}, found {value}")


def demo():
    for name, value in list(vars(Settings()).items())[:8]:
        print(f"{name:12s} {value}")
    try:
        Settings(resolution=10**6)
    except ValueError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    demo()
