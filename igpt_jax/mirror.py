"""A run at the URL of an object store: a directory here, which is kept the same there.

Object stores have no renaming, appending or memory-mapping, which a run's files need. So a run
works in a directory on a local disk, and a thread sends what is new. One object, `igpt_files.json`,
lists the files of a state that is whole; it is written after they are there, so that whoever reads
it finds checkpoints that are whole, or older ones.

At `gs://` checkpoints are not among these files, for Orbax writes them there itself. So several
processes may share a run: the first sends, and wherever they wait for what it has written, the
others bring that to directories of their own. What all have written, such as tokens, each sends.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jax

from igpt_jax.data.paths import expand_path
from igpt_jax.elsewhere import ELSEWHERE, place_for_orbax, put_elsewhere
from igpt_jax.errors import UserError
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.processes import (
    agreed_text,
    barrier,
    is_first,
    is_several,
    sharing,
    texts_of_all,
)
from igpt_jax.snapshots import (
    MANIFEST,
    Snapshot,
    read_model,
    read_snapshot,
    without_checkpoints,
)
from igpt_jax.stores import Store, is_url

SECONDS: Final = 30.0  # between two looks at what is new
_UNUSED_SECONDS: Final = 6 * 3600.0  # before a copy of a model goes, as nobody is loading it
_AGREED: Final = "igpt_agreed.json"  # here: the manifest that both sides had last
_UNFINISHED: Final = re.compile(r"\.tmp$|\.orbax-checkpoint-tmp")

logger: Final = logging.getLogger("igpt_jax")


def find_directory(place: str | os.PathLike[str]) -> Path:
    """A directory here: the place itself, or a copy of the model at a URL.

    Of several processes all call it, and get the same state of a run that goes on.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    if not is_url(place):
        return expand_path(place)
    store = Store(os.fspath(place))
    chosen = read_model(store) if is_first() else None
    key, names = json.loads(agreed_text(json.dumps(chosen)))
    directory = _cache("models", store.url) / key
    if not directory.is_dir():
        part = directory.with_name(f"{directory.name}-{uuid.uuid4().hex}.tmp")
        for name in names:
            store.fetch(name, part / name)
        try:
            part.rename(directory)
        except OSError:  # another process was faster
            shutil.rmtree(part)
        for old in directory.parent.iterdir():  # and what is left of downloads that were killed
            with contextlib.suppress(FileNotFoundError):
                if old.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
    os.utime(directory)  # somebody loads it
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
    url = os.fspath(place).rstrip("/")
    if is_several() and place_for_orbax(url) is None:
        raise UserError(
            f"--workdir: expected gs:// or a directory that all processes see, got {place}; the "
            "URL of another object store is for one process: mount the bucket by a driver "
            "that renames folders and name that one, or name one of a shared file system"
        )
    with Mirror(Store(url)) as mirror, sharing(mirror):
        mirror.share()
        yield mirror.directory


