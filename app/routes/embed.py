"""POST /embed: pictures and texts as the frozen backbone sees them."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Security
from pydantic import ConfigDict, Field

from app import problems as problem_table
from app.auth import PREDICT, authorize
from app.context import Ctx
from app.embedding import embed as embed_with
from app.forms import Form, is_text, media_type
from app.pictures import receive_image, receive_images, refuse_if_all_failed
from app.problems import Problem
from app.routes.answers import problems
from app.routes.picture_bodies import picture_body
from app.schemas import Answer
from app.schemas import Problem as ProblemAnswer
from npt_core.errors import Fault, NPTError

router = APIRouter(tags=["predict"], dependencies=[Security(authorize, scopes=[PREDICT])])

MAX_TEXT = 1000
FIELDS = ("images", "texts", "backbone")

_OPTIONS: dict[str, Any] = {
    "texts": {
        "type": "string",
        "description": "JSON list of texts, taken as they are.",
        "examples": ['["a photo of a red circle", "a photo of a blue square"]'],
    },
    "backbone": {"type": "string", "description": "One of GET /backbones; default: the first."},
}
_BODY = picture_body(
    _OPTIONS,
    {"texts": {"summary": "Texts alone", "value": {"texts": '["a red circle", "a blue square"]'}}},
    without_files=True,
)


class ImageEmbedding(Answer):
    """Features of one image."""

    filename: str = Field(description="As the sender called it.")
    embedding: list[float] | None = Field(default=None, description="Unit norm; left out where it cannot be read.")
    error: ProblemAnswer | None = Field(default=None, description="Why this image has no features.")


class TextEmbedding(Answer):
    """Features of one text."""

    text: str
    embedding: list[float] = Field(description="Unit norm.")


class Embeddings(Answer):
    """Features of images and texts in one space: the cosine of two is the sum of their products."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "backbone": "demo",
                "fingerprint": "4b1f0c8e5d7a92361c0b8f7e6a5d4c3b2a190807f6e5d4c3b2a1908f7e6d5c4b",
                "dimensions": 4,
                "images": [{"filename": "a.png", "embedding": [0.5, -0.5, 0.5, 0.5]}],
                "texts": [{"text": "a red circle", "embedding": [0.7, -0.1, 0.7, 0.1]}],
                "warnings": [],
            }
        }
    )

    backbone: str
    fingerprint: str = Field(description="Features of another fingerprint cannot be compared with these.")
    dimensions: int
    images: list[ImageEmbedding]
    texts: list[TextEmbedding]
    warnings: list[str]


@router.post(
    "/embed",
    operation_id="embed",
    response_model_exclude_none=True,
    responses=problems(400, 408, 413, 415, 422, 503),
    openapi_extra=_BODY,
)
async def embed(context: Ctx, request: Request) -> Embeddings:
    """Turn up to 64 images, texts, or both, into features of unit norm, in the order they were sent.

    An image that cannot be read gets an `error` in its place; where nothing can be read the request is a 422. Instead
    of a form, one image may be sent as the body (`Content-Type: image/png`).
    """
    with context.predict_room.lease() as lease:
        raw = media_type(request).startswith("image/")
        form, pictures = (
            await receive_image(context, request, lease)
            if raw
            else await receive_images(context, request, lease, max_fields=16)
        )
        texts, backbone = _question(form, bool(pictures), context.settings.max_labels)
        found = await embed_with(context.inference.backbones, pictures, texts, backbone)
    if not texts:
        errors = [one if isinstance(one, NPTError) else None for one in found.pictures]
        refuse_if_all_failed([picture.filename for picture in pictures], errors)
    return Embeddings(
        backbone=found.backbone,
        fingerprint=found.fingerprint,
        dimensions=found.d,
        images=[_image(picture.filename, one) for picture, one in zip(pictures, found.pictures, strict=True)],
        texts=[TextEmbedding(text=text, embedding=one) for text, one in zip(texts, found.texts, strict=True)],
        warnings=list(found.warnings),
    )


def _image(filename: str, one: list[float] | NPTError) -> ImageEmbedding:
    if isinstance(one, NPTError):
        error = ProblemAnswer.model_validate(problem_table.as_dict(one.code, one.message))
        return ImageEmbedding(filename=filename, error=error)
    return ImageEmbedding(filename=filename, embedding=one)


def _question(form: Form, pictures: bool, most: int) -> tuple[list[str], str | None]:
    """The texts and the backbone of a request, every fault at once.

    Raises:
        Problem: 422.
    """
    faults = [Fault(name, f"is not a field; use {', '.join(FIELDS)}") for name in form.fields if name not in FIELDS]
    texts = _texts(form.one("texts"), most, faults)
    if not pictures and not texts and not faults:
        faults.append(
            Fault("images", "and `texts` are missing: send files as `images`, a JSON list as `texts`, or both")
        )
    if faults:
        detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults[:5])
        raise Problem("invalid-request", f"The request is not accepted: {detail}.", faults)
    return texts, form.one("backbone") or None


def _texts(text: str | None, most: int, faults: list[Fault]) -> list[str]:
    if text is None or not text.strip():
        return []
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, list) or not all(isinstance(entry, str) for entry in data):
        faults.append(Fault("texts", 'must be a JSON list of texts, like ["a red circle"]'))
        return []
    if len(data) > most:
        faults.append(Fault("texts", f"has {len(data)} entries; at most {most} are accepted"))
    for number, entry in enumerate(data):
        if not entry.strip() or len(entry) > MAX_TEXT or not is_text(entry):
            faults.append(Fault(f"texts[{number}]", f"must be 1 to {MAX_TEXT} characters of Unicode text"))
    return data
