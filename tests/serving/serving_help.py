"""A server of a painter without a model, in this process."""

import contextlib
import os
import threading
import time
import uuid

import pytest
from fake_painter import fake_model

POSTGRES = "IGPT_TEST_POSTGRES"  # URL of a server where tests may make and drop databases


def database_url(kind, folder):
    """A new, empty database."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/igpt.db"
    server = os.environ.get(POSTGRES)
    if not server:
        pytest.skip(f"{POSTGRES} names no PostgreSQL server")
    from sqlalchemy import create_engine, make_url, text

    name, url = f"igpt_{uuid.uuid4().hex}", make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def drop_database(url):
    from sqlalchemy import create_engine, make_url, text

    if url.startswith("sqlite"):
        return
    made = make_url(url)
    server = make_url(os.environ[POSTGRES]).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {made.database} WITH (FORCE)"))
    engine.dispose()


def make_service(folder, *models, **settings):
    from igpt_jax.serving.database import Database
    from igpt_jax.serving.files import Files
    from igpt_jax.serving.service import Service
    from igpt_jax.serving.settings import ServeSettings

    url = settings.pop("database", f"sqlite:///{folder}/igpt.db")
    known = {"poll": 0.02, "hosts": ("testserver",), "grace": 5.0}
    return Service(
        Database(url),
        Files(str(folder / "files")),
        models or [fake_model()],
        ServeSettings(**{**known, **settings}),
    )


def until(is_so, seconds=10.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


@contextlib.contextmanager
def live(service):
    """The URL of a server that listens, in a thread."""
    import uvicorn

    from igpt_jax.serving.server import create_app

    config = uvicorn.Config(create_app(service), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started and service.state == "ready")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        service.drain()
        server.should_exit = True
        thread.join(20)
