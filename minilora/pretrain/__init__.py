"""How the embedded model mini-clip was trained, on drawn scenes and on photographs.

Start with `train.py` (the loop), then `objective.py` (the losses of a step); `batches.py` and
`photographs.py` make the batches, `teacher.py` and `teacher_targets.py` what is to be predicted.
Not here: adapting the model to a product (train.py at the top).
"""
