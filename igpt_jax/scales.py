"""The scales of a multi-scale tokenizer: square maps of tokens, coarse to fine."""

from itertools import pairwise

from igpt_jax.errors import UserError

# Tokens a side of each map: VAR (Tian et al. 2024) for 256 and for 512 pixels.
SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)


def check_scales(scales: tuple[int, ...], what: str) -> None:
    """Refuses scales that are not 1 and then ever more tokens a side.

    Args:
        scales: tokens a side of each map.
        what: whose they are, for the message.

    Raises:
        UserError: as the name says.
    """
    grows = all(small < large for small, large in pairwise(scales))
    if len(scales) < 2 or scales[0] != 1 or not grows:
        raise UserError(
            f"{what}: expected scales that start with 1 and grow, such as (1, 2, 4), got {scales}"
        )


def scale_bounds(scales: tuple[int, ...]) -> list[tuple[int, int]]:
    """First token of each scale, and the first one behind it."""
    bounds, end = [], 0
    for side in scales:
        bounds.append((end, end + side * side))
        end += side * side
    return bounds


def num_tokens(scales: tuple[int, ...]) -> int:
    """Tokens of all scales."""
    return sum(side * side for side in scales)
