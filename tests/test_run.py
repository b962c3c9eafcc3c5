"""A whole tiny run from end to end, and what a user can do with it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.config import RunConfig, load_config_file
from igpt_jax.data.cards import CardSource
from igpt_jax.data.sources import ArrayConfig
from igpt_jax.errors import UserError
from igpt_jax.model_config import build_tokenizer
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.gpt import GPT
from igpt_jax.parameters import generator_inputs, tokenizer_input
from igpt_jax.run import run
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.testing import tiny_config
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.tokenizers.palette import PaletteConfig
from igpt_jax.tokenizers.quantizers import MovingAverageQuantizerConfig

REPOSITORY = Path(__file__).parent.parent
CARD = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tiny_run):
    return igpt_jax.load(tiny_run)


@pytest.fixture(scope="module")
def cards():
    source = CardSource(tiny_config().data, "validation")
    items = [source[i] for i in range(6)]
    return np.stack([item["image"] for item in items]), [item["label"] for item in items]


def test_every_stage_leaves_what_it_promises(tiny_run):
    for name in (
        "config.json", "result.json", "samples.png", "tokenizer/metrics.jsonl",
        "tokenizer/reconstructions-000004.png", "gpt/samples-000008.png", "gpt/checkpoints/8",
        "tokens/train/header.json", "tokens/validation/check.png",
    ):  # fmt: skip
        assert (tiny_run / name).exists(), name
    assert list((tiny_run / "gpt/tensorboard").glob("events*"))
    result = json.loads((tiny_run / "result.json").read_text())["result"]
    assert result["num_samples"] == 101
    assert 0 <= result["card_accuracy"] <= 1
    assert result["nats_per_token"] < 1.2 * np.log(24)


def test_a_finished_run_does_nothing_again(tiny_run):
    before = {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*") if p.is_file()}
    run(tiny_config(), tiny_run)
    after = {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*") if p.is_file()}
    assert {p.name for p in after if before.get(p) != after[p]} <= {"config.json"}


@pytest.mark.parametrize(("stage", "last_stage"), [("gpt", "samples"), ("tokenizer", "tokenizer")])
@pytest.mark.parametrize("has_rows", [True, False])
def test_losses_of_an_older_step_are_not_told_as_the_last(
    tiny_run, tmp_path, stage, last_stage, has_rows
):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    (workdir / "result.json").unlink()
    path = workdir / stage / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if json.loads(row)["step"] < 8))
    if not has_rows:
        path.unlink()
    with pytest.raises(UserError, match=f"delete {stage}/checkpoints/8") as raised:
        run(tiny_config(last_stage=last_stage), workdir)
    assert "\n" not in str(raised.value)


def test_another_config_in_the_same_directory_is_refused(tiny_run):
    with pytest.raises(UserError, match=r"another seed; use another --workdir"):
        run(tiny_config(seed=7), tiny_run)


def test_sample_encode_decode_log_likelihood(model, cards):
    images, labels = cards
    drawn = model.sample(labels=[7, 42], seed=0)
    assert drawn.shape == (2, 32, 32, 3)
    assert drawn.dtype == np.uint8
    tokens = model.encode(images)
    assert tokens.shape == (6, 16)
    assert tokens.dtype == np.int32
    decoded = model.decode(tokens)
    assert decoded.shape == images.shape
    nats = model.log_likelihood(images, labels=labels)
    assert nats.shape == (6,)
    assert nats.dtype == np.float32
    assert (nats < 0).all()


def test_log_likelihood_is_the_sum_over_the_chain_rule(model, cards):
    """p(tokens) from the sampler's own decode steps equals the one-pass likelihood."""
    images, labels = cards
    tokens, ids = model.encode(images), jnp.asarray(labels, jnp.int32)
    variables = {"params": model.params}
    cache = init_kv_cache(model.gpt.config, len(tokens))
    empty = jnp.zeros((len(tokens), 0), jnp.int32)
    logits, cache = model.gpt.apply(variables, empty, ids, cache, method="prefill")
    step = jax.jit(lambda t, c: model.gpt.apply(variables, t, c, method="decode_step"))
    total = np.zeros(len(tokens))
    for i in range(tokens.shape[1]):
        total += np.asarray(jax.nn.log_softmax(logits))[np.arange(len(tokens)), tokens[:, i]]
        if i + 1 < tokens.shape[1]:
            logits, cache = step(jnp.asarray(tokens[:, i]), cache)
    np.testing.assert_allclose(model.log_likelihood(images, labels), total, rtol=1e-4)


