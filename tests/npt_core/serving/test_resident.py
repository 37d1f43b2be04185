"""What is kept of a classifier, what is left in its file, and when that is read."""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from npt_core import Classifier, Dataset, TuneConfig, tune, zero_shot
from npt_core.classifier import LABEL_SETS_KEPT
from npt_core.errors import ArtefactError, ConfigError, FingerprintMismatchError, IncompatibleError
from npt_core.serving.resident import Resident, keep_resident, load_resident
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone

TENSORS = "classifier.safetensors"


@pytest.fixture(scope="module")
def tuned(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Classifier]:
    folder = write_folder(tmp_path_factory.mktemp("p"), {"red": 4, "dark_blue": 4, "green": 4})

    def run(**changes: Any) -> Classifier:
        config = TuneConfig.from_dict({"epochs": 2, "views": 1, "lr": 0.02, **changes})
        return tune(Dataset.from_folder(folder), config, backbone=backbone).classifier

    return run


@pytest.fixture(scope="module")
def coop(tuned: Callable[..., Classifier]) -> Classifier:
    return tuned()


@pytest.fixture
def saved(coop: Classifier, tmp_path: Path) -> Path:
    coop.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def kept(saved: Path, backbone: Any) -> Resident:
    found = load_resident(saved, backbone)
    assert isinstance(found, Resident)
    return found


@pytest.fixture
def seen(backbone: Any) -> torch.Tensor:
    raw = torch.randn(5, backbone.d, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.normalize(raw, dim=1)


def state(manifest: Path, **changes: Any) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def test_its_own_classes_need_no_file(saved: Path, kept: Resident, coop: Classifier, seen: torch.Tensor) -> None:
    for path in saved.iterdir():
        path.unlink()
    assert torch.equal(kept.predict(seen).probabilities, coop.predict(seen).probabilities)
    assert kept.predict(seen, labels=["red", "green"]).labels == ("red", "green")


def test_what_was_learned_is_read_when_new_names_are_asked_for(
    saved: Path, kept: Resident, coop: Classifier, seen: torch.Tensor
) -> None:
    away = (saved / TENSORS).rename(saved / "elsewhere")
    with pytest.raises(ArtefactError, match=TENSORS):
        kept.predict(seen, labels=["red", "a purple cow"])
    away.rename(saved / TENSORS)
    found = kept.predict(seen, labels=["red", "a purple cow"])
    assert torch.equal(found.probabilities, coop.predict(seen, labels=["red", "a purple cow"]).probabilities)
    (saved / TENSORS).unlink()
    assert torch.equal(kept.predict(seen, labels=["red", "a purple cow"]).probabilities, found.probabilities)
    with pytest.raises(ArtefactError, match=TENSORS):
        kept.predict(seen, labels=["red", "a purple dog"])


def test_what_was_learned_is_judged_when_it_is_read(saved: Path, backbone: Any, seen: torch.Tensor) -> None:
    tensors = {name: one.clone() for name, one in safetensors.torch.load_file(saved / TENSORS).items()}
    tensors["learned.ctx"].fill_(float("nan"))
    (saved / TENSORS).write_bytes(safetensors.torch.save(tensors))
    kept = load_resident(saved, backbone)
    assert bool(torch.isfinite(kept.predict(seen).probabilities).all())
    with pytest.raises(ArtefactError, match="ctx holds NaN"):
        kept.predict(seen, labels=["red", "a purple cow"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update(text_features=torch.zeros(2, 16)), "text features of shape"),
        (lambda t: t["text_features"].fill_(float("inf")), "NaN or infinite"),
    ],
)
def test_text_features_that_do_not_fit_are_refused(saved: Path, backbone: Any, change: Any, says: str) -> None:
    tensors = {name: one.clone() for name, one in safetensors.torch.load_file(saved / TENSORS).items()}
    change(tensors)
    (saved / TENSORS).write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(ArtefactError, match=says):
        load_resident(saved, backbone)


@pytest.mark.parametrize("change", [{"method": "unknown"}, {"method_config": {"n_ctx": 0}}, {"tuned_share": 2}])
def test_manifests_that_cannot_be_used_are_refused(saved: Path, backbone: Any, change: dict[str, Any]) -> None:
    state(saved / "manifest.json", **change)
    with pytest.raises(ArtefactError, match="manifest.json"):
        load_resident(saved, backbone)


def test_it_needs_the_very_backbone(saved: Path) -> None:
    with pytest.raises(FingerprintMismatchError):
        load_resident(saved, tiny_backbone("clip", seed=1))


def test_a_file_without_text_features_is_loaded_whole(saved: Path, backbone: Any, seen: torch.Tensor) -> None:
    tensors = dict(safetensors.torch.load_file(saved / TENSORS))
    plain = Classifier.load(saved, backbone).predict(seen)
    del tensors["text_features"]
    (saved / TENSORS).write_bytes(safetensors.torch.save(tensors))
    kept = load_resident(saved, backbone)
    assert isinstance(kept, Classifier)
    assert torch.allclose(kept.predict(seen).probabilities, plain.probabilities, atol=1e-6)


