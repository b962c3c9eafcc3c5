import hashlib
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, noise
from PIL import Image

from igpt_jax.data.captioned import CaptionedConfig, CaptionedSource
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.pipeline import make_dataset, on_image
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.sources import DataConfig, Source, open_source
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict

CATEGORIES = ("plants", "animals", "flags")


def picture(seed: int) -> bytes:
    return encode(Image.fromarray(noise(seed=seed)), "PNG")


def line(number: int, **changes: object) -> dict:
    return {
        "file": f"images/{number:02}.png",
        "caption": f"caption {number}",
        "keywords": [f"word {number}", f"caption {number}"],
        "category": CATEGORIES[number % 3],
    } | changes


def write(root: Path, lines, pictures: int = 40, *, name: str = "captions.jsonl") -> Path:
    """A folder, or a zip archive where the name ends so; lines are objects, texts or bytes."""
    texts = [x if isinstance(x, str | bytes) else json.dumps(x, ensure_ascii=False) for x in lines]
    rows = [text.encode() if isinstance(text, str) else text for text in texts]
    folder = Path(name).parent
    files = {str(folder / f"images/{i:02}.png"): picture(i) for i in range(pictures)}
    files |= {name: b"\n".join(rows), "readme.txt": b"x"}
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return root
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def share_of(name: str) -> float:
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64


@pytest.fixture(params=["tree", "tree.zip"])
def tree(request, tmp_path) -> Path:
    return write(tmp_path / request.param, map(line, range(40)))


def test_pictures_come_with_labels_and_captions(tree):
    config = CaptionedConfig(str(tree), validation_share=0.0)
    source = open_source(config, "train")
    assert isinstance(source, CaptionedSource)
    assert isinstance(source, Source)
    assert source.class_names == ("animals", "flags", "plants")
    assert len(source) == 40
    for number, item in enumerate(source):
        np.testing.assert_array_equal(item["image"], noise(seed=number))
        assert source.class_names[item["label"]] == CATEGORIES[number % 3]
        assert item["caption"] == f"caption {number}"
        assert source.captions(number) == (f"caption {number}", f"word {number}")
    for index in (-1, 40):
        with pytest.raises(IndexError, match=r"0\.\.39"):
            source[index]
        with pytest.raises(IndexError, match=r"0\.\.39"):
            source.captions(index)


def test_the_splits_are_decided_by_the_names_alone(tree, tmp_path):
    config = CaptionedConfig(str(tree), validation_share=0.3)
    train, validation = (CaptionedSource(config, split) for split in ("train", "validation"))
    names = [f"images/{number:02}.png" for number in range(40)]
    assert list(validation.names) == [name for name in names if share_of(name) < 0.3]
    assert list(train.names) == [name for name in names if share_of(name) >= 0.3]
    assert len(validation) > 3
    assert train.class_names == validation.class_names
    for source in (train, validation):
        for index, name in enumerate(source.names):
            assert source[index]["caption"] == f"caption {int(name[7:9])}"

    fewer = write(tmp_path / "fewer", map(line, reversed(range(20))))
    other = CaptionedSource(replace(config, path=str(fewer)), "validation")
    assert set(other.names) == set(validation.names) & set(names[:20])


def test_keys_files_and_folders_are_named_by_the_config(tmp_path):
    lines = [{"name": "./images/01.png", "text": "一只猫\u2028！", "kind": "x", "keywords": 3}, ""]
    root = write(tmp_path / "a.zip", lines, name="sub/meta.jsonl")
    config = CaptionedConfig(
        str(root), "sub/meta.jsonl", "name", "text", None, None, validation_share=0.0
    )
    source = CaptionedSource(config, "train")
    assert source.names == ("sub/images/01.png",)
    assert source.class_names == ("all",)
    assert source.captions(0) == ("一只猫\u2028！",)
    assert source[0]["label"] == 0
    assert CaptionedSource(replace(config, category_key="kind"), "train").class_names == ("x",)


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path):
    rows = [b"\xef\xbb\xbf" + json.dumps(line(0)).encode() + b"\r", b"\r", json.dumps(line(1))]
    root = write(tmp_path / "a", rows)
    assert len(CaptionedSource(CaptionedConfig(str(root), validation_share=0.0), "train")) == 2


