"""Published statistics as they are, ours there and back, and files that are no statistics."""

import json
import pickle

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Features
from igpt_jax.evaluation.frechet import FeatureStatistics, frechet_distance
from igpt_jax.evaluation.references import read_reference, write_reference


class Colours:
    """An extractor that needs no weights: the mean colour, and the first row of pixels."""

    def __init__(self, network=None, fingerprint="ab"):
        self.network, self.fingerprint = network, fingerprint
        names = {"inception": "FID's Inception", "i3d": "FVD's I3D", None: "mean colours"}
        self.name = names[network]

    def __call__(self, images):
        pixels = images.astype(np.float32)
        return Features(pixels.mean((1, 2)), pixels[:, 0].reshape(len(images), -1), None)


def statistics(dimension):
    random = np.random.default_rng(dimension)
    factor = random.standard_normal((dimension, 8)) / 8
    return random.standard_normal(dimension), factor @ factor.T + 0.1 * np.eye(dimension)


@pytest.fixture(scope="module")
def published():
    """As large as Inception's."""
    mu, sigma = statistics(2048)
    mu_s, sigma_s = statistics(2023)
    return {"mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reference.npz"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ttur(path, published, dtype):
    np.savez(path, mu=published["mu"].astype(dtype), sigma=published["sigma"].astype(dtype))
    reference = read_reference(path)
    assert (reference.name, reference.layout, reference.count) == ("reference.npz", "TTUR", None)
    np.testing.assert_allclose(reference.pooled.mean, published["mu"], rtol=1e-6)
    np.testing.assert_allclose(reference.pooled.covariance, published["sigma"], atol=1e-6)
    assert reference.spatial is None
    assert list(reference.pictures(4)) == []
    reference.check_fits(Colours("inception"))
    with pytest.raises(UserError, match="of mean colours, got published ones, which are of FID's"):
        reference.check_fits(Colours())
    with pytest.raises(UserError, match="of FVD's I3D, got published ones, which are of FID's"):
        reference.check_fits(Colours("i3d"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_adm_with_pictures(path, published, save):
    pictures = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    save(path, arr_0=pictures, **published)
    reference = read_reference(path)
    assert (reference.layout, reference.num_pictures) == ("ADM", 10)
    np.testing.assert_array_equal(reference.spatial.mean, published["mu_s"])
    batches = list(reference.pictures(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), pictures)


def test_ours_there_and_back(path):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    extractor, pooled, spatial = Colours(), FeatureStatistics(), FeatureStatistics()
    found = extractor(images)
    pooled.update(found.pooled)
    spatial.update(found.spatial)
    write_reference(path, "dots, train split", extractor, pooled, spatial)
    assert [p.name for p in path.parent.iterdir()] == ["reference.npz"]
    reference = read_reference(path)
    assert (reference.name, reference.layout) == ("dots, train split", "igpt_jax")
    assert (reference.count, reference.features) == (30, "mean colours")
    assert frechet_distance(pooled, reference.pooled) < 1e-9
    assert frechet_distance(spatial, reference.spatial) < 1e-6
    reference.check_fits(extractor)
    with pytest.raises(UserError, match="got those of mean colours with other weights"):
        reference.check_fits(Colours(fingerprint="cd"))
    with pytest.raises(UserError, match="of FID's Inception, got those of mean colours; make it"):
        reference.check_fits(Colours("inception", fingerprint="ef"))
    # Whoever reads TTUR's files reads ours.
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["sigma"], np.cov(found.pooled, rowvar=False), rtol=1e-5)


def broken(**changes):
    mu, sigma = statistics(4)
    note = {"name": "n", "count": 9, "features": "f", "fingerprint": "p"}
    as_bytes = np.frombuffer(json.dumps(note).encode(), np.uint8)
    return {"mu": mu, "sigma": sigma, "igpt_jax": as_bytes} | changes


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, "expected mu, got arr_0"),
        ({"mu": np.zeros(3)}, "expected sigma, got mu"),
        (broken(mu=np.zeros(5)), r"shapes \[d\] and \[d, d\], got \[5\] and \[4, 4\]"),
        (broken(mu=np.full(4, np.nan)), "expected finite numbers in mu and sigma"),
        (broken(sigma=np.full((4, 4), np.inf)), "expected finite numbers"),
        (broken(sigma=np.triu(np.ones((4, 4)))), "expected a symmetric sigma"),
        (broken(sigma=-np.eye(4)), "variances on the diagonal of sigma, got -1"),
        (broken(mu_s=np.zeros(4)), "expected sigma_s"),
        (broken(arr_0=np.zeros((2, 4, 4), np.uint8)), "expected pictures arr_0, uint8"),
        (broken(arr_0=np.zeros((2, 4, 4, 3), np.float32)), "got float32"),
        (broken(igpt_jax=np.frombuffer(b"{}", np.uint8)), "a note of igpt_jax, got a damaged one"),
        (broken(igpt_jax=np.frombuffer(b"\xff[", np.uint8)), "got a damaged one"),
        ({"mu": np.zeros(768), "sigma": np.eye(768)}, "expected 2048 numbers in mu"),
    ],
)
def test_what_is_no_reference_is_refused_in_one_line(path, arrays, words):
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=words) as caught:
        read_reference(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_never_read(path):
    held = np.empty(1, object)
    held[0] = Trap()
    np.savez(path, mu=held, sigma=np.eye(1))
    with pytest.raises(UserError, match="pickled objects"):
        read_reference(path)
    path.write_bytes(pickle.dumps({"mu": np.zeros(2)}))
    with pytest.raises(UserError, match="expected a whole file of arrays"):
        read_reference(path)


def test_missing_and_cut_files(path, published):
    with pytest.raises(UserError, match="expected a file, found none"):
        read_reference(path)
    np.savez(path, **published)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="expected a whole file"):
        read_reference(path)


def test_a_path_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.npz, got 'out\.txt'"):
        write_reference(tmp_path / "out.txt", "n", Colours(), FeatureStatistics())
    assert list(tmp_path.iterdir()) == []
