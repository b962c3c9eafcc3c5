"""The files at the URL of an object store that belong together.

One object, `igpt_files.json`, lists those that this library has sent. Checkpoints that Orbax wrote
there itself are whole where it has put its own mark, which it does last; those that it wrote on a
disk have the mark, too.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from igpt_jax.elsewhere import place_for_orbax
from igpt_jax.errors import UserError
from igpt_jax.stores import Store

MANIFEST: Final = "igpt_files.json"
_CHECKPOINT: Final = re.compile(r"(.*checkpoints)/(\d+)/(?:(params|optimizer)/)?")
_MARK: Final = "commit_success.txt"
_NOT_OF_A_MODEL: Final = re.compile(r"tokens/|(?:.*/)?(?:tensorboard|profile|evaluation)/")


@dataclass(frozen=True)
class Snapshot:
    """Files that belong together.

    Attributes:
        key: other for each snapshot; empty of no files at all.
        files: name -> bytes, and nanoseconds of the last change (0 where that is not known).
    """

    key: str
    files: Mapping[str, list[int]]


def read_snapshot(store: Store) -> Snapshot:
    """The files of the manifest, or all that somebody copied there.

    Raises:
        UserError: the manifest is damaged, or the store cannot be read.
    """
    written = store.read(MANIFEST)
    if written is None:
        found = store.found()
        return Snapshot(_key(sorted(found.items())) if found else "", _unknown(found))
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        snapshot = Snapshot(**json.loads(written))
        if snapshot.key.isalnum() and all(map(_is_inside, snapshot.files.keys())):
            return snapshot
    raise UserError(
        f"{store.url}/{MANIFEST}: expected the list of a run's files, got a damaged one; delete it "
        "to take all that is there"
    )


def read_model(store: Store) -> tuple[str, list[str]]:
    """The key of the newest state of a run or a model, and the files of it that drawing needs.

    Raises:
        UserError: there are none; also see `read_snapshot`.
    """
    snapshot = _read_whole(store)
    names = _of_a_model(snapshot.files)
    if not names:
        raise UserError(f"{store.url}: expected a run or a model, found no files; check the URL")
    return snapshot.key, names


def _read_whole(store: Store) -> Snapshot:
    """The files of `read_snapshot`, and of the checkpoints that Orbax wrote there."""
    snapshot = read_snapshot(store)
    if place_for_orbax(store.url) is None:
        return snapshot
    names = store.found()
    whole = {name for name in names if is_of_a_checkpoint(name) and _mark(name) in names}
    if not whole - snapshot.files.keys():
        return snapshot
    return Snapshot(_key([snapshot.key, *sorted(whole)]), {**snapshot.files, **_unknown(whole)})


def is_of_a_checkpoint(name: str) -> bool:
    """Whether a file is part of a checkpoint."""
    return _CHECKPOINT.match(name) is not None


def without_checkpoints(files: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The files that are not part of one."""
    return {name: files[name] for name in files if not is_of_a_checkpoint(name)}


def _of_a_model(names: Iterable[str]) -> list[str]:
    """The files that drawing needs: of checkpoints, averaged parameters of the newest."""
    newest: dict[str, int] = {}
    for name in names:
        if found := _CHECKPOINT.match(name):
            newest[found[1]] = max(newest.get(found[1], 0), int(found[2]))

    def is_needed(name: str) -> bool:
        found = _CHECKPOINT.match(name)
        if found is None:
            return not _NOT_OF_A_MODEL.match(name)
        return int(found[2]) == newest[found[1]] and found[3] is None

    return [name for name in names if is_needed(name)]


def _mark(name: str) -> str:
    """The mark of the checkpoint that a file is of."""
    found = _CHECKPOINT.match(name)
    assert found is not None
    return f"{found[1]}/{found[2]}/{_MARK}"


def _key(of: Any) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()


def _unknown(names: Iterable[str]) -> dict[str, list[int]]:
    """Files of which only their names are known."""
    return {name: [0, 0] for name in names}


def _is_inside(name: str) -> bool:
    """Whether the file of a name lies in the directory that it is read into."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
