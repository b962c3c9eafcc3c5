"""A run whose directory is the URL of an object store."""

import contextlib
import importlib.util
import json
import os
import shutil
import threading
import time
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest

import igpt_jax
from igpt_jax import mirror
from igpt_jax.cli import main
from igpt_jax.errors import Stopped, UserError
from igpt_jax.mirror import MANIFEST, Mirror, find_directory, working_directory
from igpt_jax.stores import Store
from igpt_jax.training.checkpoint import latest_step
from igpt_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parent.parent
DEBUG = str(REPOSITORY / "configs/debug.py")


@pytest.fixture
def url(tmp_path, monkeypatch):
    """Of an empty folder in a store; what is here goes elsewhere than a user's own."""
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    yield f"memory://bucket/{tmp_path.name}"
    fsspec.filesystem("memory").store.clear()


def there(url):
    """Names of all objects under a URL, but the manifest."""
    return set(Store(url).found()) - {MANIFEST}


def another_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "another"))


def refuse(*_):
    raise UserError("no route")


def fill_the_disk(*_):
    raise OSError(28, "No space left on device")


def wait_for(name, url):
    """For five seconds."""
    for _ in range(500):
        if name in there(url):
            return True
        time.sleep(0.01)
    return False


def write(directory, **files):
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_files_go_there_and_come_back_on_another_machine(url, tmp_path, monkeypatch):
    with working_directory(url) as directory:
        write(directory, config="a", gpt__checkpoints__1__d="old", gpt__log="one")
    assert there(url) == {"config", "gpt/checkpoints/1/d", "gpt/log"}
    another_machine(monkeypatch, tmp_path)
    with working_directory(url) as directory:
        assert (directory / "gpt/checkpoints/1/d").read_text() == "old"
        shutil.rmtree(directory / "gpt/checkpoints/1")
        write(directory, gpt__checkpoints__2__d="new", gpt__log="one two")
    assert there(url) == {"config", "gpt/checkpoints/2/d", "gpt/log"}
    assert Store(url).read("gpt/log") == b"one two"
    # The first machine has what is older now.
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    with working_directory(url) as directory:
        assert not (directory / "gpt/checkpoints/1").exists()
        assert (directory / "gpt/checkpoints/2/d").read_text() == "new"


def test_what_was_not_sent_is_kept_here(url, monkeypatch):
    """A machine that lost its network, or was killed, sends it the next time."""
    one = Mirror(Store(url)).__enter__()
    write(one.directory, config="a")
    with monkeypatch.context() as offline:
        offline.setattr(Store, "send", refuse)
        with pytest.raises(UserError, match="no route"):
            one.__exit__(None)
    assert there(url) == set()
    with working_directory(url):
        pass
    assert there(url) == {"config"}


@pytest.mark.parametrize(("fail", "words"), [(refuse, "no route"), (fill_the_disk, "No space")])
def test_a_stop_stays_a_stop_where_nothing_can_be_sent(url, monkeypatch, caplog, fail, words):
    one = Mirror(Store(url)).__enter__()
    write(one.directory, config="a")
    monkeypatch.setattr(Store, "send", fail)
    one.__exit__(Stopped)
    assert words in caplog.text


def test_an_interrupted_upload_leaves_the_state_before(url, tmp_path, monkeypatch):
    with working_directory(url) as directory:
        write(directory, gpt__checkpoints__1__a="1", gpt__checkpoints__1__b="1")
    send, sent = Store.send, []

    def send_one(self, path, name):
        if sent:
            raise UserError("lost")
        sent.append(name)
        send(self, path, name)

    one = Mirror(Store(url)).__enter__()
    shutil.rmtree(one.directory / "gpt/checkpoints/1")
    write(one.directory, gpt__checkpoints__2__a="2", gpt__checkpoints__2__b="2")
    monkeypatch.setattr(Store, "send", send_one)
    with pytest.raises(UserError, match="lost"):
        one.__exit__(None)
    monkeypatch.setattr(Store, "send", send)
    assert len(there(url)) == 3  # half of the new one is there, and all of the old one
    another_machine(monkeypatch, tmp_path)
    with working_directory(url) as directory:
        names = {str(path.relative_to(directory)) for path in directory.rglob("*/?")}
    assert names == {"gpt/checkpoints/1", "gpt/checkpoints/1/a", "gpt/checkpoints/1/b"}


def test_what_is_unfinished_or_goes_meanwhile_is_not_sent(url, monkeypatch):
    store = Store(url)
    with Mirror(store) as one:
        write(one.directory, config="a", **{"gpt__checkpoints__3.orbax-checkpoint-tmp__d": "?"})
        write(one.directory, **{"tokens__train.tmp__d": "?", "gpt__checkpoints__1__d": "old"})
        send = Store.send

        def send_and_remove(self, path, name):
            shutil.rmtree(one.directory / "gpt/checkpoints/1", ignore_errors=True)
            send(self, path, name)

        monkeypatch.setattr(Store, "send", send_and_remove)
        one.send()
        assert json.loads(store.read(MANIFEST))["files"] == {}
        one.send()
        assert list(json.loads(store.read(MANIFEST))["files"]) == ["config"]


