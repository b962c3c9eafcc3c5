"""What a condition tells of its picture exactly: put back into a generated one, and measured.

A model that draws from a condition through tokens keeps what is known only nearly. These
projections make it exact and change no more than they need; pictures that agree stay as they are.
"""

import jax.numpy as jnp
import numpy as np

from igpt_jax.data.condition_images import (
    LUMA_UNIT,
    ConditionImageConfig,
    EdgesConfig,
    GreyConfig,
    SmallConfig,
    block_means,
    find_edges,
    luma,
    luma_thousandths,
    set_block_means,
)
from igpt_jax.data.images import to_float
from igpt_jax.similarity import psnr
from igpt_jax.typing import Float, UInt8


def keep_known_signal(
    config: ConditionImageConfig,
    images: UInt8[np.ndarray, "b h w 3"],
    cond_images: UInt8[np.ndarray, "b h w 3"],
) -> UInt8[np.ndarray, "b h w 3"]:
    """Puts back what the conditions tell exactly.

    - Grey: every pixel gets the luma of the condition and keeps its chroma. Where the colour does
      not exist at this luma, the chroma is scaled towards grey until it does; the hue stays.
    - Small: the means of all blocks become those of the condition (see `set_block_means`).
    - Edges: nothing is known exactly, so the images are returned unchanged.

    Args:
        config: How the conditions were made.
        images: Generated pictures.
        cond_images: Their conditions, as `make_condition_image` returns them.

    Raises:
        UserError: `SmallConfig.factor` does not divide the size.
    """
    match config:
        case GreyConfig():
            return _set_luma(images, luma(cond_images))
        case SmallConfig(factor):
            return set_block_means(images, block_means(cond_images, factor))
        case EdgesConfig():
            return images


def known_signal_psnr(
    config: ConditionImageConfig,
    images: UInt8[np.ndarray, "b h w 3"],
    cond_images: UInt8[np.ndarray, "b h w 3"],
) -> Float[np.ndarray, " b"]:
    """Measures how well images keep what their conditions tell, in dB.

    The PSNR, as `similarity.psnr`, of the luma for grey conditions and of the small picture for
    small ones, both in bytes; for edges, of the edges found in the images.

    Returns:
        float32, one value per image; 106 dB where all that is known is kept.

    Raises:
        UserError: `SmallConfig.factor` does not divide the size.
    """
    match config:
        case GreyConfig():
            kept, known = luma(images)[..., None], luma(cond_images)[..., None]
        case SmallConfig(factor):
            kept, known = block_means(images, factor), block_means(cond_images, factor)
        case EdgesConfig():
            kept = np.stack([find_edges(config, image) for image in images])[..., None]
            known = luma(cond_images)[..., None]
    return np.asarray(psnr(jnp.asarray(to_float(kept)), jnp.asarray(to_float(known))))


def _set_luma(
    images: UInt8[np.ndarray, "b h w 3"], target: UInt8[np.ndarray, "b h w"]
) -> UInt8[np.ndarray, "b h w 3"]:
    """Replaces the luma and keeps the chroma, or as much of it as there is room for.

    All in whole numbers. Channels are rounded, halves down, so each errs by -1/2 to just under 1/2.
    So does the luma, their weighted mean, which therefore rounds, halves up, to the target.
    """
    before = luma_thousandths(images)
    chroma = LUMA_UNIT * images.astype(np.int64) - before[..., None]
    after = target.astype(np.int64)
    # The share of the chroma that fits is room / reach of the tighter side, at most 1.
    rise, fall = chroma.max(axis=-1), -chroma.min(axis=-1)
    room_above, room_below = LUMA_UNIT * (255 - after), LUMA_UNIT * after
    above_is_tighter = room_above * fall <= room_below * rise
    reach = np.maximum(np.where(above_is_tighter, rise, fall), 1)
    room = np.minimum(np.where(above_is_tighter, room_above, room_below), reach)
    unit = (LUMA_UNIT * reach)[..., None]
    offset = -((unit - 2 * chroma * room[..., None]) // (2 * unit))
    moved = (after[..., None] + offset).astype(np.uint8)
    # Without this, rounding could change a colour at the gamut's border a second time.
    return np.where((luma(images) == target)[..., None], images, moved)
