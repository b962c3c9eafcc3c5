"""What one job asks for."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.typing import Bool, UInt8

HOW = ("temperature", "cfg_scale", "top_k", "top_p")


@dataclass(frozen=True)
class Ask:
    """What is asked of each picture of a job; None is not asked, or the model's default.

    Attributes:
        prompt: what the pictures show.
        negative_prompt: what guidance leads away from.
        label: class.
        negative_label: class that guidance leads away from.
        attributes: values by their names.
        seed: of everything random; picture i of it is picture i of `Model.sample`.
        temperature: see `SamplingConfig`, as the next three.
        cfg_scale: guidance.
        top_k: tokens to keep.
        top_p: mass to keep.
        keep: share of the rows of `image` that is kept, from the top.
        vary: share of the tokens of `image` that is drawn anew, here and there.
        image: uint8 `[s s 3]`, a picture of which a part is drawn anew.
        mask: bool `[s s]`, true where it is.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    label: int | None = None
    negative_label: int | None = None
    attributes: Mapping[str, str] | None = None
    seed: int = 0
    temperature: float | None = None
    cfg_scale: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    keep: float | None = None
    vary: float | None = None
    image: UInt8[np.ndarray, "s s 3"] | None = None
    mask: Bool[np.ndarray, "s s"] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but pictures, as JSON holds it; what is not asked is left out."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in ("image", "mask")
        }

    def sampling(self, default: SamplingConfig) -> SamplingConfig:
        """How to draw, where a model says the rest.

        Raises:
            UserError: a value out of its range.
        """
        given = {name: getattr(self, name) for name in HOW if getattr(self, name) is not None}
        return dataclasses.replace(default, **given)
