"""iGPT-S: ImageNet at 64 pixels, pixel by pixel in 512 colours, without classes.

    IGPT_DATA=/data python train.py configs/imagenet64_igpt_s.py
    igpt plan configs/imagenet64_igpt_s.py --topology v5e:4x4

For v5e-16 or more; on fewer, set --mesh.fsdp. 4.2 of 16 GiB a chip and at least 75 hours by `igpt
plan` (docs/scaling.md). Not trained here.
Published at 64 pixels: only iGPT-XL, without its likelihood; at 32 pixels this size has 2.0895
nats a token. Recipe: Chen et al. 2020, section 3.4, see igpt_jax/recipes.py; --tokenizer.path
kmeans_centers.npy takes OpenAI's palette.
"""

from igpt_jax.config import RunConfig
from igpt_jax.recipes import imagenet_imagegpt


def get_config() -> RunConfig:
    """The run."""
    return imagenet_imagegpt("S", 64)
