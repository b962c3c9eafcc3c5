"""Batches of trained models in segments, against the model's own sampling."""

import dataclasses
import itertools

import numpy as np
import pytest

import igpt_jax
from igpt_jax.errors import UserError
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.models import ServedPainter, served_model
from igpt_jax.serving.painter import UNKNOWN, ModelPainter

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]


@pytest.fixture(scope="module")
def cards(tiny_run):
    return igpt_jax.load(tiny_run)


@pytest.fixture(scope="module")
def asked(asked_run):
    return igpt_jax.load(asked_run)


@pytest.fixture(scope="module")
def painter(cards):
    return ModelPainter(cards, (4,), 4)


@pytest.fixture(scope="module")
def text_painter(asked):
    return ModelPainter(asked, (4,), 3)


def draw(painter, asks, index=1):
    for ask in asks:
        painter.check(ask)
    places, hand = range(len(asks)), None
    size = next(size for size in painter.sizes if size >= len(asks))
    hand = painter.enter(hand, size, [(painter.read(ask), index) for ask in asks], places)
    while any(hand.positions[place] < painter.num_tokens for place in places):
        hand = painter.advance(hand)
    return painter.finish(hand, places)


def sampled(model, ask, index=1, **more):
    rows = [ask.label] * (index + 1) if ask.label is not None else None
    return model.sample(
        rows,
        text=ask.prompt,
        negative_text=ask.negative_prompt,
        negative_labels=ask.negative_label,
        num_images=index + 1,
        seed=ask.seed,
        temperature=ask.temperature,
        cfg_scale=ask.cfg_scale,
        top_k=ask.top_k,
        top_p=ask.top_p,
        images=None if ask.image is None else ask.image[None],
        mask=ask.mask,
        keep=ask.keep,
        vary=ask.vary,
    )[index]


def assert_same(image, expected):
    """Equal but for the last rounding to bytes, since batches of other shapes are decoded."""
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_mixed_settings_in_one_batch_draw_what_each_draws_alone(cards, painter):
    asks = [
        Ask(label=7, seed=3),
        Ask(label=42, seed=2**31 + 5, cfg_scale=2.0, top_k=5, negative_label=8),
        Ask(seed=1, temperature=0.5, top_p=0.7),
    ]
    drawn = draw(painter, asks)
    assert drawn.shape == (3, 32, 32, 3)
    for image, ask in zip(drawn, asks, strict=False):
        assert_same(image, sampled(cards, ask))


def test_parts_of_pictures_beside_whole_ones(cards, painter):
    card = cards.sample([5], seed=1)[0]
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:32] = True
    asks = [
        Ask(label=7, seed=3, image=card, mask=mask),
        Ask(label=7, seed=3, image=card, keep=0.5),
        Ask(label=7, seed=3, image=card, vary=0.3),
        Ask(label=7, seed=3),
    ]
    drawn = draw(painter, asks, index=0)
    for image, ask in zip(drawn, asks, strict=True):
        assert_same(image, sampled(cards, ask, 0))
    for i, j in itertools.combinations(range(4), 2):  # what is not asked alike is told apart
        assert np.abs(drawn[i].astype(int) - drawn[j]).max() > 10


def test_texts_and_parts_of_a_model_of_any_order(asked, text_painter):
    card, mask = asked.sample(seed=1)[0], np.zeros((32, 32), bool)
    mask[:16] = True
    asks = [
        Ask(prompt="扑克牌：红桃", seed=4),
        Ask(prompt="a red card of hearts", seed=5, cfg_scale=1.5, negative_prompt="a blue card"),
        Ask(seed=6, image=card, mask=mask),
        Ask(prompt="a card", seed=7, cfg_scale=3.0, image=card, keep=0.25),
    ]
    drawn = draw(text_painter, asks, index=0)
    for image, ask in zip(drawn, asks, strict=True):
        assert_same(image, sampled(asked, ask, 0))


def test_pictures_grow(cards, painter):
    assert (painter.num_tokens, painter.segment) == (16, 4)
    hand = painter.enter(None, 4, [(painter.read(Ask(label=1, seed=2)), 0)], [2])
    shares = []
    for end in (5, 9, 13):  # the first token comes with the condition
        hand = painter.advance(hand)
        assert hand.positions == (0, 0, end, 0)
        grey = (painter.preview(hand, [2])[0] == UNKNOWN).all(axis=-1)
        cells = grey.reshape(4, 8, 4, 8).all(axis=(1, 3))
        np.testing.assert_array_equal(~cells.reshape(-1), np.arange(16) < end)
        shares.append(grey.mean())
    assert shares == sorted(shares, reverse=True)


def test_a_part_of_any_order_grows_from_what_is_known(asked, text_painter):
    card, mask = asked.sample(seed=1)[0], np.zeros((32, 32), bool)
    mask[:8] = True
    read = text_painter.read(Ask(seed=6, image=card, mask=mask))
    hand, cells = text_painter.enter(None, 4, [(read, 0)], [0]), []
    for _ in range(2):
        hand = text_painter.advance(hand)
        grey = (text_painter.preview(hand, [0])[0] == UNKNOWN).all(axis=-1)
        cells.append(~grey.reshape(4, 8, 4, 8).all(axis=(1, 3)))
    assert (cells[0].sum(), cells[1].sum()) == (7, 13)
    assert not cells[0][0].any()  # what is known comes first, wherever it lies
    assert cells[1][1:].all()


