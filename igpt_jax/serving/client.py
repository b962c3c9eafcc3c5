"""A client in Python: asks, waits, finds.

client = Client("http://127.0.0.1:8000")
job = client.generate(label=7, n=4)
pictures = client.wait(job["id"])["pictures"]
png = client.file(pictures[0]["id"])
"""

import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from igpt_jax.data.images import decode_image
from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8


class ServerError(UserError):
    """The server refused a request.

    Attributes:
        status: of HTTP.
        retry_after: seconds after which it may take it, or None.
    """

    def __init__(self, text: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Event:
    """What a server tells of a job: `progress`, `preview` or `end`.

    Attributes:
        kind: which of them.
        data: see the server's documentation.
    """

    kind: str
    data: Mapping[str, Any]


class Client:
    """Talks to one server; closes its connections when it is left as a context.

    Attributes:
        patience: seconds that a request waits where the server has no room.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 0.0,
        http: httpx2.Client | None = None,
    ) -> None:
        """Opens it.

        Args:
            url: of the server.
            key: as `igpt serve-keys add` printed it; None where none is needed.
            timeout: seconds until an answer must begin.
            patience: seconds that a request waits where the server has no room.
            http: a client of httpx2 to use instead of one of its own.
        """
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.patience = patience
        self._http, self._timeout = http or httpx2.Client(base_url=url, timeout=timeout), timeout
        self._http.headers.update(headers)

    def __enter__(self) -> "Client":
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """The models, and what can be asked of each."""
        return self._json("GET", "/v1/models")["models"]

    def generate(
        self, *, repeat_key: str | None = None, wait: int = 0, **asked: Any
    ) -> dict[str, Any]:
        """Asks for pictures.

        Args:
            repeat_key: the same request once more with the same key gets the same job.
            wait: seconds that the answer may take, to hold the pictures if they are done by then.
            asked: what `POST /v1/generate` takes, such as `prompt`, `label`, `n` and `seed`.

        Returns:
            The job, which is not done yet unless that was waited for.

        Raises:
            ServerError: it is refused.
        """
        headers = {} if repeat_key is None else {"idempotency-key": repeat_key}
        given: dict[str, Any] = {"json": asked, "headers": headers}
        if wait:
            headers["prefer"] = f"wait={wait}"
            given["timeout"] = self._timeout + wait
        return self._json("POST", "/v1/generate", **given)

    def complete(
        self,
        image: bytes | UInt8[np.ndarray, "h w 3"],
        mask: bytes | UInt8[np.ndarray, "h w 3"] | None = None,
        **asked: Any,
    ) -> dict[str, Any]:
        """Asks for pictures of which a part is given; files, or arrays of pixels."""
        files = {"image": ("image", _file(image))}
        if mask is not None:
            files["mask"] = ("mask", _file(mask))
        return self._json("POST", "/v1/complete", data=asked, files=files)

    def job(self, id: str) -> dict[str, Any]:
        """How far a job is."""
        return self._json("GET", f"/v1/jobs/{id}")

    def cancel(self, id: str) -> dict[str, Any]:
        """Cancels a job."""
        return self._json("DELETE", f"/v1/jobs/{id}")

    def follow(self, id: str, *, previews: bool = True) -> Iterator[Event]:
        """What becomes of a job, until it ends; goes on after a connection that breaks off."""
        wanted = {"previews": previews}
        while True:
            try:
                with self._http.stream("GET", f"/v1/jobs/{id}/events", params=wanted) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        raise _error(answer)
                    for event in _events(answer.iter_lines()):
                        yield event
                        if event.kind == "end":
                            return
            except (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ReadTimeout):
                pass
            time.sleep(0.5)

    def wait(self, id: str) -> dict[str, Any]:
        """A job when it has ended, with its pictures.

        Raises:
            ServerError: it failed, was too late or was cancelled.
        """
        ended: Mapping[str, Any] = {}
        for event in self.follow(id, previews=False):
            ended = event.data
        if ended["state"] != "done":
            raise ServerError(f"job {id}: {ended['state']}: {ended['reason']}", 200)
        return dict(ended)

    def search(self, limit: int | None = None, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Pictures, the newest first, page by page.

        Args:
            limit: at most so many; None for all.
            wanted: what `GET /v1/pictures` takes: `q`, `label`, `class_name`, `model`, `since`...
        """
        before, count = None, 0
        while True:
            given = {**wanted, "before": before, "limit": min(100, limit or 100)}
            params = {name: value for name, value in given.items() if value is not None}
            page = self._json("GET", "/v1/pictures", params=params)
            for picture in page["pictures"]:
                yield picture
                count += 1
                if count == limit:
                    return
            before = page["next"]
            if before is None:
                return

    def picture(self, id: str) -> dict[str, Any]:
        """What a picture is and how it was made."""
        return self._json("GET", f"/v1/pictures/{id}")

    def file(self, id: str, format: str = "png") -> bytes:
        """A picture's file, `png` or `webp`."""
        return self._send("GET", f"/v1/pictures/{id}/file", params={"format": format}).content

    def image(self, id: str) -> UInt8[np.ndarray, "h w 3"]:
        """A picture's pixels."""
        return decode_image(self.file(id))

    def delete(self, id: str) -> None:
        """Deletes a picture."""
        self._send("DELETE", f"/v1/pictures/{id}")

    def again(self, id: str, seed: int | None = None) -> dict[str, Any]:
        """Asks for what a picture was asked to be, of another seed."""
        return self._json("POST", f"/v1/pictures/{id}/again", json={"seed": seed})

    def classify(
        self, image: bytes | UInt8[np.ndarray, "h w 3"], **asked: Any
    ) -> list[dict[str, Any]]:
        """The most probable classes of a picture."""
        files = {"image": ("image", _file(image))}
        return self._json("POST", "/v1/classify", data=asked, files=files)["classes"]

    def _json(self, method: str, path: str, **given: Any) -> Any:
        return self._send(method, path, **given).json()

    def _send(self, method: str, path: str, **given: Any) -> httpx2.Response:
        end = time.monotonic() + self.patience
        while True:
            answer = self._http.request(method, path, **given)
            if answer.is_success:
                return answer
            error = _error(answer)
            wait = error.retry_after
            if wait is None or time.monotonic() + wait > end:
                raise error
            time.sleep(wait)


def _error(answer: httpx2.Response) -> ServerError:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    text = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
    wait = answer.headers.get("retry-after", "")
    return ServerError(text, answer.status_code, float(wait) if wait.isdigit() else None)


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events (WHATWG HTML, section 9.2.6), of one line of data each."""
    kind, data = "", ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = value
        elif not line and data:
            yield Event(kind, json.loads(data))
            kind = data = ""


def _file(image: bytes | UInt8[np.ndarray, "h w 3"]) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
