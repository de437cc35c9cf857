"""Export suspicious regions as annotations, to train object detection or segmentation on them.

    python -m minilora.export RUN PATHS --format coco     annotations.json: polygons, run lengths
    python -m minilora.export RUN PATHS --format voc      Annotations/*.xml (Pascal VOC)
    python -m minilora.export RUN PATHS --format masks    masks/*.png: 255 in suspicious regions

The pictures are copied into the folder as they were scored (upright, RGB), so that annotations and
pixels agree.

    Everingham et al. 2010, "The Pascal visual object classes (VOC) challenge"
    Lin et al. 2014, "Microsoft COCO: common objects in context"

Left out: kinds of defects (there is one category, "defect"); scores of single regions.
"""
import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora import __version__
from minilora.detector import Detector
from minilora.io.cli import option_parser, run_command
from minilora.io.files import atomic_write, write_json
from minilora.io.prefetch import prefetch
from minilora.io.transaction import atomic_folder
from minilora.predict import open_with_threshold, pictures_in, read_or_error
from minilora.report import contours
from minilora.report.contours import Region

CATEGORY = "defect"
MIN_REGION = 16                      # pixels of the picture; smaller regions are left out
EXPORT_FILES = ("annotations.json", "Annotations", "ImageSets", "masks", "pictures")


def suspicious_regions(detector: Detector, picture: Image.Image,
                       min_area: int = MIN_REGION) -> tuple[Tensor, list[Region]]:
    """(mask bool (H, W), its regions) in pixels of the picture; empty if the picture is OK."""
    maps, score = detector.score(detector.prepare(picture)[None])
    height, width = picture.size[::-1]
    resized = F.interpolate(maps[None], (height, width), mode="bilinear")[0, 0]
    is_ng = score > detector.threshold
    mask = (resized > detector.pixel_threshold(maps, score).item()) & is_ng
    found = contours.regions(mask, min_area)
    # The sum of bool masks is their union; `mask & False` is an empty mask.
    return sum((region.mask for region in found), start=mask & False), found


# ---- COCO ---------------------------------------------------------------------------------------

def segmentation(region: Region, as_rle: bool) -> list[list[float]] | dict[str, Any]:
    """Polygons; or run lengths, if as_rle or if the region has a hole."""
    outer, holes = contours.outlines(region.mask)
    if as_rle or holes:
        return contours.encode_rle(region.mask)
    return [[float(v) for corner in corners for v in corner] for corners in outer]


def coco(entries: list[tuple[str, tuple[int, int], list[Region]]], as_rle: bool) -> dict[str, Any]:
    """The content of annotations.json.  entries: (file name, (width, height), regions)."""
    images, annotations = [], []
    for number, (name, (width, height), found) in enumerate(entries, 1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for region in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1,
                                "bbox": list(region.box), "area": region.area, "iscrowd": 0,
                                "segmentation": segmentation(region, as_rle)})
    return {"info": {"description": f"found by minilora {__version__}"}, "images": images,
            "categories": [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}],
            "annotations": annotations}


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
    """Writes the annotation file of one picture in this form; COCO has one file for all instead."""
    if form == "masks":
        save_picture(Image.fromarray(mask.numpy().astype("uint8") * 255), folder / "masks" / name)
    if form == "voc":
        with atomic_write(folder / "Annotations" / f"{Path(name).stem}.xml", "w") as file:
            file.write(ElementTree.tostring(voc(name, picture.size, found), encoding="unicode"))


def write_common_files(folder: Path, entries: list, options: argparse.Namespace) -> None:
    """COCO's annotations.json, or VOC's list of the pictures."""
    if options.format == "coco":
        write_json(folder / "annotations.json", coco(entries, options.runs))
    if options.format == "voc":
        with atomic_write(folder / "ImageSets" / "Main" / "default.txt", "w") as file:
            file.write("".join(f"{Path(name).stem}\n" for name, _, _ in entries))


def run_export(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Scores all pictures and writes the folder.  Returns the exit status."""
    detector = open_with_threshold(options.run, options.model, options.device)
    paths, entries, failed = list(pictures_in(options.paths)), [], 0
    with atomic_folder(options.out, "export", earlier=EXPORT_FILES) as staging:
        for number, (path, picture) in enumerate(zip(paths, prefetch(read_or_error, paths))):
            if isinstance(picture, Exception):
                say(f"--  not scored: {picture}")
                failed += 1
                continue
            mask, found = suspicious_regions(detector, picture, options.least)
            name = f"{number:04d}-{path.stem.encode()[:200].decode(errors='ignore')}.png"
            write_annotation(staging, options.format, name, picture, mask, found)
            if options.pictures:
                save_picture(picture, staging / "pictures" / name)
            entries.append((name, picture.size, found))
            say(f"{name}: {len(found)} regions" + "".join(f"  {r.box}" for r in found[:3]))
        if not entries:
            raise ValueError(f"no picture could be read in {', '.join(options.paths)}; "
                             f"{options.out} is unchanged")
        write_common_files(staging, entries, options)
    say(f"written  {options.out}: {len(entries)} pictures, "
        f"{sum(len(found) for _, _, found in entries)} regions, {failed} not scored")
    return 2 if failed else 0


def parser() -> argparse.ArgumentParser:
    p = option_parser("minilora.export", __doc__, "exit status: 0 done, 2 a picture could not be "
                                                  "read, or another error")
    p.add_argument("run", help="a run folder of minilora.fit, or its adapter.pt")
    p.add_argument("paths", nargs="+", help="pictures, or folders with pictures")
    p.add_argument("--format", default="coco", choices=("coco", "voc", "masks"),
                   help="of the annotations")
    p.add_argument("--rle", "--runs", dest="runs", action="store_true",
                   help="coco: run lengths for all regions, not only for regions with holes")
    p.add_argument("--min-area", "--least", dest="least", type=int, default=MIN_REGION,
                   help="smallest region, in pixels")
    p.add_argument("--no-pictures", dest="pictures", action="store_false",
                   help="do not copy the pictures")
    p.add_argument("--model", help="base weights, if they are no longer where fit found them")
    p.add_argument("--device", default="cpu", help="cpu, cuda, …")
    p.add_argument("--out", default="export", help="folder for the results")
    return p


def demo() -> None:
    """A region with a hole, as COCO and as VOC."""
    import torch
    mask = torch.zeros(12, 16, dtype=torch.bool)
    mask[2:9, 3:12] = True
    mask[4:6, 5:8] = False
    found = contours.regions(mask)
    one = coco([("plate.png", (16, 12), found)], False)["annotations"][0]
    print(json.dumps({k: one[k] for k in ("bbox", "area")}), "run lengths, because of the hole:",
          len(one["segmentation"]["counts"]))
    solid = Region(torch.ones_like(mask), (0, 0, 16, 12), 192)
    print("without a hole:", segmentation(solid, False))
    text = ElementTree.tostring(voc("plate.png", (16, 12), found), encoding="unicode")
    print("\n".join(text.splitlines()[-8:-1]))


def main() -> int:
    return run_export(parser().parse_args(), lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_command("minilora.export", main, error_status=2)
