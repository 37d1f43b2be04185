"""A live bar where somebody looks, and a line for each phase where nobody does. Written to stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from app.cli.output import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """Shows where work stands; use it as a context manager.

    Args:
        lines: Where nobody looks, write a line for each phase.
    """

    def __init__(self, *, lines: bool = True) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console(stderr=True)
        self._live = self._console.is_terminal
        self._lines = lines and not self._live
        columns = (
            TextColumn("{task.description:<11}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
        )
        self._bar: Progress = Progress(*columns, console=self._console, disable=not self._live, transient=False)
        self._task: TaskID = self._bar.add_task("starting", total=None, note="")
        self._phase, self._since = "", time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._enter("")
        self._bar.stop()

    def show(self, facts: Mapping[str, Any], *, note: str | None = None) -> None:
        """Show progress: phase, step, total_steps, loss, accuracy, eta_seconds, stage, as far as they are known."""
        phase = str(facts.get("phase") or self._phase or "starting")
        self._enter(phase)
        self._bar.update(
            self._task,
            description=phase,
            total=facts.get("total_steps"),
            completed=facts.get("step") or 0,
            note=note if note is not None else words(facts),
        )

    def state(self, word: str, *, note: str = "", done: bool = False) -> None:
        """Show that it waits, runs or has ended; that is no phase, and takes no line."""
        self._enter("")
        total = 1 if done else None
        self._bar.update(self._task, description=word, note=note, total=total, completed=1 if done else None)

    def _enter(self, phase: str) -> None:
        if phase == self._phase:
            return
        if self._lines and self._phase:
            self._console.print(f"  {self._phase:<11} {time.monotonic() - self._since:6.1f} s")
        self._phase, self._since = phase, time.monotonic()


class Sending:
    """A bar while a zip is sent, where somebody looks and it is large enough to be waited for; else nothing."""

    WORTH_A_BAR = 4_000_000

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._done = False

    def __call__(self, sent: int, total: int) -> None:
        """So many bytes of all are on their way."""
        if total < self.WORTH_A_BAR or (self._done and sent >= total):
            return  # httpx reads once more at the end
        self._done = sent >= total
        if self._bar is None:
            self._bar = self._begin(total)
        self._bar.update(self._bar.task_ids[0], completed=sent)
        if sent >= total:
            self.end()

    @staticmethod
    def _begin(total: int) -> Progress:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("sending    "), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        terminal = console(stderr=True)
        bar = Progress(*columns, console=terminal, disable=not terminal.is_terminal)
        bar.add_task("", total=total)
        bar.start()
        return bar

    def end(self) -> None:
        """Leave the line as it is; also where it was broken off."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def words(facts: Mapping[str, Any]) -> str:
    """What stands beside the bar."""
    parts = []
    if facts.get("stage"):
        parts.append(str(facts["stage"]))
    if facts.get("loss") is not None:
        parts.append(f"loss {facts['loss']:.3f}")
    if facts.get("accuracy") is not None:
        parts.append(f"accuracy {100 * facts['accuracy']:.0f} %")
    if facts.get("eta_seconds") is not None:
        parts.append(f"about {facts['eta_seconds']:.0f} s left")
    return "  ".join(parts)
