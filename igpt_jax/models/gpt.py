"""The GPT over image tokens: iGPT and LlamaGen are two settings of it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.dtypes import DTypeName, resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.models.attention import CausalSelfAttention, KVCache, Rotation
from igpt_jax.models.conditioning import ClassEmbedder, StartEmbedder
from igpt_jax.models.layers import FeedForward, RMSNorm, kernel_init
from igpt_jax.models.rotary import raster_coordinates, rotation
from igpt_jax.partitioning import shard_rows
from igpt_jax.typing import Array, Float, Int

REMAT_POLICIES = {
    "full": None,  # keep nothing but the block's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


OUTSIDE = -1  # the coordinate of condition slots, which lie in no cell of the grid


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    Attributes:
        vocab_size: token ids that it predicts; 0 takes the tokenizer's.
        grid_shape: tokens of a picture, (rows, columns); (0, 0) takes the tokenizer's.
        num_layers: Transformer blocks.
        num_heads: query heads.
        embed_dim: channels of the residual stream.
        num_kv_heads: key and value heads; None for `num_heads` (no grouping).
        mlp_dim: channels inside the feed-forward layer; None for 4 * embed_dim, or with SwiGLU
            two thirds of that, rounded up to a multiple of 256 (LlamaGen).
        activation: feed-forward kind.
        positions: rotary over rows and columns, or a learned table.
        num_classes: classes to condition on; 0 for an unconditional model.
        class_factors: radices to split the class id by, see `ClassEmbedder`.
        cond_drop_prob: share of training rows whose class is replaced by null, for guidance.
        qk_norm: RMSNorm of queries and keys.
        embed_dropout: dropout of the embedded sequence.
        residual_dropout: dropout of what each sublayer adds to the residual stream.
        rope_base: wave length base of the rotary embedding.
        prefix_rotation: rotary angle of the prefix; "zero" multiplies its queries and keys by
            zero, which the published LlamaGen weights were trained with.
        norm_epsilon: added to the mean square in every norm.
        remat: what the backward pass recomputes: nothing, all but matrix products, or all.
        dtype: compute dtype; parameters, softmax, logits and losses are float32.
    """

    vocab_size: int = 0
    grid_shape: tuple[int, int] = (0, 0)
    num_layers: int = 12
    num_heads: int = 12
    embed_dim: int = 768
    num_kv_heads: int | None = None
    mlp_dim: int | None = None
    activation: Literal["swiglu", "sigmoid_gelu"] = "swiglu"
    positions: Literal["rotary", "learned"] = "rotary"
    num_classes: int = 0
    class_factors: tuple[int, ...] = ()
    cond_drop_prob: float = 0.1  # LlamaGen and the guidance paper (section 5)
    qk_norm: bool = False
    embed_dropout: float = 0.0
    residual_dropout: float = 0.0
    rope_base: float = 10_000.0
    prefix_rotation: Literal["identity", "zero"] = "identity"
    norm_epsilon: float = 1e-5
    remat: Literal["none", "dots", "full"] = "none"
    dtype: DTypeName = "auto"

    def __post_init__(self) -> None:
        """Refuses shapes that no model has."""
        for name in ("num_layers", "num_heads", "embed_dim", "kv_heads", "hidden_dim"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        for name in ("vocab_size", "num_classes"):
            _check(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        for name in ("embed_dropout", "residual_dropout", "cond_drop_prob"):
            _check(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1)", getattr(self, name))
        _check(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim must divide by num_heads {self.num_heads}",
            self.embed_dim,
        )
        _check(
            self.num_heads % self.kv_heads == 0,
            f"num_kv_heads must divide num_heads {self.num_heads}",
            self.kv_heads,
        )
        _check(
            self.positions == "learned" or self.head_dim % 4 == 0,
            "rotary positions need embed_dim / num_heads to divide by 4",
            self.head_dim,
        )
        _check(
            not self.class_factors or math.prod(self.class_factors) >= self.num_classes > 0,
            f"class_factors must multiply to at least num_classes {self.num_classes}",
            self.class_factors,
        )

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.embed_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def hidden_dim(self) -> int:
        """Channels inside the feed-forward layer."""
        if self.mlp_dim is not None:
            return self.mlp_dim
        if self.activation == "swiglu":
            return 256 * math.ceil(int(2 / 3 * 4 * self.embed_dim) / 256)
        return 4 * self.embed_dim

    @property
    def seq_len(self) -> int:
        """Tokens `l` of one picture."""
        return math.prod(self.grid_shape)

    @property
    def prefix_len(self) -> int:
        """Condition slots `p` before the first token."""
        return max(1, len(self.class_factors))

    @property
    def num_slots(self) -> int:
        """Cache slots of a whole picture: its last token is drawn, never fed."""
        return self.prefix_len + self.seq_len - 1


def _check(holds: bool, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"GPT config: {expected}, got {got}")


class Block(nn.Module):
    """A pre-norm Transformer block; the residual stream and the cache are its carry."""

    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "b q d"], KVCache | None],
        layer: Int[Array, ""],
        rotation: Rotation | None,
        deterministic: bool,
    ) -> tuple[tuple[Float[Array, "b q d"], KVCache | None], None]:
        """One layer; `layer` says which slice of the cache is its own."""
        config, (x, kv_cache) = self.config, carry
        dtype = resolve_dtype(config.dtype)
        dropout = nn.Dropout(config.residual_dropout, deterministic=deterministic)
        attention = CausalSelfAttention(
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qk_norm=config.qk_norm,
            norm_epsilon=config.norm_epsilon,
            dtype=dtype,
            name="attention",
        )
        norm = RMSNorm(config.norm_epsilon, name="attention_norm")
        update, kv_cache = attention(norm(x), rotation, kv_cache, layer)
        x = x + dropout(update)
        feed_forward = FeedForward(config.hidden_dim, config.activation, dtype, name="mlp")
        x = x + dropout(feed_forward(RMSNorm(config.norm_epsilon, name="mlp_norm")(x)))
        return (shard_rows(x), kv_cache), None


