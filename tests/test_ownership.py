"""No command deletes or replaces a file that minilora did not write, wherever --out points."""
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from minilora import explain, export, fit, predict
from minilora.detector import Detector
from minilora.export import EXPORT_FILES
from minilora.io.error_text import USER_ERRORS
from minilora.io.files import sha256_of
from minilora.io.lock import LOCK_FILE
from minilora.io.record import RECORD_FILE
from minilora.mae import run as mae_run
from minilora.mae.model import MAEConfig
from minilora.mae.run import MAE_FILES
from minilora.predict import PREDICTION_FILES
from minilora.pretrain import train as pretrain
from minilora.pretrain.target_cache import CACHE_FILES
from minilora.runs.run_class import RUN_FILES
from minilora.runs.summary import SUMMARY_FILES
from minilora.scenes import belts, scene
from minilora.search import run as search

PURPOSES = ("fit", "predict", "export", "mae", "summary", "belts", "views", "pretrain-clip", "x")
OURS = {RECORD_FILE, LOCK_FILE}


def users_folder(folder):
    """A folder in which a user has a file under every name that any command writes, and others."""
    names = [pattern.replace("[0-9][0-9][0-9][0-9]*", "0000").replace("[0-9][0-9][0-9]*", "000")
             .replace("*", "mine")
             for pattern in (*RUN_FILES, *PREDICTION_FILES, *EXPORT_FILES, *MAE_FILES,
                             *SUMMARY_FILES, *belts.BELT_FILES, *CACHE_FILES)]
    names += ["pictures/a.png", "masks/a_mask.png", "Annotations/a.xml", "maps/a.png", "maps/a.jpg",
              "parts/a.pt", "parts/a.safetensors", "index.json", "groups-1.faiss", "explain.html",
              "clip.pt", "clip.log.csv", "notes.txt", ".lock", ".hidden/a", "unfinished.pt"]
    names += [f".unfinished-{purpose}/{name}" for purpose in PURPOSES
              for name in ("notes.txt", "maps/a.png", "unfinished.safetensors")]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the user's file {number}")
    Image.new("RGB", (64, 64), "grey").save(folder / "picture.png")
    return folder


def bytes_in(folder):
    """{name: bytes or target} of every file and link, and the names of folders."""
    return {p.relative_to(folder): os.readlink(p) if p.is_symlink() else
            p.read_bytes() if p.is_file() else "no file" for p in folder.rglob("*")}


