"""The user's own pictures, and VisA's layout."""

import numpy as np
import pytest
from PIL import Image

from minilora import fit
from minilora.data import own_and_visa
from minilora.data.masks import read_mask
from minilora.runs import run_class
from minilora.scenes import scene


def picture(path, value=100, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 60, (*size[::-1], 3)) + value
    Image.fromarray(noise.astype(np.uint8)).save(path)


@pytest.fixture
def own(tmp_path):
    for k in range(4):
        picture(tmp_path / "my spoon" / "good" / f"ä {k}.png", 100 + k)
        picture(tmp_path / "line 2" / f"{k}.JPG", 120 + k)
    return tmp_path


@pytest.fixture
def visa(tmp_path):
    rows = ["object,split,label,image,mask"]
    for k in range(3):
        picture(tmp_path / f"pcb1/Data/Images/Normal/{k}.JPG", 100 + k)
        rows.append(f"pcb1,{'test' if k == 2 else 'train'},normal,pcb1/Data/Images/Normal/{k}.JPG,")
    picture(tmp_path / "pcb1/Data/Images/Anomaly/0.JPG", 30)
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 10:20] = 3                              # VisA marks kinds with small numbers
    (tmp_path / "pcb1/Data/Masks/Anomaly").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "pcb1/Data/Masks/Anomaly/0.png")
    rows.append("pcb1,test,anomaly,pcb1/Data/Images/Anomaly/0.JPG,pcb1/Data/Masks/Anomaly/0.png")
    rows.append("fryum,train,normal,pcb1/Data/Images/Normal/0.JPG,")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_folders_give_labels_and_pictures_outside_them_have_none(own):
    data = own_and_visa.own_pictures(own / "my spoon" / "good", own / "line 2")
    assert data.name == "my spoon" and len(data.train) == 4
    assert {(s.kind, s.label, s.mask_path) for s in data.test} == {("unknown", None, None)}
    picture(own / "line 2" / "good" / "0.png")
    picture(own / "line 2" / "bent" / "deep" / "0.png")
    data = own_and_visa.own_pictures(own / "my spoon", own / "line 2")
    assert {s.kind: s.label for s in data.test} == {"unknown": None, "good": 0, "bent": 1}


def test_a_folder_without_pictures_is_an_error_that_names_the_option(own):
    (own / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="--good .*empty.*no picture"):
        own_and_visa.own_pictures(own / "empty")
    with pytest.raises(FileNotFoundError, match="--test .*nowhere.*does not exist"):
        own_and_visa.own_pictures(own / "my spoon", own / "nowhere")


def test_unlabelled_pictures_get_a_threshold_and_maps_but_no_metrics(own, tiny_weights, tmp_path):
    lines = []
    options = fit.parse(["--good", str(own / "my spoon"), "--test", str(own / "line 2"), "--shots",
                         "all", "--steps", "2", "--model", str(tiny_weights),
                         "--out", str(tmp_path / "run")])
    metrics = run_class.run_class(options, lines.append)
    assert metrics["threshold"] > 0 and len(list((tmp_path / "run" / "maps").iterdir())) == 4
    assert all(v is None for row in metrics["rows"].values() for v in row.values())
    assert metrics["decisions"]["unlabelled"] == 4
    assert any("of 4 pictures NG" in line for line in lines)
    assert not any("AUROC" in line for line in lines)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "pictures were called NG" in page and "<svg" in page
    header, *rows = (tmp_path / "run" / "scores.csv").read_text().splitlines()
    assert all(row.split(",")[1] == "" for row in rows)


def test_a_run_with_good_pictures_only_saves_an_adapter(own, tiny_weights, tmp_path):
    options = fit.parse(["--good", str(own / "my spoon"), "--shots", "3", "--steps", "1",
                         "--model", str(tiny_weights), "--out", str(tmp_path / "run")])
    assert run_class.run_class(options, lambda line: None)["threshold"] > 0
    assert (tmp_path / "run" / "detector.safetensors").is_file()


def test_metrics_use_labelled_pictures_and_decisions_count_all(own, tiny_weights, tmp_path):
    for k in range(2):
        picture(own / "line 2" / "good" / f"{k}.png", 105 + k)
        picture(own / "line 2" / "burnt" / f"{k}.png", 5 + k)
    options = fit.parse(["--good", str(own / "my spoon"), "--test", str(own / "line 2"), "--shots",
                         "all", "--steps", "1", "--model", str(tiny_weights),
                         "--out", str(tmp_path / "run")])
    metrics = run_class.run_class(options, lambda line: None)
    assert metrics["rows"]["adapted"]["image_auroc"] is not None
    assert metrics["rows"]["adapted"]["pixel_auroc"] is None, "there are no masks"
    assert set(metrics["kinds"]) == {"burnt"}
    counts = metrics["decisions"]
    assert (counts["good"], counts["defective"], counts["unlabelled"]) == (2, 2, 4)


