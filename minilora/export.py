"""Export suspicious regions as annotations for other networks, or the detector as an ONNX file.

    python -m minilora.export RUN PATHS --format coco     annotations.json: polygons, run lengths
    python -m minilora.export RUN PATHS --format voc      Annotations/*.xml (Pascal VOC)
    python -m minilora.export RUN PATHS --format masks    masks/*.png: 255 in suspicious regions
    python -m minilora.export RUN --format onnx           model.onnx: pixels to map, score, decision

The pictures are copied into the folder as they were scored (upright, RGB), so that annotations and
pixels agree.

    Everingham et al. 2010, "The Pascal visual object classes (VOC) challenge"
    Lin et al. 2014, "Microsoft COCO: common objects in context"

Left out: kinds of defects (there is one category, "defect"); scores of single regions.
"""
import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora import __version__
from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.given_paths import find_pictures, tell_left_out
from minilora.detector import Detector
from minilora.io.cli import device_name, non_negative_int, option_parser, run_command
from minilora.io.derived_name import derived_stem
from minilora.io.files import atomic_write
from minilora.io.parser import OneLineParser
from minilora.io.progress import print_line, stage
from minilora.io.text import shown
from minilora.io.transaction import atomic_folder
from minilora.onnx_export import width_x_height, write_onnx
from minilora.prediction.inputs import check_bits, open_with_threshold, read_ahead
from minilora.prediction.picture import MAX_ERROR
from minilora.report import contours
from minilora.report.contours import Region

CATEGORY = "defect"
MIN_REGION = 16                      # pixels of the picture; smaller regions are left out
MAX_EDGES = 100_000                  # pixel edges of a region; with more it gets run lengths
EXPORT_FILES = ("annotations.json", "Annotations/*.xml", "ImageSets/Main/default.txt",
                "masks/*.png", "pictures/*.png")


def suspicious_regions(detector: Detector, picture: Image.Image,
                       min_area: int = MIN_REGION) -> tuple[Tensor, list[Region]]:
    """(mask bool (H, W), its regions) in pixels of the picture; empty if the picture is OK."""
    maps, score = detector.score(detector.prepare(picture)[None])
    height, width = picture.size[::-1]
    resized = F.interpolate(maps[None], (height, width), mode="bilinear")[0, 0]
    is_ng = score > detector.threshold
    mask = (resized > detector.pixel_threshold(maps, score).item()) & is_ng
    found = contours.regions(mask, min_area)
    kept = torch.zeros_like(mask)
    for region in found:
        left, top, columns, rows = region.box
        kept[top:top + rows, left:left + columns] |= region.mask
    return kept, found


# ---- COCO ---------------------------------------------------------------------------------------

def segmentation(region: Region, size: tuple[int, int],
                 as_rle: bool) -> list[list[float]] | dict[str, Any]:
    """Polygons; or run lengths, if as_rle, if the region has a hole, or if its outline is long.

    size: (width, height) of the picture.
    """
    mask, (left, top, _, _) = region.mask, region.box
    if not as_rle and contours.count_edges(mask) <= MAX_EDGES:
        outer, holes = contours.outlines(mask)
        if not holes:
            return [[float(v) for x, y in corners for v in (left + x, top + y)]
                    for corners in outer]
    return contours.encode_rle(mask, left, top, size[::-1])


class CocoWriter:
    """Collects the content of annotations.json.

    It waits in two temporary files, one for the pictures and one for the regions, so memory does
    not grow with the number of pictures.
    """

    def __init__(self, as_rle: bool) -> None:
        self.as_rle, self.n_images, self.n_annotations = as_rle, 0, 0
        self.images, self.annotations = (tempfile.TemporaryFile("w+", encoding="utf-8")
                                         for _ in range(2))

    def add(self, name: str, size: tuple[int, int], found: list[Region]) -> None:
        """One picture.  size: (width, height)."""
        self.n_images += 1
        image = {"id": self.n_images, "file_name": name, "width": size[0], "height": size[1]}
        self.images.write(f"{',' * (self.n_images > 1)}\n{json.dumps(image)}")
        for region in found:
            self.n_annotations += 1
            annotation = {"id": self.n_annotations, "image_id": self.n_images, "category_id": 1,
                          "bbox": list(region.box), "area": region.area, "iscrowd": 0,
                          "segmentation": segmentation(region, size, self.as_rle)}
            self.annotations.write(f"{',' * (self.n_annotations > 1)}\n{json.dumps(annotation)}")

    def write(self, path: Path) -> None:
        """Writes annotations.json; afterwards nothing can be added."""
        head = json.dumps({"info": {"description": f"found by minilora {__version__}"},
                           "categories": [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}]})
        with atomic_write(path, "w") as file:
            file.write(head[:-1])
            for key, part in (("images", self.images), ("annotations", self.annotations)):
                file.write(f', "{key}": [')
                part.seek(0)
                shutil.copyfileobj(part, file)
                part.close()
                file.write("]")
            file.write("}\n")


# ---- Pascal VOC ---------------------------------------------------------------------------------

def voc(name: str, size: tuple[int, int], found: list[Region]) -> ElementTree.Element:
    """The XML of one picture.  VOC counts pixels from 1, and a box includes its last pixel."""
    def add(parent, tag, text=None):
        child = ElementTree.SubElement(parent, tag)
        child.text = None if text is None else str(text)
        return child
    root = ElementTree.Element("annotation")
    add(root, "folder", "pictures")
    add(root, "filename", name)
    add(add(root, "source"), "database", "minilora")
    shape = add(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*size, 3)):
        add(shape, tag, value)
    add(root, "segmented", 0)
    for region in found:
        left, top, width, height = region.box
        entry = add(root, "object")
        for tag, value in (("name", CATEGORY), ("pose", "Unspecified"), ("truncated", 0),
                           ("difficult", 0)):
            add(entry, tag, value)
        box = add(entry, "bndbox")
        for tag, value in (("xmin", left + 1), ("ymin", top + 1), ("xmax", left + width),
                           ("ymax", top + height)):
            add(box, tag, value)
    ElementTree.indent(root)
    return root


