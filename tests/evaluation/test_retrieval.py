import numpy as np
import pytest
from scipy import stats

from igpt_jax.errors import UserError
from igpt_jax.evaluation.retrieval import (
    accuracy_interval,
    candidates,
    likelihood_gain,
    mean_rank,
    retrieval_accuracy,
)

CAPTIONS = [f"caption {index % 40}" for index in range(60)]  # 20 of them twice


def random_likelihoods(pictures, columns, dtype=np.float32):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(pictures, columns)).astype(dtype),
        rng.integers(columns, size=pictures),
    )


@pytest.mark.parametrize("columns", [2, 20])
def test_random_likelihoods_are_at_chance(columns):
    values, answers = random_likelihoods(40_000, columns)
    assert abs(retrieval_accuracy(values, answers) - 1 / columns) < 0.01
    assert abs(mean_rank(values, answers) - (columns + 1) / 2) < 0.02 * columns


def test_perfect_and_worst_likelihoods():
    values, answers = random_likelihoods(50, 7)
    rows = np.arange(50)
    values[rows, answers] = 100
    assert (retrieval_accuracy(values, answers), mean_rank(values, answers)) == (1, 1)
    values[rows, answers] = -np.inf
    assert (retrieval_accuracy(values, answers), mean_rank(values, answers)) == (0, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_are_those_of_scipy(dtype):
    values, answers = random_likelihoods(300, 9, dtype)
    values = values.round(1)  # ties
    ranks = stats.rankdata(-values, method="max", axis=1)[np.arange(300), answers]
    assert mean_rank(values, answers) == pytest.approx(ranks.mean(), rel=1e-12)
    assert retrieval_accuracy(values, answers) == pytest.approx((ranks == 1).mean(), rel=1e-12)


def test_ties_are_wrong():
    values, answers = np.zeros((4, 5), np.float32), np.zeros(4, int)
    assert (retrieval_accuracy(values, answers), mean_rank(values, answers)) == (0, 5)


@pytest.mark.parametrize(
    ("values", "answers", "message"),
    [
        (np.zeros((0, 5)), np.zeros(0, int), "got 0 and 5"),
        (np.zeros((2, 1)), np.zeros(2, int), "got 2 and 1"),
        (np.zeros((2, 3)), np.array([0, 3]), r"columns in 0\.\.2, got 0\.\.3"),
        (np.zeros((2, 3)), np.array([-1, 0]), r"got -1\.\.0"),
        (np.array([[1.0, 2.0], [0.0, np.nan]]), np.zeros(2, int), "got NaN for 1 of 2 pictures"),
    ],
)
def test_what_cannot_be_ranked_is_refused(values, answers, message):
    for measure in (retrieval_accuracy, mean_rank):
        with pytest.raises(UserError, match=message):
            measure(values, answers)


def test_candidates_are_different_captions():
    chosen = candidates(0, CAPTIONS, 20)
    assert chosen.shape == (60, 20)
    assert (chosen[:, 0] == np.arange(60)).all()
    for row in chosen:
        assert len({CAPTIONS[index] for index in row}) == 20
    assert all(len(set(row)) == 40 for row in candidates(0, CAPTIONS, 40).tolist())


def test_candidates_depend_on_seed_and_index_alone():
    chosen = candidates(3, CAPTIONS, 5)
    np.testing.assert_array_equal(chosen, candidates(3, CAPTIONS, 5))
    np.testing.assert_array_equal(chosen[:, :3], candidates(3, CAPTIONS, 3))
    assert (chosen[:, 1:] != candidates(4, CAPTIONS, 5)[:, 1:]).any()
    # Of items with the same caption, too, the distractors differ.
    assert any((chosen[index, 1:] != chosen[index + 40, 1:]).any() for index in range(20))
    np.testing.assert_array_equal(
        candidates(7, [f"{index}" for index in range(6)], 4)[:3],
        [[0, 5, 2, 4], [1, 3, 5, 4], [2, 4, 1, 3]],  # the same for ever
    )


def test_candidates_are_chosen_evenly():
    captions = [str(index) for index in range(30)]
    chosen = np.concatenate([candidates(seed, captions, 4)[:, 1:] for seed in range(100)])
    counts = np.bincount(chosen.ravel(), minlength=30)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 41])
def test_too_few_or_too_many_candidates_are_refused(count):
    with pytest.raises(UserError, match=f"different captions, which is 40, got {count}"):
        candidates(0, CAPTIONS, count)


def test_a_seed_must_be_a_word():
    with pytest.raises(UserError, match="got -1"):
        candidates(-1, CAPTIONS, 2)


def test_gain_and_its_error():
    rng = np.random.default_rng(1)
    without = rng.normal(-300, 50, 500).astype(np.float32)
    with_caption = without + rng.normal(3, 2, 500).astype(np.float32)
    difference = with_caption.astype(float) - without
    gain = likelihood_gain(with_caption, without)
    assert gain.nats == pytest.approx(difference.mean(), rel=1e-6)
    assert gain.standard_error == pytest.approx(stats.sem(difference), rel=1e-6)
    by_token = likelihood_gain(with_caption, without, num_tokens=64)
    assert by_token == pytest.approx((gain.nats / 64, gain.standard_error / 64))


@pytest.mark.parametrize(
    ("with_caption", "num_tokens", "message"),
    [
        ([1.0], 1, "at least two pictures, got 1 of 1"),
        ([1.0, np.nan], 1, "finite likelihoods .* got 1 of 2"),
        ([1.0, 2.0], 0, "num_tokens: expected 1 or more, got 0"),
    ],
)
def test_gains_that_cannot_be_measured_are_refused(with_caption, num_tokens, message):
    values = np.array(with_caption)
    with pytest.raises(UserError, match=message):
        likelihood_gain(values, np.zeros_like(values), num_tokens)


def test_interval_is_the_exact_one():
    low, high = accuracy_interval(0.0, 10)
    assert (low, high) == (0, pytest.approx(1 - 0.025**0.1))
    low, high = accuracy_interval(0.3, 50)  # by the definition of its ends
    assert stats.binom.sf(14, 50, low) == pytest.approx(0.025)
    assert stats.binom.cdf(15, 50, high) == pytest.approx(0.025)


def test_interval_covers_the_truth():
    counts = np.random.default_rng(0).binomial(60, 0.25, 400)
    bounds = [accuracy_interval(count / 60, 60, 0.9) for count in counts]
    assert np.mean([low <= 0.25 <= high for low, high in bounds]) >= 0.9


@pytest.mark.parametrize("given", [(1.5, 10, 0.95), (0.5, 0, 0.95), (0.5, 10, 1.0)])
def test_interval_of_nothing_is_refused(given):
    with pytest.raises(UserError, match="accuracy_interval: expected"):
        accuracy_interval(*given)
