"""Results go to stdout, so that they can be piped; everything else goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from app.cli.exits import printable

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 500
"""Columns where nobody looks: nothing is cut off there."""


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(printable(text) + "\n")


def note(text: str) -> None:
    """A line beside the result."""
    sys.stderr.write(printable(text) + "\n")


def emit(value: Any) -> None:
    """A result as one line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def console(*, stderr: bool = False) -> Console:
    """A terminal, or what stands in its place."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, markup=False, width=None if stream.isatty() else PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Rows under a header; the first column is never cut. Columns named in `right` are numbers."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if column in right else "left", no_wrap=number == 0, overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable("-" if cell is None else str(cell))) for cell in row))
    console().print(made)


def percent(value: Any) -> str | None:
    """A share of 1 as people read it; None where there is none."""
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else None


def size(nbytes: int) -> str:
    """Bytes as people read them."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
