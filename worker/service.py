"""The worker floor in one object: what the app and the worker process use.

    services = open_services(settings)
    record, created = services.start_job("tune", config, dataset_id=..., idempotency_key=..., fingerprint=...)
    services.jobs.get(id)          JobRecord           services.jobs.list(status=, limit=, cursor=)   Page[JobRecord]
    services.cancel_job(id)        JobRecord           services.datasets.add(part, filename)   (DatasetRecord, created)
    services.models.get(id)        ModelRecord         services.models.folder(id)   Path for Classifier.load
    async for event in services.events.tail(id, last_event_id): ...    {"id", "event", "data"}; `end` is the last one
    services.reaper.start()        every API process runs one; so does every worker

Everything but `events.tail` is synchronous and thread-safe: an event loop calls it in a thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
import structlog

from worker.datasets import DatasetRepository
from worker.events import Events
from worker.features import feature_cache
from worker.jobs import JobStore
from worker.keys import Keys
from worker.lease import Clock, LeaseScripts
from worker.models import ModelRepository
from worker.queue import JobQueue
from worker.reaper import Reaper
from worker.reconcile import Reconciler
from worker.records import JobRecord
from worker.recovery import Recovery
from worker.redis_url import RedisAddress
from worker.settings import WorkerSettings, get_settings
from worker.store.local import LocalStore

if TYPE_CHECKING:
    from npt_core.tuning.features import FeatureCache

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Services:
    """Everything on this floor, wired once per process."""

    settings: WorkerSettings
    address: RedisAddress
    redis: redis.Redis
    keys: Keys
    store: LocalStore
    leases: LeaseScripts
    events: Events
    jobs: JobStore
    queue: JobQueue
    datasets: DatasetRepository
    models: ModelRepository
    recovery: Recovery
    reconciler: Reconciler
    reaper: Reaper

    def start_job(
        self,
        kind: str,
        config: Mapping[str, Any],
        *,
        dataset_id: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
        warnings: Sequence[str] = (),
    ) -> tuple[JobRecord, bool]:
        """Accept a job: durable when this returns, even while Redis is away. False: the same request was replayed.

        Raises:
            NotFoundError: no such data set.
            IdempotencyMismatch: the key came with another fingerprint before.
            IdempotencyInFlight: the first request with this key is not done yet.
            StoreFullError: no room.
        """
        spec, created = self.jobs.create(
            kind,
            config,
            dataset_id=dataset_id,
            name=name,
            owner=owner,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            warnings=warnings,
        )
        if created:
            try:
                self.queue.submit(spec)
            except redis.RedisError as error:
                self.reconciler.request()  # the reaper queues it once Redis is back
                log.warning("job stored, Redis does not answer", job=spec.id, error=str(error))
        return self.jobs.get(spec.id), created

    def cancel_job(self, job_id: str) -> JobRecord:
        """Ask a job to stop; durable when this returns. A queued job is cancelled at once.

        Raises:
            NotFoundError: no such job.
            JobFinishedError: it has ended.
        """
        self.jobs.cancel(job_id)
        return self.jobs.get(job_id)

    def features(self) -> FeatureCache:
        """The store-backed cache of image features."""
        return feature_cache(self.settings)

    def health(self) -> dict[str, Any]:
        """What readiness depends on: `redis`, `store` (bool), `workers`, jobs in each state, `free_bytes`."""
        found: dict[str, Any] = {
            "redis": False,
            "store": False,
            "workers": 0,
            "queued": 0,
            "running": 0,
            "free_bytes": 0,
        }
        try:
            found |= {"redis": bool(self.redis.ping()), "workers": self.queue.workers(), **self.queue.counts()}
        except redis.RedisError as error:
            log.warning("redis does not answer", error=str(error))
        try:
            found |= {"store": self.store.writable(), "free_bytes": shutil.disk_usage(self.settings.data_dir).free}
        except OSError as error:
            log.warning("the data folder cannot be used", error=str(error))
        return found

    def close(self) -> None:
        """Stop the reaper and let the connections go. `events.aclose()` belongs to the event loop that tailed."""
        self.reaper.stop()
        self.queue.close()
        self.redis.close()


def open_services(settings: WorkerSettings | None = None, *, clock: Clock | None = None) -> Services:
    """Wire the floor. Opens no connection by itself: Redis may be away.

    Args:
        settings: The environment's where None.
        clock: Milliseconds now, for tests of leases; Redis' own time where None.
    """
    settings = settings or get_settings()
    address = RedisAddress.parse(settings.redis_address)
    client = address.client()
    keys = Keys(settings.redis_prefix)
    store = LocalStore(settings.data_dir, min_free_bytes=settings.min_free_bytes)
    leases = LeaseScripts(client, keys, settings, clock=clock)
    models = ModelRepository(store)
    jobs = JobStore(store, client, keys, leases, models, settings)
    events = Events(client, address, keys, jobs, settings)
    jobs.announce = events.publish
    queue = JobQueue(client, address, keys, leases, events, settings)
    datasets = DatasetRepository(store, jobs, models, settings)
    recovery = Recovery(jobs, leases, queue, events, settings)
    reconciler = Reconciler(client, keys, leases, jobs, queue, settings)
    reaper = Reaper(leases, queue, reconciler, recovery, store, settings)
    return Services(
        settings=settings,
        address=address,
        redis=client,
        keys=keys,
        store=store,
        leases=leases,
        events=events,
        jobs=jobs,
        queue=queue,
        datasets=datasets,
        models=models,
        recovery=recovery,
        reconciler=reconciler,
        reaper=reaper,
    )
