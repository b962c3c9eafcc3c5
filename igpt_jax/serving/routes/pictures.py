"""What was made: search, files, deletion, again."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from igpt_jax.serving import album
from igpt_jax.serving.album import Picture
from igpt_jax.serving.provenance import webp_file
from igpt_jax.serving.routes.common import (
    Deleting,
    Generating,
    Reading,
    ServiceOf,
    problems,
)
from igpt_jax.serving.routes.waiting import DONE, Prefer, accepted
from igpt_jax.serving.store import Job
from igpt_jax.serving.views import (
    Id,
    JobView,
    Label,
    Name,
    Page,
    PictureView,
    Seed,
    Text,
    picture_view,
)

router = APIRouter(prefix="/v1", tags=["pictures"])

NONE = "picture: expected one that the client may see, found none"


class Wanted(BaseModel):
    """Which pictures are wanted."""

    model_config = ConfigDict(extra="forbid")

    q: Text | None = Field(None, description="words of prompt, class or attributes, all of them")
    label: Label | None = Field(None, description="class")
    class_name: Name | None = Field(None, description="its name")
    model: Name | None = Field(None, description="what drew them")
    job: Id | None = Field(None, description="what they were made by")
    since: float | None = Field(None, allow_inf_nan=False, description="seconds since 1970")
    until: float | None = Field(None, allow_inf_nan=False, description="seconds since 1970")
    before: int | None = Field(None, ge=0, lt=2**53, description="`next` of the page before")
    limit: int = Field(24, ge=1, le=100)


class Again(BaseModel):
    """How a picture is drawn once more."""

    model_config = ConfigDict(extra="forbid")

    seed: Seed | None = Field(None, description="another one is drawn if it is left out")


def visible_picture(id: Id, service: ServiceOf, client: Reading) -> Picture:
    """The picture, if the client may see it."""
    found = service.album.picture(id, client.sees)
    if found is None:
        raise HTTPException(404, NONE)
    return found


Visible = Annotated[Picture, Depends(visible_picture)]


@router.get("/pictures", responses=problems())
def search(wanted: Annotated[Wanted, Query()], service: ServiceOf, client: Reading) -> Page:
    """Finds pictures, the newest first.

    Words are found whole, whatever their case; of Chinese any run of characters is found.
    """
    query = album.Query(
        wanted.q or None,
        wanted.label,
        wanted.class_name,
        wanted.model,
        wanted.job,
        wanted.since,
        wanted.until,
        wanted.before,
    )
    found = service.album.search(query, wanted.limit + 1, client.sees)
    shown = found[: wanted.limit]
    more = shown[-1].number if len(found) > len(shown) else None
    return Page(pictures=[picture_view(picture) for picture in shown], next=more)


@router.get("/pictures/{id}", responses=problems(404))
def picture(picture: Visible) -> PictureView:
    """What a picture is and how it was made."""
    return picture_view(picture)


@router.get(
    "/pictures/{id}/file",
    response_class=Response,
    responses={
        **problems(404),
        200: {"content": {"image/png": {}, "image/webp": {}}, "description": "the picture"},
        304: {"description": "the client has it"},
    },
)
def file(
    id: Id,
    service: ServiceOf,
    client: Reading,
    format: Literal["png", "webp"] = "png",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A picture's file, with its settings (PNG) and that a model made it (both) inside."""
    picture = visible_picture(id, service, client)  # here, not as a dependency: one thread for both
    tag = f'"{picture.sha256}-{format}"'
    headers = {"etag": tag, "cache-control": "private, max-age=86400"}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    data = service.files.get(picture.file)
    if data is None:  # deleted between two looks
        raise HTTPException(404, NONE)
    if format == "webp":
        data = webp_file(data)
    headers["content-disposition"] = f'inline; filename="{picture.id}.{format}"'
    return Response(data, media_type=f"image/{format}", headers=headers)


@router.delete("/pictures/{id}", status_code=204, responses=problems(404))
def remove(id: Id, service: ServiceOf, client: Deleting) -> None:
    """Deletes a picture for good."""
    found = service.album.picture(id, client.sees)
    if found is None or not service.remove(client.id, found):
        raise HTTPException(404, NONE)


@router.post(
    "/pictures/{id}/again", status_code=202, responses={**DONE, **problems(400, 404, 413, 503)}
)
async def again(
    picture: Visible,
    service: ServiceOf,
    client: Generating,
    request: Again,
    response: Response,
    prefer: Prefer = None,
) -> JobView:
    """Draws what the picture was asked to be, of another seed."""

    def take(id: str) -> tuple[Job, bool]:
        return service.again(client.id, picture, request.seed, id)

    return await accepted(service, response, take, 1, prefer)
