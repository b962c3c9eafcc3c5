"""What a caller asks for, by name or number, and a model of class, attributes and captions."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.asking import Reader, Request, num_attribute_rows
from igpt_jax.cli import main
from igpt_jax.data.attributes import AttributeConfig, attribute_sizes, attributes_of
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.errors import UserError
from igpt_jax.interop.exporting import export
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.run import run
from igpt_jax.testing import tiny_config
from igpt_jax.text.caption_tokenizers import ByteTokenizerConfig
from igpt_jax.tokenizers.palette import PaletteConfig

pytestmark = pytest.mark.xdist_group("asking")

NAMES = (AttributeConfig("suit", ("hearts", "clubs")), AttributeConfig("top", ("0", "1", "2")))
CONFIG = GPTConfig(vocab_size=8, grid_shape=(2, 2), attribute_sizes=(2, 3))
CARDS = CardsConfig(
    num_cards=16, num_validation=8, image_size=32, max_number=9, max_numbers=3, captions="both",
    attributes=True,
)  # fmt: skip


def asked(attributes, count=2, names=NAMES):
    reader = Reader(CONFIG, None, None, names, batch_size=4)
    return reader.read(Request(attributes=attributes), count).attributes.tolist()


@pytest.mark.parametrize(
    ("attributes", "rows"),
    [
        (None, [[-1, -1], [-1, -1]]),
        ({"top": 2}, [[-1, 2], [-1, 2]]),
        ({"top": "2", "suit": "clubs"}, [[1, 2], [1, 2]]),
        ({}, [[-1, -1], [-1, -1]]),
        ([{"top": 0}, {"suit": "hearts"}], [[-1, 0], [0, -1]]),
        ([1, -1], [[1, -1], [1, -1]]),
        (np.array([0, 1]), [[0, 1], [0, 1]]),
        ([[0, 1], [1, 2]], [[0, 1], [1, 2]]),
        ([np.array([0, 1]), {"top": 1}], [[0, 1], [-1, 1]]),
    ],
)
def test_attributes_by_name_and_by_number(attributes, rows):
    assert asked(attributes) == rows


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"tob": 1}, "expected one of suit, top, got 'tob'; did you mean top?"),
        ({"suit": "club"}, "suit: expected one of hearts, clubs, got 'club'; did you mean clubs?"),
        ([[0, 1]] * 3, "expected 2, one a picture, got 3"),
        ([0, 1, 2], "2 whole numbers a picture"),
        ([0.5, 1.0], "2 whole numbers a picture"),
        ([[0, 1], [0]], "2 whole numbers a picture"),
        ([0, 3], r"values below \(2, 3\)"),
        ([-2, 0], r"values below \(2, 3\)"),
        ("hearts", "2 whole numbers a picture"),
    ],
)
def test_attributes_that_are_none_are_refused(attributes, words):
    with pytest.raises(UserError, match=words):
        asked(attributes)


def test_names_need_names():
    with pytest.raises(UserError, match="whole numbers, as the model has no names"):
        asked({"suit": "hearts"}, names=())


def test_rows_of_attributes_are_counted():
    counted = [None, {"a": 1}, [1, 2], np.array([1, 2]), [], 3]
    assert [num_attribute_rows(each) for each in counted] == [None] * len(counted)
    assert [num_attribute_rows(each) for each in ([{}] * 3, np.ones((2, 4), int))] == [3, 2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A run of colours as tokens, of class, attributes and captions."""
    tiny = tiny_config()
    training = dataclasses.replace(tiny.gpt_training, num_steps=2, picture_every=0)
    config = tiny_config(
        data=CARDS,
        transform=dataclasses.replace(tiny.transform, image_size=4),
        tokenizer=PaletteConfig(image_size=4, num_colors=8),
        caption_tokenizer=ByteTokenizerConfig(),
        gpt=dataclasses.replace(
            tiny.gpt,
            num_classes=10,
            class_factors=(),
            attribute_sizes=attribute_sizes(attributes_of(CARDS)),
            caption_len=24,
            order="any",
        ),
        gpt_training=training,
        samples=dataclasses.replace(tiny.samples, batch_size=10),
    )
    path = tmp_path_factory.mktemp("run")
    result = run(config, path)
    assert np.isfinite([result["nats_per_token"], result["nats_per_caption_token"]]).all()
    return path


