"""The whole of a tuning on real pictures and a tiny tower."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core import Dataset, FolderFeatureCache, MemoryFeatureCache, Progress, TuneConfig, tune
from npt_core.errors import (
    Cancelled,
    ConfigError,
    DatasetError,
    Drained,
    DuplicatePromptError,
    IncompatibleError,
    PromptLengthError,
)
from npt_core.methods import ImageBatch
from npt_core.methods.parts.visual import VisualMethod
from npt_core.tuning.control import MemoryCheckpointStore
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone

QUICK: dict[str, Any] = {"epochs": 3, "views": 2, "batch_size": 8, "lr": 0.02}


class StopAt:
    def __init__(self, n: int, error: type[Exception]) -> None:
        self.left, self.error = n, error

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error("stop")


class Count:
    looks = 0

    def check(self) -> None:
        self.looks += 1


def test_from_pictures_to_a_report(dataset: Dataset, backbone: Any) -> None:
    result = tune(dataset, TuneConfig(**QUICK), backbone=backbone)
    report = result.report.to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["evaluation"]["kind"] == "held-out"
    assert report["refitted"] is True
    for side in ("zero_shot", "tuned"):
        measured = report["metrics"][side]
        low, high = measured["accuracy_interval"]
        assert low <= measured["accuracy"] <= high
        assert measured["count"] == 6
    assert report["metrics"]["paired"]["both_right"] <= 6
    for when in ("zero_shot", "initial", "tuned"):
        assert report["geometry"][when]["equiangularity_mean"] is not None
        assert report["geometry"][when]["bias_spread"] is not None
    assert [entry["epoch"] for entry in report["geometry"]["epochs"]] == [0, 1, 2, 3]
    assert len(report["history"]) == 3
    assert report["config"]["schedule"]["epochs"] == 3
    assert set(report["seconds"]) >= {"encoding", "tuning", "evaluating"}
    assert result.counters == {"images_encoded": 48, "images_cached": 0, "steps": 3 * 3 + 3 * 3}
    assert result.classifier.report == report


def test_metrics_come_from_a_prompt_that_had_not_seen_the_images(dataset: Dataset, backbone: Any) -> None:
    kept = tune(dataset, TuneConfig(**QUICK, refit=False), backbone=backbone)
    refitted = tune(dataset, TuneConfig(**QUICK, refit=True), backbone=backbone)
    assert kept.report.refitted is False
    assert kept.report.metrics == refitted.report.metrics
    assert not torch.equal(kept.classifier.method.ctx, refitted.classifier.method.ctx)
    measured = set(kept.report.evaluation["samples"])
    assert measured
    assert not measured & {sample["path"] for sample in kept.classifier.manifest["samples"]}
    assert measured <= {sample["path"] for sample in refitted.classifier.manifest["samples"]}
    # and the numbers are what the shipped, unrefitted prompt really scores there
    samples = [s for s in dataset.samples if s.path in measured]
    pixels = torch.stack([backbone.load_pixels(dataset.open_image(s, target=32)) for s in samples])
    scores = kept.classifier.predict(backbone.encode_images(pixels))
    right = [scores.labels[k] == s.label for k, s in zip(scores.probabilities.argmax(1).tolist(), samples, strict=True)]
    assert sum(right) / len(right) == kept.report.metrics["tuned"]["accuracy"]


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_second_tuning_with_other_settings_encodes_nothing(
    dataset: Dataset, backbone: Any, tmp_path: Path, kind: str
) -> None:
    def cache() -> Any:
        return FolderFeatureCache(tmp_path / "cache") if kind == "folder" else shared

    shared = MemoryFeatureCache()
    first = tune(dataset, TuneConfig(**QUICK), backbone=backbone, cache=cache())
    other = {**QUICK, "lr": 0.1, "seed": 7, "sampling_seed": 9, "regularizer": "none", "epochs": 2}
    second = tune(dataset, TuneConfig(**other), backbone=backbone, cache=cache())
    assert first.counters["images_encoded"] == 48
    assert second.counters["images_encoded"] == 0
    assert second.counters["images_cached"] == 48


def test_test_split_is_encoded_once_and_never_tuned_on(backbone: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, {"red": 4, "blue": 4}, split="train")
    write_folder(tmp_path, {"red": 5, "blue": 5}, split="test", first_seed=500)
    result = tune(Dataset.from_folder(tmp_path), TuneConfig(**QUICK), backbone=backbone)
    assert result.report.evaluation["kind"] == "test-split"
    assert result.report.metrics["tuned"]["count"] == 10
    assert result.counters["images_encoded"] == 8 * 2 + 10
    assert {sample["path"].split("/")[0] for sample in result.classifier.manifest["samples"]} == {"train"}


def test_cross_validation_pools_predictions_of_prompts_that_had_not_seen_them(backbone: Any, tmp_path: Path) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, {"red": 3, "blue": 3}))
    result = tune(dataset, TuneConfig(**QUICK), backbone=backbone)
    assert result.report.evaluation["kind"] == "cross-validation"
    assert result.report.metrics["tuned"]["count"] == 6
    assert result.report.refitted is True
    assert result.counters["steps"] == 4 * 3


def test_not_enough_images_is_said_and_zero_shot_is_there_still(backbone: Any, tmp_path: Path) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, {"red": 1, "blue": 4}))
    result = tune(dataset, TuneConfig(**QUICK), backbone=backbone)
    assert result.report.metrics["tuned"] is None
    assert result.report.metrics["paired"] is None
    assert result.report.metrics["zero_shot"]["count"] == 5
    assert any("not enough images" in warning for warning in result.warnings)


def test_bad_images_are_left_out_and_listed(dataset: Dataset, backbone: Any, tmp_path: Path) -> None:
    target = tmp_path / "pictures/green/003.png"
    target.write_bytes(target.read_bytes()[:200])
    result = tune(dataset, TuneConfig(**QUICK), backbone=backbone)
    assert any("green/003.png" in warning for warning in result.warnings)
    assert "green/003.png" not in {sample["path"] for sample in result.classifier.manifest["samples"]}
    assert result.report.dataset["left_out"][0]["path"] == "green/003.png"
    assert result.report.dataset["id"] == dataset.id  # the upload's own, whatever of it could not be read
    assert result.counters["images_encoded"] == 23 * 2


def test_too_many_bad_images_are_an_error(dataset: Dataset, backbone: Any, tmp_path: Path) -> None:
    for label in ("green", "red"):
        for target in (tmp_path / "pictures" / label).iterdir():
            target.write_bytes(target.read_bytes()[:200])
    with pytest.raises(DatasetError):
        tune(dataset, TuneConfig(**QUICK), backbone=backbone)


def test_class_names_and_phrasings_are_used(backbone: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, {"a_1": 4, "b-2": 4, "c3": 4})
    (tmp_path / "classes.json").write_text(json.dumps({"c3": {"name": "gold", "prompts": ["gold", "yellow metal"]}}))
    config = TuneConfig(**QUICK, class_names={"a_1": "first thing"})
    result = tune(Dataset.from_folder(tmp_path), config, backbone=backbone)
    classes = {one["label"]: one for one in result.classifier.manifest["classes"]}
    assert classes["a_1"] == {"label": "a_1", "name": "first thing", "phrasings": ["first thing"]}
    assert classes["b-2"]["name"] == "b-2"
    assert classes["c3"]["phrasings"] == ["gold", "yellow metal"]
    assert result.classifier.labels == ("a_1", "b-2", "c3")


def test_names_that_cannot_be_used_are_refused_before_any_image_is_encoded(dataset: Dataset, backbone: Any) -> None:
    for names, error in (
        ({"purple": "x"}, ConfigError),
        ({"red": "blue"}, DuplicatePromptError),
    ):
        cache = MemoryFeatureCache()
        with pytest.raises(error):
            tune(dataset, TuneConfig(**QUICK, class_names=names), backbone=backbone, cache=cache)
        assert cache.nbytes == 0


def test_words_the_backbone_never_saw_are_warned_about(dataset: Dataset) -> None:
    plain = tiny_backbone("clip")
    known = [i for word in ("red", "green", "a", "photo", "of") for i in plain.tokenizer.encode(word)]
    few = tiny_backbone("clip", trained_token_ids=frozenset(known))
    result = tune(dataset, TuneConfig(**QUICK), backbone=few)
    assert any("'blue' (class 'blue')" in warning for warning in result.warnings)
    assert not any("'red'" in warning for warning in result.warnings)


def test_progress_covers_every_phase_in_one_count(dataset: Dataset, backbone: Any) -> None:
    seen: list[Progress] = []
    tune(dataset, TuneConfig(**QUICK), backbone=backbone, progress=seen.append)
    phases = [one.phase for one in seen]
    assert list(dict.fromkeys(phases)) == ["encoding", "tuning", "evaluating", "saving"]
    steps = [one.step for one in seen]
    assert steps == sorted(steps)
    assert {one.total_steps for one in seen} == {48 + 18}
    assert seen[-1].step == 66
    assert seen[-1].eta_seconds == 0
    assert {one.stage for one in seen if one.phase == "tuning"} == {"held-out", "all images"}
    assert all(one.eta_seconds is not None for one in seen if one.phase == "tuning")


def test_cancel_is_answered_everywhere(dataset: Dataset, backbone: Any) -> None:
    count = Count()
    tune(dataset, TuneConfig(**QUICK), backbone=backbone, control=count)
    assert count.looks > 24 + 18  # every image, every step
    for at in range(1, count.looks, 7):
        stop = StopAt(at, Cancelled)
        with pytest.raises(Cancelled):
            tune(dataset, TuneConfig(**QUICK), backbone=backbone, control=stop)
        assert stop.left == 0  # nothing looked again after the answer


@pytest.mark.parametrize("counts", [{"red": 4, "blue": 4, "green": 5}, {"red": 3, "blue": 2}])
def test_a_drained_tuning_resumes_to_the_same_bits(backbone: Any, tmp_path: Path, counts: dict[str, int]) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, counts))
    cache, count = MemoryFeatureCache(), Count()
    config = TuneConfig(**{**QUICK, "batch_size": 3})
    tune(dataset, config, backbone=backbone, cache=cache)
    expected = tune(dataset, config, backbone=backbone, cache=cache, control=count)
    for at in range(count.looks, 1, -(count.looks // 5)):
        store = MemoryCheckpointStore()
        with pytest.raises(Drained):
            tune(dataset, config, backbone=backbone, cache=cache, control=StopAt(at, Drained), checkpoints=store)
        again = tune(dataset, config, backbone=backbone, cache=cache, checkpoints=store)
        assert torch.equal(again.classifier.method.ctx, expected.classifier.method.ctx)
        assert again.report.metrics == expected.report.metrics
        assert again.report.geometry == expected.report.geometry
        assert again.report.history == expected.report.history
        if store.data is not None:
            assert again.counters["steps"] <= expected.counters["steps"]


def test_a_checkpoint_of_another_config_is_ignored(dataset: Dataset, backbone: Any) -> None:
    store = MemoryCheckpointStore()
    with pytest.raises(Drained):
        tune(dataset, TuneConfig(**QUICK), backbone=backbone, checkpoints=store, control=StopAt(40, Drained))
    assert store.data is not None
    other = TuneConfig(**{**QUICK, "lr": 0.5})
    fresh = tune(dataset, other, backbone=backbone)
    resumed = tune(dataset, other, backbone=backbone, checkpoints=store)
    assert torch.equal(fresh.classifier.method.ctx, resumed.classifier.method.ctx)


def test_a_parent_is_where_it_starts(dataset: Dataset, backbone: Any) -> None:
    parent = tune(dataset, TuneConfig(**QUICK), backbone=backbone).classifier
    config = TuneConfig(**QUICK, parent="model-1")
    child = tune(dataset, config, backbone=backbone, parent=parent)
    assert child.report.geometry["initial"] == pytest.approx(
        {**child.report.geometry["initial"], "duality": parent.report["geometry"]["tuned"]["duality"]}, abs=1e-4
    )
    assert child.classifier.manifest["parent"] == "model-1"
    with pytest.raises(ConfigError, match="was not given"):
        tune(dataset, config, backbone=backbone)
    with pytest.raises(IncompatibleError, match="do not fit"):
        tune(dataset, TuneConfig(**QUICK, parent="m", method_config={"n_ctx": 8}), backbone=backbone, parent=parent)


def test_another_precision_than_asked_for_is_said(dataset: Dataset, backbone: Any) -> None:
    result = tune(dataset, TuneConfig(**QUICK, precision="bf16"), backbone=backbone)
    assert any("loaded in fp32" in warning for warning in result.warnings)


def test_a_plain_mapping_is_a_config(dataset: Dataset, backbone: Any) -> None:
    assert tune(dataset, {**QUICK, "method": "zero_shot"}, backbone=backbone).counters["steps"] == 0
    with pytest.raises(ConfigError, match="no such setting"):
        tune(dataset, {"epoch": 3}, backbone=backbone)


def test_zero_shot_as_a_method_scores_what_zero_shot_scores(dataset: Dataset, backbone: Any) -> None:
    metrics = tune(dataset, {**QUICK, "method": "zero_shot"}, backbone=backbone).report.metrics
    assert metrics["tuned"]["accuracy"] == metrics["zero_shot"]["accuracy"]


def test_a_name_too_long_for_the_hand_written_sentence_alone_is_refused_before_any_image_is_encoded(
    dataset: Dataset, backbone: Any
) -> None:
    cache = MemoryFeatureCache()
    room = backbone.context_length - 2 - 1  # start, end, and the one vector of the context
    config = QUICK | {"method_config": {"n_ctx": 1}, "class_names": {"red": " ".join(["word"] * (room - 1))}}
    with pytest.raises(PromptLengthError, match="'red'"):
        tune(dataset, config, backbone=backbone, cache=cache)
    assert cache.nbytes == 0


def test_settings_of_steps_are_said_to_do_nothing_where_there_are_none(dataset: Dataset, backbone: Any) -> None:
    result = tune(dataset, {"method": "linear_probe", "epochs": 5, "lr": 0.1, "views": 1}, backbone=backbone)
    assert "epochs, lr have no effect: method 'linear_probe' is not tuned in steps." in result.warnings


@pytest.mark.parametrize(("name", "method_config"), [("promptsrc", {}), ("dpt", {"candidates": 1})])
@pytest.mark.parametrize(("epochs", "encoded"), [(2, 48), (1, 24)])
def test_what_a_method_on_pixels_reads_of_the_frozen_tower(
    name: str,
    method_config: dict[str, Any],
    epochs: int,
    encoded: int,
    dataset: Dataset,
    backbone: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every view is encoded once, where there are as many epochs; what comes with a picture is of that very view."""
    own, at_hand = VisualMethod.frozen_features, set()

    def compared(method: VisualMethod, batch: ImageBatch) -> torch.Tensor:
        found = own(method, batch)
        if batch.labels is not None:  # a step
            at_hand.add(batch.features is not None)
        torch.testing.assert_close(found, own(method, replace(batch, features=None)), rtol=0, atol=1e-5)
        return found

    monkeypatch.setattr(VisualMethod, "frozen_features", compared)
    config = {**QUICK, "method": name, "method_config": method_config, "epochs": epochs}
    result = tune(dataset, config, backbone=backbone)
    assert at_hand == {epochs >= QUICK["views"]}
    assert result.counters["images_encoded"] == encoded
