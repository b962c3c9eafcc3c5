"""A run at the URL of an object store: a directory here, which is kept the same there.

Object stores have no renaming, appending or memory-mapping, which a run's files need. So a run
works in a directory on a local disk, and a thread sends what is new. One object, `igpt_files.json`,
lists the files of a state that is whole; it is written after they are there, so that whoever reads
it finds checkpoints that are whole, or older ones.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.processes import is_several
from igpt_jax.stores import Store, is_url

MANIFEST: Final = "igpt_files.json"
SECONDS: Final = 30.0  # between two looks at what is new
_AGREED: Final = "igpt_agreed.json"  # here: the manifest that both sides had last
_UNFINISHED: Final = re.compile(r"\.tmp$|\.orbax-checkpoint-tmp")
_CHECKPOINT: Final = re.compile(r"(.*checkpoints)/(\d+)/(?:(params|optimizer)/)?")
_NOT_OF_A_MODEL: Final = re.compile(r"tokens/|(?:.*/)?(?:tensorboard|profile|evaluation)/")

logger: Final = logging.getLogger("igpt_jax")


@dataclass(frozen=True)
class Snapshot:
    """Files that belong together.

    Attributes:
        key: other for each snapshot; empty of no files at all.
        files: name -> bytes, and nanoseconds of the last change (0 where that is not known).
    """

    key: str
    files: Mapping[str, list[int]]


def find_directory(place: str | os.PathLike[str]) -> Path:
    """A directory here: the place itself, or a copy of the model at a URL.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    if not is_url(place):
        return expand_path(place)
    store = Store(os.fspath(place))
    snapshot = _there(store)
    names = _of_a_model(snapshot.files)
    if not names:
        raise UserError(f"{place}: expected a run or a model, found no files; check the URL")
    directory = _cache("models", store.url) / snapshot.key
    if not directory.is_dir():
        part = directory.with_name(f"{directory.name}-{uuid.uuid4().hex}.tmp")
        for name in names:
            store.fetch(name, part / name)
        try:
            part.rename(directory)
        except OSError:  # another process was faster
            shutil.rmtree(part)
        for old in directory.parent.iterdir():
            if old != directory and old.suffix != ".tmp":
                shutil.rmtree(old, ignore_errors=True)
    return directory


@contextlib.contextmanager
def working_directory(place: str | os.PathLike[str]) -> Iterator[Path]:
    """The directory in which a run works; that of a URL is sent there as the run goes.

    Raises:
        UserError: the URL cannot be read or written, or another process works on it.
    """
    if not is_url(place):
        yield Path(place)
        return
    if is_several():
        raise UserError(
            f"--workdir: expected a directory that all processes see, got {place}; the URL of an "
            "object store is for one process: mount the bucket (Cloud Storage FUSE, Mountpoint for "
            "Amazon S3) and name the mounted folder"
        )
    with Mirror(Store(os.fspath(place).rstrip("/"))) as mirror:
        yield mirror.directory


