"""What the API says about data sets: their content, where they come from, what their audit found."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.schemas import DATASET_ID, JOB_ID, WHEN, Answer, ErrorItem
from npt_core.data.ingest import Sample
from worker.records import AuditRecord, AuditStatus, DatasetRecord
from worker.thumbnails import Thumbnail

FINDING: dict[str, Any] = {
    "kind": "likely-label-error",
    "severity": "warning",
    "message": "1 picture looks like another class than its label says; look at it, and relabel or remove it",
    "paths": ["3/0412.png"],
    "count": 1,
    "items": [{"path": "3/0412.png", "label": "3", "suggested": "8", "probability": 0.97}],
    "suggest": {"edit": {"relabel": {"3/0412.png": "8"}}},
}
EDIT: dict[str, Any] = {"remove": ["1/0003.png"], "relabel": {"3/0412.png": "8"}}
IMAGE: dict[str, Any] = {"path": "3/0412.png", "label": "3", "split": "train", "sha256": DATASET_ID, "size_bytes": 1204}


class ClassCount(Answer):
    """One class of a data set."""

    label: str
    images: int


class AuditFinding(Answer):
    """One kind of thing that was found."""

    model_config = ConfigDict(json_schema_extra={"example": FINDING})

    kind: str = Field(description="A stable word for programs; docs/datasets.md lists them.")
    severity: Literal["info", "warning"] = Field(description="`warning` where results may suffer.")
    message: str = Field(description="What was found, why it matters, what to do.")
    paths: list[str] = Field(description="Files or classes it concerns; at most 20.")
    count: int = Field(description="How many things were found in all.")
    items: list[dict[str, Any]] = Field(description="The same in detail, where there is more to say; at most 20.")
    suggest: dict[str, Any] | None = Field(
        default=None,
        description="What a program may do about it: `config` for the next tuning, or `edit` for "
        "`POST /datasets/{id}/edit`. Look before you use it.",
    )


class Audit(Answer):
    """What was found when looking at a data set: structure in the request, pictures in a job."""

    status: AuditStatus = Field(
        description="`structure`: no picture was looked at; `queued`, `running`: a job is about to; `done`; `failed`, "
        "`cancelled`: see the job."
    )
    job_id: str | None = Field(default=None, description="The job that looks, or looked, at the pictures.")
    backbone: str | None = Field(default=None, description="Through whose features the pictures were looked at.")
    finished_at: datetime | None = None
    findings: list[AuditFinding] = Field(description="Warnings first.")

    @classmethod
    def of(cls, audit: AuditRecord) -> Self:
        """An audit as the API tells it."""
        return cls.model_validate(audit.model_dump())


class Dataset(Answer):
    """A stored data set; its id is the hash of its content."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": DATASET_ID,
                "created_at": WHEN,
                "filename": "digits.zip",
                "size_bytes": 61440,
                "images": 32,
                "classes": [{"label": "0", "images": 16}, {"label": "1", "images": 16}],
                "splits": {"train": {"0": 16, "1": 16}},
                "skipped": {".DS_Store": 1},
                "left_out": [{"path": "1/broken.png", "message": "it is no image"}],
                "parent": None,
                "change": None,
                "audit": {"status": "queued", "job_id": JOB_ID, "findings": []},
            }
        }
    )

    id: str
    created_at: datetime
    filename: str | None = Field(description="As the sender called it.")
    size_bytes: int = Field(description="Of the archives it reads from.")
    images: int
    classes: list[ClassCount]
    splits: dict[str, dict[str, int]] = Field(
        description="Split name to images of each class; `train` alone where the archive has none."
    )
    skipped: dict[str, int] = Field(description="Kinds of files that were passed over, and how many.")
    left_out: list[ErrorItem] = Field(description="Files that cannot be used, and why.")
    parent: str | None = Field(description="The data set this one was made from by an edit; it may be deleted since.")
    change: dict[str, int] | None = Field(
        description="How many images that edit `added`, `removed` and `relabelled`, and how many it found `known`."
    )
    audit: Audit

    @classmethod
    def of(cls, record: DatasetRecord) -> Self:
        """A data set as the API tells it."""
        totals = dict.fromkeys(record.labels, 0)
        for counts in record.counts.values():
            for label, images in counts.items():
                totals[label] = totals.get(label, 0) + images
        return cls(
            id=record.id,
            created_at=record.created_at,
            filename=record.filename,
            size_bytes=record.size,
            images=record.images,
            classes=[ClassCount(label=label, images=images) for label, images in totals.items()],
            splits={split: dict(counts) for split, counts in record.counts.items() if split},
            skipped=dict(record.skipped),
            left_out=[ErrorItem(path=item.path, message=item.message) for item in record.faults],
            parent=record.parent,
            change=record.change,
            audit=Audit.of(record.audit),
        )


class DatasetImage(Answer):
    """One image of a data set."""

    model_config = ConfigDict(json_schema_extra={"example": IMAGE})

    path: str = Field(description="Where it lies in its archive; edits name it by this or by its hash.")
    label: str
    split: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """An image as the API tells it."""
        return cls(
            path=sample.path, label=sample.label, split=sample.split, sha256=sample.sha256, size_bytes=sample.size
        )


class DatasetThumbnail(DatasetImage):
    """One image of a data set, made small."""

    model_config = ConfigDict(json_schema_extra={"example": IMAGE | {"image": "data:image/webp;base64,UklGR…"}})

    image: str | None = Field(description="The image made small, as a data URI; null where it cannot be read.")
    message: str | None = Field(default=None, description="Why it cannot be read.")

    @classmethod
    def of_small(cls, small: Thumbnail) -> Self:
        """A small image as the API tells it."""
        told = DatasetImage.of(small.sample).model_dump()
        return cls.model_validate(told | {"image": small.image, "message": small.message})


class ChangedImage(Answer):
    """One image that an edit concerned."""

    path: str
    label: str
    split: str
    sha256: str
    was: str | None = Field(default=None, description="The label before, where it was relabelled.")


class DatasetChange(Answer):
    """What an edit did, image by image."""

    parent: str
    removed: list[ChangedImage]
    relabelled: list[ChangedImage]
    added: list[ChangedImage]
    known: int = Field(description="Images that were sent and were there already, with this label in this split.")

    @classmethod
    def of(cls, change: Mapping[str, Any]) -> Self:
        """A change as the API tells it."""
        return cls.model_validate(change)


class DatasetEdit(BaseModel):
    """What to change. An image is named by its path, or by its SHA-256, which means every copy of the file."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": EDIT})

    remove: list[str] = Field(default_factory=list, description="Images to leave out.")
    relabel: dict[str, str] = Field(
        default_factory=dict, description="Image to its new label, which may be a new class."
    )
