"""The masked autoencoder, beside CLIP: pretraining without labels, and what it is good for.

Start with `model.py` (encoder and decoder); `run.py` is the command, `checkpoint.py` reads
official files, `transfer.py` probes and fine-tunes, `detector.py` finds defects with it.
Not here: the attention blocks (attention.py), the other comparisons (baselines/).
"""
