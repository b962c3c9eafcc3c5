"""The app: endpoints, the page, and what surrounds them."""

import contextlib
import mimetypes
import time
from collections.abc import AsyncIterator
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import igpt_jax
from igpt_jax.serving.metrics import Metrics
from igpt_jax.serving.routes import generate, health, jobs, models, pictures
from igpt_jax.serving.routes.common import KEY
from igpt_jax.serving.security import Gate
from igpt_jax.serving.service import Service

_OTHER_FIELDS = 256 * 1024  # bytes of a request besides its pictures


def create_app(service: Service) -> FastAPI:
    """The app of a service, which it starts and stops."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await to_thread.run_sync(service.stop)

    app = FastAPI(
        title="igpt_jax",
        version=igpt_jax.__version__,
        description="Pictures of trained models.",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their assets come from another host
        redoc_url=None,
        max_body_size=2 * service.settings.max_upload + _OTHER_FIELDS,
        form_limits={"max_files": 2, "max_fields": 32, "max_part_size": 64 * 1024},
    )
    app.state.service = service
    for routes in (generate, jobs, pictures, models):
        app.include_router(routes.router, dependencies=[Depends(KEY)])
    app.include_router(health.router)
    _add_page(app)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(Gate, keyring=service.keyring, settings=service.settings)
    app.add_middleware(Meter, metrics=service.metrics)
    return app


class Meter:
    """Counts requests and their seconds, by the paths that routes have."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if path != "other" else "other"
            self._metrics.requests.labels(method, path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """Wrong input, without what was sent: it may be long, or nothing that JSON holds."""
    found = [
        {"loc": [_short(part) for part in one["loc"]], "msg": _short(one["msg"], 300)}
        for one in error.errors()[:10]
    ]
    return JSONResponse({"detail": found}, 422)


async def _refused(request: Request, error: Any) -> JSONResponse:
    detail = error.detail if isinstance(error.detail, str) else "wrong request"
    return JSONResponse({"detail": _short(detail, 2_000)}, error.status_code, error.headers)


def _short(value: Any, length: int = 80) -> str:
    return str(value)[:length].encode("utf-8", "replace").decode()


def _add_page(app: FastAPI) -> None:
    """Routes to the page's files: read once, and no path of a request is ever opened."""
    folder = resources.files("igpt_jax.serving").joinpath("page")
    for path, file in sorted(_files(folder, "/")):
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        kind = "text/javascript" if path.endswith(".js") else kind
        kind = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        content = file.read_bytes()
        paths = ("/", path) if path == "/index.html" else (path,)
        for each in paths:
            app.add_api_route(
                each, _answer(content, kind), include_in_schema=False, response_class=Response
            )


def _answer(content: bytes, kind: str) -> Any:
    def answer() -> Response:
        headers = {"cache-control": "no-cache"}
        return Response(content, media_type=kind, headers=headers)

    return answer


def _files(folder: Traversable, path: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{path}{entry.name}/")
        elif not entry.name.endswith((".py", ".pyc")):
            found.append((path + entry.name, entry))
    return found
