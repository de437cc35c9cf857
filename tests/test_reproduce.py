"""`minilora reproduce`: the same run again, and whether its numbers are the same."""
import json
import shutil

import pytest

from minilora import fit, reproduce
from minilora.io.files import sha256_of
from minilora.runs.run_class import run_class


@pytest.fixture
def run(gear_run, tmp_path):
    """A copy of a finished run, and the folder of its class."""
    out, data = gear_run
    return shutil.copytree(out, tmp_path / "gear"), data


def repeat(run, *more):
    lines = []
    status = reproduce.reproduce(reproduce.parser().parse_args([str(run), *map(str, more)]),
                                 lines.append)
    return status, lines


def change(run, edit):
    """Changes metrics.json as a stranger would."""
    path = run / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    edit(metrics)
    path.write_text(json.dumps(metrics))


def test_the_same_machine_repeats_a_run_to_the_last_digit(run):
    status, lines = repeat(run[0])
    assert status == 0 and lines[0].startswith("differs  nothing")
    assert lines[-1].startswith("identical: ")
    assert int(lines[-1].split()[1]) > 11                   # scores of 11 pictures, and others


def test_another_result_is_different_and_named(run):
    def edit(metrics):
        metrics["threshold"] += 0.5
        metrics["made"] |= {"torch": "1.0", "shots": metrics["made"]["shots"][1:]}
        metrics["made"]["shots"][0]["sha256"] = "0" * 64
    change(run[0], edit)
    status, lines = repeat(run[0])
    assert status == 1 and lines[-1].startswith("different: 1 of")
    assert any(line.startswith("  threshold:") for line in lines)
    assert sum(line.startswith("differs  shot ") for line in lines) == 2
    assert any("torch: 1.0, here" in line for line in lines)
    assert repeat(run[0], "--tolerance", "1")[0] == 0


def test_the_repeated_run_goes_to_out_only(run, tmp_path):
    before = {p.name: sha256_of(p) for p in run[0].rglob("*.*") if p.is_file()}
    status, _ = repeat(run[0], "--out", tmp_path / "again")
    assert status == 0 and (tmp_path / "again" / "detector.safetensors").is_file()
    assert {p.name: sha256_of(p) for p in run[0].rglob("*.*") if p.is_file()} == before


@pytest.mark.parametrize("arguments", [
    ["--help"], ["--version"], ["--vers"], ["--update", "x", "y"], ["--no-such-option"], ["--"],
    ["--class", "gear", "nut"], ["--class", "all"], ["--rank", "x"], ["; touch x"]])
def test_arguments_of_a_stranger_are_refused_and_never_count_as_the_same(run, arguments, capsys):
    change(run[0], lambda metrics: metrics["made"].update(arguments=arguments))
    with pytest.raises(ValueError, match="arguments"):
        repeat(run[0])
    assert capsys.readouterr().out == ""


def test_an_output_that_a_stranger_names_is_not_used(run, tmp_path):
    change(run[0], lambda metrics: metrics["made"]["arguments"].extend(
        ["--out", str(tmp_path / "evil"), "--model", str(tmp_path / "evil.pt")]))
    assert repeat(run[0])[0] == 0 and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("edit, message", [
    (lambda m: m.pop("made"), "does not say how it was made.*fit again"),
    (lambda m: m.update(added=[]), "--update.*fit again"),
    (lambda m: m["made"].update(threads=10**9), "made.threads"),
    (lambda m: m["made"].update(arguments=["x", 1]), r"made.arguments\[1\]: expected a text"),
    (lambda m: m["made"].update(device=["cpu"]), "made.device")])
def test_what_cannot_be_repeated_is_one_line(run, edit, message):
    change(run[0], edit)
    with pytest.raises(ValueError, match=message) as error:
        repeat(run[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [
    b"file,label\na/b.png,good\n", b"file,score\na/b.png\n", b"file,score\na/b.png,much\n",
    b"file,score\na\rb.png,1\n", b"file,score\n\"" + b"a" * 200_000 + b",1\n"],
    ids=["no score", "short", "text", "line end", "long"])
def test_scores_that_fit_did_not_write_are_refused_before_the_work(run, content, monkeypatch):
    (run[0] / "scores.csv").write_bytes(content)
    monkeypatch.setattr(reproduce, "run_class", None)
    with pytest.raises(ValueError, match="scores.csv: expected the columns") as caught:
        repeat(run[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["losses", "shot_scores"])
@pytest.mark.parametrize("value", [["x"], [[[1]]], {"a": 1}, [10**400]])
def test_numbers_of_another_kind_are_refused(run, name, value):
    change(run[0], lambda metrics: metrics.update({name: value}))
    with pytest.raises(ValueError, match=f"metrics.json: {name}.*expected"):
        repeat(run[0])


def test_data_that_moved_is_found_by_option(run, tmp_path):
    folder, data = run
    moved = shutil.copytree(data.parent, tmp_path / "moved")

    def edit(metrics):
        metrics["data"]["root"] = "/nowhere"
        metrics["made"]["arguments"] = ["--class", "gear", "--shots", "4", "--steps", "4"]
    change(folder, edit)
    with pytest.raises(ValueError, match="/nowhere: the data of the run are not there; give --da"):
        repeat(folder)
    status, lines = repeat(folder, "--data", moved)
    assert status == 0 and lines[0].startswith("differs  nothing")


def test_moved_pictures_of_a_user_are_found_by_two_options(run, tmp_path, tiny_weights):
    folder, data = run
    given = shutil.copytree(data, tmp_path / "given")
    run_class(fit.parse(["--good", str(given / "train" / "good"), "--test", str(given / "test"),
                         "--shots", "2", "--steps", "0", "--model", str(tiny_weights),
                         "--out", str(tmp_path / "own")]), lambda line: None)
    given.rename(tmp_path / "moved")
    moved = ["--data", tmp_path / "moved" / "train" / "good"]
    with pytest.raises(ValueError, match="given/test: the data of the run are not.*give --test"):
        repeat(tmp_path / "own", *moved)
    assert repeat(tmp_path / "own", *moved, "--test", tmp_path / "moved" / "test")[0] == 0


def test_other_test_pictures_are_named_before_the_numbers(run):
    change(run[0], lambda metrics: metrics["data"].update(test="0" * 16))
    status, lines = repeat(run[0])
    assert status == 0
    assert lines[0] == "differs  test pictures: others, other bytes or other masks"


def test_a_folder_of_several_classes_lists_its_runs(run):
    with pytest.raises(ValueError, match="no metrics.json in it; give one of its runs: gear$"):
        repeat(run[0].parent)


def test_the_verdict_says_how_close_the_numbers_are():
    lines = []
    run = {"threshold": 1.5, "rows memory aupro": None}
    assert reproduce.compare_numbers(run, run, 0.002, lines.append) == 0
    assert reproduce.compare_numbers(run, run | {"threshold": 1.50001}, 0.002, lines.append) == 0
    assert lines == ["identical: 1 numbers", "equal within 1e-05: 1 numbers"]
    for other in (run | {"threshold": 1.51}, run | {"threshold": None}, {"threshold": 1.5},
                  run | {"threshold": float("nan")}):
        assert reproduce.compare_numbers(run, other, 0.002, lines.append) == 1, other
