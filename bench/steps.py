"""Training steps that are compared: which weights move, and what a step has to do for them.

Every step is minilora's own: `training_steps` on `train.adaptation_loss`, or the loss of the method
in baselines/finetuned.py.  Weights and pictures are random, for memory and time do not depend on
their values.  A method that starts from pixels runs the whole tower in every step, what lies before
the first trained block without gradient; with reuse the tokens that enter that block are computed
beforehand, as `minilora fit` does.  Either way a pool of pictures is held, as pixels in half
precision or as tokens, and counted.

Symbols: B pictures a step, N of the pool, P patches, W width, R resolution.
Leaves out: drawing and pasting, which precede training.
"""
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from minilora.baselines.finetuned import FULL_RATE, PROBE_RATE, CoOp, FullFineTuning, LinearProbe
from minilora.bpe import default_tokenizer
from minilora.checkpoint.adapter import adapter_state
from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.coop import STATE_WORDS
from minilora.detector import Detector
from minilora.train import MIN_COVERAGE, adaptation_loss, frozen_states
from minilora.training_steps import training_steps
from minilora.vit import value_value_blocks

NOUN = "bottle"


@dataclass(frozen=True)
class Method:
    """What is trained.  kind: "image", "both", "probe", "context" or "lora"."""

    kind: str
    rank: int = 0
    targets: tuple = ()
    share: int = 0                  # LoRA in the last 1 / share of the blocks; 0: as by default
    context: bool = False           # LoRA and the context vectors
    reuse: bool = False

    def blocks(self, layers):
        """How many of so many get LoRA, as in `DetectorConfig.blocks`."""
        return -(-layers // self.share) if self.share else 0

    def first(self, layers):
        """Number of the first block that a training step has to go through."""
        last = self.blocks(layers) or value_value_blocks(layers)
        return {"image": 0, "both": 0, "probe": layers}.get(self.kind, layers - last)


LORA = {f"LoRA r={r} {','.join(t)} {where}": Method("lora", r, t, share)
        for where, share in (("all blocks", 1), ("last third", 3))
        for t in (("q", "v"), ("q", "k", "v", "out")) for r in (1, 4, 16)}
DEFAULT = Method("lora", DetectorConfig().rank, DetectorConfig().targets, context=True)
METHODS = {"full, both towers": Method("both"), "full, image tower": Method("image"),
           "linear probe": Method("probe"), "CoOp": Method("context"), **LORA,
           "minilora, plain step": DEFAULT, "minilora, with reuse": replace(DEFAULT, reuse=True)}
FULL, PLAIN, REUSE = "full, image tower", "minilora, plain step", "minilora, with reuse"
MAIN = (FULL, "linear probe", "CoOp", "LoRA r=4 q,k,v,out all blocks", PLAIN, REUSE)


class Training:
    """One method on one batch size, ready to make steps.

    config: a `CLIPConfig`;  pool: N, pictures held;  bfloat16: autocast;  checkpointing: blocks are
    computed again in the backward pass.
    """

    def __init__(self, method, clip_config, batch, pool, bfloat16=False, checkpointing=False,
                 device="cpu", steps=2):
        self.method, self.bfloat16 = method, bfloat16
        self.device = torch.device(device)
        with self.device:
            self.clip = CLIP(clip_config)                    # it draws random weights
        self.config = replace(DetectorConfig(), batch=batch, steps=steps, n_train_images=max(pool, batch))
        self.first = method.first(clip_config.vision_layers)
        {"image": self.full, "both": self.full, "probe": self.probe, "context": self.coop,
         "lora": self.lora}[method.kind]()
        if checkpointing:
            checkpoint_blocks(self.clip)

    # ---- what moves ---------------------------------------------------------------------------

    def full(self):
        self.owner = FullFineTuning(self.clip, NOUN, replace(self.config, rate=FULL_RATE))
        self.config, self.loss = self.owner.config, self.owner.loss
        self.clip.visual.requires_grad_(True)
        self.trained = [*self.clip.visual.parameters(), self.owner.prompts.context]
        if self.method.kind == "both":                  # no context: the words themselves move
            self.clip.requires_grad_(True)
            self.trained = list(self.clip.parameters())
            ids = default_tokenizer().tokenize(
                [f"{self.config.context} {state} {NOUN}." for state in STATE_WORDS],
                self.clip.config.context).to(self.device)
            self.owner.prompts = lambda: F.normalize(self.clip.encode_text(ids), dim=-1)

    def probe(self):
        self.owner = LinearProbe(self.clip, NOUN, replace(self.config, rate=PROBE_RATE))
        self.config = self.owner.config
        clip_config = self.clip.config
        self.owner.start(torch.randn(2, 4, clip_config.vision_width, device=self.device))
        self.trained = list(self.owner.layer.parameters())

        def loss(pixels, coverage):
            tokens = frozen_states(self.clip.visual, pixels.float())[-1][:, 1:]
            return self.owner.loss(tokens, (coverage > MIN_COVERAGE).float().to(self.device))
        self.loss = loss

    def coop(self):
        self.owner = CoOp(self.clip, NOUN, self.config)
        self.trained = [self.owner.prompts.context]
        self.prompts, self.loss = self.owner.prompts, self.adaptation

    def lora(self):
        m, layers = self.method, len(self.clip.visual.blocks)
        self.config = replace(self.config, rank=m.rank, targets=m.targets,
                                blocks=m.blocks(layers))
        self.owner = Detector(self.clip, NOUN, self.config)
        self.prompts, self.loss = self.owner.prompts, self.adaptation
        self.trained = [p for p in self.clip.visual.parameters() if p.requires_grad]
        if m.context:
            self.trained.append(self.prompts.context)
        else:
            with torch.no_grad():
                text = self.prompts()
            self.prompts = lambda: text

    # ---- steps --------------------------------------------------------------------------------

    def adaptation(self, shown, coverage):
        """shown: pixels (B, 3, R, R), or tokens (B, 1+P, W) with reuse."""
        visual = self.clip.visual
        entering = shown if self.method.reuse else frozen_states(
            visual, shown.float(), self.first)[-1]
        return adaptation_loss(self.clip, self.prompts, entering, coverage.to(self.device),
                               self.first, self.config.losses)

    def hold_pool(self):
        """Random pixels (N, 3, R, R) in half precision, or tokens (N, 1+P, W); coverage (N, P).

        As in minilora, only the tokens lie on the device.
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

    def steps(self):
        """Yields the loss after each step; the pool is made before the first."""
        shown, coverage = self.hold_pool()

        def loss_of(rows):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                return self.loss(shown[rows], coverage[rows])

        generator = torch.Generator().manual_seed(0)
        for _, loss in training_steps(loss_of, self.trained, len(shown), self.config, generator):
            yield loss

    def adapter(self):
        """What would be stored, for files.save_tensors."""
        if self.method.kind != "lora":
            return {"trained": self.trained}
        state = {"lora": adapter_state(self.clip.visual)}
        return state | ({"context": self.prompts.context} if self.method.context else {})


def checkpoint_blocks(clip):
    """Every block of both towers keeps its input alone and is computed again for the gradient.

    Three ways lead through a block: all of it, CLS alone, and value-value attention.
    """
    for block in (*clip.visual.blocks, *clip.text.blocks):
        for part, name in ((block, "forward"), (block, "cls_only"), (block.attn, "value_value")):
            setattr(part, name, partial(checkpoint, getattr(part, name), use_reentrant=False))


@contextmanager
def saved_bytes(kept):
    """Within the block, kept is filled with {storage: (bytes, shape, dtype)} of all that autograd
    saves, each storage once."""
    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tuple(tensor.shape), tensor.dtype)
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
