"""How published checkpoints name and shape their arrays: one file a family."""
