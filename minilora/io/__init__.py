"""Files, folders and the command line: what any dependable program needs, without CLIP.

Start with `files.py` (a file is written completely or not at all); `zip_reader.py` and
`unpickler.py` read `.pt` files without running code from them; `transaction.py` and `resume.py`
let a command that was interrupted continue.
Not here: pictures (data/), the names inside a checkpoint (checkpoint/).
"""
