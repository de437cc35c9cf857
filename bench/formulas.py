"""Memory of a training step, predicted by counting bytes at the peak.

    kept      what autograd saves in a block, per token, in units of the width W (float32):
                 2   inputs of the two layer norms
                 4   q, k, v and the output of attention (the kernel also keeps one number per head)
                 4   QuickGELU: its input
                +1   input of LoRA's A, if q, k or v has LoRA; not with LoRA-FA or BitFit
                +1   for each projection with DoRA: its result before the multiplication
                +6   if all weights are trained: outputs of both norms and of QuickGELU
    passing   temporary tensors of the backward pass, largest in QuickGELU: 9 W, or 5 W if its
              output has already been freed
    peak      found by a walk through the step, forward and backward: the kept activations grow and
              shrink; gradients and AdamW's two moments are added

A frozen block before all trained ones keeps nothing.  In bfloat16 the same tensors take half the
bytes, except the inputs of the norms; q, k and v each cast their input; every cast weight is kept.
Symbols: T = B L tokens, W width, H heads, r rank, n blocks.
Left out: fragmentation, memory that libraries allocate for themselves; peft's layers.
"""
from collections import namedtuple

from bench.counts import (blocks_count, frozen_count, layer_count, rung_count, tower_counts,
                          trainable)
from bench.ladder import REDUCTION
from bench.steps import Method
from minilora.clip import CLIPConfig
from minilora.vit import default_value_value_blocks

# forward, back: temporary bytes in addition to `kept`; made: bytes of the gradients it creates
Stage = namedtuple("Stage", "kept forward back made")
Shape = namedtuple("Shape", "batch tokens width bfloat16 written_out checkpointing")


# ---- one block ----------------------------------------------------------------------------------

def kept_for(method: Method, width: int) -> tuple[bool, tuple, int]:
    """(whole, inputs, more) of the functions below: all weights are trained; projections whose
    input a gradient needs; further numbers that are kept per token."""
    if method.kind != "lora":
        return method.kind in ("image", "both"), (), 0
    scaled = width * (method.variant == "DoRA")         # for the gradient of the magnitude
    inputs = () if method.variant == "LoRA-FA" else method.targets
    return False, inputs, (method.rank + scaled) * len(method.targets)


def attention_kept(s: Shape, whole: bool, targets: tuple) -> int:
    """Bytes per token kept from q, k, v to the output of attention, and of inputs that a gradient
    needs."""
    heads, W = s.width // 64, s.width
    inputs = sum(t in targets for t in "qkv") if s.bfloat16 else bool({*targets} & {*"qkv"})
    inputs = (3 if s.bfloat16 else 1) if whole else inputs
    if not s.bfloat16:
        return 4 * ((4 + inputs) * W + heads)
    if not s.written_out:
        return 2 * (4 + inputs) * W + 4 * heads
    answer = whole or "out" in targets              # otherwise only the kernel would keep it
    return 2 * ((3 + answer + inputs) * W + heads * s.tokens)


def block_kept(s: Shape, whole: bool = False, inputs: tuple = (), more: int = 0) -> int:
    """Bytes that autograd saves in one block.  whole: all weights are trained."""
    size, W = (2 if s.bfloat16 else 4), s.width
    token = attention_kept(s, whole, inputs) + size * ((4 + 5 * whole) * W + more) + 4 * 2 * W
    return s.batch * s.tokens * token + (2 * 12 * W**2 if s.bfloat16 else 0)


def block_stage(s: Shape, whole: bool = False, inputs: tuple = (), more: int = 0,
                made: int = 0) -> Stage:
    """One block that a gradient passes through."""
    size, T = (2 if s.bfloat16 else 4), s.batch * s.tokens
    kept, way = block_kept(s, whole, inputs, more), size * T * s.width
    back = (5 if whole else 9) * way
    if s.checkpointing:
        return Stage(4 * T * s.width, kept, kept + back, made)
    return Stage(kept, 4 * way, back, made)


