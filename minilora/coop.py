"""CoOp: the words around a class name are learned, as vectors that need not be words at all.

    t = [V]_1 [V]_2 ... [V]_M [CLASS]                       Zhou et al. 2022, "Learning to Prompt
    t = [V]_1 ... [V]_M/2 [CLASS] [V]_M/2+1 ... [V]_M       for Vision-Language Models", eqs. 2, 4

Two classes here, of one product: CLASS is "flawless bottle" for the normal state and "damaged
bottle" for the anomalous one. Each [V] has the width of a token embedding; text tower and class
tokens stay frozen, so the gradient passes through the whole tower and reaches the context alone.

Beside it, what is done without learning: the mean over a compositional ensemble of hand-written
sentences (Jeong et al. 2023, "WinCLIP", section 4.1; the words are in prompts.py).

Differs: CoOp's code learns by default one context of 16 vectors from noise for all classes, by SGD
with rate 0.002; the detector (config.py) one of 4 for each state from the words "a photo of a",
by AdamW.

Symbols: M context vectors (`n_ctx`), W text width, E embedding, N sentences, L tokens.
Left out: contexts that depend on the image (CoCoOp), contexts inside the tower (deep prompts).
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.bpe import END, START
from minilora.prompts import prompt_ensemble

STATE_WORDS = ("flawless", "damaged")                        # before the noun: normal, anomalous
POSITIONS = ("end", "middle", "front")                  # where the class tokens stand
INIT_STD = 0.02                                              # of a random start, section 4.1


def end_of_text(ids):
    """Position of the last end-of-text in each row: (N, L) ids -> (N,), where the tower pools."""
    return ids.shape[1] - 1 - (ids == END).int().flip(1).argmax(dim=1)


@torch.no_grad()
def ensemble_features(clip, tokenizer, class_name):
    """Hand-written prompts about a noun: (2, E), [normal, anomalous], each of length one.

    Each sentence is normalised before the mean, so that all count the same, and the mean after it.
    """
    device, context = clip.text.positional_embedding.device, clip.config.context
    means = []
    for sentences in prompt_ensemble(class_name):
        features = clip.encode_text(tokenizer.tokenize(sentences, context).to(device))   # (N, E)
        means.append(F.normalize(features, dim=-1).mean(dim=0))                          # (E,)
    return F.normalize(torch.stack(means), dim=-1)                                       # (2, E)


class PromptLearner(nn.Module):
    """Learned context around "flawless <noun>" and "damaged <noun>"; only `context` is trained.

    n_ctx: M. init: None or "random" draws every vector from N(0, 0.02^2), by `generator`; any
    other text starts at the embeddings of its M tokens. position: of the class tokens, "end",
    "middle" or "front". class_specific: a context for each state; False: one for both.
    Freezes clip.text. The tower is used, not owned: it is neither in parameters() nor in
    state_dict(), and .to() does not move it. Raises ValueError for what does not fit.
    """

    def __init__(self, clip, tokenizer, class_name, n_ctx=8, init=None, position="end", class_specific=True,
                 generator=None):
        super().__init__()
        ids, slots = placeholder(tokenizer, class_name, n_ctx, position, clip.config.context)
        self.tower = (clip.text.requires_grad_(False),)                 # a tuple hides it from nn
        table = clip.text.token_embedding.weight.detach()               # (vocabulary, W)
        ids = ids.to(table.device)
        self.register_buffer("embeddings", table[ids], persistent=False)            # (2, L, W)
        self.register_buffer("slots", slots.to(table.device), persistent=False)     # (2, M)
        self.register_buffer("eot", end_of_text(ids), persistent=False)             # (2,)
        rows = 2 if class_specific else 1
        if init in (None, "random"):
            context = torch.empty(rows, n_ctx, table.shape[1])
            context.normal_(0, INIT_STD, generator=generator)
        else:
            context = table[word_ids(tokenizer, init, n_ctx)].expand(rows, -1, -1).clone()
        self.context = nn.Parameter(context.to(table))                  # (1 or 2, M, W)

    def forward(self):
        """Text features (2, E), [normal, anomalous], each of length one."""
        context = self.context.expand(2, -1, -1)                        # (2, M, W)
        slots = self.slots.unsqueeze(-1).expand_as(context)             # (2, M, W)
        x = self.embeddings.scatter(1, slots, context)                  # (2, L, W)  eq. 2 or 4
        features = self.tower[0].encode_embeddings(x, self.eot)         # (2, E)
        return F.normalize(features, dim=-1)


def placeholder(tokenizer, class_name, n_ctx, position, context):
    """Sentences with an X for each [V]: ids (2, L), and where the X's stand, slots (2, M)."""
    if position not in POSITIONS:
        raise ValueError(f"PromptLearner: position must be one of {', '.join(POSITIONS)}, found "
                         f"{position!r}; it says where the class tokens stand")
    if n_ctx < 1:
        raise ValueError(f"PromptLearner: n_ctx must be at least 1, found {n_ctx}; CoOp uses "
                         f"4 to 16")
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    texts, slots = [], []
    for state in STATE_WORDS:
        name = f"{state} {class_name.replace('_', ' ')}"
        words = ["X"] * before + [name] + ["X"] * (n_ctx - before)
        texts.append(" ".join(words) + ".")
        after = 1 + before + len(tokenizer.encode(name))                # 1: start of text
        slots.append([*range(1, 1 + before), *range(after, after + n_ctx - before)])
    ids, slots = tokenizer.tokenize(texts, context), torch.tensor(slots)
    if not (ids.gather(1, slots) == tokenizer.encode("X")[0]).all():    # a noun that melts into X
        raise ValueError(f"PromptLearner: noun must be made of whole words, found {class_name!r}; leave "
                         f"out what is cut off at its ends or runs on into the next word")
    return ids, slots


