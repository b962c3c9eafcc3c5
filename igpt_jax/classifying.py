"""Classes of pictures by Bayes' rule: how probable a model finds a picture given each class.

A model of p(picture | class) is a classifier, too: with all classes as likely beforehand, p(class |
picture) is the softmax of its log-likelihoods (Li et al. 2023, "Your Diffusion Model is Secretly a
Zero-Shot Classifier", section 3.1, with likelihoods that are exact here).
"""

from collections.abc import Callable, Generator

import numpy as np
from scipy.special import softmax

from igpt_jax.typing import Float, Int

Score = Callable[[Int[np.ndarray, "n l"], Int[np.ndarray, " n"]], Float[np.ndarray, " n"]]
"""Log-likelihoods in nats of pictures' tokens, each given its class."""


def judge_classes(
    score: Score, tokens: Int[np.ndarray, "b l"], num_classes: int, size: int
) -> Generator[None, None, Float[np.ndarray, "b classes"]]:
    """Log-likelihoods in nats of pictures' tokens given each class.

    Each step judges `size` pairs of a picture and a class, so that a server can do other things
    between two of them.

    Args:
        score: what judges pairs.
        tokens: of the pictures.
        num_classes: how many classes.
        size: pairs of one call, at most; the last call repeats the last pair, for one compiled
            shape.
    """
    count, nats = len(tokens) * num_classes, []
    size = min(size, count)
    for start in range(0, count, size):
        picture, label = np.divmod(np.arange(start, start + size).clip(max=count - 1), num_classes)
        nats.append(score(tokens[picture], label))
        yield
    return np.concatenate(nats)[:count].reshape(-1, num_classes)


def class_probabilities(nats: Float[np.ndarray, "b classes"]) -> Float[np.ndarray, "b classes"]:
    """Probabilities of classes that are all as likely beforehand, from `judge_classes`."""
    return softmax(nats.astype(np.float64), axis=-1).astype(np.float32)


def all_at_once(
    steps: Generator[None, None, Float[np.ndarray, "b classes"]],
) -> Float[np.ndarray, "b classes"]:
    """What a generator of steps returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
