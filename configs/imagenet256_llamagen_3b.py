"""LlamaGen-3B by class on ImageNet at 256 pixels, over the codes of VQ-16 (runs/vqgan256).

    IGPT_DATA=/data python train.py configs/imagenet256_llamagen_3b.py
    igpt plan configs/imagenet256_llamagen_3b.py --topology v5e:16x16

For v5e-256 (256 chips) or more; on fewer, set --mesh.fsdp, --mesh.tensor and
--gpt_training.accumulation_steps.
2.0 of 16 GiB a chip and at least 4.0 hours by `igpt plan` (docs/scaling.md). Not trained here.
Published: FID of 50,000 samples 3.05, guidance 1.5, after 50 epochs; 2.18 of a model of 384
pixels shown at 256, after 300 (Sun et al. 2024, tables 8 and 10); recipe: section 3.2 of the same,
see igpt_jax/recipes.py.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_llamagen


def get_config() -> RunConfig:
    """The run."""
    return imagenet_llamagen("3B")
