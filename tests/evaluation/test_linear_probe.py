"""Probes against SciPy's optimiser, and on features whose best classifier is known."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import norm

from igpt_jax.errors import UserError
from igpt_jax.evaluation import linear_probe
from igpt_jax.evaluation.linear_probe import (
    best_probe,
    few_of_each,
    fit_probe,
    neighbour_accuracy,
)


def classes(count, dimension=6, num_classes=3, apart=1.5, seed=0):
    """Gaussians about one centre a class; the centres are the same for every seed."""
    centres = np.random.default_rng(99).normal(0, apart, (num_classes, dimension))
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, count)
    features = centres[labels] + random.normal(size=(count, dimension))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("decay", [1e-3, 0.1])
def test_the_same_optimum_as_scipy(decay):
    features, labels = classes(150)
    features = features * np.float32([1, 10, 0.1, 5, 1, 1]) + 3
    probe = fit_probe(features, labels, 3, decay)
    standard = (features - features.mean(0)) / features.std(0)

    def loss(flat):
        kernel, bias = flat[:18].reshape(6, 3), flat[18:]
        logits = standard @ kernel + bias
        nll = logsumexp(logits, axis=1) - logits[np.arange(150), labels]
        return nll.mean() + 0.5 * decay * np.sum(kernel**2)

    best = minimize(loss, np.zeros(21), method="BFGS", options={"gtol": 1e-7})
    found = np.concatenate([probe.kernel.ravel(), probe.bias])
    assert loss(found) < best.fun + 1e-6
    np.testing.assert_allclose(probe.kernel, best.x[:18].reshape(6, 3), atol=5e-3)


@pytest.mark.parametrize("max_axes", [4_096, 5])
def test_the_gradient_vanishes_with_more_features_than_pictures(max_axes, monkeypatch):
    """Few pictures have their own axes; with too many of both there are none."""
    monkeypatch.setattr(linear_probe, "_MAX_AXES", max_axes)
    features, labels = classes(20, dimension=50)
    kernel, bias, mean, deviation = fit_probe(features, labels, 3, 1e-2)
    standard = (features - mean) / deviation
    wrong = softmax(standard @ kernel + bias, axis=1) - np.eye(3)[labels]
    np.testing.assert_allclose(standard.T @ wrong / 20 + 1e-2 * kernel, 0, atol=2e-4)
    np.testing.assert_allclose(wrong.mean(axis=0), 0, atol=2e-4)


def test_two_gaussians_are_told_apart_as_well_as_can_be():
    centre = np.array([1.0, 0, 0, 0])
    random = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    features = np.where(labels[:, None], centre, -centre) + random.normal(size=(4000, 4))
    features = features.astype(np.float32)
    probe, *_ = best_probe(features[:2000], labels[:2000], 2)
    assert probe.accuracy(features[2000:], labels[2000:]) == pytest.approx(norm.cdf(1.0), abs=0.025)


def test_random_labels_are_told_apart_by_chance():
    features, _ = classes(1000)
    labels = np.random.default_rng(5).integers(0, 5, 1000)
    probe, *_ = best_probe(features[:700], labels[:700], 5)
    assert probe.accuracy(features[700:], labels[700:]) == pytest.approx(0.2, abs=0.08)


def test_too_much_weight_decay_is_not_chosen():
    features, labels = classes(300, dimension=400, apart=0.1)
    others, answers = classes(1000, dimension=400, apart=0.1, seed=1)
    probe, decay, _ = best_probe(features, labels, 3, weight_decays=(10.0, 1.0), held_out=0.3)
    worse = fit_probe(features, labels, 3, 10.0)
    assert decay == 1.0
    assert probe.accuracy(others, answers) > worse.accuracy(others, answers) + 0.1


def test_a_constant_feature_does_no_harm():
    features, labels = classes(100)
    constant = np.concatenate([features, np.full((100, 1), 7, np.float32)], axis=1)
    plain, more = (fit_probe(x, labels, 3, 1e-2) for x in (features, constant))
    np.testing.assert_allclose(more.logits(constant), plain.logits(features), atol=1e-3)


def test_few_of_each_class():
    labels = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2])
    chosen = few_of_each(labels, 2, seed=3)
    assert sorted(labels[chosen]) == [0, 0, 1, 1, 2, 2]
    assert len(set(chosen)) == 6
    assert {tuple(few_of_each(labels, 2, seed=s)) for s in range(9)} != {tuple(chosen)}
    with pytest.raises(UserError, match=r"shots: expected at most 3.*class 0, got 4"):
        few_of_each(labels, 4)


def test_neighbours_against_loops():
    features, labels = classes(60)
    queries, answers = classes(25, seed=1)
    mean = features.mean(0)
    right = 0
    for query, answer in zip(queries, answers, strict=True):
        cosines = [
            np.dot(x - mean, query - mean) / np.linalg.norm(x - mean) / np.linalg.norm(query - mean)
            for x in features
        ]
        votes = labels[np.argsort(cosines)[::-1][:5]]
        right += np.bincount(votes, minlength=3).argmax() == answer
    assert neighbour_accuracy(features, labels, queries, answers, k=5) == right / 25


def test_what_cannot_be_fitted_is_refused():
    features, labels = classes(10)
    with pytest.raises(UserError, match="labels 0 to 1, got 0 to 2"):
        fit_probe(features, np.array([0, 1, 2] * 3 + [0]), 2, 0.1)
    with pytest.raises(UserError, match="a label for each of at least one picture"):
        fit_probe(features[:0], labels[:0], 3, 0.1)
    features[0, 0] = np.nan
    with pytest.raises(UserError, match="finite"):
        fit_probe(features, labels, 3, 0.1)
