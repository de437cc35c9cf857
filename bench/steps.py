"""Training steps of all compared methods: which weights are trained, and what a step computes.

Every step uses minilora's loop: `training_steps` with `train.adaptation_loss`, or with the loss of
the method in baselines/finetuned.py.  Weights and pictures are random: memory and time do not
depend on their values.  A method that starts from pixels runs the whole tower in every step, the
blocks before the first trained one without gradient.  With reuse, the tokens that enter the first
trained block are computed once beforehand, as in `minilora fit`.  In both cases a pool of pictures
is kept, as pixels in half precision or as tokens, and its memory is counted.

Symbols: B pictures a step, N of the pool, P patches, W width, R resolution.
Left out: drawing pictures and pasting defects, which happen before training.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from bench import peers
from bench.bitfit import train_biases
from bench.dora import add_dora
from bench.ladder import add_side_network
from bench.lora_fa import add_lora_fa
from minilora.baselines.finetuned import (FULL_RATE, PROBE_RATE, CoOp, FullFineTuning, LinearProbe,
                                          TowerTraining, TrainedBaseline)
from minilora.bpe import default_tokenizer
from minilora.checkpoint.adapter import adapter_state
from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.coop import STATE_WORDS
from minilora.lora import add_lora
from minilora.train import MIN_COVERAGE, adaptation_loss, frozen_states
from minilora.training_steps import training_steps
from minilora.vit import default_value_value_blocks

CLASS_NAME = "bottle"


@dataclass(frozen=True)
class Method:
    """The weights that are trained.

    kind: "image", "both", "probe", "context", "lora", "bias" or "ladder".
    """

    kind: str
    rank: int = 0
    targets: tuple = ()
    share: int = 0                  # LoRA in the last 1 / share of the blocks; 0: the default
    context: bool = False           # with LoRA: the context vectors, too
    reuse: bool = False             # tokens of the frozen blocks are computed once
    variant: str = "LoRA"           # with kind "lora": a key of ADD
    peft: bool = False              # the layers of the library peft

    def blocks(self, layers: int) -> int:
        """Number of blocks with LoRA, as in `DetectorConfig.blocks`; 0: the default."""
        return -(-layers // self.share) if self.share else 0

    def first(self, layers: int) -> int:
        """Number of the first block that a training step runs with gradient."""
        last = self.blocks(layers) or default_value_value_blocks(layers)
        return {"image": 0, "both": 0, "bias": 0, "probe": layers,
                "ladder": layers}.get(self.kind, layers - last)

    def gradient_blocks(self, layers: int) -> int:
        """Number of blocks that the backward pass goes through."""
        return 0 if self.kind == "context" else layers - self.first(layers)


# {variant: function (tower, targets, blocks, rank, alpha) that adds its layers}: ours, and peft's
ADD = {"LoRA": add_lora, "LoRA-FA": add_lora_fa, "DoRA": add_dora}
ADD_PEFT = {"LoRA": peers.add_peft_lora, "LoRA-FA": peers.add_peft_lora_fa,
            "DoRA": peers.add_peft_dora}
LORA = {f"LoRA r={r} {','.join(t)} {where}": Method("lora", r, t, share)
        for where, share in (("all blocks", 1), ("last third", 3))
        for t in (("q", "v"), ("q", "k", "v", "out")) for r in (1, 4, 16)}
DEFAULT = Method("lora", DetectorConfig().rank, DetectorConfig().targets, context=True)
VARIANTS = {f"{kind}, all blocks": replace(DEFAULT, share=1, variant=kind) for kind in ADD}
PEFT = {f"peft {name}": replace(method, peft=True)
        for name, method in {**VARIANTS, "LoRA, last third": DEFAULT}.items()}
METHODS = {"full, both towers": Method("both"), "full, image tower": Method("image"),
           "BitFit": Method("bias"), "ladder": Method("ladder"),
           "linear probe": Method("probe"), "CoOp": Method("context"), **LORA, **VARIANTS, **PEFT,
           "minilora, plain step": DEFAULT, "minilora, with reuse": replace(DEFAULT, reuse=True)}
FULL, PLAIN, REUSE = "full, image tower", "minilora, plain step", "minilora, with reuse"


class Training:
    """One method with one batch size, ready to make steps.

    pool: N, pictures in the pool;  bfloat16: autocast;  checkpointing: the backward pass computes
    the blocks again.
    """

    def __init__(self, method, clip_config, batch, pool, bfloat16=False, checkpointing=False,
                 device="cpu", steps=2):
        self.method, self.bfloat16 = method, bfloat16
        self.device = torch.device(device)
        with self.device:
            self.clip = CLIP(clip_config)           # with random weights
        self.config = replace(DetectorConfig(), batch=batch, steps=steps,
                              n_train_images=max(pool, batch))
        self.first = method.first(clip_config.vision_layers)
        {"image": self.full, "both": self.full, "probe": self.probe, "context": self.coop,
         "lora": self.lora, "bias": self.biases, "ladder": self.ladder}[method.kind]()
        if checkpointing:
            checkpoint_blocks(self.clip)

    # ---- trained weights ----------------------------------------------------------------------

    def full(self):
        self.owner = FullFineTuning(self.clip, CLASS_NAME, replace(self.config, rate=FULL_RATE))
        self.config, self.loss = self.owner.config, self.owner.loss
        self.clip.visual.requires_grad_(True)
        self.trained = [*self.clip.visual.parameters(), self.owner.prompts.context]
        if self.method.kind == "both":                  # no context: the token embedding is trained
            self.clip.requires_grad_(True)
            self.trained = list(self.clip.parameters())
            ids = default_tokenizer().tokenize(
                [f"{self.config.context} {state} {CLASS_NAME}." for state in STATE_WORDS],
                self.clip.config.context).to(self.device)
            self.owner.prompts = lambda: F.normalize(self.clip.encode_text(ids), dim=-1)

    def probe(self):
        self.owner = LinearProbe(self.clip, CLASS_NAME, replace(self.config, rate=PROBE_RATE))
        self.config = self.owner.config
        clip_config = self.clip.config
        self.owner.initialise(torch.randn(2, 4, clip_config.vision_width, device=self.device))
        self.trained = list(self.owner.layer.parameters())

        def loss(pixels, coverage):
            tokens = frozen_states(self.clip.visual, pixels.float())[-1][:, 1:]
            return self.owner.loss(tokens, (coverage > MIN_COVERAGE).float().to(self.device))
        self.loss = loss

    def coop(self):
        self.owner = CoOp(self.clip, CLASS_NAME, self.config)
        self.trained = [self.owner.prompts.context]
        self.prompts, self.loss = self.owner.prompts, self.adaptation

    def lora(self):
        m, visual = self.method, self.clip.visual
        self.owner = TrainedBaseline(self.clip, CLASS_NAME, self.config)
        add = (ADD_PEFT if m.peft else ADD)[m.variant]
        add(visual, m.targets, range(self.first, len(visual.blocks)), m.rank, self.config.alpha)
        self.prompts, self.loss = self.owner.prompts, self.adaptation
        self.trained = peers.trained(visual)
        if m.context:
            self.trained.append(self.prompts.context)
        else:
            with torch.no_grad():
                text = self.prompts()
            self.prompts = lambda: text

    def biases(self):
        self.tower(train_biases)

    def ladder(self):
        self.tower(add_side_network)

    def tower(self, choose):
        self.owner = TowerTraining(self.clip, CLASS_NAME, self.config)
        choose(self.clip.visual)
        self.trained, self.loss = self.owner.trained(), self.owner.loss

    # ---- steps --------------------------------------------------------------------------------

    def adaptation(self, shown, coverage):
        """shown: pixels (B, 3, R, R), or tokens (B, 1+P, W) with reuse."""
        visual = self.clip.visual
        entering = shown if self.method.reuse else frozen_states(
            visual, shown.float(), self.first)[-1]
        return adaptation_loss(self.clip, self.prompts, entering, coverage.to(self.device),
                               self.first, self.config.loss_weights)

    def hold_pool(self):
        """Random pixels (N, 3, R, R) in half precision, or tokens (N, 1+P, W); and coverage (N, P).

        As in minilora, only the tokens are on the device.
        """
        c, n = self.clip.config, self.config.n_train_images
        patches = (c.resolution // c.patch) ** 2
        if self.method.reuse:
            shown = torch.randn(n, 1 + patches, c.vision_width, device=self.device)
        else:
            shown = torch.rand(n, 3, c.resolution, c.resolution, dtype=torch.float16)
        coverage = torch.zeros(n, patches)
        coverage[::2, :3] = 1                           # every second picture has a defect
        return shown, coverage

    def steps(self) -> Iterator[float]:
        """Yields the loss after each step.  The pool is made before the first step."""
        shown, coverage = self.hold_pool()

        def loss_of(rows):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                return self.loss(shown[rows], coverage[rows])

        generator = torch.Generator().manual_seed(0)
        for _, loss in training_steps(loss_of, self.trained, len(shown), self.config, generator):
            yield loss

    def adapter(self):
        """The tensors that would be stored, for `files.save_tensors`."""
        if self.method.kind != "lora" or self.method.peft:
            return {"trained": self.trained}
        state = {"lora": adapter_state(self.clip.visual)}
        return state | ({"context": self.prompts.context} if self.method.context else {})


def checkpoint_blocks(clip: CLIP) -> None:
    """Every block of both towers keeps only its input and is computed again for the gradient.

    A block can run in three ways: for all tokens, for CLS only, with value-value attention.
    """
    for block in (*clip.visual.blocks, *clip.text.blocks):
        for part, name in ((block, "forward"), (block, "cls_only"), (block.attn, "value_value")):
            setattr(part, name, partial(checkpoint, getattr(part, name), use_reentrant=False))


@contextmanager
def saved_bytes(kept: dict) -> Iterator[None]:
    """Fills `kept` with {storage: (bytes, shape, dtype)} of everything that autograd saves inside
    the with block, each storage once."""
    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tuple(tensor.shape), tensor.dtype)
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
