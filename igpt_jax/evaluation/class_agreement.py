"""Whether pictures show the class that was asked for, by real pictures of known classes."""

import numpy as np

from igpt_jax.evaluation.neighbours import nearest
from igpt_jax.typing import Float, Int


def class_agreement(
    features: Float[np.ndarray, "n d"],
    asked: Int[np.ndarray, " n"],
    known_features: Float[np.ndarray, "m e"],
    known: Int[np.ndarray, " m"],
) -> float:
    """The share of pictures whose nearest real picture is of the class asked for.

    Args:
        features: of the pictures.
        asked: their classes.
        known_features: of real pictures.
        known: what these are.

    Raises:
        UserError: a side is empty, or the features are of unlike sizes or not finite.
    """
    indices, _ = nearest(features, known_features)
    return float((known[indices[:, 0]] == asked).mean())