def test_a_classifier_that_is_kept_whole_has_no_story(
    tuned: Callable[..., Classifier], backbone: Any, tmp_path: Path
) -> None:
    tuned(method="cocoop").save(tmp_path / "model")
    kept = load_resident(tmp_path / "model", backbone)
    assert isinstance(kept, Classifier)
    assert (kept.report, kept.memory) == (None, None)
    assert "samples" not in kept.manifest


def test_own_contexts_take_no_new_names(tuned: Callable[..., Classifier], backbone: Any, tmp_path: Path) -> None:
    tuned(method_config={"class_specific": True}).save(tmp_path / "model")
    kept = load_resident(tmp_path / "model", backbone)
    (tmp_path / "model" / TENSORS).unlink()
    images = torch.zeros(1, backbone.d)
    assert kept.predict(images, labels=["red", "green"]).labels == ("red", "green")
    with pytest.raises(IncompatibleError, match="class-specific"):
        kept.predict(images, labels=["red", "cat"])


def test_a_file_that_has_moved_is_found_beside_the_answering(saved: Path, backbone: Any, seen: torch.Tensor) -> None:
    """What finds it may ask a network; `predict`, on the thread of the tower, asks nobody."""
    moved, asked = saved.with_name("moved"), list[str]()

    def again() -> Path:
        asked.append(threading.current_thread().name)
        return moved

    kept = load_resident(saved, backbone, again)
    names = ["a dog", "a cat"]
    before = Classifier.load(saved, backbone).predict(seen, labels=names)
    saved.rename(moved)
    with pytest.raises(ArtefactError):
        kept.predict(seen, labels=names)
    assert asked == []
    kept.look_again()
    assert torch.equal(kept.predict(seen, labels=names).probabilities, before.probabilities)
    assert asked == [threading.current_thread().name]


def test_a_mixed_answer_reads_the_words_once(saved: Path, backbone: Any, seen: torch.Tensor) -> None:
    state(saved / "manifest.json", tuned_share=0.5)
    whole, kept = Classifier.load(saved, backbone), load_resident(saved, backbone)
    assert not kept.is_ready()
    first = kept.predict(seen)
    assert kept.is_ready()
    for path in saved.iterdir():
        path.unlink()
    assert torch.equal(kept.predict(seen).probabilities, first.probabilities)
    assert torch.equal(whole.predict(seen).probabilities, first.probabilities)


def test_it_says_what_runs_no_tower(kept: Resident, seen: torch.Tensor) -> None:
    assert kept.is_ready()
    assert kept.is_ready(["green", "red"])
    assert not kept.is_ready(["green", "cat"])
    kept.predict(seen, labels=["green", "cat"])
    assert kept.is_ready(["green", "cat"])
    assert not kept.is_ready(["cat", "green"])


def test_new_names_are_kept_for_a_while_and_counted(kept: Resident, seen: torch.Tensor, backbone: Any) -> None:
    sizes = [kept.nbytes]
    for number in range(LABEL_SETS_KEPT + 3):
        kept.predict(seen, labels=[f"cat {number}", "dog"])
        sizes.append(kept.nbytes)
    growth = [after - before for before, after in zip(sizes, sizes[1:], strict=False)]
    assert all(grown > 2 * 4 * backbone.d for grown in growth[:LABEL_SETS_KEPT])
    assert all(grown < 100 for grown in growth[LABEL_SETS_KEPT:])  # as many leave as come
    assert not kept.is_ready(["cat 0", "dog"])


def test_images_and_labels_of_the_wrong_kind_are_refused(kept: Resident, backbone: Any) -> None:
    for wrong in (torch.zeros(2, backbone.d + 1), torch.zeros(2, 3, 32, 32), torch.zeros(backbone.d)):
        with pytest.raises(ConfigError, match="features"):
            kept.predict(wrong)
    for labels in (["a"], ["a", "a"], ["a", " "], []):
        with pytest.raises(ConfigError, match="labels"):
            kept.predict(torch.zeros(2, backbone.d), labels=labels)


def test_zero_shot_is_kept_as_its_features(backbone: Any, seen: torch.Tensor) -> None:
    whole = zero_shot(backbone, ["a red thing", "a blue thing"])
    kept = keep_resident(whole, lambda: pytest.fail("nothing is made again for its own labels"))
    assert isinstance(kept, Resident)
    assert torch.equal(kept.predict(seen).probabilities, whole.predict(seen).probabilities)


def test_the_python_memory_of_one_is_what_it_says(saved: Path, backbone: Any, seen: torch.Tensor) -> None:
    """Numbers of tensors live outside of what Python can trace; everything else is traced here."""
    load_resident(saved, backbone).predict(seen)  # whatever is made once
    count = 50
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = [load_resident(saved, backbone) for _ in range(count)]
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    outside = 4 * 3 * backbone.d
    assert each < held[0].nbytes - outside
