"""A run that is killed and started again ends with the bits of one that was not."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from igpt_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parent.parent.parent
NUM_STEPS = 12


def start(workdir, num_steps=NUM_STEPS):
    """The tiny run as a user starts it; other tests' options do not reach it."""
    steps = [f"--{stage}.num_steps={num_steps}" for stage in ("tokenizer_training", "gpt_training")]
    return subprocess.Popen(
        [sys.executable, "train.py", "configs/debug.py", "--workdir", str(workdir), *steps],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def finish(workdir):
    process = start(workdir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def final_arrays(workdir, stage):
    """Everything that the last checkpoint holds: parameters, averages, optimizer, step."""
    items = ocp.load_checkpointables(workdir / stage / "checkpoints" / str(NUM_STEPS))
    arrays = {k: items[k] for k in ("params", "ema_params", "optimizer")}
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(left, right):
    for stage in ("tokenizer", "gpt"):
        expected, got = final_arrays(left, stage), final_arrays(right, stage)
        assert expected.keys() == got.keys()
        assert len(expected) > 20
        for name, array in expected.items():
            np.testing.assert_array_equal(array, got[name], err_msg=f"{stage} {name}")
        for split in ("train", "validation"):
            losses = [
                [(row["step"], row["loss"]) for row in read_metrics(run / stage, split)]
                for run in (left, right)
            ]
            assert losses[0] == losses[1]
    assert (left / "samples.png").read_bytes() == (right / "samples.png").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(workdir)
    return workdir


def num_rows(workdir, stage):
    path = workdir / stage / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def is_saving(workdir, stage):
    """A checkpoint of the stage has been begun and is not finished."""
    checkpoints = workdir / stage / "checkpoints"
    return checkpoints.is_dir() and any("tmp" in path.name for path in checkpoints.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_sigkill_at_any_moment(undisturbed, tmp_path):
    """Six moments by the clock, six while a checkpoint is being written."""
    rng, workdir, kills = random.Random(0), tmp_path / "run", []
    while len(kills) < 12:
        stage = "tokenizer" if len(kills) < 6 else "gpt"
        at_save, delay = len(kills) % 2 == 1, rng.uniform(0, 1.5)
        process, known, due = start(workdir), num_rows(workdir, stage), None
        while process.poll() is None:
            if due is None and num_rows(workdir, stage) > known:
                due = time.monotonic() + delay  # the stage has begun to train
            if is_saving(workdir, stage) if at_save else due and time.monotonic() > due:
                process.send_signal(signal.SIGKILL)
                kills.append((stage, "save" if at_save else "clock", num_rows(workdir, stage)))
                break
            time.sleep(0.001)
        process.communicate()
        if process.returncode == 0:  # it was faster: lose the stage and go on killing
            shutil.rmtree(workdir / stage)
    print(kills)
    finish(workdir)
    assert_same_run(undisturbed, workdir)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_sigterm_like_a_scheduler_and_a_later_start(undisturbed, tmp_path):
    process = start(tmp_path)
    time.sleep(5)
    process.terminate()
    process.communicate()
    finish(tmp_path)
    assert_same_run(undisturbed, tmp_path)
