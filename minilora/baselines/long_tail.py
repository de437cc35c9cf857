"""Losses for a long-tailed distribution: many good pictures, few pictures of some defects.

    Cui et al. 2019, "Class-balanced loss based on effective number of samples", eqs. 2, 3.
    Zhu et al. 2022, "Balanced contrastive learning for long-tailed visual recognition" (BCL).

    class weights       (1 - beta) / (1 - beta^n): the hundredth picture of a class adds little
                        information
    class averaging     every class has the same weight in the denominator, whatever its number of
                        pictures                                                           eq. 5
    class complement    a learned prototype of every class is part of every batch, so that rare
                        classes always occur                                               eq. 6
    logit compensation  adds the logarithm of a class's frequency to its logit
                                                                      Menon et al. 2021

Symbols: B images, C classes, D features, n pictures of a class.
Left out: two-stage training, ensembles of experts.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BETA = 0.99                     # the effective number of pictures saturates at 1 / (1 - beta) = 100
CONTRAST_TEMPERATURE = 0.1


def class_weights(counts: Sequence[int], beta: float = BETA) -> Tensor:
    """Weights (C,) of mean 1 for the cross-entropy.

    counts: number of pictures of each class.  Raises ValueError if one is below 1.
    """
    n = torch.as_tensor(counts, dtype=torch.float64)                        # (C,)
    if (n < 1).any():
        raise ValueError(f"class_weights: expected at least one picture of each class, found "
                         f"{n.int().tolist()}; leave out classes without pictures")
    weights = (1 - beta) / (1 - beta ** n)
    return (weights * len(weights) / weights.sum()).float()


def balanced_contrastive_loss(features: Tensor, targets: Tensor, prototypes: Tensor,
                              temperature: float = CONTRAST_TEMPERATURE) -> Tensor:
    """Eq. 6: the loss of each picture, (B,), the mean over all others of its class.

    features: (B, D), prototypes: (C, D), not normalised;  targets: (B,) class numbers.
    """
    z = F.normalize(torch.cat([features, prototypes]), dim=-1)              # (B + C, D)
    classes = torch.arange(len(prototypes), device=targets.device)
    label = torch.cat([targets, classes])                                   # (B + C,)
    count = len(features)
    logits = z[:count] @ z.T / temperature                                  # (B, B + C)
    others = 1 - torch.eye(count, len(z), device=z.device)                  # not the picture itself
    member = F.one_hot(label, len(prototypes)).to(z.dtype)                  # (B + C, C)
    size = others @ member                                                  # (B, C), |B_j|
    shift = logits.amax(1, keepdim=True).detach()                           # keeps exp finite
    mean = ((logits - shift).exp() * others) @ member / size                # class averaging
    log_share = logits - shift - mean.sum(1, keepdim=True).log()            # (B, B + C)
    positives = (label[None] == targets[:, None]) * others                  # (B, B + C)
    return -(log_share * positives).sum(1) / positives.sum(1)


def compensated_logits(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Logits (B, C) for training, plus the logarithm of the class frequencies.

    The network must then give rare classes larger logits to reach the same loss.
    """
    share = torch.as_tensor(counts, dtype=logits.dtype, device=logits.device)
    return logits + (share / share.sum()).log()


def group_by_frequency(counts: Sequence[int]) -> dict[str, list[int]]:
    """{"head", "middle", "tail": class numbers}; head: the third with the most pictures."""
    order = sorted(range(len(counts)), key=lambda k: (-counts[k], k))
    third = max(1, len(order) // 3)
    return {"head": order[:third], "middle": order[third:-third], "tail": order[-third:]}


def demo() -> None:
    """Weights of four classes, and the loss of rare pictures with a larger common class."""
    counts = [60, 12, 5, 2]
    print("pictures", counts, "weights", [round(w, 2) for w in class_weights(counts).tolist()])
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 12 + [1, 2])
    prototypes = torch.eye(4, 8)
    features = prototypes[targets] + 0.3 * torch.randn(14, 8, generator=generator)
    loss = balanced_contrastive_loss(features, targets, prototypes)
    wrong = balanced_contrastive_loss(features, targets.roll(1), prototypes)
    print(f"loss with the true labels {loss.mean():.2f}, with wrong labels {wrong.mean():.2f}")
    doubled = torch.cat([features, features[:12]]), torch.cat([targets, targets[:12]])
    rare = balanced_contrastive_loss(*doubled, prototypes)[12:14]
    print(f"loss of rare pictures {loss[12:].mean():.4f}, with twice as many common ones "
          f"{rare.mean():.4f}")
    print("groups", group_by_frequency(counts))


if __name__ == "__main__":
    demo()
