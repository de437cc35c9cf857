"""minilora: CLIP adapted to find defects with a handful of good images, line by line.

`from minilora import load_clip, load_pictures, Detector` works, yet importing the package alone
loads neither torch nor a model: these names are fetched from their modules on first use (PEP 562).
"""
from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Detector", "load_clip", "load_pictures"]

_HOME = {"load_clip": "minilora.checkpoint.weights", "load_pictures": "minilora.data.own_and_visa",
         "Detector": "minilora.detector"}


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'minilora' has no attribute {name!r}; "
                             f"it offers {', '.join(sorted(_HOME))}")
    return getattr(import_module(_HOME[name]), name)


def __dir__():
    return sorted([*globals(), *_HOME])
