"""Runs that train in seconds, for our tests and for yours."""

import dataclasses
from typing import Any, Final

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.gan import GANConfig
from igpt_jax.baselines.vae import VAEConfig
from igpt_jax.config import RunConfig, SamplesConfig
from igpt_jax.data.card_videos import CardVideosConfig
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.condition_images import GreyConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.text.caption_tokenizers import TrainedBPEConfig
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.quantizers import FiniteScalarQuantizerConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig

_TINY_NETWORK: Final[dict[str, Any]] = {
    "image_size": 32,
    "patch_size": 2,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "latent_dim": 16,
    "num_classes": 101,
    "class_factors": (11, 10),
    "class_dim": 8,
}


def tiny_config(**changes: Any) -> RunConfig:
    """Cards of 32 pixels, 16 tokens each, a GPT of two layers, eight steps of everything."""
    training = TrainConfig(
        num_steps=8,
        global_batch_size=8,
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=2),
        log_every=1,
        eval_every=4,
        eval_batches=1,
        picture_every=4,
        checkpoint_every=3,
    )
    config = RunConfig(
        data=CardsConfig(num_cards=64, num_validation=16, image_size=32),
        transform=TransformConfig(image_size=32, crop="resize"),
        tokenizer=AutoencoderConfig(
            image_size=32,
            patch_size=4,
            base_channels=8,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            latent_channels=8,
            attention=False,
            middle=False,
            quantizer=FiniteScalarQuantizerConfig(levels=(4, 3, 2)),
        ),
        tokenizer_training=training,
        gpt=GPTConfig(
            num_layers=2,
            num_heads=2,
            embed_dim=16,
            mlp_dim=32,
            num_classes=101,
            class_factors=(11, 10),
            residual_dropout=0.1,
        ),
        gpt_training=training,
        samples=SamplesConfig(num_per_class=1, batch_size=101),
        num_threads=1,
    )
    return dataclasses.replace(config, **changes)


def tiny_gan_config(**changes: Any) -> BaselineConfig:
    """The same cards by class, a GAN of two levels, eight steps."""
    tiny = tiny_config()
    config = BaselineConfig(
        data=tiny.data,
        transform=tiny.transform,
        model=GANConfig(discriminator_channels=8, **_TINY_NETWORK),
        training=tiny.gpt_training,
        samples=tiny.samples,
        num_threads=1,
    )
    return dataclasses.replace(config, **changes)


def tiny_vae_config(**changes: Any) -> BaselineConfig:
    """The same for a VAE."""
    config = tiny_gan_config(model=VAEConfig(**_TINY_NETWORK))
    return dataclasses.replace(config, **changes)


def tiny_asked_config(**changes: Any) -> RunConfig:
    """The same cards from captions and grey pictures, in any order."""
    config = tiny_config()
    return dataclasses.replace(
        config,
        data=CardsConfig(
            num_cards=64, num_validation=16, image_size=32, captions="both", held_out_share=0.5
        ),
        cond_image=GreyConfig(),
        caption_tokenizer=TrainedBPEConfig(320),
        gpt=GPTConfig(
            num_layers=2,
            num_heads=2,
            embed_dim=16,
            mlp_dim=32,
            order="any",
            caption_len=48,
            cond_image=True,
        ),
        samples=SamplesConfig(num_images=4, batch_size=4),
        **changes,
    )


def tiny_video_config(**changes: Any) -> RunConfig:
    """Cards of 32 pixels that count over four frames, 16 tokens each."""
    config = tiny_config()
    return dataclasses.replace(
        config,
        data=CardVideosConfig(num_videos=32, num_validation=16, image_size=32, num_frames=4),
        gpt=dataclasses.replace(config.gpt, num_classes=98, residual_dropout=0.0),
        samples=SamplesConfig(num_per_class=1, batch_size=49),
        **changes,
    )