def test_rows_that_come_and_go_draw_what_each_draws_alone(cards):
    """A table grows, shrinks, gets filters late and guided rows among others."""
    painter = ModelPainter(cards, (1, 2, 4), 4)
    asks = {
        "first": Ask(label=7, seed=3, cfg_scale=1.5),
        "second": Ask(label=42, seed=9),
        "third": Ask(label=1, seed=4, temperature=0.7, top_k=5, cfg_scale=2.0),
        "fourth": Ask(seed=8),
    }

    def enter(hand, size, name, place):
        return painter.enter(hand, size, [(painter.read(asks[name]), 0)], [place])

    hand, drawn = painter.advance(enter(None, 1, "first", 0)), {}
    assert painter.fits(hand, asks["second"])
    hand = enter(painter.resize(hand, [0], 2), 2, "second", 1)
    hand = painter.advance(hand)
    hand = enter(painter.resize(hand, [1, 0], 4), 4, "third", 3)
    for _ in range(2):
        hand = painter.advance(hand)
    drawn["first"] = painter.finish(hand, [1])[0]
    hand = enter(painter.leave(hand, [1]), 4, "fourth", 1)
    assert hand.positions == (13, 1, 0, 9)
    for _ in range(2):
        hand = painter.advance(hand)
    drawn["second"], drawn["third"] = painter.finish(hand, [0, 3])
    hand = painter.resize(painter.leave(hand, [0, 3]), [1], 1)
    for _ in range(2):
        hand = painter.advance(hand)
    drawn["fourth"] = painter.finish(hand, [0])[0]
    for name, ask in asks.items():
        assert_same(drawn[name], sampled(cards, ask, 0))
    plain = enter(None, 1, "second", 0)
    assert painter.fits(plain, asks["fourth"])
    assert not painter.fits(plain, asks["third"])


def test_guided_rows_behind_others_that_enter_in_parts(cards):
    painter = ModelPainter(cards, (1, 16), 4)
    asks = [Ask(label=42, seed=9), Ask(label=7, seed=3, cfg_scale=2.0)]
    for image, ask in zip(draw(painter, asks, index=0), asks, strict=True):
        assert_same(image, sampled(cards, ask, 0))


def test_classify_is_the_likelihood_of_each_class(cards, painter):
    card, found = cards.sample([5], seed=1), []

    def classify():
        found.append((yield from painter.classify(card[0])))

    assert len(list(classify())) == 26  # parts of four of the 101 classes
    some = np.array([0, 5, 99, 100])
    expected = cards.log_likelihood(np.repeat(card, 4, axis=0), some)
    np.testing.assert_allclose(found[0][some], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (Ask(label=101), "labels: expected classes 0 to 100"),
        (Ask(prompt="a card"), "text: expected none"),
        (Ask(top_p=2.0), "top_p: expected a share"),
        (Ask(negative_label=3), "negative condition: expected guidance"),
        (Ask(negative_label=300, cfg_scale=2.0), "labels: expected classes 0 to 100"),
        (Ask(attributes={"suit": "hearts"}), "attributes: expected none"),
        (Ask(keep=0.5), "keep: expected images"),
    ],
)
def test_what_the_model_cannot_take_is_refused_before_it_waits(painter, ask, problem):
    with pytest.raises(UserError, match=problem):
        painter.check(ask)


def test_long_texts_are_refused_before_they_wait(text_painter):
    with pytest.raises(UserError, match="text: expected at most 48 tokens"):
        text_painter.check(Ask(prompt="x1" * 200))


def test_what_can_be_asked_of_a_model(cards, asked):
    told = served_model("cards", cards, (2,)).info
    assert (told.image_size, told.num_tokens, told.num_classes) == (32, 16, 101)
    assert (told.takes_text, told.is_guidable, told.completes) == (False, True, True)
    assert told.defaults == {"temperature": 1.0, "cfg_scale": 1.0, "top_k": 0, "top_p": 1.0}
    served = served_model("asked", asked, (2,))
    assert (served.info.takes_text, served.info.num_classes) == (True, 0)
    assert isinstance(served.painter, ServedPainter)


def test_models_that_are_not_served(cards, video_run):
    with pytest.raises(UserError, match="got a tokenizer alone"):
        ModelPainter(dataclasses.replace(cards, gpt=None))
    with pytest.raises(UserError, match="got one of videos"):
        ModelPainter(igpt_jax.load(video_run))
    with pytest.raises(UserError, match="batches of at least 1"):
        ModelPainter(cards, (0, 4))


@pytest.mark.slow
def test_warming_makes_every_program(cards):
    painter = ModelPainter(cards, (1, 3), 2)
    assert painter.warm() == 2 * 4
    from igpt_jax.serving.table import _advance, _begin, _put, _take, cells

    programs = (_begin, _advance, _put, _take, cells)
    before = [program._cache_size() for program in programs]
    draw(painter, [Ask(label=1, cfg_scale=2.0, top_k=3), Ask(label=2)])
    draw(painter, [Ask(label=1)])
    draw(painter, [Ask(label=1, temperature=0.0, top_p=0.9)] * 3)
    for cfg_scale in (1.0, 2.0):
        asks = [Ask(label=1, cfg_scale=cfg_scale), Ask(label=2)]
        hand = painter.advance(painter.enter(None, 1, [(painter.read(asks[0]), 0)], [0]))
        hand = painter.enter(painter.resize(hand, [0], 3), 3, [(painter.read(asks[1]), 0)], [1])
        hand = painter.advance(hand)
        painter.finish(hand, [0])
        painter.advance(painter.resize(painter.leave(hand, [0]), [1], 1))
    assert [program._cache_size() for program in programs] == before
