"""POST /predict: what do these pictures show?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Security

from app import problems as problem_table
from app.auth import PREDICT, authorize
from app.context import Ctx, in_thread
from app.examples import FILE
from app.forms import Form, is_text, media_type
from app.inference import Answered
from app.pictures import receive_image, receive_images, refuse_if_all_failed
from app.plans import ZERO_SHOT, Question
from app.problems import Problem
from app.routes.answers import problems
from app.routes.picture_bodies import picture_body
from app.schemas import MODEL_ID, ManyPredictions, Prediction, Predictions, Scored
from app.schemas import Problem as ProblemAnswer
from npt_core.errors import Fault, NPTError
from npt_core.priors import frequency_faults
from npt_core.serving.ranking import Ranking
from npt_core.serving.terms import Terms

router = APIRouter(tags=["predict"], dependencies=[Security(authorize, scopes=[PREDICT])])

DEFAULT_TOP_K, MAX_TOP_K = 5, 1000
MAX_MODELS = 16
MAX_LABEL = 200
FIELDS = ("images", "model", "top_k", "reject_below", "priors", "labels", "backbone")

OPTIONS: dict[str, Any] = {
    "model": {
        "type": "array",
        "items": {"type": "string"},
        "description": f"Id or alias of a model, or `{ZERO_SHOT}`. May repeat: each picture is encoded once.",
        "examples": [[MODEL_ID]],
    },
    "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
    "reject_below": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "An answer whose best probability is below this is marked `rejected`; left out: the alias's, "
        "else the model's own, else 0.",
    },
    "priors": {
        "type": "string",
        "description": "JSON object: how often each label occurs where the answers are used, as shares or counts; all "
        "labels, 0 for one that does not occur. Left out: the alias's, if any; `null`: none.",
        "examples": ['{"cat": 0.98, "dog": 0.02}'],
    },
    "labels": {
        "type": "string",
        "description": "JSON list of names to classify among, new ones too; needed for zero-shot.",
        "examples": ['["a red circle", "a blue square"]'],
    },
    "backbone": {"type": "string", "description": "For zero-shot: one of GET /backbones; default: the first."},
}
_BODY = picture_body(
    OPTIONS,
    {
        "tuned": {"summary": "A tuned model", "value": {"model": [MODEL_ID], "images": [FILE]}},
        "zero-shot": {
            "summary": "No tuning at all",
            "value": {"model": [ZERO_SHOT], "labels": '["a red circle", "a blue square"]', "images": [FILE]},
        },
    },
    required=("images", "model"),
)


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
            form, pictures = await receive_image(context, request, lease)
        else:
            form, pictures = await receive_images(context, request, lease, max_fields=MAX_MODELS + 16)
            if not pictures:
                message = "is missing: send 1 or more files as `images` (curl: -F images=@picture.png)"
                raise Problem(
                    "invalid-request", f"The form is not accepted: images {message}.", [Fault("images", message)]
                )
        question = parse_question(form, context.settings.max_labels)
        answers = await context.inference.predict(pictures, question)
        # How sure a model is among other names says nothing about it.
        if question.labels is None and not context.feedback.wants_none(answers):
            await in_thread(context.feedback.offer, pictures, answers)
    filenames = [picture.filename for picture in pictures]
    refuse_if_all_failed(filenames, [one if isinstance(one, NPTError) else None for one in answers[0].pictures])
    described = [_described(answer, filenames) for answer in answers]
    return described[0] if len(described) == 1 else ManyPredictions(results=described)


# --- asking -----------------------------------------------------------------------------------------------------------


def parse_question(form: Form, max_labels: int, fields: Sequence[str] = FIELDS) -> Question:
    """The options of a request, every fault at once.

    Args:
        form: With the options.
        max_labels: Most names to classify among.
        fields: What the form may have.

    Raises:
        Problem: 422.
    """
    faults = [Fault(name, f"is not a field; use {', '.join(fields)}") for name in form.fields if name not in fields]
    models = tuple(dict.fromkeys(name.strip() for name in form.fields.get("model", []) if name.strip()))
    if not models:
        faults.append(Fault("model", f"is missing: the id or alias of a model, or `{ZERO_SHOT}` with `labels`"))
    elif len(models) > MAX_MODELS:
        faults.append(Fault("model", f"appears {len(models)} times; at most {MAX_MODELS} models in one request"))
    top_k = _number(form, "top_k", DEFAULT_TOP_K, 1, MAX_TOP_K, faults)
    stated = (form.one("reject_below") or "").strip()
    reject_below = _number(form, "reject_below", 0.0, 0.0, 1.0, faults) if stated else None
    if not top_k.is_integer():
        faults.append(Fault("top_k", f"is {top_k:g}; it must be a whole number"))
    labels = _labels(form.one("labels"), max_labels, faults)
    priors = _priors(form.one("priors"), faults)
    if faults:
        detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults[:5])
        raise Problem("invalid-request", f"The request is not accepted: {detail}.", faults)
    return Question(models, labels, int(top_k), Terms(reject_below, priors), form.one("backbone") or None)


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


def _priors(text: str | None, faults: list[Fault]) -> dict[str, float] | None:
    """What is stated: None where nothing is, empty for `null`."""
    if text is None or not text.strip():
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = text
    if data is None:
        return {}
    found = frequency_faults(data)
    faults += found
    return None if found else data


# --- answering --------------------------------------------------------------------------------------------------------


def _described(answer: Answered, filenames: list[str]) -> Predictions:
    return Predictions(
        model=answer.model,
        alias=answer.alias,
        backbone=answer.backbone,
        calibrated=answer.calibrated,
        temperature=answer.temperature,
        reject_below=answer.terms.reject_below,
        reject_below_from=answer.terms.reject_below_from,
        priors_applied=answer.terms.priors is not None,
        priors_from=answer.terms.priors_from,
        predictions=[_prediction(name, one) for name, one in zip(filenames, answer.pictures, strict=True)],
        warnings=list(answer.warnings),
    )


def _prediction(filename: str, answer: Ranking | NPTError) -> Prediction:
    if isinstance(answer, NPTError):
        error = ProblemAnswer.model_validate(problem_table.as_dict(answer.code, answer.message))
        return Prediction(filename=filename, top=[], rejected=False, error=error)
    top = [Scored(label=label, probability=p, similarity=s) for label, p, s in answer.top]
    return Prediction(filename=filename, top=top, rejected=answer.rejected)
