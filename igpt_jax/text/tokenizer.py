"""Sentences to T5's text ids, by the `tokenizer.json` published beside the weights."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.weights import resolve_weights
from igpt_jax.typing import Bool, Int

PAD_ID: Final = 0
_PAD: Final = "<pad>"
_END: Final = "</s>"


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
            raise UserError(f"text tokenizer: expected a length of at least 1, got {length}")
        if isinstance(texts, str):
            raise UserError(f"text tokenizer: expected a list of texts, got {texts!r}; pass [text]")
        tokens = np.full((len(texts), length), PAD_ID, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            ids = [*self._ids(text)[: length - 1], self.end_id]
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
        return tokens, mask

    def _ids(self, text: str) -> list[int]:
        try:
            text.encode()  # the backend names no reason
        except UnicodeEncodeError as error:
            raise UserError(
                f"text tokenizer: expected Unicode text, got {text!r} with half a surrogate pair "
                f"at character {error.start}; remove it or call clean_caption first"
            ) from error
        return self.backend.encode(text, add_special_tokens=False).ids


def load_text_tokenizer(path: str | os.PathLike[str]) -> TextTokenizer:
    """Read T5's `tokenizer.json`.

    Args:
        path: the file, or `hub:ORG/NAME/tokenizer.json`.

    Raises:
        UserError: the package `tokenizers` or the file is missing, or the file is damaged, of
            another format or of another model.
    """
    try:
        from tokenizers import Tokenizer  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            "text tokenizer: expected the package tokenizers, got none; "
            "pip install 'igpt_jax[text]'"
        ) from error
    path = resolve_weights(path)
    if path.suffix == ".model":
        raise UserError(
            f"text tokenizer {path}: expected a tokenizer.json, got a SentencePiece model; save it "
            "again with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if not path.is_file():
        raise UserError(f"text tokenizer {path}: expected a tokenizer.json, found none; check path")
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise UserError(
            f"text tokenizer {path}: expected a tokenizer.json, got a damaged file or another "
            "format; download it again"
        ) from error
    end_id = backend.token_to_id(_END)
    if end_id is None or backend.token_to_id(_PAD) != PAD_ID:
        raise UserError(
            f"text tokenizer {path}: expected T5's, with {_PAD} as id {PAD_ID} and {_END}, got "
            f"another model's; give the file published with the text encoder"
        )
    backend.no_padding()  # settings of whoever saved the file
    backend.no_truncation()
    return TextTokenizer(backend, end_id)
