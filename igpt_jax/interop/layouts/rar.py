"""RAR as bytedance/1d-tokenizer names it (`modeling/rar.py`).

Published as `yucornetto/RAR/rar_{b,l,xl,xxl}.bin`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.base import (
    Layout,
    Source,
    Specs,
    check_head_dim,
    count_layers,
    merge_heads,
    one,
    per_layer,
    shape_of,
    split_heads,
    split_heads_bias,
    split_parts,
    transposed,
)
from igpt_jax.models.rar import RAR, RARConfig

_KIND: Final = "rar"
# Rows that the published tables have beyond the tokens of a picture, most of them never used.
_MORE_POSITIONS: Final = 1024
_MORE_STEPS: Final = 100


def rar(specs: Specs, **overrides: Any) -> Layout:
    """RAR; its arrays tell its size, the number of heads included.

    Args:
        specs: the checkpoint's arrays.
        overrides: fields of `RARConfig`.

    Raises:
        UserError: an array that tells the size is missing, or the sizes do not fit together.
    """
    config = dataclasses.replace(_read_config(specs), **overrides)
    return Layout(RAR(config), _sources(config), _shapes(config))


def _read_config(specs: Specs) -> RARConfig:
    vocab_size, embed_dim = shape_of(specs, "lm_head.weight", 2, _KIND)
    num_embeddings = shape_of(specs, "embeddings.weight", 2, _KIND)[0]
    seq_len = shape_of(specs, "pos_embed", 3, _KIND)[1] - _MORE_POSITIONS
    side = math.isqrt(max(seq_len, 0))
    if side < 1 or side**2 != seq_len:
        raise UserError(
            f"{_KIND}: expected pos_embed of {_MORE_POSITIONS} rows more than a square number, "
            f"got {seq_len + _MORE_POSITIONS} rows; is this a checkpoint of another kind?"
        )
    head_dim = shape_of(specs, "blocks.0.attn.q_norm.weight", 1, _KIND)[0]
    check_head_dim(_KIND, embed_dim, embed_dim // head_dim)
    return RARConfig(
        vocab_size=vocab_size,
        grid_shape=(side, side),
        num_layers=count_layers(specs, "blocks."),
        num_heads=embed_dim // head_dim,
        embed_dim=embed_dim,
        mlp_dim=shape_of(specs, "blocks.0.mlp.fc1.weight", 2, _KIND)[0],
        num_classes=num_embeddings - vocab_size - 2,  # a mask, which RAR does not use, and null
    )


def _sources(config: RARConfig) -> dict[str, Source]:
    heads, vocab_size, slots = config.num_heads, config.vocab_size, config.num_slots

    def layer(name: str, build: Callable[[np.ndarray], np.ndarray] = lambda array: array) -> Source:
        return per_layer(f"blocks.{{}}.{name}", config.num_layers, build)

    sources = {
        "token_embedding": one("embeddings.weight", lambda table: table[:vocab_size]),
        "prefix/embedding_0": one("embeddings.weight", lambda table: table[vocab_size + 1 :]),
        "start": one("cls_token", lambda array: array[0, 0]),
        "position_embedding": one("pos_embed", lambda table: table[0, :slots]),
        # Published row 2 + i is of token i.
        "target_embedding": one("target_aware_pos_embed", lambda table: table[0, 2 : slots + 1]),
        "step_embedding": one("timesteps_embeddings", lambda table: table[0, :slots]),
        "head": one("lm_head.weight", transposed),
        "head_bias": one("lm_head.bias"),
        "modulation/dense/kernel": one("adaln_before_head.adaLN_modulation.1.weight", split_parts),
        "modulation/dense/bias": one("adaln_before_head.adaLN_modulation.1.bias", _parts_bias(2)),
        "blocks/modulation/dense/kernel": layer("adaLN_modulation.1.weight", split_parts),
        "blocks/modulation/dense/bias": layer("adaLN_modulation.1.bias", _parts_bias(6)),
        "blocks/attention/out/kernel": layer("attn.proj.weight", merge_heads(heads)),
        "blocks/attention/out/bias": layer("attn.proj.bias"),
    }
    for part, name in enumerate(("query", "key", "value")):
        ours = f"blocks/attention/{name}"
        sources[f"{ours}/kernel"] = layer("attn.qkv.weight", split_heads(heads, part, 3))
        sources[f"{ours}/bias"] = layer("attn.qkv.bias", split_heads_bias(heads, part, 3))
    for ours, name in (("up", "fc1"), ("down", "fc2")):
        sources[f"blocks/mlp/{ours}/kernel"] = layer(f"mlp.{name}.weight", transposed)
        sources[f"blocks/mlp/{ours}/bias"] = layer(f"mlp.{name}.bias")
    norms = {
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "attention/query_norm": "attn.q_norm",
        "attention/key_norm": "attn.k_norm",
    }
    for ours, name in norms.items():
        sources[f"blocks/{ours}/scale"] = layer(f"{name}.weight")
        sources[f"blocks/{ours}/bias"] = layer(f"{name}.bias")
    return sources


def _parts_bias(num_parts: int) -> Callable[[np.ndarray], np.ndarray]:
    """`[parts*d]` to `[parts d]`."""
    return lambda array: array.reshape(num_parts, -1)


def _shapes(config: RARConfig) -> dict[str, tuple[int, ...]]:
    dim, mlp_dim = config.embed_dim, config.mlp_dim
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "embeddings.weight": (config.vocab_size + config.num_classes + 2, dim),
        "pos_embed": (1, config.seq_len + _MORE_POSITIONS, dim),
        "target_aware_pos_embed": (1, config.seq_len + _MORE_POSITIONS, dim),
        "timesteps_embeddings": (1, config.seq_len + _MORE_STEPS, dim),
    }
    linear = {
        "adaln_before_head.adaLN_modulation.1": (2 * dim, dim),
        "lm_head": (config.vocab_size, dim),
    }
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        linear |= {
            f"{block}.adaLN_modulation.1": (6 * dim, dim),
            f"{block}.attn.qkv": (3 * dim, dim),
            f"{block}.attn.proj": (dim, dim),
            f"{block}.mlp.fc1": (mlp_dim, dim),
            f"{block}.mlp.fc2": (dim, mlp_dim),
        }
        for name, size in (
            ("norm1", dim),
            ("norm2", dim),
            ("attn.q_norm", config.head_dim),
            ("attn.k_norm", config.head_dim),
        ):
            shapes |= {f"{block}.{name}.weight": (size,), f"{block}.{name}.bias": (size,)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
