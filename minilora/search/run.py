"""The command for search: index pictures and videos, query the index, remove files from it.

    python -m minilora.search index PATHS --out INDEX        a second run encodes changes only
    python -m minilora.search query INDEX "a damaged gear" -k 10 --page found.html
    python -m minilora.search query INDEX "a gear:2" "a wheel" --without rust --from 1:30 --to 2:00
    python -m minilora.search query INDEX --like PICTURE
    python -m minilora.search query INDEX --reads "SN 4821"             text in the picture
    python -m minilora.search remove INDEX PATHS

Left out: how events are found (search/query.py), what is heard in a video.
"""
import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from minilora.checkpoint.base_model import base_of, open_base
from minilora.checkpoint.weights import add_activation_option, load_clip
from minilora.clip import CLIP
from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.frames import media_in
from minilora.io.cli import device_name, device_text, finite_number, option_parser, positive_int
from minilora.io.parser import OneLineParser
from minilora.io.progress import print_line
from minilora.io.text import shown
from minilora.search import faiss_index
from minilora.search.floor import Answer, calibrate_floor, find_answer
from minilora.search.index import Index, with_index
from minilora.search.index_file import identity_of, refuse_foreign
from minilora.search.indexing import FrameEncoder, remove_files, update_index
from minilora.search.ocr import TextReader
from minilora.search.outputs import check_outputs, note_of, write_outputs
from minilora.search.query import (EVENT_GAP, SMOOTHING_WIDTH, check_query, encode_query,
                                   find_text)
from minilora.search.results import event_line
from minilora.search.times import time_option, time_window


