"""What a use case is given: its request, its folder, and the ways to report, to resume and to be stopped."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from worker.control import JobControl
from worker.features import NotedCache
from worker.jobfiles import RESULTS
from worker.records import JobProgress, JobSpec
from worker.service import Services

if TYPE_CHECKING:
    from npt_core.tuning.control import Progress

GEOMETRY_EVENTS, ALL_GEOMETRY_EVENTS = 51, 306
"""At most so many a stage, the start among them, and so many in all: each may hold a picture of some KiB."""


@dataclass
class JobContext:
    """One attempt at one job."""

    spec: JobSpec
    fence: int
    services: Services
    control: JobControl
    folder: Path
    """What lies here when the use case returns becomes the job's result, if this attempt wins."""

    last: JobProgress | None = None
    model_id: str | None = None
    _told: float = field(default=-1e9, repr=False)
    _phase: str = ""
    _phase_began: float = 0.0
    _seconds: dict[str, float] = field(default_factory=dict, repr=False)
    _geometries: Counter[str | None] = field(default_factory=Counter, repr=False)

    def progress(self, progress: Progress) -> None:
        """Tell the world where the work stands; as often as the use case likes, it is thinned out here."""
        self.tell(progress.to_dict())

    def tell(self, facts: dict[str, Any]) -> None:
        """The same, from plain values: the fields of JobProgress, `geometry`, and `picture` of it."""
        geometry, picture = facts.pop("geometry", None), facts.pop("picture", None)
        self.last = JobProgress.model_validate(facts)
        now = time.monotonic()
        fresh_phase = self.last.phase != self._phase
        if fresh_phase or now - self._told >= 1 / self.services.settings.progress_per_s:
            if fresh_phase:
                self._seconds = self.phases
                self._phase_began = now
            self._told, self._phase = now, self.last.phase
            self.services.events.publish(self.spec.id, "progress", self.last.model_dump(mode="json"))
        told = self._geometries
        if geometry is None or told[self.last.stage] >= GEOMETRY_EVENTS or told.total() >= ALL_GEOMETRY_EVENTS:
            return
        told[self.last.stage] += 1
        data = {"epoch": self.last.epoch, "stage": self.last.stage, "geometry": geometry, "picture": picture}
        self.services.events.publish(self.spec.id, "geometry", data)

    def mark(self) -> None:
        """Something durable was made: should the worker die now, the job is not to blame for it."""
        try:
            self.services.leases.mark(self.spec.id, self.fence)
        except redis.RedisError:
            return  # worth a charge at most

    @property
    def features(self) -> NotedCache:
        """The store's cache of image features, for this job."""
        return NotedCache(self.services.features(), self.mark, self.services.tally.add)

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase so far, as it was told."""
        now = time.monotonic()
        found = dict(self._seconds)
        if self._phase:
            found[self._phase] = found.get(self._phase, 0.0) + now - self._phase_began
        return {phase: round(seconds, 3) for phase, seconds in found.items()}

    @property
    def results(self) -> Path:
        """A folder for files that the job's user can read; they are kept with the job if this attempt wins."""
        folder = self.folder / RESULTS
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Checkpoints:
        """Where the tuning keeps what it resumes from."""
        return Checkpoints(self)


class Checkpoints:
    """`npt_core.tuning.control.CheckpointStore` in the job's folder, one file an attempt."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def load(self) -> bytes | None:
        return self._context.services.jobs.files.load_checkpoint(self._context.spec.id)

    def save(self, data: bytes) -> None:
        self._context.services.jobs.files.save_checkpoint(self._context.spec.id, self._context.fence, data)
        self._context.mark()
