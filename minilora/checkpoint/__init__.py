"""Load the weights of CLIP from files; save and load fitted detectors.

Start with `weights.py` (`load_clip`: from a name or a file to a model); `published.py` finds the
file, `download.py` fetches it, `openai_layout.py` maps its keys; `adapter.py` and
`detector_files.py` store a fitted detector.
Not here: how a `.pt` file is read safely (io/), masked autoencoders (mae/).
"""
