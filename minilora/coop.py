"""CoOp: the words around a class name are learned, as vectors that need not be real words.

    t = [V]_1 [V]_2 ... [V]_M [CLASS]                       Zhou et al. 2022, "Learning to Prompt
    t = [V]_1 ... [V]_M/2 [CLASS] [V]_M/2+1 ... [V]_M       for Vision-Language Models", eqs. 2, 4
                                          Authors' code: https://github.com/KaiyangZhou/CoOp

Here the two classes are two states of one product: [CLASS] is "flawless bottle" for the normal
state and "damaged bottle" for the anomalous one. Each context vector [V] has the width of a token
embedding. The text tower and the class tokens stay frozen: the gradient passes through the whole
tower, and only the context changes.

The alternative without learning is also here: the mean over an ensemble of hand-written sentences
(Jeong et al. 2023, "WinCLIP", section 4.1; the sentences are in prompts.py).

Differs: by default, CoOp's code learns one context of 16 vectors for all classes, starts from
noise, and uses SGD with rate 0.002. The detector (config.py) learns 4 vectors for each state,
starts from the words "a photo of a", and uses AdamW.

Symbols: M context vectors (`n_ctx`), W text width, E embedding, N sentences, L tokens.
Left out: contexts that depend on the image (CoCoOp), contexts inside the tower (deep prompts).
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.bpe import END, START, Tokenizer, default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.io.demos import run_demo
from minilora.prompts import prompt_ensemble
from minilora.text import end_of_text_positions

STATE_WORDS = ("flawless", "damaged")                   # before the class name: normal, anomalous
POSITIONS = ("end", "middle", "front")                  # of the class tokens in the prompt
INIT_STD = 0.02                                         # of a random start, section 4.1


@torch.no_grad()
def ensemble_features(clip: CLIP, tokenizer: Tokenizer, class_name: str) -> Tensor:
    """Text features of the hand-written prompts: (2, E), [normal, anomalous], of length one.

    Each sentence is normalised before the mean, so that all have the same weight; the mean is
    normalised again.
    """
    device, context_length = clip.text.positional_embedding.device, clip.config.context
    means = []
    for sentences in prompt_ensemble(class_name):
        ids = tokenizer.tokenize(sentences, context_length).to(device)          # (N, L)
        features = F.normalize(clip.encode_text(ids), dim=-1)                   # (N, E)
        means.append(features.mean(dim=0))                                      # (E,)
    return F.normalize(torch.stack(means), dim=-1)                              # (2, E)


class PromptLearner(nn.Module):
    """Learned context around "flawless <class>" and "damaged <class>"; only `context` is trained.

    n_ctx: M. init: None or "random" draws each vector from N(0, 0.02^2) with `generator`; any other
    text of M tokens gives its token embeddings as the start. position: of the class tokens, "end",
    "middle" or "front". class_specific: one context for each state; False: one for both.
    Freezes clip.text, but does not own it: the tower is neither in parameters() nor in
    state_dict(), and .to() does not move it. Raises ValueError if no prompt can be made.
    """

    def __init__(self, clip: CLIP, tokenizer: Tokenizer, class_name: str, n_ctx: int = 8,
                 init: str | None = None, position: str = "end", class_specific: bool = True,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        ids, slots = placeholder_prompts(tokenizer, class_name, n_ctx, position,
                                         clip.config.context)
        self.tower = (clip.text.requires_grad_(False),)     # a tuple, so that nn.Module ignores it
        table = clip.text.token_embedding.weight.detach()                           # (vocab, W)
        if ids.max() >= len(table):
            raise ValueError(f"PromptLearner: the token table has {len(table):,} rows, but the "
                             f"prompts hold token {ids.max():,}; use weights of CLIP's tokenizer")
        ids = ids.to(table.device)
        self.register_buffer("embeddings", table[ids], persistent=False)            # (2, L, W)
        self.register_buffer("slots", slots.to(table.device), persistent=False)     # (2, M) of [V]
        self.register_buffer("eot", end_of_text_positions(ids, END), persistent=False)  # (2,)
        rows = 2 if class_specific else 1
        if init in (None, "random"):
            context = torch.empty(rows, n_ctx, table.shape[1])
            context.normal_(0, INIT_STD, generator=generator)
        else:
            context = table[initial_token_ids(tokenizer, init, n_ctx)].expand(rows, -1, -1).clone()
        self.context = nn.Parameter(context.to(table))                  # (1 or 2, M, W)
        self.register_buffer("initial_context", self.context.detach().clone(), persistent=False)

    def forward(self) -> Tensor:
        """Text features (2, E), [normal, anomalous], each of length one."""
        context = self.context.expand(2, -1, -1)                        # (2, M, W)
        slots = self.slots.unsqueeze(-1).expand_as(context)             # (2, M, W)
        x = self.embeddings.scatter(1, slots, context)                  # (2, L, W)  eq. 2 or 4
        features = self.tower[0].encode_embeddings(x, self.eot)         # (2, E)
        return F.normalize(features, dim=-1)


def placeholder_prompts(tokenizer: Tokenizer, class_name: str, n_ctx: int, position: str,
                        context_length: int) -> tuple[Tensor, Tensor]:
    """Prompts with the letter X for each [V]: token ids (2, L); slots (2, M), positions of X."""
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
    ids, slots = tokenizer.tokenize(texts, context_length), torch.tensor(slots)
    if not (ids.gather(1, slots) == tokenizer.encode("X")[0]).all():    # X became part of a word
        raise ValueError(f"PromptLearner: class_name must consist of whole words, found "
                         f"{class_name!r}; remove incomplete characters at its ends")
    return ids, slots


def initial_token_ids(tokenizer: Tokenizer, words: str, n_ctx: int) -> list[int]:
    """Token ids of the words that the context starts from; ValueError unless there are `n_ctx`."""
    ids = tokenizer.encode(words)
    if len(ids) != n_ctx or START in ids or END in ids:
        raise ValueError(f"PromptLearner: init {words!r} must be {n_ctx} ordinary tokens, found "
                         f"{len(ids)}; pass n_ctx={len(ids)} or other words")
    return ids


def demo() -> None:
    """Learn contexts that move two text features to given directions; the tower is random."""
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=32, vision_layers=1, vision_width=64, patch=16,
                           text_width=64, text_layers=2)).initialise(generator)
    normal, anomalous = prompt_ensemble("bottle")
    print(f"ensemble: {len(normal)} normal and {len(anomalous)} anomalous sentences, such as")
    print(f"  {normal[-1]!r}\n  {anomalous[0]!r}")
    tokenizer = default_tokenizer()
    for position in POSITIONS:
        ids, _ = placeholder_prompts(tokenizer, "bottle", 4, position, 77)
        print(f"{position:6} {tokenizer.decode(ids[1, 1:end_of_text_positions(ids, END)[1]])}")
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


# Exercise 1: How large can n_ctx be for the class name "bottle"? Count the other tokens first.
# Exercise 2: Use class_specific=False. How many numbers are trained, and why do the features of
#             the two states still differ?
if __name__ == "__main__":
    run_demo("coop", demo)
