"""What a manifest that somebody sent may say."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.artefact import MANIFEST_KEYS, MAX_FAULTS, manifest_faults, plain_fault, report_faults
from npt_core.errors import Fault
from tests.support.bundles import GOOD


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    manifest = copy.deepcopy(GOOD)
    change(manifest)
    return manifest


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        where: Any = manifest
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value

    return change


def test_a_good_one_has_no_fault() -> None:
    assert manifest_faults(GOOD) == []


def test_one_from_before_calibration_has_no_fault() -> None:
    def older(manifest: dict[str, Any]) -> None:
        del manifest["calibration"], manifest["assumed_frequencies"]

    assert manifest_faults(changed(older)) == []
    assert manifest_faults(changed(put("calibration", value=None))) == []
    assert manifest_faults(changed(put("assumed_frequencies", value=[0.25, 0.75]))) == []


def test_what_tuning_writes_is_known(tmp_path: Path, backbone: Any, dataset: Any) -> None:
    """A new key of `build_manifest` belongs into the table of `npt_core.artefact`, with a check."""
    from npt_core import TuneConfig, tune

    classifier = tune(dataset, TuneConfig(epochs=1, views=1), backbone=backbone).classifier
    classifier.save(tmp_path / "m")
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert manifest.keys() <= MANIFEST_KEYS
    assert manifest_faults(manifest) == []
    assert report_faults(json.loads((tmp_path / "m" / "report.json").read_text())) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (put("format", value=2), "format"),
        (put("format", value=True), "format"),
        (put("format", value="1"), "format"),
        (lambda m: m.pop("method"), "method"),
        (lambda m: m.pop("classes"), "classes"),
        (lambda m: m.pop("backbone"), "backbone"),
        (lambda m: m.pop("method_config"), "method_config"),
        (put("temperature_of_tomorrow", value=1.5), "temperature_of_tomorrow"),
        (put("method", value="../etc/passwd"), "method"),
        (put("method", value="os.system"), "method"),
        (put("method_config", value=[]), "method_config"),
        (put("classes", value=[]), "classes"),
        (put("classes", value=GOOD["classes"] * 6000), "classes"),
        (put("classes", 0, value=3), "classes[0]"),
        (put("classes", 0, "extra", value=3), "classes[0]"),
        (put("classes", 1, "label", value="red"), "classes[1].label"),
        (put("classes", 0, "label", value=""), "classes[0].label"),
        (put("classes", 0, "label", value="a\0b"), "classes[0].label"),
        (put("classes", 0, "label", value="x" * 256), "classes[0].label"),
        (put("classes", 0, "label", value={}), "classes[0].label"),
        (put("classes", 0, "name", value=" "), "classes[0].name"),
        (put("classes", 0, "name", value="\u202egnp"), "classes[0].name"),
        (put("classes", 0, "phrasings", value=[]), "classes[0].phrasings"),
        (put("classes", 0, "phrasings", value=["red"] * 65), "classes[0].phrasings"),
        (put("classes", 0, "phrasings", value=["x" * 2001]), "classes[0].phrasings"),
        (put("classes", 0, "phrasings", value="red"), "classes[0].phrasings"),
        (put("backbone", value="demo"), "backbone"),
        (put("backbone", value={}), "backbone.name"),
        (put("backbone", "fingerprint", value="A" * 64), "backbone.fingerprint"),
        (put("backbone", "fingerprint", value=None), "backbone.fingerprint"),
        (put("dataset_id", value="../x"), "dataset_id"),
        (put("samples", value={}), "samples"),
        (put("samples", 0, value="red/1.png"), "samples[0]"),
        (put("parent", value=["m"]), "parent"),
        (put("metrics", value=None), "metrics"),
        (put("refitted", value=1), "refitted"),
        (put("inherited", value=[]), "inherited"),
        (put("inherited", value={"datasets": []}), "inherited.samples"),
        (put("inherited", value={"datasets": ["x"], "samples": []}), "inherited.datasets"),
        (put("inherited", value={"datasets": [], "samples": ["a" * 63]}), "inherited.samples"),
        (put("inherited", value={"datasets": [], "samples": [], "code": "x"}), "inherited.code"),
        (put("tuned_share", value=float("nan")), "tuned_share"),
        (put("tuned_share", value=-0.1), "tuned_share"),
        (put("tuned_share", value=True), "tuned_share"),
        (put("calibration", value=1.4), "calibration"),
        (put("calibration", value={"temperature": 1.4}), "calibration"),
        (put("calibration", "more", value=1), "calibration"),
        (put("calibration", "temperature", value=0), "calibration.temperature"),
        (put("calibration", "temperature", value=-1.0), "calibration.temperature"),
        (put("calibration", "temperature", value=float("nan")), "calibration.temperature"),
        (put("calibration", "temperature", value=1e9), "calibration.temperature"),
        (put("calibration", "temperature", value=10**400), "calibration.temperature"),
        (put("calibration", "temperature", value=True), "calibration.temperature"),
        (put("calibration", "temperature", value="1"), "calibration.temperature"),
        (put("calibration", "count", value=0), "calibration.temperature"),
        (put("calibration", "count", value=-1), "calibration.count"),
        (put("calibration", "count", value=40.0), "calibration.count"),
        (put("calibration", "count", value=True), "calibration.count"),
        (put("calibration", "source", value="<script>"), "calibration.source"),
        (put("calibration", "source", value=None), "calibration.source"),
        (put("calibration", "reject_below", value=1.1), "calibration.reject_below"),
        (put("calibration", "reject_below", value=float("nan")), "calibration.reject_below"),
        (put("calibration", "reject_below", value="0.5"), "calibration.reject_below"),
        (put("assumed_frequencies", value={}), "assumed_frequencies"),
        (put("assumed_frequencies", value=[1.0]), "assumed_frequencies"),
        (put("assumed_frequencies", value=[0.0, 1.0]), "assumed_frequencies"),
        (put("assumed_frequencies", value=[0.5, 0.6]), "assumed_frequencies"),
        (put("assumed_frequencies", value=[0.5, float("nan")]), "assumed_frequencies"),
        (put("assumed_frequencies", value=["0.5", "0.5"]), "assumed_frequencies"),
        (put("tuned_share", value="all"), "tuned_share"),
        (put("metrics", value={"x": "\ud800"}), ""),
        (put("metrics", value={"\ud800": 1}), ""),
    ],
)
def test_each_fault_is_found_at_its_place(change: Callable[[dict[str, Any]], Any], path: str) -> None:
    faults = manifest_faults(changed(change))
    assert path in [fault.path for fault in faults]


@pytest.mark.parametrize("value", [None, [], "text", 3, True])
def test_what_is_no_object_is_no_manifest_and_no_report(value: Any) -> None:
    assert manifest_faults(value)[0].path == ""
    assert report_faults(value)[0].path == ""


def test_faults_are_told_at_once_and_not_without_end() -> None:
    manifest = changed(put("classes", value=[3] * 500))
    manifest["dataset_id"] = 3
    faults = manifest_faults(manifest)
    assert len(faults) == MAX_FAULTS
    assert Fault("dataset_id", "is not the hash of a data set") in faults


def test_what_is_nested_too_deep_to_be_shown_is_refused() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert "deep" in (plain_fault(deep) or "")
    assert manifest_faults(changed(put("metrics", value={"x": deep})))[0].message.startswith("is nested")
    assert report_faults({"metrics": {"x": deep}})


def test_a_report_with_more_keys_is_let_through_and_one_of_wrong_types_not() -> None:
    assert report_faults({"metrics": {}, "something_new": [1]}) == []
    assert [fault.path for fault in report_faults({"metrics": [], "history": {}, "selection": 3})] == [
        "metrics",
        "history",
        "selection",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_no_value_breaks_the_check(key: str, value: Any) -> None:
    """Whatever stands there is accepted or told of; and what is accepted can be passed on as JSON."""
    manifest = changed(put(key, value=value))
    if not manifest_faults(manifest):
        json.dumps(manifest, ensure_ascii=False).encode()
