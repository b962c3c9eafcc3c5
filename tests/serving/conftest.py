"""A server of a painter without a model, asked in this process."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("alembic")

from fastapi.testclient import TestClient
from serving_help import make_service, until


@pytest.fixture
def service(tmp_path):
    return make_service(tmp_path)


@pytest.fixture
def http(service):
    from igpt_jax.serving.server import create_app

    with TestClient(create_app(service)) as client:
        until(lambda: service.state == "ready")
        yield client
