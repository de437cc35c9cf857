"""Files, folders and the command line: what any careful program needs, and nothing of CLIP.

Start with `files.py` (a file is written whole or not at all); `zip_reader.py` and `unpickler.py`
read `.pt` files without running what is in them; `transaction.py` and `resume.py` survive a stop.
Not here: pictures (data/), the names inside a checkpoint (checkpoint/).
"""
