"""What may go, and why: what has outlived its days, and what nothing needs any more.

Data sets and jobs go only where the operator set days for them; models never go by themselves. A data set stays while a
model was made of it (its report, a comparison and a tuning that goes on from the model need the images) and while an
unfinished job needs it. Its age counts from its last use: it was sent, or a job was started on it.

The rest are leftovers of processes that died. Finding them reads without locks and writes nothing. Each removal looks
again, under the lock of whoever could need the thing, and leaves it where somebody does: so it is safe beside a running
service, and beside another sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from npt_core.onnx_export import RECIPE
from worker.archives import LOCK as DATASETS
from worker.archives import Archives
from worker.claims import FOLDER as CLAIMS
from worker.claims import IN_FLIGHT_S, Claim
from worker.datasets import DatasetRepository
from worker.errors import ConflictError, NotFoundError, WorkerError
from worker.features import feature_cache
from worker.feedback import FOLDER as FEEDBACK
from worker.feedback import FeedbackRepository
from worker.ids import DATASET_ID_PATTERN
from worker.jobfiles import INPUT, PARTS, read_record
from worker.jobs import JobStore
from worker.logs import log_change
from worker.models import LOCK as MODELS
from worker.models import ModelRepository
from worker.onnx_files import FOLDER as EXPORTS
from worker.records import DatasetRecord, JobEnd, utcnow
from worker.settings import WorkerSettings
from worker.store.base import KEY_PATTERN, Store

log = structlog.get_logger(__name__)

SETTLING_S = 60.0
"""A job that ended this long ago has been tidied by whoever ended it, or that process died."""
SWEPT = "run/swept"
"""Written when a sweep begins."""
UNKNOWN_FEATURES_DAYS = 7.0
"""Features of a backbone that no model is made with go when nobody used them for so long."""


@dataclass(frozen=True)
class Policy:
    """Days after which something goes; 0: it stays."""

    datasets_days: float = 0.0
    jobs_days: float = 0.0


@dataclass(frozen=True)
class Waste:
    """One thing that may go.

    Attributes:
        kind: dataset, job, archive, upload, leftover, attempt, claim, export, feedback, note, features.
        id: Of what: an id, or a place in the data folder.
        bytes: What going frees.
        why: In words.
    """

    kind: str
    id: str
    bytes: int
    why: str
    remove: Callable[[], bool] = field(compare=False, repr=False)


class Retention:
    """Finds what may go, and removes it."""

    def __init__(
        self,
        store: Store,
        jobs: JobStore,
        datasets: DatasetRepository,
        models: ModelRepository,
        feedback: FeedbackRepository,
        settings: WorkerSettings,
    ) -> None:
        self._store, self._jobs, self._datasets, self._models = store, jobs, datasets, models
        self._feedback = feedback
        self._settings = settings
        self._archives = Archives(store)

    @property
    def policy(self) -> Policy:
        """What the settings say."""
        return Policy(self._settings.keep_datasets_days, self._settings.keep_jobs_days)

    def sweep(self, policy: Policy | None = None, *, by: str = "retention") -> list[Waste]:
        """Remove what may go; what was removed. `by` stands in the log for who asked."""
        removed = []
        for waste in self.find(policy):
            try:
                if not waste.remove():
                    continue
            except (WorkerError, OSError) as error:  # one thing's trouble is not the others'
                log.error("not swept", kind=waste.kind, object=waste.id, error=str(error))
                continue
            removed.append(waste)
            if waste.kind in ("dataset", "job"):
                log_change(f"{waste.kind}.delete", waste.id, key=by, why=waste.why)
        if removed:
            log.info("swept", things=len(removed), bytes=sum(waste.bytes for waste in removed))
        return removed

    def sweep_in_turn(self, every_s: float) -> None:
        """Sweep, unless another process of this store does, or has within that time; tidy this machine always."""
        self._store.tidy()
        with self._store.try_lock("sweep") as alone:
            if alone and not self._swept_within(every_s / 2):
                self._store.put(SWEPT, b"")
                self.sweep()

    def _swept_within(self, seconds: float) -> bool:
        try:
            return (utcnow() - self._store.touched(SWEPT)).total_seconds() < seconds
        except NotFoundError:
            return False

    def find(self, policy: Policy | None = None) -> list[Waste]:
        """What may go now. Changes nothing."""
        policy = policy or self.policy
        jobs = list(self._old_jobs(policy))
        datasets = list(self._old_datasets(policy))
        return [
            *jobs,
            *datasets,
            *self._unused_archives({waste.id for waste in datasets}),
            *self._half_made(),
            *self._left_by_jobs({waste.id for waste in jobs}),
            *self._claims({waste.id for waste in jobs}),
            *self._of_no_model(),
            *self._old_feedback(),
            *self._unknown_features(),
            *self._stale(),
        ]

    # -- what has outlived its days

    def _old_jobs(self, policy: Policy) -> Iterator[Waste]:
        if not policy.jobs_days:
            return
        before = utcnow() - timedelta(days=policy.jobs_days)
        for job_id in self._jobs.files.ids():
            end = self._end(job_id)
            if end is not None and end.finished_at < before:
                why = f"{end.status} {_days(end.finished_at)} days ago, jobs are kept {policy.jobs_days:g}"
                yield Waste("job", job_id, self._size(f"jobs/{job_id}"), why, _bound(self._jobs.remove, job_id))

    def _end(self, job_id: str) -> JobEnd | None:
        try:
            return self._jobs.files.end(job_id)
        except WorkerError:  # damaged: for a person to look at
            return None

    def _old_datasets(self, policy: Policy) -> Iterator[Waste]:
        if not policy.datasets_days:
            return
        before = utcnow() - timedelta(days=policy.datasets_days)
        try:
            needed = self._models.datasets() | self._jobs.datasets()
        except WorkerError as error:  # what cannot be read may need any of them
            log.error("data sets kept, a record cannot be read", error=error.message)
            return
        for record in self._records()[0]:
            used = self._datasets.last_use(record)
            if used < before and record.id not in needed:
                why = f"not used for {_days(used)} days, data sets are kept {policy.datasets_days:g}"
                yield Waste(
                    "dataset", record.id, self._size(f"datasets/{record.id}"), why, _bound(self._expire, record, before)
                )

    def _expire(self, record: DatasetRecord, before: datetime) -> bool:
        try:
            return self._datasets.expire(record.id, before)
        except (ConflictError, NotFoundError):  # it has come into use, or somebody else deleted it
            return False

    def _records(self) -> tuple[list[DatasetRecord], bool]:
        """Every data set that can be read, and whether that is all of them."""
        found, complete = [], True
        for name in self._names("datasets"):
            if not DATASET_ID_PATTERN.fullmatch(name):
                continue
            try:
                found.append(read_record(self._store, f"datasets/{name}/dataset.json", DatasetRecord))
            except NotFoundError:  # half made, or deleted just now
                continue
            except WorkerError:
                complete = False
        return found, complete

    # -- what nothing needs

    def _unused_archives(self, going: set[str]) -> Iterator[Waste]:
        records, complete = self._records()
        if not complete:
            log.error("archives kept, a data set cannot be read")
            return
        needed = {key for record in records if record.id not in going for key in record.archives}
        for key, size in self._store.walk("archives"):
            if key not in needed:
                yield Waste("archive", key, size, "no data set reads from it", _bound(self._drop_archive, key))

    def _drop_archive(self, key: str) -> bool:
        with self._store.lock(DATASETS):
            return not self._store.exists(key) or self._archives.drop_unused([key]) == 1

    def _half_made(self) -> Iterator[Waste]:
        """Folders without the record that makes them visible."""
        for name in self._names("datasets"):
            if not self._store.exists(f"datasets/{name}/dataset.json"):
                place = f"datasets/{name}"
                yield self._leftover("dataset.json", place, "a data set that was never finished", DATASETS)
        if self._store.moves_in_steps:  # in a folder a model without its record is damaged, and not ours to remove
            for name in self._names("models"):
                place = f"models/{name}"
                if not self._store.exists(f"{place}/model.json") and self._old(place):
                    yield self._leftover("model.json", place, "a model that was cut off in the making", MODELS)
        for name in self._names("jobs"):
            place = f"jobs/{name}"
            if not self._store.exists(f"{place}/job.json") and self._old(place):
                yield self._leftover("job.json", place, "a job whose request died", MODELS)

    def _old(self, place: str) -> bool:
        try:
            return (utcnow() - self._store.touched(place)).total_seconds() > self._settings.part_ttl_s
        except NotFoundError:
            return False

    def _leftover(self, record: str, place: str, why: str, lock: str) -> Waste:
        def remove() -> bool:
            with self._store.lock(lock):
                return not self._store.exists(f"{place}/{record}") and self._store.delete(place)

        return Waste("leftover", place, self._size(place), why, remove)

    def _left_by_jobs(self, going: set[str]) -> Iterator[Waste]:
        for job_id in self._jobs.files.ids():
            if job_id in going:
                continue
            end = self._end(job_id)
            if end is None:
                yield from self._dead_attempts(job_id)
            elif (utcnow() - end.finished_at).total_seconds() > SETTLING_S:
                left = [f"jobs/{job_id}/{name}" for name in ("checkpoint", PARTS, INPUT)]
                left += [self._jobs.files.attempt_key(job_id, fence) for fence in self._jobs.files.fences(job_id)]
                for place in filter(self._store.exists, left):
                    yield Waste(
                        "leftover", place, self._size(place), "its job has ended", _bound(self._tidy, job_id, end)
                    )

    def _tidy(self, job_id: str, end: JobEnd) -> bool:
        self._jobs.carry_out(job_id, end)  # first: the attempt's folder may still hold the model
        self._jobs.files.tidy(job_id)
        return True

    def _dead_attempts(self, job_id: str) -> Iterator[Waste]:
        """An attempt that ended long ago without ending its job. Not sooner: one held dead may come back, and win."""
        for fence in self._jobs.files.fences(job_id):
            place = self._jobs.files.attempt_key(job_id, fence)
            over = self._jobs.files.attempt_end(job_id, fence)
            if over is None or not self._store.exists(place):
                continue
            if (utcnow() - over.ended_at).total_seconds() > self._settings.part_ttl_s:
                why = f"the attempt {over.outcome}, another one goes on"
                yield Waste("attempt", place, self._size(place), why, _bound(self._store.delete, place))

    def _claims(self, going: set[str]) -> Iterator[Waste]:
        """Idempotency keys that are remembered no longer, or whose job is not there any more."""
        for name in self._names(CLAIMS):
            key = f"{CLAIMS}/{name}"
            try:
                claim = read_record(self._store, key, Claim)
            except WorkerError:
                continue
            old = claim.age_s > self._settings.idempotency_ttl_s
            gone = claim.age_s > IN_FLIGHT_S and not self._jobs.files.exists(claim.job_id)
            if old or gone or claim.job_id in going:
                why = "an Idempotency-Key that is remembered no longer" if old else "its job is gone"
                yield Waste("claim", key, self._size(key), why, _bound(self._drop_claim, key, claim, old))

    def _drop_claim(self, key: str, claim: Claim, old: bool) -> bool:
        return (old or not self._jobs.files.exists(claim.job_id)) and self._jobs.claims.drop_over(key, claim)

    def _of_no_model(self) -> Iterator[Waste]:
        for name in self._names(EXPORTS):
            if not self._store.exists(f"models/{name}"):
                yield self._orphan("export", f"{EXPORTS}/{name}", name)
                continue
            for file in self._names(f"{EXPORTS}/{name}"):
                if file != f"{RECIPE}.onnx":
                    place = f"{EXPORTS}/{name}/{file}"
                    why = "written in a way that was given up"
                    yield Waste("export", place, self._size(place), why, _bound(self._store.delete, place))
        for name in self._names(FEEDBACK):
            if not self._store.exists(f"models/{name}"):
                yield self._orphan("feedback", f"{FEEDBACK}/{name}", name)
        for content in self._names("contents"):
            for name in self._names(f"contents/{content}"):
                if not self._store.exists(f"models/{name}"):
                    yield self._orphan("note", f"contents/{content}/{name}", name)

    def _old_feedback(self) -> Iterator[Waste]:
        for model_id, items, size in self._feedback.overdue():
            if self._store.exists(f"models/{model_id}"):
                why = f"{items} pictures older than the model's bound"
                yield Waste("feedback", model_id, size, why, _bound(self._feedback.trim, model_id))

    def _orphan(self, kind: str, place: str, model_id: str) -> Waste:
        def remove() -> bool:
            with self._store.lock(MODELS):
                return not self._store.exists(f"models/{model_id}") and self._store.delete(place)

        return Waste(kind, place, self._size(place), "its model is not there", remove)

    def _unknown_features(self) -> Iterator[Waste]:
        if not (self._settings.features_path / "features.sqlite3").exists():
            return
        from npt_core.tuning.cache import GROUP

        cache = feature_cache(self._settings)
        try:
            known = {fingerprint[:GROUP] for fingerprint in self._models.fingerprints()}
        except WorkerError as error:
            log.error("features kept, a record cannot be read", error=error.message)
            return
        before = utcnow() - timedelta(days=UNKNOWN_FEATURES_DAYS)
        for group in cache.groups():
            if group.name not in known and group.used < before.timestamp():
                why = f"of a backbone no model is made with, not used for {UNKNOWN_FEATURES_DAYS:g} days"
                drop = _bound(cache.drop_group, group.name, before.timestamp())
                yield Waste("features", group.name or "(none)", group.size, why, drop)

    def _stale(self) -> Iterator[Waste]:
        for place, size in self._store.stale(self._settings.part_ttl_s):
            kind = "upload" if place.startswith("uploads/") else "leftover"
            why = "an upload that was never finished" if kind == "upload" else "a write or removal that was cut off"
            yield Waste(kind, place, size, why, _bound(self._store.drop_stale, place))

    def _names(self, prefix: str) -> list[str]:
        """Names under a prefix that we can have given."""
        return [name for name in self._store.names(prefix) if KEY_PATTERN.fullmatch(f"{prefix}/{name}")]

    def _size(self, place: str) -> int:
        return self._store.size(place)


def _bound(function: Callable[..., bool], *args: object) -> Callable[[], bool]:
    return lambda: function(*args)


def _days(since: datetime) -> int:
    return (utcnow() - since).days
