"""Compare finished runs: tables over classes, rows, shots and seeds as page, CSV, Markdown, LaTeX.

Start with `run_results.py` (reads run folders), then `seed_statistics.py` (mean and standard
deviation over seeds).  `tables.py` writes text tables, `page.py` the page and the curves over
shots, `run.py` is the command.
Not here: the runs themselves (runs/), measurements of this project (bench/).
"""
