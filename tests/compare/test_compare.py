"""minilora.compare: what may stand in one table, mean and deviation over seeds, and the files."""
import csv
import json
import re
import shutil
import statistics
import subprocess
import sys

import pytest
import torch

from minilora import fit
from minilora.charts.drawing import Label
from minilora.charts.plots import PLOT_BOTTOM
from minilora.compare import run
from minilora.compare.page import curves
from minilora.compare.run_results import (check_comparable, differing_facts, find_runs,
                                          read_result_of)
from minilora.compare.seed_statistics import ALL_CLASSES, Comparison, Values, compared
from minilora.compare.tables import latex_escaped, latex_text, markdown_escaped, markdown_text
from minilora.rows import ROWS
from minilora.runs import run_class
from minilora.runs.run_report import EMBEDDED_DATA
from minilora.scenes import scene


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_weights):
    """Runs of two products with 1 and 2 shots and two seeds."""
    root = tmp_path_factory.mktemp("compared")
    for name in ("gear", "nut"):
        scene.write_class(root / "data", name, good=4, test_good=3, defective=1, resolution=64)
        for shots in (1, 2):
            for seed in (1, 2):
                run_class.run_class(fit.parse([
                    "--class", name, "--shots", str(shots), "--seed", str(seed), "--steps", "1",
                    "--data", str(root / "data"), "--model", str(tiny_weights), "--out",
                    str(root / "runs" / f"{name}-{shots}-{seed}")]), lambda line: None)
    return root / "runs"


def results_of(folder):
    return [read_result_of(path) for path in find_runs([folder])[0]]


def copied(runs, tmp_path, change=lambda metrics: None, name="nut-2-2"):
    """One of the runs with changed metrics."""
    folder = shutil.copytree(runs / name, tmp_path / name)
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def compare(monkeypatch, tmp_path, *arguments):
    """The output folder of the command."""
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments), "--out",
                                      str(tmp_path / "out")])
    run.main()
    return tmp_path / "out"


def test_a_number_is_the_mean_and_the_deviation_of_a_sample_over_the_seeds(runs):
    results = results_of(runs)
    found = compared(results, differing_facts(results))
    own = [r.rows["memory"]["image_auroc"] for r in results
           if (r.class_name, r.shots) == ("nut", 2)]
    values = found.cells["image_auroc"]["nut", "memory", "2 shots"]
    assert len(own) == 2 and values.mean == pytest.approx(statistics.mean(own))
    assert values.deviation == pytest.approx(statistics.stdev(own))
    assert found.columns == ["1 shot", "2 shots"] and found.classes == ["gear", "nut", ALL_CLASSES]


def test_the_mean_over_classes_is_formed_for_each_seed_first(runs):
    results = results_of(runs)
    found = compared(results, differing_facts(results)).cells["image_auroc"]
    by_seed = [statistics.mean(r.rows["text"]["image_auroc"] for r in results
                               if (r.shots, r.seed) == (1, seed)) for seed in (1, 2)]
    mean = found[ALL_CLASSES, "text", "1 shot"]
    assert list(mean.by_seed.values()) == pytest.approx(by_seed)
    assert mean.deviation == pytest.approx(statistics.stdev(by_seed))


def test_a_row_that_lacks_a_class_has_no_mean_over_the_classes(runs):
    results = [r for r in results_of(runs) if (r.class_name, r.shots) != ("gear", 1)]
    found = compared(results, differing_facts(results)).cells["image_auroc"]
    assert (ALL_CLASSES, "text", "1 shot") not in found
    assert (ALL_CLASSES, "text", "2 shots") in found


def test_other_weights_and_options_get_a_column_of_their_own(runs, tmp_path, tiny_clip):
    from minilora.checkpoint.weights import save_official
    with_other = []
    tiny_clip.logit_scale.data += 0.1
    save_official(tiny_clip, tmp_path / "other.safetensors")
    for extra in (["--model", str(tmp_path / "other.safetensors")], ["--rank", "2"]):
        out = tmp_path / f"run{len(with_other)}"
        run_class.run_class(fit.parse([
            "--class", "nut", "--shots", "2", "--steps", "1", "--data",
            str(runs.parent / "data"), "--model", read_base(runs),
            *extra, "--out", str(out)]), lambda line: None)
        with_other.append(out)
    results = [*results_of(runs), *map(read_result_of, with_other)]
    differing = differing_facts(results)
    assert differing == ["weights", "rank"]
    columns = compared(results, differing).columns
    assert len(columns) == 4 and all("weights" not in c and "rank" in c for c in columns)
    assert any("other" in c for c in columns)


