"""Weights of CLIP from files, and files of what minilora learned.

Start with `weights.py` (`load_clip`: from a name or a file to a model); `openai_layout.py` maps
keys, `download.py` fetches; `adapter.py` and `detector_files.py` store a fitted detector.
Not here: how a `.pt` file is read safely (io/), masked autoencoders (mae/).
"""
