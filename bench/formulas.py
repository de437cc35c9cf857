"""Memory of a training step, predicted by counting: parameters, and bytes at the peak.

    kept      what autograd saves in a block, per token, in units of the width W (float32):
                 2   inputs of the two layer norms
                 4   q, k, v and the output of attention (the kernel also keeps one number per head)
                 4   QuickGELU: its input
                +1   input of LoRA's A, if q, k or v has LoRA
                +6   if all weights are trained: outputs of both norms and of QuickGELU
    passing   temporary tensors of the backward pass, largest in QuickGELU: 9 W, or 5 W if its
              output has already been freed
    peak      found by a walk through the step, forward and backward: the kept activations grow and
              shrink; gradients and AdamW's two moments are added

A frozen block before all trained ones keeps nothing.  In bfloat16 the same tensors take half the
bytes, except the inputs of the norms; q, k and v each cast their input; every cast weight is kept.
Symbols: T = B L tokens, W width, H heads, r rank, n blocks.
Left out: fragmentation, memory that libraries allocate for themselves.
"""
from collections import namedtuple

from bench.steps import Method
from minilora.clip import CLIPConfig
from minilora.vit import default_value_value_blocks

# forward, back: temporary bytes in addition to `kept`; made: bytes of the gradients it creates
Stage = namedtuple("Stage", "kept forward back made")
Shape = namedtuple("Shape", "batch tokens width bfloat16 written_out checkpointing")


# ---- parameters ---------------------------------------------------------------------------------

def blocks_count(width: int, layers: int) -> int:
    """Parameters of `layers` transformer blocks."""
    return layers * (12 * width**2 + 13 * width)