def value_value_stage(s: Shape, method: Method, made: int) -> Stage:
    """Value-value attention; its input is kept by the ordinary block with the same weights."""
    size, T, W = (2 if s.bfloat16 else 4), s.batch * s.tokens, s.width
    heads, (whole, inputs, _) = W // 64, kept_for(method, W)
    trained = method.kind != "lora" or {*method.targets} & {"v", "out"}
    scaled = len({*method.targets} & {"v", "out"}) * (method.variant == "DoRA")
    token = size * (2 + bool(whole or inputs) + scaled) * W + 4 * heads
    if s.bfloat16 and s.written_out:
        token = 2 * ((4 + bool(whole or inputs) + scaled) * W + heads * s.tokens)
    kept = T * token + (2 * 2 * W**2 if s.bfloat16 and not whole else 0)
    back = size * T * (5 * W + (2 * heads * s.tokens if s.written_out else 0))
    if not trained:
        return Stage(0, T * 6 * W * size, 0, 0)
    if s.checkpointing:
        return Stage(4 * T * W, kept, kept + back, made)
    return Stage(kept, 3 * size * T * W, back, made)


def first_token_stage(s: Shape, method: Method, made: int) -> Stage:
    """The last block for the CLS token only: k and v of all tokens, everything else of one."""
    size, T, W = (2 if s.bfloat16 else 4), s.batch * s.tokens, s.width
    whole, inputs, _ = kept_for(method, W)
    inputs = (2 if s.bfloat16 else 1) * bool(whole or inputs)
    inputs += len({*method.targets} & {"k", "v"}) * (method.variant == "DoRA")
    kept = T * W * (size * (2 + inputs) + 4) + (2 * 12 * W**2 if s.bfloat16 else 0)
    back = 4 * size * T * W
    if s.checkpointing:
        return Stage(4 * T * W, kept, kept + back, made)
    return Stage(kept, size * T * W, back, made)


# ---- the step -----------------------------------------------------------------------------------

def text_stages(s: Shape, config: CLIPConfig, whole: bool) -> list[Stage]:
    """The text tower, for two prompts; the gradient of its token table is as large as the table."""
    table = 4 * (config.vocab + config.context) * config.text_width * whole
    block = block_stage(s, whole, made=4 * blocks_count(config.text_width, 1) * whole)
    return [Stage(0, 0, table, table)] + [block] * config.text_layers


def entering_stage(method: Method, s: Shape, config: CLIPConfig) -> Stage:
    """All computation before the first trained block: none with reuse, otherwise from pixels on."""
    T, W, size = s.batch * s.tokens, s.width, 2 if s.bfloat16 else 4
    state, picture = 4 * T * W, s.batch * 3 * config.resolution**2
    if method.reuse:
        return Stage(state, 0, 0, 0)
    if method.kind in ("image", "both"):        # the convolution keeps pixels, ln_pre its input
        return Stage(state + 2 * 4 * picture, 2 * state, 3 * state,
                     4 * (3 * config.patch**2 + s.tokens) * W)
    if method.kind == "bias":                   # ln_pre keeps its input
        return Stage(state, 2 * state + 2 * 4 * picture, 3 * state, 4 * W)
    blocks = method.first(config.vision_layers)
    return Stage(state, (2 + 2 * 4) * picture + blocks * state + 15 * size * T * W, 0, 0)


def side_stages(s: Shape, config: CLIPConfig) -> list[Stage]:
    """The ladder: all states of the frozen tower, then a small block beside each of its blocks."""
    T, W, small = s.batch * s.tokens, s.width, s.width // REDUCTION
    rung = block_stage(s._replace(width=small), whole=True, made=4 * rung_count(W))
    rung = rung._replace(kept=rung.kept + 2 * 4 * T * small)        # both factors of the gate
    states = Stage(4 * T * W * (config.vision_layers - 1), 15 * 4 * T * W, 0, 0)
    last = Stage(2 * 4 * T * config.embed, 4 * 4 * T * W, 0, 0)     # CLS: norm, k and v, no graph
    return [states] + [rung] * config.vision_layers + [last]


