"""LlamaGen-L by class on ImageNet at 256 pixels, over the codes of VQ-16 (runs/vqgan256).

    IGPT_DATA=/data python train.py configs/imagenet256_llamagen_l.py
    igpt plan configs/imagenet256_llamagen_l.py --topology v5e:4x8

For v5e-32 (32 chips) or more; on fewer, set --mesh.fsdp and --gpt_training.accumulation_steps.
2.1 of 16 GiB a chip and at least 15 hours by `igpt plan` (docs/scaling.md). Not trained here.
Published: FID 3.80 of 50,000 samples, guidance 1.75 (Sun et al. 2024, the released code's table);
recipe: section 3.2 of the same, see igpt_jax/recipes.py.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_llamagen


def get_config() -> RunConfig:
    """The run."""
    return imagenet_llamagen("L")
