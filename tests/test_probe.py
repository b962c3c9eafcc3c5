"""`igpt probe` on pictures whose classes are easy to tell, or impossible."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.data.images import decode_image
from igpt_jax.errors import UserError
from igpt_jax.measuring.probe import probe

pytestmark = pytest.mark.xdist_group("tiny_run")
COLOURS = {"blue": (40, 40, 220), "green": (40, 200, 40), "red": (220, 40, 40)}


def write_pictures(folder, count, colours):
    """Noisy pictures of one colour a class."""
    random = np.random.default_rng(0)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noisy = np.clip(random.normal(colour, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{i:03}.png")
    return str(folder)


@pytest.fixture(scope="module")
def probed(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    data = write_pictures(folder / "pictures", 40, COLOURS)
    result = probe(tiny_run, data=data, validation_per_class=10, shots=[1, 5], out=folder / "out")
    return folder / "out", data, result


def test_colours_are_told_apart(probed):
    _, _, result = probed
    assert (result["num_train"], result["num_validation"], result["num_classes"]) == (90, 30, 3)
    assert len(result["gpt"]["layers"]) == len(result["random"]["layers"]) == 3
    for name in ("gpt", "pixels"):
        assert result[name]["accuracy"] > 0.9
    assert result["few_shot"]["5"] > 0.6
    assert result["neighbours"] > 0.5
    confusion = np.array(result["confusion"])
    assert confusion.sum(axis=1).tolist() == [10, 10, 10]
    assert np.trace(confusion) / 30 == pytest.approx(result["gpt"]["accuracy"])


def test_what_it_leaves_behind(probed, tiny_run):
    out, data, result = probed
    assert json.loads((out / "probe.json").read_text()) == result
    for name in ("sweep.png", "mistakes.png"):
        with Image.open(out / name) as picture:
            assert picture.size[0] > 60
    with np.load(out / "probe.npz") as file:
        stored = dict(file)
    assert stored["class_names"].tolist() == sorted(COLOURS)
    files = [Path(data) / "red" / f"{i:03}.png" for i in range(30, 40)]
    images = np.stack([decode_image(file.read_bytes()) for file in files])
    features = igpt_jax.load(tiny_run).features(images)[:, stored["layer"]]
    logits = (features - stored["mean"]) / stored["deviation"] @ stored["kernel"] + stored["bias"]
    right = result["confusion"][2][2]
    assert (logits.argmax(axis=1) == 2).sum() == right


def test_pictures_are_recognised(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "run")
    data = write_pictures(tmp_path / "pictures", 20, COLOURS)
    image = str(tmp_path / "pictures" / "green" / "019.png")
    assert main(["probe", str(tmp_path / "run"), "--image", image]) == 2
    assert "expected a probe, found none; run `igpt probe" in capsys.readouterr().err
    probe(tmp_path / "run", data=data, validation_per_class=5)
    assert main(["probe", str(tmp_path / "run"), "--image", image, "--json"]) == 0
    shares = json.loads(capsys.readouterr().out.splitlines()[-1])[image]
    assert next(iter(shares)) == "green"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_noise_is_told_apart_by_chance(tiny_run, tmp_path):
    same = dict.fromkeys("abcd", (128, 128, 128))
    data = write_pictures(tmp_path / "noise", 60, same)
    result = probe(tiny_run, data=data, validation_per_class=20, out=tmp_path)
    for name in ("gpt", "random", "pixels"):
        assert result[name]["accuracy"] == pytest.approx(0.25, abs=0.17)


def test_bad_input_is_one_line(tiny_run, tmp_path, capsys):
    data = write_pictures(tmp_path / "one", 3, {"red": (220, 40, 40)})
    with pytest.raises(UserError, match="two or more classes, got one"):
        probe(tiny_run, data=data, validation_per_class=1, out=tmp_path)
    data = write_pictures(tmp_path / "none", 3, COLOURS)
    with pytest.raises(UserError, match="validation_per_class = 0; set"):
        probe(tiny_run, data=data, out=tmp_path)
    data = write_pictures(tmp_path / "few", 5, COLOURS)
    arguments = ["probe", str(tiny_run), "--data", data, "--validation-per-class", "2"]
    assert main([*arguments, "--shots", "9", "--out", str(tmp_path / "out")]) == 2
    assert "shots: expected at most 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
