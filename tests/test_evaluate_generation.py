"""What a tiny run draws, measured by command, and the page of all that was measured."""

import json
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.asking import Reader, Request
from igpt_jax.cli import main
from igpt_jax.data.cards import CardSource
from igpt_jax.data.transforms import transform
from igpt_jax.errors import UserError
from igpt_jax.evaluation import extractors, i3d
from igpt_jax.evaluation.extractors import Features
from igpt_jax.evaluation.references import read_reference
from igpt_jax.evaluation.run_extractors import GPTExtractor, TokenizerExtractor
from igpt_jax.measuring import features as measuring_features
from igpt_jax.measuring.features import choose_extractor
from igpt_jax.measuring.generation import evaluate_generation
from igpt_jax.measuring.report import write_report
from igpt_jax.testing import tiny_config
from igpt_jax.tokenizers.palette import Palette, PaletteConfig
from igpt_jax.training.metrics import read_metrics

pytestmark = pytest.mark.xdist_group("reconstruction")  # which trains the same run


@pytest.fixture(scope="module")
def model(tiny_run):
    return igpt_jax.load(tiny_run)


@pytest.fixture(scope="module")
def cards():
    config, generator = tiny_config(), np.random.default_rng(0)
    source = CardSource(config.data, "validation")
    return np.stack(
        [transform(config.transform, source[i]["image"], generator) for i in range(len(source))]
    )


@pytest.fixture(scope="module")
def measured(tiny_run, tmp_path_factory):
    """A directory with the measures of a run and their page."""
    out = tmp_path_factory.mktemp("measured")
    keep = ["--save-reference", str(out / "cards.npz")]
    command = ["evaluate", str(tiny_run), "--measure", "generation", "--num-images", "20"]
    assert main([*command, *keep, "--batch-size", "8", "--out", str(out)]) == 0
    return out


def result_of(out):
    return json.loads((out / "generation.json").read_text())


def test_scores_are_of_the_runs_own_features(measured, tiny_run):
    result, name = result_of(measured), f"tokenizer of {tiny_run}"
    score = result[f"frechet_distance[{name}]"]
    assert (score["num_generated"], score["num_real"]) == (20, 16)
    assert (score["features"], score["against"]) == (name, "cards, validation split")
    assert score["value"] > 0
    assert "gfid" not in result
    for measure in ("precision", "recall", "coverage"):
        assert 0 <= result[f"{measure}[{name}]"]["value"] <= 1


def test_likelihood_is_what_the_run_logged(measured, tiny_run):
    likelihood = result_of(measured)["likelihood"]
    last = read_metrics(tiny_run / "gpt", "validation")[-1]
    assert likelihood["nats_per_token"] == last["loss"]
    assert likelihood["bits_per_dim"] == pytest.approx(last["loss"] * 16 / np.log(2) / 32**2 / 3)
    assert likelihood["num_images"] == 8


def test_the_real_side_is_every_card_of_the_split(measured, model, cards):
    """The stored statistics are those of the tokenizer's latents, by hand."""
    pixels = jnp.asarray(cards, jnp.float32) / 127.5 - 1
    variables = {"params": model.tokenizer_params}
    latents = model.tokenizer.apply(variables, pixels, method="latents")
    pooled = np.asarray(latents, np.float64).mean((1, 2))
    reference = read_reference(measured / "cards.npz")
    assert reference.count == 16
    np.testing.assert_allclose(reference.pooled.mean, pooled.mean(0), rtol=1e-4, atol=1e-5)
    expected = np.cov(pooled, rowvar=False)
    np.testing.assert_allclose(reference.pooled.covariance, expected, rtol=1e-3, atol=1e-5)


def test_kept_statistics_give_the_same_distance(measured, tiny_run, tmp_path):
    again = evaluate_generation(
        tiny_run, num_images=20, batch_size=8, reference=measured / "cards.npz", num_train=8,
        out=tmp_path,
    )  # fmt: skip
    first = result_of(measured)
    name = f"frechet_distance[tokenizer of {tiny_run}]"
    assert again[name]["value"] == pytest.approx(first[name]["value"], rel=1e-6)
    assert again["memorisation"]["num_train"] == 8
    assert first["memorisation"]["num_train"] == 64


@pytest.mark.slow
def test_drawn_pictures_do_not_depend_on_the_batch(measured, tiny_run, tmp_path):
    again = evaluate_generation(tiny_run, num_images=20, batch_size=5, out=tmp_path)
    for name, score in result_of(measured).items():
        if isinstance(score, dict) and "value" in score:  # the decoder rounds by batch size
            assert again[name]["value"] == pytest.approx(score["value"], rel=0.02, abs=1e-3), name


def test_nearest_training_cards_are_shown(measured):
    result = result_of(measured)["memorisation"]
    distances = np.array(result["shown_distances"])
    assert distances.shape == (8, 7)
    assert (np.diff(distances, axis=1) >= 0).all()
    with Image.open(measured / "neighbours.png") as picture:
        assert picture.size[0] == pytest.approx(picture.size[1], abs=4)  # 8 rows of 1 + 7


