"""What `igpt evaluate` says of a tokenizer, against NumPy and tokenizers with known faults."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from igpt_jax.cli import main
from igpt_jax.data.cards import CardSource
from igpt_jax.data.transforms import transform
from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Features
from igpt_jax.evaluation.reconstruction import evaluate_tokenizer
from igpt_jax.run import run
from igpt_jax.testing import tiny_config
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.palette import Palette, PaletteConfig
from igpt_jax.training.metrics import read_metrics
from igpt_jax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.xdist_group("reconstruction")

GREYS = np.linspace(-1, 1, 6, dtype=np.float32)[:, None].repeat(3, axis=1)
TOKENIZER = Palette(PaletteConfig(image_size=16, num_colors=6))
PARAMS = {"codebook": jnp.asarray(GREYS)}


def pictures(count):
    drawn = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    return drawn.repeat(3, axis=-1)


def test_a_palette_of_greys_against_numpy():
    images = pictures(10)
    measured = evaluate_tokenizer(TOKENIZER, PARAMS, [images[:4], images[4:8], images[8:]])
    assert measured["num_images"] == 10
    steps = np.round(images / 51).astype(int)
    error = images.astype(float) - steps * 51
    psnr = 10 * np.log10(255**2 / (error**2).mean(axis=(1, 2, 3)))
    assert measured["psnr"] == pytest.approx(psnr.mean(), rel=1e-4)
    counts = np.bincount(steps[..., 0].reshape(-1), minlength=6)
    shares = counts / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert measured["perplexity"] == pytest.approx(np.exp(entropy), rel=1e-4)
    assert measured["codebook_usage"] == 1.0
    assert measured["bits_per_image"] == pytest.approx(256 * np.log2(6))
    assert 0.5 < measured["ssim"] < 1


def test_codes_are_counted_for_each_level():
    dark = np.zeros((2, 16, 16, 3), np.uint8)
    dark[:, :, 1::2] = 255  # of two levels side by side, the second is another code
    measured = evaluate_tokenizer(TOKENIZER, PARAMS, [dark], num_levels=2)
    assert measured["perplexity"] == pytest.approx(1.0)
    assert measured["codebook_usage"] == pytest.approx(1 / 6)
    assert measured["psnr"] == pytest.approx(106.02, abs=0.01)


class Quarters:
    """A stand-in for Inception: the mean colour of each quarter."""

    name, fingerprint, network = "quarters", "q", "inception"

    def __call__(self, images):
        pooled = images.astype(np.float32).reshape(len(images), 2, 8, 2, 8, 3).mean((2, 4, 5))
        return Features(pooled.reshape(len(images), -1))


def test_rfid_is_zero_without_loss_and_rises_with_it():
    exact = (np.arange(20)[:, None, None, None] % 6 * 51 * np.ones((20, 16, 16, 3))).astype(
        np.uint8
    )
    exact[:, :8, :8] = np.arange(20)[::-1, None, None, None] % 6 * 51
    exact[5:9, 8:, 8:] = exact[11:15, :8, 8:] = 102
    worse = np.clip(exact.astype(int) + 20, 0, 255).astype(np.uint8)
    values = [
        evaluate_tokenizer(TOKENIZER, PARAMS, [images], extractor=Quarters())["rfid"]
        for images in (exact, worse)
    ]
    assert values[0] == pytest.approx(0, abs=1e-3)
    assert values[1] > 100


def test_evaluate_command_measures_a_run(tiny_run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", str(tiny_run), "--num-images", "11", "--batch-size", "4"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_images"] == 11
    assert result["bits_per_image"] == pytest.approx(16 * np.log2(24))
    assert json.loads((out / "tokenizer.json").read_text())["psnr"] == result["psnr"]
    with Image.open(out / "reconstructions.png") as picture:
        assert picture.size[0] > 11 * 32


def test_the_split_is_what_was_asked_for(tiny_run, tmp_path, capsys):
    """All validation cards: the model's own encode and decode give the same PSNR."""
    import igpt_jax

    main(["evaluate", str(tiny_run), "--out", str(tmp_path), "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    config = tiny_config()
    source = CardSource(config.data, "validation")
    generator = np.random.default_rng(0)
    images = np.stack(
        [transform(config.transform, source[i]["image"], generator) for i in range(len(source))]
    )
    model = igpt_jax.load(tiny_run)
    error = images.astype(float) - model.decode(model.encode(images))
    psnr = 10 * np.log10(255**2 / (error**2).mean(axis=(1, 2, 3)))
    assert result["num_images"] == len(source)
    assert result["psnr"] == pytest.approx(psnr.mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--num-images", "0"], "num_images: expected a whole number of at least 1"),
        (["--lpips", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--inception", "nowhere.npz"], "nowhere.npz"),
        (["--split", "test"], "invalid choice"),
    ],
)
def test_wrong_requests_are_one_line(tiny_run, arguments, word, capsys):
    assert main(["evaluate", str(tiny_run), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert word in error
    assert len(error.splitlines()) == 1


def test_a_tokenizer_is_taken_by_path_alone(tiny_run, tmp_path):
    """The config says nothing of the tokenizer but where it is; the tokens are the same."""
    config = tiny_config(
        tokenizer=AutoencoderConfig(),
        tokenizer_path=str(tiny_run),
        last_stage="tokens",
    )
    run(config, tmp_path / "run")
    for name in ("tokens-00000.npy", "labels-00000.npy"):
        expected = np.load(tiny_run / "tokens/train" / name)
        np.testing.assert_array_equal(np.load(tmp_path / "run/tokens/train" / name), expected)
    assert not (tmp_path / "run/tokenizer/metrics.jsonl").exists()
    # The run has its copy: it goes on where the other is gone.
    run(dataclasses.replace(config, tokenizer_path=str(tiny_run)), tmp_path / "run")
    with pytest.raises(UserError, match="another tokenizer_path"):
        run(dataclasses.replace(config, tokenizer_path="gone"), tmp_path / "run")


def test_training_starts_from_another_run(tiny_run, tmp_path):
    one_step = dataclasses.replace(
        tiny_config().tokenizer_training, num_steps=1, optimizer=OptimizerConfig(peak_lr=1e-9)
    )
    config = tiny_config(
        tokenizer_start=str(tiny_run), tokenizer_training=one_step, last_stage="tokenizer"
    )
    result = run(config, tmp_path / "run")
    rows = read_metrics(tiny_run / "tokenizer", "validation")
    assert result["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    assert rows[0]["loss"] > 1.1 * result["loss"]


def test_a_gpt_of_another_tokenizers_tokens_is_refused_with_both_hashes(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    shutil.rmtree(workdir / "tokenizer")
    shutil.rmtree(workdir / "tokens")
    other = tmp_path / "other"
    run(tiny_config(seed=5, last_stage="tokens"), other)
    shutil.copytree(other / "tokenizer", workdir / "tokenizer")
    hashes = [
        json.loads((each / "tokens/train/header.json").read_text())["tokenizer_hash"][:12]
        for each in (tiny_run, other)
    ]
    assert hashes[0] != hashes[1]
    with pytest.raises(UserError, match=rf"tokenizer {hashes[0]}.*got {hashes[1]}"):
        run(tiny_config(), workdir)