@pytest.mark.parametrize("arguments, words", [
    (["--good", "a", "--data", "b"], "exclude each other"), (["--test", "a"], "--good"),
    (["--good", "a", "--class", "b", "c"], "one product")])
def test_contradicting_options_are_an_error(arguments, words):
    with pytest.raises(ValueError, match=words):
        fit.parse(arguments)


def test_visa_is_read_from_its_split_file(visa):
    assert own_and_visa.layout_of(visa) == "VisA"
    assert own_and_visa.class_names(visa) == ["fryum", "pcb1"]
    data = own_and_visa.open_class(visa, "pcb1")
    assert [s.path.name for s in data.train] == ["0.JPG", "1.JPG"]
    assert [(s.label, s.kind) for s in data.test] == [(0, "good"), (1, "anomaly")]
    assert read_mask(data.test[1].mask_path, 40).sum() == pytest.approx(40 * 40 / 12, rel=0.3)


def test_the_error_names_a_fault_in_the_visa_folder(visa):
    with pytest.raises(FileNotFoundError, match="spoon.*fryum, pcb1"):
        own_and_visa.open_class(visa, "spoon")
    (visa / "pcb1/Data/Images/Normal/1.JPG").unlink()
    with pytest.raises(FileNotFoundError, match="1.JPG not found.*unpack"):
        own_and_visa.open_class(visa, "pcb1")
    (visa / "split_csv" / "1cls.csv").write_text("object,split,label,image\n")
    with pytest.raises(ValueError, match="column mask missing"):
        own_and_visa.open_class(visa, "pcb1")


def test_a_visa_mask_of_another_size_is_an_error(visa):
    Image.new("L", (10, 10), 1).save(visa / "pcb1/Data/Masks/Anomaly/0.png")
    with pytest.raises(ValueError, match="10x10.*40x30"):
        own_and_visa.open_class(visa, "pcb1")


def test_a_whole_data_folder_is_not_a_folder_of_good_pictures(tmp_path):
    scene.write_class(tmp_path, "nut", good=2, test_good=1, defective=1, resolution=64)
    with pytest.raises(ValueError, match="--good .*nut holds ground_truth and test.*train/good"):
        own_and_visa.own_pictures(tmp_path / "nut")
    assert len(own_and_visa.own_pictures(tmp_path / "nut/train/good").train) == 2


@pytest.mark.parametrize("name, words", [("absent", "does not exist"), ("file.png", "is a file")])
def test_the_error_names_a_path_that_is_not_a_folder(name, words, tmp_path):
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=f"--good .*{name} {words}"):
        own_and_visa.own_pictures(tmp_path / name)


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", "", "a\\b"])
def test_an_object_name_in_the_visa_file_cannot_be_a_path(visa, name):
    path = visa / own_and_visa.VISA_SPLIT_FILE
    path.write_text(path.read_text().replace("fryum", name))
    with pytest.raises(ValueError, match="object .*expected a name"):
        own_and_visa.class_names(visa)


@pytest.mark.parametrize("old, new, words", [
    (",test,", ",Test,", "line 4: split 'Test'; expected train or test"),
    (",normal,", ",1,", "line 2: label '1'; expected normal or anomaly"),
    ("pcb1/Data/Images/Normal/0.JPG", "/etc/passwd", "line 2: image '/etc/passwd'"),
    ("pcb1/Data/Images/Normal/0.JPG", "../../a.JPG", "image '../../a.JPG'; expected a path inside"),
    ("pcb1/Data/Images/Normal/0.JPG", "", "line 2: image ''"),
    ("Normal/1.JPG,", "Normal/1.JPG,,,", "line 3: expected the columns.* found more"),
    ("Normal/1.JPG,", "Normal/1.JPG", "line 3: expected the columns.* found fewer"),
    ("pcb1,train", "p\x1b[2Jcb1,train\n", "line 2: expected the columns.*found fewer"),
    ("pcb1,train", "x" * 2000 + ",train", "line 2: object 'x+…'; expected a name"),
    ("Normal/1.JPG,", '"' + "y" * 200_000, "field larger than field limit"),
    ("object,", "objekt,", "column object missing, found objekt, split"),
])
def test_a_wrong_value_in_visas_file_is_named_with_its_line(visa, old, new, words):
    path = visa / own_and_visa.VISA_SPLIT_FILE
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=words) as error:
        own_and_visa.open_class(visa, "pcb1")
    assert "1cls.csv" in str(error.value) and str(error.value).isprintable()
    assert str(error.value).endswith("use the file that comes with VisA")