@pytest.mark.parametrize(
    "features", ["gpt", pytest.param("tokenizer_grid", marks=pytest.mark.slow)]
)
def test_other_features(features, tiny_run, tmp_path):
    result = evaluate_generation(
        tiny_run, num_images=8, batch_size=8, features=features, num_train=8, out=tmp_path
    )
    names = {"gpt": f"layer 1 of 2, GPT of {tiny_run}",
             "tokenizer_grid": f"tokenizer of {tiny_run}, flattened"}  # fmt: skip
    score = result[f"frechet_distance[{names[features]}]"]
    assert np.isfinite(score["value"])
    assert "biased upwards: no more pictures than features" in score["note"]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_features_of_a_gpts_layer_are_those_of_the_model(model, cards, layer):
    """The extractor runs no block behind its layer; the model runs all."""
    null = Reader(model.gpt.config, None, None, (), 8).read(Request(), 1)
    parts = (model.gpt, model.params, model.tokenizer, model.tokenizer_params, null, "here")
    extractor = GPTExtractor(*parts, layer=layer)
    expected = model.features(cards[:3])[:, layer or 1]
    np.testing.assert_allclose(extractor(cards[:3]).pooled, expected, atol=1e-5)


@pytest.mark.slow
def test_a_video_run_is_measured_by_whole_videos(video_run, tmp_path):
    result = evaluate_generation(video_run, num_images=8, batch_size=8, num_train=8, out=tmp_path)
    score = result[f"frechet_distance[tokenizer of {video_run}]"]
    assert np.isfinite(score["value"])
    model = igpt_jax.load(video_run)
    source = TokenizerExtractor(model.tokenizer, model.tokenizer_params, "here", batch_size=2)
    videos = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    found, backwards = source(videos).pooled, source(videos[:, ::-1]).pooled
    frames = source(videos[:, 1]).pooled
    assert found.shape == (2, 4 * frames.shape[1])
    np.testing.assert_allclose(np.split(found, 4, axis=1)[1], frames, atol=1e-5)
    assert np.abs(found - backwards).max() > 1e-3  # the order of frames matters


@pytest.mark.slow
def test_a_run_is_asked_by_the_splits_captions_and_pictures(asked_run, tmp_path):
    result = evaluate_generation(
        asked_run, num_images=8, batch_size=8, num_train=8, features="gpt", out=tmp_path
    )
    score = result[f"frechet_distance[layer 1 of 2, GPT of {asked_run}]"]
    assert np.isfinite(score["value"])
    last = read_metrics(asked_run / "gpt", "validation")[-1]
    assert result["likelihood"]["nats_per_caption_token"] == last["caption_nats"]


def test_other_fingerprints_of_other_parameters(model):
    params = model.tokenizer_params
    plain, flat = (TokenizerExtractor(model.tokenizer, params, "x", f) for f in (False, True))
    other = TokenizerExtractor(model.tokenizer, jax.tree.map(lambda x: x + 1, params), "x")
    again = TokenizerExtractor(model.tokenizer, params, "y", batch_size=3)
    assert len({each.fingerprint for each in (plain, flat, other)}) == 3
    assert again.fingerprint == plain.fingerprint


