"""How well a model's own likelihoods tell which caption belongs to which picture.

All functions are about numbers alone; whoever calls them asks a model for log p(picture | caption).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from igpt_jax.data.random_words import random_words
from igpt_jax.errors import UserError
from igpt_jax.typing import Float, Int


def candidates(
    seed: int, captions: Sequence[str], num_candidates: int
) -> Int[np.ndarray, "items candidates"]:
    """Chooses captions among which each item's own one is to be found.

    The choice for an item depends on the seed, its index and the captions alone.

    Args:
        seed: Chooses the distractors.
        captions: The caption of each item; several items may share one.
        num_candidates: Captions to choose from, the own one included.

    Returns:
        Indices of captions. The first one is the item itself, so that all answers are 0 (it is no
        help to a model whose likelihoods are all equal: `retrieval_accuracy` counts ties as wrong).
        The others differ from it and from each other in their text; of items that share a text only
        the first is ever a distractor.

    Raises:
        UserError: fewer than two candidates, more than there are different captions, or a seed
            outside of 0..2**64-1.
    """
    first: dict[str, int] = {}
    for index, text in enumerate(captions):
        first.setdefault(text, index)
    if not 2 <= num_candidates <= len(first):
        raise UserError(
            f"num_candidates: expected 2 or more, up to the number of different captions, which is "
            f"{len(first)}, got {num_candidates}; change it or give more captions"
        )
    if not 0 <= seed < 2**64:
        raise UserError(f"seed: expected 0..2**64-1, got {seed}; change it")
    pool = np.array(list(first.values()))
    chosen = np.empty((len(captions), num_candidates), np.int64)
    for index, text in enumerate(captions):
        others = pool[pool != first[text]]
        order = np.argsort(random_words(seed, index, len(others)), kind="stable")
        chosen[index] = [index, *others[order[: num_candidates - 1]]]
    return chosen


def retrieval_accuracy(
    log_likelihoods: Float[np.ndarray, "pictures candidates"], answers: Int[np.ndarray, " pictures"]
) -> float:
    """Measures for how many pictures the own caption has the highest likelihood.

    Args:
        log_likelihoods: Of each picture given each of its candidates.
        answers: The column of each picture's own caption.

    Returns:
        A share in 0..1; 1 / candidates is chance. A tie for the highest likelihood counts as wrong.

    Raises:
        UserError: no pictures, fewer than two candidates, an answer that is no column, or NaN.
    """
    return float(np.mean(_ranks(log_likelihoods, answers) == 1))


def mean_rank(
    log_likelihoods: Float[np.ndarray, "pictures candidates"], answers: Int[np.ndarray, " pictures"]
) -> float:
    """Measures at which rank the own caption stands on average, from 1, the best.

    Of several with one likelihood the own caption is the last. The rest is as with
    `retrieval_accuracy`; (candidates + 1) / 2 is chance.
    """
    return float(np.mean(_ranks(log_likelihoods, answers)))


def accuracy_interval(
    accuracy: float, num_pictures: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Bounds the accuracy that many more pictures would have given.

    The exact binomial interval (Clopper & Pearson 1934), which holds for any share of independent
    pictures.

    Args:
        accuracy: The measured share.
        num_pictures: Pictures that it was measured on.
        confidence: How often such an interval has the true accuracy within it, at least.

    Returns:
        The lower and the upper bound.

    Raises:
        UserError: a share or confidence out of range, or no pictures.
    """
    if not (0 <= accuracy <= 1 and 0 < confidence < 1 and num_pictures >= 1):
        raise UserError(
            "accuracy_interval: expected an accuracy in [0, 1], a confidence in (0, 1) and at "
            f"least one picture, got {accuracy}, {confidence} and {num_pictures}; change them"
        )
    test = binomtest(round(accuracy * num_pictures), num_pictures)
    interval = test.proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


class Gain(NamedTuple):
    """A mean over pictures, in nats.

    Attributes:
        nats: The mean.
        standard_error: Its standard error.
    """

    nats: float
    standard_error: float


def likelihood_gain(
    with_caption: Float[np.ndarray, " pictures"],
    without: Float[np.ndarray, " pictures"],
    num_tokens: int = 1,
) -> Gain:
    """Measures how much more likely pictures are given their caption than given none.

    Args:
        with_caption: log p(picture | caption) of each picture, in nats.
        without: log p(picture) of the same pictures.
        num_tokens: Tokens of a picture, for a gain per token; 1 gives that per picture.

    Raises:
        UserError: fewer than two pictures, likelihoods that are not finite, or no tokens.
    """
    if num_tokens < 1:
        raise UserError(f"num_tokens: expected 1 or more, got {num_tokens}; change it")
    gains = with_caption.astype(np.float64) - without.astype(np.float64)
    if len(gains) < 2 or not np.isfinite(gains).all():
        raise UserError(
            "likelihood_gain: expected finite likelihoods of at least two pictures, got "
            f"{int(np.isfinite(gains).sum())} of {len(gains)}; check the model for NaN"
        )
    gains /= num_tokens
    return Gain(float(gains.mean()), float(gains.std(ddof=1) / len(gains) ** 0.5))


def _ranks(
    log_likelihoods: Float[np.ndarray, "pictures candidates"], answers: Int[np.ndarray, " pictures"]
) -> Int[np.ndarray, " pictures"]:
    """The rank of each picture's own caption, from 1; the worst one of a tie."""
    num_pictures, num_candidates = log_likelihoods.shape
    if num_pictures == 0 or num_candidates < 2:
        raise UserError(
            "log_likelihoods: expected at least one picture and two candidates, got "
            f"{num_pictures} and {num_candidates}; give more"
        )
    if not ((answers >= 0) & (answers < num_candidates)).all():
        raise UserError(
            f"answers: expected columns in 0..{num_candidates - 1}, got {answers.min()}.."
            f"{answers.max()}; give the column of each picture's own caption"
        )
    num_broken = int(np.sum(np.isnan(log_likelihoods).any(axis=1)))
    if num_broken:
        raise UserError(
            f"log_likelihoods: expected numbers, got NaN for {num_broken} of {num_pictures} "
            "pictures; check the model"
        )
    own = np.take_along_axis(log_likelihoods, answers[:, None], axis=1)
    return np.sum(log_likelihoods >= own, axis=1)
