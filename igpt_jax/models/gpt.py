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
from igpt_jax.models.conditioning import (
    ClassEmbedder,
    Condition,
    StartEmbedder,
    TextEmbedder,
    TextFeatures,
)
from igpt_jax.models.layers import Activation, FeedForward, NormName, build_norm, kernel_init
from igpt_jax.models.rotary import raster_coordinates, rotation
from igpt_jax.partitioning import shard_rows
from igpt_jax.typing import Array, Bool, Float, Int

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
        text_len: slots of a text's features to condition on; 0 for none.
        text_dim: channels of those features.
        cond_drop_prob: share of training rows whose condition is replaced by null, for guidance.
        norm: of the residual stream, queries and keys.
        qk_norm: norm of queries and keys.
        use_bias: biases of the linear layers; the head has none.
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
    activation: Activation = "swiglu"
    positions: Literal["rotary", "learned"] = "rotary"
    num_classes: int = 0
    class_factors: tuple[int, ...] = ()
    text_len: int = 0
    text_dim: int = 0
    cond_drop_prob: float = 0.1  # LlamaGen and the guidance paper (section 5)
    norm: NormName = "rms"
    qk_norm: bool = False
    use_bias: bool = False
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
        for name in ("vocab_size", "num_classes", "text_len", "text_dim"):
            _check(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        for name in ("embed_dropout", "residual_dropout", "cond_drop_prob"):
            _check(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1)", getattr(self, name))
        _check(
            min(self.grid_shape) >= 0 and (self.seq_len > 0 or not any(self.grid_shape)),
            "grid_shape must be two numbers of at least 1",
            self.grid_shape,
        )
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

        _check(
            (self.text_len > 0) == (self.text_dim > 0),
            "text_len and text_dim must both be 0 or both be more",
            (self.text_len, self.text_dim),
        )
        _check(
            not (self.text_len and self.num_classes),
            "num_classes must be 0 with text_len",
            self.num_classes,
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
        return max(1, len(self.class_factors), self.text_len)

    @property
    def is_conditional(self) -> bool:
        """Whether it is asked for a class or by a text."""
        return self.num_classes > 0 or self.text_len > 0

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
        prefix_mask: Bool[Array, "b p"] | None,
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
            qk_norm=config.norm if config.qk_norm else None,
            norm_epsilon=config.norm_epsilon,
            use_bias=config.use_bias,
            dtype=dtype,
            name="attention",
        )
        norm = build_norm(config.norm, config.norm_epsilon, "attention_norm")
        update, kv_cache = attention(norm(x), rotation, kv_cache, layer, prefix_mask)
        x = x + dropout(update)
        feed_forward = FeedForward(
            config.hidden_dim, config.activation, config.use_bias, dtype, name="mlp"
        )
        norm = build_norm(config.norm, config.norm_epsilon, "mlp_norm")
        x = x + dropout(feed_forward(norm(x)))
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
                static_argnums=(5,),
            )
        self.token_embedding: Any = self.param(
            "token_embedding",
            kernel_init("vocab", "embed"),
            (config.vocab_size, config.embed_dim),
            jnp.float32,
        )
        self.prefix: Any = build_embedder(config)
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
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        self.norm: Any = build_norm(config.norm, config.norm_epsilon, "norm")
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
        condition: Condition = None,
        *,
        coordinates: Int[Array, "#b s 3"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b s_plus_1 v"]:
        """Logits of tokens 0 to s, given the first s tokens of each picture.

        Args:
            tokens: ids in raster order; all but the last one for training, or fewer.
            condition: class ids, of which `config.num_classes` is the null condition; features
                of texts for models that take texts; None for unconditional models.
            coordinates: (time, row, column) of each given token; None for raster order.
            deterministic: no dropout when true.

        Returns:
            float32 logits; `logits[:, i]` predicts `tokens[:, i]`.
        """
        hidden, _ = self._sequence(tokens, condition, coordinates, None, deterministic)
        return self._logits(hidden[:, self.config.prefix_len - 1 :])

    def prefill(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition,
        kv_cache: KVCache,
        coordinates: Int[Array, "#b s 3"] | None = None,
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Fills an empty cache with the condition and s >= 0 known tokens; predicts token s."""
        hidden, filled = self._sequence(tokens, condition, coordinates, kv_cache, True)
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
        hidden, filled = self._blocks(embedded, coordinates, kv_cache, kv_cache.prefix_mask, True)
        assert filled is not None
        return self._logits(hidden[:, 0]), filled

    def _sequence(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition,
        coordinates: Int[Array, "#b s 3"] | None,
        kv_cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        """Runs the condition and the tokens behind it through the blocks."""
        config = self.config
        check_condition(config, condition)
        prefix = self.prefix(tokens.shape[0] if condition is None else condition)
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
        prefix_mask = condition.mask if isinstance(condition, TextFeatures) else None
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, prefix_mask=prefix_mask)
        return self._blocks(x, coordinates, kv_cache, prefix_mask, deterministic)

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
        prefix_mask: Bool[Array, "b p"] | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        layers = jnp.arange(self.config.num_layers)
        rotation = self._rotation(coordinates)
        (x, kv_cache), _ = self.blocks((x, kv_cache), layers, rotation, prefix_mask, deterministic)
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


def build_embedder(config: GPTConfig) -> ClassEmbedder | TextEmbedder | StartEmbedder:
    """The module that turns a condition to the prefix."""
    if config.text_len:
        return TextEmbedder(config.text_len, config.text_dim, config.embed_dim)
    if config.num_classes:
        return ClassEmbedder(config.num_classes, config.class_factors, config.embed_dim)
    return StartEmbedder(config.embed_dim)


def check_condition(config: GPTConfig, condition: Condition) -> None:
    """Refuses a condition of another kind than the model's."""
    wanted = "features of texts" if config.text_len else "labels" if config.num_classes else "none"
    match condition:
        case None:
            got = "none"
        case TextFeatures():
            got = "features of texts"
        case _:
            got = "labels"
    if got != wanted:
        raise UserError(f"condition: expected {wanted}, as the model was trained with, got {got}")
