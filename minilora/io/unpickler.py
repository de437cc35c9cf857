"""What a `.pt` file's description may name, and what each name makes here: inert values only.

Claim: a pickle is a program for a small stack machine (`io/pickle_machine.py`).  Two of its
instructions are dangerous: GLOBAL looks up any function of any module by name, and REDUCE calls it.
Here a name is never looked up in a module.  It is looked up in this table:

    name in the pickle                      what it makes here
    torch._utils._rebuild_tensor_v2         a TensorMetadata: storage, offset, size, stride
    torch._utils._rebuild_parameter         its first argument, the tensor
    torch.FloatStorage and others           a torch.dtype
    torch.jit._pickle.build_*list           its argument, a Python list
    collections.OrderedDict                 an empty dict
    __torch__.*  (TorchScript classes)      a ModuleStub, which only holds attributes
    a name that can run commands            CheckpointError: such a file is an attack
    any other name                          Unread: a placeholder that remembers the name

A call accepts only the arguments that PyTorch's writers give.  An Unread that was called with a
tensor stands in the place of a tensor (a sparse one, say); without it the weights are incomplete.
Others, such as the arguments of a training run, are not needed.

Formats: torch/_utils.py and torch/serialization.py (`torch.save`), torch/csrc/jit/serialization.
Left out: the instructions (`io/pickle_machine.py`); whether the numbers fit the records
(`io/zip_reader.py`).
"""
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.text import shown

STORAGE_DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16,
                  "DoubleStorage": torch.float64, "BFloat16Storage": torch.bfloat16,
                  "LongStorage": torch.int64, "IntStorage": torch.int32,
                  "ShortStorage": torch.int16, "CharStorage": torch.int8,
                  "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
MAX_DIMENSIONS = 8                      # of a tensor; a CLIP's have at most four
# Modules and functions by which pickles attack.  Nothing is run in any case; a file that names one
# of them is refused as a whole, because it was not made to hold weights.
ATTACKS = set("""_ctypes _io _operator _pickle _posixsubprocess _socket _thread asyncio atexit bdb
    builtins cPickle cProfile.run cloudpickle code.InteractiveConsole code.InteractiveInterpreter
    code.interact codeop commands.getoutput ctypes dill ftplib http importlib inspect io joblib
    marshal multiprocessing nt numpy.f2py numpy.load operator os pdb pickle pip pkgutil posix
    profile.run pty pydoc runpy setuptools shelve shutil smtplib socket subprocess sys tempfile
    threading timeit torch._inductor torch.hub torch.jit.load torch.load torch.package
    torch.serialization.load torch.storage._load_from_bytes torch.utils.cpp_extension types.CodeType
    types.FunctionType urllib webbrowser zipimport""".split())
PLAIN_BUILTINS = set("bool bytearray bytes complex dict float frozenset int list object range set "
                     "slice str tuple".split())


class StorageReference(NamedTuple):
    """A row of numbers, not yet checked: `count` of them in the record data/<key>."""
    dtype: torch.dtype
    key: str
    count: int


class TensorMetadata(NamedTuple):
    """What the pickle says about one tensor.  Not yet checked: the file may lie."""
    storage: StorageReference
    offset: int                 # in elements, like the strides
    size: tuple[int, ...]
    stride: tuple[int, ...]


class ModuleStub:
    """Takes the place of an object of a TorchScript class `__torch__.*`: it holds attributes."""
    __slots__ = ("attributes",)

    def __init__(self) -> None:
        self.attributes = {}


class Unread(NamedTuple):
    """Takes the place of anything that is not read.  for_tensor: it was made from a tensor."""
    name: str
    for_tensor: bool = False


class LongTuple(NamedTuple):
    """Takes the place of a tuple with more members than a tensor's description needs."""
    for_tensor: bool            # whether one of its members was a tensor


class Maker(NamedTuple):
    """A name in the table: `make` gets the tuple of arguments of a call."""
    name: str
    make: Callable[[tuple], Any]


class ScriptClass(NamedTuple):
    """The name of a TorchScript class; its objects become ModuleStubs."""
    name: str


def wrong_arguments(name: str) -> CheckpointError:
    """The error for a call as PyTorch never writes it."""
    return CheckpointError(f"it calls {name} with arguments that cannot be understood; it is "
                           "damaged or forged")


def are_sizes(values: Iterable) -> bool:
    """True if all are plain integers from 0 to 2^48: offsets, sizes or strides."""
    return all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def is_empty_dict(value: Any) -> bool:
    """True for {}: the hooks of a tensor, which torch.save never stores."""
    return type(value) is dict and not value


