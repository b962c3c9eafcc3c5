"""LlamaGen-XXL by class on ImageNet at 256 pixels, over the codes of VQ-16 (runs/vqgan256).

    IGPT_DATA=/data python train.py configs/imagenet256_llamagen_xxl.py
    igpt plan configs/imagenet256_llamagen_xxl.py --topology v5p:2x4x4

For v5p-64 (32 chips) or more; on fewer, set --mesh.fsdp and --gpt_training.accumulation_steps.
10.0 of 95 GiB a chip and at least 4.9 hours by `igpt plan` (docs/scaling.md). Not trained here.
Published: FID of 50,000 samples 3.09, guidance 1.75, after 50 epochs; 2.34 of a model of 384
pixels shown at 256, after 300 (Sun et al. 2024, tables 8 and 10); recipe: section 3.2 of the same,
see igpt_jax/recipes.py.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_llamagen


def get_config() -> RunConfig:
    """The run."""
    return imagenet_llamagen("XXL")
