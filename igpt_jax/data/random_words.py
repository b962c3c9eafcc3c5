"""Random numbers that depend on a seed and a few counts alone, the same for ever."""

import numpy as np


def random_words(
    seed: int, index: int, count: int, *, split: int = 0, attempt: int = 0, stream: int = 0
) -> list[int]:
    """Words of 64 bits of a counter-based generator, whose stream NumPy promises never to change.

    Every index, split, attempt and stream has some of its own.
    """
    generator = np.random.Philox(
        key=np.array([seed, split], np.uint64),
        counter=np.array([0, index, attempt, stream], np.uint64),
    )
    return generator.random_raw(count).tolist()
