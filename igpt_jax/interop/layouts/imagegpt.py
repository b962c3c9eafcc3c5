"""OpenAI's iGPT, as its TensorFlow checkpoints and as Hugging Face's ImageGPT name it.

Facts: openai/image-gpt `src/model.py`; transformers `models/imagegpt`.
"""

import math
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.base import (
    Layout,
    Source,
    Specs,
    count_layers,
    one,
    per_layer,
    shape_of,
    transposed,
)
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.presets import IMAGEGPT_SIZES

_PUBLISHED_HEADS: Final = {
    embed_dim: num_heads for _, num_heads, embed_dim in IMAGEGPT_SIZES.values()
}


def imagegpt(specs: Specs, *, num_heads: int | None = None, **overrides: Any) -> Layout:
    """Hugging Face's `ImageGPTForCausalImageModeling`.

    Its biases, which OpenAI's model does not have, must be zero. The start token is the last row of
    its embeddings; head and embeddings are not tied, whatever its config says.

    Args:
        specs: the checkpoint's arrays.
        num_heads: query heads; known for the published widths.
        overrides: other fields of `GPTConfig`.
    """
    kind = "imagegpt"
    rows, embed_dim = shape_of(specs, "transformer.wte.weight", 2, kind)
    positions, _ = shape_of(specs, "transformer.wpe.weight", 2, kind)
    hidden_dim = shape_of(specs, "transformer.h.0.mlp.c_fc.weight", 2, kind)[1]
    num_layers = count_layers(specs, "transformer.h.")
    config = _config(
        kind, rows - 1, positions, num_layers, embed_dim, hidden_dim, num_heads, overrides
    )
    heads = config.num_heads

    def fused(part: int) -> Source:
        return per_layer(
            "transformer.h.{}.attn.c_attn.weight",
            num_layers,
            lambda array: np.split(array, 3, axis=1)[part].reshape(embed_dim, heads, -1),
        )

    def layer(name: str, *shape: int) -> Source:
        build = (lambda array: array.reshape(shape)) if shape else (lambda array: array)
        return per_layer(f"transformer.h.{{}}.{name}.weight", num_layers, build)

    sources = {
        "token_embedding": one("transformer.wte.weight", lambda array: array[:-1]),
        "prefix/embedding_0": one("transformer.wte.weight", lambda array: array[-1]),
        "position_embedding": one("transformer.wpe.weight"),
        "norm/scale": one("transformer.ln_f.weight"),
        "head": one("lm_head.weight", transposed),
        "blocks/attention/query/kernel": fused(0),
        "blocks/attention/key/kernel": fused(1),
        "blocks/attention/value/kernel": fused(2),
        "blocks/attention/out/kernel": layer("attn.c_proj", heads, -1, embed_dim),
        "blocks/attention_norm/scale": layer("ln_1"),
        "blocks/mlp/up/kernel": layer("mlp.c_fc"),
        "blocks/mlp/down/kernel": layer("mlp.c_proj"),
        "blocks/mlp_norm/scale": layer("ln_2"),
    }
    return Layout(
        GPT(config),
        sources,
        imagegpt_shapes(config),
        ignored=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
        zeros=r"transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.bias",
    )


