"""Presentation of search results: text lines, a contact sheet, and an HTML page with the curves.

Left out: the search itself (search/query.py).
"""
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from minilora.charts.plots import line_plot
from minilora.charts.writers import inline_svg
from minilora.data.frames import frames_at
from minilora.io.text import shown
from minilora.report import html
from minilora.search.events import Event
from minilora.search.times import format_time

MAX_PATH = 1000                 # characters of a path that are shown
TILE, CAPTION = 240, 40         # of the contact sheet: side of a tile, height of a caption, pixels

Frames = dict[tuple[str, float], Image.Image]           # {(file, time): PIL RGB}


def event_line(rank: int, event: Event) -> str:
    """One line of text: rank, score, file, and the times if the file is a video."""
    when = ("" if event.start == event.end == 0 else
            f"  {format_time(event.start)} to {format_time(event.end)}, "
            f"best at {format_time(event.peak)}")
    return f"{rank:3d}  {event.score:6.3f}  {shown(event.file, MAX_PATH)}{when}"


def nothing_line(words: str, below: Event | None, floor: float | None,
                 compared: bool = True) -> str:
    """One line for a query without an answer.

    below: its best event, if there is one, and its floor;  compared: False if no frame lay between
    --from and --to.
    """
    if not compared:
        return (f"nothing found for {shown(words)}: no video has a frame between --from and --to; "
                "give other times")
    if below is None or floor is None:
        return f"nothing found for {shown(words)}"
    when = "" if below.start == below.end == 0 else f"at {format_time(below.peak)} "
    return (f"nothing found (best {below.score:.3f} {when}in {shown(below.file, MAX_PATH)}, floor "
            f"{floor:.3f}); --any shows it")


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """{path: name to show}: of the file; with its folder, or the whole path, where names are equal.
    """
    names = {path: Path(path).name for path in paths}
    for longer in (lambda path: "/".join(Path(path).parts[-2:]), str):
        count = Counter(names.values())
        names = {path: longer(path) if count[name] > 1 else name for path, name in names.items()}
    return {path: shown(name, MAX_PATH) for path, name in names.items()}


def peak_frames(found: list[Event], bits: int = 0) -> Frames:
    """The frame at the peak of each event; every file is decoded once.  bits: of the index."""
    times = {}
    for event in found:
        times.setdefault(event.file, []).append(event.peak)
    return {(file, time): picture for file, moments in times.items()
            for time, picture in frames_at(file, moments, bits).items()}


def contact_sheet(found: list[Event], pictures: Frames, columns: int = 5,
                  note: str = "") -> Image.Image:
    """A picture with the peak frame of each event.  pictures: of `peak_frames`;  note: the text of
    a sheet without events."""
    rows = max(1, -(-len(found) // columns))
    sheet = Image.new("RGB", (columns * TILE, rows * (TILE + CAPTION)), "white")
    draw, font, names = (ImageDraw.Draw(sheet), ImageFont.load_default(13),
                         short_names(e.file for e in found))
    draw.text((6, 6), "\n".join(textwrap.wrap(note, columns * TILE // 9)), "black", font)
    for k, event in enumerate(found):
        left, top = k % columns * TILE, k // columns * (TILE + CAPTION)
        picture = ImageOps.contain(pictures[event.file, event.peak], (TILE - 8, TILE - 8))
        sheet.paste(picture, (left + 4, top + 4))
        name = names[event.file]
        name = name if len(name) < 33 else f"{name[:29]}..."
        draw.text((left + 6, top + TILE + 2), f"{k + 1}. {name}\n{format_time(event.peak)}  "
                                              f"{event.score:.3f}", "black", font)
    return sheet


def event_gallery(found: list[Event], pictures: Frames, names: dict[str, str]) -> str:
    """HTML of the peak frames.  names: of `short_names`."""
    return '<div class="gallery">' + "".join(
        "<figure>" + html.inline_image(pictures[e.file, e.peak], f"{names[e.file]} at "
                                       f"{format_time(e.peak)}", 480)
        + f"<figcaption>{html.escape(names[e.file])} {format_time(e.peak)}, "
          f"score {e.score:.3f}</figcaption></figure>" for e in found) + "</div>"


def result_page(title: str, found: list[Event], curves: dict[str, tuple[Tensor, Tensor]],
                pictures: Frames, floors: Mapping[str, Tensor] = MappingProxyType({}),
                note: str = "") -> str:
    """A self-contained HTML page: the events, the curves of their files, the peak frames.

    curves: {file: (times (T,), values (T,))};  pictures: of `peak_frames`;  floors: {file: (T,)},
    if there are any;  note: a line below the title.
    """
    title, names = shown(title, MAX_PATH), short_names(e.file for e in found)
    rows = "".join(f"<tr><td>{k}</td><td>{e.score:.3f}</td>"
                   f"<td>{html.escape(names[e.file])}</td><td>{format_time(e.start)}</td>"
                   f"<td>{format_time(e.end)}</td><td>{format_time(e.peak)}</td></tr>"
                   for k, e in enumerate(found, 1))
    head = "".join(f"<th>{h}</th>" for h in ("", "score", "file", "from", "to", "best at"))
    parts = [f"<h1>{html.escape(title)}</h1>", note and f"<p>{html.escape(note)}</p>",
             rows and f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>']
    videos = [path for path in dict.fromkeys(e.file for e in found) if len(curves[path][0]) > 1]
    for path in videos:
        times, values = curves[path]
        lines = {"similarity": values} | ({"floor": floors[path]} if path in floors else {})
        low, high = torch.cat([*lines.values()]).aminmax()
        chart = inline_svg(line_plot(
            f"similarity over time, {names[path]}", "seconds", "similarity",
            {name: list(zip(times.tolist(), line.tolist())) for name, line in lines.items()}, None,
            (low.item(), high.item())))
        gallery = event_gallery([e for e in found if e.file == path], pictures, names)
        parts.append(f'<h2>{html.escape(names[path])}</h2><div class="charts"><figure>{chart}'
                     f"</figure></div>{gallery}")
    stills = [e for e in found if e.file not in videos]
    if stills:
        parts.append(f"<h2>Pictures</h2>{event_gallery(stills, pictures, names)}")
    return html.document(title, "".join(parts))


def demo() -> None:
    """Two events of an animation whose frames become lighter."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "belt.gif")
        belt = [Image.new("RGB", (64, 48), (20 * k, 20 * k, 20 * k)) for k in range(12)]
        belt[0].save(path, save_all=True, append_images=belt[1:], duration=500)
        found = [Event(path, 1.0, 2.5, 2.0, 0.31), Event(path, 4.0, 5.5, 5.0, 0.28)]
        for rank, event in enumerate(found, 1):
            print(event_line(rank, event._replace(file="belt.gif")))
        pictures = peak_frames(found)
        print("grey value at the peaks:", *(p.getpixel((9, 9))[0] for p in pictures.values()))
        print("contact sheet:", contact_sheet(found, pictures).size)


if __name__ == "__main__":
    demo()
