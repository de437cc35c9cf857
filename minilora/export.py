"""Hands over to detectors and segmenters: boxes, polygons and masks of what a run finds suspicious.

    python -m minilora.export RUN PATHS --format coco     annotations.json, polygons or run lengths
    python -m minilora.export RUN PATHS --format voc      Pascal VOC: Annotations/*.xml
    python -m minilora.export RUN PATHS --format masks    masks/*.png, 255 where it is suspicious

With the pictures beside them, as they were judged (upright, RGB): what is written can be trained on
as it is.  Everingham et al. 2010 (Pascal VOC); Lin et al. 2014 (COCO).
Leaves out: kinds of defects (there is one category, "defect"), scores of single regions.
"""
import json
from pathlib import Path
from xml.etree import ElementTree

import torch.nn.functional as F
from PIL import Image

from minilora import __version__
from minilora.io.cli import command, option_parser
from minilora.io.files import whole_file, write_json
from minilora.io.prefetch import prefetch
from minilora.io.transaction import whole_folder
from minilora.predict import open_judge, pictures_in, read_or_error
from minilora.report import contours

CATEGORY = "defect"
MIN_REGION = 16                      # pixels of the picture; smaller regions are left out
EXPORT_FILES = ("annotations.json", "Annotations", "ImageSets", "masks", "pictures")


def suspicious(detector, picture, least=MIN_REGION):
    """(mask bool (H, W), its regions) in the pixels of a PIL picture; empty if it is judged OK."""
    maps, score = detector.score(detector.prepare(picture)[None])
    height, width = picture.size[::-1]
    whole = F.interpolate(maps[None], (height, width), mode="bilinear")[0, 0]
    mask = (whole > detector.pixel_threshold(maps, score).item()) & (score > detector.threshold)
    found = contours.regions(mask, least)
    return sum((region.mask for region in found), start=mask & False), found


# ---- COCO ---------------------------------------------------------------------------------------

def segmentation(region, as_runs):
    """Polygons, or run lengths if they are asked for or the region has a hole."""
    outer, holes = contours.outlines(region.mask)
    if as_runs or holes:
        return contours.to_runs(region.mask)
    return [[float(v) for corner in corners for v in corner] for corners in outer]


def coco(entries, as_runs):
    """The content of annotations.json.  entries: [(file name, (width, height), regions)]."""
    images, annotations = [], []
    for number, (name, (width, height), found) in enumerate(entries, 1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for region in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1,
                                "bbox": list(region.box), "area": region.area, "iscrowd": 0,
                                "segmentation": segmentation(region, as_runs)})
    return {"info": {"description": f"found by minilora {__version__}"}, "images": images,
            "categories": [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}],
            "annotations": annotations}


# ---- Pascal VOC ---------------------------------------------------------------------------------

def voc(name, size, found):
    """One picture's XML, an Element.  Pixels count from 1, and the last one belongs to a box."""
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
        thing = add(root, "object")
        for tag, value in (("name", CATEGORY), ("pose", "Unspecified"), ("truncated", 0),
                           ("difficult", 0)):
            add(thing, tag, value)
        box = add(thing, "bndbox")
        for tag, value in (("xmin", left + 1), ("ymin", top + 1), ("xmax", left + width),
                           ("ymax", top + height)):
            add(box, tag, value)
    ElementTree.indent(root)
    return root


def save_picture(picture, path):
    with whole_file(path) as file:
        picture.save(file, "PNG")


def write_one(folder, form, name, picture, mask, found):
    """What belongs to a single picture, all but COCO's common file."""
    if form == "masks":
        save_picture(Image.fromarray(mask.numpy().astype("uint8") * 255), folder / "masks" / name)
    if form == "voc":
        with whole_file(folder / "Annotations" / f"{Path(name).stem}.xml", "w") as file:
            file.write(ElementTree.tostring(voc(name, picture.size, found), encoding="unicode"))


def run_export(options, say):
    """Judges every picture and writes the folder.  Returns the exit status."""
    detector = open_judge(options.run, options.model, options.device)
    paths, entries, failed = list(pictures_in(options.paths)), [], 0
    with whole_folder(options.out, "export", earlier=EXPORT_FILES) as staging:
        for number, (path, picture) in enumerate(zip(paths, prefetch(read_or_error, paths))):
            if isinstance(picture, Exception):
                say(f"--  not judged: {picture}")
                failed += 1
                continue
            mask, found = suspicious(detector, picture, options.least)
            name = f"{number:04d}-{path.stem.encode()[:200].decode(errors='ignore')}.png"
            write_one(staging, options.format, name, picture, mask, found)
            if options.pictures:
                save_picture(picture, staging / "pictures" / name)
            entries.append((name, picture.size, found))
            say(f"{name}: {len(found)} regions" + "".join(f"  {r.box}" for r in found[:3]))
        if not entries:
            raise ValueError(f"no picture could be read in {', '.join(options.paths)}; "
                             f"{options.out} stays as it was")
        if options.format == "coco":
            write_json(staging / "annotations.json", coco(entries, options.runs))
        if options.format == "voc":
            with whole_file(staging / "ImageSets" / "Main" / "default.txt", "w") as file:
                file.write("".join(f"{Path(name).stem}\n" for name, _, _ in entries))
    say(f"written  {options.out}: {len(entries)} pictures, "
        f"{sum(len(found) for _, _, found in entries)} regions, {failed} not judged")
    return 2 if failed else 0


def parser():
    p = option_parser("minilora.export", __doc__, "exit status: 0 done, 2 a picture could not be "
                                                  "read, or another error")
    p.add_argument("run", help="a run folder of minilora.fit, or its adapter.pt")
    p.add_argument("paths", nargs="+", help="pictures, or folders of them")
    p.add_argument("--format", default="coco", choices=("coco", "voc", "masks"))
    p.add_argument("--runs", action="store_true",
                   help="coco: run lengths for all regions, not only for those with holes")
    p.add_argument("--least", type=int, default=MIN_REGION, help="pixels of the smallest region")
    p.add_argument("--no-pictures", dest="pictures", action="store_false",
                   help="annotations alone")
    p.add_argument("--model", help="the base weights, if they lie elsewhere now")
    p.add_argument("--device", default="cpu", help="cpu, cuda, …")
    p.add_argument("--out", default="export", help="folder for the results")
    return p


def demo():
    """A mask with a hole, as COCO and as VOC."""
    import torch
    mask = torch.zeros(12, 16, dtype=torch.bool)
    mask[2:9, 3:12] = True
    mask[4:6, 5:8] = False
    found = contours.regions(mask)
    one = coco([("plate.png", (16, 12), found)], False)["annotations"][0]
    print(json.dumps({k: one[k] for k in ("bbox", "area")}), "run lengths, since it has a hole:",
          len(one["segmentation"]["counts"]))
    solid = contours.Region(torch.ones_like(mask), (0, 0, 16, 12), 192)
    print("without a hole:", segmentation(solid, False))
    text = ElementTree.tostring(voc("plate.png", (16, 12), found), encoding="unicode")
    print("\n".join(text.splitlines()[-8:-1]))


def main():
    return run_export(parser().parse_args(), lambda line: print(line, flush=True))


if __name__ == "__main__":
    command("minilora.export", main, failed=2)
