"""Several processes train what one does; a lost one ends the others; any number may go on."""

import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from several import (
    BROKEN,
    NUM_PICTURES,
    STEPS_AN_EPOCH,
    ends,
    in_slurm,
    pictures,
    start,
    start_each,
    toy,
    train_toy,
)

from igpt_jax.cli import run_command
from igpt_jax.cli import train as train_command
from igpt_jax.data.encode import TokenSource
from igpt_jax.errors import TRY_AGAIN, Stopped
from igpt_jax.processes import join
from igpt_jax.training.checkpoint import latest_step
from igpt_jax.training.metrics import read_metrics


def losses(workdir, split="train"):
    return {row["step"]: row["loss"] for row in read_metrics(workdir, split)}


def check_epochs(workdir, num_steps, missing=()):
    """Each epoch shows each picture once, but for those that cannot be read."""
    rows = read_metrics(workdir, "train")
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    for first in range(0, num_steps, STEPS_AN_EPOCH):
        seen = [one for row in rows[first : first + STEPS_AN_EPOCH] for one in pictures(row)]
        if not missing:
            assert len(seen) == len(set(seen))
        assert set(seen) == set(range(NUM_PICTURES)) - set(missing)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The toy trained by one process that nothing disturbs, and with a picture that is broken."""
    runs = {}
    for broken in (None, BROKEN):
        runs[broken] = tmp_path_factory.mktemp("alone")
        train_toy(runs[broken], 12, 0.0, tensor=1, broken=broken)
    return runs


@pytest.mark.parametrize("broken", [None, BROKEN])
def test_an_epoch_shows_each_picture_once(alone, broken):
    check_epochs(alone[broken], 12, () if broken is None else (broken,))


def test_sigterm_saves_the_next_step_and_the_run_goes_on(alone, tmp_path):
    """The same bits as the run that nobody stopped."""
    before = signal.getsignal(signal.SIGTERM)
    workdir = tmp_path / "run"
    with pytest.raises(Stopped, match="toy step 7: a checkpoint is written"):
        train_until(workdir, workdir / "sum-6.txt")  # written after the sixth step
    assert signal.getsignal(signal.SIGTERM) == before
    assert latest_step(workdir / "checkpoints") == 7
    train_toy(workdir, 12, 0.0, tensor=1, broken=None)
    for split in ("train", "validation"):
        assert losses(workdir, split) == losses(alone[None], split)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--coordinator=a:1"], {}, r"got none of --num-processes .*, --process-id"),
        (["--num-processes=2"], {}, r"got none of --coordinator \(JAX_COORDINATOR_ADDRESS\)"),
        (["--process-id=0"], {"JAX_NUM_PROCESSES": "2"}, "got none of --coordinator"),
        ([], {"JAX_PROCESS_ID": "1"}, "got none of --coordinator"),
        (["--coordinator=a:1", "--num-processes=2", "--process-id=2"], {}, r"expected 0\.\.1 of"),
        (["--coordinator=a", "--num-processes=2", "--process-id=1"], {}, "expected HOST:PORT"),
        (["--coordinator=a:b", "--num-processes=2", "--process-id=1"], {}, "expected HOST:PORT"),
        (["--coordinator=a:1", "--num-processes=two"], {}, "invalid int value: 'two'"),
        (["--coordinator=a:1"], {"JAX_NUM_PROCESSES": "-2"}, "JAX_NUM_PROCESSES: expected a whole"),
    ],
)
def test_contradictions_are_one_line(arguments, environment, words, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_command(train_command, ["configs/debug.py", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(words, said), said


def test_one_process_joins_nobody(monkeypatch):
    """Neither by a count of one, nor in a job of Slurm or Open MPI that has one task."""
    join("localhost:1", 1, 0)
    for name, value in {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    join()


TEXT = """
import sys
from igpt_jax.processes import agreed_text, join, texts_of_all
_, coordinator, _, count, _, index = sys.argv[1:]
join(coordinator, int(count), int(index))
print([agreed_text(f"{one} of {index}") for one in "ab"], file=sys.stderr)
print([texts_of_all(f"{one} of {index}") for one in "ab"], file=sys.stderr)
"""


@pytest.mark.slow
def test_all_have_the_text_of_the_first_and_of_each():
    for code, errors in ends(start(["-c", TEXT], 2), timeout=100):
        assert code == 0, errors
        assert "['a of 0', 'b of 0']" in errors
        assert "[['a of 0', 'a of 1'], ['b of 0', 'b of 1']]" in errors


@pytest.mark.slow
def test_tasks_of_slurm_find_each_other(alone, tmp_path):
    """By the variables of `srun` alone, on this machine."""
    found = ends(start_each(toy(tmp_path), in_slurm(2)), timeout=300)
    assert [code for code, _ in found] == [0, 0], found
    assert "2 processes, 2 devices" in "".join(said for _, said in found)
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(losses(alone[None]).values()), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "settings"),
    [(2, {}), (4, {}), (2, {"broken": BROKEN}), (2, {"tensor": 2})],
    ids=["two", "four", "two, a broken picture", "two that share a product"],
)
def test_several_processes_have_the_losses_of_one(alone, count, settings, tmp_path):
    found = ends(start(toy(tmp_path, **settings), count), timeout=300)
    assert [code for code, _ in found] == [0] * count, found
    one = alone[settings.get("broken")]
    for split in ("train", "validation"):
        ours, theirs = losses(one, split), losses(tmp_path, split)
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(theirs.values()), list(ours.values()), atol=1e-5)
    for row, other in zip(read_metrics(one, "train"), read_metrics(tmp_path, "train"), strict=True):
        assert pictures(row) == pictures(other)
    drawn, drawn_by_one = ((run / "sum-12.txt").read_text().split() for run in (tmp_path, one))
    assert drawn[1] == drawn_by_one[1]
    assert float(drawn[0]) == pytest.approx(float(drawn_by_one[0]), abs=1e-4)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_fewer_go_on(alone, tmp_path):
    """Four, of which one is killed; then two, of which one is killed; then one."""
    rng, num_steps = random.Random(0), 12
    for count in (4, 2):
        processes = start(toy(tmp_path, pause=0.5), count)
        known = len((tmp_path / "metrics.jsonl").read_text()) if count == 2 else 0
        while not has_grown(tmp_path, known) and all(p.poll() is None for p in processes):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.5))
        lost = rng.randrange(count)
        processes[lost].kill()
        killed = time.monotonic()
        found = ends(processes, timeout=60)
        assert time.monotonic() - killed < 60
        for index, (code, said) in enumerate(found):
            assert code == (-signal.SIGKILL if index == lost else TRY_AGAIN), said
            assert index == lost or "another process is lost" in said
    assert [code for code, _ in ends(start(toy(tmp_path), 1), timeout=120)] == [0]
    check_epochs(tmp_path, num_steps)
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(losses(alone[None]).values()), atol=1e-5
    )


@pytest.mark.slow
def test_sigterm_to_one_of_two_saves_one_step_of_both(alone, tmp_path):
    processes = start(toy(tmp_path, num_steps=600, pause=0.2), 2)
    while not has_grown(tmp_path, 0) and all(p.poll() is None for p in processes):
        time.sleep(0.05)
    processes[1].terminate()
    found = ends(processes, timeout=120)
    assert [code for code, _ in found] == [TRY_AGAIN] * 2, found
    saved = latest_step(tmp_path / "checkpoints")
    assert all(f"toy step {saved}: a checkpoint is written" in said for _, said in found)
    assert max(losses(tmp_path)) == saved


@pytest.mark.slow
def test_a_whole_run_of_two_processes_is_that_of_one(tmp_path):
    """Every stage: the same losses, the same tokens, and pictures at the end."""
    command = ["train.py", "configs/debug.py", "--gpt.dtype=float32", "--encoding.batch_size=24"]
    command += ["--workdir"]
    for count in (1, 2):
        found = ends(start([*command, str(tmp_path / str(count))], count), timeout=600)
        assert [code for code, _ in found] == [0] * count, found
    one, two = tmp_path / "1", tmp_path / "2"
    for stage in ("tokenizer", "gpt"):
        for split in ("train", "validation"):
            ours, theirs = losses(one / stage, split), losses(two / stage, split)
            np.testing.assert_allclose(list(theirs.values()), list(ours.values()), atol=1e-5)
    for name in ("samples.png", "result.json", "gpt/samples-000008.png"):
        assert (two / name).is_file()
    taken = tmp_path / "taken"  # the tokens of one tokenizer, which a step of another order changes
    path = f"--tokenizer_path={one}"
    found = ends(start([*command, str(taken), path, "--last_stage=tokens"], 2), timeout=600)
    assert [code for code, _ in found] == [0, 0], found
    for split, length in (("train", 64), ("validation", 16)):
        ours, theirs = (TokenSource(run / "tokens" / split, expected={}) for run in (taken, one))
        assert len(ours) == len(theirs) == length
        for index in range(length):
            for name, value in theirs[index].items():
                np.testing.assert_array_equal(ours[index][name], value)
    names = {path.name for path in (taken / "tokens/train").iterdir()}
    assert {"tokens-00000-00000.npy", "tokens-00001-00000.npy"} <= names


def has_grown(workdir, known):
    path = workdir / "metrics.jsonl"
    return path.is_file() and len(path.read_text()) > known


def train_until(workdir, path):
    """Trains, and asks to stop as a scheduler does once a file is there."""
    write = Path.write_text

    def write_and_ask(self, *given, **named):
        written = write(self, *given, **named)
        if self == path:
            os.kill(os.getpid(), signal.SIGTERM)
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", write_and_ask)
        train_toy(workdir, 12, 0.0, tensor=1, broken=None)
