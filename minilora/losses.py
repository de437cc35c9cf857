"""The losses of adaptation: cross-entropy on similarities for images, focal and dice for maps.

    logits = cos(f, t) / temperature                    CLIP, Radford et al. 2021, section 2.3
    CE     = log sum_j exp z_j - z_y                    the usual softmax cross-entropy
    FL     = -a_t (1 - p_t)^gamma log p_t               Lin et al. 2017, eq. 5
    Dice   = 1 - 2 sum p g / (sum p^2 + sum g^2)        Milletari et al. 2016, section 3

A defect covers few pixels. Cross-entropy alone would be content with "all good": focal loss turns
the easy pixels down, dice loss looks at the overlap and does not see true negatives at all.

Symbols: f image features, t text features, z logits, y the right class, p probability of "defect",
g the mask, p_t = p where g = 1 and 1 - p where g = 0, a_t the same with alpha.
Left out: label smoothing, class weights, more than one kind of defect.
"""
import torch
import torch.nn.functional as F


def same_shape(name, prob, target):
    """Probabilities and mask in one floating dtype (float32 at least), or ValueError."""
    if prob.shape != target.shape:                      # broadcasting would average the wrong pairs
        raise ValueError(f"{name}: prob and target must have the same shape, found "
                         f"{tuple(prob.shape)} and {tuple(target.shape)}; resize the mask")
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    if prob.isnan().any():
        raise ValueError(f"{name}: prob holds NaN; the weights or the pictures are broken, or the "
                         "learning rate is too high")
    if not ((prob >= 0) & (prob <= 1)).all():           # logits end up here
        raise ValueError(f"{name}: prob must lie in [0, 1], found {prob.min().item():g} to "
                         f"{prob.max().item():g}; apply softmax or sigmoid to logits first")
    return prob, target.to(prob.dtype)


def similarity_logits(features, text, temperature):
    """Cosine similarities over temperature: (..., E) and (N, E) -> logits (..., N).

    Neither side needs to be normalised. temperature: number or tensor, 1 / exp(CLIP.logit_scale).
    """
    features = F.normalize(features, dim=-1)            # (..., E) on the unit sphere
    text = F.normalize(text, dim=-1)                    # (N, E)
    return features @ text.T / temperature              # (..., N)


def cross_entropy(logits, targets):
    """Mean softmax cross-entropy of logits (..., N) against class indices (...) int64; a scalar."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"cross_entropy: logits (..., N) need targets (...), found "
                         f"{tuple(logits.shape)} and {tuple(targets.shape)}; classes come last")
    highest = logits.max(dim=-1, keepdim=True).values.detach()          # exp must not overflow
    z = logits - highest                                                # (..., N), all <= 0
    log_sum = z.exp().sum(dim=-1).log()                                 # (...)
    right = z.gather(-1, targets.unsqueeze(-1)).squeeze(-1)             # (...) z_y
    return (log_sum - right).mean()


def focal_loss(prob, target, gamma=2.0, alpha=None):
    """Mean focal loss of probabilities against a 0/1 target of the same shape; a scalar.

    prob, target: any one shape; target bool or number, above 0.5 means defective.
    gamma: 0 is cross-entropy, the larger the less easy pixels count. alpha: weight of the defective
    pixels in [0, 1], the good ones get 1 - alpha; None weights both with 1 (Lin et al., eq. 4).
    Raises ValueError for values outside [0, 1], which are logits, and for differing shapes.
    """
    prob, target = same_shape("focal_loss", prob, target)
    p_t = torch.where(target > 0.5, prob, 1 - prob)
    eps = torch.finfo(prob.dtype).eps                   # differs: squeezed into (eps, 1 - eps), so
    p_t = eps + (1 - 2 * eps) * p_t                     # log stays finite; a clamp would stop the
    loss = -(1 - p_t) ** gamma * p_t.log()              # gradient where it is needed most. eq. 4
    if alpha is not None:
        loss = torch.where(target > 0.5, alpha * loss, (1 - alpha) * loss)      # eq. 5
    return loss.mean()


def dice_loss(prob, target, smooth=1.0):
    """One minus the dice overlap, per picture and then averaged: (B, ...) and (B, ...); a scalar.

    Each picture counts the same however large its defect. smooth, in pixels, differs from the
    paper: it makes an empty mask answered with an empty map a perfect 0 and not 0 / 0.
    Raises ValueError for values outside [0, 1] and for differing shapes.
    """
    prob, target = same_shape("dice_loss", prob, target)
    p, g = prob.flatten(1), target.flatten(1)           # (B, R * R)
    overlap = 2 * (p * g).sum(dim=1) + smooth           # (B,)
    total = (p * p).sum(dim=1) + (g * g).sum(dim=1) + smooth
    return (1 - overlap / total).mean()


def demo():
    """A mask of 1 % defective pixels, and three maps that answer it."""
    mask = torch.zeros(1, 100, 100)
    mask[:, 40:50, 40:50] = 1
    print("answer             cross-entropy  focal   dice")
    for name, p in (("'all good', 0.01", torch.full_like(mask, 0.01)),
                    ("undecided, 0.50", torch.full_like(mask, 0.5)),
                    ("right, 0.9 / 0.1", 0.1 + 0.8 * mask)):
        values = (focal_loss(p, mask, gamma=0), focal_loss(p, mask), dice_loss(p, mask))
        print(f"{name:18} {values[0]:13.4f} {values[1]:6.4f} {values[2]:6.4f}")
    print("cross-entropy prefers 'all good' to the right answer, focal and dice do not")
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])       # [normal, anomalous]
    logits = similarity_logits(torch.tensor([[3.0, 4.0]]), text, temperature=0.1)
    print(f"an image at cosines 0.60, 0.96: logits {logits[0].tolist()}, "
          f"loss as anomalous {cross_entropy(logits, torch.tensor([1])):.4f}")


if __name__ == "__main__":
    demo()
