"""CIFAR-10's classes from 1,000 labelled pictures, by the GPT that was pre-trained without labels.

    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_finetune.py
    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_finetune.py \
        --from_scratch True --workdir runs/cifar10_scratch

Takes runs/cifar10_pretrained. On one core of an AMD EPYC: 13 minutes each. Expected: 53.5 % of the
validation pictures, from scratch 38.4 % (docs/recognition.md).
"""

from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.finetuning.head import HeadConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> FinetuneConfig:
    """The run."""
    return FinetuneConfig(
        pretrained="runs/cifar10_pretrained",
        data=FolderConfig("$IGPT_DATA/cifar10-train.zip", validation_per_class=500),
        transform=TransformConfig(
            image_size=32, crop="random", flip=True, brightness=0.2, contrast=0.2, saturation=0.2
        ),
        per_class=100,
        head=HeadConfig(num_heads=8),
        training=TrainConfig(
            num_steps=800,
            global_batch_size=32,
            optimizer=OptimizerConfig(peak_lr=5e-4, warmup_steps=100, weight_decay=0.1),
            ema_decay=0.99,
            log_every=50,
            eval_every=200,
            eval_batches=32,
            picture_every=0,
            checkpoint_every=400,
        ),
    )
