"""Going on from a model: its classes stay, new ones come, and what that cost is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core.artefact import manifest_faults
from npt_core.classifier import MEMORY, Classifier, zero_shot
from npt_core.continual import nullspace
from npt_core.continual.nullspace import NullSpace
from npt_core.data import Dataset
from npt_core.errors import ArtefactError, ConfigError, Drained, IncompatibleError
from npt_core.report import Report
from npt_core.tensorfile import read_tensors
from npt_core.tuning.config import TuneConfig
from npt_core.tuning.features import load_picture
from npt_core.tuning.tune import TuneResult, tune
from tests.npt_core.tuning.test_tune import MemoryCheckpointStore, StopAt
from tests.support.pictures import write_folder

QUICK = {"epochs": 6, "views": 1, "batch_size": 8, "lr": 0.05}


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nullspace, "PROBES", 6)


@pytest.fixture
def old(tmp_path: Path) -> Dataset:
    return Dataset.from_folder(write_folder(tmp_path / "old", {"red": 12, "green": 12, "blue": 12}))


@pytest.fixture
def fresh(tmp_path: Path) -> Dataset:
    """Two classes that are new."""
    return Dataset.from_folder(write_folder(tmp_path / "new", {"yellow": 8, "brown": 8}, first_seed=9000))


@pytest.fixture
def parent(old: Dataset, backbone: Any) -> Classifier:
    return tune(old, QUICK, backbone=backbone).classifier


def go_on(parent: Classifier, dataset: Dataset, *old: Dataset, backbone: Any, **config: Any) -> TuneResult:
    settings = {**QUICK, "parent": "model_p", **config}
    return tune(dataset, settings, backbone=backbone, parent=parent, old=old)


def account(result: TuneResult) -> dict[str, Any]:
    assert result.report.parent is not None
    return result.report.parent


def accuracy(classifier: Classifier, dataset: Dataset) -> float:
    backbone = classifier.backbone
    pixels = torch.stack([load_picture(backbone, dataset.read(one)) for one in dataset.samples])
    scores = classifier.predict(pixels if classifier.needs_pixels else backbone.encode_images(pixels))
    right = [
        scores.labels[int(i)] == one.label
        for i, one in zip(scores.probabilities.argmax(1), dataset.samples, strict=True)
    ]
    return sum(right) / len(right)


def test_new_classes_come_behind_the_old_ones(
    parent: Classifier, old: Dataset, fresh: Dataset, backbone: Any, tmp_path: Path
) -> None:
    result = go_on(parent, fresh, old, backbone=backbone)
    assert result.classifier.labels == ("blue", "green", "red", "brown", "yellow")
    told = account(result)
    assert told["old_classes"] == ["blue", "green", "red"]
    assert told["new_classes"] == ["brown", "yellow"]
    assert told["protection"]["used"] == "replay"
    assert told["protection"]["replayed"] == 3 * 9
    before, after = (told["old_accuracy"][key] for key in ("before", "after"))
    assert before["count"] == after["count"] == 9
    assert "9 of them" in told["measured"]  # the parent was tuned on all of its images
    assert told["new_accuracy"]["count"] == 4
    assert result.report.metrics["tuned"]["count"] == 4  # old images are not mixed into the numbers of the new data
    assert Report.from_dict(result.report.to_dict()).parent == told
    result.classifier.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved", backbone)
    assert loaded.labels == result.classifier.labels
    assert accuracy(loaded, old) == accuracy(result.classifier, old)
    inherited = loaded.manifest["inherited"]
    assert inherited["datasets"] == [old.id]
    assert set(inherited["samples"]) == {one.sha256 for one in old.samples}


def test_images_that_the_parent_did_not_see_are_measured_on(tmp_path: Path, fresh: Dataset, backbone: Any) -> None:
    root = write_folder(tmp_path / "split", {"red": 6, "green": 6}, split="train")
    old = Dataset.from_folder(write_folder(root, {"red": 4, "green": 4}, split="test", first_seed=500))
    parent = tune(old, QUICK, backbone=backbone).classifier
    result = go_on(parent, fresh, old, backbone=backbone)
    told = account(result)
    assert told["measured"].endswith("and neither did the parent")
    trained = {one["sha256"] for one in result.classifier.manifest["samples"]}
    test = {one.sha256 for one in old.samples if one.split == "test"}
    assert not trained & test
    assert told["old_accuracy"]["before"]["count"] == 6
    # The parent's own answers, among its own classes: as it gives them elsewhere.
    assert told["old_accuracy"]["before"]["accuracy"] <= 1.0


def test_without_old_images_steps_keep_to_what_the_parent_remembers(
    parent: Classifier, fresh: Dataset, backbone: Any
) -> None:
    result = go_on(parent, fresh, backbone=backbone)
    told = account(result)
    assert told["protection"]["used"] == "null-space"
    assert told["protection"]["directions"] > 0
    assert told["old_accuracy"] is None
    assert "not measured" in told["measured"]
    assert any("was not measured" in warning for warning in result.warnings)
    assert result.classifier.labels[:3] == parent.labels
    plain = go_on(parent, fresh, backbone=backbone, keep_old="none")
    moved = [float((one.classifier.method.ctx - parent.method.ctx).norm()) for one in (result, plain)]
    assert 0 < moved[0] < moved[1]


def test_a_model_of_before_remembers_nothing_and_is_tuned_on_with_a_warning(
    parent: Classifier, fresh: Dataset, backbone: Any
) -> None:
    parent.memory = None
    assert account(go_on(parent, fresh, backbone=backbone))["protection"]["used"] == "none"
    with pytest.raises(IncompatibleError, match="remembers no features"):
        go_on(parent, fresh, backbone=backbone, keep_old="null-space")
    with pytest.raises(IncompatibleError, match="none of its images are at hand"):
        go_on(parent, fresh, backbone=backbone, keep_old="replay")


def test_more_images_of_old_classes_are_measured_where_the_parent_did_not_see_them(
    parent: Classifier, old: Dataset, tmp_path: Path, backbone: Any
) -> None:
    more = Dataset.from_folder(write_folder(tmp_path / "more", {"red": 8, "blue": 8}, first_seed=7000))
    result = go_on(parent, more, backbone=backbone)
    assert result.classifier.labels == parent.labels
    told = account(result)
    assert (told["new_classes"], told["new_accuracy"]) == ([], None)
    assert "neither parent nor measured prompt" in told["measured"]
    assert told["old_accuracy"]["after"]["count"] == 4


def test_no_image_that_the_parent_was_tuned_on_is_measured_on(
    parent: Classifier, old: Dataset, tmp_path: Path, backbone: Any
) -> None:
    same = go_on(parent, old, old, backbone=backbone)
    assert same.report.evaluation["kind"] == "none"
    assert "the parent was tuned on 36 of the 36 images" in same.report.evaluation["reason"]
    assert same.report.metrics["tuned"] is None
    grown_root = write_folder(tmp_path / "old", {"red": 12, "green": 12, "blue": 12})
    write_folder(grown_root, {"yellow": 8}, first_seed=9000)
    grown = Dataset.from_folder(grown_root)
    result = go_on(parent, grown, old, backbone=backbone)
    assert set(result.report.evaluation["samples"]) <= {one.path for one in grown.samples if one.label == "yellow"}
    assert result.report.evaluation["test_count"] == 2
    assert any("Not measured: blue, green, red" in warning for warning in result.warnings)


def test_a_grandchild_is_not_measured_on_what_its_grandparent_saw(
    parent: Classifier, old: Dataset, fresh: Dataset, backbone: Any
) -> None:
    child = go_on(parent, fresh, backbone=backbone).classifier
    again = go_on(child, old, backbone=backbone)
    assert again.report.evaluation["kind"] == "none"
    assert set(again.classifier.manifest["inherited"]["datasets"]) == {old.id, fresh.id}


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_a_bound_takes_back_what_cost_too_much(
    parent: Classifier, old: Dataset, fresh: Dataset, backbone: Any, bound: float
) -> None:
    wild = {"keep_old": "none", "epochs": 40, "lr": 1.0}
    told = account(go_on(parent, fresh, old, backbone=backbone, **wild, max_old_loss=bound))
    free = account(go_on(parent, fresh, old, backbone=backbone, **wild))
    assert free["bound"] == {"max_old_loss": None, "kept_by": 0, "share": 1.0, "held": None}
    assert told["bound"]["kept_by"] == 9
    assert free["old_accuracy"]["after"]["accuracy"] < told["old_accuracy"]["before"]["accuracy"] - 0.3
    assert told["bound"]["share"] < 1.0
    assert told["old_accuracy"]["after"]["accuracy"] > free["old_accuracy"]["after"]["accuracy"]


def test_a_bound_that_nothing_holds_is_told(parent: Classifier, fresh: Dataset, backbone: Any) -> None:
    result = go_on(parent, fresh, backbone=backbone, max_old_loss=0.1)
    assert any("has no effect" in warning for warning in result.warnings)
    assert account(result)["bound"]["held"] is None


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("coop", {"class_specific": True}),
        ("tip_adapter", {"alpha": 1.0}),
        ("vpt", {"n_tokens": 2}),
        ("maple", {"prompt_depth": 2}),
        ("dpt", {"n_tokens": 2}),
        ("cocoop", {}),
    ],
)
@pytest.mark.parametrize("keep", ["auto", "null-space"])
def test_every_way_to_learn_goes_on(
    method: str, config: dict[str, Any], keep: str, old: Dataset, fresh: Dataset, backbone: Any
) -> None:
    settings = {"method": method, "method_config": config, "epochs": 2, "refit": False}
    parent = tune(old, QUICK | settings, backbone=backbone).classifier
    if method == "tip_adapter" and keep == "null-space":
        with pytest.raises(IncompatibleError, match="does not move features"):
            go_on(parent, fresh, old, backbone=backbone, epochs=2, refit=False, keep_old=keep)
        return
    result = go_on(parent, fresh, old, backbone=backbone, epochs=2, refit=False, keep_old=keep, lr=1e-6)
    after = result.classifier.method.state_dict()
    for name, value in parent.method.state_dict().items():  # at a rate of nothing, old rows stay, new ones come behind
        kept = after[name] if after[name].shape == value.shape else after[name][: len(value)]
        torch.testing.assert_close(kept, value, atol=1e-3, rtol=1e-3)
    assert manifest_faults(result.classifier.manifest) == []
    told = account(result)
    assert told["old_accuracy"]["after"]["count"] > 0
    assert told["protection"]["used"] == ("none" if method == "tip_adapter" else "replay" if keep == "auto" else keep)


def test_what_does_not_fit_is_refused(parent: Classifier, fresh: Dataset, backbone: Any) -> None:
    with pytest.raises(IncompatibleError, match="kgcoop.*coop"):
        go_on(parent, fresh, backbone=backbone, method="kgcoop")
    config = TuneConfig(parent="p", method_config={"n_ctx": 8})
    with pytest.raises(IncompatibleError, match="n_ctx"):
        tune(fresh, config, backbone=backbone, parent=parent)
    with pytest.raises(ConfigError, match="names no parent"):
        tune(fresh, QUICK, backbone=backbone, parent=parent)
    with pytest.raises(ConfigError, match="the parent calls it 'red'"):
        go_on(parent, fresh, backbone=backbone, class_names={"red": "crimson"})
    with pytest.raises(ConfigError, match="cannot go on from a model"):
        go_on(zero_shot(backbone, ["red", "blue"]), fresh, backbone=backbone)


def test_a_broken_off_tuning_goes_on_to_the_same_bits(
    parent: Classifier, fresh: Dataset, backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"keep_old": "null-space", "epochs": 8, "batch_size": 4, "refit": False}
    straight = go_on(parent, fresh, backbone=backbone, **settings).classifier.method.ctx
    again_at: list[int] = []
    original = NullSpace.look_again

    def noted(self: NullSpace, method: Any, parameters: Any, state: Any, control: Any) -> None:
        again_at.append(int(state["epoch"]))
        original(self, method, parameters, state, control)

    monkeypatch.setattr(NullSpace, "look_again", noted)
    for steps in (40, 60, 61):
        store = MemoryCheckpointStore()
        with pytest.raises(Drained):
            tune(
                fresh,
                QUICK | settings | {"parent": "model_p"},
                backbone=backbone,
                parent=parent,
                checkpoints=store,
                control=StopAt(steps, Drained),
            )
        assert store.data is not None
        again = tune(
            fresh, QUICK | settings | {"parent": "model_p"}, backbone=backbone, parent=parent, checkpoints=store
        )
        assert torch.equal(again.classifier.method.ctx, straight)
    assert any(again_at), "no resume fell behind a later look"


def test_a_checkpoint_of_another_parent_is_not_gone_on_from(
    parent: Classifier, old: Dataset, fresh: Dataset, backbone: Any
) -> None:
    other = tune(old, QUICK | {"seed": 5}, backbone=backbone).classifier
    settings = QUICK | {"parent": "champion", "refit": False}
    store = MemoryCheckpointStore()
    with pytest.raises(Drained):
        tune(fresh, settings, backbone=backbone, parent=other, checkpoints=store, control=StopAt(40, Drained))
    assert store.data is not None
    resumed = tune(fresh, settings, backbone=backbone, parent=parent, checkpoints=store)
    straight = tune(fresh, settings, backbone=backbone, parent=parent)
    assert torch.equal(resumed.classifier.method.ctx, straight.classifier.method.ctx)


def test_unreadable_old_images_are_left_out(old: Dataset, fresh: Dataset, backbone: Any, tmp_path: Path) -> None:
    parent = tune(old, QUICK, backbone=backbone).classifier
    for path in sorted((tmp_path / "old" / "red").glob("*.png")):
        path.write_bytes(path.read_bytes()[:-60])
    result = go_on(parent, fresh, old, backbone=backbone)
    assert result.classifier.labels[:3] == parent.labels
    assert account(result)["old_accuracy"]["after"]["count"] == 6


def test_the_memory_is_part_of_the_artefact(parent: Classifier, backbone: Any, tmp_path: Path) -> None:
    import safetensors.torch

    parent.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved", backbone)
    assert parent.memory is not None
    assert loaded.memory is not None
    assert torch.equal(loaded.memory, parent.memory)
    path = tmp_path / "saved" / "classifier.safetensors"
    tensors = read_tensors(path)
    path.write_bytes(safetensors.torch.save(tensors | {MEMORY: torch.zeros(3, 3)}))
    with pytest.raises(ArtefactError, match="memory"):
        Classifier.load(tmp_path / "saved", backbone)
    del tensors[MEMORY]
    path.write_bytes(safetensors.torch.save(tensors))
    assert Classifier.load(tmp_path / "saved", backbone).memory is None
