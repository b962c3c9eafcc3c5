"""Scores of generated pictures: against torch-fidelity's, known Gaussians, and known faults."""

import json
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Features
from igpt_jax.evaluation.frechet import FeatureStatistics, frechet_distance
from igpt_jax.evaluation.generation import FeatureSet, compare
from igpt_jax.evaluation.inception_score import inception_score
from igpt_jax.evaluation.kernel_distance import kernel_distance
from igpt_jax.evaluation.memorisation import NearestPictures, memorisation
from igpt_jax.evaluation.neighbours import neighbourhood
from igpt_jax.evaluation.references import read_reference, write_reference

GOLDEN = Path(__file__).parent.parent / "golden" / "inception_scores.npz"
PUBLISHED = {"gfid", "sfid", "inception_score", "kid", "precision", "recall", "density", "coverage"}


PATTERNS = np.random.default_rng(99).uniform(40, 215, (8, 2, 2, 3))


class Quarters:
    """An extractor of pictures of 8 pixels: mean colours of quarters, columns, likely patterns."""

    fingerprint = "q"

    def __init__(self, network="inception", name="quarters", spoilt=False):
        self.network, self.name, self.spoilt = network, name, spoilt

    def __call__(self, images):
        pixels = (images.astype(np.float32) - 128) / 16
        quarters = pixels.reshape(len(images), 2, 4, 2, 4, 3).mean((2, 4)).reshape(len(images), -1)
        logits = -((quarters[:, None] - (PATTERNS.reshape(8, -1) - 128) / 16) ** 2).sum(-1)
        if self.spoilt:
            quarters[1] = np.nan
        columns = pixels.mean(1)[..., 0]
        return Features(quarters, columns, logits if self.network == "inception" else None)


def modes(count, num_modes=8, seed=0):
    """Pictures about one of several patterns."""
    random = np.random.default_rng(seed)
    drawn = PATTERNS[random.integers(num_modes, size=count)].repeat(4, 1).repeat(4, 2)
    drawn += random.normal(0, 6, (count, 1, 1, 3)) + random.normal(0, 4, drawn.shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def clouds(count, seed):
    """Pictures of four colours, which are Gaussian about grey."""
    drawn = np.random.default_rng(seed).normal(128, 20, (count, 2, 2, 3))
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8).repeat(4, 1).repeat(4, 2)


def side(images, of="pictures", size=64, **extractor):
    made = FeatureSet(of, Quarters(**extractor))
    for start in range(0, len(images), size):
        made.add(images[start : start + size])
    return made


@pytest.fixture(scope="module")
def real():
    return side(modes(300), "real ones")


def test_scores_are_those_of_torch_fidelity():
    random = np.random.default_rng(7)
    real = random.standard_normal((400, 24)).astype(np.float32)
    fake = (0.8 * random.standard_normal((300, 24)) + 0.3).astype(np.float32)
    logits = (2 * random.standard_normal((500, 20))).astype(np.float32)
    expected = json.loads(str(np.load(GOLDEN)["scores"]))
    ours, theirs = FeatureStatistics(), FeatureStatistics()
    ours.update(fake)
    theirs.update(real)
    score = inception_score(logits)
    near = neighbourhood(real, fake, k=3)
    kernel = kernel_distance(real[:300], fake, num_subsets=3, subset_size=300)
    found = {
        "fid": frechet_distance(ours, theirs),
        "is_mean": score.mean,
        "is_std": score.deviation,
        "kid_mean": kernel.mean,
        "precision": near.precision,
        "recall": near.recall,
    }
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-4)


def test_every_score_says_what_it_is_of(real):
    scores = compare(side(modes(200, seed=1)), real)
    assert set(scores) == PUBLISHED
    for name, score in scores.items():
        assert score.features == "quarters"
        assert score.num_generated == 200
        if name != "inception_score":
            assert (score.against, score.num_real) == ("real ones", 300)
    assert scores["precision"].note == "k = 3"
    assert scores["coverage"].note == "k = 5"
    assert "subsets of 200" in scores["kid"].note
    assert scores["inception_score"].note == "in one part"


