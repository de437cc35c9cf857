"""What each instruction of a `.pt` file's description does, in terms of a stack machine `m`.

Claim: a pickle is a sequence of instructions of one byte each, some followed by a number or a text.
The table has those that PyTorch's two writers use, and no others: torch.save with the protocols 2
to 5 (Python's pickle.py), TorchScript (torch/csrc/jit/serialization/pickler.cpp).

    push        put a value on top of the stack; pop: take it away
    mark        remember the height of the stack; pop_mark: take all values above it
    store       write the top of the stack into a table, the memo; fetch: push a value from there

Python's pickletools describes all instructions.
Left out: the machine itself (`io/pickle_machine.py`); instructions that neither writer uses (INST,
OBJ, EXT*, DUP, POP, LONG4, those with text up to a line's end except GLOBAL).
"""
import pickle
import pickletools
import struct

from minilora.io.unpickler import Unread, storage_reference

SET = Unread("a set")                                   # its members are not kept

OPERATIONS = {code[0]: operation for code, operation in {
    pickle.PROTO: lambda m: m.take(1),                  # the version; the instructions are the same
    pickle.FRAME: lambda m: m.take(8),                  # a length, for reading ahead
    pickle.MARK: lambda m: m.mark(),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number(4, signed=True)),
    pickle.BININT1: lambda m: m.push(m.number(1)),
    pickle.BININT2: lambda m: m.push(m.number(2)),
    pickle.LONG1: lambda m: m.push(m.number(m.number(1), signed=True)),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    pickle.BINUNICODE: lambda m: m.push(m.text(4)),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(1)),
    pickle.BINBYTES: lambda m: m.push(m.take(m.number(4))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number(1))),
    pickle.BYTEARRAY8: lambda m: m.push(m.take(m.number(8))),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.push_tuple(m.pop_many(1)),
    pickle.TUPLE2: lambda m: m.push_tuple(m.pop_many(2)),
    pickle.TUPLE3: lambda m: m.push_tuple(m.pop_many(3)),
    pickle.TUPLE: lambda m: m.push_tuple(m.pop_mark()),
    pickle.EMPTY_LIST: lambda m: m.push_container([]),
    pickle.APPEND: lambda m: m.extend(m.pop_many(1)),
    pickle.APPENDS: lambda m: m.extend(m.pop_mark()),
    pickle.EMPTY_DICT: lambda m: m.push_container({}),
    pickle.SETITEM: lambda m: m.set_items(m.pop_many(2)),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    pickle.EMPTY_SET: lambda m: m.push(SET),
    pickle.ADDITEMS: lambda m: m.extend(m.pop_mark()),
    pickle.FROZENSET: lambda m: (m.pop_mark(), m.push(SET)),
    pickle.BINPUT: lambda m: m.store(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.store(m.number(4)),
    pickle.MEMOIZE: lambda m: m.store(len(m.memo)),
    pickle.BINGET: lambda m: m.fetch(m.number(1)),
    pickle.LONG_BINGET: lambda m: m.fetch(m.number(4)),
    pickle.GLOBAL: lambda m: m.push_name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.push_name(*m.pop_many(2)),
    pickle.REDUCE: lambda m: m.reduce(),
    pickle.NEWOBJ: lambda m: m.new(2),
    pickle.NEWOBJ_EX: lambda m: m.new(3),
    pickle.BUILD: lambda m: m.build(),
    pickle.BINPERSID: lambda m: m.push(storage_reference(m.pop())),
}.items()}


def instruction_name(code: int) -> str:
    """Name of an instruction's byte in Python's documentation."""
    known = pickletools.code2op.get(chr(code))
    return known.name if known else f"the unknown instruction {code}"


def demo() -> None:
    """How many instructions there are, and those of a small pickle with their places."""
    print(f"{len(OPERATIONS)} of the {len(pickletools.opcodes)} instructions of Python's pickles")
    for opcode, argument, place in pickletools.genops(pickle.dumps({"a": (1, 2.5)}, protocol=2)):
        print(f"{place:3} {opcode.name:11} {'' if argument is None else argument}")


if __name__ == "__main__":
    demo()
