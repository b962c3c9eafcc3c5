"""Sentences to T5's text ids, by the `tokenizer.json` published beside the weights."""

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
_NAME: Final = "text tokenizer"
_REMEDY: Final = "give the file published with the text encoder"


@dataclass(frozen=True)
class TextTokenizer:
    """T5's text tokenizer.

    Attributes:
        backend: a `tokenizers.Tokenizer` that neither pads nor truncates.
        end_id: the id that ends every text.
    """

    backend: Any
    end_id: int

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
        """Ids of each text and the end, filled up with padding on the right.

        Args:
            texts: sentences; what is too long loses its last words, never the end.
            length: slots `t` of each row.

        Returns:
            int32 ids, and a mask that is true up to the end.

        Raises:
            UserError: no slot, one bare string, or a text that is not Unicode.
        """
        if length < 1:
            raise UserError(f"{_NAME}: expected a length of at least 1, got {length}")
        if isinstance(texts, str):
            raise UserError(f"{_NAME}: expected a list of texts, got {texts!r}; pass [text]")
        tokens = np.full((len(texts), length), PAD_ID, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            ids = [*self._ids(text)[: length - 1], self.end_id]
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
