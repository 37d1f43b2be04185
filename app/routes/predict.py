"""POST /predict: what do these pictures show?"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Security

from app import problems as problem_table
from app.auth import PREDICT, authorize
from app.context import Context, Ctx
from app.forms import FilePart, Form, Sink, body_stream, is_text, media_type, read_form, too_large
from app.inference import ZERO_SHOT, Answered, Picture, Question, Ranked
from app.memory import Lease
from app.problems import Problem
from app.routes.answers import problems
from app.schemas import MODEL_ID, ManyPredictions, Prediction, Predictions, Scored
from app.schemas import Problem as ProblemAnswer
from npt_core.errors import Fault

router = APIRouter(tags=["predict"], dependencies=[Security(authorize, scopes=[PREDICT])])

DEFAULT_TOP_K, MAX_TOP_K = 5, 1000
MAX_MODELS = 16
MAX_LABEL = 200
FIELDS = ("images", "model", "top_k", "reject_below", "labels", "backbone")

_OPTIONS: dict[str, Any] = {
    "model": {
        "type": "array",
        "items": {"type": "string"},
        "description": f"Id of a model, or `{ZERO_SHOT}`. May repeat: each picture is encoded once.",
        "examples": [[MODEL_ID]],
    },
    "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
    "reject_below": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0,
        "description": "An answer whose best probability is below this is marked `rejected`.",
    },
    "labels": {
        "type": "string",
        "description": "JSON list of names to classify among, new ones too; needed for zero-shot.",
        "examples": ['["a red circle", "a blue square"]'],
    },
    "backbone": {"type": "string", "description": "For zero-shot: one of GET /backbones; default: the first."},
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images", "model"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "maxItems": 64,
                        },
                        **_OPTIONS,
                    },
                },
                "examples": {
                    "tuned": {"summary": "A tuned model", "value": {"model": [MODEL_ID]}},
                    "zero-shot": {
                        "summary": "No tuning at all",
                        "value": {"model": [ZERO_SHOT], "labels": '["a red circle", "a blue square"]'},
                    },
                },
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": "With a raw image body."}
        for name, schema in {**_OPTIONS, "filename": {"type": "string", "maxLength": 255}}.items()
    ],
}


@router.post(
    "/predict",
    operation_id="predict",
    response_model=Predictions | ManyPredictions,
    response_model_exclude_none=True,
    responses=problems(400, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=_BODY,
)
async def predict(context: Ctx, request: Request) -> Predictions | ManyPredictions:
    """Classify 1 to 64 images with one or several models, or without any tuning (`model=zero-shot`).

    A picture that cannot be read gets an `error` in its place and the others their answer; where none can be read the
    request is a 422. Instead of a form, one image may be sent as the body (`Content-Type: image/png`) with the options
    as query parameters.
    """
    with context.predict_room.lease() as lease:
        if media_type(request).startswith("image/"):
            form, pictures = await _raw_image(context, request, lease)
        else:
            form, pictures = await _form_images(context, request, lease)
        question = parse_question(form, context.settings.max_labels)
        answers = await context.inference.predict(pictures, question)
    _refuse_if_all_failed(answers[0].pictures)
    described = [_described(answer) for answer in answers]
    return described[0] if len(described) == 1 else ManyPredictions(results=described)


# --- receiving --------------------------------------------------------------------------------------------------------


class ImageSink:
    """Keeps one image file in memory."""

    def __init__(self, limit: int, lease: Lease) -> None:
        self.data = bytearray()
        self._limit, self._lease = limit, lease

    def write(self, data: bytes) -> None:
        """Take some bytes; 413 beyond the limit of one image."""
        if len(self.data) + len(data) > self._limit:
            raise too_large("An image", self._limit)
        self._lease.take(len(data))
        self.data += data

    async def flush(self) -> None:
        """Nothing to hand on."""

    def close(self) -> None:
        """Nothing to close."""


async def _raw_image(context: Context, request: Request, lease: Lease) -> tuple[Form, list[Picture]]:
    settings = context.settings
    sink = ImageSink(settings.max_image_bytes, lease)
    stream = body_stream(request, limit=settings.max_image_bytes, idle_s=settings.upload_idle_s, what="An image")
    async with contextlib.aclosing(stream) as chunks:
        async for chunk in chunks:
            sink.write(chunk)
    form = Form()
    for name, value in request.query_params.multi_items():
        form.fields.setdefault(name, []).append(value)
    filename = (form.fields.pop("filename", [""])[0])[:255]
    return form, [Picture(filename, bytes(sink.data))]


async def _form_images(context: Context, request: Request, lease: Lease) -> tuple[Form, list[Picture]]:
    settings = context.settings

    def open_image(field: str, filename: str, content_type: str) -> Sink:
        if field != "images":
            raise Problem("invalid-request", f"The form has a file in {field!r}; send images as 'images'.", close=True)
        return ImageSink(settings.max_image_bytes, lease)

    form = await read_form(
        request,
        open_image,
        limit=settings.max_predict_bytes,
        idle_s=settings.upload_idle_s,
        max_files=settings.max_images,
        max_fields=MAX_MODELS + 16,
        what="A predict request",
    )
    if not form.files:
        message = "is missing: send 1 or more files as `images` (curl: -F images=@picture.png)"
        raise Problem("invalid-request", f"The form is not accepted: images {message}.", [Fault("images", message)])
    return form, [_picture(part) for part in form.files]


def _picture(part: FilePart) -> Picture:
    sink = part.sink
    return Picture(part.filename, bytes(sink.data) if isinstance(sink, ImageSink) else b"")


# --- asking -----------------------------------------------------------------------------------------------------------


def parse_question(form: Form, max_labels: int) -> Question:
    """The options of a request, every fault at once.

    Raises:
        Problem: 422.
    """
    faults = [Fault(name, f"is not a field; use {', '.join(FIELDS)}") for name in form.fields if name not in FIELDS]
    models = tuple(dict.fromkeys(name.strip() for name in form.fields.get("model", []) if name.strip()))
    if not models:
        faults.append(Fault("model", f"is missing: the id of a model, or `{ZERO_SHOT}` with `labels`"))
    elif len(models) > MAX_MODELS:
        faults.append(Fault("model", f"appears {len(models)} times; at most {MAX_MODELS} models in one request"))
    top_k = _number(form, "top_k", DEFAULT_TOP_K, 1, MAX_TOP_K, faults)
    reject_below = _number(form, "reject_below", 0.0, 0.0, 1.0, faults)
    if not top_k.is_integer():
        faults.append(Fault("top_k", f"is {top_k:g}; it must be a whole number"))
    labels = _labels(form.one("labels"), max_labels, faults)
    if faults:
        detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults[:5])
        raise Problem("invalid-request", f"The request is not accepted: {detail}.", faults)
    return Question(models, labels, int(top_k), reject_below, form.one("backbone") or None)


def _number(form: Form, name: str, default: float, low: float, high: float, faults: list[Fault]) -> float:
    text = form.one(name)
    if text is None or not text.strip():
        return float(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        faults.append(Fault(name, f"is {text[:50]!r}; it must be a number from {low:g} to {high:g}"))
        return float(default)
    return value


def _labels(text: str | None, most: int, faults: list[Fault]) -> tuple[str, ...] | None:
    if text is None or not text.strip():
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, list) or not all(isinstance(entry, str) for entry in data):
        faults.append(Fault("labels", 'must be a JSON list of names, like ["cat", "dog"]'))
        return None
    if not 2 <= len(data) <= most:
        faults.append(Fault("labels", f"has {len(data)} names; 2 to {most} are accepted"))
    elif len(set(data)) != len(data):
        twice = next(name for name in data if data.count(name) > 1)
        faults.append(Fault("labels", f"names {twice[:MAX_LABEL]!r} more than once"))
    for number, name in enumerate(data):
        if not name.strip() or len(name) > MAX_LABEL or not is_text(name):
            faults.append(Fault(f"labels[{number}]", f"must be 1 to {MAX_LABEL} characters of Unicode text"))
    return tuple(data)


# --- answering --------------------------------------------------------------------------------------------------------


def _refuse_if_all_failed(pictures: Sequence[Ranked]) -> None:
    errors = [(picture.filename, picture.error) for picture in pictures if picture.error is not None]
    if len(errors) < len(pictures):
        return
    faults = [Fault(filename or f"images[{number}]", error.message) for number, (filename, error) in enumerate(errors)]
    code = errors[0][1].code
    detail = faults[0].message if len(faults) == 1 else f"None of the {len(faults)} images can be read."
    raise Problem(code, detail, faults)


def _described(answer: Answered) -> Predictions:
    return Predictions(
        model=answer.model,
        backbone=answer.backbone,
        predictions=[_prediction(picture) for picture in answer.pictures],
        warnings=list(answer.warnings),
    )


def _prediction(picture: Ranked) -> Prediction:
    if picture.error is not None:
        error = ProblemAnswer.model_validate(problem_table.as_dict(picture.error.code, picture.error.message))
        return Prediction(filename=picture.filename, top=[], rejected=False, error=error)
    top = [Scored(label=label, probability=p, similarity=s) for label, p, s in picture.top]
    return Prediction(filename=picture.filename, top=top, rejected=picture.rejected)
