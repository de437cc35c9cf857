"""Other methods for comparison, each in one module, on the same pictures.

Start with `winclip.py` (CLIP without training); `finetuned.py` trains CLIP in other ways;
the others are what a course shows beside CLIP, with labels and without.
Not here: minilora's own method (detector.py), the masked autoencoder (mae/), tables (bench/).
"""
