"""Draws batches of a trained model for the engine: a few compiled programs of fixed shapes."""

import dataclasses
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.asking import Reader, Request, is_guidable, kinds_of, one_part
from igpt_jax.errors import UserError
from igpt_jax.model import Model
from igpt_jax.model_config import Generator as Predictor
from igpt_jax.models.attention import KVCache, grow_kv_cache
from igpt_jax.models.conditioning import Condition, null_condition
from igpt_jax.models.gpt import GPT
from igpt_jax.models.orders import known_first
from igpt_jax.models.var import VAR
from igpt_jax.programs import decode_tokens
from igpt_jax.sampling.drawing import (
    Drawing,
    SamplingParams,
    advance,
    begin,
    cache_sizes,
    lead_slots,
)
from igpt_jax.sampling.guidance import guidance_scales
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.sampling.scales import generate_scales
from igpt_jax.serving.asks import Ask
from igpt_jax.typing import Array, Bool, Float, Int, Key, Params, UInt8

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
class Batch:
    """Rows on the device; those behind the last that was asked for repeat it.

    Attributes:
        drawing: tokens so far; of VAR what it is drawn from, then its tokens.
        lead: cache slots before the first cell.
        position: tokens that are there.
    """

    drawing: Any
    lead: int
    position: int


class ModelPainter:
    """Draws pictures of one model.

    Four programs are made for each size: with and without guidance, with and without filters of
    logits, for both cost time that plain sampling need not spend.

    Attributes:
        model: what draws.
        sizes: rows of its batches, ascending; the smallest that holds all rows is taken.
        ends: tokens after each segment.
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
        length, parts = gpt.config.seq_len, max(1, num_segments)
        ends = {math.ceil(length * part / parts) for part in range(1, parts + 1)}
        self.ends = (length,) if isinstance(gpt, VAR) else tuple(sorted(ends | {length}))

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

    def begin(self, rows: Sequence[tuple[Read, int]]) -> Batch:
        """Reads conditions and draws the first token."""
        size = next(size for size in self.sizes if size >= len(rows))
        rows = [*rows, *[rows[-1]] * (size - len(rows))]
        reads = [read for read, _ in rows]
        seeds = np.asarray([read.seed for read in reads], np.uint32)
        keys = _keys(seeds, np.asarray([index for _, index in rows], np.uint32))
        sampling = self._sampling([read.sampling for read in reads])
        condition, negative = (
            jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *trees)
            for trees in (
                [read.condition for read in reads],
                [read.negative for read in reads],
            )
        )
        if isinstance(self.gpt, VAR):
            return Batch((keys, condition, sampling, negative), 0, 0)
        known, order = self._known(reads)
        lead = lead_slots(self.gpt.config, condition)
        drawing = _begin(
            self.gpt,
            self.model.params,
            keys,
            condition,
            sampling,
            known,
            negative,
            order,
            self._slots(lead, 1),
        )
        return Batch(drawing, lead, 1)

    def advance(self, batch: Batch, end: int) -> Batch:
        """Draws to `end` tokens, and waits for them; the batch that is given is used up."""
        model: Any = self.model
        if isinstance(self.gpt, VAR):
            keys, condition, sampling, negative = batch.drawing
            given = (self.gpt, model.params, model.tokenizer, model.tokenizer_params)
            drawn = generate_scales(*given, keys, condition, sampling, negative)
            return Batch(jax.block_until_ready(drawn), 0, end)
        slots = self._slots(batch.lead, end)
        kv_cache, rest = batch.drawing.kv_cache, dataclasses.replace(batch.drawing, kv_cache=None)
        if slots != self._slots(batch.lead, batch.position):
            kv_cache = _grow(kv_cache, slots)
        drawing = _advance(self.gpt, model.params, kv_cache, rest, end, slots)
        jax.block_until_ready(drawing.position)
        return Batch(drawing, batch.lead, end)

    def preview(self, batch: Batch) -> UInt8[np.ndarray, "b h w 3"]:
        """The pictures so far; what is not there is grey."""
        rows, columns = self.model.tokenizer.grid_shape
        there = np.asarray(batch.drawing.is_there).reshape(-1, rows, columns)
        images = self._decode(batch.drawing.by_cell)
        cell = images.shape[1] // rows, images.shape[2] // columns
        shown = there.repeat(cell[0], axis=1).repeat(cell[1], axis=2)
        return np.where(shown[..., None], images, np.uint8(UNKNOWN))

    def finish(self, batch: Batch) -> UInt8[np.ndarray, "b h w 3"]:
        """The pictures."""
        is_var = isinstance(self.gpt, VAR)
        return self._decode(batch.drawing if is_var else batch.drawing.by_cell)

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
                    batch = self.begin([(read, i) for i in range(size)])
                    for end in self.ends:
                        batch = self.advance(batch, end)
                        if end < self.ends[-1]:
                            self.preview(batch)
                    self.finish(batch)
                    count += 1
        return count

    @property
    def _attributes_are_open(self) -> bool:
        config: Any = self.gpt.config
        return bool(config.attribute_drop_prob) or is_guidable(config)

    def _slots(self, lead: int, end: int) -> int:
        sizes = cache_sizes(lead + self.gpt.config.seq_len - 1)
        return next(size for size in sizes if size >= lead + end - 1)

    def _sampling(self, rows: Sequence[SamplingConfig]) -> SamplingParams:
        scales = None
        if any(row.cfg_scale != 1 for row in rows):
            length = self.gpt.config.seq_len
            if isinstance(self.gpt, VAR):  # its schedule is its own
                scales = np.asarray([row.cfg_scale for row in rows], np.float32)
            else:
                scales = np.stack([_scales(row, length) for row in rows])
        top_k = top_p = None
        if any(row.top_k or row.top_p < 1 for row in rows):
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


@partial(jax.jit, static_argnums=(0, 8))
def _begin(
    gpt: Predictor,
    params: Params,
    keys: Key[Array, " b"],
    condition: Condition,
    sampling: SamplingParams,
    known: Any,
    negative: Condition,
    order: Int[Array, "b l"] | None,
    num_slots: int,
) -> Drawing:
    assert not isinstance(gpt, VAR)
    prompt = jnp.zeros((len(keys), 0), jnp.int32)
    return begin(gpt, params, keys, condition, sampling, prompt, known, negative, order, num_slots)


_grow = jax.jit(grow_kv_cache, static_argnums=1)


# The cache is the next segment's alone; a copy of it would cost as much as several tokens.
@partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def _advance(
    gpt: Predictor,
    params: Params,
    kv_cache: KVCache,
    rest: Drawing,
    end: int | Int[Array, ""],
    num_slots: int,
) -> Drawing:
    assert not isinstance(gpt, VAR)
    drawing = dataclasses.replace(rest, kv_cache=kv_cache)
    return advance(gpt, params, drawing, drawing.position, end, num_slots)
