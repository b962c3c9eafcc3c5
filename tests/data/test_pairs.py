import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, noise
from PIL import Image

from igpt_jax.data.condition_images import GreyConfig, make_condition_image
from igpt_jax.data.examples import Source
from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.geometry import resize
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.pairs import PairsConfig, PairsSource
from igpt_jax.data.pipeline import make_dataset
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.transforms import TransformConfig, transform
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict

KEYS = [f"sub/{number:02}" if number % 5 == 0 else f"{number:02}.v1" for number in range(30)]
OTHERS = ["images/notes.txt", "conditions/.x.png", "__MACOSX/images/._a.png", "readme.png"]


def picture(image: np.ndarray, fmt: str = "PNG") -> bytes:
    return encode(Image.fromarray(image), fmt)


def image_of(number: int) -> np.ndarray:
    return noise(8, 12, seed=number)


def cond_image_of(number: int) -> np.ndarray:
    return noise(8, 12, seed=1000 + number)


def pair_files() -> dict[str, bytes]:
    files: dict[str, bytes] = dict.fromkeys(OTHERS, b"x")
    for number, key in enumerate(KEYS):
        files[f"images/{key}.png"] = picture(image_of(number))
        files[f"conditions/{key}.BMP"] = picture(cond_image_of(number), "BMP")
    return files


def double_files() -> dict[str, bytes]:
    """Left the condition, right the picture."""
    return {
        f"train/{key}.png": picture(np.hstack([cond_image_of(number), image_of(number)]))
        for number, key in enumerate(KEYS)
    }


def write(root: Path, files: dict[str, bytes]) -> Path:
    """A folder, or a zip archive where the name ends so."""
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture(params=["tree", "tree.zip"])
def tree(request, tmp_path) -> Path:
    return write(tmp_path / request.param, pair_files())


def share_of(name: str) -> float:
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64


def all_pairs(root: Path, **options: object) -> PairsSource:
    return PairsSource(PairsConfig(str(root), validation_share=0.0, **options), "train")


def test_pictures_come_with_their_conditions(tree):
    source = all_pairs(tree)
    assert isinstance(source, Source)
    assert (source.class_names, source.num_classes, len(source)) == (("all",), 1, 30)
    assert list(source.names) == [f"images/{key}.png" for key in sorted(KEYS)]
    assert list(source.cond_names) == [f"conditions/{key}.BMP" for key in sorted(KEYS)]
    for key, item in zip(sorted(KEYS), source, strict=True):
        assert sorted(item) == ["cond_image", "image", "label"]
        number = KEYS.index(key)
        np.testing.assert_array_equal(item["image"], image_of(number))
        np.testing.assert_array_equal(item["cond_image"], cond_image_of(number))
        assert item["label"] == 0
    for index in (-1, 30):
        with pytest.raises(IndexError, match=r"0\.\.29"):
            source[index]


@pytest.mark.parametrize("ending", ["", ".zip"])
def test_halves_of_one_file(tmp_path, ending):
    root = write(tmp_path / f"a{ending}", double_files())
    source = all_pairs(root, layout="side_by_side", images="train")
    mirrored = all_pairs(root, layout="side_by_side", images=".", cond_side="right")
    assert source.names == mirrored.names == source.cond_names
    for key, item, other in zip(sorted(KEYS), source, mirrored, strict=True):
        number = KEYS.index(key)
        np.testing.assert_array_equal(item["image"], image_of(number))
        np.testing.assert_array_equal(item["cond_image"], cond_image_of(number))
        np.testing.assert_array_equal(other["image"], item["cond_image"])
        np.testing.assert_array_equal(other["cond_image"], item["image"])
        assert item["image"].flags.c_contiguous


def test_the_splits_are_decided_by_the_names_alone(tree, tmp_path):
    config = PairsConfig(str(tree), validation_share=0.3)
    train, validation = (PairsSource(config, split) for split in ("train", "validation"))
    held_out = {key for key in KEYS if share_of(key) < 0.3}
    assert len(held_out) > 3
    assert set(validation.names) == {f"images/{key}.png" for key in held_out}
    assert set(train.names) == {f"images/{key}.png" for key in set(KEYS) - held_out}
    double = write(tmp_path / "double", double_files())
    other = PairsConfig(str(double), "train", layout="side_by_side", validation_share=0.3)
    names = PairsSource(other, "validation").names
    assert set(names) == {f"train/{key}.png" for key in held_out}


