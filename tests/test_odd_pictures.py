"""Picture files of many kinds: each is scored, or named together with the cause."""
import json
import os
import subprocess
import sys
import struct
import zlib

import numpy as np
import pytest
from conftest import REPO
from PIL import Image, features

from minilora import explain, export, fit, predict
from minilora.data.decoding import read_image
from minilora.data.images import to_square
from minilora.detector import Detector
from minilora.runs.run_class import run_class

# Pillow warns of a damaged EXIF record and reads the picture
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")


def gradient(size=(48, 32), mode="RGB"):
    return Image.radial_gradient("L").resize(size).convert(mode)


def png_claiming(width, height):
    """A PNG of a few bytes whose header promises any size."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I",
                                                                        zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header),
                     chunk(b"IDAT", zlib.compress(b"\0" * 9)), chunk(b"IEND", b"")))


def save(image, **options):
    return lambda path: image.save(path, **options)


def damaged_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient().save(path, exif=exif)
    content = path.read_bytes()
    at = content.index(b"Exif\0\0") + 10
    path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8:])


def animated(path):
    gradient().save(path, save_all=True, append_images=[gradient((48, 32)).rotate(90)] * 2)


READ = {
    "one-pixel.png": save(Image.new("RGB", (1, 1), "red")),
    "very-wide.png": save(gradient((20_000, 20))),
    "very-tall.png": save(gradient((20, 20_000))),
    "cmyk.jpg": save(gradient(mode="CMYK")),
    "16-bit.png": save(Image.new("I;16", (40, 30), 30_000)),
    "palette.png": save(gradient(mode="P")),
    "transparent.png": save(gradient(mode="RGBA")),
    "black-and-white.png": save(gradient(mode="1")),
    "animated.webp": animated,
    "corrupt-exif.jpg": damaged_exif,
    "jpeg-named.png": save(gradient(), format="JPEG"),
    "größer als 中文 — пробел.png": save(gradient()),
    " leading space.png": save(gradient()),
    "UPPER.PNG": save(gradient(), format="PNG"),
}
NOT_READ = {
    "empty.png": lambda path: path.write_bytes(b""),
    "html.jpg": lambda path: path.write_bytes(b"<html>"),
    "truncated.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
    "cut-off.jpg": lambda path: (gradient((400, 300)).save(path),
                                 path.write_bytes(path.read_bytes()[:1500])),
    "bomb.png": lambda path: path.write_bytes(png_claiming(50_000, 50_000)),
    "too-little.png": lambda path: path.write_bytes(png_claiming(500, 500)),
    "float.tiff": save(Image.new("F", (8, 8), 0.5)),
    "link to nowhere.png": lambda path: path.symlink_to(path.with_name("nowhere")),
}


@pytest.mark.parametrize("name", READ)
def test_pictures_of_every_kind_are_read(name, tmp_path):
    assert features.check("webp"), "Pillow's wheels bring it"
    READ[name](tmp_path / name)
    square = to_square(read_image(tmp_path / name), 64)
    assert square.shape == (3, 64, 64) and 0 <= square.min() and square.max() <= 1


@pytest.mark.parametrize("name", NOT_READ)
def test_a_file_that_is_not_a_picture_is_named_with_the_cause(name, tmp_path):
    NOT_READ[name](tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s).*{name}.*;") as error:
        read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_picture_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
    gradient().save(tmp_path / "a.png")

    def refuse(file, formats=None):
        raise PermissionError(13, "Permission denied", file.name)
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match="cannot read picture .*a.png: PermissionError"):
        read_image(tmp_path / "a.png")


def test_every_file_of_a_mixed_folder_gets_an_answer(gear_run, tmp_path):
    run, _ = gear_run
    folder = tmp_path / "all of them"
    folder.mkdir()
    for name, write in (READ | NOT_READ).items():
        write(folder / name)
    options = predict.parser().parse_args([str(run), *sorted(str(p) for p in folder.iterdir()),
                                           "--json", "--out", str(tmp_path / "out")])
    lines = []
    assert predict.run_predict(options, lines.append) == 2, "some files are not pictures"
    said = {os.path.basename(one["file"]): one for one in map(json.loads, lines)}
    assert said.keys() == READ.keys() | NOT_READ.keys()
    assert all(said[name]["decision"] in ("OK", "NG") for name in READ)
    assert all(name in said[name]["error"] for name in NOT_READ)


def camera_picture(path, bits):
    """16-bit grey that holds values of fewer bits, from a camera of 12 bits if bits = 12."""
    path.parent.mkdir(parents=True, exist_ok=True)
    share = np.asarray(gradient((64, 64), "L")) / 255
    Image.fromarray(np.rint(share * (2 ** bits - 1)).astype(np.uint16)).save(path)
    return path


@pytest.fixture(scope="module")
def camera_run(tiny_weights, tmp_path_factory):
    """A run on pictures of 12 bits, with --bits 12."""
    root = tmp_path_factory.mktemp("camera")
    for k in range(3):
        camera_picture(root / "good" / f"{k}.png", 12)
    options = fit.parse(["--good", str(root / "good"), "--shots", "all", "--steps", "0", "--bits",
                         "12", "--model", str(tiny_weights), "--out", str(root / "run")])
    run_class(options, lambda line: None)
    return root / "run"


def test_the_bits_of_a_fit_are_stored_and_used_wherever_its_detector_reads(camera_run, tmp_path):
    """A picture of 12 bits scores like the same picture with 16 bits in a detector without bits."""
    detector = Detector.open(camera_run)
    assert detector.config.bits == 12
    twelve = detector.read(camera_picture(tmp_path / "12.png", 12))
    sixteen = read_image(camera_picture(tmp_path / "16.png", 16))
    assert np.array_equal(np.asarray(twelve), np.asarray(sixteen))
    with pytest.raises(ValueError, match="16.png holds values up to 64,764; expected at most 4,095"):
        detector.read(tmp_path / "16.png")


@pytest.mark.parametrize("command", [predict, export, explain])
def test_other_bits_than_those_of_the_fit_are_refused(command, camera_run, tmp_path):
    picture = camera_picture(tmp_path / "a.png", 12)
    done = subprocess.run([sys.executable, "-m", command.__name__, str(camera_run), str(picture),
                           "--bits", "10", "--out", str(tmp_path / "out")], cwd=REPO,
                          capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "--bits 10: the run was fitted with --bits 12; leave the option out" in done.stderr


def test_dark_pictures_are_noted_at_the_end_of_the_command(gear_run, tmp_path):
    run, _ = gear_run
    for k in range(3):
        camera_picture(tmp_path / "new" / f"{k}.png", 12)
    done = subprocess.run([sys.executable, "-m", "minilora.predict", str(run),
                           str(tmp_path / "new"), "--out", str(tmp_path / "out")], cwd=REPO,
                          capture_output=True, text=True)
    notes = [line for line in done.stderr.splitlines() if "--bits 12" in line]
    assert len(notes) == 1 and "0.png and 2 more files: 16-bit values use only 12" in notes[0]


def test_a_line_of_60000_pixels_is_named_by_predict(gear_run, tmp_path):
    run, _ = gear_run
    Image.new("RGB", (1, 600_000)).save(tmp_path / "line.png")
    options = predict.parser().parse_args([str(run), str(tmp_path / "line.png"), "--json", "--out",
                                           str(tmp_path / "out")])
    lines = []
    assert predict.run_predict(options, lines.append) == 2
    assert "line.png of 1x600000 would become" in json.loads(lines[0])["error"]
