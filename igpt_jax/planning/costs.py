"""What the instructions of a compiled program compute, and what they move to and from HBM."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from igpt_jax.planning.collectives import KINDS
from igpt_jax.planning.hlo import Computation, Instruction, Module, Shape

_FREE: Final = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "domain", "iota",
)  # fmt: skip
_CONTRACTED: Final = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS: Final = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# What a Pallas kernel says of itself.
_KERNEL: Final = re.compile(r'"cost_estimate":\s*\{[^}]*?"flops":\s*"?(\d+)')
# The attention kernel of TPUs does not: its products of queries and keys' blocks.
_SPLASH: Final = re.compile(r"^splash_mha_(fwd|dq|dkv)_")
_SPLASH_PRODUCTS: Final = {"fwd": 2, "dq": 3, "dkv": 4}
_SPLASH_BLOCK: Final = re.compile(r'\\"block_q\\": (\d+)')
# Products by GPUs' libraries: which axes are summed over; attention, forward and backward.
_CUBLAS: Final = re.compile(
    r'custom_call_target="__cublas\$.*"lhs_contracting_dimensions":\[([^\]]*)\]'
)
_CUDNN: Final = re.compile(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?"')
_ALLOCATES: Final = 'custom_call_target="AllocateBuffer"'
_WINDOW: Final = re.compile(r"window=\{([^}]*)\}")


@dataclass(frozen=True)
class Work:
    """What one instruction does each time.

    Attributes:
        times: how often it runs.
        flops: of its matrix products and convolutions; all else costs bytes, not operations.
        num_bytes: read from and written to HBM, of slices only what they touch.
        in_background: whether it is a copy that moves while others compute.
    """

    times: float
    flops: float
    num_bytes: float
    in_background: bool = False


def find_work(module: Module) -> list[Work]:
    """The work of each instruction that is no communication."""
    return [
        Work(
            times,
            _flops(module, name, instruction),
            _hbm_bytes(module, name, instruction),
            in_background=instruction.opcode.endswith("-start"),
        )
        for name, times, is_fused in module.executed()
        if not is_fused
        for instruction in module.computations[name].values()
        if instruction.opcode not in _FREE
        and not instruction.opcode.endswith("-done")
        and instruction.opcode.removesuffix("-start") not in KINDS
    ]


def total_flops(work: list[Work]) -> float:
    """Operations of a program, loops counted."""
    return sum(one.times * one.flops for one in work)


def total_bytes(work: list[Work]) -> float:
    """HBM traffic of a program, loops counted."""
    return sum(one.times * one.num_bytes for one in work)


def _flops(module: Module, computation: str, instruction: Instruction) -> float:
    if instruction.opcode == "fusion":
        return sum(
            _flops(module, called, inner)
            for called in instruction.called.get("calls", ())
            for inner in module.computations[called].values()
        )
    if instruction.opcode == "custom-call":
        return _kernel_flops(module, computation, instruction)
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    shapes = module.operand_shapes(computation, instruction)
    if len(shapes) < 2:
        return 0.0
    (left, *_), (right, *_) = shapes[:2]
    if instruction.opcode == "dot":
        contracted = _CONTRACTED.search(instruction.text)
        dims = [int(dim) for dim in contracted[1].split(",") if dim] if contracted else []
        return 2.0 * instruction.shapes[0].size * float(np.prod([left.dims[d] for d in dims]))
    return _convolution_flops(left, right, instruction)


def _kernel_flops(module: Module, computation: str, instruction: Instruction) -> float:
    """What a kernel says of itself; of causal attention, the blocks that are not hidden."""
    if said := _KERNEL.search(instruction.text):
        return float(said[1])
    shapes = [shape for (shape, *_) in module.operand_shapes(computation, instruction)]
    if product := _CUBLAS.search(instruction.text):
        summed = [shapes[0].dims[int(axis.strip(' "'))] for axis in product[1].split(",")]
        return 2.0 * instruction.shapes[0].size * float(np.prod(summed))
    if fused := _CUDNN.search(instruction.text):
        rows, slots, heads, head_dim = shapes[0].dims
        pairs = slots**2 / (2 if "CAUSAL" in instruction.text else 1)
        return 2.0 * (5 if fused[1] else 2) * rows * heads * pairs * head_dim
    attention = _SPLASH.match(instruction.name)
    if attention is None:
        return 0.0
    query = next(shape for shape in shapes if len(shape.dims) == 4)  # behind those of the mask
    rows, heads, slots, head_dim = query.dims
    told = _SPLASH_BLOCK.search(instruction.text)
    block = int(told[1]) if told else slots
    blocks = slots // block
    pairs = blocks * (blocks + 1) // 2 * block**2
    return 2.0 * _SPLASH_PRODUCTS[attention[1]] * rows * heads * pairs * head_dim


def _convolution_flops(left: Shape, right: Shape, instruction: Instruction) -> float:
    """Multiplications that meet an element, not padding, and as many additions.

    TPUs write batched products as convolutions whose windows are mostly padding.
    """
    labels = _LABELS.search(instruction.text)
    if labels is None:
        return 0.0
    result = dict(zip(labels[3], instruction.shapes[0].dims, strict=True))
    inputs = dict(zip(labels[1], left.dims, strict=True))
    kernel = dict(zip(labels[2], right.dims, strict=True))
    spatial = sorted(label for label in result if label.isdigit())
    products = float(result["b"] * result["f"] * kernel["i"])
    window = _window(instruction.text, len(spatial))
    for place, label in enumerate(spatial):
        size, stride, low, left_dilation, right_dilation = window[place]
        starts = np.arange(result[label])[:, None] * stride
        seen = starts + np.arange(size) * right_dilation - low
        at = seen // left_dilation
        products *= float(np.sum((seen % left_dilation == 0) & (at >= 0) & (at < inputs[label])))
    return 2.0 * products


def _window(text: str, rank: int) -> list[tuple[int, int, int, int, int]]:
    """(size, stride, low padding, left dilation, right dilation) of each spatial axis."""
    found = _WINDOW.search(text)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def numbers(name: str, default: str) -> list[int]:
        parts = fields[name].split("x") if name in fields else [default] * rank
        return [int(part.split("_")[0]) for part in parts]

    return list(
        zip(
            numbers("size", "1"),
            numbers("stride", "1"),
            numbers("pad", "0_0"),
            numbers("lhs_dilate", "1"),
            numbers("rhs_dilate", "1"),
            strict=True,
        )
    )


def _hbm_bytes(module: Module, computation: str, instruction: Instruction) -> float:
    inside = module.computations[computation]
    operands = [inside[name] for name in instruction.operands if name in inside]
    if _ALLOCATES in instruction.text:
        return 0.0
    if instruction.opcode in ("dynamic-slice", "gather", "slice"):
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


def _part_read(user: Instruction, name: str) -> float | None:
    """Bytes of an operand that an instruction touches; None for all of it."""
    if user.opcode in ("dynamic-slice", "gather", "slice") and user.operands[0] == name:
        return float(user.num_bytes)
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        return 0.0  # the rest stays where it is
    return None


def _fusion_writes(module: Module, fused: Computation, instruction: Instruction) -> float:
    """What a fusion writes; of an array that it updates in place, the update."""
    (root,) = (inner for inner in fused.values() if inner.is_root)
    roots = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(roots) != len(instruction.shapes):
        return _in_hbm(instruction.shapes)
    return sum(
        0.0 if shape.on_chip else _written(module, fused, root)
        for root, shape in zip(roots, instruction.shapes, strict=True)
    )


def _written(module: Module, fused: Computation, source: Instruction) -> float:
    """Bytes that make a result of a fusion, also of one inside of another."""
    if source.opcode == "bitcast":
        return _written(module, fused, fused[source.operands[0]])
    if source.opcode == "dynamic-update-slice":
        return float(fused[source.operands[1]].num_bytes)
    if source.opcode == "fusion":
        inside = module.computations[source.called["calls"][0]]
        (root,) = (inner for inner in inside.values() if inner.is_root)
        if root.opcode != "tuple":
            return _written(module, inside, root)
    return float(source.num_bytes)


def _parameter(fused: Computation, number: int) -> Instruction | None:
    for inner in fused.values():
        if inner.opcode == "parameter" and inner.text.startswith(f"({number})"):
            return inner
    return None


def _users(
    module: Module, fused: Computation, source: Instruction
) -> Iterator[tuple[Instruction, str]]:
    """What reads an instruction's result, under which name; also behind bitcasts and in fusions."""
    for inner in fused.values():
        if source.name not in inner.operands:
            continue
        if inner.opcode == "bitcast":
            yield from _users(module, fused, inner)
        elif inner.opcode == "fusion":
            inside = module.computations[inner.called["calls"][0]]
            for number, name in enumerate(inner.operands):
                parameter = _parameter(inside, number) if name == source.name else None
                if parameter is not None:
                    yield from _users(module, inside, parameter)
        else:
            yield inner, source.name
