"""Files of the package `tokenizers`: read, searched for pad and end, trained on captions.

Byte-level BPE: Sennrich et al. 2016 (section 3.2) on the bytes of UTF-8, cut to words as GPT-2 does
(Radford et al. 2019, section 2.2), with digits apart (Chowdhery et al. 2022, PaLM, section 2), so
that 42 and 47 share their 4. It has no unknown characters.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.interop.weights import resolve_weights

PAD: Final = "<pad>"
END: Final = "</s>"

MIN_VOCAB_SIZE: Final = 258  # every byte, pad and end

INSTALL: Final = "pip install 'igpt_jax[text]'"
_INSTALL_OR_BYTES: Final = f"{INSTALL} or use ByteTokenizerConfig()"
_NAME: Final = "caption tokenizer"

# The first that a file has is taken. GPT-2's file ends texts with what Qwen's pads them with.
_END_NAMES: Final = (
    END, "<eos>", "[EOS]", "[SEP]", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>",
    "<｜end▁of▁sentence｜>", "<|endoftext|>",
)  # fmt: skip
_PAD_NAMES: Final = (
    PAD, "<PAD>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>",
    "<｜▁pad▁｜>", "<|endoftext|>",
)  # fmt: skip


def check_text(text: Any, name: str = _NAME, remedy: str = "remove it") -> None:
    """Refuses what has no UTF-8, for which the package names no reason.

    Args:
        text: what is to be encoded.
        name: who refuses it, for the error.
        remedy: what the error advises against half a pair.

    Raises:
        UserError: something else than a text, or half a surrogate pair.
    """
    if not isinstance(text, str):
        raise UserError(
            f"{name}: expected texts, got {text!r} among them; leave out examples without a "
            "caption or give them an empty text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name}: expected Unicode text, got {text!r} with half a surrogate pair at character "
            f"{error.start}; {remedy}"
        ) from error


def read_backend(
    path: str | os.PathLike[str],
    name: str = _NAME,
    remedy: str = "write one with train_bpe",
    install: str = _INSTALL_OR_BYTES,
) -> Any:
    """The `tokenizers.Tokenizer` of a file; it neither pads nor truncates.

    Args:
        path: the file, or `hub:ORG/NAME/tokenizer.json`.
        name: who reads it, for errors.
        remedy: where errors say that a good file comes from.
        install: what the error advises where the package is missing.

    Raises:
        UserError: the package `tokenizers` or the file is missing, or the file is damaged, of
            another format or without a vocabulary.
    """
    package = _package(name, install)
    path = resolve_weights(path)
    if path.suffix == ".model":
        raise UserError(
            f"{name} {path}: expected a tokenizer.json, got a SentencePiece model; save it again "
            "with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if not path.is_file():
        raise UserError(
            f"{name} {path}: expected a tokenizer.json, found none; check the path or {remedy}"
        )
    try:
        backend = package.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise UserError(
            f"{name} {path}: expected a tokenizer.json, got a damaged file or another format; "
            f"download it again or {remedy}"
        ) from error
    if not backend.get_vocab_size():
        raise UserError(f"{name} {path}: expected a vocabulary, got an empty one; {remedy}")
    backend.no_padding()  # settings of whoever saved the file
    backend.no_truncation()
    return backend


def pad_and_end(backend: Any, pad: str | None, end: str | None) -> tuple[int, int, int]:
    """The ids of pad and end, and the number of ids with them.

    Where the file has none, they come behind its vocabulary, pad first.

    Args:
        backend: a `tokenizers.Tokenizer`.
        pad: the padding's name; None looks for a common one.
        end: the end's name; None looks for a common one.

    Returns:
        pad, end, and one more than the largest id.

    Raises:
        UserError: the vocabulary has no such name.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    vocab_size = max(vocabulary.values()) + 1  # there may be holes: an embedding needs them as rows
    end_id = _find(vocabulary, "end", end, _END_NAMES)
    pad_id = _find(vocabulary, "pad", pad, _PAD_NAMES)
    if pad is None and pad_id == end_id:
        pad_id = None
    if pad_id is None:
        pad_id, vocab_size = vocab_size, vocab_size + 1
    if end_id is None:
        end_id, vocab_size = vocab_size, vocab_size + 1
    return pad_id, end_id, vocab_size


def _find(
    vocabulary: dict[str, int], role: str, name: str | None, common: tuple[str, ...]
) -> int | None:
    if name is not None and name not in vocabulary:
        raise UserError(
            f"caption tokenizer: expected {role} to be a name in the file's vocabulary, got "
            f"{name!r}; leave it out to add one"
        )
    names = common if name is None else (name,)
    return next((vocabulary[known] for known in names if known in vocabulary), None)


def train_bpe(captions: Iterable[str], vocab_size: int, path: str | os.PathLike[str]) -> None:
    """Train a byte-level BPE on captions and write it, for `BPETokenizerConfig(path)`.

    Texts are normalized to NFC. Pad is id 0, the end 1, then every byte, then pairs, the most
    frequent first. The same captions, in any order, give the same file.

    Args:
        captions: texts, read once.
        vocab_size: ids in all; fewer where the captions have no further pairs.
        path: the `tokenizer.json` to write, in a folder that exists; a reader sees the old file or
            the new one.

    Raises:
        UserError: no captions, a caption that is no Unicode text, too few ids for all bytes, no
            such folder, a disk that does not take the file, or no package `tokenizers`.
    """
    package = _package()
    if isinstance(captions, str):
        raise UserError(f"train_bpe: expected many captions, got {captions!r}; pass [text]")
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"train_bpe: expected a vocab_size of at least {MIN_VOCAB_SIZE}, for every byte, pad "
            f"and end, got {vocab_size}"
        )
    _check_place(path)
    backend = package.Tokenizer(package.models.BPE())
    backend.normalizer = package.normalizers.NFC()
    backend.pre_tokenizer = package.pre_tokenizers.Sequence(
        [
            package.pre_tokenizers.Digits(individual_digits=True),
            package.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_checked(captions), trainer=trainer)
    write_backend(backend, path)


def write_backend(backend: Any, path: str | os.PathLike[str]) -> None:
    """Write a `tokenizers.Tokenizer`; a reader sees the old file or the new one.

    Raises:
        UserError: no such folder, or the disk does not take the file.
    """
    path = _check_place(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: expected to write it, got {error.strerror}; make room or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check_place(path: str | os.PathLike[str]) -> Path:
    path = expand_path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"caption tokenizer {path}: expected the name of a file in a folder that exists, got "
            f"{'a folder' if path.is_dir() else 'none such'}; choose another"
        )
    return path


def _checked(captions: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in captions:
        check_text(text)
        empty = False
        yield text
    if empty:
        raise UserError("train_bpe: expected captions, got none; check the source of the captions")


def _package(name: str = _NAME, install: str = _INSTALL_OR_BYTES) -> Any:
    try:
        import tokenizers  # pyrefly: ignore[missing-import]
        import tokenizers.trainers  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(f"{name}: expected the package tokenizers, got none; {install}") from error
    return tokenizers
