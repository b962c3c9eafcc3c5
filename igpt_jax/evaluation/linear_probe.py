"""How much a linear classifier reads out of features (Chen et al. 2020, section 2.4)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igpt_jax.errors import UserError
from igpt_jax.evaluation.neighbours import nearest
from igpt_jax.typing import Array, Float, Int

WEIGHT_DECAYS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_MAX_STEPS = 500  # of L-BFGS; it stops before, when the gradient vanishes
_SMALL_GRADIENT = 1e-4
_MIN_DEVIATION = 1e-6  # a feature that varies less is as good as constant
_MAX_AXES = 4_096  # more take longer to find than they save
_MIN_VARIANCE = 1e-6  # of an axis, as a share of the largest
_MIN_CURVATURE = 1e-9  # of a direction without variance or weight decay


class LinearProbe(NamedTuple):
    """A softmax regression on standardised features.

    Attributes:
        kernel: float32 [d classes].
        bias: float32 [classes].
        mean: of the features it was fitted to, float32 [d].
        deviation: their standard deviation, float32 [d].
    """

    kernel: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]
    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]

    def logits(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Logits of the classes."""
        return (features - self.mean) / self.deviation @ self.kernel + self.bias

    def accuracy(self, features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
        """Share of features whose class is the most probable one."""
        return float(np.mean(self.logits(features).argmax(axis=1) == labels))


class _Axes(NamedTuple):
    """Features in coordinates that are easy to fit in.

    Attributes:
        rotated: standardised features along their principal axes, float32 [n r], where r is the
            smaller of n and d.
        variances: of each, float32 [r].
        directions: the axes, columns, float32 [d r]; None where there are too many to find, and
            the features are left as they are.
        mean: of the features.
        deviation: of the features.
    """

    rotated: Float[Array, "n r"]
    variances: Float[Array, " r"]
    directions: Float[Array, "d r"] | None
    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]

    def fit(
        self, labels: Int[np.ndarray, " n"], num_classes: int, weight_decay: float
    ) -> LinearProbe:
        """The probe of these features."""
        kernel, bias = _fit(
            self.rotated, self.variances, jnp.asarray(labels), num_classes, weight_decay
        )
        if self.directions is not None:
            kernel = jnp.matmul(self.directions, kernel, precision=jax.lax.Precision.HIGHEST)
        return LinearProbe(np.asarray(kernel), np.asarray(bias), self.mean, self.deviation)


def fit_probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    weight_decay: float,
) -> LinearProbe:
    """Fits a probe by L-BFGS, starting from zero: the problem is convex.

    Args:
        features: of labelled pictures.
        labels: 0 to `num_classes` - 1.
        num_classes: classes.
        weight_decay: of half the squared kernel, beside the mean cross-entropy.

    Raises:
        UserError: no features, a label out of range, or a feature that is not finite.
    """
    _check(features, labels, num_classes)
    return _axes(features).fit(labels, num_classes, weight_decay)


class ChosenProbe(NamedTuple):
    """A probe, and how its weight decay was chosen.

    Attributes:
        probe: fitted to all pictures.
        weight_decay: the chosen one.
        held_out_accuracy: with it, on the part of the pictures that the choice was made on.
    """

    probe: LinearProbe
    weight_decay: float
    held_out_accuracy: float


def best_probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    held_out: float = 0.1,
    seed: int = 0,
) -> ChosenProbe:
    """Fits with the weight decay that does best on a part of the same pictures.

    Args:
        features: of labelled pictures.
        labels: their classes.
        num_classes: classes.
        weight_decays: what to choose from.
        held_out: share of the pictures that the choice is made on, at least one.
        seed: of that part.

    Raises:
        UserError: fewer than two pictures, or what `fit_probe` refuses.
    """
    if len(features) < 2:
        raise UserError(f"probe: expected 2 or more labelled pictures, got {len(features)}")
    order = np.random.default_rng(seed).permutation(len(features))
    num_held = max(1, int(held_out * len(features)))
    held, rest = order[:num_held], order[num_held:]
    _check(features, labels, num_classes)
    axes = _axes(features[rest])
    scores = [
        axes.fit(labels[rest], num_classes, decay).accuracy(features[held], labels[held])
        for decay in weight_decays
    ]
    best = int(np.argmax(scores))
    probe = _axes(features).fit(labels, num_classes, weight_decays[best])
    return ChosenProbe(probe, weight_decays[best], scores[best])


