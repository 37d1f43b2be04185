"""Reports of strangers: whatever they hold, the page stands, and nothing of theirs becomes markup."""

from __future__ import annotations

import base64
import copy
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.artefact import report_faults
from npt_core.report import Subject, render_report
from npt_core.report.blocks import MAX_IMAGE_CHARS, image_uri
from npt_core.report.facts import finite
from tests.support.pages import Page

EVIL = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title></svg><img src=x onerror=alert(1)>",
    '"><a href="https://evil.example/">click</a>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "data:text/html;base64,PHNjcmlwdD4=",
    "\u202egnp.exe",
    "\0\x1b[31m\ud800",
    "\N{FAMILY}" * 400,
    "&lt;b&gt;",
    "]]><!-- -->",
    "",
]
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 30).decode()

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308, 0.5, 1.0, 3]),
    st.sampled_from(EVIL),
    st.text(max_size=30),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from([*EVIL, "label", "count"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a report, lists by their first entries."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value[:1]):
            yield from places(part, (*path, number))


def put(report: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        try:
            report = report[key]
        except (KeyError, IndexError, TypeError):
            return  # an earlier change took this place away
    with suppress(KeyError, IndexError, TypeError):
        report[path[-1]] = value


def rendered(report: Any, subject: Subject | None = None) -> Page:
    html = render_report(report, subject)
    html.encode()  # no half of a surrogate pair
    assert len(html) < 2_000_000
    return Page(html)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_replaced_by_anything_gives_a_page(full: dict[str, Any], data: st.DataObject) -> None:
    report = copy.deepcopy(full)
    ways = [way for way in places(full) if way]
    for way in data.draw(st.lists(st.sampled_from(ways), min_size=1, max_size=12)):
        put(report, way, data.draw(anything))
    rendered(report, Subject("model_1", data.draw(st.text(max_size=40)) or None, 2, data.draw(st.just(report))))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["metrics", "history", "config", "audit", "examples", "dataset"]), anything))
def test_reports_of_nothing_but_nonsense_give_one_too(report: dict[str, Any]) -> None:
    rendered(report)


@pytest.mark.parametrize("evil", EVIL)
def test_names_and_words_stay_words(full: dict[str, Any], evil: str) -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, str):
            return value if value.startswith("data:image/") else evil
        if isinstance(value, list):
            return [poisoned(one) for one in value]
        return {key: poisoned(part) for key, part in value.items()} if isinstance(value, dict) else value

    report = poisoned(full)
    page = rendered(report, Subject(evil, evil, 1, report))
    words = "".join(page.text())
    assert "evil.example" not in " ".join(page.links)
    if evil.isascii() and evil.isprintable() and evil and len(evil) < 60:
        assert evil in words  # as text, exactly
    assert "49" not in page.text("h1", "bdi")
    assert not set(words) & set("\0\x1b\u202e")


def test_every_key_of_a_report_may_be_missing(full: dict[str, Any]) -> None:
    assert report_faults(full) == []
    for way in [way for way in places(full) if way and isinstance(way[-1], str)]:
        report = copy.deepcopy(full)
        inner = report
        for key in way[:-1]:
            inner = inner[key]
        del inner[way[-1]]
        rendered(report)
    words = rendered({}).text()
    assert "not known" in "".join(words)


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:text/html;base64,PGI+",
        "data:image/png,abc",
        "data:image/png;charset=utf-8;base64,iVBORw0KGgo=",
        "data:image/png;base64,PHNjcmlwdD4=",  # not a PNG
        "data:image/webp;base64,iVBORw0KGgo=",  # a PNG
        "data:image/png;base64,iVBORw0KGgo",  # cut off
        "data:image/png;base64,iVBORw0KGgo=\n",
        'data:image/png;base64,iVBORw0KGgo=" onerror="x',
        "DATA:image/png;base64,iVBORw0KGgo=",
        "https://evil.example/x.png",
        "data:image/png;base64," + "iVBORw0KGgo" + "A" * MAX_IMAGE_CHARS,
        3,
        None,
        ["data:image/png;base64,iVBORw0KGgo="],
    ],
)
def test_only_small_pictures_are_shown(full: dict[str, Any], uri: Any) -> None:
    assert image_uri(uri) is None
    report = copy.deepcopy(full)
    report["examples"] = {"wrong": [report["examples"]["wrong"][0] | {"image": uri}]}
    page = rendered(report)
    assert page.images == []
    assert "no picture" in page.text("span")


def test_pictures_have_a_limit_together(full: dict[str, Any]) -> None:
    assert image_uri(PIXEL) == PIXEL
    large = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 40_000).decode()
    report = copy.deepcopy(full)
    one = report["examples"]["wrong"][0] | {"image": large}
    report["examples"] = {"wrong": [one] * 5000, "fixed": [one] * 5000, "broken": [one] * 5000}
    page = rendered(report)
    assert 0 < len(page.images) < 20


def test_endless_lists_are_cut(full: dict[str, Any]) -> None:
    report = copy.deepcopy(full)
    report["warnings"] = ["w" * 100_000] * 5_000
    report["history"] = report["history"] * 20_000
    report["geometry"]["epochs"] = report["geometry"]["epochs"] * 5_000
    for side in ("zero_shot", "tuned"):
        report["metrics"][side]["per_class"] = report["metrics"][side]["per_class"] * 3_000
        report["metrics"][side]["most_confused"] = report["metrics"][side]["most_confused"] * 3_000
    report["audit"]["findings"] = report["audit"]["findings"] * 3_000
    report["dataset"]["left_out"] = [{"path": "p" * 5000, "message": "m" * 5000}] * 5_000
    report["config"]["class_names"] = {f"class {n}": "x" * 50 for n in range(20_000)}
    report["selection"]["table"] = report["selection"]["table"] * 3_000
    report["calibration"]["thresholds"] = report["calibration"]["thresholds"] * 3_000
    rendered(report)


def test_numbers_that_json_cannot_write_become_null() -> None:
    data = json.loads('{"a": NaN, "b": [1e999, -Infinity, 1.5], "c": {"d": "NaN", "e": 3, "f": true}}')
    assert math.isnan(data["a"])
    assert finite(data) == {"a": None, "b": [None, None, 1.5], "c": {"d": "NaN", "e": 3, "f": True}}
