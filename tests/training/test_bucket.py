"""A run at `gs://`: checkpoints are written there by Orbax, all else is sent there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bucket import stand_in
from several import ends, start, train_toy

import igpt_jax
from igpt_jax.elsewhere import find_checkpoints, place_for_orbax
from igpt_jax.errors import UserError
from igpt_jax.logged import measured_at
from igpt_jax.mirror import find_directory, working_directory
from igpt_jax.processes import wait_for_all
from igpt_jax.snapshots import MANIFEST
from igpt_jax.stores import Store
from igpt_jax.training.checkpoint import latest_step, load_metadata
from igpt_jax.training.metrics import read_metrics

MARK = "commit_success.txt"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that stands for one."""
    stand_in(monkeypatch)
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "bucket"


def train(bucket):
    """The toy to its last step, as one process; the directory that it worked in."""
    with working_directory(f"file://{bucket}") as directory:
        train_toy(directory, 12, 0.0, tensor=1, broken=None)
    return directory


def sent(bucket):
    """Names of the files in the manifest."""
    return set(json.loads((bucket / MANIFEST).read_text())["files"])


def names(directory):
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def refuse(words):
    raise UserError(words)


def losses(directory):
    return [row["loss"] for row in read_metrics(directory, "train")]


def test_orbax_writes_cloud_storage_alone():
    assert place_for_orbax("gs://bucket/run") == "gs://bucket/run"
    assert place_for_orbax("s3://bucket/run") is None


def test_checkpoints_are_where_the_file_of_their_run_says(tmp_path):
    stage = tmp_path / "gpt/checkpoints"
    assert find_checkpoints(stage) == (str(stage), False)
    (tmp_path / "igpt_checkpoints.json").write_text('{"place": "gs://bucket/run"}')
    assert find_checkpoints(stage) == ("gs://bucket/run/gpt/checkpoints", True)


def test_checkpoints_are_not_sent_but_written_there(bucket):
    here = train(bucket)
    assert not (here / "checkpoints").exists()
    assert {"checkpoints/12/ema_params", f"checkpoints/12/{MARK}"} <= names(bucket)
    assert "metrics.jsonl" in sent(bucket)
    assert not any("checkpoints" in name for name in sent(bucket))
    assert latest_step(here / "checkpoints") == 12
    assert load_metadata(here / "checkpoints")["config"] == "toy"
    model = names(find_directory(f"file://{bucket}"))
    assert {"metrics.jsonl", "checkpoints/12/ema_params"} <= model
    assert not model & {"checkpoints/10", "checkpoints/12/params", "checkpoints/12/optimizer"}


def test_what_was_measured_at_the_last_checkpoint_is_there_with_it(bucket, monkeypatch, caplog):
    """Or a machine that is lost then leaves a stage that is done, and older losses."""
    with working_directory(f"file://{bucket}") as directory:
        train_toy(directory, 12, 0.0, tensor=1, broken=None)
        assert measured_at(12, bucket) == read_metrics(directory, "validation")[-1]
        (directory / "samples.png").write_text("drawn")
        with monkeypatch.context() as offline:
            offline.setattr(Store, "send", lambda *_: refuse("no route"))
            wait_for_all("samples")
        assert "no route" in caplog.text
    assert "samples.png" in sent(bucket)


def test_an_unfinished_checkpoint_is_none(bucket, monkeypatch, tmp_path):
    """It has no mark yet; another machine goes on from the one before, with the same bits."""
    before = losses(train(bucket))
    (bucket / "checkpoints/12" / MARK).unlink()
    assert "checkpoints/10/ema_params" in names(find_directory(f"file://{bucket}"))
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "another"))
    with working_directory(f"file://{bucket}") as directory:
        assert latest_step(directory / "checkpoints") == 10
    assert losses(train(bucket)) == before
    assert (bucket / "checkpoints/12" / MARK).is_file()


