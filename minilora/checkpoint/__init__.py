"""Load the weights of CLIP from files; save and load fitted detectors.

Start with `weights.py` (`load_clip`: from a name or a file to a model).  On its way, `published.py`
and `hub_cache.py` find the file, `model_folder.py` its configuration; `recognise.py` tells which
layout it has: `openai_layout.py`, `huggingface_layout.py` or `open_clip_layout.py`;
`weight_values.py` refuses what no training leaves.  `download.py` and `hub_download.py` fetch a
file; `adapter.py`, `peft_layout.py` and `detector_files.py` store a fitted detector.
Not here: how the bytes of a file are read safely (io/), masked autoencoders (mae/).
"""
