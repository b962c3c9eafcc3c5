"""Fine-tuning: the head against NumPy, the joint loss against its parts, a run from end to end."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.config import load_config_file
from igpt_jax.data.few import few_of_each_class
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.sources import open_source
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError
from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.finetuning.head import ClassHead, HeadConfig
from igpt_jax.finetuning.run import run_finetuning
from igpt_jax.finetuning.task import Frozen, Parts, answer, class_loss, finetune_task
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.metrics import read_metrics
from igpt_jax.training.optimizer import OptimizerConfig

REPOSITORY = Path(__file__).parent.parent
COLOURS = {"blue": (40, 40, 220), "green": (40, 200, 40), "red": (220, 40, 40)}


def random_params(head, states, seed=0):
    shapes = jax.eval_shape(head.init, jax.random.key(0), states)["params"]
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype),
                        jax.tree.map(lambda box: getattr(box, "value", box), shapes,
                                     is_leaf=lambda box: hasattr(box, "value")))  # fmt: skip


def test_attention_pooling_against_numpy():
    states = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    head = ClassHead(HeadConfig("attention", num_heads=2), 4)
    p = random_params(head, jnp.asarray(states))
    expected = []
    for picture in states.astype(np.float64):
        found = []
        for i in range(2):
            keys, values = (picture @ np.asarray(p[name]["kernel"])[:, i] for name in
                            ("keys", "values"))  # fmt: skip
            scores = keys @ np.asarray(p["query"])[i] / math.sqrt(3)
            weights = np.exp(scores - scores.max())
            found.append(weights @ values / weights.sum())
        pooled = picture.mean(axis=0) + np.concatenate(found)
        pooled = pooled / np.sqrt((pooled**2).mean() + 1e-5) * np.asarray(p["norm"]["scale"])
        classes = p["classes"]
        expected.append(pooled @ np.asarray(classes["kernel"]) + np.asarray(classes["bias"]))
    found = head.apply({"params": p}, jnp.asarray(states))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_mean_pooling_is_a_linear_map_of_the_mean():
    states = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 6)), jnp.float32)
    head = ClassHead(HeadConfig("mean"), 5)
    p = random_params(head, states)
    expected = np.asarray(states).mean(axis=1) @ p["classes"]["kernel"] + p["classes"]["bias"]
    np.testing.assert_allclose(head.apply({"params": p}, states), expected, rtol=1e-5, atol=1e-5)
    fresh = head.init(jax.random.key(0), states)["params"]
    assert not np.any(head.apply({"params": fresh}, states))  # uniform before training


def test_smoothed_cross_entropy_against_numpy():
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(4, 5)), np.array([0, 4, 2, 2])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.full((4, 5), 0.1 / 5)
    targets[np.arange(4), labels] += 0.9
    expected = -(targets * np.log(shares)).sum(axis=1).mean()
    found = class_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.1)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def write_pictures(folder, count):
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noisy = np.clip(random.normal(colour, 2, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{i:03}.png")
    return FolderConfig(str(folder), validation_per_class=8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("finetuning") / "pictures", 24)


def config_of(pretrained, data, **changes):
    return FinetuneConfig(
        pretrained=str(pretrained),
        data=data,
        transform=TransformConfig(image_size=32, crop="resize"),
        head=HeadConfig(num_heads=2),
        training=TrainConfig(
            num_steps=60,
            global_batch_size=8,
            optimizer=OptimizerConfig(peak_lr=1e-2, warmup_steps=4),
            ema_decay=0.5,
            log_every=1,
            eval_every=30,
            eval_batches=2,
            picture_every=0,
            checkpoint_every=30,
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def finetuned(tiny_run, pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finetuning") / "run"
    config = config_of(tiny_run, pictures, per_class=8, generative_weight=0.1)
    return config, workdir, run_finetuning(config, workdir)


@pytest.mark.xdist_group("tiny_run")
def test_a_run_learns_colours_and_says_how_well(finetuned, pictures):
    _, workdir, result = finetuned
    assert result["accuracy"] > 0.9
    confusion = np.array(result["confusion"])
    assert confusion.sum(axis=1).tolist() == [8, 8, 8]
    assert np.trace(confusion) / 24 == pytest.approx(result["accuracy"])
    classifier = igpt_jax.load_classifier(workdir)
    source = open_source(pictures, "validation")
    images = np.stack([source[i]["image"] for i in range(len(source))])
    labels = np.array([source[i]["label"] for i in range(len(source))])
    shares = classifier.predict(images)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert (shares.argmax(axis=1) == labels).mean() == pytest.approx(result["accuracy"])
    nats = -np.log(shares[np.arange(len(labels)), labels]).mean()
    assert nats == pytest.approx(result["class_loss"], rel=1e-4)
    with Image.open(workdir / "mistakes.png") as picture:
        assert picture.size[0] > 60


@pytest.mark.xdist_group("tiny_run")
def test_done_runs_are_not_done_again(finetuned):
    config, workdir, result = finetuned
    rows = len(read_metrics(workdir / "classifier", "train"))
    before = (workdir / "result.json").stat().st_mtime_ns
    assert run_finetuning(config, workdir) == result
    assert (workdir / "result.json").stat().st_mtime_ns == before
    assert len(read_metrics(workdir / "classifier", "train")) == rows == 60
    other = dataclasses.replace(config, label_smoothing=0.2)
    longer = dataclasses.replace(other.training, num_steps=61)
    with pytest.raises(UserError, match="label_smoothing"):
        run_finetuning(dataclasses.replace(other, training=longer), workdir)


@pytest.mark.xdist_group("tiny_run")
def test_what_is_trained_and_what_is_not(tiny_run, pictures, finetuned):
    """Starts from the run's parameters; the joint loss is the sum of its parts."""
    model = igpt_jax.load(tiny_run)
    classifier = igpt_jax.load_classifier(finetuned[1])
    frozen: Frozen = classifier.frozen
    for ours, theirs in zip(
        jax.tree.leaves(frozen.tokenizer), jax.tree.leaves(model.tokenizer_params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    parts: Parts = classifier.parts
    source = open_source(pictures, "train")
    images = np.stack([source[i]["image"] for i in range(4)])
    labels = np.array([source[i]["label"] for i in range(4)], np.int32)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    config = dataclasses.replace(finetuned[0], generative_weight=0.5)
    task = finetune_task(config, parts, frozen, lambda: model.params)
    begun = task.prepare(
        {"gpt": {}, "head": classifier.params["head"]}, iter(()), jax.random.key(0)
    )
    tokens = jnp.asarray(model.encode(images))
    said = answer(parts, frozen, begun, tokens)
    nats = -model.token_log_likelihood(model.encode(images)) / tokens.shape[1]
    np.testing.assert_allclose(np.mean(said.nats, axis=1), nats, rtol=1e-4)
    loss, metrics = task.loss(begun, batch, None)
    expected = class_loss(said.classes, batch["label"], 0.1) + 0.5 * nats.mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert float(metrics["nats_per_token"]) == pytest.approx(nats.mean(), rel=1e-4)
    begun_gpt, trained_gpt = begun["gpt"], classifier.params["gpt"]
    moved = [
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(begun_gpt), jax.tree.leaves(trained_gpt), strict=True)
    ]
    assert max(moved) > 1e-3


@pytest.mark.xdist_group("tiny_run")
def test_recognising_a_file(finetuned, pictures, capsys):
    _, workdir, _ = finetuned
    file = Path(pictures.path) / "green" / "000.png"
    assert main(["probe", str(workdir), "--image", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])[str(file)]
    assert next(iter(told)) == "green"
    assert sum(told.values()) == pytest.approx(1, rel=1e-4)


def test_few_pictures_of_each_class(pictures):
    source = open_source(pictures, "train")
    few = few_of_each_class(source, 5, seed=3)
    labels = [few[i]["label"] for i in range(len(few))]
    assert sorted(labels) == [0] * 5 + [1] * 5 + [2] * 5
    assert few.indices == few_of_each_class(source, 5, seed=3).indices
    assert few.indices != few_of_each_class(source, 5, seed=4).indices
    assert few.class_names == source.class_names
    with pytest.raises(UserError, match="per_class: expected at most 16"):
        few_of_each_class(source, 17, seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pretrained": ""}, "pretrained"),
        ({"per_class": 0}, "per_class"),
        ({"generative_weight": -1.0}, "generative_weight"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(change, words):
    with pytest.raises(UserError, match=words):
        FinetuneConfig(**{"pretrained": "runs/x", **change})


def test_config_survives_json(monkeypatch):
    monkeypatch.setenv("IGPT_DATA", "/nowhere")
    config = load_config_file(REPOSITORY / "configs/cifar10_finetune.py")
    assert from_dict(FinetuneConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.xdist_group("tiny_run")
def test_bad_runs(tiny_run, pictures, gan_run, tmp_path):
    config = config_of(tiny_run, pictures)
    wrong = dataclasses.replace(config, transform=TransformConfig(image_size=16))
    with pytest.raises(UserError, match="image_size: expected the tokenizer's 32, got 16"):
        run_finetuning(wrong, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="GAN or VAE"):
        run_finetuning(config_of(gan_run, pictures), tmp_path / "b")
    with pytest.raises(UserError, match="fine-tuned GPT"):
        igpt_jax.load_classifier(tiny_run)