def test_other_features_cannot_be_mistaken_for_inceptions():
    kind = {"network": None, "name": "tokenizer of runs/demo"}
    scores = compare(side(modes(50), **kind), side(modes(60, seed=1), **kind))
    assert not PUBLISHED & set(scores)
    assert "frechet_distance[tokenizer of runs/demo]" in scores
    assert all(name.endswith("[tokenizer of runs/demo]") for name in scores)


def test_of_i3d_only_the_frechet_distance_has_a_published_name():
    kind = {"network": "i3d", "name": "FVD's I3D"}
    scores = compare(side(modes(50), **kind), side(modes(60, seed=1), **kind))
    assert not PUBLISHED & set(scores)
    assert {name for name in scores if not name.endswith("[FVD's I3D]")} == {"fvd"}
    plain = compare(side(modes(50)), side(modes(60, seed=1)))
    assert scores["fvd"].value == pytest.approx(plain["gfid"].value, rel=1e-12)
    assert "fvd" not in plain
    assert "kernel_distance[FVD's I3D]" in scores


def test_equal_sets_are_ideal(real):
    scores = {name: score.value for name, score in compare(side(modes(300)), real).items()}
    assert scores["gfid"] == pytest.approx(0, abs=1e-6)
    assert scores["sfid"] == pytest.approx(0, abs=1e-6)
    assert scores["kid"] <= 1e-3
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1.0
    assert scores["density"] >= 1.0


def values(real, sets):
    """Each score of several sets."""
    compared = [compare(side(images), real) for images in sets]
    return {name: np.array([scores[name].value for scores in compared]) for name in compared[0]}


def test_noise_is_the_worse_the_more_there_is():
    noise = np.random.default_rng(5).normal(size=(300, 2, 2, 3)).repeat(4, 1).repeat(4, 2)
    levels = (0, 10, 20, 35)
    sets = [np.clip(clouds(300, 1) + level * noise, 0, 255).astype(np.uint8) for level in levels]
    found = values(side(clouds(300, 0)), sets)
    for name in ("gfid", "sfid", "kid"):
        assert (np.diff(found[name]) > 0).all(), (name, found[name])
    for name in ("precision", "density", "coverage"):
        assert (np.diff(found[name]) < 0).all(), (name, found[name])


def test_dropped_modes_are_missed(real):
    found = values(real, [modes(300, number, seed=1) for number in (8, 5, 3, 1)])
    for name in ("gfid", "sfid", "kid"):
        assert (np.diff(found[name]) > 0).all(), (name, found[name])
    for name in ("recall", "coverage", "inception_score"):
        assert (np.diff(found[name]) < 0).all(), (name, found[name])
    assert found["precision"].min() > 0.8  # what is drawn is good


def test_the_inception_score_has_its_ends():
    def score(logits):
        class Sure(Quarters):
            def __call__(self, images):
                found = super().__call__(images)
                return found._replace(logits=logits[: len(images)])

        ours = FeatureSet("drawn", Sure())
        ours.add(modes(40))
        return compare(ours, side(modes(40, seed=1)))["inception_score"].value

    sure = 100 * np.eye(8, dtype=np.float32)[np.arange(40) % 8]
    assert score(sure) == pytest.approx(8)
    assert score(np.zeros((40, 8), np.float32)) == pytest.approx(1)
    assert score(np.tile(sure[:1], (40, 1))) == pytest.approx(1)


def test_gaussians_of_known_distance():
    """The mean colours of pictures that differ by 32 in one channel: (32 / 16)² a quarter."""
    images = np.random.default_rng(0).integers(60, 100, (500, 8, 8, 3), dtype=np.uint8)
    brighter = images.copy()
    brighter[..., 1] += 32
    assert compare(side(brighter), side(images))["gfid"].value == pytest.approx(16, rel=1e-6)


