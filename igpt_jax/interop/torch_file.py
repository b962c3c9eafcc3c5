"""PyTorch's files (.pt, .pth, .bin, .ckpt) without PyTorch, and without running their code.

Such a file is a pickle beside raw storages. `torch.load` runs what the pickle says; its
`weights_only` refuses Lightning's checkpoints and others that name a class of their own, needs a
package of gigabytes, and holds every tensor of the file at once. Here the pickle is read as data
(`inert_pickle`), classes that it names become inert, and each tensor is read when it is asked for.

Both formats are known: the zip archive since PyTorch 1.6 and the row of pickles before it. What is
older, a tar archive, must be resaved, and so must a program (TorchScript).
"""

import os
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.inert_pickle import UNKNOWN, Named, load_inert
from igpt_jax.interop.lazy_arrays import (
    DTYPES,
    LazyArrays,
    StoredArray,
    naming_damage,
    stored_region,
)

_PREFERRED: Final = ("state_dict", "model")
_MAX_DEPTH: Final = 3  # VAR's training nests two deep
_MODULE_WRAPPERS: Final = ("_orig_mod.", "module.")
_OLD_MAGIC: Final = 0x1950A86A20F9469CFC6C
_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_TENSOR_TYPES: Final = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")

_Places: TypeAlias = Mapping[str, tuple[int, int]]
"""The first byte of each storage, and how many it has."""


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    num_bytes: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides are in elements of its dtype."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def open_torch(path: Path, entry: str | None = None) -> LazyArrays:
    """Open a file of PyTorch; only names and shapes are read.

    The mapping of tensors may be the whole file or one of its entries. Entries that are no tensors
    (steps, arguments, an epoch) are left out.

    Args:
        path: the file.
        entry: which entry to take, with dots where they are nested, such as `trainer.vae_local` of
            VAR's training. None takes `state_dict` or else `model`, or the only one there is.
            LlamaGen's training writes `model` and `ema`, of which its own evaluation of
            tokenizers (reconstruction_vq_ddp.py) prefers `ema`.

    Raises:
        UserError: the file is damaged, too old, a program, or has no such entry, or several and no
            preferred one.
    """
    with naming_damage(path):
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04":
            contents, places = _read_zip(path)
        elif start[:1] == b"\x80":
            contents, places = _read_row_of_pickles(path)
        elif tarfile.is_tarfile(path):
            raise UserError(
                f"weights {path}: expected a file of PyTorch 0.4 or later, got a tar archive; load "
                "it with PyTorch and save it as .safetensors"
            )
        else:
            raise ValueError("neither a zip archive nor a pickle of PyTorch")
        tensors = _choose(path, contents, entry)
        return LazyArrays({name: _locate(path, places, each) for name, each in tensors.items()})


def _choose(path: Path, contents: Any, entry: str | None) -> dict[str, _Tensor]:
    """The mapping of tensors that is meant."""
    found = _mappings(contents)
    named = {".".join(place): tensors for place, tensors in found.items()}
    for name in _PREFERRED if entry is None else (entry,):
        if name in named:
            return _without_wrapper(named[name])
    # What lies in an optimizer's state is no candidate beside an entry of its own.
    outermost = [place for place in found if len(place) <= max(1, min(map(len, found)))]
    if entry is None and len(outermost) == 1:
        return _without_wrapper(found[outermost[0]])
    kind = "an object" if contents is UNKNOWN else type(contents).__name__
    others = list(contents) if isinstance(contents, dict) else []
    names = [name for name in dict.fromkeys([*named, *others]) if name]
    shown = ", ".join(f"{name!r:.60}" for name in names[:6])
    where = f"alone or under {' or '.join(_PREFERRED)}" if entry is None else f"under {entry}"
    remedy = "choose an entry that has tensors (--entry)" if found else "save it as .safetensors"
    raise UserError(
        f"weights {path}: expected a mapping of tensors {where}, got "
        f"{f'entries {shown}' if shown else kind}; {remedy}"
    )


def _mappings(value: Any, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, _Tensor]]:
    """Every mapping that holds tensors, by the keys on the way to it; outer ones come first."""
    if not isinstance(value, dict) or len(place) > _MAX_DEPTH:
        return {}
    tensors = {key: item for key, item in value.items() if isinstance(item, _Tensor)}
    found = {place: tensors} if tensors else {}
    for key, item in value.items():
        found |= _mappings(item, (*place, str(key)))
    return found


def _without_wrapper(tensors: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """Without what DistributedDataParallel and torch.compile put before all names."""
    for prefix in _MODULE_WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): each for name, each in tensors.items()}
    return tensors


def _locate(path: Path, places: _Places, tensor: _Tensor) -> StoredArray:
    storage = tensor.storage
    start, num_bytes = places[storage.key]
    if storage.num_bytes > num_bytes:
        raise ValueError(f"the storage {storage.key} of {num_bytes} bytes")
    return stored_region(
        path,
        start + tensor.offset * tensor.dtype.itemsize,
        tensor.dtype,
        tensor.shape,
        tensor.strides,
        end=start + storage.num_bytes,
    )


