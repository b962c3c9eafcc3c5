"""Captions to text ids and back, for models that read or write captions themselves.

The shape letter `t` stands for slots of text.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.text.bpe import (
    MIN_VOCAB_SIZE,
    check_text,
    pad_and_end,
    read_backend,
    train_bpe,
    write_backend,
)
from igpt_jax.typing import Array, Bool, Int

CAPTION_TOKENIZER: Final = "caption_tokenizer.json"
"""The file of a model's caption tokenizer, in its directory."""

_BYTES: Final = 256


@runtime_checkable
class CaptionTokenizer(Protocol):
    """Turns captions of any language to text ids and back.

    Every row ends with the end, then padding. Text never becomes the one or the other, whatever is
    written in it.
    """

    @property
    def vocab_size(self) -> int:
        """Number of ids, pad and end included."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills up a row."""
        ...

    @property
    def end_id(self) -> int:
        """The id that ends every text."""
        ...

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Return ids of each text and the end, filled up with padding on the right.

        Args:
            texts: captions; what is too long loses its last characters, whole ones, never the end.
            length: slots `t` of each row.

        Returns:
            int32 ids, and a mask that is true up to the end.

        Raises:
            UserError: no slot, one bare string, or a text that is not Unicode.
        """
        ...

    def decode(self, tokens: Int[np.ndarray, "b t"] | Int[Array, "b t"]) -> list[str]:
        """Return the text of each row up to its first end, or all of it.

        A model may draw any ids: padding and ids that the tokenizer does not have are left out, and
        bytes that are not UTF-8 become U+FFFD.
        """
        ...

    def max_length(self, texts: Sequence[str]) -> int:
        """Return the slots in which every text fits with its end.

        Raises:
            UserError: one bare string, or a text that is not Unicode.
        """
        ...


@dataclass(frozen=True)
class ByteTokenizerConfig:
    """A tokenizer without a vocabulary to train or download.

    Attributes:
        normalize: composes characters (NFC), so that what looks the same is the same.
    """

    normalize: bool = True


@dataclass(frozen=True)
class BPETokenizerConfig:
    """A tokenizer from a file of the package `tokenizers`, be it BPE, WordPiece or Unigram.

    Attributes:
        path: a `tokenizer.json`, such as `train_bpe` writes, or `hub:ORG/NAME/tokenizer.json`.
        pad: the padding's name in the file. None looks for a common one, such as <pad> or [PAD],
            and adds an id behind the vocabulary where there is none but the end's.
        end: the end's name in the file. None looks for a common one, such as </s>, [SEP] or
            <|endoftext|>, and adds an id behind the vocabulary where there is none.
    """

    path: str
    pad: str | None = None
    end: str | None = None


@dataclass(frozen=True)
class TrainedBPEConfig:
    """A BPE that a run trains on the captions of its training pictures, see `train_bpe`.

    Attributes:
        vocab_size: ids, pad and end included.
    """

    vocab_size: int = 1_024

    def __post_init__(self) -> None:
        """Refuses fewer ids than there are bytes."""
        if self.vocab_size < MIN_VOCAB_SIZE:
            raise UserError(
                f"caption_tokenizer.vocab_size: expected at least {MIN_VOCAB_SIZE}, for every "
                f"byte, pad and end, got {self.vocab_size}"
            )


CaptionTokenizerConfig: TypeAlias = ByteTokenizerConfig | BPETokenizerConfig | TrainedBPEConfig


def caption_vocab_size(config: CaptionTokenizerConfig) -> int:
    """Number of ids that a model must have for a tokenizer's captions.

    Raises:
        UserError: the file or the package that it needs is missing or damaged.
    """
    match config:
        case ByteTokenizerConfig():
            return ByteTokenizer.vocab_size
        case BPETokenizerConfig():
            return BPETokenizer(config).vocab_size
        case TrainedBPEConfig():
            return config.vocab_size


def load_caption_tokenizer(config: CaptionTokenizerConfig, directory: Path) -> CaptionTokenizer:
    """Return the tokenizer of a model, whose file is kept in the model's directory.

    Raises:
        UserError: the file or the package that it needs is missing or damaged.
    """
    path = str(directory / CAPTION_TOKENIZER)
    match config:
        case ByteTokenizerConfig():
            return ByteTokenizer(config)
        case BPETokenizerConfig():
            return BPETokenizer(replace(config, path=path))
        case TrainedBPEConfig():
            return BPETokenizer(BPETokenizerConfig(path))


def keep_caption_tokenizer(
    config: CaptionTokenizerConfig, directory: Path, captions: Iterable[str]
) -> None:
    """Writes a tokenizer's file into the directory of a model; a BPE is trained if need be.

    Args:
        config: which tokenizer.
        directory: of the model; a file that is there stays.
        captions: to train on.

    Raises:
        UserError: the file or the package that it needs is missing or damaged.
    """
    path = directory / CAPTION_TOKENIZER
    if path.is_file():
        return
    match config:
        case ByteTokenizerConfig():
            return
        case BPETokenizerConfig():
            BPETokenizer(config).save(path)
        case TrainedBPEConfig():
            train_bpe(captions, config.vocab_size, path)


class ByteTokenizer:
    """The bytes of UTF-8 as ids 0 to 255 (ByT5, Xue et al. 2022, section 3.1); 256 pads, 257 ends.

    It has the methods and errors of `CaptionTokenizer`. A Chinese character is 3 ids.
    """

    vocab_size: int = _BYTES + 2
    pad_id: int = _BYTES
    end_id: int = _BYTES + 1

    def __init__(self, config: ByteTokenizerConfig = ByteTokenizerConfig()) -> None:
        self.config = config

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Return bytes of each text; see `CaptionTokenizer`."""
        _check_length(length)
        rows = [self._cut(text, length - 1) for text in self._bytes(_checked(texts))]
        return _filled(rows, length, self.pad_id, self.end_id)

    def decode(self, tokens: Int[np.ndarray, "b t"] | Int[Array, "b t"]) -> list[str]:
        """Return the text of each row; see `CaptionTokenizer`."""
        return [
            bytes(index for index in ids if 0 <= index < _BYTES).decode(errors="replace")
            for ids in _before_end(tokens, self.end_id)
        ]

    def max_length(self, texts: Sequence[str]) -> int:
        """Return the slots in which every text fits; see `CaptionTokenizer`."""
        return 1 + max(map(len, self._bytes(_checked(texts))), default=0)

    def _bytes(self, texts: list[str]) -> list[bytes]:
        if self.config.normalize:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        return [text.encode() for text in texts]

    @staticmethod
    def _cut(text: bytes, length: int) -> bytes:
        """The most whole characters that fit."""
        if len(text) <= length:
            return text
        while text[length] & 0b1100_0000 == 0b1000_0000:  # within a character
            length -= 1
        return text[:length]