def tower_counts(c: CLIPConfig) -> tuple[int, int]:
    """Parameters of (image tower, text tower)."""
    W, w = c.vision_width, c.text_width
    image = (3 * c.patch**2 * W + (2 + (c.resolution // c.patch) ** 2) * W + 4 * W + W * c.embed
             + blocks_count(W, c.vision_layers))
    text = (c.vocab + c.context) * w + 2 * w + w * c.embed + blocks_count(w, c.text_layers)
    return image, text


def trainable(method: Method, config: CLIPConfig, length: int = 4) -> tuple[str, int]:
    """(formula as text, its value).  length: M, context vectors of each of two prompts."""
    image, text = tower_counts(config)
    W, context = config.vision_width, 2 * length * config.text_width
    if method.kind == "both":
        return "image tower + text tower + 1", image + text + 1
    if method.kind == "image":
        return "image tower + 2 M w", image + context
    if method.kind == "probe":
        return "W + 1", W + 1
    if method.kind == "context":
        return "2 M w", context
    layers = config.vision_layers - method.first(config.vision_layers)
    each = len(method.targets)
    words = " + 2 M w" if method.context else ""
    return (f"{2 * each} r W n{words}",
            2 * each * method.rank * W * layers + (context if method.context else 0))


# ---- one block ----------------------------------------------------------------------------------

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


def block_kept(s: Shape, whole: bool = False, targets: tuple = (), rank: int = 0) -> int:
    """Bytes that autograd saves in one block.  whole: all weights are trained."""
    size, W = (2 if s.bfloat16 else 4), s.width
    token = (attention_kept(s, whole, targets) + size * (4 + 5 * whole) * W + 4 * 2 * W
             + size * rank * len(targets))
    return s.batch * s.tokens * token + (2 * 12 * W**2 if s.bfloat16 else 0)


def block_stage(s: Shape, whole: bool = False, targets: tuple = (), rank: int = 0,
                made: int = 0) -> Stage:
    """One block that a gradient passes through."""
    size, T = (2 if s.bfloat16 else 4), s.batch * s.tokens
    kept, way = block_kept(s, whole, targets, rank), size * T * s.width
    back = (5 if whole else 9) * way
    if s.checkpointing:
        return Stage(4 * T * s.width, kept, kept + back, made)
    return Stage(kept, 4 * way, back, made)


def value_value_stage(s: Shape, whole: bool, targets: tuple, made: int) -> Stage:
    """Value-value attention; its input is kept by the ordinary block with the same weights."""
    size, T, W = (2 if s.bfloat16 else 4), s.batch * s.tokens, s.width
    heads, trained = W // 64, whole or {*targets} & {"v", "out"}
    token = size * 3 * W + 4 * heads
    if s.bfloat16 and s.written_out:
        token = 2 * (5 * W + heads * s.tokens)
    kept = T * token + (2 * 2 * W**2 if s.bfloat16 and not whole else 0)
    back = size * T * (5 * W + (2 * heads * s.tokens if s.written_out else 0))
    if not trained:
        return Stage(0, T * 6 * W * size, 0, 0)
    if s.checkpointing:
        return Stage(4 * T * W, kept, kept + back, made)
    return Stage(kept, 3 * size * T * W, back, made)


def first_token_stage(s: Shape, made: int) -> Stage:
    """The last block for the CLS token only: k and v of all tokens, everything else of one."""
    size, T, W = (2 if s.bfloat16 else 4), s.batch * s.tokens, s.width
    inputs = 2 if s.bfloat16 else 1
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
    blocks = method.first(config.vision_layers)
    return Stage(state, (2 + 2 * 4) * picture + blocks * state + 15 * size * T * W, 0, 0)


def image_stages(method: Method, s: Shape, config: CLIPConfig) -> tuple[list[Stage], list[Stage]]:
    """(stages before the text tower, stages after it)."""
    before, T, W = [entering_stage(method, s, config)], s.batch * s.tokens, s.width
    size, n = 2 if s.bfloat16 else 4, config.vision_layers
    last = default_value_value_blocks(n)
    if method.kind in ("probe", "context"):             # nothing in the tower is trained
        states = 4 * T * W * (method.kind == "probe")
        return before + [Stage(states, 0, 0, 0)], [Stage(0, 8 * T * W * size, 0, 0)]
    whole = method.kind in ("image", "both")
    lora = 4 * 2 * method.rank * W * len(method.targets)
    block, pair = (4 * blocks_count(W, 1), 4 * 2 * W**2) if whole else (lora, lora // 2)
    blocks = [block_stage(s, whole, method.targets, method.rank, block)] * (n - method.first(n) - 1)
    if blocks and not (whole or s.checkpointing):       # the first norm's input needs no gradient
        blocks[0] = blocks[0]._replace(kept=blocks[0].kept - 4 * T * W)
    values = [value_value_stage(s, whole, method.targets, pair)]
    head = Stage(T * (4 * W + size * (W * whole + 2 * config.embed)), 4 * T * W, 2 * 4 * T * W,
                 4 * W * config.embed * whole)
    return (before + blocks,
            values * min(last, n - method.first(n)) + [head, first_token_stage(s, block)])


def stages(method: Method, config: CLIPConfig, batch: int, prompt: int, bfloat16: bool,
           checkpointing: bool, device: str) -> list[Stage]:
    """All stages of a step, in the order of computation."""
    tokens = 1 + (config.resolution // config.patch) ** 2
    how = bfloat16, bfloat16 and device == "cpu", checkpointing     # attention.fused_attention
    before, after = image_stages(method, Shape(batch, tokens, config.vision_width, *how), config)
    words = []
    if method.context or method.kind in ("image", "both", "context"):
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
              device: str = "cpu") -> dict[str, int]:
    """{"weights", "pool", "gradients", "optimiser", "activations"}: bytes at the peak.

    prompt: tokens of a prompt;  pool: number of pictures in the pool.
    """
    moving = 4 * trainable(method, config)[1]
    table, matrix = config.vocab * config.text_width, 4 * config.vision_width**2
    largest = 4 * (table if method.kind == "both" else matrix)
    updating = min(moving, 2 * largest) if device == "cpu" else moving   # by tensor, or all at once
    activations, gradients, moments = walk(
        stages(method, config, batch, prompt, bfloat16, checkpointing, device),
        2 * moving, updating)
    weights = 4 * (sum(tower_counts(config)) + 1) + moving * (method.kind == "lora")
    return {"weights": weights, "pool": held(method, config, pool, device),
            "gradients": gradients, "optimiser": moments, "activations": activations}
