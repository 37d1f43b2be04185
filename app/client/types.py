"""What the server answers, as values. Each keeps the whole answer in `raw`: a newer server may say more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Raw = Mapping[str, Any]

ENDED = frozenset({"succeeded", "failed", "cancelled"})


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list, newest first; `next_cursor` is None on the last."""

    items: list[T]
    next_cursor: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class JobState:
    """A job as it stands.

    Attributes:
        status: queued, running, succeeded, failed or cancelled.
        progress: phase, step, total_steps, loss, accuracy, eta_seconds; None where not known.
        metrics: What it came to, in a few numbers.
        error: The problem it failed with.
    """

    id: str
    kind: str
    status: str
    model_id: str | None
    dataset_id: str | None
    progress: Raw
    metrics: Raw
    warnings: tuple[str, ...]
    error: Raw | None
    raw: Raw = field(repr=False, default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self.status in ENDED

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From the server's JSON."""
        return cls(
            id=raw["id"],
            kind=raw["kind"],
            status=raw["status"],
            model_id=raw.get("model_id"),
            dataset_id=raw.get("dataset_id"),
            progress=raw.get("progress") or {},
            metrics=raw.get("metrics") or {},
            warnings=tuple(raw.get("warnings") or ()),
            error=raw.get("error"),
            raw=raw,
        )


@dataclass(frozen=True)
class Model:
    """A tuned classifier."""

    id: str
    name: str | None
    version: int | None
    method: str
    backbone: str
    labels: tuple[str, ...]
    metrics: Raw
    created_at: datetime | None
    raw: Raw = field(repr=False, default_factory=dict)

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From the server's JSON."""
        return cls(
            id=raw["id"],
            name=raw.get("name"),
            version=raw.get("version"),
            method=raw["method"],
            backbone=raw["backbone"],
            labels=tuple(raw["labels"]),
            metrics=raw.get("metrics") or {},
            created_at=_when(raw.get("created_at")),
            raw=raw,
        )


@dataclass(frozen=True)
class Dataset:
    """Stored labelled images."""

    id: str
    images: int
    labels: tuple[str, ...]
    audit: Raw
    raw: Raw = field(repr=False, default_factory=dict)

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """From the server's JSON."""
        return cls(
            id=raw["id"],
            images=raw["images"],
            labels=tuple(one["label"] if isinstance(one, Mapping) else one for one in raw.get("classes", ())),
            audit=raw.get("audit") or {},
            raw=raw,
        )


@dataclass(frozen=True)
class Candidate:
    """A class that an image may show."""

    label: str
    probability: float
    similarity: float


@dataclass(frozen=True)
class Prediction:
    """What one model says of one image.

    Attributes:
        model: Id of the model, or zero-shot.
        top: The best classes, best first; empty where the image could not be read.
        rejected: The best probability is below `reject_below`.
        error: Why there is no answer.
    """

    filename: str
    model: str
    top: tuple[Candidate, ...]
    rejected: bool
    error: Raw | None
    raw: Raw = field(repr=False, default_factory=dict)

    @property
    def best(self) -> Candidate:
        """The most probable class.

        Raises:
            ValueError: The image could not be read.
        """
        if not self.top:
            detail = self.error["detail"] if self.error else "no answer"
            raise ValueError(f"{self.filename}: {detail}")
        return self.top[0]


def predictions(raw: Raw) -> list[Prediction]:
    """Every answer of `POST /predict`, model by model."""
    return [
        Prediction(
            filename=one["filename"],
            model=answer["model"],
            top=tuple(Candidate(c["label"], c["probability"], c["similarity"]) for c in one.get("top", ())),
            rejected=one.get("rejected", False),
            error=one.get("error"),
            raw=one,
        )
        for answer in raw.get("results", [raw])
        for one in answer["predictions"]
    ]


@dataclass(frozen=True)
class Event:
    """One event of a job: `snapshot`, `status`, `progress`, `geometry`, or `end`, which is the last."""

    id: str | None
    event: str
    data: Raw


def labels_text(labels: Sequence[str]) -> list[str]:
    """A list of names, and never one name letter by letter."""
    if isinstance(labels, str):
        raise TypeError("`labels` is a list of names, not one text")
    return list(labels)