def make_tensor(arguments: tuple) -> TensorMetadata | Unread:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])."""
    if len(arguments) not in (6, 7):
        raise wrong_arguments("_rebuild_tensor_v2")
    storage, offset, size, stride, requires_grad, hooks = arguments[:6]
    bits = arguments[6] if len(arguments) == 7 else None        # {"conj": bool, "neg": bool}
    if type(storage) is Unread:                                 # complex or quantised numbers
        return Unread(storage.name, for_tensor=True)
    shape = type(size) is type(stride) is tuple and len(size) == len(stride) <= MAX_DIMENSIONS
    if not (shape and type(storage) is StorageReference and are_sizes((offset, *size, *stride))
            and type(requires_grad) is bool and is_empty_dict(hooks)
            and type(bits) in (dict, type(None))):
        raise wrong_arguments("_rebuild_tensor_v2")
    if bits:                                                    # the numbers mean something else
        return Unread("a conjugate or negative view", for_tensor=True)
    return TensorMetadata(storage, offset, size, stride)


def make_parameter(arguments: tuple) -> TensorMetadata | Unread:
    """_rebuild_parameter(tensor, requires_grad, hooks[, state]): the tensor."""
    if not (len(arguments) in (3, 4) and type(arguments[0]) in (TensorMetadata, Unread)
            and type(arguments[1]) is bool and is_empty_dict(arguments[2])):
        raise wrong_arguments("_rebuild_parameter")
    return arguments[0]


def make_list(arguments: tuple) -> list:
    """build_intlist(list) and others: the list."""
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise wrong_arguments("build_list")
    return arguments[0]


def make_dict(arguments: tuple) -> dict:
    """OrderedDict(): a dict, which is ordered too."""
    if arguments:
        raise wrong_arguments("OrderedDict")
    return {}


NAMES = {("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()}
NAMES |= {(module, name): Maker(name, make) for module, name, make in (
    ("torch._utils", "_rebuild_tensor_v2", make_tensor),
    ("torch._utils", "_rebuild_parameter", make_parameter),
    ("torch._utils", "_rebuild_parameter_with_state", make_parameter),
    ("torch.jit._pickle", "build_intlist", make_list),
    ("torch.jit._pickle", "build_doublelist", make_list),
    ("torch.jit._pickle", "build_boollist", make_list),
    ("torch.jit._pickle", "build_tensorlist", make_list),
    ("collections", "OrderedDict", make_dict))}


def find_name(module: str, name: str) -> Any:
    """What a name (GLOBAL) stands for.  Raises CheckpointError if it can run commands."""
    if (module, name) in NAMES:
        return NAMES[module, name]
    whole = shown(f"{module}.{name}")
    if module.split(".", 1)[0] == "__torch__":
        return ScriptClass(whole)
    if can_run_commands(module, name):
        raise CheckpointError(f"it names {whole}, which can run commands or open files; it was not "
                              "run; do not open this file with other software either")
    return Unread(whole)


def can_run_commands(module: str, name: str) -> bool:
    """Whether a name or a module around it is in ATTACKS, or it passes through a `__name__`."""
    module = module.replace("__builtin__", "builtins")          # its name in Python 2
    if module == "builtins" and name in PLAIN_BUILTINS:
        return False
    parts = f"{module}.{name}".split(".", 16)[:16]
    return name.startswith("__") or ".__" in name or any(
        ".".join(parts[:count]) in ATTACKS for count in range(1, len(parts) + 1))


def call(function: Any, arguments: Any) -> Any:
    """REDUCE: what a call makes.  Raises CheckpointError for what is no function."""
    if type(function) is Unread:
        return Unread(function.name, function.for_tensor or holds_tensor(arguments))
    if type(function) is not Maker or type(arguments) is not tuple:
        raise CheckpointError(f"it calls {describe(function)}, which PyTorch does not; it is "
                              "damaged or forged")
    return function.make(arguments)


def new_object(of: Any, arguments: Any) -> Any:
    """NEWOBJ: a new object of a class."""
    if type(of) is ScriptClass and arguments == ():
        return ModuleStub()
    if type(of) is Unread:
        return call(of, arguments)
    raise CheckpointError(f"it makes an object of {describe(of)}, which PyTorch does not; it is "
                          "damaged or forged")


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, a storage, or stands in the place of one."""
    return (type(value) in (StorageReference, TensorMetadata)
            or type(value) is Unread and value.for_tensor)


def holds_tensor(arguments: Any) -> bool:
    """Whether one of the arguments of a call, or a member of one that is a tuple, is a tensor."""
    if type(arguments) is LongTuple:
        return arguments.for_tensor
    return type(arguments) is tuple and any(
        is_tensor(value) or type(value) is tuple and any(map(is_tensor, value))
        for value in arguments)


def storage_reference(pid: Any) -> StorageReference | Unread:
    """BINPERSID: ("storage", dtype, key, device, count); the saved device is ignored."""
    if type(pid) is tuple and len(pid) == 5 and pid[0] == "storage" and type(pid[2]) is str:
        _, dtype, key, _, count = pid
        if type(dtype) is Unread:
            return Unread(dtype.name, for_tensor=True)
        if isinstance(dtype, torch.dtype) and are_sizes((count,)):
            return StorageReference(dtype, key, count)
    raise CheckpointError("it has a storage that cannot be understood; it is damaged or forged")


def describe(value: Any) -> str:
    """The name of a named value, else its type."""
    named = type(value) in (Unread, Maker, ScriptClass)
    return value.name if named else f"a value of type {type(value).__name__}"


def demo() -> None:
    """What some names make, and the arguments that a call accepts."""
    storage = storage_reference(("storage", find_name("torch", "HalfStorage"), "0", "cuda:0", 6))
    rebuild = find_name("torch._utils", "_rebuild_tensor_v2")
    print(call(rebuild, (storage, 0, (2, 3), (3, 1), False, {})))
    print(new_object(find_name("argparse", "Namespace"), ()))
    print(call(find_name("torch._utils", "_rebuild_sparse_tensor"), (storage,)))
    for module, name, arguments in (("torch._utils", "_rebuild_tensor_v2", (storage, 0, (-2, 3))),
                                    ("os", "system", ("touch was-run",))):
        try:
            call(find_name(module, name), arguments)
        except CheckpointError as error:
            print("refused:", error)


if __name__ == "__main__":
    demo()