def test_requests_larger_than_a_batch_give_the_same_pictures(model):
    labels = jnp.arange(7)
    small, sampling = dataclasses.replace(model, batch_size=3), model.config.sampling
    whole = model.sample_tokens(labels, 7, sampling, seed=3)
    np.testing.assert_array_equal(small.sample_tokens(labels, 7, sampling, seed=3), whole)
    np.testing.assert_array_equal(model.sample_tokens(labels[:2], 2, sampling, seed=3), whole[:2])
    # The decoder's convolutions round by batch size: a pixel may differ by one step of 256.
    pictures = [each.sample(np.arange(7), seed=3).astype(int) for each in (model, small)]
    np.testing.assert_allclose(*pictures, atol=1)


def test_completion_keeps_the_upper_tokens(model, cards):
    images, labels = cards
    drawn = model.sample(labels, images=images, keep=0.5, seed=1)
    assert drawn.shape == images.shape
    whole = model.encode(images)
    ids, upper = jnp.asarray(labels, jnp.int32), np.tile(np.arange(16) < 8, (6, 1))
    tokens = model.sample_tokens(ids, 6, model.config.sampling, 1, (whole, upper))
    np.testing.assert_array_equal(tokens[:, :8], whole[:, :8])
    assert (tokens[:, 8:] != whole[:, 8:]).any()
    np.testing.assert_array_equal(model.decode(tokens), drawn)


@pytest.mark.parametrize("part", ["left", "right", "centre", "scattered", "all", "none"])
def test_a_mask_keeps_every_token_outside_of_it(part, model, cards):
    images, labels = cards
    mask = np.zeros((32, 32), bool)
    areas = {"left": np.s_[:, :16], "right": np.s_[:, 16:], "centre": np.s_[8:24, 8:24],
             "scattered": np.s_[::9, ::9], "all": np.s_[:], "none": np.s_[:0]}  # fmt: skip
    mask[areas[part]] = True
    drawn = model.sample(labels, images=images, mask=mask, seed=1)
    whole = model.encode(images)
    is_new = mask.reshape(4, 8, 4, 8).any(axis=(1, 3)).reshape(-1)
    known = whole, np.tile(~is_new, (6, 1))
    tokens = model.sample_tokens(jnp.asarray(labels, jnp.int32), 6, model.config.sampling, 1, known)
    np.testing.assert_array_equal(tokens[:, ~is_new], whole[:, ~is_new])
    assert (tokens[:, is_new] != whole[:, is_new]).any() == is_new.any()
    np.testing.assert_array_equal(model.decode(tokens), drawn)


def test_best_of_takes_the_most_probable_candidate(model):
    labels, sampling = jnp.asarray([3, 7, 9], jnp.int32), model.config.sampling
    nats = []
    for count in (1, 2, 5):
        tokens = model.sample_tokens(labels, 3, sampling, seed=2, best_of=count)
        logits = model.gpt.apply({"params": model.params}, jnp.asarray(tokens[:, :-1]), labels)
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        nats.append(np.take_along_axis(log_probs, tokens[..., None], axis=-1).sum(axis=(1, 2)))
    assert (nats[1] >= nats[0]).all()
    assert (nats[2] >= nats[1]).all()
    assert (nats[2] > nats[0]).any()
    drawn = model.sample([3, 7, 9], seed=2, best_of=5)
    np.testing.assert_array_equal(drawn, model.decode(tokens))


def test_negative_labels_lead_away(model):
    # So much guidance, since eight steps of training teach little of the classes.
    away = model.sample([3, 7], seed=1, cfg_scale=1e4, negative_labels=[5, 6])
    assert (away != model.sample([3, 7], seed=1, cfg_scale=1e4)).any()
    same = model.sample([3, 7], seed=1, cfg_scale=1e4, negative_labels=[3, 7])
    np.testing.assert_array_equal(same, model.sample([3, 7], seed=1, cfg_scale=1.0))


