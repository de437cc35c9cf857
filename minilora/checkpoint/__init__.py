"""Load the weights of CLIP from files; save and load fitted detectors.

Start with `weights.py`: `load_clip` goes from a name to a model.  Then read in the order in which
it uses the other modules:

    which file       `published.py`, `hub_cache.py`, `model_folder.py`
    which layout     `recognise.py`; `huggingface_layout.py` and `open_clip_layout.py` turn theirs
                     into OpenAI's names
    which model      `weight_shapes.py` tells its sizes, `weight_values.py` refuses what no training
                     leaves, `openai_layout.py` makes the CLIP

What was fitted: `adapter.py`, `peft_layout.py`, `detector_files.py`; `base_model.py` finds the
weights of a run again.  Downloads: `download_published.py`, `hub_download.py`, `download.py`,
`part_file.py`, `http_limits.py`.
Not here: how the bytes of a file are read safely (io/), masked autoencoders (mae/).
"""
