"""Reads the text of a compiled program: computations, instructions, and how often each runs."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

_BYTES: Final = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
    "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip
_ARRAY: Final = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_HEADER: Final = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION: Final = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED: Final = re.compile(
    r"\b(calls|to_apply|condition|body|branch_computations|true_computation|false_computation|"
    r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS: Final = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME: Final = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Shape:
    """An array in memory.

    Attributes:
        dtype: as XLA calls it.
        dims: sizes.
        on_chip: whether it lies in the chip's own fast memory (VMEM), not in HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.dims, dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        """Bytes without padding; 0 for tokens and other opaque things."""
        return int(self.size * _BYTES.get(self.dtype, 0))


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in the module.
        opcode: such as `fusion`, `all-gather-start`.
        shapes: of its results, a tuple's flattened.
        operands: names.
        called: attribute -> computations that it runs, such as `body` of a `while`.
        text: everything behind the operands.
        is_root: whether its result is the computation's.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    called: Mapping[str, tuple[str, ...]]
    text: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Of its results."""
        return sum(shape.num_bytes for shape in self.shapes)


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        entry: where it starts.
        computations: name -> its instructions by name, in their order.
    """

    entry: str
    computations: dict[str, Computation]

    def executed(self) -> Iterator[tuple[str, float, bool]]:
        """Each computation that runs, how often, and whether inside of one fused instruction.

        A loop's body runs as often as the compiler knows; once where it does not know. Of the
        branches of a condition each is counted.
        """
        yield from self._executed(self.entry, 1.0, False)

    def _executed(
        self, name: str, times: float, is_fused: bool
    ) -> Iterator[tuple[str, float, bool]]:
        yield name, times, is_fused
        for instruction in self.computations[name].values():
            factor = self.trip_count(instruction) if instruction.opcode == "while" else 1
            inside = is_fused or instruction.opcode == "fusion"
            if instruction.opcode in _APPLIES_TO_ELEMENTS:
                continue
            for names in instruction.called.values():
                for called in names:
                    yield from self._executed(called, times * factor, inside)

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` runs its body, by the compiler or its counter; 1 if neither tells."""
        known = _TRIPS.search(loop.text)
        if known:
            return int(known[1])
        (condition,) = loop.called.get("condition", ("",))
        inside = self.computations.get(condition, {})
        limits = [value for one in inside.values() if (value := _constant(one)) is not None]
        step = self._step(loop, inside)
        return math.ceil(max(limits, default=1) / step)

    def _step(self, loop: Instruction, condition: Computation) -> int:
        """By how much a loop's counter grows; 1 where it is not plainly added."""
        (body,) = loop.called.get("body", ("",))
        inside = self.computations.get(body, {})
        counted = [_element(one) for one in condition.values() if one.opcode == _ELEMENT]
        roots = [one for one in inside.values() if one.is_root and one.opcode == "tuple"]
        if len(counted) != 1 or not roots or counted[0] >= len(roots[0].operands):
            return 1
        one, step = inside.get(roots[0].operands[counted[0]]), 0
        while one is not None and one.opcode == "add":
            operands = [inside[name] for name in one.operands if name in inside]
            added = [value for part in operands if (value := _constant(part)) is not None]
            rest = [part for part in operands if _constant(part) is None]
            if len(added) != 1 or len(rest) != 1:
                return 1
            one, step = rest[0], step + added[0]
        is_counter = one is not None and one.opcode == _ELEMENT and _element(one) == counted[0]
        return step if is_counter and step > 0 else 1

    def operand_shapes(self, computation: str, instruction: Instruction) -> list[tuple[Shape, ...]]:
        """Shapes of what an instruction reads."""
        inside = self.computations[computation]
        return [inside[name].shapes for name in instruction.operands if name in inside]


_ELEMENT: Final = "get-tuple-element"


def _constant(instruction: Instruction) -> int | None:
    """The whole number that an instruction is; None of others."""
    if instruction.opcode != "constant":
        return None
    found = re.match(r"\((-?\d+)\)", instruction.text)
    return int(found[1]) if found else None


def _element(instruction: Instruction) -> int:
    """Which element of a tuple it takes."""
    found = re.search(r"index=(\d+)", instruction.text)
    return int(found[1]) if found else 0


# What their computations are applied to are elements, which cost nothing beside the whole.
_APPLIES_TO_ELEMENTS: Final = (
    "reduce", "all-reduce", "all-reduce-start", "reduce-scatter", "reduce-window", "scatter",
    "select-and-scatter", "sort", "map",
)  # fmt: skip


def parse_module(text: str) -> Module:
    """Reads `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _whole_lines(text):
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line == "}":
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("expected the text of a compiled program, found no ENTRY")
    return Module(entry, computations)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, with what kernels say of themselves, which has lines of its own, in one."""
    open_line = ""
    for line in text.splitlines():
        if line in ("", "}") or _HEADER.match(line) or _INSTRUCTION.match(line):
            if open_line:
                yield open_line
            open_line = line
        else:
            open_line += line
    if open_line:
        yield open_line


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    kind, rest = _split_type(rest)
    opcode, _, rest = rest.partition("(")
    inner, rest = _until_closed(rest)
    attributes = rest
    if opcode in ("constant", "parameter"):
        attributes = f"({inner}){rest}"
    return Instruction(
        name=name,
        opcode=opcode.strip(),
        shapes=tuple(parse_shapes(kind)),
        operands=tuple(_NAME.findall(inner)),
        called={
            key: tuple(part.strip().lstrip("%") for part in names.strip("{}").split(","))
            for key, names in _CALLED.findall(rest)
        },
        text=attributes,
        is_root=is_root,
    )


def parse_shapes(text: str) -> list[Shape]:
    """Reads `f32[2,3]{1,0}` or a tuple of such."""
    return [
        Shape(
            dtype,
            tuple(int(dim) for dim in dims.split(",") if dim),
            "S(1)" in (layout or ""),
        )
        for dtype, dims, layout in _ARRAY.findall(text)
    ]


def _split_type(text: str) -> tuple[str, str]:
    """The type of a result, and what is behind it."""
    if not text.startswith("("):
        # A layout may have brackets, but no spaces: bf16[4,8]{1,0:T(8,128)(2,1)S(1)}
        kind, _, rest = text.partition(" ")
        return kind, rest
    inner, rest = _until_closed(text[1:])
    return inner, rest.lstrip()


def _until_closed(text: str) -> tuple[str, str]:
    """What is inside of an opened bracket, and what is behind it."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:place], text[place + 1 :]
    return text, ""
