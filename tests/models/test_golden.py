"""The published implementations' outputs, for weights made by a rule (see golden/README.md)."""

import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

GOLDEN = Path(__file__).parent.parent / "golden"
KEPT = (
    "embedding.weight", "embeddings.weight", "embedding_table.weight", "uncond_embedding",
    "wte.weight", "wpe.weight",
)  # fmt: skip


def weight(name, shape, zero_bias=False):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if zero_bias and name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) >= 2:
        return draw if name.endswith(KEPT) else draw / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw


def load(file):
    arrays = np.load(GOLDEN / file)
    meta = json.loads(str(arrays["meta"]))
    weights = {name: weight(name, shape, "imagegpt" in file)
               for name, shape in meta["param_shapes"].items()}  # fmt: skip
    return arrays, meta["config"], weights


def stack(weights, pattern, num_layers, convert):
    return jnp.stack([jnp.asarray(convert(weights[pattern.format(i)])) for i in range(num_layers)])


@pytest.fixture(scope="module")
def llamagen():
    arrays, meta, weights = load("llamagen_gpt_c2i.npz")
    dim, layers, heads = meta["dim"], meta["n_layer"], meta["n_head"]
    hidden = weights["layers.0.feed_forward.w1.weight"].shape[0]

    def layer(pattern, convert=lambda w: w.T):
        return stack(weights, f"layers.{{}}.{pattern}.weight", layers, convert)

    def part(index):
        return lambda w: w[index * dim : (index + 1) * dim].T.reshape(dim, heads, -1)

    params = {
        "token_embedding": weights["tok_embeddings.weight"],
        "prefix": {"embedding_0": weights["cls_embedding.embedding_table.weight"]},
        "norm": {"scale": weights["norm.weight"]},
        "head": weights["output.weight"].T,
        "blocks": {
            "attention": {
                "query": {"kernel": layer("attention.wqkv", part(0))},
                "key": {"kernel": layer("attention.wqkv", part(1))},
                "value": {"kernel": layer("attention.wqkv", part(2))},
                "out": {"kernel": layer("attention.wo", lambda w: w.T.reshape(heads, -1, dim))},
            },
            "attention_norm": {"scale": layer("attention_norm", lambda w: w)},
            "mlp": {
                "gate": {"kernel": layer("feed_forward.w1")},
                "up": {"kernel": layer("feed_forward.w3")},
                "down": {"kernel": layer("feed_forward.w2")},
            },
            "mlp_norm": {"scale": layer("ffn_norm", lambda w: w)},
        },
    }
    config = GPTConfig(
        vocab_size=meta["vocab_size"], grid_shape=(8, 8), num_layers=layers, num_heads=heads,
        embed_dim=dim, mlp_dim=hidden, num_classes=meta["num_classes"], prefix_rotation="zero",
    )  # fmt: skip
    return arrays, GPT(config), jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def imagegpt():
    arrays, meta, weights = load("hf_imagegpt.npz")
    dim, layers, heads = meta["n_embd"], meta["n_layer"], meta["n_head"]

    def layer(pattern, convert=lambda w: w):
        return stack(weights, f"transformer.h.{{}}.{pattern}.weight", layers, convert)

    def part(index):
        return lambda w: w[:, index * dim : (index + 1) * dim].reshape(dim, heads, -1)

    params = {
        "token_embedding": weights["transformer.wte.weight"][:-1],
        "prefix": {"embedding_0": weights["transformer.wte.weight"][-1]},
        "position_embedding": weights["transformer.wpe.weight"],
        "norm": {"scale": weights["transformer.ln_f.weight"]},
        "head": weights["lm_head.weight"].T,
        "blocks": {
            "attention": {
                "query": {"kernel": layer("attn.c_attn", part(0))},
                "key": {"kernel": layer("attn.c_attn", part(1))},
                "value": {"kernel": layer("attn.c_attn", part(2))},
                "out": {"kernel": layer("attn.c_proj", lambda w: w.reshape(heads, -1, dim))},
            },
            "attention_norm": {"scale": layer("ln_1")},
            "mlp": {
                "up": {"kernel": layer("mlp.c_fc")},
                "down": {"kernel": layer("mlp.c_proj")},
            },
            "mlp_norm": {"scale": layer("ln_2")},
        },
    }
    config = GPTConfig(
        vocab_size=meta["vocab_size"] - 1, grid_shape=(8, 8), num_layers=layers, num_heads=heads,
        embed_dim=dim, activation="sigmoid_gelu", positions="learned",
    )  # fmt: skip
    return arrays, GPT(config), jax.tree.map(jnp.asarray, params)


def test_llamagen_logits(llamagen):
    arrays, model, params = llamagen
    labels = jnp.asarray(arrays["labels"], jnp.int32)
    logits = jax.jit(model.apply)({"params": params}, jnp.asarray(arrays["tokens"])[:, :-1], labels)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-3)


@pytest.mark.parametrize("scale", [1, 3])
def test_llamagen_greedy_tokens(llamagen, scale):
    arrays, model, params = llamagen
    sampling = SamplingConfig(temperature=0, cfg_scale=scale).rows(2)
    labels = jnp.asarray(arrays["labels"][:2], jnp.int32)
    tokens = generate(model, params, image_keys(0, np.arange(2)), labels, sampling)
    np.testing.assert_array_equal(tokens, arrays[f"greedy_cfg{scale}"])


def test_imagegpt_logits(imagegpt):
    arrays, model, params = imagegpt
    logits = jax.jit(model.apply)({"params": params}, jnp.asarray(arrays["tokens"])[:, :-1])
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-3)


def test_imagegpt_greedy_tokens(imagegpt):
    arrays, model, params = imagegpt
    sampling = SamplingConfig(temperature=0).rows(1)
    tokens = generate(model, params, image_keys(0, np.arange(1)), None, sampling)
    np.testing.assert_array_equal(tokens, arrays["greedy"])
