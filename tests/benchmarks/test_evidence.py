"""The measuring itself: who is tuned on, who is measured on, what a difference and its interval are."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.evidence import report, runs, statistics, tables
from benchmarks.evidence.data import LabelledSet, open_set
from benchmarks.evidence.protocols import PROTOCOLS, Draw
from benchmarks.evidence.sets import OPEN, REPORTED
from benchmarks.evidence.tuning import Laboratory, accuracy, few_accuracy
from npt_core.clip import load_backbone
from npt_core.data.sampling import imbalanced_counts, stratified_split
from npt_core.errors import ConfigError
from npt_core.tuning.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]


def some_set(name: str = "some", classes: int = 7, each: int = 40) -> LabelledSet:
    labels = torch.arange(classes).repeat_interleave(each)
    pool, held = stratified_split(labels.tolist(), 0.5, 0)
    return LabelledSet(
        name,
        tuple(f"class {number}" for number in range(classes)),
        labels,
        torch.from_numpy(pool),
        torch.from_numpy(held),
        (),
        lambda i: Image.new("RGB", (8, 8)),
        str,
    )


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("tau", [1.0, 0.06])
def test_nothing_is_measured_on_what_it_is_tuned_on(protocol: str, tau: float) -> None:
    data = some_set()
    task = PROTOCOLS[protocol](data, Draw(16, tau, 3), lambda name: some_set(name))
    tuned_on = set(task.train.rows.tolist())
    assert tuned_on <= set(data.pool.tolist())
    for target in task.targets:
        if target.data.name == data.name:
            assert not tuned_on & set(target.rows.tolist())
        assert all(
            target.data.names[int(target.data.labels[row])] == target.classes[label]
            for row, label in zip(target.rows.tolist(), target.labels.tolist(), strict=True)
        )


def test_base_is_the_first_half_and_novel_classes_are_in_no_training_set() -> None:
    data = some_set()
    task = PROTOCOLS["base-to-novel"](data, Draw(16, 0.06, 3), lambda name: some_set(name))
    base, novel = task.targets
    assert base.classes == task.train.classes == data.names[:4]
    assert novel.classes == data.names[4:]
    counts = torch.bincount(task.train.labels, minlength=4).tolist()
    assert counts == imbalanced_counts(4, 16, 0.06, 3)


def test_the_open_sets_are_no_reported_ones_and_the_sweep_keeps_to_them() -> None:
    assert not set(OPEN) & set(REPORTED)
    assert {run.dataset for run in runs.sweep(runs.SCOPES["sweep"])} == set(OPEN)
    headline = list(runs.headline(runs.SCOPES["headline"]))
    assert {run.dataset for run in headline} == set(REPORTED)
    assert len(headline) == len({run.key for run in headline}) == 4 * 3 * 5 * 4 * 3
    assert not {run.seed for run in headline} & {run.seed for run in runs.sweep(runs.SCOPES["sweep"])}


def test_an_unknown_set_and_a_paper_set_without_its_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set 'digit'"):
        open_set("digit", tmp_path)
    with pytest.raises(ConfigError, match="--root"):
        open_set("oxford_pets", tmp_path)


def test_accuracy_counts_every_class_the_same() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.tensor([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [2, 1, 0]])
    assert accuracy(logits, labels) == pytest.approx(0.5)
    assert few_accuracy(logits, labels, torch.tensor([0, 0, 1, 2, 2])) == 0.0  # class 1 was the rarest


# --- statistics -------------------------------------------------------------------------------------------------------


def line(**given: object) -> dict[str, object]:
    fixed = {"protocol": "base-to-novel", "dataset": "a", "method": "coop", "regularizer": "none", "tau": 1.0}
    more = {"shots": 16.0, "seed": 0.0, "weights": "", "epochs": 0.0, "lr": 0.0, "zero_shot": 0.5, "few": float("nan")}
    return {**fixed, **more, **given}


def test_lines_of_a_run_become_h() -> None:
    lines = [line(target="base", accuracy=0.8, few=0.3), line(target="novel", accuracy=0.4)]
    (run,) = statistics.runs(lines)
    assert run["h"] == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    assert run["zero_h"] == pytest.approx(0.5)
    assert run["few"] == 0.3


def test_differences_are_paired_with_the_same_run_without_a_regulariser() -> None:
    found = [
        {**line(seed=seed, regularizer=kind), "h": value}
        for seed, kind, value in (
            (0.0, "none", 0.5),
            (0.0, "npt", 0.6),
            (1.0, "none", 0.7),
            (1.0, "npt", 0.6),
            (2.0, "npt", 1.0),
        )
    ]
    pairs = statistics.differences(found, lambda one: one["regularizer"] == "npt", "h")
    assert [(name, seed) for name, seed, _ in pairs] == [("a", 0.0), ("a", 1.0)]  # seed 2 has no partner
    assert [value for _, _, value in pairs] == pytest.approx([0.1, -0.1])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_an_interval_holds_its_mean_and_stays_within_the_values(values: list[float]) -> None:
    found = statistics.interval([("a", float(seed), value) for seed, value in enumerate(values)])
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert min(values) - 1e-9 <= found.low
    assert found.high <= max(values) + 1e-9


def test_one_seed_has_no_interval() -> None:
    found = statistics.interval([("a", 0.0, 0.1), ("a", 0.0, 0.2), ("b", 0.0, 0.3), ("b", 1.0, 0.3)])
    assert str(found) == "+0.225"
    assert not found.without_zero


def test_runs_on_one_training_set_are_no_independent_observations() -> None:
    apart = [("a", float(seed), value) for seed, value in enumerate([0.0, 1.0] * 20)]
    together = [("a", float(seed), value) for seed, value in enumerate([0.0, 1.0]) for _ in range(20)]
    assert statistics.interval(together).high - statistics.interval(together).low == pytest.approx(1.0)
    assert statistics.interval(apart).high - statistics.interval(apart).low < 0.5


def test_rank_correlation_knows_order_and_says_nothing_of_constants() -> None:
    rising = np.arange(20.0)
    assert statistics.rho(rising, rising**3) == pytest.approx(1)
    assert statistics.rho(rising, -rising) == pytest.approx(-1)
    assert np.isnan(statistics.rho(rising, np.zeros(20)))
    assert statistics.spearman(rising, rising**3).without_zero


def test_correlation_within_cells_does_not_see_differences_between_methods() -> None:
    rng = np.random.default_rng(0)
    found = []
    for method, level in (("one", 0.0), ("two", 10.0)):  # across methods both rise together, within each they fall
        for value in rng.normal(size=30):
            found.append({"method": method, "tau": 1.0, "duality": level + value, "h": level - value})
    assert tables.within(found, "duality", 1).startswith("**-1.000")
    assert statistics.rho(np.array([o["duality"] for o in found]), np.array([o["h"] for o in found])) > 0


def test_a_report_replaces_what_stands_between_its_marks_and_nothing_else() -> None:
    page = "words\n<!-- sweep -->\nold\n<!-- end -->\nmore\n<!-- geometry -->\nkept\n<!-- end -->\n"
    done = report.fill(page, "sweep", ["new"])
    assert done == page.replace("old", "new")
    assert report.fill(done, "no such mark", ["x"]) == done


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_measures_resumes_and_reports(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "science.py"), "--folder", str(tmp_path), "--jobs", "1"]
    command += [
        "--datasets",
        "digits-look",
        "--methods",
        "coop,maple",
        "--regularizers",
        "none,npt,cpt",
        "--taus",
        "0.06",
    ]
    command += ["--seeds", "1", "--epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run() -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "6 runs, 0 of them done before" in run()
    path = tmp_path / "headline.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    assert {one["target"] for one in lines} == {"base", "novel"}
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))  # as if stopped before the last run
    assert "6 runs, 5 of them done before" in run()
    with path.open(newline="") as file:
        again = list(csv.DictReader(file))
    assert [one["accuracy"] for one in again] == [one["accuracy"] for one in lines]
    found = statistics.runs(statistics.read(path))
    assert len(found) == 6
    assert len(tables.by_tau(found, report.HEADLINE)) == 2 + 2 * len(report.HEADLINE)


@pytest.mark.slow
def test_a_set_of_the_paper_is_measured_with_one_command(tmp_path: Path) -> None:
    root, split = tmp_path / "sets", {"train": [], "val": [], "test": []}
    for label, (name, colour) in enumerate(
        {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 60, 220), "gray": (128,) * 3}.items()
    ):
        for number in range(6):
            path = f"{name}/{name}_{number}.jpg"
            (root / "dtd" / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70, 60), tuple(max(0, c - 3 * number) for c in colour)).save(
                root / "dtd" / "images" / path
            )
            split["train" if number < 3 else "val" if number < 4 else "test"].append([path, label, name])
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    command = [sys.executable, "-m", "benchmarks.science", "--paper", "--root", str(root), "--datasets", "dtd"]
    command += [
        "--folder",
        str(tmp_path / "out"),
        "--methods",
        "coop",
        "--taus",
        "1",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--jobs",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found = statistics.runs(statistics.read(tmp_path / "out" / "headline-paper.csv"))
    assert [one["regularizer"] for one in found] == ["none", "npt", "cpt"]
    assert all(one["images"] == 6 for one in found)  # two base classes of three training pictures each
    without = subprocess.run(
        [*command[:4], *command[6:]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert without.returncode == 1
    assert "--root" in without.stderr


def test_auto_chooses_as_a_tuning_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lab = Laboratory(load_backbone("demo"), tmp_path)
    (line,) = lab.do(runs.Run("few-shot", "digits-look", runs.AUTO, "npt", shots=3, epochs=1))
    assert line["chosen"] in {*RECIPES, "zero_shot"}
    assert 0 < line["share"] <= 1
    assert line["accuracy"] > 0.5