@pytest.mark.parametrize("how", ["by hand", "by a process alone"])
def test_a_run_whose_checkpoints_were_copied_there_goes_on(bucket, tmp_path, how):
    """They are not taken for unfinished ones, nor removed with what is sent no more."""
    train_toy(tmp_path / "local", 12, 0.0, tensor=1, broken=None)
    shutil.rmtree(tmp_path / "local/checkpoints/12")  # what came after the tenth step was lost
    shutil.copytree(tmp_path / "local", bucket)
    if how == "by a process alone":  # as to other stores
        files = [path for path in (tmp_path / "local").rglob("*") if path.is_file()]
        listed = {path.relative_to(tmp_path / "local").as_posix(): [0, 0] for path in files}
        (bucket / MANIFEST).write_text(json.dumps({"key": "a", "files": listed}))
    assert "checkpoints/10/ema_params" in names(find_directory(f"file://{bucket}"))
    before = [row["time"] for row in read_metrics(bucket, "train")]
    with working_directory(f"file://{bucket}") as directory:
        assert latest_step(directory / "checkpoints") == 10
        assert not any("checkpoints" in name for name in sent(bucket))
    assert losses(train(bucket)) == losses(tmp_path / "local")
    assert [row["time"] for row in read_metrics(bucket, "train")][:10] == before[:10]
    assert latest_step(find_directory(f"file://{bucket}") / "checkpoints") == 12


def check_who_sent_tokens(cache, listed):
    """Each file is sent once, by the process that wrote it."""
    by_first, by_second = (
        [name for name in (cache / f"sent-{index}").read_text().split() if "tokens/" in name]
        for index in (0, 1)
    )
    assert len(by_first) == len(set(by_first))
    assert set(by_second) == {f"tokens/train/{it}-00001-00000.npy" for it in ("tokens", "labels")}
    assert len(by_second) == 2
    assert not set(by_first) & set(by_second)
    assert {*by_first, *by_second} == {name for name in listed if name.startswith("tokens/")}
    assert "tokens/train/tokens-00000-00000.npy" in by_first


@pytest.mark.slow
def test_processes_without_a_common_disk_share_a_run(bucket, tmp_path, monkeypatch):
    """Two encode, two others train, one finds that all is done; anyone draws from it."""
    url = f"file://{bucket}"
    command = [str(Path(__file__).parent / "bucket.py"), "configs/debug.py", "--workdir", url]
    command += ["--encoding.batch_size=24"]
    for count, cache, stage in ((2, "a", "tokens"), (2, "b", "samples"), (1, "c", "samples")):
        monkeypatch.setenv("IGPT_CACHE", str(tmp_path / cache))
        found = ends(start([*command, f"--last-stage={stage}"], count), timeout=600)
        assert [code for code, _ in found] == [0] * count, found
        if stage == "tokens":
            assert not (bucket / "gpt").exists()
            check_who_sent_tokens(tmp_path / "a", sent(bucket))
    assert "going on" not in found[0][1]
    first, second = sorted((tmp_path / "b/runs").iterdir())
    assert second.name == f"{first.name}-1"
    for name in sent(bucket):
        if name.startswith("tokens/"):
            assert (first / name).read_bytes() == (bucket / name).read_bytes()
            assert (second / name).read_bytes() == (bucket / name).read_bytes()
    assert not any("checkpoints" in name for name in names(first) | names(second) if "/" in name)
    # Each process has written its part.
    assert {f"gpt/checkpoints/8/ema_params/ocdbt.process_{i}" for i in (0, 1)} <= names(bucket)
    result = json.loads((bucket / "result.json").read_text())["result"]
    assert (bucket / "samples.png").is_file()
    assert result["gain"] == pytest.approx(
        1 - result["nats_per_token"] / result["marginal_entropy"]
    )
    assert len(losses(bucket / "gpt")) == 8
    drawn = [igpt_jax.load(place).sample(labels=[3], seed=1) for place in (url, first)]
    np.testing.assert_array_equal(*drawn)
