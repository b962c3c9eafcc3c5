"""What `igpt serve` and `igpt serve-keys` do."""

import contextlib
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from igpt_jax.errors import UserError

try:
    import uvicorn

    from igpt_jax.serving.database import Database
    from igpt_jax.serving.files import Files
    from igpt_jax.serving.keyring import DEFAULT_SCOPES, Keyring
    from igpt_jax.serving.server import create_app
    from igpt_jax.serving.service import Service
except ImportError as error:
    raise UserError(
        f"serve: expected {error.name}, found none; pip install 'igpt_jax[serve]'"
    ) from error

from igpt_jax.serving.models import served_model
from igpt_jax.serving.screen import default_prompt_filter, read_phrases
from igpt_jax.serving.settings import ServeSettings
from igpt_jax.stored import load

_MAX_HEADERS = 32 * 1024  # bytes
_MAX_CONNECTIONS = 1_024
# Seconds until a thread gives way: the one that owns the device waits for its turn a few times a
# segment, and Python's 5 ms are as long as a token.
_TURN = 0.0005


def serve(
    directories: list[str],
    *,
    host: str,
    port: int,
    keys: bool,
    allow_host: list[str],
    database: str | None,
    files: str | None,
    batch_size: int,
    max_images: int,
    max_waiting: int,
    deadline: float,
    lease: float,
    mark: bool,
    prompt_list: Path | None,
) -> dict[str, Any]:
    """Serves models until it is stopped.

    Raises:
        UserError: a model, address, database or folder that it cannot take.
    """
    if not 0 <= port < 65_536:
        raise UserError(f"--port: expected 0 to 65535, got {port}")
    if batch_size < 1:
        raise UserError(f"--batch-size: expected at least 1, got {batch_size}")
    settings = ServeSettings(
        host=host,
        requires_keys=keys,
        hosts=tuple(allow_host),
        max_images=max_images,
        max_waiting=max_waiting,
        deadline=deadline,
        lease=lease,
        is_marked=mark,
        prompt_filter=default_prompt_filter if prompt_list is None else read_phrases(prompt_list),
    )
    first = Path(directories[0])
    sys.setswitchinterval(_TURN)
    home = (first if first.is_dir() else Path()).resolve() / "serving"
    opened = Database(database or f"sqlite:///{home / 'igpt.db'}")
    try:
        sizes = (1, batch_size)
        models = [served_model(_name(one), load(one), sizes) for one in directories]
        service = Service(opened, Files(files or str(home / "files")), models, settings)
    except BaseException:
        opened.close()
        raise
    config = uvicorn.Config(
        create_app(service),
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # the journal knows who did what; what was searched for is not logged
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=round(settings.grace),
        h11_max_incomplete_event_size=_MAX_HEADERS,
        limit_concurrency=_MAX_CONNECTIONS,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = _listen(host, port, family)
    # uvicorn raises it again when all is done.
    with contextlib.closing(listening), contextlib.suppress(KeyboardInterrupt):
        _Server(config, service).run(sockets=[listening])
    return {}


def keys(
    action: str, name: str | None, *, database: str, scopes: str | None, per_minute: int
) -> dict[str, Any]:
    """Makes, lists or revokes keys.

    Raises:
        UserError: no name, or no such key.
    """
    opened = Database(database, is_shared=True)
    try:
        ring = Keyring(opened)
        if action == "list":
            return {
                f"{key.id} {key.name}": f"{','.join(key.scopes)}; {key.per_minute} a minute"
                + ("" if key.revoked is None else "; revoked")
                for key in ring.all()
            }
        if not name:
            raise UserError(f"serve-keys {action}: expected a name or id, got none")
        if action == "revoke":
            if not ring.revoke(name):
                raise UserError(f"serve-keys revoke: expected the id of a key, got {name!r}")
            return {"revoked": name}
        wanted = DEFAULT_SCOPES if scopes is None else [one.strip() for one in scopes.split(",")]
        made, sent = ring.add(name, wanted, per_minute)
        return {"id": made.id, "scopes": ",".join(made.scopes), "key": sent}
    finally:
        opened.close()


def _listen(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"--host, --port: expected an address that is free, got {host} {port}: {error.strerror}"
        ) from None


class _Server(uvicorn.Server):
    """Tells where it listens, and ends what follows jobs before it waits for connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: Any = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        for listening in sockets or []:
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"serving at http://{shown}:{port}/", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop."""
        self._service.drain()
        super().handle_exit(sig, frame)


def _name(directory: str) -> str:
    """What requests call a model: the name of its folder."""
    path = Path(directory)
    return path.resolve().name if path.is_dir() else directory
