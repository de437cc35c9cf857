"""Folders of pictures as data sets, and picture files as tensors.

Start with `mvtec.py` (MVTec AD's layout and the few-shot draw), then `decoding.py` (from a file to
a picture), `images.py` (from a picture to pixels) and `augmentation.py`; `masks.py` and
`mask_rules.py` read masks, `samples.py` the pictures and masks of a data set, `own_and_visa.py`
other layouts; `listing.py` says what is in a folder, `summary.py` what is in a data set,
`bit_depth.py` scales 16 bits, `splits.py` divides labelled pictures into training and test
pictures, `frames.py` reads videos.
Not here: drawn pictures (scenes/), pasted defects (synthetic/).
"""
