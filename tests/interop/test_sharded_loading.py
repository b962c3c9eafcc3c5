"""A model over four simulated devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import published
import pytest

import igpt_jax
from igpt_jax.interop.importing import import_part

PROGRAM = """
import sys
import jax, numpy as np
import igpt_jax
from igpt_jax.training.sharding import MeshConfig

model = igpt_jax.load(sys.argv[1], mesh=MeshConfig(data=1, fsdp=2, tensor=2))
kernel = model.params["blocks"]["mlp"]["up"]["kernel"]
assert kernel.shape == (2, 24, 32), kernel.shape
assert kernel.addressable_shards[0].data.shape == (2, 12, 16), kernel.sharding
assert len(kernel.sharding.device_set) == 4
head = model.params["head"].addressable_shards[0].data
assert head.shape == (12, 8), head.shape
images = model.sample([1, 2, 3], seed=0, temperature=0.0)
np.savez(sys.argv[2], images=images, likelihood=model.log_likelihood(images, [1, 2, 3]))
"""


@pytest.fixture
def directory(tmp_path):
    for name in ("llamagen-vq", "llamagen-gpt"):
        path = published.write(tmp_path / f"{name}.safetensors", published.arrays_of(name))
        import_part(str(path), name, tmp_path / "model", **published.CONFIG[name])
    return tmp_path / "model"


@pytest.mark.slow
def test_parameters_lie_apart_and_draw_the_same(directory, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(directory), str(tmp_path / "out.npz")],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    model, found = igpt_jax.load(directory), np.load(tmp_path / "out.npz")
    images = model.sample([1, 2, 3], seed=0, temperature=0.0)
    np.testing.assert_allclose(found["images"].astype(int), images.astype(int), atol=1)
    ours = model.log_likelihood(found["images"], [1, 2, 3])
    np.testing.assert_allclose(found["likelihood"], ours, rtol=1e-5)
    assert len(jax.devices()) == 1
