"""Where the checkpoints of a run are: among its files, or at its URL, where Orbax puts them itself.

Of several processes each has its part of the arrays, so that none can send a whole checkpoint.
Orbax writes and reads Cloud Storage (`gs://`), and no other store.
"""

from pathlib import Path
from typing import Final

from igpt_jax.jsonfile import read_json, write_json

ELSEWHERE: Final = "igpt_checkpoints.json"  # in a run's directory: where its checkpoints are


def place_for_orbax(url: str) -> str | None:
    """Where Orbax puts the checkpoints of a run at a URL; None where it cannot."""
    return url if url.startswith("gs://") else None


def put_elsewhere(directory: Path, place: str) -> None:
    """Has the checkpoints of a run's directory written to a place and read from there."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / ELSEWHERE, {"place": place})


def find_checkpoints(directory: Path) -> tuple[str, bool]:
    """Where the checkpoints of a stage are.

    Args:
        directory: of a run, `checkpoints` or `STAGE/checkpoints`.

    Returns:
        The path or URL, and whether it is elsewhere.
    """
    directory = Path(directory).resolve()
    for parent in directory.parents[:2]:
        if (parent / ELSEWHERE).is_file():
            place = read_json(parent / ELSEWHERE, "start the run again at its URL")["place"]
            return f"{place}/{directory.relative_to(parent).as_posix()}", True
    return str(directory), False
