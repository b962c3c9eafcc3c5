"""A GPT that draws CIFAR-10 pictures without their classes, to recognise them by what it learned.

    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_pretrained.py
    igpt probe runs/cifar10_pretrained --shots 10,100

On 2 cores of an AMD EPYC, mostly one of them: 76 minutes. Expected: validation 4.18 nats a token,
probe of layer 4 58.0 % (docs/recognition.md).
"""

from igpt_jax.config import RunConfig, SamplesConfig
from igpt_jax.data.encode import EncodingConfig
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
        tokenizer=patch_vq(32, 4, channels=128, codebook_size=1_024, code_dim=8),
        tokenizer_training=TrainConfig(
            num_steps=3_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=1e-3, warmup_steps=100, end_lr_ratio=0.05, weight_decay=0.0
            ),
            log_every=100,
            eval_every=1_500,
            eval_batches=64,
            picture_every=1_500,
            checkpoint_every=1_500,
        ),
        encoding=EncodingConfig(views="mirrored"),
        gpt=GPTConfig(num_layers=5, num_heads=8, embed_dim=256, qk_norm=True, remat="dots"),
        gpt_training=TrainConfig(
            num_steps=2_200,
            global_batch_size=64,
            optimizer=OptimizerConfig(name="muon", peak_lr=3e-3, warmup_steps=100),
            ema_decay=0.999,
            log_every=50,
            eval_every=550,
            eval_batches=32,
            picture_every=2_200,
            checkpoint_every=250,
        ),
        sampling=SamplingConfig(temperature=1.0, top_p=0.95),
        samples=SamplesConfig(num_images=48),
    )
