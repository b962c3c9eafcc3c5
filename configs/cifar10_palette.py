"""CIFAR-10, pixel by pixel in 512 colours as iGPT does it, by class.

    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_palette.py

On 2 CPU cores (AMD EPYC) shared with other jobs, jax 0.10.2: palette and tokens 2 minutes, GPT 20
minutes. Expected: validation 2.92 nats a token, 51 % under the marginal entropy of 6.00
(docs/cifar10.md).
"""

from igpt_jax.config import RunConfig, SamplesConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.tokenizers.palette import PaletteConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=FolderConfig("$IGPT_DATA/cifar10-train.zip", validation_per_class=500),
        transform=TransformConfig(image_size=32, crop="resize"),
        tokenizer=PaletteConfig(image_size=32, num_colors=512),
        gpt=GPTConfig(
            num_layers=4,
            num_heads=2,
            embed_dim=128,
            num_classes=10,
            qk_norm=True,
        ),
        gpt_training=TrainConfig(
            num_steps=700,
            global_batch_size=4,
            optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=50),
            ema_decay=0.99,
            log_every=25,
            eval_every=100,
            eval_batches=16,
            picture_every=350,
            checkpoint_every=350,
        ),
        sampling=SamplingConfig(temperature=1.0),
        samples=SamplesConfig(num_per_class=8, columns=10, batch_size=80),
    )
