"""A running job's ear: cancel, lost lease, drain and deadline, listened for in threads, told inside steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context

import redis
import structlog

from npt_core.errors import Cancelled, DeadlineExceeded, Drained, LeaseLost, StopTuning
from worker.jobfiles import JobFiles
from worker.lease import LeaseScripts
from worker.store.base import StoreUnavailable

log = structlog.get_logger(__name__)

POLL_S = 1.0


class JobControl:
    """`npt_core.tuning.control.Control`. Checking costs two clock reads; finding out is the pulse's work."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._deadline = time.monotonic() + deadline_s
        self._reason: StopTuning | None = None
        self._deciding = threading.Lock()
        self._last_step = time.monotonic()

    def check(self) -> None:
        """One more step was made. Raises a StopTuning where there may be no other."""
        now = time.monotonic()
        self._last_step = now
        if self._reason is not None:
            raise self._reason
        if now > self._deadline:
            raise DeadlineExceeded(
                f"The job took longer than the {self._deadline_s:,.0f} s it may take; use fewer epochs or images."
            )

    def stop(self, reason: StopTuning) -> None:
        """Make the next check raise. A lost lease outranks everything, and the first of the others stays."""
        with self._deciding:
            if self._reason is None or (isinstance(reason, LeaseLost) and not isinstance(self._reason, LeaseLost)):
                self._reason = reason

    @property
    def reason(self) -> StopTuning | None:
        """Why the job must stop, if it must."""
        return self._reason

    @property
    def idle_ms(self) -> int:
        """Milliseconds since the last step, on a clock that nobody sets."""
        return int((time.monotonic() - self._last_step) * 1000)


class Pulse:
    """Daemon threads beside a running job: one renews its lease, one asks the store whether it was cancelled.

    They are two, so that a store that does not answer for minutes costs a healthy job no lease.
    """

    def __init__(
        self,
        job_id: str,
        fence: int,
        control: JobControl,
        *,
        leases: LeaseScripts,
        files: JobFiles,
        ttl_s: float,
        drain: threading.Event,
    ) -> None:
        self._job_id = job_id
        self._fence = fence
        self._control = control
        self._leases = leases
        self._files = files
        self._renew_s = ttl_s / 4
        self._every_s = min(POLL_S, ttl_s / 4)
        self._drain = drain
        self._renewed = time.monotonic()
        self._stop = threading.Event()
        self._renewing = self._thread("pulse", self._renew)
        self._asking = self._thread("ear", self._ask)

    def _thread(self, name: str, call: Callable[[], None]) -> threading.Thread:
        return threading.Thread(
            target=copy_context().run, args=(self._loop, call), name=f"{name} {self._job_id}", daemon=True
        )

    def __enter__(self) -> Pulse:
        self._renewing.start()
        self._asking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._renewing.join(timeout=5)
        self._asking.join(timeout=1)  # it may wait for the store; what it hears then, nobody needs

    def _loop(self, call: Callable[[], None]) -> None:
        while not self._stop.wait(self._every_s):
            try:
                call()
            except (redis.RedisError, StoreUnavailable) as error:  # go on: whoever commits first decides, lease or not
                log.debug("pulse lost", error=str(error))
            except Exception:
                log.exception("pulse failed")

    def _ask(self) -> None:
        """Ask the store once: it knows of a cancellation even where Redis has forgotten it."""
        if self._files.cancel_asked(self._job_id):
            self._control.stop(Cancelled("The job was cancelled."))

    def _renew(self) -> None:
        """Tell Redis once, and hear what it knows."""
        if self._drain.is_set():
            self._control.stop(Drained("The worker is shutting down."))
        extend = time.monotonic() - self._renewed >= self._renew_s
        state, cancel = self._leases.renew(self._job_id, self._fence, extend=extend, idle_ms=self._control.idle_ms)
        if extend:
            self._renewed = time.monotonic()
        if state == "lost":
            self._control.stop(LeaseLost("Another worker owns the job now."))
        elif cancel:
            self._control.stop(Cancelled("The job was cancelled."))