def _read_zip(path: Path) -> tuple[Any, _Places]:
    """The pickle of an archive, and where each storage lies."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        if any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist()):
            raise UserError(
                f"weights {path}: expected tensors, got a program of TorchScript; load it with "
                "torch.jit.load and save its state_dict() as .safetensors"
            )
        members = {info.filename: _member_place(file, info) for info in archive.infolist()}
        pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"an archive with {len(pickles)} files data.pkl in place of one")
        folder = pickles[0].removesuffix("data.pkl")

        def read(name: str) -> bytes:
            start, num_bytes = members[folder + name]
            file.seek(start)
            return file.read(num_bytes)

        if folder + "byteorder" in members and read("byteorder") != b"little":
            raise ValueError("numbers that are not little-endian")
        contents = load_inert(BytesIO(read("data.pkl")), _call, _storage)
    start = folder + "data/"
    return contents, {
        name.removeprefix(start): place for name, place in members.items() if name.startswith(start)
    }


def _member_place(file: BufferedIOBase, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a member begin, and how many there are."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"{info.filename} is compressed")  # PyTorch compresses nothing
    file.seek(info.header_offset)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    start = info.header_offset + 30 + name_length + extra_length
    end = start + info.file_size
    if signature != b"PK\x03\x04" or end > os.stat(file.fileno()).st_size:
        raise ValueError(f"{info.filename} is not where the archive says")
    return start, info.file_size


def _read_row_of_pickles(path: Path) -> tuple[Any, _Places]:
    """The contents of a file of the old format, and where each storage lies."""
    seen: dict[str, _Storage] = {}

    def stored(key: Any) -> Any:
        storage = _storage(key)
        if isinstance(storage, _Storage) and seen.setdefault(storage.key, storage) != storage:
            raise ValueError(f"the storage {storage.key} of two kinds")
        return storage

    with path.open("rb") as file:
        magic, version, system, contents, keys = (load_inert(file, _call, stored) for _ in range(5))
        if (magic, version, system["little_endian"]) != (_OLD_MAGIC, 1001, True):
            raise ValueError("another format than PyTorch's before 1.6")
        places: dict[str, tuple[int, int]] = {}
        num_bytes = os.stat(path).st_size
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            storage, start = seen[key], file.tell()
            if count * storage.dtype.itemsize != storage.num_bytes:
                raise ValueError(f"the storage {key} of {count} elements")
            places[key] = start, storage.num_bytes
            if file.seek(start + storage.num_bytes) > num_bytes:
                raise ValueError(f"the storage {key} ends behind the end of the file")
    return contents, places


def _storage(key: Any) -> Any:
    """What a persistent id stands for."""
    match key:
        case ("storage", Named(kind), str(name), _, int(count), *rest) if kind.startswith("torch."):
            if any(rest):
                raise ValueError("a view of a storage, as PyTorch before 0.4 wrote it")
            dtype = _STORAGES.get(kind.rpartition(".")[2])
            if dtype is not None:
                return _Storage(name, DTYPES[dtype], count * DTYPES[dtype].itemsize)
    return UNKNOWN


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a call in the pickle stands for; `torch._utils` has the functions that are named."""
    match name.removeprefix("torch._utils."), arguments:
        case "collections.OrderedDict", ():
            return {}
        case "collections.OrderedDict", (list(pairs),):
            return {key: value for key, value in pairs if isinstance(key, str)}
        case "torch.Size", (tuple(sizes),):
            return sizes
        case (
            "_rebuild_tensor" | "_rebuild_tensor_v2",
            (_Storage() as storage, offset, tuple(shape), tuple(strides), *rest),
        ) if not any(rest[2:]):  # which would say that all is negated or conjugated
            return _tensor(storage, storage.dtype, offset, shape, strides)
        case (
            "_rebuild_tensor_v3",
            (_Storage() as storage, offset, tuple(shape), tuple(strides), _, _, Named(kind), *rest),
        ) if not any(rest) and kind.removeprefix("torch.") in DTYPES:
            return _tensor(storage, DTYPES[kind.removeprefix("torch.")], offset, shape, strides)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (tensor, *_):
            return tensor
        case (
            "torch._tensor._rebuild_from_type_v2",
            (Named(function), Named(kind), tuple(inner), *_),
        ) if kind in _TENSOR_TYPES and function != name:  # a tensor that has attributes
            return _call(function, inner)
    return UNKNOWN


def _tensor(
    storage: _Storage,
    dtype: np.dtype,
    offset: Any,
    shape: tuple[Any, ...],
    strides: tuple[Any, ...],
) -> _Tensor:
    if not all(type(number) is int for number in (offset, *shape, *strides)):
        raise TypeError("a shape, stride or offset that is no integer")
    if offset < 0:  # into another storage, which `stored_region` could not tell
        raise ValueError(f"the offset {offset}")
    return _Tensor(storage, dtype, offset, shape, strides)
