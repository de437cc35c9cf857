"""Pictures, masks, split files and records of folders with changes, for fuzz.py.

Pictures of all modes and formats that Pillow writes, with odd palettes, transparency, EXIF notes
and several pages; PNG headers with other sizes and a right checksum.  In a folder with a changed
record or journal a command also writes: a user's files beside it must keep their bytes.
"""
import csv
import hashlib
import io
import json
import shutil
import struct
import zlib

import numpy as np
from mutations import mutated
from PIL import Image

from minilora.data.decoding import read_image
from minilora.data.images import to_patches
from minilora.data.listing import listing
from minilora.data.masks import decode_mask, find_masks, resized_marks
from minilora.data.mvtec import load_class
from minilora.data.own_and_visa import VISA_COLUMNS, VISA_SPLIT_FILE, class_names, visa_class
from minilora.io.record import RECORD_FILE, results_among
from minilora.io.text import shown_path
from minilora.io.transaction import COMMIT_RECORD, STAGING, atomic_folder, result_path

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "PA")
SAVED = ("PNG", "PNG", "TIFF", "TIFF", "BMP", "GIF", "JPEG", "WEBP", "PPM", "JPEG2000")
LEVELS = (0, 0, 0, 1, 2, 7, 100, 127, 128, 254, 255)
VISA_ROWS = [list(VISA_COLUMNS), ["nut", "train", "normal", "a.png", ""],
             ["nut", "test", "normal", "b.png", ""], ["nut", "test", "anomaly", "a.png", "m.png"],
             ["bolt", "train", "normal", "b.png", ""]]
OWN, MINE, NEW = b"{}", b"notes of the user", b'{"new": 1}'
NAMES = ("metrics.json", "report.html", "maps/*.jpg")   # what the command may write
PLACES = ("notes.txt", "report.html", "maps/2.jpg", "maps/2.png", "metrics.json.bak", "parts/a",
          f"{STAGING}fit/notes")
RECORD = {"version": 1, "results": {"fit": {
    "metrics.json": hashlib.sha256(OWN).hexdigest(), "maps/1.jpg": hashlib.sha256(OWN).hexdigest()},
    "predict": {"predictions.json": "0" * 64}}}
JOURNAL = {"version": 1, "results": {"fit": {"metrics.json": hashlib.sha256(NEW).hexdigest()}}}
SPELLINGS = ("000_mask.png", "000.png", "000.BMP", "000_mask.tif", "000/000.png", "000/001.png",
             "001.png", "000_mask.txt", "\x1b[2J_mask.png", ".000.png", "000_mask_mask.png")


# ---- pictures -----------------------------------------------------------------------------------

def odd_picture(draw):
    """A small picture of any mode with few or many values."""
    width, height = draw.choice(((8, 8), (12, 8), (8, 12), (1, 1), (1, 30), (40, 3)))
    noise = np.random.default_rng(draw.randrange(2**32))
    few = [draw.choice(LEVELS) for _ in range(draw.choice((1, 2, 2, 3, 5, 40)))]
    values = noise.choice(np.array(few), (height, width, 4)).astype(np.uint8)
    if draw.random() < 0.2:
        values = noise.integers(0, 256, values.shape).astype(np.uint8)
    mode, grey = draw.choice(MODES), Image.fromarray(values[..., 0])
    if mode in ("I;16", "I", "F"):
        scale, kind = draw.choice((1, 16, 257, 70_000)), {"I;16": np.uint16, "I": np.int32,
                                                          "F": np.float32}[mode]
        deep = values[..., 0].astype(np.float64) * scale - draw.choice((0, 0, 1))
        deep[0, 0] = draw.choice((deep[0, 0], np.nan, np.inf, -1)) if mode == "F" else deep[0, 0]
        with np.errstate(invalid="ignore"):
            return Image.fromarray(deep.astype(np.int64).astype(kind) if mode != "F"
                                   else deep.astype(kind))
    if mode in ("P", "PA"):
        image = Image.fromarray(values[..., 0], "P")
        image.putpalette([draw.choice(LEVELS) for _ in range(3 * draw.choice((1, 2, 128, 256)))])
        return image.convert("PA") if mode == "PA" else image
    if mode in ("LA", "RGBA"):
        image = Image.fromarray(values, "RGBA").convert(mode)
        image.putalpha(Image.fromarray(values[..., 3]))
        return image
    return grey.convert(mode) if mode in ("1", "L") else Image.fromarray(
        values[..., :3], "RGB").convert(mode)


