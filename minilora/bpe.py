"""CLIP's tokenizer: byte-level byte-pair encoding (BPE), from text to token ids and back.

    Sennrich, Haddow & Birch 2016, "Neural machine translation of rare words with subword units",
        algorithm 1, on bytes instead of characters (GPT-2); vocabulary: Radford et al. 2021 (CLIP).
    Authors' code: https://github.com/openai/CLIP, https://github.com/rsennrich/subword-nmt

Claim: a token is one byte, or two earlier tokens joined. So every text can be encoded, and the
vocabulary is nothing but a list of pairs, the merges:

    id 0 .. 255         one byte inside a word
    id 256 .. 511       the same byte at the end of a word (`</w>` in the merges file)
    id 512 .. 49405     merge number id - 512: two earlier ids joined
    id 49406, 49407     START and END of text; padding is 0, which is also "!"

A literal `<|endoftext|>` in a user's text becomes END, as in OpenAI's code. This cannot move the
pooling position: `tokenize` closes every row with its own END, and the text tower pools at the LAST
END of a row (differs: OpenAI's code pools at the first).

The shipped merges are lines 2 to 48895 of `bpe_simple_vocab_16e6.txt.gz` (sha256 924691ac288e5440\
9236115652ad4aa250f48203de50a9e4722a6ecd48d6804a), (c) 2021 OpenAI, MIT, see bpe_merges.LICENSE:
    zcat bpe_simple_vocab_16e6.txt.gz | sed -n '2,48895p' | gzip -9n > bpe_merges.txt.gz

Left out: fast training. A letter newer than the Unicode tables of `regex` counts as punctuation.
"""
import gzip
import html
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import ftfy
import regex
import torch
from torch import Tensor

from minilora.io.demos import run_demo
from minilora.io.paths import vocabulary_path

MERGES = 48_894
START, END = 512 + MERGES, 513 + MERGES                 # 49406, 49407
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
CONTEXT = 77                                            # tokens in a row, START and END included
CACHED_WORDS = 1 << 16

# Pre-tokenisation: merges stay inside a match: special token, contraction, letters, digit, others.
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
                     r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def clean(text: str) -> str:
    """CLIP's normalisation: repair Unicode, decode HTML, collapse whitespace, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))    # "&amp;lt;" needs two passes
    return regex.sub(r"\s+", " ", text.strip()).strip().lower()


def printable_bytes() -> dict[str, int]:
    """{character: byte}: how the merges file writes the 256 bytes, in the order of their ids.

    Bytes visible in Latin-1 come first, as themselves; the others follow, as characters U+0100 on.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    code_points = [*visible, *range(256, 256 + len(hidden))]
    return {chr(code): byte for code, byte in zip(code_points, visible + hidden)}


def merge_pair(tokens: Sequence, pair: tuple, new: int | str) -> list:
    """Replace each occurrence of `pair` in `tokens`, from left to right, by the token `new`."""
    merged, n = [], 0
    while n < len(tokens):
        hit = tuple(tokens[n:n + 2]) == pair
        merged.append(new if hit else tokens[n])
        n += 2 if hit else 1
    return merged


def train_merges(text: str, count: int) -> list[tuple[str, str]]:
    """Learn up to `count` merges from a text, most frequent pair first (algorithm 1).

    Returns the pairs in the order learned, written as in the merges file. Among equally frequent
    pairs the last one in alphabetical order wins, as in the authors' code.
    """
    letter = {byte: character for character, byte in printable_bytes().items()}
    words, merges = Counter(), []                       # words: {tokens of a word: its frequency}
    for word in WORD.findall(clean(text)):
        *inside, last = (letter[byte] for byte in word.encode())
        words[(*inside, last + "</w>")] += 1
    while len(merges) < count and max(map(len, words), default=0) > 1:
        pairs = Counter()
        for tokens, frequency in words.items():
            for pair in zip(tokens, tokens[1:]):
                pairs[pair] += frequency
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        words = {tuple(merge_pair(tokens, merges[-1], "".join(merges[-1]))): frequency
                 for tokens, frequency in words.items()}
    return merges


