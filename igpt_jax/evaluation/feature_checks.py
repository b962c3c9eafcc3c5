"""What every comparison of features asks of them."""

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.typing import Float


def check_finite(
    features: Float[np.ndarray, "b d"], *, name: str = "features", of: str = "", first: int = 0
) -> None:
    """Refuses values that are not finite.

    Args:
        features: of pictures.
        name: what they are.
        of: whose pictures; told where it is given.
        first: number of the first picture.

    Raises:
        UserError: names the first picture with such a value.
    """
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        whose = f" of {of}" if of else ""
        raise UserError(
            f"{name}: expected finite values, got others in image {first + finite.argmin()}{whose}"
            "; look at the images and the weights"
        )


def check_dimensions(real: int, fake: int) -> None:
    """Refuses features of unlike sizes.

    Raises:
        UserError: tells both sizes.
    """
    if real != fake:
        raise UserError(
            f"features: expected one dimension on both sides, got {real} and {fake}; use one "
            "feature extractor for both"
        )


def check_sides(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m e"]) -> None:
    """Refuses two sets of features that cannot be compared.

    Raises:
        UserError: they are of unlike sizes, or not finite.
    """
    check_dimensions(real.shape[1], fake.shape[1])
    check_finite(real, of="the first set")
    check_finite(fake, of="the second set")
