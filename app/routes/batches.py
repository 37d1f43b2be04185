"""POST /predict/batch: a zip of pictures in, a job, its answers as JSON lines or CSV out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response, Security
from fastapi.responses import FileResponse

from app.accepting import ACCEPTED, accepted
from app.auth import PREDICT, Caller, authorize
from app.context import Context, Ctx, in_thread
from app.examples import FILE
from app.forms import Form, media_type
from app.idempotency import IdempotencyKey, fingerprint, once, replayed
from app.plans import ZERO_SHOT, Question
from app.problems import Problem
from app.resolving import found_by, refuse_unknown_backbone
from app.routes.answers import problems
from app.routes.datasets import FILENAME
from app.routes.jobs import VisibleJob
from app.routes.predict import FIELDS, MAX_MODELS, OPTIONS, parse_question
from app.schemas import MODEL_ID, Job
from app.uploads import ZIP_TYPES
from npt_core.data.names import shown
from npt_core.errors import Fault
from npt_core.serving.terms import Agreed
from worker.errors import ConflictError, GoneError, NotFoundError
from worker.predictions import CSV, FILES, JSONL, KIND, BatchRequest, Stated, count_files
from worker.records import JobRecord

router = APIRouter(tags=["predict"])

BATCH_FIELDS = ("file", *(name for name in FIELDS if name != "images"))
MEDIA_TYPES = {JSONL: "application/jsonl", CSV: "text/csv; charset=utf-8; header=present"}

_ROW = (
    f'{{"filename":"a/b.png","model":"{MODEL_ID}","top":[{{"label":"cat","probability":0.93,"similarity":0.31}}],'
    '"rejected":false}\n'
)
_TABLE = f"filename,model,label,probability,similarity,rejected,error\r\na/b.png,{MODEL_ID},cat,0.93,0.31,false,\r\n"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "model"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A zip of images, in any folders.",
                        },
                        **OPTIONS,
                    },
                },
                "examples": {
                    "tuned": {"summary": "A tuned model", "value": {"file": FILE, "model": [MODEL_ID], "top_k": 1}}
                },
            },
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "parameters": [
        FILENAME,
        *(
            {"name": name, "in": "query", "required": False, "schema": schema, "description": "With a raw zip body."}
            for name, schema in OPTIONS.items()
        ),
    ],
}


@router.post(
    "/predict/batch",
    operation_id="predict_batch",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def predict_batch(
    context: Ctx,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Security(authorize, scopes=[PREDICT])],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Classify every image of a zip as a job, with the same fields as `POST /predict`.

    The answers are at `GET /jobs/{id}/results` once it has succeeded: a row for each file and model, in the order of
    the zip; a file that cannot be read has an `error` in its row. Instead of a form, the zip itself may be sent as the
    body (`Content-Type: application/zip`) with the options as query parameters.
    """
    with once(context, caller, idempotency_key) as key:
        async with context.uploads.receive(request, "file", max_fields=MAX_MODELS + 16) as (form, upload):
            if media_type(request) in ZIP_TYPES:
                form = Form.of_query(request)
                form.fields.pop("filename", None)
            question = parse_question(form, context.settings.max_labels, BATCH_FIELDS)
            if upload is None:
                message = "is missing: send a zip of images (curl: -F file=@images.zip)"
                raise Problem("invalid-request", f"The form is not accepted: file {message}.", [Fault("file", message)])
            mark = fingerprint(upload.sha256, asdict(question), KIND)
            earlier = await replayed(context, caller, key, mark)
            if earlier is not None:
                return accepted(request, response, earlier, created=False)
            settled = await in_thread(_settled, context, question)
            context.metrics.upload_bytes.inc(upload.size)
            limits = await in_thread(context.services.datasets.limits)
            files = await to_thread.run_sync(count_files, upload.path, limits, limiter=context.ingest)
            config = BatchRequest(
                models=tuple(settled),
                terms=tuple(map(Stated.of, settled.values())),
                labels=question.labels,
                top_k=question.top_k,
                backbone=question.backbone,
                files=files,
            )
            record, created = await in_thread(
                context.services.start_job,
                KIND,
                config.model_dump(mode="json"),
                name=shown(upload.filename) or None,
                owner=caller.id,
                idempotency_key=key,
                fingerprint=mark if key else None,
                archive=upload.path,
            )
    return accepted(request, response, record, created=created)


def _settled(context: Context, question: Question) -> dict[str, Agreed]:
    """What the names of a question mean now: ids, each once, and its terms; `zero-shot` stays as it is.

    A model that was named twice answers on the terms of the first name.

    Raises:
        Problem, UnknownBackboneError: as `POST /predict` would, as far as no backbone is needed to tell.
    """
    if ZERO_SHOT in question.models:
        if not question.labels:
            raise Problem("no-labels", "`model=zero-shot` needs `labels`: a JSON list of class names.")
        if question.backbone is not None:
            refuse_unknown_backbone(context, question.backbone)
    settled: dict[str, Agreed] = {}
    for name in question.models:
        if name == ZERO_SHOT:
            settled.setdefault(name, question.agreed(name, question.labels or (), None))
            continue
        record, alias = found_by(context, name)
        settled.setdefault(record.id, question.agreed(name, record.labels, alias))
    return settled


# --- results ----------------------------------------------------------------------------------------------------------


@router.get(
    "/jobs/{job_id}/results",
    operation_id="get_results",
    response_class=FileResponse,
    responses={
        200: {
            "description": "One row for each file and model, in the order of the zip.",
            "content": {
                "application/jsonl": {"schema": {"type": "string"}, "example": _ROW},
                "text/csv": {"schema": {"type": "string"}, "example": _TABLE},
            },
        },
        206: {"description": "The bytes that the Range header asked for."},
        **problems(404, 409, 410),
    },
)
async def get_results(
    context: Ctx,
    job: VisibleJob,
    format: Annotated[
        Literal["jsonl", "csv"] | None,
        Query(
            description="`jsonl`: one JSON object a line; `csv`: a table. Default: what Accept asks for, else jsonl."
        ),
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> FileResponse:
    """Download the answers of a batch of predictions; `Range` takes up a broken download.

    CSV has the columns filename, model, label, probability, similarity, rejected and error, then label_2 and so on up
    to `top_k`. A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    chosen = format or (CSV if "text/csv" in accept.lower() else JSONL)
    if job.kind == KIND and not job.status.terminal:
        raise ConflictError(f"The job {job.id} is {job.status.value}; its results are there once it has succeeded.")
    described = _files(job).get(chosen)
    if described is None:
        how = "makes none" if job.kind != KIND else f"has ended as {job.status.value}"
        raise NotFoundError(f"There are no results of the job {job.id}, which is of kind {job.kind!r} and {how}.")
    try:
        path = await in_thread(context.services.jobs.files.result, job.id, FILES[chosen])
    except NotFoundError:
        raise GoneError(f"The results of the job {job.id} were removed; start it again.") from None
    headers = {"ETag": f'"{described["sha256"]}"', "Cache-Control": "private, no-cache", "Vary": "Accept"}
    return FileResponse(path, media_type=MEDIA_TYPES[chosen], filename=f"{job.id}.{chosen}", headers=headers)


def _files(job: JobRecord) -> dict[str, Any]:
    """What the job says of its files, by format."""
    found: dict[str, Any] = (job.result or {}).get("files", {}) if job.kind == KIND else {}
    return found
