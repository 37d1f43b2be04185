"""Intervals, axes, words for numbers, and the commands that make a model again."""

from __future__ import annotations

import ast
import itertools
import json
import math
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.report import facts
from npt_core.report.facts import NOT_KNOWN
from npt_core.report.reproduce import commands
from npt_core.report.statistics import paired_interval
from npt_core.report.svg import Scale, tag, ticks


def test_the_interval_of_a_difference_by_hand() -> None:
    # 30 images: 10 only the first got right, 3 only the second
    first, second = 11 / 32, 4 / 32
    half = 1.959963984540054 * math.sqrt((first + second - (first - second) ** 2) / 32)
    assert paired_interval(10, 3, 30) == pytest.approx((7 / 32 - half, 7 / 32 + half))
    assert paired_interval(0, 0, 0) is None
    assert paired_interval(3, 3, 5) is None


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 200))
def test_the_interval_is_ordered_mirrored_and_holds_the_difference(first: int, second: int, same: int) -> None:
    n = first + second + same
    found, mirrored = paired_interval(first, second, n), paired_interval(second, first, n)
    if n == 0:
        assert found is None
        return
    assert found is not None
    assert mirrored is not None
    low, high = found
    assert -1 <= low <= (first - second) / n <= high <= 1
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]))


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.1), (0.05, 0.05), (0.2, 0.0), (0.5, 0.4)])
def test_the_interval_covers_the_truth_as_often_as_it_says(p: float, q: float) -> None:
    n, covered = 30, 0.0
    for b, c in itertools.product(range(n + 1), repeat=2):
        if b + c > n:
            continue
        ways = math.factorial(n) / (math.factorial(b) * math.factorial(c) * math.factorial(n - b - c))
        found = paired_interval(b, c, n)
        assert found is not None
        if found[0] <= p - q <= found[1]:
            covered += ways * p**b * q**c * (1 - p - q) ** (n - b - c)
    assert covered > 0.94


@given(st.floats(-1e14, 1e14), st.floats(0, 1e14), st.integers(1, 8))
def test_ticks_are_round_few_and_inside(low: float, span: float, about: int) -> None:
    high = low + span
    found = ticks(low, high, about)
    assert len(found) <= 2 * about + 3
    slack = 1e-6 * max(span, abs(low) * 1e-9, 1e-300)
    assert all(low - slack <= value <= high + slack for value in found)
    assert found == sorted(found)


@pytest.mark.parametrize("span", [0.0, 5e-324, 1e-320, 1e-12])
def test_no_span_is_too_small(span: float) -> None:
    assert len(ticks(0.0, span)) >= 1


def test_a_scale_keeps_to_its_ends() -> None:
    scale = Scale(0.5, 1.0, 10, 110)
    assert (scale(0.5), scale(0.75), scale(1.0), scale(-3), scale(9)) == (10, 60, 110, 10, 110)
    assert Scale(2, 2, 0, 10)(2) == 5


def test_elements_escape_text_and_attributes() -> None:
    drawn = tag("text", "<b>&", tag("title", '"x"'), x=1.50004, class_='a" onload="x', text_anchor=None)
    assert drawn == '<text x="1.5" class="a&#34; onload=&#34;x">&lt;b&gt;&amp;<title>&#34;x&#34;</title></text>'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.95, "95.0\xa0%"),
        (None, NOT_KNOWN),
        (float("nan"), NOT_KNOWN),
        ("0.9", NOT_KNOWN),
        (True, NOT_KNOWN),
        (10**400, NOT_KNOWN),
        (-0.00001, "0.0\xa0%"),
        (-0.5, "−50.0\xa0%"),
    ],
)
def test_shares(value: Any, written: str) -> None:
    assert facts.percent(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(1800, "1,800"), (0.01674, "0.017"), (1e-05, "1.0e−05"), (-2, "−2"), (1234.5, "1,234"), (None, NOT_KNOWN)],
)
def test_plain_numbers(value: Any, written: str) -> None:
    assert facts.plain(value).replace("e-", "e−") == written


