"""The mesh that a run has where its config leaves it open."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from igpt_jax.models.gpt import GPT
from igpt_jax.models.presets import llamagen
from igpt_jax.parameters import generator_inputs
from igpt_jax.planning.compiling import Compiled
from igpt_jax.planning.plan import plan
from igpt_jax.planning.topology import GIB, parse_topology
from igpt_jax.recipes import imagenet_llamagen
from igpt_jax.run_mesh import mesh_of_run
from igpt_jax.testing import tiny_config
from igpt_jax.training.checkpoint import latest_step
from igpt_jax.training.mesh_choice import (
    choose_mesh,
    choose_sampling_mesh,
    device_memory,
    state_bytes,
)
from igpt_jax.training.sharding import MeshConfig

REPOSITORY = Path(__file__).parent.parent.parent
OPEN = MeshConfig()
V5E, V5P = 16 * GIB, 95 * GIB


def shapes(size):
    gpt = GPT(llamagen(size))
    return jax.eval_shape(gpt.init, jax.random.key(0), *generator_inputs(gpt))["params"]


@pytest.fixture(scope="module")
def sizes():
    return {size: shapes(size) for size in ("B", "3B")}


def test_the_state_has_sixteen_bytes_a_parameter_and_is_shared_evenly(sizes):
    """Parameters of Sun et al. 2024's code; norms are whole on every device."""
    assert state_bytes(sizes["3B"], 1, 1) == 16 * 3_096_659_200
    for fsdp, tensor in ((64, 1), (8, 8)):
        shared = state_bytes(sizes["3B"], fsdp, tensor)
        assert shared == pytest.approx(16 * 3_096_659_200 / 64, rel=0.02)


@pytest.mark.parametrize(
    ("size", "memory", "devices", "rows", "fsdp", "tensor"),
    [
        ("B", V5E, 256, 256, 1, 1),  # 1.7 GiB
        ("B", V5P, 32, 256, 1, 1),
        ("B", V5E, 8, 100, 1, 1),  # rows that do not divide, though there are enough
        ("3B", V5E, 256, 512, 16, 1),  # 46 GiB, of which a device has 2.9; of 8 it were 5.8
        ("3B", V5P, 32, 512, 2, 1),
        ("3B", V5E, 4, 512, 4, 1),  # too much, and no device is left
        ("3B", V5E, 64, 32, 8, 2),  # more devices than pictures
        ("3B", V5E, 64, 1, 16, 1),  # more than products can be split by
        ("3B", None, 8, 512, 1, 1),  # a CPU
    ],
)
def test_published_sizes(sizes, size, memory, devices, rows, fsdp, tensor):
    found = choose_mesh(OPEN, sizes[size], devices, memory, rows)
    assert found == MeshConfig(-1, fsdp, tensor)


@pytest.mark.parametrize(
    ("size", "memory", "devices", "tensor"),
    [
        ("B", V5E, 256, 1),
        ("3B", V5P, 32, 1),
        ("3B", V5E, 256, 2),  # 11.5 GiB, and 5.8 in bfloat16
        ("3B", 8 * GIB, 16, 4),
        ("3B", GIB, 16, 8),  # more than products can be split by
        ("3B", V5E, 3, 1),  # nothing to split over
    ],
)
def test_drawing_shares_products_only_where_a_copy_does_not_fit(
    sizes, size, memory, devices, tensor
):
    assert choose_sampling_mesh(sizes[size], devices, memory) == MeshConfig(-1, 1, tensor)


def test_a_copy_stays_in_its_slice(sizes):
    assert choose_mesh(OPEN, sizes["3B"], 32, V5E, 512, slices=4) == MeshConfig(-1, 8, 1)
    assert choose_mesh(OPEN, sizes["3B"], 32, V5E, 512, slices=1) == MeshConfig(-1, 16, 1)


def test_what_does_not_fit_is_told(sizes, caplog):
    with caplog.at_level(logging.WARNING):
        choose_mesh(OPEN, sizes["3B"], 4, V5E, 512)
    assert "got 11.5 GiB a device of 4" in caplog.text


@pytest.mark.parametrize(
    ("given", "sizes_of_it"),
    [
        (MeshConfig(fsdp=8), (-1, 8, 1)),
        (MeshConfig(tensor=2), (-1, 1, 2)),
        (MeshConfig(data=4), (4, 1, 1)),
        (MeshConfig(fsdp=1), (-1, 1, 1)),
    ],
)
def test_what_is_given_stays(sizes, given, sizes_of_it):
    found = choose_mesh(given, sizes["3B"], 256, V5E, 512)
    assert (found.data, found.fsdp, found.tensor) == sizes_of_it


def test_the_larger_of_the_models_that_a_run_trains_counts():
    config = tiny_config().resolved()
    gpt = dataclasses.replace(config.gpt, embed_dim=256)
    memory = 2_000_000
    assert mesh_of_run(config, 8, memory) == MeshConfig(-1, 1, 1)
    large = dataclasses.replace(config, gpt=gpt)
    assert mesh_of_run(large, 8, memory).fsdp > 1
    tokenizer_alone = dataclasses.replace(large, last_stage="tokenizer")
    assert mesh_of_run(tokenizer_alone, 8, memory).fsdp == 1


def test_a_plan_chooses_by_the_chips_that_it_is_for():
    config = dataclasses.replace(
        imagenet_llamagen("3B"), tokenizer_path=None, mesh=OPEN, gpt=llamagen("3B")
    )
    seen = []

    def compile_one(config, name, topology, batch_size):
        seen.append(config.mesh)
        return Compiled({"parameters": 1}, {"total": 1}, model_flops=1.0)

    for topology, fsdp in (("v5e:16x16", 16), ("v5p:2x4x4", 2), ("h100:8", 2)):
        told = plan(config, parse_topology(topology), sampler_batch=0, compile_one=compile_one)
        assert told["mesh"]["fsdp"] == fsdp
        assert seen.pop() == MeshConfig(-1, fsdp, 1)


def test_memory_is_that_of_the_device_that_has_least(monkeypatch):
    class Device:
        def __init__(self, limit, platform="tpu"):
            self.limit, self.platform = limit, platform

        def memory_stats(self):
            if self.limit == "unknown":
                raise NotImplementedError("memory_stats")
            return self.limit and {"bytes_limit": self.limit}

    unknown = [Device(None), Device("unknown"), Device({}), Device(3, "cpu")]
    for devices, least in ((unknown, None), ([Device(7), Device(5), *unknown], 5)):
        monkeypatch.setattr(jax, "local_devices", lambda devices=devices: devices)
        assert device_memory() == least


RUN = """
import dataclasses, logging, sys
from pathlib import Path
from igpt_jax import starting
from igpt_jax.run import run
from igpt_jax.testing import tiny_config
logging.basicConfig(level=logging.INFO, force=True)
starting.device_memory = lambda: 900_000
tiny = tiny_config(last_stage="tokenizer")
training = dataclasses.replace(tiny.tokenizer_training, num_steps=2, picture_every=0)
run(dataclasses.replace(tiny, tokenizer_training=training), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_eight_devices_share_a_state_that_is_too_large_for_each(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "mesh of 8 devices: data 4, fsdp 2, tensor 1" in done.stderr
    assert latest_step(tmp_path / "tokenizer/checkpoints") == 2
