"""Causal self-attention with an explicit key-value cache."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from igpt_jax.dtypes import DTypeName, resolve_dtype
from igpt_jax.models.kernels import AttentionKernel, choose_kernel, splash_attention
from igpt_jax.models.layers import NormName, build_norm, kernel_init, zeros_init
from igpt_jax.models.products import dot_general
from igpt_jax.models.rotary import rotate
from igpt_jax.typing import Array, Bool, Float, Int, Leaf


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer, allocated once for the whole sequence.

    Attributes:
        keys: `[layers b n s k]`, slots from `length` on are unused. Heads come before slots, so
            that reading a layer is one batched matrix product and no transposition.
        values: `[layers b n s k]`.
        length: int `[]`, number of slots filled so far, the same for every row.
        prefix_mask: bool `[b p]`, which of the first p slots, of conditions, captions and prompts,
            may be seen; None for all.
        condition: `[b d]`, what every step is modulated by, of models that have such a thing.
    """

    keys: Leaf
    values: Leaf
    length: Leaf
    prefix_mask: Leaf | None = None
    condition: Leaf | None = None


@runtime_checkable
class CachedConfig(Protocol):
    """What decides the shape of a cache."""

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        ...

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        ...

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        ...

    @property
    def num_slots(self) -> int:
        """Cache slots of a whole picture."""
        ...

    @property
    def dtype(self) -> DTypeName:
        """Compute dtype."""
        ...


def init_kv_cache(config: CachedConfig, batch_size: int, num_slots: int | None = None) -> KVCache:
    """An empty cache of `num_slots`; None for those of a whole picture."""
    num_slots = config.num_slots if num_slots is None else num_slots
    shape = (config.num_layers, batch_size, config.kv_heads, num_slots, config.head_dim)
    dtype = resolve_dtype(config.dtype)
    return KVCache(
        keys=jnp.zeros(shape, dtype), values=jnp.zeros(shape, dtype), length=jnp.int32(0)
    )


def grow_kv_cache(kv_cache: KVCache, num_slots: int) -> KVCache:
    """The same cache with room for more."""
    more = num_slots - kv_cache.keys.shape[3]
    padding = ((0, 0), (0, 0), (0, 0), (0, more), (0, 0))
    return dataclasses.replace(
        kv_cache, keys=jnp.pad(kv_cache.keys, padding), values=jnp.pad(kv_cache.values, padding)
    )


Rotation = tuple[Float[Array, "#b s k_half"], Float[Array, "#b s k_half"]]


def attend(
    query: Float[Array, "b q n k"],
    keys: Float[Array, "b q m k"],
    values: Float[Array, "b q m k"],
    prefix_mask: Bool[Array, "b p"] | None = None,
    kernel: AttentionKernel = "auto",
) -> Float[Array, "b q n k"]:
    """Causal softmax attention; grouped queries (Ainslie et al. 2023) when m < n.

    The softmax is in float32.
    """
    chosen = choose_kernel(kernel, query, has_mask=prefix_mask is not None)
    if chosen == "splash":
        return splash_attention(query, keys, values)
    mask = None
    if prefix_mask is not None:
        slots = jnp.arange(query.shape[1])
        mask = _not_padding(prefix_mask, slots, slots)[:, None]
    return jax.nn.dot_product_attention(
        query, keys, values, mask=mask, is_causal=True, implementation=chosen
    )


def _not_padding(
    prefix_mask: Bool[Array, "b p"], query_slots: Int[Array, " q"], key_slots: Int[Array, " s"]
) -> Bool[Array, "b q s"]:
    """Which keys are not padding; a slot always sees itself, or its softmax would be empty."""
    more = len(key_slots) - prefix_mask.shape[1]
    seen = jnp.pad(prefix_mask, ((0, 0), (0, more)), constant_values=True)
    return seen[:, None] | (query_slots[:, None] == key_slots)


def attend_cached(
    query: Float[Array, "b q n k"],
    keys: Float[Array, "b m s k"],
    values: Float[Array, "b m s k"],
    length: Int[Array, ""],
    prefix_mask: Bool[Array, "b p"] | None = None,
) -> Float[Array, "b q n k"]:
    """Attention of new slots to a cache that has them: query i sees slots up to `length + i`."""
    b, q, n, k = query.shape
    grouped = query.reshape(b, q, keys.shape[1], -1, k)
    scores = jnp.einsum("bqmgk,bmsk->bmgqs", grouped, keys, preferred_element_type=jnp.float32)
    query_slots, key_slots = length + jnp.arange(q), jnp.arange(keys.shape[2])
    visible = key_slots <= query_slots[:, None]
    if prefix_mask is not None:
        seen = _not_padding(prefix_mask, query_slots, key_slots)
        visible = (visible & seen)[:, None, None]
    weights = jax.nn.softmax(jnp.where(visible, scores * k**-0.5, -jnp.inf), axis=-1)
    out = jnp.einsum("bmgqs,bmsk->bqmgk", weights.astype(values.dtype), values)
    return out.reshape(b, q, n, k)


class CausalSelfAttention(nn.Module):
    """Multi-head attention with rotary positions, QK-norm and grouped queries.

    Attributes:
        num_heads: query heads `n`.
        num_kv_heads: key and value heads; divides `num_heads`.
        head_dim: channels `k` of a head.
        qk_norm: norm of queries and keys (Dehghani et al. 2023, section 2); None for none.
        use_bias: biases of the four projections.
        kernel: what computes attention without a cache.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_norm: NormName | None = None
    norm_epsilon: float = 1e-5
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel: AttentionKernel = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        rotation: Rotation | None,
        kv_cache: KVCache | None = None,
        layer: Int[Array, ""] | None = None,
        prefix_mask: Bool[Array, "b p"] | None = None,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        """Attends to what came before; with a cache, also to its filled slots.

        Slots of the prefix that `prefix_mask` hides are seen by none but themselves.

        Returns the output and the cache with this layer's keys and values written. The cache's
        `length` is left to the caller, for all layers share it.
        """

        def project(heads: int, name: str) -> Float[Array, "b q n k"]:
            return nn.DenseGeneral(
                (heads, self.head_dim),
                use_bias=self.use_bias,
                dtype=self.dtype,
                dot_general=dot_general,
                kernel_init=kernel_init("embed", "heads", "head_dim"),
                bias_init=zeros_init("heads", "head_dim"),
                name=name,
            )(x)

        query = project(self.num_heads, "query")
        key = project(self.num_kv_heads, "key")
        value = project(self.num_kv_heads, "value")
        if self.qk_norm is not None:
            query = build_norm(self.qk_norm, self.norm_epsilon, "query_norm")(query)
            key = build_norm(self.qk_norm, self.norm_epsilon, "key_norm")(key)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if kv_cache is None:
            out = attend(query, key, value, prefix_mask, self.kernel)
        else:
            assert layer is not None
            kv_cache = write_kv_cache(kv_cache, layer, key, value)
            keys, values = kv_cache.keys[layer], kv_cache.values[layer]
            out = attend_cached(query, keys, values, kv_cache.length, prefix_mask)
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            use_bias=self.use_bias,
            dtype=self.dtype,
            dot_general=dot_general,
            kernel_init=kernel_init("heads", "head_dim", "embed"),
            bias_init=zeros_init("norm"),
            name="out",
        )(out)
        return out, kv_cache


def write_kv_cache(
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
