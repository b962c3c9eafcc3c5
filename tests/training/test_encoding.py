"""Several processes encode what one does; where one is lost, nothing looks finished."""

import json
import signal
import time

import numpy as np
import pytest
from several import ends, start

from igpt_jax.data.encode import TokenSource
from igpt_jax.errors import TRY_AGAIN

pytestmark = pytest.mark.slow


def rows(directory):
    """Tokens [n l] and labels [n] of a folder, by the reader."""
    source = TokenSource(directory, expected={})
    examples = [source[index] for index in range(len(source))]
    return tuple(np.stack([one[name] for one in examples]) for name in ("tokens", "label"))


def check_tokens(workdir, by_one):
    """They are those that one process wrote, in its order, with the same pictures to check."""
    for split in ("train", "validation"):
        ours, theirs = (run / "tokens" / split for run in (workdir, by_one))
        for one, other in zip(rows(ours), rows(theirs), strict=True):
            np.testing.assert_array_equal(one, other)
        for name in ("check.npz", "check.png"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def command(script, workdir, tokenizer):
    return [
        script, "configs/debug.py", f"--workdir={workdir}", f"--tokenizer_path={tokenizer}",
        "--last_stage=tokens", "--encoding.batch_size=4", "--encoding.shard_size=6",
        "--gpt_training.global_batch_size=6",  # three processes, too, can train on it
    ]  # fmt: skip


@pytest.fixture(scope="module")
def by_one(tiny_run, tmp_path_factory):
    """Tokens in batches of four, by one process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    found = ends(start(command("train.py", workdir, tiny_run), 1), timeout=300)
    assert found[0][0] == 0, found
    return workdir


def test_a_killed_process_leaves_nothing_that_looks_finished(by_one, tiny_run, tmp_path):
    """The second of two, then the first of three; then one process begins anew."""
    workdir = tmp_path / "run"
    script, unfinished = "tests/training/slowly.py", workdir / "tokens/train.tmp"
    for count, lost in ((2, 1), (3, 0)):
        processes = start(command(script, workdir, tiny_run), count)
        last = f"tokens-{count - 1:05d}-00000.npy"  # left by the last one, and of this count alone
        while not (unfinished / last).is_file() and all(p.poll() is None for p in processes):
            time.sleep(0.05)
        processes[lost].kill()
        for index, (code, said) in enumerate(ends(processes, timeout=90)):
            assert code == (-signal.SIGKILL if index == lost else TRY_AGAIN), said
        assert not (workdir / "tokens/train").exists()
        assert (unfinished / last).is_file()
    found = ends(start(command("train.py", workdir, tiny_run), 1), timeout=300)
    assert found[0][0] == 0, found
    for split in ("train", "validation"):
        names = [{p.name for p in (run / "tokens" / split).iterdir()} for run in (workdir, by_one)]
        assert names[0] == names[1]
    assert not unfinished.exists()
    check_tokens(workdir, by_one)


def test_three_processes_write_what_one_does(by_one, tiny_run, tmp_path):
    """Of 16 batches and of 4, each in a part of its own files."""
    processes = start(command("train.py", tmp_path / "run", tiny_run), 3)
    found = ends(processes, timeout=300)
    assert [code for code, _ in found] == [0, 0, 0], found
    check_tokens(tmp_path / "run", by_one)
    header = json.loads((tmp_path / "run/tokens/train/header.json").read_text())
    assert {shard["name"][:5] for shard in header["shards"]} == {"00000", "00001", "00002"}
    assert header["num_skipped"] == 0
