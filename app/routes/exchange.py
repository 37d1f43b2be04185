"""Models in and out: one file for another server, or ONNX for anything else."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack
from typing import Annotated, Any, BinaryIO, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response, Security
from fastapi.responses import StreamingResponse

from app.auth import TUNE, Caller, authorize
from app.context import Context, Ctx, in_thread, link
from app.forms import Form
from app.model_schemas import Model
from app.problems import Problem
from app.routes.answers import ModelId, problems
from app.routes.tune import MAX_NAME
from app.schemas import MODEL_ID
from app.uploads import Upload
from npt_core.errors import Fault
from worker.exchange import Arrival
from worker.logs import log_change
from worker.records import ModelRecord

router = APIRouter(tags=["models"])
_WRITE = Security(authorize, scopes=[TUNE])

ONNX_CHUNK = 1024 * 1024
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "An exported model."},
                        "name": {"type": "string", "maxLength": MAX_NAME, "description": "What it shall be called."},
                    },
                }
            },
            "application/zip": _BINARY,
        },
    },
    "parameters": [
        {
            "name": "name",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "maxLength": MAX_NAME},
            "description": "With a raw body: what the model shall be called; by default as where it was made.",
        }
    ],
}


@router.get(
    "/models/{model_id}/export",
    operation_id="export_model",
    response_class=Response,
    responses={
        200: {
            "description": "The file; its name is in Content-Disposition.",
            "content": {"application/zip": _BINARY, "application/octet-stream": _BINARY},
        },
        **problems(404, 409, 422, 501, 503, 507),
    },
    dependencies=[_WRITE],
)
async def export_model(
    context: Ctx,
    model_id: ModelId,
    format: Annotated[
        Literal["zip", "onnx"],
        Query(description="`zip`: for POST /models/import. `onnx`: image tower and class texts in one ONNX graph."),
    ] = "zip",
) -> Response:
    """Take a model away.

    `zip`: what was learned and everything said about it, as safetensors and JSON; no pickle, no code. It needs the same
    backbone where it goes.

    `onnx`: pictures in, probabilities out, without this software; for models whose class texts are fixed and whose
    image path is frozen. Writing it takes a while the first time: a 503 with Retry-After says that it is under way.
    """
    if format == "onnx":
        return await _onnx(context, model_id)
    record, pieces = await in_thread(context.services.exchange.pack, model_id)
    headers = _attachment(f"{record.id}.zip") | ({"ETag": f'"{record.content}"'} if record.content else {})
    return StreamingResponse(_in_threads(pieces), media_type="application/zip", headers=headers)


def _attachment(filename: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{filename}"', "Cache-Control": "private, no-cache"}


async def _in_threads(pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    """What a blocking generator gives, each piece made in a thread; it is closed however this ends."""
    step = functools.partial(next, pieces, None)
    try:
        while (piece := await to_thread.run_sync(step)) is not None:
            if piece:
                yield piece
    finally:
        pieces.close()


async def _onnx(context: Context, model_id: str) -> Response:
    file, size = await context.onnx.open(model_id)
    headers = _attachment(f"{model_id}.onnx") | {"Content-Length": str(size)}
    return StreamingResponse(_in_threads(_read(file)), media_type="application/octet-stream", headers=headers)


def _read(file: BinaryIO) -> Generator[bytes, None, None]:
    with file:
        while chunk := file.read(ONNX_CHUNK):
            yield chunk


# --- importing --------------------------------------------------------------------------------------------------------


@router.post(
    "/models/import",
    operation_id="import_model",
    status_code=201,
    responses={
        200: {"model": Model, "description": "This very model is here already"},
        201: {
            "description": "It is a model of this server now",
            "headers": {
                "Location": {
                    "description": "The model",
                    "schema": {"type": "string"},
                    "example": f"/models/{MODEL_ID}",
                }
            },
        },
        **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def import_model(
    context: Ctx, request: Request, response: Response, caller: Annotated[Caller, Security(authorize, scopes=[TUNE])]
) -> Model:
    """Make an exported model one of this server's. It needs the very backbone it was tuned on.

    Send a form with `file`, or the zip itself as the body (`Content-Type: application/zip`). All of it is checked, and
    it answers once, before it is kept. The same model again is answered with the one that is here (200).
    """
    async with context.uploads.receive(request, "file") as (form, upload):
        name = _name(form, request)
        if upload is None:
            raise Problem("invalid-request", "The form has no file; send an exported model as `file`.")
        context.metrics.upload_bytes.inc(upload.size)
        record, created = await _take_in(context, upload, name, caller.id)
    if created:
        log_change("model.import", record.id)
    response.status_code = 201 if created else 200
    response.headers["Location"] = link(request, f"/models/{record.id}")
    return Model.of(record)


def _name(form: Form, request: Request) -> str | None:
    unknown = sorted(set(form.fields) - {"name"})
    if unknown:
        raise Problem("invalid-request", f"Unknown fields: {', '.join(unknown)}; accepted are file and name.")
    name = form.one("name") or request.query_params.get("name") or ""
    if len(name) > MAX_NAME or not (name.isprintable() or not name):
        message = f"must be at most {MAX_NAME} printable characters"
        raise Problem("invalid-request", f"The name {message}.", [Fault("name", message)])
    return name.strip() or None


async def _take_in(context: Context, upload: Upload, name: str | None, owner: str) -> tuple[ModelRecord, bool]:
    exchange = context.services.exchange
    with ExitStack() as stack:
        unpack = functools.partial(stack.enter_context, exchange.unpacked(upload.path))
        arrival: Arrival = await to_thread.run_sync(unpack, limiter=context.ingest)
        try:
            known = await in_thread(exchange.known, arrival, name)
            if known is not None:
                return known, False
            backbone = await context.inference.backbones.admit(arrival.folder, arrival.backbone, arrival.fingerprint)
            return await in_thread(exchange.keep, arrival, backbone=backbone, name=name, owner=owner)
        finally:
            await in_thread(stack.close)
