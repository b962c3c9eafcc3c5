"""The layers of VAR (Tian et al. 2024, section 3.3): attention over scales, steered by a class."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.models.attention import KVCache, write_kv_cache
from igpt_jax.models.layers import zeros_init
from igpt_jax.models.var_config import VARConfig
from igpt_jax.partitioning import shard_rows
from igpt_jax.typing import Array, Bool, Float, Int, PRNGKey

MLP_RATIO = 4
NORM_EPSILON = 1e-6
FIRST_LOG_SCALE, MAX_LOG_SCALE = math.log(4.0), math.log(100.0)
UNNORMED_LOGIT_SCALE = 0.25  # over the root of head_dim
NUM_MODULATIONS = 6  # gates of attention and feed-forward layer, then both scales, both shifts
GATE_INIT, MODULATION_INIT = 1e-5, 0.5  # published, relative to the spread of other weights


def scale_mask(scales: tuple[int, ...]) -> Bool[np.ndarray, "l l"]:
    """Which slots a slot sees: those of its own scale and of scales before it."""
    scale_of_slot = np.repeat(np.arange(len(scales)), np.square(scales))
    return scale_of_slot[:, None] >= scale_of_slot


def scaled_normal(config: VARConfig, factor: float, *logical_axes: str | None) -> Any:
    """Normal, of the published spread times a factor."""
    spread = factor * math.sqrt(1 / (3 * config.embed_dim))
    return nn.with_logical_partitioning(nn.initializers.normal(spread), logical_axes)


def _modulation_init(config: VARConfig, factor: float, *logical_axes: str | None) -> Any:
    """As `scaled_normal`, over `[... six d]`: gates nearly closed, scales and shifts halved."""
    normal = nn.initializers.normal(factor * math.sqrt(1 / (3 * config.embed_dim)))
    factors = jnp.where(jnp.arange(NUM_MODULATIONS) < 2, GATE_INIT, MODULATION_INIT)

    def init(key: PRNGKey, shape: tuple[int, ...], dtype: Any) -> Array:
        # Flax asks for the kernel with its last two axes flattened.
        drawn = normal(key, shape, dtype).reshape(-1, NUM_MODULATIONS, config.embed_dim)
        return (drawn * factors[:, None]).reshape(shape)

    return nn.with_logical_partitioning(init, logical_axes)


def modulate(
    x: Float[Array, "b s d"], scale: Float[Array, "b d"], shift: Float[Array, "b d"]
) -> Float[Array, "b s d"]:
    """LayerNorm whose scale and shift come from the class (Peebles & Xie 2023), in float32."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + NORM_EPSILON)
    return (y * (1 + scale[:, None]) + shift[:, None]).astype(x.dtype)


def _l2_normalized(x: Float[Array, "b s n k"]) -> Float[Array, "b s n k"]:
    norm = jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
    return x / jnp.maximum(norm, 1e-12)


class ScaleAttention(nn.Module):
    """Multi-head attention over scales; biases for all but keys, as published."""

    config: VARConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        kv_cache: KVCache | None,
        layer: Int[Array, ""],
        num_slots: int,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        """Attends within the scales that are given, or to the first `num_slots` of the cache."""
        config, dtype = self.config, x.dtype

        def project(name: str, use_bias: bool) -> Float[Array, "b q n k"]:
            return nn.DenseGeneral(
                (config.num_heads, config.head_dim),
                use_bias=use_bias,
                dtype=dtype,
                kernel_init=scaled_normal(config, 1.0, "embed", "heads", "head_dim"),
                bias_init=zeros_init("heads", "head_dim"),
                name=name,
            )(x)

        query, key, value = project("query", True), project("key", False), project("value", True)
        logit_scale = UNNORMED_LOGIT_SCALE * config.head_dim**-0.5
        if config.qk_l2_norm:
            log_scale: Any = self.param(
                "log_scale",
                nn.with_logical_partitioning(nn.initializers.constant(FIRST_LOG_SCALE), ("heads",)),
                (config.num_heads,),
                jnp.float32,
            )
            sharpness = jnp.exp(jnp.minimum(log_scale, MAX_LOG_SCALE))[:, None]
            query = (_l2_normalized(query) * sharpness).astype(dtype)
            key, logit_scale = _l2_normalized(key).astype(dtype), 1.0
        if kv_cache is None:
            mask = jnp.asarray(scale_mask(config.scales))[None, None]
        else:
            mask, kv_cache = None, write_kv_cache(kv_cache, layer, key, value)
            key, value = (
                slots[layer, :, :, :num_slots].swapaxes(1, 2)
                for slots in (kv_cache.keys, kv_cache.values)
            )
        out = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=logit_scale)
        out = nn.DenseGeneral(
            config.embed_dim,
            axis=(-2, -1),
            dtype=dtype,
            kernel_init=scaled_normal(
                config, (2 * config.num_layers) ** -0.5, "heads", "head_dim", "embed"
            ),
            bias_init=zeros_init("norm"),
            name="out",
        )(out)
        return out, kv_cache


class VARBlock(nn.Module):
    """A Transformer block modulated by the class; residual stream and cache are its carry."""

    config: VARConfig

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "b q d"], KVCache | None],
        layer: Int[Array, ""],
        condition: Float[Array, "b *six d"],
        num_slots: int,
    ) -> tuple[tuple[Float[Array, "b q d"], KVCache | None], None]:
        """One layer; `condition` is the class, or with `shared_ada_ln` what all blocks share."""
        config, (x, kv_cache) = self.config, carry
        gate_1, gate_2, scale_1, scale_2, shift_1, shift_2 = jnp.moveaxis(
            self._modulations(condition), 1, 0
        )
        attention = ScaleAttention(config, name="attention")
        update, kv_cache = attention(modulate(x, scale_1, shift_1), kv_cache, layer, num_slots)
        x = x + (update * gate_1[:, None]).astype(x.dtype)
        update = self._feed_forward(modulate(x, scale_2, shift_2))
        x = x + (update * gate_2[:, None]).astype(x.dtype)
        return (shard_rows(x), kv_cache), None

    def _modulations(self, condition: Float[Array, "b *six d"]) -> Float[Array, "b six d"]:
        if not self.config.shared_ada_ln:
            modulation = nn.DenseGeneral(
                (NUM_MODULATIONS, self.config.embed_dim),
                kernel_init=_modulation_init(self.config, 1.0, "embed", None, "norm"),
                bias_init=zeros_init(None, "norm"),
                name="modulation",
            )
            return modulation(nn.silu(condition))
        offset: Any = self.param(
            "modulation_offset",
            _modulation_init(self.config, math.sqrt(3), None, "norm"),
            (NUM_MODULATIONS, self.config.embed_dim),
            jnp.float32,
        )
        return offset + condition

    def _feed_forward(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        config = self.config

        def dense(features: int, name: str, factor: float, axes: tuple[str, str]) -> nn.Dense:
            return nn.Dense(
                features,
                dtype=x.dtype,
                kernel_init=scaled_normal(config, factor, *axes),
                bias_init=zeros_init(axes[-1]),
                name=name,
            )

        hidden = dense(MLP_RATIO * config.embed_dim, "mlp_up", 1.0, ("embed", "mlp"))(x)
        hidden = nn.gelu(hidden, approximate=True)
        factor = (2 * config.num_layers) ** -0.5
        return dense(config.embed_dim, "mlp_down", factor, ("mlp", "embed"))(hidden)
