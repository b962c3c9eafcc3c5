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
from inception_weights import published_shapes, ruled_weight
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.data.cards import CardSource
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError
from igpt_jax.evaluation.class_agreement import class_agreement
from igpt_jax.evaluation.energy_distance import energy_distance, thumbnails
from igpt_jax.evaluation.extractors import Features, InceptionExtractor
from igpt_jax.evaluation.generation import FeatureSet
from igpt_jax.evaluation.generation import compare as compare_sets
from igpt_jax.evaluation.inception import read_inception
from igpt_jax.evaluation.random_features import RandomExtractor
from igpt_jax.measuring import comparison
from igpt_jax.measuring.compared_run import check_same_data, open_run, read_stage
from igpt_jax.measuring.comparison import compare
from igpt_jax.measuring.comparison_page import content, measures
from igpt_jax.measuring.page import render, written
from igpt_jax.measuring.pictures import all_pictures, read_pictures
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


def by_base(row):
    """Numbers without the features that they are of."""
    return {name.partition("[")[0]: value for name, value in measures(row).items()}


def test_everything_is_measured_of_each(compared, tiny_run, vae_run):
    _, result = compared
    assert result["num_images"] == 16
    assert [row["kind"] for row in result["runs"]] == ["GPT", "GAN", "VAE"]
    perfect = by_base(result["perfect"])
    assert perfect["card_accuracy"] == 1
    assert perfect["coverage"] > 0.7
    for row in map(by_base, result["runs"]):
        assert row["frechet_distance"] > perfect["frechet_distance"] > 0
        for name in ("precision", "recall", "coverage", "card_accuracy"):
            assert 0 <= row[name] <= 1
        assert math.isfinite(row["kernel_distance"])
        assert row["sampling_seconds"] > 0
        assert row["training_seconds"] > 0
        assert row["parameters_trained"] >= row["parameters_kept"] > 0
    gpt, gan, vae = result["runs"]
    assert set(gpt["training"]) == {"tokenizer", "gpt"}
    assert all(
        stage["pictures"] == 64 for row in (gpt, gan, vae) for stage in row["training"].values()
    )
    assert gpt["costs"]["training_pictures"] == 128
    assert gan["costs"]["parameters_trained"] > gan["costs"]["parameters_kept"]
    assert gan["likelihood"] == {}
    source = CardSource(tiny_config().data, "validation")
    items = [source[i] for i in range(16)]
    images, labels = np.stack([x["image"] for x in items]), [x["label"] for x in items]
    bits = -load(tiny_run).log_likelihood(images, labels).mean() / math.log(2) / (32 * 32 * 3)
    assert gpt["likelihood"] == {"token_bits_per_dim": pytest.approx(float(bits), rel=1e-4)}
    bound = igpt_jax.load_baseline(vae_run).likelihood_bound(images, labels).mean()
    expected = -bound / math.log(2) / 3072
    assert vae["likelihood"] == {"pixel_bits_per_dim": pytest.approx(expected, rel=0.02)}


def test_scores_are_those_of_the_measure_of_generation(compared, gan_run):
    """Drawn and compared again, by the functions behind --measure generation."""
    _, result = compared
    extractor, source = RandomExtractor(32), CardSource(tiny_config().data, "validation")
    items = [source[i] for i in range(16)]
    images = np.stack([item["image"] for item in items])
    model, labels = igpt_jax.load_baseline(gan_run), [item["label"] for item in items]
    real, drawn = FeatureSet("real", extractor), FeatureSet("drawn", extractor)
    real.add(images)
    drawn.add(images)
    found = result["runs"][1]["scores"]
    names = set(compare_sets(drawn, real))
    assert names == set(found) - {"card_accuracy"}
    assert all(name.endswith("[VGG16 of random weights, seed 0]") for name in names)
    for name in names:
        score = found[name]
        assert (score["num_generated"], score["num_real"]) == (16, 16)
        assert score["against"] == "cards, validation split"
        assert score["features"] == extractor.name
    assert result["perfect"]["scores"].keys() == found.keys()
    asked = shuffled_labels(source)
    again = FeatureSet("again", extractor)
    again.add(model.sample(asked, seed=0))
    assert sorted(asked) == sorted(labels)
    for name, score in compare_sets(again, real).items():
        if name.startswith(("frechet", "precision", "recall", "density", "coverage")):
            assert found[name]["value"] == pytest.approx(score.value, rel=0.02, abs=1e-3), name


def shuffled_labels(source):
    transform = tiny_config().transform
    return all_pictures(read_pictures(source, transform, seed=0)).labels


