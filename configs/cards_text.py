"""Cards from captions in English and Chinese, and captions from cards.

    python train.py configs/cards_text.py

33 minutes on 2 cores of an AMD EPYC, other jobs beside it (tokenizer and tokens: 3). Then, by
igpt evaluate runs/cards_text --measure faithfulness --num-images 300: numbers at their place 1.000
(English) and 0.995 (Chinese), everything on a card right 1.000 and 0.990; on combinations that no
training card has 1.000 and 1.000 (97 cards); captions read off cards exact 1.000. (The run that was
measured had four jobs beside it, and took 71 minutes for the same steps.)
"""

from igpt_jax.config import RunConfig, SamplesConfig
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.models.orders import OrdersConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.text.caption_tokenizers import TrainedBPEConfig
from igpt_jax.tokenizers.presets import patch_vq
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=CardsConfig(
            num_cards=100_000,
            num_validation=1_000,
            max_numbers=3,
            jitter=0,
            captions="both",
            held_out_share=0.1,
        ),
        transform=TransformConfig(image_size=64, crop="resize"),
        tokenizer=patch_vq(64, 8, channels=96, codebook_size=1_024, code_dim=16),
        tokenizer_training=TrainConfig(
            num_steps=4_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=3e-3, warmup_steps=75, end_lr_ratio=0.02, weight_decay=0.0
            ),
            log_every=100,
            eval_every=2_000,
            eval_batches=16,
            picture_every=2_000,
            checkpoint_every=2_000,
        ),
        caption_tokenizer=TrainedBPEConfig(512),
        orders=OrdersConfig(rectangle=0, around=0, scattered=0, everything=1, caption_last=0.15),
        gpt=GPTConfig(
            num_layers=6,
            num_heads=6,
            embed_dim=192,
            caption_len=37,
            order="any",
            cond_drop_prob=0.05,  # pictures before their captions train the null condition, too
            qk_norm=True,
        ),
        gpt_training=TrainConfig(
            num_steps=4_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(name="muon", peak_lr=2e-3, warmup_steps=200),
            ema_decay=0.999,
            log_every=100,
            eval_every=1_000,
            eval_batches=16,
            picture_every=2_000,
            checkpoint_every=1_000,
        ),
        sampling=SamplingConfig(temperature=0.4, cfg_scale=1.5),
        samples=SamplesConfig(num_images=64, batch_size=64),
    )
