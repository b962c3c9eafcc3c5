"""Files by name, from a folder or straight out of a zip archive.

Both readers hold an index and no open file, so they can be pickled, forked and shared by any
number of threads: every read opens the file for itself.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable

from igpt_jax.data.images import BrokenImageError
from igpt_jax.errors import UserError

MAX_FILE_BYTES: Final = 1 << 28
"""Largest file that is unpacked from an archive: a guard against zip bombs."""

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_LOCAL_MAGIC: Final = b"PK\x03\x04"
_ENCRYPTED: Final = 0x1
_DEFLATE_WINDOW: Final = -15
"""A raw stream, without zlib's header."""


@runtime_checkable
class Files(Protocol):
    """A set of named files."""

    names: Sequence[str]
    """Paths below the root with `/` between the parts, in no promised order."""

    def read(self, name: str) -> bytes:
        """Read one whole file; raises `BrokenImageError` when it cannot be read."""
        ...


class FolderFiles:
    """All files below a folder; links are followed, each folder at most once.

    Attributes:
        names: Paths relative to the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names: Sequence[str] = _walk(root)

    def read(self, name: str) -> bytes:
        """Read one whole file."""
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise BrokenImageError(error.strerror or "cannot be read") from error


class ZipFiles:
    """All files of a zip archive, stored or deflated, read without unpacking the archive.

    Attributes:
        names: Names as the archive lists them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read_directory(path)
        self.names: Sequence[str] = tuple(self._entries)

    def read(self, name: str) -> bytes:
        """Read and verify one whole file."""
        entry = self._entries[name]
        try:
            packed = _read_packed(self._path, entry)
            data = _inflate(packed, entry.size) if entry.deflated else packed
        except (OSError, struct.error, zlib.error) as error:
            raise BrokenImageError(f"damaged in the archive ({error})") from error
        if len(data) != entry.size or zlib.crc32(data) != entry.checksum:
            raise BrokenImageError("damaged in the archive (wrong length or checksum)")
        return data


def open_files(root: Path) -> Files:
    """Opens a folder or a zip archive.

    Raises:
        UserError: It is neither.
    """
    if root.is_dir():
        return FolderFiles(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return ZipFiles(root)
    got = "another kind of file" if root.exists() else "nothing there"
    raise UserError(f"{root}: expected a folder or a zip archive, got {got}; check the path")


class _Entry(NamedTuple):
    offset: int
    packed_size: int
    size: int
    checksum: int
    deflated: bool


def _walk(root: Path) -> tuple[str, ...]:
    names: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        below = Path(folder).relative_to(root)
        names.extend((below / file).as_posix() for file in files)
    return tuple(names)


def _read_directory(path: Path) -> dict[str, _Entry]:
    """Index the archive; raises `UserError` when it is none, or is packed in another way."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{path}: expected a readable zip archive, got {error}; copy or pack it again"
        ) from error
    for info in infos:
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise UserError(
                f"{path}: expected plain or deflated files, got {info.filename!r} packed in "
                "another way; pack the archive again with `zip -r`"
            )
    return {
        info.filename: _Entry(
            offset=info.header_offset,
            packed_size=info.compress_size,
            size=info.file_size,
            checksum=info.CRC,
            deflated=info.compress_type == zipfile.ZIP_DEFLATED,
        )
        for info in infos
    }


def _read_packed(path: Path, entry: _Entry) -> bytes:
    """Read the bytes behind the local header, whose length only the header itself tells."""
    if max(entry.size, entry.packed_size) > MAX_FILE_BYTES:
        raise BrokenImageError(f"{entry.size} bytes are more than the limit of {MAX_FILE_BYTES}")
    with path.open("rb") as file:
        file.seek(entry.offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != _LOCAL_MAGIC:
            raise BrokenImageError("damaged in the archive (no local header)")
        file.seek(name_length + extra_length, os.SEEK_CUR)
        return file.read(entry.packed_size)


def _inflate(packed: bytes, size: int) -> bytes:
    """Unpack at most one byte more than promised, so that no entry can grow without end."""
    return zlib.decompressobj(_DEFLATE_WINDOW).decompress(packed, size + 1)
