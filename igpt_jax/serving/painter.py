"""Draws pictures of a trained model for the engine: a few compiled programs of fixed shapes."""

import dataclasses
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.asking import Reader, Request, is_guidable, kinds_of, one_part
from igpt_jax.errors import UserError
from igpt_jax.model import Model
from igpt_jax.models.conditioning import null_condition
from igpt_jax.models.gpt import GPT
from igpt_jax.models.orders import known_first
from igpt_jax.models.var import VAR
from igpt_jax.programs import decode_tokens
from igpt_jax.sampling.drawing import SamplingParams, lead_slots
from igpt_jax.sampling.guidance import guidance_scales
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.sampling.scales import generate_scales
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.table import (
    Newcomers,
    Table,
    advance,
    cells,
    enter,
    leave,
    resize,
)
from igpt_jax.typing import Array, Bool, Float, Int, Key, UInt8

UNKNOWN = 232  # grey of what is not there yet


@dataclass(frozen=True)
class Read:
    """What one row of a batch is made of, the same for each picture of a job.

    Attributes:
        seed: of the job.
        condition: of one row, NumPy's arrays.
        negative: the same of what guidance leads away from.
        sampling: how to draw.
        tokens: int `[1 l]`, of a picture that is completed; None for none.
        is_known: bool `[1 l]`, which of them are kept.
    """

    seed: int
    condition: Any
    negative: Any
    sampling: SamplingConfig
    tokens: Int[np.ndarray, "1 l"] | None = None
    is_known: Bool[np.ndarray, "1 l"] | None = None


@dataclass(frozen=True)
class Whole:
    """Pictures that are drawn at once, of models whose rows cannot come and go.

    Attributes:
        given: what they are drawn from.
        tokens: int `[b l]`; None before they are drawn.
        positions: tokens that each has.
    """

    given: Any
    tokens: Any
    positions: tuple[int, ...]


Hand = Table | Whole


