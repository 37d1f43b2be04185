"""What the report says of how sure a classifier is, and what the model keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from npt_core import Classifier, Dataset, TuneConfig, tune
from npt_core.artefact import manifest_faults
from npt_core.calibration import MIN_IMAGES, Certainty, certainty
from npt_core.errors import ConfigError
from npt_core.tuning.calibrating import THRESHOLDS, measure, recommended, reliability, thresholds, to_store
from npt_core.tuning.evaluate import calibration_error, metrics
from tests.support.pictures import write_folder

QUICK: dict[str, Any] = {"epochs": 2, "views": 1, "batch_size": 32, "lr": 0.02}


def answers(right: int, wrong: int, sure: float = 5.0, unsure: float = 1.0) -> tuple[Certainty, Tensor]:
    """Answers among two classes: sure where right, unsure where wrong."""
    logits = torch.zeros(right + wrong, 2, dtype=torch.float64)
    logits[:right, 0], logits[right:, 1] = sure, unsure
    labels = torch.zeros(right + wrong, dtype=torch.int64)
    return certainty(logits, labels), labels


@given(st.integers(0, 1000), st.integers(1, 80))
def test_the_bins_say_what_the_numbers_say(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 4, generator=generator)
    labels = torch.randint(0, 4, (n,), generator=generator)
    logp = torch.log_softmax(logits.double(), dim=1)
    found, known = reliability(certainty(logits, labels), labels), metrics(logits, labels, list("abcd"))
    assert found["ece"] == pytest.approx(calibration_error(logp.exp().numpy(), labels.numpy()))
    assert found["nll"] == pytest.approx(known["nll"])
    assert sum(one["count"] for one in found["bins"]) == n
    assert sum(one["count"] * one["accuracy"] for one in found["bins"]) / n == pytest.approx(known["accuracy"])
    for one in found["bins"]:
        assert one["low"] - 1e-9 <= one["confidence"] <= one["high"] + 1e-9


def test_thresholds_count_what_is_answered_and_what_is_lost() -> None:
    rows = thresholds(*answers(30, 10))
    assert [row["threshold"] for row in rows] == list(THRESHOLDS)
    by = {row["threshold"]: row for row in rows}
    assert by[0.0] == {
        "threshold": 0.0,
        "answered": 40,
        "answered_share": 1.0,
        "accuracy": 0.75,
        "wrong_answered": 10,
        "right_rejected": 0,
    }
    assert (by[0.9]["answered"], by[0.9]["accuracy"], by[0.9]["wrong_answered"]) == (30, 1.0, 0)
    none = thresholds(*answers(5, 0, sure=1.0))[-1]
    assert (none["answered"], none["accuracy"], none["right_rejected"]) == (0, None, 5)


def test_the_lowest_threshold_that_is_surely_good_enough_is_recommended() -> None:
    found = recommended(thresholds(*answers(60, 20)))
    assert found["threshold"] == 0.75  # the wrong ones have 0.73
    assert found["accuracy_low"] >= found["target_accuracy"] == 0.9
    assert found["answered_share"] == 0.75


def test_where_everything_is_right_nothing_need_be_rejected() -> None:
    found = recommended(thresholds(*answers(50, 0)))
    assert found["threshold"] == 0
    assert "nothing need be rejected" in found["reason"]


def test_too_few_images_recommend_nothing_and_say_how_many_it_takes() -> None:
    found = recommended(thresholds(*answers(34, 0)))
    assert found["threshold"] is None
    assert found["reason"].startswith("34 measured images are too few: 35 right answers")
    assert recommended(thresholds(*answers(35, 0)))["threshold"] == 0


def test_a_classifier_that_is_wrong_when_it_is_sure_gets_no_recommendation() -> None:
    found = recommended(thresholds(*answers(30, 30, sure=1.0, unsure=5.0)))
    assert found["threshold"] is None
    assert "at no threshold" in found["reason"]


def measured(n: int = 60, scale: float = 4.0, copies: bool = False) -> tuple[dict[str, Any] | None, str | None]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    groups = [0] * n if copies else list(range(n))
    return measure(scale * logits, logits, labels, groups, "held-out")


def test_the_report_is_plain_json_and_has_every_part() -> None:
    told, warning = measured()
    assert warning is None
    assert told is not None
    assert json.loads(json.dumps(told)) == told
    assert told.keys() == {
        *("temperature", "count", "source", "before", "after", "zero_shot", "thresholds", "recommended")
    }
    assert told["before"].keys() == told["after"].keys() == told["zero_shot"].keys() == {"ece", "nll", "bins"}
    assert told["temperature"] > 2
    assert told["after"]["ece"] < told["before"]["ece"]
    assert told["after"]["nll"] < told["before"]["nll"]


@pytest.mark.parametrize(("n", "copies", "found"), [(MIN_IMAGES - 1, False, MIN_IMAGES - 1), (60, True, 1)])
def test_too_few_different_images_are_not_calibrated_on(n: int, copies: bool, found: int) -> None:
    told, warning = measured(n, copies=copies)
    assert told is None
    assert warning is not None
    assert f"that takes {MIN_IMAGES} different measured images, there are {found}" in warning


def test_a_temperature_at_its_bound_is_warned_about() -> None:
    told, warning = measured(scale=-4.0)
    assert told is not None
    assert told["temperature"] == 100
    assert warning is not None
    assert "no better than chance" in warning


def test_what_is_stored_follows_the_config() -> None:
    told, _ = measured()
    assert told is not None
    assert to_store(told, "held-out", None)[0].reject_below is None
    assert to_store(told, "held-out", 0.4)[0].reject_below == 0.4
    told["recommended"] = {"threshold": 0.55, "reason": "because"}
    assert to_store(told, "held-out", "recommended")[0].reject_below == 0.55
    told["recommended"] = {"threshold": None, "reason": "the moon"}
    kept, warning = to_store(told, "held-out", "recommended")
    assert kept.reject_below is None
    assert warning is not None
    assert "the moon" in warning
    kept, warning = to_store(None, "none", 0.4)
    assert (kept.fitted, kept.temperature, kept.reject_below, warning) == (False, 1.0, 0.4, None)


# --- the whole of a tuning --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A test split with enough pictures to be calibrated on."""
    folder = tmp_path_factory.mktemp("many")
    write_folder(folder, {"red": 6, "green": 4, "blue": 2}, split="train")
    write_folder(folder, {"red": 8, "green": 8, "blue": 8}, split="test", first_seed=100)
    return Dataset.from_folder(folder)


