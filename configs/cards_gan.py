"""The demo's cards by a GAN, to compare its GPT with.

    python train.py configs/cards_gan.py
    igpt evaluate --compare runs/demo runs/cards_gan runs/cards_vae

On one core of an AMD EPYC: 10 minutes of processor time. Expected: card_accuracy 0.85
(docs/evaluation.md).
"""

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.gan import GANConfig
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.samples_config import SamplesConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> BaselineConfig:
    """The run."""
    return BaselineConfig(
        data=CardsConfig(num_cards=16_000, num_validation=512),
        transform=TransformConfig(image_size=64, crop="resize"),
        model=GANConfig(
            image_size=64,
            patch_size=2,
            base_channels=16,
            channel_multipliers=(1, 2, 4, 8),
            latent_dim=64,
            num_classes=101,
            class_factors=(11, 10),  # as the GPT: tens and ones
            discriminator_channels=16,
        ),
        training=TrainConfig(
            num_steps=3_500,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=1e-3, warmup_steps=0, beta1=0.0, beta2=0.99, weight_decay=0.0,
                clip_norm=10.0,
            ),
            ema_decay=0.995,
            log_every=50,
            eval_every=500,
            eval_batches=32,
            picture_every=500,
            checkpoint_every=500,
        ),
        samples=SamplesConfig(num_per_class=2, columns=17, batch_size=101),
    )  # fmt: skip
