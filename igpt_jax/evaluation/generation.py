"""How generated pictures compare with real ones, by their features.

Statistics stream: means and covariances are exact and keep no features. Distances between single
features (KID, precision, recall, density, coverage) are of the first ones of each side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Extractor, Network
from igpt_jax.evaluation.feature_checks import check_finite
from igpt_jax.evaluation.frechet import (
    FeatureStatistics,
    Moments,
    frechet_distance,
    is_singular,
)
from igpt_jax.evaluation.inception_score import inception_score
from igpt_jax.evaluation.kernel_distance import kernel_distance
from igpt_jax.evaluation.neighbours import neighbourhood
from igpt_jax.evaluation.references import Reference
from igpt_jax.typing import Float, UInt8

SUBSET_SIZE: Final = 1_000  # of KID, as in torch-fidelity
NUM_SUBSETS: Final = 100
NUM_KEPT: Final = 10_000  # as many pictures as ADM's references have for precision and recall
SPLIT_SIZE: Final = 5_000  # pictures of a part of the Inception Score, as in ADM: 10 of 50,000
PRECISION_K: Final = 3  # Kynkäänniemi et al. 2019, section 3.1
DENSITY_K: Final = 5  # Naeem et al. 2020, section 4.1

_PUBLISHED: Final[Mapping[Network, Mapping[str, str]]] = {
    "inception": {
        "frechet_distance": "gfid",
        "spatial_frechet_distance": "sfid",
        "kernel_distance": "kid",
        "reconstruction_frechet_distance": "rfid",
        "inception_score": "inception_score",
        "precision": "precision",
        "recall": "recall",
        "density": "density",
        "coverage": "coverage",
        "class_agreement": "class_agreement",
    },
    "i3d": {"frechet_distance": "fvd"},
}
"""The one place that gives a score a name that others publish under."""


@dataclass(frozen=True)
class Score:
    """A number with what it is of.

    Attributes:
        value: the number.
        num_generated: generated pictures.
        features: what they were compared by.
        against: name of the real pictures; None of a score of generated ones alone.
        num_real: real pictures; None where a file does not tell, or there are none.
        deviation: standard deviation over parts or subsets; None where there are none.
        note: how it was measured, where there are several ways.
    """

    value: float
    num_generated: int
    features: str
    against: str | None = None
    num_real: int | None = None
    deviation: float | None = None
    note: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What is written of it."""
        return {name: value for name, value in vars(self).items() if value is not None}


