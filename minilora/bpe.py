"""CLIP's tokenizer: byte-level byte-pair encoding, text -> ids and back.

Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword Units",
algorithm 1, on bytes instead of characters (Radford et al. 2019, GPT-2), with the vocabulary of
Radford et al. 2021 (CLIP). The claim: a token is a byte or a pair of earlier tokens, nothing
else, so every text has an encoding and the whole vocabulary is a list of pairs:

    id 0 .. 255         one byte inside a word
    id 256 .. 511       the same byte at the end of a word (`</w>` in the merges file)
    id 512 .. 49405     merge number id - 512: two earlier ids joined
    id 49406, 49407     START and END of text; padding is 0, which is also "!"

A literal `<|endoftext|>` in a user's text becomes END, and `<|startoftext|>` START, exactly as in
OpenAI's code. It cannot move the pooling position: `tokenize` closes every row, truncated or not,
with an END of its own, and the text tower pools at the LAST END of a row (differs: OpenAI's code
pools at the first).

The merges are those of `bpe_simple_vocab_16e6.txt.gz` (sha256 924691ac288e54409236115652ad4aa2\
50f48203de50a9e4722a6ecd48d6804a), (c) 2021 OpenAI, MIT licence, see bpe_merges.LICENSE. CLIP uses
lines 2 to 48895 of its 262,145; `minilora/bpe_merges.txt.gz` was made by

    zcat bpe_simple_vocab_16e6.txt.gz | sed -n '2,48895p' | gzip -9n > bpe_merges.txt.gz

Left out: learning merges from a corpus. What counts as a letter is what `regex` knows of Unicode:
letters assigned after a version of `regex` was made are split like punctuation by that version.
"""
import gzip
import html
from functools import lru_cache

import ftfy
import regex
import torch

from minilora.io.paths import vocabulary_path

MERGES = 48_894
START, END = 512 + MERGES, 513 + MERGES                 # 49406, 49407
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
CONTEXT = 77                                            # tokens in a row, START and END included
CACHED_WORDS = 1 << 16

# What is never merged across: special tokens, English contractions, runs of letters, single
# digits, runs of anything else that is not blank.
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
                     r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def clean(text):
    """CLIP's normalisation: mend broken unicode, HTML entities (twice), blanks, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return regex.sub(r"\s+", " ", text.strip()).strip().lower()


def printable_bytes():
    """The 256 bytes as the visible characters by which the merges file writes them.

    Returns {character: byte} in the order of the ids: first the bytes that are visible in Latin-1,
    which stand for themselves, then the others as the characters from 256 upwards (GPT-2).
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = [*visible, *range(256, 256 + len(hidden))]
    return {chr(letter): byte for letter, byte in zip(letters, visible + hidden)}


def merge_pair(ids, pair, new):
    """Replace each occurrence of `pair` in the list `ids`, from left to right, by the id `new`."""
    joined, n = [], 0
    while n < len(ids):
        hit = tuple(ids[n:n + 2]) == pair
        joined.append(new if hit else ids[n])
        n += 2 if hit else 1
    return joined


