"""A pickle taken as a description of tensors, not as the program that it is.

Claim: a pickle is a program for a small stack machine, and two of its instructions are the whole
danger: GLOBAL, which names any function of any module, and REDUCE, which calls it.  A reader that
admits only the few names needed for tensors, and puts in their place functions that do no more than
write down their arguments, gets plain dicts and tuples: where which tensor lies, of which shape.

Formats: torch/serialization.py (`torch.save`), torch/csrc/jit/serialization (TorchScript);
Python's documentation of pickle, "Restricting Globals"; pickletools for the instructions.
Leaves out: making tensors of the description, and believing it (`io/zip_reader.py`).
"""
import io
import pickle
import pickletools
from collections import OrderedDict
from typing import NamedTuple

import torch

DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16,
          "DoubleStorage": torch.float64, "BFloat16Storage": torch.bfloat16,
          "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
          "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
# All that PyTorch's two writers use.  Other opcodes can reserve memory that the file does not fill.
OPCODES = set("""PROTO STOP MARK GLOBAL REDUCE NEWOBJ BUILD BINPERSID NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
    BINPUT LONG_BINPUT BINGET LONG_BINGET""".split())


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message says which, why, and what to do."""


class TensorRecord(NamedTuple):
    """What a pickle says about one tensor, unchecked."""
    storage: tuple              # ("storage", dtype, key of the record, device once used, elements)
    offset: int                 # in elements, like the strides
    size: tuple
    stride: tuple


class Module:
    """Stands for any class `__torch__.*`: it holds attributes and can do nothing."""
    attributes = {}

    def __setstate__(self, state):
        self.attributes = state if isinstance(state, dict) else {}


class Description(pickle.Unpickler):
    """Unpickler whose every callable only notes what it was given."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))
        inert_list = {f"build_{kind}list": list for kind in ("int", "double", "bool", "tensor")}
        self.admitted = {       # made anew per file: none can alter them for the next
            "torch._utils": {"_rebuild_tensor_v2": lambda *a: TensorRecord(*a[:4]),
                             "_rebuild_parameter": lambda *a: a[0]},
            "torch.jit._pickle": inert_list,
            "collections": {"OrderedDict": OrderedDict},
            "torch": DTYPES}

    def find_class(self, module, name):
        if module.split(".")[0] == "__torch__":
            return Module
        if name in self.admitted.get(module, ()):
            return self.admitted[module][name]
        raise CheckpointError(f"it names {module}.{name}, which tensors do not need and which was "
                              "not run; do not use this file with other software either")

    def persistent_load(self, pid):
        return pid                      # checked where it is used, in Archive.storage


def read_description(content):
    """The object in a pickle: dicts and Modules with TensorRecords in them.

    content: bytes.  Raises CheckpointError for anything that PyTorch's writers would not write.
    """
    try:
        check_opcodes(content)
        return Description(content).load()
    except CheckpointError:
        raise
    except Exception as error:          # damaged instructions may raise nearly anything; none of
        kind = type(error).__name__     # it comes from code that the file chose
        raise CheckpointError(f"its data.pkl is damaged ({kind}: {error}); copy or download it "
                              "again") from error


def check_opcodes(content):
    """Raise CheckpointError for a pickle that does more than PyTorch's; nothing is run."""
    for opcode, argument, _ in pickletools.genops(content):
        # The table of remembered objects is as long as the highest number in use.
        if opcode.name not in OPCODES or opcode.name == "LONG_BINPUT" and argument > len(content):
            raise CheckpointError(f"its data.pkl uses {opcode.name} {argument or ''}, which "
                                  "PyTorch does not; save it again with torch.save's defaults")


def demo():
    """The same pickle as instructions and as a description, and one that wants to run a command."""
    class Tensor:
        def __reduce__(self):
            record = ("storage", torch.HalfStorage, "0", "cuda:0", 6)
            return torch._utils._rebuild_tensor_v2, (record, 0, (2, 3), (3, 1), False, {})

    class Bad:
        def __reduce__(self):
            return print, ("this must never be printed",)

    content = pickle.dumps({"weight": Tensor()}, protocol=2)
    names = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    print(f"{len(content)} bytes, {len(names)} instructions: {' '.join(names[:12])} ...")
    print(read_description(content))
    try:
        read_description(pickle.dumps({"weight": Bad()}, protocol=2))
    except CheckpointError as error:
        print("refused:", error)


if __name__ == "__main__":
    demo()
