"""Videos of cards that count up, from their first number, their first frame, or nothing.

    python train.py configs/cards_video.py

20 minutes on 2 cores of an AMD EPYC, other jobs beside it (tokenizer and tokens: 3). Then, by
igpt evaluate runs/cards_video --measure counting --num-images 200: of 1,400 steps the number rises
by one in all if asked by number, and in 1,399 from a first frame, whose tokens are kept; every
frame reads, every video starts as asked. (The run that was measured had test runs beside it and
took 36 minutes.)
"""

from igpt_jax.config import RunConfig, SamplesConfig
from igpt_jax.data.card_videos import CardVideosConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.tokenizers.presets import patch_vq
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=CardVideosConfig(num_videos=10_000, num_validation=500, image_size=48),
        transform=TransformConfig(image_size=48, crop="resize"),
        tokenizer=patch_vq(48, 8, channels=96, codebook_size=1_024, code_dim=16),
        tokenizer_training=TrainConfig(
            num_steps=3_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=3e-3, warmup_steps=75, end_lr_ratio=0.02, weight_decay=0.0
            ),
            log_every=100,
            eval_every=1_500,
            eval_batches=16,
            picture_every=1_500,
            checkpoint_every=1_500,
        ),
        gpt=GPTConfig(
            num_layers=4,
            num_heads=6,
            embed_dim=192,
            num_classes=94,
            class_factors=(10, 10),
            qk_norm=True,
        ),
        gpt_training=TrainConfig(
            num_steps=2_000,
            global_batch_size=8,
            optimizer=OptimizerConfig(name="muon", peak_lr=2e-3, warmup_steps=200),
            ema_decay=0.999,
            log_every=50,
            eval_every=500,
            eval_batches=16,
            picture_every=1_000,
            checkpoint_every=500,
        ),
        sampling=SamplingConfig(temperature=0.5),
        samples=SamplesConfig(num_per_class=1, batch_size=47),
    )
