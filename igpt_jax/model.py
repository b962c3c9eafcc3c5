"""A trained model behind five calls: load, sample, encode, decode, log_likelihood."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.config import RunConfig, from_dict, to_dict
from igpt_jax.errors import UserError
from igpt_jax.losses import token_nll
from igpt_jax.models.gpt import GPT
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys
from igpt_jax.tokenizers import base
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.base import ImageTokenizer, tokenizer_hash
from igpt_jax.tokenizers.palette import Palette, PaletteConfig
from igpt_jax.training.checkpoint import load_metadata, load_params
from igpt_jax.typing import Array, Float, Int, Params, UInt8

TOKENIZER_CHECKPOINTS = Path("tokenizer/checkpoints")
GPT_CHECKPOINTS = Path("gpt/checkpoints")


def build_tokenizer(config: PaletteConfig | AutoencoderConfig) -> Palette | Autoencoder:
    """The tokenizer's module."""
    match config:
        case PaletteConfig():
            return Palette(config)
        case AutoencoderConfig():
            return Autoencoder(config)


@partial(jax.jit, static_argnums=0)
def encode_images(
    tokenizer: ImageTokenizer, params: Params, images: UInt8[Array, "b h w 3"]
) -> Int[Array, "b l"]:
    """Pixels 0 to 255 to tokens."""
    return base.encode(tokenizer, params, base.to_pixels(images)).astype(jnp.int32)


@partial(jax.jit, static_argnums=0)
def decode_tokens(
    tokenizer: ImageTokenizer, params: Params, tokens: Int[Array, "b l"]
) -> UInt8[Array, "b h w 3"]:
    """Tokens to pixels 0 to 255."""
    return base.to_bytes(base.decode(tokenizer, params, tokens))


@partial(jax.jit, static_argnums=0)
def sequence_log_likelihood(
    gpt: GPT, params: Params, tokens: Int[Array, "b l"], labels: Int[Array, " b"] | None
) -> Float[Array, " b"]:
    """Log-likelihood of each picture's tokens in nats."""
    logits: Any = gpt.apply({"params": params}, tokens[:, :-1], labels)
    return -token_nll(logits, tokens).sum(axis=-1)