def word_ids(tokenizer, words, n_ctx):
    """The token ids of initial words; ValueError unless there are `n_ctx` of them."""
    ids = tokenizer.encode(words)
    if len(ids) != n_ctx or START in ids or END in ids:
        raise ValueError(f"PromptLearner: init {words!r} must be {n_ctx} ordinary tokens, found "
                         f"{len(ids)}; pass n_ctx={len(ids)} or other words")
    return ids


def demo():
    """Learn a context that tells two given directions apart; the tower is random and frozen."""
    from minilora.bpe import default_tokenizer
    from minilora.clip import CLIP, CLIPConfig
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=32, vision_layers=1, vision_width=64, patch=16,
                           text_width=64, text_layers=2)).initialise(generator)
    normal, anomalous = prompt_ensemble("bottle")
    print(f"ensemble: {len(normal)} normal and {len(anomalous)} anomalous sentences, such as")
    print(f"  {normal[-1]!r}\n  {anomalous[0]!r}")
    tokenizer = default_tokenizer()
    for position in POSITIONS:
        ids, _ = placeholder(tokenizer, "bottle", 4, position, 77)
        print(f"{position:6} {tokenizer.decode(ids[1, 1:end_of_text(ids)[1]])}")
    learner = PromptLearner(clip, tokenizer, "bottle", generator=generator)
    wanted = F.normalize(torch.randn(2, 32, generator=generator), dim=-1)
    optimizer = torch.optim.Adam([learner.context], lr=0.02)
    for step in range(61):
        cosines = (learner() * wanted).sum(dim=-1)                      # (2,)
        if step % 30 == 0:
            print(f"step {step:3}  cosines with the wanted features "
                  f"{cosines[0]:.3f} {cosines[1]:.3f}")
        optimizer.zero_grad()
        (1 - cosines).sum().backward()
        optimizer.step()
    print(f"trained: {[(n, tuple(p.shape)) for n, p in learner.named_parameters()]}")


if __name__ == "__main__":
    demo()
