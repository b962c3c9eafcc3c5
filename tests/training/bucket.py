"""A directory that stands for a bucket, into which Orbax writes checkpoints itself.

    python tests/training/bucket.py configs/debug.py --workdir file:///BUCKET/run [...]

Processes have nothing else in common: each works in its own part of `$IGPT_CACHE`.
"""

import sys

import pytest

from igpt_jax import mirror, snapshots


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Has `file://` treated as `gs://` is."""
    for module in (mirror, snapshots):
        patch.setattr(module, "place_for_orbax", lambda url: url.removeprefix("file://"))


if __name__ == "__main__":
    from igpt_jax.cli import run_command, train

    stand_in(pytest.MonkeyPatch())
    sys.exit(run_command(train))
