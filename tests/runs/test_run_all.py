"""Several products: finished ones are skipped, failed ones are named, processes do not matter."""

import argparse
import csv
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import REPO

from minilora import fit
from minilora.config import DetectorConfig
from minilora.runs import run_all, run_class, run_report, summary
from minilora.scenes import scene

NAMES = ("gear", "mesh", "nut")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in NAMES:
        scene.write_class(root, name, good=4, test_good=2, defective=1, resolution=64)
    return root


def command(folder, weights, out, *extra):
    return ["--class", "all", "--shots", "2", "--steps", "2", "--data", str(folder), "--model",
            str(weights), "--out", str(out), *extra]


@pytest.fixture(scope="module")
def done(folder, tiny_weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    options = fit.parse(command(folder, tiny_weights, out))
    assert run_all.run_all(options, lambda line: None) == 0
    return options


def results(out, names=NAMES):
    return {name: json.loads((out / name / "metrics.json").read_text()) for name in names}


def test_every_class_has_its_folder_and_the_summary_has_their_mean(done):
    found = results(done.out)
    lines = list(csv.DictReader((done.out / "summary.csv").open()))
    assert [line["class"] for line in lines] == list(NAMES)
    for line in lines:
        expected = found[line["class"]]["rows"]["adapted"]["image_auroc"]
        assert float(line["adapted"]) == pytest.approx(expected, abs=1e-6)
    mean = sum(f["rows"]["adapted"]["image_auroc"] for f in found.values()) / 3
    last = (done.out / "summary.txt").read_text().splitlines()[-1].split()
    assert last[0] == "mean" and float(last[3]) == pytest.approx(100 * mean, abs=0.051)
    assert (done.out / "summary.md").read_text().count("|") == 6 * 8
    page = (done.out / "index.html").read_text()
    for name in NAMES:
        assert f'href="./{name}/report.html"' in page and (done.out / name / "report.html").is_file()


def test_finished_classes_are_skipped_unless_something_changed(done, monkeypatch):
    monkeypatch.setattr(run_class, "evaluate", lambda *_: pytest.fail("done again"))
    run_all.run_all(done, lambda line: None)
    for change in ({"force": True}, {"config": replace(done.config, steps=3)},
                   {"class_name": "wheel"},
                   {"config": replace(done.config, seed=2)}):
        for key, value in change.items():
            monkeypatch.setattr(done, key, value)
        with pytest.raises(pytest.fail.Exception, match="done again"):
            run_all.run_all(done, lambda line: None)
        monkeypatch.undo()
        monkeypatch.setattr(run_class, "evaluate", lambda *_: pytest.fail("done again"))


def test_a_class_that_fails_is_named_and_the_others_go_on(folder, tiny_weights, tmp_path):
    arguments = command(folder, tiny_weights, tmp_path / "runs")
    arguments[1:2] = ["gear", "spoon", "nut"]
    options = fit.parse(arguments)
    assert run_all.run_all(options, lambda line: None) == 1
    text = (tmp_path / "runs" / "summary.txt").read_text()
    assert "spoon" in text and "not found" in text
    assert results(tmp_path / "runs", ("gear", "nut"))
    assert 'href="./spoon' not in (tmp_path / "runs" / "index.html").read_text()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(done, folder, tiny_weights, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    arguments = ["-m", "minilora.fit", *command(folder, tiny_weights, tmp_path / "runs")]
    for launcher, out in ((["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
                           "two"), ([], "one")):
        arguments[-1] = str(tmp_path / out)
        result = subprocess.run([sys.executable, *launcher, *arguments], env=environment,
                                cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    for name in NAMES:
        for key in ("rows", "threshold", "losses", "kinds", "decisions"):
            assert one[name][key] == two[name][key], (name, key)
    assert ((tmp_path / "one" / "summary.txt").read_text()
            == (tmp_path / "two" / "summary.txt").read_text())


JOIN = """
import argparse, datetime, os, sys
from minilora.io.cli import run_command
from minilora.runs import run_all
run_all.START_WAIT = datetime.timedelta(seconds=float(sys.argv.pop(1)))
def main():
    processes = run_all.join_processes(argparse.Namespace(device="cpu"))
    if processes.rank == 1:
        os._exit(7)                     # as after kill -9
    run_all.gather_results({}, processes)
run_command("minilora.fit", main)
"""


def start_join(rank, port, wait):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-c", JOIN, str(wait)], env=environment, cwd=REPO,
                            stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_partner_never_comes_ends_with_one_line(rank):
    process = start_join(rank, free_port(), wait=1)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and errors.count("\n") == 1, errors
    assert "the other processes did not come within 1 s" in errors


def test_a_process_whose_partner_is_killed_ends_with_one_line():
    port = free_port()
    first, second = (start_join(rank, port, wait=60) for rank in (0, 1))
    assert second.wait(timeout=120) == 7
    errors = first.communicate(timeout=60)[1]
    assert first.returncode == 2 and errors.count("\n") == 1, errors
    assert "another process has ended before its classes were done" in errors


@pytest.mark.parametrize("count", ["two", "-1", "0", "", "\x1b[2J"])
def test_a_wrong_number_of_processes_is_named(monkeypatch, count):
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ValueError, match="WORLD_SIZE is .*expected a number of processes"):
        run_all.join_processes(None)


def test_a_class_given_twice_is_run_once():
    """Two processes would write one run folder."""
    assert run_all.requested_classes(fit.parse(["--class", "nut", "gear", "nut"])) == [
        "nut", "gear"]


def test_all_means_the_embedded_classes_where_there_is_no_data(monkeypatch, tmp_path):
    monkeypatch.delenv("MINILORA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run_all.requested_classes(fit.parse(["--class", "all"])) == list(scene.CLASSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no class"):
        run_all.requested_classes(fit.parse(["--class", "all", "--data", str(tmp_path / "empty")]))


def test_what_pretraining_never_saw_is_summarised_apart():
    row = lambda v: {"adapted": {"image_auroc": v, "pixel_auroc": v, "aupro": v}}
    made = lambda name, v, drawn: {"class": name, "rows": row(v), "kinds": {"dent": v / 2},
                                   "data": {"name": run_report.EMBEDDED_DATA if drawn else "VisA"}}
    results = [made("nut", 0.9, True), made("gear", 0.7, True), made("mesh", 0.5, True)]
    *_, mean, unseen, dent = summary.summary_table(results)[1]
    assert mean[3] == "70.0" and unseen[0] == "gear and mesh" and unseen[3] == "60.0"
    assert dent[0] == "dent" and dent[3] == "35.0" and "never" in dent[-1]
    assert summary.summary_table([made("gear", 0.7, False)])[1][-1][0] == "mean"


def test_on_the_page_the_best_of_the_three_rows_is_bold_and_the_mean_stays_below(tmp_path):
    made = lambda name, *values: {"class": name, "kinds": {}, "rows": {
        row: {"image_auroc": value} for row, value in zip(("zero-shot", "memory", "adapted"),
                                                          values)}}
    options = argparse.Namespace(shots=4, config=DetectorConfig(), out=tmp_path, command="fit")
    page = summary.summary_page([made("nut", 0.5, 0.9, 0.8), made("bolt", 0.7, 0.7, 0.6)], options)
    assert re.findall("<b>(.*?)</b>", page)[:3] == ["90.0", "70.0", "70.0"]
    assert page.index("<tfoot>") < page.index("mean") and 'class="sortable' in page
    assert re.search(r"<p class=.soft.>\d{4}-\d\d-\d\d ", page)
