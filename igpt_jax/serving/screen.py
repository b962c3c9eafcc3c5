"""What is not drawn: a list of phrases, to be replaced by what an operator has."""

from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from igpt_jax.errors import UserError
from igpt_jax.serving.words import words_of

PromptFilter = Callable[[str], str | None]
"""Why a text is not drawn, or None."""

REFUSAL = "text: expected something that this server draws, got what its list refuses"


def phrase_filter(phrases: Iterable[str]) -> PromptFilter:
    """Refuses texts with one of some phrases, whatever the case and punctuation."""
    refused = tuple(f" {words_of(phrase)} " for phrase in phrases if words_of(phrase))

    def refuse(text: str) -> str | None:
        words = f" {words_of(text)} "
        return REFUSAL if any(phrase in words for phrase in refused) else None

    return refuse


def read_phrases(path: Path) -> PromptFilter:
    """A filter of a file with one phrase a line; lines that begin with # say something else.

    Raises:
        UserError: no such file, or it is no text.
    """
    try:
        return phrase_filter(_lines(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompt-list: expected a text file, got {path}: {error}") from error


def default_prompt_filter(text: str) -> str | None:
    """A short list, in English and Chinese, of what no server should draw."""
    return _default()(text)


@cache
def _default() -> PromptFilter:
    listed = resources.files("igpt_jax.serving").joinpath("refused_phrases.txt")
    return phrase_filter(_lines(listed.read_text(encoding="utf-8")))


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]
