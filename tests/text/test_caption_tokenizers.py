import dataclasses
import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from igpt_jax.data.card_captions import caption, num_wordings
from igpt_jax.data.cards import CardsConfig, card_at
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.text.bpe import train_bpe
from igpt_jax.text.caption_tokenizers import (
    BPETokenizer,
    BPETokenizerConfig,
    ByteTokenizer,
    ByteTokenizerConfig,
    CaptionTokenizer,
    CaptionTokenizerConfig,
    TrainedBPEConfig,
    caption_vocab_size,
    keep_caption_tokenizer,
    load_caption_tokenizer,
)

PACKAGE = "tokenizers.tokenizers"  # see test_text_tokenizer.py
T5 = Path(__file__).parent / "tokenizer.json"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MIXED = st.text("a éE\u0301\u0323红桃😀\u200d\x00\n<>/s", max_size=30)
ODD = [
    "",
    "a\x00\x1f\x7f\r\n\t b",
    "\U0001f469\u200d\U0001f680 🇨🇳 😀",
    "红桃，上方是7",
    "e\u0301 가 A\u030a ﬁ",
    "</s><pad>",
    "\ufeff\ufffd",
]


def composed(text):
    return unicodedata.normalize("NFC", text)


def cards(number):
    """Captions of cards, in turn English and Chinese, of every wording."""
    config = CardsConfig()
    return [
        caption(card_at(config, i, "train"), ("en", "zh")[i % 2], i // 2 % num_wordings())
        for i in range(number)
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pytest.importorskip(PACKAGE)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_bpe(cards(2000), 512, path)
    return path


@pytest.fixture(scope="module")
def bpe(path):
    return BPETokenizer(BPETokenizerConfig(str(path)))


@pytest.fixture(scope="module", params=["byte", "bpe"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "byte" else request.getfixturevalue("bpe")


@pytest.fixture(scope="module")
def theirs(path):
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(path))


def round_trip(tokenizer, text, spare=0):
    return tokenizer.decode(tokenizer.encode([text], tokenizer.max_length([text]) + spare)[0])


def test_ids_of_bytes_are_those_of_utf8():
    tokens, mask = ByteTokenizer().encode(["a红", ""], 6)
    np.testing.assert_array_equal(tokens, [[97, 231, 186, 162, 257, 256], [257] + [256] * 5])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]])
    assert (tokens.dtype, mask.dtype) == (np.int32, bool)
    assert ByteTokenizer.vocab_size == 258


def test_normalization_makes_ids_of_what_looks_the_same_the_same():
    pair = ["caf\u00e9", "cafe\u0301"]
    one, other = ByteTokenizer().encode(pair, 9)[0]
    np.testing.assert_array_equal(one, other)
    exact = ByteTokenizer(ByteTokenizerConfig(normalize=False))
    assert exact.decode(exact.encode(pair, 9)[0]) == pair
    assert (exact.max_length(pair[1:]), ByteTokenizer().max_length(pair[1:])) == (7, 6)


