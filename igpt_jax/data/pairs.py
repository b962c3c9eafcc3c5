"""Pictures in pairs: each with the picture that it is to be made from."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, NamedTuple, SupportsIndex, TypeAlias

import numpy as np

from igpt_jax.data.archives import open_files
from igpt_jax.data.examples import Example, Split, check_index
from igpt_jax.data.folders import is_picture
from igpt_jax.data.geometry import resize
from igpt_jax.data.held_out import is_held_out
from igpt_jax.data.images import PICTURE_EXTENSIONS, BrokenImageError, decode_image
from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8

_logger: Final = logging.getLogger("igpt_jax.data")

Layout: TypeAlias = Literal["folders", "side_by_side"]
Side: TypeAlias = Literal["left", "right"]

_ONE_CLASS: Final = "all"
_LOOKED_AT: Final = 16  # pairs whose sizes are compared at opening; all are when they are read
_NAMED: Final = 3  # files in an error message


@dataclass(frozen=True)
class PairsConfig:
    """Pictures and their conditions: files of equal names in two folders, or halves of one file.

    Folders may have folders in them; of the names, the part before the ending counts: the partner
    of `images/a/1.jpg` is `conditions/a/1.png`. Hidden files and files that are no pictures are
    ignored. A condition of another size, but of the same shape, is brought to the picture's size.

    Attributes:
        path: The folder or zip archive; may hold `~` and variables such as `$IGPT_DATA`.
        images: The folder of the pictures in it; "." for all of it.
        cond_images: The folder of the conditions. Not read for `side_by_side`.
        layout: `folders`, or `side_by_side`: each file shows both in two halves, as the data sets
            of pix2pix do (Isola et al. 2017).
        cond_side: For `side_by_side`: the half that is the condition.
        validation_share: Share of the pairs set aside for validation, chosen by a hash of their
            names without ending: the same on every machine, and whatever other pairs there are.
    """

    path: str
    images: str = "images"
    cond_images: str = "conditions"
    layout: Layout = "folders"
    cond_side: Side = "left"
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise UserError(
                "PairsConfig.validation_share: expected a share in [0, 1), "
                f"got {self.validation_share}; change it"
            )
        first, second = PurePosixPath(self.images), PurePosixPath(self.cond_images)
        nested = first.is_relative_to(second) or second.is_relative_to(first)
        if self.layout == "folders" and nested:
            raise UserError(
                "PairsConfig.images, cond_images: expected two folders, none in the other, got "
                f"{self.images!r} and {self.cond_images!r}; change one"
            )


class PairsSource:
    """The pairs of a `PairsConfig`, in the order of their names.

    Attributes:
        class_names: `("all",)`: every label is 0.
        names: Path of each picture below the root.
        cond_names: Path of each condition; for `side_by_side` the same.
    """

    class_names: tuple[str, ...] = (_ONE_CLASS,)
    num_classes: int = 1

    def __init__(self, config: PairsConfig, split: Split) -> None:
        self._root = expand_path(config.path)
        self._files = open_files(self._root)
        self._config = config
        pairs = _find_pairs(str(self._root), self._files.names, config)
        share = config.validation_share
        held_out = split == "validation"
        chosen = [pair for key, pair in pairs.items() if is_held_out(key, share) == held_out]
        if not chosen:
            raise UserError(
                f"{self._root}: expected pairs for {split}, got none of {len(pairs)} with "
                f"validation_share = {share}; change PairsConfig.validation_share"
            )
        self.names: tuple[str, ...] = tuple(pair.image for pair in chosen)
        self.cond_names: tuple[str, ...] = tuple(pair.cond_image for pair in chosen)
        self._look_at_some()
        _logger.info("%s: %d of %d pairs for %s", self._root, len(chosen), len(pairs), split)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex, /) -> Example:
        image, cond_image = self._read(check_index(index, len(self)))
        if image.shape != cond_image.shape:
            cond_image = resize(cond_image, *image.shape[:2])
        return {"image": image, "cond_image": cond_image, "label": 0}

    def __repr__(self) -> str:
        return f"PairsSource({str(self._root)!r}, {len(self)} pairs)"

    def _read(self, position: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "..."]]:
        """Decode a pair; raises `BrokenImageError` when it is damaged or does not fit together."""
        name, cond_name = self.names[position], self.cond_names[position]
        image = self._decode(name)
        if self._config.layout == "side_by_side":
            return self._halves(name, image)
        cond_image = self._decode(cond_name)
        if not _same_shape(image, cond_image):
            raise _MisfitError(
                f"{self._root / name}: {_size(image)}, but {cond_name} has {_size(cond_image)}"
            )
        return image, cond_image

    def _decode(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return decode_image(self._files.read(name))
        except BrokenImageError as error:
            raise BrokenImageError(f"{self._root / name}: {error}") from error

    def _halves(
        self, name: str, both: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[UInt8[np.ndarray, "h half 3"], UInt8[np.ndarray, "h half 3"]]:
        if both.shape[1] % 2:
            raise _MisfitError(f"{self._root / name}: {_size(both)}, which has no two halves")
        left, right = (np.ascontiguousarray(half) for half in np.split(both, 2, axis=1))
        return (right, left) if self._config.cond_side == "left" else (left, right)

    def _look_at_some(self) -> None:
        """Read a few pairs from all over the data, so that wholesale mistakes show at once."""
        places = np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int)).tolist()
        misfits: list[str] = []
        for place in places:
            try:
                self._read(place)
            except _MisfitError as error:
                misfits.append(str(error))
            except BrokenImageError:  # told when it is read
                continue
        if misfits:
            raise UserError(
                f"expected pairs of the same shape, got {len(misfits)} of {len(places)} looked at "
                f"that are not: {misfits[0]}; remove or crop them, or set PairsConfig.layout"
            )


class _MisfitError(BrokenImageError):
    """Two sound pictures that are no pair."""


class _Pair(NamedTuple):
    image: str
    cond_image: str


def _find_pairs(root: str, names: Sequence[str], config: PairsConfig) -> dict[str, _Pair]:
    """Find the partners by their names without ending, sorted; raises `UserError` for others."""
    images = _by_key(root, names, config.images, "images")
    if config.layout == "side_by_side":
        return {key: _Pair(name, name) for key, name in images.items()}
    cond_images = _by_key(root, names, config.cond_images, "cond_images")
    lonely = [images[key] for key in images if key not in cond_images]
    lonely_conditions = [cond_images[key] for key in cond_images if key not in images]
    if lonely or lonely_conditions:
        raise UserError(
            f"{root}: expected one condition for each picture, got {len(lonely)} pictures without "
            f"a condition{_some(lonely)} and {len(lonely_conditions)} conditions without a picture"
            f"{_some(lonely_conditions)}; add the others or remove these"
        )
    return {key: _Pair(images[key], cond_images[key]) for key in images}


def _by_key(root: str, names: Sequence[str], folder: str, field: str) -> Mapping[str, str]:
    """The pictures of one folder: the path in it, without ending, to the whole name."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(filter(is_picture, names)):
        path = PurePosixPath(name)
        if path.is_relative_to(folder):
            groups[str(path.relative_to(folder).with_suffix(""))].append(name)
    if not groups:
        raise UserError(
            f"{root}: expected pictures ({', '.join(sorted(PICTURE_EXTENSIONS))}) in its folder "
            f"{folder!r}, got none among {len(names)} files; check the path or set "
            f"PairsConfig.{field}"
        )
    doubles = [group for group in groups.values() if len(group) > 1]
    if doubles:
        raise UserError(
            f"{root}: expected each name once in {folder!r}, whatever the ending, got "
            f"{len(doubles)} more than once, such as {' and '.join(doubles[0][:_NAMED])}; remove "
            "or rename one of each"
        )
    return {key: groups[key][0] for key in sorted(groups)}


def _some(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return f" ({', '.join(names[:_NAMED])}{more})" if names else ""


def _same_shape(
    image: UInt8[np.ndarray, "h w 3"], cond_image: UInt8[np.ndarray, "h2 w2 3"]
) -> bool:
    """Whether the proportions are equal, to less than a pixel of the smaller picture."""
    height, width = image.shape[:2]
    cond_height, cond_width = cond_image.shape[:2]
    difference = abs(width * cond_height - height * cond_width)
    return difference < max(width, height, cond_width, cond_height)


def _size(image: UInt8[np.ndarray, "h w 3"]) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"
