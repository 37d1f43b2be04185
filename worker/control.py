"""A running job's ear: cancel, lost lease, drain and deadline, listened for in a thread, told inside steps."""

from __future__ import annotations

import os
import threading
import time
from contextvars import copy_context

import redis
import structlog

from npt_core.errors import Cancelled, DeadlineExceeded, Drained, LeaseLost, StopTuning
from worker.jobfiles import JobFiles
from worker.lease import LeaseScripts

log = structlog.get_logger(__name__)

POLL_S = 1.0


class JobControl:
    """`npt_core.tuning.control.Control`. Checking costs two clock reads; finding out is the pulse's work."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._deadline = time.monotonic() + deadline_s
        self._reason: StopTuning | None = None
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
    """A daemon thread beside a running job: renews its lease and listens for reasons to stop."""

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
        self._parent = os.getppid()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._loop,), name=f"pulse {job_id}", daemon=True
        )

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stop.wait(self._every_s):
            if self._drain.is_set():
                self._control.stop(Drained("The worker is shutting down."))
            try:
                self.listen()
            except redis.RedisError as error:  # go on: whoever commits first decides, lease or not
                log.debug("pulse lost", error=str(error))
            except Exception:
                log.exception("pulse failed")

    def listen(self) -> None:
        """Ask the folder and Redis once."""
        if self._files.cancel_asked(self._job_id):
            self._control.stop(Cancelled("The job was cancelled."))
        extend = time.monotonic() - self._renewed >= self._renew_s
        state, cancel = self._leases.renew(
            self._job_id, self._fence, extend=extend, idle_ms=self._control.idle_ms
        )  # fmt: skip
        if extend:
            self._renewed = time.monotonic()
        if state == "lost":
            self._control.stop(LeaseLost("Another worker owns the job now."))
        elif cancel:
            self._control.stop(Cancelled("The job was cancelled."))
