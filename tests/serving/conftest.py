"""A server of a painter without a model, in this process."""

import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("alembic")

from fake_painter import fake_model
from fastapi.testclient import TestClient

from igpt_jax.serving.database import Database
from igpt_jax.serving.files import Files
from igpt_jax.serving.server import create_app
from igpt_jax.serving.service import Service
from igpt_jax.serving.settings import ServeSettings


def make_service(folder, *models, **settings):
    database = Database(f"sqlite:///{folder}/igpt.db")
    known = {"poll": 0.02, "hosts": ("testserver",), "grace": 5.0}
    return Service(
        database,
        Files(str(folder / "files")),
        models or [fake_model()],
        ServeSettings(**{**known, **settings}),
    )


def until(is_so, seconds=10.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


@pytest.fixture
def service(tmp_path):
    return make_service(tmp_path)


@pytest.fixture
def http(service):
    with TestClient(create_app(service)) as client:
        until(lambda: service.state == "ready")
        yield client
