"""Aliases: names like `champion` that point to a model; publish and roll back in one call."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Security

from app.auth import PREDICT, TUNE, authorize
from app.bodies import ListBodyRoute
from app.context import Ctx, in_thread
from app.model_schemas import Alias, AliasTarget
from app.routes.answers import Cursor, Limit, problems
from app.schemas import Listing, listing
from worker.logs import log_change

router = APIRouter(tags=["models"], route_class=ListBodyRoute)
_WRITE = Security(authorize, scopes=[TUNE])
AliasName = Annotated[
    str, Path(max_length=100, description="1 to 63 of a-z, 0-9, `.`, `_` and `-`.", examples=["champion"])
]


@router.get(
    "/aliases",
    operation_id="list_aliases",
    responses=problems(422),
    dependencies=[Security(authorize, scopes=[PREDICT])],
)
async def list_aliases(context: Ctx, limit: Limit = 50, cursor: Cursor = None) -> Listing[Alias]:
    """List aliases by name."""
    page = await in_thread(context.services.aliases.list, limit=limit, cursor=cursor)
    return listing(page, [Alias.of(record) for record in page.items])


@router.put(
    "/aliases/{alias}",
    operation_id="put_alias",
    responses=problems(400, 404, 408, 409, 413, 422, 507),
    dependencies=[_WRITE],
)
async def put_alias(context: Ctx, alias: AliasName, target: AliasTarget) -> Alias:
    """Point an alias to a model, whether it is new or pointed to another one.

    Every request that begins after the answer gets the new model; one that is under way keeps the old one. The way
    back is the same call with `previous`. `reject_below` and `priors` belong to the alias: they stay when it moves,
    unless others are sent, or null.
    """
    record, _ = await in_thread(context.services.aliases.put, alias, target.model, **target.stated())
    log_change(
        "alias.set", alias, model=record.model_id, reject_below=record.reject_below, priors=record.priors is not None
    )
    return Alias.of(record)


@router.delete(
    "/aliases/{alias}", operation_id="delete_alias", status_code=204, responses=problems(404), dependencies=[_WRITE]
)
async def delete_alias(context: Ctx, alias: AliasName) -> None:
    """Delete an alias; the model stays."""
    await in_thread(context.services.aliases.delete, alias)
    log_change("alias.delete", alias)
