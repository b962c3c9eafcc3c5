"""The real client of the Hub against a small server of our own."""

import base64
import hashlib
import importlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import published
import pytest

import igpt_jax
from igpt_jax.errors import UserError
from igpt_jax.interop.exporting import export
from igpt_jax.interop.hub import download, download_file, split_source, upload
from igpt_jax.interop.importing import import_part
from igpt_jax.interop.safetensors_file import write_safetensors
from igpt_jax.interop.weights import open_weights, resolve_weights

COMMIT = hashlib.sha1(b"first").hexdigest()
ERRORS = {
    "org/missing": (401, "RepoNotFound"),
    "org/gated": (403, "GatedRepo"),
    "org/broken": (500, ""),
}


class Handler(BaseHTTPRequestHandler):
    """What of the Hub's interface the client asks for."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub = self.server.hub
        path, _, _ = self.path.partition("?")
        hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = hub.repos.get(repo)
        if files is None:
            status, code = ERRORS.get(repo, (404, "RepoNotFound"))
            return self.send(status, b"", {"X-Error-Code": code})
        if parts[0] != "api":  # ORG/NAME/resolve/REVISION/FILE
            return self.send_file(files, parts[3], "/".join(parts[4:]))
        if parts[4:5] == ["revision"] and parts[5] not in ("main", COMMIT):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if parts[4:5] == ["tree"]:
            return self.send_json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                    for name, data in files.items()
                ]
            )
        names = [{"rfilename": name} for name in files]
        return self.send_json({"id": repo, "sha": COMMIT, "siblings": names})

    def send_file(self, files, revision, name):
        common = {"X-Repo-Commit": COMMIT}
        if revision not in ("main", COMMIT):
            return self.send(404, b"", common | {"X-Error-Code": "RevisionNotFound"})
        if name not in files:
            return self.send(404, b"", common | {"X-Error-Code": "EntryNotFound"})
        return self.send(200, files[name], common | {"ETag": f'"{digest(files[name])}"'})

    def do_POST(self):
        hub = self.server.hub
        hub.requests.append(f"POST {self.path.partition('?')[0]}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer good":
            return self.send(401, b"", {"X-Error-Message": "Invalid username or password."})
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[1:] == ["validate-yaml"]:  # of the model card
            return self.send_json({"errors": [], "warnings": []})
        if parts[1:] == ["repos", "create"]:
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            hub.repos.setdefault(repo, {})
            hub.visibility[repo] = wanted.get("visibility") or wanted.get("private")
            return self.send_json({"url": f"{hub.endpoint}/{repo}", "id": repo})
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            names = [each["path"] for each in json.loads(body)["files"]]
            return self.send_json({"files": [{"path": name} | modes for name in names]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                hub.repos[repo][line["value"]["path"]] = content
        url = f"{hub.endpoint}/{repo}/commit/{COMMIT}"
        return self.send_json({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def send_json(self, values):
        self.send(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def digest(data):
    return hashlib.sha1(data).hexdigest()


class Hub:
    """A server that can go down and come back at its address."""

    def __init__(self):
        self.repos, self.visibility, self.requests = {}, {}, []
        self.address = ("127.0.0.1", 0)
        self.up()

    def up(self):
        self.server = ThreadingHTTPServer(self.address, Handler)
        self.server.hub = self
        self.address = self.server.server_address
        self.endpoint = "http://{}:{}".format(*self.address)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def down(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server, and the client imported anew, for it reads its settings when it is imported."""
    pytest.importorskip("huggingface_hub")
    hub = Hub()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.setattr("time.sleep", lambda seconds: None)  # 23 s between the client's retries
        for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
            patch.delitem(sys.modules, name)
        importlib.import_module("huggingface_hub")
        yield hub
        for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
            del sys.modules[name]
    hub.down()


@pytest.fixture
def repo(server, request):
    """A repository of its own for each test."""
    name = f"org/{request.node.name.partition('[')[0].replace('_', '-')}"
    server.repos[name] = {"config.json": b"{}", "sub/model.bin": b"\x00\x01", "notes.txt": b"hi"}
    server.requests.clear()
    return name


@pytest.fixture
def unreachable(server):
    server.down()
    yield
    server.up()


def test_a_pushed_model_is_loaded_by_its_name(server, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "good")
    result = export(tiny_run, tmp_path / "out", push="org/tiny")
    assert result["pushed"].endswith("/org/tiny")
    model = igpt_jax.load("org/tiny")
    np.testing.assert_array_equal(model.sample([4, 2]), igpt_jax.load(tiny_run).sample([4, 2]))
    card = server.repos["org/tiny"]["README.md"].decode()
    assert 'igpt_jax.load("org/tiny")' in card


def test_a_repository_is_imported_by_its_name(server, tmp_path):
    path = published.write(tmp_path / "model.safetensors", published.arrays_of("imagegpt"))
    clusters = {"clusters": np.zeros((16, 3)).tolist()}
    server.repos["org/imagegpt"] = {
        "model.safetensors": path.read_bytes(),
        "preprocessor_config.json": json.dumps(clusters).encode(),
        "pytorch_model.bin": b"not wanted",
    }
    import_part("org/imagegpt", "imagegpt", tmp_path / "model", num_heads=3)
    assert igpt_jax.load(tmp_path / "model").sample().shape == (1, 4, 4, 3)
    assert not any("pytorch_model" in request for request in server.requests)


def test_models_that_are_not_there(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"hub org/missing/config\.json: expected it"):
        igpt_jax.load("org/missing")
    (tmp_path / "runs").mkdir()
    server.requests.clear()
    with pytest.raises(UserError, match="expected the directory of a run"):
        igpt_jax.load("runs/missing")
    assert not server.requests


