"""The text tower: a causal transformer whose state at the end-of-text token is the text's vector.

Claim: reading from left to right, only the last token has seen the whole text; so the vector is
taken there, and what comes after it (padding) cannot change anything.

    C. Radford et al. 2021, "Learning transferable visual models ..." (CLIP), section 2.4.

Symbols: N prompts, L tokens, W width, E embedding.
Two ways in: `encode_text` from token ids; `encode_embeddings` from ready token embeddings, which is
where learned prompts (CoOp) enter.
Left out: text generation, padding masks (the causal mask hides the padding).
"""
import torch
from torch import nn

from minilora.attention import Block


class TextTransformer(nn.Module):
    """CLIP's text tower.  Features are returned as they are, not normalised to length one."""

    def __init__(self, context, vocab, width, layers, embed):
        super().__init__()
        self.end = vocab - 1                                     # end-of-text, the highest id
        self.token_embedding = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(Block(width, heads=width // 64) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed))
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator=None):
        """Draw all weights afresh, from `generator` if given, on the scales of OpenAI's code."""
        width = self.text_projection.shape[0]
        self.token_embedding.weight.normal_(0, 0.02, generator=generator)
        self.positional_embedding.normal_(0, 0.01, generator=generator)
        self.text_projection.normal_(0, width ** -0.5, generator=generator)
        for block in self.blocks:
            block.initialise(len(self.blocks), generator)
        self.ln_final.reset_parameters()

    def encode_text(self, ids):
        """One vector per text.  ids: (N, L) integer, each row with an end-of-text -> (N, E).

        The vector is taken at the last end-of-text of the row, the one that the tokenizer puts
        there.  Differs: OpenAI's code takes the first, which is another one only where the text
        itself spells out <|endoftext|>.
        Raises ValueError for another shape or a row without end-of-text.
        """
        if ids.ndim != 2:
            raise ValueError(f"token ids: expected (N, L), found {tuple(ids.shape)}; "
                             "Tokenizer.tokenize returns them so")
        ends = ids == self.end                                   # (N, L)
        if not ends.any(dim=1).all():
            row = int((~ends.any(dim=1)).nonzero()[0])
            raise ValueError(f"token ids: row {row} has no end-of-text token ({self.end}); "
                             "make ids with Tokenizer.tokenize, which adds it")
        eot = ids.shape[1] - 1 - ends.flip(1).int().argmax(dim=1)    # (N,) the last of each row
        ids = ids[:, :int(eot.max()) + 1]                        # what is cut off below need not be
        return self.encode_embeddings(self.token_embedding(ids), eot)         # looked up either

    def encode_embeddings(self, x, eot):
        """The same from token embeddings.  x: (N, L, W) without positions; eot: (N,) integer, where
        each text ends.  Returns (N, E).  Raises ValueError if a text is longer than the context.

        What lies behind the last end of all texts is cut off first: with a causal mask it cannot
        reach any result, and 77 tokens become the 10 to 20 that a prompt needs.
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


def demo():
    generator = torch.Generator().manual_seed(0)
    text = TextTransformer(context=77, vocab=1000, width=64, layers=2, embed=32)
    text.initialise(generator)
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :5] = torch.tensor([998, 10, 11, 12, 999])            # start, three words, end-of-text
    ids[1, :4] = torch.tensor([998, 10, 11, 999])
    with torch.no_grad():
        whole = text.encode_text(ids)
        padded = ids.clone()
        padded[0, 5:] = 7                                        # other padding ...
        print(f"ids {tuple(ids.shape)} -> features {tuple(whole.shape)}")
        print("other padding behind the end-of-text changes the feature by "
              f"{(text.encode_text(padded) - whole).abs().max():.1e}")
        padded[0, 3] = 13                                        # ... another word before it
        print(f"another word before it changes the feature by "
              f"{(text.encode_text(padded) - whole).abs().max():.1e}")
        ready = text.encode_embeddings(text.token_embedding(ids), torch.tensor([4, 3]))
        print(f"from ready embeddings: differs by {(ready - whole).abs().max():.1e}")


if __name__ == "__main__":
    demo()
