"""The demo's cards by a VAE, to compare its GPT with.

    python train.py configs/cards_vae.py
    igpt evaluate --compare runs/demo runs/cards_gan runs/cards_vae

On one core of an AMD EPYC: 8.5 minutes of processor time. Expected: card_accuracy 0.03
(docs/evaluation.md): a VAE shows the mean of what it does not know.
"""

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.vae import VAEConfig
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
        model=VAEConfig(
            image_size=64,
            patch_size=2,
            base_channels=16,
            channel_multipliers=(1, 2, 4, 8),
            latent_dim=64,
            num_classes=101,
            class_factors=(11, 10),  # as the GPT: tens and ones
            kl_weight=16.0,  # with 1, what encoders give and what is drawn are far apart
        ),
        training=TrainConfig(
            num_steps=3_500,
            global_batch_size=16,
            optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100, weight_decay=0.0),
            ema_decay=0.995,
            log_every=100,
            eval_every=1_000,
            eval_batches=32,
            picture_every=1_000,
            checkpoint_every=1_000,
        ),
        samples=SamplesConfig(num_per_class=2, columns=17, batch_size=101),
    )