def test_transparency_is_laid_on_the_background(tmp_path):
    root = write(tmp_path / "a", [line(0)])
    layer = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    layer.putpixel((1, 0), (10, 20, 30, 51))
    (root / "images/00.png").write_bytes(encode(layer, "PNG"))
    white = CaptionedConfig(str(root), validation_share=0.0)
    blue = replace(white, background=(0, 0, 200))
    clear, thin = CaptionedSource(white, "train")[0]["image"][0]
    assert (clear == 255).all()
    np.testing.assert_allclose(thin, 0.2 * np.array([10, 20, 30]) + 0.8 * 255, atol=1)
    clear, thin = CaptionedSource(blue, "train")[0]["image"][0]
    np.testing.assert_array_equal(clear, [0, 0, 200])
    np.testing.assert_allclose(thin, [2, 4, 6 + 160], atol=1)


@pytest.mark.parametrize("background", [(0, 0, 256), (-1, 0, 0)])
def test_a_wrong_background_is_refused(background):
    with pytest.raises(UserError, match=r"background: expected three values in 0\.\.255, got"):
        CaptionedConfig("x", background=background)


def test_sources_can_be_pickled(tree):
    config = CaptionedConfig(str(tree))
    source = CaptionedSource(config, "train")
    other = pickle.loads(pickle.dumps(source))
    assert other.captions(3) == source.captions(3)
    np.testing.assert_array_equal(other[3]["image"], source[3]["image"])


def test_the_config_survives_json():
    config = CaptionedConfig("$IGPT_DATA/x.zip", category_key=None, validation_share=0.25)
    assert from_dict(CaptionedConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert CaptionedConfig in DataConfig.__args__


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n", b"text"])
def test_damaged_pictures_are_named(tmp_path, data):
    root = write(tmp_path / "a", [line(0)])
    (root / "images/00.png").write_bytes(data)
    source = CaptionedSource(CaptionedConfig(str(root), validation_share=0.0), "train")
    with pytest.raises(BrokenImageError, match=r"a/images/00\.png: ") as raised:
        source[0]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "captions.jsonl: expected captions, got an empty file"),
        (["", "  "], "expected captions, got an empty file"),
        ([line(0), "", '{"file": '], "line 3: expected a JSON object in UTF-8, got a damaged line"),
        ([line(0), b'{"file": "\xff"}'], "line 2: expected a JSON object in UTF-8"),
        (["[" * 100_000], "line 1: expected a JSON object in UTF-8, got a damaged line"),
        (["[1]"], "line 1: expected a JSON object, got list"),
        ([{"caption": "x"}], "line 1: expected a text as 'file', got only 'caption'"),
        ([line(0, file="images/99.png")], "got 'images/99.png', which is not there; add it"),
        ([line(0, file="/etc/passwd")], "got '/etc/passwd', which is not there"),
        ([line(0, file="../a/images/00.png")], "which is not there"),
        ([line(0), line(1), line(0)], "line 3: .* 'images/00.png' again, after line 1; remove"),
        ([line(0), line(0, file="./images//00.png")], "'images/00.png' again, after line 1"),
        ([line(0), line(1, caption=7)], "line 2: expected a text as 'caption', got 7; repair"),
        ([line(0, caption=None)], "expected a text as 'caption', got None"),
        ([line(0, caption=" \t")], r"expected a text as 'caption', got ' \\t'"),
        ([line(0, caption=["x"] * 999)], "expected a text as 'caption', got "),
        ([json.dumps(line(0, caption="\ud800"))], r"expected a text as 'caption', got '\\ud800'"),
        ([line(0, caption="x\0")], r"expected a text as 'caption', got 'x\\x00'"),
        ([line(0, category=3)], "expected a text as 'category', got 3"),
        ([line(0, keywords="x")], "expected a list of texts as 'keywords', got 'x'"),
        ([line(0, keywords=["x", 3])], r"expected a list of texts as 'keywords', got \['x', 3\]"),
    ],
)
def test_wrong_captions_are_a_user_error_of_one_line(tmp_path, lines, message):
    root = write(tmp_path / "a", lines)
    with pytest.raises(UserError, match=message) as raised:
        CaptionedSource(CaptionedConfig(str(root)), "train")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ({"captions_file": "x.jsonl"}, "train", "expected a file x.jsonl with the captions, got"),
        ({"caption_key": "text"}, "train", "line 1: expected a text as 'text', got only 'file', "),
        ({"validation_share": 0.0}, "validation", "none of 40 with validation_share = 0.0; change"),
        ({"path": "$IGPT_NOT_SET/x"}, "train", "IGPT_NOT_SET"),
        ({"path": "/nowhere"}, "train", "expected a folder or a zip archive, got nothing"),
    ],
)
def test_what_cannot_be_used_is_refused(tree, options, split, message):
    with pytest.raises(UserError, match=message) as raised:
        CaptionedSource(CaptionedConfig(**({"path": str(tree)} | options)), split)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_wrong_share_is_refused(share):
    with pytest.raises(UserError, match=r"validation_share: expected a share in \[0, 1\), got"):
        CaptionedConfig("x", validation_share=share)


