"""Grow a deeper image tower from a trained one: the new blocks have no effect at first.

Claim: a residual block whose two last projections are zero adds nothing.  So a tower with such
blocks between the trained ones computes the same as before, and training continues from there
instead of from random numbers (Chen et al. 2016, "Net2Net", section 2.2, for residual blocks).

Left out: wider towers; a layer norm over more channels would change the result.
"""
import torch

from minilora.clip import CLIP, CLIPConfig


def positions_of_trained(old: int, new: int) -> list[int]:
    """Positions, from 0, of `old` trained blocks among `new`: evenly spread, one at the end."""
    return [round((k + 1) * new / old) - 1 for k in range(old)]


@torch.no_grad()
def grown(clip: CLIP, config: CLIPConfig) -> CLIP:
    """A CLIP of shape `config` that computes the same as `clip`; `clip` itself if the shapes agree.

    Raises ValueError if the shapes differ in more than the number of image blocks, or if `config`
    has fewer of them.
    """
    old, new = clip.config.vision_layers, config.vision_layers
    if clip.config == config:
        return clip
    if type(clip.config)(**{**vars(clip.config), "vision_layers": new}) != config or old > new:
        raise ValueError(f"weights to start from: expected the same shape with {new} image blocks "
                         f"or fewer, found {clip.config}; set --layers and --width to match")
    larger = CLIP(config).initialise(torch.Generator().manual_seed(0))
    state, positions = larger.state_dict(), positions_of_trained(old, new)
    for name, value in clip.state_dict().items():
        if name.startswith("visual.blocks."):
            number, rest = name[len("visual.blocks."):].split(".", 1)
            name = f"visual.blocks.{positions[int(number)]}.{rest}"
        state[name] = value
    larger.load_state_dict(state)
    for k in set(range(new)) - set(positions):
        for last in (larger.visual.blocks[k].attn.out, larger.visual.blocks[k].mlp.c_proj):
            last.weight.zero_()
            last.bias.zero_()
    return larger


def demo() -> None:
    """A tower of 2 blocks grows to 5 and computes the same features."""
    shape = dict(embed=32, resolution=64, vision_width=64, patch=16, vocab=1000, text_width=64,
                 text_layers=1)
    generator = torch.Generator().manual_seed(0)
    small = CLIP(CLIPConfig(vision_layers=2, **shape)).initialise(generator)
    large = grown(small, CLIPConfig(vision_layers=5, **shape))
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        change = (large.encode_image(pixels) - small.encode_image(pixels)).abs().max()
    print(f"2 trained blocks become blocks {positions_of_trained(2, 5)} of 5 (counted from 0); "
          f"features change by {change:.1e}")


if __name__ == "__main__":
    demo()
