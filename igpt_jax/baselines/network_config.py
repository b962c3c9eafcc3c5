"""What the networks of all baselines are sized by."""

import math
from dataclasses import dataclass

from igpt_jax.dtypes import DTypeName
from igpt_jax.errors import UserError


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes that a GAN's generator and a VAE share.

    Attributes:
        image_size: pixels a side.
        patch_size: pixels a side of one position of the largest feature maps; above 1, networks
            are as many times squared faster and see less fine.
        base_channels: channels of the largest feature maps.
        channel_multipliers: of `base_channels` at each level, the largest maps first; each next
            level has half the height and width.
        latent_dim: numbers that a picture is drawn from.
        num_classes: classes that can be asked for; 0 for none.
        class_factors: radices to split the class id by, as the GPT's; () for one embedding a class.
        class_dim: channels of the embedding of a class, or of each of its digits.
        dtype: of the computation; parameters and losses are float32.
    """

    image_size: int = 64
    patch_size: int = 1
    base_channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8, 8)
    latent_dim: int = 128
    num_classes: int = 0
    class_factors: tuple[int, ...] = ()
    class_dim: int = 64
    dtype: DTypeName = "auto"

    def __post_init__(self) -> None:
        """Refuses sizes that no network has."""
        for name in ("image_size", "patch_size", "base_channels", "latent_dim", "class_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}: expected at least 1, got {getattr(self, name)}")
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise UserError(
                "model.channel_multipliers: expected whole numbers of at least 1, got "
                f"{self.channel_multipliers}; try (1, 2, 4)"
            )
        step = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        if self.image_size % step:
            raise UserError(
                f"model.image_size: expected a multiple of {step} (patch_size, then halved once "
                f"between levels), got {self.image_size}; change channel_multipliers"
            )
        factors = self.class_factors
        if self.num_classes < 0 or (factors and not math.prod(factors) >= self.num_classes > 0):
            raise UserError(
                "model.class_factors: expected numbers that multiply to at least num_classes "
                f"{self.num_classes}, got {factors}"
            )

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, the largest feature maps first."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def grid_size(self) -> int:
        """Positions a side of the smallest feature maps."""
        return self.image_size // self.patch_size // 2 ** (len(self.channel_multipliers) - 1)
