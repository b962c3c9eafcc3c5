import json
import sys
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.text.tokenizer import load_clip_tokenizer, load_text_tokenizer

# Its compiled half: `tokenizers` alone would also find the folder of tests of that name.
PACKAGE = "tokenizers.tokenizers"
FILE = Path(__file__).parent / "tokenizer.json"
CLIP_FILE = Path(__file__).parent / "clip_tokenizer.json"

# transformers 5.23: PreTrainedTokenizerFast(tokenizer_file=FILE)(texts, padding="max_length",
# truncation=True, max_length=16, add_special_tokens=True)["input_ids"]; 1 is the end.
TEXTS = [
    "a red cube on a wooden table",
    "A quick brown fox, over the lazy dog and a very long sentence that does not fit",
    "",
    "<extra_id_1> in the snow </s>",
    "two  dogs\nplay",
    "zebra é 中 ﬁ",
]
IDS = [
    [4, 3, 24, 35, 51, 99, 3, 15, 4, 71, 40, 112, 27, 96, 29, 1],
    [3, 2, 46, 23, 14, 56, 18, 8, 55, 104, 34, 3, 84, 9, 10, 1],
    [1],
    [130, 3, 17, 10, 5, 11, 8, 18, 1, 1],
    [27, 93, 48, 6, 30, 41, 13, 1],
    [3, 105, 5, 69, 78, 3, 2, 3, 2, 94, 126, 1],
]


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip(PACKAGE)
    return load_text_tokenizer(FILE)


def test_ids_are_those_of_transformers(tokenizer):
    tokens, mask = tokenizer.encode(TEXTS, 16)
    assert (tokens.dtype, mask.dtype) == (np.int32, bool)
    np.testing.assert_array_equal(tokens, [ids + [0] * (16 - len(ids)) for ids in IDS])
    np.testing.assert_array_equal(mask, [[i < len(ids) for i in range(16)] for ids in IDS])


@pytest.mark.parametrize("length", [1, 2, 5, 30])
def test_a_long_text_keeps_its_end(tokenizer, length):
    whole, _ = tokenizer.encode(TEXTS[1:2], 100)
    tokens, mask = tokenizer.encode(TEXTS[1:2], length)
    np.testing.assert_array_equal(tokens[0, :-1], whole[0, : length - 1])
    assert tokens[0, -1] == 1
    assert mask.all()


def test_no_texts_are_no_rows(tokenizer):
    tokens, mask = tokenizer.encode([], 7)
    assert tokens.shape == mask.shape == (0, 7)


def test_vocab_size_counts_the_added_ids(tokenizer):
    assert tokenizer.vocab_size == 132


@pytest.mark.parametrize(
    ("texts", "length", "message"),
    [
        (["a"], 0, "length of at least 1, got 0"),
        ("a red cube", 8, "expected a list of texts, got 'a red cube'"),
        (["a", "b \ud83d"], 8, "half a surrogate pair at character 2"),
    ],
)
def test_what_cannot_be_encoded_is_refused(tokenizer, texts, length, message):
    with pytest.raises(UserError, match=message):
        tokenizer.encode(texts, length)


@pytest.mark.parametrize("damage", ["cut", "empty", "list", "bytes", "missing", "folder", "spiece"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    pytest.importorskip(PACKAGE)
    path = tmp_path / ("spiece.model" if damage == "spiece" else "tokenizer.json")
    content = {
        "cut": FILE.read_bytes()[:2000], "empty": b"", "list": b"[1, 2]", "bytes": b"\xff\x00",
        "spiece": b"\n\x05",
    }  # fmt: skip
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(content[damage])
    with pytest.raises(UserError, match=r"expected a tokenizer\.json") as error:
        load_text_tokenizer(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("other", ["pad", "end"])
def test_the_file_of_another_model_is_refused(tmp_path, other):
    pytest.importorskip(PACKAGE)
    content = json.loads(FILE.read_text(encoding="utf-8"))
    index, name = {"pad": (0, "[PAD]"), "end": (1, "[END]")}[other]
    content["added_tokens"][index]["content"] = name
    content["model"]["vocab"][index][0] = name
    content["post_processor"] = content["padding"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="got another model's"):
        load_text_tokenizer(path)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'igpt_jax\[text\]'"):
        load_text_tokenizer(FILE)


# transformers 5.24: CLIPTokenizer.from_pretrained(FOLDER)(texts, padding="max_length",
# truncation=True, max_length=13)["input_ids"]; 132 is the start, 133 the end.
CLIP_TEXTS = [
    "a photo of a DOG",
    "  two   cards,\non a wooden table in the green photo of 42 dogs",
    "",
    "cat <|endoftext|> dog",
    "é 中 the cat's",
]
CLIP_IDS = [
    [132, 61, 97, 94, 61, 126, 133],
    [132, 128, 125, 48, 117, 61, 131, 129, 114, 104, 127, 97, 133],
    [132, 133],
    [132, 122, 133, 126, 133],
    [132, 43, 87, 44, 42, 91, 104, 122, 1, 79, 133],
]


def test_clips_ids_are_those_of_transformers():
    pytest.importorskip(PACKAGE)
    tokenizer = load_clip_tokenizer(CLIP_FILE)
    tokens, mask = tokenizer.encode(CLIP_TEXTS, 13)
    np.testing.assert_array_equal(tokens, [ids + [133] * (13 - len(ids)) for ids in CLIP_IDS])
    np.testing.assert_array_equal(mask, [[i < len(ids) for i in range(13)] for ids in CLIP_IDS])
    shortest, _ = tokenizer.encode(CLIP_TEXTS[:1], 2)
    assert shortest.tolist() == [[132, 133]]
    with pytest.raises(UserError, match="length of at least 2, got 1"):
        tokenizer.encode(CLIP_TEXTS, 1)


def test_each_loader_refuses_the_others_file():
    pytest.importorskip(PACKAGE)
    with pytest.raises(UserError, match=r"expected CLIP's, with <\|startoftext\|>"):
        load_clip_tokenizer(FILE)
    with pytest.raises(UserError, match="expected T5's"):
        load_text_tokenizer(CLIP_FILE)