def test_a_palette_has_no_latents():
    with pytest.raises(UserError, match="expected a tokenizer with latents, got Palette"):
        TokenizerExtractor(Palette(PaletteConfig(8, 4)), {}, "here")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--reference", "nowhere.npz"], "nowhere.npz: expected a file, found none"),
        (["--inception", "nowhere.npz"], "nowhere.npz"),
        (["--features", "inception"], "expected inception or i3d with its weights"),
        (["--features", "gpt", "--inception", "w.npz"], "with its weights, or other features"),
        (["--features", "i3d", "--inception", "w.npz"], "got i3d and w.npz"),
        (["--i3d", "w.npz"], "i3d: expected a run of videos, got one of pictures; leave it out"),
        (["--i3d", "w.npz", "--inception", "w.npz"], "got both; leave one out"),
        (["--measure", "retrieval", "--i3d", "w.npz"], "expected none of --i3d, --clip"),
        (["--resize", "pytorch"], "resize: expected none without Inception or I3D"),
        (["--num-images", "0"], "num_images: expected a whole number of at least 1"),
        (["--num-images", "3"], "num_images: expected more than k = 5"),
        (["--num-train", "0"], "num_train"),
        (["--save-reference", "out.txt"], "ends in .npz"),
        (["--measure", "tokenizer", "--num-train", "3"], "which are of --measure generation"),
    ],
)
def test_wrong_requests_are_one_line(tiny_run, tmp_path, arguments, word, capsys):
    command = ["evaluate", str(tiny_run), "--measure", "generation", "--out", str(tmp_path)]
    assert main([*command, *arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert word in error[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"inception": "w.npz", "num_frames": 9}, "inception: expected a run of pictures, got one"),
        ({"i3d": "w.npz", "num_frames": 8}, "i3d: expected videos of 9 or more frames"),
        ({"i3d": "w.npz", "num_frames": 9}, "w.npz: expected a file, found none"),
        ({"i3d": "w.npz", "num_frames": 9, "features": "gpt"}, "with its weights, or other"),
        ({"num_frames": 9, "features": "i3d"}, "got i3d and no weights; give or leave out"),
    ],
)
def test_weights_are_of_what_is_compared(asked, words):
    with pytest.raises(UserError, match=words) as caught:
        choose_extractor(**{"inception": None, **asked}, others={"gpt": pytest.fail})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_a_video_runs_fvd_and_its_kept_statistics(video_run, tmp_path, monkeypatch):
    """All but the network, in whose place are mean colours of frames."""

    def colours(resize, params, videos):
        level = params["level"] + (10 if resize == "pytorch" else 0)
        return Features((videos.mean((2, 3)) + level).reshape(len(videos), -1))

    monkeypatch.setattr(extractors, "_i3d", colours)

    def read(source):
        return {"level": np.float32(len(source))}

    monkeypatch.setattr(measuring_features, "read_i3d", read)
    monkeypatch.setattr(i3d, "MIN_FRAMES", 4)  # so many have the videos of this run
    out, kept = tmp_path / "out", tmp_path / "kept.npz"
    command = ["evaluate", str(video_run), "--measure", "generation", "--num-images", "8"]
    command += ["--num-train", "8", "--out", str(out)]
    assert main([*command, "--i3d", "w", "--resize", "pytorch", "--save-reference", str(kept)]) == 0
    result, name = result_of(out), "FVD's I3D, 4 frames, resized as by PyTorch"
    score = result["fvd"]
    assert (score["features"], score["num_generated"], score["num_real"]) == (name, 8, 16)
    assert score["value"] > 0
    assert f"precision[{name}]" in result
    assert not {"gfid", "kid", "precision", "inception_score"} & set(result)
    _, words = page_of(out / "report.html")
    assert "FVD of drawn videos" in words
    # A reference says how frames were resized; other weights are refused.
    asked = {"num_images": 8, "num_train": 8, "reference": kept, "out": out}
    again = evaluate_generation(video_run, i3d="w", **asked)
    assert again["fvd"]["value"] == pytest.approx(score["value"], rel=1e-6)
    with pytest.raises(UserError, match=f"got those of {name} with other weights"):
        evaluate_generation(video_run, i3d="other", **asked)
    with pytest.raises(UserError, match=f"expected statistics of tokenizer.*got those of {name}"):
        evaluate_generation(video_run, **asked)


def test_published_statistics_are_refused_for_other_features(tiny_run, tmp_path):
    path = tmp_path / "published.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UserError, match="got published ones, which are of FID's Inception"):
        evaluate_generation(tiny_run, reference=path, out=tmp_path)


class Page(HTMLParser):
    """What a page says, and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.words, self.asked, self.open, self.counts = [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta", "img", "line", "circle", "polyline", "br"):
            self.open.append(tag)
        self.asked += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag):
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(path):
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert all(asked.startswith("data:image/png;base64,") for asked in page.asked)
    assert not re.search(r"url\(|@import|<script|<link", text)
    return page, " ".join(" ".join(page.words).split())


def test_the_page_has_all_that_was_measured(measured, tiny_run, tmp_path):
    for path in (*measured.glob("*.json"), *measured.glob("*.png")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    main(["evaluate", str(tiny_run), "--num-images", "4", "--out", str(tmp_path)])
    extra = {"measure": "fancy", "share": 0.25, "<b>": {"in": "<i>&"}, "nothing": None}
    (tmp_path / "fancy.json").write_text(json.dumps(extra))
    page, words = page_of(write_report(tiny_run, tmp_path))
    result = result_of(tmp_path)
    score = result[f"frechet_distance[tokenizer of {tiny_run}]"]
    for told in (f"{score['value']:.4g}", "cards, validation split", "PSNR of reconstructions, dB",
                 "Fancy", "0.25", "<i>&", "ratio of the medians", "nats a token",
                 "Training: GPT", "bits per dim"):  # fmt: skip
        assert told in words, told
    assert page.counts["img"] == len(page.asked) == 4
    assert page.counts["svg"] >= 6


def test_the_page_of_a_run_that_is_not_measured(tiny_run, tmp_path):
    page, words = page_of(write_report(tiny_run, tmp_path / "new"))
    assert "Nothing is measured yet" in words
    assert page.counts["img"] == 1  # the samples of its end


def test_the_page_of_no_run_and_of_damaged_files(tiny_run, tmp_path, capsys):
    with pytest.raises(UserError, match="expected the directory of a run"):
        write_report(tmp_path)
    (tmp_path / "retrieval.json").write_text("{")
    assert main(["evaluate", str(tiny_run), "--measure", "report", "--out", str(tmp_path)]) == 2
    assert "retrieval.json: expected JSON, got a damaged file" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
