"""A trained model: draws, completes, describes and judges pictures and videos."""

import dataclasses
from collections.abc import Generator as Steps
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.asking import (
    AskedAttributes,
    Reader,
    Request,
    check_count,
    check_seed,
    count_pictures,
    is_guidable,
    kinds_of,
    made_from,
    one_part,
    without_picture,
)
from igpt_jax.classifying import all_at_once, class_probabilities, judge_classes
from igpt_jax.data.known_signal import keep_known_signal
from igpt_jax.drawer import PARTS, Drawer, Known
from igpt_jax.errors import UserError
from igpt_jax.model_config import Generator, ModelConfig, Tokenizer, num_tokens
from igpt_jax.models.conditioning import Condition
from igpt_jax.models.gpt import GPT
from igpt_jax.models.var import VAR
from igpt_jax.programs import decode_tokens, encode_images, in_parts, layer_features
from igpt_jax.sampling.guidance import GuidanceSchedule
from igpt_jax.sampling.known import first_tokens, known_tokens, scattered_tokens
from igpt_jax.sampling.sampler import SamplingConfig, image_keys
from igpt_jax.text.caption_tokenizers import CaptionTokenizer
from igpt_jax.text.encoder import TextEncoder
from igpt_jax.tokenizers.base import sees_time
from igpt_jax.typing import Array, Float, Int, Params, UInt8
from igpt_jax.window import window_of

