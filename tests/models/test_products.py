"""The linear layers' product against JAX's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.models.products import dot_general

LAYERS = {
    "dense": (nn.Dense, {"features": 5, "use_bias": False}, (2, 3, 4)),
    "to_heads": (nn.DenseGeneral, {"features": (2, 5), "use_bias": True}, (2, 3, 4)),
    "from_heads": (nn.DenseGeneral, {"features": 6, "axis": (-2, -1)}, (2, 3, 2, 4)),
    "one_row": (nn.Dense, {"features": 5}, (4,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradients_are_those_of_jax(name):
    layer, options, shape = LAYERS[name]
    x = jax.random.normal(jax.random.key(0), shape)
    ours, reference = layer(**options, dot_general=dot_general), layer(**options)
    params = reference.init(jax.random.key(1), x)

    def loss(module, params, x):
        out = module.apply(params, x)
        return jnp.sum(jnp.sin(out) * jnp.arange(out.size).reshape(out.shape))

    found = jax.value_and_grad(loss, (1, 2))(ours, params, x)
    expected = jax.value_and_grad(loss, (1, 2))(reference, params, x)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_kernel_is_inputs_by_features():
    """The order that XLA on CPUs needs: JAX's own program transposes that gradient."""
    x, kernel = jnp.ones((3, 7, 4)), jnp.ones((4, 5))
    ours, numbers = jnp.ones((3, 7, 5)), (((2,), (0,)), ((), ()))

    def program(product):
        return str(jax.make_jaxpr(jax.vjp(lambda w: product(x, w, numbers), kernel)[1])(ours))

    assert "transpose" not in program(dot_general)
    assert "transpose" in program(jax.lax.dot_general)


def test_half_precision_stays_half():
    x, kernel = jnp.ones((3, 4), jnp.bfloat16), jnp.ones((4, 5), jnp.bfloat16)
    out, back = jax.vjp(lambda x, w: dot_general(x, w, (((1,), (0,)), ((), ()))), x, kernel)
    assert {out.dtype, *(leaf.dtype for leaf in back(out))} == {jnp.dtype(jnp.bfloat16)}


def test_gradients_of_gradients():
    def penalty(w, product):
        numbers = (((1,), (0,)), ((), ()))
        slope = jax.grad(lambda w: jnp.sum(product(jnp.full((2, 3), 0.5), w, numbers) ** 3))
        return jnp.sum(slope(w) ** 2)

    w = jax.random.normal(jax.random.key(0), (3, 4))
    found, expected = (jax.grad(penalty)(w, each) for each in (dot_general, jax.lax.dot_general))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
