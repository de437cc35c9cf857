"""Files, folders and the command line: what any dependable program needs, without CLIP.

Start with `files.py` (a file is written completely or not at all).  `zip_reader.py` reads `.pt`
files without running code from them: `zip_directory.py` finds the records, `pickle_machine.py`,
`pickle_instructions.py` and `unpickler.py` read what they are; `record.py` lists what minilora
wrote into a folder, `transaction.py` replaces it as a whole and `output.py` a single file, under
the lock of `lock.py`; `consistent_read.py` reads files of one moment; `resume.py` lets an
interrupted command continue; `cli.py` is the part that all commands share; `paths.py` finds
weights; `prefetch.py` decodes pictures ahead; `threads.py` limits torch to one thread.
Not here: pictures (data/), the names inside a checkpoint (checkpoint/).
"""
