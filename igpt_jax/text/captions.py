"""The caption cleaning that DeepFloyd IF, PixArt and LlamaGen trained with, before T5.

It is part of the published models: what it does to a sentence, however odd ("pdfs" becomes "s"),
is what they have seen. Facts: FoundationVision/LlamaGen `language/t5.py`.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from html.entities import html5
from html.parser import HTMLParser
from typing import Final, TypeAlias
from urllib.parse import unquote_plus

Rule: TypeAlias = tuple[re.Pattern[str], str]


def _rules(*rules: tuple[str, str]) -> Sequence[Rule]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


_SITE: Final = r"[a-zA-Z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_SUFFIX: Final = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_DASHES: Final = (
    r"\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    r"\ufe31\ufe32\ufe58\ufe63\uff0d"
)

_LINKS: Final = _rules(
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
)
_SIGNS: Final = _rules(
    (r"@\w+\b", ""),  # nicknames
    # Strokes, small katakana, enclosed and square signs, ideographs, hexagrams.
    ("[\u31c0-\u31ef\u31f0-\u31ff\u3200-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff]+", ""),
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # addresses on the internet
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),  # written with a backslash
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_SUFFIX}", ""),  # file names
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_WORDS: Final = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # article numbers: jc6640, jc6640vc, 6640vc231
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_SUFFIX}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes; the second x is Cyrillic
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS: Final = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)
_JOINER: Final = re.compile("[-_]")


def clean_caption(text: str) -> str:
    """Clean a caption as the published models do: twice, for one pass may uncover work for another.

    Lower case; without links, tags of HTML, nicknames, Chinese characters (kana and hangul stay),
    file names, article numbers, sizes and advertising; with plain quotes and dashes.

    It needs neither ftfy nor Beautiful Soup, and differs from them where text in one encoding was
    read as another ("â€œ", or by mistake "ß€"), which ftfy repairs; where HTML is so broken that
    Beautiful Soup raises, which is left as it is; and half a surrogate pair becomes U+FFFD.
    """
    return _clean_once(_clean_once(text))


def _clean_once(text: str) -> str:
    text = unquote_plus(text).strip().lower()
    text = _without_tags(_apply(_LINKS, text))
    text = _apply(_SIGNS, text)
    if len(_JOINER.findall(text)) > 3:  # words-joined-like-this
        text = _JOINER.sub(" ", text)
    text = html.unescape(html.unescape(_plain_characters(text))).strip()
    return _apply(_ENDS, _apply(_WORDS, text)).strip()


def _apply(rules: Sequence[Rule], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


# What ftfy.fix_text changes but for wrong encodings: the characters, in its order.
_LATIN_LIGATURES: Final = {
    ord(joined): unicodedata.normalize("NFKC", joined) for joined in "ĳŉǆǉǌǳﬀﬁﬂﬃﬄﬆ"
} | {ord("ﬅ"): "ſt"}
_WIDTHS: Final = {
    code: unicodedata.normalize("NFKC", chr(code)) for code in [0x3000, *range(0xFF01, 0xFFF0)]
}
_QUOTES: Final = dict.fromkeys([0x2BC, *range(0x2018, 0x201C)], "'") | dict.fromkeys(
    range(0x201C, 0x2020), '"'
)
_CONTROLS: Final = dict.fromkeys(
    code
    for first, last in (
        (0x00, 0x08), (0x0B, 0x0B), (0x0E, 0x1F), (0x7F, 0x7F), (0x206A, 0x206F),
        (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFC),
    )
    for code in range(first, last + 1)
)  # fmt: skip


def _plain_characters(text: str) -> str:
    """Characters for reading in place of those for typesetting; composed, without controls."""
    text = re.sub("[\x80-\x9f]", _from_windows, text)
    for table in (_LATIN_LIGATURES, _WIDTHS, _QUOTES):
        text = text.translate(table)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text.translate(_CONTROLS))


def _from_windows(match: re.Match[str]) -> str:
    """Unicode gives no meaning to these 32 code points; Windows does."""
    return match[0].encode("latin-1").decode("windows-1252", "ignore") or match[0]


def _without_tags(text: str) -> str:
    parser = _Text()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # html.parser in Python 3.11 meets `<![` and something unknown
        return text
    return "".join(parser.parts)


class _Text(HTMLParser):
    """Collects the text of HTML as Beautiful Soup's `.text` does."""

    HIDDEN: Final = frozenset(["rp", "rt", "script", "style", "template"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self.open_tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Opens a tag."""
        self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """A tag without content hides nothing."""

    def handle_endtag(self, tag: str) -> None:
        """Closes a tag and those that were left open in it."""
        if tag in self.open_tags:
            while self.open_tags.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Keeps text that a reader sees."""
        if not self.HIDDEN.intersection(self.open_tags):
            self.parts.append(data)

    def unknown_decl(self, data: str) -> None:
        """Keeps CDATA."""
        if data.upper().startswith("CDATA["):
            self.parts.append(data[len("CDATA[") :])

    def handle_entityref(self, name: str) -> None:
        """A named character; a name that is none is text."""
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_charref(self, name: str) -> None:
        """A numbered character; unlike `html.unescape`, also a control."""
        number = int(name[1:], 16) if name[0] in "xX" else int(name)
        self.handle_data(html.unescape(f"&#{name};") or chr(number))