# ---- the folder ---------------------------------------------------------------------------------

def save_picture(picture: Image.Image, path: Path) -> None:
    with atomic_write(path) as file:
        picture.save(file, "PNG")


def write_annotation(folder: Path, form: str, name: str, picture: Image.Image, mask: Tensor,
                     found: list[Region]) -> None:
    """Writes the files of one picture in the form "masks" or "voc"; COCO has one file for all."""
    if form == "masks":
        save_picture(Image.fromarray(mask.numpy().astype("uint8") * 255), folder / "masks" / name)
    if form == "voc":
        with atomic_write(folder / "Annotations" / f"{Path(name).stem}.xml", "w") as file:
            file.write(ElementTree.tostring(voc(name, picture.size, found), encoding="unicode"))


def run_export(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Scores all pictures and writes the folder, or writes the ONNX file.  Returns the status."""
    options.out = options.out or ("model.onnx" if options.format == "onnx" else "export")
    if (options.format == "onnx") == bool(options.paths):
        raise ValueError(f"--format {options.format} with {len(options.paths)} pictures or folders "
                         "after the run; onnx takes none, the other formats need some")
    if options.format == "onnx":
        return write_onnx(options, say)
    detector = open_with_threshold(options.run, options.model, options.device)
    check_bits(detector, options.bits)
    found, coco, stems, n_regions = find_pictures(options.paths), CocoWriter(options.rle), [], 0
    paths, failed = found.pictures, len(found.skipped)
    for path, reason in found.skipped:
        say(f"--  not scored: {shown(path, MAX_ERROR)}: {reason}")
    with (atomic_folder(options.out, "export", EXPORT_FILES, paths) as staging,
          read_ahead(detector, paths) as pictures):
        for k, (path, picture) in enumerate(stage("scoring", zip(paths, pictures), len(paths))):
            if isinstance(picture, Exception):
                say(f"--  not scored: {shown(picture, MAX_ERROR)}")
                failed += 1
                continue
            mask, regions = suspicious_regions(detector, picture, options.min_area)
            stems.append(f"{k:04d}-{derived_stem(path.stem)}")
            name, n_regions = f"{stems[-1]}.png", n_regions + len(regions)
            write_annotation(staging, options.format, name, picture, mask, regions)
            if options.pictures:
                save_picture(picture, staging / "pictures" / name)
            if options.format == "coco":
                coco.add(name, picture.size, regions)
            say(f"{name}: {len(regions)} regions" + "".join(f"  {r.box}" for r in regions[:3]))
        if not stems:
            raise ValueError(f"no picture could be read in {shown(', '.join(options.paths))}; "
                             f"{shown(options.out)} is unchanged")
        if options.format == "coco":
            coco.write(staging / "annotations.json")
        if options.format == "voc":
            with atomic_write(staging / "ImageSets" / "Main" / "default.txt", "w") as file:
                file.write("".join(f"{stem}\n" for stem in stems))
    tell_left_out(found)
    say(f"written  {shown(options.out)}: {len(stems)} pictures, {n_regions} regions, {failed} not "
        "scored")
    return 2 if failed else 0


def parser() -> OneLineParser:
    p = option_parser("minilora.export", __doc__, "runs/mine PICTURES --format coco",
                      "exit status: 0 done, 2 a picture could not be read, or another error")
    add, rare = p.add_argument, p.rare.add_argument
    add("run", help="a run folder of minilora fit")
    add("paths", nargs="*", help="pictures, or folders with pictures; none for onnx")
    add("--format", metavar="NAME", default="coco", choices=("coco", "voc", "masks", "onnx"),
        help="annotations: coco, voc, masks; or onnx")
    add("--out", metavar="PATH", help="folder (default: export), or ONNX file (model.onnx)")
    add("--device", metavar="NAME", default="auto", type=device_name, help="auto, cuda, mps, cpu")
    rare("--rle", "--runs", dest="rle", action="store_true", help="coco: run lengths everywhere")
    rare("--min-area", "--least", dest="min_area", metavar="N", type=non_negative_int,
         default=MIN_REGION, help="smallest region, in pixels")
    rare("--no-pictures", dest="pictures", action="store_false", help="do not copy the pictures")
    rare("--size", metavar="WxH", type=width_x_height, help="onnx: size of the pictures")
    rare("--batch", metavar="N", type=non_negative_int, default=0,
         help="onnx: pictures per call; 0: any")
    rare("--model", metavar="WEIGHTS", help="base weights, if the file of the fit has moved")
    bits_option(rare, default=None)
    megapixel_option(rare)
    return p


def demo() -> None:
    """A region with a hole, as COCO and as VOC."""
    mask = torch.zeros(12, 16, dtype=torch.bool)
    mask[2:9, 3:12] = True
    mask[4:6, 5:8] = False
    found = contours.regions(mask)
    print(f"box {found[0].box}, area {found[0].area}, run lengths, because of the hole:",
          len(segmentation(found[0], (16, 12), False)["counts"]))
    solid = contours.regions(torch.ones_like(mask))[0]
    print("without a hole:", segmentation(solid, (16, 12), False))
    text = ElementTree.tostring(voc("plate.png", (16, 12), found), encoding="unicode")
    print("\n".join(text.splitlines()[-8:-1]))


def main() -> int:
    return run_export(parser().parse_args(), print_line)


if __name__ == "__main__":
    run_command("minilora.export", main)
