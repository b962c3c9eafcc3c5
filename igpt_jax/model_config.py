"""What a trained model is, without how it was trained."""

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from igpt_jax.data.attributes import AttributeConfig, attribute_sizes
from igpt_jax.data.condition_images import ConditionImageConfig
from igpt_jax.errors import UserError
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.rar import RAR, RARConfig
from igpt_jax.models.var import VAR
from igpt_jax.models.var_config import VARConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.text.caption_tokenizers import CaptionTokenizerConfig
from igpt_jax.text.t5 import T5Config
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.maskgit_vq import MaskGITVQ, MaskGITVQConfig
from igpt_jax.tokenizers.multiscale_vq import MultiscaleVQ, MultiscaleVQConfig
from igpt_jax.tokenizers.palette import Palette, PaletteConfig

GridTokenizerConfig: TypeAlias = PaletteConfig | AutoencoderConfig | MaskGITVQConfig
TokenizerConfig: TypeAlias = GridTokenizerConfig | MultiscaleVQConfig
Tokenizer: TypeAlias = Palette | Autoencoder | MaskGITVQ | MultiscaleVQ
GeneratorConfig: TypeAlias = GPTConfig | RARConfig | VARConfig
Generator: TypeAlias = GPT | RAR | VAR


@dataclass(frozen=True)
class ModelConfig:
    """The parts of a model; those that are None are not there.

    Attributes:
        tokenizer: pictures to tokens and back.
        gpt: what predicts the tokens.
        text_encoder: what reads the text of a text-conditional `gpt`.
        clean_captions: whether text is cleaned before the text encoder reads it, as LlamaGen was
            trained; that leaves no Chinese characters (see `igpt_jax.text.captions`).
        caption_tokenizer: what makes text to tokens of a `gpt` with captions; its file is kept
            beside the parameters.
        cond_image: how the pictures that others are made from are made; None where they are given.
        sampling: how to draw where nothing else is said.
        class_names: of a class-conditional `gpt`; () where they are not known.
        attributes: names and values of the `gpt`'s attributes; () where they are not known.
    """

    tokenizer: TokenizerConfig | None = None
    gpt: GeneratorConfig | None = None
    text_encoder: T5Config | None = None
    clean_captions: bool = False
    caption_tokenizer: CaptionTokenizerConfig | None = None
    cond_image: ConditionImageConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    class_names: tuple[str, ...] = ()
    attributes: tuple[AttributeConfig, ...] = ()

    def __post_init__(self) -> None:
        """Refuses parts that do not fit together."""
        tokenizer, gpt = self.tokenizer, self.gpt
        if tokenizer is not None and gpt is not None:
            if isinstance(tokenizer, MultiscaleVQConfig) != isinstance(gpt, VARConfig):
                raise UserError(
                    "expected a multi-scale tokenizer and VAR, or neither, got "
                    f"{type(tokenizer).__name__} and {type(gpt).__name__}"
                )
            tokens = gpt.seq_len // gpt.num_frames if isinstance(gpt, GPTConfig) else gpt.seq_len
            ours = {"tokens": tokens, "codes": gpt.vocab_size}
            theirs = {"tokens": num_tokens(tokenizer), "codes": tokenizer.vocab_size}
            if ours != theirs:
                raise UserError(
                    f"expected a tokenizer and a GPT that fit, got a tokenizer of {theirs} and a "
                    f"GPT of {ours}; import those of one image size (--set image_size=N, --set "
                    "grid_shape=[R,C])"
                )
        num_classes = 0 if gpt is None else gpt.num_classes
        if self.class_names and len(self.class_names) != num_classes:
            raise UserError(
                f"class_names: expected {num_classes}, one a class, got {len(self.class_names)}"
            )
        sizes = gpt.attribute_sizes if isinstance(gpt, GPTConfig) else ()
        if self.attributes and attribute_sizes(self.attributes) != sizes:
            raise UserError(
                f"attributes: expected names of {sizes} values, as the GPT has, got those of "
                f"{attribute_sizes(self.attributes)}"
            )
        if self.text_encoder is not None and isinstance(gpt, GPTConfig) and gpt.text_len:
            wanted, got = gpt.text_dim, self.text_encoder.embed_dim
            if wanted != got:
                raise UserError(
                    f"text encoder: expected {wanted} channels, as the GPT was trained with, got "
                    f"{got}; give that encoder (LlamaGen's is flan-t5-xl)"
                )


def num_tokens(config: TokenizerConfig) -> int:
    """Tokens `l` of one picture."""
    return math.prod(config.grid_shape)


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer's module."""
    match config:
        case PaletteConfig():
            return Palette(config)
        case AutoencoderConfig():
            return Autoencoder(config)
        case MaskGITVQConfig():
            return MaskGITVQ(config)
        case MultiscaleVQConfig():
            return MultiscaleVQ(config)


def build_generator(config: GeneratorConfig) -> Generator:
    """The module that predicts tokens."""
    match config:
        case GPTConfig():
            return GPT(config)
        case RARConfig():
            return RAR(config)
        case VARConfig():
            return VAR(config)
