"""The stack machine that reads a `.pt` file's description, with a budget; no code in it is run.

Claim: the pickle that describes the tensors is a program of some forty kinds of instructions
(`io/pickle_instructions.py`).  A machine of one's own can do what Python's cannot: count.  An
instruction costs one step, and moves no value that another one has not pushed before, so the number
of steps bounds time and memory, whatever the file says.  Containers, calls and names cost more.

    instructions                    at most MAX_STEPS steps
    open containers (MARK)          at most MAX_MARKS at once
    keys of a dict                  text of at most MAX_KEY characters, or a number of 32 bits; a
                                    pair with another key is not kept, so no tuple is ever hashed
    tuples                          at most MAX_MEMBERS members; those of a longer one are not kept
    memo, the table of earlier      indices below MAX_STEPS
    values
    names                           at most MAX_KEY characters, printable

A value that is not kept becomes Unread, see `io/unpickler.py`, which also says what names make.

Source of the semantics: Python's pickle.py, class _Unpickler.
Left out: objects that contain themselves before they are complete (POP), text in other encodings.
"""
import argparse
import io
import pickle
import pickletools
import zipfile
from typing import Any, NamedTuple

import torch

from minilora.io.checkpoint_error import MAX_NUMBER_KEY, CheckpointError
from minilora.io.pickle_instructions import OPERATIONS, instruction_name
from minilora.io.text import shown
from minilora.io.unpickler import (LongTuple, ModuleStub, Unread, call, describe, find_name,
                                   is_tensor, new_object)

MAX_STEPS = 300_000                     # a CLIP takes 70,000; with averages and AdamW 200,000
MAX_MARKS, MAX_MEMBERS, MAX_KEY = 100, 8, 1_000
MAX_UNREAD = 20                         # names of unread objects that are remembered
CONTAINER_STEPS, CALL_STEPS, NAME_STEPS = 5, 8, 100     # extra: for memory, arguments, long texts
SKIPPED_PAIR = "values under keys that are neither text nor small numbers"


class Description(NamedTuple):
    """The object in a pickle, and the names of the objects in it that were not read."""
    value: Any
    unread: list[str]


