"""Files under a URL, in whatever fsspec knows: `gs://` (package gcsfs), `s3://` (s3fs), ..."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from igpt_jax.errors import UserError


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is written as a URL, not as a path."""
    return "://" in os.fspath(place)


class Store:
    """The files of a folder by their names in it, such as `tokens/train/header.json`.

    Attributes:
        url: of the folder, or its path.
    """

    def __init__(self, url: str) -> None:
        """Opens it; it need not be there.

        Raises:
            UserError: fsspec, or what it needs for this kind of URL, is not installed.
        """
        self.url = url
        needed = {"fsspec": "fsspec"}
        if url.startswith("gs://"):
            needed["gcsfs"] = "'igpt_jax[gcs]'"
        for package, remedy in needed.items():
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"{url}: the package {package} is not installed; pip install {remedy}"
                )
        import fsspec

        with self._telling():
            self._files, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._files, fsspec.get_filesystem_class("file"))

    def found(self) -> dict[str, str]:
        """Name of each file, and what another content of it would change."""
        with self._telling():
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        inside = len(self._root) + 1
        return {name[inside:]: _content(info) for name, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """What is in a file; None where there is none."""
        with self._telling():
            try:
                return self._files.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file; object stores show it when all of it is there."""
        with self._telling():
            self._make_folder(name)
            self._files.pipe_file(self._at(name), data)

    def send(self, path: Path, name: str) -> None:
        """Copies a file from here."""
        with self._telling():
            self._make_folder(name)
            self._files.put_file(str(path), self._at(name))

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file here, whole or not at all; makes the folders that it needs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".tmp")
        with self._telling():
            self._files.get_file(self._at(name), str(part))
        os.replace(part, path)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder(self, name: str) -> None:
        if self._is_local:  # elsewhere names have slashes, but there are no folders
            Path(self._at(name)).parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Any error of a store in one line; each has its own kinds."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(
                f"{self.url}: expected a folder to copy from or to, got {reason}"
            ) from error


def _content(info: dict[str, Any]) -> str:
    marks = ("size", "ETag", "etag", "md5Hash", "generation", "mtime", "created")
    return " ".join(str(info[mark]) for mark in marks if mark in info)
