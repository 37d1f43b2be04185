"""POST /tune: from a zip, or a stored data set, to a job."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response, Security

from app.auth import TUNE, Caller, authorize
from app.context import Context, Ctx, in_thread, link
from app.forms import Form, is_text
from app.problems import Problem
from app.routes.answers import problems
from app.routes.datasets import store_dataset
from app.schemas import DATASET_ID, JOB_ID, Job
from app.uploads import Upload
from npt_core.errors import Fault

router = APIRouter(tags=["tune"])

FIELDS = ("dataset", "dataset_id", "config", "name")
MAX_NAME = 200
TWO_LABELS = "duplicate-across-classes"
"""What the audit calls a picture with two labels: nobody can learn from it, so the job says so too."""
POLL_AFTER_S = "2"
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_EXAMPLE_CONFIG = '{"method": "coop", "regularizer": "npt", "shots": 16}'

_PROPERTIES: dict[str, Any] = {
    "dataset": {"type": "string", "format": "binary", "description": "A zip of labelled images."},
    "dataset_id": {
        "type": "string",
        "description": "A stored data set, instead of `dataset`.",
        "examples": [DATASET_ID],
    },
    "config": {
        "type": "string",
        "description": "The tune config, as JSON text; see GET /methods. Every setting is optional.",
        "examples": [_EXAMPLE_CONFIG],
    },
    "name": {"type": "string", "maxLength": MAX_NAME, "description": "What the model shall be called."},
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": _PROPERTIES},
                "examples": {
                    "stored": {"summary": "Defaults", "value": {"name": "digits"}},
                    "config": {"summary": "With a config", "value": {"config": _EXAMPLE_CONFIG, "name": "digits"}},
                },
            },
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {key: value for key, value in _PROPERTIES.items() if key != "dataset"},
                }
            },
        },
    }
}


@router.post(
    "/tune",
    operation_id="tune",
    status_code=202,
    responses={
        202: {
            "description": "The job was accepted",
            "headers": {
                "Location": {"description": "The job", "schema": {"type": "string"}, "example": f"/jobs/{JOB_ID}"},
                "Retry-After": {"description": "When to look, in seconds", "schema": {"type": "integer"}},
            },
        },
        **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def tune(
    context: Ctx,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Security(authorize, scopes=[TUNE])],
    idempotency_key: Annotated[
        str | None, Header(description="The same key with the same request starts one job only.", max_length=200)
    ] = None,
) -> Job:
    """Start tuning on a zip of labelled images, or on a data set that is stored already."""
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise Problem("malformed-request", "Idempotency-Key must be 1 to 200 visible ASCII characters.")
    # One caller's key is nobody else's business: two callers may pick the same one.
    key = f"{caller.id}:{idempotency_key}" if idempotency_key else None
    with _in_flight(context, key):
        async with context.uploads.receive(request, "dataset") as (form, upload):
            name, dataset_id = _checked(form, upload)
            config = await in_thread(parse_config, form.one("config"), context.settings.backbone_entries)
            content = upload.sha256 if upload else dataset_id or ""
            warnings: list[str] = []
            if upload is not None:
                dataset, _ = await store_dataset(context, upload)
                dataset_id = dataset.id
                warnings = [f"{fault.path}: {fault.message}" for fault in dataset.faults]
                warnings += [_told(one) for one in dataset.audit["findings"] if one["kind"] == TWO_LABELS]
            elif config["class_names"] and dataset_id:
                dataset = await in_thread(context.services.datasets.get, dataset_id)
            if config["class_names"]:
                _refuse_strange_names(config["class_names"], dataset.labels)
            record, created = await in_thread(
                context.services.start_job,
                "tune",
                config,
                dataset_id=dataset_id,
                name=name,
                owner=caller.id,
                idempotency_key=key,
                fingerprint=fingerprint(content, config, name) if key else None,
                warnings=warnings,
            )
    response.headers["Location"] = link(request, f"/jobs/{record.id}")
    response.headers["Retry-After"] = POLL_AFTER_S
    if not created:
        response.headers["Idempotency-Replayed"] = "true"
    return Job.of(record)


@contextmanager
def _in_flight(context: Context, key: str | None) -> Iterator[None]:
    """Refuse a second request with a key whose first one is still being received by this process."""
    if key is None:
        yield
        return
    if key in context.idempotency:
        raise Problem(
            "idempotency-in-flight",
            "The first request with this key is still being received.",
            retry_after_s=5,
            close=True,
        )
    context.idempotency.add(key)
    try:
        yield
    finally:
        context.idempotency.discard(key)


def _checked(form: Form, upload: Upload | None) -> tuple[str | None, str | None]:
    """The name and the data set id of a form, after checking everything that is cheap to check."""
    faults = [Fault(field, f"is not a field; use {', '.join(FIELDS)}") for field in form.fields if field not in FIELDS]
    dataset_id, name = form.one("dataset_id") or None, form.one("name")
    if upload is None and "dataset" in form.fields:
        faults.append(Fault("dataset", "must be a file: with curl, -F dataset=@pictures.zip"))
    elif upload is None and dataset_id is None:
        faults.append(Fault("dataset", "is missing: send a zip as `dataset`, or a stored one as `dataset_id`"))
    elif upload is not None and dataset_id is not None:
        faults.append(Fault("dataset_id", "cannot be combined with `dataset`; send one of the two"))
    if name is not None and (len(name) > MAX_NAME or not name.isprintable()):
        faults.append(Fault("name", f"must be at most {MAX_NAME} printable characters"))
    if faults:
        detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        raise Problem("invalid-request", f"The form is not accepted: {detail}.", faults)
    return (name.strip() or None if name else None), dataset_id


def _told(finding: Mapping[str, Any]) -> str:
    return f"{', '.join(finding['paths'][:5])}: {finding['message']}"


def _refuse_strange_names(names: Mapping[str, str], labels: Sequence[str]) -> None:
    """Say now, not in the job, that a name is for a class there is not."""
    strange = sorted(set(names) - set(labels))
    if strange:
        listed = ", ".join(map(repr, strange[:5]))
        raise Problem(
            "invalid-config",
            f"class_names speaks of {listed}, which the data set does not have; its classes are "
            f"{', '.join(map(repr, labels[:20]))}.",
            [Fault(f"class_names.{label}", "no such class in the data set") for label in strange],
        )


def parse_config(text: str | None, backbones: tuple[str, ...]) -> dict[str, Any]:
    """The canonical tune config of a request. Imports the methods: call it in a thread.

    Raises:
        Problem: 400 where the text is no JSON object.
        ConfigError: Everything that is wrong with the settings.
        UnknownBackboneError: A backbone this server does not have.
    """
    data: Any = {}
    if text is not None and text.strip():
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f" ({error.msg} at character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
            raise Problem(
                "malformed-request", f"`config` is not JSON{where}.", [Fault("config", "must be a JSON object")]
            ) from None
        if not is_text(json.dumps(data, ensure_ascii=False)):
            message = "holds half of a surrogate pair, which is no character"
            raise Problem("invalid-config", f"`config` {message}.", [Fault("config", message)])
        if not isinstance(data, dict):
            raise Problem(
                "invalid-config", "`config` must be a JSON object.", [Fault("config", f"is {type(data).__name__}")]
            )
    from npt_core.clip.specs import parse_backbone
    from npt_core.errors import UnknownBackboneError
    from npt_core.tuning.config import TuneConfig

    config = TuneConfig.from_dict(data)
    names = [parse_backbone(entry).name for entry in backbones]
    if config.backbone is not None and config.backbone not in names:
        message = f"This server has no backbone {config.backbone[:100]!r}; it has {', '.join(names)}."
        raise UnknownBackboneError(message, [Fault("backbone", message)])
    return dict(config.to_dict())


def fingerprint(content: str, config: dict[str, Any], name: str | None) -> str:
    """What makes two requests the same: the file's hash and the canonical fields, not how they were encoded."""
    text = json.dumps([content, config, name], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