def picture_bytes(image, draw):
    """(format, bytes) of a picture; in PNG where another format does not have its mode."""
    exif, out, kind = Image.Exif(), io.BytesIO(), draw.choice(SAVED)
    if draw.random() < 0.3:
        exif[0x0112] = draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65_535, "6"))
    options = {"exif": exif} if kind in ("PNG", "TIFF", "JPEG", "WEBP") and len(exif) else {}
    if kind in ("GIF", "TIFF", "WEBP", "PNG") and draw.random() < 0.15:
        options |= {"save_all": True, "append_images": [image.copy()]}
    if kind in ("PNG", "GIF") and image.mode == "P" and draw.random() < 0.5:
        options["transparency"] = draw.choice((0, 1, 255))
    if kind == "TIFF":
        options["compression"] = draw.choice((None, "tiff_lzw", "jpeg", "tiff_deflate"))
    try:
        image.save(out, kind, **options)
    except Exception:                                   # as many kinds as there are encoders
        out = io.BytesIO()
        kind, image = "PNG", image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") \
            else image.convert("RGB")
        image.save(out, kind)
    return kind, out.getvalue()


def changed_png(content, draw):
    """A PNG whose header names another size, depth or kind; its checksum is right."""
    fields = list(struct.unpack(">2I5B", content[16:29]))
    which = draw.randrange(7)
    fields[which] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255, *(
        (9_400, 60_000, 2**31 - 1, 2**32 - 1) if which < 2 else ())))
    head = b"IHDR" + struct.pack(">2I5B", *fields)
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


