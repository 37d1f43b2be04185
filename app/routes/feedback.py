"""Feedback: switch it on for a model, look through what was kept, label it, tune the next version with it."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response, Security

from app.accepting import ACCEPTED, accepted
from app.auth import TUNE, Caller, authorize
from app.bodies import ListBodyRoute
from app.context import Context, Ctx, in_thread
from app.feedback_schemas import ITEM_ID, Feedback, FeedbackSwitch, Item, Labels, Relearn
from app.idempotency import IdempotencyKey, fingerprint, once, replayed
from app.parents import find_parent
from app.problems import Problem
from app.routes.answers import Cursor, Limit, ModelId, problems
from app.routes.tune import check_config
from app.schemas import Job, Listing, listing
from worker.feedback import FeedbackSettings
from worker.labelled import grow
from worker.logs import log_change

router = APIRouter(tags=["feedback"], route_class=ListBodyRoute, dependencies=[Security(authorize, scopes=[TUNE])])

ItemId = Annotated[str, Path(max_length=100, description="Id of a feedback item.", examples=[ITEM_ID])]


@router.get("/models/{model_id}/feedback", operation_id="get_feedback", responses=problems(404))
async def get_feedback(context: Ctx, model_id: ModelId) -> Feedback:
    """Read how a model's switch stands, and how many images are there."""
    return Feedback.of(await in_thread(context.services.feedback.state, model_id))


@router.put("/models/{model_id}/feedback", operation_id="set_feedback", responses=problems(404, 408, 413, 422, 507))
async def set_feedback(context: Ctx, model_id: ModelId, switch: FeedbackSwitch) -> Feedback:
    """Switch feedback on or off for a model, and say what is kept.

    While it is on, images that `POST /predict` got and the model was not sure about are kept on this server. Answers
    among other names (`labels`) are left out. New bounds hold at once: what is over them goes.
    """
    settings = FeedbackSettings(**switch.model_dump())
    state = await in_thread(context.services.feedback.switch, model_id, settings)
    log_change("feedback.switch", model_id, enabled=settings.enabled)
    return Feedback.of(state)


@router.delete("/models/{model_id}/feedback", operation_id="clear_feedback", status_code=204, responses=problems(404))
async def clear_feedback(context: Ctx, model_id: ModelId) -> None:
    """Switch feedback off for a model and forget every image that was kept."""
    await in_thread(context.services.feedback.clear, model_id)
    log_change("feedback.clear", model_id)


