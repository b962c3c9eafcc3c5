"""NumPy's archives of arrays (.npz)."""

import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import jax
import numpy as np
from numpy.lib import format as npy

from igpt_jax.interop.lazy_arrays import DTYPES, LazyArrays, StoredArray, naming_damage

_MAX_RATIO: Final = 1032  # of deflate; a member that claims more is damaged or a trap
_HEADERS: Final = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_VOID: Final = np.dtype("V2")  # as what NumPy writes bfloat16


def open_npz(path: Path) -> LazyArrays:
    """Open an archive, compressed or not; of each member, the header is read.

    Returns:
        The arrays; those of text are left out.

    Raises:
        UserError: no such file, or it is damaged, or holds pickled objects.
    """
    with naming_damage(path), zipfile.ZipFile(path) as archive:
        arrays = {info.filename: _stored(path, archive, info) for info in archive.infolist()}
    return LazyArrays(
        {name.removesuffix(".npy"): array for name, array in arrays.items() if array is not None}
    )


def iterate_rows(path: Path, name: str, size: int) -> Iterator[np.ndarray]:
    """Yield an array in parts of so many rows; no more than a part is in memory.

    Args:
        path: the archive.
        name: of an array with at least one axis, stored row by row, as `open_npz` finds it.
        size: rows of a part; the last one may have fewer.

    Raises:
        UserError: the archive is damaged.
    """
    with naming_damage(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, is_by_column, dtype = _HEADERS[npy.read_magic(file)](file)
        if is_by_column or dtype.hasobject or not shape:
            raise ValueError(f"{name} is not stored row by row")
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        for start in range(0, shape[0], size):
            rows = min(size, shape[0] - start)
            data = file.read(rows * row_bytes)
            if len(data) != rows * row_bytes:
                raise EOFError(f"{name} ends early")
            yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])


def _stored(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> StoredArray | None:
    with archive.open(info) as member:
        shape, _, dtype = _HEADERS[npy.read_magic(member)](member)
        start = member.tell()
    if dtype.kind in "US":
        return None
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds pickled objects")
    spec = jax.ShapeDtypeStruct(shape, DTYPES["bfloat16" if dtype == _VOID else dtype.name])
    packed = min(info.compress_size, os.stat(path).st_size)
    if (
        info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        or info.file_size != start + math.prod(shape) * dtype.itemsize
        or info.file_size > _MAX_RATIO * packed
    ):
        raise ValueError(f"{info.filename} of {info.file_size} bytes in {packed}")

    def read_rows(start: int, stop: int) -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(info.filename) as member:
            array = npy.read_array(member, allow_pickle=False)
        array = array.view(spec.dtype) if dtype == _VOID else array.astype(spec.dtype, copy=False)
        if array.shape != shape:
            raise ValueError(f"{info.filename} has changed")
        return array[start:stop].copy() if shape and stop - start < shape[0] else array

    return StoredArray(path, spec, read_rows)
