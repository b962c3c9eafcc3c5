"""Weights of FID's Inception, and of FVD's I3D, that a rule gives, under the published names."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from igpt_jax.evaluation.inception import Inception

LEAVES = {"kernel": "conv.weight", "scale": "bn.weight", "bias": "bn.bias",
          "mean": "bn.running_mean", "variance": "bn.running_var"}  # fmt: skip


def abstract_params():
    images = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), images)["params"]


def published_shapes():
    """The published names and shapes."""
    return {
        ".".join((*layer, LEAVES[leaf])): tuple(np.array(x.shape)[[3, 2, 0, 1]])
        if leaf == "kernel"
        else x.shape
        for (*layer, leaf), x in flatten_dict(abstract_params()).items()
    }


def ruled_weight(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if len(shape) >= 4:
        return draw * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(draw)
    return np.float32(name.endswith("bn.weight")) + np.float32(0.1) * draw