class GPT(nn.Module):
    """Predicts each image token from its condition and the tokens before it.

    `params` is its only collection, and the key-value cache is an argument and a return value.
    Slots of the sequence: `p` condition slots, then tokens; the slot before a token predicts it.
    Positions are data: each token carries the coordinates of its cell.
    """

    config: GPTConfig

    def setup(self) -> None:
        """Declares the parts; parameters of all blocks are stacked on axis 0."""
        config = self.config
        block = Block
        if config.remat != "none":
            block = nn.remat(
                Block,
                policy=REMAT_POLICIES[config.remat],
                prevent_cse=False,  # the scan below already keeps the copies apart
                static_argnums=(4,),
            )
        self.token_embedding: Any = self.param(
            "token_embedding",
            kernel_init("vocab", "embed"),
            (config.vocab_size, config.embed_dim),
            jnp.float32,
        )
        self.prefix: Any = (
            ClassEmbedder(config.num_classes, config.class_factors, config.embed_dim)
            if config.num_classes
            else StartEmbedder(config.embed_dim)
        )
        if config.positions == "learned":
            self.position_embedding: Any = self.param(
                "position_embedding",
                kernel_init(None, "embed"),
                (config.num_slots, config.embed_dim),
                jnp.float32,
            )
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        self.norm = RMSNorm(config.norm_epsilon)
        # Zero, as iGPT and LlamaGen start: the first prediction is uniform.
        self.head: Any = self.param(
            "head",
            nn.with_logical_partitioning(nn.initializers.zeros, ("embed", "vocab")),
            (config.embed_dim, config.vocab_size),
            jnp.float32,
        )

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        labels: Int[Array, " b"] | None = None,
        *,
        coordinates: Int[Array, "#b s 3"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b s_plus_1 v"]:
        """Logits of tokens 0 to s, given the first s tokens of each picture.

        Args:
            tokens: ids in raster order; all but the last one for training, or fewer.
            labels: class ids; `config.num_classes` is the null condition. None for models
                without classes.
            coordinates: (time, row, column) of each given token; None for raster order.
            deterministic: no dropout when true.

        Returns:
            float32 logits; `logits[:, i]` predicts `tokens[:, i]`.
        """
        hidden, _ = self._sequence(tokens, labels, coordinates, None, deterministic)
        return self._logits(hidden[:, self.config.prefix_len - 1 :])

    def prefill(
        self,
        tokens: Int[Array, "b s"],
        labels: Int[Array, " b"] | None,
        kv_cache: KVCache,
        coordinates: Int[Array, "#b s 3"] | None = None,
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Fills an empty cache with the condition and s >= 0 known tokens; predicts token s."""
        hidden, filled = self._sequence(tokens, labels, coordinates, kv_cache, True)
        assert filled is not None
        return self._logits(hidden[:, -1]), filled

    def decode_step(
        self,
        tokens: Int[Array, " b"],
        kv_cache: KVCache,
        coordinates: Int[Array, "#b 1 3"] | None = None,
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Appends one token a row to the cache and predicts the next."""
        if coordinates is None:
            coordinates = self._raster(kv_cache.length - self.config.prefix_len, 1)
        embedded = self._embed(tokens[:, None], coordinates)
        hidden, filled = self._blocks(embedded, coordinates, kv_cache, True)
        assert filled is not None
        return self._logits(hidden[:, 0]), filled

    def _sequence(
        self,
        tokens: Int[Array, "b s"],
        labels: Int[Array, " b"] | None,
        coordinates: Int[Array, "#b s 3"] | None,
        kv_cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        """Runs the condition and the tokens behind it through the blocks."""
        config = self.config
        if (labels is None) != (config.num_classes == 0):
            raise UserError(
                f"the model has {config.num_classes} classes, but labels "
                f"{'are missing' if labels is None else 'were given'}; "
                f"pass {'one label a picture' if labels is None else 'labels=None'}"
            )
        prefix = self.prefix(tokens.shape[0] if labels is None else labels)
        if config.positions == "learned":
            prefix = prefix + self.position_embedding[: config.prefix_len]
        if coordinates is None:
            coordinates = self._raster(0, tokens.shape[1])
        embedded = self._embed(tokens, coordinates)
        x = jnp.concatenate([prefix.astype(embedded.dtype), embedded], axis=1)
        x = shard_rows(self.embed_dropout(x, deterministic=deterministic))
        outside = jnp.full_like(
            coordinates, OUTSIDE, shape=(len(coordinates), config.prefix_len, 3)
        )
        coordinates = jnp.concatenate([outside, coordinates], axis=1)
        return self._blocks(x, coordinates, kv_cache, deterministic)

    def _raster(self, start: Int[Array, ""] | int, length: int) -> Int[Array, "1 s 3"]:
        """Coordinates of `length` tokens in raster order, from token `start` on."""
        table = jnp.asarray(raster_coordinates(self.config.grid_shape))
        return jax.lax.dynamic_slice_in_dim(table, start, length)[None]

    def _embed(
        self, tokens: Int[Array, "b s"], coordinates: Int[Array, "#b s 3"]
    ) -> Float[Array, "b s d"]:
        embedded = self.token_embedding[tokens]
        if self.config.positions == "learned":
            cells = coordinates[..., 1] * self.config.grid_shape[1] + coordinates[..., 2]
            embedded = embedded + self.position_embedding[self.config.prefix_len + cells]
        return embedded.astype(resolve_dtype(self.config.dtype))

    def _blocks(
        self,
        x: Float[Array, "b q d"],
        coordinates: Int[Array, "#b q 3"],
        kv_cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        layers = jnp.arange(self.config.num_layers)
        rotation = self._rotation(coordinates)
        (x, kv_cache), _ = self.blocks((x, kv_cache), layers, rotation, deterministic)
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, length=kv_cache.length + x.shape[1])
        return x, kv_cache

    def _rotation(self, coordinates: Int[Array, "#b q 3"]) -> Rotation | None:
        """Rotary angles of the slots."""
        config = self.config
        if config.positions == "learned":
            return None
        cos, sin = rotation(coordinates, config.head_dim, config.rope_base)
        in_grid = coordinates[..., 1:2] != OUTSIDE
        outside_cos = 1.0 if config.prefix_rotation == "identity" else 0.0
        return jnp.where(in_grid, cos, outside_cos), jnp.where(in_grid, sin, 0.0)

    def _logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        hidden = self.norm(hidden)
        head = self.head.astype(hidden.dtype)
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        return shard_rows(logits, last_axis="tensor")


def init_kv_cache(config: GPTConfig, batch_size: int, num_slots: int | None = None) -> KVCache:
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
