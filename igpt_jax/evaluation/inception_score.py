"""The Inception Score: whether pictures are of one class each and of all classes together."""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, rel_entr

from igpt_jax.errors import UserError
from igpt_jax.evaluation.feature_checks import check_finite
from igpt_jax.typing import Float


class InceptionScore(NamedTuple):
    """Mean over splits, and their standard deviation."""

    mean: float
    deviation: float


def inception_score(
    logits: Float[np.ndarray, "n classes"], *, num_splits: int = 10
) -> InceptionScore:
    """The exponential of the mean divergence of p(class | picture) from p(class).

    Salimans et al. 2016, section 4. It is between 1 and the number of classes.

    Args:
        logits: of a classifier, in the order in which pictures were drawn at random.
        num_splits: parts of equal size (one larger or smaller by 1) that are scored apart.

    Raises:
        UserError: fewer pictures than splits, or logits that are not finite.
    """
    if not 1 <= num_splits <= len(logits):
        raise UserError(
            f"inception score: expected 1 to {len(logits)} splits of {len(logits)} pictures, got "
            f"{num_splits}; add pictures"
        )
    check_finite(logits, name="logits")
    shares = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    scores = [
        np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean())
        for part in np.array_split(shares, num_splits)
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
