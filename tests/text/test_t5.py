import json
import math
import zlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from igpt_jax.errors import UserError
from igpt_jax.interop import convert
from igpt_jax.interop.layouts.base import names_of
from igpt_jax.interop.layouts.t5 import t5_encoder
from igpt_jax.text.t5 import T5Config, T5Encoder, flan_t5, left_padded, relative_buckets

GOLDEN = Path(__file__).parent.parent / "golden" / "t5_encoder.npz"
SIZES = ("gated64", "relu96", "gated100")
TINY = T5Config(vocab_size=11, embed_dim=8, head_dim=6, num_heads=2, mlp_dim=12, num_layers=2)


def weight(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if len(shape) < 2:
        return 1 + 0.1 * draw
    embedding = name.endswith(("shared.weight", "relative_attention_bias.weight"))
    return draw if embedding else draw / np.sqrt(np.prod(shape[1:])).astype(np.float32)


def tiny_params(config=TINY):
    module, tokens = T5Encoder(config), jnp.zeros((1, 3), jnp.int32)
    variables = module.init(jax.random.key(0), tokens, jnp.ones((1, 3), bool))
    return jax.tree.map(lambda x: 8 * x, nn.unbox(variables)["params"])


@pytest.fixture(scope="module")
def golden():
    arrays = dict(np.load(GOLDEN))
    return arrays, json.loads(str(arrays.pop("meta")))


def weights_of(shapes):
    return {name: weight(name, shape) for name, shape in shapes.items()}


def published(golden, size, **options):
    """Our module and params, inputs and the published output of one size."""
    arrays, meta = golden
    config = meta["sizes"][size]["config"]
    options = {"max_distance": config["relative_attention_max_distance"]} | options
    weights = weights_of(meta["sizes"][size]["param_shapes"])
    module, params = convert(weights, "t5-encoder", **options)
    return module, params, *(arrays[f"{size}_{part}"] for part in ("tokens", "mask", "hidden"))


@pytest.mark.parametrize("size", SIZES)
def test_hidden_states_are_the_published_ones(golden, size):
    module, params, tokens, mask, hidden = published(golden, size)
    ours = jax.jit(module.apply)({"params": params}, jnp.asarray(tokens), jnp.asarray(mask))
    assert (~mask).any()
    np.testing.assert_allclose(ours[mask], hidden[mask], atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_read_off_the_arrays(golden, size):
    module, params, tokens, mask, _ = published(golden, size, norm_epsilon=1e-5)
    theirs = golden[1]["sizes"][size]["config"]
    assert module.config == T5Config(
        vocab_size=theirs["vocab_size"],
        embed_dim=theirs["d_model"],
        head_dim=theirs["d_kv"],
        num_heads=theirs["num_heads"],
        mlp_dim=theirs["d_ff"],
        num_layers=theirs["num_layers"],
        num_buckets=theirs["relative_attention_num_buckets"],
        max_distance=theirs["relative_attention_max_distance"],
        norm_epsilon=1e-5,
        activation={"gated-gelu": "gated_gelu", "relu": "relu"}[theirs["feed_forward_proj"]],
    )
    init = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(tokens), jnp.asarray(mask))
    wanted = jax.tree.map(jnp.shape, nn.unbox(init)["params"])
    assert jax.tree.map(jnp.shape, params) == wanted


def test_the_decoder_of_a_whole_checkpoint_is_ignored(golden):
    whole = golden[1]["whole_checkpoint"]
    assert "lm_head.weight" in whole
    assert any("EncDecAttention" in name for name in whole)
    module, params = convert(weights_of(whole), "t5-encoder")
    wanted, wanted_params, *_ = published(golden, "relu96")
    assert module == wanted
    jax.tree.map(np.testing.assert_array_equal, params, wanted_params)


def test_every_published_name_is_used_once(golden):
    shapes = golden[1]["sizes"]["gated64"]["param_shapes"]
    specs = {name: jax.ShapeDtypeStruct(tuple(s), jnp.float32) for name, s in shapes.items()}
    names = names_of(t5_encoder(specs).sources)
    assert sorted(names) == sorted(set(shapes) - {"encoder.embed_tokens.weight"})


def test_the_embedding_may_have_its_other_name_alone(golden):
    weights = weights_of(golden[1]["sizes"]["relu96"]["param_shapes"])
    del weights["shared.weight"]
    _, params = convert(weights, "t5-encoder")
    np.testing.assert_array_equal(params["token_embedding"], weights["encoder.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"num_heads": 4}, "expected num_heads=3, .*got 4"),
        ({"shared.weight": None, "embed_tokens.weight": None}, {}, "array shared.weight"),
        ({"q.weight": (100, 24)}, {}, "num_heads to divide 100, got 3"),
        ({"relative_attention_bias.weight": (32,)}, {}, "of 2 axes"),
        ({"relative_attention_bias.weight": (31, 3)}, {}, "num_buckets must be even"),
        ({"wi.weight": None}, {}, "expected an array .*wi.weight"),
        ({"block.1.layer.1.layer_norm.weight": None}, {}, "block.1.layer.1.layer_norm.weight"),
        ({"block.1.layer.0.SelfAttention.o.weight": (24, 3)}, {}, r"got \[24, 3\]"),
        ({"encoder.block.0.layer.0.SelfAttention.q.bias": (288,)}, {}, "q.bias .*no place"),
        ({}, {"max_distance": 8}, "max_distance must be more than"),
        ({}, {"num_layer": 2}, "num_layer"),
    ],
)
def test_other_checkpoints_are_refused(golden, change, options, message):
    weights = weights_of(golden[1]["sizes"]["relu96"]["param_shapes"])
    for end, shape in change.items():
        for name in [name for name in weights if name.endswith(end)] or [end]:
            weights[name] = None if shape is None else np.zeros(shape, np.float32)
    weights = {name: array for name, array in weights.items() if array is not None}
    with pytest.raises(UserError, match=message):
        convert(weights, "t5-encoder", **options)


@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(32, 128), (8, 20), (16, 64), (32, 256), (64, 128), (6, 10)]
)
def test_buckets_are_the_published_ones(golden, num_buckets, max_distance):
    theirs = golden[0][f"buckets_{num_buckets}_{max_distance}"]
    ours = relative_buckets(601, num_buckets, max_distance)
    np.testing.assert_array_equal(ours[0], theirs[600:])
    np.testing.assert_array_equal(ours[:, 0], theirs[:601][::-1])


