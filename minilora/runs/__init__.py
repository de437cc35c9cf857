"""A whole run: from a data folder to a finished run folder.

Start with `run_class.py` (one product), then `evaluation.py` (test pictures) and `run_report.py`
(what is printed); `run_all.py` and `summary.py` run several products, `update_run.py` adds good
pictures.  `fingerprints.py` tells whether a folder holds this very run, `provenance.py` how it was
made; `product_name.py` names a product in the prompts.
Not here: options of the command (fit.py), the detector (detector.py), tables and pages (report/).
"""
