"""Measures of detection and localisation in addition to AUROC.

Start with `average_precision.py` (average precision, best F1); `aupro.py` measures how much of
each defect is found; `curves.py` has the points of the ROC and precision-recall curves.
Not here: AUROC, which has a module of its own (auroc.py), and tables (report/).
"""