def call(monkeypatch, module, *arguments):
    """Exit status of a command: 2 for an error that is told in one line."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    try:
        return module.main() or 0
    except USER_ERRORS as error:
        assert "\n" not in str(error)
        print(f"refused: {error}")
        return 2


@pytest.fixture(scope="module")
def own(gear_run, tiny_weights):
    """{command: (module, arguments without --out)}."""
    run, data = gear_run
    small_fit = ("--data", data.parent, "--model", tiny_weights, "--steps", 1, "--shots", 2)
    return {"fit": (fit, "--class", "gear", *small_fit),
            "fit all": (fit, "--class", "all", *small_fit),
            "predict": (predict, run, data / "test" / "good"),
            **{f"export {form}": (export, run, data / "test", "--format", form)
               for form in ("coco", "voc", "masks")},
            "mae": (mae_run, "--data", data.parent, "--class", "gear", "--steps", 1, "--batch", 2),
            "belts": (belts, "--videos", 1, "--slots", 2, "--rate", 2, "--resolution", 64),
            "scenes": (scene, "--class", "gear")}


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setitem(mae_run.CONFIGS, "mini", MAEConfig(
        width=64, layers=2, heads=1, patch=16, resolution=64, decoder_width=32, decoder_layers=1,
        decoder_heads=1))
    monkeypatch.setattr(belts, "save_video", lambda file, frames, rate: file.write(b"video"))
    monkeypatch.setattr(scene, "CLASSES", {"gear": scene.CLASSES["gear"]})
    real = scene.write_class
    monkeypatch.setattr(scene, "write_class",
                        lambda root, name: real(root, name, 1, 1, 1, resolution=64))


COMMANDS = ("fit", "fit all", "predict", "export coco", "export voc", "export masks", "mae",
            "belts")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_full_of_a_users_files_is_refused(own, tmp_path, monkeypatch, name):
    module, *arguments = own[name]
    before = bytes_in(users_folder(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, module, *arguments, "--out", ".") == 2
    after = bytes_in(tmp_path)
    assert before.items() <= after.items() and (after == before or name == "fit all")


def test_scenes_keep_everything_and_a_file_in_their_place(tmp_path, monkeypatch, capsys):
    before = bytes_in(users_folder(tmp_path))
    assert call(monkeypatch, scene, "--class", "gear", "--out", tmp_path) == 0
    assert before.items() <= bytes_in(tmp_path).items() and (tmp_path / "gear" / "train").is_dir()
    kept = bytes_in(tmp_path)
    assert "unchanged" not in capsys.readouterr().out
    assert call(monkeypatch, scene, "--class", "gear", "--out", tmp_path) == 0
    assert bytes_in(tmp_path) == kept
    assert "gear was there and is unchanged" in capsys.readouterr().out
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "gear").write_text("mine")
    assert call(monkeypatch, scene, "--class", "gear", "--out", tmp_path / "file") == 2
    assert (tmp_path / "file" / "gear").read_text() == "mine"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_call_replaces_its_own_results_and_leaves_all_else(own, tmp_path, monkeypatch,
                                                                     name):
    module, *arguments = own[name]
    for user in ("notes.txt", "maps/notes.txt", "pictures/a.jpg", "masks/a.txt", "a.png",
                 ".unfinished-x/complete", "parts/a.pt"):
        (tmp_path / user).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / user).write_text("mine")
    before = bytes_in(tmp_path)
    for _ in range(2):
        assert call(monkeypatch, module, *arguments, "--out", tmp_path) in (0, 1)
        after = bytes_in(tmp_path)
        assert before.items() <= after.items() and len(after) > len(before) + 2
        assert not [p for p in after if ".unfinished-" in str(p) and "-x" not in str(p)
                    or str(p).endswith(".tmp")]
    changed = next(p for p in sorted(after) if p not in before and after[p] != "no file"
                   and p.name not in OURS)
    (tmp_path / changed).write_text("edited by hand")
    kept = bytes_in(tmp_path)
    if name != "fit all":                               # one class is refused, as the summary says
        assert call(monkeypatch, module, *arguments, "--out", tmp_path) == 2
        assert bytes_in(tmp_path) == kept


def test_export_in_another_form_takes_its_own_earlier_files_away(own, tmp_path, monkeypatch):
    forms = {"coco": ["annotations.json"], "voc": ["Annotations", "ImageSets"], "masks": []}
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "mine.tif").write_text("mine")
    for form, names in forms.items():
        module, *arguments = own[f"export {form}"]
        assert call(monkeypatch, module, *arguments, "--out", tmp_path) == 0
        files = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
        assert files == {*OURS, "pictures", "masks", *names}
    assert (tmp_path / "masks" / "mine.tif").read_text() == "mine"


def test_explain_replaces_no_picture_and_does_not_start_work(gear_run, tmp_path, monkeypatch):
    run, data = gear_run
    users_folder(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.html").symlink_to("notes.txt")
    before = bytes_in(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Detector, "open", lambda *_: pytest.fail("the work was started"))
        for out in ("picture.png", "notes.txt", "explain.html", "index.json", "pipe", "link.html",
                    "maps", "new/../notes.txt", "notes.txt/a.html", "/dev/null"):
            assert call(patched, explain, run, tmp_path / "picture.png", "--out",
                        tmp_path / out) == 2, out
    assert bytes_in(tmp_path) == before
    monkeypatch.chdir(tmp_path)
    for out in ("page.html", "page.html", "other.html"):
        assert call(monkeypatch, explain, run, "picture.png", "--out", out) == 0
    assert before.items() <= bytes_in(tmp_path).items() and (tmp_path / "other.html").is_file()


@pytest.mark.parametrize("option", ["--page", "--json", "--sheet", "--speak-to"])
def test_a_query_does_not_replace_the_index_nor_its_input(tmp_path, monkeypatch, option):
    users_folder(tmp_path)
    monkeypatch.setattr(search.Index, "open", lambda *_: pytest.fail("the work was started"))
    before = bytes_in(tmp_path)
    for out in ("index.json", "parts/a.pt", "picture.png", "notes.txt", "report.html", "parts"):
        assert call(monkeypatch, search, "query", tmp_path, "--like", tmp_path / "picture.png",
                    option, tmp_path / out) == 2
    assert bytes_in(tmp_path) == before


def test_a_query_names_two_outputs_differently(tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, search, "query", tmp_path, "--page", tmp_path / "a", "--json",
                tmp_path / "a") == 2
    assert "the same twice" in capsys.readouterr().out


def test_pretraining_replaces_no_other_weights(tmp_path, monkeypatch):
    users_folder(tmp_path)
    (tmp_path / "start.pt").write_text("weights")
    before = bytes_in(tmp_path)
    for out in ("clip.pt", "start.pt"):
        assert call(monkeypatch, pretrain, "--out", tmp_path / out, "--steps", 1, "--start",
                    tmp_path / "start.pt") == 2
    after = bytes_in(tmp_path)
    assert before.items() <= after.items()
    assert {str(path) for path in after.keys() - before.keys()} <= OURS


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "mae"])
def test_out_that_is_a_file_is_named_with_the_remedy(own, tmp_path, monkeypatch, name, capsys):
    module, *arguments = own[name]
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        assert call(monkeypatch, module, *arguments, "--out", tmp_path / out) == 2
        assert "file is not a folder; give another --out" in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "mine"


def test_predictions_do_not_replace_the_pictures_they_read(own, gear_run, tmp_path, monkeypatch):
    """The results of an earlier call are given as pictures by name."""
    module, *arguments = own["predict"]
    call(monkeypatch, module, *arguments, "--out", tmp_path)
    overlay = next(tmp_path.glob("*.png"))
    before = bytes_in(tmp_path)
    assert call(monkeypatch, module, gear_run[0], overlay, "--out", tmp_path) == 2
    assert bytes_in(tmp_path) == before


def test_a_killed_runs_folder_from_a_stranger_is_only_read(own, gear_run, tmp_path, monkeypatch):
    """The folder of the report: a journal that names "..", and files beside the folder."""
    run = Path(shutil.copytree(gear_run[0], tmp_path / "run"))
    for name in ("a.png", "a.xml", "victim"):
        (tmp_path / name).write_text("mine")
    staging = run / ".unfinished-fit"
    staging.mkdir()
    (staging / "complete").write_text("..\n../a.png")
    (run / ".unfinished-fit.tmp").symlink_to(tmp_path / "victim")
    before = bytes_in(tmp_path)
    pictures = gear_run[1] / "test" / "good"
    for module in (predict, export):
        assert call(monkeypatch, module, run, pictures, "--out", tmp_path / "new") == 2
        assert bytes_in(tmp_path) == before
    module, *arguments = own["fit"]
    assert call(monkeypatch, module, *arguments, "--out", run) == 2
    assert before.items() <= bytes_in(tmp_path).items()


def test_a_run_of_an_earlier_version_is_named_and_stays(own, tmp_path, monkeypatch, capsys):
    for name in ("adapter.pt", "metrics.json", "scores.csv", "report.html", "maps/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of version 0.1")
    before = bytes_in(tmp_path)
    module, *arguments = own["fit"]
    assert call(monkeypatch, module, *arguments, "--out", tmp_path) == 2
    assert "run of an earlier version" in capsys.readouterr().out
    assert bytes_in(tmp_path) == before


def test_the_folder_of_a_class_is_no_link(own, tmp_path, monkeypatch, capsys):
    """Several classes into a folder that a stranger has made."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gear").symlink_to(tmp_path / "victim")
    module, *arguments = own["fit all"]
    assert call(monkeypatch, module, *arguments, "--out", tmp_path / "out") == 1
    assert "gear is a link, expected a folder" in capsys.readouterr().out
    assert not list((tmp_path / "victim").iterdir())


