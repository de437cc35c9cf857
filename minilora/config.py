"""Configuration of a detector: every hyperparameter with its default and its limits.

Claim: one set of defaults serves every product.  The defaults were chosen by measurement
(bench/ablation.py); bench/results/README.md names the pictures that were used.

Left out: what belongs to a run and not to a detector: data, number of shots, device, folders
(fit.py).
"""
from dataclasses import dataclass

from minilora.io.schema import Flag, ListOf, Number, Text, Whole, check
from minilora.lora import TARGETS
from minilora.synthetic.defects import DEFECT_KINDS

# Type and limits of every setting: a run folder from a stranger must not exhaust the memory
SETTING_SCHEMAS = {
    "resolution": Whole(0, 4096), "square": Flag(), "bits": Whole(0, 16),
    "steps": Whole(0, 10**5), "batch": Whole(1, 4096), "n_train_images": Whole(1, 10**5),
    "rate": Number(0, 10), "loss_weights": ListOf(Number(0, 1000), 3, 3),
    "defect_kinds": ListOf(Text(choices=DEFECT_KINDS), 1, 100), "angle": Number(0, 360),
    "rank": Whole(1, 4096), "alpha": Number(1e-6, 1e6),
    "targets": ListOf(Text(choices=TARGETS), 1, 4), "blocks": Whole(0, 1000), "context": Text(),
    "memory_states": ListOf(Whole(1, 1000), 0, 100), "rotations": Flag(),
    "sigma": Number(0, 100), "max_text_weight": Number(0, 1000), "image_weight": Number(0, 1000),
    "top_fraction": Number(0, 1), "false_positive_rate": Number(0, 1),
    "seed": Whole(0, 2**63 - 1)}
LIMITS = {name: (schema.low, schema.high) for name, schema in SETTING_SCHEMAS.items()
          if isinstance(schema, (Whole, Number))}       # lowest and highest value, for options


@dataclass(frozen=True)
class DetectorConfig:
    """Hyperparameters of a `Detector`; the defaults are the same for every product."""

    # input
    resolution: int = 0                 # pixels of the shorter side; 0: CLIP's own resolution
    square: bool = False                # squeeze each picture into a square
    bits: int = 0                       # how many bits of 16-bit grey are in use; 0: all 16
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
        """Raises SchemaError (a ValueError) for a setting of another type or outside its limits,
        before any memory is allocated.  Lists, as files have them, become tuples."""
        for name, schema in SETTING_SCHEMAS.items():
            value = getattr(self, name)
            check(value, schema, name)
            if type(value) is list:
                object.__setattr__(self, name, tuple(value))


def demo() -> None:
    for name, value in list(vars(DetectorConfig()).items())[:8]:
        print(f"{name:14s} {value}")
    for wrong in ({"resolution": 10**6}, {"memory_states": (1.5,)}):
        try:
            DetectorConfig(**wrong)
        except ValueError as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    demo()
