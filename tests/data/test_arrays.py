import pickle
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.data.arrays import ArrayConfig, ArraySource
from igpt_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 3])


def saved(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return str(path)


def test_npy_colour_and_grey(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, IMAGES)
    source = ArraySource(ArrayConfig(str(path)), "train")
    assert (len(source), source.num_classes, source.class_names) == (7, 1, ("0",))
    for index, item in enumerate(source):
        np.testing.assert_array_equal(item["image"], IMAGES[index])
        assert item["label"] == 0
    np.save(path, IMAGES[..., 0])
    grey = ArraySource(ArrayConfig(str(path)), "train")[2]["image"]
    np.testing.assert_array_equal(grey, np.stack([IMAGES[2, ..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y")])
def test_npz_with_labels_and_validation(tmp_path, keys):
    path = saved(tmp_path, **{keys[0]: IMAGES, keys[1]: LABELS, "more": LABELS})
    train = ArraySource(ArrayConfig(path, validation_count=2), "train")
    validation = ArraySource(ArrayConfig(path, validation_count=2), "validation")
    assert train.num_classes == validation.num_classes == 4
    assert [item["label"] for item in train] == [0, 1, 2, 0, 1]
    assert [item["label"] for item in validation] == [2, 3]
    np.testing.assert_array_equal(validation[1]["image"], IMAGES[6])


def test_pictures_are_writable_copies(tmp_path):
    np.save(tmp_path / "data.npy", IMAGES)
    source = ArraySource(ArrayConfig(str(tmp_path / "data.npy")), "train")
    image = source[0]["image"]
    image[:] = 0
    np.testing.assert_array_equal(source[0]["image"], IMAGES[0])


def test_pickles_carry_no_pictures(tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((50, 40, 40, 3), np.uint8))
    source = ArraySource(ArrayConfig(str(tmp_path / "data.npy")), "train")
    pickled = pickle.dumps(source)
    assert len(pickled) < 2000
    assert pickle.loads(pickled)[49]["image"].shape == (40, 40, 3)


def test_wrong_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    np.save(tmp_path / "floats.npy", IMAGES / 255)
    np.save(tmp_path / "four.npy", np.zeros((2, 3, 3, 4), np.uint8))
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 3, 3), np.uint8))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(Path(saved(tmp_path, x=IMAGES)).read_bytes()[:200])
    for name in ("text", "empty", "objects", "floats", "four", "none", "missing"):
        with pytest.raises(UserError, match="expected") as raised:
            ArraySource(ArrayConfig(str(tmp_path / f"{name}.npy")), "train")
        assert "\n" not in str(raised.value)
        assert name in str(raised.value)
    with pytest.raises(UserError, match=r"expected a \.npy or \.npz file"):
        ArraySource(ArrayConfig(str(cut)), "train")


@pytest.mark.parametrize(
    ("arrays", "options", "split", "message"),
    [
        ({"pictures": IMAGES}, {}, "train", "named images or x, got pictures"),
        ({"x": IMAGES, "y": LABELS[:3]}, {}, "train", "expected 7 integer labels"),
        ({"x": IMAGES, "y": LABELS / 2}, {}, "train", "expected 7 integer labels"),
        ({"x": IMAGES, "y": LABELS - 1}, {}, "train", "expected 7 integer labels of at least 0"),
        ({"x": IMAGES}, {}, "validation", "set ArrayConfig.validation_count"),
        ({"x": IMAGES}, {"validation_count": 7}, "train", "expected more than"),
    ],
)
def test_wrong_contents_are_refused(tmp_path, arrays, options, split, message):
    with pytest.raises(UserError, match=message):
        ArraySource(ArrayConfig(saved(tmp_path, **arrays), **options), split)


def test_negative_validation_is_refused():
    with pytest.raises(UserError, match="validation_count: expected at least 0, got -1"):
        ArrayConfig("x", -1)
