"""POST /compare: several models, and zero-shot, on the same labelled images; as a job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response, Security
from fastapi.responses import JSONResponse

from app.accepting import ACCEPTED, accepted, dataset_form, source_faults
from app.auth import TUNE, Caller, authorize
from app.comparison_schemas import Comparison
from app.context import Context, Ctx, in_thread
from app.examples import FILE
from app.forms import Form
from app.idempotency import IdempotencyKey, fingerprint, once, replayed
from app.negotiation import PAGE, VARY, Format, as_page, wants_page
from app.problems import Problem
from app.resolving import model_named
from app.routes.answers import JobId, problems
from app.routes.datasets import store_dataset
from app.schemas import DATASET_ID, MODEL_ID, Job
from app.uploads import Upload
from npt_core.errors import Fault
from npt_core.report.comparison import render_comparison
from worker.errors import ConflictError, NotFoundError
from worker.records import JobStatus
from worker.usecases.compare import COMPARISON

router = APIRouter(tags=["compare"], dependencies=[Security(authorize, scopes=[TUNE])])

MAX_MODELS = 16
KIND = "compare"
SPLITS = ("test", "val", "train")
AMONG = ("own", "dataset")
SEEN = ("leave-out", "keep")
FIELDS = ("dataset", "dataset_id", "model", "split", "among", "seen")

_PROPERTIES: dict[str, Any] = {
    "dataset": {"type": "string", "format": "binary", "description": "A zip of labelled images."},
    "dataset_id": {"type": "string", "description": "A stored data set, instead.", "examples": [DATASET_ID]},
    "model": {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": MAX_MODELS,
        "description": "Ids or aliases; zero-shot takes part without being named.",
        "examples": [[MODEL_ID, "champion"]],
    },
    "split": {
        "type": "string",
        "enum": list(SPLITS),
        "description": "Only images of this split. Default: the test split where there is one, else every image.",
    },
    "among": {
        "type": "string",
        "enum": list(AMONG),
        "default": "own",
        "description": "What they choose among: their own classes, as they do when they serve, or the data set's.",
    },
    "seen": {
        "type": "string",
        "enum": list(SEEN),
        "default": "leave-out",
        "description": "Images that one of the models was tuned on: nobody is judged on them, or everybody is.",
    },
}
_BODY = dataset_form(
    _PROPERTIES,
    {"two": {"summary": "Two models", "value": {"dataset": FILE, "model": [MODEL_ID, "champion"]}}},
    required=("model",),
    required_stored=("model", "dataset_id"),
)


@router.post(
    "/compare",
    operation_id="compare_models",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def compare_models(
    context: Ctx,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Security(authorize, scopes=[TUNE])],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Compare up to 16 models and zero-shot on labelled images that none of them was tuned on.

    The job's `metrics` name the best and tell whether its lead over the second can be chance (McNemar's test);
    `GET /jobs/{id}/comparison` has the rest.
    """
    with once(context, caller, idempotency_key) as key:
        async with context.uploads.receive(request, "dataset", max_fields=MAX_MODELS + 16) as (form, upload):
            dataset_id, config = _checked(form, upload)
            asked = form.fields["model"]
            content = upload.sha256 if upload else dataset_id or ""
            mark = fingerprint(content, {**config, "models": asked}, KIND)
            earlier = await replayed(context, caller, key, mark)
            if earlier is not None:
                return accepted(request, response, earlier, created=False)
            config["models"] = await in_thread(_resolved, context, asked)
            warnings: list[str] = []
            if upload is not None:
                dataset, _ = await store_dataset(context, upload)
                dataset_id = dataset.id
                warnings = [f"{fault.path}: {fault.message}" for fault in dataset.faults]
            record, created = await in_thread(
                context.services.start_job,
                KIND,
                config,
                dataset_id=dataset_id,
                owner=caller.id,
                idempotency_key=key,
                fingerprint=mark if key else None,
                warnings=warnings,
            )
    return accepted(request, response, record, created=created, dataset=record.dataset_id)


@router.get(
    "/jobs/{job_id}/comparison",
    operation_id="get_comparison",
    response_model=Comparison,
    responses={**problems(404, 409, 422), 200: {"description": "The comparison, as data or as a page.", **PAGE}},
)
async def get_comparison(request: Request, context: Ctx, job_id: JobId, format: Format = None) -> Response:
    """Read what a comparison came to: every model's metrics, best first, and the test between the best two.

    JSON, or with `Accept: text/html` or `?format=html` one page with plots that needs nothing from anywhere.
    """
    found = await in_thread(_comparison, context, job_id)
    if wants_page(request, format):
        return as_page(await in_thread(render_comparison, found))
    return JSONResponse(Comparison.model_validate(found).model_dump(mode="json"), headers=VARY)


def _comparison(context: Context, job_id: str) -> Any:
    jobs = context.services.jobs
    record = jobs.get(job_id)
    if record.kind != KIND:
        raise NotFoundError(f"The job {job_id} compares nothing; it is a job of kind {record.kind!r}.")
    if record.status is not JobStatus.SUCCEEDED:
        why = f" ({record.error.detail})" if record.error else ""
        raise ConflictError(
            f"The job {job_id} is {record.status.value}{why}; a comparison is there once it has succeeded."
        )
    return json.loads(jobs.files.result(job_id, COMPARISON).read_bytes())


# --- asking -----------------------------------------------------------------------------------------------------------

Word = TypeVar("Word", bound=str)


def _checked(form: Form, upload: Upload | None) -> tuple[str | None, dict[str, Any]]:
    """The data set id and the config of a form, without its models; every fault at once.

    Raises:
        Problem: 422.
    """
    faults = source_faults(form, upload, FIELDS)
    dataset_id = form.one("dataset_id") or None
    models = form.fields.get("model", [])
    if not models:
        faults.append(Fault("model", "is missing: the id or alias of a model; repeat the field for more"))
    elif len(models) > MAX_MODELS:
        faults.append(Fault("model", f"appears {len(models)} times; at most {MAX_MODELS} models are compared at once"))
    config = {
        "split": _word(form, "split", SPLITS, faults),
        "among": _word(form, "among", AMONG, faults) or AMONG[0],
        "seen": _word(form, "seen", SEEN, faults) or SEEN[0],
    }
    if faults:
        detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        raise Problem("invalid-request", f"The form is not accepted: {detail}.", faults)
    return dataset_id, config


def _word(form: Form, name: str, words: Sequence[str], faults: list[Fault]) -> str | None:
    text = form.one(name) or None
    if text is not None and text not in words:
        faults.append(Fault(name, f"is {text[:50]!r}; it must be one of {', '.join(words)}"))
    return text


def _resolved(context: Context, names: Sequence[str]) -> list[str]:
    """The ids of models, each once: what an alias points to may change while the job waits."""
    return list(dict.fromkeys(model_named(context, name.strip()).id for name in names))
