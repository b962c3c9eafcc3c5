"""State, optimizer, steps, loop and checkpoints of a training run."""
