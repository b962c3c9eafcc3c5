import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from igpt_jax.errors import UserError
from igpt_jax.running import moving_average, set_next
from igpt_jax.training.guard import LossGuard
from igpt_jax.training.loop import Task, TrainConfig, _Log
from igpt_jax.training.metrics import MetricWriter, read_metrics
from igpt_jax.training.optimizer import (
    OptimizerConfig,
    Player,
    decay_mask,
    learning_rate,
    make_optimizer,
)
from igpt_jax.training.state import init_state
from igpt_jax.training.steps import make_train_step


def quadratic(params, batch, key):
    """A loss with a closed gradient."""
    value = jnp.mean((batch["x"] @ params["kernel"] - batch["y"]) ** 2)
    return value, {"doubled": 2 * value}


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}


def start(optimizer):
    return init_state(lambda key: {"kernel": jnp.ones((3, 2))}, optimizer, jax.random.key(0))


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_accumulation_equals_the_whole_batch(problem, parts):
    optimizer = optax.sgd(0.1)
    key = jax.random.key(0)
    whole = make_train_step(quadratic, optimizer, ema_decay=0.9)
    split = make_train_step(quadratic, optimizer, ema_decay=0.9, accumulation_steps=parts)
    (one, metrics), (many, others) = (
        whole(start(optimizer), problem, key),
        split(start(optimizer), problem, key),
    )
    np.testing.assert_allclose(one.params["kernel"], many.params["kernel"], atol=1e-6)
    for name in ("loss", "doubled", "grad_norm"):
        np.testing.assert_allclose(metrics[name], others[name], rtol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count(problem):
    optimizer = optax.adam(0.1)
    step = make_train_step(quadratic, optimizer, ema_decay=0.9)
    before, _ = step(start(optimizer), problem, jax.random.key(0))
    broken = {**problem, "x": problem["x"].at[0, 0].set(jnp.nan)}
    after, metrics = step(before, broken, jax.random.key(0))
    assert metrics["skipped"] == 1
    assert after.step == before.step + 1
    for old, new in zip(
        jax.tree.leaves((before.params, before.ema_params, before.opt_state)),
        jax.tree.leaves((after.params, after.ema_params, after.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)


def test_ema_against_numpy(problem):
    optimizer = optax.sgd(0.05)
    step = make_train_step(quadratic, optimizer, ema_decay=0.5)
    state = start(optimizer)
    expected = np.asarray(state.params["kernel"])
    for i in range(12):
        state, _ = step(state, problem, jax.random.key(0))
        decay = min(0.5, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["kernel"])
    np.testing.assert_allclose(state.ema_params["kernel"], expected, rtol=1e-5)


def test_schedule_against_numpy():
    config = OptimizerConfig(peak_lr=2e-3, warmup_steps=10, end_lr_ratio=0.1)
    schedule = learning_rate(config, 110)
    for step in (0, 3, 9, 10, 35, 60, 109, 110):
        if step < 10:
            expected = 2e-3 * step / 10
        else:
            share = (step - 10) / 100
            expected = 2e-4 + (2e-3 - 2e-4) * 0.5 * (1 + math.cos(math.pi * share))
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


def test_weight_decay_leaves_norms_and_start_vectors():
    params = {
        "token_embedding": jnp.zeros((5, 4)),
        "norm": {"scale": jnp.zeros(4)},
        "prefix": {"embedding_0": jnp.zeros(4)},
        "blocks": {
            "attention_norm": {"scale": jnp.zeros((2, 4))},  # layers first
            "mlp": {"up": {"kernel": jnp.zeros((2, 4, 8))}},
        },
    }
    assert decay_mask(params) == {
        "token_embedding": True,
        "norm": {"scale": False},
        "prefix": {"embedding_0": False},
        "blocks": {"attention_norm": {"scale": False}, "mlp": {"up": {"kernel": True}}},
    }


def test_first_adamw_update_against_its_definition():
    """After one step Adam moves by the sign of the gradient; decay adds lr * decay * weight."""
    config = OptimizerConfig(peak_lr=0.1, warmup_steps=0, weight_decay=0.5, clip_norm=1e9)
    optimizer = make_optimizer(config, 10)
    params = {"kernel": jnp.asarray([[2.0, -4.0]])}
    gradient = {"kernel": jnp.asarray([[0.3, -0.7]])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [[-0.1 - 0.1, 0.1 + 0.2]], rtol=1e-4)


def test_guard_stops_at_the_step_and_says_what_to_do():
    guard = LossGuard()
    guard.check(6, 2.0, 1.0)
    with pytest.raises(UserError, match=r"stopped at step 7: loss nan.*peak_lr"):
        guard.check(7, math.nan, 1.0)
    with pytest.raises(UserError, match="step 8"):
        guard.check(8, 1.0, math.inf)


def test_guard_warns_of_a_spike_and_not_of_noise(caplog):
    guard, rng = LossGuard(), np.random.default_rng(0)
    for step in range(200):
        assert not guard.check(step, 3 + 0.05 * rng.normal(), 1.0)
    assert not caplog.records
    assert guard.check(200, 6.0, 1.0)
    assert "step 200" in caplog.text
    assert "peak_lr" in caplog.text


def test_metrics_after_the_resumed_step_are_forgotten(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sp')  # killed while writing
    with MetricWriter(tmp_path, resume_step=2) as writer:
        writer.write(3, "train", {"loss": 30.0})
    assert [row["loss"] for row in read_metrics(tmp_path, "train")] == [1.0, 2.0, 30.0]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_torn_last_row_of_metrics_is_none(tmp_path):
    """Others than the last are damage."""
    row, path = '{"step": 1, "split": "train"}\n', tmp_path / "metrics.jsonl"
    path.write_text(row + row[:-9])
    assert read_metrics(tmp_path, "train") == [json.loads(row)]
    path.write_text(row[:-9] + "\n" + row)
    with pytest.raises(ValueError, match="Expecting value"):
        read_metrics(tmp_path, "train")


def test_metrics_are_summarized_once_parts_are_averaged(problem):
    def loss(params, batch, key):
        return quadratic(params, batch, key)[0], {
            "seen": (batch["x"][:, 0] > 0).mean(keepdims=True)
        }

    step = make_train_step(
        loss,
        optax.sgd(0.1),
        ema_decay=0.9,
        accumulation_steps=3,
        summarize=lambda metrics: {"positive": metrics["seen"][0]},
    )
    _, metrics = step(start(optax.sgd(0.1)), problem, jax.random.key(0))
    assert metrics["positive"] == pytest.approx(float((problem["x"][:, 0] > 0).mean()))
    assert "seen" not in metrics


def two_players(params, batch, key):
    """Each player has a loss of its own; a statistic follows the data."""
    ours = jnp.sum(params["ours"]["weight"] ** 2)
    theirs = 50 * jnp.sum(params["theirs"]["weight"] ** 2)
    running = params["theirs"]["running_mean"]
    total = ours + theirs + set_next(running, moving_average(running, batch["x"].mean(), 0.9))
    return total + jax.lax.stop_gradient(ours - total), {}


def test_each_player_has_its_own_optimizer_and_statistics_have_none():
    config = OptimizerConfig(peak_lr=0.1, warmup_steps=0, weight_decay=0.5, clip_norm=1e9)
    players = {"theirs": Player(OptimizerConfig(0.01, warmup_steps=0, weight_decay=0.0))}
    optimizer = make_optimizer(config, 100, players)
    params = {
        "ours": {"weight": jnp.ones((2, 2))},
        "theirs": {"weight": jnp.ones((2, 2)), "running_mean": jnp.float32(1.0)},
    }
    batch = {"x": jnp.asarray([3.0, 5.0, 3.0, 5.0])}
    states = []
    for parts in (1, 2):
        step = make_train_step(
            two_players,
            optimizer,
            ema_decay=0.9,
            accumulation_steps=parts,
            averaged=lambda params: params["ours"],
            players=players,
        )
        state = init_state(lambda key: params, optimizer, jax.random.key(0), lambda p: p["ours"])
        states.append(step(state, batch, jax.random.key(0)))
    for state, metrics in states:
        # Adam's first step is the learning rate; ours also decays by rate times decay.
        np.testing.assert_allclose(state.params["ours"]["weight"], 1 - 0.1 - 0.05, rtol=1e-5)
        np.testing.assert_allclose(state.params["theirs"]["weight"], 1 - 0.01, rtol=1e-5)
        np.testing.assert_allclose(state.params["theirs"]["running_mean"], 0.9 + 0.1 * 4.0)
        np.testing.assert_allclose(metrics["grad_norm"], 2 * 2, rtol=1e-6)
        np.testing.assert_allclose(metrics["theirs_grad_norm"], 2 * 100, rtol=1e-6)
        assert jax.tree.structure(state.ema_params) == jax.tree.structure(params["ours"])
        assert metrics["loss"] == 4.0


def test_a_player_that_begins_later_begins_as_if_it_were_the_first_step():
    own = OptimizerConfig(peak_lr=0.01, warmup_steps=2, weight_decay=0.3)
    params = {"theirs": {"weight": jnp.ones((2, 2))}}
    late = make_optimizer(OptimizerConfig(), 13, {"theirs": Player(own, start=3)})
    prompt = make_optimizer(OptimizerConfig(), 10, {"theirs": Player(own)})
    gradients = [jax.tree.map(lambda p, s=s: s * jnp.ones_like(p), params) for s in (1.0, -2.0)]
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = late.init(params)
    for _ in range(3):
        updates, state = late.update(zeros, state, params)
        np.testing.assert_array_equal(updates["theirs"]["weight"], 0)
    other = prompt.init(params)
    for gradient in gradients:
        updates, state = late.update(gradient, state, params)
        expected, other = prompt.update(gradient, other, params)
        np.testing.assert_allclose(updates["theirs"]["weight"], expected["theirs"]["weight"])
    assert np.all(np.asarray(updates["theirs"]["weight"]) != 0)


@pytest.mark.parametrize("broken", ["theirs_grad_norm", "skipped"])
def test_training_stops_where_only_another_player_is_broken(broken, tmp_path):
    row = {"loss": 1.0, "grad_norm": 1.0, "theirs_grad_norm": 2.0, "skipped": 0.0}
    task = Task("test", lambda key: {}, quadratic)
    row[broken] = math.inf if broken == "theirs_grad_norm" else 1.0
    with MetricWriter(tmp_path) as writer:
        log = _Log(writer, TrainConfig(), lambda step: 1e-3, 0, task)
        log.add(1, {name: jnp.float32(name != "skipped") for name in row})
        log.flush()
        log.add(2, {name: jnp.float32(value) for name, value in row.items()})
        with pytest.raises(UserError, match="stopped at step 2"):
            log.flush()
        log._bar.close()
