"""Four simulated devices compute what one does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parent.parent.parent
MESHES = {
    "one": (1, {}),
    "data": (4, {"mesh.data": 4}),
    "fsdp and tensor": (4, {"mesh.fsdp": 2, "mesh.tensor": 2}),
}


def train(config, workdir, num_devices, settings):
    """Trains in a process of its own, which has so many devices."""
    done = subprocess.run(
        [sys.executable, "train.py", str(config), "--workdir", str(workdir)]
        + [f"--{name}={value}" for name, value in settings.items()],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def losses(workdir, num_devices, overrides):
    settings = {
        "tokenizer_training.num_steps": 20,
        "gpt_training.num_steps": 20,
        "gpt.dtype": "float32",
        **overrides,
    }
    train("configs/debug.py", workdir, num_devices, settings)
    return {
        stage: np.array([row["loss"] for row in read_metrics(workdir / stage, "train")])
        for stage in ("tokenizer", "gpt")
    }


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return losses(tmp_path_factory.mktemp("one"), *MESHES["one"])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "fsdp and tensor"])
def test_four_devices_give_the_losses_of_one(one_device, mesh, tmp_path):
    four = losses(tmp_path, *MESHES[mesh])
    for stage in ("tokenizer", "gpt"):
        assert len(one_device[stage]) == 20
        np.testing.assert_allclose(four[stage], one_device[stage], atol=1e-5)
