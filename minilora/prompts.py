"""Hand-written prompts: sentences about a flawless product, and sentences about a damaged one.

Claim: one sentence describes "damaged" poorly; the mean over many states and templates is better.
Seven normal and four anomalous states, crossed with 22 templates, are WinCLIP's compositional
prompt ensemble. Pretraining writes its captions with the same states.

    Jeong et al. 2023, "WinCLIP: Zero-/few-shot anomaly classification and segmentation", sec. 4.1.
    The authors published no code; a reimplementation by others:
        https://github.com/zqhang/Accurate-WinCLIP-pytorch

Left out: prompts for single classes, which would need knowledge of their defects.
"""

from minilora.io.demos import run_demo

NORMAL_STATES = ("{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw",
                 "{} without defect", "{} without damage")
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = (
    "a photo of a {}.", "a photo of the {}.",
    "a cropped photo of a {}.", "a cropped photo of the {}.",
    "a close-up photo of a {}.", "a close-up photo of the {}.",
    "a bright photo of a {}.", "a bright photo of the {}.",
    "a dark photo of a {}.", "a dark photo of the {}.",
    "a blurry photo of a {}.", "a blurry photo of the {}.",
    "a jpeg corrupted photo of a {}.", "a jpeg corrupted photo of the {}.",
    "a photo of a small {}.", "a photo of the small {}.",
    "a photo of a large {}.", "a photo of the large {}.",
    "a photo of a {} for visual inspection.", "a photo of the {} for visual inspection.",
    "a photo of a {} for anomaly detection.", "a photo of the {} for anomaly detection.",
)


def prompt_ensemble(class_name: str) -> tuple[list[str], list[str]]:
    """All sentences about a product: 7 x 22 normal ones and 4 x 22 anomalous ones."""
    class_name = class_name.replace("_", " ")           # MVTec AD's folders: "metal_nut"
    return tuple(
        [template.format(state.format(class_name)) for state in states for template in TEMPLATES]
        for states in (NORMAL_STATES, ANOMALOUS_STATES)
    )


def demo() -> None:
    normal, anomalous = prompt_ensemble("bottle")
    print(f"{len(normal)} normal sentences, {len(anomalous)} anomalous ones; for example")
    for text in (normal[0], normal[68], anomalous[7], anomalous[-1]):
        print("   ", text)


# Exercise 1: Tokenize all sentences about "metal_nut" (bpe.py). Do all fit into CLIP's 77 tokens?
# Exercise 2: Encode "metal_nut" and "metal nut" (bpe.py). Why is the underscore replaced?
if __name__ == "__main__":
    run_demo("prompts", demo)
