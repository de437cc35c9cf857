"""Which defaults a table was measured with: every table states digests of them, tests compare.

A default that is changed changes every number that depends on it.  So `tables.write` puts one line
into each table, and tests/bench/test_defaults.py fails if a table states other digests than those
of today:

    detector   the configuration of a detector, and the constants of training and of the memory
    search     how a query becomes events, and the floor below which nothing is answered
    weights    the embedded model

    python -m bench.defaults    prints today's line

Left out: the code itself; the line names its commit.
"""
import re
from dataclasses import asdict
from functools import lru_cache

from minilora import coop, memory_bank, prompts, train
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.io.files import digest_of
from minilora.runs.provenance import commit
from minilora.search import query

DIGITS = 8                      # hexadecimal digits of each digest
LINE = re.compile(r"commit (\S+); defaults of (.+)")


@lru_cache
def default_digests() -> dict[str, str]:
    """{"detector", "search", "weights": digest} of this checkout."""
    detector = digest_of(asdict(DetectorConfig()), train.MIN_COVERAGE, memory_bank.CORESET_SHARE,
                         memory_bank.MAX_BYTES, memory_bank.PROJECTION_DIM, coop.STATE_WORDS,
                         prompts.NORMAL_STATES, prompts.ANOMALOUS_STATES, prompts.TEMPLATES)
    search = digest_of(query.QUERY_TEMPLATES, query.NEGATIVE_WEIGHT, query.SMOOTHING_WIDTH,
                       query.EVENT_GAP)
    return {"detector": detector[:DIGITS], "search": search[:DIGITS],
            "weights": load_clip()[1].sha256[:DIGITS]}


def defaults_line() -> str:
    """The line of a table: commit, and the digest of each group of defaults."""
    name, dirty, _ = (commit() or "unknown").partition("-dirty")
    return (f"commit {name[:7]}{dirty}; defaults of "
            + ", ".join(f"{name} {digest}" for name, digest in default_digests().items()))


def stated_defaults(text: str) -> dict[str, str]:
    """{group: digest} that a table states; empty if it states none."""
    found = LINE.search(text)
    return dict(pair.split(" ") for pair in found[2].split(", ")) if found else {}


def main() -> None:
    print(defaults_line())


if __name__ == "__main__":
    main()