def test_smaller_and_larger_conditions_are_brought_to_the_size(tmp_path):
    small, large = noise(15, 20, seed=1), noise(90, 121, seed=2)
    root = write(
        tmp_path / "a",
        {
            "images/a.png": picture(noise(45, 60)),
            "images/b.png": picture(noise(45, 60)),
            "conditions/a.png": picture(small),
            "conditions/b.png": picture(large),
        },
    )
    first, second = all_pairs(root)
    np.testing.assert_array_equal(first["cond_image"], resize(small, 45, 60))
    np.testing.assert_array_equal(second["cond_image"], resize(large, 45, 60))


def test_sources_can_be_pickled(tree):
    source = all_pairs(tree)
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other[7]["cond_image"], source[7]["cond_image"])


def test_the_config_survives_json():
    config = PairsConfig("$IGPT_DATA/x.zip", ".", layout="side_by_side", cond_side="right")
    assert from_dict(PairsConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_names_that_are_no_unicode_have_a_split(tmp_path):
    root = tmp_path / "a"
    for folder in ("images", "conditions"):
        (root / folder).mkdir(parents=True)
        try:
            Path(os.fsdecode(os.fsencode(root / folder) + b"/\xff.png")).write_bytes(
                picture(noise())
            )
        except OSError:
            pytest.skip("the file system takes only Unicode")
    np.testing.assert_array_equal(all_pairs(root)[0]["image"], noise())


@pytest.mark.parametrize("folder", ["images", "conditions"])
@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n", b"text"])
def test_damaged_pictures_are_named_when_they_are_read(tmp_path, folder, data):
    files = {f"{place}/{key}.png": picture(noise()) for place in ("images", "conditions")
             for key in "abc"}  # fmt: skip
    source = all_pairs(write(tmp_path / "a", files | {f"{folder}/b.png": data}))
    assert len(source) == 3
    np.testing.assert_array_equal(source[2]["image"], noise())
    with pytest.raises(BrokenImageError, match=rf"a/{folder}/b\.png: ") as raised:
        source[1]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images/x.png": b"x"}, r"got 1 pictures without a condition \(images/x.png\) and 0 cond"),
        (
            {f"conditions/{i}.png": b"x" for i in "abcd"},
            r"and 4 conditions without a picture \(conditions/a.png, conditions/b.png, "
            r"conditions/c.png, …\); add",
        ),
        (
            {"images/01.v1.jpg": b"x"},
            r"in 'images', whatever the ending, got 1 more than once, such as images/01.v1.jpg and "
            r"images/01.v1.png; remove",
        ),
        ({"conditions/01.v1.png": b"x"}, r"each name once in 'conditions'"),
        (
            {"conditions/01.v1.BMP": picture(noise(12, 8))},  # the first is always looked at
            r"same shape, got 1 of 16 looked at that are not: .*images/01.v1.png: 12 x 8 pixels, "
            r"but conditions/01.v1.BMP has 8 x 12 pixels; remove",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["", ".zip"])
def test_what_does_not_fit_together_is_told_at_opening(tmp_path, changes, message, ending):
    root = write(tmp_path / f"a{ending}", dict(sorted({**pair_files(), **changes}.items())))
    with pytest.raises(UserError, match=message) as raised:
        all_pairs(root)
    assert "\n" not in str(raised.value)


def test_a_misfit_that_was_not_looked_at_is_told_when_it_is_read(tmp_path):
    files = {f"{place}/{i:02}.png": picture(noise()) for place in ("images", "conditions")
             for i in range(40)}  # fmt: skip
    source = all_pairs(write(tmp_path / "a", files | {"conditions/01.png": picture(noise(9, 6))}))
    with pytest.raises(BrokenImageError, match=r"images/01\.png: 9 x 6 pixels, but cond.* 6 x 9"):
        source[1]


def test_an_odd_width_has_no_halves(tmp_path):
    root = write(tmp_path / "a", {"a.png": picture(noise(4, 7))})
    with pytest.raises(UserError, match=r"1 of 1 looked at .*a\.png: 7 x 4 pixels, which has no"):
        all_pairs(root, layout="side_by_side", images=".")


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ({"images": "x"}, "train", r"in its folder 'x', got none among 64 files; .*Config.images"),
        ({"cond_images": "y"}, "train", r"in its folder 'y', .* set PairsConfig.cond_images"),
        ({"validation_share": 0.0}, "validation", "none of 30 with validation_share = 0.0; change"),
        ({"path": "$IGPT_NOT_SET/x"}, "train", "IGPT_NOT_SET"),
        ({"path": "/nowhere"}, "train", "expected a folder or a zip archive, got nothing"),
    ],
)
def test_what_cannot_be_used_is_refused(tree, options, split, message):
    with pytest.raises(UserError, match=message) as raised:
        PairsSource(PairsConfig(**({"path": str(tree)} | options)), split)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 1.0}, r"validation_share: expected a share in \[0, 1\), got 1.0"),
        ({"validation_share": float("nan")}, "validation_share"),
        ({"images": "a", "cond_images": "a"}, "expected two folders, none in the other, got 'a'"),
        ({"images": "."}, "expected two folders, none in the other, got '.' and 'conditions'"),
        ({"cond_images": "images/edges"}, "expected two folders"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message) as raised:
        PairsConfig("x", **options)
    assert "\n" not in str(raised.value)


