"""Some pictures of each class of a source."""

from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from igpt_jax.data.examples import Example, Source, VideoExample, check_index
from igpt_jax.data.images import BrokenImageError
from igpt_jax.errors import UserError


@dataclass(frozen=True)
class FewSource:
    """The pictures of a source that are at some indices.

    Attributes:
        source: all pictures.
        indices: which.
    """

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: SupportsIndex) -> Example | VideoExample:
        return self.source[self.indices[check_index(index, len(self.indices))]]

    @property
    def num_classes(self) -> int:
        """Those of all pictures."""
        return self.source.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of all pictures."""
        return self.source.class_names


def few_of_each_class(source: Source, per_class: int, seed: int) -> FewSource:
    """`per_class` random pictures of each class; damaged ones are passed over.

    Raises:
        UserError: a class has fewer.
    """
    missing = dict.fromkeys(range(source.num_classes), per_class)
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(source)).tolist():
        try:
            label = source[index]["label"]
        except BrokenImageError:
            continue
        if missing.get(label):
            chosen.append(index)
            missing[label] -= 1
            if not missing[label]:
                del missing[label]
        if not missing:
            break
    if missing:
        label = min(missing)
        raise UserError(
            f"per_class: expected at most {per_class - missing[label]}, the pictures of class "
            f"{source.class_names[label]}, got {per_class}"
        )
    return FewSource(source, tuple(sorted(chosen)))
