"""What a step found, and the table of all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class SmokeError(Exception):
    """Something is not as it has to be; the message is for the person who ran the script."""


class NoEngine(Exception):  # noqa: N818 - no error
    """There can be no Docker engine on this machine, so there is nothing to try out."""


class LeftOut(Exception):  # noqa: N818 - no error
    """A step has nothing to do here, and why."""


def expect(good: object, otherwise: str) -> None:
    """Go on only where `good`.

    Raises:
        SmokeError: It is not.
    """
    if not good:
        raise SmokeError(otherwise)


def wait_for(what: str, probe: Callable[[], object], within_s: float, every_s: float = 0.5) -> float:
    """Wait until `probe` gives something true; what it raises as OSError counts as not yet.

    Returns:
        Seconds that it took.

    Raises:
        SmokeError: It did not within `within_s`.
    """
    started, last = time.monotonic(), ""
    while True:
        try:
            if probe():
                return time.monotonic() - started
        except OSError as error:
            last = f" ({error})"
        if time.monotonic() - started > within_s:
            raise SmokeError(f"not within {within_s:.0f} s: {what}{last}")
        time.sleep(every_s)


def record(line: str) -> None:
    """Write a line into the file SMOKE_RECORD, if one is named: it is there even if this process is killed next."""
    if named := os.environ.get("SMOKE_RECORD"):
        with Path(named).open("a") as file:
            file.write(" ".join(line.split()) + "\n")


@dataclass
class Table:
    """Rows of step, seconds, what was seen."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, step: str, seconds: float, seen: str) -> None:
        self.rows.append((step, f"{seconds:.1f}", seen))
        print(f"{step}: {seen} ({seconds:.1f} s)", flush=True)

    def __str__(self) -> str:
        head = ("step", "seconds", "what was seen")
        first = max(len(row[0]) for row in [head, *self.rows])
        lines = [f"| {head[0]:<{first}} | {head[1]:>7} | {head[2]} |", f"|{'-' * (first + 2)}|--------:|---|"]
        lines += [f"| {step:<{first}} | {seconds:>7} | {seen} |" for step, seconds, seen in self.rows]
        return "\n".join(lines)
