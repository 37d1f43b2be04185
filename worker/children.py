"""One supervised command, its current run, and the guard that outlives a killed supervisor. See supervise.py."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

import structlog

from npt_core.errors import NPTError

log = structlog.get_logger(__name__)

HELPER = Path(__file__).with_name("launch.py")
REAP_S = 5.0
GROUP_GONE_S = 1.0  # to be sure in the usual case; a zombie counts as there until init has reaped it
LOG_KEEP_BYTES = 1 << 20
LOG_TAIL_BYTES = 2000
CANNOT_RUN = 127
CAN_PEEK: bool = hasattr(os, "waitid")  # macOS: from Python 3.13


class ChildError(NPTError):
    """A command cannot be kept running."""

    code = "child-failed"


@dataclass(frozen=True)
class Restart:
    """When and how often a command that ended by itself is started again.

    A run that never became ready counts as a failed start; `give_up_after` of them in a row end the supervisor. A
    command that was ready once is started again for ever, with a pause that doubles while its runs stay short.
    """

    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    long_run_s: float = 30.0
    give_up_after: int = 3
    final_codes: frozenset[int] = frozenset()  # exit codes that trying again cannot mend, such as a wrong setting

    def pause(self, short_runs: int) -> float:
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(short_runs, 30))


@dataclass(frozen=True)
class Ended:
    """How a run of a command ended: exit code (negative: that signal), in words, and whether it had been ready."""

    code: int
    how: str
    was_ready: bool


@dataclass(frozen=True)
class Command:
    """One command to keep running.

    Args:
        name: What messages call it.
        argv: Program and arguments; no shell.
        env: Added to the supervisor's own environment.
        ready: Asked again and again after a start, in the supervisor's thread, so it must answer within a second or
            so; an exception means no. Without it a command is ready once it has run for `settle_s`.
        before_start: Called before every start with how the run before ended, None at the first.
        log: File that gets the output; the supervisor's own output without it.
        pass_fds: File descriptors the command inherits, under the same numbers.
        holds_back: Whether those after it in the list wait for it to be ready the first time.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    ready_timeout_s: float = 30.0
    settle_s: float = 1.0
    restart: Restart = Restart()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    before_start: Callable[[Ended | None], None] | None = None
    log: Path | None = None
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()
    holds_back: bool = True


class State(StrEnum):
    WAITING = "waiting"  # for those before it in the list
    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"  # before the next start
    STOPPED = "stopped"


@dataclass(frozen=True)
class ChildStatus:
    name: str
    state: State
    pid: int | None
    starts: int


class Child:
    """One command and its current run. Used by the supervisor's thread only."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.state = State.WAITING
        self.starts = 0
        self.ever_ready = False
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.next_start = 0.0
        self.ended: Ended | None = None
        self.failed_starts = 0
        self.short_runs = 0
        self._log_from = 0

    def spawn(self, guard: Guard) -> None:
        command = self.command
        if command.before_start is not None:
            command.before_start(self.ended)
        held, release = os.pipe()
        output: IO[bytes] | None = None
        try:
            if command.log is not None:
                output = self._open_log(command.log)
            self.process = subprocess.Popen(  # noqa: S603 - no shell, the operator's own commands
                [sys.executable, "-I", "-S", str(HELPER), "exec", str(held), str(os.getpid()), *command.argv],
                env={**os.environ, **command.env},
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(held, *command.pass_fds),
            )
            guard.add(self.process.pid)
            with contextlib.suppress(BrokenPipeError):  # already dead: its exit says why
                os.write(release, b"+")
        finally:
            os.close(held)
            os.close(release)
            if output is not None:
                output.close()
        self.starts += 1
        self.started_at = time.monotonic()
        self.state = State.STARTING
        log.info("child started", child=command.name, pid=self.process.pid, starts=self.starts)

    def _open_log(self, path: Path) -> IO[bytes]:
        path.parent.mkdir(parents=True, exist_ok=True)
        grown = path.exists() and path.stat().st_size > LOG_KEEP_BYTES
        output = path.open("wb" if grown else "ab")
        self._log_from = output.tell()
        return output

    def log_tail(self) -> str:
        """The end of what this run wrote to its log."""
        if self.command.log is None or not self.command.log.exists():
            return ""
        with self.command.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_from, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()

    def is_ready(self) -> bool:
        if self.command.ready is None:
            return time.monotonic() - self.started_at >= self.command.settle_s
        try:
            return self.command.ready()
        except Exception as error:  # the thing asked is just starting: any failure means not yet
            log.debug("child not ready", child=self.command.name, error=repr(error))
            return False

    def exited(self) -> bool:
        """Whether the process is over, without reaping it: its group's id stays taken until we have killed the rest."""
        process = self.process
        if process is None:
            return True
        if not CAN_PEEK:
            return process.poll() is not None
        try:
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and not self.exited():
            os.kill(self.process.pid, number)

    def bury(self, guard: Guard) -> int:
        """Kill what is left of the group, reap the leader and return its exit code."""
        process = self.process
        if process is None:
            return 0
        group_is_there = kill_group(process.pid, signal.SIGKILL)
        try:
            code = process.wait(REAP_S)
        except subprocess.TimeoutExpired:  # stuck in the kernel; it goes when it comes back
            log.error("child survives SIGKILL", child=self.command.name, pid=process.pid)
            code = -signal.SIGKILL
        deadline = time.monotonic() + GROUP_GONE_S
        while group_is_there and time.monotonic() < deadline and kill_group(process.pid, 0):
            time.sleep(0.01)
        guard.remove(process.pid)
        self.process = None
        return code


class Guard:
    """The process that ends the children when the supervisor is gone. See launch.py."""

    def __init__(self, grace_s: float, keep_fds: Sequence[int]) -> None:
        self._grace_s = grace_s
        self._keep_fds = tuple(keep_fds)
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    def start(self) -> None:
        theirs, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", str(HELPER), "guard", str(theirs), str(self._grace_s)],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs, *self._keep_fds),
            )
        finally:
            os.close(theirs)
        for group in self._groups:
            self._tell(f"+{group}\n")

    def tend(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            log.warning("guard died, starting another")
            os.close(self._lifeline)
            self.start()

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # `tend` starts another, which is told of all groups
            os.write(self._lifeline, line.encode())

    def close(self) -> None:
        if self._process is None:
            return
        os.close(self._lifeline)
        try:
            self._process.wait(self._grace_s + REAP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def kill_group(group: int, number: int) -> bool:
    """Signal a process group; False when there is none."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return False
    return True


def in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
