import json
from pathlib import Path

import pytest

from igpt_jax.text.captions import clean_caption

# `text_preprocessing` of LlamaGen's language/t5.py, with ftfy 6.3.1 and beautifulsoup4 4.15.
PAIRS = json.loads((Path(__file__).parent / "captions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("caption", "cleaned"), PAIRS, ids=range(len(PAIRS)))
def test_captions_come_out_as_the_published_function_gives_them(caption, cleaned):
    assert clean_caption(caption) == cleaned


@pytest.mark.parametrize("caption", ["a \ud83d half", "a <![x broken tag", "<", "&#", "%"])
def test_broken_captions_come_out_as_unicode(caption):
    clean_caption(caption).encode()


def test_a_pair_of_surrogates_is_one_character():
    assert clean_caption("a \ud83d\udc31") == "a 🐱"