class DataFolder:
    """A folder of pictures, masks, a split file, and one with results beside a user's files."""

    def __init__(self, folder, damaged):
        """damaged(bytes, draw): a copy with random changes."""
        self.folder, self.damaged = folder, damaged
        self.visa, self.out = folder / "visa", folder / "out"
        (self.visa / VISA_SPLIT_FILE).parent.mkdir(parents=True)
        for name, mode in (("a.png", "RGB"), ("b.png", "L"), ("m.png", "1")):
            Image.new(mode, (12, 8)).save(self.visa / name)
        (folder / "victim").write_bytes(MINE)

    def file(self, draw):
        """The path of a new picture of any kind; some are damaged."""
        kind, content = picture_bytes(odd_picture(draw), draw)
        if kind == "PNG" and draw.random() < 0.2:
            content = changed_png(content, draw)
        elif draw.random() < 0.15:
            content = self.damaged(content, draw)
        path = self.folder / "picture"
        path.write_bytes(content)
        return path

    def attempt_picture(self, draw):
        picture = read_image(self.file(draw), draw.choice((0, 0, 8, 12)))
        to_patches(picture, 32, 16)

    def attempt_mask(self, draw):
        path = self.file(draw)
        picture = self.folder / "original.png"
        with Image.open(self.visa / "a.png") as image:
            image.resize(draw.choice(((12, 8), (8, 8), (8, 12)))).save(picture)
        marks = decode_mask(path, picture if draw.random() < 0.5 else None)
        if marks.marked.dtype != bool or marks.marked.ndim != 2:
            raise RuntimeError(f"no marks: {marks}")
        resized_marks(marks.marked, 4, 4)

    def attempt_pairs(self, draw):
        """The files of a class of MVTec AD under other names, empty, or of another size."""
        root = self.folder / "mvtec"
        shutil.rmtree(root, ignore_errors=True)
        for name in ("train/good/000.png", "test/good/000.png", "test/dent/000.png",
                     "test/dent/001.PNG"):
            self.put(root / "nut" / name, draw, 0.1)
        for name in draw.sample(SPELLINGS, draw.randint(1, 3)):
            self.put(root / "nut" / "ground_truth" / draw.choice(("dent", "dent", "Dent", "good"))
                     / name, draw, 0.2)
        if draw.random() < 0.2:
            self.put(root / "nut" / "test" / draw.choice(("Good", "\x1b[2J", ".hidden", "dent ",
                                                          "é" * 60)) / "000.png", draw, 0.1)
        data = load_class(root, "nut")
        masks = find_masks(root / "nut" / "ground_truth" / "dent", [s.path for s in data.test])
        for sample in data.test:
            if sample.mask_path and masks.get(sample.path):
                decode_mask(sample.mask_path, sample.path)

    def put(self, path, draw, odd):
        """Write a small picture; with the probability `odd` something else."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if draw.random() < odd:
            return path.write_bytes(draw.choice((b"", b"<html>", picture_bytes(
                odd_picture(draw), draw)[1])))
        shutil.copy(self.visa / draw.choice(("a.png", "m.png")), path)

    def attempt_visa_rows(self, draw):
        rows = mutated(VISA_ROWS, draw, tensors=False)
        rows = rows if type(rows) is list else [rows]
        out = io.StringIO()
        csv.writer(out).writerows(row if isinstance(row, (list, dict)) else [row] for row in rows)
        text = out.getvalue().encode("utf-8", "surrogatepass")
        (self.visa / VISA_SPLIT_FILE).write_bytes(
            self.damaged(text, draw) if draw.random() < 0.1 else text)
        names = class_names(self.visa)
        for name in names[:3]:
            visa_class(self.visa, name)

    # ---- the record of what minilora wrote

    def attempt_record(self, draw):
        """A command writes to a folder whose record, journal or files were changed."""
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / "maps").mkdir(parents=True)
        (self.out / "metrics.json").write_bytes(OWN)
        (self.out / "maps" / "1.jpg").write_bytes(OWN)
        mine = self.out / draw.choice(PLACES)
        staging = self.out / f"{STAGING}fit"
        if draw.random() < 0.5:
            staging.mkdir()
            (staging / "metrics.json").write_bytes(NEW)
            (staging / COMMIT_RECORD).write_bytes(self.json_bytes(JOURNAL, draw))
        mine.parent.mkdir(exist_ok=True)
        mine.write_bytes(MINE)
        (self.out / RECORD_FILE).write_bytes(self.json_bytes(RECORD, draw))
        if draw.random() < 0.2:
            self.link(draw)
        held = mine.read_bytes()                        # a link can lead there
        try:
            self.write()
        finally:
            if mine.read_bytes() != held or (self.folder / "victim").read_bytes() != MINE:
                raise RuntimeError(f"a user's file was changed: {shown_path(mine)}")

    def json_bytes(self, content, draw):
        """A JSON text: unchanged, with changed values, or with changed bytes."""
        if draw.random() < 0.4:
            return json.dumps(content).encode()
        text = json.dumps(mutated(content, draw, tensors=False)).encode()
        return self.damaged(text, draw) if draw.random() < 0.1 else text

    def link(self, draw):
        """Put a link to a user's file in the place of a file of minilora."""
        path = self.out / draw.choice(("metrics.json", "maps/1.jpg", RECORD_FILE, ".minilora.lock",
                                       "report.html", f"{STAGING}fit/{COMMIT_RECORD}"))
        if path.parent.is_dir() and not (path.exists() and path.read_bytes() == MINE):
            path.unlink(missing_ok=True)
            path.symlink_to(self.folder / "victim")

    def write(self):
        """Read the folder as `predict` does, then write to it as `fit` does."""
        results_among(listing(self.out, ("",)).pictures)
        for name in ("metrics.json", "maps/1.jpg"):
            result_path(self.out, name)
        with atomic_folder(self.out, "fit", NAMES) as staging:
            (staging / "metrics.json").write_bytes(NEW)
        if result_path(self.out, "metrics.json").read_bytes() != NEW:
            raise RuntimeError("the result is not what was written")