def test_captions_damaged_in_the_archive_are_a_user_error(tmp_path):
    path = write(tmp_path / "a.zip", map(line, range(40)))
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("captions.jsonl").header_offset + 60
    data = bytearray(path.read_bytes())
    data[place : place + 4] = bytes(byte ^ 0xFF for byte in data[place : place + 4])
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"captions\.jsonl: expected a readable file, got damaged"):
        CaptionedSource(CaptionedConfig(str(path)), "train")


def test_the_pipeline_keeps_captions_with_their_pictures(tree):
    """Texts of different lengths make one array; random changes of pictures leave them alone."""
    rows = [line(i, caption="长" * (i + 1)) for i in range(40)]
    if tree.is_dir():
        (tree / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        write(tree, rows)
    source = CaptionedSource(CaptionedConfig(str(tree), validation_share=0.0), "train")

    def batches():
        return make_dataset(
            source,
            transform=on_image(lambda image, rng: image + rng.integers(0, 9, dtype=np.uint8)),
            global_batch_size=8,
            seed=0,
            shuffle=True,
            num_epochs=1,
            num_threads=2,
        )

    seen = []
    for batch in batches():
        assert batch["caption"].shape == (8,)
        assert batch["caption"].dtype.kind == "U"
        for image, label, caption in zip(
            *map(batch.get, ("image", "label", "caption")), strict=True
        ):
            number = len(str(caption)) - 1
            assert caption == "长" * (number + 1)
            assert label == source[number]["label"]
            assert len(np.unique(image - noise(seed=number))) == 1
            seen.append(number)
    assert sorted(seen) == list(range(40))

    iterator = iter(batches())
    next(iterator)
    position, expected = iterator.position, next(iterator)
    fresh = iter(batches())
    fresh.seek(position)
    np.testing.assert_array_equal(next(fresh)["caption"], expected["caption"])


def test_the_pipeline_skips_broken_pictures_with_their_captions(tmp_path):
    root = write(tmp_path / "a", map(line, range(40)))
    (root / "images/07.png").write_bytes(b"")
    skipped = SkippedImages()
    batches = make_dataset(
        CaptionedSource(CaptionedConfig(str(root), validation_share=0.0), "train"),
        global_batch_size=13,
        seed=0,
        shuffle=False,
        num_epochs=1,
        max_broken_share=0.1,
        skipped=skipped,
    )
    captions = [str(caption) for batch in batches for caption in batch["caption"]]
    assert captions == [f"caption {number}" for number in range(40) if number != 7]
    assert skipped.broken == 1


def test_captions_of_cards_pass_through_the_pipeline():
    source = open_source(CardsConfig(num_cards=24, image_size=32, captions="both"), "train")
    [batch] = make_dataset(source, global_batch_size=24, seed=0, shuffle=False, num_epochs=1)
    assert batch["caption"].tolist() == [example["caption"] for example in source]


def test_twemoji():
    name = "twemoji-64.zip"
    if not (Path(os.environ.get("IGPT_DATA", "/nowhere")) / name).exists():
        pytest.skip(f"needs {name} in the folder that IGPT_DATA names")
    config = CaptionedConfig(f"$IGPT_DATA/{name}")
    train, validation = (CaptionedSource(config, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (1733, 178)
    assert train.class_names[:3] == ("Activities", "Animals & Nature", "Component")
    assert train.num_classes == 10
    assert train.captions(0) == ("hash key", "hash")
    assert validation[5]["image"].shape == (64, 64, 3)
    for source in (train, validation):
        pixels = np.stack([source[index]["image"] for index in range(len(source))])
        assert (pixels[:, 0, 0] == 255).all(-1).mean() > 0.8
