"""When most pictures are good and some defects are rare: weights, and balanced contrast.

    Cui et al. 2019, "Class-balanced loss based on effective number of samples", eqs. 2, 3.
    Zhu et al. 2022, "Balanced contrastive learning for long-tailed visual recognition" (BCL).

    class weights       (1 - beta) / (1 - beta^n): the hundredth picture of a class says less
    class averaging     a class counts once in the denominator, however many pictures it has   eq. 5
    class complement    a learned prototype of every class is in every batch, so that rare ones are
                        always there                                                           eq. 6
    compensation        logits plus the logarithm of a class's share           Menon et al. 2021

Symbols: B images, V views of them, C classes, D features.  Leaves out: two-stage training, experts.
"""
import torch
import torch.nn.functional as F

BETA = 0.99                     # a class of 100 pictures and more has "enough"
CONTRAST_TEMPERATURE = 0.1


def class_weights(counts, beta=BETA):
    """Weights (C,) of mean 1 for cross-entropy.  counts: pictures of each class, from 1."""
    counts = torch.as_tensor(counts, dtype=torch.float64)
    if (counts < 1).any():
        raise ValueError(f"class_weights: expected at least one picture of each class, found "
                         f"{counts.int().tolist()}; leave out classes without pictures")
    weights = (1 - beta) / (1 - beta ** counts)
    return (weights * len(weights) / weights.sum()).float()


def balanced_contrast(features, targets, prototypes, temperature=CONTRAST_TEMPERATURE):
    """Eq. 6: of each picture the mean of -log of its share over those of its class, (B,).

    features: (B, D), prototypes: (C, D), of any length;  targets: (B,).
    """
    z = F.normalize(torch.cat([features, prototypes]), dim=-1)              # (B + C, D)
    classes = torch.arange(len(prototypes), device=targets.device)
    label = torch.cat([targets, classes])                                   # (B + C,)
    count = len(features)
    logits = z[:count] @ z.T / temperature                                  # (B, B + C)
    others = 1 - torch.eye(count, len(z), device=z.device)                  # without oneself
    member = F.one_hot(label, len(prototypes)).to(z.dtype)                  # (B + C, C)
    size = others @ member                                                  # (B, C), |B_j|
    shift = logits.amax(1, keepdim=True).detach()                           # keeps exp finite
    mean = ((logits - shift).exp() * others) @ member / size                # class averaging
    log_share = logits - shift - mean.sum(1, keepdim=True).log()            # (B, B + C)
    alike = (label[None] == targets[:, None]) * others                      # (B, B + C)
    return -(log_share * alike).sum(1) / alike.sum(1)


def compensated(logits, counts):
    """Logits (B, C) for training: a common class has to be clearer to win by as much."""
    share = torch.as_tensor(counts, dtype=logits.dtype, device=logits.device)
    return logits + (share / share.sum()).log()


def by_frequency(counts):
    """{"head", "middle", "tail": numbers of classes}: the third with most pictures, and so on."""
    order = sorted(range(len(counts)), key=lambda k: (-counts[k], k))
    third = max(1, len(order) // 3)
    return {"head": order[:third], "middle": order[third:-third], "tail": order[-third:]}


def demo():
    counts = [60, 12, 5, 2]
    print("pictures", counts, "weights", [round(w, 2) for w in class_weights(counts).tolist()])
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 12 + [1, 2])
    prototypes = torch.eye(4, 8)
    features = prototypes[targets] + 0.3 * torch.randn(14, 8, generator=generator)
    loss = balanced_contrast(features, targets, prototypes)
    wrong = balanced_contrast(features, targets.roll(1), prototypes)
    print(f"features near their prototypes: loss {loss.mean():.2f}, with other labels "
          f"{wrong.mean():.2f}")
    twice = torch.cat([features, features[:12]]), torch.cat([targets, targets[:12]])
    rare = balanced_contrast(*twice, prototypes)[12:14]
    print(f"rare pictures: loss {loss[12:].mean():.4f}, with the common class twice "
          f"{rare.mean():.4f}")
    print("groups", by_frequency(counts))


if __name__ == "__main__":
    demo()
