"""The published autoencoders' outputs, for weights made by a rule (see tests/golden/README.md)."""

import json
import re
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_autoencoder import abstract_variables

from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig

GOLDEN = Path(__file__).parent.parent / "golden"
LOWEST = 4  # index of the lowest of five levels
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "codebook": "embedding.weight"}
LAYERS = {"norm_0": "norm1", "norm_1": "norm2", "conv_0": "conv1", "conv_1": "conv2",
          "shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out",
          "quantizer": "quantize"}  # fmt: skip


def llamagen_block(side, block):
    middle = {"mid_res_0": "mid.0", "mid_attention": "mid.1", "mid_res_1": "mid.2"}
    if (found := re.fullmatch(r"level_(\d)_(\w+?)(?:_(\d))?", block)) is None:
        return middle.get(block, block)
    level, kind, index = found.groups()
    level = int(level) if side == "encoder" else LOWEST - int(level)
    kind = kind.replace("attention", "attn")
    return f"conv_blocks.{level}.{kind}" + (f".{index}" if index else "")


def taming_block(side, block):
    middle = {"mid_res_0": "mid.block_1", "mid_attention": "mid.attn_1", "mid_res_1": "mid.block_2"}
    if (found := re.fullmatch(r"level_(\d)_(\w+?)(?:_(\d))?", block)) is None:
        return middle.get(block, block)
    level, kind, index = found.groups()
    kind = kind.replace("attention", "attn").replace("res", "block")
    levels = "down" if side == "encoder" else "up"
    return f"{levels}.{level}.{kind}" + (f".{index}" if index else "")


def published_name(path, block_name):
    side, *layers, leaf = [entry.key for entry in path]
    if side in ("encoder", "decoder"):
        layers[0] = block_name(side, layers[0])
    return ".".join([LAYERS.get(x, x) for x in (side, *layers)] + [LEAVES[leaf]])


def ruled_weight(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if len(shape) >= 2:
        return draw if name.endswith("embedding.weight") else draw / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw


def ruled_params(model, shapes, block_name):
    abstract = abstract_variables(model)["params"]
    unused = dict(shapes)

    def fill(path, leaf):
        name = published_name(path, block_name)
        values = ruled_weight(name, unused.pop(name)).astype(np.float32)
        values = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
        assert values.shape == leaf.shape, name
        return jnp.asarray(values)

    params = jax.tree_util.tree_map_with_path(fill, abstract)
    assert set(unused) <= {"quantize.codebook_used"}
    return params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "quantizer", "block_name"),
    [
        ("llamagen_vq16.npz", VectorQuantizerConfig(1024, 8), llamagen_block),
        ("taming_vqgan_f16.npz", VectorQuantizerConfig(1024, 256, False), taming_block),
    ],
    ids=["llamagen", "taming"],
)
def test_the_published_outputs(file, quantizer, block_name):
    golden = np.load(GOLDEN / file)
    shapes = json.loads(str(golden["meta"]))["param_shapes"]
    model = Autoencoder(AutoencoderConfig(image_size=64, quantizer=quantizer))
    params = ruled_params(model, shapes, block_name)

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