def read_base(runs):
    """The weights of the runs."""
    from minilora.checkpoint.detector_files import read_detector
    return read_detector(runs / "nut-2-2")["base"]["path"]


def test_two_equal_runs_are_refused_by_name(runs, tmp_path):
    results = [*results_of(runs), read_result_of(copied(runs, tmp_path))]
    with pytest.raises(ValueError, match="nut-2-2 and .*nut-2-2: expected one run of nut, 2 shots"):
        check_comparable(results, differing_facts(results))


def test_other_test_pictures_are_refused(runs, tmp_path):
    def change(metrics):
        metrics["decisions"]["good"] += 1
    results = [r for r in results_of(runs) if r.folder.name != "nut-2-2"]
    results.append(read_result_of(copied(runs, tmp_path, change)))
    with pytest.raises(ValueError, match="expected the same test pictures"):
        check_comparable(results, differing_facts(results))


def test_test_pictures_with_other_bytes_are_refused_by_the_names_of_the_runs(runs, tmp_path):
    results = [r for r in results_of(runs) if r.folder.name != "nut-2-2"]
    assert len({r.test_digest for r in results}) == 2, "one for each class"
    results.append(read_result_of(copied(runs, tmp_path, lambda metrics: metrics["data"].update(
        test="0" * 16))))
    with pytest.raises(ValueError, match="nut-1-1 and .*nut-2-2 have other bytes"):
        check_comparable(results, differing_facts(results))


def test_embedded_pictures_are_compared_by_name(runs, tmp_path):
    """Drawn pictures are the same everywhere, but not always the bytes of their files."""
    def drawn(metrics):
        metrics["data"]["name"] = EMBEDDED_DATA
    assert read_result_of(copied(runs, tmp_path, drawn)).test_digest == ""


def test_a_setting_that_is_not_the_default_is_named(runs):
    results = results_of(runs)
    assert run.equal_facts(results, []).endswith("resolution 64, steps 1.")


def test_the_chart_has_its_numbers_where_shots_were_measured(runs):
    results = results_of(runs)
    (drawing, *_) = curves(compared(results, differing_facts(results))).values()
    numbers = [w.text for w in drawing.shapes if isinstance(w, Label) and w.y > PLOT_BOTTOM
               and w.text.replace(".", "").isdigit()]
    assert numbers == ["1", "2"]


def test_what_is_no_run_is_named_and_the_others_are_compared(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "notes").mkdir()
    damaged = copied(runs, tmp_path, lambda metrics: metrics.update(rows="all"), "gear-1-1")
    compare(monkeypatch, tmp_path, runs, tmp_path / "notes", damaged)
    said = capsys.readouterr().err
    assert "notes: holds no run" in said and "gear-1-1: " in said and "rows" in said
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "notes")])
    with pytest.raises(ValueError, match="no run with metrics in .*notes; expected folders"):
        run.main()


@pytest.mark.parametrize("key, value", [
    ("shots", None), ("shots", "8"), ("shots", [8]), ("shots", -1), ("resolution", None),
    ("resolution", "x"), ("data", None), ("data", "mvtec"), ("drawn", None), ("class", "x" * 9999)])
def test_metrics_that_fit_did_not_write_are_refused_in_one_line(runs, tmp_path, key, value):
    folder = copied(runs, tmp_path, lambda metrics: metrics.pop(key) if value is None else
                    metrics.update({key: value}))
    with pytest.raises(ValueError, match=f"metrics.json.*{key}") as caught:
        read_result_of(folder)
    assert "\n" not in str(caught.value)


def test_texts_of_a_stranger_are_printable_and_not_html(runs, tmp_path, monkeypatch, capsys):
    """A control sequence in a name would else reach the terminal."""
    def change(metrics):
        metrics |= {"class": "\x1b[2J<b>\nOK"}
        metrics["data"]["name"] = "\x1b[2J<script>"
    out = compare(monkeypatch, tmp_path, copied(runs, tmp_path, change))
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable() and "\\x1b[2J&lt;script>" in printed
    assert "<script>" not in (out / "compare.md").read_text("utf-8")


def test_a_run_on_all_pictures_of_a_folder_counts_them(runs, tmp_path):
    folder = copied(runs, tmp_path, lambda metrics: metrics.update(shots="all"))
    assert read_result_of(folder).shots == 2


