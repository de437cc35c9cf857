"""Files, folders and the command line: what any dependable program needs, without CLIP.

Start with `files.py` (a file is written completely or not at all).  `zip_reader.py` and
`unpickler.py` read `.pt` files without running code from them; `transaction.py` and `resume.py`
let an interrupted command continue; `cli.py` is the part that all commands share; `paths.py` finds
weights; `prefetch.py` decodes pictures ahead; `threads.py` limits torch to one thread.
Not here: pictures (data/), the names inside a checkpoint (checkpoint/).
"""
