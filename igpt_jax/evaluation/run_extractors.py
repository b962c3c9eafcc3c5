"""Features that need no weights but the run's own: its tokenizer's, and its GPT's."""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Features, extract_in_parts, on_all_devices
from igpt_jax.models.conditioning import Condition, repeat_condition
from igpt_jax.models.gpt import GPT
from igpt_jax.programs import encode_images
from igpt_jax.tokenizers.base import ImageTokenizer, sees_time, to_pixels, tokenizer_hash
from igpt_jax.typing import Array, Params, UInt8


@dataclass(frozen=True)
class TokenizerExtractor:
    """A tokenizer's latents, before they are quantized.

    Attributes:
        tokenizer: with a method `latents`.
        params: its parameters.
        source: where it is from, for the name.
        is_flat: all latents of a picture side by side, instead of their mean over the grid.
        batch_size: pictures at once.
    """

    tokenizer: ImageTokenizer
    params: Params
    source: str
    is_flat: bool = False
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuses tokenizers without latents."""
        if not hasattr(self.tokenizer, "latents"):
            raise UserError(
                f"features: expected a tokenizer with latents, got {type(self.tokenizer).__name__}"
                "; take a GPT's features"
            )

    @property
    def name(self) -> str:
        """Whose latents."""
        return f"tokenizer of {self.source}" + (", flattened" if self.is_flat else "")

    @cached_property
    def fingerprint(self) -> str:
        """Of the config and the parameters."""
        config = json.dumps([repr(_config(self.tokenizer)), self.is_flat])
        return tokenizer_hash(config, self.params)

    @property
    def network(self) -> None:
        """None."""
        return None

    def __call__(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        """The latents; of videos, those of the frames stand side by side."""
        program = partial(_latents, self.tokenizer, self.is_flat, self._placed)
        return extract_in_parts(program, self.batch_size, images)

    @cached_property
    def _placed(self) -> Params:
        return on_all_devices(self.params)


@partial(jax.jit, static_argnums=(0, 1))
def _latents(
    tokenizer: ImageTokenizer, is_flat: bool, params: Params, images: UInt8[Array, "b *t h w 3"]
) -> Features:
    pixels = to_pixels(images)
    if pixels.ndim == 5 and not sees_time(tokenizer):
        pixels = pixels.reshape(-1, *pixels.shape[2:])
    latents = tokenizer.apply({"params": params}, pixels, method="latents")
    pooled = latents if is_flat else jnp.mean(latents, axis=(-3, -2))
    return Features(pooled.reshape(len(images), -1))


@dataclass(frozen=True)
class GPTExtractor:
    """What a middle layer of a GPT knows of a picture, see `GPT.features`.

    The middle is where iGPT's features classify best (Chen et al. 2020, section 4.1).

    Attributes:
        gpt: module.
        params: its parameters.
        tokenizer: of its tokens.
        tokenizer_params: its parameters.
        condition: of one row, that the model sees: its null condition.
        source: where it is from, for the name.
        layer: as in `GPT.features`; 0 for the middle one.
        batch_size: pictures at once.
    """

    gpt: GPT
    params: Params
    tokenizer: ImageTokenizer
    tokenizer_params: Params
    condition: Condition
    source: str
    layer: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuses layers that are not there."""
        if not 0 <= self.layer <= self.gpt.config.num_layers:
            raise UserError(
                f"layer: expected 1 to {self.gpt.config.num_layers}, or 0 for the middle one, got "
                f"{self.layer}"
            )

    @property
    def chosen_layer(self) -> int:
        """Whose features these are."""
        return self.layer or -(-self.gpt.config.num_layers // 2)

    @property
    def name(self) -> str:
        """Which layer of whose GPT."""
        return f"layer {self.chosen_layer} of {self.gpt.config.num_layers}, GPT of {self.source}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the configs and the parameters."""
        config = json.dumps([repr(self.gpt.config), repr(_config(self.tokenizer)), self.layer])
        return tokenizer_hash(config, {"gpt": self.params, "tokenizer": self.tokenizer_params})

    @property
    def network(self) -> None:
        """None."""
        return None

    def __call__(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        """The features of pictures or videos."""
        gpt, *arrays = self._placed
        program = partial(_middle, self.chosen_layer, gpt, self.tokenizer, *arrays)
        return extract_in_parts(program, self.batch_size, images)

    @cached_property
    def _placed(self) -> tuple[GPT, Params, Params, Condition]:
        """The GPT without its later blocks: the parameters of all blocks are stacked."""
        count = min(self.chosen_layer + 1, self.gpt.config.num_layers)
        config = dataclasses.replace(self.gpt.config, num_layers=count)
        blocks = jax.tree.map(lambda leaf: leaf[:count], self.params["blocks"])
        arrays = ({**self.params, "blocks": blocks}, self.tokenizer_params, self.condition)
        return (GPT(config), *on_all_devices(arrays))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _middle(
    layer: int,
    gpt: GPT,
    tokenizer: ImageTokenizer,
    params: Params,
    tokenizer_params: Params,
    condition: Any,  # of one row, so without the letter of the batch
    images: UInt8[Array, "b *t h w 3"],
) -> Features:
    tokens = encode_images(tokenizer, tokenizer_params, images)

    asked = repeat_condition(condition, len(tokens))
    known: Any = gpt.apply({"params": params}, tokens[:, :-1], asked, method="features")
    return Features(known[:, layer])


def _config(module: Any) -> Any:
    return getattr(module, "config", None)
