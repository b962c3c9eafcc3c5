"""Draws pictures of a trained model: python sample.py DIR [--labels 1,2] [--out FILE.png]."""

import sys

from igpt_jax.cli import run_command, sample

if __name__ == "__main__":
    sys.exit(run_command(sample))
