"""The pictures of a source, as measurements take them."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from igpt_jax.asking import check_count
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.pipeline import make_dataset, on_image
from igpt_jax.data.sources import DataConfig
from igpt_jax.data.transforms import TransformConfig, deterministic, transform
from igpt_jax.errors import UserError
from igpt_jax.typing import Int, UInt8


class Labelled(NamedTuple):
    """Pictures with their classes.

    Attributes:
        images: uint8 [n h w 3].
        labels: [n].
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, " n"]


def read_pictures(
    source: Source,
    prepare: TransformConfig,
    num_images: int | None = None,
    *,
    batch_size: int = 256,
    seed: int = 0,
    **reading: Any,
) -> Iterator[Labelled]:
    """Batches of a source's pictures, prepared without randomness.

    Args:
        source: pictures with classes.
        prepare: how they are prepared; its random parts are left out.
        num_images: so many; None for all, or fewer if there are not so many.
        batch_size: pictures of a batch; the last one may be short.
        seed: of their order, so that the first ones are of all classes.
        reading: threads and the like, see `make_dataset`.

    Raises:
        UserError: a number is under 1, or there are no pictures.
    """
    check_count("num_images", num_images)
    check_count("batch_size", batch_size)
    if len(source) == 0:
        raise UserError("data: expected pictures to measure, got none; set some aside")
    left = len(source) if num_images is None else min(num_images, len(source))
    size = min(batch_size, len(source))
    batches = make_dataset(
        source,
        transform=on_image(partial(transform, deterministic(prepare))),
        global_batch_size=size,
        seed=seed,
        shuffle=True,
        num_epochs=1,
        drop_remainder=False,
        **reading,
    )
    for batch in islice(batches, -(-left // size)):
        yield Labelled(batch["image"][:left], batch["label"][:left])
        left -= len(batch["image"])


def all_pictures(batches: Iterator[Labelled]) -> Labelled:
    """Batches as one."""
    images, labels = zip(*batches, strict=True)
    return Labelled(np.concatenate(images), np.concatenate(labels))


def split_name(config: DataConfig, split: Split) -> str:
    """A split of a data set, for people; told with every score as what it is against."""
    kind = type(config).__name__.removesuffix("Config").lower()
    path = getattr(config, "path", None) or getattr(config, "name", None)
    return f"{kind} {Path(path).name}, {split} split" if path else f"{kind}, {split} split"
