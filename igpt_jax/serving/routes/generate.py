"""Asking for pictures."""

from typing import Annotated

from fastapi import APIRouter, Form, Header, Response, UploadFile
from pydantic import Field

from igpt_jax.serving.routes.common import Generating, ServiceOf, problems, upload_bytes
from igpt_jax.serving.routes.waiting import DONE, Prefer, accepted
from igpt_jax.serving.security import Client
from igpt_jax.serving.service import Service
from igpt_jax.serving.store import Job
from igpt_jax.serving.uploads import as_mask, read_upload
from igpt_jax.serving.views import Asked, Generate, JobView

router = APIRouter(prefix="/v1", tags=["generate"])

RepeatKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="the same request once more gets the same job",
    ),
]


class Complete(Asked):
    """Pictures to complete."""

    image: UploadFile = Field(description="PNG, JPEG or WebP, of which a part is drawn anew")
    mask: UploadFile | None = Field(None, description="the same size, white where it is")
    keep: float | None = Field(
        None, ge=0, lt=1, description="share that is kept from the top, instead of a mask"
    )
    vary: float | None = Field(
        None, gt=0, le=1, description="share that is drawn anew, here and there, instead"
    )


@router.post("/generate", status_code=202, responses={**DONE, **problems(400, 413, 503)})
async def generate(
    request: Generate,
    response: Response,
    service: ServiceOf,
    client: Generating,
    repeat_key: RepeatKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Accepts pictures of a text, a class, attributes or nothing; they are drawn afterwards.

    Follow the job at `/v1/jobs/{id}/events`, or prefer to wait for it.
    """

    def take(id: str) -> tuple[Job, bool]:
        model = service.model(request.model)
        ask = request.ask(model.info.class_names, attributes=request.attributes)
        count, seconds = request.n, request.deadline
        return service.accept(client.id, model, ask, count, seconds, repeat_key, id)

    return await accepted(service, response, take, request.n, prefer)


@router.post("/complete", status_code=202, responses={**DONE, **problems(400, 413, 503)})
async def complete(
    request: Annotated[Complete, Form()],
    response: Response,
    service: ServiceOf,
    client: Generating,
    repeat_key: RepeatKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Accepts a picture of which a part is drawn anew, `n` times."""

    def take(id: str) -> tuple[Job, bool]:
        return _complete(request, service, client, repeat_key, id)

    return await accepted(service, response, take, request.n, prefer)


def _complete(
    request: Complete, service: Service, client: Client, repeat_key: str | None, id: str
) -> tuple[Job, bool]:
    model, settings = service.model(request.model), service.settings
    limits = {"max_bytes": settings.max_upload, "max_pixels": settings.max_pixels}
    size, mask = model.info.image_size, None
    image = read_upload(upload_bytes(request.image, service, "image"), size, **limits)
    if request.mask is not None:
        data = upload_bytes(request.mask, service, "mask")
        mask = as_mask(read_upload(data, size, **limits, name="mask"))
    parts = {"image": image, "mask": mask, "keep": request.keep, "vary": request.vary}
    ask = request.ask(model.info.class_names, **parts)
    return service.accept(client.id, model, ask, request.n, request.deadline, repeat_key, id)