def test_visas_file_is_read_only_if_it_is_a_text_of_reasonable_size(visa, monkeypatch):
    path = visa / own_and_visa.VISA_SPLIT_FILE
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"1cls.csv: no UTF-8 at byte \d+; use the file"):
        own_and_visa.class_names(visa)
    monkeypatch.setattr(own_and_visa, "MAX_CSV_BYTES", 10)
    with pytest.raises(OSError, match="1cls.csv has over 10 bytes"):
        own_and_visa.class_names(visa)


def test_masks_beside_the_test_folder_are_read(tmp_path):
    scene.write_class(tmp_path, "nut", good=2, test_good=1, defective=1, resolution=64)
    data = own_and_visa.own_pictures(tmp_path / "nut/train/good", tmp_path / "nut/test")
    assert all((s.mask_path is None) == (s.label == 0) for s in data.test)
    assert all(s.mask_path.name == f"{s.path.stem}_mask.png" for s in data.test if s.label)
    mask = next(s.mask_path for s in data.test if s.label)
    Image.new("L", (10, 10), 1).save(mask)
    with pytest.raises(ValueError, match="10x10.*64x64"):
        own_and_visa.own_pictures(tmp_path / "nut/train/good", tmp_path / "nut/test")


def test_files_that_are_no_pictures_are_said_once_per_kind_with_the_remedy(own, tiny_weights,
                                                                        tmp_path):
    folder, lines = own / "my spoon" / "good", []
    for name in ("IMG_1.HEIC", "IMG_2.heif", "notes.txt", "clip.mov", "more.mov", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    options = fit.parse(["--good", str(folder), "--steps", "1", "--model", str(tiny_weights),
                         "--out", str(tmp_path / "run")])
    metrics = run_class.run_class(options, lines.append)
    assert metrics["shots"] == "all" and len(metrics["drawn"]) == 4 and metrics["skipped"] == 0
    skipped = [line for line in lines if line.startswith("skipped")]
    assert len(skipped) == 2 and "2 HEIC: IMG_1.HEIC and 1 more; export as JPEG" in skipped[0]
    assert "3 not ending in .png" in skipped[1] and ".mov 2, .txt 1" in skipped[1]
    assert any("“object”" in line and "--class-name" in line for line in lines)


def test_a_folder_of_heic_files_only_names_the_remedy(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="holds no picture.*1 HEIC.*export as JPEG"):
        own_and_visa.own_pictures(tmp_path)


def test_pictures_that_minilora_wrote_are_no_good_pictures(own, tiny_weights):
    options = fit.parse(["--good", str(own / "my spoon"), "--test", str(own / "line 2"), "--steps",
                         "1", "--model", str(tiny_weights), "--out", str(own / "my spoon/run")])
    run_class.run_class(options, lambda line: None)
    assert len(list((own / "my spoon/run/maps").glob("*.jpg"))) == 4
    data = own_and_visa.own_pictures(own / "my spoon")
    assert len(data.train) == 4 and len([p for p in data.other if p.suffix == ".jpg"]) == 4


def test_a_fit_of_good_pictures_ends_with_their_scores_and_the_next_command(own, tiny_weights,
                                                                          tmp_path):
    lines, out = [], tmp_path / "a run"
    options = fit.parse(["--good", str(own / "my spoon"), "--steps", "1", "--model",
                         str(tiny_weights), "--out", str(out)])
    metrics = run_class.run_class(options, lines.append)
    scores = metrics["shot_scores"]
    highest = metrics["drawn"][scores.index(max(scores))]
    summary = next(line for line in lines if line.startswith("scores of the good pictures"))
    assert f"lowest {min(scores):.3f}" in summary
    assert f"highest {max(scores):.3f} ({highest})" in summary
    ng = sum(score > metrics["threshold"] for score in scores)
    threshold = next(line for line in lines if line.startswith("threshold"))
    assert f"{ng} of 4 good pictures would be NG" in threshold
    assert threshold.endswith(f"predict '{out}' PICTURES"), "quoted for the shell"
    assert (out / "report.html").is_file()
