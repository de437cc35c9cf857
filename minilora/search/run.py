"""The command for search: index pictures and videos, query the index, remove files from it.

    python -m minilora.search index PATHS --out INDEX        a second run encodes changes only
    python -m minilora.search query INDEX "a damaged gear" -k 10 --page found.html
    python -m minilora.search query INDEX --like PICTURE
    python -m minilora.search query INDEX --reads "SN 4821"             text in the picture
    python -m minilora.search remove INDEX PATHS

Left out: how events are found (search/query.py), sound.
"""
import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from minilora.checkpoint.published import is_model_name
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.data.frames import media_files
from minilora.io.cli import option_parser
from minilora.io.files import atomic_write, write_json
from minilora.search import faiss_index, speech
from minilora.search.events import Event
from minilora.search.index import Index, similarity_to
from minilora.search.indexing import FrameEncoder, remove_files, update_index
from minilora.search.ocr import TextReader
from minilora.search.query import (EVENT_GAP, SMOOTHING_WIDTH, Curves, find_events, find_text,
                                   query_features)
from minilora.search.results import contact_sheet, event_line, peak_frames, result_page


def load_index_model(index: Index, options: argparse.Namespace) -> CLIP:
    """The CLIP that an index was made with.  Raises ValueError if --model is another one."""
    known = index.model if is_model_name(index.model) else None
    clip, weights = load_clip(options.model or known, options.device)
    if weights.sha256 != index.sha256:
        raise ValueError(f"{index.folder} was made with {index.model} (sha256 {index.sha256[:12]}…)"
                         f", found {weights.name} ({weights.sha256[:12]}…); give its file with "
                         "--model, or make a new index")
    return clip


def run_index(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `index`.  Returns the exit status: 2 if some files could not be read."""
    sampling = {"rate": options.rate, "change": options.change}
    if not options.rate > 0 or options.change < 0:
        raise ValueError(f"--rate {options.rate}, --change {options.change}: expected a rate above "
                         "0 and a change of at least 0")
    if (options.out / "index.json").exists():
        index = Index.open(options.out)
        if (index.sampling, index.ocr) != (sampling, options.ocr):
            raise ValueError(f"{options.out} was sampled with {index.sampling}, ocr {index.ocr}; "
                             f"found {sampling}, ocr {options.ocr}; give the same options, or "
                             "another --out")
        clip = load_index_model(index, options)
    else:
        clip, weights = load_clip(options.model, options.device)
        index = Index(options.out, weights.name, weights.sha256, sampling, options.ocr)
    paths = list(media_files(options.paths))
    if not paths:
        raise FileNotFoundError(f"no picture or video in {', '.join(options.paths)}")
    encoder = FrameEncoder(clip, TextReader() if options.ocr else None)
    failed = update_index(index, paths, encoder, say)
    say(f"written  {options.out}: {len(index.entries)} files, "
        f"{sum(e.rows() for e in index.entries.values()):,} frames, {len(failed)} left out")
    return 2 if failed else 0


def run_query(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `query`."""
    index = Index.open(options.index)
    if options.reads:
        found, curves = find_text(index, options.reads, options.count, options.gap)
    else:
        query = query_features(load_index_model(index, options), options.texts, options.without,
                               options.like)
        files = faiss_index.nearest_files(index, query) if options.fast else None
        found, curves = find_events(index, similarity_to(query), options.count, options.smooth,
                                    options.gap, files)
    words = options.reads or " and ".join(options.texts) or f"like {', '.join(options.like)}"
    for rank, event in enumerate(found, 1):
        say(event_line(rank, event))
    if not found:
        say(f"nothing found for {words}")
    write_outputs(words, found, curves, options)
    return 0


def write_outputs(words: str, found: list[Event], curves: Curves,
                  options: argparse.Namespace) -> None:
    """The outputs of --json, --sheet, --page, --speak.  words: the query in words."""
    if options.json:
        write_json(options.json, {"query": words, "events": [e._asdict() for e in found]})
    pictures = peak_frames(found) if options.sheet or options.page else {}
    if options.sheet:
        with atomic_write(options.sheet) as file:
            contact_sheet(found, pictures).save(file, "PNG")
    if options.page:
        with atomic_write(options.page, "w") as file:
            file.write(result_page(words, found, curves, pictures))
    if options.speak or options.speak_to:
        speech.speak(speech.spoken_summary(words, found), options.speak_to)


def run_remove(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `remove`."""
    index = Index.open(options.index)
    say(f"removed {remove_files(index, options.paths)} files, {len(index.entries)} left")
    return 0


def parser() -> argparse.ArgumentParser:
    """Options of the three commands; `options.run` is the function of the chosen one."""
    p = option_parser("minilora.search", __doc__)
    jobs = p.add_subparsers(dest="job", required=True, metavar="index | query | remove")

    def job(name, function, text):
        one = jobs.add_parser(name, help=text, description=text, formatter_class=p.formatter_class)
        one.set_defaults(run=function)
        if name != "remove":
            one.add_argument("--model", help="official name or checkpoint file; without it the "
                             "model of the index, or the one that minilora.fit finds")
            one.add_argument("--device", default="cpu", help="cpu, cuda, …")
        return one.add_argument
    add = job("index", run_index, "encode files that are new or have changed")
    add("paths", nargs="+", help="pictures, videos, or folders that contain them")
    add("--out", type=Path, default=Path("index"), help="folder of the index")
    add("--rate", type=float, default=1.0, help="at most so many frames per second")
    add("--change", type=float, default=0.0, help="skip a frame whose mean grey difference to the "
        "last kept frame is smaller, 0 to 255")
    add("--ocr", action="store_true", help="store the text in the frames as well; half a second "
        "per frame; needs minilora[ocr]")
    add = job("query", run_query, "find events")
    add("index", type=Path, help="folder of the index")
    add("texts", nargs="*", help='what to find: "a damaged gear"; several texts are averaged')
    add("--without", nargs="+", default=[], metavar="TEXT", help="what must not be visible")
    add("--like", nargs="+", default=[], metavar="PICTURE", help="find what looks like these")
    add("--reads", metavar="TEXT", help="find this text in the pictures; needs index --ocr")
    add("-k", dest="count", type=int, default=10, help="at most so many events")
    add("--smooth", type=float, default=SMOOTHING_WIDTH,
        help="window of the moving average, seconds")
    add("--gap", type=float, default=EVENT_GAP, help="longest dip that does not end an event, "
        "seconds")
    add("--fast", action="store_true", help="compare only files whose frames faiss finds near the "
        "query; for millions of frames; needs minilora[faiss]")
    add("--json", type=Path, help="JSON file for the events")
    add("--sheet", type=Path, help="PNG file for a contact sheet")
    add("--page", type=Path, help="HTML file with curves and best frames")
    add("--speak", action="store_true", help="speak the result; needs minilora[speech]")
    add("--speak-to", type=Path, metavar="FILE", help="write the spoken result to a sound file")
    add = job("remove", run_remove, "remove files from an index")
    add("index", type=Path, help="folder of the index")
    add("paths", nargs="+", help="files or folders")
    return p


def demo() -> None:
    """An example of each command."""
    print("\n".join(line.strip() for line in __doc__.splitlines() if "python -m" in line))


def main() -> int | None:
    """Run the chosen command; without any argument, `demo`."""
    if len(sys.argv) == 1:
        return demo()
    options = parser().parse_args()
    return options.run(options, lambda line: print(line, flush=True))


if __name__ == "__main__":
    demo()
