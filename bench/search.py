"""Search in videos: how well events are found, and how fast.

    python -m bench.search --part find      mAP, R@1, mIoU, F1 and AUC on drawn belts
                                            (search_find.py)
    python -m bench.search --part nothing   false alarms when nothing is there
                                            (search_nothing.py)
    python -m bench.search --part words --photos PHOTOS
                                            everyday nouns over photographs (search_words.py)
    python -m bench.search --part order     which event came first (search_order.py)
    python -m bench.search --part speed     indexing a video of ten minutes (search_speed.py)
    python -m bench.search --part query     an index of up to two million frames, and queries
                                            with and without faiss (search_frames.py)

This module holds the command; each part makes its tables in the module that is named.  Indexes and
cells are kept in OUT/search: after a change of how queries are answered, only that is measured
again, not the drawing and encoding, which take most of the time.
Left out: real videos; none with known events is at hand.
"""
import argparse
from pathlib import Path

import torch

from bench import measure
from bench.search_find import find_tables
from bench.search_frames import query_tables
from bench.search_nothing import nothing_tables
from bench.search_order import order_tables
from bench.search_speed import speed_tables
from bench.search_words import words_tables
from bench.tables import write_parts
from minilora.checkpoint.weights import load_clip

PARTS = {"find": find_tables, "nothing": nothing_tables, "words": words_tables,
         "order": order_tables, "speed": speed_tables, "query": query_tables}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--part", nargs="+", choices=PARTS,
                   default=[part for part in PARTS if part != "words"])
    p.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4],
                   help="smoothing width, baseline and floor were chosen on seed 1")
    p.add_argument("--photos", type=Path, help="part words: photographs as in Caltech-101")
    p.add_argument("--frames", type=int, nargs="+", default=[10**4, 10**5, 10**6, 2 * 10**6],
                   help="sizes of the index in part query")
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the tables")
    p.add_argument("--name", default="search", help="of the tables: NAME.txt, .md, .csv")
    return p


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    _, weights = load_clip()
    write_parts(options, PARTS, [
        measure.conditions(), f"{weights.name} (sha256 {weights.sha256[:12]}…), seeds "
        f"{' '.join(map(str, options.seeds))}"])


if __name__ == "__main__":
    main()
