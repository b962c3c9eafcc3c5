"""The CLIP score of what tiny runs draw, by command and by hand."""

import dataclasses
import json

import numpy as np
import pytest
from clip_folder import VOCAB_SIZE, write_clip

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.data.arrays import ArrayConfig
from igpt_jax.data.cards import CardSource
from igpt_jax.data.transforms import transform
from igpt_jax.errors import UserError
from igpt_jax.evaluation.clip_weights import read_clip
from igpt_jax.measuring.clip_score import ClipScorer
from igpt_jax.measuring.generation import evaluate_generation
from igpt_jax.testing import tiny_asked_config, tiny_config, tiny_video_config

pytestmark = pytest.mark.xdist_group("reconstruction")  # which trains the same run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("tokenizers.tokenizers")
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, vocab_size=VOCAB_SIZE)
    return folder


def drawn_pictures(count, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def by_hand(images, texts):
    """100 max(cos, 0) of vectors of any length."""
    lengths = np.linalg.norm(images, axis=-1) * np.linalg.norm(texts, axis=-1)
    return np.maximum(100 * np.sum(images * texts, axis=-1) / lengths, 0).mean()


def test_scores_are_means_over_pictures_and_captions(folder):
    """Ten pictures in two parts, two of one example: the real side has that one once."""
    config = tiny_asked_config()
    source, network = CardSource(config.data, "validation"), read_clip(str(folder))
    examples = [{**source[i], "index": i} for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 3)]
    images = drawn_pictures(10)
    scorer = ClipScorer(str(folder), config, source, "cards", batch_size=4)
    scorer.add(images[:7], examples[:7])
    scorer.add(images[7:], examples[7:])
    scores = scorer.scores(seed=0)
    captions = [example["caption"] for example in examples]
    vectors, texts = network.embed_images(images), network.embed_texts(captions)
    assert scores["clip_score"].value == pytest.approx(by_hand(vectors, texts), abs=1e-3)
    generator = np.random.default_rng(0)
    cards = np.stack([transform(config.transform, e["image"], generator) for e in examples[:9]])
    expected = by_hand(network.embed_images(cards), texts[:9])
    real = scores["clip_score_real"]
    assert real.value == pytest.approx(expected, abs=1e-3)
    assert (real.num_generated, real.num_real, real.against) == (0, 9, "cards")
    chance, each = scores["clip_score_shuffled"], 100 * np.maximum(vectors @ texts.T, 0)
    others = each[~np.eye(10, dtype=bool)].reshape(10, 9)
    assert others.min(axis=1).mean() <= chance.value <= others.max(axis=1).mean()
    assert chance.value != pytest.approx(scores["clip_score"].value, abs=1e-3)
    assert {score.features for score in scores.values()} == {network.name}
    assert scores["clip_score"].note == "captions of the data"


@pytest.mark.parametrize(("sign", "expected"), [(1, 100), (-1, 0)])
def test_pictures_that_say_what_captions_say_have_the_highest_score(
    folder, monkeypatch, sign, expected
):
    config = tiny_config()
    source = CardSource(config.data, "validation")
    scorer = ClipScorer(str(folder), config, source, "cards", batch_size=4)
    examples = [{**source[i], "index": i} for i in range(6)]
    texts = [f"a photo of a {example['label']}" for example in examples]
    vectors = sign * read_clip(str(folder)).embed_texts(texts)
    network = scorer._network
    monkeypatch.setattr(type(network), "embed_images", lambda self, images: vectors[: len(images)])
    scorer.add(drawn_pictures(6), examples)
    scores = scorer.scores(seed=3)
    assert scores["clip_score"].value == pytest.approx(expected, abs=1e-3)
    assert scores["clip_score_real"].value == pytest.approx(expected, abs=1e-3)
    assert scores["clip_score"].note == 'captions "a photo of a NAME" with the name of the class'


def test_a_run_of_classes_is_scored_by_their_names(tiny_run, folder, tmp_path):
    command = ["evaluate", str(tiny_run), "--measure", "generation", "--num-images", "8"]
    arguments = ["--batch-size", "8", "--num-train", "8", "--out", str(tmp_path)]
    assert main([*command, *arguments, "--clip", str(folder)]) == 0
    result = json.loads((tmp_path / "generation.json").read_text())
    score, chance, real = (result[f"clip_score{which}"] for which in ("", "_shuffled", "_real"))
    assert score["num_generated"] == chance["num_generated"] == real["num_real"] == 8
    assert score["features"].startswith(f"CLIP {folder}: 2 layers of 32 channels")
    assert all(0 <= each["value"] <= 100 for each in (score, chance, real))
    assert real["against"] == "cards, validation split"
    page = (tmp_path / "report.html").read_text()
    for told in ("CLIP score of drawn pictures and their captions", "captions of others: chance",
                 "CLIP score of real pictures", "a photo of a NAME"):  # fmt: skip
        assert told in page, told


@pytest.mark.slow
def test_a_run_of_captions_is_scored_by_what_it_was_asked(asked_run, folder, tmp_path):
    result = evaluate_generation(
        asked_run, num_images=8, batch_size=8, num_train=8, features="gpt", clip=str(folder),
        out=tmp_path,
    )  # fmt: skip
    model, network = igpt_jax.load(asked_run), read_clip(str(folder))
    assert result["clip_score"]["note"] == "captions of the data"
    source = CardSource(tiny_asked_config().data, "validation")
    order = np.random.default_rng(0).permutation(len(source))[:8]
    captions = [source[i]["caption"] for i in order.tolist()]
    cut, _ = model.caption_tokenizer.encode(captions, 48)
    generator = np.random.default_rng(0)
    prepare = tiny_asked_config().transform
    cards = np.stack([transform(prepare, source[i]["image"], generator) for i in order.tolist()])
    texts = network.embed_texts(model.caption_tokenizer.decode(cut))
    expected = by_hand(network.embed_images(cards), texts)
    assert result["clip_score_real"]["value"] == pytest.approx(expected, abs=1e-3)


UNCONDITIONAL = dataclasses.replace(tiny_config().gpt, num_classes=0, class_factors=())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(gpt=UNCONDITIONAL), "got one asked by nothing; leave it out"),
        (tiny_config(data=ArrayConfig("x.npz")), "labels without names"),
        (tiny_video_config(), "expected a run of pictures, got one of videos"),
    ],
)
def test_runs_without_captions_are_refused(config, message):
    source = CardSource(tiny_config().data, "validation")
    with pytest.raises(UserError, match=message):
        ClipScorer("nowhere", config, source, "cards", batch_size=4)


def test_a_wrong_folder_is_one_line(tiny_run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", str(tiny_run), "--measure", "generation", "--out", str(out)]
    assert main([*command, "--clip", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"CLIP {tmp_path}: expected a file {tmp_path / 'config.json'}, found none" in error
    assert not out.exists()
    assert main(["evaluate", str(tiny_run), "--clip", str(tmp_path)]) == 2
    assert "which are of --measure generation" in capsys.readouterr().err
