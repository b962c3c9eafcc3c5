"""Random numbers that depend on a seed and a few counts alone, the same for ever."""

from typing import get_args

import numpy as np

from igpt_jax.data.examples import Split


def random_words(
    seed: int, index: int, count: int, *, split: Split = "train", attempt: int = 0, stream: int = 0
) -> list[int]:
    """Words of 64 bits of a counter-based generator, whose stream NumPy promises never to change.

    Every index, split, attempt and stream has some of its own.
    """
    generator = np.random.Philox(
        key=np.array([seed, get_args(Split).index(split)], np.uint64),
        counter=np.array([0, index, attempt, stream], np.uint64),
    )
    return generator.random_raw(count).tolist()
