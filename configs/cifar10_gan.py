"""CIFAR-10 by class with a GAN, to compare with the GPT of configs/cifar10_vq.py.

    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_gan.py
    igpt evaluate --compare runs/cifar10_vq runs/cifar10_gan runs/cifar10_vae

On one core of an AMD EPYC: 9 minutes of processor time (docs/evaluation.md).
"""

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.gan import GANConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.samples_config import SamplesConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> BaselineConfig:
    """The run."""
    return BaselineConfig(
        data=FolderConfig("$IGPT_DATA/cifar10-train.zip", validation_per_class=500),
        transform=TransformConfig(image_size=32, crop="resize"),
        model=GANConfig(
            image_size=32,
            base_channels=32,
            channel_multipliers=(1, 2, 4, 4),
            latent_dim=128,
            num_classes=10,
            discriminator_channels=32,
        ),
        training=TrainConfig(
            num_steps=1_500,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=1e-3, warmup_steps=0, beta1=0.0, beta2=0.99, weight_decay=0.0,
                clip_norm=10.0,
            ),
            ema_decay=0.999,
            log_every=100,
            eval_every=500,
            eval_batches=32,
            picture_every=500,
            checkpoint_every=500,
        ),
        samples=SamplesConfig(num_per_class=8, columns=10, batch_size=80),
    )  # fmt: skip
