"""CIFAR-10 as 8 x 8 tokens of a tokenizer that learned against a discriminator; no GPT.

    IGPT_DATA=/folder/of/cifar10-train.zip python train.py configs/cifar10_vqgan.py

Then: igpt evaluate runs/cifar10_vqgan, or a GPT of its tokens: --tokenizer_path runs/cifar10_vqgan.

Sized for 6 minutes on 2 CPU cores; not measured to its end. The same tokenizer without, and then
against, a discriminator is measured in docs/tokenizers.md.
"""

from igpt_jax.config import RunConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.tokenizers.losses import AutoencoderLossConfig
from igpt_jax.tokenizers.quantizers import MovingAverageQuantizerConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=FolderConfig("$IGPT_DATA/cifar10-train.zip", validation_per_class=500),
        transform=TransformConfig(image_size=32, crop="resize"),
        tokenizer=AutoencoderConfig(
            image_size=32,
            patch_size=4,
            base_channels=128,
            channel_multipliers=(1,),
            num_res_blocks=1,
            num_decoder_res_blocks=2,
            latent_channels=64,
            attention=False,
            middle=False,
            quantizer=MovingAverageQuantizerConfig(codebook_size=1_024, code_dim=8),
        ),
        tokenizer_loss=AutoencoderLossConfig(perceptual_weight=0.1),
        adversary=AdversaryConfig(
            PatchDiscriminatorConfig(base_channels=32, num_layers=2),
            start_step=2_000,
            lead_steps=200,
        ),
        discriminator_optimizer=OptimizerConfig(
            peak_lr=4e-4, warmup_steps=0, beta1=0.5, beta2=0.9, weight_decay=0.0
        ),
        tokenizer_training=TrainConfig(
            num_steps=4_000,
            global_batch_size=16,
            optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=100, weight_decay=0.0),
            log_every=100,
            eval_every=1_000,
            eval_batches=64,
            picture_every=1_000,
            checkpoint_every=1_000,
        ),
        last_stage="tokenizer",
    )
