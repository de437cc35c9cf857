"""The text tower: a causal transformer whose output at the end-of-text token is the text's vector.

Claim: tokens see only what stands to their left, so only the last one has seen the whole text. The
vector is taken there; what follows (padding) cannot change it.

    C. Radford et al. 2021, "Learning transferable visual models ..." (CLIP), section 2.4.
    Authors' code: https://github.com/openai/CLIP (clip/model.py)

Symbols: N prompts, L tokens, W width, E embedding.
There are two entry points: `encode_text` takes token ids; `encode_embeddings` takes token
embeddings, so that learned prompts (CoOp) can enter.
Left out: text generation, padding masks (the causal mask hides the padding).
"""
import torch
from torch import Tensor, nn

from minilora.attention import ACTIVATIONS, Block
from minilora.io.demos import run_demo


class TextTransformer(nn.Module):
    """CLIP's text tower.  Features are returned as they are, not normalised to length one."""

    def __init__(self, context: int, vocab: int, width: int, layers: int, embed: int,
                 activation: str = "quick_gelu", head_width: int = 64) -> None:
        super().__init__()
        self.end = vocab - 1                                     # end-of-text, the highest id
        self.token_embedding = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(Block(width, width // head_width, ACTIVATIONS[activation])
                                    for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed))
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights, from `generator` if given, with OpenAI's standard deviations."""
        width = self.text_projection.shape[0]
        self.token_embedding.weight.normal_(0, 0.02, generator=generator)
        self.positional_embedding.normal_(0, 0.01, generator=generator)
        self.text_projection.normal_(0, width ** -0.5, generator=generator)
        for block in self.blocks:
            block.initialise(len(self.blocks), generator)
        self.ln_final.reset_parameters()

    def encode_text(self, ids: Tensor) -> Tensor:
        """One vector per text.  ids: (N, L) integer, each row with an end-of-text -> (N, E).

        The vector is taken at the last end-of-text of the row, which the tokenizer adds.  Differs:
        OpenAI's code takes the first one.  They are the same unless the text itself contains
        <|endoftext|>.
        Raises ValueError for another shape, an id outside the table, a row without end-of-text.
        """
        if ids.ndim != 2:
            raise ValueError(f"token ids: expected (N, L), found {tuple(ids.shape)}; "
                             "make ids with Tokenizer.tokenize")
        if int(ids.max()) > self.end:
            raise ValueError(f"token ids: found {int(ids.max())}, but these weights have a table "
                             f"of {self.end + 1} tokens, smaller than the tokenizer's; give the "
                             "weights of a CLIP that was trained with this tokenizer")
        eot = end_of_text_positions(ids, self.end)               # (N,)
        ids = ids[:, :int(eot.max()) + 1]                        # embed only what is used below
        return self.encode_embeddings(self.token_embedding(ids), eot)

    def encode_embeddings(self, x: Tensor, eot: Tensor) -> Tensor:
        """One vector per text, from token embeddings.

        x: (N, L, W) without positions; eot: (N,) integer, the position of each end-of-text.
        Returns (N, E).  Raises ValueError if a position lies outside x or the context.
        Tokens behind the last end-of-text of all rows are cut off first.  Because of the causal
        mask they change no result, and a prompt needs only 10 to 20 of the 77 positions.
        """
        length, context = int(eot.max()) + 1, len(self.positional_embedding)
        if length > min(context, x.shape[1]) or int(eot.min()) < 0:
            raise ValueError(f"end-of-text positions: expected 0 to {min(context, x.shape[1]) - 1} "
                             f"({x.shape[1]} tokens given, context {context}), found "
                             f"{int(eot.min())} to {length - 1}; shorten the text")
        x = x[:, :length] + self.positional_embedding[:length]   # (N, L, W)
        for block in self.blocks:
            x = block(x, causal=True)
        x = x[torch.arange(len(x), device=x.device), eot]        # (N, W)
        return self.ln_final(x) @ self.text_projection           # (N, E)


def end_of_text_positions(ids: Tensor, end: int) -> Tensor:
    """Position of the last end-of-text (token `end`) in each row: (N, L) -> (N,).

    Raises ValueError for a row without one.
    """
    ends = ids == end                                            # (N, L)
    if not ends.any(dim=1).all():
        row = int((~ends.any(dim=1)).nonzero()[0])
        raise ValueError(f"token ids: row {row} has no end-of-text token ({end}); make ids with "
                         "Tokenizer.tokenize, which adds it")
    return ids.shape[1] - 1 - ends.flip(1).int().argmax(dim=1)


def demo() -> None:
    generator = torch.Generator().manual_seed(0)
    text = TextTransformer(context=77, vocab=1000, width=64, layers=2, embed=32)
    text.initialise(generator)
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :5] = torch.tensor([998, 10, 11, 12, 999])            # start, three words, end-of-text
    ids[1, :4] = torch.tensor([998, 10, 11, 999])
    with torch.no_grad():
        features = text.encode_text(ids)
        changed = ids.clone()
        changed[0, 5:] = 7                                       # other padding
        print(f"ids {tuple(ids.shape)} -> features {tuple(features.shape)}")
        print("other padding behind the end-of-text changes the feature by "
              f"{(text.encode_text(changed) - features).abs().max():.1e}")
        changed[0, 3] = 13                                       # another word
        print(f"another word before it changes the feature by "
              f"{(text.encode_text(changed) - features).abs().max():.1e}")
        embedded = text.encode_embeddings(text.token_embedding(ids), torch.tensor([4, 3]))
        print(f"from token embeddings: differs by {(embedded - features).abs().max():.1e}")


# Exercise 1: Call encode_embeddings in demo() with eot = torch.tensor([1, 1]). Why do both texts
#             get the same vector?
# Exercise 2: Set positional_embedding to zero and exchange the words 10 and 11 of the first text.
#             Does its vector change? Does it change in a tower of one layer?
if __name__ == "__main__":
    run_demo("text", demo)
