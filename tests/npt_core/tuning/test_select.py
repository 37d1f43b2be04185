"""`method: auto` and the mixture with zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npt_core import Classifier, Dataset, TuneConfig, tune
from npt_core.errors import ConfigError, Drained
from npt_core.mixture import mixed
from npt_core.tuning.control import MemoryCheckpointStore
from npt_core.tuning.protocols import Fold
from npt_core.tuning.recipes import RECIPES, AutoConfig
from npt_core.tuning.select import SHARES, Row, Selection, TrialImages, choose, row, select_share
from tests.support.pictures import write_folder

QUICK: dict[str, Any] = {"epochs": 2, "views": 1, "batch_size": 8}


@pytest.fixture
def many(tmp_path: Path) -> Dataset:
    return Dataset.from_folder(write_folder(tmp_path / "pictures", {"red": 12, "green": 12, "blue": 12}))


def auto(**settings: Any) -> TuneConfig:
    return TuneConfig.from_dict({"method": "auto", **QUICK, **settings})


def test_accuracy_gives_every_class_the_same_weight() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    assert row("x", 1.0, logits, torch.tensor([0, 0, 0, 1])).accuracy == pytest.approx(0.5)


def test_near_ties_are_settled_by_the_loss() -> None:
    table = [Row("a", 1.0, 0.90, 0.50), Row("b", 1.0, 0.89, 0.30), Row("c", 1.0, 0.60, 0.10)]
    assert choose(table, 100).recipe == "b"  # c is far worse, b within the noise of a
    assert choose(table, 1_000_000).recipe == "a"


def trial(labels: list[int], zero_shot: torch.Tensor) -> TrialImages:
    half = len(labels) // 2
    first, second = tuple(range(half)), tuple(range(half, len(labels)))
    return TrialImages((Fold(second, first), Fold(first, second)), torch.tensor(labels), zero_shot)


def test_the_share_is_chosen_by_the_same_rule_from_every_tenth() -> None:
    truth = [0, 1, 0, 1, 0, 1, 0, 1]
    right = torch.nn.functional.one_hot(torch.tensor(truth), 2).float()
    unsure, wrong = 2 * right, 20 * (1 - right)
    config = TuneConfig(tuned_share="auto")

    def chosen(tuned: torch.Tensor, zero_shot: torch.Tensor) -> Selection:
        calls = []

        def attempt(config: TuneConfig, name: str, number: int) -> tuple[torch.Tensor, float]:
            calls.append((name, number))
            return tuned[4 * number : 4 * number + 4], 1.5

        found = select_share(config, trial(truth, zero_shot), attempt)
        assert calls == [("coop", 0), ("coop", 1)]
        assert [one["tuned_share"] for one in found.table["table"]] == [n / 10 for n in range(11)]
        assert (found.table["images"], found.table["folds"], found.table["seconds"]) == (8, 2, 3.0)
        assert found.table["chosen"] == found.chosen.to_dict()
        assert found.config is config
        return found

    nothing = chosen(tuned=wrong, zero_shot=unsure)
    assert nothing.chosen.tuned_share == 0
    assert "answers as zero-shot does" in nothing.warnings[0]
    everything = chosen(tuned=unsure, zero_shot=wrong)
    assert everything.chosen.tuned_share == 1
    assert everything.warnings == []
    # both get four images right that the other does not, the halves of a mixture all eight
    one, two = right.clone(), right.clone()
    one[:4], two[4:] = 0.5 * wrong[:4] / 20, 0.5 * wrong[4:] / 20
    assert 0.4 <= chosen(tuned=one, zero_shot=two).chosen.tuned_share <= 0.6


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1), st.integers(1, 10_000))
def test_the_choice_is_never_far_from_the_best(pairs: list[tuple[float, float]], n: int) -> None:
    table = [Row(str(i), 1.0, accuracy, nll) for i, (accuracy, nll) in enumerate(pairs)]
    best = max(one.accuracy for one in table)
    assert best - choose(table, n).accuracy <= 0.25 / n**0.5 + 1e-9


def test_a_mixture_of_one_is_the_tuned_logits_bit_for_bit() -> None:
    tuned, plain = torch.randn(3, 4), torch.randn(3, 4)
    assert mixed(tuned, plain, 1.0) is tuned
    torch.testing.assert_close(mixed(tuned, plain, 0.25), 0.25 * tuned + 0.75 * plain)


def test_the_table_is_in_the_report_and_the_choice_in_the_model(many: Dataset, backbone: Any, tmp_path: Path) -> None:
    result = tune(many, auto(), backbone=backbone)
    selection = result.report.selection
    assert selection is not None
    assert selection["chooses"] == "method"
    assert {one["recipe"] for one in selection["table"]} == {"zero_shot", *RECIPES}
    assert len(selection["table"]) == 1 + len(RECIPES) * len(SHARES)
    assert not selection["left_out"]
    manifest = result.classifier.manifest
    chosen = selection["chosen"]["recipe"]
    assert manifest["method"] == RECIPES.get(chosen, {"method": "zero_shot"})["method"]
    assert manifest["chosen_by"] == "auto"
    assert result.report.metrics["tuned"] is not None
    measured = set(result.report.evaluation["samples"])
    assert selection["images"] == len(many) - len(measured)  # nothing measured on was chosen by
    result.classifier.save(tmp_path / "model")
    again = Classifier.load(tmp_path / "model", backbone)
    features = torch.nn.functional.normalize(torch.randn(4, backbone.d), dim=-1)
    assert torch.equal(again.predict(features).probabilities, result.classifier.predict(features).probabilities)


def test_a_budget_leaves_candidates_out_and_says_so(many: Dataset, backbone: Any) -> None:
    result = tune(many, auto(method_config={"time_budget_s": 1e-6}), backbone=backbone)
    assert result.report.selection is not None
    assert result.report.selection["left_out"] == list(RECIPES)[1:]
    assert any("raise time_budget_s" in warning for warning in result.warnings)


def test_too_few_images_to_choose_by(tmp_path: Path, backbone: Any) -> None:
    few = Dataset.from_folder(write_folder(tmp_path / "few", {"red": 2, "green": 2}))
    result = tune(few, auto(), backbone=backbone)
    assert result.classifier.manifest["method"] == "coop"
    assert result.report.selection is None
    assert any("too few images to choose a method by: coop was used" in warning for warning in result.warnings)


def test_a_resumed_choice_is_the_same(many: Dataset, backbone: Any) -> None:
    class StopAt:
        left = 60

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Drained("stop")

    store = MemoryCheckpointStore()
    with pytest.raises(Drained):
        tune(many, auto(), backbone=backbone, control=StopAt(), checkpoints=store)
    resumed = tune(many, auto(), backbone=backbone, checkpoints=store)
    whole = tune(many, auto(), backbone=backbone)
    assert resumed.report.selection is not None
    assert whole.report.selection is not None
    assert resumed.report.selection["table"] == whole.report.selection["table"]
    ours, theirs = resumed.classifier.tensors(), whole.classifier.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", ["coop", "vpt", "cocoop"])
def test_a_share_mixes_the_answer_with_zero_shot(method: str, many: Dataset, backbone: Any) -> None:
    def scores(share: float, labels: list[str] | None = None) -> Any:
        config = TuneConfig.from_dict({"method": method, "refit": False, "tuned_share": share, "lr": 0.5, **QUICK})
        classifier = tune(many, config, backbone=backbone).classifier
        pixels = torch.randn(5, 3, *backbone.image_size, generator=torch.Generator().manual_seed(3))
        given = pixels if classifier.needs_pixels else backbone.encode_images(pixels)
        return classifier.predict(given, labels=labels).similarities

    plain, tuned, half = scores(0.0), scores(1.0), scores(0.5)
    assert not torch.allclose(plain, tuned, atol=1e-4)
    torch.testing.assert_close(half, (plain + tuned) / 2, rtol=0, atol=1e-5)
    names = ["red", "a purple cow"]  # a new name gets the same share of each
    plain, tuned, half = scores(0.0, names), scores(1.0, names), scores(0.5, names)
    assert not torch.allclose(plain, tuned, atol=1e-4)
    torch.testing.assert_close(half, (plain + tuned) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config", [{"candidates": ["coop", "cop"]}, {"time_budget_s": 0}, {"budget": 3}, {"candidates": "coop"}]
)
def test_bad_settings_are_named(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="candidates|time_budget_s|budget"):
        auto(method_config=config)


def test_only_recipes_that_take_new_names() -> None:
    assert set(AutoConfig(new_classes=True).recipes()) == {"coop", "kgcoop"}
