"""What every picture source provides, and what it hands out."""

import operator
from typing import (
    Literal,
    NotRequired,
    Protocol,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    runtime_checkable,
)

import numpy as np

from igpt_jax.typing import Int, UInt8

Split: TypeAlias = Literal["train", "validation"]


class Example(TypedDict):
    """One picture, the number of its class, and what else some sources have.

    That is a caption, the picture that it is made from, and the value of each attribute.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: int
    caption: NotRequired[str]
    cond_image: NotRequired[UInt8[np.ndarray, "h w 3"]]
    attributes: NotRequired[Int[np.ndarray, " a"]]


class VideoExample(TypedDict):
    """One clip, the number of its class, and a caption from the sources that have some."""

    video: UInt8[np.ndarray, "t h w 3"]
    label: int
    caption: NotRequired[str]


@runtime_checkable
class Source(Protocol):
    """Random access to the pictures or videos of one split; safe to pickle and to share by threads.

    Reading an item raises `BrokenImageError`, with the file's name, for a damaged file, and
    `IndexError` for an index outside of 0 .. len - 1.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Example | VideoExample: ...

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0 .. num_classes - 1."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels."""
        ...


def check_index(index: SupportsIndex, length: int) -> int:
    """Return the index as an int, or raise `IndexError` when it is not in 0 .. length - 1."""
    position = operator.index(index)
    if not 0 <= position < length:
        raise IndexError(f"expected an index in 0..{length - 1}, got {position}")
    return position
