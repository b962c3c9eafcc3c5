"""What a compiled program communicates: by kind, with bytes, loops counted."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from igpt_jax.planning.hlo import Instruction, Module

KINDS: Final = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
_LISTED: Final = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA: Final = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH: Final = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_AXIS: Final = re.compile(r"'([^']+)'=(\d+)")
_NAMED: Final = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_CHANNEL: Final = re.compile(r"channel_id=(\d+)")
# A TPU moves such ones bit by bit inside of the products that follow. Those that have an
# `async_collective_name` were to move in the background, and do not.
_BACKGROUND: Final = re.compile(r"chain_id=")
# TPUs fuse a sum with the choice of one's own part of it.
_SCATTERS: Final = re.compile(r"all-reduce-scatter|reduce-scatter")


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind over groups of one size, all of a program.

    Attributes:
        kind: of `KINDS`.
        group_size: devices that take part in each.
        count: how many run.
        num_bytes: of the whole arrays, a device: what an all-gather makes, what the others take.
        largest: bytes of the largest single one.
        in_background: share of `num_bytes` that moves while the device computes.
    """

    kind: str
    group_size: int
    count: float
    num_bytes: float
    largest: float
    in_background: float = 0.0

    @property
    def bytes_sent(self) -> float:
        """Bytes that a device sends in a ring (Thakur et al. 2005, section 4)."""
        share = (self.group_size - 1) / self.group_size
        if self.kind == "all-reduce":  # a reduce-scatter, then an all-gather
            share *= 2
        return self.num_bytes * (1.0 if self.kind == "collective-permute" else share)


def find_collectives(module: Module, num_devices: int) -> list[Collective]:
    """All collectives of a program, the largest first.

    A collective that the compiler cut into pieces shows in several instructions of one channel, and
    counts once.

    Args:
        module: the program.
        num_devices: of the mesh, the size of a group that is not written out.
    """
    found: dict[object, Collective] = {}
    for name, times, _ in module.executed():
        for instruction in module.computations[name].values():
            if instruction.opcode.removesuffix("-start") not in KINDS:
                continue
            one = _collective(module, name, instruction, times, num_devices)
            channel = _CHANNEL.search(instruction.text)
            key = channel[1] if channel else (name, instruction.name)
            if key not in found or found[key].num_bytes < one.num_bytes:
                found[key] = one
    return _summed(one for one in found.values() if one.group_size > 1 and one.num_bytes)


def _collective(
    module: Module, computation: str, instruction: Instruction, times: float, num_devices: int
) -> Collective:
    kind = instruction.opcode.removesuffix("-start")
    size = _group_size(instruction.text, num_devices)
    taken = sum(
        shape.num_bytes
        for shapes in module.operand_shapes(computation, instruction)
        for shape in shapes
    )
    if kind == "all-gather":
        taken *= size
    if kind == "collective-permute":
        size = 2
    if kind == "all-reduce" and _SCATTERS.search(computation):
        kind = "reduce-scatter"
    is_async = instruction.opcode.endswith("-start") or _BACKGROUND.search(instruction.text)
    return Collective(kind, size, times, times * taken, taken, float(bool(is_async)))


def _group_size(text: str, num_devices: int) -> int:
    if listed := _LISTED.search(text):
        return len(listed[1].split(","))
    if iota := _IOTA.search(text):
        return int(iota[2])
    if named := _MESH.search(text):
        sizes = dict(_AXIS.findall(named[1]))
        parts = [int(part or sizes[name]) for name, part in _NAMED.findall(named[2])]
        return math.prod(parts)
    return num_devices


def _summed(found: Iterable[Collective]) -> list[Collective]:
    groups: dict[tuple[str, int], list[Collective]] = {}
    for one in found:
        groups.setdefault((one.kind, one.group_size), []).append(one)
    summed = []
    for (kind, size), ones in groups.items():
        total = sum(one.num_bytes for one in ones)
        summed.append(
            Collective(
                kind,
                size,
                sum(one.count for one in ones),
                total,
                max(one.largest for one in ones),
                sum(one.num_bytes * one.in_background for one in ones) / total,
            )
        )
    return sorted(summed, key=lambda one: -one.num_bytes)
