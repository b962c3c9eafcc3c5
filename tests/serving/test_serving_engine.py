"""The engine, of a painter without a model: turns, batches, deadlines, ends."""

import threading
import time

import numpy as np
import pytest
from fake_painter import FakePainter, colour
from serving_help import until

from igpt_jax.errors import UserError
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.engine import DEADLINE, Engine, Order, Overloaded


class Heard:
    def __init__(self):
        self.images, self.failures, self.steps, self.previews = {}, {}, [], []
        self.watched, self.batches = set(), 0

    def took(self):
        self.batches += 1

    def wants_previews(self, job):
        return job in self.watched

    def drew(self, job, tokens, total, previews):
        self.steps.append((job, tokens, total))
        self.previews += [(job, index, image) for index, image in previews.items()]

    def done(self, job, images):
        self.images[job] = images

    def failed(self, job, reason, *, is_late):
        self.failures[job] = reason, is_late


@pytest.fixture
def painter():
    return FakePainter()


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def engine(painter, heard):
    engine = Engine({"m": painter}, heard, max_rows=64)
    yield engine
    painter.gate.set()
    engine.stop(5)


def order(job, client="a", count=1, seed=0, label=0, **more):
    ask = Ask(label=label, seed=seed)
    return Order(job, client, more.pop("painter", "m"), ask, count, **more)


def late(seconds):
    return time.monotonic() + seconds


def test_each_job_gets_its_own_pictures_in_order(engine, heard):
    asked = {f"job{i}": order(f"job{i}", f"client{i % 3}", 1 + i, seed=i) for i in range(7)}
    for one in asked.values():
        engine.submit(one)
    engine.start()
    until(lambda: len(heard.images) == 7)
    for job, one in asked.items():
        expected = np.stack([colour(one.ask, i) for i in range(one.count)])
        np.testing.assert_array_equal(heard.images[job][:, 0, 0], expected)
        np.testing.assert_array_equal(heard.images[job][:, -1, -1], expected)
    assert engine.jobs == []
    assert engine.waiting_rows == 0


def test_mixed_settings_share_batches_and_clients_take_turns(engine, painter, heard):
    engine.submit(order("many", "greedy", 9, seed=1, label=0))
    engine.submit(order("few", "modest", 2, seed=2, label=1))
    engine.submit(order("one", "shy", 1, seed=3, label=2))
    engine.start()
    until(lambda: len(heard.images) == 3)
    first = {seed for _, seed, _ in painter.batches[0]}
    assert first == {1, 2, 3}
    assert [len(batch) for batch in painter.batches] == [4, 4, 4]
    drawn = [seed for batch in painter.batches for _, seed, _ in batch]
    assert drawn[:6] == [1, 2, 3, 1, 2, 1]
    assert list(heard.images) == ["one", "few", "many"]
    assert (engine.rows_drawn, engine.rows_advanced, engine.places_advanced) == (12, 48, 48)


def test_a_newcomer_does_not_wait_for_all_of_another(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("many", "greedy", 40))
    engine.start()
    assert painter.began.acquire(timeout=5)
    engine.submit(order("new", "modest", 1))
    painter.gate.set()
    until(lambda: "new" in heard.images)
    until(lambda: "many" in heard.images)
    assert any(seed == 0 for _, seed, _ in painter.batches[1])
    assert len(painter.batches) == 11
    assert len(painter.batches[1]) == 4  # the new one and three of the many


def test_a_small_batch_takes_a_small_shape(engine, painter, heard):
    engine.submit(order("a"))
    engine.start()
    until(lambda: heard.images)
    assert (engine.rows_drawn, engine.rows_advanced, engine.places_advanced) == (1, 4, 4)
    engine.submit(order("b", count=2))
    until(lambda: "b" in heard.images)
    assert (engine.rows_drawn, engine.rows_advanced, engine.places_advanced) == (3, 12, 20)


