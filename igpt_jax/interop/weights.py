"""Published weights: finding a file and reading it as named NumPy arrays."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.interop import hub
from igpt_jax.interop.hub import HUB, download_file, split_source
from igpt_jax.interop.lazy_arrays import LazyArrays
from igpt_jax.interop.msgpack_file import is_msgpack, open_msgpack
from igpt_jax.interop.npz_file import open_npz
from igpt_jax.interop.safetensors_file import open_safetensors
from igpt_jax.interop.tensorflow_file import open_tensorflow
from igpt_jax.interop.torch_file import open_torch
from igpt_jax.jsonfile import read_json

_SHARDED: Final = ".index.json"
_TORCH: Final = (".pt", ".pth", ".bin", ".ckpt")
_READERS: Final[Mapping[str, Callable[[Path], LazyArrays]]] = {
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".msgpack": open_msgpack,
    **dict.fromkeys(_TORCH, open_torch),
}
_IN_DIRECTORY: Final = (
    "*.safetensors.index.json",
    "*.safetensors",
    "*.bin.index.json",
    "pytorch_model.bin",  # beside which training_args.bin may lie
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.npz"),
)


def find_weights(source: str) -> Path:
    """Return the local path of weights, as `resolve_weights`, or of a whole repository's.

    Args:
        source: as `resolve_weights` takes it, or ORG/NAME on the Hugging Face Hub.

    Raises:
        UserError: as `resolve_weights`.
    """
    return hub.download_weights(source) if hub.is_repository(source) else resolve_weights(source)


def resolve_weights(source: str | os.PathLike[str]) -> Path:
    """Return the local path of a weight file, downloading it from the Hugging Face Hub if asked.

    Args:
        source: a path, in which `~` and variables such as `$IGPT_DATA` are replaced, or
            `hub:ORG/NAME/FILE`, where FILE may lie in folders; with an index of several files,
            those come too.

    Raises:
        UserError: a variable is not set, or the Hub does not give the file.
    """
    written = os.fspath(source)
    if not written.startswith(HUB):
        return expand_path(written)
    repo, name = split_source(written)
    path = download_file(repo, name)
    if name.endswith(_SHARDED):
        folder = name.rpartition("/")[0]
        for shard in dict.fromkeys(_shard_of(path).values()):
            download_file(repo, f"{folder}/{shard}" if folder else shard)
    return path


def open_weights(path: str | os.PathLike[str], entry: str | None = None) -> LazyArrays:
    """Open weights without reading them; code in a pickle is never run.

    Args:
        path: what is there decides how it is read:
            a file that ends in .safetensors, .npz (no pickled objects), .msgpack (Flax' variables,
            names joined by `/`), or .pt, .pth, .bin or .ckpt (PyTorch's, which need not be
            installed);
            an index (`*.safetensors.index.json`, `*.bin.index.json`) with its files beside it;
            a directory with one of these;
            the prefix of a TensorFlow checkpoint, such as `model.ckpt-1000000`, for which
            TensorFlow must be installed.
        entry: of a PyTorch file with several mappings of tensors, which to take. None takes
            `state_dict` or else `model`, or the only one. LlamaGen's training writes `model` and
            `ema`, of which its own evaluation of tokenizers prefers `ema`.

    Returns:
        The arrays by name, in the dtype of the file, each read when it is asked for.

    Raises:
        UserError: no such file, another suffix, a damaged file, or something other than arrays.
    """
    path = Path(path)
    if path.is_dir():
        path = _only_file(path)
    elif not path.is_file():
        return _open_checkpoint(path, entry)
    if path.name.endswith(_SHARDED):
        return _open_shards(path, entry)
    suffix = path.suffix.lower()
    if suffix in _TORCH:
        return open_torch(path, entry)
    if entry is not None:
        raise UserError(
            f"weights {path}: expected no entry for a file of one mapping, got {entry!r}; leave it"
        )
    if suffix == ".index":
        return open_tensorflow(path.with_suffix(""))
    if not suffix and is_msgpack(path):
        return open_msgpack(path)
    if suffix not in _READERS:
        raise UserError(
            f"weights {path}: expected a file that ends in {', '.join(_READERS)}, got "
            f"{path.suffix or 'no suffix'}; convert it to .safetensors"
        )
    return _READERS[suffix](path)


def read_weights(path: str | os.PathLike[str], entry: str | None = None) -> dict[str, np.ndarray]:
    """Read every array of a weight file; `open_weights` has the formats and the errors.

    Returns:
        The arrays by name, in the dtype of the file; bfloat16 stays bfloat16.
    """
    return dict(open_weights(path, entry))


def take_weight(
    weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int], *, model: str
) -> np.ndarray:
    """Return one array, in the dtype of the file, after a check of its name and shape.

    Args:
        weights: arrays by name.
        name: which one.
        shape: the shape that it must have.
        model: what the weights are of, for the error message.

    Raises:
        UserError: it is missing or has another shape.
    """
    if name not in weights:
        raise UserError(
            f"weights of {model}: expected an entry {name}, got {len(weights)} entries without it; "
            "give the file of this model"
        )
    weight = weights[name]
    if weight.shape != tuple(shape):
        raise UserError(
            f"weights of {model}: expected {name} of shape {list(shape)}, got "
            f"{list(weight.shape)}; give the file of this model"
        )
    return weight


def _open_checkpoint(prefix: Path, entry: str | None) -> LazyArrays:
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise UserError(f"weights {prefix}: expected a file, found none; check the path")
    if entry is not None:
        raise UserError(f"weights {prefix}: expected no entry, got {entry!r}; leave it")
    return open_tensorflow(prefix)


def _only_file(directory: Path) -> Path:
    for pattern in _IN_DIRECTORY:
        found = sorted(directory.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"weights {directory}: expected one file of weights, got "
                f"{', '.join(path.name for path in found[:6])}; name one of them"
            )
    raise UserError(
        f"weights {directory}: expected a directory with {', '.join(_IN_DIRECTORY)}, got none of "
        "them; check the path"
    )


def _open_shards(index: Path, entry: str | None) -> LazyArrays:
    shard_of = _shard_of(index)
    shards = {name: _open_shard(index, name, entry) for name in dict.fromkeys(shard_of.values())}
    for array, shard in shard_of.items():
        if array not in shards[shard]:
            raise UserError(
                f"weights {index}: expected {array} in {shard}, got {len(shards[shard])} arrays "
                "without it; download both again"
            )
    return LazyArrays({name: shards[shard].stored[name] for name, shard in shard_of.items()})


def _open_shard(index: Path, name: str, entry: str | None) -> LazyArrays:
    path = index.with_name(name)
    if not path.is_file():
        raise UserError(f"weights {index}: expected {name} beside it, found none; download it too")
    return open_weights(path, entry)


def _shard_of(index: Path) -> dict[str, str]:
    """The file of each array, as an index tells."""
    remedy = "download it again"
    shard_of = read_json(index, remedy).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise UserError(f"weights {index}: expected a weight_map, got none; {remedy}")
    for name in shard_of.values():
        plain = isinstance(name, str) and name and Path(name).name == name
        if not plain or name.endswith(_SHARDED):
            raise UserError(f"weights {index}: expected names of files, got {name!r}; {remedy}")
    return shard_of
