"""Folders of pictures as data sets, and picture files as tensors.

Start with `mvtec.py` (MVTec AD's layout and the few-shot draw), then `decoding.py` (from a file to
a picture), `images.py` (from a picture to pixels) and `samples.py` (the tensors and masks of a data
set).  The others:

    which files       own_and_visa.py (other layouts), listing.py (what is in a folder),
                      given_paths.py (the paths of a command), given_pictures.py (what a Python
                      caller gives: paths, PIL pictures, arrays, tensors)
    which are odd     shot_checks.py (before a fit), framing.py (of a new picture)
    pixels            bit_depth.py (16-bit grey), augmentation.py, frames.py (videos)
    masks             masks.py (files), mask_rules.py (which pixels are marked)
    whole data sets   splits.py (training and test), summary.py (python -m minilora.data)

Not here: drawn pictures (scenes/), pasted defects (synthetic/).
"""
