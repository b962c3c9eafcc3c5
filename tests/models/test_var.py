"""VAR against the published implementation (see tests/golden/README.md)."""

import json
import zlib
from functools import cache, partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.interop.conversion import converted
from igpt_jax.interop.layouts.var import var as var_layout
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.var import VAR, VARConfig, var
from igpt_jax.sampling.logits import keep_top_k, keep_top_p
from igpt_jax.sampling.sampler import SamplingConfig, image_keys
from igpt_jax.sampling.scales import generate_scales
from igpt_jax.scales import scale_bounds
from igpt_jax.tokenizers.multiscale_vq import MultiscaleVQ, MultiscaleVQConfig

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "var.npz")
META = json.loads(str(GOLDEN["meta"]))
SCALES = tuple(META["config"]["scales"])
KINDS = ("separate", "shared", "unnormed")
KEPT = (
    "embedding.weight", "class_emb.weight", "lvl_embed.weight", "pos_start", "pos_1LC", "ada_gss",
)  # fmt: skip


def ruled_weight(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if name.endswith("scale_mul_1H11"):
        return 3 + 2 * draw
    if len(shape) >= 2:
        return draw if name.endswith(KEPT) else draw / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    return np.float32(0.1) * draw + np.float32(name.endswith("weight"))


def nested(leaves):
    params = {}
    for path, values in leaves:
        *parents, leaf = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(values)
    return params


def layout_of(kind, **changes):
    arrays = META[kind]["param_shapes"] | META[kind]["buffers"]
    specs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}
    return var_layout(specs, **({"scales": SCALES, "num_heads": 4} | changes))


@cache
def published(kind):
    layout = layout_of(kind)
    arrays = {name: ruled_weight(name, shape) for name, shape in layout.shapes.items()}
    return layout.module, nested(converted(layout, arrays))


@pytest.fixture(scope="module")
def tokenizer():
    """The multi-scale part of the tokenizer, all that drawing needs."""
    config = MultiscaleVQConfig(
        image_size=64, base_channels=32, latent_channels=8, codebook_size=64, scales=SCALES
    )
    params = {"codebook": ruled_weight("quantize.embedding.weight", (64, 8))}
    for index in range(4):
        name = f"quantize.quant_resi.qresi_ls.{index}"
        kernel = ruled_weight(f"{name}.weight", (8, 8, 3, 3)).transpose(2, 3, 1, 0)
        params[f"phi_{index}"] = {"kernel": kernel, "bias": ruled_weight(f"{name}.bias", (8,))}
    return MultiscaleVQ(config), jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_names_every_published_array(kind):
    layout = layout_of(kind)
    assert {name: list(shape) for name, shape in layout.shapes.items()} == (
        META[kind]["param_shapes"]
    )
    assert {name for source in layout.sources.values() for name in source.names} == set(
        layout.shapes
    )
    model, params = published(kind)
    inputs = jax.ShapeDtypeStruct((1, 29, 8), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    ours = jax.eval_shape(
        lambda *args: nn.unbox(model.init(*args)), jax.random.key(0), inputs, labels
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ours["params"])


@pytest.mark.parametrize(
    "kind", ["separate", "shared", pytest.param("unnormed", marks=pytest.mark.slow)]
)
def test_the_published_logits_at_once_and_scale_by_scale(kind):
    model, params = published(kind)
    labels, inputs = jnp.asarray(GOLDEN["labels"]), jnp.asarray(GOLDEN["inputs"])
    logits = jax.jit(model.apply)({"params": params}, inputs, labels)
    np.testing.assert_allclose(logits, GOLDEN[f"{kind}_logits"], atol=1e-4)

    @jax.jit
    def step_by_step(params):
        kv_cache, logits = init_kv_cache(model.config, 2), []
        for scale, (start, end) in enumerate(scale_bounds(SCALES)):
            given = None if scale == 0 else inputs[:, start - 1 : end - 1]
            part, kv_cache = model.apply(
                {"params": params}, given, labels, kv_cache, scale, method="decode_step"
            )
            logits.append(part)
        return jnp.concatenate(logits, axis=1), kv_cache.length

    cached, length = step_by_step(params)
    # Logits reach 4, where the products of one scale and of all differ by 40 roundings or so.
    np.testing.assert_allclose(cached, logits, rtol=1e-5, atol=1e-5)
    assert length == 30


def test_the_inputs_are_those_of_the_tokenizer(tokenizer):
    model, params = tokenizer
    look = jax.jit(partial(model.apply, method="next_inputs"))
    inputs = look({"params": params}, jnp.asarray(GOLDEN["tokens"], jnp.int32))
    np.testing.assert_allclose(inputs, GOLDEN["inputs"], atol=1e-5)


@pytest.mark.parametrize("kind", ["separate", pytest.param("shared", marks=pytest.mark.slow)])
def test_the_published_greedy_tokens(kind, tokenizer):
    sampling = SamplingConfig(temperature=0, cfg_scale=3).rows(4)
    sampling = sampling.replace(cfg_scale=jnp.asarray([1.0, 1.0, 3.0, 3.0]))
    labels, keys = jnp.tile(GOLDEN["labels"], 2), image_keys(0, np.arange(4))
    tokens = generate_scales(*published(kind), *tokenizer, keys, labels, sampling)
    np.testing.assert_array_equal(tokens[:2], GOLDEN[f"{kind}_greedy_cfg1"])
    np.testing.assert_array_equal(tokens[2:], GOLDEN[f"{kind}_greedy_cfg3"])


def test_no_slot_sees_a_later_scale():
    model, params = published("separate")
    labels, inputs = jnp.asarray(GOLDEN["labels"]), jnp.asarray(GOLDEN["inputs"])
    run = jax.jit(model.apply)
    before = run({"params": params}, inputs, labels)
    after = run({"params": params}, inputs.at[:, 13].add(1.0), labels)  # first of the last scale
    np.testing.assert_array_equal(before[:, :14], after[:, :14])
    assert np.all(np.any(before[:, 14:] != after[:, 14:], axis=-1))


def test_without_guidance_a_picture_depends_on_its_own_key_alone(tokenizer):
    run = partial(generate_scales, *published("separate"), *tokenizer)
    sampling = SamplingConfig(temperature=0.9, top_k=40, top_p=0.95).rows(3)
    greedy = sampling.replace(temperature=jnp.zeros(3))
    tokens = run(image_keys(0, np.arange(3)), jnp.asarray([*GOLDEN["labels"], 1]), greedy)
    np.testing.assert_array_equal(tokens[:2], GOLDEN["separate_greedy_cfg1"])

    tokens = run(image_keys(7, np.arange(3)), jnp.asarray([3, 3, 1]), sampling)
    other = run(image_keys(7, np.asarray([2, 1, 9])), jnp.asarray([1, 3, 0]), sampling)
    np.testing.assert_array_equal(other[:2], tokens[::-1][:2])
    assert np.any(tokens[0] != tokens[1])
    assert len(np.unique(tokens[0, -16:])) > 2  # the cells of a scale have keys of their own


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (20, 0.0), (20, 0.6)])
def test_the_published_filters_keep_the_same_tokens(top_k, top_p):
    logits = 2 * np.random.default_rng(zlib.crc32(b"filter_logits")).standard_normal((1, 6, 64))
    kept = jnp.asarray(logits[0].astype(np.float32))
    kept = keep_top_k(kept, jnp.full((6,), top_k))
    kept = keep_top_p(kept, jnp.full((6,), top_p or 1.0))
    np.testing.assert_array_equal(np.isfinite(kept), GOLDEN[f"kept_{top_k}_{top_p}"])


