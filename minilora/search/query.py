"""Finds moments in pictures and videos by words, or by a picture that is like them.

    python -m minilora.search index PATHS --out INDEX        encode; again: only what has changed
    python -m minilora.search query INDEX "a damaged gear" -k 10 --page found.html
    python -m minilora.search query INDEX --like PICTURE
    python -m minilora.search query INDEX --reads "SN 4821"             text in the picture
    python -m minilora.search remove INDEX PATHS

Claim: features of frames and of texts lie in one space (Radford et al. 2021, CLIP), so the curve of
similarity over a video has a hill where it shows what is asked for; search/events.py cuts the hills out.
Scores rank what an index holds; they do not say whether it is there at all.

"A without B" and --without B ask for A and take off half of the likeness to B: CLIP itself does
not understand "without".

Leaves out: sound.
"""
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from minilora.bpe import default_tokenizer
from minilora.checkpoint.weights import is_published, load_clip
from minilora.data.frames import files_in
from minilora.data.images import read_image
from minilora.io.cli import option_parser
from minilora.io.files import whole_file, write_json
from minilora.search import events, faiss_index, speech
from minilora.search.index import Index, likeness, reading
from minilora.search.indexing import FrameEncoder, remove_files, update
from minilora.search.ocr import Reader
from minilora.search.results import best_frames, contact_sheet, event_line, result_page

QUERY_TEMPLATES = ("{}.", "a photo of {}.", "a close-up photo of {}.")
AWAY = 0.5                      # weight of what must not be there
SMOOTHING_WIDTH, EVENT_GAP = 1.0, 0.5           # seconds, of `events.events`; what they give: bench.search


def text_features(clip, text):
    """(E,) of length one: mean over a few sentences."""
    ids = default_tokenizer().tokenize([t.format(text) for t in QUERY_TEMPLATES])
    with torch.no_grad():
        features = F.normalize(clip.encode_text(ids.to(clip.logit_scale.device)), dim=-1)
    return F.normalize(features.mean(0), dim=-1).float().cpu()


def query_features(clip, texts=(), without=(), like=()):
    """(E,) that frames are compared with.  texts are joined; like: paths of pictures.

    Raises ValueError if there is nothing to look for.
    """
    wanted, away = [], list(without)
    for text in texts:
        first, *others = text.split(" without ")
        wanted.append(text_features(clip, first))
        away += others
    if like:
        wanted += FrameEncoder(clip).pictures([read_image(path) for path in like]).float()
    if not wanted:
        raise ValueError('nothing to look for; give a text, for example "a damaged gear", or '
                         "--like PICTURE")
    query = F.normalize(torch.stack(wanted).mean(0), dim=-1)
    for text in away:
        query = query - AWAY * text_features(clip, text)
    return query


def find(index, value_of, count, width=SMOOTHING_WIDTH, gap=EVENT_GAP, files=None, floor=None):
    """The best `count` Events, best first, and {file: (times, values)}.

    value_of, files: as `Index.curves` takes them;  width, gap, floor: as `events.events`.  A file
    whose curve has no hill is one event without length, at its best frame.
    """
    curves = {path: (times, values) for path, times, values in index.curves(value_of, files)}
    if not curves:
        raise ValueError(f"{index.folder} holds no frame; add files with python -m minilora.search "
                         "index")
    found = []
    for path, (times, values) in curves.items():
        best = int(values.argmax())
        moment = times[best].item()
        alone = events.Event(path, moment, moment, moment, values[best].item())
        found += events.events(path, times, values, width, gap, count, floor) or [alone]
    return sorted(found, key=lambda event: -event.score)[:count], curves


def find_read(index, text, count, gap=EVENT_GAP):
    """As `find`, where a text can be read in the picture.  No event where it cannot."""
    if not index.reads:
        raise ValueError(f"{index.folder} was made without --ocr; make a new index with it")
    found, curves = find(index, reading(text), count, 0.0, gap, floor=0.0)
    return [event for event in found if event.score > 0], curves


# ---- the commands -------------------------------------------------------------------------------

def load_for(index, options):
    """The CLIP that an index was made with.  Raises ValueError for another one."""
    known = index.model if is_published(index.model) else None
    clip, weights = load_clip(options.model or known, options.device)
    if weights.sha256 != index.sha256:
        raise ValueError(f"{index.folder} was made with {index.model} (sha256 {index.sha256[:12]}…)"
                         f", found {weights.name} ({weights.sha256[:12]}…); give its file with "
                         "--model, or make a new index")
    return clip


