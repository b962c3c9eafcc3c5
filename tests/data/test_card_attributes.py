"""What the attributes of a card say is what its caption says, and names and numbers agree."""

import json
from dataclasses import replace

import numpy as np
import pytest

from igpt_jax.config import RunConfig
from igpt_jax.data.attributes import (
    AttributeConfig,
    attribute_sizes,
    attribute_values,
    attributes_of,
)
from igpt_jax.data.cards import CardsConfig, CardSource, card_attributes
from igpt_jax.data.encode import EncodingConfig
from igpt_jax.data.items import to_views
from igpt_jax.data.pipeline import make_dataset
from igpt_jax.data.sources import ArrayConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.testing import tiny_config

CARDS = CardsConfig(
    num_cards=60, num_validation=8, image_size=32, max_numbers=3, captions="en", attributes=True
)


def named(source, index):
    """The attributes of an example in words."""
    values = source[index]["attributes"]
    each = zip(attributes_of(source.config), values, strict=True)
    return {attribute.name: attribute.values[value] for attribute, value in each}


def test_attributes_say_what_the_captions_say():
    source, places = CardSource(CARDS), {"top": "at the top", "centre": "in the centre",
                                         "bottom": "at the bottom"}  # fmt: skip
    for index in range(len(source)):
        words = named(source, index)
        numbers = [f"{words[at]} {said}" for at, said in places.items() if words[at] != "none"]
        items = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
        expected = (
            f"a card of {words['suit']} that shows {items}, printed in {words['colour']}",
            f"a {words['colour']} {words['suit']} card on a {words['table']} table, with the "
            f"number{'s' if len(numbers) > 1 else ''} {items}",
        )
        assert set(expected) <= set(source.captions(index))
        assert source[index]["attributes"].dtype == np.int32
    assert {named(source, index)["top"] == "none" for index in range(len(source))} == {True, False}


def test_sizes_are_told_without_the_data():
    assert attribute_sizes(attributes_of(CARDS)) == (102, 102, 102, 4, 4, 4)
    assert attribute_sizes(attributes_of(replace(CARDS, max_number=9))) == (11, 11, 11, 4, 4, 4)
    assert attributes_of(replace(CARDS, attributes=False)) == ()
    assert attributes_of(ArrayConfig("/nowhere/data.npz")) == ()
    assert "attributes" not in CardSource(replace(CARDS, attributes=False))[0]


def test_pictures_and_captions_stay_those_without_attributes():
    ours, theirs = (CardSource(replace(CARDS, attributes=flag)) for flag in (True, False))
    for index in (0, 7, 59):
        assert ours[index]["caption"] == theirs[index]["caption"]
        np.testing.assert_array_equal(ours[index]["image"], theirs[index]["image"])


def test_names_come_back_from_numbers():
    source, attributes = CardSource(CARDS), attributes_of(CARDS)
    for index in range(len(source)):
        values = source[index]["attributes"]
        np.testing.assert_array_equal(attribute_values(attributes, named(source, index)), values)
        np.testing.assert_array_equal(card_attributes(CARDS, source.card(index)), values)
    asked = attribute_values(attributes, {"suit": "clubs", "centre": 42, "top": "none"})
    assert asked == [101, 42, -1, 2, -1, -1]
    assert attribute_values(attributes, {}) == [-1] * 6


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"siut": "hearts"}, "colour, table, got 'siut'; did you mean suit?"),
        ({"suit": "heart"}, "suit: expected one of hearts, diamonds, clubs, spades, got 'heart'; "
         "did you mean hearts?"),
        ({"suit": "+"}, "spades, got '\\+'$"),
        ({"top": 101}, "top: expected one of 0, 1, ..., 100, none, got 101; did you mean"),
        ({"top": -1}, "got -1"),
    ],
)  # fmt: skip
def test_names_that_are_none_are_refused_with_the_nearest(asked, words):
    with pytest.raises(UserError, match=words):
        attribute_values(attributes_of(CARDS), asked)


def test_values_must_differ():
    for values in ((), ("a", "a")):
        with pytest.raises(UserError, match="attribute x: expected different values"):
            AttributeConfig("x", values)


def test_the_pipeline_of_a_run_carries_them():
    source = CardSource(CARDS, "validation")
    transform = TransformConfig(image_size=32, crop="resize")
    batches = make_dataset(
        source,
        transform=to_views(EncodingConfig(), transform, None),
        global_batch_size=8,
        seed=0,
        shuffle=False,
        num_epochs=1,
        num_threads=0,
    )
    [batch] = list(batches)
    expected = np.stack([source[i]["attributes"] for i in range(8)])
    np.testing.assert_array_equal(batch["attributes"], expected)
    assert batch["attributes"].dtype == np.int32


def test_a_run_asks_for_the_attributes_of_its_data():
    sizes = attribute_sizes(attributes_of(CARDS))
    gpt = tiny_config().gpt
    config = tiny_config(data=CARDS, gpt=replace(gpt, attribute_sizes=sizes))
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
    tiny_config(data=CARDS)
    with pytest.raises(UserError, match=r"gpt.attribute_sizes: expected the data's \(102, .*3, 3"):
        tiny_config(data=CARDS, gpt=replace(gpt, attribute_sizes=(3, 3)))
    with pytest.raises(UserError, match=r"without attributes, as the data has, got \(102,"):
        tiny_config(gpt=replace(gpt, attribute_sizes=sizes))
