"""Every few seconds: free the jobs of dead workers, make good for lost hints, give Redis back its memory, sweep."""

from __future__ import annotations

import threading
import time

import redis
import structlog

from worker.errors import WorkerError
from worker.identity import boot_id
from worker.lease import LeaseScripts
from worker.queue import JobQueue
from worker.reconcile import Reconciler
from worker.recovery import Recovery
from worker.retention import Retention
from worker.rounds import Rounds
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

SWEEP_EVERY_S = 3600.0
SWEEP_GRACE_S = 60.0
"""Who leaves sweeping to the workers waits so long after its start for one to be seen."""


class Reaper:
    """Run one in every API process and every worker: they do not disturb each other."""

    def __init__(
        self,
        leases: LeaseScripts,
        queue: JobQueue,
        reconciler: Reconciler,
        recovery: Recovery,
        retention: Retention,
        settings: WorkerSettings,
    ) -> None:
        self._leases = leases
        self._queue = queue
        self._reconciler = reconciler
        self._recovery = recovery
        self._retention = retention
        self._settings = settings
        self._boot = boot_id()
        self._swept = -SWEEP_EVERY_S
        self._leave_sweeping = False
        self._had_a_round = threading.Event()
        self._rounds = Rounds("reaper", self._round, settings.reap_every_s)

    def run_once(self) -> None:
        """One round.

        Raises:
            redis.RedisError: Redis does not answer; the next round will reconcile.
        """
        try:
            self._reconciler.run_if_needed()
            for job_id in self._leases.expired():
                self._each(job_id)
            for held in self._leases.held():
                if held.idle_ms > self._settings.stall_s * 1000:
                    self._stalled(held.job_id, held.idle_ms / 1000)
            self._queue.ensure_hints()
        except redis.RedisError:
            self._reconciler.request()
            raise
        if time.monotonic() - self._swept > SWEEP_EVERY_S and not (self._leave_sweeping and self._queue.workers()):
            self._swept = time.monotonic()
            self._retention.sweep_in_turn(SWEEP_EVERY_S)

    def _each(self, job_id: str) -> None:
        try:
            self._recovery.reap(job_id, self._settings.node, self._boot)
        except (WorkerError, OSError) as error:  # one job's trouble is not the others'
            log.error("job not reaped", job=job_id, error=str(error))

    def _stalled(self, job_id: str, idle_s: float) -> None:
        try:
            self._recovery.stalled(job_id, idle_s)
        except (WorkerError, OSError) as error:
            log.error("stalled job not ended", job=job_id, error=str(error))

    def start(self, *, leave_sweeping: bool = False) -> None:
        """Run rounds beside everything else until `stop`.

        Args:
            leave_sweeping: Where there are workers, leave it to them: a sweep keeps the interpreter busy for seconds,
                and requests of the same process would wait for it.
        """
        self._leave_sweeping = leave_sweeping
        if leave_sweeping:
            self._swept = time.monotonic() - SWEEP_EVERY_S + SWEEP_GRACE_S
        self._rounds.start()

    def wait_for_round(self, timeout_s: float) -> bool:
        """Wait for the end of the first round, which reads the store back into Redis; False where it takes longer."""
        return self._had_a_round.wait(timeout_s)

    def stop(self) -> None:
        """End them; waits for the round that is going on."""
        self._rounds.stop()

    def _round(self) -> None:
        try:
            self.run_once()
        except redis.RedisError as error:
            log.warning("redis does not answer", error=str(error))
        except Exception:
            log.exception("reaper round failed")
        finally:
            self._had_a_round.set()
