"""RAR (Yu et al. 2024, arXiv 2411.00776): a class-conditional GPT that knows which cell is next.

Each slot carries two positions, its own and that of the token it predicts (section 3.2), and
every sublayer is modulated by class and slot (adaLN, Peebles & Xie 2023, section 3.2). Training
permutes the order of tokens and anneals to raster order, the only one here.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.dtypes import DTypeName, resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.models.attention import CausalSelfAttention, KVCache
from igpt_jax.models.conditioning import ClassEmbedder, Condition, Conditions, TextFeatures
from igpt_jax.models.layers import FeedForward, LayerNorm, kernel_init, zeros_init
from igpt_jax.partitioning import look_up, shard_rows
from igpt_jax.typing import Array, Float, Int

# (layers, channels, channels of the feed-forward layer): the released RAR-B, L, XL and XXL, all
# with 16 heads (bytedance/1d-tokenizer, README_RAR.md).
RAR_SIZES = {
    "B": (24, 768, 3072),
    "L": (24, 1024, 4096),
    "XL": (32, 1280, 5120),
    "XXL": (40, 1408, 6144),
}


@dataclass(frozen=True)
class RARConfig:
    """The shape of a RAR; the defaults are RAR-B.

    Attributes:
        vocab_size: token ids that it predicts.
        grid_shape: tokens of a picture, (rows, columns).
        num_layers: Transformer blocks.
        num_heads: attention heads.
        embed_dim: channels of the residual stream.
        mlp_dim: channels inside the feed-forward layer.
        num_classes: classes to condition on.
        cond_drop_prob: share of training rows whose class is replaced by null, for guidance.
        residual_dropout: dropout of what each sublayer adds to the residual stream.
        norm_epsilon: added to the variance in every norm.
        dtype: compute dtype; parameters, softmax, logits and losses are float32.
    """

    vocab_size: int = 1024
    grid_shape: tuple[int, int] = (16, 16)
    num_layers: int = 24
    num_heads: int = 16
    embed_dim: int = 768
    mlp_dim: int = 3072
    num_classes: int = 1000
    cond_drop_prob: float = 0.1
    residual_dropout: float = 0.0
    norm_epsilon: float = 1e-6
    dtype: DTypeName = "auto"

    def __post_init__(self) -> None:
        """Refuses shapes that no model has."""
        sizes = ("vocab_size", "num_layers", "num_heads", "embed_dim", "mlp_dim", "num_classes")
        for name in (*sizes, "seq_len"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"RAR config: {name} must be at least 1, got {value}")
        for name in ("cond_drop_prob", "residual_dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"RAR config: {name} must be in [0, 1), got {value}")
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"RAR config: embed_dim must divide by num_heads {self.num_heads}, got "
                f"{self.embed_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.embed_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads: all."""
        return self.num_heads

    @property
    def seq_len(self) -> int:
        """Tokens `l` of one picture."""
        return math.prod(self.grid_shape)

    @property
    def prefix_len(self) -> int:
        """Slots `p` before the first token: the start vector and the class."""
        return 2

    @property
    def num_slots(self) -> int:
        """Cache slots of a whole picture: its last token is drawn, never fed."""
        return self.prefix_len + self.seq_len - 1


def rar(size: Literal["B", "L", "XL", "XXL"], **overrides: Any) -> RARConfig:
    """The released sizes: 16 x 16 tokens of MaskGIT-VQ's 1,024 codes, 1,000 classes."""
    if size not in RAR_SIZES:
        raise UserError(f"RAR size: expected one of {', '.join(RAR_SIZES)}, got {size!r}")
    num_layers, embed_dim, mlp_dim = RAR_SIZES[size]
    published = RARConfig(num_layers=num_layers, embed_dim=embed_dim, mlp_dim=mlp_dim)
    return dataclasses.replace(published, **overrides)


class Modulation(nn.Module):
    """What each slot's condition shifts, scales and gates by; zero at the start (adaLN-Zero).

    Attributes:
        num_parts: vectors a slot.
    """

    num_parts: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, condition: Float[Array, "b q d"]) -> list[Float[Array, "b q d"]]:
        """One array a part."""
        parts = nn.DenseGeneral(
            (self.num_parts, condition.shape[-1]),
            dtype=self.dtype,
            kernel_init=zeros_init("embed", None, "norm"),
            bias_init=zeros_init(None, "norm"),
            name="dense",
        )(condition)
        return [parts[..., i, :] for i in range(self.num_parts)]


class RARBlock(nn.Module):
    """A pre-norm Transformer block that class and slot modulate."""

    config: RARConfig

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "b q d"], KVCache | None],
        layer: Int[Array, ""],
        condition: Float[Array, "b q d"],
        deterministic: bool,
    ) -> tuple[tuple[Float[Array, "b q d"], KVCache | None], None]:
        """One layer; `layer` says which slice of the cache is its own."""
        config, (x, kv_cache) = self.config, carry
        dtype = resolve_dtype(config.dtype)
        dropout = nn.Dropout(config.residual_dropout, deterministic=deterministic)
        modulation = Modulation(6, dtype, name="modulation")(condition)
        attention_shift, attention_scale, attention_gate = modulation[:3]
        mlp_shift, mlp_scale, mlp_gate = modulation[3:]

        attention = CausalSelfAttention(
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qk_norm="layer",
            norm_epsilon=config.norm_epsilon,
            use_bias=True,
            dtype=dtype,
            name="attention",
        )
        normed = LayerNorm(config.norm_epsilon, name="attention_norm")(x)
        normed = normed * (1 + attention_scale) + attention_shift
        update, kv_cache = attention(normed, None, kv_cache, layer)
        x = x + attention_gate * dropout(update)

        feed_forward = FeedForward(config.mlp_dim, "gelu", use_bias=True, dtype=dtype, name="mlp")
        normed = LayerNorm(config.norm_epsilon, name="mlp_norm")(x)
        normed = normed * (1 + mlp_scale) + mlp_shift
        x = x + mlp_gate * dropout(feed_forward(normed))
        return (shard_rows(x), kv_cache), None


