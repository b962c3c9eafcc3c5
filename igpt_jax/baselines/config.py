"""The config of a baseline's run: same data, same training, another model."""

from dataclasses import dataclass, field

from igpt_jax.baselines.gan import GANConfig
from igpt_jax.baselines.vae import VAEConfig
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.pairs import PairsConfig
from igpt_jax.data.sources import DataConfig, num_frames
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError
from igpt_jax.samples_config import SamplesConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig
from igpt_jax.training.sharding import MeshConfig


def discriminator_defaults() -> OptimizerConfig:
    """Adam without momentum, as Karras et al. 2018 (appendix A.1) train both players."""
    return OptimizerConfig(
        peak_lr=1e-3, warmup_steps=0, beta1=0.0, beta2=0.99, weight_decay=0.0, clip_norm=10.0
    )


@dataclass(frozen=True)
class BaselineConfig:
    """Everything that decides the run of a GAN or a VAE.

    Attributes:
        data: where pictures come from.
        transform: how they are prepared; its random parts act while the model trains.
        model: what is trained.
        training: how long; its optimizer is that of a GAN's generator.
        discriminator_optimizer: of a GAN's discriminator; a VAE has none.
        samples: what is drawn at the end.
        mesh: devices.
        seed: of everything random.
        num_threads: that prepare pictures.
        max_broken_share: share of damaged files that stops the run.
        wandb_project: Weights & Biases project; None for files alone.
    """

    data: DataConfig = field(default_factory=CardsConfig)
    transform: TransformConfig = field(
        default_factory=lambda: TransformConfig(image_size=64, crop="resize")
    )
    model: GANConfig | VAEConfig = field(default_factory=GANConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=discriminator_defaults)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    num_threads: int = 4
    max_broken_share: float = 0.01
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        """Refuses parts that do not fit together."""
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed: expected 0 <= seed < 2^32, got {self.seed}")
        if self.transform.image_size != self.model.image_size:
            raise UserError(
                f"transform.image_size: expected the model's {self.model.image_size}, got "
                f"{self.transform.image_size}"
            )
        if num_frames(self.data) > 1 or isinstance(self.data, PairsConfig):
            raise UserError(
                "data: expected single pictures, as a GAN or VAE draws from classes alone, got "
                f"{type(self.data).__name__}"
            )
