"""CIFAR-10 by class, as 8 x 8 codes of a convolutional tokenizer.

    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_vq.py

On one core of an AMD EPYC: 12 minutes of processor time (docs/evaluation.md).
"""

from igpt_jax.config import RunConfig, SamplesConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.tokenizers.presets import patch_vq
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=FolderConfig("$IGPT_DATA/cifar10-train.zip", validation_per_class=500),
        transform=TransformConfig(image_size=32, crop="resize"),
        tokenizer=patch_vq(32, 4, channels=128),
        tokenizer_training=TrainConfig(
            num_steps=1_500,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=1e-3, warmup_steps=100, end_lr_ratio=0.05, weight_decay=0.0
            ),
            log_every=100,
            eval_every=500,
            eval_batches=16,
            picture_every=500,
            checkpoint_every=500,
        ),
        gpt=GPTConfig(
            num_layers=4,
            num_heads=6,
            embed_dim=192,
            num_classes=10,
            qk_norm=True,
        ),
        gpt_training=TrainConfig(
            num_steps=2_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(name="muon", peak_lr=2e-3, warmup_steps=100),
            ema_decay=0.995,
            log_every=100,
            eval_every=500,
            eval_batches=64,
            picture_every=500,
            checkpoint_every=500,
        ),
        sampling=SamplingConfig(cfg_scale=2.0),
        samples=SamplesConfig(num_per_class=8, columns=10, batch_size=80),
    )
