"""The command line: `igpt COMMAND ...`, and what train.py and sample.py call."""

from igpt_jax.cli.commands import main, run_command
from igpt_jax.cli.sampling import sample
from igpt_jax.cli.training import train

__all__ = ["main", "run_command", "sample", "train"]
