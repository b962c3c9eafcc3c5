"""The models, and what class they take a picture for."""

import concurrent.futures
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Form, HTTPException, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from igpt_jax.classifying import class_probabilities
from igpt_jax.errors import UserError
from igpt_jax.serving.engine import Overloaded
from igpt_jax.serving.models import ServedModel
from igpt_jax.serving.routes.common import (
    Classifying,
    Reading,
    ServiceOf,
    check_open,
    problems,
    refused,
    upload_bytes,
)
from igpt_jax.serving.uploads import read_upload
from igpt_jax.serving.views import Classes, ClassView, Models, ModelView, Name
from igpt_jax.typing import Float

router = APIRouter(prefix="/v1", tags=["models"])


class Classify(BaseModel):
    """A picture whose class is asked for."""

    model_config = ConfigDict(extra="forbid")

    image: UploadFile = Field(description="PNG, JPEG or WebP")
    model: Name | None = Field(None, description="name of a model; the server's first by default")
    top: int = Field(5, ge=1, le=1_000, description="classes to answer with")


@router.get("/models", responses=problems())
def models(service: ServiceOf, client: Reading) -> Models:
    """The models that there are, and what can be asked of each."""
    settings = service.settings
    return Models(
        models=[_view(model) for model in service.models.values()],
        max_images=settings.max_images,
        max_upload=settings.max_upload,
        max_pixels=settings.max_pixels,
        deadline=settings.deadline,
    )


@router.post("/classify", responses=problems(400, 413, 503))
def classify(
    request: Annotated[Classify, Form()], service: ServiceOf, client: Classifying
) -> Classes:
    """The classes of which a picture is most probable, by the model's own likelihoods."""
    check_open(service)
    settings = service.settings
    try:
        model = service.model(request.model)
        if not model.info.num_classes:
            raise UserError("model: expected one of classes, got one without")
        image = read_upload(
            upload_bytes(request.image, service, "image"),
            model.info.image_size,
            max_bytes=settings.max_upload,
            max_pixels=settings.max_pixels,
        )
        future = service.worker.engine.call(model.painter.classify(image))
        nats = future.result(timeout=settings.deadline)
    except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
        raise HTTPException(
            503, "the model took too long; try again", {"retry-after": "5"}
        ) from None
    except (UserError, Overloaded) as error:
        raise refused(error, service) from error
    service.journal.write(client.id, "classify", model.name)
    return Classes(model=model.name, classes=_best(model, nats, request.top))


def _best(model: ServedModel, nats: Float[np.ndarray, " classes"], count: int) -> list[ClassView]:
    """The most probable classes by Bayes' rule, all as likely beforehand."""
    shares, names = class_probabilities(nats[None])[0], model.info.class_names
    return [
        ClassView(
            label=int(label),
            class_name=names[label] if names else None,
            log_likelihood=float(nats[label]),
            probability=float(shares[label]),
        )
        for label in np.argsort(-nats, kind="stable")[:count]
    ]


def _view(model: ServedModel) -> ModelView:
    values: dict[str, Any] = {
        **vars(model.info),
        "class_names": list(model.info.class_names),
        "attributes": {name: list(some) for name, some in model.info.attributes.items()},
        "defaults": dict(model.info.defaults),
    }
    return ModelView(name=model.name, **values)
