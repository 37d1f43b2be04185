"""What the API says, as pydantic models: answers with their examples. Built from the records of the worker floor."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app import problems
from npt_core.errors import Fault
from worker.records import DatasetRecord, JobRecord, JobStatus, ModelRecord, Page
from worker.records import Problem as StoredProblem

T = TypeVar("T", bound=BaseModel)

JOB_ID = "job_06dzj3x8m4q9t2v7k1c5w8n0ra"
MODEL_ID = "model_06dzj41p6h2s9y4d8e3g7b5f0k"
DATASET_ID = "4b1f0c8e5d7a92361c0b8f7e6a5d4c3b2a190807f6e5d4c3b2a1908f7e6d5c4b"
WHEN = "2026-11-23T22:14:05.120Z"


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(ser_json_inf_nan="null")


class ErrorItem(Answer):
    """One fault among several."""

    path: str = Field(description="A file of the archive, or a field of the request.")
    message: str


class Problem(Answer):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "/problems/invalid-archive",
                "code": "invalid-archive",
                "title": "The archive cannot be used",
                "status": 422,
                "detail": "2 entries of the archive are not accepted.",
                "instance": "/tune",
                "errors": [{"path": "../x.png", "message": "the path leaves the archive"}],
            }
        }
    )

    type: str = Field(description="`/problems/<code>`, explained at that path.")
    code: str = Field(description="The same, for programs.")
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[ErrorItem] | None = Field(default=None, description="Each fault, where there are several.")

    @classmethod
    def stored(cls, problem: StoredProblem) -> Self:
        """The problem a job ended with."""
        faults = [Fault(item.path, item.message) for item in problem.errors]
        return cls.model_validate(problems.as_dict(problem.type, problem.detail, faults))


class Progress(Answer):
    """Where a job is. Every field is null until it is known."""

    phase: str | None = Field(
        default=None, description="unpacking, auditing, encoding, tuning, evaluating or saving.", examples=["tuning"]
    )
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    accuracy: float | None = Field(default=None, description="On the training batches so far, 0 to 1.")
    eta_seconds: float | None = None
    epoch: int | None = None
    stage: str | None = Field(default=None, description="Which tuning of the job this is.")


class Job(Answer):
    """A job: something that takes longer than a request."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": JOB_ID,
                "kind": "tune",
                "name": "digits",
                "status": "running",
                "created_at": WHEN,
                "started_at": WHEN,
                "finished_at": None,
                "dataset_id": DATASET_ID,
                "model_id": None,
                "config": {"method": "coop", "regularizer": "npt"},
                "progress": {"phase": "tuning", "step": 420, "total_steps": 1000, "loss": 0.31, "eta_seconds": 9.5},
                "queue_position": None,
                "cancel_requested": False,
                "warnings": [],
                "error": None,
                "attempts": 1,
                "counters": {"images_encoded": 160, "images_cached": 0, "steps": 420},
                "metrics": None,
            }
        }
    )

    id: str
    kind: str
    name: str | None
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    dataset_id: str | None
    model_id: str | None = Field(description="What a succeeded tuning made.")
    config: dict[str, Any]
    progress: Progress
    queue_position: int | None = Field(description="Jobs before this one; null once it runs.")
    cancel_requested: bool
    warnings: list[str]
    error: Problem | None
    attempts: int
    counters: dict[str, int | float]
    metrics: dict[str, Any] | None

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """A job as the API tells it."""
        progress = record.progress.model_dump() if record.progress else {}
        return cls(
            id=record.id,
            kind=record.kind,
            name=record.name,
            status=record.status,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            dataset_id=record.dataset_id,
            model_id=record.model_id,
            config=record.config,
            progress=Progress.model_validate(progress | {"phase": progress.get("phase") or None}),
            queue_position=record.queue_position,
            cancel_requested=record.cancel_requested,
            warnings=list(record.warnings),
            error=Problem.stored(record.error) if record.error else None,
            attempts=record.attempts,
            counters=dict(record.counters),
            metrics=record.metrics,
        )


class ClassCount(Answer):
    """One class of a data set."""

    label: str
    images: int


