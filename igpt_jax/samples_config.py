"""What the last stage of a run draws."""

from dataclasses import dataclass

from igpt_jax.errors import UserError


@dataclass(frozen=True)
class SamplesConfig:
    """What the last stage of a run draws.

    Attributes:
        num_per_class: pictures of each class, of a model with classes.
        num_images: pictures of a model without.
        columns: of the grid; 0 for a square grid.
        batch_size: pictures drawn at once.
    """

    num_per_class: int = 2
    num_images: int = 64
    columns: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuses counts that nothing can be drawn with."""
        for name in ("num_per_class", "num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"samples.{name}: expected 1 or more, got {getattr(self, name)}")
        if self.columns < 0:
            raise UserError(f"samples.columns: expected 0 or more, got {self.columns}")
