"""Training hyperparameters of each method: in its paper, and in bench.accuracy.

All methods use the same tower, pictures and resolution here, so backbones and resolutions differ
from those of the papers.  This table lists all other differences.
Left out: differences that the module of a method lists itself.
"""
from minilora.baselines import anomalyclip, finetuned, winclip
from minilora.config import DetectorConfig

SAME = DetectorConfig()
HEADER = ("method", "in the paper", "here")


def recipes() -> list[tuple[str, str, str]]:
    """[(method, the paper's hyperparameters, ours)]."""
    agnostic, sides = anomalyclip.TRAIN_CONFIG, " and ".join(f"{k}x{k}" for k in winclip.SCALES)
    pasted = (f"{SAME.steps} steps of {SAME.batch} pictures with pasted defects (pool of "
              f"{SAME.n_train_images}), AdamW")
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
        ("coop", "16 context vectors; SGD, rate 2e-3, up to 200 epochs on labelled pictures",
         f"context \"{SAME.context}\"; {pasted}, rate {SAME.rate:g}"),
        ("full fine-tuning", "--",
         f"image tower and context; {pasted}, rate {finetuned.FULL_RATE:g}"),
        ("linear probe", "logistic regression on whole pictures, L-BFGS",
         f"logistic regression on patches; {pasted}, rate {finetuned.PROBE_RATE:g}")]


def main() -> None:
    for method, paper, here in recipes():
        print(f"{method}\n  paper: {paper}\n  here:  {here}")


if __name__ == "__main__":
    main()