class Tokenizer:
    """CLIP's tokenizer, with the shipped merges or with another merges file of the same length."""

    def __init__(self, path: str | Path | None = None) -> None:
        path = path or vocabulary_path()
        lines = gzip.decompress(Path(path).read_bytes()).decode("utf-8").splitlines()
        if len(lines) != MERGES:
            raise ValueError(f"{path}: expected {MERGES} lines with one merge each, found "
                             f"{len(lines)}; restore the file or cut it as bpe.py's docstring says")
        byte_of = printable_bytes()
        self.id_of_byte = {byte: n for n, byte in enumerate(byte_of.values())}
        self.vocab = [bytes([b]) for b in byte_of.values()]             # id -> its bytes
        self.vocab += [piece + b" " for piece in self.vocab]            # at the end of a word
        id_of = {c: n for n, c in enumerate([*byte_of, *(c + "</w>" for c in byte_of)])}
        self.merges = {}                                                # (id, id) -> merged id
        for new, line in enumerate(lines, start=512):
            left, right = line.split(" ")
            id_of[left + right] = new
            self.merges[id_of[left], id_of[right]] = new
            self.vocab.append(self.vocab[id_of[left]] + self.vocab[id_of[right]])
        self.vocab += [special.encode() for special in SPECIAL]
        self.cache = {}                                                 # word -> ids

    def merge_steps(self, word: str) -> Iterator[list[int]]:
        """Yield the ids of one cleaned word: first its bytes, then the result of each merge."""
        ids = [self.id_of_byte[byte] for byte in word.encode()]
        ids[-1] += 256                                                  # the last byte ends a word
        yield ids
        while len(ids) > 1:
            # Merges apply in the order learned (algorithm 1), which is the order of their ids.
            pair = min(zip(ids, ids[1:]), key=lambda p: self.merges.get(p, START))
            if pair not in self.merges:
                return
            ids = merge_pair(ids, pair, self.merges[pair])
            yield ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without START and END around it; "" gives []."""
        if not isinstance(text, str):
            raise TypeError(f"text to encode: expected str, found {type(text).__name__}; "
                            "decode bytes first, and pass lists to tokenize()")
        ids = []
        for word in WORD.findall(clean(text)):
            if word not in self.cache:
                if len(self.cache) >= CACHED_WORDS:                     # limits the memory
                    self.cache.clear()
                special = [SPECIAL[word]] if word in SPECIAL else None
                self.cache[word] = special or list(self.merge_steps(word))[-1]
            ids += self.cache[word]
        return ids

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Lower-case text of ids.  Invalid UTF-8 gives U+FFFD; padding gives "!", so cut it off."""
        ids = [int(n) for n in ids]
        wrong = next((n for n in ids if not 0 <= n <= END), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong}: expected 0 to {END}; encode with this tokenizer")
        return b"".join(self.vocab[n] for n in ids).decode("utf-8", errors="replace").strip()

    def tokenize(self, texts: str | Iterable[str], context: int = CONTEXT,
                 truncate: bool = False) -> Tensor:
        """START, ids, END and zeros for one text or a list of N: LongTensor (N, context).

        A text that does not fit raises ValueError; `truncate` cuts it and keeps END at the end.
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
def default_tokenizer() -> Tokenizer:
    """The tokenizer with the shipped merges, built once (about 0.1 s) and then shared."""
    return Tokenizer()


def demo() -> None:
    corpus = "low " * 5 + "lower " * 2 + "newest " * 6 + "widest " * 3      # as in algorithm 1
    print("merges learned:", ", ".join(" + ".join(pair) for pair in train_merges(corpus, 6)))
    tokenizer = default_tokenizer()
    for step, ids in enumerate(tokenizer.merge_steps("flawless")):
        print(f"after {step} merges  {'|'.join(tokenizer.vocab[n].decode() for n in ids):17} {ids}")
    for text in ("a photo of a damaged Bottle", "a<|endoftext|>b"):
        row = tokenizer.tokenize(text, context=10)[0]
        print(f"{text!r} -> {row.tolist()}")
    print(f"the text tower pools at the last {END}: position {(row == END).nonzero().max()}")


# Exercise 1: "flawless", "Flawless", "flawlessly": which of them contain token 15531, and why?
# Exercise 2: Unicode got U+1FAC6 (a fingerprint) after CLIP was trained. Which ids does it have?
# Exercise 3: Write down both merges of train_merges("low low lower", 2) before you run it.
if __name__ == "__main__":
    run_demo("bpe", demo)
