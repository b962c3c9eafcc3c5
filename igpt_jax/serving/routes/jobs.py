"""Following and cancelling jobs."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent

from igpt_jax.serving.feed import News, Watcher
from igpt_jax.serving.provenance import preview_file
from igpt_jax.serving.routes.common import Deleting, Reading, ServiceOf, problems
from igpt_jax.serving.routes.waiting import pause_of
from igpt_jax.serving.service import Service
from igpt_jax.serving.store import Job
from igpt_jax.serving.views import Id, JobView, job_view

router = APIRouter(prefix="/v1", tags=["jobs"])


def visible_job(id: Id, service: ServiceOf, client: Reading) -> Job:
    """The job, if the client may see it."""
    job = service.store.job(id, client.sees)
    if job is None:
        raise HTTPException(404, "job: expected one that the client may see, found none")
    return job


async def watched_job(
    id: Id, service: ServiceOf, client: Reading, previews: bool = True
) -> AsyncIterator[tuple[Watcher, Job]]:
    """A watcher of the job, and then the job itself: nothing is missed between the two."""
    if service.feed.num_watchers >= service.settings.max_events:
        raise HTTPException(429, "too many connections follow jobs", {"retry-after": "2"})
    watcher = service.feed.watch(id, wants_previews=previews)
    try:
        yield watcher, await to_thread.run_sync(visible_job, id, service, client)
    finally:
        watcher.close()


@router.get("/jobs/{id}", responses=problems(404))
def job(id: Id, service: ServiceOf, client: Reading) -> JobView:
    """How far a job is, and its pictures when it is done."""
    found = visible_job(id, service, client)
    return job_view(found, service.album.of_job(id))


@router.delete("/jobs/{id}", responses=problems(404))
def cancel(id: Id, service: ServiceOf, client: Deleting) -> JobView:
    """Cancels a job; of one that has ended nothing changes."""
    found = visible_job(id, service, client)
    service.cancel(client.id, found)
    now = service.store.job(id) or found
    return job_view(now, service.album.of_job(id))


@router.get("/jobs/{id}/events", response_class=EventSourceResponse, responses=problems(404))
async def events(
    watched: Annotated[tuple[Watcher, Job], Depends(watched_job)], service: ServiceOf
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events of a job, until it ends.

    `progress`: `{state, tokens, total}`. `preview`: `{index, image}`, a picture so far as a data
    URL. `end`: the job with its pictures. Where another server draws it, there are no previews; who
    only waits leaves them off, for they cost the server time.
    """
    watcher, job = watched
    tokens, look = -1, pause_of(service)
    end = await to_thread.run_sync(_end, service, job) if job.has_ended else None
    while end is None:
        if job.tokens > tokens:
            tokens = job.tokens
            yield _progress(job.state, tokens, job.total)
        news = await watcher.next(look)
        while news.tokens is not None or news.previews:
            if news.tokens is not None and news.tokens > tokens:
                tokens = news.tokens
                yield _progress("running", tokens, news.total)
            if news.previews:
                for event in await to_thread.run_sync(_previews, news):
                    yield event
            news = News() if news.has_ended else await watcher.next(look)
        if service.stops.is_set():
            return
        found, end = await to_thread.run_sync(_look, service, job.id)
        if found is None:  # nothing is deleted while somebody looks, but a database may be reset
            return
        job = found
    yield end


def _look(service: Service, id: str) -> tuple[Job | None, ServerSentEvent | None]:
    """A job as it is now, and the last event if it has ended."""
    job = service.store.job(id)
    return job, _end(service, job) if job is not None and job.has_ended else None


def _end(service: Service, job: Job) -> ServerSentEvent:
    view = job_view(job, service.album.of_job(job.id))
    return ServerSentEvent(event="end", raw_data=view.model_dump_json())


def _progress(state: str, tokens: int, total: int) -> ServerSentEvent:
    return ServerSentEvent(
        event="progress", data={"state": state, "tokens": tokens, "total": total}
    )


def _previews(news: News) -> list[ServerSentEvent]:
    found = []
    for index, image in sorted(news.previews.items()):
        data = base64.b64encode(preview_file(image)).decode()
        shown = {"index": index, "image": f"data:image/webp;base64,{data}"}
        found.append(ServerSentEvent(event="preview", data=shown))
    return found
