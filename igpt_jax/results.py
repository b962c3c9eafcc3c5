"""The result of a run: made once, by one process, and made again only of something else."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.processes import agreed, is_first, wait_for_all

T = TypeVar("T")


def once(
    path: Path, of: Any, load: Callable[[], T], make: Callable[[T], Mapping[str, Any]]
) -> dict[str, Any]:
    """What the file says, or what is made now and written there.

    Args:
        path: of the file.
        of: what the result is of; a file that is of something else is replaced.
        load: what to make it of; of several processes all load, for checkpoints are read together.
        make: the result, by the first process alone.
    """
    of = json.loads(json.dumps(of))
    done = read_json(path, "delete it") if path.is_file() else {}
    if not agreed(done.get("of") == of):
        loaded = load()
        if is_first():
            write_json(path, {"of": of, "result": make(loaded)})
        wait_for_all(path.name)
        done = read_json(path, "delete it")
    return done["result"]
