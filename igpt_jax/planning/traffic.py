"""What the instructions of a compiled program move to and from HBM."""

from collections.abc import Iterator
from typing import Final

from igpt_jax.planning.collectives import KINDS
from igpt_jax.planning.hlo import Computation, Instruction, Module, Shape

# What is there already, under another name or in another's place.
_FREE_CALLS: Final = tuple(
    f'custom_call_target="{name}'
    for name in ("AllocateBuffer", "AssumeGatherIndicesInBound", "AsyncCollective", "ConcatBitcast")
)
_SAME: Final = ("bitcast", "copy")  # inside of a fusion: the same values, elsewhere or not at all
_SLICES: Final = ("dynamic-slice", "gather", "slice")


def count_bytes(module: Module, computation: str, instruction: Instruction) -> float:
    """What an instruction reads and writes each time, of slices only what they touch."""
    inside = module.computations[computation]
    operands = [inside[name] for name in instruction.operands if name in inside]
    if _is_free(instruction):
        return 0.0
    if instruction.opcode == "slice-start":  # its results: the operand, the slice, and a context
        whole, part = instruction.shapes[:2]
        return float(part.num_bytes * (2 - whole.on_chip - part.on_chip))
    if instruction.opcode in _SLICES:
        return 2.0 * _in_hbm(instruction.shapes)
    if instruction.opcode == "dynamic-update-slice" and len(operands) > 1:
        return 2.0 * _in_hbm(operands[1].shapes)
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called["calls"][0]]
        return _fusion_reads(module, fused, operands) + _fusion_writes(module, fused, instruction)
    shapes = instruction.shapes
    if instruction.opcode.endswith("-start"):  # its results name its operands once more
        shapes = shapes[:1]
    return _in_hbm(shapes) + sum(_in_hbm(operand.shapes) for operand in operands)


def _in_hbm(shapes: tuple[Shape, ...]) -> float:
    return float(sum(shape.num_bytes for shape in shapes if not shape.on_chip))


def _fusion_reads(module: Module, fused: Computation, operands: list[Instruction]) -> float:
    """What a fusion reads; of an operand of which it only takes slices, these."""
    total = 0.0
    for number, operand in enumerate(operands):
        whole = _in_hbm(operand.shapes)
        parameter = _parameter(fused, number)
        if whole and parameter is not None:
            sizes = [_part_read(user, name) for user, name in _users(module, fused, parameter)]
            if all(size is not None for size in sizes):
                whole = min(whole, sum(size for size in sizes if size is not None))
        total += whole
    return total


def _part_read(user: Instruction | None, name: str) -> float | None:
    """Bytes of an operand that an instruction touches; None for all of it."""
    if user is None:
        return None
    if user.opcode in _SLICES and user.operands[0] == name:
        return float(user.num_bytes)
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        return 0.0  # the rest stays where it is
    if user.opcode == "tuple" or _is_sent(user):
        return 0.0  # handed on, or counted as communication
    return None


def _is_sent(instruction: Instruction) -> bool:
    """Whether it is a collective, or its start or end."""
    return instruction.opcode in KINDS or _is_free(instruction)


def _is_free(instruction: Instruction) -> bool:
    return any(call in instruction.text for call in _FREE_CALLS)


def _fusion_writes(module: Module, fused: Computation, instruction: Instruction) -> float:
    """What a fusion writes; of an array that it updates in place, the update."""
    root = _root(fused)
    roots = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if _is_sent(root):
        return 0.0
    if len(roots) != len(instruction.shapes):
        return _in_hbm(instruction.shapes)
    return sum(
        0.0 if shape.on_chip else _written(module, fused, root)
        for root, shape in zip(roots, instruction.shapes, strict=True)
    )


def _written(module: Module, fused: Computation, source: Instruction) -> float:
    """Bytes that make a result of a fusion, also of one inside of another."""
    if source.opcode in _SAME:
        inner = fused[source.operands[0]]
        is_whole = inner.opcode == "parameter"
        return float(source.num_bytes) if is_whole else _written(module, fused, inner)
    if source.opcode == "dynamic-update-slice":
        return float(fused[source.operands[1]].num_bytes)
    if source.opcode == "parameter" or _is_sent(source):
        return 0.0  # handed on, or counted as communication
    if source.opcode == "fusion":
        inside = module.computations[source.called["calls"][0]]
        root = _root(inside)
        if root.opcode != "tuple":
            return _written(module, inside, root)
    return float(source.num_bytes)


def _root(computation: Computation) -> Instruction:
    (root,) = (inner for inner in computation.values() if inner.is_root)
    return root


def _parameter(fused: Computation, number: int) -> Instruction | None:
    for inner in fused.values():
        if inner.opcode == "parameter" and inner.text.startswith(f"({number})"):
            return inner
    return None


def _users(
    module: Module, fused: Computation, source: Instruction
) -> Iterator[tuple[Instruction | None, str]]:
    """What reads an instruction's values, and under which name; also in fusions inside of one.

    None where the computation hands them on as they are, to where it is called.
    """
    if source.is_root:
        yield None, source.name
    for inner in fused.values():
        if source.name not in inner.operands:
            continue
        if inner.opcode in _SAME:
            yield from _users(module, fused, inner)
        elif inner.opcode == "fusion":
            yield from _users_inside(module, fused, inner, source.name)
        else:
            yield inner, source.name


def _users_inside(
    module: Module, fused: Computation, call: Instruction, name: str
) -> Iterator[tuple[Instruction | None, str]]:
    """What reads an operand of a fusion, in it, and behind it where it hands the operand on."""
    inside = module.computations[call.called["calls"][0]]
    for number, operand in enumerate(call.operands):
        parameter = _parameter(inside, number) if operand == name else None
        if parameter is None:
            continue
        for user, known_as in _users(module, inside, parameter):
            if user is None:
                yield from _users(module, fused, call)
            else:
                yield user, known_as