def image_stages(method: Method, s: Shape, config: CLIPConfig) -> tuple[list[Stage], list[Stage]]:
    """(stages before the text tower, stages after it)."""
    before, T, W = [entering_stage(method, s, config)], s.batch * s.tokens, s.width
    size, n = 2 if s.bfloat16 else 4, config.vision_layers
    last = default_value_value_blocks(n)
    if method.kind in ("probe", "context"):             # nothing in the tower is trained
        states = 4 * T * W * (method.kind == "probe")
        return before + [Stage(states, 0, 0, 0)], [Stage(0, 8 * T * W * size, 0, 0)]
    if method.kind == "ladder":
        return before + side_stages(s, config), []
    whole, inputs, more = kept_for(method, W)
    block, pair = gradients_of(method, W)
    blocks = [block_stage(s, whole, inputs, more, block)] * (n - method.first(n) - 1)
    if blocks and method.kind == "lora" and not s.checkpointing:    # the first norm's input
        blocks[0] = blocks[0]._replace(kept=blocks[0].kept - 4 * T * W)     # needs no gradient
    values = [value_value_stage(s, method, pair)]
    head = Stage(T * (4 * W + size * (W * whole + 2 * config.embed)), 4 * T * W, 2 * 4 * T * W,
                 4 * W * config.embed * whole)
    return (before + blocks, values * min(last, n - method.first(n))
            + [head, first_token_stage(s, method, block)])


def gradients_of(method: Method, W: int) -> tuple[int, int]:
    """Bytes of the gradients of a block, and of its v and out."""
    if method.kind in ("image", "both"):
        return 4 * blocks_count(W, 1), 4 * 2 * W**2
    if method.kind == "bias":
        return 4 * 11 * W, 4 * 2 * W
    block = 4 * layer_count(method, W)[1] * len(method.targets)
    return block, block // 2


def stages(method: Method, config: CLIPConfig, batch: int, prompt: int, bfloat16: bool,
           checkpointing: bool, device: str) -> list[Stage]:
    """All stages of a step, in the order of computation."""
    tokens = 1 + (config.resolution // config.patch) ** 2
    how = bfloat16, bfloat16 and device == "cpu", checkpointing     # attention.fused_attention
    before, after = image_stages(method, Shape(batch, tokens, config.vision_width, *how), config)
    words = []
    if method.context or method.kind not in ("lora", "probe"):
        words = text_stages(Shape(2, prompt, config.text_width, *how), config,
                            method.kind == "both")
    return before + words + after


def walk(stages: list[Stage], moments: int, updating: int) -> tuple[int, int, int]:
    """(activations, gradients, moments) in bytes when their sum is highest.

    For the second step and later ones: the moments exist from the start, old gradients are freed.
    updating: temporary bytes of the optimiser's update.
    """
    kept = made = 0
    found = []
    for stage in stages:
        kept += stage.kept
        found.append((kept + stage.forward, made, moments))
    for stage in reversed(stages):
        made += stage.made
        found.append((kept + stage.back, made, moments))
        kept -= stage.kept
    return max(*found, (updating, made, moments), key=sum)


def held(method: Method, config: CLIPConfig, pool: int, device: str) -> int:
    """Bytes of the pool of pictures on the device: tokens, or pixels, which stay off a GPU."""
    if method.reuse:
        tokens = 1 + (config.resolution // config.patch) ** 2
        return 4 * pool * tokens * config.vision_width
    return 2 * pool * 3 * config.resolution**2 if device == "cpu" else 0


def predicted(method: Method, config: CLIPConfig, batch: int, pool: int, prompt: int,
              bfloat16: bool = False, checkpointing: bool = False,
              device: str = "cpu") -> dict[str, int] | None:
    """{"weights", "pool", "gradients", "optimiser", "activations"}: bytes at the peak.  None for
    peft's layers.

    prompt: tokens of a prompt;  pool: number of pictures in the pool.
    """
    if method.peft:
        return None
    moving = 4 * trainable(method, config)[1]
    table, matrix = config.vocab * config.text_width, 4 * config.vision_width**2
    largest = 4 * (table if method.kind == "both" else matrix)
    updating = min(moving, 2 * largest) if device == "cpu" else moving   # by tensor, or all at once
    activations, gradients, moments = walk(
        stages(method, config, batch, prompt, bfloat16, checkpointing, device),
        2 * moving, updating)
    added = moving * (method.kind in ("lora", "ladder")) + 4 * frozen_count(method, config)
    weights = 4 * (sum(tower_counts(config)) + 1) + added
    return {"weights": weights, "pool": held(method, config, pool, device),
            "gradients": gradients, "optimiser": moments, "activations": activations}
