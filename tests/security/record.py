"""What the tests of hostile input saw, a line of JSON each; and the part of docs/reliability.md that is made of them.

`make hostile` runs those tests and then this module: python -m tests.security.record build/hostile.jsonl
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.security.clocks import CLOCKS
from tests.security.corpus.every import FAMILIES, SENT
from tests.support.measured import machine, put_between, read_lines, table, write_line

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measured: made by `make hostile` -->", "<!-- end of what `make hostile` measured -->"
MIB = 1024**2

LONG = bool(os.environ.get("NPT_HOSTILE"))
"""Clocks that take a minute are waited for, too."""


def out() -> Path:
    """Where the lines go."""
    return Path(os.environ.get("NPT_HOSTILE_OUT", ROOT / "build" / "hostile.jsonl"))


@dataclass(frozen=True)
class Answered:
    """An upload of the corpus that got its right answer.

    Attributes:
        case: Its name.
        status: Of the answer.
        code: Of the problem; empty where it is none.
        seconds: From the first byte sent to the last one received.
        taken_bytes: What the API held in memory at most, beside what it had before.
        tries: How often it was sent until it was answered in time.
    """

    case: str
    status: int
    code: str
    seconds: float
    taken_bytes: int
    tries: int

    def write(self) -> None:
        write_line(out(), {"kind": "answered"} | asdict(self))


@dataclass(frozen=True)
class Ended:
    """A connection of somebody slow that was ended.

    Attributes:
        slow: What was slow.
        clock: What it is held to, with the settings of the service under test.
        seconds: From when the clock began to when the connection was over.
    """

    slow: str
    clock: str
    seconds: float

    def write(self) -> None:
        write_line(out(), {"kind": "ended"} | asdict(self))


@dataclass(frozen=True)
class Skipped:
    """A connection of somebody slow that cannot be tried on this machine.

    Attributes:
        slow: What is slow.
        clock: What it is held to elsewhere.
        why: In a few words.
    """

    slow: str
    clock: str
    why: str

    def write(self) -> None:
        write_line(out(), {"kind": "skipped"} | asdict(self))


def render(text: str, page: str, clocks: Mapping[str, str]) -> str:
    """The page with its part made anew.

    Args:
        text: What the tests wrote; of what was tried twice the last line counts.
        page: As it is.
        clocks: What is slow, and what ends it, in the order of the table.

    Raises:
        ValueError: a case or a clock is missing: a test failed or was left out, and there is no table of the rest. What
            was skipped for what the machine lacks is not missing; the table says so.
    """
    answered: dict[str, Answered] = {}
    slow: dict[str, Ended | Skipped] = {}
    for facts in read_lines(text):
        kind = facts.pop("kind")
        if kind == "answered":
            answered[facts["case"]] = Answered(**facts)
        else:
            slow[facts["slow"]] = Ended(**facts) if kind == "ended" else Skipped(**facts)
    names = [case.name for cases in FAMILIES.values() for case in cases]
    if missing := [name for name in (*names, *clocks) if name not in answered and name not in slow]:
        raise ValueError(
            f"{len(missing)} without a right answer, the first is {missing[0]!r}: there is no table of a part"
        )
    refused = sum(answered[name].status >= 400 for name in names)
    again = sum(answered[name].tries > 1 for name in names)
    told = (
        f"{len(names)} uploads, of which {refused} are refused; the others are pictures whose metadata is hostile and "
        f"whose pixels are not. On {machine()}; {again or 'none'} had to be sent twice to be answered in time."
    )
    ends = table(
        ("what is slow", "what ends it", "ended after"),
        *((name, slow[name].clock, _after(slow[name])) for name in clocks),
    )
    return put_between(page, BEGIN, END, f"{told}\n\n{_families(answered)}\n\n{ends}")


def _after(one: Ended | Skipped) -> str:
    return f"{one.seconds:.1f} s" if isinstance(one, Ended) else f"not tried: {one.why}"


def _families(answered: Mapping[str, Answered]) -> str:
    rows: list[tuple[object, ...]] = [
        ("family", "cases", "what is sent", "answers", "slowest answer", "most memory taken")
    ]
    for family, cases in FAMILIES.items():
        seen = [answered[case.name] for case in cases]
        kinds = Counter(f"{one.status} `{one.code}`" if one.code else str(one.status) for one in seen)
        answers = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        slowest = max(seen, key=lambda one: one.seconds)
        most = max(one.taken_bytes for one in seen) / MIB
        rows.append(
            (family, len(cases), SENT[family], answers, f"{slowest.seconds:.2f} s: {slowest.case}", f"{most:.0f} MiB")
        )
    return table(*rows)


def main(arguments: list[str]) -> int:
    """Write it into the page."""
    path = Path(arguments[0]) if arguments else out()
    try:
        page = render(path.read_text(), PAGE.read_text(), CLOCKS)
    except (OSError, ValueError) as error:
        print(f"{PAGE.name} is left as it is: {error}", file=sys.stderr)
        return 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
