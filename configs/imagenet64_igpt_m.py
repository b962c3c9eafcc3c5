"""iGPT-M: ImageNet at 64 pixels, pixel by pixel in 512 colours, without classes.

    IGPT_DATA=/data python train.py configs/imagenet64_igpt_m.py
    igpt plan configs/imagenet64_igpt_m.py --topology v6e:4x4

For v6e-16 or more; on fewer, set --mesh.fsdp. 6.2 of 32 GiB a chip and at least 74 hours by `igpt
plan` (docs/scaling.md). Not trained here.
Published at 64 pixels: only iGPT-XL, without its likelihood; at 32 pixels this size has 2.0614
nats a token. Recipe: Chen et al. 2020, section 3.4, see igpt_jax/recipes.py; --tokenizer.path
kmeans_centers.npy takes OpenAI's palette.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_imagegpt


def get_config() -> RunConfig:
    """The run."""
    return imagenet_imagegpt("M", 64)
