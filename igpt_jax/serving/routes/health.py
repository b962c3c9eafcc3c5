"""What operators ask."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from igpt_jax.serving.routes.common import ServiceOf, allowed, problems
from igpt_jax.serving.security import Client

router = APIRouter(tags=["operation"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "why it is not ready"}})
def readyz(service: ServiceOf, response: Response) -> dict[str, str]:
    """Whether requests are drawn: models are warm, the engine and the database answer."""
    state = service.state
    response.status_code = 200 if state == "ready" else 503
    return {"status": state}


@router.get("/metrics", response_class=Response, responses=problems())
def metrics(service: ServiceOf, client: Annotated[Client, Depends(allowed("metrics"))]) -> Response:
    """Numbers for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/audit", responses=problems())
def audit(
    service: ServiceOf,
    client: Annotated[Client, Depends(allowed("admin"))],
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    before: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
) -> list[dict[str, Any]]:
    """Who did what, the newest first."""
    return service.journal.entries(limit, before)