@pytest.fixture(scope="module")
def model(directory):
    return igpt_jax.load(directory)


def test_a_run_knows_the_names_of_its_attributes(model):
    assert model.config.attributes == attributes_of(CARDS)


@pytest.mark.parametrize("labels", [None, [3, 4]])
@pytest.mark.parametrize("attributes", [None, {"suit": "clubs", "top": 7}])
@pytest.mark.parametrize("text", [None, "红桃 7"])
def test_any_of_class_attributes_and_text_may_be_asked_for(labels, attributes, text, model):
    drawn = model.sample(labels, attributes=attributes, text=text, num_images=2, cfg_scale=1.5)
    assert drawn.shape == (2, 4, 4, 3)
    again = dataclasses.replace(model, batch_size=1).sample(
        None if labels is None else labels[:1],
        attributes=None if attributes is None else [attributes],
        text=None if text is None else [text],
        cfg_scale=1.5,
    )
    np.testing.assert_array_equal(again, drawn[:1])


def test_every_condition_counts(model):
    """Each of them, asked alone, changes the likelihood of pictures."""
    images = model.sample(num_images=3, seed=1)
    kinds = {"labels": 3, "text": "a card", "attributes": {"suit": "clubs"}}
    found = [model.log_likelihood(images)]
    found += [model.log_likelihood(images, **{kind: given}) for kind, given in kinds.items()]
    each = [{"suit": "clubs"}, {"colour": "red"}, {}]
    found.append(model.log_likelihood(images, attributes=each))
    assert len({tuple(nats) for nats in found}) == 5
    assert found[4][0] == pytest.approx(found[3][0], rel=1e-5)
    assert found[4][2] == pytest.approx(found[0][2], rel=1e-5)
    source = CardSource(CARDS, "validation")
    numbers = [source[i]["attributes"] for i in range(3)]
    words = [
        {each.name: each.values[n] for each, n in zip(model.config.attributes, row, strict=True)}
        for row in numbers
    ]
    np.testing.assert_array_equal(
        model.log_likelihood(images, attributes=words),
        model.log_likelihood(images, attributes=numbers),
    )


def test_an_export_knows_the_names(directory, model, tmp_path):
    export(directory, tmp_path / "out")
    other = igpt_jax.load(tmp_path / "out")
    assert other.config.attributes == model.config.attributes
    asked = {"labels": 3, "text": "红桃", "attributes": {"suit": "clubs", "top": 7}}
    drawn = model.sample(**asked, num_images=2)
    np.testing.assert_array_equal(other.sample(**asked, num_images=2), drawn)
    card = (tmp_path / "out" / "README.md").read_text()
    names = "top, centre, bottom, suit, colour, table"
    assert f"given a class (10 classes), attributes ({names}) and a caption: 16 tokens" in card
    assert 'labels=[0, 9], attributes={"top": "0"}' in card


def test_rows_of_attributes_say_how_many_pictures(model):
    each = [{"suit": "clubs"}, {"suit": "hearts"}, {}]
    assert len(model.sample(attributes=each)) == 3
    assert len(model.sample(attributes={"suit": "clubs"})) == 1
    with pytest.raises(UserError, match="one number of pictures"):
        model.sample(attributes=each, num_images=2)
    with pytest.raises(UserError, match="did you mean suit"):
        model.sample(attributes={"suits": "clubs"})


def test_the_command_reads_names_and_numbers(directory, tmp_path, capsys):
    out = tmp_path / "out.png"
    pictures = []
    for written, kept in (
        ("suit=clubs, centre=7", {"suit": "clubs", "centre": "7"}),
        ("10,7,10,2,-1,-1", [10, 7, 10, 2, -1, -1]),
    ):
        command = ["sample", str(directory), "--attributes", written, "--out", str(out)]
        assert main(command) == 0
        with Image.open(out) as picture:
            assert json.loads(picture.info["igpt_jax"])["images"][0]["attributes"] == kept
            pictures.append(np.asarray(picture))
    capsys.readouterr()
    for written, words in (
        ("suit=harts", "got 'harts'; did you mean hearts?"),
        ("suit=", "expected each name once"),
        ("suit=clubs,suit=hearts", "expected each name once"),
        ("suit=clubs,7", "expected each name once"),
        ("clubs", "expected each name once"),
    ):
        assert main(["sample", str(directory), "--attributes", written, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