@router.get("/models/{model_id}/feedback/items", operation_id="list_feedback", responses=problems(404, 422))
async def list_feedback(
    context: Ctx,
    model_id: ModelId,
    labelled: Annotated[bool | None, Query(description="Only items with, or only items without a label.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[Item]:
    """List what was kept, newest first."""
    page = await in_thread(context.services.feedback.list, model_id, labelled=labelled, limit=limit, cursor=cursor)
    return listing(page, [Item.of(one) for one in page.items])


@router.get(
    "/models/{model_id}/feedback/items/{item_id}/image",
    operation_id="get_feedback_image",
    response_class=Response,
    responses={
        200: {
            "description": "The file as it was sent",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(404),
    },
)
async def get_image(context: Ctx, model_id: ModelId, item_id: ItemId) -> Response:
    """Read an image that was kept."""
    _, picture = await in_thread(context.services.feedback.get, model_id, item_id)
    media_type = await in_thread(_media_type, picture)
    return Response(picture, media_type=media_type, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})


@router.delete(
    "/models/{model_id}/feedback/items/{item_id}",
    operation_id="delete_feedback_item",
    status_code=204,
    responses=problems(404),
)
async def delete_item(context: Ctx, model_id: ModelId, item_id: ItemId) -> None:
    """Forget one image."""
    await in_thread(context.services.feedback.delete, model_id, item_id)
    log_change("feedback.delete", item_id, model=model_id)


@router.post(
    "/models/{model_id}/feedback/labels", operation_id="label_feedback", responses=problems(404, 408, 413, 422)
)
async def label_feedback(context: Ctx, model_id: ModelId, labels: Labels) -> Feedback:
    """Say what images show; a new class is a label like any other. All labels are kept, or none."""
    await in_thread(context.services.feedback.label, model_id, labels.labels)
    log_change("feedback.label", model_id, items=len(labels.labels))
    return Feedback.of(await in_thread(context.services.feedback.state, model_id))


@router.post(
    "/models/{model_id}/feedback/tune",
    operation_id="tune_with_feedback",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(404, 408, 409, 413, 422, 503, 507),
    },
)
async def tune_with_feedback(
    context: Ctx,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Security(authorize, scopes=[TUNE])],
    model_id: ModelId,
    wishes: Relearn | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Tune the next version of a model with what was labelled.

    The labelled images are added to the model's data set, which makes a new one, and a job tunes on that with the
    model's settings and under its name. The items stay until they grow too old; added twice, an image counts once.
    """
    wishes = wishes or Relearn()
    with once(context, caller, idempotency_key) as key:
        # Of what was asked: what is labelled by now may differ when the same request is sent again.
        mark = fingerprint(model_id, wishes.model_dump(mode="json"), "feedback")
        earlier = await replayed(context, caller, key, mark)
        if earlier is not None:
            return accepted(request, response, earlier, created=False)
        config = await in_thread(_config, context, model_id, wishes.config)
        dataset_id = await to_thread.run_sync(_grown, context, model_id, wishes, limiter=context.ingest)
        name = wishes.name or (await in_thread(context.services.models.get, model_id)).name
        record, created = await in_thread(
            context.services.start_job,
            "tune",
            config,
            dataset_id=dataset_id,
            name=name,
            owner=caller.id,
            idempotency_key=key,
            fingerprint=mark if key else None,
        )
    return accepted(request, response, record, created=created, dataset=dataset_id, feedback_of=model_id)


def _config(context: Context, model_id: str, wishes: dict[str, Any]) -> dict[str, Any]:
    """The settings the model was tuned with, and what replaces them."""
    tuned_with = dict(context.services.models.manifest(model_id).get("config", {}))
    tuned_with.pop("schedule", None)  # it was worked out from the settings
    if tuned_with.get("parent") is not None:  # its data set alone may lack classes: go on from the model itself
        tuned_with["parent"] = model_id
    asked = tuned_with | wishes
    parent = find_parent(context.services, asked)
    if parent is not None:  # the parent's own settings are filled in by it
        return check_config(asked, context.settings.backbone_entries, parent)
    for choice in ("method", "regularizer"):
        if choice in wishes and wishes[choice] != tuned_with.get(choice):
            tuned_with.pop(f"{choice}_config", None)
            if choice == "method":  # another method has another schedule, and perhaps another regulariser
                for setting in ("epochs", "batch_size", "lr", "regularizer", "regularizer_config"):
                    tuned_with.pop(setting, None)
    return check_config(tuned_with | wishes, context.settings.backbone_entries)


def _grown(context: Context, model_id: str, wishes: Relearn) -> str:
    """Store the data set with the labelled images added; its id.

    Raises:
        Problem: 409, there is no data set to add them to.
        ConflictError: Nothing is labelled.
    """
    services = context.services
    dataset_id = wishes.dataset_id or services.models.get(model_id).dataset_id
    if dataset_id is None or not services.datasets.exists(dataset_id):
        raise Problem(
            "conflict",
            f"The data set of {model_id} is not on this server, so the labelled images cannot be added to it; store "
            "it with POST /datasets and name it as `dataset_id`.",
        )
    record, created = grow(services.datasets, services.store, dataset_id, services.feedback.labelled(model_id))
    if created:
        log_change("dataset.create", record.id, source=dataset_id, feedback_of=model_id)
    return record.id


def _media_type(picture: bytes) -> str:
    from npt_core.data.images import read_header

    return f"image/{read_header(picture).format.lower()}"
