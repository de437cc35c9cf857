"""WinCLIP and WinCLIP+: CLIP looks at many small windows of a picture; nothing is trained.

    Jeong et al. 2023, "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR.

    text      the mean of 7 x 21 normal and 4 x 21 anomalous sentences            section 4.1
    windows   every k x k square of patches goes through the tower alone, k = 2, 3; its CLS is
              compared with both texts                                             section 4.2
    harmonic  a pixel's score is the harmonic mean over the windows that show it, then over the
              scales and the whole picture: one window that is sure of "normal" decides
    WinCLIP+  beside it the distance to the windows and patches of K good pictures,
              the mean over three scales                                           section 4.3

Windows drop the other patches before the first block, as in a masked autoencoder, so a k x k window
costs k² + 1 tokens and not all.
Differs: window features of the penultimate block are not used; pictures are squares, so tiles of
non-square ones are not needed.
Symbols: B images, G patches a side, k side of a window, Q = (G - k + 1)² windows, E embedding,
R resolution, W width.
"""
import torch
import torch.nn.functional as F

from minilora.anomaly_map import to_pixels
from minilora.bpe import default_tokenizer
from minilora.coop import ensemble_features
from minilora.data.images import normalise
from minilora.losses import similarity_logits

SCALES = (2, 3)                 # sides of the windows, in patches
PATCH_STATE = -2                # WinCLIP+'s third scale: patches that enter the last block


def windows(grid, side):
    """Patch numbers of every side x side square of a grid x grid picture: (Q, side²)."""
    numbers = torch.arange(grid * grid).view(1, 1, grid, grid).float()
    return F.unfold(numbers, side)[0].T.long()                           # (Q, k²)


def harmonic(scores, index, patches):
    """Harmonic mean of the windows that show each patch.  scores: (B, Q) in (0, 1] -> (B, P)."""
    inverse = torch.zeros(len(scores), patches, device=scores.device)
    times = torch.zeros(patches, device=scores.device)
    for column in index.T.to(scores.device):                             # (Q,)
        inverse.index_add_(1, column, 1 / scores.clamp(min=1e-6))
        times.index_add_(0, column, torch.ones_like(column, dtype=times.dtype))
    return times / inverse


class WinCLIP:
    """Zero-shot, and with `fit` on good pictures WinCLIP+.  clip is not changed."""

    def __init__(self, clip, class_name, resolution=None):
        self.clip, self.resolution = clip, resolution or clip.config.resolution
        self.text = ensemble_features(clip, default_tokenizer(), class_name.replace("_", " "))  # (2, E)
        self.memory = None

    @torch.no_grad()
    def features(self, pixels):
        """(CLS of the picture (B, E), {k: CLS of the windows (B, Q, E)}, patches (B, P, W))."""
        visual = self.clip.visual
        x = visual.embed(normalise(pixels.to(visual.proj.device)))       # (B, 1+P, W)
        hidden = visual.hidden_states(x)
        grid, looks = round((x.shape[1] - 1) ** 0.5), {}
        for side in SCALES:
            index = windows(grid, side).to(x.device)                     # (Q, k²)
            tokens = x[:, 1:][:, index].flatten(0, 1)                    # (B Q, k², W)
            cls = x[:, :1].repeat_interleave(len(index), 0)              # (B Q, 1, W)
            parts = torch.cat([cls, tokens], dim=1).split(4096)
            seen = torch.cat([visual.pool(visual.hidden_states(p)[-1]) for p in parts])
            looks[side] = seen.view(len(x), len(index), -1)              # (B, Q, E)
        return visual.pool(hidden[-1]), looks, hidden[PATCH_STATE][:, 1:]

    def fit(self, pictures):
        """Remembers windows and patches of good pictures, (K, 3, R, R) in [0, 1].  Returns self."""
        _, looks, patches = self.features(pictures)
        self.memory = {side: F.normalize(seen.flatten(0, 1), dim=-1)
                       for side, seen in {**looks, 1: patches}.items()}  # (M, .) each
        return self

    @torch.no_grad()
    def rows(self, pixels):
        """{row: (maps (B, R, R), scores (B,))}, higher = more anomalous.  pixels: (B, 3, R, R).

        "WinCLIP", and after `fit` also "WinCLIP+", from one look at the windows.
        """
        picture, looks, patches = self.features(pixels)
        scale, count = self.clip.logit_scale.exp(), patches.shape[1]
        grid = round(count ** 0.5)
        whole = similarity_logits(picture, self.text, 1 / scale).softmax(-1)[:, 1]        # (B,)
        language = [whole[:, None].expand(-1, count)]
        vision = []
        for side, seen in looks.items():
            index = windows(grid, side)
            odd = similarity_logits(seen, self.text, 1 / scale).softmax(-1)[..., 1]      # (B, Q)
            language.append(harmonic(odd, index, count))
            if self.memory:
                vision.append(harmonic(self.distance(seen, side), index, count))
        maps = len(language) / sum(1 / m.clamp(min=1e-6) for m in language)              # (B, P)
        rows = {"WinCLIP": (maps, whole)}
        if self.memory:
            vision = (sum(vision) + self.distance(patches, 1)) / (len(vision) + 1)       # (B, P)
            rows["WinCLIP+"] = (maps + vision, (whole + vision.amax(1)) / 2)             # eq. 5
        sigma = 4 * self.resolution / 224
        return {row: (to_pixels(maps, pixels.shape[-2:], sigma).cpu(), whole.cpu())
                for row, (maps, whole) in rows.items()}

    def score(self, pixels):
        """Maps and scores of the last row."""
        return list(self.rows(pixels).values())[-1]

    def distance(self, seen, side):
        """½ (1 - cosine) to the nearest remembered window of this size."""
        near = (F.normalize(seen, dim=-1) @ self.memory[side].T).amax(-1)
        return (0.5 * (1 - near)).clamp(min=0)


def demo():
    from minilora.clip import CLIP, CLIPConfig
    index = windows(4, 2)
    print(f"2 x 2 windows of a 4 x 4 picture: {len(index)}, the first one {index[0].tolist()}")
    odd = torch.full((1, 9), 0.9)
    odd[0, 4] = 0.1                                     # the middle window is sure: normal
    print("harmonic mean where the middle window says 0.1 and all others 0.9:")
    for row in harmonic(odd, index, 16).view(4, 4):
        print("   ", "  ".join(f"{x:.2f}" for x in row))
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = torch.rand(3, 3, 64, 64, generator=generator)
    judge = WinCLIP(clip, "plate").fit(good[:2])
    for name, picture in (("remembered", good[:1]), ("new", good[2:])):
        print(f"{name:10s} picture: score {judge.score(picture)[1].item():.3f}")


if __name__ == "__main__":
    demo()
