"""Models: list, read, report, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, Security
from fastapi.responses import JSONResponse

from app.auth import PREDICT, TUNE, authorize
from app.context import Context, Ctx, in_thread
from app.model_schemas import Model, ModelDetail
from app.negotiation import PAGE, VARY, Format, as_page, wants_page
from app.routes.answers import Cursor, Limit, ModelId, problems
from app.schemas import Listing, listing
from npt_core.report import Subject, render_report
from npt_core.report.reproduce import commands
from worker.logs import log_change

router = APIRouter(tags=["models"])
_READ = Security(authorize, scopes=[PREDICT])
_REPORT: dict[str, Any] = {"description": "The report, as data or as a page.", **PAGE}


@router.get("/models", operation_id="list_models", responses=problems(404, 422), dependencies=[_READ])
async def list_models(
    context: Ctx,
    name: Annotated[str | None, Query(max_length=200, description="Only the versions of this name.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[Model]:
    """List tuned models, newest first."""
    page = await in_thread(context.services.models.list, name=name, limit=limit, cursor=cursor)
    return listing(page, [Model.of(record) for record in page.items])


@router.get("/models/{model_id}", operation_id="get_model", responses=problems(404), dependencies=[_READ])
async def get_model(context: Ctx, model_id: ModelId) -> ModelDetail:
    """Read one model: manifest, metrics, lineage."""
    return await in_thread(_detail, context, model_id)


def _detail(context: Context, model_id: str) -> ModelDetail:
    services = context.services
    record, manifest = services.models.get(model_id), services.models.manifest(model_id)
    return ModelDetail.with_lineage(
        record, manifest, services.catalogue.ancestors(record), services.aliases.of(model_id)
    )


@router.get(
    "/models/{model_id}/report",
    operation_id="get_report",
    response_model=dict[str, Any],
    responses={**problems(404, 422), 200: _REPORT},
    dependencies=[_READ],
)
async def get_report(
    request: Request,
    context: Ctx,
    model_id: ModelId,
    format: Format = None,
) -> Response:
    """Read a model's report: zero-shot beside tuned, on images the tuning did not see.

    JSON, or with `Accept: text/html` or `?format=html` one page with plots that needs nothing from anywhere.
    """
    base_url = str(request.base_url).rstrip("/")
    if wants_page(request, format):
        return as_page(await in_thread(_page, context, model_id, base_url))
    return JSONResponse(await in_thread(_report, context, model_id, base_url), headers=VARY)


def _report(context: Context, model_id: str, base_url: str) -> dict[str, Any]:
    report = context.services.models.report(model_id)
    if isinstance(report.get("reproduce"), dict):
        report["reproduce"] = {**report["reproduce"], "commands": commands(report, base_url)}
    return report


def _page(context: Context, model_id: str, base_url: str) -> str:
    models = context.services.models
    record = models.get(model_id)
    subject = Subject(record.id, record.name, record.version, models.manifest(model_id))
    return render_report(models.report(model_id), subject, base_url=base_url)


@router.delete(
    "/models/{model_id}",
    operation_id="delete_model",
    status_code=204,
    responses=problems(404, 409),
    dependencies=[Security(authorize, scopes=[TUNE])],
)
async def delete_model(context: Ctx, model_id: ModelId) -> None:
    """Delete a model. An alias that points to it, or an unfinished job that needs it, makes this a 409.

    A model that was continued from it stays whole, and keeps its id in its lineage. Its version number is not given
    again.
    """
    await in_thread(context.services.catalogue.delete, model_id)
    context.inference.forget(model_id)
    log_change("model.delete", model_id)
