"""The masked autoencoder (He et al. 2022): pretraining without labels, for comparison with CLIP.

Start with `model.py` (encoder and decoder) and `patches.py` (patches and masks); `run.py` is the
command, `checkpoint.py` reads official files, `transfer.py` probes and fine-tunes the encoder,
`detector.py` uses the reconstruction error as an anomaly score.
Not here: the attention blocks (attention.py), the other methods for comparison (baselines/).
"""
