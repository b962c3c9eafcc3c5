"""Causal self-attention with an explicit key-value cache."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from igpt_jax.models.layers import RMSNorm, kernel_init
from igpt_jax.models.rotary import rotate
from igpt_jax.typing import Array, Float, Int, Leaf


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer, allocated once for the whole sequence.

    Attributes:
        keys: `[layers b n s k]`, slots from `length` on are unused. Heads come before slots, so
            that reading a layer is one batched matrix product and no transposition.
        values: `[layers b n s k]`.
        length: int `[]`, number of slots filled so far, the same for every row.
    """

    keys: Leaf
    values: Leaf
    length: Leaf


Rotation = tuple[Float[Array, "#b s k_half"], Float[Array, "#b s k_half"]]


def attend(
    query: Float[Array, "b q n k"],
    keys: Float[Array, "b q m k"],
    values: Float[Array, "b q m k"],
) -> Float[Array, "b q n k"]:
    """Causal softmax attention; grouped queries (Ainslie et al. 2023) when m < n.

    The one place to choose a kernel; today XLA's own on every platform. The softmax is in float32.
    """
    return jax.nn.dot_product_attention(query, keys, values, is_causal=True)


def attend_cached(
    query: Float[Array, "b q n k"],
    keys: Float[Array, "b m s k"],
    values: Float[Array, "b m s k"],
    length: Int[Array, ""],
) -> Float[Array, "b q n k"]:
    """Attention of new slots to a cache that has them: query i sees slots up to `length + i`."""
    b, q, n, k = query.shape
    grouped = query.reshape(b, q, keys.shape[1], -1, k)
    scores = jnp.einsum("bqmgk,bmsk->bmgqs", grouped, keys, preferred_element_type=jnp.float32)
    visible = jnp.arange(keys.shape[2]) <= length + jnp.arange(q)[:, None]
    weights = jax.nn.softmax(jnp.where(visible, scores * k**-0.5, -jnp.inf), axis=-1)
    out = jnp.einsum("bmgqs,bmsk->bqmgk", weights.astype(values.dtype), values)
    return out.reshape(b, q, n, k)


class CausalSelfAttention(nn.Module):
    """Multi-head attention without biases, with rotary positions, QK-norm and grouped queries.

    Attributes:
        num_heads: query heads `n`.
        num_kv_heads: key and value heads; divides `num_heads`.
        head_dim: channels `k` of a head.
        qk_norm: RMSNorm of queries and keys (Dehghani et al. 2023, section 2).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_norm: bool = False
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        rotation: Rotation | None,
        kv_cache: KVCache | None = None,
        layer: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        """Attends to what came before; with a cache, also to its filled slots.

        Returns the output and the cache with this layer's keys and values written. The cache's
        `length` is left to the caller, for all layers share it.
        """

        def project(heads: int, name: str) -> Float[Array, "b q n k"]:
            return nn.DenseGeneral(
                (heads, self.head_dim),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=kernel_init("embed", "heads", "head_dim"),
                name=name,
            )(x)

        query = project(self.num_heads, "query")
        key = project(self.num_kv_heads, "key")
        value = project(self.num_kv_heads, "value")
        if self.qk_norm:
            query = RMSNorm(self.norm_epsilon, name="query_norm")(query)
            key = RMSNorm(self.norm_epsilon, name="key_norm")(key)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if kv_cache is None:
            out = attend(query, key, value)
        else:
            assert layer is not None
            kv_cache = _write(kv_cache, layer, key, value)
            out = attend_cached(
                query, kv_cache.keys[layer], kv_cache.values[layer], kv_cache.length
            )
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kernel_init("heads", "head_dim", "embed"),
            name="out",
        )(out)
        return out, kv_cache


def _write(
    kv_cache: KVCache,
    layer: Int[Array, ""],
    key: Float[Array, "b q n k"],
    value: Float[Array, "b q n k"],
) -> KVCache:
    """Writes one layer's new keys and values behind the filled slots."""
    start = (layer, 0, 0, kv_cache.length, 0)
    key, value = (x.swapaxes(1, 2)[None] for x in (key, value))
    return dataclasses.replace(
        kv_cache,
        keys=jax.lax.dynamic_update_slice(kv_cache.keys, key, start),
        values=jax.lax.dynamic_update_slice(kv_cache.values, value, start),
    )