def test_no_connection(unreachable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no answer"):
        igpt_jax.load("org/somewhere")


def files_of(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_repository_is_downloaded_once(server, repo):
    folder = download(repo)
    assert files_of(folder) == server.repos[repo]
    assert any(request.startswith(f"GET /{repo}/resolve/") for request in server.requests)
    server.requests.clear()
    assert download(repo) == folder
    assert not any("/resolve/" in request for request in server.requests)
    server.down()
    try:
        assert download(repo) == folder
        assert download_file(repo, "sub/model.bin").read_bytes() == b"\x00\x01"
    finally:
        server.up()


def test_patterns(server, repo):
    assert files_of(download(repo, patterns=["*.json", "sub/*"])).keys() == {
        "config.json",
        "sub/model.bin",
    }
    with pytest.raises(UserError, match=rf"hub {repo}: expected a file like \*.gguf, got none; "):
        download(repo, patterns=["*.gguf"])


def test_one_file(server, repo):
    path = resolve_weights(f"hub:{repo}/sub/model.bin")
    assert path.read_bytes() == b"\x00\x01"
    assert not any("notes.txt" in request for request in server.requests)


def test_an_index_brings_its_files(server, repo, tmp_path):
    arrays = {"a": np.arange(3.0), "b": np.arange(2)}
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    server.repos[repo]["sub/m.safetensors.index.json"] = json.dumps(index).encode()
    for name, shard in index["weight_map"].items():
        specs = {name: jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype)}
        write_safetensors(tmp_path / shard, specs, [(name, arrays[name])], {})
        server.repos[repo][f"sub/{shard}"] = (tmp_path / shard).read_bytes()
    found = open_weights(resolve_weights(f"hub:{repo}/sub/m.safetensors.index.json"))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: download("org/missing"), "org/missing: .* got none, or a private one; check the"),
        (lambda: download("org/absent"), "org/absent: .* got none, or a private one; check the"),
        (lambda: download_file("org/missing", "a.pt"), "org/missing/a.pt: .* got none, or a priva"),
        (lambda: download("org/gated"), "org/gated: .* got a gated one; accept its terms"),
        (lambda: download_file("org/gated", "a"), "org/gated/a: .* got a gated one; accept its"),
        (lambda: download_file("org/broken", "a"), "org/broken/a: .* got no answer .*500"),
        (lambda: download("org"), "expected a repository ORG/NAME, got 'org'; check the name"),
        (lambda: download("a/b/c"), "expected a repository ORG/NAME, got 'a/b/c'"),
        (lambda: download("org/na me"), "expected a repository ORG/NAME, got 'org/na me'"),
        (lambda: download("org/a--b"), "hub org/a--b: .* got an invalid name; check the name"),
        (lambda: resolve_weights("hub:org/x y/a"), "expected a repository ORG/NAME, got 'org/x y'"),
    ],
)
def test_what_the_hub_does_not_have(server, call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_revision_or_file_that_is_not_there(server, repo):
    for call in (
        lambda: download(repo, revision="v9"),
        lambda: download_file(repo, "notes.txt", revision="v9"),
    ):
        with pytest.raises(UserError, match=r"got no such revision; check its name"):
            call()
    with pytest.raises(UserError, match=rf"hub {repo}/a.pt: .* got no such file; check its name"):
        download_file(repo, "a.pt")
    assert download_file(repo, "notes.txt", revision=COMMIT).read_bytes() == b"hi"


def test_without_a_connection(unreachable):
    for call in (lambda: download("org/other"), lambda: resolve_weights("hub:org/other/a.pt")):
        with pytest.raises(UserError, match=r"no answer \(Conn.* and no copy in the cache; connec"):
            call()


def test_upload(server, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub" / "model.safetensors").write_bytes(bytes(range(256)))
    address = upload(tmp_path, "org/ours", token="good")
    assert address == f"{server.endpoint}/org/ours"
    assert server.visibility["org/ours"] in ("private", True)
    assert server.repos["org/ours"] == files_of(tmp_path)
    assert files_of(download("org/ours")) == files_of(tmp_path)
    upload(tmp_path, "org/open", private=False, token="good")
    assert server.visibility["org/open"] in ("public", False)


def test_uploads_that_fail(server, tmp_path):
    with pytest.raises(UserError, match=r"hub org/x: expected a directory with files, got"):
        upload(tmp_path, "org/x", token="good")
    with pytest.raises(UserError, match=r"expected a directory with files, got .*nowhere"):
        upload(tmp_path / "nowhere", "org/x", token="good")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"hub org/x: .*401.*a token that may write") as caught:
        upload(tmp_path, "org/x", token="bad")
    assert "\n" not in str(caught.value)
    assert "org/x" not in server.repos
    with pytest.raises(UserError, match=r"expected a repository ORG/NAME, got 'x'"):
        upload(tmp_path, "x", token="good")


def test_upload_without_a_connection(unreachable, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"hub org/x: .*got Conn.*; check the connection"):
        upload(tmp_path, "org/x", token="good")


@pytest.mark.parametrize("source", ["hub:", "hub:model.npz", "hub:org/name", "hub:org/name/"])
def test_incomplete_sources(source):
    with pytest.raises(UserError, match=f"expected hub:ORG/NAME/FILE, got '{source}'"):
        resolve_weights(source)


def test_sources():
    assert split_source("hub:org/name.v1/folder/a.pt") == ("org/name.v1", "folder/a.pt")


def test_without_the_client(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "a.txt").write_text("a")
    for call in (
        lambda: resolve_weights("hub:org/name/model.pt"),
        lambda: download("org/name"),
        lambda: upload(tmp_path, "org/name"),
    ):
        with pytest.raises(UserError, match=r"pip install 'igpt_jax\[hub\]' or give the path"):
            call()
