"""Published recipes on ImageNet, for the files in `configs/`; shapes are in `models/presets.py`."""

from typing import Final, Literal

from igpt_jax.config import RunConfig
from igpt_jax.data.encode import EncodingConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.models.gpt_config import GPTConfig
from igpt_jax.models.presets import imagegpt, llamagen
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.tokenizers.palette import PaletteConfig
from igpt_jax.tokenizers.presets import llamagen_vq
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig
from igpt_jax.training.sharding import MeshConfig

IMAGENET: Final = "$IGPT_DATA/imagenet/train"
NUM_CLASSES: Final = 1_000
NUM_PICTURES: Final = 1_281_167  # of ILSVRC 2012's training set

# Size -> (epochs, batch, guidance of the published FID, fsdp, tensor). Epochs and guidance of the
# best FID at 256 pixels: Sun et al. 2024, table 8. Batches and learning rates of its authors' runs:
# FoundationVision/LlamaGen, issue 8; of XL, with a rate of 2e-4, it has a batch of 256, but 512 by
# the rule of 1e-4 for each 256 (section 3.2, issue 14), which we follow. Meshes: the fastest by
# `igpt plan` of those tried on the slice that the config names (docs/scaling.md).
_LLAMAGEN: Final = {
    "B": (300, 256, 2.0, 16, 1),
    "L": (300, 256, 1.75, 16, 1),
    "XL": (50, 512, 1.75, 32, 1),
    "XXL": (50, 512, 1.75, 16, 1),
    "3B": (50, 512, 1.5, 64, 2),
}
# Size -> (learning rate, fsdp at 32 pixels, at 64). Chen et al. 2020, table 5, of 32
# pixels: the largest of 0.01, 0.003, 0.001, 0.0003, ... that trains well (section 3.4). Of 64
# pixels they trained none of these sizes; we take the same.
_IMAGEGPT: Final = {"S": (3e-3, 1, 1), "M": (3e-3, 8, 8), "L": (1e-3, 8, 16)}


def imagenet_llamagen(size: Literal["B", "L", "XL", "XXL", "3B"]) -> RunConfig:
    """LlamaGen by class on ImageNet at 256 pixels, over the codes of VQ-16.

    AdamW, betas 0.9 and 0.95, weight decay 0.05, gradients clipped to a norm of 1, a learning rate
    of 1e-4 for each 256 pictures of a batch, ten crops of each picture (Sun et al. 2024, section
    3.2), constant (its code). Its authors took crops of two scales, 1.1 and 1.05 (issue 14); here
    they are those of 1.1.

    Args:
        size: of table 1.
    """
    epochs, batch, cfg_scale, fsdp, tensor = _LLAMAGEN[size]
    validation = 10
    pictures = NUM_PICTURES - validation * NUM_CLASSES
    return RunConfig(
        data=FolderConfig(IMAGENET, validation_per_class=validation),
        transform=TransformConfig(image_size=256),
        tokenizer=llamagen_vq(16),
        tokenizer_path="runs/vqgan256",
        encoding=EncodingConfig(views="ten_crop"),
        gpt=llamagen(size, remat="dots"),
        gpt_training=TrainConfig(
            num_steps=epochs * pictures // batch,
            global_batch_size=batch,
            optimizer=OptimizerConfig(
                peak_lr=1e-4 * batch / 256, warmup_steps=0, end_lr_ratio=1.0, weight_decay=0.05
            ),
            ema_decay=0.9999,
            **_EVERY,
        ),
        sampling=SamplingConfig(cfg_scale=cfg_scale),
        mesh=MeshConfig(fsdp=fsdp, tensor=tensor),
    )


def imagenet_imagegpt(size: Literal["S", "M", "L"], image_size: Literal[32, 64]) -> RunConfig:
    """OpenAI's iGPT: the pixels of ImageNet in 512 colours, without classes.

    Adam, betas 0.9 and 0.95, batches of 128, a million updates, an epoch of warm-up, then cosine to
    0; no dropout (Chen et al. 2020, section 3.4), no weight decay (appendix A.1); 4 % of the
    training pictures are kept for validation (section 3.1). Its crops are random; here the tokens
    of the centre are written once.

    Args:
        size: of section 3.3.
        image_size: pixels a side; its square is the number of tokens.
    """
    peak_lr, *fsdp = _IMAGEGPT[size]
    validation, batch = 51, 128
    pictures = NUM_PICTURES - validation * NUM_CLASSES
    gpt: GPTConfig = imagegpt(
        size, grid_shape=(image_size, image_size), remat="full" if image_size > 32 else "dots"
    )
    return RunConfig(
        data=FolderConfig(IMAGENET, validation_per_class=validation),
        transform=TransformConfig(image_size=image_size),
        tokenizer=PaletteConfig(image_size=image_size, num_colors=512),
        gpt=gpt,
        gpt_training=TrainConfig(
            num_steps=1_000_000,
            global_batch_size=batch,
            optimizer=OptimizerConfig(
                peak_lr=peak_lr,
                warmup_steps=pictures // batch,
                end_lr_ratio=0.0,
                weight_decay=0.0,
            ),
            ema_decay=0.9999,
            **_EVERY,
        ),
        mesh=MeshConfig(fsdp=fsdp[image_size > 32]),
    )


_EVERY: Final[dict[str, int]] = {
    "log_every": 100,
    "eval_every": 5_000,
    "picture_every": 5_000,
    "checkpoint_every": 5_000,
}