def test_the_best_of_each_class_and_column_is_bold_in_every_format(runs):
    results = results_of(runs)
    found = compared(results, [])
    lines = [line.split(" | ") for line in markdown_text(found, "").splitlines()
             if line.startswith("| nut")]
    means = {line[1]: float(line[2].strip("*").split(" ±")[0]) for line in lines[:len(found.rows)]}
    bold = {line[1] for line in lines[:len(found.rows)] if line[2].startswith("**")}
    assert bold == {row for row, value in means.items() if value == max(means.values())}
    assert latex_text(found, "").count(r"\textbf{") == markdown_text(found, "").count("**") / 2


def test_the_files_hold_the_same_numbers(runs, tmp_path, monkeypatch, capsys):
    out = compare(monkeypatch, tmp_path, runs)
    with open(out / "compare.csv") as file:
        lines = list(csv.DictReader(file))
    (line,) = (r for r in lines if (r["class"], r["row"], r["column"], r["metric"]) == (
        "nut", "adapted", "2 shots", "image_auroc"))
    values = [float(v) for v in line["values"].split()]
    assert line["seeds"] == "1 2" and float(line["mean"]) == pytest.approx(statistics.mean(values))
    shown = f"{100 * float(line['mean']):.1f} ± {100 * float(line['standard_deviation']):.1f}"
    assert shown in (out / "compare.md").read_text() and shown in capsys.readouterr().out
    page = (out / "compare.html").read_text()
    assert shown in page and page.count("<svg") == 3
    assert "How it was made" in page and f"torch {torch.__version__}" in page
    assert not re.search(r"(src|href)=.?https?:", page)
    assert sorted(p.name for p in out.glob("curve-*")) == [
        f"curve-{name}.{ending}" for name in ("gear", "mean", "nut") for ending in ("png", "svg")]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_latex_tables_compile(runs, tmp_path, monkeypatch):
    out = compare(monkeypatch, tmp_path, runs)
    text = latex_text(compared(results_of(runs), []), r"Odd: 50 % of a_b & {c} \ ~ ^ # $ < > | é 漢")
    (out / "thesis.tex").write_text(r"\documentclass[twocolumn]{article}\usepackage{array}"
                                    r"\usepackage{graphicx}\begin{document}"
                                    + (out / "compare.tex").read_text() + text
                                    + latex_text(many(15, ("1 shot", "2 shots, rank 2")), "")
                                    + r"\end{document}", "utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "thesis.tex"],
                          cwd=out, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and (out / "thesis.pdf").is_file(), done.stdout[-1000:]
    assert "Overfull" not in done.stdout and "too large" not in done.stdout


def many(classes, columns=("8 shots",)):
    """A comparison of many classes."""
    names = [f"class {k:02d}" for k in range(classes)]
    cells = {(name, row, column): Values({1: 0.9}) for name in names for row in ROWS
             for column in columns}
    return Comparison(names, list(ROWS), list(columns), dict.fromkeys(columns, 8),
                      {"aupro": cells})


def test_many_classes_become_tables_that_fit_on_a_page():
    text = latex_text(many(15), "")
    sizes = [part.count(r"\\") - 1 for part in text.split(r"\begin{table}")[1:]]
    assert sum(sizes) == 15 * len(ROWS) and max(sizes) <= 40
    assert "(1 of 3)" in text and "{tab:aupro-3}" in text
    assert r"\begin{table*}" in latex_text(many(2, ("1 shot", "2 shots", "4 shots")), "")
    assert r"\shortstack[r]{8 shots \\ rank 2}" in latex_text(many(1, ("8 shots, rank 2",)), "")


def test_one_seed_has_no_deviation_and_the_caption_says_so():
    assert markdown_text(many(1), "x" * 300 + " end").startswith("AUPRO in per cent, seed 1; the")
    assert "x end" in latex_text(many(1), "x" * 300 + " end"), "a long caption is complete"


def test_a_cell_of_markdown_holds_no_html():
    assert markdown_escaped("<b>a|b</b> & c") == r"&lt;b>a\|b&lt;/b> &amp; c"


def test_letters_with_a_meaning_in_latex_are_escaped():
    assert latex_escaped("a_b & 5 % \x1b[2J") == r"a\_b \& 5 \% \textbackslash{}x1b[2J"


def test_rows_can_be_chosen(runs, tmp_path, monkeypatch):
    out = compare(monkeypatch, tmp_path, runs, "--rows", "memory", "adapted")
    with open(out / "compare.csv") as file:
        assert {line["row"] for line in csv.DictReader(file)} == {"memory", "adapted"}
