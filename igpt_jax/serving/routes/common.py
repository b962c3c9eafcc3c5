"""What the endpoints share: the service, the client, and what is wrong."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer
from starlette.datastructures import UploadFile

from igpt_jax.errors import UserError
from igpt_jax.serving.engine import Overloaded
from igpt_jax.serving.security import Client
from igpt_jax.serving.service import Service
from igpt_jax.serving.store import Full
from igpt_jax.serving.uploads import TooLarge
from igpt_jax.serving.views import Problem

# The gate has checked the key already; this tells OpenAPI of it.
KEY = HTTPBearer(auto_error=False, description="needed unless the server is bound to loopback")

_TEXTS = {
    400: "no JSON, or no form",
    401: "no key, or one that the server does not know",
    403: "the key does not allow it, or the request comes from another site",
    404: "there is none that the client may see",
    413: "too many bytes",
    421: "the request calls the server by another name",
    422: "wrong input: expected, got, what to do",
    429: "too many requests, or too many pictures wait; see Retry-After",
    503: "the server stops or is not ready",
}


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for OpenAPI."""
    always = (401, 403, 421, 422, 429)
    return {
        code: {"model": Problem, "description": _TEXTS[code]} for code in sorted({*always, *codes})
    }


async def the_service(request: Request) -> Service:  # async: no thread is woken for it
    """The service of the app."""
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(the_service)]


def allowed(scope: str) -> Callable[[Request], Awaitable[Client]]:
    """A dependency: the client, if it may do something."""

    async def client(request: Request) -> Client:
        found: Client = request.state.client
        if not found.may(scope):
            raise HTTPException(403, f"key: expected one that allows {scope}, got another")
        return found

    return client


Generating = Annotated[Client, Depends(allowed("generate"))]
Reading = Annotated[Client, Depends(allowed("read"))]
Deleting = Annotated[Client, Depends(allowed("delete"))]
Classifying = Annotated[Client, Depends(allowed("classify"))]


def refused(error: Exception, service: Service, count: int = 1) -> HTTPException:
    """The answer to a request that cannot be taken."""
    match error:
        case TooLarge():
            return HTTPException(413, str(error))
        case Full() | Overloaded():
            wait = {"retry-after": str(service.retry_after(count))}
            return HTTPException(429, "too many pictures wait; try again later", wait)
        case UserError() | ValueError():
            return HTTPException(422, " ".join(str(error).split()))
    raise error


def check_open(service: Service) -> None:
    """Refuses new work while the server stops."""
    if service.stops.is_set():
        raise HTTPException(503, "the server stops; try again", {"retry-after": "5"})


def upload_bytes(upload: UploadFile, service: Service, name: str) -> bytes:
    """What was uploaded; no more of it is read than is allowed."""
    limit = service.settings.max_upload
    data = upload.file.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"{name}: expected at most {limit} bytes, got more")
    return data
