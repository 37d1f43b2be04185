"""Tables in the documents that are made of what tests saw: a line of JSON for each thing, and a place in a page."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def write_line(path: Path, facts: dict[str, Any]) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def read_lines(text: str) -> list[dict[str, Any]]:
    """All of them."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def machine() -> str:
    """What the tests ran on."""
    name = platform.processor() or platform.machine()
    if CPUINFO.exists():  # Linux alone has it
        told = CPUINFO.read_text().splitlines()
        name = next((line.partition(": ")[2].strip() for line in told if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def table(*rows: tuple[object, ...]) -> str:
    """Markdown of the rows; the first one holds the heads."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def put_between(page: str, begin: str, end: str, text: str) -> str:
    """The page with `text` where something else stood between two marks.

    Raises:
        ValueError: the page does not have each of them once, in this order.
    """
    if not page.count(begin) == page.count(end) == 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must have {begin!r} once and {end!r} once behind it")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