def test_masks_of_single_pictures_and_pictures_of_another_size(model, cards):
    images, labels = cards
    masks = np.zeros((6, 32, 32), bool)
    masks[0], masks[1, :, 16:] = True, True
    size = model.sample(labels, images=images, mask=masks, image_size=24)
    assert size.shape == (6, 24, 24, 3)
    drawn = model.sample(labels, images=images, mask=masks)
    np.testing.assert_array_equal(drawn[2:], model.decode(model.encode(images))[2:])
    assert not np.array_equal(drawn[0], model.decode(model.encode(images))[0])


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({"labels": [101]}, "0 to 100"),
        ({"labels": "seven"}, "whole numbers"),
        ({"labels": [-1]}, "0 to 100"),
        ({"labels": [0.5]}, "whole numbers"),
        ({"labels": [1, 2], "num_images": 3}, "one number of pictures"),
        ({"num_images": 0}, "at least 1"),
        ({"labels": [1], "temperature": -1.0}, "temperature"),
        ({"labels": [1], "top_p": 0.0}, "top_p"),
        ({"labels": [1], "text": "a card"}, "not text-conditional"),
        ({"labels": [1], "mask": np.ones((32, 32), bool)}, "pass images"),
        ({"images": CARD, "mask": np.ones((16, 16), bool)}, "mask: expected the shape"),
        ({"images": CARD, "mask": np.full((32, 32), 0.5)}, "true and false"),
        ({"labels": [1], "image_size": 0}, "image_size"),
        ({"labels": [1], "best_of": 0}, "best_of"),
        ({"labels": [1], "negative_labels": [2], "cfg_scale": 1.0}, "expected guidance"),
        ({"labels": [1], "negative_labels": [200], "cfg_scale": 2.0}, "0 to 100"),
        ({"images": np.zeros((1, 8, 8, 3), np.uint8)}, "32, 32, 3"),
        ({"images": np.zeros((1, 32, 32, 3), np.float32)}, "uint8"),
        ({"images": np.zeros((1, 32, 32, 3), np.uint8), "keep": 1.0}, "keep"),
    ],
)
def test_requests_that_cannot_be_met_say_why(model, request_, word):
    with pytest.raises(UserError, match=word):
        model.sample(**request_)


def test_tokens_that_do_not_exist_are_refused(model):
    with pytest.raises(UserError, match="0 to 23"):
        model.decode(np.full((1, 16), 24))
    with pytest.raises(UserError, match=r"\(b, 16\)"):
        model.decode(np.zeros((1, 15), np.int32))


