"""Hugging Face's T5: the encoder of a whole checkpoint or of one that has nothing else.

Facts: huggingface/transformers `models/t5/modeling_t5.py`.
"""

from typing import Any, Final

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
    transposed,
)
from igpt_jax.text.t5 import T5Config, T5Encoder

_KIND: Final = "t5-encoder"
_SHARED: Final = "shared.weight"
_TIED: Final = "encoder.embed_tokens.weight"
_BLOCK: Final = "encoder.block.{}."
_ATTENTION: Final = "encoder.block.{}.layer.0.SelfAttention."
_MLP: Final = "encoder.block.{}.layer.1.DenseReluDense."
_BIAS: Final = _ATTENTION.format(0) + "relative_attention_bias.weight"
_IGNORED: Final = r"(shared|encoder\.embed_tokens|lm_head)\.weight|decoder\..*"


def t5_encoder(specs: Specs, *, num_heads: int | None = None, **overrides: Any) -> Layout:
    """The layout of `T5EncoderModel` and of the encoder in `T5ForConditionalGeneration`.

    The embedding may be there under two names, which are one array; the decoder and its head are
    ignored. Sizes, heads and the activation are read off the arrays.

    Args:
        specs: the checkpoint's arrays.
        num_heads: None, or the number that it must have.
        overrides: other fields of `T5Config`; no array tells `max_distance` and `norm_epsilon`.

    Raises:
        UserError: arrays that tell the sizes are missing or contradict each other.
    """
    embedding = _TIED if _SHARED not in specs and _TIED in specs else _SHARED
    vocab_size, embed_dim = shape_of(specs, embedding, 2, _KIND)
    num_buckets, heads = shape_of(specs, _BIAS, 2, _KIND)
    if num_heads not in (None, heads):
        raise UserError(
            f"{_KIND}: expected num_heads={heads}, for {_BIAS} has the shape "
            f"{[num_buckets, heads]}, got {num_heads}; leave it out"
        )
    inner_dim = shape_of(specs, _ATTENTION.format(0) + "q.weight", 2, _KIND)[0]
    check_head_dim(_KIND, inner_dim, heads)
    gated = _MLP.format(0) + "wi_0.weight" in specs
    first = _MLP.format(0) + ("wi_0.weight" if gated else "wi.weight")
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "embed_dim": embed_dim,
        "head_dim": inner_dim // heads,
        "num_heads": heads,
        "mlp_dim": shape_of(specs, first, 2, _KIND)[0],
        "num_layers": count_layers(specs, "encoder.block."),
        "num_buckets": num_buckets,
        "activation": "gated_gelu" if gated else "relu",
    }
    config = T5Config(**(fields | overrides))
    return Layout(
        module=T5Encoder(config),
        sources=_sources(config, embedding),
        shapes=_shapes(config, embedding),
        ignored=_IGNORED,
    )


def _mlp_names(config: T5Config) -> dict[str, str]:
    """Our name of each matrix of the feed-forward layer, and theirs."""
    if config.activation == "relu":
        return {"up": "wi", "down": "wo"}
    return {"gate": "wi_0", "up": "wi_1", "down": "wo"}


def _sources(config: T5Config, embedding: str) -> dict[str, Source]:
    layers, heads = config.num_layers, config.num_heads
    sources = {
        "token_embedding": one(embedding),
        "relative_bias": one(_BIAS),
        "norm/scale": one("encoder.final_layer_norm.weight"),
        "blocks/attention_norm/scale": per_layer(_BLOCK + "layer.0.layer_norm.weight", layers),
        "blocks/mlp_norm/scale": per_layer(_BLOCK + "layer.1.layer_norm.weight", layers),
        "blocks/attention/out/kernel": per_layer(
            _ATTENTION + "o.weight", layers, merge_heads(heads)
        ),
    }
    for ours, theirs in {"query": "q", "key": "k", "value": "v"}.items():
        sources[f"blocks/attention/{ours}/kernel"] = per_layer(
            f"{_ATTENTION}{theirs}.weight", layers, split_heads(heads)
        )
    for ours, theirs in _mlp_names(config).items():
        sources[f"blocks/mlp/{ours}/kernel"] = per_layer(
            f"{_MLP}{theirs}.weight", layers, transposed
        )
    return sources


def _shapes(config: T5Config, embedding: str) -> dict[str, tuple[int, ...]]:
    embed_dim, mlp_dim = config.embed_dim, config.mlp_dim
    inner_dim = config.num_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        embedding: (config.vocab_size, embed_dim),
        _BIAS: (config.num_buckets, config.num_heads),
        "encoder.final_layer_norm.weight": (embed_dim,),
    }
    for layer in range(config.num_layers):
        for norm in ("layer.0", "layer.1"):
            shapes[f"{_BLOCK.format(layer)}{norm}.layer_norm.weight"] = (embed_dim,)
        for name in "qkv":
            shapes[f"{_ATTENTION.format(layer)}{name}.weight"] = (inner_dim, embed_dim)
        shapes[_ATTENTION.format(layer) + "o.weight"] = (embed_dim, inner_dim)
        for ours, theirs in _mlp_names(config).items():
            shape = (embed_dim, mlp_dim) if ours == "down" else (mlp_dim, embed_dim)
            shapes[f"{_MLP.format(layer)}{theirs}.weight"] = shape
    return shapes
