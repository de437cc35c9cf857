"""Load the weights of CLIP from files; save and load fitted detectors.

Start with `weights.py`: `load_clip` goes from a name to a model.  Then read in the order in which
it uses the other modules:

    which file       `published.py`, `hub_cache.py`, `model_folder.py`
    which layout     `recognise.py`; `huggingface_layout.py` and `open_clip_layout.py` turn theirs
                     into OpenAI's names
    which model      `weight_shapes.py` infers its sizes, `weight_values.py` refuses values that no
                     training leaves, `openai_layout.py` makes the CLIP
    what was fitted  `adapter.py` takes LoRA out of a model, `peft_layout.py` writes it as PEFT
                     does, `detector_files.py` saves all of a run, `kept_pictures.py` the good
                     pictures in it, `base_model.py` finds the weights that it was made with
    downloads        `download_published.py` chooses the source, `hub_download.py` is the second
                     one; `download.py`, `part_file.py` and `http_limits.py` do the transfer

Not here: how the bytes of a file are read safely (io/), masked autoencoders (mae/).
"""