def test_files_are_sent_while_the_run_goes(url):
    with Mirror(Store(url), seconds=0.01) as one:
        write(one.directory, config="a")
        assert wait_for("config", url)


def test_sending_goes_on_after_a_full_disk(url, monkeypatch):
    """As when the file of what was sent cannot be written."""
    is_full, write_json = threading.Event(), mirror.write_json

    def fail_once(*arguments):
        if not is_full.is_set():
            is_full.set()
            fill_the_disk()
        write_json(*arguments)

    with Mirror(Store(url), seconds=0.01) as one:
        monkeypatch.setattr(mirror, "write_json", fail_once)
        write(one.directory, config="a")
        assert is_full.wait(5)
        write(one.directory, log="b")
        assert wait_for("log", url)


def test_two_that_work_on_one_run_are_told(url, tmp_path, monkeypatch):
    first = Mirror(Store(url)).__enter__()
    write(first.directory, config="a")
    another_machine(monkeypatch, tmp_path)
    with working_directory(url) as second:
        write(second, config="b")
    with pytest.raises(UserError, match="another process works"):
        first.__exit__(None)
    assert Store(url).read("config") == b"b"


def test_a_directory_that_was_copied_there_by_hand_goes_on(url, monkeypatch):
    """Without being sent once more."""
    Store(url).write("gpt/log", b"one")
    monkeypatch.setattr(Store, "send", refuse)
    with working_directory(url) as directory:
        assert (directory / "gpt/log").read_text() == "one"
    assert MANIFEST in Store(url).found()


@pytest.mark.parametrize(
    "written",
    [b"{", b"[]", b'{"key": "a"}', b'{"key": "../a", "files": {}}',
     b'{"key": "a", "files": ["b"]}',
     b'{"key": "a", "files": {"../b": [1, 0]}}', b'{"key": "a", "files": {"/b": [1, 0]}}'],
)  # fmt: skip
def test_a_damaged_list_of_files_is_told(url, written):
    Store(url).write(MANIFEST, written)
    with pytest.raises(UserError, match="got a damaged one"):
        find_directory(url)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nosuchprotocol://a/b", "Protocol not known"),
        ("memory://bucket/nothing", "found no files"),
    ],
)
def test_what_cannot_be_read_is_one_line(place, words, url):
    with pytest.raises(UserError, match=words) as raised:
        igpt_jax.load(place)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("open_it", [igpt_jax.load, lambda url: working_directory(url).__enter__()])
def test_what_cloud_storage_needs_is_one_line(open_it, url, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gcsfs" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'igpt_jax\[gcs\]'") as raised:
        open_it("gs://bucket/run")
    assert "\n" not in str(raised.value)


def test_several_processes_need_a_directory(url, monkeypatch):
    monkeypatch.setattr(mirror, "is_several", lambda: True)
    with pytest.raises(UserError, match="mount the bucket"), working_directory(url):
        pass


def noting(method, names):
    """A method of a store that notes the names of what it copies here."""

    def note(self, name, path):
        names.append(name)
        method(self, name, path)

    return note


@contextlib.contextmanager
def as_the_second(monkeypatch):
    """Of two processes; the first has come to each barrier before."""
    with monkeypatch.context() as second:
        second.setattr(mirror, "is_several", lambda: True)
        second.setattr(mirror, "is_first", lambda: False)
        second.setattr(mirror, "barrier", lambda what: None)
        second.setattr(jax, "process_index", lambda: 1)
        yield


def test_another_process_keeps_what_it_wrote_itself(url, monkeypatch):
    with working_directory(url) as first:
        write(first, config="a", log="b")
    with as_the_second(monkeypatch), Mirror(Store(url)) as second:
        second.share()
        write(second.directory, profile__trace="of its devices")
    with working_directory(url):
        (first / "log").unlink()
    with as_the_second(monkeypatch), Mirror(Store(url)) as second:
        second.share()
        assert (second.directory / "config").read_text() == "a"
        assert (second.directory / "profile/trace").is_file()
        assert not (second.directory / "log").exists()


