"""minilora: CLIP adapted to find defects with a handful of good images, line by line.

Reading order.  Each file but the commands shows its mechanism: `python -m minilora.lora`.

    file                lines  minutes  what it shows
    bpe.py                200       20  text -> token ids; how merges are trained
    attention.py          200       20  multi-head attention, QuickGELU, the residual block
    vit.py                200       20  image -> one feature, or one for each patch
    text.py               120       12  token ids -> one feature
    clip.py               160       16  both towers, cosine similarity, zero-shot classification
    lora.py               200       20  a frozen matrix and its low-rank update
    prompts.py             50        5  hand-written sentences about a product
    coop.py               160       16  learned context vectors in place of these words
    losses.py             100       10  focal loss, dice loss, cross-entropy
    memory_bank.py        130       13  features of good patches, a coreset of them, distances
    anomaly_map.py        120       12  patch scores -> map, image score, threshold
    auroc.py              120       12  the exact area under the ROC curve
    config.py              90        9  every hyperparameter, its default and limits
    features.py           100       10  all features of a picture in one pass, LoRA on or off
    training_steps.py      80        8  AdamW steps with a one-cycle learning rate
    train.py              150       15  LoRA and context vectors learn from synthetic defects
    calibration.py        120       12  threshold and weights, from the good pictures only
    detector.py           260       26  the method: fit and score in four steps
    fit.py                120       12  the command that fits a detector; runs/ does the job
    predict.py            220       22  OK or NG for new pictures
    explain.py            260       26  one picture step by step, as a page
    export.py             250       25  suspicious regions for other programs
    clip_resnet.py        160       16  CLIP's other image tower

Folders hold what surrounds the method; the docstring of each says where to start.

    io           files and folders written completely or not at all, the command line
    data         data sets and picture files
    synthetic    synthetic defects, pasted into good pictures
    metrics      average precision, AUPRO
    checkpoint   weights of CLIP from files, files of a fitted detector
    runs         the main job: from a data folder to a run folder
    report       tables, maps, pages, boxes and polygons
    scenes       drawn products: the embedded data
    pretrain     how the embedded model was trained
    search       find moments in videos by words
    mae          the masked autoencoder
    baselines    other methods for comparison

`from minilora import load_clip, load_pictures, Detector` works, but importing the package alone
loads neither torch nor a model: these names are imported on first use (PEP 562).
"""
from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Detector", "load_clip", "load_pictures"]

_HOME = {"load_clip": "minilora.checkpoint.weights", "load_pictures": "minilora.data.own_and_visa",
         "Detector": "minilora.detector"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'minilora' has no attribute {name!r}; "
                             f"it offers {', '.join(sorted(_HOME))}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
