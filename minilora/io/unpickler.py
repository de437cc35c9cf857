"""A restricted unpickler: reads the pickle in a `.pt` file without running code from the file.

Claim: a pickle is a program for a small stack machine.  Two of its instructions are dangerous:
GLOBAL looks up any function of any module by name, and REDUCE calls it.  This unpickler has a list
of allowed names.  Each stands for a harmless object that only stores its arguments:

    name in the pickle                      what it stands for here
    torch._utils._rebuild_tensor_v2         a TensorMetadata: storage, offset, size, stride
    torch._utils._rebuild_parameter         its first argument, the tensor
    torch.FloatStorage and others           a torch.dtype
    torch.jit._pickle.build_*list           a Python list
    collections.OrderedDict                 itself
    __torch__.*  (TorchScript classes)      a ModuleStub, which only holds attributes

Refused with CheckpointError: every other name, and every instruction that is not in OPCODES.

Formats: torch/serialization.py (`torch.save`), torch/csrc/jit/serialization (TorchScript);
Python's documentation of pickle, "Restricting Globals"; pickletools for the instructions.
Left out: checking the metadata and making tensors from it (`io/zip_reader.py`).
"""
import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any, NamedTuple

import torch

STORAGE_DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16,
                  "DoubleStorage": torch.float64, "BFloat16Storage": torch.bfloat16,
                  "LongStorage": torch.int64, "IntStorage": torch.int32,
                  "ShortStorage": torch.int16, "CharStorage": torch.int8,
                  "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
# All instructions that PyTorch's two writers use.  Others may reserve memory without limit.
OPCODES = set("""PROTO STOP MARK GLOBAL REDUCE NEWOBJ BUILD BINPERSID NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
    BINPUT LONG_BINPUT BINGET LONG_BINGET""".split())


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message says which, why, and what to do."""


class TensorMetadata(NamedTuple):
    """What the pickle says about one tensor.  Not yet checked: the file may lie."""
    storage: tuple              # ("storage", dtype, key of the zip record, device, element count)
    offset: int                 # in elements, like the strides
    size: tuple
    stride: tuple


class ModuleStub:
    """Takes the place of every TorchScript class `__torch__.*`: it only holds attributes."""
    attributes = {}

    def __setstate__(self, state):
        self.attributes = state if isinstance(state, dict) else {}


class RestrictedUnpickler(pickle.Unpickler):
    """Finds only the allowed names; the objects behind them only store their arguments."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        list_builders = {f"build_{kind}list": list for kind in ("int", "double", "bool", "tensor")}
        self.allowed = {        # new functions for each file: no file can change them for the next
            "torch._utils": {"_rebuild_tensor_v2": lambda *a: TensorMetadata(*a[:4]),
                             "_rebuild_parameter": lambda *a: a[0]},
            "torch.jit._pickle": list_builders,
            "collections": {"OrderedDict": OrderedDict},
            "torch": STORAGE_DTYPES}

    def find_class(self, module: str, name: str) -> Any:
        """The object for a name in the pickle (GLOBAL).  Raises CheckpointError if not allowed."""
        if module.split(".")[0] == "__torch__":
            return ModuleStub
        if name in self.allowed.get(module, ()):
            return self.allowed[module][name]
        raise CheckpointError(f"it names {module}.{name}, which no tensor needs; it was not run; "
                              "do not open this file with other software either")

    def persistent_load(self, pid: Any) -> Any:
        """A reference to a storage (BINPERSID), unchanged; Archive.storage checks it."""
        return pid


def restricted_load(content: bytes) -> Any:
    """The object in a pickle, with TensorMetadata for tensors and ModuleStubs for modules.

    Raises CheckpointError for everything that PyTorch's writers would not write.
    """
    try:
        check_opcodes(content)
        return RestrictedUnpickler(content).load()
    except CheckpointError:
        raise
    except Exception as error:          # a damaged pickle can cause almost any error, but none
        kind = type(error).__name__     # of them comes from code in the file
        raise CheckpointError(f"its data.pkl is damaged ({kind}: {error}); copy or download it "
                              "again") from error


def check_opcodes(content: bytes) -> None:
    """Raise CheckpointError if a pickle uses other instructions than PyTorch's.  Runs nothing."""
    for opcode, argument, _ in pickletools.genops(content):
        # The unpickler's memo, a table of objects, is as long as the highest index in use.
        if opcode.name not in OPCODES or opcode.name == "LONG_BINPUT" and argument > len(content):
            raise CheckpointError(f"its data.pkl uses {opcode.name} {argument or ''}, which "
                                  "PyTorch does not; save it again with torch.save's defaults")


def demo() -> None:
    """Read a tensor's metadata from a pickle; refuse a pickle that calls a function."""
    class Tensor:
        def __reduce__(self):
            record = ("storage", torch.HalfStorage, "0", "cuda:0", 6)
            return torch._utils._rebuild_tensor_v2, (record, 0, (2, 3), (3, 1), False, {})

    class Malicious:
        def __reduce__(self):
            return print, ("this must never be printed",)

    content = pickle.dumps({"weight": Tensor()}, protocol=2)
    names = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    print(f"{len(content)} bytes, {len(names)} instructions: {' '.join(names[:12])} ...")
    print(restricted_load(content))
    try:
        restricted_load(pickle.dumps({"weight": Malicious()}, protocol=2))
    except CheckpointError as error:
        print("refused:", error)


if __name__ == "__main__":
    demo()