class Tokenizer:
    """CLIP's tokenizer with the shipped vocabulary, or with another merges file of that form."""

    def __init__(self, path=None):
        path = path or vocabulary_path()
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
        if len(lines) != MERGES:
            raise ValueError(f"{path}: expected {MERGES} lines with one merge each, found "
                             f"{len(lines)}; restore the file or cut it as bpe.py's docstring says")
        byte_of = printable_bytes()
        self.id_of_byte = {byte: n for n, byte in enumerate(byte_of.values())}
        self.vocab = [bytes([b]) for b in byte_of.values()]            # id -> what it stands for
        self.vocab += [piece + b" " for piece in self.vocab]          # the end of a word
        names = {c: n for n, c in enumerate([*byte_of, *(c + "</w>" for c in byte_of)])}
        self.merges = {}                                                # (id, id) -> id, by rank
        for new, line in enumerate(lines, start=512):
            left, right = line.split(" ")
            names[left + right] = new
            self.merges[names[left], names[right]] = new
            self.vocab.append(self.vocab[names[left]] + self.vocab[names[right]])
        self.vocab += [special.encode() for special in SPECIAL]
        self.cache = {}                                                 # word -> ids

    def merge_steps(self, word):
        """Yield the ids of one cleaned word after each merge, from single bytes to the end."""
        ids = [self.id_of_byte[byte] for byte in word.encode()]
        ids[-1] += 256                                                  # the last byte ends a word
        yield ids
        while len(ids) > 1:
            # The earliest learned pair comes first (algorithm 1), and ids count up as learned.
            pair = min(zip(ids, ids[1:]), key=lambda p: self.merges.get(p, START))
            if pair not in self.merges:
                return
            ids = merge_pair(ids, pair, self.merges[pair])
            yield ids

    def encode(self, text):
        """Ids of a text as a list of int, without START and END around it; "" gives []."""
        if not isinstance(text, str):
            raise TypeError(f"text to encode: expected str, found {type(text).__name__}; "
                            "decode bytes first, and pass lists to tokenize()")
        ids = []
        for word in WORD.findall(clean(text)):
            if word not in self.cache:
                if len(self.cache) >= CACHED_WORDS:                     # words have a long tail
                    self.cache.clear()
                special = [SPECIAL[word]] if word in SPECIAL else None
                self.cache[word] = special or list(self.merge_steps(word))[-1]
            ids += self.cache[word]
        return ids

    def decode(self, ids):
        """Text of ids: lower case, words apart by blanks; bytes that are no UTF-8 show as U+FFFD.

        ids: iterable of int or a 1-d tensor. Padding is not told from "!": cut a row after its END.
        """
        ids = [int(n) for n in ids]
        wrong = next((n for n in ids if not 0 <= n <= END), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong}: expected 0 to {END}; these ids come from "
                             "another vocabulary")
        return b"".join(self.vocab[n] for n in ids).decode("utf-8", errors="replace").strip()

    def tokenize(self, texts, context=CONTEXT, truncate=False):
        """START, ids, END and zeros for one text or a list of N: LongTensor (N, context).

        A text that does not fit raises ValueError; with `truncate` it is cut and END kept last.
        """
        if context < 2:
            raise ValueError(f"context {context}: expected at least 2, for START and END")
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = torch.zeros(len(texts), context, dtype=torch.long)       # (N, L)
        for n, text in enumerate(texts):
            ids = [START, *self.encode(text), END]
            if len(ids) > context and not truncate:
                raise ValueError(f"text {n} ({text[:40]!r}): {len(ids)} tokens with START and END, "
                                 f"expected at most {context}; shorten it or pass truncate=True")
            ids = ids[:context - 1] + [END] if len(ids) > context else ids
            rows[n, :len(ids)] = torch.tensor(ids)
        return rows


@lru_cache(maxsize=1)
def default_tokenizer():
    """The tokenizer with the shipped vocabulary, built once (about 0.1 s) and then shared."""
    return Tokenizer()


def demo():
    """Watch a word grow from bytes into a token, then a sentence as the text tower gets it."""
    tokenizer = default_tokenizer()

    def show(ids):
        return "|".join(tokenizer.vocab[n].decode("utf-8", "replace") for n in ids)

    for step, ids in enumerate(tokenizer.merge_steps("flawless")):
        print(f"after {step} merges   {show(ids):17} {ids}")
    for text in ("a photo of a damaged Bottle", "a<|endoftext|>b"):
        row = tokenizer.tokenize(text, context=10)[0]
        print(f"{text!r} -> {row.tolist()}")
    last = (row == END).nonzero().max().item()
    print(f"the text tower pools at the last {END}: position {last}")


if __name__ == "__main__":
    demo()
