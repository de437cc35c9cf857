"""The losses of the adaptation: cross-entropy for images, focal and dice loss for anomaly maps.

    CE   = log sum_j exp z_j - z_y                      softmax cross-entropy
    FL   = -a_t (1 - p_t)^gamma log p_t                 Lin et al. 2017, "Focal loss for dense
                                                        object detection", eq. 5
    Dice = 1 - 2 sum p g / (sum p^2 + sum g^2)          Milletari et al. 2016, "V-Net", section 3
    Authors' code of FL: https://github.com/facebookresearch/Detectron

Claim: a defect covers few pixels, so the answer "all good" already has a low cross-entropy.
Focal loss reduces the weight of easy pixels. Dice loss measures the overlap with the mask and
ignores true negatives.

Symbols: z logits, y the right class, p probability of "defect", g the mask, p_t = p where g = 1 and
1 - p where g = 0, a_t the same with alpha.
Left out: label smoothing, class weights, more than one kind of defect.
"""
import torch
from torch import Tensor

from minilora.io.demos import run_demo


def checked_probabilities(name: str, prob: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and mask in one floating dtype (float32 at least), or ValueError."""
    if prob.shape != target.shape:                      # broadcasting would average the wrong pairs
        raise ValueError(f"{name}: prob and target must have the same shape, found "
                         f"{tuple(prob.shape)} and {tuple(target.shape)}; resize the mask")
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    if prob.isnan().any():
        raise ValueError(f"{name}: prob holds NaN; the weights or the pictures are broken, or the "
                         "learning rate is too high")
    if not ((prob >= 0) & (prob <= 1)).all():           # typically logits
        raise ValueError(f"{name}: prob must lie in [0, 1], found {prob.min().item():g} to "
                         f"{prob.max().item():g}; apply softmax or sigmoid to logits first")
    return prob, target.to(prob.dtype)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean softmax cross-entropy of logits (..., N) and class indices (...) int64; a scalar."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"cross_entropy: logits (..., N) need targets (...), found "
                         f"{tuple(logits.shape)} and {tuple(targets.shape)}; classes come last")
    highest = logits.max(dim=-1, keepdim=True).values.detach()          # exp must not overflow
    z = logits - highest                                                # (..., N), all <= 0
    log_sum = z.exp().sum(dim=-1).log()                                 # (...)
    right = z.gather(-1, targets.unsqueeze(-1)).squeeze(-1)             # (...) z_y
    return (log_sum - right).mean()


def focal_loss(prob: Tensor, target: Tensor, gamma: float = 2.0,
               alpha: float | None = None) -> Tensor:
    """Mean focal loss of probabilities and a 0/1 target of the same shape; a scalar.

    prob, target: any shape; target bool or number, above 0.5 means defective.
    gamma: 0 gives cross-entropy; a larger gamma gives easy pixels less weight. alpha: weight of
    defective pixels in [0, 1], good ones get 1 - alpha; None: both have weight 1 (eq. 4).
    Raises ValueError for prob outside [0, 1], such as logits, and for different shapes.
    """
    prob, target = checked_probabilities("focal_loss", prob, target)
    p_t = torch.where(target > 0.5, prob, 1 - prob)
    # Differs: p_t is mapped linearly into (eps, 1 - eps), so that log stays finite. A clamp would
    # make the gradient zero where it is needed most.
    eps = torch.finfo(prob.dtype).eps
    p_t = eps + (1 - 2 * eps) * p_t
    loss = -(1 - p_t) ** gamma * p_t.log()                                      # eq. 4
    if alpha is not None:
        loss = torch.where(target > 0.5, alpha * loss, (1 - alpha) * loss)      # eq. 5
    return loss.mean()


def dice_loss(prob: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the dice overlap of each picture, averaged: (B, ...) and (B, ...); a scalar.

    Every picture has the same weight, however large its defect is. smooth is added to numerator and
    denominator (differs), so that an empty map for an empty mask has loss 0 and not 0 / 0.
    Raises ValueError for probabilities outside [0, 1] and for different shapes.
    """
    prob, target = checked_probabilities("dice_loss", prob, target)
    p, g = prob.flatten(1), target.flatten(1)           # (B, H * W)
    overlap = 2 * (p * g).sum(dim=1) + smooth           # (B,)
    total = (p * p).sum(dim=1) + (g * g).sum(dim=1) + smooth
    return (1 - overlap / total).mean()


def demo() -> None:
    """A mask with 1 % defective pixels, and the losses of three predicted maps."""
    mask = torch.zeros(1, 100, 100)
    mask[:, 40:50, 40:50] = 1
    print("answer             cross-entropy  focal   dice")
    for name, p in (("'all good', 0.01", torch.full_like(mask, 0.01)),
                    ("undecided, 0.50", torch.full_like(mask, 0.5)),
                    ("right, 0.9 / 0.1", 0.1 + 0.8 * mask)):
        values = (focal_loss(p, mask, gamma=0), focal_loss(p, mask), dice_loss(p, mask))
        print(f"{name:18} {values[0]:13.4f} {values[1]:6.4f} {values[2]:6.4f}")
    print("cross-entropy prefers 'all good' to the right answer, focal and dice do not")
    logits = torch.tensor([[6.0, 10.0]])                # [normal, anomalous]
    print(f"an image with logits {logits[0].tolist()}: "
          f"loss as normal {cross_entropy(logits, torch.tensor([0])):.4f}, "
          f"as anomalous {cross_entropy(logits, torch.tensor([1])):.4f}")


# Exercise 1: Answer demo()'s mask with one constant p everywhere: 0.001, 0.01, 0.1 or 0.5. Which p
#             has the lowest cross-entropy, and which has the lowest dice loss?
# Exercise 2: Add 1000 to all logits in demo(). What happens to the cross-entropy?
# Exercise 3: Compute dice_loss with smooth=0 for an empty map and an empty mask. What is wrong?
if __name__ == "__main__":
    run_demo("losses", demo)
