"""The parts put together: adapt CLIP to K good pictures, score pictures, save and load what was learned.

Claim: a frozen CLIP with (1) a memory of good patches and (2) prompts and low-rank corrections learned
on pasted defects separates good from defective pictures of one product.

    fit     rotate and relight the shots -> paste defects -> train LoRA and prompts on the masks;
            then fill the memory and set the threshold, all from good pictures
    score   five rows, so that the use of every part stays visible (see ROWS)

Leaves out: choosing anything by test pictures, several products in one model.
Symbols: K shots, B images, P patches, W width, E embedding, R resolution.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from minilora import anomaly
from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.coop import PromptLearner, ensemble_features
from minilora.defects import paste_defect
from minilora.files import load_tensors, save_tensors
from minilora.images import augment, normalise
from minilora.lora import add_lora, adapter_state, delta_norms, load_adapter_state, lora_off
from minilora.losses import cross_entropy, dice_loss, focal_loss

ROWS = {
    "zero-shot": "hand-written prompts, no shots",
    "memory": "frozen features, memory only",
    "text": "learned prompts and LoRA, text map only",
    "lora-off": "learned prompts and memory, LoRA switched off",
    "adapted": "all together",
}
VERSION = 1


@dataclass(frozen=True)
class Settings:
    """Everything that can be chosen; the same defaults for every product.

    resolution: 0 is the model's own;  scales: the memory sees each picture at these shares of it;
    blocks: the last n blocks get LoRA, 0 the last third;  memory_layers: block outputs that the memory
    keeps, () takes the two before the adapted blocks;  window: patches a side that are averaged;
    copies: slightly moved and relit copies of each shot in the memory;  turns: whether it also holds
    turned copies, None lets the shots decide;  context: words that the learned
    vectors start from;  pool: pictures to train on, every second with a defect.
    """

    resolution: int = 0
    steps: int = 100
    batch: int = 16
    pool: int = 320
    rate: float = 5e-4
    rank: int = 4
    alpha: float = 8
    targets: tuple = ("q", "k", "v", "out")
    blocks: int = 0
    context: str = "a photo of a"
    scales: tuple = (1.0, 0.5)
    memory_layers: tuple = ()
    window: int = 3
    copies: int = 3
    turns: bool | None = None
    sigma: float = 4.0
    text_weight: float = 3.0
    false_positive_rate: float = 0.05
    seed: int = 1


class Detector:
    """Few-shot anomaly detector for one product on top of a CLIP, which is frozen.

    clip: a `CLIP`, changed in place (its image tower gets LoRA layers that start without effect);
    noun: what the prompts call the product.
    """

    def __init__(self, clip, noun, settings=Settings()):
        self.clip, self.noun, self.settings = (
            clip.requires_grad_(False),
            noun.replace("_", " "),
            settings,
        )
        layers = len(clip.visual.blocks)
        self.resolution = settings.resolution or clip.config.resolution
        adapted = settings.blocks or -(-layers // 3)  # the last third, rounded up
        self.first = layers - adapted + 1  # first adapted block, from 1
        self.memory_layers = settings.memory_layers or (max(1, self.first - 2), self.first - 1)
        self.generator = torch.Generator().manual_seed(settings.seed)
        add_lora(
            clip.visual,
            settings.targets,
            range(self.first, layers + 1),
            settings.rank,
            settings.alpha,
            self.generator,
        )
        self.device = clip.logit_scale.device
        with torch.no_grad():
            self.hand_written = ensemble_features(clip, default_tokenizer(), self.noun)  # (2, E)
        self.learned = self.hand_written  # until `fit`
        self.prompts = PromptLearner(
            clip,
            default_tokenizer(),
            self.noun,
            init=settings.context,
            length=len(default_tokenizer().encode(settings.context)),
        )
        self.memory, self.turned, self.threshold, self.losses = None, None, None, []

    # ---- features ---------------------------------------------------------------------------------

    def frozen_states(self, pixels):
        """Hidden states of the pretrained tower.  pixels: (B, 3, R, R) in [0, 1]."""
        visual = self.clip.visual
        with torch.no_grad(), lora_off(visual):
            return visual.hidden_states(visual.embed(normalise(pixels.to(self.device))))

    def adapted_states(self, frozen):
        """The same with LoRA: blocks before the first adapted one need no second pass."""
        states = list(frozen[: self.first])
        for block in self.clip.visual.blocks[self.first - 1 :]:
            states.append(block(states[-1]))
        return states

    def patch_features(self, pixels, states):
        """What the memory keeps: for each scale (layers, B, P, W).  states: those of the first scale."""
        features = []
        for scale in self.settings.scales:
            if scale != 1:
                side = (
                    max(1, round(self.resolution * scale / self.clip.visual.patch))
                    * self.clip.visual.patch
                )
                states = self.frozen_states(F.interpolate(pixels, (side, side), mode="area"))
            features.append(
                torch.stack(
                    [
                        anomaly.neighbourhood(states[n][:, 1:], self.settings.window)
                        for n in self.memory_layers
                    ]
                )
            )
        return features

    def text_probability(self, states, text):
        """Probability of "anomalous" per patch, (B, P), by the tower as it is, with or without LoRA."""
        return anomaly.text_map(
            self.clip.visual.value_value(states), text, self.clip.logit_scale.exp()
        )

    def frozen_text_probability(self, states, text):
        """The same with LoRA switched off: the value-value path runs through adapted blocks too."""
        with lora_off(self.clip.visual):
            return self.text_probability(states, text)

    # ---- fit --------------------------------------------------------------------------------------

    def fit(self, pictures, report=lambda step, loss: None):
        """Learns from good pictures alone.

        pictures: (K, 3, R, R) in [0, 1], K >= 1;  report(step, loss) is called after every step.
        """
        if self.settings.steps:
            self.train(pictures, report)
        self.remember(pictures)
        return self

    def training_pool(self, pictures):
        """Good pictures turned and relit, half of them with a pasted defect, as far as they need no gradient.

        Returns (states entering the first adapted block (N, 1+P, W), mask coverage (N, P)).
        """
        states, coverage = [], []
        for start in range(0, self.settings.pool, self.settings.batch):
            rows = [
                k % len(pictures)
                for k in range(start, min(start + self.settings.batch, self.settings.pool))
            ]
            batch = augment(pictures[rows], self.generator)
            masks = torch.zeros(len(batch), *batch.shape[2:])
            for k in range(0, len(batch), 2):
                batch[k], mask = paste_defect(batch[k], self.generator, others=pictures)
                masks[k] = mask
            states.append(self.frozen_states(batch)[self.first - 1])
            coverage.append(F.avg_pool2d(masks, self.clip.visual.patch).flatten(1))
        return torch.cat(states), torch.cat(coverage).to(self.device)

    def train(self, pictures, report):
        """LoRA and context vectors, on pasted defects.  What is frozen was computed once, in the pool."""
        entering, coverage = self.training_pool(pictures)
        lora = [p for p in self.clip.visual.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            [{"params": lora}, {"params": [self.prompts.context]}],
            lr=self.settings.rate,
            weight_decay=0.01,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.settings.rate, total_steps=self.settings.steps
        )
        for step in range(self.settings.steps):
            rows = torch.randperm(len(entering), generator=self.generator)[: self.settings.batch]
            loss = self.loss(entering[rows], coverage[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            self.losses.append(loss.item())
            report(step, loss.item())
        with torch.no_grad():
            self.learned = self.prompts()

    def loss(self, entering, coverage):
        """Focal and dice loss of the text map on the masks, cross-entropy of the picture as a whole."""
        states = [None] * (self.first - 1) + [entering]
        for block in self.clip.visual.blocks[self.first - 1 :]:
            states.append(block(states[-1]))
        text = self.prompts()  # (2, E)
        probability = self.text_probability(states, text)  # (B, P)
        target = (coverage > 0.15).float()
        logits = self.clip.similarity(self.clip.visual.pool(states[-1]), text)  # (B, 2)
        return (
            focal_loss(probability, target)
            + 0.5 * dice_loss(probability, target)
            + 0.1 * cross_entropy(logits, (coverage.amax(1) > 0).long())
        )

    @torch.no_grad()
    def remember(self, pictures):
        """Fills the memory with patches of the shots and sets the threshold, both from good pictures alone."""
        shown, owners = self.copies_of(pictures)
        self.turned = self.settings.turns
        if self.turned is None and len(pictures) > 1:
            self.turned = self.turning_helps(pictures)
        if self.turned:
            turned = [
                augment(shown, self.generator, angle=0, shift=0, brightness=0, contrast=0, gamma=0)
                for _ in range(3)
            ]
            shown, owners = torch.cat([shown, *turned]), owners.repeat(4)
        if len(pictures) == 1:  # one shot: its copies stand in
            owners = torch.arange(len(owners))
        states = [self.frozen_states(part) for part in shown.split(self.settings.batch)]
        parts = [
            self.patch_features(x, s) for x, s in zip(shown.split(self.settings.batch), states)
        ]
        tokens = [
            torch.cat(scale, dim=1) for scale in zip(*parts)
        ]  # for each scale (layers, N, P, W)
        self.memory = [anomaly.Memory.of(layers, owners) for layers in tokens]
        left_out = sum(self.to_map(m.left_out) / m.level for m in self.memory) / len(self.memory)
        text = torch.cat(
            [self.text_probability(self.adapted_states(s), self.learned) for s in states]
        )
        scores = anomaly.image_score(self.fuse(left_out, self.to_map(text).cpu()))
        self.threshold = anomaly.threshold(scores, self.settings.false_positive_rate)

    def copies_of(self, pictures):
        """The shots and slightly moved and relit copies.  Returns (pictures (N, 3, R, R), owners (N,))."""
        owners = torch.arange(len(pictures)).repeat(self.settings.copies)
        copies = [
            augment(
                pictures,
                self.generator,
                turns=False,
                flips=False,
                angle=2,
                shift=0.01,
                brightness=0.05,
                contrast=0.05,
                gamma=0.05,
            )
            for _ in range(self.settings.copies - 1)
        ]
        return torch.cat([pictures, *copies]), owners

    def turning_helps(self, pictures):
        """Do the shots lie at any angle?  Then turned copies of the others explain each of them better.

        Compares, over the shots, the distance to the others as they are with that to the others turned
        a quarter, a half and three quarters.  A gain of a tenth decides for turned copies.
        """
        every = torch.cat([torch.rot90(pictures, k, (2, 3)) for k in range(4)])
        owners = torch.arange(len(pictures)).repeat(4)
        states = [self.frozen_states(part) for part in every.split(self.settings.batch)]
        tokens = torch.cat([s[self.memory_layers[-1]][:, 1:] for s in states])  # (4K, P, W)
        upright = anomaly.leave_one_out(tokens[: len(pictures)], owners[: len(pictures)]).mean()
        return bool(anomaly.leave_one_out(tokens, owners)[: len(pictures)].mean() < 0.9 * upright)

    # ---- score ------------------------------------------------------------------------------------

    def fuse(self, memory, text):
        """Memory map in units of what is usual among good pictures, plus the text map; both (B, R, R)."""
        return memory + self.settings.text_weight * text

    def to_map(self, patch_scores):
        return anomaly.to_pixels(
            patch_scores, self.resolution, self.settings.sigma * self.resolution / 224
        )

    def memory_map(self, pixels, states):
        """Mean over the scales of the distance to the memory, (B, R, R)."""
        features = self.patch_features(pixels, states)
        maps = [self.to_map(m.distance(f)) / m.level for m, f in zip(self.memory, features)]
        return sum(maps) / len(maps)

    @torch.no_grad()
    def maps(self, pixels):
        """Anomaly maps of every row that this detector has.  pixels: (B, 3, R, R) in [0, 1].

        Returns {row: (B, R, R)}; without shots there is only "zero-shot".
        """
        pixels = pixels.to(self.device)
        frozen = self.frozen_states(pixels)
        rows = {"zero-shot": self.to_map(self.frozen_text_probability(frozen, self.hand_written))}
        if self.memory is not None:
            memory = self.memory_map(pixels, frozen)
            text = self.to_map(self.text_probability(self.adapted_states(frozen), self.learned))
            plain = self.to_map(self.frozen_text_probability(frozen, self.learned))
            rows |= {
                "memory": memory,
                "text": text,
                "lora-off": self.fuse(memory, plain),
                "adapted": self.fuse(memory, text),
            }
        return {row: maps.cpu() for row, maps in rows.items()}

    def score(self, pixels):
        """(map (B, R, R), score (B,)) by everything there is: the row "adapted", or "zero-shot"."""
        maps = self.maps(pixels)
        best = maps["adapted" if self.memory is not None else "zero-shot"]
        return best, anomaly.image_score(best)

    def parameters(self):
        """(trainable, total) numbers of parameters; the frozen CLIP counts once."""
        trained = [p for p in self.clip.parameters() if p.requires_grad] + [self.prompts.context]
        total = sum(p.numel() for p in self.clip.parameters()) + self.prompts.context.numel()
        return sum(p.numel() for p in trained), total

    def delta_norms(self):
        """How far LoRA moved each adapted projection: {name: norm of its delta}."""
        return delta_norms(self.clip.visual)

    # ---- save and load ----------------------------------------------------------------------------

    def save(self, folder, weights):
        """Writes adapter.pt (what was learned; never the base weights) and memory.pt into a folder.

        weights: the `Weights` that the base model came from; their sha256 ties the adapter to them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.settings).items()
        }
        if self.memory is not None:
            save_tensors(folder / "memory.pt", {"scales": [m.state() for m in self.memory]})
        save_tensors(
            folder / "adapter.pt",
            {
                "version": VERSION,
                "noun": self.noun,
                "settings": settings,
                "weights": {"name": weights.name, "sha256": weights.sha256},
                "lora": adapter_state(self.clip.visual),
                "context": self.prompts.context.detach(),
                "text": self.learned,
                "threshold": self.threshold,
            },
        )

    @classmethod
    def load(cls, folder, clip, weights):
        """The detector that `save` wrote, on a freshly loaded base model.

        Raises ValueError if the adapter belongs to other base weights or another version.
        """
        saved = load_tensors(Path(folder) / "adapter.pt")
        if saved.get("version") != VERSION:
            raise ValueError(
                f"{folder}/adapter.pt: expected format {VERSION}, found {saved.get('version')}; fit again"
            )
        if saved["weights"]["sha256"] != weights.sha256:
            raise ValueError(
                f"{folder}/adapter.pt was fitted on {saved['weights']['name']} "
                f"(sha256 {saved['weights']['sha256'][:12]}…), found {weights.name} "
                f"({weights.sha256[:12]}…); load it onto the weights it was fitted on"
            )
        settings = Settings(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in saved["settings"].items()}
        )
        detector = cls(clip, saved["noun"], settings)
        load_adapter_state(clip.visual, saved["lora"])
        detector.prompts.context.data.copy_(saved["context"])
        detector.learned, detector.threshold = saved["text"].to(detector.device), saved["threshold"]
        if (Path(folder) / "memory.pt").exists():
            memory = load_tensors(Path(folder) / "memory.pt")
            detector.memory = [
                anomaly.Memory.from_state(m, detector.device) for m in memory["scales"]
            ]
        return detector


