"""Which tokens of a picture are kept when a part of it is drawn anew."""

import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.errors import UserError
from igpt_jax.typing import Bool, Int


def scattered_tokens(shape: tuple[int, ...], vary: float, seed: int) -> Bool[np.ndarray, "b l"]:
    """Tokens to keep where a share of them, here and there, is drawn anew.

    Args:
        shape: pictures and tokens, (b, l).
        vary: the share, in (0, 1].
        seed: of the choice.

    Raises:
        UserError: another share.
    """
    if not 0 < vary <= 1:
        raise UserError(f"vary: expected a share in (0, 1], got {vary}")
    ranks = np.random.default_rng(seed).random(shape).argsort(axis=1).argsort(axis=1)
    return ranks >= max(1, round(vary * shape[1]))


def first_tokens(
    tokens: Int[np.ndarray, "b known"], length: int
) -> tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
    """The first frames of a video of `length` tokens, and that these are kept.

    Raises:
        UserError: nothing is left to draw.
    """
    count, given = tokens.shape
    if given >= length:
        raise UserError(
            f"images: expected fewer frames than the model draws ({length} tokens), got {given} "
            "tokens; cut them"
        )
    is_known = np.broadcast_to(np.arange(length) < given, (count, length))
    return np.pad(tokens, ((0, 0), (0, length - given))), is_known


def known_tokens(
    grid_shape: tuple[int, int],
    image_size: int,
    count: int,
    mask: ArrayLike | None,
    keep: float,
) -> Bool[np.ndarray, "b l"]:
    """Tokens to keep, in raster order.

    Args:
        grid_shape: rows and columns of tokens.
        image_size: pixels a side.
        count: pictures `b`.
        mask: [h w] or [b h w], true where pixels are drawn anew; a token is drawn anew if any of
            its pixels is. None keeps the upper part.
        keep: share of rows of the upper part.

    Raises:
        UserError: a mask of another shape or of other values, or a share outside of [0, 1).
    """
    rows, columns = grid_shape
    if mask is None:
        if not 0 <= keep < 1:
            raise UserError(f"keep: expected a share in [0, 1), got {keep}")
        kept = np.arange(rows) < min(round(keep * rows), rows - 1)
        return np.broadcast_to(kept[:, None], (count, rows, columns)).reshape(count, -1)
    given = np.asarray(mask)
    shapes = ((image_size, image_size), (count, image_size, image_size))
    if given.shape not in shapes:
        raise UserError(
            f"mask: expected the shape {shapes[0]} or {shapes[1]}, got {given.shape}; give one "
            "value a pixel of the model's pictures"
        )
    if given.dtype != bool and not np.isin(given, (0, 1)).all():
        raise UserError(f"mask: expected true and false, got {given.dtype}; try mask > 127")
    cells = given.astype(bool).reshape(-1, rows, image_size // rows, columns, image_size // columns)
    is_new = cells.any(axis=(2, 4)).reshape(-1, rows * columns)
    return np.broadcast_to(~is_new, (count, rows * columns))
