"""iGPT-L: ImageNet at 32 pixels, pixel by pixel in 512 colours, without classes.

    IGPT_DATA=/data python train.py configs/imagenet32_igpt_l.py
    igpt plan configs/imagenet32_igpt_l.py --topology v6e:4x4

For v6e-16 or more; on fewer, set --mesh.fsdp. 16.9 of 32 GiB a chip and at least 46 hours by `igpt
plan` (docs/scaling.md). Not trained here.
Published: 2.0466 nats a token on ImageNet's validation pictures, with OpenAI's own palette (the
released code's table). Recipe: Chen et al. 2020, section 3.4, see igpt_jax/recipes.py;
--tokenizer.path kmeans_centers.npy takes OpenAI's palette.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_imagegpt


def get_config() -> RunConfig:
    """The run."""
    return imagenet_imagegpt("L", 32)