def test_the_page_holds_all_it_shows(compared):
    out, result = compared
    text = (out / "compare.html").read_text()
    reader = Reader(text)
    assert reader.open == []
    assert len(reader.addresses) == 4 * 16
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    for address in reader.addresses:
        head, _, data = address.partition(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)
    for word in ("Quality", "Diversity", "Likelihood", "Fréchet distance",
                 "sampling time a picture", "cards, validation split",
                 "cards that read as asked", "all pictures at once",
                 "not FID's features", result["features"]):  # fmt: skip
        assert word in reader.text
    assert "FID " not in reader.text
    for row in result["runs"]:
        assert row["name"] in reader.text
        assert f"{row['costs']['parameters_kept']:,}" in reader.text


def scored(name, **values):
    scores = {name: {"value": value} for name, value in values.items()}
    return {"name": name, "kind": "GAN", "shown": "as drawn", "scores": scores}


def result_of(*runs, **changes):
    perfect = {**scored("train pictures", precision=1.0), "kind": "data"}
    return {
        "runs": runs, "perfect": perfect, "split": "validation", "against": "cards", "seed": 0,
        "num_images": 8, "batch_size": 4, "features": "<i>", "is_published": True, **changes,
    }  # fmt: skip


def test_names_on_the_page_are_text():
    result = result_of(scored("<b>&", precision=0.5), scored("plain", precision=0.25))
    images = {"<b>&": np.zeros((2, 8, 8, 3), np.uint8)}
    text = render("comparison.html.jinja", content(result, images, ["<u>", "x"]))
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in text
        assert tag in Reader(text).text
    assert "Likelihood" not in Reader(text).text
    assert "not FID" not in Reader(text).text


def test_the_best_are_marked_and_come_first():
    runs = [
        scored("slow", frechet_distance=3.0, precision=0.5, density=1.0),
        scored("good", frechet_distance=1.0, precision=0.75, density=1.0, coverage=0.1),
        scored("poor", frechet_distance=2.0, precision=0.75, density=1.0),
    ]
    for run, seconds in zip(runs, (0.2, 0.3, 0.1), strict=True):
        run["costs"] = {"sampling_seconds": seconds, "parameters_kept": 100 * seconds}
    found = content(result_of(*runs), {}, None)
    marked = {
        row["words"].partition(":")[0]: [cell["is_best"] for cell in row["cells"]]
        for group in found["groups"]
        for row in group["rows"]
    }
    assert marked == {
        "Fréchet distance": [False, True, False],
        "precision": [False, True, True],
        "density": [False] * 3,  # nobody is better
        "coverage": [False] * 3,  # one number is no comparison
        "sampling time a picture": [False, False, True],
        "parameters kept": [False] * 3,  # neither way is better
    }
    order = {
        each["title"]: [place["name"] for place in each["places"]] for each in found["ranking"]
    }
    assert order == {"Quality": ["good", "poor", "slow"], "Sampling": ["poor", "slow", "good"]}
    places = {each["title"]: each["places"] for each in found["ranking"]}
    assert places["Sampling"][0] == {
        "name": "poor", "kind": "GAN", "value": "100 ms", "is_best": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01234, "12.3 ms"), (1.5, "1.5 s"), (150, "2.5 min"), (9_000, "2.5 h")],
)
def test_times_have_units(seconds, words):
    assert written("training_seconds", seconds) == words
    assert written("coverage", 0.5) == "0.5"


