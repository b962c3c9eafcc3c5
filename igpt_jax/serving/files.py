"""Pictures in a folder or at any URL of fsspec, each whole or not there."""

import os
import re
from pathlib import Path

import fsspec
from fsspec.core import url_to_fs

from igpt_jax.errors import UserError

_NAME = re.compile(r"[0-9a-z]{1,64}(?:/[0-9a-z-]{1,64})*(?:\.[a-z]{1,5})?")


class Files:
    """Files by names that this package makes; no name comes from a request.

    Attributes:
        url: the folder.
    """

    def __init__(self, url: str) -> None:
        """Opens it.

        Raises:
            UserError: no such kind of URL, or it cannot be written.
        """
        self.url = url
        try:
            self._system, self._root = url_to_fs(url)
            self._system.makedirs(self._root, exist_ok=True)
        except (ValueError, ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--files: expected a folder or URL to write to: {reason}") from error
        self._is_local = isinstance(self._system, fsspec.get_filesystem_class("file"))

    def put(self, name: str, data: bytes) -> None:
        """Writes a file; when it returns, the file is there even after a loss of power."""
        path = self._path(name)
        if not self._is_local:  # object stores show a file when all of it is there
            self._system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._system.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def get(self, name: str) -> bytes | None:
        """What is in a file; None where there is none."""
        try:
            return self._system.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        try:
            self._system.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a name of a file, got {name!r}")
        return f"{self._root}/{name}"


def picture_file(job: str, index: int) -> str:
    """The name of a picture's file, the same whenever it is drawn."""
    return f"pictures/{job[:2]}/{job}-{index}.png"


def input_file(job: str, kind: str) -> str:
    """The name of the file of what a job completes."""
    return f"inputs/{job[:2]}/{job}-{kind}.png"
