"""Training hyperparameters of each method: in its paper, and in bench.accuracy.

All methods use the same tower, pictures and resolution here, so backbones and resolutions differ
from those of the papers.  This table lists all other differences.
Left out: differences that the module of a method lists itself.
"""
from bench.extra_methods import BITFIT_RATE
from bench.ladder import REDUCTION
from minilora.baselines import anomalyclip, anomalydino, finetuned, winclip
from minilora.config import DetectorConfig
from minilora.memory_bank import CORESET_SHARE

SAME = DetectorConfig()
HEADER = ("method", "in the paper", "here")


def recipes() -> list[tuple[str, str, str]]:
    """[(method, the paper's hyperparameters, ours)]."""
    agnostic, sides = anomalyclip.TRAIN_CONFIG, " and ".join(f"{k}x{k}" for k in winclip.SCALES)
    pasted = (f"{SAME.steps} steps of {SAME.batch} pictures with pasted defects (pool of "
              f"{SAME.n_train_images}), AdamW")
    adapted = (f"rank {SAME.rank}, alpha {SAME.alpha:g} on {', '.join(SAME.targets)}, and context; "
               f"{pasted}, rate {SAME.rate:g}")
    return [
        ("minilora", "--", f"LoRA rank {SAME.rank}, alpha {SAME.alpha:g} on "
         f"{', '.join(SAME.targets)} of the last third of the blocks, context \"{SAME.context}\"; "
         f"{pasted}, rate {SAME.rate:g}"),
        ("WinCLIP, WinCLIP+", "ViT-B/16+ at 240 px; windows 2x2 and 3x3; 7 normal and 4 anomalous "
         "states x templates; nothing is trained", f"windows {sides}; the same states"),
        ("AnomalyCLIP", "ViT-L/14 at 518 px; 12 context vectors, 4 learned tokens in each of the "
         "first 9 layers of the text tower; maps of 4 layers; Adam, rate 1e-3, batch 8, 15 epochs "
         "on the test set of another benchmark", f"{anomalyclip.N_CTX} context vectors, no tokens "
         f"inside the tower, one map; AdamW, rate {agnostic.rate:g}, batch {agnostic.batch}, "
         f"{agnostic.steps} steps on the test pictures of the other embedded classes"),
        ("patchcore", "WideResNet-50 at 224 px, all good pictures; coreset 1 to 25 %",
         f"coreset {CORESET_SHARE:.0%}"),
        ("anomalydino", "DINOv2 ViT-S/14 at 448 px; shots in 8 rotations; top 1 % of the patches",
         f"{len(anomalydino.ANGLES)} rotations, top {anomalydino.TOP_PATCHES:.0%}"),
        ("coop", "16 context vectors; SGD, rate 2e-3, up to 200 epochs on labelled pictures",
         f"context \"{SAME.context}\"; {pasted}, rate {SAME.rate:g}"),
        ("full fine-tuning", "--",
         f"image tower and context; {pasted}, rate {finetuned.FULL_RATE:g}"),
        ("full fine-tuning bf16", "--", "the same, forward pass in bfloat16 by autocast; scoring "
         "in float32"),
        ("lora", "language models, rank 4 on q and v; AdamW, rate 2e-4", f"{adapted}, all blocks"),
        ("lora last third", "--", f"{adapted}, last third of the blocks"),
        ("lora-fa", "language models; AdamW, a rate for each task",
         f"{adapted}, all blocks, A frozen"),
        ("dora", "LLaMA 7B: rank 32 on q, k, v and the feed-forward layer; AdamW, rate 2e-4",
         f"{adapted}, all blocks, and magnitudes"),
        ("bitfit", "BERT; AdamW, batch 8; rate 1e-3 by default in the authors' code",
         f"biases of the image tower, and context; {pasted}, rate {BITFIT_RATE:g}"),
        ("ladder", "T5: reduction 8, started from pruned weights; rate 3e-3",
         f"reduction {REDUCTION}, random start, added to the patch features; and context; "
         f"{pasted}, rate {SAME.rate:g}"),
        ("linear probe", "logistic regression on whole pictures, L-BFGS",
         f"logistic regression on patches; {pasted}, rate {finetuned.PROBE_RATE:g}")]


def main() -> None:
    for method, paper, here in recipes():
        print(f"{method}\n  paper: {paper}\n  here:  {here}")


if __name__ == "__main__":
    main()