def demo():
    """An untrained toy tower and noise pictures: only the mechanism shows, not a detector."""
    generator = torch.Generator().manual_seed(0)
    config = CLIPConfig(
        embed=32,
        resolution=64,
        vision_layers=3,
        vision_width=64,
        patch=16,
        text_width=64,
        text_layers=1,
    )
    clip = CLIP(config).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)
    detector = Detector(clip, "plate", Settings(steps=20, pool=32, batch=8, rank=2, alpha=2))
    trained, total = detector.parameters()
    print(f"training {trained:,} of {total:,} parameters on {len(good) - 1} good pictures")
    detector.fit(good[:4])
    print(
        f"loss {detector.losses[0]:.3f} -> {detector.losses[-1]:.3f}, "
        f"LoRA moved by {sum(detector.delta_norms().values()):.3f}"
    )
    bad = good[4:].clone()
    bad[0, :, 16:40, 16:40] = 0.1
    for name, picture in (("good", good[4:]), ("defective", bad)):
        scores = {
            row: round(anomaly.image_score(m).item(), 3)
            for row, m in detector.maps(picture).items()
        }
        print(f"{name:9s} {scores}")
    print(f"threshold {detector.threshold:.3f}, from the good pictures alone")


if __name__ == "__main__":
    demo()
