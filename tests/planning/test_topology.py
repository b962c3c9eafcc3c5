"""Facts of chips against what their makers publish, and how slices are read."""

import pytest

from igpt_jax.errors import UserError
from igpt_jax.planning.topology import CHIPS, GIB, chip_of, parse_topology

# Cloud TPU's pages of each chip: peak TFLOPs in bfloat16, GB of HBM, GB/s, and the interconnect of
# a chip in Gb/s, all its ports in one direction (v6e: 800 GB/s both ways).
PUBLISHED = {
    "v4": (275, 32, 1_200, 2_400),
    "v5e": (197, 16, 819, 1_600),
    "v5p": (459, 95, 2_765, 4_800),
    "v6e": (918, 32, 1_638, 3_200),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_chips(name):
    chip = CHIPS[name]
    assert chip.source.startswith("https://cloud.google.com/tpu/docs/")
    assert (
        chip.peak_flops / 1e12,
        chip.memory_bytes / GIB,
        chip.memory_bandwidth / 1e9,
        8 * 2 * chip.axes * chip.link_bandwidth / 1e9,
    ) == PUBLISHED[name]


def test_chips_as_jax_calls_them():
    kinds = {
        "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p",
        "TPU v6 lite": "v6e", "NVIDIA H200": "h200", "NVIDIA H100 80GB HBM3": "h100",
    }  # fmt: skip
    assert {kind: chip_of(kind) for kind in kinds} == {k: CHIPS[v] for k, v in kinds.items()}
    assert chip_of("cpu") is None


def test_slices():
    pod = parse_topology("v5e:16x16")
    assert (pod.num_chips, pod.compiler_name) == (256, "v5e:16x16")
    assert parse_topology("v5p:2x4x4").num_chips == 32  # sold as v5p-64, by its cores
    assert parse_topology("gpu:8").chip == CHIPS["h100"]
    assert parse_topology("h200:16").num_chips == 16


def test_bandwidth_grows_with_the_axes_that_a_group_needs():
    pod, cube, gpus = map(parse_topology, ("v5e:16x16", "v5p:4x4x4", "h100:16"))
    assert pod.bandwidth(16) == 2 * 50e9  # a ring
    assert pod.bandwidth(8) == 50e9  # half of one is a line
    assert pod.bandwidth(256) == 4 * 50e9
    assert pod.bandwidth(32) == 3 * 50e9  # a ring of lines
    assert [cube.bandwidth(n) / 100e9 for n in (2, 4, 8, 16, 64)] == [1, 2, 3, 4, 6]
    # Slices whose ends are not joined are lines along each axis.
    small, half = map(parse_topology, ("v5e:4x4", "v5p:2x4x4"))
    assert (small.bandwidth(4), small.bandwidth(16)) == (50e9, 100e9)
    assert [half.bandwidth(n) / 100e9 for n in (4, 16, 32)] == [1, 2, 3]
    # Two rings of four, rather than one of eight and a line of two.
    assert parse_topology("v5p:4x4x8").bandwidth(16) == 4 * 100e9
    assert gpus.bandwidth(8) == 450e9
    assert gpus.bandwidth(16) == 50e9


@pytest.mark.parametrize("text", ["v5e", "v5e:0x4", "v5e:16", "v5p:4x4", "v9:4x4", "gpu:8x2", ""])
def test_wrong_slices_are_told(text):
    with pytest.raises(UserError, match="topology: expected"):
        parse_topology(text)
