"""The main job: from a data folder to a finished run folder.

Start with `run_class.py` (one product); `run_all.py` does several, one after another or in
several processes.
Not here: options of the command (fit.py), the detector (detector.py), pages (report/).
"""
