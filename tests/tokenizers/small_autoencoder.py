"""An autoencoder small enough for tests, and parameters for it that need no compilation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.quantizers import FiniteScalarQuantizerConfig

SMALL = AutoencoderConfig(
    image_size=16,
    base_channels=8,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    num_decoder_res_blocks=1,
    latent_channels=8,
    middle=False,
    attention=False,
    patch_size=2,
    quantizer=FiniteScalarQuantizerConfig((4, 3)),
)


def small_autoencoder(**changes):
    return Autoencoder(dataclasses.replace(SMALL, **changes))


def abstract_variables(model):
    images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def random_params(model, seed=0):
    """Draws with NumPy: compiling JAX's initializers takes longer than all else in a test."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        values = generator.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        values = {"scale": 1.0, "bias": 0.0}.get(path[-1].key, values)
        return jnp.asarray(np.broadcast_to(values, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model)["params"])
