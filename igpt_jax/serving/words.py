"""Texts as words that full-text search finds, the same for every database.

Neither SQLite's nor PostgreSQL's tokenizer cuts Chinese, which has no spaces, into words. Here each
of its characters is a word, and what is searched for is a phrase of them; so any run of characters
is found, of one character, too.
"""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")
# Han with its extensions and compatibility forms, kana, and syllables of Hangul.
_SINGLE = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
MAX_WORD = 64  # letters; databases index no longer ones
MAX_PHRASES = 16


def words_of(text: str) -> str:
    """The words of a text, in lower case with one space between them."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    runs = _WORD.findall(_SINGLE.sub(lambda match: f" {match[0]} ", plain))
    return " ".join(run[:MAX_WORD] for run in runs)


def phrases_of(query: str) -> list[str]:
    """What must all be found: each word between spaces, or a run of characters, as words."""
    phrases = dict.fromkeys(words_of(part) for part in query.split())
    return [phrase for phrase in phrases if phrase][:MAX_PHRASES]
