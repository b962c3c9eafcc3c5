"""Arrays of a file that are read one at a time, when they are asked for."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Final, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Shaped

Index: TypeAlias = tuple[slice, ...]
"""Which part of an array: a slice for each axis, or for the first ones."""

DTYPES: Final[Mapping[str, np.dtype]] = {
    name: jnp.dtype(name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("bool", "complex64", "complex128"),
    )
}
"""The dtypes that weight files hold, by NumPy's name."""

_ROOM: Final = 1 << 20


@dataclass(frozen=True)
class StoredArray:
    """One array of a file.

    Attributes:
        path: the file, for error messages.
        spec: shape and dtype.
        read_rows: returns rows `start` to `stop` of the first axis as a new array; without axes,
            the whole array.
    """

    path: Path
    spec: jax.ShapeDtypeStruct
    read_rows: Callable[[int, int], np.ndarray]


class LazyArrays(Mapping[str, np.ndarray]):
    """Arrays by name; nothing of the data is read until an array is asked for, or kept after it.

    Attributes:
        stored: where each array lies.
        specs: shape and dtype of each array.
    """

    def __init__(self, stored: Mapping[str, StoredArray]) -> None:
        self.stored: dict[str, StoredArray] = dict(stored)
        self.specs: dict[str, jax.ShapeDtypeStruct] = {
            name: array.spec for name, array in stored.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one array, a new one each time.

        Raises:
            KeyError: there is none of this name.
            UserError: the file cannot be read, or is damaged.
        """
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the array
        return name in self.specs

    def __repr__(self) -> str:
        return f"LazyArrays of {len(self)} arrays"

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """Read one array, or a part of it.

        Args:
            name: which one.
            index: what of each axis; axes that it does not name are whole. Where the file allows
                it, only these rows of the first axis are read. None is everything.

        Raises:
            KeyError: there is none of this name.
            UserError: the file cannot be read, or is damaged; or too many axes are named.
        """
        array = self.stored[name]
        shape = array.spec.shape
        if index is not None and len(index) > len(shape):
            raise UserError(f"{name}: expected at most {len(shape)} slices, got {len(index)}")
        with naming_damage(array.path):
            if not index:
                return array.read_rows(0, shape[0] if shape else 1)
            start, stop, step = index[0].indices(shape[0])
            if step < 0:
                return array.read_rows(0, shape[0])[index].copy()
            rows = array.read_rows(start, max(start, stop))
            part = rows[(slice(None, None, step), *index[1:])]
            return part.copy() if part.size < rows.size else part


def place(arrays: LazyArrays, name: str, sharding: jax.sharding.Sharding) -> Shaped[Array, "..."]:
    """Read one array onto the devices of a sharding; a process reads no rows but its own.

    Args:
        arrays: where from.
        name: which one.
        sharding: of the result.

    Returns:
        The array, in the dtype of the file, or that which JAX has instead of 64 bits.

    Raises:
        UserError: the file cannot be read, or is damaged.
    """
    spec = arrays.specs[name]
    indices = sharding.addressable_devices_indices_map(spec.shape).values()
    local, starts = read_around(arrays, name, [index for index in indices if index is not None])
    local = local.astype(jax.dtypes.canonicalize_dtype(spec.dtype), copy=False)

    def part(index: Index | None) -> np.ndarray:
        bounds = zip(_bounds(index or (), spec.shape), starts, strict=True)
        inner = (slice(start - first, stop - first) for (start, stop), first in bounds)
        return local[(*inner, ...)]  # which keeps a scalar an array

    return jax.make_array_from_callback(spec.shape, sharding, part, dtype=local.dtype)


def read_around(
    arrays: LazyArrays, name: str, indices: Sequence[Index]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Read the smallest part that has all of several parts in it, at once.

    Args:
        arrays: where from.
        name: which one.
        indices: the parts, with steps of 1. Without any, nothing is read.

    Returns:
        The part, and where it starts on each axis.

    Raises:
        UserError: the file cannot be read, or is damaged.
    """
    shape = arrays.specs[name].shape
    bounds = [_bounds(index, shape) for index in indices] or [[(0, 0)] * len(shape)]
    starts = tuple(min(start for start, _ in axis) for axis in zip(*bounds, strict=True))
    stops = tuple(max(stop for _, stop in axis) for axis in zip(*bounds, strict=True))
    return arrays.read(name, tuple(map(slice, starts, stops))), starts


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turns whatever a reader raises into a `UserError` of one line that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged bytes make readers raise nearly anything
        reason = next(iter(str(error).splitlines()), "") or "nothing more is known"
        raise UserError(
            f"weights {path}: expected a whole file of arrays, got {type(error).__name__} "
            f"({reason[:200]}); download it again or convert it to .safetensors"
        ) from error


def stored_region(
    path: Path,
    offset: int,
    dtype: np.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    *,
    end: int | None = None,
) -> StoredArray:
    """Describe an array whose elements lie in a file as they do in memory, little-endian.

    Args:
        path: the file.
        offset: of its first element, in bytes.
        dtype: of an element.
        shape: of the array.
        strides: from one element of an axis to the next, in elements; None is row by row.
        end: where the bytes that it may use end; None is the end of the file.

    Raises:
        ValueError: the array does not end there or before, or would be far larger than the file.
    """
    steps = _row_strides(shape) if strides is None else strides
    if min((offset, *shape, *steps), default=0) < 0 or len(shape) != len(steps):
        raise ValueError(f"an array of shape {list(shape)} and strides {list(steps)}")
    num_bytes = os.stat(path).st_size
    last, limit = offset + dtype.itemsize * _extent(shape, steps), num_bytes if end is None else end
    if last > min(limit, num_bytes):
        raise ValueError(f"an array ends at byte {last} in place of {limit}")
    # Strides of 0 or views that overlap can make a small file claim any size.
    if math.prod(shape) * dtype.itemsize > max(num_bytes, _ROOM):
        raise ValueError(f"an array of shape {list(shape)} in a file of {num_bytes} bytes")

    def read_rows(start: int, stop: int) -> np.ndarray:
        rows = (stop - start, *shape[1:]) if shape else ()
        first = offset + dtype.itemsize * (start * steps[0] if shape else 0)
        raw = np.empty(dtype.itemsize * _extent(rows, steps), np.uint8)
        with path.open("rb") as file:
            file.seek(first)
            read_into(file, raw)
        array = np.ndarray(rows, dtype, raw, strides=[step * dtype.itemsize for step in steps])
        return array if steps == _row_strides(shape) else array.copy()

    return StoredArray(path, jax.ShapeDtypeStruct(shape, dtype), read_rows)


def read_into(file: BufferedIOBase, raw: np.ndarray) -> None:
    """Fills bytes from a file.

    Raises:
        EOFError: the file has fewer.
    """
    view = raw.data
    while view:
        count = file.readinto(view)
        if not count:
            raise EOFError("the file ends early")
        view = view[count:]


def _bounds(index: Index, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Start and stop of a part on each axis."""
    whole = (slice(None),) * (len(shape) - len(index))
    limits = (axis.indices(size) for axis, size in zip((*index, *whole), shape, strict=True))
    return [(start, stop) for start, stop, _ in limits]


def _row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last one of an array, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
