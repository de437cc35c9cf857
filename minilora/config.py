"""Everything that can be chosen about a fit, in one place, with limits.

Claim: one set of defaults serves every product; they were chosen by measurement (bench.ablation),
on which pictures is said in bench/results/README.md.

Leaves out: what is chosen for a run and not for a detector: data, shots, device, folders (fit.py).
"""
from dataclasses import dataclass

from minilora.lora import TARGETS
from minilora.synthetic.defects import DEFECT_KINDS

# sensible values; an adapter from a stranger must not ask for all memory there is
LIMITS = {"resolution": (0, 4096), "steps": (0, 10**5), "batch": (1, 4096), "n_train_images": (1, 10**5),
          "rate": (0, 10), "angle": (0, 360), "rank": (1, 4096), "alpha": (1e-6, 1e6),
          "blocks": (0, 1000), "memory_states": (1, 1000), "sigma": (0, 100),
          "text_weight": (0, 1000), "picture_weight": (0, 1000), "top_fraction": (0, 1),
          "false_positive_rate": (0, 1)}


@dataclass(frozen=True)
class DetectorConfig:
    """Everything that can be chosen; the same defaults for every product."""

    resolution: int = 0                 # of the shorter side, pixels; 0: the model's own
    square: bool = False                # squeeze pictures into squares instead
    steps: int = 200                    # of training; 0: no adaptation
    batch: int = 8                      # pictures a step
    n_train_images: int = 160           # pictures to train on, half with a pasted defect
    rate: float = 1e-3                  # peak learning rate
    losses: tuple = (1.0, 0.5, 0.1)     # weights of focal, dice and cross-entropy
    defects: tuple = DEFECT_KINDS              # kinds that are pasted
    angle: float = 45.0                 # degrees at most by which training pictures are turned
    rank: int = 4
    alpha: float = 8
    targets: tuple = TARGETS            # projections; LoRA's paper: mostly q and v
    blocks: int = 0                     # how many, the last ones, get LoRA and the value-value path; 0: a third
                                        # (CLIP Surgery's path: six of twelve)
    context: str = "a photo of a"       # words that the learned context starts from, see coop.py
    memory_states: tuple = ()           # (): half and three quarters of the way, before LoRA
    rotations: bool = True              # remember the shots in four directions
    sigma: float = 4.0                  # Gaussian smoothing, in pixels of a 224-pixel map
    text_weight: float = 0.5            # of the text map beside the memory map, at most
    picture_weight: float = 0.5         # of the whole picture's probability in its score
    top_fraction: float = 0.003         # share of a map's pixels that makes the score
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
    for name, value in list(vars(DetectorConfig()).items())[:8]:
        print(f"{name:12s} {value}")
    try:
        DetectorConfig(resolution=10**6)
    except ValueError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    demo()
