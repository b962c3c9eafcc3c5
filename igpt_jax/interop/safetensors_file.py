"""The safetensors format: a JSON header, then the arrays, one after the other, little-endian.

Specification: https://github.com/huggingface/safetensors#format.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import DTYPES, LazyArrays, naming_damage, stored_region

_MAX_HEADER: Final = 100_000_000  # bytes, as the specification limits it
_METADATA: Final = "__metadata__"
_ALIGNMENT: Final = 8
_CODES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_CODE_OF: Final = {DTYPES[name]: code for code, name in _CODES.items()}


def open_safetensors(path: Path) -> LazyArrays:
    """Open a file; only its header is read.

    Raises:
        UserError: no such file, or it is not whole: its arrays must fill it from the end of the
            header to the end of the file.
    """
    with naming_damage(path), path.open("rb") as file:
        start, header = _read_header(file, os.stat(path).st_size)
        header.pop(_METADATA, None)
        arrays, end = {}, start
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = DTYPES[_CODES[entry["dtype"]]], tuple(entry["shape"])
            first, last = entry["data_offsets"]
            if start + first != end or last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"the array {name} at bytes {first} to {last}")
            arrays[name] = stored_region(path, end, dtype, shape)
            end = start + last
        if end != os.stat(path).st_size:
            raise ValueError(f"{os.stat(path).st_size} bytes in place of {end}")
    return LazyArrays({name: arrays[name] for name in header})


def write_safetensors(
    path: Path,
    specs: Mapping[str, jax.ShapeDtypeStruct],
    arrays: Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Write a file that holds no more than one array in memory, and appears when it is whole.

    Args:
        path: the file; one that exists is replaced.
        specs: shape and dtype of each array.
        arrays: each array of `specs` once, in any order.
        metadata: free text for the header; `{"format": "pt"}` is what PyTorch's readers look for.

    Raises:
        UserError: an array is missing, unknown, there twice, or not as its spec; or the disk does
            not take the file. Nothing is left behind, and an older file stays as it was.
    """
    offsets, header = _layout(specs, metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header)
            missing = dict(specs)
            for name, array in arrays:
                _check(path, name, array, missing.pop(name, None), known=name in specs)
                file.seek(len(header) + offsets[name])
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if missing:
                raise UserError(f"{path}: expected the array {next(iter(missing))}, got none")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: expected to write it, got {error.strerror}; make room or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check(
    path: Path, name: str, array: np.ndarray, spec: jax.ShapeDtypeStruct | None, *, known: bool
) -> None:
    if spec is None:
        expected = "one array" if known else "no array"
        raise UserError(f"{path}: expected {expected} {name}, got {'two' if known else 'one'}")
    if (array.shape, array.dtype) != (spec.shape, spec.dtype):
        raise UserError(
            f"{path}: expected {name} of {spec.dtype}{list(spec.shape)}, "
            f"got {array.dtype}{list(array.shape)}"
        )


def _layout(
    specs: Mapping[str, jax.ShapeDtypeStruct], metadata: Mapping[str, str]
) -> tuple[dict[str, int], bytes]:
    """Where each array begins, counted from the end of the header, and the header."""
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    offsets, end = {}, 0
    # Wide elements first: each array then begins at a multiple of its element's size.
    for name, spec in sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize):
        if name == _METADATA or spec.dtype not in _CODE_OF:
            raise UserError(f"safetensors: expected no array {name} of {spec.dtype}, got one")
        offsets[name], start = end, end
        end += math.prod(spec.shape) * spec.dtype.itemsize
        header[name] = {
            "dtype": _CODE_OF[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return offsets, struct.pack("<Q", len(text)) + text


def _read_header(file: BufferedIOBase, num_bytes: int) -> tuple[int, dict[str, Any]]:
    """Where the arrays begin, and the header."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(_MAX_HEADER, num_bytes - 8):
        raise ValueError(f"a header of {length} bytes in a file of {num_bytes}")
    header = json.loads(file.read(length), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise TypeError("a header that is no mapping")
    return 8 + length, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that is there twice")
    return found
