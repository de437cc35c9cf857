"""More ways to train the image tower, for the accuracy tables: each says which weights are trained.

    lora                   LoRA in all blocks
    lora last third        LoRA where minilora has it
    lora-fa                the same with A frozen (lora_fa.py)
    dora                   the same with magnitudes (dora.py)
    bitfit                 only the biases (bitfit.py)
    ladder                 a side network, no gradient through the tower (ladder.py)
    full fine-tuning bf16  all weights, in bfloat16 by autocast; scoring is in float32

As in minilora/baselines/finetuned.py, all of them train the context vectors, too, on the same
synthetic defects, and have no memory bank: they are compared with row `text`.
The learning rate is LoRA's, except for BitFit and full fine-tuning.
Left out: checkpointing, because it changes no result (tests/bench/test_bench_memory.py).
"""
import torch
from torch import Tensor

from bench.bitfit import train_biases
from bench.dora import add_dora
from bench.ladder import add_side_network
from bench.lora_fa import add_lora_fa
from minilora.baselines.finetuned import FullFineTuning, TowerTraining
from minilora.config import DetectorConfig
from minilora.lora import add_lora

RATE = DetectorConfig().rate    # of LoRA
BITFIT_RATE = 1e-3              # default of the authors' code (benzakenelad/BitFit, run_glue.py)


class LoRA(TowerTraining):
    """LoRA in all blocks, rank and targets as in minilora."""

    RATE, ADD = RATE, staticmethod(add_lora)

    def choose(self) -> None:
        """A and B of every layer; in subclasses what `ADD` trains."""
        visual, c = self.clip.visual, self.config
        self.ADD(visual, c.targets, range(len(visual.blocks)), c.rank, c.alpha, self.generator)


class LoRALastThird(LoRA):
    """In the blocks of minilora's default."""

    def choose(self) -> None:
        """A and B of the last blocks."""
        visual, c, n = self.clip.visual, self.config, len(self.clip.visual.blocks)
        self.ADD(visual, c.targets, range(n - visual.n_value_value_blocks, n), c.rank, c.alpha,
                 self.generator)


class LoRAFA(LoRA):
    """Only B."""

    ADD = staticmethod(add_lora_fa)


class DoRA(LoRA):
    """A, B and magnitudes."""

    ADD = staticmethod(add_dora)


class BitFit(TowerTraining):
    """Only the biases."""

    RATE = BITFIT_RATE

    def choose(self) -> None:
        """The biases."""
        train_biases(self.clip.visual)


class Ladder(TowerTraining):
    """Only a side network."""

    RATE = RATE

    def choose(self) -> None:
        """The side network."""
        add_side_network(self.clip.visual, self.generator)


class FullFineTuningBF16(FullFineTuning):
    """Full fine-tuning whose forward pass runs in bfloat16."""

    def loss(self, pixels: Tensor, coverage: Tensor) -> Tensor:
        """As in `TowerTraining`."""
        with torch.autocast(self.clip.logit_scale.device.type, torch.bfloat16):
            return super().loss(pixels, coverage)


EXTRA = {"lora": LoRA, "lora last third": LoRALastThird, "lora-fa": LoRAFA, "dora": DoRA,
         "bitfit": BitFit, "ladder": Ladder, "full fine-tuning bf16": FullFineTuningBF16}
