"""Shared by all tests: the compilation cache and one tiny trained run."""

import fcntl
import os
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent / ".jax_cache"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The directory of a whole tiny run, trained once and read by all workers; do not change it."""
    from igpt_jax.run import run
    from igpt_jax.testing import tiny_config

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    directory = shared / "tiny_run"
    with (shared / "tiny_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(tiny_config(), directory)
    return directory