def test_words() -> None:
    assert facts.points(0.0251) == "+2.5"
    assert facts.points(-0.0251) == "−2.5"
    assert facts.points(0.0001) == "0.0"
    assert [facts.p_value(p) for p in (0.0001, 0.0312, 1.0, 2, None)] == [
        "<\xa00.001",
        "=\xa00.031",
        "=\xa01",
        NOT_KNOWN,
        NOT_KNOWN,
    ]
    assert facts.moment("2026-11-25T03:10:59+01:00") == "2026-11-25 02:10 UTC"
    assert [facts.moment(value) for value in ("yesterday", "0001-01-01T00:00:00+23:59", 3)] == [NOT_KNOWN] * 3
    assert facts.listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert (facts.listed(["a"]), facts.listed([])) == ("a", "")
    assert facts.cut("a long name", 6) == "a l…me"
    assert facts.cut("日本語です", 6) == "日…す"
    assert facts.cut("fits", 4) == "fits"
    assert facts.text({"a": "x" * 1000}, "a", limit=10) == "xxxxx…xxxxx"
    assert facts.text("a\nb\u202e") == "a\\nb\\u202e"


AWKWARD = """a'b"c;type=x\n@file <in $(rm -rf /) `id` \\ é 日本 \u202e \ud800"""


def made(**changes: Any) -> dict[str, str]:
    config = {"backbone": "demo", "method": "coop", "precision": "fp32", "class_names": {AWKWARD: AWKWARD}, **changes}
    report = {
        "reproduce": {"dataset_id": "ab" * 32, "config": config, "old_dataset_ids": ["ef" * 32, "$(id)"]},
        "backbone": {"fingerprint": "cd" * 32},
    }
    found = commands(report, "http://[::1]:8000/x'y")
    assert found is not None
    return found


def test_the_command_says_the_config_exactly_whatever_is_in_it() -> None:
    words = shlex.split(made()["curl"].replace("\\\n", ""))
    assert words[:3] == ["curl", "-F", f"dataset_id={'ab' * 32}"]
    assert words[3] == "--form-string"
    name, _, text = words[4].partition("=")
    assert name == "config"
    assert json.loads(text)["class_names"] == {AWKWARD: AWKWARD}
    assert words[5:] == ["http://[::1]:8000/x'y/tune"]
    assert made()["curl"].isascii()


def test_the_python_lines_are_python_and_say_the_same() -> None:
    tree = ast.parse(made(parent="model_1")["python"])
    values = {
        one.targets[0].id: one.value  # type: ignore[attr-defined]
        for one in tree.body
        if isinstance(one, ast.Assign)
    }
    assert ast.literal_eval(values["config"])["class_names"] == {AWKWARD: AWKWARD}
    calls = [ast.unparse(value) for value in values.values() if isinstance(value, ast.Call)]
    assert calls[0] == "npt_core.load_backbone('demo', precision='fp32')"
    assert "parent=parent, old=old" in calls[-1]
    asserted = [ast.unparse(one.test) for one in tree.body if isinstance(one, ast.Assert)]
    assert asserted == [
        f"backbone.fingerprint == '{'cd' * 32}'",
        f"dataset.id == '{'ab' * 32}'",
        f"[one.id for one in old] == ['{'ef' * 32}']",
    ]
    assert "old" not in made()["python"]


@pytest.mark.parametrize("name", ["x'); import os; os.system('id", "a b", "", 3, None])
def test_a_strange_backbone_is_not_written_into_code(name: Any) -> None:
    lines = made(backbone=name)["python"].splitlines()
    loads = [line for line in lines if line.startswith("backbone = ")]
    assert loads == ["backbone = npt_core.load_backbone('BACKBONE', precision='fp32')"]


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"reproduce": None},
        {"reproduce": {"dataset_id": "$(id)", "config": {"a": 1}}},
        {"reproduce": {"dataset_id": "ab" * 32, "config": {}}},
        {"reproduce": {"dataset_id": "ab" * 32, "config": {"class_names": "x" * 200_000}}},
        {"reproduce": {"dataset_id": "ab" * 32, "config": {"lr": float("nan")}, "commands": {"curl": "rm -rf /"}}},
    ],
)
def test_too_little_makes_no_command_and_a_stranger_s_is_never_used(report: dict[str, Any]) -> None:
    found = commands(report, "http://x")
    assert found is None or "rm -rf" not in found["curl"]
