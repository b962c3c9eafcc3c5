"""Pickles as data: what they say is read, nothing that they name is ever imported or called.

`pickle.Unpickler` cannot be made this safe by overriding `find_class`: it sets attributes on what
that returns, takes classes from the extension registry, and hashes nested keys of any depth. So the
opcodes are interpreted here, on lists, and every value is a plain one or inert.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import IO, Any, Final, TypeAlias, cast


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names.

    Attributes:
        name: module and name, with a dot between them.
    """

    name: str


class Unknown:
    """What a pickle would have made by running code, or of a kind that is of no use here."""


UNKNOWN: Final = Unknown()
Call: TypeAlias = Callable[[str, tuple[Any, ...]], Any]

_VALUES: Final = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_CONSTANTS: Final = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_SET": UNKNOWN,
    "NEXT_BUFFER": UNKNOWN,
    "EXT1": UNKNOWN,
    "EXT2": UNKNOWN,
    "EXT4": UNKNOWN,
}
_NOTHING: Final = ("PROTO", "FRAME", "READONLY_BUFFER")
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS: Final = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS: Final = ("GET", "BINGET", "LONG_BINGET")


def load_inert(file: BufferedIOBase, call: Call, stored: Callable[[Any], Any]) -> Any:
    """Read one pickle, up to its end.

    Args:
        file: at the first byte of the pickle; afterwards behind its last one.
        call: given the name of a class or function, and the arguments, returns what a call of it
            stands for, or `UNKNOWN`.
        stored: given a persistent id, returns what it stands for.

    Returns:
        None, booleans, numbers, text, bytes, tuples, lists and dictionaries (with only those
        entries whose key is text); `Named`, `UNKNOWN`, and what `call` and `stored` return.

    Raises:
        Exception: of nearly any kind, where the pickle is damaged.
    """
    machine = _Machine(call, stored)
    for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", file)):
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    def __init__(self, call: Call, stored: Callable[[Any], Any]) -> None:
        self.call, self.stored = call, stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies below each mark
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _NOTHING:
            pass
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in _GETS:
            stack.append(self.memo[int(argument)])
        elif name in _PUTS:
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "POP" and stack:
            stack.pop()
        elif name in ("POP", "POP_MARK"):
            self.since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            self.build(name, argument)

    def build(self, name: str, argument: Any) -> None:
        """The opcodes that put values together."""
        match name:
            case "TUPLE":
                self.push(tuple(self.since_mark()))
            case "LIST":
                self.push(self.since_mark())
            case "DICT":
                self.push(_set_items({}, self.since_mark()))
            case "SETITEMS":
                items = self.since_mark()
                _set_items(self.stack[-1], items)
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                _set_items(self.stack[-1], [key, value])
            case "APPENDS":
                items = self.since_mark()
                _extend(self.stack[-1], items)
            case "APPEND":
                item = self.stack.pop()
                _extend(self.stack[-1], [item])
            case "GLOBAL":
                self.push(Named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                last, module = self.stack.pop(), self.stack.pop()
                self.push(Named(f"{module}.{last}" if isinstance(module, str) else ""))
            case "REDUCE":
                arguments, function = self.stack.pop(), self.stack.pop()
                known = isinstance(function, Named) and isinstance(arguments, tuple)
                self.push(self.call(function.name, arguments) if known else UNKNOWN)
            case "NEWOBJ":
                del self.stack[-2:]
                self.push(UNKNOWN)
            case "NEWOBJ_EX":
                del self.stack[-3:]
                self.push(UNKNOWN)
            case "INST" | "OBJ" | "FROZENSET":
                self.since_mark()
                self.push(UNKNOWN)
            case "BUILD":
                self.stack.pop()  # the state of an object: attributes of no use here
            case "ADDITEMS":
                self.since_mark()
            case "PERSID" | "BINPERSID":
                self.push(self.stored(self.stack.pop() if name == "BINPERSID" else argument))
            case _:
                raise ValueError(f"a pickle with the opcode {name}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items


def _set_items(target: Any, items: list[Any]) -> Any:
    if isinstance(target, dict):
        # Other keys are of no use, and one that is nested deeply would overflow its hash.
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))
    return target


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