def test_a_reference_stands_for_the_real_pictures_in_frechet_distances(tmp_path, real):
    path = tmp_path / "reference.npz"
    write_reference(path, "other ones", real.extractor, real.pooled, real.spatial)
    few, ours = side(modes(30, seed=3), "few"), side(modes(200, seed=1))
    scores = compare(ours, few, read_reference(path))
    plain = compare(ours, real)
    for name in ("gfid", "sfid"):
        assert scores[name].value == pytest.approx(plain[name].value, rel=1e-9)
        assert (scores[name].against, scores[name].num_real) == ("other ones", 300)
    assert (scores["recall"].against, scores["recall"].num_real) == ("few", 30)


def test_batches_do_not_matter(real):
    images = modes(100, seed=4)
    once, often = (compare(side(images, size=size), real) for size in (100, 7))
    for name, score in once.items():
        assert often[name].value == pytest.approx(score.value, rel=1e-6), name


def test_only_the_first_features_are_kept():
    made = FeatureSet("drawn", Quarters(), num_kept=10)
    images = modes(25)
    for start in range(0, 25, 8):
        made.add(images[start : start + 8])
    np.testing.assert_array_equal(made.kept, Quarters()(images[:10]).pooled)
    assert made.count == 25


def test_few_pictures_are_told_of(real, caplog):
    scores = compare(side(modes(10, seed=1)), real)
    assert scores["gfid"].note == "biased upwards: no more pictures than features (12)"
    assert compare(side(modes(30, seed=1)), real)["gfid"].note is None


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "at least 1 images, got 0"),
        (1, "at least 2"),
        (4, "more than k = 5"),
    ],
)
def test_too_few_pictures_are_one_clear_line(real, count, words):
    with pytest.raises(UserError, match=words) as caught:
        compare(side(modes(count)), real)
    assert len(str(caught.value).splitlines()) == 1


def test_broken_features_are_refused(real):
    with pytest.raises(UserError, match="finite values, got others in image 1"):
        side(modes(5), spoilt=True)


def test_unlike_features_are_refused(real):
    with pytest.raises(UserError, match="expected those of others on both sides, got also those"):
        compare(side(modes(9), name="others"), real)


def test_nearest_pictures_of_many_batches():
    random = np.random.default_rng(0)
    queries, features = random.standard_normal((5, 3)), random.standard_normal((40, 3))
    found, names = NearestPictures(queries, 4), random.permutation(1000)[:40]
    for start in range(0, 40, 7):
        found.add(features[start : start + 7], names[start : start + 7])
    distances = np.linalg.norm(queries[:, None] - features[None], axis=-1)
    order = np.argsort(distances, axis=1)[:, :4]
    np.testing.assert_array_equal(found.indices, names[order])
    np.testing.assert_allclose(
        found.distances, np.take_along_axis(distances, order, axis=1), atol=1e-5
    )
    assert found.count == 40


def test_fewer_pictures_than_neighbours():
    found = NearestPictures(np.zeros((1, 2)), 3)
    found.add(np.array([[0.0, 1.0]]), np.array([7]))
    np.testing.assert_array_equal(found.indices, [[7, -1, -1]])
    np.testing.assert_array_equal(found.distances, [[1, np.inf, np.inf]])


def test_copies_are_found_out():
    random = np.random.default_rng(0)
    train, held_out, fresh = random.standard_normal((3, 300, 6))
    copies = train[:200] + 0.01 * random.standard_normal((200, 6))
    distances = []
    for queries in (held_out, fresh, copies):
        found = NearestPictures(queries)
        found.add(train, np.arange(300))
        distances.append(found.distances[:, 0])
    honest, copied = (memorisation(ours, distances[0]) for ours in distances[1:])
    assert 0.8 < honest["ratio"] < 1.25
    assert honest["share_nearer"] < 0.05
    assert copied["ratio"] < 0.1
    assert copied["share_nearer"] > 0.95
    assert memorisation(distances[2], np.zeros(4))["ratio"] is None
    with pytest.raises(UserError, match="finite distances of generated pictures"):
        memorisation(np.array([np.inf]), distances[0])
