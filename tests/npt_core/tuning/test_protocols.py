"""Who is tuned on and who is measured on: never the same image."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npt_core.data import Dataset
from npt_core.tuning.config import TuneConfig
from npt_core.tuning.protocols import EvaluationPlan, plan_evaluation
from tests.support.pictures import write_folder


def check_no_image_is_on_both_sides(dataset: Dataset, plan: EvaluationPlan) -> None:
    for fold in plan.folds:
        seen = {dataset.samples[i].sha256 for i in fold.train}
        assert fold.test
        assert not seen & {dataset.samples[i].sha256 for i in fold.test}
        assert {dataset.samples[i].label for i in fold.train} == set(dataset.labels)
    if plan.folds and not plan.refit:
        assert plan.ship == plan.folds[0].train
    tested = [i for fold in plan.folds for i in fold.test]
    assert len(tested) == len(set(tested))
    if plan.folds:
        assert sorted(tested) == sorted(plan.zero_shot_on)


def plan_of(dataset: Dataset, **config: object) -> EvaluationPlan:
    plan = plan_evaluation(dataset, TuneConfig(**config))  # type: ignore[arg-type]
    check_no_image_is_on_both_sides(dataset, plan)
    return plan


def test_a_quarter_of_each_class_is_held_out_and_the_prompt_refitted(dataset: Dataset) -> None:
    plan = plan_of(dataset)
    assert plan.kind == "held-out"
    assert Counter(dataset.samples[i].label for i in plan.folds[0].test) == {"red": 2, "green": 2, "blue": 2}
    assert plan.refit
    assert len(plan.ship) == 24
    assert not plan_of(dataset, refit=False).refit


def test_the_draw_follows_the_sampling_seed_alone(dataset: Dataset) -> None:
    assert plan_of(dataset, seed=1) == plan_of(dataset, seed=2)
    assert plan_of(dataset, sampling_seed=1) != plan_of(dataset, sampling_seed=2)


@pytest.mark.parametrize(("splits", "kind"), [(("test", "val"), "test-split"), (("val",), "val-split")])
def test_own_splits_are_measured_on_and_never_tuned_on(tmp_path: Path, splits: tuple[str, ...], kind: str) -> None:
    for number, split in enumerate(("train", *splits)):
        write_folder(tmp_path, {"red": 4, "blue": 4}, split=split, first_seed=100 * number)
    dataset = Dataset.from_folder(tmp_path)
    plan = plan_of(dataset)
    assert plan.kind == kind
    assert {dataset.samples[i].split for i in plan.zero_shot_on} == {splits[0]}
    assert {dataset.samples[i].split for i in plan.ship} == {"train"}
    assert not plan.refit


def test_images_of_the_test_split_that_were_trained_on_are_not_measured_on(tmp_path: Path) -> None:
    write_folder(tmp_path, {"red": 4, "blue": 4}, split="train")
    write_folder(tmp_path, {"red": 2, "blue": 3}, split="test", first_seed=500)
    shutil.copy(tmp_path / "train/red/000.png", tmp_path / "test/red/copy.png")
    plan = plan_of(Dataset.from_folder(tmp_path))
    assert len(plan.zero_shot_on) == 5
    assert any("1 of the 6 images" in note for note in plan.notes)


def test_a_test_split_that_repeats_the_training_images_measures_nothing(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path, {"red": 4, "blue": 4}, split=split)
    plan = plan_of(Dataset.from_folder(tmp_path))
    assert plan.kind == "none"
    assert "also in the training split" in plan.reason


def test_what_shots_leave_unused_is_measured_on(dataset: Dataset) -> None:
    plan = plan_of(dataset, shots=4)
    assert plan.kind == "unused-images"
    assert len(plan.ship) == 12
    assert len(plan.zero_shot_on) == 12
    assert plan_of(dataset, shots=7).kind == "held-out"  # one image a class is left: too few


def test_very_few_images_are_cross_validated(tmp_path: Path) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, {"red": 3, "blue": 7}))
    plan = plan_of(dataset)
    assert plan.kind == "cross-validation"
    assert len(plan.folds) == 3
    assert plan.refit
    assert len(plan.ship) == 10
    assert len(plan.zero_shot_on) == 10


def test_with_one_image_nothing_is_measured_and_that_is_said(tmp_path: Path) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, {"red": 1, "blue": 7}))
    plan = plan_of(dataset)
    assert plan.kind == "none"
    assert "not enough images to hold out" in plan.reason
    assert len(plan.ship) == 8
    assert plan.folds == ()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    copies=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=6),
    fraction=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    shots=st.none() | st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_copies_never_cross_the_line(
    tmp_path: Path, counts: list[int], copies: list[tuple[int, int]], fraction: float, shots: int | None, seed: int
) -> None:
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    write_folder(root, {f"c{k}": count for k, count in enumerate(counts)}, side=8)
    for number, (k, i) in enumerate(copies):
        source = root / f"c{k}" / f"{i:03d}.png"
        if source.exists():
            shutil.copy(source, source.with_name(f"copy{number}.png"))
    dataset = Dataset.from_folder(root)
    plan_of(dataset, val_fraction=fraction, shots=shots, sampling_seed=seed)
