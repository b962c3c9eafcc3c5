"""Following and cancelling jobs."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent

from igpt_jax.serving.feed import News
from igpt_jax.serving.provenance import preview_file
from igpt_jax.serving.routes.common import Deleting, Reading, ServiceOf, problems
from igpt_jax.serving.store import Job
from igpt_jax.serving.views import Id, JobView, job_view

router = APIRouter(prefix="/v1", tags=["jobs"])

LOOK = 1.0  # seconds between two looks at the database, where another server may draw
LOOK_ALONE = 5.0  # the same where no other server can: news come from this process, too


def visible_job(id: Id, service: ServiceOf, client: Reading) -> Job:
    """The job, if the client may see it."""
    job = service.store.job(id, client.sees)
    if job is None:
        raise HTTPException(404, "job: expected one that the client may see, found none")
    return job


Visible = Annotated[Job, Depends(visible_job)]


def watchable_job(job: Visible, service: ServiceOf) -> Job:
    """The same, if one more may watch."""
    if service.feed.num_watchers >= service.settings.max_events:
        raise HTTPException(429, "too many connections follow jobs", {"retry-after": "2"})
    return job


@router.get("/jobs/{id}", responses=problems(404))
def job(job: Visible, service: ServiceOf) -> JobView:
    """How far a job is, and its pictures when it is done."""
    return job_view(job, service.album.of_job(job.id))


@router.delete("/jobs/{id}", responses=problems(404))
def cancel(id: Id, service: ServiceOf, client: Deleting) -> JobView:
    """Cancels a job; of one that has ended nothing changes."""
    found = service.store.job(id, client.sees)
    if found is None:
        raise HTTPException(404, "job: expected one that the client may see, found none")
    service.cancel(client.id, found)
    now = service.store.job(id) or found
    return job_view(now, service.album.of_job(id))


@router.get("/jobs/{id}/events", response_class=EventSourceResponse, responses=problems(404))
async def events(
    job: Annotated[Job, Depends(watchable_job)], service: ServiceOf, previews: bool = True
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events of a job, until it ends.

    `progress`: `{state, tokens, total}`. `preview`: `{index, image}`, a picture so far as a data
    URL. `end`: the job with its pictures. Where another server draws it, there are no previews; who
    only waits leaves them off, for they cost the server time.
    """
    watcher = service.feed.watch(job.id, wants_previews=previews)
    try:
        tokens, look = -1, LOOK_ALONE if service.database.is_sqlite else LOOK
        while True:
            now = await to_thread.run_sync(service.store.job, job.id)
            if now is None or now.has_ended:
                break
            if now.tokens > tokens:
                tokens = now.tokens
                yield _progress(now.state, tokens, now.total)
            news = await watcher.next(look)
            while news.tokens is not None or news.previews:
                if news.tokens is not None and news.tokens > tokens:
                    tokens = news.tokens
                    yield _progress("running", tokens, news.total)
                for event in await to_thread.run_sync(_previews, news):
                    yield event
                news = News() if news.has_ended else await watcher.next(look)
            if service.stops.is_set():
                return
        if now is not None:
            yield ServerSentEvent(event="end", data=await to_thread.run_sync(_view, service, now))
    finally:
        watcher.close()


def _view(service: Any, job: Job) -> dict[str, Any]:
    return job_view(job, service.album.of_job(job.id)).model_dump()


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
