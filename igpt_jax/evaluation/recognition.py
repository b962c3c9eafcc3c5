"""How well classes are recognised, and where not."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from igpt_jax.grid import image_grid
from igpt_jax.typing import Float, Int, UInt8

NUM_MISTAKES: Final = 32
_SIDE: Final = 128  # pixels of a shown picture, at least


def confusion(
    labels: Int[np.ndarray, " n"], guesses: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "c c"]:
    """How often each class, a row, was taken for each, a column."""
    pairs = labels * num_classes + guesses
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def mistakes(
    images: UInt8[np.ndarray, "n h w 3"],
    labels: Int[np.ndarray, " n"],
    shares: Float[np.ndarray, "n c"],
    names: Sequence[str],
) -> UInt8[np.ndarray, "gh gw 3"]:
    """The most confident wrong guesses, above what was guessed and what it is.

    Args:
        images: pictures.
        labels: their classes.
        shares: how probable each class was said to be.
        names: of the classes.
    """
    guesses = shares.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    worst = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")][:NUM_MISTAKES]
    if len(worst) == 0:
        worst = np.arange(1)  # nothing is wrong: show one picture that is right
    captions = [f"{names[guesses[i]]}, not {names[labels[i]]}" for i in worst]
    zoom = max(1, _SIDE // images.shape[1])
    shown = images[worst].repeat(zoom, axis=1).repeat(zoom, axis=2)
    return image_grid(shown, min(8, len(worst)), captions)
