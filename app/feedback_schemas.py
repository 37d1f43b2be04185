"""What the API says of feedback."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.schemas import WHEN, Answer
from worker.feedback import MAX_DAYS, MAX_ITEMS, FeedbackItem, FeedbackSettings, FeedbackState

ITEM_ID = "item_06dzj4c2n8r5w1b7m3x9k0f6vd"
SWITCH: dict[str, Any] = {"enabled": True, "below": 0.6, "max_items": 500, "max_days": 30}


class FeedbackSwitch(BaseModel):
    """What of a model's answers is kept."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": SWITCH})

    enabled: bool = Field(description="Off until it is switched on; switching off keeps what is there.")
    below: float = Field(
        default=FeedbackSettings().below, ge=0, le=1, description="Images whose best probability is below this."
    )
    max_items: int = Field(
        default=FeedbackSettings().max_items,
        ge=1,
        le=MAX_ITEMS,
        description="Beyond it the oldest go, those without a label first.",
    )
    max_days: int = Field(
        default=FeedbackSettings().max_days, ge=1, le=MAX_DAYS, description="An image is forgotten after so long."
    )


class Feedback(FeedbackSwitch):
    """The switch of a model, and what is there."""

    model_config = ConfigDict(
        json_schema_extra={"example": {**SWITCH, "items": 42, "labelled": 17, "size_bytes": 3481220}}
    )

    items: int
    labelled: int
    size_bytes: int

    @classmethod
    def of(cls, state: FeedbackState) -> Self:
        """As the API tells it."""
        return cls(**state.settings.model_dump(), items=state.items, labelled=state.labelled, size_bytes=state.nbytes)


class Guess(Answer):
    """One class of the model's answer."""

    label: str
    probability: float


class Item(Answer):
    """An image the model was not sure about."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": ITEM_ID,
                "created_at": WHEN,
                "filename": "IMG_0231.jpg",
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "size_bytes": 82931,
                "answer": [{"label": "cat", "probability": 0.41}, {"label": "dog", "probability": 0.38}],
                "label": None,
                "labelled_at": None,
            }
        }
    )

    id: str
    created_at: datetime
    filename: str
    sha256: str
    size_bytes: int
    answer: list[Guess] = Field(description="What the model said, best first.")
    label: str | None = Field(description="What a person says it is.")
    labelled_at: datetime | None

    @classmethod
    def of(cls, item: FeedbackItem) -> Self:
        """As the API tells it."""
        return cls(
            id=item.id,
            created_at=item.created_at,
            filename=item.filename,
            sha256=item.sha256,
            size_bytes=item.size,
            answer=[Guess(label=one.label, probability=one.probability) for one in item.answer],
            label=item.label,
            labelled_at=item.labelled_at,
        )


class Labels(BaseModel):
    """What items show."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"labels": {ITEM_ID: "cat"}}})

    labels: dict[str, str | None] = Field(
        min_length=1, max_length=MAX_ITEMS, description="Item -> label, a new class too; null takes a label back."
    )


class Relearn(BaseModel):
    """How the next version is tuned."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"name": "pets", "config": {"epochs": 100}}}
    )

    name: str | None = Field(default=None, max_length=200, description="Default: the name of the model.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Settings that replace those the model was tuned with."
    )
    dataset_id: str | None = Field(
        default=None,
        max_length=100,
        description="What the labelled images are added to; default: the model's data set.",
    )
