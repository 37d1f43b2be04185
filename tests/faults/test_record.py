"""The table in docs/reliability.md is made of what the tests wrote down."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps

from tests.faults.record import BEGIN, END, PAGE, Row, render


def test_a_line_for_each_fault_with_every_outcome_and_the_worst_time() -> None:
    rows = [
        Row(9, "cancelled", "stopped", 0.2),
        Row(1, "killed", "resumed", 3.14),
        Row(1, "killed", "resumed", 2.0, tried=4),
        Row(1, "killed twice", "FAILED"),
        Row(1, "killed twice", "resumed", 1.0, tried=2),
    ]
    page = render("\n".join(dumps(asdict(row)) for row in rows), f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    lines = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert lines == [
        "| 1 | killed | 5 | resumed | 3.1 s |",
        "| 1 | killed twice | 3 | FAILED (1); resumed (2) | 1.0 s |",
        "| 9 | cancelled | 1 | stopped | 0.2 s |",
    ]


def test_the_page_has_a_place_for_it() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
