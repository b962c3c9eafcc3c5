"""A GPT, a GAN and a VAE on one page, by one command."""

import base64
import dataclasses
import io
import json
import logging
import math
import re
import shutil
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.data.cards import CardSource
from igpt_jax.errors import UserError
from igpt_jax.evaluation.energy_distance import energy_distance, thumbnails
from igpt_jax.evaluation.random_features import random_feature_params, random_features
from igpt_jax.measuring.compared_run import read_stage
from igpt_jax.measuring.compared_sets import INCEPTION, PictureSet, compare_sets, condition_measures
from igpt_jax.measuring.comparison import compare
from igpt_jax.measuring.comparison_page import page
from igpt_jax.stored import load
from igpt_jax.testing import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


class Reader(HTMLParser):
    """Tags that are opened and closed, addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def compared(tiny_run, gan_run, vae_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    runs = [str(run) for run in (tiny_run, gan_run, vae_run)]
    assert main(["evaluate", "--compare", *runs, "--out", str(out), "--batch-size", "8"]) == 0
    return out, json.loads((out / "compare.json").read_text())


def test_everything_is_measured_of_each(compared, tiny_run, vae_run):
    _, result = compared
    assert result["num_images"] == 16
    assert "not FID" in result["features"]
    assert [row["kind"] for row in result["runs"]] == ["GPT", "GAN", "VAE"]
    for row in [*result["runs"], result["reference"]]:
        assert row["frechet_distance"] > 0
        assert 0 <= row["precision"] <= 1
        assert 0 <= row["recall"] <= 1
        assert 0 <= row["coverage"] <= 1
        assert math.isfinite(row["kernel_distance"])
        assert "fid" not in row
    assert result["reference"]["card_accuracy"] == 1
    assert result["reference"]["coverage"] > 0.7
    for row in result["runs"]:
        assert row["frechet_distance"] > result["reference"]["frechet_distance"]
        assert 0 <= row["card_accuracy"] <= 1
        assert row["seconds_a_picture"] > 0
        assert row["parameters_trained"] >= row["parameters_kept"] > 0
    gpt, gan, vae = result["runs"]
    assert set(gpt["training"]) == {"tokenizer", "gpt"}
    assert all(
        stage["pictures"] == 64 for row in (gpt, gan, vae) for stage in row["training"].values()
    )
    assert gan["parameters_trained"] > gan["parameters_kept"]
    assert "bits_per_dim" not in gan
    assert (gpt["bits_per_dim_of"], vae["bits_per_dim_of"]) == (
        "tokens, exactly",
        "pixels, at most",
    )
    source = CardSource(tiny_config().data, "validation")
    items = [source[i] for i in range(16)]
    images, labels = np.stack([x["image"] for x in items]), [x["label"] for x in items]
    bits = -load(tiny_run).log_likelihood(images, labels).mean() / math.log(2) / (32 * 32 * 3)
    assert gpt["bits_per_dim"] == pytest.approx(float(bits), rel=1e-4)
    bound = igpt_jax.load_baseline(vae_run).likelihood_bound(images, labels).mean()
    assert vae["bits_per_dim"] == pytest.approx(-bound / math.log(2) / 3072, rel=0.02)


def test_the_page_holds_all_it_shows(compared):
    out, result = compared
    text = (out / "compare.html").read_text()
    reader = Reader(text)
    assert reader.open == []
    assert len(reader.addresses) == 4
    assert not re.search(r"https?://|<script|@import|url\(", text)
    for address in reader.addresses:
        head, _, data = address.partition(",")
        assert head == "data:image/png;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.size == Image.open(io.BytesIO(base64.b64decode(
            reader.addresses[0].partition(",")[2]))).size  # fmt: skip
    for word in ("Quality", "Diversity", "Likelihood", "coverage ↑", "cards that read as asked ↑",
                 "sampling time a picture ↓", result["features"]):  # fmt: skip
        assert word in reader.text
    assert "FID " not in reader.text.replace("FID's", "")
    for row in result["runs"]:
        assert row["name"] in reader.text
        assert f"{row['parameters_kept']:,}" in reader.text


def test_names_on_the_page_are_text():
    row = {"name": "<b>&", "kind": "GAN", "shown": "as drawn", "precision": 0.5, "training": {}}
    result = {
        "runs": [row, {**row, "name": "plain", "precision": 0.25}],
        "reference": {"name": "train pictures", "kind": "data", "precision": 1.0},
        "data": {"kind": "CardsConfig"}, "split": "validation", "num_images": 8, "seed": 0,
        "batch_size": 4, "features": "<i>", "neighbours": 5,
    }  # fmt: skip
    text = page(result, {"<b>&": np.zeros((2, 8, 8, 3), np.uint8)}, None)
    assert "<b>" not in text
    assert "<i>" not in text
    assert "<b>&" in Reader(text).text
    assert '<td class="best">0.500</td><td>0.250</td>' in text
    assert "Likelihood" not in Reader(text).text


def test_training_time_is_that_of_updates(tmp_path):
    rows = [
        {"step": 10, "split": "train", "time": 1e9, "images_per_second": 40.0},
        {"step": 10, "split": "validation", "time": 1e9 + 500, "loss": 1.0},
        {"step": 15, "split": "train", "time": 1e9 + 9_000, "images_per_second": 20.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_stage(tmp_path, 8) == {"seconds": 10 * 8 / 40 + 5 * 8 / 20, "pictures": 120}
    assert read_stage(tmp_path / "nowhere", 8) is None


def test_only_inception_gives_an_fid():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((2, 40, 4))
    plain, named = (compare_sets(real, fake, name) for name in ("something", INCEPTION))
    assert plain.pop("frechet_distance") == named.pop("fid")
    assert "kid" in named
    assert "kid" not in plain
    assert compare_sets(real, real, "something")["frechet_distance"] == pytest.approx(0, abs=1e-9)


def test_the_nearest_picture_tells_the_class():
    features = np.eye(4)
    reference = PictureSet(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), features)
    asked = dataclasses.replace(reference, features=features[[0, 1, 3, 2]] * 0.9)
    assert condition_measures(asked, reference, are_cards=False) == {"class_agreement": 0.5}


@pytest.fixture(scope="module")
def cards():
    source = CardSource(dataclasses.replace(tiny_config().data, num_validation=64), "validation")
    return np.stack([source[i]["image"][::2, ::2] for i in range(64)])


def test_random_features_tell_noise_and_lost_modes(cards, caplog):
    caplog.set_level(logging.ERROR)
    params, rng = random_feature_params(16), np.random.default_rng(0)
    same = random_feature_params(16)["projection"]
    np.testing.assert_array_equal(params["projection"], same)
    real, others = np.asarray(random_features(params, cards[:32])), cards[32:]
    noise = rng.standard_normal(others.shape)
    noisy = [np.clip(others + s * noise, 0, 255).astype(np.uint8) for s in (0, 16, 48)]
    few = [others[np.arange(32) % kept] for kept in (32, 8, 2)]
    for sets in (noisy, few):
        features = [np.asarray(random_features(params, images)) for images in sets]
        found = [compare_sets(real, each, "random") for each in features]
        distances = [each["frechet_distance"] for each in found]
        assert distances == sorted(distances)
        assert distances[-1] > 1.3 * distances[0]
        assert found[-1]["coverage"] < found[0]["coverage"]


def test_random_features_need_16_pixels():
    with pytest.raises(UserError, match="16 or more pixels a side, got 8"):
        random_feature_params(8)


def test_energy_distance_is_that_of_numpy():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((7, 3)), rng.standard_normal((9, 3)) + 1

    def mean_distance(a, b, same):
        pairs = [
            np.linalg.norm(x - y)
            for i, x in enumerate(a) for j, y in enumerate(b) if not (same and i == j)
        ]  # fmt: skip
        return np.mean(pairs)

    expected = 2 * mean_distance(real, fake, False) - mean_distance(real, real, True)
    expected -= mean_distance(fake, fake, True)
    got = energy_distance(jnp.asarray(real), jnp.asarray(fake))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_thumbnails_are_means_of_squares():
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    got = np.asarray(thumbnails(jnp.asarray(images))).reshape(2, 8, 8, 3)
    np.testing.assert_allclose(got[1, 2, 5], images[1, 8:12, 20:24].mean(axis=(0, 1)), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected DIR, or --compare RUN RUN"),
        (["{gpt}", "--compare", "{gan}", "{vae}"], "expected DIR, or --compare RUN RUN"),
        (["--compare", "{gan}"], "expected two or more runs, got 1"),
        (["--compare", "{gan}", "{gan}"], "got one of them twice"),
        (["--compare", "{gan}", "nowhere"], "expected a checkpoint, found none"),
        (["--compare", "{gan}", "{vae}", "--num-images", "5"], "expected more than 5"),
        (["--compare", "{gan}", "{vae}", "--num-images", "0"], "num_images: expected 1 or more"),
        (["--compare", "{gan}", "{vae}", "--measure", "pairs"], "--compare: expected no --measure"),
        (["--compare", "{gan}", "{vae}", "--inception", "none.pth"], "none.pth"),
        (["--compare", "{gan}", "{video}"], "got one of videos"),
        (["--compare", "{gan}", "{other}"], "(data.seed differs); compare runs of the same data"),
    ],
)
def test_wrong_input_is_one_line(
    arguments, words, tiny_run, gan_run, vae_run, video_run, tmp_path, capsys
):
    places = {"gpt": tiny_run, "gan": gan_run, "vae": vae_run, "video": video_run}
    if "{other}" in arguments:  # the same run as if of other cards
        places["other"] = shutil.copytree(vae_run, tmp_path / "other")
        path = places["other"] / "baseline/checkpoints/8/_CHECKPOINT_METADATA"
        metadata = json.loads(path.read_text())
        metadata["custom_metadata"]["config"]["data"]["seed"] = 5
        path.write_text(json.dumps(metadata))
    given = [argument.format(**places) for argument in arguments]
    out = tmp_path / "out"
    assert main(["evaluate", *given, "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert not out.exists()


def test_runs_of_one_name_are_told_apart_by_their_paths(gan_run, vae_run, tmp_path):
    runs = [shutil.copytree(run, tmp_path / run.name / "run") for run in (gan_run, vae_run)]
    compare(runs, num_images=8, out=tmp_path / "out")
    result = json.loads((tmp_path / "out/compare.json").read_text())
    assert [row["name"] for row in result["runs"]] == [str(run) for run in runs]
