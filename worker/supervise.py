"""Keeps a few commands running: starts them in order, starts again what dies, ends them in reverse.

It knows neither HTTP nor the broker nor Celery: `app/__main__.py` says what the commands are.

Every child leads a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone and the drain has an
order, and so that a child and all it started can be killed as one group. Three things end the children when the
supervisor itself is killed: on Linux a death signal, everywhere a guard process at the other end of a pipe (launch.py),
and whatever watch the children keep themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import ClassVar, Self

import structlog

from npt_core.errors import NPTError
from worker.children import CANNOT_RUN, Child, ChildError, ChildStatus, Command, Ended, Guard, Restart, State, in_words

__all__ = ["ChildError", "ChildStatus", "Command", "Ended", "Restart", "State", "Supervisor"]

log = structlog.get_logger(__name__)

POLL_S = 0.05


class Supervisor:
    """Runs commands until told to stop.

    `start` returns at once; a thread of its own starts and watches the children (a Linux death signal follows the
    thread that made the child, so it must be one that lives as long as they do). `stop` and `hasten` only set a flag
    and may be called from a signal handler.

    Args:
        commands: In the order of starting; each waits until those before it were ready once, unless they do not hold
            others back. Stopped in reverse.
        keep_fds: Held open by the guard too, so that a lock on one of them outlives a killed supervisor until its
            children are gone.
        on_stopping: Called once, in the supervisor's thread, before the first child is told to stop.
    """

    HASTY_STOP_S: ClassVar[float] = 0.5

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        keep_fds: Sequence[int] = (),
        on_stopping: Callable[[], None] | None = None,
    ) -> None:
        names = [command.name for command in commands]
        if len(set(names)) != len(names):
            raise ValueError(f"two commands have one name: {names}")
        self._children = [Child(command) for command in commands]
        self._guard = Guard(max((c.stop_timeout_s for c in commands), default=0.0), keep_fds)
        self._on_stopping = on_stopping
        self._stop = False
        self._hasten = False
        self._all_ready = threading.Event()
        self._error: NPTError | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask for an orderly end: children stop in reverse order, each within its `stop_timeout_s`."""
        self._stop = True

    def hasten(self) -> None:
        """Ask for a quick end: whoever is still there after half a second is killed."""
        self._hasten = True
        self._stop = True

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until every command has been ready once; False when stopped before, or out of time.

        Raises:
            ChildError: a command could not be started.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._all_ready.wait(POLL_S):
            if not self._thread.is_alive():
                self._raise()
                return False
            if deadline is not None and time.monotonic() > deadline:
                return False
        return True

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until everything has ended; False when out of time.

        Raises:
            ChildError: it ended because a command could not be kept running.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive():  # short waits, so that the main thread gets to run its signal handlers
            self._thread.join(POLL_S)
            if deadline is not None and time.monotonic() > deadline:
                return False
        self._raise()
        return True

    def stopping(self) -> bool:
        return self._stop

    def status(self) -> tuple[ChildStatus, ...]:
        return tuple(
            ChildStatus(c.command.name, c.state, process.pid if (process := c.process) else None, c.starts)
            for c in self._children
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            self.join()
        else:
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._guard.start()
            while not self.stopping():
                for child in self._children:
                    self._tend(child)
                    if self.stopping():
                        break
                self._guard.tend()
                if all(child.ever_ready for child in self._children):
                    self._all_ready.set()
                time.sleep(POLL_S)
        except NPTError as error:
            self._error = error
        except Exception as error:
            log.exception("supervisor failed")
            self._error = ChildError(f"the supervisor itself failed: {error}")
        finally:
            self._stop = True
            self._end_all()

    def _tend(self, child: Child) -> None:
        match child.state:
            case State.WAITING:
                before = self._children[: self._children.index(child)]
                if all(other.ever_ready or (other.starts and not other.command.holds_back) for other in before):
                    child.spawn(self._guard)
            case State.PAUSED:
                if time.monotonic() >= child.next_start:
                    child.spawn(self._guard)
            case State.STARTING:
                if child.exited():
                    self._ended(child)
                elif child.is_ready():
                    child.state, child.ever_ready, child.failed_starts = State.READY, True, 0
                    log.info("child ready", child=child.command.name)
                elif time.monotonic() - child.started_at > child.command.ready_timeout_s:
                    self._ended(child, f"not ready after {child.command.ready_timeout_s:g} s")
            case State.READY:
                if child.exited():
                    self._ended(child)

    def _ended(self, child: Child, how: str | None = None) -> None:
        """Clear up after a run that ended by itself, and say when the next one starts."""
        command, restart = child.command, child.command.restart
        was_ready = child.state is State.READY
        long_run = time.monotonic() - child.started_at >= restart.long_run_s
        tail = child.log_tail()
        code = child.bury(self._guard)
        child.ended = Ended(code, how or in_words(code), was_ready)
        child.failed_starts += not was_ready
        child.short_runs = 0 if was_ready and long_run else child.short_runs + 1
        final = code in restart.final_codes or code == CANNOT_RUN
        if not was_ready and (final or child.failed_starts >= restart.give_up_after):
            child.state = State.STOPPED
            times = "" if child.failed_starts == 1 else f" {child.failed_starts} times in a row"
            detail = f"; its last words:\n{tail}" if tail else ""
            raise ChildError(f"{command.name} could not be started{times}: {child.ended.how}{detail}")
        pause = restart.pause(child.short_runs - 1) if child.short_runs else 0.0
        child.next_start = time.monotonic() + pause
        child.state = State.PAUSED
        log.warning("child died, starting it again", child=command.name, how=child.ended.how, pause_s=round(pause, 2))

    def _end_all(self) -> None:
        log.info("stopping", children=[child.command.name for child in self._children if child.process is not None])
        if self._on_stopping is not None:
            try:
                self._on_stopping()
            except Exception:
                log.exception("on_stopping failed")
        for child in reversed(self._children):
            self._end(child)
        self._guard.close()

    def _end(self, child: Child) -> None:
        if child.process is not None:
            asked = time.monotonic()
            child.signal(child.command.stop_signal)
            while not child.exited():
                limit = child.command.stop_timeout_s
                if self._hasten:
                    limit = min(limit, self.HASTY_STOP_S)
                if time.monotonic() - asked > limit:
                    log.warning("child does not stop, killing it", child=child.command.name, waited_s=limit)
                    break
                time.sleep(POLL_S)
            code = child.bury(self._guard)
            log.info("child stopped", child=child.command.name, how=in_words(code))
        child.state = State.STOPPED
