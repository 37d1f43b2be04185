"""What is known about jobs, data sets and models, as data.

A job is a folder, and the folder is the truth:

    jobs/<id>/job.json            what was asked (JobSpec), written before the request is answered
    jobs/<id>/input.zip           the archive it is about, where that is nothing else's; gone when the job has ended
    jobs/<id>/attempts/NNNN.json  one claim of a worker (Attempt), created once
    jobs/<id>/attempts/NNNN.end.json   how that attempt ended without finishing the job (AttemptEnd)
    jobs/<id>/attempts/NNNN/      the files that attempt makes
    jobs/<id>/cancel.json         somebody asked to stop
    jobs/<id>/results/            files for the user, moved here from the folder of the attempt that won
    jobs/<id>/checkpoint/NNNN     the latest checkpoint of attempt NNNN
    jobs/<id>/parts/              pieces of the result that any later attempt can go on from (worker.parts)
    jobs/<id>/end.json            how it ended (JobEnd), created once; whoever creates it has decided
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from npt_core.errors import NPTError
from npt_core.serving.terms import Terms

T = TypeVar("T")
_CHECKSUM = re.compile(rb',?"checksum":"([0-9a-f]{64})"\}\Z')
_LONGEST = len(b',"checksum":""}') + 64


class DamagedRecord(ValueError):  # noqa: N818 - what it is
    """A stored record has another checksum than it was written with."""


class Record(BaseModel):
    """A frozen record. Unknown keys are ignored, so that an older program reads a newer one's files."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    def to_json(self) -> bytes:
        """As it is stored: its last key is the SHA-256 of the record without it, which `from_json` compares.

        A byte that turns in a stored record often leaves JSON, with another name or number in it.
        """
        plain = self.model_dump_json(exclude_none=True).encode()
        comma = b"," if len(plain) > 2 else b""
        return b'%b%b"checksum":"%b"}' % (plain[:-1], comma, hashlib.sha256(plain).hexdigest().encode())

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` gave. A record without a checksum, an earlier version's, is taken as it is.

        Raises:
            DamagedRecord: it is not what was written.
            ValueError: it is no record of this kind that this version knows.
        """
        found = _CHECKSUM.search(data, max(0, len(data) - _LONGEST))
        if found and hashlib.sha256(data[: found.start()] + b"}").hexdigest().encode() != found[1]:
            raise DamagedRecord
        return cls.model_validate_json(data)


class JobStatus(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True where nothing can follow."""
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, *TERMINAL}),  # queued again: drained, or its worker died
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def utcnow() -> datetime:
    return datetime.now(UTC)


class ProblemItem(Record):
    """One fault among several: `path` is a file of the archive or a field of the config."""

    path: str
    message: str


class Problem(Record):
    """Why a job failed, in the shape of a problem document without its HTTP status. `type` is the error's code."""

    type: str
    title: str
    detail: str
    errors: tuple[ProblemItem, ...] = ()

    @classmethod
    def from_error(cls, error: NPTError) -> Problem:
        """The problem an error of this project tells of; at most 1,000 faults are kept."""
        items = tuple(ProblemItem(path=fault.path, message=fault.message) for fault in error.faults[:1000])
        return cls(type=error.code, title=error.code.replace("-", " ").capitalize(), detail=error.message, errors=items)


class JobProgress(Record):
    """Where a running job is, or where an ended one was."""

    phase: str = ""
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    accuracy: float | None = None
    eta_seconds: float | None = None
    epoch: int | None = None
    stage: str | None = None


class JobSpec(Record):
    """What was asked; never changes."""

    id: str
    kind: str
    name: str | None = None
    created_at: datetime
    dataset_id: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    owner: str | None = None
    queue: str = "default"
    request: str | None = None  # the id of the request that asked, for the log
    warnings: tuple[str, ...] = ()  # what the upload that asked for it had to leave out


class Attempt(Record):
    """One claim: who works on the job since when, and what the job has been charged so far."""

    fence: int
    charged: int
    node: str
    boot: str
    worker: str
    pid: int
    started_at: datetime


class AttemptEnd(Record):
    """How an attempt ended that did not end the job."""

    fence: int
    charged: int
    outcome: str  # drained | died
    ended_at: datetime


class Outcome(Record):
    """What a use case hands back when it has done its work; its files lie in the attempt's folder."""

    model: ModelDraft | None = None
    warnings: tuple[str, ...] = ()
    counters: dict[str, int | float] = Field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


class JobEnd(Record):
    """How a job ended."""

    status: JobStatus
    finished_at: datetime
    started_at: datetime | None = None
    fence: int = 0
    attempts: int = 0
    error: Problem | None = None
    model_id: str | None = None
    warnings: tuple[str, ...] = ()
    counters: dict[str, int | float] = Field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    progress: JobProgress | None = None
    phases: dict[str, float] = Field(default_factory=dict)  # seconds of each, of the attempt that ended it


class JobRecord(Record):
    """All there is to say about a job now: the stored facts and what Redis knows of the moment."""

    id: str
    kind: str
    name: str | None = None
    status: JobStatus
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    dataset_id: str | None = None
    model_id: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    progress: JobProgress | None = None
    queue_position: int | None = None  # 0 is next
    starts_in_seconds: float | None = None  # an estimate, while it waits
    cancel_requested: bool = False
    warnings: tuple[str, ...] = ()
    error: Problem | None = None
    attempts: int = 0
    counters: dict[str, int | float] = Field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    owner: str | None = None


class AuditStatus(StrEnum):
    """How far a data set was looked at."""

    STRUCTURE = "structure"  # names, counts and hashes; no picture
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def under_way(self) -> bool:
        """A job is looking, or about to."""
        return self in (AuditStatus.QUEUED, AuditStatus.RUNNING)


class AuditRecord(Record):
    """What is known of a data set's faults."""

    status: AuditStatus = AuditStatus.STRUCTURE
    job_id: str | None = None
    backbone: str | None = None  # whose eyes it was seen with
    finished_at: datetime | None = None
    findings: tuple[dict[str, Any], ...] = ()


class DatasetRecord(Record):
    """A stored data set. `id` is the hash of its sorted (split, label, image hash) triples."""

    id: str
    created_at: datetime
    filename: str | None = None
    size: int  # bytes of the zips it reads from
    images: int
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split -> label -> images; split "" where the archive has none
    skipped: dict[str, int] = Field(default_factory=dict)
    faults: tuple[ProblemItem, ...] = ()
    archives: tuple[str, ...] = ()  # keys of the zips, as the manifest numbers them
    files: dict[str, str] = Field(default_factory=dict)  # beside the record -> SHA-256; earlier ones have none
    parent: str | None = None  # the data set this one was made from, which may be gone
    change: dict[str, int] | None = None  # how many pictures were added, removed, relabelled
    audit: AuditRecord = AuditRecord()


class ModelDraft(Record):
    """What a use case says of the classifier it saved into its attempt folder."""

    name: str | None = None
    dataset_id: str | None = None
    parent: str | None = None
    backbone: str
    backbone_fingerprint: str = ""
    method: str
    regularizer: str = "none"
    labels: tuple[str, ...] = ()
    metrics: dict[str, Any] = Field(default_factory=dict)


class ModelRecord(ModelDraft):
    """A classifier that can be served: `model.json`, the last file of its folder to be written."""

    id: str
    job_id: str | None = None
    created_at: datetime
    owner: str | None = None
    version: int | None = None  # 1, 2, ... within its name; None where it has no name
    content: str | None = None  # hash of what makes it, the same on every server
    imported: Origin | None = None
    files: dict[str, FileMark] = Field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(mark.size for mark in self.files.values())


class Origin(Record):
    """Where an imported model comes from, in the words of the server that exported it."""

    id: str
    name: str | None = None
    version: int | None = None
    created_at: datetime | None = None


class AliasRecord(Record):
    """A name that points to a model and can be pointed to another."""

    alias: str
    model_id: str
    previous: str | None = None  # what it pointed to before
    reject_below: float | None = None
    priors: dict[str, float] | None = None  # how often each label occurs where it is used
    created_at: datetime
    updated_at: datetime

    @property
    def terms(self) -> Terms:
        """On what terms the model answers under this name."""
        return Terms(self.reject_below, self.priors)


class FileMark(Record):
    """Size and hash of one stored file, so that a flipped byte is found."""

    size: int
    sha256: str


class Page(BaseModel, Generic[T]):
    """One page of a listing, newest first; `next_cursor` is None on the last."""

    items: list[T]
    next_cursor: str | None = None


Outcome.model_rebuild()
ModelRecord.model_rebuild()
