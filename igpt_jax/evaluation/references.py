"""Statistics of real pictures' features in files: published ones, and ours.

Three layouts, all NumPy archives, none read as pickles: TTUR's, which pytorch-fid shares (`mu`,
`sigma`; Heusel et al. 2017); ADM's (also `mu_s`, `sigma_s` of sFID's features, pictures `arr_0`;
Dhariwal & Nichol 2021); and ours, which is one of these with a note on what it was made from.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Extractor
from igpt_jax.evaluation.frechet import FeatureStatistics, Moments
from igpt_jax.evaluation.inception import FEATURE_DIM, SPATIAL_DIM
from igpt_jax.interop.lazy_arrays import LazyArrays
from igpt_jax.interop.npz_file import iterate_rows, open_npz
from igpt_jax.typing import UInt8

_NOTE: Final = "igpt_jax"  # JSON as bytes, for text in an archive may be a pickle
_PICTURES: Final = "arr_0"
_MAX_ASYMMETRY: Final = 1e-4  # of the largest entry; float32 files differ by 1e-7

Layout = Literal["TTUR", "ADM", "igpt_jax"]


@dataclass(frozen=True)
class Reference:
    """Statistics of real pictures.

    Attributes:
        name: what they are of: the file's name, or what our own files say.
        path: the file.
        layout: whose.
        pooled: of the features.
        spatial: of sFID's; None where the file has none.
        num_pictures: pictures in the file itself.
        features: what made the features, as our own files say; None of published ones, which
            are Inception's.
        fingerprint: of what made them.
    """

    name: str
    path: Path
    layout: Layout
    pooled: Moments
    spatial: Moments | None
    num_pictures: int = 0
    features: str | None = None
    fingerprint: str | None = None

    @property
    def count(self) -> int | None:
        """Pictures that the statistics are of; published files do not tell."""
        return self.pooled.count

    def pictures(self, batch_size: int) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
        """The pictures in the file, batch by batch; none where it has statistics alone."""
        if self.num_pictures:
            yield from iterate_rows(self.path, _PICTURES, batch_size)

    def check_fits(self, extractor: Extractor) -> None:
        """Refuses an extractor of other features.

        Raises:
            UserError: says which features the file has.
        """
        if self.features is None and extractor.network != "inception":
            raise UserError(
                f"reference {self.path}: expected statistics of {extractor.name}, got published "
                "ones, which are of FID's Inception; give its weights, or leave the reference out"
            )
        if self.features is not None and self.fingerprint != extractor.fingerprint:
            other = " with other weights" if self.features == extractor.name else ""
            raise UserError(
                f"reference {self.path}: expected statistics of {extractor.name}, got those of "
                f"{self.features}{other}; make it again with these features"
            )


def read_reference(path: Path) -> Reference:
    """Reads and checks a file of statistics; pickled objects are refused.

    Raises:
        UserError: no such file, it is damaged or of another layout, or its numbers are no
            statistics: of unlike sizes, not finite, not symmetric, of negative variance.
    """
    if not path.is_file():
        raise UserError(f"reference {path}: expected a file, found none; check the path")
    arrays = open_npz(path)
    note = _note(path, arrays)
    count = note.get("count")
    pooled = _moments(path, arrays, "mu", "sigma", count)
    has_spatial = "mu_s" in arrays or "sigma_s" in arrays
    spatial = _moments(path, arrays, "mu_s", "sigma_s", count) if has_spatial else None
    if not note:
        _check_size(path, "mu", pooled, FEATURE_DIM)
        if spatial is not None:
            _check_size(path, "mu_s", spatial, SPATIAL_DIM)
    layout: Layout = "igpt_jax" if note else "ADM" if has_spatial else "TTUR"
    return Reference(
        name=note.get("name", path.name),
        path=path,
        layout=layout,
        pooled=pooled,
        spatial=spatial,
        num_pictures=_num_pictures(path, arrays),
        features=note.get("features"),
        fingerprint=note.get("fingerprint"),
    )


def write_reference(
    path: Path,
    name: str,
    extractor: Extractor,
    pooled: FeatureStatistics,
    spatial: FeatureStatistics | None = None,
) -> None:
    """Writes statistics, whole or not at all; what reads TTUR's or ADM's files reads them, too.

    Args:
        path: ends in .npz.
        name: what the pictures are.
        extractor: what made the features.
        pooled: of the features.
        spatial: of sFID's.

    Raises:
        UserError: the path has another end, or there are fewer than two pictures.
    """
    check_suffix(path)
    note = {
        "name": name,
        "count": pooled.count,
        "features": extractor.name,
        "fingerprint": extractor.fingerprint,
    }
    arrays: dict[str, Any] = {"mu": pooled.mean, "sigma": pooled.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    arrays[_NOTE] = np.frombuffer(json.dumps(note).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)


def check_suffix(path: Path) -> None:
    """Refuses a path that would not be read back."""
    if path.suffix != ".npz":
        raise UserError(f"reference {path}: expected a path that ends in .npz, got {path.name!r}")


def _note(path: Path, arrays: LazyArrays) -> Mapping[str, Any]:
    """What our own files say of themselves; nothing of others'."""
    if _NOTE not in arrays:
        return {}
    wanted = {"name": str, "count": int, "features": str, "fingerprint": str}
    note: Any = None
    try:
        note = json.loads(arrays[_NOTE].tobytes())
        is_whole = all(isinstance(note[key], kind) for key, kind in wanted.items())
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise UserError(f"reference {path}: expected a note of igpt_jax, got a damaged one")
    return note


def _moments(
    path: Path, arrays: LazyArrays, mean_name: str, covariance_name: str, count: int | None
) -> Moments:
    for name in (mean_name, covariance_name):
        if name not in arrays:
            held = ", ".join(sorted(arrays)[:6]) or "nothing"
            raise UserError(
                f"reference {path}: expected {name}, got {held}; give statistics as TTUR, "
                "pytorch-fid or ADM publish them"
            )
    mean, covariance = (
        np.asarray(arrays[name], np.float64) for name in (mean_name, covariance_name)
    )
    names = f"{mean_name} and {covariance_name}"
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size) or mean.size == 0:
        raise UserError(
            f"reference {path}: expected {names} of shapes [d] and [d, d], got {list(mean.shape)} "
            f"and {list(covariance.shape)}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"reference {path}: expected finite numbers in {names}, got others")
    largest = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > _MAX_ASYMMETRY * largest:
        raise UserError(
            f"reference {path}: expected a symmetric {covariance_name}, got another matrix"
        )
    if covariance.diagonal().min() < -_MAX_ASYMMETRY * largest:
        raise UserError(
            f"reference {path}: expected variances on the diagonal of {covariance_name}, got "
            f"{covariance.diagonal().min():.3g}"
        )
    return Moments(mean, (covariance + covariance.T) / 2, count)


def _check_size(path: Path, name: str, moments: Moments, size: int) -> None:
    if moments.mean.size != size:
        raise UserError(
            f"reference {path}: expected {size} numbers in {name}, as FID's Inception has, got "
            f"{moments.mean.size}; give statistics of its last pooling"
        )


def _num_pictures(path: Path, arrays: LazyArrays) -> int:
    if _PICTURES not in arrays:
        return 0
    spec = arrays.specs[_PICTURES]
    if len(spec.shape) != 4 or spec.shape[-1] != 3 or spec.dtype != np.uint8:
        raise UserError(
            f"reference {path}: expected pictures {_PICTURES}, uint8 [n, h, w, 3], got "
            f"{spec.dtype} {list(spec.shape)}"
        )
    return spec.shape[0]