def test_models_take_turns(painter, heard):
    other = FakePainter()
    engine = Engine({"m": painter, "other": other}, heard)
    for i in range(6):
        engine.submit(order(f"m{i}", "a"))
        engine.submit(order(f"o{i}", "b", painter="other"))
    engine.start()
    until(lambda: len(heard.images) == 12)
    engine.stop(5)
    assert [len(batch) for batch in painter.batches] == [4, 2]
    assert [len(batch) for batch in other.batches] == [4, 2]


def test_a_newcomer_enters_between_two_segments(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("first", count=2, seed=1))
    engine.start()
    assert painter.began.acquire(timeout=5)
    engine.submit(order("second", "b", seed=2))
    painter.gate.set()
    until(lambda: len(heard.images) == 2)
    assert list(heard.images) == ["first", "second"]
    assert painter.segments == 5  # the newcomer missed one of four
    assert heard.images["second"][0, 0, 0].tolist() == [0, 2, 0]
    # 2 of 4 places, then three times 3, then the newcomer alone at a table of one
    assert (engine.rows_advanced, engine.places_advanced) == (2 + 9 + 1, 4 + 12 + 1)


def test_a_place_that_nobody_waits_for_is_taken_by_the_next(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("kept", count=3, seed=1))
    engine.submit(order("gone", "b", seed=2))
    engine.start()
    assert painter.began.acquire(timeout=5)
    engine.submit(order("next", "c", seed=3))
    engine.cancel("gone")
    painter.gate.set()
    until(lambda: len(heard.images) == 2)
    assert [[seed for _, seed, _ in rows] for rows in painter.batches] == [[1, 2, 1, 1], [3]]
    assert painter.segments == 5
    np.testing.assert_array_equal(heard.images["kept"][:, 0, 0, 2], [0, 1, 2])


def guided(job, client, seed):
    return Order(job, client, "m", Ask(label=0, seed=seed, cfg_scale=2.0))


def test_guided_rows_wait_for_a_table_of_theirs_but_not_for_ever(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("plain", count=2))
    engine.start()
    assert painter.began.acquire(timeout=5)
    engine.submit(guided("guided", "b", 7))
    for i in range(20):
        engine.submit(order(f"more{i}", "a", seed=1))
    painter.gate.set()
    until(lambda: len(heard.images) == 22)
    entered = [seed for rows in painter.batches for _, seed, _ in rows]
    assert entered.index(7) == 2  # before all who came later and would have fitted


def test_a_model_in_demand_leaves_others_their_turn(painter, heard):
    other = FakePainter()
    engine = Engine({"m": painter, "other": other}, heard, max_rows=500)
    painter.gate.clear()
    engine.submit(order("m0", "a"))
    engine.start()
    assert painter.began.acquire(timeout=5)
    engine.submit(order("o", "b", painter="other"))
    for i in range(40):
        engine.submit(order(f"m{i + 1}", f"c{i}"))
    painter.gate.set()
    until(lambda: len(heard.images) == 42)
    engine.stop(5)
    assert list(heard.images).index("o") < 9


def test_progress_and_previews_of_those_who_are_watched(engine, heard):
    heard.watched = {"seen"}
    engine.submit(order("seen", count=2, seed=100))
    engine.submit(order("unseen", "b"))
    engine.start()
    until(lambda: len(heard.images) == 2)
    assert [step for step in heard.steps if step[0] == "seen"] == [
        ("seen", 8, 32), ("seen", 16, 32), ("seen", 24, 32)
    ]  # fmt: skip
    assert {(job, index) for job, index, _ in heard.previews} == {("seen", 0), ("seen", 1)}
    assert heard.previews[0][2][0, 0].tolist() == [0, 50, 0]


def test_cancelled_jobs_end_at_the_next_segment(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("gone", count=3))
    engine.start()
    assert painter.began.acquire(timeout=5)
    assert engine.cancel("gone")
    assert not engine.cancel("gone")
    engine.submit(order("next", "b"))
    painter.gate.set()
    until(lambda: "next" in heard.images)
    assert "gone" not in heard.images
    assert heard.failures == {}
    assert painter.segments == 1 + 4


