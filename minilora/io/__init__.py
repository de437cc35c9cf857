"""Files, folders and the command line: what any dependable program needs, without CLIP.

Start with `files.py`: a file is written completely or not at all.  Then read in this order:

    from strangers     `text.py` prints their texts safely, `regular_file.py` opens their files,
                       `schema.py` checks the values inside
    tensors            `safetensors.py` is the format, `tensor_json.py` nests values in it,
                       `resume.py` lets an interrupted training continue
    `.pt` files        `zip_reader.py` runs no code from them; `file_type.py` and `zip_directory.py`
                       look at the container, `pickle_machine.py`, `pickle_instructions.py` and
                       `unpickler.py` at the description of the tensors; all of them raise the
                       error of `checkpoint_error.py`
    folders            `record.py` lists what minilora wrote, `transaction.py` replaces a result as
                       a whole, `output.py` a single file; `lock.py`, `temporary.py` and
                       `derived_name.py` serve them; `consistent_read.py` reads files of one moment
    commands           `cli.py` is what all share, `parser.py` makes the help, `error_text.py` the
                       messages, `called_as.py` the form of a command; `console.py`, `notes.py`
                       and `progress.py` print; `paths.py` finds weights; `prefetch.py` decodes
                       pictures ahead; `threads.py` limits torch to one thread

Not here: pictures (data/), the names inside a checkpoint (checkpoint/).
"""
