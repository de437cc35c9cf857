"""The words of the prompts: states of a product, and sentences around them.

Claim: one sentence is a poor description of "damaged"; the mean over many states and templates is a
better one.  The seven normal and four anomalous states, crossed with templates, are WinCLIP's
compositional prompt ensemble; pretraining writes its captions with the same states.

    Jeong et al. 2023, "WinCLIP: Zero-/few-shot anomaly classification and segmentation", sec. 4.1.

Leaves out: prompts for single classes, which would need knowledge of their defects.
"""

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


def prompt_ensemble(class_name):
    """All sentences about a product.  Returns (normal, anomalous): 7 x 22 and 4 x 22 strings."""
    class_name = class_name.replace("_", " ")
    return tuple(
        [template.format(state.format(class_name)) for state in states for template in TEMPLATES]
        for states in (NORMAL_STATES, ANOMALOUS_STATES)
    )


def demo():
    normal, anomalous = prompt_ensemble("bottle")
    print(f"{len(normal)} normal sentences, {len(anomalous)} anomalous ones; for example")
    for text in (normal[0], normal[68], anomalous[7], anomalous[-1]):
        print("   ", text)


if __name__ == "__main__":
    demo()