@given(TEXTS | MIXED, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_bytes_come_back_composed(text, spare):
    assert round_trip(ByteTokenizer(), text, spare) == [composed(text)]


# The package's tables of Unicode are older than Python's, so that a few marks stay in their order.
@given(TEXTS | MIXED, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_bpe_comes_back_as_the_package_composes(bpe, text, spare):
    assert round_trip(bpe, text, spare) == [bpe.backend.normalizer.normalize_str(text)]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_come_back_composed(tokenizer, text):
    assert round_trip(tokenizer, text) == [composed(text)]


def test_captions_of_cards_come_back(tokenizer):
    captions = cards(200)
    assert not set(captions) < set(cards(100))
    length = tokenizer.max_length(captions)
    tokens, mask = tokenizer.encode(captions, length)
    assert tokenizer.decode(tokens) == captions == tokenizer.decode(jnp.asarray(tokens))
    assert mask[:, -1].any()
    assert tokenizer.max_length([]) == 1
    assert tokenizer.decode(tokenizer.encode([], 3)[0]) == []


@given(text=TEXTS | MIXED, length=st.integers(1, 20))
@example(text="红红红红", length=6)
@example(text="😀", length=4)
@settings(max_examples=200, deadline=None)
def test_what_is_too_long_keeps_whole_characters_and_its_end(tokenizer, text, length):
    tokens, mask = tokenizer.encode([text], length)
    whole, fits = tokenizer.encode([text], tokenizer.max_length([text]))
    kept = int(mask.sum()) - 1
    assert fits.all()
    assert tokens[0, kept] == tokenizer.end_id
    assert (tokens[0, kept + 1 :] == tokenizer.pad_id).all()
    np.testing.assert_array_equal(tokens[0, :kept], whole[0, :kept])
    (start,), (text,) = tokenizer.decode(tokens), tokenizer.decode(whole)
    assert text.startswith(start)
    if text != start:  # the next character does not fit
        assert length - kept <= 4 or isinstance(tokenizer, BPETokenizer)
        longer = tokenizer.encode([text], kept + 2)[0]
        assert kept == length - 1 or tokenizer.decode(longer) == [start]


@given(st.lists(st.integers(-5, 600), max_size=20))
@settings(max_examples=200, deadline=None)
def test_whatever_a_model_draws_is_some_text(tokenizer, ids):
    (text,) = tokenizer.decode(np.array([ids], np.int32).reshape(1, -1))
    text.encode()
    stop = ids.index(tokenizer.end_id) if tokenizer.end_id in ids else len(ids)
    known = [i for i in ids[:stop] if 0 <= i < tokenizer.vocab_size and i != tokenizer.pad_id]
    assert tokenizer.decode(np.array([known], np.int32).reshape(1, -1)) == [text]


def test_drawn_bytes_that_are_no_utf8_are_replaced():
    drawn = np.array([[97, 0xE7, 0xBA, 98, 257, 99], [256, 97, 256, 98, 9999, -1]])
    assert ByteTokenizer().decode(drawn) == ["a\ufffdb", "ab"]


def test_drawn_bpe_ids_that_are_no_utf8_are_replaced(bpe):
    tokens, _ = bpe.encode(["😀"], 9)
    assert set(bpe.decode(tokens[:, 1:])[0]) == {"\ufffd"}


def test_ids_are_those_of_the_package(bpe, theirs):
    captions = [*cards(300), *ODD[:5]]
    tokens, mask = bpe.encode(captions, 200)
    for row, shown, text in zip(tokens, mask, captions, strict=True):
        assert row[shown].tolist() == [*theirs.encode(text).ids, theirs.token_to_id("</s>")]


def test_the_end_written_in_a_caption_does_not_end_it(bpe, theirs):
    assert theirs.encode("a</s>b").ids.count(bpe.end_id) == 1
    assert (bpe.encode(["a</s>b<pad>"], 30)[0][0] == bpe.end_id).sum() == 1


def test_the_published_t5_file_works_too():
    pytest.importorskip(PACKAGE)
    t5 = BPETokenizer(BPETokenizerConfig(str(T5)))
    assert (t5.pad_id, t5.end_id, t5.vocab_size) == (0, 1, 132)
    tokens, mask = t5.encode(["a red cube on a wooden table", "a </s> b"], 30)
    # transformers 5.23, see test_text_tokenizer.py
    ids = [4, 3, 24, 35, 51, 99, 3, 15, 4, 71, 40, 112, 27, 96, 29, 14]
    assert tokens[0, :15].tolist() == ids[:15]
    assert (tokens[mask] == 1).sum() == 2
    assert t5.decode(tokens)[0] == "a red cube on a wooden table"


def test_a_trained_file_has_the_sizes_asked_for(bpe, path):
    assert (bpe.vocab_size, bpe.pad_id, bpe.end_id) == (512, 0, 1)
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(512))
    assert [entry.name for entry in path.parent.iterdir()] == ["tokenizer.json"]


def test_captions_with_few_pairs_give_fewer_ids(tmp_path):
    pytest.importorskip(PACKAGE)
    train_bpe(["ab", "ab"], 400, tmp_path / "t.json")
    few = BPETokenizer(BPETokenizerConfig(str(tmp_path / "t.json")))
    assert few.vocab_size == 259
    assert few.max_length(["ab", "红"]) == 4


def test_the_same_captions_give_the_same_file(path, tmp_path):
    script = (
        "import sys; sys.path.insert(0, 'tests/text')\n"
        "from test_caption_tokenizers import cards, train_bpe\n"
        "train_bpe(iter(cards(2000)[::-1]), 512, sys.argv[1])"
    )
    root = Path(__file__).parents[2]
    again = tmp_path / "again.json"
    subprocess.run([sys.executable, "-c", script, again], cwd=root, check=True)
    assert again.read_bytes() == path.read_bytes()


def test_bpe_shortens_captions(bpe):
    captions = cards(2200)[2000:]
    means = [one.encode(captions, 300)[1].sum(1).mean() for one in (ByteTokenizer(), bpe)]
    assert means[1] < means[0] / 3


def file_with(tmp_path, *names, special=True, plain=()):
    """A file of words with some more names behind them."""
    import tokenizers

    words = {"a": 0, "b": 1, "[UNK]": 2, **{name: 3 + i for i, name in enumerate(plain)}}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_tokens([tokenizers.AddedToken(name, special=special) for name in names])
    backend.enable_padding(length=8)
    backend.enable_truncation(1)
    backend.save(str(tmp_path / "words.json"))
    return str(tmp_path / "words.json")


@pytest.mark.parametrize(
    ("names", "pad_id", "end_id", "vocab_size"),
    [
        ((), 3, 4, 5),
        (("<pad>", "</s>"), 3, 4, 5),
        (("</s>", "<pad>"), 4, 3, 5),
        (("[PAD]", "[SEP]"), 3, 4, 5),
        (("<|endoftext|>",), 4, 3, 5),
        (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), 3, 5, 6),
        (("[PAD]",), 3, 4, 5),
        (("</s>",), 4, 3, 5),
    ],
)
@pytest.mark.parametrize("kind", ["special", "added", "word"])
def test_pad_and_end_are_found_or_added(tmp_path, names, pad_id, end_id, vocab_size, kind):
    pytest.importorskip(PACKAGE)
    if kind == "word":
        written = file_with(tmp_path, plain=names)
    else:
        written = file_with(tmp_path, *names, special=kind == "special")
    words = BPETokenizer(BPETokenizerConfig(written))
    assert (words.pad_id, words.end_id, words.vocab_size) == (pad_id, end_id, vocab_size)
    tokens, mask = words.encode(["a b", " ".join(["b", *names])], 20)
    assert tokens[0, :4].tolist() == [0, 1, end_id, pad_id]
    assert (tokens[mask] == end_id).sum() == 2  # however it is written in a text
    assert words.decode(tokens)[0] == "a b"
    words.save(tmp_path / "copy.json")
    copy = BPETokenizer(BPETokenizerConfig(str(tmp_path / "copy.json")))
    assert (copy.pad_id, copy.end_id, copy.vocab_size) == (pad_id, end_id, vocab_size)


