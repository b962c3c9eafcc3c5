"""The Inception Score, in cases with closed forms and against loops."""

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.evaluation.inception_score import inception_score


def test_sure_and_even_is_the_number_of_classes():
    logits = np.tile(50.0 * np.eye(8), (20, 1))
    assert inception_score(logits, num_splits=4).mean == pytest.approx(8, rel=1e-6)


def test_unsure_or_of_one_class_is_one():
    assert inception_score(np.zeros((30, 5))).mean == pytest.approx(1)
    one_class = np.tile([9.0, 0, 0, 0], (30, 1))
    assert inception_score(one_class).mean == pytest.approx(1)


def test_against_loops():
    logits = np.random.default_rng(0).normal(0, 2, (40, 6)).astype(np.float32)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    scores = []
    for part in shares.reshape(4, 10, 6):
        marginal = part.mean(axis=0)
        divergences = [sum(p * np.log(p / q) for p, q in zip(row, marginal)) for row in part]  # noqa: B905
        scores.append(np.exp(np.mean(divergences)))
    value = inception_score(logits, num_splits=4)
    assert value.mean == pytest.approx(np.mean(scores))
    assert value.deviation == pytest.approx(np.std(scores))


def test_lost_classes_lower_it():
    logits = 6.0 * np.eye(10)[np.arange(1000) % 10]
    scores = [
        inception_score(logits[np.arange(1000) % 10 < kept], num_splits=1).mean
        for kept in (10, 6, 3, 1)
    ]
    assert scores == sorted(scores, reverse=True)


def test_too_few_and_broken_logits_are_refused():
    with pytest.raises(UserError, match="1 to 5 splits of 5 pictures, got 10"):
        inception_score(np.zeros((5, 3)))
    with pytest.raises(UserError, match="finite"):
        inception_score(np.full((20, 3), np.nan))
