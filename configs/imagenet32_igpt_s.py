"""iGPT-S: ImageNet at 32 pixels, pixel by pixel in 512 colours, without classes.

    IGPT_DATA=/data python train.py configs/imagenet32_igpt_s.py
    igpt plan configs/imagenet32_igpt_s.py --topology v5e:2x2

For v5e-4 or more; on fewer, set --mesh.fsdp. 12.8 of 16 GiB a chip and at least 42 hours by `igpt
plan` (docs/scaling.md). Not trained here.
Published: 2.0895 nats a token on ImageNet's validation pictures, with OpenAI's own palette (the
released code's table). Recipe: Chen et al. 2020, section 3.4, see igpt_jax/recipes.py;
--tokenizer.path kmeans_centers.npy takes OpenAI's palette.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_imagegpt


def get_config() -> RunConfig:
    """The run."""
    return imagenet_imagegpt("S", 32)
