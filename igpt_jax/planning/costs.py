"""What the instructions of a compiled program compute, and what they move to and from HBM."""

from dataclasses import dataclass
from typing import Final

from igpt_jax.planning.collectives import KINDS
from igpt_jax.planning.hlo import Module
from igpt_jax.planning.operations import count_operations
from igpt_jax.planning.traffic import count_bytes

_FREE: Final = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "domain", "iota",
)  # fmt: skip


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
            count_operations(module, name, instruction),
            count_bytes(module, name, instruction),
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
