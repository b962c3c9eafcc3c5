"""LlamaGen-B by class on ImageNet at 256 pixels, over the codes of VQ-16 (runs/vqgan256).

    IGPT_DATA=/data python train.py configs/imagenet256_llamagen_b.py
    igpt plan configs/imagenet256_llamagen_b.py --topology v5e:4x4

For v5e-16 (16 chips) or more; on fewer, set --mesh.fsdp and --gpt_training.accumulation_steps.
1.8 of 16 GiB a chip and at least 7.7 hours by `igpt plan` (docs/scaling.md). Not trained here.
Published: FID 5.46 of 50,000 samples at 256 pixels (Sun et al. 2024, the released code's table);
recipe: section 3.2 of the same, see igpt_jax/recipes.py.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_llamagen


def get_config() -> RunConfig:
    """The run."""
    return imagenet_llamagen("B")
