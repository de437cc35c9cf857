"""predictions.html: one page about the pictures that were scored, NG first.

Claim: a list of scores does not tell whether they can be trusted.  The page shows for each picture
the suspicious region, how far the score is from the threshold, and the worst patch beside the
nearest good patch; and what other thresholds would do.  It has no script and loads nothing.

The page shows at most MOST_SHOWN pictures, small; others are rows of a table.  While pictures are
scored, only what the page will show is kept, so memory does not grow with their number.
Left out: the good pictures themselves (prediction/good_page.py), pictures in full size (the
overlays beside the page).
"""
import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minilora.charts.drawing import AnyShape, Drawing, Polyline, Rectangle
from minilora.charts.plots import histogram_plot
from minilora.charts.writers import inline_svg
from minilora.prediction.picture import Prediction, ScoredPicture
from minilora.prediction.thresholds import Choice
from minilora.report.html import (Markup, document, facts_list, html_text, inline_image,
                                  pair_figure, plain_table)
from minilora.report.run_pictures import pair_words

MOST_SHOWN, MOST_ROWS = 200, 1000       # pictures with a thumbnail; rows of the table of others
THUMBNAIL = 320                         # pixels of the longer side
PHOTOGRAPH = ("Take every picture as the good pictures were taken: the same camera, distance, "
              "orientation of the product, and light.")


# ---- one picture --------------------------------------------------------------------------------

