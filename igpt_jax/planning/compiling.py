"""Compiles a program for devices that are not here, and reads what the compiler says of it."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jax

from igpt_jax.planning.collectives import Collective, find_collectives
from igpt_jax.planning.costs import find_work, total_bytes, total_flops
from igpt_jax.planning.hlo import parse_module
from igpt_jax.planning.programs import Program
from igpt_jax.planning.topology import Topology

# Two ways in which a TPU's compiler refuses: of all memory, and of temporaries alone.
_USED: Final = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_TEMPORARIES: Final = re.compile(
    r"temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"
)
_UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled:
    """What is known of a compiled program; bytes and operations are those of one device.

    Attributes:
        kinds: kind of argument -> bytes.
        memory: what the compiler says: `arguments`, `outputs`, `aliased` (outputs in the place of
            donated arguments), `temporaries`, `code` and `total`. Where the program does not fit,
            what the compiler tells: the total, or temporaries, to which its arguments are added.
        fits: whether it compiled.
        is_own: whether the chip's own compiler made it; of another's, only arrays, products and
            collectives tell of the chip.
        capacity: bytes that the compiler may use; None where it did not say.
        model_flops: of all devices, see `Program`.
        flops: of the compiled program's products, loops counted, with what is computed again.
        hbm_bytes: that it reads and writes, loops counted.
        busy_seconds: of each instruction the longer of computing and moving at the chip's
            published peaks, summed; without copies in the background.
        reported_flops: the compiler's own cost analysis, which counts the body of a loop once.
        reported_bytes: the same.
        collectives: what is communicated.
        seconds: that compiling took.
    """

    kinds: Mapping[str, int]
    memory: Mapping[str, int]
    model_flops: float
    fits: bool = True
    is_own: bool = True
    capacity: int | None = None
    flops: float = 0.0
    hbm_bytes: float = 0.0
    busy_seconds: float = 0.0
    reported_flops: float = 0.0
    reported_bytes: float = 0.0
    collectives: tuple[Collective, ...] = field(default=())
    seconds: float = 0.0


def compile_program(program: Program, topology: Topology) -> Compiled:
    """Compiles a program; one that does not fit is a result, not an error.

    Args:
        program: what to compile.
        topology: the chips that it is for.
    """
    kinds = {kind: shard_bytes(tree) for kind, tree in program.arguments.items()}
    start = time.perf_counter()
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory, capacity = _read_refusal(str(error), sum(kinds.values()))
        return Compiled(
            kinds,
            memory,
            program.model_flops,
            fits=False,
            capacity=capacity,
            seconds=time.perf_counter() - start,
        )
    seconds = time.perf_counter() - start
    return read_compiled(
        compiled, topology, kinds, program.model_flops,
        is_own=topology.chip.platform == "tpu", seconds=seconds,
    )  # fmt: skip


def read_compiled(
    compiled: Any,
    topology: Topology,
    kinds: Mapping[str, int],
    model_flops: float,
    *,
    is_own: bool = True,
    seconds: float = 0.0,
) -> Compiled:
    """What a program's text and the compiler's analyses tell.

    Args:
        compiled: `jax.stages.Compiled`.
        topology: the chips that it is for.
        kinds: kind of argument -> bytes.
        model_flops: of all devices, see `Program`.
        is_own: whether the chip's own compiler made it.
        seconds: that compiling took.
    """
    module = parse_module(compiled.as_text())
    work, chip = find_work(module), topology.chip
    reported = compiled.cost_analysis() or {}
    return Compiled(
        kinds,
        _memory(compiled.memory_analysis()),
        model_flops,
        is_own=is_own,
        flops=total_flops(work),
        hbm_bytes=total_bytes(work),
        busy_seconds=sum(
            one.times * max(one.flops / chip.peak_flops, one.num_bytes / chip.memory_bandwidth)
            for one in work
            if not one.in_background
        ),
        reported_flops=float(reported.get("flops", 0.0)),
        reported_bytes=float(reported.get("bytes accessed", 0.0)),
        collectives=tuple(find_collectives(module, topology.num_chips)),
        seconds=seconds,
    )


def shard_bytes(tree: Any) -> int:
    """Bytes of laid-out arrays on one device, without padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _item_size(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _item_size(dtype: Any) -> int:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return 8  # a key is two words of 32 bits
    return dtype.itemsize


def _memory(analysis: Any) -> dict[str, int]:
    sizes = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    return sizes | {"total": sum(sizes.values()) - 2 * sizes["aliased"]}


def _read_refusal(message: str, arguments: int) -> tuple[dict[str, int], int | None]:
    """What a program would need, and what there is; as far as the compiler tells."""
    if used := _USED.search(message):
        return {"total": _read_bytes(used[1], used[2])}, _read_bytes(used[3], used[4])
    if used := _TEMPORARIES.search(message):
        temporaries = _read_bytes(used[1], used[2])
        memory = {"temporaries": temporaries, "total": arguments + temporaries}
        return memory, _read_bytes(used[3], used[4])
    return {}, None


def _read_bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])
