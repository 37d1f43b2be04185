"""Jobs as everybody sees them: one, a page, those that have not ended. The folder decides, Redis makes it quick."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import cast

import structlog
from pydantic import ValidationError

from worker.bus import Bus
from worker.errors import NotFoundError, WorkerError
from worker.ids import check_id
from worker.jobfiles import JobFiles
from worker.jobindex import JobIndex
from worker.models import ModelRepository
from worker.patience import Patience
from worker.records import JobEnd, JobProgress, JobRecord, JobSpec, JobStatus, Page
from worker.references import References, needs_of_job
from worker.store.base import Store
from worker.turns import Moment

log = structlog.get_logger(__name__)


MOST_LOOKS = 500
"""A page looks into so many folders at most; where it found less than was asked for by then, it says where to go on."""


class JobReader:
    """Looks jobs up. Changes nothing but what an end that was decided still asks for."""

    def __init__(self, store: Store, bus: Bus, models: ModelRepository) -> None:
        self.files = JobFiles(store)
        self.index = JobIndex(bus.redis, bus.keys)
        self._redis, self._keys, self._leases, self._memory = bus.redis, bus.keys, bus.leases, bus.memory
        self._models = models
        self._patience = Patience()
        self.references = References(store)

    # -- one

    def get(self, job_id: str) -> JobRecord:
        """Everything known about a job now. Redis adds the moment; without it the folder still answers.

        Raises:
            NotFoundError: no such job.
        """
        spec = self.files.spec(job_id)
        end = self.files.end(job_id)
        return self._record(spec, end, self._look([job_id])[0] if end is None else Moment())

    def _record(self, spec: JobSpec, end: JobEnd | None, moment: Moment) -> JobRecord:
        base = spec.model_dump(exclude={"queue", "request"})
        if end is not None:
            self.carry_out(spec.id, end)
            facts = base | end.model_dump(exclude={"fence"})
            facts["warnings"] = tuple(dict.fromkeys((*spec.warnings, *end.warnings)))
            return JobRecord(**facts, cancel_requested=end.status is JobStatus.CANCELLED)
        fences = self.files.fences(spec.id)
        status = JobStatus.QUEUED
        if moment.status in ("queued", "running"):
            status = JobStatus(moment.status)
        elif fences and self.files.attempt_end(spec.id, fences[-1]) is None:
            status = JobStatus.RUNNING
        started = self.files.attempt(spec.id, fences[0]).started_at if fences else None
        outlook = moment.outlook
        return JobRecord(
            **base,
            status=status,
            started_at=started,
            progress=read_progress(moment.progress),
            queue_position=outlook.before if outlook is not None else None,
            starts_in_seconds=outlook.starts_in_seconds if outlook is not None else None,
            cancel_requested=self.files.cancel_asked(spec.id),
            attempts=len(fences),
        )

    def _look(self, job_ids: Sequence[str]) -> list[Moment]:
        """What Redis knows of jobs, in one question however many they are."""
        nothing = [Moment()] * len(job_ids)
        return self._patience.ask(lambda: self._leases.look(job_ids), nothing) if job_ids else nothing

    def progress(self, job_id: str) -> JobProgress | None:
        """The last progress of a job that runs."""
        key = self._keys.job(job_id)
        return read_progress(self._patience.ask(lambda: cast("str | None", self._redis.hget(key, "progress")), None))

    # -- a page

    def list(self, *, status: JobStatus | None = None, limit: int = 50, cursor: str | None = None) -> Page[JobRecord]:
        """Newest first. `cursor` is the `next_cursor` of the page before.

        Where Redis cannot be asked for the jobs of one state, a page may have fewer than there are, or none, and still
        say where to go on.
        """
        status = JobStatus(status) if status is not None else None
        if cursor is not None:
            check_id(cursor, "job")
        items: list[JobRecord] = []
        looks = 0
        for job_ids in self._batches(status, cursor, limit + 1):
            items += self._read(job_ids, status)
            if len(items) > limit:
                return Page(items=items[:limit], next_cursor=items[limit - 1].id)
            looks += len(job_ids)
            if looks >= MOST_LOOKS:
                return Page(items=items, next_cursor=job_ids[-1])
        return Page(items=items)

    def _batches(self, status: JobStatus | None, cursor: str | None, size: int) -> Iterator[Sequence[str]]:
        """Ids that may belong on a page, newest first."""
        states = list(JobStatus) if status is None else [status]
        while self._patience.ask(self._memory.whole, False):
            job_ids = self._patience.ask(partial(self.index.newest, states, cursor, size), None)
            if job_ids is None:
                break  # it is gone for now: go on with the folders
            if job_ids:
                yield job_ids
            if len(job_ids) < size:
                return
            cursor = job_ids[-1]
        rest = self.files.ids(below=cursor)
        while job_ids := list(islice(rest, size)):
            yield job_ids

    def _read(self, job_ids: Sequence[str], status: JobStatus | None) -> Sequence[JobRecord]:
        """The records among these that are in that state; what cannot be read is left out."""
        found: list[tuple[JobSpec, JobEnd | None]] = []
        for job_id in job_ids:
            with self._left_out(job_id):
                end = self.files.end(job_id)
                if end is None and not self.files.exists(job_id):
                    raise NotFoundError(f"There is no job with the id {job_id!r}.")
                if status is None or (status is end.status if end is not None else not status.terminal):
                    found.append((self.files.spec(job_id), end))
        moments = iter(self._look([spec.id for spec, end in found if end is None]))
        records: list[JobRecord] = []
        for spec, end in found:
            moment = next(moments) if end is None else Moment()
            with self._left_out(spec.id):
                records.append(self._record(spec, end, moment))
        return [record for record in records if status is None or record.status is status]

    @contextlib.contextmanager
    def _left_out(self, job_id: str) -> Iterator[None]:
        """A job that cannot be read does not keep the others from being listed."""
        try:
            yield
        except NotFoundError:
            if not self.files.has_folder(job_id):  # else it is just being made
                self._forget(job_id)  # removed by somebody whom Redis did not answer
        except WorkerError as error:
            log.error("job left out of a listing", job=job_id, error=error.message)

    # -- all that have not ended

    def uses(self, dataset_id: str, *, besides: str | None = None) -> str | None:
        """An unfinished job that needs the data set, if there is one; `besides` is a kind that does not count.

        Whatever an ended one made of it stands in its place when this returns. Call it with the data sets' lock held.
        """
        for spec, end in self._users(dataset_id):
            if end is not None:
                self.carry_out(spec.id, end)  # its winner may have died before the model was there to need it
            elif spec.kind != besides:
                return spec.id
        return None

    def uses_model(self, model_id: str) -> str | None:
        """An unfinished job that needs the model, if there is one. Call it with the models' lock held."""
        return next((spec.id for spec, end in self._users(model_id) if end is None), None)

    def _users(self, what: str) -> Iterator[tuple[JobSpec, JobEnd | None]]:
        """Every job that is noted to need something, the oldest first, and how it ended; forgets those that did."""
        for job_id in self.references.of(what):
            if not job_id.startswith("job_"):
                continue
            try:
                spec, end = self.files.spec(job_id), self.files.end(job_id)
                if what in needs_of_job(spec):
                    yield spec, end
            except NotFoundError:  # its request died before it was written, or it was removed
                end = None
                self.references.drop(job_id, [what])
            except WorkerError as error:  # it cannot run either
                log.error(
                    "job left out of a look for what needs something", job=job_id, needs=what, error=error.message
                )
                continue
            if end is not None:
                self.references.drop(job_id, [what])

    def datasets(self) -> set[str]:
        """Every data set that an unfinished job needs.

        Raises:
            CorruptRecordError: a record cannot be read.
        """
        specs = (self.files.spec(job_id) for job_id in self.unfinished())
        return {spec.dataset_id for spec in specs if spec.dataset_id is not None}

    def unfinished(self) -> Iterator[str]:
        """Every job that has not ended, oldest first."""
        for job_id in sorted(self.files.ids()):
            if not self.files.ended(job_id) and self.files.exists(job_id):
                yield job_id

    def _forget(self, job_id: str) -> None:
        """Have Redis know a job no more. Where it does not answer, listings find out and do it."""
        self._patience.ask(lambda: self.index.forget([job_id]), None)

    def carry_out(self, job_id: str, end: JobEnd) -> None:
        """Finish the move of results and of a model that their winner may have died over."""
        if end.status is JobStatus.SUCCEEDED:
            self.files.keep_results(job_id, end.fence)
        if end.model_id is not None:
            self._models.promote(self.files.attempt_key(job_id, end.fence), end.model_id)


def read_progress(text: str | None) -> JobProgress | None:
    """Progress as Redis holds it; None where it is missing or not readable."""
    if not text:
        return None
    try:
        return JobProgress.model_validate_json(text)
    except ValidationError:
        return None
