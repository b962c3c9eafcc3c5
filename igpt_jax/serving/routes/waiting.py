"""Answers to requests for pictures: at once, or when they are drawn, as the client prefers."""

import re
import time
from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Header, Response

from igpt_jax.errors import UserError
from igpt_jax.serving.engine import Overloaded
from igpt_jax.serving.feed import Watcher
from igpt_jax.serving.routes.common import check_open, refused
from igpt_jax.serving.service import Service
from igpt_jax.serving.store import Full, Job, new_id
from igpt_jax.serving.views import JobView, job_view

# Seconds between two looks at the database, where another server may draw; the second where no
# other server can: news come from this process, too.
LOOK, LOOK_ALONE = 1.0, 5.0

DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": JobView, "description": "the job has ended while the client waited"}
}

Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description="`wait=SECONDS` (RFC 7240): answer when the pictures are drawn, 200, or with "
        "202 when that takes longer",
    ),
]

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*(\d{1,6})\s*(?=,|;|$)", re.IGNORECASE)


def seconds_of(prefer: str | None) -> float:
    """How long a client waits; preferences that are not understood do not count."""
    found = _WAIT.search(prefer or "")
    return float(found[1]) if found else 0.0


def pause_of(service: Service) -> float:
    """Seconds between two looks at a job that somebody waits for."""
    return LOOK_ALONE if service.database.is_sqlite else LOOK


async def accepted(
    service: Service,
    response: Response,
    take: Callable[[str], tuple[Job, bool]],
    count: int,
    prefer: str | None,
) -> JobView:
    """Takes a request.

    Args:
        service: what takes it.
        response: gets status and headers.
        take: makes a job of that id, or finds that of the same request; and whether it is new.
        count: pictures.
        prefer: what the client's header says.

    Raises:
        HTTPException: it is refused.
    """
    check_open(service)
    wait, id = min(seconds_of(prefer), service.settings.max_deadline), new_id()
    if service.feed.num_watchers >= service.settings.max_events:
        wait = 0.0  # a preference, no more
    # Before the job: nothing is missed between the two.
    watcher = service.feed.watch(id, wants_previews=False) if wait else None
    try:
        job, is_new = await to_thread.run_sync(take, id)
        response.headers["location"] = f"/v1/jobs/{job.id}"
        if watcher is None and is_new:
            return job_view(job, [])
        if watcher is not None:
            response.headers["preference-applied"] = f"wait={wait:.0f}"
            if is_new:
                await watcher.end(min(wait, pause_of(service)))
            else:  # it has another id
                watcher.close()
                watcher = service.feed.watch(job.id, wants_previews=False)
        return await _view(service, response, job, watcher, time.monotonic() + wait)
    except (UserError, ValueError, Full, Overloaded) as error:
        raise refused(error, service, count) from error
    finally:
        if watcher is not None:
            watcher.close()


async def _view(
    service: Service, response: Response, job: Job, watcher: Watcher | None, until: float
) -> JobView:
    """A job, when it has ended or when there is no more time."""
    while True:
        job, view = await to_thread.run_sync(_look, service, job)
        left = until - time.monotonic()
        if job.has_ended or watcher is None or left <= 0 or service.stops.is_set():
            if job.has_ended and watcher is not None:
                response.status_code = 200
            return view
        await watcher.end(min(left, pause_of(service)))


def _look(service: Service, job: Job) -> tuple[Job, JobView]:
    job = service.store.job(job.id) or job
    return job, job_view(job, service.album.of_job(job.id) if job.has_ended else [])
