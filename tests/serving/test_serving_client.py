"""The client, the examples of the documentation and the commands, with servers that listen."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_painter import SIZE
from PIL import Image
from serving_help import live, make_service, until

from igpt_jax import cli
from igpt_jax.serving.client import Client, ServerError

PAGE = Path(__file__).parents[2] / "docs/serving.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GREY = np.full((SIZE, SIZE, 3), 50, np.uint8)
HALF = np.zeros_like(GREY)
HALF[:4] = 255


@pytest.fixture
def served(tmp_path):
    service = make_service(tmp_path, hosts=())
    with live(service) as url:
        yield service, url


@pytest.fixture
def client(served):
    with Client(served[1]) as client:
        yield client


def test_a_whole_visit(client):
    assert [model["name"] for model in client.models()] == ["cards"]
    job = client.generate(label=1, n=2, seed=9, prompt="fox")
    assert job["state"] == "queued"
    pictures = client.wait(job["id"])["pictures"]
    assert client.job(job["id"])["state"] == "done"
    image = client.image(pictures[1]["id"])
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8([1, 9, 1]), image.shape))
    with Image.open(io.BytesIO(client.file(pictures[0]["id"], "webp"))) as opened:
        assert opened.format == "WEBP"
    assert client.picture(pictures[0]["id"])["prompt"] == "fox"
    other = client.wait(client.again(pictures[0]["id"], seed=10)["id"])["pictures"][0]
    assert client.image(other["id"])[0, 0].tolist() == [1, 10, 0]
    assert client.classify(image // 2, top=1)[0]["label"] == 0
    done = client.wait(client.complete(GREY, HALF, label=2, seed=3)["id"])
    drawn = client.image(done["pictures"][0]["id"])
    assert (drawn[4:] == 50).all()
    assert (drawn[:4] == [2, 3, 0]).all()
    client.delete(other["id"])
    with pytest.raises(ServerError, match="found none") as error:
        client.picture(other["id"])
    assert error.value.status == 404


def test_search_goes_through_all_pages(client):
    for _ in range(3):
        client.wait(client.generate(n=8, prompt="红桃")["id"])
    ids = [picture["id"] for picture in client.search(q="红桃")]
    assert len(ids) == len(set(ids)) == 24
    assert [picture["id"] for picture in client.search(limit=10, q="红桃")] == ids[:10]
    assert list(client.search(q="黑桃")) == []


def test_follow_tells_of_growth(client, served):
    painter = served[0].models["cards"].painter
    painter.gate.clear()
    job = client.generate(label=0, seed=200)
    threading.Timer(0.3, painter.gate.set).start()
    events = list(client.follow(job["id"]))
    assert events[-1].kind == "end"
    assert {"progress", "preview"} <= {event.kind for event in events}


def test_who_only_waits_gets_no_previews_and_none_are_made(client, served, monkeypatch):
    painter = served[0].models["cards"].painter
    made = []
    monkeypatch.setattr(painter, "preview", made.append)
    painter.gate.clear()
    job = client.generate(label=0, seed=200)
    threading.Timer(0.3, painter.gate.set).start()
    kinds = {event.kind for event in client.follow(job["id"], previews=False)}
    assert kinds == {"progress", "end"}
    assert made == []
    assert client.job(job["id"])["state"] == "done"


def test_what_is_refused(client, served):
    with pytest.raises(ServerError, match="labels: expected classes 0 to 2, got 7"):
        client.generate(label=7)
    with pytest.raises(ServerError, match="Input should be"):
        client.generate(n="x")
    painter = served[0].models["cards"].painter
    painter.gate.clear()
    job = client.generate(n=4)
    assert client.cancel(job["id"])["state"] == "cancelled"
    painter.gate.set()
    with pytest.raises(ServerError, match="cancelled"):
        client.wait(job["id"])
    same = [client.generate(repeat_key="k")["id"] for _ in range(2)]
    assert same[0] == same[1]


def ask_often(client):
    for _ in range(9):
        client.generate(n=4)


def test_patience(tmp_path):
    service = make_service(tmp_path, hosts=(), max_waiting=4)
    painter = service.models["cards"].painter
    with live(service) as url, Client(url) as hasty, Client(url, patience=30.0) as patient:
        painter.gate.clear()
        with pytest.raises(ServerError) as error:
            ask_often(hasty)
        assert error.value.status == 429
        assert error.value.retry_after >= 1
        threading.Timer(0.2, painter.gate.set).start()
        assert patient.wait(patient.generate(n=4)["id"])["state"] == "done"


def test_a_key(tmp_path):
    service = make_service(tmp_path, hosts=(), requires_keys=True)
    _, sent = service.keyring.add("Ada")
    with live(service) as url, Client(url) as stranger, Client(url, sent) as friend:
        assert friend.wait(friend.generate()["id"])["state"] == "done"
        with pytest.raises(ServerError) as error:
            stranger.models()
        assert error.value.status == 401


def test_a_stop_ends_connections_that_follow_a_job(served):
    service, url = served
    service.models["cards"].painter.gate.clear()
    with Client(url) as client:
        job = client.generate()
        with client._http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: progress"
            started = time.monotonic()
            service.drain()
            list(lines)
    assert time.monotonic() - started < 3
    service.models["cards"].painter.gate.set()


def test_every_example_of_the_documentation(served, tmp_path):
    """All lines of its shell blocks that ask the server, in their order; no curl may fail."""
    _, url = served
    for name, image in (("card.png", GREY), ("mask.png", HALF)):
        Image.fromarray(image).save(tmp_path / name)
    found = BLOCK.findall(PAGE.read_text())
    blocks = [text for kind, text in found if kind == "bash"]
    assert not [text for kind, text in found if kind != "bash" and "curl" in text]
    lines = [line for text in blocks for line in text.splitlines()]
    script = "\n".join(["set -e", *lines]).replace("http://127.0.0.1:8000", url)
    script = script.replace("curl ", "curl --fail-with-body --no-progress-meter ")
    command = ["bash", "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (SIZE, SIZE)
    with Client(url) as client:
        told = set(client._http.get("/v1/openapi.json").json()["paths"])
    pattern = re.compile(r"\$URL(/[^\s\"'?]+)")
    shown = {
        path.replace("$JOB", "{id}").replace("$PICTURE", "{id}")
        for line in lines
        for path in pattern.findall(line)
    }
    assert told - shown == set()


def test_python_of_the_documentation(served, tmp_path, monkeypatch):
    _, url = served
    monkeypatch.chdir(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "card.png")
    blocks = [text for kind, text in BLOCK.findall(PAGE.read_text()) if kind == "python"]
    assert blocks
    names = {}
    for block in blocks:
        exec(block.replace("http://127.0.0.1:8000", url), names)
    names["client"]._http.close()


def run_json(capsys, *argv):
    assert cli.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_keys_on_the_command_line(tmp_path, capsys):
    database = f"sqlite:///{tmp_path}/igpt.db"
    made = run_json(capsys, "serve-keys", "add", "Ada", "--database", database, "--scopes", "read")
    listed = run_json(capsys, "serve-keys", "list", "--database", database)
    assert listed == {f"{made['id']} Ada": "read; 120 a minute"}
    run_json(capsys, "serve-keys", "revoke", made["id"], "--database", database)
    listed = run_json(capsys, "serve-keys", "list", "--database", database)
    assert listed == {f"{made['id']} Ada": "read; 120 a minute; revoked"}
    for wrong in (["add"], ["revoke", "x"], ["add", "a", "--scopes", "all"]):
        assert cli.main(["serve-keys", *wrong, "--database", database]) == 2
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--host", "0.0.0.0"], ["--port", "70000"], ["--batch-size", "0"], ["--max-images", "0"],
        ["--deadline", "0"], ["--database", "mysql://x/y"], ["--prompt-list", "/nowhere/list"],
    ],
    ids=lambda wrong: wrong[0],
)  # fmt: skip
def test_servers_that_do_not_start(wrong, tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path), *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_library_does_not_import_what_serves():
    names = "fastapi uvicorn sqlalchemy alembic pydantic starlette httpx2 psycopg"
    script = f"""
import sys, igpt_jax
igpt_jax.load, igpt_jax.Model
print([name for name in {names!r}.split() if name in sys.modules])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_igpt_serve(tiny_run, tmp_path):
    """The command itself, with a trained model: started, asked, stopped, started again."""
    database, files = f"sqlite:///{tmp_path}/igpt.db", str(tmp_path / "files")
    command = [
        sys.executable, "-c", "import sys; from igpt_jax.cli import main; sys.exit(main())",
        "serve", str(tiny_run), "--port", "0", "--database", database, "--files", files,
        "--batch-size", "2",
    ]  # fmt: skip
    ids = []
    for times in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as ran:
            try:
                url = ran.stdout.readline().removeprefix("serving at ").strip()
                with Client(url, timeout=120.0) as client:
                    until(lambda c=client: c._http.get("/readyz").status_code == 200, 240)
                    done = client.wait(client.generate(label=7, n=3, seed=0)["id"])
                    ids += [picture["id"] for picture in done["pictures"]]
                    assert len(list(client.search())) == len(ids) == 3 * (times + 1)
                    assert len(client.classify(client.image(ids[0]))) == 5
            finally:
                ran.send_signal(signal.SIGTERM)
            assert ran.wait(60) in (0, -signal.SIGTERM)
