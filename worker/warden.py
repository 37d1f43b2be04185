"""The worker's main process looks after its child: reports its death, stops it where it will not stop, drains.

It also frees at once what a dead worker of the same machine held, so that a crash costs seconds and no lease time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable
from typing import Literal

import psutil
import redis
import structlog

from worker import marks
from worker.errors import WorkerError
from worker.identity import alive, boot_id, post
from worker.lease import Held
from worker.marks import Busy
from worker.service import Services

log = structlog.get_logger(__name__)

SEEN_EVERY_S = 2.0
DRAIN_POLL_S = 0.1
EXIT_AFTER_KILL_S = 3.0
EXIT_ANYWAY_S = 60.0  # a child that was idle ends by itself, on a loaded machine not at once
DRAIN_SIGNAL = signal.SIGUSR2


class Warden:
    """A thread of the main process."""

    def __init__(self, services: Services, worker: str) -> None:
        self._services = services
        self._settings = services.settings
        self._worker = worker
        self._boot = boot_id()
        self._draining: float | None = None
        self._killed: float | None = None  # when a child had to be, while draining
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._seen = -SEEN_EVERY_S
        self._overdue: dict[tuple[int, str, int], float] = {}
        self._unknown: dict[tuple[str, int], float] = {}
        self._thread = threading.Thread(target=self._loop, name="warden", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        with contextlib.suppress(OSError):
            marks.sweep_the_dead(self._settings.run_dir, self._settings.node, alive)
        self._thread.start()

    def drain(self) -> None:
        """The worker is to end: its child hands its job back. Safe in a signal handler."""
        if self._draining is None:
            self._draining = time.monotonic()
            self._wake.set()

    def stop(self) -> None:
        """The worker has ended in good order."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=5)
        with contextlib.suppress(redis.RedisError):
            self._services.queue.gone(post(self._settings.node, self._worker))
        marks.sweep(self._settings.run_dir, self._settings.node, self._worker)

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.watch_once()
            except Exception:
                log.exception("warden round failed")
            if self._draining is not None:
                self._stop.wait(DRAIN_POLL_S)  # `_wake` stays set from here on, waiting for it would be no wait at all
            else:
                self._wake.wait(self._settings.watch_every_s)

    def watch_once(self) -> None:
        """One round: with Redis where it answers, by the local marks where it does not."""
        busy = marks.busy(self._settings.run_dir, self._settings.node, self._worker)
        held: list[Held] | None = None
        try:
            if time.monotonic() - self._seen >= SEEN_EVERY_S:
                self._services.queue.seen(post(self._settings.node, self._worker))
                self._seen = time.monotonic()
            held = self._services.leases.held()
            self._free_the_dead(held)
        except redis.RedisError as error:
            log.debug("redis does not answer", error=str(error))
        for mark in busy:
            if not is_child(mark.pid):
                mark.path.unlink(missing_ok=True)
        if self._draining is not None:
            self._drain(busy, self._draining)
        elif held is not None and self._remembers():
            self._end_the_stubborn(busy, held)
            self._free_the_unknown(busy, held)
        else:
            self._overdue, self._unknown = {}, {}

    def _remembers(self) -> bool:
        """Whether Redis holds what the store says; until it is read back after a loss, a missing lease is no news."""
        try:
            return bool(self._services.redis.exists(self._services.keys.epoch))
        except redis.RedisError:
            return False

    def _free_the_dead(self, held: Iterable[Held]) -> None:
        for each in held:
            if each.node != self._settings.node:
                continue
            how: Literal["outage", "died"] = "died"
            if each.worker == self._worker:
                if is_child(each.pid):
                    continue
            elif each.boot != self._boot:
                how = "outage"
            elif alive(each.worker):
                continue
            else:
                marks.sweep(self._settings.run_dir, each.node, each.worker)
            try:
                verdict = self._services.recovery.release(each.job_id, each.fence, how)
            except WorkerError as error:
                log.error("job not freed", job=each.job_id, error=error.message)
            else:
                log.warning("worker process died", job=each.job_id, attempt=each.fence, pid=each.pid, verdict=verdict)

    def _end_the_stubborn(self, busy: Iterable[Busy], held: Iterable[Held]) -> None:
        """Kill a child that goes on long after its lease was lost, or its job ended without it."""
        now = time.monotonic()
        owned = {(each.job_id, each.fence) for each in held}
        overdue = {}
        for mark in busy:
            if (mark.job_id, mark.fence) in owned:
                continue
            key = (mark.pid, mark.job_id, mark.fence)
            overdue[key] = self._overdue.get(key, now)
            if now - overdue[key] > self._settings.stop_grace_s:
                kill(mark.pid)
                log.error("child did not stop, killed", job=mark.job_id, attempt=mark.fence, pid=mark.pid)
        self._overdue = overdue

    def _free_the_unknown(self, busy: Iterable[Busy], held: Iterable[Held]) -> None:
        """Give back what our child was granted and never heard of: the answer to its claim was lost on the way."""
        now = time.monotonic()
        known = {(mark.job_id, mark.fence) for mark in busy}
        unknown = {}
        for each in held:
            key = (each.job_id, each.fence)
            if each.worker != self._worker or each.node != self._settings.node or key in known:
                continue
            unknown[key] = self._unknown.get(key, now)
            if now - unknown[key] > self._settings.stop_grace_s:
                with contextlib.suppress(redis.RedisError, WorkerError):
                    self._services.recovery.release(*key, "drained")
        self._unknown = unknown

    def _drain(self, busy: Iterable[Busy], since: float) -> None:
        late = time.monotonic() - since > self._settings.stop_grace_s
        for mark in busy:
            if not is_child(mark.pid):
                continue
            if not late:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(mark.pid, DRAIN_SIGNAL)
                continue
            kill(mark.pid)
            self._killed = self._killed or time.monotonic()
            log.error("child did not drain, killed", job=mark.job_id, attempt=mark.fence, pid=mark.pid)
            with contextlib.suppress(redis.RedisError, WorkerError):
                self._services.recovery.release(mark.job_id, mark.fence, "drained")
        if self._killed is not None and time.monotonic() - self._killed > EXIT_AFTER_KILL_S:
            os._exit(1)  # Celery waits for a child that is no more
        if late and time.monotonic() - since > self._settings.stop_grace_s + EXIT_ANYWAY_S:
            os._exit(1)


def is_child(pid: int) -> bool:
    """Whether that process is a living child of this one."""
    try:
        process = psutil.Process(pid)
        return process.ppid() == os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def kill(pid: int) -> None:
    """SIGKILL to a child of this process, and to nobody else."""
    if is_child(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