class Mirror:
    """Keeps a directory here and the files at a URL the same.

    Attributes:
        directory: here.
    """

    def __init__(self, store: Store, seconds: float = SECONDS) -> None:
        """Of several processes each has its own directory, as they may share a disk."""
        self.directory = _cache("runs", store.url)
        if not is_first():
            place = f"{self.directory.name}-{jax.process_index()}"
            self.directory = self.directory.with_name(place)
        self._store, self._seconds = store, seconds
        self._orbax = place_for_orbax(store.url)
        self._agreed = Snapshot("", {})
        self._sent: dict[str, list[int]] = {}  # what processes have sent that is not listed yet
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True)

    def __enter__(self) -> "Mirror":
        """Brings what is there here, unless this directory is of the same run and newer."""
        if self._orbax is not None:
            put_elsewhere(self.directory, self._orbax)
        if (self.directory / _AGREED).is_file():
            self._agreed = Snapshot(**read_json(self.directory / _AGREED, "delete it"))
            self._agreed = self._ours(self._agreed)
        if is_first():
            there = read_snapshot(self._store)
            if there.key != self._agreed.key:
                self._bring(self._ours(there))
            # Or half a first state would look like a whole one, and checkpoints that Orbax removes
            # from now on would be missed.
            if there.files != self._ours(there).files or self._store.read(MANIFEST) is None:
                self._publish(self._agreed.files)
            logger.info("%s: working in %s", self._store.url, self.directory)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Sends the rest."""
        if not is_first():
            return
        self._is_over.set()
        self._thread.join()
        try:
            self.send()
        except (UserError, OSError) as error:
            if kind is None:
                raise
            logger.error("%s", error)  # what ended the run says how it ends

    def send(self) -> bool:
        """Sends what is new, if all of it stays as it is meanwhile.

        Returns:
            Whether all of it is there.

        Raises:
            UserError: the store refuses, or another process has written there.
        """
        with self._lock:
            return self._send()

    def share(self) -> None:
        """Has all of several processes see the files of the first; all call it.

        One alone sends them where its checkpoints are there at once, or what was measured at the
        last of them could be lost.

        Raises:
            UserError: of several processes, see `send`.
        """
        if not is_several():
            if self._orbax is not None:
                self._try_to_send()
            return
        with self._lock:  # what is there stays as it is until all have it
            while is_first() and not self._send():
                pass
            barrier("sent")
            if not is_first():
                self._bring(self._ours(read_snapshot(self._store)))
            barrier("brought")

    def collect(self, folder: Path, place: Path) -> None:
        """Has the first of several processes have the files of all in its folder; all call it.

        Each sends its own and fetches those of others, the first to the folder, the others to the
        place, where they will be listed.

        Raises:
            UserError: see `send`.
        """
        if not is_several():
            return
        there = place.relative_to(self.directory).as_posix()
        if is_first():  # what a run that was killed has sent, and no list has
            for name in self._store.found().keys() - self._agreed.files.keys():
                if name.startswith(f"{there}/"):
                    self._store.remove(name)
        else:
            shutil.rmtree(place, ignore_errors=True)
            folder = folder.replace(place)
        barrier("cleared")
        own = _here(folder)
        for name in own:
            self._store.send(folder / name, f"{there}/{name}")
        for files in map(json.loads, texts_of_all(json.dumps(own))):
            for name, (_, changed) in files.items():
                if name not in own:
                    self._store.fetch(f"{there}/{name}", folder / name)
                    os.utime(folder / name, ns=(changed, changed))
            self._sent |= {f"{there}/{name}": files[name] for name in files}

    def _send(self) -> bool:
        files = self._here()
        if files == self._agreed.files:
            return True
        if read_snapshot(self._store).key != self._agreed.key:
            raise UserError(
                f"{self._store.url}: expected the files that this process wrote, found newer ones; "
                "another process works on this run: stop one of them"
            )
        for name in files:
            if files[name] in (self._agreed.files.get(name), self._sent.get(name)):
                continue
            try:
                self._store.send(self.directory / name, name)
            except UserError:
                if (self.directory / name).exists():
                    raise
                return False  # a checkpoint makes room for newer ones; the next look finds them
        if files.keys() - self._here().keys():
            return False
        gone = self._agreed.files.keys() - files.keys()
        self._publish(files)
        for name in gone:
            self._store.remove(name)
        return True

    def _here(self) -> dict[str, list[int]]:
        """The whole files of this directory."""
        files = _here(self.directory)
        return files if self._orbax is None else without_checkpoints(files)

    def _ours(self, there: Snapshot) -> Snapshot:
        """The files that are kept the same here."""
        if self._orbax is None:
            return there
        return Snapshot(there.key, without_checkpoints(there.files))

    def _publish(self, files: Mapping[str, list[int]]) -> None:
        agreed = {"key": uuid.uuid4().hex, "files": dict(files)}
        self._store.write(MANIFEST, json.dumps(agreed).encode())
        self._agree(Snapshot(**agreed))

    def _agree(self, snapshot: Snapshot) -> None:
        self._agreed = snapshot  # even if the disk here is full
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / _AGREED, vars(snapshot))

    def _bring(self, there: Snapshot) -> None:
        here = self._here()
        lost = here.keys() - there.files.keys()
        if not is_first():  # it keeps what it has written itself, such as traces of its devices
            lost &= self._agreed.files.keys()
        if lost:
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
        here = self._here()  # tells of those that were copied there
        marks = {name: it if it[1] else here.get(name, it) for name, it in there.files.items()}
        self._agree(Snapshot(there.key, marks))

    def _keep_sending(self) -> None:
        while not self._is_over.wait(self._seconds):
            self._try_to_send()

    def _try_to_send(self) -> None:
        try:
            self.send()
        except (UserError, OSError) as error:  # at the end it counts
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
            if _UNFINISHED.search(name) or name in (_AGREED, MANIFEST, ELSEWHERE):
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found[path.relative_to(directory).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found


def _cache(kind: str, url: str) -> Path:
    """A directory here for what is at a URL."""
    root = os.environ.get("IGPT_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "igpt_jax"
    )
    url = url.rstrip("/")
    name = f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    return expand_path(root) / kind / name