@dataclass(frozen=True)
class Model:
    """A tokenizer and a GPT with their parameters.

    Attributes:
        config: the config that they were trained with.
        tokenizer: module; images to tokens and back.
        tokenizer_params: its parameters.
        gpt: module.
        params: its parameters.
        batch_size: pictures handled at once; larger requests go in parts of one compiled size.
    """

    config: RunConfig
    tokenizer: Palette | Autoencoder
    tokenizer_params: Params
    gpt: GPT
    params: Params
    batch_size: int = 64

    def sample(
        self,
        labels: ArrayLike | None = None,
        *,
        num_images: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        cfg_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        images: ArrayLike | None = None,
        keep: float = 0.5,
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Draws pictures.

        Picture i depends on the seed, i and what is asked of it, not on how many are drawn with
        it (but for the rounding of logits, which is the machine's).

        Args:
            labels: class of each picture, or one for all; None draws of the null condition or of
                a model without classes.
            num_images: how many, where neither labels nor images say it; 1 by default.
            seed: of everything random.
            temperature: 0 takes the most probable token; this and the next three default to the
                config's `sampling`.
            cfg_scale: classifier-free guidance; 1 = off.
            top_k: tokens to keep; 0 = all.
            top_p: mass to keep; 1 = all.
            images: uint8 [b h w 3], pictures to complete: their upper part is kept, as tokens.
            keep: share of the rows of tokens that is kept of `images`.

        Returns:
            uint8 pictures.

        Raises:
            UserError: a label, picture or setting that the model cannot take.
        """
        given = {"temperature": temperature, "cfg_scale": cfg_scale, "top_k": top_k, "top_p": top_p}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        sampling = dataclasses.replace(self.config.sampling, **changes)
        prompt = None if images is None else self._upper_tokens(images, keep)
        count = self._count(labels, num_images, prompt)
        ids = self._labels(labels, count)
        return self.decode(self.sample_tokens(ids, count, sampling, seed, prompt))

    def sample_tokens(
        self,
        labels: Int[Array, " b"] | None,
        count: int,
        sampling: SamplingConfig,
        seed: int = 0,
        prompt: Int[Array, "b s"] | None = None,
    ) -> Int[np.ndarray, "b l"]:
        """Draws the tokens of `count` pictures, of checked labels; `prompt` comes first."""
        if sampling.cfg_scale != 1 and not self._is_guidable:
            raise UserError(
                f"cfg_scale: expected 1, got {sampling.cfg_scale}; the model was trained without "
                "classes or without condition dropout"
            )
        size = min(self.batch_size, count)
        rows = sampling.rows(size)

        def draw(keys: Array, labels: Array | None, prompt: Array | None) -> Array:
            return generate(self.gpt, self.params, keys, labels, rows, prompt)

        return _in_parts(draw, size, image_keys(seed, np.arange(count)), labels, prompt)

    def encode(self, images: ArrayLike) -> Int[np.ndarray, "b l"]:
        """Tokens of pictures, uint8 [b h w 3], in raster order; int32."""
        images = self._checked(images)
        size = min(self.batch_size, len(images))
        encode = partial(encode_images, self.tokenizer, self.tokenizer_params)
        return _in_parts(encode, size, jnp.asarray(images))

    def decode(self, tokens: ArrayLike) -> UInt8[np.ndarray, "b h w 3"]:
        """Pictures of tokens, whole numbers [b l]."""
        tokens = np.asarray(tokens)
        length, vocab_size = self.gpt.config.seq_len, self.gpt.config.vocab_size
        if tokens.ndim != 2 or tokens.shape[1] != length or len(tokens) == 0:
            raise UserError(f"tokens: expected the shape (b, {length}), got {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise UserError(
                f"tokens: expected ids 0 to {vocab_size - 1}, got {tokens.min()} to {tokens.max()}"
            )
        size = min(self.batch_size, len(tokens))
        decode = partial(decode_tokens, self.tokenizer, self.tokenizer_params)
        return _in_parts(decode, size, jnp.asarray(tokens, jnp.int32))

    def log_likelihood(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
    ) -> Float[np.ndarray, " b"]:
        """Log-likelihood in nats of the pictures' tokens, given their classes, float32.

        Without labels, a model with classes is asked about its null condition.
        """
        tokens = jnp.asarray(self.encode(images))
        ids = self._labels(labels, len(tokens))
        judge = partial(sequence_log_likelihood, self.gpt, self.params)
        return _in_parts(judge, min(self.batch_size, len(tokens)), tokens, ids)

    @property
    def _is_guidable(self) -> bool:
        config = self.gpt.config
        return config.num_classes > 0 and config.cond_drop_prob > 0

    def _count(self, labels: Any, num_images: int | None, prompt: Array | None) -> int:
        """How many pictures are asked for; refuses requests that contradict themselves."""
        counts = {
            "labels": None if labels is None or np.ndim(labels) == 0 else len(labels),
            "images": None if prompt is None else len(prompt),
            "num_images": num_images,
        }
        said = {name: count for name, count in counts.items() if count is not None}
        if len(set(said.values())) > 1:
            raise UserError(f"expected one number of pictures, got {said}")
        count = next(iter(said.values()), 1)
        if count < 1:
            raise UserError(f"num_images: expected at least 1, got {count}")
        return count

    def _labels(self, labels: Any, count: int) -> Int[Array, " b"] | None:
        num_classes = self.gpt.config.num_classes
        if num_classes == 0:
            if labels is not None:
                raise UserError("labels: expected none, for the model has no classes")
            return None
        if labels is None:
            if not self._is_guidable:
                raise UserError(f"labels: expected classes 0 to {num_classes - 1}, got none")
            return jnp.full((count,), num_classes, jnp.int32)
        ids = np.asarray(labels)
        if not np.issubdtype(ids.dtype, np.integer) or ids.ndim > 1:
            raise UserError(f"labels: expected whole numbers, got {labels!r}")
        ids = np.broadcast_to(ids, (count,)) if ids.ndim == 0 else ids
        if len(ids) != count:
            raise UserError(f"labels: expected {count}, one a picture, got {len(ids)}")
        if ids.min() < 0 or ids.max() >= num_classes:
            raise UserError(
                f"labels: expected classes 0 to {num_classes - 1}, got {ids.min()} to {ids.max()}"
            )
        return jnp.asarray(ids, jnp.int32)

    def _checked(self, images: ArrayLike) -> UInt8[np.ndarray, "b h w 3"]:
        images, size = np.asarray(images), self.config.tokenizer.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or len(images) == 0:
            raise UserError(
                f"images: expected uint8 of shape (b, {size}, {size}, 3), got {images.dtype} of "
                f"{images.shape}; igpt_jax.data.transforms has center_crop and resize"
            )
        return images

    def _upper_tokens(self, images: ArrayLike, keep: float) -> Int[Array, "b s"]:
        rows, columns = self.gpt.config.grid_shape
        if not 0 <= keep < 1:
            raise UserError(f"keep: expected a share in [0, 1), got {keep}")
        kept = min(round(keep * rows), rows - 1) * columns
        return jnp.asarray(self.encode(images)[:, :kept])


def _in_parts(function: Callable[..., Array], size: int, *arrays: Array | None) -> np.ndarray:
    """Applies a function to parts of `size` rows, the last one padded, so that it compiles once."""
    count = next(len(array) for array in arrays if array is not None)

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            out = function(*(None if array is None else array[rows] for array in arrays))
            yield np.asarray(out)[: count - start]

    return np.concatenate(list(parts()))


def abstract_params(module: nn.Module, *inputs: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes of a module's parameters and where they will lie; nothing is computed."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.unbox(shapes),
    )


def gpt_inputs(gpt: GPT) -> tuple[Array, Array | None]:
    """Inputs that shape a GPT's parameters."""
    config = gpt.config
    labels = jnp.zeros((1,), jnp.int32) if config.num_classes else None
    return jnp.zeros((1, config.seq_len - 1), jnp.int32), labels


def tokenizer_input(tokenizer: Palette | Autoencoder) -> Float[Array, "1 h w 3"]:
    """An input that shapes a tokenizer's parameters."""
    return jnp.zeros((1, tokenizer.image_size, tokenizer.image_size, 3))


def load_tokenizer(
    config: RunConfig, directory: Path, sharding: jax.sharding.Sharding
) -> tuple[Palette | Autoencoder, Params]:
    """The trained tokenizer of a run."""
    tokenizer = build_tokenizer(config.tokenizer)
    shapes = abstract_params(tokenizer, tokenizer_input(tokenizer), sharding=sharding)
    return tokenizer, load_params(directory / TOKENIZER_CHECKPOINTS, shapes)


def check_tokenizer(metadata: Mapping[str, Any], found: str) -> None:
    """Refuses a GPT that was trained on the tokens of another tokenizer."""
    expected = metadata.get("tokenizer_hash")
    if expected != found:
        raise UserError(
            f"gpt: expected the tokenizer {str(expected)[:12]} that it was trained with, got "
            f"{found[:12]}; put that tokenizer back, or delete the folders tokens and gpt"
        )


def load(source: str | os.PathLike[str]) -> Model:
    """Loads a run's directory: its newest checkpoint, with averaged parameters.

    Raises:
        UserError: no run is there, or its checkpoint is damaged; says what to do.
    """
    directory = Path(source)
    if not directory.is_dir():
        raise UserError(
            f"{directory}: expected the directory of a run, found none; train one first: python "
            "train.py configs/demo.py --workdir runs/demo"
        )
    metadata = load_metadata(directory / GPT_CHECKPOINTS)
    config = from_dict(RunConfig, metadata["config"])
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tokenizer, tokenizer_params = load_tokenizer(config, directory, device)
    gpt = GPT(config.gpt)
    shapes = abstract_params(gpt, *gpt_inputs(gpt), sharding=device)
    params = load_params(directory / GPT_CHECKPOINTS, shapes)
    found = tokenizer_hash(json.dumps(to_dict(config.tokenizer)), tokenizer_params)
    check_tokenizer(metadata, found)
    return Model(config, tokenizer, tokenizer_params, gpt, params)
