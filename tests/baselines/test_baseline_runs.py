"""A tiny GAN and a tiny VAE from end to end: trained, resumed, loaded, drawn, refused."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image

import igpt_jax
from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.model import BaselineModel
from igpt_jax.baselines.run import run_baseline
from igpt_jax.baselines.stored import load_baseline
from igpt_jax.cli import main
from igpt_jax.config import load_config_file
from igpt_jax.data.cards import CardSource
from igpt_jax.data.pairs import PairsConfig
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.testing import tiny_gan_config, tiny_vae_config, tiny_video_config
from igpt_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parent.parent.parent
KINDS = {"gan": tiny_gan_config, "vae": tiny_vae_config}
LAST = 8

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request):
    return request.param, request.getfixturevalue(f"{request.param}_run")


@pytest.fixture(scope="module")
def cards():
    source = CardSource(tiny_gan_config().data, "validation")
    items = [source[i] for i in range(6)]
    return np.stack([item["image"] for item in items]), [item["label"] for item in items]


def final_arrays(workdir):
    items = ocp.load_checkpointables(workdir / f"baseline/checkpoints/{LAST}")
    arrays = {name: items[name] for name in ("params", "ema_params", "optimizer")}
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_a_run_leaves_what_it_promises(trained):
    kind, workdir = trained
    for name in ("config.json", "samples.png", "baseline/samples-000004.png"):
        assert (workdir / name).exists(), name
    assert list((workdir / "baseline/tensorboard").glob("events*"))
    result = json.loads((workdir / "result.json").read_text())["result"]
    assert result["num_samples"] == 101
    assert 0 <= result["card_accuracy"] <= 1
    rows = read_metrics(workdir / "baseline", "train")
    assert [row["step"] for row in rows] == list(range(1, LAST + 1))
    names = {
        "gan": {"generator_loss", "discriminator_loss", "r1_penalty", "discriminator_grad_norm"},
        "vae": {"bits_per_dim", "pixel_nats", "kl_nats"},
    }
    assert names[kind] <= set(rows[0])
    assert all(math.isfinite(value) for name in names[kind] for value in [rows[-1][name]])
    measured = {"gan": "energy_distance", "vae": "bits_per_dim"}[kind]
    assert measured in result
    if kind == "vae":
        assert rows[-1]["loss"] < rows[0]["loss"]
        assert 0 < result["bits_per_dim"] < 12
    else:
        arrays = final_arrays(workdir)
        assert any("['params']['discriminator']" in name for name in arrays)
        assert not any("['ema_params']" in name and "discriminator" in name for name in arrays)


def test_a_run_that_goes_on_ends_with_the_same_bits(trained, tmp_path):
    kind, workdir = trained
    again = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(again / f"baseline/checkpoints/{LAST}")
    for name in ("result.json", "samples.png"):
        (again / name).unlink()
    run_baseline(KINDS[kind](), again)
    expected, got = final_arrays(workdir), final_arrays(again)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert (again / "samples.png").read_bytes() == (workdir / "samples.png").read_bytes()
    before = (again / "result.json").stat().st_mtime_ns
    run_baseline(KINDS[kind](), again)  # nothing is left to do
    assert (again / "result.json").stat().st_mtime_ns == before


def test_a_picture_depends_on_its_seed_and_class_alone(trained):
    model = igpt_jax.load_baseline(trained[1])
    assert isinstance(model, BaselineModel)
    whole = model.sample(np.arange(7), seed=3)
    assert whole.shape == (7, 32, 32, 3)
    assert whole.dtype == np.uint8
    parts = dataclasses.replace(model, batch_size=3).sample(np.arange(7), seed=3)
    np.testing.assert_allclose(parts.astype(int), whole.astype(int), atol=1)
    few = model.sample(np.arange(2), seed=3)
    np.testing.assert_allclose(few.astype(int), whole[:2].astype(int), atol=1)
    assert (model.sample(np.arange(7), seed=4) != whole).any()
    assert (model.sample(5, num_images=2)[0] != model.sample(5, num_images=2)[1]).any()


def test_losses_of_an_older_step_are_not_told_as_the_last(vae_run, tmp_path):
    workdir = shutil.copytree(vae_run, tmp_path / "run")
    (workdir / "result.json").unlink()
    path = workdir / "baseline/metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if json.loads(row)["step"] < LAST))
    with pytest.raises(UserError, match=f"delete baseline/checkpoints/{LAST}"):
        run_baseline(tiny_vae_config(), workdir)


def test_only_a_vae_bounds_a_likelihood(gan_run, vae_run, cards):
    images, labels = cards
    model = load_baseline(vae_run)
    bound = model.likelihood_bound(images, labels)
    assert bound.shape == (6,)
    bits = -bound.mean() / math.log(2) / (32 * 32 * 3)
    logged = read_metrics(vae_run / "baseline", "validation")[-1]["bits_per_dim"]
    assert bits == pytest.approx(logged, rel=0.02)  # of other pictures and latents
    parts = dataclasses.replace(model, batch_size=4).likelihood_bound(images, labels)
    np.testing.assert_allclose(parts, bound, rtol=1e-5)
    others = model.likelihood_bound(images, labels, seed=1)
    assert (others != bound).all()
    np.testing.assert_allclose(others, bound, rtol=0.02)
    with pytest.raises(UserError, match="got a GAN, which has no likelihood"):
        load_baseline(gan_run).likelihood_bound(images, labels)
    with pytest.raises(UserError, match=r"expected uint8 of shape \(b, 32, 32, 3\)"):
        model.likelihood_bound(images[:, :16], labels)


def test_sample_command(trained, tmp_path, capsys):
    out = tmp_path / "cards.npz"
    arguments = ["sample", str(trained[1]), "--labels", "7,42", "--seed", "1", "--out", str(out)]
    assert main(arguments) == 0
    with np.load(out) as arrays:
        assert arrays["images"].shape == (2, 32, 32, 3)
        assert arrays["label"].tolist() == [7, 42]
        drawn = load_baseline(trained[1]).sample([7, 42], seed=1)
        np.testing.assert_array_equal(arrays["images"], drawn)
    picture = tmp_path / "cards.png"
    assert main(["sample", str(trained[1]), "--labels", "7-9", "--out", str(picture)]) == 0
    made_by = json.loads(Image.open(picture).text["igpt_jax"])["images"]
    assert [entry["label"] for entry in made_by] == [7, 8, 9]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "{run}"], "labels: expected classes 0 to 100, got none"),
        (["sample", "{run}", "--labels", "101"], "classes 0 to 100, got 101 to 101"),
        (
            ["sample", "{run}", "--labels", "1", "--temperature", "0"],
            "--temperature: expected none",
        ),
        (["sample", "{run}", "--labels", "1", "--cfg-scale", "2"], "--cfg-scale: expected none"),
        (["sample", "{run}", "--labels", "1", "--text", "seven"], "--text: expected none"),
        (["sample", "{run}", "--labels", "1", "--out", "x.gif"], "suffix .gif"),
        (["encode", "{config}"], "expected a run with a tokenizer, got another kind of config"),
        (["train", "{config}", "--seed", "7", "--workdir", "{run}"], "another seed"),
        (["train", "{config}", "--model.class_factors", "3", "3"], "class_factors"),
        (
            ["train", "{config}", "--model.num_classes", "99", "--workdir", "{new}"],
            "num_classes: expected the data's 101",
        ),
        (["train", "{config}", "--model.image_size", "64", "--workdir", "{new}"], "the model's 64"),
        (["train", "{config}", "--model.r1_share", "2", "--workdir", "{new}"], "r1_share"),
        (["train", "{config}", "--model.loss", "square", "--workdir", "{new}"], "square"),
        (
            ["train", "{config}", "--training.global_batch_size", "32", "--workdir", "{new}"],
            "training.global_batch_size: expected at most 16",
        ),
        (["train", "{gpt}", "--workdir", "{run}"], "expected the config that its run started with"),
    ],
)
def test_wrong_input_is_one_line(arguments, words, gan_run, tmp_path, capsys):
    config = tmp_path / "tiny.py"
    config.write_text("from igpt_jax.testing import tiny_gan_config as get_config\n")
    places = {
        "run": gan_run,
        "config": config,
        "new": tmp_path / "new",
        "gpt": REPOSITORY / "configs/debug.py",
    }
    assert main([argument.format(**places) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert not (tmp_path / "new").exists()


def test_a_gpt_and_a_baseline_are_not_mistaken_for_each_other(gan_run, tiny_run, tmp_path):
    with pytest.raises(UserError, match=r"got a GAN or VAE; igpt_jax.load_baseline\(DIR\)"):
        igpt_jax.load(gan_run)
    for directory in (tiny_run, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="expected the run of a GAN or VAE, found none"):
            load_baseline(directory)


def test_data_that_a_baseline_cannot_draw_is_refused():
    for data in (tiny_video_config().data, PairsConfig("nowhere")):
        with pytest.raises(UserError, match="data: expected single pictures"):
            tiny_gan_config(data=data)


@pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))
def test_config_survives_json(make):
    config = make()
    assert from_dict(BaselineConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("configs/*_[gv]a[ne].py")), ids=lambda path: path.stem
)
def test_every_config_builds(path, monkeypatch):
    from igpt_jax.baselines.stored import drawing_shapes

    monkeypatch.setenv("IGPT_DATA", "/nowhere")
    config = load_config_file(path)
    assert isinstance(config, BaselineConfig)
    assert from_dict(BaselineConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert jax.tree.leaves(drawing_shapes(config.model))
