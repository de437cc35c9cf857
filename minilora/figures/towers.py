"""Figures of the image towers: attention weights, positions, feature maps, zero-shot answers.

Symbols: P patches, G patches in a row, H heads, L tokens, D width of a head.
Left out: anomaly maps (scores.py).
"""
import torch
import torch.nn.functional as F
from PIL import ImageDraw
from torch import Tensor

from minilora.attention import attention
from minilora.bpe import default_tokenizer
from minilora.charts.drawing import Drawing, side_by_side
from minilora.charts.plots import heat_plot
from minilora.clip_resnet import ModifiedResNet
from minilora.data.images import normalise, to_pil
from minilora.figures.embedded import drawn, embedded_clip
from minilora.figures.matrix import matrix_plot

HEAD = 0                                # whose weights are drawn
PLACES = ((7, 7), (0, 0), (2, 11))      # patches (row, column) of the positions' figure
PRODUCTS = {"bottle": "a photo of a bottle", "nut": "a photo of a nut", "board": "a photo of a "
            "circuit board", "cable": "a photo of a cable"}


def attention_figure() -> Drawing:
    """Weights of one head of the last block over a picture: of CLS, and of a patch of the defect.

    The patch is drawn as a red square.
    """
    visual, scene = embedded_clip().visual, drawn("gear", 0, "broken")
    grid, patch = scene.picture.shape[-1] // visual.patch, visual.patch
    entering = visual.hidden_states(visual.embed(normalise(scene.picture[None])),
                                    len(visual.blocks) - 1)[-1]
    block = visual.blocks[-1]
    x = block.ln_1(entering)
    q, k, v = (block.attn.split(m(x)) for m in (block.attn.q, block.attn.k, block.attn.v))
    share = F.avg_pool2d(scene.mask[None].float(), patch)[0]        # of defect in each patch
    place = int(share.argmax())
    picture, (row, column) = to_pil(scene.picture), divmod(place, grid)
    ImageDraw.Draw(picture).rectangle([column * patch, row * patch, (column + 1) * patch - 1,
                                       (row + 1) * patch - 1], outline="red", width=2)

    def weights(a: Tensor, b: Tensor, token: int) -> Tensor:        # V = identity: the weights
        every = attention(a, b, torch.eye(a.shape[2]).expand(1, a.shape[1], -1, -1))
        return every[0, HEAD, token, 1:].view(grid, grid)
    panels = {"CLS: q and k": weights(q, k, 0),
              "The patch in the square: q and k": weights(q, k, 1 + place),
              "The patch in the square: v and v": weights(v, v, 1 + place)}
    return side_by_side(f"Attention weights of head {HEAD}, last block", [
        heat_plot(title, values, (0, values.max().item()), picture=picture)
        for title, values in panels.items()])


def vit_figure() -> Drawing:
    """How similar the positional embedding of a patch is to those of all others."""
    visual = embedded_clip().visual
    table = F.normalize(visual.positional_embedding[1:], dim=-1)                # (P, W)
    return side_by_side("ViT: cosines between positional embeddings", [
        heat_plot(f"Row {row}, column {column} with all patches",
                  (table @ table[row * visual.grid + column]).view(visual.grid, visual.grid))
        for row, column in PLACES])


def clip_resnet_figure() -> Drawing:
    """The feature maps of the four stages: finer first; the tower has random weights."""
    net = ModifiedResNet(resolution=224, width=16, layers=(1, 1, 1, 1), embed=32)
    net.initialise(torch.Generator().manual_seed(0))
    scene = drawn("gear", 0, "broken")
    with torch.no_grad():
        maps = [stage[0].mean(0) for stage in net.stages(normalise(scene.picture[None]))]
    return side_by_side("CLIP's ResNet: mean over the channels of each stage", [
        heat_plot(f"Stage {n}: {len(m)} x {len(m)}", m,
                  picture=to_pil(scene.picture) if n == 1 else None)
        for n, m in enumerate(maps, 1)])


def clip_figure() -> Drawing:
    """Zero-shot classification: probabilities of four sentences for four drawn pictures."""
    clip = embedded_clip()
    pixels = torch.stack([drawn(name, 0).picture for name in PRODUCTS])         # (4, 3, R, R)
    images = clip.encode_image(normalise(pixels))
    texts = clip.encode_text(default_tokenizer().tokenize(list(PRODUCTS.values())))
    return matrix_plot("CLIP: which sentence fits which picture?", "probabilities in each row",
                       list(PRODUCTS), list(PRODUCTS.values()),
                       clip.similarity(images, texts).softmax(-1), ".0%",
                       [to_pil(p) for p in pixels])


def demo() -> None:
    """Sizes of two figures; the second needs no weights."""
    for drawing in (vit_figure(), clip_resnet_figure()):
        print(f"{drawing.title}: {drawing.width:.0f} x {drawing.height:.0f}")


if __name__ == "__main__":
    demo()
