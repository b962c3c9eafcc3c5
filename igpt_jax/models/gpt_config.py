"""The shape of a GPT."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from igpt_jax.dtypes import DTypeName
from igpt_jax.errors import UserError
from igpt_jax.models.kernels import AttentionKernel
from igpt_jax.models.layers import Activation, NormName


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    Attributes:
        vocab_size: token ids that it predicts; 0 takes the tokenizer's.
        grid_shape: tokens of a picture, (rows, columns); (0, 0) takes the tokenizer's.
        num_frames: frames of tokens of a video; 1 for pictures.
        num_layers: Transformer blocks.
        num_heads: query heads.
        embed_dim: channels of the residual stream.
        num_kv_heads: key and value heads; None for `num_heads` (no grouping).
        mlp_dim: channels inside the feed-forward layer; None for 4 * embed_dim, or with SwiGLU
            two thirds of that, rounded up to a multiple of 256 (LlamaGen).
        activation: feed-forward kind.
        positions: rotary over rows and columns, or a learned table. With frames, captions or
            pictures to make others from it is rotary, over time as well.
        num_classes: classes to condition on; 0 for an unconditional model.
        order: of the tokens: raster, or any, in which case each slot is told the cell that it
            predicts, training hides random parts of pictures, and the sampler sees all known tokens
            first, wherever they lie.
        class_factors: radices to split the class id by, see `ClassEmbedder`.
        attribute_sizes: number of values of each attribute to condition on.
        text_len: slots of a text's features to condition on; 0 for none.
        text_dim: channels of those features.
        caption_len: slots of a caption in the sequence itself, with its end; 0 for none. It stands
            before the picture, or behind it to describe it, and so needs the order "any".
        caption_vocab_size: ids of captions; 0 takes the caption tokenizer's.
        cond_image: whether a picture is made from another one, of the same tokenizer.
        cond_drop_prob: share of training rows whose condition is replaced by null, for guidance; of
            several kinds, each is also left out by itself in as many rows.
        attribute_drop_prob: share of attributes that training leaves open, each by itself.
        norm: of the residual stream, queries and keys.
        qk_norm: norm of queries and keys.
        use_bias: biases of the linear layers; the head has none.
        embed_dropout: dropout of the embedded sequence.
        residual_dropout: dropout of what each sublayer adds to the residual stream.
        rope_base: wave length base of the rotary embedding.
        prefix_rotation: rotary angle of the prefix; "zero" multiplies its queries and keys by
            zero, which the published LlamaGen weights were trained with.
        norm_epsilon: added to the mean square in every norm.
        remat: what the backward pass recomputes: "none"; "all_dots", all but matrix products;
            "dots", those of attention, too; "full", everything but the inputs of blocks.
        attention_kernel: what computes attention without a cache: XLA, cuDNN on GPUs, the Pallas
            kernel on TPUs; "auto" the platform's. Where it cannot, XLA does. Not part of the model:
            it may change at any time.
        dtype: compute dtype; parameters, softmax, logits and losses are float32.
    """

    vocab_size: int = 0
    grid_shape: tuple[int, int] = (0, 0)
    num_frames: int = 1
    num_layers: int = 12
    num_heads: int = 12
    embed_dim: int = 768
    num_kv_heads: int | None = None
    mlp_dim: int | None = None
    activation: Activation = "swiglu"
    positions: Literal["rotary", "learned"] = "rotary"
    order: Literal["raster", "any"] = "raster"
    num_classes: int = 0
    class_factors: tuple[int, ...] = ()
    attribute_sizes: tuple[int, ...] = ()
    text_len: int = 0
    text_dim: int = 0
    caption_len: int = 0
    caption_vocab_size: int = 0
    cond_image: bool = False
    cond_drop_prob: float = 0.1  # LlamaGen and the guidance paper (section 5)
    attribute_drop_prob: float = 0.1
    norm: NormName = "rms"
    qk_norm: bool = False
    use_bias: bool = False
    embed_dropout: float = 0.0
    residual_dropout: float = 0.0
    rope_base: float = 10_000.0
    prefix_rotation: Literal["identity", "zero"] = "identity"
    norm_epsilon: float = 1e-5
    remat: Literal["none", "all_dots", "dots", "full"] = "none"
    attention_kernel: AttentionKernel = "auto"
    dtype: DTypeName = "auto"

    def __post_init__(self) -> None:
        """Refuses shapes that no model has."""
        counts = ("num_layers", "num_heads", "embed_dim", "kv_heads", "hidden_dim", "num_frames")
        for name in counts:
            _check(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        sizes = ("vocab_size", "num_classes", "text_len", "text_dim")
        for name in (*sizes, "caption_len", "caption_vocab_size"):
            _check(getattr(self, name) >= 0, f"{name} must be at least 0", getattr(self, name))
        shares = ("embed_dropout", "residual_dropout", "cond_drop_prob", "attribute_drop_prob")
        for name in shares:
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
            min(self.attribute_sizes, default=1) >= 1,
            "attribute_sizes must be at least 1",
            self.attribute_sizes,
        )
        _check(
            self.positions == "rotary" or not self.in_time,
            "positions must be rotary with num_frames, caption_len or cond_image",
            self.positions,
        )
        _check(
            not self.in_time or self.head_dim >= 8,
            "embed_dim / num_heads must be at least 8 with num_frames, caption_len or cond_image",
            self.head_dim,
        )
        _check(
            self.order == "any" or not self.caption_len,
            'order must be "any" with caption_len',
            self.order,
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
    def in_time(self) -> bool:
        """Whether rotary positions have a time."""
        return self.num_frames > 1 or self.caption_len > 0 or self.cond_image

    @property
    def seq_len(self) -> int:
        """Tokens `l` of one picture, or of all frames of a video."""
        return self.num_frames * math.prod(self.grid_shape)

    @property
    def num_cells(self) -> int:
        """Tokens of one picture and its caption."""
        return self.seq_len + self.caption_len

    @property
    def cond_len(self) -> int:
        """Slots of the picture that another is made from."""
        return math.prod(self.grid_shape) if self.cond_image else 0

    @property
    def num_ids(self) -> int:
        """Rows of the embedding: ids of pictures, then captions, then pictures to make from."""
        return self.head_size + (self.vocab_size if self.cond_image else 0)

    @property
    def head_size(self) -> int:
        """Columns of the head: ids of pictures, then captions."""
        return self.vocab_size + (self.caption_vocab_size if self.caption_len else 0)

    @property
    def class_slots(self) -> int:
        """Slots of a class."""
        return (len(self.class_factors) or 1) if self.num_classes else 0

    @property
    def prefix_len(self) -> int:
        """Condition slots `p` before the first token, without a caption."""
        embedded = self.class_slots + len(self.attribute_sizes) + self.text_len
        return (embedded or 1) + self.cond_len

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be asked of it, by the names of `Conditions`."""
        asked = {
            "labels": self.num_classes,
            "attributes": self.attribute_sizes,
            "text": self.text_len,
            "caption": self.caption_len,
            "image": self.cond_image,
        }
        return tuple(name for name, given in asked.items() if given)

    @property
    def num_slots(self) -> int:
        """Cache slots of a whole picture and its caption: the last token is drawn, never fed."""
        return self.prefix_len + self.num_cells - 1


def _check(holds: bool, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"GPT config: {expected}, got {got}")