class Audit(Answer):
    """What was found when looking at a data set: structure in the request, pixels when it is tuned on."""

    status: str
    findings: list[dict[str, Any]]


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
                "audit": {"status": "structure", "findings": []},
            }
        }
    )

    id: str
    created_at: datetime
    filename: str | None = Field(description="As the sender called it.")
    size_bytes: int
    images: int
    classes: list[ClassCount]
    splits: dict[str, dict[str, int]] = Field(
        description="Split name to images of each class; `train` alone where the archive has none."
    )
    skipped: dict[str, int] = Field(description="Kinds of files that were passed over, and how many.")
    left_out: list[ErrorItem] = Field(description="Files that cannot be used, and why.")
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
            audit=Audit(status=record.audit.get("status", "structure"), findings=record.audit.get("findings", [])),
        )


class Model(Answer):
    """A tuned classifier."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": MODEL_ID,
                "name": "digits",
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
        }
    )

    id: str
    name: str | None
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


class ModelDetail(Model):
    """A tuned classifier with everything that makes it."""

    backbone_fingerprint: str
    manifest: dict[str, Any] = Field(description="The artefact's own description: config, prompts, samples, versions.")

    @classmethod
    def with_manifest(cls, record: ModelRecord, manifest: dict[str, Any]) -> Self:
        """A model as it is shown alone."""
        extra = {"backbone_fingerprint": record.backbone_fingerprint, "manifest": manifest}
        return cls.model_validate(_model_fields(record) | extra)


def _model_fields(record: ModelRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
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


class Listing(Answer, Generic[T]):
    """One page, newest first."""

    items: list[T]
    next_cursor: str | None = Field(description="Pass it as `cursor` to read on; null on the last page.")


def listing(page: Page[Any], items: list[T]) -> Listing[T]:
    """A page of the worker floor with its items as answers."""
    return Listing(items=items, next_cursor=page.next_cursor)


class Scored(Answer):
    """One class an image may belong to."""

    label: str
    probability: float = Field(description="Softmax over all classes asked for, 0 to 1.")
    similarity: float | None = Field(description="Cosine of image and class text; null where there is no class text.")


class Prediction(Answer):
    """What an image shows."""

    filename: str = Field(description="As the sender called it.")
    top: list[Scored] = Field(description="Most probable first; empty where the image cannot be read.")
    rejected: bool = Field(description="The best probability is below `reject_below`.")
    error: Problem | None = Field(default=None, description="Why this image has no answer.")


class Predictions(Answer):
    """The answers of one classifier, in the order of the images."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": MODEL_ID,
                "backbone": "demo",
                "predictions": [
                    {
                        "filename": "a.png",
                        "top": [{"label": "cat", "probability": 0.93, "similarity": 0.31}],
                        "rejected": False,
                    }
                ],
                "warnings": [],
            }
        }
    )

    model: str
    backbone: str
    predictions: list[Prediction]
    warnings: list[str] = Field(default_factory=list)


class ManyPredictions(Answer):
    """The answers of several classifiers to the same images, in the order they were named."""

    results: list[Predictions]


class BackboneInfo(Answer):
    """A frozen CLIP this server can tune and predict with."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "name": "demo",
                "kind": "demo",
                "default": True,
                "loaded": True,
                "available": True,
                "knows_photographs": False,
                "description": "Small CLIP trained on drawn pictures.",
                "d": 256,
            }
        },
    )

    name: str
    kind: str
    default: bool = Field(description="Used where a request names none.")
    loaded: bool = Field(description="In the memory of the process that answers; the rest is described once it is.")
    available: bool
    reason: str | None = Field(default=None, description="Why it is not available.")
    knows_photographs: bool
    description: str


class Backbones(Answer):
    """Every backbone of this server, the default one first."""

    backbones: list[BackboneInfo]


class MethodInfo(Answer):
    """A way to tune, or a regulariser. Facts beyond these fields differ between the two."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    source: str
    config_schema: dict[str, Any] = Field(description="JSON Schema of its settings.")


class Methods(Answer):
    """What a tune config can choose from."""

    config_schema: dict[str, Any] = Field(description="JSON Schema of the whole tune config.")
    items: list[MethodInfo] = Field(description="Methods.")
    regularizers: list[MethodInfo]


class ProblemKind(Answer):
    """A kind of problem this server can answer with."""

    type: str
    code: str
    title: str
    status: int
    remedy: str


class Liveness(Answer):
    """The process answers."""

    status: str


class Check(Answer):
    """One thing readiness depends on."""

    ok: bool
    detail: str


class Readiness(Answer):
    """Whether the service can take work."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "ready", "checks": {"store": {"ok": True, "detail": "writable"}}}}
    )

    status: str
    checks: dict[str, Check]
