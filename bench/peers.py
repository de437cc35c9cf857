"""The same model with the code of another library and the same weights.

    transformers   its CLIPModel with our weights (tests/test_transformers_parity.py)
    peft           its layers in our image tower: LoRA (tests/test_lora.py), LoRA-FA and DoRA
                   (tests/bench/test_bench_methods.py)

Left out: transformers' preprocessing and tokenizer; peft's trainer.
"""
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from minilora.clip import CLIP, CLIPConfig

RENAMED = {
    "vision_model.": "visual.", "text_model.": "text.", "encoder.layers.": "blocks.",
    "embeddings.patch_embedding": "conv1", "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding", "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post", "final_layer_norm": "ln_final", "layer_norm": "ln_",
    "self_attn.": "attn.", "_proj.": ".", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def our_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' keys -> ours.  Their projections are linears (E, W), ours matrices (W, E)."""
    out = {"visual.proj": state["visual_projection.weight"].T,
           "text.text_projection": state["text_projection.weight"].T}
    for key, tensor in state.items():
        if "_projection" not in key and "position_ids" not in key:
            for theirs, name in RENAMED.items():
                key = key.replace(theirs, name)
            out[key] = tensor
    return out


def transformers_model(config: CLIPConfig) -> nn.Module:
    """transformers.CLIPModel in the shape of a CLIPConfig, random weights, eval mode.

    Its attention is torch's fused kernel ("sdpa"), like ours.
    """
    import transformers
    c = config
    both = dict(hidden_act=c.activation)
    text = dict(hidden_size=c.text_width, intermediate_size=4 * c.text_width,
                num_attention_heads=c.text_width // c.text_head_width,
                num_hidden_layers=c.text_layers,
                max_position_embeddings=c.context, vocab_size=c.vocab, pad_token_id=0,
                bos_token_id=c.vocab - 2, eos_token_id=c.vocab - 1)
    vision = dict(hidden_size=c.vision_width, intermediate_size=4 * c.vision_width,
                  num_attention_heads=c.vision_width // c.head_width,
                  num_hidden_layers=c.vision_layers,
                  image_size=c.resolution, patch_size=c.patch)
    whole = transformers.CLIPConfig(projection_dim=c.embed, text_config=text | both,
                                    vision_config=vision | both, attn_implementation="sdpa")
    return transformers.CLIPModel(whole).eval()


def drawn_transformers_model(config: CLIPConfig) -> nn.Module:
    """The same with weights far enough from zero that every part matters; fixed, and frozen."""
    peer, generator = transformers_model(config), torch.Generator().manual_seed(0)
    for name, p in peer.named_parameters():
        norm = "norm" in name or "layrnorm" in name
        scale = p.shape[-1] ** -0.5 if p.ndim == 2 and "embedding" not in name else 0.2
        start = 1. if norm and name.endswith("weight") else 0.
        p.data = start + scale * torch.randn(p.shape, generator=generator)
    peer.logit_scale.data.fill_(2.)
    return peer.requires_grad_(False)


def transformers_twin(clip: CLIP) -> nn.Module:
    """transformers.CLIPModel with a copy of the weights of a CLIP, frozen, on the same device."""
    peer = transformers_model(clip.config).to(clip.logit_scale.device).requires_grad_(False)
    own = clip.state_dict()
    for name, tensor in our_keys(peer.state_dict()).items():        # views of the peer's weights
        tensor.copy_(own[name])
    return peer


def add_peft_lora(visual: nn.Module, targets: Sequence[str], blocks: Iterable[int], rank: int,
                  alpha: float, dora: bool = False) -> None:
    """Does the same as `add_lora` with peft: puts its layers around the same projections, in place.

    visual: VisionTransformer;  blocks: numbers counted from 0;  dora: peft's DoRA layers.
    """
    import peft
    numbers = "|".join(str(n) for n in blocks)
    wanted = rf"blocks\.({numbers})\.attn\.({'|'.join(targets)})"
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted, lora_dropout=0.0,
                             use_dora=dora)
    peft.inject_adapter_in_model(config, visual)


def add_peft_dora(visual: nn.Module, targets: Sequence[str], blocks: Iterable[int], rank: int,
                  alpha: float) -> None:
    """peft's DoRA layers, as `add_peft_lora`."""
    add_peft_lora(visual, targets, blocks, rank, alpha, dora=True)


def add_peft_lora_fa(visual: nn.Module, targets: Sequence[str], blocks: Iterable[int], rank: int,
                     alpha: float) -> None:
    """peft's LoRA layers with A frozen.  Its optimiser create_lorafa_optimizer does the same, and
    rescales the gradient of B, which changes neither memory nor shape."""
    add_peft_lora(visual, targets, blocks, rank, alpha)
    for name, parameter in visual.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)


def trained(visual: nn.Module) -> list[nn.Parameter]:
    """A and B of every LoRA layer, ours or peft's, in the same order."""
    return [p for p in visual.parameters() if p.requires_grad]


@torch.no_grad()
def copy_lora(source: nn.Module, target: nn.Module) -> None:
    """Copies A and B of every LoRA layer from one tower to the other."""
    for a, b in zip(trained(source), trained(target), strict=True):
        b.copy_(a)
