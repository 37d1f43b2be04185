"""POST /tune: from a zip, or a stored data set, to a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response, Security

from app.accepting import ACCEPTED, accepted, dataset_form, source_faults
from app.auth import TUNE, Caller, authorize
from app.context import Ctx, in_thread
from app.examples import FILE
from app.forms import Form, is_text
from app.idempotency import IdempotencyKey, fingerprint, once, replayed
from app.parents import Parent, find_parent
from app.problems import Problem
from app.routes.answers import problems
from app.routes.datasets import store_dataset
from app.schemas import DATASET_ID, Job
from app.uploads import Upload
from npt_core.errors import Fault

router = APIRouter(tags=["tune"])

FIELDS = ("dataset", "dataset_id", "config", "name")
MAX_NAME = 200
TWO_LABELS = "duplicate-across-classes"
"""What the audit calls a picture with two labels: nobody can learn from it, so the job says so too."""
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
_BODY = dataset_form(
    _PROPERTIES,
    {
        "zip": {"summary": "Defaults", "value": {"dataset": FILE, "name": "digits"}},
        "config": {
            "summary": "With a config",
            "value": {"dataset_id": DATASET_ID, "config": _EXAMPLE_CONFIG, "name": "digits"},
        },
    },
)


@router.post(
    "/tune",
    operation_id="tune",
    status_code=202,
    responses={
        **ACCEPTED,
        **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def tune(
    context: Ctx,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Security(authorize, scopes=[TUNE])],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Start tuning on a zip of labelled images, or on a data set that is stored already."""
    with once(context, caller, idempotency_key) as key:
        async with context.uploads.receive(request, "dataset") as (form, upload):
            name, dataset_id = _checked(form, upload)
            asked = read_config(form.one("config"))
            content = upload.sha256 if upload else dataset_id or ""
            backbones = context.settings.backbone_entries
            goes_on = isinstance(asked.get("parent"), str)
            config = {} if goes_on else await in_thread(check_config, asked, backbones)
            # A parent's alias may have moved before the request is repeated: what was asked for is the same.
            mark = fingerprint(content, asked if goes_on else config, name)
            earlier = await replayed(context, caller, key, mark)
            if earlier is not None:
                return accepted(request, response, earlier, created=False)
            parent = await in_thread(find_parent, context.services, asked)
            if parent is not None:
                config = await in_thread(check_config, asked, backbones, parent)
            warnings: list[str] = []
            if upload is not None:
                dataset, _ = await store_dataset(context, upload)
                dataset_id = dataset.id
                warnings = [f"{fault.path}: {fault.message}" for fault in dataset.faults]
                warnings += [_told(one) for one in dataset.audit.findings if one["kind"] == TWO_LABELS]
            elif config["class_names"] and dataset_id:
                dataset = await in_thread(context.services.datasets.get, dataset_id)
            if config["class_names"]:
                kept = parent.record.labels if parent else ()
                _refuse_strange_names(config["class_names"], (*kept, *dataset.labels))
            record, created = await in_thread(
                context.services.start_job,
                "tune",
                config,
                dataset_id=dataset_id,
                name=name,
                owner=caller.id,
                idempotency_key=key,
                fingerprint=mark if key else None,
                warnings=warnings,
            )
    return accepted(request, response, record, created=created, dataset=record.dataset_id)


def _checked(form: Form, upload: Upload | None) -> tuple[str | None, str | None]:
    """The name and the data set id of a form, after checking everything that is cheap to check."""
    faults = source_faults(form, upload, FIELDS)
    dataset_id, name = form.one("dataset_id") or None, form.one("name")
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


def read_config(text: str | None) -> dict[str, Any]:
    """The settings of a request as they were sent.

    Raises:
        Problem: The text is no JSON object.
    """
    data: dict[str, Any] = {}
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
    return data


def check_config(asked: Mapping[str, Any], backbones: tuple[str, ...], parent: Parent | None = None) -> dict[str, Any]:
    """The canonical form of tune settings. Imports the methods: call it in a thread.

    Raises:
        ConfigError: Everything that is wrong with the settings; IncompatibleError where they do not fit the parent.
        UnknownBackboneError: A backbone this server does not have.
    """
    from npt_core.clip.specs import parse_backbone
    from npt_core.errors import UnknownBackboneError
    from npt_core.tuning.config import TuneConfig

    config = TuneConfig.from_dict(asked if parent is None else parent.into(asked))
    names = [parse_backbone(entry).name for entry in backbones]
    if config.backbone is not None and config.backbone not in names:
        message = f"This server has no backbone {config.backbone[:100]!r}; it has {', '.join(names)}."
        raise UnknownBackboneError(message, [Fault("backbone", message)])
    return dict(config.to_dict())
