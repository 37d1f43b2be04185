"""API keys: make, list, revoke. The same as `python -m app keys`, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, Security

from app.access.keyring import OPEN_CALLER, Caller
from app.access.records import StoredKey
from app.access.schemas import KEY_ID, Key, MadeKey, NewKey
from app.auth import ADMIN, authorize
from app.bodies import SmallBodyRoute
from app.context import in_thread, link
from app.problems import Problem
from app.routes.answers import Cursor, Limit, problems
from app.schemas import Listing, listing
from npt_core.errors import ConfigError
from worker.logs import log_change
from worker.records import utcnow

router = APIRouter(tags=["keys"], route_class=SmallBodyRoute)
_ADMIN = Security(authorize, scopes=[ADMIN])
KeyId = Annotated[str, Path(max_length=100, description="Id of a key.", examples=[KEY_ID])]


@router.post(
    "/keys",
    operation_id="create_key",
    status_code=201,
    responses={
        201: {
            "description": "The key was made",
            "headers": {
                "Location": {"description": "The key", "schema": {"type": "string"}, "example": f"/keys/{KEY_ID}"}
            },
        },
        **problems(408, 409, 413, 422, 507),
    },
)
async def create_key(request: Request, response: Response, new: NewKey, caller: Annotated[Caller, _ADMIN]) -> MadeKey:
    """Make a key. The answer holds it, this once: only its hash is kept.

    With the first key a server that was open to this machine asks everybody for one; it must have the scope `admin`,
    or nobody could make another this way.
    """
    if caller is OPEN_CALLER and ADMIN not in new.scopes:
        raise Problem(
            "conflict",
            "This server has no key yet, and with the first one it asks everybody for a key: "
            "make one with the scope admin first.",
        )
    try:
        wanted = new.wanted()
    except ConfigError as error:
        raise Problem("invalid-request", error.message, error.faults) from None
    keyring = request.app.state.keyring
    record, secret = await in_thread(keyring.repository.create, wanted, by=caller.id)
    log_change("key.create", record.id, scopes=list(record.scopes), label=record.label)
    await in_thread(keyring.refresh)
    response.headers["Location"] = link(request, f"/keys/{record.id}")
    return MadeKey.of(StoredKey(record=record), utcnow(), key=secret)


@router.get("/keys", operation_id="list_keys", responses=problems(404, 422), dependencies=[_ADMIN])
async def list_keys(request: Request, limit: Limit = 50, cursor: Cursor = None) -> Listing[Key]:
    """List keys, newest first, those that have ended too. Keys of the server's settings are not among them."""
    page = await in_thread(request.app.state.keyring.repository.list, limit=limit, cursor=cursor)
    now = utcnow()
    return listing(page, [Key.of(key, now) for key in page.items])


@router.get("/keys/{key_id}", operation_id="get_key", responses=problems(404), dependencies=[_ADMIN])
async def get_key(request: Request, key_id: KeyId) -> Key:
    """Read one key, without the key itself."""
    return Key.of(await in_thread(request.app.state.keyring.repository.get, key_id), utcnow())


@router.delete("/keys/{key_id}", operation_id="revoke_key", status_code=204, responses=problems(404, 507))
async def revoke_key(request: Request, key_id: KeyId, caller: Annotated[Caller, _ADMIN]) -> None:
    """Revoke a key for good. It is refused at once here, and within a second by other processes; its record stays."""
    keyring = request.app.state.keyring
    if await in_thread(keyring.repository.revoke, key_id, by=caller.id):
        log_change("key.revoke", key_id)
    await in_thread(keyring.refresh)
