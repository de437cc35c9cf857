"""Run folders, resume points, records and indexes with random changes, for fuzz.py.

A valid run of a tiny model is made once.  Then one of its files is changed: its values, and it is
written again as a valid file with the right digests; or its bytes.  A reader must take the file, or
refuse it by a documented exception.  A run that is taken also has to score a picture, to show the
nearest good patch, and to give its good pictures back.
"""
import copy
import functools
import hashlib
import io
import json
import shutil
from pathlib import Path

import hostile
import torch
from mutations import mutated, odd_tensor
from PIL import Image

from minilora import reproduce
from minilora.checkpoint.base_model import BaseModel
from minilora.checkpoint.detector_files import (ADAPTER_CONFIG, ADAPTER_MODEL, DETECTOR_FILE,
                                                MEMORY_FILE, make_detector, read_run)
from minilora.checkpoint.peft_layout import read_peft
from minilora.compare.page import comparison_page
from minilora.compare.run import equal_facts
from minilora.compare.run_results import check_comparable, differing_facts, read_result_of
from minilora.compare.seed_statistics import compared
from minilora.compare.tables import csv_text, latex_text, markdown_text
from minilora.data.images import from_png, to_pil
from minilora.detector import Detector
from minilora.io.files import FORMAT, load_tensors
from minilora.io.resume import ResumePoint
from minilora.io.safetensors import read_safetensors, safetensors_chunks
from minilora.io.tensor_json import TensorFileError, to_json
from minilora.io.transaction import COMMIT_RECORD, STAGING, result_path
from minilora.lora import TARGETS, replace_modules
from minilora.mae.checkpoint import load_mae, save_mae
from minilora.mae.model import MAEConfig, MaskedAutoencoder
from minilora.prediction.picture import predict_picture
from minilora.prediction.thresholds import override_threshold, threshold_choices
from minilora.runs.fingerprints import finished_metrics
from minilora.runs.summary import summary_csv, summary_text
from minilora.search.index import Index, contains_text, similarity_to
from minilora.search.index_file import INDEX_FILE, Entry

LORA_FILES = (ADAPTER_MODEL, ADAPTER_CONFIG)
RUN_PARTS = (DETECTOR_FILE, MEMORY_FILE, *LORA_FILES)
METRICS = {"fingerprint": "a", "class": "plate", "threshold": 1.5, "seconds": 3.0, "losses": [1.0],
           "rows": {"adapted": {"image_auroc": 0.5, "pixel_auroc": None}}, "kinds": {"dent": 0.7},
           "data": {"name": "mvtec", "root": "/data"}, "model": {"name": "tiny", "sha256": "0"},
           "decisions": {"good": 3, "false_alarms": 0, "defective": 2, "found": 1, "unlabelled": 0,
                         "called": 0}}
VERSIONS = dict.fromkeys(("minilora", "python", "torch", "numpy", "pillow"), "1")
RESULTS = METRICS | {
    "shots": 2, "drawn": ["a.png"], "resolution": 64, "skipped": 0, "shot_scores": [0.5, 1.0],
    "seed": 1,
    "made": {"command": "minilora fit", "commit": None, "device": "cpu", "threads": 1,
             "date": "2026-01-31", "platform": "", "processor": "", "seed": 1, **VERSIONS,
             "arguments": ["--class", "plate", "--shots", "2", "--steps", "0"],
             "shots": [{"file": "a.png", "sha256": "0" * 64}]}}
SCORES = b"file,label,score\na/b.png,good,0.5\na/c.png,dent,1.5\n"
JOURNAL = {"version": 1, "results": {"fit": {
    "metrics.json": hashlib.sha256(b"{}").hexdigest(), "maps/1.jpg": "0" * 64}}}


def tensor_file_bytes(content):
    """What `save_tensors` would write, without its checks; raises if the format cannot hold it."""
    tensors = {}
    structure = json.dumps(to_json(content, "", tensors, 0))
    return b"".join(safetensors_chunks(tensors, {"format": FORMAT, "content": structure}))


def odd_shot(draw):
    """The bytes of a picture of any size and mode."""
    return blank(draw.choice(("RGB", "L", "I;16", "1", "P", "RGBA", "LA")),
                 draw.choice((1, 15, 64, 64, 80, 640, 6000)), draw.choice((15, 64, 64, 128, 6000)),
                 draw.choice(("PNG", "PNG", "TIFF")))


@functools.cache                                        # a large one takes half a second
def blank(mode, width, height, kind):
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return file.getvalue()


