"""Sentences to the text ids of T5 and CLIP, by the `tokenizer.json` beside their weights."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.text.bpe import INSTALL, check_text, read_backend
from igpt_jax.typing import Bool, Int

PAD_ID: Final = 0
_PAD: Final = "<pad>"
_END: Final = "</s>"
_CLIP_START: Final = "<|startoftext|>"
_CLIP_END: Final = "<|endoftext|>"
_NAME: Final = "text tokenizer"
_REMEDY: Final = "give the file published with the text encoder"


@dataclass(frozen=True)
class TextTokenizer:
    """The text tokenizer of T5 or of CLIP.

    Attributes:
        backend: a `tokenizers.Tokenizer` that neither pads nor truncates.
        end_id: the id that ends every text.
        start_ids: those that every text begins with.
        pad_id: the id that fills up rows.
    """

    backend: Any
    end_id: int
    start_ids: tuple[int, ...] = ()
    pad_id: int = PAD_ID

    @property
    def vocab_size(self) -> int:
        """Number of ids; the encoder's embedding must have at least as many rows."""
        return self.backend.get_vocab_size()

    def save(self, path: Path) -> None:
        """Writes its `tokenizer.json`."""
        self.backend.save(str(path))

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Ids of each text between start and end, filled up with padding on the right.

        Args:
            texts: sentences; what is too long loses its last words, never the end.
            length: slots `t` of each row.

        Returns:
            int32 ids, and a mask that is true up to the end.

        Raises:
            UserError: too few slots, one bare string, or a text that is not Unicode.
        """
        least = len(self.start_ids) + 1
        if length < least:
            raise UserError(f"{_NAME}: expected a length of at least {least}, got {length}")
        if isinstance(texts, str):
            raise UserError(f"{_NAME}: expected a list of texts, got {texts!r}; pass [text]")
        tokens = np.full((len(texts), length), self.pad_id, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            ids = [*self.start_ids, *self._ids(text)[: length - least], self.end_id]
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
        return tokens, mask

    def _ids(self, text: str) -> list[int]:
        check_text(text, _NAME, "remove it or call clean_caption first")
        return self.backend.encode(text, add_special_tokens=False).ids


def load_text_tokenizer(path: str | os.PathLike[str]) -> TextTokenizer:
    """Read T5's `tokenizer.json`.

    Args:
        path: the file, or `hub:ORG/NAME/tokenizer.json`.

    Raises:
        UserError: the package `tokenizers` or the file is missing, or the file is damaged, of
            another format or of another model.
    """
    backend = read_backend(path, _NAME, _REMEDY, INSTALL)
    end_id = backend.token_to_id(_END)
    if end_id is None or backend.token_to_id(_PAD) != PAD_ID:
        raise UserError(
            f"{_NAME} {path}: expected T5's, with {_PAD} as id {PAD_ID} and {_END}, got another "
            f"model's; {_REMEDY}"
        )
    return TextTokenizer(backend, end_id)


def load_clip_tokenizer(path: str | os.PathLike[str]) -> TextTokenizer:
    """Read CLIP's `tokenizer.json`; rows are filled up with the end, as OpenAI's files say.

    Args:
        path: the file, or `hub:ORG/NAME/tokenizer.json`.

    Raises:
        UserError: as `load_text_tokenizer`.
    """
    remedy = "give the file published with CLIP's weights"
    backend = read_backend(path, _NAME, remedy, INSTALL)
    start_id, end_id = (backend.token_to_id(name) for name in (_CLIP_START, _CLIP_END))
    if start_id is None or end_id is None:
        raise UserError(
            f"{_NAME} {path}: expected CLIP's, with {_CLIP_START} and {_CLIP_END}, got another "
            f"model's; {remedy}"
        )
    return TextTokenizer(backend, end_id, (start_id,), end_id)
