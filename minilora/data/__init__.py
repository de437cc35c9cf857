"""Folders of pictures as data sets, and picture files as tensors.

Start with `mvtec.py` (MVTec AD's layout and the few-shot draw), then `images.py` (files to pixels)
and `augmentation.py`; `samples.py` reads the pictures and masks of a data set, `own_and_visa.py`
other layouts, `splits.py` divides labelled pictures into training and test pictures, `frames.py`
reads videos.
Not here: drawn pictures (scenes/), pasted defects (synthetic/).
"""
