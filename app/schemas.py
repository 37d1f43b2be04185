"""What the API says, as pydantic models: answers with their examples. Built from the records of the worker floor."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app import problems
from npt_core.errors import Fault
from npt_core.serving.terms import Source
from worker.records import JobRecord, JobStatus, Page
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
        default=None,
        description="unpacking, auditing, encoding, tuning, evaluating, predicting or saving.",
        examples=["tuning"],
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
                "starts_in_seconds": None,
                "cancel_requested": False,
                "warnings": [],
                "error": None,
                "attempts": 1,
                "counters": {"images_encoded": 160, "images_cached": 0, "steps": 420},
                "metrics": None,
                "result": None,
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
    queue_position: int | None = Field(description="Jobs that start before this one; null once it runs.")
    starts_in_seconds: float | None = Field(
        description="How long until it starts, judged by recent jobs and workers; null once it runs, and where unknown."
    )
    cancel_requested: bool
    warnings: list[str]
    error: Problem | None
    attempts: int
    counters: dict[str, int | float]
    metrics: dict[str, Any] | None
    result: dict[str, Any] | None = Field(
        description="What it made that is no model: of predictions, counts and files."
    )

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
            starts_in_seconds=record.starts_in_seconds,
            cancel_requested=record.cancel_requested,
            warnings=list(record.warnings),
            error=Problem.stored(record.error) if record.error else None,
            attempts=record.attempts,
            counters=dict(record.counters),
            metrics=record.metrics,
            result=record.result,
        )


class Listing(Answer, Generic[T]):
    """One page of a list: newest first, aliases by name."""

    items: list[T]
    next_cursor: str | None = Field(description="Pass it as `cursor` to read on; null on the last page.")


def listing(page: Page[Any], items: list[T]) -> Listing[T]:
    """A page of the worker floor with its items as answers."""
    return Listing(items=items, next_cursor=page.next_cursor)


class Scored(Answer):
    """One class an image may belong to."""

    label: str
    probability: float = Field(
        description="Softmax over all classes asked for, 0 to 1; what it is worth is said by `calibrated`."
    )
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
                "calibrated": True,
                "temperature": 1.27,
                "reject_below": 0.5,
                "reject_below_from": "request",
                "priors_applied": False,
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
    alias: str | None = Field(default=None, description="What the model was asked for by, where that was an alias.")
    backbone: str
    calibrated: bool = Field(
        description="Whether the probabilities may be read as frequencies: a temperature was fitted on held-out "
        "images, and every label is one it was fitted on."
    )
    temperature: float = Field(description="What the logits were divided by; 1 where none was fitted.")
    reject_below: float = Field(description="The threshold of `rejected` that was used; 0 rejects nothing.")
    reject_below_from: Source = Field(description="Who stated it; `default`: nobody.")
    priors_applied: bool = Field(description="The probabilities are those for class frequencies that were stated.")
    priors_from: Literal["request", "alias"] | None = Field(default=None, description="Who stated them.")
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
