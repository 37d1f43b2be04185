"""`tuned_share: auto`: chosen on training images alone, told in the report, shipped as a number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npt_core import Classifier, Dataset, Progress, load_backbone, tune
from npt_core.errors import Drained
from npt_core.tuning.control import MemoryCheckpointStore
from npt_core.tuning.protocols import cross_validation, folds_of
from npt_core.tuning.select import SHARE_GRID, Row, choose
from tests.support.pictures import write_folder

QUICK: dict[str, Any] = {"epochs": 2, "views": 1, "batch_size": 8, "tuned_share": "auto"}
DIGITS = Path(__file__).parents[3] / "examples" / "digits.zip"


@pytest.fixture
def many(tmp_path: Path) -> Dataset:
    return Dataset.from_folder(write_folder(tmp_path / "pictures", {"red": 12, "green": 12, "blue": 12}))


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_backbone("demo", device="cpu")


@pytest.fixture
def digits(tmp_path: Path) -> Callable[..., Dataset]:
    """Six of each written digit, which the demo backbone knows; of each, `wrong` lie in the folders of others."""

    def make(wrong: int) -> Dataset:
        root = tmp_path / "digits"
        with ZipFile(DIGITS) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            for digit in range(10):
                for number, name in enumerate([one for one in names if one.startswith(f"{digit}/")][:6]):
                    folder = root / str((digit + 1 + number) % 10 if number < wrong else digit)
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{digit}-{number}.png").write_bytes(archive.read(name))
        return Dataset.from_folder(root)

    return make


def accuracy_by_share(selection: dict[str, Any]) -> dict[float, float]:
    return {one["tuned_share"]: one["accuracy"] for one in selection["table"]}


def test_what_is_learned_from_wrong_labels_gets_less_than_all(digits: Callable[..., Dataset], demo: Any) -> None:
    result = tune(digits(wrong=2), {"method": "linear_probe", "tuned_share": "auto"}, backbone=demo)
    selection = result.report.selection
    assert selection is not None
    accuracy = accuracy_by_share(selection)
    assert accuracy[1.0] < accuracy[0.0] - 0.1  # tuned alone is worse than zero-shot
    assert selection["chosen"]["tuned_share"] < 1
    assert selection["chosen"]["accuracy"] >= accuracy[0.0]
    assert result.classifier.tuned_share == selection["chosen"]["tuned_share"]


def test_zero_shot_under_wrong_names_gets_little(digits: Callable[..., Dataset], demo: Any) -> None:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    names = {str(digit): words[(digit + 1) % 10] for digit in range(10)}
    config = {"method": "linear_probe", "class_names": names, "tuned_share": "auto"}
    selection = tune(digits(wrong=0), config, backbone=demo).report.selection
    assert selection is not None
    assert accuracy_by_share(selection)[0.0] < 0.3
    assert selection["chosen"]["tuned_share"] >= 0.9
    assert selection["chosen"]["accuracy"] > 0.7


@pytest.mark.parametrize("method", ["coop", "vpt"])
def test_the_table_is_in_the_report_and_the_number_in_the_model(
    method: str, many: Dataset, backbone: Any, tmp_path: Path
) -> None:
    result = tune(many, {"method": method, **QUICK}, backbone=backbone)
    selection = result.report.selection
    assert selection is not None
    assert selection["chooses"] == "tuned_share"
    assert [one["tuned_share"] for one in selection["table"]] == list(SHARE_GRID)
    assert {one["recipe"] for one in selection["table"]} == {method}
    assert selection["chosen"] == choose([Row(**one) for one in selection["table"]], selection["images"]).to_dict()
    assert selection["folds"] == 3
    assert selection["images"] == result.report.evaluation["train_count"] == 27
    assert json.loads(json.dumps(result.report.to_dict())) == result.report.to_dict()
    manifest = result.classifier.manifest
    assert manifest["tuned_share"] == selection["chosen"]["tuned_share"]
    assert manifest["chosen_by"] is None  # the method was named
    assert manifest["config"]["tuned_share"] == result.report.config["tuned_share"] == "auto"
    result.classifier.save(tmp_path / "model")
    assert Classifier.load(tmp_path / "model", backbone).tuned_share == manifest["tuned_share"]


def test_the_report_measures_the_mixture_that_is_shipped(digits: Callable[..., Dataset], demo: Any) -> None:
    pictures, config = digits(wrong=2), {"method": "linear_probe", "refit": False}
    result = tune(pictures, {**config, "tuned_share": "auto"}, backbone=demo)
    fixed = tune(pictures, {**config, "tuned_share": result.classifier.tuned_share}, backbone=demo)
    assert result.report.metrics == fixed.report.metrics
    assert result.report.metrics != tune(pictures, config, backbone=demo).report.metrics


def test_the_measured_images_take_no_part(backbone: Any, tmp_path: Path) -> None:
    def selection(*measured: str) -> tuple[dict[str, Any], dict[str, Any]]:
        root = tmp_path / "-".join(measured)
        write_folder(root, {"red": 6, "green": 6, "blue": 6}, split="train")
        write_folder(root / "others", {"red": 5, "green": 5, "blue": 5}, first_seed=500)
        for label, shown in zip(("red", "green", "blue"), measured, strict=True):
            shutil.copytree(root / "others" / shown, root / "test" / label)
        shutil.rmtree(root / "others")
        report = tune(Dataset.from_folder(root), {"method": "linear_probe", **QUICK}, backbone=backbone).report
        assert report.evaluation["kind"] == "test-split"
        assert report.selection is not None
        return {**report.selection, "seconds": None}, report.metrics["tuned"]

    right, wrong = selection("red", "green", "blue"), selection("green", "blue", "red")
    assert right[0] == wrong[0]
    assert right[0]["images"] == 18
    assert right[1]["accuracy"] != wrong[1]["accuracy"]


@pytest.mark.parametrize(
    ("counts", "config", "reason"),
    [
        ({"red": 3, "blue": 3}, {}, "the report itself takes cross-validation"),
        ({"red": 1, "blue": 5}, {}, "the smallest class has 1;"),
        ({"red": 4, "blue": 5}, {"val_fraction": 0.9}, "too few classes have two different images"),
    ],
)
def test_too_few_images_to_choose_by(
    counts: dict[str, int], config: dict[str, Any], reason: str, backbone: Any, tmp_path: Path
) -> None:
    few = Dataset.from_folder(write_folder(tmp_path, counts))
    result = tune(few, {**QUICK, **config}, backbone=backbone)
    plain = tune(few, {**QUICK, **config, "tuned_share": 1}, backbone=backbone)
    (told,) = set(result.warnings) - set(plain.warnings)
    assert "too few images to choose tuned_share by: it is 1" in told
    assert reason in told
    assert result.report.selection is None
    assert result.classifier.tuned_share == result.classifier.manifest["tuned_share"] == 1
    assert result.counters["steps"] == plain.counters["steps"]
    assert result.report.metrics == plain.report.metrics


def test_classes_of_one_image_are_tuned_on_and_not_compared_on(backbone: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, {"red": 4, "green": 4, "blue": 1}, split="train")
    write_folder(tmp_path, {"red": 2, "green": 2, "blue": 2}, split="test", first_seed=500)
    budget = {"method": "auto", "method_config": {"time_budget_s": 1000.0, "candidates": ["linear_probe"]}}
    result = tune(Dataset.from_folder(tmp_path), {**QUICK, **budget}, backbone=backbone)
    assert result.report.selection is not None
    assert result.report.selection["images"] == 8
    assert any(warning.startswith("1 of 3 classes have a single image") for warning in result.warnings)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 7), min_size=1), st.integers(0, 5))
def test_folds_test_every_image_of_a_class_that_has_several_once(counts: dict[str, int], seed: int) -> None:
    labels = [label for label, count in counts.items() for _ in range(count)]
    folds = folds_of(labels, seed)
    several = [label for label, count in counts.items() if count > 1]
    if len(several) < 2 or 2 * len(several) < len(counts):
        assert folds == ()
        return
    tested = sorted(j for fold in folds for j in fold.test)
    assert tested == [j for j, label in enumerate(labels) if label in several]
    for fold in folds:
        assert sorted((*fold.train, *fold.test)) == list(range(len(labels)))
        assert {labels[j] for j in fold.train} == set(counts)


@pytest.mark.parametrize("open_setting", [{"tuned_share": "auto"}, {"method": "auto"}])
def test_pictures_under_two_labels_can_leave_nothing_to_compare_on(
    open_setting: dict[str, Any], backbone: Any, tmp_path: Path
) -> None:
    write_folder(tmp_path, {"blue": 4}, split="train")
    (tmp_path / "train/red").mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(tmp_path / "train/blue" / name, tmp_path / "train/red" / name)
    write_folder(tmp_path, {"red": 2, "blue": 2}, split="test", first_seed=500)
    dataset = Dataset.from_folder(tmp_path)
    train = [i for i, sample in enumerate(dataset.samples) if sample.split == "train"]
    seed = next(seed for seed in range(100) if not cross_validation(dataset, train, seed))
    result = tune(dataset, {**QUICK, "tuned_share": 1, **open_setting, "sampling_seed": seed}, backbone=backbone)
    assert any("too few images to choose" in warning for warning in result.warnings)


def test_auto_chooses_its_own_share_whatever_is_asked(many: Dataset, backbone: Any) -> None:
    budget = {"method": "auto", "method_config": {"time_budget_s": 1000.0, "candidates": ["linear_probe"]}}
    asked = tune(many, {**QUICK, **budget}, backbone=backbone).report
    plain = tune(many, {**QUICK, **budget, "tuned_share": 1}, backbone=backbone).report
    assert asked.selection is not None
    assert plain.selection is not None
    assert asked.selection["chooses"] == "method"
    assert asked.selection["table"] == plain.selection["table"]
    assert asked.metrics == plain.metrics
    assert asked.config["tuned_share"] == asked.selection["chosen"]["tuned_share"]


def test_progress_counts_the_inner_folds_from_the_start(many: Dataset, backbone: Any) -> None:
    seen: list[Progress] = []
    result = tune(many, {**QUICK, "method": "coop"}, backbone=backbone, progress=seen.append)
    inner, outer = 3 * 2 * 3, 2 * 4 + 2 * 5  # epochs times batches of 18 images; of 27, then of all 36
    assert result.counters["steps"] == inner + outer
    assert {one.total_steps for one in seen} == {36 + inner + outer}
    assert seen[-1].step == seen[-1].total_steps
    stages = list(dict.fromkeys(one.stage for one in seen if one.phase == "tuning"))
    assert stages == [*(f"choosing: coop, fold {n} of 3" for n in (1, 2, 3)), "held-out", "all images"]


class StopAt:
    def __init__(self, n: int) -> None:
        self.left = n

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Drained("stop")


@pytest.mark.parametrize("at", [45, 55, 75])
def test_a_drained_choice_resumes_to_the_same_bits(at: int, many: Dataset, backbone: Any) -> None:
    config = {**QUICK, "method": "coop", "lr": 0.5}
    whole = tune(many, config, backbone=backbone)
    store = MemoryCheckpointStore()
    seen: list[Progress] = []
    with pytest.raises(Drained):
        tune(many, config, backbone=backbone, control=StopAt(at), checkpoints=store)
    resumed = tune(many, config, backbone=backbone, checkpoints=store, progress=seen.append)
    assert resumed.report.selection is not None
    assert whole.report.selection is not None
    assert resumed.report.selection["table"] == whole.report.selection["table"]
    assert resumed.report.metrics == whole.report.metrics
    ours, theirs = resumed.classifier.tensors(), whole.classifier.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.counters["steps"] < whole.counters["steps"]
    assert seen[-1].step == seen[-1].total_steps == 36 + whole.counters["steps"]
