"""How strong guidance is at each token."""

import math
from typing import Literal, TypeAlias

import numpy as np

from igpt_jax.typing import Float

GuidanceSchedule: TypeAlias = Literal["constant", "linear", "power_cosine"]


def guidance_scales(
    schedule: GuidanceSchedule,
    cfg_scale: float,
    num_tokens: int,
    *,
    power: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Float[np.ndarray, " l"]:
    """Guidance of every token, float32; 1 is none.

    Args:
        schedule: "constant"; "linear", from 1 at the first token to `cfg_scale` at the last
            (RandAR, Pang et al. 2024); or "power_cosine", at token i `1 + (cfg_scale - 1) * (1 -
            cos(pi * x)) / 2` with `x = (i / num_tokens) ** power` (RAR, Yu et al. 2024, appendix).
        cfg_scale: the strongest.
        num_tokens: tokens `l` of a picture.
        power: above 1, "power_cosine" grows later.
        interval: shares of the tokens between which there is guidance (Kynkäänniemi et al. 2024);
            outside there is none.
    """
    index = np.arange(num_tokens)
    match schedule:
        case "constant":
            grown = np.ones(num_tokens)
        case "linear":
            grown = index / max(num_tokens - 1, 1)
        case "power_cosine":
            grown = (1 - np.cos(math.pi * (index / num_tokens) ** power)) / 2
    start, end = interval
    inside = (index >= start * num_tokens) & (index < end * num_tokens)
    return np.where(inside, 1 + (cfg_scale - 1) * grown, 1).astype(np.float32)
