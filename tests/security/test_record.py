"""How the time of an answer is judged, and the table in docs/reliability.md that is made of what was measured."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.security import clocks, record
from tests.security.corpus.every import EVERY, FAMILIES
from tests.security.record import BEGIN, END, PAGE, Answered, Ended, Skipped, render
from tests.security.soon import CALM_PERCENT, SOON_S, Calm, Timed, soon, timed
from tests.support.measured import machine

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


def test_a_machine_that_is_never_free_is_waited_for_so_long_in_all() -> None:
    asked: list[float] = []

    def busy() -> float:
        asked.append(time.monotonic())
        time.sleep(0.01)
        return CALM_PERCENT + 1

    calm = Calm(0.1, busy)
    calm.wait()
    first = len(asked)
    for _ in range(5):
        calm.wait()
    assert 0 < first == len(asked)


def test_a_free_machine_is_not_waited_for() -> None:
    told = [CALM_PERCENT] * 3
    calm = Calm(60, told.pop)
    for _ in range(3):
        calm.wait()
    assert not told


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


def test_what_cannot_be_tried_here_is_not_missing(lines: list[str]) -> None:
    Skipped("a slow body", "10 s", "only Linux tells").write()
    rows = render("\n".join([*lines[:-1], *record.out().read_text().splitlines()[-1:]]), PLACE, CLOCKS).splitlines()
    assert "| a slow body | 10 s | not tried: only Linux tells |" in rows
    assert "| a slow head | 2 s | 3.1 s |" in rows


def test_a_machine_that_has_no_list_of_its_processors_is_named_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.measured.CPUINFO", tmp_path / "none")
    assert f"{os.cpu_count()} cores" in machine()
    monkeypatch.setattr("tests.support.measured.CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor 9000\n")
    assert machine().startswith("A Processor 9000, ")


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_a_place_is_left_alone(lines: list[str], page: str) -> None:
    with pytest.raises(ValueError, match="once"):
        render("\n".join(lines), page, CLOCKS)


def test_the_page_has_a_place_for_it() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def measured_rows() -> dict[str, list[str]]:
    """What is between the marks of the page: the first cell of each row, and the others."""
    text = PAGE.read_text(encoding="utf-8")
    part = text[text.index(BEGIN) : text.index(END)]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_page_has_every_column_of_each_family() -> None:
    rows = measured_rows()
    assert rows["family"][-2:] == ["slowest answer", "most memory taken"]
    for family in FAMILIES:
        slowest, memory = rows[family][3:]
        seconds, case = slowest.split(" s: ")
        assert 0 <= float(seconds) <= SOON_S
        assert case in {one.name for one in FAMILIES[family]}
        assert re.fullmatch(r"\d+ MiB", memory), memory


def test_the_page_has_every_clock_and_when_it_ended_what_is_slow() -> None:
    rows = measured_rows()
    for what, clock in clocks.CLOCKS.items():
        assert rows[what][0] == clock, what
        assert re.fullmatch(r"\d+\.\d s|not tried: .+", rows[what][1]), (what, rows[what])
