"""How drawn pictures compare with real ones, by the features of one network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import card_accuracy
from igpt_jax.evaluation.frechet import FeatureStatistics, frechet_distance
from igpt_jax.evaluation.inception import inception_features, load_inception
from igpt_jax.evaluation.kernel_distance import kernel_distance
from igpt_jax.evaluation.neighbours import nearest, neighbourhood
from igpt_jax.evaluation.random_features import (
    FEATURE_DIM,
    random_feature_params,
    random_features,
)
from igpt_jax.programs import in_parts
from igpt_jax.typing import Float, Int, UInt8

NEIGHBOURS = 5  # of precision, recall, density and coverage, as Naeem et al. 2020
INCEPTION = "FID's Inception"


def compare_sets(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], features: str
) -> dict[str, float]:
    """Compares the features of two sets of pictures: quality and diversity.

    Args:
        real: of real pictures.
        fake: of drawn ones.
        features: what they are features of; only Inception's give an FID and a KID.
    """
    gaussians = [FeatureStatistics(), FeatureStatistics()]
    for statistics, values in zip(gaussians, (real, fake), strict=True):
        statistics.update(values)
    half = max(2, min(len(real), len(fake)) // 2)  # or all subsets are one, without deviation
    kernel = kernel_distance(real, fake, subset_size=min(1_000, half))
    frechet_name, kernel_name = "frechet_distance", "kernel_distance"
    if features == INCEPTION:
        frechet_name, kernel_name = "fid", "kid"
    return {
        frechet_name: frechet_distance(*gaussians),
        kernel_name: kernel.mean,
        f"{kernel_name}_deviation": kernel.deviation,
        **neighbourhood(real, fake, k=NEIGHBOURS)._asdict(),
    }


@dataclass(frozen=True)
class Extractor:
    """What all pictures are measured by.

    Attributes:
        name: told with every number.
        features: a batch of pictures -> float `[b d]`.
    """

    name: str
    features: Callable[[Any], Any]


def open_extractor(inception: str | None, image_size: int) -> Extractor:
    """The network whose features are compared; without weights one of random weights."""
    if inception is not None:
        params = load_inception(inception)
        return Extractor(INCEPTION, partial(jax.jit(inception_features), params))
    name = f"a VGG16 of random weights, {FEATURE_DIM} numbers, seed 0; not FID's Inception"
    return Extractor(name, partial(random_features, random_feature_params(image_size)))


@dataclass(frozen=True)
class PictureSet:
    """Pictures, the classes that they are of or were asked for, and their features."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, " n"]
    features: Float[np.ndarray, "n d"]


def picture_set(
    images: UInt8[np.ndarray, "n h w 3"],
    labels: Int[np.ndarray, " n"],
    extractor: Extractor,
    batch_size: int,
) -> PictureSet:
    """Pictures with their features.

    Raises:
        UserError: there are too few to compare.
    """
    if len(images) <= NEIGHBOURS:
        raise UserError(
            f"num_images: expected more than {NEIGHBOURS}, the neighbours that are looked at, got "
            f"{len(images)}; take more pictures"
        )
    features = in_parts(extractor.features, min(batch_size, len(images)), images)
    return PictureSet(images, labels, features)


def condition_measures(
    asked: PictureSet, reference: PictureSet, are_cards: bool
) -> dict[str, float]:
    """How well pictures show what was asked for.

    Args:
        asked: pictures, and the classes that they should show.
        reference: pictures of known classes.
        are_cards: whether a number can be read off each picture.

    Returns:
        `card_accuracy`, or else `class_agreement`: the share whose nearest reference picture, by
        features, is of the class.
    """
    if are_cards:
        return {"card_accuracy": card_accuracy(asked.images, asked.labels)}
    indices, _ = nearest(asked.features, reference.features)
    return {"class_agreement": float((reference.labels[indices[:, 0]] == asked.labels).mean())}