class ModelPainter:
    """Draws pictures of one model.

    Four programs are made for each size: with and without guidance, with and without filters of
    logits, for both cost time that plain sampling need not spend.

    Attributes:
        model: what draws.
        sizes: rows of its tables, ascending; the smallest that holds all rows is taken.
        num_tokens: of a picture.
        segment: tokens that are drawn at once.
    """

    def __init__(self, model: Model, sizes: Sequence[int] = (1, 8), num_segments: int = 8) -> None:
        gpt = model.gpt
        if gpt is None:
            raise UserError("serve: expected a model that draws, got a tokenizer alone")
        if model.num_frames > 1:
            raise UserError("serve: expected a model of pictures, got one of videos")
        kinds = kinds_of(gpt.config)
        if "image" in kinds and not is_guidable(gpt.config):
            raise UserError(
                "serve: expected a model that draws of classes, texts or nothing, got one that "
                "only makes pictures from others"
            )
        if not sizes or min(sizes) < 1:
            raise UserError(f"serve: expected batches of at least 1 picture, got {sizes}")
        if "text" in kinds and model.text_encoder is None:
            raise UserError("serve: expected the model's text encoder in its directory, found none")
        self.model, self.gpt, self.kinds = model, gpt, kinds
        self.sizes = tuple(sorted(set(sizes)))
        # Of rows that enter or are decoded at once: under load, half a table at a time.
        self._parts = tuple(sorted({1, (self.sizes[-1] + 1) // 2, *self.sizes}))
        self.num_tokens = gpt.config.seq_len
        self.segment = math.ceil(self.num_tokens / max(1, num_segments))

    def check(self, ask: Ask) -> None:
        """Refuses what the model cannot take, without the device.

        Raises:
            UserError: expected, got, what to do.
        """
        config = self.gpt.config
        sampling = ask.sampling(self.model.config.sampling)
        if sampling.cfg_scale != 1 and not is_guidable(config):
            raise UserError(
                f"cfg_scale: expected 1, got {sampling.cfg_scale}; the model was trained without "
                "a condition or without condition dropout"
            )
        away = ask.negative_label is not None or ask.negative_prompt is not None
        if away and sampling.cfg_scale == 1:
            raise UserError("negative condition: expected guidance, got cfg_scale 1; raise it")
        if ask.image is not None and isinstance(self.gpt, VAR):
            raise UserError("image: expected none, as VAR cannot complete pictures")
        one_part(ask.image is not None, mask=ask.mask, keep=ask.keep, vary=ask.vary)
        if "text" in self.kinds:  # features of texts need the device: they are read by `read`
            if ask.label is not None and "labels" not in self.kinds:
                raise UserError("labels: expected none, for the model is text-conditional")
            return
        model = self.model
        reader = Reader(config, None, model.caption_tokenizer, model.config.attributes, 1)
        reader.read(Request(ask.label, ask.prompt, ask.attributes), 1)
        if away:
            reader.read(Request(ask.negative_label, ask.negative_prompt), 1)

    def read(self, ask: Ask) -> Read:
        """What a row needs of a job."""
        asked = self.model.read_request(
            1,
            labels=ask.label,
            text=ask.prompt,
            attributes=ask.attributes,
            temperature=ask.temperature,
            cfg_scale=ask.cfg_scale,
            top_k=ask.top_k,
            top_p=ask.top_p,
            negative_labels=ask.negative_label,
            negative_text=ask.negative_prompt,
        )
        negative = asked.negative
        if negative is None:
            negative = null_condition(asked.condition, self.gpt.config.num_classes)
        tokens = is_known = None
        if ask.image is not None:
            given = ask.image[None], 1, ask.mask, ask.keep, ask.vary
            known = self.model.read_known(*given, ask.seed)
            assert known is not None
            tokens, is_known = known
        condition, negative = jax.tree.map(np.asarray, (asked.condition, negative))
        return Read(ask.seed, condition, negative, asked.sampling, tokens, is_known)

    def fits(self, hand: Hand | None, ask: Ask) -> bool:
        """Whether a picture can be drawn beside those in hand."""
        if hand is None:
            return True
        if isinstance(hand, Whole):
            return False
        # Without guidance, rows have one cache: another cannot be had for those that are there.
        return hand.is_guided or ask.sampling(self.model.config.sampling).cfg_scale == 1

    def enter(
        self, hand: Hand | None, size: int, rows: Sequence[tuple[Read, int]], places: Sequence[int]
    ) -> Hand:
        """Takes what was read and the index of the picture in its job, to places that are free."""
        # Of all that enter, even in parts: a table is guided from its first row on, or never.
        is_guided = any(read.sampling.cfg_scale != 1 for read, _ in rows)
        is_guided |= isinstance(hand, Table) and hand.is_guided
        start = 0
        for count in self._split(len(rows)):
            end = start + count
            hand = self._enter(hand, size, rows[start:end], places[start:end], is_guided)
            start = end
        assert hand is not None
        return hand

    def _split(self, count: int) -> list[int]:
        """Rows that enter at once: padding may double them, and no more."""
        parts = []
        while count:
            size = self._padded(count)
            if size > 2 * count and not isinstance(self.gpt, VAR):
                size = max(part for part in self._parts if part <= count)
            parts.append(min(size, count))
            count -= parts[-1]
        return parts

    def _padded(self, count: int) -> int:
        return next(part for part in self._parts if part >= count)

    def _enter(
        self,
        hand: Hand | None,
        size: int,
        rows: Sequence[tuple[Read, int]],
        places: Sequence[int],
        is_guided: bool,
    ) -> Hand:
        padded = self._padded(len(rows))
        rows = [*rows, *[rows[-1]] * (padded - len(rows))]
        reads = [read for read, _ in rows]
        seeds = np.asarray([read.seed for read in reads], np.uint32)
        keys = _keys(seeds, np.asarray([index for _, index in rows], np.uint32))
        has_filters = isinstance(hand, Table) and hand.rows.sampling.top_k is not None
        settings = [read.sampling for read in reads]
        sampling = self._sampling(settings, is_guided=is_guided, has_filters=has_filters)
        condition, negative = (
            jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *trees)
            for trees in (
                [read.condition for read in reads],
                [read.negative for read in reads],
            )
        )
        if isinstance(self.gpt, VAR):
            return Whole((keys, condition, sampling, negative), None, (0,) * padded)
        assert not isinstance(hand, Whole)
        known, order = self._known(reads)
        lead = lead_slots(self.gpt.config, condition)
        new = Newcomers(keys, condition, negative, sampling, known, order, lead)
        return enter(self.gpt, self.model.params, hand, size, new, places)

    def resize(self, hand: Hand, kept: Sequence[int], size: int) -> Hand:
        """What is in hand, with the places that are named before those that are free."""
        return hand if isinstance(hand, Whole) else resize(hand, kept, size)

    def leave(self, hand: Hand, places: Sequence[int]) -> Hand:
        """What is in hand, with some places free."""
        return hand if isinstance(hand, Whole) else leave(hand, places)

    def advance(self, hand: Hand) -> Hand:
        """Draws a segment of all rows, and waits for it; what is given is used up."""
        model: Any = self.model
        if isinstance(hand, Table):
            return advance(self.gpt, model.params, hand, self.segment)
        keys, condition, sampling, negative = hand.given
        given = (self.gpt, model.params, model.tokenizer, model.tokenizer_params)
        drawn = generate_scales(*given, keys, condition, sampling, negative)
        there = (self.num_tokens,) * len(hand.positions)
        return Whole(hand.given, jax.block_until_ready(drawn), there)

    def preview(self, hand: Hand, places: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
        """The pictures at some places so far; what is not there is grey."""
        rows, columns = self.model.tokenizer.grid_shape
        tokens, is_there = self._cells(hand, places)
        there = np.asarray(is_there)[: len(places)].reshape(-1, rows, columns)
        images = self._decode(tokens)[: len(places)]
        cell = images.shape[1] // rows, images.shape[2] // columns
        shown = there.repeat(cell[0], axis=1).repeat(cell[1], axis=2)
        return np.where(shown[..., None], images, np.uint8(UNKNOWN))

    def finish(self, hand: Hand, places: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
        """The pictures at some places, which are done."""
        return self._decode(self._cells(hand, places)[0])[: len(places)]

    def classify(
        self, image: UInt8[np.ndarray, "s s 3"]
    ) -> Generator[None, None, Float[np.ndarray, " classes"]]:
        """Log-likelihoods in nats of a picture's tokens given each class, part by part.

        Raises:
            UserError: the model has no classes.
        """
        nats = yield from self.model.class_log_likelihoods(image[None], self.sizes[-1])
        return nats[0]

    def warm(self) -> int:
        """Makes every program; how many batches that took."""
        guided = (1.0, 2.0) if is_guidable(self.gpt.config) else (1.0,)
        count, kinds = 0, self.kinds
        ask = Ask(prompt="1" if {"text", "caption"} & set(kinds) else None)
        if "labels" in kinds:
            ask = dataclasses.replace(ask, label=0)
        if "attributes" in kinds and not self._attributes_are_open:
            names = {a.name: str(a.values[0]) for a in self.model.config.attributes}
            ask = dataclasses.replace(ask, attributes=names)
        for size in self.sizes:
            for cfg_scale in guided:
                for top_p in (1.0, 0.5):
                    read = self.read(
                        dataclasses.replace(ask, cfg_scale=cfg_scale, top_p=top_p, top_k=0)
                    )
                    self._draw_all(read, size)
                    count += 1
        return count

    def _draw_all(self, read: Read, size: int) -> None:
        """A full table, and all that may happen to it at each size of its cache."""
        is_guided = read.sampling.cfg_scale != 1
        hand = self._enter(None, size, [(read, 0)] * size, range(size), is_guided)
        for part in self._parts:
            self.preview(hand, range(min(part, size)))
        known = 0
        while max(hand.positions) < self.num_tokens:
            hand = self.advance(hand)
            if isinstance(hand, Table) and hand.num_slots != known:
                known = hand.num_slots
                counts = {min(part, size - 1) for part in self._parts if part <= size}
                for count in counts - {0}:  # the last goes on
                    hand = self._enter(hand, size, [(read, 0)] * count, range(count), is_guided)
                for other in self.sizes:
                    self.resize(hand, [size - 1], other)

    @property
    def _attributes_are_open(self) -> bool:
        config: Any = self.gpt.config
        return bool(config.attribute_drop_prob) or is_guidable(config)

    def _sampling(
        self, rows: Sequence[SamplingConfig], *, is_guided: bool, has_filters: bool
    ) -> SamplingParams:
        """How to draw some rows, among others that may have guidance and filters."""
        scales = None
        if is_guided or any(row.cfg_scale != 1 for row in rows):
            length = self.gpt.config.seq_len
            if isinstance(self.gpt, VAR):  # its schedule is its own
                scales = np.asarray([row.cfg_scale for row in rows], np.float32)
            else:
                scales = np.stack([_scales(row, length) for row in rows])
        top_k = top_p = None
        if has_filters or any(row.top_k or row.top_p < 1 for row in rows):
            top_k = np.asarray([row.top_k for row in rows], np.int32)
            top_p = np.asarray([row.top_p for row in rows], np.float32)
        temperature = np.asarray([row.temperature for row in rows], np.float32)
        return jax.tree.map(jnp.asarray, SamplingParams(temperature, scales, top_k, top_p))

    def _known(self, reads: Sequence[Read]) -> tuple[tuple[Array, Array], Array | None]:
        """What is kept of each row, and its order: one program whether something is or not."""
        length = self.gpt.config.seq_len
        tokens = np.zeros((len(reads), length), np.int32)
        is_known = np.zeros(tokens.shape, bool)
        for row, read in enumerate(reads):
            if read.tokens is not None and read.is_known is not None:
                tokens[row], is_known[row] = read.tokens[0], read.is_known[0]
        known, order = (jnp.asarray(tokens), jnp.asarray(is_known)), None
        if isinstance(self.gpt, GPT) and self.gpt.config.order == "any":
            order = known_first(known[1])
            known = (
                jnp.take_along_axis(known[0], order, axis=1),
                jnp.take_along_axis(known[1], order, axis=1),
            )
        return known, order

    def _cells(
        self, hand: Hand, places: Sequence[int]
    ) -> tuple[Int[Array, "n l"], Bool[Array, "n l"]]:
        """Tokens at some places, and which are there; places are padded to a part."""
        indices = np.asarray(
            [*places, *[places[-1]] * (self._padded(len(places)) - len(places))], np.int32
        )
        if isinstance(hand, Table):
            return cells(hand.rows, indices)
        tokens = hand.tokens[indices]
        return tokens, jnp.ones(tokens.shape, bool)

    def _decode(self, tokens: Int[Array, "b l"]) -> UInt8[np.ndarray, "b h w 3"]:
        model = self.model
        return np.asarray(decode_tokens(model.tokenizer, model.tokenizer_params, tokens))


def _scales(sampling: SamplingConfig, length: int) -> Float[np.ndarray, " l"]:
    return guidance_scales(
        sampling.cfg_schedule,
        sampling.cfg_scale,
        length,
        power=sampling.cfg_power,
        interval=sampling.cfg_interval,
    )


@jax.jit
def _keys(seeds: Any, indices: Any) -> Key[Array, " b"]:
    """As `image_keys`, of several seeds."""
    return jax.vmap(lambda seed, i: jax.random.fold_in(jax.random.key(seed), i))(seeds, indices)
