"""How the embedded model mini-clip was trained, on drawn scenes and on photographs.

Start with `train.py` (the training loop), then `objective.py` (the losses of a step).
Data: `captions.py`, `batches.py` (scenes), `photographs.py`, `step_inputs.py`.  Teacher:
`teacher.py`, `teacher_targets.py`, `target_cache.py`, `distillation.py`.  Around the loop:
`options.py`, `schedule.py`, `grow.py`, `held_out.py`, `log.py`.
Not here: adapting the model to a product (train.py at the top of the package).
"""
