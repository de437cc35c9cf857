"""Folders of pictures as data sets, and picture files as tensors.

Start with `mvtec.py` (MVTec AD's layout and the few-shot draw), then `images.py` (pixels);
`own_and_visa.py` reads other layouts, `splits.py` labels for training, `frames.py` videos.
Not here: drawn pictures (scenes/), pasted defects (synthetic/).
"""
