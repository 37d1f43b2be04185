"""One stack for the whole folder: starting one takes seconds. Each test finds it whole, and writes down what it saw."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.faults.record import Row
from tests.faults.stack import Stack

OUTCOME = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def session_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("faults"))
    try:
        yield stack
    finally:
        stack.close()


@pytest.fixture
def stack(session_stack: Stack) -> Stack:
    """All parts running, all gates open, nothing under way."""
    session_stack.settle()
    return session_stack


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.stash[OUTCOME] = report.failed


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """`tried(number, fault, outcome, seconds)`: written down when the test has passed; a failure is written as one."""
    rows: list[Row] = []

    def note(number: int, fault: str, outcome: str, seconds: float | None = None, tried: int = 1) -> None:
        rows.append(Row(number, fault, outcome, seconds, tried))

    yield note
    if request.node.stash.get(OUTCOME, True):
        number = rows[0].number if rows else 0
        rows = [Row(number, rows[0].fault if rows else request.node.name, "FAILED")]
    for row in rows:
        row.write()
