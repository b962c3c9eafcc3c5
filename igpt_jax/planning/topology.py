"""Published facts of accelerators, and the slices of them that a plan is made for."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from igpt_jax.errors import UserError
from igpt_jax.training.speed import PEAK_FLOPS

GIB: Final = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, as its maker publishes it.

    Attributes:
        name: of the maker.
        platform: `tpu` or `gpu`.
        peak_flops: dense bfloat16 operations a second.
        memory_bytes: of device memory.
        memory_bandwidth: bytes a second.
        link_bandwidth: bytes a second that one link sends; of a GPU all its NVLinks together.
        axes: dimensions of the torus, with two links each; 1 where a switch joins all.
        cores: TensorCores, by which the names of v4 and v5p slices count.
        source: where the numbers are published.
    """

    name: str
    platform: str
    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    axes: int
    cores: int
    source: str


_PEAKS: Final = dict(PEAK_FLOPS)
# The tables of "System architecture"; of v6e's HBM they have said 1600, 1638 and 1640 GB/s. v4's
# links are of its paper (Jouppi et al. 2023, table 4: six of 50 GB/s).
_TPU: Final = "https://cloud.google.com/tpu/docs/"
CHIPS: Final = {
    "v4": Chip("TPU v4", "tpu", _PEAKS["TPU v4"], 32 * GIB, 1_200e9, 50e9, 3, 2, _TPU + "v4"),
    "v5e": Chip("TPU v5e", "tpu", _PEAKS["TPU v5e"], 16 * GIB, 819e9, 50e9, 2, 1, _TPU + "v5e"),
    "v5p": Chip("TPU v5p", "tpu", _PEAKS["TPU v5"], 95 * GIB, 2_765e9, 100e9, 3, 2, _TPU + "v5p"),
    "v6e": Chip("TPU v6e", "tpu", _PEAKS["TPU v6"], 32 * GIB, 1_638e9, 100e9, 2, 1, _TPU + "v6e"),
    "a100": Chip(
        "A100 SXM 80 GB",
        "gpu",
        _PEAKS["NVIDIA A100"],
        80e9,
        2_039e9,
        300e9,
        1,
        1,
        "NVIDIA A100 data sheet",
    ),
    "h100": Chip(
        "H100 SXM 80 GB",
        "gpu",
        _PEAKS["NVIDIA H100"],
        80e9,
        3_350e9,
        450e9,
        1,
        1,
        "NVIDIA H100 data sheet",
    ),
    "h200": Chip(
        "H200 SXM",
        "gpu",
        _PEAKS["NVIDIA H200"],
        141e9,
        4_800e9,
        450e9,
        1,
        1,
        "NVIDIA H200 data sheet",
    ),
}
# Where the ends of an axis are joined ("How to Scale Your Model", Austin et al. 2025, part 2).
_RING: Final = 16  # chips of v5e and v6e
_CUBE: Final = 4  # of v4 and v5p, multiples
_DEFAULT_GPU: Final = "h100"
GPUS_A_HOST: Final = 8
# Bytes a second from a GPU to another host: 400 Gb/s InfiniBand, as a DGX H100 has for each.
NETWORK_BANDWIDTH: Final = 50e9


_KINDS: Final = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6": "v6e",
    "NVIDIA A100": "a100", "NVIDIA H100": "h100", "NVIDIA H200": "h200",
}  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None of one without published facts here."""
    found = next((name for kind, name in _KINDS.items() if device_kind.startswith(kind)), None)
    return None if found is None else CHIPS[found]


@dataclass(frozen=True)
class Topology:
    """A slice of chips.

    Attributes:
        name: as it was given.
        chip: of which it consists.
        shape: chips along each axis of the torus; of GPUs their number.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """Chips, each one device."""
        return math.prod(self.shape)

    @property
    def compiler_name(self) -> str:
        """The slice as the TPU compiler calls it."""
        return f"{self.name.partition(':')[0]}:{'x'.join(map(str, self.shape))}"

    def bandwidth(self, group_size: int) -> float:
        """Bytes a second that a chip sends while groups of this size communicate.

        In a torus, a group lies along as few axes as can hold it. Along a whole axis whose ends
        are joined a ring sends both ways; a line, whose end chips have one link, takes twice as
        long. Of GPUs, groups beyond one host are as slow as the network.
        """
        if self.chip.platform == "gpu":
            return self.chip.link_bandwidth if group_size <= GPUS_A_HOST else NETWORK_BANDWIDTH
        links, left = 0, group_size
        for length in self._axes_of(group_size):
            if left <= 1 or length == 1:
                break
            links += 2 if left >= length and self._is_joined(length) else 1
            left = math.ceil(left / length)
        return max(links, 1) * self.chip.link_bandwidth

    def _axes_of(self, group_size: int) -> Sequence[int]:
        """Lengths of the axes that a group lies along: whole ones where some make it up."""
        for count in range(1, len(self.shape) + 1):
            for lengths in combinations(sorted(self.shape, reverse=True), count):
                if math.prod(lengths) == group_size:
                    return lengths
        return sorted(self.shape, reverse=True)

    def _is_joined(self, length: int) -> bool:
        """Whether the ends of an axis are: of 16 chips, or of cubes of 4 x 4 x 4."""
        if self.chip.axes == 2:
            return length == _RING
        return all(one % _CUBE == 0 for one in self.shape)


def parse_topology(text: str) -> Topology:
    """Reads `v5e:16x16`, `v5p:2x4x4`, `gpu:8` (an H100), `h200:8`.

    Raises:
        UserError: no such chip or shape.
    """
    kind, _, size = text.partition(":")
    chips = CHIPS | {"gpu": CHIPS[_DEFAULT_GPU]}
    known = re.fullmatch(r"\d+(x\d+)*", size)
    if kind not in chips or known is None or "0" in size.split("x"):
        raise UserError(
            f"topology: expected CHIP:SHAPE with a chip of {', '.join(chips)}, such as v5e:16x16, "
            f"v5p:2x4x4 or gpu:8, got {text!r}"
        )
    chip, shape = chips[kind], tuple(int(part) for part in size.split("x"))
    if len(shape) != chip.axes:
        example = "x".join(["4"] * chip.axes) if chip.axes > 1 else "8"
        raise UserError(
            f"topology: expected {chip.axes} numbers for {chip.name}, such as {kind}:{example}, "
            f"got {text!r}"
        )
    return Topology(text, chip, shape)