@pytest.mark.parametrize(
    ("num_layers", "num_params"),
    [(16, 310_283_520), (20, 600_917_136), (24, 1_033_399_360), (30, 2_010_020_356),
     (36, 2_353_893_904)],
)  # fmt: skip
def test_the_published_sizes(num_layers, num_params):
    config = var(num_layers)
    inputs = jax.ShapeDtypeStruct((1, config.seq_len - 1, 32), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    params = jax.eval_shape(VAR(config).init, jax.random.key(0), inputs, labels)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_params


@pytest.mark.slow
def test_the_published_size_draws_in_bfloat16():
    # Shapes alone: its 310 million parameters are never made.
    model, tokenizer = VAR(var(16, dtype="bfloat16")), MultiscaleVQ(MultiscaleVQConfig())
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    inputs = jax.ShapeDtypeStruct((2, 679, 32), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    params, tokenizer_params = (
        jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
        for module, args in ((model, (inputs, labels)), (tokenizer, (images,)))
    )

    def run(params, tokenizer_params, labels):
        sampling = SamplingConfig(cfg_scale=2.5, top_k=900, top_p=0.96).rows(2)
        keys = image_keys(0, np.arange(2))
        return generate_scales(
            model, nn.unbox(params), tokenizer, tokenizer_params, keys, labels, sampling
        )

    tokens = jax.eval_shape(run, params, tokenizer_params, labels)
    assert tokens.shape == (2, 680)
    cache = init_kv_cache(VARConfig(num_layers=1, dtype="bfloat16"), 1)
    assert cache.keys.dtype == jnp.bfloat16


@pytest.mark.parametrize("shared_ada_ln", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_gates_start_nearly_closed(shared_ada_ln):
    config = VARConfig(
        num_layers=2, num_heads=2, embed_dim=16, scales=(1, 2), vocab_size=8, code_dim=4,
        num_classes=3, shared_ada_ln=shared_ada_ln,
    )  # fmt: skip
    inputs, labels = jnp.ones((1, 4, 4)), jnp.zeros((1,), jnp.int32)
    params = nn.unbox(jax.jit(VAR(config).init)(jax.random.key(0), inputs, labels))["params"]
    blocks = params["blocks"]
    drawn = blocks["modulation_offset"] if shared_ada_ln else blocks["modulation"]["kernel"]
    spread = np.std(np.asarray(drawn).reshape(-1, 6, 16), axis=(0, 2))
    expected = (3 if shared_ada_ln else 1) ** 0.5 * (1 / 48) ** 0.5
    np.testing.assert_allclose(spread[:2] / (1e-5 * expected), 1, atol=0.3)
    np.testing.assert_allclose(spread[2:] / (0.5 * expected), 1, atol=0.3)
    assert not np.allclose(blocks["mlp_up"]["kernel"][0], blocks["mlp_up"]["kernel"][1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scales": (1, 1)}, "grow"), ({"num_heads": 5}, "divide"), ({"code_dim": 0}, "at least 1"),
     ({"cond_drop_prob": 1.0}, "cond_drop_prob")],
)  # fmt: skip
def test_shapes_that_no_model_has_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        VARConfig(**changes)


def test_other_lengths_than_the_published_ask_for_scales():
    with pytest.raises(UserError, match="680 or 2240 tokens, got a checkpoint of 30; pass scales"):
        layout_of("separate", scales=None)


def test_another_tokenizer_is_refused(tokenizer):
    model = VAR(VARConfig(scales=SCALES))
    keys, labels = image_keys(0, np.arange(1)), jnp.zeros((1,), jnp.int32)
    with pytest.raises(UserError, match="trained with"):
        generate_scales(model, {}, *tokenizer, keys, labels, SamplingConfig().rows(1))
