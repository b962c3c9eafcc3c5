"""The published implementations' outputs, for weights made by a rule (see golden/README.md)."""

import json
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import interop
from igpt_jax.models.conditioning import TextFeatures
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

GOLDEN = Path(__file__).parent.parent / "golden"
KEPT = (
    "embedding.weight", "embeddings.weight", "embedding_table.weight", "uncond_embedding",
    "wte.weight", "wpe.weight", "tok_emb.weight", "pos_emb",
)  # fmt: skip


def ruled_weight(name, shape, zero_bias=False):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if zero_bias and name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) >= 2:
        kept = name.endswith(KEPT)
        return draw if kept else draw / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    return 1 + np.float32(0.1) * draw if name.endswith("weight") else np.float32(0.1) * draw


def load(file):
    arrays = np.load(GOLDEN / file)
    meta = json.loads(str(arrays["meta"]))
    weights = {name: ruled_weight(name, shape, "imagegpt" in file)
               for name, shape in meta["param_shapes"].items()}  # fmt: skip
    return arrays, meta["config"], weights


def assert_close(ours, theirs, *, relative=1e-4):
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.linalg.norm(ours - theirs) <= relative * np.linalg.norm(theirs)


def greedy(model, params, condition, scale, rows):
    sampling = SamplingConfig(temperature=0, cfg_scale=scale).rows(rows)
    return generate(model, params, image_keys(0, np.arange(rows)), condition, sampling)


@pytest.fixture(scope="module")
def classes():
    arrays, meta, weights = load("llamagen_gpt_c2i.npz")
    return arrays, *interop.convert(
        weights, "llamagen-gpt", num_heads=meta["n_head"], grid_shape=(8, 8)
    )


@pytest.fixture(scope="module")
def texts():
    arrays, meta, weights = load("llamagen_gpt_t2i.npz")
    return arrays, *interop.convert(
        weights, "llamagen-gpt", num_heads=meta["n_head"], grid_shape=(4, 4)
    )


@pytest.fixture(scope="module")
def pixels():
    arrays, meta, weights = load("hf_imagegpt.npz")
    return arrays, *interop.convert(weights, "imagegpt", num_heads=meta["n_head"])


def logits(model, params, tokens, condition=None):
    return jax.jit(model.apply)({"params": params}, jnp.asarray(tokens)[:, :-1], condition)


def test_llamagen_class_logits(classes):
    arrays, model, params = classes
    labels = jnp.asarray(arrays["labels"], jnp.int32)
    assert_close(logits(model, params, arrays["tokens"], labels), arrays["logits"])


@pytest.mark.parametrize("scale", [1, 3])
def test_llamagen_class_greedy_tokens(classes, scale):
    arrays, model, params = classes
    tokens = greedy(model, params, jnp.asarray(arrays["labels"][:2], jnp.int32), scale, 2)
    np.testing.assert_array_equal(tokens, arrays[f"greedy_cfg{scale}"])


def features(arrays, mask):
    mask = jnp.asarray(mask, bool)
    given = jnp.asarray(arrays["caption_features"])[: len(mask)]
    return TextFeatures(given, mask, jnp.zeros(len(mask), bool))


def test_llamagen_text_logits(texts):
    arrays, model, params = texts
    everything = np.ones(arrays["caption_features"].shape[:2])
    ours = logits(model, params, arrays["tokens"], features(arrays, everything))
    assert_close(ours, arrays["logits"])


@pytest.mark.parametrize("scale", [1, 3])
def test_llamagen_text_greedy_tokens_with_padding(texts, scale):
    arrays, model, params = texts
    mask = arrays["generate_caption_mask"]
    assert 0 < mask.sum() < mask.size
    tokens = greedy(model, params, features(arrays, mask), scale, 2)
    np.testing.assert_array_equal(tokens, arrays[f"greedy_cfg{scale}"])


def test_imagegpt_logits(pixels):
    arrays, model, params = pixels
    assert_close(logits(model, params, arrays["tokens"]), arrays["logits"])


def test_imagegpt_greedy_tokens(pixels):
    arrays, model, params = pixels
    np.testing.assert_array_equal(greedy(model, params, None, 1, 1), arrays["greedy"])


@pytest.fixture(scope="module")
def taming():
    arrays, meta, weights = load("taming_gpt.npz")
    config = {"num_heads": meta["n_head"], "num_classes": 10}
    return arrays, *interop.convert(weights, "taming-gpt", **config)


def test_taming_logits(taming):
    arrays, model, params = taming
    labels = jnp.asarray(arrays["labels"])
    assert_close(logits(model, params, arrays["tokens"], labels), arrays["logits"])


def test_taming_greedy_tokens(taming):
    arrays, model, params = taming
    tokens = greedy(model, params, jnp.asarray(arrays["labels"][:2]), 1, 2)
    np.testing.assert_array_equal(tokens, arrays["greedy"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "kind"),
    [("llamagen_vq16.npz", "llamagen-vq"), ("taming_vqgan_f16.npz", "taming-vqgan")],
)
def test_autoencoders(file, kind):
    golden, _, weights = load(file)
    model, params = interop.convert(weights, kind, image_size=64)

    def run(argument, method):
        return np.asarray(
            jax.jit(partial(model.apply, method=method))({"params": params}, argument)
        )

    def channels_last(name):
        return jnp.asarray(golden[name].transpose(0, 2, 3, 1))

    images = channels_last("images")
    np.testing.assert_allclose(run(images, "latents"), channels_last("latents"), atol=1e-3)
    assert np.mean(run(images, "encode") == golden["tokens"]) >= 0.999
    for tokens, pictures in (("tokens", "reconstruction"), ("random_tokens", "decoded_random")):
        decoded = run(jnp.asarray(golden[tokens]), "decode")
        np.testing.assert_allclose(decoded, channels_last(pictures), atol=1e-3)