def test_pad_and_end_may_be_named(tmp_path):
    pytest.importorskip(PACKAGE)
    written = file_with(tmp_path, "<|startoftext|>", "<|endoftext|>", "<fill>")
    named = BPETokenizer(BPETokenizerConfig(written, pad="<fill>", end="<|startoftext|>"))
    assert (named.pad_id, named.end_id, named.vocab_size) == (5, 3, 6)
    both = BPETokenizer(BPETokenizerConfig(written, pad="<|endoftext|>", end="<|endoftext|>"))
    tokens, mask = both.encode(["a b"], 5)  # as CLIP pads
    assert tokens.tolist() == [[0, 1, 4, 4, 4]]
    assert (mask.sum(), both.decode(tokens)) == (3, ["a b"])
    with pytest.raises(UserError, match=r"expected end to be a name .* got '<stop>'"):
        BPETokenizer(BPETokenizerConfig(written, end="<stop>"))


def test_a_pickled_tokenizer_gives_the_same_ids(tokenizer):
    texts = ["a</s>b", "红桃"]
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy.encode(texts, 30)[0], tokenizer.encode(texts, 30)[0])


def test_numbers_are_digits_by_themselves(tmp_path):
    """However often a number stands in the captions, in English and Chinese alike."""
    train_bpe(
        [f"the number {n}" for n in range(101)] * 3 + ["数字42"] * 9, 400, tmp_path / "t.json"
    )
    backend = BPETokenizer(BPETokenizerConfig(str(tmp_path / "t.json"))).backend
    digits = [backend.encode(text).tokens[-2:] for text in ("the number 42", "数字42")]
    assert digits == [["4", "2"]] * 2


