"""Forgetting: zero-shot accuracy on general scenes before and after adapting to one product.

    python -m bench.forgetting --class bottle nut --seeds 1 2 3

The scenes are those that pretraining holds out.  Hand-written prompts classify which of all class
names a picture shows, and whether the object is damaged.  The question: does low-rank adaptation
forget less than full fine-tuning?  CoOp does not change the towers, so its row must equal "before".
Left out: general data other than drawn scenes.
"""
import statistics
import time
from argparse import Namespace

from bench import accuracy
from bench.tables import write
from minilora import __version__
from minilora.baselines.finetuned import FULL_RATE, CoOp, FullFineTuning
from minilora.bpe import default_tokenizer
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data.images import load_squares
from minilora.data.mvtec import Dataset, few_shot, find_data, load_class
from minilora.detector import Detector
from minilora.io.files import digest_of
from minilora.pretrain.held_out import measure_scenes
from minilora.scenes import scene
from minilora.train import adapt

METHODS = ("before", "LoRA", "full fine-tuning", "CoOp")


def after(method: str, data: Dataset, config: DetectorConfig,
          options: Namespace) -> dict[str, float]:
    """{"nouns": accuracy over class names, "damaged": AUROC} on held-out scenes after adapting."""
    clip, _ = load_clip(options.model, options.device)
    shots = few_shot(data.train, options.shots, config.seed)
    good = load_squares([s.path for s in shots], clip.config.resolution)
    if method == "LoRA":
        detector = Detector(clip, data.name, config)
        adapt(clip, detector.prompts, good, detector.n_adapted_blocks, config, detector.generator,
              lambda step, loss: None)
    elif method != "before":
        {"CoOp": CoOp, "full fine-tuning": FullFineTuning}[method](clip, data.name,
                                                                   config).fit(good)
    found = measure_scenes(clip, default_tokenizer(), options.device, options.count)
    return {"nouns": found["accuracy"], "damaged": found["auroc"]}


def main() -> None:
    p = accuracy.parser()
    p.prog, p.description = "python -m bench.forgetting", __doc__.split("\n")[0]
    p.add_argument("--count", type=int, default=1024, help="held-out scenes")
    p.set_defaults(name="forgetting")
    options = p.parse_args()
    _, weights = load_clip(options.model)
    root, lines = find_data(options.data), []
    for method in METHODS:
        found = []
        for name in options.names:
            data = load_class(root or scene.write_class(options.out / "scenes", name).parent, name)
            for seed in options.seeds:
                config = DetectorConfig(seed=seed, steps=options.steps)
                adapted_to = (str(root), name, seed, options.shots, options.steps)
                mark = digest_of("forgetting", weights.sha256, method, options.count, __version__,
                                 *(adapted_to if method != "before" else ()))
                path = options.out / "cells" / f"forgetting-{mark}.json"
                found.append(accuracy.cell(path, mark, after, method, data, config, options))
                print(f"{name:14s} seed {seed}  {method:18s} {found[-1]}", flush=True)
        row = [method]
        for key in ("nouns", "damaged"):
            values = [100 * f[key] for f in found]
            row.append(f"{statistics.mean(values):.1f} ± "
                       f"{statistics.stdev(values) if len(values) > 1 else 0:.1f}")
        lines.append(row)
    head = (f"zero-shot on {options.count} held-out scenes after adapting to "
            f"{', '.join(options.names)} ({options.shots} shots, seeds "
            f"{' '.join(map(str, options.seeds))}, {options.steps} steps; full fine-tuning at rate "
            f"{FULL_RATE}); weights {weights.name} (sha256 {weights.sha256[:12]}…); minilora "
            f"{__version__}; {time.strftime('%Y-%m-%d')}")
    header = ("method", "class names, accuracy %", "damaged, AUROC %")
    write(options.out, options.name, [("held-out scenes after adapting", header, lines)], [head],
          (header, lines))


if __name__ == "__main__":
    main()
