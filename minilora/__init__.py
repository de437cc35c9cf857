"""minilora: CLIP adapted to find defects with a handful of good images, line by line.

Reading order.  Each file but the commands shows its mechanism: `python -m minilora.lora`.

    file                lines  minutes  what it shows
    bpe.py                200       20  text -> token ids; how merges are trained
    attention.py          200       20  multi-head attention, QuickGELU, the residual block
    vit.py                200       20  image -> one feature, or one for each patch
    text.py               120       12  token ids -> one feature
    clip.py               160       16  both towers, cosine similarity, zero-shot classification
    lora.py               210       21  a frozen matrix and its low-rank update
    prompts.py             50        5  hand-written sentences about a product
    coop.py               160       16  learned context vectors in place of these words
    losses.py             110       11  focal loss, dice loss, cross-entropy
    memory_bank.py        140       14  features of good patches, a coreset of them, distances
    anomaly_map.py        130       13  patch scores -> map, image score, threshold
    auroc.py              120       12  the exact area under the ROC curve
    rows.py                40        4  the rows of the result table: which parts make the score
    config.py              90        9  every hyperparameter, its default and limits
    features.py           130       13  all features of a picture in one pass, LoRA on or off
    training_steps.py      80        8  AdamW steps with a one-cycle learning rate
    train.py              170       17  LoRA and context vectors learn from synthetic defects
    calibration.py        130       13  threshold and weights, from the good pictures only
    detector_base.py      150       15  read and prepare pictures, return a table of scores
    detector.py           260       26  the method: fit and score in four steps
    toy_detector.py        50        5  an untrained detector, for demos
    fit.py                150       15  the command that fits a detector; runs/ does the job
    predict.py            160       16  OK or NG for new pictures
    explain.py            140       14  one picture step by step, as a page
    export.py             260       26  suspicious regions for other programs
    onnx_export.py        250       25  the detector as one file for programs without torch
    reproduce.py          240       24  repeat the fit of a run folder, and compare the numbers
    clip_resnet.py        170       17  CLIP's other image tower

Folders hold what surrounds the method; the docstring of each says where to start.

    io           files and folders written completely or not at all, the command line
    data         data sets and picture files
    synthetic    synthetic defects, pasted into good pictures
    metrics      average precision, AUPRO
    checkpoint   weights of CLIP from files, files of a fitted detector
    runs         the main job: from a data folder to a run folder
    prediction   new pictures: score, decision, table and page
    report       tables, maps, pages, boxes and polygons
    compare      tables and curves over several runs
    serve        a page on this computer: OK or NG for pictures that are dropped on it
    charts       charts as SVG and PNG
    figures      what the demos of the mechanisms draw
    scenes       drawn products: the embedded data
    pretrain     how the embedded model was trained
    search       find moments in videos by words
    mae          the masked autoencoder
    baselines    other methods for comparison

`import minilora` loads neither torch nor a model: the names in `__all__`, such as `Detector`, are
imported on first use (PEP 562).  API.md shows each of them.
"""
import sys
from importlib import import_module
from typing import Any

from minilora.io.console import escape_unknown_characters

__version__ = "0.2.0"

_HOME = {"load_clip": "checkpoint.weights", "Detector": "detector", "DetectorConfig": "config",
         "Predictions": "detector_base", "load_pictures": "data.own_and_visa", "CLIP": "clip",
         "CLIPConfig": "clip", "MemoryBank": "memory_bank", "LoRALinear": "lora",
         "add_lora": "lora", "disable_lora": "lora", "merge": "lora"}       # name -> its module
__all__ = sorted(_HOME)

if sys.argv[:1] == ["-m"]:          # `python -m minilora.lora`: a demo can print on any console
    escape_unknown_characters()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'minilora' has no attribute {name!r}; "
                             f"it offers {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"minilora.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
