"""A folder, or a zip archive, of pictures with a file of their captions."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, SupportsIndex, TypeGuard

from igpt_jax.data.archives import Files, open_files
from igpt_jax.data.examples import Example, Split, check_index
from igpt_jax.data.held_out import is_held_out
from igpt_jax.data.images import WHITE, BrokenImageError, decode_image
from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError

_logger: Final = logging.getLogger("igpt_jax.data")

_ONE_CLASS: Final = "all"
"""Name of the one class of pictures without categories."""


@dataclass(frozen=True)
class CaptionedConfig:
    """Pictures with captions, one JSON object a line: `{"file": "a/1.png", "caption": "a cat"}`.

    Pictures that no line names are ignored.

    Attributes:
        path: The folder or zip archive; may hold `~` and variables such as `$IGPT_DATA`.
        captions_file: The file of captions in it, UTF-8; pictures are named relative to its folder.
        file_key: The key of a picture's file name, with `/` between the parts.
        caption_key: The key of its caption.
        category_key: The key of its category, which becomes its class; None for one class.
        keywords_key: The key of a list of further captions, which lines may lack; None for none.
        validation_share: Share of the pictures set aside for validation, chosen by a hash of their
            names: the same on every machine, and whatever other pictures there are.
        background: Colour that transparent pictures are laid on, bytes of RGB.
    """

    path: str
    captions_file: str = "captions.jsonl"
    file_key: str = "file"
    caption_key: str = "caption"
    category_key: str | None = "category"
    keywords_key: str | None = "keywords"
    validation_share: float = 0.1
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        if not all(0 <= value <= 255 for value in self.background):
            raise UserError(
                "CaptionedConfig.background: expected three values in 0..255, got "
                f"{self.background}; change it"
            )
        if not 0 <= self.validation_share < 1:
            raise UserError(
                "CaptionedConfig.validation_share: expected a share in [0, 1), "
                f"got {self.validation_share}; change it"
            )


class CaptionedSource:
    """The pictures of a `CaptionedConfig`, in the order of their captions.

    Attributes:
        class_names: The categories, sorted; the label is the position here.
        names: Path of each picture below the root.
    """

    def __init__(self, config: CaptionedConfig, split: Split) -> None:
        self._root = expand_path(config.path)
        self._files = open_files(self._root)
        self._background = config.background
        entries = read_entries(self._root, self._files, config)
        share = config.validation_share
        chosen = [e for e in entries if is_held_out(e.name, share) == (split == "validation")]
        if not chosen:
            raise UserError(
                f"{self._root}: expected pictures for {split}, got none of {len(entries)} with "
                f"validation_share = {share}; change CaptionedConfig.validation_share"
            )
        self.class_names: tuple[str, ...] = tuple(sorted({e.category for e in entries}))
        self.names: tuple[str, ...] = tuple(e.name for e in chosen)
        self._captions = tuple(e.captions for e in chosen)
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._labels = tuple(labels[e.category] for e in chosen)
        _logger.info(
            "%s: %d of %d captioned pictures for %s in %d classes",
            self._root, len(self.names), len(entries), split, self.num_classes,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex, /) -> Example:
        position = check_index(index, len(self))
        name = self.names[position]
        try:
            image = decode_image(self._files.read(name), paper=self._background)
        except BrokenImageError as error:
            raise BrokenImageError(f"{self._root / name}: {error}") from error
        caption = self._captions[position][0]
        return {"image": image, "label": self._labels[position], "caption": caption}

    def __repr__(self) -> str:
        return f"CaptionedSource({str(self._root)!r}, {len(self)} pictures)"

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """Returns the caption of the picture at `index` and then its keywords, each text once."""
        return self._captions[check_index(index, len(self))]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


class _Entry(NamedTuple):
    name: str
    category: str
    captions: tuple[str, ...]


def read_entries(root: Path, files: Files, config: CaptionedConfig) -> list[_Entry]:
    """Read the captions and check that the pictures are there, each once."""
    path = PurePosixPath(config.captions_file)
    known = frozenset(files.names)
    if str(path) not in known:
        raise UserError(
            f"{root}: expected a file {path} with the captions, got none; add it or set "
            "CaptionedConfig.captions_file"
        )
    entries: list[_Entry] = []
    lines: dict[str, int] = {}
    for number, values in _read_lines(root / path, files, str(path)):
        where = f"{root / path}, line {number}"
        entry = _parse(values, path.parent, config, where)
        if entry.name in lines:
            raise UserError(
                f"{where}: expected each picture once, got {entry.name!r} again, after line "
                f"{lines[entry.name]}; remove one of the lines"
            )
        if entry.name not in known:
            raise UserError(
                f"{where}: expected a file of {root}, got {entry.name!r}, which is not there; add "
                "it or remove the line"
            )
        lines[entry.name] = number
        entries.append(entry)
    if not entries:
        raise UserError(f"{root / path}: expected captions, got an empty file; write it again")
    return entries


def _read_lines(path: Path, files: Files, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each line that is not blank, with its number from 1."""
    try:
        data = files.read(name)
    except BrokenImageError as error:
        raise UserError(f"{path}: expected a readable file, got {error}; copy it again") from error
    # Not `str.splitlines`: JSON may hold U+2028 and others as they are.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: expected a JSON object in UTF-8, got a damaged line; "
                "repair or remove it"
            ) from error
        if not isinstance(values, dict):
            raise UserError(
                f"{path}, line {number}: expected a JSON object, got {type(values).__name__}; "
                "repair or remove the line"
            )
        yield number, values


def _parse(
    values: Mapping[str, Any], folder: PurePosixPath, config: CaptionedConfig, where: str
) -> _Entry:
    """Check one line and turn it into an entry."""
    name = str(folder / _text(values, config.file_key, where))
    caption = _text(values, config.caption_key, where)
    category = _ONE_CLASS
    if config.category_key is not None:
        category = _text(values, config.category_key, where)
    keywords: Any = []
    if config.keywords_key is not None:
        keywords = values.get(config.keywords_key, [])
    if not isinstance(keywords, list) or not all(map(_is_text, keywords)):
        raise UserError(
            f"{where}: expected a list of texts as {config.keywords_key!r}, got "
            f"{repr(keywords)[:80]}; repair the line or set CaptionedConfig.keywords_key"
        )
    return _Entry(name, category, tuple(dict.fromkeys([caption, *keywords])))


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    text = values.get(key)
    if not _is_text(text):
        got = repr(text)[:80] if key in values else f"only {', '.join(map(repr, values))}"[:80]
        raise UserError(
            f"{where}: expected a text as {key!r}, got {got}; repair the line or set the keys of "
            "CaptionedConfig"
        )
    return text


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text with something in it; half surrogate pairs and NUL are none."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)
