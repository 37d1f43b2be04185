"""How the time of an answer is judged, and the table in docs/reliability.md that is made of what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.security import record
from tests.security.corpus.every import EVERY, FAMILIES
from tests.security.record import BEGIN, END, PAGE, Answered, Ended, render
from tests.security.soon import SOON_S, Timed, soon, timed

PLACE = f"before\n{BEGIN}\nold\n{END}\nafter\n"
CLOCKS = {"a slow head": "2 s", "a slow body": "10 s"}


def asking(*seconds: float) -> Callable[[], Timed]:
    times: Iterator[float] = iter(seconds)
    return lambda: Timed(httpx.Response(422), next(times))


def test_an_answer_in_time_is_asked_for_once() -> None:
    best, tries = soon(asking(SOON_S), lambda: pytest.fail("it waited"))
    assert (best.seconds, tries) == (SOON_S, 1)


def test_a_late_answer_is_asked_for_once_more_when_the_machine_is_free() -> None:
    waited: list[None] = []
    best, tries = soon(asking(SOON_S + 9, 0.5), lambda: waited.append(None))
    assert (best.seconds, tries, len(waited)) == (0.5, 2, 1)


def test_an_answer_that_is_late_twice_fails() -> None:
    with pytest.raises(AssertionError, match="answered after 9.0 s, and once more after 5.1 s"):
        soon(asking(9, SOON_S + 0.1), lambda: None)


def test_the_clock_runs_while_it_is_asked() -> None:
    seen: list[httpx.Response] = []

    def ask() -> httpx.Response:
        with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(418))) as client:
            seen.append(client.get("http://localhost/"))
        return seen[0]

    got = timed(ask)
    assert got.answer is seen[0]
    assert got.seconds > 0


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tests write where everything has its answer."""
    monkeypatch.setenv("NPT_HOSTILE_OUT", str(tmp_path / "build" / "x.jsonl"))
    for number, case in enumerate(EVERY):
        Answered(case.name, case.status, case.code, number / 1000, number * 1024**2, 1).write()
    for what, clock in CLOCKS.items():
        Ended(what, clock, 3.14).write()
    return record.out().read_text().splitlines()


def test_a_line_for_each_family_and_each_clock(lines: list[str]) -> None:
    page = render("\n".join(lines), PLACE, CLOCKS)
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    families = {row[0]: row[1:] for row in rows if row[0] in FAMILIES}
    assert list(families) == list(FAMILIES)
    first = families["names"]
    last = len(FAMILIES["names"]) - 1
    assert (first[0], first[2]) == (str(last + 1), f"422 `invalid-archive` ({last + 1})")
    assert first[3:] == [f"{last / 1000:.2f} s: {FAMILIES['names'][last].name}", f"{last} MiB"]
    assert [row for row in rows if row[0] in CLOCKS] == [
        ["a slow head", "2 s", "3.1 s"],
        ["a slow body", "10 s", "3.1 s"],
    ]
    assert f"{len(EVERY)} uploads, of which {sum(case.status >= 400 for case in EVERY)} are refused" in page
    assert "none had to be sent twice" in page


def test_of_what_was_tried_again_the_last_counts(lines: list[str]) -> None:
    facts = json.loads(lines[0]) | {"seconds": 4.9, "tries": 2}
    page = render("\n".join([*lines, json.dumps(facts)]), PLACE, CLOCKS)
    assert f"4.90 s: {EVERY[0].name}" in page
    assert "1 had to be sent twice" in page


@pytest.mark.parametrize("left_out", [0, -1])
def test_there_is_no_table_of_a_part(lines: list[str], left_out: int) -> None:
    del lines[left_out]
    with pytest.raises(ValueError, match="1 without a right answer"):
        render("\n".join(lines), PLACE, CLOCKS)


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_a_place_is_left_alone(lines: list[str], page: str) -> None:
    with pytest.raises(ValueError, match="once"):
        render("\n".join(lines), page, CLOCKS)


def test_the_page_has_a_place_for_it() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
