"""Trains a tokenizer and a GPT: python train.py configs/NAME.py [--workdir DIR]."""

import sys

from igpt_jax.cli import run_command, train

if __name__ == "__main__":
    sys.exit(run_command(train))
