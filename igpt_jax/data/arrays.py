"""Pictures in one NumPy file."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, SupportsIndex

import numpy as np

from igpt_jax.data.examples import Example, Split, check_index
from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.typing import Int, UInt8

_IMAGE_KEYS: Final = ("images", "x")
_LABEL_KEYS: Final = ("labels", "y")
_ZIP_MAGIC: Final = b"PK"


@dataclass(frozen=True)
class ArrayConfig:
    """8-bit pictures in a `.npy` file, or pictures and labels in a `.npz` file.

    Attributes:
        path: The file. A `.npy` holds [n h w 3] or grey [n h w] and is mapped, not read; a
            `.npz` holds the same under `images` or `x`, with integers [n] under `labels` or
            `y` if there are classes, and is read to memory. May hold `~` and variables such as
            `$IGPT_DATA`.
        validation_count: The last so many pictures are set aside for validation.
    """

    path: str
    validation_count: int = 0

    def __post_init__(self) -> None:
        if self.validation_count < 0:
            raise UserError(
                "ArrayConfig.validation_count: expected at least 0, "
                f"got {self.validation_count}; change it"
            )


class ArraySource:
    """The pictures of an `ArrayConfig`, in the order of the file."""

    def __init__(self, config: ArrayConfig, split: Split) -> None:
        self._path = expand_path(config.path)
        images, labels = self._arrays
        total, validation = len(images), config.validation_count
        if split == "validation" and validation == 0:
            raise UserError(
                f"{self._path}: expected pictures for validation, got validation_count = 0; "
                "set ArrayConfig.validation_count"
            )
        if validation >= total:
            raise UserError(
                f"{self._path}: expected more than validation_count = {validation} pictures, "
                f"got {total}; lower ArrayConfig.validation_count"
            )
        border = total - validation
        self._range = range(border) if split == "train" else range(border, total)
        self.num_classes: int = 1 if labels is None else int(labels.max()) + 1

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: SupportsIndex, /) -> Example:
        row = self._range[check_index(index, len(self))]
        images, labels = self._arrays
        image = images[row]
        pixels = np.array(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1))
        return {"image": pixels, "label": 0 if labels is None else int(labels[row])}

    def __repr__(self) -> str:
        return f"ArraySource({str(self._path)!r}, {len(self)} pictures)"

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map would carry all pictures along; the other side opens the file.
        return {key: value for key, value in vars(self).items() if key != "_arrays"}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels as text: the file holds no names."""
        return tuple(str(label) for label in range(self.num_classes))

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, Int[np.ndarray, " n"] | None]:
        return _load(self._path)


def _load(path: Path) -> tuple[UInt8[np.ndarray, "..."], Int[np.ndarray, " n"] | None]:
    """Open the file and check what it holds."""
    try:
        images, labels = _read(path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: expected a .npy or .npz file without pickled objects, got {reason}; "
            "check the path or save the arrays again with numpy"
        ) from error
    _check_images(images, path)
    if labels is not None:
        _check_labels(labels, len(images), path)
    return images, labels


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Map the array of a `.npy`, or read images and labels of a `.npz`."""
    with path.open("rb") as file:
        if file.read(2) != _ZIP_MAGIC:
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            images = _pick(arrays, _IMAGE_KEYS, path)
            has_labels = any(key in arrays for key in _LABEL_KEYS)
            return images, _pick(arrays, _LABEL_KEYS, path) if has_labels else None


def _pick(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...], path: Path) -> np.ndarray:
    for key in keys:
        if key in arrays:
            return arrays[key]
    raise UserError(
        f"{path}: expected an array named {' or '.join(keys)}, "
        f"got {', '.join(arrays) or 'none'}; rename it"
    )


def _check_images(images: np.ndarray, path: Path) -> None:
    shape_ok = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if images.dtype != np.uint8 or not shape_ok or images.size == 0:
        raise UserError(
            f"{path}: expected uint8 images [n h w 3] or [n h w], got {images.dtype} "
            f"{list(images.shape)}; convert them"
        )


def _check_labels(labels: np.ndarray, count: int, path: Path) -> None:
    integers = np.issubdtype(labels.dtype, np.integer)
    if not integers or labels.shape != (count,) or labels.min() < 0:
        raise UserError(
            f"{path}: expected {count} integer labels of at least 0, got {labels.dtype} "
            f"{list(labels.shape)}; convert them"
        )