class RAR(nn.Module):
    """Predicts each image token from its class and the tokens before it, in raster order.

    It is called as `GPT` is. Slots of the sequence: a start vector, the class, then tokens; the
    slot before a token predicts it.
    """

    config: RARConfig

    def setup(self) -> None:
        """Declares the parts; parameters of all blocks are stacked on axis 0."""
        config = self.config

        def table(name: str, *shape: int) -> Any:
            return self.param(name, kernel_init(None, "embed"), shape, jnp.float32)

        self.token_embedding: Any = self.param(
            "token_embedding",
            kernel_init("vocab", "embed"),
            (config.vocab_size, config.embed_dim),
            jnp.float32,
        )
        self.prefix: Any = ClassEmbedder(config.num_classes, (), config.embed_dim)
        self.start: Any = self.param("start", zeros_init("embed"), (config.embed_dim,), jnp.float32)
        self.position_embedding = table("position_embedding", config.num_slots, config.embed_dim)
        self.target_embedding = table("target_embedding", config.seq_len, config.embed_dim)
        self.step_embedding = table("step_embedding", config.num_slots, config.embed_dim)
        self.blocks = nn.scan(
            RARBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        self.norm = nn.LayerNorm(
            config.norm_epsilon,
            dtype=jnp.float32,
            use_bias=False,
            use_scale=False,
            use_fast_variance=False,
        )
        self.modulation = Modulation(2, resolve_dtype(config.dtype))
        self.head: Any = self.param(
            "head",
            kernel_init("embed", "vocab"),
            (config.embed_dim, config.vocab_size),
            jnp.float32,
        )
        self.head_bias: Any = self.param(
            "head_bias", zeros_init("vocab"), (config.vocab_size,), jnp.float32
        )

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b s_plus_1 v"]:
        """Logits of tokens 0 to s, given the first s tokens of each picture.

        Args:
            tokens: ids in raster order; all but the last one for training, or fewer.
            condition: class ids, of which `config.num_classes` is the null condition.
            deterministic: no dropout when true.

        Returns:
            float32 logits; `logits[:, i]` predicts `tokens[:, i]`.

        Raises:
            UserError: there are too many tokens, or no class ids.
        """
        return self._sequence(tokens, condition, None, deterministic)[0][:, 1:]

    def prefill(
        self, tokens: Int[Array, "b s"], condition: Condition, kv_cache: KVCache
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Fills an empty cache with the class and s >= 0 known tokens; predicts token s."""
        logits, filled = self._sequence(tokens, condition, kv_cache, True)
        assert filled is not None
        return logits[:, -1], filled

    def decode_step(
        self, tokens: Int[Array, " b"], kv_cache: KVCache
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Appends one token a row to the cache and predicts the next."""
        slot = kv_cache.length

        def row(table: Float[Array, "s d"], index: Int[Array, ""]) -> Float[Array, "1 d"]:
            return jax.lax.dynamic_slice_in_dim(table, index, 1)

        position = row(self.position_embedding, slot) + row(self.target_embedding, slot - 1)
        x = self.token_embedding[tokens][:, None] + position
        assert kv_cache.condition is not None  # prefill sets it
        condition = kv_cache.condition[:, None] + row(self.step_embedding, slot)
        logits, filled = self._blocks(x, condition, kv_cache, True)
        assert filled is not None
        return logits[:, 0], filled

    def _sequence(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition,
        kv_cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q v"], KVCache | None]:
        """Runs the prefix and the tokens behind it through the blocks."""
        if condition is None or isinstance(condition, (TextFeatures, Conditions)):
            got = "none" if condition is None else "features of texts"
            raise UserError(f"condition: expected labels, as the model was trained with, got {got}")
        num_slots = self.config.prefix_len + tokens.shape[1]
        if num_slots > self.config.num_slots:
            raise UserError(
                f"tokens: expected at most {self.config.seq_len - 1}, for the last one predicts "
                f"nothing, got {tokens.shape[1]}; leave out the rest"
            )
        label = self.prefix(condition)
        start = jnp.broadcast_to(self.start, label.shape)
        x = jnp.concatenate([start, label, look_up(self.token_embedding, tokens)], axis=1)
        x = x + self.position_embedding[:num_slots]
        # The start vector predicts nothing, hence one row less.
        x = x.at[:, 1:].add(self.target_embedding[: num_slots - 1])
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, condition=label[:, 0])
        return self._blocks(x, label + self.step_embedding[:num_slots], kv_cache, deterministic)

    def _blocks(
        self,
        x: Float[Array, "b q d"],
        condition: Float[Array, "b q d"],
        kv_cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q v"], KVCache | None]:
        """Logits of embedded slots, and the cache with their keys and values."""
        dtype = resolve_dtype(self.config.dtype)
        x, condition = shard_rows(x.astype(dtype)), nn.silu(condition).astype(dtype)
        layers = jnp.arange(self.config.num_layers)
        (x, kv_cache), _ = self.blocks((x, kv_cache), layers, condition, deterministic)
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, length=kv_cache.length + x.shape[1])
        scale, shift = self.modulation(condition)
        hidden = self.norm(x).astype(dtype) * (1 + scale) + shift
        head = self.head.astype(dtype)
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32) + self.head_bias
        return shard_rows(logits, last_axis="tensor"), kv_cache
