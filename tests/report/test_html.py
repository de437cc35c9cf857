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

from minilora.charts.plots import histogram_plot, ticks
from minilora.charts.writers import inline_svg
from minilora.data.mvtec import Sample
from minilora.metrics import curves as metric_curves
from minilora.report import html, run_page, run_pictures, style
from minilora.runs.run_report import ROW_DESCRIPTIONS

VOID = {"meta", "img", "line", "rect", "polyline", "circle", "image"}
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


def test_the_page_loads_nothing_and_its_one_script_sorts_tables(written):
    text, checker = written
    assert not re.search(r"https?:|<link|url\(|src=\"(?!data:image)", text)
    assert re.findall("<script[^>]*>", text) == ["<script>"] and style.SORT_SCRIPT in text
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in checker.images)


def test_mistakes_come_before_examples_and_the_worst_mistake_comes_first(written):
    text, checker = written
    assert [h for h in checker.headings if ":" in h][1:] == [
        "False alarms: 1 good picture called NG, the worst first",
        "Misses: 2 defective pictures called OK, the worst first"]
    assert text.index("5.png, score 0.200") < text.index("3.png, score 0.400")
    assert text.index("4.png, score 0.800") < text.index("Kinds of defect")


def test_a_run_of_an_earlier_version_has_a_page_without_sizes(written):
    metrics = {"model": {"name": "tiny", "sha256": "0" * 64}, "data": {"name": "a", "root": "b"},
               "shots": 4, "seed": 1, "device": "cpu", "resolution": 64, "seconds": 1.0,
               "trainable_parameters": 1, "total_parameters": 2, "peak_memory_bytes": None}
    assert "on disk" not in written[0] and "on disk" not in run_page.run_facts(metrics, "fit")
    sizes = {"adapter_bytes": 30_000, "run_bytes": 1_420_000}
    facts = run_page.run_facts(metrics | sizes, "fit")
    assert "on disk" in facts and "adapter 0.03 MB, whole run 1.42 MB" in facts


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
    assert np.allclose(metric_curves.roc_points(SCORES, LABELS), list(zip(rate, found)))
    precision, recall, _ = precision_recall_curve(LABELS, SCORES, drop_intermediate=False)
    ours = metric_curves.precision_recall_points(SCORES, LABELS)
    assert np.allclose(ours, list(zip(recall, precision))[::-1][:len(ours)])


def test_a_histogram_counts_every_score_once():
    drawing = inline_svg(histogram_plot("t", "x", {"good": [0.0, 0.0, 1.0], "bad": [1.0]},
                                        ("good", "bad"), mark=0.5, bins=4))
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', drawing)]
    assert len(heights) == 3 + 2, "three bars, and two squares in the legend"
    assert heights[0] == pytest.approx(2 * heights[1], rel=1e-2)
    assert "threshold" in drawing


@pytest.mark.parametrize("low, high, expected", [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 99, [0, 20, 40, 60, 80]), (0, 29, [0, 10, 20]),
    (0.588, 2.38, [1, 1.5, 2]), (-3, 3, [-2, 0, 2]), (0, 0, [0]), (0.91, 0.93, None)])
def test_ticks_are_round_and_within_the_axis(low, high, expected):
    found = ticks(low, high)
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


def test_the_best_value_of_each_column_is_bold_and_the_deciding_row_is_marked():
    rows = {"memory": {"image_auroc": 0.998, "aupro": 0.904, "image_ap": None},
            "adapted": {"image_auroc": 0.992, "aupro": 0.9041, "image_ap": 0.9}}
    table = run_page.rows_table(rows, {"memory": "", "adapted": ""})
    assert re.findall("<b>(.*?)</b>", table) == ["99.8", "90.4", "90.4"], "a tie: both are bold"
    assert table.count("decides</span>") == 1 and "adapted <span" in table
    assert "class=\"best\"" not in table


def test_a_number_that_stands_alone_is_not_the_best():
    assert html.bold_best(["97.0", "–", ""]) == ["97.0", "–", ""]
    assert html.bold_best(["<b>", "1", "2"]) == ["<b>", "1", "<b>2</b>"]


def test_all_test_pictures_stand_in_a_table_with_links_and_what_is_wrong(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "dent-b.jpg").write_text("")
    scored = [run_pictures.Scored(tmp_path / "maps" / f"{kind}-{name}.jpg", score,
                                  Sample(tmp_path / f"{name}.png", kind, label))
              for kind, name, score, label in (("good", "a", 0.4, 0), ("dent", "b", 0.6, 1))]
    table = run_pictures.picture_table(scored, 1.0, tmp_path)
    assert '<a href="./maps/dent-b.jpg">b.png</a>' in table and '<span class="bad">miss' in table
    assert table.count("<a ") == 1, "no link to a panel that is not there"


def test_pictures_that_nobody_labelled_have_no_column_right_or_wrong(tmp_path):
    scored = [run_pictures.Scored(tmp_path / "a.jpg", 2.0, Sample(tmp_path / "a.png", "unknown",
                                                                  None))]
    table = run_pictures.picture_table(scored, 1.0, tmp_path)
    assert "right or wrong" not in table and "unknown" not in table and "NG" in table


def test_a_run_that_does_not_say_when_it_was_made_gets_a_date():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", run_page.date_of({}))
    assert run_page.date_of({"made": {"date": "2026-01-02T03:04:05+00:00"}}) \
        == "2026-01-02 03:04 UTC"
