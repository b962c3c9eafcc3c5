"""Cards of which any part is drawn anew, to fit what is left.

    python train.py configs/cards_inpaint.py

43 minutes on 2 cores of an AMD EPYC, several jobs beside it. Then, by
igpt evaluate runs/cards_inpaint --measure completion: of 1,000 cards with half of the number hidden
0.973 (left), 0.968 (right) and 0.993 (centre) agree with what is visible of it.
"""

from igpt_jax.config import RunConfig
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.models.orders import OrdersConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.tokenizers.presets import patch_vq
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=CardsConfig(num_cards=50_000, num_validation=1_000, jitter=0),
        transform=TransformConfig(image_size=64, crop="resize"),
        tokenizer=patch_vq(64, 8, channels=96, codebook_size=1_024, code_dim=16),
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
        orders=OrdersConfig(rectangle=0.6, around=0.1, scattered=0.15, everything=0.15),
        gpt=GPTConfig(num_layers=6, num_heads=6, embed_dim=192, order="any", qk_norm=True),
        gpt_training=TrainConfig(
            num_steps=7_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(name="muon", peak_lr=2e-3, warmup_steps=200),
            ema_decay=0.999,
            log_every=100,
            eval_every=1_000,
            eval_batches=16,
            picture_every=2_000,
            checkpoint_every=1_000,
        ),
        sampling=SamplingConfig(temperature=0.5),
    )