def few_of_each(
    labels: Int[np.ndarray, " n"], shots: int, seed: int = 0
) -> Int[np.ndarray, " shots_classes"]:
    """Indices of `shots` random pictures of each class.

    Raises:
        UserError: a class has fewer.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        if len(rows) < shots:
            raise UserError(
                f"shots: expected at most {len(rows)}, the pictures of class {label}, got {shots}"
            )
        chosen.append(rows[:shots])
    return np.concatenate(chosen)


def neighbour_accuracy(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    queries: Float[np.ndarray, "q d"],
    answers: Int[np.ndarray, " q"],
    *,
    k: int = 20,
) -> float:
    """Share of queries whose class most of the k nearest features have, by cosine similarity.

    Of classes with equally many the one with the smaller index counts.
    """
    mean = features.mean(axis=0)
    directions, asked = (
        (x - mean) / np.maximum(np.linalg.norm(x - mean, axis=1, keepdims=True), 1e-12)
        for x in (features, queries)
    )
    indices, _ = nearest(asked, directions, k=k)
    num_classes = int(max(labels.max(), answers.max())) + 1
    votes = np.stack([np.bincount(row, minlength=num_classes) for row in labels[indices]])
    return float(np.mean(votes.argmax(axis=1) == answers))


def _check(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], num_classes: int
) -> None:
    if len(features) == 0 or len(features) != len(labels):
        raise UserError(
            f"probe: expected a label for each of at least one picture, got {len(labels)} labels "
            f"and {len(features)} pictures"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"probe: expected labels 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}"
        )
    if not np.isfinite(features).all():
        raise UserError("probe: expected finite features, got others; look at the model's weights")


def _axes(features: Float[np.ndarray, "n d"]) -> _Axes:
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation < _MIN_DEVIATION, 1.0, deviation)
    standard = jnp.asarray((features - mean) / deviation, jnp.float32)
    if min(standard.shape) > _MAX_AXES:
        return _Axes(standard, jnp.ones(standard.shape[1]), None, mean, deviation)
    rotate = _rotated if len(standard) >= standard.shape[1] else _rotated_few
    rotated, variances, directions = rotate(standard)
    return _Axes(rotated, variances, directions, mean, deviation)


@jax.jit
def _rotated(
    standard: Float[Array, "n d"],
) -> tuple[Float[Array, "n d"], Float[Array, " d"], Float[Array, "d d"]]:
    """Features along their principal axes, their variances there, and the axes."""
    with jax.default_matmul_precision("highest"):
        variances, directions = jnp.linalg.eigh(standard.T @ standard / len(standard))
        return standard @ directions, jnp.maximum(variances, 0), directions


@jax.jit
def _rotated_few(
    standard: Float[Array, "n d"],
) -> tuple[Float[Array, "n n"], Float[Array, " n"], Float[Array, "d n"]]:
    """The same of fewer pictures than features, by the products of pictures.

    The best kernel lies in the span of the pictures, so that no more axes are needed.
    """
    with jax.default_matmul_precision("highest"):
        variances, pictures = jnp.linalg.eigh(standard @ standard.T / len(standard))
        is_axis = variances > _MIN_VARIANCE * variances[-1]
        lengths = jnp.sqrt(len(standard) * jnp.where(is_axis, variances, 1.0))
        directions = jnp.where(is_axis, standard.T @ pictures / lengths, 0.0)
        return standard @ directions, jnp.where(is_axis, variances, 0.0), directions


@partial(jax.jit, static_argnums=3)
def _fit(
    features: Float[Array, "n r"],
    variances: Float[Array, " r"],
    labels: Int[Array, " n"],
    num_classes: int,
    weight_decay: float | Float[Array, ""],
) -> tuple[Float[Array, "r c"], Float[Array, " c"]]:
    """Kernel and bias, of features that are uncorrelated.

    Each coordinate is scaled so that the curvature at zero, where all classes are equally probable,
    is 1 in all directions: tens of steps then do what takes hundreds along strong correlations.
    """
    curvature = jnp.maximum(variances / num_classes + weight_decay, _MIN_CURVATURE)
    scale = jax.lax.rsqrt(curvature)[:, None]
    of_bias = num_classes**0.5

    def unscaled(params: tuple[Array, Array]) -> tuple[Array, Array]:
        return scale * params[0], of_bias * params[1]

    def loss(params: tuple[Array, Array]) -> Array:
        kernel, bias = unscaled(params)
        logits = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST) + bias
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(nll) + 0.5 * weight_decay * jnp.sum(kernel**2)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    def goes_on(carry: tuple[Any, Any]) -> Array:
        state = carry[1]
        count = optax.tree.get(state, "count")
        norm = optax.tree.norm(optax.tree.get(state, "grad"))
        return (count == 0) | ((count < _MAX_STEPS) & (norm > _SMALL_GRADIENT))

    start = (jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    params, _ = jax.lax.while_loop(goes_on, step, (start, optimizer.init(start)))
    return unscaled(params)
