"""A trained model behind four calls: sample, encode, decode, log_likelihood."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.asking import (
    AskedAttributes,
    is_guidable,
    num_attribute_rows,
    read_request,
)
from igpt_jax.data.condition_images import make_condition_image
from igpt_jax.data.known_signal import keep_known_signal
from igpt_jax.drawer import Drawer
from igpt_jax.errors import UserError
from igpt_jax.model_config import Generator, ModelConfig, Tokenizer, num_tokens
from igpt_jax.models.conditioning import Condition
from igpt_jax.models.gpt import GPT
from igpt_jax.models.var import VAR
from igpt_jax.programs import decode_tokens, encode_images, in_parts
from igpt_jax.sampling.guidance import GuidanceSchedule
from igpt_jax.sampling.known import known_tokens, scattered_tokens
from igpt_jax.sampling.sampler import SamplingConfig, image_keys
from igpt_jax.text.caption_tokenizers import CaptionTokenizer
from igpt_jax.text.encoder import TextEncoder
from igpt_jax.tokenizers.base import sees_time
from igpt_jax.typing import Array, Bool, Float, Int, Params, UInt8


@dataclass(frozen=True)
class Model:
    """A tokenizer and a GPT with their parameters, and a text encoder of text-conditional ones.

    Attributes:
        config: what the parts are.
        tokenizer: module; images to tokens and back.
        tokenizer_params: its parameters.
        gpt: module; None for a tokenizer alone.
        params: its parameters.
        text_encoder: texts to features; None where there is none.
        caption_tokenizer: texts to tokens of the GPT's own sequence; None where there is none.
        batch_size: pictures handled at once; larger requests go in parts of one compiled size.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    tokenizer_params: Params
    gpt: Generator | None = None
    params: Params = dataclasses.field(default_factory=dict)
    text_encoder: TextEncoder | None = None
    caption_tokenizer: CaptionTokenizer | None = None
    batch_size: int = 64

    def sample(
        self,
        labels: ArrayLike | None = None,
        *,
        text: str | Sequence[str] | None = None,
        num_images: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        cfg_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        cfg_schedule: GuidanceSchedule | None = None,
        images: ArrayLike | None = None,
        keep: float = 0.5,
        mask: ArrayLike | None = None,
        vary: float | None = None,
        image_size: int | None = None,
        attributes: AskedAttributes | None = None,
        cond_images: ArrayLike | None = None,
        negative_labels: ArrayLike | None = None,
        negative_text: str | Sequence[str] | None = None,
        best_of: int = 1,
    ) -> UInt8[np.ndarray, "b *t h w 3"]:
        """Draws pictures, or videos.

        Picture i depends on the seed, i and what is asked of it, not on how many are drawn with
        it (but for the rounding of logits, which is the machine's).

        Args:
            labels: class of each picture, or one for all; None draws of the null condition or of
                a model without classes.
            text: what each picture shows, or one text for all, of a text-conditional model.
            num_images: how many, where nothing else says it; 1 by default.
            seed: of everything random.
            temperature: 0 takes the most probable token; this and the next four default to the
                config's `sampling`.
            cfg_scale: classifier-free guidance; 1 = off.
            top_k: tokens to keep; 0 = all.
            top_p: mass to keep; 1 = all.
            cfg_schedule: guidance of every token alike, or growing; see `guidance_scales`.
            images: uint8 [b h w 3], pictures to complete; of a model of videos their first frames,
                also [b t h w 3].
            keep: share of the rows of tokens, from the top, that is kept of `images`.
            mask: bool [h w] or [b h w], true where `images` are drawn anew, instead of `keep`. A
                token is drawn anew if any of its pixels is; the others are kept exactly.
            vary: share of the tokens of `images` that are drawn anew, here and there, instead of
                `keep`: variations of a picture.
            image_size: pixels a side of the result, if not the model's; bicubic.
            attributes: values by the names of attributes, such as `{"suit": "hearts"}`, for all
                pictures, or a sequence of such mappings, one a picture; those that are not named
                are open. Or whole numbers [a] or [b a], the value of each attribute; -1 for any.
            cond_images: uint8 [b h w 3], what pictures are made from. A model that was trained on
                what is made from pictures, such as grey ones, makes it of them.
            negative_labels: classes that guidance leads away from, instead of the null condition.
            negative_text: the same of a text-conditional model.
            best_of: candidates for each picture, of which the one is taken whose tokens are most
                probable given its condition.

        Returns:
            uint8 pictures; of the model's size, what `cond_images` tell of them exactly is put back
            (see `known_signal`).

        Raises:
            UserError: a label, picture or setting that the model cannot take.
        """
        given = {
            "temperature": temperature,
            "cfg_scale": cfg_scale,
            "cfg_schedule": cfg_schedule,
            "top_k": top_k,
            "top_p": top_p,
        }
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        sampling = dataclasses.replace(self.config.sampling, **changes)
        whole = {"num_images": num_images, "image_size": image_size, "best_of": best_of}
        for name, value in whole.items():
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise UserError(f"{name}: expected a whole number of at least 1, got {value}")
        if images is not None and isinstance(self.gpt, VAR):
            raise UserError("images: expected none, as VAR cannot complete pictures")
        count = self._count(labels, text, num_images, images, cond_images, attributes)
        condition = self._condition(count, labels, text, attributes, cond_images)
        known = None
        if images is not None:
            known = self._known(images, mask, keep, vary, seed)
        elif mask is not None:
            raise UserError("mask: expected images whose part is drawn anew, got none; pass images")
        negative = None
        if negative_labels is not None or negative_text is not None:
            if sampling.cfg_scale == 1:
                raise UserError("negative condition: expected guidance, got cfg_scale 1; raise it")
            negative = self._condition(count, negative_labels, negative_text, None, cond_images)
        drawn = self.sample_tokens(condition, count, sampling, seed, known, negative, best_of)
        pictures, made = self.decode(drawn, image_size=image_size), self.config.cond_image
        if made is None or cond_images is None or image_size is not None:
            return pictures
        return keep_known_signal(made, pictures, self._made_from(cond_images))

    def extend(
        self,
        videos: ArrayLike,
        num_frames: int,
        *,
        overlap: int | None = None,
        seed: int = 0,
        **asked: Any,
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """Draws what comes after videos, by a window that slides over them.

        Args:
            videos: uint8 [b t h w 3], as long as the model's or longer.
            num_frames: of the result.
            overlap: last frames that each window starts with; None for half of the model's.
            seed: of everything random.
            asked: as in `sample`, of every window.

        Returns:
            `videos`, and behind them what was drawn.

        Raises:
            UserError: the model is of pictures, or a number is out of range.
        """
        if not self._is_of_videos:
            raise UserError("extend: expected a model of videos, got one of pictures")
        frames = np.asarray(videos)
        window = self._window
        overlap = window // 2 if overlap is None else overlap
        if not 1 <= overlap < window or frames.ndim != 5 or frames.shape[1] < overlap:
            raise UserError(
                f"extend: expected videos (b, t, h, w, 3) of at least overlap frames, and an "
                f"overlap of 1 to {window - 1}, got {frames.shape} and {overlap}"
            )
        part = 0
        while frames.shape[1] < num_frames:
            part += 1
            last = frames[:, -overlap:]
            drawn = self.sample(images=last, seed=seed + part, **asked)
            frames = np.concatenate([frames, drawn[:, overlap:]], axis=1)
        return frames[:, :num_frames]

    @property
    def _window(self) -> int:
        """Frames of a video that is drawn at once."""
        whole = sees_time(self.tokenizer)
        config: Any = self.tokenizer.config if whole else self._generator.config
        return config.num_frames

    def caption(
        self, images: ArrayLike, *, seed: int = 0, temperature: float = 0.0, top_p: float = 1.0
    ) -> list[str]:
        """Describes pictures, uint8 [b h w 3]; of a model with captions in its sequence.

        Args:
            images: pictures.
            seed: of everything random.
            temperature: 0 takes the most probable word.
            top_p: mass to keep; 1 = all.

        Raises:
            UserError: the model writes no captions.
        """
        gpt = self._generator
        if not isinstance(gpt, GPT) or self.caption_tokenizer is None:
            raise UserError("caption: expected a model with captions in its sequence, got another")
        tokens = self.encode(images)
        asked: Any = self._condition(len(tokens))
        asked = dataclasses.replace(asked, caption=None)
        sampling = SamplingConfig(temperature=temperature, top_p=top_p)
        keys = image_keys(seed, np.arange(len(tokens)))
        return self.caption_tokenizer.decode(self._drawer.captions(tokens, asked, keys, sampling))

    def sample_tokens(
        self,
        condition: Condition,
        count: int,
        sampling: SamplingConfig,
        seed: int = 0,
        known: tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]] | None = None,
        negative: Condition = None,
        best_of: int = 1,
    ) -> Int[np.ndarray, "b l"]:
        """Draws the tokens of `count` pictures, of a checked condition.

        Args:
            condition: classes, features of texts or None.
            count: how many.
            sampling: how to draw.
            seed: of everything random.
            known: tokens, and which of them are kept.
            negative: what guidance leads away from; None for the null condition.
            best_of: candidates for each picture, see `sample`.
        """
        if sampling.cfg_scale != 1 and not is_guidable(self._generator.config):
            raise UserError(
                f"cfg_scale: expected 1, got {sampling.cfg_scale}; the model was trained without "
                "a condition or without condition dropout"
            )
        if sampling.varies and isinstance(self.gpt, VAR):
            raise UserError("cfg_schedule: expected constant, as VAR has a schedule of its own")
        keys = image_keys(seed, np.arange(count))
        return self._drawer.best(condition, keys, sampling, known, negative, best_of)

    def encode(self, images: ArrayLike) -> Int[np.ndarray, "b l"]:
        """Tokens of pictures, uint8 [b h w 3], or of videos [b t h w 3]; int32.

        They are in raster order, frame by frame.
        """
        images = self._checked(images)
        size = min(self.batch_size, len(images))
        encode = partial(encode_images, self.tokenizer, self.tokenizer_params)
        return in_parts(encode, size, jnp.asarray(images))

    def decode(
        self, tokens: ArrayLike, *, image_size: int | None = None
    ) -> UInt8[np.ndarray, "b *t h w 3"]:
        """Pictures of tokens, whole numbers [b l]; bicubic of another size if it is given.

        As many tokens as several pictures have are a video's.
        """
        tokens = np.asarray(tokens)
        length, vocab_size = num_tokens(self.tokenizer.config), self.tokenizer.vocab_size
        if image_size is not None and image_size < 1:
            raise UserError(f"image_size: expected at least 1 pixel, got {image_size}")
        if tokens.ndim != 2 or tokens.shape[1] % length or tokens.size == 0:
            raise UserError(f"tokens: expected the shape (b, {length}), got {tokens.shape}")
        if not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(f"tokens: expected whole numbers, got {tokens.dtype}")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise UserError(
                f"tokens: expected ids 0 to {vocab_size - 1}, got {tokens.min()} to {tokens.max()}"
            )
        size = min(self.batch_size, len(tokens))

        def decode(tokens: Array) -> Array:
            return decode_tokens(self.tokenizer, self.tokenizer_params, tokens, image_size)

        return in_parts(decode, size, jnp.asarray(tokens, jnp.int32))

    def log_likelihood(
        self,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        text: str | Sequence[str] | None = None,
        attributes: AskedAttributes | None = None,
        cond_images: ArrayLike | None = None,
    ) -> Float[np.ndarray, " b"]:
        """Log-likelihood in nats of the pictures' tokens, given what `sample` takes, float32.

        Without anything, a conditional model is asked about its null condition.
        """
        tokens = self.encode(images)
        condition = self._condition(len(tokens), labels, text, attributes, cond_images)
        return self._drawer.score(tokens, condition)

    @property
    def _drawer(self) -> Drawer:
        return Drawer(
            self._generator, self.params, self.tokenizer, self.tokenizer_params, self.batch_size
        )

    @property
    def _generator(self) -> Generator:
        if self.gpt is None:
            raise UserError(
                "expected a model that draws, got a tokenizer alone; import the GPT of its tokens "
                "into the same directory (igpt import)"
            )
        return self.gpt

    def _count(
        self,
        labels: Any,
        text: Any,
        num_images: int | None,
        images: Any,
        cond_images: Any,
        attributes: Any,
    ) -> int:
        """How many pictures are asked for; refuses requests that contradict themselves."""
        counts = {
            "labels": None if labels is None or np.ndim(labels) == 0 else len(labels),
            "text": None if text is None or isinstance(text, str) else len(text),
            "images": None if images is None else len(np.asarray(images)),
            "cond_images": None if cond_images is None else len(np.asarray(cond_images)),
            "attributes": num_attribute_rows(attributes),
            "num_images": num_images,
        }
        said = {name: count for name, count in counts.items() if count is not None}
        if len(set(said.values())) > 1:
            raise UserError(f"expected one number of pictures, got {said}")
        count = next(iter(said.values()), 1)
        if count < 1:
            raise UserError(f"expected at least 1 picture, got {said}")
        return count

    def _condition(
        self,
        count: int,
        labels: Any = None,
        text: Any = None,
        attributes: Any = None,
        cond_images: Any = None,
    ) -> Condition:
        """The condition in the form that the model takes it."""
        return read_request(
            self._generator.config,
            count,
            labels=labels,
            text=text,
            attributes=attributes,
            cond_tokens=None if cond_images is None else self.encode(self._made_from(cond_images)),
            text_encoder=self.text_encoder,
            caption_tokenizer=self.caption_tokenizer,
            batch_size=self.batch_size,
            attribute_names=self.config.attributes,
        )

    def _made_from(self, cond_images: ArrayLike) -> UInt8[np.ndarray, "b h w 3"]:
        """What pictures are made from; of pictures as they are, it is made first."""
        images, made = np.asarray(cond_images), self.config.cond_image
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"cond_images: expected uint8 of shape (b, h, w, 3), got {images.dtype} of "
                f"{images.shape}"
            )
        if made is None:
            return images
        size = self.tokenizer.image_size
        return np.stack([make_condition_image(made, image, size) for image in images])

    def _known(
        self,
        images: ArrayLike,
        mask: ArrayLike | None,
        keep: float,
        vary: float | None,
        seed: int,
    ) -> tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
        """Tokens of what is given, and which of them are kept."""
        tokens, length = self.encode(images), self._generator.config.seq_len
        grid_shape, size = self.tokenizer.grid_shape, self.tokenizer.image_size
        if vary is not None:
            return tokens, scattered_tokens(tokens.shape, mask, vary, seed)
        if not self._is_of_videos:
            return tokens, known_tokens(grid_shape, size, len(tokens), mask, keep)
        if mask is not None:
            raise UserError("mask: expected none, as a video is made from whole frames")
        if tokens.shape[1] >= length:
            raise UserError(
                f"images: expected fewer frames than the model draws ({length} tokens), got "
                f"{tokens.shape[1]} tokens; cut them"
            )
        is_known = np.broadcast_to(np.arange(length) < tokens.shape[1], (len(tokens), length))
        return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1]))), is_known

    @property
    def _is_of_videos(self) -> bool:
        return isinstance(self.gpt, GPT) and self.gpt.config.num_frames > 1

    def _checked(self, images: ArrayLike) -> UInt8[np.ndarray, "b *t h w 3"]:
        images, size = np.asarray(images), self.tokenizer.image_size
        is_video = images.ndim == 5 and (self._is_of_videos or sees_time(self.tokenizer))
        shape = images.shape[2 if is_video else 1 :]
        if images.dtype != np.uint8 or shape != (size, size, 3) or images.size == 0:
            raise UserError(
                f"images: expected uint8 of shape (b, {size}, {size}, 3), got {images.dtype} of "
                f"{images.shape}; igpt_jax.data.transforms has center_crop and resize"
            )
        return images
