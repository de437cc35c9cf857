"""What the demos of the mechanisms draw: `python -m minilora.lora --plot lora.svg`.

Start with `write.py`, which lists the figures and writes one.  `training.py`, `words.py`,
`towers.py` and `scores.py` have one function for each mechanism; it computes the figure with the
mechanism's own functions.  `embedded.py` has the embedded model and drawn pictures, `matrix.py` a
table of numbers with colours.
Not here: how charts are drawn (charts/), the pages of a run (report/).
"""
