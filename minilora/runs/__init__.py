"""A whole run: from a data folder to a finished run folder.

Start with `run_class.py` (one product), then `evaluation.py` (test pictures) and `run_report.py`
(what is printed); `run_all.py` and `summary.py` run several products.
Not here: options of the command (fit.py), the detector (detector.py), tables and pages (report/).
"""