# The encoder as transformers counts it; the whole model as published for T5 1.1, whose decoder
# has cross-attention and another norm a layer, and an output matrix of its own.
@pytest.mark.parametrize(
    ("size", "encoder", "whole"),
    [
        ("small", 35_332_800, 76_961_152),
        ("base", 109_628_544, 247_577_856),
        ("large", 341_231_104, 783_150_080),
        ("xl", 1_223_527_424, 2_849_757_184),
        ("xxl", 4_762_310_656, 11_135_332_352),
    ],
)
def test_presets_have_the_published_parameter_counts(size, encoder, whole):
    c = flan_t5(size, dtype="bfloat16")
    assert c.dtype == "bfloat16"
    tokens, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    shapes = jax.eval_shape(T5Encoder(c).init, jax.random.key(0), tokens, mask)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == encoder
    layer = 8 * c.embed_dim * c.num_heads * c.head_dim + 3 * c.embed_dim * (c.mlp_dim + 1)
    outside = c.num_buckets * c.num_heads + c.embed_dim + c.vocab_size * c.embed_dim
    assert encoder + c.num_layers * layer + outside == whole


def test_padding_changes_nothing():
    params, apply = tiny_params(), jax.jit(T5Encoder(TINY).apply)
    tokens = jnp.array([[3, 1, 4, 1, 5]])
    alone = apply({"params": params}, tokens, jnp.ones((1, 5), bool))
    assert float(jnp.abs(alone).max()) > 0.5
    padded = jnp.pad(tokens, ((0, 0), (0, 4)), constant_values=9)
    mask = jnp.arange(9)[None] < 5
    np.testing.assert_allclose(apply({"params": params}, padded, mask)[:, :5], alone, atol=1e-5)


def test_a_row_without_text_stays_finite():
    tokens, mask = jnp.array([[3, 1], [0, 0]]), jnp.array([[True, False], [False, False]])
    assert jnp.isfinite(T5Encoder(TINY).apply({"params": tiny_params()}, tokens, mask)).all()


def test_bfloat16(golden):
    module, params, tokens, mask, hidden = published(golden, "relu96", dtype="bfloat16")
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    ours = jax.jit(module.apply)({"params": params}, jnp.asarray(tokens), jnp.asarray(mask))
    assert ours.dtype == jnp.bfloat16
    error = np.abs(np.asarray(ours, np.float32) - hidden)[mask]
    assert 1e-4 < error.mean() < 0.05  # the values have a root mean square of 1


def test_blocks_are_stacked_and_axes_named():
    tokens = jnp.zeros((1, 3), jnp.int32)
    variables = T5Encoder(TINY).init(jax.random.key(0), tokens, jnp.ones((1, 3), bool))
    names = flatten_dict(nn.get_partition_spec(variables)["params"], sep="/")
    assert tuple(names["blocks/attention/query/kernel"]) == ("layers", "embed", "heads", "head_dim")
    assert tuple(names["blocks/mlp/down/kernel"]) == ("layers", "mlp", "embed")
    assert tuple(names["relative_bias"]) == (None, "heads")
    assert tuple(names["token_embedding"]) == ("vocab", "embed")


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 0}, {"vocab_size": 0}, {"num_buckets": 2}, {"num_buckets": 9},
     {"max_distance": 8}, {"head_dim": -1}],
)  # fmt: skip
def test_shapes_that_no_encoder_has_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        flan_t5("small", **change)


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match="expected one of small, base, large, xl, xxl, got 'XL'"):
        flan_t5("XL")


def test_left_padding_is_llamagens():
    features = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    lengths = [3, 5, 1]
    mask = np.arange(5) < np.array(lengths)[:, None]
    ours, ours_mask = jax.jit(left_padded)(jnp.asarray(features), jnp.asarray(mask))
    np.testing.assert_array_equal(ours_mask, mask[:, ::-1])
    for row, length in enumerate(lengths):  # as its sampling script does
        moved = np.concatenate([features[row, length:], features[row, :length]])
        np.testing.assert_array_equal(ours[row], moved * mask[row, ::-1, None])


def test_left_padding_keeps_the_order_around_holes():
    features = jnp.arange(1.0, 6.0)[None, :, None]
    mask = jnp.array([[True, False, True, False, True]])
    moved, moved_mask = left_padded(features, mask)
    assert moved[0, :, 0].tolist() == [0, 0, 1, 3, 5]
    assert moved_mask[0].tolist() == [False, False, True, True, True]
