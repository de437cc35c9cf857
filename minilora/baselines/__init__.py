"""Other methods for comparison, trained and tested on the same pictures.

Start with `winclip.py` (CLIP without training).  Also with CLIP: `patchcore.py` and
`anomalydino.py` (memory banks of good patches, no text, no training), `anomalyclip.py` (prompts
learned on other products), `finetuned.py` (CoOp, full fine-tuning, linear probe).  Without CLIP,
from good pictures only: `autoencoder.py`, `svdd.py`, `simclr.py`.  From labels: `supervised.py`
trains the networks of `cnn.py` and `resnet18.py` with the losses of `long_tail.py`;
`scene_pretraining.py` pretrains the ResNet.  `recurrent.py` classifies sequences of features.
Not here: minilora's own method (detector.py), the masked autoencoder (mae/), the tables (bench/).
"""