class Mirror:
    """Keeps a directory here and the files at a URL the same.

    Attributes:
        directory: here.
    """

    def __init__(self, store: Store, seconds: float = SECONDS) -> None:
        self.directory = _cache("runs", store.url)
        self._store, self._seconds = store, seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True)

    def __enter__(self) -> "Mirror":
        """Brings what is there here, unless this directory is of the same run and newer."""
        there = _there(self._store)
        self._agreed = Snapshot("", {})
        if (self.directory / _AGREED).is_file():
            self._agreed = Snapshot(**read_json(self.directory / _AGREED, "delete it"))
        if there.key != self._agreed.key:
            self._bring(there)
        if self._store.read(MANIFEST) is None:  # or half a first state would look like a whole one
            self._publish(self._agreed.files)
        logger.info("%s: working in %s", self._store.url, self.directory)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Sends the rest."""
        self._is_over.set()
        self._thread.join()
        try:
            self.send()
        except UserError as error:
            if kind is None:
                raise
            logger.error("%s", error)  # what ended the run says how it ends

    def send(self) -> None:
        """Sends what is new, if all of it stays as it is meanwhile.

        Raises:
            UserError: the store refuses, or another process has written there.
        """
        files = _here(self.directory)
        if files == self._agreed.files:
            return
        if _there(self._store).key != self._agreed.key:
            raise UserError(
                f"{self._store.url}: expected the files that this process wrote, found newer ones; "
                "another process works on this run: stop one of them"
            )
        for name in files:
            if files[name] == self._agreed.files.get(name):
                continue
            try:
                self._store.send(self.directory / name, name)
            except UserError:
                if (self.directory / name).exists():
                    raise
                return  # a checkpoint makes room for newer ones; the next look finds them
        if files.keys() - _here(self.directory).keys():
            return
        gone = self._agreed.files.keys() - files.keys()
        self._publish(files)
        for name in gone:
            self._store.remove(name)

    def _publish(self, files: Mapping[str, list[int]]) -> None:
        agreed = {"key": uuid.uuid4().hex, "files": dict(files)}
        self._store.write(MANIFEST, json.dumps(agreed).encode())
        self._agree(Snapshot(**agreed))

    def _agree(self, snapshot: Snapshot) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / _AGREED, vars(snapshot))
        self._agreed = snapshot

    def _bring(self, there: Snapshot) -> None:
        here = _here(self.directory)
        if lost := here.keys() - there.files.keys():
            logger.warning(
                "%s: %d files of an older copy go: %s", self.directory, len(lost), min(lost)
            )
        for name in lost:
            (self.directory / name).unlink()
        for folder in sorted(self.directory.rglob("*"), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()  # an empty checkpoint is none
        for name, (size, changed) in there.files.items():
            if not changed or here.get(name) != [size, changed]:
                self._store.fetch(name, self.directory / name)
            if changed:
                os.utime(self.directory / name, ns=(changed, changed))
        self._agree(there)

    def _keep_sending(self) -> None:
        while not self._is_over.wait(self._seconds):
            try:
                self.send()
            except UserError as error:  # at the end it counts
                logger.warning("%s", error)


def at_url(result: Mapping[str, Any], directory: Path, place: str | os.PathLike[str]) -> Any:
    """A result whose files are named where others find them."""
    if not is_url(place):
        return result
    here, there = str(directory), os.fspath(place).rstrip("/")
    return {
        name: value.replace(here, there) if isinstance(value, str) else value
        for name, value in result.items()
    }


def _here(directory: Path) -> dict[str, list[int]]:
    """The whole files of a directory."""
    found = {}
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not _UNFINISHED.search(name)]
        for name in names:
            path = Path(folder, name)
            if _UNFINISHED.search(name) or name in (_AGREED, MANIFEST):
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found[path.relative_to(directory).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found


def _there(store: Store) -> Snapshot:
    """The files at a URL: those of the manifest, or all that somebody copied there."""
    written = store.read(MANIFEST)
    if written is None:
        found = store.found()
        key = hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()
        return Snapshot(key if found else "", {name: [0, 0] for name in found})
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        snapshot = Snapshot(**json.loads(written))
        if snapshot.key.isalnum() and all(map(_is_inside, snapshot.files)):
            return snapshot
    raise UserError(
        f"{store.url}/{MANIFEST}: expected the list of a run's files, got a damaged one; delete it "
        "to take all that is there"
    )


def _is_inside(name: str) -> bool:
    """Whether the file of a name lies in the directory that it is read into."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _of_a_model(names: Mapping[str, Any]) -> list[str]:
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


def _cache(kind: str, url: str) -> Path:
    """A directory here for what is at a URL."""
    root = os.environ.get("IGPT_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "igpt_jax"
    )
    url = url.rstrip("/")
    name = f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    return expand_path(root) / kind / name
