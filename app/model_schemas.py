"""What the API says of models: a list's entry, one model with where it comes from, an alias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat

from app.schemas import DATASET_ID, JOB_ID, MODEL_ID, WHEN, Answer
from worker.records import AliasRecord, ModelRecord

OTHER_ID = "model_06dzhw2k9c4m7r1x6a0f5t8p3n"

_MODEL: dict[str, Any] = {
    "id": MODEL_ID,
    "name": "digits",
    "version": 3,
    "created_at": WHEN,
    "backbone": "demo",
    "method": "coop",
    "regularizer": "npt",
    "labels": ["0", "1"],
    "metrics": {"tuned": {"accuracy": 0.94}, "zero_shot": {"accuracy": 0.71}},
    "dataset_id": DATASET_ID,
    "job_id": JOB_ID,
    "parent": None,
    "size_bytes": 21504,
}


class Model(Answer):
    """A tuned classifier. It never changes: what is tuned again is another version."""

    model_config = ConfigDict(json_schema_extra={"example": _MODEL})

    id: str
    name: str | None = Field(description="Models of one name are its versions.")
    version: int | None = Field(
        description="1, 2, ... within its name, never given twice; null for a model without a name."
    )
    created_at: datetime
    backbone: str
    method: str
    regularizer: str
    labels: list[str]
    metrics: dict[str, Any]
    dataset_id: str | None
    job_id: str | None
    parent: str | None = Field(description="The model this one continued from.")
    size_bytes: int

    @classmethod
    def of(cls, record: ModelRecord) -> Self:
        """A model as a list shows it."""
        return cls.model_validate(_model_fields(record))


class Ancestor(Answer):
    """A model in another one's line."""

    id: str
    present: bool = Field(description="Whether it is on this server; it may be deleted, or left behind on another one.")
    name: str | None = None
    version: int | None = None


class Imported(Answer):
    """Where an imported model comes from, in the words of the server that exported it."""

    id: str
    name: str | None = None
    version: int | None = None
    created_at: datetime | None = None


class Lineage(Answer):
    """What a model was made from."""

    dataset_id: str | None = Field(description="Hash of the pictures it was tuned on.")
    job_id: str | None = Field(description="The job that tuned it; null for an import.")
    config: dict[str, Any] = Field(description="The tune config, complete, and the schedule that was run.")
    ancestors: list[Ancestor] = Field(description="The models it was continued from, its parent first.")
    imported: Imported | None = None


class ModelDetail(Model):
    """A tuned classifier with everything that makes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                **_MODEL,
                "backbone_fingerprint": "9c1d5b7e3f20a8641c0b8f7e6a5d4c3b2a190807f6e5d4c3b2a1908f7e6d5c4b",
                "aliases": ["champion"],
                "lineage": {
                    "dataset_id": DATASET_ID,
                    "job_id": JOB_ID,
                    "config": {"method": "coop", "regularizer": "npt"},
                    "ancestors": [],
                    "imported": None,
                },
                "manifest": {"format": 1, "method": "coop"},
            }
        }
    )

    backbone_fingerprint: str
    aliases: list[str] = Field(description="What points to it now.")
    lineage: Lineage
    manifest: dict[str, Any] = Field(description="The artefact's own description: config, prompts, samples, versions.")

    @classmethod
    def with_lineage(
        cls,
        record: ModelRecord,
        manifest: dict[str, Any],
        ancestors: Iterable[tuple[str, ModelRecord | None]],
        aliases: Sequence[str],
    ) -> Self:
        """A model as it is shown alone."""
        config = manifest.get("config")
        lineage = Lineage(
            dataset_id=record.dataset_id,
            job_id=record.job_id,
            config=config if isinstance(config, dict) else {},
            ancestors=[_ancestor(model_id, found) for model_id, found in ancestors],
            imported=Imported.model_validate(record.imported.model_dump()) if record.imported else None,
        )
        extra = {
            "backbone_fingerprint": record.backbone_fingerprint,
            "aliases": list(aliases),
            "lineage": lineage,
            "manifest": manifest,
        }
        return cls.model_validate(_model_fields(record) | extra)


class Alias(Answer):
    """A name that points to a model and can be pointed to another in one step."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "alias": "champion",
                "model": MODEL_ID,
                "previous": OTHER_ID,
                "reject_below": 0.6,
                "priors": {"0": 0.9, "1": 0.1},
                "created_at": WHEN,
                "updated_at": WHEN,
            }
        }
    )

    alias: str
    model: str = Field(description="Id of the model it points to.")
    previous: str | None = Field(description="What it pointed to before: the way back.")
    reject_below: float | None = Field(
        description="The probability under which an answer is marked rejected, where the request states none; null: "
        "the model's own."
    )
    priors: dict[str, float] | None = Field(
        description="How often each label occurs where this name is used: probabilities are adjusted to it."
    )
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: AliasRecord) -> Self:
        """An alias as the API tells it."""
        return cls(
            alias=record.alias,
            model=record.model_id,
            previous=record.previous,
            reject_below=record.reject_below,
            priors=record.priors,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )


class AliasTarget(BaseModel):
    """Where an alias shall point, and on what terms the model answers under it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"model": MODEL_ID, "priors": {"0": 0.9, "1": 0.1}, "reject_below": 0.6}},
    )

    model: str = Field(max_length=100, description="Id of a model.")
    reject_below: StrictFloat | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Mark answers whose best probability is below this as rejected; null: the model's own. Left out: "
        "it stays as it is.",
    )
    priors: dict[str, StrictFloat] | None = Field(
        default=None,
        description="How often each of the model's labels occurs where the alias is used, shares or counts; all of "
        "them, 0 for one that does not occur; null: nothing is adjusted. Left out: they stay as they are.",
    )

    def stated(self) -> dict[str, Any]:
        """What was sent beside the model, null or not."""
        return self.model_dump(include={"reject_below", "priors"}, exclude_unset=True)


def _ancestor(model_id: str, record: ModelRecord | None) -> Ancestor:
    if record is None:
        return Ancestor(id=model_id, present=False)
    return Ancestor(id=model_id, present=True, name=record.name, version=record.version)


def _model_fields(record: ModelRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "version": record.version,
        "created_at": record.created_at,
        "backbone": record.backbone,
        "method": record.method,
        "regularizer": record.regularizer,
        "labels": list(record.labels),
        "metrics": record.metrics,
        "dataset_id": record.dataset_id,
        "job_id": record.job_id,
        "parent": record.parent,
        "size_bytes": record.nbytes,
    }