class BPETokenizer:
    """The ids that the package `tokenizers` gives by a file, without the file's own extra ids.

    It has the methods and errors of `CaptionTokenizer`. What the file's normalizer and decoder do
    to a text, `decode` does not undo; with a file of `train_bpe` it gives the text's NFC.

    Attributes:
        config: which file.
        backend: its `tokenizers.Tokenizer`.
        vocab_size: one more than the largest id.
        pad_id: the id that fills up a row.
        end_id: the id that ends every text.
    """

    def __init__(self, config: BPETokenizerConfig) -> None:
        self.config = config
        self.backend: Any = read_backend(config.path)
        self.pad_id, self.end_id, self.vocab_size = pad_and_end(
            self.backend, config.pad, config.end
        )
        names = (self.backend.id_to_token(index) for index in (self.pad_id, self.end_id))
        self.backend.add_special_tokens([name for name in names if name is not None])
        self.backend.encode_special_tokens = True  # "</s>" within a caption is but letters

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes, which read the file again: pickled, the backend loses settings."""
        return type(self), (self.config,)

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Return ids of each text; see `CaptionTokenizer`."""
        _check_length(length)
        rows = [self._ids(text, length - 1) for text in _checked(texts)]
        return _filled(rows, length, self.pad_id, self.end_id)

    def decode(self, tokens: Int[np.ndarray, "b t"] | Int[Array, "b t"]) -> list[str]:
        """Return the text of each row; see `CaptionTokenizer`."""
        return [
            self.backend.decode(
                [index for index in ids if 0 <= index < self.vocab_size and index != self.pad_id],
                skip_special_tokens=True,
            )
            for ids in _before_end(tokens, self.end_id)
        ]

    def max_length(self, texts: Sequence[str]) -> int:
        """Return the slots in which every text fits; see `CaptionTokenizer`."""
        return 1 + max((len(self._ids(text)) for text in _checked(texts)), default=0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write its file, to keep it with a model; the config's names stay those of the old one.

        Raises:
            UserError: no such folder, or the disk does not take the file.
        """
        write_backend(self.backend, path)

    def _ids(self, text: str, length: int | None = None) -> list[int]:
        """Ids without the end; at most `length`, of whole characters."""
        encoded = self.backend.encode(text, add_special_tokens=False)
        # Unigram finds the end's letters in its vocabulary.
        kept = [
            (index, first, last)
            for index, (first, last) in zip(encoded.ids, encoded.offsets, strict=True)
            if index not in (self.pad_id, self.end_id)
        ]
        if length is not None and length < len(kept):
            while length and kept[length][1] < kept[length - 1][2]:  # both are of one character
                length -= 1
            kept = kept[:length]
        return [index for index, _, _ in kept]


def _check_length(length: int) -> None:
    if length < 1:
        raise UserError(f"caption tokenizer: expected a length of at least 1, got {length}")


def _checked(texts: Any) -> list[str]:
    """The texts; whatever is wrong with them is said here."""
    if isinstance(texts, str):
        raise UserError(f"caption tokenizer: expected a list of texts, got {texts!r}; pass [text]")
    texts = list(texts)
    for text in texts:
        check_text(text)
    return texts


def _filled(
    rows: Sequence[Sequence[int]], length: int, pad_id: int, end_id: int
) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """Rows with their end and padding, and where they are not padding."""
    tokens = np.full((len(rows), length), pad_id, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids) + 1], mask[row, : len(ids) + 1] = [*ids, end_id], True
    return tokens, mask


def _before_end(
    tokens: Int[np.ndarray, "b t"] | Int[Array, "b t"], end_id: int
) -> Iterator[list[int]]:
    for ids in np.asarray(tokens).tolist():
        yield ids[: ids.index(end_id)] if end_id in ids else ids
