"""LlamaGen's VQ-16 with its losses, from a folder or zip of pictures; for accelerators.

    IGPT_DATA=/data python train.py configs/vqgan256.py --data.path '$IGPT_DATA/imagenet/train'
    igpt plan configs/vqgan256.py --topology v5e:4x4

Recipe: Sun et al. 2024, section 3.1 (batch 128, 40 epochs, a constant learning rate, 20,000 steps
before the adversary) and its released code, whose discriminator has the same rate. LPIPS needs
VGG16's weights and those of its linear layers: --tokenizer_loss.lpips_path vgg16.safetensors
--tokenizer_loss.lpips_linear_path lpips_vgg.pth --tokenizer_loss.perceptual_weight 1. Without them
the perceptual distance is that of Laplacian pyramids. On v5e-16 (16 chips) 4.6 of 16 GiB a chip and
at least 7.4 hours by `igpt plan` (docs/scaling.md). Not trained here. Published: rFID 2.19 and PSNR
20.79 dB on ImageNet's 50,000 validation pictures (table 3 of the same).
"""

from igpt_jax.config import RunConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.tokenizers.losses import AutoencoderLossConfig
from igpt_jax.tokenizers.presets import llamagen_vq
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config() -> RunConfig:
    """The run."""
    return RunConfig(
        data=FolderConfig("$IGPT_DATA/images", validation_per_class=50),
        transform=TransformConfig(image_size=256, crop="random", flip=True),
        tokenizer=llamagen_vq(16),
        tokenizer_loss=AutoencoderLossConfig(perceptual_weight=0.1),
        adversary=AdversaryConfig(
            PatchDiscriminatorConfig(), weight=0.5, adaptive=False, start_step=20_000
        ),
        discriminator_optimizer=OptimizerConfig(peak_lr=1e-4, end_lr_ratio=1.0, weight_decay=0.0),
        tokenizer_training=TrainConfig(
            num_steps=400_000,
            global_batch_size=128,
            optimizer=OptimizerConfig(peak_lr=1e-4, end_lr_ratio=1.0, weight_decay=0.05),
            ema_decay=0.9999,
            log_every=100,
            eval_every=5_000,
            picture_every=5_000,
            checkpoint_every=5_000,
        ),
        last_stage="tokenizer",
    )