@dataclasses.dataclass(frozen=True)
class Holder:
    text: CaptionTokenizerConfig


def test_configs_are_written_and_read_and_built(path, tmp_path):
    kinds = (
        ByteTokenizerConfig(normalize=False),
        BPETokenizerConfig(str(path), end="</s>"),
        TrainedBPEConfig(300),
    )
    for number, config in enumerate(kinds):
        directory = tmp_path / str(number)
        directory.mkdir()
        values = json.loads(json.dumps(to_dict(Holder(config))))
        assert from_dict(Holder, values) == Holder(config)
        assert from_dict(type(config), values["text"]) == config
        keep_caption_tokenizer(config, directory, ["a red card", "红桃"])
        built = load_caption_tokenizer(config, directory)
        assert isinstance(built, CaptionTokenizer)
        assert built.vocab_size <= caption_vocab_size(config)
        assert built.decode(built.encode(["a red 红桃"], 40)[0]) == ["a red 红桃"]


@pytest.mark.parametrize(
    ("texts", "length", "message"),
    [
        (["a"], 0, "length of at least 1, got 0"),
        ("a red card", 8, "expected a list of texts, got 'a red card'"),
        (["b \ud83d"], 8, "half a surrogate pair at character 2"),
        ([None], 8, "expected texts, got None"),
    ],
)
def test_what_cannot_be_encoded_is_refused(tokenizer, texts, length, message):
    unchecked = type(tokenizer).encode
    while hasattr(unchecked, "__wrapped__"):  # the hook would refuse None before us
        unchecked = unchecked.__wrapped__
    with pytest.raises(UserError, match=message) as error:
        unchecked(tokenizer, texts, length)
    assert "\n" not in str(error.value)
    if length and None not in list(texts):
        with pytest.raises(UserError, match=message):
            tokenizer.max_length(texts)


@pytest.mark.parametrize(
    ("captions", "vocab_size", "name", "message"),
    [
        ("a red card", 300, "t.json", "expected many captions, got 'a red card'"),
        (["a"], 257, "t.json", "vocab_size of at least 258, .* got 257"),
        ([], 300, "t.json", "expected captions, got none"),
        (["a", "b\ud83d"], 300, "t.json", "half a surrogate pair at character 1"),
        (["a"], 300, "no/t.json", "in a folder that exists"),
        (["a"], 300, ".", "got a folder"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, captions, vocab_size, name, message):
    pytest.importorskip(PACKAGE)
    with pytest.raises(UserError, match=message) as error:
        train_bpe(captions, vocab_size, tmp_path / name)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "list", "missing", "folder", "no words", "spiece"]
)
def test_a_damaged_file_is_refused(tmp_path, path, damage):
    damaged = tmp_path / ("spiece.model" if damage == "spiece" else "tokenizer.json")
    contents = {
        "cut": path.read_bytes()[:2000], "empty": b"", "list": b"[1, 2]", "spiece": b"\n\x05",
        "no words": b'{"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}',
    }  # fmt: skip
    if damage == "folder":
        damaged.mkdir()
    elif damage != "missing":
        damaged.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"expected a (tokenizer\.json|vocabulary)") as error:
        BPETokenizer(BPETokenizerConfig(str(damaged)))
    assert "\n" not in str(error.value)


def test_the_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'igpt_jax\[text\]'"):
        caption_vocab_size(BPETokenizerConfig(str(T5)))
    with pytest.raises(UserError, match="got none"):
        train_bpe(["a"], 300, tmp_path / "t.json")
    assert isinstance(load_caption_tokenizer(ByteTokenizerConfig(), tmp_path), CaptionTokenizer)
