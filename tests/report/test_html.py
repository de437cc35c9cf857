"""The page of a run: it is self-contained and shows the mistakes first; curves and charts."""
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from minilora.report import html, run_page, svg
from minilora.runs.run_report import ROW_DESCRIPTIONS

VOID = {"meta", "img", "line", "rect", "polyline"}
SCORES, LABELS = [0.1, 0.9, 0.4, 0.4, 0.8, 0.2, 0.7], [0, 1, 0, 1, 0, 1, 1]


class Checker(HTMLParser):
    """Collects images and headings; checks that elements are closed in the right order."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.headings = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture
def written(tmp_path):
    """(HTML text, its Checker) of a run with one false alarm and two misses."""
    samples, panels = [], []
    for k, label in enumerate(LABELS):
        path = tmp_path / f"{k}.png"
        Image.new("RGB", (40, 10), (30 * k, 0, 0)).save(path)
        panels.append(path)
        samples.append(SimpleNamespace(kind="crack <b>" if label else "good", label=label,
                                       path=path))
    row = {name: 0.5 for name in run_page.REPORT_COLUMNS}
    metrics = {"class": "nut & bolt", "shots": 4, "seed": 1, "threshold": 0.5, "seconds": 12.0,
               "model": {"name": "tiny", "sha256": "0" * 64}, "peak_memory_bytes": None,
               "data": {"name": "scenes", "root": "here"}, "device": "cpu", "resolution": 64,
               "trainable_parameters": 10, "total_parameters": 100, "losses": [3.0, 2.0],
               "rows": {name: row for name in ROW_DESCRIPTIONS}, "kinds": {"crack <b>": 0.75},
               "decisions": {"good": 3, "false_alarms": 1, "defective": 4, "found": 2,
                             "unlabelled": 0, "called": 0}}
    run_page.write_page(tmp_path / "report.html", metrics, ROW_DESCRIPTIONS,
                        dict.fromkeys(ROW_DESCRIPTIONS, SCORES), samples, panels,
                        "python -m minilora.fit --class 'nut & bolt'")
    text = (tmp_path / "report.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return text, checker


def test_the_page_needs_no_network_and_no_script(written):
    text, checker = written
    assert not re.search(r"<script|https?:|<link|url\(", text)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in checker.images)


def test_mistakes_come_before_examples_and_the_worst_mistake_comes_first(written):
    text, checker = written
    assert [h for h in checker.headings if ":" in h][1:] == [
        "False alarms: 1 good pictures called NG, the worst first",
        "Misses: 2 defective pictures called OK, the worst first"]
    assert text.index("5.png, score 0.200") < text.index("3.png, score 0.400")
    assert text.index("4.png, score 0.800") < text.index("Kinds of defect")


def test_every_picture_and_chart_has_a_description_in_words(written):
    text, checker = written
    assert len(checker.images) == 1 + 2 + 1 and all(image["alt"] for image in checker.images)
    assert text.count("<svg") == 4 == text.count('role="img" aria-label="')


def test_folder_names_are_escaped_in_html(written):
    text, _ = written
    assert "crack <b>" not in text and "crack &lt;b&gt;" in text and "nut &amp; bolt" in text


def test_the_page_has_a_light_and_a_dark_style_and_fits_a_phone(written):
    text, _ = written
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_curves_equal_those_of_scikit_learn():
    rate, found, _ = roc_curve(LABELS, SCORES, drop_intermediate=False)
    assert np.allclose(svg.roc_points(SCORES, LABELS), list(zip(rate, found)))
    precision, recall, _ = precision_recall_curve(LABELS, SCORES, drop_intermediate=False)
    ours = svg.precision_recall_points(SCORES, LABELS)
    assert np.allclose(ours, list(zip(recall, precision))[::-1][:len(ours)])


def test_a_histogram_counts_every_score_once():
    drawing = svg.histogram("t", "x", [0.0, 0.0, 1.0], [1.0], mark=0.5, bins=4)
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', drawing)]
    assert len(heights) == 3 and heights[0] == pytest.approx(2 * heights[1], rel=1e-2)
    assert "threshold" in drawing


@pytest.mark.parametrize("low, high, expected", [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 99, [0, 20, 40, 60, 80]), (0, 29, [0, 10, 20]),
    (0.588, 2.38, [1, 1.5, 2]), (-3, 3, [-2, 0, 2]), (0, 0, [0]), (0.91, 0.93, None)])
def test_ticks_are_round_and_within_the_axis(low, high, expected):
    found = svg.ticks(low, high)
    assert expected is None or found == pytest.approx(expected)
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found) and 1 <= len(found) <= 6


@pytest.mark.parametrize("name", ["javascript:alert(1)", "a b&c", "100%", "caf\udce9", "#top",
                                  "?q"])
def test_a_link_leads_to_a_file_beside_the_page_whatever_its_name(name, tmp_path):
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system does not have such names")
    (tmp_path / name / "report.html").write_text("")
    link = html.local_link(tmp_path, name, "report.html", name)
    address = re.fullmatch('<a href="([^"]*)">.*</a>', link).group(1)
    assert address.startswith("./") and re.fullmatch(r"[\w./%~-]+", address, re.ASCII)
    assert (tmp_path / os.fsdecode(unquote_to_bytes(address))).is_file()


@pytest.mark.parametrize("name", ["gone", "..", "../x", "/etc", ""])
def test_what_is_not_beside_the_page_gets_no_link(name, tmp_path):
    (tmp_path / "report.html").write_text("")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "report.html").write_text("")
    inside = tmp_path / "inside"
    inside.mkdir()
    assert html.local_link(inside, name, "report.html", "<b>") == "&lt;b&gt;"


def test_a_page_can_be_written_whatever_names_are_in_it():
    page = html.document("caf\udce9", html.html_text("\x1b[2J\n<script>"))
    page.encode("utf-8")
    assert "\\x1b[2J\\n&lt;script&gt;" in page and "<script>" not in page