DEFAULT_KEEP = 0.5


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
        text: str | Sequence[str | None] | None = None,
        num_images: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        cfg_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        cfg_schedule: GuidanceSchedule | None = None,
        cfg_power: float | None = None,
        cfg_interval: tuple[float, float] | None = None,
        images: ArrayLike | None = None,
        keep: float | None = None,
        mask: ArrayLike | None = None,
        vary: float | None = None,
        image_size: int | None = None,
        attributes: AskedAttributes | None = None,
        cond_images: ArrayLike | None = None,
        cond_is_made: bool = False,
        negative_labels: ArrayLike | None = None,
        negative_text: str | Sequence[str | None] | None = None,
        best_of: int = 1,
    ) -> UInt8[np.ndarray, "b *t h w 3"]:
        """Draws pictures, or videos.

        Picture i depends on the seed, i and what is asked of it, not on how many are drawn with
        it (but for the rounding of logits, which is the machine's).

        Args:
            labels: class of each picture; None draws of the null condition or of a model without
                classes. Of this and all others one row may stand for all pictures.
            text: what each picture shows, of a text-conditional model; an empty text, or None in a
                list, asks for nothing.
            num_images: how many, where nothing else says it; 1 by default.
            seed: of everything random, 0 to 2^32 - 1.
            temperature: 0 takes the most probable token; this and the next six default to the
                config's `sampling`.
            cfg_scale: classifier-free guidance; 1 = off.
            top_k: tokens to keep; 0 = all.
            top_p: mass to keep; 1 = all.
            cfg_schedule: guidance of every token alike, or growing; see `guidance_scales`.
            cfg_power: above 1 it grows later, of the schedule "power_cosine".
            cfg_interval: shares of the tokens between which there is guidance.
            images: uint8 [b h w 3], pictures to complete; of a model of videos their first frames,
                also [b t h w 3].
            keep: share of the rows of tokens, from the top, that is kept of `images`; half of them
                where neither this, `mask` nor `vary` is given. Of videos all given frames are.
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
            cond_is_made: `cond_images` are what is made already, such as a sketch of edges.
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
        asked = self.read_request(
            num_images,
            labels=labels,
            text=text,
            attributes=attributes,
            cond_images=cond_images,
            cond_is_made=cond_is_made,
            images=images,
            negative_labels=negative_labels,
            negative_text=negative_text,
            temperature=temperature,
            cfg_scale=cfg_scale,
            cfg_schedule=cfg_schedule,
            cfg_power=cfg_power,
            cfg_interval=cfg_interval,
            top_k=top_k,
            top_p=top_p,
        )
        for name, value in {"image_size": image_size, "best_of": best_of}.items():
            check_count(name, value)
        check_seed(seed)
        known = self.read_known(images, asked.count, mask, keep, vary, seed)
        drawn = self.sample_tokens(
            asked.condition, asked.count, asked.sampling, seed, known, asked.negative, best_of
        )
        pictures, made = self.decode(drawn, image_size=image_size), self.config.cond_image
        is_whole = image_size in (None, self.tokenizer.image_size)
        if made is None or asked.cond_images is None or not is_whole:
            return pictures
        conditions = np.broadcast_to(asked.cond_images, pictures.shape)
        return keep_known_signal(made, pictures, conditions)

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
            videos: uint8 [b t h w 3]; the last `overlap` frames are seen.
            num_frames: of the result, at least those of `videos`.
            overlap: last frames that each window starts with; None for about half of the model's.
            seed: of everything random.
            asked: `labels`, `text`, `attributes`, `cond_images` and how to draw, as in `sample`,
                of every window.

        Returns:
            `videos`, and behind them what was drawn.

        Raises:
            UserError: the model is of pictures, or a number is out of range.
        """
        frames = np.asarray(videos)
        gpt = self._generator
        if not isinstance(gpt, GPT) or self.num_frames == 1:
            raise UserError("extend: expected a model of videos, got one of pictures")
        check_seed(seed)
        request = self.read_request(len(frames), **asked)
        window = window_of(self.tokenizer, gpt.config)
        overlap = window.checked(frames, num_frames, overlap)
        keys = image_keys(seed, np.arange(len(frames)))

        def draw(known: Known, part: int) -> Int[np.ndarray, "b l"]:
            part_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, PARTS + part)
            return self._drawer.draw(
                request.condition, part_keys, request.sampling, known, request.negative
            )

        return window.slide(frames, num_frames, overlap, draw, self.encode, self.decode)

    def caption(
        self,
        images: ArrayLike,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        **asked: Any,
    ) -> list[str]:
        """Describes pictures, uint8 [b h w 3]; of a model with captions in its sequence.

        Args:
            images: pictures.
            seed: of everything random.
            temperature: 0 takes the most probable word.
            top_p: mass to keep; 1 = all.
            asked: `labels`, `attributes` and `cond_images` of models that have them.

        Raises:
            UserError: the model writes no captions.
        """
        gpt = self._generator
        if not isinstance(gpt, GPT) or self.caption_tokenizer is None:
            raise UserError("caption: expected a model with captions in its sequence, got another")
        check_seed(seed)
        tokens = self.encode(images)
        self._check_whole(tokens)
        request = self.read_request(len(tokens), is_for_caption=True, **asked).condition
        sampling = SamplingConfig(temperature=temperature, top_p=top_p)
        keys = image_keys(seed, np.arange(len(tokens)))
        return self.caption_tokenizer.decode(self._drawer.captions(tokens, request, keys, sampling))

    def sample_tokens(
        self,
        condition: Condition,
        count: int,
        sampling: SamplingConfig,
        seed: int = 0,
        known: Known | None = None,
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
        text: str | Sequence[str | None] | None = None,
        attributes: AskedAttributes | None = None,
        cond_images: ArrayLike | None = None,
        cond_is_made: bool = False,
    ) -> Float[np.ndarray, " b"]:
        """Log-likelihood in nats of the pictures' tokens, given what `sample` takes, float32.

        Without anything, a conditional model is asked about its null condition.
        """
        asked = {
            "labels": labels, "text": text, "attributes": attributes,
            "cond_images": cond_images, "cond_is_made": cond_is_made,
        }  # fmt: skip
        return self.token_log_likelihood(self.encode(images), **asked)

    def token_log_likelihood(
        self, tokens: Int[np.ndarray, "b l"], **asked: Any
    ) -> Float[np.ndarray, " b"]:
        """The same of pictures that are encoded already; `asked` as in `log_likelihood`."""
        self._check_whole(tokens)
        request = self.read_request(len(tokens), **asked)
        return self._drawer.score(tokens, request.condition)

    def classify(self, images: ArrayLike) -> Float[np.ndarray, "b classes"]:
        """Probabilities of each class of pictures, uint8 [b h w 3], of a class-conditional model.

        By Bayes' rule of `log_likelihood`, all classes being as likely beforehand; float32.

        Raises:
            UserError: the model has no classes.
        """
        return class_probabilities(all_at_once(self.class_log_likelihoods(images, self.batch_size)))

    def class_log_likelihoods(
        self, images: ArrayLike, size: int
    ) -> Steps[None, None, Float[np.ndarray, "b classes"]]:
        """Log-likelihoods in nats given each class, `size` pairs a step; see `judge_classes`."""
        config = self._generator.config
        if "labels" not in kinds_of(config):
            raise UserError("classify: expected a model of classes, got one without")

        def score(tokens: Int[np.ndarray, "n l"], labels: Int[np.ndarray, " n"]) -> Any:
            return self.token_log_likelihood(tokens, labels=labels)

        return judge_classes(score, self.encode(images), config.num_classes, size)

    def features(self, images: ArrayLike, **asked: Any) -> Float[np.ndarray, "b layers_plus_1 d"]:
        """What each layer of the GPT knows of pictures, uint8 [b h w 3], to recognise them by.

        Before each block, and behind the last: the mean over the picture (Chen et al. 2020, section
        2.4), float32. The middle layers know most.

        Args:
            images: pictures.
            asked: what `log_likelihood` takes; the null condition by default.

        Raises:
            UserError: a model of another kind than a GPT.
        """
        gpt, tokens = self._generator, self.encode(images)
        if not isinstance(gpt, GPT):
            raise UserError(f"features: expected a model with a GPT, got {type(gpt).__name__}")
        self._check_whole(tokens)
        condition = self.read_request(len(tokens), **asked).condition
        size = min(self.batch_size, len(tokens))
        look = partial(layer_features, gpt, self.params)
        return in_parts(look, size, jnp.asarray(tokens[:, :-1]), condition)

    def _check_whole(self, tokens: Int[np.ndarray, "b l"]) -> None:
        wanted = self._generator.config.seq_len
        if tokens.shape[1] != wanted:
            raise UserError(
                f"images: expected {wanted} tokens, all that the model draws, got "
                f"{tokens.shape[1]}; give as many frames as it was trained with"
            )

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

    def read_request(
        self,
        num_images: int | None,
        *,
        labels: Any = None,
        text: Any = None,
        attributes: Any = None,
        cond_images: Any = None,
        cond_is_made: bool = False,
        images: Any = None,
        negative_labels: Any = None,
        negative_text: Any = None,
        is_for_caption: bool = False,
        **sampling: Any,
    ) -> "AskedPictures":
        """Reads what is asked of pictures, as in `sample`, without drawing them.

        What it says of drawing replaces the config's.

        Raises:
            UserError: the model cannot take it.
        """
        changes = {name: value for name, value in sampling.items() if value is not None}
        unknown = set(changes) - {field.name for field in dataclasses.fields(SamplingConfig)}
        if unknown:
            raise UserError(f"expected what a model is asked, got {', '.join(sorted(unknown))}")
        how = dataclasses.replace(self.config.sampling, **changes)
        check_count("num_images", num_images)
        count = count_pictures(
            num_images, labels=labels, text=text, images=images, cond_images=cond_images,
            attributes=attributes,
        )  # fmt: skip
        made = None
        if cond_images is not None:
            size = self.tokenizer.image_size
            made = made_from(cond_images, self.config.cond_image, size, is_made=cond_is_made)
        cond_tokens = None if made is None else self.encode(made)
        request = Request(labels, text, attributes, cond_tokens, is_for_caption)
        reader = Reader(
            self._generator.config,
            self.text_encoder,
            self.caption_tokenizer,
            self.config.attributes,
            self.batch_size,
        )
        condition, negative = reader.read(request, count), None
        if negative_labels is not None or negative_text is not None:
            if how.cfg_scale == 1:
                raise UserError("negative condition: expected guidance, got cfg_scale 1; raise it")
            away = Request(negative_labels, negative_text, None, cond_tokens)
            negative = reader.read(away, count)
        elif request.is_of_picture_alone and how.cfg_scale != 1:
            negative = without_picture(condition)
        return AskedPictures(count, condition, negative, how, made)

    def read_known(
        self,
        images: ArrayLike | None,
        count: int,
        mask: ArrayLike | None,
        keep: float | None,
        vary: float | None,
        seed: int,
    ) -> Known | None:
        """Tokens of the pictures that `sample` completes, and which of them are kept.

        Raises:
            UserError: the model cannot complete them, or a part that is no part.
        """
        part = one_part(images is not None, mask=mask, keep=keep, vary=vary)
        if images is None:
            return None
        if isinstance(self.gpt, VAR):
            raise UserError("images: expected none, as VAR cannot complete pictures")
        tokens = self.encode(images)
        tokens = np.repeat(tokens, count, axis=0) if len(tokens) == 1 else tokens
        if vary is not None:
            self._check_whole(tokens)
            return tokens, scattered_tokens(tokens.shape, vary, seed)
        if self.num_frames > 1:
            if part is not None:
                raise UserError(f"{part}: expected none, as a video goes on from whole frames")
            return first_tokens(tokens, self._generator.config.seq_len)
        grid_shape, size = self.tokenizer.grid_shape, self.tokenizer.image_size
        share = DEFAULT_KEEP if keep is None else keep
        return tokens, known_tokens(grid_shape, size, count, mask, share)

    @property
    def num_frames(self) -> int:
        """Frames of what it draws, or takes; 1 for pictures."""
        if sees_time(self.tokenizer):
            config: Any = self.tokenizer.config
            return config.num_frames
        return self.gpt.config.num_frames if isinstance(self.gpt, GPT) else 1

    def _checked(self, images: ArrayLike) -> UInt8[np.ndarray, "b *t h w 3"]:
        images, size = np.asarray(images), self.tokenizer.image_size
        is_video = images.ndim == 5 and self.num_frames > 1
        shape = images.shape[2 if is_video else 1 :]
        if images.dtype != np.uint8 or shape != (size, size, 3) or images.size == 0:
            raise UserError(
                f"images: expected uint8 of shape (b, {size}, {size}, 3), got {images.dtype} of "
                f"{images.shape}; igpt_jax.data.transforms has center_crop and resize"
            )
        return images


@dataclass(frozen=True)
class AskedPictures:
    """A request that was read.

    Attributes:
        count: pictures.
        condition: of each.
        negative: what guidance leads away from; None for the null condition.
        sampling: how to draw.
        cond_images: what pictures are made from, of the model's size.
    """

    count: int
    condition: Condition
    negative: Condition
    sampling: SamplingConfig
    cond_images: UInt8[np.ndarray, "b h w 3"] | None
