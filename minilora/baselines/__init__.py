"""Other methods for comparison, one per module, trained and tested on the same pictures.

Start with `winclip.py` (CLIP without training); `finetuned.py` trains CLIP in other ways than LoRA;
the others are standard methods without CLIP, with and without labels.
Not here: minilora's own method (detector.py), the masked autoencoder (mae/), the tables (bench/).
"""
