"""Muon, against the singular value decomposition of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict
from igpt_jax.training.optimizer import OptimizerConfig, make_optimizer

RATE, DECAY = 0.1, 0.5
AXES_IN = {"query": 1, "out": 2, "up": 1, "down": 1}  # after the layers, in a shape below
SHAPES = {"query": (3, 8, 2, 4), "out": (3, 2, 4, 8), "up": (3, 8, 20), "down": (3, 20, 8)}


def drawn(rng):
    tree = {name: {"kernel": rng.normal(size=shape)} for name, shape in SHAPES.items()}
    blocks = tree | {"norm": {"scale": rng.normal(size=(3, 8))}}
    params = {"blocks": blocks, "head": rng.normal(size=(8, 16)), "norm": rng.normal(size=8)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


@pytest.fixture(scope="module")
def first_update():
    rng = np.random.default_rng(0)
    params, gradient = drawn(rng), drawn(rng)
    update = {}
    for name in ("adamw", "muon"):
        config = OptimizerConfig(
            name=name, peak_lr=RATE, warmup_steps=0, weight_decay=DECAY, clip_norm=1e9
        )
        optimizer = make_optimizer(config, 10)
        update[name], _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    return params, gradient, update


@pytest.mark.parametrize("name", SHAPES)
def test_the_update_of_a_matrix_has_its_gradient_s_directions_at_one_size(name, first_update):
    params, gradient, update = first_update
    for layer in range(3):
        shape = SHAPES[name][1:]
        matrix = (int(np.prod(shape[: AXES_IN[name]])), -1)
        weight, slope, step = (
            np.asarray(tree["blocks"][name]["kernel"][layer]).reshape(matrix)
            for tree in (params, gradient, update["muon"])
        )
        left, _, right = np.linalg.svd(slope, full_matrices=False)
        moved = -step / RATE - DECAY * weight  # what is left without the decay of the weight
        sizes = left.T @ moved @ right.T
        unit = 0.2 * np.sqrt(max(slope.shape))  # so that a weight moves by 0.2 of the rate (RMS)
        diagonal = np.diag(sizes) / unit
        assert ((diagonal > 0.6) & (diagonal < 1.3)).all(), diagonal
        np.testing.assert_allclose(sizes - np.diag(np.diag(sizes)), 0, atol=1e-4)


def test_everything_else_moves_as_under_adamw(first_update):
    _, _, update = first_update
    for leaf in (lambda tree: tree["head"], lambda tree: tree["norm"]):
        np.testing.assert_array_equal(leaf(update["muon"]), leaf(update["adamw"]))
    scales = [update[name]["blocks"]["norm"]["scale"] for name in ("muon", "adamw")]
    np.testing.assert_array_equal(*scales)
    assert not np.allclose(
        update["muon"]["blocks"]["up"]["kernel"], update["adamw"]["blocks"]["up"]["kernel"]
    )


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match=r"muon.*'lion'"):
        from_dict(OptimizerConfig, {"kind": "OptimizerConfig", "name": "lion"})
