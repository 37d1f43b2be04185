"""Models: list, read, report, delete."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Security

from app.auth import PREDICT, TUNE, authorize
from app.context import Ctx, in_thread
from app.routes.answers import Cursor, Limit, ModelId, problems
from app.schemas import Listing, Model, ModelDetail, listing

router = APIRouter(tags=["models"])
_READ = Security(authorize, scopes=[PREDICT])


@router.get("/models", operation_id="list_models", responses=problems(404, 422), dependencies=[_READ])
async def list_models(context: Ctx, limit: Limit = 50, cursor: Cursor = None) -> Listing[Model]:
    """List tuned models, newest first."""
    page = await in_thread(context.services.models.list, limit=limit, cursor=cursor)
    return listing(page, [Model.of(record) for record in page.items])


@router.get("/models/{model_id}", operation_id="get_model", responses=problems(404), dependencies=[_READ])
async def get_model(context: Ctx, model_id: ModelId) -> ModelDetail:
    """Read one model: manifest, metrics, lineage."""
    record = await in_thread(context.services.models.get, model_id)
    manifest = await in_thread(context.services.models.manifest, model_id)
    return ModelDetail.with_manifest(record, manifest)


@router.get("/models/{model_id}/report", operation_id="get_report", responses=problems(404), dependencies=[_READ])
async def get_report(context: Ctx, model_id: ModelId) -> dict[str, Any]:
    """Read a model's report: zero-shot beside tuned, on images the tuning did not see."""
    return await in_thread(context.services.models.report, model_id)


@router.delete(
    "/models/{model_id}",
    operation_id="delete_model",
    status_code=204,
    responses=problems(404, 409),
    dependencies=[Security(authorize, scopes=[TUNE])],
)
async def delete_model(context: Ctx, model_id: ModelId) -> None:
    """Delete a model. Something that needs it makes this a 409."""
    await in_thread(context.services.models.delete, model_id)
    context.inference.forget(model_id)
