"""The worker floor in one object: what the app and the worker process use.

    services = open_services(settings)
    record, created = services.start_job("tune", config, dataset_id=..., idempotency_key=..., fingerprint=...)
    services.jobs.get(id)          JobRecord           services.jobs.list(status=, limit=, cursor=)   Page[JobRecord]
    services.cancel_job(id)        JobRecord           services.datasets.add(part, filename)   (DatasetRecord, created)
    services.models.get(id)        ModelRecord         services.models.sound_folder(id)   Path for Classifier.load
    services.catalogue.resolve(id_or_alias)   ModelRecord      services.aliases.put(alias, id)   (AliasRecord, created)
    async for event in services.events.tail(id, last_event_id): ...    {"id", "event", "data"}; `end` is the last one
    services.reaper.start()        every API process runs one; so does every worker

Everything but `events.tail` is synchronous and thread-safe: an event loop calls it in a thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import structlog
from redis import Redis

from worker.aliases import AliasRepository
from worker.audits import AUDITS, KIND
from worker.bus import Bus
from worker.catalogue import Catalogue
from worker.datasets import DatasetRepository
from worker.events import Events
from worker.exchange import ModelExchange
from worker.features import feature_cache
from worker.feedback import FeedbackRepository
from worker.jobs import JobStore
from worker.keys import Keys
from worker.lease import Clock, LeaseScripts
from worker.models import ModelRepository
from worker.onnx_files import OnnxFiles
from worker.queue import JobQueue
from worker.reaper import Reaper
from worker.reconcile import Reconciler
from worker.records import AuditStatus, JobRecord
from worker.recovery import Recovery
from worker.redis_memory import RedisMemory
from worker.redis_url import RedisAddress
from worker.retention import Retention
from worker.settings import WorkerSettings, get_settings
from worker.shelf import DatasetShelf
from worker.store.base import Store
from worker.store.opening import open_store
from worker.tally import Tally
from worker.usage import Usage

if TYPE_CHECKING:
    from npt_core.tuning.features import FeatureCache

log = structlog.get_logger(__name__)

PROBE_S = 1.0


@dataclass(frozen=True)
class Services:
    """Everything on this floor, wired once per process."""

    settings: WorkerSettings
    address: RedisAddress
    redis: redis.Redis
    probe: Redis  # gives up after a second
    keys: Keys
    tally: Tally
    usage: Usage
    store: Store
    leases: LeaseScripts
    events: Events
    jobs: JobStore
    queue: JobQueue
    datasets: DatasetRepository
    models: ModelRepository
    aliases: AliasRepository
    catalogue: Catalogue
    exchange: ModelExchange
    onnx: OnnxFiles
    feedback: FeedbackRepository
    recovery: Recovery
    retention: Retention
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
        archive: Path | None = None,
    ) -> tuple[JobRecord, bool]:
        """Accept a job: durable when this returns, even while Redis is away. False: the same request was replayed.

        Args:
            archive: An upload that only this job is about: it goes with a new job, and is gone when that has ended.

        Raises:
            NotFoundError: no such data set, or no such model.
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
            archive=archive,
        )
        if created:
            try:
                self.queue.submit(spec)
            except redis.RedisError as error:
                self.reconciler.request()  # the reaper queues it once Redis is back
                log.warning("job stored, Redis does not answer", job=spec.id, error=str(error))
        return self.jobs.get(spec.id), created

    def start_audit(
        self, dataset_id: str, *, backbone: str | None = None, owner: str | None = None, again: bool = False
    ) -> JobRecord | None:
        """Have a job look at the pictures of a data set, unless one is about to; None where it was done before.

        Args:
            backbone: Whose features are looked at; the server's first where None.
            again: Look once more where it was done before.

        Raises:
            NotFoundError: no such data set.
            StoreFullError: no room.
        """
        with self.store.lock(AUDITS):
            audit = self.datasets.get(dataset_id).audit
            if audit.status.under_way and audit.job_id is not None:
                return self.jobs.get(audit.job_id)
            if audit.status is AuditStatus.DONE and not again:
                return None
            job, _ = self.start_job(KIND, {"backbone": backbone}, dataset_id=dataset_id, owner=owner)
            self.datasets.audits.announce(dataset_id, job.id)
        return job

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
            self.probe.ping()  # one that hangs costs a second
            found |= {"redis": True, "workers": self.queue.workers(), **self.queue.counts()}
        except redis.RedisError as error:
            log.warning("redis does not answer", error=str(error))
        try:
            found |= {"store": self.store.writable(), "free_bytes": shutil.disk_usage(self.settings.data_dir).free}
        except OSError as error:
            log.warning("the store cannot be used", error=str(error))
        return found

    def close(self) -> None:
        """Stop the reaper and let the connections go. `events.aclose()` belongs to the event loop that tailed."""
        self.reaper.stop()
        self.queue.close()
        self.redis.close()
        self.probe.close()


def open_services(settings: WorkerSettings | None = None, *, clock: Clock | None = None) -> Services:
    """Wire the floor. Opens no connection to Redis, which may be away. A bucket is asked whether it will do.

    Args:
        settings: The environment's where None.
        clock: Milliseconds now, for tests of leases; Redis' own time where None.

    Raises:
        ConfigError: there is no such bucket, or it cannot be used.
    """
    settings = settings or get_settings()
    address = RedisAddress.parse(settings.redis_address)
    client = address.client()
    probe = address.client(socket_timeout=PROBE_S, connect_timeout=PROBE_S)
    keys = Keys(settings.redis_prefix)
    store = open_store(settings)
    leases = LeaseScripts(client, keys, settings, clock=clock)
    models = ModelRepository(store)
    bus = Bus(client, keys, leases, RedisMemory(client, keys, settings.data_dir / "run" / "untold"))
    jobs = JobStore(store, bus, models, settings)
    events = Events(client, address, keys, jobs, settings)
    jobs.announce = events.publish
    queue = JobQueue(bus, events, settings)
    shelf = DatasetShelf(store, bus)
    datasets = DatasetRepository(store, jobs, models, shelf, settings)
    aliases = AliasRepository(store, models)
    catalogue = Catalogue(store, models, aliases, jobs)
    exchange = ModelExchange(store, models, settings)
    onnx = OnnxFiles(store, models, settings)
    recovery = Recovery(jobs, leases, queue, events, settings)
    feedback = FeedbackRepository(store, models, settings)
    retention = Retention(store, jobs, datasets, models, feedback, settings)
    reconciler = Reconciler(bus, jobs, queue, shelf)
    reaper = Reaper(leases, queue, reconciler, recovery, retention, settings)
    return Services(
        settings=settings,
        address=address,
        redis=client,
        probe=probe,
        keys=keys,
        tally=Tally(client, probe, keys),
        usage=Usage(store),
        store=store,
        leases=leases,
        events=events,
        jobs=jobs,
        queue=queue,
        datasets=datasets,
        models=models,
        aliases=aliases,
        catalogue=catalogue,
        exchange=exchange,
        onnx=onnx,
        feedback=feedback,
        recovery=recovery,
        retention=retention,
        reconciler=reconciler,
        reaper=reaper,
    )