def run_index(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `index`.  Returns the exit status: 2 if some files could not be read."""
    refuse_foreign(options.out)
    sampling = {"rate": options.frame_rate, "change": options.change} | (
        {"bits": options.bits} if options.bits else {})
    paths, skipped, _ = media_in(options.paths)
    for path, reason in skipped:
        say(f"--  {shown(path)}: {reason}")
    new = identity_of(options.out) is None
    if not paths or new and not any(Path(path).exists() for path in paths):
        raise FileNotFoundError(f"no picture or video in {', '.join(map(shown, options.paths))}")
    index, clip = open_or_new_index(options, sampling, say)
    encoder = FrameEncoder(clip, TextReader() if options.ocr else None)
    failed = update_index(index, paths, encoder, say)
    say(f"written  {shown(options.out)}: {len(index.entries)} files, "
        f"{sum(e.rows() for e in index.entries.values()):,} frames, "
        f"{len(failed) + len(skipped)} left out")
    return 2 if failed or skipped else 0


def open_or_new_index(options: argparse.Namespace, sampling: dict[str, float],
                      say: Callable[[str], None]) -> tuple[Index, CLIP]:
    """The index in --out, or a new one, and its model.

    Raises ValueError if the index in --out was made with other options.
    """
    if identity_of(options.out) is None:
        clip, weights = load_clip(options.model, options.device, options.activation, download=True)
        say(f"weights  {shown(weights.name)}, {weights.about}")
        say(f"device   {device_text(options.device)}")
        return Index(options.out, base_of(weights, clip.config), sampling, options.ocr), clip
    index = Index.open(options.out)
    if (index.sampling, index.ocr) != (sampling, options.ocr):
        raise ValueError(f"{shown(options.out)} was sampled with {index.sampling}, ocr "
                         f"{index.ocr}; found {sampling}, ocr {options.ocr}; give the same "
                         "options, or another --out")
    if options.activation not in (None, index.base.activation):
        raise ValueError(f"{shown(options.out)} was made with {index.base.activation}, found "
                         f"--activation {options.activation}; leave it out, or give another --out")
    clip, _ = open_base(options.out, index.base, options.model, options.device)
    return index, clip


def run_query(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `query`.  Returns the exit status: 1 if nothing was found."""
    check_outputs(options)
    check_query(options.texts, options.without, options.like, options.reads)
    window = time_window(options.start, options.end)
    if options.fast and window:
        raise ValueError("--fast follows the nearest frames of all times and could miss those "
                         "between --from and --to; leave out --fast, or the times")
    opened = Index.open(options.index)
    clip = query = opposite = None
    if options.reads is None:
        clip, _ = open_base(options.index, opened.base, options.model, options.device)
        query, opposite = encode_query(clip, options.texts, options.without, options.like,
                                       opened.bits)

    def work(index):
        if query is None:
            found, curves = find_text(index, options.reads, options.count, options.gap, window)
            return Answer(found, None, curves, {})
        floor = None if options.any or options.like else calibrate_floor(index, clip)
        files = faiss_index.nearest_files(index, query) if options.fast else None
        return find_answer(index, floor, query, options.count, options.smooth, options.gap, files,
                           window, opposite)
    answer = with_index(opened, work)
    words = query_words(options)
    for rank, event in enumerate(answer.found, 1):
        say(event_line(rank, event))
    if not answer.found:
        say(note_of(words, answer))
    write_outputs(words, answer, opened.bits, options)
    return 0 if answer.found else 1


def query_words(options: argparse.Namespace) -> str:
    """The query of the command in words."""
    wanted = options.texts + ([f"like {', '.join(options.like)}"] if options.like else [])
    return options.reads or " without ".join([" and ".join(wanted), *options.without])


def run_remove(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `remove`."""
    index = Index.open(options.index)
    say(f"removed {remove_files(index, options.paths)} files, {len(index.entries)} left")
    return 0


def parser() -> OneLineParser:
    """Options of the three commands; `options.run` is the function of the chosen one."""
    p = option_parser("minilora.search", __doc__, 'query index "a damaged gear"')
    jobs = p.add_subparsers(dest="job", required=True, metavar="index | query | remove",
                            prog=p.prog)

    def job(name, function, text, example, epilog=None):
        one = jobs.add_parser(name, help=text, description=text, example=example, epilog=epilog)
        one.set_defaults(run=function)
        return one
    index_options(job("index", run_index, "encode files that are new or have changed",
                      "videos/ pictures/ --out index"))
    query_options(job("query", run_query, "find events",
                      'index "a damaged gear" --sheet a.png',
                      "exit status: 0 found, 1 nothing found, 2 an error"))
    one = job("remove", run_remove, "remove files from an index", "index old.mp4")
    one.add_argument("index", type=Path, help="folder of the index")
    one.add_argument("paths", nargs="+", help="files or folders")
    return p


def model_options(p: OneLineParser) -> None:
    """Options of `index` and `query`."""
    p.add_argument("--device", metavar="NAME", default="auto", type=device_name,
                   help="auto, cuda, mps, cpu")
    p.add_argument("--model", metavar="WEIGHTS", help="name or file (default: that of the index)")
    megapixel_option(p.rare.add_argument)


def index_options(p: OneLineParser) -> None:
    """Options of the command `index`."""
    add, rare = p.add_argument, p.rare.add_argument
    add("paths", nargs="+", help="pictures, videos, or folders that contain them")
    add("--out", metavar="FOLDER", type=Path, default=Path("index"), help="the index")
    add("--frame-rate", "--rate", metavar="N", type=finite_number(1e-6, 1e6), default=1.0,
        help="at most so many frames per second")
    add("--ocr", action="store_true", help="store texts, 0.5 s a frame; needs the extra ocr")
    rare("--change", metavar="D", type=finite_number(0, 255), default=0.0,
         help="skip a frame that differs less in grey")
    model_options(p)
    bits_option(rare)
    add_activation_option(rare)


def query_options(p: OneLineParser) -> None:
    """Options of the command `query`."""
    add, rare = p.add_argument, p.rare.add_argument
    add("index", type=Path, help="folder of the index")
    add("texts", nargs="*", help='what to find; the mean of several; weights: "a gear:2"')
    add("--without", nargs="+", default=[], metavar="TEXT", help="what must not be visible")
    add("--any", action="store_true", help="show also what is below the floor")
    add("--from", dest="start", metavar="TIME", type=time_option,
        help="search videos from here: 90, 1:30 or 0:01:30")
    add("--to", dest="end", metavar="TIME", type=time_option, help="search videos up to here")
    add("--like", nargs="+", default=[], metavar="PICTURE", help="find what looks like these")
    add("--reads", metavar="TEXT", help="find this text; needs index --ocr")
    add("-k", dest="count", metavar="N", type=positive_int, default=10, help="most events")
    add("--page", metavar="FILE", type=Path, help="HTML file with curves and best frames")
    add("--sheet", metavar="FILE", type=Path, help="PNG file for a contact sheet")
    add("--json-file", "--json", dest="json", metavar="FILE", type=Path,
        help="JSON file for the events")
    rare("--smooth", metavar="SECONDS", type=finite_number(0, 1e9), default=SMOOTHING_WIDTH,
         help="window of the moving average")
    rare("--gap", metavar="SECONDS", type=finite_number(0, 1e9), default=EVENT_GAP,
         help="longest dip inside an event")
    rare("--fast", action="store_true", help="for millions of frames; needs the extra faiss")
    rare("--speak", action="store_true", help="speak the result; needs the extra speech")
    rare("--speak-to", type=Path, metavar="FILE", help="the spoken result as a sound file")
    model_options(p)


def demo() -> None:
    """An example of each command."""
    print("\n".join(line.strip() for line in (__doc__ or "").splitlines() if "python -m" in line))


def main() -> int | None:
    """Run the chosen command; without any argument, `demo`."""
    if len(sys.argv) == 1:
        return demo()
    options = parser().parse_args()
    return options.run(options, print_line)


if __name__ == "__main__":
    demo()
