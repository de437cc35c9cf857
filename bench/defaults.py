"""Which defaults a table was measured with: every table states digests of them, tests compare.

A default that is changed changes every number that depends on it.  So `tables.write` puts one line
into each table, and tests/bench/test_defaults.py fails if a table states other digests than those
of today:

    detector   the configuration of a detector, and the constants of training and of the memory
    search     how a query becomes events, and the floor below which nothing is answered
    weights    the embedded model

    python -m bench.defaults    prints today's line

Left out: the code itself; the line names its commit, with "-dirty" if code or weights differ from
it.  Tables may differ: they are written one after another, and no number depends on them.
"""
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache

from minilora import coop, memory_bank, prompts, train
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.io.files import digest_of
from minilora.io.paths import checkout_folder
from minilora.runs.provenance import commit
from minilora.search import floor, query, unrelated_texts

DIGITS = 8                      # hexadecimal digits of each digest
LINE = re.compile(r"commit (\S+); defaults of (.+)")
CODE = ("minilora", "weights", "bench", ":(exclude)bench/results")


@lru_cache(maxsize=1)
def embedded_digest() -> str:
    """SHA-256 of the embedded model."""
    return load_clip()[1].sha256


@lru_cache(maxsize=1)
def code_commit() -> str:
    """The first digits of the commit, with "-dirty" if code or weights differ from it."""
    name = (commit() or "unknown").removesuffix("-dirty")[:7]
    if name == "unknown":
        return name
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *CODE],
                             cwd=checkout_folder()).returncode
    return name + ("-dirty" if changed else "")


def default_digests() -> dict[str, str]:
    """{"detector", "search", "weights": digest} of this checkout."""
    detector = digest_of(asdict(DetectorConfig()), train.MIN_COVERAGE, memory_bank.CORESET_SHARE,
                         memory_bank.MAX_BYTES, memory_bank.PROJECTION_DIM, coop.STATE_WORDS,
                         prompts.NORMAL_STATES, prompts.ANOMALOUS_STATES, prompts.TEMPLATES)
    search = digest_of(query.QUERY_TEMPLATES, query.NEGATIVE_WEIGHT, query.SMOOTHING_WIDTH,
                       query.EVENT_GAP, floor.ODDS, floor.OPPOSITE_ODDS,
                       unrelated_texts.UNRELATED_TEXTS)
    return {"detector": detector[:DIGITS], "search": search[:DIGITS],
            "weights": embedded_digest()[:DIGITS]}


def defaults_line() -> str:
    """The line of a table: commit, and the digest of each group of defaults."""
    return f"commit {code_commit()}; defaults of " + ", ".join(
        f"{group} {digest}" for group, digest in default_digests().items())


def stated_defaults(text: str) -> dict[str, str]:
    """{group: digest} that a table states; empty if it states none."""
    found = LINE.search(text)
    return dict(re.findall(r"(\w+) ([0-9a-f]+)", found[2])) if found else {}


def changed_groups(text: str, groups: Iterable[str]) -> list[str]:
    """Those of the groups for which a table states other digests than today's, or none."""
    stated, today = stated_defaults(text), default_digests()
    return [group for group in groups if stated.get(group) != today[group]]


def main() -> None:
    print(defaults_line())


if __name__ == "__main__":
    main()
