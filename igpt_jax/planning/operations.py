"""Operations of the instructions of a compiled program: matrix products and convolutions."""

import re
from typing import Final

import numpy as np

from igpt_jax.planning.hlo import Instruction, Module, Shape

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
_WINDOW: Final = re.compile(r"window=\{([^}]*)\}")


def count_operations(module: Module, computation: str, instruction: Instruction) -> float:
    """What an instruction computes each time; all but products costs bytes, not operations."""
    if instruction.opcode == "fusion":
        return sum(
            count_operations(module, called, inner)
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