class PictureCards:
    """The pictures that the page shows: NG before OK, then by score; added one at a time."""

    def __init__(self) -> None:
        self.worst: list[tuple[tuple, str]] = []        # a heap of (rank, HTML), the lowest first

    def add(self, number: int, scored: ScoredPicture) -> None:
        """Takes one more picture; beyond MOST_SHOWN the last one leaves the page."""
        rank = rank_of(number, scored.prediction)
        if len(self.worst) < MOST_SHOWN:
            heapq.heappush(self.worst, (rank, picture_card(scored)))
        elif rank > self.worst[0][0]:
            heapq.heapreplace(self.worst, (rank, picture_card(scored)))

    def galleries(self) -> str:
        """Both groups with their headings."""
        out = ""
        for is_ng, word in ((True, "NG"), (False, "OK")):
            cards = [card for rank, card in sorted(self.worst, reverse=True) if rank[0] == is_ng]
            if cards:
                out += (f"<h2>{word}, the highest score first</h2>"
                        f'<div class="gallery">{"".join(cards)}</div>')
        return out

    def others(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The scored pictures that are not shown, in the same order."""
        ranked = sorted(((rank_of(k, p), p) for k, p in enumerate(predictions) if p["decision"]),
                        key=lambda pair: pair[0], reverse=True)
        return [prediction for _, prediction in ranked[len(self.worst):]]


def rank_of(number: int, prediction: Prediction) -> tuple[bool, float, int]:
    """What is compared to order pictures: a larger one comes first."""
    return prediction["decision"] == "NG", prediction["score"], -number


def picture_card(scored: ScoredPicture) -> str:
    """Thumbnail, score and its bar, and both patches."""
    p = scored.prediction
    kind = "bad" if p["decision"] == "NG" else "good"
    framing = (f'<br><span class="bad">looks framed differently: {html_text(p["framing"])}</span>'
               if p["framing"] else "")
    words = f"Worst patch at x {p['x']}, y {p['y']}"
    if scored.nearest:
        words = f"x {p['x']}, y {p['y']}. {pair_words(scored.nearest, ())}"
    pair = pair_figure(scored.pair, words) if scored.pair else f'<p class="soft">{words}</p>'
    name = short_name(p["file"])
    image = inline_image(scored.overlay, f"{p['decision']}: {name}", THUMBNAIL)
    return (f'<figure>{image}{score_bar(p["score"], p["threshold"], kind)}<figcaption>'
            f'<b class="{kind}">{p["decision"]}</b> score {p["score"]:.3f}, threshold '
            f'{p["threshold"]:.3f}<br>{html_text(name)}{framing}</figcaption>{pair}</figure>')


def short_name(file: str) -> str:
    """The name of a file and of its folder; the whole path is in predictions.csv."""
    return "/".join(Path(file).parts[-2:])


def score_bar(score: float, threshold: float, style: str) -> str:
    """The score as a bar; the line in the middle is the threshold, the end twice of it."""
    if threshold <= 0:
        return ""
    length = 300 * min(max(score / threshold, 0), 2) / 2
    shapes: list[AnyShape] = [Rectangle(0, 8, 300, 1, "grid"), Rectangle(0, 4, length, 8, style),
                           Polyline([(150, 0), (150, 16)], "mark", False)]
    return inline_svg(Drawing("score", f"score {score:.3f}, threshold {threshold:.3f}", 300, 16,
                              shapes))


# ---- parts of both pages ------------------------------------------------------------------------

def threshold_part(good_scores: Sequence[float], choices: Sequence[Choice], threshold: float,
                   n_scored: int = 0) -> str:
    """The scores of the good pictures as a histogram, and what each threshold would do.

    n_scored: number of the pictures that were scored; 0 leaves out their column.
    """
    head, rows = ["rate", "threshold", "good pictures NG", "these pictures NG"], []
    for choice in choices:
        words = html_text(choice.words)
        rows.append([Markup(f"<b>{words}, in use</b>" if choice.used else words),
                     f"{choice.threshold:.3f}",
                     f"{choice.good_ng} of {len(good_scores)}" if good_scores else "unknown",
                     f"{choice.scored_ng} of {n_scored}"])
    columns = len(head) if n_scored else len(head) - 1
    table = plain_table(head[:columns], [row[:columns] for row in rows])
    chart = inline_svg(histogram_plot("Scores of the good pictures", "score", {"good": good_scores},
                                      ["good"], threshold)) if good_scores else ""
    return (f'<h2>The threshold</h2><div class="charts">{chart}<div>{table}<p class="soft">Each '
            "good picture is scored with a memory bank without it. Rate: the share of new good "
            "pictures that are expected to be NG. Another threshold: --threshold, "
            "--false-positive-rate.</p></div></div>")


# ---- the page -----------------------------------------------------------------------------------

def predictions_page(cards: PictureCards, predictions: Sequence[Prediction],
                     good_scores: Sequence[float], choices: Sequence[Choice], warning: str,
                     facts: Mapping[str, Any]) -> str:
    """The whole page.  warning: a sentence about the model, or "";  facts: how it was made."""
    scored = [p for p in predictions if p["decision"]]
    failed = [p for p in predictions if p["error"]]
    n_ng = sum(p["decision"] == "NG" for p in scored)
    body = f"<h1>{n_ng} of {len(scored)} pictures NG</h1>"
    body += f'<p class="bad">{html_text(warning)}</p>' if warning else ""
    framed = sum(bool(p["framing"]) for p in scored)
    if framed:
        body += (f'<p class="bad">{framed} of {len(scored)} pictures look framed differently from '
                 f"the good pictures, which alone can make a good product NG.</p>")
    body += f'<p class="soft">{PHOTOGRAPH}</p>'
    if failed:
        body += f"<h2>Not scored: {len(failed)}</h2>" + plain_table(
            ("file", "reason"), [(p["file"], p["error"]) for p in failed[:MOST_ROWS]], (1,),
            "scroll")
    body += threshold_part(good_scores, choices, scored[0]["threshold"], len(scored))
    body += cards.galleries()
    if others := cards.others(predictions):
        body += "<h2>All other pictures</h2>" + plain_table(
            ("file", "decision", "score", "framing"),
            [(p["file"], p["decision"], f"{p['score']:.3f}", p["framing"] or "")
             for p in others[:MOST_ROWS]], (1, 3), "scroll")
        if len(others) > MOST_ROWS:
            body += f"<p>and {len(others) - MOST_ROWS} more in predictions.csv</p>"
    return document(f"{n_ng} of {len(scored)} NG",
                    body + f"<h2>How it was made</h2>{facts_list(facts)}")


def demo() -> None:
    """A page with two pictures: how long it is, and that it loads nothing."""
    import torch
    from PIL import Image

    from minilora.prediction.picture import empty_prediction
    cards, predictions = PictureCards(), []
    for k, (score, decision) in enumerate(((0.7, "OK"), (1.9, "NG"))):
        prediction = empty_prediction(f"<{k}>.png", 1.2) | {
            "score": score, "decision": decision, "x": 5, "y": 9}
        picture = Image.new("RGB", (640, 480), (90, 120, 90))
        predictions.append(prediction)
        cards.add(k, ScoredPicture(prediction, picture, None, torch.zeros(4, 4)))
    page = predictions_page(cards, predictions, [0.5, 0.6, 0.9],
                            [Choice("5 %, fitted", 1.2, 0, 1, True)], "", {"run": "runs/mine"})
    print(f"{len(page):,} characters, scripts: {page.count('<script')}, "
          f"addresses: {page.count('http')}")
    print(page[page.index("<tbody>"):][:120])


if __name__ == "__main__":
    demo()
