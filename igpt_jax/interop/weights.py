"""Published weights: finding a file and reading it as named NumPy arrays."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError

_HUB: Final = "hub:"
_HUB_SOURCE: Final = re.compile(r"hub:(?P<repo>[^/]+/[^/]+)/(?P<file>.+)")
_WRAPPERS: Final = ("state_dict", "model")


def resolve_weights(source: str | os.PathLike[str]) -> Path:
    """Return the local path of a weight file, downloading it from the Hugging Face Hub if asked.

    Args:
        source: a path, in which `~` and variables such as `$IGPT_DATA` are replaced, or
            `hub:ORG/NAME/FILE`, where FILE may lie in folders.

    Raises:
        UserError: a variable is not set, or the Hub does not give the file.
    """
    written = os.fspath(source)
    if not written.startswith(_HUB):
        return expand_path(written)
    found = _HUB_SOURCE.fullmatch(written)
    if found is None:
        raise UserError(
            f"weights: expected hub:ORG/NAME/FILE, got {written!r}; name the file in the repository"
        )
    try:
        from huggingface_hub import hf_hub_download  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            f"weights {written}: expected the package huggingface_hub, got none; "
            "pip install 'igpt_jax[hub]' or give the path of a local file"
        ) from error
    try:
        return Path(hf_hub_download(found["repo"], found["file"]))
    except Exception as error:  # its kinds differ between versions of the package
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"weights {written}: expected a file on the Hub, got {type(error).__name__}: {reason}; "
            "check the name, the connection and `hf auth login`, or give the path of a local file"
        ) from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every array of a weight file; code in a pickle is never run.

    Args:
        path: a file that ends in .safetensors, .npz (no pickled objects), or .pt, .pth, .bin or
            .ckpt, for which PyTorch must be installed. In the last four, the mapping of tensors
            may stand alone or under `state_dict` or `model`.

    Returns:
        The arrays by name, in the dtype of the file; bfloat16 stays bfloat16.

    Raises:
        UserError: no such file, another suffix, a damaged file, or something other than arrays.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"weights {path}: expected a file that ends in {', '.join(_READERS)}, got "
            f"{path.suffix or 'no suffix'}; convert it to .safetensors"
        )
    if not path.is_file():
        raise UserError(f"weights {path}: expected a file, found none; check the path")
    try:
        return reader(path)
    except UserError:
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        raise UserError(
            f"weights {path}: expected a {path.suffix} file of arrays without pickled objects, got "
            f"{type(error).__name__}; download it again or convert it to .safetensors"
        ) from error


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
    if weights[name].shape != tuple(shape):
        raise UserError(
            f"weights of {model}: expected {name} of shape {list(shape)}, got "
            f"{list(weights[name].shape)}; give the file of this model"
        )
    return weights[name]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # NumPy leaves a file open that it opened itself and found damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            f"weights {path}: expected PyTorch to read {path.suffix}, got none; pip install torch "
            "or convert the file to .safetensors"
        ) from error

    def to_numpy(tensor: Any) -> np.ndarray:
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:  # which PyTorch does not hand to NumPy
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    tensors = _only_tensors(path, loaded, torch.Tensor)
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}


def _only_tensors(path: Path, loaded: Any, tensor_type: type) -> Mapping[str, Any]:
    def is_tensors(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(name, str) for name in value)
            and all(isinstance(tensor, tensor_type) for tensor in value.values())
        )

    if is_tensors(loaded):
        return loaded
    entries = loaded if isinstance(loaded, Mapping) else {}
    nested = [name for name, value in entries.items() if is_tensors(value)]
    if len(nested) == 1 and nested[0] in _WRAPPERS:
        return entries[nested[0]]
    got = f"entries {', '.join(map(str, list(entries)[:4]))}" if entries else type(loaded).__name__
    raise UserError(
        f"weights {path}: expected one mapping of tensors, alone or under "
        f"{' or '.join(_WRAPPERS)}, got {got}; save the right one as .safetensors"
    )


_READERS: Final[Mapping[str, Callable[[Path], dict[str, np.ndarray]]]] = {
    ".safetensors": load_file,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".bin": _read_torch,
    ".ckpt": _read_torch,
}
