"""Shared by all tests: the compilation cache and one tiny trained run."""

import fcntl
import os
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent / ".jax_cache"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def shared_run(tmp_path_factory, name, config):
    """The directory of a tiny run, trained once and read by all workers; do not change it."""
    from igpt_jax.baselines.config import BaselineConfig
    from igpt_jax.baselines.run import run_baseline
    from igpt_jax.run import run

    train = run_baseline if isinstance(config, BaselineConfig) else run
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    directory = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train(config, directory)
    return directory


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Cards of a class."""
    from igpt_jax.testing import tiny_config

    return shared_run(tmp_path_factory, "tiny_run", tiny_config())


@pytest.fixture(scope="session")
def asked_run(tmp_path_factory):
    """Cards from captions and from their grey pictures, in any order."""
    from igpt_jax.testing import tiny_asked_config

    pytest.importorskip("tokenizers.tokenizers")
    return shared_run(tmp_path_factory, "asked_run", tiny_asked_config())


@pytest.fixture(scope="session")
def video_run(tmp_path_factory):
    """Cards that count, by their first number."""
    from igpt_jax.testing import tiny_video_config

    return shared_run(tmp_path_factory, "video_run", tiny_video_config())


@pytest.fixture(scope="session")
def gan_run(tmp_path_factory):
    """The same cards by a GAN."""
    from igpt_jax.testing import tiny_gan_config

    return shared_run(tmp_path_factory, "gan_run", tiny_gan_config())


@pytest.fixture(scope="session")
def vae_run(tmp_path_factory):
    """The same cards by a VAE."""
    from igpt_jax.testing import tiny_vae_config

    return shared_run(tmp_path_factory, "vae_run", tiny_vae_config())