def test_a_batch_goes_on_for_those_who_still_wait(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("gone", "a"))
    engine.submit(order("kept", "b", seed=9))
    engine.start()
    assert painter.began.acquire(timeout=5)
    engine.cancel("gone")
    painter.gate.set()
    until(lambda: "kept" in heard.images)
    assert heard.images["kept"][0, 0, 0].tolist() == [0, 9, 0]
    assert "gone" not in heard.images


def test_deadlines_of_waiting_and_of_drawn_jobs(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("drawn", count=4, deadline=late(0.2)))
    engine.submit(order("waits", deadline=late(0.1)))
    engine.submit(order("patient", deadline=late(60)))
    engine.start()
    assert painter.began.acquire(timeout=5)
    time.sleep(0.3)
    painter.gate.set()
    until(lambda: "patient" in heard.images)
    assert heard.failures == {"drawn": (DEADLINE, True), "waits": (DEADLINE, True)}


def test_a_deadline_passes_while_nothing_else_happens(engine, painter, heard):
    engine.start()
    time.sleep(0.05)
    engine.submit(order("late", deadline=late(-1)))
    until(lambda: heard.failures)
    assert painter.batches == []


def test_more_than_fits_is_refused(painter, heard):
    engine = Engine({"m": painter}, heard, max_rows=5)
    engine.submit(order("a", count=4))
    with pytest.raises(Overloaded):
        engine.submit(order("b", count=2))
    engine.submit(order("c", count=1))
    assert engine.waiting_rows == 5
    with pytest.raises(UserError, match="expected one of m, got 'x'"):
        engine.submit(order("d", painter="x"))


def test_what_cannot_be_read_fails_alone(engine, heard):
    engine.submit(order("bad", seed=666, label=2))
    engine.submit(order("good", "b"))
    engine.start()
    until(lambda: "good" in heard.images and heard.failures)
    assert heard.failures == {"bad": ("text: expected another, got this", False)}


def test_the_engine_outlives_what_a_model_raises(engine, painter, heard):
    painter.fails = RuntimeError("out of memory at 0x1234")
    engine.submit(order("first"))
    engine.start()
    until(lambda: heard.failures)
    assert heard.failures == {"first": ("drawing failed (RuntimeError)", False)}
    painter.fails = None
    engine.submit(order("second"))
    until(lambda: "second" in heard.images)


def test_others_are_answered_between_segments(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("job"))
    engine.start()
    assert painter.began.acquire(timeout=5)
    steps = []

    def count():
        for i in range(3):
            steps.append((i, painter.segments, threading.current_thread().name))
            yield
        return "counted"

    future = engine.call(count())
    painter.gate.set()
    assert future.result(5) == "counted"
    assert [i for i, _, _ in steps] == [0, 1, 2]
    assert {name for _, _, name in steps} == {"engine"}
    assert steps[0][1] <= 1 < painter.segments


def test_errors_of_others_are_theirs(engine):
    def fail():
        yield
        raise UserError("no")

    engine.start()
    with pytest.raises(UserError, match="no"):
        engine.call(fail()).result(5)


def test_stop_finishes_the_batch_in_hand_and_returns_the_rest(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("drawn", count=4))
    engine.submit(order("waits", count=4))
    engine.start()
    assert painter.began.acquire(timeout=5)
    threading.Timer(0.1, painter.gate.set).start()
    assert engine.stop(10) == ["waits"]
    assert list(heard.images) == ["drawn"]
    with pytest.raises(Overloaded):
        engine.submit(order("new"))
    with pytest.raises(Overloaded):
        engine.call(step for step in ())
    assert not engine.is_alive


def test_stop_without_time_abandons_the_batch(engine, painter, heard):
    painter.gate.clear()
    engine.submit(order("drawn", count=4))
    engine.start()
    assert painter.began.acquire(timeout=5)
    threading.Timer(0.2, painter.gate.set).start()
    assert engine.stop(0.0) == ["drawn"]
    assert heard.images == {}
    assert painter.segments == 1
