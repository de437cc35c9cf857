"""The parts of a run's page that show pictures: mistakes, examples, the table of all pictures.

Claim: a mistake is understood by what the detector compared.  So beside each picture that is shown
stands its worst patch and the good patch that is nearest to it: "this here does not look like that
there".

Left out: panels themselves (report/panels.py), the rest of the page (report/run_page.py).
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minilora.data.mvtec import Sample
from minilora.report.html import (Markup, html_percent, html_text, inline_file, local_link,
                                  pair_figure, sortable_table)
from minilora.report.nearest_patch import NearestPatch, nearest_good_patch, patch_pair
from minilora.report.panels import picture_name, verdict

MAX_MISTAKES_SHOWN = 6          # of false alarms, and of misses


class Scored(NamedTuple):
    """A test picture with its panel and its score."""
    panel: Path
    score: float
    sample: Sample

    @property
    def name(self) -> str:
        """Kind and file name; only the file name where nobody has labelled the picture."""
        return picture_name(self.sample)


# ---- the nearest good patch ---------------------------------------------------------------------

@torch.no_grad()
def nearest_pair(detector: Any, path: Path, drawn: Sequence[str]) -> str:
    """The worst patch of a picture beside the nearest good patch, as HTML; "" without a memory.

    drawn: names of the good pictures of the detector.
    """
    if detector is None or not detector.banks:
        return ""
    picture = detector.read(path)
    features = detector.encode(detector.prepare(picture)[None].to(detector.device))
    maps, _ = detector.map_and_score(features, "adapted")
    found = nearest_good_patch(detector, features, maps[0])
    return "" if found is None else pair_figure(patch_pair(detector, picture, found),
                                                pair_words(found, drawn))


def pair_words(found: NearestPatch, drawn: Sequence[str]) -> str:
    """A sentence about the two patches.  drawn: names of the good pictures."""
    name = drawn[found.shot] if found.shot < len(drawn) else f"good picture number {found.shot + 1}"
    turned = f", rotated by {90 * found.quarter_turns}°" if found.quarter_turns else ""
    return (f"Worst patch, and the nearest good patch, of {name}{turned}. Cosine distance "
            f"{found.distance:.3f}; 0 would be equal.")


# ---- pictures -----------------------------------------------------------------------------------

def panel_figure(one: Scored, words: str, alt: str, detector: Any,
                 drawn: Sequence[str]) -> str:
    """A panel with a caption and the nearest good patch.  words: the caption;  alt: in words."""
    return (f'<figure><div class="panel" tabindex="0">{inline_file(one.panel, alt)}</div>'
            f"<figcaption>{html_text(words)}</figcaption>"
            f"{nearest_pair(detector, one.sample.path, drawn)}</figure>")


def panel_figures(title: str, chosen: list[Scored], words: str, detector: Any,
                  drawn: Sequence[str]) -> str:
    """A heading and one panel for each chosen picture.  words: start of the alternative text."""
    if not chosen:
        return ""
    return f"<h2>{html_text(title)}</h2>" + "".join(
        panel_figure(one, f"{one.name}, score {one.score:.3f}",
                     f"{words}: {one.sample.path.name} with its anomaly map", detector, drawn)
        for one in chosen)


def mistakes(scored: list[Scored], threshold: float | None, detector: Any = None,
             drawn: Sequence[str] = ()) -> str:
    """False alarms, highest score first, and misses, lowest score first.

    With unlabelled pictures: all pictures called NG, highest score first.
    """
    if threshold is None:
        return ""
    ranked = sorted(scored, key=lambda one: one.score)
    alarms = [s for s in reversed(ranked) if s.sample.label == 0 and s.score > threshold]
    misses = [s for s in ranked if s.sample.label and s.score <= threshold]
    called = [s for s in reversed(ranked) if s.sample.label is None and s.score > threshold]
    if called or None in (s.sample.label for s in ranked):
        return panel_figures(f"{len(called)} {plural('picture', called)} called NG, the highest "
                             "score first", called[:MAX_MISTAKES_SHOWN], "called NG", detector,
                             drawn)
    if not alarms and not misses:
        return "<h2>Mistakes</h2><p>None: every test picture was classified correctly.</p>"
    return (panel_figures(f"False alarms: {len(alarms)} good {plural('picture', alarms)} called "
                          "NG, the worst first", alarms[:MAX_MISTAKES_SHOWN], "false alarm",
                          detector, drawn)
            + panel_figures(f"Misses: {len(misses)} defective {plural('picture', misses)} called "
                            "OK, the worst first", misses[:MAX_MISTAKES_SHOWN], "missed defect",
                            detector, drawn))


def plural(word: str, things: Sequence[Any]) -> str:
    """The word, with an s unless there is one thing."""
    return word if len(things) == 1 else f"{word}s"


def kind_examples(metrics: dict[str, Any], scored: list[Scored], detector: Any = None,
                  drawn: Sequence[str] = ()) -> str:
    """For each kind of defect its AUROC and the picture with the median score."""
    kinds = {kind: value for kind, value in metrics["kinds"].items()
             if any(one.sample.kind == kind and one.sample.label is not None for one in scored)}
    out = "<h2>Kinds of defect</h2>" if kinds else ""
    for kind, value in kinds.items():
        ranked = sorted((s for s in scored if s.sample.kind == kind), key=lambda one: one.score)
        one = ranked[len(ranked) // 2]
        out += panel_figure(one, f"{kind}: {len(ranked)} {plural('picture', ranked)}, image AUROC "
                            f"against the good ones {html_percent(value)}; shown is the one with "
                            f"the median score, {one.score:.3f}",
                            f"{kind}: an example with its anomaly map", detector, drawn)
    return out


def picture_table(scored: list[Scored], threshold: float | None, folder: Path) -> str:
    """All test pictures in a sortable table, with links to their panels.  folder: of the page."""
    rows, labelled = [], any(one.sample.label is not None for one in scored)
    for one in scored:
        is_ng = None if threshold is None else one.score > threshold
        label = one.sample.label
        worth = verdict(label, is_ng)
        link = local_link(folder, one.panel.parent.name, one.panel.name, one.sample.path.name)
        decision = "" if is_ng is None else "NG" if is_ng else "OK"
        colour = "bad" if is_ng != bool(label) else "good"
        known = (one.sample.kind, Markup(f'<span class="{colour}">{worth}</span>' * bool(worth)))
        rows.append((Markup(link), f"{one.score:.3f}", decision, *known * labelled))
    head = ("file", "score", "decision", *("kind", "right or wrong") * labelled)
    return ("<h2>All test pictures</h2>" + sortable_table(
        head, rows, "A click on a heading sorts the table. The links lead to panels in the folder "
        "maps/ beside this page.", range(2, len(head)), "scroll"))


def demo() -> None:
    """Two pictures, one of them missed, as a table; a sentence about a pair of patches."""
    scored = [Scored(Path("maps/good-a.jpg"), 0.4, Sample(Path("a.png"), "good", 0)),
              Scored(Path("maps/dent-b.jpg"), 0.6, Sample(Path("b.png"), "dent", 1))]
    table = picture_table(scored, 1.0, Path("."))
    print(table[table.index("<tbody>"):])
    print(pair_words(NearestPatch((0, 0, 0.1, 0.1), 2, 1, (0.5, 0.5, 0.6, 0.6), 0.31),
                     ["000.png", "001.png", "002.png"]))


if __name__ == "__main__":
    demo()
