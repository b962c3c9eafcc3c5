"""The config of fine-tuning: a pre-trained run, pictures with classes, a head."""

from dataclasses import dataclass, field

from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.sources import DataConfig, num_frames
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError
from igpt_jax.finetuning.head import HeadConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.sharding import MeshConfig


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides how a GPT learns classes.

    The loss is that of the classes and `generative_weight` times that of the tokens (Chen et al.
    2020, section 2.3).

    Attributes:
        pretrained: directory or URL of a run or an imported model with a GPT, or ORG/NAME on the
            Hub.
        from_scratch: take only its tokenizer and the shape of its GPT, to tell what pre-training
            gave.
        data: pictures of several classes.
        transform: how they are prepared; its random parts act while the model trains.
        per_class: so many random training pictures of each class; None for all.
        head: slots to classes.
        generative_weight: of the mean loss of the tokens; 0 for none.
        label_smoothing: share of the probability that is spread over all classes (Szegedy et al.
            2016, section 7).
        training: how long.
        mesh: devices.
        seed: of everything random.
        num_threads: that prepare pictures.
        max_broken_share: share of damaged files that stops the run.
        wandb_project: Weights & Biases project; None for files alone.
    """

    pretrained: str = ""
    from_scratch: bool = False
    data: DataConfig = field(default_factory=CardsConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    per_class: int | None = None
    head: HeadConfig = field(default_factory=HeadConfig)
    generative_weight: float = 1.0
    label_smoothing: float = 0.1
    training: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    num_threads: int = 4
    max_broken_share: float = 0.01
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        """Refuses parts that do not fit together."""
        if not self.pretrained:
            raise UserError("pretrained: expected the directory of a model, got none; name one")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed: expected 0 <= seed < 2^32, got {self.seed}")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(
                f"per_class: expected at least 1, or None for all, got {self.per_class}"
            )
        if self.generative_weight < 0:
            raise UserError(f"generative_weight: expected 0 or more, got {self.generative_weight}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing: expected in [0, 1), got {self.label_smoothing}")
        if num_frames(self.data) > 1:
            raise UserError("data: expected single pictures, got videos")
