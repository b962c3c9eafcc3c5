"""Which training pictures lie nearest to generated ones: a model that copies is found out."""

from typing import Any

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.neighbours import nearest
from igpt_jax.typing import Float, Int


class NearestPictures:
    """The nearest of many pictures, which come batch by batch, to a few.

    Attributes:
        indices: int `[q k]`, nearest first; -1 where there were fewer.
        distances: float `[q k]`; infinite where there were fewer.
        count: pictures so far.
    """

    def __init__(self, queries: Float[np.ndarray, "q d"], k: int = 1) -> None:
        if k < 1:
            raise UserError(f"k: expected 1 or more, got {k}")
        self._queries = queries
        self.indices = np.full((len(queries), k), -1)
        self.distances = np.full((len(queries), k), np.inf)
        self.count = 0

    def add(self, features: Float[np.ndarray, "b d"], indices: Int[np.ndarray, " b"]) -> None:
        """Takes in pictures.

        Args:
            features: theirs.
            indices: by which they are found again.

        Raises:
            UserError: features of another dimension, or not finite.
        """
        k = min(self.indices.shape[1], len(features))
        if k == 0:
            return
        rows, distances = nearest(self._queries, features, k=k)
        distances = np.concatenate([self.distances, distances], axis=1)
        found = np.concatenate([self.indices, indices[rows]], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, : self.indices.shape[1]]
        self.distances = np.take_along_axis(distances, order, axis=1)
        self.indices = np.take_along_axis(found, order, axis=1)
        self.count += len(features)


def memorisation(
    generated: Float[np.ndarray, " g"], held_out: Float[np.ndarray, " r"]
) -> dict[str, Any]:
    """Compares distances to the nearest training picture.

    Pictures that training has not seen say how near is near without copying (as Gulrajani et al.
    2019 argue, a score on training pictures alone rewards copies).

    Args:
        generated: of each generated picture.
        held_out: of real pictures that were not trained on.

    Returns:
        Medians of both; their ratio, far under 1 where a model copies (None where held-out pictures
        are training ones); and the share of generated pictures nearer than all but 1 % of the
        held-out ones, far over 0.01 where a model copies.

    Raises:
        UserError: one of them is empty or not finite.
    """
    for name, distances in (("generated", generated), ("held-out", held_out)):
        if not len(distances) or not np.isfinite(distances).all():
            raise UserError(f"memorisation: expected finite distances of {name} pictures, got none")
    middle, usual = float(np.median(generated)), float(np.median(held_out))
    return {
        "median_distance_generated": middle,
        "median_distance_held_out": usual,
        "ratio": middle / usual if usual else None,
        "share_nearer": float(np.mean(generated < np.quantile(held_out, 0.01))),
    }