class PickleMachine:
    """The state: the place in the content, the stack, the marks on it, and the memo."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.steps = content, 0, 0
        self.stack, self.marks, self.memo = [], [], {}
        self.unread = {}                # name -> None: a set that keeps the order

    def run(self) -> Any:
        """The value on the stack when the pickle stops.  Raises CheckpointError."""
        while self.at < len(self.content):
            code = self.content[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                return self.pop()
            if code not in OPERATIONS:
                raise CheckpointError(f"its data.pkl uses {instruction_name(code)}, which PyTorch "
                                      "does not; save it again with torch.save's defaults")
            self.spend(1)
            OPERATIONS[code](self)
        raise damaged("it ends too early")

    def spend(self, steps: int) -> None:
        """Count steps.  Raises CheckpointError if there are too many."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise CheckpointError(f"its data.pkl takes over {MAX_STEPS:,} steps; this is no "
                                  "description of a CLIP; save only its state_dict")

    # ---- reading what follows an instruction

    def take(self, count: int) -> bytes:
        """The next bytes of the pickle."""
        start, self.at = self.at, self.at + count
        if self.at > len(self.content):
            raise damaged("it ends too early")
        return self.content[start:self.at]

    def number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def text(self, length_bytes: int) -> str:
        return self.take(self.number(length_bytes)).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        """Text up to the end of the line: GLOBAL's two names."""
        end = self.content.find(b"\n", self.at, self.at + MAX_KEY)
        if end < 0:
            raise damaged("a name without end")
        text = self.content[self.at:end].decode()
        self.at = end + 1
        return text

    # ---- the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.pop_many(1)[0]

    def pop_many(self, count: int) -> list:
        """The uppermost values, the last one pushed last; not those below a mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise damaged("a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def top(self) -> Any:
        """The uppermost value, which stays."""
        value = self.pop()
        self.push(value)
        return value

    def mark(self) -> None:
        self.marks.append(len(self.stack))
        if len(self.marks) > MAX_MARKS:
            raise CheckpointError(f"its data.pkl nests over {MAX_MARKS} levels deep; this is no "
                                  "description of a CLIP")

    def pop_mark(self) -> list:
        """All values above the last mark, which is removed."""
        if not self.marks:
            raise damaged("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # ---- containers

    def push_container(self, value: Any) -> None:
        self.spend(CONTAINER_STEPS)
        self.push(value)

    def push_tuple(self, members: list) -> None:
        self.push_container(tuple(members) if len(members) <= MAX_MEMBERS else
                            LongTuple(any(map(is_tensor, members))))

    def extend(self, values: list) -> None:
        """APPEND, APPENDS: to a list; what an unread object would hold is not kept."""
        target = self.top()
        if type(target) is list:
            target += values
        elif type(target) is not Unread:
            raise damaged(f"values are appended to {describe(target)}")

    def set_items(self, pairs: list) -> None:
        """SETITEM, SETITEMS: key, value, key, value, ... into a dict."""
        target = self.top()
        if len(pairs) % 2 or type(target) not in (dict, Unread):
            raise damaged(f"pairs are set in {describe(target)}")
        if type(target) is Unread:
            return
        for key, value in zip(pairs[::2], pairs[1::2]):
            if type(key) is str and len(key) > MAX_KEY:
                raise CheckpointError(f"it has a key of {len(key):,} characters, expected at most "
                                      f"{MAX_KEY:,}; it is damaged or forged")
            if type(key) is str or type(key) is int and abs(key) <= MAX_NUMBER_KEY:
                target[key] = value
            else:
                self.note(SKIPPED_PAIR)

    # ---- the memo

    def store(self, index: int) -> None:
        if index >= MAX_STEPS:
            raise CheckpointError(f"its data.pkl uses LONG_BINPUT {index}, which PyTorch does not; "
                                  "save it again with torch.save's defaults")
        self.memo[index] = self.top()

    def fetch(self, index: int) -> None:
        if index not in self.memo:
            raise damaged(f"value {index} is used before it is stored")
        self.push(self.memo[index])

    # ---- names and objects

    def note(self, name: str) -> None:
        if len(self.unread) < MAX_UNREAD:
            self.unread[name] = None

    def push_name(self, module: Any, name: Any) -> None:
        """GLOBAL, STACK_GLOBAL."""
        self.spend(NAME_STEPS)
        if not (type(module) is type(name) is str and len(module) + len(name) <= MAX_KEY
                and (module + name).isprintable()):
            raise damaged("a name that is no short, printable text")
        found = find_name(module, name)
        if type(found) is Unread:
            self.note(found.name)
        self.push(found)

    def reduce(self) -> None:
        self.spend(CALL_STEPS)
        self.push(call(*self.pop_many(2)))

    def new(self, count: int) -> None:
        """NEWOBJ (class, arguments); NEWOBJ_EX has keyword arguments too, which are not kept."""
        self.spend(CALL_STEPS)
        self.push(new_object(*self.pop_many(count)[:2]))

    def build(self) -> None:
        """BUILD: attributes for the object below; only a ModuleStub keeps them."""
        state, target = self.pop(), self.top()
        if type(target) is ModuleStub:
            target.attributes = state if type(state) is dict else {}
        elif type(target) not in (Unread, dict):        # of an OrderedDict: versions of its modules
            raise damaged(f"attributes are set on {describe(target)}")


def restricted_load(content: bytes) -> Description:
    """The object in a pickle, with TensorMetadata for tensors and ModuleStubs for modules.

    Raises CheckpointError for everything that PyTorch's writers would not write.
    """
    machine = PickleMachine(content)
    try:
        return Description(machine.run(), list(machine.unread))
    except UnicodeDecodeError as error:
        raise damaged("a text that is not UTF-8") from error


def damaged(what: str) -> CheckpointError:
    """The error for a program that no writer made."""
    return CheckpointError(f"its data.pkl is damaged ({shown(what)}); copy or download it again")


def demo() -> None:
    """The instructions of a small description, what they make, and two that are refused."""
    file = io.BytesIO()
    torch.save({"weight": torch.ones(2, 3).half(), "args": argparse.Namespace(rate=0.1)}, file)
    content = zipfile.ZipFile(file).read("archive/data.pkl")
    machine = PickleMachine(content)
    value = machine.run()
    names = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    print(f"{len(content)} bytes, {machine.steps} steps: {' '.join(names[:9])} ...")
    for key, item in value.items():
        print(f"{key}: {item}")
    attack = b"cos\nsystem\nX\x03\x00\x00\x00cmd\x85R."
    for content in (attack, b"]q\x00" + b"h\x00" * MAX_STEPS):
        try:
            restricted_load(b"\x80\x02" + content)
        except CheckpointError as error:
            print("refused:", error)


if __name__ == "__main__":
    demo()
