"""A directory that stands for a bucket, into which Orbax writes checkpoints itself.

    python tests/training/bucket.py configs/debug.py --workdir file:///BUCKET/run [...]

Processes have nothing else in common: each works in its own part of `$IGPT_CACHE`, and notes in
`sent-0`, `sent-1`, ... there what it sends.
"""

import os
import sys
from pathlib import Path

import jax
import pytest

from igpt_jax import mirror, snapshots
from igpt_jax.stores import Store


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Has `file://` treated as `gs://` is."""
    for module in (mirror, snapshots):
        patch.setattr(module, "place_for_orbax", lambda url: url.removeprefix("file://"))


def note_what_is_sent(patch: pytest.MonkeyPatch) -> None:
    """Has each process note the names of files that it sends."""
    send = Store.send

    def note_and_send(self, path, name):
        with Path(os.environ["IGPT_CACHE"], f"sent-{jax.process_index()}").open("a") as notes:
            notes.write(f"{name}\n")
        send(self, path, name)

    patch.setattr(Store, "send", note_and_send)


if __name__ == "__main__":
    from igpt_jax.cli import run_command, train

    stand_in(pytest.MonkeyPatch())
    note_what_is_sent(pytest.MonkeyPatch())
    sys.exit(run_command(train))
