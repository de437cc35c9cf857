"""Figures of texts: merges of a word, what a token sees, and how sentences compare.

Left out: learned context vectors (training.py).
"""
import torch
import torch.nn.functional as F

from minilora.attention import attention
from minilora.bpe import default_tokenizer
from minilora.charts.drawing import Drawing, Rectangle, Label
from minilora.charts.plots import LETTER, title_words
from minilora.figures.embedded import embedded_clip
from minilora.figures.matrix import matrix_plot
from minilora.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES

MERGED_WORD = "flawlessness"
BOX_HEIGHT, ROW_HEIGHT, ROWS_TOP = 20, 30, 40           # pixels


def bpe_figure(word: str = MERGED_WORD) -> Drawing:
    """One row of tokens for each merge, from the bytes to the tokens that CLIP gets."""
    tokenizer, shapes = default_tokenizer(), [title_words(f"BPE: the merges of '{word}'")]
    steps = list(tokenizer.merge_steps(word))
    letter = 2.6 * LETTER                               # the width of a byte's box
    for n, ids in enumerate(steps):
        x, y = 70.0, ROWS_TOP + n * ROW_HEIGHT
        name = "bytes" if n == 0 else f"{n} merge{'s' * (n > 1)}"
        shapes.append(Label(60, y + 14, name, "end"))
        for token in ids:
            text = tokenizer.vocab[token].decode(errors="replace").replace(" ", "_")
            width = letter * len(tokenizer.vocab[token].rstrip())
            is_new = n > 0 and token not in steps[n - 1]
            shapes += [Rectangle(x + 1, y, width - 3, BOX_HEIGHT, "grid"),
                       Label(x + width / 2, y + 14, text, "middle", bold=is_new)]
            x += width
    width = 90 + letter * len(word.encode())
    shapes.append(Label(70, ROWS_TOP + len(steps) * ROW_HEIGHT + 8,
                        f"_ ends a word; ids {', '.join(map(str, steps[-1]))}"))
    return Drawing(f"BPE: the merges of '{word}'", f"{len(steps) - 1} merges make "
                   f"{len(steps[-1])} tokens of {len(steps[0])} bytes", max(360, width),
                   ROWS_TOP + len(steps) * ROW_HEIGHT + 20, shapes)


def text_figure() -> Drawing:
    """Attention weights of the last text block, the mean over its heads, in a sentence."""
    clip, tokenizer = embedded_clip(), default_tokenizer()
    text, sentence = clip.text, "a photo of a damaged bottle"
    ids = tokenizer.encode(sentence)
    names = ["START", *(tokenizer.decode([n]) for n in ids), "END"]
    x = text.token_embedding(tokenizer.tokenize(sentence)[:, :len(names)])
    x = x + text.positional_embedding[:len(names)]                              # (1, L, W)
    for block in text.blocks[:-1]:
        x = block(x, causal=True)
    attn, x = text.blocks[-1].attn, text.blocks[-1].ln_1(x)
    q, k = attn.split(attn.q(x)), attn.split(attn.k(x))                         # (1, H, L, D)
    weights = attention(q, k, torch.eye(len(names)).expand_as(q @ k.mT), causal=True)
    return matrix_plot("Text tower: no token attends to a later one",
                       "attention weights, rows look at columns", names, names,
                       weights[0].mean(0))


def prompts_figure() -> Drawing:
    """Cosines between the states of the prompt ensemble, each the mean over its templates."""
    clip, tokenizer, means = embedded_clip(), default_tokenizer(), []
    states = [state.format("bottle") for state in (*NORMAL_STATES, *ANOMALOUS_STATES)]
    for state in states:
        ids = tokenizer.tokenize([template.format(state) for template in TEMPLATES])
        means.append(F.normalize(clip.encode_text(ids), dim=-1).mean(0))        # (E,)
    features = F.normalize(torch.stack(means), dim=-1)                          # (11, E)
    return matrix_plot("Prompts: 7 normal and 4 anomalous states", "cosines of their features",
                       states, states, features @ features.T, ".3f")


def demo() -> None:
    """The rows of the merges' figure, as text."""
    drawing = bpe_figure()
    rows = {}
    for shape in drawing.shapes[1:-1]:
        if isinstance(shape, Label):
            rows.setdefault(shape.y, []).append(shape.text)
    for name, *tokens in rows.values():
        print(f"{name:9s} {'|'.join(tokens)}")


if __name__ == "__main__":
    demo()
