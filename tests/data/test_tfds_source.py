import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pictures import encode, noise
from PIL import Image

from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.tfds_source import TfdsConfig, TfdsSource
from igpt_jax.errors import UserError

BROKEN = 2


class IgptTestPictures(tfds.core.GeneratorBasedBuilder):
    """A small set of PNG files, which TFDS stores without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 6), "test": self._generate_examples(6, 3)}

    def _generate_examples(self, first, count):
        for seed in range(first, first + count):
            data = encode(Image.fromarray(noise(seed=seed)), "PNG")
            data = data[:40] if seed == BROKEN else data
            yield seed, {"id": str(seed), "image": data, "label": seed % 3}


class IgptTestArrays(tfds.core.GeneratorBasedBuilder):
    """Arrays, which TFDS encodes with TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": np.zeros((4, 4, 3), np.uint8)}


class IgptTestTexts(tfds.core.GeneratorBasedBuilder):
    """No pictures at all."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Where the set of pictures is prepared once."""
    path = str(tmp_path_factory.mktemp("tfds"))
    TfdsSource(TfdsConfig("igpt_test_pictures", data_dir=path), "train")
    return path


def config(folder: str, **options) -> TfdsConfig:
    return TfdsConfig("igpt_test_pictures", data_dir=folder, download=False, **options)


def test_prepared_pictures_are_read(folder):
    source = TfdsSource(config(folder), "train")
    assert len(source) == 6
    assert source.class_names == ("ant", "bee", "cat")
    assert source.num_classes == 3
    sound = {noise(seed=seed).tobytes(): seed for seed in range(6) if seed != BROKEN}
    broken = []
    for index in range(6):
        try:
            item = source[index]
        except BrokenImageError as error:
            broken.append((index, str(error)))
        else:
            assert item["label"] == sound.pop(item["image"].tobytes()) % 3
    assert not sound
    [(index, message)] = broken
    assert f"igpt_test_pictures train[{index}]: " in message


def test_validation_and_parts_of_splits(folder):
    assert len(TfdsSource(config(folder), "validation")) == 3
    assert len(TfdsSource(config(folder, split="train[:50%]+test"), "train")) == 6
    part = TfdsSource(config(folder, validation_split="train[4:]"), "validation")
    assert len(part) == 2


def test_sources_can_be_pickled(folder):
    source = TfdsSource(config(folder), "validation")
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[1]["image"], source[1]["image"])


def test_folders_may_hold_variables(folder, monkeypatch):
    monkeypatch.setenv("IGPT_TEST_DATA", folder)
    assert len(TfdsSource(config("$IGPT_TEST_DATA"), "train")) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "igpt_test_picture"}, "did you mean igpt_test_pictures"),
        ({"name": "cifar1O"}, "did you mean cifar10"),
        ({"name": "zzzzqqqq"}, "check the spelling"),
        ({"name": "igpt_test_pictures:9.9.9"}, "9.9.9"),
        ({"name": "igpt_test_pictures/other"}, "other"),
        ({"name": ""}, "expected to find or prepare ''"),
        ({"split": "trian"}, r"train, test.*got 'trian'; did you mean train"),
        ({"split": "train[a:]"}, r"got 'train\[a:\]'"),
    ],
)
def test_unknown_names_and_splits(folder, options, message):
    given = {"name": "igpt_test_pictures", "data_dir": folder, "download": False} | options
    with pytest.raises(UserError, match=message) as raised:
        TfdsSource(TfdsConfig(**given), "train")
    assert "\n" not in str(raised.value)


def test_sets_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="nothing there; set download = True"):
        TfdsSource(config(str(tmp_path)), "train")


def test_sets_without_pictures(tmp_path):
    with pytest.raises(UserError, match="got 'igpt_test_texts' with the features text"):
        TfdsSource(TfdsConfig("igpt_test_texts", data_dir=str(tmp_path)), "train")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"needs the package tensorflow.*pip install") as raised:
        TfdsSource(TfdsConfig("igpt_test_arrays", data_dir=str(tmp_path)), "train")
    assert "\n" not in str(raised.value)


def test_importing_the_data_layer_imports_no_framework():
    code = (
        "import sys, igpt_jax.data.sources, igpt_jax.data.pipeline, igpt_jax.data.transforms\n"
        "print([m for m in ('tensorflow', 'torch', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
