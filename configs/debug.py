"""Seconds on a CPU, nothing to see: every stage on tiny shapes.

python train.py configs/debug.py --workdir runs/debug
"""

from igpt_jax.config import RunConfig
from igpt_jax.testing import tiny_config


def get_config() -> RunConfig:
    """The run."""
    return tiny_config()
