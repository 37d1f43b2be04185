"""The artefact: what is written, what is refused, what is predicted."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from npt_core import Classifier, Dataset, TuneConfig, tune, zero_shot
from npt_core.classifier import LABEL_SETS_KEPT, read_tensors
from npt_core.errors import ArtefactError, ConfigError, FingerprintMismatchError, IncompatibleError
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone

QUICK: dict[str, Any] = {"epochs": 2, "views": 1, "lr": 0.02}


@pytest.fixture(scope="module")
def tuned(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = write_folder(tmp_path_factory.mktemp("p"), {"red": 4, "dark_blue": 4, "green": 4})
    return tune(Dataset.from_folder(folder), TuneConfig(**QUICK), backbone=backbone).classifier


@pytest.fixture
def saved(tuned: Classifier, tmp_path: Path) -> Path:
    tuned.save(tmp_path / "model")
    return tmp_path / "model"


def features(backbone: Any, count: int = 5) -> torch.Tensor:
    raw = torch.randn(count, backbone.d, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.normalize(raw, dim=1)


def test_the_folder_holds_safetensors_and_json_only(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["classifier.safetensors", "manifest.json", "report.json"]


def test_the_manifest_says_where_it_comes_from(tuned: Classifier, backbone: Any) -> None:
    manifest = tuned.manifest
    assert manifest["backbone"]["fingerprint"] == backbone.fingerprint
    assert manifest["preprocess"] == backbone.preprocess.to_dict()
    assert len(manifest["dataset_id"]) == 64
    assert len(manifest["samples"]) == 12
    assert len(manifest["samples"][0]["sha256"]) == 64
    assert manifest["seeds"] == {"seed": 0, "sampling_seed": 0}
    assert "torch" in manifest["versions"]
    assert manifest["metrics"]["tuned"]["accuracy_interval"]
    assert manifest["geometry"]["tuned"]["duality"] is not None
    assert manifest["config"]["method_config"]["n_ctx"] == 4
    assert [one["name"] for one in manifest["classes"]] == ["dark blue", "green", "red"]
    assert Classifier.read_manifest.__doc__


def test_saved_text_features_are_what_the_prompt_encodes_to(saved: Path, backbone: Any) -> None:
    loaded = Classifier.load(saved, backbone)
    assert loaded.text_features is not None
    with torch.no_grad():
        assert torch.allclose(loaded.method.encode_text(), loaded.text_features, atol=1e-6)


def test_loading_needs_the_very_backbone(saved: Path) -> None:
    with pytest.raises(FingerprintMismatchError, match="fingerprint"):
        Classifier.load(saved, tiny_backbone("clip", seed=1))


def test_saving_twice_into_one_folder_is_refused(tuned: Classifier, saved: Path) -> None:
    with pytest.raises(ArtefactError, match="fresh"):
        tuned.save(saved)


def test_a_save_that_stops_half_way_leaves_no_classifier(
    tuned: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("npt_core.classifier.json.dumps", fail)
        with pytest.raises(OSError, match="disk full"):
            tuned.save(tmp_path / "m")
    with pytest.raises(ArtefactError):
        Classifier.read_manifest(tmp_path / "m")
    tuned.save(tmp_path / "m")  # and the folder can still be used


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def rewrite(saved: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = saved / "classifier.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("learned.ctx"), "ctx is missing"),
        (lambda t: t.update({"learned.ctx": torch.zeros(5, 32)}), "expected torch.float32"),
        (lambda t: t.update({"learned.ctx": t["learned.ctx"].half()}), "float16"),
        (lambda t: t.update({"learned.extra": torch.zeros(1)}), "extra is not a tensor"),
        (lambda t: t["learned.ctx"].fill_(float("nan")), "NaN"),
        (lambda t: t.update({"text_features": torch.zeros(2, 16)}), "text features of shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(saved: Path, backbone: Any, change: Any, says: str) -> None:
    rewrite(saved, change)
    with pytest.raises(ArtefactError, match=says):
        Classifier.load(saved, backbone)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b"{{{{{{{{{",
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        header({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"a": 3}) + b"\0" * 4,
        header({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(5000)}),
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}) + b"\0" * 8,
    ],
    ids=range(12),
)
def test_hostile_tensor_files_are_refused(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "classifier.safetensors"
    path.write_bytes(blob)
    with pytest.raises(ArtefactError, match="classifier.safetensors"):
        read_tensors(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "method": 3}', "[" * 100_000],
    ids=range(7),
)
def test_bad_manifests_are_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(ArtefactError, match="manifest.json"):
        Classifier.read_manifest(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "unknown"},
        {"method_config": {"n_ctx": 0}},
        {"classes": [{"label": "a"}]},
        {"classes": [3]},
    ],
)
def test_manifests_of_other_versions_are_refused(saved: Path, backbone: Any, change: dict[str, Any]) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ArtefactError):
        Classifier.load(saved, backbone)


@pytest.mark.parametrize("share", ["auto", None, True, [0.5], 1.5, -0.1, float("nan")])
def test_a_share_that_is_no_share_is_refused(saved: Path, backbone: Any, share: Any) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "tuned_share": share}))
    with pytest.raises(ArtefactError, match="tuned_share of .* it is a number from 0 to 1"):
        Classifier.load(saved, backbone)


def test_predictions_are_cosines_and_their_softmax(tuned: Classifier, backbone: Any) -> None:
    images = features(backbone)
    found = tuned.predict(images)
    assert found.labels == ("dark_blue", "green", "red")
    assert tuned.text_features is not None
    cosines = images @ tuned.text_features.t()
    assert torch.allclose(found.similarities, cosines, atol=1e-6)
    assert torch.allclose(found.probabilities, torch.softmax(backbone.logit_scale * cosines, dim=1), atol=1e-5)


def with_temperature(classifier: Classifier, temperature: float, **more: Any) -> Classifier:
    stored = {"temperature": temperature, "count": 40, "source": "held-out", "reject_below": None}
    return Classifier(classifier.method, {**classifier.manifest, "calibration": stored, **more})


def test_the_temperature_changes_how_sure_it_is_and_nothing_else(tuned: Classifier, backbone: Any) -> None:
    images = features(backbone)
    plain, soft = tuned.predict(images), with_temperature(tuned, 3.0).predict(images)
    assert (plain.calibrated, plain.temperature) == (False, 1.0)
    assert (soft.calibrated, soft.temperature) == (True, 3.0)
    assert torch.equal(soft.similarities, plain.similarities)
    expected = torch.softmax(plain.probabilities.double().log() / 3, dim=1)
    assert torch.allclose(soft.probabilities.double(), expected, atol=1e-5)
    assert torch.equal(soft.probabilities.argmax(dim=1), plain.probabilities.argmax(dim=1))


def test_scores_over_a_new_name_are_not_calibrated(tuned: Classifier, backbone: Any) -> None:
    classifier, images = with_temperature(tuned, 3.0), features(backbone)
    assert classifier.predict(images, labels=["green", "red"]).calibrated
    new = classifier.predict(images, labels=["green", "purple"])
    assert (new.calibrated, new.temperature) == (False, 3.0)  # how sharp the prompt is does not change with a name
    assert not zero_shot(backbone, ["red", "green"]).predict(images).calibrated


def test_priors_are_bayes_rule_on_calibrated_probabilities(tuned: Classifier, backbone: Any) -> None:
    images = features(backbone)
    shares = {"assumed_frequencies": [0.5, 0.25, 0.25]}
    classifier = with_temperature(tuned, 2.0, **shares)
    plain = classifier.predict(images)
    stated = {"red": 3.0, "green": 1.0, "dark_blue": 0}
    found = classifier.predict(images, priors=stated)
    assert found.priors_applied
    assert not plain.priors_applied
    weights = torch.tensor([0 / 0.5, 1 / 0.25, 3 / 0.25])
    expected = plain.probabilities * weights
    assert torch.allclose(found.probabilities, expected / expected.sum(dim=1, keepdim=True), atol=1e-5)
    assert (found.probabilities[:, 0] == 0).all()


def test_priors_name_the_labels_that_are_asked_for(tuned: Classifier, backbone: Any) -> None:
    images = features(backbone)
    found = tuned.predict(images, labels=["red", "purple"], priors={"purple": 0.9, "red": 0.1})
    assert found.labels == ("red", "purple")
    even = tuned.predict(images, labels=["red", "purple"], priors={"purple": 1, "red": 1})
    plain = tuned.predict(images, labels=["red", "purple"])
    assert torch.allclose(even.probabilities, plain.probabilities, atol=1e-6)
    assert (found.probabilities[:, 1] > plain.probabilities[:, 1]).all()
    with pytest.raises(ConfigError, match="'dark_blue', 'green'"):
        tuned.predict(images, priors={"red": 1.0})
    with pytest.raises(ConfigError, match="name 'purple', which the labels are not"):
        tuned.predict(images, priors={"red": 1, "green": 1, "dark_blue": 1, "purple": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": {"temperature": 0.0, "count": 40, "source": "held-out", "reject_below": None}},
        {"calibration": {"temperature": 2.0, "count": 0, "source": "none", "reject_below": None}},
        {"calibration": [1]},
        {"assumed_frequencies": [0.5, 0.5]},
    ],
)
def test_a_calibration_that_is_none_is_refused(saved: Path, backbone: Any, change: dict[str, Any]) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ArtefactError, match=next(iter(change))):
        Classifier.load(saved, backbone)


def test_a_model_from_before_calibration_loads(saved: Path, backbone: Any) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["calibration"], manifest["assumed_frequencies"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    scores = Classifier.load(saved, backbone).predict(features(backbone))
    assert (scores.calibrated, scores.temperature) == (False, 1.0)


def test_an_empty_batch_has_an_empty_answer(tuned: Classifier, backbone: Any) -> None:
    assert tuned.predict(torch.zeros(0, backbone.d)).probabilities.shape == (0, 3)


def test_images_of_the_wrong_shape_are_refused(tuned: Classifier, backbone: Any) -> None:
    for wrong in (torch.zeros(2, backbone.d + 1), torch.zeros(2, 3, 32, 32), torch.zeros(backbone.d)):
        with pytest.raises(ConfigError, match="features"):
            tuned.predict(wrong)


def test_new_names_are_kept_for_a_while(tuned: Classifier, backbone: Any) -> None:
    images = features(backbone)
    first = tuned.predict(images, labels=["cat", "dog"])
    again = tuned.predict(images, labels=["cat", "dog"])
    assert torch.equal(first.probabilities, again.probabilities)
    swapped = tuned.predict(images, labels=["dog", "cat"])
    assert torch.allclose(first.probabilities, swapped.probabilities.flip(1), atol=1e-5)
    for number in range(LABEL_SETS_KEPT + 3):
        tuned.predict(images, labels=[f"cat {number}", "dog"])
    assert len(tuned._others) == LABEL_SETS_KEPT


def test_a_known_label_keeps_its_words(backbone: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"a1": 4, "b2": 4})
    config = TuneConfig(**QUICK, class_names={"a1": "purple cow"})
    classifier = tune(Dataset.from_folder(folder), config, backbone=backbone).classifier
    own = classifier.predict(features(backbone)).similarities[:, 0]
    mixed = classifier.predict(features(backbone), labels=["tree", "a1"]).similarities[:, 1]
    assert torch.allclose(own, mixed, atol=1e-6)


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], ["a", " "], []])
def test_labels_that_make_no_choice_are_refused(tuned: Classifier, backbone: Any, labels: list[str]) -> None:
    with pytest.raises(ConfigError, match="labels"):
        tuned.predict(features(backbone), labels=labels)
    with pytest.raises(ConfigError, match="labels"):
        zero_shot(backbone, labels)


def test_class_specific_contexts_take_no_new_names(backbone: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"red": 4, "blue": 4})
    config = TuneConfig(**QUICK, method_config={"class_specific": True})
    classifier = tune(Dataset.from_folder(folder), config, backbone=backbone).classifier
    assert classifier.predict(features(backbone), labels=["red", "blue"]).labels == ("red", "blue")
    with pytest.raises(IncompatibleError, match="class-specific"):
        classifier.predict(features(backbone), labels=["red", "cat"])


def test_zero_shot_needs_no_tuning(backbone: Any) -> None:
    classifier = zero_shot(backbone, ["a red thing", "a_blue_thing"])
    found = classifier.predict(features(backbone))
    assert found.labels == ("a red thing", "a_blue_thing")
    expected = backbone.encode_texts(["a photo of a a red thing.", "a photo of a a blue thing."])
    assert classifier.text_features is not None
    assert torch.allclose(classifier.text_features, expected, atol=1e-6)
    other = zero_shot(backbone, ["cat", "dog"], templates=["{}!"])
    assert torch.allclose(other.text_features, backbone.encode_texts(["cat!", "dog!"]), atol=1e-6)


def test_it_knows_its_size(saved: Path, backbone: Any) -> None:
    classifier = Classifier.load(saved, backbone)
    learned, text = 4 * 4 * backbone.d_text, 4 * 3 * backbone.d
    prompts = classifier.method.table._frozen.nbytes
    assert classifier.memory is not None
    least = learned + text + prompts + classifier.memory.nbytes
    assert least <= classifier.nbytes <= least + 32_000
    before = classifier.nbytes
    classifier.predict(features(backbone), labels=["cat", "dog"])
    assert before + 4 * 2 * backbone.d < classifier.nbytes < before + least + 32_000  # the context is counted once
