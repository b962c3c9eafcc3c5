"""The class-conditional and unconditional transformers of taming-transformers (a minGPT).

Facts: CompVis/taming-transformers `taming/modules/transformer/mingpt.py`,
`taming/models/cond_transformer.py`.
"""

import math
from typing import Any

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
    transposed,
)
from igpt_jax.models.gpt import GPT, GPTConfig


def taming_gpt(
    specs: Specs,
    *,
    num_heads: int | None = None,
    num_classes: int | None = None,
    grid_shape: tuple[int, int] | None = None,
    **overrides: Any,
) -> Layout:
    """A transformer over VQGAN's tokens, after a class or after the start token 0.

    A class is looked up among the tokens: class c and code c share a row, which our class embedding
    copies. It was trained without a null class, so it takes no guidance.

    Args:
        specs: the checkpoint's arrays.
        num_heads: query heads, which the shapes do not tell; see the project.yaml beside it.
        num_classes: classes that it was trained with, 1,000 of ImageNet's model; 0 for an
            unconditional model, such as those of faces.
        grid_shape: rows and columns of tokens; by default, a square of all positions.
        overrides: other fields of `GPTConfig`.
    """
    kind, root = "taming-gpt", "transformer."
    vocab_size, dim = shape_of(specs, f"{root}tok_emb.weight", 2, kind)
    _, positions, _ = shape_of(specs, f"{root}pos_emb", 3, kind)
    hidden = shape_of(specs, f"{root}blocks.0.mlp.0.weight", 2, kind)[0]
    num_layers = count_layers(specs, f"{root}blocks.")
    side = math.isqrt(positions)
    fits = side * side == positions if grid_shape is None else math.prod(grid_shape) <= positions
    grid_shape = (side, side) if grid_shape is None else tuple(grid_shape)
    seq_len = math.prod(grid_shape)
    if not fits or seq_len < 1:
        raise UserError(
            f"{kind}: expected a grid of at most {positions} tokens after a prefix of one, got "
            f"{list(grid_shape)}; pass grid_shape=[R,C] (conditions of several tokens are not "
            "supported)"
        )
    if num_heads is None or num_classes is None:
        raise UserError(
            f"{kind}: expected num_heads and num_classes, which the shapes do not tell; pass "
            "n_head of the project.yaml beside the checkpoint, and 1000 for ImageNet's model or 0 "
            "for an unconditional one"
        )
    check_head_dim(kind, dim, num_heads)
    if not 0 <= num_classes <= vocab_size:
        raise UserError(f"{kind}: expected num_classes 0 to {vocab_size}, got {num_classes}")
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "grid_shape": grid_shape,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "embed_dim": dim,
        "mlp_dim": hidden,
        "activation": "gelu",
        "positions": "learned",
        "norm": "layer",
        "use_bias": True,
        "num_classes": num_classes,
        "cond_drop_prob": 0.0,
    }
    return Layout(
        GPT(GPTConfig(**(fields | overrides))),
        _sources(root, num_layers, num_heads, num_classes, seq_len),
        _shapes(root, num_layers, dim, hidden, vocab_size, positions),
        ignored=r"(?!transformer\.).*|transformer\.blocks\.\d+\.attn\.mask",
    )


def _sources(
    root: str, num_layers: int, heads: int, num_classes: int, seq_len: int
) -> dict[str, Source]:
    def prefix(array: np.ndarray) -> np.ndarray:
        null = np.zeros((1, array.shape[1]), array.dtype)
        return np.concatenate([array[:num_classes], null]) if num_classes else array[0]

    def layer(name: str, *build: Any) -> Source:
        return per_layer(f"{root}blocks.{{}}.{name}", num_layers, *build)

    sources = {
        "token_embedding": one(f"{root}tok_emb.weight"),
        "prefix/embedding_0": one(f"{root}tok_emb.weight", prefix),
        "position_embedding": one(f"{root}pos_emb", lambda array: array[0, :seq_len]),
        "norm/scale": one(f"{root}ln_f.weight"),
        "norm/bias": one(f"{root}ln_f.bias"),
        "head": one(f"{root}head.weight", transposed),
        "blocks/attention/out/kernel": layer("attn.proj.weight", merge_heads(heads)),
        "blocks/attention/out/bias": layer("attn.proj.bias"),
    }
    for name in ("query", "key", "value"):
        ours, theirs = f"blocks/attention/{name}", f"attn.{name}"
        sources[f"{ours}/kernel"] = layer(f"{theirs}.weight", split_heads(heads))
        sources[f"{ours}/bias"] = layer(f"{theirs}.bias", split_heads_bias(heads))
    for ours, theirs in (("attention_norm", "ln1"), ("mlp_norm", "ln2")):
        sources[f"blocks/{ours}/scale"] = layer(f"{theirs}.weight")
        sources[f"blocks/{ours}/bias"] = layer(f"{theirs}.bias")
    for ours, theirs in (("up", "mlp.0"), ("down", "mlp.2")):
        sources[f"blocks/mlp/{ours}/kernel"] = layer(f"{theirs}.weight", transposed)
        sources[f"blocks/mlp/{ours}/bias"] = layer(f"{theirs}.bias")
    return sources


def _shapes(
    root: str, num_layers: int, dim: int, hidden: int, vocab_size: int, positions: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}tok_emb.weight": (vocab_size, dim),
        f"{root}pos_emb": (1, positions, dim),
        f"{root}ln_f.weight": (dim,),
        f"{root}ln_f.bias": (dim,),
        f"{root}head.weight": (vocab_size, dim),
    }
    sizes = {"ln1": (dim,), "ln2": (dim,), "mlp.0": (hidden, dim), "mlp.2": (dim, hidden)}
    sizes |= {f"attn.{name}": (dim, dim) for name in ("query", "key", "value", "proj")}
    for i in range(num_layers):
        for name, size in sizes.items():
            shapes[f"{root}blocks.{i}.{name}.weight"] = size
            shapes[f"{root}blocks.{i}.{name}.bias"] = size[:1]
    return shapes
