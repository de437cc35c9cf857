"""A deeper image tower from a trained one: new blocks that start without effect.

Claim: a residual block whose two last projections are zero adds nothing, so a tower with such
blocks in between computes what it did before, and training goes on from there instead of from
random numbers (Chen et al. 2016, "Net2Net", section 2.2, for residual blocks).

Leaves out: wider towers; layer norm over more channels cannot leave the result as it is.
"""
import torch

from minilora.clip import CLIP


def places_of_old(old, new):
    """Which of `new` blocks the `old` trained ones become, from 0: spread evenly, last is last."""
    return [round((k + 1) * new / old) - 1 for k in range(old)]


@torch.no_grad()
def grown(clip, config):
    """`clip` itself if it has this shape, else a CLIP of `config` that computes the same.

    Raises ValueError unless they differ in the number of image blocks alone, and grow.
    """
    old, new = clip.config.vision_layers, config.vision_layers
    if clip.config == config:
        return clip
    if type(clip.config)(**{**vars(clip.config), "vision_layers": new}) != config or old > new:
        raise ValueError(f"weights to start from: expected the same shape with {new} image blocks "
                         f"or fewer, found {clip.config}; choose --layers and --width by them")
    larger = CLIP(config).initialise(torch.Generator().manual_seed(0))
    state, places = larger.state_dict(), places_of_old(old, new)
    for name, value in clip.state_dict().items():
        if name.startswith("visual.blocks."):
            number, rest = name[len("visual.blocks."):].split(".", 1)
            name = f"visual.blocks.{places[int(number)]}.{rest}"
        state[name] = value
    larger.load_state_dict(state)
    for k in set(range(new)) - set(places):
        for last in (larger.visual.blocks[k].attn.out, larger.visual.blocks[k].mlp.c_proj):
            last.weight.zero_()
            last.bias.zero_()
    return larger


def demo():
    from minilora.clip import CLIPConfig
    shape = dict(embed=32, resolution=64, vision_width=64, patch=16, vocab=1000, text_width=64,
                 text_layers=1)
    generator = torch.Generator().manual_seed(0)
    small = CLIP(CLIPConfig(vision_layers=2, **shape)).initialise(generator)
    large = grown(small, CLIPConfig(vision_layers=5, **shape))
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        change = (large.encode_image(pixels) - small.encode_image(pixels)).abs().max()
    print(f"2 blocks become numbers {places_of_old(2, 5)} of 5; features change by {change:.1e}")


if __name__ == "__main__":
    demo()