def test_each_process_sends_its_part_and_fetches_the_others(url, monkeypatch, tmp_path):
    """The first two write a folder together; what a run that was killed has sent there goes."""
    who, sent, send = ["first"], [], Store.send

    def note(self, path, name):
        sent.append((who[0], name))
        send(self, path, name)

    with working_directory(url) as directory:
        write(directory, config="a")
    for name in ("tokens/train/part-7", "tokens/training"):
        Store(url).write(name, b"sent, and in no list")
    monkeypatch.setattr(Store, "send", note)
    monkeypatch.setattr(mirror, "is_several", lambda: True)
    monkeypatch.setattr(mirror, "is_first", lambda: who[0] == "first")
    monkeypatch.setattr(jax, "process_index", lambda: ["first", "second"].index(who[0]))
    monkeypatch.setattr(mirror, "barrier", lambda what: None)
    mirrors = {}
    for place, who[0] in enumerate(("first", "second")):
        mirrors[who[0]] = Mirror(Store(url)).__enter__()
        folder = mirrors[who[0]].directory / "tokens/train.tmp"
        write(folder, **{f"part-{place}": f"of the {who[0]}"})
    first, second = (one.directory / "tokens/train" for one in mirrors.values())
    write(second, stale="of a run that was killed")

    def collect(name):
        who[0], place = name, mirrors[name].directory / "tokens/train"
        mirrors[name].collect(place.with_name("train.tmp"), place)

    def texts_of_all(text):  # when the first has sent, the second does
        told.append(text)
        if who[0] == "first":
            collect("second")
            who[0] = "first"
        return told

    told = []
    monkeypatch.setattr(mirror, "texts_of_all", texts_of_all)
    collect("first")
    assert not first.exists()  # it has no header yet
    assert "tokens/train/part-7" not in there(url)
    assert "tokens/training" in there(url)
    assert list(json.loads(Store(url).read(MANIFEST))["files"]) == ["config"]
    write(first.with_name("train.tmp"), header="of all")
    first.with_name("train.tmp").rename(first)
    mirrors["first"].share()
    who[0] = "second"
    fetched = []
    monkeypatch.setattr(Store, "fetch", noting(Store.fetch, fetched))
    mirrors["second"].share()
    assert fetched == ["config", "tokens/train/header"]
    for place in (first, second):
        texts = {path.name: path.read_text() for path in place.iterdir()}
        assert texts == {
            "part-0": "of the first", "part-1": "of the second", "header": "of all"
        }  # fmt: skip
    assert sent == [
        ("first", "tokens/train/part-0"),
        ("second", "tokens/train/part-1"),
        ("first", "tokens/train/header"),
    ]


def test_measures_want_a_directory(url, capsys):
    assert main(["evaluate", url]) == 2
    assert "igpt export memory://bucket" in capsys.readouterr().err


def test_a_model_at_a_url_draws_what_it_draws_here(tiny_run, url, tmp_path):
    """Of its checkpoints, the newest averaged parameters are read."""
    with working_directory(url) as directory:
        shutil.copytree(tiny_run, directory, dirs_exist_ok=True)
    here = find_directory(url)
    names = {path.relative_to(here).as_posix() for path in here.rglob("*")}
    assert {"gpt/checkpoints/8/ema_params", "tokenizer/checkpoints/8/ema_params"} <= names
    assert not names & {"gpt/checkpoints/6", "gpt/checkpoints/8/optimizer", "tokens"}
    models = [igpt_jax.load(place) for place in (url, tiny_run)]
    np.testing.assert_array_equal(*(model.sample(labels=[3], seed=1) for model in models))
    out = tmp_path / "drawn.png"
    assert main(["sample", url, "--labels", "3", "--out", str(out)]) == 0
    assert out.is_file()


def test_copies_of_a_model_go_when_nobody_loads_them(url, tmp_path):
    def newer(text):
        with working_directory(url) as directory:
            write(directory, config=text)
        return find_directory(url)

    first, second = newer("a"), newer("b")
    assert first.is_dir()  # another process may be loading it
    killed = first.with_name("killed.tmp")
    killed.mkdir()
    for old in (first, killed):
        os.utime(old, (0, 0))
    third = newer("c")
    assert set(first.parent.iterdir()) == {second, third}
    os.utime(third, (0, 0))
    assert find_directory(url) == third
    newer("d")
    assert third.is_dir()


def test_all_processes_have_the_copy_that_the_first_chose(url, tmp_path, monkeypatch):
    """On other disks, while the run goes on."""
    with working_directory(url) as directory:
        write(directory, gpt__checkpoints__1__d="old")
    told = []
    with monkeypatch.context() as first:
        first.setattr(mirror, "agreed_text", lambda text: told.append(text) or text)
        chosen = find_directory(url)
    with working_directory(url) as directory:
        write(directory, gpt__checkpoints__2__d="new")
    another_machine(monkeypatch, tmp_path)
    with as_the_second(monkeypatch):
        monkeypatch.setattr(mirror, "agreed_text", lambda text: told[0])
        found = find_directory(url)
    assert (found / "gpt/checkpoints/1/d").read_text() == "old"
    assert found.name == chosen.name


@pytest.mark.slow
def test_a_whole_run_at_a_url(url, tmp_path, monkeypatch, capsys):
    """Begun on one machine, gone on on another, loaded from there."""
    command = ["train", DEBUG, "--workdir", url, "--json"]
    assert main([*command, "--last-stage", "tokens"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"workdir": url, "train": 64, "validation": 16}
    assert not any(name.startswith("gpt/") for name in there(url))
    another_machine(monkeypatch, tmp_path)
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["samples"] == f"{url}/samples.png"
    expected = {"config.json", "result.json", "samples.png", "tokens/train/tokens-00000.npy"}
    assert expected <= there(url)
    here = find_directory(url)
    assert latest_step(here / "gpt/checkpoints") == 8
    assert [row["step"] for row in read_metrics(here / "gpt", "train")] == list(range(1, 9))
    [directory] = (tmp_path / "another/runs").iterdir()
    drawn = [igpt_jax.load(place).sample(labels=[3], seed=1) for place in (url, directory)]
    np.testing.assert_array_equal(*drawn)
