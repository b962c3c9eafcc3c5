"""Classes by Bayes' rule, against one likelihood for each picture and class."""

import dataclasses
import math

import numpy as np
import pytest

import igpt_jax
from igpt_jax.classifying import all_at_once, class_probabilities, judge_classes
from igpt_jax.errors import UserError

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]


def test_each_pair_is_judged_once_and_all_calls_have_one_shape():
    tokens = np.arange(6, dtype=np.int32).reshape(3, 2) * 100
    calls = []

    def score(pictures, labels):
        calls.append(len(labels))
        return (pictures[:, 1] + labels).astype(np.float32)

    steps = judge_classes(score, tokens, 5, 4)
    expected = [[100 * (2 * picture + 1) + label for label in range(5)] for picture in range(3)]
    np.testing.assert_array_equal(all_at_once(steps), expected)
    assert calls == [4, 4, 4, 4]  # 15 pairs
    all_at_once(judge_classes(score, tokens[:1], 5, 64))
    assert calls[-1] == 5


def test_probabilities_of_very_unlikely_pictures():
    nats = np.array([[-1000.0, -1000.0 - math.log(3), -5000.0], [-2.0, -2.0, -2.0]], np.float32)
    expected = [[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(class_probabilities(nats), expected, rtol=1e-3)


def test_classify_against_every_class_alone(tiny_run):
    model = dataclasses.replace(igpt_jax.load(tiny_run), batch_size=32)
    pictures = model.sample([5, 77], seed=1)
    given = model.classify(pictures)
    assert given.shape == (2, 101)
    nats = np.stack([model.log_likelihood(pictures, label) for label in range(101)], axis=1)
    shares = np.exp(nats.astype(np.float64) - nats.max(axis=1, keepdims=True))
    expected = shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-6)
    assert np.ptp(given) > 0.001  # the model tells classes apart


def test_models_without_classes(asked_run):
    model = igpt_jax.load(asked_run)
    with pytest.raises(UserError, match="classify: expected a model of classes"):
        model.classify(np.zeros((1, 32, 32, 3), np.uint8))