CROPS = [
    {"crop": "center"},
    {"crop": "resize"},
    {"crop": "random", "crop_min_share": 0.5},
    {"crop": "random_resized", "crop_scale": (0.1, 1.0)},
    # Some of the windows drawn do not fit, and are drawn again.
    {"crop": "random_resized", "crop_scale": (0.4, 1.0), "crop_ratio": (2.0, 2.0)},
]
COLOURS = {
    "denoise": "median",
    "white_balance": True,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "color_balance": 0.5,
}


def test_the_pipeline_keeps_pairs_together_and_skips_broken_ones(tree):
    if tree.is_dir():
        (tree / f"conditions/{KEYS[3]}.BMP").write_bytes(b"x")
    else:
        write(tree, pair_files() | {f"conditions/{KEYS[3]}.BMP": b"x"})
    config = TransformConfig(image_size=8, crop="resize")

    def both(item, rng):
        image = transform(config, item["image"], rng)
        return {**item, "image": image, "cond_image": transform(config, item["cond_image"], rng)}

    skipped = SkippedImages()
    batches = make_dataset(
        all_pairs(tree),
        transform=both,
        global_batch_size=10,
        seed=0,
        shuffle=True,
        num_epochs=1,
        num_threads=2,
        max_broken_share=0.1,
        skipped=skipped,
    )
    places = {}
    for number in range(30):
        image, cond_image = (resize(f(number), 8, 8) for f in (image_of, cond_image_of))
        places[image.tobytes()] = (number, cond_image)
    seen = []
    for batch in batches:
        assert batch["cond_image"].shape == batch["image"].shape
        for image, cond_image in zip(batch["image"], batch["cond_image"], strict=True):
            number, expected = places[image.tobytes()]
            np.testing.assert_array_equal(cond_image, expected)
            seen.append(number)
    assert sorted(seen) == [number for number in range(30) if number != 3]
    assert skipped.broken == 1


def test_cifar10_in_pairs(tmp_path):
    name = "cifar10-train.zip"
    if not (Path(os.environ.get("IGPT_DATA", "/nowhere")) / name).exists():
        pytest.skip(f"needs {name} in the folder that IGPT_DATA names")
    pictures = FolderSource(FolderConfig(f"$IGPT_DATA/{name}", 500), "validation")
    files = {}
    for index in range(0, 5000, 100):
        image = pictures[index]["image"]
        files[f"images/{index:04}.png"] = picture(image)
        files[f"conditions/{index:04}.png"] = picture(make_condition_image(GreyConfig(), image, 32))
    config = PairsConfig(str(write(tmp_path / "a.zip", files)), validation_share=0.2)
    sources = [PairsSource(config, split) for split in ("train", "validation")]
    assert sum(map(len, sources)) == 50
    for source in sources:
        for pair in source:
            grey = make_condition_image(GreyConfig(), pair["image"], 32)
            np.testing.assert_array_equal(pair["cond_image"], grey)
