"""WinCLIP and WinCLIP+: CLIP applied to many small windows of a picture, without training.

    Jeong et al. 2023, "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR.

    text        mean features of 7 x 21 normal and 4 x 21 anomalous sentences      section 4.1
    windows     every k x k square of patches, k = 2 and 3, goes through the image tower on its own;
                its CLS feature is compared with both texts                        section 4.2
    harmonic    a patch's score is the harmonic mean over the windows that contain it; the map is
    aggregation the harmonic mean over the window sizes and the whole image.  One window with a low
                score is enough to lower it                                        eq. 4
    WinCLIP+    adds the distance to the windows and patches of K good pictures, the mean over three
                scales                                                             section 4.3

For a window, the other patches are dropped before the first block, as in a masked autoencoder.  A
k x k window then costs k² + 1 tokens instead of all.
Differs: window features of the second-to-last block are not used; pictures are squares, so tiles of
other shapes are not needed.
Symbols: B images, P patches, G patches per side, k side of a window, Q = (G - k + 1)² windows,
E embedding, R resolution, W width, K shots, M rows of the memory bank.
Left out: any training.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.anomaly_map import to_pixels
from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, CLIPConfig, similarity_logits
from minilora.coop import ensemble_features
from minilora.data.images import normalise

SCALES = (2, 3)                 # sides of the windows, in patches
PATCH_STATE = -2                # WinCLIP+'s third scale: hidden state that enters the last block


def window_indices(grid: int, side: int) -> Tensor:
    """Patch numbers of every side x side window of a grid x grid picture: (Q, side²)."""
    numbers = torch.arange(grid * grid).view(1, 1, grid, grid).float()
    return F.unfold(numbers, side)[0].T.long()                           # (Q, k²)


def harmonic_aggregation(scores: Tensor, index: Tensor, patches: int) -> Tensor:
    """Harmonic mean over the windows that contain each patch.

    scores: (B, Q) in (0, 1];  index: (Q, k²) of `window_indices`;  patches: P.  Returns (B, P).
    """
    inverse = torch.zeros(len(scores), patches, device=scores.device)
    times = torch.zeros(patches, device=scores.device)
    for column in index.T.to(scores.device):                             # (Q,)
        inverse.index_add_(1, column, 1 / scores.clamp(min=1e-6))
        times.index_add_(0, column, torch.ones_like(column, dtype=times.dtype))
    return times / inverse


class WinCLIP:
    """Zero-shot detector; after `fit` on good pictures also WinCLIP+.  clip is not changed."""

    def __init__(self, clip: CLIP, class_name: str, resolution: int | None = None) -> None:
        self.clip, self.resolution = clip, resolution or clip.config.resolution
        self.text = ensemble_features(clip, default_tokenizer(),
                                      class_name.replace("_", " "))      # (2, E)
        self.memory = None

    @torch.no_grad()
    def features(self, pixels: Tensor) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        """(image features (B, E), {k: window features (B, Q, E)}, patch tokens (B, P, W))."""
        visual = self.clip.visual
        x = visual.embed(normalise(pixels.to(visual.proj.device)))       # (B, 1+P, W)
        hidden = visual.hidden_states(x)
        grid, windows = round((x.shape[1] - 1) ** 0.5), {}
        for side in SCALES:
            index = window_indices(grid, side).to(x.device)              # (Q, k²)
            tokens = x[:, 1:][:, index].flatten(0, 1)                    # (B Q, k², W)
            cls = x[:, :1].repeat_interleave(len(index), 0)              # (B Q, 1, W)
            parts = torch.cat([cls, tokens], dim=1).split(4096)
            features = torch.cat([visual.pool(visual.hidden_states(p)[-1]) for p in parts])
            windows[side] = features.view(len(x), len(index), -1)        # (B, Q, E)
        return visual.pool(hidden[-1]), windows, hidden[PATCH_STATE][:, 1:]

    def fit(self, pictures: Tensor) -> "WinCLIP":
        """Fill the memory bank from good pictures, (K, 3, R, R) in [0, 1].  Returns self."""
        _, windows, patches = self.features(pictures)
        self.memory = {side: F.normalize(features.flatten(0, 1), dim=-1)
                       for side, features in {**windows, 1: patches}.items()}  # (M, .) each
        return self

    @torch.no_grad()
    def rows(self, pixels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """{row of the result table: (anomaly maps (B, R, R), image scores (B,))}.

        pixels: (B, 3, R, R) in [0, 1].  Rows: "WinCLIP", and after `fit` also "WinCLIP+"; both use
        the same window features.
        """
        image, windows, patches = self.features(pixels)
        scale, count = self.clip.logit_scale.exp(), patches.shape[1]
        grid = round(count ** 0.5)
        probability = similarity_logits(image, self.text, 1 / scale).softmax(-1)[:, 1]    # (B,)
        language = [probability[:, None].expand(-1, count)]
        vision = []
        for side, features in windows.items():
            index = window_indices(grid, side)
            scores = similarity_logits(features, self.text, 1 / scale).softmax(-1)[..., 1]  # (B, Q)
            language.append(harmonic_aggregation(scores, index, count))
            if self.memory:
                distance = self.memory_distance(features, side)
                vision.append(harmonic_aggregation(distance, index, count))
        maps = len(language) / sum(1 / m.clamp(min=1e-6) for m in language)              # (B, P)
        rows = {"WinCLIP": (maps, probability)}
        if self.memory:
            vision = (sum(vision) + self.memory_distance(patches, 1)) / (len(vision) + 1)  # (B, P)
            rows["WinCLIP+"] = (maps + vision, (probability + vision.amax(1)) / 2)       # eq. 5
        sigma = 4 * self.resolution / 224
        return {row: (to_pixels(maps, pixels.shape[-2:], sigma).cpu(), scores.cpu())
                for row, (maps, scores) in rows.items()}

    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, R, R) and image scores (B,) of the last row."""
        return list(self.rows(pixels).values())[-1]

    def memory_distance(self, features: Tensor, side: int) -> Tensor:
        """½ (1 - cosine) to the nearest window of this size in the memory bank."""
        nearest = (F.normalize(features, dim=-1) @ self.memory[side].T).amax(-1)
        return (0.5 * (1 - nearest)).clamp(min=0)


def demo() -> None:
    """Harmonic aggregation of nine windows; a picture in the memory bank and a new one."""
    index = window_indices(4, 2)
    print(f"4 x 4 patches have {len(index)} windows of 2 x 2; the first: {index[0].tolist()}")
    scores = torch.full((1, 9), 0.9)
    scores[0, 4] = 0.1                                  # the middle window looks normal
    print("patch scores if the middle window has score 0.1 and all others 0.9:")
    for row in harmonic_aggregation(scores, index, 16).view(4, 4):
        print("   ", "  ".join(f"{x:.2f}" for x in row))
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = torch.rand(3, 3, 64, 64, generator=generator)
    detector = WinCLIP(clip, "plate").fit(good[:2])
    for name, picture in (("in the memory bank", good[:1]), ("new", good[2:])):
        print(f"picture {name}: score {detector.score(picture)[1].item():.3f}")


if __name__ == "__main__":
    demo()