def test_a_tuned_model_is_calibrated_and_says_so_after_it_is_loaded(
    many: Dataset, backbone: Any, tmp_path: Path
) -> None:
    result = tune(many, TuneConfig(**QUICK, reject_below=0.4), backbone=backbone)
    told = result.report.calibration
    assert told is not None
    manifest = result.classifier.manifest
    assert manifest["calibration"] == {
        "temperature": told["temperature"],
        "count": 24,
        "source": "test-split",
        "reject_below": 0.4,
    }
    assert manifest["assumed_frequencies"] is None
    assert manifest_faults(json.loads(json.dumps(manifest))) == []
    result.classifier.save(tmp_path / "m")
    loaded = Classifier.load(tmp_path / "m", backbone)
    features = torch.nn.functional.normalize(torch.randn(5, backbone.d), dim=1)
    scores, before = loaded.predict(features), result.classifier.predict(features)
    assert scores.calibrated
    assert scores.temperature == told["temperature"]
    assert torch.equal(scores.probabilities, before.probabilities)
    assert loaded.report is not None
    assert loaded.report["calibration"] == told


def test_the_temperature_applies_to_the_mixture_that_is_served(many: Dataset, backbone: Any) -> None:
    half = tune(many, TuneConfig(**QUICK, tuned_share=0.5), backbone=backbone)
    told = half.report.calibration
    assert told is not None
    assert half.report.metrics["tuned"]["nll"] == pytest.approx(told["before"]["nll"])
    zero = tune(many, TuneConfig(**QUICK, tuned_share=0.0), backbone=backbone).report.calibration
    assert zero is not None
    assert zero["before"]["nll"] == pytest.approx(zero["zero_shot"]["nll"], rel=1e-4)


def test_few_measured_pictures_are_not_calibrated_on_and_the_job_says_so(dataset: Dataset, backbone: Any) -> None:
    result = tune(dataset, TuneConfig(**QUICK), backbone=backbone)
    assert result.report.calibration is None
    assert result.classifier.manifest["calibration"] is None
    assert any("not calibrated" in warning for warning in result.warnings)
    assert not result.classifier.predict(torch.randn(1, backbone.d)).calibrated


def test_a_linear_probe_assumes_the_shares_of_its_images_and_a_prompt_does_not(many: Dataset, backbone: Any) -> None:
    probe = tune(many, TuneConfig(method="linear_probe", views=1), backbone=backbone).classifier
    by_label = dict(zip(probe.labels, probe.manifest["assumed_frequencies"], strict=True))
    assert by_label == pytest.approx({"red": 6 / 12, "green": 4 / 12, "blue": 2 / 12})
    half = tune(many, TuneConfig(method="linear_probe", views=1, tuned_share=0.5), backbone=backbone).classifier
    roots = {label: share**0.5 for label, share in by_label.items()}
    expected = {label: root / sum(roots.values()) for label, root in roots.items()}
    assert dict(zip(half.labels, half.manifest["assumed_frequencies"], strict=True)) == pytest.approx(expected)
    images = torch.nn.functional.normalize(torch.randn(4, backbone.d), dim=1)
    assert torch.allclose(
        probe.predict(images, priors={"red": 6, "green": 4, "blue": 2}).probabilities,
        probe.predict(images).probabilities,
        atol=1e-5,
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, "high", True])
def test_a_threshold_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="reject_below"):
        TuneConfig.from_dict({"reject_below": value})
