"""One lever at a time: what each choice in `Settings` gives or costs.

    python -m bench.ablation --class bottle cable --seeds 1 2 3

Scored on the even-numbered test pictures alone, where defaults may be chosen; the odd-numbered ones
stay for the results.  Cells are kept as in accuracy.py.
Leaves out: combinations of levers.
"""
import time
from dataclasses import asdict, replace

from bench import accuracy
from minilora import __version__, report, scenes
from minilora.checkpoint import load_clip
from minilora.data import few_shot, find_data, load_class
from minilora.detector import Detector, Settings
from minilora.fit import judge, load_pictures

LEVERS = {
    "default": {},
    "memory layers 1, 2": {"memory_layers": (1, 2)},
    "memory layers 3, 4": {"memory_layers": (3, 4)},
    "full resolution only": {"scales": (1.0,)},
    "half resolution only": {"scales": (0.5,)},
    "also one and a half": {"scales": (1.5, 1.0, 0.5)},
    "no turned copies": {"turns": False},
    "no moved and relit copies": {"copies": 1},
    "text map not added": {"text_weight": 0.0},
    "text map with weight 1": {"text_weight": 1.0},
    "text map with weight 6": {"text_weight": 6.0},
    "no smoothing to speak of": {"sigma": 1.0},
    "LoRA on q, v": {"targets": ("q", "v")},
    "LoRA in all blocks": {"blocks": 5},
    "rank 1": {"rank": 1, "alpha": 2},
    "rank 16": {"rank": 16, "alpha": 32},
    "30 steps": {"steps": 30},
    "300 steps": {"steps": 300},
    "pool of 96": {"pool": 96},
}


def compute(settings, data, options):
    """{row: metrics} on the even-numbered test pictures."""
    clip, _ = load_clip(options.model, options.device)
    resolution = settings.resolution or clip.config.resolution
    samples = data.test[::2]
    good = load_pictures(few_shot(data.train, options.shots, settings.seed), resolution)
    detector = Detector(clip, data.name, settings).fit(good)
    return accuracy.with_metrics(judge(detector, load_pictures(samples, resolution)), samples)


def main():
    p = accuracy.parser()
    p.prog, p.description = "python -m bench.ablation", __doc__.split("\n")[0]
    p.add_argument("--levers", nargs="+", default=list(LEVERS), choices=list(LEVERS))
    p.set_defaults(name="ablation")
    options = p.parse_args()
    options.shots = options.shots if options.shots == "all" else int(options.shots)
    _, weights = load_clip(options.model)
    root, found = find_data(options.data), {}
    source = "scenes" if root is None else "pictures"
    for name in options.names:
        data = load_class(root or scenes.write_class(options.out / "scenes", name).parent, name)
        for lever in options.levers:
            for seed in options.seeds:
                settings = replace(Settings(seed=seed, steps=options.steps,
                                            resolution=options.resolution), **LEVERS[lever])
                mark = accuracy.mark_of("even", weights.sha256, source, name, options.shots,
                                        asdict(settings), __version__)
                path = options.out / "cells" / f"even-{source}-{name}-{mark}.json"
                rows = accuracy.cell(path, mark, compute, settings, data, options)
                found.setdefault((lever, name), []).append(rows["adapted"])
                print(f"{name:14s} seed {seed}  {lever:26s} "
                      f"{report.percent(rows['adapted']['image_auroc'])}", flush=True)
    head = [f"row adapted on the even-numbered pictures; {source}; {options.shots} shots, seeds "
            f"{' '.join(map(str, options.seeds))}; weights {weights.name} "
            f"(sha256 {weights.sha256[:12]}…); minilora {__version__}; {time.strftime('%Y-%m-%d')}"]
    accuracy.publish(found, head, options)


if __name__ == "__main__":
    main()
