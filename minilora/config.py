"""Configuration of a detector: every hyperparameter with its default and its limits.

Claim: one set of defaults serves every product.  The defaults were chosen by measurement
(bench/ablation.py); bench/results/README.md names the pictures that were used.

Left out: what belongs to a run and not to a detector: data, number of shots, device, folders
(fit.py).
"""
from dataclasses import dataclass

from minilora.lora import TARGETS
from minilora.synthetic.defects import DEFECT_KINDS

# Lowest and highest value allowed: an adapter file from a stranger must not exhaust the memory
LIMITS = {"resolution": (0, 4096), "steps": (0, 10**5), "batch": (1, 4096),
          "n_train_images": (1, 10**5), "rate": (0, 10), "angle": (0, 360), "rank": (1, 4096),
          "alpha": (1e-6, 1e6), "blocks": (0, 1000), "memory_states": (1, 1000), "sigma": (0, 100),
          "max_text_weight": (0, 1000), "image_weight": (0, 1000), "top_fraction": (0, 1),
          "false_positive_rate": (0, 1)}


@dataclass(frozen=True)
class DetectorConfig:
    """Hyperparameters of a `Detector`; the defaults are the same for every product."""

    # input
    resolution: int = 0                 # pixels of the shorter side; 0: CLIP's own resolution
    square: bool = False                # squeeze each picture into a square
    # training (train.py)
    steps: int = 200                    # training steps; 0: no adaptation
    batch: int = 8                      # pictures per step
    n_train_images: int = 160           # training pictures; half of them get a pasted defect
    rate: float = 1e-3                  # peak learning rate
    loss_weights: tuple = (1.0, 0.5, 0.1)   # of focal loss, dice loss and cross-entropy
    defect_kinds: tuple = DEFECT_KINDS  # kinds of synthetic defects
    angle: float = 45.0                 # training pictures are rotated by up to this, in degrees
    # LoRA and prompts (lora.py, coop.py)
    rank: int = 4                       # r
    alpha: float = 8                    # the scale is alpha / r
    targets: tuple = TARGETS            # attention projections with LoRA; the paper: q and v
    blocks: int = 0                     # number of last blocks with LoRA and the value-value path;
    #                                     0: the last third (CLIP Surgery: six of twelve)
    context: str = "a photo of a"       # words that initialise the context vectors
    # anomaly score (detector.py)
    memory_states: tuple = ()           # hidden states in the memory bank; (): at half and three
    #                                     quarters of the depth, before the first block with LoRA
    rotations: bool = True              # add each shot to the memory bank in four rotations
    sigma: float = 4.0                  # Gaussian smoothing, in pixels of a 224-pixel map
    max_text_weight: float = 0.5        # upper limit for the weight of the text map
    image_weight: float = 0.5           # weight of P(whole image is damaged) in the image score
    top_fraction: float = 0.003         # share of the highest pixels whose mean is the score
    false_positive_rate: float = 0.05   # target rate of false alarms, for the threshold
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for a number outside its limits, before any memory is allocated."""
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not low <= number <= high:           # NaN is refused, too
                    raise ValueError(f"{name}: expected {low:,} to {high:,}, found {value}")


def demo() -> None:
    for name, value in list(vars(DetectorConfig()).items())[:8]:
        print(f"{name:14s} {value}")
    try:
        DetectorConfig(resolution=10**6)
    except ValueError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    demo()
