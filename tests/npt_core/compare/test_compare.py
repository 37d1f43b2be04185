"""Comparing on real images with a real (tiny) backbone: the answers of `predict`, on images nobody was tuned on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core.classifier import Classifier, zero_shot
from npt_core.compare import Comparison, Contestant, compare
from npt_core.data import Dataset
from npt_core.errors import Cancelled, DatasetError, IncompatibleError
from npt_core.tuning.features import MemoryFeatureCache, load_picture
from npt_core.tuning.tune import tune
from tests.support.pictures import write_folder

CLASSES = ("red", "green", "blue")


def made(dataset: Dataset, backbone: Any, **config: Any) -> Classifier:
    return tune(dataset, {"epochs": 2, "views": 1, "batch_size": 8} | config, backbone=backbone).classifier


def entry(name: str, classifier: Classifier) -> Contestant:
    return Contestant(name, lambda _: classifier, "tiny", classifier.manifest, {"title": f"the {name}"})


@pytest.fixture(scope="module")
def tuning_set(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.from_folder(write_folder(tmp_path_factory.mktemp("tuning"), dict.fromkeys(CLASSES, 6)))


@pytest.fixture(scope="module")
def coop(tuning_set: Dataset, backbone: Any) -> Classifier:
    return made(tuning_set, backbone)


@pytest.fixture(scope="module")
def probe(tuning_set: Dataset, backbone: Any) -> Classifier:
    return made(tuning_set, backbone, method="linear_probe")


@pytest.fixture
def fresh(tmp_path: Path) -> Dataset:
    """Images that nobody was tuned on."""
    return Dataset.from_folder(write_folder(tmp_path / "fresh", dict.fromkeys(CLASSES, 9), first_seed=500))


def asked(dataset: Dataset, backbone: Any, *contestants: tuple[str, Classifier], **options: Any) -> Comparison:
    return compare(dataset, [entry(*one) for one in contestants], lambda _: backbone, **options)


def expected(classifier: Classifier, dataset: Dataset, labels: Sequence[str] | None = None) -> float:
    """Accuracy by the plain way: one image after the other, through `predict`."""
    backbone = classifier.backbone
    hits = 0
    for sample in dataset.samples:
        pixels = load_picture(backbone, dataset.read(sample))[None]
        with torch.no_grad():
            encoded = backbone.image.encode_tokens(pixels) if classifier.needs_tokens else None
        images = pixels if classifier.needs_pixels else backbone.encode_images(pixels)
        scores = classifier.predict(images, labels=labels, tokens=encoded.tokens if encoded is not None else None)
        hits += scores.labels[int(scores.probabilities.argmax())] == sample.label
    return hits / len(dataset.samples)


def test_everybody_answers_as_when_serving_and_zero_shot_takes_part(
    fresh: Dataset, backbone: Any, coop: Classifier, probe: Classifier
) -> None:
    found = asked(fresh, backbone, ("coop", coop), ("probe", probe))
    accuracy = {one["name"]: one["metrics"]["accuracy"] for one in found.contestants}
    plain = zero_shot(backbone, coop.method.classes)
    assert accuracy == {
        "coop": pytest.approx(expected(coop, fresh)),
        "probe": pytest.approx(expected(probe, fresh)),
        "zero-shot": pytest.approx(expected(plain, fresh)),
    }
    assert [one["metrics"]["accuracy"] for one in found.contestants] == sorted(accuracy.values(), reverse=True)
    assert found.best == [one["name"] for one in found.contestants[:2]]
    assert {one.get("title") for one in found.contestants} == {"the coop", "the probe", None}
    assert found.dataset["images"] == 27
    assert Comparison.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("method", ["apt", "vpt", "cocoop", "tip_adapter"])
def test_methods_that_want_tokens_or_pixels_or_text_for_each_image(
    fresh: Dataset, tuning_set: Dataset, backbone: Any, method: str
) -> None:
    classifier = made(tuning_set, backbone, method=method)
    found = asked(fresh, backbone, (method, classifier))
    accuracy = {one["name"]: one["metrics"]["accuracy"] for one in found.contestants}
    assert accuracy[method] == pytest.approx(expected(classifier, fresh))


def test_copies_of_an_image_are_one_trial(fresh: Dataset, backbone: Any, probe: Classifier, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "copied", dict.fromkeys(CLASSES, 9), first_seed=500)
    for number in range(20):
        shutil.copy(folder / "red" / "000.png", folder / "red" / f"copy{number}.png")
    once, often = (asked(one, backbone, ("probe", probe)) for one in (fresh, Dataset.from_folder(folder)))
    assert often.dataset["images"] == once.dataset["images"] == 27
    assert often.pairs == once.pairs
    assert any(warning.startswith("20 files were left out") for warning in often.warnings)


def test_images_that_were_tuned_on_are_left_out_unless_they_are_wanted(
    tmp_path: Path, tuning_set: Dataset, backbone: Any, coop: Classifier
) -> None:
    write_folder(tmp_path / "mixed", dict.fromkeys(CLASSES, 6), split="train")  # the very files of the tuning
    write_folder(tmp_path / "mixed", dict.fromkeys(CLASSES, 3), split="val", first_seed=5900)
    mixed = Dataset.from_folder(tmp_path / "mixed")
    known = {one["sha256"] for one in coop.manifest["samples"]}
    used = sum(sample.sha256 in known for sample in mixed.samples)
    assert used == 18
    found = asked(mixed, backbone, ("coop", coop))
    assert (found.dataset["images"], found.dataset["tuned_on"]) == (9, 18)
    assert any("18 images were left out" in text for text in found.warnings)
    kept = asked(mixed, backbone, ("coop", coop), seen="keep")
    assert kept.dataset["images"] == 27
    assert any("looks better here" in text for text in kept.warnings)
    with pytest.raises(DatasetError, match="All 18 images were used to tune"):
        asked(tuning_set, backbone, ("coop", coop))


def test_the_test_split_is_judged_on_where_there_is_one(tmp_path: Path, backbone: Any, coop: Classifier) -> None:
    write_folder(tmp_path / "split", dict.fromkeys(CLASSES, 2), split="train", first_seed=100)
    write_folder(tmp_path / "split", dict.fromkeys(CLASSES, 4), split="test", first_seed=200)
    dataset = Dataset.from_folder(tmp_path / "split")
    assert asked(dataset, backbone, ("coop", coop)).dataset["images"] == 12
    assert asked(dataset, backbone, ("coop", coop), split="train").dataset["images"] == 6
    with pytest.raises(DatasetError, match="no split 'val'; its splits: test, train"):
        asked(dataset, backbone, ("coop", coop), split="val")


def test_a_class_that_a_model_does_not_have_is_always_wrong_and_said(
    tmp_path: Path, backbone: Any, coop: Classifier, probe: Classifier
) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path / "more", {"red": 4, "blue": 4, "yellow": 4}, first_seed=300))
    found = asked(dataset, backbone, ("coop", coop))
    told = {one["name"]: one for one in found.contestants}
    assert told["coop"]["unknown_classes"] == ["yellow"]
    assert told["zero-shot"]["unknown_classes"] == []
    assert told["zero-shot"]["classes"] == 4  # those of the model and the new one
    recall = {entry["label"]: entry["recall"] for entry in told["coop"]["metrics"]["per_class"]}
    assert recall["yellow"] == 0
    assert told["coop"]["metrics"]["nll"] is None
    assert any("coop has no class 'yellow'" in text for text in found.warnings)
    among = asked(dataset, backbone, ("coop", coop), among="dataset")
    told = {one["name"]: one for one in among.contestants}
    assert told["coop"]["unknown_classes"] == []
    assert told["coop"]["metrics"]["accuracy"] == pytest.approx(expected(coop, dataset, dataset.labels))
    with pytest.raises(IncompatibleError, match="The model probe cannot choose among"):
        asked(dataset, backbone, ("probe", probe), among="dataset")


def test_what_cannot_be_read_is_left_out_for_all(
    tmp_path: Path, backbone: Any, coop: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "broken", dict.fromkeys(CLASSES, 4), first_seed=700)
    dataset = Dataset.from_folder(folder)
    victim = dataset.samples[5]
    data = (folder / victim.path).read_bytes()
    (folder / victim.path).write_bytes(data[: len(data) // 2])
    found = asked(Dataset.from_folder(folder), backbone, ("coop", coop))
    assert found.dataset["images"] == 11
    assert [fault["path"] for fault in found.dataset["unreadable"]] == [victim.path]


def test_it_stops_when_told_and_shows_how_far_it_is(fresh: Dataset, backbone: Any, coop: Classifier) -> None:
    steps: list[tuple[int, int]] = []
    asked(fresh, backbone, ("coop", coop), progress=lambda told: steps.append((told.step, told.total_steps)))
    assert steps[-1] == (54, 54)  # each image is encoded and asked about

    class Stop:
        def check(self) -> None:
            raise Cancelled("The job was cancelled.")

    with pytest.raises(Cancelled):
        asked(fresh, backbone, ("coop", coop), control=Stop())


def test_each_way_to_fit_images_has_its_own_zero_shot(
    fresh: Dataset, tuning_set: Dataset, backbone: Any, coop: Classifier
) -> None:
    padded = made(tuning_set, backbone, resize="pad")
    cache = MemoryFeatureCache()
    found = asked(fresh, backbone, ("coop", coop), ("padded", padded), cache=cache)
    names = sorted(one["name"] for one in found.contestants)
    assert names == ["coop", "padded", "zero-shot (tiny)", "zero-shot (tiny, pad)"]
    accuracy = {one["name"]: one["metrics"]["accuracy"] for one in found.contestants}
    assert accuracy["padded"] == pytest.approx(expected(padded, fresh))


def test_a_model_that_was_calibrated_on_the_data_set_is_said_to_look_better(tmp_path: Path, backbone: Any) -> None:
    for split, first in (("train", 100), ("test", 200)):
        write_folder(tmp_path / "both", dict.fromkeys(CLASSES, 10), split=split, first_seed=first)
    dataset = Dataset.from_folder(tmp_path / "both")
    classifier = made(dataset, backbone, refit=False)
    assert classifier.manifest["calibration"]
    found = asked(dataset, backbone, ("coop", classifier))
    assert found.dataset["images"] == 30
    assert any("calibrated on images of this data set" in text for text in found.warnings)
    write_folder(tmp_path / "fresh", dict.fromkeys(CLASSES, 4), first_seed=600)
    elsewhere = asked(Dataset.from_folder(tmp_path / "fresh"), backbone, ("coop", classifier))
    assert not any("calibrated" in text for text in elsewhere.warnings)