def test_a_run_killed_after_its_commit_is_read_where_it_is(gear_run, tmp_path, monkeypatch):
    run = Path(shutil.copytree(gear_run[0], tmp_path / "run"))
    staging = run / ".unfinished-fit"
    names = json.loads((run / RECORD_FILE).read_text())["results"]["fit"]
    staging.mkdir()
    for name in sorted(names)[::2]:                     # every second file is not moved yet
        (staging / name).parent.mkdir(exist_ok=True)
        (run / name).rename(staging / name)
    (staging / "complete").write_text(json.dumps({"version": 1, "results": {"fit": names}}))
    before = bytes_in(run)
    pictures = gear_run[1] / "test"
    assert call(monkeypatch, predict, gear_run[0], pictures, "--out", tmp_path / "whole") in (0, 1)
    assert call(monkeypatch, predict, run, pictures, "--out", tmp_path / "killed") in (0, 1)
    assert bytes_in(run) == before
    assert sha256_of(tmp_path / "whole" / "predictions.csv") == sha256_of(
        tmp_path / "killed" / "predictions.csv")


def test_a_picture_with_a_name_of_249_bytes_is_fitted_and_predicted(gear_run, tiny_weights,
                                                                    tmp_path, monkeypatch):
    data = Path(shutil.copytree(gear_run[1], tmp_path / "data" / "gear"))
    picture = data / "test" / "good" / "000.png"
    for name in ("n" * 245 + ".png", "ü" * 122 + ".png"):
        shutil.copy(picture, picture.with_name(name))
    assert call(monkeypatch, fit, "--class", "gear", "--data", data.parent, "--model", tiny_weights,
                "--steps", 1, "--shots", 2, "--out", tmp_path / "run") == 0
    assert call(monkeypatch, predict, tmp_path / "run", data / "test" / "good", "--out",
                tmp_path / "out") in (0, 1)
    for form in ("coco", "voc", "masks"):
        assert call(monkeypatch, export, tmp_path / "run", data / "test" / "good", "--format", form,
                    "--out", tmp_path / "export") == 0
    assert len(list((tmp_path / "run" / "maps").iterdir())) == 3 + 2 + len(
        list((data / "test").glob("[!g]*/*.png")))