def run_index(options, say):
    sampling = {"rate": options.rate, "change": options.change}
    if not options.rate > 0 or options.change < 0:
        raise ValueError(f"--rate {options.rate}, --change {options.change}: expected a rate above "
                         "0 and a change from 0")
    if (options.out / "index.json").exists():
        index = Index.open(options.out)
        if (index.sampling, index.reads) != (sampling, options.ocr):
            raise ValueError(f"{options.out} was sampled with {index.sampling}, ocr {index.reads}; "
                             f"asked for are {sampling}, ocr {options.ocr}; give the same, or "
                             "another --out")
        clip = load_for(index, options)
    else:
        clip, weights = load_clip(options.model, options.device)
        index = Index(options.out, weights.name, weights.sha256, sampling, options.ocr)
    paths = list(files_in(options.paths))
    if not paths:
        raise FileNotFoundError(f"no picture or video in {', '.join(options.paths)}")
    failed = update(index, paths, FrameEncoder(clip, Reader() if options.ocr else None), say)
    say(f"written  {options.out}: {len(index.entries)} files, "
        f"{sum(e.rows() for e in index.entries.values()):,} frames, {len(failed)} left out")
    return 2 if failed else 0


def run_query(options, say):
    index = Index.open(options.index)
    if options.reads:
        found, curves = find_read(index, options.reads, options.count, options.gap)
    else:
        query = query_features(load_for(index, options), options.texts, options.without,
                               options.like)
        files = faiss_index.files_near(index, query) if options.fast else None
        found, curves = find(index, likeness(query), options.count, options.smooth, options.gap,
                             files)
    words = options.reads or " and ".join(options.texts) or f"like {', '.join(options.like)}"
    for rank, event in enumerate(found, 1):
        say(event_line(rank, event))
    if not found:
        say(f"nothing found for {words}")
    hand_out(words, found, curves, options)
    return 0


def hand_out(words, found, curves, options):
    """All that was asked for beside the lines.  words: what was looked for."""
    if options.json:
        write_json(options.json, {"query": words, "events": [e._asdict() for e in found]})
    pictures = best_frames(found) if options.sheet or options.page else {}
    if options.sheet:
        with whole_file(options.sheet) as file:
            contact_sheet(found, pictures).save(file, "PNG")
    if options.page:
        with whole_file(options.page, "w") as file:
            file.write(result_page(words, found, curves, pictures))
    if options.speak or options.speak_to:
        speech.speak(speech.spoken_summary(words, found), options.speak_to)


def run_remove(options, say):
    index = Index.open(options.index)
    say(f"removed {remove_files(index, options.paths)} files, {len(index.entries)} left")
    return 0


def parser():
    p = option_parser("minilora.search", __doc__)
    jobs = p.add_subparsers(dest="job", required=True, metavar="index | query | remove")

    def job(name, function, text):
        one = jobs.add_parser(name, help=text, description=text, formatter_class=p.formatter_class)
        one.set_defaults(run=function)
        if name != "remove":
            one.add_argument("--model", help="official name or checkpoint file; else as the index, "
                                             "else as minilora.fit finds one")
            one.add_argument("--device", default="cpu", help="cpu, cuda, …")
        return one.add_argument
    add = job("index", run_index, "encode files that are new or have changed")
    add("paths", nargs="+", help="pictures, videos, folders of them")
    add("--out", type=Path, default=Path("index"), help="folder of the index")
    add("--rate", type=float, default=1.0, help="frames a second, at most")
    add("--change", type=float, default=0.0,
        help="keep a frame only if it differs by so much from the last kept, grey values 0 to 255")
    add("--ocr", action="store_true",
        help="keep the text in the frames as well; half a second a frame; needs minilora[ocr]")
    add = job("query", run_query, "find events")
    add("index", type=Path, help="folder of the index")
    add("texts", nargs="*", help='what to look for: "a damaged gear"; several are joined')
    add("--without", nargs="+", default=[], metavar="TEXT", help="what must not be there")
    add("--like", nargs="+", default=[], metavar="PICTURE", help="look for what is like these")
    add("--reads", metavar="TEXT", help="look for text in the picture instead; needs index --ocr")
    add("-k", dest="count", type=int, default=10, help="events at most")
    add("--smooth", type=float, default=SMOOTHING_WIDTH, help="window of the mean over time, seconds")
    add("--gap", type=float, default=EVENT_GAP, help="a dip of so many seconds does not end an event")
    add("--fast", action="store_true", help="only files whose frames faiss finds "
        "near; for millions of frames; needs minilora[faiss]")
    add("--json", type=Path, help="file for the events")
    add("--sheet", type=Path, help="PNG file for a contact sheet")
    add("--page", type=Path, help="HTML file with curves and best frames")
    add("--speak", action="store_true", help="say aloud what was found; needs minilora[speech]")
    add("--speak-to", type=Path, metavar="FILE", help="the same, to a sound file")
    add = job("remove", run_remove, "take files out of an index")
    add("index", type=Path, help="folder of the index")
    add("paths", nargs="+", help="files or folders")
    return p


def demo():
    """Untrained weights and made-up curves: only the mechanism shows."""
    print("commands:", json.dumps(["index", "query", "remove"]))
    times = torch.arange(0, 20.0, dtype=torch.float64)
    values = 0.2 + 0.01 * torch.sin(5 * times)
    values[6:9] += 0.1
    for rank, event in enumerate(events.events("belt.mp4", times, values, count=2), 1):
        print(event_line(rank, event))


def main():
    if len(sys.argv) == 1:
        return demo()
    options = parser().parse_args()
    return options.run(options, lambda line: print(line, flush=True))


if __name__ == "__main__":
    demo()
