"""A folder, or a zip archive, with one folder of pictures for each class."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, SupportsIndex

from igpt_jax.data.archives import open_files
from igpt_jax.data.examples import Example, Split, check_index
from igpt_jax.data.images import PICTURE_EXTENSIONS, BrokenImageError, decode_image
from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError

_logger: Final = logging.getLogger("igpt_jax.data")

_FLAT_CLASS: Final = "all"
"""Name of the one class of a folder without class folders."""

_MAC_METADATA: Final = "__MACOSX"


@dataclass(frozen=True)
class FolderConfig:
    """Pictures in class folders, `class/0001.jpg`, or all in one folder (then one class).

    Pictures deeper down belong to the class of their topmost folder. Hidden files and files
    that are no pictures are ignored; so are pictures beside class folders.

    Attributes:
        path: The folder or zip archive; may hold `~` and variables such as `$IGPT_DATA`.
        validation_per_class: The last so many pictures of each class, in the order of their
            names, are set aside for validation.
    """

    path: str
    validation_per_class: int = 0

    def __post_init__(self) -> None:
        if self.validation_per_class < 0:
            raise UserError(
                "FolderConfig.validation_per_class: expected at least 0, "
                f"got {self.validation_per_class}; change it"
            )


class FolderSource:
    """The pictures of a `FolderConfig`, class after class, in the order of their names.

    Attributes:
        class_names: Names of the class folders, sorted; the label is the position here.
        names: Path of each picture below the root.
        ignored: Number of files that are not used: hidden, no picture, or beside the classes.
    """

    def __init__(self, config: FolderConfig, split: Split) -> None:
        self._root = expand_path(config.path)
        self._files = open_files(self._root)
        classes, self.ignored = _group(self._files.names)
        if not classes:
            raise UserError(
                f"{self._root}: expected pictures ({', '.join(sorted(PICTURE_EXTENSIONS))}), "
                f"got none among {self.ignored} files; check the path"
            )
        if split == "validation" and config.validation_per_class == 0:
            raise UserError(
                f"{self._root}: expected pictures for validation, got "
                "validation_per_class = 0; set FolderConfig.validation_per_class"
            )
        self.class_names: tuple[str, ...] = tuple(classes)
        chosen = [
            (name, label)
            for label, (title, names) in enumerate(classes.items())
            for name in _part(title, names, config.validation_per_class, split)
        ]
        self.names: tuple[str, ...] = tuple(name for name, _ in chosen)
        self._labels = tuple(label for _, label in chosen)
        _logger.info(
            "%s: %d pictures for %s in %d classes, %d other files ignored",
            self._root, len(self.names), split, self.num_classes, self.ignored,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex, /) -> Example:
        position = check_index(index, len(self))
        name = self.names[position]
        try:
            image = decode_image(self._files.read(name))
        except BrokenImageError as error:
            raise BrokenImageError(f"{self._root / name}: {error}") from error
        return {"image": image, "label": self._labels[position]}

    def __repr__(self) -> str:
        return f"FolderSource({str(self._root)!r}, {len(self)} pictures)"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def _group(names: Sequence[str]) -> tuple[dict[str, list[str]], int]:
    """Sort picture names into classes by their topmost folder.

    Returns:
        Class name to sorted picture names, sorted by class name, and the number of names left
        out.
    """
    classes: defaultdict[str, list[str]] = defaultdict(list)
    for name in filter(is_picture, names):
        top, *below = PurePosixPath(name).parts
        classes[top if below else ""].append(name)
    if len(classes) > 1:
        classes.pop("", None)
    elif "" in classes:
        classes[_FLAT_CLASS] = classes.pop("")
    used = sum(map(len, classes.values()))
    return {title: sorted(classes[title]) for title in sorted(classes)}, len(names) - used


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name, and not hidden."""
    path = PurePosixPath(name)
    return not is_hidden(path) and path.suffix.lower() in PICTURE_EXTENSIONS


def is_hidden(path: PurePosixPath) -> bool:
    """Whether a file is hidden, or one of those that macOS adds to archives."""
    return any(part.startswith(".") or part == _MAC_METADATA for part in path.parts)


def _part(title: str, names: Sequence[str], validation: int, split: Split) -> Sequence[str]:
    """The pictures of one class that belong to a split."""
    if validation >= len(names):
        raise UserError(
            f"class {title!r}: expected more than validation_per_class = {validation} pictures, "
            f"got {len(names)}; lower FolderConfig.validation_per_class"
        )
    border = len(names) - validation
    return names[:border] if split == "train" else names[border:]