def imagegpt_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of `ImageGPTForCausalImageModeling`, without its biases."""
    dim, hidden = config.embed_dim, config.hidden_dim
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size + 1, dim),
        "transformer.wpe.weight": (config.num_slots, dim),
        "transformer.ln_f.weight": (dim,),
        "lm_head.weight": (config.vocab_size, dim),
    }
    for i in range(config.num_layers):
        shapes |= {
            f"transformer.h.{i}.ln_1.weight": (dim,),
            f"transformer.h.{i}.ln_2.weight": (dim,),
            f"transformer.h.{i}.attn.c_attn.weight": (dim, 3 * dim),
            f"transformer.h.{i}.attn.c_proj.weight": (dim, dim),
            f"transformer.h.{i}.mlp.c_fc.weight": (dim, hidden),
            f"transformer.h.{i}.mlp.c_proj.weight": (hidden, dim),
        }
    return shapes


def imagegpt_tf(specs: Specs, **overrides: Any) -> Layout:
    """OpenAI's TensorFlow checkpoint `model.ckpt-N`, whose shapes say everything.

    Args:
        specs: the checkpoint's arrays.
        overrides: fields of `GPTConfig`.
    """
    kind = "imagegpt-tf"
    vocab_size, embed_dim = shape_of(specs, "model/wte", 2, kind)
    positions, _ = shape_of(specs, "model/wpe", 2, kind)
    heads, head_dim, _ = shape_of(specs, "model/h0/attn/q_proj", 3, kind)
    hidden_dim = shape_of(specs, "model/h0/mlp/c_fc/w", 2, kind)[1]
    num_layers = count_layers(specs, "model/h", "/")
    config = _config(
        kind, vocab_size, positions, num_layers, embed_dim, hidden_dim, heads, overrides
    )

    def projection(name: str) -> Source:
        pattern = f"model/h{{}}/attn/{name}_proj"
        return per_layer(pattern, num_layers, lambda array: array.transpose(2, 0, 1))

    sources = {
        "token_embedding": one("model/wte"),
        "prefix/embedding_0": one("model/sos"),
        "position_embedding": one("model/wpe"),
        "norm/scale": one("model/ln_f/g"),
        "head": one("model/wtet", transposed),
        "blocks/attention/query/kernel": projection("q"),
        "blocks/attention/key/kernel": projection("k"),
        "blocks/attention/value/kernel": projection("v"),
        "blocks/attention/out/kernel": per_layer("model/h{}/attn/c_proj", num_layers),
        "blocks/attention_norm/scale": per_layer("model/h{}/ln_1/g", num_layers),
        "blocks/mlp/up/kernel": per_layer("model/h{}/mlp/c_fc/w", num_layers),
        "blocks/mlp/down/kernel": per_layer("model/h{}/mlp/c_proj/w", num_layers),
        "blocks/mlp_norm/scale": per_layer("model/h{}/ln_2/g", num_layers),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model/wte": (vocab_size, embed_dim),
        "model/sos": (embed_dim,),
        "model/wpe": (positions, embed_dim),
        "model/ln_f/g": (embed_dim,),
        "model/wtet": (vocab_size, embed_dim),
    }
    for i in range(num_layers):
        shapes |= {f"model/h{i}/attn/{n}_proj": (heads, head_dim, embed_dim) for n in "qkvc"}
        shapes |= {f"model/h{i}/ln_{n}/g": (embed_dim,) for n in (1, 2)}
        shapes[f"model/h{i}/mlp/c_fc/w"] = (embed_dim, hidden_dim)
        shapes[f"model/h{i}/mlp/c_proj/w"] = (hidden_dim, embed_dim)
    # What the optimizer keeps, and the heads of the fine-tuned classifiers.
    ignored = r".*/(Adam|Adam_1|adam_m|adam_v)|.*(beta[12]_power|global_step)|.*clf.*"
    return Layout(GPT(config), sources, shapes, ignored)


def _config(
    kind: str,
    vocab_size: int,
    positions: int,
    num_layers: int,
    embed_dim: int,
    hidden_dim: int,
    num_heads: int | None,
    overrides: dict[str, Any],
) -> GPTConfig:
    side = math.isqrt(positions)
    if side * side != positions:
        raise UserError(f"{kind}: expected a square number of positions, got {positions}")
    if num_heads is None:
        if embed_dim not in _PUBLISHED_HEADS:
            raise UserError(
                f"{kind}: expected num_heads, as {embed_dim} channels are no published size; pass "
                "num_heads=N"
            )
        num_heads = _PUBLISHED_HEADS[embed_dim]
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "grid_shape": (side, side),
        "num_layers": num_layers,
        "num_heads": num_heads,
        "embed_dim": embed_dim,
        "mlp_dim": hidden_dim,
        "activation": "sigmoid_gelu",
        "positions": "learned",
    }
    return GPTConfig(**(fields | overrides))


def imagegpt_arrays(config: GPTConfig, params: Any) -> dict[str, np.ndarray]:
    """Our parameters as `ImageGPTForCausalImageModeling` has them, with zero biases."""
    blocks, dim = params["blocks"], config.embed_dim

    def flat(name: str, i: int) -> np.ndarray:
        return np.asarray(blocks["attention"][name]["kernel"][i]).reshape(dim, dim)

    start = np.asarray(params["prefix"]["embedding_0"])[None]
    arrays = {
        "transformer.wte.weight": np.concatenate([np.asarray(params["token_embedding"]), start]),
        "transformer.wpe.weight": np.asarray(params["position_embedding"]),
        "transformer.ln_f.weight": np.asarray(params["norm"]["scale"]),
        "lm_head.weight": np.asarray(params["head"]).T,
    }
    for i in range(config.num_layers):
        name = f"transformer.h.{i}"
        fused = np.concatenate([flat(part, i) for part in ("query", "key", "value")], axis=1)
        weights = {
            "attn.c_attn": fused,
            "attn.c_proj": flat("out", i),
            "mlp.c_fc": np.asarray(blocks["mlp"]["up"]["kernel"][i]),
            "mlp.c_proj": np.asarray(blocks["mlp"]["down"]["kernel"][i]),
        }
        for part, weight in weights.items():
            arrays[f"{name}.{part}.weight"] = weight
            arrays[f"{name}.{part}.bias"] = np.zeros(weight.shape[1], weight.dtype)
        arrays[f"{name}.ln_1.weight"] = np.asarray(blocks["attention_norm"]["scale"][i])
        arrays[f"{name}.ln_2.weight"] = np.asarray(blocks["mlp_norm"]["scale"][i])
    return arrays


def looks_like_imagegpt(config: GPTConfig) -> bool:
    """Whether ImageGPT has all that the model has."""
    same = GPTConfig(
        vocab_size=config.vocab_size, grid_shape=config.grid_shape, num_layers=config.num_layers,
        num_heads=config.num_heads, embed_dim=config.embed_dim, mlp_dim=config.mlp_dim,
        activation="sigmoid_gelu", positions="learned", norm_epsilon=config.norm_epsilon,
    )  # fmt: skip
    free = ("dtype", "remat", "attention_kernel", "embed_dropout", "residual_dropout",
            "cond_drop_prob", "rope_base", "prefix_rotation", "num_kv_heads")  # fmt: skip
    names = [name for name in vars(config) if name not in free]
    is_plain = all(getattr(config, name) == getattr(same, name) for name in names)
    return is_plain and config.kv_heads == config.num_heads
