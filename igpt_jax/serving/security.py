"""What every request passes before its body is read, and what every answer carries."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from igpt_jax.serving.keyring import SCOPES, ApiKey, Keyring
from igpt_jax.serving.settings import ServeSettings

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_REMEMBERED = 5.0  # seconds that a key is taken as checked, and so may outlive its end
_UNKNOWN_PER_MINUTE = 600  # wrong keys that are looked up


@dataclass(frozen=True)
class Client:
    """Who sent a request.

    Attributes:
        id: of the key, or `local` where none is needed.
        scopes: what is allowed.
    """

    id: str
    scopes: tuple[str, ...]

    @property
    def sees(self) -> str | None:
        """Whose jobs and pictures may be seen; None for everybody's."""
        return None if "admin" in self.scopes else self.id

    def may(self, scope: str) -> bool:
        """Whether something is allowed."""
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Client("local", SCOPES)


class Bucket:
    """Lets so many requests pass a minute, at most a quarter of them at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._size = per_minute / 60, max(1.0, per_minute / 4)
        self._clock, self._lock = clock, threading.Lock()
        self._tokens, self._then = self._size, clock()

    def take(self) -> float:
        """0 where a request may pass, or seconds until one may."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._size, self._tokens + (now - self._then) * self._rate)
            self._then = now
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return (1 - self._tokens) / self._rate


class Gate:
    """The outermost layer: names, origins, keys and rates; then headers of every answer.

    It comes before bodies are read, so that nobody without a key can make the server keep one.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, settings: ServeSettings) -> None:
        self._app, self._keyring, self._settings = app, keyring, settings
        self._known: dict[bytes, tuple[ApiKey, float]] = {}
        self._buckets: dict[str, tuple[int, Bucket]] = {}
        self._unknown = Bucket(_UNKNOWN_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or passes on with the client in the request's state."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refuse_names(scope, headers)
        if refusal is None and scope["path"].startswith(("/v1/", "/metrics")):
            client, refusal = await self._identify(headers)
            scope.setdefault("state", {})["client"] = client
        if refusal is not None:
            await refusal(scope, receive, send_safe)
            return
        await self._app(scope, receive, send_safe)

    def _refuse_names(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """Requests that a page of another site has made."""
        allowed, host = self._settings.allowed_hosts, headers.get("host", "")
        if allowed and _name(host) not in allowed:
            return _error(421, "host: expected this server's name; see --allow-host")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin")
        is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_foreign or (origin is not None and _netloc(origin) != host):
            return _error(403, "origin: expected this server's own page, got another site's")
        return None

    async def _identify(self, headers: Headers) -> tuple[Client | None, JSONResponse | None]:
        if not self._settings.requires_keys:
            return LOCAL, None
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not sent:
            return None, _unauthorized("expected a key: Authorization: Bearer igpt_...")
        key = await self._check(sent.strip())
        if isinstance(key, float):
            return None, _too_many(key)
        if key is None:
            return None, _unauthorized("expected a key that this server knows, got another")
        wait = self._bucket(key).take() if key.per_minute else 0.0
        if wait:
            return None, _too_many(wait)
        return Client(key.id, key.scopes), None

    async def _check(self, sent: str) -> ApiKey | float | None:
        """The key; None for a wrong one; seconds to wait after too many wrong ones."""
        name, now = hashlib.sha256(sent.encode("utf-8", "replace")).digest(), time.monotonic()
        known = self._known.get(name)
        if known is not None and known[1] > now:
            return known[0]
        key = await to_thread.run_sync(self._keyring.check, sent)
        if key is None:
            self._known.pop(name, None)
            return self._unknown.take() or None
        if len(self._known) > 10_000:
            self._known.clear()
        self._known[name] = key, now + _REMEMBERED
        return key

    def _bucket(self, key: ApiKey) -> Bucket:
        known = self._buckets.get(key.id)
        if known is None or known[0] != key.per_minute:
            known = self._buckets[key.id] = key.per_minute, Bucket(key.per_minute)
        return known[1]


def _name(host: str) -> str:
    """A host without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _error(status: int, text: str, headers: dict[str, Any] | None = None) -> JSONResponse:
    return JSONResponse({"detail": text}, status, headers)


def _unauthorized(text: str) -> JSONResponse:
    return _error(401, text, {"www-authenticate": "Bearer"})


def _too_many(seconds: float) -> JSONResponse:
    wait = str(max(1, round(seconds + 0.5)))
    return _error(429, "expected fewer requests; wait and try again", {"retry-after": wait})
