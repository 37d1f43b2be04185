"""The page of a comparison: everything on it, and nothing a class name or a path may smuggle in."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core import Dataset, TuneConfig, tune
from npt_core.compare import Contestant, compare
from npt_core.report.comparison import render_comparison
from tests.npt_core.report.test_hostile import EVIL, anything, places, put
from tests.support.pages import Page


@pytest.fixture(scope="module")
def compared(muddled: Dataset, backbone: Any) -> dict[str, Any]:
    """A real comparison, as its JSON file has it."""
    contestants = []
    for method, version in (("coop", 1), ("linear_probe", 2)):
        classifier = tune(muddled, TuneConfig(method=method, epochs=2, views=1), backbone=backbone).classifier
        facts = {"model": method, "title": "colours", "version": version, "method": method, "backbone": "tiny"}
        contestants.append(
            Contestant(f"model_{method}", lambda _, one=classifier: one, "tiny", classifier.manifest, facts)
        )
    return json.loads(json.dumps(compare(muddled, contestants, lambda _: backbone, seen="keep").to_dict()))


def test_everything_is_on_it(compared: dict[str, Any]) -> None:
    page = Page(render_comparison(compared))
    words = "\n".join(page.text())
    assert page.text("h1", "bdi")[0] == "Which model is better"
    assert compared["test"]["words"] in words
    for one in compared["contestants"]:
        assert f"{100 * one['metrics']['accuracy']:.1f}\xa0%" in words
    for name in ("colours v1", "colours v2", "zero-shot"):
        assert name in words
    assert f"{compared['dataset']['images']} images" in words
    assert len(page.images) == len(compared["disagreements"])
    for one in compared["disagreements"]:
        assert one["path"] in words


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_replaced_by_anything_gives_a_page(compared: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(compared)
    ways = [path for path in places(compared) if path]
    for path in data.draw(st.lists(st.sampled_from(ways), min_size=1, max_size=4)):
        put(changed, path, data.draw(anything))
    html = render_comparison(changed)
    html.encode()
    Page(html)


@pytest.mark.parametrize("evil", EVIL)
def test_names_and_paths_stay_text(compared: dict[str, Any], evil: str) -> None:
    changed = copy.deepcopy(compared)
    for one in changed["contestants"]:
        one["title"] = evil
        for entry in one["metrics"]["per_class"]:
            entry["label"] = evil
    for one in changed["disagreements"]:
        one |= {"path": evil, "label": evil, "image": evil}
        one["answers"] = {evil: {"label": evil, "probability": evil}}
    changed["warnings"] = [evil]
    Page(render_comparison(changed))


def test_an_empty_one_says_what_is_not_known() -> None:
    assert "not known" in "\n".join(Page(render_comparison({})).text())