class RunFolder:
    """A valid run in a folder; `attempt` changes one file, reads the run and restores the file."""

    def __init__(self, folder, damaged):
        """damaged(bytes, draw): a copy with random changes."""
        self.folder, self.damaged = folder, damaged
        self.run = hostile.write_run(folder)
        self.clip, self.weights = hostile.load_clip(folder / "tiny.safetensors")
        self.plain = {name: module for name, module in self.clip.visual.named_modules()
                      if name.split(".")[-1] in TARGETS}
        (self.run / "metrics.json").write_text(json.dumps(METRICS))
        self.pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        self.bytes = {name: (self.run / name).read_bytes() for name in RUN_PARTS}
        self.detector = load_tensors(self.run / DETECTOR_FILE)
        self.memory = load_tensors(self.run / MEMORY_FILE)
        tensors, self.marks = read_safetensors(self.run / ADAPTER_MODEL)
        self.lora = {key: value.clone() for key, value in tensors.items()}
        self.settings = json.loads(self.bytes[ADAPTER_CONFIG])
        self.make_resume_point()
        self.make_index()
        mae = MaskedAutoencoder(MAEConfig(width=16, layers=1, heads=1, patch=8, resolution=16,
                                          decoder_width=8, decoder_layers=1, decoder_heads=1))
        save_mae(mae, folder / "mae.safetensors")
        self.mae = load_tensors(folder / "mae.safetensors")

    def make_resume_point(self):
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2)
        self.optimiser = torch.optim.AdamW(self.layer.parameters(), lr=0.1)
        self.layer(torch.ones(3)).sum().backward()
        self.optimiser.step()
        point = ResumePoint(self.folder / "resume.safetensors", "mark", every=0)
        point.save(list(self.layer.parameters()), self.optimiser, torch.Generator(), [0.5])
        self.point = load_tensors(point.path)

    def fresh_clip(self):
        """The CLIP without the LoRA of the attempt before; a new one would take longer to make."""
        replace_modules(self.clip.visual, self.plain)
        return self.clip

    # ---- one attempt at each kind; raises what the reader raises ---------------------------------

    def changed_bytes(self, name, write, draw):
        """New content of a file: its bytes damaged, or what write() returns."""
        if draw.random() < 0.15:
            return self.damaged(self.bytes[name], draw)
        try:
            return write()
        except (TensorFileError, ValueError, RecursionError):       # not a value of this format
            return self.damaged(self.bytes[name], draw)

    def read(self, name, content):
        """Read the run with another content of one file, sealed by the right digests."""
        (self.run / name).write_bytes(content)
        try:
            if name != DETECTOR_FILE:
                sealed = {**self.detector, "files": self.detector["files"] | {
                    name: hashlib.sha256(content).hexdigest()}}
                (self.run / DETECTOR_FILE).write_bytes(tensor_file_bytes(sealed))
            self.use(make_detector(Detector, read_run(self.run), self.fresh_clip()))
        finally:
            for part in (name, DETECTOR_FILE):
                (self.run / part).write_bytes(self.bytes[part])

    def use(self, detector):
        """What predict, its page, --fpr and --update do with a run."""
        if max(detector.resolution, 64) > 64:
            return
        detector.score(self.pixels)
        override_threshold(detector, *((1.0, None) if detector.threshold is None else (None, None)))
        predict_picture(detector, "a.png", to_pil(self.pixels[0]))
        if detector.shot_scores:
            threshold_choices(detector, [0.5], 0.01)
        for picture in detector.shot_pictures:
            detector.check(from_png(picture)[None])

    def attempt_detector(self, draw):
        self.read(DETECTOR_FILE, self.changed_bytes(
            DETECTOR_FILE, lambda: tensor_file_bytes(mutated(self.detector, draw)), draw))

    def attempt_memory(self, draw):
        self.read(MEMORY_FILE, self.changed_bytes(
            MEMORY_FILE, lambda: tensor_file_bytes(mutated(self.memory, draw)), draw))

    def attempt_shots(self, draw):
        """Good pictures of any size and mode, with damaged bytes, or of another format."""
        shots = [bytes(shot.tolist()) for shot in self.memory["shots"]]
        sources = self.memory["bank"]["sources"].clone()
        if draw.random() < 0.95:
            other = draw.choice((odd_shot(draw), self.damaged(shots[0], draw),
                                 self.damaged(shots[0][:24], draw) + shots[0][24:]))
            shots = draw.choice(([other, *shots[1:]], [other], shots * draw.choice((0, 3, 300))))
        if draw.random() < 0.5:
            sources[draw.randrange(len(sources))] = draw.choice((-1, -2**31, 2**31 - 1, 10**6))
        self.read(MEMORY_FILE, tensor_file_bytes({
            "bank": self.memory["bank"] | {"sources": sources},
            "shots": [torch.frombuffer(bytearray(shot or b"?"), dtype=torch.uint8)
                      for shot in shots]}))

    def attempt_lora(self, draw):
        def write():
            tensors = mutated(self.lora, draw)
            tensors = {key: value if isinstance(value, torch.Tensor) else odd_tensor(draw)
                       for key, value in tensors.items()} if type(tensors) is dict else {}
            marks = self.marks if draw.random() < 0.5 else {}
            return b"".join(safetensors_chunks(tensors, marks))
        self.read(ADAPTER_MODEL, self.changed_bytes(ADAPTER_MODEL, write, draw))

    def attempt_settings(self, draw):
        self.read(ADAPTER_CONFIG, self.changed_bytes(ADAPTER_CONFIG, lambda: json.dumps(
            mutated(self.settings, draw, tensors=False)).encode(), draw))

    def attempt_other_lora(self, draw):
        """--adapter FOLDER: both files of a stranger, without digests."""
        folder = self.folder / "other"
        shutil.copytree(self.run, folder, dirs_exist_ok=True)
        settings = mutated(self.settings, draw, tensors=False)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(settings))
        read_peft(folder)

    def attempt_metrics(self, draw):
        path = self.run / "metrics.json"
        text = json.dumps(mutated(METRICS, draw, tensors=False)).encode()
        path.write_bytes(text if draw.random() < 0.85 else self.damaged(text, draw))
        metrics = finished_metrics(self.run, "a")
        if metrics is None:                             # counts as not there
            return False
        summary_text([metrics])
        summary_csv([metrics])

    def attempt_results(self, draw):
        """What compare reads of a run and writes about it."""
        self.write_results(draw)
        results = [read_result_of(self.run)]
        differing = differing_facts(results)
        check_comparable(results, differing)
        comparison, equal = compared(results, differing), equal_facts(results, differing)
        for text in (csv_text(comparison), latex_text(comparison, equal),
                     markdown_text(comparison, equal)):
            if not text.replace("\n", "").replace("\t", "").isprintable():
                raise RuntimeError(f"control characters in {text[:200]!r}")
        comparison_page(comparison, results, equal, {"command": "", "date": "", "minilora": ""})

    def attempt_made(self, draw):
        """What reproduce reads of a run, up to the command that it would run again."""
        path = self.write_results(draw)
        metrics = reproduce.read_metrics(self.run)
        scores = self.damaged(SCORES, draw) if draw.random() < 0.5 else SCORES
        path.with_name("scores.csv").write_bytes(scores)
        reproduce.numbers(self.run, metrics)
        options = reproduce.parser().parse_args([
            str(self.run), "--data", str(self.folder), "--device", "cpu", "--model",
            "/model.safetensors"])
        options = reproduce.fit_options(metrics, options, BaseModel("tiny", "0" * 64), Path("/out"))
        if (str(options.out), options.model) != ("/out", "/model.safetensors"):
            raise RuntimeError(f"the results or the weights would be elsewhere: {options}")

    def write_results(self, draw):
        path = self.run / "metrics.json"
        text = json.dumps(mutated(RESULTS, draw, tensors=False)).encode()
        path.write_bytes(text if draw.random() < 0.85 else self.damaged(text, draw))
        return path

    def attempt_resume(self, draw):
        path = self.folder / "resume.safetensors"
        content = self.changed_bytes_of(self.point, draw)
        path.write_bytes(content)
        layer = copy.deepcopy(self.layer)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
        point = ResumePoint(path, "mark")
        if not point.restore(list(layer.parameters()), optimiser, torch.Generator()):
            return False
        layer(torch.ones(3)).sum().backward()
        optimiser.step()

    def attempt_mae(self, draw):
        path = self.folder / "mae.safetensors"
        path.write_bytes(self.changed_bytes_of(self.mae, draw))
        load_mae(path)

    def attempt_journal(self, draw):
        """A folder in which somebody else has left a commit."""
        path = self.folder / "left" / f"{STAGING}fit" / COMMIT_RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(mutated(JOURNAL, draw, tensors=False)).encode()
        path.write_bytes(text if draw.random() < 0.85 else self.damaged(text, draw))
        for name in ("metrics.json", DETECTOR_FILE):
            result_path(self.folder / "left", name)

    def make_index(self):
        folder = self.folder / "index"
        (folder / "parts").mkdir(parents=True)
        index = Index(folder, BaseModel("tiny", "0" * 64), {"rate": 1.0})
        index.entries["/a.mp4"] = Entry("/a.mp4", 10, 20, [["frames-0", 0, 3]])
        self.part = {"features": torch.ones(3, 8).half(), "times": torch.arange(3.0).double(),
                     "texts": ["A", "B 1", ""]}
        self.write_part(tensor_file_bytes(self.part))
        index.write()
        self.index = json.loads((folder / INDEX_FILE).read_text())

    def write_part(self, content):
        (self.folder / "index" / "parts" / "frames-0.safetensors").write_bytes(content)

    def attempt_index(self, draw):
        text = json.dumps(mutated(self.index, draw, tensors=False)).encode()
        path = self.folder / "index" / INDEX_FILE
        path.write_bytes(text if draw.random() < 0.85 else self.damaged(text, draw))
        self.search()

    def attempt_part(self, draw):
        (self.folder / "index" / INDEX_FILE).write_text(json.dumps(self.index))
        self.write_part(self.changed_bytes_of(self.part, draw))
        try:
            self.search()
        finally:
            self.write_part(tensor_file_bytes(self.part))

    def search(self):
        index = Index.open(self.folder / "index")
        for score in (similarity_to(torch.ones(8)), contains_text("b1")):
            list(index.curves(score))

    def changed_bytes_of(self, content, draw):
        """The bytes of a tensor file with changed values, or with changed bytes."""
        whole = tensor_file_bytes(content)
        if draw.random() < 0.15:
            return self.damaged(whole, draw)
        try:
            return tensor_file_bytes(mutated(content, draw))
        except (TensorFileError, ValueError, RecursionError):
            return self.damaged(whole, draw)
