"""predictions.html: NG first, small, without script or address, whatever the files are called."""
import re

import pytest
import torch
from PIL import Image

from minilora.prediction import page
from minilora.prediction.page import PictureCards, predictions_page, score_bar, threshold_part
from minilora.prediction.picture import ScoredPicture, empty_prediction
from minilora.prediction.thresholds import Choice


def scored(name, decision, score, framing=None, side=64):
    prediction = empty_prediction(name, 1.0) | {"decision": decision, "score": score, "x": 3,
                                                "y": 4, "framing": framing}
    return ScoredPicture(prediction, Image.new("RGB", (side, side), (9, 99, 9)), None,
                         torch.zeros(4, 4))


def made(pictures, failed=()):
    cards, predictions = PictureCards(), [picture.prediction for picture in pictures]
    for number, picture in enumerate(pictures):
        cards.add(number, picture)
    predictions += [empty_prediction(name, 1.0) | {"error": reason} for name, reason in failed]
    return predictions_page(cards, predictions, [0.5, 0.7], [Choice("5 %", 1.0, 0, 1, True)], "",
                            {"run": "runs/mine"})


def shown_names(text):
    return re.findall(r"<br>(?:\w+/)*([^<]+\.png)", text)


def test_ng_comes_first_and_then_the_highest_score():
    text = made([scored("a.png", "OK", 0.2), scored("b.png", "NG", 1.5), scored("c.png", "OK", 0.9),
                 scored("d.png", "NG", 7.0)])
    assert shown_names(text) == ["d.png", "b.png", "c.png", "a.png"]
    assert "<h1>2 of 4 pictures NG</h1>" in text


def test_the_page_has_no_script_and_no_address_outside():
    text = made([scored("a.png", "NG", 1.5, "object 13 % smaller")], [("b.png", "no picture")])
    assert "<script" not in text and "http" not in text and "@import" not in text
    assert re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', text) == []
    assert "looks framed differently: object 13 % smaller" in text and "no picture" in text


def test_a_hostile_file_name_is_text_only():
    name = '"><img src=x onerror=alert(1)>\n\x1b[2J.png'
    text = made([scored(name, "NG", 1.5)], [(name, f"{name}: cannot be read")])
    assert "<img src=x" not in text and "\x1b" not in text and "onerror" in text
    tags = re.findall(r"<[^>]*onerror[^>]*>", text)
    assert tags and all(re.fullmatch(r'<img alt="[^"]*" src="data:[^"]*">', tag) for tag in tags)


def test_with_many_pictures_the_worst_are_shown_and_the_others_are_rows(monkeypatch):
    monkeypatch.setattr(page, "MOST_SHOWN", 5)
    monkeypatch.setattr(page, "MOST_ROWS", 3)
    pictures = [scored(f"{k:02d}.png", "NG" if k % 3 == 0 else "OK", (k * 7) % 12 + k / 100)
                for k in range(12)]
    text = made(pictures)
    order = sorted(pictures, key=lambda s: (s.prediction["decision"] == "NG",
                                            s.prediction["score"]), reverse=True)
    names = [s.prediction["file"] for s in order]
    assert shown_names(text) == names[:5]
    assert re.findall(r"<td>(\d\d\.png)</td>", text) == names[5:8]
    assert "and 4 more in predictions.csv" in text


def test_a_thumbnail_is_small():
    noise = Image.effect_noise((3000, 2000), 80).convert("RGB")
    one = scored("a.png", "NG", 1.5)._replace(overlay=noise)
    assert len(made([one])) < 130_000


@pytest.mark.parametrize("score, length", [(0.5, 75), (1.0, 150), (1.5, 225), (9.0, 300), (-1, 0)])
def test_the_bar_ends_at_twice_the_threshold(score, length):
    drawn = score_bar(score, 1.0, "bad")
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawn)]
    assert widths[-1] == length and 'role="img"' in drawn and f"score {score:.3f}" in drawn


def test_a_threshold_that_is_not_positive_has_no_bar():
    assert score_bar(0.5, 0.0, "bad") == ""


def test_without_scores_of_good_pictures_there_is_a_table_and_no_chart():
    text = threshold_part([], [Choice("given", 1.0, 0, 1, True)], 1.0, 2)
    assert "<svg" not in text and "unknown" in text and "1 of 2" in text


def test_only_what_the_page_shows_is_kept(monkeypatch):
    monkeypatch.setattr(page, "MOST_SHOWN", 3)
    cards = PictureCards()
    for number in range(50):
        cards.add(number, scored(f"{number}.png", "OK", number / 100, side=8))
        assert len(cards.worst) <= 3
    assert shown_names(cards.galleries()) == ["49.png", "48.png", "47.png"]
