"""Variables as `flax.serialization.to_bytes` writes them: nested maps of arrays in MessagePack.

`flax.serialization.msgpack_restore` holds the whole file and every array at once; here the maps are
walked, and where the arrays lie is all that is kept. https://github.com/msgpack/msgpack,
spec.md, has the codes.
"""

import math
import os
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import jax
import numpy as np

from igpt_jax.interop.lazy_arrays import (
    DTYPES,
    LazyArrays,
    StoredArray,
    naming_damage,
    stored_region,
)

_ARRAY: Final = 1  # Flax' number for its own type
_CHUNKED: Final = "__msgpack_chunked_array__"  # Flax parts arrays of more than 2**30 bytes
_SIZED: Final = {
    **{0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4)},
    **{0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4)},
    **{0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4)},
    **{0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
_FIXED: Final = {
    **{0xC0: ("other", 0), 0xC2: ("other", 0), 0xC3: ("other", 0)},
    **{0xCA: ("other", 4), 0xCB: ("other", 8)},
    **{0xCC: ("count", 1), 0xCD: ("count", 2), 0xCE: ("count", 4), 0xCF: ("count", 8)},
    **{0xD0: ("other", 1), 0xD1: ("other", 2), 0xD2: ("other", 4), 0xD3: ("other", 8)},
    **{0xD4: ("ext", 1), 0xD5: ("ext", 2), 0xD6: ("ext", 4), 0xD7: ("ext", 8), 0xD8: ("ext", 16)},
}


def open_msgpack(path: Path) -> LazyArrays:
    """Open a file; names and shapes are read.

    Returns:
        The arrays; `/` joins the names of the maps they are in. Other values are left out.

    Raises:
        UserError: no such file, or it is damaged.
    """
    with naming_damage(path), path.open("rb") as file:
        arrays = dict(_arrays_of_map(path, file, _size(file, "map"), ""))
        if file.tell() != os.stat(path).st_size:
            raise ValueError(f"{os.stat(path).st_size} bytes in place of {file.tell()}")
    return LazyArrays(arrays)


def is_msgpack(path: Path) -> bool:
    """Whether a file begins like a map with entries; MaskGIT's checkpoints have no suffix."""
    with path.open("rb") as file:
        code = file.read(1)
    # 0x80, an empty map, is how a pickle begins.
    return b"\x81" <= code <= b"\x8f" or code in (b"\xde", b"\xdf")


def _arrays_of_map(
    path: Path, file: BufferedIOBase, num_entries: int, prefix: str
) -> Iterator[tuple[str, StoredArray]]:
    for _ in range(num_entries):
        name = _text(file)
        if name == _CHUNKED:
            yield prefix.removesuffix("/"), _chunked(path, file)
            return
        start = file.tell()
        kind, size = _head(file)
        if kind == "map":
            yield from _arrays_of_map(path, file, size, f"{prefix}{name}/")
        elif kind == "ext" and _exactly(file, 1)[0] == _ARRAY:
            yield prefix + name, _array(path, file, file.tell() + size)
        else:
            file.seek(start)
            _skip(file)


def _array(path: Path, file: BufferedIOBase, end: int) -> StoredArray:
    """An array: its shape, the name of its dtype and its bytes."""
    if _size(file, "list") != 3:
        raise ValueError("an array of other than three parts")
    shape = tuple(_count(file) for _ in range(_size(file, "list")))
    dtype = DTYPES[_text(file)]
    num_bytes = _size(file, "bytes")
    start = file.tell()
    if num_bytes != math.prod(shape) * dtype.itemsize or start + num_bytes != end:
        raise ValueError(f"an array of shape {list(shape)} in {num_bytes} bytes")
    file.seek(end)
    return stored_region(path, start, dtype, shape)


def _chunked(path: Path, file: BufferedIOBase) -> StoredArray:
    """The rest of a map that is an array in parts."""
    _skip(file)
    shape, chunks = None, None
    for _ in range(2):
        match _text(file):
            case "shape":
                sizes = {_text(file): _count(file) for _ in range(_size(file, "map"))}
                shape = tuple(sizes[str(axis)] for axis in range(len(sizes)))
            case "chunks":
                found = dict(_arrays_of_map(path, file, _size(file, "map"), ""))
                chunks = [found[str(index)] for index in range(len(found))]
    if not shape or not chunks:
        raise ValueError("an array in parts without shape or parts")
    dtype = chunks[0].spec.dtype
    ends = np.cumsum([chunk.spec.shape[0] for chunk in chunks]).tolist()
    if ends[-1] != math.prod(shape) or any(chunk.spec.dtype != dtype for chunk in chunks):
        raise ValueError(f"an array of shape {list(shape)} in parts of {ends[-1]}")

    def read_rows(start: int, stop: int) -> np.ndarray:
        row = math.prod(shape[1:])
        flat = np.empty((stop - start) * row, dtype)
        for chunk, end in zip(chunks, ends, strict=True):
            begin = end - chunk.spec.shape[0]
            first, last = max(start * row, begin), min(stop * row, end)
            if first < last:
                part = chunk.read_rows(first - begin, last - begin)
                flat[first - start * row : last - start * row] = part
        return flat.reshape(stop - start, *shape[1:])

    return StoredArray(path, jax.ShapeDtypeStruct(shape, dtype), read_rows)


def _head(file: BufferedIOBase) -> tuple[str, int]:
    """The kind of the next value, and its number of bytes or entries, or itself if a count."""
    code = _exactly(file, 1)[0]
    if code in _SIZED:
        kind, width = _SIZED[code]
        return kind, int.from_bytes(_exactly(file, width), "big")
    if code in _FIXED:
        kind, width = _FIXED[code]
        return kind, int.from_bytes(_exactly(file, width), "big") if kind == "count" else width
    if code < 0x80:
        return "count", code
    if code < 0xC0:
        return ("text", code & 31) if code >= 0xA0 else (("map", "list")[code >= 0x90], code & 15)
    if code < 0xE0:
        raise ValueError(f"the code {code:#x}")
    return "other", 0  # a small negative number


def _skip(file: BufferedIOBase) -> None:
    pending = 1
    while pending:
        kind, size = _head(file)
        pending += {"map": 2 * size, "list": size}.get(kind, 0) - 1
        if kind not in ("map", "list", "count"):
            _check_room(file, size + (kind == "ext"))


def _check_room(file: BufferedIOBase, num_bytes: int) -> None:
    if file.seek(num_bytes, os.SEEK_CUR) > os.stat(file.fileno()).st_size:
        raise EOFError("the file ends early")


def _size(file: BufferedIOBase, kind: str) -> int:
    found, size = _head(file)
    if found != kind:
        raise ValueError(f"{found} in place of {kind}")
    return size


def _count(file: BufferedIOBase) -> int:
    return _size(file, "count")


def _text(file: BufferedIOBase) -> str:
    kind, size = _head(file)
    if kind not in ("text", "bytes"):
        raise ValueError(f"{kind} in place of text")
    return _exactly(file, size).decode()


def _exactly(file: BufferedIOBase, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise EOFError("the file ends early")
    return found