def test_training_time_is_that_of_updates(tmp_path):
    rows = [
        {"step": 10, "split": "train", "time": 1e9, "images_per_second": 40.0},
        {"step": 10, "split": "validation", "time": 1e9 + 500, "loss": 1.0},
        {"step": 15, "split": "train", "time": 1e9 + 9_000, "images_per_second": 20.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_stage(tmp_path, 8) == {"seconds": 10 * 8 / 40 + 5 * 8 / 20, "pictures": 120}
    assert read_stage(tmp_path / "nowhere", 8) is None


def test_the_nearest_picture_tells_the_class():
    features = np.eye(4)
    drawn = features[[0, 1, 3, 2]] * 0.9
    assert class_agreement(drawn, np.arange(4), features, np.arange(4)) == 0.5


@pytest.fixture(scope="module")
def cards():
    source = CardSource(dataclasses.replace(tiny_config().data, num_validation=64), "validation")
    return np.stack([source[i]["image"][::2, ::2] for i in range(64)])


def features_of(images, extractor):
    made = FeatureSet("cards", extractor)
    made.add(images)
    return made


def test_random_features_tell_noise_and_lost_modes(cards, caplog):
    caplog.set_level(logging.ERROR)
    extractor, rng = RandomExtractor(16, batch_size=32), np.random.default_rng(0)
    assert extractor.fingerprint == RandomExtractor(16).fingerprint
    assert extractor.fingerprint != RandomExtractor(16, seed=1).fingerprint
    assert extractor.network is None
    real, others = features_of(cards[:32], extractor), cards[32:]
    noise = rng.standard_normal(others.shape)
    noisy = [np.clip(others + s * noise, 0, 255).astype(np.uint8) for s in (0, 16, 48)]
    few = [others[np.arange(32) % kept] for kept in (32, 8, 2)]
    for sets in (noisy, few):
        found = [compare_sets(features_of(images, extractor), real) for images in sets]
        name = extractor.name
        distances = [each[f"frechet_distance[{name}]"].value for each in found]
        assert distances == sorted(distances)
        assert distances[-1] > 1.3 * distances[0]
        coverages = [each[f"coverage[{name}]"].value for each in found]
        assert coverages[-1] < coverages[0]


def test_random_features_need_16_pixels():
    with pytest.raises(UserError, match="16 or more pixels a side, got 8"):
        RandomExtractor(8)(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="expected pictures of 16 x 16 pixels, got shape"):
        RandomExtractor(16)(np.zeros((1, 32, 32, 3), np.uint8))


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
        (["--compare", "{gan}", "{vae}", "--num-images", "5"], "expected more than k = 5"),
        (["--compare", "{gan}", "{vae}", "--num-images", "0"], "num_images: expected a whole"),
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


@pytest.mark.slow
def test_with_weights_of_inception_scores_have_published_names(gan_run, vae_run, tmp_path):
    file, out = tmp_path / "inception.npz", tmp_path / "out"
    whole = published_shapes() | {"fc.weight": (1008, 2048)}
    np.savez(file, **{name: ruled_weight(name, shape) for name, shape in whole.items()})
    runs = [str(gan_run), str(vae_run), "--num-images", "8", "--batch-size", "8"]
    command = ["evaluate", "--compare", *runs, "--inception", str(file), "--out", str(out)]
    assert main(command) == 0
    result = json.loads((out / "compare.json").read_text())
    assert result["features"] == "FID's Inception, resized as by PyTorch"
    published = {"gfid", "sfid", "kid", "inception_score", "precision", "recall", "density",
                 "coverage", "card_accuracy"}  # fmt: skip
    for row in (*result["runs"], result["perfect"]):
        assert set(row["scores"]) == published
    extractor = InceptionExtractor(read_inception(file), batch_size=8)
    source = CardSource(tiny_config().data, "validation")
    real = all_pictures(read_pictures(source, tiny_config().transform, 8, seed=0))
    drawn = igpt_jax.load_baseline(gan_run).sample(real.labels, seed=0)
    ours, theirs = (np.float64(extractor(x).pooled) for x in (drawn, real.images))
    mean = ((ours.mean(0) - theirs.mean(0)) ** 2).sum()
    a, b = (each - each.mean(0) for each in (ours, theirs))
    roots = np.linalg.svd(a @ b.T / 7, compute_uv=False).sum()
    expected = mean + (a**2).sum() / 7 + (b**2).sum() / 7 - 2 * roots
    found = result["runs"][0]["scores"]["gfid"]
    assert found["value"] == pytest.approx(expected, rel=0.02)  # the GAN rounds by batch
    assert "no more pictures than features (2048)" in found["note"]
    words = Reader((out / "compare.html").read_text()).text
    assert "FID of drawn pictures" in words
    assert "not FID" not in words


def test_broken_features_name_their_pictures(gan_run, vae_run, tmp_path, monkeypatch, capsys):
    class Broken(RandomExtractor):
        calls = 0

        def __call__(self, images):
            Broken.calls += 1
            found = np.array(super().__call__(images).pooled)
            found[3] = np.nan if Broken.calls == 4 else found[3]
            return Features(found)

    monkeypatch.setattr(comparison, "RandomExtractor", Broken)
    out = tmp_path / "out"
    runs = [str(gan_run), str(vae_run)]
    assert main(["evaluate", "--compare", *runs, "--num-images", "8", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "got others in image 3 of pictures of vae_run;" in error
    assert not out.exists()


def test_empty_folders_are_one_line(gan_run, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = (["--compare", str(gan_run), str(empty)], [str(empty), "--measure", "generation"],
             [str(empty), "--measure", "report"], [str(empty)])  # fmt: skip
    for arguments in asked:
        assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert str(empty) in lines[0]
    assert not (tmp_path / "out").exists()


def test_other_kinds_and_sizes_of_pictures_are_refused(gan_run):
    run = open_run(gan_run, 8)
    folder = dataclasses.replace(run, name="photos", data=FolderConfig("photos"))
    large = dataclasses.replace(run, name="large", transform=TransformConfig(image_size=64))
    for other, field in ((folder, "data.kind"), (large, "transform.")):
        with pytest.raises(UserError, match=f"{other.name}: expected the pictures of gan_run") as e:
            check_same_data([run, other])
        assert field in str(e.value)