def test_sample_command_writes_grid_files_and_arrays(tiny_run, tmp_path, capsys):
    base = ["sample", str(tiny_run), "--labels", "3,5-6", "--seed", "4", "--top-k", "5"]
    assert main([*base, "--out", str(tmp_path / "grid.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"out": str(tmp_path / "grid.png"), "num_images": 3}
    with Image.open(tmp_path / "grid.png") as picture:
        info = json.loads(picture.info["igpt_jax"])["images"]
    assert [(i["seed"], i["index"], i["label"], i["top_k"]) for i in info] == [
        (4, 0, 3, 5), (4, 1, 5, 5), (4, 2, 6, 5),
    ]  # fmt: skip
    assert main([*base, "--out", str(tmp_path / "files")]) == 0
    assert main([*base, "--out", str(tmp_path / "arrays.npz")]) == 0
    with np.load(tmp_path / "arrays.npz") as file:
        arrays = dict(file)
    assert arrays["label"].tolist() == [3, 5, 6]
    for i in range(3):
        with Image.open(tmp_path / f"files/{i:05d}.png") as picture:
            np.testing.assert_array_equal(picture, arrays["images"][i])
            assert json.loads(picture.info["igpt_jax"])["index"] == i


def test_sample_command_completes_a_picture(tiny_run, tmp_path):
    path = tmp_path / "card.png"
    Image.new("RGB", (50, 40), "white").save(path)
    out = tmp_path / "out.png"
    assert main(["sample", str(tiny_run), "--image", str(path), "--out", str(out)]) == 0
    assert out.exists()


def test_encode_command_writes_the_tokens_of_the_run(tiny_run, tmp_path, capsys):
    """Without its tokens, and without a GPT, a run's tokenizer gives the same ones again."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run / "tokenizer", workdir / "tokenizer")
    shutil.copy(tiny_run / "config.json", workdir)
    config = str(REPOSITORY / "configs/debug.py")
    assert main(["encode", config, "--workdir", str(workdir), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"workdir": str(workdir), "train": 64, "validation": 16}
    assert not (workdir / "gpt").exists()
    for name in ("tokens-00000.npy", "labels-00000.npy"):
        expected = np.load(tiny_run / "tokens/train" / name)
        np.testing.assert_array_equal(np.load(workdir / "tokens/train" / name), expected)
    header = json.loads((workdir / "tokens/train/header.json").read_text())
    assert (header["num_examples"], header["num_skipped"]) == (64, 0)
    assert header["preprocessing"]["image_size"] == 32


def test_other_settings_of_the_last_stage_are_drawn(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    samples = dataclasses.replace(tiny_config().samples, num_per_class=2)
    result = run(tiny_config(samples=samples), workdir)
    assert result["num_samples"] == 202


def test_a_gpt_of_another_tokenizer_is_refused(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    path = workdir / "gpt/checkpoints/8/_CHECKPOINT_METADATA"
    found = json.loads(path.read_text())["custom_metadata"]["tokenizer_hash"]
    path.write_text(path.read_text().replace(found, "0" * 64))
    with pytest.raises(UserError, match="expected the tokenizer 000000000000"):
        igpt_jax.load(workdir)
    with pytest.raises(UserError, match="expected the tokenizer 000000000000"):
        run(tiny_config(), workdir)


def test_mirrored_views_and_ten_crops_are_written(tmp_path):
    from igpt_jax.data.encode import EncodingConfig, make_views

    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    preparation = dataclasses.replace(tiny_config().transform, crop="center")
    one = make_views(EncodingConfig(), preparation, image)
    mirrored = make_views(EncodingConfig(views="mirrored"), preparation, image)
    ten = make_views(EncodingConfig(views="ten_crop"), preparation, image)
    assert (one.shape, mirrored.shape, ten.shape) == tuple((n, 32, 32, 3) for n in (1, 2, 10))
    np.testing.assert_array_equal(mirrored, [one[0], one[0][:, ::-1]])
    np.testing.assert_array_equal(ten[5:9, :, ::-1], ten[[1, 0, 3, 2]])  # the corners


def test_a_palette_run_without_classes(tmp_path):
    """iGPT's way: pixels as palette colours, a start vector, learned positions."""
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    base = tiny_config()
    config = dataclasses.replace(
        base,
        data=ArrayConfig(str(tmp_path / "data.npz"), validation_count=8),
        transform=dataclasses.replace(base.transform, image_size=8),
        tokenizer=PaletteConfig(image_size=8, num_colors=16),
        gpt=dataclasses.replace(
            base.gpt, num_classes=0, class_factors=(), positions="learned",
            activation="sigmoid_gelu",
        ),
        samples=dataclasses.replace(base.samples, num_images=4),
    )  # fmt: skip
    result = run(config, tmp_path / "run")
    assert result["num_samples"] == 4
    model = igpt_jax.load(tmp_path / "run")
    assert model.sample(num_images=3).shape == (3, 8, 8, 3)
    assert model.log_likelihood(images[:2]).shape == (2,)


def test_config_survives_json():
    config = tiny_config().resolved()
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


# tests/baselines and test_finetuning have theirs.
OTHERS = {
    path for end in ("gan", "vae", "finetune") for path in REPOSITORY.glob(f"configs/*_{end}.py")
}


@pytest.mark.parametrize(
    "path", sorted(set(REPOSITORY.glob("configs/*.py")) - OTHERS), ids=lambda p: p.stem
)
def test_every_config_builds_and_traces_one_step(path, monkeypatch):
    monkeypatch.setenv("IGPT_DATA", "/nowhere")
    config = load_config_file(path).resolved()
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
    gpt, tokenizer = GPT(config.gpt), build_tokenizer(config.tokenizer)
    key = jax.random.key(0)
    jax.eval_shape(lambda: tokenizer.init(key, tokenizer_input(tokenizer)))
    logits = jax.eval_shape(lambda: gpt.init_with_output(key, *generator_inputs(gpt))[0])
    assert logits.shape == (1, config.gpt.seq_len, config.gpt.head_size)


def test_import_is_light():
    code = (
        "import sys, igpt_jax; igpt_jax.load; "
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_adversaries_and_codebooks_that_cannot_be_trained_are_refused():
    tiny = tiny_config()
    moving = dataclasses.replace(tiny.tokenizer, quantizer=MovingAverageQuantizerConfig(16, 4))
    for changes, words in (
        (
            {"tokenizer": PaletteConfig(32), "adversary": AdversaryConfig()},
            "no tokenizer is trained",
        ),
        ({"tokenizer_path": "x", "adversary": AdversaryConfig()}, "no tokenizer is trained"),
        ({"tokenizer": PaletteConfig(32), "tokenizer_start": "x"}, "a palette is not trained"),
        (
            {"adversary": AdversaryConfig(PatchDiscriminatorConfig(num_layers=5))},
            "adversary.discriminator: expected images of 96 or more",
        ),
        (
            {
                "tokenizer": moving,
                "tokenizer_training": dataclasses.replace(
                    tiny.tokenizer_training, accumulation_steps=2
                ),
            },
            "restart_below: expected 0",
        ),
    ):
        with pytest.raises(UserError, match=words):
            tiny_config(**changes)
