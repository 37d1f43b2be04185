"""What the fault tests came to, a line of JSON each; and the table in docs/reliability.md that is made of them.

`make chaos` runs the tests in their long form and then this module: python -m tests.faults.record build/faults.jsonl
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.measured import machine, put_between, read_lines, write_line
from tests.support.measured import table as markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measured: made by `make chaos` -->", "<!-- end of what was measured -->"

CHAOS = bool(os.environ.get("NPT_CHAOS"))
"""The long form."""


def times(short: int, long: int) -> int:
    """How often to try: in every test run, and with `make chaos`."""
    return long if CHAOS else short


def out() -> Path:
    """Where the lines go."""
    return Path(os.environ.get("NPT_FAULTS_OUT", ROOT / "build" / "faults.jsonl"))


@dataclass(frozen=True)
class Row:
    """One try, or several at once.

    Attributes:
        number: Of the fault in the page's list.
        fault: What was done.
        outcome: What came of it.
        seconds: The time that counts: until work went on, or until what was asked had happened.
        tried: How many tries the row stands for.
    """

    number: int
    fault: str
    outcome: str
    seconds: float | None = None
    tried: int = 1

    def write(self) -> None:
        write_line(out(), asdict(self))


def table(rows: list[Row]) -> str:
    """Markdown: a line for each fault, in the order of the list."""
    faults: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        faults.setdefault((row.number, row.fault), []).append(row)
    lines: list[tuple[object, ...]] = [("no.", "fault", "times tried", "outcome", "worst time")]
    for (number, fault), found in sorted(faults.items(), key=lambda item: item[0][0]):
        outcomes: Counter[str] = Counter()
        for row in found:
            outcomes[row.outcome] += row.tried
        told = "; ".join(what if len(outcomes) == 1 else f"{what} ({count})" for what, count in outcomes.items())
        seconds = [row.seconds for row in found if row.seconds is not None]
        worst = f"{max(seconds):.1f} s" if seconds else ""
        lines.append((number, fault, sum(outcomes.values()), told, worst))
    return markdown(*lines)


def render(lines: str, page: str) -> str:
    """The page with its table made anew."""
    rows = [Row(**facts) for facts in read_lines(lines)]
    form = "The long form" if CHAOS else "The short form, as in `make test`,"
    return put_between(page, BEGIN, END, f"{form} on {machine()}:\n\n{table(rows)}")


def main(arguments: list[str]) -> int:
    """Write the table into the page."""
    path = Path(arguments[0]) if arguments else out()
    PAGE.write_text(render(path.read_text(), PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