class FeatureSet:
    """What is left of the features of one side.

    Attributes:
        name: what the pictures are.
        extractor: what makes their features.
        pooled: statistics.
        spatial: statistics; None before a picture, and where there are no such features.
    """

    def __init__(self, name: str, extractor: Extractor, num_kept: int = NUM_KEPT) -> None:
        self.name, self.extractor = name, extractor
        self.pooled = FeatureStatistics()
        self.spatial: FeatureStatistics | None = None
        self._num_kept = num_kept
        self._kept: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []

    def add(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Float[np.ndarray, "b d"]:
        """Takes in pictures, and returns their features.

        Raises:
            UserError: a feature is not finite; nothing of these pictures is taken in.
        """
        found = self.extractor(images)
        start = self.count
        for values in (found.pooled, found.spatial):
            if values is not None:
                check_finite(np.asarray(values), of=self.name, first=start)
        self.pooled.update(found.pooled)
        if found.spatial is not None:
            self.spatial = self.spatial or FeatureStatistics()
            self.spatial.update(found.spatial)
        if start < self._num_kept:
            self._kept.append(np.asarray(found.pooled)[: self._num_kept - start])
        if found.logits is not None:
            self._logits.append(np.asarray(found.logits))
        return np.asarray(found.pooled)

    @property
    def count(self) -> int:
        """Pictures so far."""
        return self.pooled.count

    @property
    def kept(self) -> Float[np.ndarray, "n d"]:
        """The first features.

        Raises:
            UserError: there are no pictures.
        """
        if not self._kept:
            raise UserError(f"{self.name}: expected pictures, got none; add some")
        return np.concatenate(self._kept)

    @property
    def logits(self) -> Float[np.ndarray, "n classes"] | None:
        """Of all pictures; None where there are none."""
        return np.concatenate(self._logits) if self._logits else None


def compare(
    generated: FeatureSet, real: FeatureSet, reference: Reference | None = None, *, seed: int = 0
) -> dict[str, Score]:
    """Measures how near generated pictures are to real ones, and how they spread.

    Args:
        generated: pictures of a model.
        real: pictures of the data, of the same extractor.
        reference: statistics that Fréchet distances are taken to, instead of those of `real`.
        seed: of KID's subsets.

    Returns:
        By name; those of FID's Inception have the names that others publish under (`gfid`, `sfid`,
        `inception_score`, `kid`, `precision`, `recall`, `density`, `coverage`), so has the Fréchet
        distance of FVD's I3D (`fvd`). All others say whose features they are of, as in
        `frechet_distance[tokenizer of runs/demo]`.

    Raises:
        UserError: fewer than two pictures on a side, or than neighbours are looked for; unlike
            features.
    """
    extractor = generated.extractor
    if real.extractor.name != extractor.name:
        raise UserError(
            f"features: expected those of {extractor.name} on both sides, got also those of "
            f"{real.extractor.name}; use one feature extractor for both"
        )
    if reference is not None:
        reference.check_fits(extractor)
    scores = _frechet(generated, real, reference)
    scores |= _of_kept(generated, real, seed)
    logits = generated.logits
    if logits is not None:
        num_splits = max(1, generated.count // SPLIT_SIZE)
        score = inception_score(logits, num_splits=num_splits)
        scores["inception_score"] = Score(
            score.mean,
            generated.count,
            extractor.name,
            deviation=score.deviation if num_splits > 1 else None,
            note=f"in {num_splits} parts" if num_splits > 1 else "in one part",
        )
    return {score_name(name, extractor): score for name, score in scores.items()}


def check_enough(name: str, count: int) -> None:
    """Refuses numbers of pictures that cannot be compared, before any is drawn.

    Raises:
        UserError: there are no more than neighbours that are looked for.
    """
    if count <= DENSITY_K:
        raise UserError(
            f"{name}: expected more than k = {DENSITY_K}, the neighbours that are looked for, got "
            f"{count}; take more pictures"
        )


def score_name(name: str, extractor: Extractor) -> str:
    """The published name of a measure, or its own with the features that it is of."""
    published = {} if extractor.network is None else _PUBLISHED[extractor.network]
    return published.get(name, f"{name}[{extractor.name}]")


def _frechet(
    generated: FeatureSet, real: FeatureSet, reference: Reference | None
) -> dict[str, Score]:
    against = real if reference is None else reference
    pairs: dict[str, tuple[FeatureStatistics | None, FeatureStatistics | Moments | None]] = {
        "frechet_distance": (generated.pooled, against.pooled),
        "spatial_frechet_distance": (generated.spatial, against.spatial),
    }
    scores = {}
    for name, (ours, theirs) in pairs.items():
        if ours is None or theirs is None:
            continue
        dimension = ours.mean.size
        few = is_singular(ours.count, dimension) or is_singular(theirs.count, dimension)
        scores[name] = Score(
            frechet_distance(ours, theirs),
            ours.count,
            generated.extractor.name,
            against.name,
            theirs.count,
            note=f"biased upwards: no more pictures than features ({dimension})" if few else None,
        )
    return scores


def _of_kept(generated: FeatureSet, real: FeatureSet, seed: int) -> dict[str, Score]:
    ours, theirs = generated.kept, real.kept

    def score(value: float, note: str, deviation: float | None = None) -> Score:
        of = generated.extractor.name
        return Score(value, len(ours), of, real.name, len(theirs), deviation, note)

    scores = {"kernel_distance": score(*_kernel_distance(theirs, ours, seed))}
    for k, names in ((PRECISION_K, ("precision", "recall")), (DENSITY_K, ("density", "coverage"))):
        found = neighbourhood(theirs, ours, k=k)
        scores |= {name: score(getattr(found, name), f"k = {k}") for name in names}
    return scores


def _kernel_distance(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], seed: int
) -> tuple[float, str, float | None]:
    """Mean, how it was measured, and the deviation; where all subsets would be one, of that one."""
    size = min(SUBSET_SIZE, len(real), len(fake))
    is_all = size == len(real) == len(fake)
    count = 1 if is_all else NUM_SUBSETS
    found = kernel_distance(real, fake, num_subsets=count, subset_size=size, seed=seed)
    if is_all:
        return found.mean, "all pictures at once", None
    return found.mean, f"{count} subsets of {size}", found.deviation
